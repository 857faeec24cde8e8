# SPDX-License-Identifier: Apache-2.0
"""Disk images as machines have them: the same for the same seed and the same files of this system.

An image is a row of runs, each of one kind, from 4 KiB to 2 MiB long (small ones are as frequent
as large ones on a logarithmic scale, as file systems are):

    binary   programs and libraries of this system      packed   bytes that no one can compress
    text     sources, headers and texts of this system  zero     zeros that were written
    hole     nothing
"""
import hashlib
import json
import os
import random
import subprocess

BLOCK = 4096
LONGEST = 2 << 20
SEED = 1
SHARES = {
    "dense": {"binary": 40, "text": 20, "packed": 15, "zero": 10, "hole": 15},
    "sparse": {"binary": 5, "text": 2, "packed": 2, "zero": 1, "hole": 90},
    "packed": {"packed": 100},
}
WHAT = {
    "dense": "40 % programs, 20 % text, 15 % incompressible, 10 % zeros, 15 % holes",
    "sparse": "90 % holes, and of the rest as much of each kind as in the dense one",
    "packed": "nothing that can be compressed or left out",
}
BINARIES = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")
TEXTS = ("/usr/include", "/usr/share", "/usr/lib/python3")
TEXT_ENDS = (".h", ".py", ".pl", ".pm", ".txt", ".json", ".xml", ".html", ".rst", ".conf")


def _files(folders, ends=""):
    """In a fixed order."""
    for folder in folders:
        for root, inner, names in os.walk(folder):
            inner.sort()
            for name in sorted(names):
                path = os.path.join(root, name)
                if name.endswith(ends) and os.path.isfile(path) and not os.path.islink(path) \
                        and os.path.getsize(path) >= BLOCK:
                    yield path


class _Files:
    """The bytes of files, one after the other, and again from the start."""

    def __init__(self, folders, ends=""):
        self._again = lambda: _files(folders, ends)
        self._names, self._file = self._again(), None

    def read(self, length):
        found = b""
        while len(found) < length:
            part = self._file.read(length - len(found)) if self._file else b""
            if not part:
                self._open_next()
            found += part
        return found

    def _open_next(self):
        if self._file:
            self._file.close()
        name = next(self._names, None)
        if name is None:
            self._names = self._again()
            name = next(self._names)
        self._file = open(name, "rb")


def _fill(file, size, shares):
    rng = random.Random(SEED)
    text, binary = _Files(TEXTS, TEXT_ENDS), _Files(BINARIES)
    make = {"binary": binary.read, "text": text.read, "packed": rng.randbytes, "zero": bytes}
    file.truncate(size)
    at = 0
    while at < size:
        kind = rng.choices(list(shares), shares.values())[0]
        length = int(BLOCK * (LONGEST / BLOCK) ** rng.random()) // BLOCK * BLOCK
        length = min(length, size - at)
        if kind != "hole":
            file.seek(at)
            file.write(make[kind](length))
        at += length


def make(folder, kind, size):
    """(raw image, what results.jsonl says of it); made once, kept."""
    path = folder / f"{kind}-{size >> 20}-{SEED}.raw"
    about = path.with_suffix(".json")
    if not about.exists():
        with open(path, "wb") as file:
            _fill(file, size, SHARES[kind])
            os.fsync(file.fileno())
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about.write_text(json.dumps({
            "kind": kind, "size": size, "sha256": digest,
            "allocated": path.stat().st_blocks * 512}))
    return path, json.loads(about.read_text())


def in_format(raw, form):
    """The same image in that format, beside it."""
    path = raw.with_suffix(f".{form}")
    if not path.exists():
        draft = raw.with_suffix(f".{form}.draft")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, raw, draft], check=True)
        draft.rename(path)
    return path
