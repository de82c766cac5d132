"""What backend.py and load.py share: chance by seed, and how late their event loop runs."""

import asyncio
import hashlib
import math


def chance(*parts):
    """A number in [0, 1) that depends on nothing but its arguments: every proxy meets the same fate."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def percentile(values, share):
    """The smallest value that at least `share` of the values do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


class Lag:
    """How much later than asked for a timer fires: the time that this program itself adds, or was not let run."""

    STEP = 0.02

    def __init__(self):
        self.values = []
        self.loop = asyncio.get_running_loop()
        self.tick(self.loop.time())

    def tick(self, due):
        now = self.loop.time()
        self.values.append(now - due)
        self.loop.call_at(now + self.STEP, self.tick, now + self.STEP)

    def report(self):
        return {"p99_ms": round(percentile(self.values, 0.99) * 1000, 2), "max_ms": round(max(self.values) * 1000, 2)}
