/* Building the graph: one function for each part of a layer. What a family has is read off its weights; what they do not tell is in the configuration. */
#include "engine/llm/build_internal.h"

#include <math.h>
#include <string.h>

#include "engine/graph/gpu_store.h"
#include "engine/llm/rotation.h"

static int embeddings(struct builder *b)
{
    const struct llm_config *c = b->c;
    int x = build_embed(b, ROLE_TOKENS, b->inputs[LLM_TOKENS], c->vocabulary, 0, c->embedding_scale, true);
    int p = build_embed(b, ROLE_POSITIONS, b->inputs[LLM_POSITIONS], 1, c->folder && c->arch->flags & LLM_POSITION_SHIFT ? 2 : 0, 1, false);
    if (p >= 0) x = build_sum(b, x, p);
    int t = build_embed(b, ROLE_TYPES, b->inputs[LLM_TYPES], 1, 0, 1, false);
    if (t >= 0) x = build_sum(b, x, t);
    if (build_has(b, ROLE_EMBED_NORM, 0)) x = build_norm(b, x, ROLE_EMBED_NORM, 0, c->width, c->width, false);
    return x;
}

/* ---- rotation ---- */
static int rope_table(struct builder *b, bool local)
{
    const struct llm_config *c = b->c;
    int half = c->rotary / 2;
    const float *divisors = build_floats(b, ROLE_ROPE_FACTORS, false, 0, half), *longer = c->scaling.long_factors;
    if (c->scaling.kind == SCALING_LONGROPE) {
        divisors = c->scaling.short_factors ? c->scaling.short_factors : build_floats(b, ROLE_ROPE_SHORT, false, 0, half);
        if (!longer) longer = build_floats(b, ROLE_ROPE_LONG, false, 0, half);
    }
    float *f = b->st ? NULL : arena_alloc(b->g->arena, (uint64_t)half * sizeof *f + 1, 16), *g = NULL;
    if (!f) return build_no_memory(b);
    rotation_frequencies(c, local, local ? NULL : divisors, f);
    if (longer && !local) {
        g = arena_alloc(b->g->arena, (uint64_t)half * sizeof *g + 1, 16);
        if (!g) return build_no_memory(b);
        rotation_frequencies(c, local, longer, g);
    }
    float factor = local ? 1 : rotation_factor(c);
    const struct rope_table_spec s = { .rotary = c->rotary, .frequency = f, .frequency_long = g, .factor = factor, .factor_long = factor };
    return build_add(b, &op_rope_table, &b->inputs[LLM_POSITIONS], 1, &s, sizeof s, NULL);
}

static bool turns_adjacent(const struct llm_config *c) { return c->arch->rope == ROPE_ADJACENT || (c->arch->rope == ROPE_ADJACENT_GGUF && !c->folder); }

static int rope(struct builder *b, int x, int table, int64_t column, int heads)
{
    const struct llm_config *c = b->c;
    const struct rope_op_spec s = { .column = column, .heads = heads, .head_dim = c->head_dim, .rotary = c->rotary, .adjacent = turns_adjacent(c) };
    return build_add(b, &op_rope, (int[]){ x, table }, 2, &s, sizeof s, NULL);
}

/* ---- attention ---- */
struct qkv { int q, k, v; int64_t q_column, k_column, v_column; bool rounded; };

/* Is v the product of a layer that rounds what it multiplies to bfloat16 when there are many rows? F32 and F16 weights do not, so what they made is not rounded later either; nor is it where texts are the
 * same bits in any company so far. */
static bool was_rounded(const struct builder *b, int v)
{
    const struct linear_layer *l = v >= 0 ? b->g->nodes[b->g->values[v].producer].linear : NULL;
    return l && b->o->mode == LINEAR_FAST && linear_rounds(l) && !linear_is_invariant(l);
}

static struct qkv project(struct builder *b, int x, int layer)
{
    const struct llm_config *c = b->c;
    int64_t q = (int64_t)c->heads * c->head_dim, kv = (int64_t)c->kv_heads * c->head_dim;
    struct qkv p = { 0 };
    if (build_has(b, ROLE_QKV, layer)) {
        p.q = p.k = p.v = build_linear(b, x, ROLE_QKV, layer, q + 2 * kv, c->width, -1, BUILD_PLAIN, true);
        p.rounded = was_rounded(b, p.q);
        p.k_column = q;
        p.v_column = q + kv;
        if (c->clip_qkv > 0) p.q = p.k = p.v = build_scaled(b, &op_clip, p.q, c->clip_qkv);
        return p;
    }
    int y[3];
    build_projections(b, x, (enum llm_role[]){ ROLE_Q, ROLE_K, ROLE_V }, (int64_t[]){ q, kv, kv }, 3, layer, NULL, y);
    p.q = y[0], p.k = y[1], p.v = y[2];
    p.rounded = was_rounded(b, p.q);
    if (c->clip_qkv > 0) {
        p.q = build_scaled(b, &op_clip, p.q, c->clip_qkv);
        p.k = build_scaled(b, &op_clip, p.k, c->clip_qkv);
        p.v = build_scaled(b, &op_clip, p.v, c->clip_qkv);
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
            build_refuse(b, ST_UNSUPPORTED, "norms of queries and keys behind a fused projection are not computed");
            return;
        }
        *parts[i].value = build_norm(b, *parts[i].value, parts[i].role, layer, all ? columns : c->head_dim, columns, false);
    }
}

