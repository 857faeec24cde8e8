# SPDX-License-Identifier: Apache-2.0
"""'drover disks': a VM's disks, and images that are made for them at the destination."""
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess

import pytest

from conftest import slow_with_old
from harness import disks, qemu
from harness.daemon import Daemon
from harness.qemu import Guest, Machine
from harness.scene import GUEST, Scene, free, one_sentence, wait_until

MIB = 1 << 20
SIZE = 24 * MIB
IDLE = Guest(mode="idle", params="hz=100 beat=10", pages=256)


@contextlib.contextmanager
def hosts(workdir, pki, config=None, **b_options):
    """Two daemons; config is b's."""
    path = None
    if config:
        path = workdir / "b.conf"
        path.write_text(config)
    with Daemon(workdir, "a", pki / "a") as a, \
            Daemon(workdir, "b", pki / "b", config=path, **b_options) as b:
        yield a, b


def create(fmt, path, size=SIZE, *options):
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, path, str(size)], timeout=120, check=True)
    return path


def info(path):
    """Also of an image that a QEMU has open."""
    said = subprocess.run(["qemu-img", "info", "-U", "--output=json", path], stdout=subprocess.PIPE,
                          timeout=120, check=True)
    return json.loads(said.stdout)


def machine(binary, *args):
    return Machine(binary, IDLE.variant(extra=sum(args, ())), name="vm")


def listed(a, vm, *args):
    told = a.drover("disks", "--qmp", vm.drover_qmp, "--json", *args)
    assert told.status == 0, told
    return {d["id"]: d for d in told.json["disks"]}


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def there(workdir):
    """The destination's folder."""
    folder = workdir / "there"
    folder.mkdir()
    return folder


def test_the_list(workdir, pki, any_qemu):
    base = create("qcow2", workdir / "base.img")
    top = create("qcow2", workdir / "top.img", SIZE, "-b", base, "-F", "qcow2")
    subprocess.run(["qemu-img", "snapshot", "-c", "one", top], timeout=120, check=True)
    plain = create("raw", workdir / "plain.img")
    with Daemon(workdir, "a", pki / "a") as a, machine(
            any_qemu, disks.drive(top, "vda"), disks.blockdev(plain, "data", "raw"),
            ("-drive", "if=ide,id=cd,media=cdrom")) as vm:
        found = listed(a, vm)
        text = a.drover("disks", "--qmp", vm.drover_qmp)
        assert free(vm.drover_qmp)
        wrong = a.drover("disks", "--qmp", workdir / "nobody.qmp")
    vda, data, cd = found["vda"], found["data"], found["cd"]
    assert vda["format"] == "qcow2" and vda["size"] == SIZE and vda["file"] == str(top)
    assert vda["allocated"] == os.stat(top).st_blocks * 512
    assert vda["backing"] == [{"file": str(base), "format": "qcow2"}]
    assert vda["stays_behind"] == ["1 snapshot inside the image"] and vda["moved"]
    assert data["node"] == "node-data" and data["format"] == "raw" and data["backing"] == []
    assert data["device"] == "/machine/peripheral/data/virtio-backend"
    assert data["stays_behind"] == [] and "dest" not in data
    assert not cd["moved"] and cd["why_not"] == "no medium" and "file" not in cd
    assert "vda  qcow2, 24.0 MiB (takes up " in text.stdout and "cd  not moved: no medium\n" in text.stdout
    assert f"  backing  {base} (qcow2)\n" in text.stdout
    assert "  left     1 snapshot inside the image\n" in text.stdout
    one_sentence(wrong, 1, "the VM's QMP socket cannot be used")


