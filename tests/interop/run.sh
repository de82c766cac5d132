#!/usr/bin/env bash
# Real clients (curl, wrk, promtool) through Stent to a real backend (NGINX), one line per check.
#
#   tests/interop/run.sh [STENT]      STENT is a binary; target/release/stent without it
#
# Ends with "N passed, N failed", and exits with 1 if a check failed.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2

for tool in nginx curl wrk promtool python3 sha256sum; do
    command -v "$tool" >/dev/null || {
        echo "interop: $tool is not installed (on Debian: apt-get install nginx curl wrk prometheus python3)" >&2
        exit 2
    }
done
. tests/interop/lib.sh

read -r backend port admin < <(python3 bench/load/free_ports.py 3)
front=http://127.0.0.1:$port
metrics=http://127.0.0.1:$admin/metrics

# --- The backend -----------------------------------------------------------------------------------------------------

mkdir -p "$work/site" "$work/site/uploads"
head -c 10485760 /dev/urandom >"$work/site/large"
seq 1 20000 >"$work/site/text.txt"
seq 1 300000 >"$work/site/long.txt"
chmod 777 "$work/site/uploads"
cat >"$work/nginx.conf" <<CONF
daemon off;
master_process off;
user $(id -un);
pid $work/nginx.pid;
error_log $work/nginx.error.log;
events { worker_connections 1024; }
http {
    access_log off;
    default_type application/octet-stream;
    types { text/plain txt; }
    client_max_body_size 0;
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    server {
        listen 127.0.0.1:$backend;
        root $work/site;

        location = /small { return 200 "small\n"; }
        # Compressed on the fly, so the length is not known beforehand and NGINX answers in chunks.
        location ~ ^/(text|long)[.]txt$ { gzip on; gzip_types text/plain; gzip_proxied any; }
        location /uploads/ { dav_methods PUT; }
        # What arrived, as NGINX saw it. A body can only be echoed through a second hop, in a header.
        location = /who { return 200 "\$request_method|\$http_host|\$http_x_forwarded_for|\$http_via|\$http_x_stent_attempt|\$http_x_request_id\n"; }
        location = /framing { return 200 "length=\$http_content_length encoding=\$http_transfer_encoding\n"; }
        location = /echo {
            client_body_buffer_size 64k;
            proxy_set_header X-Body \$request_body;
            proxy_pass http://127.0.0.1:$backend/echo-body;
        }
        location = /echo-body { return 200 "\$http_x_body"; }
        # Fails until Stent says that it tries again.
        location = /flaky { if (\$http_x_stent_attempt = "") { return 502 "first attempt\n"; } return 200 "attempt \$http_x_stent_attempt\n"; }
        location = /broken { return 500 "the backend's own words\n"; }
        location = /slow { limit_rate 3m; alias $work/site/large; }
        location = /read-only { return 200 "read\n"; }
    }
}
CONF
nginx -e "$work/nginx.error.log" -p "$work" -c "$work/nginx.conf" &
pids+=($!)

# --- Stent -----------------------------------------------------------------------------------------------------------

config=$work/stent.toml
cat >"$config" <<CONF
[server]
workers = 2
accept_grace = "2s"
finish_grace = "30s"

[admin]
address = "127.0.0.1:$admin"

[access_log]
output = "$work/access.log"

[[listener]]
address = "127.0.0.1:$port"

[cluster.nginx]
endpoints = ["http://127.0.0.1:$backend"]

[[route]]
name = "files"
host = "127.0.0.1"
path = "/*"
cluster = "nginx"
max_body = "64MiB"

[[route]]
name = "read-only"
host = "methods.example"
path = "/read-only"
methods = ["GET"]
cluster = "nginx"
CONF
"$stent" run "$config" 2>"$work/stent.log" &
stent_pid=$!
pids+=("$stent_pid")

# --- Checks ----------------------------------------------------------------------------------------------------------

metric() { ask "$metrics" | awk -v name="$1" '$1 == name { print $2; found = 1 } END { exit !found }'; }

