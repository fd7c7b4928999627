/* RNN, GRU and LSTM in f32 with the activations they usually have.
 *
 * What the inputs give to the gates is one product for all steps of all rows; a step is then one product of the states by the packed recurrent weights, to which the
 * inputs' part is added, and the cell's kernel. Both go through gemm_f32, so a row's bits depend neither on the others nor on threads; in a graph in bfloat16 they are linear layers on rounded weights. Rows step together while they
 * have no lengths of their own; with them each row goes by itself. Two directions share out two threads.
 *
 * Packed weights of a direction lie one behind the other: W [inputs, gates * hidden], then R [hidden, gates * hidden], of which a GRU that resets before
 * the product keeps the last gate apart. They were packed at load, or are packed into scratch where they are no constants. */
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "engine/operators/nn/recurrent.h"
#include "kernels/linear.h"

struct pack { struct recurrent_rows rows[RECURRENT_PARTS]; uint64_t at[RECURRENT_PARTS], bytes; };      /* offsets, and the size of one direction */

static uint64_t whole(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

struct recurrent_rows recurrent_rows_of(const struct node *n, enum recurrent_part part, int64_t hidden, int64_t gates)
{
    const bool apart = n->op->code == CELL_GRU && !node_int(n, "linear_before_reset", 0);
    if (part == RECURRENT_W) return (struct recurrent_rows){ 0, gates * hidden };
    if (part == RECURRENT_R) return (struct recurrent_rows){ 0, (apart ? 2 : gates) * hidden };
    return (struct recurrent_rows){ 2 * hidden, apart ? hidden : 0 };
}

static struct pack pack_of(const struct kernels *k, const struct node *n, int64_t inputs, int64_t hidden, int64_t gates)
{
    struct pack p = { .bytes = 0 };
    for (enum recurrent_part i = 0; i < RECURRENT_PARTS; i++) {
        p.rows[i] = recurrent_rows_of(n, i, hidden, gates);
        p.at[i] = p.bytes;
        if (p.rows[i].count) p.bytes += whole(k->gemm_f32_packed_bytes(i == RECURRENT_W ? inputs : hidden, p.rows[i].count));
    }
    return p;
}

static bool text_is(const struct string_ref *t, const char *want) { return t->length == strlen(want) && strncasecmp(t->text, want, t->length) == 0; }

static enum activation simple_curve(const struct node *n, int d)
{
    const struct onnx_attribute *names = node_attribute(n, "activations");
    if (!names || names->type != ONNX_STRINGS || d >= names->count) return ACT_TANH;
    return text_is(&names->strings[d], "Tanh") ? ACT_TANH : text_is(&names->strings[d], "Relu") ? ACT_RELU : ACT_NONE;
}

bool recurrent_is_plain(const struct node *n)
{
    static const char *const usual[3][3] = { { "Tanh" }, { "Sigmoid", "Tanh" }, { "Sigmoid", "Tanh", "Tanh" } };
    const struct onnx_attribute *names = node_attribute(n, "activations");
    const enum cell cell = (enum cell)n->op->code;
    if (node_attribute(n, "clip") || node_int(n, "input_forget", 0) || (n->in_count > IN_P && n->in[IN_P] >= 0)) return false;
    if (cell == CELL_RNN) return simple_curve(n, 0) != ACT_NONE && simple_curve(n, 1) != ACT_NONE;
    const int per = (int)cell + 1;
    for (int i = 0; names && names->type == ONNX_STRINGS && i < (int)names->count && i < 2 * per; i++)
        if (!text_is(&names->strings[i], usual[cell][i % per])) return false;
    return true;
}

bool recurrent_packable(const struct graph *g, const struct node *n)
{
    if (strcmp(n->op->name, "LSTM") && strcmp(n->op->name, "GRU") && strcmp(n->op->name, "RNN")) return false;
    for (int i = IN_W; i <= IN_R; i++)
        if (n->in[i] < 0 || g->values[n->in[i]].kind != VALUE_CONSTANT || g->values[n->in[i]].type.dtype != DT_F32 || g->values[n->in[i]].type.rank != 3 || !g->values[n->in[i]].type.bytes) return false;
    const int64_t *w = g->values[n->in[IN_W]].type.dims, *r = g->values[n->in[IN_R]].type.dims, gates = (int64_t[]){ 1, 3, 4 }[n->op->code];
    return recurrent_is_plain(n) && w[0] == r[0] && w[0] <= 2 && w[1] == r[1] && w[1] == gates * r[2];
}

uint64_t recurrent_pack_bytes(const struct kernels *k, const struct node *n, const int64_t *w, const int64_t *r)
{
    return (uint64_t)w[0] * pack_of(k, n, w[2], r[2], w[1] / r[2]).bytes;
}

void recurrent_pack(const struct kernels *k, const struct node *n, void *packed, const float *w, const int64_t *w_dims, const float *r, const int64_t *r_dims)
{
    const int64_t inputs = w_dims[2], hidden = r_dims[2], columns = w_dims[1];
    const struct pack p = pack_of(k, n, inputs, hidden, columns / hidden);
    for (int64_t d = 0; d < w_dims[0]; d++)
        for (enum recurrent_part i = 0; i < RECURRENT_PARTS; i++) {
            const int64_t depth = i == RECURRENT_W ? inputs : hidden;
            const float *from = (i == RECURRENT_W ? w : r) + (d * columns + p.rows[i].first) * depth;
            if (p.rows[i].count) k->gemm_f32_pack((char *)packed + (uint64_t)d * p.bytes + p.at[i], from, 1, depth, depth, p.rows[i].count);
        }
}

/* ---- one direction ---- */
struct direction {
    const struct call *c;
    const struct recurrent *r;
    const char *packed;
    struct linear_layer *const *layers;  /* in place of `packed`, or NULL */
    void   *scratch;                     /* theirs */
    struct pack pack;
    int     d, threads;
    float  *gates;                       /* [steps * batch, gates * hidden] what the inputs give, in the order of X's rows */
    float  *sums, *h, *cell, *next;      /* [batch, gates * hidden]; [batch, hidden] each */
    float  *bias, *bias_h;               /* [gates * hidden] of the input's product; of the state's, or NULL */
};

static uint64_t direction_floats(const struct recurrent *r)
{
    uint64_t rows, all, columns = (uint64_t)r->gates * (uint64_t)r->hidden, state;
    if (!size_mul((uint64_t)r->steps, (uint64_t)r->batch, &rows) || !size_add(rows, (uint64_t)r->batch + 2, &rows) || !size_mul(rows, columns, &all)) return UINT64_MAX;
    if (!size_mul((uint64_t)r->batch, (uint64_t)r->hidden * 3, &state) || !size_add(all, state, &all) || !size_add(all, 7 * 15, &all)) return UINT64_MAX;
    return all;
}

/* What the layers of a direction work in. */
static uint64_t layers_scratch(const struct call *c, const struct recurrent *r, int threads)
{
    uint64_t most = 0;
    for (int i = 0; c->node->recurrent && i < r->directions * RECURRENT_PARTS; i++) {
        const struct linear_layer *l = c->node->recurrent[i];
        const uint64_t bytes = l ? linear_scratch(l, i % RECURRENT_PARTS == RECURRENT_W ? r->steps * r->batch : r->batch, threads) : 0;
        if (bytes > most) most = bytes;
    }
    return whole(most);
}

static int threads_of(const struct call *c, const struct recurrent *r) { return r->directions > 1 ? 1 : c->threads; }

uint64_t recurrent_f32_scratch(const struct call *c, const struct recurrent *r)
{
    uint64_t bytes = direction_floats(r), packed = 0;
    if (bytes == UINT64_MAX || !size_mul(bytes, sizeof(float) * (uint64_t)r->directions, &bytes)) return UINT64_MAX;
    if (c->node->recurrent) packed = layers_scratch(c, r, threads_of(c, r)) * (uint64_t)r->directions;
    else if (!c->node->packed) packed = recurrent_pack_bytes(c->k, c->node, c->in[IN_W]->dims, c->in[IN_R]->dims);
    return size_add(bytes, packed + 64, &bytes) ? bytes : UINT64_MAX;
}

static float *take(float **at, int64_t n)
{
    float *p = *at;
    *at += (n + 15) & ~(int64_t)15;
    return p;
}

/* A GRU that resets after the product keeps its last gate's recurrent bias beside that product; else all biases go in with the inputs. */
static void make_bias(struct direction *q)
{
    const int64_t n = q->r->hidden, columns = q->r->gates * n;
    const float *b = call_input(q->c, IN_B) ? (const float *)q->c->in[IN_B]->data + q->d * 2 * columns : NULL;
    const bool apart = b && q->r->cell == CELL_GRU && !q->pack.rows[RECURRENT_LAST].count;
    for (int64_t i = 0; i < columns; i++) {
        const bool beside = apart && i >= 2 * n;
        q->bias[i] = !b ? 0 : beside ? b[i] : b[i] + b[columns + i];
        q->bias_h[i] = beside ? b[columns + i] : 0;
    }
    if (!apart) q->bias_h = NULL;
}

/* y [rows, the part's rows] = x [rows, ..], ldx apart, by a part of the weights */
static void product(const struct direction *q, enum recurrent_part part, float *y, const float *x, int64_t ldx, int64_t rows, const struct gemm_epilogue *ep)
{
    const int64_t columns = q->pack.rows[part].count, depth = part == RECURRENT_W ? q->r->inputs : q->r->hidden;
    if (q->layers) linear_run(q->layers[part], y, columns, x, ldx, rows, ep, q->scratch, q->threads);
    else q->c->k->gemm_f32(y, columns, x, ldx, q->packed + q->pack.at[part], rows, columns, depth, ep, q->threads);
}

/* Rows [b, b + count) at step t. */
static void step_rows(struct direction *q, int64_t t, int64_t b, int64_t count)
{
    const struct recurrent *r = q->r;
    const struct kernels *k = q->c->k;
    const int64_t n = r->hidden, columns = r->gates * n, apart = r->batch_first ? r->steps * columns : columns;
    const float *x = q->gates + (r->batch_first ? b * r->steps + t : t * r->batch + b) * columns;
    float *h = q->h + b * n, *sums = q->sums + b * columns, *next = q->next + b * n;
    struct gemm_epilogue with_x = { .residual = x, .ldr = apart }, with_bias = { .bias = q->bias_h };
    if (r->cell == CELL_LSTM) {
        product(q, RECURRENT_R, sums, h, n, count, &with_x);
        k->lstm_cell_f32(h, q->cell + b * n, sums, count, n);
    } else if (r->cell == CELL_RNN) {
        with_x.act.kind = simple_curve(q->c->node, q->d);
        product(q, RECURRENT_R, next, h, n, count, &with_x);
        memcpy(h, next, (size_t)(count * n) * sizeof *h);
    } else if (!q->pack.rows[RECURRENT_LAST].count) {
        product(q, RECURRENT_R, sums, h, n, count, &with_bias);
        k->gru_cell_f32(h, x, apart, sums, count, n);
    } else {
        with_x.act.kind = ACT_SIGMOID;
        product(q, RECURRENT_R, sums, h, n, count, &with_x);
        for (int64_t i = 0; i < count; i++) k->mul_f32(sums + (2 * i + 1) * n, sums + (2 * i + 1) * n, h + i * n, n, 1);      /* reset times h */
        struct gemm_epilogue last = { .residual = x + 2 * n, .ldr = apart, .act = { .kind = ACT_TANH } };
        product(q, RECURRENT_LAST, next, sums + n, 2 * n, count, &last);
        k->blend_f32(h, sums, 2 * n, next, count, n);
    }
    float *y = q->c->out[0] ? q->c->out[0]->data : NULL;
    for (int64_t i = b; y && i < b + count; i++)
        memcpy(y + (r->batch_first ? (i * r->steps + t) * r->directions + q->d : (t * r->directions + q->d) * r->batch + i) * n, q->h + i * n, (size_t)n * sizeof *y);
}

static int64_t length_of(const struct direction *q, int64_t b)
{
    int32_t n;
    if (!call_input(q->c, IN_LENGTHS)) return q->r->steps;
    memcpy(&n, (const char *)q->c->in[IN_LENGTHS]->data + b * 4, 4);
    return n < 0 ? 0 : n > q->r->steps ? q->r->steps : n;
}

static void copy_state(const struct direction *q, float *own, struct operand *o, bool out)
{
    const int64_t n = q->r->hidden;
    for (int64_t b = 0; b < q->r->batch; b++) {
        float *there = (float *)o->data + recurrent_state_at(q->r, q->d, b);
        memcpy(out ? there : own + b * n, out ? own + b * n : there, (size_t)n * sizeof *own);
    }
}

static void run_direction(struct direction *q)
{
    const struct call *c = q->c;
    const struct recurrent *r = q->r;
    const int64_t rows = r->steps * r->batch;
    const bool back = r->reverse || q->d == 1;
    make_bias(q);
    struct gemm_epilogue ep = { .bias = q->bias };
    product(q, RECURRENT_W, q->gates, c->in[IN_X]->data, r->inputs, rows, &ep);
    memset(q->h, 0, (size_t)(r->batch * r->hidden) * sizeof *q->h);
    memset(q->cell, 0, (size_t)(r->batch * r->hidden) * sizeof *q->cell);
    if (call_input(c, IN_H)) copy_state(q, q->h, c->in[IN_H], false);
    if (r->cell == CELL_LSTM && call_input(c, IN_C)) copy_state(q, q->cell, c->in[IN_C], false);
    if (!call_input(c, IN_LENGTHS))
        for (int64_t k = 0; k < r->steps; k++) step_rows(q, back ? r->steps - 1 - k : k, 0, r->batch);
    else
        for (int64_t b = 0; b < r->batch; b++)
            for (int64_t k = 0, length = length_of(q, b); k < length; k++) step_rows(q, back ? length - 1 - k : k, b, 1);
    if (c->out_count > 1 && c->out[1]) copy_state(q, q->h, c->out[1], true);
    if (c->out_count > 2 && c->out[2]) copy_state(q, q->cell, c->out[2], true);
}

static void direction_part(void *ctx, int part, int parts)
{
    (void)parts;
    run_direction((struct direction *)ctx + part);
}

void recurrent_f32_eval(struct call *c, const struct recurrent *r)
{
    struct direction q[2];
    const int64_t columns = r->gates * r->hidden;
    float *at = c->scratch;
    const char *packed = c->node->packed;
    char *own = (char *)(at + (uint64_t)r->directions * direction_floats(r));
    own += -(uintptr_t)own & 63;
    if (c->out[0] && call_input(c, IN_LENGTHS)) memset(c->out[0]->data, 0, c->out[0]->bytes);
    if (!packed && !c->node->recurrent) {
        recurrent_pack(c->k, c->node, own, c->in[IN_W]->data, c->in[IN_W]->dims, c->in[IN_R]->data, c->in[IN_R]->dims);
        packed = own;
    }
    const struct pack p = pack_of(c->k, c->node, r->inputs, r->hidden, r->gates);
    for (int d = 0; d < r->directions; d++, at += direction_floats(r)) {
        q[d] = (struct direction){ .c = c, .r = r, .pack = p, .d = d, .threads = threads_of(c, r) };
        if (c->node->recurrent) q[d].layers = c->node->recurrent + d * RECURRENT_PARTS, q[d].scratch = own + layers_scratch(c, r, threads_of(c, r)) * (uint64_t)d;
        else q[d].packed = packed + (uint64_t)d * p.bytes;
        float *mine = at;
        q[d].gates = take(&mine, r->steps * r->batch * columns);
        q[d].sums = take(&mine, r->batch * columns);
        q[d].bias = take(&mine, columns);
        q[d].bias_h = take(&mine, columns);
        q[d].h = take(&mine, r->batch * r->hidden);
        q[d].cell = take(&mine, r->batch * r->hidden);
        q[d].next = take(&mine, r->batch * r->hidden);
    }
    if (r->directions > 1) parallel_for(c->threads, 2, direction_part, q);
    else run_direction(q);
}
