# SPDX-License-Identifier: Apache-2.0
"""The guests that are moved, and the memory they are given."""
import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess

from harness import build
from harness.qemu import MIB, PAGE, Guest, cache_dir

# Shares in percent of the memory beside the writer's working set; what is left is program text.
COMPOSITION = {"zero": 40, "repeat": 5, "random": 15}
SEED = 1
PROGRAMS = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")
# The firmware keeps its tables at the top of memory.
TOP = 2 * MIB
MAX_IMAGE = 2047 * MIB


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a guest does. 'rate' is pages written a tick of 1 ms, each its own heartbeat."""
    what: str
    kind: str = "flat"
    mode: str = "idle"
    working_set: int = 4     # MiB
    rate: int = 0
    clones: int = 1          # so many guests at once, all of the same memory
    memory_share: float = 1  # of the profile's guest memory, each
    disk: int = 0            # MiB of a disk that goes with it

    def guest(self, memory, accel, backend="prealloc"):
        memory = max(int(memory * self.memory_share), 128)
        if self.kind == "linux":
            return Guest(kind="linux", memory=max(memory, 256), work=(32, 1000))
        params = "hz=1000 beat=1" if self.mode == "idle" \
            else f"hz=1000 rate={self.rate} beat={self.rate}"
        guest = Guest(accel=accel, memory=memory, mode=self.mode, params=params,
                      pages=self.working_set * MIB // PAGE, backend=backend)
        return guest.variant(images=(image_for(guest),))


RECIPES = {
    "idle": Recipe("realistic memory, a timer tick 1000 times a second"),
    "sparse": Recipe("realistic memory, and two words written in each of 10 pages a ms, "
                     "over 64 MiB", mode="sparse", working_set=64, rate=10),
    "rewrite": Recipe("realistic memory, and 8 whole pages of compressible content a ms, "
                      "over 64 MiB", mode="rewrite", working_set=64, rate=8),
    "random": Recipe("realistic memory, and 8 whole pages of incompressible content a ms, "
                     "over 64 MiB", mode="random", working_set=64, rate=8),
    "clones": Recipe("four guests at once, of the same realistic memory, half the size each",
                     clones=4, memory_share=0.5),
    "linux": Recipe("Linux under TCG, 1000 pages a second over 32 MiB: a second opinion",
                    kind="linux"),
    "disk": Recipe("Linux under TCG as above, and a disk of 256 MiB that goes with it, to which it "
                   "writes 32 KiB again and again, each time to the disk itself", kind="linux", disk=256),
}


def _programs():
    """Regular files of the system, in a fixed order: what a machine's page cache would hold."""
    for folder in PROGRAMS:
        for name in sorted(os.listdir(folder) if os.path.isdir(folder) else ()):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) >= PAGE:
                yield path


def _make(path, size):
    listing = path.with_suffix(".list")
    listing.write_text("\n".join(_programs()) + "\n")
    shares = [word for kind, share in COMPOSITION.items() for word in (f"--{kind}", str(share))]
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        done = subprocess.run(
            [build.built("tests", "tools", "memimage"), "--size", str(size // MIB), *shares,
             "--seed", str(SEED), "--text", listing, draft],
            capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"memimage failed: {done.stderr.strip()}")
        with open(draft, "rb") as image:
            digest = hashlib.file_digest(image, "sha256").hexdigest()
        path.with_suffix(".json").write_text(
            json.dumps({**json.loads(done.stdout), "sha256": digest}))
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)


def image_for(guest):
    """(file, address): memory for all of a guest that its writer leaves alone; made once, kept."""
    address = guest.start + guest.pages_bytes
    size = min((guest.memory * MIB - TOP - address) // MIB * MIB, MAX_IMAGE)
    if size <= 0:
        raise ValueError(f"a guest of {guest.memory} MiB has no room beside its working set")
    folder = cache_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    shares = "-".join(f"{kind[0]}{share}" for kind, share in COMPOSITION.items())
    path = folder / f"memory-{size // MIB}-{shares}-{SEED}.image"
    if not path.exists():
        _make(path, size)
    return str(path), address


def describe(guest):
    """What results.jsonl says of a guest."""
    told = {"kind": guest.kind, "accel": guest.accel, "memory_mib": guest.memory,
            "memory_backend": guest.backend or "anonymous"}
    if guest.kind == "linux":
        return {**told, "work": list(guest.work)}
    told |= {"mode": guest.mode, "working_set_mib": guest.pages_bytes // MIB,
             "params": guest.params}
    for file, _ in guest.images:
        told["image"] = json.loads(pathlib.Path(file).with_suffix(".json").read_text())
    return told
