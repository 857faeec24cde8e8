#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What scripts/demo shows, once everything is built: start that instead.

Two daemons and two QEMUs on loopback, a guest that writes memory and counts, one 'drover migrate',
and then the proof, from outside drover: the guest's own counter, and its memory at both ends.
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

# pylint: disable=wrong-import-position
from harness import build, memory, qemu  # noqa: E402
from harness.console import longest_gap  # noqa: E402
from harness.daemon import Daemon, command_line, drover  # noqa: E402
from harness.qemu import MIB, Guest, Machine  # noqa: E402

MEMORY = 512          # MiB, of which:
WRITTEN = 64          # the guest goes through these, again and again
IMAGE = 256           # hold what a machine in use might hold
IMAGE_AT = 128 * MIB
RATE = "48M"          # bytes a second that drover may send, so that there is something to watch
CODEC = "lz4"
# What the guest does, and what its counter counts: 2000 pages a second and a line of output every
# two, so that the longest silence is known to a millisecond or so. The TCG of QEMU 7.2 loses writes
# when a migration takes more than three rounds (docs/qemu-notes.md): there it only counts, and what
# is left after the first round is next to nothing.
WORK = {
    "kvm": ("sparse", "hz=1000 rate=2 beat=2", "pages written"),
    "tcg": ("idle", "hz=1000 beat=1", "ticks counted"),
}
BEATS = 500


class NotProven(Exception):
    """What was promised did not happen."""


# ---- telling ----

def styled(code, text):
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def heading(text):
    print(f"\n{styled('1', text)}", flush=True)


def tell(where, text):
    print(f"  {styled('36', f'{where:<6}')} {text}", flush=True)


def show_command(*words):
    print(f"  {styled('2', '$ ' + ' '.join(map(str, words)))}", flush=True)


def check(good, text, otherwise):
    """One line of the proof."""
    if not good:
        raise NotProven(otherwise)
    print(f"  {styled('32', 'yes')}    {text}", flush=True)


# ---- the parts ----

def parse_args():
    parser = argparse.ArgumentParser(prog="scripts/demo", allow_abbrev=False)
    parser.add_argument("--qemu", metavar="PATH")
    parser.add_argument("--tcg", action="store_true")
    parser.add_argument("--keep", action="store_true")
    return parser.parse_args()


def choose_qemu(path):
    if path is None:
        return qemu.oldest()
    found = shutil.which(path)
    if found is None:
        raise FileNotFoundError(f"--qemu {path}: there is no such program")
    os.environ["DRV_QEMUS"] = found
    return found


def choose_accel(tcg):
    if tcg:
        return "tcg", "TCG, as you asked for"
    problem = qemu.kvm_problem()
    if problem is None:
        return "kvm", "KVM"
    return "tcg", f"TCG ({problem.splitlines()[0]})"


def make_image(directory, binary):
    """Memory like that of a machine in use: program text, free pages, some that no codec shrinks."""
    files = directory / "files"
    files.write_text(f"{binary}\n{build.built('engine', 'droverd')}\n/bin/busybox\n/bin/bash\n")
    image = directory / "image"
    subprocess.run([build.built("tests", "tools", "memimage"), "--size", str(IMAGE), "--zero", "30",
                    "--repeat", "10", "--random", "15", "--text", files, image],
                   check=True, stdout=subprocess.DEVNULL)
    return image


