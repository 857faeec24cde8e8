# SPDX-License-Identifier: Apache-2.0
"""Migrations on hosts with several NUMA nodes, as far as a machine with one can play them: the
daemons are lent another host's sysfs (DROVER_TEST_NUMA), QEMU and its memory are where they are.
Where pages really go on machines with several nodes, test_numa.py sees."""
import contextlib
import os

import pytest

from harness import qemu
from harness.daemon import Daemon
from harness.handover import Hosts, migrate_exactly
from harness.qemu import MIB, Guest, Machine
from harness.scene import one_sentence, wait_until

GUEST = Guest(mode="sparse", pages=4096, params="hz=1000 rate=20 beat=20 body=random")

needs_two_cpus = pytest.mark.skipif(os.cpu_count() < 2, reason="one CPU has nowhere else to go")


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n", encoding="ascii")


def lend(root, *nodes, allowed="0-1"):
    """A host with these nodes: their CPUs, and MiB of memory that are available."""
    for i, (cpus, mib) in enumerate(nodes):
        node = f"sys/devices/system/node/node{i}"
        put(root, f"{node}/cpulist", cpus)
        put(root, f"{node}/meminfo", f"Node {i} MemTotal: {mib * 1024} kB\nNode {i} MemFree: {mib * 1024} kB")
        put(root, f"{node}/distance", " ".join("10" if k == i else "20" for k in range(len(nodes))))
    put(root, "sys/devices/system/node/online", f"0-{len(nodes) - 1}")
    put(root, "proc/self/status", f"Name: x\nCpus_allowed_list:\t{allowed}\nMems_allowed_list:\t0-7")
    return root


@contextlib.contextmanager
def scene(workdir, pki, guest, *nodes, hold=False, config=None):
    root = lend(workdir / "host", *nodes)
    with Machine(qemu.newest(), guest, name="src") as source, \
            Machine(qemu.newest(), guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=hold, config=config,
                  env={"DROVER_TEST_NUMA": str(root)}) as hosts:
        source.wait_ready()
        yield hosts, source, dest


def words(hosts, source, dest, *more):
    return ("migrate", "--qmp", source.drover_qmp, "--to", hosts.b.address, "--dest-qmp",
            dest.drover_qmp, "--json", *more)


@pytest.mark.parametrize("mode", ("direct", "relay"))
def test_planned_where_there_is_room(workdir, pki, mode):
    with scene(workdir, pki, GUEST, ("0", 4000), ("1", 1000), hold=True) as (hosts, source, dest):
        report = migrate_exactly(hosts, source, dest, "--mode", mode)
        said = hosts.b.said()
        threads = hosts.b.drover("numa", "--json").json["threads"]
        counted = hosts.b.metrics()
    numa = report["numa"]
    assert numa["source_node"] == 0 and numa["dest"]["as_planned"] == 1, numa
    [ram] = [block for block in numa["dest"]["blocks"] if block["block"] == "pc.ram"]
    assert (ram["planned"], ram["why"], ram["nodes"]) == ("0", "room", {"0": 1}), ram
    assert "'pc.ram' host-nodes=0,policy=bind" in numa["dest"]["advice"]
    assert numa["dest"]["advice"] in said
    assert threads[0] == {"node": 0, "cpus": "0"}
    if mode == "relay":
        assert "copied" not in numa["dest"]
        return
    copied = numa["dest"]["copied"]
    assert 4096 * 4096 <= copied["bytes"] <= report["ram"]["bytes"]
    assert 0 < copied["sampled_bytes"] < copied["bytes"]
    for way in ("to", "from"):
        assert copied[f"{way}_local_bytes"] + copied[f"{way}_remote_bytes"] == copied["bytes"]
    for way, access in (("to", "write"), ("from", "read")):
        for node in ("local", "remote"):
            count = counted[f'drover_numa_bytes_total{{access="{access}",node="{node}"}}']
            assert abs(count - copied[f"{way}_{node}_bytes"]) <= 1


@needs_two_cpus
def test_within_what_qemu_may_use(workdir, pki):
    """Another node has more room and the guest's CPU, but QEMU's cpuset has not that node."""
    with scene(workdir, pki, GUEST, ("0", 3000), ("1", 4000)) as (hosts, source, dest):
        os.sched_setaffinity(dest.qmp.command("query-cpus-fast")[0]["thread-id"], {1})
        report = hosts.a.drover(*words(hosts, source, dest)).json
    ram = report["numa"]["dest"]["blocks"][0]
    assert (ram["planned"], ram["why"], ram["nodes"]) == ("0", "room", {"0": 1}), ram


@pytest.mark.parametrize("mode", ("direct", "relay"))
def test_no_room_where_it_is_bound(workdir, pki, mode):
    guest = GUEST.variant(backend="bound")
    with scene(workdir, pki, guest, ("0", 10), ("1", 4000)) as (hosts, source, dest):
        result = hosts.a.drover(*words(hosts, source, dest, "--mode", mode))
        one_sentence(result, 1, "does not fit the destination's NUMA nodes", "'ram0'", "NUMA node 0",
                     "10 MiB of memory", "host-nodes")
        assert source.running() and dest.status() == "inmigrate"
        source.console.wait_beats(5)
        # Nothing was begun there: with room it is as good as new.
        lend(workdir / "host", ("0", 4000), ("1", 10))
        report = hosts.a.drover(*words(hosts, source, dest, "--mode", mode))
        assert report.status == 0, report
    numa = report.json["numa"]["dest"]
    assert (numa["blocks"][0]["planned"], numa["blocks"][0]["why"]) == ("0", "policy")
    assert "advice" not in numa


def test_off(workdir, pki):
    config = workdir / "off.conf"
    config.write_text("[transfer]\nnuma=off\n")
    guest = GUEST.variant(backend="bound")
    with scene(workdir, pki, guest, ("0", 10), ("1", 10), config=config) as (hosts, source, dest):
        result = hosts.a.drover(*words(hosts, source, dest))
        assert result.status == 0 and "numa" not in result.json, result


@needs_two_cpus
def test_off_the_cpus_of_guests(workdir, pki):
    """Of the host at hand, whatever it has: nobody is pinned, until a guest is that is moved."""
    with Machine(qemu.newest(), GUEST, name="src") as source, \
            Machine(qemu.newest(), GUEST, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        os.sched_setaffinity(source.qmp.command("query-cpus-fast")[0]["thread-id"], {0})

        def cpus():
            return {thread["cpus"] for thread in hosts.a.drover("numa", "--json").json["threads"]}

        def all_off():
            return all(c is not None and c.split("-")[0].split(",")[0] != "0" for c in cpus())

        before = cpus()
        with hosts.a.running(*words(hosts, source, dest, "--bandwidth", 4 * MIB)) as command:
            wait_until(all_off, "data threads to be off the guest's CPU")
            hosts.a.drover("cancel", hosts.a.drover("jobs", "--json").json["jobs"][0]["job"])
            assert command.wait().status == 4
        wait_until(lambda: cpus() == before, "data threads to be where they were")
