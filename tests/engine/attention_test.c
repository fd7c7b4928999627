/* Attention written out as exporters do becomes one node, with the same answers; what only looks like it does not. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/onnx/onnx_engine_internal.h"
#include "tests/engine/onnx_run.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

#define LIST(...) (const char *[]){ __VA_ARGS__, NULL }

enum { TOKENS = 37, HEADS = 3, DIM = 20, WIDTH = HEADS * DIM, ROWS = 3 };

/* How the parts are written, and what keeps them apart. */
enum habit { BERT, SCALED_SIDES, RANK_3, MULTI_QUERY };
enum masking { NO_MASK, ADDED, ADDED_BY_ROW, CHOSEN, HIDDEN, CHOSEN_THEN_ADDED, GUARDED };
enum trouble { NO_TROUBLE, SCORES_ARE_OUTPUT, WEIGHTS_READ_TWICE, SCALE_BEHIND_MASK, OTHER_AXIS, NARROW_MASK };
struct shape_of { enum habit habit; enum masking masking; enum trouble trouble; };

static int linear(struct writer *w, int x, int64_t to)
{
    return writer_node(w, "Add", (int[]){ writer_node(w, "MatMul", (int[]){ x, writer_floats(w, (int64_t[]){ WIDTH, to }, 2, -0.4f, 0.4f) }, 2, NULL), writer_floats(w, &to, 1, -0.2f, 0.2f) }, 2, NULL);
}

static int reshape(struct writer *w, int x, const int64_t *dims, int rank) { return writer_node(w, "Reshape", (int[]){ x, writer_ints(w, dims, rank) }, 2, NULL); }
static int turn(struct writer *w, int x, const char *perm) { return writer_node(w, "Transpose", &x, 1, LIST(perm)); }
static int number(struct writer *w, float x) { return writer_floats(w, (int64_t[]){ 1 }, 1, x, x); }
static int minus_infinity(struct writer *w) { int zero = number(w, 0); return writer_node(w, "Log", &zero, 1, NULL); }
static int times(struct writer *w, int x, float by) { return writer_node(w, "Mul", (int[]){ x, number(w, by) }, 2, NULL); }
static int truth(struct writer *w, const int64_t *dims, int rank) { return writer_node(w, "Greater", (int[]){ writer_floats(w, dims, rank, -1, 2), number(w, 0) }, 2, NULL); }

/* q, k and v as [batch, heads, tokens, dim], k with its last two changed over; or [batch heads, tokens, dim]. */
static void write_sides(struct writer *w, int x, enum habit habit, int side[3])
{
    for (int i = 0; i < 3; i++) {
        const bool one = habit == MULTI_QUERY && i > 0;
        int v = linear(w, x, one ? DIM : WIDTH);
        if (habit == RANK_3) {
            v = turn(w, reshape(w, turn(w, v, "perm=1,0,2"), (int64_t[]){ TOKENS, -1, DIM }, 3), "perm=1,0,2");
            side[i] = i == 1 ? turn(w, v, "perm=0,2,1") : v;
            continue;
        }
        v = reshape(w, v, (int64_t[]){ 0, TOKENS, one ? 1 : HEADS, DIM }, 4);
        if (habit == SCALED_SIDES && i == 1) side[i] = times(w, turn(w, turn(w, v, "perm=0,2,1,3"), "perm=0,1,3,2"), 0.5f);
        else side[i] = turn(w, v, i == 1 ? "perm=0,2,3,1" : "perm=0,2,1,3");
        if (habit == SCALED_SIDES && i == 0) side[i] = times(w, side[i], 0.5f);
    }
}

