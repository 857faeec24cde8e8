# SPDX-License-Identifier: Apache-2.0
"""'drover copy --qmp' of several disks of a running guest, one after the other and told of as one."""
import re
import signal
import socket

import pytest

from conftest import binary, slow_with_old
from harness import disks, images
from harness.daemon import make_pki
from harness.handover import Hosts
from harness.images import MIB
from harness.impostor import Impostor
from harness.scene import wait_until
from test_copy_running import SIZE, Vm, wait_for_view

DATA = 2 * MIB


@pytest.fixture
def hosts(workdir, pki):
    """The source's daemon stops itself whenever it is about to read a disk."""
    with Hosts(workdir, pki, hold=False, hold_source="source:copying") as both:
        yield both


@pytest.fixture
def there(workdir):
    folder = workdir / "there"
    folder.mkdir()
    return folder


class Several(Vm):
    """A guest with disks vda, vdb ..., each in an image of its name."""

    def __init__(self, workdir, qemu, n=2, how=disks.drive, more=(), last="qcow2"):
        self.names = [f"vd{letter}" for letter in "abc"[:n]]
        formats = dict.fromkeys(self.names, "qcow2") | {self.names[-1]: last}
        self.images = {name: disks.make(workdir / name, SIZE, formats[name]) for name in self.names}
        for seed, name in enumerate(self.names):
            disks.fill(self.images[name], MIB, DATA, formats[name], seed=seed)
        self.was = {}
        for name, image in self.images.items():
            self.was[name] = workdir / f"{name}.raw"
            images.run("qemu-img", "convert", "-O", "raw", image, self.was[name])
        extra = [word for name in self.names[1:]
                 for word in how(self.images[name], name, formats[name])]
        super().__init__(workdir, qemu, how=how, more=(*extra, *more), data=0, image=self.images["vda"])
        self.devices = {name: self.device.replace("vda", name) for name in self.names}

    def write_to(self, name, *what):
        self.device = self.devices[name]
        self.write(*what)

    def bitmaps(self):
        return [b["name"] for block in self.qmp.command("query-block")
                for b in block.get("inserted", {}).get("dirty-bitmaps", [])]

    def check_nothing_left(self, bitmaps=()):
        self.device = self.devices["vda"]
        super().check_nothing_left(bitmaps)


def words(vm, hosts, *options):
    return ("copy", "--qmp", vm.machine.drover_qmp, "--to", hosts.b.address, "--json", *options)


def said(result):
    lines = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def finish(hosts, command, stops):
    """Lets it go on, through so many stops."""
    for _ in range(stops):
        hosts.a.wait_held(unless=lambda: command.process.poll() is not None)
        hosts.a.release()
    return command.wait()


def copy(hosts, *args, stops):
    with hosts.a.running(*args) as command:
        result = finish(hosts, command, stops)
    assert result.status == 0, (result, hosts.a.said(), hosts.b.said())
    return result


@pytest.mark.parametrize("how", (disks.drive, disks.blockdev), ids=("drive", "blockdev"))
def test_warm(hosts, workdir, there, any_qemu, how):
    """All disks while it runs, each as at one moment; and when it is off what it has written since."""
    n = 3 if how is disks.blockdev else 2
    writes = ("-P 1 1M 1M", "-P 2 20M 64k")
    with Several(workdir, any_qemu, n, how) as vm:
        with hosts.a.running(*words(vm, hosts, "--dest-dir", there, "--bitmap", "b1")) as command:
            hosts.a.wait_held()
            for name in ("vda", "vdb"):
                vm.write_to(name, *writes)
            hosts.a.release()
            hosts.a.wait_held()
            assert len(images.leftovers(there)) == len(list(there.iterdir())) == 2
            for name in ("vda", "vdb"):
                vm.write_to(name, "-P 3 8M 128k")
            hosts.a.release()
            result = finish(hosts, command, n - 2)
        assert result.status == 0, (result, hosts.a.said())
        report = result.json
        assert [(d["id"], d["image"], d["dest"], d["state"], d["bitmap"]) for d in report["disks"]] == [
            (name, str(vm.images[name]), str(there / name), "completed", "b1") for name in vm.names]
        assert report["state"] == "completed" and report["disk"]["bytes"] == n * SIZE
        images.run("qemu-io", "-f", "raw", *(w for one in writes for w in ("-c", f"write {one}")), vm.was["vdb"])
        for name in vm.names:
            assert images.identical(vm.was[name], "raw", there / name, "qcow2")
        assert sorted(path.name for path in there.iterdir()) == vm.names
        vm.check_nothing_left(["b1"] * n)
        vm.quit()
        env = images.tools_env(any_qemu)
        assert not images.identical(vm.images["vda"], "qcow2", there / "vda", "qcow2", env)
        later = [word for d in report["disks"]
                 for word in ("--disk", f"{d['image']}={d['dest']}", "--base", d["digest"])]
        since = copy(hosts, "migrate", "--off", "--to", hosts.b.address, "--since", "b1", *later, "--json",
                     stops=n).json
        for name in vm.names:
            assert images.identical(vm.images[name], "qcow2", there / name, "qcow2", env)
        assert since["disk"]["data_bytes"] <= 3 * MIB
        assert since["disk"]["unread_bytes"] >= n * SIZE - 5 * MIB


