/* A configuration as GGUF keys, and whether two configurations compute the same. Keys and their meaning are those of ggml's GGUF documentation; what a family's loader
 * knows by heart has no key, so every set of keys is read again and compared: a difference is refused with a sentence. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/llm/convert_internal.h"
#include "engine/llm/rotation.h"

enum { FREQUENCIES_MAX = 1024 };

/* ---- which family ---- */
static bool any_without_rotation(const struct json *config)
{
    const struct json *list = json_get(config, "no_rope_layers");
    int64_t v;
    for (const struct json *x = list && list->type == JSON_ARRAY ? list->list.first : NULL; x; x = x->next)
        if (json_as_int64(x, &v) && v == 0) return true;
    return false;
}

enum status convert_gguf_architecture(const struct llm_model *m, const struct llm_architecture **out, struct err *err)
{
    const struct llm_config *c = &m->config;
    const char *name = c->arch->name;
    const struct json *alibi = m->config_json ? json_get(m->config_json, "alibi") : NULL;
    if (!strcmp(name, "gptj")) return err_set(err, ST_UNSUPPORTED, "GGUF has no architecture for GPT-J");
    if (any_without_rotation(m->config_json)) return err_set(err, ST_UNSUPPORTED, "layers without rotation (no_rope_layers) have no word in the architecture '%s'", name);
    if (alibi && alibi->type == JSON_BOOL && alibi->boolean) return err_set(err, ST_UNSUPPORTED, "GGUF's falcon rotates; this model has alibi");
    if (c->arch->rope == ROPE_ADJACENT_GGUF && c->rotary != c->head_dim) return err_set(err, ST_UNSUPPORTED, "GGUF's %s rotates whole heads; this model %d of %d dimensions", name, c->rotary, c->head_dim);
    if (!strcmp(name, "falcon") && !c->parallel) return err_set(err, ST_UNSUPPORTED, "GGUF's falcon computes attention and feed-forward side by side; this model one after the other");
    if (!strcmp(name, "distilbert") && c->labels) return err_set(err, ST_UNSUPPORTED, "GGUF's bert classifies with tanh; DistilBERT with relu");
    bool as_bert = !strcmp(name, "roberta") || !strcmp(name, "distilbert");
    bool alone = c->arch->flags & LLM_PAIR && !c->decoder_layers;
    *out = as_bert ? llm_architecture_of_gguf("bert", 4) : alone ? llm_architecture_of_gguf("t5encoder", 9) : c->arch;
    return ST_OK;
}

/* ---- keys ---- */
struct keys { struct gguf_writer *w; const char *prefix; };

static const char *full_name(const struct keys *k, const char *name, char full[128])
{
    snprintf(full, 128, "%s.%s", k->prefix, name);
    return full;
}

static void put_int(const struct keys *k, const char *name, int v) { gguf_writer_u32(k->w, full_name(k, name, (char[128]){ 0 }), (uint32_t)v); }
static void put_float(const struct keys *k, const char *name, float v) { gguf_writer_f32(k->w, full_name(k, name, (char[128]){ 0 }), v); }
static void put_bool(const struct keys *k, const char *name, bool v) { gguf_writer_bool(k->w, full_name(k, name, (char[128]){ 0 }), v); }
static void put_text(const struct keys *k, const char *name, const char *v) { gguf_writer_text(k->w, full_name(k, name, (char[128]){ 0 }), v, strlen(v)); }

