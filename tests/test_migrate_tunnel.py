# SPDX-License-Identifier: Apache-2.0
"""'drover tunnel': a unix socket here is one there, with all that a socket's user may rely on."""
import contextlib
import os
import socket
import threading

import pytest

from conftest import binary
from harness import memory, native, qemu
from harness.handover import (Hosts, check_goes_on, lost_by_qemu, migrate_exactly,
                              sockets_in)
from harness.qemu import MIB, Guest, Machine
from harness.relay import Relay
from harness.scene import wait_until


class Scene:
    """Two hosts and a tunnel from 'here' to a listening socket 'there'."""

    def __init__(self, hosts, workdir, to=None):
        self.hosts = hosts
        self.here, self.there = workdir / "here.sock", workdir / "there.sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.there))
        self.listener.listen(32)
        self.listener.settimeout(60)
        result = hosts.a.drover("tunnel", "--listen", self.here, "--to", to or hosts.b.address,
                                "--connect", self.there, "--json")
        assert result.status == 0, result
        self.job = result.json["job"]

    def dial(self):
        near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        near.settimeout(60)
        near.connect(str(self.here))
        return near

    def pair(self):
        """A connection through the tunnel: its two ends."""
        near = self.dial()
        far, _ = self.listener.accept()
        far.settimeout(60)
        return near, far

    def connections(self):
        return self.hosts.a.drover("show", self.job, "--json").json["progress"]["connections"]


@pytest.fixture
def tunnel(workdir, pki):
    with Hosts(workdir, pki, hold=False) as hosts:
        scene = Scene(hosts, workdir)
        with scene.listener:
            yield scene


def read_all(s):
    data = bytearray()
    while more := s.recv(1 << 16):
        data += more
    return bytes(data)


def send_from_thread(s, data, end=True):
    def send():
        s.sendall(data)
        if end:
            s.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_bytes_both_ways_at_once(tunnel):
    near, far = tunnel.pair()
    with near, far:
        forth, back = os.urandom(5 * MIB), b"all the same " * 400_000
        threads = send_from_thread(near, forth), send_from_thread(far, back)
        got = []
        reader = threading.Thread(target=lambda: got.append(read_all(near)), daemon=True)
        reader.start()
        assert read_all(far) == forth
        reader.join(30)
        assert got == [back]
        for thread in threads:
            thread.join(30)


def test_half_close(tunnel):
    """The end of one direction is passed on, and the other goes on for as long as it likes."""
    near, far = tunnel.pair()
    with near, far:
        near.sendall(b"a question")
        near.shutdown(socket.SHUT_WR)
        assert read_all(far) == b"a question"
        for part in (b"a long ", b"answer"):
            far.sendall(part)
            assert near.recv(100) == part
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""


def test_small_messages_are_not_held_back(tunnel):
    near, far = tunnel.pair()
    with near, far:
        for i in range(200):
            ask, answer = b"%d?" % i, b"%d!" % i
            near.sendall(ask)
            assert far.recv(100) == ask
            far.sendall(answer)
            assert near.recv(100) == answer


def test_several_connections_do_not_mix(tunnel):
    pairs = [tunnel.pair() for _ in range(8)]
    with contextlib.ExitStack() as stack:
        for near, far in pairs:
            stack.enter_context(near)
            stack.enter_context(far)
        assert tunnel.connections() == len(pairs)
        data = [bytes([i]) * (200_000 + i) for i in range(len(pairs))]
        for (near, _), text in zip(pairs, data):
            send_from_thread(near, text)
        for (_, far), text in reversed(list(zip(pairs, data))):
            assert read_all(far) == text
        # One that does not read holds up nobody else.
        stuck, other = pairs[0][1], pairs[1]
        stuck.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                stuck.send(b"x" * MIB)
        other[1].sendall(b"hello")
        assert other[0].recv(100) == b"hello"


def test_a_connection_that_ends_is_forgotten(tunnel):
    for _ in range(40):  # more than buffers are there for at a time
        near, far = tunnel.pair()
        near.sendall(b"x")
        assert far.recv(1) == b"x"
        far.close()
        assert near.recv(1) == b""
        near.close()
    near, far = tunnel.pair()
    with near, far:
        near.sendall(b"still there")
        assert far.recv(100) == b"still there"
        assert tunnel.connections() == 1


def test_an_end_that_dies_is_told_to_the_other(tunnel):
    """What it has not read was in vain; the other end must not wait for ever."""
    near, far = tunnel.pair()
    with near:
        near.sendall(b"x" * 1000)
        assert far.recv(1) == b"x"
        far.close()  # with bytes unread: a reset, on a unix socket
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            assert near.recv(1) == b""
            while True:
                near.sendall(b"y" * 65536)


