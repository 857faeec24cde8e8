# SPDX-License-Identifier: Apache-2.0
"""The judge of the flat guest's disk, proven with a guest that is left alone, and with disks that are
wrong."""
import pytest

from conftest import binary
from harness import disks, flatdisk
from harness.qemu import MIB, Guest, Machine

SECTORS = 64
SECTOR = flatdisk.SECTOR


def disk(done):
    """As the guest leaves it after so many writes; (raw, what it held before)."""
    before = bytes(range(256)) * (SECTORS * SECTOR // 128)
    before = bytes(SECTORS * SECTOR) + before[SECTORS * SECTOR:]
    raw = bytearray(before)
    for number in range(max(1, done - SECTORS + 1), done + 1):
        index = (number - 1) % SECTORS
        raw[index * SECTOR:(index + 1) * SECTOR] = flatdisk.sector(index, number)
    return raw, before


@pytest.mark.parametrize("done", (0, 1, SECTORS, 3 * SECTORS + 10))
def test_a_sound_disk(done):
    raw, before = disk(done)
    assert flatdisk.judge(raw, before, SECTORS, done, done) == ""
    # A burst that was under way may be there, wholly or in part, and is not missed.
    assert flatdisk.judge(raw, before, SECTORS, done + 8, done) == ""


def put(raw, index, data):
    raw[index * SECTOR:(index + 1) * SECTOR] = data


@pytest.mark.parametrize("harm, words", (
    (lambda raw: put(raw, 9, flatdisk.sector(9, SECTORS + 10)), "sector 9 should hold write 138"),  # lost
    (lambda raw: put(raw, 10, flatdisk.sector(10, 139)), "sector 10 should hold write 75"),   # too early
    (lambda raw: put(raw, 3, flatdisk.sector(4, 133)), "sector 3 should hold write 132"),     # misplaced
    (lambda raw: put(raw, 3, bytes(SECTOR)), "sector 3 should hold write 132"),
    (lambda raw: put(raw, 3, flatdisk.sector(3, 132)[:256] + flatdisk.sector(3, 68)[256:]),   # torn
     "sector 3 should hold write 132"),
    (lambda raw: raw.__setitem__(SECTORS * SECTOR + 5, 0), "what the guest never wrote to"),
), ids=("lost", "early", "misplaced", "empty", "torn", "beyond"))
def test_a_disk_that_is_wrong(harm, words):
    raw, before = disk(2 * SECTORS + 10)
    assert flatdisk.judge(raw, before, SECTORS, 138, 138) == ""
    harm(raw)
    assert words in flatdisk.judge(raw, before, SECTORS, 138, 138)


@pytest.mark.parametrize("burst", (1, 16))
def test_a_guest_that_is_left_alone(workdir, burst):
    image = disks.make(workdir / "disk.img", MIB)
    disks.fill(image, MIB // 2, 4096)
    before = flatdisk.read_raw(image)
    guest = Guest(memory=64, pages=64, extra=flatdisk.drive(image),
                  params=f"hz=1000 rate=1 beat=20 disk=64 burst={burst}")
    with Machine(binary("10.0"), guest) as machine:
        machine.wait_ready()
        flatdisk.wait_writes(machine, 200)
        assert flatdisk.check(machine, image, before) == ""
