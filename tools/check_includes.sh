#!/usr/bin/env bash
# The layout is the walk: a folder includes its own headers and those further down, never up. base/ is used by all and uses none.
set -u
declare -A rank=([server]=7 [api]=6 [monitor]=5 [model_store]=4 [engine]=3 [kernels]=2 [base]=1)
bad=0
while IFS=: read -r file line text; do
    from=${file%%/*}
    to=$(sed -E 's/.*"([^"\/]+)\/.*/\1/' <<<"$text")
    [ -n "${rank[$to]:-}" ] || { echo "$file:$line: includes \"$to/\", which is no folder of the walk"; bad=1; continue; }
    if [ "${rank[$to]}" -gt "${rank[$from]}" ]; then echo "$file:$line: $from/ may not include $to/ (it is further up the walk)"; bad=1; fi
done < <(grep -nE '^#include "' -r base kernels engine model_store monitor api server --include=*.c --include=*.h --include=*.cu)
exit $bad
