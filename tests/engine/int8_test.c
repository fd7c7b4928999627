/* Networks rounded to 8 bits: ranges by each method, the file that is written, what is folded and raised on the way, which layers stay in float */
#include <math.h>
#include <stdlib.h>

#include "base/compress.h"
#include "base/file.h"
#include "engine/calibrate/int8.h"
#include "engine/calibrate/observer.h"
#include "engine/calibrate/outline.h"
#include "engine/calibrate/prepare.h"
#include "engine/formats/npy.h"
#include "engine/formats/npz.h"
#include "engine/formats/protobuf_write.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

static const uint64_t MEMORY = (uint64_t)1 << 30;

/* ---- tallies ---- */
TEST(ranges_hold_zero_and_what_the_method_says)
{
    enum { N = 400000 };
    float *x = malloc(N * sizeof *x);
    struct tally t;
    test_seed(5);
    test_fill(x, N, -1, 3);
    for (int i = 0; i < N; i++) x[i] *= x[i] * x[i] / 9;      /* most near 0, 3 at most */
    x[0] = 50;
    x[1] = -20;
    x[2] = INFINITY;
    x[3] = NAN;
    for (int m = TALLY_MINMAX; m <= TALLY_ENTROPY; m++) {
        REQUIRE(tally_begin(&t, (enum tally_method)m));
        tally_add(&t, x + N / 2, N / 2);      /* the histogram widens when the far ones come */
        tally_add(&t, x, N / 2);
        struct range r = tally_range(&t, (enum tally_method)m, 99.9);
        CHECK(t.low == -20 && t.high == 50);
        if (m == TALLY_MINMAX) CHECK(r.low == -20 && r.high == 50);
        else if (m == TALLY_PERCENTILE) CHECK(r.low < -0.1f && r.low > -0.12f && r.high > 2.9f && r.high < 3.1f);
        else CHECK(r.low < -1.9f && r.low > -15 && r.high > 1.9f && r.high < 15);      /* by magnitude, and no finer than its levels */
        tally_end(&t);
    }
    for (int i = 0; i < N; i++) x[i] = 2 + fabsf(x[i] < 40 ? x[i] : 0);
    REQUIRE(tally_begin(&t, TALLY_PERCENTILE));
    tally_add(&t, x + 4, N - 4);
    CHECK(tally_range(&t, TALLY_PERCENTILE, 100).low == 0);      /* 0 is always within */
    tally_end(&t);
    REQUIRE(tally_begin(&t, TALLY_ENTROPY));
    CHECK(tally_range(&t, TALLY_ENTROPY, 0).high == 0);          /* nothing seen */
    memset(x, 0, N * sizeof *x);
    tally_add(&t, x, N);
    CHECK(tally_range(&t, TALLY_ENTROPY, 0).high == 0);
    tally_end(&t);
    free(x);
}

/* ---- .npz ---- */
static void put_number(struct buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) buf_putc(b, (char)(v >> 8 * i));
}

/* A zip archive of one entry; the checksum is not looked at. */
static void put_archive(struct buf *b, const char *name, const struct buf *data, uint32_t plain, int method)
{
    const uint32_t n = (uint32_t)strlen(name), begin = (uint32_t)b->length;
    put_number(b, 0x04034b50, 4), put_number(b, 20, 2), put_number(b, 0, 2), put_number(b, (uint32_t)method, 2), put_number(b, 0, 8), put_number(b, 0xffffffff, 4), put_number(b, 0xffffffff, 4);
    put_number(b, n, 2), put_number(b, 0, 2), buf_puts(b, name);
    buf_append(b, data->data, data->length);
    const uint32_t list = (uint32_t)b->length;
    put_number(b, 0x02014b50, 4), put_number(b, 20, 4), put_number(b, 0, 2), put_number(b, (uint32_t)method, 2), put_number(b, 0, 8), put_number(b, (uint32_t)data->length, 4), put_number(b, plain, 4);
    put_number(b, n, 2), put_number(b, 0, 4), put_number(b, 0, 4), put_number(b, 0, 4), put_number(b, begin, 4), buf_puts(b, name);
    put_number(b, 0x06054b50, 4), put_number(b, 0, 4), put_number(b, 1, 2), put_number(b, 1, 2), put_number(b, 46 + n, 4), put_number(b, list, 4), put_number(b, 0, 2);
}

