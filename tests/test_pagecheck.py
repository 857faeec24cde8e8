# SPDX-License-Identifier: Apache-2.0
"""pagecheck finds each kind of damage in real dumps of a running guest, and nothing in sound ones."""
import os

import pytest

from harness import memory, qemu
from harness.qemu import PAGE, Guest, Machine

PAGES = 512
MODES = ("sparse", "rewrite", "random")


class Dumps:
    """Two dumps of one running guest, the later at least two passes of its writer younger."""

    def __init__(self, mode, workdir):
        self.guest = Guest(mode=mode, pages=PAGES, memory=64, params="hz=1000 rate=16 beat=16")
        self.work = workdir / "work.dump"
        with Machine(qemu.oldest(), self.guest) as machine:
            machine.wait_ready()
            self.early, self.early_verdict = self._take(machine, workdir / "early.dump")
            machine.cont()
            machine.console.wait_beats(2 * PAGES // 16 + 2)
            self.late, self.late_verdict = self._take(machine, workdir / "late.dump")
            for _ in range(100):
                if 1 < self.late_verdict["position"] < PAGES - 2:
                    break
                machine.cont()  # it was between two passes: the tests want it inside one
                machine.console.wait_beats(3)
                self.late, self.late_verdict = self._take(machine, workdir / "late.dump")
            else:
                raise RuntimeError(f"the writer is never inside a pass: {self.late_verdict}")

    def _take(self, machine, path):
        machine.stop()
        memory.dump(machine, path, self.guest.start, self.guest.pages_bytes)
        return path.read_bytes(), memory.judge(path, self.guest)

    def judge(self, changes):
        """The verdict on the later dump with pages replaced: {index: bytes}."""
        dump = bytearray(self.late)
        for index, content in changes.items():
            assert len(content) == PAGE
            dump[index * PAGE:(index + 1) * PAGE] = content
        self.work.write_bytes(dump)
        return memory.judge(self.work, self.guest)


def page(dump, index):
    return dump[index * PAGE:(index + 1) * PAGE]


@pytest.fixture(scope="module", params=MODES)
def dumps(request, tmp_path_factory):
    return Dumps(request.param, tmp_path_factory.mktemp("dumps"))


def assert_found(verdict, kind, *indexes):
    kinds = ("lost", "swapped", "torn", "stale", "garbage")
    assert {k: verdict[k] for k in kinds} == {k: len(indexes) if k == kind else 0 for k in kinds}
    assert verdict["bad"] == [[i, kind] for i in indexes]
    assert not verdict["sound"]


def test_a_running_guests_memory_is_sound(dumps):
    assert dumps.early_verdict["sound"] and dumps.late_verdict["sound"]
    assert dumps.late_verdict["generation"] >= dumps.early_verdict["generation"] + 2
    assert dumps.judge({})["sound"]


def test_lost(dumps):
    assert_found(dumps.judge({7: bytes(PAGE)}), "lost", 7)


def test_swapped(dumps):
    changes = {20: page(dumps.late, 300), 300: page(dumps.late, 20)}
    assert_found(dumps.judge(changes), "swapped", 20, 300)


def test_stale(dumps):
    """Pages as they once were, each whole: only the writer's position gives them away."""
    assert_found(dumps.judge({i: page(dumps.early, i) for i in (0, 100, 511)}), "stale", 0, 100, 511)


def test_stale_by_one_pass_or_from_the_future(dumps):
    """One page of the pass before and one of the pass after, on the other side of the writer."""
    generation = dumps.late_verdict["generation"]
    changes = {i: rewritten(dumps, i, g)
               for i, g in ((0, generation - 1), (PAGES - 1, generation))}
    assert_found(dumps.judge(changes), "stale", 0, PAGES - 1)


def rewritten(dumps, index, generation):
    """The page as the pass 'generation' left or will leave it, taken from the guest's own rules."""
    content = bytearray(page(dumps.late, index))
    words = memoryview(content).cast("I")
    words[2] = words[1023] = generation
    if dumps.guest.mode != "sparse":
        pool = qemu.pool_file(dumps.guest.body).read_bytes()
        start = body_start(index, generation) * 4
        words[3] = generation
        content[16:4092] = pool[start:start + 4076]
    return bytes(content)


def body_start(index, generation):
    """flat_body_start() of layout.h."""
    mask = 0xffffffff
    h = (index * 0x9e3779b1 & mask) ^ (generation * 0x85ebca6b & mask)
    h ^= h >> 15
    h = h * 0x2c1b3c6d & mask
    h ^= h >> 13
    return h & ((1 << 20) - 1)


@pytest.mark.parametrize("cut", (512, 2048, 4092))
def test_torn(dumps, cut):
    """The beginning of the page from one pass, its end from another."""
    torn = page(dumps.late, 50)[:cut] + page(dumps.early, 50)[cut:]
    assert_found(dumps.judge({50: torn}), "torn", 50)


def test_one_changed_byte_in_the_body_is_torn(dumps):
    changed = bytearray(page(dumps.late, 60))
    changed[3000] ^= 0x10
    assert_found(dumps.judge({60: bytes(changed)}), "torn", 60)


def test_garbage(dumps):
    assert_found(dumps.judge({9: os.urandom(PAGE)}), "garbage", 9)


def half_written(dumps, index, generation):
    """The write of a page, stopped in the middle."""
    after, before = rewritten(dumps, index, generation), rewritten(dumps, index, generation - 1)
    return after[:2048] + before[2048:]


def test_the_page_in_which_the_writer_stopped_may_be_half_written(dumps):
    verdict = dumps.late_verdict
    position = verdict["position"]
    half = half_written(dumps, position, verdict["generation"])
    changed = dumps.judge({position: half})
    assert changed["sound"] and changed["midwrite"] == 1
    # The same anywhere else is damage.
    elsewhere = (position + PAGES // 2) % PAGES
    generation = verdict["generation"] - (elsewhere > position)
    assert_found(dumps.judge({elsewhere: half_written(dumps, elsewhere, generation)}),
                 "torn", elsewhere)


def test_bad_use_is_told_from_bad_memory(dumps, tmp_path):
    odd = tmp_path / "odd.dump"
    odd.write_bytes(b"x" * 100)
    with pytest.raises(RuntimeError, match="not a whole number of pages"):
        memory.judge(odd, dumps.guest)
    with pytest.raises(RuntimeError, match="No such file"):
        memory.judge(tmp_path / "none", dumps.guest)
    with pytest.raises(RuntimeError, match="usage:"):
        memory.judge(odd, dumps.guest.variant(mode="unknown"))