def test_chosen(hosts, workdir, there):
    """Some of them, in the order that is asked for and under paths of their own; for people."""
    with Several(workdir, binary("10.0"), 3) as vm:
        node = vm.qmp.command("query-block")[1]["inserted"]["node-name"]
        result = copy(hosts, "copy", "--qmp", vm.machine.drover_qmp, "--to", hosts.b.address, "--dest-dir",
                      there, "--disk", "vdc", "--disk", f"{node}={there / 'b'}", "--dest-format", "raw",
                      stops=2)
        assert "the VM: 2 disks are now at" in result.stdout and "moment of its own" in result.stdout
        assert result.stderr.startswith("1 of 2: vdc\n")
        assert result.stderr.index("1 of 2: vdc") < result.stderr.index(f"2 of 2: {node}")
        assert sorted(path.name for path in there.iterdir()) == ["b", "vdc"]
        assert (there / "b").read_bytes() == vm.was["vdb"].read_bytes()
        assert (there / "vdc").read_bytes() == vm.was["vdc"].read_bytes()
        one = copy(hosts, *words(vm, hosts, "--disk", f"vda={there / 'a'}"), stops=1).json
        assert images.identical(vm.was["vda"], "raw", there / "a", "qcow2")
        assert [d["digest"] for d in one["disks"]] == [images.digest(vm.was["vda"])]
        vm.check_nothing_left()


# ---- cut short ----

def check_again(hosts, vm, there, *options, same):
    """The same once more has something to begin with, and arrives."""
    again = copy(hosts, *words(vm, hosts, "--dest-dir", there, *options), stops=2).json
    assert again["disk"]["same_bytes"] >= same
    assert sorted(path.name for path in there.iterdir()) == vm.names


@slow_with_old
def test_one_fails(hosts, workdir, there, any_qemu):
    """None has its name then, and none a bitmap; what came of the others is there for the next time."""
    with Several(workdir, any_qemu) as vm:
        with images.small_disk(workdir, MIB) as full:
            with hosts.a.running(*words(vm, hosts, "--disk", "vda", "--disk", f"vdb={full / 'vdb'}",
                                        "--dest-dir", there, "--bitmap", "b1")) as command:
                result = finish(hosts, command, 2)
            assert not list(full.iterdir())
        assert result.status == 1 and result.json["state"] == "failed"
        assert re.search(f"vdb: .*No space left on device.*; cancelled, too: {there}/vda$", said(result))
        assert not (there / "vda").exists() and len(images.leftovers(there)) == 1
        vm.check_nothing_left()
        check_again(hosts, vm, there, "--bitmap", "b1", same=DATA)
        vm.check_nothing_left(["b1"] * 2)


class Stopped:
    """The source's daemon has stopped itself as it was about to read the n-th disk."""

    def __init__(self, hosts, vm, n, *options):
        self.command = hosts.a.running(*words(vm, hosts, *options))
        for i in range(n + 1):
            if i > 0:
                hosts.a.release()
            hosts.a.wait_held()

    def __enter__(self):
        return self.command

    def __exit__(self, *_):
        self.command.close()


@slow_with_old
@pytest.mark.parametrize("at", (0, 1))
def test_interrupt(hosts, workdir, there, any_qemu, at):
    with Several(workdir, any_qemu) as vm:
        with Stopped(hosts, vm, at, "--dest-dir", there, "--bitmap", "b1", "--bandwidth", "1M") as command:
            command.process.send_signal(signal.SIGINT)
            hosts.a.release()
            result = command.wait()
        assert result.status == 4 and result.json["state"] == "cancelled", result
        assert [d["state"] for d in result.json["disks"]] == ["cancelled"] * 2
        vm.check_nothing_left()
    wait_until(lambda: not list(there.iterdir()), "the other end to clean up")