TEST(npz_files_are_read_stored_and_deflated_and_refused_when_cut)
{
    float x[6] = { 1, 2, 3, 4, 5, 6 };
    const struct tensor t = { .dtype = DT_F32, .rank = 2, .dims = { 2, 3 }, .data = x, .bytes = sizeof x };
    struct arena arena;
    struct err err;
    arena_init(&arena, 1 << 20);
    for (int packed = 0; packed < 2; packed++) {
        struct buf plain, data, file;
        struct npz z;
        buf_init(&plain, 0), buf_init(&data, 0), buf_init(&file, 0);
        REQUIRE_OK(npy_write(&plain, &t, &err), err);
        if (packed) REQUIRE_OK(compress_pack(&data, COMPRESS_BARE, plain.data, plain.length, &err), err);
        put_archive(&file, "x.npy", packed ? &data : &plain, (uint32_t)plain.length, packed ? 8 : 0);
        REQUIRE_OK(npz_parse(&z, &arena, file.data, file.length, &err), err);
        CHECK_INT(z.count, 1);
        const struct tensor *got = npz_find(&z, "x");
        REQUIRE(got && got->bytes == sizeof x && !npz_find(&z, "y"));
        CHECK(memcmp(got->data, x, sizeof x) == 0);
        for (size_t cut = 0; cut < file.length; cut++) CHECK_INT(npz_parse(&z, &arena, file.data, cut, &err), ST_BAD_INPUT);
        buf_free(&plain), buf_free(&data), buf_free(&file);
        arena_reset(&arena);
    }
    arena_free(&arena);
}

/* ---- models ---- */
struct noise { int64_t dims[4]; int rank; };

static enum status make_noise(void *ctx, int index, const struct port *ports, int port_count, struct tensor *out, struct arena *arena, struct err *err)
{
    const struct noise *n = ctx;
    (void)ports, (void)port_count, (void)err;
    out[0] = (struct tensor){ .dtype = DT_F32, .rank = n->rank };
    memcpy(out[0].dims, n->dims, sizeof n->dims);
    tensor_bytes(DT_F32, out[0].dims, n->rank, &out[0].bytes);
    float *x = out[0].data = arena_alloc(arena, out[0].bytes, TENSOR_ALIGN);
    test_seed((uint32_t)index + 1);
    test_fill(x, out[0].bytes / 4, -1, 1);
    return ST_OK;
}

static struct int8_options plain_options(void) { return (struct int8_options){ .method = TALLY_MINMAX, .percentile = 99.99, .threads = 2, .cpu_level = CPU_AMX, .memory_max = MEMORY }; }

static enum status make(struct buf *out, struct int8_report *r, const void *data, size_t size, struct noise *n, const struct int8_options *o, struct err *err)
{
    const struct int8_inputs in = { 3, n, make_noise };
    buf_init(out, 0);
    return int8_make(out, r, data, size, -1, &in, o, err);
}

