# SPDX-License-Identifier: Apache-2.0
"""storage.md: what bench/storage has measured, every figure beside qemu-img's, and the promises."""
from . import stats
from .diskimages import WHAT
from .report import DISTURBED, number

BASELINE = "qemu-img"
MIB = 1 << 20
# figure: (title, value of a run's metrics, divisor, digits)
FIGURES = {
    "total": ("total s", lambda m: m["total_s"], 1, 2),
    "cpu": ("CPU s", lambda m: m["cpu_s"]["total"], 1, 2),
    "wire": ("wire MiB", lambda m: m.get("wire_bytes"), MIB, 0),
}
# The beginning of a group's name: how much of qemu-img's time drover may take
PROMISES = {
    "convert-cold/dense": (1.0, "convert, digest included: as fast as qemu-img -m 8 -W"),
    "convert-warm/dense": (1.0, "convert, digest included: as fast as qemu-img -m 8 -W"),
    "convert-cold/sparse": (1 / 1.3, "convert a sparse image: 1.3 × as fast as qemu-img"),
    "convert-warm/sparse": (1 / 1.3, "convert a sparse image: 1.3 × as fast as qemu-img"),
    "copy-cold/dense": (0.6, "copy at 1 Gbit/s: time against qemu-img over plain NBD"),
}
RESENT_MIB = 64


class Table:
    def __init__(self, lines):
        self.runs = [line for line in lines if line["type"] == "storage"]
        self.groups = {}
        for line in self.runs:
            group = self.groups.setdefault(line["cell"]["group"], {})
            group.setdefault(line["cell"]["system"], []).append(line)

    def values(self, group, system, figure):
        runs = self.groups[group].get(system, [])
        return {run["round"]: FIGURES[figure][1](run["metrics"]) for run in runs}

    def ratio(self, group, system, figure):
        return stats.ratios(self.values(group, system, figure),
                            self.values(group, BASELINE, figure))


def _more(table, group, system):
    """What was on the wire beyond what is without a kill."""
    whole = stats.spread(table.values(group, "drover", "wire").values())
    killed = table.values(group, system, "wire").values()
    return stats.spread(wire - whole.median for wire in killed) if whole else None


def verdicts(table):
    """(promise, group, at most, measured, kept)"""
    for group, systems in table.groups.items():
        for start, (limit, promise) in PROMISES.items():
            ratio = table.ratio(group, "drover", "total")
            if group.startswith(start) and ratio:
                yield (promise, group, f"{limit:.2f} ×", f"{number(ratio, 1, 2)} ×",
                       ratio.median <= limit)
        for system in systems:
            if system.endswith("-killed"):
                more = _more(table, group, system)
                if more:
                    yield ("resume after a kill: sent again", f"{group}/{system}",
                           f"{RESENT_MIB} MiB", f"{number(more, MIB, 1)} MiB",
                           more.high <= RESENT_MIB * MIB)


def _group(table, group):
    yield "| system | runs |" + "".join(f" {f[0]} | × qemu-img |" for f in FIGURES.values())
    yield "| --- |" + " ---: |" * (1 + 2 * len(FIGURES))
    for system, runs in table.groups[group].items():
        cells = [f"`{system}`", str(len(runs))]
        for figure, (_, _, divisor, digits) in FIGURES.items():
            cells.append(number(stats.spread(table.values(group, system, figure).values()),
                                divisor, digits))
            cells.append(number(table.ratio(group, system, figure), 1, 2))
        yield "| " + " | ".join(cells) + " |"


def _head(first, table):
    host = first["host"]
    yield (f"{host['drover']} ({host['commit']}, {host['buildtype']}) on {host['system']}, kernel "
           f"{host['kernel']}: {host['cpu']}, {host['cores']} cores, {host['memory_mib']} MiB; "
           f"{first['file_system']}; {first['qemu_img']}. {first['time']}.")
    worst = max(run["metrics"]["cpu_s"]["others_share"] for run in table.runs)
    if worst > DISTURBED:
        yield (f"\n**Disturbed: others used up to {worst:.0%} of this machine's CPU. None of it is "
               "fit to be published.**")


def markdown(lines):
    table = Table(lines)
    out = ["# Disk images: drover and qemu-img side by side\n"]
    if table.runs:
        out += _head(table.runs[0], table)
    for line in lines:
        if line["type"] in ("skip", "broken"):
            out.append(f"\n`{line['cell']['name']}`: {line['reason']}")
    out += ["\n## What drover promises\n", "| promise | cell | at most | measured | |",
            "| --- | --- | ---: | ---: | --- |"]
    out += [f"| {promise} | `{where}` | {limit} | {measured} | {'kept' if kept else '**missed**'} |"
            for promise, where, limit, measured, kept in verdicts(table)]
    for group in table.groups:
        image = next(iter(table.groups[group].values()))[0]["image"]
        out += [f"\n## {group}\n", f"{image['size'] // MIB} MiB: {WHAT[image['kind']]}.\n",
                *_group(table, group)]
    return "\n".join(out) + "\n"
