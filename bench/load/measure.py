"""Runs the rows for bench/load/run.sh: proxies on one core, their load and their backend on another, round by round.

The figure of most rows is the CPU time that the proxy's own threads spent, divided by the requests that succeeded. Wall-clock
throughput is kept in the result for the curious, but on a shared machine it says little. A request that failed voids its
row for that proxy.
"""

import argparse
import datetime
import json
import os
import resource
import signal
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import loads  # noqa: E402  (what it imports stands in the folder above)
import report  # noqa: E402
from common import Refusal, machine, names, versions  # noqa: E402
from proxies import Backend, Processes, Proxy, make_keys  # noqa: E402
from rows import BY_NAME, COLUMNS, MEMORY, ROWS, SHORT, SHORT_RATIO  # noqa: E402

# What a log waits for at most before it writes its last block, which is part of the work; and a moment.
LOG_SECONDS = 1.1
# How many times memory is measured, each time with a new process: it varies less than time does.
MEMORY_ROUNDS = 3
# How many idle connections are there before the first look at memory, and how long each is left alone: Stent gives the
# buffers of an idle connection back after five to ten seconds, and the memory to the system two seconds later.
FIRST_IDLE = 200
REST_SECONDS = 14


class Void(Exception):
    """What a row would say of a proxy is worth nothing, and why."""