@slow_with_old
@pytest.mark.parametrize("which", ("source", "destination"))
def test_daemon_is_killed(hosts, workdir, there, any_qemu, which):
    """While the second disk is read: the first one cannot be read again, as it was."""
    with Several(workdir, any_qemu) as vm:
        with Stopped(hosts, vm, 1, "--dest-dir", there, "--bitmap", "b1") as command:
            daemon = hosts.a if which == "source" else hosts.b
            daemon.kill()
            daemon.start()
            if which == "destination":
                hosts.a.release()
            result = command.wait()
        assert result.status == 1, result
        whose = "droverd" if which == "source" else "the other daemon"
        assert f"vda: {whose} has ended while the guest's disk was copied: start the copy again" in said(result)
        vm.check_nothing_left()
        assert not list(there.glob("vd*"))
        check_again(hosts, vm, there, same=DATA)


@slow_with_old
def test_daemon_is_stopped(hosts, workdir, there, any_qemu):
    """It takes the view of the second disk back, and the bitmaps of both."""
    with Several(workdir, any_qemu) as vm:
        with Stopped(hosts, vm, 1, "--dest-dir", there, "--bitmap", "b1", "--bandwidth", "1M") as command:
            hosts.a.process.send_signal(signal.SIGTERM)
            hosts.a.release()
            assert hosts.a.process.wait(60) == 0
            vm.check_nothing_left()
            hosts.a.start()
            assert command.wait().status == 4
    wait_until(lambda: not list(there.iterdir()), "the other end to clean up")


@slow_with_old
def test_command_is_killed(hosts, workdir, there, any_qemu):
    """The daemon goes on, with those that are to come as well."""
    with Several(workdir, any_qemu) as vm:
        with Stopped(hosts, vm, 0, "--dest-dir", there) as command:
            command.process.kill()
            hosts.a.release()
            hosts.a.wait_held()
            hosts.a.release()
        wait_until(lambda: sorted(path.name for path in there.iterdir()) == vm.names, "both to arrive", 60)
        for name in vm.names:
            assert images.identical(vm.was[name], "raw", there / name, "qcow2")
        vm.check_nothing_left()


def test_qemu_ends(hosts, workdir, there):
    with Several(workdir, binary("10.0")) as vm:
        with Stopped(hosts, vm, 1, "--dest-dir", there, "--bitmap", "b1") as command:
            vm.quit()
            hosts.a.release()
            result = command.wait()
        assert result.status == 1 and "vdb: the guest's QEMU has ended or closed its QMP socket" in said(result)
        assert not list(there.glob("vd*"))


def test_busy(workdir, pki, there):
    """One of its disks is read: no other one is meanwhile, but in its turn."""
    with Hosts(workdir, pki, hold=False) as hosts, Several(workdir, binary("10.0")) as vm, \
            hosts.a.running(*words(vm, hosts, "--dest-dir", there, "--bandwidth", "64K")) as command:
        wait_for_view(hosts)
        refused(hosts, vm, "a disk of the VM at .* is being copied by job", "--disk", "vdb", "--dest", there / "x")
        command.process.send_signal(signal.SIGINT)
        assert command.wait().status == 4
        vm.check_nothing_left()


@pytest.mark.slow
def test_somebody_else_asks_qemu_in_between(hosts, workdir, there):
    """Between two disks the QMP socket is free. Who takes it then is waited for."""
    with Several(workdir, binary("10.0")) as vm:
        with Stopped(hosts, vm, 0, "--dest-dir", there) as command, \
                socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(vm.machine.drover_qmp))  # the next one whom QEMU hears
            hosts.a.release()
            assert b"QMP" in visitor.recv(4096)
            wait_until(lambda: "somebody else has the QMP socket" in hosts.a.said(), "it to be waited for")
            visitor.close()
            result = finish(hosts, command, 1)
        assert result.status == 0, result


# ---- what is refused ----

def refused(hosts, vm, pattern, *options, status=1):
    result = hosts.a.drover(*words(vm, hosts, *options))
    assert result.status == status and re.search(pattern, said(result)), result


