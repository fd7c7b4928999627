/* gpu-check's tasks of language models: every type of matrix with few and more rows, several matrices at once, gated and of experts; pages of every type, read by texts that decode, that are read
 * whole, and both in one step. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/body_llm.h"
#include "tests/kernels/gpu_check.h"

enum { F32 = GPU_F32, LINEAR_OPERANDS = GPU_LINEAR_CHOSEN + 1 };

static const int blocks[] = { BLOCK_F32, BLOCK_F16, BLOCK_BF16, BLOCK_Q4_0, BLOCK_Q8_0, BLOCK_Q4_K, BLOCK_Q5_K, BLOCK_Q6_K };

static struct gpu_matrix matrix(int block, int64_t n, int64_t k)
{
    const int64_t bytes = block == BLOCK_F32 ? (k + 31) / 32 * 128 : gpu_block_is_plain(block) ? (k + 31) / 32 * 64 : block == BLOCK_Q4_0 ? k / 32 * 18 : block == BLOCK_Q8_0 ? k / 32 * 34 : k / 256 * (block == BLOCK_Q4_K ? 144 : block == BLOCK_Q5_K ? 176 : 210);
    return (struct gpu_matrix){ .block = block, .n = n, .k = k, .row_bytes = (bytes + 15) / 16 * 16 };
}

static float number(void) { return (float)(gpu_check_draw() % 2001) / 1000.0f - 1; }

/* Random bytes whose scales are numbers. */
static uint8_t *weights(const struct gpu_matrix *w, int64_t rows)
{
    uint8_t *all = malloc((size_t)(rows * w->row_bytes));
    if (!all) exit(1);
    for (int64_t i = 0; i < rows * w->row_bytes; i++) all[i] = (uint8_t)gpu_check_draw();
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *row = all + r * w->row_bytes;
        switch (w->block) {
        case BLOCK_F32: for (int64_t i = 0; i < w->row_bytes / 4; i++) body_store(row, GPU_F32, i, i < w->k ? number() : 0); break;
        case BLOCK_F16: case BLOCK_BF16: for (int64_t i = 0; i < w->row_bytes / 2; i++) body_store(row, w->block == BLOCK_F16 ? GPU_F16 : GPU_BF16, i, i < w->k ? number() : 0); break;
        case BLOCK_Q4_0: for (int64_t i = 0; i < w->k / 32; i++) body_store(row + w->k / 2, GPU_F16, i, number() / 8); break;
        case BLOCK_Q8_0: for (int64_t i = 0; i < w->k / 32; i++) body_store(row + w->k, GPU_F16, i, number() / 128); break;
        case BLOCK_Q4_K: case BLOCK_Q5_K: for (int64_t i = 0; i < w->k / 256; i++) for (int j = 0; j < 2; j++) body_store(row + i * (w->block == BLOCK_Q4_K ? 144 : 176), GPU_F16, j, number() / 256); break;
        default: for (int64_t i = 0; i < w->k / 256; i++) body_store(row + 208 * (w->k / 256), GPU_F16, i, number() / 1024);
        }
    }
    return all;
}