@slow_with_old
def test_made_and_moved_into(workdir, any_qemu, there):
    """Images that were made are what a guest's disks can be moved into."""
    here = workdir / "here"
    here.mkdir()
    one = create("qcow2", here / "one.img", SIZE, "-o", "cluster_size=128k,extended_l2=on")
    two = create("raw", here / "two.img", SIZE - 512)
    for path, fmt in ((one, "qcow2"), (two, "raw")):
        disks.fill(path, MIB, MIB, fmt)
    pairs = (("one", "qcow2"), ("two", "raw"))
    source, dest = (GUEST.variant(extra=sum((disks.drive(f / f"{n}.img", n, fmt) for n, fmt in pairs), ()))
                    for f in (here, there))
    with Scene(workdir, any_qemu, machines=False) as scene, Machine(any_qemu, source, name="src") as src:
        src.wait_ready()
        words = ("--to", scene.b.address, "--dest-dir", there)
        assert {d["dest"]["state"] for d in listed(scene.a, src, *words).values()} == {"absent"}
        assert names(there) == []
        made = listed(scene.a, src, *words, "--create")
        assert {d["dest"]["state"] for d in made.values()} == {"created"}
        assert made["one"]["dest"] == {"file": str(there / "one.img"), "format": "qcow2", "state": "created"}
        again = scene.a.drover("disks", "--qmp", src.drover_qmp, *words, "--create")
        assert again.stdout.count("was there already, and is left as it is") == 2, again
        assert names(there) == ["one.img", "two.img"]
        for name, _ in pairs:
            found = os.stat(there / f"{name}.img")
            assert stat.S_IMODE(found.st_mode) == 0o600
            assert info(there / f"{name}.img")["virtual-size"] == info(here / f"{name}.img")["virtual-size"]
        like = info(there / "one.img")
        assert like["cluster-size"] == 128 << 10 and like["format-specific"]["data"]["extended-l2"]
        audit = (scene.b.state / "audit.log").read_text()
        assert audit.count('"what":"disks.create"') == 4 and str(there / "two.img") in audit
        with Machine(any_qemu, dest, incoming=True, name="dst") as dst:
            result = scene.a.drover("migrate", "--qmp", src.drover_qmp, "--to", scene.b.address, "--dest-qmp",
                                    dst.drover_qmp, "--disks", "mirror", "--keep-source", timeout=60)
            assert result.status == 0, result.stderr + scene.said()
            wait_until(dst.running, "the guest to run at the destination")
            for path in (one, two):
                assert disks.differ(path, there / path.name) == ""


def test_other_places_and_formats(workdir, pki, there):
    one, two = (create("raw", workdir / f"{n}.img") for n in ("one", "two"))
    with hosts(workdir, pki) as (a, b), machine(qemu.newest(), disks.drive(one, "one", "raw"),
                                                disks.drive(two, "two", "raw")) as vm:
        listed(a, vm, "--to", b.address, "--create", "--dest-dir", there, "--dest",
               f"two={there}/other.qcow2", "--dest-format", "qcow2")
    assert names(there) == ["one.img", "other.qcow2"]
    assert all(info(there / n)["format"] == "qcow2" for n in names(there))


def test_a_chain(workdir, pki, there):
    base = create("qcow2", workdir / "base.img")
    top = create("qcow2", workdir / "top.img", SIZE, "-b", base, "-F", "qcow2")
    with hosts(workdir, pki) as (a, b), machine(qemu.newest(), disks.drive(top, "vda")) as vm:
        words = ("disks", "--qmp", vm.drover_qmp, "--to", b.address, "--create", "--dest-dir", there)
        one_sentence(a.drover(*words, "--chain", "keep", "--dest-format", "raw"), 1,
                     "disk 'vda': an image of format raw is not made with a backing file")
        shutil.move(base, workdir / "elsewhere")   # QEMU has it open
        one_sentence(a.drover(*words, "--chain", "keep"), 1, "disk 'vda': ",
                     "the backing file has to be copied first", str(base))
        shutil.move(workdir / "elsewhere", base)
        assert a.drover(*words, "--chain", "keep").status == 0
        kept = info(there / "top.img")
        (there / "top.img").unlink()
        assert a.drover(*words).status == 0
        flat = info(there / "top.img")
        one_sentence(a.drover(*words, "--chain", "keep"), 1, "has no backing file, unlike the disk")
    assert kept["backing-filename"] == str(base) and kept["backing-filename-format"] == "qcow2"
    assert "backing-filename" not in flat


# ---- what cannot be made ----

@pytest.fixture(scope="module")
def scene(tmp_path_factory, pki):
    """Two daemons, of which b may use one folder, and a VM with two disks."""
    workdir = tmp_path_factory.mktemp("d")
    (workdir / "here").mkdir()
    (workdir / "images").mkdir()
    one = create("qcow2", workdir / "here" / "one.img")
    two = create("raw", workdir / "here" / "two.img")
    with hosts(workdir, pki, f"[daemon]\nimages={workdir}/images\n") as (a, b), \
            machine(qemu.oldest(), disks.drive(one, "one"), disks.drive(two, "two", "raw")) as vm:
        yield workdir / "images", a, b, vm


