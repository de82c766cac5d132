#!/usr/bin/env bash
# Measures the CPU that Stent spends per request, beside NGINX doing the same work in the same run.
#
#   bench/load/run.sh [ROUNDS] [SECONDS]      NGINX against Stent; the result goes to bench/results/
#   bench/load/run.sh --self-test ...         NGINX against NGINX, which shows the noise of this machine
#   bench/load/run.sh --out FILE ...          writes the result elsewhere
#
# STENT names a binary to measure; without it the release build is made first. How to read the result stands in
# bench/results/README.md. The configurations of both proxies stand below, in full.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0"; }
fail() {
    echo "bench: $*" >&2
    exit 1
}

mode=compare out=''
while [[ ${1:-} == -* ]]; do
    case $1 in
        --self-test) mode=self-test ;;
        --out)
            out=${2:?--out needs a file}
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown option $1" ;;
    esac
    shift
done
rounds=${1:-5} seconds=${2:-10}
for tool in nginx wrk python3 taskset curl; do
    command -v "$tool" >/dev/null || fail "$tool is not installed (on Debian: apt-get install nginx wrk python3 util-linux curl)"
done

# The first two cores that this process may use: one for the proxy under test, one for the load and the backend.
read -r proxy_core load_core < <(python3 -c 'import os; print(*(sorted(os.sched_getaffinity(0)) + ["", ""])[:2])') || true
[[ -n $load_core ]] || fail "two cores are needed, one for the proxy under test and one for everything else"

if [[ $mode == compare ]]; then
    [[ -n ${STENT:-} ]] || cargo build --release --locked
    stent=$(realpath "${STENT:-${CARGO_TARGET_DIR:-target}/release/stent}")
fi

work=$PWD/bench/load/work
rm -rf "$work"
mkdir -p "$work/files"
# NGINX's workers take another user when the master runs as root; they must reach the files.
chmod 755 "$work" "$work/files"

pids=()
stop_everything() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
}
trap stop_everything EXIT
trap 'exit 130' INT TERM

read -r backend_a backend_b status port_a port_b admin < <(python3 bench/load/free_ports.py 6)

# What every NGINX here starts with. The master runs in the foreground, so that its process id is ours to end.
nginx_head() { # NAME CORE
    cat <<CONF
daemon off;
user $(id -un);
worker_processes 1;
pid $work/$1.pid;
error_log $work/$1.error.log warn;
events { worker_connections 4096; }
CONF
}

start_nginx() { # NAME CORE
    taskset -c "$2" nginx -e "$work/$1.error.log" -p "$work" -c "$work/$1.conf" &
    pids+=($!)
}

# The backend. Which requests fail is decided by their id, which stays the same over the attempts at one request: of
# all ids, 20 % fail at the first address and another 20 % at the second. So a fifth of all first attempts gets a 502
# wherever the proxy begins, and every attempt after it succeeds at the other address.
body=$(printf '%.0sx' {1..104})
head -c 65536 /dev/zero | tr '\0' x >"$work/files/large"
backend_server() { # PORT FAILING_CLASS
    cat <<CONF
    server {
        listen 127.0.0.1:$1 backlog=4096;
        default_type text/plain;
        location = /small { return 200 "$body\n"; }
        location = /large { alias $work/files/large; }
        location = /large-buffered { alias $work/files/large; }
        location = /retried {
            if (\$failing = $2) { return 502 "failing\n"; }
            return 200 "$body\n";
        }
    }
CONF
}
{
    nginx_head backend
    cat <<CONF
http {
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    open_file_cache max=16;
    client_body_temp_path $work/backend.body;
    proxy_temp_path $work/backend.proxy;
    fastcgi_temp_path $work/backend.fastcgi;
    uwsgi_temp_path $work/backend.uwsgi;
    scgi_temp_path $work/backend.scgi;
    split_clients \$http_x_request_id \$failing { 20% a; 20% b; * none; }
    server { listen 127.0.0.1:$status; location = /status { stub_status; } }
$(backend_server "$backend_a" a)
$(backend_server "$backend_b" b)
}
CONF
} >"$work/backend.conf"

