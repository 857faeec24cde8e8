# SPDX-License-Identifier: Apache-2.0
"""Who may do what: hosts by name, users by group; and what is put down about it."""
import grp
import json
import os
import pathlib
import re
import socket
import stat
import subprocess

import pytest

from harness import daemon, qemu
from harness.build import ROOT
from harness.qemu import Guest, Machine
from harness.scene import FaultyDaemon, Scene, free, one_sentence, wait_until


@pytest.fixture(scope="module")
def source():
    """One guest for all: none of these may touch it."""
    guest = Guest(memory=64, pages=64, params="hz=1000 rate=5 beat=5")
    with Machine(qemu.oldest(), guest, name="src") as machine:
        yield machine.wait_ready()


@pytest.fixture
def pki(workdir):
    return daemon.make_pki(workdir / "pki", "a=127.0.0.1", "b=127.0.0.1")


def configured(workdir, pki, name, text):
    path = workdir / f"{name}.conf"
    path.write_text(text)
    return FaultyDaemon(workdir, name, pki / name, config=path)


def begin(a, b, source, what):
    """Begins something from a to b, which is refused; returns the words."""
    if what == "tunnel":
        result = a.drover("tunnel", "--listen", a.state / "t.sock", "--to", b.address, "--connect",
                          "/nonexistent")
        one_sentence(result, result.status)
        assert result.status != 0 and not (a.state / "t.sock").exists()
        return result.stderr
    if what == "copy":
        image = a.state / "disk.raw"
        image.write_bytes(bytes(1 << 16))
        result = a.drover("copy", image, "--to", b.address, "--dest", b.state / "copy.raw")
        one_sentence(result, result.status)
        assert result.status != 0 and not (b.state / "copy.raw").exists()
        return result.stderr
    if what == "predict":
        result = a.drover("predict", "--qmp", source.drover_qmp, "--to", b.address)
    else:
        result = a.drover("migrate", "--qmp", source.drover_qmp, "--to", b.address, "--dest-qmp",
                          "/nonexistent/dest.qmp")
    assert result.status != 0
    one_sentence(result, result.status)
    source.console.wait_beats(1)
    assert source.running() and free(source.drover_qmp)
    return result.stderr


INCOMING = "the destination host takes nothing from 'a': name it in 'allow=' under [incoming]"
OUTGOING = "this host sends nothing to 'b': name it in 'allow=' under [outgoing]"


@pytest.mark.parametrize("what", ["migrate", "predict", "copy"])
@pytest.mark.parametrize("names", ["c d", ""])
def test_a_destination_that_does_not_take_from_us(workdir, pki, source, what, names):
    with configured(workdir, pki, "a", "") as a, \
            configured(workdir, pki, "b", f"[incoming]\nallow = {names}\n") as b:
        assert INCOMING in begin(a, b, source, what)
        assert INCOMING in b.said()
        assert b.jobs() == []


@pytest.mark.parametrize("what", ["migrate", "predict", "copy", "tunnel"])
def test_a_destination_that_we_may_not_send_to(workdir, pki, source, what):
    with configured(workdir, pki, "a", "[outgoing]\nallow = c\n") as a, \
            configured(workdir, pki, "b", "") as b:
        assert OUTGOING in begin(a, b, source, what)
        assert b.jobs() == []


def test_hosts_on_the_lists_may(workdir, pki, source):
    """As far as the destination's QEMU, which is not there."""
    with configured(workdir, pki, "a", "[outgoing]\nallow = c, B\n[incoming]\nallow =\n") as a, \
            configured(workdir, pki, "b", "[incoming]\nallow = a c\n[outgoing]\nallow =\n") as b:
        assert "/nonexistent/dest.qmp" in begin(a, b, source, "migrate")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file to another group")
def test_the_api_for_a_group(workdir, pki):
    group = grp.getgrnam("nogroup")
    os.chmod(workdir, 0o755)  # the socket's own mode is to decide
    with configured(workdir, pki, "a", f"[daemon]\napi-group = {group.gr_name}\n") as a:
        found = os.stat(a.api)
        assert stat.S_IMODE(found.st_mode) == 0o660 and found.st_gid == group.gr_gid

        def connect(gid):
            code = ("import socket, sys; s = socket.socket(socket.AF_UNIX); "
                    "s.connect(sys.argv[1])")
            return subprocess.run(["setpriv", "--reuid=1", f"--regid={gid}", "--clear-groups",
                                   "/usr/bin/python3", "-c", code, a.api],
                                  capture_output=True, text=True, timeout=60, check=False)

        assert connect(group.gr_gid).returncode == 0
        assert "PermissionError" in connect(1).stderr


def entries(host):
    return [json.loads(line) for line in (host.state / "audit.log").read_text().splitlines()]


def find(host, event, **members):
    """The one entry of that kind with these members."""
    found = [e for e in entries(host)
             if e["event"] == event and all(e.get(k) == v for k, v in members.items())]
    assert len(found) == 1, (event, members, entries(host))
    return found[0]


