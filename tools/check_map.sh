#!/usr/bin/env bash
# The map of README.md names every folder and no folder that is not there.
set -u
cd "$(dirname "$0")/.."
bad=0
mapped=$(sed -n '/^## The map/,/^## /p' README.md | grep -oE '^[a-z_./]+/ ' | tr -d ' ' | sort -u)
for d in $mapped; do [ -d "$d" ] || { echo "README.md's map names $d, which is not there"; bad=1; }; done
for d in $(git ls-files | grep / | cut -d/ -f1 | sort -u); do
    case $d in .*) continue ;; esac
    grep -qx "$d/" <<<"$mapped" || { echo "README.md's map does not name $d/"; bad=1; }
done
exit $bad
