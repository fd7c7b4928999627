/* Dense attention, group norms, growing pictures: against their definitions in double, and bit by bit between levels, companies and threads. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/diffusion.h"
#include "kernels/half.h"
#include "tests/test.h"

static float *filled(int64_t n, float low, float high)
{
    float *x = malloc((size_t)n * sizeof *x);
    test_fill(x, (size_t)n, low, high);
    return x;
}

static void attend(const struct attention_dense *a, int level, int threads)
{
    struct kernels k;
    struct diffusion_kernels d;
    kernels_fill(&k, (enum cpu_level)level);
    diffusion_kernels_fill(&d, (enum cpu_level)level);
    void *scratch = aligned_alloc(64, attention_dense_scratch(a, threads));
    memset(scratch, 0xff, attention_dense_scratch(a, threads));
    attention_dense_f32(a, &k, &d, scratch, threads);
    free(scratch);
}

/* False below the level that has tiles. */
static bool attend_on_tiles(const struct attention_dense *a, int threads)
{
    struct diffusion_kernels d;
    diffusion_kernels_fill(&d, CPU_AMX);
    if (!d.attention_bf16) return false;
    const uint64_t bytes = (d.attention_bf16_scratch(a, threads) + 63) & ~(uint64_t)63;
    void *scratch = aligned_alloc(64, bytes);
    memset(scratch, 0xff, bytes);
    d.attention_bf16(a, scratch, threads);
    free(scratch);
    return true;
}

static void reference(const struct attention_dense *a, float *y)
{
    double *score = malloc((size_t)a->keys * sizeof *score);
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t i = 0; i < a->queries; i++)
            for (int h = 0; h < a->heads; h++) {
                int64_t seen = a->key_counts ? a->key_counts[b] : a->keys;
                if (a->causal && i + 1 + a->keys - a->queries < seen) seen = i + 1 + a->keys - a->queries;
                double top = -INFINITY, sum = 0;
                for (int64_t j = 0; j < seen; j++) {
                    score[j] = 0;
                    for (int d = 0; d < a->head_dim; d++) score[j] += (double)((const float *)a->q)[attention_dense_q(a, b, h) + i * a->ldq + d] * (double)((const float *)a->k)[attention_dense_k(a, b, h) + j * a->ldk + d];
                    score[j] *= (double)a->scale;
                    for (int m = 0; m < ATTENTION_MASKS; m++) {
                        const struct attention_mask *k = &a->masks[m];
                        const int64_t at = b * k->batch + h * k->head + i * k->query + j;
                        if (k->add) score[j] += (double)k->add[at];
                        if (k->seen && (k->seen[at] != 0) == k->inverted) score[j] = (double)k->unseen;
                    }
                    if (score[j] > top) top = score[j];
                }
                for (int64_t j = 0; j < seen; j++) sum += score[j] = top == -INFINITY ? 0 : exp(score[j] - top);
                if (top == -INFINITY) sum = 1;
                for (int d = 0; d < a->head_dim_v; d++) {
                    double v = 0;
                    for (int64_t j = 0; j < seen; j++) v += score[j] / sum * (double)((const float *)a->v)[attention_dense_v(a, b, h) + j * a->ldv + d];
                    y[attention_dense_y(a, b, h) + i * a->ldy + d] = (float)v;
                }
            }
    free(score);
}

