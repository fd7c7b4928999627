/* Graphs of an encoder and a decoder beside it (T5). The encoder runs once over a whole prompt, every token looking at every other; what the decoder's layers look at, the
 * keys and values of each, is made at its end and kept in the cache's pages, so that it is state of the sequence like any other. The decoder then goes step by step
 * and looks at its own text and at those. Scores get a number for the distance, by head: near ones each their own, farther ones by buckets that widen.
 *
 * Planes of a page: first those of the text itself (the encoder's layers use them while it runs, then the decoder's), then the decoder's layers' view of the prompt. */
#include "engine/llm/build_internal.h"

#include <math.h>
#include <stdlib.h>

static int own_planes(const struct llm_config *c) { return c->layers > c->decoder_layers ? c->layers : c->decoder_layers; }

int llm_planes(const struct llm_config *c) { return c->arch->flags & LLM_PAIR ? own_planes(c) + c->decoder_layers : c->layers; }

/* The bucket of key - position, as the models were trained: half of them exact, the rest by the logarithm up to distance_max. */
static int bucket_of(const struct llm_config *c, int distance, bool both_ways)
{
    int buckets = both_ways ? c->distance_buckets / 2 : c->distance_buckets, exact = buckets / 2, base = both_ways && distance > 0 ? buckets : 0;
    int d = both_ways ? abs(distance) : distance < 0 ? -distance : 0;
    if (d < exact) return base + d;
    int far = exact + (int)(logf((float)d / (float)exact) / logf((float)c->distance_max / (float)exact) * (float)(buckets - exact));
    return base + (far < buckets - 1 ? far : buckets - 1);
}

/* [heads, 2 * distance_max + 1], by distance. */
static const float *distances(struct builder *b, enum llm_role role, bool both_ways)
{
    const struct llm_config *c = b->c;
    int span = c->distance_max;
    const float *table = build_floats(b, role, false, 0, (int64_t)c->distance_buckets * c->heads);
    float *f = b->st ? NULL : arena_alloc(b->g->arena, (uint64_t)c->heads * (uint64_t)(2 * span + 1) * sizeof *f, 16);
    if (!b->st && !table) build_refuse(b, ST_BAD_INPUT, "the table of relative positions is missing");
    if (!b->st && !f) build_no_memory(b);
    if (b->st) return NULL;
    for (int h = 0; h < c->heads; h++)
        for (int d = -span; d <= span; d++) f[(int64_t)h * (2 * span + 1) + span + d] = table[(int64_t)bucket_of(c, d, both_ways) * c->heads + h];
    return f;
}

static struct attention_op_spec spec_of(const struct builder *b, int plane, bool causal, const float *relative)
{
    const struct llm_config *c = b->c;
    return (struct attention_op_spec){
        .kernel = { .heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .head_dim_v = c->head_dim, .scale = c->attention_scale, .causal = causal, .kv_type = b->o->kv_type, .relative = relative, .relative_span = c->distance_max },
        .layer_offset = (uint64_t)plane * b->layer_bytes, .page_stride = b->page_stride,
    };
}

/* The roles of one layer's parts. */
struct stack { enum llm_role norm, q, k, v, o, ffn_norm, gate, up, down; bool causal; };
static const struct stack encoder_stack = { ROLE_ATTENTION_NORM, ROLE_Q, ROLE_K, ROLE_V, ROLE_O, ROLE_FFN_NORM, ROLE_GATE, ROLE_UP, ROLE_DOWN, false };
static const struct stack decoder_stack = { ROLE_PAIR_ATTENTION_NORM, ROLE_PAIR_Q, ROLE_PAIR_K, ROLE_PAIR_V, ROLE_PAIR_O, ROLE_PAIR_FFN_NORM, ROLE_PAIR_GATE, ROLE_PAIR_UP, ROLE_PAIR_DOWN, true };

static int self_attention(struct builder *b, int x, const struct stack *s, int layer, const float *relative)
{
    const struct llm_config *c = b->c;
    int64_t inner = (int64_t)c->heads * c->head_dim;
    struct attention_op_spec spec = spec_of(b, layer, s->causal, relative);
    struct node *n;
    int y = build_norm(b, x, s->norm, layer, c->width, c->width, false);
    int qkv[3];
    build_projections(b, y, (enum llm_role[]){ s->q, s->k, s->v }, (int64_t[]){ inner, inner, inner }, 3, layer, NULL, qkv);
    if (!b->st) b->st = attention_check(&spec.kernel, b->err);
    y = build_add(b, &op_paged_attention, (int[]){ qkv[0], qkv[1], qkv[2], b->inputs[LLM_ROWS], b->inputs[LLM_PAGES], b->inputs[LLM_KV] }, 6, &spec, sizeof spec, &n);
    if (y >= 0) n->row_work = (uint64_t)inner * TEXT_GUESS;
    return build_linear(b, y, s->o, layer, c->width, inner, x, BUILD_PLAIN, true);
}