class Bench:
    """One run: a backend, and the proxies beside each other."""

    def __init__(self, options):
        self.options = options
        # The first two cores that this process may use.
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise Refusal("two cores are needed, one for the proxy under test and one for everything else")
        self.proxy_core, self.load_core = str(cores[0]), str(cores[1])
        os.sched_setaffinity(0, {cores[1]})
        options.work.mkdir(parents=True)
        options.work.chmod(0o755)
        self.processes = Processes(options.work)
        make_keys(options.work)
        self.backend = Backend(self.processes, self.load_core)
        self.proxies = {}

    def proxy(self, name):
        """The proxy that all rows of CPU share."""
        if name not in self.proxies:
            self.proxies[name] = self.start(name)
        return self.proxies[name]

    def start(self, name, core=None):
        return Proxy(name, self.processes, self.backend, core or self.proxy_core, self.options)

    def peers_of(self, row):
        return [name for name in self.options.peers if name.removesuffix("-again") in row.peers]

    def run(self, row):
        """All rounds of a row, A B C A B C."""
        if row.kind == "latency":
            return self.run_latency(row)
        if row.kind == "scale":
            return self.run_scale(row)
        proxies = self.peers_of(row)
        if row.kind in ("idle", "idle-tls"):
            return self.run_idle(row)
        if row.kind == "downloads":
            rounds = min(self.options.rounds, MEMORY_ROUNDS)
            return self.judge(row, self.interleave(row, proxies, rounds, lambda name: self.measure_downloads(name, row)))
        for name in proxies:
            self.proxy(name).check(row)
            self.load(self.proxy(name), row, 1)  # warms up, and does not count
        done = self.interleave(row, proxies, self.options.rounds, lambda name: self.measure_cpu(self.proxy(name), row))
        return self.judge(row, done)

    def judge(self, row, done):
        return done | report.judge(row, done["median"], self.options.peers)

    def interleave(self, row, proxies, rounds, measure):
        results = {name: [] for name in proxies}
        void = {}
        for number in range(1, rounds + 1):
            for name in proxies:
                if name in void:
                    continue
                try:
                    result = measure(name)
                except Void as reason:
                    void[name] = f"round {number}: {reason}"
                    say(f"{row.name} {name}: VOID, {void[name]}")
                    continue
                results[name].append(result)
                say(f"{row.name} {number}/{rounds} {name}: {result['value']:.2f}")
        return summarise(row, results, void)

    def load(self, proxy, row, seconds):
        if row.kind == "h2":
            return loads.h2load(proxy.url(row), row, seconds)
        if row.kind in ("handshake", "resume"):
            return loads.handshakes(proxy.address(row), row, seconds)
        return loads.wrk(proxy.url(row), row, seconds)

    def measure_cpu(self, proxy, row):
        """CPU microseconds per request."""
        proxy.empty_log()
        seen, before = self.backend.requests(), proxy.cpu_ns()
        result = self.load(proxy, row, self.options.seconds)
        if proxy.has_log:
            time.sleep(LOG_SECONDS)
        after = proxy.cpu_ns()
        seen = self.backend.requests() - seen - 1
        if before.keys() - after.keys():
            raise Void("a thread ended during the round, and its run time with it")
        check(result)
        # What the load left unfinished the backend has seen all the same: up to one request per connection or stream.
        unfinished = row.connections * (10 if row.kind == "h2" else 1) * row.backend_requests
        slack = 2 * unfinished / result.succeeded + 0.02 * row.backend_requests
        if abs(seen / result.succeeded - row.backend_requests) > slack:
            raise Void(f"the backend saw {seen / result.succeeded:.3f} requests for each, not {row.backend_requests}")
        proxy.check_log()
        cpu = sum(after.values()) - sum(before.get(thread, 0) for thread in after)
        return {
            "value": round(cpu / 1000 / result.succeeded, 3),
            "requests": result.succeeded,
            "cpu_ns": cpu,
            "backend_requests": round(seen / result.succeeded, 4),
            "requests_per_second": round(result.succeeded / result.seconds),
        } | result.more

    def measure_downloads(self, name, row):
        """MiB of RSS above that of a process that has done a little work and nothing else."""
        proxy = self.start(name)
        try:
            self.warm(proxy)
            before = proxy.rss_kib()
            proxy.forget_peak()
            check(loads.wrk(proxy.url(row), row, self.options.seconds))
            return {"value": round((proxy.peak_rss_kib() - before) / 1024, 2), "rss_before_kib": before}
        finally:
            proxy.stop()

    def warm(self, proxy):
        """So much that what is made once is made."""
        loads.wrk(proxy.url(BY_NAME["small-1"]), BY_NAME["small-1"], 1)
        time.sleep(LOG_SECONDS)

    def run_idle(self, row):
        """KiB of RSS per connection, of new processes that wait side by side: each for itself would take very long."""
        names = self.peers_of(row)
        results, void = {name: [] for name in names}, {}
        for number in range(1, min(self.options.rounds, MEMORY_ROUNDS) + 1):
            proxies = {name: self.start(name) for name in names}
            idle = {name: loads.Idle(proxy.address(row), row) for name, proxy in proxies.items()}
            try:
                for proxy in proxies.values():
                    self.warm(proxy)
                # The first ones fit into what was freed since the start, or make tables grow; what each costs shows after them.
                before = self.rss_with(FIRST_IDLE, proxies, idle)
                after = self.rss_with(row.connections, proxies, idle)
                for name in names:
                    if not idle[name].are_open():
                        void[name] = f"round {number}: connections were closed"
                        say(f"{row.name} {name}: VOID, {void[name]}")
                    value = round((after[name] - before[name]) / row.connections, 2)
                    results[name].append({"value": value, "rss_before_kib": before[name]})
                    say(f"{row.name} {number} {name}: {value:.2f}")
            finally:
                for name, proxy in proxies.items():
                    idle[name].close()
                    proxy.stop()
        return self.judge(row, summarise(row, results, void))

    def rss_with(self, more, proxies, idle):
        """The RSS of each, in KiB, once so many more connections have come to rest."""
        for connections in idle.values():
            connections.open(more)
        time.sleep(REST_SECONDS)
        return {name: proxy.rss_kib() for name, proxy in proxies.items()}

    def run_latency(self, row):
        """What each proxy adds, at half of what the slowest can do, so that all have the same to do."""
        proxies = self.peers_of(row)
        small = BY_NAME["small"]
        peaks = {}
        for name in proxies:
            result = loads.wrk(self.proxy(name).url(small), small, self.options.seconds)
            peaks[name] = result.succeeded / result.seconds
        rate = min(peaks.values()) / 2
        addresses = {"backend alone": self.backend.address} | {name: self.proxy(name).address(row) for name in proxies}
        results = {name: [] for name in addresses}
        void = {}
        for number in range(1, self.options.rounds + 1):
            for name, address in addresses.items():
                found = loads.open_loop(self.options.open_loop, address, row.connections, rate, self.options.seconds)
                results[name].append(found)
                if found["failed"]:
                    void[name] = f"round {number}: {found['failed']} requests failed"
                    say(f"{row.name} {name}: VOID, {void[name]}")
                say(f"{row.name} {number}/{self.options.rounds} {name}: p50 {found['p50_us']} us, p99 {found['p99_us']} us")
        median = {
            name: {key: statistics.median(each[key] for each in found) for key in ("p50_us", "p99_us", "p999_us")}
            for name, found in results.items()
            if name not in void
        }
        per_second = {name: round(peak) for name, peak in peaks.items()}
        shape = {"row": row.name, "what": row.what, "kind": "latency", "connections": row.connections}
        return shape | {"per_second": round(rate), "peaks": per_second, "rounds": results, "void": void, "median": median}

    def run_scale(self, row):
        """CPU per request of Stent with one worker and with two. Both may use both cores, the one of the load as well: on
        one core nothing that two workers share could cost anything."""
        both = f"{self.proxy_core},{self.load_core}"
        proxies = {name: self.start(name, both) for name in ("stent", "stent-2")}
        try:
            for proxy in proxies.values():
                loads.wrk(proxy.url(row), row, 1)
            done = self.interleave(row, list(proxies), self.options.rounds, lambda name: self.measure_cpu(proxies[name], row))
        finally:
            for proxy in proxies.values():
                proxy.stop()
        if len(done["median"]) == 2:
            ratio = round(done["median"]["stent-2"] / done["median"]["stent"], 3)
            done |= {"ratio": {"stent": ratio}, "missed": [f"{ratio} of one worker's, not {row.most}"] if ratio > row.most else []}
        return done | {"kind": "scale"}


