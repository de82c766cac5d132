#!/usr/bin/env python3
"""Counts the instructions that one request takes, through the whole proxy in memory, and holds them to what is recorded.

    bench/instructions.py                 fails where a request takes over 3 % more than bench/results/instructions.json says
    bench/instructions.py --record        writes what it takes now there instead: say in the commit why it rose
    bench/instructions.py --profile WORK  shows in which functions they are spent

One ledger holds what all optional features together may add to a small request that uses none of them: 400 instructions. They count
from the base of the file and the rules that no configuration turns off (`rules`: each with its instructions).

Needs valgrind, and builds what it runs. The figure is the difference of two runs of bench/instructions.rs, divided by the
difference of their requests, so that starting and connecting do not count. Caller,
backend and the memory in the place of sockets are part of it, about 4000 for a small request. The kernel is not, which takes
most of the time: that shows in bench/load.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import first_line

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "bench" / "results" / "instructions.json"
WORKS = {
    "small": "GET, 105 B answer",
    "large": "GET, 64 KiB answer",
    "upload": "PUT of 64 KiB, copy kept",
    "retried": "GET, 20 % answered 502 and retried",
    "watched": "GET, 105 B answer, where something has failed in the last ten minutes",
}
# Multiples of the requests between two looks at the log (64) and of the period of failures (5).
FEW, MANY = 320, 960
MAX_RISE = 0.03
# What a small request may take over the base, all features together.
MAX_ADDED = 400
# How far two builds of nearly the same code may lie apart, and two runs of one build.
NOISE, NOISE_OF_RUNS = 0.0025, 0.001


def build():
    """Builds the program with all that a release has, and says where it is."""
    command = ["cargo", "bench", "--locked", "--features", "bench", "--bench", "instructions", "--no-run"]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "instructions":
            return message["executable"]
    sys.exit("bench: cargo has built no program")


def callgrind(program, work, requests, out):
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", program, work, str(requests)]
    # The backtraces and levels of a developer's shell would be counted as well.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RUST")}
    # valgrind counts an instruction per byte where glibc copies by `rep movsb`: copies in place of sockets would be all there is.
    environment["GLIBC_TUNABLES"] = "glibc.cpu.x86_rep_movsb_threshold=1073741824"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not found:
        sys.exit(f"bench: {' '.join(command)} failed:\n{done.stderr}")
    return int(found.group(1))


def count(program, work, folder):
    few, many = (callgrind(program, work, requests, folder / f"{work}.{requests}") for requests in (FEW, MANY))
    return round((many - few) / (MANY - FEW))


def ledger(figures, kept, noise=NOISE):
    """What is wrong with the ledger. While it is overdrawn, nothing more may be added to it."""
    base = kept["base"] + sum(kept["rules"].values())
    added, before = (work["small"] - base for work in (figures, kept["instructions_per_request"]))
    print(f"ledger of a small request: {added:+} of {MAX_ADDED:+} over the base and rules, {base}; {before:+} as recorded")
    if added <= MAX_ADDED or figures["small"] <= kept["instructions_per_request"]["small"] * (1 + noise):
        return []
    return [f"the ledger is overdrawn: a small request takes {added} instructions over its base, and {MAX_ADDED} are for all features"]


def record(figures):
    kept = json.loads(RECORDED.read_text())
    if wrong := ledger(figures, kept, NOISE_OF_RUNS):
        sys.exit(f"bench: {wrong[0]}. Win some back first.")
    told = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rustc": first_line("rustc", "--version"),
        "valgrind": first_line("valgrind", "--version"),
        "base": kept["base"],
        "rules": kept["rules"],
        "instructions_per_request": figures,
    }
    RECORDED.write_text(json.dumps(told, indent=1) + "\n")
    print(f"recorded in {RECORDED.relative_to(ROOT)}")


def check(figures):
    kept = json.loads(RECORDED.read_text())
    recorded = kept["instructions_per_request"]
    risen = []
    print(f"| instructions per request | recorded | now | change |\n|{'---|' * 4}")
    for work, now in figures.items():
        before = recorded.get(work)
        if before is None:
            risen.append(f"{work} is not recorded")
            continue
        change = now / before - 1
        print(f"| {WORKS[work]} | {before} | {now} | {change:+.1%} |")
        if change > MAX_RISE:
            risen.append(f"{work} takes {now} instructions, {change:.1%} more than the {before} that are recorded")
    risen += ledger(figures, kept)
    if risen:
        sys.exit(
            f"bench: {'; '.join(risen)}. {MAX_RISE:.0%} over what is recorded would pass, if the ledger is not overdrawn.\n"
            "Where they go: bench/instructions.py --profile WORK, here and on the commit before.\n"
            "If the change is worth it: bench/instructions.py --record, and say why in the commit."
        )


def main():
    parser = argparse.ArgumentParser()
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--record", action="store_true")
    chosen.add_argument("--profile", choices=WORKS)
    options = parser.parse_args()
    program = build()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if options.profile:
            count(program, options.profile, folder)
            subprocess.run(["callgrind_annotate", "--threshold=95", folder / f"{options.profile}.{MANY}"], check=True)
            return
        figures = {work: count(program, work, folder) for work in WORKS}
    record(figures) if options.record else check(figures)


if __name__ == "__main__":
    main()