static void put_rotation(const struct keys *k, const struct llm_config *c)
{
    const struct llm_scaling_spec *s = &c->scaling;
    put_int(k, "rope.dimension_count", c->rotary);
    put_float(k, "rope.freq_base", c->rope_base);
    if (c->arch->flags & LLM_LOCAL_BASE && c->rope_local_base != 10000) put_float(k, "rope.freq_base_swa", c->rope_local_base);
    if (s->kind == SCALING_LINEAR) {
        put_text(k, "rope.scaling.type", "linear");
        put_float(k, "rope.scaling.factor", s->factor);
    } else if (s->kind == SCALING_YARN) {
        float usual = s->factor > 1 ? 0.1f * logf(s->factor) + 1 : 1;
        put_text(k, "rope.scaling.type", "yarn");
        put_float(k, "rope.scaling.factor", s->factor);
        put_int(k, "rope.scaling.original_context_length", s->original_context);
        if (s->low != 1) put_float(k, "rope.scaling.yarn_beta_slow", s->low);
        if (s->high != 32) put_float(k, "rope.scaling.yarn_beta_fast", s->high);
        if (rotation_factor(c) != usual) put_float(k, "rope.scaling.attn_factor", rotation_factor(c) / usual);
    } else if (s->kind == SCALING_LONGROPE) {
        put_text(k, "rope.scaling.type", "longrope");
        put_int(k, "rope.scaling.original_context_length", s->original_context);
        put_float(k, "rope.scaling.attn_factor", rotation_factor(c));
    }
}

static void put_experts(const struct keys *k, const struct llm_config *c)
{
    put_int(k, "expert_count", c->experts);
    put_int(k, "expert_used_count", c->experts_used);
    if (strcmp(k->prefix, "llama")) put_int(k, "expert_feed_forward_length", c->expert_ffn);
    if (!strcmp(k->prefix, "qwen2moe")) put_int(k, "expert_shared_feed_forward_length", c->shared_ffn);
}

/* Keys that only some families have. */
static void put_family(const struct keys *k, const struct llm_config *c)
{
    const char *name = k->prefix;
    if (!strcmp(name, "granite")) {
        put_float(k, "embedding_scale", c->embedding_scale);
        put_float(k, "residual_scale", c->residual_scale);
        put_float(k, "attention.scale", c->attention_scale != 0 ? c->attention_scale : 1 / sqrtf((float)c->head_dim));
        put_float(k, "logit_scale", 1 / c->logits_scale);
    }
    if (!strcmp(name, "gptneox") || !strcmp(name, "stablelm")) put_bool(k, "use_parallel_residual", c->parallel);
    if (c->arch->flags & LLM_ALIBI && strcmp(name, "bloom")) put_float(k, "attention.max_alibi_bias", -log2f(c->alibi[(c->heads & (c->heads - 1)) ? 0 : c->heads - 1]));      /* of a number of heads that is no power of two the comparison decides */
    if (c->arch->flags & LLM_PAIR) put_int(k, "attention.relative_buckets_count", c->distance_buckets);
    if (c->decoder_layers) {
        put_int(k, "decoder_block_count", c->decoder_layers);
        put_int(k, "decoder_start_token_id", c->decoder_start);
    }
    if (c->attention_softcap > 0) put_float(k, "attn_logit_softcapping", c->attention_softcap);
    if (c->final_softcap > 0) put_float(k, "final_logit_softcapping", c->final_softcap);
    if (c->clip_qkv > 0) put_float(k, "attention.clamp_kqv", c->clip_qkv);
    if (c->window) put_int(k, "attention.sliding_window", c->window);
    if (c->causal) return;
    static const int pooling[] = { [POOL_NONE] = 0, [POOL_MEAN] = 1, [POOL_CLS] = 2, [POOL_LAST] = 3 };
    put_bool(k, "attention.causal", false);
    put_int(k, "pooling_type", c->labels ? 4 : pooling[c->pooling]);
}

