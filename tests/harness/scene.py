# SPDX-License-Identifier: Apache-2.0
"""A migration that is about to go wrong: two daemons, two machines, and what must hold afterwards.

    with Scene(workdir, qemu) as scene:
        scene.a.hold("source:committed")          # stops itself there (needs -Dtest_hooks=true)
        move = scene.migrate()
        scene.a.wait_held()
        scene.a.crash_and_restart()
        assert move.wait().status == 0
        scene.check_runs_at_dest()
"""
import json
import os
import pathlib
import signal
import socket
import time

from . import daemon, memory
from .qemu import Guest, Machine, kvm_problem, oldest
from .qmp import Qmp, QmpError, QmpGone
from .relay import Relay

GUEST = Guest(memory=64, pages=1024, params="hz=1000 rate=10 beat=20")


def _sound(binary):
    """GUEST where its memory can be held against what it wrote: the oldest QEMU loses writes
    under TCG (Machine.loses_hot_pages)."""
    return GUEST.variant(accel="kvm") if binary == oldest() and not kvm_problem() else GUEST


def wait_until(condition, what, timeout=60):
    """Looks again and again until condition() gives something true, which is returned."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.01)


def process_state(pid):
    """The letter of /proc/PID/stat; '' when there is no such process."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


class FaultyDaemon(daemon.Daemon):
    """A droverd that can be made to stop, to die and to come back."""

    def hold(self, where):
        """From its next start on it stops (SIGSTOP) when a job has entered ROLE:STATE."""
        self._prefix = ("env", f"DROVER_TEST_STOP={where}")
        return self

    def with_env(self, **env):
        """From its next start on."""
        self._env = {**self._env, **env}
        return self

    def wait_held(self):
        wait_until(lambda: process_state(self.pid) == "T", f"droverd {self.name} to stop itself",
                   120)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process_state(self.pid) == "T", "SIGSTOP to work")

    def crash_and_restart(self):
        self.kill()
        self._prefix = ()
        self.start()

    def jobs(self):
        return json.loads(self.drover("jobs", "--json").stdout)["jobs"]

    def job(self, role=None):
        """Its newest job, or None."""
        jobs = [j for j in self.jobs() if role in (None, j["role"])]
        return jobs[0] if jobs else None

    def wait_job(self, *states, timeout=60):
        """Waits until its newest job is in one of the states; returns it."""
        last = []

        def there():
            last[:] = [self.job()]
            return last[0] and last[0]["state"] in states and last[0]

        try:
            return wait_until(there, states, timeout)
        except TimeoutError:
            raise TimeoutError(f"{self.name}'s job is not {states} but {last[0]}; it said: "
                               f"{self.said()}") from None

    def sockets_left(self):
        """What nobody needs any more when no job is active."""
        return [p.name for p in self.state.iterdir() if p.suffix in (".in", ".out", ".nbd")]


def free(path):
    """Whether a QMP socket serves a client at once: QEMU has one at a time."""
    try:
        Qmp(path, timeout=20).close()
        return True
    except (OSError, QmpGone, TimeoutError):
        return False