TEST(attention_is_its_definition_at_every_level_alone_and_in_company)
{
    static const struct { int heads, dim, queries, keys; bool causal; int counts[2]; } shapes[] = {
        { 2, 40, 70, 300, false, { 0 } }, { 3, 8, 1, 5, false, { 0 } }, { 1, 64, 600, 77, false, { 0 } }, { 2, 16, 90, 90, true, { 0 } }, { 2, 24, 65, 520, false, { 3, 513 } }, { 1, 160, 16, 256, true, { 0 } },
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const int heads = shapes[s].heads, dim = shapes[s].dim;
        const int64_t width = (int64_t)heads * dim, nq = shapes[s].queries, nk = shapes[s].keys, n = 2 * nq * width;
        struct attention_dense a = { .heads = heads, .head_dim = dim, .head_dim_v = dim, .batch = 2, .queries = nq, .keys = nk, .scale = 1 / sqrtf((float)dim), .causal = shapes[s].causal, .ldq = width + 3, .ldk = width, .ldv = width + 1, .ldy = width,
                                     .key_counts = shapes[s].counts[0] ? shapes[s].counts : NULL };
        float *q = filled(2 * nq * a.ldq, -3, 3), *k = filled(2 * nk * a.ldk, -3, 3), *v = filled(2 * nk * a.ldv, -1, 1), *want = malloc((size_t)n * sizeof *want), *first = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *want), *tiles = malloc((size_t)n * sizeof *want);
        a.q = q;
        a.k = k;
        a.v = v;
        reference(&a, want);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
            for (int threads = 1; threads <= 3; threads++) {
                a.y = level == CPU_SCALAR && threads == 1 ? first : got;
                attend(&a, level, threads);
                CHECK_CLOSE(a.y, want, (size_t)n, 2e-5f);
                if (a.y == got && memcmp(got, first, (size_t)n * sizeof *got)) test_fail(__FILE__, __LINE__, "shape %zu: level %s with %d threads gives other bits", s, cpu_level_name((enum cpu_level)level), threads);
            }
        a.y = first;
        attend(&a, CPU_SCALAR, 1);
        for (int threads = 1; threads <= 3; threads++) {      /* bfloat16: scores of a few units are off by parts of a hundredth, and so the weights by parts of a hundred */
            a.y = threads == 1 ? tiles : got;
            if (!attend_on_tiles(&a, threads)) break;
            CHECK_CLOSE(a.y, want, (size_t)n, 3e-2f);
            CHECK(!memcmp(a.y, tiles, (size_t)n * sizeof *got));
        }
        if (!a.causal) {      /* the second row's last query alone */
            struct attention_dense one = a;
            int32_t count = a.key_counts ? a.key_counts[1] : (int32_t)nk;
            one.batch = 1;
            one.queries = 1;
            one.key_counts = &count;
            one.q = q + (2 * nq - 1) * a.ldq;
            one.k = k + nk * a.ldk;
            one.v = v + nk * a.ldv;
            one.y = got;
            attend(&one, CPU_AMX, 1);
            CHECK(!memcmp(got, first + (2 * nq - 1) * width, (size_t)width * sizeof *got));
            if (attend_on_tiles(&one, 1)) CHECK(!memcmp(got, tiles + (2 * nq - 1) * width, (size_t)width * sizeof *got));
        }
        free(q), free(k), free(v), free(want), free(first), free(got), free(tiles);
    }
}

static uint16_t *rounded(float *x, int64_t n)      /* and x to the same numbers */
{
    uint16_t *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) x[i] = bf16_to_f32_one(y[i] = f32_to_bf16_one(x[i]));
    return y;
}

/* The largest distance between numbers of which the third is what tiles wrote as bfloat16. */
static double apart(const float *want, const uint16_t *got, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = test_worse(most, (double)fabsf(want[i] - bf16_to_f32_one(got[i])));
    return most;
}

