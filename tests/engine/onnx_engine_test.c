#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/engine/onnx_run.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

static const struct engine_options plain = { .threads = 1, .cpu_level = 9, .max_batch_rows = 8 };
static const int64_t row4[] = { -1, 4 };

static const char *file_in(const char *name)
{
    static char path[512];
    static const char *folder;
    if (!folder) folder = test_directory();
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* One f32 input [batch, 4] through `op`; the result is declared [batch, 4]. */
static const char *one_node(const char *op, int opset, const char *const *attributes)
{
    struct writer w;
    writer_begin(&w, opset);
    int x = writer_input(&w, 1, row4, 2);
    writer_output(&w, writer_node(&w, op, &x, 1, attributes), 1, row4, 2);
    const char *path = file_in("one.onnx");
    writer_save(&w, path);
    return path;
}

static enum status run_once(struct onnx_run *m, float *x, const int64_t *dims, int rank, int64_t rows, const char *name, const atomic_bool *stop, struct tensor *out, struct request *q, struct err *err)
{
    static struct request_tensor in;
    onnx_run_request(q, &in, name, x, dims, rank, rows);
    enum status st = onnx_run_step(m, &q, 1, stop, err);
    if (!st) *out = q->outputs[0].tensor;
    return st;
}

TEST(requests_are_checked_with_a_sentence)
{
    struct onnx_run m;
    struct err err = { 0 };
    struct request q;
    struct request_tensor in[2];
    float x[64] = { 0 };
    REQUIRE_OK(onnx_run_open(&m, "models/digits/1/model.onnx", &plain, &err), err);
    onnx_run_request(&q, in, "image", x, (int64_t[]){ 1, 2 }, 2, 1);
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "input 'image' has shape [1,2] but the model takes [-1,1,28,28]");
    in[0].name = "x";
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "unexpected input 'x'");
    q.input_count = 0;
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "input 'image' is missing");
    request_drop(&q);
    float *picture = aligned_alloc(64, 28 * 28 * 4 * 2);
    onnx_run_request(&q, in, "image", picture, (int64_t[]){ 1, 1, 28, 28 }, 4, 2);
    in[0].tensor.dtype = DT_I32;
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "input 'image' is int32 but the model takes float32");
    in[0].tensor.dtype = DT_F32;
    in[0].tensor.bytes--;
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    in[0].tensor.bytes++;
    in[1] = in[0];
    q.input_count = 2;
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "input 'image' is given twice");
    q.input_count = 1;
    const char *wanted[] = { "nothing" };
    q.wanted = wanted;
    q.wanted_count = 1;
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "unexpected output 'nothing'");
    q.wanted_count = 0;
    CHECK_OK(onnx_engine.check(m.engine, &q, &err), err);
    CHECK_INT(q.rows, 2);
    request_drop(&q);
    onnx_run_request(&q, in, "image", picture, (int64_t[]){ 1, 1, 28, 28 }, 4, 0);
    CHECK_INT(onnx_engine.check(m.engine, &q, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "input 'image' has no rows");
    request_drop(&q);
    free(picture);
    onnx_run_close(&m);
}

TEST(an_unknown_operator_is_named_with_node_and_opset)
{
    struct onnx_run m;
    struct err err = { 0 };
    CHECK_INT(onnx_run_open(&m, one_node("Frobnicate", 13, NULL), &plain, &err), ST_UNSUPPORTED);
    CHECK_TEXT(err.text, "node 'v1' needs operator Frobnicate of opset 13, which inferd does not have");
    CHECK_INT(onnx_run_open(&m, one_node("Gelu", 13, NULL), &plain, &err), ST_UNSUPPORTED);
    CHECK_TEXT(err.text, "node 'v1' needs operator Gelu of opset 13, which inferd does not have at that opset");
    CHECK_INT(onnx_run_open(&m, one_node("Relu", 28, NULL), &plain, &err), ST_UNSUPPORTED);
    CHECK_TEXT(err.text, "the model needs opset 28; 1 to 27 are known");
}

