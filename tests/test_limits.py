# SPDX-License-Identifier: Apache-2.0
"""One host's share: a peer with a good certificate takes all it can get of a kind. It is refused with a sentence that
names the limit, what else it has goes on, and another host finds what its first job needs."""
import contextlib
import json
import socket
import threading

import pytest

from harness import daemon, qemu
from harness.liar import DATA, HELLO, PING, WELCOME, Liar, LyingHost, hello
from harness.scene import FaultyDaemon, wait_until

LANES, MESSAGES, PREPARING, FIRST_JOB = 48, 16 << 20, 32, 5  # as in the daemon; FIRST_JOB in channels


@pytest.fixture
def pki(workdir):
    return daemon.make_pki(workdir / "pki", "a=127.0.0.1", "m=127.0.0.1", "n=127.0.0.1")


class Liars:
    """Connections to one daemon by hosts of the authority, none of which may fall silent."""

    def __init__(self, host, pki):
        self._address, self._pki, self._stack = host.address, pki, contextlib.ExitStack()
        self.open = []

    def connect(self, name="m"):
        for liar in self.open:
            liar.send(PING)
        liar = Liar(self._address, self._pki / name)
        self.open.append(liar)
        return self._stack.enter_context(liar)

    def greet(self, name="m"):
        return self.connect(name).greet()

    def refused(self, name="m", **given):
        liar = self.connect(name)
        liar.send(HELLO, hello(**given))
        said = liar.refusal()
        self.open.remove(liar)
        return said

    def join(self, session, lane):
        liar = self.connect()
        liar.send(HELLO, hello(session=session.session, secret=session.secret, lane=lane))
        assert liar.read()[0] == WELCOME
        return liar

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


@contextlib.contextmanager
def attacked(workdir, pki, config="", **env):
    path = workdir / "a.conf"
    path.write_text("[daemon]\nlog-level=debug\n" + config)
    with FaultyDaemon(workdir, "a", pki / "a", config=path, env=env) as a, Liars(a, pki) as liars:
        yield a, liars


def works(liar):
    """Its session answers."""
    liar.call("no.such.thing")
    return "is not possible here" in liar.hear()["error"]["message"]


def ask(liar, what, **args):
    liar.call(what, **args)
    return liar.hear()


def test_sessions(workdir, pki):
    with attacked(workdir, pki, "[incoming]\nsessions=3\n") as (a, liars):
        mine = [liars.greet() for _ in range(3)]
        said = liars.refused()
        assert "your host has 3 sessions open here, as many as it may" in said
        assert "sessions=' under [incoming]" in said and said in a.said()
        assert works(liars.greet("n"))
        assert all(works(liar) for liar in mine)

        # One that is left alone makes room, as a host that was restarted leaves them.
        at = len(a.said())
        mine[1].close()
        liars.open.remove(mine[1])
        wait_until(lambda: works(mine[0]) and "the connection to m broke" in a.said()[at:],
                   "the daemon to hear of the end")
        late = liars.greet()
        assert works(late) and works(mine[0]) and works(mine[2])
        assert "as many as it may" in liars.refused()
        assert "is not known here" in liars.refused(session=mine[1].session, secret=mine[1].secret)
        assert "it has had no connection for the longest" in a.said()


