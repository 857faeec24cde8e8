# SPDX-License-Identifier: Apache-2.0
"""'drover copy --qmp': a running guest's disk as it was at one moment, and the guest notices nothing."""
import contextlib
import os
import re
import signal
import threading

import pytest

from conftest import binary, slow_with_old
from harness import disks, images
from harness.handover import Hosts
from harness.images import MIB
from harness.qemu import Machine
from harness.qmp import Qmp, QmpGone
from harness.scene import GUEST, process_state, wait_until

SIZE = 24 * MIB
# Slow enough for the guest to write meanwhile: 8 MiB of data take two seconds and more.
SLOW = ("--bandwidth", "4M")


@pytest.fixture
def hosts(workdir, pki):
    with Hosts(workdir, pki, hold=False) as both:
        yield both


class Vm:
    """A guest with one disk, which is written to through its device as the guest does."""

    def __init__(self, workdir, qemu, fmt="qcow2", how=disks.drive, more=(), data=8 * MIB, image=None):
        self.image, self.fmt = image or disks.make(workdir / "vm.img", SIZE, fmt), fmt
        if data:
            disks.fill(self.image, MIB, data, fmt)
        self.before = workdir / "before.raw"
        images.run("qemu-img", "convert", "-O", "raw", "-f", fmt, self.image, self.before)
        self.device = "vda" if how is disks.drive else "-d /machine/peripheral/vda/virtio-backend"
        guest = GUEST.variant(extra=(*how(self.image, "vda", fmt), *more))
        self.machine = Machine(qemu, guest, name="vm")
        self.qmp = self.machine.qmp

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.machine.close()

    def write(self, *what):
        for one in what:
            line = f'qemu-io {self.device} "write {one}"'
            before = len(self.machine.said())
            self.qmp.command("human-monitor-command", {"command-line": line})
            # QEMU tells how it went on its standard output.
            wait_until(lambda n=before: "ops/sec" in self.machine.said()[n:], f"{one} to be written")

    def nodes(self):
        named = self.qmp.command("query-named-block-nodes", {"flat": True})
        return sorted(n["node-name"] for n in named if n["node-name"].startswith("drover"))

    def bitmaps(self):
        inserted = self.qmp.command("query-block")[0]["inserted"]
        return [b["name"] for b in inserted.get("dirty-bitmaps", [])]

    def check_nothing_left(self, bitmaps=()):
        assert self.nodes() == [] and self.bitmaps() == list(bitmaps)
        assert self.qmp.command("query-block-exports") == []
        self.qmp.command("nbd-server-start", {"addr": {"type": "unix", "data": {
            "path": str(self.machine.dir / "mine")}}})  # there is none
        self.qmp.command("nbd-server-stop")
        assert self.qmp.command("query-fdsets") == []
        Qmp(self.machine.drover_qmp).close()
        self.write("-P 9 20M 64k")  # its disk is its own, and works

    def quit(self):
        self.machine.quit()
        self.machine.wait_exit()


def wait_for_view(hosts):
    """Until it is read. Not before: a QEMU whose monitor wrote to the disk (which it waits for) while
    somebody was connecting to its NBD server was seen to hang."""
    wait_until(lambda: any(j["state"] == "copying" for j in
                           hosts.a.drover("jobs", "--json").json["jobs"]), "the copy to begin", 60)


def words(vm, hosts, dest, *options):
    disk = () if "--disk" in options else ("--disk", "vda")
    return ("copy", "--qmp", vm.machine.drover_qmp, *disk, "--to", hosts.b.address, "--dest", dest,
            "--json", *options)


def copy(hosts, vm, dest, *options, status=0):
    result = hosts.a.drover(*words(vm, hosts, dest, *options))
    assert result.status == status, (result, hosts.a.said(), hosts.b.said())
    return result


def check_said(result, pattern):
    said = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
    assert len(said) == 1 and re.search(pattern, said[0]), result.stderr


def refused(hosts, pattern, vm, *options, status=1, dest="/tmp/drover-none"):
    check_said(copy(hosts, vm, dest, *options, status=status), pattern)


