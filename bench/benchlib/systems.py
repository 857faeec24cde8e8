# SPDX-License-Identifier: Apache-2.0
"""Who moves the guests: QEMU alone in its ways, QEMU behind a TLS proxy, drover.

A system is set up for one run (with system.start(site) as mover), made ready for each pair of
machines (mover.prepare), and then moves each (mover.move), which is what the clock is on. Every
system gets the same promise to keep about downtime, and no limit of its own on bandwidth.
"""
import contextlib
import dataclasses
import shutil
import subprocess
import time

from harness import native
from harness.build import build_dir
from harness.daemon import Daemon
from harness.pki import Authority
from harness.qmp import Qmp, QmpError

from .disk import Mirror

DOWNTIME_MS = 300  # unless asked for otherwise
CHANNELS = 2       # multifd's, at both QEMU and drover
FIRST_PORT = 4440


class Unavailable(Exception):
    """This machine (or this QEMU, or this drover) cannot do that; the words say what is missing."""


@dataclasses.dataclass
class Outcome:
    """How a move ended."""
    done: bool
    converged: bool        # False: stopped by the time limit
    error: str | None = None
    report: dict | None = None  # drover's own, or QEMU's last word


@dataclasses.dataclass
class Site:
    """What a run has: two hosts, a link between them, certificates, a directory."""
    link: object       # .a, .b: hosts with .prefix and .address; .cut(), .restore()
    pki: object        # a directory with a/ and b/
    workdir: object
    time_limit: float
    downtime_ms: int = DOWNTIME_MS
    disk: bool = False  # the guest's goes with it

    def outcome(self, done, in_time, error, report=None):
        if not done and not in_time:
            error = f"not converged within {self.time_limit:g} s"
        return Outcome(done, done or in_time, error, report)


# ---- QEMU ----

class QemuMover:
    """QEMU's own migration over TCP."""

    def __init__(self, site, system):
        self.site, self.system = site, system
        self._ports = iter(range(FIRST_PORT, FIRST_PORT + 100))
        self._uris = {}
        self._authority = None
        self._mirrors = {}

    def processes(self):
        return {}

    def daemons(self):
        return {}

    def sampler_qmp(self, machine):
        return Qmp(machine.drover_qmp)

    def addresses(self):
        """(where the destination listens, where the source connects)."""
        uri = f"tcp:{self.site.link.b.address}:{next(self._ports)}"
        return uri, uri

    def prepare(self, pair):
        capabilities = {"return_path": True, "events": True,
                        "pause_before_switchover": self.site.disk, **self.system.capabilities}
        parameters = {"max_bandwidth": 0, "downtime_limit": self.site.downtime_ms,
                      **self.system.parameters}
        listen, self._uris[pair.name] = self.addresses()
        try:
            for machine, host, end in ((pair.dest, "b", "server"), (pair.source, "a", "client")):
                own = dict(parameters)
                if self.system.tls:
                    own["tls_creds"] = self._credentials(machine, host, end)
                    if end == "client":
                        own["tls_hostname"] = "b"
                native.set_capabilities(machine, **capabilities)
                native.set_parameters(machine, **own)
        except QmpError as e:
            raise Unavailable(f"this QEMU refuses {self.system.name}: {e}") from None
        if self.site.disk:
            mirror = self._mirrors[pair.name] = Mirror(pair, self.site.link.b.address,
                                                       next(self._ports))
            mirror.export()
            pair.dest.qmp.command("migrate-incoming", {"uri": listen})
            return
        # Told to run before anything has come, QEMU does so by itself when all has: nobody's
        # command stands between the last byte and the guest.
        pair.dest.cont()
        pair.dest.qmp.command("migrate-incoming", {"uri": listen})

    def _credentials(self, machine, host, end):
        """Certificates for QEMU, under the names that it wants.

        Not drover's: QEMU 10.0 refuses a certificate that may sign but not encipher keys, though
        TLS 1.3 enciphers none. These say nothing about either.
        """
        folder = self.site.workdir / f"tls-{end}"
        if not folder.exists():
            self._authority = self._authority or Authority(self.site.workdir / "qemu-ca")
            own = self._authority.issue(folder, host)
            (own / "ca.pem").rename(folder / "ca-cert.pem")
            (own / "cert.pem").rename(folder / f"{end}-cert.pem")
            (own / "key.pem").rename(folder / f"{end}-key.pem")
        machine.qmp.command("object-add", {
            "qom-type": "tls-creds-x509", "id": "tls0", "dir": str(folder), "endpoint": end,
            "verify-peer": True})
        return "tls0"

    def move(self, pair):
        source = pair.source
        deadline = time.monotonic() + self.site.time_limit
        mirror = self._mirrors.get(pair.name)
        if mirror:
            mirror.start(self.site.time_limit)
        source.qmp.command("migrate", {"uri": self._uris[pair.name]})
        converged = True
        try:
            if mirror:
                self._wait_status(source, deadline, ("pre-switchover", *native.ENDED))
                mirror.complete(deadline - time.monotonic())
            status = self._wait_status(source, deadline)
        except TimeoutError:
            converged = False
            source.qmp.command("migrate_cancel")
            status = self._wait_status(source, time.monotonic() + 30)
        done = status == "completed"
        if mirror and done:
            mirror.run_dest()
        info = source.qmp.command("query-migrate")
        error = None if done else info.get("error-desc", f"QEMU says {status}")
        return self.site.outcome(done, converged, error)

    @staticmethod
    def _wait_status(source, deadline, wanted=native.ENDED):
        event = source.qmp.wait_event("MIGRATION", deadline - time.monotonic(),
                                      lambda data: data["status"] in wanted)
        return event["data"]["status"]


