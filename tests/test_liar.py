# SPDX-License-Identifier: Apache-2.0
"""A peer that lies: it has a good certificate, and attacks a daemon whose guest is on its way to another host. Each
lie is refused in bounded time and memory, the log names it, and the guest arrives. docs/security.md: what is tested
where."""
import socket
import threading
import time

import pytest

from harness import daemon, qemu
from harness.liar import ACK, BYE, CREDIT, DATA, HELLO, LZ4, Liar, LyingHost, frame, hello
from harness.scene import GUEST, Scene, one_sentence, wait_until

# More written anew than the slow link carries, so that it is under way until the link is fast again.
BUSY = GUEST.variant(params="hz=1000 rate=20 beat=20")
SLOW = 300_000
MEMORY = 160 << 20  # buffers (60 MiB) and messages that wait, for all lies together
DEBUG = "[daemon]\nlog-level=debug\n"


@pytest.fixture
def pki(workdir):
    return daemon.make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1,localhost", "m=127.0.0.1")


# ---- lies: each ends with what the daemon's log must say ----

def silence(connect):
    assert connect().hung_up()
    return "then said nothing for 10 s"


def one_byte_a_second(connect):
    liar = connect()
    liar.tls.settimeout(1)
    for byte in frame(HELLO, hello()):
        liar.send_bytes(bytes([byte]))
        try:
            if liar.hung_up():
                return "then said nothing for 10 s"
        except socket.timeout:
            pass
    raise AssertionError("it has heard the hello to its end")


