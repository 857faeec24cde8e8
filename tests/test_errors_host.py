# SPDX-License-Identifier: Apache-2.0
"""What the host or the network refuses: addresses, directories, disks, settings; and wrong usage."""
import os
import shutil
import socket
import subprocess
import sys

import pytest

from harness import build, daemon, link, qemu
from harness.qemu import Guest, Machine
from harness.scene import GUEST, FaultyDaemon, Scene, one_sentence, wait_until

IDLE = Guest(memory=64, pages=64, params="hz=1000 rate=5 beat=5")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("h")
    pki = daemon.make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1")
    with FaultyDaemon(workdir, "a", pki / "a") as a, \
            Machine(qemu.oldest(), IDLE, name="src") as source:
        yield a, source.wait_ready()


def migrate(pair, to, *args, **options):
    a, source = pair
    result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", to, "--dest-qmp",
                      "/nonexistent/d.qmp", *args, **options)
    source.console.wait_beats(2)
    assert source.running()
    return result


# ---- the network ----

def test_nobody_listens(pair):
    with socket.create_server(("127.0.0.1", 0)) as s:
        address = "127.0.0.1:%d" % s.getsockname()[1]
    one_sentence(migrate(pair, address), 1, address, "refused", "is droverd running there")


def test_a_name_that_is_not_known(pair):
    one_sentence(migrate(pair, "no-such-host.invalid:7000"), 1, "no-such-host.invalid",
                 "cannot be found")


@pytest.mark.skipif(link.link_problem() is not None, reason=f"no namespaces: {link.link_problem()}")
def test_an_address_that_swallows_everything(workdir):
    pki = daemon.make_pki(workdir / "pki", "a=127.0.0.1")
    with link.Link() as net, Machine(qemu.oldest(), IDLE, name="src") as source, \
            FaultyDaemon(workdir, "a", pki / "a", prefix=net.a.prefix) as a:
        source.wait_ready()
        net.cut()
        to = f"{net.b.address}:7000"
        result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", to, "--dest-qmp", "/d.qmp")
        one_sentence(result, 1, to, "does not answer", "firewall")
        assert source.running()


# ---- usage ----

USAGE = {
    "an unknown option": (("--no-such",), "--no-such"),
    "lanes": (("--lanes", "17"), "--lanes"),
    "multifd": (("--multifd", "256"), "--multifd"),
    "bandwidth": (("--bandwidth", "1"), "--bandwidth"),
    "bandwidth in words": (("--bandwidth", "much"), "--bandwidth"),
    "downtime": (("--downtime", "-1"), "--downtime"),
    "timeout": (("--timeout", "99999999"), "--timeout"),
    "drop timeout": (("--drop-timeout", "0"), "--drop-timeout"),
    "codec": (("--codec", "gzip"), "--codec"),
    "mode": (("--mode", "sideways"), "--mode"),
    "to": (("--to", "nowhere"), "nowhere"),
    "a word too many": (("more",), "too many arguments"),
}


@pytest.mark.parametrize("what", USAGE)
def test_wrong_usage(pair, what):
    args, words = USAGE[what]
    a, _ = pair
    before = len(a.jobs())
    one_sentence(migrate(pair, "127.0.0.1:1", *args), 2, words)
    assert len(a.jobs()) == before, "a job was begun"


def test_the_daemon_does_not_run(pair, workdir):
    result = daemon.drover("jobs", api=workdir / "no.api")
    one_sentence(result, 2, str(workdir / "no.api"), "droverd")


def test_the_api_is_not_permitted(workdir, hosts):
    workdir.chmod(0o755)
    with FaultyDaemon(workdir, "a", hosts / "a") as a:
        # From a copy that others can reach, wherever the build is.
        program = workdir / "drover"
        shutil.copy(build.built(*daemon.DROVER), program)
        done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                               program, "--api", a.api, "jobs"],
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and str(a.api) in done.stderr, done
        assert "permi" in done.stderr and len(done.stderr.splitlines()) == 1, done


# ---- the daemon's start ----

def start(workdir, name, pki, **options):
    """A daemon that must not start: what it says; its exit status must be 2."""
    d = FaultyDaemon(workdir, name, pki, **options)
    done = subprocess.run(d.argv(), capture_output=True, text=True, timeout=60, check=False)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith("droverd: "), done
    assert not lines[0].endswith(".") and "ready" not in done.stdout
    return lines[0]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    return daemon.make_pki(tmp_path_factory.mktemp("p") / "pki", "a=127.0.0.1", "b=127.0.0.1")


