#!/usr/bin/env bash
# Builds every fuzzer and runs each from its seeds, two at a time.
#
#   fuzz/run.sh [SECONDS]      for each target; 60 without it
#
# Needs cargo-fuzz, and fetches it into fuzz/target/tools if it is not on the path. A crash fails the run and leaves its
# input in fuzz/artifacts: it becomes a seed in fuzz/corpus, which the ordinary tests replay.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
tools=$PWD/fuzz/target/tools
export PATH=$PATH:$tools/bin
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --version 0.13.2 --locked --quiet --root "$tools"

# Without a sanitizer stable Rust builds it; there is no `unsafe` here that one would watch.
cargo fuzz build --sanitizer none

fuzz() { # TARGET
    local found=fuzz/target/found/$1 log=fuzz/target/found/$1.log code=0
    mkdir -p "$found" "fuzz/artifacts/$1"
    # What a run finds goes into the first folder, so that the seeds stay few.
    # The engine kills a run of 20 s and a process of 1 GiB: an input that hangs or bloats is a find as well.
    "fuzz/target/$host/release/$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 -max_len=8192 \
        -dict=fuzz/http.dict -artifact_prefix="fuzz/artifacts/$1/" -print_final_stats=1 \
        "$found" "fuzz/corpus/$1" >"$log" 2>&1 || code=$?
    if [[ $code -ne 0 ]]; then
        echo "not ok - $1"
        tail -20 "$log" | sed 's/^/    /'
        # What failed and on which input comes last: the trace between them is long.
        grep -a -A 20 'stack backtrace' "$log" | sed 's/^/    /' || true
        grep -a -E -A 1 'panicked at|ERROR: libFuzzer|^Base64' "$log" | sed 's/^/    /' || true
        return 1
    fi
    echo "ok - $1: $(awk '/number_of_executed_units/ { print $2 }' "$log") inputs, $(grep -o 'cov: [0-9]*' "$log" | tail -1)"
}
export -f fuzz
host=$(rustc -vV | awk '/^host:/ { print $2 }')
export seconds host
# shellcheck disable=SC2016 # the inner shell expands it
cargo fuzz list | xargs -n 1 -P 2 bash -c 'fuzz "$1"' fuzz
