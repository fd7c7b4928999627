/* Attention over pages, rotary positions, RMS norm, gates: against their definitions in double, and bit by bit between levels, companies and threads. */
#include <math.h>
#include <stdlib.h>

#include "kernels/blocks.h"
#include "kernels/llm.h"
#include "tests/test.h"

enum { POSITIONS = 75, LONG_POSITIONS = 600 /* more than two blocks of keys of the kernels that go by blocks */, PAGES = (LONG_POSITIONS + 15) / 16 };

/* One sequence; its pages lie scattered in a pool of 2 PAGES. */
struct text {
    struct attention_spec s;
    float *q, *k, *v;                    /* [positions, ...] */
    char *pool;
    uint64_t page_bytes;
    int32_t pages[PAGES];
};

static float *filled(size_t n, float low, float high)
{
    float *x = malloc(n * sizeof *x);
    test_fill(x, n, low, high);
    return x;
}

static void store(struct text *t, const struct llm_kernels *k, int from, int to)
{
    const struct attention_row row = { .first = from, .count = to - from, .position = from, .pages = t->pages };
    k->attention_store(t->pool, t->page_bytes, &t->s, t->k, (int64_t)t->s.kv_heads * t->s.head_dim, t->v, (int64_t)t->s.kv_heads * t->s.head_dim_v, &row, 1, 2);
}

