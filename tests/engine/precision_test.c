/* Networks in bfloat16: their error, which values are stored so, the trial that chooses, and what is remembered of it */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/device_gpu.h"
#include "engine/graph/gpu_store.h"
#include "engine/graph/plan_cache.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "engine/onnx/trial.h"
#include "kernels/conv.h"
#include "tests/engine/onnx_run.h"
#include "tests/engine/onnx_writer.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/test.h"

static const char *file_in(const char *name)
{
    static char path[512];
    static const char *folder;
    if (!folder) folder = test_directory();
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static struct engine_options with(enum precision p) { return (struct engine_options){ .threads = 2, .cpu_level = CPU_AMX, .max_batch_rows = 4, .precision = p }; }

/* The model's answers to three rows of noise, all outputs one after the other; how many numbers. */
static int64_t answers(const char *path, enum precision p, int64_t channels, int64_t size, float *to, struct signature_precision *chosen)
{
    const struct engine_options o = with(p);
    struct onnx_run m;
    struct err err = { 0 };
    struct request q, *one = &q;
    struct request_tensor slot;
    int64_t count = 0;
    if (onnx_run_open(&m, path, &o, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return 0;
    }
    if (chosen) *chosen = m.signature->precision;
    float *x = aligned_alloc(64, (size_t)(3 * channels * size * size) * sizeof *x + 64 - (size_t)(3 * channels * size * size) * sizeof *x % 64);
    for (int64_t i = 0; i < 3 * channels * size * size; i++) x[i] = sinf((float)i * 0.37f) + 0.5f * cosf((float)i * 0.011f);
    onnx_run_request(&q, &slot, m.signature->inputs[0].name, x, (int64_t[]){ 3, channels, size, size }, 4, 3);
    if (onnx_run_step(&m, &one, 1, NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    else
        for (int k = 0; k < q.output_count; k++) {
            const struct tensor *t = &q.outputs[k].tensor;
            CHECK_INT(t->dtype, DT_F32);
            memcpy(to + count, t->data, t->bytes);
            count += (int64_t)(t->bytes / sizeof *to);
        }
    request_drop(&q);
    onnx_run_close(&m);
    free(x);
    return count;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double square = 0, all = 0;
    for (int64_t i = 0; i < n; i++) square += pow((double)a[i] - b[i], 2), all += pow((double)a[i], 2);
    return sqrt(square / all);
}

enum { ROOM = 1 << 20 };

static void check_error(const char *path, int64_t size, double least)
{
    float *exact = malloc(ROOM * sizeof *exact), *rounded = malloc(ROOM * sizeof *rounded);
    struct signature_precision p = { 0 };
    const int64_t n = answers(path, PRECISION_F32, 3, size, exact, NULL);
    CHECK_INT(answers(path, PRECISION_BF16, 3, size, rounded, &p), n);
    const double error = distance(exact, rounded, n);
    if (cpu_is_quick_at_bf16(CPU_AMX)) {
        CHECK_TEXT(p.name, "bf16");
        if (!(error <= 2e-2 && error >= least)) test_fail(__FILE__, __LINE__, "%s in bfloat16 is off by %g", path, error);
    } else {
        CHECK_TEXT(p.name, "f32");
        CHECK(error == 0);
    }
    free(exact), free(rounded);
}

TEST(networks_in_bfloat16_are_near_those_in_float)
{
    const char *path = file_in("net.onnx");
    write_resnet18(path, 64, 32);
    check_error(path, 64, 1e-5);
    write_mobilenet_v2(path, 96);
    check_error(path, 96, 1e-5);
    write_mixture(path, 32);          /* gates, concatenations, pools, shuffles; a picture that is read on and is an output, too */
    check_error(path, 32, 1e-6);
}

static int count_halves(const struct graph *g, const char *op)
{
    int n = 0;
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && !strcmp(g->nodes[i].op->name, op)) n += strcmp(op, "Conv") || (g->nodes[i].halves & HALVES_OUT);
    return n;
}

static int conv(struct writer *w, int x, int64_t in, int64_t out, int64_t k)
{
    int weight = writer_floats(w, (int64_t[]){ out, in, k, k }, 4, -0.3f, 0.3f), bias = writer_floats(w, &out, 1, -0.1f, 0.1f);
    return writer_node(w, "Conv", (int[]){ x, weight, bias }, 3, (const char *const[]){ k == 3 ? "pads=1,1,1,1" : "pads=0,0,0,0", NULL });
}

/* conv, its squeeze-and-excitation gate, a concatenation of two convolutions of that, a conv: [batch, 8, 32, 32] */
static void write_gated(const char *path)
{
    struct writer w;
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, 32, 32 }, 4);
    int wide = conv(&w, x, 3, 24, 3), mean = writer_node(&w, "GlobalAveragePool", &wide, 1, NULL), less = conv(&w, mean, 24, 6, 1), more = conv(&w, less, 6, 24, 1);
    int gate = writer_node(&w, "Sigmoid", &more, 1, NULL), gated = writer_node(&w, "Mul", (int[]){ wide, gate }, 2, NULL);
    int left = conv(&w, gated, 24, 16, 1), right = conv(&w, gated, 24, 16, 3), both = writer_node(&w, "Concat", (int[]){ left, right }, 2, (const char *const[]){ "axis=1", NULL });
    writer_output(&w, conv(&w, both, 32, 8, 1), 1, (int64_t[]){ -1, 8, 32, 32 }, 4);
    writer_save(&w, path);
}

TEST(pictures_between_layers_are_stored_as_bfloat16)
{
    struct engine *e;
    struct err err = { 0 };
    const char *path = file_in("stored.onnx");
    const struct engine_options o = with(PRECISION_BF16);
    write_resnet18(path, 64, 32);
    if (!cpu_is_quick_at_bf16(CPU_AMX)) return;         /* the other tests hold there, too */
    REQUIRE_OK(onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
    CHECK_INT(count_halves(&e->import.graph, "Conv"), 20);         /* all of them: the average behind the last takes it */
    CHECK_INT(count_halves(&e->import.graph, "MeanPixels"), 1);
    onnx_engine.close(e);
    write_gated(path);
    check_error(path, 32, 1e-5);
    REQUIRE_OK(onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
    CHECK_INT(count_halves(&e->import.graph, "ScalePixels"), 1);
    CHECK_INT(count_halves(&e->import.graph, "MeanPixels"), 1);
    CHECK_INT(count_halves(&e->import.graph, "Conv"), 4);          /* the two that are concatenated, the one before the gate and the first within it; what the gate multiplies by is float, and so is the output */
    onnx_engine.close(e);
}

/* Transposed convolutions whose windows do not overlap, joined with a picture before them, alone, and joined behind; one whose windows do overlap: [batch, 8, 65, 65] */
static void write_spread(const char *path)
{
    static const char *const doubles[] = { "strides=2,2", NULL };
    struct writer w;
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, 16, 16 }, 4), bias = writer_floats(&w, (int64_t[]){ 5 }, 1, -1, 1);
    int wide = conv(&w, x, 3, 20, 3), pooled = writer_node(&w, "MaxPool", &wide, 1, (const char *const[]){ "kernel_shape=2,2", "strides=2,2", NULL });
    int up = writer_node(&w, "ConvTranspose", (int[]){ conv(&w, pooled, 20, 24, 3), writer_floats(&w, (int64_t[]){ 24, 5, 2, 2 }, 4, -0.4f, 0.4f), bias }, 3, doubles);
    int joined = conv(&w, writer_node(&w, "Concat", (int[]){ wide, up }, 2, (const char *const[]){ "axis=1", NULL }), 25, 16, 3);
    int alone = conv(&w, writer_node(&w, "ConvTranspose", (int[]){ joined, writer_floats(&w, (int64_t[]){ 16, 7, 2, 2 }, 4, -0.4f, 0.4f) }, 2, doubles), 7, 16, 3);
    int more = writer_node(&w, "ConvTranspose", (int[]){ joined, writer_floats(&w, (int64_t[]){ 16, 9, 2, 2 }, 4, -0.4f, 0.4f) }, 2, doubles);
    int second = conv(&w, writer_node(&w, "Concat", (int[]){ more, alone }, 2, (const char *const[]){ "axis=1", NULL }), 25, 16, 3);
    int overlap = writer_node(&w, "ConvTranspose", (int[]){ second, writer_floats(&w, (int64_t[]){ 16, 8, 3, 3 }, 4, -0.3f, 0.3f) }, 2, doubles);
    writer_output(&w, overlap, 1, (int64_t[]){ -1, 8, 65, 65 }, 4);
    writer_save(&w, path);
}

TEST(transposed_convolutions_without_overlap_are_spread_and_joined)
{
    struct engine *e;
    struct err err = { 0 };
    const char *path = file_in("spread.onnx");
    const struct engine_options o = with(PRECISION_BF16);
    write_spread(path);
    check_error(path, 16, 1e-5);
    if (!cpu_is_quick_at_bf16(CPU_AMX)) return;
    REQUIRE_OK(onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
    const struct graph *g = &e->import.graph;
    CHECK_INT(count_halves(g, "Spread"), 3);
    CHECK_INT(count_halves(g, "ConvTranspose"), 1);
    CHECK_INT(count_halves(g, "Concat"), 0);
    CHECK_INT(count_halves(g, "Conv"), 4);                         /* all but the last, which what overlaps reads, are stored as bfloat16 */
    for (int i = 0; i < g->node_count; i++)
        if (!g->nodes[i].dead && !strcmp(g->nodes[i].op->name, "Spread")) CHECK_INT(g->nodes[i].halves, HALVES_IN | HALVES_OUT);
    onnx_engine.close(e);
}

/* Two layers of rows behind a norm, summed up with what the norm is given, and a classifier of their mean: [batch, 40, 64] and [batch, 10]. */
static void write_rows(const char *path)
{
    struct writer w;
    writer_begin(&w, 20);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, 40, 40 }, 4);
    int wide = conv(&w, x, 3, 64, 1), rows = writer_node(&w, "Transpose", (int[]){ writer_node(&w, "Reshape", (int[]){ wide, writer_ints(&w, (int64_t[]){ 0, 64, 1600 }, 3) }, 2, NULL) }, 1, (const char *const[]){ "perm=0,2,1", NULL });
    int scale = writer_floats(&w, (int64_t[]){ 64 }, 1, 0.5f, 1.5f), shift = writer_floats(&w, (int64_t[]){ 64 }, 1, -0.2f, 0.2f);
    int norm = writer_node(&w, "LayerNormalization", (int[]){ rows, scale, shift }, 3, NULL);
    int up = writer_node(&w, "Add", (int[]){ writer_node(&w, "MatMul", (int[]){ norm, writer_floats(&w, (int64_t[]){ 64, 100 }, 2, -0.2f, 0.2f) }, 2, NULL), writer_floats(&w, (int64_t[]){ 100 }, 1, -0.2f, 0.2f) }, 2, NULL);
    int gelu = writer_node(&w, "Gelu", &up, 1, NULL), down = writer_node(&w, "MatMul", (int[]){ gelu, writer_floats(&w, (int64_t[]){ 100, 64 }, 2, -0.2f, 0.2f) }, 2, NULL);
    int sum = writer_node(&w, "Add", (int[]){ rows, down }, 2, NULL), mean = writer_node(&w, "ReduceMean", (int[]){ sum, writer_ints(&w, (int64_t[]){ 1 }, 1) }, 2, (const char *const[]){ "keepdims=0", NULL });
    writer_output(&w, sum, 1, (int64_t[]){ -1, 1600, 64 }, 3);
    writer_output(&w, writer_node(&w, "MatMul", (int[]){ mean, writer_floats(&w, (int64_t[]){ 64, 10 }, 2, -0.2f, 0.2f) }, 2, NULL), 1, (int64_t[]){ -1, 10 }, 2);
    writer_save(&w, path);
}

