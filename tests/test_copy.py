# SPDX-License-Identifier: Apache-2.0
"""'drover copy': a stopped machine's disk to another host, whatever is cut or killed on the way."""
import contextlib
import os
import re
import shutil
import signal
import time

import pytest

from harness import images
from harness.daemon import make_pki
from harness.handover import Hosts
from harness.images import MIB
from harness.impostor import Impostor
from harness.liar import PING
from harness.relay import Relay
from harness.scene import wait_until

SLOW = ("--bandwidth", "8M")
SENT_AGAIN = 64 * MIB  # at most, after a kill


@pytest.fixture
def hosts(workdir, pki):
    with Hosts(workdir, pki, hold=False) as both:
        yield both


@pytest.fixture
def raw(workdir):
    return images.make_raw(workdir / "a.raw")


@pytest.fixture
def there(workdir):
    folder = workdir / "there"
    folder.mkdir()
    return folder


def copy(hosts, image, dest, *options, to=None, status=0):
    result = hosts.a.drover("copy", image, "--to", to or hosts.b.address, "--dest", dest, "--json",
                            *options)
    assert result.status == status, (result, hosts.a.said(), hosts.b.said())
    return result


def refused(hosts, pattern, *args, status=1, **options):
    result = copy(hosts, *args, status=status, **options)
    said = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
    assert len(said) == 1 and re.search(pattern, said[0]), result.stderr
    if status == 1:
        assert result.json["state"] == "failed" and re.search(pattern, result.json["error"])
    return result


def random_image(path, size):
    path.write_bytes(os.urandom(size))
    return path


def check_report(report, size):
    disk = report["disk"]
    assert report["state"] == "completed" and report["error"] is None
    assert disk["bytes"] == size == disk["data_bytes"] + disk["zero_bytes"] + disk["same_bytes"]
    assert report["lanes"] >= 1 and report["total_ms"] >= 0


@pytest.mark.parametrize("source,dest", [("raw", "raw"), ("raw", "qcow2"), ("qcow2", "raw"),
                                         ("vmdk", "qcow2"), ("vdi", "vhdx"), ("vhdx", "vmdk"),
                                         ("qcow2", "vdi")])
def test_formats(hosts, workdir, there, raw, source, dest):
    image = raw if source == "raw" else images.convert(raw, workdir / "b", source)
    report = copy(hosts, image, there / "c", "--format", source, "--dest-format", dest).json
    assert images.identical(raw, "raw", there / "c", dest)
    check_report(report, raw.stat().st_size)
    assert report["digest"] == images.digest(raw)
    assert [p.name for p in there.iterdir()] == ["c"]


def test_holes_cost_nothing(hosts, workdir, there):
    image = workdir / "a"
    with open(image, "wb") as f:
        f.truncate(100 << 30)
        f.seek(70 << 30)
        f.write(b"here")
    report = copy(hosts, image, there / "c", "--format", "raw").json
    assert report["disk"]["wire_bytes"] < MIB
    assert (there / "c").stat().st_blocks * 512 <= 2 * MIB
    assert (there / "c").stat().st_size == 100 << 30


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_only_what_differs(hosts, workdir, there, form):
    raw = random_image(workdir / "a.raw", 32 * MIB)
    image = raw if form == "raw" else images.convert(raw, workdir / "b", form)
    first = copy(hosts, image, there / "c", "--format", form).json
    assert first["disk"]["data_bytes"] == 32 * MIB
    again = copy(hosts, image, there / "c", "--format", form).json
    assert again["disk"]["same_bytes"] == 32 * MIB and again["disk"]["wire_bytes"] < MIB
    images.change(raw, 5 * MIB)
    with open(raw, "r+b") as f:
        f.seek(9 * MIB)
        f.write(bytes(2 * MIB))
    if form != "raw":
        images.convert(raw, image, form)
    third = copy(hosts, image, there / "c", "--format", form).json
    assert third["disk"]["data_bytes"] == 65536 and third["disk"]["zero_bytes"] == 2 * MIB
    assert third["disk"]["wire_bytes"] < MIB
    assert images.identical(raw, "raw", there / "c", form)
    whole = copy(hosts, image, there / "c", "--format", form, "--delta", "off").json
    assert whole["disk"]["data_bytes"] == 30 * MIB and whole["digest"] == third["digest"]