static int attention(struct builder *b, int x, int layer, int residual)
{
    const struct llm_config *c = b->c;
    struct qkv p = project(b, x, layer);
    norm_heads(b, &p, layer);
    bool windowed = llm_is_windowed(c, layer);
    const bool turns = c->arch->rope != ROPE_NONE && c->rotary && !(c->unrotated_layers && c->unrotated_layers[layer]);
    const int table = windowed && b->local_table >= 0 ? b->local_table : b->table;
    if (turns && !b->g->gpu) {
        bool one = p.q == p.k;
        p.q = rope(b, p.q, table, p.q_column, c->heads);
        if (one) p.k = p.q;
        p.k = rope(b, p.k, table, p.k_column, c->kv_heads);
        if (one) p.q = p.v = p.k;
    }
    struct attention_op_spec s = {
        .kernel = { .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .head_dim_v = c->head_dim, .scale = c->attention_scale != 0 ? c->attention_scale : 1 / sqrtf((float)c->head_dim), .softcap = c->attention_softcap,
                    .window = windowed ? c->window : 0, .causal = c->causal, .sinks = build_floats(b, ROLE_SINKS, false, layer, c->heads), .alibi = c->alibi, .kv_type = b->o->kv_type },
        .q_column = p.q_column, .k_column = p.k_column, .v_column = p.v_column, .layer_offset = (uint64_t)layer * b->layer_bytes, .page_stride = b->page_stride,
        .round = p.rounded, .rotary = turns ? c->rotary : 0, .adjacent = turns_adjacent(c), .exact = b->o->mode != LINEAR_FAST,
    };
    if (!b->st) b->st = attention_check(&s.kernel, b->err);
    struct node *n;
    int y = build_add(b, &op_paged_attention, (int[]){ p.q, p.k, p.v, b->inputs[LLM_ROWS], b->inputs[LLM_PAGES], b->inputs[LLM_KV], table }, turns && b->g->gpu ? 7 : 6, &s, sizeof s, &n);
    if (y >= 0) n->row_work = (uint64_t)c->heads * (uint64_t)c->head_dim * TEXT_GUESS;
    return build_linear(b, y, ROLE_O, layer, c->width, (int64_t)c->heads * c->head_dim, residual, BUILD_PLAIN, true);
}

/* ---- feed-forward ---- */
static struct linear_layer *expert_matrix(struct builder *b, enum llm_role role, int layer, int expert, int64_t n, int64_t k, const float **bias)
{
    struct llm_weight w;
    if (b->st) return NULL;
    build_find(b, role, layer, expert, n, k, &w);
    if (!b->st) b->st = llm_weight_floats(b->m, role, true, layer, expert, n, bias, b->err);
    return b->st || !w.data ? NULL : build_open_linear(b, &w);
}

/* gpt-oss stores gate and up of its experts row by row in turn: the even rows, then the odd ones. */
static enum status part_rows(struct builder *b, struct llm_weight *w, struct arena *arena)
{
    uint8_t *copy = arena_alloc(arena, (uint64_t)w->n * (uint64_t)w->row_bytes, 64);
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
    build_find(b, ROLE_EXPERT_GATE_UP, layer, expert, 2 * ffn, c->width, &w);
    if (!b->st) b->st = llm_weight_find(b->m, ROLE_EXPERT_GATE_UP, true, layer, expert, 0, 0, &bias, b->err);
    if (!b->st && w.data) {
        bool turns = c->folder && c->arch->flags & LLM_CLAMPED_GATE;
        if (turns) b->st = part_rows(b, &w, &b->loose);
        if (!b->st) e->gate = build_open_linear(b, &w);
        if (!b->st) b->st = llm_weight_floats(b->m, ROLE_EXPERT_GATE_UP, true, layer, expert, 2 * ffn, &e->gate_bias, b->err);
        if (!b->st && turns && e->gate_bias) {
            struct llm_weight v = { .n = 2 * ffn, .k = 1, .row_bytes = sizeof(float), .data = e->gate_bias };
            b->st = part_rows(b, &v, b->g->arena);
            e->gate_bias = v.data;
        }
    } else {
        e->gate = expert_matrix(b, ROLE_EXPERT_GATE, layer, expert, ffn, c->width, &e->gate_bias);
        e->up = expert_matrix(b, ROLE_EXPERT_UP, layer, expert, ffn, c->width, &e->up_bias);
        if (!b->st && !e->up) build_refuse(b, ST_BAD_INPUT, "layer %d: the matrices of expert %d are missing", layer, expert);
    }
    e->down = expert_matrix(b, ROLE_EXPERT_DOWN, layer, expert, c->width, ffn, &e->down_bias);
    if (!b->st && (!e->gate || !e->down)) build_refuse(b, ST_BAD_INPUT, "layer %d: the matrices of expert %d are missing", layer, expert);
}

