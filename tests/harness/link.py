# SPDX-License-Identifier: Apache-2.0
"""Two hosts with a shaped link between them: network namespaces, a veth pair, tbf. Needs root."""
import functools
import itertools
import json
import os
import subprocess

GBIT = 1_000_000_000
# The block for benchmarking network devices; these addresses exist inside the namespaces only.
ADDRESSES = ("198.18.0.1", "198.18.0.2")

_numbers = itertools.count(1)


def _run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One end. Start processes in it with its prefix: Machine(..., prefix=host.prefix)."""

    def __init__(self, name, address):
        self.name = name
        self.address = address
        self.device = "eth0"
        self.prefix = ("ip", "netns", "exec", name)

    def run(self, *argv):
        return _run(*self.prefix, *argv)


class Link:
    """with Link(rate=1 * GBIT) as link: link.a and link.b are the hosts. rate None: unshaped."""

    def __init__(self, rate=None):
        self.rate = rate
        tag = f"drv{os.getpid()}-{next(_numbers)}"
        self.a = Host(f"{tag}a", ADDRESSES[0])
        self.b = Host(f"{tag}b", ADDRESSES[1])
        self.hosts = (self.a, self.b)

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def _build(self):
        for host in self.hosts:
            _run("ip", "netns", "add", host.name)
        _run("ip", "-n", self.a.name, "link", "add", self.a.device, "type", "veth",
             "peer", "name", self.b.device, "netns", self.b.name)
        for host in self.hosts:
            _run("ip", "-n", host.name, "address", "add", f"{host.address}/30", "dev", host.device)
            _run("ip", "-n", host.name, "link", "set", "lo", "up")
            _run("ip", "-n", host.name, "link", "set", host.device, "up")
        self.shape(self.rate)

    def shape(self, rate):
        """Limits both directions to 'rate' bits a second, now or during a transfer; None: not."""
        self.rate = rate
        for host in self.hosts:
            device = ("tc", "-n", host.name, "qdisc")
            if rate is None:
                subprocess.run([*device, "del", "dev", host.device, "root"],
                               capture_output=True, timeout=60, check=False)
                continue
            # The bucket holds 2 ms, and no less than a few of the largest segments.
            burst = max(rate // 8 // 500, 4 * 65536)
            _run(*device, "replace", "dev", host.device, "root", "tbf", "rate", f"{rate}bit",
                 "burst", f"{burst}b", "latency", "20ms")

    def cut(self):
        """Packets vanish, as when a cable far away is pulled: no error, no reset."""
        for host in self.hosts:
            host.run("nft", "add table inet cut; add chain inet cut in "
                            "{ type filter hook input priority 0; policy drop; }")

    def restore(self):
        for host in self.hosts:
            host.run("nft", "delete table inet cut")

    def down(self):
        """This host's own cable is pulled: its network card knows."""
        _run("ip", "-n", self.a.name, "link", "set", self.a.device, "down")

    def up(self):
        _run("ip", "-n", self.a.name, "link", "set", self.a.device, "up")

    def wire_bytes(self):
        """What went over the link so far: (from a to b, from b to a)."""
        text = _run("ip", "-n", self.a.name, "-j", "-s", "link", "show", "dev", self.a.device)
        stats = json.loads(text)[0]["stats64"]
        return stats["tx"]["bytes"], stats["rx"]["bytes"]

    def close(self):
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, timeout=60,
                           check=False)

    def __exit__(self, *_):
        self.close()


@functools.lru_cache(None)
def link_problem():
    """None where links can be made here, otherwise why not."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Link(rate=GBIT) as link:
            link.cut()
            link.restore()
    except (RuntimeError, FileNotFoundError) as e:
        return str(e)
    return None
