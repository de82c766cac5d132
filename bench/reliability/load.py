"""The users: an open-loop load by seed, and what each of its requests came to.

Requests start when they are due, whether or not earlier ones have been answered, and latency counts from then on. A user
sees a failure in a 5xx, a connection that is refused or reset, a body that breaks or is not the right one, and in
silence for longer than the row's patience, 10 seconds where it names none. Nothing is sent twice here.
"""

import argparse
import asyncio
import json
import random
import socket
from collections import Counter
from pathlib import Path

from loop import Lag, percentile
from scenario import answer_body
from scenarios import BY_NAME

SETTLED = 2.0  # seconds from the start of a row until a proxy shall know which requests always fail
BUCKET = 0.5  # seconds, for the time that recovery takes


def outcomes(exchanges):
    return dict(Counter(each.outcome for each in exchanges).most_common())


def took(exchanges, share):
    """The milliseconds that at least this share of these exchanges did not exceed; None of none."""
    value = percentile([each.ended - each.due for each in exchanges], share)
    return None if value is None else round(value * 1000, 1)


def report_kind(exchanges):
    good = [each for each in exchanges if each.outcome == "ok"]
    # GETs alone: a POST may wait a second for others where an outage was declared by mistake.
    settled = [each for each in good if each.due >= SETTLED and each.method == "GET"]
    return {
        "requests": len(exchanges),
        "failures": len(exchanges) - len(good),
        "failed": round(1 - len(good) / len(exchanges), 6),
        "outcomes": outcomes(exchanges),
        "p50_ms": took(good, 0.5),
        "p99_ms": took(good, 0.99),
        "max_ms": took(good, 1.0),
        "settled_p50_ms": took(settled, 0.5),
        "settled_p99_ms": took(settled, 0.99),
        # How long users waited for whatever they got, failures included.
        "any_p50_ms": took(exchanges, 0.5),
        "any_max_ms": took(exchanges, 1.0),
    }


class Exchange:
    def __init__(self, number, due, method, phase=0, path=None, fields=""):
        self.number, self.due, self.method, self.phase = number, due, method, phase
        self.path, self.fields, self.kind = path or str(number), fields, None
        self.outcome, self.ended, self.timer = None, None, None


class Connection(asyncio.Protocol):
    """A kept-alive connection that carries one exchange at a time."""

    def __init__(self, users, port):
        self.users, self.port = users, port
        self.transport = self.exchange = None
        self.buffer = bytearray()

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, exchange):
        self.exchange = exchange
        self.buffer.clear()
        self.status = self.left = None
        self.chunked = self.keep = False
        self.body = bytearray()
        self.transport.write(self.users.request(exchange))

    def data_received(self, data):
        if self.exchange is None:
            self.drop()
            return
        self.buffer += data
        try:
            if self.status is None and not self.take_head():
                return
            if self.take_body():
                self.complete()
        except ValueError:
            self.end("nonsense")

    def take_head(self):
        while self.status is None:
            head, separator, rest = self.buffer.partition(b"\r\n\r\n")
            if not separator:
                return False
            self.buffer = rest
            line, *fields = bytes(head).split(b"\r\n")
            version, status = line.split(b" ", 2)[:2]
            if not version.startswith(b"HTTP/1."):
                raise ValueError("not HTTP/1")
            if status.startswith(b"1"):
                continue
            self.status = int(status)
        fields = dict(field.lower().split(b":", 1) for field in fields)
        self.chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        self.keep = b"close" not in fields.get(b"connection", b"") and version == b"HTTP/1.1"
        # Without a length and chunks the body ends with the connection: `left` stays None.
        self.left = 0 if self.chunked else int(fields[b"content-length"]) if b"content-length" in fields else None
        return True

    def take_body(self):
        """Whether the body is there, to its end."""
        if not self.chunked:
            self.body += self.buffer
            self.buffer.clear()
            return self.left is not None and len(self.body) >= self.left
        while True:
            line = self.buffer.find(b"\r\n")
            if line < 0:
                return False
            size = int(self.buffer[:line].split(b";")[0], 16)
            if len(self.buffer) < line + 2 + size + 2:
                return False
            self.body += self.buffer[line + 2 : line + 2 + size]
            del self.buffer[: line + 2 + size + 2]
            if size == 0:
                return True

    def eof_received(self):
        return False

    def connection_lost(self, _error):
        self.users.forget(self)
        if self.exchange is None:
            return
        if self.status is None:
            self.end("no answer")
        elif self.left is None and not self.chunked:
            self.complete()
        else:
            self.end("truncated")

    def complete(self):
        if self.status >= 500:
            outcome = f"status {self.status}"
        elif self.status != 200 or self.body != self.users.expected:
            outcome = "wrong answer"
        else:
            outcome = "ok"
        self.end(outcome, keep=self.keep)

    def end(self, outcome, keep=False):
        exchange, self.exchange = self.exchange, None
        if keep:
            self.users.keep(self)
        else:
            self.drop()
        self.users.end(exchange, outcome)

    def drop(self):
        self.users.forget(self)
        self.transport.abort()