def test_a_damaged_older_version_is_not_built_upon(hosts, workdir, there):
    """Two clusters of its disk are one in its file: what is written to one comes out of the other."""
    raw = random_image(workdir / "a", MIB)
    older = images.convert(random_image(workdir / "b", MIB), there / "c", "qcow2")
    with open(older, "r+b") as f:
        f.seek(40)
        f.seek(int.from_bytes(f.read(8), "big"))
        table = int.from_bytes(f.read(8), "big") & 0x00fffffffffffe00
        f.seek(table)
        first = f.read(8)
        f.write(first)
    copy(hosts, raw, there / "c", "--format", "raw", "--dest-format", "qcow2")
    assert images.identical(raw, "raw", there / "c", "qcow2")


# qemu-nbd that takes its time to end.
SLOW_TO_END = """#!/bin/sh
sh -c 'export LISTEN_PID=$$; exec %s "$@"' sh "$@"
status=$?
sleep %s
touch %s
exit $status
"""


def slow_tools(workdir, seconds):
    """The environment in which qemu-nbd is like that, and leaves WORKDIR/ended."""
    tool = workdir / "bin" / "qemu-nbd"
    tool.parent.mkdir()
    tool.write_text(SLOW_TO_END % (shutil.which("qemu-nbd"), seconds, workdir / "ended"))
    tool.chmod(0o755)
    return {"PATH": f"{tool.parent}:{os.environ['PATH']}"}


