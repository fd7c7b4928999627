/* own heap: a step of a plan that exists takes nothing from the heap by our own code. Every allocation between admit and retire is counted by who
 * asks: our binary, or a library (oneDNN's few small ones are printed beside it and must be the same in each run). */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/engine/onnx_run.h"
#include "tests/test.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

static atomic_bool counting;
static atomic_long ours, theirs, countdown = -1;
static const void *binary_base;

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

/* The caller's return address tells which object it belongs to; dladdr takes no memory. True: this allocation is the one that must fail (only our own
 * do: what oneDNN does without memory is its own affair). */
static bool note(void *caller)
{
    Dl_info i;
    bool mine;
    if (!atomic_load(&counting)) return false;
    mine = dladdr(caller, &i) && i.dli_fbase == binary_base;
    atomic_fetch_add(mine ? &ours : &theirs, 1);
    return mine && atomic_load(&countdown) >= 0 && atomic_fetch_sub(&countdown, 1) == 0;
}

static void *none(void)
{
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t n) { return note(__builtin_return_address(0)) ? none() : __libc_malloc(n); }
void *calloc(size_t n, size_t size) { return note(__builtin_return_address(0)) ? none() : __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return note(__builtin_return_address(0)) ? none() : __libc_realloc(p, n); }
void *aligned_alloc(size_t align, size_t n) { return note(__builtin_return_address(0)) ? none() : __libc_memalign(align, n); }
int posix_memalign(void **out, size_t align, size_t n)
{
    if (note(__builtin_return_address(0))) return ENOMEM;
    return (*out = __libc_memalign(align, n)) ? 0 : ENOMEM;
}

static void find_binary(void)
{
    Dl_info me;
    if (dladdr((void *)find_binary, &me)) binary_base = me.dli_fbase;
}

/* Runs `rows` requests of one row together, several times; the counts of the later runs. */
static void count_steps(const char *path, const char *input, const int64_t *dims, int threads, int rows)
{
    struct onnx_run run;
    struct err err = { 0 };
    struct engine_options o = { .threads = threads, .cpu_level = 99, .max_batch_rows = 32 };
    static float x[32][3 * 64 * 64];
    static struct request requests[32];
    static struct request_tensor tensors[32];
    struct request *list[32];
    long first_theirs = -1;
    find_binary();
    REQUIRE(binary_base != NULL);
    REQUIRE_OK(onnx_run_open(&run, path, &o, &err), err);
    for (int i = 0; i < rows; i++) {
        test_fill(x[i], sizeof x[i] / 4, 0, 1);
        onnx_run_request(&requests[i], &tensors[i], input, x[i], dims, 4, 1);
        list[i] = &requests[i];
    }
    for (int turn = 0; turn < 6; turn++) {
        for (int i = 0; i < rows; i++) {      /* as a listener recycles its exchanges: the arena's memory of the last use is there */
            arena_reset(&requests[i].arena);
            if (!arena_alloc(&requests[i].arena, 4096, 64)) test_fail(__FILE__, __LINE__, "no memory");
            arena_reset(&requests[i].arena);
            requests[i].outputs = NULL, requests[i].output_count = 0;
            CHECK_OK(onnx_engine.check(run.engine, list[i], &err), err);
        }
        atomic_store(&ours, 0), atomic_store(&theirs, 0);
        struct slot *slots[32];
        atomic_bool stop = false;
        for (int i = 0; i < rows; i++) {
            CHECK_OK(onnx_engine.admit(run.instance, list[i], &slots[i], &err), err);
            slots[i]->request = list[i];
        }
        atomic_store(&counting, true);
        enum status st = onnx_engine.submit(run.instance, slots, rows, &stop, &err);
        if (!st) st = onnx_engine.collect(run.instance, &err);
        atomic_store(&counting, false);
        for (int i = 0; i < rows; i++) onnx_engine.retire(run.instance, slots[i]);
        CHECK_OK(st, err);
        if (turn < 2) continue;      /* the plan is made, the team is started */
        CHECK_INT(atomic_load(&ours), 0);
        if (first_theirs < 0) first_theirs = atomic_load(&theirs);
        CHECK_INT(atomic_load(&theirs), first_theirs);
    }
    printf("     %s, %d rows, %d threads: ours 0, libraries %ld in each step\n", path, rows, threads, first_theirs);
    for (int i = 0; i < rows; i++) arena_free(&requests[i].arena);
    onnx_run_close(&run);
}

TEST(a_step_takes_nothing_from_the_heap)
{
    const int64_t dims[] = { 1, 1, 28, 28 };
    if (access("models/digits/1/model.onnx", R_OK)) SKIP("not started from the top of the tree");
    for (int threads = 1; threads <= 2; threads++) {
        count_steps("models/digits/1/model.onnx", "image", dims, threads, 1);
        count_steps("models/digits/1/model.onnx", "image", dims, threads, 8);
    }
}

/* Opens the model, runs one request, closes: the status of the first thing that failed. */
static enum status open_and_run(struct err *err)
{
    static float x[784];
    static struct request_tensor tensor;
    struct engine_options o = { .threads = 1, .cpu_level = 99, .max_batch_rows = 4 };
    struct onnx_run run;
    struct request q;
    atomic_bool stop = false;
    enum status st = onnx_run_open(&run, "models/digits/1/model.onnx", &o, err);
    if (st) return st;
    onnx_run_request(&q, &tensor, "image", x, (const int64_t[]){ 1, 1, 28, 28 }, 4, 1);
    st = onnx_engine.check(run.engine, &q, err);
    if (!st) st = onnx_run_step(&run, (struct request *[]){ &q }, 1, &stop, err);
    arena_free(&q.arena);
    onnx_run_close(&run);
    return st;
}

/* F9 for the graph engine: the n-th allocation of our own fails, for every n until none is left: a sentence each time, and the next try works. */
TEST(any_allocation_may_fail)
{
    struct err err;
    long failures = 0, n = 0;
    if (access("models/digits/1/model.onnx", R_OK)) SKIP("not started from the top of the tree");
    find_binary();
    for (;; n++) {
        err = (struct err){ 0 };
        atomic_store(&countdown, n);
        atomic_store(&counting, true);
        enum status st = open_and_run(&err);
        atomic_store(&counting, false);
        bool met = atomic_exchange(&countdown, -1) < 0;
        if (!met) {
            CHECK_OK(st, err);
            break;
        }
        if (st && !err.text[0]) test_fail(__FILE__, __LINE__, "allocation %ld fails without a sentence", n);
        failures += st != ST_OK;
    }
    printf("     %ld allocations, %ld of them needed\n", n, failures);
    CHECK(n > 20 && failures > n / 2);
}

TEST(the_counter_counts)
{
    find_binary();
    atomic_store(&ours, 0);
    atomic_store(&counting, true);
    void *volatile p = malloc(10);
    atomic_store(&counting, false);
    free(p);
    CHECK_INT(atomic_load(&ours), 1);
}

#else

TEST(a_step_takes_nothing_from_the_heap) { SKIP("the sanitizers have a heap of their own"); }

#endif
