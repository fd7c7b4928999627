/* Every kind of task on a real GPU beside the functions that its kernels are made of, run on the host (tests/kernels/fake_gpu.h): odd shapes, every float type, results poisoned first. Then
 * recordings, copies and queues. `make gpu-check` builds this from base/, engine/ and kernels/ alone and runs it; with --host the host stands in for the card, which checks the checker; with
 * --emulated (build/release/gpu-check-emulated) the kernels themselves run on the host (tests/cuda/emulated/cuda.h).
 * Status 0: all agree; 1: something differs or there is no card. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/cuda/body.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/kernels/gpu_check.h"

enum { SIDES = 2 /* the reference, the card */ };

struct side { const struct gpu_api *api; struct gpu *gpu; struct gpu_queue *queue; bool (*by)(const struct gpu_task *t); /* of the host: NULL: the reference */ };

/* tests/cuda/emulated/emulate.cu, where it was linked. */
bool emulated_compute(const struct gpu_task *t) __attribute__((weak));

static struct side sides[SIDES];
static int passed, failed, refused;
static uint64_t seed = 1;

uint32_t gpu_check_draw(void)
{
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33);
}

static void die(const char *what, const struct err *err)
{
    printf("FAIL %s: %s\n", what, err->text);
    exit(1);
}

/* |a - b| / |a|, over all of a result; infinite where either is not finite and the other is. */
static double difference(const void *a, const void *b, int type, int64_t n)
{
    double square = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double p = (double)body_load(a, type, i), q = (double)body_load(b, type, i);
        if (p != p && q != q) continue;
        if (p == q) {
            square += isfinite(p) ? p * p : 0;
            continue;
        }
        if (!isfinite(p) || !isfinite(q)) return INFINITY;
        square += p * p;
        sum += (p - q) * (p - q);
    }
    return sum == 0 ? 0 : square > 0 ? sqrt(sum / square) : INFINITY;
}

/* What rounding of the type and another order of addition may make of it. */
static double allowed(int type) { return type == GPU_F32 ? 2e-5 : type == GPU_F16 ? 2e-3 : type == GPU_BF16 ? 1.5e-2 : 0; }

/* Runs the task on one side; results land in out[]. False: it says that it cannot. */
static bool run_on(struct side *s, struct gpu_task t, const struct numbers *n, void *const *data, void **out, bool recorded)
{
    struct err err;
    struct gpu_recording *r = NULL;
    void *at[GPU_OPERANDS] = { NULL };
    for (int k = 0; k < t.operands; k++) {
        if (!n[k].count) continue;
        const uint64_t bytes = (uint64_t)n[k].count * (uint64_t)gpu_type_bytes(n[k].type);
        if (s->api->alloc(s->gpu, bytes, &at[k], &err) || s->api->put(s->queue, at[k], data[k], bytes, &err)) die("memory", &err);
        t.at[k] = at[k];
    }
    for (int k = 0; k < t.operands; k++)
        if (n[k].begins) t.at[n[k].begins - 1] = at[k];
    fake_gpu_compute_by(s->by);
    enum status st = s->api->prepare(s->gpu, &t, &err);
    if (st == ST_UNSUPPORTED) return false;
    if (!st && recorded && !(st = s->api->record(s->queue, &t, 1, &r, &err))) st = s->api->replay(s->queue, r, &err);
    else if (!st) st = s->api->run(s->queue, &t, 1, &err);
    if (st) die("a task", &err);
    for (int k = 0; k < t.operands; k++)
        if (n[k].out && s->api->get(s->queue, out[k], at[k], (uint64_t)n[k].count * (uint64_t)gpu_type_bytes(n[k].type), &err)) die("a copy", &err);
    if (s->api->wait(s->queue, &err)) die("waiting", &err);
    s->api->recording_close(r);
    s->api->release(s->gpu, &t);
    for (int k = 0; k < t.operands; k++) s->api->free(s->gpu, at[k]);
    return true;
}

