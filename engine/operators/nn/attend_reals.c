/* One row of attention on doubles by the kernel in float. */
#include "engine/operators/nn/attend_reals.h"

#include "base/checked.h"
#include "kernels/diffusion.h"

enum { ALIGN = 64 };
static const uint64_t ROOM_MOST = (uint64_t)1 << 60;

struct room { float *q, *k, *v, *y, *mask; void *rest; uint64_t bytes; };

/* Numbers of the mask. */
static uint64_t mask_numbers(const struct attend_reals *a)
{
    uint64_t n = 0;
    if (!a->bias) return 0;
    return size_mul((uint64_t)(a->by_head ? a->heads : 1), (uint64_t)a->queries, &n) && size_mul(n, (uint64_t)a->keys, &n) && n < ROOM_MOST ? n : ROOM_MOST;
}

static struct room room_of(const struct attend_reals *a, char *at)
{
    struct room r = { .bytes = 0 };
    float **places[5] = { &r.q, &r.k, &r.v, &r.y, &r.mask };
    const uint64_t numbers[5] = { (uint64_t)(a->heads * a->queries * a->width), (uint64_t)(a->groups * a->keys * a->width), (uint64_t)(a->groups * a->keys * a->depth), (uint64_t)(a->heads * a->queries * a->depth), mask_numbers(a) };
    for (int i = 0; i < 5; i++) {
        *places[i] = (float *)(void *)(at + r.bytes);
        r.bytes += (numbers[i] * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
    }
    r.rest = at + r.bytes;
    return r;
}

static struct attention_dense dense_of(const struct attend_reals *a, const struct room *r)
{
    return (struct attention_dense){ .heads = (int)a->heads, .head_dim = (int)a->width, .head_dim_v = (int)a->depth, .batch = 1, .queries = a->queries, .keys = a->keys, .scale = (float)a->scale, .causal = a->causal, .group = (int)(a->heads / a->groups),
                                     .q = r->q, .k = r->k, .v = r->v, .y = r->y, .ldq = a->width, .ldk = a->width, .ldv = a->depth, .ldy = a->depth,
                                     .at_q = { 0, a->queries * a->width }, .at_k = { 0, a->keys * a->width }, .at_v = { 0, a->keys * a->depth }, .at_y = { 0, a->queries * a->depth },
                                     .masks[0] = { .add = a->bias ? r->mask : NULL, .head = a->by_head ? a->queries * a->keys : 0, .query = a->keys } };
}

uint64_t attend_reals_room(const struct attend_reals *a, int threads)
{
    if (mask_numbers(a) == ROOM_MOST) return ROOM_MOST;
    const struct room r = room_of(a, NULL);
    const struct attention_dense d = dense_of(a, &r);
    return (ALIGN + r.bytes + attention_dense_scratch(&d, threads)) / sizeof(double) + 1;
}

static void to_floats(float *to, const double *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++) to[i] = (float)from[i];
}

static void fill_mask(float *mask, const struct attend_reals *a)
{
    for (int64_t h = 0; a->bias && h < (a->by_head ? a->heads : 1); h++)
        for (int64_t i = 0; i < a->queries; i++)
            for (int64_t j = 0; j < a->keys; j++) *mask++ = (float)a->bias(a->ctx, h, i, j);
}

void attend_reals(const struct call *c, const struct attend_reals *a, double *room)
{
    const struct room r = room_of(a, (char *)room + (ALIGN - (uintptr_t)room % ALIGN) % ALIGN);
    const struct attention_dense d = dense_of(a, &r);
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t t = 0; t < a->queries; t++) to_floats(r.q + (h * a->queries + t) * a->width, a->q + h * a->q_head + t * a->q_token, a->width);
    for (int64_t g = 0; g < a->groups; g++) {
        to_floats(r.k + g * a->keys * a->width, a->k + g * a->k_group, a->keys * a->width);
        to_floats(r.v + g * a->keys * a->depth, a->v + g * a->v_group, a->keys * a->depth);
    }
    fill_mask(r.mask, a);
    attention_dense_f32(&d, c->k, c->diffusion, r.rest, c->threads);
    for (int64_t h = 0; h < a->heads; h++)
        for (int64_t t = 0; t < a->queries; t++)
            for (int64_t w = 0; w < a->depth; w++) a->y[h * a->y_head + t * a->y_token + w] = (double)r.y[(h * a->queries + t) * a->depth + w];
}