/* One kind of matrix of all experts, one behind the other on the device. turns: rows of gate and up take turns in the file. false: the model has none. */
static bool device_experts(struct builder *b, struct device_experts *d, enum llm_role role, int layer, int64_t n, int64_t k, bool turns)
{
    const int count = b->c->experts;
    float *bias = NULL;
    struct gpu_rows first = { .data = NULL };
    for (int e = 0; e < count && !b->st; e++) {
        struct llm_weight w;
        const float *f = NULL;
        if (build_find(b, role, layer, e, n, k, &w)) return false;
        if (!w.data && e == 0) return false;
        if (!w.data || (e && w.type != first.type)) return build_refuse(b, ST_BAD_INPUT, "layer %d: the matrices of expert %d are missing, or not of the type of the others", layer, e), false;
        if (turns) b->st = part_rows(b, &w, &b->loose);
        const struct gpu_rows rows = { .type = w.type, .data = w.data, .n = n, .k = k, .row_bytes = w.row_bytes };
        if (e == 0) {
            first = rows;
            d->w.m = gpu_matrix_of(w.type, n, k);
            if (!b->st) b->st = gpu_store_take(b->g->gpu, NULL, 0, (uint64_t)count * gpu_matrix_bytes(&d->w.m), &d->w.at, b->err);
        }
        if (!b->st) b->st = gpu_store_rows(b->g->gpu, &rows, &d->w.m, (char *)d->w.at + (uint64_t)e * gpu_matrix_bytes(&d->w.m), b->err);
        arena_free(&b->loose);
        build_let_go(&w);
        if (!b->st) b->st = llm_weight_floats(b->m, role, true, layer, e, n, &f, b->err);
        if (b->st || !f) continue;
        if (!bias && !(bias = arena_calloc(b->g->arena, (uint64_t)count * (uint64_t)n, sizeof *bias))) return build_no_memory(b), false;
        for (int64_t i = 0; i < n; i++) bias[e * n + (turns ? i / 2 + i % 2 * (n / 2) : i)] = f[i];
    }
    d->bias = bias;
    return !b->st;
}

static void open_device_experts(struct builder *b, struct experts_spec *s, int layer)
{
    const struct llm_config *c = b->c;
    const int64_t ffn = c->expert_ffn;
    if (!device_experts(b, &s->device_gate, ROLE_EXPERT_GATE_UP, layer, 2 * ffn, c->width, c->folder && c->arch->flags & LLM_CLAMPED_GATE)) {
        const bool gate = device_experts(b, &s->device_gate, ROLE_EXPERT_GATE, layer, ffn, c->width, false), up = device_experts(b, &s->device_up, ROLE_EXPERT_UP, layer, ffn, c->width, false);
        if (!gate || !up) build_refuse(b, ST_BAD_INPUT, "layer %d: the experts' matrices are missing", layer);
    }
    if (!device_experts(b, &s->device_down, ROLE_EXPERT_DOWN, layer, c->width, ffn, false)) build_refuse(b, ST_BAD_INPUT, "layer %d: the experts' matrices are missing", layer);
}