def cancel_nothing(host):
    """Asks for it, as drover itself looks first."""
    with socket.socket(socket.AF_UNIX) as api:
        api.settimeout(60)
        api.connect(str(host.api))
        api.sendall(b"POST /v1/jobs/nosuchjob/cancel HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                    b"Content-Length: 0\r\n\r\n")
        assert b" 404 " in api.makefile("rb").read()


def test_what_is_audited(workdir, pki, source):
    with configured(workdir, pki, "a", "") as a, \
            configured(workdir, pki, "b", "[outgoing]\nallow =\n") as b:
        image = workdir / "disk.raw"
        image.write_bytes(bytes(1 << 16))
        dest = workdir / "copy.raw"
        assert a.drover("copy", image, "--to", b.address, "--dest", dest).status == 0
        begin(a, b, source, "migrate")

        asked = find(a, "asked", what="POST /v1/copies", uid=os.geteuid())
        begun = find(a, "begun", kind="copy", image=str(image), dest=str(dest), to=b.address)
        ended = find(a, "ended", kind="copy", state="done")
        assert asked["job"] == begun["job"] == ended["job"] and begun["n"] < ended["n"]
        assert find(b, "called", what="copy.open")["peer"] == "a"

        ended = find(a, "ended", kind="migrate", role="source", state="failed")
        assert "/nonexistent/dest.qmp" in ended["error"] and ended["qmp"] == str(source.drover_qmp)
        find(b, "ended", kind="migrate", role="dest", peer="a", state="failed")

        a.crash_and_restart()  # it goes on with the log
        cancel_nothing(a)
        refused = find(a, "asked", what="POST /v1/jobs/*/cancel", job="nosuchjob")
        assert "there is no job nosuchjob" in refused["error"]
        for host in (a, b):
            log = host.state / "audit.log"
            good = a.drover("audit", "verify", log)
            assert (good.status, good.stderr) == (0, "")
            assert f"{log} is whole: {len(entries(host))} entries" in good.stdout


def test_a_log_that_was_edited(workdir, pki):
    with configured(workdir, pki, "a", "") as a:
        for _ in range(3):
            cancel_nothing(a)
        log = a.state / "audit.log"
        text = log.read_text()
        digest = json.loads(text.splitlines()[1])["digest"]

        def verify(*args):
            result = a.drover("audit", "verify", log, *args)
            if result.status:
                one_sentence(result, result.status)
            return result.status, result.stderr + result.stdout

        assert verify("--digest", digest)[0] == 0
        status, said = verify("--digest", "0" * 63 + "x")
        assert status == 2 and "--digest must be the 64 hexadecimal digits" in said
        status, said = verify("--digest", "ab" * 32)
        assert status == 1 and "none of its 3 entries has the digest abab" in said
        log.write_text(text.replace("nosuchjob", "onesuchjob", 1))
        status, said = verify()
        assert status == 1 and "audit.log, line 1: the entry was changed" in said
        log.write_text("".join(text.splitlines(True)[:2]))
        status, said = verify()
        assert status == 1 and "was cut or replaced: it has 2 entries, and entry 3" in said
        log.unlink()
        status, said = verify()
        assert status == 1 and "cannot read" in said
        assert a.drover("audit", "look", log).status == 2

        a.crash_and_restart()
        assert "the audit log does not hold together, and is put aside as" in a.said()
        assert "was cut or replaced" in find(a, "log-damaged")["error"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_under_the_log(workdir, pki):
    with configured(workdir, pki, "a", "") as a:
        a.stop()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", a.state],
                          timeout=60, check=False).returncode:
            pytest.skip("no tmpfs can be mounted here")
        try:
            a.start()
            cancel_nothing(a)
            with open(a.state / "filler", "wb", buffering=0) as filler, pytest.raises(OSError):
                while True:
                    filler.write(bytes(4096))
            log = a.state / "audit.log"

            def said_so():
                cancel_nothing(a)  # what is asked is answered all the same
                return "cannot be written: No space left on device: it lacks this entry" in a.said()

            wait_until(said_so, "the daemon's word on its audit log")
            before = len(entries(a))
            lost = a.said().count("it lacks this entry")
            (a.state / "filler").unlink()
            cancel_nothing(a)
            assert find(a, "log-gap")["lost"] == lost and len(entries(a)) == before + 2
            assert a.drover("audit", "verify", log).status == 0
            a.crash_and_restart()
            assert "does not hold together" not in a.said()
        finally:
            a.kill()
            subprocess.run(["umount", "-l", a.state], timeout=60, check=True)


def bounding_set():
    """The unit's, as setpriv has it."""
    unit = (ROOT / "dist/droverd.service").read_text()
    names = [name for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")
             for name in line.split("=", 1)[1].split()]
    return ",".join(["-all"] + ["+" + name.removeprefix("CAP_").lower() for name in names])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have capabilities to give up")
def test_the_capabilities_of_the_unit_are_enough(workdir):
    """Pages are written right into QEMU's memory, by daemons that may do no more than that."""
    scene = Scene(workdir, qemu.newest(), Guest(memory=64, pages=64, params="hz=1000 rate=5 beat=5"))
    for host in (scene.a, scene.b):
        host._prefix = ("setpriv", "--bounding-set", bounding_set(), "--no-new-privs")
    with scene:
        assert "NoNewPrivs:\t1" in (pathlib.Path(f"/proc/{scene.a.pid}/status")).read_text()
        move = scene.migrate("--mode", "direct")
        result = move.wait()
        assert result.status == 0, result.stderr
        scene.check_runs_at_dest()
        ended = find(scene.b, "ended", kind="migrate", role="dest", state="done")
        assert ended["peer"] == "a"
        find(scene.a, "ended", kind="migrate", role="source", state="done")


def end_of(socket_path):
    """Listens there."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(socket_path))
    listener.listen(8)
    listener.settimeout(60)
    return listener


def connect(path):
    near = socket.socket(socket.AF_UNIX)
    near.settimeout(60)
    near.connect(str(path))
    return near


def test_tunnels_by_folders(workdir, pki):
    """Each end has its own list; links lead to where they lead."""
    for name in ("from", "to", "other"):
        (workdir / name).mkdir()
    with configured(workdir, pki, "a", f"[outgoing]\ntunnels = {workdir}/from\n") as a, \
            configured(workdir, pki, "b", f"[incoming]\ntunnels = {workdir}/to\n") as b, \
            end_of(workdir / "to/in.sock") as inside, end_of(workdir / "other/out.sock"):
        (workdir / "to/link").symlink_to(workdir / "other/out.sock")

        def tunnel(listen, connect_to):
            return a.drover("tunnel", "--listen", workdir / listen, "--to", b.address, "--connect",
                            workdir / connect_to)

        one_sentence(tunnel("other/x.sock", "to/in.sock"), 1, "under [outgoing]",
                     "is in none of the folders that tunnels may begin in")
        assert tunnel("from/good.sock", "to/in.sock").status == 0
        with connect(workdir / "from/good.sock") as near, inside.accept()[0] as far:
            near.sendall(b"through")
            assert far.recv(100) == b"through"
        for n, where in enumerate(("other/out.sock", "to/link")):
            assert tunnel(f"from/{n}.sock", where).status == 0
            with connect(workdir / f"from/{n}.sock") as near:
                assert near.recv(1) == b""
            refusal = f"{where} is in none of the folders that tunnels of other hosts may lead to"
            wait_until(lambda: refusal in a.said(), "its log to say so")
        assert any("under [incoming]" in e["error"] for e in entries(b) if e["event"] == "refused")


def statuses(host):
    """Of all its threads: the lines of /proc/PID/status by their names."""
    return [dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
                 if ":\t" in line)
            for task in pathlib.Path(f"/proc/{host.pid}/task").iterdir()]


def capability(name):
    """Its number, by the kernel's header."""
    header = pathlib.Path("/usr/include/linux/capability.h").read_text()
    return int(re.search(rf"#define {name}\s+(\d+)", header)[1])


def listed_capabilities():
    """What docs/security.md leaves it, as a mask."""
    table = (ROOT / "docs/security.md").read_text().split("## What droverd may do on its host")[1]
    names = [name for line in table.splitlines() if line.startswith("| `CAP_")
             for name in re.findall("CAP_[A-Z_]+", line.split("|")[1])]
    return sum(1 << capability(name) for name in names)


def test_what_is_given_up(workdir, pki):
    with configured(workdir, pki, "a", "") as a:
        for status in statuses(a):
            assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1", status["Name"]
            for of in ("CapEff", "CapPrm", "CapInh", *(("CapBnd",) if os.geteuid() == 0 else ())):
                assert int(status[of], 16) & ~listed_capabilities() == 0, (status["Name"], of)
    with configured(workdir, pki, "b", "[daemon]\nsandbox = off\n") as b:
        assert {(s["Seccomp"], s["NoNewPrivs"]) for s in statuses(b)} == {("0", "0")}
        assert {s["CapBnd"] for s in statuses(b)} == {
            re.search(r"CapBnd:\t(\w+)", pathlib.Path("/proc/self/status").read_text())[1]}


def test_the_unit_refuses_the_same():
    unit = (ROOT / "dist/droverd.service").read_text()
    code = (ROOT / "engine/host/sandbox.c").read_text()
    listed = re.search(r"refused\[\] = \{(.*?)NULL\};", code, re.DOTALL)[1]
    names = [name for line in unit.splitlines() if line.startswith("SystemCallFilter=~")
             for name in line.split("~", 1)[1].split()]
    assert names == re.findall(r'"(\w+)"', listed) and len(names) > 40
    kept = re.search(r"kept\[\] = \{(.*?)\};", code, re.DOTALL)[1]
    assert set(re.findall("CAP_[A-Z_]+", kept)) == \
        {"CAP_" + name[1:].upper() for name in bounding_set().split(",")[1:]} | {"CAP_IPC_LOCK"}
