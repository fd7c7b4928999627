/* Building the graph: one function for each part of a layer. What a family has is read off its weights; what they do not tell is in the configuration. */
#include "engine/llm/build.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "engine/llm/rotation.h"
#include "engine/operators/llm.h"

enum { TEXT_GUESS = 512 };        /* positions that a token is taken to look at when threads are chosen */

struct builder {
    struct graph     *g;
    struct llm_model *m;
    const struct llm_config *c;
    const struct llm_build_options *o;
    struct err       *err;
    enum status       st;          /* the first failure sticks; every function below does nothing then and gives -1 */
    int               inputs[LLM_INPUTS];
    int               table, local_table;   /* of the rotation */
    uint64_t          page_stride, layer_bytes;
};

static int fail(struct builder *b, enum status st)
{
    if (!b->st) b->st = st;
    return -1;
}

static int no_memory(struct builder *b) { return fail(b, err_set(b->err, ST_NO_MEMORY, "building the model's graph passes its memory budget")); }

static void *spec_copy(struct builder *b, const void *spec, size_t size)
{
    void *p = arena_alloc(b->g->arena, size, 16);
    if (p) memcpy(p, spec, size);
    else no_memory(b);
    return p;
}

/* A node with up to six inputs (-1: left out at the end) and one output. */
static int add(struct builder *b, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out)
{
    if (b->st) return -1;
    while (in_count && in[in_count - 1] < 0) in_count--;
    int v = graph_add_value(b->g, "", VALUE_NODE);
    struct node *n = v < 0 ? NULL : graph_add_node(b->g, in_count, 1);
    const void *copy = spec_size ? spec_copy(b, spec, spec_size) : NULL;
    if (!n || (spec_size && !copy)) return no_memory(b);
    n->op = op;
    n->name = op->name;
    n->opset = 1;
    n->spec = copy;
    memcpy(n->in, in, (size_t)in_count * sizeof *in);
    n->out[0] = v;
    b->g->values[v].producer = b->g->node_count - 1;
    if (out) *out = n;
    return v;
}

static const float *floats(struct builder *b, enum llm_role role, bool bias, int layer, int64_t count)
{
    const float *f = NULL;
    if (!b->st) b->st = llm_weight_floats(b->m, role, bias, layer, -1, count, &f, b->err);
    return b->st ? NULL : f;
}

/* The packed weight has taken the file's place in memory; what is still read (embeddings by row) comes back by itself. */
static void let_go(const struct llm_weight *w)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)w->data + page - 1) & ~(page - 1), to = ((uintptr_t)w->data + (uintptr_t)(w->n * w->row_bytes)) & ~(page - 1);
    if (w->mapped && to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

static struct linear_layer *open_linear(struct builder *b, const struct llm_weight *w)
{
    struct linear_layer *l;
    const struct linear_spec spec = { .type = w->type, .weight = w->data, .n = w->n, .k = w->k, .row_bytes = w->row_bytes, .mode = b->o->mode, .level = b->g->device.kernels.level };
    uint64_t whole;
    if (!size_add(b->g->packed_bytes, (uint64_t)w->n * (uint64_t)w->row_bytes, &whole) || whole > b->g->memory_max)
        return no_memory(b), NULL;
    enum status st = linear_open(&l, &spec, b->err);
    if (st) return fail(b, st), NULL;
    b->g->packed_bytes += linear_bytes(l);
    if (!linear_borrows(l)) let_go(w);
    if (!graph_own_linear(b->g, l)) return no_memory(b), NULL;
    return l;
}

static int linear_of(struct builder *b, int x, const struct llm_weight *w, const float *bias, int residual, struct activation_spec act)
{
    struct node *n;
    const struct linear_op_spec spec = { .n = w->n, .k = w->k };
    struct linear_layer *l = b->st ? NULL : open_linear(b, w);
    int y = add(b, &op_linear, (int[]){ x, residual }, 2, &spec, sizeof spec, &n);
    if (y < 0) return -1;
    n->linear = l;
    n->row_work = (uint64_t)w->n * (uint64_t)w->k;
    n->bias = bias;
    n->act = act;
    return y;
}

static const struct activation_spec PLAIN = { ACT_NONE, 0, 0 };

/* The matrix of a role and its bias, if there is one. Without the matrix: -1, an error only when it is `needed`. */
static int linear(struct builder *b, int x, enum llm_role role, int layer, int64_t n, int64_t k, int residual, struct activation_spec act, bool needed)
{
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, role, false, layer, -1, n, k, &w, b->err);
    if (b->st) return -1;
    if (!w.data) {
        char name[256];
        if (!needed) return -1;
        llm_role_name(b->c->arch, b->c->folder, role, layer, 0, 0, name, sizeof name);
        return fail(b, err_set(b->err, ST_BAD_INPUT, "tensor '%s.weight' is missing", name));
    }
    return linear_of(b, x, &w, floats(b, role, true, layer, w.n), residual, act);
}

