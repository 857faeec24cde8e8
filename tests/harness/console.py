# SPDX-License-Identifier: Apache-2.0
"""What a guest says, each line with the time it arrived, to a millisecond or so.

The harness listens on a unix socket that QEMU's character device connects to; a thread reads it.
"""
import re
import socket
import threading
import time

_BEAT = re.compile(rb"(?:([0-9a-f]{8})|work ([0-9]+))\r?$")


class Console:
    def __init__(self, path, log):
        self._path = str(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(self._path)
        self._listener.listen(1)
        self._listener.settimeout(120)
        self._log = open(log, "wb")
        self._changed = threading.Condition()
        self._ended = False
        self.lines = []  # (time.monotonic(), bytes)
        self.beats = []  # (time.monotonic(), counter)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        start = time.monotonic()
        rest = b""
        try:
            connection, _ = self._listener.accept()
            while True:
                data = connection.recv(1 << 16)
                if not data:
                    break
                now = time.monotonic()
                *whole, rest = (rest + data).split(b"\n")
                if whole:
                    self._take(now, start, whole)
        except OSError:
            pass  # closed under us, or QEMU never came: the machine's own error says more
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, now, start, whole):
        self._log.write(b"".join(b"%.4f %s\n" % (now - start, line) for line in whole))
        self._log.flush()
        with self._changed:
            for line in whole:
                self.lines.append((now, line))
                beat = _BEAT.match(line)
                if beat:
                    count = int(beat[1], 16) if beat[1] else int(beat[2])
                    self.beats.append((now, count))
            self._changed.notify_all()

    def wait(self, condition, timeout, what):
        """Waits until condition() holds; it is looked at again after every line."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition() or self._ended, timeout) \
                    or not condition():
                last = self.lines[-1][1].decode(errors="replace") if self.lines else "nothing"
                why = "ended" if self._ended else f"went on for {timeout} s"
                raise TimeoutError(f"the guest's console {why} without {what}; it said last: {last}")

    def said(self, text):
        return any(line.rstrip() == text for _, line in self.lines)

    def counter(self):
        """The guest's own count of its work; 0 before it has done any."""
        return self.beats[-1][1] if self.beats else 0

    def wait_beats(self, n, timeout=60):
        """Waits for n more heartbeats: the guest runs."""
        first = len(self.beats)
        self.wait(lambda: len(self.beats) >= first + n, timeout, f"{n} heartbeats more")

    def close(self):
        # A thread still in accept() is woken by a visitor; one in recv() by QEMU's end.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            try:
                visitor.connect(self._path)
            except OSError:
                pass
        self._thread.join(5)
        self._listener.close()
        self._log.close()


def longest_gap(since, until, *consoles):
    """The longest silence between two heartbeats, in seconds, and when it began.

    Takes the beats of all the consoles together, as one guest that moved from one to the other, and
    only those from 'since' to 'until' (time.monotonic()).
    """
    times = sorted(t for c in consoles for t, _ in list(c.beats) if since <= t <= until)
    gaps = [(b - a, a) for a, b in zip(times, times[1:])]
    return max(gaps, default=(0.0, since))