@pytest.mark.parametrize("how", (disks.drive, disks.blockdev), ids=("drive", "blockdev"))
def test_warm(hosts, workdir, any_qemu, how):
    """A copy while it runs is the disk at one moment; when it is off, only what it wrote is sent."""
    dest = workdir / "c"
    with Vm(workdir, any_qemu, how=how) as vm:
        with hosts.a.running(*words(vm, hosts, dest, *SLOW, "--bitmap", "b1")) as command:
            wait_for_view(hosts)
            vm.write("-P 1 1M 1M", "-P 2 8M 3M", "-z 4M 128k", "-P 3 20M 64k", "-P 4 7000k 512")
            result = command.wait()
        assert result.status == 0, (result, hosts.a.said())
        first = result.json
        assert first["bitmap"] == "b1" and first["digest"] == images.digest(vm.before)
        assert images.identical(vm.before, "raw", dest, "qcow2")
        vm.check_nothing_left(["b1"])
        vm.quit()
        env = images.tools_env(any_qemu)
        assert not images.identical(vm.image, "qcow2", dest, "qcow2", env)
        since = hosts.a.drover("copy", vm.image, "--to", hosts.b.address, "--dest", dest, "--since",
                               "b1", "--base", first["digest"], "--json").json
        assert images.identical(vm.image, "qcow2", dest, "qcow2", env)
        assert since["disk"]["data_bytes"] <= 5 * MIB and since["disk"]["unread_bytes"] >= 18 * MIB
    assert list(hosts.a.state.glob("*.nbd")) == []


# In both halves of the disk block N is written before block N + 1, and in the lower half first.
IN_ORDER = ("if=/random bs=512 count=1 seek=$n conv=fsync,notrunc 2>/dev/null && /bin/busybox dd "
            "of=/dev/vda if=/random bs=512 count=1 seek=$((n + 24576)) conv=fsync,notrunc")


@pytest.mark.slow
def test_a_guest_that_writes(hosts, workdir, any_qemu):
    if not disks.kernel_modules():
        pytest.skip("no kernel modules for the Linux guest's disk: scripts/install-deps --test")
    image = disks.make(workdir / "vm.img", SIZE, "raw")
    disks.fill(image, 4 * MIB, 7 * MIB, "raw")
    guest = disks.writing_guest(workdir, disks.drive(image, "vda", "raw"), IN_ORDER)
    with Machine(any_qemu, guest, name="vm") as machine:
        machine.wait_ready()
        disks.wait_writes(machine, 3)
        first = disks.writes(machine)
        result = hosts.a.drover("copy", "--qmp", machine.drover_qmp, "--disk", "vda", "--to",
                                hosts.b.address, "--dest", workdir / "c", "--json", *SLOW)
        assert result.status == 0, (result, hosts.a.said())
        assert disks.writes(machine) > first + 2
        disks.wait_writes(machine, 3)
        assert not machine.console.said(b"disk failed")
    data = (workdir / "c").read_bytes()
    written = [[any(data[at + n * 512:at + n * 512 + 512]) for n in range(8192)]
               for at in (0, 12 * MIB)]
    low, high = (half.index(False) for half in written)
    assert not any(written[0][low:]) and not any(written[1][high:])
    assert first <= low and low - high in (0, 1), (first, low, high)


def test_backing_files_and_raw(hosts, workdir, any_qemu):
    base = images.make_raw(workdir / "base.raw", SIZE)
    top = workdir / "top.qcow2"
    images.run("qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "raw", top)
    with Vm(workdir, any_qemu, image=top, data=MIB) as vm:
        report = copy(hosts, vm, workdir / "c", "--dest-format", "raw").json
        assert (workdir / "c").read_bytes() == vm.before.read_bytes()
        assert report["digest"] == images.digest(vm.before)
        # The same again: what is there is not sent.
        again = copy(hosts, vm, workdir / "c", "--dest-format", "raw").json
        assert again["disk"]["same_bytes"] == SIZE
        vm.check_nothing_left()


def test_iothread(hosts, workdir, any_qemu):
    """QEMU before 9.2 would end when we leave."""
    def device(path, name, fmt):
        return ("-object", "iothread,id=io", "-blockdev",
                f"driver={fmt},node-name=n,file.driver=file,file.filename={path}", "-device",
                f"virtio-blk-pci,id={name},drive=n,iothread=io")
    with Vm(workdir, any_qemu, how=device) as vm:
        if vm.qmp.command("query-version")["qemu"]["major"] < 9:
            refused(hosts, "this QEMU has iothreads, .*copy its image when the VM is off", vm, "--disk", "n")
            vm.check_nothing_left()
            return
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW, "--disk", "n")) as command:
            wait_for_view(hosts)
            vm.write("-P 1 1M 5M")
            assert command.wait().status == 0, hosts.a.said()
        assert images.identical(vm.before, "raw", workdir / "c", "qcow2")
        vm.check_nothing_left()


