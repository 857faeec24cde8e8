# SPDX-License-Identifier: Apache-2.0
"""Pages that drover places into the destination's memory itself: all of it byte for byte."""
import pytest

from conftest import binary, need_accel, slow_with_old
from harness import qemu
from harness.handover import Hosts, migrate_exactly
from harness.qemu import MIB, Guest, Machine
from harness.relay import Relay
from harness.scene import Scene, one_sentence

# Every page has content of its own; those written meanwhile change in a few bytes, or as a whole.
SPARSE = "hz=1000 rate=20 beat=20 body=random"
REWRITE = "hz=1000 rate=3 beat=20"
WRITERS = {
    "idle": Guest(mode="idle", pages=4096, params="hz=100 beat=2 body=random"),
    "sparse": Guest(mode="sparse", pages=4096, params=SPARSE),
    "rewrite": Guest(mode="rewrite", pages=2048, params=REWRITE),
    "sparse-kvm": Guest(accel="kvm", mode="sparse", pages=4096, params=SPARSE),
    "rewrite-kvm": Guest(accel="kvm", mode="rewrite", pages=2048, params=REWRITE),
    "ring-kvm": Guest(accel="kvm", mode="sparse", dirty_ring=4096, pages=1024, params=SPARSE),
}


def direct(workdir, pki, guest, source_qemu, dest_qemu, *options, dest_guest=None, during=None):
    with Machine(source_qemu, guest, name="src") as source, \
            Machine(dest_qemu, dest_guest or guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, "--mode", "direct", *options, during=during)
    assert report["mode"] == "direct" and "relay_reason" not in report
    left = {block["block"]: block["why"] for block in report["left_to_qemu"]}
    assert left["pc.bios"] and "pc.ram" not in left
    assert report["verify"]["stream"] == "match"
    return report


@slow_with_old
@pytest.mark.parametrize("guest", WRITERS.values(), ids=WRITERS.keys())
def test_writers(workdir, pki, guest, any_qemu):
    need_accel(guest.accel)
    # Slow enough for some rounds; not with the ring, of which KVM itself loses hot pages then
    # (tests/README.md).
    slow = () if guest.dirty_ring else ("--bandwidth", 24 * MIB)
    report = direct(workdir, pki, guest, any_qemu, any_qemu, *slow)
    pages = report["ram"]["pages"]
    if guest.mode != "idle":
        assert pages["delta"] > 0
    # QEMU's word of a round comes on another way than its pages: of short ones little can be said.
    if slow and guest.mode != "idle":
        check_rounds(report)
    # What is remembered of the pages: at most 2 % of the guest's memory, and the index.
    assert 0 < report["ram"]["state_bytes"] < guest.memory * MIB * 0.02 + 17 * MIB


def check_rounds(report):
    rounds, hot = report["rounds_detail"], report["hot_regions"]
    assert rounds[0]["pass"] == 1 and rounds[-1]["last_pass"] == report["rounds"]
    for earlier, later in zip(rounds, rounds[1:]):
        assert later["pass"] == earlier["last_pass"] + 1
    # The first brings the whole memory, the others what was written to; in 2 MiB regions.
    assert rounds[0]["pages"] * 4096 == rounds[0]["bytes"]
    assert rounds[0]["pages"] > max(r["pages"] for r in rounds[1:]) > 0
    assert 0 < report["working_set"] < rounds[0]["bytes"]
    assert 1 <= len(hot) <= 8 and hot[0]["block"] == "pc.ram"
    assert all(0 < region["pages"] <= 512 for region in hot)
    assert [r["count"] for r in hot] == sorted((r["count"] for r in hot), reverse=True)


def test_linux(workdir, pki, any_qemu):
    """Device states that look into memory when they are loaded, and a guest that checks its own."""
    report = direct(workdir, pki, Guest(kind="linux", memory=256), any_qemu, any_qemu)
    assert report["ram"]["pages"]["dup"] > 0


@pytest.mark.parametrize("codec", ("none", "lz4", "zstd", "auto"))
@pytest.mark.parametrize("lanes", (1, 8))
def test_codecs(workdir, pki, codec, lanes):
    guest = Guest(mode="sparse", pages=4096, params="hz=1000 rate=20 beat=20")
    report = direct(workdir, pki, guest, qemu.newest(), qemu.newest(), "--codec", codec,
                    "--lanes", lanes)
    pages = report["ram"]["pages"]
    if codec != "auto":
        assert not any(pages[c] for c in ("lz4", "zstd") if c != codec)
    if codec in ("lz4", "zstd"):
        assert pages[codec] > 0
    assert report["lanes"] == lanes


def test_from_one_version_to_another(workdir, pki):
    direct(workdir, pki, WRITERS["sparse"], binary("7.2"), binary("10.0"))


@pytest.mark.parametrize("backend", ("memfd", "memfd-private", "file"))
def test_into_memory_of_every_kind(workdir, pki, any_qemu, backend):
    # 7.2's TCG loses pages of such memories by itself (tests/README.md).
    accel = "tcg" if any_qemu == qemu.newest() else "kvm"
    need_accel(accel)
    guest = Guest(accel=accel, mode="sparse", pages=2048, params=SPARSE, backend=backend)
    direct(workdir, pki, guest, any_qemu, any_qemu)


