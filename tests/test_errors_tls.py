# SPDX-License-Identifier: Apache-2.0
"""Peers that must not be trusted, each with its own sentence, and peers that are no droverd at all."""
import contextlib
import ctypes
import socket
import ssl
import struct
import threading

import pytest

from harness import pki as certificates
from harness import qemu
from harness.qemu import Guest, Machine
from harness.scene import FaultyDaemon, free, one_sentence, wait_until

# docs/wire-protocol.md
HEADER = struct.Struct(">BBHIQIIQQ")
HELLO, REFUSE = 1, 3
MAGIC = b"DROVER\r\n"
VERSIONS = struct.Struct(">HH")
REASON_VERSION = struct.pack(">H", 1)


@pytest.fixture(scope="module")
def source():
    """One guest for all: none of these may touch it."""
    guest = Guest(memory=64, pages=64, params="hz=1000 rate=5 beat=5")
    with Machine(qemu.oldest(), guest, name="src") as machine:
        yield machine.wait_ready()


@pytest.fixture
def ca(workdir):
    return certificates.Authority(workdir / "ca")


def try_to(a, source, address, timeout=60):
    """The initiator's view: its sentence; the guest runs on and its socket is free."""
    before = source.qmp.command("query-migrate-parameters")
    result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", address, "--dest-qmp",
                      "/nonexistent/dest.qmp", "--json", timeout=timeout)
    source.console.wait_beats(2)
    assert source.running() and free(source.drover_qmp)
    assert source.qmp.command("query-migrate-parameters") == before
    return result


def good(ca, workdir, name):
    return ca.issue(workdir / f"pki-{name}", name, alt=("IP:127.0.0.1",))


# The destination's certificate, and what the initiator must say of it.
BAD_SERVERS = {
    "expired": (dict(start="-2d", end="-1d"), ("has expired", "renew it")),
    "not-yet-valid": (dict(start="1d", end="2d"), ("is not valid yet", "clocks")),
    "wrong-ip": (dict(alt=("IP:127.0.0.9",)), ("is not for '127.0.0.1'",)),
    "only-for-clients": (dict(usage="clientAuth"), ("certificate of 127.0.0.1", "not meant for both ends")),
}


@pytest.mark.parametrize("what", BAD_SERVERS)
def test_a_destination_with_a_bad_certificate(workdir, ca, source, what):
    changes, words = BAD_SERVERS[what]
    pki = ca.issue(workdir / "pki-b", "b", **{"alt": ("IP:127.0.0.1",), **changes})
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, tls_server(pki) as server:
        one_sentence(try_to(a, source, server.address), 1, *words)


def test_a_wrong_host_name(workdir, ca, source):
    pki = ca.issue(workdir / "pki-b", "somewhere-else", alt=("IP:127.0.0.1",))
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, tls_server(pki) as server:
        port = server.address.rsplit(":", 1)[1]
        one_sentence(try_to(a, source, f"localhost:{port}"), 1, "is not for 'localhost'")


def test_a_foreign_ca_seen_by_the_initiator(workdir, ca, source):
    other = certificates.Authority(workdir / "other", "another authority")
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            tls_server(other.issue(workdir / "pki-b", "b", alt=("IP:127.0.0.1",))) as server:
        one_sentence(try_to(a, source, server.address), 1, "is not from our CA", "pki init")


def test_a_foreign_ca_of_two_daemons(workdir, ca, source):
    other = certificates.Authority(workdir / "other", "another authority")
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            FaultyDaemon(workdir, "b", good(other, workdir, "b")) as b:
        one_sentence(try_to(a, source, b.address), 1, "is not from our CA")


# Our own certificate, as a destination judges it: it says so by an alert.
BAD_CLIENTS = {
    "expired": (dict(start="-2d", end="-1d"), "has expired"),
    "not-yet-valid": (dict(start="1d", end="2d"), "is not valid yet"),
    "only-for-servers": (dict(usage="serverAuth"), "not meant for both ends"),
}


@pytest.mark.parametrize("what", BAD_CLIENTS)
def test_the_acceptor_refuses_our_certificate(workdir, ca, what):
    """The client is Python's here: droverd would not start with such a certificate."""
    changes, words = BAD_CLIENTS[what]
    pki = ca.issue(workdir / "bad", "x", **changes)
    with FaultyDaemon(workdir, "b", good(ca, workdir, "b"), extra=debug(workdir)) as b:
        with pytest.raises((ssl.SSLError, ConnectionError), match="alert|reset|EOF"):
            with tls_client(b, pki, ca) as s:
                s.recv(1)
        wait_until(lambda: "the certificate of 127.0.0.1:" in b.said(), "the acceptor's word")
        assert words in b.said()
        assert b.alive()


def test_no_client_certificate(workdir, ca):
    with FaultyDaemon(workdir, "b", good(ca, workdir, "b"), extra=debug(workdir)) as b:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with tls_client(b, None, ca) as s:
                s.recv(1)
        wait_until(lambda: "did not show a certificate" in b.said(), "the acceptor's word")