/* The task on both sides, started and recorded. */
void gpu_check_task(const char *name, struct gpu_task t, const struct numbers *n, int count)
{
    void *data[GPU_OPERANDS] = { NULL }, *out[SIDES][GPU_OPERANDS] = { { NULL } };
    double worst = 0, bound = 0;
    bool ran = true;
    t.operands = count;
    for (int k = 0; k < count; k++) {
        const uint64_t bytes = (uint64_t)n[k].count * (uint64_t)gpu_type_bytes(n[k].type) + 1;
        t.type[k] = n[k].type;
        data[k] = malloc(bytes);
        if (!data[k]) exit(1);
        for (int64_t i = 0; i < n[k].count; i++) body_store(data[k], n[k].type, i, n[k].limit ? (float)(gpu_check_draw() % (unsigned)n[k].limit) : (float)(gpu_check_draw() % 20001) / 10000.0f - 1);
        if (n[k].given) memcpy(data[k], n[k].given, bytes - 1);
        if (n[k].out) memset(data[k], 0xff, bytes);
        for (int s = 0; s < SIDES; s++) out[s][k] = calloc(1, bytes);
    }
    for (int k = 0; k < count; k++)
        if (n[k].begins) memcpy(data[k], data[n[k].begins - 1], (size_t)n[k].count * (size_t)gpu_type_bytes(n[k].type));
    if (!run_on(&sides[0], t, n, data, out[0], false)) exit(1);
    for (int recorded = 0; recorded < 2 && ran; recorded++) {
        ran = run_on(&sides[1], t, n, data, out[1], recorded);
        for (int k = 0; k < count && ran; k++) {
            if (!n[k].out) continue;
            const double d = difference(out[0][k], out[1][k], n[k].type, n[k].count);
            if (d > worst) worst = d;
            const double own = n[k].bound > 0 ? n[k].bound : allowed(n[k].type);
            bound = own > bound ? own : bound;
        }
    }
    if (!ran) refused++;
    else if (worst <= bound) passed++;
    else failed++;
    if (!ran || worst > bound) printf("%s %s, type %d: differs by %.2e, %.2e is allowed\n", ran ? "FAIL" : "none", name, t.type[0], worst, bound);
    for (int k = 0; k < count; k++) {
        free(data[k]);
        for (int s = 0; s < SIDES; s++) free(out[s][k]);
    }
}

/* ---- the kinds ---- */
static void pointwise(int type)
{
    for (int f = 0; f < GPU_FUNCTION_COUNT; f++)
        for (int shape = 0; shape < 2; shape++) {
            const int inputs = f < GPU_ADD ? 1 : f < GPU_WHERE ? 2 : 3;
            const int64_t n = 5 * 37 * 13;
            struct gpu_task t = { .kind = GPU_POINTWISE, .u.pointwise = { .function = f, .inputs = inputs, .alpha = 0.7f, .beta = 1.1f, .count = n } };
            if (shape) {              /* [5, 37, 13]: whole, by rows turned, and one for each of the middle */
                const struct gpu_pointwise steps = { .rank = 3, .dims = { 5, 37, 13 }, .steps = { { 481, 13, 1 }, { 1, 5, 185 }, { 0, 1, 0 } } };
                t.u.pointwise.rank = 3;
                memcpy(t.u.pointwise.dims, steps.dims, sizeof steps.dims);
                memcpy(t.u.pointwise.steps, steps.steps, sizeof steps.steps);
            }
            struct numbers o[4] = { { type, n, 0, false, 0, NULL, 0 }, { type, n, 0, false, 0, NULL, 0 }, { type, n, 0, false, 0, NULL, 0 } };
            o[inputs] = (struct numbers){ type, n, 0, true, 0, NULL, 0 };
            gpu_check_task("pointwise", t, o, inputs + 1);
        }
    for (int a = 0; a < ACT_COUNT; a++) {
        struct gpu_task t = { .kind = GPU_POINTWISE, .u.pointwise = { .function = GPU_COPY, .inputs = 1, .act = { (enum activation)a, 0.2f, 0.5f }, .count = 1031 } };
        gpu_check_task("activation", t, (struct numbers[]){ { type, 1031, 0, false, 0, NULL, 0 }, { type, 1031, 0, true, 0, NULL, 0 } }, 2);
    }
    for (int to = 0; to < GPU_TYPE_COUNT; to++) {
        struct gpu_task t = { .kind = GPU_POINTWISE, .u.pointwise = { .function = GPU_COPY, .inputs = 1, .count = 777 } };
        gpu_check_task("cast", t, (struct numbers[]){ { type, 777, 100, false, 0, NULL, 0 }, { to, 777, 0, true, 0, NULL, 0 } }, 2);
        gpu_check_task("cast back", t, (struct numbers[]){ { to, 777, 100, false, 0, NULL, 0 }, { type, 777, 0, true, 0, NULL, 0 } }, 2);
    }
}

