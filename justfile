# The commands of a working day; `just` alone lists them.

_list:
    @just --list --unsorted

# Format the code.
fmt:
    cargo fmt

# The fast lane while you work: form, lints, and the tests of the library.
check:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings
    cargo test --lib --locked --quiet

# What continuous integration says about form.
lint:
    cargo fmt --check
    cargo clippy --all-targets --locked -- -D warnings

# Every test in Rust.
test *args:
    cargo test --locked {{ args }}

# The references in docs/ and the expected texts of errors, written anew: read the difference before you commit it.
update:
    UPDATE=1 cargo test --lib --locked --quiet

# The documentation, held to no warnings.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

# The book, to target/book: cargo install mdbook --locked.
book:
    mdbook build

# The backend that fails, with and without Stent.
demo *args:
    cargo run --release --locked -- demo {{ args }}

# Real clients and a real backend.
interop:
    cargo build --release --locked
    tests/interop/run.sh
    tests/interop/protocols.sh
    tests/interop/schema.sh
    python3 tests/interop/load.py target/release/stent

# The binary to ship, from a profile of its own work.
ship:
    pgo/build.sh

# Every fuzzer in turn: just fuzz [SECONDS].
fuzz *args:
    fuzz/run.sh {{ args }}

# CPU, memory and latency beside the peers: just bench [--short] [--only ROW] [--rounds N] [--seconds S].
bench *args:
    bench/load/run.sh {{ args }}

# Instructions per request, held to what is recorded: just instructions [--record] [--profile WORK].
instructions *args:
    bench/instructions.py {{ args }}

# What single steps take: just micro [FILTER].
micro *args:
    cargo bench --locked --features bench --bench micro -- {{ args }}

# What users see of a failing backend, through Stent and the peers: just reliability [--short] [--scenario NAME].
reliability *args:
    bench/reliability/run.sh {{ args }}

# Every order of steps that threads can take in the queue and in admission's counters.
loom:
    cargo run --release --locked --manifest-path loom/Cargo.toml

# Small changes of src/policy that no test notices, where it differs from main: just mutants [SECONDS] [BASE].
mutants *args:
    .ci/mutants {{ args }}

# Licences, advisories and sources of the dependencies.
deny:
    cargo deny check

# Everything that a change must pass.
ci:
    .ci/run