# NGINX under test: what Debian's package gives, set up to do what Stent does. Its log lines carry what Stent's carry,
# and go out in blocks as Stent's do. `max_fails=0` because a server that NGINX takes for dead could not be tried.
nginx_proxy() { # NAME PORT
    nginx_head "$1"
    cat <<CONF
http {
    log_format line escape=json
        '{"time":"\$time_iso8601","msec":\$msec,"id":"\$request_id","client":"\$remote_addr","method":"\$request_method",'
        '"host":"\$host","path":"\$uri","query":"\$args","route":"\$route","cluster":"\$proxy_host",'
        '"status":\$status,"bytes_in":\$request_length,"bytes_out":\$body_bytes_sent,"duration":\$request_time,'
        '"time_to_head":"\$upstream_header_time","user_agent":"\$http_user_agent","endpoints":"\$upstream_addr",'
        '"statuses":"\$upstream_status","connect_times":"\$upstream_connect_time","durations":"\$upstream_response_time"}';
    access_log $work/$1.access.log line buffer=64k flush=1s;
    keepalive_requests 1000000000;
    client_body_temp_path $work/$1.body;
    proxy_temp_path $work/$1.proxy;
    fastcgi_temp_path $work/$1.fastcgi;
    uwsgi_temp_path $work/$1.uwsgi;
    scgi_temp_path $work/$1.scgi;
    upstream one {
        server 127.0.0.1:$backend_a max_fails=0;
        keepalive 256;
        keepalive_requests 1000000000;
    }
    upstream two {
        server 127.0.0.1:$backend_a max_fails=0;
        server 127.0.0.1:$backend_b max_fails=0;
        keepalive 256;
        keepalive_requests 1000000000;
    }
    server {
        listen 127.0.0.1:$2 backlog=4096;
        set \$route everything;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host \$http_host;
        proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
        proxy_next_upstream error timeout http_500 http_502;
        location / { proxy_pass http://one; }
        # Its default buffers hold half of this answer. With room for all of it NGINX does far better.
        location = /large-buffered { proxy_buffers 32 8k; proxy_pass http://one; }
        location = /retried {
            set \$route retried;
            # Restated, because a location with a header of its own inherits none. The id is what the backend fails by.
            proxy_set_header Connection "";
            proxy_set_header Host \$http_host;
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
            proxy_set_header X-Request-Id \$request_id;
            proxy_pass http://two;
        }
    }
}
CONF
}

# Stent under test. The budget is opened and ejection shut so that a fifth of failures is retried for as long as the
# round lasts, as NGINX retries it; the wait before a retry is the shortest there is, because NGINX does not wait.
stent_proxy() {
    cat <<CONF
[server]
workers = 1
accept_grace = "0s"
finish_grace = "2s"

[admin]
address = "127.0.0.1:$admin"

[access_log]
output = "$work/stent.access.log"

[[listener]]
address = "127.0.0.1:$port_b"

[cluster.one]
endpoints = ["http://127.0.0.1:$backend_a"]

[cluster.two]
endpoints = ["http://127.0.0.1:$backend_a", "http://127.0.0.1:$backend_b"]
[cluster.two.retry]
backoff = { base = "1ms", factor = 1.0, max = "1ms", jitter = "none" }
budget = { ratio = 1.0 }
[cluster.two.ejection]
max_ejected = 0.0

[[route]]
name = "everything"
path = "/*"
cluster = "one"

[[route]]
name = "retried"
path = "/retried"
cluster = "two"
CONF
}

start_nginx backend "$load_core"
nginx_proxy nginx "$port_a" >"$work/nginx.conf"
start_nginx nginx "$proxy_core"
subjects=("nginx:${pids[-1]}:$port_a:$work/nginx.access.log")
if [[ $mode == self-test ]]; then
    nginx_proxy nginx-again "$port_b" >"$work/nginx-again.conf"
    start_nginx nginx-again "$proxy_core"
    subjects+=("nginx-again:${pids[-1]}:$port_b:$work/nginx-again.access.log")
else
    stent_proxy >"$work/stent.toml"
    "$stent" check "$work/stent.toml" >"$work/stent.check.log" 2>&1 || {
        cat "$work/stent.check.log" >&2
        fail "stent refuses the configuration of the bench"
    }
    taskset -c "$proxy_core" "$stent" run "$work/stent.toml" 2>"$work/stent.log" &
    pids+=($!)
    subjects+=("stent:${pids[-1]}:$port_b:$work/stent.access.log")
fi

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
# The results themselves are untracked when they are new, and change nothing of what is measured.
[[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=-dirty
if [[ -z $out ]]; then
    out=bench/results/$(date -u +%F)-$commit.json
    [[ $mode == compare ]] || out=$work/self-test.json
fi

taskset -c "$load_core" python3 bench/load/measure.py \
    --mode "$mode" --rounds "$rounds" --seconds "$seconds" --load-core "$load_core" --commit "$commit" \
    --status "http://127.0.0.1:$status/status" --out "$out" "${subjects[@]}"
