# SPDX-License-Identifier: Apache-2.0
"""A migration through two droverds that must succeed, and everything that must then be true.

The destination's daemon stops itself (DROVER_TEST_STOP, see daemon.py) when it has been told to
start the guest and has not done so yet. There both machines stand still with the guest as it was
handed over, and their memory is compared byte for byte.
"""
import contextlib
import copy
import time

from . import memory
from .daemon import Daemon, make_pki
from .link import ADDRESSES
from .qmp import Qmp

HOLD = {"DROVER_TEST_STOP": "dest:committed"}
# A daemon that is held is silent. After so many seconds the other one takes its connections for
# broken; on a busy machine it takes longer to compare the memories.
SILENCE = 4

# The contract's object: name → what its value must be like.
NUMBER = (int, float)
REPORT = {
    "job": str, "vm": str, "state": str, "error": type(None), "mode": str, "accel": str,
    "total_ms": NUMBER, "downtime_ms": NUMBER, "rounds": int, "lanes": int, "reconnects": int,
    "ram": {"bytes": int, "wire_bytes": int,
            "pages": {kind: int for kind in ("zero", "dup", "delta", "lz4", "zstd", "raw")}},
    "disk": {"bytes": int, "wire_bytes": int, "zero_bytes": int},
    "cpu_s": {"source": NUMBER, "dest": NUMBER},
    "throttle_pct": NUMBER, "verify": {"stream": str, "memory": str},
}


def make_hosts_pki(directory):
    """Certificates for hosts a and b, on loopback and at the ends of a Link."""
    return make_pki(directory, *(f"{name}=127.0.0.1,{address}"
                                 for name, address in zip("ab", ADDRESSES)))


class Hosts:
    """Two daemons, a and b. hold: each stops itself before it starts a guest that came to it;
    hold_source: a stops itself there, 'source:STATE', instead."""

    def __init__(self, workdir, pki, hold=True, link=None, config=None, prefixes=((), ()), env=None,
                 hold_source=None):
        env = {**(HOLD if hold else {}), **(env or {})}
        envs = [{**env, "DROVER_TEST_STOP": hold_source} if hold_source else env, env]
        self.hold = hold
        self._stack = contextlib.ExitStack()
        self.daemons = []
        for i, name in enumerate("ab"):
            where = {"listen": f"{link.hosts[i].address}:7000",
                     "prefix": link.hosts[i].prefix} if link else {"prefix": prefixes[i]}
            self.daemons.append(Daemon(workdir, name, pki / name, env=envs[i], config=config, **where))
        self.a, self.b = self.daemons

    def swapped(self):
        """The same two, for a migration the other way."""
        other = copy.copy(self)
        other.a, other.b = self.b, self.a
        return other

    def __enter__(self):
        for daemon in self.daemons:
            self._stack.enter_context(daemon)
        return self

    def __exit__(self, *_):
        self._stack.close()


def arguments(source, dest, to, *options):
    return ("migrate", "--qmp", source.drover_qmp, "--to", to, "--dest-qmp", dest.drover_qmp,
            "--json", *options)


def check_members(value, shape, where="report"):
    """That the object has every member of the contract, of the right kind."""
    for name, kind in shape.items():
        assert name in value, f"{where} lacks '{name}': {value}"
        if isinstance(kind, dict):
            check_members(value[name], kind, f"{where}.{name}")
        else:
            assert isinstance(value[name], kind) and not isinstance(value[name], bool), \
                f"{where}.{name} is {value[name]!r}"


def check_report(report, guest, pages_seen=True):
    """A report of success, its figures sane for a guest of that size. pages_seen: drover could tell
    what of the stream is a page."""
    check_members(report, REPORT)
    assert (report["state"], report["accel"]) == ("completed", guest.accel)
    assert report["mode"] in ("relay", "direct")
    assert 0 <= report["downtime_ms"] <= report["total_ms"]
    assert report["rounds"] >= 2 and 1 <= report["lanes"] <= 16 and report["reconnects"] >= 0
    assert report["throttle_pct"] == 0
    ram, pages = report["ram"], report["ram"]["pages"]
    if pages_seen:
        # What QEMU sent as a page went through as a page, and every page was sent at least once.
        assert ram["bytes"] >= sum(pages[c] for c in ("lz4", "zstd", "raw")) * 4096 > 0
        assert sum(pages.values()) >= guest.memory * 256
    assert 0 < ram["wire_bytes"] < ram["bytes"] * 1.1 + 100_000 * (1 + report["reconnects"]) \
        + report["reconnects"] * 32 * 2 ** 20
    assert set(report["disk"].values()) == {0}
    assert all(seconds > 0 for seconds in report["cpu_s"].values())
    assert report["verify"]["memory"] == ("match" if "verify_ms" in report else "off")