/* Parts of n[p] rows; experts 0: none. extras: bias, residual and activation of one part. */
static void linear(const char *name, int64_t m, int64_t k, int parts, const int *block, const int64_t *n, bool gated, int experts, bool extras)
{
    struct gpu_task t = { .kind = GPU_LINEAR };
    struct gpu_linear *l = &t.u.linear;
    struct numbers o[LINEAR_OPERANDS] = { { F32, experts ? (m + 1) / 2 * k : m * k, 0, false, 0, NULL, 0 } };
    uint8_t *made[GPU_PARTS] = { NULL };
    for (int i = 1; i < LINEAR_OPERANDS; i++) o[i] = (struct numbers){ .type = i < GPU_LINEAR_RESIDUAL && i % GPU_LINEAR_EACH == GPU_LINEAR_W ? GPU_U8 : i == GPU_LINEAR_CHOSEN ? GPU_I32 : F32 };
    *l = (struct gpu_linear){ .m = m, .k = k, .parts = parts, .gated = gated, .gate_kind = 2, .experts = experts, .share = 2, .has_residual = extras };
    if (extras) l->act = (struct activation_spec){ ACT_GELU, 0, 0 };
    for (int p = 0; p < parts; p++) {
        const int64_t copies = experts ? experts : 1;
        l->w[p] = matrix(block[p], n[p], k);
        l->next[p] = n[p] * l->w[p].row_bytes;
        l->next_bias[p] = n[p];
        made[p] = weights(&l->w[p], copies * n[p]);
        o[GPU_LINEAR_W + GPU_LINEAR_EACH * p].count = copies * l->next[p];
        o[GPU_LINEAR_W + GPU_LINEAR_EACH * p].given = made[p];
        if (!gated || p == 0) o[GPU_LINEAR_Y + GPU_LINEAR_EACH * p].count = m * n[p], o[GPU_LINEAR_Y + GPU_LINEAR_EACH * p].out = true;
        if (extras || gated || experts) o[GPU_LINEAR_BIAS + GPU_LINEAR_EACH * p].count = copies * n[p];
    }
    if (extras) o[GPU_LINEAR_RESIDUAL].count = m * n[0];
    if (experts) o[GPU_LINEAR_CHOSEN].count = m, o[GPU_LINEAR_CHOSEN].limit = experts;
    gpu_check_task(name, t, o, LINEAR_OPERANDS);
    for (int p = 0; p < parts; p++) free(made[p]);
}

static void linears(void)
{
    static const int64_t rows[] = { 1, 2, 3, 7, 8, 13 };
    for (int b = 0; b < (int)(sizeof blocks / sizeof blocks[0]); b++) {
        for (int r = 0; r < 6; r++) {
            linear("a matrix and few rows", rows[r], 512, 1, &blocks[b], (int64_t[]){ 71 }, false, 0, r % 2);
            if (gpu_block_is_plain(blocks[b])) linear("a matrix of odd rows", rows[r], 43, 1, &blocks[b], (int64_t[]){ 9 }, false, 0, r % 2);
        }
        linear("a matrix of long rows", 1, 4352, 1, &blocks[b], (int64_t[]){ 33 }, false, 0, false);
        linear("gated matrices", 3, 256, 2, (int[]){ blocks[b], blocks[b] }, (int64_t[]){ 45, 45 }, true, 0, false);
        linear("experts", 6, 256, 1, &blocks[b], (int64_t[]){ 35 }, false, 5, false);
        linear("gated experts", 6, 256, 2, (int[]){ blocks[b], blocks[b] }, (int64_t[]){ 35, 35 }, true, 5, false);
        linear("three matrices", 2, 512, 3, (int[]){ blocks[b], BLOCK_Q6_K, BLOCK_F16 }, (int64_t[]){ 65, 17, 33 }, false, 0, false);
        const struct gpu_matrix w = matrix(blocks[b], 23, 512);
        uint8_t *made = weights(&w, w.n);
        const struct numbers table = { GPU_U8, w.n * w.row_bytes, 0, false, 0, made, 0 };
        gpu_check_task("embeddings", (struct gpu_task){ .kind = GPU_EMBED, .u.embed = { w, 11, 1, 0.5f } }, (struct numbers[]){ { GPU_I32, 11, 22, false, 0, NULL, 0 }, table, { F32, 11 * 512, 0, true, 0, NULL, 0 } }, 3);
        gpu_check_task("a matrix unpacked", (struct gpu_task){ .kind = GPU_EMBED, .u.embed = { w, 23, 0, 1 } }, (struct numbers[]){ { GPU_I32, 0, 0, false, 0, NULL, 0 }, table, { GPU_BF16, 23 * 512, 0, true, 0, NULL, 0 } }, 3);
        free(made);
    }
}

