# SPDX-License-Identifier: Apache-2.0
"""The fast slice of the fault matrix, and a few ways of the soak; tests/faults/run --all runs it
whole."""
import subprocess
import sys

import pytest

from conftest import QEMU_VERSIONS, binary
from faults import cells
from harness import build

PAUSE = 1


@pytest.mark.parametrize("where, fault, mode", cells.fast_cells())
def test_one_guest_and_the_right_one(where, fault, mode):
    binary(QEMU_VERSIONS[-1])
    cells.Cell(where, fault, mode, PAUSE).run()


@pytest.mark.slow
@pytest.mark.parametrize("where, fault, mode", cells.own_daemon_killed())
def test_with_the_oldest(where, fault, mode):
    cells.Cell(where, fault, mode, PAUSE, binary(QEMU_VERSIONS[0])).run()


@pytest.mark.slow
def test_soak():
    binary(QEMU_VERSIONS[-1])
    done = subprocess.run([sys.executable, "tests/soak", "--migrations", "5", "--seed", "5",
                           "--longest", "1"],
                          cwd=build.ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 migrations" in done.stdout
