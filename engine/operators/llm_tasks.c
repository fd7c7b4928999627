/* The operators of language models as tasks of a GPU. Everything between them is float (in networks that draw halves, whose matrices are of the same type); matrices are as their file has them. A few rows are multiplied with the matrix as it lies (every number of
 * it is read once for up to eight of them), many through the tensor cores: rounded to what a matrix of halves holds, of blocks to bfloat16. Float matrices are never rounded for. */
#include <string.h>

#include "engine/graph/tasks.h"
#include "engine/operators/llm.h"

enum { FEW_ROWS = 8 };

static int64_t columns_of(const struct operand *o) { return o->rank ? o->dims[o->rank - 1] : 1; }
static int64_t rows_of(const struct operand *o) { return columns_of(o) ? (int64_t)operand_count(o) / columns_of(o) : 0; }

/* ---- tables ---- */
void tasks_embed(struct call *c, struct task_list *l)
{
    const struct embed_spec *s = c->node->spec;
    if (!s->device.at) {
        task_refuse(l);
        return;
    }
    struct gpu_task *t = task_add(l, GPU_EMBED);
    task_value(l, t, c->in[0]);
    task_device(l, t, s->device.at, GPU_U8);
    task_value(l, t, c->out[0]);
    t->u.embed = (struct gpu_embed){ .w = s->device.m, .count = (int64_t)operand_count(c->in[0]), .shift = s->shift, .scale = s->scale };
}

void tasks_rope_table(struct call *c, struct task_list *l)
{
    const struct rope_table_spec *s = c->node->spec;
    struct gpu_task *t = task_add(l, GPU_ROPE_TABLE);
    task_value(l, t, c->in[0]);
    task_value(l, t, c->out[0]);
    task_floats(l, t, c->node, 0, s->frequency, (uint64_t)s->rotary / 2, GPU_F32);
    task_floats(l, t, c->node, 1, s->frequency_long, (uint64_t)s->rotary / 2, GPU_F32);
    t->u.rope_table = (struct gpu_rope_table){ .count = (int64_t)operand_count(c->in[0]), .rotary = s->rotary, .factor = s->factor, .factor_long = s->factor_long };
}

void tasks_norm(struct call *c, struct task_list *l)
{
    const struct norm_spec *s = c->node->spec;
    const int64_t columns = columns_of(c->in[0]);
    const uint64_t count = (uint64_t)(s->whole ? columns : s->width);
    if (!s->width || columns % s->width) {
        task_refuse(l);
        return;
    }
    struct gpu_task *t = task_add(l, GPU_NORM_ROWS);
    task_value(l, t, c->in[0]);
    task_value(l, t, c->out[0]);
    task_floats(l, t, c->node, 0, s->scale, count, GPU_F32);
    task_floats(l, t, c->node, 1, s->bias, count, GPU_F32);
    t->u.norm_rows = (struct gpu_norm_rows){ .rows = (int64_t)operand_count(c->in[0]) / s->width, .n = s->width, .epsilon = s->epsilon, .rms = !s->layer, .periods = s->whole ? columns / s->width : 0 };
}

void tasks_take_rows(struct call *c, struct task_list *l)
{
    struct gpu_task *t = task_add(l, GPU_GATHER);
    task_value(l, t, c->in[0]);
    task_value(l, t, c->in[1]);
    task_value(l, t, c->out[0]);
    task_fault(l, t);
    t->u.gather = (struct gpu_gather){ .size = gpu_type_bytes(t->type[0]), .outer = 1, .n = rows_of(c->in[0]), .inner = columns_of(c->in[0]), .count = (int64_t)operand_count(c->in[1]) };
}

/* ---- products ---- */
/* What a product of many rows reads its matrix and x as; a matrix whose rows are filled up is not for the library. */
static int product_type(const struct gpu_matrix *w) { return w->block == BLOCK_F32 ? GPU_F32 : w->block == BLOCK_F16 ? GPU_F16 : GPU_BF16; }
static bool is_padded(const struct gpu_matrix *w) { return gpu_block_is_plain(w->block) && w->row_bytes > w->k * (w->block == BLOCK_F32 ? 4 : 2); }
/* The kernel of few rows reads floats, and a matrix in whole chunks. */
static bool is_for_few(const struct task_list *l, const struct gpu_matrix *w, int64_t m) { return l->float_type == GPU_F32 && (is_padded(w) || (m <= FEW_ROWS && w->k % GPU_CHUNK == 0)); }