/* A batch of rows may only be formed where rows are proven apart. */
static bool is_batchable(const char *path)
{
    struct onnx_run m;
    struct err err = { 0 };
    if (onnx_run_open(&m, path, &plain, &err)) { test_fail(__FILE__, __LINE__, "%s", err.text); return false; }
    bool yes = m.signature->batchable;
    onnx_run_close(&m);
    return yes;
}

TEST(rows_that_mix_are_not_batched)
{
    CHECK(is_batchable(one_node("Relu", 13, NULL)));
    CHECK(is_batchable(one_node("Softmax", 13, (const char *[]){ "axis=1", NULL })));
    CHECK(!is_batchable(one_node("Softmax", 13, (const char *[]){ "axis=0", NULL })));
    CHECK(!is_batchable(one_node("Softmax", 11, (const char *[]){ "axis=0", NULL })));
    struct writer w;
    writer_begin(&w, 13);                                    /* the mean over rows is taken off */
    int x = writer_input(&w, 1, row4, 2);
    int mean = writer_node(&w, "ReduceMean", &x, 1, (const char *[]){ "axes=[0", NULL });
    writer_output(&w, writer_node(&w, "Sub", (int[]){ x, mean }, 2, NULL), 1, row4, 2);
    writer_save(&w, file_in("mean.onnx"));
    CHECK(!is_batchable(file_in("mean.onnx")));
    writer_begin(&w, 13);                                    /* divided by how many rows there are */
    x = writer_input(&w, 1, row4, 2);
    int shape = writer_node(&w, "Shape", &x, 1, NULL), index = writer_ints(&w, (int64_t[]){ 0 }, 1);
    int count = writer_node(&w, "Cast", (int[]){ writer_node(&w, "Gather", (int[]){ shape, index }, 2, NULL) }, 1, (const char *[]){ "to=1", NULL });
    writer_output(&w, writer_node(&w, "Div", (int[]){ x, count }, 2, NULL), 1, row4, 2);
    writer_save(&w, file_in("count.onnx"));
    CHECK(!is_batchable(file_in("count.onnx")));
    writer_begin(&w, 13);                                    /* the same arithmetic in a Reshape is harmless */
    x = writer_input(&w, 1, row4, 2);
    shape = writer_node(&w, "Shape", &x, 1, NULL);
    index = writer_ints(&w, (int64_t[]){ 0 }, 1);
    int minus = writer_ints(&w, (int64_t[]){ -1 }, 1);
    int rows = writer_node(&w, "Gather", (int[]){ shape, index }, 2, NULL);
    int target = writer_node(&w, "Concat", (int[]){ rows, minus }, 2, (const char *[]){ "axis=0", NULL });
    writer_output(&w, writer_node(&w, "Reshape", (int[]){ x, target }, 2, NULL), 1, row4, 2);
    writer_save(&w, file_in("view.onnx"));
    CHECK(is_batchable(file_in("view.onnx")));
    writer_begin(&w, 13);                                    /* [batch, 4] -> [4, batch] -> [batch, 4] reads other rows */
    x = writer_input(&w, 1, row4, 2);
    int turned = writer_node(&w, "Transpose", &x, 1, (const char *[]){ "perm=1,0", NULL });
    int back = writer_ints(&w, (int64_t[]){ -1, 4 }, 2);
    writer_output(&w, writer_node(&w, "Reshape", (int[]){ turned, back }, 2, NULL), 1, row4, 2);
    writer_save(&w, file_in("turned.onnx"));
    CHECK(!is_batchable(file_in("turned.onnx")));
    int pair = 0;                                            /* two inputs whose first dimensions are named apart */
    writer_begin(&w, 13);
    x = writer_input(&w, 1, row4, 2);
    pair = writer_input(&w, 1, (int64_t[]){ -2, 4 }, 2);
    writer_output(&w, writer_node(&w, "Add", (int[]){ x, pair }, 2, NULL), 1, row4, 2);
    writer_save(&w, file_in("apart.onnx"));
    CHECK(!is_batchable(file_in("apart.onnx")));
}

