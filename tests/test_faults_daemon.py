# SPDX-License-Identifier: Apache-2.0
"""Either daemon killed, or stopped for a while, in each state of a job: one guest, and the right one."""
import time

import pytest

from conftest import binary
from harness.scene import Scene, one_sentence, wait_until

# Until the source's journal says COMMITTED the guest belongs to the source.
BEFORE = ("source:preparing", "source:copying", "source:switchover", "source:loaded",
          "dest:preparing", "dest:copying", "dest:loaded")
AFTER = ("source:committed", "source:running", "dest:committed", "dest:running")
# Where the destination's QEMU has not been told to listen it is left as it was.
UNTOUCHED = ("source:preparing", "dest:preparing")


def holder(scene, where):
    return scene.a if where.startswith("source") else scene.b


@pytest.mark.parametrize("version", ("7.2", "10.0"))
@pytest.mark.parametrize("where", BEFORE)
def test_a_daemon_killed_before_the_decision(workdir, where, version):
    with Scene(workdir, binary(version), hold=where) as scene:
        settings = scene.source.qmp.command("query-migrate-parameters")
        move = scene.migrate("--multifd", "2")
        held = holder(scene, where)
        held.wait_held()
        held.crash_and_restart()
        one_sentence(move.wait(), 1)
        scene.check_runs_at_source(dest_gone=where not in UNTOUCHED)
        assert scene.source.qmp.command("query-migrate-parameters") == settings
        job = scene.a.job()
        assert job["state"] == "failed" and job["error"]["message"], job
        if where != "source:preparing":
            assert scene.b.wait_job("failed")["error"]["message"]


@pytest.mark.parametrize("version", ("7.2", "10.0"))
@pytest.mark.parametrize("where", AFTER)
def test_a_daemon_killed_after_the_decision(workdir, where, version):
    with Scene(workdir, binary(version), hold=where) as scene:
        move = scene.migrate("--multifd", "2")
        held = holder(scene, where)
        held.wait_held()
        held.crash_and_restart()
        result = move.wait()
        assert result.status == 0, result.stderr + scene.said()
        assert result.json["state"] == "completed" and result.json["error"] is None
        assert 0 < result.json["downtime_ms"] <= result.json["total_ms"]
        assert result.json["mode"] == "direct"
        scene.check_runs_at_dest()
        assert scene.a.job()["state"] == "done"
        assert scene.b.wait_job("done")["error"] is None


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


@pytest.mark.parametrize("where", BEFORE + AFTER)
def test_a_daemon_stopped_for_a_while(workdir, any_qemu, where):
    """It is slow, not dead: nothing fails."""
    with Scene(workdir, any_qemu, hold=where) as scene:
        move = scene.migrate("--keep-source")
        held = holder(scene, where)
        held.wait_held()
        other = scene.b if held is scene.a else scene.a
        assert other.job() is None or other.job()["state"] not in ("failed", "in-doubt")
        held.go_on()
        result = move.wait()
        assert result.status == 0, result.stderr + scene.said()
        scene.check_runs_at_dest(source_gone=False)
