"""The rows of harm: some requests fail or are slow, and the users of the others must not fare worse for a proxy that retries.

Each row runs Stent beside NGINX without retries. A good request may fail or wait through Stent only where it does through
NGINX as well.
"""

import random

from scenario import NO_DUPLICATE, Check, Fault, Scenario, Stream, at_most

# Words without digits, so that no proxy takes two of them for one.
PAGES = tuple(
    f"{section}/{page}"
    for section in ("wards", "visits")
    for page in ("today", "north", "south", "surgery", "oncology", "people", "notes", "labs", "rooms", "summary")
)
WORDS = tuple("".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=8)) for number in range(1000))
# Addresses for documentation (RFC 5737). The callers share connections, as behind a load balancer.
CALLERS = tuple(f"192.0.2.{number}" for number in range(1, 41))
BAD_PATH = ("reports/yearly",)
ALWAYS_500 = Fault("status", statuses=(500,))
ALWAYS_RESET = Fault("reset")
NOTHING = Fault()


def good(per_second=20.0, **more):
    return Stream("good", **{"paths": PAGES, "per_second": per_second, "post_share": 0.1, "callers": CALLERS} | more)


def bad(per_second, paths=BAD_PATH, **more):
    return Stream("bad", paths, per_second, **{"callers": CALLERS} | more)


def of_pass(metric, offset=0):
    return Check(metric, "<=", offset, of_pass=True)


NO_MORE_FAILURES = (of_pass("good.failures"), NO_DUPLICATE)
BYSTANDERS = (
    *NO_MORE_FAILURES,
    of_pass("good.settled_p99_ms", 1),
    # A POST that meets an outage declared by mistake leaves the first try to others for 1 s; 20 ms are the machine's.
    of_pass("good.max_ms", 1020),
)


def row(name, what, streams, endpoints=1, checks=BYSTANDERS, fault=NOTHING, **more):
    # The patience of NGINX's users, who get its 504 after 60 s: what the proxy says itself is seen.
    values = {"patience": 60.0, "shown": "good.failed", "columns": ("pass", "stent")} | more
    if any(stream.kind == "bad" for stream in streams):
        checks = (*checks, of_pass("bad.failures"))
    return Scenario(f"harm-{name}", what, (fault,) * endpoints, checks, streams=streams, **values)


HARM = [
    row("healthy", "a backend that does nothing wrong", (good(),)),
    *(
        row(
            f"path-{rate}{suffix}", f"one path always answers 500, {rate}/s{more}",
            (good(), bad(rate)), endpoints, bad=ALWAYS_500,
        )
        for suffix, endpoints, more in (("", 1, ""), ("-two", 2, " at both of two endpoints"))
        for rate in (20, 40, 200)
    ),
    row(
        "sibling", "one path among those of the others always answers 500, 40/s",
        (good(), bad(40, ("wards/west",))), bad=ALWAYS_500,
    ),
    row(
        "lone", "one path always answers 500, 40/s; one good request per second",
        (good(1.0), bad(40)), bad=ALWAYS_500, seconds=30.0,
    ),
    row("reset", "one path always resets the connection, 40/s", (good(), bad(40)), bad=ALWAYS_RESET),
    row(
        "reset-two", "one path always resets the connection at both of two endpoints, 40/s",
        (good(), bad(40)), 2, bad=ALWAYS_RESET,
    ),
    row(
        "words", "1000 paths below one always answer 500, 100/s",
        (good(), bad(100, tuple(f"reports/{word}" for word in WORDS))), bad=ALWAYS_500,
    ),
    row(
        "words-two", "1000 paths below one always answer 500 at both of two endpoints, 100/s",
        (good(), bad(100, tuple(f"reports/{word}" for word in WORDS))), 2, bad=ALWAYS_500,
    ),
    row("root", "1000 paths at the root always answer 500, 40/s", (good(), bad(40, WORDS)), bad=ALWAYS_500),
    row(
        "caller", "one caller always gets 500, 40/s, on the paths of all",
        (good(), bad(40, PAGES, callers=("198.51.100.99",))), bad=ALWAYS_500,
    ),
    row(
        "post", "one path always answers 500, 200/s; good POSTs alone, 5/s",
        (good(5.0, post_share=1.0), bad(200)), bad=ALWAYS_500,
        # A false outage may hold a POST for 1 s, so there is no bound on their p99.
        checks=(*NO_MORE_FAILURES, of_pass("good.max_ms", 1020)),
    ),
    row(
        "slow", "one path takes 12 s, 0.5/s",
        (good(15.0), bad(0.5, ("reports/slow",))), bad=Fault("slow", delay=12.0), seconds=40.0,
        checks=(*BYSTANDERS, of_pass("bad.max_ms", 20), at_most("bad.most_attempts", 2)),
    ),
    row(
        "outage-status", "one path always answers 500, 40/s; then all paths answer 502 for 2 s",
        (good(), bad(40)), bad=ALWAYS_500, fault=Fault("status", first=12.0, period=1000.0, duration=2.0),
        checks=NO_MORE_FAILURES,
    ),
    row(
        "outage-refuse", "one path always answers 500, 40/s; then connections are refused for 2 s",
        (good(), bad(40)), bad=ALWAYS_500, fault=Fault("refuse", first=12.0, period=1000.0, duration=2.0),
        checks=(*NO_MORE_FAILURES, at_most("good.failures", 0)),
    ),
    # By the backend's clock, which begins with the first request, one request meets the first outage (at 9 s) and two the
    # second (at 21 and 24 s).
    row(
        "quiet-refuse", "one request every 3 s; connections are refused for 4 s, twice",
        (good(every=3.0, post_share=0.0),), fault=Fault("refuse", first=7.5, period=13.0, duration=4.0), seconds=32.0,
        checks=(at_most("good.failures", 0),),
    ),
    # The request that finds an outage has no attempt left when it ends; the others wait.
    row(
        "quiet-status", "one request every 3 s; all paths answer 502 for 4 s, twice",
        (good(every=3.0, post_share=0.0),), fault=Fault("status", first=7.5, period=13.0, duration=4.0), seconds=32.0,
        checks=(of_pass("good.failures"), at_most("good.failures", 2)),
    ),
    row(
        "partial", "half of the paths answer 502 for 400 ms every 8 s",
        (good(60.0, paths=PAGES[0::2]), bad(60.0, PAGES[1::2], post_share=0.1)),
        bad=Fault("status", first=3.0, period=8.0, duration=0.4), seconds=40.0,
    ),
]
