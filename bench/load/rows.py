"""What is measured: the rows of the table, and what Stent must show in each."""

from dataclasses import dataclass, field

COLUMNS = {
    "nginx": "NGINX",
    "haproxy": "HAProxy",
    "tcp": "HAProxy, TCP only",
    "envoy": "Envoy",
    "stent": "Stent",
    "nginx-again": "NGINX again",
    "stent-2": "Stent, two workers",
}
SMALL, LARGE, HUGE = 105, 64 << 10, 1 << 20
ALL = ("nginx", "haproxy", "tcp", "envoy", "stent")
# HAProxy without HTTP has no TLS, no HTTP/2 and no retry.
HTTP = tuple(name for name in ALL if name != "tcp")


@dataclass(frozen=True)
class Row:
    """One kind of work. `kind` says which load does it and what is read: see measure.py."""

    name: str
    what: str
    kind: str
    path: str = "/small"
    # The length of the answer's body.
    length: int = SMALL
    connections: int = 64
    # The length of the request's body.
    body: int = 0
    # How many requests the backend's counter rises by for each request.
    backend_requests: float = 1.0
    peers: tuple = ALL
    # The most that Stent's figure may be of a peer's, or as such.
    targets: dict = field(default_factory=dict)
    most: float | None = None

    @property
    def is_tls(self):
        return self.kind in ("tls", "h2", "handshake", "resume", "idle-tls")


ROWS = [
    Row("small-1", "105 B, 1 connection", "wrk", connections=1),
    Row("small", "105 B, 64 connections", "wrk", targets={"nginx": 0.90, "haproxy": 0.90, "tcp": 1.15}),
    Row("small-512", "105 B, 512 connections", "wrk", connections=512),
    Row("large", "64 KiB answer, NGINX's buffers at their default", "wrk", "/large", LARGE, targets={"nginx": 0.60, "haproxy": 1.00}),
    Row("large-buffered", "64 KiB answer, NGINX's buffers enlarged to hold it", "wrk", "/large-buffered", LARGE, peers=("nginx", "stent")),
    Row("huge", "1 MiB answer", "wrk", "/huge", HUGE, connections=16, targets={"nginx": 0.45, "haproxy": 0.75}),
    # The backend's own way to read a body is a request to itself.
    Row("upload", "64 KiB request body, its copy kept", "wrk", "/upload", body=LARGE, backend_requests=2.0, targets={"nginx": 0.40, "haproxy": 1.00}),
    Row("upload-huge", "1 MiB request body, its copy kept", "wrk", "/upload", body=HUGE, connections=16, backend_requests=2.0, targets={"nginx": 0.20, "haproxy": 1.00}),
    Row("retried", "105 B, 20 % of first attempts answered 502 and retried", "wrk-ids", "/retried", backend_requests=1.2, peers=HTTP, targets={"nginx": 0.90, "haproxy": 0.90}),
    Row("tls", "TLS 1.3, 105 B, 64 connections", "tls", peers=HTTP, targets={"nginx": 0.90, "haproxy": 0.90}),
    Row("h2", "HTTP/2 over TLS, 105 B, 8 connections of 10 streams", "h2", connections=8, peers=HTTP, targets={"nginx": 0.80, "haproxy": 1.05}),
    Row("tls-full", "full TLS 1.3 handshake, P-256, with one request", "handshake", connections=4, peers=HTTP, targets={"nginx": 0.55, "haproxy": 0.60}),
    Row("tls-resumed", "resumed TLS 1.3 handshake, with one request", "resume", connections=4, peers=HTTP),
    Row("idle", "idle connection, KiB of RSS", "idle", connections=1000, most=6.0),
    Row("idle-tls", "idle connection over TLS, KiB of RSS", "idle-tls", connections=1000, peers=HTTP, most=14.0),
    Row("downloads", "16 downloads of 1 MiB at once, MiB of RSS above idle", "downloads", "/huge", HUGE, connections=16, most=16.0),
    Row("latency", "latency at half the peak", "latency"),
    Row("scale", "105 B, 64 connections, two workers against one", "scale", peers=("stent",), most=1.05),
]
BY_NAME = {row.name: row for row in ROWS}
MEMORY = ("idle", "idle-tls", "downloads")
# What --short runs, and the most that Stent may be of NGINX there: that bench and binary work on a busy machine, not how
# well they do.
SHORT = ("small", "upload", "retried", "h2", "tls-resumed", "downloads")
SHORT_RATIO = 3.0