static bool has(struct builder *b, enum llm_role role, int layer) { return !b->st && llm_weight_exists(b->m, role, layer); }

/* A norm over groups of `width` columns; `columns`: of the value. Some families' norms have no weights (OLMo): `bare` allows that. */
static int norm(struct builder *b, int x, enum llm_role role, int layer, int64_t width, int64_t columns, bool bare)
{
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, role, false, layer, -1, 0, 0, &w, b->err);
    if (b->st) return -1;
    int64_t count = w.n * w.k;
    if (!w.data && !bare) {
        char name[256];
        llm_role_name(b->c->arch, b->c->folder, role, layer, 0, 0, name, sizeof name);
        return fail(b, err_set(b->err, ST_BAD_INPUT, "tensor '%s.weight' is missing", name));
    }
    struct norm_spec s = { .layer = b->c->arch->norm == NORM_LAYER, .width = width, .epsilon = b->c->norm_epsilon };
    s.whole = w.data && count == columns && columns != width;
    if (w.data) s.scale = floats(b, role, false, layer, s.whole ? columns : width);
    s.bias = floats(b, role, true, layer, s.whole ? columns : width);
    if (s.scale && b->c->folder && b->c->arch->flags & LLM_NORM_PLUS_ONE) {
        float *f = (float *)(uintptr_t)s.scale;      /* the arena's own copy */
        for (int64_t i = 0; i < count; i++) f[i] += 1;
    }
    return add(b, &op_norm, &x, 1, &s, sizeof s, NULL);
}

static int scaled(struct builder *b, const struct op *op, int x, float limit)
{
    const struct limit_spec s = { limit };
    return add(b, op, &x, 1, &s, sizeof s, NULL);
}

static int sum(struct builder *b, int x, int y) { return add(b, &op_sum, (int[]){ x, y }, 2, NULL, 0, NULL); }

static void name_output(struct builder *b, int v, const char *name)
{
    if (v < 0) return;
    b->g->values[v].name = name;
    b->g->values[v].is_output = true;
    b->g->outputs[b->g->output_count++] = v;
}

/* ---- what the embeddings are ---- */
static int embed(struct builder *b, enum llm_role role, int ids, int64_t rows, int64_t shift, float scale, bool needed)
{
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, role, false, 0, -1, 0, b->c->width, &w, b->err);
    if (b->st) return -1;
    if (!w.data) return needed ? fail(b, err_set(b->err, ST_BAD_INPUT, "the table of token embeddings is missing")) : -1;
    if (w.n < rows) return fail(b, err_set(b->err, ST_BAD_INPUT, "an embedding table has %lld rows where %lld are needed", (long long)w.n, (long long)rows));
    const struct embed_spec s = { .format = block_format(w.type), .table = w.data, .rows = w.n, .width = w.k, .row_bytes = w.row_bytes, .shift = shift, .scale = scale };
    return add(b, &op_embed, &ids, 1, &s, sizeof s, NULL);
}

static int embeddings(struct builder *b)
{
    const struct llm_config *c = b->c;
    int x = embed(b, ROLE_TOKENS, b->inputs[LLM_TOKENS], c->vocabulary, 0, c->embedding_scale, true);
    int p = embed(b, ROLE_POSITIONS, b->inputs[LLM_POSITIONS], 1, c->folder && c->arch->flags & LLM_POSITION_SHIFT ? 2 : 0, 1, false);
    if (p >= 0) x = sum(b, x, p);
    int t = embed(b, ROLE_TYPES, b->inputs[LLM_TYPES], 1, 0, 1, false);
    if (t >= 0) x = sum(b, x, t);
    if (has(b, ROLE_EMBED_NORM, 0)) x = norm(b, x, ROLE_EMBED_NORM, 0, c->width, c->width, false);
    return x;
}

