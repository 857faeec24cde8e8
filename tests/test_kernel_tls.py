# SPDX-License-Identifier: Apache-2.0
"""Kernel TLS against a kernel that has it: Debian's, in a virtual machine, as the machine that tests
run on need not have it. The tests are meson's, which skip what needs such a kernel elsewhere."""
import glob
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

from harness import qemu
from harness.build import built

sys.path.insert(0, str(pathlib.Path(__file__).parent / "guests" / "linux"))
from mkinitramfs import entry  # noqa: E402  pylint: disable=wrong-import-position

# The kernel's TLS and its ciphers; one that is built in is left out.
MODULES = ("tls", "ctr", "ghash_generic", "gcm", "aesni_intel", "chacha_generic",
           "poly1305_generic", "chacha20poly1305")

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /tmp && mount -t proc proc /proc && mount -t sysfs sys /sys
mount -t devtmpfs dev /dev && mount -t tmpfs tmp /tmp
ip link set lo up
for module in /modules/*; do insmod $module || echo "no $module"; done
for test in /tests/*; do
    $test --tap ONLY 2>&1
    echo "exit status $? of $test"
done
poweroff -f
"""

PROGRAM = stat.S_IFREG | 0o755


def kernel_release():
    for kernel in sorted(glob.glob("/boot/vmlinuz-*"), reverse=True):
        release = kernel.removeprefix("/boot/vmlinuz-")
        if glob.glob(f"/lib/modules/{release}/kernel/net/tls/tls.ko"):
            return release
    pytest.skip("no kernel with an uncompressed TLS module in /boot: install linux-image-amd64")
    return None


def modules(release):
    """The files of MODULES and of what they need, in the order in which to load them."""
    paths = []
    for name in MODULES:
        shown = subprocess.run(["/sbin/modprobe", "-S", release, "--show-depends", name],
                               stdout=subprocess.PIPE, text=True, check=True).stdout
        paths += re.findall(r"^insmod (\S+)", shown, re.M)
    return list(dict.fromkeys(paths))


def libraries(program):
    shown = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    return re.findall(r"(/\S+) \(0x", shown)


def initramfs(release, programs, only):
    options = " ".join(f"-p {path}" for path in only)
    files = {"init": INIT.replace("ONLY", options).encode(), "bin/busybox": pathlib.Path(shutil.which("busybox"))}
    for i, path in enumerate(modules(release)):
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


def run_in_guest(workdir, *programs, only=()):
    """What the programs say, run one after the other in a guest of Debian's kernel."""
    release = kernel_release()
    image = workdir / "initramfs"
    image.write_bytes(initramfs(release, programs, only))
    return subprocess.run(
        [qemu.oldest(), "-accel", "tcg", "-cpu", "max", "-m", "1G", "-smp", "2", "-nodefaults", "-display", "none",
         "-serial", "stdio", "-no-reboot", "-kernel", f"/boot/vmlinuz-{release}", "-initrd", image,
         "-append", "console=ttyS0 quiet panic=-1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace", timeout=600,
        check=True).stdout


# What such a kernel has a part in. The rest is tested where the tests run, in a hundredth of the time
# that it takes on an emulated CPU.
WITH_KERNEL = ("/ktls/detect", "/ktls/carries/kernel", "/ktls/worn-out/kernel", "/ktls/guard/kernel")


@pytest.mark.parametrize("program, only", [
    ("engine/transfer/test-transfer-ktls", ()),
    pytest.param("engine/channel/test-channel-ktls", WITH_KERNEL, marks=pytest.mark.slow),
], ids=("transfer", "channel"))
def test_kernel_that_has_it(workdir, program, only):
    said = run_in_guest(workdir, built(program), only=only)
    assert f"exit status 0 of /tests/{os.path.basename(program)}" in said, said
    assert "NOT TESTED" not in said
    for path in only:
        assert re.search(rf"^ok \d+ {path}", said, re.M), f"{path} was not run: {said}"
