#!/usr/bin/env bash
# R10: a product of sizes goes through base/checked.h, never straight into the allocator; and nothing below server/ exits, aborts or prints.
set -u
cd "$(dirname "$0")/.."
bad=0
if grep -nE '\b(malloc|realloc|aligned_alloc)\(.*[])A-Za-z0-9_] \* [(A-Za-z0-9_]' -r base engine kernels api monitor model_store server --include='*.c'; then
    echo "a product of sizes goes into the allocator: use mem_alloc_array and its kin (base/checked.h)"; bad=1
fi
if grep -nE '\b(exit|_exit|abort|printf|puts|perror)\(' -r base engine kernels api monitor model_store --include='*.c' | grep -vE 'inspector|snprintf|/\*.*\b(exit|abort)'; then
    echo "only server/ may exit or print; the inspector's child ends itself"; bad=1
fi
exit $bad
