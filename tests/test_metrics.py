# SPDX-License-Identifier: Apache-2.0
"""What a monitoring system collects from a daemon."""
from harness import qemu
from harness.handover import Hosts, migrate_exactly
from harness.qemu import Guest, Machine
from harness.scene import wait_until

GUEST = Guest(mode="sparse", pages=4096, params="hz=100 rate=20 beat=20 body=random")


def test_of_both_ends(workdir, pki):
    """A job that fails and one that does not: counted as they end, with what their reports say."""
    with Machine(qemu.newest(), GUEST, name="src") as source, \
            Machine(qemu.newest(), GUEST, incoming=True, name="dst") as dest, Hosts(workdir, pki) as hosts:
        source.wait_ready()
        before = hosts.a.metrics()
        assert before['drover_downtime_seconds_bucket{le="+Inf"}'] == 0
        assert not [name for name in before if name.startswith("drover_jobs")]
        assert hosts.a.drover("migrate", "--qmp", source.drover_qmp, "--to", hosts.b.address,
                              "--dest-qmp", workdir / "nobody").status == 1

        def look(move):
            move.wait_held()
            during.update(hosts.a.metrics())

        during = {}
        report = migrate_exactly(hosts, source, dest, during=look)
        # The other end hears of the end a little later.
        done = 'drover_jobs_ended_total{kind="migrate",role="%s",outcome="%s"}'
        wait_until(lambda: hosts.b.metrics().get(done % ("dest", "completed")) == 1, "its end")
        after = hosts.a.metrics()
    assert [n for name, n in during.items() if name.startswith('drover_jobs{kind="migrate",role="source"')] == [1]
    assert after[done % ("source", "completed")] == 1
    assert after[done % ("source", "failed")] == 1
    assert after['drover_carried_bytes_total{of="ram"}'] == report["ram"]["bytes"]
    assert after['drover_wire_bytes_total{of="ram"}'] == report["ram"]["wire_bytes"]
    assert after["drover_downtime_seconds_count"] == 1
    assert after["drover_downtime_seconds_sum"] == report["downtime_ms"] / 1000
    assert after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]
    assert [name for name in after if name.startswith('drover_info{name="') and "version=" in name]
