# SPDX-License-Identifier: Apache-2.0
"""The benchmarks: their arithmetic on results made up here, and one tiny run of the real thing."""
import copy
import json
import shutil
import subprocess
import sys

import pytest

from harness import build, qemu

BENCH = build.ROOT / "bench"
sys.path.insert(0, str(BENCH))
from benchlib import (cells, compare, page, promises, report, results, stats,  # noqa: E402
                      storage_report, sweep)

HOST = {"cpu": "a CPU", "cores": 2, "aes": True, "virtual": True, "memory_mib": 1024,
        "kernel": "6", "system": "Debian", "kvm": "yes", "drover": "drover 0", "commit": "abc",
        "buildtype": "debugoptimized"}


def run(system, number, total=2.0, felt=50.0, group="1g/idle", **changes):
    """A line of results.jsonl as bench/run writes it."""
    link, guest = group.split("/")
    ok = total is not None
    daemons = {"source": {"idle": {"rss": 10 << 20, "peak": 10 << 20},
                          "moved": {"rss": 20 << 20, "peak": changes.pop("peak", 20 << 20)}}}
    metrics = {
        "total_s": total, "downtime_felt_ms": felt if ok else None, "downtime_qemu_ms": 40,
        "qemu_total_s": total, "slowdown_pct": 1.0, "rounds": 3, "converged": ok,
        "gap_before_ms": 1.0, "ram_bytes": 1 << 28, "cpu_s_per_gib": 4.0,
        "cpu_s": {"total": changes.pop("cpu", 1.0), "others_share": changes.pop("others", 0.01)},
        "wire": {"bytes": changes.pop("wire", 100 << 20)},
        "daemon_memory": daemons if system.startswith("drover") else {},
        "guests": [{"downtime_at_s": 1.9 if ok else None, "downtime_felt_ms": felt}],
    }
    assert not changes, changes
    return {
        "schema": results.SCHEMA, "type": "run", "time": "now", "profile": "quick", "qemu": "7.2",
        "downtime_limit_ms": 300,
        "cell": {"name": f"{group}/{system}", "link": link, "guest": guest, "system": system},
        "round": number, "host": HOST, "ok": ok, "error": None if ok else "it took too long",
        "guest": {"kind": "flat", "accel": "kvm", "memory_mib": 256, "image": {"sha256": "x"}},
        "metrics": metrics, "took_s": 5.0,
        "timeline": {"t": [0.0, 0.1, 0.2], "status": ["setup", "active", "active"],
                     "round": [0, 1, 2], "remaining": [0, 100, 50], "transferred": [0, 1, 2],
                     "dirty_pages_rate": [0, 0, 0], "wire": [0, 10, 20]},
    }


def pairs(totals, base=(2.0, 2.1, 1.9), **changes):
    lines = []
    for number, (own, other) in enumerate(zip(totals, base), 1):
        lines += [run("qemu", number, other), run("drover-auto", number, own, **changes)]
    return lines


# ---- arithmetic ----

def test_a_ratio_is_of_runs_side_by_side():
    found = stats.ratios({1: 2.0, 2: 30.0, 3: None, 4: 5.0}, {1: 4.0, 2: 60.0, 3: 1.0})
    assert (found.median, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 2)
    assert stats.ratios({1: 1.0}, {2: 1.0}) is None
    assert stats.spread([None, 3, 1, 2]) == stats.Spread(2, 1, 3, 3)
    assert stats.spread([None]) is None


# ---- choosing cells ----

@pytest.mark.parametrize("pattern, wanted, others", (
    ("drover-auto", "1g/idle/drover-auto", "1g/idle/drover-auto-multifd"),
    ("1g/idle", "1g/idle/qemu-tls", "10g/idle/qemu-tls"),
    ("*/drover-*", "1g/idle/drover-auto", "1g/idle/qemu-tls"),
    ("linux,clones/qemu-tls", "1g/clones/qemu-tls", "1g/clones/drover-none"),
))
def test_patterns(pattern, wanted, others):
    names = [str(cell) for cell in cells.matching(cells.EVERYTHING, pattern)]
    assert wanted in names and others not in names


