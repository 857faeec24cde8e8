# SPDX-License-Identifier: Apache-2.0
"""The options of 'drover migrate' do what they say; memory compared byte for byte."""
import contextlib

import pytest

from conftest import binary, need_accel
from harness import memory, qemu
from harness.handover import (Handover, Hosts, arguments, check_goes_on, check_held,
                              check_jobs_agree, check_report, check_sockets_free,
                              migrate_exactly)
from harness.qemu import MIB, PAGE, Guest, Machine
from harness.relay import Relay

PACE = "hz=1000 rate=20 beat=20"
GUEST = Guest(params=PACE, pages=2048)


def moved(workdir, pki, *options, guest=GUEST, versions=None):
    """Moves a guest with these options, checks everything, returns the report."""
    source_qemu, dest_qemu = [binary(v) for v in versions] if versions else [qemu.newest()] * 2
    with Machine(source_qemu, guest, name="src") as source, \
            Machine(dest_qemu, guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        return migrate_exactly(hosts, source, dest, *options)


# ---- multifd ----

@pytest.mark.parametrize("channels", (2, 4))
@pytest.mark.parametrize("versions", (("7.2", "7.2"), ("10.0", "10.0"), ("7.2", "10.0")),
                         ids=lambda pair: f"{pair[0]}to{pair[1]}")
def test_multifd(workdir, pki, versions, channels):
    # 10.0 sends zero pages over its multifd channels, which 7.2 does not know.
    report = moved(workdir, pki, "--multifd", channels, versions=versions)
    assert report["verify"]["stream"] == "match"


def test_multifd_of_a_kvm_guest_over_one_lane(workdir, pki):
    guest = Guest(accel="kvm", pages=512, params=PACE)
    need_accel("kvm")
    report = moved(workdir, pki, "--multifd", 2, "--lanes", 1, guest=guest)
    assert report["lanes"] == 1


# ---- lanes and codecs ----

@pytest.mark.parametrize("lanes", (1, 8))
def test_lanes(workdir, pki, lanes):
    assert moved(workdir, pki, "--lanes", lanes)["lanes"] == lanes


@pytest.mark.parametrize("codec", ("none", "lz4", "zstd", "auto"))
@pytest.mark.parametrize("body", ("text", "random"))
def test_codec(workdir, pki, codec, body):
    guest = GUEST.variant(params=PACE + f" body={body}")
    ram = moved(workdir, pki, "--codec", codec, guest=guest)["ram"]
    pages = ram["pages"]["raw"] * PAGE
    if codec == "none" or body == "random":
        # All that was sent as a page is there: nothing can have been saved on it.
        assert ram["wire_bytes"] > (pages if codec == "none" else GUEST.pages_bytes)
    if codec in ("lz4", "zstd") and body == "text":
        assert ram["wire_bytes"] < 0.6 * ram["bytes"]


# ---- verify ----

@pytest.mark.parametrize("verify, said", (("stream", "match"), ("none", "off")))
def test_verify(workdir, pki, verify, said):
    assert moved(workdir, pki, "--verify", verify)["verify"]["stream"] == said


# ---- memory backends ----

# QEMU 7.2 under TCG loses the last state of a hot page when the memory is a backend, with its own
# migration as well (tests/README.md): so KVM there.
@pytest.mark.parametrize("backend", ("memfd", "memfd-private", "file"))
@pytest.mark.parametrize("version, accel", (("7.2", "kvm"), ("10.0", "tcg")))
def test_memory_backend(workdir, pki, backend, version, accel):
    need_accel(accel)
    guest = Guest(accel=accel, backend=backend, params=PACE, pages=1024)
    moved(workdir, pki, guest=guest, versions=(version, version))


def test_from_a_memory_backend_to_another(workdir, pki):
    """The two ends need the block's name in common, not where it comes from."""
    guest = Guest(params=PACE, pages=1024, backend="file")
    version = binary("10.0")
    with Machine(version, guest, name="src") as source, \
            Machine(version, guest.variant(backend="memfd"), incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        migrate_exactly(hosts, source, dest)


# ---- the source afterwards ----

def test_the_source_quits_by_default(workdir, pki, any_qemu):
    with Machine(any_qemu, GUEST, name="src") as source, \
            Machine(any_qemu, GUEST, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        source_loses = source.loses_hot_pages()
        result = hosts.a.drover(*arguments(source, dest, hosts.b.address))
        assert result.status == 0, result
        assert source.wait_exit() == 0
        last = source.counter()
        dest.console.wait_beats(10)
        assert source_loses or dest.console.beats[0][1] > last
        check_report(result.json, GUEST)
        check_jobs_agree(hosts, result.json["job"])
        check_sockets_free(dest)
        assert memory.check_pages(dest)["sound"]


def test_the_kept_source_is_as_it_was(workdir, pki, any_qemu):
    """Should the destination be lost right after, the kept machine can be started by hand."""
    with Machine(any_qemu, GUEST, name="src") as source, \
            Machine(any_qemu, GUEST, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        migrate_exactly(hosts, source, dest)
        dest.quit()
        dest.wait_exit()
        before = source.counter()
        source.cont()
        source.console.wait_beats(10)
        assert source.counter() > before and memory.check_pages(source)["sound"]


def test_name(workdir, pki):
    assert moved(workdir, pki, "--name", "web 1")["vm"] == "web 1"


# ---- a guest that is paused ----

@pytest.mark.parametrize("options", ((), ("--multifd", 2)), ids=("plain", "multifd"))
def test_a_paused_guest_stays_paused(workdir, pki, any_qemu, options):
    with Machine(any_qemu, GUEST, name="src") as source, \
            Machine(any_qemu, GUEST, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        source.stop()
        count = source.counter()
        with Handover(hosts, source, dest, *options) as move:
            move.wait_held()
            check_held(source, dest)
            report = move.finish()
        assert report["downtime_ms"] == 0
        assert check_jobs_agree(hosts, report["job"]) == report
        assert not dest.running() and not source.running() and dest.status() == "paused"
        assert not dest.console.beats
        dest.cont()
        dest.console.wait_beats(10)
        assert source.loses_hot_pages() or dest.console.beats[0][1] > count
        check_sockets_free(source, dest)


# ---- bandwidth and downtime ----

def test_bandwidth_is_not_exceeded(workdir, pki):
    """A lower bound on time is no race: no machine is too slow for it."""
    guest = Guest(mode="idle", params="hz=1000 beat=1 body=random")
    rate = 8 * MIB
    report = moved(workdir, pki, "--bandwidth", rate, guest=guest)
    wire = report["ram"]["wire_bytes"]
    assert wire > guest.pages_bytes
    # The bucket may be full at the start; half of the rate is more than any bucket holds.
    assert report["total_ms"] / 1000 >= (wire - rate / 2) / rate


def test_downtime_is_measured_and_reported_with_its_promise(workdir, pki):
    first = qemu.newest()
    with Machine(first, GUEST, name="src") as source, \
            Machine(first, GUEST, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        result = hosts.a.drover(*arguments(source, dest, hosts.b.address, "--keep-source",
                                           "--downtime", "500"))
        assert result.status == 0, result
        report = result.json
        assert report["downtime_limit_ms"] == 500 and report["downtime_ms"] > 0
        # What it was and what was allowed is what QEMU itself was told, and nothing less.
        assert source.qmp.command("query-migrate-parameters")["downtime-limit"] == 500
        shown = hosts.a.drover("show", report["job"])
        assert shown.status == 0 and "down for" in shown.stdout


# ---- several at once, and there and back ----

def test_two_at_once_share_one_session(workdir, pki):
    first = qemu.newest()
    # Slow enough that the second begins while the first is under way.
    guest = Guest(mode="idle", params="hz=1000 beat=1 body=random")
    with Machine(first, guest, name="s1") as source1, Machine(first, guest, name="s2") as source2, \
            Machine(first, guest, incoming=True, name="d1") as dest1, \
            Machine(first, guest, incoming=True, name="d2") as dest2, \
            Hosts(workdir, pki, hold=False) as hosts, \
            Relay(*hosts.b.address.rsplit(":", 1)) as relay:
        source1.wait_ready()
        source2.wait_ready()
        options = ("--keep-source", "--lanes", 2, "--bandwidth", 8 * MIB)
        with hosts.a.running(*arguments(source1, dest1, relay.address, *options)) as one:
            one.wait_output("copying")
            with hosts.a.running(*arguments(source2, dest2, relay.address, *options)) as two:
                two.wait_output("copying")
                states = [j["state"] for j in hosts.a.drover("jobs", "--json").json["jobs"]]
                assert states == ["copying", "copying"], "the two did not run at once"
                results = one.wait(), two.wait()
        assert relay.connections == 2, "two jobs of two lanes each did not share them"
        for result, source, dest in zip(results, (source1, source2), (dest1, dest2)):
            assert result.status == 0, result
            check_report(result.json, guest)
            check_goes_on(source, dest)
            unexplained, verdict, _ = memory.compare_after_run(source, dest)
            assert unexplained == [] and verdict["sound"]
            assert check_jobs_agree(hosts, result.json["job"]) == result.json
        check_sockets_free(source1, source2, dest1, dest2)


def test_there_and_back_again(workdir, pki, any_qemu):
    """Three round trips of one guest, compared byte for byte at each arrival."""
    guest = Guest(params=PACE, pages=1024)
    with Hosts(workdir, pki) as hosts, contextlib.ExitStack() as stack:
        here = stack.enter_context(Machine(any_qemu, guest, name="vm"))
        here.wait_ready()
        for _ in range(3):
            for way in (hosts, hosts.swapped()):
                there = stack.enter_context(Machine(any_qemu, guest, incoming=True, name="vm"))
                migrate_exactly(way, here, there)
                here.close()
                here = there