/* ---- rotation ---- */
static int rope_table(struct builder *b, bool local)
{
    const struct llm_config *c = b->c;
    int half = c->rotary / 2;
    const float *divisors = floats(b, ROLE_ROPE_FACTORS, false, 0, half), *longer = c->scaling.long_factors;
    if (c->scaling.kind == SCALING_LONGROPE) {
        divisors = c->scaling.short_factors ? c->scaling.short_factors : floats(b, ROLE_ROPE_SHORT, false, 0, half);
        if (!longer) longer = floats(b, ROLE_ROPE_LONG, false, 0, half);
    }
    float *f = b->st ? NULL : arena_alloc(b->g->arena, (uint64_t)half * sizeof *f + 1, 16), *g = NULL;
    if (!f) return no_memory(b);
    rotation_frequencies(c, local, local ? NULL : divisors, f);
    if (longer && !local) {
        g = arena_alloc(b->g->arena, (uint64_t)half * sizeof *g + 1, 16);
        if (!g) return no_memory(b);
        rotation_frequencies(c, local, longer, g);
    }
    float factor = local ? 1 : rotation_factor(c);
    const struct rope_table_spec s = { .rotary = c->rotary, .frequency = f, .frequency_long = g, .factor = factor, .factor_long = factor };
    return add(b, &op_rope_table, &b->inputs[LLM_POSITIONS], 1, &s, sizeof s, NULL);
}

static int rope(struct builder *b, int x, int table, int64_t column, int heads)
{
    const struct llm_config *c = b->c;
    bool adjacent = c->arch->rope == ROPE_ADJACENT || (c->arch->rope == ROPE_ADJACENT_GGUF && !c->folder);
    const struct rope_op_spec s = { .column = column, .heads = heads, .head_dim = c->head_dim, .rotary = c->rotary, .adjacent = adjacent };
    return add(b, &op_rope, (int[]){ x, table }, 2, &s, sizeof s, NULL);
}

static bool is_windowed(const struct llm_config *c, int layer)
{
    if (!c->window) return false;
    if (c->window_layers) return c->window_layers[layer];
    return c->window_pattern <= 1 || (layer + 1) % c->window_pattern != 0;
}

/* ---- attention ---- */
struct qkv { int q, k, v; int64_t q_column, k_column, v_column; };

static struct qkv project(struct builder *b, int x, int layer)
{
    const struct llm_config *c = b->c;
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    struct qkv p = { 0 };
    if (has(b, ROLE_QKV, layer)) {
        p.q = p.k = p.v = linear(b, x, ROLE_QKV, layer, q + 2 * kv, c->width, -1, PLAIN, true);
        p.k_column = q;
        p.v_column = q + kv;
        if (c->clip_qkv > 0) p.q = p.k = p.v = scaled(b, &op_clip, p.q, c->clip_qkv);
        return p;
    }
    p.q = linear(b, x, ROLE_Q, layer, q, c->width, -1, PLAIN, true);
    p.k = linear(b, x, ROLE_K, layer, kv, c->width, -1, PLAIN, true);
    p.v = linear(b, x, ROLE_V, layer, kv, c->width, -1, PLAIN, true);
    if (c->clip_qkv > 0) {
        p.q = scaled(b, &op_clip, p.q, c->clip_qkv);
        p.k = scaled(b, &op_clip, p.k, c->clip_qkv);
        p.v = scaled(b, &op_clip, p.v, c->clip_qkv);
    }
    return p;
}

/* Norms of queries and keys: by head (weights of one head's length) or over all of them (OLMo 2). */
static void norm_heads(struct builder *b, struct qkv *p, int layer)
{
    const struct llm_config *c = b->c;
    const struct { enum llm_role role; int *value; int heads; } parts[] = { { ROLE_Q_NORM, &p->q, c->heads }, { ROLE_K_NORM, &p->k, c->kv_heads } };
    for (int i = 0; i < 2; i++) {
        struct llm_weight w;
        if (b->st) return;
        b->st = llm_weight_find(b->m, parts[i].role, false, layer, -1, 0, 0, &w, b->err);
        if (b->st || !w.data) continue;
        int64_t columns = (int64_t)parts[i].heads * c->head_dim;
        bool all = w.n * w.k == columns && (w.n == 1 || !strncmp(c->arch->name, "olmo", 4)) && (columns != c->head_dim);
        if (p->q == p->k && p->k == p->v) {
            fail(b, err_set(b->err, ST_UNSUPPORTED, "norms of queries and keys behind a fused projection are not computed"));
            return;
        }
        *parts[i].value = norm(b, *parts[i].value, parts[i].role, layer, all ? columns : c->head_dim, columns, false);
    }
}

