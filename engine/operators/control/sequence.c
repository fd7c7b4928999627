/* Sequences and optionals. A sequence is a list of tensors (struct tensor) in memory of the run; an item is copied when it enters, since the buffer it came from
 * is used again, and is handed out as it lies. SequenceMap runs its body for each item. */
#include <string.h>

#include "base/checked.h"
#include "engine/operators/control/body.h"
#include "engine/operators/operators.h"
#include "engine/operators/reals.h"

static struct tensor *items_of(const struct operand *o) { return o->data; }

static enum status need_sequence(const struct call *c, int i, struct err *err)
{
    if (i >= c->in_count || !c->in[i] || c->in[i]->dtype != DT_SEQUENCE) return call_error(c, err, ST_BAD_INPUT, "input %d must be a sequence", i);
    return ST_OK;
}

static enum status make_sequence(struct call *c, int64_t n, struct err *err) { return call_make(c, 0, DT_SEQUENCE, &n, 1, err); }

static enum status keep_item(struct call *c, int64_t at, const struct operand *from, struct err *err)
{
    struct operand kept = { 0 };
    if (from->dtype == DT_SEQUENCE || from->dtype == DT_ABSENT) return call_error(c, err, ST_UNSUPPORTED, "sequences of %s are not taken", dtype_name(from->dtype));
    enum status st = operand_keep(&kept, from, c->run, err);
    if (!st) items_of(c->out[0])[at] = operand_tensor(&kept);
    return st;
}

/* The position of input i in a sequence of n (n itself allowed for insertion); without one, `otherwise`. */
static enum status read_position(const struct call *c, int i, int64_t n, int64_t otherwise, int64_t *out, struct err *err)
{
    const struct operand *o = i < c->in_count ? c->in[i] : NULL;
    *out = otherwise;
    if (!o) return ST_OK;
    if ((o->dtype != DT_I64 && o->dtype != DT_I32) || operand_count(o) != 1) return call_error(c, err, ST_BAD_INPUT, "the position must be one integer");
    int64_t v = operand_int(o, 0), most = otherwise == n ? n : n - 1;
    if (v < -n || v > most) return call_error(c, err, ST_BAD_INPUT, "position %lld is not in a sequence of %lld", (long long)v, (long long)n);
    *out = v < 0 ? v + n : v;
    return ST_OK;
}

static enum status eval_empty(struct call *c, struct err *err) { return make_sequence(c, 0, err); }

static enum status eval_construct(struct call *c, struct err *err)
{
    enum status st = make_sequence(c, c->in_count, err);
    for (int i = 0; i < c->in_count && !st; i++) st = keep_item(c, i, c->in[i], err);
    return st;
}

static enum status eval_insert(struct call *c, struct err *err)
{
    enum status st = need_sequence(c, 0, err);
    if (st) return st;
    int64_t n = c->in[0]->dims[0], at;
    st = read_position(c, 2, n, n, &at, err);
    if (!st) st = make_sequence(c, n + 1, err);
    if (st) return st;
    struct tensor *y = items_of(c->out[0]), *x = items_of(c->in[0]);
    for (int64_t i = 0; i < n; i++) y[i + (i >= at)] = x[i];
    return keep_item(c, at, c->in[1], err);
}

static enum status eval_erase(struct call *c, struct err *err)
{
    enum status st = need_sequence(c, 0, err);
    if (st) return st;
    int64_t n = c->in[0]->dims[0], at;
    if (n == 0) return call_error(c, err, ST_BAD_INPUT, "the sequence is empty");
    st = read_position(c, 1, n, n - 1, &at, err);
    if (!st) st = make_sequence(c, n - 1, err);
    if (st) return st;
    struct tensor *y = items_of(c->out[0]), *x = items_of(c->in[0]);
    for (int64_t i = 0; i < n - 1; i++) y[i] = x[i + (i >= at)];
    return ST_OK;
}

static void set_operand(struct operand *to, const struct tensor *t)
{
    bool dynamic = to->dynamic;
    *to = tensor_operand(t);
    to->dynamic = dynamic;
}

static enum status eval_at(struct call *c, struct err *err)
{
    enum status st = need_sequence(c, 0, err);
    if (st) return st;
    int64_t n = c->in[0]->dims[0], at;
    if (n == 0) return call_error(c, err, ST_BAD_INPUT, "the sequence is empty");
    st = read_position(c, 1, n, n - 1, &at, err);
    if (!st) set_operand(c->out[0], &items_of(c->in[0])[at]);
    return st;
}

static enum status eval_length(struct call *c, struct err *err)
{
    enum status st = need_sequence(c, 0, err);
    if (!st) st = call_make(c, 0, DT_I64, NULL, 0, err);
    if (!st) *(int64_t *)c->out[0]->data = c->in[0]->dims[0];
    return st;
}

