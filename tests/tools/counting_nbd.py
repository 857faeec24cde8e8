#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""In qemu-nbd's place: takes the connections to the socket that it is given, forgets what is written,
and tells in the file TOLD how many writes there were and how many of them were ever under way at once.

    counting_nbd.py SIZE TOLD
"""
import pathlib
import socket
import struct
import sys
import threading

OPT_GO, REP_ACK, REP_INFO, REP_ERR_UNSUP = 7, 1, 3, 0x80000001
READ, WRITE, DISC = 0, 1, 2
HAS_FLAGS = 1
# The first so many are answered late, when another has come or does not come.
HELD, HELD_S = 4, 0.2


class Counter:
    def __init__(self):
        self.changed = threading.Condition()
        self.writes = self.now = self.most = 0

    def write(self):
        with self.changed:
            self.writes += 1
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            if self.writes <= HELD:
                self.changed.wait_for(lambda: self.most > 1, HELD_S)
            self.now -= 1


def exactly(conn, size):
    data = b""
    while len(data) < size:
        part = conn.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def shake_hands(conn, size):
    conn.sendall(b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3))
    exactly(conn, 4)

    def reply(option, kind, data=b""):
        conn.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind, len(data)) + data)
    while True:
        _, option, length = struct.unpack(">QII", exactly(conn, 16))
        exactly(conn, length)
        if option == OPT_GO:
            reply(option, REP_INFO, struct.pack(">HQH", 0, size, HAS_FLAGS))
            return reply(option, REP_ACK)
        reply(option, REP_ERR_UNSUP)


def serve(conn, size, counter):
    try:
        shake_hands(conn, size)
        while True:
            _, _, kind, cookie, _, length = struct.unpack(">IHHQQI", exactly(conn, 28))
            if kind == DISC:
                return
            if kind == WRITE:
                exactly(conn, length)
                counter.write()
            conn.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + bytes(length if kind == READ else 0))
    except EOFError:
        pass


def main():
    size, told = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    users = next(int(a.partition("=")[2]) for a in sys.argv if a.startswith("--shared="))
    listener, counter = socket.socket(fileno=3), Counter()
    threads = [threading.Thread(target=serve, args=(listener.accept()[0], size, counter))
               for _ in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.write_text(f"{counter.writes} {counter.most}")


if __name__ == "__main__":
    main()
