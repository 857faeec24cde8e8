# SPDX-License-Identifier: Apache-2.0
"""The RAM of stopped machines: dumped, compared byte for byte, and judged page by page."""
import contextlib
import json
import mmap
import os
import subprocess

from . import build
from .qemu import MIB, PAGE

CHUNK = 1 * MIB
# Under KVM QEMU itself writes to its kvmvapic option ROM, which lies in this range of a PC, at each
# end for itself: one page differs after any migration, drover or not. Under TCG it does not.
OPTION_ROMS = range(0xc0000 // PAGE, 0x100000 // PAGE)
# The flat guest's own program, its stack and its ticks.
FLAT_PROGRAM = range(0x100000 // PAGE, 0x110000 // PAGE)
# PCs put RAM beyond this size above 4 GiB, where pmemsave would need a second range.
MAX_MIB = 3072


def dump(machine, path, start=0, size=None):
    """Writes guest-physical memory to a file; the machine must be stopped to mean anything."""
    memory = machine.guest.memory
    if memory > MAX_MIB:
        raise ValueError(f"guests of more than {MAX_MIB} MiB are not dumped yet")
    machine.qmp.command("pmemsave", {"val": start, "size": size or memory * MIB - start,
                                     "filename": str(path)}, timeout=300)
    return path


@contextlib.contextmanager
def _mapped(path):
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        with memoryview(m) as view:
            yield view


def differing_pages(path_a, path_b):
    """The numbers of the pages in which two dumps differ."""
    if os.path.getsize(path_a) != os.path.getsize(path_b):
        raise ValueError("the two dumps are not of the same size")
    pages = []
    with _mapped(path_a) as a, _mapped(path_b) as b:
        for at in range(0, len(a), CHUNK):
            if a[at:at + CHUNK] == b[at:at + CHUNK]:
                continue
            for page in range(at, min(at + CHUNK, len(a)), PAGE):
                if a[page:page + PAGE] != b[page:page + PAGE]:
                    pages.append(page // PAGE)
    return pages


def unexplained(pages, guest):
    """Without the one page that QEMU itself changes under KVM."""
    roms = [p for p in pages if p in OPTION_ROMS]
    if guest.accel == "kvm" and len(roms) == 1:
        return [p for p in pages if p not in roms]
    return pages


def compare(source, dest):
    """Pages that differ between two stopped machines and that nobody may explain away."""
    if source.running() or dest.running():
        raise RuntimeError("memory is compared between stopped machines only")
    a, b = source.dir / "ram.dump", dest.dir / "ram.dump"
    try:
        return unexplained(differing_pages(dump(source, a), dump(dest, b)), source.guest)
    finally:
        a.unlink(missing_ok=True)
        b.unlink(missing_ok=True)


def judge(path, guest):
    """pagecheck's verdict on a dump of the flat guest's working set."""
    argv = [build.built("tests", "tools", "pagecheck"), "--mode", guest.mode, "--body", guest.body,
            "--step", str(guest.step), path]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode > 1:
        raise RuntimeError(f"pagecheck failed: {done.stderr}")
    verdict = json.loads(done.stdout)
    verdict["sound"] = done.returncode == 0
    return verdict


def check_pages(machine):
    """Judges the working set of a flat guest; stops the machine meanwhile if it runs."""
    guest = machine.guest
    was_running = machine.running()
    if was_running:
        machine.stop()
    path = machine.dir / "pages.dump"
    try:
        return judge(dump(machine, path, guest.start, guest.pages_bytes), guest)
    finally:
        path.unlink(missing_ok=True)
        if was_running:
            machine.cont()


def compare_after_run(source, dest):
    """As compare(), for a flat guest that already runs on at the destination (it is stopped here).

    What it has written since may differ, and nothing else: the pages from where the writer stood in
    the source to where it stands now, and the guest program's own few. Returns (unexplained pages,
    the destination's verdict, the source's).
    """
    guest = source.guest
    dest.stop()
    before, after = check_pages(source), check_pages(dest)
    differing = compare(source, dest)
    passes = after["generation"] - before["generation"]
    first = guest.start // PAGE

    def written(index):
        if guest.mode == "idle" or index % guest.step != 0:
            return False
        since, until = before["position"], after["position"]
        if passes == 0:
            return since <= index <= until
        return passes > 1 or index >= since or index <= until

    def explained(page):
        return page in FLAT_PROGRAM or (first <= page < first + guest.pages and written(page - first))

    return [p for p in differing if not explained(p)], after, before
