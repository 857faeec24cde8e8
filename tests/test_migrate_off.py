# SPDX-License-Identifier: Apache-2.0
"""A VM that is off, or as good as: 'drover migrate --off', and guests that are paused or have shut down."""
import os
import re
import signal

import pytest

from harness import images
from harness.handover import Hosts
from harness.images import MIB
from harness.scene import one_sentence, wait_until
from test_disks import MIRROR, Pair, left_in_qemu, scene_with


@pytest.fixture
def hosts(workdir, pki):
    with Hosts(workdir, pki, hold=False) as both:
        yield both


@pytest.fixture
def there(workdir):
    folder = workdir / "there"
    folder.mkdir()
    return folder


def words(hosts, *args):
    return ("migrate", "--off", "--to", hosts.b.address, "--json", *args)


def migrate(hosts, *args, status=0):
    result = hosts.a.drover(*words(hosts, *args))
    assert result.status == status, (result, hosts.a.said(), hosts.b.said())
    return result


def said(result):
    lines = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def big(path, size=24 * MIB):
    path.write_bytes(os.urandom(size))
    return path


def test_all_disks(hosts, workdir, there):
    one = images.make_raw(workdir / "one.raw")
    two = images.convert(one, workdir / "two.qcow2", "qcow2")
    where = ("--disk", one, "--disk", f"{two}={there / 'other'}", "--dest-dir", there)
    report = migrate(hosts, *where, "--name", "web1").json
    assert images.identical(one, "raw", there / "one.raw", "raw")
    assert images.identical(two, "qcow2", there / "other", "qcow2")
    assert (report["vm"], report["state"], report["error"]) == ("web1", "completed", None)
    assert report["disk"]["bytes"] == 2 * one.stat().st_size
    assert [(d["image"], d["dest"], d["state"], d["digest"]) for d in report["disks"]] == [
        (str(one), str(there / "one.raw"), "completed", images.digest(one)),
        (str(two), str(there / "other"), "completed", images.digest(one))]
    assert one.exists() and two.exists()
    again = hosts.a.drover("migrate", "--off", "--to", hosts.b.address, *where)
    assert again.status == 0 and "2 disks are now at" in again.stdout, again
    assert images.digest(one) in again.stdout and "0 B of data sent" in again.stdout, again.stdout


@pytest.mark.parametrize("fmt", ("qcow2", "raw"))
def test_since(hosts, workdir, there, fmt):
    """Of each only what its bitmap says was changed is read."""
    raw = images.make_raw(workdir / "x.raw")
    disks = [images.convert(raw, workdir / name, "qcow2") for name in ("one", "two")]
    where = [word for disk in disks for word in ("--disk", disk)]
    where += ["--dest-dir", there, *(("--dest-format", fmt) if fmt == "raw" else ())]
    bases = [word for d in migrate(hosts, *where).json["disks"] for word in ("--base", d["digest"])]
    for n, disk in enumerate(disks):
        images.run("qemu-img", "bitmap", "--add", disk, "b1")
        images.run("qemu-io", "-c", f"write -P {n + 5} {n}M 128k", disk)
    report = migrate(hosts, *where, "--since", "b1", *bases).json
    for disk in disks:
        assert images.identical(disk, "qcow2", there / disk.name, fmt)
    assert report["disk"]["data_bytes"] <= MIB
    assert report["disk"]["unread_bytes"] >= 2 * raw.stat().st_size - 2 * MIB


def test_one_in_use_moves_nothing(hosts, workdir, there):
    """Found before anything is waited for: what comes first has not arrived."""
    first, used = big(workdir / "first"), images.convert(big(workdir / "x", MIB), workdir / "used", "qcow2")
    with images.Holder(used, "qcow2", workdir / "s"):
        result = migrate(hosts, "--disk", first, "--disk", used, "--dest-dir", there, "--bandwidth", "2M",
                         status=1)
    assert re.search(rf"{used}: .*lock.*; cancelled, too: {there}/first; the images here are as they were$",
                     said(result)), result.stderr
    assert [d["state"] for d in result.json["disks"]] == ["cancelled", "failed"]
    assert not (there / "first").exists()


