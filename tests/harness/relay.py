# SPDX-License-Identifier: Apache-2.0
"""A TCP relay that fails on command: what a bad network does to a connection, without root.

    cut()        every connection ends (FIN, or RST with reset=True) and new ones are refused
    stall()      nothing is read any more: the sender's window closes, nobody is told
    blackhole()  what is sent vanishes, connections stay up: the far host has lost its power
    close_one()  one end is told that the connection is over, the other is not (half-open)
    restore()    all is well again, for what is left and for new connections
    cut_every()  each time so many bytes have passed, every connection is reset
    slow()       no more than so many bytes a second pass, in each direction together

One thread runs everything; the commands are carried out there and return when they have been.
"""
import contextlib
import queue
import selectors
import socket
import struct
import threading
import time

BUFFER = 256 * 1024
TICK = 0.01


class _Pair:
    """Two joined connections. Index 0 is the one that dialled the relay, 1 the one to the target."""

    def __init__(self, dialled, target):
        self.sockets = [dialled, target]
        self.pending = [bytearray(), bytearray()]  # read from [i], to be written to the other
        self.ended = [False, False]                # [i] has sent its last byte
        self.half_closed = [False, False]          # the end has been passed on to [i]


class Relay:
    def __init__(self, host, port, listen="127.0.0.1"):
        self._target = (host, port)
        self._pairs = []
        self._mode = "pass"
        self._cut_every = 0
        self._until_cut = 0
        self._rate = 0           # bytes a second; 0: as fast as it goes
        self._budget = 0.0
        self._refilled = 0.0
        self._commands = queue.SimpleQueue()
        self._changed = threading.Condition()
        self.bytes = [0, 0]      # carried from the dialling side, and back
        self.connections = 0     # ever made
        self.cuts = 0            # made by cut_every
        self._listener = self._listen(listen, 0)
        self.port = self._listener.getsockname()[1]
        self.address = f"{listen}:{self.port}"
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_out, selectors.EVENT_READ, self._woken)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._running = True
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    @staticmethod
    def _listen(host, port):
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((host, port))
        s.listen(64)
        s.setblocking(False)
        return s

    # ---- commands, from any thread ----

    def _do(self, command):
        done = threading.Event()
        self._commands.put((command, done))
        self._wake_in.send(b"x")
        if not done.wait(60):
            raise TimeoutError("the relay's thread does not answer")

    def cut(self, reset=False):
        self._do(lambda: self._cut(reset))

    def stall(self):
        self._do(lambda: self._set_mode("stall"))

    def blackhole(self):
        self._do(lambda: self._set_mode("blackhole"))

    def close_one(self, end):
        """Ends the connections as seen from one end, 0 or 1 (see _Pair); the other hears nothing."""
        self._do(lambda: self._close_one(end))

    def restore(self):
        self._do(self._restore)

    def cut_every(self, n):
        """n bytes, both directions together; 0 ends it."""
        def command():
            self._cut_every = self._until_cut = n
        self._do(command)

    def slow(self, rate):
        """rate bytes a second; 0 ends it."""
        def command():
            self._rate, self._budget, self._refilled = rate, 0.0, time.monotonic()
            self._set_mode(self._mode)
        self._do(command)

    def wait(self, condition, timeout=60):
        """Waits until condition(relay) holds; it is looked at whenever bytes or connections come."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout):
                raise TimeoutError(f"the relay waited {timeout} s in vain: {self.bytes} bytes, "
                                   f"{self.connections} connections")

    def wait_bytes(self, n, timeout=60):
        """Waits until n more bytes have passed, both directions together."""
        until = sum(self.bytes) + n
        self.wait(lambda relay: sum(relay.bytes) >= until, timeout)

    def close(self):
        if self._running:
            self._do(self._stop)
            self._thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- the relay's own thread ----

    def _loop(self):
        while self._running:
            for key, events in self._selector.select(TICK if self._rate else None):
                if key.fileobj.fileno() >= 0:  # not closed by an event before it
                    key.data(events)
            if self._rate:
                self._refill()

    def _refill(self):
        now = time.monotonic()
        if now - self._refilled < TICK:
            return
        empty = self._budget < 1
        # No more than a tenth of a second is saved up.
        self._budget = min(self._budget + (now - self._refilled) * self._rate, self._rate / 10)
        self._refilled = now
        if empty and self._budget >= 1:
            self._set_mode(self._mode)

    def _woken(self, _):
        self._wake_out.recv(64)
        with contextlib.suppress(queue.Empty):
            while True:
                command, done = self._commands.get_nowait()
                command()
                done.set()

    def _notify(self):
        with self._changed:
            self._changed.notify_all()

    def _accept(self, _):
        try:
            dialled, _ = self._listener.accept()
        except OSError:
            return
        try:
            target = socket.create_connection(self._target, timeout=30)
        except OSError:
            self._reset(dialled)
            return
        for s in (dialled, target):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(dialled, target)
        self._pairs.append(pair)
        self._watch(pair)
        self.connections += 1
        self._notify()

    def _watch(self, pair):
        """Registers each end for what can be done with it now."""
        for i, s in enumerate(pair.sockets):
            if s is None:
                continue
            events = 0
            if self._mode != "stall" and not pair.ended[i] and len(pair.pending[i]) < BUFFER:
                events |= selectors.EVENT_READ
            if self._mode == "pass" and pair.pending[1 - i] and (not self._rate or self._budget >= 1):
                events |= selectors.EVENT_WRITE
            with contextlib.suppress(KeyError):
                self._selector.unregister(s)
            if events:
                self._selector.register(s, events,
                                        lambda events, i=i: self._serve(pair, i, events))

    def _serve(self, pair, i, events):
        try:
            if events & selectors.EVENT_READ:
                self._read(pair, i)
            if events & selectors.EVENT_WRITE:
                self._write(pair, i)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(pair, reset=True)
        if pair in self._pairs:
            self._pass_on_ends(pair)
        if pair in self._pairs:
            self._watch(pair)

    def _read(self, pair, i):
        data = pair.sockets[i].recv(BUFFER)
        if not data:
            pair.ended[i] = True
        elif self._mode == "pass" and pair.sockets[1 - i] is not None:
            pair.pending[i] += data

    def _write(self, pair, i):
        most = int(self._budget) if self._rate else BUFFER
        if not most:
            return
        n = pair.sockets[i].send(pair.pending[1 - i][:most])
        if self._rate:
            self._budget -= n
            if self._budget < 1:
                self._set_mode(self._mode)
        del pair.pending[1 - i][:n]
        self.bytes[1 - i] += n
        self._notify()
        if self._cut_every:
            self._until_cut -= n
            if self._until_cut <= 0:
                self._until_cut = self._cut_every
                self.cuts += 1
                self._drop_all(reset=True)

    def _pass_on_ends(self, pair):
        if self._mode != "pass" or None in pair.sockets:
            return
        for i in (0, 1):
            if pair.ended[i] and not pair.pending[i] and not pair.half_closed[1 - i]:
                pair.half_closed[1 - i] = True
                with contextlib.suppress(OSError):
                    pair.sockets[1 - i].shutdown(socket.SHUT_WR)
        if all(pair.half_closed):
            self._drop(pair, reset=False)

    @staticmethod
    def _reset(s):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()

    def _close_end(self, pair, i, reset):
        s = pair.sockets[i]
        if s is None:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(s)
        pair.sockets[i] = None
        if reset:
            self._reset(s)
        else:
            s.close()

    def _drop(self, pair, reset):
        for i in (0, 1):
            self._close_end(pair, i, reset)
        self._pairs.remove(pair)

    def _drop_all(self, reset):
        for pair in list(self._pairs):
            self._drop(pair, reset)

    def _close_one(self, end):
        for pair in self._pairs:
            self._close_end(pair, end, reset=False)

    def _refuse(self):
        if self._listener:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _cut(self, reset):
        self._refuse()
        self._drop_all(reset)

    def _set_mode(self, mode):
        self._mode = mode
        for pair in self._pairs:
            self._watch(pair)

    def _restore(self):
        if not self._listener:
            self._listener = self._listen(self.address.rsplit(":", 1)[0], self.port)
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        # What a black hole swallowed is gone: such a connection cannot go on.
        if self._mode == "blackhole":
            self._drop_all(reset=True)
        self._set_mode("pass")

    def _stop(self):
        self._cut(reset=False)
        self._running = False