def slow_where_empty(path, name, _fmt):
    """Reads of what is not allocated take a while."""
    return ("-blockdev", f"driver=null-co,node-name=slow,size={SIZE},read-zeroes=on,latency-ns=100000000",
            "-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={path},backing=slow",
            "-device", f"virtio-blk-pci,id={name},drive=n")


@contextlib.contextmanager
def resets(vm):
    """A guest that reads and boots, again and again: its disk is reset, and QEMU waits for the read."""
    over, failures = threading.Event(), []
    read = f'qemu-io {vm.device} "aio_read -q 0 512"'

    def reset():
        try:
            while not over.wait(0.01):
                vm.qmp.command("human-monitor-command", {"command-line": read})
                vm.qmp.command("system_reset")
        except (OSError, QmpGone) as error:
            failures.append(error)

    thread = threading.Thread(target=reset)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
    assert not failures and not thread.is_alive(), failures


def test_a_guest_that_resets_its_disk(hosts, workdir):
    """QEMU then waits for all that is read of the disk; for ever, if a reader connects meanwhile."""
    with Vm(workdir, binary("10.0"), how=slow_where_empty) as vm:
        with resets(vm):
            for n in range(3):
                copy(hosts, vm, workdir / f"c{n}")
        assert all(images.identical(vm.before, "raw", workdir / f"c{n}", "qcow2") for n in range(3))
        vm.check_nothing_left()


# ---- cut short ----

@slow_with_old
def test_cancel(hosts, workdir, any_qemu):
    dest = workdir / "there" / "c"
    dest.parent.mkdir()
    with Vm(workdir, any_qemu) as vm:
        with hosts.a.running(*words(vm, hosts, dest, *SLOW, "--bitmap", "b1")) as command:
            wait_for_view(hosts)
            job = hosts.a.drover("jobs", "--json").json["jobs"][0]["job"]
            refused(hosts, f"is being copied by job {job}", vm, dest=dest)
            command.process.send_signal(signal.SIGINT)
            assert command.wait().status == 4
        vm.check_nothing_left()
    wait_until(lambda: not list(dest.parent.iterdir()), "the other end to clean up")


@slow_with_old
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_daemon_goes(hosts, workdir, any_qemu, how):
    """Killed, the next one takes the view back; stopped, it does so itself. The same copy can be
    started again at once."""
    with Vm(workdir, any_qemu) as vm:
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW, "--bitmap", "b1")) as command:
            wait_for_view(hosts)
            if how == "kill":
                hosts.a.kill()
                vm.write("-P 1 1M 5M")
                assert len(vm.nodes()) == 4
                hosts.a.start()
                result = command.wait()
                assert result.status == 1 and "start the copy again" in result.json["error"]
            else:
                assert hosts.a.stop() == 0
                vm.check_nothing_left()
                hosts.a.start()
                assert command.wait().status == 4
        vm.check_nothing_left()
        report = copy(hosts, vm, workdir / "c").json
        assert how == "stop" or report["disk"]["same_bytes"] >= MIB


def test_daemon_is_killed_handing_over_the_scratch_file(workdir, pki, any_qemu):
    """QEMU has it, and would keep it."""
    with Hosts(workdir, pki, hold=False, hold_source="source:handing-over") as hosts, \
            Vm(workdir, any_qemu, data=MIB) as vm:
        with hosts.a.running(*words(vm, hosts, workdir / "c", "--bitmap", "b1")) as command:
            wait_until(lambda: process_state(hosts.a.pid) == "T", "droverd to stop itself")
            assert len(vm.qmp.command("query-fdsets")) == 1
            hosts.a.kill()
            hosts.a.start()
            assert command.wait().status == 1
        vm.check_nothing_left()


