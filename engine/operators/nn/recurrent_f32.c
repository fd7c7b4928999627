/* RNN, GRU and LSTM in f32 with the activations they usually have.
 *
 * What the inputs give to the gates is one product for all steps of all rows; a step is then one product of the states by the packed recurrent weights, to which the
 * inputs' part is added, and the cell's kernel. Both go through gemm_f32, so a row's bits depend neither on the others nor on threads; in a graph in bfloat16 they are linear layers on rounded weights. Rows step together while they
 * have no lengths of their own; with them each row goes by itself.
 *
 * A team of threads shares out the hidden units: each takes the gates and the cells of its own, and all meet once a step (a GRU that resets before the product twice). So the rows of W and R
 * are put in another order: BLOCK units at a time, all gates of those side by side, which also makes the columns of a thread one span. The last gate of a GRU that resets before the product comes behind
 * all blocks; of R it is a part of its own. Two directions go by at once, each with its half of the team.
 *
 * Packed weights of a direction lie one behind the other: W [inputs, gates * hidden], then R [hidden, gates * hidden]. They were packed at load, or are packed into scratch where they are no constants. */
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "engine/operators/nn/recurrent.h"
#include "kernels/linear.h"

struct pack { int64_t columns[RECURRENT_PARTS]; uint64_t at[RECURRENT_PARTS], bytes; };      /* offsets, and the size of one direction */

enum { BLOCK = 32 };                     /* units: whole panels at every level, whatever the number of gates */
static const int64_t TEAM_MIN = 32768;   /* multiply-adds of a step from which on threads gain more than meeting costs */