/* Large inputs are gathered or run one by one, whichever was quicker; each way is tried again and again, and the bits are the same. */
TEST(large_inputs_together_or_apart)
{
    enum { COLUMNS = 20000, REQUESTS = 3, STEPS = 1100 };
    static const int64_t rows[REQUESTS] = { 1, 2, 1 }, dims[] = { 1, COLUMNS };
    struct writer w;
    struct onnx_run run;
    struct err err = { 0 };
    float *x[REQUESTS], *want[REQUESTS];
    writer_begin(&w, 13);
    int in = writer_input(&w, 1, (int64_t[]){ -1, COLUMNS }, 2);
    writer_output(&w, writer_node(&w, "Softmax", &in, 1, (const char *[]){ "axis=1", NULL }), 1, (int64_t[]){ -1, COLUMNS }, 2);
    writer_save(&w, file_in("large.onnx"));
    REQUIRE_OK(onnx_run_open(&run, file_in("large.onnx"), &plain, &err), err);
    CHECK(run.signature->batchable);
    for (int k = 0; k < REQUESTS; k++) {
        x[k] = aligned_alloc(64, (size_t)rows[k] * COLUMNS * 4);
        want[k] = calloc((size_t)rows[k] * COLUMNS, 4);
        test_fill(x[k], (size_t)rows[k] * COLUMNS, -1, 1);
    }
    int different = 0;
    for (int step = 0; step < STEPS; step++) {
        struct request q[REQUESTS], *list[REQUESTS];
        struct request_tensor inputs[REQUESTS];
        for (int k = 0; k < REQUESTS; k++) {
            onnx_run_request(&q[k], &inputs[k], run.signature->inputs[0].name, x[k], dims, 2, rows[k]);
            CHECK_OK(onnx_engine.check(run.engine, &q[k], &err), err);
            list[k] = &q[k];
        }
        CHECK_OK(onnx_run_step(&run, list, REQUESTS, NULL, &err), err);
        for (int k = 0; k < REQUESTS && !err.status; k++) {
            const struct tensor *y = &q[k].outputs[0].tensor;
            CHECK_INT(y->bytes, rows[k] * COLUMNS * 4);
            if (step == 0) memcpy(want[k], y->data, y->bytes);
            different += memcmp(want[k], y->data, y->bytes) != 0;
        }
        for (int k = 0; k < REQUESTS; k++) request_drop(&q[k]);
        if (err.status) break;
    }
    CHECK_INT(different, 0);
    for (int k = 0; k < REQUESTS; k++) free(x[k]), free(want[k]);
    onnx_run_close(&run);
}

static void compare_passes(const char *name, int size)
{
    struct engine_options written = plain;
    struct onnx_run a, b;
    struct err err = { 0 };
    struct request p, q;
    struct tensor y, z;
    const int64_t dims[] = { 1, 3, size, size };
    written.passes_off = true;
    size_t n = (size_t)(2 * 3 * size * size);
    float *x = aligned_alloc(64, n * 4);
    test_fill(x, n, 0, 1);
    if (onnx_run_open(&a, file_in(name), &plain, &err)) { test_fail(__FILE__, __LINE__, "%s", err.text); free(x); return; }
    if (onnx_run_open(&b, file_in(name), &written, &err)) { test_fail(__FILE__, __LINE__, "%s", err.text); onnx_run_close(&a); free(x); return; }
    CHECK(a.signature->batchable && b.signature->batchable);
    CHECK_OK(run_once(&a, x, dims, 4, 2, "v0", NULL, &y, &p, &err), err);
    CHECK_OK(run_once(&b, x, dims, 4, 2, "v0", NULL, &z, &q, &err), err);
    CHECK_INT(p.output_count, q.output_count);
    for (int k = 0; k < p.output_count && p.output_count == q.output_count; k++) {
        CHECK_INT(p.outputs[k].tensor.bytes, q.outputs[k].tensor.bytes);
        CHECK_CLOSE((float *)p.outputs[k].tensor.data, (float *)q.outputs[k].tensor.data, p.outputs[k].tensor.bytes / 4, 1e-4f);
    }
    request_drop(&p);
    request_drop(&q);
    onnx_run_close(&a);
    onnx_run_close(&b);
    free(x);
}