def no_tls(connect):
    with socket.create_connection(connect.host, 30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(1000):
            pass
    return "refused a connection"


def garbage(connect):
    liar = connect()
    liar.send_bytes(b"\xee" * 400)
    assert liar.hung_up()
    return "does not speak drover's protocol, is it a droverd? the peer sent a frame (type 238)"


def data_before_hello(connect):
    liar = connect()
    liar.send(DATA, b"{}")
    assert liar.hung_up()
    return "sent data before it had greeted"


def refused_hello(says, text, **header):
    def lie(connect):
        liar = connect()
        liar.send(HELLO, text, **header)
        assert says in liar.refusal()
        return says
    return lie


def hello_of_an_odd_length(connect):
    liar = connect()
    liar.send(HELLO, hello(), raw=4097, wire=4097)
    assert liar.hung_up()
    return "a frame (type 1) whose raw length is out of bounds"


def broken(says, *args, **header):
    """A frame after the greeting that ends the session."""
    def lie(connect):
        liar = connect().greet()
        liar.send(*args, **header)
        assert liar.hung_up()
        return says
    return lie


def ack(received, delivered):
    return ACK, b"".join(n.to_bytes(size, "big") for n, size in ((0, 4), (received, 8), (delivered, 8)))


def progress_in_the_hello(connect):
    first = connect().greet()
    connect().send(HELLO, hello(session=first.session, secret=first.secret, lane=1,
                                progress=[(0, 7, 7)]))
    assert first.hung_up()
    return "acknowledged frame 7 of channel 0"


def a_message_that_is_none(connect):
    liar = connect().greet()
    liar.message(b'{"id":1,"call":"x","args":/*"*/' + b"[" * 60000)
    liar.message(b"\xff\x00")
    liar.call("no.such.thing", job="x" * 100)
    assert "is not possible here" in liar.hear()["error"]["message"]
    liar.send(DATA, bytes(100), channel=4711)  # of a channel that nobody opened: dropped
    liar.ack(4711, 5, 5)
    liar.send(BYE)
    assert liar.hung_up()
    return "sent a message that cannot be read"


def jobs_of_others(connect):
    liar = connect().greet()
    job = connect.job
    for what in ("job.commit", "job.abort", "job.channel", "job.digest", "job.disk"):
        liar.call(what, job=job, channel=1, credit=8, index=0)
        assert "error" in liar.hear()
    liar.call("job.prepare", job="../../x", dest_qmp="/x", vm={"blocks": [{"block": 7, "size": -1}]})
    assert liar.hear()["error"]["class"] == "protocol"
    return ""


def many_channels(connect):
    """10,000 of them, answered as fast as it can: all buffers there are, and no more."""
    path = connect.workdir / "sink.sock"
    with socket.socket(socket.AF_UNIX) as sink:
        sink.bind(str(path))
        sink.listen(4096)
        liar = connect().greet()
        for odd in ({"channel": 2, "credit": 8}, {"channel": 1 << 40, "credit": 8},
                    {"channel": 30001, "credit": 0}, {"channel": 30001, "credit": 1 << 40}):
            liar.call("tunnel.open", connect=str(path), **odd)
            assert liar.hear()["error"]["class"] == "protocol"
        taken, asked, heard = 0, 0, 0
        while heard < 10_000:
            while asked < 10_000 and asked - heard < CREDIT // 2:
                liar.call("tunnel.open", connect=str(path), channel=2 * asked + 1, credit=1024)
                asked += 1
            answer = liar.hear()
            heard += 1
            taken += "ok" in answer
            assert "ok" in answer or answer["error"]["class"] in ("limit", "unreachable"), answer
        assert 0 < taken < 200
        liar.send(DATA, bytes(1000), channel=1, seq=1 << 20)
        assert liar.hung_up()
        sink.setblocking(False)
        try:
            while True:
                sink.accept()[0].close()
        except BlockingIOError:
            pass
        again = connect().greet()  # what it held went with its session
        again.call("tunnel.open", connect=str(path), channel=1, credit=8)
        assert "ok" in again.hear()
        again.send(BYE)
        assert again.hung_up()
    audited = (connect.state / "audit.log").read_text()
    assert audited.count("tunnel.open") < 300  # refusals once a second
    return "beyond the credit"


def calls_without_end(connect):
    """Long answers, none of which it takes."""
    liar = connect().greet()
    delivered = asked = 0
    try:
        while asked < 10_000:
            while asked - delivered < CREDIT // 2:
                liar.call("no.such.thing", job="x" * 30_000)
                asked += 1
            kind, channel, payload = liar.read()
            if kind == ACK and channel == 0 and payload[:4] == bytes(4):
                delivered = int.from_bytes(payload[12:], "big")
    except ConnectionError:
        return "m does not take what is said to it"
    raise AssertionError("all its answers were kept")


# A run of zeros: one literal, then a match of thousands of bytes at distance 1.
BOMB = b"\x1f\x00\x01\x00" + b"\xff" * 300 + b"\x00\x50" + bytes(5)

LIES = [
    no_tls, garbage, data_before_hello,
    refused_hello("does not speak drover's protocol", b"GET / HTTP/1.1\r\n\r\n"),
    refused_hello("protocol versions 7 to 7 are offered", hello(version=7)),
    refused_hello("features 0x80 are insisted on", hello(features=128)),
    refused_hello("malformed hello", hello() + b"x"),
    refused_hello("malformed hello", hello(lane=16)),
    refused_hello("is not known here", hello(session=b"s" * 16)),
    hello_of_an_odd_length,
    broken("does not match its checksum", DATA, b"{}", sum=(1, 2)),
    broken("whose raw length is out of bounds", DATA, raw=1 << 31, wire=1 << 31),
    broken("whose wire length is out of bounds", DATA, codec=LZ4, raw=10, wire=1 << 20),
    broken("whose codec is out of bounds", DATA, codec=9),
    broken("whose flags is out of bounds", DATA, flags=0x80),
    broken("sent a message of 131072 bytes", DATA, bytes(1 << 17)),
    broken("beyond the credit", DATA, b"{}", seq=1 << 63),
    broken("beyond the credit", DATA, b"{}", seq=CREDIT),
    broken("lz4 data cannot be decoded", DATA, BOMB, codec=LZ4, raw=4000),
    broken("acknowledged frame 5 of channel 0, of which only", *ack(5, 5)),
    broken("malformed ack", *ack(0, 1)),
    broken("out of turn", HELLO, hello()),
    progress_in_the_hello, a_message_that_is_none, jobs_of_others, many_channels, calls_without_end,
]


class Connect:
    """Makes liars, and ends them."""

    def __init__(self, scene, workdir, pki, job):
        self._address, self._pki, self._open = scene.a.address, pki / "m", []
        host, port = self._address.rsplit(":", 1)
        self.host, self.workdir, self.job = (host, int(port)), workdir, job
        self.state = scene.a.state

    def __call__(self):
        self._open.append(Liar(self._address, self._pki))
        return self._open[-1]

    def close(self):
        while self._open:
            self._open.pop().close()


def test_a_liar_connects(workdir, pki):
    with Scene(workdir, qemu.newest(), guest=BUSY, relay=True, pki=pki, config=DEBUG) as scene:
        scene.relay.slow(SLOW)
        move = scene.migrate()
        job = scene.a.wait_job("copying")["job"]
        connect = Connect(scene, workdir, pki, job)
        before = scene.a.peak_memory()
        ended = []

        def patiently(lie):
            mine = Connect(scene, workdir, pki, job)
            try:
                ended.append((lie.__name__, lie(mine)))
            except BaseException as e:  # pylint: disable=W0718
                ended.append((lie.__name__, e))
            mine.close()

        threads = [threading.Thread(target=patiently, args=(lie,))
                   for lie in (silence, one_byte_a_second)]
        for thread in threads:
            thread.start()
        for lie in LIES:
            at = len(scene.a.said())
            said = lie(connect)
            connect.close()
            deadline = time.monotonic() + 60
            while said not in scene.a.said()[at:]:
                assert time.monotonic() < deadline, (lie, said, scene.a.said()[at:])
                time.sleep(0.01)
            assert scene.a.alive(), scene.a.said()
        for thread in threads:
            thread.join(60)
        assert sorted(ended) == [("one_byte_a_second", "then said nothing for 10 s"),
                                  ("silence", "then said nothing for 10 s")]
        wait_until(lambda: scene.a.said().count("then said nothing for 10 s") >= 2, "its log to say so")
        assert scene.a.peak_memory() - before < MEMORY
        assert scene.a.job("source")["state"] == "copying"  # all the while
        scene.relay.slow(0)
        result = move.wait()
        assert result.status == 0, result.stderr
        scene.check_runs_at_dest()


# ---- the same as a destination ----

def welcome_of_another_version(host):
    host.welcome(version=9)
    return "versions 9 to 9 are offered"


def acks_at_once(host):
    host.welcome(progress=[(0, 9, 9)])
    return "acknowledged frame 9 of channel 0"


def garbage_for_a_welcome(host):
    host.read()
    host.send_bytes(b"\xee" * 400)
    return "does not speak drover's protocol"


def answer(ok):
    """To job.prepare."""
    def lie(host):
        asked = host.welcome().hear()
        assert asked["call"] == "job.prepare"
        host.message({"id": asked["id"], "ok": ok})
        return ""
    return lie


def refuses_with_junk(host):
    asked = host.welcome().hear()
    host.message({"id": asked["id"], "error": {"class": 7, "message": ["x"]}})
    return "the peer's answer cannot be understood"


def loaded_before_it_was_sent(host):
    asked = host.welcome().hear()
    host.message({"tell": "job.loaded", "args": {"job": asked["args"]["job"], "digests": []}})
    host.message({"id": asked["id"] + 7, "ok": {"state": "running"}})
    host.message({"id": asked["id"], "error": {"class": "state", "message": "never mind"}})
    return "never mind"


TO_A_SOURCE = {
    "version": welcome_of_another_version, "garbage": garbage_for_a_welcome, "acks": acks_at_once,
    "junk": refuses_with_junk, "loaded": loaded_before_it_was_sent,
    "direct": answer({"vm": {}, "direct": {"secret": "00", "blocks": [{"block": "x", "size": -1}]}}),
    "disks": answer({"vm": [], "disks": 1 << 40, "direct": 7, "memory": [7, {}]}),
}


@pytest.fixture(scope="module")
def source():
    with qemu.Machine(qemu.newest(), BUSY, name="src") as machine:
        yield machine.wait_ready()


def test_a_liar_is_connected_to(workdir, pki, source):
    """One guest and one daemon for all the lies: it stays where it is."""
    with daemon.Daemon(workdir, "a", pki / "a") as a:
        for name, lie in TO_A_SOURCE.items():
            with LyingHost(pki / "m") as host:
                move = a.running("migrate", "--qmp", source.drover_qmp, "--to", host.address,
                                 "--dest-qmp", "/dest.qmp", "--json", "--timeout", "20",
                                 "--drop-timeout", "2")
                with move:
                    says = lie(host.accept())
                    host.close()
                    result = move.wait()
            one_sentence(result, 1, says)
            assert result.json["state"] == "failed", name
            assert source.running() and a.alive(), name
            source.console.wait_beats(2)