static int write_mask(struct writer *w, int x, int scores, const struct shape_of *s)
{
    const int64_t whole[4] = { 1, 1, TOKENS, TOKENS }, keys[2] = { 1, TOKENS }, narrow[4] = { 1, 1, TOKENS, 1 };
    const bool flat = s->habit == RANK_3;
    int mask;
    switch (s->masking) {
    case ADDED:
        return writer_node(w, "Add", (int[]){ writer_floats(w, s->trouble == NARROW_MASK ? narrow : whole + flat, 4 - flat, -5, 0), scores }, 2, NULL);
    case ADDED_BY_ROW:      /* one number for each token of each row */
        mask = reshape(w, writer_node(w, "MatMul", (int[]){ x, writer_floats(w, (int64_t[]){ WIDTH, 1 }, 2, -0.1f, 0.1f) }, 2, NULL), (int64_t[]){ -1, 1, 1, TOKENS }, 4);
        return writer_node(w, "Add", (int[]){ scores, times(w, mask, 9) }, 2, NULL);
    case CHOSEN_THEN_ADDED:
        scores = writer_node(w, "Where", (int[]){ truth(w, whole + flat, 4 - flat), scores, number(w, -1e4f) }, 3, NULL);
        return writer_node(w, "Add", (int[]){ scores, writer_floats(w, keys, 2, -5, 0) }, 2, NULL);
    case CHOSEN: case GUARDED: return writer_node(w, "Where", (int[]){ truth(w, whole + flat, 4 - flat), scores, minus_infinity(w) }, 3, NULL);
    case HIDDEN:               return writer_node(w, "Where", (int[]){ truth(w, keys, 2), number(w, -1e30f), scores }, 3, NULL);
    default:                   return scores;
    }
}

static void write_network(const char *path, const struct shape_of *s)
{
    struct writer w;
    int side[3];
    writer_begin(&w, 17);
    int x = writer_input(&w, 1, (int64_t[]){ -1, TOKENS, WIDTH }, 3);
    write_sides(&w, x, s->habit, side);
    int scores = writer_node(&w, "MatMul", (int[]){ side[0], side[1] }, 2, NULL);
    if (s->habit != SCALED_SIDES && s->trouble != SCALE_BEHIND_MASK) scores = writer_node(&w, "Div", (int[]){ scores, number(&w, 4.47f) }, 2, NULL);
    scores = write_mask(&w, x, scores, s);
    if (s->trouble == SCALE_BEHIND_MASK) scores = times(&w, scores, 0.2f);
    int weights = writer_node(&w, "Softmax", &scores, 1, LIST(s->trouble == OTHER_AXIS ? "axis=1" : "axis=-1"));
    if (s->masking == GUARDED) weights = writer_node(&w, "Where", (int[]){ writer_node(&w, "IsNaN", &weights, 1, NULL), number(&w, 0), weights }, 3, NULL);
    int y = writer_node(&w, "MatMul", (int[]){ weights, side[2] }, 2, NULL);
    if (s->habit == RANK_3) y = turn(&w, reshape(&w, turn(&w, y, "perm=1,0,2"), (int64_t[]){ TOKENS, -1, WIDTH }, 3), "perm=1,0,2");
    else y = reshape(&w, turn(&w, y, "perm=0,2,1,3"), (int64_t[]){ 0, TOKENS, WIDTH }, 3);
    writer_output(&w, y, 1, (int64_t[]){ -1, TOKENS, WIDTH }, 3);
    if (s->trouble == SCORES_ARE_OUTPUT) writer_output(&w, scores, 1, NULL, 0);
    if (s->trouble == WEIGHTS_READ_TWICE) writer_output(&w, writer_node(&w, "ReduceSum", &weights, 1, NULL), 1, NULL, 0);
    writer_save(&w, path);
}

static int count_nodes(const struct graph *g, const char *op)
{
    int n = 0;
    for (int i = 0; i < g->node_count; i++) n += !g->nodes[i].dead && !strcmp(g->nodes[i].op->name, op);
    return n;
}

