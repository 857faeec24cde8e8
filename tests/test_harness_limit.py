# SPDX-License-Identifier: Apache-2.0
"""A test that hangs fails by itself; those after it are run."""
import os
import subprocess
import sys
import threading

import pytest

from harness import build, limit

HANGING = """
import fcntl, threading, pytest

@pytest.fixture
def never_ends():
    yield
    threading.Event().wait()

def test_waits_for_a_lock(tmp_path):
    with open(tmp_path / "lock", "w") as mine, open(tmp_path / "lock") as other:
        fcntl.flock(mine, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)

def test_is_not_cleaned_up(never_ends):
    pass

def test_nobody_else_is_harmed():
    pass
"""


def test_others_go_on(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "from harness.limit import pytest_runtest_call, pytest_runtest_setup, pytest_runtest_teardown")
    (tmp_path / "test_it.py").write_text(HANGING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-n", "1", tmp_path],
        env={**os.environ, "PYTHONPATH": str(build.ROOT / "tests"), "DRV_TEST_LIMIT": "0.005"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False)
    assert "1 failed, 2 passed, 1 error" in done.stdout, done.stdout
    assert "::test_waits_for_a_lock took longer than 1.5 s" in done.stdout, done.stdout
    assert "the end of test_it.py::test_is_not_cleaned_up took longer than" in done.stdout, done.stdout
    assert "fcntl.flock(other, fcntl.LOCK_EX)" in done.stdout, done.stdout


def test_other_threads_are_shown():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, args=(60,), name="the other one")
    thread.start()
    try:
        with pytest.raises(pytest.fail.Exception, match="(?s)an example took longer.*the other one"):
            with limit.seconds(0.1, "an example"):
                thread.join(60)
    finally:
        ended.set()
        thread.join(60)