def test_a_state_directory_that_is_not_one(workdir, hosts):
    d = FaultyDaemon(workdir, "a", hosts / "a")
    d.state.rmdir()
    d.state.write_text("")
    done = subprocess.run(d.argv(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and str(d.state) in done.stderr, done


def test_a_state_directory_that_cannot_be_written(workdir, hosts):
    d = FaultyDaemon(workdir, "a", hosts / "a")
    with mounted(d.state, "ro,size=64k"):
        done = subprocess.run(d.argv(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and str(d.state) in done.stderr, done
    assert "ead-only" in done.stderr or "writ" in done.stderr, done.stderr


def test_two_daemons_with_one_state_directory(workdir, hosts):
    with FaultyDaemon(workdir, "a", hosts / "a") as first:
        other = FaultyDaemon(workdir, "a", hosts / "a")
        other.api = workdir / "other.api"
        done = subprocess.run(other.argv(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and str(first.state) in done.stderr, done
        assert first.alive() and first.drover("jobs").status == 0


def test_two_daemons_on_one_port(workdir, hosts):
    with FaultyDaemon(workdir, "a", hosts / "a") as first:
        said = start(workdir, "b", hosts / "b", listen=first.address)
        assert "cannot listen on" in said and "in use" in said


def test_two_daemons_on_one_api_socket(workdir, hosts):
    with FaultyDaemon(workdir, "a", hosts / "a") as first:
        other = FaultyDaemon(workdir, "b", hosts / "b")
        other.api = first.api
        done = subprocess.run(other.argv(), capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and str(first.api) in done.stderr, done
        assert first.drover("jobs").status == 0


def test_no_certificate_here(workdir):
    assert str(workdir / "none") in start(workdir, "a", workdir / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount of one's own takes root")
def test_io_uring_switched_off(workdir, hosts):
    if not os.path.exists("/proc/sys/kernel/io_uring_disabled"):
        pytest.skip("this kernel has no kernel.io_uring_disabled")
    said = start(workdir, "a", hosts / "a",
                 prefix=(sys.executable, build.ROOT / "tests/tools/without_io_uring.py"))
    assert "kernel.io_uring_disabled = 2" in said and "sysctl" in said


# ---- the disk under the journal ----

class mounted:
    """A tmpfs on a directory."""

    def __init__(self, path, options):
        self._path, self._options = str(path), options

    def __enter__(self):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", self._options, "tmpfs", self._path],
                              capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self._path], timeout=60, check=False)


def fill(directory):
    """Leaves not a page of room."""
    with open(directory / "filler", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.parametrize("role, where, status", (
    pytest.param("source", "source:copying", 1, marks=pytest.mark.slow), ("source", "source:loaded", 1),
    pytest.param("source", "source:committed", 0, marks=pytest.mark.slow),
    pytest.param("dest", "dest:copying", 1, marks=pytest.mark.slow), ("dest", "dest:loaded", 1),
    pytest.param("dest", "dest:committed", 0, marks=pytest.mark.slow)))
def test_the_disk_fills_up(workdir, role, where, status):
    """Whatever the journal cannot take: one guest, and the command ends. The journal catches up."""
    scene = Scene(workdir, qemu.oldest(), hold=where)
    full = scene.a if role == "source" else scene.b
    with mounted(full.state, "size=2m"), scene:
        move = scene.migrate()
        full.wait_held()
        fill(full.state)
        full.go_on()
        result = move.wait()
        assert result.status == status, result.stderr + scene.said()
        if status == 0:
            scene.check_runs_at_dest()
        else:
            scene.check_runs_at_source()
        (full.state / "filler").unlink()
        if "without the journal" in full.said():
            wait_until(lambda: "has caught up" in full.said(), "the journal to catch up")
        full.crash_and_restart()
        assert full.job()["state"] == ("done" if status == 0 else "failed")


@pytest.mark.parametrize("reserve", (True, False), ids=("reserve", "none"))
def test_a_guest_is_started_once(workdir, reserve):
    """It runs, and the disk was full: a daemon that comes back leaves it as its owner has put it.
    Either its journal knows (there was room in reserve), or QEMU shows that the guest has run."""
    scene = Scene(workdir, qemu.oldest(), hold="dest:committed")
    with mounted(scene.b.state, "size=2m"), scene:
        move = scene.migrate()
        scene.b.wait_held()
        if not reserve:
            (scene.b.state / "reserve").unlink()
        fill(scene.b.state)
        scene.b.go_on()
        assert move.wait().status == 0, scene.said()
        wait_until(lambda: "committed -> running" in scene.b.said(), "the guest to be started")
        assert ("without the journal" in scene.b.said()) == (not reserve)
        if reserve:
            scene.dest.stop()
        else:
            scene.dest.qmp.command("set-action", {"reboot": "shutdown", "shutdown": "pause"})
            scene.dest.qmp.command("system_reset")
        status = "paused" if reserve else "shutdown"
        wait_until(lambda: scene.dest.status() == status, "the guest to stop")
        scene.b.kill()
        (scene.b.state / "filler").unlink()
        scene.b.crash_and_restart()
        assert scene.b.wait_job("done", "in-doubt")["error"] is None
        assert scene.dest.status() == status


def test_a_full_disk_begins_nothing(workdir):
    scene = Scene(workdir, qemu.oldest())
    with mounted(scene.a.state, "size=2m"), scene:
        fill(scene.a.state)
        one_sentence(scene.try_migrate(), 1, str(scene.a.state), "full", "free space")
        scene.check_runs_at_source(dest_gone=False)
