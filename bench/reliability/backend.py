"""The backend that fails: one process per proxy, so that each meets the same faults, by seed, and nobody else's load.

It counts attempts and the POSTs that it received whole by the request's id (X-Bench-Id), and writes the counts to a
file when it gets SIGTERM. It speaks HTTP/1.1 on raw asyncio protocols, because it must be able to lie.
"""

import argparse
import asyncio
import json
import signal
import socket
import struct
from collections import Counter
from pathlib import Path

from loop import Lag, chance
from scenario import Fault, answer_body
from scenarios import BY_NAME

SERVICE = 0.005  # seconds that an answer takes, bad ones included
# Kinds of faults that strike a share of the attempts, by chance. `hang` never answers.
STRIKING = ("status", "hang", "slow", "trickle", "break", "close", "reset", "nonsense")
TRICKLE = 16  # bytes of a body that trickles
REASONS = {200: b"OK", 206: b"Partial Content", 500: b"Internal Server Error", 502: b"Bad Gateway", 503: b"Service Unavailable"}


class Backend:
    """What all connections of all endpoints share."""

    def __init__(self, scenario, seed):
        self.scenario, self.seed = scenario, seed
        self.loop = asyncio.get_running_loop()
        self.begin = None  # when the first request came; faults that come and go count from here
        self.attempts, self.received, self.not_before = Counter(), Counter(), {}
        self.by_kind, self.failed = {}, Counter()
        self.early = 0
        self.body = answer_body(scenario.body)
        self.free_at = 0.0

    def report(self):
        return {
            "ids": len(self.attempts),
            "attempts": self.attempts.total(),
            "most_attempts": max(self.attempts.values(), default=0),
            "duplicates": sum(count > 1 for count in self.received.values()),
            "early": self.early,
            "kinds": {kind: self.report_kind(kind) for kind in self.by_kind},
        }

    def report_kind(self, kind):
        counts = self.by_kind[kind]
        return {
            "attempts": counts.total(),
            "most_attempts": max(counts.values()),
            "failed_attempts": self.failed[kind],
        }


class Endpoint:
    """One listening socket and what is wrong with it."""

    def __init__(self, backend, number, port, fault):
        self.backend, self.number, self.port, self.fault = backend, number, port, fault
        self.connections, self.server = set(), None

    async def listen(self):
        self.server = await self.backend.loop.create_server(
            lambda: Connection(self), "127.0.0.1", self.port, reuse_address=True, backlog=4096
        )

    async def restarts(self):
        """For `refuse`: an orderly restart, in which running requests are finished and connections that wait are closed."""
        fault, loop = self.fault, self.backend.loop
        down = self.backend.begin + fault.first
        while True:
            await asyncio.sleep(down - loop.time())
            self.server.close()
            for connection in list(self.connections):
                connection.finish()
            await asyncio.sleep(down + fault.duration - loop.time())
            await self.listen()
            down += fault.period

    def failing_now(self, fault):
        if not fault.period:
            return True
        since = self.backend.loop.time() - self.backend.begin - fault.first
        return since >= 0 and since % fault.period < fault.duration

    def struck(self, fault, request):
        if fault.kind not in STRIKING or not self.failing_now(fault):
            return False
        return chance(self.backend.seed, self.number, request.id, request.attempt) < fault.share

    def striking(self, request):
        """The fault that this attempt meets: the endpoint's own, else that of bad requests, else None."""
        of_kind = self.backend.scenario.bad if request.kind == "bad" else Fault()
        return next((fault for fault in (self.fault, of_kind) if self.struck(fault, request)), None)


class Request:
    def __init__(self, head):
        lines = head.split(b"\r\n")
        self.method = lines[0].split(b" ", 1)[0]
        fields = dict(line.lower().split(b":", 1) for line in lines[1:])
        self.id = fields.get(b"x-bench-id", b"").strip().decode()
        self.kind = fields.get(b"x-bench-kind", b"").strip().decode()
        self.length = int(fields.get(b"content-length", 0))
        self.chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        self.range = fields.get(b"range", b"").strip().removeprefix(b"bytes=").decode()
        self.if_range = fields.get(b"if-range", b"").strip()
        self.attempt = 0


