/* Unique: slices along an axis (or single elements) sorted, equal ones told once. */
#include <stdlib.h>
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

struct slices { const struct operand *x; int64_t n, outer, inner; };      /* slice i: the elements [o, i, k] */

static int compare_elements(const struct operand *x, int64_t a, int64_t b)
{
    if (x->dtype == DT_STRING) {
        const struct string_ref *s = x->data;
        size_t n = s[a].length < s[b].length ? s[a].length : s[b].length;
        int d = n ? memcmp(s[a].text, s[b].text, n) : 0;
        return d ? d : s[a].length < s[b].length ? -1 : s[a].length > s[b].length;
    }
    if (dtype_is_real(x->dtype)) {
        double p = operand_real(x, (uint64_t)a), q = operand_real(x, (uint64_t)b);
        return p < q ? -1 : p > q ? 1 : 0;
    }
    int64_t p = operand_int(x, (uint64_t)a), q = operand_int(x, (uint64_t)b);
    return x->dtype == DT_U64 ? ((uint64_t)p < (uint64_t)q ? -1 : (uint64_t)p > (uint64_t)q) : p < q ? -1 : p > q;
}

static int compare_slices(const struct slices *s, int64_t a, int64_t b)
{
    for (int64_t o = 0; o < s->outer; o++)
        for (int64_t k = 0; k < s->inner; k++) {
            int d = compare_elements(s->x, (o * s->n + a) * s->inner + k, (o * s->n + b) * s->inner + k);
            if (d) return d;
        }
    return 0;
}

static int before(const void *a, const void *b, void *ctx)
{
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    int d = compare_slices(ctx, i, j);
    return d ? d : i < j ? -1 : i > j;
}

static int by_number(const void *a, const void *b, void *ctx)
{
    const int64_t *first = ctx, i = first[*(const int64_t *)a], j = first[*(const int64_t *)b];
    return i < j ? -1 : i > j;
}

static enum status put_list(struct call *c, int i, const int64_t *list, int64_t n, struct err *err)
{
    if (i >= c->out_count) return ST_OK;
    enum status st = call_make(c, i, DT_I64, &n, 1, err);
    if (!st && n) memcpy(c->out[i]->data, list, (size_t)n * sizeof *list);
    return st;
}

static enum status eval_unique(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), dims[TENSOR_RANK_MAX], found = 0;
    bool flat = !node_attribute(c->node, "axis"), sorted = node_int(c->node, "sorted", 1) != 0;
    int size = operand_size(x);
    if ((!dtype_is_number(x->dtype) && x->dtype != DT_STRING) || (!flat && !axis_fix(&axis, x->rank))) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit or %s is not sorted", (long long)axis, dtype_name(x->dtype));
    struct slices s = { x, flat ? (int64_t)operand_count(x) : x->dims[axis], 1, 1 };
    for (int d = 0; d < x->rank && !flat; d++)
        if (d != axis) *(d < axis ? &s.outer : &s.inner) *= x->dims[d];
    int64_t *order = arena_calloc(c->run, 6 * (uint64_t)s.n + 1, sizeof *order);
    if (!order) return call_error(c, err, ST_NO_MEMORY, "its elements pass the memory budget");
    int64_t *first = order + s.n, *count = first + s.n, *inverse = count + s.n, *rank = inverse + s.n, *group = rank + s.n;
    for (int64_t i = 0; i < s.n; i++) order[i] = i;
    qsort_r(order, (size_t)s.n, sizeof *order, before, &s);
    for (int64_t i = 0; i < s.n; i++) {
        if (i == 0 || compare_slices(&s, order[i - 1], order[i])) first[found++] = order[i];
        count[found - 1]++;
        inverse[order[i]] = found - 1;
    }
    for (int64_t i = 0; i < found; i++) group[i] = i;
    if (!sorted) qsort_r(group, (size_t)found, sizeof *group, by_number, first);
    for (int64_t i = 0; i < found; i++) rank[group[i]] = i;
    for (int64_t i = 0; i < s.n; i++) inverse[i] = rank[inverse[i]];
    memcpy(dims, x->dims, sizeof dims);
    dims[flat ? 0 : axis] = found;
    enum status st = call_make(c, 0, x->dtype, dims, flat ? 1 : x->rank, err);
    size_t run = (size_t)s.inner * (size_t)size;
    for (int64_t o = 0; o < s.outer && !st && run; o++)
        for (int64_t i = 0; i < found; i++) memcpy((char *)c->out[0]->data + (size_t)(o * found + i) * run, (const char *)x->data + (size_t)(o * s.n + first[group[i]]) * run, run);
    for (int64_t i = 0; i < found; i++) order[i] = first[group[i]];
    if (!st) st = put_list(c, 1, order, found, err);
    if (!st) st = put_list(c, 2, inverse, s.n, err);
    for (int64_t i = 0; i < found; i++) order[i] = count[group[i]];
    return st ? st : put_list(c, 3, order, found, err);
}

const struct op ops_unique[] = {
    { "Unique", "", 11, 0, 1, 1, 1, 4, OP_MAKES, 0, NULL, eval_unique, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
