# SPDX-License-Identifier: Apache-2.0
"""A peer that keeps to the rules until a guest is on its way, and then lies about one thing (harness/impostor.py): the
honest end refuses with a sentence, the guest is in one place, whole, and nothing is left behind. Lies before that:
test_liar.py. docs/security.md: what is tested where."""
import random
import struct

import pytest

from harness import daemon, memory, qemu
from harness.impostor import (ACK, BLOCK, DATA, DELTA, DUP, HEAD, KEPT, LITERAL, PROGRESS, RECORD, ZERO, Cut,
                              Impostor)
from harness.liar import WELCOME
from harness.qmp import QmpGone
from harness.scene import FaultyDaemon, GUEST, one_sentence, wait_until

PAGES = GUEST.memory * 256
MEMORY = 160 << 20  # what the lies may cost the daemon that they are told, all together


def never_ran(dest):
    """It is gone, or waits as it did."""
    try:
        return dest.process.poll() is not None or dest.status() in ("inmigrate", "prelaunch")
    except (OSError, QmpGone):
        return False  # going


class Stage:
    """One guest and two daemons for many lies: each gets a waiting QEMU of its own."""

    def __init__(self, workdir, pki):
        self.pki = pki
        self.source = qemu.Machine(qemu.newest(), GUEST, name="src")
        self.a = FaultyDaemon(workdir, "a", pki / "a")
        self.b = FaultyDaemon(workdir, "b", pki / "b")

    def __enter__(self):
        for one in (self.source, self.a, self.b):
            one.__enter__()
        self.source.wait_ready()
        return self

    def __exit__(self, *_):
        for one in (self.b, self.a, self.source):
            one.__exit__(None, None, None)

    def said(self):
        return f"\n--- a: {self.a.said()[-3000:]}\n--- b: {self.b.said()[-3000:]}"

    def migrate(self, lie, dest, *args, timeout=40):
        with Impostor(self.b.address, self.pki / "m", lie) as between:
            result = self.a.drover("migrate", "--qmp", self.source.drover_qmp, "--to", between.address,
                                   "--dest-qmp", dest.drover_qmp, "--json", "--codec", "none",
                                   "--lanes", "1", "--timeout", str(timeout), "--drop-timeout", "3",
                                   "--keep-source", *args)
            assert between.error is None, between.error
        return result

    def dest(self):
        return qemu.Machine(qemu.newest(), GUEST, incoming=True, name="dst")

    def check_at_source(self, dest):
        """It goes on there; the other QEMU is gone, or has never begun."""
        assert self.source.running(), self.source.status() + self.said()
        self.source.console.wait_beats(3)
        verdict = memory.check_pages(self.source)
        assert verdict["sound"], verdict
        wait_until(lambda: never_ran(dest), "its end" + self.said())
        assert not dest.console.beats, "it has run there, too"
        self.check_tidy()

    def check_at_dest(self, dest):
        wait_until(dest.running, "the guest to run" + self.said())
        dest.console.wait_beats(3)
        assert not self.source.running()
        unexplained, verdict, _ = memory.compare_after_run(self.source, dest)
        assert unexplained == [] and verdict["sound"], verdict
        self.check_tidy()

    def check_either(self, dest, result, what):
        context = f"{what}: {result.stderr}{self.said()}"
        assert result.status in (0, 1, 3), context
        try:
            if result.status == 3:  # what was said of COMMIT got lost: it is asked again
                assert self.a.drover("watch", result.json["job"]).status == 0
            if result.status == 1:
                one_sentence(result, 1)
                self.check_at_source(dest)
            else:
                self.check_at_dest(dest)
        except (AssertionError, TimeoutError) as e:
            raise AssertionError(context) from e

    def check_tidy(self):
        for d in (self.a, self.b):
            assert d.alive(), self.said()
            wait_until(lambda d=d: not d.sockets_left(), f"{d.name} to tidy up" + self.said())


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return daemon.make_pki(tmp_path_factory.mktemp("pki") / "pki", "a=127.0.0.1", "b=127.0.0.1",
                           "m=127.0.0.1")


@pytest.fixture
def stage(workdir, pki):
    with Stage(workdir, pki) as stage:
        yield stage


# ---- as a source, in batches of pages ----

def batch(change, kinds=(ZERO, LITERAL), skip=0):
    """Has one batch changed, at its first record of those kinds; None where there is nothing to change."""
    left = [skip, False]

    def lie(frame):
        if left[1] or not frame.is_batch():
            return None
        at = next((at for kind, at, _ in frame.records() if kind in kinds), None)
        if at is None:
            return None
        left[0] -= 1
        if left[0] >= 0:
            return None
        left[1] = True
        change(frame, at)
        return [frame]
    return lie