static void moves(int type)
{
    const int size = gpu_type_bytes(type);
    const struct gpu_move turned = { .rank = 3, .size = size, .count = 3 * 45 * 70, .dims = { 3, 45, 70 }, .x_steps = { 3150, 1, 45 }, .y_steps = { 3150, 70, 1 } };
    const struct gpu_move mirrored = { .rank = 2, .size = size, .count = 9 * 11, .from = 10, .to = 2, .dims = { 9, 11 }, .x_steps = { 11, -1 }, .y_steps = { 13, 1 } };
    const struct gpu_move same = { .rank = 1, .size = size, .count = 999, .from = 1, .dims = { 999 }, .x_steps = { 1 }, .y_steps = { 1 } };
    gpu_check_task("turned", (struct gpu_task){ .kind = GPU_MOVE, .u.move = turned }, (struct numbers[]){ { type, 9450, 0, false, 0, NULL, 0 }, { type, 9450, 0, true, 0, NULL, 0 } }, 2);
    gpu_check_task("mirrored", (struct gpu_task){ .kind = GPU_MOVE, .u.move = mirrored }, (struct numbers[]){ { type, 99, 0, false, 0, NULL, 0 }, { type, 119, 0, true, 0, NULL, 0 } }, 2);
    gpu_check_task("copied", (struct gpu_task){ .kind = GPU_MOVE, .u.move = same }, (struct numbers[]){ { type, 1000, 0, false, 0, NULL, 0 }, { type, 999, 0, true, 0, NULL, 0 } }, 2);
    gpu_check_task("filled", (struct gpu_task){ .kind = GPU_FILL, .u.fill = { .size = size, .count = 515, .bits = 0x3c00 } }, (struct numbers[]){ { type, 515, 0, true, 0, NULL, 0 } }, 1);
    gpu_check_task("gathered", (struct gpu_task){ .kind = GPU_GATHER, .u.gather = { .size = size, .outer = 3, .n = 17, .inner = 9, .count = 21 } },
          (struct numbers[]){ { type, 459, 0, false, 0, NULL, 0 }, { GPU_I64, 21, 17, false, 0, NULL, 0 }, { type, 567, 0, true, 0, NULL, 0 }, { GPU_I32, 1, 1, false, 0, NULL, 0 } }, 4);
    gpu_check_task("rotated", (struct gpu_task){ .kind = GPU_ROTATE, .u.rotate = { 15, 50, 6, 4, 10, 5, 8 } }, (struct numbers[]){ { type, 750, 0, false, 0, NULL, 0 }, { type, 40, 0, false, 0, NULL, 0 }, { type, 750, 0, true, 0, NULL, 0 } }, 3);
    gpu_check_task("pixels", (struct gpu_task){ .kind = GPU_PIXELS, .u.pixels = { .n = 2, .space = 35, .channels = 3, .last = type != GPU_F32 } },
          (struct numbers[]){ { GPU_U8, 210, 256, false, 0, NULL, 0 }, { type, 210, 0, true, 0, NULL, 0 }, { GPU_F32, 3, 0, false, 0, NULL, 0 }, { GPU_F32, 3, 0, false, 0, NULL, 0 } }, 4);
}

