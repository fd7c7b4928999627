/* Drawing a token: what comes how often, and which tokens the cuts leave, against the definitions worked out one token at a time. */
#include "engine/llm/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "tests/test.h"

enum { VOCABULARY = 1003 /* fills no block of shares */, DRAWS = 8000 };

static struct sampler *open_sampler(enum cpu_level level)
{
    struct kernels k;
    struct sampler *s = NULL;
    struct err err = { 0 };
    kernels_fill(&k, level);
    if (sampler_open(&s, VOCABULARY, &k, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return s;
}

static int32_t draw_one(struct sampler *s, const float *logits, const struct sampling *how, const uint32_t *mask, uint32_t index)
{
    static float own[VOCABULARY];
    struct sampler_state state = { 0 };
    struct text_token t;
    struct err err = { 0 };
    const struct sampler_question q = { .how = how, .mask = mask, .seed = 7, .index = index, .logprobs = -1 };
    memcpy(own, logits, sizeof own);
    return sampler_draw(s, own, &q, &state, &t, &err) ? -1 : t.token;
}

/* Steep enough that some tokens are likely, with ties and with tokens that cannot come at all. */
static void make_logits(float *logits)
{
    test_fill(logits, VOCABULARY, -3, 3);
    for (int i = 0; i < VOCABULARY; i += 50) logits[i] += 4;
    for (int i = 7; i < VOCABULARY; i += 100) logits[i] = logits[7];
    for (int i = 11; i < VOCABULARY; i += 90) logits[i] = -INFINITY;
}

/* Which tokens may come, by the definition of top-k and top-p, of equal tokens the first. */
static void allowed_by(bool *allowed, const float *logits, const struct sampling *how)
{
    static bool taken[VOCABULARY];
    double total = 0, share = 0, kept = 0;
    memset(taken, 0, sizeof taken);
    memset(allowed, 0, VOCABULARY * sizeof *allowed);
    int order[VOCABULARY], n = 0, limit = how->top_k > 0 ? how->top_k : VOCABULARY;
    for (; n < limit; n++) {
        int best = -1;
        for (int i = 0; i < VOCABULARY; i++)
            if (!taken[i] && logits[i] > -INFINITY && (best < 0 || logits[i] > logits[best])) best = i;
        if (best < 0) break;
        taken[best] = true;
        order[n] = best;
        total += exp((double)(logits[best] / how->temperature));
    }
    for (int i = 0; i < n && share < (double)how->top_p; i++) {
        allowed[order[i]] = true;
        kept = exp((double)(logits[order[i]] / how->temperature)) / total;
        share += kept;
    }
}

TEST(tokens_come_as_often_as_their_probability_says)
{
    static float logits[VOCABULARY];
    static int seen[VOCABULARY];
    static const struct { float temperature; int top_k; float top_p; } cases[] = { { 1, 0, 1 }, { 0.5f, 0, 1 }, { 2, 0, 1 }, { 1, 1, 1 }, { 1, 40, 1 }, { 0.7f, 20, 0.8f }, { 1, 0, 0.9f }, { 1, 0, 0.01f }, { 1, 900, 1 } };
    test_seed(1);
    make_logits(logits);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int level = CPU_SCALAR;; level = (int)cpu_level_detect()) {
            struct sampling how = sampling_default();
            how.temperature = cases[c].temperature, how.top_k = cases[c].top_k, how.top_p = cases[c].top_p;
            bool allowed[VOCABULARY];
            allowed_by(allowed, logits, &how);
            struct sampler *s = open_sampler((enum cpu_level)level);
            if (!s) return;
            memset(seen, 0, sizeof seen);
            for (uint32_t i = 0; i < DRAWS; i++) {
                const int32_t token = draw_one(s, logits, &how, NULL, i);
                if (token < 0 || !allowed[token]) {
                    test_fail(__FILE__, __LINE__, "case %zu at %s: token %d came, which its cuts leave out", c, cpu_level_name((enum cpu_level)level), token);
                    break;
                }
                seen[token]++;
            }
            double total = 0;
            for (int i = 0; i < VOCABULARY; i++) total += allowed[i] ? exp((double)(logits[i] / how.temperature)) : 0;
            for (int i = 0; i < VOCABULARY; i++) {
                const double want = allowed[i] ? exp((double)(logits[i] / how.temperature)) / total * DRAWS : 0;
                if (fabs(seen[i] - want) > 5 * sqrt(want) + 2) test_fail(__FILE__, __LINE__, "case %zu at %s: token %d came %d times, %.0f were likely", c, cpu_level_name((enum cpu_level)level), i, seen[i], want);
            }
            sampler_close(s);
            if (level == (int)cpu_level_detect()) break;
        }
}

TEST(only_what_a_mask_allows_comes_and_nothing_when_it_allows_none)
{
    static float logits[VOCABULARY];
    uint32_t mask[(VOCABULARY + 31) / 32] = { 0 };
    test_seed(2);
    make_logits(logits);
    struct sampler *s = open_sampler(CPU_AMX);
    if (!s) return;
    static const struct { float top_p, min_p; int top_k; } cases[] = { { 1, 0, 0 }, { 0.9f, 0, 0 }, { 1, 0.1f, 0 }, { 1, 0, 5 } };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct sampling how = sampling_default();
        how.top_p = cases[c].top_p, how.min_p = cases[c].min_p, how.top_k = cases[c].top_k;
        memset(mask, 0, sizeof mask);
        CHECK_INT(draw_one(s, logits, &how, mask, 0), -1);
        mask[VOCABULARY / 32] |= 1u << (VOCABULARY - 1) % 32;      /* the last token alone, in a block that is not full */
        for (uint32_t i = 0; i < 50; i++) CHECK_INT(draw_one(s, logits, &how, mask, i), VOCABULARY - 1);
        mask[0] |= 1u << 11;                                       /* whose logit is -infinity */
        for (uint32_t i = 0; i < 50; i++) CHECK_INT(draw_one(s, logits, &how, mask, i), VOCABULARY - 1);
    }
    sampler_close(s);
}

TEST(logits_that_are_no_numbers_give_no_token)
{
    static float logits[VOCABULARY];
    for (int i = 0; i < VOCABULARY; i++) logits[i] = NAN;
    struct sampler *s = open_sampler(CPU_AMX);
    if (!s) return;
    struct sampling how = sampling_default();
    CHECK_INT(draw_one(s, logits, &how, NULL, 0), -1);
    how.top_p = 0.5f;
    CHECK_INT(draw_one(s, logits, &how, NULL, 0), -1);
    how.top_p = 1, how.top_k = 3;
    CHECK_INT(draw_one(s, logits, &how, NULL, 0), -1);
    sampler_close(s);
}
