# SPDX-License-Identifier: Apache-2.0
"""Much at once, and much one after the other: nothing leaks, nobody is forgotten."""
import http.client
import json
import os
import pathlib
import re
import socket
import sqlite3
import time

import pytest

from conftest import QEMU_VERSIONS, binary
from harness.daemon import Daemon, make_pki
from harness.qemu import Guest, Machine
from harness.scene import wait_until

SMALL = Guest(memory=32, pages=64, params="hz=100 rate=1 beat=20")
KIB = 1024


class Api(http.client.HTTPConnection):
    """droverd's API, without a command for each request."""

    def __init__(self, path):
        super().__init__("localhost")
        self._path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)

    def ask(self, method, path, body=None):
        self.close()  # the API ends a connection that has been idle
        self.request(method, path, json.dumps(body) if body else None,
                     {"Content-Type": "application/json"} if body else {})
        answer = self.getresponse()
        data = json.loads(answer.read())
        assert answer.status < 300, data
        return data


class Hosts:
    """Two daemons and their APIs."""

    def __init__(self, workdir):
        pki = make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1")
        self.a, self.b = (Daemon(workdir, name, pki / name) for name in "ab")

    def __enter__(self):
        self.a.start()
        self.b.start()
        self.apis = [Api(self.a.api), Api(self.b.api)]
        return self

    def __exit__(self, *_):
        for what in (*self.apis, self.a, self.b):
            what.close()

    def begin(self, source, dest_qmp, to=None):
        return self.apis[0].ask("POST", "/v1/migrate",
                                {"qmp": source, "to": to or self.b.address,
                                 "dest_qmp": str(dest_qmp)})["job"]

    def wait_over(self, job):
        return wait_until(lambda: (lambda j: j if j["final"] else None)(
            self.apis[0].ask("GET", f"/v1/jobs/{job}")), f"job {job} to end", 120)


def holdings(daemon):
    """(KiB of memory of its own, open files) of a daemon."""
    proc = pathlib.Path(f"/proc/{daemon.pid}")
    rollup = (proc / "smaps_rollup").read_text()
    anonymous = int(re.search(r"^Anonymous:\s+(\d+) kB", rollup, re.M)[1])
    return anonymous, len(os.listdir(proc / "fd"))


def wakeups(daemon):
    """How often its threads have waited for something and were woken, so far."""
    tasks = pathlib.Path(f"/proc/{daemon.pid}/task").iterdir()
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(),
                             re.M)[1]) for task in tasks)


def fill_journal(daemon, count, spec="{}"):
    """With finished jobs, while the daemon is not running."""
    journal = sqlite3.connect(daemon.state / "journal.db")
    now = time.time_ns() // 1000
    with journal:
        journal.executemany(
            "INSERT INTO jobs (id, role, state, created_us, updated_us, spec, vm, peer, detail, "
            "error_class, error_message, result, active) VALUES "
            "(?, 'source', 'done', ?, ?, ?, 'vm', 'b', '{}', NULL, NULL, '{}', 0)",
            [(f"old-{i}", now + i, now + i, spec) for i in range(count)])
    journal.close()


@pytest.mark.slow
def test_a_thousand_jobs_leave_nothing_behind(workdir):
    """They fail, in different places. Memory and descriptors stay flat."""
    qemu = binary(QEMU_VERSIONS[-1])
    with Hosts(workdir) as hosts, Machine(qemu, SMALL, name="src") as source:
        source.wait_ready()
        daemons = (hosts.a, hosts.b)
        for d, api in zip(daemons, hosts.apis):  # the journal's cache is full from the beginning
            d.stop()
            fill_journal(d, 1000, spec=json.dumps({"x": "x" * 4096}))
            d.start()
            api.ask("GET", "/v1/jobs?limit=1000")
        ways = [(source.drover_qmp, workdir / "nobody.qmp", None),       # the destination refuses
                (str(workdir / "nobody.qmp"), "/nobody", None),          # no such source
                (source.drover_qmp, "/nobody", "127.0.0.1:1")]           # no such destination

        def run(count):
            for i in range(count):
                qmp, dest, to = ways[i % 3]
                job = hosts.begin(qmp, dest, to)
                assert hosts.wait_over(job)["state"] == "failed"

        held = []
        for _ in range(4):
            run(250)
            held.append([holdings(d) for d in daemons])
        print(f"\nKiB and descriptors of each daemon, each 250 jobs: {held}")
        for which in range(2):
            memory, files = zip(*(now[which] for now in held))
            assert files[3] <= files[0] + 2, held
            # What listing the journal took is given back some time; then nothing more is taken.
            assert memory[3] - min(memory[:3]) < 256, held
        assert source.running()


