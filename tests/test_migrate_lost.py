# SPDX-License-Identifier: Apache-2.0
"""Direct mode when drover loses the way in the stream (docs/pages.md): from there on QEMU places the pages
itself, after those that drover has placed, and no byte is wrong."""
import time

import pytest

from conftest import binary, need_accel
from harness.handover import Hosts, migrate_exactly
from harness.native import ENDED, set_capabilities, set_parameters
from harness.qemu import MIB, Guest, Machine

PACE = "hz=1000 rate=20 beat=20 body=random"
# 7.2 without KVM loses pages by itself (tests/README.md).
EACH = pytest.mark.parametrize("version, accel", (("7.2", "kvm"), ("10.0", "tcg")))


def migrate(workdir, pki, version, accel, change, why, *options, then=lambda source: None,
            pages_seen=True):
    """change(source, dest): what somebody else does to QEMU's settings when drover has made its own.
    why: of what the report says about it. then(source): what to wait for while it migrates."""
    need_accel(accel)
    guest = Guest(accel=accel, mode="sparse", pages=2048, params=PACE)
    with Machine(binary(version), guest, name="src") as source, \
            Machine(binary(version), guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold_source="source:copying") as hosts:
        source.wait_ready()

        def during(move):
            hosts.a.wait_held(unless=lambda: move.command.process.poll() is not None)
            change(source, dest)
            hosts.a.release()
            then(source)

        report = migrate_exactly(hosts, source, dest, "--mode", "direct", *options, during=during,
                                 pages_seen=pages_seen)
    assert (report["mode"], report["verify"]["stream"]) == ("direct", "match")
    assert why in report["relay_reason"]
    assert report["working_set"] is None  # who has lost the way does not pretend to know
    return report


def wait_deltas(source, n=100, timeout=60):
    """Until QEMU has sent so many pages as deltas of its own; then it may come to an end. On a busy
    machine the guest may write so little that it has come there by itself, with fewer."""
    deadline = time.monotonic() + timeout
    while True:
        info = source.qmp.command("query-migrate")
        sent, ended = info.get("xbzrle-cache", {}).get("pages", 0), info.get("status") in ENDED
        if sent >= n or (ended and sent):
            break
        if ended or time.monotonic() > deadline:
            raise TimeoutError(f"no {n} deltas of QEMU's in {timeout} s: {info}")
        time.sleep(0.02)
    set_parameters(source, downtime_limit=5000)


@EACH
def test_in_the_middle_of_a_section(workdir, pki, version, accel):
    """QEMU's own deltas, which are made onto pages that drover has placed. The first comes after pages that QEMU has
    seen nothing of, and says "the same block as before"."""
    report = migrate(workdir, pki, version, accel,
                     lambda source, dest: set_capabilities(source, xbzrle=True),
                     "made deltas of pages",
                     "--bandwidth", 24 * MIB, "--downtime", 1, then=wait_deltas)
    pages = report["ram"]["pages"]
    assert pages["zero"] > 0 and pages["delta"] > 0 and pages["raw"] > 0  # it was on its way


@EACH
def test_from_the_beginning(workdir, pki, version, accel):
    """The section of another iterable device, before the first page."""

    def change(source, dest):
        for machine in (source, dest):
            set_capabilities(machine, dirty_bitmaps=True)

    report = migrate(workdir, pki, version, accel, change, "dirty bitmaps", pages_seen=False)
    assert set(report["ram"]["pages"].values()) == {0}


@EACH
def test_in_the_channels(workdir, pki, version, accel):
    """Packets that are compressed, beside zero pages in the main stream."""

    def change(source, dest):
        for machine in (source, dest):
            set_parameters(machine, multifd_compression="zlib")

    report = migrate(workdir, pki, version, accel, change, "compresses its multifd channels",
                     "--multifd", 2, "--downtime", 5000,  # zlib on a busy machine is slower than the guest
                     pages_seen=False)
    pages = report["ram"]["pages"]
    assert not any(pages[kind] for kind in pages if kind != "zero")