def test_qemu_comes_along_and_first():
    chosen = cells.with_baselines(cells.matching(cells.EVERYTHING, "1g/idle/drover-none"))
    assert [str(cell) for cell in chosen] == ["1g/idle/qemu", "1g/idle/drover-none"]


@pytest.mark.parametrize("profile", cells.PROFILES.values(), ids=lambda p: p.name)
def test_every_group_of_a_profile_has_qemu(profile):
    for group in cells.by_group(profile.cells()).values():
        assert cells.BASELINE in [cell.system for cell in group]


# ---- the sweep ----

def climbed(highest, limit=99, flaky=()):
    """A mover that copes with steps up to 'highest', a guest that has no more than 'limit'."""
    tried = []

    def attempt(step):
        tried.append(step)
        return step <= highest and not (step in flaky and tried.count(step) > 1), step >= limit

    return (*sweep.climb(attempt), tried)


@pytest.mark.parametrize("highest", range(-1, sweep.STEPS))
def test_the_sweep_finds_the_highest_step(highest):
    step, limit, tried = climbed(highest)
    assert step == highest and limit == (highest == sweep.STEPS - 1)
    assert len(tried) <= 12 and (highest < 0 or tried.count(highest) == 2)


def test_the_sweep_does_not_climb_above_what_the_guest_writes():
    step, limit, tried = climbed(99, limit=9)
    assert limit and 9 <= step == max(tried) < 9 + sweep.STRIDE


def test_the_sweep_takes_no_step_for_good_that_held_once():
    step, limit, _ = climbed(9, flaky=(9, 8))
    assert (step, limit) == (7, False)


def test_a_step_holds_only_within_the_downtime():
    kept = {"converged": True, "total_s": 2.0, "downtime_felt_ms": 349}
    assert sweep.moved(kept, 300)
    assert not sweep.moved({**kept, "downtime_felt_ms": 351}, 300)
    assert not sweep.moved({**kept, "converged": False}, 300)
    assert not sweep.moved({**kept, "total_s": None, "downtime_felt_ms": None}, 300)


# ---- comparing ----

def worse(old, new, threshold=0.1):
    changes, _ = compare.compare(old, new, threshold)
    return {change.figure for change in changes if change.beyond}


def test_nothing_is_worse_than_itself():
    lines = pairs((1.0, 1.1, 0.9))
    assert worse(lines, lines) == set() and compare.lost(lines, lines) == []


def test_slower_beyond_the_spread_is_found():
    assert worse(pairs((1.0, 1.1, 0.9)), pairs((1.5, 1.6, 1.4))) == {"total"}


def test_faster_is_not_worse():
    assert worse(pairs((1.5, 1.6, 1.4)), pairs((1.0, 1.1, 0.9))) == set()


def test_within_the_spread_is_noise():
    assert worse(pairs((1.0, 2.0, 0.9), (2.0,) * 3), pairs((1.2, 1.3, 1.1), (2.0,) * 3)) == set()


def test_a_slower_machine_is_not_a_slower_drover():
    old, new = pairs((1.0,) * 3, (2.0,) * 3), pairs((2.0,) * 3, (4.0,) * 3)
    assert worse(old, new) == set()
    assert worse(old, pairs((2.0,) * 3, (2.0,) * 3)) == {"total"}


def test_too_little_to_mention_is_not_mentioned():
    assert worse(pairs((0.10,) * 3), pairs((0.13,) * 3)) == set()


@pytest.mark.parametrize("figure, before, after", (
    ("felt", 50.0, 80.0), ("wire", 100 << 20, 150 << 20), ("cpu", 1.0, 1.5),
    ("peak_memory", 20 << 20, 40 << 20)))
def test_each_figure_counts(figure, before, after):
    name = {"peak_memory": "peak"}.get(figure, figure)
    old, new = (pairs((1.0,) * 3, **{name: v}) for v in (before, after))
    assert worse(old, new) == {figure}


