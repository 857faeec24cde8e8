# SPDX-License-Identifier: Apache-2.0
"""What 'drover migrate' says while it goes on: for people, for logs, and for scripts."""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios

import pytest

from harness import qemu
from harness.daemon import command_line
from harness.handover import Hosts, arguments, check_report
from harness.native import set_parameters
from harness.qemu import MIB, Guest, Machine
from harness.scene import wait_until

# Takes some seconds at this rate, whatever the machine.
GUEST = Guest(mode="idle", params="hz=100 beat=1 body=random", pages=4096)
SLOW = ("--bandwidth", 5 * MIB)
CLEAR = "\x1b[K"


@contextlib.contextmanager
def scene(workdir, pki):
    version = qemu.newest()
    with Machine(version, GUEST, name="src") as source, \
            Machine(version, GUEST, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        yield hosts, source, dest


def plain(source, dest, hosts, *options):
    return [word for word in arguments(source, dest, hosts.b.address, "--keep-source", *options)
            if word != "--json"]


def test_a_line_a_second_where_there_is_no_terminal(workdir, pki):
    with scene(workdir, pki) as (hosts, source, dest):
        result = hosts.a.drover(*arguments(source, dest, hosts.b.address, *SLOW))
    assert result.status == 0, result
    # The contract: the last line of stdout is the object, and stdout holds nothing else.
    assert len(result.stdout.splitlines()) == 1
    check_report(json.loads(result.stdout), GUEST)
    assert "\x1b" not in result.stderr and "\r" not in result.stderr
    lines = result.stderr.splitlines()
    states = [line.split()[0] for line in lines]
    order = ["queued", "preparing", "copying", "switchover", "loaded", "committed", "running",
             "done"]
    assert states == sorted(states, key=order.index), "states came out of order"
    copying = [line for line in lines if line.startswith("copying")]
    # One at the change of state, then one for each further second; never more.
    seconds = result.json["total_ms"] / 1000
    assert 3 <= len(copying) <= seconds + 2, lines
    percents = [float(m[1]) for m in (re.search(r"([\d.]+)%", line) for line in copying) if m]
    assert len(percents) >= 2 and percents == sorted(percents) and percents[-1] > percents[0]
    assert re.search(r"round \d+ .*MiB/s .*MiB/s wire .*MiB/s dirty .* left", copying[-1]), copying


def run_on_terminal(argv, columns):
    """Runs it with a terminal as its stderr; returns (status, stdout, what the terminal got)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    got = b""
    with contextlib.suppress(OSError):  # EIO: the last user of the terminal has gone
        while True:
            assert select.select([master], [], [], 60)[0], f"drover shows nothing for 60 s: {got}"
            more = os.read(master, 4096)
            if not more:
                break
            got += more
    os.close(master)
    stdout = process.stdout.read().decode()
    return process.wait(30), stdout, got.decode()


@pytest.mark.parametrize("columns", (pytest.param(200, marks=pytest.mark.slow), 40))
def test_one_live_line_on_a_terminal(workdir, pki, columns):
    with scene(workdir, pki) as (hosts, source, dest):
        argv = command_line(*plain(source, dest, hosts, *SLOW), api=hosts.a.api)
        status, stdout, screen = run_on_terminal(argv, columns)
    assert status == 0, screen
    # Every drawing begins at the left margin, clears what was there, and never wraps.
    drawn = screen.split("\r")[1:]
    assert len(drawn) >= 10 and "\n" not in screen
    assert all(text.endswith(CLEAR) for text in drawn)
    assert max(len(text.removesuffix(CLEAR)) for text in drawn) < columns
    assert any(text.startswith("copying") and "%" in text for text in drawn)
    assert drawn[-1] == CLEAR, "the line was not cleared for what follows"
    # What it came to stands on stdout, where it remains.
    assert re.match(r"src now runs at b \(.*\): it moved in .*, and was down for \S+", stdout), stdout
    assert "(300 ms were allowed: kept)" in stdout or "BROKEN)" in stdout
    assert re.search(r"MiB of memory as .*MiB on the wire", stdout)
    assert "stream verified" in stdout


def test_another_can_watch(workdir, pki):
    """'watch' at both ends, begun while it goes on, ends with it and with its status."""
    with scene(workdir, pki) as (hosts, source, dest), \
            hosts.a.running(*arguments(source, dest, hosts.b.address, *SLOW)) as move:
        move.wait_output("copying .*%")
        with hosts.a.running("watch", "--json") as here, hosts.b.running("watch") as there:
            shown = hosts.a.drover("jobs", "--json").json["jobs"][0]
            progress = shown["progress"]
            assert shown["state"] == "copying" and 0 < progress["percent"] < 100
            assert progress["connected"] and progress["lanes"] >= 1 and progress["round"] >= 1
            assert 0 < progress["remaining"] <= progress["total"]
            watched, watched_there, moved = here.wait(), there.wait(), move.wait()
    assert (watched.status, watched_there.status, moved.status) == (0, 0, 0)
    assert watched.json == moved.json


def test_it_goes_on_without_its_command(workdir, pki):
    """The job is the daemon's: whoever asked for it may leave."""
    with scene(workdir, pki) as (hosts, source, dest):
        with hosts.a.running(*arguments(source, dest, hosts.b.address, *SLOW)) as move:
            move.wait_output("copying .*%")
            move.process.kill()
        result = hosts.a.drover("watch", "--json")
        assert result.status == 0, result
        check_report(result.json, GUEST)
        assert dest.running() and source.wait_exit() == 0


def jobs(hosts):
    return hosts.a.drover("jobs", "--json").json["jobs"]


def test_where_the_guest_writes(workdir, pki):
    """While it goes on, and afterwards."""
    guest = Guest(mode="sparse", pages=2048, params="hz=1000 rate=20 beat=20 body=random")
    with Machine(qemu.newest(), guest, name="src") as source, \
            Machine(qemu.newest(), guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        with hosts.a.running(*arguments(source, dest, hosts.b.address, "--mode", "direct",
                                        "--bandwidth", 24 * MIB, "--downtime", 1)) as move:
            seen = wait_until(lambda: [job["progress"] for job in jobs(hosts)
                                       if (job["progress"] or {}).get("hot_regions")],
                              "a round to be over")[0]
            set_parameters(source, downtime_limit=5000)
            assert move.wait().status == 0
        shown = hosts.a.drover("show", jobs(hosts)[0]["job"]).stdout
    assert seen["working_set"] > 0 and 1 <= len(seen["hot_regions"]) <= 3
    assert seen["hot_regions"][0]["block"] == "pc.ram"
    assert re.search(r"^round 1 .* a second were written to$", shown, re.M), shown
    assert re.search(r"^written most +pc\.ram, 2\.0 MiB from 0x\w+ on: \d+ pages in \d+ rounds$", shown,
                     re.M), shown