def test_lanes(workdir, pki):
    with attacked(workdir, pki) as (_, liars):
        first = []
        for _ in range(LANES // 16):
            first.append(liars.greet())
            for lane in range(1, 16):
                liars.join(first[-1], lane)
        full = f"your host has {LANES} connections here, as many as one host may"
        assert full in liars.refused()
        # Another in the place of one, and all that another host wants.
        liars.join(first[0], 15)
        other = liars.greet("n")
        assert works(other) and all(works(liar) for liar in first)


def hoard(liar):
    """Messages that nobody can be given: the first is missing. Some 3.7 MiB."""
    for seq in range(1, 64):
        liar.send(DATA, bytes(60_000), seq=seq)


def test_messages(workdir, pki):
    with attacked(workdir, pki) as (a, liars):
        before = a.peak_memory()
        modest, other = liars.greet(), liars.greet("n")
        for _ in range(MESSAGES // (63 * 60_000)):
            hoard(liars.greet())
        one_more = liars.greet()
        hoard(one_more)
        assert one_more.hung_up()
        liars.open.remove(one_more)
        wait_until(lambda: "the sessions of m hold more than 16 MiB of messages together" in a.said(), "its log to say so")
        assert works(modest) and works(other)
        assert a.peak_memory() - before < MESSAGES + (16 << 20)


def take_channels(liar, path):
    """As many as it gets; the last answer."""
    for n in range(1000):
        answer = ask(liar, "tunnel.open", connect=str(path), channel=2 * n + 1, credit=1024)
        if "ok" not in answer:
            return n, answer["error"]
    raise AssertionError("there is no end to it")


def test_buffers(workdir, pki):
    path = workdir / "sink.sock"
    with socket.socket(socket.AF_UNIX) as sink, attacked(workdir, pki) as (_, liars):
        sink.bind(str(path))
        sink.listen(4096)
        greedy, again, other = liars.greet(), liars.greet(), liars.greet("n")
        count, error = take_channels(greedy, path)
        assert count >= 16 and error["class"] == "limit"
        assert "buffers are all promised to other channels" in error["message"]
        assert take_channels(again, path)[0] == 0  # another session is no other host
        assert take_channels(other, path)[0] == FIRST_JOB
        assert works(greedy)


class SilentQemu:
    """Greets as QEMU does, and answers nothing after that."""

    def __init__(self, path):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(4096)
        self._open = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._open.append(client)
                client.sendall(b'{"QMP":{"version":{"qemu":{"major":9,"minor":0,"micro":0},"package":""},'
                               b'"capabilities":[]}}\r\n')
                said = b""
                while b"qmp_capabilities" not in said:
                    said += client.recv(1000)
                client.sendall(json.dumps({"return": {}, "id": _id_of(said)}).encode() + b"\r\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()
        for client in self._open:
            client.close()


def _id_of(line):
    return json.loads(line.decode()).get("id")


def test_jobs_in_preparation(workdir, pki):
    path = workdir / "silent.qmp"
    with SilentQemu(path), attacked(workdir, pki) as (a, liars):
        liar, other = liars.greet(), liars.greet("n")
        for n in range(3 * PREPARING):
            liar.call("job.prepare", job=f"flood{n:03}", dest_qmp=str(path), vm={})
            if n >= PREPARING:
                error = liar.hear()["error"]
                assert error["class"] == "limit"
                assert f"prepares {PREPARING} migrations of this host" in error["message"]
        assert len(a.jobs()) == PREPARING
        # Another host's is prepared; its own others go on.
        other.call("job.prepare", job="another0", dest_qmp=str(path), vm={})
        assert works(liar) and works(other)
        assert len(a.jobs()) == PREPARING + 1


def test_prepared_and_never_begun(workdir, pki):
    """A waiting QEMU is not kept waiting by a source that is there and silent about it."""
    guest = qemu.Guest(memory=64, pages=64, params="hz=1000 rate=5 beat=5")
    with attacked(workdir, pki, DROVER_TEST_BEGIN_S="1") as (a, liars), \
            qemu.Machine(qemu.newest(), guest, name="src") as source, \
            qemu.Machine(qemu.newest(), guest, incoming=True, name="dst") as dest, \
            LyingHost(pki / "m") as listener:
        # What a real source would say of its VM.
        with a.running("migrate", "--qmp", source.drover_qmp, "--to", listener.address, "--dest-qmp",
                       "/dest.qmp", "--drop-timeout", "1") as move:
            asked = listener.accept().welcome().hear()["args"]
            listener.close()
            assert move.wait().status == 1
        liar = liars.greet()
        prepared = ask(liar, "job.prepare", **{**asked, "job": "neverrun", "dest_qmp": str(dest.drover_qmp)})
        assert "vm" in prepared["ok"], prepared
        told = liar.hear()
        assert told["tell"] == "job.failed"
        assert "did not begin it within 1 s" in told["args"]["error"]["message"]
        while (told := liar.hear())["tell"] != "job.news":
            pass
        assert works(liar)
        assert json.loads(a.drover("show", "neverrun", "--json").stdout)["state"] == "failed"
        assert dest.wait_exit() is not None  # it was given to this job
