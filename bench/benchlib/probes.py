# SPDX-License-Identifier: Apache-2.0
"""What is read from outside while a guest is moved. docs/benchmarks.md defines each figure."""
import os
import pathlib
import re
import resource
import threading
import time

from harness.qmp import QmpError, QmpGone

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_S = 0.1


def _times(stat):
    """User and system seconds of a stat file's text; the command name may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_seconds(pid):
    """Of the process, threads that have ended included."""
    return _times(pathlib.Path(f"/proc/{pid}/stat").read_text())


def thread_seconds(pid, threads):
    total = 0.0
    for thread in threads:
        try:
            total += _times(pathlib.Path(f"/proc/{pid}/task/{thread}/stat").read_text())
        except FileNotFoundError:
            pass  # ended: its time is in the process's own
    return total


def memory(pid):
    """{'rss', 'peak', 'anonymous'} in bytes."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()

    def of(field):
        return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024
    return {"rss": of("VmRSS"), "peak": of("VmHWM"), "anonymous": of("RssAnon")}


def wire_bytes(pid, device):
    """(received, sent) by an interface of the network namespace that the process lives in."""
    for line in pathlib.Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == device:
            fields = rest.split()
            return int(fields[0]), int(fields[8])
    raise RuntimeError(f"process {pid} has no network interface {device}")


class Cpu:
    """CPU of a set of processes from a moment on.

    'processes' is {(end, name): (pid, its vCPU threads)}, where end is source or dest.
    """

    def __init__(self, processes):
        self._processes = processes
        self._before = self._read()
        self._system = self._read_system()
        self._began = time.monotonic()

    def _read(self):
        return {key: (cpu_seconds(pid), thread_seconds(pid, threads))
                for key, (pid, threads) in self._processes.items()}

    @staticmethod
    def _read_system():
        """(busy, stolen, this process, its ended children), in seconds."""
        fields = [int(f) / TICKS for f in
                  pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, _, _, _, _, stolen = fields
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (user + nice + system, stolen, own.ru_utime + own.ru_stime,
                children.ru_utime + children.ru_stime)

    def since(self):
        """What was used since: by process, in sum, and by others on this machine."""
        wall = time.monotonic() - self._began
        now, system = self._read(), self._read_system()
        moving, vcpus = {}, 0.0
        for key, (total, threads) in now.items():
            vcpu = threads - self._before[key][1]
            moving[key] = max(total - self._before[key][0] - vcpu, 0.0)
            vcpus += vcpu
        busy, stolen, own, children = (b - a for a, b in zip(self._system, system))
        ends = {end: sum(s for (e, _), s in moving.items() if e == end)
                for end in ("source", "dest")}
        # Commands that ended meanwhile (drover's own, above all) run at the source.
        ends["source"] += children
        others = max(busy - sum(moving.values()) - vcpus - own - children, 0.0)
        cores = os.cpu_count() or 1
        return {
            "processes": {f"{end}/{name}": round(s, 3) for (end, name), s in moving.items()},
            "commands": round(children, 3),
            "source": round(ends["source"], 3), "dest": round(ends["dest"], 3),
            "total": round(ends["source"] + ends["dest"], 3),
            "vcpus": round(vcpus, 3), "others": round(others, 3), "stolen": round(stolen, 3),
            "others_share": round((others + stolen) / (wall * cores), 3) if wall > 0 else 0.0,
        }


class Sampler:
    """Asks the source QEMU how far it is, ten times a second."""
    COLUMNS = ("t", "status", "round", "remaining", "transferred", "dirty_pages_rate", "wire")

    def __init__(self, machine, qmp, device):
        self._pid, self._device, self._qmp = machine.pid, device, qmp
        self._stop = threading.Event()
        self._rows = []
        self._began = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self._began = time.monotonic()
        self._thread.start()

    def _run(self):
        try:
            while not self._stop.is_set():
                self._rows.append(self._sample())
                self._stop.wait(SAMPLE_S)
        except (QmpGone, QmpError, TimeoutError, OSError):
            pass  # the source has ended; what was seen stands

    def _sample(self):
        info = self._qmp.command("query-migrate", timeout=5)
        ram = info.get("ram", {})
        wire = sum(wire_bytes(self._pid, self._device)) if self._device else None
        return (round(time.monotonic() - self._began, 3), info.get("status", "none"),
                ram.get("dirty-sync-count", 0), ram.get("remaining", 0),
                ram.get("transferred", 0), ram.get("dirty-pages-rate", 0), wire)

    def stop(self):
        """The samples, a list for each column; 'wire' counts from the first sample."""
        self._stop.set()
        self._thread.join(10)
        columns = {name: [row[i] for row in self._rows] for i, name in enumerate(self.COLUMNS)}
        if self._device:
            first = columns["wire"][0] if columns["wire"] else 0
            columns["wire"] = [w - first for w in columns["wire"]]
        return columns
