#include "engine/operators/operators.h"

#include "engine/operators/numbers.h"

const struct operand *call_input(const struct call *c, int i) { return i < c->in_count ? c->in[i] : NULL; }

enum status call_need_sized(const struct call *c, struct err *err)
{
    if (operand_size(c->in[0]) == 0) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    return ST_OK;
}

enum status call_need_real(const struct call *c, struct err *err)
{
    if (!dtype_is_real(c->in[0]->dtype)) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[0]->dtype));
    return ST_OK;
}

int64_t dims_product(const int64_t *dims, int from, int to)
{
    int64_t n = 1;
    for (int d = from; d < to; d++) n *= dims[d];
    return n;
}

int operand_physical_axis(const struct operand *o, int d)
{
    if (!o->channels_last || o->rank < 3 || d == 0) return d;
    return d == 1 ? o->rank - 1 : d - 1;
}

/* ---- batches of matrices ---- */

/* Dimension d of `rank` batch dimensions; 1 where o has fewer. */
static int64_t batch_dim(const struct operand *o, int rank, int d)
{
    int e = d - (rank - (o->rank - 2));
    return o->rank < 2 || e < 0 ? 1 : o->dims[e];
}

bool batch_shape_of(struct batch_shape *s, const struct operand *a, const struct operand *b)
{
    s->rank = (a->rank > b->rank ? a->rank : b->rank) - 2;
    if (s->rank < 0) s->rank = 0;
    for (int d = 0; d < s->rank; d++) {
        int64_t x = batch_dim(a, s->rank, d), y = batch_dim(b, s->rank, d);
        if (x != y && x != 1 && y != 1) return false;
        s->dims[d] = x == 1 ? y : x;
    }
    return true;
}

int64_t batch_matrix(const struct batch_shape *s, const struct operand *o, int64_t at)
{
    int64_t index = 0, step = 1;
    for (int d = s->rank - 1; d >= 0; at /= s->dims[d], d--) {
        int64_t n = batch_dim(o, s->rank, d);
        index += n == 1 ? 0 : at % s->dims[d] * step;
        step *= n;
    }
    return index;
}