def test_destination_is_killed(hosts, workdir):
    """The view stays, so it is still the disk as it was."""
    with Vm(workdir, binary("10.0")) as vm:
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW)) as command:
            wait_for_view(hosts)
            vm.write("-P 1 1M 5M")
            wait_until(lambda: hosts.a.drover("jobs", "--json").json["jobs"][0]["progress"]["transferred"],
                       "something to arrive")
            hosts.b.kill()
            hosts.b.start()
            assert command.wait().status == 0, hosts.a.said()
        assert images.identical(vm.before, "raw", workdir / "c", "qcow2")
        vm.check_nothing_left()


@slow_with_old
def test_scratch_is_full(hosts, workdir, any_qemu):
    with Vm(workdir, any_qemu) as vm, images.small_disk(workdir, 2 * MIB) as small:
        options = (*SLOW, "--scratch", small, "--bitmap", "b1")
        with hosts.a.running(*words(vm, hosts, workdir / "c", *options)) as command:
            wait_for_view(hosts)
            vm.write("-P 1 4M 5M")
            result = command.wait()
        assert result.status == 1
        check_said(result, f"scratch file in {small}, and there is no room left: make room, or")
        vm.check_nothing_left()
        assert not list(small.iterdir()) and not (workdir / "c").exists()


@slow_with_old
def test_qemu_ends(hosts, workdir, any_qemu):
    with Vm(workdir, any_qemu) as vm:
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW)) as command:
            wait_for_view(hosts)
            vm.quit()
            result = command.wait()
        assert result.status == 1
        check_said(result, "the guest's QEMU has ended or closed its QMP socket")
        assert list(hosts.a.state.glob("*.nbd")) == []


def test_qemu_is_silent(hosts, workdir):
    """It could be waiting for us to stop reading: so we do, and then it is asked again."""
    with Vm(workdir, binary("10.0")) as vm:
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW)) as command:
            wait_for_view(hosts)
            os.kill(vm.machine.process.pid, signal.SIGSTOP)
            try:
                wait_until(lambda: hosts.a.drover("jobs", "--json").json["jobs"][0]["state"] != "copying",
                           "the copy to be given up", 60)
            finally:
                os.kill(vm.machine.process.pid, signal.SIGCONT)
            result = command.wait()
        assert result.status == 1
        check_said(result, "has not answered for 10 s while its disk 'vda' was read")
        vm.check_nothing_left()


def test_a_snapshot_in_between_is_kept(hosts, workdir):
    """Had somebody put a node between the device and the filter, giving the disk back would lose it."""
    with Vm(workdir, binary("10.0"), how=disks.blockdev) as vm:
        overlay = disks.make(workdir / "overlay", SIZE)
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW)) as command:
            wait_for_view(hosts)
            top = vm.qmp.command("query-block")[0]["inserted"]["node-name"]
            vm.qmp.command("blockdev-add", {"driver": "qcow2", "node-name": "mine", "backing": None,
                                            "file": {"driver": "file", "filename": str(overlay)}})
            vm.qmp.command("blockdev-snapshot", {"node": top, "overlay": "mine"})
            vm.write("-P 7 5M 64k")
            result = command.wait()
        assert result.status == 1  # QEMU gives the view up
        assert "cannot be removed from the guest's QEMU, as somebody else" in result.json["error"]
        assert vm.qmp.command("query-block")[0]["inserted"]["node-name"] == "mine"
        vm.write("-P 7 6M 64k")