class Connection(asyncio.Protocol):
    def __init__(self, endpoint):
        self.endpoint, self.backend = endpoint, endpoint.backend
        self.transport = self.request = self.idle = self.pending = None
        self.buffer = bytearray()
        self.read = 0  # of the request's body
        self.answering = self.closing = self.decided = False

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.endpoint.connections.add(self)

    def connection_lost(self, _error):
        self.endpoint.connections.discard(self)
        for timer in (self.idle, self.pending):
            if timer:
                timer.cancel()

    def finish(self):
        """Closes as soon as nothing is under way."""
        self.closing = True
        if self.request is None:
            self.transport.close()

    def data_received(self, data):
        if self.idle:
            self.idle.cancel()
            self.idle = None
        self.buffer += data
        if self.request is None:
            head, separator, rest = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return
            self.buffer = rest
            self.begin(Request(bytes(head)))
        if self.request and not self.answering:
            self.take_body()

    def begin(self, request):
        self.request, self.read, self.decided = request, 0, False
        backend = self.backend
        if not request.id:  # the question whether the proxy is up, or a health check; neither is counted nor struck
            return
        if backend.begin is None:
            backend.begin = backend.loop.time()
            for endpoint in backend.endpoints:
                if endpoint.fault.kind == "refuse":
                    backend.tasks.append(backend.loop.create_task(endpoint.restarts()))
        backend.attempts[request.id] += 1
        request.attempt = backend.attempts[request.id]
        if request.kind:
            backend.by_kind.setdefault(request.kind, Counter())[request.id] += 1
        if self.endpoint.fault.kind == "upload-before" and request.attempt == 1:
            self.answering = True
            self.answer(502, close=True)

    def take_body(self):
        request = self.request
        self.read += len(self.buffer)
        # What the load sends holds no such line, so that the last chunk cannot be mistaken.
        whole = self.buffer.endswith(b"0\r\n\r\n") if request.chunked else self.read >= request.length
        if request.chunked and not whole:
            del self.buffer[:-5]
        else:
            self.buffer.clear()
        if self.endpoint.fault.kind == "upload-while" and request.attempt == 1 and self.read > request.length / 2:
            self.transport.abort()
        elif whole:
            self.answering = True
            if request.method == b"POST":
                self.backend.received[request.id] += 1
            self.decide()

    def decide(self):
        """The whole request is here; what becomes of it?"""
        request, kind = self.request, self.endpoint.fault.kind
        if not request.id:
            self.answer(200)
            return
        if kind == "queue":
            self.enqueue()
        elif kind == "retry-after":
            self.ask_to_wait()
        elif kind == "upload-after" and request.attempt == 1:
            self.later(SERVICE, self.answer, 502)
        elif striking := self.endpoint.striking(request):
            self.backend.failed[request.kind] += striking.kind != "slow"
            self.strike(striking)
        else:
            self.later(SERVICE, self.answer, 200)

    def strike(self, fault):
        backend, request, kind = self.backend, self.request, fault.kind
        if kind == "status":
            pick = int(chance(backend.seed, "status", request.id, request.attempt) * len(fault.statuses))
            self.later(SERVICE, self.answer, fault.statuses[pick])
        elif kind == "slow":
            self.later(fault.delay, self.answer, 200)
        elif kind == "trickle":
            self.later(SERVICE, self.trickle, fault.statuses[0], fault.delay)
        elif kind == "break":
            self.later(SERVICE, self.answer, 200, True)
        elif kind == "close":
            self.later(SERVICE, self.transport.close)
        elif kind == "reset":
            self.later(SERVICE, self.reset)
        elif kind == "nonsense":
            self.later(SERVICE, self.nonsense)

    def enqueue(self):
        """One server that takes 1 / capacity per request and, as real ones do, works on for callers that have left."""
        backend, fault = self.backend, self.endpoint.fault
        now = backend.loop.time()
        begins = max(now, backend.free_at)
        if begins - now > fault.queue:
            self.answer(502)
        else:
            backend.free_at = begins + 1 / fault.capacity
            self.later(backend.free_at - now, self.answer, 200)

    def ask_to_wait(self):
        backend, fault, request = self.backend, self.endpoint.fault, self.request
        now = backend.loop.time()
        pick = chance(backend.seed, "retry-after", request.id) / fault.share
        if pick >= 1:
            self.later(SERVICE, self.answer, 200)
            return
        due = backend.not_before.setdefault(request.id, now + SERVICE + 1.0)
        if request.attempt > 1 and now >= due - 0.01:
            self.later(SERVICE, self.answer, 200)
        else:
            backend.early += request.attempt > 1
            status = fault.statuses[int(pick * len(fault.statuses))]
            self.later(SERVICE, self.answer, status, False, False, b"Retry-After: 1\r\n")

    def later(self, seconds, what, *arguments):
        self.pending = self.backend.loop.call_later(seconds, what, *arguments)

    def reset(self):
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def trickle(self, status, seconds, left=TRICKLE):
        """A head and the body's first byte at once, the other bytes spread over these seconds."""
        if left == TRICKLE:
            head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\n" % (status, REASONS[status])
            self.transport.write(head + b"Content-Length: %d\r\n\r\n" % TRICKLE)
        self.transport.write(b".")
        if left > 1:
            self.later(seconds / (TRICKLE - 1), self.trickle, status, seconds, left - 1)
        else:
            self.done()

    def nonsense(self):
        self.transport.write(b"\x15\x03\x01 this is no HTTP\r\n\r\n")
        self.transport.close()

    def answer(self, status, breaks=False, close=False, fields=b""):
        backend, scenario, request = self.backend, self.backend.scenario, self.request
        body = backend.body if status == 200 and request.id else b"%d\n" % status
        if scenario.validator and status == 200 and request.id:
            etag = b'"%d"' % len(body)
            fields += b"Accept-Ranges: bytes\r\nETag: " + etag + b"\r\n"
            if request.range and request.if_range in (b"", etag):
                first, _, last = request.range.partition("-")
                first, last = int(first), min(int(last or len(body)), len(body) - 1)
                fields += b"Content-Range: bytes %d-%d/%d\r\n" % (first, last, len(body))
                status, body = 206, body[first : last + 1]
        if self.closing or close:
            fields += b"Connection: close\r\n"
        chunked = scenario.chunked and status == 200 and request.id
        fields += b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % len(body)
        head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\n%s\r\n" % (status, REASONS[status], fields)
        if breaks:
            cut = int(len(body) * chance(backend.seed, "cut", request.id, request.attempt))
            body = body[:cut]
        if chunked:
            parts = (body[at : at + 4096] for at in range(0, len(body), 4096))
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            body += b"" if breaks else b"0\r\n\r\n"
        self.transport.write(head + body)
        if breaks:
            # A reset may overtake what was sent; some time lies between, as between two packets of a real answer.
            self.later(0.002, self.transport.abort if chunked else self.transport.close)
        elif close:
            # The caller still sends. Closing now would reset the connection before the answer is read.
            self.later(0.5, self.transport.close)
        else:
            self.done()

    def done(self):
        self.request, self.answering = None, False
        if self.closing:
            self.transport.close()
        elif self.endpoint.fault.kind == "idle-close":
            self.idle = self.backend.loop.call_later(self.endpoint.fault.delay, self.idle_close)

    def idle_close(self):
        """From here on nothing is read. The other side learns of it only when the news has travelled."""
        self.transport.pause_reading()
        self.pending = self.backend.loop.call_later(self.endpoint.fault.window, self.transport.abort)


async def serve(options):
    scenario = BY_NAME[options.scenario]
    backend = Backend(scenario, options.seed)
    backend.tasks = []
    backend.endpoints = [
        Endpoint(backend, number, port, fault) for number, (port, fault) in enumerate(zip(options.ports, scenario.faults), 1)
    ]
    for endpoint in backend.endpoints:
        await endpoint.listen()
    lag, stop = Lag(), asyncio.Event()
    backend.loop.add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()
    options.out.write_text(json.dumps(backend.report() | {"lag": lag.report()}) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", choices=BY_NAME, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("ports", nargs="+", type=int)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
