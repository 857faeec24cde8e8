# SPDX-License-Identifier: Apache-2.0
"""The QEMUs of this machine, the guests that run on them, and a running one of them."""
import dataclasses
import functools
import glob
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from . import build
from .console import Console
from .qmp import Qmp, QmpError, QmpGone

MIB = 1 << 20
PAGE = 4096
SYSTEM_QEMU = "qemu-system-x86_64"
POOL_FILE = "opt/drover/pool"


def cache_dir():
    """Where scripts/install-deps unpacks the QEMU that does not come with the system."""
    own = "/var/cache" if os.geteuid() == 0 else pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or own) / "drover"


@functools.lru_cache(None)
def qemus():
    """{'7.2': path, '10.0': path}: every QEMU to test with, oldest first.

    DRV_QEMUS (paths, separated by colons) names them instead.
    """
    if os.environ.get("DRV_QEMUS"):
        candidates = os.environ["DRV_QEMUS"].split(":")
    else:
        candidates = [shutil.which(SYSTEM_QEMU)]
        candidates += sorted(glob.glob(str(cache_dir() / "qemu-*" / SYSTEM_QEMU)))
    found = {}
    for path in filter(None, candidates):
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60,
                              check=True).stdout
        version = re.search(r"version (\d+\.\d+)", text)[1]
        found.setdefault(version, path)
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in item[0].split(".")]))


def oldest():
    """The oldest QEMU of this machine, for tests that are not about versions."""
    if not qemus():
        raise FileNotFoundError(f"no {SYSTEM_QEMU} here: run scripts/install-deps --test")
    return next(iter(qemus().values()))


def newest():
    """The newest one, whose TCG loses no writes (Machine.loses_hot_pages)."""
    oldest()
    return list(qemus().values())[-1]


@dataclasses.dataclass(frozen=True)
class Guest:
    """A guest and the machine it runs on; the same on both sides of a migration."""
    kind: str = "flat"           # flat (tests/guests/flat) or linux (tests/guests/linux)
    accel: str = "tcg"           # kvm (flat only) or tcg
    memory: int = 128            # MiB
    # The flat guest's parameters; see tests/guests/flat/guest.c.
    mode: str = "sparse"
    pages: int = 4096
    start: int = 0x1000000
    params: str = ""             # further ones, as text
    # The Linux guest's: MiB of memory it works on, pages a second it writes.
    work: tuple = (32, 1000)
    # Any guest's.
    machine: str = "pc-i440fx-7.2"   # one that every tested QEMU has
    cpu: str = "qemu64"
    backend: str = ""            # '' (anonymous), memfd, memfd-private, prealloc, file
    dirty_ring: int = 0          # KVM: entries of the dirty ring instead of the bitmap;
                                 # pace the writer (tests/README.md), or the kernel loses pages
    images: tuple = ()           # ((file, address), ...): loaded into memory before the start
    extra: tuple = ()            # further QEMU arguments, both sides

    def __str__(self):
        return f"{self.kind}-{self.accel}"

    @property
    def body(self):
        given = re.search(r"\bbody=(\w+)", self.params)
        return given[1] if given else "random" if self.mode == "random" else "text"

    @property
    def step(self):
        given = re.search(r"\bstep=(\w+)", self.params)
        return int(given[1], 0) if given else 1

    @property
    def pages_bytes(self):
        return self.pages * PAGE

    def variant(self, **changes):
        return dataclasses.replace(self, **changes)

    def with_options(self, workdir, incoming):
        """The QEMU arguments for this guest, without sockets."""
        accel = self.accel
        if self.dirty_ring:
            accel += f",dirty-ring-size={self.dirty_ring}"
        args = ["-accel", accel, "-cpu", self.cpu, "-m", f"{self.memory}M",
                "-nodefaults", "-display", "none", "-no-user-config", "-no-shutdown"]
        args += self._memory(workdir)
        args += self._flat() if self.kind == "flat" else self._linux()
        if not incoming:
            # They only fill memory before the start: the destination gets it from the source.
            for file, address in self.images:
                args += ["-device", f"loader,file={file},addr={address:#x},force-raw=on"]
        return args + list(self.extra)

    def _memory(self, workdir):
        if not self.backend:
            return ["-machine", self.machine]
        size = f"id=ram0,size={self.memory}M"
        backend = {
            "memfd": f"memory-backend-memfd,{size},share=on",
            "memfd-private": f"memory-backend-memfd,{size},share=off",
            "bound": f"memory-backend-ram,{size},host-nodes=0,policy=bind",
            "prealloc": f"memory-backend-ram,{size},prealloc=on",
            "file": f"memory-backend-file,{size},share=on,mem-path={workdir}/ram",
        }[self.backend]
        return ["-machine", f"{self.machine},memory-backend=ram0", "-object", backend]

    def _flat(self):
        line = f"start={self.start:#x} pages={self.pages} mode={self.mode} {self.params}"
        args = ["-device", "isa-debugcon,iobase=0xe9,chardev=console",
                "-kernel", str(build.built("tests", "guests", "flat.elf"))]
        if self.accel == "kvm":
            line += " pool=host"
            args += ["-fw_cfg", f"name={POOL_FILE},file={pool_file(self.body)}"]
        return args + ["-append", line.replace("  ", " ")]

    def _linux(self):
        kernels = sorted(glob.glob("/boot/vmlinuz-*"))
        if not kernels:
            raise FileNotFoundError("no /boot/vmlinuz-*: run scripts/install-deps --test")
        return ["-serial", "chardev:console", "-kernel", kernels[-1],
                "-initrd", str(build.built("tests", "guests", "initramfs.cpio")),
                "-append", f"console=ttyS0 quiet work={self.work[0]},{self.work[1]}"]


