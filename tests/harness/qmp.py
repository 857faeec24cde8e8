# SPDX-License-Identifier: Apache-2.0
"""A minimal synchronous QMP client: one command at a time, every wait has a deadline."""
import collections
import json
import socket
import time


class QmpError(Exception):
    """QEMU refused a command: its class and its own words."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('desc')}")
        self.error_class = error.get("class")
        self.desc = error.get("desc")


class QmpGone(Exception):
    """The connection ended: QEMU has quit or died."""


class Qmp:
    def __init__(self, path, timeout=30):
        self.path = str(path)
        self.events = collections.deque()
        self._buffer = b""
        self._socket = self._connect(time.monotonic() + timeout)
        self._receive(time.monotonic() + timeout)  # the greeting
        self.command("qmp_capabilities")

    def _connect(self, deadline):
        while True:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            s.setblocking(False)
            try:
                s.connect(self.path)
                return s
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as e:
                s.close()  # it does not listen yet, or its queue is full
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.path}: no connection in time: {e}") from None
                time.sleep(0.01)

    def _receive(self, deadline):
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.path}: QEMU did not answer in time")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise QmpGone(f"{self.path}: QEMU closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def command(self, name, arguments=None, timeout=60):
        """Runs one command and returns what it returns; events that arrive meanwhile are kept."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise QmpGone(f"{self.path}: QEMU closed the connection") from None
        deadline = time.monotonic() + timeout
        while True:
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(name, message["error"])
            else:
                return message["return"]

    def wait_event(self, name, timeout=60, match=lambda data: True):
        """Takes the first event of that name whose data match, old or new; drops those before."""
        deadline = time.monotonic() + timeout
        while True:
            while self.events:
                event = self.events.popleft()
                if event["event"] == name and match(event.get("data", {})):
                    return event
            message = self._receive(deadline)
            if "event" in message:
                self.events.append(message)

    def hmp(self, line, timeout=60):
        return self.command("human-monitor-command", {"command-line": line}, timeout)

    def close(self):
        self._socket.close()