static int experts(struct builder *b, int x, int layer)
{
    const struct llm_config *c = b->c;
    int router = build_linear(b, x, ROLE_ROUTER, layer, c->experts, c->width, -1, BUILD_PLAIN, true);
    struct experts_spec s = { .experts = c->experts, .used = c->experts_used, .width = c->width, .ffn = c->expert_ffn, .softmax_later = c->arch->flags & LLM_SOFTMAX_LATER, .renormalise = c->renormalise,
                              .gate = build_gate_of(c) };
    if (b->g->gpu) open_device_experts(b, &s, layer);
    else {
        s.layers = b->st ? NULL : arena_calloc(b->g->arena, (uint64_t)c->experts, sizeof *s.layers);
        if (!s.layers) return build_no_memory(b);
        for (int e = 0; e < c->experts; e++) open_expert(b, &s.layers[e], layer, e);
    }
    struct node *n;
    int y = build_add(b, &op_experts, (int[]){ x, router }, 2, &s, sizeof s, &n);
    if (y >= 0) n->row_work = (uint64_t)s.used * 3 * (uint64_t)s.width * (uint64_t)s.ffn;
    if (!build_has(b, ROLE_SHARED_GATE, layer)) return y;
    int h[2];
    build_projections(b, x, (enum llm_role[]){ ROLE_SHARED_GATE, ROLE_SHARED_UP }, (int64_t[]){ c->shared_ffn, c->shared_ffn }, 2, layer, &s.gate, h);
    int z = build_linear(b, h[0], ROLE_SHARED_DOWN, layer, c->width, c->shared_ffn, -1, BUILD_PLAIN, true);
    int weight = build_linear(b, x, ROLE_SHARED_ROUTER, layer, 1, c->width, -1, BUILD_PLAIN, false);
    return weight < 0 ? build_sum(b, y, z) : build_add(b, &op_shared, (int[]){ z, weight, y }, 3, NULL, 0, NULL);
}

static int feed_forward(struct builder *b, int x, int layer, int residual)
{
    const struct llm_config *c = b->c;
    const struct gate_spec s = build_gate_of(c);
    if (c->experts && build_has(b, ROLE_ROUTER, layer)) {
        int y = experts(b, x, layer);
        return residual < 0 ? y : build_sum(b, residual, y);
    }
    int h, both = build_linear(b, x, ROLE_GATE_UP, layer, 2 * (int64_t)c->ffn, c->width, -1, BUILD_PLAIN, false);
    if (both < 0 && build_has(b, ROLE_GATE, layer)) {
        int y[2];
        build_projections(b, x, (enum llm_role[]){ ROLE_GATE, ROLE_UP }, (int64_t[]){ c->ffn, c->ffn }, 2, layer, &s, y);
        h = y[0];
    } else if (both < 0) {
        struct llm_weight up = { 0 };
        if (!b->st && !c->folder) b->st = llm_weight_find(b->m, ROLE_UP, false, layer, -1, 0, c->width, &up, b->err);
        bool fused = up.n == 2 * (int64_t)c->ffn;      /* GGUF's Phi 3 */
        h = build_linear(b, x, ROLE_UP, layer, (fused ? 2 : 1) * (int64_t)c->ffn, c->width, -1, fused ? BUILD_PLAIN : c->act, true);
        if (fused) h = build_add(b, &op_gate, &h, 1, &s, sizeof s, NULL);
    } else {
        h = build_add(b, &op_gate, &both, 1, &s, sizeof s, NULL);
    }
    return build_linear(b, h, ROLE_DOWN, layer, c->width, c->ffn, residual, BUILD_PLAIN, true);
}

/* ---- a layer ---- */
static int add_scaled(struct builder *b, int x, int y)
{
    return build_sum(b, x, b->c->residual_scale == 1 ? y : build_scaled(b, &op_scale, y, b->c->residual_scale));
}

static int layer_parallel(struct builder *b, int x, int layer, bool bare)
{
    int64_t width = b->c->width;
    bool second = build_has(b, ROLE_ATTENTION_NORM2, layer), own = build_has(b, ROLE_FFN_NORM, layer);
    int a = build_norm(b, x, second ? ROLE_ATTENTION_NORM2 : ROLE_ATTENTION_NORM, layer, width, width, bare);
    int f = own ? build_norm(b, x, ROLE_FFN_NORM, layer, width, width, bare) : second ? build_norm(b, x, ROLE_ATTENTION_NORM, layer, width, width, bare) : a;
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
        x = build_sum(b, x, build_norm(b, attention(b, x, layer, -1), ROLE_ATTENTION_POST, layer, w, w, false));
        return build_sum(b, x, build_norm(b, feed_forward(b, x, layer, -1), ROLE_FFN_POST, layer, w, w, false));
    case BLOCK_SANDWICH:
        y = attention(b, build_norm(b, x, ROLE_ATTENTION_NORM, layer, w, w, false), layer, -1);
        x = build_sum(b, x, build_norm(b, y, ROLE_ATTENTION_POST, layer, w, w, false));
        y = feed_forward(b, build_norm(b, x, ROLE_FFN_NORM, layer, w, w, false), layer, -1);
        return build_sum(b, x, build_norm(b, y, ROLE_FFN_POST, layer, w, w, false));
    case BLOCK_AFTER:
        x = build_norm(b, attention(b, x, layer, x), ROLE_ATTENTION_POST, layer, w, w, false);
        return build_norm(b, feed_forward(b, x, layer, x), ROLE_FFN_POST, layer, w, w, false);
    default:
        y = build_norm(b, x, ROLE_ATTENTION_NORM, layer, w, w, bare);
        if (c->residual_scale == 1) {
            x = attention(b, y, layer, x);
            return feed_forward(b, build_norm(b, x, ROLE_FFN_NORM, layer, w, w, bare), layer, x);
        }
        x = add_scaled(b, x, attention(b, y, layer, -1));
        return add_scaled(b, x, feed_forward(b, build_norm(b, x, ROLE_FFN_NORM, layer, w, w, bare), layer, -1));
    }
}

