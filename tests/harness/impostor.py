# SPDX-License-Identifier: Apache-2.0
"""A host with a good certificate that lies in the middle of a migration: it stands between two honest daemons, and is
the source to one and the destination to the other. What they say passes through it in the clear, a frame at a time, and
whatever it changes arrives as if the peer had said so: with the right checksum, under TLS.

    def lie(frame):                                    # of every frame; None: it goes on as it is
        if frame.to_dest and frame.is_batch():
            frame.payload = b"\\xff" * 100
            return [frame]

    with Impostor(b.address, pki / "m", lie) as m:
        a.drover("migrate", "--to", m.address, "--codec", "none", "--lanes", "1", ...)

It puts in and leaves out messages as it likes (channel 0): those after it get other numbers, and acks are made to
fit. Frames of other channels keep theirs.
"""
import json
import select
import socket
import ssl
import struct
import threading

from .liar import ACK, DATA, HEADER, NONE, _context, checksum

PROGRESS = struct.Struct(">IQQ")
HEAD = struct.Struct(">QQQ")
# Of a batch's records, what follows kind, flags and block: docs/pages.md.
OPAQUE, BLOCK, ZERO, LITERAL, DELTA, DUP, NAME, KEPT = range(1, 9)
RECORD = struct.Struct(">BBH")


class Cut(Exception):
    """Raised by a lie: the lane is cut off instead."""


class Frame:
    def __init__(self, to_dest, header, payload):
        self.to_dest, self.made_up = to_dest, False
        self.kind, self.codec, self.flags, self.channel, self.seq, self.raw, *_ = \
            HEADER.unpack(header)
        self.payload = payload

    def pack(self):
        assert self.codec == NONE, "migrate with --codec none"
        return HEADER.pack(self.kind, self.codec, self.flags, self.channel, self.seq,
                           len(self.payload), len(self.payload),
                           *checksum(self.payload)) + self.payload

    def copy(self):
        """One more, which the peer has not sent."""
        other = Frame.__new__(Frame)
        other.__dict__.update(self.__dict__)
        other.made_up = True
        return other

    def is_batch(self):
        """In direct mode, without disks and multifd."""
        return self.to_dest and self.kind == DATA and self.channel and len(self.payload) > HEAD.size

    @property
    def message(self):
        """What channel 0 says, or None."""
        return json.loads(self.payload) if self.kind == DATA and self.channel == 0 else None

    @message.setter
    def message(self, said):
        self.payload = json.dumps(said).encode()

    def says(self, tell):
        message = self.message
        return message is not None and message.get("tell") == tell

    def records(self):
        """(kind, where it begins in the payload, its length) of a batch's records."""
        at, found = HEAD.size, []
        while at < len(self.payload):
            kind, flags, _ = RECORD.unpack_from(self.payload, at)
            body = at + RECORD.size
            word = struct.unpack_from(">I", self.payload.ljust(body + 8, b"\0"), body)[0]
            count = struct.unpack_from(">I", self.payload.ljust(body + 8, b"\0"), body + 4)[0]
            size = {OPAQUE: lambda n=word: 4 + n,
                    BLOCK: lambda b=body: 9 + self.payload[b + 8],
                    ZERO: lambda: 9,
                    LITERAL: lambda n=count, f=flags: 8 + (4 if f & 8 else 0) + 4096 * n,
                    DELTA: lambda b=body: 5 + 512 * self.payload[b + 4].bit_count(),
                    DUP: lambda: 10, NAME: lambda: 4, KEPT: lambda: 8}[kind]()
            found.append((kind, at, RECORD.size + size))
            at = body + size
        return found

    def put(self, at, layout, *values):
        """Writes numbers into the payload."""
        data = bytearray(self.payload)
        struct.pack_into(layout, data, at, *values)
        self.payload = bytes(data)


