/* struct llm_config from a folder's config.json. Families name the same number differently; transformers 5 moved the rotation's settings into
 * `rope_parameters` where older folders have rope_theta and rope_scaling: both are read. */
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "engine/llm/model.h"

static const struct json *find(const struct json *j, const char *const *names)
{
    for (; *names; names++) {
        const struct json *v = json_get(j, *names);
        if (v && v->type != JSON_NULL) return v;
    }
    return NULL;
}

#define NAMES(...) (const char *const[]){ __VA_ARGS__, NULL }

static bool read_int(const struct json *j, const char *const *names, int *out)
{
    int64_t v;
    const struct json *x = find(j, names);
    if (!x || !json_as_int64(x, &v) || v < -1 || v > INT32_MAX) return false;
    *out = (int)v;
    return true;
}

static bool read_float(const struct json *j, const char *const *names, float *out)
{
    double v;
    const struct json *x = find(j, names);
    if (!x || !json_as_double(x, &v)) return false;
    *out = (float)v;
    return true;
}

static bool read_bool(const struct json *j, const char *name, bool *out)
{
    const struct json *x = json_get(j, name);
    if (!x || x->type != JSON_BOOL) return false;
    *out = x->boolean;
    return true;
}

static enum status read_activation(const struct json *j, struct llm_config *c, struct err *err)
{
    static const struct { const char *name; enum activation kind; } known[] = {
        { "silu", ACT_SILU }, { "swish", ACT_SILU }, { "swiglu", ACT_SILU }, { "gelu", ACT_GELU }, { "gelu_python", ACT_GELU }, { "gelu_new", ACT_GELU_TANH }, { "gelu_fast", ACT_GELU_TANH },
        { "gelu_pytorch_tanh", ACT_GELU_TANH }, { "relu", ACT_RELU },
    };
    const struct json *x = find(j, NAMES("hidden_activation", "hidden_act", "activation_function", "activation"));
    if (!x || x->type != JSON_STRING) return ST_OK;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (json_is_string(x, known[i].name)) return c->act.kind = known[i].kind, ST_OK;
    return err_set(err, ST_UNSUPPORTED, "config.json: the activation '%.40s' is not computed", x->string.text);
}

/* [rotary / 2] numbers. */
static enum status read_factors(struct llm_model *m, const struct json *list, int count, const float **out, struct err *err)
{
    if (!list || list->type != JSON_ARRAY || list->list.count != (size_t)count) return err_set(err, ST_BAD_INPUT, "config.json: longrope needs %d factors of each kind", count);
    float *f = arena_calloc(&m->arena, (uint64_t)count + 1, sizeof *f);
    if (!f) return err_set(err, ST_NO_MEMORY, "reading the rotation's factors");
    int i = 0;
    for (const struct json *x = list->list.first; x; x = x->next) {
        double v;
        if (!json_as_double(x, &v) || !(v > 0)) return err_set(err, ST_BAD_INPUT, "config.json: a factor of the rotation is no positive number");
        f[i++] = (float)v;
    }
    *out = f;
    return ST_OK;
}

