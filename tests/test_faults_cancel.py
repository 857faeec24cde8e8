# SPDX-License-Identifier: Apache-2.0
"""Cancelled in each state, by 'drover cancel' or an interrupt; and given up for being too slow."""
import signal

import pytest

from conftest import binary, slow_with_old
from harness.scene import GUEST, Scene, one_sentence, wait_until

SLOW = ("--bandwidth", "1M")
# More written anew than 1 MiB/s carries, so that it never ends by itself.
BUSY = GUEST.variant(params="hz=1000 rate=20 beat=20")


def settings(machine):
    return (machine.qmp.command("query-migrate-parameters"),
            machine.qmp.command("query-migrate-capabilities"))


@pytest.mark.parametrize("version, multifd", (("7.2", 2), ("10.0", 0)))
def test_cancel_while_copying(workdir, version, multifd):
    with Scene(workdir, binary(version), guest=BUSY) as scene:
        scene.source.qmp.command("migrate-set-parameters", {"downtime-limit": 77,
                                                            "max-bandwidth": 12345678})
        before = settings(scene.source)
        move = scene.migrate(*SLOW, "--multifd", multifd)
        job = scene.a.wait_job("copying")
        assert settings(scene.source) != before
        done = scene.a.drover("cancel", job["job"])
        assert done.status == 0, done.stderr
        result = move.wait()
        one_sentence(result, 4, "cancelled")
        assert result.json["state"] == "cancelled"
        scene.check_runs_at_source()
        assert settings(scene.source) == before
        assert scene.b.wait_job("cancelled")
        again = scene.a.drover("cancel", job["job"])
        assert again.status != 0 and "it is 'cancelled'" in again.stderr


def test_an_interrupt_cancels(workdir):
    with Scene(workdir, binary("10.0"), guest=BUSY) as scene:
        move = scene.migrate(*SLOW)
        scene.a.wait_job("copying")
        move.process.send_signal(signal.SIGINT)
        one_sentence(move.wait(), 4, "cancelled")
        scene.check_runs_at_source()


@pytest.mark.parametrize("signals, state", ((1, "cancelled"), (2, "failed")))
def test_droverd_ends_in_the_middle(workdir, signals, state):
    """SIGTERM calls the migration off first; a second one leaves that to the next daemon."""
    with Scene(workdir, binary("10.0"), guest=BUSY) as scene:
        move = scene.migrate(*SLOW)
        scene.a.wait_job("copying")
        for _ in range(signals):
            scene.a.process.send_signal(signal.SIGTERM)
        assert scene.a.process.wait(30) == 0
        scene.a.start()
        assert move.wait().status in (1, 4)
        scene.check_runs_at_source()
        assert scene.a.job()["state"] in (state, "cancelled")


@pytest.mark.parametrize("where", ("dest:preparing", "dest:copying", "dest:loaded"))
def test_cancel_while_the_other_daemon_is_held(workdir, any_qemu, where):
    """The guest does not wait for a destination that does not answer; that hears of it later."""
    with Scene(workdir, any_qemu, hold=where) as scene:
        before = settings(scene.source)
        move = scene.migrate()
        scene.b.wait_held()
        job = scene.a.wait_job("preparing", "copying", "switchover")
        assert scene.a.drover("cancel", job["job"]).status == 0
        one_sentence(move.wait(), 4, "cancelled")
        wait_until(scene.source.running, "the guest to go on")
        assert settings(scene.source) == before
        scene.b.go_on()
        scene.b.wait_job("cancelled", "failed")
        scene.check_runs_at_source(dest_gone=where != "dest:preparing")


@pytest.mark.parametrize("where", ("dest:committed", "dest:running"))
def test_too_late_to_cancel(workdir, where):
    with Scene(workdir, binary("10.0"), hold=where) as scene:
        move = scene.migrate()
        scene.b.wait_held()
        job = scene.a.wait_job("committed", "running", "done")
        result = scene.a.drover("cancel", job["job"])
        assert result.status == 1 and "it is too late to cancel it" in result.stderr, result
        move.process.send_signal(signal.SIGINT)
        move.wait_output("it cannot be cancelled")
        scene.b.go_on()
        assert move.wait().status == 0
        scene.check_runs_at_dest()


@slow_with_old
def test_it_takes_longer_than_allowed(workdir, any_qemu):
    with Scene(workdir, any_qemu, guest=BUSY) as scene:
        before = settings(scene.source)
        result = scene.try_migrate(*SLOW, "--timeout", "2")
        one_sentence(result, 1, "within 2 s", "--timeout")
        assert result.json["state"] == "failed" and "2 s" in result.json["error"]
        scene.check_runs_at_source()
        assert settings(scene.source) == before