get_head_agree() {
    ask --dump-header "$work/get" --output /dev/null "$front/large" || return 1
    ask --head "$front/large" >"$work/head" || return 1
    is "$(grep -i '^content-length' "$work/get")" "$(grep -i '^content-length' "$work/head")"
}
http_1_0_gets_no_chunks() {
    ask --http1.0 --header 'Accept-Encoding: gzip' --dump-header "$work/head" --output "$work/body.gz" "$front/text.txt" || return 1
    ! grep -i '^transfer-encoding' "$work/head" || return 1
    gunzip <"$work/body.gz" >"$work/body.txt" && same_file "$work/site/text.txt" "$work/body.txt"
}
http_1_1_gets_chunks() {
    ask --compressed --dump-header "$work/head" --output "$work/body.txt" "$front/long.txt" || return 1
    grep -qi '^transfer-encoding: chunked' "$work/head" && same_file "$work/site/long.txt" "$work/body.txt"
}
held_answer_gets_its_length() {
    ask --compressed --dump-header "$work/head" --output "$work/body.txt" "$front/text.txt" || return 1
    ! grep -i '^transfer-encoding' "$work/head" || return 1
    grep -qi '^content-length: ' "$work/head" && same_file "$work/site/text.txt" "$work/body.txt"
}
one_connection_carries_two_requests() {
    is '1 0' "$(ask --output /dev/null --output /dev/null --write-out '%{num_connects} ' "$front/small" "$front/small" | xargs)"
}
large_download_is_whole() { ask --output "$work/down" "$front/large" && same_file "$work/site/large" "$work/down"; }
upload_is_whole() { # NAME CURL-ARGUMENTS...
    local name=$1
    shift
    status_is 201 --upload-file "$work/site/large" "$@" "$front/uploads/$name" && same_file "$work/site/large" "$work/site/uploads/$name"
}
range_is_the_part() {
    is 206 "$(ask --range 1000-1999 --output "$work/part" --write-out '%{http_code}' "$front/large")" || return 1
    tail -c +1001 "$work/site/large" | head -c 1000 >"$work/expected"
    same_file "$work/expected" "$work/part"
}
expect_is_continued() {
    # curl asks and waits; without an answer it would send the body only after 20 seconds.
    ask --verbose --max-time 10 --expect100-timeout 20 --header 'Expect: 100-continue' \
        --upload-file "$work/site/text.txt" "$front/uploads/expected" 2>"$work/verbose" || return 1
    grep -q '^< HTTP/1.1 100' "$work/verbose" && same_file "$work/site/text.txt" "$work/site/uploads/expected"
}
backend_sees_who_asks() {
    local method host forwarded via attempt id
    IFS='|' read -r method host forwarded via attempt id < <(ask --header 'X-Stent-Attempt: 7' --header 'X-Forwarded-For: 203.0.113.9' "$front/who")
    is "GET 127.0.0.1:$port" "$method $host" || return 1
    # This caller is no trusted proxy, so what it says about its address is replaced.
    is 127.0.0.1 "$forwarded" || return 1
    [[ -n $via ]] || { echo "no Via"; return 1; }
    is '' "$attempt" || return 1
    [[ -n $id ]] || { echo "no X-Request-Id"; return 1; }
}
retry_is_seen() {
    local before after
    before=$(metric 'stent_retries_total{reason="502",route="files"}') || before=0
    answer_is 'attempt 2' "$front/flaky" || return 1
    after=$(metric 'stent_retries_total{reason="502",route="files"}') || after=0
    is "$((before + 1))" "$after" || return 1
    metric 'stent_retry_recovered_total{route="files"}'
}
post_is_sent_once() {
    local before after
    before=$(metric 'stent_retries_total{reason="502",route="files"}') || before=0
    is 'first attempt 502' "$(ask --data x --write-out '%{http_code}' "$front/flaky" | xargs)" || return 1
    after=$(metric 'stent_retries_total{reason="502",route="files"}') || after=0
    is "$before" "$after"
}
last_answer_is_the_backends() {
    is "the backend's own words 500" "$(ask --write-out '%{http_code}' "$front/broken" | tr '\n' ' ')"
}
wrong_method_names_the_right_ones() {
    is 405 "$(ask --request POST --dump-header "$work/head" --output /dev/null --write-out '%{http_code}' --header 'Host: methods.example' "$front/read-only")" || return 1
    is 'allow: get, head' "$(grep -i '^allow:' "$work/head" | tr 'A-Z\r' 'a-z ' | xargs)"
}
two_requests_at_once_are_answered_in_order() {
    python3 - "$port" <<'PYTHON'
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as connection:
    head = "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n"
    connection.sendall((head % ("/small", "") + head % ("/read-only", "Connection: close\r\n")).encode())
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
assert answer.count(b"HTTP/1.1 200") == 2, answer
assert 0 < answer.find(b"small") < answer.find(b"read\n"), answer
PYTHON
}
wrk_sees_no_error() {
    wrk --threads 1 --connections 32 --duration 3s --script bench/load/done.lua "$front/small" >"$work/wrk" || return 1
    cat "$work/wrk"
    python3 - "$work/wrk" <<'PYTHON'
import json, sys
line = next(line for line in open(sys.argv[1]) if line.startswith("JSON "))
report = json.loads(line.removeprefix("JSON "))
assert report["requests"] > 0 and not any(report["errors"].values()), report
PYTHON
}
bad_configuration_is_kept_out() {
    cp "$config" "$work/good.toml"
    echo 'nonsense = true' >>"$config"
    kill -HUP "$stent_pid"
    within 50 metric_is 'stent_config_last_reload_successful' 0 || return 1
    status_is 200 "$front/small"
}
good_configuration_is_taken() {
    cp "$work/good.toml" "$config"
    kill -HUP "$stent_pid"
    within 50 metric_is 'stent_config_last_reload_successful' 1 || return 1
    status_is 200 "$front/small"
}
metric_is() { [[ $(metric "$1") == "$2" ]]; }
not_ready() { [[ $(status_of "http://127.0.0.1:$admin/readyz") == 503 ]]; }
sigterm_finishes_what_runs() {
    ask --output "$work/slow" "$front/slow" &
    local download=$! code=0
    within 50 test -s "$work/slow" || return 1
    kill -TERM "$stent_pid"
    within 50 not_ready || { echo "still ready after SIGTERM"; return 1; }
    wait "$download" || { echo "the download broke off"; return 1; }
    same_file "$work/site/large" "$work/slow" || return 1
    wait "$stent_pid" || code=$?
    is 0 "$code"
}
access_log_is_whole() {
    python3 - "$work/access.log" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
assert any("interop-marked" in map(str, line.values()) for line in lines), "a marked request is missing"
assert any("/slow" in map(str, line.values()) for line in lines), "the exchange that ran at SIGTERM is missing"
print(len(lines), "lines")
PYTHON
}