TEST(passes_change_no_answer)
{
    write_resnet18(file_in("r18.onnx"), 64, 16);
    compare_passes("r18.onnx", 64);
    write_mobilenet_v2(file_in("mv2.onnx"), 64);
    compare_passes("mv2.onnx", 64);
    write_mixture(file_in("mixture.onnx"), 16);
    compare_passes("mixture.onnx", 16);
}

TEST(more_shapes_than_the_cache_holds)
{
    struct onnx_run m;
    struct err err = { 0 };
    float *x = aligned_alloc(64, 40 * 64 * 4), first[10];
    test_fill(x, 40 * 64, -1, 1);
    write_mlp(file_in("mlp.onnx"));
    REQUIRE_OK(onnx_run_open(&m, file_in("mlp.onnx"), &plain, &err), err);
    for (int round = 0; round < 2; round++)
        for (int rows = 1; rows <= 40; rows++) {
            struct request q;
            struct tensor y = { 0 };
            CHECK_OK(run_once(&m, x, (int64_t[]){ 1, 64 }, 2, rows, "v0", NULL, &y, &q, &err), err);
            CHECK_INT(y.dims[0], rows);
            if (round == 0 && rows == 1) memcpy(first, y.data, sizeof first);
            CHECK(y.data && memcmp(first, y.data, sizeof first) == 0);
            request_drop(&q);
        }
    free(x);
    onnx_run_close(&m);
}

TEST(an_unaligned_input_gives_the_same_answer)
{
    struct onnx_run m;
    struct err err = { 0 };
    struct request p, q;
    struct tensor y, z;
    char *memory = aligned_alloc(64, 4096);
    write_mlp(file_in("mlp.onnx"));
    REQUIRE_OK(onnx_run_open(&m, file_in("mlp.onnx"), &plain, &err), err);
    float *x = (float *)memory, *shifted = (float *)(memory + 1028);
    test_fill(x, 64, -1, 1);
    memcpy(shifted, x, 256);
    REQUIRE_OK(run_once(&m, x, (int64_t[]){ 1, 64 }, 2, 1, "v0", NULL, &y, &p, &err), err);
    REQUIRE_OK(run_once(&m, shifted, (int64_t[]){ 1, 64 }, 2, 1, "v0", NULL, &z, &q, &err), err);
    CHECK(memcmp(y.data, z.data, 40) == 0);
    request_drop(&p);
    request_drop(&q);
    free(memory);
    onnx_run_close(&m);
}

TEST(a_budget_refuses_with_figures)
{
    struct engine_options small = plain;
    struct onnx_run m;
    struct err err = { 0 };
    write_mlp(file_in("mlp.onnx"));
    small.memory_max = 100000;                               /* the weights alone are 230 KB */
    CHECK_INT(onnx_run_open(&m, file_in("mlp.onnx"), &small, &err), ST_NO_MEMORY);
    CHECK(strstr(err.text, "100000") != NULL);
    struct writer w;                                         /* a fill of 4 TB as a constant: refused, not tried */
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, row4, 2), huge = writer_ints(&w, (int64_t[]){ 1 << 20, 1 << 20 }, 2);
    int fill = writer_node(&w, "ConstantOfShape", &huge, 1, NULL);
    int cut = writer_node(&w, "ReduceSum", &fill, 1, (const char *[]){ "keepdims=0", NULL });
    writer_output(&w, writer_node(&w, "Add", (int[]){ x, cut }, 2, NULL), 1, row4, 2);
    writer_save(&w, file_in("huge.onnx"));
    CHECK_INT(onnx_run_open(&m, file_in("huge.onnx"), &plain, &err), ST_NO_MEMORY);
}

