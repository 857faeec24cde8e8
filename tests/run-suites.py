#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the suites, cheap gates first, and counts what they say; use scripts/test, which installs
what is missing first and knows the options."""
import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Unit tests that say something under TSan: those of code that runs on threads.
TSAN_TESTS = ("common/", "transfer/", "channel/", "tsan/")
# Threads of the control plane, or of a test, which GTask hands things over to: TSan does not see
# GLib's locks.
NOT_FOR_TSAN = ("channel/guest-sample", "channel/nbd-handshake")
# The control plane's unit tests, for memcheck: it makes no good of io_uring, which the data plane
# is built on (valgrind 3.19 holds all threads while one waits in a ring).
MEMCHECK_TESTS = ("common/", "qmp/", "dirty-tracking/", "engine/host/", "engine/job/", "engine/live/",
                  "engine/api/", "engine/cli/client", "engine/cli/render", "engine/cli/units")
# The one looks for a process by a pidfd, the other takes system calls from itself; valgrind 3.19 knows no such call.
NOT_FOR_MEMCHECK = ("engine/live/memory-check", "engine/host/sandbox")
MEMCHECK = ("valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite "
            "--errors-for-leak-kinds=definite")
# Meson's tests that say nothing more under a sanitizer.
NOT_FOR_SANITIZERS = ("layering/",)
# Integration tests mostly wait: with two at once, two cores are idle for most of the time.
WORKERS = 3
RULE = "=" * 78


@dataclasses.dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other):
        return Count(self.passed + other.passed, self.failed + other.failed,
                     self.skipped + other.skipped)

    def __str__(self):
        text = f"{self.passed} passed, {self.failed} failed"
        return text + (f", {self.skipped} skipped" if self.skipped else "")


PASSED, FAILED = Count(passed=1), Count(failed=1)


def loud(text):
    print(f"\n******** {text}\n", flush=True)


# ---- what is run, and how long it may take ----

class Clock:
    """How long all may take together. Whoever started this loses patience some time, and kills it
    before it could say what it has found: so what takes too long is ended here."""
    # Seconds in which what is told to end may say what it knows.
    LAST_WORDS = 20

    def __init__(self):
        self._ends = float("inf")
        self.expired = False

    def start(self, seconds):
        self._ends = time.monotonic() + seconds

    def left(self):
        return max(self._ends - time.monotonic() - self.LAST_WORDS, 0)


CLOCK = Clock()


def with_descendants(pid):
    """That process, its children, theirs and so on."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass  # it has just ended
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def end(process, softly):
    """Ends it and all that it has started, in a way in which it can say what it knows."""
    processes = with_descendants(process.pid)
    process.send_signal(softly)
    try:
        process.wait(CLOCK.LAST_WORDS)
    except subprocess.TimeoutExpired:
        pass
    for pid in processes:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return process.wait(CLOCK.LAST_WORDS)


def run(*argv, env=None, softly=signal.SIGTERM):
    """Its exit status; not 0 when it had to be ended."""
    print("+", " ".join(map(str, argv)), flush=True)
    with subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **(env or {})}) as process:
        try:
            return process.wait(CLOCK.left())
        except subprocess.TimeoutExpired:
            CLOCK.expired = True
            loud(f"ENDED, for the time is up: {' '.join(map(str, argv[:4]))} ...")
            return end(process, softly) or 1


# ---- building and unit tests ----

def main_build():
    return pathlib.Path(os.environ.get("DRV_BUILD") or ROOT / "build").resolve()


# The fault tests stop a daemon in an exact state of a job: such a build can be told to.
HOOKS = "-Dtest_hooks=true"


def make(build, *options, tests=None):
    """Configures and builds, everything or what these tests take (a function of the build that
    gives their names); whether that went well."""
    options = (HOOKS, *options)
    if not (build / "build.ninja").exists():
        # What an interrupted run left half configured must be wiped; meson says when it may not.
        half = ["--wipe"] if (build / "meson-private" / "coredata.dat").exists() else []
        if run("meson", "setup", *half, build, ROOT, "--werror", *options) != 0:
            return False
    elif run("meson", "configure", build, *options) != 0:
        return False
    targets = []
    if tests:
        # Meson's lists are as old as the last time it configured this.
        if run("ninja", "-C", build, "build.ninja") != 0:
            return False
        targets = needed_by(build, tests(build))
    return run("ninja", "-C", build, "-j", str(os.cpu_count() or 1), *targets) == 0


