# SPDX-License-Identifier: Apache-2.0
"""results.jsonl: one JSON object a line. The schema is in docs/benchmarks.md."""
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess

from harness import build
from harness.qemu import kvm_problem

SCHEMA = 1
# What a line of each type has at least; later fields are read where they are.
FIELDS = {
    "run": ("time", "profile", "cell", "round", "host", "qemu", "downtime_limit_ms", "guest", "ok",
            "error", "metrics", "timeline"),
    "storage": ("time", "cell", "round", "host", "image", "metrics"),
    "skip": ("cell", "reason"),
    "broken": ("cell", "round", "reason"),
}


class BadResults(Exception):
    """A file that is not results of a schema we know."""


def _first(path, pattern):
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def host():
    """The machine, as far as it bears on the figures."""
    kvm = kvm_problem()
    return {
        "cpu": _first("/proc/cpuinfo", r"model name\s*: (.*)"),
        "cores": os.cpu_count(),
        "aes": "aes" in (_first("/proc/cpuinfo", r"^flags\s*: (.*)") or "").split(),
        "virtual": "hypervisor" in (_first("/proc/cpuinfo", r"^flags\s*: (.*)") or "").split(),
        "memory_mib": int(_first("/proc/meminfo", r"MemTotal:\s+(\d+)") or 0) // 1024,
        "kernel": platform.release(),
        "system": _first("/etc/os-release", r'PRETTY_NAME="(.*)"'),
        "kvm": "yes" if kvm is None else f"no: {kvm}",
        "drover": _version(),
        "commit": _commit(),
        "buildtype": _buildtype(),
    }


def now():
    return datetime.datetime.now().astimezone().isoformat("T", "seconds")


def _output(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version():
    return _output(build.built("engine", "drover"), "--version")


def _commit():
    return _output("git", "-C", build.ROOT, "describe", "--always", "--dirty")


def _buildtype():
    options = _output("meson", "introspect", "--buildoptions", build.build_dir())
    wanted = ("buildtype", "b_sanitize")
    found = {o["name"]: o["value"] for o in json.loads(options or "[]") if o["name"] in wanted}
    return "/".join(str(found[name]) for name in wanted if found.get(name) not in (None, "none"))


class Writer:
    """Writes each line at once: an interrupted run keeps what it has."""

    def __init__(self, path):
        self._file = open(path, "w", encoding="utf-8")

    def add(self, line):
        self._file.write(json.dumps({"schema": SCHEMA, **line}) + "\n")
        self._file.flush()

    def close(self):
        self._file.close()


def read(path):
    """All lines of a results.jsonl, or of the one in a directory."""
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "results.jsonl"
    lines = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise BadResults(f"{path} cannot be read: {e.strerror}") from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)
            schema, fields = found["schema"], FIELDS.get(found.get("type"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadResults(f"{path}, line {number}, is not a benchmark result") from None
        if schema != SCHEMA:
            raise BadResults(f"{path} has results of schema {schema}; this program reads {SCHEMA}")
        lacking = [name for name in fields or () if name not in found]
        if fields is None or lacking:
            what = f"it lacks {lacking[0]}" if lacking else "its type is unknown"
            raise BadResults(f"{path}, line {number}, is not a whole result: {what}")
        lines.append(found)
    if not lines:
        raise BadResults(f"{path} has no results in it")
    return lines


# ---- figures ----

def _wire(m):
    return m["wire"]["bytes"] if m.get("wire") else None


def _peak(m):
    return max((end["moved"]["peak"] for end in m["daemon_memory"].values()), default=None)


def _idle(m):
    return max((end["idle"]["rss"] for end in m["daemon_memory"].values()), default=None)


# name: (title, unit, value of a run's metrics)
FIGURES = {
    "total": ("total time", "s", lambda m: m["total_s"]),
    "felt": ("downtime as the guest feels it", "ms", lambda m: m["downtime_felt_ms"]),
    "qemu_downtime": ("downtime as QEMU says it", "ms", lambda m: m["downtime_qemu_ms"]),
    "qemu_total": ("total time as QEMU says it", "s", lambda m: m["qemu_total_s"]),
    "wire": ("bytes on the wire", "bytes", _wire),
    "cpu": ("CPU", "s", lambda m: m["cpu_s"]["total"]),
    "cpu_per_gib": ("CPU per GiB of guest", "s", lambda m: m["cpu_s_per_gib"]),
    "slowdown": ("slow-down of the guest", "%", lambda m: m["slowdown_pct"]),
    "rounds": ("rounds", "", lambda m: m["rounds"]),
    "idle_memory": ("memory of an idle daemon", "bytes", _idle),
    "peak_memory": ("peak memory of a daemon", "bytes", _peak),
}


def value(run, figure):
    """A figure of one run; None where it has none."""
    return FIGURES[figure][2](run["metrics"])


class Table:
    """Results by group, system and round."""

    def __init__(self, lines):
        self.runs = [line for line in lines if line["type"] == "run"]
        self.skips = [line for line in lines if line["type"] == "skip"]
        self.broken = [line for line in lines if line["type"] == "broken"]
        self.groups = {}
        for run in self.runs:
            cell = run["cell"]
            systems = self.groups.setdefault(f"{cell['link']}/{cell['guest']}", {})
            systems.setdefault(cell["system"], []).append(run)

    def values(self, group, system, figure):
        """{round: value} of the runs that ended as they should."""
        runs = self.groups.get(group, {}).get(system, [])
        return {run["round"]: value(run, figure) for run in runs if run["ok"]}