static enum status read_scaling(struct llm_model *m, const struct json *s, struct err *err)
{
    static const struct { const char *name; enum llm_scaling kind; } known[] = {
        { "default", SCALING_NONE }, { "linear", SCALING_LINEAR }, { "dynamic", SCALING_NTK }, { "yarn", SCALING_YARN }, { "llama3", SCALING_LLAMA3 }, { "longrope", SCALING_LONGROPE }, { "su", SCALING_LONGROPE },
    };
    struct llm_config *c = &m->config;
    struct llm_scaling_spec *p = &c->scaling;
    const struct json *type = find(s, NAMES("rope_type", "type"));
    p->factor = 1;
    p->truncate = true;
    p->original_context = c->context;
    if (!s || s->type != JSON_OBJECT || !type) return ST_OK;
    size_t i = 0, n = sizeof known / sizeof known[0];
    while (i < n && !json_is_string(type, known[i].name)) i++;
    if (i == n) return err_set(err, ST_UNSUPPORTED, "config.json: the rotation's scaling '%.40s' is not known", type->type == JSON_STRING ? type->string.text : "?");
    p->kind = known[i].kind;
    read_float(s, NAMES("factor"), &p->factor);
    read_float(s, NAMES("attention_factor"), &p->attention_factor);
    read_int(s, NAMES("original_max_position_embeddings"), &p->original_context);
    read_int(m->config_json, NAMES("original_max_position_embeddings"), &p->original_context);
    read_bool(s, "truncate", &p->truncate);
    p->low = 1;
    p->high = p->kind == SCALING_LLAMA3 ? 4 : 32;
    read_float(s, NAMES("low_freq_factor", "beta_slow"), &p->low);
    read_float(s, NAMES("high_freq_factor", "beta_fast"), &p->high);
    float mscale = 0, mscale_all = 0;
    if (p->kind == SCALING_YARN && read_float(s, NAMES("mscale"), &mscale) && read_float(s, NAMES("mscale_all_dim"), &mscale_all) && p->attention_factor == 0 && mscale > 0 && mscale_all > 0)
        p->attention_factor = (0.1f * mscale * logf(p->factor) + 1) / (0.1f * mscale_all * logf(p->factor) + 1);
    if (p->kind != SCALING_LONGROPE) return ST_OK;
    if (p->factor == 1 && p->original_context > 0) p->factor = (float)c->context / (float)p->original_context;
    enum status st = read_factors(m, json_get(s, "short_factor"), c->rotary / 2, &p->short_factors, err);
    return st ? st : read_factors(m, json_get(s, "long_factor"), c->rotary / 2, &p->long_factors, err);
}

static enum status read_rotation(struct llm_model *m, struct err *err)
{
    const struct json *j = m->config_json, *s = find(j, NAMES("rope_parameters", "rope_scaling"));
    struct llm_config *c = &m->config;
    float share = 1;
    c->rotary = c->head_dim;
    read_float(j, NAMES("rope_theta", "rotary_emb_base"), &c->rope_base);
    const struct json *full = json_get(s, "full_attention"), *local = json_get(s, "sliding_attention");
    if (c->arch->flags & LLM_LOCAL_BASE) {
        c->rope_local_base = 10000;
        read_float(j, NAMES("rope_local_base_freq"), &c->rope_local_base);
        read_float(local, NAMES("rope_theta"), &c->rope_local_base);
    }
    if (full) s = full;
    read_float(s, NAMES("rope_theta"), &c->rope_base);
    if (read_float(j, NAMES("partial_rotary_factor", "rotary_pct", "rotary_emb_fraction"), &share) || read_float(s, NAMES("partial_rotary_factor"), &share)) c->rotary = (int)((float)c->head_dim * share);
    read_int(j, NAMES("rotary_dim"), &c->rotary);
    return read_scaling(m, s, err);
}

static enum status read_windows(struct llm_model *m, struct err *err)
{
    const struct json *j = m->config_json, *types = json_get(j, "layer_types");
    struct llm_config *c = &m->config;
    bool use = true;
    read_int(j, NAMES("sliding_window"), &c->window);
    if (c->window < 0) c->window = 0;
    read_bool(j, "use_sliding_window", &use);
    if (!use) c->window = 0;
    c->window_pattern = c->arch->window_pattern;
    read_int(j, NAMES("sliding_window_pattern", "_sliding_window_pattern"), &c->window_pattern);
    if (!types || types->type != JSON_ARRAY || types->list.count != (size_t)c->layers) {
        int first = 0;
        if (c->window && use && !strncmp(c->arch->name, "qwen", 4) && read_int(j, NAMES("max_window_layers"), &first) && first > 0 && first < c->layers) return err_set(err, ST_UNSUPPORTED, "config.json: max_window_layers without layer_types is not served");
        return ST_OK;
    }
    uint8_t *windowed = arena_calloc(&m->arena, (uint64_t)c->layers + 1, 1);
    if (!windowed) return err_set(err, ST_NO_MEMORY, "reading config.json");
    int i = 0;
    for (const struct json *t = types->list.first; t; t = t->next, i++) {
        windowed[i] = json_is_string(t, "sliding_attention");
        if (!windowed[i] && !json_is_string(t, "full_attention")) return err_set(err, ST_UNSUPPORTED, "config.json: layer %d is of the type '%.40s', which is not computed", i, t->type == JSON_STRING ? t->string.text : "?");
    }
    c->window_layers = windowed;
    return ST_OK;
}

