# SPDX-License-Identifier: Apache-2.0
"""--disks-delta: the destination's disk holds an older version, and only what differs is sent."""
import subprocess

import pytest

from conftest import binary, need_accel, slow_with_old
from harness import disks, images
from harness.daemon import Daemon, make_pki
from harness.handover import Handover, Hosts
from harness.liar import LyingHost
from harness.qemu import Machine
from harness.scene import GUEST, Scene, one_sentence, wait_until

MIB = 1 << 20
# More blocks than are told at once, and the last a short one.
SIZE = 2048 * MIB + 5 * 512
DELTA = ("--disks", "mirror", "--disks-delta")


class Older:
    """A disk of 12 MiB of data, and an older version of it at the destination. Since then 2 MiB of
    it have changed, 1 MiB was zeroed, and 1 MiB came; and where it has never been written to,
    somebody has written to the older one."""

    def __init__(self, workdir, fmt="qcow2", dest_fmt=None):
        self.fmt, self.dest_fmt = fmt, dest_fmt or fmt
        self.source = disks.make(workdir / "vda-src.img", SIZE, fmt)
        self.dest = workdir / "vda-dst.img"
        disks.fill(self.source, MIB, 12 * MIB, fmt)
        if self.fmt == self.dest_fmt:
            subprocess.run(["cp", "--sparse=always", self.source, self.dest], timeout=60, check=True)
        else:
            subprocess.run(["qemu-img", "convert", "-O", self.dest_fmt, self.source, self.dest],
                           timeout=120, check=True)
        disks.fill(self.dest, 22 * MIB, MIB, self.dest_fmt, seed=4)
        disks.fill(self.source, 3 * MIB + 4096, 2 * MIB, fmt, seed=2)
        disks.fill(self.source, 20 * MIB, MIB, fmt, seed=3)
        subprocess.run(["qemu-io", "-f", fmt, "-c", f"write -z {7 * MIB} {MIB}", self.source],
                       timeout=120, check=True, stdout=subprocess.DEVNULL)

    def guests(self, base=GUEST, dest_extra=None):
        ends = [disks.drive(path, "vda", fmt, ",discard=unmap")
                for path, fmt in ((self.source, self.fmt), (self.dest, self.dest_fmt))]
        return [base.variant(extra=ends[0]), base.variant(extra=dest_extra or ends[1])]

    def check_same(self):
        assert disks.differ(self.source, self.dest) == ""


def scene_with(workdir, qemu, older, base=GUEST, **options):
    source, dest = older.guests(base)
    return Scene(workdir, qemu, source, dest_guest=dest, **options)


def check_runs_there(scene):
    """This is not about memory, of which 7.2 loses some by itself under TCG (tests/README.md)."""
    wait_until(scene.dest.running, "the guest to run at the destination" + scene.said())
    scene.dest.console.wait_beats(5)
    assert not scene.source.running()


def reused(result):
    disk = result.json["disk"]
    assert [d["reused_bytes"] for d in disk["disks"] if d["mirrored"]] == [disk["reused_bytes"]]
    return disk["reused_bytes"]


@pytest.mark.parametrize("fmt, dest_fmt", (
    ("qcow2", "qcow2"),
    pytest.param("raw", "raw", marks=pytest.mark.slow),
    pytest.param("raw", "qcow2", marks=pytest.mark.slow)))
def test_what_differs_is_sent(workdir, any_qemu, fmt, dest_fmt):
    older = Older(workdir, fmt, dest_fmt)
    if dest_fmt == "qcow2":  # from here on each cluster that is written is another one
        images.run("qemu-img", "snapshot", "-c", "before", older.dest)
    before = older.dest.stat().st_size
    with scene_with(workdir, any_qemu, older) as scene:
        result = scene.try_migrate(*DELTA, "--keep-source")
        assert result.status == 0, result.stderr + scene.said()
        check_runs_there(scene)
        older.check_same()
        # 12 MiB less what was changed and zeroed, and the blocks that these begin and end in.
        assert 9 * MIB - 4 * 65536 <= reused(result) <= 9 * MIB, result.json["disk"]
        assert 3 * MIB <= result.json["disk"]["wire_bytes"] <= 4 * MIB, result.json["disk"]
        assert result.json["disk"]["bytes"] >= 12 * MIB
        assert result.json["verify"]["stream"] == "match"
        assert "found there 8." in scene.a.drover("show", result.json["job"]).stdout
    if dest_fmt == "qcow2":  # what is equal was not written over itself
        assert older.dest.stat().st_size <= before + 5 * MIB
    else:  # zeroes have become holes
        assert older.dest.stat().st_blocks * 512 < 13 * MIB