@pytest.mark.parametrize("bitmap", ((), ("--bitmap", "b1")), ids=("plain", "bitmap"))
def test_a_snapshot_below_is_kept(hosts, workdir, any_qemu, bitmap):
    """As libvirt takes it: the overlay is between our filter and the disk, and the guest's from then on."""
    with Vm(workdir, any_qemu, how=disks.blockdev) as vm:
        with hosts.a.running(*words(vm, hosts, workdir / "c", *SLOW, *bitmap)) as command:
            wait_for_view(hosts)
            vm.qmp.command("blockdev-snapshot-sync", {
                "node-name": "node-vda", "snapshot-file": str(workdir / "overlay"),
                "snapshot-node-name": "mine"})
            vm.write("-P 7 5M 64k")
            result = command.wait()
        assert result.status == 0, result
        assert ("bitmap 'b1' knows nothing of what" in result.json.get("left", "")) == bool(bitmap)
        assert images.identical(vm.before, "raw", workdir / "c", "qcow2")
        assert vm.qmp.command("query-block")[0]["inserted"]["node-name"] == "mine"
        vm.check_nothing_left()


# ---- what is refused ----

@slow_with_old
def test_refused(hosts, workdir, any_qemu):
    shared = disks.make(workdir / "shared.img", MIB, "raw")
    more = ("-drive", f"if=ide,id=fixed,media=cdrom,format=raw,readonly=on,file={shared}",
            "-drive", "if=ide,id=empty,media=cdrom",
            "-blockdev", f"driver=raw,node-name=idle,file.driver=file,file.filename={workdir}/idle")
    disks.make(workdir / "idle", MIB, "raw")
    with Vm(workdir, any_qemu, more=more, data=MIB) as vm:
        refused(hosts, r"'none' is none of the guest's \(vda, fixed, empty\)", vm, "--disk", "none")
        refused(hosts, "'fixed' is read-only, .* copy its image", vm, "--disk", "fixed")
        refused(hosts, "'empty' has no medium", vm, "--disk", "empty")
        refused(hosts, "/no/where cannot be used: No such file", vm, "--scratch", "/no/where")
        refused(hosts, "takes no scratch file: .*choose another", vm, "--scratch", vm.before)
        refused(hosts, "is where the system keeps its own files", vm, "--scratch", "/etc")
        refused(hosts, "at the destination: .*No such file", vm, "--bitmap", "b1", dest="/no/c")
        refused(hosts, "at the destination: .*'qed' cannot be made|'qed' cannot", vm, "--dest-format",
                "qed", status=2)
        node = vm.qmp.command("query-block")[0]["inserted"]["node-name"]
        vm.qmp.command("block-dirty-bitmap-add", {"node": node, "name": "mine"})
        refused(hosts, "has a bitmap 'mine' already: choose another name", vm, "--bitmap", "mine")
        vm.qmp.command("nbd-server-start", {"addr": {"type": "unix", "data": {
            "path": str(workdir / "nbd")}}})
        refused(hosts, "QEMU has one NBD server.*'nbd-server-stop'", vm, "--bitmap", "b1")
        vm.qmp.command("nbd-server-stop")  # it was left alone
        vm.check_nothing_left(["mine"])


@slow_with_old
def test_bitmaps_are_for_qcow2(hosts, workdir, any_qemu):
    with Vm(workdir, any_qemu, "raw", data=MIB) as vm:
        refused(hosts, "is no qcow2 image, and only those keep bitmaps", vm, "--bitmap", "b1")
        vm.check_nothing_left()
        copy(hosts, vm, workdir / "c")
        assert (workdir / "c").read_bytes()[:SIZE // 2] == vm.before.read_bytes()[:SIZE // 2]


def test_wrong_use(hosts, workdir):
    to = ("--to", hosts.b.address, "--dest", workdir / "c")
    for pattern, args in [
            ("give IMAGE, or --qmp and --disk", ()),
            ("give IMAGE, or --qmp and --disk", ("a", "--qmp", "q", "--disk", "d")),
            ("--qmp and --disk go together", ("--qmp", "q")),
            ("either an image is copied", ("--disk", "d")),
            ("--bitmap and --scratch are for disks of running guests", ("a", "--bitmap", "b")),
            ("--format and --since are for images", ("--qmp", "q", "--disk", "d", "--format", "raw")),
    ]:
        result = hosts.a.drover("copy", *args, *to)
        assert result.status == 2, result
        check_said(result, pattern)
    result = hosts.a.drover("copy", "--qmp", workdir / "none", "--disk", "d", *to)
    assert result.status == 1
    check_said(result, "asking the guest's QEMU: .*none")