/* SmolLM 3: `no_rope_layers` holds a 0 for each layer that does not rotate. */
static enum status read_unrotated(struct llm_model *m, struct err *err)
{
    struct llm_config *c = &m->config;
    const struct json *list = json_get(m->config_json, "no_rope_layers");
    if (!list || list->type != JSON_ARRAY) return ST_OK;
    if (list->list.count != (size_t)c->layers) return err_set(err, ST_BAD_INPUT, "config.json: no_rope_layers must hold a number for each of the %d layers", c->layers);
    uint8_t *unrotated = arena_calloc(&m->arena, (uint64_t)c->layers + 1, 1);
    if (!unrotated) return err_set(err, ST_NO_MEMORY, "reading config.json");
    int i = 0;
    for (const struct json *x = list->list.first; x; x = x->next, i++) {
        int64_t v;
        if (!json_as_int64(x, &v)) return err_set(err, ST_BAD_INPUT, "config.json: no_rope_layers holds something that is no number");
        unrotated[i] = v == 0;
    }
    c->unrotated_layers = unrotated;
    return ST_OK;
}

static void read_experts(const struct json *j, struct llm_config *c)
{
    read_int(j, NAMES("num_local_experts", "num_experts"), &c->experts);
    read_int(j, NAMES("num_experts_per_tok", "experts_per_token"), &c->experts_used);
    c->expert_ffn = c->ffn;
    read_int(j, NAMES("moe_intermediate_size"), &c->expert_ffn);
    c->shared_ffn = c->ffn;
    read_int(j, NAMES("shared_expert_intermediate_size"), &c->shared_ffn);
    c->renormalise = !(c->arch->flags & LLM_NO_RENORM);
    read_bool(j, "norm_topk_prob", &c->renormalise);
}

static void read_scales(const struct json *j, struct llm_config *c)
{
    float v = 0;
    if (c->arch->flags & LLM_EMBED_SCALED) c->embedding_scale = sqrtf((float)c->width);
    read_float(j, NAMES("embedding_multiplier"), &c->embedding_scale);
    read_float(j, NAMES("residual_multiplier"), &c->residual_scale);
    read_float(j, NAMES("attention_multiplier"), &c->attention_scale);
    if (read_float(j, NAMES("query_pre_attn_scalar"), &v) && v > 0) c->attention_scale = 1 / sqrtf(v);
    if (read_float(j, NAMES("logits_scaling"), &v) && v > 0) c->logits_scale = 1 / v;
    read_float(j, NAMES("attn_logit_softcapping"), &c->attention_softcap);
    read_float(j, NAMES("final_logit_softcapping"), &c->final_softcap);
    read_float(j, NAMES("clip_qkv"), &c->clip_qkv);
    c->swiglu_limit = 7;
    read_float(j, NAMES("swiglu_limit"), &c->swiglu_limit);
}

/* What Falcon's two generations say in booleans. */
static void read_falcon(const struct json *j, struct llm_config *c)
{
    bool newer = false, multi = true, parallel = true;
    read_bool(j, "new_decoder_architecture", &newer);
    read_bool(j, "multi_query", &multi);
    read_bool(j, "parallel_attn", &parallel);
    c->kv_heads = newer ? c->heads : multi ? 1 : c->heads;
    if (newer) read_int(j, NAMES("num_kv_heads"), &c->kv_heads);
    c->parallel = newer || parallel;
}

