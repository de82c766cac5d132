"""Runs the interleaved rounds of bench/load/run.sh, checks them, and reports medians and their ratio.

The figure is the CPU time of the proxy's own threads divided by the requests that succeeded. Wall-clock throughput is
kept in the result for the curious, but on a shared machine it says little.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

CONNECTIONS = 64
LUA = Path(__file__).with_name("done.lua")

# Path, what it is, the length of its body, and how many attempts the backend must see per request.
ROWS = [
    ("small", "105 B response", 105, 1.0),
    ("large", "64 KiB response, NGINX's buffers at their default", 65536, 1.0),
    ("large-buffered", "64 KiB response, NGINX's buffers enlarged to hold it", 65536, 1.0),
    ("retried", "105 B response, 20 % of first attempts answered 502 and retried", 105, 1.2),
]


class Refusal(Exception):
    """The run says nothing about the proxies, and why."""


class Subject:
    """A proxy under test."""

    def __init__(self, text):
        self.name, pid, port, log = text.split(":", 3)
        self.pid, self.port, self.log = int(pid), int(port), Path(log)

    def url(self, path):
        return f"http://127.0.0.1:{self.port}/{path}"

    def cpu_ns(self):
        """The run time so far of each thread that works on requests, in nanoseconds.

        NGINX's master only waits for signals, so its worker is what counts; Stent has no children.
        """
        threads = {}
        for pid in self.children() or [self.pid]:
            for task in Path(f"/proc/{pid}/task").iterdir():
                threads[task.name] = int((task / "schedstat").read_text().split()[0])
        return threads

    def children(self):
        """Read from each process's parent, because not every kernel lists children."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # The name before the last parenthesis may hold anything; state and parent follow it.
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue  # ended meanwhile
            if int(parent) == self.pid:
                found.append(process.name)
        return found

    def wait_until_ready(self):
        """Asks for a first answer for up to 10 seconds."""
        deadline = time.monotonic() + 10
        while True:
            try:
                return urllib.request.urlopen(self.url("small"), timeout=2).read()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Refusal(f"{self.name} does not answer: {error}") from error
                time.sleep(0.05)


def check_answers(subject):
    """Both proxies must give the same, or they do not do the same work."""
    for path, _, length, _ in ROWS:
        for _ in range(20):
            try:
                body = urllib.request.urlopen(subject.url(path), timeout=10).read()
            except OSError as error:
                raise Refusal(f"{subject.name} fails at /{path}: {error}") from error
            if len(body) != length:
                raise Refusal(f"{subject.name} gave {len(body)} bytes for /{path} instead of {length}")


def backend_requests(status_url):
    """How many requests the backend has seen; this question is one of them."""
    text = urllib.request.urlopen(status_url, timeout=5).read().decode()
    return int(re.search(r"^\s*\d+\s+\d+\s+(\d+)", text, re.MULTILINE).group(1))


