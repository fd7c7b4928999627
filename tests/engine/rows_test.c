/* A row's f32 result is the same bits whoever rides with it: alone, as one request of n rows, and as one of many requests of a step; with one thread and
 * two; at every CPU level of this machine. Levels that compute by the house's own kernels only are also equal to each other's rows by construction, which
 * the kernel suites test. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/onnx/onnx_engine_internal.h"
#include "kernels/kernels.h"
#include "tests/engine/onnx_run.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

enum { ROWS = 32, SCALAR_ROWS = 6, PART_ROWS = 21, PART_RUNS = 9 };     /* the large networks are slow without vectors */

/* Runs rows [from, from + n) as `requests` requests in one step and appends the answers to y. */
static bool run_rows(struct onnx_run *m, float *x, const int64_t *dims, int rank, int64_t row, int from, int n, int requests, float *y, int64_t out_row)
{
    struct request q[ROWS], *list[ROWS];
    struct request_tensor in[ROWS];
    struct err err = { 0 };
    for (int i = 0, at = from; i < requests; i++) {
        int mine = n / requests + (i < n % requests);
        onnx_run_request(&q[i], &in[i], m->signature->inputs[0].name, x + at * row, dims, rank, mine);
        list[i] = &q[i];
        at += mine;
    }
    enum status st = onnx_run_step(m, list, requests, NULL, &err);
    if (st) test_fail(__FILE__, __LINE__, "%d rows in %d requests: %s", n, requests, err.text);
    for (int i = 0; i < requests; i++) {
        const struct tensor *t = &q[i].outputs[0].tensor;
        if (!st && t->bytes != (uint64_t)(in[i].tensor.dims[0] * out_row) * 4) { test_fail(__FILE__, __LINE__, "an answer has %llu bytes", (unsigned long long)t->bytes); st = ST_INTERNAL; }
        if (!st) memcpy(y, t->data, t->bytes);
        y += in[i].tensor.dims[0] * out_row;
        request_drop(&q[i]);
    }
    return st == ST_OK;
}

static void check_rows(const char *path, const int64_t *dims, int rank, int64_t out_row, int level, int threads, int step, int most)
{
    struct engine_options o = { .threads = threads, .cpu_level = level, .max_batch_rows = ROWS };
    struct onnx_run m;
    struct err err = { 0 };
    int64_t row = 1;
    for (int d = 1; d < rank; d++) row *= dims[d];
    REQUIRE_OK(onnx_run_open(&m, path, &o, &err), err);
    CHECK(m.signature->batchable);
    float *x = aligned_alloc(64, (size_t)(row * ROWS) * 4), *alone = calloc((size_t)(out_row * ROWS), 4), *together = calloc((size_t)(out_row * ROWS), 4);
    test_seed(7);
    test_fill(x, (size_t)(row * ROWS), 0, 1);
    bool good = true;
    for (int i = 0; i < most && good; i++) good = run_rows(&m, x, dims, rank, row, i, 1, 1, alone + i * out_row, out_row);
    for (int n = 2; n <= most && good; n += n < most && n + step > most ? most - n : step) {
        int from = (most - n) / 2, requests = n % 3 == 0 ? 1 : n % 3 == 1 ? n : 2;
        good = run_rows(&m, x, dims, rank, row, from, n, requests, together, out_row);
        if (good && memcmp(together, alone + from * out_row, (size_t)(out_row * n) * 4)) {
            test_fail(__FILE__, __LINE__, "%s: %d rows in %d requests differ from the same rows alone (level %s, %d threads)", path, n, requests, cpu_level_name((enum cpu_level)level), threads);
            good = false;
        }
        if (n == most) break;
    }
    free(x);
    free(alone);
    free(together);
    onnx_run_close(&m);
}

static void check_levels(const char *path, const int64_t *dims, int rank, int64_t out_row, int step, int scalar_most)
{
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
        for (int threads = 1; threads <= 2; threads++) check_rows(path, dims, rank, out_row, level, threads, step, level == CPU_SCALAR ? scalar_most : ROWS);
}

