# SPDX-License-Identifier: Apache-2.0
"""Either QEMU dies in the middle of it: what is left of the guest goes on, and the report says why."""
import os
import signal

import pytest

from conftest import binary
from harness.scene import GUEST, Scene, free, one_sentence, wait_until

VERSIONS = ("7.2", "10.0")
# Slow enough to be caught copying: 64 MiB of memory, of which some 4 MiB are not zero.
SLOW = ("--bandwidth", "1M")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("multifd", (0, 2))
def test_the_destination_dies_while_copying(workdir, version, multifd):
    with Scene(workdir, binary(version)) as scene:
        move = scene.migrate(*SLOW, "--multifd", multifd)
        scene.a.wait_job("copying")
        scene.b.wait_job("copying")
        scene.dest.kill()
        one_sentence(move.wait(), 1, "its QEMU")
        scene.check_runs_at_source()
        assert scene.b.wait_job("failed")["error"]["message"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_destination_that_hangs_is_not_left_behind(workdir, version):
    """It does not answer 'quit' any more; there is nothing in it that could be lost."""
    with Scene(workdir, binary(version)) as scene:
        move = scene.migrate(*SLOW)
        scene.a.wait_job("copying")
        scene.b.wait_job("copying")
        os.kill(scene.dest.pid, signal.SIGSTOP)
        job = scene.a.job()["job"]
        assert scene.a.drover("cancel", job).status == 0
        assert move.wait().status == 4
        scene.dest.wait_exit(20)
        assert scene.b.wait_job("cancelled")
        assert "is killed" in scene.b.said()
        scene.check_runs_at_source()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_source_dies_while_copying(workdir, version):
    """There is nothing to be saved, but everybody is told, and the other half is tidied up."""
    with Scene(workdir, binary(version)) as scene:
        move = scene.migrate(*SLOW)
        scene.a.wait_job("copying")
        scene.source.kill()
        one_sentence(move.wait(), 1, "the source's QEMU")
        scene.dest.wait_exit(20)
        assert not scene.dest.console.beats
        assert scene.b.wait_job("failed")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("where", ("source:switchover", "source:loaded", "dest:loaded"))
def test_the_destination_dies_before_the_decision(workdir, version, where):
    """The daemon held just there finds it dead when it goes on."""
    with Scene(workdir, binary(version), hold=where) as scene:
        move = scene.migrate()
        held = scene.a if where.startswith("source") else scene.b
        held.wait_held()
        if where == "source:switchover":
            scene.b.wait_job("copying", "loaded")
        scene.dest.kill()
        held.go_on()
        one_sentence(move.wait(), 1, "destination")
        scene.check_runs_at_source()
        assert scene.a.job()["state"] == "failed"
        assert scene.b.wait_job("failed")["error"]["message"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_source_dies_after_the_decision(workdir, version):
    """Its guest is loaded and whole over there, so it goes on there."""
    with Scene(workdir, binary(version), hold="source:loaded") as scene:
        move = scene.migrate()
        scene.a.wait_held()
        scene.source.kill()
        scene.a.go_on()
        assert move.wait().status == 0, scene.said()
        scene.check_runs_at_dest()


def test_another_qemu_in_the_place_of_the_lost_one(workdir, any_qemu):
    """A daemon that comes back must not run, or end, a QEMU that has taken over the QMP socket."""
    with Scene(workdir, any_qemu, hold="source:running") as scene:
        scene.migrate()
        scene.a.wait_held()
        path = scene.source.drover_qmp
        scene.source.kill()
        with scene.successor(path) as other:
            scene.a.crash_and_restart()
            scene.a.wait_job("done")
            scene.check_runs_at_dest()
            assert other.process.poll() is None and other.running()


def test_another_qemu_in_the_place_of_the_loaded_one(workdir, any_qemu):
    with Scene(workdir, any_qemu, hold="dest:loaded") as scene:
        move = scene.migrate("--drop-timeout", "5")
        scene.b.wait_held()
        path = scene.dest.drover_qmp
        scene.dest.kill()
        with scene.successor(path, incoming=True) as other:
            scene.b.crash_and_restart()
            one_sentence(move.wait(), 1)
            scene.check_runs_at_source()
            assert scene.b.wait_job("failed")
            assert other.status() == "inmigrate"
            assert free(path)


def test_somebody_else_cancels_in_qemu(workdir, any_qemu):
    with Scene(workdir, any_qemu) as scene:
        move = scene.migrate(*SLOW)
        scene.a.wait_job("copying")
        scene.source.qmp.command("migrate_cancel")
        sentence = one_sentence(move.wait(), 1)
        # Its end of the stream may break first; then QEMU 10.0 calls that a failure itself.
        assert "cancelled in QEMU by somebody else" in sentence or \
            "QEMU's migration failed" in sentence, sentence
        assert "has given the migration up" not in sentence
        scene.check_runs_at_source()


def test_a_guest_paused_by_somebody_stays_paused(workdir, any_qemu):
    """Paused while it was copied, and rolled back by a daemon that came back: it is not run."""
    with Scene(workdir, any_qemu) as scene:
        move = scene.migrate(*SLOW)
        scene.a.wait_job("copying")
        scene.source.stop()
        wait_until(lambda: scene.a.job()["state"] in ("copying", "switchover"), "the job to go on")
        scene.a.crash_and_restart()
        one_sentence(move.wait(), 1, "restarted")
        assert scene.source.status() == "paused"
        scene.source.cont()
        scene.check_runs_at_source()


def test_a_paused_guest_arrives_paused(workdir, any_qemu):
    with Scene(workdir, any_qemu, guest=GUEST, hold="dest:committed") as scene:
        scene.source.stop()
        move = scene.migrate()
        scene.b.wait_held()
        scene.b.crash_and_restart()
        assert move.wait().status == 0, scene.said()
        assert not scene.dest.running()
        scene.dest.cont()
        scene.check_runs_at_dest()