enum status convert_put_config(struct gguf_writer *w, const struct llm_config *c, const struct llm_architecture *a, struct err *err)
{
    const struct keys k = { w, a->name };
    if (c->logits_scale == 0) return err_set(err, ST_BAD_INPUT, "the logits are scaled by 0");
    gguf_writer_text(w, "general.architecture", a->name, strlen(a->name));
    put_int(&k, "vocab_size", c->vocabulary);
    put_int(&k, "context_length", c->context - (c->folder && c->arch->flags & LLM_POSITION_SHIFT ? 2 : 0));
    put_int(&k, "embedding_length", c->width);
    put_int(&k, "block_count", c->layers);
    put_int(&k, "feed_forward_length", c->ffn);
    put_int(&k, "attention.head_count", c->heads);
    put_int(&k, "attention.head_count_kv", c->kv_heads);
    if (c->head_dim * c->heads != c->width) {
        put_int(&k, "attention.key_length", c->head_dim);
        put_int(&k, "attention.value_length", c->head_dim);
    }
    put_float(&k, a->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", c->norm_epsilon);
    if (a->rope != ROPE_NONE) put_rotation(&k, c);
    if (c->experts) put_experts(&k, c);
    put_family(&k, c);
    return ST_OK;
}

/* ---- comparing ---- */
static bool near(float a, float b) { return fabsf(a - b) <= 1e-6f * fmaxf(1, fmaxf(fabsf(a), fabsf(b))); }

static enum status different(struct err *err, const char *what, double want, double got)
{
    return err_set(err, ST_UNSUPPORTED, "the target's format cannot say this model's %s: %g would be read as %g", what, want, got);
}

static float attention_scale(const struct llm_config *c) { return c->attention_scale != 0 ? c->attention_scale : 1 / sqrtf((float)c->head_dim); }

/* Bands and long factors are tensors in GGUF: what remains of the scaling is compared. */
static enum status same_rotation(const struct llm_config *want, const struct llm_config *got, struct err *err)
{
    float a[FREQUENCIES_MAX], b[FREQUENCIES_MAX];
    struct llm_config plain = *want, other = *got;
    if (want->rotary != got->rotary) return different(err, "number of rotated dimensions", want->rotary, got->rotary);
    if (want->rotary / 2 > FREQUENCIES_MAX) return err_set(err, ST_TOO_LARGE, "%d rotated dimensions", want->rotary);
    if (plain.scaling.kind == SCALING_LLAMA3) plain.scaling.kind = SCALING_NONE;
    if (other.scaling.kind == SCALING_LLAMA3) other.scaling.kind = SCALING_NONE;
    for (int local = 0; local < 1 + (want->arch->flags & LLM_LOCAL_BASE ? 1 : 0); local++) {
        rotation_frequencies(&plain, local, NULL, a);
        rotation_frequencies(&other, local, NULL, b);
        for (int i = 0; i < want->rotary / 2; i++)
            if (fabsf(a[i] - b[i]) > 1e-6f * fabsf(a[i])) return different(err, "frequencies of the rotation", (double)a[i], (double)b[i]);
    }
    if (!near(rotation_factor(want), rotation_factor(got))) return different(err, "factor of the rotation", (double)rotation_factor(want), (double)rotation_factor(got));
    if ((want->scaling.kind == SCALING_LONGROPE) != (got->scaling.kind == SCALING_LONGROPE)) return err_set(err, ST_UNSUPPORTED, "the target's format cannot say that the rotation is stretched by LongRoPE");
    if (want->scaling.kind == SCALING_LONGROPE && want->scaling.original_context != got->scaling.original_context) return different(err, "context before stretching", want->scaling.original_context, got->scaling.original_context);
    return ST_OK;
}

static enum status same_floats(const struct llm_config *want, const struct llm_config *got, struct err *err)
{
    const struct { const char *what; float want, got; } all[] = {
        { "norm epsilon", want->norm_epsilon * 1e6f, got->norm_epsilon * 1e6f }, { "attention scale", attention_scale(want), attention_scale(got) }, { "embedding scale", want->embedding_scale, got->embedding_scale },
        { "residual scale", want->residual_scale, got->residual_scale }, { "logits scale", want->logits_scale, got->logits_scale }, { "soft cap of attention", want->attention_softcap, got->attention_softcap },
        { "soft cap of the logits", want->final_softcap, got->final_softcap }, { "clamp of q, k and v", want->clip_qkv, got->clip_qkv },
        { "limit of the gate", want->arch->flags & LLM_CLAMPED_GATE ? want->swiglu_limit : 0, want->arch->flags & LLM_CLAMPED_GATE ? got->swiglu_limit : 0 },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!near(all[i].want, all[i].got)) return different(err, all[i].what, (double)all[i].want, (double)all[i].got);
    return ST_OK;
}

enum status convert_same_config(const struct llm_config *want, const struct llm_config *got, struct err *err)
{
    bool moe = want->experts > 0;
    const struct { const char *what; int want, got; } all[] = {
        { "layers", want->layers, got->layers }, { "width", want->width, got->width }, { "heads", want->heads, got->heads }, { "key-value heads", want->kv_heads, got->kv_heads }, { "head dimension", want->head_dim, got->head_dim },
        { "feed-forward width", want->ffn, got->ffn }, { "vocabulary", want->vocabulary, got->vocabulary }, { "experts", want->experts, got->experts }, { "experts used", want->experts_used, got->experts_used },
        { "experts' width", moe ? want->expert_ffn : 0, moe ? got->expert_ffn : 0 }, { "division of the chosen experts' weights by their sum", moe && want->renormalise, moe && got->renormalise },
        { "parallel attention and feed-forward", want->parallel, got->parallel }, { "order of norms", (int)want->block, (int)got->block }, { "activation", (int)want->act.kind, (int)got->act.kind },
        { "layers of the decoder", want->decoder_layers, got->decoder_layers }, { "token that a text begins with", want->decoder_start, got->decoder_start },
        { "buckets of distances", want->distance_buckets, got->distance_buckets }, { "distance from which all are alike", want->distance_max, got->distance_max },
        { "causality", want->causal, got->causal }, { "labels", want->labels, got->labels }, { "pooling", want->causal || want->labels ? 0 : (int)want->pooling, want->causal || want->labels ? 0 : (int)got->pooling },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i].want != all[i].got) return different(err, all[i].what, all[i].want, all[i].got);
    for (int l = 0; l < want->layers; l++) {
        int a = llm_is_windowed(want, l) ? want->window : 0, b = llm_is_windowed(got, l) ? got->window : 0;
        if (a != b) return err_set(err, ST_UNSUPPORTED, "the target's format cannot say this model's windows: layer %d looks back %d tokens and would look back %d (0: all)", l, a, b);
    }
    for (int h = 0; (want->alibi || got->alibi) && h < want->heads; h++)
        if (!want->alibi || !got->alibi || !near(want->alibi[h], got->alibi[h])) return err_set(err, ST_UNSUPPORTED, "the target's format cannot say this model's slopes by distance (alibi), those of head %d", h);
    enum status st = same_floats(want, got, err);
    return st || want->arch->rope == ROPE_NONE ? st : same_rotation(want, got, err);
}

