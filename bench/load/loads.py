"""The loads: wrk, h2load, a client of TLS handshakes, and connections that do nothing. Each says what succeeded and what
failed. They run on this process's core, and offer the TLS that OPENSSL_CONF says."""

import json
import re
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

from common import Refusal

HERE = Path(__file__).resolve().parent
# How long a proxy may take to bring up all the connections of a load.
CONNECT_SECONDS = 60


class Result:
    """What a load has seen."""

    def __init__(self, succeeded, seconds, errors, **more):
        self.succeeded, self.seconds = succeeded, seconds
        self.errors = {name: count for name, count in errors.items() if count}
        self.more = more


def run(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refusal(f"{command[0]} failed: {(done.stdout + done.stderr)[-400:]}")
    return done.stdout


def wrk(url, row, seconds):
    """Requests one after the other on each of the row's connections."""
    script = "ids.lua" if row.kind == "wrk-ids" else "done.lua"
    command = ["wrk", "-t", 1, "-c", row.connections, "-d", f"{seconds}s", "--timeout", "5s", "-s", HERE / script, url]
    text = run(command + (["--", row.body] if row.body else []))
    line = next((line for line in text.splitlines() if line.startswith("JSON ")), None)
    if line is None:
        raise Refusal(f"wrk gave no report:\n{text}")
    report = json.loads(line.removeprefix("JSON "))
    errors = report["errors"]
    succeeded = report["requests"] - errors["status"]
    return Result(succeeded, report["duration_us"] / 1e6, errors, p50_us=report["p50_us"], p99_us=report["p99_us"])


def h2load(url, row, seconds):
    """Ten streams at a time on each connection."""
    text = run(["h2load", "-D", seconds, "-c", row.connections, "-m", 10, url])
    counts = re.search(r"requests: .*? (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    protocol = re.search(r"Application protocol: (\S+)", text)
    if not (counts and codes and protocol):
        raise Refusal(f"h2load gave no report:\n{text}")
    if protocol.group(1) != "h2":
        raise Refusal(f"{url} chose {protocol.group(1)} in place of h2")
    succeeded, failed, errored, late = map(int, counts.groups())
    other = sum(map(int, codes.groups()[1:]))
    return Result(succeeded, seconds, {"failed": failed, "errored": errored, "timeout": late, "status": other})


def handshakes(address, row, seconds):
    """A connection, a handshake, one request and its answer, the end; `row.connections` threads of it.

    In Python, because it can tell of each handshake whether it was resumed. It takes about as much of its core as an
    OpenSSL client must, and its pace is no part of the figure.
    """
    resumes = row.kind == "resume"
    results, deadline = [], time.monotonic() + seconds
    threads = [threading.Thread(target=shake_hands, args=(address, row, resumes, deadline, results)) for _ in range(row.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = {}
    for _, failures in results:
        for name, count in failures.items():
            errors[name] = errors.get(name, 0) + count
    if len(results) != len(threads):
        errors["thread"] = len(threads) - len(results)
    return Result(sum(succeeded for succeeded, _ in results), seconds, errors)


def shake_hands(address, row, resumes, deadline, results):
    context = tls_context()
    succeeded, errors, session = 0, {}, None
    if resumes:
        # The first one cannot be resumed, and is one in thousands.
        _, _, session = ask_once(address, row, context, None)
    while time.monotonic() < deadline:
        try:
            is_whole, was_resumed, ticket = ask_once(address, row, context, session)
        except OSError as error:
            name = type(error).__name__
            errors[name] = errors.get(name, 0) + 1
            continue
        if not is_whole:
            errors["answer"] = errors.get("answer", 0) + 1
        elif was_resumed != resumes:
            errors["not resumed" if resumes else "resumed"] = errors.get("not resumed" if resumes else "resumed", 0) + 1
        else:
            succeeded += 1
        # A ticket is for one connection (RFC 8446 appendix C.4).
        session = ticket if resumes else None
    results.append((succeeded, errors))


def tls_context():
    """TLS 1.3 as OPENSSL_CONF says, which run.sh has set."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def ask_once(address, row, context, session):
    """Whether the answer was whole and good, whether the handshake was resumed, and the session to resume next."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, session=session) as secured:
            secured.sendall(f"GET {row.path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
            answer = bytearray()
            while piece := secured.recv(65536):
                answer += piece
            head, _, body = bytes(answer).partition(b"\r\n\r\n")
            is_whole = head.startswith(b"HTTP/1.1 200 ") and len(body) == row.length
            return is_whole, secured.session_reused, secured.session


class Idle:
    """Connections that have had one answer each, and stay."""

    def __init__(self, address, row):
        self.address, self.row = address, row
        self.context = tls_context() if row.is_tls else None
        self.connections = []

    def open(self, count):
        """So many more."""
        host, port = self.address.split(":")
        deadline = time.monotonic() + CONNECT_SECONDS
        for _ in range(count):
            connection = socket.create_connection((host, int(port)), timeout=5)
            # Else the request waits for the acknowledgement of the handshake's end, and the first ones rest too long.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context:
                connection = self.context.wrap_socket(connection)
            self.connections.append(connection)
            connection.sendall(f"GET {self.row.path} HTTP/1.1\r\nHost: {self.address}\r\n\r\n".encode())
            answer = b""
            while not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"xxx\n")):
                piece = connection.recv(65536)
                if not piece:
                    raise Refusal(f"{self.address} closed connection {len(self.connections)} after {answer[:80]!r}")
                answer += piece
            if time.monotonic() > deadline:
                raise Refusal(f"{self.address} took {CONNECT_SECONDS} s for {len(self.connections)} connections")

    def are_open(self):
        """Whether none was closed meanwhile."""
        for connection in self.connections:
            connection.setblocking(False)
            try:
                if connection.recv(1) == b"":
                    return False
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
        return True

    def close(self):
        for connection in self.connections:
            connection.close()


def open_loop(program, address, connections, per_second, seconds):
    """Requests at a fixed rate, whether or not those before were answered."""
    return json.loads(run([program, address, "/small", connections, round(per_second), seconds]))