class Scene:
    def __init__(self, workdir, binary, guest=None, dest_binary=None, dest_guest=None, relay=False,
                 config=None, hold=None, pki=None, machines=True):
        """hold: 'source:STATE' or 'dest:STATE'; the daemon of that role stops itself there.
        config: the text of the source daemon's configuration file."""
        self.workdir, self.binary, self.guest = workdir, binary, guest or _sound(binary)
        self.dest_binary, self.dest_guest = dest_binary or binary, dest_guest or self.guest
        self._open = []
        self._relayed, self._with_machines = relay, machines
        self.source = self.dest = self.relay = None
        pki = pki or daemon.make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1,localhost")
        path = None
        if config:
            path = workdir / "a.conf"
            path.write_text(config)
        self.a = FaultyDaemon(workdir, "a", pki / "a", config=path)
        self.b = FaultyDaemon(workdir, "b", pki / "b")
        if hold:
            (self.a if hold.startswith("source") else self.b).hold(hold)

    def _enter(self, what):
        self._open.append(what)
        what.__enter__()
        return what

    def __enter__(self):
        try:
            if self._with_machines:
                self.source = self._enter(Machine(self.binary, self.guest, name="src"))
                self.dest = self._enter(Machine(self.dest_binary, self.dest_guest, incoming=True,
                                                name="dst"))
            self._enter(self.a)
            self._enter(self.b)
            if self._relayed:
                self.relay = self._enter(Relay("127.0.0.1", int(self.b.address.rsplit(":")[-1])))
            if self.source:
                self.source.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        while self._open:
            self._open.pop().__exit__(None, None, None)

    @property
    def to(self):
        return self.relay.address if self.relay else self.b.address

    def _words(self, args, given):
        qmp = given.get("qmp", self.source and self.source.drover_qmp)
        dest_qmp = given.get("dest_qmp", self.dest and self.dest.drover_qmp)
        return ("migrate", "--qmp", qmp, "--to", given.get("to", self.to), "--dest-qmp", dest_qmp,
                "--json", *args)

    def migrate(self, *args, **given):
        """Begins it; returns the command in the background."""
        move = self.a.running(*self._words(args, given))
        self._open.append(move)
        return move

    def try_migrate(self, *args, timeout=120, **given):
        """Runs it to its end."""
        return self.a.drover(*self._words(args, given), timeout=timeout)

    def successor(self, path, incoming=False):
        """Another machine, which has taken over the QMP socket of one that is gone."""
        machine = Machine(self.binary, self.guest, incoming=incoming, name="other")
        pathlib.Path(path).unlink(missing_ok=True)
        pathlib.Path(machine.drover_qmp).rename(path)
        return machine

    # ---- what must hold ----

    def said(self):
        return f"\n--- a: {self.a.said()}\n--- b: {self.b.said()}"

    def check_runs_at_source(self, dest_gone=True):
        """The guest goes on at the source, whole; the destination's QEMU is gone or still waits."""
        assert self.source.running(), f"it is '{self.source.status()}' at the source" + self.said()
        self.source.console.wait_beats(5)
        verdict = memory.check_pages(self.source)
        assert verdict["sound"], verdict
        if dest_gone:
            self.dest.wait_exit()
        elif self.dest.process.poll() is None:
            assert not self.dest.running(), "it runs at the destination, too"
        assert not self.dest.console.beats, "it has run at the destination"
        assert free(self.source.drover_qmp), "the source's QMP socket is not free"
        self._check_nothing_left()

    def check_runs_at_dest(self, source_gone=True):
        """The guest goes on at the destination, whole; the source's QEMU has quit or is stopped."""
        wait_until(self.dest.running, "the guest to run at the destination" + self.said())
        self.dest.console.wait_beats(5)
        if source_gone:
            self.source.wait_exit()
            verdict = memory.check_pages(self.dest)
            assert verdict["sound"], verdict
        else:
            assert not self.source.running(), "it runs at the source, too"
            unexplained, verdict, _ = memory.compare_after_run(self.source, self.dest)
            assert unexplained == [] and verdict["sound"], verdict
        assert free(self.dest.drover_qmp), "the destination's QMP socket is not free"
        self._check_nothing_left()

    def _check_nothing_left(self):
        for d in (self.a, self.b):
            if d.alive():
                wait_until(lambda d=d: not d.sockets_left(), f"{d.name} to tidy up")


def one_sentence(result, status, *words):
    """The contract of every failure: its status, one line on stderr at the end, that names things."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("drover: ")]
    assert result.status == status, f"status {result.status}: {result.stderr}"
    assert lines, f"no sentence but: {result.stderr!r}"
    last = lines[-1]
    assert not last.endswith("."), last
    assert "(null)" not in last and "\n" not in last, last
    for word in words:
        assert word in last, f"{word!r} is not in {last!r}"
    return last
