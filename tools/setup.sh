#!/usr/bin/env bash
# Installs the Debian packages that building, testing and running need, and those named, when any is missing. Without root it says what to install.
set -eu
packages=(gcc make libc6-dev pkg-config libmicrohttpd-dev libgnutls28-dev libgrpc-dev libcurl4-gnutls-dev libdnnl-dev libsqlite3-dev nettle-dev libjpeg62-turbo-dev libpng-dev libwebp-dev
          zlib1g-dev libseccomp-dev libpcre2-dev libutf8proc-dev curl ca-certificates python3 python3-venv zstd "$@")
missing=()
for p in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
echo "installing: ${missing[*]}" >&2
if [ "$(id -u)" -eq 0 ]; then as=; elif command -v sudo >/dev/null; then as=sudo; else
    echo "run as root: apt-get install ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
$as apt-get update -q >/dev/null || true
$as apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null
