# SPDX-License-Identifier: Apache-2.0
"""A peer with a good certificate that says what it likes: docs/wire-protocol.md by hand.

    with Liar(daemon.address, pki / "m") as liar:
        liar.greet()                                   # a session of its own, in good order
        liar.send(DATA, b"{}", seq=1 << 40)            # and then not
        assert liar.hung_up()
"""
import ctypes
import json
import socket
import ssl
import struct
import time

HELLO, WELCOME, REFUSE, PING, PONG, ACK, DATA, BYE = range(1, 9)
NONE, LZ4, ZSTD = range(3)
MAGIC = b"DROVER\r\n"
HEADER = struct.Struct(">BBHIQIIQQ")
CREDIT = 64
# Seconds to wait for anything it should say.
LIMIT = 60


class _Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxhash = ctypes.CDLL("libxxhash.so.0")
_xxhash.XXH3_128bits.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_xxhash.XXH3_128bits.restype = _Hash128


def checksum(data):
    found = _xxhash.XXH3_128bits(data, len(data))
    return found.high, found.low


def frame(kind, payload=b"", codec=NONE, flags=0, channel=0, seq=0, **lies):
    """A frame in good order, but for what 'lies' say of its header: raw, wire or sum."""
    return HEADER.pack(kind, codec, flags, channel, seq, lies.get("raw", len(payload)),
                       lies.get("wire", len(payload)),
                       *lies.get("sum", checksum(payload))) + payload


def hello(version=1, features=0, session=bytes(16), secret=bytes(32), lane=0, name=b"liar",
          progress=()):
    return b"".join((MAGIC, struct.pack(">HHQ", version, version, features), session, secret,
                     struct.pack(">HB", lane, len(name)), name, struct.pack(">H", len(progress)),
                     *(struct.pack(">IQQ", *p) for p in progress)))


def _context(side, pki):
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_cert_chain(pki / "cert.pem", pki / "key.pem")
    context.load_verify_locations(pki / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Liar:
    """One lane; no more than is said of it is sent, and nothing is answered by itself."""

    def __init__(self, address, pki, timeout=LIMIT):
        host, port = address.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)), timeout)
        self.tls = _context(ssl.PROTOCOL_TLS_CLIENT, pki).wrap_socket(plain)
        self._start()

    def _start(self):
        self.session = self.secret = None
        self._seq = self._heard = self._id = 0

    # ---- bytes and frames ----

    def send_bytes(self, data):
        """As much as it takes: it may hang up in the middle."""
        try:
            self.tls.sendall(data)
        except (OSError, ssl.SSLError):
            pass

    def send(self, kind, payload=b"", **header):
        self.send_bytes(frame(kind, payload, **header))

    def ack(self, channel, received, delivered):
        self.send(ACK, struct.pack(">IQQ", channel, received, delivered))

    def _read(self, n):
        have = b""
        while len(have) < n:
            piece = self.tls.recv(n - len(have))
            if not piece:
                raise ConnectionError("it has hung up")
            have += piece
        return have

    def read(self):
        """The next frame: kind, channel, payload as it is on the wire. ConnectionError at the end."""
        try:
            kind, _, _, channel, seq, _, wire, _, _ = HEADER.unpack(self._read(HEADER.size))
            payload = self._read(wire)
        except (ssl.SSLError, socket.timeout) as e:
            if isinstance(e, socket.timeout):
                raise
            raise ConnectionError(str(e)) from e
        if kind == DATA and channel == 0:
            self._heard = seq + 1
        return kind, channel, payload

    def _until(self, what):
        """The frames to come; a timeout when they go on without it, as pings do."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            yield self.read()
        raise TimeoutError(f"waited {LIMIT} s in vain for {what}")

    def hung_up(self):
        """Reads on until it has; a timeout if it does not."""
        try:
            for _ in self._until("its end"):
                pass
        except ConnectionError:
            return True

    def refusal(self):
        """The sentence of the REFUSE that comes."""
        kind, _, payload = self.read()
        assert kind == REFUSE, kind
        assert self.hung_up()
        return payload[2:].decode()

    # ---- in good order ----

    def greet(self, **given):
        self.send(HELLO, hello(**given))
        kind, _, payload = self.read()
        assert kind == WELCOME, (kind, payload)
        self.session, self.secret = payload[20:36], payload[36:68]
        return self

    def message(self, said):
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send(DATA, text, seq=self._seq)
        self._seq += 1

    def call(self, what, **args):
        """Does not wait for the answer."""
        self._id += 1
        self.message({"id": self._id, "call": what, "args": args})
        return self._id

    def hear(self):
        """The next message, acknowledged; what else comes is answered as it should be."""
        for kind, channel, payload in self._until("a message"):
            if kind == PING:
                self.send(PONG)
            elif kind == DATA and channel == 0:
                self.ack(0, self._heard, self._heard)
                return json.loads(payload)

    def close(self):
        self.tls.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class LyingHost(Liar):
    """One that is connected to: takes the first lane that comes, and is then as above."""

    def __init__(self, pki, timeout=LIMIT):  # pylint: disable=W0231
        self._pki, self._timeout = pki, timeout
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.tls = None

    def accept(self):
        self._listener.settimeout(self._timeout)
        plain, _ = self._listener.accept()
        plain.settimeout(self._timeout)
        self.tls = _context(ssl.PROTOCOL_TLS_SERVER, self._pki).wrap_socket(plain, server_side=True)
        self._start()
        return self

    def welcome(self, **given):
        kind, _, payload = self.read()
        assert kind == HELLO and payload.startswith(MAGIC)
        self.send(WELCOME, hello(**{"session": b"s" * 16, "secret": b"x" * 32, **given}))
        return self

    def close(self):
        self._listener.close()
        if self.tls:
            self.tls.close()