/* ---- the ends ---- */
/* What an encoder's classifying head gives: BERT's pooler and classifier, RoBERTa's and DistilBERT's two layers. */
static int score(struct builder *b, int x)
{
    const struct llm_config *c = b->c;
    const struct activation_spec tanh_spec = { ACT_TANH, 0, 0 }, relu = { ACT_RELU, 0, 0 };
    if (build_has(b, ROLE_POOLER, 0)) x = build_linear(b, x, ROLE_POOLER, 0, c->width, c->width, -1, tanh_spec, true);
    if (build_has(b, ROLE_SCORE_DENSE, 0)) x = build_linear(b, x, ROLE_SCORE_DENSE, 0, c->width, c->width, -1, !strcmp(c->arch->name, "distilbert") ? relu : tanh_spec, true);
    return build_linear(b, x, ROLE_SCORE, 0, 0, c->width, -1, BUILD_PLAIN, true);
}

static int head(struct builder *b, int x)
{
    const struct llm_config *c = b->c;
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, ROLE_HEAD, false, 0, -1, c->vocabulary, c->width, &w, b->err);
    if (!b->st && !w.data) b->st = llm_weight_find(b->m, ROLE_TOKENS, false, 0, -1, c->vocabulary, c->width, &w, b->err);
    if (b->st) return -1;
    x = build_linear_of(b, x, &w, build_floats(b, ROLE_HEAD, true, 0, c->vocabulary), -1, BUILD_PLAIN);
    if (c->logits_scale != 1) x = build_scaled(b, &op_scale, x, c->logits_scale);
    if (c->final_softcap > 0) x = build_scaled(b, &op_softcap, x, c->final_softcap);
    return x;
}

uint64_t llm_page_bytes(const struct llm_config *c, int kv_type)
{
    const struct attention_spec s = { .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .head_dim_v = c->head_dim, .kv_type = kv_type };
    return attention_page_bytes(&s) * (uint64_t)llm_planes(c);
}

enum status llm_build(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err)
{
    const struct llm_config *c = &m->config;
    if (c->arch->flags & LLM_PAIR) return c->decoder_layers ? llm_build_decoder(g, m, o, err) : llm_build_encoder(g, m, o, err);
    struct builder b = { .g = g, .m = m, .c = c, .o = o, .err = err, .table = -1, .local_table = -1 };
    b.page_stride = llm_page_bytes(c, o->kv_type) / (uint64_t)c->layers;
    b.layer_bytes = b.page_stride * (uint64_t)o->pages;
    build_add_inputs(&b);
    if (c->arch->rope != ROPE_NONE && c->rotary) {
        b.table = rope_table(&b, false);
        if (c->arch->flags & LLM_LOCAL_BASE) b.local_table = rope_table(&b, true);
    }
    int x = embeddings(&b);
    for (int l = 0; l < c->layers && !b.st; l++) x = layer_of(&b, x, l);
    x = build_add(&b, &op_take_rows, (int[]){ x, b.inputs[LLM_WANTED] }, 2, NULL, 0, NULL);
    if (c->block != BLOCK_AFTER) x = build_norm(&b, x, ROLE_FINAL_NORM, 0, c->width, c->width, !strcmp(c->arch->name, "olmo"));
    if (!b.st) build_name_output(&b, x, "hidden");
    if (c->causal) {
        x = head(&b, x);
        if (!b.st) build_name_output(&b, x, "logits");
    } else if (c->labels) {
        x = score(&b, x);
        if (!b.st) build_name_output(&b, x, "scores");
    }
    if (!b.st) b.st = llm_weights_all_used(m, err);
    arena_free(&b.loose);
    return b.st ? b.st : graph_sort(g, err);
}