@pytest.mark.slow
def test_a_guest_comes_back(workdir, pki, any_qemu):
    """To the disk that it left, having written elsewhere meanwhile. Held where it is about to run,
    both disks are the same."""
    if not disks.kernel_modules():
        pytest.skip("no kernel modules for the Linux guest's disk: scripts/install-deps --test")
    here, there = (disks.make(workdir / f"{name}.img", SIZE) for name in ("here", "there"))
    disks.fill(here, 0, 20 * MIB)
    first, second = (disks.writing_guest(workdir, disks.drive(path, "vda")) for path in (here, there))
    with Hosts(workdir, pki) as hosts, Machine(any_qemu, second, incoming=True, name="b") as away:
        with Machine(any_qemu, first, name="a") as home:
            home.wait_ready()
            disks.wait_writes(home, 3)
            with Handover(hosts, home, away, "--disks", "mirror") as move:
                move.wait_held(120)
                whole = move.finish()["disk"]
        assert whole["bytes"] >= 20 * MIB and "reused_bytes" not in whole
        disks.wait_writes(away, 3)
        with Machine(any_qemu, first, incoming=True, name="a2") as home, \
                Handover(hosts.swapped(), away, home, *DELTA) as move:
            disks.wait_writes(away, 3)   # while it moves
            move.wait_held(120)
            assert disks.differ(here, there) == ""
            delta = move.finish()["disk"]
            assert delta["wire_bytes"] < whole["wire_bytes"] / 4, (whole, delta)
            assert delta["reused_bytes"] > 16 * MIB, delta
            disks.wait_writes(home, 3)
            assert not home.console.said(b"disk failed")


def begun(scene, *args):
    move = scene.migrate(*DELTA, *args)
    wait_until(lambda: any(0 < d["percent"] < 100 and not d.get("hashing") for d in
                           ((scene.a.job() or {}).get("progress") or {}).get("disks", ())),
               "the disk to be under way")
    return move


