#!/usr/bin/env bash
# The one test runner: `make test` (all) or `make test T=name` (the suites whose path contains the name). Every C suite runs under
# AddressSanitizer and UndefinedBehaviorSanitizer (those that start with "/* own heap" in release); those that start with "/* threaded" under ThreadSanitizer as well; each fuzz target runs on its
# kept corpus and some seconds beyond; then the end-to-end tests drive a real release server with real clients.
# The last line is "N passed, N failed, N skipped"; the exit status is 1 when anything failed.
set -u
cd "$(dirname "$0")/.." || exit 1
only=${1:-}
passed=0 failed=0 skipped=0
log=build/test-logs
mkdir -p "$log"
jobs=$(nproc)

note() { printf '%s\n' "$*"; }
count() {   # count LOG NAME STATUS: adds a suite's own closing line to the totals
    local line
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$1" | tail -1)
    if [ -z "$line" ]; then
        note "FAIL $2: no closing line (exit status $3)"; tail -25 "$1"; failed=$((failed + 1)); return
    fi
    local p f s
    p=$(sed -E 's/^([0-9]+) passed.*/\1/' <<<"$line"); f=$(sed -E 's/.* ([0-9]+) failed.*/\1/' <<<"$line")
    s=$(sed -nE 's/.* ([0-9]+) skipped.*/\1/p' <<<"$line"); s=${s:-0}
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" -ne 0 ] || [ "$3" -ne 0 ]; then
        note "FAIL $2"; grep -vE '^ok ' "$1" | tail -40
        [ "$f" -eq 0 ] && failed=$((failed + 1))
    else
        note "ok   $2 ($line)"; grep -E '^skip ' "$1"
    fi
}
run() {     # run NAME COMMAND...
    local name=$1 out status start=$SECONDS; shift
    out=$log/$(tr '/ ' '__' <<<"$name").log
    timeout 900 "$@" >"$out" 2>&1
    status=$?
    count "$out" "$name, $((SECONDS - start)) s" $status
}
wanted() { [ -z "$only" ] || [[ $1 == *$only* ]]; }
suites() { for f in tests/*/*_test.c; do wanted "$f" && echo "$f"; done; }
build() {   # build SAN TARGET...: everything needed, or one failed test and the compiler's words
    local san=$1; shift
    [ $# -eq 0 ] && return 0
    make -s -j"$jobs" SAN="$san" "$@" >"$log/build-${san:-release}.log" 2>&1 && return 0
    note "FAIL build ${san:-release}"; tail -30 "$log/build-${san:-release}.log"; failed=$((failed + 1)); return 1
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:allocator_may_return_null=1} UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp history_size=4" LSAN_OPTIONS="suppressions=$PWD/tests/lsan.supp"
export OMP_PROC_BIND=false

# shellcheck disable=SC2207
{
    list=() own_heap=() threaded=() fuzz=()
    for f in $(suites); do
        case $(head -1 "$f") in
        '/* own heap'*) own_heap+=("$f") ;;
        '/* threaded'*) list+=("$f") threaded+=("$f") ;;
        *) list+=("$f") ;;
        esac
    done
    for f in tests/fuzz/*_fuzz.c; do wanted "$f" && fuzz+=("$f"); done
}
bin() { local san=$1; shift; for f in "$@"; do echo "build/$san/${f%.c}"; done; }

wanted tests/engine/suite_test && { tools/debs.sh libonnx-testdata || note "Debian's libonnx-testdata cannot be had"; }
# shellcheck disable=SC2046
if build address $(bin address "${list[@]}" "${fuzz[@]}"); then
    for f in "${list[@]}"; do run "${f%.c} (address)" "build/address/${f%.c}"; done
    for f in "${fuzz[@]}"; do
        name=$(basename "$f" _fuzz.c)
        if timeout 300 "build/address/${f%.c}" --seconds "${FUZZ_SECONDS:-4}" "tests/fuzz/corpus/$name" >"$log/fuzz-$name.log" 2>&1; then
            note "ok   fuzz $name ($(tail -1 "$log/fuzz-$name.log"))"; passed=$((passed + 1))
        else
            note "FAIL fuzz $name"; tail -30 "$log/fuzz-$name.log"; failed=$((failed + 1))
        fi
    done
fi
# libgomp is not instrumented: one thread
# shellcheck disable=SC2046
if build thread $(bin thread "${threaded[@]}"); then
    for f in "${threaded[@]}"; do OMP_NUM_THREADS=1 run "${f%.c} (thread)" "build/thread/${f%.c}"; done
fi
# Suites that bring a heap of their own (allocation failures), which the sanitizers would replace.
# shellcheck disable=SC2046
if build "" $(bin release "${own_heap[@]}"); then
    for f in "${own_heap[@]}"; do run "${f%.c} (release)" "build/release/${f%.c}"; done
fi
# What drives a whole server with real clients: against the release build, then against the sanitizers' builds (a report in the server's log fails
# the suite). ThreadSanitizer does not know libgomp: one thread there.
e2e=()
for f in tests/e2e/*_test.sh tests/e2e/*_test.py; do [ -e "$f" ] && wanted "$f" && e2e+=("$f"); done
run_e2e() {     # run_e2e LABEL ENVIRONMENT...
    local label=$1 f m missing python; shift
    for f in "${e2e[@]}"; do
        [ "$label" != release ] && grep -q '^# release only' "$f" && continue
        [ "$label" = thread ] && grep -q '^# not thread' "$f" && continue
        case $f in
        *.py)
            python=python3 missing=
            [ -x build/venv/bin/python ] && python=build/venv/bin/python
            for m in $(sed -n 's/^# needs: //p' "$f"); do $python -c "import $m" 2>/dev/null || missing=$m; done
            if [ -n "$missing" ]; then
                note "skip $f ($label): Python's $missing is not here and the package index could not be reached"; skipped=$((skipped + 1))
            else
                run "$f ($label)" env "$@" "$python" "$f"
            fi ;;
        *) run "$f ($label)" env "$@" bash "$f" ;;
        esac
    done
}
if [ ${#e2e[@]} -gt 0 ] && build "" build/release/inferd build/release/tests/bench/load build/release/tests/bench/rpc_load; then
    tools/venv.sh openai jsonschema "tritonclient[grpc]" grpcio-health-checking grpcio-reflection kubernetes-validate onnx onnxruntime pillow >"$log/venv.log" 2>&1 || note "the virtual environment with the clients is not complete: see $log/venv.log"
    run_e2e release INFERD="$PWD/build/release/inferd"
    build address build/address/inferd && run_e2e address INFERD="$PWD/build/address/inferd"
    build thread build/thread/inferd && run_e2e thread INFERD="$PWD/build/thread/inferd" INFERD_FLAGS="--threads 1"
fi
# The GPU: its checks with the host in the card's place, and the library where the CUDA toolkit is.
if wanted kernels/gpu_check && build "" build/release/gpu-check; then run "tests/kernels/gpu_check (host)" build/release/gpu-check --host; fi
if wanted kernels/gpu_check; then      # a C++ compiler reads the kernels
    tools/setup.sh g++ >"$log/g++.log" 2>&1
    if ! command -v g++ >/dev/null; then note "skip tests/kernels/gpu_check (kernels on the host): there is no g++, and it could not be installed"; skipped=$((skipped + 1))
    elif build "" build/release/gpu-check-emulated; then run "tests/kernels/gpu_check (kernels on the host)" build/release/gpu-check-emulated --emulated; fi
fi
if wanted kernels/cuda && [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    if build address build/address/cuda-host-check; then run "tests/cuda/host_check (address)" build/address/cuda-host-check; fi
    if build "" build/release/gpu-check build/release/libinferd_cuda_shim.so; then run "tests/kernels/gpu_check (shim)" build/release/gpu-check build/release/libinferd_cuda_shim.so; fi
    if make -s -j"$jobs" CUDA=1 build/release/libinferd_cuda.so >"$log/cuda.log" 2>&1; then note "ok   kernels/cuda compiles"; passed=$((passed + 1)); else note "FAIL kernels/cuda"; tail -30 "$log/cuda.log"; failed=$((failed + 1)); fi
fi
for check in check-includes check-sizes check-map; do
    wanted "$check" || continue
    if make -s "$check" >"$log/$check.log" 2>&1; then note "ok   $check"; passed=$((passed + 1)); else note "FAIL $check"; cat "$log/$check.log"; failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
