# SPDX-License-Identifier: Apache-2.0
"""The relay and the shaped link do to connections what they say."""
import contextlib
import select
import socket
import threading
import time

import pytest

from harness import native, qemu
from harness.link import GBIT, Link, link_problem
from harness.qemu import Guest, Machine
from harness.relay import Relay


class Echo:
    """Sends back what it gets, on every connection."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    @staticmethod
    def _echo(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)


@pytest.fixture
def relay():
    with Relay("127.0.0.1", Echo().port) as r:
        yield r


def dial(relay):
    return socket.create_connection(("127.0.0.1", relay.port), timeout=30)


def echo(s, data=b"hello"):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        more = s.recv(65536)
        if not more:
            raise ConnectionResetError("the connection ended")
        got += more
    return got


def test_relay_passes_bytes_and_ends(relay):
    with dial(relay) as s:
        data = bytes(range(256)) * 400
        assert echo(s, data) == data
        s.shutdown(socket.SHUT_WR)
        assert s.recv(10) == b""
    assert relay.bytes == [len(data), len(data)] and relay.connections == 1


@pytest.mark.parametrize("reset", (False, True))
def test_relay_cut_refuses_until_restored(relay, reset):
    with dial(relay) as s:
        echo(s)
        relay.cut(reset)
        if reset:
            with pytest.raises(ConnectionResetError):
                s.recv(10)
        else:
            assert s.recv(10) == b""
    with pytest.raises(ConnectionRefusedError):
        dial(relay)
    relay.restore()
    with dial(relay) as s:
        assert echo(s) == b"hello"


def test_relay_stall_blocks_the_sender_and_loses_nothing(relay):
    with dial(relay) as s:
        echo(s)
        relay.stall()
        s.setblocking(False)
        sent = 0
        while select.select([], [s], [], 0.5)[1]:
            sent += s.send(b"x" * 65536)
        assert not select.select([s], [], [], 0)[0]
        relay.restore()
        s.settimeout(30)
        got = 0
        while got < sent:
            got += len(s.recv(65536))
        assert got == sent


def test_relay_blackhole_swallows(relay):
    with dial(relay) as s:
        echo(s)
        relay.blackhole()
        for _ in range(200):  # much more than any buffer on the way
            s.sendall(b"x" * 65536)
        assert not select.select([s], [], [], 0.2)[0]
        relay.restore()
        with pytest.raises(ConnectionResetError):
            s.recv(10)


def test_relay_half_open(relay):
    with dial(relay) as s:
        echo(s)
        relay.close_one(1)
        s.sendall(b"is anybody there")
        assert not select.select([s], [], [], 0.2)[0]
        relay.close_one(0)
        assert s.recv(10) == b""


def test_relay_cut_every(relay):
    relay.cut_every(100_000)
    for n in (1, 2, 3):
        with dial(relay) as s, pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:
                echo(s, b"y" * 10_000)
        assert relay.cuts == n
    relay.cut_every(0)
    with dial(relay) as s:
        assert len(echo(s, b"z" * 300_000)) == 300_000


def test_relay_without_a_target_resets():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with Relay("127.0.0.1", port) as relay, pytest.raises(ConnectionResetError):
        with dial(relay) as s:
            s.recv(10)


@pytest.fixture
def link():
    if link_problem():
        pytest.skip(f"no network namespaces: {link_problem()}")
    with Link() as made:
        yield made


def test_link_carries_a_migration_at_its_rate(link):
    """32 MiB of incompressible pages: no faster than the link, and all of them on the link."""
    first = qemu.oldest()
    guest = Guest(mode="idle", pages=8192, params="body=random hz=100 beat=1")
    for rate in (GBIT, GBIT // 4):
        link.shape(rate)
        before = link.wire_bytes()
        with Machine(first, guest, prefix=link.a.prefix) as source, \
                Machine(first, guest, incoming=True, prefix=link.b.prefix) as dest:
            source.wait_ready()
            began = time.monotonic()
            native.migrate(source, dest, uri=f"tcp:{link.b.address}:4444")
            took = time.monotonic() - began
        carried = link.wire_bytes()[0] - before[0]
        assert carried > 8192 * 4096
        assert carried * 8 / took < rate * 1.15, "faster than the link"


def test_link_cut_and_restore(link):
    def reaches():
        try:
            link.a.run("python3", "-c", "import socket, sys;"
                       f"s = socket.create_connection(('{link.b.address}', 9), 1)")
        except RuntimeError as e:
            # An answer, be it a refusal, has crossed the link; silence is a time-out.
            return "ConnectionRefusedError" in str(e)
        return True

    assert reaches()
    link.cut()
    assert not reaches()
    link.restore()
    assert reaches()
    link.down()
    assert not reaches()
    link.up()
    assert reaches()
