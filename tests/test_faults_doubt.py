# SPDX-License-Identifier: Apache-2.0
"""Who decides when the two ends cannot: the destination that hears of it late, a person, a fence."""
import time

import pytest

from conftest import binary
from harness.scene import Scene, one_sentence, wait_until

DROP = ("--drop-timeout", "2")


@pytest.mark.parametrize("cancel", (False, True))
def test_an_abort_outlives_the_source_daemon(workdir, cancel):
    """Rolled back while the link is down, then restarted: a loaded destination still hears of it,
    and does not stay in doubt."""
    with Scene(workdir, binary("10.0"), relay=True, hold="dest:loaded") as scene:
        move = scene.migrate(*(() if cancel else DROP))
        scene.b.wait_held()
        scene.relay.cut()
        if cancel:
            assert scene.a.drover("cancel", scene.a.job()["job"]).status == 0
        one_sentence(move.wait(), 4 if cancel else 1)
        scene.a.crash_and_restart()
        scene.b.go_on()
        scene.relay.restore()
        assert scene.b.wait_job("cancelled" if cancel else "failed")["error"]["message"]
        scene.check_runs_at_source()
        wait_until(lambda: "was told at last" in scene.a.said(), "the source to note it")
        scene.a.crash_and_restart()
        assert scene.a.said().count("was told at last") == 1


def in_doubt(scene, *args, cut=True):
    """Committed at the source, and the link goes before the destination has heard of it."""
    move = scene.migrate(*DROP, *args)
    scene.b.wait_held()
    scene.a.wait_job("committed")
    if cut:
        scene.relay.cut()
    return move


def undelivered(scene):
    """Committed, and the destination does not hear of it; the job, which is in doubt there."""
    move = scene.migrate(*DROP)
    scene.a.wait_held()
    scene.relay.cut()
    job = scene.b.wait_job("in-doubt")["job"]
    scene.a.go_on()
    assert move.wait().status == 3
    return job


def test_resolved_for_the_source(workdir, any_qemu):
    """Undelivered, COMMIT is called back: the destination must not run the guest on it later."""
    with Scene(workdir, any_qemu, relay=True, hold="source:committed") as scene:
        job = undelivered(scene)
        assert scene.a.job()["job"] == job
        result = scene.a.drover("resolve", job, "--run-on", "source")
        assert result.status == 0, result.stderr
        assert scene.a.wait_job("failed")["error"]["message"].startswith("resolved")
        assert scene.source.running()
        assert scene.a.drover("resolve", job, "--run-on", "source").status == 1
        scene.relay.restore()
        assert scene.b.wait_job("failed")
        scene.check_runs_at_source()


@pytest.mark.slow
def test_a_daemon_that_does_not_answer(workdir):
    """The link is there, and COMMIT has arrived; the source does not wait for ever."""
    with Scene(workdir, binary("10.0"), hold="dest:deaf") as scene:
        result = scene.migrate(*DROP).wait()
        one_sentence(result, 3, "its daemon does not answer", "drover resolve")
        assert not scene.source.running() and not scene.dest.running()
        job = scene.a.job()["job"]
        assert scene.a.drover("resolve", job, "--run-on", "source").status == 0
        assert scene.a.wait_job("failed") and scene.b.wait_job("failed")
        scene.check_runs_at_source()


def test_resolved_for_the_source_at_both_ends(workdir):
    with Scene(workdir, binary("10.0"), relay=True, hold="source:committed") as scene:
        job = undelivered(scene)
        assert scene.b.drover("resolve", job, "--run-on", "source").status == 0
        assert scene.b.wait_job("failed")["error"]["message"].startswith("resolved")
        assert scene.a.drover("resolve", job, "--run-on", "source").status == 0
        assert scene.a.wait_job("failed")
        scene.check_runs_at_source()


def test_resolved_for_the_destination(workdir):
    with Scene(workdir, binary("7.2"), relay=True, hold="source:committed") as scene:
        job = undelivered(scene)
        assert scene.b.drover("resolve", job, "--run-on", "dest").status == 0
        assert scene.b.wait_job("done")
        assert scene.a.drover("resolve", job, "--run-on", "dest").status == 0
        assert scene.a.wait_job("done")
        # Nobody has confirmed it to the source: its QEMU is left, stopped.
        scene.check_runs_at_dest(source_gone=False)


def test_resolved_there_and_found_out_here(workdir):
    """One word at the destination is enough, once the link is back."""
    with Scene(workdir, binary("7.2"), relay=True, hold="source:committed") as scene:
        job = undelivered(scene)
        assert scene.b.drover("resolve", job, "--run-on", "source").status == 0
        scene.relay.restore()
        assert scene.a.wait_job("failed")
        scene.check_runs_at_source()


@pytest.mark.parametrize("status, state", ((0, "failed"), (1, "in-doubt")))
def test_the_fence_decides_or_does_not(workdir, status, state):
    fence = workdir / "fence"
    # What droverd may not, its children may not (docs/security.md).
    fence.write_text(f"#!/bin/sh\nunshare -U true 2> {workdir}/tried\n"
                     f"echo \"$@\" >> {workdir}/fenced\nexit {status}\n")
    fence.chmod(0o755)
    config = f"[migration]\nfence-command = {fence} --really\n"
    with Scene(workdir, binary("10.0"), relay=True, hold="dest:committed", config=config) as scene:
        in_doubt(scene)
        scene.dest.kill()
        scene.b.kill()
        wait_until((workdir / "fenced").exists, "the fence")
        job = scene.a.wait_job(state)
        wait_until(lambda: (workdir / "fenced").read_text() == f"--really {scene.to}\n", "the fence")
        assert "Operation not permitted" in (workdir / "tried").read_text()
        if status == 0:
            scene.check_runs_at_source()
        else:
            assert not scene.source.running()
            assert scene.a.drover("resolve", job["job"], "--run-on", "source").status == 0
            scene.a.wait_job("failed")
            scene.check_runs_at_source()


def test_a_guest_that_may_have_run_is_for_a_person(workdir):
    """Both daemons restarted in doubt, and the destination's QEMU is gone: it may have run there."""
    with Scene(workdir, binary("7.2"), relay=True, hold="dest:committed") as scene:
        move = in_doubt(scene)
        scene.dest.kill()
        assert move.wait().status == 3
        scene.b.crash_and_restart()
        scene.a.crash_and_restart()
        scene.relay.restore()
        # COMMITTED was found in its journal: nobody knows whether 'cont' went out before the crash.
        job = scene.b.wait_job("in-doubt")
        assert not scene.source.running()
        assert scene.a.wait_job("in-doubt")["job"] == job["job"]
        # One word is enough: the source is told that there is news, and asks.
        assert scene.b.drover("resolve", job["job"], "--run-on", "source").status == 0
        for d in (scene.b, scene.a):
            d.wait_job("failed")
        scene.check_runs_at_source()


def test_the_guest_runs_before_its_source_is_back(workdir, any_qemu):
    """The time for which it was down ends with its start, not with the source's hearing of it."""
    with Scene(workdir, any_qemu, hold="dest:committed") as scene:
        began = time.monotonic()
        scene.migrate()
        scene.b.wait_held()
        scene.a.kill()
        scene.b.go_on()
        scene.b.wait_job("done")
        most = (time.monotonic() - began) * 1000
        wait_until(lambda: (time.monotonic() - began) * 1000 > most + 1000, "a second to pass")
        scene.a.start()
        job = scene.a.wait_job("done")
        assert 0 < job["result"]["downtime_ms"] <= most
        scene.check_runs_at_dest()
