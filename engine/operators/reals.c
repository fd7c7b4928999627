#include "engine/operators/reals.h"

#include <string.h>

#include "base/checked.h"
#include "engine/operators/numbers.h"

static bool taken(const struct operand *o) { return o && dtype_is_dense(o->dtype); }

static uint64_t room(const struct operand *o) { return taken(o) ? (operand_count(o) * sizeof(double) + 63) & ~(uint64_t)63 : 0; }

uint64_t reals_scratch(const struct call *c) { return reals_scratch_more(c, 0); }

uint64_t reals_scratch_more(const struct call *c, uint64_t more)
{
    uint64_t bytes;
    if (!size_mul(more, sizeof(double), &bytes)) return UINT64_MAX;
    for (int i = 0; i < c->in_count && i < REALS_MAX; i++)
        if (!size_add(bytes, room(c->in[i]), &bytes)) return UINT64_MAX;
    for (int i = 0; i < c->out_count && i < REALS_MAX; i++)
        if (!size_add(bytes, room(c->out[i]), &bytes)) return UINT64_MAX;
    return bytes;
}

void reals_begin(struct reals *r, const struct call *c)
{
    char *at = c->scratch;
    *r = (struct reals){ 0 };
    for (int i = 0; i < c->in_count && i < REALS_MAX; at += room(c->in[i++])) {
        if (!taken(c->in[i])) continue;
        r->in[i] = (double *)(void *)at;
        for (uint64_t n = operand_count(c->in[i]), done = 0; done < n; done += BLOCK)
            real_load(r->in[i] + done, c->in[i]->dtype, c->in[i]->data, done, 1, (int)(n - done < BLOCK ? n - done : BLOCK));
    }
    for (int i = 0; i < c->out_count && i < REALS_MAX; at += room(c->out[i++])) {
        if (!taken(c->out[i])) continue;
        r->out[i] = (double *)(void *)at;
        memset(at, 0, (size_t)room(c->out[i]));
    }
    r->rest = (double *)(void *)at;
}

void reals_end(const struct reals *r, struct call *c)
{
    for (int i = 0; i < c->out_count && i < REALS_MAX; i++) {
        if (!r->out[i]) continue;
        for (uint64_t n = operand_count(c->out[i]), done = 0; done < n; done += BLOCK)
            real_store(c->out[i]->data, c->out[i]->dtype, done, r->out[i] + done, (int)(n - done < BLOCK ? n - done : BLOCK));
    }
}

int64_t operand_int(const struct operand *o, uint64_t k)
{
    int64_t v;
    int_load(&v, o->dtype, o->data, k, 1, 1);
    return v;
}

double operand_real(const struct operand *o, uint64_t k)
{
    double v;
    real_load(&v, o->dtype, o->data, k, 1, 1);
    return v;
}

void operand_real_put(struct operand *o, uint64_t k, double v) { real_store(o->data, o->dtype, k, &v, 1); }
void operand_int_put(struct operand *o, uint64_t k, int64_t v) { int_store(o->data, o->dtype, k, &v, 1); }
