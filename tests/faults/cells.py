# SPDX-License-Identifier: Apache-2.0
"""The fault matrix: one cell is a state of a job, a fault that strikes just there, and a mode.

A daemon stops itself when the job has entered the state and has not acted on it yet; the fault
strikes; everything goes on. Whatever it was, the same must hold afterwards, and judge() checks it.
What may have become of the guest is in allowed(): a cell that is not said to be allowed to fail
must succeed.
"""
import contextlib
import dataclasses
import pathlib
import shutil
import signal
import tempfile

from harness import disks, flatdisk, memory, qemu
from harness.qmp import QmpGone
from harness.scene import GUEST, Scene, free, wait_until

from .faults import FAULTS, Disk, clock_library, disk_problem, rest

BEFORE = ("source:preparing", "source:copying", "source:switchover", "source:loaded",
          "dest:preparing", "dest:copying", "dest:loaded")
AFTER = ("source:committed", "source:running", "dest:committed", "dest:running")
BACK = ("source:rolling-back", "dest:rolling-back")
STATES = BEFORE + AFTER + BACK
# No state of its own: copying, and the guest's writes have just been made to wait for the destination.
HELD_UP = "source:writes-wait"


@dataclasses.dataclass(frozen=True)
class Mode:
    """How the guest goes. With a disk, its disk goes with it, and it writes to it all the time."""
    options: tuple
    disk: str = ""           # what the guest does with it
    states: tuple = STATES


MODES = {
    "relay": Mode(("--mode", "relay")),
    "direct": Mode(("--mode", "direct", "--multifd", "2")),
    "disks": Mode(("--mode", "relay", "--disks", "mirror"), "disk=512 lull=10"),
    # It writes to its disk faster than the link carries.
    "waits": Mode(("--mode", "relay", "--disks", "mirror", "--bandwidth", "1M", "--converge",
                   "throttle", "--max-downtime", "3000"), "disk=8192 burst=16",
                  (HELD_UP, "source:switchover", "source:loaded", "dest:loaded", "source:committed",
                   "dest:committed")),
}
DISK_SIZE, DISK_DATA = 8 << 20, 1 << 20
# The destination's QEMU has not been told to listen, and is left as it was.
UNTOUCHED = ("source:preparing", "dest:preparing")
# More written anew than 1 MiB/s carries: it is cancelled before it ends.
BUSY = GUEST.variant(params="hz=1000 rate=20 beat=20")

STATUS = {"dest": 0, "source": 1, "cancelled": 4}
IN_STATE_DIR = ("journal", "audit.log", "reserve", "lock", "lost+found", "filler")


@dataclasses.dataclass
class Outcome:
    where: str      # the guest runs at 'source', 'dest', or 'nowhere' (it was killed)
    status: int     # the command's
    doubt: bool     # it ended in doubt, and the doubt was resolved then
    seconds: float


def killed(fault):
    return fault.split()[0] if fault.endswith("QEMU killed") else ""


def allowed(where, fault):
    """What may become of the guest in a cell: of 'source', 'dest', 'nowhere'."""
    name = fault.name
    if where in BACK:
        return {"source", "nowhere"} if name == "source QEMU killed" else {"source"}
    if name == "source QEMU killed":
        # Where the destination has it all, it may go on there; before that it is gone.
        return {"dest"} if where in AFTER or where == "source:loaded" else {"nowhere", "dest"}
    if name == "dest QEMU killed":
        ran = where in ("source:running", "dest:running")
        return {"nowhere"} if ran else {"source"}
    if where in ("source:running", "dest:running"):
        return {"dest"}
    if name == "dest daemon killed" and where.startswith("source"):
        # It may have done its part before the source has heard of it, and it does not know of the
        # job before the source has prepared.
        decided = where in ("source:loaded", *AFTER)
        return {"dest"} if decided else {"source", "dest"}
    if name in ("source daemon killed", "dest daemon killed"):
        return {"dest"} if where in AFTER else {"source"}
    if where == "source:preparing" and ("link" in name or "packets" in name or "back" in name):
        # There is no session yet that would be taken up again, and with a clock that is behind the
        # destination finds the certificate not valid yet.
        return {"source", "dest"}
    if fault.needs_disk:
        # A full disk may still have room where the journal wrote before.
        decided = where == "dest:committed" or (where in AFTER and fault.needs_disk == "a")
        return {"dest"} if decided else {"source", "dest"}
    if fault.lasts == "verdict":
        decided = where in AFTER or where == "source:loaded"
        # What came before the cut may be enough.
        return {"dest"} if decided else {"source", "dest"} if where == "source:switchover" else \
            {"source"}
    if "QEMU stopped" in name and where in ("source:preparing", "dest:preparing", *AFTER):
        # It is asked something, and may not answer in time; in doubt until it does.
        return {"source", "dest"}
    return {"dest"}


