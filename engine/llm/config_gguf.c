/* struct llm_config from the keys of a GGUF file; key names as ggml's GGUF documentation has them, "<architecture>." in front. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/llm/model.h"

struct keys { const struct gguf *g; char prefix[64]; };

static const char *full_name(const struct keys *k, const char *name, char *out, size_t size)
{
    snprintf(out, size, "%s.%s", k->prefix, name);
    return out;
}

/* A number, or the first of an array of numbers that are all alike. */
static bool read_int(const struct keys *k, const char *name, int *out)
{
    char full[128];
    uint32_t v;
    struct gguf_array a;
    full_name(k, name, full, sizeof full);
    if (gguf_u32(k->g, full, &v) && v <= INT32_MAX) return *out = (int)v, true;
    if (!gguf_array(k->g, full, &a) || a.count == 0 || a.type == GGUF_STRING) return false;
    for (uint64_t i = 1; i < a.count; i++)
        if (gguf_array_int(&a, i) != gguf_array_int(&a, 0)) return false;
    *out = (int)gguf_array_int(&a, 0);
    return true;
}

static bool read_float(const struct keys *k, const char *name, float *out)
{
    char full[128];
    return gguf_f32(k->g, full_name(k, name, full, sizeof full), out);
}

static bool text_is(const struct keys *k, const char *name, const char *text)
{
    char full[128];
    return gguf_text_is(k->g, full_name(k, name, full, sizeof full), text);
}

static void read_scaling(const struct keys *k, struct llm_config *c)
{
    struct llm_scaling_spec *s = &c->scaling;
    s->truncate = true;
    if (text_is(k, "rope.scaling.type", "linear")) s->kind = SCALING_LINEAR;
    else if (text_is(k, "rope.scaling.type", "yarn")) s->kind = SCALING_YARN;
    else if (text_is(k, "rope.scaling.type", "longrope")) s->kind = SCALING_LONGROPE;
    s->factor = 1;
    read_float(k, "rope.scaling.factor", &s->factor);
    if (s->kind == SCALING_NONE && read_float(k, "rope.scale_linear", &s->factor) && s->factor != 1) s->kind = SCALING_LINEAR;
    read_float(k, "rope.scaling.attn_factor", &s->attention_factor);
    read_int(k, "rope.scaling.original_context_length", &s->original_context);
    s->low = 1;
    s->high = 32;
    read_float(k, "rope.scaling.yarn_beta_slow", &s->low);
    read_float(k, "rope.scaling.yarn_beta_fast", &s->high);
}

static void read_experts(const struct keys *k, struct llm_config *c)
{
    read_int(k, "expert_count", &c->experts);
    read_int(k, "expert_used_count", &c->experts_used);
    c->expert_ffn = c->ffn;
    read_int(k, "expert_feed_forward_length", &c->expert_ffn);
    c->shared_ffn = c->ffn;
    read_int(k, "expert_shared_feed_forward_length", &c->shared_ffn);
    c->renormalise = !(c->arch->flags & LLM_NO_RENORM);
    char full[128];
    gguf_bool(k->g, full_name(k, "expert_weights_norm", full, sizeof full), &c->renormalise);
}

/* What the file does not say and ggml's own loaders know by heart. */
static void read_family(const struct keys *k, struct llm_config *c)
{
    const char *name = c->arch->name;
    char full[128];
    if (c->arch->flags & LLM_EMBED_SCALED) c->embedding_scale = sqrtf((float)c->width);
    if (!strcmp(name, "gemma2")) {
        if (!c->window) c->window = 4096;
        if (c->attention_softcap == 0) c->attention_softcap = 50;
        if (c->final_softcap == 0) c->final_softcap = 30;
        if (c->layers == 46) c->attention_scale = 1 / sqrtf((float)c->width / (float)c->heads);
    }
    if (!strcmp(name, "gemma3") && c->layers == 62) c->attention_scale = 1 / sqrtf((float)c->width / (float)c->heads);
    if (c->arch->flags & LLM_LOCAL_BASE) {
        c->rope_local_base = 10000;
        read_float(k, "rope.freq_base_swa", &c->rope_local_base);
    }
    if (!strcmp(name, "granite")) {
        read_float(k, "embedding_scale", &c->embedding_scale);
        read_float(k, "residual_scale", &c->residual_scale);
        read_float(k, "attention.scale", &c->attention_scale);
        if (read_float(k, "logit_scale", &c->logits_scale) && c->logits_scale != 0) c->logits_scale = 1 / c->logits_scale;
    }
    if (!strcmp(name, "phi3") && c->window >= c->context) c->window = 0;
    if (!strcmp(name, "gptneox")) {
        c->parallel = true;
        gguf_bool(k->g, full_name(k, "use_parallel_residual", full, sizeof full), &c->parallel);
    }
    if (!strcmp(name, "gpt-oss")) c->swiglu_limit = 7;
}