def test_a_client_of_tls_12(workdir, ca):
    with FaultyDaemon(workdir, "b", good(ca, workdir, "b"), extra=debug(workdir)) as b:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            with tls_client(b, good(ca, workdir, "x"), ca, maximum=ssl.TLSVersion.TLSv1_2):
                pass
        wait_until(lambda: "TLS" in b.said(), "the acceptor's word")


def test_a_server_of_tls_12(workdir, ca, source):
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            tls_server(good(ca, workdir, "b"), maximum=ssl.TLSVersion.TLSv1_2) as server:
        one_sentence(try_to(a, source, server.address), 1, "TLS", "1.3")


def test_a_server_that_does_not_speak_tls(workdir, ca, source):
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            Server(lambda s: s.sendall(b"220 mail.example ESMTP\r\n") or s.recv(1 << 16)) as server:
        one_sentence(try_to(a, source, server.address), 1, "does not speak TLS", "is it a droverd")


def test_a_silent_server(workdir, ca, source):
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            Server(drain) as server:
        one_sentence(try_to(a, source, server.address), 1, "said nothing for", "is it a droverd")


def test_a_server_that_hangs_up(workdir, ca, source):
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, Server(lambda s: None) as server:
        one_sentence(try_to(a, source, server.address), 1, server.address)


def test_a_tls_server_of_another_kind(workdir, ca, source):
    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            tls_server(good(ca, workdir, "b"), lambda s: s.recv(1 << 16) and s.sendall(
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" * 4)) as server:
        one_sentence(try_to(a, source, server.address), 1, server.address)


def test_a_destination_of_another_version(workdir, ca, source):
    """It refuses us, in its own words, as any later drover will."""
    def refuse(s):
        assert read_frame(s)[0] == HELLO
        s.sendall(frame(REFUSE, REASON_VERSION + b"versions 7 to 9 are spoken here: update drover"))
        drain(s)

    with FaultyDaemon(workdir, "a", good(ca, workdir, "a")) as a, \
            tls_server(good(ca, workdir, "b"), refuse) as server:
        one_sentence(try_to(a, source, server.address), 1, "versions 7 to 9")


def test_an_initiator_of_another_version(workdir, ca):
    with FaultyDaemon(workdir, "b", good(ca, workdir, "b")) as b:
        with tls_client(b, good(ca, workdir, "x"), ca) as s:
            s.sendall(frame(HELLO, MAGIC + VERSIONS.pack(7, 9) + bytes(100)))
            kind, words = read_frame(s)
        assert kind == REFUSE and words[:2] == REASON_VERSION
        for word in (b"7", b"9", b"version"):
            assert word in words, words
        wait_until(lambda: "version" in b.said(), "the acceptor's word")


# ---- hand-made peers ----

def debug(workdir):
    path = workdir / "debug.conf"
    path.write_text("[daemon]\nlog-level = debug\n")
    return ("--config", str(path))


class _Digest(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_XXH = ctypes.CDLL("libxxhash.so.0")
_XXH.XXH3_128bits.restype = _Digest
_XXH.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def frame(kind, payload):
    digest = _XXH.XXH3_128bits(payload, len(payload))
    return HEADER.pack(kind, 0, 0, 0, 0, len(payload), len(payload), digest.high, digest.low) + payload


def read_exactly(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read_frame(s):
    header = HEADER.unpack(read_exactly(s, HEADER.size))
    return header[0], read_exactly(s, header[6])


def drain(s):
    while s.recv(1 << 16):
        pass


class Server:
    """Serves each connection with a function, in a thread of its own."""

    def __init__(self, serve, context=None):
        self._serve, self._context = serve, context
        # Both families: 'localhost' may be either.
        self._listener = socket.create_server(("::", 0), family=socket.AF_INET6,
                                              dualstack_ipv6=True)
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self._listener.accept()
                threading.Thread(target=self._run, args=(s,), daemon=True).start()

    def _run(self, s):
        with contextlib.suppress(OSError, EOFError), s:
            s.settimeout(60)
            if self._context:
                with self._context.wrap_socket(s, server_side=True) as tls:
                    self._serve(tls)
            else:
                self._serve(s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()


def tls_server(pki, serve=drain, maximum=ssl.TLSVersion.TLSv1_3):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "cert.pem", pki / "key.pem")
    context.maximum_version = maximum
    return Server(serve, context)


def tls_client(daemon, pki, ca, maximum=ssl.TLSVersion.TLSv1_3):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca.certificate)
    context.maximum_version = maximum
    if pki:
        context.load_cert_chain(pki / "cert.pem", pki / "key.pem")
    host, port = daemon.address.rsplit(":", 1)
    s = socket.create_connection((host, int(port)), timeout=60)
    return context.wrap_socket(s, server_hostname=host)