static enum status read_sizes(struct llm_model *m, struct err *err)
{
    const struct json *j = m->config_json;
    struct llm_config *c = &m->config;
    const struct { const char *const *names; int *out; } needed[] = {
        { NAMES("num_hidden_layers", "n_layer", "n_layers", "num_layers"), &c->layers }, { NAMES("hidden_size", "n_embd", "n_embed", "dim", "d_model"), &c->width },
        { NAMES("num_attention_heads", "n_head", "n_heads", "num_heads"), &c->heads },
        { NAMES("vocab_size"), &c->vocabulary },
    };
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (!read_int(j, needed[i].names, needed[i].out)) return err_set(err, ST_BAD_INPUT, "config.json: '%s' is missing or no whole number", needed[i].names[0]);
    if (c->heads < 1 || c->width < 1) return err_set(err, ST_BAD_INPUT, "config.json: a model needs heads and a width");
    c->context = 2048;
    read_int(j, NAMES("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"), &c->context);
    c->kv_heads = c->heads;
    read_int(j, NAMES("num_key_value_heads"), &c->kv_heads);
    c->head_dim = c->width / c->heads;
    read_int(j, NAMES("head_dim"), &c->head_dim);
    c->ffn = 4 * c->width;
    int ratio;
    if (read_int(j, NAMES("expansion_ratio"), &ratio) && ratio > 0 && ratio < 1024) c->ffn = ratio * c->width;
    read_int(j, NAMES("intermediate_size", "n_inner", "ffn_hidden_size", "hidden_dim"), &c->ffn);
    return ST_OK;
}

static void read_labels(const struct json *j, struct llm_config *c)
{
    const struct json *architectures = json_get(j, "architectures"), *labels = json_get(j, "id2label");
    const struct json *first = architectures && architectures->type == JSON_ARRAY ? architectures->list.first : NULL;
    if (!first || first->type != JSON_STRING || !strstr(first->string.text, "ForSequenceClassification")) return;
    c->labels = labels && labels->type == JSON_OBJECT ? (int)labels->list.count : 2;
}

/* ALiBi: always in BLOOM, where Falcon says so (there it is scaled like the scores), and in MPT, whose settings stand in an object of their own. */
static enum status read_alibi(struct llm_model *m, struct err *err)
{
    const struct json *j = m->config_json, *own = json_get(j, "attn_config");
    struct llm_config *c = &m->config;
    bool alibi = !strcmp(c->arch->name, "bloom"), mpt = !strcmp(c->arch->name, "mpt"), after = false, norms = false;
    float most = 8, factor = 1, scale = 0;
    if (!strcmp(c->arch->name, "falcon") && read_bool(j, "alibi", &alibi) && alibi) factor = 1 / sqrtf((float)c->head_dim);
    if (mpt) {
        alibi = true;
        read_bool(own, "alibi", &alibi);
        read_bool(own, "qk_ln", &norms);
        int most_whole = 8;
        if (read_int(own, NAMES("alibi_bias_max"), &most_whole)) most = (float)most_whole;
        read_float(own, NAMES("clip_qkv"), &c->clip_qkv);
        if (read_float(own, NAMES("softmax_scale"), &scale) && scale > 0) c->attention_scale = scale;
        if (!alibi || norms) return err_set(err, ST_UNSUPPORTED, "config.json: MPT without alibi or with norms of queries and keys is not computed");
    }
    if (read_bool(j, "apply_residual_connection_post_layernorm", &after) && after && !mpt) return err_set(err, ST_UNSUPPORTED, "config.json: apply_residual_connection_post_layernorm is not computed");
    if (!alibi) return ST_OK;
    c->rotary = 0;
    c->alibi = llm_alibi_slopes(&m->arena, c->heads, most, factor, mpt);
    return c->alibi ? ST_OK : err_set(err, ST_NO_MEMORY, "reading config.json");
}

