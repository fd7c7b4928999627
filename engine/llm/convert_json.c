/* A configuration as a folder's config.json, in the words of the family's published ones. Families whose folders weave q, k and v together, and encoders,
 * are not written. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "engine/llm/convert_internal.h"

/* model_type: the row of the table; class: what transformers makes of it; gpt: GPT-2's own names of the sizes. */
struct family { const char *gguf, *model_type, *class, *epsilon, *activation; bool gpt; };
static const struct family families[] = {
    { "llama", "llama", "LlamaForCausalLM", "rms_norm_eps", "silu", false },
    { "granite", "granite", "GraniteForCausalLM", "rms_norm_eps", "silu", false },
    { "qwen2", "qwen2", "Qwen2ForCausalLM", "rms_norm_eps", "silu", false },
    { "qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM", "rms_norm_eps", "silu", false },
    { "qwen3", "qwen3", "Qwen3ForCausalLM", "rms_norm_eps", "silu", false },
    { "qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", "rms_norm_eps", "silu", false },
    { "gemma", "gemma", "GemmaForCausalLM", "rms_norm_eps", "gelu_pytorch_tanh", false },
    { "gemma2", "gemma2", "Gemma2ForCausalLM", "rms_norm_eps", "gelu_pytorch_tanh", false },
    { "gemma3", "gemma3_text", "Gemma3ForCausalLM", "rms_norm_eps", "gelu_pytorch_tanh", false },
    { "phi2", "phi", "PhiForCausalLM", "layer_norm_eps", "gelu_new", false },
    { "phi3", "phi3", "Phi3ForCausalLM", "rms_norm_eps", "silu", false },
    { "gpt2", "gpt2", "GPT2LMHeadModel", "layer_norm_epsilon", "gelu_new", true },
    { "starcoder2", "starcoder2", "Starcoder2ForCausalLM", "norm_epsilon", "gelu_pytorch_tanh", false },
    { "stablelm", "stablelm", "StableLmForCausalLM", "layer_norm_eps", "silu", false },
    { "olmo", "olmo", "OlmoForCausalLM", NULL, "silu", false },
    { "olmo2", "olmo2", "Olmo2ForCausalLM", "rms_norm_eps", "silu", false },
    { "olmoe", "olmoe", "OlmoeForCausalLM", "rms_norm_eps", "silu", false },
};
static const struct family mixtral = { "llama", "mixtral", "MixtralForCausalLM", "rms_norm_eps", "silu", false }, mistral = { "llama", "mistral", "MistralForCausalLM", "rms_norm_eps", "silu", false };

static const struct family *family_of(const struct llm_config *c)
{
    if (!strcmp(c->arch->name, "llama") && c->experts) return &mixtral;
    if (!strcmp(c->arch->name, "llama") && c->window) return &mistral;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (!strcmp(families[i].gguf, c->arch->name)) return &families[i];
    return NULL;
}

static void put_int(struct buf *b, const char *name, int v) { buf_printf(b, ",\n  \"%s\": %d", name, v); }
static void put_bool(struct buf *b, const char *name, bool v) { buf_printf(b, ",\n  \"%s\": %s", name, v ? "true" : "false"); }
static void put_text(struct buf *b, const char *name, const char *v) { buf_printf(b, ",\n  \"%s\": \"%s\"", name, v); }

static void put_float(struct buf *b, const char *name, float v)
{
    buf_printf(b, ",\n  \"%s\": ", name);
    json_write_float(b, v);
}

static void put_sizes(struct buf *b, const struct llm_config *c, const struct family *f)
{
    const struct { const char *name, *gpt; int value; } all[] = {
        { "hidden_size", "n_embd", c->width }, { "num_hidden_layers", "n_layer", c->layers }, { "num_attention_heads", "n_head", c->heads }, { "intermediate_size", "n_inner", c->ffn }, { "max_position_embeddings", "n_positions", c->context },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) put_int(b, f->gpt ? all[i].gpt : all[i].name, all[i].value);
    put_int(b, "vocab_size", c->vocabulary);
    if (f->epsilon) put_float(b, f->epsilon, c->norm_epsilon);
    put_text(b, f->gpt ? "activation_function" : !strncmp(f->gguf, "gemma", 5) ? "hidden_activation" : "hidden_act", f->activation);
    if (f->gpt) return;
    put_int(b, "num_key_value_heads", c->kv_heads);
    if (c->head_dim * c->heads != c->width || !strncmp(f->gguf, "gemma", 5) || !strncmp(f->gguf, "qwen3", 5)) put_int(b, "head_dim", c->head_dim);
}