/* ---- SplitToSequence, ConcatFromSequence ---- */
static enum status split_parts(struct call *c, int64_t axis, int64_t *sizes, int64_t *n, struct err *err)
{
    const struct operand *x = c->in[0], *s = c->in_count > 1 ? c->in[1] : NULL;
    int64_t whole = x->dims[axis], each = 1, total = 0;
    if (s && s->dtype != DT_I64 && s->dtype != DT_I32) return call_error(c, err, ST_BAD_INPUT, "split must hold integers");
    if (s && s->rank > 0) {
        *n = (int64_t)operand_count(s);
        for (int64_t i = 0; i < *n; i++) {
            sizes[i] = operand_int(s, (uint64_t)i);
            if (sizes[i] < 0 || sizes[i] > whole) return call_error(c, err, ST_BAD_INPUT, "a part has %lld elements", (long long)sizes[i]);
            total += sizes[i];
        }
        return total == whole ? ST_OK : call_error(c, err, ST_BAD_INPUT, "parts of %lld in all do not make %lld", (long long)total, (long long)whole);
    }
    if (s) each = operand_int(s, 0);
    if (each < 1) return call_error(c, err, ST_BAD_INPUT, "a part has %lld elements", (long long)each);
    for (*n = 0; total < whole; ++*n, total += each) sizes[*n] = whole - total < each ? whole - total : each;
    return ST_OK;
}

