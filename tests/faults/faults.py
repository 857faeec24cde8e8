# SPDX-License-Identifier: Apache-2.0
"""What can go wrong at one moment of a migration: each strikes, and is over some time later."""
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import build
from harness.scene import process_state, wait_until

MBIT = 125_000  # bytes a second
DAY = 86400


class Disk:
    """A small file system under a daemon's state directory, which can be full or read-only."""

    SIZE = 12 << 20

    def __init__(self, path):
        self._path = pathlib.Path(path)
        self._image = self._path.with_suffix(".img")

    def __enter__(self):
        with open(self._image, "wb") as image:
            image.truncate(self.SIZE)
        # Like many a host's: an error makes it read-only.
        subprocess.run(["mkfs.ext4", "-q", "-e", "remount-ro", "-O", "^has_journal", self._image],
                       timeout=60, check=True)
        subprocess.run(["mount", "-o", "loop", self._image, self._path], timeout=60, check=True)
        return self

    def fill(self):
        with open(self._path / "filler", "wb", buffering=0) as filler:
            for size in (1 << 20, 4096, 512):
                try:
                    while True:
                        filler.write(b"x" * size)
                except OSError:
                    pass

    def clear(self):
        (self._path / "filler").unlink(missing_ok=True)

    def break_down(self):
        device = subprocess.run(["findmnt", "-no", "SOURCE", self._path], capture_output=True,
                                text=True, timeout=60, check=True).stdout.strip()
        trigger = pathlib.Path("/sys/fs/ext4", pathlib.Path(device).name, "trigger_fs_error")
        trigger.write_text("1")

    def mend(self):
        """After the daemon has ended: checked and mounted anew, as after a reboot. A copy of it is,
        since a QEMU of this host may still hold a socket on the old one."""
        subprocess.run(["umount", "-l", self._path], timeout=60, check=True)
        broken, self._image = self._image, self._image.with_suffix(".mended")
        shutil.copyfile(broken, self._image)
        broken.unlink()
        subprocess.run(["fsck.ext4", "-f", "-y", self._image], capture_output=True, timeout=60, check=False)
        subprocess.run(["mount", "-o", "loop", self._image, self._path], timeout=60, check=True)

    def _unmount(self):
        # The kernel lets go of a ring's files a moment after its process has ended.
        wait_until(lambda: subprocess.run(["umount", self._path], capture_output=True,
                                          timeout=60, check=False).returncode == 0, "the disk to be free")

    def __exit__(self, *_):
        self._unmount()
        self._image.unlink()


def disk_problem():
    """None where such disks can be made, otherwise why not."""
    if os.geteuid() != 0:
        return "mounting needs root"
    return None if os.path.exists("/dev/loop-control") else "there are no loop devices here"


@dataclasses.dataclass(frozen=True)
class Fault:
    """strike(cell) and end(cell) are called while the guest's fate is open; 'lasts' says until when:
    'pause' for a while, 'verdict' until the command has ended, 'death' until the daemon has, ''
    it is over at once."""
    name: str
    strike: callable
    end: callable = lambda cell: None
    lasts: str = ""
    needs_disk: str = ""   # 'a' or 'b': that daemon's state is on a Disk
    needs_clock: bool = False
    drop_timeout: int = 60


def kill_daemon(which):
    def strike(cell):
        getattr(cell.scene, which).kill()

    def end(cell):
        getattr(cell.scene, which).crash_and_restart()
    return strike, end


def kill_qemu(which):
    return lambda cell: getattr(cell.scene, which).kill()


def stop(pid_of):
    def strike(cell):
        os.kill(pid_of(cell), signal.SIGSTOP)
        wait_until(lambda: process_state(pid_of(cell)) == "T", "SIGSTOP to work")

    def end(cell):
        os.kill(pid_of(cell), signal.SIGCONT)
    return strike, end


def link(how, *args):
    return (lambda cell: getattr(cell.scene.relay, how)(*args),
            lambda cell: cell.scene.relay.restore())


def fill(which):
    return lambda cell: cell.disk.fill(), lambda cell: cell.disk.clear()


def read_only(which):
    def end(cell):
        daemon = getattr(cell.scene, which)
        daemon.kill()
        cell.disk.mend()
        daemon.crash_and_restart()
    return lambda cell: cell.disk.break_down(), end


def jump(which, seconds):
    return lambda cell: cell.clocks[which].write_text(str(seconds))


def of_daemon(which):
    return lambda cell: getattr(cell.scene, which).pid


def slow():
    return (lambda cell: cell.scene.relay.slow(MBIT)), (lambda cell: cell.scene.relay.slow(0))


FAULTS = [
    Fault("source daemon killed", *kill_daemon("a")),
    Fault("dest daemon killed", *kill_daemon("b")),
    Fault("source QEMU killed", kill_qemu("source")),
    Fault("dest QEMU killed", kill_qemu("dest")),
    Fault("source daemon stopped", *stop(of_daemon("a")), lasts="pause"),
    Fault("dest daemon stopped", *stop(of_daemon("b")), lasts="pause"),
    Fault("source QEMU stopped", *stop(lambda cell: cell.scene.source.pid), lasts="pause"),
    Fault("dest QEMU stopped", *stop(lambda cell: cell.scene.dest.pid), lasts="pause"),
    Fault("link cut", *link("cut"), lasts="pause"),
    Fault("link cut for long", *link("cut"), lasts="verdict", drop_timeout=2),
    Fault("link half-open", *link("close_one", 0), lasts="pause"),
    Fault("link half-open, other end", *link("close_one", 1), lasts="pause"),
    Fault("packets lost", *link("blackhole"), lasts="pause"),
    Fault("packets lost for long", *link("blackhole"), lasts="verdict", drop_timeout=2),
    Fault("link stalled", *link("stall"), lasts="pause"),
    Fault("1 Mbit/s", *slow(), lasts="pause"),
    Fault("source's disk full", *fill("a"), lasts="verdict", needs_disk="a"),
    Fault("dest's disk full", *fill("b"), lasts="verdict", needs_disk="b"),
    Fault("source's disk read-only", *read_only("a"), lasts="death", needs_disk="a"),
    Fault("dest's disk read-only", *read_only("b"), lasts="death", needs_disk="b"),
    Fault("source's clock a day on", jump("a", DAY), needs_clock=True),
    Fault("dest's clock a day back", jump("b", -DAY), needs_clock=True),
]
FAULTS = {fault.name: fault for fault in FAULTS}


def clock_library():
    return build.built("tests", "tools", "libclockjump.so")


def rest(seconds):
    """The length of a fault that lasts for a while."""
    time.sleep(seconds)