def check_sockets_free(*machines):
    """Another client can have the QMP sockets that drover used: QEMU greets one at a time."""
    for machine in machines:
        client = Qmp(machine.drover_qmp, timeout=30)
        assert "status" in client.command("query-status")
        client.close()


def sockets_in(daemon):
    return [path for path in daemon.state.rglob("*") if path.is_socket()]


def check_jobs_agree(hosts, job):
    """Both daemons call the job done, and hold no socket for it any more."""
    for daemon, role in ((hosts.a, "source"), (hosts.b, "dest")):
        # Follows it to its end: the destination finishes after it has said that the guest runs.
        watched = daemon.drover("watch", job)
        assert watched.status == 0, watched.stderr
        shown = daemon.drover("show", job, "--json").json
        assert (shown["state"], shown["role"], shown["final"]) == ("done", role, True), shown
        listed = [j for j in daemon.drover("jobs", "--json").json["jobs"] if j["job"] == job]
        assert len(listed) == 1 and listed[0]["state"] == "done", listed
        assert sockets_in(daemon) == []
    return hosts.a.drover("show", job, "--json").json["result"]


# Each round costs a QEMU that loses pages some more of them (tests/README.md): with that many ms of
# downtime it takes two, however busy the machine is.
FEW_ROUNDS = 5000


def lost_by_qemu(pages, source):
    """Of pages that differ, those that an old QEMU under TCG may have lost by itself: the flat
    guest's stack, which it writes all the time, or as many of another guest's."""
    if not source.loses_hot_pages():
        return []
    if source.guest.kind == "flat":
        return [page for page in pages if page in memory.FLAT_PROGRAM]
    return pages[:2]


def check_held(source, dest):
    """Both machines stand still with one and the same memory, and the guest's own pages are whole.

    Returns the pages that QEMU itself has lost, where it does (tests/README.md).
    """
    assert (source.status(), dest.status()) == ("postmigrate", "paused")
    differing = memory.compare(source, dest)
    assert differing == lost_by_qemu(differing, source), f"pages that differ: {differing}"
    if source.guest.kind == "flat":
        verdict = memory.check_pages(dest)
        assert verdict["sound"], verdict
    return differing


def check_goes_on(source, dest, beats=10, lost=()):
    """The one guest that runs is the destination's, and it goes on counting where it stopped.

    lost: pages without which it may not get far, by no fault of drover's.
    """
    if not lost:
        try:
            dest.console.wait_beats(beats)
        except TimeoutError as e:
            raise TimeoutError(f"{e}; {dest.vcpus()}\n...\n{dest.vcpus()}") from None
    assert dest.running() and not source.running()
    # The counter is on the flat guest's stack, which such a QEMU may bring in an older state.
    if not source.loses_hot_pages():
        assert dest.console.beats[0][1] > source.counter(), "the guest's counter did not go on"
    if source.guest.kind == "linux":  # it checks its own memory
        assert not any(b"bad" in line for _, line in dest.console.lines)


class Handover:
    """One migration from hosts.a to hosts.b (or back), to be looked at in the middle."""

    def __init__(self, hosts, source, dest, *options, to=None):
        self.hosts, self.source, self.dest = hosts, source, dest
        self.command = hosts.a.running(*arguments(source, dest, to or hosts.b.address,
                                                  "--keep-source", *options))

    def wait_held(self, timeout=120):
        try:
            self.hosts.b.wait_held(timeout, lambda: self.command.process.poll() is not None)
        except TimeoutError as e:
            raise TimeoutError(f"{e}; the source says: {self.hosts.a.said()}") from None

    def finish(self, timeout=120):
        """Lets the destination go on and waits for the command's end; returns its report."""
        if self.hosts.hold:
            self.hosts.b.release()
        result = self.command.wait(timeout)
        assert result.status == 0, (result, self.hosts.a.said(), self.hosts.b.said())
        return result.json

    def close(self):
        self.command.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def migrate_exactly(hosts, source, dest, *options, to=None, during=None, pages_seen=True,
                    reconnects=None):
    """Migrates a running guest, checks all that must hold, and returns the report.

    during(handover) is called right after the migration has begun. reconnects: no more connections
    may be made anew.
    """
    if source.loses_hot_pages() and "--downtime" not in options:
        options += ("--downtime", FEW_ROUNDS)
    began = time.monotonic()
    with Handover(hosts, source, dest, *options, to=to) as move:
        if during:
            during(move)
        move.wait_held()
        held = time.monotonic()
        lost = check_held(source, dest)
        held = time.monotonic() - held
        report = move.finish()
    took_ms = (time.monotonic() - began) * 1000
    if reconnects is not None and held < SILENCE:
        assert report["reconnects"] <= reconnects
    check_report(report, source.guest, pages_seen)
    assert report["total_ms"] <= took_ms
    check_goes_on(source, dest, lost=lost)
    assert check_jobs_agree(hosts, report["job"]) == report
    check_sockets_free(source, dest)
    return report
