#!/usr/bin/env bash
# tools/runtime_packages.sh BINARY...: the Debian packages that hold the shared libraries these programs load, one a line.
set -eu
ldd "$@" | sed -nE 's/.*=> (\/[^ ]+) .*/\1/p; s/^\t(\/[^ ]+) .*/\1/p' | sort -u | while read -r library; do
    real=$(readlink -f "$library")
    # a merged /usr: packages may still list their files under /lib
    dpkg -S "$real" 2>/dev/null || dpkg -S "${real#/usr}"
done | sed -E 's/^([^:,]+).*/\1/' | sort -u
