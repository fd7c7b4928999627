/* One row of attention on doubles by the kernel in float. */
#include "engine/operators/nn/attend_reals.h"

#include "base/checked.h"
#include "kernels/diffusion.h"

enum { ALIGN = 64 };

struct room { float *q, *k, *v, *y; void *rest; uint64_t bytes; };

static struct room room_of(const struct attend_reals *a, char *at)
{
    struct room r = { .bytes = 0 };
    float **places[4] = { &r.q, &r.k, &r.v, &r.y };
    const int64_t numbers[4] = { a->heads * a->queries * a->width, a->groups * a->keys * a->width, a->groups * a->keys * a->depth, a->heads * a->queries * a->depth };
    for (int i = 0; i < 4; i++) {
        *places[i] = (float *)(void *)(at + r.bytes);
        r.bytes += ((uint64_t)numbers[i] * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
    }
    r.rest = at + r.bytes;
    return r;
}

static struct attention_dense dense_of(const struct attend_reals *a, const struct room *r)
{
    return (struct attention_dense){ .heads = (int)a->heads, .head_dim = (int)a->width, .head_dim_v = (int)a->depth, .batch = 1, .queries = a->queries, .keys = a->keys, .scale = (float)a->scale, .causal = a->causal, .group = (int)(a->heads / a->groups),
                                     .q = r->q, .k = r->k, .v = r->v, .y = r->y, .ldq = a->width, .ldk = a->width, .ldv = a->depth, .ldy = a->depth,
                                     .at_q = { 0, a->queries * a->width }, .at_k = { 0, a->keys * a->width }, .at_v = { 0, a->keys * a->depth }, .at_y = { 0, a->queries * a->depth },
                                     .masks[0] = { .add = a->mask, .head = a->mask_head, .query = a->keys } };
}

uint64_t attend_mask_numbers(int64_t heads, int64_t queries, int64_t keys)
{
    const uint64_t most = (uint64_t)1 << 60;
    uint64_t n;
    return size_mul((uint64_t)heads, (uint64_t)queries, &n) && size_mul(n, (uint64_t)keys, &n) && n < most ? n : most;
}

uint64_t attend_reals_scratch(const struct attend_reals *a, int threads)
{
    const struct room r = room_of(a, NULL);
    const struct attention_dense d = dense_of(a, &r);
    return ALIGN + r.bytes + attention_dense_scratch(&d, threads);
}

static void to_floats(float *to, const double *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

void attend_reals(const struct call *c, const struct attend_reals *a, void *scratch)
{
    const struct room r = room_of(a, (char *)scratch + (ALIGN - (uintptr_t)scratch % ALIGN) % ALIGN);
    const struct attention_dense d = dense_of(a, &r);
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t t = 0; t < a->queries; t++) to_floats(r.q + (h * a->queries + t) * a->width, a->q + h * a->q_head + t * a->q_token, a->width);
    for (int64_t g = 0; g < a->groups; g++) {
        to_floats(r.k + g * a->keys * a->width, a->k + g * a->k_group, a->keys * a->width);
        to_floats(r.v + g * a->keys * a->depth, a->v + g * a->v_group, a->keys * a->depth);
    }
    attention_dense_f32(&d, c->k, c->diffusion, r.rest, c->threads);
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t t = 0; t < a->queries; t++)
            for (int64_t w = 0; w < a->depth; w++) a->y[h * a->y_head + t * a->y_token + w] = (double)r.y[(h * a->queries + t) * a->depth + w];
}
