#!/usr/bin/env bash
# build/venv: the Python clients that the end-to-end tests and peer benchmarks use; never needed to serve.
# tools/venv.sh [package ...] adds packages.
set -eu
cd "$(dirname "$0")/.."
venv=build/venv
[ -x $venv/bin/python ] || python3 -m venv $venv
want=("numpy" "tritonclient[http]" "$@")
stamp=$venv/.have
for p in "${want[@]}"; do
    grep -qxF "$p" $stamp 2>/dev/null && continue
    $venv/bin/python -m pip install -q --disable-pip-version-check "$p"
    echo "$p" >>$stamp
done
