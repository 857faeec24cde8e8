# SPDX-License-Identifier: Apache-2.0
"""One run of one cell of bench/storage: an image is converted, or copied to another host.

The clock runs from the start of the command until what it made is on the disk: drover syncs it by
itself, for the others the file is synced, and its folder, with the clock on.
"""
import contextlib
import dataclasses
import os
import pathlib
import resource
import subprocess
import time

from harness.daemon import Daemon, command_line, make_pki

from . import diskimages, links, probes
from .systems import wait_for

QEMU_IMG = ("qemu-img", "convert", "-m", "8", "-W")
KILLED = {"drover-dest-killed": "b", "drover-source-killed": "a"}
PORT = 10809


@dataclasses.dataclass(frozen=True)
class Cell:
    what: str     # convert; or copy, over a link of 1 Gbit/s
    cache: str    # cold: nothing of the source is in the page cache; warm: all of it
    image: str
    formats: str  # of the source and what is made of it
    system: str

    @property
    def group(self):
        return f"{self.what}-{self.cache}/{self.image}/{self.formats}"

    def __str__(self):
        return f"{self.group}/{self.system}"


def every_cell():
    def group(what, cache, image, formats, *systems):
        return [Cell(what, cache, image, formats, system) for system in systems]
    cells = []
    for cache in ("cold", "warm"):
        for image in ("dense", "sparse"):
            for formats in ("raw-raw", "raw-qcow2", "qcow2-raw", "qcow2-qcow2"):
                cells += group("convert", cache, image, formats, "qemu-img", "drover")
    for formats in ("raw-raw", "qcow2-qcow2"):
        cells += group("copy", "cold", "dense", formats, "qemu-img", "drover")
    cells += group("copy", "cold", "packed", "raw-raw", "drover", *KILLED)
    return cells


@dataclasses.dataclass
class Conditions:
    folder: pathlib.Path  # for images and what is made of them
    size: int             # bytes of an image

    def image(self, cell):
        # What is killed on its way is smaller: it has to be more than what may be sent again.
        size = self.size // 4 if cell.image == "packed" else self.size
        return diskimages.make(self.folder, cell.image, size)


def _sync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _prepare_cache(path, cache):
    with open(path, "rb") as file:
        if cache == "warm":
            while file.read(1 << 20):
                pass
        else:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(pid):
    """CPU of a process and of its children that have ended."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) / probes.TICKS


class _Usage:
    """CPU seconds of what is measured, and of others, from a moment on."""

    def __init__(self, pids=()):
        self._pids = list(pids)
        self._began, self._before = time.monotonic(), self._read()

    def _read(self):
        own = resource.getrusage(resource.RUSAGE_SELF)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        fields = [int(f) / probes.TICKS for f in
                  pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        busy = sum(fields[:3]) + fields[7]  # user, nice, system, stolen
        return (ended.ru_utime + ended.ru_stime + sum(map(_seconds, self._pids)),
                own.ru_utime + own.ru_stime, busy)

    def since(self):
        wall = time.monotonic() - self._began
        used, own, busy = (b - a for a, b in zip(self._before, self._read()))
        others = max(busy - used - own, 0) / (wall * (os.cpu_count() or 1))
        return {"total": round(used, 3), "others_share": round(others, 3)}


def _run(argv):
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]}: {done.stderr.strip()}")


class _Job:
    """What is to be done, and what has been measured of it."""

    def __init__(self, cell, conditions, work):
        raw, self.about = conditions.image(cell)
        self.cell, self.work, self.raw = cell, work, raw
        self.form, self.made_form = cell.formats.split("-")
        self.source = diskimages.in_format(raw, self.form)
        self.out = work / f"out.{self.made_form}"
        self.metrics = {}

    @contextlib.contextmanager
    def clock(self, pids=()):
        _sync(self.source)
        _prepare_cache(self.source, self.cell.cache)
        usage, began = _Usage(pids), time.monotonic()
        yield
        if self.cell.system == "qemu-img":
            _sync(self.out)
            _sync(self.work)
        self.metrics["total_s"] = round(time.monotonic() - began, 4)
        self.metrics["cpu_s"] = usage.since()

    def check(self):
        """A fast copy of something else is worth nothing."""
        _run(["qemu-img", "compare", "-f", "raw", "-F", self.made_form, self.raw, self.out])


def _convert(job):
    formats = ("-f", job.form, "-O", job.made_form)
    argv = (*QEMU_IMG, *formats, job.source, job.out)
    if job.cell.system == "drover":
        argv = command_line("convert", job.source, job.out, "--format", job.form, "--dest-format",
                            job.made_form)
    with job.clock():
        _run(argv)


def _wire(link):
    counters = (link.a.run("cat", f"/sys/class/net/{link.a.device}/statistics/{way}_bytes")
                for way in ("rx", "tx"))
    return sum(map(int, counters))


def _copy_by_qemu(job, link):
    """qemu-img at one end, qemu-nbd at the other, nothing between."""
    _run(["qemu-img", "create", "-q", "-f", job.made_form, job.out, str(job.about["size"])])
    ready = job.work / "nbd.pid"
    server = subprocess.Popen(
        [*link.b.prefix, "qemu-nbd", "--bind", link.b.address, "--port", str(PORT), "--pid-file",
         ready, "--format", job.made_form, "--cache=writeback", "--discard=unmap", job.out],
        stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: ready.exists() and ready.read_text(), "qemu-nbd's start")
        with job.clock():
            _run([*link.a.prefix, *QEMU_IMG, "-n", "--target-is-zero", "-f", job.form, "-O", "raw",
                  job.source, f"nbd://{link.b.address}:{PORT}"])
            server.wait()  # it ends, and has written all, when its client is gone
    finally:
        server.kill()
        server.wait()


def _written(job):
    return sum(p.stat().st_blocks * 512 for p in job.work.glob(".out.*.drover-*"))


def _copy_by_drover(job, link):
    pki = make_pki(job.work / "pki", f"a={link.a.address}", f"b={link.b.address}")
    with contextlib.ExitStack() as stack:
        hosts = {}
        for name, end in (("a", link.a), ("b", link.b)):
            hosts[name] = stack.enter_context(Daemon(
                job.work, name, pki / name, listen=f"{end.address}:7000", prefix=end.prefix))
        victim = hosts.get(KILLED.get(job.cell.system))
        with job.clock([] if victim else [d.pid for d in hosts.values()]), \
                hosts["a"].running(
                    "copy", job.source, "--to", hosts["b"].address, "--dest", job.out, "--format",
                    job.form, "--dest-format", job.made_form, "--json") as command:
            if victim:
                wait_for(lambda: _written(job) > job.about["size"] // 2, "half of the image", 600)
                victim.kill()
                victim.start()
            result = command.wait(600)
        if result.status != 0:
            raise RuntimeError(result.stderr.strip())
        job.metrics["drover"] = result.json


def _copy(job):
    with links.make("1g") as link:
        before = _wire(link)
        (_copy_by_qemu if job.cell.system == "qemu-img" else _copy_by_drover)(job, link)
        job.metrics["wire_bytes"] = _wire(link) - before


def run(cell, conditions, check):
    """Measures a cell once; returns (what the image is, metrics)."""
    work = conditions.folder / f"work-{os.getpid()}"
    work.mkdir()
    try:
        job = _Job(cell, conditions, work)
        {"convert": _convert, "copy": _copy}[cell.what](job)
        if check:
            job.check()
        return job.about, job.metrics
    finally:
        subprocess.run(["rm", "-rf", work], check=False)
        _sync(conditions.folder)
