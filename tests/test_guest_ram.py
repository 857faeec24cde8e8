# SPDX-License-Identifier: Apache-2.0
"""Guest RAM from outside, in real QEMUs: where it is, written, read, emptied, and refused."""
import json
import os
import random
import select
import subprocess

import pytest

from conftest import need_accel
from harness import build
from harness.qemu import MIB, PAGE, Guest, Machine

MEMORY = 64
# Beyond the option ROMs and whatever QEMU itself puts into a waiting machine.
FREE = 16 * MIB


class Tool:
    """tests/tools/guestram on one machine's second QMP socket."""

    def __init__(self, machine, pid=None, prefix=()):
        argv = [*prefix, build.built("tests", "tools", "guestram"), machine.drover_qmp]
        argv += [str(pid)] if pid else []
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.first = self._answer()

    def _answer(self):
        assert select.select([self.process.stdout], [], [], 60)[0], "guestram says nothing for 60 s"
        return json.loads(self.process.stdout.readline())

    @property
    def blocks(self):
        assert "return" in self.first, self.first
        return self.first["return"]

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def do(self, *words):
        answer = self.ask(*words)
        assert "return" in answer, answer
        return answer["return"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait(60) in (0, 1)
        self.process.stdout.close()


def idle(**changes):
    return Guest(memory=MEMORY).variant(**changes)


def two_nodes():
    half = MEMORY // 2
    return idle(extra=(
        "-smp", "2",
        "-object", f"memory-backend-ram,id=m0,size={half}M", "-numa", "node,memdev=m0",
        "-object", f"memory-backend-memfd,id=m1,size={half}M,share=on", "-numa", "node,memdev=m1"))


# The name of the block, what RAM it is.
KINDS = {
    "private": ("pc.ram", idle()),
    "memfd": ("ram0", idle(backend="memfd")),
    "memfd-private": ("ram0", idle(backend="memfd-private")),
    "file": ("ram0", idle(backend="file")),
    "huge": ("ram0", idle(machine="pc-i440fx-7.2,memory-backend=ram0", extra=(
        "-object", f"memory-backend-ram,id=ram0,size={MEMORY}M,prealloc=on"))),
    "hugetlb": ("ram0", idle(machine="pc-i440fx-7.2,memory-backend=ram0", extra=(
        "-object", f"memory-backend-memfd,id=ram0,size={MEMORY}M,hugetlb=on,share=on"))),
    "q35": ("pc.ram", idle(machine="pc-q35-7.2")),
}


def waiting(binary, guest, **kw):
    return Machine(binary, guest, incoming=True, **kw)


def content(length, seed):
    return random.Random(seed).randbytes(length)


def saved(machine, workdir, address, length):
    """Guest memory as QEMU itself sees it."""
    path = workdir / "saved"
    machine.qmp.command("pmemsave", {"val": address, "size": length, "filename": str(path)})
    return path.read_bytes()


def put(tool, workdir, block, offset, data):
    path = workdir / "data"
    path.write_bytes(data)
    assert tool.do("write", block, offset, path) == len(data)


def resident(pid):
    """Bytes of QEMU that are in memory, whoever shares them."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("Rss:"))


def free_hugepages():
    with open("/proc/meminfo", encoding="ascii") as f:
        info = dict(line.split(":") for line in f)
    return int(info["HugePages_Free"]) * int(info["Hugepagesize"].split()[0]) * 1024


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_qemu_sees(any_qemu, workdir, kind):
    block, guest = KINDS[kind]
    if kind == "hugetlb" and free_hugepages() < MEMORY * MIB:
        pytest.skip(f"less than {MEMORY} MiB of huge pages are free: set vm.nr_hugepages")
    with waiting(any_qemu, guest) as vm, Tool(vm) as tool:
        assert tool.blocks[block]["size"] == MEMORY * MIB
        assert tool.blocks[block]["hva"] != 0
        data = content(3 * MIB + 5, 1)
        put(tool, workdir, block, FREE + 3, data)
        assert saved(vm, workdir, FREE, len(data) + 5) == b"\0" * 3 + data + b"\0" * 2
        last = content(100, 2)
        put(tool, workdir, block, MEMORY * MIB - 100, last)
        assert saved(vm, workdir, MEMORY * MIB - 100, 100) == last
        assert tool.do("read", block, FREE + 3, len(data), workdir / "read") == len(data)
        assert (workdir / "read").read_bytes() == data


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_all_of_it(any_qemu, workdir, accel):
    """Every byte of a block lies where it should: QEMU's own dump is the block, hole and all."""
    need_accel(accel)
    guest = idle(accel=accel)
    with waiting(any_qemu, guest) as vm, Tool(vm) as tool:
        data = content(MEMORY * MIB, 3)
        put(tool, workdir, "pc.ram", 0, data)
        seen = saved(vm, workdir, 0, MEMORY * MIB)
        roms = slice(0xc0000, 0x100000)     # other blocks lie there
        assert seen[:roms.start] == data[:roms.start]
        assert seen[roms.stop:] == data[roms.stop:]


def test_two_backends(any_qemu, workdir):
    half = MEMORY // 2 * MIB
    with waiting(any_qemu, two_nodes()) as vm, Tool(vm) as tool:
        for number, name in enumerate(("m0", "m1")):
            assert tool.blocks[name]["size"] == half
            data = content(MIB, number)
            put(tool, workdir, name, half - MIB, data)
            assert saved(vm, workdir, (number + 1) * half - MIB, MIB) == data


@pytest.mark.parametrize("machine", ["pc-i440fx-7.2", "pc-q35-7.2"])
def test_both_sides_of_the_hole(any_qemu, workdir, machine):
    """RAM from 4 GiB on continues the block where the part below has ended."""
    low = (2 if "q35" in machine else 3) << 30
    guest = idle(machine=machine, memory=5 * 1024)
    with waiting(any_qemu, guest) as vm, Tool(vm) as tool:
        assert tool.blocks["pc.ram"]["size"] == 5 << 30
        data = content(2 * MIB, 4)
        put(tool, workdir, "pc.ram", low - MIB, data)
        assert saved(vm, workdir, low - MIB, MIB) == data[:MIB]
        assert saved(vm, workdir, 4 << 30, MIB) == data[MIB:]
        put(tool, workdir, "pc.ram", (5 << 30) - 4, b"last")
        assert saved(vm, workdir, (9 << 30) - low - 4, 4) == b"last"


def test_a_dimm_that_is_called_like_a_device(any_qemu, workdir):
    """Where only names tell, a name that means two things is not believed."""
    guest = idle(extra=("-m", f"{MEMORY}M,slots=2,maxmem=1G", "-vga", "std",
                        "-object", "memory-backend-ram,id=vga.vram,size=128M",
                        "-device", "pc-dimm,memdev=vga.vram"))
    with waiting(any_qemu, guest) as vm, Tool(vm) as tool:
        dimm, card = tool.blocks["vga.vram"], tool.blocks["0000:00:02.0/vga.vram"]
        if "HVA" in vm.qmp.hmp("info ramblock"):
            assert dimm["hva"] not in (0, card["hva"])
            put(tool, workdir, "vga.vram", 5, b"dimm")
            assert saved(vm, workdir, (4 << 30) + 5, 4) == b"dimm"
        else:
            assert dimm["hva"] == card["hva"] == 0
            assert "same name" in dimm["why"] and "memory map" in card["why"]


def test_what_is_left_to_qemu(any_qemu):
    with waiting(any_qemu, idle()) as vm, Tool(vm) as tool:
        assert [name for name, block in tool.blocks.items() if block["hva"]] == ["pc.ram"]
        assert all(block["why"] for name, block in tool.blocks.items() if name != "pc.ram")
        answer = tool.ask("zero", "pc.bios", 0, PAGE)
        assert answer["error"] == "protocol" and "reached from outside" in answer["desc"]


@pytest.mark.parametrize("kind", ["private", "memfd", "memfd-private", "file"])
def test_zero_and_digest_take_no_memory(any_qemu, workdir, kind):
    block, guest = KINDS[kind]
    with waiting(any_qemu, guest) as vm, Tool(vm) as tool:
        put(tool, workdir, block, FREE + PAGE + 7, b"x")
        before = resident(vm.pid)
        empty = tool.do("digest", 2, 1, block)
        assert tool.do("zero", block, FREE, 32 * MIB) == PAGE
        assert tool.do("zero", block, FREE, 32 * MIB) == 0
        zeroed = tool.do("digest", 1, 1, block)
        assert resident(vm.pid) - before < MIB
        assert zeroed != empty
        assert saved(vm, workdir, FREE, MIB) == b"\0" * MIB


def test_the_same_digest_for_the_same_content(any_qemu, workdir):
    """Two machines, of private and of shared memory, one filled by hand and one by QEMU's loader."""
    data = content(5 * MIB + PAGE, 6)
    image = workdir / "image"
    image.write_bytes(data)
    first = idle(machine="pc-i440fx-7.2,memory-backend=ram0", extra=(
        "-object", f"memory-backend-ram,id=ram0,size={MEMORY}M"))
    with waiting(any_qemu, first) as a, waiting(any_qemu, idle(backend="memfd")) as b, \
            Tool(a) as one, Tool(b) as other:
        assert one.do("digest", 1, 9, "ram0") == other.do("digest", 2, 9, "ram0")
        put(one, workdir, "ram0", FREE, data)
        assert one.do("digest", 1, 9, "ram0") != other.do("digest", 2, 9, "ram0")
        put(other, workdir, "ram0", FREE, data)
        assert one.do("digest", 3, 9, "ram0") == other.do("digest", 0, 9, "ram0")
        put(other, workdir, "ram0", FREE + len(data) - 1, bytes([data[-1] ^ 1]))
        assert one.do("digest", 3, 9, "ram0") != other.do("digest", 0, 9, "ram0")


def test_bounds(any_qemu, workdir):
    size = MEMORY * MIB
    with waiting(any_qemu, idle()) as vm, Tool(vm) as tool:
        (workdir / "data").write_bytes(b"12345678")
        answer = tool.ask("write", "pc.ram", size - 7, workdir / "data")
        assert answer == {"error": "protocol", "desc":
                          f"8 bytes at {size - 7} are beyond the end of RAM block 'pc.ram', which "
                          f"has {size}"}
        assert tool.ask("write", "pc.ram", (1 << 64) - 4, workdir / "data")["error"] == "protocol"
        assert tool.ask("write", "no.ram", 0, workdir / "data")["error"] == "protocol"
        assert saved(vm, workdir, size - 8, 8) == b"\0" * 8


def test_another_process_is_not_written_to(any_qemu, workdir):
    with waiting(any_qemu, idle()) as vm, waiting(any_qemu, idle(), name="other") as other:
        with Tool(vm, pid=other.pid) as tool:
            assert all(block["hva"] == 0 for block in tool.blocks.values())
            assert tool.blocks["pc.ram"]["why"] in (
                "it is not wholly mapped in QEMU's memory",
                "QEMU has mapped it without the right to write",
                "it is made of different kinds of memory")
        with Tool(vm, pid=2 ** 22 + 1) as tool:
            assert tool.first["error"] == "qemu"
            assert "there is no process 4194305 that could be QEMU" in tool.first["desc"]


def test_a_dead_qemu(any_qemu, workdir):
    (workdir / "data").write_bytes(b"x" * PAGE)
    with waiting(any_qemu, idle()) as vm, Tool(vm) as tool:
        assert tool.blocks["pc.ram"]["hva"]
        vm.kill()
        gone = {"error": "qemu", "desc": f"QEMU (pid {vm.pid}) has ended"}
        assert tool.ask("write", "pc.ram", 0, workdir / "data") == gone
        assert tool.ask("read", "pc.ram", 0, PAGE, workdir / "read") == gone
        assert tool.ask("zero", "pc.ram", 0, PAGE) == gone
        assert tool.ask("digest", 2, 1, "pc.ram") == gone


# ---- permission ----

WITHOUT_PTRACE = ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")
NOBODY = 65534


def as_nobody(name):
    """A prefix that runs QEMU as another user, to whom it gives the machine's directory."""
    script = (f'chown -R {NOBODY} "${{TMPDIR:-/tmp}}"/drv-{name}-*; '
              f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$@"')
    return ("sh", "-c", script, "sh")


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@root_only
def test_no_permission_for_another_user(any_qemu, workdir):
    name = f"nobody{os.getpid()}"
    with waiting(any_qemu, idle(), prefix=as_nobody(name), name=name) as vm:
        with Tool(vm, prefix=WITHOUT_PTRACE) as tool:
            assert tool.first == {"error": "usage", "desc": (
                f"droverd may not reach into the memory of QEMU (pid {vm.pid}), which runs as user "
                f"{NOBODY} while droverd runs as user 0 without CAP_SYS_PTRACE: give it that "
                "capability, or run both as the same user")}
        with Tool(vm) as tool:       # with the capability, whoever QEMU runs as
            put(tool, workdir, "pc.ram", FREE, b"reached")
            (workdir / "read").unlink(missing_ok=True)
            assert tool.do("read", "pc.ram", FREE, 7, workdir / "read") == 7
            assert (workdir / "read").read_bytes() == b"reached"


@root_only
def test_no_permission_for_a_qemu_that_may_more(any_qemu):
    with waiting(any_qemu, idle()) as vm, Tool(vm, prefix=WITHOUT_PTRACE) as tool:
        assert tool.first["error"] == "usage"
        assert "give droverd CAP_SYS_PTRACE" in tool.first["desc"] or \
            "give it CAP_SYS_PTRACE" in tool.first["desc"]