def introspect(build, what):
    """What Meson has left there when it configured the build."""
    return json.loads((build / "meson-info" / f"intro-{what}.json").read_text())


def test_names(build):
    return [test["name"] for test in introspect(build, "tests")]


def needed_by(build, names):
    """What ninja must make for these tests."""
    files = {target["id"]: target["filename"] for target in introspect(build, "targets")}
    needed = {i for test in introspect(build, "tests") if test["name"] in names for i in test["depends"]}
    return sorted(os.path.relpath(file, build) for i in needed for file in files[i])


def meson_test(build, names, env=None, options=(), log="testlog"):
    """Runs these tests of a build and counts the results, which Meson leaves in that log."""
    if not names:
        return Count()
    log = build / "meson-logs" / f"{log}.json"
    log.unlink(missing_ok=True)
    # Each has a limit, of 30 s where meson.build says nothing else; there are slow machines.
    run("meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs", "--timeout-multiplier", "4",
        *options, *names, env=env)
    if not log.exists():
        loud("meson test left no log")
        return Count() if CLOCK.expired else FAILED
    count = Count()
    for line in log.read_text().splitlines():
        result = json.loads(line)
        if result["result"] in ("OK", "EXPECTEDFAIL"):
            count.passed += 1
        elif result["result"] == "SKIP":
            count.skipped += 1
            loud(f"SKIPPED: {result['name']}: {result.get('stdout', '').strip()[-300:]}")
        else:
            count.failed += 1
    return count


def starts_with(name, prefixes):
    # Meson's introspection gives the bare name, its log 'project:suite / name'.
    return any(name.startswith(prefix) for prefix in prefixes)


def suite_format(_):
    return PASSED if run("scripts/check-format") == 0 else FAILED


def suite_build(_):
    return PASSED if make(main_build()) else FAILED


def suite_unit(_):
    return meson_test(main_build(), test_names(main_build()))


# A third less to compile than -O2 with all that a debugger could want. The warnings that only come
# with -O2 come in the main build.
SANITIZED = ("-Doptimization=1", "-Dc_args=-g1")
ASAN_BUILD = ROOT / "build-asan"
# GLib's slices hide the end of an allocation from the sanitizer.
ASAN = {"G_SLICE": "always-malloc", "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def asan_tests(build):
    return [n for n in test_names(build) if not starts_with(n, NOT_FOR_SANITIZERS)]


def make_asan(tests=None):
    return make(ASAN_BUILD, "-Db_sanitize=address,undefined", *SANITIZED, tests=tests)


def suite_asan(_):
    if not make_asan(asan_tests):
        return FAILED
    return meson_test(ASAN_BUILD, asan_tests(ASAN_BUILD), ASAN)


def tsan_tests(build):
    return [n for n in test_names(build) if starts_with(n, TSAN_TESTS) and not starts_with(n, NOT_FOR_TSAN)]


def suite_tsan(_):
    build = ROOT / "build-tsan"
    if not make(build, "-Db_sanitize=thread", *SANITIZED, tests=tsan_tests):
        return FAILED
    # tests/tsan/glib-order.c says why.
    return meson_test(build, tsan_tests(build), {
        "LD_PRELOAD": str(build / "tests" / "tsan" / "libglib-order.so"),
        "G_SLICE": "always-malloc",
        "TSAN_OPTIONS": f"second_deadlock_stack=1:suppressions={ROOT}/tests/tsan/suppressions"})


def suite_memcheck(_):
    names = [n for n in test_names(main_build())
             if starts_with(n, MEMCHECK_TESTS) and not starts_with(n, NOT_FOR_MEMCHECK)]
    return meson_test(main_build(), names, {"G_SLICE": "always-malloc", "G_DEBUG": "gc-friendly"},
                      ("--wrapper", MEMCHECK, "--timeout-multiplier", "20"), "testlog-valgrind")


# ---- integration tests ----

def integration(options, build, env, slow):
    results = build / "pytest.xml"
    results.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "--durations=5", "-q",
            f"--junitxml={results}", "-n", str(WORKERS), "--dist", "loadscope"]
    if not slow:
        argv += ["-m", "not slow"]
    if options.k:
        argv += ["-k", options.k]
    status = run(*argv, "tests", env={"DRV_BUILD": str(build), **env}, softly=signal.SIGINT)
    if not results.exists():
        return Count() if CLOCK.expired else FAILED
    count = Count()
    for case in xml.etree.ElementTree.parse(results).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            count.failed += 1
        elif case.find("skipped") is not None:
            count.skipped += 1
        else:
            count.passed += 1
    if status not in (0, 1) and count.failed == 0 and not CLOCK.expired:
        loud(f"pytest ended with status {status}")
        return count + FAILED
    return count


