#!/usr/bin/env bash
# TLS, HTTP/2, gRPC, WebSocket and the PROXY protocol between real clients, Stent and real backends, one line per check:
# openssl, curl, h2load, grpcio, websockets and HAProxy in front; NGINX, nghttpd, grpcio and websockets behind.
#
#   tests/interop/protocols.sh [STENT]      STENT is a binary; target/release/stent without it
#
# Ends with "N passed, N failed", and exits with 1 if a check failed.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
. tests/interop/lib.sh
need nginx curl openssl python3 h2load:nghttp2-client nghttpd:nghttp2-server haproxy sha256sum:coreutils
python=$(python_with_packages) || exit 2

read -r plain secure mutual balanced balancer admin nginx_tls nghttpd grpc websocket < <(python3 bench/load/free_ports.py 10)
metrics=http://127.0.0.1:$admin/metrics
metric() { ask "$metrics" | awk -v name="$1" '$1 == name { print $2; found = 1 } END { exit !found }'; }

# --- Keys, in the forms in which they are handed out -------------------------------------------------------------------

ca() { # NAME
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" \
        -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$work/$1.key" -out "$work/$1.pem" 2>/dev/null
}
issue() { # CA FILE NAMES KEY-ARGUMENTS...
    local by=$1 file=$work/$2 names=$3
    shift 3
    openssl req -new "$@" -nodes -subj "/CN=$(basename "$file")" -keyout "$file.key" -out "$file.csr" 2>/dev/null &&
        openssl x509 -req -in "$file.csr" -CA "$work/$by.pem" -CAkey "$work/$by.key" -CAcreateserial -days 2 -sha256 \
            -extfile <(printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\nextendedKeyUsage=serverAuth,clientAuth\n' "$names") -out "$file.pem" 2>/dev/null
}
elliptic=(-newkey ec -pkeyopt ec_paramgen_curve:P-256)
ca ca && ca client-ca &&
    issue ca one DNS:one.example,DNS:localhost "${elliptic[@]}" &&
    issue ca two 'DNS:two.example,DNS:*.two.example' -newkey rsa:2048 &&
    issue ca backend DNS:backend.example "${elliptic[@]}" &&
    issue client-ca alice DNS:alice.example "${elliptic[@]}" &&
    issue client-ca stent DNS:stent.example "${elliptic[@]}" || {
    echo 'interop: openssl made no keys' >&2
    exit 2
}
# As ACM exports a key: PKCS#8 under a passphrase.
echo 'a passphrase' >"$work/two.pass"
openssl pkcs8 -topk8 -v2 aes-256-cbc -v2prf hmacWithSHA256 -in "$work/two.key" -passout "file:$work/two.pass" -out "$work/two.enc.key"
chmod 600 "$work"/*.key

# --- Backends ----------------------------------------------------------------------------------------------------------

mkdir -p "$work/site"
head -c 10485760 /dev/urandom >"$work/site/large"
echo small >"$work/site/small"
cat >"$work/nginx.conf" <<CONF
daemon off;
master_process off;
user $(id -un);
pid $work/nginx.pid;
error_log $work/nginx.error.log;
events { worker_connections 1024; }
http {
    access_log off;
    client_max_body_size 0;
    client_body_temp_path $work/body;
    proxy_temp_path $work/proxy;
    fastcgi_temp_path $work/fastcgi;
    uwsgi_temp_path $work/uwsgi;
    scgi_temp_path $work/scgi;
    server {
        listen 127.0.0.1:$nginx_tls ssl http2;
        ssl_certificate $work/backend.pem;
        ssl_certificate_key $work/backend.key;
        ssl_client_certificate $work/client-ca.pem;
        ssl_verify_client on;
        root $work/site;
        location ~ ^(/h2)?/who\$ {
            return 200 "\$ssl_client_s_dn|\$server_protocol|\$ssl_server_name|\$http_x_forwarded_for|\$http_x_forwarded_proto|\$http_x_subject\n";
        }
    }
}
CONF
nginx -e "$work/nginx.error.log" -p "$work" -c "$work/nginx.conf" &
pids+=($!)
nghttpd --no-tls --address 127.0.0.1 --htdocs "$work/site" "$nghttpd" >"$work/nghttpd.log" 2>&1 &
pids+=($!)
"$python" tests/interop/grpc_check.py serve "$grpc" 2>"$work/grpc.log" &
pids+=($!)
"$python" tests/interop/websocket_check.py serve "$websocket" 2>"$work/websocket.log" &
pids+=($!)

# --- Stent, and HAProxy before one of its ports ------------------------------------------------------------------------

tls_tables() {
    cat <<CONF
[[listener.tls.certificates]]
chain = "$work/one.pem"
key = "$work/one.key"
[[listener.tls.certificates]]
chain = "$work/two.pem"
key = "$work/two.enc.key"
passphrase_file = "$work/two.pass"
CONF
}
route() { # NAME PATH CLUSTER
    printf '[[route]]\nname = "%s"\npath = "%s"\ncluster = "%s"\nmax_body = "64MiB"\n' "$@"
}
cat >"$work/stent.toml" <<CONF
[server]
workers = 2
[admin]
address = "127.0.0.1:$admin"
[access_log]
output = "$work/access.log"

[[listener]]
address = "127.0.0.1:$plain"

[[listener]]
address = "127.0.0.1:$secure"
$(tls_tables)

[[listener]]
address = "127.0.0.1:$mutual"
[listener.tls]
client_ca = "$work/client-ca.pem"
client_subject_header = "X-Subject"
$(tls_tables)

[[listener]]
address = "127.0.0.1:$balanced"
proxy_protocol = "required"

[cluster.nginx]
endpoints = ["https://127.0.0.1:$nginx_tls"]
tls.ca = "$work/ca.pem"
tls.server_name = "backend.example"
tls.certificate = { chain = "$work/stent.pem", key = "$work/stent.key" }

[cluster.nginx-h2]
endpoints = ["https://127.0.0.1:$nginx_tls"]
protocol = "auto"
tls.ca = "$work/ca.pem"
tls.server_name = "backend.example"
tls.certificate = { chain = "$work/stent.pem", key = "$work/stent.key" }

[cluster.distrusted]
endpoints = ["https://127.0.0.1:$nginx_tls"]
tls.ca = "$work/client-ca.pem"
tls.server_name = "backend.example"

[cluster.nghttpd]
endpoints = ["http://127.0.0.1:$nghttpd"]
protocol = "h2"

[cluster.grpc]
endpoints = ["http://127.0.0.1:$grpc"]
protocol = "h2"

[cluster.websocket]
endpoints = ["http://127.0.0.1:$websocket"]

$(route files '/*' nginx)
$(route who '/h2/who' nginx-h2)
$(route distrusted '/distrusted' distrusted)
$(route nghttpd '/small' nghttpd)
$(route large '/large' nghttpd)
$(route grpc '/interop.Echo/{method}' grpc)
$(route websocket '/socket' websocket)
CONF
"$stent" run "$work/stent.toml" 2>"$work/stent.log" &
stent_pid=$!
pids+=("$stent_pid")
cat >"$work/haproxy.cfg" <<CONF
global
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen v2
    bind 127.0.0.1:$balancer
    source 127.0.0.9
    server stent 127.0.0.1:$balanced send-proxy-v2
CONF
haproxy -db -f "$work/haproxy.cfg" 2>"$work/haproxy.log" &
pids+=($!)

# --- Checks ------------------------------------------------------------------------------------------------------------

front=https://one.example:$secure
trusting=(--cacert "$work/ca.pem" --resolve "one.example:$secure:127.0.0.1" --resolve "one.example:$mutual:127.0.0.1"
    --resolve "two.example:$secure:127.0.0.1" --resolve "a.two.example:$secure:127.0.0.1")
tls_client() { # PORT NAME ARGUMENTS...
    local port=$1 name=$2
    shift 2
    openssl s_client -connect "127.0.0.1:$port" -servername "$name" -CAfile "$work/ca.pem" "$@" </dev/null 2>&1
}
version_is() { # VERSION ARGUMENTS...
    local out version=$1
    shift
    out=$(tls_client "$secure" one.example -verify_return_error "$@") || { echo "$out"; return 1; }
    grep -q 'Verify return code: 0 (ok)' <<<"$out" && grep -q "New, $version" <<<"$out" || { echo "$out"; return 1; }
}
old_version_is_refused() { ! tls_client "$secure" one.example -cipher 'ALL:@SECLEVEL=0' "$1"; }
certificate_is() { # NAME SERVER-NAME
    is "subject=CN = $1" "$(tls_client "$secure" "$2" | grep '^subject=')"
}
# A first connection has to speak, because TLS 1.3 hands its tickets out after the handshake.
session_is_resumed() { # VERSION
    local request='GET /small HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n' turn
    printf %b "$request" | openssl s_client -quiet -connect "127.0.0.1:$secure" -servername one.example "$1" \
        -sess_out "$work/session" >/dev/null 2>&1
    # Either worker has to know it.
    for turn in 1 2 3 4; do
        tls_client "$secure" one.example "$1" -sess_in "$work/session" | grep -q '^Reused, ' || { echo "turn $turn"; return 1; }
    done
}
protocol_is() { # TEXT CURL-ARGUMENTS...
    local expected=$1
    shift
    is "$expected" "$(ask "${trusting[@]}" --output /dev/null --write-out '%{http_code} %{http_version}' "$@")"
}
stranger_is_refused() { ! ask "${trusting[@]}" "https://one.example:$mutual/small"; }
subject_is_passed_on() {
    local who
    who=$(ask "${trusting[@]}" --cert "$work/alice.pem" --key "$work/alice.key" --header 'X-Subject: CN=mallory' "https://one.example:$mutual/who")
    is 'CN=alice' "$(cut -d'|' -f6 <<<"$who")"
}
who_is() { # EXPECTED PATH
    is "$1" "$(ask "${trusting[@]}" "$front$2")"
}
large_is_whole() { ask "${trusting[@]}" --output "$work/down" "$@" && same_file "$work/site/large" "$work/down"; }
no_request_fails() { # H2LOAD-ARGUMENTS...
    local out
    out=$(h2load --requests 5000 --clients 20 "$@" 2>&1)
    echo "$out"
    grep -q ' 5000 succeeded, 0 failed, 0 errored, 0 timeout' <<<"$out"
}
address_is_haproxys_client() {
    is '127.0.0.1' "$(ask "http://127.0.0.1:$balancer/who" | cut -d'|' -f4)"
    # The address of the connection itself, which HAProxy is told to make from here.
    ! grep -q '"client":"127.0.0.9"' "$work/access.log"
}
no_header_is_no_connection() { ! ask "http://127.0.0.1:$balanced/who"; }

within 100 status_is 200 "http://127.0.0.1:$admin/readyz" >/dev/null || {
    echo "not ok - stent becomes ready"
    sed 's/^/    /' "$work/stent.log" | tail -20
    echo "0 passed, 1 failed"
    exit 1
}
within 100 status_is 200 "http://127.0.0.1:$plain/who" >/dev/null || tail "$work/nginx.error.log"
within 100 status_is 200 "http://127.0.0.1:$plain/small" >/dev/null || tail "$work/nghttpd.log"

check 'openssl speaks TLS 1.2' version_is TLSv1.2 -tls1_2
check 'openssl speaks TLS 1.3' version_is TLSv1.3 -tls1_3
check 'TLS 1.1 is refused' old_version_is_refused -tls1_1
check 'the name chooses the certificate' certificate_is one one.example
check 'the second certificate has an encrypted key' certificate_is two two.example
check 'a wildcard chooses its certificate' certificate_is two a.two.example
check 'an unknown name gets the first certificate' certificate_is one unknown.example
check 'a session of TLS 1.2 is resumed by every worker' session_is_resumed -tls1_2
check 'a session of TLS 1.3 is resumed by every worker' session_is_resumed -tls1_3
check 'mutual TLS refuses a stranger' stranger_is_refused
check 'mutual TLS passes the subject on, and no forged one' subject_is_passed_on
check 'curl speaks HTTP/1.1 over TLS' protocol_is '200 1.1' --http1.1 "$front/small"
check 'curl speaks HTTP/2 over TLS' protocol_is '200 2' --http2 "$front/small"
check 'curl speaks HTTP/2 with prior knowledge' protocol_is '200 2' --http2-prior-knowledge "http://127.0.0.1:$plain/small"
check 'a download of 10 MiB is whole over TLS and HTTP/2, from a backend of HTTP/2' large_is_whole --http2 "$front/large"
check 'a download of 10 MiB is whole over HTTP/1.1, from a backend of HTTP/2' large_is_whole "http://127.0.0.1:$plain/large"
check 'a backend of TLS is verified, told its name, and shown our certificate' who_is 'CN=stent|HTTP/1.1|backend.example|127.0.0.1|https|' /who
check 'a backend of TLS that offers HTTP/2 is spoken to in it' who_is 'CN=stent|HTTP/2.0|backend.example|127.0.0.1|https|' /h2/who
check 'a backend of a CA that we do not trust is not asked' protocol_is '503 2' --http2 "$front/distrusted"
check 'h2load sees no failure over HTTP/1.1' no_request_fails --h1 "http://127.0.0.1:$plain/small"
check 'h2load sees no failure over HTTP/2' no_request_fails --max-concurrent-streams 10 "http://127.0.0.1:$plain/small"
check 'h2load sees no failure over HTTP/1.1 and TLS' no_request_fails --h1 "https://localhost:$secure/small"
check 'h2load sees no failure over HTTP/2 and TLS' no_request_fails --max-concurrent-streams 10 "https://localhost:$secure/small"
check 'gRPC: all kinds of calls, trailers, a deadline' "$python" tests/interop/grpc_check.py call "127.0.0.1:$plain"
check 'WebSocket: echo, fragments, ping, close codes' "$python" tests/interop/websocket_check.py call "ws://127.0.0.1:$plain/socket"
check 'WebSocket over TLS' "$python" tests/interop/websocket_check.py call "wss://localhost:$secure/socket" "$work/ca.pem"
check 'HAProxy names its client by the PROXY protocol' address_is_haproxys_client
check 'a connection without a PROXY header is closed' no_header_is_no_connection
check 'sslyze finds nothing above informational' "$python" tests/interop/scan_tls.py "$secure" one.example "$work/ca.pem"
conclude