/* A result of a product: a value, or a buffer of the node's own. */
struct result { const struct operand *value; int own; };

static void put_result(struct task_list *l, struct gpu_task *t, struct result y)
{
    if (y.value) task_value(l, t, y.value);
    else task_own_operand(l, t, y.own, GPU_F32);
}

/* x as `type`, once for all matrices that want it so: -1: as it is. */
static int rounded(struct task_list *l, const struct operand *x, int type, int known[GPU_TYPE_COUNT])
{
    if (type == l->float_type) return -1;
    if (known[type]) return known[type] - 1;
    const int own = task_own(l, operand_count(x) * 2);
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    task_value(l, t, x);
    task_own_operand(l, t, own, type);
    t->u.pointwise = (struct gpu_pointwise){ .function = GPU_COPY, .inputs = 1, .count = (int64_t)operand_count(x) };
    known[type] = own + 1;
    return own;
}

/* Many rows: y = act(x W' + bias + residual). unpacked: the node's own buffer for a matrix of blocks, made by the first that needs it. */
static void product(struct task_list *l, const struct call *c, const struct device_matrix *w, int slot, const float *bias, struct result y, const struct operand *residual, struct activation_spec act, int known[GPU_TYPE_COUNT])
{
    const int type = product_type(&w->m), x = rounded(l, c->in[0], type, known);
    int unpacked = -1;
    if (!gpu_block_is_plain(w->m.block)) {
        unpacked = task_own(l, (uint64_t)w->m.n * (uint64_t)w->m.k * 2);
        struct gpu_task *t = task_add(l, GPU_EMBED);
        task_device(l, t, NULL, GPU_I32);
        task_device(l, t, w->at, GPU_U8);
        task_own_operand(l, t, unpacked, GPU_BF16);
        t->u.embed = (struct gpu_embed){ .w = w->m, .count = w->m.n, .scale = 1 };
    }
    struct gpu_task *t = task_add(l, GPU_PRODUCT);
    if (x < 0) task_value(l, t, c->in[0]);
    else task_own_operand(l, t, x, type);
    if (unpacked < 0) task_device(l, t, w->at, type);
    else task_own_operand(l, t, unpacked, type);
    put_result(l, t, y);
    task_floats(l, t, c->node, slot, bias, (uint64_t)w->m.n, l->float_type);
    if (residual) task_value(l, t, residual);
    t->u.product = (struct gpu_product){ .m = rows_of(c->in[0]), .n = w->m.n, .k = w->m.k, .batch = 1, .alpha = 1, .b_turned = true, .has_bias = bias, .has_residual = residual, .act = act };
}

/* The operands of a product of few rows, in order: those not there are NULL. */
struct few { const struct operand *x; int own_x /* + 1 */; struct result y[GPU_PARTS]; void *w[GPU_PARTS]; const float *bias[GPU_PARTS]; uint64_t bias_count[GPU_PARTS]; const struct operand *residual; int chosen /* + 1 */; };

static struct gpu_task *few_rows(struct task_list *l, const struct node *n, const struct few *f, int parts)
{
    struct gpu_task *t = task_add(l, GPU_LINEAR);
    if (f->own_x) task_own_operand(l, t, f->own_x - 1, GPU_F32);
    else task_value(l, t, f->x);
    for (int p = 0; p < GPU_PARTS; p++) {
        const bool there = p < parts;
        task_device(l, t, there ? f->w[p] : NULL, GPU_U8);
        if (there && (f->y[p].value || f->y[p].own >= 0)) put_result(l, t, f->y[p]);
        else task_device(l, t, NULL, GPU_F32);
        task_floats(l, t, n, p, there ? f->bias[p] : NULL, there ? f->bias_count[p] : 0, GPU_F32);
    }
    if (f->residual) task_value(l, t, f->residual);
    else task_device(l, t, NULL, GPU_F32);
    if (f->chosen) task_own_operand(l, t, f->chosen - 1, GPU_I32);
    else task_device(l, t, NULL, GPU_I32);
    return t;
}

