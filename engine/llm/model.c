/* Opening the files of a language model and finding its weights. A matrix is handed out as the linear layers want it, rows first; where a folder
 * stores it otherwise (GPT-2's transposed weights, q, k and v woven together head by head) it is rearranged into the arena. */
#include "engine/llm/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/formats/safetensors.h"
#include "engine/tensor.h"
#include "kernels/blocks.h"

enum { CONFIG_BYTES_MAX = 4 << 20, NAME_MAX_BYTES = 256 };

/* ---- opening ---- */
static enum status read_json(struct llm_model *m, const char *folder, const char *file, int keep, struct json **out, struct err *err)
{
    char path[4600];
    size_t length;
    snprintf(path, sizeof path, "%.4096s/%s", folder, file);
    enum status st = file_read_path(&m->texts[keep], &length, path, CONFIG_BYTES_MAX, err);
    if (!st) st = json_parse(out, &m->arena, m->texts[keep], length, NULL, err);
    return st ? err_prefix(err, "%s", file) : ST_OK;
}

/* What sentence-transformers keeps beside the weights: how token vectors become one, and whether it is made of unit length. */
static enum status read_pooling(struct llm_model *m, const char *folder, struct err *err)
{
    struct json *modules, *pooling;
    struct err ignored;
    if (read_json(m, folder, "modules.json", 1, &modules, &ignored)) return ST_OK;
    if (modules->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "modules.json is no list");
    for (const struct json *x = modules->list.first; x; x = x->next) {
        const struct json *type = json_get(x, "type"), *where = json_get(x, "path");
        if (!type || type->type != JSON_STRING || !where || where->type != JSON_STRING) continue;
        const char *kind = strrchr(type->string.text, '.');
        kind = kind ? kind + 1 : type->string.text;
        if (!strcmp(kind, "Normalize")) m->config.normalise_vectors = true;
        if (!strcmp(kind, "Dense")) return err_set(err, ST_UNSUPPORTED, "modules.json: a Dense layer behind the pooling is not computed");
        if (strcmp(kind, "Pooling") || strchr(where->string.text, '/') || where->string.text[0] == '.') continue;
        char file[300];
        snprintf(file, sizeof file, "%.200s/config.json", where->string.text);
        enum status st = read_json(m, folder, file, 2, &pooling, err);
        if (st) return st;
        const struct { const char *key; enum llm_pooling kind; } known[] = { { "pooling_mode_mean_tokens", POOL_MEAN }, { "pooling_mode_cls_token", POOL_CLS }, { "pooling_mode_lasttoken", POOL_LAST } };
        m->config.pooling = POOL_NONE;
        for (size_t i = 0; i < 3; i++) {
            const struct json *on = json_get(pooling, known[i].key);
            if (on && on->type == JSON_BOOL && on->boolean) m->config.pooling = known[i].kind;
        }
        if (m->config.pooling == POOL_NONE) return err_set(err, ST_UNSUPPORTED, "%s: only the pooling modes mean, cls and lasttoken are computed", file);
    }
    return ST_OK;
}

/* One file, or several that an index names. */
static enum status open_tensors(struct llm_model *m, const char *folder, struct err *err)
{
    static const char *const files[] = { "model.safetensors.index.json", "model.safetensors" };
    struct stat s;
    char path[4600];
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%.4096s/%s", folder, files[i]);
        if (stat(path, &s) == 0) return safetensors_open(&m->folder, -1, path, err);
    }
    return err_set(err, ST_NOT_FOUND, "%.300s holds neither model.safetensors nor model.safetensors.index.json", folder);
}

static enum status open_folder(struct llm_model *m, const char *path, struct err *err)
{
    enum status st = read_json(m, path, "config.json", 0, &m->config_json, err);
    if (!st) st = open_tensors(m, path, err);
    if (st) return st;
    m->weights = safetensors_weights(m->folder);
    st = llm_config_read_folder(m, err);
    return st ? st : read_pooling(m, path, err);
}

bool llm_is_windowed(const struct llm_config *c, int layer)
{
    if (!c->window) return false;
    if (c->window_layers) return c->window_layers[layer];
    return c->window_pattern <= 1 || (layer + 1) % c->window_pattern != 0;
}