TEST(attention_takes_masks_shared_heads_and_any_place_of_its_rows)
{
    static const struct { int heads, group, dim, dim_v, queries, keys; bool turned, add, seen; } shapes[] = {
        { 4, 2, 40, 24, 70, 300, false, true, false }, { 3, 1, 64, 64, 33, 33, true, false, true }, { 6, 3, 32, 128, 5, 530, true, true, true }, { 2, 2, 17, 9, 1, 1, false, true, true },
    };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const int h = shapes[s].heads, kv = h / shapes[s].group, d = shapes[s].dim, dv = shapes[s].dim_v;
        const int64_t nq = shapes[s].queries, nk = shapes[s].keys, n = 2 * nq * h * dv;
        float *q = filled(2 * nq * h * d, -3, 3), *k = filled(2 * nk * kv * d, -3, 3), *v = filled(2 * nk * kv * dv, -1, 1), *add = filled(2 * nq * nk, -4, 4);
        uint8_t *seen = malloc((size_t)(h * nk));
        for (int64_t i = 0; i < h * nk; i++) seen[i] = (i * 2654435761u >> 7) % 3 != 0;
        for (int64_t j = 0; j < nk; j++) {
            add[j] = -INFINITY;                                   /* query 0 of row 0 sees nothing */
            add[(nq - 1) * nk + j] = j < nk / 2 ? -FLT_MAX : add[nq * nk - nk + j];      /* half of what the last one has is hidden as exporters hide it */
            if (j < 260 && nq > 2) add[nk + j] = -INFINITY;       /* nothing of the first block of keys */
        }
        struct attention_dense a = { .heads = h, .head_dim = d, .head_dim_v = dv, .group = shapes[s].group, .batch = 2, .queries = nq, .keys = nk, .scale = 1 / sqrtf((float)d), .ldq = h * d, .ldk = kv * d, .ldv = kv * dv, .ldy = h * dv, .q = q, .k = k, .v = v };
        if (shapes[s].turned) {      /* [batch, heads, tokens, dim] */
            a.ldq = a.ldk = d;
            a.ldv = a.ldy = dv;
            a.at_q = (struct attention_steps){ nq * h * d, nq * d };
            a.at_k = (struct attention_steps){ nk * kv * d, nk * d };
            a.at_v = (struct attention_steps){ nk * kv * dv, nk * dv };
            a.at_y = (struct attention_steps){ nq * h * dv, nq * dv };
        }
        if (shapes[s].add) a.masks[1] = (struct attention_mask){ .add = add, .batch = nq * nk, .query = nk };
        if (shapes[s].seen) a.masks[0] = (struct attention_mask){ .seen = seen, .inverted = s == 1, .unseen = s == 1 ? -FLT_MAX : -1e4f, .head = nk };
        float *want = malloc((size_t)n * sizeof *want), *first = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *want);
        reference(&a, want);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
            for (int threads = 1; threads <= 2; threads++) {
                a.y = level == CPU_SCALAR && threads == 1 ? first : got;
                attend(&a, level, threads);
                CHECK_CLOSE(a.y, want, (size_t)n, 3e-5f);
                if (a.y == got && memcmp(got, first, (size_t)n * sizeof *got)) test_fail(__FILE__, __LINE__, "shape %zu: level %s with %d threads gives other bits", s, cpu_level_name((enum cpu_level)level), threads);
            }
        a.y = got;
        if (attend_on_tiles(&a, 2)) {
            CHECK_CLOSE(a.y, want, (size_t)n, 3e-2f);
            uint16_t *hq = rounded(q, 2 * nq * h * d), *hk = rounded(k, 2 * nk * kv * d), *hv = rounded(v, 2 * nk * kv * dv), *hy = malloc((size_t)n * sizeof *hy);
            attend_on_tiles(&a, 1);                               /* from floats that rounding does not change */
            struct attention_dense halves = a;
            halves.q = hq, halves.k = hk, halves.v = hv, halves.y = hy;
            halves.halves_q = halves.halves_k = halves.halves_v = halves.halves_y = true;
            attend_on_tiles(&halves, 2);
            CHECK(apart(got, hy, n) <= (double)4e-3f);
            free(hq), free(hk), free(hv), free(hy);
        }
        if (shapes[s].add) {      /* a query that sees nothing, as a softmax has it */
            a.nothing = NAN;
            attend(&a, CPU_AMX, 1);
            CHECK(isnan(got[0]) && (nq < 3 || !isnan(got[a.ldy])) && !isnan(got[n - 1]));
            if (attend_on_tiles(&a, 1)) CHECK(isnan(got[0]) && (nq < 3 || !isnan(got[a.ldy])) && !isnan(got[n - 1]));
        }
        free(q), free(k), free(v), free(add), free(seen), free(want), free(first), free(got);
    }
}

static void norm(float *y, const float *x, const struct group_norm *g, int level, int threads)
{
    struct diffusion_kernels d;
    diffusion_kernels_fill(&d, (enum cpu_level)level);
    void *scratch = aligned_alloc(64, (group_norm_scratch(g) + 63) & ~(uint64_t)63);
    d.group_norm_f32(y, x, g, scratch, threads);
    free(scratch);
}