static int attention(struct builder *b, int x, int layer, int residual)
{
    const struct llm_config *c = b->c;
    struct qkv p = project(b, x, layer);
    norm_heads(b, &p, layer);
    bool windowed = is_windowed(c, layer);
    if (c->arch->rope != ROPE_NONE && c->rotary && !(c->unrotated_layers && c->unrotated_layers[layer])) {
        int table = windowed && b->local_table >= 0 ? b->local_table : b->table;
        bool one = p.q == p.k;
        p.q = rope(b, p.q, table, p.q_column, c->heads);
        if (one) p.k = p.q;
        p.k = rope(b, p.k, table, p.k_column, c->kv_heads);
        if (one) p.q = p.v = p.k;
    }
    struct attention_op_spec s = {
        .kernel = { .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .head_dim_v = c->head_dim, .scale = c->attention_scale != 0 ? c->attention_scale : 1 / sqrtf((float)c->head_dim), .softcap = c->attention_softcap,
                    .window = windowed ? c->window : 0, .causal = c->causal, .sinks = floats(b, ROLE_SINKS, false, layer, c->heads), .kv_type = b->o->kv_type },
        .q_column = p.q_column, .k_column = p.k_column, .v_column = p.v_column, .layer_offset = (uint64_t)layer * b->layer_bytes, .page_stride = b->page_stride,
    };
    if (!b->st) b->st = attention_check(&s.kernel, b->err);
    struct node *n;
    int y = add(b, &op_paged_attention, (int[]){ p.q, p.k, p.v, b->inputs[LLM_ROWS], b->inputs[LLM_PAGES], b->inputs[LLM_KV] }, 6, &s, sizeof s, &n);
    if (y >= 0) n->row_work = (uint64_t)c->heads * (uint64_t)c->head_dim * TEXT_GUESS;
    return linear(b, y, ROLE_O, layer, c->width, (int64_t)c->heads * c->head_dim, residual, PLAIN, true);
}

/* ---- feed-forward ---- */
static struct linear_layer *expert_matrix(struct builder *b, enum llm_role role, int layer, int expert, int64_t n, int64_t k, const float **bias)
{
    struct llm_weight w;
    if (b->st) return NULL;
    b->st = llm_weight_find(b->m, role, false, layer, expert, n, k, &w, b->err);
    if (!b->st) b->st = llm_weight_floats(b->m, role, true, layer, expert, n, bias, b->err);
    return b->st || !w.data ? NULL : open_linear(b, &w);
}

/* gpt-oss stores gate and up of its experts row by row in turn: the even rows, then the odd ones. */
static enum status part_rows(struct builder *b, struct llm_weight *w)
{
    uint8_t *copy = arena_alloc(b->g->arena, (uint64_t)w->n * (uint64_t)w->row_bytes, 64);
    if (!copy) return err_set(b->err, ST_NO_MEMORY, "an expert's weights pass the model's memory budget");
    for (int64_t r = 0; r < w->n; r++) memcpy(copy + (r / 2 + (r % 2) * (w->n / 2)) * w->row_bytes, (const uint8_t *)w->data + r * w->row_bytes, (size_t)w->row_bytes);
    w->data = copy;
    w->mapped = false;
    return ST_OK;
}

