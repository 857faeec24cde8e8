# SPDX-License-Identifier: Apache-2.0
"""Disk images to copy: made, compared, and digested as docs/images.md says."""
import contextlib
import fcntl
import hashlib
import os
import pathlib
import random
import subprocess

import pytest

from .scene import wait_until

MIB = 1 << 20
FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vhdx")


def tools_env(binary):
    """The environment in which the tools of that QEMU are found first."""
    folder = pathlib.Path(binary).parent
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def run(*args, env=None, check=True):
    return subprocess.run([str(a) for a in args], env={**os.environ, **(env or {})}, check=check,
                          capture_output=True, text=True, timeout=120)


def run_until(*args, tries=20):
    """What measures this machine's CPU, as qemu-img does for LUKS, gives up when others take it away."""
    while run(*args, check=tries == 1).returncode != 0:
        tries -= 1


def make_raw(path, size=48 * MIB + 512, spots=24, seed=1):
    """A sparse image with data here and there: at its start and end, some of it zeros."""
    rng = random.Random(seed)
    with open(path, "wb") as f:
        f.truncate(size)
        for at in [0, size - 512] + [rng.randrange(size) for _ in range(spots)]:
            f.seek(at)
            f.write(rng.randbytes(min(rng.choice([512, 5000, 70000, MIB]), size - at)))
        f.seek(size // 2 // 65536 * 65536)
        f.write(bytes(65536))
    return path


def change(path, at, length=4096, seed=2):
    with open(path, "r+b") as f:
        f.seek(at)
        f.write(random.Random(seed).randbytes(length))


def convert(source, dest, form, *options):
    """By QEMU's own hand; the source is raw."""
    run("qemu-img", "convert", "-f", "raw", "-O", form, *options, source, dest)
    return dest


def identical(a, form_a, b, form_b, env=None):
    done = run("qemu-img", "compare", "-f", form_a, "-F", form_b, a, b, env=env, check=False)
    return done.returncode == 0 and "identical" in done.stdout


def block_size(size):
    block = 64 << 10
    while block < 4 * MIB and size > block << 18:
        block *= 2
    return block


def digest(raw):
    """Of a raw image, computed from docs/images.md alone."""
    size = os.path.getsize(raw)
    block = block_size(size)
    root = hashlib.sha256(b"\x01drover image 1" + size.to_bytes(8, "big") + block.to_bytes(4, "big"))
    with open(raw, "rb") as f:
        while data := f.read(block):
            root.update(hashlib.sha256(b"\x00" + data).digest())
    return root.hexdigest()


def leftovers(folder):
    return sorted(p.name for p in pathlib.Path(folder).iterdir() if ".drover-" in p.name)


def wait_for_leftovers(folder, timeout=60):
    """Until something is being written there."""
    wait_until(lambda: leftovers(folder), f"something to be written in {folder}", timeout)


def wait_for_end_of_writer(temp, timeout=60):
    """Until nobody holds the temporary file: a qemu-nbd that lost drover closes its image first."""
    def free():
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    with open(temp, "rb") as f:
        wait_until(free, f"the end of who holds {temp}", timeout)


class Holder:
    """A QEMU that has an image open and may write it, until closed."""

    def __init__(self, image, form, socket):
        self.process = subprocess.Popen(
            ["qemu-nbd", "--persistent", "--socket", str(socket), "--format", form, str(image)])
        qemu_io = ["qemu-io", "-f", "raw", "-c", "read 0 512", f"nbd+unix:///?socket={socket}"]
        for _ in range(600):
            if subprocess.run(qemu_io, capture_output=True, timeout=60, check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                break
        raise RuntimeError("qemu-nbd does not serve the image")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


@contextlib.contextmanager
def small_ext4(workdir, size):
    """A folder on a file system of its own that is on a disk, not in memory."""
    folder, disk = workdir / "ext4", workdir / "ext4.disk"
    folder.mkdir()
    disk.touch()
    os.truncate(disk, size)
    if run("mkfs.ext4", "-q", "-F", disk, check=False).returncode != 0 or \
            run("mount", "-o", "loop", disk, folder, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        run("umount", folder)


@contextlib.contextmanager
def small_disk(workdir, size):
    folder = workdir / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "drover-test", folder],
                      capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        run("umount", folder)


@contextlib.contextmanager
def loop_device(file):
    found = run("losetup", "--find", "--show", file, check=False)
    if found.returncode != 0:
        pytest.skip(f"no loop devices here: {found.stderr}")
    try:
        yield found.stdout.strip()
    finally:
        run("losetup", "--detach", found.stdout.strip())