/* GGUF keeps of Llama 3's bands only the divisors of the frequencies. The settings are those, among the usual ones, that give the same divisors again. */
static bool find_bands(const struct llm_model *m, const struct weight_tensor *t, struct llm_scaling_spec *out)
{
    struct llm_model guess = { .config = m->config };
    struct llm_scaling_spec *s = &guess.config.scaling;
    uint64_t half = (uint64_t)m->config.rotary / 2;
    float d, largest = 1;
    bool found = false;
    if (t->type != WEIGHT_F32 || t->bytes != half * sizeof d || half < 1) return false;
    for (uint64_t i = 0; i < half; i++) {
        memcpy(&d, t->data + i * sizeof d, sizeof d);
        if (d > largest) largest = d;
    }
    for (int context = 16; context <= 1 << 17 && !found; context *= 2) {
        *s = (struct llm_scaling_spec){ .kind = SCALING_LLAMA3, .factor = largest, .low = 1, .high = 4, .original_context = context };
        arena_init(&guess.arena, 1 << 20);
        const float *again = convert_band_divisors(&guess);
        found = again != NULL;
        for (uint64_t i = 0; i < half && found; i++) {
            memcpy(&d, t->data + i * sizeof d, sizeof d);
            found = fabsf(again[i] - d) <= 1e-5f * d;
        }
        arena_free(&guess.arena);
    }
    *out = *s;
    return found;
}

static void put_bands(struct buf *b, const struct llm_scaling_spec *s)
{
    buf_puts(b, ",\n  \"rope_scaling\": { \"rope_type\": \"llama3\"");
    put_float(b, "factor", s->factor);
    put_float(b, "low_freq_factor", s->low);
    put_float(b, "high_freq_factor", s->high);
    put_int(b, "original_max_position_embeddings", s->original_context);
    buf_puts(b, " }");
}

static enum status put_rotation(struct buf *b, const struct llm_model *m, struct err *err)
{
    const struct llm_config *c = &m->config;
    const struct llm_scaling_spec *s = &c->scaling;
    const struct weight_tensor *bands = weights_find(m->weights, "rope_freqs.weight");
    struct llm_scaling_spec found;
    if (c->arch->rope == ROPE_NONE) return ST_OK;
    put_float(b, "rope_theta", c->rope_base);
    if (c->rotary != c->head_dim) put_float(b, "partial_rotary_factor", (float)c->rotary / (float)c->head_dim);
    if (c->arch->flags & LLM_LOCAL_BASE) put_float(b, "rope_local_base_freq", c->rope_local_base);
    if (bands && s->kind == SCALING_NONE) {
        if (!find_bands(m, bands, &found)) return err_set(err, ST_UNSUPPORTED, "rope_freqs.weight comes from no usual settings of Llama 3's rotation, which are what a folder needs");
        put_bands(b, &found);
        return ST_OK;
    }
    if (s->kind == SCALING_NONE) return ST_OK;
    if (bands || (s->kind != SCALING_LINEAR && s->kind != SCALING_YARN)) return err_set(err, ST_UNSUPPORTED, "folders need the settings of the rotation's scaling, of which a GGUF file keeps only the result");
    buf_printf(b, ",\n  \"rope_scaling\": { \"rope_type\": \"%s\"", s->kind == SCALING_LINEAR ? "linear" : "yarn");
    put_float(b, "factor", s->factor);
    if (s->kind == SCALING_YARN) {
        put_int(b, "original_max_position_embeddings", s->original_context);
        put_float(b, "beta_fast", s->high);
        put_float(b, "beta_slow", s->low);
    }
    buf_puts(b, " }");
    return ST_OK;
}