def field(offset, layout, *values):
    """In the record."""
    return lambda frame, at: frame.put(at + offset, layout, *values)


def head(change):
    def apply(frame, _):
        frame.put(0, ">QQQ", *change(*HEAD.unpack_from(frame.payload)))
    return apply


def record(kind, layout, *values):
    """One more, of block 0."""
    def apply(frame, _):
        frame.payload += RECORD.pack(kind, 0, 0) + struct.pack(layout, *values)
    return apply


def only(*records):
    """Instead of what there was."""
    def apply(frame, _):
        frame.payload = frame.payload[:HEAD.size] + b"".join(records)
    return apply


def cut_short(frame, _):
    frame.payload = frame.payload[:-1]


def other_content(frame, at):
    frame.put(at + 12 + 100, ">Q", 0x6c696573)


def other_place(frame, at):
    first = struct.unpack_from(">I", frame.payload, at + 4)[0]
    frame.put(at + 4, ">I", first ^ 1)


ALL_ZERO = RECORD.pack(ZERO, 0, 0) + struct.pack(">IIB", 0, PAGES, 0)
OUTSIDE = "pages outside of every RAM block"
NOT_THERE = "are not at the destination what they are at the source"
NOT_WHAT = "what came out of channel 0 at the destination is not what went in at the source"
CUT_SHORT = "a record that is cut short or of an unknown kind"

AS_SOURCE = {
    "offset": (batch(field(4, ">I", 0xfffffff0)), OUTSIDE),
    "block": (batch(field(2, ">H", 4000)), OUTSIDE),
    "no-pages": (batch(field(8, ">I", 0), kinds=(ZERO,)), OUTSIDE),
    "count": (batch(field(8, ">I", PAGES - 1), kinds=(LITERAL,)), CUT_SHORT),
    "kind": (batch(field(0, ">B", 77)), CUT_SHORT),
    "length": (batch(cut_short), CUT_SHORT),
    "flags": (batch(field(1, ">B", 0x80)), CUT_SHORT),
    "too-many": (batch(only(ALL_ZERO, ALL_ZERO)), "more pages than a batch may place"),
    "itself": (batch(head(lambda n, after, digest: (n, n, digest)), skip=2), "whose head makes no sense"),
    "again": (batch(head(lambda n, after, digest: (1, 0, digest)), skip=2), "which came before"),
    "ahead": (batch(head(lambda n, after, digest: (n + (1 << 40), after, digest))),
              "which is far ahead of all others"),
    "block-number": (batch(field(2, ">H", 7), kinds=(BLOCK,)), "names RAM block 7 where number"),
    # Found by QEMU, or first by the daemon: left to QEMU, pages make more of a batch than fits.
    "block-name": (batch(field(13, ">B", ord("x")), kinds=(BLOCK,)), "the destination"),
    "kept": (batch(record(KEPT, ">II", 5, 1 << 30)), "speaks of kept page 1073741824 where"),
    "dup": (batch(record(DUP, ">IHI", 5, 0, 9)), NOT_THERE),
    "dup-outside": (batch(record(DUP, ">IHI", 5, 0, 1 << 31)), "a duplicate of a page that cannot be read"),
    "delta": (batch(record(DELTA, ">IB512s", 5, 1, b"x" * 512)), NOT_THERE),
    "content": (batch(other_content, kinds=(LITERAL,)), NOT_WHAT),
    "place": (batch(other_place, kinds=(LITERAL,)), NOT_WHAT),
}
IN_CI = ("offset", "again", "dup", "content")


def tell_as_source(stage, names):
    before = stage.b.peak_memory()
    for name in names:
        lie, says = AS_SOURCE[name]
        with stage.dest() as dest:
            result = stage.migrate(lie, dest, "--mode", "direct")
            assert result.status == 1, (name, result.stderr, stage.said())
            one_sentence(result, 1, says)
            stage.check_at_source(dest)
    assert stage.b.peak_memory() - before < MEMORY


def test_a_source_lies(stage):
    tell_as_source(stage, IN_CI)


@pytest.mark.slow
def test_a_source_lies_in_other_ways(stage):
    tell_as_source(stage, [name for name in AS_SOURCE if name not in IN_CI])


# ---- as a destination ----

def of_dest(change):
    """Changes the first frame from there that it can: gives the frames that go on, or None."""
    done = []

    def lie(frame):
        found = None if frame.to_dest or done else change(frame)
        done.extend([True] if found else [])
        return found
    lie.told = done
    return lie


