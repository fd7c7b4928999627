/* LabelEncoder and CategoryMapper: a table from keys to values. Keys are found one by one in a hash made once for each plan. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/operators/ml/ml.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

/* A list as a tensor, whichever attribute holds it; dtype DT_NONE: there is none. */
static struct operand list_of(const struct call *c, const char *const names[3], const char *tensor)
{
    int64_t n;
    struct operand o = { .rank = 1 };
    const struct onnx_attribute *t = tensor ? node_attribute(c->node, tensor) : NULL;
    const float *f = ml_floats(c->node, names[0], &n);
    if (!f) {
        const int64_t *k = ml_ints(c->node, names[1], &n);
        const struct string_ref *s = k ? NULL : ml_strings(c->node, names[2], &n);
        o.dtype = k ? DT_I64 : s ? DT_STRING : DT_NONE;
        o.data = k ? (void *)(uintptr_t)k : (void *)(uintptr_t)s;
    } else {
        o.dtype = DT_F32;
        o.data = (void *)(uintptr_t)f;
    }
    o.dims[0] = n;
    if (t && t->type == ONNX_TENSOR && !t->t->location) o = tensor_operand(&t->t->tensor);
    return o;
}

static const char *const key_names[] = { "keys_floats", "keys_int64s", "keys_strings" }, *const value_names[] = { "values_floats", "values_int64s", "values_strings" };

struct table { struct operand keys, values; int64_t *slots; uint64_t mask; };

static bool text_is(const struct string_ref *a, const struct string_ref *b) { return a->length == b->length && (a->length == 0 || memcmp(a->text, b->text, a->length) == 0); }

static uint64_t hash_bytes(const void *data, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)data)[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static uint64_t hash_of(const struct operand *o, uint64_t i)
{
    if (o->dtype == DT_STRING) {
        const struct string_ref *s = (const struct string_ref *)o->data + i;
        return hash_bytes(s->text, s->length);
    }
    double v = operand_real(o, i);
    if (v != v) return 7;
    if (v == 0) v = 0;
    return hash_bytes(&v, sizeof v);
}

static bool same_key(const struct operand *a, uint64_t i, const struct operand *b, uint64_t j)
{
    if (a->dtype == DT_STRING) return text_is((const struct string_ref *)a->data + i, (const struct string_ref *)b->data + j);
    if (dtype_is_real(a->dtype)) {
        double p = operand_real(a, i), q = operand_real(b, j);
        return p == q || (p != p && q != q);
    }
    return operand_int(a, i) == operand_int(b, j);
}

static int64_t find(const struct table *t, const struct operand *x, uint64_t i)
{
    for (uint64_t at = hash_of(x, i) & t->mask; t->slots[at] >= 0; at = (at + 1) & t->mask)
        if (same_key(x, i, &t->keys, (uint64_t)t->slots[at])) return t->slots[at];
    return -1;
}

static void release_table(void *state)
{
    struct table *t = state;
    free(t->slots);
    free(t);
}

static enum status make_table(struct call *c, struct operand keys, struct operand values, struct err *err)
{
    struct table *t = mem_calloc_array(1, sizeof *t);
    uint64_t n = operand_count(&keys), room = 16;
    while (room < 2 * n + 2) room *= 2;
    if (!t || !(t->slots = mem_alloc_array(room, sizeof *t->slots))) {
        free(t);
        return call_error(c, err, ST_NO_MEMORY, "its table passes the memory budget");
    }
    *t = (struct table){ keys, values, t->slots, room - 1 };
    for (uint64_t i = 0; i < room; i++) t->slots[i] = -1;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = hash_of(&keys, i) & t->mask;
        if (find(t, &keys, i) >= 0) continue;
        while (t->slots[at] >= 0) at = (at + 1) & t->mask;
        t->slots[at] = (int64_t)i;
    }
    c->state = t;
    return ST_OK;
}

/* ---- LabelEncoder ---- */
static void encoder_lists(const struct call *c, struct operand *keys, struct operand *values)
{
    if (c->node->opset < 2) {             /* classes_strings: texts to their places, or places to texts */
        int64_t n;
        const struct string_ref *s = ml_strings(c->node, "classes_strings", &n);
        *keys = *values = (struct operand){ .dtype = s ? DT_STRING : DT_NONE, .rank = 1, .dims = { n }, .data = (void *)(uintptr_t)s };
        return;
    }
    *keys = list_of(c, key_names, "keys_tensor");
    *values = list_of(c, value_names, "values_tensor");
}

