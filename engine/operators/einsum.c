/* Einsum: each letter is one loop; letters that the result does not have are summed, the last of them fastest. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum { LETTERS_MAX = 16, TERMS_MAX = 8 };

/* A letter's size and its stride in every operand; `result`: its place in the result, -1: it is summed. */
struct letter { char name; int64_t size, stride[TERMS_MAX]; int result; };
struct einsum { struct letter letters[LETTERS_MAX]; int count, rank; };

static int letter_of(struct einsum *e, char name)
{
    for (int i = 0; i < e->count; i++)
        if (e->letters[i].name == name) return i;
    if (e->count == LETTERS_MAX) return -1;
    e->letters[e->count] = (struct letter){ .name = name, .size = 1, .result = -1 };
    return e->count++;
}

/* One term's letters for an operand (NULL: the result's), '...' as the digits '0'... counted from the right. False: malformed. */
static bool read_term(struct einsum *e, const char *text, size_t length, const struct operand *o, int k, int dots, char *out, int *rank)
{
    int plain = 0;
    *rank = 0;
    for (size_t i = 0; i < length; i++) plain += (text[i] | 32) >= 'a' && (text[i] | 32) <= 'z';
    for (size_t i = 0; i < length; i++) {
        char ch = text[i];
        if (ch == ' ') continue;
        if (ch == '.') {
            int n = o ? o->rank - plain : dots;
            if (i + 2 >= length || text[i + 1] != '.' || text[i + 2] != '.' || n < 0 || *rank + n > TENSOR_RANK_MAX) return false;
            for (int d = 0; d < n; d++) out[(*rank)++] = (char)('0' + n - 1 - d);
            i += 2;
        } else if ((ch | 32) >= 'a' && (ch | 32) <= 'z' && *rank < TENSOR_RANK_MAX) out[(*rank)++] = ch;
        else return false;
    }
    if (!o) return true;
    if (*rank != o->rank) return false;
    int64_t step = 1;
    for (int d = o->rank - 1; d >= 0; step *= o->dims[d], d--) {
        int l = letter_of(e, out[d]);
        if (l < 0) return false;
        struct letter *x = &e->letters[l];
        if (x->size != 1 && o->dims[d] != 1 && x->size != o->dims[d]) return false;
        if (o->dims[d] != 1) {
            x->size = o->dims[d];
            x->stride[k] += step;
        }
    }
    return true;
}

static enum status read_einsum(const struct call *c, struct einsum *e, struct err *err)
{
    const struct onnx_attribute *a = node_attribute(c->node, "equation");
    char all[TERMS_MAX][TENSOR_RANK_MAX + 1], last[TENSOR_RANK_MAX + 1];
    int rank = 0, dots = 0;
    *e = (struct einsum){ 0 };
    if (!a || a->type != ONNX_STRING || c->in_count > TERMS_MAX) return call_error(c, err, ST_BAD_INPUT, "its equation is missing or has more than %d terms", TERMS_MAX);
    const char *text = a->s.text, *end = text + a->s.length, *arrow = NULL;
    for (const char *p = text; p + 1 < end; p++)
        if (p[0] == '-' && p[1] == '>') arrow = p;
    const char *stop = arrow ? arrow : end;
    for (int k = 0; k < c->in_count; k++) {
        const char *comma = memchr(text, ',', (size_t)(stop - text));
        const char *to = comma ? comma : stop;
        if ((k + 1 < c->in_count) != (comma != NULL) || !read_term(e, text, (size_t)(to - text), c->in[k], k, 0, all[k], &rank)) return call_error(c, err, ST_BAD_INPUT, "term %d of its equation does not fit its input", k);
        for (int d = 0; d < rank; d++) dots = all[k][d] >= '0' && all[k][d] <= '9' && all[k][d] - '0' >= dots ? all[k][d] - '0' + 1 : dots;
        text = comma ? comma + 1 : stop;
    }
    if (arrow && !read_term(e, arrow + 2, (size_t)(end - arrow - 2), NULL, 0, dots, last, &rank)) return call_error(c, err, ST_BAD_INPUT, "its equation's result is malformed");
    if (!arrow) {                                     /* what stands once, in the alphabet's order, behind '...' */
        rank = 0;
        for (int d = 0; d < dots && rank < TENSOR_RANK_MAX; d++) last[rank++] = (char)('0' + dots - 1 - d);
        for (char ch = 'A'; ch <= 'z'; ch++) {
            int seen = 0;
            for (int k = 0; k < c->in_count; k++)
                for (int d = 0; d < c->in[k]->rank; d++) seen += all[k][d] == ch;
            if (seen == 1 && rank < TENSOR_RANK_MAX) last[rank++] = ch;
        }
    }
    for (int d = 0; d < rank; d++) {
        int l = letter_of(e, last[d]);
        if (l < 0 || e->letters[l].result >= 0) return call_error(c, err, ST_BAD_INPUT, "its equation's result is malformed");
        e->letters[l].result = d;
    }
    e->rank = rank;
    return ST_OK;
}

static enum status infer_einsum(struct call *c, struct err *err)
{
    struct einsum e;
    int64_t dims[TENSOR_RANK_MAX];
    for (int i = 0; i < c->in_count; i++)
        if (!dtype_is_number(c->in[i]->dtype) || c->in[i]->dtype != c->in[0]->dtype) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[i]->dtype));
    enum status st = read_einsum(c, &e, err);
    if (st) return st;
    for (int i = 0; i < e.count; i++)
        if (e.letters[i].result >= 0) dims[e.letters[i].result] = e.letters[i].size;
    return call_set(c, 0, c->in[0]->dtype, dims, e.rank, err);
}

static enum status eval_einsum(struct call *c, struct err *err)
{
    struct einsum e;
    struct letter *order[LETTERS_MAX];
    int n = 0, outer;
    struct reals r;
    enum status st = read_einsum(c, &e, err);
    if (st) return st;
    for (int d = 0; d < e.rank; d++)
        for (int i = 0; i < e.count; i++)
            if (e.letters[i].result == d) order[n++] = &e.letters[i];
    outer = n;
    for (int i = 0; i < e.count; i++)
        if (e.letters[i].result < 0) order[n++] = &e.letters[i];
    reals_begin(&r, c);
    int64_t index[LETTERS_MAX] = { 0 }, at[TERMS_MAX] = { 0 }, to = 0;
    bool more = operand_count(c->out[0]) > 0;
    for (int i = 0; i < n; i++) more = more && order[i]->size > 0;
    while (more) {
        double v = 1;
        for (int k = 0; k < c->in_count; k++) v *= r.in[k][at[k]];
        r.out[0][to] += v;
        int d = n - 1;
        for (; d >= 0; d--) {
            for (int k = 0; k < c->in_count; k++) at[k] += order[d]->stride[k];
            if (++index[d] < order[d]->size) break;
            for (int k = 0; k < c->in_count; k++) at[k] -= order[d]->stride[k] * order[d]->size;
            index[d] = 0;
        }
        more = d >= 0;
        to += more && d < outer;
    }
    reals_end(&r, c);
    return ST_OK;
}

const struct op ops_einsum[] = {
    { "Einsum", "", 12, 0, 1, TERMS_MAX, 1, 1, OP_PRODUCT_ALL, 0, infer_einsum, eval_einsum, reals_scratch, NULL, NULL, NULL },
    { 0 }
};
