# SPDX-License-Identifier: Apache-2.0
"""'drover predict': before anything is moved, how it would go. It changes nothing."""
import contextlib
import re

import pytest

from conftest import need_accel, slow_with_old
from harness import qemu
from harness.handover import Hosts
from harness.qemu import MIB, Guest, Machine
from harness.qmp import Qmp
from harness.scene import free, one_sentence, wait_until

IDLE = Guest(mode="idle", params="hz=100 beat=10 body=random", pages=4096)
# Rewrites 8 MiB over and over, four times a second.
BUSY = Guest(mode="rewrite", params="hz=1000 beat=10 rate=8", pages=2048)


@contextlib.contextmanager
def scene(workdir, pki, binary, guest):
    with Machine(binary, guest, name="src") as source, Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        yield hosts, source


def words(hosts, source, *more, to=None, qmp=None):
    return ("predict", "--qmp", qmp or source.drover_qmp, "--to", to or hosts.b.address, *more)


def settings(machine):
    return [machine.qmp.command(f"query-migrate-{what}") for what in ("parameters", "capabilities")]


def check_ranges(result):
    for member in ("total_ms", "downtime_ms", "rounds", "downtime_needed_ms", "link_rate",
                   "nonzero", "ratio", "ratio_again", "speed"):
        found = result[member]
        if found is None:
            assert result["chance"] == 0 and member in ("total_ms", "downtime_ms", "rounds"), member
            continue
        assert 0 <= found["low"] <= found["likely"] <= found["high"], (member, found)
    assert result["converges"] in ("yes", "no", "unsure")
    assert 0 <= result["chance"] <= 1 and 0.5 <= result["sure"] <= 1


CASES = [("tcg", 0, "page-sampling"), ("kvm", 0, "dirty-bitmap"),
         pytest.param("kvm", 4096, "dirty-ring", marks=pytest.mark.slow)]
NAMES = ("page-sampling", "dirty-bitmap", "dirty-ring")


@slow_with_old
@pytest.mark.parametrize("accel,ring,mode", CASES, ids=NAMES)
def test_an_idle_guest(workdir, pki, any_qemu, accel, ring, mode):
    need_accel(accel)
    guest = IDLE.variant(accel=accel, dirty_ring=ring, memory=160)
    with scene(workdir, pki, any_qemu, guest) as (hosts, source):
        before = settings(source)
        result = hosts.a.drover(*words(hosts, source, "--json"))
        assert result.status == 0, result
        assert len(result.stdout.splitlines()) == 1
        # Nothing is changed, and nothing is held.
        assert settings(source) == before
        assert source.running() and free(source.drover_qmp)
        source.console.wait_beats(5)
    found = result.json
    check_ranges(found)
    assert found["converges"] == "yes" and found["state"] == "completed", found
    assert found["accel"] == accel and found["running"] and found["vm"] == "src"
    assert found["measured"]["dirty"]["mode"] == mode
    first, second = found["measured"]["dirty"]["points"]
    assert first["ms"] < second["ms"]
    # It fills 16 MiB of 160 with what does not pack.
    assert 0.05 < found["nonzero"]["likely"] < 0.25, found["nonzero"]
    assert found["nonzero"]["low"] < found["nonzero"]["likely"] < found["nonzero"]["high"]
    assert found["measured"]["link"]["bytes"] > MIB and found["link_rate"]["likely"] > MIB
    assert found["total_ms"]["high"] < 60000


@slow_with_old
@pytest.mark.parametrize("ring", (0, pytest.param(4096, marks=pytest.mark.slow)),
                         ids=("bitmap", "ring"))
