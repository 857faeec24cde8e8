# SPDX-License-Identifier: Apache-2.0
"""Disk images for guests, and a Linux guest that writes to its disk all the time."""
import pathlib
import random
import subprocess
import sys

from . import build
from .qemu import Guest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "guests" / "linux"))
import mkinitramfs  # pylint: disable=C0413,E0401

# In the order in which they need each other.
MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
           "virtio_blk")

# Before the guest's own work: writes to its disk again and again, each followed by a word.
INIT = """#!/bin/sh
/bin/busybox mkdir -p /proc /dev
for module in %s; do /bin/busybox insmod /lib/$module.ko; done
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox dd if=/dev/urandom of=/random bs=1M count=2 2>/dev/null
(n=0
while [ -b /dev/vda ] && /bin/busybox dd of=/dev/vda %s 2>/dev/null; do n=$((n + 1)); echo "disk $n"; done
echo "disk failed") &
exec /bin/sh /work.init
"""
# 32 KiB somewhere in the first 16 MiB, flushed.
LITTLE = "if=/dev/urandom bs=4k count=8 seek=$((n * 37 % 500 * 8)) conv=fsync"
# 2 MiB, and the next 2 MiB of 16 then, as fast as the disk takes them. They are in no page cache.
MUCH = "if=/random bs=256k count=8 seek=$((n % 8 * 8)) oflag=direct"


def make(path, size, fmt="qcow2"):
    """An empty image; its path."""
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, str(size)], timeout=60, check=True)
    return path


def encrypted(path, size):
    """An empty qcow2 image with the key 'abc'; its path."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=key,data=abc", "-o",
                    "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10", path, str(size)],
                   timeout=120, check=True)
    return path


def fill(path, offset, length, fmt="qcow2", seed=1):
    """Writes bytes that cannot be compressed."""
    data = path.with_suffix(".data")
    data.write_bytes(random.Random(seed).randbytes(length))
    subprocess.run(["qemu-io", "-f", fmt, "-c", f"write -s {data} {offset} {length}", path], check=True,
                   stdout=subprocess.DEVNULL, timeout=120)
    data.unlink()


def differ(one, other):
    """'' when two images hold the same, also while QEMUs have them open; else qemu-img's words."""
    done = subprocess.run(["qemu-img", "compare", "-U", one, other], capture_output=True, text=True,
                          timeout=120, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def drive(path, name, fmt="qcow2", more=""):
    """QEMU's arguments for a virtio disk as most scripts give it."""
    return ("-drive", f"if=virtio,id={name},format={fmt},file={path}{more}")


def blockdev(path, name, fmt="qcow2"):
    """The same as libvirt gives it."""
    return ("-blockdev", f"driver={fmt},node-name=node-{name},discard=unmap,"
            f"file.driver=file,file.filename={path},file.discard=unmap",
            "-device", f"virtio-blk-pci,id={name},drive=node-{name}")


def kernel_modules():
    """None where the Linux guest can use a disk, otherwise why not."""
    for release in sorted(pathlib.Path("/boot").glob("vmlinuz-*"))[-1:]:
        where = pathlib.Path("/lib/modules") / release.name.removeprefix("vmlinuz-") / "kernel/drivers"
        found = {m: next(where.glob(f"*/{m}.ko"), None) for m in MODULES}
        return found if all(found.values()) else None
    return None


def writing_guest(workdir, disk_args, how=LITTLE, **changes):
    """A Linux guest that says 'disk N' after each write to its first virtio disk."""
    found = kernel_modules()
    entries = [mkinitramfs.entry("lib", 0o040755)]
    entries += [mkinitramfs.entry(f"lib/{m}.ko", 0o100644, path.read_bytes())
                for m, path in found.items()]
    own = pathlib.Path(mkinitramfs.HERE) / "init"
    entries += [mkinitramfs.entry("work.init", 0o100755, own.read_bytes()),
                mkinitramfs.entry("init", 0o100755, (INIT % (" ".join(MODULES), how)).encode()),
                mkinitramfs.entry("TRAILER!!!", 0)]
    archive = workdir / "disk.cpio"
    # The kernel unpacks one archive after the other.
    archive.write_bytes(build.built("tests", "guests", "initramfs.cpio").read_bytes()
                        + b"".join(entries))
    return Guest(kind="linux", memory=160, extra=("-initrd", str(archive), *disk_args), **changes)


def writes(machine):
    """How often the guest has written to its disk so far."""
    counts = [int(line.split()[1]) for _, line in list(machine.console.lines)
              if line.startswith(b"disk ") and line.split()[1].isdigit()]
    return counts[-1] if counts else 0


def wait_writes(machine, n, timeout=120):
    """Waits for n more of them."""
    first = writes(machine)
    machine.console.wait(lambda: writes(machine) >= first + n, timeout, f"{n} writes more")
