# SPDX-License-Identifier: Apache-2.0
"""Who may do what: hosts by name, users by group."""
import grp
import os
import stat
import subprocess

import pytest

from harness import daemon, qemu
from harness.qemu import Guest, Machine
from harness.scene import FaultyDaemon, free, one_sentence


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
                                  capture_output=True, text=True, check=False)

        assert connect(group.gr_gid).returncode == 0
        assert "PermissionError" in connect(1).stderr
