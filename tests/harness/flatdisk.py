# SPDX-License-Identifier: Apache-2.0
"""The flat guest's disk (tests/guests/flat/layout.h): what is on it is judged sector by sector.

The guest's memory says up to which write the disk has told it that it is done. So a write that was
lost on the way, made twice or out of order, or torn, is found in whatever image the guest runs on,
and what the guest has never written must be as it was.
"""
import contextlib
import functools
import struct
import subprocess
import tempfile

from . import qemu

SECTOR = 512
MAGIC = 0x44565244
RECORD_ADDR = 0x10f000
BODY_WORDS = 124
POOL_STARTS = 1 << 20
MASK = 0xffffffff


def drive(path, fmt="qcow2", more=""):
    return ("-drive", f"if=ide,index=0,id=disk0,format={fmt},file={path}{more}")


@functools.lru_cache(None)
def _pool(body):
    return qemu.pool_file(body).read_bytes()


def _body_start(index, number):
    h = (index * 0x9e3779b1 ^ number * 0x85ebca6b) & MASK
    h ^= h >> 15
    h = h * 0x2c1b3c6d & MASK
    h ^= h >> 13
    return h & (POOL_STARTS - 1)


def sector(index, number, body="text"):
    """What the guest writes there as its write of that number."""
    start = 4 * _body_start(index, number)
    return struct.pack("<3I", MAGIC, index, number) + \
        _pool(body)[start:start + 4 * BODY_WORDS] + struct.pack("<I", number)


def read_raw(image):
    """All that an image holds, also while a QEMU has it open."""
    with tempfile.NamedTemporaryFile(prefix="drv-") as raw:
        subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", image, raw.name], timeout=120,
                       check=True)
        return raw.read()


class Record:
    """How far the disk is, as the guest's memory has it."""

    def __init__(self, machine):
        path = machine.dir / "disk.record"
        machine.qmp.command("pmemsave", {"val": RECORD_ADDR, "size": 24, "filename": str(path)})
        magic, self.sectors, self.burst, self.begun, self.done, self.errors = \
            struct.unpack("<6I", path.read_bytes())
        path.unlink()
        if magic != MAGIC:
            raise ValueError("the guest has no record of a disk: give it disk=N")


def _number_of(index, done, sectors):
    """The last write up to 'done' that went to a sector; 0: none did."""
    return 0 if done < index + 1 else done - (done - index - 1) % sectors


def judge(raw, untouched, sectors, begun, done, body="text"):
    """What is wrong with a disk on which all up to 'done' must be, and up to 'begun' may be; ''."""
    for index in range(sectors):
        found = raw[index * SECTOR:(index + 1) * SECTOR]
        must, may = (_number_of(index, n, sectors) for n in (done, begun))
        if not any(found == (sector(index, n, body) if n else bytes(SECTOR)) for n in {must, may}):
            head = struct.unpack("<3I", found[:12])
            return f"sector {index} should hold write {must}" + \
                (f" or {may}" if may != must else "") + f", and holds {head} … {found[-4:].hex()}"
    at = sectors * SECTOR
    if raw[at:] != untouched[at:]:
        return "what the guest never wrote to has changed"
    return ""


def last_number(raw, sectors):
    """Of the newest write that an image holds."""
    return max(struct.unpack("<I", raw[i * SECTOR + 8:i * SECTOR + 12])[0] for i in range(sectors))


@contextlib.contextmanager
def _stopped(machine):
    was_running = machine.running()
    if was_running:
        machine.stop()
    try:
        yield
    finally:
        if was_running:
            machine.cont()


def check(machine, image, untouched, other=None):
    """What is wrong with the image a flat guest runs on; '' when nothing is. 'other' is the one that
    it ran on before: it must hold one moment of the same history."""
    with _stopped(machine):
        record, raw = Record(machine), read_raw(image)
    body = machine.guest.body
    wrong = judge(raw, untouched, record.sectors, record.begun, record.done, body)
    if wrong or other is None:
        return wrong
    left = read_raw(other)
    last = last_number(left, record.sectors)
    wrong = judge(left, untouched, record.sectors, last, last - last % record.burst, body)
    if wrong:
        return f"the image it came from: {wrong}"
    return "" if last <= record.begun else \
        f"the image it came from holds write {last}, of which its memory does not know"


def writes(machine):
    """How many sectors the guest has written so far, by its own word."""
    said = [line for _, line in list(machine.console.lines) if line.startswith(b"d ")]
    return int(said[-1][2:], 16) if said else 0


def wait_writes(machine, n, timeout=60):
    """Waits for n sectors more."""
    first = writes(machine)
    machine.console.wait(lambda: writes(machine) >= first + n, timeout, f"{n} sectors more")