@functools.lru_cache(None)
def pool_file(body):
    """The flat guest's pool of page bodies, made once a process beside the build's guests."""
    path = build.built("tests", "guests") / f"pool-{body}"
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}")
        subprocess.run([build.built("tests", "tools", "mkpool"), body, draft], timeout=120, check=True)
        draft.rename(path)
    return path


class Machine:
    """A running QEMU with a guest. It ends when the with-block does, or by close().

    qmp is the harness's own QMP connection; drover_qmp the path of a second socket, for drover.
    """

    def __init__(self, binary, guest, incoming=False, prefix=(), name="vm"):
        self.guest = guest
        self.incoming = incoming
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"drv-{name}-"))
        self.drover_qmp = str(self.dir / "drover.qmp")
        self.qmp = None
        self.console = Console(self.dir / "console.sock", self.dir / "console.log")
        self.log = self.dir / "qemu.log"
        # Should the test process be killed, no QEMU is left behind. ('setpriv' becomes QEMU.)
        argv = [*prefix, "setpriv", "--pdeathsig", "KILL", binary,
                *guest.with_options(self.dir, incoming), "-name", name,
                "-chardev", f"socket,id=console,path={self.dir}/console.sock",
                "-qmp", f"unix:{self.dir}/test.qmp,server=on,wait=off",
                "-qmp", f"unix:{self.drover_qmp},server=on,wait=off"]
        if incoming:
            argv += ["-incoming", "defer", "-S"]
        self.argv = argv
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.qmp = self._first_contact()
        except BaseException:
            self.close()
            raise

    def _first_contact(self):
        for _ in range(60):
            try:
                return Qmp(self.dir / "test.qmp", timeout=1)
            except (OSError, QmpGone):
                if self.process.poll() is not None:
                    raise RuntimeError(f"QEMU ended at its start: {self.said()}") from None
        raise RuntimeError(f"QEMU did not open its QMP socket: {self.said()}")

    def said(self):
        return self.log.read_text(errors="replace").strip()

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self, timeout=240):
        """Waits until the guest's memory is filled and it has begun its work."""
        ready = b"work ready" if self.guest.kind == "linux" else b"ready"
        self.console.wait(lambda: self.console.said(ready) and self.console.beats, timeout,
                          "being ready")
        return self

    def counter(self):
        return self.console.counter()

    def status(self):
        return self.qmp.command("query-status")["status"]

    def vcpus(self):
        """Where they stand, for a test that has waited for the guest in vain."""
        return "\n".join([self.status(), *(self.qmp.hmp(line) for line in ("info registers", "info pic", "info irq"))])

    def stop(self):
        self.qmp.command("stop")

    def cont(self):
        self.qmp.command("cont")

    def loses_hot_pages(self):
        """Whether this QEMU migrates a hot page's last writes by luck only (tests/README.md)."""
        version = self.qmp.command("query-version")["qemu"]
        return self.guest.accel == "tcg" and version["major"] < 9

    def running(self):
        return self.qmp.command("query-status")["running"]

    def quit(self):
        try:
            self.qmp.command("quit")
        except (QmpGone, QmpError, OSError):
            pass

    def kill(self):
        """As if its host had died."""
        self.process.kill()
        self.process.wait(60)

    def wait_exit(self, timeout=60):
        return self.process.wait(timeout)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        elif self.process.returncode not in (0, -signal.SIGKILL):
            print(f"QEMU ({self.dir.name}) ended with {self.process.returncode}: {self.said()}",
                  file=sys.stderr)
        if self.qmp:
            self.qmp.close()
        self.console.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@functools.lru_cache(None)
def kvm_problem():
    """None where KVM really runs the flat guest, otherwise why not."""
    if os.environ.get("DRV_NO_KVM"):
        return "DRV_NO_KVM is set"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "/dev/kvm is not there or not permitted"
    probe = Guest(accel="kvm", pages=16, memory=64)
    try:
        with Machine(oldest(), probe, name="probe") as m:
            m.wait_ready()
    except (RuntimeError, TimeoutError, QmpGone) as e:
        return f"the flat guest does not run under KVM: {e}"
    return None
