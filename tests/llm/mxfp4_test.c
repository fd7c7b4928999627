/* gpt-oss folders whose experts are MXFP4: read as they are and through GGUF they compute what a folder with the decoded numbers computes. */
#include "engine/llm/convert.h"
#include "tests/llm/tiny.h"
#include "tests/test.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/formats/safetensors.h"
#include "kernels/blocks.h"

enum { TENSORS = 200 };

/* The published table and layout: two numbers in a byte, the first in the low half; a scale of 2^(s - 127) for 32 numbers. */
static float decode(const uint8_t *blocks, const uint8_t *scales, int64_t index)
{
    static const float values[16] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6 };
    uint8_t code = blocks[index / 2] >> 4 * (index % 2) & 15;
    return ldexpf(values[code], scales[index / 32] - 127);
}

struct folders { struct weight_tensor plain[TENSORS], packed[TENSORS]; int plain_count, packed_count; void *heap[TENSORS * 3]; int heap_count; char names[TENSORS * 2][200]; };

static void *keep(struct folders *f, size_t bytes) { return f->heap[f->heap_count++] = calloc(bytes, 1); }

/* A matrix [experts, k, n] of the plain folder becomes blocks [experts, n, k / 32, 16] of random codes, and the plain one what they stand for. */
static void pack(struct folders *f, const struct weight_tensor *t, struct weight_tensor *plain)
{
    int64_t experts = t->dims[0], k = t->dims[1], n = t->dims[2], count = experts * n * k;
    uint8_t *blocks = keep(f, (size_t)count / 2), *scales = keep(f, (size_t)count / 32);
    float *numbers = keep(f, (size_t)count * sizeof *numbers);
    for (int64_t i = 0; i < count / 2; i++) blocks[i] = (uint8_t)test_random();
    for (int64_t i = 0; i < count / 32; i++) scales[i] = (uint8_t)(123 + test_random() % 4);
    for (int64_t e = 0; e < experts; e++)
        for (int64_t r = 0; r < n; r++)
            for (int64_t c = 0; c < k; c++) numbers[(e * k + c) * n + r] = decode(blocks, scales, (e * n + r) * k + c);
    plain->data = (const uint8_t *)numbers;
    for (int part = 0; part < 2; part++) {
        char *name = f->names[f->packed_count];
        snprintf(name, sizeof f->names[0], "%s_%s", t->name, part ? "scales" : "blocks");
        f->packed[f->packed_count++] = (struct weight_tensor){ .name = name, .type = WEIGHT_U8, .rank = part ? 3 : 4, .dims = { experts, n, k / 32, 16 }, .data = part ? scales : blocks, .bytes = (uint64_t)count / (part ? 32 : 2) };
        if (part) f->packed[f->packed_count - 1].dims[3] = 0;
    }
}

static bool write_folder(const char *folder, const struct tiny *t, const struct weight_tensor *tensors, int count)
{
    char path[600];
    mkdir(folder, 0755);
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = fopen(path, "w");
    bool ok = f && fwrite(t->config, 1, t->config_length, f) == t->config_length;
    if (f) fclose(f);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ok = ok && fd >= 0 && !safetensors_write(weights_sink_fd(&fd), tensors, count, NULL, 0, NULL);
    if (fd >= 0) close(fd);
    return ok;
}

/* The tiny model with feed-forwards of 64, so that rows are whole blocks, and a rotation that GGUF has words for. */
static void widen(struct tiny *t)
{
    char *size = strstr(t->text, "\"intermediate_size\": 48"), *truncate = strstr(t->text, "\"truncate\": false");
    REQUIRE(size && truncate);
    memcpy(size + strlen("\"intermediate_size\": "), "64", 2);
    memcpy(truncate, "\"truncate\": true ", strlen("\"truncate\": false"));
    for (int i = 0; i < t->tensor_count; i++)
        for (int d = 0; d < t->tensors[i].rank; d++)
            if (strstr(t->tensors[i].name, "experts")) t->tensors[i].dims[d] = t->tensors[i].dims[d] == 48 ? 64 : t->tensors[i].dims[d] == 96 ? 128 : t->tensors[i].dims[d];
}

static double distance(const struct tiny *t, const char *a, const char *b)
{
    static float out[2][TINY_TOKENS * 64];
    struct err err = { 0 };
    int columns = 48;
    const char *paths[] = { a, b };
    for (int i = 0; i < 2; i++)
        if (tiny_run(paths[i], NULL, t->tokens, t->token_count, t->token_count, 1, CPU_AMX, out[i], &columns, &err)) {
            fprintf(stderr, "  %s\n", err.text);
            return -1;
        }
    return tiny_farthest(out[0], out[1], t->token_count * columns);
}

TEST(packed_experts_are_read_as_they_are)
{
    static struct tiny t;
    static struct folders f;
    struct err err = { 0 };
    struct safetensors *source;
    char plain[500], packed[500], file[500];
    test_seed(3);
    snprintf(plain, sizeof plain, "%s", test_directory());
    REQUIRE(tiny_read(&t, "tests/llm/vectors/gpt_oss.txt"));
    widen(&t);
    REQUIRE(tiny_write(&t, plain, NULL));
    snprintf(file, sizeof file, "%s/model.safetensors", plain);
    REQUIRE_OK(safetensors_open(&source, -1, file, &err), err);
    const struct weights *w = safetensors_weights(source);
    REQUIRE(w->count < TENSORS);
    int matrices = 0;
    for (int i = 0; i < w->count; i++) {
        const struct weight_tensor *x = &w->tensors[i];
        f.plain[i] = *x;
        if (strstr(x->name, "experts.gate_up_proj") == NULL && strstr(x->name, "experts.down_proj") == NULL) f.packed[f.packed_count++] = *x;
        else if (x->rank < 3) f.packed[f.packed_count++] = *x;
        else pack(&f, x, &f.plain[i]), matrices++;
    }
    CHECK_INT(matrices, 8);
    snprintf(packed, sizeof packed, "%s/packed", plain);
    snprintf(file, sizeof file, "%s/decoded", plain);
    REQUIRE(write_folder(packed, &t, f.packed, f.packed_count));
    REQUIRE(write_folder(file, &t, f.plain, w->count));
    CHECK(distance(&t, file, packed) == 0);
    char gguf[500];
    struct convert_report report;
    snprintf(gguf, sizeof gguf, "%s/packed.gguf", plain);
    CHECK_OK(convert_model(packed, gguf, &(struct convert_options){ .type = CONVERT_KEEP, .threads = 1 }, &report, &err), err);
    CHECK(distance(&t, file, gguf) == 0);
    struct gguf *g;
    REQUIRE_OK(gguf_open(&g, -1, gguf, &err), err);
    const struct weight_tensor *down = weights_find(gguf_weights(g), "blk.0.ffn_down_exps.weight");
    CHECK(down && down->type == WEIGHT_MXFP4);
    gguf_close(g);
    /* scales that are not there, or do not fit */
    for (int i = 0; i < f.packed_count; i++)
        if (strstr(f.packed[i].name, "layers.1.mlp.experts.down_proj_scales")) f.packed[i].dims[1] /= 2, f.packed[i].bytes /= 2;
    REQUIRE(write_folder(packed, &t, f.packed, f.packed_count));
    CHECK(distance(&t, packed, packed) == -1);
    safetensors_close(source);
    for (int i = 0; i < f.heap_count; i++) free(f.heap[i]);
    tiny_free(&t);
}
