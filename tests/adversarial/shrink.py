#!/usr/bin/env python3
"""Makes cases.json of a larger one: shrink.py SOURCE > cases.json

What only informs a reader of the source is left out. A long `raw` becomes `raw_runs`, a list of [text, times, first]:
the text so many times, `{n}` in it standing for a number that counts from `first`.
"""

import json
import re
import sys

DROPPED = ("peers", "peers_meeting_expectation", "hyper_default_meets", "alb_desync_guardian")
LONG = 4096


def run_at(raw, start, unit):
    """How often the unit, its last number counting on, stands at `start`; the template; the first number."""
    numbers = list(re.finditer(r"\d+", unit))
    best = (0, 0, unit, 0)
    for digits in [None, *numbers[-2:]]:
        first = int(digits.group()) if digits else 0
        template = unit if digits is None else unit[: digits.start()] + "{n}" + unit[digits.end() :]
        if digits is not None and "{n}" in unit:
            continue
        # Every number in the unit that equals the first counts along with it.
        if digits is not None:
            template = re.sub(r"(?<!\d)%d(?!\d)" % first, "{n}", unit)
        times, at = 0, start
        while True:
            text = template.replace("{n}", str(first + times))
            if not raw.startswith(text, at):
                break
            at += len(text)
            times += 1
        if at - start > best[1]:
            best = (times, at - start, template, first)
    return best


def runs(raw):
    found, plain, at = [], "", 0
    while at < len(raw):
        best = (0, 0, "", 0)
        for length in range(1, 260):
            run = run_at(raw, at, raw[at : at + length])
            if run[0] > 8 and run[1] > best[1] + length:
                best = run
            if best[1] > 1000:
                break
        if best[1] > 200:
            if plain:
                found.append([plain, 1, 0])
            plain = ""
            found.append([best[2], best[0], best[3]])
            at += best[1]
        else:
            plain += raw[at]
            at += 1
    if plain:
        found.append([plain, 1, 0])
    whole = "".join(text.replace("{n}", str(first + i)) for text, times, first in found for i in range(times))
    assert whole == raw
    return found


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        cases = json.load(file)
    lines = []
    for case in cases:
        case = {key: value for key, value in case.items() if key not in DROPPED}
        if len(case["raw"]) > LONG:
            short = runs(case["raw"])
            if len(json.dumps(short)) < len(case["raw"]):
                case["raw_runs"] = short
                del case["raw"]
        lines.append(json.dumps(case, separators=(",", ":")))
    print("[\n" + ",\n".join(lines) + "\n]")


main()
