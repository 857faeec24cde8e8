# SPDX-License-Identifier: Apache-2.0
"""'drover numa': what the host is made of, and where a VM is on it. It changes nothing."""
import contextlib
import json
import os
import re
import subprocess

import pytest

from harness.daemon import Daemon
from harness.qemu import MIB, Guest, Machine
from harness.scene import free, one_sentence

GUEST = Guest(mode="idle", params="hz=100 beat=10 body=random", pages=4096)


@contextlib.contextmanager
def daemon(workdir, pki, *lines):
    config = workdir / "droverd.conf"
    config.write_text("[transfer]\n" + "".join(f"{line}\n" for line in lines))
    with Daemon(workdir, "a", pki / "a", config=config) as found:
        yield found


def allowed(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return dict(line.split(":\t", 1) for line in f if ":\t" in line)["Cpus_allowed_list"].strip()


def memory(node):
    with open(f"/sys/devices/system/node/node{node}/meminfo", encoding="ascii") as f:
        return int(re.search(r"MemTotal: +(\d+) kB", f.read())[1]) * 1024


def test_the_host(workdir, pki):
    with daemon(workdir, pki, "threads=2") as a:
        told, text = a.drover("numa", "--json"), a.drover("numa")
        raw = a.drover("numa", "--qmp", workdir / "nobody.qmp")
    assert told.status == 0 and text.status == 0, told
    host = told.json
    assert host["placing"] and len(host["threads"]) == 2
    for node in host["nodes"]:
        assert node["memory"] == memory(node["node"])
        assert 0 < node["free"] <= node["available"] <= node["memory"]
    assert {nic["name"] for nic in host["nics"]} == set(os.listdir("/sys/class/net")) - {"lo", "bonding_masters"}
    if len(host["nodes"]) == 1:
        assert all(t == {"node": None, "cpus": None} for t in host["threads"])
    assert host["buffers"] == {"nodes": {}, "anywhere": 0}     # there is no session
    assert text.stdout.startswith("node 0  CPUs ") and "data thread 1  " in text.stdout
    one_sentence(raw, 1, "the VM's QMP socket cannot be used", "nobody.qmp")


def test_a_guest(workdir, pki, any_qemu):
    with daemon(workdir, pki) as a, Machine(any_qemu, GUEST, name="vm") as vm:
        vm.wait_ready()
        told = a.drover("numa", "--qmp", vm.drover_qmp, "--json")
        text = a.drover("numa", "--qmp", vm.drover_qmp)
        assert free(vm.drover_qmp)
        vm.console.wait_beats(5)
        assert told.status == 0 and text.status == 0, (told, text)
        guest = told.json["guest"]
        assert guest["pid"] == vm.process.pid
        ram = guest["blocks"][0]
        assert ram["block"] == "pc.ram" and ram["size"] == GUEST.memory * MIB
        assert 0 < ram["present"] <= 1
        assert abs(sum(ram["nodes"].values()) - 1) < 0.01
        [cpu] = guest["cpus"]
        assert cpu["cpus"] == allowed(cpu["thread"])
        os.sched_setaffinity(cpu["thread"], {0})
        pinned = a.drover("numa", "--qmp", vm.drover_qmp, "--json").json
        assert pinned["guest"]["cpus"][0]["cpus"] == "0"
    assert "guest, in process " in text.stdout and "  pc.ram  " in text.stdout
    assert "unknown" not in guest


def test_off(workdir, pki):
    with daemon(workdir, pki, "numa=off") as a:
        told, text = a.drover("numa", "--json"), a.drover("numa")
    assert told.json["placing"] is False
    assert "numa=off" in text.stdout


@pytest.mark.parametrize("body, says", [
    ({}, "\"qmp\" is missing"),
    ({"qmp": "relative"}, "\"qmp\" is missing or wrong"),
    ({"qmp": "/x", "to": "b:1"}, "\"to\" is not known"),
])
def test_refused(workdir, pki, body, says):
    with daemon(workdir, pki) as a:
        reply = subprocess.run(["curl", "-s", "--unix-socket", a.api, "http://drover/v1/numa", "-d",
                                json.dumps(body)], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    error = json.loads(reply.stdout)["error"]
    assert error["class"] == "usage" and says in error["message"], error