enum status llm_config_check(const struct llm_config *c, struct err *err)
{
    const struct { const char *name; int64_t value, low, high; } ranges[] = {
        { "layers", c->layers, 1, LLM_LAYERS_MAX }, { "width", c->width, 1, 1 << 20 }, { "heads", c->heads, 1, 4096 }, { "key-value heads", c->kv_heads, 1, c->heads }, { "head dimension", c->head_dim, 1, 1024 },
        { "feed-forward width", c->ffn, c->experts ? 0 : 1, 1 << 24 }, { "vocabulary", c->vocabulary, 1, 1 << 24 }, { "context", c->context, 1, 1 << 28 }, { "rotary dimensions", c->rotary, 0, c->head_dim },
        { "experts", c->experts, 0, LLM_EXPERTS_MAX }, { "experts used", c->experts_used, c->experts ? 1 : 0, c->experts ? c->experts : 0 }, { "window", c->window, 0, INT32_MAX }, { "labels", c->labels, 0, 1 << 20 },
        { "decoder layers", c->decoder_layers, 0, LLM_LAYERS_MAX }, { "buckets of distances", c->distance_buckets, c->distance_max ? 4 : 0, 1 << 16 }, { "distances apart", c->distance_max, 0, 1 << 16 },
        { "as the token that a text begins with", c->decoder_start, 0, c->vocabulary - 1 },
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++)
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return err_set(err, ST_BAD_INPUT, "the model says it has %lld %s; between %lld and %lld make sense", (long long)ranges[i].value, ranges[i].name, (long long)ranges[i].low, (long long)ranges[i].high);
    if (c->heads % c->kv_heads) return err_set(err, ST_BAD_INPUT, "%d heads cannot share %d key-value heads evenly", c->heads, c->kv_heads);
    if (c->rotary % 2) return err_set(err, ST_BAD_INPUT, "an odd number of dimensions (%d) cannot be rotated in pairs", c->rotary);
    if (!(c->norm_epsilon >= 0 && c->norm_epsilon < 1) || !(c->rope_base > 0)) return err_set(err, ST_BAD_INPUT, "the norm's epsilon or the rotation's base is out of range");
    return ST_OK;
}

enum status llm_model_open(struct llm_model *m, const char *path, uint64_t memory_max, struct err *err)
{
    struct stat s;
    *m = (struct llm_model){ .memory_max = memory_max };
    arena_init(&m->arena, memory_max);
    if (stat(path, &s)) return err_set(err, ST_NOT_FOUND, "%s cannot be read", path);
    enum status st;
    if (S_ISDIR(s.st_mode)) {
        st = open_folder(m, path, err);
    } else {
        st = gguf_open(&m->gguf, -1, path, err);
        if (!st) {
            m->weights = gguf_weights(m->gguf);
            st = llm_config_read_gguf(m, err);
        }
    }
    if (!st) st = llm_config_check(&m->config, err);
    if (!st) {
        m->used = mem_calloc_array((uint64_t)m->weights->count + 1, 1);
        if (!m->used) st = err_set(err, ST_NO_MEMORY, "opening a model");
    }
    if (st) llm_model_close(m);
    return st;
}

void llm_model_close(struct llm_model *m)
{
    gguf_close(m->gguf);
    safetensors_close(m->folder);
    arena_free(&m->arena);
    free(m->used);
    for (size_t i = 0; i < sizeof m->texts / sizeof m->texts[0]; i++) free(m->texts[i]);
    *m = (struct llm_model){ 0 };
}

/* ---- finding ---- */
static const struct weight_tensor *find_tensor(struct llm_model *m, const char *name)
{
    const struct weight_tensor *t = weights_find(m->weights, name);
    if (t) m->used[t - m->weights->tensors] = 1;
    return t;
}

/* Folders saved without their head leave the first part of the names out; those with a task's head on an encoder put one in front. */
static const struct weight_tensor *find_variant(struct llm_model *m, const char *name)
{
    static const char *const cut[] = { "model.", "transformer.", "gpt_neox." }, *const put[] = { "bert.", "roberta.", "distilbert.", "model." };
    const struct weight_tensor *t = find_tensor(m, name);
    if (t || !m->config.folder) return t;
    for (size_t i = 0; i < sizeof cut / sizeof cut[0]; i++)
        if (!strncmp(name, cut[i], strlen(cut[i])) && (t = find_tensor(m, name + strlen(cut[i])))) return t;
    for (size_t i = 0; i < sizeof put / sizeof put[0]; i++) {
        char full[NAME_MAX_BYTES + 16];
        snprintf(full, sizeof full, "%s%s", put[i], name);
        if ((t = find_tensor(m, full))) return t;
    }
    return NULL;
}