@slow_with_old
def test_refused(hosts, workdir, there, any_qemu):
    """Before anything is read: what comes first has not arrived."""
    fixed = disks.make(workdir / "fixed", MIB, "raw")
    more = ("-drive", f"if=ide,id=fixed,media=cdrom,format=raw,readonly=on,file={fixed}",
            "-drive", "if=ide,id=empty,media=cdrom")
    where = ("--dest-dir", there)
    with Several(workdir, any_qemu, more=more, last="raw") as vm:
        node = vm.qmp.command("query-block")[0]["inserted"]["node-name"]
        for pattern, args in [
                (r"'none' is none of the guest's \(vda, vdb, fixed, empty\)", ("--disk", "vda", "--disk", "none")),
                ("^drover: fixed: .*disk 'fixed' is read-only, .*; cancelled, too:",
                 ("--disk", "vda", "--disk", "fixed")),
                ("disk 'empty' has no medium", ("--disk", "vda", "--disk", f"empty={there / 'e'}")),
                ("disk 'vdb' is no qcow2 image, and only those keep bitmaps", ("--bitmap", "b1")),
                ("^drover: vdb: at the destination: /no cannot be used: No such file",
                 ("--disk", "vda", "--disk", "vdb=/no/vdb")),
                ("at the destination: .*/etc.* is where the system keeps its own files",
                 ("--disk", "vda=/etc/vda", "--disk", "vdb")),
                ("^drover: vdb: at the destination: .*compress", ("--compress",)),
        ]:
            refused(hosts, vm, pattern, *where, *args)
        for pattern, args in [
                (f"--disk '{node}' is given already", ("--disk", "vda", "--disk", node)),
                (f"two images would become '{there}/x' over there: give one another path, as in --disk vdb=PATH",
                 ("--disk", f"vda={there / 'x'}", "--disk", f"vdb={there / 'x'}")),
                ("--format and --since are for images that no QEMU has open", ("--format", "raw")),
        ]:
            refused(hosts, vm, pattern, *where, *args, status=2)
        refused(hosts, vm, "disk 'empty': its image here is '', which is no absolute path", "--disk", "empty",
                status=2)
        refused(hosts, vm, "--dest-dir 'x' must be an absolute path", "--dest-dir", "x", status=2)
        assert not list(there.iterdir())
        vm.check_nothing_left()


def unheard_of(frame):
    """The destination is an older one, which cannot be asked beforehand."""
    if not frame.to_dest or not frame.message or frame.message.get("call") != "copy.check":
        return None
    frame.message = {**frame.message, "call": "copy.of-later"}
    return [frame]


def test_older_destination(workdir, there):
    pki = make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1", "m=127.0.0.1")
    with Hosts(workdir, pki, hold=False) as hosts, Several(workdir, binary("10.0")) as vm, \
            Impostor(hosts.b.address, pki / "m", unheard_of) as between:
        result = hosts.a.drover("copy", "--qmp", vm.machine.drover_qmp, "--to", between.address, "--lanes", "1",
                                "--dest-dir", there)
        assert result.status == 0, (result, hosts.b.said())
        assert between.error is None
        assert sorted(path.name for path in there.iterdir()) == vm.names


def test_nothing_to_copy(hosts, workdir):
    image = disks.make(workdir / "vda", MIB, "raw")
    with Vm(workdir, binary("10.0"), "raw", data=0, image=image,
            how=lambda path, name, fmt: disks.drive(path, name, fmt, ",readonly=on")) as vm:
        refused(hosts, vm, "the VM has no disk that it writes to")


def test_wrong_use(hosts, workdir):
    to = ("--to", hosts.b.address)
    for pattern, args in [
            ("--dest is missing", ("a",)),
            ("--dest is missing", ("a", "--qmp", "q")),
            ("--dest is the path of one disk", ("--qmp", "q", "--disk", "a", "--disk", "b", "--dest", "/d")),
            ("--dest is the path of one disk", ("--qmp", "q", "--disk", "a=/b", "--dest", "/d")),
            ("--dest-dir is for disks of running guests", ("a", "--dest", "/d", "--dest-dir", "/d")),
    ]:
        result = hosts.a.drover("copy", *to, *args)
        assert result.status == 2 and re.search(pattern, said(result)), result
    result = hosts.a.drover("copy", *to, "--qmp", workdir / "none")
    assert result.status == 1 and "the VM's QMP socket cannot be used" in said(result)