@pytest.mark.slow
def test_cut_links_go_unnoticed(workdir, any_qemu):
    need_accel("kvm")  # many rounds, see test_disks.py
    older = Older(workdir)
    with scene_with(workdir, any_qemu, older, GUEST.variant(accel="kvm"), relay=True) as scene:
        move = begun(scene, "--bandwidth", "1M", "--keep-source")
        for _ in range(3):
            scene.relay.cut()
            scene.relay.restore()
            scene.relay.wait_bytes(MIB // 4)
        result = move.wait()
        assert result.status == 0, result.stderr + scene.said()
        assert result.json["reconnects"] >= 3 and reused(result) > 8 * MIB
        check_runs_there(scene)
        older.check_same()


@slow_with_old
def test_what_fails_can_be_tried_again(workdir, any_qemu):
    """Cancelled half-way the destination's disk is a mixture, which is as good a beginning."""
    older = Older(workdir)
    with scene_with(workdir, any_qemu, older) as scene:
        move = begun(scene, "--bandwidth", "256K")
        assert scene.a.drover("cancel", scene.a.job()["job"]).status == 0
        one_sentence(move.wait(), 4, "cancelled")
        scene.check_runs_at_source(dest_gone=True)
        nodes = scene.source.qmp.command("query-named-block-nodes")
        assert not [n for n in nodes if n["node-name"].startswith("drover")]
        with Machine(any_qemu, older.guests()[1], incoming=True, name="again") as again:
            result = scene.a.drover("migrate", "--qmp", scene.source.drover_qmp, "--to",
                                    scene.b.address, "--dest-qmp", again.drover_qmp, "--json",
                                    "--keep-source", *DELTA)
            assert result.status == 0, result.stderr + scene.said()
            wait_until(again.running, "the guest to run at the destination")
            older.check_same()
            assert reused(result) > 8 * MIB


def test_a_disk_that_cannot_be_read(workdir):
    """At the destination: the guest runs on."""
    older = Older(workdir, "raw")
    fault = disks.make(workdir / "fault.conf", 0, "raw")
    fault.write_text('[inject-error]\nevent = "read_aio"\nerrno = "5"\nonce = "off"\n')
    source, dest = older.guests(dest_extra=(
        "-drive", f"if=virtio,id=vda,format=raw,file.driver=blkdebug,file.config={fault},"
        f"file.image.driver=file,file.image.filename={older.dest}"))
    with Scene(workdir, binary("10.0"), source, dest_guest=dest) as scene:
        one_sentence(scene.try_migrate(*DELTA), 1, "the destination's disks cannot be hashed: ",
                     "disk 'vda' cannot be read")
        scene.check_runs_at_source(dest_gone=True)


def test_what_does_not_go_with_it(workdir):
    older = Older(workdir)
    with scene_with(workdir, binary("10.0"), older, machines=False) as scene:
        for more in (("--disks", "none", "--disks-delta"), (*DELTA, "--disks-chain", "keep")):
            result = scene.a.drover("migrate", "--qmp", "/nowhere", "--to", scene.b.address,
                                    "--dest-qmp", "/nowhere", *more)
            one_sentence(result, 2, '"disks_delta" is of whole disks that move')


@pytest.mark.parametrize("what", (
    "cancel", pytest.param("dest", marks=pytest.mark.slow),
    pytest.param("daemon", marks=pytest.mark.slow)))
def test_ended_while_the_disk_is_hashed(workdir, what):
    older = Older(workdir, "raw")
    source, dest = older.guests(dest_extra=(
        "-object", "throttle-group,id=slow,x-bps-read=1048576",
        "-drive", "if=virtio,id=vda,format=raw,file.driver=throttle,file.throttle-group=slow,"
        f"file.file.driver=file,file.file.filename={older.dest}"))
    with Scene(workdir, binary("10.0"), source, dest_guest=dest) as scene:
        move = scene.migrate(*DELTA)
        wait_until(lambda: any(d.get("hashing") and d["percent"] > 0 for d in
                               ((scene.a.job() or {}).get("progress") or {}).get("disks", ())),
                   "the disk to be hashed")
        if what == "cancel":
            assert scene.a.drover("cancel", scene.a.job()["job"]).status == 0
        elif what == "dest":
            scene.dest.kill()
        else:
            scene.b.crash_and_restart()
        result = move.wait()
        one_sentence(result, 4 if what == "cancel" else 1, "cancelled" if what == "cancel" else "")
        scene.check_runs_at_source(dest_gone=True)
        assert scene.a.sockets_left() == [] and scene.b.alive()


def test_somebody_else_writes_to_it(workdir):
    """To the destination's disk, when it was hashed already."""
    older = Older(workdir, "raw")
    with scene_with(workdir, binary("10.0"), older) as scene:
        move = begun(scene, "--bandwidth", "512K")
        with older.dest.open("r+b") as image:
            image.seek(10 * MIB)
            image.write(b"x" * MIB)
        one_sentence(move.wait(), 1, "disk 'vda' has changed since it was hashed, at byte 10485760")
        scene.check_runs_at_source(dest_gone=True)


@pytest.mark.slow
def test_many_disks(workdir, any_qemu):
    """More connections than QEMU takes by itself."""
    paths = [[disks.make(workdir / f"{end}{i}.img", MIB, "raw") for i in range(21)]
             for end in ("src", "dst")]
    for both in zip(*paths):
        for path in both:
            disks.fill(path, 0, MIB, "raw")
    source, dest = (GUEST.variant(extra=sum((disks.drive(path, f"d{i}", "raw")
                                             for i, path in enumerate(end)), ())) for end in paths)
    with Scene(workdir, any_qemu, source, dest_guest=dest) as scene:
        result = scene.try_migrate(*DELTA, "--keep-source")
        assert result.status == 0, result.stderr + scene.said()
        assert result.json["disk"]["reused_bytes"] == 21 * MIB
        check_runs_there(scene)


# What a destination's daemon says to job.prepare, job.hashed and job.leaves that makes no sense.
SERVED = {"size": 24 * MIB, "flags": 0x5ed, "block_min": 1, "block_preferred": 4096, "block_max": 32 * MIB, "structured": True}
LIES = (
    ("does not take disks", {"vm": {}, "disks": 1}),
    ("does not take disks", {"vm": {}, "disks": [SERVED, SERVED]}),
    ("the export as the other daemon tells it", {"vm": {}, "disks": [7]}),
    ("the export as the other daemon tells it", {"vm": {}, "disks": [{**SERVED, "size": -1}]}),
    ("does not compare disks", {"vm": {}, "disks": [SERVED]}),
    ("does not compare disks", {"vm": {}, "disks": [SERVED], "delta_block": 4096}),
    ("does not compare disks", {"vm": {}, "disks": [SERVED], "delta_block": "x"}),
    ("sends 32 bytes of digests, where those of 384 blocks were asked for",
     {"vm": {}, "disks": [SERVED], "delta_block": 65536}, {"hashed": [-1, {}, "x", 5], "done": False},
     {"hashed": 7, "done": True}, {"leaves": "A" * 43 + "="}),
    ("sends 0 bytes of digests", {"vm": {}, "disks": [SERVED], "delta_block": 65536}, {"done": True},
     {"leaves": []}),
)


def test_a_destination_that_lies(workdir):
    pki = make_pki(workdir / "pki", "a=127.0.0.1", "m=127.0.0.1")
    disk = disks.make(workdir / "vda.img", 24 * MIB)
    guest = GUEST.variant(extra=disks.drive(disk, "vda"))
    with Machine(binary("10.0"), guest, name="src") as source, Daemon(workdir, "a", pki / "a") as a:
        source.wait_ready()
        for says, *answers in LIES:
            with LyingHost(pki / "m") as host:
                move = a.running("migrate", "--qmp", source.drover_qmp, "--to", host.address,
                                 "--dest-qmp", "/dest.qmp", "--drop-timeout", "2", *DELTA)
                with move:
                    host.accept().welcome()
                    for answer in answers:
                        host.message({"id": host.hear()["id"], "ok": answer})
                    asked = host.hear()
                    assert asked["call"] == "job.abort"
                    host.message({"id": asked["id"], "ok": {"state": "failed"}})
                    one_sentence(move.wait(), 1, says)
            assert source.running() and a.alive(), says
