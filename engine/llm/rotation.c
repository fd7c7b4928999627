/* Frequencies of the rotary position embedding (Su et al. 2021, arXiv 2104.09864) and of the ways to stretch it: linear (Chen et al. 2023, arXiv 2306.15595), YaRN (Peng et al. 2023,
 * arXiv 2309.00071), Llama 3's bands, LongRoPE (Ding et al. 2024, arXiv 2402.13753). NTK-aware "dynamic" scaling changes nothing up to the original context,
 * which is all that is served of such a model. */
#include "engine/llm/rotation.h"

#include <math.h>

static const float TWO_PI = 6.283185307179586f;

/* The dimension that turns `turns` times within the original context. */
static float correction_dimension(const struct llm_config *c, float turns)
{
    return (float)c->rotary * logf((float)c->scaling.original_context / (turns * TWO_PI)) / (2 * logf(c->rope_base));
}

static void stretch_yarn(const struct llm_config *c, float *f)
{
    const struct llm_scaling_spec *s = &c->scaling;
    float low = correction_dimension(c, s->high), high = correction_dimension(c, s->low);
    if (s->truncate) {
        low = floorf(low);
        high = ceilf(high);
    }
    low = fmaxf(low, 0);
    high = fminf(high, (float)c->rotary - 1);
    if (low == high) high += 0.001f;
    for (int i = 0; i < c->rotary / 2; i++) {
        float ramp = fminf(fmaxf(((float)i - low) / (high - low), 0), 1);
        f[i] = f[i] / s->factor * ramp + f[i] * (1 - ramp);
    }
}

static void stretch_llama3(const struct llm_config *c, float *f)
{
    const struct llm_scaling_spec *s = &c->scaling;
    float context = (float)s->original_context, longest = context / s->low, shortest = context / s->high;
    for (int i = 0; i < c->rotary / 2; i++) {
        float wave = TWO_PI / f[i];
        if (wave < shortest) continue;
        float smooth = (context / wave - s->low) / (s->high - s->low);
        f[i] = wave > longest ? f[i] / s->factor : (1 - smooth) * f[i] / s->factor + smooth * f[i];
    }
}

float rotation_factor(const struct llm_config *c)
{
    const struct llm_scaling_spec *s = &c->scaling;
    if (s->kind == SCALING_YARN) {
        float usual = s->factor > 1 ? 0.1f * logf(s->factor) + 1 : 1;
        if (!c->folder) return usual * (s->attention_factor > 0 ? s->attention_factor : 1);
        return s->attention_factor > 0 ? s->attention_factor : usual;
    }
    if (s->kind == SCALING_LONGROPE) {
        if (s->attention_factor > 0) return s->attention_factor;
        return s->factor > 1 && s->original_context > 1 ? sqrtf(1 + logf(s->factor) / logf((float)s->original_context)) : 1;
    }
    return 1;
}

void rotation_frequencies(const struct llm_config *c, bool local, const float *divisors, float *f)
{
    float base = local ? c->rope_local_base : c->rope_base;
    for (int i = 0; i < c->rotary / 2; i++) f[i] = 1 / powf(base, (float)(2 * i) / (float)c->rotary);
    if (divisors)
        for (int i = 0; i < c->rotary / 2; i++) f[i] /= divisors[i];
    if (local) return;
    if (c->scaling.kind == SCALING_LINEAR)
        for (int i = 0; i < c->rotary / 2; i++) f[i] /= c->scaling.factor;
    if (c->scaling.kind == SCALING_YARN) stretch_yarn(c, f);
    if (c->scaling.kind == SCALING_LLAMA3) stretch_llama3(c, f);
}

const float *llm_alibi_slopes(struct arena *arena, int heads, float most, float factor, bool halves)
{
    float *f = arena_calloc(arena, (uint64_t)heads + 1, sizeof *f);
    int whole = 1, n = 0;
    while (2 * whole <= heads) whole *= 2;
    if (!f) return NULL;
    if (halves) {      /* of the next power of two: every second slope from the second on, then the others */
        int all = whole < heads ? 2 * whole : whole;
        for (int i = whole < heads ? 1 : 0; n < heads && i < all; i += whole < heads ? 2 : 1) f[n++] = factor * exp2f(-most * (float)(i + 1) / (float)all);
        for (int i = 0; n < heads; i += 2) f[n++] = factor * exp2f(-most * (float)(i + 1) / (float)all);
        return f;
    }
    for (; n < whole; n++) f[n] = factor * exp2f(-most * (float)(n + 1) / (float)whole);
    for (int i = 0; n < heads; i += 2) f[n++] = factor * exp2f(-most * (float)(i + 1) / (float)(2 * whole));
    return f;
}
