/* Einsum: each letter is one loop; letters that the result does not have are summed, the last of them fastest.
 *
 * Two terms of f32 whose summed letters stand in both are a batch of products of matrices: letters of both and the result are the batch, those of the first alone the
 * rows, of the second alone the columns. Each side is brought into that order (where it is not in it), multiplied, and the result brought into its own. */
#include <string.h>

#include "base/checked.h"

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

/* ---- two terms of f32 ---- */
enum role { ROLE_BATCH, ROLE_ROW, ROLE_COLUMN, ROLE_SUM, ROLES };
struct product {
    int     count[ROLES];
    const struct letter *letters[ROLES][LETTERS_MAX];
    int64_t size[ROLES];
    uint64_t a, b, y, panel;             /* bytes of what is brought into order, 0: it is in order; of one packed right side */
};

static bool read_product(const struct call *c, const struct einsum *e, struct product *p)
{
    *p = (struct product){ .size = { 1, 1, 1, 1 } };
    if (c->in_count != 2 || c->in[0]->dtype != DT_F32 || c->in[0]->splat || c->in[1]->splat) return false;
    for (int i = 0; i < e->count; i++) {
        const struct letter *l = &e->letters[i];
        const bool in_a = l->stride[0] != 0, in_b = l->stride[1] != 0;
        if (l->size == 1) continue;
        const enum role r = l->result < 0 ? ROLE_SUM : in_a && in_b ? ROLE_BATCH : in_a ? ROLE_ROW : ROLE_COLUMN;
        if (l->size < 1 || (r == ROLE_SUM && !(in_a && in_b)) || (!in_a && !in_b)) return false;
        int k = p->count[r]++;
        for (; k > 0 && r != ROLE_SUM && p->letters[r][k - 1]->result > l->result; k--) p->letters[r][k] = p->letters[r][k - 1];
        p->letters[r][k] = l;
        p->size[r] *= l->size;
    }
    return true;
}

/* Element strides of the operand k (2: the result) for the roles in this order, as one list of dimensions. */
static int list_strides(const struct einsum *e, const struct product *p, int k, const enum role *roles, int count, int64_t *dims, int64_t *strides)
{
    int64_t step = 1, result[TENSOR_RANK_MAX];
    int n = 0;
    for (int d = e->rank - 1; d >= 0; d--)
        for (int i = 0; i < e->count; i++)
            if (e->letters[i].result == d) {
                result[d] = step;
                step *= e->letters[i].size;
            }
    for (int r = 0; r < count; r++)
        for (int i = 0; i < p->count[roles[r]]; i++) {
            const struct letter *l = p->letters[roles[r]][i];
            dims[n] = l->size;
            strides[n++] = k < 2 ? l->stride[k] : result[l->result];
        }
    return n;
}

static bool in_order(const int64_t *dims, const int64_t *strides, int n)
{
    int64_t step = 1;
    for (int d = n - 1; d >= 0; step *= dims[d], d--)
        if (strides[d] != step) return false;
    return true;
}

/* Every element of a list of dimensions: dense[i] = x[at of i], or the other way. */
static void move_order(float *dense, float *x, const int64_t *dims, const int64_t *strides, int n, bool back)
{
    int64_t index[LETTERS_MAX] = { 0 }, at = 0;
    const int64_t run = n ? dims[n - 1] : 1, step = n ? strides[n - 1] : 1;
    for (;;) {
        if (back)
            for (int64_t i = 0; i < run; i++) x[at + i * step] = dense[i];
        else
            for (int64_t i = 0; i < run; i++) dense[i] = x[at + i * step];
        dense += run;
        int d = n - 2;
        for (; d >= 0; d--) {
            at += strides[d];
            if (++index[d] < dims[d]) break;
            at -= strides[d] * dims[d];
            index[d] = 0;
        }
        if (d < 0) return;
    }
}

