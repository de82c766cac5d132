"""What one row is made of: the backend's faults, the requests, and the bounds that Stent must keep.

The backend and the load read the same value, so that a row is described once. What a fault does is in backend.py.
"""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Fault:
    """What one endpoint does wrong. `kind` names the function in backend.py, `share` the share of attempts it strikes."""

    kind: str = "none"
    share: float = 1.0
    statuses: tuple = (502,)
    # For faults that come and go: from `first` on, for `duration`, again every `period`; in seconds.
    first: float = 0.0
    period: float = 0.0
    duration: float = 0.0
    delay: float = 0.0  # seconds that a slow answer takes
    window: float = 0.0  # seconds that news of a closed connection is under way
    capacity: float = 0.0  # requests per second that an overloaded backend carries
    queue: float = 0.0  # seconds of work that it lets wait


@dataclass(frozen=True)
class Check:
    """A bound that Stent must keep; `good.failures` is a metric of the good requests alone.

    `of_nginx` makes it a multiple of what NGINX showed in the same run, `of_pass` an offset to what NGINX without retries
    showed.
    """

    metric: str
    relation: str
    bound: float
    of_nginx: bool = False
    of_pass: bool = False


@dataclass(frozen=True)
class Stream:
    """Requests of one kind: "bad" ones meet the row's `bad` fault, "good" ones only the faults of the endpoints."""

    kind: str
    paths: tuple  # each request takes one of them at random
    per_second: float = 0.0
    every: float = 0.0  # in place of `per_second`: seconds between two requests
    first: float = 0.2  # with `every`: when the first request is due
    post_share: float = 0.0
    callers: tuple = ()  # addresses for X-Forwarded-For, one at random for each request; none = no such header

    def times(self, seconds, chance):
        """When each request is due, in seconds."""
        at = self.first if self.every else chance.expovariate(self.per_second)
        while at < seconds:
            yield at
            at += self.every or chance.expovariate(self.per_second)


@dataclass(frozen=True)
class Scenario:
    name: str
    what: str
    faults: tuple
    checks: tuple
    post_share: float = 0.0
    put: bool = False
    phases: tuple = (125,)  # requests per second, in phases of equal length
    gaps: tuple = ()  # in place of `phases`: requests one by one, this many seconds apart, at least and at most
    streams: tuple = ()  # in place of both: several kinds of requests at once
    bad: Fault = Fault()  # what every endpoint does to bad requests, while its own fault does not strike
    body: int = 105  # of the answer
    upload: int = 0  # of the request
    chunked: bool = False
    validator: bool = False  # answers carry ETag and Accept-Ranges, and ranges are served
    per_try: float = 10.0  # seconds; the same for every proxy
    patience: float = 10.0  # seconds from when a request was due to when its user gives up
    seconds: float = 20.0
    shown: str = "failed"  # the share that the table shows
    # Keys beyond Stent's defaults and those of config/hosp.toml that stand in peers/stent.toml for every row.
    stent_keys: dict = field(default_factory=dict)
    columns: tuple = ("none", "nginx", "haproxy", "envoy", "envoy-tuned", "stent")

    @property
    def prefix(self):
        """Which cluster of each proxy's configuration takes the request."""
        return "two" if len(self.faults) == 2 else "one"

    def lasting(self, seconds):
        return replace(self, seconds=seconds)


def at_most(metric, bound):
    return Check(metric, "<=", bound)


def at_least(metric, bound):
    return Check(metric, ">=", bound)


NO_DUPLICATE = at_most("duplicates", 0)


def answer_body(length):
    """The body of an answer: any cut, repeat or wrong splice changes it."""
    line = b"%015d\n"
    return b"".join(line % number for number in range(length // 16 + 1))[:length]