static void rows(int type)
{
    static const int64_t lengths[] = { 1, 31, 768, 1025, 5000 };
    for (int i = 0; i < 5; i++) {
        const int64_t n = lengths[i], all = 7 * n;
        gpu_check_task("softmax", (struct gpu_task){ .kind = GPU_SOFTMAX, .u.softmax = { 7, n, 1, false } }, (struct numbers[]){ { type, all, 0, false, 0, NULL, 0 }, { type, all, 0, true, 0, NULL, 0 } }, 2);
        gpu_check_task("log softmax over a middle axis", (struct gpu_task){ .kind = GPU_SOFTMAX, .u.softmax = { 1, n, 7, true } }, (struct numbers[]){ { type, all, 0, false, 0, NULL, 0 }, { type, all, 0, true, 0, NULL, 0 } }, 2);
        for (int rms = 0; rms < 2; rms++)
            gpu_check_task("norm of rows", (struct gpu_task){ .kind = GPU_NORM_ROWS, .u.norm_rows = { 7, n, 1e-5f, rms } }, (struct numbers[]){ { type, all, 0, false, 0, NULL, 0 }, { type, all, 0, true, 0, NULL, 0 }, { type, n, 0, false, 0, NULL, 0 }, { type, rms ? 0 : n, 0, false, 0, NULL, 0 } }, 4);
        for (int r = 0; r <= GPU_RED_ARGMIN; r++) {
            const struct gpu_reduce reduce = { .reduction = r, .kept_rank = 1, .gone_rank = 1, .count = 7, .length = n, .kept = { 7 }, .kept_steps = { 1 }, .gone = { n }, .gone_steps = { 7 } };
            if (r == GPU_RED_LOG_SUM || (r == GPU_RED_PROD && n > 31)) continue;
            gpu_check_task("reduction", (struct gpu_task){ .kind = GPU_REDUCE, .u.reduce = reduce }, (struct numbers[]){ { type, all, 0, false, 0, NULL, 0 }, { r >= GPU_RED_ARGMAX ? GPU_I64 : type, 7, 0, true, 0, NULL, 0 } }, 2);
        }
    }
    for (int last = 0; last < 2; last++)
        gpu_check_task("norm of channels", (struct gpu_task){ .kind = GPU_NORM_CHANNELS, .u.norm_channels = { 2, 12, 3, 95, 1e-5f, last, { ACT_SILU, 0, 0 } } },
              (struct numbers[]){ { type, 2280, 0, false, 0, NULL, 0 }, { type, 2280, 0, true, 0, NULL, 0 }, { type, 12, 0, false, 0, NULL, 0 }, { type, 12, 0, false, 0, NULL, 0 } }, 4);
}

static void windows(int type)
{
    for (int last = 0; last < 2; last++)
        for (int p = 0; p <= GPU_POOL_AVERAGE_PADDED; p++)
            gpu_check_task("pool", (struct gpu_task){ .kind = GPU_POOL, .u.pool = { p, last, 2, 5, { 2, { 13, 11 }, { 7, 6 }, { 3, 3 }, { 2, 2 }, { 1, 1 }, { 1, 1 }, { 1, 1 } } } }, (struct numbers[]){ { type, 1430, 0, false, 0, NULL, 0 }, { type, 420, 0, true, 0, NULL, 0 } }, 2);
    gpu_check_task("resize", (struct gpu_task){ .kind = GPU_RESIZE, .u.resize = { 3, 8, 20, 5, 2 } }, (struct numbers[]){ { type, 120, 0, false, 0, NULL, 0 }, { type, 300, 0, true, 0, NULL, 0 }, { GPU_I32, 40, 8, false, 0, NULL, 0 }, { GPU_F32, 40, 0, false, 0, NULL, 0 } }, 4);
}

static void products(int type)
{
    static const int64_t shapes[][3] = { { 1, 260, 512 }, { 17, 33, 65 }, { 72, 96, 128 }, { 300, 10, 7 } };
    static const enum activation acts[] = { ACT_NONE, ACT_RELU, ACT_GELU_TANH, ACT_GELU, ACT_SILU };
    for (int s = 0; s < 4; s++)
        for (int a = 0; a < 5; a++)
            for (int turned = 0; turned < 4; turned++) {
                const int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2], batch = turned == 3 ? 3 : 1;
                struct gpu_product p = { .m = m, .n = n, .k = k, .batch = batch, .a_step = batch > 1 ? m * k : 0, .b_step = batch > 1 ? n * k : 0, .alpha = turned == 2 ? 0.5f : 1, .a_turned = turned == 1, .b_turned = turned == 2, .has_bias = a != 2, .has_residual = a > 2, .act = { acts[a], 0, 0 } };
                gpu_check_task("product", (struct gpu_task){ .kind = GPU_PRODUCT, .u.product = p },
                      (struct numbers[]){ { type, batch * m * k, 0, false, 0, NULL, 0 }, { type, batch * n * k, 0, false, 0, NULL, 0 }, { type, batch * m * n, 0, true, 0, NULL, 0 }, { type, p.has_bias ? n : 0, 0, false, 0, NULL, 0 }, { type, p.has_residual ? batch * m * n : 0, 0, false, 0, NULL, 0 } }, 5);
            }
}

