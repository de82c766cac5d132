"""Runs the scenarios for bench/reliability/run.sh: a backend, a proxy and a load per column, all columns side by side.

Side by side, because what else the machine does then strikes every column alike, and a run ends in a third of an hour.
What the harness itself adds is measured as well: how late the event loops of backend and load ran stands in each result.
"""

import argparse
import datetime
import json
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

from report import COLUMNS, markdown, progress, verdict
from scenario import Check
from scenarios import BY_NAME, FAMILIES

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import Refusal, end, fill, free_ports, machine, names, versions  # noqa: E402  (its folder is known only now)

# What --short runs and holds Stent to: that bench and binary work on a busy machine, not how well.
SHORT = {
    "errors": (Check("failed", "<=", 0.02), Check("attempts", "<=", 1.6)),
    "post-restart": (Check("failed", "<=", 0.03), Check("duplicates", "<=", 0)),
    "two-one-fails": (Check("failed_get", "<=", 0.03), Check("duplicates", "<=", 0)),
    "harm-path-40": (Check("good.failures", "<=", 0, of_pass=True), Check("good.any_p50_ms", "<=", 50, of_pass=True)),
}
SHORT_SECONDS = 8.0
# Milliseconds by which 1 % of the harness's timers may be late before a row is said to tell little about latency.
LATE = 5.0


class Column:
    """One proxy, or none, in one scenario, with a backend and a load of its own."""

    def __init__(self, name, scenario, options):
        self.name, self.scenario, self.options = name, scenario, options
        self.work = options.work / scenario.name / name
        self.work.mkdir(parents=True)
        self.processes = []
        ports = free_ports(4)
        self.backends, self.port, self.admin = ports[:2], ports[2], ports[3]

    def start(self):
        used = self.backends[: len(self.scenario.faults)]
        self.backend = self.run(
            "backend", sys.executable, HERE / "backend.py", "--scenario", self.scenario.name, "--seed", self.options.seed,
            "--out", self.work / "backend.json", *used, stdout=subprocess.PIPE,
        )
        if self.backend.stdout.readline() != b"ready\n":
            raise Refusal(f"the backend for {self.name} did not start, see {self.work}/backend.log")
        self.targets = used
        if self.name != "none":
            self.run(self.name, *self.proxy_command())
            self.targets = [self.port]
            self.wait_until_ready()

    def proxy_command(self):
        """Writes the configuration and says what starts the proxy in the foreground."""
        options = self.options
        if template := {"nginx": "nginx.conf", "pass": "nginx-pass.conf"}.get(self.name):
            return ["nginx", "-e", self.work / "nginx.error.log", "-p", self.work, "-c", self.configure(template)]
        if self.name == "haproxy":
            return ["haproxy", "-db", "-f", self.configure("haproxy.cfg")]
        if self.name.startswith("envoy"):
            policies = tomllib.loads((HERE / "peers" / f"{self.name}.toml").read_text())
            file = self.configure("envoy.yaml", policies)
            return [options.envoy, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error", "-c", file]
        keys = "\n".join(f"{key} = {value}" for key, value in self.scenario.stent_keys.items())
        return [options.stent, "run", self.configure("stent.toml", {"ROW_KEYS": keys})]

    def configure(self, template, more=()):
        values = dict(more) | {
            "WORK": self.work,
            "PORT": self.port,
            "ADMIN": self.admin,
            "BACKEND_1": self.backends[0],
            "BACKEND_2": self.backends[1],
            "PER_TRY_MS": round(self.scenario.per_try * 1000),
            "PER_TRY_S": f"{self.scenario.per_try:.3f}",
        }
        return fill(HERE / "peers" / template, values, self.work / template)

    def run(self, name, *command, stdout=None):
        with open(self.work / f"{name}.log", "ab") as log:
            process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=stdout or log, stderr=log)
        self.processes.append(process)
        return process

    def wait_until_ready(self):
        """Asks without an id, which the backend neither counts nor fails, for up to 15 seconds."""
        deadline = time.monotonic() + 15
        url = f"http://127.0.0.1:{self.port}/{self.scenario.prefix}/ready"
        while True:
            try:
                return urllib.request.urlopen(url, timeout=2).read()
            except OSError as error:
                if time.monotonic() > deadline or self.processes[-1].poll() is not None:
                    raise Refusal(f"{self.name} does not answer: {error}; see {self.work}") from error
                time.sleep(0.05)

    def begin_load(self):
        self.load = self.run(
            "load", sys.executable, HERE / "load.py", "--scenario", self.scenario.name, "--seconds", self.scenario.seconds,
            "--seed", self.options.seed, "--out", self.work / "load.json", *self.targets,
        )

    def finish(self):
        """Waits for the load, ends everything else, and puts together what both sides counted."""
        if self.load.wait(timeout=self.scenario.seconds + self.scenario.patience + 60) != 0:
            raise Refusal(f"the load for {self.name} failed, see {self.work}/load.log")
        for process in self.processes:
            if process is not self.load and process.poll() is not None:
                raise Refusal(f"{process.args[0]} ended in the middle of {self.scenario.name}, see {self.work}")
        self.stop()
        load, backend = (json.loads((self.work / f"{side}.json").read_text()) for side in ("load", "backend"))
        late = max(load["lag"]["p99_ms"], backend["lag"]["p99_ms"])
        result = load | {"attempts": round(backend["attempts"] / load["requests"], 4), "late_p99_ms": late}
        result |= {key: backend[key] for key in ("most_attempts", "duplicates", "early")}
        for kind, counts in backend["kinds"].items():
            result["kinds"][kind] |= counts
        result["lag"] = {"load": load["lag"], "backend": backend["lag"]}
        return result

    def stop(self):
        end(self.processes)