def load(subject, path, seconds, core):
    """One run of wrk, as its own report in JSON."""
    command = ["taskset", "-c", core, "wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", f"{seconds}s", "--timeout", "5s"]
    command += ["-s", str(LUA), subject.url(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next((line for line in text.splitlines() if line.startswith("JSON ")), None)
    if line is None:
        raise Refusal(f"wrk gave no report:\n{text}")
    return json.loads(line.removeprefix("JSON "))


def measure(subject, row, options):
    """One round of one proxy."""
    path, _, _, attempts_expected = row
    # A log that grows from round to round would fill the disk, and both proxies append.
    if subject.log.exists():
        os.truncate(subject.log, 0)
    seen, before = backend_requests(options.status), subject.cpu_ns()
    report = load(subject, path, options.seconds, options.load_core)
    # The log's last block is part of the work.
    time.sleep(1.2)
    after = subject.cpu_ns()
    seen = backend_requests(options.status) - seen - 1
    if before.keys() - after.keys():
        raise Refusal(f"a thread of {subject.name} ended during the round, and its run time with it")
    failed = sum(report["errors"].values())
    succeeded = report["requests"] - report["errors"]["status"]
    if failed:
        raise Refusal(f"{subject.name}, /{path}: {failed} failures seen by wrk: {report['errors']}")
    if succeeded == 0:
        raise Refusal(f"{subject.name}, /{path}: no request succeeded")
    # wrk leaves up to one request per connection unfinished, which the backend has seen all the same.
    slack = 2 * CONNECTIONS / succeeded + 0.02
    if abs(seen / succeeded - attempts_expected) > slack:
        raise Refusal(f"{subject.name}, /{path}: {seen / succeeded:.3f} attempts per request, not {attempts_expected}")
    if not subject.log.exists() or subject.log.stat().st_size == 0:
        raise Refusal(f"{subject.name} wrote no access log")
    cpu = sum(after.values()) - sum(before.get(thread, 0) for thread in after)
    return {
        "proxy": subject.name,
        "requests": succeeded,
        "cpu_ns": cpu,
        "us_per_request": round(cpu / 1000 / succeeded, 3),
        "attempts_per_request": round(seen / succeeded, 4),
        "requests_per_second": round(succeeded / (report["duration_us"] / 1e6)),
        "p50_us": report["p50_us"],
        "p99_us": report["p99_us"],
        "errors": report["errors"],
    }


def run_row(row, subjects, options):
    """All rounds of one kind of work, A B A B, after a second of warming up that does not count."""
    path, what, _, _ = row
    for subject in subjects:
        load(subject, path, 1, options.load_core)
    rounds = []
    for number in range(1, options.rounds + 1):
        for subject in subjects:
            result = measure(subject, row, options)
            rounds.append(result)
            print(
                f"{path} round {number}/{options.rounds} {subject.name}: {result['us_per_request']:.2f} us,"
                f" {result['requests']} requests, no error",
                file=sys.stderr,
            )
    figures = {s.name: [r["us_per_request"] for r in rounds if r["proxy"] == s.name] for s in subjects}
    medians = {name: round(statistics.median(values), 3) for name, values in figures.items()}
    base, other = (medians[subject.name] for subject in subjects)
    return {
        "row": path,
        "what": what,
        "median_us_per_request": medians,
        "range_us_per_request": {name: [min(values), max(values)] for name, values in figures.items()},
        "ratio": round(other / base, 3),
        "rounds": rounds,
    }


def machine():
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
    }


def first_line(*command):
    """What a tool says of its version; wrk says it with exit code 1."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def versions(options):
    found = {"nginx": first_line("nginx", "-v").removeprefix("nginx version: "), "wrk": first_line("wrk", "-v").partition(" [")[0]}
    if options.mode == "compare":
        found["rustc"] = first_line("rustc", "--version")
    return found


def markdown(result):
    machine, settings = result["machine"], result["settings"]
    names = list(result["rows"][0]["median_us_per_request"])
    lines = [
        f"CPU microseconds per request of the proxy's own threads; median of {settings['rounds']} rounds of"
        f" {settings['seconds']} s each, interleaved; {settings['connections']} kept-alive connections. Lower is better.",
        "",
        f"| work | {names[0]} (range) | {names[1]} (range) | {names[1]} / {names[0]} |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = []
        for name in names:
            low, high = row["range_us_per_request"][name]
            cells.append(f"{row['median_us_per_request'][name]:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {row['what']} | {' | '.join(cells)} | {row['ratio']:.2f} |")
    lines += [
        "",
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']};"
        f" {', '.join(result['versions'].values())}; commit {result['commit']}; {result['date']}."
        " No request failed.",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["compare", "self-test"], required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--load-core", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--status", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("subjects", nargs=2, type=Subject)
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("ROUNDS and SECONDS are at least 1")
    result = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": options.commit,
        "mode": options.mode,
        "machine": machine(),
        "versions": versions(options),
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "connections": CONNECTIONS},
    }
    try:
        for subject in options.subjects:
            subject.wait_until_ready()
            check_answers(subject)
        result["rows"] = [run_row(row, options.subjects, options) for row in ROWS]
    except Refusal as refusal:
        sys.exit(f"bench: refused: {refusal}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))
    print(f"written to {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
