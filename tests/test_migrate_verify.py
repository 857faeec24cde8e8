# SPDX-License-Identifier: Apache-2.0
"""--verify memory: both ends hash the guest's RAM itself, and a byte that differs costs the migration."""
import re

import pytest

from conftest import binary, need_accel
from harness import qemu
from harness.handover import Hosts, arguments, migrate_exactly
from harness.qemu import MIB, PAGE, Guest, Machine
from harness.scene import Scene, one_sentence
from test_migrate_direct import WITHOUT_PTRACE

# Few rounds, so that QEMU 7.2 without KVM loses nothing by itself (tests/README.md).
PACE = "hz=1000 rate=20 beat=20"
IDLE = Guest(mode="idle", pages=2048, params="hz=100 beat=2 body=random")
KVM = Guest(accel="kvm", mode="sparse", pages=2048, params=PACE)
TCG = Guest(mode="sparse", pages=2048, params=PACE)
# (version, guest): 7.2 with KVM, the newest without.
GUESTS = {
    "7.2-kvm": ("7.2", KVM),
    "7.2-kvm-memfd": ("7.2", KVM.variant(backend="memfd")),
    "10.0-kvm": ("10.0", KVM),
    "10.0-tcg": ("10.0", TCG),
    "10.0-tcg-memfd": ("10.0", TCG.variant(backend="memfd")),
}
# Each of them both ways, with multifd and without.
WAYS = {
    "7.2-kvm": ("relay", "direct-multifd"),
    "7.2-kvm-memfd": ("direct", "relay-multifd"),
    "10.0-kvm": ("direct", "relay-multifd"),
    "10.0-tcg": ("relay", "direct-multifd"),
    "10.0-tcg-memfd": ("direct", "relay-multifd"),
}
MODES = pytest.mark.parametrize("mode", ("relay", "direct"))
VERIFY = ("--verify", "memory")
ROM = 0xc0000


# ---- the same at both ends ----

@pytest.mark.parametrize("name, way", [
    pytest.param(name, way, marks=pytest.mark.slow if way.endswith("multifd") else ())
    for name in WAYS for way in WAYS[name]])
def test_match(workdir, pki, name, way):
    version, guest = GUESTS[name]
    mode, *multifd = way.split("-")
    how = ("--mode", mode, *(("--multifd", 2) if multifd else ()))
    need_accel(guest.accel)
    with Machine(binary(version), guest, name="src") as source, \
            Machine(binary(version), guest, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, *VERIFY, *how)
    verify = report["verify"]
    assert (verify["stream"], verify["memory"]) == ("match", "match")
    assert 0 <= report["verify_ms"] <= report["downtime_ms"]
    # Firmware is not what a guest writes to; its RAM is never left out.
    assert "pc.bios" in verify["not_compared"] and "pc.ram" not in verify["not_compared"]
    if guest.accel == "tcg":
        assert "changed_by_qemu" not in verify
    elif "changed_by_qemu" in verify:
        address = int(verify["changed_by_qemu"].split()[1], 16)
        assert ROM <= address < MIB and address % PAGE == 0


def test_from_one_version_to_another(workdir, pki):
    """7.2 cannot tell the address of every block that 10.0 can."""
    need_accel("kvm")
    with Machine(binary("7.2"), KVM, name="src") as source, \
            Machine(binary("10.0"), KVM, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki) as hosts:
        source.wait_ready()
        report = migrate_exactly(hosts, source, dest, *VERIFY)
    assert report["verify"]["memory"] == "match"


def test_shown_to_people(workdir, pki):
    with Machine(qemu.newest(), IDLE, name="src") as source, \
            Machine(qemu.newest(), IDLE, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False) as hosts:
        source.wait_ready()
        words = [word for word in arguments(source, dest, hosts.b.address, *VERIFY)
                 if word != "--json"]
        result = hosts.a.drover(*words)
        assert result.status == 0, result
        assert "stream and memory verified" in result.stdout + result.stderr
        shown = hosts.a.drover("show", hosts.a.drover("jobs", "--json").json["jobs"][0]["job"])
    assert re.search(r"memory +compared in ", shown.stdout), shown.stdout
    assert re.search(r"not compared: .*pc\.bios", shown.stdout), shown.stdout