void tasks_linear(struct call *c, struct task_list *l)
{
    const struct linear_op_spec *s = c->node->spec;
    const struct operand *residual = c->in_count > 1 ? c->in[1] : NULL;
    const struct result y = { .value = c->out[0] };
    int known[GPU_TYPE_COUNT] = { 0 };
    if (!s->device.at) {
        task_refuse(l);
        return;
    }
    if (!s->exact && !is_for_few(l, &s->device.m, rows_of(c->in[0]))) {
        product(l, c, &s->device, 0, c->node->bias, y, residual, c->node->act, known);
        return;
    }
    const struct few f = { .x = c->in[0], .y = { y }, .w = { s->device.at }, .bias = { c->node->bias }, .bias_count = { (uint64_t)s->n }, .residual = residual };
    struct gpu_task *t = few_rows(l, c->node, &f, 1);
    t->u.linear = (struct gpu_linear){ .m = rows_of(c->in[0]), .k = s->k, .parts = 1, .w = { s->device.m }, .has_residual = residual, .act = c->node->act };
}

static void gate(struct task_list *l, struct result g, struct result u, struct result y, struct gpu_gate spec)
{
    struct gpu_task *t = task_add(l, GPU_GATE);
    put_result(l, t, g);
    put_result(l, t, u);
    put_result(l, t, y);
    t->u.gate = spec;
}

void tasks_projections(struct call *c, struct task_list *l)
{
    const struct projections_spec *s = c->node->spec;
    const int64_t m = rows_of(c->in[0]);
    const struct activation_spec plain = { ACT_NONE, 0, 0 };
    int known[GPU_TYPE_COUNT] = { 0 };
    bool few = true;
    for (int p = 0; p < s->parts; p++) few = few && (s->exact || is_for_few(l, &s->w[p].m, m));
    if (few) {
        struct few f = { .x = c->in[0] };
        struct gpu_linear spec = { .m = m, .k = s->w[0].m.k, .parts = s->parts, .gated = s->gated, .gate_kind = (int)s->gate.kind, .limit = s->gate.limit };
        for (int p = 0; p < s->parts; p++) {
            f.y[p] = (struct result){ s->gated && p ? NULL : c->out[p], -1 };
            f.w[p] = s->w[p].at;
            f.bias[p] = s->bias[p];
            f.bias_count[p] = (uint64_t)s->w[p].m.n;
            spec.w[p] = s->w[p].m;
        }
        few_rows(l, c->node, &f, s->parts)->u.linear = spec;
        return;
    }
    struct result y[GPU_PARTS];
    for (int p = 0; p < s->parts; p++) {
        if (s->gated) y[p] = (struct result){ NULL, task_own(l, (uint64_t)m * (uint64_t)s->w[p].m.n * sizeof(float)) };
        else y[p] = (struct result){ c->out[p], -1 };
        product(l, c, &s->w[p], p, s->bias[p], y[p], NULL, plain, known);
    }
    const int64_t n = s->w[0].m.n;
    if (s->gated) gate(l, y[0], y[1], (struct result){ c->out[0], -1 }, (struct gpu_gate){ .rows = m, .n = n, .gate_step = n, .up_step = n, .kind = (int)s->gate.kind, .limit = s->gate.limit });
}

void tasks_gate(struct call *c, struct task_list *l)
{
    const struct gate_spec *s = c->node->spec;
    const bool both = c->in_count < 2 || !c->in[1];
    const int64_t n = columns_of(c->out[0]), step = columns_of(c->in[0]);
    gate(l, (struct result){ c->in[0], -1 }, (struct result){ both ? c->in[0] : c->in[1], -1 }, (struct result){ c->out[0], -1 },
         (struct gpu_gate){ .rows = rows_of(c->out[0]), .n = n, .gate_from = both && s->up_first ? n : 0, .gate_step = step, .up_from = both && !s->up_first ? n : 0, .up_step = step, .kind = (int)s->kind, .limit = s->limit });
}

/* ---- element by element ---- */
static float limit_of(const struct call *c) { return ((const struct limit_spec *)c->node->spec)->limit; }

