# SPDX-License-Identifier: Apache-2.0
"""Guests that have most of their memory in common, on their way from one host to another."""
import contextlib
import re

import pytest

from conftest import need_accel
from harness import qemu
from harness.handover import (Handover, Hosts, check_goes_on, check_held, check_jobs_agree,
                              check_report, migrate_exactly)
from harness.qemu import MIB, Guest, Machine
from harness.relay import Relay

# Every page has content of its own, which the other clones have as well.
IDLE = Guest(accel="kvm", memory=64, mode="idle", pages=6144, params="hz=100 beat=2 body=random")
WRITER = IDLE.variant(mode="sparse", params="hz=1000 rate=20 beat=20 body=random")
DIRECT = ("--mode", "direct", "--codec", "none")


class Family:
    """So many clones of a guest, each with the machine that it is to go to, and two hosts."""

    def __init__(self, workdir, pki, guest, count, **hosts):
        self._stack = contextlib.ExitStack()
        self._make = (workdir, pki, guest, count, hosts)

    def __enter__(self):
        workdir, pki, guest, count, hosts = self._make
        with contextlib.ExitStack() as stack:
            self.pairs = [tuple(stack.enter_context(Machine(qemu.newest(), guest, name=f"{name}{i}",
                                                            incoming=name == "dst"))
                                for name in ("src", "dst")) for i in range(count)]
            self.hosts = stack.enter_context(Hosts(workdir, pki, **hosts))
            for source, _ in self.pairs:
                source.wait_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def set_out(self, *options, pairs=None, to=None):
        """All of them at once; a Handover each, to be closed with the family."""
        return [self._stack.enter_context(Handover(self.hosts, *pair, *DIRECT, *options, to=to))
                for pair in pairs or self.pairs]

    def arrive(self, moves):
        """Sees each of them stand still at both ends with one memory, and lets it go on; reports.

        The daemon stops itself for each of them in turn, and with it whoever is still copying.
        """
        exact = set()
        for _ in moves:
            self.hosts.b.wait_held(60, lambda: any(m.command.process.poll() not in (None, 0)
                                                   for m in moves))
            for i, move in enumerate(moves):
                states = (move.source.status(), move.dest.status())
                if i not in exact and states == ("postmigrate", "paused"):
                    check_held(move.source, move.dest)
                    exact.add(i)
            self.hosts.b.release()
        assert exact == set(range(len(moves)))
        reports = []
        for move in moves:
            result = move.command.wait(60)
            assert result.status == 0, (result, self.hosts.a.said(), self.hosts.b.said())
            check_goes_on(move.source, move.dest)
            check_report(result.json, move.source.guest)
            assert result.json["mode"] == "direct"
            assert check_jobs_agree(self.hosts, result.json["job"]) == result.json
            reports.append(result.json)
        return reports


def alone(workdir, pki, guest, *options):
    """The bytes on the wire of one that shares with nobody."""
    with Family(workdir, pki, guest, 1) as family:
        report, = family.arrive(family.set_out("--dedup-memory", 0, *options))
    assert report["ram"]["shared_pages"] == 0
    return report["ram"]["wire_bytes"]


def share_of(reports, single):
    """What they took of the bytes that they would have taken each alone."""
    wire = [report["ram"]["wire_bytes"] for report in reports]
    ratio = sum(wire) / (single * len(reports))
    print(f"one alone: {single} bytes; together: {wire}, {ratio:.3f} of {len(reports)} alone; "
          f"pages shared: {[report['ram']['shared_pages'] for report in reports]}")
    return ratio


def test_together(workdir, pki):
    need_accel("kvm")
    single = alone(workdir, pki, IDLE)
    with Family(workdir, pki, IDLE, 4) as family:
        reports = family.arrive(family.set_out("--bandwidth", 20 * MIB))
    assert share_of(reports, single) <= 0.45


@pytest.mark.slow
def test_together_with_multifd(workdir, pki):
    """Two, as the buffers are not enough for the channels of more."""
    need_accel("kvm")
    single = alone(workdir, pki, IDLE, "--multifd", 2)
    with Family(workdir, pki, IDLE, 2) as family:
        reports = family.arrive(family.set_out("--multifd", 2, "--bandwidth", 20 * MIB))
    assert share_of(reports, single) <= 0.8


@pytest.mark.slow
def test_one_after_another(workdir, pki):
    """Who says how much is to be kept has followers in mind; the first keeps its pages for them."""
    need_accel("kvm")
    single = alone(workdir, pki, IDLE)
    with Family(workdir, pki, IDLE, 4) as family:
        reports = [family.arrive(family.set_out("--dedup-memory", "128M", pairs=[pair]))[0]
                   for pair in family.pairs]
    assert [report["ram"]["shared_pages"] > 5000 for report in reports] == [False] + 3 * [True]
    assert share_of(reports, single) <= 0.45