def test_nobody_there(tunnel):
    """The far socket's refusal is an end of the near one, and the tunnel is good for the next."""
    tunnel.listener.close()
    with tunnel.dial() as near:
        assert near.recv(1) == b""
    tunnel.there.unlink()
    tunnel.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    tunnel.listener.bind(str(tunnel.there))
    tunnel.listener.listen(1)
    tunnel.listener.settimeout(60)
    near, far = tunnel.pair()
    with near, far:
        near.sendall(b"now")
        assert far.recv(10) == b"now"


def test_not_to_the_other_daemon_itself(tunnel, workdir):
    """Its API is for users of its own host, whatever the path is called."""
    link = workdir / "innocent.sock"
    link.symlink_to(tunnel.hosts.b.api)
    here = workdir / "b.sock"
    assert tunnel.hosts.a.drover("tunnel", "--listen", here, "--to", tunnel.hosts.b.address,
                                 "--connect", link).status == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as near:
        near.settimeout(60)
        near.connect(str(here))
        assert near.recv(1) == b""
    wait_until(lambda: "innocent.sock is droverd's own" in tunnel.hosts.a.said(), "the reason")


def test_cancel_ends_it_all(tunnel):
    near, far = tunnel.pair()
    with near, far:
        assert tunnel.here.stat().st_mode & 0o777 == 0o600
        result = tunnel.hosts.a.drover("cancel", tunnel.job)
        assert result.status == 0, result
        assert near.recv(1) == b"" and far.recv(1) == b""
    assert not tunnel.here.exists() and sockets_in(tunnel.hosts.a) == []
    assert tunnel.hosts.a.drover("jobs", "--json").json["jobs"] == []


def test_in_the_foreground_it_ends_with_the_command(workdir, pki):
    here, there = workdir / "h", workdir / "t"
    with Hosts(workdir, pki, hold=False) as hosts, \
            hosts.a.running("tunnel", "--listen", here, "--to", hosts.b.address, "--connect",
                            there, "--foreground") as command:
        command.wait_output("serves")
        assert here.is_socket()
        command.process.terminate()
        assert command.wait().status == 0
        assert not here.exists()


def test_connections_survive_a_link_that_is_cut(workdir, pki):
    with Hosts(workdir, pki, hold=False) as hosts, \
            Relay(*hosts.b.address.rsplit(":", 1)) as relay:
        scene = Scene(hosts, workdir, relay.address)
        near, far = scene.pair()
        with near, far, scene.listener:
            data = os.urandom(8 * MIB)
            relay.cut_every(1 * MIB)
            send_from_thread(near, data)
            assert read_all(far) == data
            relay.cut_every(0)
            far.sendall(b"and back")
            assert near.recv(100) == b"and back"
            assert relay.cuts >= 4


@pytest.mark.parametrize("channels", (0, 2), ids=("plain", "multifd"))
@pytest.mark.parametrize("version", ("7.2", "10.0"))
def test_qemus_own_migration_through_it(workdir, pki, version, channels):
    """As libvirt would: QEMU is told of nothing but a unix socket."""
    guest = Guest(params="hz=1000 rate=5 beat=5", pages=1024)
    chosen = binary(version)
    with Machine(chosen, guest, name="src") as source, \
            Machine(chosen, guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        here, there = workdir / "here.sock", workdir / "there.sock"
        made = hosts.a.drover("tunnel", "--listen", here, "--to", hosts.b.address,
                              "--connect", there)
        assert made.status == 0, made
        source.wait_ready()
        for machine in (source, dest):
            native.set_capabilities(machine, return_path=True, events=True,
                                    multifd=bool(channels))
            native.set_parameters(machine, max_bandwidth=0,
                                  **({"multifd_channels": channels} if channels else {}))
        dest.qmp.command("migrate-incoming", {"uri": f"unix:{there}"})
        source.qmp.command("migrate", {"uri": f"unix:{here}"})
        assert native.wait_migration(source)["status"] == "completed"
        dest.qmp.wait_event("MIGRATION", 60, lambda data: data["status"] == "completed")
        differing = memory.compare(source, dest)
        assert differing == lost_by_qemu(differing, source)
        assert memory.check_pages(dest)["sound"]
        dest.cont()
        check_goes_on(source, dest, lost=differing)


def test_a_tunnel_and_a_migration_side_by_side(workdir, pki):
    """They share the session; neither is disturbed."""
    guest = Guest(params="hz=1000 rate=5 beat=5", pages=1024)
    version = qemu.newest()
    with Machine(version, guest, name="src") as source, \
            Machine(version, guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        scene = Scene(hosts, workdir)
        near, far = scene.pair()
        with near, far, scene.listener:
            data = os.urandom(16 * MIB)
            send_from_thread(near, data)
            got = []
            reader = threading.Thread(target=lambda: got.append(read_all(far)), daemon=True)
            reader.start()
            migrate_exactly(hosts, source, dest)
            reader.join(60)
            assert got == [data]