@contextlib.contextmanager
def stage(keep):
    """The directory that everything lives in, with a short name: socket paths are limited."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="drover-demo-"))
    tempfile.tempdir = str(directory)
    try:
        yield directory
    finally:
        if keep:
            print(f"\n{directory} is kept: logs, journals and certificates.")
        else:
            shutil.rmtree(directory, ignore_errors=True)


def start_daemons(stack, directory):
    names = ("alpha", "beta")
    hosts = [word for name in names for word in ("--host", f"{name}=127.0.0.1")]
    show_command("drover pki init pki", *hosts)
    made = drover("pki", "init", directory / "pki", *hosts)
    if made.status != 0:
        raise NotProven(f"drover pki init failed: {made.stderr.strip()}")
    daemons = []
    for name in names:
        daemon = Daemon(directory, name, directory / "pki" / name)
        stack.enter_context(daemon)
        show_command(f"droverd --state {name}.state --listen 127.0.0.1:0 --pki pki/{name}",
                     f"--api {name}.api --name {name}")
        tell(name, f"droverd serves {daemon.address}")
        daemons.append(daemon)
    return daemons


def start_machines(stack, directory, guest, binary):
    machines = []
    for where, incoming in (("alpha", False), ("beta", True)):
        machine = stack.enter_context(Machine(binary, guest, incoming=incoming, name="counter"))
        (directory / f"vm-{where}").symlink_to(machine.dir)
        machines.append(machine)
    return machines


def migrate(alpha, beta, directory):
    """Runs the command as a person would: its progress and its report go straight through."""
    args = ["migrate", "--qmp", f"{directory}/vm-alpha/drover.qmp", "--to", beta.address,
            "--dest-qmp", f"{directory}/vm-beta/drover.qmp", "--bandwidth", RATE, "--codec", CODEC,
            "--keep-source"]
    show_command(f"drover --api alpha.api migrate --qmp vm-alpha/drover.qmp --to {beta.address} \\")
    print(styled("2", f"      --dest-qmp vm-beta/drover.qmp --bandwidth {RATE} --codec {CODEC} "
                      "--keep-source"), flush=True)
    # Should we be killed, it asks for the job to be cancelled and goes.
    argv = ["setpriv", "--pdeathsig", "TERM", *command_line(*args, api=alpha.api)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            status = process.wait(timeout=120)
        except BaseException:
            # A Ctrl-C has reached it as well, and it is cancelling.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            process.kill()
            raise
    if status != 0:
        raise NotProven(f"drover migrate ended with status {status}")


def last_report(alpha):
    jobs = alpha.drover("jobs", "--limit", "1", "--json").json["jobs"]
    return alpha.drover("show", jobs[0]["job"], "--json").json["result"]


# ---- the demonstration ----

def watch_guest(machine):
    first = machine.counter()
    machine.console.wait_beats(BEATS)
    return first, machine.counter()


def prove(source, dest, alpha, began, unit):
    """Everything that was promised, seen from outside drover."""
    counted = source.counter()
    dest.console.wait_beats(BEATS)
    ended = time.monotonic()
    went_on = dest.console.beats[0][1]
    later = dest.counter()
    report = last_report(alpha)

    heading("Is it so?")
    check(went_on > counted, f"the guest went on: {counted:,} {unit} at alpha, "
          f"{went_on:,} was the first it said at beta, and {later:,} now",
          f"the guest's counter did not go on: {counted} at alpha, then {went_on} at beta")
    status = source.status()
    check(status == "postmigrate", "it runs once: at alpha its QEMU is stopped",
          f"the source's QEMU is '{status}', not stopped")
    check(report["verify"]["stream"] == "match",
          "what went in came out: drover's digests of the stream agree",
          f"the digests do not agree: {report['verify']}")

    unexplained, verdict, _ = memory.compare_after_run(source, dest)
    check(not unexplained, f"its memory arrived: {MEMORY} MiB compared byte for byte, and only "
          "what it has written since differs",
          f"{len(unexplained)} pages differ without a reason, the first is {unexplained[:1]}")
    check(verdict["sound"], f"none of the {WRITTEN * 256:,} pages that it filled is lost, stale, "
          "swapped or torn", f"pages are not as the guest left them: {verdict}")
    dest.cont()
    dest.console.wait_beats(BEATS)

    gap, _ = longest_gap(began, ended, source.console, dest.console)
    heading(f"Down for {report['downtime_ms']:.0f} ms, by drover's clock; "
            f"the guest itself was silent for {gap * 1000:.0f} ms.")


def demonstrate(args, stack):
    binary = choose_qemu(args.qemu)
    accel, words = choose_accel(args.tcg)
    directory = stack.enter_context(stage(args.keep))

    heading("Two hosts, alpha and beta, both on this machine")
    alpha, beta = start_daemons(stack, directory)

    image = make_image(directory, binary)
    mode, pace, unit = WORK[accel]
    guest = Guest(accel=accel, memory=MEMORY, mode=mode, pages=WRITTEN * 256, params=pace,
                  machine="pc", images=((image, IMAGE_AT),))
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    heading(f"A guest that {'writes memory' if accel == 'kvm' else 'has filled its memory'} and "
            f"counts, on {version.stdout.splitlines()[0]}")
    source, dest = start_machines(stack, directory, guest, binary)
    tell("alpha", f"{MEMORY} MiB under {words}")
    source.wait_ready()
    first, later = watch_guest(source)
    tell("alpha", f"the guest says {first:,} ... {later:,} {unit}")
    tell("beta", "a QEMU of the same shape waits, empty: -incoming defer -S")

    heading(f"It moves, at no more than {RATE[:-1]} MiB/s so that you can watch")
    began = time.monotonic()
    migrate(alpha, beta, directory)
    prove(source, dest, alpha, began, unit)


def main():
    args = parse_args()
    # As Ctrl-C: what was started is ended, what was made is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with contextlib.ExitStack() as stack:
            demonstrate(args, stack)
    except KeyboardInterrupt:
        print("\nscripts/demo: interrupted; all that it had started is ended", file=sys.stderr)
        return 130
    except NotProven as e:
        print(f"\nscripts/demo: NOT PROVEN: {e}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, TimeoutError, ValueError, subprocess.SubprocessError) as e:
        print(f"\nscripts/demo: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
