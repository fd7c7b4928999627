/* Quantised files on bytes: the small files of tests/engine/quantised against onnxruntime's answers, at every level; what they become; the trial */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "engine/formats/npy.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "engine/onnx/trial.h"
#include "tests/engine/onnx_run.h"
#include "tests/test.h"

/* Nodes of operators on bytes that each file has in the end. Off: how many quanta of its last value an answer may be off by; its quantum is that of the answers' own spread / 255. */
static const struct file { const char *name; int layers, sums, tables, scales, pools, means, floats; double off; } files[] = {
    { "residual", 6, 1, 0, 0, 1, 1, 0, 1 },
    { "residual_signed", 6, 1, 0, 0, 1, 1, 0, 1 },
    { "residual_tensor", 6, 1, 0, 0, 1, 1, 0, 1 },
    { "gated", 6, 0, 0, 1, 0, 1, 0, 1 },
    { "joined", 4, 0, 1, 0, 1, 0, 0, 1 },
    { "encoder", 3, 0, 0, 0, 0, 0, 0, 1 },
    { "encoder_dynamic", 3, 0, 0, 0, 0, 0, 0, 1 },
    { "residual_operators", 5, 0, 1, 0, 0, 0, 1, 1 },
};
enum { FILES = sizeof files / sizeof *files };

static const char *path_of(const char *name, const char *end)
{
    static char path[256];
    snprintf(path, sizeof path, "tests/engine/quantised/%s%s", name, end);
    return path;
}

static struct tensor read_npy(struct arena *arena, const char *name, const char *end)
{
    struct tensor t = { 0 };
    struct err err = { 0 };
    FILE *f = fopen(path_of(name, end), "rb");
    char *bytes = arena_alloc(arena, 1 << 20, 64);
    if (!f || !bytes || npy_parse(&t, arena, bytes, fread(bytes, 1, 1 << 20, f), &err)) test_fail(__FILE__, __LINE__, "%s%s: %s", name, end, err.text);
    if (f) fclose(f);
    return t;
}

/* The model's answers to the file's input; NULL: it failed. `e` is told what it became. */
static float *answers(const char *name, enum precision p, enum cpu_level level, struct arena *arena, int64_t *count, void (*look)(const struct engine *e, const char *name))
{
    const struct engine_options o = { .threads = 2, .cpu_level = (int)level, .max_batch_rows = 4, .precision = p };
    const struct tensor x = read_npy(arena, name, ".x.npy");
    struct onnx_run m;
    struct err err = { 0 };
    struct request q, *one = &q;
    struct request_tensor slot;
    float *y = NULL;
    if (onnx_run_open(&m, path_of(name, ".onnx"), &o, &err)) {
        test_fail(__FILE__, __LINE__, "%s: %s", name, err.text);
        return NULL;
    }
    if (look) look(m.engine, name);
    float *input = arena_alloc(arena, x.bytes, 64);
    memcpy(input, x.data, x.bytes);
    onnx_run_request(&q, &slot, m.signature->inputs[0].name, input, x.dims, x.rank, x.dims[0]);
    if (onnx_run_step(&m, &one, 1, NULL, &err)) test_fail(__FILE__, __LINE__, "%s: %s", name, err.text);
    else {
        const struct tensor *t = &q.outputs[0].tensor;
        CHECK_INT(t->dtype, DT_F32);
        *count = (int64_t)(t->bytes / sizeof *y);
        y = arena_alloc(arena, t->bytes, 64);
        memcpy(y, t->data, t->bytes);
    }
    request_drop(&q);
    onnx_run_close(&m);
    return y;
}

static double largest_distance(const float *a, const float *b, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = test_worse(most, fabs((double)a[i] - b[i]));
    return most;
}

TEST(files_agree_with_onnxruntime_to_a_quantum_at_every_level)
{
    for (int i = 0; i < FILES; i++)
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct arena arena;
            int64_t n = 0;
            arena_init(&arena, 64 << 20);
            const struct tensor want = read_npy(&arena, files[i].name, ".y.npy");
            const float *w = want.data, *y = answers(files[i].name, PRECISION_INT8, (enum cpu_level)level, &arena, &n, NULL);
            if (y && w) {
                float low = w[0], high = w[0];
                CHECK_INT(n, (long long)(want.bytes / sizeof *w));
                for (int64_t k = 0; k < n; k++) low = fminf(low, w[k]), high = fmaxf(high, w[k]);
                const double off = largest_distance(y, w, n) / ((high - low) / 255);
                if (!(off <= 1.5 * files[i].off)) test_fail(__FILE__, __LINE__, "%s at level %s is %.2f quanta off", files[i].name, cpu_level_name((enum cpu_level)level), off);
            }
            arena_free(&arena);
        }
}

static int count_nodes(const struct engine *e, const char *op)
{
    int n = 0;
    for (int i = 0; i < e->import.graph.node_count; i++) n += !e->import.graph.nodes[i].dead && !strcmp(e->import.graph.nodes[i].op->name, op);
    return n;
}

