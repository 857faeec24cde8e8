# SPDX-License-Identifier: Apache-2.0
"""QMP sockets that are not there or not what they should be, and machines that do not fit."""
import contextlib
import socket
import threading

import pytest

from conftest import binary
from harness import daemon, qemu
from harness.qemu import Guest, Machine
from harness.qmp import Qmp
from harness.scene import FaultyDaemon, Scene, free, one_sentence, wait_until

GUEST = Guest(memory=64, pages=64, params="hz=1000 rate=5 beat=5")
VERSIONS = ("7.2", "10.0")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two daemons and a guest for all: none of these may touch it."""
    workdir = tmp_path_factory.mktemp("q")
    pki = daemon.make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1")
    with FaultyDaemon(workdir, "a", pki / "a") as a, FaultyDaemon(workdir, "b", pki / "b") as b, \
            Machine(qemu.oldest(), GUEST, name="src") as source:
        yield a, b, source.wait_ready()


class TalksGarbage:
    """Listens where QEMU should, and says something else to whoever comes."""

    def __init__(self, path, words):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._words = words
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self._listener.accept()
                with s, contextlib.suppress(OSError):
                    s.sendall(self._words)
                    while s.recv(4096):
                        pass

    def close(self):
        self._listener.close()


def bad_socket(kind, workdir, machine, keep):
    """The path of a QMP socket that is bad in that way; what must be ended afterwards goes to keep."""
    path = workdir / "bad.qmp"
    if kind == "not-a-socket":
        path.write_text("no")
    elif kind == "stale":
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
    elif kind == "garbage":
        keep.callback(TalksGarbage(path, b"220 mail.example ESMTP\r\n").close)
    elif kind == "silent":
        keep.callback(TalksGarbage(path, b"").close)
    elif kind == "other-json":
        keep.callback(TalksGarbage(path, b'{"hello":"world"}\r\n').close)
    elif kind == "busy":
        keep.callback(Qmp(machine.drover_qmp).close)
        return machine.drover_qmp
    return path


# What is wrong with the socket, and what must be in the sentence besides its path.
BAD = {"missing": "no QMP socket exists", "not-a-socket": "not a socket",
       "stale": "nobody listens", "garbage": "is not a QMP socket of QEMU",
       "silent": "another client", "other-json": "is not a QMP socket of QEMU",
       "busy": "another client"}


@pytest.mark.parametrize("end", ("source", "dest"))
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_qmp_socket(pair, workdir, kind, end):
    a, b, source = pair
    with contextlib.ExitStack() as keep:
        dest = None
        if end == "dest" and kind == "busy":
            dest = keep.enter_context(Machine(qemu.oldest(), GUEST, incoming=True, name="dst"))
        path = bad_socket(kind, workdir, dest or source, keep)
        qmp, dest_qmp = (path, "/nonexistent") if end == "source" else (source.drover_qmp, path)
        result = a.drover("migrate", "--qmp", qmp, "--to", b.address, "--dest-qmp", dest_qmp)
    sentence = one_sentence(result, 1, str(path), "the destination's QMP" if end == "dest" else
                            "the source's QMP")
    assert BAD[kind] in sentence, sentence
    source.console.wait_beats(2)
    assert source.running() and free(source.drover_qmp)


def test_a_destination_that_does_not_wait(pair):
    """It runs a guest of its own, which must not even blink."""
    a, b, source = pair
    with Machine(qemu.oldest(), GUEST, name="other") as other:
        other.wait_ready()
        result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                          other.drover_qmp)
        one_sentence(result, 1, "does not wait for a migration", "-incoming defer")
        assert other.running() and source.running() and free(other.drover_qmp)


def test_a_destination_that_listens_already(pair, workdir):
    a, b, source = pair
    with Machine(qemu.oldest(), GUEST, incoming=True, name="dst") as dest:
        dest.qmp.command("migrate-incoming", {"uri": f"unix:{workdir}/in"})
        result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                          dest.drover_qmp)
        one_sentence(result, 1, "already been started", "-incoming defer")
        # Somebody else's migration is on its way to it: it is left alone.
        b.wait_job("failed")
        assert dest.status() == "inmigrate" and source.running() and free(dest.drover_qmp)


def test_the_two_sockets_mixed_up(pair):
    a, b, source = pair
    with Machine(qemu.oldest(), GUEST, incoming=True, name="dst") as dest:
        result = a.drover("migrate", "--qmp", dest.drover_qmp, "--to", b.address, "--dest-qmp",
                          source.drover_qmp)
        one_sentence(result, 1, "mixed up")
        assert source.running() and free(dest.drover_qmp)


MISFITS = {
    "machine": (GUEST.variant(machine="q35"), ("machine types differ", "-machine pc-i440fx-7.2")),
    "memory": (GUEST.variant(memory=48), ("64 MiB", "48 MiB", "-m 64M")),
    "cpu": (GUEST.variant(cpu="Nehalem"), ("CPU models differ", "-cpu")),
    "cpus": (GUEST.variant(extra=("-smp", "2")), ("1 vCPUs", "2 ", "-smp")),
    "blocks": (GUEST.variant(backend="memfd"), ("RAM block",)),
    "devices": (GUEST.variant(extra=("-device", "VGA")), ("RAM block", "same devices")),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_machine_that_does_not_fit(pair, what):
    a, b, source = pair
    guest, words = MISFITS[what]
    with Machine(qemu.oldest(), guest, incoming=True, name="dst") as dest:
        before = source.qmp.command("query-migrate-capabilities")
        result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                          dest.drover_qmp)
        one_sentence(result, 1, *words)
        source.console.wait_beats(2)
        assert source.running() and free(source.drover_qmp)
        assert source.qmp.command("query-migrate-capabilities") == before
        # Nothing was begun with it: it can still be used, once it is what it should be.
        assert dest.status() == "inmigrate" and free(dest.drover_qmp)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_destination_that_cannot_load(workdir, version):
    """A device at one side only, with the same RAM: QEMU finds out, and its words are passed on."""
    source = GUEST.variant(extra=("-device", "virtio-rng-pci"))
    with Scene(workdir, binary(version), guest=source, dest_guest=GUEST) as scene:
        one_sentence(scene.try_migrate(), 1, "virtio-rng")
        scene.check_runs_at_source()


def test_migrating_already_by_drover(pair):
    a, b, source = pair
    with Machine(qemu.oldest(), GUEST, incoming=True, name="dst") as dest:
        words = ("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                 dest.drover_qmp, "--bandwidth", "64K")
        with a.running(*words) as move:
            job = a.wait_job("copying")["job"]
            again = a.drover(*words)
            one_sentence(again, 1, "already migrating", job, "drover watch")
            assert a.drover("cancel", job).status == 0
            assert move.wait().status == 4
        assert source.running()


def test_migrating_already_by_somebody_else(pair, workdir):
    a, b, source = pair
    with Machine(qemu.oldest(), GUEST, incoming=True, name="dst") as dest:
        dest.qmp.command("migrate-incoming", {"uri": f"unix:{workdir}/in"})
        before = source.qmp.command("query-migrate-parameters")
        source.qmp.command("migrate-set-parameters", {"max-bandwidth": 65536})
        source.qmp.command("migrate", {"uri": f"unix:{workdir}/in"})
        wait_until(lambda: source.qmp.command("query-migrate").get("status") == "active", "QEMU")
        result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                          dest.drover_qmp)
        one_sentence(result, 1, "already migrating", "active")
        assert source.qmp.command("query-migrate")["status"] == "active", "it was disturbed"
        source.qmp.command("migrate_cancel")
        wait_until(lambda: source.qmp.command("query-migrate")["status"] == "cancelled", "QEMU")
        source.qmp.command("migrate-set-parameters", {"max-bandwidth": before["max-bandwidth"]})
        assert source.running()


def test_two_jobs_for_one_destination(pair):
    """The second is told that the destination's QEMU is taken; the first is not disturbed."""
    a, b, source = pair
    with Machine(qemu.oldest(), GUEST, name="second") as second, \
            Machine(qemu.oldest(), GUEST, incoming=True, name="dst") as dest:
        with a.running("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                       dest.drover_qmp, "--bandwidth", "64K") as move:
            job = a.wait_job("copying")["job"]
            result = a.drover("migrate", "--qmp", second.drover_qmp, "--to", b.address,
                              "--dest-qmp", dest.drover_qmp)
            one_sentence(result, 1, dest.drover_qmp)
            assert second.running() and free(second.drover_qmp)
            assert a.drover("cancel", job).status == 0
            assert move.wait().status == 4