class Users:
    def __init__(self, scenario, seed, ports):
        self.scenario, self.seed, self.ports = scenario, seed, ports
        self.loop = asyncio.get_running_loop()
        self.expected = answer_body(scenario.body)
        self.upload = b"u" * scenario.upload
        self.idle = {port: [] for port in ports}
        self.random = random.Random(f"{seed}/{scenario.name}")
        self.exchanges = list(self.plan())
        self.open, self.all_ended = len(self.exchanges), asyncio.Event()

    def plan(self):
        return self.plan_streams() if self.scenario.streams else self.plan_phases()

    def plan_streams(self):
        """Several kinds of requests, each by a course of chance of its own; with the same seed the same for every proxy."""
        exchanges = []
        for place, stream in enumerate(self.scenario.streams):
            course = random.Random(f"{self.seed}/{self.scenario.name}/{place}")
            for due in stream.times(self.scenario.seconds, course):
                method = "POST" if course.random() < stream.post_share else "GET"
                fields = f"X-Bench-Kind: {stream.kind}\r\n"
                if stream.callers:
                    fields += f"X-Forwarded-For: {course.choice(stream.callers)}\r\n"
                exchanges.append(Exchange(0, due, method, path=course.choice(stream.paths), fields=fields))
                exchanges[-1].kind = stream.kind
        exchanges.sort(key=lambda exchange: exchange.due)
        for number, exchange in enumerate(exchanges):
            exchange.number = number
        return exchanges

    def plan_phases(self):
        """When each request is due; with the same seed the same for every proxy."""
        scenario, at, number = self.scenario, 0.0, 0
        phase_seconds = scenario.seconds / len(scenario.phases)
        while True:
            phase = min(int(at / phase_seconds), len(scenario.phases) - 1)
            if scenario.gaps:
                at += self.random.uniform(*scenario.gaps)
            else:
                # Poisson's arrivals: users do not wait for each other.
                at += self.random.expovariate(scenario.phases[phase])
            if at >= scenario.seconds:
                return
            method = "PUT" if scenario.put else "POST" if self.random.random() < scenario.post_share else "GET"
            yield Exchange(number, at, method, min(int(at / phase_seconds), len(scenario.phases) - 1))
            number += 1

    def request(self, exchange):
        scenario = self.scenario
        body = self.upload if exchange.method == "PUT" else b"a screening" if exchange.method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if exchange.method != "GET" else ""
        head = f"{exchange.method} /{scenario.prefix}/{exchange.path} HTTP/1.1\r\nHost: hosp.example.org\r\n"
        return f"{head}X-Bench-Id: {exchange.number}\r\n{exchange.fields}{length}\r\n".encode() + body

    async def run(self):
        self.begin = self.loop.time()
        for exchange in self.exchanges:
            wait = self.begin + exchange.due - self.loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            self.start(exchange)
        await self.all_ended.wait()

    def start(self, exchange):
        exchange.timer = self.loop.call_at(self.begin + exchange.due + self.scenario.patience, self.give_up, exchange)
        # Without a proxy users are spread over the endpoints, as DNS spreads them.
        port = self.ports[self.random.randrange(len(self.ports))]
        while self.idle[port]:
            connection = self.idle[port].pop()
            if not connection.transport.is_closing():
                exchange.connection = connection
                connection.send(exchange)
                return
        exchange.task = self.loop.create_task(self.connect(exchange, port))

    async def connect(self, exchange, port):
        try:
            _, connection = await self.loop.create_connection(lambda: Connection(self, port), "127.0.0.1", port)
        except OSError:
            self.end(exchange, "refused")
            return
        if exchange.outcome is not None:
            connection.drop()
            return
        exchange.connection = connection
        connection.send(exchange)

    def give_up(self, exchange):
        connection = getattr(exchange, "connection", None)
        if connection and connection.exchange is exchange:
            connection.end("timeout")
        else:
            self.end(exchange, "timeout")

    def end(self, exchange, outcome):
        if exchange.outcome is not None:
            return
        exchange.timer.cancel()
        exchange.outcome, exchange.ended = outcome, self.loop.time() - self.begin
        self.open -= 1
        if self.open == 0:
            self.all_ended.set()

    def keep(self, connection):
        self.idle[connection.port].append(connection)

    def forget(self, connection):
        if connection in self.idle[connection.port]:
            self.idle[connection.port].remove(connection)

    def report(self):
        done, scenario = self.exchanges, self.scenario

        def failed(of):
            return round(sum(each.outcome != "ok" for each in of) / len(of), 6) if of else None

        succeeded = [each for each in done if each.outcome == "ok"]
        found = {
            "requests": len(done),
            "failed": failed(done),
            "failed_get": failed([each for each in done if each.method == "GET"]),
            "failed_post": failed([each for each in done if each.method == "POST"]),
            "outcomes": outcomes(done),
            "p50_ms": took(succeeded, 0.5),
            "p99_ms": took(succeeded, 0.99),
        }
        if scenario.streams:
            kinds = sorted({each.kind for each in done})
            found["kinds"] = {kind: report_kind([each for each in done if each.kind == kind]) for kind in kinds}
        if len(scenario.phases) > 1:
            seconds = scenario.seconds / len(scenario.phases)
            for phase in range(len(scenario.phases)):
                # An answer counts where it arrives: what an overloaded backend still owes comes in the next phase.
                arrived = (phase * seconds <= each.ended < (phase + 1) * seconds for each in done if each.outcome == "ok")
                found[f"goodput_{phase + 1}"] = round(sum(arrived) / seconds, 1)
            found["recovery_s"] = self.recovery(scenario.seconds - seconds)
        return found

    def recovery(self, relief):
        """Seconds from the begin of the last phase until from then on at least 95 % of the requests of each half second
        succeed; the length of the phase if that never comes."""
        good, recovered = {}, None
        for each in self.exchanges:
            if each.due >= relief:
                good.setdefault(int((each.due - relief) / BUCKET), []).append(each.outcome == "ok")
        for bucket in sorted(good):
            if sum(good[bucket]) < 0.95 * len(good[bucket]):
                recovered = None
            elif recovered is None:
                recovered = bucket * BUCKET
        return self.scenario.seconds - relief if recovered is None else recovered


async def run(options):
    scenario = BY_NAME[options.scenario]
    if options.seconds:
        scenario = scenario.lasting(options.seconds)
    users, lag = Users(scenario, options.seed, options.ports), Lag()
    await users.run()
    options.out.write_text(json.dumps(users.report() | {"lag": lag.report()}) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", choices=BY_NAME, required=True)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("ports", nargs="+", type=int)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