@pytest.mark.slow
def test_sixteen_at_once(workdir):
    """Between the same two daemons, over one session: all arrive, and each its own."""
    qemu = binary(QEMU_VERSIONS[-1])
    pairs = []
    with Hosts(workdir) as hosts:
        try:
            for i in range(16):
                guest = SMALL.variant(start=SMALL.start + i * 0x10000)
                pairs.append((Machine(qemu, guest, name=f"s{i}"),
                              Machine(qemu, guest, incoming=True, name=f"d{i}")))
            for source, _ in pairs:
                source.wait_ready()
            jobs = [hosts.begin(source.drover_qmp, dest.drover_qmp) for source, dest in pairs]
            ended = [hosts.wait_over(job) for job in jobs]
            assert [job["state"] for job in ended] == ["done"] * 16, ended
            for source, dest in pairs:
                dest.console.wait_beats(3)
                source.wait_exit(20)
                assert dest.console.beats[0][1] >= source.counter()
        finally:
            for machine in (m for pair in pairs for m in pair):
                machine.close()


SESSIONS, LANES = 12, 4   # as many lanes as one host may have


@pytest.mark.slow
def test_idle_sessions(workdir):
    """Twelve sessions between two daemons, by as many addresses of one: what an idle lane takes is a
    descriptor, some memory, and a sign of life each second."""
    addresses = [f"127.0.0.{i + 1}" for i in range(SESSIONS)]
    pki = make_pki(workdir / "pki", "a=127.0.0.1", "b=" + ",".join(addresses))
    config = workdir / "a.conf"
    config.write_text(f"[transfer]\nlanes = {LANES}\n")
    with Daemon(workdir, "a", pki / "a", config=config) as a, \
            Daemon(workdir, "b", pki / "b", listen="0.0.0.0:0") as b:
        before = [holdings(d) for d in (a, b)]
        port = b.address.rsplit(":", 1)[1]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(workdir / "there"))
            listener.listen(1)
            api = Api(a.api)
            jobs = []
            for i, address in enumerate(addresses):  # one by one: so many at once are refused
                jobs.append(api.ask("POST", "/v1/tunnels",
                                    {"listen": str(workdir / f"here{i}"), "to": f"{address}:{port}",
                                     "connect": str(workdir / "there")})["job"])
                wait_until(lambda: api.ask("GET", f"/v1/jobs/{jobs[-1]}")["state"] == "copying",
                           f"tunnel {i} to serve", 60)

            def lanes(daemon):
                return holdings(daemon)[1] - before[0 if daemon is a else 1][1]

            wait_until(lambda: lanes(b) >= SESSIONS * LANES, "the lanes", 120)
            begun, first = time.monotonic(), [wakeups(d) for d in (a, b)]
            wait_until(lambda: time.monotonic() - begun > 5, "some time to pass")
            seconds = time.monotonic() - begun
            each = [(wakeups(d) - f) / seconds / (SESSIONS * LANES) for d, f in zip((a, b), first)]
            now = [holdings(d) for d in (a, b)]
            memory = [(n[0] - was[0]) / (SESSIONS * LANES) for n, was in zip(now, before)]
            print(f"\nan idle lane, at each end: {memory[0]:.0f} and {memory[1]:.0f} KiB, woken "
                  f"{each[0]:.1f} and {each[1]:.1f} times a second")
            for job in jobs:
                api.ask("POST", f"/v1/jobs/{job}/cancel")
        # A listening socket for each tunnel at the one end.
        assert [n[1] - was[1] <= SESSIONS * (LANES + 2) for n, was in zip(now, before)] == [True] * 2, now
        assert max(memory) < 512, memory
        assert max(each) < 6, each
        wait_until(lambda: max(lanes(d) for d in (a, b)) < 16, "the lanes to be gone", 60)


def test_ten_thousand_finished_jobs(workdir):
    """The journal keeps so many; listing them asks for no more than it shows."""
    with Hosts(workdir) as hosts:
        hosts.a.stop()
        fill_journal(hosts.a, 10_000)
        began = time.monotonic()
        hosts.a.start()
        started = time.monotonic() - began
        times = []
        for limit in (50, 50, 50, 1000):
            began = time.monotonic()
            jobs = json.loads(hosts.a.drover("jobs", "--json", "--limit", str(limit)).stdout)["jobs"]
            times.append(f"{limit}: {(time.monotonic() - began) * 1000:.0f} ms")
            assert [job["job"] for job in jobs] == [f"old-{i}" for i in
                                                    range(9_999, 9_999 - limit, -1)]
        print(f"\nready in {started * 1000:.0f} ms; 'drover jobs' of 10,000, by limit: {times}")
