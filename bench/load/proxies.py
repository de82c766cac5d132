"""The proxies under test and their backend: starting them, and reading what they have used."""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

from common import Refusal, end, fill, free_ports

PEERS = Path(__file__).resolve().parent / "peers"
BODY = "x" * 104
# What run.sh sets for the loads concerns no proxy.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}


class Processes:
    """What was started, so that it is ended."""

    def __init__(self, work):
        self.work, self.running = work, []

    def start(self, name, core, command):
        with open(self.work / f"{name}.log", "ab") as log:
            pinned = ["taskset", "-c", core, *(str(part) for part in command)]
            process = subprocess.Popen(pinned, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT)
        self.running.append(process)
        return process

    def stop(self, process=None):
        ended = [process] if process else self.running
        end(ended)
        self.running = [each for each in self.running if each not in ended]


class Backend:
    """NGINX with two addresses, and a count of the requests that it has seen."""

    def __init__(self, processes, core):
        work = processes.work
        self.ports = free_ports(3)
        values = {"WORK": work, "BODY": BODY, "BACKEND_1": self.ports[0], "BACKEND_2": self.ports[1], "STATUS": self.ports[2]}
        files = work / "files"
        files.mkdir()
        files.chmod(0o755)
        for name, length in (("large", 64 << 10), ("huge", 1 << 20)):
            (files / name).write_bytes(b"x" * length)
        file = fill(PEERS / "backend.conf", values, work / "backend.conf")
        processes.start("backend", core, ["nginx", "-e", work / "backend.error.log", "-p", work, "-c", file])
        self.address = f"127.0.0.1:{self.ports[0]}"

    def requests(self):
        """How many requests it has seen; this question is one of them."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.ports[2]}/status", timeout=5).read().decode()
        return int(re.search(r"^\s*\d+\s+\d+\s+(\d+)", text, re.MULTILINE).group(1))


def make_keys(work):
    """A key and a certificate for TLS, and both in one file for HAProxy."""
    key, chain, both = (work / name for name in ("tls.key", "tls.pem", "tls-both.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain]
    made = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    if made.returncode != 0:
        raise Refusal(f"openssl made no key: {made.stderr}")
    key.chmod(0o600)
    both.touch(0o600)
    both.write_text(chain.read_text() + key.read_text())


class Proxy:
    """One proxy under test, as a process of its own."""

    def __init__(self, name, processes, backend, core, options):
        self.name, self.processes = name, processes
        work = processes.work
        self.port, self.tls_port, admin = free_ports(3)
        self.log = work / f"{name}.access.log"
        self.has_log = name.startswith(("nginx", "stent"))
        values = {
            "WORK": work,
            "NAME": name,
            "PORT": self.port,
            "TLS_PORT": self.tls_port,
            "ADMIN": admin,
            "BACKEND_1": backend.ports[0],
            "BACKEND_2": backend.ports[1],
            "WORKERS": 2 if name == "stent-2" else 1,
        }
        kind = name.partition("-")[0]
        template = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "tcp": "tcp.cfg", "envoy": "envoy.yaml", "stent": "stent.toml"}[kind]
        file = fill(PEERS / template, values, work / f"{name}.{template}")
        command = {
            "nginx": ["nginx", "-e", work / f"{name}.error.log", "-p", work, "-c", file],
            "haproxy": ["haproxy", "-db", "-f", file],
            "tcp": ["haproxy", "-db", "-f", file],
            "envoy": [options.envoy, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error", "-c", file],
            "stent": [options.stent, "run", file],
        }[kind]
        self.process = processes.start(name, core, command)
        self.wait_until_ready()

    def address(self, row):
        return f"127.0.0.1:{self.tls_port if row.is_tls else self.port}"

    def url(self, row):
        return f"{'https' if row.is_tls else 'http'}://{self.address(row)}{row.path}"

    def wait_until_ready(self):
        """Asks for a first answer for up to 15 seconds."""
        deadline = time.monotonic() + 15
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/small", timeout=2).read()
            except OSError as error:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise Refusal(f"{self.name} does not answer: {error}; see {self.processes.work}") from error
                time.sleep(0.05)

    def check(self, row):
        """It must give what the others give, or it does not do the same work. (Over TLS it is asked the same.)"""
        url = f"http://127.0.0.1:{self.port}{row.path}"
        for number in range(20):
            body = b"x" * row.body if row.body else None
            request = urllib.request.Request(url, data=body, method="PUT" if row.body else "GET", headers={"X-Bench-Id": f"check-{number}"})
            try:
                answer = urllib.request.urlopen(request, timeout=10).read()
            except OSError as error:
                raise Refusal(f"{self.name} fails at {row.path}: {error}") from error
            if len(answer) != row.length:
                raise Refusal(f"{self.name} gave {len(answer)} bytes for {row.path} instead of {row.length}")

    def pids(self):
        """The processes that work on requests. NGINX's master only waits for signals; the others have no children."""
        return self.children() or [self.process.pid]

    def children(self):
        """Read from each process's parent, because not every kernel lists children."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # The name before the last parenthesis may hold anything; state and parent follow it.
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # ended meanwhile
            if int(parent) == self.process.pid:
                found.append(int(process.name))
        return found

    def cpu_ns(self):
        """The run time so far of each thread, in nanoseconds."""
        threads = {}
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                threads[task.name] = int((task / "schedstat").read_text().split()[0])
        return threads

    def rss_kib(self):
        return self.status("VmRSS")

    def peak_rss_kib(self):
        """Since the last `forget_peak`."""
        return self.status("VmHWM")

    def forget_peak(self):
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def status(self, field):
        found = (re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) for pid in self.pids())
        return sum(int(match.group(1)) for match in found)

    def empty_log(self):
        """A log that grew from round to round would fill the disk, and everybody appends."""
        if self.log.exists():
            os.truncate(self.log, 0)

    def check_log(self):
        """It must hold lines of JSON, or the proxy does not do the work that it is compared by."""
        if not self.has_log:
            return
        with open(self.log, "rb") as log:
            line = log.readline()
        try:
            json.loads(line)
        except ValueError as error:
            raise Refusal(f"{self.name} wrote no access log in JSON: {line[:80]!r}") from error

    def stop(self):
        self.processes.stop(self.process)