def ack(received, delivered):
    def change(frame):
        if frame.kind != ACK:
            return None
        channel, r, d = PROGRESS.unpack(frame.payload)
        if channel == 0:
            return None
        frame.payload = PROGRESS.pack(channel, received(r), delivered(d))
        return [frame]
    return change


def loaded(change):
    def lie(frame):
        if not frame.says("job.loaded"):
            return None
        message = frame.message
        change(message["args"])
        frame.message = message
        return [frame]
    return lie


def other_digest(args):
    text = args["digests"][0]["received"]["digest"]
    args["digests"][0]["received"]["digest"] = ("1" if text[0] == "0" else "0") + text[1:]


def too_soon():
    """Loaded, when the first of the pages have come."""
    job = []

    def lie(frame):
        if frame.to_dest and frame.message and frame.message.get("call") == "job.prepare":
            job.append(frame.message["args"]["job"])
        if frame.to_dest or frame.kind != ACK or len(job) != 1 or not PROGRESS.unpack(frame.payload)[0]:
            return None
        said = frame.copy()
        said.kind, said.channel = DATA, 0
        said.message = {"tell": "job.loaded", "args": {"job": job[0], "digests": []}}
        job.append(None)
        return [frame, said]
    return lie


def answers_twice(call):
    """Each answer to that call, and each job.loaded."""
    ids, told = set(), []

    def lie(frame):
        message = frame.message
        if message is None:
            return None
        if frame.to_dest:
            if message.get("call") == call:
                ids.add(message["id"])
            return None
        twice = message.get("id") in ids or frame.says("job.loaded")
        told.extend([True] if twice else [])
        return [frame, frame.copy()] if twice else None
    lie.told = told
    return lie


def resumes(change):
    """Cuts the link when pages are on their way, and then says that so much of each channel has come."""
    acks, told = [0], []

    def lie(frame):
        if not frame.to_dest and frame.kind == ACK and PROGRESS.unpack(frame.payload)[0]:
            acks[0] += 1
            if acks[0] == 2:
                raise Cut
        if frame.kind != WELCOME or acks[0] < 2:
            return None
        at = 8 + 2 + 2 + 8 + 16 + 32 + 2
        at += 1 + frame.payload[at]
        count = struct.unpack_from(">H", frame.payload, at)[0]
        for i in range(count):
            where = at + 2 + PROGRESS.size * i
            channel, r, d = PROGRESS.unpack_from(frame.payload, where)
            if channel:
                frame.put(where, ">IQQ", channel, *change(r, d))
                told.append(True)
        return [frame]
    lie.told = told
    return lie


AS_DEST = {
    "acks": (of_dest(ack(lambda r: r + (1 << 20), lambda d: d + (1 << 20))), "acknowledged frame"),
    "acks-negative": (of_dest(ack(lambda r: 0, lambda d: 1 << 63)), "malformed ack"),
    "digest": (of_dest(loaded(other_digest)), NOT_WHAT),
    "no-digests": (of_dest(loaded(lambda args: args.update(digests=[]))),
                   "the destination counts other channels than the source"),
    "junk-digests": (of_dest(loaded(lambda args: args.update(digests=[7, {"sent": -1}]))),
                     "the destination counts other channels than the source"),
    "too-soon": (too_soon(), "the destination counts other channels than the source"),
    "resume": (resumes(lambda r, d: (r + (1 << 20), d)), "acknowledged frame"),
    "resume-negative": (resumes(lambda r, d: (r, 1 << 63)), "acknowledged frame"),
}
DEST_IN_CI = ("acks", "digest", "resume")


def tell_as_dest(stage, names):
    before = stage.a.peak_memory()
    for name in names:
        lie, says = AS_DEST[name]
        with stage.dest() as dest:
            result = stage.migrate(lie, dest)
            assert result.status == 1, (name, result.stderr, stage.said())
            one_sentence(result, 1, says)
            stage.check_at_source(dest)
    assert stage.a.peak_memory() - before < MEMORY


def test_a_destination_lies(stage):
    tell_as_dest(stage, DEST_IN_CI)


@pytest.mark.slow
def test_a_destination_lies_in_other_ways(stage):
    tell_as_dest(stage, [name for name in AS_DEST if name not in DEST_IN_CI])


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: answers_twice("job.commit"), lambda: resumes(lambda r, d: (0, 0))],
                         ids=["answers-twice", "resumes-from-nought"])
