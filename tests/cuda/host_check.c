/* The host side of the GPU library without a card (tests/cuda/shim.h): one pass over everything it does, and then that pass with each of its calls failing in turn, out of memory and as a broken
 * context. Every failure must be told as a status and leave nothing behind. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gpu.h"
#include "tests/cuda/shim.h"

enum { CALLS_MAX = 2000, N = 4, CHANNELS = 8, SIDE = 5, PIXELS = SIDE * SIDE, NUMBERS = PIXELS * CHANNELS };

static int passed, failed;

static void expect(int truth, const char *what, uint64_t at)
{
    passed += truth != 0;
    if (truth) return;
    printf("FAIL call %llu: %s\n", (unsigned long long)at, what);
    failed++;
}

static enum status prepare_all(const struct gpu_api *api, struct gpu *g, struct gpu_task *tasks, int count, int *ready, struct err *err)
{
    enum status st = ST_OK;
    for (*ready = 0; *ready < count && !st; *ready += !st) st = api->prepare(g, &tasks[*ready], err);
    return st;
}

/* A convolution, a product and an activation on a queue, started, recorded and replayed; y[0] is what became of one number. */
static enum status work(const struct gpu_api *api, struct gpu *g, struct gpu_queue *q, char *memory, float *y, struct err *err)
{
    float x[NUMBERS], w[CHANNELS * CHANNELS];
    struct gpu_recording *r = NULL;
    char *at = memory;
    int ready = 0;
    struct gpu_task tasks[3] = {
        { .kind = GPU_CONV, .operands = 5, .u.conv = { .n = 1, .in_c = CHANNELS, .out_c = CHANNELS, .groups = 1, .has_bias = true, .has_residual = true, .act = { ACT_RELU, 0, 0 }, .w = { 2, { SIDE, SIDE }, { SIDE, SIDE }, { 1, 1 }, { 1, 1 }, { 1, 1 }, { 0, 0 }, { 0, 0 } } } },
        { .kind = GPU_PRODUCT, .operands = 5, .u.product = { .m = PIXELS, .n = CHANNELS, .k = CHANNELS, .batch = 1, .alpha = 1, .has_bias = true, .act = { ACT_SILU, 0, 0 } } },
        { .kind = GPU_POINTWISE, .operands = 2, .u.pointwise = { .function = GPU_SCALE, .inputs = 1, .alpha = 2, .count = NUMBERS } },
    };
    for (int i = 0; i < NUMBERS; i++) x[i] = 1;
    for (int i = 0; i < CHANNELS * CHANNELS; i++) w[i] = 0.125f;
    char *places[4] = { at, at + 4096, at + 8192, at + 12288 };          /* x, y, weight, bias */
    tasks[0].at[0] = places[0], tasks[0].at[1] = places[2], tasks[0].at[2] = places[1], tasks[0].at[3] = places[3], tasks[0].at[4] = places[0];
    tasks[1].at[0] = places[1], tasks[1].at[1] = places[2], tasks[1].at[2] = places[0], tasks[1].at[3] = places[3];
    tasks[2].at[0] = places[0], tasks[2].at[1] = places[1];
    enum status st = api->put(q, places[0], x, sizeof x, err);
    if (!st) st = api->put(q, places[2], w, sizeof w, err);
    if (!st) st = api->put(q, places[3], w, CHANNELS * sizeof *w, err);
    if (!st) st = prepare_all(api, g, tasks, 3, &ready, err);
    if (!st) st = api->run(q, tasks, 3, err);
    if (!st) st = api->wait(q, err);
    if (!st) st = api->put(q, places[0], x, sizeof x, err);
    if (!st) st = api->record(q, tasks, 3, &r, err);
    if (!st) st = api->replay(q, r, err);
    if (!st) st = api->get(q, y, places[1], NUMBERS * sizeof *y, err);
    struct err late;
    const enum status waited = api->wait(q, st ? &late : err);
    api->recording_close(r);
    for (int i = 0; i < ready; i++) api->release(g, &tasks[i]);
    return st ? st : waited;
}

static enum status pass(const struct gpu_api *api, float *y, struct err *err)
{
    struct gpu *g = NULL;
    struct gpu_queue *q = NULL;
    void *memory = NULL, *pinned = NULL;
    enum status st = api->open(&g, 0, 0, NULL, err);
    if (st) return st;
    st = api->queue_open(g, &q, err);
    if (!st) st = api->alloc(g, 1 << 16, &memory, err);
    if (!st) st = api->pin(g, 4096, &pinned, err);
    if (!st) st = work(api, g, q, memory, y, err);
    api->free(g, memory);
    api->unpin(g, pinned);
    api->queue_close(q);
    api->close(g);
    return st;
}

