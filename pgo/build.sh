#!/usr/bin/env bash
# Builds the binary to ship and to measure: a release build that knows from a run under load which of its code is hot
# (profile-guided optimisation). It takes 12 % less CPU per small request than `cargo build --release` gives, and about
# eight minutes on two cores: two builds, and half a minute of load between them.
#
#   pgo/build.sh               the binary is target/pgo/release/stent
#
# Needs what `bench/load/run.sh --short` needs, and llvm-profdata of rustc's LLVM: rustup's component llvm-tools, or
# Debian's package llvm-NN.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")/pgo
counts=$target/counts
profile=$target/stent.profdata
# What is seldom done is seldom run, so everything that a proxy does all day is here, and nothing else.
rows=small,small-512,large,huge,upload,upload-huge,retried,tls,h2,tls-full,tls-resumed

llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
host=$(rustc -vV | sed -n 's/^host: //p')
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
[[ -x $profdata ]] || profdata=$(command -v "llvm-profdata-$llvm") || {
    echo "pgo: llvm-profdata of LLVM $llvm is missing (rustup component add llvm-tools, or on Debian: apt-get install llvm-$llvm)" >&2
    exit 1
}

build() { # FOLDER FLAG
    RUSTFLAGS="${RUSTFLAGS:-} $2" cargo build --release --locked --bin stent --target-dir "$1"
}

build "$target/counting" "-Cprofile-generate=$counts"
rm -rf "$counts"
STENT=$target/counting/release/stent bench/load/run.sh --short --only "$rows" --peers stent --seconds 3 --out "$target/load.json"
"$profdata" merge --output "$profile" "$counts"
build "$target" "-Cprofile-use=$profile"
echo "$target/release/stent"