TEST(products_of_many_rows_take_and_give_bfloat16)
{
    struct engine *e;
    struct err err = { 0 };
    const char *path = file_in("rows.onnx");
    struct engine_options o = with(PRECISION_BF16);
    write_rows(path);
    check_error(path, 40, 1e-6);
    if (!cpu_is_quick_at_bf16(CPU_AMX)) return;
    REQUIRE_OK(onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
    const struct graph *g = &e->import.graph;
    CHECK_INT(count_halves(g, "TallProduct"), 2);
    CHECK_INT(count_halves(g, "MatMul"), 1);                       /* one row each */
    CHECK_INT(count_halves(g, "Add") + count_halves(g, "Gelu"), 0);
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        if (n->dead) continue;
        if (!strcmp(n->op->name, "LayerNormalization")) CHECK_INT(n->halves, HALVES_OUT);
        if (!strcmp(n->op->name, "TallProduct")) CHECK_INT(n->halves, n->residual < 0 ? HALVES_IN | HALVES_OUT : HALVES_IN);      /* an output stays float */
    }
    onnx_engine.close(e);
    o.precision = PRECISION_F32;
    REQUIRE_OK(onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
    CHECK_INT(count_halves(&e->import.graph, "TallProduct"), 0);
    onnx_engine.close(e);
}

enum { STEPS = 72, WIDTH = 24, HIDDEN = 72 };

/* [batch, STEPS, WIDTH] by one recurrent operator in both directions: [batch, STEPS, 2, HIDDEN] */
static void write_recurrent(const char *path, const char *op, int64_t gates, const char *more)
{
    struct writer w;
    writer_begin(&w, 14);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, WIDTH, WIDTH }, 4), rows = writer_node(&w, "Reshape", (int[]){ x, writer_ints(&w, (int64_t[]){ 0, STEPS, WIDTH }, 3) }, 2, NULL);
    int weight = writer_floats(&w, (int64_t[]){ 2, gates * HIDDEN, WIDTH }, 3, -0.3f, 0.3f), own = writer_floats(&w, (int64_t[]){ 2, gates * HIDDEN, HIDDEN }, 3, -0.3f, 0.3f);
    int bias = writer_floats(&w, (int64_t[]){ 2, 2 * gates * HIDDEN }, 2, -0.1f, 0.1f);
    int y = writer_node(&w, op, (int[]){ rows, weight, own, bias }, 4, (const char *const[]){ "hidden_size=72", "layout=1", "direction=sbidirectional", more, NULL });
    writer_output(&w, y, 1, (int64_t[]){ -1, STEPS, 2, HIDDEN }, 4);
    writer_save(&w, path);
}