def test_a_destination_repeats_itself(stage, make):
    """That is no lie: it arrives."""
    lie = make()
    with stage.dest() as dest:
        result = stage.migrate(lie, dest)
        assert result.status == 0 and lie.told, result.stderr + stage.said()
        stage.check_at_dest(dest)


def answers(change):
    """Changes what it says of its guest's memory: the answer to job.prepare, with the pages that it can write."""
    def lie(frame):
        message = frame.message
        if not message or "direct" not in (message.get("ok") or {}):
            return None
        change(message["ok"]["direct"])
        frame.message = message
        return [frame]
    return lie


def each_block(**members):
    return lambda direct: [block.update(members) for block in direct["blocks"]]


LAYOUTS = {
    "secret": lambda direct: direct.update(secret="0" * len(direct["secret"])),
    "size": each_block(size=4096), "negative": each_block(size=-4096), "name": each_block(block="x"),
    "many": lambda direct: direct.update(blocks=direct["blocks"] * 300),
    "none": lambda direct: direct.update(blocks=[]),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_destination_lies_about_the_guest(stage, layout):
    """Such as make the source take pages for others: it arrives whole, or not at all."""
    lie = of_dest(answers(LAYOUTS[layout]))
    with stage.dest() as dest:
        result = stage.migrate(lie, dest)
        assert lie.told
        stage.check_either(dest, result, layout)


# ---- nothing but slow ----

def late_channel(stage, dest, phases, unheard):
    """The destination's QEMU dies just before it is asked for a channel; the phase of its job is one of these when it
    hears of that. unheard: what else it says of its end gets lost."""
    def lie(frame):
        if frame.message and frame.to_dest and frame.message.get("call") == "job.channel" and not lie.told:
            dest.process.kill()
            wait_until(lambda: stage.b.job()["state"] in phases, "the end of its job")
            lie.told = True
        return [] if unheard and frame.says("job.failed") else None
    lie.told = False
    return lie


@pytest.mark.parametrize("unheard", [True, False], ids=["unheard", "heard"])
def test_the_answer_says_what_became_of_the_job(stage, unheard):
    """Not that it is unknown, or does not take channels."""
    with stage.dest() as dest:
        lie = late_channel(stage, dest, ("failed",), unheard)
        result = stage.migrate(lie, dest)
        assert lie.told
        one_sentence(result, 1, "its QEMU has ended")
        stage.check_at_source(dest)


# ---- anything ----

WAYS = (("--mode", "direct"), ("--mode", "relay"), ("--mode", "direct", "--multifd", "2"),
        ("--mode", "direct", "--verify", "memory"))


class Mutator:
    """One byte of one frame is another: of its header, or of what is in it (and then the checksum fits)."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.to_dest = self.random.random() < 0.6
        self.wait = min(int(self.random.expovariate(1 / 15)), 30)
        self.did = None

    def __call__(self, frame):
        if frame.to_dest != self.to_dest or frame.kind not in (ACK, DATA, WELCOME) or self.did:
            return None
        self.wait -= 1
        if self.wait >= 0:
            return None
        bit = 1 << self.random.randrange(8)
        if frame.payload and self.random.random() < 0.7:
            at = self.random.randrange(min(len(frame.payload), self.random.choice((64, 1 << 17))))
            frame.put(at, ">B", frame.payload[at] ^ bit)
            self.did = f"byte {at} of {len(frame.payload)}, frame {frame.seq} of channel {frame.channel}"
        else:
            name = self.random.choice(("flags", "channel", "seq"))
            setattr(frame, name, getattr(frame, name) ^ bit)
            self.did = f"{name} ^ {bit} in frame {frame.seq} of channel {frame.channel}"
        self.did += f" ({frame.kind}, {'to' if self.to_dest else 'from'} the destination)"
        return [frame]


def mutate(workdir, pki, seed):
    """Whatever comes of it: the guest is whole, and runs in one place."""
    mutator = Mutator(seed)
    with Stage(workdir, pki) as stage, stage.dest() as dest:
        result = stage.migrate(mutator, dest, *WAYS[seed % len(WAYS)], timeout=10)
        assert mutator.did, f"seed {seed}: it came to nothing: {result.stderr}"
        stage.check_either(dest, result, f"seed {seed}: {mutator.did}")


# None of these has to wait for a message that nobody could read.
QUICK = (11, 42, 44, 45, 58)


@pytest.mark.parametrize("seed", QUICK)
def test_a_byte_is_another(workdir, pki, seed):
    mutate(workdir, pki, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", sorted(set(range(60)) - set(QUICK)))
def test_a_byte_is_another_once_more(workdir, pki, seed):
    mutate(workdir, pki, seed)