class _End:
    """One of a lane's two connections. Never blocks."""

    def __init__(self, tls):
        self.tls, self.incoming, self.outgoing, self.open = tls, b"", b"", True
        tls.setblocking(False)

    def read(self):
        """The frames that have come whole, as (header, payload)."""
        try:
            while True:
                piece = self.tls.recv(1 << 17)
                self.open = self.open and bool(piece)
                if not piece:
                    break
                self.incoming += piece
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, ssl.SSLError):
            self.open = False
        frames = []
        while len(self.incoming) >= HEADER.size:
            wire = HEADER.unpack_from(self.incoming)[6]
            end = HEADER.size + wire
            if len(self.incoming) < end:
                break
            frames.append((self.incoming[:HEADER.size], self.incoming[HEADER.size:end]))
            self.incoming = self.incoming[end:]
        return frames

    def write(self):
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.tls.send(self.outgoing[:1 << 16]):]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, ssl.SSLError):
            self.open, self.outgoing = False, b""


class Impostor:
    def __init__(self, to, pki, lie, timeout=60):
        self._to, self._pki, self._lie, self._timeout = to, pki, lie, timeout
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._numbers = {True: {}, False: {}}  # of messages, by to_dest: the sender's, and the one here
        self._next = {True: 0, False: 0}
        self._ended = threading.Event()
        self.error = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    # ---- frames ----

    def _renumber(self, frame):
        numbers = self._numbers[frame.to_dest]
        if frame.kind == DATA and frame.channel == 0:
            if frame.made_up or frame.seq not in numbers:
                number = self._next[frame.to_dest]
                self._next[frame.to_dest] += 1
                if not frame.made_up:
                    numbers[frame.seq] = number
                frame.seq = number
            else:
                frame.seq = numbers[frame.seq]  # once more, after a cut
        elif frame.kind == ACK and len(frame.payload) == PROGRESS.size:
            channel, *heard = PROGRESS.unpack(frame.payload)
            if channel == 0 and max(heard) < 1 << 32:  # else it is a lie
                known = self._numbers[not frame.to_dest].values()
                frame.payload = PROGRESS.pack(0, *(sum(n < h for n in known) for h in heard))

    def _pass(self, to_dest, header, payload):
        """What goes on in place of that frame."""
        frame = Frame(to_dest, header, payload)
        with self._lock:
            said = self._lie(frame)
            if said is None and (frame.codec != NONE or frame.kind not in (ACK, DATA)):
                return header + payload
            said = [frame] if said is None else said
            for one in said:
                self._renumber(one)
            return b"".join(one.pack() for one in said)

    # ---- lanes ----

    def _accept(self):
        while not self._ended.is_set():
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._lane, args=(plain,), daemon=True))
            self._threads[-1].start()

    def _lane(self, plain):
        try:
            plain.settimeout(self._timeout)
            host, port = self._to.rsplit(":", 1)
            onward = socket.create_connection((host, int(port)), self._timeout)
            dest = _End(_context(ssl.PROTOCOL_TLS_CLIENT, self._pki).wrap_socket(onward))
            source = _End(_context(ssl.PROTOCOL_TLS_SERVER, self._pki).wrap_socket(
                plain, server_side=True))
        except OSError:
            plain.close()
            return
        try:
            self._run(source, dest)
        except Cut:
            pass
        except Exception as e:  # pylint: disable=W0718
            self.error = e
        for end in (source, dest):
            end.tls.close()

    def _run(self, source, dest):
        while not self._ended.is_set() and (source.open and dest.open):
            readable = [end.tls for end, other in ((source, dest), (dest, source))
                        if len(other.outgoing) < 1 << 22]
            writable = [end.tls for end in (source, dest) if end.outgoing]
            select.select(readable, writable, [], 0.1)
            for end, other, to_dest in ((source, dest, True), (dest, source, False)):
                if end.tls in readable:
                    for header, payload in end.read():
                        other.outgoing += self._pass(to_dest, header, payload)
                other.write()
        for end in (source, dest):  # a refusal's last words
            end.write()

    def close(self):
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self.close()