static enum status eval_split(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t axis = node_int(c->node, "axis", 0), n = 0, outer = 1, inner = operand_size(x), at = 0;
    bool keep = node_int(c->node, "keepdims", 1) != 0 || (c->in_count > 1 && c->in[1]);
    if (inner == 0 || !axis_fix(&axis, x->rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit %s of rank %d", (long long)axis, dtype_name(x->dtype), x->rank);
    int64_t *sizes = arena_calloc(c->run, (uint64_t)x->dims[axis] + (c->in_count > 1 && c->in[1] ? operand_count(c->in[1]) : 0) + 1, sizeof *sizes);
    enum status st = sizes ? split_parts(c, axis, sizes, &n, err) : call_error(c, err, ST_NO_MEMORY, "its parts pass the memory budget");
    if (!st) st = make_sequence(c, n, err);
    for (int d = 0; d < x->rank; d++)
        if (d != axis) *(d < axis ? &outer : &inner) *= x->dims[d];
    for (int64_t i = 0; i < n && !st; at += sizes[i++]) {
        struct tensor *t = &items_of(c->out[0])[i];
        *t = (struct tensor){ .dtype = x->dtype };
        for (int d = 0; d < x->rank; d++)
            if (d != axis || keep) t->dims[t->rank++] = d == axis ? sizes[i] : x->dims[d];
        int64_t run = sizes[i] * inner;
        t->bytes = (uint64_t)(outer * run);
        if (!(t->data = arena_alloc(c->run, t->bytes ? t->bytes : 1, TENSOR_ALIGN))) return call_error(c, err, ST_NO_MEMORY, "its parts pass the memory budget");
        for (int64_t o = 0; o < outer && run; o++) memcpy((char *)t->data + o * run, (const char *)x->data + (o * x->dims[axis] + at) * inner, (size_t)run);
    }
    return st;
}

static enum status eval_concat(struct call *c, struct err *err)
{
    enum status st = need_sequence(c, 0, err);
    if (st) return st;
    int64_t n = c->in[0]->dims[0], axis = node_int(c->node, "axis", 0), dims[TENSOR_RANK_MAX + 1], outer = 1, at = 0;
    bool fresh = node_int(c->node, "new_axis", 0) != 0;
    const struct tensor *x = items_of(c->in[0]);
    if (n == 0) return call_error(c, err, ST_BAD_INPUT, "the sequence is empty");
    int rank = x[0].rank + fresh, size = dtype_bits(x[0].dtype) / 8;
    if (x[0].dtype == DT_STRING) size = (int)sizeof(struct string_ref);
    if (size == 0 || rank > TENSOR_RANK_MAX || !axis_fix(&axis, rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit items of rank %d", (long long)axis, x[0].rank);
    for (int d = 0, from = 0; d < rank; d++) dims[d] = fresh && d == axis ? 0 : x[0].dims[from++];
    dims[axis] = 0;
    for (int64_t i = 0; i < n; i++) {
        bool fits = x[i].dtype == x[0].dtype && x[i].rank == x[0].rank;
        for (int d = 0; fits && d < x[0].rank; d++) fits = (!fresh && d == axis) || x[i].dims[d] == x[0].dims[d];
        if (!fits) return call_error(c, err, ST_BAD_INPUT, "item %lld does not fit the first", (long long)i);
        dims[axis] += fresh ? 1 : x[i].dims[axis];
    }
    st = call_make(c, 0, x[0].dtype, dims, rank, err);
    if (st) return st;
    for (int d = 0; d < axis; d++) outer *= dims[d];
    int64_t row = outer ? (int64_t)(c->out[0]->bytes / (uint64_t)outer) : 0;
    for (int64_t i = 0; i < n && outer; i++) {
        int64_t run = (int64_t)(x[i].bytes / (uint64_t)outer);
        for (int64_t o = 0; o < outer && run; o++) memcpy((char *)c->out[0]->data + o * row + at, (const char *)x[i].data + o * run, (size_t)run);
        at += run;
    }
    return ST_OK;
}

/* ---- SequenceMap: sequences are walked together, tensors stay ---- */
static enum status map_outputs(struct call *c, int64_t n, struct err *err)
{
    enum status st = ST_OK;
    for (int k = 0; k < c->out_count && !st; k++) st = call_make(c, k, DT_SEQUENCE, &n, 1, err);
    return st;
}

static enum status eval_map(struct call *c, struct err *err)
{
    struct operand in[GRAPH_INPUTS_MAX], out[GRAPH_INPUTS_MAX];
    enum status st = need_sequence(c, 0, err);
    if (st) return st;
    int64_t n = c->in[0]->dims[0];
    int formal = c->node->formal_count, made;
    if (c->node->body_count != 1) return call_error(c, err, ST_BAD_INPUT, "its body is missing");
    st = map_outputs(c, n, err);
    for (int64_t i = 0; i < n && !st; i++) {
        for (int k = 0; k < formal; k++) {
            const struct operand *x = c->in[k];
            if (!x || (x->dtype == DT_SEQUENCE && x->dims[0] != n)) return call_error(c, err, ST_BAD_INPUT, "its sequences differ in length");
            in[k] = x->dtype == DT_SEQUENCE ? tensor_operand(&items_of(x)[i]) : *x;
        }
        st = body_run(c, 0, in, formal, c->run, out, &made, err);
        if (!st && made != c->out_count) st = call_error(c, err, ST_BAD_INPUT, "its body gives %d results, not %d", made, c->out_count);
        for (int k = 0; k < c->out_count && !st; k++) {
            struct operand kept = { 0 };
            st = operand_keep(&kept, &out[k], c->run, err);
            items_of(c->out[k])[i] = operand_tensor(&kept);
        }
    }
    return st;
}

/* ---- optionals: what an optional holds stands for it ---- */
static enum status eval_optional(struct call *c, struct err *err)
{
    if (c->in_count && c->in[0]) return operand_keep(c->out[0], c->in[0], c->run, err);
    return call_make(c, 0, DT_ABSENT, NULL, 0, err);
}

static enum status eval_get(struct call *c, struct err *err)
{
    if (c->in[0]->dtype == DT_ABSENT) return call_error(c, err, ST_BAD_INPUT, "the optional holds nothing");
    return operand_keep(c->out[0], c->in[0], c->run, err);
}

static enum status infer_has(struct call *c, struct err *err) { return call_set(c, 0, DT_BOOL, NULL, 0, err); }

static enum status eval_has(struct call *c, struct err *err)
{
    (void)err;
    *(uint8_t *)c->out[0]->data = c->in_count && c->in[0] && c->in[0]->dtype != DT_ABSENT;
    return ST_OK;
}

#define MAKES(name, since, in_min, in_max, eval) { name, "", since, 0, in_min, in_max, 1, 1, OP_MAKES, 0, NULL, eval, NULL, NULL, NULL, NULL, NULL }
const struct op ops_sequence[] = {
    MAKES("SequenceEmpty", 11, 0, 0, eval_empty), MAKES("SequenceConstruct", 11, 1, GRAPH_INPUTS_MAX, eval_construct), MAKES("SequenceInsert", 11, 2, 3, eval_insert),
    MAKES("SequenceErase", 11, 1, 2, eval_erase), MAKES("SequenceAt", 11, 2, 2, eval_at), MAKES("SequenceLength", 11, 1, 1, eval_length),
    MAKES("SplitToSequence", 11, 1, 2, eval_split), MAKES("ConcatFromSequence", 11, 1, 1, eval_concat),
    { "SequenceMap", "", 17, 0, 1, GRAPH_INPUTS_MAX, 1, GRAPH_INPUTS_MAX, OP_MAKES, 0, NULL, eval_map, NULL, bodies_prepare, bodies_release, NULL, NULL },
    MAKES("Optional", 15, 0, 1, eval_optional), MAKES("OptionalGetElement", 15, 1, 1, eval_get),
    { "OptionalHasElement", "", 15, 0, 0, 1, 1, 1, OP_SHAPE_ONLY, 0, infer_has, eval_has, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
