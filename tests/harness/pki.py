# SPDX-License-Identifier: Apache-2.0
"""Certificates that drover would not make itself, to see them refused: made with openssl.

    ca = Authority(workdir / "other-ca")
    ca.issue(workdir / "bad", "hostname", start="-2d", end="-1d")    # expired

The result has the layout of 'drover pki init': DIR/{ca,cert,key}.pem.
"""
import datetime
import pathlib
import shutil
import subprocess

_CONFIG = """
[ca]
default_ca = this
[this]
database = {dir}/index.txt
serial = {dir}/serial
new_certs_dir = {dir}
certificate = {dir}/ca.pem
private_key = {dir}/ca-key.pem
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
"""
_UNITS = {"d": "days", "h": "hours", "s": "seconds"}


def _openssl(*argv):
    done = subprocess.run(["openssl", *map(str, argv)], capture_output=True, text=True, timeout=60,
                          check=False)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {argv[0]}: {done.stderr}")


def _time(offset):
    """'-2d', '1h': from now, as openssl wants it."""
    delta = datetime.timedelta(**{_UNITS[offset[-1]]: int(offset[:-1])})
    return (datetime.datetime.now(datetime.timezone.utc) + delta).strftime("%Y%m%d%H%M%SZ")


class Authority:
    def __init__(self, directory, name="test authority"):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True)
        self.certificate = self.dir / "ca.pem"
        (self.dir / "index.txt").touch()
        (self.dir / "serial").write_text("01\n")
        (self.dir / "ca.cnf").write_text(_CONFIG.format(dir=self.dir))
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", self.dir / "ca-key.pem", "-out", self.certificate, "-days", "30",
                 "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def issue(self, directory, host, alt=(), start="-1h", end="30d", usage="serverAuth,clientAuth",
              trust=None):
        """A key and certificate for 'host' in a directory of its own.

        alt: further names as openssl writes them ('DNS:x', 'IP:127.0.0.1'); usage: the extended key
        usage; trust: the Authority that the owner itself trusts (default: this one).
        """
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        request, extensions = self.dir / "request.pem", self.dir / "extensions"
        _openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", directory / "key.pem", "-out", request, "-subj", f"/CN={host}")
        names = ",".join((f"DNS:{host}", *alt))
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage={usage}\n"
                              "basicConstraints=critical,CA:FALSE\n")
        _openssl("ca", "-batch", "-notext", "-config", self.dir / "ca.cnf", "-in", request,
                 "-out", directory / "cert.pem", "-extfile", extensions,
                 "-startdate", _time(start), "-enddate", _time(end))
        shutil.copy((trust or self).certificate, directory / "ca.pem")
        return directory