def test_the_image_is_free_when_it_is_done(workdir, pki, there):
    """Whoever waits for the copy may start a VM with the image right away."""
    (workdir / "a.raw").write_bytes(b"compressed, and so read through qemu-nbd" * (MIB // 40))
    image = images.convert(workdir / "a.raw", workdir / "a", "qcow2", "-c")
    with Hosts(workdir, pki, hold=False, env=slow_tools(workdir, 1)) as hosts:
        copy(hosts, image, there / "c", "--dest-format", "raw")
        assert (workdir / "ended").exists()


def test_another_size_or_format_replaces(hosts, workdir, there, raw):
    random_image(there / "c", 3 * MIB)
    assert copy(hosts, raw, there / "c", "--format", "raw").json["disk"]["same_bytes"] == 0
    assert (there / "c").read_bytes() == raw.read_bytes()
    copy(hosts, raw, there / "c", "--format", "raw", "--dest-format", "qcow2", "-o",
         "cluster_size=128k")
    assert images.identical(raw, "raw", there / "c", "qcow2")


def test_since(hosts, workdir, there, any_qemu):
    """Only what changed is read: what a bitmap does not know of is not seen."""
    env = images.tools_env(any_qemu)
    raw = random_image(workdir / "a.raw", 20 * MIB + 512)
    image = images.convert(raw, workdir / "b", "qcow2")
    first = copy(hosts, image, there / "c").json
    images.run("qemu-img", "bitmap", "--add", image, "b:1", env=env)
    write = ["-c", "write -P 5 3M 4k", "-c", "write -z 8M 1M", "-c", "write -P 6 20M 512"]
    images.run("qemu-io", "-f", "qcow2", *write, image, env=env)
    since = ("--since", "b:1", "--base", first["digest"])
    second = copy(hosts, image, there / "c", *since).json
    check_report(second, 20 * MIB + 512)
    assert second["disk"]["data_bytes"] == 65536 + 512 and second["disk"]["zero_bytes"] == MIB
    assert second["disk"]["unread_bytes"] == second["disk"]["same_bytes"] == 19 * MIB - 65536
    assert images.identical(image, "qcow2", there / "c", "qcow2")
    images.run("qemu-img", "convert", "-O", "raw", image, raw)
    assert second["digest"] == images.digest(raw)

    again = copy(hosts, image, there / "c", *since).json  # the base is there no more
    assert again["disk"]["unread_bytes"] == 0 and again["digest"] == second["digest"]
    (there / "c").unlink()
    whole = copy(hosts, image, there / "c", *since).json
    assert whole["disk"]["unread_bytes"] == 0 and whole["digest"] == second["digest"]


def test_bad_since(hosts, workdir, there, raw):
    image = images.convert(raw, workdir / "b", "qcow2")
    digest = "0" * 64
    why = "has no bitmap 'x' that has recorded every change"
    since = ("--since", "x", "--base", digest)
    refused(hosts, why, raw, there / "c", "--format", "raw", *since)
    refused(hosts, why, image, there / "c", *since)
    images.run("qemu-img", "bitmap", "--add", image, "x")
    top = workdir / "top"
    images.run("qemu-img", "create", "-f", "qcow2", "-b", image, "-F", "qcow2", top)
    refused(hosts, why, top, there / "c", *since)
    images.run("qemu-img", "bitmap", "--disable", image, "x")
    refused(hosts, why, image, there / "c", *since)
    refused(hosts, "go together", image, there / "c", "--since", "x", status=2)
    refused(hosts, "go together", image, there / "c", "--base", digest, status=2)
    refused(hosts, "go together", image, there / "c", *since, "--delta", "off", status=2)
    refused(hosts, "'abc' is no digest", image, there / "c", "--since", "x", "--base", "abc",
            status=2)
    assert not list(there.iterdir())


# ---- what is refused ----

def test_bad_input(hosts, workdir, there, raw):
    qcow2 = images.convert(raw, workdir / "b.qcow2", "qcow2")
    refused(hosts, "is not in qcow2 format", raw, there / "c", "--format", "qcow2")
    refused(hosts, "none cannot be used: No such file", workdir / "none", there / "c")
    with images.Holder(qcow2, "qcow2", workdir / "s"):
        refused(hosts, "lock", qcow2, there / "c")
    top = workdir / "top.qcow2"
    images.run("qemu-img", "create", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", top)
    os.truncate(qcow2, qcow2.stat().st_size // 2)
    refused(hosts, "it is damaged", qcow2, there / "c")
    qcow2.unlink()
    refused(hosts, r"Could not open .*b\.qcow2.*No such file", top, there / "c")
    images.run_until("qemu-img", "create", "-f", "luks", "--object", "secret,id=s,data=geheim", "-o",
                     "key-secret=s,iter-time=10", qcow2, "1M")
    refused(hosts, "it is encrypted, and drover has no key", qcow2, there / "c")
    os.mkfifo(workdir / "pipe")
    refused(hosts, "neither a file nor a block device", workdir / "pipe", there / "c")
    refused(hosts, "at the destination: .*No such file", raw, there / "no" / "c", "--format", "raw")
    refused(hosts, "at the destination: .*nonsense", raw, there / "c", "--format", "raw",
            "--dest-format", "qcow2", "-o", "nonsense=1")
    refused(hosts, "'qed' cannot be made", raw, there / "c", "--dest-format", "qed", status=2)
    refused(hosts, "must be an absolute path on the other host", raw, "c", status=2)
    refused(hosts, "refused|cannot be reached", raw, there / "c", "--format", "raw",
            to="127.0.0.1:1")
    assert not list(there.iterdir())


def test_folders(workdir, pki, raw, there):
    config = workdir / "conf"
    config.write_text(f"[daemon]\nimages={there}:{workdir / 'here'}\n")
    here, other = workdir / "here", workdir / "other"
    here.mkdir()
    other.mkdir()
    inside = images.make_raw(here / "a.raw")
    (there / "out").symlink_to(other)
    (here / "in").symlink_to(raw)
    with Hosts(workdir, pki, hold=False, config=config) as hosts:
        copy(hosts, inside, there / "c", "--format", "raw")
        why = "in none of the folders"
        refused(hosts, why, inside, other / "c", "--format", "raw")
        refused(hosts, why, inside, there / ".." / "other" / "c", "--format", "raw")
        refused(hosts, why, inside, there / "out" / "c", "--format", "raw")
        refused(hosts, why, raw, there / "d", "--format", "raw")
        refused(hosts, why, here / "in", there / "d", "--format", "raw")
        top = here / "top.qcow2"
        images.run("qemu-img", "create", "-f", "qcow2", "-b", raw, "-F", "raw", top)
        refused(hosts, "refers to another file.*" + why, top, there / "d")
        refers = "refers to another file.*" + why
        images.run("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={other / 'd'}", top, "1M")
        refused(hosts, refers, top, there / "d")
        listing = here / "list.vmdk"  # a guest can write such a thing to its raw disk
        listing.write_text('# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n'
                           'createType="monolithicFlat"\n'
                           f'RW {raw.stat().st_size // 512} FLAT "{raw}" 0\n')
        refused(hosts, refers, listing, there / "d", "--dest-format", "raw")
    assert sorted(p.name for p in there.iterdir()) == ["c", "out"]
    assert [p.name for p in other.iterdir()] == ["d"]


def test_system_folders_are_not_written(hosts, raw):
    refused(hosts, "where the system keeps its own files", raw, "/etc/drover-test", "--format",
            "raw")
    refused(hosts, "where the system keeps its own files", raw, "/usr/lib/drover-test", "--format",
            "raw")


def test_devices(hosts, workdir, pki, there, raw):
    disk = there / "disk"
    disk.write_bytes(raw.read_bytes() + b"\xff" * MIB)
    images.change(disk, 3 * MIB)
    with images.loop_device(disk) as device:
        why = "where the system keeps its own files"  # /dev is
        refused(hosts, why, raw, device, "--format", "raw")
    config = workdir / "conf"
    config.write_text(f"[daemon]\nimages=/dev:{workdir}\n")
    (workdir / "2").mkdir()
    with images.loop_device(disk) as device, \
            Hosts(workdir / "2", pki, hold=False, config=config) as others:
        report = copy(others, raw, device, "--format", "raw").json
        assert report["disk"]["data_bytes"] <= 128 << 10
        refused(others, "takes raw images", raw, device, "--format", "raw", "--dest-format",
                "qcow2")
        copy(others, device, there / "c", "--format", "raw")
        os.truncate(raw, disk.stat().st_size + MIB)
        refused(others, "at the destination: .* is too small", raw, device, "--format", "raw")
    assert (there / "c").read_bytes() == disk.read_bytes()


def test_no_vm_starts_from_a_device_that_is_written(workdir, pki, there):
    image = random_image(workdir / "a", 16 * MIB)
    disk = random_image(there / "disk", 16 * MIB)
    config = workdir / "conf"
    config.write_text(f"[daemon]\nimages=/dev:{workdir}\n")
    with images.loop_device(disk) as device, Hosts(workdir, pki, hold=False, config=config) as hosts:
        with start(hosts, image, device, "--bandwidth", "4M") as command:
            wait_until(lambda: disk.read_bytes()[:MIB] == image.read_bytes()[:MIB], "it to begin")
            with pytest.raises(RuntimeError):
                images.Holder(device, "raw", workdir / "s")
            command.process.send_signal(signal.SIGINT)
            assert command.wait().status == 4
        wait_until(lambda: is_free(device, workdir), "the device to be free")


def is_free(device, workdir):
    try:
        with images.Holder(device, "raw", workdir / "s"):
            return True
    except RuntimeError:
        return False


def test_tools_of_every_version(workdir, pki, there, raw, any_qemu):
    path = images.tools_env(any_qemu)["PATH"]
    prefix = ("env", f"PATH={path}")
    with Hosts(workdir, pki, hold=False, prefixes=(prefix, prefix)) as hosts:
        copy(hosts, raw, there / "c", "--format", "raw", "--dest-format", "qcow2")
        copy(hosts, there / "c", there / "d", "--dest-format", "vmdk")
        images.change(raw, 7 * MIB)
        report = copy(hosts, raw, there / "c", "--format", "raw", "--dest-format", "qcow2").json
        assert report["disk"]["data_bytes"] == 65536
        packed = copy(hosts, raw, there / "e", "--format", "raw", "--dest-format", "qcow2",
                      "--compress")
        assert packed.json["digest"] == report["digest"] == images.digest(raw)
    assert images.identical(raw, "raw", there / "c", "qcow2")
    assert images.identical(raw, "raw", there / "e", "qcow2")


def test_bad_destination(hosts, workdir, there, raw):
    used = images.convert(raw, there / "c", "qcow2")
    options = ("--format", "raw", "--dest-format", "qcow2")
    with images.Holder(used, "qcow2", workdir / "s"):
        refused(hosts, "at the destination: .* is in use: stop the VM", raw, used, *options)
    link = there / "link"
    link.symlink_to(used)
    refused(hosts, "at the destination: .* is a symbolic link", raw, link, *options)
    refused(hosts, "at the destination: .* neither a file nor", raw, there, *options)
    big = random_image(workdir / "big", 10 * MIB)
    with images.small_disk(workdir, 9 * MIB) as folder:
        refused(hosts, "at the destination: .*No space left on device", big, folder / "c",
                "--format", "raw")
        assert not list(folder.iterdir())
    assert sorted(p.name for p in there.iterdir()) == ["c", "link"]


# ---- cut short ----

def written(folder):
    """How much there is under the temporary name."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob(".*.drover-*"))


def wait_for_data(folder, size, hosts, timeout=60):
    """Until so much has been written under the temporary name."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if written(folder) >= size:
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing comes: {hosts.a.said()}\n{hosts.b.said()}")


@pytest.fixture
def big(workdir):
    return random_image(workdir / "big", 96 * MIB)


def start(hosts, image, dest, *options, to=None):
    return hosts.a.running("copy", image, "--to", to or hosts.b.address, "--dest", dest, "--json",
                           "--format", "raw", *options)


def check_done(command, image, there, form="raw"):
    result = command.wait()
    assert result.status == 0, result
    assert images.identical(image, "raw", there / "c", form)
    assert not images.leftovers(there)
    return result.json


def test_cancel(hosts, big, there):
    with start(hosts, big, there / "c", *SLOW) as command:
        wait_for_data(there, 4 * MIB, hosts)
        command.process.send_signal(signal.SIGINT)
        result = command.wait()
    assert result.status == 4 and result.json["state"] == "cancelled"
    wait_until(lambda: not list(there.iterdir()), "the destination to tidy up")


class Held:
    """The destination does not hear of a copy's end until release() says so."""

    def __init__(self, workdir, release=lambda pings: False):
        self._workdir, self._release = workdir, release
        self._kept, self._pings = [], 0

    def _lie(self, frame):
        if frame.to_dest and frame.message and frame.message.get("call") == "copy.abort":
            self._kept.append(frame)
            return []
        self._pings += bool(self._kept) and frame.kind == PING  # one a second
        if frame.to_dest and self._kept and self._release(self._pings):
            return [self._kept.pop(), frame]
        return None

    @contextlib.contextmanager
    def cancelled(self, there):
        """One that was, at its source."""
        pki = make_pki(self._workdir / "pki", "a=127.0.0.1", "b=127.0.0.1", "m=127.0.0.1")
        image = random_image(self._workdir / "a.raw", 64 * MIB)
        with Hosts(self._workdir, pki, hold=False) as hosts, \
                Impostor(hosts.b.address, pki / "m", self._lie) as between:
            with start(hosts, image, there / "c", "--lanes", "1", *SLOW, to=between.address) as command:
                wait_for_data(there, MIB, hosts)
                command.process.send_signal(signal.SIGINT)
                assert command.wait().status == 4
            yield hosts
            assert between.error is None


def test_cancel_that_comes_late(workdir, there):
    """Until the destination has heard of it the session stays: its end alone says that the copy may be taken up."""
    with Held(workdir, lambda pings: pings > 3).cancelled(there):
        wait_until(lambda: not list(there.iterdir()), "the destination to tidy up")


def test_stopped_before_a_cancel_was_heard(workdir, there):
    with Held(workdir).cancelled(there) as hosts:
        assert hosts.a.stop() == 0, hosts.a.said()


def test_two_to_the_same_place(hosts, big, there):
    with start(hosts, big, there / "c", *SLOW) as command:
        wait_for_data(there, 4 * MIB, hosts)
        job = hosts.a.drover("jobs", "--json").json["jobs"][0]["job"]
        refused(hosts, f"c is being written by another copy of yours, {job}: wait", big, there / "c",
                "--format", "raw")
        wait_for_data(there, written(there) + 2 * MIB, hosts)  # nothing has happened to it
        command.process.send_signal(signal.SIGINT)
        assert command.wait().status == 4


def test_a_vm_starts_from_what_is_to_be_replaced(hosts, workdir, there):
    """It would go on in a file without a name, and what it writes be lost with it."""
    image = random_image(workdir / "a", 16 * MIB)
    old = random_image(there / "c", 2 * MIB).read_bytes()
    with start(hosts, image, there / "c", *SLOW) as command:
        wait_for_data(there, MIB, hosts)
        with images.Holder(there / "c", "raw", workdir / "s"):
            result = command.wait()
    assert result.status == 1 and result.json["state"] == "failed"
    assert "c cannot be given its name: " in result.json["error"]
    assert "c is in use: stop the VM" in result.json["error"]
    assert (there / "c").read_bytes() == old
    with start(hosts, image, there / "c") as command:
        assert check_done(command, image, there)["disk"]["same_bytes"] == 16 * MIB


def test_link_is_cut(hosts, big, there):
    with Relay(*hosts.b.address.rsplit(":", 1)) as relay:
        with start(hosts, big, there / "c", *SLOW, to=relay.address) as command:
            wait_for_data(there, 4 * MIB, hosts)
            for size in (16, 32):
                relay.cut()
                relay.restore()
                wait_for_data(there, size * MIB, hosts)
            report = check_done(command, big, there)
    assert report["reconnects"] >= 1
    assert report["disk"]["data_bytes"] == 96 * MIB


@pytest.mark.parametrize("form", [pytest.param("raw", marks=pytest.mark.slow), "qcow2",
                                  pytest.param("qcow2-packed", marks=pytest.mark.slow)])
def test_destination_is_killed(hosts, big, there, form):
    form, _, packed = form.partition("-")
    with start(hosts, big, there / "c", "--dest-format", form, "--bandwidth", "24M",
               *(["--compress"] if packed else [])) as command:
        wait_for_data(there, 80 * MIB, hosts)
        hosts.b.kill()
        assert not (there / "c").exists()
        hosts.b.start()
        report = check_done(command, big, there, form)
    assert report["disk"]["same_bytes"] >= 80 * MIB - SENT_AGAIN
    assert report["disk"]["wire_bytes"] < (96 + 64) * 1.1 * MIB


@pytest.mark.parametrize("stop", [False, pytest.param(True, marks=pytest.mark.slow)],
                         ids=["kill", "stop"])
def test_source_goes_and_comes_back(hosts, big, there, stop):
    with start(hosts, big, there / "c", "--bandwidth", "24M") as command:
        wait_for_data(there, 80 * MIB, hosts)
        if stop:
            assert hosts.a.stop() == 0
        else:
            hosts.a.kill()
        assert not (there / "c").exists()
        hosts.a.start()
        report = check_done(command, big, there)
    assert report["disk"]["same_bytes"] >= 80 * MIB - SENT_AGAIN


def test_away_too_long(hosts, big, there):
    with start(hosts, big, there / "c", "--bandwidth", "24M", "--drop-timeout", "1") as command:
        wait_for_data(there, 80 * MIB, hosts)
        hosts.b.kill()
        result = command.wait()
    assert result.status == 1 and "has been away for 1 s" in result.json["error"]
    assert len(images.leftovers(there)) == 1
    hosts.b.start()
    with start(hosts, big, there / "c") as command:
        report = check_done(command, big, there)
    assert report["disk"]["same_bytes"] >= 80 * MIB - SENT_AGAIN


@pytest.mark.slow
def test_many_after_each_other(hosts, workdir, big, there):
    """Those that are over take up no room, though their session goes on."""
    small = random_image(workdir / "small", 65536)
    with start(hosts, big, there / "c", "--bandwidth", "1M") as command:
        wait_for_data(there, MIB, hosts)
        for i in range(40):
            copy(hosts, small, there / f"small{i}", "--format", "raw")
        assert command.process.poll() is None


def give_up(hosts, image, there, *options):
    """A copy that the source has given up while the destination waits for the link."""
    with Relay(*hosts.b.address.rsplit(":", 1)) as relay:
        with start(hosts, image, there / "c", *SLOW, "--drop-timeout", "1", *options,
                   to=relay.address) as command:
            wait_for_data(there, 8 * MIB, hosts)
            relay.cut()
            result = command.wait()
    assert result.status == 1 and "has been away for 1 s" in result.json["error"]


def test_what_is_over_here_is_taken_over(hosts, workdir, there):
    """The next one needs not wait until the destination has given up, too; but nobody else's may come."""
    image = random_image(workdir / "big", 24 * MIB)
    give_up(hosts, image, there)
    refused_to_b = hosts.b.drover("copy", image, "--to", hosts.b.address, "--dest", there / "c", "--format",
                                  "raw")
    assert refused_to_b.status == 1
    assert "c is being written by another copy: wait" in refused_to_b.stderr
    with start(hosts, image, there / "c") as command:
        report = check_done(command, image, there)
    assert report["disk"]["same_bytes"] >= 8 * MIB


@pytest.mark.slow
def test_it_ends_before_the_next_begins(workdir, pki, there):
    """However long its qemu-nbd takes to close the image."""
    image = random_image(workdir / "big", 24 * MIB)
    with Hosts(workdir, pki, hold=False, env=slow_tools(workdir, 8)) as hosts:
        give_up(hosts, image, there, "--dest-format", "qcow2")
        assert not (workdir / "ended").exists()
        with start(hosts, image, there / "c", "--dest-format", "qcow2") as command:
            wait_until(lambda: "is over there: its place is free" in hosts.b.said(), "it to come")
            assert not (workdir / "ended").exists()
            report = check_done(command, image, there, "qcow2")
    assert report["disk"]["same_bytes"] >= 8 * MIB


def test_jobs_tell_of_it(hosts, raw, there):
    report = copy(hosts, raw, there / "c", "--format", "raw").json
    shown = hosts.a.drover("show", report["job"], "--json").json
    assert (shown["kind"], shown["vm"], shown["state"]) == ("copy", "a.raw", "done")
    assert shown["result"] == report
    text = hosts.a.drover("show", report["job"]).stdout
    assert report["digest"] in text
    hosts.a.kill()
    hosts.a.start()
    assert hosts.a.drover("show", report["job"], "--json").json["kind"] == "copy"