TEST(recurrent_layers_round_their_weights)
{
    static const struct { const char *op; int64_t gates; const char *more; } cells[] = { { "LSTM", 4, NULL }, { "GRU", 3, NULL }, { "GRU", 3, "linear_before_reset=1" }, { "RNN", 1, NULL } };
    const char *path = file_in("recurrent.onnx");
    for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
        write_recurrent(path, cells[i].op, cells[i].gates, cells[i].more);
        check_error(path, WIDTH, 1e-5);
    }
}

/* Remembers one choice. */
struct memory { char machine[256], text[64]; int asked, kept; };
static bool find(void *ctx, const char *machine, char *text, size_t room)
{
    struct memory *m = ctx;
    m->asked++;
    if (!*m->text || strcmp(m->machine, machine)) return false;
    return snprintf(text, room, "%s", m->text) < (int)room;
}
static void keep(void *ctx, const char *machine, const char *text)
{
    struct memory *m = ctx;
    m->kept++;
    snprintf(m->machine, sizeof m->machine, "%s", machine);
    snprintf(m->text, sizeof m->text, "%s", text);
}

/* The first convolution and the classifier are float, and nothing else is. */
static void check_ends(const struct graph *g)
{
    int convolutions = 0, products = 0;
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        if (n->dead) continue;
        convolutions += n->conv && !strstr(conv_layer_kernel(n->conv), "bf16") && !strstr(conv_layer_kernel(n->conv), "tiles");
        products += n->packed != NULL;
    }
    CHECK_INT(convolutions, 1);
    CHECK_INT(products, 1);
}