static const char *file_in(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", test_directory(), name);
    return path;
}

TEST(rows_of_an_mlp)
{
    const char *path = file_in("mlp.onnx");
    write_mlp(path);
    check_levels(path, (int64_t[]){ 1, 64 }, 2, 10, 1, ROWS);
}

TEST(rows_of_lenet)
{
    check_levels("models/digits/1/model.onnx", (int64_t[]){ 1, 1, 28, 28 }, 4, 10, 1, ROWS);
}

TEST(rows_of_resnet18)
{
    const char *path = file_in("resnet18.onnx");
    write_resnet18(path, 32, 64);
    check_levels(path, (int64_t[]){ 1, 3, 32, 32 }, 4, 100, 15, SCALAR_ROWS);
}

TEST(rows_of_mobilenet_v2)
{
    const char *path = file_in("mobilenet_v2.onnx");
    write_mobilenet_v2(path, 32);
    check_levels(path, (int64_t[]){ 1, 3, 32, 32 }, 4, 100, 11, SCALAR_ROWS);
}

TEST(rows_of_a_mixture)
{
    const char *path = file_in("mixture.onnx");
    write_mixture(path, 16);
    check_levels(path, (int64_t[]){ 1, 3, 16, 16 }, 4, 12 * 8 * 8, 3, ROWS);
}

/* A step whose buffers pass the caches (2.3 MB a row) runs whole and in parts, in turns at first; a row of its input is no multiple of an aligned buffer. */
TEST(rows_in_parts)
{
    const int64_t dims[] = { -1, 1, 77, 79 }, pixels = dims[2] * dims[3], out_row = 4 * pixels;
    static const int requests[] = { 1, 2, PART_ROWS };
    const char *path = file_in("wide.onnx");
    struct writer w;
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, dims, 4), wide = writer_floats(&w, (int64_t[]){ 96, 1, 3, 3 }, 4, -1, 1), narrow = writer_floats(&w, (int64_t[]){ 4, 96, 1, 1 }, 4, -1, 1);
    x = writer_node(&w, "Conv", (int[]){ x, wide }, 2, (const char *const[]){ "pads=1,1,1,1", NULL });
    x = writer_node(&w, "Conv", (int[]){ writer_node(&w, "Relu", &x, 1, NULL), narrow }, 2, NULL);
    writer_output(&w, x, 1, (int64_t[]){ -1, 4, 77, 79 }, 4);
    writer_save(&w, path);

    struct engine_options o = { .threads = 2, .cpu_level = (int)cpu_level_detect(), .max_batch_rows = ROWS };
    for (int promised = 1; promised >= 0; promised--) {      /* without max_batch_size rows may depend on each other: one run */
        struct onnx_run m;
        struct err err = { 0 };
        if (!promised) o.max_batch_rows = 1;
        REQUIRE_OK(onnx_run_open(&m, path, &o, &err), err);
        float *in = aligned_alloc(64, (size_t)(pixels * 64) * 4), *alone = calloc((size_t)(out_row * PART_ROWS), 4), *together = calloc((size_t)(out_row * PART_ROWS), 4);
        test_seed(9);
        test_fill(in, (size_t)(pixels * PART_ROWS), 0, 1);
        bool good = true;
        for (int i = 0; i < PART_ROWS && good; i++) good = run_rows(&m, in, dims, 4, pixels, i, 1, 1, alone + i * out_row, out_row);
        for (int run = 0; run < PART_RUNS && good; run++) {
            good = run_rows(&m, in, dims, 4, pixels, 0, PART_ROWS, promised ? requests[run % 3] : 1, together, out_row);
            CHECK(!memcmp(together, alone, (size_t)(out_row * PART_ROWS) * 4));
        }
        int measured = 0;
        for (int p = 0; p < PLANS; p++) measured += m.instance->plans.entries[p].ways.ns[0] > 0 && m.instance->plans.entries[p].ways.ns[1] > 0;
        CHECK_INT(measured, promised);
        free(in);
        free(alone);
        free(together);
        onnx_run_close(&m);
    }
}
