# SPDX-License-Identifier: Apache-2.0
"""A few seconds of fuzzing: that the fuzzers build, and find nothing near their seeds. With scripts/test --all
also minutes of it, from what real QEMUs have sent."""
import os
import shutil
import subprocess

import pytest

import capture_streams
from conftest import binary, QEMU_VERSIONS
from harness.build import ROOT


def fuzz(workdir, seconds, *args):
    if not shutil.which("clang"):
        pytest.skip("no clang on this machine: apt-get install clang")
    seconds = os.environ.get("DRV_FUZZ_SECONDS", seconds)
    run = subprocess.run([ROOT / "tests/fuzz/run", "--seconds", seconds, "--work", workdir, *args],
                         capture_output=True, text=True, timeout=300, check=False)
    found = {path.name: path.read_bytes().hex() for path in (workdir / "findings").glob("*")}
    assert run.returncode == 0 and not found, (run.stdout[-3000:], run.stderr[-2000:], found)
    targets = len(list((ROOT / "tests/fuzz").glob("fuzz-*.c")))
    assert run.stdout.count("number_of_executed_units") == targets >= 15


def test_nothing_is_found(workdir):
    fuzz(workdir, "1")


@pytest.mark.slow
def test_nothing_is_found_in_minutes(workdir):
    streams = workdir / "streams"
    for version in QEMU_VERSIONS:
        for name in ("plain", "plain-no-return-path", "multifd", "multifd-zstd", "dirty-bitmaps"):
            capture_streams.capture(binary(version), capture_streams.CAPTURES[name],
                                    streams / version / name)
    fuzz(workdir, "120", "--streams", streams)
    for target in ("stream", "relay", "multifd", "multifd-batch"):
        assert list((workdir / "corpus" / target).glob("recorded-*")), f"no seeds for {target}"
