# SPDX-License-Identifier: Apache-2.0
"""A guest whose disk goes with it, and QEMU's own way to have it do so: blockdev-mirror into an NBD
export of the destination's QEMU, over plain TCP, as management programs do it."""
import subprocess

from harness import disks
from harness.qemu import MIB, cache_dir

from . import diskimages

NAME = "vda"
DEST_EXPORT_S = 60


def guests(guest, size, workdir):
    """(at the source, at the destination): a Linux guest that writes to its disk all the time."""
    folder = cache_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    image, _ = diskimages.make(folder, "dense", size * MIB)
    source = workdir / "source.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, source], check=True)
    dest = disks.make(workdir / "dest.qcow2", size * MIB)
    return tuple(
        disks.writing_guest(workdir, disks.drive(path, NAME)).variant(
            accel=guest.accel, memory=guest.memory, work=guest.work)
        for path in (source, dest))


class Mirror:
    """Of one pair of machines. Each step is one that QEMU's documentation wants."""

    def __init__(self, pair, address, port):
        self._source, self._dest = pair.source.qmp, pair.dest.qmp
        self._server = {"host": address, "port": str(port)}

    def export(self):
        self._dest.command("nbd-server-start", {"addr": {"type": "inet", "data": self._server}})
        self._dest.command("nbd-server-add", {"device": NAME, "writable": True})

    def start(self, timeout):
        """Until all of the disk is over there, and what is written goes to both."""
        self._source.command("blockdev-add", {
            "driver": "nbd", "node-name": "mirrored", "export": NAME,
            "server": {"type": "inet", **self._server}})
        self._source.command("blockdev-mirror", {
            "job-id": "mirror", "device": NAME, "target": "mirrored", "sync": "full"})
        self._source.wait_event("BLOCK_JOB_READY", timeout)

    def complete(self, timeout):
        """With the guest stopped, at pre-switchover. Once ready, cancelled is completed."""
        self._source.command("block-job-cancel", {"device": "mirror"})
        self._source.wait_event("BLOCK_JOB_COMPLETED", timeout)
        self._source.command("migrate-continue", {"state": "pre-switchover"})

    def run_dest(self):
        """Only now: the export would else write to the disk of a guest that runs."""
        self._dest.wait_event("MIGRATION", DEST_EXPORT_S, lambda data: data["status"] == "completed")
        self._dest.command("nbd-server-stop")
        self._dest.command("cont")
