/* Networks whose weights are mostly 0: whichever kernel is chosen when they load, the answers have the bits of the dense product, alone and in company */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/formats/onnx_edit.h"
#include "kernels/kernels.h"
#include "tests/engine/onnx_run.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

enum { WIDTH = 512, ROWS = 19 };

/* MatMul, Gemm with a transposed weight, bias and Relu. */
static const char *write_pruned(float *w, float *v, float *bias)
{
    static char path[512];
    const int64_t dims[] = { WIDTH, WIDTH }, ports[] = { -1, WIDTH };
    struct writer f;
    snprintf(path, sizeof path, "%s/pruned.onnx", test_directory());
    writer_begin(&f, 17);
    int x = writer_input(&f, DT_F32, ports, 2), constants[3];
    const void *data[] = { w, v, bias };
    for (int i = 0; i < 3; i++) {
        char name[16];
        constants[i] = f.next++;
        snprintf(name, sizeof name, "v%d", constants[i]);
        onnx_put_tensor(&f.graph, name, DT_F32, dims, i == 2 ? 1 : 2, data[i], (i == 2 ? 1 : WIDTH) * WIDTH * sizeof(float));
    }
    int y = writer_node(&f, "MatMul", (int[]){ x, constants[0] }, 2, NULL);
    y = writer_node(&f, "Gemm", (int[]){ y, constants[1], constants[2] }, 3, (const char *[]){ "transB=1", NULL });
    y = writer_node(&f, "Relu", &y, 1, NULL);
    writer_output(&f, y, DT_F32, ports, 2);
    writer_save(&f, path);
    return path;
}

static void multiply(const struct kernels *k, float *c, const float *a, const float *b, bool turned, const struct gemm_epilogue *ep)
{
    void *packed = aligned_alloc(64, (k->gemm_f32_packed_bytes(WIDTH, WIDTH) + 63) / 64 * 64);
    k->gemm_f32_pack(packed, b, turned ? 1 : WIDTH, turned ? WIDTH : 1, WIDTH, WIDTH);
    k->gemm_f32(c, WIDTH, a, WIDTH, packed, ROWS, WIDTH, WIDTH, ep, 1);
    free(packed);
}

static void answer(struct onnx_run *m, float *x, int64_t rows, float *to)
{
    struct request q, *one = &q;
    struct request_tensor slot;
    struct err err;
    onnx_run_request(&q, &slot, m->signature->inputs[0].name, x, (int64_t[]){ rows, WIDTH }, 2, rows);
    if (onnx_run_step(m, &one, 1, NULL, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    else memcpy(to, q.outputs[0].tensor.data, (size_t)(rows * WIDTH) * sizeof *to);
    request_drop(&q);
}

TEST(answers_have_the_bits_of_the_dense_product)
{
    float *w = malloc(WIDTH * WIDTH * sizeof *w), *v = malloc(WIDTH * WIDTH * sizeof *v), bias[WIDTH];
    float *x = aligned_alloc(64, ROWS * WIDTH * sizeof *x), *h = aligned_alloc(64, ROWS * WIDTH * sizeof *h), *want = aligned_alloc(64, ROWS * WIDTH * sizeof *h), *got = malloc(ROWS * WIDTH * sizeof *got);
    test_seed(9);
    test_fill(w, WIDTH * WIDTH, -1, 1);
    test_fill(v, WIDTH * WIDTH, -1, 1);
    test_fill(bias, WIDTH, -1, 1);
    test_fill(x, ROWS * WIDTH, -1, 1);
    for (int i = 0; i < WIDTH * WIDTH; i++) {
        if (test_random() % 100 < 97) w[i] = 0;
        if (test_random() % 100 < 97) v[i] = 0;
    }
    x[3 * WIDTH + 5] = INFINITY;
    const char *path = write_pruned(w, v, bias);
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
        const struct engine_options o = { .threads = 2, .cpu_level = level, .max_batch_rows = ROWS };
        struct kernels k;
        struct onnx_run m;
        struct err err = { 0 };
        kernels_fill(&k, (enum cpu_level)level);
        multiply(&k, h, x, w, false, NULL);
        multiply(&k, want, h, v, true, &(struct gemm_epilogue){ .bias = bias, .act = { .kind = ACT_RELU } });
        REQUIRE_OK(onnx_run_open(&m, path, &o, &err), err);
        answer(&m, x, ROWS, got);
        int wrong = 0;
        for (int i = 0; i < ROWS * WIDTH; i++) wrong += memcmp(&got[i], &want[i], 4) != 0 && !(isnan(got[i]) && isnan(want[i]));
        CHECK_INT(wrong, 0);
        for (int r = 0; r < ROWS; r += 6) {      /* alone */
            float alone[WIDTH];
            answer(&m, x + r * WIDTH, 1, alone);
            if (memcmp(alone, got + r * WIDTH, sizeof alone)) test_fail(__FILE__, __LINE__, "row %d differs alone, level %d", r, level);
        }
        onnx_run_close(&m);
    }
    free(w), free(v), free(x), free(h), free(want), free(got);
}
