# shellcheck shell=bash disable=SC2034,SC2154 # the scripts that source it set and use these variables
# What the scripts of this folder share: the binary, a folder that goes at the end, and checks of one line each. Sourced,
# with the repository as the working directory and the script's arguments.

stent=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/stent}")
[[ -x $stent ]] || {
    echo "interop: no binary at $stent; cargo build --release makes it" >&2
    exit 2
}

work=$(mktemp -d)
# NGINX's workers take another user when the master runs as root; they must reach the files.
chmod 755 "$work"
pids=()
stop_everything() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$work"
}
trap stop_everything EXIT
trap 'exit 130' INT TERM

passed=0 failed=0
check() { # NAME COMMAND...
    local name=$1
    shift
    if "$@" >"$work/check.out" 2>&1; then
        echo "ok - $name"
        passed=$((passed + 1))
    else
        echo "not ok - $name"
        sed 's/^/    /' "$work/check.out" | tail -20
        failed=$((failed + 1))
    fi
}

# Asks up to COUNT times, a tenth of a second apart.
within() { # COUNT COMMAND...
    local left=$1
    shift
    until "$@"; do
        left=$((left - 1))
        [[ $left -gt 0 ]] || return 1
        sleep 0.1
    done
}

ask() { curl --silent --show-error --max-time 60 "$@"; }
status_of() { ask --output /dev/null --write-out '%{http_code}' "$@"; }
is() { # EXPECTED ACTUAL
    [[ $1 == "$2" ]] || {
        printf 'expected: %s\nactual:   %s\n' "$1" "$2"
        return 1
    }
}
same_file() { is "$(sha256sum <"$1")" "$(sha256sum <"$2")"; }
status_is() { # STATUS URL...
    local expected=$1
    shift
    is "$expected" "$(status_of "$@")"
}
answer_is() { # TEXT URL...
    local expected=$1
    shift
    is "$expected" "$(ask "$@")"
}

need() { # TOOLS... ; each as TOOL or TOOL:PACKAGE
    local tool
    for tool in "$@"; do
        command -v "${tool%%:*}" >/dev/null || {
            echo "interop: ${tool%%:*} is not installed (on Debian: apt-get install ${tool#*:})" >&2
            exit 2
        }
    done
}

# A Python with the packages of requirements.txt, made once.
python_with_packages() {
    local venv=${CARGO_TARGET_DIR:-target}/interop-venv
    if ! cmp --silent tests/interop/requirements.txt "$venv/requirements.txt"; then
        rm -rf "$venv"
        python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt &&
            cp tests/interop/requirements.txt "$venv/" || exit 2
    fi >&2
    realpath --no-symlinks "$venv/bin/python"
}

conclude() {
    echo "$passed passed, $failed failed"
    [[ $failed -eq 0 ]]
}