def try_create(scene, *args):
    images, a, b, vm = scene
    return a.drover("disks", "--qmp", vm.drover_qmp, "--to", b.address, "--create",
                    *(args or ("--dest-dir", images)))


@pytest.fixture
def images(scene):
    """The folder, empty."""
    yield scene[0]
    for path in scene[0].iterdir():
        path.unlink()


def test_outside_the_folders(scene, images):
    one_sentence(try_create(scene, "--dest-dir", images.parent), 1,
                 "is in none of the folders that droverd may use for images")
    one_sentence(try_create(scene, "--dest-dir", f"{images}/../here"), 1, "none of the folders")
    (images / "way-out").symlink_to("../here")
    one_sentence(try_create(scene, "--dest-dir", images / "way-out"), 1, "which leads to")
    assert names(images) == ["way-out"] and names(images.parent / "here") == ["one.img", "two.img"]


def test_another_is_there(scene, images):
    """The first disk's image could be made, and is not."""
    (images / "two.img").write_bytes(b"somebody's")
    one_sentence(try_create(scene), 1, "disk 'two': ", "is there already and has 512 bytes")
    create("qcow2", images / "two.img")
    one_sentence(try_create(scene), 1, "is there already and is qcow2, not raw")
    (images / "two.img").unlink()
    (images / "two.img").symlink_to(images / "nothing")
    one_sentence(try_create(scene), 1, "is a symbolic link")
    (images / "two.img").unlink()
    os.mkfifo(images / "two.img")
    one_sentence(try_create(scene), 1, "neither a file nor a block device")
    assert names(images) == ["two.img"]


def test_one_that_a_vm_uses(scene, images):
    used = create("raw", images / "two.img")
    with machine(qemu.oldest(), disks.drive(used, "used", "raw")):
        one_sentence(try_create(scene), 1, "disk 'two': ", "is there already and in use")
    assert names(images) == ["two.img"]


@pytest.mark.parametrize("args, words", (
    (("--dest", "three=/x"), "no disk 'three' that would be moved"),
    (("--dest", "one={}/x", "--dest", "two={}/x"), "the same image as disk 'one'"),
    (("--dest-dir", "{}/nowhere"), "No such file or directory"),
))
def test_wrong_wishes(scene, images, args, words):
    one_sentence(try_create(scene, *(a.format(images) for a in args)), 1, words)
    assert names(images) == []


@pytest.mark.parametrize("args, words", (
    (("--create",), "--to is missing"),
    (("--to", "b:1", "--dest", "one"), "--dest 'one' must be DISK=PATH"),
    (("--to", "b:1", "--dest-dir", "x"), "--dest-dir 'x' must be an absolute path"),
    (("--to", "b:1", "--dest-format", "qed"), "cannot be made: choose raw, qcow2"),
    (("--to", "b:1", "--chain", "cut"), "--chain is 'cut'"),
    (("--to", "nonsense"), "nonsense"),
))
def test_wrong_use(scene, args, words):
    one_sentence(scene[1].drover("disks", "--qmp", scene[3].drover_qmp, *args), 2, words)


