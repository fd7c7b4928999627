#!/bin/sh
# Makes the keys of a deployment, once: digests for the server, the keys themselves for those who need them. Folders that exist already keep their keys.
#   make_keys.sh [ROOT]     writes ROOT/keys/api-keys, ROOT/clients/{infer,read,admin}.key, ROOT/scrape/read.key (Prometheus), ROOT/panel/password (Grafana)
set -eu
root=${1:-}
[ -s "$root/keys/api-keys" ] && exit 0
key() { head -c 32 /dev/urandom | sha256sum | cut -c1-48; }
line() { printf '%s %s %s\n' "$(printf %s "$1" | sha256sum | cut -c1-64)" "$2" "$3"; }

umask 077
infer=$(key) read=$(key) admin=$(key) scrape=$(key)
printf %s "$infer" >"$root/clients/infer.key"
printf %s "$read" >"$root/clients/read.key"
printf %s "$admin" >"$root/clients/admin.key"
umask 022      # Prometheus and Grafana run as users of their own; each sees its own volume only
printf %s "$scrape" >"$root/scrape/read.key"
key >"$root/panel/password"
{
    line "$infer" infer,read client
    line "$read" read reader
    line "$admin" infer,read,admin operator
    line "$scrape" read prometheus
} >"$root/keys/api-keys.new"
mv "$root/keys/api-keys.new" "$root/keys/api-keys"
