# SPDX-License-Identifier: Apache-2.0
"""report.html: one file that needs nothing else, drawn with Debian's Chart.js."""
import html as markup
import json
import pathlib

from . import promises, report, stats
from .guests import RECIPES
from .links import LINKS
from .results import FIGURES, Table
from .systems import BASELINE, SYSTEMS

MIB = 1 << 20
PARTS = pathlib.Path(__file__).resolve().parent.parent / "page"
LIBRARY = pathlib.Path("/usr/share/javascript/chart.js/chart.min.js")
LICENCE = pathlib.Path("/usr/share/doc/libjs-chart.js/copyright")
# figure: (unit shown, divisor, digits)
CHARTS = {"total": ("s", 1, 2), "felt": ("ms", 1, 0), "wire": ("MiB", MIB, 0), "cpu": ("s", 1, 2)}
escape = markup.escape


def _scaled(s, divisor):
    if s is None:
        return {"median": None, "low": None, "high": None, "n": 0}
    return {**{name: getattr(s, name) / divisor for name in ("median", "low", "high")}, "n": s.n}


def _rows(table, group, figure, divisor):
    for system in table.groups[group]:
        values = table.values(group, system, figure)
        ratio = stats.ratios(values, table.values(group, BASELINE, figure))
        yield {"system": system, "drover": SYSTEMS[system].drover,
               "ratio": ratio.median if ratio and system != BASELINE else None,
               **_scaled(stats.spread(values.values()), divisor)}


def _figures(table, group):
    return {name: {"unit": unit, "digits": digits, "rows": list(_rows(table, group, name, divisor))}
            for name, (unit, divisor, digits) in CHARTS.items()}


# ---- timelines ----

def _timeline(run):
    """A run's samples as the page draws them: seconds, MiB, MiB a second."""
    samples, metrics = run["timeline"], run["metrics"]
    times, rounds = samples["t"], samples["round"]
    # QEMU does not know what is left before its first round has begun.
    known = [i for i, n in enumerate(rounds) if n > 0]
    rate = [{"x": times[i], "y": (samples["wire"][i] - samples["wire"][i - 1]) / MIB
             / max(times[i] - times[i - 1], 1e-3)}
            for i in range(1, len(times)) if samples["wire"][i] is not None]
    guest = metrics["guests"][0]
    silent = None
    if guest.get("downtime_at_s") is not None:
        silent = [guest["downtime_at_s"],
                  guest["downtime_at_s"] + guest["downtime_felt_ms"] / 1000]
    return {
        "name": f"{run['cell']['name']}, round {run['round']}",
        "remaining": [{"x": times[i], "y": samples["remaining"][i] / MIB} for i in known],
        "rate": rate,
        "rounds": [times[i] for i in known if i == 0 or rounds[i] != rounds[i - 1]],
        "silent": silent,
        "end": max([*times, metrics["total_s"] or 0, 0.1]),
        "note": _timeline_note(run),
    }


def _timeline_note(run):
    metrics = run["metrics"]
    if not run["ok"]:
        return run["error"] or "failed"
    return (f"{metrics['total_s']:.2f} s, {metrics['rounds']} rounds, "
            f"down {metrics['downtime_felt_ms']:.0f} ms")


def _first(runs):
    """The two runs to show first: the busiest group's QEMU and drover, as they are."""
    def rank(index, system):
        run = runs[index]
        return (run["cell"]["system"] == system, run["cell"]["guest"] in ("rewrite", "sparse"),
                run["ok"], -index)
    indices = range(len(runs))
    return [max(indices, key=lambda i: rank(i, system)) for system in (BASELINE, "drover-auto")]


# ---- the page's parts ----

def _head(table):
    if not table.runs:
        return "<p>No run succeeded.</p>"
    first = table.runs[0]
    parts = [f'<p class="soft">{escape(" ".join(report.host_line(first)))}</p>',
             f'<p class="soft">Profile {escape(first["profile"])}, {escape(first["time"])}. Bars '
             "are medians of runs that took turns, whiskers go from the smallest to the largest, "
             "and the factor is the median of the ratios to the run of <code>qemu</code> in the same "
             'round. <span class="key" style="--of:var(--qemu)">QEMU alone</span>'
             '<span class="key" style="--of:var(--drover)">drover</span></p>']
    notice = report.disturbance(table)
    if notice:
        parts.append(f'<p class="warn">{escape(notice)}</p>')
    return "\n".join(parts)


def _promises(table):
    verdicts = promises.verdicts(table)
    if not verdicts:
        return ""
    rows = "".join(
        f"<tr><td>{escape(v.promise)}</td><td><code>{escape(v.where)}</code></td>"
        f"<td>{escape(v.limit)}</td><td>{escape(v.measured)}</td>"
        f'<td class="{"kept" if v.kept else "missed"}">{"kept" if v.kept else "missed"}</td></tr>'
        for v in verdicts)
    return ('<h2 id="promises">What drover promises</h2><div class="card scroll"><table><tr>'
            "<th>promise</th><th>cell</th><th>at most</th><th>measured</th><th></th></tr>"
            f"{rows}</table></div>")


def _group(table, group):
    link, guest = group.split("/")
    run = next(iter(table.groups[group].values()))[0]
    about = (f"{LINKS[link][0]}. Guest of {run['guest']['memory_mib']} MiB under "
             f"{run['guest']['accel'].upper()}: {RECIPES[guest].what}.")
    cards = "".join(
        f'<div class="card"><h3>{escape(FIGURES[name][0])} <small>{unit}</small></h3>'
        f'<div class="bars"><canvas data-figure="{group} {name}"></canvas></div></div>'
        for name, (unit, _, _) in CHARTS.items())
    return (f'<h2 id="{group}">{escape(group)}</h2><p class="soft">{escape(about)}</p>'
            f'<div class="charts">{cards}</div>')


def _other(table):
    lines = [f"<li><code>{escape(name)}</code>, {escape(words)}</li>"
             for name, words in report.failures(table)]
    lines += [f"<li><code>{escape(skip['cell']['name'])}</code>: {escape(skip['reason'])}</li>"
              for skip in table.skips]
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>Nothing.</p>"


def _nav(table):
    names = ["promises"] if promises.verdicts(table) else []
    return "".join(f'<a href="#{escape(name)}">{escape(name)}</a>'
                   for name in [*names, "timeline", *table.groups, "other"])


def _library():
    if not LIBRARY.exists():
        raise FileNotFoundError(f"{LIBRARY} is not there: run scripts/install-deps --bench, then "
                                "bench/run --report")
    licence = LICENCE.read_text(encoding="utf-8") if LICENCE.exists() else ""
    return LIBRARY.read_text(encoding="utf-8") + f"\n/*\n{licence.replace('*/', '* /')}\n*/"


def html(lines):
    table = Table(lines)
    runs = [run for run in table.runs if run["timeline"] and run["timeline"]["t"]]
    data = {
        "groups": {group: _figures(table, group) for group in table.groups},
        "timelines": [_timeline(run) for run in runs],
        "first": _first(runs) if runs else [],
    }
    text = (PARTS / "page.html").read_text(encoding="utf-8")
    parts = {
        "css": (PARTS / "page.css").read_text(encoding="utf-8"),
        "script": (PARTS / "page.js").read_text(encoding="utf-8"),
        "library": _library(),
        # '<' cannot end the script element when it is written so.
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        "head": _head(table), "nav": _nav(table), "promises": _promises(table),
        "groups": "\n".join(_group(table, group) for group in table.groups),
        "other": _other(table),
    }
    pieces = text.split("@")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