static const enum role sides[3][3] = { { ROLE_BATCH, ROLE_ROW, ROLE_SUM }, { ROLE_BATCH, ROLE_SUM, ROLE_COLUMN }, { ROLE_BATCH, ROLE_ROW, ROLE_COLUMN } };
static uint64_t whole(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static bool plan_product(const struct call *c, const struct einsum *e, struct product *p)
{
    int64_t dims[LETTERS_MAX], strides[LETTERS_MAX];
    uint64_t *const bytes[3] = { &p->a, &p->b, &p->y };
    if (!read_product(c, e, p)) return false;
    for (int k = 0; k < 3; k++) {
        const int n = list_strides(e, p, k, sides[k], 3, dims, strides);
        *bytes[k] = in_order(dims, strides, n) ? 0 : whole(k < 2 ? c->in[k]->bytes : c->out[0]->bytes);
    }
    p->panel = whole(c->k->gemm_f32_packed_bytes(p->size[ROLE_SUM], p->size[ROLE_COLUMN]));
    return true;
}

struct product_job { const struct call *c; const struct product *p; const float *a, *b; float *y; char *panels; int threads; };

static void product_part(void *ctx, int part, int parts)
{
    const struct product_job *j = ctx;
    const int64_t n = j->p->size[ROLE_COLUMN], m = j->p->size[ROLE_ROW], k = j->p->size[ROLE_SUM], batch = j->p->size[ROLE_BATCH];
    char *panel = j->panels + j->p->panel * (uint64_t)part;
    for (int64_t i = batch * part / parts, end = batch * (part + 1) / parts; i < end; i++) {
        j->c->k->gemm_f32_pack(panel, j->b + i * k * n, n, 1, k, n);
        j->c->k->gemm_f32(j->y + i * m * n, n, j->a + i * m * k, k, panel, m, n, k, NULL, j->threads);
    }
}

static void run_product(const struct call *c, const struct einsum *e, const struct product *p)
{
    int64_t dims[LETTERS_MAX], strides[LETTERS_MAX];
    char *at = c->scratch;
    float *place[3] = { c->in[0]->data, c->in[1]->data, c->out[0]->data };
    const uint64_t bytes[3] = { p->a, p->b, p->y };
    for (int k = 0; k < 3; k++) {
        if (!bytes[k]) continue;
        const int n = list_strides(e, p, k, sides[k], 3, dims, strides);
        if (k < 2) move_order((float *)(void *)at, place[k], dims, strides, n, false);
        place[k] = (float *)(void *)at;
        at += bytes[k];
    }
    const bool apart = p->size[ROLE_BATCH] >= c->threads;
    struct product_job j = { c, p, place[0], place[1], place[2], at, apart ? 1 : c->threads };
    parallel_for(apart ? c->threads : 1, apart ? c->threads : 1, product_part, &j);
    if (bytes[2]) move_order(place[2], c->out[0]->data, dims, strides, list_strides(e, p, 2, sides[2], 3, dims, strides), true);
}

static uint64_t scratch_einsum(const struct call *c)
{
    struct einsum e;
    struct product p;
    uint64_t panels, bytes;
    if (read_einsum(c, &e, NULL) || !plan_product(c, &e, &p)) return reals_scratch(c);
    return size_mul(p.panel, (uint64_t)(c->threads > 0 ? c->threads : 1), &panels) && size_add(panels, p.a + p.b + p.y, &bytes) ? bytes : UINT64_MAX;
}

static enum status eval_einsum(struct call *c, struct err *err)
{
    struct einsum e;
    struct letter *order[LETTERS_MAX];
    int n = 0, outer;
    struct reals r;
    enum status st = read_einsum(c, &e, err);
    struct product p;
    if (st) return st;
    if (plan_product(c, &e, &p)) {
        if (c->out[0]->bytes) run_product(c, &e, &p);
        return ST_OK;
    }
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
    { "Einsum", "", 12, 0, 1, TERMS_MAX, 1, 1, OP_PRODUCT_ALL, 0, infer_einsum, eval_einsum, scratch_einsum, NULL, NULL, NULL, NULL },
    { 0 }
};
