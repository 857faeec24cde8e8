# SPDX-License-Identifier: Apache-2.0
"""A few seconds of fuzzing: that the fuzzers build, and find nothing near their seeds. The nightly
part runs tests/fuzz/run for minutes."""
import os
import shutil
import subprocess

import pytest

from harness.build import ROOT


def test_nothing_is_found(workdir):
    if not shutil.which("clang"):
        pytest.skip("no clang on this machine: apt-get install clang")
    seconds = os.environ.get("DRV_FUZZ_SECONDS", "3")
    run = subprocess.run([ROOT / "tests/fuzz/run", "--seconds", seconds, "--work", workdir],
                         capture_output=True, text=True, check=False)
    found = {path.name: path.read_bytes().hex() for path in (workdir / "findings").glob("*")}
    assert run.returncode == 0 and not found, (run.stdout[-3000:], run.stderr[-2000:], found)
    targets = len(list((ROOT / "tests/fuzz").glob("fuzz-*.c")))
    assert run.stdout.count("number_of_executed_units") == targets >= 5
