# SPDX-License-Identifier: Apache-2.0
"""One run of one cell: guests are started, watched, moved, watched, and ended."""
import bisect
import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import threading
import time

from harness import disks
from harness.console import longest_gap
from harness.daemon import make_pki
from harness.qemu import MIB, Machine, kvm_problem

from . import disk, links, probes
from .guests import RECIPES, describe
from .systems import SYSTEMS, Site, Unavailable

# A slow-down is not told from fewer heartbeats or less time than this.
MIN_BEATS, MIN_BEATS_S = 50, 0.25
CUT_AFTER = 0.3  # of the guest's memory sent, or
CUT_AFTER_S = 1.5


@dataclasses.dataclass
class Conditions:
    """What is the same for every run."""
    binary: str
    memory: int        # MiB
    watch_s: float     # how long a guest is watched before it is moved
    time_limit: float
    downtime_ms: int
    backend: str       # of the guests' memory, as in tests/harness/qemu.py


@dataclasses.dataclass
class Pair:
    name: str
    source: Machine
    dest: Machine
    outcome: object = None
    failure: Exception | None = None
    ended: float = 0.0
    timeline: dict | None = None


@contextlib.contextmanager
def _directory():
    path = pathlib.Path(tempfile.mkdtemp(prefix="drv-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _with_disk(recipe, guest, workdir):
    if not disks.kernel_modules():
        raise Unavailable("no kernel modules for the Linux guest's disk: scripts/install-deps --test")
    return disk.guests(guest, recipe.disk, workdir)


def accelerator():
    return "tcg" if kvm_problem() else "kvm"


def run(cell, conditions, recipe=None):
    """Measures a cell once; returns (guest description, metrics, timeline, ok, error).

    'recipe' is the guest, if it is none of those with a name.
    """
    recipe, system = recipe or RECIPES[cell.guest], SYSTEMS[cell.system]
    guest = recipe.guest(conditions.memory, accelerator(), conditions.backend)
    with contextlib.ExitStack() as stack:
        workdir = stack.enter_context(_directory())
        link = stack.enter_context(links.make(cell.link))
        pki = make_pki(workdir / "pki", f"a={link.a.address}", f"b={link.b.address}")
        site = Site(link, pki, workdir, conditions.time_limit, conditions.downtime_ms,
                    bool(recipe.disk))
        ends = _with_disk(recipe, guest, workdir) if recipe.disk else (guest, guest)
        mover = stack.enter_context(system.start(site))
        pairs = []
        for n in range(recipe.clones):
            source = stack.enter_context(
                Machine(conditions.binary, ends[0], prefix=link.a.prefix, name=f"src{n}"))
            dest = stack.enter_context(
                Machine(conditions.binary, ends[1], incoming=True, prefix=link.b.prefix,
                        name=f"dst{n}"))
            pairs.append(Pair(f"guest{n}", source, dest))
        metrics = _Run(mover, pairs, link, system).measure(conditions)
        failures = [p for p in pairs if not p.outcome.done]
        error = failures[0].outcome.error if failures else None
        return describe(guest), metrics, pairs[0].timeline, not failures, error


class _Run:
    def __init__(self, mover, pairs, link, system):
        self.mover, self.pairs, self.link, self.system = mover, pairs, link, system

    def measure(self, conditions):
        for pair in self.pairs:
            pair.source.wait_ready()
            self.mover.prepare(pair)
        idle = {end: probes.memory(pid) for end, pid in self.mover.daemons().items()}
        since = time.monotonic()
        time.sleep(conditions.watch_s)  # the guest is watched at its ordinary work
        cpu = probes.Cpu(self._processes())
        wire = self._wire()
        began = time.monotonic()
        self._move_all()
        ended = time.monotonic()
        used, wired = cpu.since(), self._wire()
        metrics = {
            **self._times(since, began, ended),
            "cpu_s": used,
            "daemon_memory": {
                end: {"idle": idle[end], "moved": probes.memory(pid)}
                for end, pid in self.mover.daemons().items()},
            "wire": None if wire is None else {"forth": wired[1] - wire[1],
                                               "back": wired[0] - wire[0]},
            "ram_bytes": sum(p.source.guest.memory * MIB for p in self.pairs),
        }
        metrics["cpu_s_per_gib"] = round(used["total"] / (metrics["ram_bytes"] / (1 << 30)), 3)
        if metrics["wire"]:
            # On the loopback everything is both sent and received by one interface.
            both = metrics["wire"]["forth"] + \
                (metrics["wire"]["back"] if self.link.device != "lo" else 0)
            metrics["wire"]["bytes"] = both
        return metrics

    def _processes(self):
        found = {key: (pid, ()) for key, pid in self.mover.processes().items()}
        for pair in self.pairs:
            for end, machine in (("source", pair.source), ("dest", pair.dest)):
                vcpus = tuple(c["thread-id"] for c in machine.qmp.command("query-cpus-fast"))
                found[end, f"qemu-{pair.name}"] = (machine.pid, vcpus)
        return found

    def _wire(self):
        """(received, sent) at the source's end of the link."""
        if not self.link.device:
            return None
        return probes.wire_bytes(self.pairs[0].source.pid, self.link.device)

    # ---- moving ----

    def _move_all(self):
        # Machines are started by the main thread: they die with the thread that started them.
        threads = [threading.Thread(target=self._move, args=(p,)) for p in self.pairs]
        qmps = [self.mover.sampler_qmp(p.source) for p in self.pairs]
        samplers = [probes.Sampler(p.source, q, self.link.device)
                    for p, q in zip(self.pairs, qmps)]
        for each in (*samplers, *threads):
            each.start()
        if self.system.cut_s:
            self._cut(threads[0])
        for thread in threads:
            thread.join()
        for pair, sampler, qmp in zip(self.pairs, samplers, qmps):
            pair.timeline = sampler.stop()
            if qmp is not pair.source.qmp:
                qmp.close()
        for pair in self.pairs:
            if pair.failure:
                raise pair.failure

    def _move(self, pair):
        try:
            pair.outcome = self.mover.move(pair)
            if pair.outcome.done:
                pair.dest.console.wait_beats(max(0, 1 - len(pair.dest.console.beats)))
        except Exception as e:  # handed to the thread that waits
            pair.failure = e
        pair.ended = time.monotonic()

    def _cut(self, moving):
        """The link goes, for a while, when a good part of the memory is over."""
        first, deadline = self._wire()[1], time.monotonic() + CUT_AFTER_S
        enough = CUT_AFTER * self.pairs[0].source.guest.memory * MIB
        while moving.is_alive() and time.monotonic() < deadline \
                and self._wire()[1] - first < enough:
            time.sleep(0.02)
        if not moving.is_alive():
            raise RuntimeError("the guest was moved before the link could be cut")
        self.link.cut()
        time.sleep(self.system.cut_s)
        self.link.restore()

    # ---- judging ----

    def _times(self, since, began, ended):
        each = [self._pair_times(p, since, began, ended) for p in self.pairs]

        def worst(name):
            known = [e[name] for e in each if e[name] is not None]
            return max(known) if known else None
        names = ("total_s", "qemu_total_s", "downtime_felt_ms", "downtime_qemu_ms",
                 "downtime_drover_ms", "gap_before_ms", "rounds", "slowdown_pct",
                 "qemu_transferred", "work_before")
        return {"converged": all(p.outcome.converged for p in self.pairs),
                **{name: worst(name) for name in names},
                "guests": each}

    def _pair_times(self, pair, since, began, ended):
        source, dest, outcome = pair.source.console, pair.dest.console, pair.outcome
        info = pair.source.qmp.command("query-migrate")
        before, _ = longest_gap(since, began, source)
        times = {
            "total_s": round(pair.ended - began, 4) if outcome.done else None,
            "gap_before_ms": round(before * 1000, 1),
            "work_before": _rate(source.beats, since, began),
            "slowdown_pct": _slowdown(source.beats, since, began),
            "rounds": info.get("ram", {}).get("dirty-sync-count"),
            "qemu_transferred": info.get("ram", {}).get("transferred"),
            "qemu_total_s": None, "downtime_felt_ms": None, "downtime_at_s": None,
            "downtime_qemu_ms": None, "downtime_drover_ms": None,
        }
        if not outcome.done:
            return times
        # Some more of the destination, lest the gap be cut short.
        dest.wait_beats(5)
        felt, at = _switch_gap(source.beats, dest.beats)
        times |= {
            "qemu_total_s": info.get("total-time", 0) / 1000,
            "downtime_qemu_ms": info.get("downtime"),
            "downtime_felt_ms": round(felt * 1000, 1),
            "downtime_at_s": round(at - began, 3),
        }
        longest, _ = longest_gap(began, ended, source, dest)
        times["longest_gap_ms"] = round(max(longest, felt) * 1000, 1)
        if dest.beats[0][1] < source.beats[-1][1]:
            raise RuntimeError("the guest went back in time: it counts "
                               f"{dest.beats[0][1]} after {source.beats[-1][1]}")
        if outcome.report:
            times["downtime_drover_ms"] = outcome.report.get("downtime_ms")
            times["drover"] = outcome.report
        return times


def _switch_gap(source, dest):
    """The silence from the last heartbeat at the source to the first at the destination."""
    return dest[0][0] - source[-1][0], source[-1][0]


def _rate(beats, since, until):
    """Units of work a second between two moments, or None when there are too few to tell."""
    first = bisect.bisect_left(beats, since, key=lambda beat: beat[0])
    last = bisect.bisect_right(beats, until, key=lambda beat: beat[0]) - 1
    if last - first < MIN_BEATS or beats[last][0] - beats[first][0] < MIN_BEATS_S:
        return None
    return (beats[last][1] - beats[first][1]) / (beats[last][0] - beats[first][0])


def _slowdown(beats, since, began):
    """By how many percent the guest worked less while it was moved than before."""
    before, during = _rate(beats, since, began), _rate(beats, began, beats[-1][0])
    if not before or during is None:
        return None
    return round(100 * (1 - during / before), 1)