static int cross_attention(struct builder *b, int x, int layer)
{
    const struct llm_config *c = b->c;
    int64_t inner = (int64_t)c->heads * c->head_dim;
    const struct attention_op_spec spec = spec_of(b, own_planes(c) + layer, false, NULL);
    struct node *n;
    int q = build_linear(b, build_norm(b, x, ROLE_CROSS_NORM, layer, c->width, c->width, false), ROLE_CROSS_Q, layer, inner, c->width, -1, BUILD_PLAIN, true);
    int y = build_add(b, &op_cross_attention, (int[]){ q, b->inputs[LLM_ENCODED], b->inputs[LLM_PAGES], b->inputs[LLM_KV] }, 4, &spec, sizeof spec, &n);
    if (y >= 0) n->row_work = (uint64_t)inner * TEXT_GUESS;
    return build_linear(b, y, ROLE_CROSS_O, layer, c->width, inner, x, BUILD_PLAIN, true);
}

static int feed_forward(struct builder *b, int x, const struct stack *s, int layer)
{
    const struct llm_config *c = b->c;
    const struct gate_spec act = build_gate_of(c);
    int y = build_norm(b, x, s->ffn_norm, layer, c->width, c->width, false), h[2];
    if (build_has(b, s->gate, layer)) build_projections(b, y, (enum llm_role[]){ s->gate, s->up }, (int64_t[]){ c->ffn, c->ffn }, 2, layer, &act, h);
    else h[0] = build_linear(b, y, s->up, layer, c->ffn, c->width, -1, c->act, true);
    return build_linear(b, h[0], s->down, layer, c->width, c->ffn, x, BUILD_PLAIN, true);
}

/* Keys and values of the prompt for each of the decoder's layers. */
static int keep_for_decoder(struct builder *b, int x)
{
    const struct llm_config *c = b->c;
    int64_t inner = (int64_t)c->heads * c->head_dim;
    int kept = x;
    for (int l = 0; l < c->decoder_layers && !b->st; l++) {
        const struct attention_op_spec spec = spec_of(b, own_planes(c) + l, false, NULL);
        int kv[2];
        build_projections(b, x, (enum llm_role[]){ ROLE_CROSS_K, ROLE_CROSS_V }, (int64_t[]){ inner, inner }, 2, l, NULL, kv);
        kept = build_add(b, &op_keep, (int[]){ kept, kv[0], kv[1], b->inputs[LLM_ROWS], b->inputs[LLM_PAGES], b->inputs[LLM_KV] }, 6, &spec, sizeof spec, NULL);
    }
    return kept;
}

static struct builder begin(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err)
{
    struct builder b = { .g = g, .m = m, .c = &m->config, .o = o, .err = err, .table = -1, .local_table = -1 };
    b.page_stride = llm_page_bytes(b.c, o->kv_type) / (uint64_t)llm_planes(b.c);
    b.layer_bytes = b.page_stride * (uint64_t)o->pages;
    build_add_inputs(&b);
    return b;
}

enum status llm_build_encoder(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err)
{
    struct builder b = begin(g, m, o, err);
    const struct llm_config *c = b.c;
    const float *relative = distances(&b, ROLE_RELATIVE, true);
    int x = build_embed(&b, ROLE_TOKENS, b.inputs[LLM_TOKENS], c->vocabulary, 0, 1, true);
    for (int l = 0; l < c->layers && !b.st; l++) x = feed_forward(&b, self_attention(&b, x, &encoder_stack, l, relative), &encoder_stack, l);
    x = keep_for_decoder(&b, build_norm(&b, x, ROLE_FINAL_NORM, 0, c->width, c->width, false));
    x = build_add(&b, &op_take_rows, (int[]){ x, b.inputs[LLM_WANTED] }, 2, NULL, 0, NULL);
    if (!b.st) build_name_output(&b, x, "hidden");
    if (!b.st) b.st = llm_weights_all_used(m, err);
    arena_free(&b.loose);
    return b.st ? b.st : graph_sort(g, err);
}

static int head(struct builder *b, int x)
{
    const struct llm_config *c = b->c;
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, ROLE_HEAD, false, 0, -1, c->vocabulary, c->width, &w, b->err);
    if (!b->st && !w.data) b->st = llm_weight_find(b->m, ROLE_TOKENS, false, 0, -1, c->vocabulary, c->width, &w, b->err);
    if (b->st) return -1;
    if (c->logits_scale != 1) x = build_scaled(b, &op_scale, x, c->logits_scale);
    return build_linear_of(b, x, &w, NULL, -1, BUILD_PLAIN);
}

enum status llm_build_decoder(struct graph *g, struct llm_model *m, const struct llm_build_options *o, struct err *err)
{
    struct builder b = begin(g, m, o, err);
    const struct llm_config *c = b.c;
    const float *relative = distances(&b, ROLE_PAIR_RELATIVE, false);
    int x = build_embed(&b, ROLE_TOKENS, b.inputs[LLM_TOKENS], c->vocabulary, 0, 1, true);
    for (int l = 0; l < c->decoder_layers && !b.st; l++) x = feed_forward(&b, cross_attention(&b, self_attention(&b, x, &decoder_stack, l, relative), l), &decoder_stack, l);
    x = build_add(&b, &op_take_rows, (int[]){ x, b.inputs[LLM_WANTED] }, 2, NULL, 0, NULL);
    x = build_norm(&b, x, ROLE_PAIR_NORM, 0, c->width, c->width, false);
    if (!b.st) build_name_output(&b, x, "hidden");
    x = head(&b, x);
    if (!b.st) build_name_output(&b, x, "logits");
    arena_free(&b.loose);
    return b.st ? b.st : graph_sort(g, err);
}