@pytest.mark.parametrize("body, says", (
    ({}, "\"qmp\" is missing"),
    ({"qmp": "relative"}, "\"qmp\" is \"relative\": it must be an absolute path"),
    ({"qmp": "/x", "create": True}, "\"to\" is missing"),
    ({"qmp": "/x", "to": "b:1", "create": 1}, "it must be true or false"),
    ({"qmp": "/x", "to": "b:1", "dest": []}, "it must be an object of disks and paths"),
    ({"qmp": "/x", "to": "b:1", "dest": {"vda": "x"}}, "it must be an absolute path"),
    ({"qmp": "/x", "disk": "vda"}, "\"disk\" is not known here"),
))
def test_refused(scene, body, says):
    reply = subprocess.run(["curl", "-s", "--unix-socket", scene[1].api, "http://drover/v1/disks", "-d",
                            json.dumps(body)], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    error = json.loads(reply.stdout)["error"]
    assert error["class"] == "usage" and says in error["message"], error


@pytest.fixture
def small_place(there):
    """A file system that has room for no qcow2 image."""
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", there],
                                           timeout=60, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield there
    subprocess.run(["umount", "-l", there], timeout=60, check=True)


def test_no_room(workdir, pki, small_place):
    """A raw image takes none, and that is said; a qcow2 does, and both are gone then."""
    one, two = create("raw", workdir / "one.img"), create("qcow2", workdir / "two.img")
    with hosts(workdir, pki) as (a, b), machine(qemu.newest(), disks.drive(one, "one", "raw"),
                                                disks.drive(two, "two")) as vm:
        words = ("disks", "--qmp", vm.drover_qmp, "--to", b.address, "--create", "--dest-dir", small_place)
        one_sentence(a.drover(*words), 1, "disk 'two': ", "cannot be made", "No space left on device")
        assert names(small_place) == []
        warned = a.drover(*words, "--dest", f"two={workdir / 'there.img'}")
        assert warned.status == 0 and f"warning: {small_place} has 6" in warned.stdout, warned
        assert names(small_place) == ["one.img"]
        (small_place / "one.img").unlink()
        subprocess.run(["mount", "-o", "remount,ro", small_place], timeout=60, check=True)
        one_sentence(a.drover(*words), 1, "disk 'one': ", "cannot be made: Read-only file system")


@pytest.mark.slow    # to derive the key takes qemu-img its time
def test_encrypted(workdir, pki, there):
    path = disks.encrypted(workdir / "vda.img", SIZE)
    disk = ("-object", "secret,id=key,data=abc", "-drive",
            f"if=virtio,id=vda,format=qcow2,file={path},encrypt.key-secret=key")
    with hosts(workdir, pki) as (a, b), machine(qemu.newest(), disk) as vm:
        words = ("disks", "--qmp", vm.drover_qmp, "--to", b.address, "--create", "--dest-dir", there)
        assert listed(a, vm)["vda"]["stays_behind"] == ["the encryption: the other image has to have its own"]
        one_sentence(a.drover(*words), 1, "disk 'vda': it is encrypted, and drover has no key")
        shutil.copy(path, there / "vda.img")
        assert a.drover(*words).status == 0


# ---- what is cut short ----

HANGS = """#!/bin/sh
case "$*" in
*create*-f\\ qcow2*) [ -e {go} ] || {{ echo $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 30; }} ;;
esac
exec {real} "$@"
"""


@contextlib.contextmanager
def under_way(workdir, pki, there):
    """'drover disks --create' whose second image is being made, and never is unless 'go' exists."""
    tools = workdir / "tools"
    tools.mkdir()
    begun, go = workdir / "begun", workdir / "go"
    (tools / "qemu-img").write_text(HANGS.format(real=shutil.which("qemu-img"), begun=begun, go=go))
    (tools / "qemu-img").chmod(0o755)
    one, two = create("raw", workdir / "one.img"), create("qcow2", workdir / "two.img")
    with hosts(workdir, pki, env={"PATH": f"{tools}:{os.environ['PATH']}"}) as (a, b), \
            machine(qemu.newest(), disks.drive(one, "one", "raw"), disks.drive(two, "two")) as vm:
        words = ("disks", "--qmp", vm.drover_qmp, "--to", b.address, "--create", "--dest-dir", there)
        with a.running(*words) as run:
            wait_until(begun.exists, "the second image to be begun")
            assert [n.split("-")[0] for n in names(there)] == [".one.img.drover", ".two.img.drover"]
            yield a, b, run, lambda: (go.touch(), a.drover(*words))[1]


def test_cancelled(workdir, pki, there):
    with under_way(workdir, pki, there) as (_, _, run, again):
        run.process.send_signal(signal.SIGINT)
        one_sentence(run.wait(), 4, "cancelled: images that were being made are removed")
        wait_until(lambda: names(there) == [], "the images to be removed")
        assert again().stdout.count(": created") == 2


def test_the_source_is_killed(workdir, pki, there):
    """The next one does not wait for what it left."""
    with under_way(workdir, pki, there) as (a, _, _, again):
        a.kill()
        a.start()
        assert again().stdout.count(": created") == 2
        assert {"one.img", "two.img"} < set(names(there))


def test_the_destination_is_killed(workdir, pki, there):
    """What it was making has no name yet, and the next one cleans up when qemu-img is gone, too."""
    with under_way(workdir, pki, there) as (_, b, run, again):
        b.kill()
        os.kill(int((workdir / "begun").read_text()), signal.SIGKILL)
        one_sentence(run.wait(), 1, "the link broke, and it is not known what became of them")
        assert len(names(there)) == 2
        b.start()
        assert again().stdout.count(": created") == 2
        assert names(there) == ["one.img", "two.img"]