void tasks_clip(struct call *c, struct task_list *l) { task_dense(l, GPU_COPY, c->in[0], NULL, c->out[0])->u.pointwise.act = (struct activation_spec){ ACT_CLIP, -limit_of(c), limit_of(c) }; }
void tasks_scale(struct call *c, struct task_list *l) { task_dense(l, GPU_SCALE, c->in[0], NULL, c->out[0])->u.pointwise.alpha = limit_of(c); }
void tasks_sum(struct call *c, struct task_list *l) { task_dense(l, GPU_ADD, c->in[0], c->in[1], c->out[0]); }
void tasks_softcap(struct call *c, struct task_list *l)
{
    struct gpu_task *t = task_dense(l, GPU_SCALE, c->in[0], NULL, c->out[0]);
    t->u.pointwise.alpha = 1 / limit_of(c);
    t->u.pointwise.act = (struct activation_spec){ ACT_TANH, 0, 0 };
    task_dense(l, GPU_SCALE, c->out[0], NULL, c->out[0])->u.pointwise.alpha = limit_of(c);
}

/* x * sigmoid(gate of the row) + z */
void tasks_shared(struct call *c, struct task_list *l)
{
    const int64_t rows = rows_of(c->in[0]), n = columns_of(c->in[0]);
    const int own = task_own(l, (uint64_t)rows * sizeof(float));
    struct gpu_task *t = task_add(l, GPU_POINTWISE);
    task_value(l, t, c->in[1]);
    task_own_operand(l, t, own, GPU_F32);
    t->u.pointwise = (struct gpu_pointwise){ .function = GPU_COPY, .inputs = 1, .count = rows, .act = { ACT_SIGMOID, 0, 0 } };
    t = task_add(l, GPU_POINTWISE);
    task_value(l, t, c->in[0]);
    task_own_operand(l, t, own, GPU_F32);
    task_value(l, t, c->in[2]);
    task_value(l, t, c->out[0]);
    t->u.pointwise = (struct gpu_pointwise){ .function = GPU_SCALE_SHIFT, .inputs = 3, .rank = 2, .count = rows * n, .dims = { rows, n }, .steps = { { n, 1 }, { 1, 0 }, { n, 1 } } };
}

/* ---- attention ---- */
void tasks_paged_attention(struct call *c, struct task_list *l)
{
    const struct attention_op_spec *s = c->node->spec;
    const struct attention_spec *k = &s->kernel;
    const int64_t tokens = c->in[0]->dims[0], sequences = c->in[3]->dims[0], entries = c->in[4]->dims[0], spans = entries / (GPU_SPAN / ATTENTION_PAGE) + sequences;
    const bool native = k->kv_type == BLOCK_F32 || k->kv_type == BLOCK_F16 || k->kv_type == BLOCK_BF16 || (k->kv_type == BLOCK_Q8_0 && k->head_dim % 32 == 0 && k->head_dim_v % 32 == 0);
    if (k->relative || !native) {
        task_refuse(l);
        return;
    }
    const struct gpu_cache cache = { .sequences = (int)sequences, .kv_heads = k->kv_heads, .kv_block = k->kv_type, .head_dim = k->head_dim, .head_dim_v = k->head_dim_v, .layer = (int64_t)s->layer_offset, .page_stride = (int64_t)s->page_stride };
    const struct gpu_paged paged = { .c = cache, .tokens = tokens, .heads = k->heads, .spans = entries / (GPU_SPAN / ATTENTION_PAGE) + 1, .scale = k->scale, .softcap = k->softcap, .window = k->window, .causal = k->causal, .alone = s->exact };
    const int q = task_own(l, (uint64_t)(tokens * k->heads * k->head_dim) * sizeof(float)), partial = task_own(l, (uint64_t)(spans * k->heads * gpu_paged_partial(&paged)) * sizeof(float));
    struct gpu_task *t = task_add(l, GPU_STORE);
    for (int i = 0; i < 3; i++) task_value(l, t, c->in[i]);
    if (c->in_count > 6 && c->in[6]) task_value(l, t, c->in[6]);
    else task_device(l, t, NULL, GPU_F32);
    for (int i = 3; i < 6; i++) task_value(l, t, c->in[i]);
    task_own_operand(l, t, q, GPU_F32);
    t->u.store = (struct gpu_store_kv){ .c = cache, .tokens = tokens, .heads = k->heads, .q_from = s->q_column, .q_step = c->in[0]->dims[1], .k_from = s->k_column, .k_step = c->in[1]->dims[1], .v_from = s->v_column, .v_step = c->in[2]->dims[1],
                                        .rotary = s->rotary, .adjacent = s->adjacent };
    t = task_add(l, GPU_PAGED);
    task_own_operand(l, t, q, GPU_F32);
    for (int i = 3; i < 6; i++) task_value(l, t, c->in[i]);
    task_value(l, t, c->out[0]);
    task_floats(l, t, c->node, 0, k->sinks, (uint64_t)k->heads, GPU_F32);
    task_floats(l, t, c->node, 1, k->alibi, (uint64_t)k->heads, GPU_F32);
    task_own_operand(l, t, partial, GPU_F32);
    t->u.paged = paged;
}

