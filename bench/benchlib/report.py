# SPDX-License-Identifier: Apache-2.0
"""report.md: a table for each link and guest, every figure beside QEMU's own."""
from . import promises, stats
from .guests import RECIPES
from .links import LINKS
from .results import Table
from .systems import BASELINE, SYSTEMS

MIB = 1 << 20
DISTURBED = 0.1  # of the machine's CPU used by others, in the middle of the runs

# figure: (column, divisor, digits, with ratio)
COLUMNS = {
    "total": ("total s", 1, 2, True),
    "felt": ("downtime felt ms", 1, 0, False),
    "qemu_downtime": ("downtime by QEMU ms", 1, 0, False),
    "wire": ("wire MiB", MIB, 0, True),
    "cpu": ("CPU s", 1, 2, True),
    "cpu_per_gib": ("CPU s/GiB", 1, 2, False),
    "peak_memory": ("daemon peak MiB", MIB, 0, False),
    "rounds": ("rounds", 1, 0, False),
    "slowdown": ("slow-down %", 1, 0, False),
}


def number(s, divisor, digits):
    """'3.42 (3.40–3.51)', or '–' where nothing is known."""
    if s is None:
        return "–"
    # Adding nothing makes a plain 0 of what rounds to -0.
    median, low, high = (f"{round(v / divisor, digits) + 0.0:.{digits}f}"
                         for v in (s.median, s.low, s.high))
    return median if low == high else f"{median} ({low}–{high})"


def _row(table, group, system):
    runs = table.groups[group][system]
    converged = sum(run["ok"] for run in runs)
    cells = [f"`{system}`", f"{converged} of {len(runs)}"]
    for figure, (_, divisor, digits, with_ratio) in COLUMNS.items():
        values = table.values(group, system, figure)
        cells.append(number(stats.spread(values.values()), divisor, digits))
        if with_ratio:
            base = stats.ratios(values, table.values(group, BASELINE, figure))
            cells.append(number(base, 1, 2) if system != BASELINE else "1")
    return "| " + " | ".join(cells) + " |"


def _table(table, group):
    heads = ["system", "converged"]
    for title, _, _, with_ratio in COLUMNS.values():
        heads += [title, "× qemu"] if with_ratio else [title]
    yield "| " + " | ".join(heads) + " |"
    yield "| --- |" + " ---: |" * (len(heads) - 1)
    for system in table.groups[group]:
        yield _row(table, group, system)


def _promises(table):
    verdicts = promises.verdicts(table)
    if not verdicts:
        return
    yield "\n## What drover promises\n"
    yield "| promise | cell | at most | measured | |"
    yield "| --- | --- | ---: | ---: | --- |"
    for v in verdicts:
        verdict = "kept" if v.kept else "**missed**"
        yield f"| {v.promise} | `{v.where}` | {v.limit} | {v.measured} | {verdict} |"


def host_line(line):
    host = line["host"]
    kind = "virtual machine, " if host["virtual"] else ""
    yield (f"{host['drover']} ({host['commit']}, {host['buildtype']}) on {host['system']}, "
           f"kernel {host['kernel']}: {kind}{host['cpu']}, {host['cores']} cores, "
           f"{host['memory_mib']} MiB, KVM: {host['kvm']}. QEMU {line['qemu']}, at most "
           f"{line['downtime_limit_ms']} ms down.")


def disturbed(runs):
    return [run for run in runs if run["metrics"]["cpu_s"]["others_share"] > DISTURBED]


def failures(table):
    """(cell, what happened) of every run without figures."""
    return [(run["cell"]["name"], f"round {run['round']}: {run['error'] or 'failed'}")
            for run in table.runs if not run["ok"]] + \
        [(run["cell"]["name"], f"round {run['round']}, broke: {run['reason']}")
         for run in table.broken]


def disturbance(table):
    """A sentence about how much else this machine did meanwhile, or None."""
    worse = disturbed(table.runs)
    if not worse:
        return None
    share = max(run["metrics"]["cpu_s"]["others_share"] for run in worse)
    return (f"Disturbed: in {len(worse)} of {len(table.runs)} runs others used more than "
            f"{DISTURBED:.0%} of this machine's CPU (at worst {share:.0%}). Ratios of runs side by "
            "side bear that better than absolute figures, but neither is fit to be published.")


def _notes(table):
    notice = disturbance(table)
    if notice:
        yield f"\n**{notice}**"
    failed = failures(table)
    if failed:
        yield "\n## Not converged, or failed\n"
        for name, words in failed:
            yield f"- `{name}`, {words}"
    if table.skips:
        yield "\n## Skipped\n"
        for skip in table.skips:
            yield f"- `{skip['cell']['name']}`: {skip['reason']}"


def markdown(lines):
    table = Table(lines)
    out = ["# drover and QEMU side by side\n"]
    if table.runs:
        first = table.runs[0]
        out += list(host_line(first))
        out.append(f"\nProfile `{first['profile']}`, {first['time']}. Medians of runs that "
                   "alternate (smallest–largest); `× qemu` is the median of the ratios to the run of "
                   "`qemu` in the same round. docs/benchmarks.md defines every figure.")
    out += list(_notes(table))
    out += list(_promises(table))
    for group in table.groups:
        link, guest = group.split("/")
        runs = next(iter(table.groups[group].values()))
        told = runs[0]["guest"]
        out.append(f"\n## {group}\n")
        out.append(f"{LINKS[link][0]}. Guest of {told['memory_mib']} MiB under "
                   f"{told['accel'].upper()}: {RECIPES[guest].what}.\n")
        out += list(_table(table, group))
    out.append("\n## Systems\n")
    used = {run["cell"]["system"] for run in table.runs}
    out += [f"- `{name}`: {SYSTEMS[name].what}" for name in SYSTEMS if name in used]
    return "\n".join(out) + "\n"