/* Halves whose result is floats, as language models ask for. */
static void mixed_products(int type)
{
    for (int a = 0; a < 2; a++)
        for (int residual = 0; residual < 2; residual++) {
            const struct gpu_product p = { .m = 37, .n = 96, .k = 128, .batch = 1, .alpha = 1, .b_turned = true, .has_bias = true, .has_residual = residual, .act = { a ? ACT_GELU_TANH : ACT_NONE, 0, 0 } };
            gpu_check_task("product of halves in floats", (struct gpu_task){ .kind = GPU_PRODUCT, .u.product = p },
                           (struct numbers[]){ { type, 37 * 128, 0, false, 0, NULL, 0 }, { type, 96 * 128, 0, false, 0, NULL, 0 }, { GPU_F32, 37 * 96, 0, true, 0, NULL, 0 }, { GPU_F32, 96, 0, false, 0, NULL, 0 }, { GPU_F32, residual ? 37 * 96 : 0, 0, false, 0, NULL, 0 } }, 5);
        }
}

static void convolutions(int type)
{
    static const struct { struct gpu_conv c; } cases[] = {
        { { .n = 2, .in_c = 16, .out_c = 24, .groups = 1, .has_bias = true, .act = { ACT_RELU, 0, 0 }, .w = { 2, { 13, 11 }, { 13, 11 }, { 3, 3 }, { 1, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 } } } },
        { { .n = 1, .in_c = 3, .out_c = 8, .groups = 1, .has_bias = true, .w = { 2, { 17, 17 }, { 9, 9 }, { 7, 7 }, { 2, 2 }, { 1, 1 }, { 3, 3 }, { 3, 3 } } } },
        { { .n = 2, .in_c = 32, .out_c = 32, .groups = 32, .has_bias = true, .act = { ACT_CLIP, 0, 6 }, .w = { 2, { 9, 9 }, { 5, 5 }, { 3, 3 }, { 2, 2 }, { 1, 1 }, { 1, 1 }, { 1, 1 } } } },
        { { .n = 1, .in_c = 32, .out_c = 64, .groups = 1, .has_bias = true, .has_residual = true, .act = { ACT_RELU, 0, 0 }, .w = { 2, { 7, 7 }, { 7, 7 }, { 1, 1 }, { 1, 1 }, { 1, 1 }, { 0, 0 }, { 0, 0 } } } },
        { { .n = 2, .in_c = 16, .out_c = 16, .groups = 1, .has_residual = true, .act = { ACT_HARD_SWISH, 0, 0 }, .w = { 2, { 12, 12 }, { 12, 12 }, { 3, 3 }, { 1, 1 }, { 2, 2 }, { 2, 2 }, { 2, 2 } } } },
        { { .n = 2, .in_c = 8, .out_c = 16, .groups = 1, .has_bias = true, .w = { 1, { 50 }, { 24 }, { 5 }, { 2 }, { 1 }, { 1 }, { 1 } } } },
        { { .n = 1, .in_c = 8, .out_c = 8, .groups = 2, .w = { 3, { 6, 7, 8 }, { 6, 7, 8 }, { 3, 3, 3 }, { 1, 1, 1 }, { 1, 1, 1 }, { 1, 1, 1 }, { 1, 1, 1 } } } },
        { { .n = 2, .in_c = 16, .out_c = 8, .groups = 1, .transposed = true, .has_bias = true, .act = { ACT_RELU, 0, 0 }, .w = { 2, { 14, 14 }, { 7, 7 }, { 2, 2 }, { 2, 2 }, { 1, 1 }, { 0, 0 }, { 0, 0 } } } },
        { { .n = 1, .in_c = 8, .out_c = 12, .groups = 1, .transposed = true, .w = { 2, { 13, 13 }, { 7, 7 }, { 3, 3 }, { 2, 2 }, { 1, 1 }, { 1, 1 }, { 1, 1 } } } },
    };
    for (int i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        const struct gpu_conv *c = &cases[i].c;
        int64_t x = c->n * c->in_c, y = c->n * c->out_c, w = c->transposed ? c->in_c * c->out_c / c->groups : c->out_c * c->in_c / c->groups;
        for (int d = 0; d < c->w.dims; d++) x *= c->transposed ? c->w.out[d] : c->w.in[d], y *= c->transposed ? c->w.in[d] : c->w.out[d], w *= c->w.kernel[d];
        for (int in_place = 0; in_place <= c->has_residual; in_place++)
            gpu_check_task(in_place ? "convolution in its residual's place" : "convolution", (struct gpu_task){ .kind = GPU_CONV, .u.conv = *c },
                  (struct numbers[]){ { type, x, 0, false, 0, NULL, 0 }, { type, w, 0, false, 0, NULL, 0 }, { type, y, 0, true, in_place ? 5 : 0, NULL, 0 }, { type, c->has_bias ? c->out_c : 0, 0, false, 0, NULL, 0 }, { type, c->has_residual ? y : 0, 0, false, 0, NULL, 0 } }, 5);
    }
}