# What the command's last sentence must name in some cells where it fails.
SAYS = {("source:copying", "dest QEMU killed"): "its QEMU",
        ("source:copying", "source QEMU killed"): "the source's QEMU",
        ("source:copying", "link cut for long"): "2 s, the drop timeout",
        ("source:copying", "packets lost for long"): "2 s, the drop timeout"}


def settings(machine):
    return (machine.qmp.command("query-migrate-parameters"),
            machine.qmp.command("query-migrate-capabilities"))


class Cell:
    def __init__(self, where, fault, mode, pause, binary=None):
        self.where, self.fault, self.mode, self.pause = where, FAULTS[fault], mode, pause
        self.binary = binary or qemu.newest()
        self.scene = self.disk = None   # the disk is the one under a journal
        self.images = {}                # the guest's: at the source, at the destination
        self.untouched = b""            # all that its disk held before it has written
        self.clocks = {}
        self.settings = None            # the source QEMU's own
        self._stack = contextlib.ExitStack()

    def __str__(self):
        return f"{self.where}, {self.fault.name}, {self.mode}"

    def _build(self, workdir):
        guest = BUSY if self.where in BACK else GUEST
        guests = {"source": guest, "dest": guest}
        does = MODES[self.mode].disk
        if does:
            self._make_images(workdir)
            guests = {end: guest.variant(params=f"{guest.params} {does}",
                                         extra=flatdisk.drive(self.images[end])) for end in guests}
        self.scene = Scene(workdir, self.binary, guest=guests["source"],
                           dest_guest=guests["dest"], relay=True, hold=self.where)
        if self.fault.needs_disk:
            self.disk = self._stack.enter_context(
                Disk(getattr(self.scene, self.fault.needs_disk).state))
        if self.fault.needs_clock:
            for name in "ab":
                self.clocks[name] = workdir / f"{name}.clock"
                self.clocks[name].write_text("0")
                getattr(self.scene, name).with_env(LD_PRELOAD=str(clock_library()),
                                                   DRV_CLOCK_JUMP=str(self.clocks[name]))
        self._stack.enter_context(self.scene)

    def _make_images(self, workdir):
        for name in ("source", "dest"):
            self.images[name] = disks.make(workdir / f"{name}.img", DISK_SIZE)
        disks.fill(self.images["source"], DISK_SIZE // 2, DISK_DATA)
        self.untouched = flatdisk.read_raw(self.images["source"])

    def _begin(self):
        """Up to the state; returns the command, in the background."""
        self.settings = settings(self.scene.source)
        slow = ("--bandwidth", "1M") if self.where in BACK else ()
        move = self.scene.migrate(*MODES[self.mode].options, "--drop-timeout", self.fault.drop_timeout,
                                  *slow)
        if self.where in BACK:
            job = self.scene.a.wait_job("copying")
            self.scene.b.wait_job("copying")
            self._stack.enter_context(self.scene.a.running("cancel", job["job"]))
        return move

    def run(self):
        """Returns the Outcome; an AssertionError or TimeoutError says what does not hold."""
        workdir = pathlib.Path(tempfile.mkdtemp(prefix="drv-"))
        try:
            with self._stack:
                self._build(workdir)
                return self._run()
        finally:
            shutil.rmtree(workdir, ignore_errors=True)

    def run_in(self, scene, images, untouched):
        """The same in a scene that stands already; its daemons are held as the cell needs it, and
        its guest has a disk: the same image at both ends where it is on shared storage."""
        self.scene, self.images, self.untouched = scene, images, untouched
        with self._stack:
            return self._run()

    def _run(self):
        move = self._begin()
        held = self.scene.a if self.where.startswith("source") else self.scene.b
        held.wait_held()
        self.fault.strike(self)
        stopped_itself = held.alive() and self.fault.name != (
            "source daemon stopped" if held is self.scene.a else "dest daemon stopped")
        if stopped_itself:
            held.go_on()
        if self.fault.lasts == "pause":
            rest(self.pause)
        if self.fault.lasts == "death":
            daemon = getattr(self.scene, self.fault.needs_disk)
            wait_until(lambda: not daemon.alive() or move.process.poll() is not None,
                       "the daemon to notice")
        if self.fault.lasts != "verdict":
            self.fault.end(self)
        result = move.wait(120)
        if self.fault.lasts == "verdict":
            assert result.status != 3 or self._place() != "source", "it runs, though in doubt"
            self.fault.end(self)
        return self._judge(result)

    # ---- what must hold ----

    def _settle(self, doubt):
        """Both ends come to an end, by a person's word where nothing else does it."""
        resolved = []

        def over():
            jobs = [j for d in (self.scene.a, self.scene.b) for j in d.jobs()]
            return all(j["final"] for j in jobs) and jobs

        try:
            wait_until(over, "the jobs to be over")
        except TimeoutError:
            self._resolve(resolved)
            wait_until(over, f"the jobs to be over {resolved}" + self.scene.said())
        assert not resolved or doubt, f"{resolved}, though nobody was told" + self.scene.said()

    def _resolve(self, resolved):
        """As somebody does who has looked where the guest runs."""
        side = "dest" if self._runs(self.scene.dest) else "source"
        for d in (self.scene.b, self.scene.a):
            job = d.job()
            if job and job["state"] == "in-doubt":
                done = d.drover("resolve", job["job"], "--run-on", side)
                resolved.append((d.name, side, done.status, done.stderr))

    @staticmethod
    def _runs(machine):
        try:
            return machine.process.poll() is None and machine.running()
        except (OSError, QmpGone):
            return False  # it was about to quit

    def _place(self):
        runs = [name for name in ("source", "dest") if self._runs(getattr(self.scene, name))]
        assert len(runs) <= 1, "the guest runs twice" + self.scene.said()
        return runs[0] if runs else "nowhere"

    def _judge(self, result):
        doubt = result.status == 3
        self._settle(doubt)
        place = self._place()
        fault = self.fault
        assert place in allowed(self.where, fault), \
            f"the guest runs at '{place}', status {result.status}: {result.stderr}" + \
            self.scene.said()
        assert place != "nowhere" or killed(fault.name), "nobody killed it" + self._qemus() + \
            self.scene.said()
        self._check_report(result, place)
        self._check_guest(place)
        self._check_nothing_left(place)
        return Outcome(place, result.status, doubt, 0)

    def _qemus(self):
        """What became of them."""
        machines = {"source": self.scene.source, "dest": self.scene.dest}
        return "".join(f"\n--- the {name}'s QEMU (ended: {machine.process.poll()}): {machine.said()}"
                       for name, machine in machines.items())

    def _check_report(self, result, place):
        """The status says where the guest is, and the report what has happened."""
        lines = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
        if result.status == 0:
            assert place == "dest" or killed(self.fault.name) == "dest", result
        elif result.status in (1, 4):
            assert place == "source" or killed(self.fault.name) == "source", result
        assert result.status in (0, 1, 3, 4), result
        assert result.status == 0 or (lines and "(null)" not in lines[-1]), result
        assert result.status != 3 or "drover resolve" in lines[-1], result
        assert result.status == 0 or SAYS.get((self.where, self.fault.name), "") in lines[-1], result
        job = self.scene.a.job()
        assert job["state"] in {"dest": ("done",), "source": ("failed", "cancelled")}.get(
            place, ("done", "failed", "cancelled")), job
        assert job["state"] == "done" or job["error"]["message"], job
        report = result.json
        states = {0: "completed", 1: "failed", 3: "in-doubt", 4: "cancelled"}
        assert report["state"] == states[result.status], report
        assert (report["error"] is None) == (result.status == 0), report
        # A jumping clock must not show in them.
        assert 0 <= report["downtime_ms"] <= report["total_ms"] < 600_000, report

    def _check_guest(self, place):
        if place == "nowhere":
            return
        machine = getattr(self.scene, place)
        machine.console.wait_beats(5)
        if place == "source":
            now = settings(machine)
            assert now == self.settings, f"its QEMU's settings are {now}, were {self.settings}"
        if place == "source" or not machine.loses_hot_pages():
            verdict = memory.check_pages(machine)
            assert verdict["sound"], verdict
        assert free(machine.drover_qmp), "its QMP socket is not free"
        if self.images:
            self._check_disk(machine, place)
        if place == "source" and self.mode == "waits":
            self._check_mirrors(machine)

    def _check_disk(self, machine, place):
        """Of the machine it runs on; where it has moved, what it left behind must fit."""
        flatdisk.wait_writes(machine, 16)
        moved = place == "dest" and self.images["source"] != self.images["dest"]
        other = self.images["source"] if moved else None
        words = flatdisk.check(machine, self.images[place], self.untouched, other)
        assert words == "", words + self.scene.said()
        assert not machine.console.said(b"disk failed"), "a write of the guest's failed"
        nodes = [node["node-name"] for node in machine.qmp.command("query-named-block-nodes")]
        left = [name for name in nodes if name.startswith("drover")]
        left += machine.qmp.command("query-block-jobs") + machine.qmp.command("query-block-exports")
        assert left == [], f"its QEMU still has {left}"

    def _check_mirrors(self, machine):
        """QEMU must not be told to end a mirror while one of the guest's writes waits for it: it may
        die of that, though seldom at once (docs/qemu-notes.md). So the guest stood still then."""
        still = False
        for event in machine.qmp.events:
            if event["event"] in ("STOP", "RESUME"):
                still = event["event"] == "STOP"
            ended = event["event"] in ("BLOCK_JOB_CANCELLED", "BLOCK_JOB_COMPLETED")
            assert still or not ended, f"the guest ran when its mirror ended: {machine.qmp.events}"

    def _check_nothing_left(self, place):
        scene = self.scene
        if place == "dest":
            scene.source.wait_exit()
        elif scene.dest.process.poll() is None and self.where not in UNTOUCHED:
            scene.dest.wait_exit()
        for name in ("source", "dest"):
            # drover itself kills a destination that hangs and has nothing to lose.
            machine = getattr(scene, name)
            ended = machine.process.poll() or 0
            assert ended >= 0 or ended == -signal.SIGKILL, \
                f"the {name}'s QEMU died of signal {-ended}: {machine.said()}"
        assert place == "dest" or not scene.dest.console.beats or \
            killed(self.fault.name) == "dest", "it has run at the destination"
        for d in (scene.a, scene.b):
            wait_until(lambda d=d: not d.sockets_left(), f"{d.name} to tidy up")
            left = [p.name for p in d.state.iterdir() if not p.name.startswith(IN_STATE_DIR)]
            assert left == [], f"{d.name} has left {left}"


def all_cells():
    """(where, fault, mode), those that can be made here."""
    names = [name for name, fault in FAULTS.items() if not (fault.needs_disk and disk_problem())]
    return [(where, name, mode) for mode in MODES for where in MODES[mode].states for name in names]


def own_daemon_killed():
    """The daemon that has just entered the state dies."""
    return [(where, f"{where.split(':')[0]} daemon killed", "direct") for where in BEFORE + AFTER]


def fast_cells():
    """Each state and each fault in some mode; what matters most; and what has gone wrong before."""
    names = list(FAULTS)
    modes = [mode for mode in MODES if MODES[mode].states == STATES]
    cells = [(STATES[i % len(STATES)], names[i % len(names)], modes[i // 2 % len(modes)])
             for i in range(len(names))]
    cells += own_daemon_killed()
    cells += [(*cell, "relay") for cell in SAYS]
    cells += [("dest:preparing", "source QEMU killed", "relay"),
              ("dest:copying", "source QEMU killed", "direct"),
              ("source:loaded", "source QEMU killed", "relay"),
              ("source:committed", "link cut for long", "direct"),
              (HELD_UP, "link cut for long", "waits")]
    possible = set(all_cells())
    return [cell for cell in dict.fromkeys(cells) if cell in possible]