static const struct weight_tensor *find_role(struct llm_model *m, enum llm_role role, bool bias, int layer, int expert, char *name, size_t size)
{
    for (int i = 0; llm_role_name(m->config.arch, m->config.folder, role, layer, expert < 0 ? 0 : expert, i, name, size - 8); i++) {
        size_t n = strlen(name);
        snprintf(name + n, size - n, bias ? ".bias" : ".weight");
        const struct weight_tensor *t = find_variant(m, name);
        if (t) return t;
        if (bias && !m->config.folder) continue;
        snprintf(name + n, size - n, "%s", bias ? "_bias" : "");                  /* parameters that are no modules */
        t = find_variant(m, name);
        if (t) return t;
    }
    return NULL;
}

static enum status wrong_shape(const struct weight_tensor *t, int64_t n, int64_t k, struct err *err)
{
    char have[120];
    return err_set(err, ST_BAD_INPUT, "tensor '%s' has the shape %s where [%lld,%lld] is expected", t->name, shape_text(t->dims, t->rank, have, sizeof have), (long long)n, (long long)k);
}

static enum status type_of(const struct weight_tensor *t, struct llm_weight *w, struct err *err)
{
    const struct block_format *f = block_format(t->type);
    if (!f || !f->decode) return err_set(err, ST_UNSUPPORTED, "tensor '%s' is of the type %s, which is not computed", t->name, weight_type_name(t->type));
    w->type = t->type;
    w->row_bytes = w->k / f->elements * f->bytes;
    if (w->k % f->elements) return err_set(err, ST_BAD_INPUT, "tensor '%s': rows of %lld are not whole blocks of %s", t->name, (long long)w->k, f->name);
    return ST_OK;
}

/* [k, n] -> [n, k] in the arena; plain types only. */
static enum status transpose(struct llm_model *m, const struct weight_tensor *t, const uint8_t *data, struct llm_weight *w, struct err *err)
{
    const struct block_format *f = block_format(t->type);
    if (!f || f->elements != 1) return err_set(err, ST_UNSUPPORTED, "tensor '%s' is stored the other way round and of the type %s", t->name, weight_type_name(t->type));
    size_t size = (size_t)f->bytes;
    uint64_t bytes;
    if (!size_mul((uint64_t)w->n, (uint64_t)w->k, &bytes) || !size_mul(bytes, size, &bytes)) return err_set(err, ST_TOO_LARGE, "tensor '%s' is too large", t->name);
    uint8_t *copy = arena_alloc(m->rearranged ? m->rearranged : &m->arena, bytes, 64);
    if (!copy) return err_set(err, ST_NO_MEMORY, "tensor '%s' (%llu bytes) passes the model's memory budget", t->name, (unsigned long long)bytes);
    for (int64_t k = 0; k < w->k; k++)
        for (int64_t n = 0; n < w->n; n++) memcpy(copy + (n * w->k + k) * (int64_t)size, data + (k * w->n + n) * (int64_t)size, size);
    w->data = copy;
    w->mapped = false;
    return ST_OK;
}

/* Rows woven together as [group][q heads of the group, k, v][head_dim] become all of q, all of k, all of v. */
static enum status unweave(struct llm_model *m, const char *name, struct llm_weight *w, struct err *err)
{
    const struct llm_config *c = &m->config;
    int64_t share = c->heads / c->kv_heads, row = w->row_bytes, head = c->head_dim * row;
    uint8_t *copy = arena_alloc(m->rearranged ? m->rearranged : &m->arena, (uint64_t)w->n * (uint64_t)row, 64);
    if (!copy) return err_set(err, ST_NO_MEMORY, "tensor '%s' passes the model's memory budget", name);
    const uint8_t *from = w->data;
    for (int64_t g = 0; g < c->kv_heads; g++, from += (share + 2) * head) {
        memcpy(copy + g * share * head, from, (size_t)(share * head));
        memcpy(copy + (c->heads + g) * head, from + share * head, (size_t)head);
        memcpy(copy + (c->heads + c->kv_heads + g) * head, from + (share + 1) * head, (size_t)head);
    }
    w->data = copy;
    w->mapped = false;
    return ST_OK;
}