static void attentions(int type)
{
    static const int sizes[] = { 5, 40, 64, 80, 128, 160 };
    for (int i = 0; i < 6; i++)
        for (int mask = 0; mask < 4; mask++) {
            const int64_t d = sizes[i], heads = 3, tokens = 35, keys = mask == 3 ? 35 : 77, row = heads * d;
            struct gpu_attention a = { .batch = 2, .heads = heads, .queries = tokens, .keys = keys, .head_dim = d, .head_dim_v = d, .group = 1, .scale = 0.2f, .causal = mask == 3,
                                       .q = { tokens * row, d, row }, .k = { keys * row, d, row }, .v = { keys * row, d, row }, .y = { tokens * row, d, row } };
            if (mask == 1) a.masks[0] = (struct gpu_mask){ .kind = GPU_MASK_ADD, .row = keys };
            if (mask == 2) a.masks[1] = (struct gpu_mask){ .kind = GPU_MASK_SEEN, .unseen = -1e4f, .query = keys };
            gpu_check_task("attention", (struct gpu_task){ .kind = GPU_ATTENTION, .u.attention = a },
                  (struct numbers[]){ { type, 2 * tokens * row, 0, false, 0, NULL, 0 }, { type, 2 * keys * row, 0, false, 0, NULL, 0 }, { type, 2 * keys * row, 0, false, 0, NULL, 0 }, { type, 2 * tokens * row, 0, true, 0, NULL, 0 },
                                      { type, mask == 1 ? 2 * keys : 0, 0, false, 0, NULL, 0 }, { GPU_U8, mask == 2 ? tokens * keys : 0, 2, false, 0, NULL, 0 }, { GPU_I32, mask == 0 ? 2 : 0, 0, false, 0, (int32_t[]){ 70, 19 }, 0 } }, 7);
        }
}

int main(int argc, char **argv)
{
    const bool emulates = argc > 1 && strcmp(argv[1], "--emulated") == 0, host = emulates || (argc > 1 && strcmp(argv[1], "--host") == 0);
    if (emulates && !emulated_compute) {
        printf("gpu-check: this one was built without the kernels\n");
        return 1;
    }
    if (emulates) sides[1].by = emulated_compute;
    struct err err;
    struct gpu_info info;
    sides[0].api = fake_gpu_api();
    sides[1].api = host ? fake_gpu_api() : gpu_library(argc > 1 ? argv[1] : NULL, &err);
    if (!sides[1].api) {
        printf("gpu-check: nothing was checked: %s\n", err.text);
        return 1;
    }
    for (int s = 0; s < SIDES; s++)
        if (sides[s].api->open(&sides[s].gpu, 0, 0, NULL, &err) || sides[s].api->queue_open(sides[s].gpu, &sides[s].queue, &err)) die("opening", &err);
    sides[1].api->info(sides[1].gpu, &info);
    printf("%s, compute capability %d.%d, %d processors, %s\n", info.name, info.major, info.minor, info.processors, info.driver);
    for (int type = GPU_F32; type <= GPU_BF16; type++) {
        pointwise(type);
        moves(type);
        rows(type);
        windows(type);
        products(type);
        if (type != GPU_F32) mixed_products(type);
        convolutions(type);
        attentions(type);
    }
    gpu_check_llm();
    for (int s = 0; s < SIDES; s++) {
        sides[s].api->queue_close(sides[s].queue);
        sides[s].api->close(sides[s].gpu);
    }
    printf("%d passed, %d failed, %d not taken by the device\n", passed, failed, refused);
    return failed != 0;
}
