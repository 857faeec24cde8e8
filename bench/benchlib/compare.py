# SPDX-License-Identifier: Apache-2.0
"""Old results against new: what got slower, by how much, and whether that is more than noise.

A figure got worse when its median rose by more than the threshold, by more than is worth a word
(SMALLEST), and the new runs lie clear of the old ones: the best of the new is worse than the worst
of the old. With only one run a side there is no spread to be clear of, and the threshold alone
decides.

What is compared is the ratio to QEMU's own migration of the same round where both sides have it,
so that a faster or busier machine is not taken for a better or worse drover. QEMU's own cells are
compared by nothing: they are the yardstick.
"""
import dataclasses

from . import stats
from .results import FIGURES, Table
from .systems import BASELINE, SYSTEMS

# figure: what a difference must exceed, in the figure's own unit, to be worth a word
SMALLEST = {"total": 0.05, "felt": 10, "wire": 1 << 20, "cpu": 0.1, "peak_memory": 2 << 20}
AGAINST_QEMU = ("total", "cpu")


@dataclasses.dataclass(frozen=True)
class Change:
    cell: str
    figure: str
    old: stats.Spread
    new: stats.Spread
    relative: bool     # ratios to QEMU's own migration rather than the figure itself
    beyond: bool       # beyond the threshold and beyond the noise

    @property
    def worse_by(self):
        """0.2 for a fifth worse; of nothing, everything is infinitely worse."""
        if self.old.median <= 0:
            return 0.0 if self.new.median <= 0 else float("inf")
        return self.new.median / self.old.median - 1


def _clear(old, new):
    return new.low > old.high if min(old.n, new.n) > 1 else new.median > old.median


def _change(cell, figure, threshold, old, new):
    """old, new: (table, group, system)."""
    sides, plain = [], []
    for table, group, system in (old, new):
        values = table.values(group, system, figure)
        base = stats.ratios(values, table.values(group, BASELINE, figure))
        sides.append(base if figure in AGAINST_QEMU else None)
        plain.append(stats.spread(values.values()))
    relative = None not in sides
    before, after = sides if relative else plain
    if before is None or after is None:
        return None
    change = Change(cell, figure, before, after, relative, False)
    # What a rise of the ratio means in seconds, on the new side's machine.
    rise = plain[1].median * (1 - before.median / after.median) if after.median > 0 else 0.0
    beyond = change.worse_by > threshold and _clear(before, after) and rise > SMALLEST[figure]
    return dataclasses.replace(change, beyond=beyond)


def compare(old_lines, new_lines, threshold):
    """(changes, remarks): every figure both have, and what cannot be compared."""
    old, new = Table(old_lines), Table(new_lines)
    changes, remarks = [], []
    if old.runs and new.runs:
        remarks += _conditions(old.runs[0], new.runs[0])
    for group, systems in old.groups.items():
        for system in systems:
            cell = f"{group}/{system}"
            if not SYSTEMS[system].drover:
                continue
            if system not in new.groups.get(group, {}):
                remarks.append(f"{cell}: not in the new results")
                continue
            changes += filter(None, (
                _change(cell, figure, threshold, (old, group, system), (new, group, system))
                for figure in SMALLEST))
    return changes, remarks


def _bad(table):
    return {run["cell"]["name"]
            for run in [*table.broken, *(run for run in table.runs if not run["ok"])]}


def lost(old_lines, new_lines):
    """drover's cells that went well every time before, and now fail, do not converge, or break."""
    old, new = Table(old_lines), Table(new_lines)
    well = {run["cell"]["name"] for run in old.runs
            if SYSTEMS[run["cell"]["system"]].drover} - _bad(old)
    return sorted(well & _bad(new))


def _conditions(old, new):
    for what, a, b in (("machine", old["host"]["cpu"], new["host"]["cpu"]),
                       ("number of cores", old["host"]["cores"], new["host"]["cores"]),
                       ("QEMU", old["qemu"], new["qemu"]),
                       ("downtime limit", old["downtime_limit_ms"], new["downtime_limit_ms"]),
                       ("build", old["host"]["buildtype"], new["host"]["buildtype"]),
                       ("guest's memory", old["guest"].get("memory_mib"),
                        new["guest"].get("memory_mib")),
                       ("memory image", old["guest"].get("image", {}).get("sha256"),
                        new["guest"].get("image", {}).get("sha256"))):
        if a != b:
            yield f"the {what} is not the same: {a}, now {b}"


def sentence(change):
    _, unit, _ = FIGURES[change.figure]

    def shown(s):
        scale, name = (1 << 20, "MiB") if unit == "bytes" else (1, unit)
        if change.relative:
            scale, name = 1, "× qemu"
        return f"{s.median / scale:.2f} ({s.low / scale:.2f} to {s.high / scale:.2f}) {name}"
    return (f"{change.cell}: {FIGURES[change.figure][0]} {change.worse_by:+.0%}: "
            f"{shown(change.old)}, now {shown(change.new)}")
