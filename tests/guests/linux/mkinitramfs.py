#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mkinitramfs.py WORK BUSYBOX OUTPUT: the Linux guest's initramfs, a cpio archive ("newc").

Written here, byte by byte, because the same input must give the same file and because device nodes
in it then need neither root nor a staging directory.
"""
import os
import stat
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def entry(name, mode, data=b"", device=(0, 0)):
    """One member; its name and its data are each padded to four bytes."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    head = header + path
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def archive(work, busybox):
    def read(path):
        with open(path, "rb") as f:
            return f.read()

    program = stat.S_IFREG | 0o755
    return b"".join((
        entry("bin", stat.S_IFDIR | 0o755),
        entry("dev", stat.S_IFDIR | 0o755),
        entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        entry("bin/busybox", program, read(busybox)),
        entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
        entry("bin/work", program, read(work)),
        entry("init", program, read(os.path.join(HERE, "init"))),
        entry("TRAILER!!!", 0),
    ))


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__.splitlines()[0])
    with open(sys.argv[3], "wb") as f:
        f.write(archive(sys.argv[1], sys.argv[2]))


if __name__ == "__main__":
    main()