/* A slice of a tensor that holds all experts, [experts][...]. */
static enum status slice_expert(const struct llm_model *m, const struct weight_tensor *t, int expert, struct weight_tensor *out, struct err *err)
{
    *out = *t;
    if (expert < 0 || t->rank < 2 || t->dims[0] != m->config.experts) return ST_OK;
    out->rank--;
    memmove(out->dims, t->dims + 1, (size_t)out->rank * sizeof t->dims[0]);
    out->bytes = t->bytes / (uint64_t)m->config.experts;
    out->data = t->data + out->bytes * (uint64_t)expert;
    (void)err;
    return ST_OK;
}

/* gpt-oss folders in MXFP4: `NAME_blocks` [experts, n, k / 32, 16], two numbers of 4 bits in a byte, the first in the low half, and `NAME_scales` [experts, n, k / 32]. GGUF's blocks
 * hold the same codes, the scale in front, numbers i and i + 16 in a byte. */
static enum status find_mxfp4(struct llm_model *m, enum llm_role role, int layer, int expert, int64_t n, int64_t k, struct llm_weight *out, struct err *err)
{
    char name[NAME_MAX_BYTES];
    if (!llm_role_name(m->config.arch, true, role, layer, 0, 0, name, sizeof name - 8)) return ST_OK;
    size_t end = strlen(name);
    strcpy(name + end, "_blocks");
    const struct weight_tensor *blocks = find_variant(m, name);
    if (!blocks) return ST_OK;
    strcpy(name + end, "_scales");
    const struct weight_tensor *scales = find_variant(m, name);
    bool fits = scales && blocks->type == WEIGHT_U8 && scales->type == WEIGHT_U8 && blocks->rank == 4 && scales->rank == 3 && blocks->dims[0] == m->config.experts && blocks->dims[3] == 16;
    for (int d = 0; d < 3 && fits; d++) fits = blocks->dims[d] == scales->dims[d];
    if (!fits) return err_set(err, ST_BAD_INPUT, "tensor '%s' and its scales are no blocks of MXFP4 for %d experts", blocks->name, m->config.experts);
    int64_t rows = blocks->dims[1], groups = blocks->dims[2];
    if ((n && rows != n) || (k && groups * 32 != k)) return wrong_shape(blocks, n, k / 32, err);
    uint64_t bytes;
    if (!size_mul((uint64_t)rows, (uint64_t)groups, &bytes) || !size_mul(bytes, 17, &bytes)) return err_set(err, ST_TOO_LARGE, "tensor '%s' is too large", blocks->name);
    uint8_t *copy = arena_alloc(m->rearranged ? m->rearranged : &m->arena, bytes, 64), *to = copy;
    if (!copy) return err_set(err, ST_NO_MEMORY, "tensor '%s' (%llu bytes) passes the model's memory budget", blocks->name, (unsigned long long)bytes);
    const uint8_t *b = blocks->data + (uint64_t)expert * (uint64_t)(rows * groups * 16), *s = scales->data + (uint64_t)expert * (uint64_t)(rows * groups);
    for (int64_t i = 0; i < rows * groups; i++, b += 16, to += 17) {
        to[0] = s[i];
        for (int j = 0; j < 8; j++) {
            to[1 + 2 * j] = (uint8_t)((b[j] & 15) | (b[8 + j] & 15) << 4);
            to[2 + 2 * j] = (uint8_t)(b[j] >> 4 | (b[8 + j] & 0xf0));
        }
    }
    *out = (struct llm_weight){ .type = WEIGHT_MXFP4, .n = rows, .k = groups * 32, .row_bytes = groups * 17, .data = copy };
    return ST_OK;
}