def summarise(row, results, void):
    """Medians and ranges of all rounds."""
    values = {name: [each["value"] for each in of_one] for name, of_one in results.items() if name not in void}
    return {
        "row": row.name,
        "what": row.what,
        "kind": "memory" if row.kind in MEMORY else "cpu",
        "unit": unit(row),
        "rounds": results,
        "void": void,
        "median": {name: round(statistics.median(each), 3) for name, each in values.items()},
        "range": {name: [min(each), max(each)] for name, each in values.items()},
    }


def check(result):
    if result.errors:
        raise Void(f"requests failed: {result.errors}, {result.succeeded} succeeded")
    if result.succeeded == 0:
        raise Void("no request succeeded")


def unit(row):
    if row.kind in MEMORY:
        return "MiB" if row.kind == "downloads" else "KiB"
    return "us"


def say(text):
    print(text, file=sys.stderr, flush=True)


def versions_of(options):
    proxies = {"haproxy" if name == "tcp" else name for name in options.peers}
    # NGINX is the backend, whoever is measured.
    tools = {"wrk": ["wrk", "-v"], "h2load": ["h2load", "--version"], "openssl": ["openssl", "version"]}
    return versions(options, proxies | {"nginx"}, tools)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["full", "short", "self-test"], required=True)
    parser.add_argument("--only", type=names(BY_NAME))
    parser.add_argument("--peers", type=names(COLUMNS), required=True)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--stent", default="")
    parser.add_argument("--envoy", default="")
    parser.add_argument("--open-loop", default="")
    options = parser.parse_args()
    # So that what was started is ended here as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_short = options.mode == "short"
    options.rounds = options.rounds or (1 if is_short else 5)
    options.seconds = options.seconds or (1 if is_short else 4)
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    rows = [BY_NAME[name] for name in options.only or (SHORT if is_short else [row.name for row in ROWS])]
    has_program = {"latency": options.open_loop, "scale": options.stent and "stent" in options.peers}
    if options.only and (strange := [row.name for row in rows if not has_program.get(row.kind, True)]):
        parser.error(f"{', '.join(strange)} cannot be measured in this mode with these peers")
    rows = [row for row in rows if has_program.get(row.kind, True)]
    # A thousand connections, on both sides of a proxy that inherits the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": options.commit,
        "mode": options.mode,
        "machine": machine(),
        "versions": versions_of(options),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "peers": options.peers},
        "rows": [],
    }
    bench = None
    try:
        bench = Bench(options)
        for row in rows:
            result["rows"].append(bench.run(row))
    except Refusal as refusal:
        sys.exit(f"bench: refused: {refusal}")
    finally:
        if bench:
            bench.processes.stop()
    result["seconds"] = round((datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(result["date"])).total_seconds())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(report.markdown(result))
    say(f"written to {options.out} after {result['seconds']} s")
    conclude(result, is_short)


def conclude(result, is_short):
    """Fails where a figure is worth nothing, and with --short where Stent is far off. A target that is missed only shows."""
    bad = [f"{row['row']} of {name} is void: {why}" for row in result["rows"] for name, why in row["void"].items()]
    if is_short:
        for row in result["rows"]:
            ratio = row.get("ratio", {}).get("nginx", 0)
            if row["kind"] == "cpu" and ratio > SHORT_RATIO:
                bad.append(f"{row['row']}: Stent takes {ratio} times what NGINX takes, over {SHORT_RATIO}")
    if bad:
        sys.exit(f"bench: {'; '.join(bad)}")


if __name__ == "__main__":
    main()