static struct text text_make(const struct attention_spec *s, const struct llm_kernels *k, int positions)
{
    struct text t = { .s = *s, .page_bytes = attention_page_bytes(s) };
    struct err err = { 0 };
    if (attention_check(s, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    t.q = filled((size_t)(positions * s->heads * s->head_dim), -2, 2);
    t.k = filled((size_t)(positions * s->kv_heads * s->head_dim), -2, 2);
    t.v = filled((size_t)(positions * s->kv_heads * s->head_dim_v), -2, 2);
    t.pool = aligned_alloc(64, t.page_bytes * 2 * PAGES);
    memset(t.pool, 0xff, t.page_bytes * 2 * PAGES);                 /* NaN wherever nothing is stored */
    for (int i = 0; i < PAGES; i++) t.pages[i] = (i * 7 + 3) % (2 * PAGES);
    store(&t, k, 0, 21);                                            /* in pieces, not on the edges of pages */
    store(&t, k, 21, positions);
    return t;
}
static void text_free(struct text *t) { free(t->q), free(t->k), free(t->v), free(t->pool); }

/* rows [from, to) of the sequence, as if it ended at `to` */
static void attend(const struct text *t, const struct llm_kernels *k, float *y, int from, int to, int threads)
{
    const struct attention_row row = { .first = from, .count = to - from, .position = from, .pages = t->pages };
    void *scratch = aligned_alloc(64, attention_scratch(&t->s, threads));
    k->attention_paged(y, (int64_t)t->s.heads * t->s.head_dim_v, t->q, (int64_t)t->s.heads * t->s.head_dim, t->pool, t->page_bytes, &t->s, &row, 1, scratch, threads);
    free(scratch);
}

static void reference(const struct text *t, float *y, int ends)
{
    const struct attention_spec *s = &t->s;
    const int group = s->heads / s->kv_heads;
    for (int p = 0; p < ends; p++)
        for (int h = 0; h < s->heads; h++) {
            double score[LONG_POSITIONS], top = s->sinks ? (double)s->sinks[h] : -INFINITY, sum = 0;
            bool seen[LONG_POSITIONS];
            for (int j = 0; j < ends; j++) {
                seen[j] = (!s->causal || j <= p) && (!s->window || (j > p - s->window && j < p + s->window));
                double dot = 0;
                for (int d = 0; d < s->head_dim; d++) dot += (double)t->q[(p * s->heads + h) * s->head_dim + d] * (double)t->k[(j * s->kv_heads + h / group) * s->head_dim + d];
                dot *= (double)s->scale;
                if (s->softcap > 0) dot = (double)s->softcap * tanh(dot / (double)s->softcap);
                if (s->relative) dot += (double)s->relative[h * (2 * s->relative_span + 1) + s->relative_span + (j - p > s->relative_span ? s->relative_span : j - p < -s->relative_span ? -s->relative_span : j - p)];
                if (s->alibi) dot += (double)s->alibi[h] * (j - p);
                score[j] = dot;
                if (seen[j] && dot > top) top = dot;
            }
            for (int j = 0; j < ends; j++) sum += seen[j] ? exp(score[j] - top) : 0;
            if (s->sinks) sum += exp((double)s->sinks[h] - top);
            for (int d = 0; d < s->head_dim_v; d++) {
                double value = 0;
                for (int j = 0; j < ends; j++)
                    if (seen[j]) value += exp(score[j] - top) / sum * (double)t->v[(j * s->kv_heads + h / group) * s->head_dim_v + d];
                y[(p * s->heads + h) * s->head_dim_v + d] = (float)value;
            }
        }
}

static const float sinks[] = { 0.5f, -1, 3, 0, 9, -9 }, slopes[] = { 0.5f, 0.25f, 0.125f, 0.0625f, 0.03f, 0.015f };
static const float relative[4 * 7] = { 1, -2, 0.5f, 0, 3, -1, 2, 0, 1, 2, -3, 1, 0.25f, -2, 2, 2, -1, 0, 1, -1, 0.5f, -0.5f, 1, 0, 3, -2, 1, -1 };
/* head sizes that fill no vector; every option by itself and together */
static const struct attention_spec specs[] = {
    { .heads = 6, .kv_heads = 2, .head_dim = 64, .head_dim_v = 64, .kv_type = BLOCK_F32, .scale = 0.125f, .causal = true },
    { .heads = 3, .kv_heads = 3, .head_dim = 40, .head_dim_v = 24, .kv_type = BLOCK_F32, .scale = 0.2f, .causal = true, .window = 19 },
    { .heads = 4, .kv_heads = 1, .head_dim = 7, .head_dim_v = 9, .kv_type = BLOCK_F32, .scale = 0.3f, .causal = false },
    { .heads = 4, .kv_heads = 2, .head_dim = 33, .head_dim_v = 47, .kv_type = BLOCK_F32, .scale = 0.3f, .causal = false, .window = 5 },
    { .heads = 6, .kv_heads = 3, .head_dim = 32, .head_dim_v = 32, .kv_type = BLOCK_F32, .scale = 0.2f, .causal = true, .sinks = sinks, .window = 33 },
    { .heads = 6, .kv_heads = 6, .head_dim = 16, .head_dim_v = 16, .kv_type = BLOCK_F32, .scale = 0.25f, .causal = true, .alibi = slopes },
    { .heads = 4, .kv_heads = 4, .head_dim = 20, .head_dim_v = 20, .kv_type = BLOCK_F32, .scale = 1, .causal = false, .relative = relative, .relative_span = 3 },
    { .heads = 4, .kv_heads = 2, .head_dim = 16, .head_dim_v = 16, .kv_type = BLOCK_F16, .scale = 1, .causal = true, .relative = relative, .relative_span = 3 },
    { .heads = 2, .kv_heads = 1, .head_dim = 256, .head_dim_v = 256, .kv_type = BLOCK_F16, .scale = 0.0625f, .causal = true, .softcap = 5 },
    { .heads = 6, .kv_heads = 2, .head_dim = 65, .head_dim_v = 31, .kv_type = BLOCK_F16, .scale = 0.125f, .causal = true, .softcap = 3, .sinks = sinks, .alibi = slopes, .window = 40 },
    { .heads = 4, .kv_heads = 2, .head_dim = 64, .head_dim_v = 64, .kv_type = BLOCK_BF16, .scale = 0.125f, .causal = true },
    { .heads = 4, .kv_heads = 2, .head_dim = 96, .head_dim_v = 64, .kv_type = BLOCK_Q8_0, .scale = 0.1f, .causal = true },
    { .heads = 4, .kv_heads = 2, .head_dim = 64, .head_dim_v = 96, .kv_type = BLOCK_Q4_0, .scale = 0.1f, .causal = true },
};
enum { SPECS = sizeof specs / sizeof *specs };

/* How far the cache's rounding moves a result: keys and values of up to 2. */
static float tolerance_of(int type) { return type == BLOCK_F32 ? 2e-5f : type == BLOCK_F16 ? 4e-3f : type == BLOCK_BF16 ? 3e-2f : type == BLOCK_Q8_0 ? 3e-2f : 0.4f; }

TEST(attention_is_near_its_definition_and_the_same_bits_at_every_level)
{
    for (int i = 0; i < SPECS; i++) {
        struct llm_kernels k;
        llm_kernels_fill(&k, CPU_SCALAR);
        struct text t = text_make(specs + i, &k, POSITIONS);
        const size_t n = (size_t)(POSITIONS * specs[i].heads * specs[i].head_dim_v);
        float *want = malloc(n * sizeof *want), *scalar = malloc(n * sizeof *scalar), *got = malloc(n * sizeof *got);
        reference(&t, want, POSITIONS);
        attend(&t, &k, scalar, 0, POSITIONS, 1);
        CHECK_CLOSE(scalar, want, n, tolerance_of(specs[i].kv_type));
        for (int level = CPU_AVX2; level <= (int)cpu_level_detect(); level++) {
            llm_kernels_fill(&k, (enum cpu_level)level);
            attend(&t, &k, got, 0, POSITIONS, 1);
            if (memcmp(got, scalar, n * sizeof *got)) test_fail(__FILE__, __LINE__, "spec %d: %s differs from scalar in bits", i, cpu_level_name((enum cpu_level)level));
        }
        text_free(&t);
        free(want), free(scalar), free(got);
    }
}

TEST(attention_does_not_show_chunks_company_or_threads)
{
    struct llm_kernels k;
    llm_kernels_fill(&k, CPU_AMX);
    for (int i = 0; i < SPECS; i++) {
        if (!specs[i].causal) continue;                             /* else a row sees what comes after it in the call */
        struct text t = text_make(specs + i, &k, POSITIONS);
        const int64_t row = (int64_t)specs[i].heads * specs[i].head_dim_v;
        const size_t bytes = (size_t)(POSITIONS * row) * sizeof(float);
        float *whole = malloc(bytes), *got = malloc(bytes);
        attend(&t, &k, whole, 0, POSITIONS, 1);
        for (int threads = 1; threads <= 3; threads++)
            for (int chunk = 1; chunk <= POSITIONS; chunk += 17) {
                memset(got, 0, bytes);
                for (int from = 0; from < POSITIONS; from += chunk) attend(&t, &k, got, from, from + chunk < POSITIONS ? from + chunk : POSITIONS, threads);
                if (memcmp(got, whole, bytes)) test_fail(__FILE__, __LINE__, "spec %d: chunks of %d on %d threads differ", i, chunk, threads);
            }
        /* several sequences (here: parts of one) in one call, in any order, leaving rows out */
        const struct attention_row rows[] = { { 70, 5, 70, t.pages }, { 3, 1, 3, t.pages }, { 20, 41, 20, t.pages } };
        void *scratch = aligned_alloc(64, attention_scratch(&t.s, 2));
        memset(got, 0, bytes);
        k.attention_paged(got, row, t.q, (int64_t)specs[i].heads * specs[i].head_dim, t.pool, t.page_bytes, &t.s, rows, 3, scratch, 2);
        free(scratch);
        for (int p = 0; p < POSITIONS; p++) {
            const bool named = p >= 70 || p == 3 || (p >= 20 && p < 61);
            for (int64_t c = 0; c < row; c++)
                if (got[p * row + c] != (named ? whole[p * row + c] : 0)) {
                    test_fail(__FILE__, __LINE__, "spec %d: position %d in company", i, p);
                    break;
                }
        }
        text_free(&t);
        free(whole), free(got);
    }
}

TEST(a_value_that_is_not_finite_reaches_only_those_who_see_it)
{
    enum { BROKEN = 37 };
    for (int i = 0; i < SPECS; i++) {
        const struct attention_spec *s = specs + i;
        struct llm_kernels k;
        llm_kernels_fill(&k, CPU_AMX);
        if (!s->causal || s->kv_type == BLOCK_Q8_0 || s->kv_type == BLOCK_Q4_0) continue;
        struct text t = text_make(s, &k, POSITIONS);
        const size_t row = (size_t)(s->heads * s->head_dim_v), bytes = POSITIONS * row * sizeof(float);
        float *whole = malloc(bytes), *got = malloc(bytes);
        attend(&t, &k, whole, 0, POSITIONS, 1);
        for (int c = 0; c < s->kv_heads * s->head_dim_v; c++) t.v[BROKEN * s->kv_heads * s->head_dim_v + c] = INFINITY;
        store(&t, &k, BROKEN, BROKEN + 1);
        attend(&t, &k, got, 0, POSITIONS, 1);
        if (memcmp(got, whole, BROKEN * row * sizeof(float))) test_fail(__FILE__, __LINE__, "spec %d: a value of a later position shows", i);
        CHECK(!isfinite(got[BROKEN * row]));
        for (size_t p = BROKEN + (size_t)s->window; s->window && p < POSITIONS; p++)
            if (memcmp(got + p * row, whole + p * row, row * sizeof(float))) test_fail(__FILE__, __LINE__, "spec %d: a value that has left the window shows at %zu", i, p);
        text_free(&t);
        free(whole), free(got);
    }
}

/* Long enough for several spans of keys: few queries, whose spans threads share out, and many, which go through theirs one after the other. */
TEST(attention_over_spans_is_near_its_definition_and_the_same_bits_however_it_is_shared_out)
{
    for (int i = 0; i < SPECS; i++) {
        struct attention_spec s = specs[i];
        if (s.window) s.window *= 30;                               /* windows that begin within a span */
        struct llm_kernels k;
        llm_kernels_fill(&k, CPU_AMX);
        struct text t = text_make(&s, &k, LONG_POSITIONS);
        const int64_t row = (int64_t)s.heads * s.head_dim_v;
        const size_t bytes = (size_t)(LONG_POSITIONS * row) * sizeof(float);
        float *want = malloc(bytes), *whole = malloc(bytes), *got = malloc(bytes);
        reference(&t, want, LONG_POSITIONS);
        attend(&t, &k, whole, 0, LONG_POSITIONS, 1);
        CHECK_CLOSE(whole, want, (size_t)(LONG_POSITIONS * row), tolerance_of(s.kv_type));
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            llm_kernels_fill(&k, (enum cpu_level)level);
            for (int threads = 1; threads <= 11; threads += 5)
                for (int count = 1; count <= 3; count += 2) {
                    attend(&t, &k, got, LONG_POSITIONS - count, LONG_POSITIONS, threads);
                    if (memcmp(got + (LONG_POSITIONS - count) * row, whole + (LONG_POSITIONS - count) * row, (size_t)(count * row) * sizeof *got))
                        test_fail(__FILE__, __LINE__, "spec %d: %d queries at %s on %d threads differ", i, count, cpu_level_name((enum cpu_level)level), threads);
                }
        }
        text_free(&t);
        free(want), free(whole), free(got);
    }
}

/* Rounding queries, keys, values and weights to 8 bits of a number moves a result by less than this (values of up to 2). */
static const float BF16_TOLERANCE = 0.06f;

TEST(attention_in_bfloat16_is_near_its_definition)
{
    int suited = 0;
    struct llm_kernels k;
    llm_kernels_fill(&k, CPU_AMX);
    if (!k.attention_bf16) return;                                 /* this machine is not quick at it */
    for (int i = 0; i < SPECS; i++) {
        struct attention_spec s = specs[i];
        s.scale /= 4;                                               /* weights on many keys, not on one */
        if (!attention_suits_bf16(&s)) continue;
        suited++;
        struct text t = text_make(&s, &k, LONG_POSITIONS);
        const int64_t row = (int64_t)s.heads * s.head_dim_v, bytes = LONG_POSITIONS * row * (int64_t)sizeof(float);
        float *exact = malloc((size_t)bytes), *got = malloc((size_t)bytes), *two = malloc((size_t)bytes);
        void *scratch = aligned_alloc(64, k.attention_bf16_scratch(&s, 2));
        const struct attention_row rows[] = { { 40, 560, 40, t.pages }, { 1, 18, 1, t.pages } };
        memset(exact, 0, (size_t)bytes), memset(got, 0, (size_t)bytes), memset(two, 0, (size_t)bytes);
        k.attention_paged(exact, row, t.q, (int64_t)s.heads * s.head_dim, t.pool, t.page_bytes, &s, rows, 2, scratch, 1);
        k.attention_bf16(got, row, t.q, (int64_t)s.heads * s.head_dim, t.pool, t.page_bytes, &s, rows, 2, scratch, 1);
        k.attention_bf16(two, row, t.q, (int64_t)s.heads * s.head_dim, t.pool, t.page_bytes, &s, rows, 2, scratch, 2);
        CHECK_CLOSE(got, exact, (size_t)(LONG_POSITIONS * row), BF16_TOLERANCE);
        CHECK(!memcmp(got, two, (size_t)bytes));
        text_free(&t);
        free(exact), free(got), free(two), free(scratch);
    }
    CHECK(suited >= 6);
}

TEST(attention_refuses_what_does_not_fit)
{
    struct err err;
    struct attention_spec s = specs[0];
    s.kv_heads = 4;
    CHECK_INT(attention_check(&s, &err), ST_BAD_INPUT);
    s = specs[0], s.head_dim = ATTENTION_DIM_MAX + 1;
    CHECK_INT(attention_check(&s, &err), ST_UNSUPPORTED);
    s = specs[0], s.kv_type = BLOCK_Q8_0, s.head_dim = 40;
    CHECK_INT(attention_check(&s, &err), ST_UNSUPPORTED);
    s = specs[0], s.kv_type = BLOCK_Q4_K;
    CHECK_INT(attention_check(&s, &err), ST_UNSUPPORTED);
    s = specs[0], s.head_dim = s.head_dim_v = ATTENTION_DIM_MAX;
    CHECK_OK(attention_check(&s, &err), err);
    s = specs[0];
    CHECK_INT(attention_page_bytes(&s), 2 * 16 * 128 * 4);
}

TEST(rope_turns_pairs)
{
    enum { ROWS = 5, HEADS = 3, DIM = 44, ROTARY = 38, TABLE = 9 };
    const int32_t positions[ROWS] = { 0, 8, 3, 3, 1 };
    float x[ROWS][HEADS * DIM + 2], want[ROWS][HEADS * DIM + 2], got[ROWS][HEADS * DIM + 2], cosines[TABLE * ROTARY / 2], sines[TABLE * ROTARY / 2];
    test_fill(x[0], sizeof x / sizeof(float), -1, 1);
    for (int i = 0; i < TABLE * ROTARY / 2; i++) cosines[i] = cosf((float)i * 0.37f), sines[i] = sinf((float)i * 0.37f);
    for (int style = ROPE_STYLE_HALF; style <= ROPE_STYLE_ADJACENT; style++) {
        memcpy(want, x, sizeof x);
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < HEADS; h++)
                for (int i = 0; i < ROTARY / 2; i++) {
                    const int a = h * DIM + (style == ROPE_STYLE_HALF ? i : 2 * i), b = style == ROPE_STYLE_HALF ? a + ROTARY / 2 : a + 1;
                    const float c = cosines[positions[r] * (ROTARY / 2) + i], s = sines[positions[r] * (ROTARY / 2) + i];
                    want[r][a] = x[r][a] * c - x[r][b] * s, want[r][b] = x[r][b] * c + x[r][a] * s;
                }
        for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++) {
            struct llm_kernels k;
            llm_kernels_fill(&k, (enum cpu_level)level);
            memcpy(got, x, sizeof x);
            k.rope_f32(got[0], HEADS * DIM + 2, ROWS, HEADS, DIM, ROTARY, (enum rope_style)style, positions, cosines, sines, 2);
            CHECK_CLOSE(got[0], want[0], sizeof x / sizeof(float), 1e-6f);
            CHECK(got[4][HEADS * DIM + 1] == x[4][HEADS * DIM + 1] && got[2][DIM - 1] == x[2][DIM - 1]);
        }
    }
}