static enum status put_empty(struct gguf_writer *w, int64_t rows, struct err *err)
{
    static const float zeros[1024];
    enum status st = ST_OK;
    for (; rows > 0 && !st; rows -= 1024) st = gguf_writer_data(w, zeros, (uint64_t)(rows < 1024 ? rows : 1024) * sizeof *zeros, err);
    return st;
}

enum status convert_reopen(struct gguf_writer *w, const struct llm_config *c, struct gguf **out, struct buf *bytes, struct err *err)
{
    buf_init(bytes, 0);
    gguf_writer_tensor(w, "token_embd.weight", WEIGHT_F32, (int64_t[]){ c->vocabulary, 1 }, 2);
    if (c->labels) gguf_writer_tensor(w, "cls.output.weight", WEIGHT_F32, (int64_t[]){ c->labels, 1 }, 2);
    /* of a pair, the tensors that tell what it is made of */
    const struct { const char *name; bool there; } telling[] = { { "dec.output_norm.weight", c->decoder_layers > 0 }, { "enc.blk.0.ffn_gate.weight", c->act.kind == ACT_GELU_TANH }, { "output.weight", c->decoder_layers && !c->tied } };
    int told = 0;
    for (size_t i = 0; c->arch && c->arch->flags & LLM_PAIR && i < sizeof telling / sizeof telling[0]; i++) {
        if (telling[i].there) gguf_writer_tensor(w, telling[i].name, WEIGHT_F32, (int64_t[]){ 1 }, 1);
        told += telling[i].there;
    }
    enum status st = gguf_writer_start(w, weights_sink_buf(bytes), err);
    if (!st) st = put_empty(w, c->vocabulary, err);
    if (!st) st = put_empty(w, c->labels, err);
    for (int i = 0; i < told && !st; i++) st = put_empty(w, 1, err);
    if (!st) st = gguf_writer_finish(w, err);
    return st ? st : gguf_open_bytes(out, bytes->data, bytes->length, err);
}