static enum status infer_encoder(struct call *c, struct err *err)
{
    struct operand keys, values;
    const struct operand *x = c->in[0];
    encoder_lists(c, &keys, &values);
    bool old = c->node->opset < 2;
    if (keys.dtype == DT_NONE || values.dtype == DT_NONE || (!old && keys.dtype != x->dtype) || operand_count(&keys) != operand_count(&values)) return call_error(c, err, ST_BAD_INPUT, "its keys and values do not fit %s", dtype_name(x->dtype));
    if (operand_size(&values) == 0 || (x->dtype != DT_STRING && !dtype_is_number(x->dtype))) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(x->dtype));
    return call_set(c, 0, old ? (x->dtype == DT_STRING ? DT_I64 : DT_STRING) : values.dtype, x->dims, x->rank, err);
}

static enum status prepare_encoder(struct call *c, struct err *err)
{
    struct operand keys, values;
    encoder_lists(c, &keys, &values);
    return make_table(c, keys, values, err);
}

static void put_default(const struct call *c, uint64_t i)
{
    struct operand *y = c->out[0];
    const struct onnx_attribute *t = node_attribute(c->node, "default_tensor"), *s = node_attribute(c->node, "default_string");
    static const struct string_ref unused = { "_Unused", 7 };
    if (t && t->type == ONNX_TENSOR && !t->t->location && t->t->tensor.dtype == y->dtype && t->t->tensor.bytes >= (uint64_t)operand_size(y)) memcpy((char *)y->data + i * (uint64_t)operand_size(y), t->t->tensor.data, (size_t)operand_size(y));
    else if (y->dtype == DT_STRING) ((struct string_ref *)y->data)[i] = s && s->type == ONNX_STRING ? s->s : unused;
    else if (dtype_is_real(y->dtype)) operand_real_put(y, i, (double)node_float(c->node, "default_float", -0.0f));
    else operand_int_put(y, i, node_int(c->node, "default_int64", -1));
}

static enum status eval_encoder(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    const struct table *t = c->state;
    struct operand *y = c->out[0];
    size_t size = (size_t)operand_size(y);
    bool old = c->node->opset < 2 && c->node->op->code == 0;
    (void)err;
    for (uint64_t i = 0, n = operand_count(x); i < n; i++) {
        int64_t k = old && x->dtype != DT_STRING ? operand_int(x, i) : find(t, x, i);
        if (k < 0 || (uint64_t)k >= operand_count(&t->values)) put_default(c, i);
        else if (old && x->dtype == DT_STRING) ((int64_t *)y->data)[i] = k;
        else memcpy((char *)y->data + i * size, (const char *)t->values.data + (uint64_t)k * size, size);
    }
    return ST_OK;
}

/* ---- CategoryMapper ---- */
static void mapper_lists(const struct call *c, struct operand *keys, struct operand *values)
{
    int64_t n, m;
    const struct string_ref *s = ml_strings(c->node, "cats_strings", &n);
    const int64_t *k = ml_ints(c->node, "cats_int64s", &m);
    *keys = (struct operand){ .dtype = DT_STRING, .rank = 1, .dims = { n }, .data = (void *)(uintptr_t)s };
    *values = (struct operand){ .dtype = DT_I64, .rank = 1, .dims = { m }, .data = (void *)(uintptr_t)k };
    if (c->in[0]->dtype == DT_STRING) return;
    struct operand swap = *keys;
    *keys = *values;
    *values = swap;
}

static enum status infer_mapper(struct call *c, struct err *err)
{
    struct operand keys, values;
    mapper_lists(c, &keys, &values);
    if ((c->in[0]->dtype != DT_STRING && c->in[0]->dtype != DT_I64) || keys.dims[0] != values.dims[0]) return call_error(c, err, ST_BAD_INPUT, "its categories do not fit");
    return call_set(c, 0, values.dtype, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status prepare_mapper(struct call *c, struct err *err)
{
    struct operand keys, values;
    mapper_lists(c, &keys, &values);
    return make_table(c, keys, values, err);
}

const struct op ops_ml_labels[] = {
    { "LabelEncoder", "ai.onnx.ml", 1, 0, 1, 1, 1, 1, 0, 0, infer_encoder, eval_encoder, NULL, prepare_encoder, release_table, rows_first, NULL },
    { "CategoryMapper", "ai.onnx.ml", 1, 0, 1, 1, 1, 1, 0, 1, infer_mapper, eval_encoder, NULL, prepare_mapper, release_table, rows_first, NULL },
    { 0 }
};