class StunnelMover(QemuMover):
    """QEMU into a plain TLS proxy and out of another: what KubeVirt's proxy amounts to."""

    def __init__(self, site, system):
        super().__init__(site, system)
        self._proxies = {}
        self._numbers = iter(range(100))

    def processes(self):
        return {(end, f"stunnel{n}"): p.pid for (end, n), p in self._proxies.items()}

    def addresses(self):
        n = next(self._numbers)
        work, link = self.site.workdir, self.site.link
        outer = f"{link.b.address}:{next(self._ports)}"
        near, far = work / f"proxy{n}.sock", work / f"incoming{n}.sock"
        self._start("dest", n, link.b, "b", f"accept = {outer}\nconnect = {far}")
        self._start("source", n, link.a, "a",
                    f"client = yes\naccept = {near}\nconnect = {outer}\ncheckHost = b")
        wait_for(near.exists, "stunnel's socket")
        return f"unix:{far}", f"unix:{near}"

    def _start(self, end, n, host, identity, service):
        own, config = self.site.pki / identity, self.site.workdir / f"stunnel-{end}{n}.conf"
        log = self.site.workdir / f"stunnel-{end}{n}.log"
        config.write_text(
            f"foreground = quiet\npid =\noutput = {log}\ndebug = 5\n[migration]\n{service}\n"
            f"cert = {own}/cert.pem\nkey = {own}/key.pem\nCAfile = {own}/ca.pem\n"
            "verifyChain = yes\nsslVersion = TLSv1.3\n")
        self._proxies[end, n] = subprocess.Popen(
            [*host.prefix, "setpriv", "--pdeathsig", "KILL", stunnel(), config],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: log.exists() and "Configuration successful" in log.read_text(),
                 "stunnel's start")

    def close(self):
        for proxy in self._proxies.values():
            proxy.kill()
            proxy.wait()


def wait_for(condition, what, timeout=15):
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come in {timeout} s")
        time.sleep(0.01)


def stunnel():
    path = shutil.which("stunnel4") or shutil.which("stunnel")
    if not path:
        raise Unavailable("stunnel is not installed: run scripts/install-deps --bench")
    return path


# ---- drover ----