def test_a_busy_guest_on_a_slow_link(workdir, pki, any_qemu, ring):
    """It writes more than the link carries: that is seen, and said."""
    need_accel("kvm")
    guest = BUSY.variant(accel="kvm", dirty_ring=ring, memory=160,
                         params=BUSY.params)
    with scene(workdir, pki, any_qemu, guest) as (hosts, source):
        slow = hosts.a.drover(*words(hosts, source, "--json", "--bandwidth", 1 * MIB, "--mode",
                                     "relay"))
        text = hosts.a.drover(*words(hosts, source, "--bandwidth", 1 * MIB, "--mode", "relay"))
    found = slow.json
    check_ranges(found)
    assert slow.status == 0 and found["converges"] == "no" and found["sure"] > 0.8, found
    assert found["measured"]["dirty"]["points"][-1]["bytes"] > 4 * MIB
    assert found["link_rate"]["high"] <= 1 * MIB
    assert found["downtime_needed_ms"]["likely"] > 300
    assert text.status == 0 and "src to 127.0.0.1:" in text.stdout
    assert "it will not converge: the guest is expected to write to" in text.stdout
    assert re.search(r"it would +with --downtime of", text.stdout), text.stdout
    assert found["measured"]["dirty"]["mode"] in text.stdout


def test_a_guest_that_does_not_run(workdir, pki, any_qemu):
    with scene(workdir, pki, any_qemu, IDLE) as (hosts, source):
        source.qmp.command("stop")
        result = hosts.a.drover(*words(hosts, source, "--json"))
        text = hosts.a.drover(*words(hosts, source))
        assert not source.running()
    assert result.status == 0, result
    assert result.json["measured"]["dirty"] is None and not result.json["running"]
    assert result.json["converges"] == "yes"
    assert "it will converge" in text.stdout and "it does not run" in text.stdout


def test_it_can_be_looked_up_and_does_not_stay_in_the_way(workdir, pki):
    with scene(workdir, pki, qemu.newest(), IDLE) as (hosts, source):
        result = hosts.a.drover(*words(hosts, source, "--json"))
        shown = hosts.a.drover("show", result.json["job"])
        assert shown.status == 0 and "it will converge" in shown.stdout, shown
        assert hosts.a.drover("jobs", "--json").json["jobs"] == []


def test_it_is_cancelled(workdir, pki):
    with scene(workdir, pki, qemu.newest(), IDLE) as (hosts, source), \
            hosts.a.running(*words(hosts, source, "--json")) as predict:
        job = wait_until(lambda: hosts.a.drover("jobs", "--json").json["jobs"], "the job")[0]
        assert job["kind"] == "predict" and not job["final"]
        assert hosts.a.drover("cancel", job["job"]).status == 0
        ended = predict.wait()
        assert ended.status == 4 and ended.json["state"] == "cancelled", ended
        assert f"prediction {job['job']} was cancelled" in ended.stderr
        assert source.running() and free(source.drover_qmp)
        # What QEMU had begun ends there, and the next can be made.
        again = hosts.a.drover(*words(hosts, source, "--json"))
        assert again.status in (0, 1)


def test_errors(workdir, pki):
    with scene(workdir, pki, qemu.newest(), IDLE) as (hosts, source):
        nobody = hosts.a.drover(*words(hosts, source, to="127.0.0.1:1"))
        one_sentence(nobody, 1, "the destination's daemon cannot be used", "nothing was changed")
        missing = hosts.a.drover(*words(hosts, source, qmp=workdir / "none"))
        one_sentence(missing, 1, "the source's QMP socket cannot be used", "no QMP socket exists")
        with contextlib.closing(Qmp(source.drover_qmp)):
            busy = hosts.a.drover(*words(hosts, source))
        one_sentence(busy, 1, "another client")
        bad = hosts.a.drover(*words(hosts, source, to="nowhere"))
        one_sentence(bad, 2, "nowhere")
        bad = hosts.a.drover(*words(hosts, source, "--downtime", "0"))
        one_sentence(bad, 2, "--downtime")
        none = hosts.a.drover("predict", "--qmp", source.drover_qmp)
        one_sentence(none, 2, "--to is missing")
        assert source.running() and free(source.drover_qmp)


def test_a_qemu_that_waits_for_a_guest(workdir, pki):
    with Machine(qemu.newest(), IDLE, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        result = hosts.a.drover(*words(hosts, dest))
        one_sentence(result, 1, "'inmigrate', which cannot be migrated")


def test_qemu_dies_meanwhile(workdir, pki):
    with scene(workdir, pki, qemu.newest(), IDLE) as (hosts, source), \
            hosts.a.running(*words(hosts, source)) as predict:
        predict.wait_output("preparing")
        source.kill()
        one_sentence(predict.wait(), 1, "nothing was predicted")
