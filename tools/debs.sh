#!/usr/bin/env bash
# tools/debs.sh PACKAGE...: unpacks Debian packages, with what they depend on and this machine lacks, under build/debs/. Nothing is installed, so no daemon starts.
# For programs that only tests use: Prometheus, HAProxy, docker-compose.
set -eu
cd "$(dirname "$0")/.."
root=build/debs
mkdir -p $root/archives
for p in "$@"; do
    [ -e "$root/.$p" ] && continue
    plan() { apt-get install -s --no-install-recommends "$p" 2>/dev/null | sed -nE 's/^Inst ([^ ]+).*/\1/p'; }
    wanted=$(plan) || true
    if [ -z "$wanted" ]; then      # no package lists yet, or it is installed
        if dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed'; then touch "$root/.$p"; continue; fi
        if [ "$(id -u)" -eq 0 ]; then apt-get update -q >/dev/null; elif command -v sudo >/dev/null; then sudo apt-get update -q >/dev/null; fi
        wanted=$(plan)
    fi
    [ -n "$wanted" ] || { echo "Debian's package $p cannot be had" >&2; exit 1; }
    # shellcheck disable=SC2086
    (cd $root/archives && apt-get download -q $wanted >/dev/null 2>&1)
    for f in "$root"/archives/*.deb; do dpkg -x "$f" "$root"; rm "$f"; done
    touch "$root/.$p"
done