/* T5: whether it has a decoder and a gate is told by the tensors; scores are not scaled; a head of its own takes unscaled vectors. */
static void read_pair(const struct llm_model *m, const struct keys *k, struct llm_config *c)
{
    c->attention_scale = 1;
    c->distance_buckets = 32;
    c->distance_max = 128;
    read_int(k, "attention.relative_buckets_count", &c->distance_buckets);
    if (weights_find(m->weights, "enc.blk.0.ffn_gate.weight")) c->act.kind = ACT_GELU_TANH;
    c->causal = weights_find(m->weights, "dec.output_norm.weight") != NULL;
    if (!c->causal) return;
    c->decoder_layers = c->layers;
    read_int(k, "decoder_block_count", &c->decoder_layers);
    read_int(k, "decoder_start_token_id", &c->decoder_start);
    c->tied = !weights_find(m->weights, "output.weight");
    if (c->tied) c->logits_scale = 1 / sqrtf((float)c->width);
}

static enum llm_pooling pooling_of(int number)
{
    static const enum llm_pooling kinds[] = { POOL_NONE, POOL_MEAN, POOL_CLS, POOL_LAST, POOL_CLS };
    return number >= 0 && number < 5 ? kinds[number] : POOL_NONE;
}

enum status llm_config_read_gguf(struct llm_model *m, struct err *err)
{
    struct llm_config *c = &m->config;
    struct keys k = { .g = m->gguf };
    size_t length;
    const char *name = gguf_text(m->gguf, "general.architecture", &length);
    if (!name) return err_set(err, ST_BAD_INPUT, "the key general.architecture is missing");
    *c = (struct llm_config){ .arch = llm_architecture_of_gguf(name, length), .embedding_scale = 1, .residual_scale = 1, .logits_scale = 1, .rope_base = 10000, .norm_epsilon = 1e-5f, .causal = true };
    if (!c->arch) return err_set(err, ST_UNSUPPORTED, "the architecture '%.*s' is not among those that are served", (int)(length > 60 ? 60 : length), name);
    snprintf(k.prefix, sizeof k.prefix, "%s", c->arch->name);
    const struct { const char *key; int *out; } needed[] = { { "block_count", &c->layers }, { "embedding_length", &c->width }, { "attention.head_count", &c->heads }, { "context_length", &c->context } };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (!read_int(&k, needed[i].key, needed[i].out)) return err_set(err, ST_BAD_INPUT, "the key %s.%s is missing or no whole number", k.prefix, needed[i].key);
    c->kv_heads = c->heads;
    read_int(&k, "attention.head_count_kv", &c->kv_heads);
    read_int(&k, "feed_forward_length", &c->ffn);
    c->head_dim = c->heads > 0 ? c->width / c->heads : 0;
    read_int(&k, "attention.key_length", &c->head_dim);
    c->rotary = c->head_dim;
    read_int(&k, "rope.dimension_count", &c->rotary);
    read_float(&k, "rope.freq_base", &c->rope_base);
    if (!read_float(&k, "attention.layer_norm_rms_epsilon", &c->norm_epsilon)) read_float(&k, "attention.layer_norm_epsilon", &c->norm_epsilon);
    read_int(&k, "attention.sliding_window", &c->window);
    c->window_pattern = c->arch->window_pattern;
    read_float(&k, "attn_logit_softcapping", &c->attention_softcap);
    read_float(&k, "final_logit_softcapping", &c->final_softcap);
    read_float(&k, "attention.clamp_kqv", &c->clip_qkv);
    read_scaling(&k, c);
    read_experts(&k, c);
    char full[128];
    c->causal = !(c->arch->flags & LLM_ENCODER);
    gguf_bool(m->gguf, full_name(&k, "attention.causal", full, sizeof full), &c->causal);
    int pooling = -1;
    if (read_int(&k, "pooling_type", &pooling)) c->pooling = pooling_of(pooling);
    else if (c->arch->flags & LLM_ENCODER) c->pooling = POOL_MEAN;
    const struct weight_tensor *score = pooling == 4 ? weights_find(m->weights, "cls.output.weight") : NULL;      /* 4: a reranker */
    if (score) c->labels = score->rank > 1 && score->dims[0] <= INT32_MAX ? (int)score->dims[0] : 1;
    c->normalise_vectors = true;
    c->block = c->arch->block;
    c->act = c->arch->act;
    c->parallel = c->block == BLOCK_PARALLEL;
    read_family(&k, c);
    float most = 8;      /* which BLOOM's files do not say */
    if (c->arch->flags & LLM_ALIBI && c->heads > 0 && c->heads <= 4096) {
        read_float(&k, "attention.max_alibi_bias", &most);
        c->alibi = llm_alibi_slopes(&m->arena, c->heads, most, 1, false);
        if (!c->alibi) return err_set(err, ST_NO_MEMORY, "reading the configuration");
        c->rotary = 0;
    }
    if (c->arch->flags & LLM_PAIR) read_pair(m, &k, c);
    const struct weight_tensor *t = weights_find(m->weights, "token_embd.weight");
    if (!t || t->rank != 2 || t->dims[0] > INT32_MAX) return err_set(err, ST_BAD_INPUT, "token_embd.weight is missing or no matrix");
    c->vocabulary = (int)t->dims[0];
    if (c->scaling.kind == SCALING_NONE && weights_find(m->weights, "rope_factors_long.weight")) {      /* Phi 3: the factors are there, the kind need not be said */
        c->scaling.kind = SCALING_LONGROPE;
        if (c->scaling.factor <= 1 && c->scaling.original_context > 0) c->scaling.factor = (float)c->context / (float)c->scaling.original_context;
    }
    return ST_OK;
}