def test_what_no_longer_converges_is_lost():
    old, new = pairs((1.0, 1.1, 0.9)), pairs((1.0, None, 0.9))
    assert compare.lost(old, new) == ["1g/idle/drover-auto"]
    assert compare.lost(new, new) == []
    broken = pairs((1.0,)) + [{"schema": 1, "type": "broken", "round": 2, "reason": "gone",
                               "cell": old[1]["cell"]}]
    assert compare.lost(old, broken) == ["1g/idle/drover-auto"]


def test_other_conditions_are_named():
    old = pairs((1.0,) * 3)
    new = copy.deepcopy(old)
    new[0]["host"] = {**HOST, "cores": 64}
    assert any("number of cores" in remark for remark in compare.compare(old, new, 0.1)[1])


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tool(name, *args, timeout=60):
    return subprocess.run([BENCH / name, *map(str, args)], capture_output=True, text=True,
                          timeout=timeout, check=False)


def test_compare_says_what_got_slower(workdir):
    old = write(workdir / "old", pairs((1.0, 1.1, 0.9)))
    new = write(workdir / "new", pairs((1.5, 1.6, 1.4)))
    same, slower = tool("compare", old, old), tool("compare", old, new)
    assert same.returncode == 0 and "0 of 5 figures" in same.stdout
    assert slower.returncode == 1
    assert "1g/idle/drover-auto: total time" in slower.stdout and " to " in slower.stdout
    assert tool("compare", old, new, "--threshold", 80).returncode == 0


@pytest.mark.parametrize("text, message", (
    ("", "no results in it"), ("{}\n", "line 1, is not a benchmark result"),
    ('{"schema":99}\n', "results of schema 99"), ("[1]\n", "is not a benchmark result"),
    ('{"schema":1,"type":"run"}\n', "it lacks time"),
    ('{"schema":1,"type":"?"}\n', "its type is unknown")))
def test_compare_refuses_what_is_no_result(workdir, text, message):
    good, bad = write(workdir / "good", pairs((1.0,))), workdir / "bad"
    bad.write_text(text)
    done = tool("compare", good, bad)
    assert done.returncode == 2 and message in done.stderr
    assert tool("compare", good, workdir / "none").returncode == 2


# ---- reporting ----

def test_promises_are_judged():
    def verdict(lines, part):
        return {v.promise: v.kept for v in promises.verdicts(results.Table(lines))
                if part in v.promise}
    assert verdict(pairs((1.0,) * 3), "1 Gbit/s") != {}
    assert all(verdict(pairs((1.0,) * 3), "1 Gbit/s").values())
    assert not any(verdict(pairs((1.5,) * 3), "1 Gbit/s").values())
    assert not any(verdict(pairs((1.0,), felt=90.0), "idle guest").values())
    assert not any(verdict(pairs((1.0,), peak=97 << 20), "migrating daemon").values())
    cut = pairs((1.0,)) + [run("drover-auto-cut1s", 1, 3.5)]
    assert not any(verdict(cut, "a cut").values())


def test_reports_name_what_is_missing_and_what_disturbed():
    lines = pairs((1.0, None, 0.9), others=0.5)
    lines.append({"schema": 1, "type": "skip", "reason": "no <script> here",
                  "cell": {"name": "1g/idle/qemu-stunnel"}})
    text = report.markdown(lines)
    assert "Disturbed" in text and "2 of 3" in text and "it took too long" in text
    assert "0.49 (0.47–0.50)" in text and "no <script> here" in text
    if not page.LIBRARY.exists():
        pytest.skip("no Chart.js here: scripts/install-deps --bench gets it")
    shown = page.html(lines)
    assert "no &lt;script&gt; here" in shown and "src=" not in shown.split("<script>")[0]
    data = shown.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["groups"]["1g/idle"]["total"]["rows"][1]["n"] == 2


# ---- disk images ----

def stored(group, system, number, total, wire=None):
    """A line of results.jsonl as bench/storage writes it."""
    return {"schema": results.SCHEMA, "type": "storage", "time": "now", "host": HOST, "round": number,
            "qemu_img": "qemu-img 7.2", "file_system": "ext4",
            "cell": {"name": f"{group}/{system}", "group": group, "system": system},
            "image": {"kind": "dense", "size": 1 << 31, "allocated": 1 << 30, "sha256": "x"},
            "metrics": {"total_s": total, "wire_bytes": wire,
                        "cpu_s": {"total": 1.0, "others_share": 0.01}}}