static void small_ones(void)
{
    for (int kind = 0; kind < 6; kind++)
        gpu_check_task("a gate", (struct gpu_task){ .kind = GPU_GATE, .u.gate = { 7, 37, 3, 90, 50, 90, kind, 0.6f } }, (struct numbers[]){ { F32, 640, 0, false, 0, NULL, 0 }, { F32, 640, 0, false, 0, NULL, 0 }, { F32, 259, 0, true, 0, NULL, 0 } }, 3);
    gpu_check_task("rotations", (struct gpu_task){ .kind = GPU_ROPE_TABLE, .u.rope_table = { 9, 40, 1.5f, 0.7f } },
                   (struct numbers[]){ { GPU_I32, 9, 0, false, 0, (int32_t[]){ 0, 1, 2, 511, 1 << 30, 1 << 30 | 7, 40, 1 << 30 | 900, 3 }, 0 }, { F32, 360, 0, true, 0, NULL, 2e-4 }, { F32, 20, 0, false, 0, NULL, 0 }, { F32, 20, 0, false, 0, NULL, 0 } }, 4);
    for (int experts = 3; experts < 200; experts += 65)
        gpu_check_task("a route", (struct gpu_task){ .kind = GPU_ROUTE, .u.route = { 13, experts, 3, experts > 3 } }, (struct numbers[]){ { F32, 13 * experts, 0, false, 0, NULL, 0 }, { GPU_I32, 39, 0, true, 0, NULL, 0 }, { F32, 39, 0, true, 0, NULL, 0 } }, 3);
    gpu_check_task("experts put together", (struct gpu_task){ .kind = GPU_COMBINE, .u.combine = { 5, 77, 3 } }, (struct numbers[]){ { F32, 1155, 0, false, 0, NULL, 0 }, { F32, 15, 0, false, 0, NULL, 0 }, { F32, 385, 0, true, 0, NULL, 0 } }, 3);
    gpu_check_task("norms of heads with weights of their own", (struct gpu_task){ .kind = GPU_NORM_ROWS, .u.norm_rows = { 12, 40, 1e-5f, true, 4 } }, (struct numbers[]){ { F32, 480, 0, false, 0, NULL, 0 }, { F32, 480, 0, true, 0, NULL, 0 }, { F32, 160, 0, false, 0, NULL, 0 }, { F32, 160, 0, false, 0, NULL, 0 } }, 4);
}

/* ---- pages ---- */
enum { SEQUENCES = 5, ENTRIES = 256, PAGES = 200, TOKENS = 48 };
/* A text that decodes behind 1,290 tokens, one behind 3, an empty row, one that is read from its 600th token on, one from its beginning; tokens 46 and 47 are nobody's. */
static const int32_t rows[SEQUENCES * 4] = { 0, 1, 1290, 0, 1, 1, 3, 81, 0, 0, 0, 0, 2, 27, 600, 82, 29, 17, 0, 122 };

static void fill_pages(const struct gpu_cache *c, char *kv)
{
    for (int64_t p = 0; p < PAGES; p++)
        for (int64_t h = 0; h < c->kv_heads; h++)
            for (int64_t at = 0; at < ATTENTION_PAGE; at++)
                for (int keys = 0; keys < 2; keys++) {
                    const int64_t dim = keys ? c->head_dim : c->head_dim_v, group = c->kv_block == BLOCK_Q8_0 ? 32 : 1;
                    char *page = kv + c->layer + p * c->page_stride;
                    for (int64_t i = 0; i < dim; i += group) {
                        float x[32];
                        for (int64_t k = 0; k < group; k++) x[k] = number();
                        body_store_numbers(c, (char *)(keys ? body_keys(c, page, h) : body_values(c, page, h)), keys, at, i, x);
                    }
                }
}