static struct signature_precision opened(const char *path, struct memory *m)
{
    struct engine *e;
    struct err err = { 0 };
    struct engine_choices choices = { m, find, keep };
    struct engine_options o = with(PRECISION_AUTO);
    struct signature_precision p = { 0 };
    o.choices = &choices;
    if (onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return p;
    }
    p = onnx_engine.describe(e)->precision;
    CHECK_INT(e->import.graph.bf16, !strcmp(p.name, "bf16"));
    CHECK_INT(e->import.graph.exact_ends, !strncmp(m->text, "within", 6) || !strncmp(m->text, "inner", 5));
    CHECK_INT(e->import.graph.loose, !strncmp(m->text, "loose", 5) || !strncmp(m->text, "inner", 5));
    if (e->import.graph.exact_ends) check_ends(&e->import.graph);
    onnx_engine.close(e);
    return p;
}

TEST(a_trial_chooses_and_its_choice_is_remembered)
{
    const char *path = file_in("trial.onnx");
    struct memory m = { 0 };
    write_resnet18(path, 96, 48);
    struct signature_precision first = opened(path, &m);
    if (!cpu_is_quick_at_bf16(CPU_AMX)) {
        CHECK_TEXT(first.name, "f32");
        CHECK(first.error < 0 && m.asked == 0 && m.kept == 0);
        return;
    }
    CHECK(first.error > 1e-5 && first.error < 2e-2 && first.gain > 0);
    CHECK(!strcmp(first.name, "bf16") == (first.error <= TRIAL_ERROR_MAX && first.gain >= 1.05));
    CHECK(m.asked == 1 && m.kept == 1 && strstr(m.machine, "; 2 threads; 4 rows"));
    struct signature_precision again = opened(path, &m);
    CHECK(m.asked == 2 && m.kept == 1 && !strcmp(again.name, first.name) && fabs(again.error - first.error) < 1e-3 * first.error);
    strcpy(m.text, "f32 3.000e-02 2.000");
    again = opened(path, &m);
    CHECK(!strcmp(again.name, "f32") && again.error == 3e-2 && again.gain == 2 && m.kept == 1);
    strcpy(m.text, "bf16 1.000e-03 2.000");
    CHECK_TEXT(opened(path, &m).name, "bf16");
    strcpy(m.text, "within 9.000e-03 2.000");         /* all but the layers at the ends */
    CHECK_TEXT(opened(path, &m).name, "bf16");
    strcpy(m.text, "loose 9.000e-03 2.000");          /* convolutions that are a little less exact, where that is quicker */
    CHECK_TEXT(opened(path, &m).name, "bf16");
    strcpy(m.text, "inner 9.000e-03 2.000");          /* both */
    CHECK_TEXT(opened(path, &m).name, "bf16");
    strcpy(m.text, "nonsense");                       /* is no choice: tried anew */
    opened(path, &m);
    CHECK_INT(m.kept, 2);
    strcpy(m.machine, "another machine");
    opened(path, &m);
    CHECK_INT(m.kept, 3);
}

