# SPDX-License-Identifier: Apache-2.0
"""A limit for each test, so that one that hangs fails by itself, and shows where each thread stood.

It is for what was overlooked: what waits has a limit of its own, and says what it waited for.

Debian has pytest-timeout for this. Here a limit is for each of a test's phases, and strikes again: a
test that hangs and whose cleaning up hangs as well does not take the run with it.
"""
import contextlib
import os
import signal
import sys
import threading
import time
import traceback

import pytest

# Seconds. No test takes a quarter of that where nothing else is done; what is marked slow may.
LIMIT, SLOW_LIMIT = 300, 900
# When the test's own 'finally' and 'with' do not come to an end.
AGAIN = 60


def of(item):
    """The limit of a test, in seconds. DRV_TEST_LIMIT multiplies it: under sanitizers all is slow."""
    given = item.get_closest_marker("limit")
    own = given.args[0] if given else SLOW_LIMIT if item.get_closest_marker("slow") else LIMIT
    return own * float(os.environ.get("DRV_TEST_LIMIT") or 1)


def stacks():
    """Where each thread stands, as text; the caller's own first."""
    names = {t.ident: t.name for t in threading.enumerate()}
    mine = threading.get_ident()
    return "\n".join(f"thread {names.get(ident, ident)}:\n" + "".join(traceback.format_stack(frame))
                     for ident, frame in sorted(sys._current_frames().items(),  # pylint: disable=W0212
                                                key=lambda item: item[0] != mine))


@contextlib.contextmanager
def seconds(limit, what):
    """Fails what is done under it, in the main thread, when it takes longer."""
    def strike(*_):
        pytest.fail(f"{what} took longer than {limit:g} s\n{stacks()}", pytrace=False)

    before = signal.signal(signal.SIGALRM, strike)
    outer = signal.setitimer(signal.ITIMER_REAL, limit, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)


class Running:
    """A plugin that tells what was being run when the whole run was ended from outside."""

    def __init__(self):
        self._since = {}

    def pytest_runtest_logstart(self, nodeid):
        self._since[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid):
        self._since.pop(nodeid, None)

    def pytest_terminal_summary(self, terminalreporter):
        for nodeid, since in self._since.items():
            terminalreporter.write_line(f"NOT ENDED after {time.monotonic() - since:.0f} s: {nodeid}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    with seconds(of(item), f"the preparation of {item.nodeid}"):
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    with seconds(of(item), item.nodeid):
        yield


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item):
    with seconds(of(item), f"the end of {item.nodeid}"):
        yield
