# SPDX-License-Identifier: Apache-2.0
"""Every kind of guest between every two versions of QEMU, memory compared byte for byte."""
import pytest

from conftest import binary, need_accel
from harness.handover import Hosts, migrate_exactly
from harness.qemu import Guest, Machine

# tests/README.md says why a guest with a dirty ring is paced.
PACE = "hz=1000 rate=20 beat=20"

GUESTS = {
    "flat-kvm": Guest(accel="kvm", pages=1024),
    "flat-kvm-ring": Guest(accel="kvm", dirty_ring=4096, params=PACE, pages=1024),
    "flat-tcg": Guest(params=PACE),
    "linux-tcg": Guest(kind="linux", memory=256),
}
PAIRS = (("7.2", "7.2"), ("10.0", "10.0"), ("7.2", "10.0"))
# Linux takes long to boot. From 7.2 to 10.0 it tells of both, and test_migrate_direct of 10.0 alone.
SLOW_OF_LINUX = PAIRS[:2]


@pytest.mark.parametrize("name,versions", [
    pytest.param(name, pair, id=f"{name}-{pair[0]}to{pair[1]}",
                 marks=pytest.mark.slow if name == "linux-tcg" and pair in SLOW_OF_LINUX else ())
    for name in GUESTS for pair in PAIRS])
def test_migration(workdir, pki, name, versions):
    guest = GUESTS[name]
    need_accel(guest.accel)
    source_qemu, dest_qemu = (binary(v) for v in versions)
    with Machine(source_qemu, guest, name="src") as source, \
            Machine(dest_qemu, guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, reconnects=0)
    assert report["verify"]["stream"] == "match"
    assert report["vm"] == "src"