def test_without_duplicates(workdir, pki):
    report = direct(workdir, pki, Guest(kind="linux", memory=256), qemu.newest(), qemu.newest(),
                    "--dedup-memory", 0)
    assert report["ram"]["pages"]["dup"] == 0


def over_a_broken_link(workdir, pki, binary_path, guest, *options):
    with Machine(binary_path, guest, name="src") as source, \
            Machine(binary_path, guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts, Relay(*hosts.b.address.rsplit(":", 1)) as relay:
        source.wait_ready()

        def during(_):
            for part in (1, 2, 4, 8):
                relay.wait_bytes(part * MIB)
                relay.cut(reset=True)
                relay.restore()

        report = migrate_exactly(hosts, source, dest, "--mode", "direct", "--bandwidth", 8 * MIB,
                                 *options, to=relay.address, during=during)
    assert report["mode"] == "direct" and report["reconnects"] >= 4


def test_a_broken_link(workdir, pki):
    """Batches that were repeated, or came over another lane, are placed once and in order."""
    guest = Guest(mode="sparse", pages=4096, params="hz=1000 rate=2 beat=2 body=random")
    over_a_broken_link(workdir, pki, qemu.newest(), guest)


def test_there_and_back(workdir, pki, any_qemu):
    """The second time into a memory that is not empty."""
    guest = WRITERS["sparse"]
    with Machine(any_qemu, guest, name="one") as one, \
            Machine(any_qemu, guest, incoming=True, name="two") as two, \
            Machine(any_qemu, guest, incoming=True, name="three") as three, \
            Hosts(workdir, pki) as hosts:
        one.wait_ready()
        assert migrate_exactly(hosts, one, two, "--mode", "direct")["mode"] == "direct"
        other = hosts.swapped()
        assert migrate_exactly(other, two, three, "--mode", "direct")["mode"] == "direct"


# ---- multifd ----

@pytest.mark.parametrize("channels", (*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 8))
@pytest.mark.parametrize("writer", ("sparse", "rewrite", "sparse-kvm", "rewrite-kvm"))
def test_multifd(workdir, pki, any_qemu, writer, channels):
    guest = WRITERS[writer]
    need_accel(guest.accel)
    # Slow enough for some rounds.
    report = direct(workdir, pki, guest, any_qemu, any_qemu, "--multifd", channels,
                    "--bandwidth", 24 * MIB)
    pages = report["ram"]["pages"]
    assert pages["zero"] > 0 and pages["delta"] > 0


@slow_with_old
@pytest.mark.parametrize("channels", (1, pytest.param(8, marks=pytest.mark.slow)))
def test_multifd_of_linux(workdir, pki, any_qemu, channels):
    direct(workdir, pki, Guest(kind="linux", memory=256), any_qemu, any_qemu, "--multifd", channels)


@pytest.mark.parametrize("accel", ("tcg", "kvm"))
def test_multifd_as_the_newest_does_it(workdir, pki, accel):
    """With FLUSH in the main stream, and zero pages in the channels."""
    need_accel(accel)
    guest = WRITERS["sparse"].variant(machine="pc", accel=accel)
    report = direct(workdir, pki, guest, qemu.newest(), qemu.newest(), "--multifd", 4)
    assert report["ram"]["pages"]["zero"] > 0


def test_multifd_from_one_version_to_another(workdir, pki):
    direct(workdir, pki, WRITERS["sparse"], binary("7.2"), binary("10.0"), "--multifd", 2)


def test_multifd_over_a_broken_link(workdir, pki, any_qemu):
    guest = Guest(mode="sparse", pages=4096, params="hz=1000 rate=2 beat=2 body=random")
    over_a_broken_link(workdir, pki, any_qemu, guest, "--multifd", 2)


# ---- when it is not to be had ----

def test_relay_when_asked_for(workdir, pki):
    with Machine(qemu.newest(), WRITERS["idle"], name="src") as source, \
            Machine(qemu.newest(), WRITERS["idle"], incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, "--mode", "relay")
    assert report["mode"] == "relay" and "relay_reason" not in report
    assert all(report[m] is None for m in ("rounds_detail", "working_set", "hot_regions"))


# Root's QEMU has all capabilities: who has fewer may not look into it.
WITHOUT_PTRACE = ((), ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"))


def test_relay_instead_of_direct_says_why(workdir, pki):
    with Machine(qemu.newest(), WRITERS["idle"], name="src") as source, \
            Machine(qemu.newest(), WRITERS["idle"], incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, prefixes=WITHOUT_PTRACE) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest)
    assert report["mode"] == "relay"
    assert "CAP_SYS_PTRACE" in report["relay_reason"]


def test_refused_when_insisted_on(workdir, pki):
    with Machine(qemu.newest(), WRITERS["idle"], name="src") as source, \
            Machine(qemu.newest(), WRITERS["idle"], incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False, prefixes=WITHOUT_PTRACE) as hosts:
        source.wait_ready()
        result = hosts.a.drover("migrate", "--qmp", source.drover_qmp, "--to", hosts.b.address,
                                "--dest-qmp", dest.drover_qmp, "--mode", "direct")
        one_sentence(result, 1, "memory cannot be written", "CAP_SYS_PTRACE")
        assert source.running() and not dest.running()
