# SPDX-License-Identifier: Apache-2.0
"""Placement on NUMA nodes, on machines that have them: Debian's kernel in virtual machines. The
tests are meson's, which take the machine they run on as it is; here it has several nodes, and what
each of them is asked for is found there, by move_pages."""
import dataclasses
import os
import re

import pytest

from harness import kernel
from harness.build import built

PROGRAMS = ("numa/test-numa-topology", "numa/test-numa-pages", "numa/test-numa-buffer",
            "numa/test-numa-show", "engine/transfer/test-transfer-pool",
            "engine/transfer/test-transfer-worker", "engine/channel/test-channel-guest-place",
            "engine/channel/test-channel-ram")
# Of these programs only what has to do with nodes: an emulated CPU is slow.
ONLY = ("/topology", "/pages", "/buffer", "/pool", "/worker", "/guest-place", "/ram/placed")

# Skipped on every machine that has what it is about, or wants to be one that has not.
MAY_SKIP = {"/buffer/elsewhere"}
CGROUP = """mkdir /cg && mount -t cgroup2 cgroup /cg
echo +cpuset > /cg/cgroup.subtree_control && mkdir /cg/some
echo 0 > /cg/some/cpuset.mems && echo 0-1 > /cg/some/cpuset.cpus
echo $$ > /cg/some/cgroup.procs
"""


@dataclasses.dataclass
class Host:
    """Nodes as (CPUs, MiB); either may be missing. 'seen' is in what the guest says of itself."""
    nodes: tuple
    before: str = ""
    append: str = ""
    seen: tuple = ()

    def machine(self):
        memory = sum(mib for _, mib in self.nodes)
        cpus = sum(1 + int(c.split("-")[-1]) - int(c.split("-")[0]) for c, _ in self.nodes if c)
        args = ["-m", f"{memory}M", "-smp", str(cpus)]
        for i, (cpus, mib) in enumerate(self.nodes):
            node = f"node,nodeid={i}" + (f",cpus={cpus}" if cpus else "")
            if mib:
                args += ["-object", f"memory-backend-ram,id=m{i},size={mib}M"]
                node += f",memdev=m{i}"
            args += ["-numa", node]
        return args


HOSTS = {
    "one": Host((("0-1", 768),), seen=("1 node",)),
    "two-unequal": Host((("0-1", 768), ("2", 256)), seen=("2 nodes",)),
    "no-memory": Host((("0", 768), ("1", 0)), seen=("node 1: CPUs 1, 0 MiB",)),
    "no-cpus": Host((("0-1", 768), ("", 384)), seen=("node 1: CPUs none",)),
    "four": Host((("0", 768), ("1", 256), ("", 256), ("2", 0)),
                 # Linux counts those without CPUs last.
                 seen=("4 nodes", "node 2: CPUs 2, 0 MiB", "node 3: CPUs none")),
    "cpuset": Host((("0-1", 768), ("2-3", 384)), before=CGROUP,
                   seen=("2 nodes", "usable: CPUs 0-1, memory of nodes 0")),
    "huge-pages": Host((("0", 768), ("1", 512)), append="hugepagesz=2M hugepages=32",
                       seen=("node 0: CPUs 0", "16 huge pages of 2 MiB")),
    "isolated": Host((("0-1", 768), ("2-3", 384)), append="isolcpus=1,3",
                     seen=("usable: CPUs 0,2",)),
}


# The others tell little more.
QUICK = ("four",)


@pytest.mark.parametrize("host", [
    pytest.param(host, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for name, host in HOSTS.items()])
def test_on_a_host_with(workdir, host):
    programs = [built(path) for path in PROGRAMS]
    # The kernel moves pages to where they are read (it was seen to), which hides where they were put.
    said = kernel.run(workdir, *programs, before=host.before, only=ONLY,
                      append=f"numa_balancing=disable {host.append}", machine=host.machine())
    for program in programs:
        assert f"exit status 0 of /tests/{os.path.basename(program)}" in said, said
    skipped = set(re.findall(r"^ok \d+ (\S+) # SKIP", said, re.M))
    assert skipped <= MAY_SKIP, said
    for line in host.seen:
        assert line in said, f"'{line}' is not in: {said}"