static void look_at(const struct engine *e, const char *name)
{
    const struct file *f = files;
    while (strcmp(f->name, name)) f++;
    int sums = 0;
    for (int i = 0; i < e->import.graph.node_count; i++) {
        const struct node *n = &e->import.graph.nodes[i];
        sums += n->bytes && n->residual >= 0;
    }
    CHECK_INT(count_nodes(e, "BytesConv") + count_nodes(e, "BytesProduct") + count_nodes(e, "BytesTranspose"), f->layers);
    CHECK_INT(sums, f->sums);
    CHECK_INT(count_nodes(e, "BytesTable"), f->tables);
    CHECK_INT(count_nodes(e, "BytesScale"), f->scales);
    CHECK_INT(count_nodes(e, "BytesPool"), f->pools);
    CHECK_INT(count_nodes(e, "BytesMean"), f->means);
    CHECK_INT(count_nodes(e, "Conv") + count_nodes(e, "Gemm") + count_nodes(e, "MatMul") + count_nodes(e, "MatMulInteger") + count_nodes(e, "QLinearConv"), f->floats);
    CHECK_TEXT(e->signature.precision.name, "int8");
}

TEST(patterns_become_operators_on_bytes)
{
    for (int i = 0; i < FILES; i++) {
        struct arena arena;
        int64_t n;
        arena_init(&arena, 64 << 20);
        answers(files[i].name, PRECISION_INT8, CPU_AMX, &arena, &n, look_at);
        arena_free(&arena);
    }
}

static void look_at_floats(const struct engine *e, const char *name)
{
    CHECK_INT(count_nodes(e, "BytesConv"), 0);
    CHECK_TEXT(e->signature.precision.name, "f32");
    if (!strcmp(name, "residual")) CHECK_INT(count_nodes(e, "Conv"), 5);
}

TEST(in_f32_the_file_is_computed_as_it_is_written)
{
    for (int i = 0; i < FILES; i++) {
        struct arena arena;
        int64_t n = 0;
        arena_init(&arena, 64 << 20);
        const struct tensor want = read_npy(&arena, files[i].name, ".y.npy");
        const float *y = answers(files[i].name, PRECISION_F32, CPU_AMX, &arena, &n, look_at_floats);
        if (y) {
            float low = y[0], high = y[0];
            for (int64_t k = 0; k < n; k++) low = fminf(low, y[k]), high = fmaxf(high, y[k]);
            CHECK(largest_distance(y, want.data, n) <= 1.5 * (high - low) / 255);
        }
        arena_free(&arena);
    }
}

/* A trial's inputs through the file in float and in bytes: alike, and within the bound that auto asks for. */
TEST(the_trial_takes_a_quantised_file_in_bytes)
{
    const struct engine_options o = { .threads = 1, .cpu_level = CPU_AMX, .max_batch_rows = 1, .precision = PRECISION_F32 }, p = { .threads = 1, .cpu_level = CPU_AMX, .max_batch_rows = 1, .precision = PRECISION_INT8 };
    struct engine *floats, *bytes;
    struct trial *t;
    struct err err = { 0 };
    double error = 1, gain = 0;
    const char *path = path_of("joined", ".onnx");
    REQUIRE_OK(onnx_engine.open(&floats, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
    REQUIRE_OK(onnx_engine.open(&bytes, &(struct model_files){ NULL, path, NULL }, &p, &err), err);
    CHECK(floats->quantised && bytes->quantised);
    CHECK(!trial_wanted(&floats->import.graph, 1 << 30));          /* so little work is not tried */
    REQUIRE_OK(trial_begin(&t, &floats->import.graph, 1 << 30, &err), err);
    CHECK_OK(trial_compare(t, &bytes->import.graph, &error, &gain, &err), err);
    CHECK(error <= TRIAL_INT8_ERROR_MAX && gain > 0);
    trial_end(t);
    onnx_engine.close(floats);
    onnx_engine.close(bytes);
}

/* Weights in bytes are charged to the model: a budget that is too small fails the load with a sentence. */
TEST(a_budget_too_small_for_the_bytes_fails_the_load)
{
    struct engine *e;
    struct err err = { 0 };
    int failed = 0;
    for (uint64_t budget = 8 << 10; budget <= 4 << 20; budget *= 2) {
        const struct engine_options o = { .threads = 1, .cpu_level = CPU_AMX, .max_batch_rows = 1, .precision = PRECISION_INT8, .memory_max = budget };
        const enum status st = onnx_engine.open(&e, &(struct model_files){ NULL, path_of("residual", ".onnx"), NULL }, &o, &err);
        if (!st) onnx_engine.close(e);
        else CHECK(st == ST_NO_MEMORY && err.text[0]);
        failed += st != ST_OK;
        if (budget == 4 << 20) CHECK_INT(st, ST_OK);
    }
    CHECK(failed > 0);
}
