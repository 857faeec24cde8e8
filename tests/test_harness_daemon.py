# SPDX-License-Identifier: Apache-2.0
"""The harness's idea of a daemon, tried on stand-ins that behave and that do not."""
import os
import ssl

import pytest

from harness.daemon import Daemon
from harness.pki import Authority

GOOD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(args["--state"] + "/started", "a") as f:
    f.write("once ")
listen = args["--listen"].replace(":0", ":4567")
print(f"ready api={args['--api']} listen={listen}", flush=True)
print("x" * 1000000, flush=True)
while True:
    time.sleep(60)
"""


def stand_in(workdir, text):
    path = workdir / "droverd"
    path.write_text("#!/usr/bin/python3\n" + text)
    path.chmod(0o755)
    return path


def daemon(workdir, text):
    return Daemon(workdir, "host-a", workdir / "pki", binary=stand_in(workdir, text))


def test_start_kill_restart_stop(workdir):
    with daemon(workdir, GOOD) as d:
        assert d.alive() and d.address == "127.0.0.1:4567" and d.peak_memory() > 0
        d.kill()
        assert not d.alive()
        d.start()
        assert "--listen" in d.argv() and d.address in d.argv()
        assert d.stop() == 0
    assert (d.state / "started").read_text() == "once once "


@pytest.mark.parametrize("text, message", (
    ("import sys; sys.exit('the state directory is on fire')", "the state directory is on fire"),
    ("print('ready when you are', flush=True); input()", "not as promised"),
    ("import time; print('no', flush=True); time.sleep(60)", "did not become ready"),
))
def test_a_daemon_that_does_not_start_says_why(workdir, text, message):
    d = daemon(workdir, text)
    with pytest.raises(RuntimeError, match=message):
        d.start(timeout=2)
    assert not d.alive()


def dates(directory):
    return ssl._ssl._test_decode_cert(str(directory / "cert.pem"))  # pylint: disable=W0212


def test_certificates_are_as_bad_as_asked_for(workdir):
    ca, other = Authority(workdir / "ca"), Authority(workdir / "other", "another authority")
    good = ca.issue(workdir / "good", "host-a", alt=("IP:127.0.0.1",))
    expired = ca.issue(workdir / "expired", "host-a", start="-2d", end="-1d")
    foreign = other.issue(workdir / "foreign", "host-a", trust=ca)
    decoded = dates(good)
    assert ("IP Address", "127.0.0.1") in decoded["subjectAltName"]
    assert ssl.cert_time_to_seconds(dates(expired)["notAfter"]) \
        < ssl.cert_time_to_seconds(decoded["notBefore"])
    assert dates(foreign)["issuer"] != decoded["issuer"]
    assert (foreign / "ca.pem").read_bytes() == (good / "ca.pem").read_bytes()
    assert all(os.path.exists(d / "key.pem") for d in (good, expired, foreign))