static void open_expert(struct builder *b, struct expert_layers *e, int layer, int expert)
{
    const struct llm_config *c = b->c;
    int64_t ffn = c->expert_ffn;
    struct llm_weight w, bias;
    if (b->st) return;
    b->st = llm_weight_find(b->m, ROLE_EXPERT_GATE_UP, false, layer, expert, 2 * ffn, c->width, &w, b->err);
    if (!b->st) b->st = llm_weight_find(b->m, ROLE_EXPERT_GATE_UP, true, layer, expert, 0, 0, &bias, b->err);
    if (!b->st && w.data) {
        bool turns = c->folder && c->arch->flags & LLM_CLAMPED_GATE;
        if (turns) b->st = part_rows(b, &w);
        if (!b->st) e->gate = open_linear(b, &w);
        if (!b->st) b->st = llm_weight_floats(b->m, ROLE_EXPERT_GATE_UP, true, layer, expert, 2 * ffn, &e->gate_bias, b->err);
        if (!b->st && turns && e->gate_bias) {
            struct llm_weight v = { .n = 2 * ffn, .k = 1, .row_bytes = sizeof(float), .data = e->gate_bias };
            b->st = part_rows(b, &v);
            e->gate_bias = v.data;
        }
    } else {
        e->gate = expert_matrix(b, ROLE_EXPERT_GATE, layer, expert, ffn, c->width, &e->gate_bias);
        e->up = expert_matrix(b, ROLE_EXPERT_UP, layer, expert, ffn, c->width, &e->up_bias);
        if (!b->st && !e->up) fail(b, err_set(b->err, ST_BAD_INPUT, "layer %d: the matrices of expert %d are missing", layer, expert));
    }
    e->down = expert_matrix(b, ROLE_EXPERT_DOWN, layer, expert, c->width, ffn, &e->down_bias);
    if (!b->st && (!e->gate || !e->down)) fail(b, err_set(b->err, ST_BAD_INPUT, "layer %d: the matrices of expert %d are missing", layer, expert));
}

static struct gate_spec gate_of(const struct llm_config *c)
{
    static const struct { enum activation act; enum gate_kind kind; } known[] = { { ACT_SILU, GATE_SILU }, { ACT_GELU, GATE_GELU }, { ACT_GELU_TANH, GATE_GELU_TANH }, { ACT_RELU, GATE_RELU } };
    struct gate_spec s = { .kind = GATE_SILU, .limit = c->swiglu_limit };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].act == c->act.kind) s.kind = known[i].kind;
    if (c->arch->flags & LLM_CLAMPED_GATE) s.kind = GATE_CLAMPED;
    return s;
}

static int experts(struct builder *b, int x, int layer)
{
    const struct llm_config *c = b->c;
    int router = linear(b, x, ROLE_ROUTER, layer, c->experts, c->width, -1, PLAIN, true);
    struct experts_spec s = { .experts = c->experts, .used = c->experts_used, .width = c->width, .ffn = c->expert_ffn, .softmax_later = c->arch->flags & LLM_SOFTMAX_LATER, .renormalise = c->renormalise,
                              .gate = gate_of(c) };
    s.layers = b->st ? NULL : arena_calloc(b->g->arena, (uint64_t)c->experts, sizeof *s.layers);
    if (!s.layers) return no_memory(b);
    for (int e = 0; e < c->experts; e++) open_expert(b, &s.layers[e], layer, e);
    struct node *n;
    int y = add(b, &op_experts, (int[]){ x, router }, 2, &s, sizeof s, &n);
    if (y >= 0) n->row_work = (uint64_t)s.used * 3 * (uint64_t)s.width * (uint64_t)s.ffn;
    if (!has(b, ROLE_SHARED_GATE, layer)) return y;
    int gate = linear(b, x, ROLE_SHARED_GATE, layer, c->shared_ffn, c->width, -1, PLAIN, true), up = linear(b, x, ROLE_SHARED_UP, layer, c->shared_ffn, c->width, -1, PLAIN, true);
    const struct gate_spec act = gate_of(c);
    int z = linear(b, add(b, &op_gate, (int[]){ gate, up }, 2, &act, sizeof act, NULL), ROLE_SHARED_DOWN, layer, c->width, c->shared_ffn, -1, PLAIN, true);
    int weight = linear(b, x, ROLE_SHARED_ROUTER, layer, 1, c->width, -1, PLAIN, false);
    return weight < 0 ? sum(b, y, z) : add(b, &op_shared, (int[]){ z, weight, y }, 3, NULL, 0, NULL);
}