TEST(the_stop_flag_ends_a_step)
{
    struct onnx_run m;
    struct err err = { 0 };
    struct request q;
    struct tensor y;
    const atomic_bool stop = true;
    _Alignas(64) float x[64] = { 0 };
    write_mlp(file_in("mlp.onnx"));
    REQUIRE_OK(onnx_run_open(&m, file_in("mlp.onnx"), &plain, &err), err);
    CHECK_INT(run_once(&m, x, (int64_t[]){ 1, 64 }, 2, 1, "v0", &stop, &y, &q, &err), ST_CANCELLED);
    request_drop(&q);
    onnx_run_close(&m);
}

/* Indices and shapes that come as data: good ones give the right shape, bad ones a sentence, and the next request is served. */
TEST(data_decides_shapes_and_is_checked)
{
    struct writer w;
    struct onnx_run m;
    struct err err = { 0 };
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ 6 }, 1), shape = writer_input(&w, 7, (int64_t[]){ 2 }, 1);
    writer_output(&w, writer_node(&w, "Relu", (int[]){ writer_node(&w, "Reshape", (int[]){ x, shape }, 2, NULL) }, 1, NULL), 1, (int64_t[]){ -1, -1 }, 2);
    writer_save(&w, file_in("reshape.onnx"));
    REQUIRE_OK(onnx_run_open(&m, file_in("reshape.onnx"), &plain, &err), err);
    CHECK(!m.signature->batchable);
    _Alignas(64) float data[6] = { -1, 2, -3, 4, -5, 6 };
    static const int64_t shapes[][2] = { { 2, 3 }, { 3, -1 }, { 4, 2 }, { -1, -1 }, { 6, 1 } };
    static const enum status want[] = { ST_OK, ST_OK, ST_BAD_INPUT, ST_BAD_INPUT, ST_OK };
    for (int i = 0; i < 5; i++) {
        _Alignas(64) int64_t target[2] = { shapes[i][0], shapes[i][1] };
        struct request q, *list[] = { &q };
        struct request_tensor in[2] = {
            { "v0", { .dtype = DT_F32, .rank = 1, .dims = { 6 }, .data = data, .bytes = 24 } },
            { "v1", { .dtype = DT_I64, .rank = 1, .dims = { 2 }, .data = target, .bytes = 16 } },
        };
        request_init(&q, 1 << 20);
        q.id = "";
        q.inputs = in;
        q.input_count = 2;
        CHECK_INT(onnx_run_step(&m, list, 1, NULL, &err), want[i]);
        if (want[i] == ST_OK && q.output_count == 1) {
            CHECK_INT(q.outputs[0].tensor.dims[0], shapes[i][0]);
            CHECK_INT(((float *)q.outputs[0].tensor.data)[5], 6);
            CHECK_INT(((float *)q.outputs[0].tensor.data)[4], 0);
        }
        request_drop(&q);
    }
    onnx_run_close(&m);
}