/* Copies from memory that is not pinned, more than the staging halves hold, of sizes that fill a half to its end, cross it, and pass it whole. */
static void put_many(const struct gpu_api *api)
{
    enum { MIB = 1 << 20, PIECES = 6 };
    static const uint64_t sizes[PIECES] = { 4 * MIB, 4 * MIB, 8 * MIB, 5 * MIB, 5 * MIB, 9 * MIB };
    struct gpu *g;
    struct gpu_queue *q;
    struct err err;
    char *at[PIECES], *host = malloc(9 * MIB);
    expect(api->open(&g, 0, 0, NULL, &err) == ST_OK && api->queue_open(g, &q, &err) == ST_OK && host, "a queue", 0);
    for (int i = 0; i < PIECES; i++) {
        void *p = NULL;
        expect(api->alloc(g, sizes[i], &p, &err) == ST_OK, "memory", 0);
        at[i] = p;
        memset(host, 'a' + i, sizes[i]);
        expect(api->put(q, p, host, sizes[i], &err) == ST_OK, "a copy", 0);
    }
    expect(api->wait(q, &err) == ST_OK, "waiting", 0);
    for (int i = 0; i < PIECES; i++) {
        expect(at[i][0] == 'a' + i && at[i][sizes[i] - 1] == 'a' + i, "what was copied is there", 0);
        api->free(g, at[i]);
    }
    api->queue_close(q);
    api->close(g);
    free(host);
    expect(shim_held() == 0, "copies leave nothing", 0);
}

/* cuBLASLt offers nothing with bias and activation: a kernel does them behind the plain product. */
static void without_epilogue(const struct gpu_api *api)
{
    struct gpu *g;
    struct gpu_queue *q;
    struct err err;
    void *p = NULL;
    float x[CHANNELS], y[CHANNELS] = { 0 };
    const int before = shim_finishes();
    struct gpu_task t = { .kind = GPU_PRODUCT, .operands = 5, .u.product = { .m = 1, .n = 1, .k = CHANNELS, .batch = 1, .alpha = 1, .has_bias = true, .act = { ACT_RELU, 0, 0 } } };
    expect(api->open(&g, 0, 0, NULL, &err) == ST_OK && api->queue_open(g, &q, &err) == ST_OK && api->alloc(g, 4096, &p, &err) == ST_OK, "a queue and memory", 0);
    char *at = p;
    for (int i = 0; i < CHANNELS; i++) x[i] = 0.5f;
    t.at[0] = t.at[1] = t.at[3] = at, t.at[2] = at + 1024;               /* every operand is 0.5 */
    shim_refuse_epilogues(1);
    expect(api->put(q, at, x, sizeof x, &err) == ST_OK && api->prepare(g, &t, &err) == ST_OK && api->run(q, &t, 1, &err) == ST_OK && api->get(q, y, at + 1024, sizeof *y, &err) == ST_OK && api->wait(q, &err) == ST_OK, "a product", 0);
    shim_refuse_epilogues(0);
    expect(fabsf(y[0] - (CHANNELS * 0.25f + 0.5f)) < 1e-5f && shim_finishes() == before + 1, "a product without the library's epilogue is right", 0);
    api->release(g, &t);
    api->free(g, p);
    api->queue_close(q);
    api->close(g);
    expect(shim_held() == 0, "it leaves nothing", 0);
}

int main(void)
{
    const struct gpu_api *api = inferd_gpu_api();
    const float first = 8 * 0.125f + 0.125f + 1, second = 8 * 0.125f * first + 0.125f, want = 2 * (second / (1 + expf(-second)));
    float y[NUMBERS];
    struct err err = { 0 };
    expect(api->count() == 1, "one card", 0);
    expect(pass(api, y, &err) == ST_OK && fabsf(y[NUMBERS - 1] - want) < 1e-5f, "a whole pass is right", 0);
    expect(shim_held() == 0, "a whole pass leaves nothing", 0);
    expect(shim_finishes() == 2, "only the product needs a kernel behind it, started once and recorded once", 0);
    without_epilogue(api);
    put_many(api);
    uint64_t tried = 0;
    for (int memory = 0; memory < 2; memory++)
        for (uint64_t at = 1; at < CALLS_MAX; at++) {
            shim_fail(at, memory);
            const enum status st = pass(api, y, &err);
            const uint64_t calls = shim_fail(0, 0);
            if (st) expect((st == ST_NO_MEMORY || st == ST_UNAVAILABLE || st == ST_INTERNAL || st == ST_UNSUPPORTED) && err.text[0], "a failure has a status and a sentence", at);
            else expect(fabsf(y[NUMBERS - 1] - want) < 1e-5f, "what does not fail is right", at);
            expect(shim_held() == 0, "a failed pass leaves nothing", at);
            tried++;
            if (calls < at) break;
        }
    printf("%llu calls failed in turn\n%d passed, %d failed, 0 skipped\n", (unsigned long long)tried, passed, failed);
    return failed != 0;
}