TEST(rms_norm_matches_its_definition)
{
    static const int columns[] = { 1, 7, 64, 131, 4096 };
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
            enum { ROWS = 9 };
            const int n = columns[c], ld = n + 3;
            struct llm_kernels k;
            llm_kernels_fill(&k, (enum cpu_level)level);
            float *x = filled((size_t)(ROWS * ld), -3, 3), *w = filled((size_t)n, 0, 2), *y = filled((size_t)(ROWS * ld), 7, 8), *want = malloc((size_t)(ROWS * ld) * sizeof *want);
            memcpy(want, y, (size_t)(ROWS * ld) * sizeof *want);
            for (int r = 0; r < ROWS; r++) {
                double sum = 0;
                for (int i = 0; i < n; i++) sum += (double)x[r * ld + i] * (double)x[r * ld + i];
                for (int i = 0; i < n; i++) want[r * ld + i] = (float)((double)x[r * ld + i] / sqrt(sum / n + 1e-5) * (double)w[i]);
            }
            k.rms_norm_f32(y, ld, x, ld, w, ROWS, n, 1e-5f, 2);
            CHECK_CLOSE(y, want, (size_t)(ROWS * ld), 2e-6f);
            k.rms_norm_f32(x, ld, x, ld, w, ROWS, n, 1e-5f, 1);      /* in place: the same bits */
            for (int r = 0; r < ROWS; r++) CHECK(!memcmp(x + r * ld, y + r * ld, (size_t)n * sizeof *x));
            free(x), free(w), free(y), free(want);
        }
}