/* The first output for `rows` rows; false when the model cannot run. */
static bool answers(const char *path, const struct engine_options *o, int rows, float *to)
{
    struct onnx_run m;
    struct err err = { 0 };
    struct request q, *one = &q;
    struct request_tensor slot;
    if (onnx_run_open(&m, path, o, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return false;
    }
    float *x = aligned_alloc(64, (size_t)(rows * TOKENS * WIDTH + 15) / 16 * 16 * sizeof *x);
    for (int i = 0; i < rows * TOKENS * WIDTH; i++) x[i] = sinf((float)i * 0.37f) + 0.5f * cosf((float)i * 0.011f);
    onnx_run_request(&q, &slot, m.signature->inputs[0].name, x, (int64_t[]){ rows, TOKENS, WIDTH }, 3, rows);
    const bool well = !onnx_run_step(&m, &one, 1, NULL, &err);
    if (well) memcpy(to, q.outputs[0].tensor.data, q.outputs[0].tensor.bytes);
    else test_fail(__FILE__, __LINE__, "%s", err.text);
    request_drop(&q);
    onnx_run_close(&m);
    free(x);
    return well;
}

static int attends(const char *path, const struct engine_options *o)
{
    struct engine *e;
    struct err err = { 0 };
    if (onnx_engine.open(&e, &(struct model_files){ NULL, path, NULL }, o, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return -1;
    }
    const struct graph *g = &e->import.graph;
    const int n = count_nodes(g, "Attend");
    if (n) CHECK_INT(count_nodes(g, "Softmax") + count_nodes(g, "Where"), 0);
    onnx_engine.close(e);
    return n;
}

static float distance(const float *a, const float *b, int n)
{
    double square = 0, all = 0;
    for (int i = 0; i < n; i++) square += pow((double)a[i] - b[i], 2), all += pow((double)a[i], 2);
    return (float)sqrt(square / all);
}

static void check_network(const struct shape_of *s, const char *path)
{
    enum { COUNT = ROWS * TOKENS * WIDTH };
    static float want[COUNT], got[COUNT], alone[COUNT / ROWS];
    struct engine_options o = { .threads = 2, .cpu_level = CPU_AMX, .max_batch_rows = ROWS, .precision = PRECISION_F32 };
    struct shape_of apart = *s;
    apart.trouble = SCORES_ARE_OUTPUT;
    write_network(path, &apart);
    CHECK_INT(attends(path, &o), 0);
    if (!answers(path, &o, ROWS, want)) return;
    write_network(path, s);
    CHECK_INT(attends(path, &o), 1);
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        o.cpu_level = (enum cpu_level)level;
        if (!answers(path, &o, ROWS, got) || !answers(path, &o, 1, alone)) return;
        CHECK(!(distance(want, got, COUNT) > 1e-5f));
        CHECK(!memcmp(got, alone, sizeof alone));      /* a row's bits do not depend on its company */
    }
    o.precision = PRECISION_BF16;
    if (answers(path, &o, ROWS, got)) CHECK(!(distance(want, got, COUNT) > 2e-2f));
}

/* The operator itself: heads by themselves, side by side, and fewer of keys than of queries. */
enum form { FOUR, PACKED, GROUPED };
enum operator_mask { PLAIN, FLOATS, TRUTH, SHORT };
struct operator_case { enum form form; enum operator_mask mask; bool causal; };

static void write_operator(const char *path, const struct operator_case *s)
{
    struct writer w;
    int in[4], count = 3;
    const int64_t whole[2] = { TOKENS, TOKENS }, brief[2] = { TOKENS, TOKENS - 5 };
    writer_begin(&w, 23);
    const int x = writer_input(&w, 1, (int64_t[]){ -1, TOKENS, WIDTH }, 3);
    for (int i = 0; i < 3; i++) {
        in[i] = linear(&w, x, s->form == GROUPED && i > 0 ? DIM : WIDTH);
        if (s->form == FOUR) in[i] = turn(&w, reshape(&w, in[i], (int64_t[]){ 0, TOKENS, HEADS, DIM }, 4), "perm=0,2,1,3");
    }
    if (s->mask == TRUTH) in[count++] = truth(&w, whole, 2);
    else if (s->mask != PLAIN) in[count++] = writer_floats(&w, s->mask == SHORT ? brief : whole, 2, -5, 0);
    const char *causal = s->causal ? "is_causal=1" : "is_causal=0";
    int y = writer_node(&w, "Attention", in, count, s->form == FOUR ? LIST(causal) : LIST(causal, "q_num_heads=3", s->form == GROUPED ? "kv_num_heads=1" : "kv_num_heads=3"));
    if (s->form == FOUR) y = reshape(&w, turn(&w, y, "perm=0,2,1,3"), (int64_t[]){ 0, TOKENS, WIDTH }, 3);
    writer_output(&w, y, 1, (int64_t[]){ -1, TOKENS, WIDTH }, 3);
    writer_save(&w, path);
}

TEST(the_operator_attention_becomes_that_node)
{
    enum { COUNT = ROWS * TOKENS * WIDTH };
    static const struct operator_case cases[] = { { FOUR, PLAIN, 0 }, { FOUR, TRUTH, 0 }, { FOUR, SHORT, 1 }, { PACKED, FLOATS, 0 }, { PACKED, PLAIN, 1 }, { GROUPED, PLAIN, 0 }, { GROUPED, SHORT, 0 } };
    static float want[COUNT], got[COUNT], alone[COUNT / ROWS];
    char path[512];
    snprintf(path, sizeof path, "%s/operator.onnx", test_directory());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine_options o = { .threads = 2, .cpu_level = CPU_AMX, .max_batch_rows = ROWS, .precision = PRECISION_F32, .passes_off = true };
        write_operator(path, &cases[i]);
        CHECK_INT(attends(path, &o), 0);
        if (!answers(path, &o, ROWS, want)) return;
        o.passes_off = false;
        CHECK_INT(attends(path, &o), 1);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            o.cpu_level = (enum cpu_level)level;
            if (!answers(path, &o, ROWS, got) || !answers(path, &o, 1, alone)) return;
            CHECK(!(distance(want, got, COUNT) > 1e-5f));
            CHECK(!memcmp(got, alone, sizeof alone));
        }
        o.precision = PRECISION_BF16;
        if (answers(path, &o, ROWS, got)) CHECK(!(distance(want, got, COUNT) > 2e-2f));
    }
}

