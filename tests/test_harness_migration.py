# SPDX-License-Identifier: Apache-2.0
"""The harness itself, proven with QEMU's own migration before drover is judged by it."""
import time

import pytest

from conftest import binary, need_accel
from harness import memory, native, qemu
from harness.console import longest_gap
from harness.qemu import Guest, Machine

# A KVM that emulates the guest's writes pushes one ring entry for each and looks at the ring only
# when the vCPU is entered anew: an unpaced writer overflows it, the kernel warns (dirty_ring.c) and
# drops entries, and pages are lost that no migration can know of. Sleeping every few pages makes the
# kernel look.
RING_PACE = "hz=1000 rate=20 beat=20"

GUESTS = {
    "flat-kvm": Guest(accel="kvm"),
    "flat-kvm-ring": Guest(accel="kvm", dirty_ring=4096, params=RING_PACE),
    "flat-kvm-rewrite": Guest(accel="kvm", mode="rewrite"),
    "flat-tcg": Guest(params="hz=1000 rate=20 beat=20"),
    # Under KVM: 7.2's TCG loses pages of such memory by itself (tests/README.md).
    "flat-kvm-random-memfd": Guest(accel="kvm", mode="random", params="hz=1000 rate=5 beat=5", backend="memfd"),
    "flat-tcg-idle": Guest(mode="idle", params="hz=1000 beat=1"),
    "linux-tcg": Guest(kind="linux", memory=256),
}
# What goes wrong with the others does with these.
QUICK = ("flat-kvm", "flat-tcg")
PAIRS = (pytest.param(("7.2", "7.2"), marks=pytest.mark.slow),
         pytest.param(("10.0", "10.0"), marks=pytest.mark.slow),
         ("7.2", "10.0"))


@pytest.mark.parametrize("versions", PAIRS, ids=lambda pair: f"{pair[0]}to{pair[1]}")
@pytest.mark.parametrize("guest", [pytest.param(guest, marks=() if name in QUICK else pytest.mark.slow)
                                   for name, guest in GUESTS.items()], ids=GUESTS.keys())
def test_native_migration_moves_everything(guest, versions):
    need_accel(guest.accel)
    source_qemu, dest_qemu = (binary(v) for v in versions)
    with Machine(source_qemu, guest, name="src") as source, \
            Machine(dest_qemu, guest, incoming=True, name="dst") as dest:
        source.wait_ready()
        began = time.monotonic()
        info = native.migrate(source, dest)
        assert info["status"] == "completed", info
        assert memory.compare(source, dest) == []
        if guest.kind == "flat":
            assert memory.check_pages(dest)["sound"]

        before = source.counter()
        dest.cont()
        dest.console.wait_beats(20)
        assert dest.console.beats[0][1] > before, "the guest's counter did not go on"
        gap, at = longest_gap(began, time.monotonic(), source.console, dest.console)
        assert gap >= info["downtime"] / 1000 and at >= began
        if guest.kind == "flat":
            unexplained, after, _ = memory.compare_after_run(source, dest)
            assert unexplained == [] and after["sound"], after
        else:
            assert not any(b"bad" in line for _, line in dest.console.lines)


def test_memory_that_differs_is_found(any_qemu):
    """Pages changed behind the migration's back, one that the guest writes and one it does not."""
    guest = Guest(mode="idle", params="hz=100 beat=1", images=())
    with Machine(any_qemu, guest, name="src") as source, \
            Machine(any_qemu, guest, incoming=True, name="dst") as dest:
        source.wait_ready()
        native.migrate(source, dest)
        inside = guest.start + 100 * qemu.PAGE
        outside = 0x6000000
        for address in (inside, outside):
            poke(dest, address)
        assert memory.compare(source, dest) == [inside // qemu.PAGE, outside // qemu.PAGE]
        verdict = memory.check_pages(dest)
        assert (verdict["torn"], verdict["bad"]) == (1, [[100, "torn"]])


def poke(machine, address):
    """Changes one byte of a stopped guest's memory from outside, as root may."""
    text = machine.qmp.hmp(f"gpa2hva {address:#x}")
    host = int(text.split()[-1], 16)
    with open(f"/proc/{machine.pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(host + 2048)
        byte = mem.read(1)[0]
        mem.seek(host + 2048)
        mem.write(bytes([byte ^ 1]))


def test_a_machine_that_cannot_start_says_why(any_qemu):
    with pytest.raises(RuntimeError, match="unsupported machine type"):
        Machine(any_qemu, Guest(machine="no-such-machine"))