/* ---- experts: each token with each of its experts is a row of products of its own ---- */
void tasks_experts(struct call *c, struct task_list *l)
{
    const struct experts_spec *s = c->node->spec;
    const int64_t tokens = c->in[0]->dims[0], rows = tokens * s->used;
    const bool both = !s->device_up.w.at;                      /* gate and up in one matrix */
    if (!s->device_gate.w.at || rows > 65535) {                /* blocks of a grid */
        task_refuse(l);
        return;
    }
    const int chosen = task_own(l, (uint64_t)rows * sizeof(int32_t)), weight = task_own(l, (uint64_t)rows * sizeof(float)), inner = task_own(l, (uint64_t)(rows * s->ffn) * sizeof(float)), result = task_own(l, (uint64_t)(rows * s->width) * sizeof(float));
    struct gpu_task *t = task_add(l, GPU_ROUTE);
    task_value(l, t, c->in[1]);
    task_own_operand(l, t, chosen, GPU_I32);
    task_own_operand(l, t, weight, GPU_F32);
    t->u.route = (struct gpu_route){ .tokens = tokens, .experts = s->experts, .used = s->used, .own = s->softmax_later || s->renormalise };

    const struct device_matrix *g = &s->device_gate.w, *u = both ? g : &s->device_up.w, *d = &s->device_down.w;
    struct gpu_matrix half = g->m;
    half.n = s->ffn;
    /* biases: of one matrix the second half is up's, which begins `ffn` numbers later */
    struct few f = { .x = c->in[0], .y = { { NULL, inner }, { NULL, -1 } }, .w = { g->at, both ? (char *)g->at + s->ffn * g->m.row_bytes : u->at }, .bias = { s->device_gate.bias, both ? s->device_gate.bias : s->device_up.bias },
                     .bias_count = { (uint64_t)(s->experts * g->m.n), (uint64_t)(s->experts * u->m.n) }, .chosen = chosen + 1 };
    if (both && s->device_gate.bias) f.bias[1] = s->device_gate.bias + s->ffn, f.bias_count[1] -= (uint64_t)s->ffn;
    t = few_rows(l, c->node, &f, 2);
    t->u.linear = (struct gpu_linear){ .m = rows, .k = s->width, .parts = 2, .w = { half, both ? half : u->m }, .next = { g->m.n * g->m.row_bytes, u->m.n * u->m.row_bytes }, .next_bias = { g->m.n, u->m.n }, .gated = true,
                                       .gate_kind = (int)s->gate.kind, .limit = s->gate.limit, .experts = s->experts, .share = s->used };

    const struct few out = { .own_x = inner + 1, .y = { { NULL, result } }, .w = { d->at }, .chosen = chosen + 1 };
    t = few_rows(l, c->node, &out, 1);
    t->u.linear = (struct gpu_linear){ .m = rows, .k = s->ffn, .parts = 1, .w = { d->m }, .next = { d->m.n * d->m.row_bytes }, .next_bias = { d->m.n }, .experts = s->experts, .share = 1 };
    if (s->device_down.bias) {                                 /* its place in the task: slots 0 to 2 of the node are taken */
        struct task_source *place = &l->sources[t - l->tasks][GPU_LINEAR_BIAS];
        if (gpu_store_put(l->store, c->node, GPU_PARTS, s->device_down.bias, (uint64_t)(s->experts * d->m.n), true, GPU_F32, &place->constant, &l->error)) task_refuse(l);
    }
    t = task_add(l, GPU_COMBINE);
    task_own_operand(l, t, result, GPU_F32);
    task_own_operand(l, t, weight, GPU_F32);
    task_value(l, t, c->out[0]);
    t->u.combine = (struct gpu_combine){ .tokens = tokens, .n = s->width, .used = s->used };
}
