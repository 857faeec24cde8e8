# SPDX-License-Identifier: Apache-2.0
"""Programs of the build in a virtual machine with Debian's kernel, for what the machine at hand
has not: parts of the kernel, NUMA nodes. Under TCG, so that it needs no KVM."""
import glob
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

from . import qemu

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "guests" / "linux"))
from mkinitramfs import entry  # noqa: E402  pylint: disable=wrong-import-position

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /tmp && mount -t proc proc /proc && mount -t sysfs sys /sys
mount -t devtmpfs dev /dev && mount -t tmpfs tmp /tmp
ip link set lo up
for module in /modules/*; do [ -e $module ] && { insmod $module || echo "no $module"; }; done
BEFORE
for test in /tests/*; do
    $test --tap ONLY 2>&1
    echo "exit status $? of $test"
done
poweroff -f
"""

PROGRAM = stat.S_IFREG | 0o755


def release(module=None):
    """The newest kernel in /boot, of those that have 'module' (a path below kernel/)."""
    for kernel in sorted(glob.glob("/boot/vmlinuz-*"), reverse=True):
        name = kernel.removeprefix("/boot/vmlinuz-")
        if module is None or glob.glob(f"/lib/modules/{name}/kernel/{module}"):
            return name
    pytest.skip(f"no kernel{' with ' + module if module else ''} in /boot: install linux-image-amd64")
    return None


def modules(kernel, names):
    """The files of modules and of what they need, in the order in which to load them."""
    paths = []
    for name in names:
        shown = subprocess.run(["/sbin/modprobe", "-S", kernel, "--show-depends", name],
                               stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
        paths += re.findall(r"^insmod (\S+)", shown, re.M)
    return list(dict.fromkeys(paths))


def libraries(program):
    shown = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, timeout=60,
                           check=True).stdout
    return re.findall(r"(/\S+) \(0x", shown)


def initramfs(kernel, programs, only, names, before):
    options = " ".join(f"-p {path}" for path in only)
    init = INIT.replace("ONLY", options).replace("BEFORE", before)
    files = {"init": init.encode(), "bin/busybox": pathlib.Path(shutil.which("busybox"))}
    for i, path in enumerate(modules(kernel, names)):
        files[f"modules/{i:02}-{os.path.basename(path)}"] = pathlib.Path(path)
    for program in programs:
        files[f"tests/{program.name}"] = program
        for library in libraries(program):
            files[library.lstrip("/")] = pathlib.Path(library)
    folders = {str(parent) for name in files for parent in pathlib.PurePath(name).parents} - {"."}
    parts = [entry(folder, stat.S_IFDIR | 0o755) for folder in sorted(folders | {"dev"})]
    parts.append(entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)))
    for name, what in files.items():
        parts.append(entry(name, PROGRAM, what if isinstance(what, bytes) else what.read_bytes()))
    return b"".join(parts + [entry("TRAILER!!!", 0)])


def run(workdir, *programs, kernel=None, only=(), names=(), before="", append="",
        machine=("-m", "1G", "-smp", "2")):
    """What the programs say, run one after the other in a guest of that kernel ('only': those of
    their tests) with these modules, after the shell commands 'before'."""
    kernel = kernel or release()
    image = workdir / "initramfs"
    image.write_bytes(initramfs(kernel, programs, only, names, before))
    return subprocess.run(
        [qemu.oldest(), "-accel", "tcg", "-cpu", "max", *machine, "-nodefaults", "-display", "none",
         "-serial", "stdio", "-no-reboot", "-kernel", f"/boot/vmlinuz-{kernel}", "-initrd", image,
         "-append", f"console=ttyS0 quiet panic=-1 {append}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", timeout=600,
        check=True).stdout
