# SPDX-License-Identifier: Apache-2.0
"""The links between the two hosts: shaped veth pairs, an unshaped one, one host's loopback."""
import contextlib
import dataclasses
import itertools
import os
import subprocess

from harness import link as netlink
from harness.link import GBIT

from .systems import Unavailable

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Loopback:
    """Both ends on one host; a namespace of its own where that can be had, to count its bytes."""
    name: str
    address: str = "127.0.0.1"

    @property
    def prefix(self):
        return ("ip", "netns", "exec", self.name) if self.name else ()

    @property
    def a(self):
        return self

    b = a

    @property
    def device(self):
        return "lo" if self.name else None

    def cut(self):
        raise Unavailable("the loopback cannot be cut")


@contextlib.contextmanager
def _loopback():
    if netlink.link_problem():
        yield Loopback("")
        return
    name = f"drv{os.getpid()}-lo{next(_numbers)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield Loopback(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


class _Veth(netlink.Link):
    @property
    def device(self):
        return self.a.device


def _veth(rate):
    problem = netlink.link_problem()
    if problem:
        raise Unavailable(f"no network namespaces with shaped links here: {problem}")
    return _Veth(rate)


LINKS = {
    "200m": ("200 Mbit/s: network namespaces, veth, tbf", lambda: _veth(GBIT // 5)),
    "1g": ("1 Gbit/s: network namespaces, veth, tbf", lambda: _veth(GBIT)),
    "10g": ("10 Gbit/s: network namespaces, veth, tbf", lambda: _veth(10 * GBIT)),
    "unlimited": ("network namespaces and veth, as fast as they go", lambda: _veth(None)),
    "loopback": ("one host's loopback, as fast as it goes", _loopback),
}


def make(name):
    """A context manager for that link."""
    return LINKS[name][1]()
