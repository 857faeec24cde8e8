# SPDX-License-Identifier: Apache-2.0
"""link x guest x system: which cells there are, in what size, and how they are chosen."""
import dataclasses
import fnmatch

from .guests import RECIPES
from .links import LINKS
from .systems import BASELINE, SYSTEMS


@dataclasses.dataclass(frozen=True)
class Cell:
    link: str
    guest: str
    system: str

    @property
    def group(self):
        return f"{self.link}/{self.guest}"

    def __str__(self):
        return f"{self.group}/{self.system}"


@dataclasses.dataclass(frozen=True)
class Profile:
    """How large and how often. 'groups' is ((links, guests, systems), ...)."""
    name: str
    what: str
    memory: int       # MiB of a guest
    watch_s: float
    time_limit: float
    repeat: int
    budget_s: float   # further rounds are left out when this would not do
    groups: tuple

    def cells(self):
        seen = {}
        for links, guests, systems in self.groups:
            for link in links:
                for guest in guests:
                    for system in systems:
                        seen[Cell(link, guest, system)] = None
        return list(seen)


CUT = "drover-auto-cut1s"
# One that only a sweep of writers tells from its neighbour.
SWEPT = "qemu-xbzrle-large"
ALL = tuple(name for name in SYSTEMS if name not in (CUT, SWEPT) and SYSTEMS[name].sealed)
MAIN = ("qemu", "qemu-multifd-zstd", "qemu-tls", "drover-none", "drover-auto")
WRITERS = ("sparse", "rewrite", "random")

PROFILES = {p.name: p for p in (
    Profile("quick", "a look: under 5 minutes", 256, 1, 20, 2, 260, (
        (("1g",), ("idle", "rewrite"), MAIN),
        (("loopback",), ("idle",), MAIN),
    )),
    Profile("usual", "every link, the main systems", 512, 2, 40, 3, 3600, (
        (("1g", "10g", "unlimited"), ("idle", *WRITERS), MAIN),
    )),
    Profile("full", "the whole matrix: under an hour", 512, 2, 20, 3, 3400, (
        (("1g", "10g", "unlimited"), ("idle",), ALL),
        (("1g", "10g", "unlimited"), WRITERS, (*MAIN, "qemu-xbzrle")),
        (("1g", "unlimited"), ("clones",), MAIN),
        (("unlimited",), ("linux",), ("qemu", "drover-auto")),
    )),
    Profile("promises", "what drover promises, with guests of 2 GiB", 2048, 5, 90, 5, 3600, (
        (("1g",), ("idle",), ("qemu", "drover-auto", CUT)),
        (("loopback",), ("idle",), ("qemu", "drover-none")),
    )),
)}
# What --only looks through when no profile is named.
EVERYTHING = tuple(Cell(link, guest, system)
                   for link in LINKS for guest in RECIPES for system in SYSTEMS)


def _has(cell, pattern):
    if any(c in pattern for c in "*?["):
        return fnmatch.fnmatchcase(str(cell), pattern)
    return f"/{pattern}/" in f"/{cell}/"


def matching(cells, patterns):
    """Those that fit one of the patterns (separated by commas).

    A pattern is a part of the name LINK/GUEST/SYSTEM, in whole words, or the whole of it with
    wildcards.
    """
    return [cell for cell in cells if any(_has(cell, p) for p in patterns.split(","))]


def with_baselines(cells):
    """A figure alone says nothing: every group has QEMU's own migration, and has it first."""
    groups = {}
    for cell in cells:
        groups.setdefault((cell.link, cell.guest), []).append(cell)
    whole = []
    for (link, guest), own in groups.items():
        baseline = Cell(link, guest, BASELINE)
        whole += [baseline] + [cell for cell in own if cell != baseline]
    return whole


def by_group(cells):
    groups = {}
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell)
    return groups
