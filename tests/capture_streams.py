#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Records the migration streams of real QEMUs: small native migrations through a relay.

    tests/capture_streams.py DIR [--qemu 7.2] [--only NAME]

leaves in DIR, for each migration, a folder with main.bin, channel-N.bin (multifd) and info.json
(query-migrate's last answer). Nothing of it is meant to be committed.
"""
import argparse
import dataclasses
import json
import pathlib
import socket
import threading
import time

from harness import native, qemu
from harness.qemu import Guest, Machine

CHUNK = 1 << 18
PACE = "hz=1000 rate=20 beat=20"


@dataclasses.dataclass(frozen=True)
class Capture:
    """A migration worth recording."""
    guest: Guest
    capabilities: dict = dataclasses.field(default_factory=dict)
    parameters: dict = dataclasses.field(default_factory=dict)
    rounds: int = 1              # keep it going for at least so many
    postcopy: bool = False       # switch to postcopy on the way


SMALL = Guest(memory=32, pages=1024, params=PACE)
# Slow enough for the guest to write more in a round than goes out in a millisecond, which is what
# capture() allows until there were enough rounds.
SLOW = {"max_bandwidth": 16 << 20}
CAPTURES = {
    "plain": Capture(SMALL),
    "plain-no-return-path": Capture(SMALL, {"return_path": False}),
    "plain-rounds": Capture(SMALL, {}, SLOW, rounds=3),
    "plain-kvm": Capture(SMALL.variant(accel="kvm", params=""), {}, SLOW, rounds=3),
    "multifd": Capture(SMALL, {"multifd": True}, {"multifd_channels": 2}),
    "multifd-kvm": Capture(SMALL.variant(accel="kvm", params=""), {"multifd": True},
                           {"multifd_channels": 2, **SLOW}, rounds=3),
    "multifd-zstd": Capture(SMALL, {"multifd": True},
                            {"multifd_channels": 2, "multifd_compression": "zstd"}),
    "xbzrle": Capture(SMALL, {"xbzrle": True}, SLOW, rounds=3),
    # A machine type that lets multifd travel as that QEMU does by itself.
    "multifd-newest": Capture(SMALL.variant(machine="pc"), {"multifd": True},
                              {"multifd_channels": 2, **SLOW}, rounds=3),
    "postcopy-advised": Capture(SMALL, {"postcopy_ram": True}),
    "postcopy": Capture(SMALL, {"postcopy_ram": True}, SLOW, rounds=2, postcopy=True),
    "ignore-shared": Capture(SMALL.variant(backend="memfd"), {"x_ignore_shared": True}),
    "q35-random": Capture(Guest(memory=64, pages=4096, mode="random", machine="pc-q35-7.2",
                                params="hz=1000 rate=5 beat=5")),
    "dirty-bitmaps": Capture(SMALL, {"dirty_bitmaps": True}),
}


class Recorder:
    """Joins each connection to a socket of its own with one to the destination's, and records what
    the source says: the first connection in main.bin, the others in channel-N.bin."""

    def __init__(self, folder, path, destination):
        self.folder = folder
        self.destination = str(destination)
        self.threads = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()

    def _accept(self):
        names = ["main.bin", *(f"channel-{n}.bin" for n in range(16))]
        for name in names:
            try:
                source, _ = self.listener.accept()
            except OSError:
                return
            dest = socket.socket(socket.AF_UNIX)
            dest.connect(self.destination)
            self._pump(source, dest, self.folder / name)
            self._pump(dest, source, None)

    def _pump(self, reader, writer, path):
        thread = threading.Thread(target=pump, args=(reader, writer, path), daemon=True)
        self.threads.append(thread)
        thread.start()

    def close(self, timeout=30):
        """When both QEMUs have ended."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in [self.acceptor, *self.threads]:
            thread.join(timeout)


def pump(reader, writer, path):
    with open(path or "/dev/null", "wb") as record:
        try:
            while data := reader.recv(CHUNK):
                record.write(data)
                writer.sendall(data)
        except OSError:
            pass
        try:
            writer.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def wait_rounds(source, rounds, timeout=60):
    """Waits until QEMU has looked for dirty pages so often, or the migration's end."""
    deadline = time.monotonic() + timeout
    while True:
        info = source.qmp.command("query-migrate")
        if info["status"] in native.ENDED or info.get("ram", {}).get("dirty-sync-count", 0) > rounds:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {rounds} rounds in {timeout} s: {info}")
        time.sleep(0.02)


def capture(binary, what, folder):
    """Runs the migration and returns query-migrate's last answer."""
    folder.mkdir(parents=True)
    with Machine(binary, what.guest, name="src") as source, \
            Machine(binary, what.guest, incoming=True, name="dst") as dest:
        source.wait_ready()
        recorder = Recorder(folder, source.dir / "relay.sock", dest.dir / "migrate.sock")
        capabilities = {"return_path": True, "events": True, **what.capabilities}
        for machine in (dest, source):
            native.set_capabilities(machine, **capabilities)
            native.set_parameters(machine, **{"max_bandwidth": 0, **what.parameters})
        dest.qmp.command("migrate-incoming", {"uri": f"unix:{dest.dir}/migrate.sock"})
        if what.rounds > 1:
            # Not 0: QEMU looks for dirty pages again only when what is left fits into it.
            native.set_parameters(source, downtime_limit=1)
        source.qmp.command("migrate", {"uri": f"unix:{source.dir}/relay.sock"})
        if what.rounds > 1:
            wait_rounds(source, what.rounds)
            if what.postcopy:
                source.qmp.command("migrate-start-postcopy")
            native.set_parameters(source, downtime_limit=2000, max_bandwidth=0)
        info = native.wait_migration(source)
        if info["status"] == "completed":
            # Without a return path the source is done before the destination is.
            dest.qmp.wait_event("MIGRATION", 60, lambda e: e["status"] == "completed")
        source.quit()
        source.wait_exit()
        dest.quit()
        dest.wait_exit()
        recorder.close()
    (folder / "info.json").write_text(json.dumps(info))
    return info


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--qemu", action="append", help="a version; all there are otherwise")
    parser.add_argument("--only", action="append", choices=CAPTURES, help="one of the migrations")
    options = parser.parse_args()
    for version, binary in qemu.qemus().items():
        if options.qemu and version not in options.qemu:
            continue
        for name in options.only or CAPTURES:
            if CAPTURES[name].guest.accel == "kvm" and qemu.kvm_problem():
                print(f"{version} {name}: left out, no KVM: {qemu.kvm_problem()}")
                continue
            info = capture(binary, CAPTURES[name], options.folder / version / name)
            ram = info.get("ram", {})
            print(version, name, info["status"], info.get("error-desc", ""),
                  *(f"{key}={ram.get(key)}" for key in ("duplicate", "normal", "dirty-sync-count")),
                  flush=True)


if __name__ == "__main__":
    main()