/* Relative L2 distance of what two files answer to the same noise. */
static double apart(const void *a, size_t a_size, const void *b, size_t b_size, struct noise *n)
{
    const struct observer_options o = { 2, CPU_AMX, MEMORY };
    struct observer *x = NULL, *y = NULL;
    struct arena arena;
    struct tensor in;
    struct err err = { 0 };
    double square = 0, all = 0;
    arena_init(&arena, MEMORY);
    if (observer_open(&x, a, a_size, NULL, 0, &o, &err) || observer_open(&y, b, b_size, NULL, 0, &o, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    for (int i = 0; i < 3 && x && y; i++) {
        make_noise(n, 10 + i, NULL, 1, &in, &arena, &err);
        if (observer_run(x, &in, &err) || observer_run(y, &in, &err)) { test_fail(__FILE__, __LINE__, "%s", err.text); break; }
        const struct operand *p = observer_output(x, 0), *q = observer_output(y, 0);
        if (p->bytes != q->bytes) { test_fail(__FILE__, __LINE__, "other shapes"); break; }
        for (uint64_t k = 0; k < p->bytes / 4; k++) {
            const double u = (double)((const float *)p->data)[k], v = (double)((const float *)q->data)[k];
            square += (u - v) * (u - v);
            all += u * u;
        }
    }
    observer_close(x);
    observer_close(y);
    arena_free(&arena);
    return all > 0 ? sqrt(square / all) : INFINITY;
}

static int count_nodes(const struct onnx_graph *g, const char *type)
{
    int n = 0;
    for (int i = 0; i < g->node_count; i++) n += strcmp(g->nodes[i].type, type) == 0;
    return n;
}

static const char *resnet(char **bytes, size_t *size)
{
    static char path[512];
    struct err err;
    snprintf(path, sizeof path, "%s/resnet.onnx", test_directory());
    write_resnet18(path, 32, 8);
    return file_read_path(bytes, size, path, 1 << 28, &err) ? NULL : path;
}

TEST(a_network_is_rounded_and_the_file_says_so)
{
    char *bytes;
    size_t size;
    struct noise n = { { 1, 3, 32, 32 }, 4 };
    struct int8_options o = plain_options();
    struct int8_report r;
    struct outline q;
    struct buf out, again;
    struct err err = { 0 };
    REQUIRE(resnet(&bytes, &size));
    for (int m = TALLY_MINMAX; m <= TALLY_ENTROPY; m++) {
        o.method = (enum tally_method)m;
        o.signed_activations = m == TALLY_PERCENTILE;
        REQUIRE_OK(make(&out, &r, bytes, size, &n, &o, &err), err);
        CHECK(r.reached && r.kept == 0 && r.layer_count >= 20 && r.compared == 3);
        CHECK(r.error > 1e-4 && r.error < 0.15);
        for (int l = 0; l < r.layer_count; l++) CHECK(r.layers[l].error > 0 && r.layers[l].error < 0.1 && !r.layers[l].kept);
        const double e = apart(bytes, size, out.data, out.length, &n);
        CHECK(e > 1e-4 && e < 0.15);
        REQUIRE_OK(outline_open(&q, (const uint8_t *)out.data, out.length, -1, MEMORY, &err), err);
        CHECK(q.quantised);
        /* every residual sum and the last pooling are between integers: what they read is restored from them */
        for (int i = 0; i < q.graph->node_count; i++) {
            const struct onnx_node *x = &q.graph->nodes[i];
            for (int k = 0; k < x->input_count && (strcmp(x->type, "Add") == 0 || strcmp(x->type, "Conv") == 0 || strcmp(x->type, "MaxPool") == 0); k++) CHECK(strstr(x->inputs[k], "_DequantizeLinear_Output") != NULL);
        }
        CHECK(count_nodes(q.graph, "QuantizeLinear") < count_nodes(q.graph, "DequantizeLinear"));
        outline_close(&q);
        CHECK(out.length < size / 2);
        int8_report_free(&r);
        CHECK_INT(make(&again, &r, out.data, out.length, &n, &o, &err), ST_BAD_INPUT);
        CHECK(strstr(err.text, "already") != NULL);
        int8_report_free(&r);
        buf_free(&again);
        buf_free(&out);
    }
    free(bytes);
}

TEST(the_worst_layers_stay_in_float)
{
    char *bytes;
    size_t size;
    struct noise n = { { 2, 3, 32, 32 }, 4 };
    struct int8_options o = plain_options();
    struct int8_report r;
    struct buf out;
    struct err err = { 0 };
    REQUIRE(resnet(&bytes, &size));
    o.keep_worst = 3;
    REQUIRE_OK(make(&out, &r, bytes, size, &n, &o, &err), err);
    CHECK_INT(r.kept, 3);
    double least = INFINITY, most = 0;
    for (int l = 0; l < r.layer_count; l++) {
        if (r.layers[l].kept) least = fmin(least, r.layers[l].error);
        else most = fmax(most, r.layers[l].error);
    }
    CHECK(least >= most);
    const double with_three = r.error;
    int8_report_free(&r);
    buf_free(&out);
    o = plain_options();
    o.error_max = with_three * 0.75;
    REQUIRE_OK(make(&out, &r, bytes, size, &n, &o, &err), err);
    CHECK(r.reached && r.error <= o.error_max && r.kept > 3 && r.kept < r.layer_count);
    int8_report_free(&r);
    buf_free(&out);
    o.error_max = 1e-12;      /* nothing rounded keeps that */
    REQUIRE_OK(make(&out, &r, bytes, size, &n, &o, &err), err);
    CHECK_INT(r.kept, r.layer_count);
    CHECK(apart(bytes, size, out.data, out.length, &n) < 1e-6);
    int8_report_free(&r);
    buf_free(&out);
    free(bytes);
}

/* From the fuzzers' corpus: a normalisation to fold, a depthwise convolution; and a file of opset 10 whose operators read attributes that are inputs now. */
static void check_kept_in_float(const char *path, struct noise *n, int folded, int layers)
{
    char *bytes;
    size_t size;
    struct int8_options o = plain_options();
    struct int8_report r;
    struct buf out;
    struct err err = { 0 };
    REQUIRE_OK(file_read_path(&bytes, &size, path, 1 << 20, &err), err);
    o.keep_worst = 1000;
    REQUIRE_OK(make(&out, &r, bytes, size, n, &o, &err), err);
    CHECK_INT(r.folded, folded);
    CHECK_INT(r.layer_count, layers);
    CHECK(apart(bytes, size, out.data, out.length, n) < 1e-5);
    int8_report_free(&r);
    buf_free(&out);
    o.keep_worst = 0;
    REQUIRE_OK(make(&out, &r, bytes, size, n, &o, &err), err);
    CHECK(r.kept == 0 && apart(bytes, size, out.data, out.length, n) < 0.1);
    int8_report_free(&r);
    buf_free(&out);
    free(bytes);
}

TEST(normalisations_are_folded) { check_kept_in_float("tests/fuzz/corpus/int8/convolutions.onnx", &(struct noise){ { 2, 3, 6, 6 }, 4 }, 1, 4); }
TEST(an_older_opset_is_raised) { check_kept_in_float("tests/fuzz/corpus/int8/opset10.onnx", &(struct noise){ { 3, 4 }, 2 }, 0, 2); }

TEST(what_is_not_known_is_kept_byte_by_byte)
{
    char *bytes;
    size_t size;
    struct noise n = { { 2, 3, 6, 6 }, 4 };
    struct int8_options o = plain_options();
    struct int8_report r;
    struct buf out, in;
    struct err err = { 0 };
    REQUIRE_OK(file_read_path(&bytes, &size, "tests/fuzz/corpus/int8/convolutions.onnx", 1 << 20, &err), err);
    buf_init(&in, 0);
    buf_append(&in, bytes, size);
    pb_put_text(&in, 2047, "a field of the future");
    size_t p = pb_begin(&in, 14);      /* metadata_props */
    pb_put_text(&in, 1, "author");
    pb_put_text(&in, 2, "somebody");
    pb_end(&in, p);
    REQUIRE_OK(make(&out, &r, in.data, in.length, &n, &o, &err), err);
    CHECK(memmem(out.data, out.length, "a field of the future", 21) && memmem(out.data, out.length, "author", 6) && memmem(out.data, out.length, "somebody", 8));
    int8_report_free(&r);
    buf_free(&out);
    buf_free(&in);
    free(bytes);
}

TEST(what_cannot_be_rounded_is_told)
{
    struct noise n = { { 3, 4 }, 2 };
    struct int8_options o = plain_options();
    struct int8_report r;
    struct writer w;
    struct buf model, out;
    struct err err = { 0 };
    writer_begin(&w, 17);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 4 }, 2), y = writer_node(&w, "Relu", &x, 1, NULL);
    writer_output(&w, y, 1, (int64_t[]){ -1, 4 }, 2);
    buf_init(&model, 0);
    writer_finish(&w, &model);
    CHECK_INT(make(&out, &r, model.data, model.length, &n, &o, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "nothing to round") != NULL);
    int8_report_free(&r);
    buf_free(&out);
    buf_free(&model);
    writer_begin(&w, 9);
    x = writer_input(&w, 1, (int64_t[]){ -1, 4 }, 2);
    y = writer_node(&w, "MatMul", (int[]){ x, writer_floats(&w, (int64_t[]){ 4, 4 }, 2, -1, 1) }, 2, NULL);
    y = writer_node(&w, "Scatter", (int[]){ y, writer_ints(&w, (int64_t[]){ 0 }, 1), y }, 3, NULL);
    writer_output(&w, y, 1, (int64_t[]){ -1, 4 }, 2);
    buf_init(&model, 0);
    writer_finish(&w, &model);
    CHECK_INT(make(&out, &r, model.data, model.length, &n, &o, &err), ST_UNSUPPORTED);
    CHECK(strstr(err.text, "Scatter") && strstr(err.text, "opset 13"));
    int8_report_free(&r);
    buf_free(&out);
    buf_free(&model);
}