/* ---- external data (R21) ---- */
static void write_external(const char *path, const char *location, const char *key, const char *value)
{
    /* ModelProto { ir 8; opset 13; graph { node Add(x, w) -> y; initializer w external; input x [2]; output y [2] } } */
    struct buf g, t, e, m;
    static const char node[] = "\x0a\x01x\x0a\x01w\x12\x01y\x22\x03" "Add", port[] = "\x0a\x01?\x12\x0a\x0a\x08\x08\x01\x12\x04\x0a\x02\x08\x02", opset[] = "\x0a\x00\x10\x0d";
    const char *pairs[][2] = { { "location", location }, { key, value } };
    buf_init(&g, 0), buf_init(&t, 0), buf_init(&m, 0);
    buf_append(&t, "\x08\x02\x10\x01\x42\x01w\x70\x01", 9);
    for (int i = 0; i < (key ? 2 : 1); i++) {
        buf_init(&e, 0);
        buf_printf(&e, "\x0a%c%s\x12%c%s", (char)strlen(pairs[i][0]), pairs[i][0], (char)strlen(pairs[i][1]), pairs[i][1]);
        buf_printf(&t, "\x6a%c", (char)e.length);
        buf_append(&t, e.data, e.length);
        buf_free(&e);
    }
    buf_printf(&g, "\x0a%c", (char)(sizeof node - 1));
    buf_append(&g, node, sizeof node - 1);
    buf_printf(&g, "\x2a%c", (char)t.length);
    buf_append(&g, t.data, t.length);
    for (int i = 0; i < 2; i++) {
        char p[sizeof port];
        memcpy(p, port, sizeof port);
        p[2] = i ? 'y' : 'x';
        buf_printf(&g, "%c%c", i ? 0x62 : 0x5a, (char)(sizeof port - 1));
        buf_append(&g, p, sizeof port - 1);
    }
    buf_append(&m, "\x08\x08\x42\x04", 4);
    buf_append(&m, opset, 4);
    buf_putc(&m, 0x3a);
    buf_putc(&m, (char)((g.length & 127) | 128));
    buf_putc(&m, (char)(g.length >> 7));
    buf_append(&m, g.data, g.length);
    FILE *f = fopen(path, "wb");
    fwrite(m.data, 1, m.length, f);
    fclose(f);
    buf_free(&g), buf_free(&t), buf_free(&m);
}

static enum status open_external(const char *folder, const char *location, const char *key, const char *value, struct err *err)
{
    char path[600];
    struct engine *e;
    snprintf(path, sizeof path, "%s/model.onnx", folder);
    write_external(path, location, key, value);
    struct model_files files = { folder, path, NULL };
    enum status st = onnx_engine.open(&e, &files, &plain, err);
    if (!st) onnx_engine.close(e);
    return st;
}

TEST(external_data_stays_in_the_folder)
{
    char folder[512], path[600];
    struct err err = { 0 };
    snprintf(folder, sizeof folder, "%s/external", test_directory());
    mkdir(folder, 0755);
    snprintf(path, sizeof path, "%s/w.bin", folder);
    FILE *f = fopen(path, "wb");
    fwrite("0123456789ab", 1, 12, f);
    fclose(f);
    CHECK_OK(open_external(folder, "w.bin", "length", "8", &err), err);
    CHECK_OK(open_external(folder, "w.bin", "offset", "4", &err), err);
    CHECK_OK(open_external(folder, "w.bin", "checksum", "x", &err), err);
    CHECK_INT(open_external(folder, "w.bin", "offset", "5", &err), ST_BAD_INPUT);
    CHECK_INT(open_external(folder, "w.bin", "offset", "-1", &err), ST_BAD_INPUT);
    CHECK_INT(open_external(folder, "w.bin", "length", "12", &err), ST_BAD_INPUT);
    CHECK_INT(open_external(folder, "w.bin", "offset", "18446744073709551615", &err), ST_BAD_INPUT);
    CHECK_INT(open_external(folder, "w.bin", "address", "1", &err), ST_BAD_INPUT);
    CHECK(open_external(folder, "../external/w.bin", NULL, NULL, &err) != ST_OK);
    CHECK(open_external(folder, "/etc/hostname", NULL, NULL, &err) != ST_OK);
    CHECK_INT(open_external(folder, "absent.bin", NULL, NULL, &err), ST_NOT_FOUND);
    char other[600];
    snprintf(other, sizeof other, "%s/link.bin", folder);
    CHECK_INT(symlink("w.bin", other), 0);
    CHECK(open_external(folder, "link.bin", NULL, NULL, &err) != ST_OK);
    snprintf(other, sizeof other, "%s/hard.bin", folder);
    CHECK_INT(link(path, other), 0);
    CHECK_INT(open_external(folder, "hard.bin", "length", "8", &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "hard links") != NULL);
}
