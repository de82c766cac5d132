#!/usr/bin/env bash
# What an editor says of a configuration: taplo, by config/stent.schema.json, one line per check. What `stent check` accepts
# it accepts too, and it finds a wrong key and a wrong value.
#
#   tests/interop/schema.sh [STENT]      STENT is a binary; target/release/stent without it
#
# Ends with "N passed, N failed", and exits with 1 if a check failed.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
. tests/interop/lib.sh
python=$(python_with_packages) || exit 2
taplo=$(dirname "$python")/taplo

accepts() { "$taplo" lint --schema "file://$PWD/config/stent.schema.json" "$1"; }
accepts_effective() {
    "$stent" check --effective "$1" >"$work/effective.toml" && accepts "$work/effective.toml"
}
refuses() { # TEXT, which takes the place of a line of minimal.toml
    sed "s|^address = .*|&\n$1|" config/minimal.toml >"$work/wrong.toml"
    ! accepts "$work/wrong.toml"
}

for file in config/*.toml; do
    check "$file is accepted" accepts "$file"
    check "$file is accepted as it holds after merging" accepts_effective "$file"
done
check 'an unknown key is refused' refuses 'idle_timeuot = "75s"'
check 'a duration without a unit is refused' refuses 'idle_timeout = 75'
check 'a unit of another kind is refused' refuses 'idle_timeout = "75KiB"'
check 'a word that is not known is refused' refuses 'underscores = "dorp"'
check 'a number out of bounds is refused' refuses 'max_connections = 0'
conclude