/* On a card (tests/kernels/fake_gpu.h, on which halves gain nothing): float16 is tried, then bfloat16; what is remembered is taken. */
TEST(a_trial_on_a_card)
{
    const char *path = file_in("card.onnx");
    struct memory m = { 0 };
    struct engine *e;
    struct err err = { 0 };
    struct engine_choices choices = { &m, find, keep };
    struct engine_options o = with(PRECISION_AUTO);
    o.choices = &choices;
    o.gpu = 1;
    write_resnet18(path, 48, 40);
    device_gpus_use(fake_gpu_api());
    static const char *const remembered[] = { NULL, "f16 2.000e-03 1.900", "bf16 4.000e-03 1.900", "f32 2.000e-01 0.900" };
    for (int i = 0; i < 4; i++) {
        if (remembered[i]) snprintf(m.text, sizeof m.text, "%s", remembered[i]);
        REQUIRE_OK(onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, &o, &err), err);
        const struct signature_precision p = onnx_engine.describe(e)->precision;
        CHECK_INT(m.kept, 1);
        if (i) CHECK(!strncmp(remembered[i], p.name, strlen(p.name)));
        CHECK(p.error > 1e-4 && p.gain > 0 && (i == 3 || p.error < 2e-2));
        CHECK_INT(e->import.graph.gpu->float_type, !strcmp(p.name, "f16") ? GPU_F16 : !strcmp(p.name, "bf16") ? GPU_BF16 : GPU_F32);
        CHECK(strstr(m.machine, "no card;") == m.machine);
        onnx_engine.close(e);
    }
    CHECK_INT(fake_gpu_held().bytes, 0);
    device_gpus_use(NULL);
}

TEST(small_networks_and_those_whose_answers_would_change_stay_in_float)
{
    struct memory m = { 0 };
    CHECK_TEXT(opened("models/digits/1/model.onnx", &m).name, "f32");
    CHECK_INT(m.asked, 0);                            /* too small to gain */
    /* The largest of many nearly equal sums: bfloat16 finds another one. */
    struct writer w;
    const char *path = file_in("largest.onnx");
    writer_begin(&w, 13);
    const int64_t in[] = { -1, 256, 512 }, out[] = { -1, 256, 1 };
    int x = writer_input(&w, 1, in, 3);
    int weight = writer_floats(&w, (int64_t[]){ 512, 512 }, 2, 0.9999f, 1.0001f);
    int y = writer_node(&w, "MatMul", (int[]){ x, weight }, 2, NULL);
    int best = writer_node(&w, "ArgMax", &y, 1, (const char *const[]){ "axis=2", NULL });
    writer_output(&w, best, 7, out, 3);
    writer_save(&w, path);
    struct signature_precision p = opened(path, &m);
    CHECK_TEXT(p.name, "f32");
    if (cpu_is_quick_at_bf16(CPU_AMX)) CHECK(isinf(p.error) && m.kept == 1);
}