static void paged(int kv_block, int64_t dim, int kv_heads, int group, int how)
{
    static const double bounds[] = { [BLOCK_F16] = 2e-3, [BLOCK_BF16] = 1.2e-2 };
    struct gpu_cache c = { .sequences = SEQUENCES, .kv_heads = kv_heads, .kv_block = kv_block, .head_dim = dim, .head_dim_v = dim, .layer = 128 };
    c.page_stride = (body_cache_bytes(kv_block, 2 * kv_heads * dim * ATTENTION_PAGE) + 63) / 64 * 64;
    const int64_t heads = kv_heads * group, bytes = c.layer + PAGES * c.page_stride, partial = (ENTRIES / (GPU_SPAN / ATTENTION_PAGE) + SEQUENCES) * heads * (dim + 2);
    int32_t pages[ENTRIES];
    char *kv = calloc(1, (size_t)bytes);
    if (!kv) exit(1);
    for (int i = 0; i < ENTRIES; i++) pages[i] = (i * 37 + 5) % PAGES;
    fill_pages(&c, kv);
    const bool tiles = (kv_block == BLOCK_F16 || kv_block == BLOCK_BF16) && how != 4;
    const struct gpu_paged p = { .c = c, .tokens = TOKENS, .heads = heads, .spans = ENTRIES / (GPU_SPAN / ATTENTION_PAGE) + 1, .scale = 0.3f, .softcap = how == 1 ? 20 : 0, .window = how == 2 ? 130 : 0, .causal = how != 3, .alone = how == 4 };
    const struct numbers kv_given = { GPU_U8, bytes, 0, false, 0, kv, 0 };
    gpu_check_task("attention over pages", (struct gpu_task){ .kind = GPU_PAGED, .u.paged = p },
                   (struct numbers[]){ { F32, TOKENS * heads * dim, 0, false, 0, NULL, 0 }, { GPU_I32, SEQUENCES * 4, 0, false, 0, rows, 0 }, { GPU_I32, ENTRIES, 0, false, 0, pages, 0 }, kv_given, { F32, TOKENS * heads * dim, 0, true, 0, NULL, tiles ? bounds[kv_block] : 5e-5 },
                                       { F32, how == 1 ? heads : 0, 0, false, 0, NULL, 0 }, { F32, how == 3 ? heads : 0, 0, false, 0, NULL, 0 }, { F32, partial, 0, false, 0, NULL, 0 } }, 8);
    const int64_t q = heads * dim, k = kv_heads * dim, all = q + 2 * k;
    const struct gpu_store_kv s = { .c = c, .tokens = TOKENS, .heads = heads, .q_step = all, .k_from = q, .k_step = all, .v_from = q + k, .v_step = all, .rotary = how == 2 ? (int)dim / 2 / 2 * 2 : (int)dim / 2 * 2, .adjacent = how == 1 };
    gpu_check_task("keys and values stored", (struct gpu_task){ .kind = GPU_STORE, .u.store = s },
                   (struct numbers[]){ { F32, TOKENS * all, 0, false, 0, NULL, 0 }, { F32, TOKENS * all, 0, false, 0, NULL, 0 }, { F32, TOKENS * all, 0, false, 0, NULL, 0 }, { F32, how == 3 ? 0 : TOKENS * s.rotary, 0, false, 0, NULL, 0 },
                                       { GPU_I32, SEQUENCES * 4, 0, false, 0, rows, 0 }, { GPU_I32, ENTRIES, 0, false, 0, pages, 0 }, { GPU_U8, bytes, 0, false, 0, kv, 0 }, { F32, TOKENS * q, 0, true, 0, NULL, 0 } }, 8);
    free(kv);
}

void gpu_check_llm(void)
{
    static const struct { int64_t dim; int kv_heads, group; } shapes[] = { { 64, 2, 1 }, { 128, 1, 4 }, { 32, 2, 7 }, { 96, 1, 17 }, { 32, 1, 71 } };
    static const int types[] = { BLOCK_F32, BLOCK_F16, BLOCK_BF16, BLOCK_Q8_0 };
    linears();
    small_ones();
    for (int t = 0; t < 4; t++)
        for (int s = 0; s < 5; s++)
            for (int how = 0; how < 5; how++)
                if (s < 2 || (s + t + how) % 5 == 0) paged(types[t], shapes[s].dim, shapes[s].kv_heads, shapes[s].group, how);
    paged(BLOCK_F16, 40, 2, 3, 0);
}
