# SPDX-License-Identifier: Apache-2.0
"""A QEMU that hangs, that another has taken the place of, or that somebody else gives orders to."""
import os
import signal

import pytest

from conftest import slow_with_old
from harness.scene import GUEST, Scene, free, one_sentence, wait_until

# Slow enough to be caught copying: 64 MiB of memory, of which some 4 MiB are not zero.
SLOW = ("--bandwidth", "1M")


@slow_with_old
def test_a_destination_that_hangs_is_not_left_behind(workdir, any_qemu):
    """It does not answer 'quit' any more; there is nothing in it that could be lost."""
    with Scene(workdir, any_qemu) as scene:
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