def test_one_fails_late(hosts, workdir, there):
    """None has arrived then, and what came of the others is there for the next time."""
    small, large = big(workdir / "little", MIB), big(workdir / "large", 12 * MIB)
    with images.small_disk(workdir, 8 * MIB) as full:
        result = migrate(hosts, "--disk", small, "--disk", f"{large}={full / 'large'}", "--dest-dir",
                         there, status=1)
        assert not list(full.iterdir())
    assert re.search(rf"{large}: .*No space left on device.*; cancelled, too: {there}/little; the images",
                     said(result)), result.stderr
    assert result.json["state"] == "failed"
    assert not (there / "little").exists() and len(images.leftovers(there)) == 1
    report = migrate(hosts, "--disk", small, "--disk", large, "--dest-dir", there).json
    assert report["disk"]["same_bytes"] > 0
    check_arrived(there, small, large)


def check_arrived(there, *disks):
    assert sorted(path.name for path in there.iterdir()) == sorted(disk.name for disk in disks)
    for disk in disks:
        assert (there / disk.name).read_bytes() == disk.read_bytes()


class Held:
    """Two disks on their way, the first of which is complete and waits for the other."""

    def __init__(self, hosts, workdir, there):
        self.hosts, self.there = hosts, there
        self.disks = big(workdir / "one", MIB), big(workdir / "two", 12 * MIB)
        self.args = [word for disk in self.disks for word in ("--disk", disk)] + ["--dest-dir", there]
        self.command = hosts.a.running(*words(hosts, *self.args, "--bandwidth", "4M"))
        wait_until(lambda: any(self.waiting()), "the first to arrive")
        assert len(images.leftovers(there)) == len(list(there.iterdir())) == 2

    def waiting(self):
        jobs = self.hosts.a.drover("jobs", "--json").json["jobs"]
        return [job["state"] == "copying" and job["progress"]["held"] for job in jobs]

    def check_finishes(self):
        result = self.command.wait()
        assert result.status == 0, (result, self.hosts.a.said(), self.hosts.b.said())
        check_arrived(self.there, *self.disks)
        return result.json

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.command.close()


@pytest.mark.parametrize("which", ["source", "destination"])
def test_killed_while_one_waits(hosts, workdir, there, which):
    with Held(hosts, workdir, there) as held:
        daemon = hosts.a if which == "source" else hosts.b
        daemon.kill()
        assert len(images.leftovers(there)) == len(list(there.iterdir())) == 2
        daemon.start()
        assert held.check_finishes()["disk"]["same_bytes"] >= MIB


def test_killed_command(hosts, workdir, there):
    """The daemon goes on; the same command again tells of it, and finds all there when it is over."""
    with Held(hosts, workdir, there) as held:
        held.command.close()
        again = migrate(hosts, *held.args, status=1)
        assert "is being written by another copy of yours" in said(again)
        wait_until(lambda: len(images.leftovers(there)) == 0, "both to arrive")
        check_arrived(there, *held.disks)
        report = migrate(hosts, *held.args).json
        assert report["disk"]["same_bytes"] == 13 * MIB and report["state"] == "completed"


def test_a_name_that_cannot_be_given(hosts, workdir, there):
    with Held(hosts, workdir, there) as held:
        (there / "one").mkdir()
        result = held.command.wait()
    assert result.status == 1
    assert re.search(rf"one: at the destination: {there}/one cannot be given its name: .*; arrived complete: "
                     f"{there}/two; the images here", said(result)), result.stderr
    assert [d["state"] for d in result.json["disks"]] == ["failed", "completed"]
    assert len(images.leftovers(there)) == 1
    (there / "one").rmdir()
    assert migrate(hosts, *held.args).json["disk"]["same_bytes"] == 13 * MIB
    check_arrived(there, *held.disks)


def test_killed_while_they_are_named(workdir, pki, there):
    """The journal knows of one that it has its name; the other one gets it when it is complete again."""
    with Hosts(workdir, pki, hold=False, hold_source="source:switchover") as hosts:
        disks = big(workdir / "one", MIB), big(workdir / "two", MIB)
        args = [word for disk in disks for word in ("--disk", disk)] + ["--dest-dir", there]
        with hosts.a.running(*words(hosts, *args)) as command:
            hosts.a.wait_held()
            hosts.a.kill()
            # Each time that one has moved: both are named one after the other.
            hosts.a.start()
            hosts.a.wait_held()
            hosts.a.release()
            result = command.wait()
        assert result.status == 0, (result, hosts.a.said())
        check_arrived(there, *disks)