static void put_windows(struct buf *b, const struct llm_config *c)
{
    if (!c->window) return;
    put_int(b, "sliding_window", c->window);
    if (c->window_pattern <= 1) return;
    buf_puts(b, ",\n  \"layer_types\": [");
    for (int l = 0; l < c->layers; l++) buf_printf(b, "%s\"%s\"", l ? ", " : "", (l + 1) % c->window_pattern ? "sliding_attention" : "full_attention");
    buf_puts(b, "]");
}

static void put_family(struct buf *b, const struct llm_model *m, const struct family *f)
{
    const struct llm_config *c = &m->config;
    float scale = c->attention_scale;
    if (!strcmp(f->gguf, "granite")) {
        put_float(b, "embedding_multiplier", c->embedding_scale);
        put_float(b, "residual_multiplier", c->residual_scale);
        put_float(b, "logits_scaling", 1 / c->logits_scale);
        if (scale != 0) put_float(b, "attention_multiplier", scale);
    } else if (!strcmp(f->gguf, "gemma2") || !strcmp(f->gguf, "gemma3")) {
        put_float(b, "query_pre_attn_scalar", scale != 0 ? 1 / (scale * scale) : (float)c->head_dim);
    }
    if (c->attention_softcap > 0) put_float(b, "attn_logit_softcapping", c->attention_softcap);
    if (c->final_softcap > 0) put_float(b, "final_logit_softcapping", c->final_softcap);
    if (c->clip_qkv > 0) put_float(b, "clip_qkv", c->clip_qkv);
    if (!strcmp(f->gguf, "stablelm")) {
        put_bool(b, "use_qkv_bias", weights_find(m->weights, "blk.0.attn_q.bias") != NULL);
        put_bool(b, "use_parallel_residual", c->parallel);
    } else if (f != &mistral && strncmp(f->gguf, "qwen2", 5) && !f->gpt) {
        put_bool(b, "attention_bias", weights_find(m->weights, "blk.0.attn_q.bias") != NULL);
        put_bool(b, "mlp_bias", weights_find(m->weights, "blk.0.ffn_down.bias") != NULL);
    }
    if (!c->experts) return;
    put_int(b, f == &mixtral ? "num_local_experts" : "num_experts", c->experts);
    put_int(b, "num_experts_per_tok", c->experts_used);
    put_bool(b, "norm_topk_prob", c->renormalise);
    if (f != &mixtral && strcmp(f->gguf, "olmoe")) put_int(b, "moe_intermediate_size", c->expert_ffn);
    if (!strcmp(f->gguf, "qwen2moe")) put_int(b, "shared_expert_intermediate_size", c->shared_ffn);
}

static enum status read_again(const struct buf *text, const struct llm_config *want, struct err *err)
{
    struct llm_model m = { 0 };
    arena_init(&m.arena, 64 << 20);
    enum status st = json_parse(&m.config_json, &m.arena, text->data, text->length, NULL, err);
    if (!st) st = llm_config_read_folder(&m, err);
    if (!st) st = convert_same_config(want, &m.config, err);
    arena_free(&m.arena);
    return st;
}

enum status convert_write_config(struct buf *out, const struct llm_model *m, const struct llm_architecture **a, struct err *err)
{
    const struct llm_config *c = &m->config;
    const struct family *f = family_of(c);
    if (!f) return err_set(err, ST_UNSUPPORTED, "folders of the architecture '%s' are not written", c->arch->name);
    *a = llm_architecture_of_folder(f->model_type);
    buf_printf(out, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\"", f->class, f->model_type);
    put_sizes(out, c, f);
    enum status st = put_rotation(out, m, err);
    if (st) return st;
    put_windows(out, c);
    put_family(out, m, f);
    put_bool(out, "tie_word_embeddings", weights_find(m->weights, "output.weight") == NULL);
    buf_puts(out, "\n}\n");
    if (out->failed) return err_set(err, ST_NO_MEMORY, "writing config.json");
    return read_again(out, c, err);
}
