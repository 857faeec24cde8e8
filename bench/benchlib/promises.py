# SPDX-License-Identifier: Apache-2.0
"""The figures that drover promises, judged from results."""
import dataclasses

from . import stats
from .results import value
from .systems import BASELINE, SYSTEMS

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Verdict:
    promise: str
    limit: str
    measured: str
    kept: bool
    where: str


def _spread(s, unit, digits=2):
    return f"{s.median:.{digits}f} ({s.low:.{digits}f} to {s.high:.{digits}f}){unit}"


def _ratio(table, group, system, limit, promise):
    found = stats.ratios(table.values(group, system, "total"),
                         table.values(group, BASELINE, "total"))
    if found:
        yield Verdict(promise, f"{limit} ×", _spread(found, " ×"), found.median <= limit,
                      f"{group}/{system}")


def _difference(table, group, system, base, figure, unit, limit, promise):
    found = stats.differences(table.values(group, system, figure),
                              table.values(group, base, figure))
    if found:
        digits = 0 if unit == "ms" else 2
        yield Verdict(promise, f"+ {limit} {unit}", _spread(found, f" {unit}", digits),
                      found.median <= limit, f"{group}/{system}")


def _memory(table, figure, limit, promise):
    """The worst of all runs: such a promise has no median. Clones have pages kept for each other, in
    memory that is allowed for that alone."""
    drovers = [run for run in table.runs if SYSTEMS[run["cell"]["system"]].drover
               and run["cell"]["guest"] != "clones" and value(run, figure) is not None]
    if drovers:
        worst = max(drovers, key=lambda run: value(run, figure))
        used = value(worst, figure)
        yield Verdict(promise, f"{limit} MiB", f"{used / MIB:.1f} MiB, the worst of {len(drovers)}",
                      used < limit * MIB, worst["cell"]["name"])


def verdicts(table):
    """Those that these results can tell."""
    found = list(_ratio(table, "1g/idle", "drover-auto", 0.6,
                        "1 Gbit/s, auto with TLS: total time against QEMU's plain migration"))
    found += _ratio(table, "loopback/idle", "drover-none", 1.3,
                    "unlimited loopback, no codec, TLS: total time against QEMU's plain migration")
    for group in table.groups:
        for system in table.groups[group]:
            if group.endswith("/idle") and SYSTEMS[system].drover and not SYSTEMS[system].cut_s:
                found += _difference(table, group, system, BASELINE, "felt", "ms", 15,
                                     "idle guest: downtime it feels, over that with QEMU alone")
    found += _difference(table, "1g/idle", "drover-auto-cut1s", "drover-auto", "total", "s", 2,
                         "a cut of 1 s: total time over that without it")
    found += _difference(table, "1g/disk", "drover-auto", BASELINE, "felt", "ms", 20,
                         "a disk under load that goes along: downtime over that with QEMU's mirror")
    found += _memory(table, "idle_memory", 30, "memory of an idle daemon")
    found += _memory(table, "peak_memory", 96, "memory of a migrating daemon, but for pages kept for clones")
    return found
