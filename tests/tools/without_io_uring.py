#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""without_io_uring.py PROGRAM ARGUMENT...

Runs a program as on a host where kernel.io_uring_disabled is 2, and no other program: the sysctl
itself would be everybody's. A mount of its own shows the setting, a seccomp filter refuses the
system call. As root."""
import ctypes
import os
import struct
import sys
import tempfile

SETTING = b"/proc/sys/kernel/io_uring_disabled"
NEW_MOUNTS, BIND, PRIVATE = 0x20000, 0x1000, 0x4000 | 1 << 18  # unshare(2), mount(2)
NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2                  # prctl(2)
IO_URING_SETUP = 425
EPERM = 1

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        sys.exit(f"without_io_uring: {what}: {os.strerror(ctypes.get_errno())}")


def show_setting():
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"2\n")
        f.flush()
        check(libc.unshare(NEW_MOUNTS), "no mounts of its own")
        check(libc.mount(None, b"/", None, PRIVATE, None), "mounts stay shared")
        check(libc.mount(f.name.encode(), SETTING, None, BIND, None), "the setting cannot be shown")


def refuse_call():
    """The number of the call is the first word; that is refused with EPERM, all else allowed."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, IO_URING_SETUP), (0x06, 0, 0, 0x50000 | EPERM),
            (0x06, 0, 0, 0x7fff0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(text))
    check(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(SET_SECCOMP, FILTER, program, 0, 0), "no seccomp filter")


if __name__ == "__main__":
    show_setting()
    refuse_call()
    os.execvp(sys.argv[1], sys.argv[1:])
