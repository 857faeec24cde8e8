# SPDX-License-Identifier: Apache-2.0
"""droverd, the drover command and their certificates, as scripts use them."""
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

from . import build

DROVERD = ("engine", "droverd")
DROVER = ("engine", "drover")


@dataclasses.dataclass
class Result:
    """What a drover command left behind."""
    status: int
    stdout: str
    stderr: str

    @property
    def json(self):
        """The object that --json promises as the last line of stdout."""
        lines = self.stdout.strip().splitlines()
        if not lines:
            raise ValueError(f"drover printed nothing; status {self.status}: {self.stderr}")
        return json.loads(lines[-1])


def command_line(*args, api=None):
    argv = [str(build.built(*DROVER))]
    if api:
        argv += ["--api", str(api)]
    return argv + [str(a) for a in args]


def drover(*args, api=None, timeout=120, env=None, prefix=()):
    """Runs a drover command to its end."""
    done = subprocess.run([*prefix, *command_line(*args, api=api)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout, check=False,
                          env={**os.environ, **(env or {})})
    return Result(done.returncode, done.stdout, done.stderr)


class Running:
    """A drover command in the background; its output is read as it comes."""

    def __init__(self, *args, api=None, prefix=()):
        self.process = subprocess.Popen([*prefix, *command_line(*args, api=api)],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self._changed = threading.Condition()
        self._output = {"stdout": "", "stderr": ""}
        self._open = len(self._output)
        self._threads = [threading.Thread(target=self._read, args=(name,), daemon=True)
                         for name in self._output]
        for thread in self._threads:
            thread.start()

    def _read(self, name):
        for line in getattr(self.process, name):
            with self._changed:
                self._output[name] += line
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def wait_output(self, pattern, timeout=60):
        """Waits for a regular expression in what it printed so far; returns the match."""
        def found():
            return re.search(pattern, self._output["stdout"]) or \
                re.search(pattern, self._output["stderr"])

        with self._changed:
            self._changed.wait_for(lambda: found() or not self._open, timeout)
            if not found():
                raise TimeoutError(f"drover did not print {pattern!r} but {self._output}")
            return found()

    def wait(self, timeout=120):
        status = self.process.wait(timeout)
        for thread in self._threads:
            thread.join(10)
        return Result(status, self._output["stdout"], self._output["stderr"])

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def make_pki(directory, *hosts):
    """drover's own throwaway certificates: hosts are 'NAME' or 'NAME=ADDR,...'."""
    args = [word for host in hosts for word in ("--host", host)]
    result = drover("pki", "init", directory, *args)
    if result.status != 0:
        raise RuntimeError(f"drover pki init failed: {result.stderr}")
    return pathlib.Path(directory)


class Daemon:
    """One droverd, with a state directory that outlives it.

    start() returns when it is ready; kill() and start() again are a crash and a restart: the port
    stays the same.
    """

    def __init__(self, workdir, name, pki, listen="127.0.0.1:0", config=None, prefix=(),
                 binary=None, extra=(), env=None):
        self.name = name
        self.state = pathlib.Path(workdir) / f"{name}.state"
        self.state.mkdir(exist_ok=True)
        self.api = pathlib.Path(workdir) / f"{name}.api"
        self.log = pathlib.Path(workdir) / f"{name}.log"
        self.listen = listen
        self._pki, self._config, self._prefix, self._extra = pki, config, prefix, extra
        self._binary, self._env = binary, env or {}
        self.process = None

    def argv(self):
        argv = [*self._prefix, "setpriv", "--pdeathsig", "KILL",
                str(self._binary or build.built(*DROVERD)),
                "--state", str(self.state), "--listen", self.listen, "--pki", str(self._pki),
                "--api", str(self.api), "--name", self.name]
        if self._config:
            argv += ["--config", str(self._config)]
        return argv + list(self._extra)

    def start(self, timeout=60):
        log = open(self.log, "ab")
        self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=log,
                                        env={**os.environ, **self._env})
        log.close()
        ready = threading.Event()
        first = []

        def read(stream):
            # Read on to the end: a daemon must not block on its standard output.
            for line in stream:
                if not first and line.startswith(b"ready "):
                    first.append(line.decode())
                    ready.set()
            ready.set()

        threading.Thread(target=read, args=(self.process.stdout,), daemon=True).start()
        if not ready.wait(timeout) or not first:
            self.kill()
            raise RuntimeError(f"droverd {self.name} did not become ready: {self.said()}")
        match = re.fullmatch(r"ready api=(\S+) listen=(\S+)\n", first[0])
        if not match:
            self.kill()
            raise RuntimeError(f"droverd's ready line is not as promised: {first[0]!r}")
        self.listen = match[2]
        return self

    @property
    def address(self):
        """ADDR:PORT for --to, the real port."""
        return self.listen

    @property
    def pid(self):
        return self.process.pid

    def said(self):
        return self.log.read_text(errors="replace").strip() if self.log.exists() else ""

    def drover(self, *args, **options):
        return drover(*args, api=self.api, **options)

    def running(self, *args, **options):
        return Running(*args, api=self.api, **options)

    def metrics(self):
        """{'name{labels}': value} of what Prometheus would collect."""
        said = subprocess.run(["curl", "-sS", "--unix-socket", self.api, "http://drover/v1/metrics"],
                              stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
        lines = [line for line in said.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def peak_memory(self):
        """The most memory it ever had resident, in bytes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def wait_held(self, timeout=120, unless=lambda: False):
        """Waits until it has stopped itself where DROVER_TEST_STOP says (env, a build made with
        -Dtest_hooks=true); an error when 'unless' holds first. Go on with release()."""
        deadline = time.monotonic() + timeout
        while True:
            # WNOWAIT leaves the news there for whoever comes next.
            news = os.waitid(os.P_PID, self.pid,
                             os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if news is not None and news.si_code == os.CLD_STOPPED:
                return
            if news is not None or unless() or time.monotonic() > deadline:
                raise TimeoutError(f"droverd {self.name} did not stop itself where "
                                   f"{self._env.get('DROVER_TEST_STOP')} says: {self.said()}")
            time.sleep(0.005)

    def release(self):
        """Goes on after wait_held()."""
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG)
        self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout=60):
        """As a service manager would. Returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        """As a crash would."""
        if self.alive():
            self.process.kill()
        self.process.wait(60)

    def close(self):
        if self.process is not None:
            self.kill()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()