static void norm_reference(float *y, const float *x, const struct group_norm *g)
{
    const int64_t each = g->channels / g->groups;
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t k = 0; k < g->groups; k++) {
            double mean = 0, square = 0;
            for (int pass = 0; pass < 3; pass++) {
                for (int64_t r = 0; r < g->rows; r++)
                    for (int64_t c = k * each; c < (k + 1) * each; c++) {
                        const int64_t at = (n * g->rows + r) * g->channels + c;
                        const double v = (double)x[at] + (g->add ? (double)g->add[n * g->ldadd + c] : 0);
                        if (pass == 0) mean += v;
                        if (pass == 1) square += (v - mean) * (v - mean);
                        if (pass < 2) continue;
                        double z = (v - mean) / sqrt(square + (double)g->epsilon) * (double)g->scale[c] + (double)g->bias[c];
                        if (g->modulation) z = z * (1 + (double)g->modulation[n * g->ldmod + c]) + (double)g->modulation[n * g->ldmod + g->channels + c];
                        y[at] = (float)(g->act.kind == ACT_SILU ? z / (1 + exp(-z)) : z);
                    }
                if (pass == 0) mean /= (double)(g->rows * each);
                if (pass == 1) square /= (double)(g->rows * each);
            }
        }
}

TEST(group_norm_is_its_definition_at_every_level_alone_and_in_company)
{
    static const struct { int rows, channels, groups; bool add, modulation; enum activation act; } shapes[] = {
        { 1, 4, 2, false, false, ACT_NONE }, { 63, 24, 8, true, false, ACT_SILU }, { 64, 40, 4, false, true, ACT_SILU }, { 300, 320, 32, true, false, ACT_SILU }, { 130, 6000, 2, false, false, ACT_NONE }, { 65, 33, 1, true, true, ACT_NONE },
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const int64_t channels = shapes[s].channels, each = shapes[s].rows * channels, n = 3 * each;
        float *x = filled(n, -1, 5), *scale = filled(channels, 0.5f, 2), *bias = filled(channels, -1, 1), *add = filled(3 * channels, -2, 2), *m = filled(3 * (2 * channels + 5), -1, 1);
        float *want = malloc((size_t)n * sizeof *want), *first = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *want);
        struct group_norm g = { .n = 3, .rows = shapes[s].rows, .channels = channels, .groups = shapes[s].groups, .scale = scale, .bias = bias, .add = shapes[s].add ? add : NULL, .ldadd = channels,
                                .modulation = shapes[s].modulation ? m : NULL, .ldmod = 2 * channels + 5, .epsilon = 1e-5f, .act = { shapes[s].act, 0, 0 } };
        norm_reference(want, x, &g);
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
            for (int threads = 1; threads <= 2; threads++) {
                float *y = level == CPU_SCALAR && threads == 1 ? first : got;
                norm(y, x, &g, level, threads);
                CHECK_CLOSE(y, want, (size_t)n, 1e-5f);
                if (y == got && memcmp(got, first, (size_t)n * sizeof *got)) test_fail(__FILE__, __LINE__, "shape %zu: level %s with %d threads gives other bits", s, cpu_level_name((enum cpu_level)level), threads);
            }
        struct group_norm one = g;      /* the last picture alone, in place */
        one.n = 1;
        one.add = g.add ? add + 2 * channels : NULL;
        one.modulation = g.modulation ? m + 2 * g.ldmod : NULL;
        memcpy(got, x + 2 * each, (size_t)each * sizeof *got);
        norm(got, got, &one, CPU_AMX, 1);
        CHECK(!memcmp(got, first + 2 * each, (size_t)each * sizeof *got));
        free(x), free(scale), free(bias), free(add), free(m), free(want), free(first), free(got);
    }
}

TEST(growing_takes_the_nearest_pixel)
{
    static const struct { int h, w, out_h, out_w; } shapes[] = { { 3, 5, 6, 10 }, { 2, 3, 3, 5 }, { 4, 4, 4, 4 }, { 1, 1, 7, 2 } };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const int h = shapes[s].h, w = shapes[s].w, oh = shapes[s].out_h, ow = shapes[s].out_w, c = 19;
        float *x = filled(2 * h * w * c, -1, 1), *y = malloc((size_t)(2 * oh * ow * c) * sizeof *y);
        struct diffusion_kernels d;
        diffusion_kernels_fill(&d, CPU_AMX);
        d.upsample_f32(y, x, 2, h, w, c, oh, ow, 2);
        for (int n = 0; n < 2; n++)
            for (int r = 0; r < oh; r++)
                for (int q = 0; q < ow; q++) CHECK(!memcmp(y + ((n * oh + r) * ow + q) * c, x + ((n * h + r * h / oh) * w + q * w / ow) * c, (size_t)c * sizeof *y));
        free(x), free(y);
    }
}