static int feed_forward(struct builder *b, int x, int layer, int residual)
{
    const struct llm_config *c = b->c;
    const struct gate_spec s = gate_of(c);
    if (c->experts && has(b, ROLE_ROUTER, layer)) {
        int y = experts(b, x, layer);
        return residual < 0 ? y : sum(b, residual, y);
    }
    int h, both = linear(b, x, ROLE_GATE_UP, layer, 2 * (int64_t)c->ffn, c->width, -1, PLAIN, false);
    if (both < 0 && has(b, ROLE_GATE, layer)) {
        int gate = linear(b, x, ROLE_GATE, layer, c->ffn, c->width, -1, PLAIN, true), up = linear(b, x, ROLE_UP, layer, c->ffn, c->width, -1, PLAIN, true);
        h = add(b, &op_gate, (int[]){ gate, up }, 2, &s, sizeof s, NULL);
    } else if (both < 0) {
        struct llm_weight up = { 0 };
        if (!b->st && !c->folder) b->st = llm_weight_find(b->m, ROLE_UP, false, layer, -1, 0, c->width, &up, b->err);
        bool fused = up.n == 2 * (int64_t)c->ffn;      /* GGUF's Phi 3 */
        h = linear(b, x, ROLE_UP, layer, (fused ? 2 : 1) * (int64_t)c->ffn, c->width, -1, fused ? PLAIN : c->act, true);
        if (fused) h = add(b, &op_gate, &h, 1, &s, sizeof s, NULL);
    } else {
        h = add(b, &op_gate, &both, 1, &s, sizeof s, NULL);
    }
    return linear(b, h, ROLE_DOWN, layer, c->width, c->ffn, residual, PLAIN, true);
}

/* ---- a layer ---- */
static int add_scaled(struct builder *b, int x, int y)
{
    return sum(b, x, b->c->residual_scale == 1 ? y : scaled(b, &op_scale, y, b->c->residual_scale));
}

static int layer_parallel(struct builder *b, int x, int layer, bool bare)
{
    int64_t width = b->c->width;
    bool second = has(b, ROLE_ATTENTION_NORM2, layer), own = has(b, ROLE_FFN_NORM, layer);
    int a = norm(b, x, second ? ROLE_ATTENTION_NORM2 : ROLE_ATTENTION_NORM, layer, width, width, bare);
    int f = own ? norm(b, x, ROLE_FFN_NORM, layer, width, width, bare) : second ? norm(b, x, ROLE_ATTENTION_NORM, layer, width, width, bare) : a;
    return feed_forward(b, f, layer, attention(b, a, layer, x));
}

static int layer_of(struct builder *b, int x, int layer)
{
    const struct llm_config *c = b->c;
    int64_t w = c->width;
    bool bare = !strcmp(c->arch->name, "olmo");
    int y;
    if (c->parallel) return layer_parallel(b, x, layer, bare);
    switch (c->block) {
    case BLOCK_POST_NORM:
        x = sum(b, x, norm(b, attention(b, x, layer, -1), ROLE_ATTENTION_POST, layer, w, w, false));
        return sum(b, x, norm(b, feed_forward(b, x, layer, -1), ROLE_FFN_POST, layer, w, w, false));
    case BLOCK_SANDWICH:
        y = attention(b, norm(b, x, ROLE_ATTENTION_NORM, layer, w, w, false), layer, -1);
        x = sum(b, x, norm(b, y, ROLE_ATTENTION_POST, layer, w, w, false));
        y = feed_forward(b, norm(b, x, ROLE_FFN_NORM, layer, w, w, false), layer, -1);
        return sum(b, x, norm(b, y, ROLE_FFN_POST, layer, w, w, false));
    case BLOCK_AFTER:
        x = norm(b, attention(b, x, layer, x), ROLE_ATTENTION_POST, layer, w, w, false);
        return norm(b, feed_forward(b, x, layer, x), ROLE_FFN_POST, layer, w, w, false);
    default:
        y = norm(b, x, ROLE_ATTENTION_NORM, layer, w, w, bare);
        if (c->residual_scale == 1) {
            x = attention(b, y, layer, x);
            return feed_forward(b, norm(b, x, ROLE_FFN_NORM, layer, w, w, bare), layer, x);
        }
        x = add_scaled(b, x, attention(b, y, layer, -1));
        return add_scaled(b, x, feed_forward(b, norm(b, x, ROLE_FFN_NORM, layer, w, w, bare), layer, -1));
    }
}

