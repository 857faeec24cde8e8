# SPDX-License-Identifier: Apache-2.0
"""Guests that write faster than they get across: waited for, slowed down, given up, and said so."""
import signal

import pytest

from conftest import SLOW_WITH_OLD, binary, need_accel, slow_with_old
from harness import qemu
from harness.handover import Hosts, arguments, migrate_exactly
from harness.qemu import MIB, Guest, Machine
from harness.scene import Scene, one_sentence, wait_until

# Over and over the same 4 MiB, of which no byte is as it was. It is held up by its CPU and not by a
# timer, so that it writes less when it is slowed down.
WRITER = Guest(accel="kvm", mode="random", memory=64, pages=1024, params="delay=0 beat=64")
# That takes a second, and is never done. (The writer's pages do repeat themselves after a while: no
# duplicates are looked for, or they would save it.)
SLOW = ("--bandwidth", 4 * MIB, "--codec", "none", "--dedup-memory", 0)


@pytest.fixture(autouse=True)
def kvm():
    need_accel("kvm")


def settings(machine):
    return [machine.qmp.command(f"query-migrate-{what}") for what in ("parameters", "capabilities")]


@pytest.mark.slow
@pytest.mark.parametrize("version,mode", [("7.2", "relay"), ("10.0", "direct")])
def test_it_waits_until_the_timeout(workdir, version, mode):
    """Nothing is done that was not allowed; what ends it says why, with figures."""
    with Scene(workdir, binary(version), guest=WRITER) as scene:
        before = settings(scene.source)
        move = scene.migrate("--mode", mode, *map(str, SLOW), "--timeout", "15")
        # It says so as soon as it knows.
        move.wait_output("it is not expected to converge: ")
        progress = scene.a.job("source")["progress"]
        assert progress["note"].startswith("it is not expected to converge: the guest writes ")
        assert progress["throttle_pct"] == 0 and progress["downtime_limit_ms"] == 300
        result = move.wait()
        one_sentence(result, 1, "within 15 s: it is not expected to converge: the guest writes ",
                     "get across", "where 300 ms is allowed")
        assert settings(scene.source) == before
        scene.check_runs_at_source()
    assert result.json["throttle_pct"] == 0 and result.json["measures"] == []
    assert result.json["downtime_kept"] is None


def test_it_gives_up(workdir):
    with Scene(workdir, qemu.newest(), guest=WRITER) as scene:
        before = settings(scene.source)
        result = scene.try_migrate(*map(str, SLOW), "--converge", "give-up")
        sentence = one_sentence(result, 1, "it does not converge, and would only with a downtime of ",
                                "get across", "where 300 ms is allowed",
                                "allow more with --max-downtime, --converge throttle, or")
        assert settings(scene.source) == before
        scene.check_runs_at_source()
        error = scene.a.job("source")["error"]
    assert error["class"] == "timeout" and error["message"] in sentence
    assert [m["why"] in sentence for m in result.json["measures"]] == [True]


def test_a_longer_downtime_is_allowed(workdir, pki):
    with Machine(qemu.newest(), WRITER, name="src") as source, \
            Machine(qemu.newest(), WRITER, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, *SLOW, "--max-downtime", "10s")
    assert 300 < report["downtime_limit_ms"] <= 10000
    assert report["throttle_pct"] == 0 and report["throttle"] == "none"
    measure = report["measures"][-1]
    assert measure["downtime_limit_ms"] == report["downtime_limit_ms"]
    assert 0 < measure["at_ms"] < report["total_ms"]
    assert measure["why"].startswith("the guest may be down for ")