if ! within 100 curl --silent --fail --output /dev/null "http://127.0.0.1:$admin/readyz"; then
    echo "not ok - stent becomes ready"
    sed 's/^/    /' "$work/stent.log" | tail -20
    echo "0 passed, 1 failed"
    exit 1
fi
within 100 curl --silent --output /dev/null "http://127.0.0.1:$backend/small" || {
    cat "$work/nginx.error.log"
    echo "interop: the backend does not answer" >&2
    exit 2
}

check 'livez answers 200' status_is 200 "http://127.0.0.1:$admin/livez"
check 'readyz answers 200' status_is 200 "http://127.0.0.1:$admin/readyz"
check 'GET brings the answer' answer_is small "$front/small"
check 'HEAD agrees with GET and has no body' get_head_agree
check 'POST with a length brings its body' answer_is 'a body' --data 'a body' "$front/echo"
check 'POST in chunks brings its body' answer_is 'a body' --data 'a body' --header 'Transfer-Encoding: chunked' "$front/echo"
check 'a length stays a length' answer_is 'length=6 encoding=' --data 'a body' "$front/framing"
check 'chunks stay chunks' answer_is 'length= encoding=chunked' --data 'a body' --header 'Transfer-Encoding: chunked' "$front/framing"
check 'an empty POST is sent with its length' answer_is 'length=0 encoding=' --data '' "$front/framing"
check 'PUT with a length stores 10 MiB' upload_is_whole with-length
check 'PUT in chunks stores 10 MiB' upload_is_whole in-chunks --header 'Transfer-Encoding: chunked'
check 'DELETE that the backend refuses is refused' status_is 405 --request DELETE "$front/text.txt"
check 'a caller of HTTP/1.0 gets no chunks' http_1_0_gets_no_chunks
check 'a caller of HTTP/1.1 gets a large answer in chunks' http_1_1_gets_chunks
check 'a small answer that came in chunks has its length' held_answer_gets_its_length
check 'one connection carries two requests' one_connection_carries_two_requests
check 'two requests at once are answered in order' two_requests_at_once_are_answered_in_order
check 'a download of 10 MiB is whole' large_download_is_whole
check 'a range is that part' range_is_the_part
check 'Expect: 100-continue is answered' expect_is_continued
check 'the backend sees who asks' backend_sees_who_asks
check 'a request id is kept' is "interop-marked" "$(ask --header 'X-Request-Id: interop-marked' "$front/who" | cut -d'|' -f6)"
check 'a 502 is retried and hidden' retry_is_seen
check 'a POST is sent once' post_is_sent_once
check 'the last answer is the backend'"'"'s, unchanged' last_answer_is_the_backends
check 'an unknown host answers 404' status_is 404 --header 'Host: unknown.example' "$front/small"
check 'a wrong method names the right ones' wrong_method_names_the_right_ones
check 'wrk sees no error in 3 seconds' wrk_sees_no_error
ask "$metrics" >"$work/metrics"
check 'promtool accepts the metrics' promtool check metrics <"$work/metrics"
check 'a bad configuration is kept out' bad_configuration_is_kept_out
check 'a good configuration is taken' good_configuration_is_taken
check 'SIGTERM finishes what runs and exits with 0' sigterm_finishes_what_runs
check 'the access log holds every line' access_log_is_whole

conclude