def run_columns(names, scenario, options):
    """These columns at the same time."""
    columns = []
    try:
        for name in names:
            columns.append(Column(name, scenario, options))
            columns[-1].start()
        for column in columns:
            column.begin_load()
        return {column.name: column.finish() for column in columns}
    finally:
        for column in columns:
            column.stop()


def run_scenario(scenario, options):
    peers = [name for name in options.peers if name in scenario.columns]
    # Overload, multiplied by retries, is more than two cores give to all columns at once.
    together = 2 if len(scenario.phases) > 1 else len(peers)
    results = {}
    for first in range(0, len(peers), together):
        results |= run_columns(peers[first : first + together], scenario, options)
    checks = SHORT[scenario.name] if options.short else scenario.checks
    row = {
        "scenario": scenario.name,
        "family": next(family for family, rows in FAMILIES.items() if BY_NAME[scenario.name] in rows),
        "what": scenario.what,
        "seconds": scenario.seconds,
        "per_second": scenario.phases if not scenario.gaps and not scenario.streams else None,
        "shown": scenario.shown,
        "stent_keys": scenario.stent_keys,
        "late": max(result["late_p99_ms"] for result in results.values()) > LATE,
        "results": results,
        "checks": [verdict(check, results) for check in checks] if "stent" in results else [],
    }
    print(progress(row), file=sys.stderr, flush=True)
    return row


def chosen_rows(wanted):
    """The rows of these names, a family's name standing for all its rows."""
    return [row for name in wanted for row in ([each.name for each in FAMILIES[name]] if name in FAMILIES else [name])]


def program_names(columns):
    """Which programs serve these columns."""
    return {{"pass": "nginx"}.get(name, name.removesuffix("-tuned")) for name in columns}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--scenario", type=names(BY_NAME | FAMILIES), action="extend")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers", type=names(COLUMNS))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--stent", default="")
    parser.add_argument("--envoy", default="")
    options = parser.parse_args()
    # So that what was started is ended here as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.peers = options.peers or (["pass", "stent"] if options.short else list(COLUMNS))
    chosen = chosen_rows(options.scenario or (SHORT if options.short else FAMILIES))
    if options.short and (strange := set(chosen) - set(SHORT)):
        parser.error(f"--short has no bounds for {', '.join(sorted(strange))}")
    if idle := [name for name in chosen if not set(options.peers) & set(BY_NAME[name].columns)]:
        parser.error(f"{idle[0]} has none of the columns {', '.join(options.peers)}, but {', '.join(BY_NAME[idle[0]].columns)}")
    if options.seconds is not None and options.seconds < 1:
        parser.error("--seconds is at least 1")
    seconds = options.seconds or (SHORT_SECONDS if options.short else None)
    result = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": options.commit,
        "mode": "short" if options.short else "full",
        "machine": machine(),
        "versions": versions(options, program_names(options.peers)),
        "settings": {"seed": options.seed, "seconds": seconds, "peers": options.peers},
    }
    try:
        scenarios = [BY_NAME[name].lasting(seconds) if seconds else BY_NAME[name] for name in chosen]
        result["rows"] = [run_scenario(scenario, options) for scenario in scenarios]
    except Refusal as refusal:
        sys.exit(f"bench: refused: {refusal}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))
    print(f"written to {options.out}", file=sys.stderr)
    missed = [f"{row['scenario']}: {check['check']}" for row in result["rows"] for check in row["checks"] if check["met"] is False]
    if options.short and missed:
        sys.exit(f"bench: Stent missed {'; '.join(missed)}")


if __name__ == "__main__":
    main()