static double gate_reference(enum gate_kind kind, double g, double u, double limit)
{
    switch (kind) {
    case GATE_SILU:      return g / (1 + exp(-g)) * u;
    case GATE_GELU:      return g / 2 * (1 + erf(g / sqrt(2))) * u;
    case GATE_GELU_TANH: return g / 2 * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
    case GATE_RELU:      return fmax(g, 0) * u;
    case GATE_SIGMOID:   return u / (1 + exp(-g));
    case GATE_CLAMPED:   break;
    }
    g = fmin(g, limit), u = fmax(-limit, fmin(u, limit));
    return (u + 1) * g / (1 + exp(-1.702 * g));
}

TEST(gates_match_their_definitions)
{
    enum { ROWS = 3, COLUMNS = 77, LD = 80 };
    for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
        for (int kind = GATE_SILU; kind <= GATE_CLAMPED; kind++) {
            struct llm_kernels k;
            llm_kernels_fill(&k, (enum cpu_level)level);
            float *g = filled(ROWS * LD, -10, 10), *u = filled(ROWS * LD, -10, 10), *want = malloc(ROWS * LD * sizeof *want), *y = calloc(ROWS * LD, sizeof *y);
            for (int i = 0; i < ROWS * LD; i++) want[i] = i % LD < COLUMNS ? (float)gate_reference((enum gate_kind)kind, (double)g[i], (double)u[i], 7) : 0;
            k.gate_f32(y, LD, g, LD, u, LD, ROWS, COLUMNS, (enum gate_kind)kind, 7, 2);
            CHECK_CLOSE(y, want, ROWS * LD, 3e-6f);
            free(g), free(u), free(want), free(y);
        }
}