class DroverMover:
    """Two fresh daemons; every pair of a run goes through the same two."""

    def __init__(self, site, system):
        self.site, self.system = site, system
        self._daemons = {}

    def _env(self):
        """Without encryption, what cannot be seen of its cost with it."""
        if self.system.sealed:
            return {}
        library = build_dir() / "bench/notls/libnotls.so"
        if not library.exists():
            raise Unavailable(f"{library} is not built: 'ninja -C {build_dir()} bench/notls/libnotls.so'")
        return {"LD_PRELOAD": str(library)}

    def start(self):
        env = self._env()
        for end, name, host in (("source", "a", self.site.link.a), ("dest", "b", self.site.link.b)):
            self._daemons[end] = Daemon(
                self.site.workdir, name, self.site.pki / name, listen=f"{host.address}:0",
                prefix=host.prefix, env=env).start()
        return self

    def processes(self):
        return {(end, "droverd"): d.pid for end, d in self._daemons.items()}

    def daemons(self):
        return {end: d.pid for end, d in self._daemons.items()}

    def sampler_qmp(self, machine):
        return machine.qmp  # nobody else uses it meanwhile: drover has the other socket

    def prepare(self, pair):
        """Nothing: drover makes both QEMUs ready itself, with the clock on."""

    def move(self, pair):
        source, dest = self._daemons["source"], self._daemons["dest"]
        limit = self.site.time_limit
        disks = ("--disks", "mirror") if self.site.disk else ()
        with source.running("migrate", "--qmp", pair.source.drover_qmp, "--to", dest.listen,
                            "--dest-qmp", pair.dest.drover_qmp, "--keep-source", "--json",
                            "--downtime", self.site.downtime_ms, *disks,
                            *self.system.options) as command:
            converged = True
            try:
                result = command.wait(limit)
            except subprocess.TimeoutExpired:
                converged = False
                command.process.terminate()  # asks for the job to be cancelled, and waits
                result = command.wait(60)
        error = result.stderr.strip().splitlines()[-1:] if result.status != 0 else []
        report = result.json if result.stdout.strip() else None
        if result.status == 0 and self.system.mode and report["mode"] != self.system.mode:
            raise Unavailable(f"this drover has no {self.system.mode} mode yet: it used "
                              f"{report['mode']} mode")
        if result.status == 2:
            raise Unavailable(f"this drover refuses {self.system.name}: {''.join(error)}")
        done = result.status == 0
        return self.site.outcome(done, converged, error[0] if error else None, report)

    def close(self):
        for daemon in self._daemons.values():
            daemon.close()


# ---- the systems by name ----

@dataclasses.dataclass(frozen=True)
class System:
    name: str
    what: str
    mover: type
    capabilities: dict = dataclasses.field(default_factory=dict)
    parameters: dict = dataclasses.field(default_factory=dict)
    tls: bool = False
    options: tuple = ()
    sealed: bool = True  # drover's link is encrypted, as it always is but for this
    mode: str = ""      # drover must really have used it
    cut_s: float = 0    # the link is cut for so long, midway

    @property
    def drover(self):
        return self.mover is DroverMover

    @contextlib.contextmanager
    def start(self, site):
        mover = self.mover(site, self)
        try:
            if self.drover:
                mover.start()
            yield mover
        finally:
            if hasattr(mover, "close"):
                mover.close()


def _multifd(**parameters):
    return {"capabilities": {"multifd": True},
            "parameters": {"multifd_channels": CHANNELS, **parameters}}


_ALL = (
    System("qemu", "QEMU's own migration, plain TCP: what all others are compared with", QemuMover),
    System("qemu-xbzrle", "the same with xbzrle", QemuMover, capabilities={"xbzrle": True}),
    System("qemu-xbzrle-large", "xbzrle with a cache as large as what the guest writes",
           QemuMover, capabilities={"xbzrle": True}, parameters={"xbzrle_cache_size": 512 << 20}),
    System("qemu-multifd", f"with multifd, {CHANNELS} channels", QemuMover, **_multifd()),
    System("qemu-multifd-zstd", "with multifd and zstd", QemuMover,
           **_multifd(multifd_compression="zstd")),
    System("qemu-tls", "QEMU's own TLS, certificates at both ends", QemuMover, tls=True),
    System("qemu-multifd-tls", "QEMU's own TLS with multifd", QemuMover, tls=True, **_multifd()),
    System("qemu-stunnel", "plain QEMU through a stunnel at each end", StunnelMover),
    System("drover-none", "drover, --codec none", DroverMover, options=("--codec", "none")),
    System("drover-lz4", "drover, --codec lz4", DroverMover, options=("--codec", "lz4")),
    System("drover-zstd", "drover, --codec zstd", DroverMover, options=("--codec", "zstd")),
    System("drover-auto", "drover as it is", DroverMover),
    System("drover-auto-multifd", f"drover over QEMU's multifd, {CHANNELS} channels", DroverMover,
           options=("--multifd", str(CHANNELS))),
    System("drover-relay", "drover, --mode relay", DroverMover, options=("--mode", "relay")),
    System("drover-relay-none", "drover, --mode relay --codec none", DroverMover,
           options=("--mode", "relay", "--codec", "none")),
    System("drover-none-notls", "drover, --codec none, its records not encrypted (bench/notls)",
           DroverMover, options=("--codec", "none"), sealed=False),
    System("drover-auto-notls", "drover as it is, its records not encrypted", DroverMover,
           sealed=False),
    System("drover-auto-cut1s", "drover as it is, the link cut for 1 s midway", DroverMover,
           cut_s=1),
)
SYSTEMS = {system.name: system for system in _ALL}
BASELINE = "qemu"