@pytest.mark.parametrize("group,kept,missed", [("convert-cold/dense/raw-raw", 1.9, 2.1),
                                               ("convert-warm/sparse/raw-qcow2", 1.5, 1.6),
                                               ("copy-cold/dense/raw-raw", 1.1, 1.3)])
def test_promises_of_storage(group, kept, missed):
    for total, verdict in ((kept, True), (missed, False)):
        lines = [stored(group, system, n, t) for n in (1, 2, 3)
                 for system, t in (("qemu-img", 2.0), ("drover", total))]
        table = storage_report.Table(lines)
        assert [v[-1] for v in storage_report.verdicts(table)] == [verdict]
        assert ("kept" if verdict else "**missed**") in storage_report.markdown(lines)


def test_what_is_sent_again_is_judged_by_the_worst():
    group, mib = "copy-cold/packed/raw-raw", 1 << 20
    lines = [stored(group, "drover", n, 1, 500 * mib) for n in (1, 2, 3)]
    lines += [stored(group, "drover-dest-killed", n, 2, (500 + more) * mib)
              for n, more in ((1, 10), (2, 60))]
    assert [v[-1] for v in storage_report.verdicts(storage_report.Table(lines))] == [True]
    lines.append(stored(group, "drover-dest-killed", 3, 2, 565 * mib))
    assert [v[-1] for v in storage_report.verdicts(storage_report.Table(lines))] == [False]


def test_the_smallest_images(workdir):
    if not shutil.which("qemu-img"):
        pytest.skip("no qemu-img here")
    none = tool("storage", "--list", "--only", "no-such-cell")
    assert none.returncode == 2 and "no cell matches 'no-such-cell'" in none.stderr
    done = tool("storage", "--size", 8, "--repeat", 1, "--only", "convert-cold/*/raw-qcow2/drover",
                "--dir", workdir / "images", "--out", workdir / "out", timeout=300)
    assert done.returncode == 0, done.stderr
    lines = results.read(workdir / "out")
    assert [line["cell"]["system"] for line in lines] == ["qemu-img", "drover"] * 2, done.stderr
    assert all(line["type"] == "storage" and line["metrics"]["total_s"] > 0 for line in lines)
    assert len({line["image"]["sha256"] for line in lines}) == 2
    assert "`convert-cold/sparse/raw-qcow2`" in (workdir / "out" / "storage.md").read_text()
    assert not list((workdir / "images").glob("work-*"))


# ---- the real thing ----

def test_list_and_usage():
    listed = tool("run", "--list", "--only", "promises")
    assert listed.returncode == 0 and "1g/idle/drover-auto-cut1s" in listed.stdout
    none = tool("run", "--list", "--only", "no-such-cell")
    assert none.returncode == 2 and "no cell matches 'no-such-cell'" in none.stderr


@pytest.mark.slow
def test_the_smallest_cell(workdir):
    """That it measures at all; what it measures on a busy machine is nobody's business."""
    if not qemu.qemus():
        pytest.skip("no QEMU here")
    done = tool("run", "--only", "loopback/idle/drover-none", "--memory", 128, "--repeat", 1,
                "--out", workdir / "out", timeout=300)
    assert done.returncode == 0, done.stderr
    lines = results.read(workdir / "out")
    assert [line["cell"]["system"] for line in lines] == ["qemu", "drover-none"], done.stderr
    assert all(line["type"] == "run" and line["ok"] for line in lines), done.stderr
    for figure in ("total", "felt", "qemu_downtime", "rounds"):
        assert all(results.value(line, figure) is not None for line in lines), figure
    drover = lines[1]["metrics"]
    assert drover["cpu_s"]["processes"]["dest/droverd"] >= 0
    assert drover["daemon_memory"]["dest"]["moved"]["peak"] > 1 << 20
    assert len(lines[1]["timeline"]["t"]) > 0
    assert "loopback/idle" in (workdir / "out" / "report.md").read_text()