/* ---- the ends ---- */
static void add_inputs(struct builder *b)
{
    static const char *const names[LLM_INPUTS] = { "tokens", "positions", "types", "rows", "pages", "kv", "wanted" };
    struct graph *g = b->g;
    g->inputs = arena_calloc(g->arena, LLM_INPUTS, sizeof *g->inputs);
    g->outputs = arena_calloc(g->arena, 4, sizeof *g->outputs);
    if (!g->inputs || !g->outputs) {
        no_memory(b);
        return;
    }
    for (int i = 0; i < LLM_INPUTS; i++) {
        int v = graph_add_value(g, names[i], VALUE_INPUT);
        if (v < 0) {
            no_memory(b);
            return;
        }
        struct operand *o = &g->values[v].type;
        o->dtype = i == LLM_KV ? DT_U8 : DT_I32;
        o->rank = i == LLM_ROWS ? 2 : 1;
        o->dims[0] = -1;
        o->dims[1] = i == LLM_ROWS ? 4 : 0;
        o->state = i == LLM_KV;
        g->inputs[g->input_count++] = b->inputs[i] = v;
    }
}

/* What an encoder's classifying head gives: BERT's pooler and classifier, RoBERTa's and DistilBERT's two layers. */
static int score(struct builder *b, int x)
{
    const struct llm_config *c = b->c;
    const struct activation_spec tanh_spec = { ACT_TANH, 0, 0 }, relu = { ACT_RELU, 0, 0 };
    if (has(b, ROLE_POOLER, 0)) x = linear(b, x, ROLE_POOLER, 0, c->width, c->width, -1, tanh_spec, true);
    if (has(b, ROLE_SCORE_DENSE, 0)) x = linear(b, x, ROLE_SCORE_DENSE, 0, c->width, c->width, -1, !strcmp(c->arch->name, "distilbert") ? relu : tanh_spec, true);
    return linear(b, x, ROLE_SCORE, 0, 0, c->width, -1, PLAIN, true);
}

static int head(struct builder *b, int x)
{
    const struct llm_config *c = b->c;
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, ROLE_HEAD, false, 0, -1, c->vocabulary, c->width, &w, b->err);
    if (!b->st && !w.data) b->st = llm_weight_find(b->m, ROLE_TOKENS, false, 0, -1, c->vocabulary, c->width, &w, b->err);
    if (b->st) return -1;
    x = linear_of(b, x, &w, floats(b, ROLE_HEAD, true, 0, c->vocabulary), -1, PLAIN);
    if (c->logits_scale != 1) x = scaled(b, &op_scale, x, c->logits_scale);
    if (c->final_softcap > 0) x = scaled(b, &op_softcap, x, c->final_softcap);
    return x;
}

uint64_t llm_page_bytes(const struct llm_config *c, int kv_type)
{
    const struct attention_spec s = { .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .head_dim_v = c->head_dim, .kv_type = kv_type };
    return attention_page_bytes(&s) * (uint64_t)c->layers;
}

enum status llm_build(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err)
{
    const struct llm_config *c = &m->config;
    struct builder b = { .g = g, .m = m, .c = c, .o = o, .err = err, .table = -1, .local_table = -1 };
    b.page_stride = llm_page_bytes(c, o->kv_type) / (uint64_t)c->layers;
    b.layer_bytes = b.page_stride * (uint64_t)o->pages;
    add_inputs(&b);
    if (c->arch->rope != ROPE_NONE && c->rotary) {
        b.table = rope_table(&b, false);
        if (c->arch->flags & LLM_LOCAL_BASE) b.local_table = rope_table(&b, true);
    }
    int x = embeddings(&b);
    for (int l = 0; l < c->layers && !b.st; l++) x = layer_of(&b, x, l);
    x = add(&b, &op_take_rows, (int[]){ x, b.inputs[LLM_WANTED] }, 2, NULL, 0, NULL);
    if (c->block != BLOCK_AFTER) x = norm(&b, x, ROLE_FINAL_NORM, 0, c->width, c->width, !strcmp(c->arch->name, "olmo"));
    if (!b.st) name_output(&b, x, "hidden");
    if (c->causal) {
        x = head(&b, x);
        if (!b.st) name_output(&b, x, "logits");
    } else if (c->labels) {
        x = score(&b, x);
        if (!b.st) name_output(&b, x, "scores");
    }
    if (!b.st) b.st = llm_weights_all_used(m, err);
    return b.st ? b.st : graph_sort(g, err);
}