enum status llm_weight_find(struct llm_model *m, enum llm_role role, bool bias, int layer, int expert, int64_t n, int64_t k, struct llm_weight *out, struct err *err)
{
    char name[NAME_MAX_BYTES];
    const struct llm_config *c = &m->config;
    *out = (struct llm_weight){ 0 };
    const struct weight_tensor *found = find_role(m, role, bias, layer, expert, name, sizeof name);
    if (!found) return expert >= 0 && !bias && c->folder ? find_mxfp4(m, role, layer, expert, n, k, out, err) : ST_OK;
    struct weight_tensor slice;
    bool of_all = expert >= 0 && (!c->folder || !strstr(found->name, "experts.0") ) && found->rank >= (bias ? 2 : 3);
    enum status st = slice_expert(m, found, of_all ? expert : -1, &slice, err);
    if (st) return st;
    const struct weight_tensor *t = &slice;
    bool vector = bias || t->rank < 2, turned = c->folder && !vector && ((c->arch->flags & LLM_TRANSPOSED && (int)role >= ROLE_FIRST_OF_LAYER) || (of_all && c->arch->flags & LLM_CLAMPED_GATE));
    int64_t last = t->rank ? t->dims[t->rank - 1] : 1, before = t->rank > 1 ? t->dims[t->rank - 2] : 1;
    if (t->rank > 2 && t->dims[0] != 1) return wrong_shape(t, n, k, err);
    *out = (struct llm_weight){ .n = turned ? last : before, .k = turned ? before : last, .data = t->data, .mapped = true };
    if ((n && out->n != n) || (k && out->k != k)) return wrong_shape(t, n, k, err);
    if (turned) {
        st = transpose(m, t, t->data, out, err);
        if (!st) st = type_of(t, out, err);
    } else {
        st = type_of(t, out, err);
    }
    if (st || role != ROLE_QKV || !c->folder || !(c->arch->flags & LLM_QKV_BY_HEAD)) return st;
    if (!vector) return unweave(m, t->name, out, err);
    struct llm_weight rows = { .type = out->type, .n = out->k, .k = 1, .row_bytes = out->row_bytes / (out->k ? out->k : 1), .data = out->data };
    st = unweave(m, t->name, &rows, err);
    out->data = rows.data;
    return st;
}

bool llm_weight_exists(struct llm_model *m, enum llm_role role, int layer)
{
    char name[NAME_MAX_BYTES];
    return find_role(m, role, false, layer, -1, name, sizeof name) != NULL;
}

enum status llm_weight_floats(struct llm_model *m, enum llm_role role, bool bias, int layer, int expert, int64_t count, const float **out, struct err *err)
{
    struct llm_weight w;
    *out = NULL;
    enum status st = llm_weight_find(m, role, bias, layer, expert, 0, 0, &w, err);
    if (st || !w.data) return st;
    uint64_t n = (uint64_t)w.n * (uint64_t)w.k;
    if (count && (uint64_t)count != n) {
        char name[NAME_MAX_BYTES];
        find_role(m, role, bias, layer, expert, name, sizeof name);
        return err_set(err, ST_BAD_INPUT, "tensor '%s' has %llu numbers where %lld are expected", name, (unsigned long long)n, (long long)count);
    }
    float *f = arena_alloc(&m->arena, n * sizeof *f, 64);
    if (!f) return err_set(err, ST_NO_MEMORY, "the model's vectors pass its memory budget");
    const struct block_format *format = block_format(w.type);
    for (int64_t r = 0; r < w.n; r++) format->decode(f + r * w.k, (const uint8_t *)w.data + r * w.row_bytes, w.k);
    *out = f;
    return ST_OK;
}

enum status llm_weights_all_used(const struct llm_model *m, struct err *err)
{
    static const char *const idle[] = { "rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "attn.bias", "attention.bias", "rope_freqs.weight", "position_ids", "lm_head.weight", "attention.rotary_emb.inv_freq", "cls.predictions", "pooler.dense", "rope_factors", "coder.embed_tokens.weight", "EncDecAttention.relative_attention_bias", "cross_attn_rel_b" };
    for (int i = 0; i < m->weights->count; i++) {
        const char *name = m->weights->tensors[i].name;
        bool known = m->used[i] || !strncmp(name, "cls.predictions", 15) || !strncmp(name, "vocab_", 6) || !strncmp(name, "lm_head", 7);
        for (size_t k = 0; !known && k < sizeof idle / sizeof idle[0]; k++) known = strstr(name, idle[k]) != NULL;
        if (!known) return err_set(err, ST_UNSUPPORTED, "tensor '%s' is not among those that the architecture '%s' is known to have: it would be left out of the computation", name, m->config.arch->name);
    }
    return ST_OK;
}