def test_interrupt(hosts, workdir, there):
    one, two = big(workdir / "one"), big(workdir / "two")
    with hosts.a.running(*words(hosts, "--disk", one, "--disk", two, "--dest-dir", there, "--bandwidth",
                                "2M")) as command:
        wait_until(lambda: len(images.leftovers(there)) == 2, "both to be under way")
        command.process.send_signal(signal.SIGINT)
        result = command.wait()
    assert result.status == 4 and result.json["state"] == "cancelled", result
    assert [d["state"] for d in result.json["disks"]] == ["cancelled"] * 2
    assert re.search(f"{one}: it was cancelled; cancelled, too: {there}/two; the images", said(result))
    wait_until(lambda: not list(there.iterdir()), "the other end to clean up")


def test_wrong_use(hosts, workdir):
    off = ("--off", "--to", hosts.b.address)
    for pattern, args in [
            ("--disk is missing: give the image of each", off),
            ("--qmp is for a VM whose QEMU runs: leave it out with --off", (*off, "--qmp", "q")),
            ("--keep-source is for a VM whose QEMU runs", (*off, "--keep-source")),
            ("--disk is for a VM that is off: give --off", ("--to", "x:1", "--disk", "a")),
            ("--dest-dir is for a VM that is off", ("--to", "x:1", "--dest-dir", "/a")),
            ("--dest-dir 'a' must be an absolute path", (*off, "--disk", "a", "--dest-dir", "a")),
            ("two images would become '/t/a' over there",
             (*off, "--disk", "/x/a", "--disk", "/y/a", "--dest-dir", "/t")),
            ("--to.*(missing|must be|required)", ("--off", "--disk", "a")),
            ("--since and --base go together, .*: there are 1 of --base, and 2 of --disk",
             (*off, "--disk", "/a", "--disk", "/b", "--since", "b", "--base", "d")),
            ("--since and --base go together, .*: there are 1 of --base", (*off, "--disk", "/a", "--base", "d")),
            ("--base 'd' is no digest", (*off, "--disk", "/a", "--since", "b", "--base", "d")),
            ("--dest-format is for a VM that is off", ("--to", "x:1", "--dest-format", "raw")),
            ("--since is for a VM that is off", ("--to", "x:1", "--since", "b")),
            ("--base is for a VM that is off", ("--to", "x:1", "--base", "d")),
    ]:
        result = hosts.a.drover("migrate", *args)
        assert result.status == 2 and re.search(pattern, said(result)), result
    result = hosts.a.drover("migrate", *off, "--disk", workdir / "none")
    assert result.status == 1 and "none cannot be used: No such file" in said(result)


# ---- its QEMU is there, and its guest is not running ----

def test_paused_with_its_disks(workdir):
    """It arrives paused, with all that is on its disks."""
    pair = Pair(workdir, "vda")
    with scene_with(workdir, "10.0", pair) as scene:
        scene.source.stop()
        result = scene.try_migrate(*MIRROR, "--keep-source")
        assert result.status == 0, result.stderr + scene.said()
        assert scene.dest.status() == "paused"
        pair.check_same()


def test_shut_down(workdir):
    """Nothing runs that could be moved: it is said what can be."""
    pair = Pair(workdir, "vda")
    with scene_with(workdir, "10.0", pair) as scene:
        scene.source.qmp.command("set-action", {"reboot": "shutdown", "shutdown": "pause"})
        scene.source.qmp.command("system_reset")
        wait_until(lambda: scene.source.status() == "shutdown", "the guest to shut down")
        result = scene.try_migrate(*MIRROR)
        one_sentence(result, 1, "its guest has shut down: end it, and move its disks with",
                     "'drover migrate --off'")
        assert scene.source.status() == "shutdown" and left_in_qemu(scene.source) == ([], [], [])