@pytest.mark.slow
def test_nothing_is_kept_of_one_alone(workdir, pki):
    """It is the second one whose pages are kept, and the third that has something of it."""
    need_accel("kvm")
    with Family(workdir, pki, IDLE, 3) as family:
        reports = [family.arrive(family.set_out(pairs=[pair]))[0] for pair in family.pairs]
    assert [report["ram"]["shared_pages"] > 5000 for report in reports] == [False, False, True]


@pytest.mark.slow
def test_writing(workdir, pki):
    """What is shared does not hide what each of them writes, before and meanwhile."""
    need_accel("kvm")
    with Family(workdir, pki, WRITER, 2) as family:
        reports = family.arrive(family.set_out("--bandwidth", 24 * MIB))
    assert all(report["ram"]["pages"]["delta"] > 0 for report in reports)


@pytest.mark.slow
def test_little_memory(workdir, pki, tmp_path):
    """Far less than they have in common: it helps those that are close to each other, or nobody."""
    need_accel("kvm")
    config = tmp_path / "little.conf"
    config.write_text("[migration]\ndedup-memory=1048576\n")
    with Family(workdir, pki, IDLE, 2, config=config) as family:
        family.arrive(family.set_out("--bandwidth", 24 * MIB))


@pytest.mark.slow
def test_switched_off_there(workdir, pki, tmp_path):
    need_accel("kvm")
    config = tmp_path / "off.conf"
    config.write_text("[migration]\ndedup-memory=0\n")
    with Family(workdir, pki, IDLE, 2, config=config) as family:
        reports = family.arrive(family.set_out())
    assert [report["ram"]["shared_pages"] for report in reports] == [0, 0]


@pytest.mark.slow
def test_a_broken_link(workdir, pki):
    need_accel("kvm")
    with Family(workdir, pki, IDLE, 3) as family, \
            Relay(*family.hosts.b.address.rsplit(":", 1)) as relay:
        moves = family.set_out("--bandwidth", 12 * MIB, to=relay.address)
        for part in (2, 4, 8, 12):
            relay.wait_bytes(part * MIB)
            relay.cut(reset=True)
            relay.restore()
        reports = family.arrive(moves)
    assert all(report["reconnects"] > 0 for report in reports)
    assert sum(report["ram"]["shared_pages"] for report in reports) > 5000


@pytest.mark.slow
def test_one_is_cancelled(workdir, pki):
    """The others arrive, also if they have followed it."""
    need_accel("kvm")
    with Family(workdir, pki, IDLE, 4) as family, \
            Relay(*family.hosts.b.address.rsplit(":", 1)) as relay:
        first, = family.set_out("--bandwidth", 4 * MIB, pairs=family.pairs[:1], to=relay.address)
        relay.wait_bytes(2 * MIB)
        others = family.set_out("--bandwidth", 12 * MIB, pairs=family.pairs[1:], to=relay.address)
        relay.wait_bytes(8 * MIB)
        job = re.search(r"job (\w+) \(source\)", family.hosts.a.said())[1]  # the first of all
        assert family.hosts.a.drover("cancel", job).status == 0
        reports = family.arrive(others)
        assert first.command.wait(60).status == 4
        assert first.source.running()
    assert sum(report["ram"]["shared_pages"] for report in reports) > 5000


@pytest.mark.slow
def test_one_loses_its_qemu(workdir, pki):
    need_accel("kvm")
    with Family(workdir, pki, IDLE, 4) as family, \
            Relay(*family.hosts.b.address.rsplit(":", 1)) as relay:
        moves = family.set_out("--bandwidth", 12 * MIB, to=relay.address)
        relay.wait_bytes(6 * MIB)
        moves[0].dest.kill()
        family.arrive(moves[1:])
        assert moves[0].command.wait(60).status == 1
        assert moves[0].source.running()


@pytest.mark.slow
@pytest.mark.parametrize("which", ("a", "b"))
def test_a_daemon_is_restarted(workdir, pki, which):
    """What was kept is gone, or nobody knows of it any more: they begin anew."""
    need_accel("kvm")
    with Family(workdir, pki, IDLE, 3) as family:
        reports = []
        for i, pair in enumerate(family.pairs):
            reports += family.arrive(family.set_out("--dedup-memory", "128M", pairs=[pair]))
            if i == 0:
                daemon = getattr(family.hosts, which)
                daemon.kill()
                daemon.start()
    assert [report["ram"]["shared_pages"] > 5000 for report in reports] == [False, False, True]


@pytest.mark.slow
def test_linux(workdir, pki):
    """Guests that have booted from one image: the same contents, at other places."""
    guest = Guest(kind="linux", memory=192, work=(8, 200))
    single = alone(workdir, pki, guest)
    with Family(workdir, pki, guest, 3) as family:
        reports = family.arrive(family.set_out("--bandwidth", 40 * MIB))
    assert share_of(reports, single) <= 0.75


@pytest.mark.slow
def test_relay_shares_nothing(workdir, pki):
    need_accel("kvm")
    with Machine(qemu.newest(), IDLE, name="src") as source, \
            Machine(qemu.newest(), IDLE, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, "--mode", "relay", "--dedup-memory", "128M")
    assert report["ram"]["shared_pages"] == 0