@pytest.mark.parametrize("version", SLOW_WITH_OLD)
def test_it_is_throttled(workdir, pki, version):
    with Machine(binary(version), WRITER, name="src") as source, \
            Machine(binary(version), WRITER, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        with hosts.a.running(*arguments(source, dest, hosts.b.address, *map(str, SLOW),
                                        "--converge", "throttle", "--keep-source")) as move:
            move.wait_output("the guest is slowed down so that it can be moved: ")
            result = move.wait(180)
        assert result.status == 0, result
        report = result.json
        dest.console.wait_beats(5)
    asked = [m["throttle_pct"] for m in report["measures"]]
    assert report["throttle"] == "cpus" and asked == sorted(asked) and asked[0] >= 20
    # What QEMU did, and that was no more than what it was asked for.
    assert 20 <= report["throttle_pct"] <= asked[-1] <= 99


@pytest.mark.slow
def test_writing_is_held_back_where_there_is_a_dirty_ring(workdir, pki, any_qemu):
    """Only CPUs that write wait then; and none does any more when it is over."""
    guest = WRITER.variant(dirty_ring=4096)
    with Machine(any_qemu, guest, name="src") as source, \
            Machine(any_qemu, guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        result = hosts.a.drover(*arguments(source, dest, hosts.b.address, *map(str, SLOW),
                                           "--converge", "throttle", "--keep-source"), timeout=180)
        assert result.status == 0, result
        assert not source.qmp.command("query-vcpu-dirty-limit")
        dest.console.wait_beats(5)
    report = result.json
    assert (report["throttle"], report["throttle_pct"]) == ("dirty-limit", None)
    assert report["measures"][0]["why"].startswith("the guest is slowed down so that it can be moved")


@pytest.mark.slow
def test_what_was_held_back_goes_on_as_before(workdir, any_qemu):
    """A roll-back after all: the guest is let go, and QEMU's settings are what they were."""
    with Scene(workdir, any_qemu, guest=WRITER.variant(dirty_ring=4096)) as scene:
        before = settings(scene.source)
        move = scene.migrate(*map(str, SLOW), "--downtime", "1", "--converge", "throttle")
        move.wait_output("the guest is slowed down so that it can be moved: ")
        wait_until(lambda: scene.source.qmp.command("query-vcpu-dirty-limit"), "QEMU to do it")
        move.process.send_signal(signal.SIGINT)
        assert move.wait().status == 4
        assert not scene.source.qmp.command("query-vcpu-dirty-limit")
        assert settings(scene.source) == before and scene.source.running()
        scene.source.console.wait_beats(5)


def check_parts(report):
    """What the downtime was for adds up to it; each part is rounded."""
    parts = report["downtime"]
    assert all(ms >= 0 for ms in parts.values() if ms is not None), parts
    whole = parts["send_ms"] + parts["load_ms"] + parts["commit_ms"]
    assert abs(whole - report["downtime_ms"]) <= 3, report
    if report["mode"] == "direct":
        assert abs(parts["ram_ms"] + parts["devices_ms"] - parts["send_ms"]) <= 2, parts
    else:
        assert parts["ram_ms"] is None and parts["devices_ms"] is None


@pytest.mark.parametrize("mode,allowed,kept", (("direct", 20000, True), ("relay", 1, False)),
                         ids=("kept", "broken"))
def test_the_promise(workdir, pki, mode, allowed, kept):
    """A guest that writes nothing: there is nothing left to bring, but no QEMU loads in 1 ms."""
    guest = Guest(accel="kvm", mode="idle", memory=64, pages=256, params="hz=100 beat=2")
    with Machine(qemu.newest(), guest, name="src") as source, \
            Machine(qemu.newest(), guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        words = arguments(source, dest, hosts.b.address, "--downtime", allowed, "--mode", mode)
        result = hosts.a.drover(*(word for word in words if word != "--json"))
        assert result.status == 0, result
        report = hosts.a.drover("jobs", "--json").json["jobs"][0]["result"]
    assert report["downtime_limit_ms"] == allowed and report["downtime_kept"] is kept
    assert (report["downtime_ms"] <= allowed) is kept
    check_parts(report)
    assert ("were allowed: kept)" if kept else "were allowed: BROKEN)") in result.stdout


def test_prediction_and_outcome(workdir, pki):
    """What was predicted, before and by the first round, stands beside what it came to."""
    guest = Guest(accel="kvm", mode="sparse", pages=4096, params="hz=1000 rate=2 beat=20 body=random")
    how = ("--mode", "direct", "--bandwidth", 8 * MIB)
    with Machine(qemu.newest(), guest, name="src") as source, \
            Machine(qemu.newest(), guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        asked = ("predict", "--qmp", source.drover_qmp, "--to", hosts.b.address, "--json")
        made = hosts.a.drover(*asked, *how).json
        # Of another link: it is not taken for this one's.
        assert hosts.a.drover(*asked, "--mode", "direct").status == 0
        words = arguments(source, dest, hosts.b.address, *how)
        text = hosts.a.drover(*(word for word in words if word != "--json")).stdout
        report = hosts.a.drover("jobs", "--json").json["jobs"][0]["result"]
    before, first = report["predictions"]
    assert (before["made"], first["made"]) == ("before", "first-round")
    for member in ("converges", "sure", "why", "total_ms", "downtime_ms", "downtime_limit_ms"):
        assert before[member] == made[member]
    assert 0 < first["ms"] < report["total_ms"] and 0.5 <= first["sure"] <= 1
    assert first["total_ms"]["low"] <= first["total_ms"]["likely"] <= first["total_ms"]["high"]
    assert "predicted before (" in text and "predicted after its first round (" in text
    assert "% sure): " in text and "; it was " in text