def suite_integration(options):
    return integration(options, main_build(), {}, options.all)


def suite_integration_asan(options):
    """What a daemon has to say does not always come to a test: each report counts as a failure."""
    if not make_asan():
        return FAILED
    reports = ASAN_BUILD / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    # Several times as slow: see tests/harness/limit.py.
    env = {name: f"{value}:log_path={reports}/{name[0].lower()}" if ":" in value else value
           for name, value in ASAN.items()} | {"DRV_TEST_LIMIT": "3"}
    count = integration(options, ASAN_BUILD, env, slow=False)
    for report in sorted(reports.iterdir()):
        loud(f"{report}:\n{report.read_text()[:4000]}")
        count += FAILED
    return count


SUITES = {"format": suite_format, "build": suite_build, "unit": suite_unit, "asan": suite_asan,
          "tsan": suite_tsan, "memcheck": suite_memcheck, "integration": suite_integration,
          "integration-asan": suite_integration_asan}
NEED_BUILD = ("unit", "memcheck", "integration")
SLOW = ("asan", "tsan")
NIGHTLY = ("memcheck", "integration-asan")


def chosen(options):
    if options.suite:
        wanted = options.suite.split(",")
        unknown = [name for name in wanted if name not in SUITES]
        if unknown:
            sys.exit(f"there is no suite '{unknown[0]}'; there are: {', '.join(SUITES)}")
    elif options.k:
        wanted = ["integration"]
    else:
        left_out = (() if options.all else NIGHTLY) + (SLOW if options.quick else ())
        wanted = [name for name in SUITES if name not in left_out]
    if any(name in NEED_BUILD for name in wanted):
        wanted.append("build")
    return [name for name in SUITES if name in wanted]


def time_for(options):
    """Seconds. CI gives up after 20 minutes; a night is long."""
    minutes = options.limit or (240 if options.all else 19)
    return minutes * 60 - options.spent


def main():
    parser = argparse.ArgumentParser(prog="scripts/test", description="see scripts/test --help")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--suite")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--spent", type=int, default=0, help="seconds of that which have gone already")
    parser.add_argument("-k")
    options = parser.parse_args()

    CLOCK.start(time_for(options))
    total, counts, seconds = Count(), {}, {}
    for name in chosen(options):
        print(f"\n{RULE}\n{name}\n{RULE}", flush=True)
        began = time.monotonic()
        counts[name] = SUITES[name](options)
        if CLOCK.expired:
            counts[name] += FAILED
        seconds[name] = round(time.monotonic() - began)
        print(f"{name}: {counts[name]} ({seconds[name]} s)", flush=True)
        total += counts[name]
        if CLOCK.expired:
            loud(f"THE TIME IS UP: '{name}' is not complete, and what comes after it was not begun; "
                 "--limit MINUTES gives more")
            break
        if name == "build" and counts[name].failed:
            loud("the build failed: no test can run")
            break

    print(f"\n{RULE}")
    for name, count in counts.items():
        print(f"{name + ':':<18}{count} ({seconds[name]} s)")
    if total.skipped:
        loud("SOME TESTS WERE SKIPPED: the reasons stand above, after 'SKIPPED'")
    print(total)
    sys.exit(1 if total.failed or not total.passed else 0)


if __name__ == "__main__":
    main()