/* What T5 calls its numbers, and whether it has a decoder. */
static enum status read_pair(struct llm_model *m, struct err *err)
{
    static const struct { const char *name; enum activation kind; } known[] = { { "relu", ACT_RELU }, { "gated-gelu", ACT_GELU_TANH }, { "gated-silu", ACT_SILU }, { "gated-relu", ACT_RELU }, { "gelu_new", ACT_GELU_TANH }, { "gelu", ACT_GELU } };
    const struct json *j = m->config_json, *ffn = json_get(j, "feed_forward_proj");
    struct llm_config *c = &m->config;
    bool scaled = true;
    size_t i = 0, n = sizeof known / sizeof known[0];
    c->head_dim = 64, c->ffn = 2048, c->distance_buckets = 32, c->distance_max = 128, c->context = 512;
    read_int(j, NAMES("d_kv"), &c->head_dim);
    read_int(j, NAMES("d_ff"), &c->ffn);
    read_int(j, NAMES("relative_attention_num_buckets"), &c->distance_buckets);
    read_int(j, NAMES("relative_attention_max_distance"), &c->distance_max);
    read_int(j, NAMES("n_positions"), &c->context);
    read_int(j, NAMES("decoder_start_token_id", "pad_token_id"), &c->decoder_start);
    while (ffn && ffn->type == JSON_STRING && i < n && !json_is_string(ffn, known[i].name)) i++;
    if (i == n) return err_set(err, ST_UNSUPPORTED, "config.json: the feed-forward '%.40s' is not computed", ffn->string.text);
    c->act.kind = known[i].kind;
    c->attention_scale = 1;
    if (m->weights && weights_find(m->weights, "decoder.final_layer_norm.weight")) {      /* none: config.json alone is looked at */
        c->decoder_layers = c->layers;
        read_int(j, NAMES("num_decoder_layers"), &c->decoder_layers);
        c->causal = true;
        read_bool(j, "tie_word_embeddings", &scaled);
        read_bool(j, "scale_decoder_outputs", &scaled);
        if (scaled) c->logits_scale = 1 / sqrtf((float)c->width);
        c->tied = !weights_find(m->weights, "lm_head.weight");
    }
    return ST_OK;
}

enum status llm_config_read_folder(struct llm_model *m, struct err *err)
{
    const struct json *j = m->config_json, *type = json_get(j, "model_type");
    struct llm_config *c = &m->config;
    if (!type || type->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "config.json: 'model_type' is missing");
    *c = (struct llm_config){ .arch = llm_architecture_of_folder(type->string.text), .folder = true, .embedding_scale = 1, .residual_scale = 1, .logits_scale = 1, .rope_base = 10000, .norm_epsilon = 1e-5f, .normalise_vectors = false };
    if (!c->arch) return err_set(err, ST_UNSUPPORTED, "config.json: the model type '%.60s' is not among those that are served", type->string.text);
    enum status st = read_sizes(m, err);
    if (st) return st;
    read_float(j, NAMES("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon"), &c->norm_epsilon);
    if (c->arch->flags & LLM_ENCODER) c->pooling = POOL_MEAN;
    c->causal = !(c->arch->flags & LLM_ENCODER);
    c->block = c->arch->block;
    c->act = c->arch->act;
    c->parallel = c->block == BLOCK_PARALLEL;
    if (!strcmp(c->arch->name, "gptneox")) c->parallel = true;
    read_bool(j, "use_parallel_residual", &c->parallel);
    if (!strcmp(c->arch->name, "falcon")) read_falcon(j, c);
    if (!strcmp(c->arch->name, "distilbert")) c->norm_epsilon = 1e-12f;
    read_scales(j, c);
    read_experts(j, c);
    read_labels(j, c);
    st = c->arch->flags & LLM_PAIR ? read_pair(m, err) : read_activation(j, c, err);
    if (!st) st = read_rotation(m, err);
    if (!st) st = read_windows(m, err);
    if (!st) st = read_alibi(m, err);
    return st ? st : read_unrotated(m, err);
}