static uint64_t whole(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static bool last_apart(const struct node *n) { return n->op->code == CELL_GRU && !node_int(n, "linear_before_reset", 0); }
static int64_t gates_together(const struct node *n, int64_t gates) { return last_apart(n) ? 2 : gates; }

int64_t recurrent_rows(const struct node *n, enum recurrent_part part, int64_t hidden, int64_t gates)
{
    if (part == RECURRENT_LAST) return last_apart(n) ? hidden : 0;
    return (part == RECURRENT_W ? gates : gates_together(n, gates)) * hidden;
}

int64_t recurrent_row(const struct node *n, enum recurrent_part part, int64_t hidden, int64_t gates, int64_t place)
{
    const int64_t together = gates_together(n, gates);
    if (part == RECURRENT_LAST) return 2 * hidden + place;
    if (place >= together * hidden) return place;
    const int64_t first = place / (BLOCK * together) * BLOCK, units = hidden - first < BLOCK ? hidden - first : BLOCK, within = place - first * together;
    return within / units * hidden + first + within % units;
}

static struct pack pack_of(const struct kernels *k, const struct node *n, int64_t inputs, int64_t hidden, int64_t gates)
{
    struct pack p = { .bytes = 0 };
    for (enum recurrent_part i = 0; i < RECURRENT_PARTS; i++) {
        p.columns[i] = recurrent_rows(n, i, hidden, gates);
        p.at[i] = p.bytes;
        if (p.columns[i]) p.bytes += whole(k->gemm_f32_packed_bytes(i == RECURRENT_W ? inputs : hidden, p.columns[i]));
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

uint64_t recurrent_room(const int64_t *w, const int64_t *r)
{
    uint64_t floats;
    return size_mul((uint64_t)w[1], (uint64_t)(w[2] > r[2] ? w[2] : r[2]), &floats) ? floats : UINT64_MAX;
}

void recurrent_pack(const struct kernels *k, const struct node *n, void *packed, float *room, const float *w, const int64_t *w_dims, const float *r, const int64_t *r_dims)
{
    const int64_t inputs = w_dims[2], hidden = r_dims[2], rows = w_dims[1], gates = rows / hidden;
    const struct pack p = pack_of(k, n, inputs, hidden, gates);
    for (int64_t d = 0; d < w_dims[0]; d++)
        for (enum recurrent_part i = 0; i < RECURRENT_PARTS; i++) {
            const int64_t depth = i == RECURRENT_W ? inputs : hidden;
            const float *from = (i == RECURRENT_W ? w : r) + d * rows * depth;
            if (!p.columns[i]) continue;
            for (int64_t c = 0; c < p.columns[i]; c++) memcpy(room + c * depth, from + recurrent_row(n, i, hidden, gates, c) * depth, (size_t)depth * sizeof *room);
            k->gemm_f32_pack((char *)packed + (uint64_t)d * p.bytes + p.at[i], room, 1, depth, depth, p.columns[i]);
        }
}

/* ---- one direction ---- */
struct direction {
    const struct call *c;
    const struct recurrent *r;
    const char *packed;
    struct linear_layer *const *layers;  /* in place of `packed`, or NULL */
    struct pack pack;
    int     d;
    float  *gates;                       /* [steps * batch, gates * hidden] what the inputs give, in the order of X's rows */
    float  *sums;                        /* [batch, the columns of R] */
    float  *h[2], *cell;                 /* [batch, hidden] each; a step reads one h and writes the other */
    float  *reset, *next;                /* [batch, hidden] each, of a GRU that resets before the product */
    float  *bias, *bias_h;               /* [gates * hidden] of the input's product; of the state's, or NULL */
    struct team_gate gate;
};

static uint64_t direction_floats(const struct recurrent *r)
{
    uint64_t rows, all, columns = (uint64_t)r->gates * (uint64_t)r->hidden, state;
    if (!size_mul((uint64_t)r->steps, (uint64_t)r->batch, &rows) || !size_add(rows, (uint64_t)r->batch + 2, &rows) || !size_mul(rows, columns, &all)) return UINT64_MAX;
    if (!size_mul((uint64_t)r->batch, (uint64_t)r->hidden * 5, &state) || !size_add(all, state, &all) || !size_add(all, 9 * 15, &all)) return UINT64_MAX;
    return all;
}

static int team_of(const struct call *c, const struct recurrent *r)
{
    const int64_t blocks = (r->hidden + BLOCK - 1) / BLOCK, step = r->batch * r->hidden * r->gates * r->hidden;
    const int64_t most = c->threads < r->directions * blocks ? c->threads : r->directions * blocks;
    if (step >= TEAM_MIN) return (int)most;
    return r->directions > 1 && most > 1 && step * r->steps >= TEAM_MIN ? 2 : 1;
}

/* What the layers of a part of the team work in, and all of it: the inputs' product comes before the steps. */
static uint64_t part_scratch(const struct call *c, const struct recurrent *r)
{
    uint64_t most = 0;
    for (int i = 0; c->node->recurrent && i < r->directions * RECURRENT_PARTS; i++) {
        const struct linear_layer *l = c->node->recurrent[i];
        const uint64_t bytes = l && i % RECURRENT_PARTS != RECURRENT_W ? linear_columns_scratch(l, r->batch) : 0;
        if (bytes > most) most = bytes;
    }
    return whole(most);
}
static uint64_t layers_scratch(const struct call *c, const struct recurrent *r)
{
    uint64_t most = part_scratch(c, r) * (uint64_t)team_of(c, r);
    for (int d = 0; c->node->recurrent && d < r->directions; d++) {
        const uint64_t bytes = linear_scratch(c->node->recurrent[d * RECURRENT_PARTS + RECURRENT_W], r->steps * r->batch, c->threads);
        if (bytes > most) most = bytes;
    }
    return whole(most);
}

uint64_t recurrent_f32_scratch(const struct call *c, const struct recurrent *r)
{
    uint64_t bytes = direction_floats(r), packed = 0, room = 0;
    if (bytes == UINT64_MAX || !size_mul(bytes, sizeof(float) * (uint64_t)r->directions, &bytes)) return UINT64_MAX;
    if (c->node->recurrent) packed = layers_scratch(c, r);
    else if (!c->node->packed) {
        packed = recurrent_pack_bytes(c->k, c->node, c->in[IN_W]->dims, c->in[IN_R]->dims);
        if (!size_mul(recurrent_room(c->in[IN_W]->dims, c->in[IN_R]->dims), sizeof(float), &room)) return UINT64_MAX;
    }
    return size_add(bytes, packed + 64, &bytes) && size_add(bytes, room, &bytes) ? bytes : UINT64_MAX;
}

static float *take(float **at, int64_t n)
{
    float *p = *at;
    *at += (n + 15) & ~(int64_t)15;
    return p;
}

/* In the order of the columns. A GRU that resets after the product keeps its last gate's recurrent bias beside that product; else all biases go in with the inputs. */
static void make_bias(struct direction *q)
{
    const struct node *node = q->c->node;
    const int64_t n = q->r->hidden, columns = q->r->gates * n;
    const float *b = call_input(q->c, IN_B) ? (const float *)q->c->in[IN_B]->data + q->d * 2 * columns : NULL;
    const bool apart = b && q->r->cell == CELL_GRU && !last_apart(node);
    for (int64_t i = 0; i < columns; i++) {
        const int64_t row = recurrent_row(node, RECURRENT_W, n, q->r->gates, i);
        const bool beside = apart && row >= 2 * n;
        q->bias[i] = !b ? 0 : beside ? b[row] : b[row] + b[columns + row];
        q->bias_h[i] = beside ? b[columns + row] : 0;
    }
    if (!apart) q->bias_h = NULL;
}

/* What the inputs give to all gates of all steps. */
static void input_product(const struct direction *q, void *scratch)
{
    const struct recurrent *r = q->r;
    const struct gemm_epilogue ep = { .bias = q->bias };
    const int64_t columns = q->pack.columns[RECURRENT_W], rows = r->steps * r->batch;
    const float *x = q->c->in[IN_X]->data;
    if (q->layers) linear_run(q->layers[RECURRENT_W], q->gates, columns, x, r->inputs, rows, &ep, scratch, q->c->threads);
    else q->c->k->gemm_f32(q->gates, columns, x, r->inputs, q->packed + q->pack.at[RECURRENT_W], rows, columns, r->inputs, &ep, q->c->threads);
}

/* ---- a thread's share of it: hidden units [from, to), from whole blocks ---- */
struct share { struct direction *q; int parts; int64_t from, to; void *scratch; };

/* y = x [rows, hidden] by the share's columns of a part of R; ep: of all columns */
static void product(const struct share *s, enum recurrent_part part, float *y, const float *x, int64_t rows, const struct gemm_epilogue *ep)
{
    const struct direction *q = s->q;
    const struct kernels *k = q->c->k;
    const int64_t columns = q->pack.columns[part], n = q->r->hidden, each = columns / n, from = s->from * each, to = s->to * each;
    if (from >= to) return;              /* more threads than blocks */
    if (q->layers) {
        linear_run_columns(q->layers[part], y, columns, x, n, rows, ep, s->scratch, from, to);
        return;
    }
    const struct gemm_epilogue own = gemm_epilogue_from(ep, from);
    k->gemm_f32(y + from, columns, x, n, q->packed + q->pack.at[part] + k->gemm_f32_packed_bytes(n, from), rows, to - from, n, &own, 1);
}

/* Rows [b, b + count) at step t: from h[now] to the other one. */
static void step_rows(const struct share *s, int64_t t, int64_t b, int64_t count, int now)
{
    const struct direction *q = s->q;
    const struct recurrent *r = q->r;
    const struct kernels *k = q->c->k;
    const int64_t n = r->hidden, columns = r->gates * n, ldr = q->pack.columns[RECURRENT_R], apart = r->batch_first ? r->steps * columns : columns;
    const float *x = q->gates + (r->batch_first ? b * r->steps + t : t * r->batch + b) * columns, *h = q->h[now] + b * n;
    float *sums = q->sums + b * ldr, *to = q->h[!now] + b * n, *reset = q->reset + b * n, *next = q->next + b * n;
    struct gemm_epilogue with_x = { .residual = x, .ldr = apart };
    const struct gemm_epilogue with_bias = { .bias = q->bias_h };
    if (r->cell == CELL_RNN) {
        with_x.act.kind = simple_curve(q->c->node, q->d);
        product(s, RECURRENT_R, to, h, count, &with_x);
    } else if (r->cell == CELL_LSTM) product(s, RECURRENT_R, sums, h, count, &with_x);
    else if (!q->pack.columns[RECURRENT_LAST]) product(s, RECURRENT_R, sums, h, count, &with_bias);
    else {
        with_x.act.kind = ACT_SIGMOID;
        product(s, RECURRENT_R, sums, h, count, &with_x);
    }
    for (int64_t u = s->from; r->cell != CELL_RNN && u < s->to; u += BLOCK) {
        const int64_t units = s->to - u < BLOCK ? s->to - u : BLOCK;
        if (r->cell == CELL_LSTM) k->lstm_cell_f32(to + u, q->cell + b * n + u, n, sums + 4 * u, ldr, count, units);
        else if (!q->pack.columns[RECURRENT_LAST]) k->gru_cell_f32(to + u, h + u, n, x + 3 * u, apart, sums + 3 * u, ldr, count, units);
        else
            for (int64_t i = 0; i < count; i++) k->mul_f32(reset + i * n + u, sums + i * ldr + 2 * u + units, h + i * n + u, units, 1);
    }
    if (q->pack.columns[RECURRENT_LAST]) {
        const struct gemm_epilogue last = { .residual = x + 2 * n, .ldr = apart, .act = { .kind = ACT_TANH } };
        team_meet(&s->q->gate, s->parts);
        product(s, RECURRENT_LAST, next, reset, count, &last);
        for (int64_t u = s->from; u < s->to; u += BLOCK) k->blend_f32(to + u, h + u, next + u, n, sums + 2 * u, ldr, count, s->to - u < BLOCK ? s->to - u : BLOCK);
    }
    float *y = q->c->out[0] ? q->c->out[0]->data : NULL;
    for (int64_t i = b; y && i < b + count; i++)
        memcpy(y + (r->batch_first ? (i * r->steps + t) * r->directions + q->d : (t * r->directions + q->d) * r->batch + i) * n + s->from, q->h[!now] + i * n + s->from, (size_t)(s->to - s->from) * sizeof *y);
    team_meet(&s->q->gate, s->parts);
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

/* Afterwards the last states are in h[0]. */
static void run_share(const struct share *s)
{
    const struct direction *q = s->q;
    const struct recurrent *r = q->r;
    const bool back = r->reverse || q->d == 1, together = !call_input(q->c, IN_LENGTHS);
    for (int64_t b = 0; b < r->batch; b += together ? r->batch : 1) {
        const int64_t length = together ? r->steps : length_of(q, b), count = together ? r->batch : 1;
        for (int64_t k = 0; k < length; k++) step_rows(s, back ? length - 1 - k : k, b, count, k % 2);
        for (int64_t i = b; length % 2 && i < b + count; i++) memcpy(q->h[0] + i * r->hidden + s->from, q->h[1] + i * r->hidden + s->from, (size_t)(s->to - s->from) * sizeof *q->h[0]);
    }
}

struct whole_team { struct direction *q; int directions; char *scratch; uint64_t part_bytes; };

static void team_part(void *ctx, int part, int parts)
{
    const struct whole_team *w = ctx;
    const bool alone = parts < w->directions;        /* for both directions */
    for (int d = 0; d < w->directions; d++) {
        if (!alone && part % w->directions != d) continue;
        const int of = alone ? 1 : (parts - d + w->directions - 1) / w->directions, place = alone ? 0 : part / w->directions;
        const int64_t n = w->q[d].r->hidden, blocks = (n + BLOCK - 1) / BLOCK, from = blocks * place / of * BLOCK, to = blocks * (place + 1) / of * BLOCK;
        const struct share s = { .q = w->q + d, .parts = of, .from = from, .to = to < n ? to : n, .scratch = w->scratch + w->part_bytes * (uint64_t)part };
        run_share(&s);
    }
}

void recurrent_f32_eval(struct call *c, const struct recurrent *r)
{
    struct direction q[2];
    const int64_t columns = r->gates * r->hidden, state = r->batch * r->hidden;
    float *at = c->scratch;
    const char *packed = c->node->packed;
    char *own = (char *)(at + (uint64_t)r->directions * direction_floats(r));
    own += -(uintptr_t)own & 63;
    if (c->out[0] && call_input(c, IN_LENGTHS)) memset(c->out[0]->data, 0, c->out[0]->bytes);
    if (!packed && !c->node->recurrent) {
        float *room = (float *)(void *)(own + recurrent_pack_bytes(c->k, c->node, c->in[IN_W]->dims, c->in[IN_R]->dims));
        recurrent_pack(c->k, c->node, own, room, c->in[IN_W]->data, c->in[IN_W]->dims, c->in[IN_R]->data, c->in[IN_R]->dims);
        packed = own;
    }
    const struct pack p = pack_of(c->k, c->node, r->inputs, r->hidden, r->gates);
    for (int d = 0; d < r->directions; d++, at += direction_floats(r)) {
        q[d] = (struct direction){ .c = c, .r = r, .pack = p, .d = d };
        if (c->node->recurrent) q[d].layers = c->node->recurrent + d * RECURRENT_PARTS;
        else q[d].packed = packed + (uint64_t)d * p.bytes;
        float *mine = at;
        q[d].gates = take(&mine, r->steps * r->batch * columns);
        q[d].sums = take(&mine, r->batch * columns);
        q[d].bias = take(&mine, columns);
        q[d].bias_h = take(&mine, columns);
        float **const states[] = { &q[d].h[0], &q[d].h[1], &q[d].cell, &q[d].reset, &q[d].next };
        for (int i = 0; i < 5; i++) *states[i] = take(&mine, state);
        make_bias(q + d);
        input_product(q + d, own);
        memset(q[d].h[0], 0, (size_t)state * sizeof *q[d].h[0]);
        memset(q[d].cell, 0, (size_t)state * sizeof *q[d].cell);
        if (call_input(c, IN_H)) copy_state(q + d, q[d].h[0], c->in[IN_H], false);
        if (r->cell == CELL_LSTM && call_input(c, IN_C)) copy_state(q + d, q[d].cell, c->in[IN_C], false);
    }
    struct whole_team w = { .q = q, .directions = r->directions, .scratch = own, .part_bytes = part_scratch(c, r) };
    parallel_team(team_of(c, r), team_part, &w);
    for (int d = 0; d < r->directions; d++) {
        if (c->out_count > 1 && c->out[1]) copy_state(q + d, q[d].h[0], c->out[1], true);
        if (c->out_count > 2 && c->out[2]) copy_state(q + d, q[d].cell, c->out[2], true);
    }
}
