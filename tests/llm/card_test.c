/* Language models on a card without a card (tests/kernels/fake_gpu.h): every architecture's logits as transformers has them, exact, and through products and
 * keys and values of halves. Quantised matrices are in quantised_test.c, texts in engine_test.c and golden_test.c. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device_gpu.h"
#include "kernels/blocks.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/llm/tiny.h"
#include "tests/test.h"

#define VECTORS "tests/llm/vectors"

/* The largest difference from the vector; negative: it did not run, and why is in err. */
static double measure(const struct tiny *t, const char *folder, const struct device_gpu *gpu, enum linear_mode mode, int kv_type, int piece, struct err *err)
{
    static float out[TINY_TOKENS * 4096];
    int columns = t->columns;
    if (tiny_run_card(folder, gpu, mode, kv_type, t->tokens, t->token_count, piece, out, &columns, err)) return -1;
    CHECK_INT(columns, t->columns);
    return tiny_farthest(out, t->values, t->rows * t->columns);
}

static void check_model(const char *name, const struct device_gpu *gpu)
{
    static struct tiny t;
    char path[300];
    struct err err = { 0 };
    const char *folder = test_directory();
    snprintf(path, sizeof path, VECTORS "/%s", name);
    CHECK(tiny_read(&t, path));
    CHECK(tiny_write(&t, folder, NULL));
    const bool encoder = strstr(name, "bert") || strstr(name, "encoder");
    if (strstr(name, "t5")) {                                  /* pairs and their relative positions stay on the CPU, and that is said */
        CHECK(measure(&t, folder, gpu, LINEAR_F32, BLOCK_F32, t.token_count, &err) < 0);
        CHECK(strstr(err.text, "cannot run on the GPU"));
        tiny_free(&t);
        return;
    }
    for (int piece = t.token_count; piece > 0; piece = piece == t.token_count && !encoder ? 5 : 0) {
        const double exact = measure(&t, folder, gpu, LINEAR_F32, BLOCK_F32, piece, &err), fast = measure(&t, folder, gpu, LINEAR_FAST, BLOCK_F16, piece, &err);
        if (!(exact >= 0 && exact <= 1e-4) || !(fast >= 0 && fast <= 0.05)) fprintf(stderr, "%s by %d: %g exact, %g fast %s\n", name, piece, exact, fast, err.text);
        CHECK(exact >= 0 && exact <= 1e-4);
        CHECK(fast >= 0 && fast <= 0.05);
    }
    tiny_free(&t);
}

TEST(every_architecture)
{
    const struct device_gpu *gpu;
    struct err err;
    int models = 0;
    device_gpus_use(test_gpu_api());
    REQUIRE_OK(device_gpu_open(&gpu, 0, &err), err);
    DIR *d = opendir(VECTORS);
    REQUIRE(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') check_model(e->d_name, gpu), models++;
    closedir(d);
    CHECK(models >= 30);
    CHECK(!test_gpu_is_fake() || (fake_gpu_ran(GPU_LINEAR) && fake_gpu_ran(GPU_PAGED) && fake_gpu_ran(GPU_STORE) && fake_gpu_ran(GPU_ROUTE) && fake_gpu_ran(GPU_COMBINE) && fake_gpu_ran(GPU_PRODUCT) && fake_gpu_ran(GPU_ROPE_TABLE)));
    CHECK(fake_gpu_is_empty());
    device_gpus_use(NULL);
}