# ---- not the same ----

def poke(machine, address):
    """Changes a byte of the guest's memory behind QEMU's back."""
    said = machine.qmp.command("human-monitor-command", {"command-line": f"gpa2hva {address:#x}"})
    hva = int(re.search(r" is (0x[0-9a-f]+)", said)[1], 16)
    with open(f"/proc/{machine.process.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(hva)
        old = memory.read(1)[0]
        memory.seek(hva)
        memory.write(bytes([old ^ 1]))


def migrate_and_poke(scene, *options, at):
    """Changes the destination's memory when it has loaded; returns how the command ended."""
    move = scene.migrate(*VERIFY, *options)
    scene.b.wait_held()
    for address in at:
        poke(scene.dest, address)
    scene.b.go_on()
    return move.wait()


@pytest.mark.parametrize("name, mode", [
    *((name, ways[0]) for name, ways in WAYS.items()), ("10.0-tcg", "direct")])
def test_mismatch(workdir, name, mode):
    version, guest = GUESTS[name]
    need_accel(guest.accel)
    with Scene(workdir, binary(version), guest, hold="dest:loaded") as scene:
        result = migrate_and_poke(scene, "--mode", mode, at=[guest.start + 7 * PAGE + 5])
        block = "ram0" if guest.backend else "pc.ram"
        one_sentence(result, 1, "not handed over", f"differs from the guest's in RAM block '{block}'",
                     "try once more")
        verify = result.json["verify"]
        assert (verify["stream"], verify["memory"]) == ("match", "mismatch")
        scene.check_runs_at_source()
        assert scene.a.job()["error"]["class"] == "mismatch"
        assert scene.b.wait_job("failed")


def test_mismatch_of_multifd(workdir, any_qemu):
    with Scene(workdir, any_qemu, IDLE, hold="dest:loaded") as scene:
        result = migrate_and_poke(scene, "--multifd", 2, at=[IDLE.start])
        words = "use a newer one" if scene.source.loses_hot_pages() else "try once more"
        one_sentence(result, 1, "differs from the guest's", words)
        scene.check_runs_at_source()


def test_no_page_but_qemus_own(workdir, any_qemu):
    """Where QEMU may change one page under KVM, two are too many, and without KVM one is."""
    need_accel("kvm")
    with Scene(workdir, any_qemu, KVM, hold="dest:loaded") as scene:
        result = migrate_and_poke(scene, at=[0xd0000, 0xd4000])
        one_sentence(result, 1, "differs from the guest's in RAM block 'pc.ram' near 0xd0000")
        scene.check_runs_at_source()


def test_every_page_without_kvm(workdir):
    with Scene(workdir, qemu.newest(), IDLE, hold="dest:loaded") as scene:
        result = migrate_and_poke(scene, at=[0xd0000])
        one_sentence(result, 1, "differs from the guest's in RAM block 'pc.ram'")
        scene.check_runs_at_source()


def test_not_seen_without_it(workdir, any_qemu):
    """What the stream's digests cannot see: so the tests above test what they say."""
    with Scene(workdir, any_qemu, IDLE, hold="dest:loaded") as scene:
        move = scene.migrate("--verify", "stream")
        scene.b.wait_held()
        poke(scene.dest, 0x90000)  # memory that this guest has no use for
        scene.b.go_on()
        assert move.wait().json["verify"] == {"stream": "match", "memory": "off"}


# ---- death and silence ----

@pytest.mark.parametrize("where", ("source", "dest"))
@pytest.mark.parametrize("version", ("7.2", "10.0"))
def test_a_daemon_killed_while_it_compares(workdir, where, version):
    with Scene(workdir, binary(version), IDLE, hold=f"{where}:verifying") as scene:
        move = scene.migrate(*VERIFY)
        held = scene.a if where == "source" else scene.b
        held.wait_held()
        held.crash_and_restart()
        one_sentence(move.wait(), 1)
        scene.check_runs_at_source()
        assert scene.a.job()["state"] == "failed"
        assert scene.b.wait_job("failed")


def test_a_destination_that_stands_still(workdir):
    with Scene(workdir, qemu.newest(), IDLE, hold="dest:verifying") as scene:
        move = scene.migrate(*VERIFY, "--drop-timeout", 2)
        scene.b.wait_held()
        one_sentence(move.wait(), 1, "the drop timeout")
        scene.b.go_on()
        scene.check_runs_at_source()
        assert scene.b.wait_job("failed")


@pytest.mark.parametrize("mode", ("relay", "direct"))
def test_a_link_that_breaks_meanwhile(workdir, mode):
    """It costs a moment: the answer comes over the next connection."""
    with Scene(workdir, qemu.newest(), TCG, relay=True, hold="dest:verifying") as scene:
        move = scene.migrate(*VERIFY, "--mode", mode)
        scene.b.wait_held()
        scene.relay.cut(reset=True)
        scene.relay.restore()
        scene.b.go_on()
        result = move.wait()
        assert result.status == 0, result.stderr + scene.said()
        assert result.json["verify"]["memory"] == "match" and result.json["reconnects"] >= 1
        scene.check_runs_at_dest()


@pytest.mark.slow
def test_a_destination_that_never_answers(workdir):
    with Scene(workdir, qemu.newest(), IDLE, hold="dest:mute") as scene:
        result = scene.try_migrate(*VERIFY)
        one_sentence(result, 1, "the destination has not hashed the guest's memory within")
        scene.check_runs_at_source()
        assert scene.b.wait_job("failed")


def test_cancelled_while_it_compares(workdir, any_qemu):
    with Scene(workdir, any_qemu, IDLE, hold="dest:mute") as scene:
        move = scene.migrate(*VERIFY)
        scene.b.wait_job("loaded")
        assert scene.a.drover("cancel", scene.a.job()["job"]).status == 0
        assert move.wait().status == 4
        scene.check_runs_at_source()


def test_resumed_by_somebody_else(workdir, any_qemu):
    """A guest that runs here again is not handed over."""
    with Scene(workdir, any_qemu, IDLE, hold="dest:mute") as scene:
        move = scene.migrate(*VERIFY)
        scene.b.wait_job("loaded")
        scene.source.cont()
        one_sentence(move.wait(), 1, "was resumed at the source by somebody else")
        scene.check_runs_at_source()


@pytest.mark.parametrize("where", ("src", "dst"))
def test_qemu_killed_while_it_compares(workdir, where):
    """With the destination's QEMU nothing is lost; the source's takes its guest with it."""
    with Scene(workdir, qemu.newest(), IDLE, hold="dest:loaded") as scene:
        move = scene.migrate(*VERIFY)
        scene.b.wait_held()
        machine = scene.source if where == "src" else scene.dest
        machine.process.kill()
        machine.wait_exit()
        scene.b.go_on()
        one_sentence(move.wait(), 1, "memory cannot be")
        if where == "dst":
            scene.check_runs_at_source()
        else:
            assert not scene.dest.console.beats, "it has run at the destination"


# ---- when it is not to be had ----

@MODES
@pytest.mark.parametrize("side", (0, 1), ids=("source", "destination"))
def test_refused_before_anything_is_moved(workdir, pki, side, mode):
    prefixes = [(), ()]
    prefixes[side] = WITHOUT_PTRACE[1]
    if side == 1 and mode == "direct":
        mode = "auto"
    with Machine(qemu.newest(), IDLE, name="src") as source, \
            Machine(qemu.newest(), IDLE, incoming=True, name="dst") as dest, \
            Hosts(workdir, pki, hold=False, prefixes=prefixes) as hosts:
        source.wait_ready()
        result = hosts.a.drover(*arguments(source, dest, hosts.b.address, *VERIFY, "--mode", mode))
        one_sentence(result, 1, "guest memory cannot be compared", "CAP_SYS_PTRACE")
        assert source.running() and dest.status() == "inmigrate"
        # Nothing was begun with it: it takes another migration.
        again = hosts.a.drover(*arguments(source, dest, hosts.b.address))
        assert again.status == 0, again