TEST(attention_out_of_its_parts_becomes_one_node)
{
    static const struct shape_of shapes[] = {
        { BERT, NO_MASK, 0 }, { BERT, ADDED, 0 }, { BERT, ADDED_BY_ROW, 0 }, { BERT, HIDDEN, 0 }, { SCALED_SIDES, CHOSEN, 0 }, { SCALED_SIDES, GUARDED, 0 }, { BERT, CHOSEN_THEN_ADDED, 0 },
        { RANK_3, NO_MASK, 0 }, { RANK_3, CHOSEN_THEN_ADDED, 0 }, { MULTI_QUERY, ADDED, 0 },
    };
    char path[512];
    snprintf(path, sizeof path, "%s/attention.onnx", test_directory());
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_network(&shapes[i], path);
}

TEST(attention_that_others_look_into_is_left_alone)
{
    static const struct shape_of shapes[] = {
        { BERT, NO_MASK, SCORES_ARE_OUTPUT }, { BERT, ADDED, WEIGHTS_READ_TWICE }, { BERT, ADDED, SCALE_BEHIND_MASK }, { BERT, NO_MASK, OTHER_AXIS }, { BERT, ADDED, NARROW_MASK },
    };
    const struct engine_options o = { .threads = 1, .cpu_level = CPU_AMX, .max_batch_rows = ROWS, .precision = PRECISION_F32 };
    char path[512];
    snprintf(path, sizeof path, "%s/apart.onnx", test_directory());
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        write_network(path, &shapes[i]);
        CHECK_INT(attends(path, &o), 0);
    }
}

