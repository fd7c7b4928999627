/* Which tensors the target has. The roles of the architecture table name them on both sides; what the formats store differently is said here:
 *   - rows of q and k of the families whose GGUF files rotate adjacent pairs change places within each head (folders rotate halves);
 *   - folders of Gemma store norms less 1; RoBERTa's position table has two unused rows in front;
 *   - GGUF stacks the matrices of all experts, and parts gate from up where folders fuse them (gpt-oss: row by row in turn);
 *   - GGUF's Phi 3 calls its fused gate and up "ffn_up"; Falcon's second generation gives the feed-forward the name attn_norm and attention attn_norm_2;
 *   - Llama 3's bands and LongRoPE's factors are settings in folders and tensors in GGUF. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/llm/convert_internal.h"
#include "engine/llm/rotation.h"
#include "kernels/blocks.h"

struct convert_item *convert_add(struct convert_plan *p, const char *name, struct err *err)
{
    if (p->count == p->capacity) {
        uint64_t capacity = p->capacity ? 2 * (uint64_t)p->capacity : 256;
        struct convert_item *more = capacity > WEIGHTS_TENSORS_MAX * 2 ? NULL : mem_realloc_array(p->items, capacity, sizeof *more);
        if (!more) return err_set(err, ST_NO_MEMORY, "no memory for %llu tensors", (unsigned long long)capacity), NULL;
        p->items = more;
        p->capacity = (int)capacity;
    }
    struct convert_item *it = &p->items[p->count++];
    *it = (struct convert_item){ .step = 1, .rows = 1, .expert = -1, .experts = 1, .rank = 1 };
    snprintf(it->name, sizeof it->name, "%s", name);
    return it;
}

void convert_plan_free(struct convert_plan *p)
{
    free(p->items);
    p->items = NULL;
    p->count = p->capacity = 0;
}

int convert_fit_type(struct convert_plan *p, int type, int64_t k)
{
    const struct block_format *f = block_format(type);
    if (!f || k % f->elements == 0) return type;
    p->kept++;
    return WEIGHT_F16;
}

enum status convert_add_tensor(struct convert_plan *p, const struct weight_tensor *t, int type, struct err *err)
{
    if (t->rank < 1 || t->rank > 4 || strlen(t->name) >= CONVERT_NAME_MAX) return err_set(err, ST_UNSUPPORTED, "tensor '%.100s' has %d dimensions or too long a name", t->name, t->rank);
    struct convert_item *it = convert_add(p, t->name, err);
    if (!it) return ST_NO_MEMORY;
    it->tensor = t;
    it->rank = t->rank;
    memcpy(it->dims, t->dims, (size_t)t->rank * sizeof it->dims[0]);
    for (int d = 0; d + 1 < t->rank; d++) it->rows *= t->dims[d];
    it->type = type == CONVERT_KEEP ? t->type : convert_fit_type(p, type, t->dims[t->rank - 1]);
    return ST_OK;
}

/* ---- roles ---- */
static bool is_norm(enum llm_role r)
{
    return r == ROLE_EMBED_NORM || r == ROLE_FINAL_NORM || r == ROLE_ATTENTION_NORM || r == ROLE_ATTENTION_NORM2 || r == ROLE_Q_NORM || r == ROLE_K_NORM || r == ROLE_ATTENTION_POST || r == ROLE_FFN_NORM || r == ROLE_FFN_POST;
}

static bool is_expert(enum llm_role r) { return r == ROLE_EXPERT_GATE || r == ROLE_EXPERT_UP || r == ROLE_EXPERT_GATE_UP || r == ROLE_EXPERT_DOWN; }
static bool is_small(enum llm_role r) { return r == ROLE_POSITIONS || r == ROLE_TYPES || r == ROLE_ROUTER || r == ROLE_SHARED_ROUTER || r == ROLE_RELATIVE || r == ROLE_PAIR_RELATIVE; }

/* Looks for a weight without keeping what finding it rearranged. *out's data says only whether it is there. */
static enum status probe(struct llm_model *m, enum llm_role role, bool bias, int layer, int expert, struct llm_weight *out, struct err *err)
{
    struct arena keep = m->arena;
    arena_init(&m->arena, m->memory_max);
    enum status st = llm_weight_find(m, role, bias, layer, expert, 0, 0, out, err);
    arena_free(&m->arena);
    m->arena = keep;
    return st;
}

/* Under which role and which of its names the target knows a weight. False: it has none, on purpose. */
static bool target_role(const struct convert_plan *p, enum llm_role role, int layer, enum llm_role *out, int *index, struct err *err)
{
    const struct llm_config *c = &p->model->config;
    const char *family = c->arch->name;
    struct llm_weight w;
    *out = role;
    *index = 0;
    if (p->to_folder) {
        if (role == ROLE_UP && !strcmp(family, "phi3")) *out = ROLE_GATE_UP;
        if (role == ROLE_FFN_NORM && c->block == BLOCK_POST_NORM) return false;      /* found under the name of the norm behind attention */
        return role != ROLE_ROPE_FACTORS && role != ROLE_ROPE_LONG && role != ROLE_ROPE_SHORT;
    }
    if (role == ROLE_GATE_UP) *out = ROLE_UP;
    if (c->arch->flags & LLM_ENCODER && (role == ROLE_ATTENTION_POST || role == ROLE_FFN_POST)) *index = 1;
    if (!strcmp(family, "gpt-oss") && role == ROLE_FFN_NORM) *index = 1;
    if (role == ROLE_POOLER) *out = ROLE_SCORE_DENSE;
    if (!strcmp(family, "falcon") && role == ROLE_FFN_NORM) *out = ROLE_ATTENTION_NORM;
    if (!strcmp(family, "falcon") && role == ROLE_ATTENTION_NORM && !probe(p->model, ROLE_FFN_NORM, false, layer, -1, &w, err) && w.data) *out = ROLE_ATTENTION_NORM2;
    return role != ROLE_POOLER || c->labels;
}

static int type_for(struct convert_plan *p, enum llm_role role, const struct llm_weight *w, bool vector)
{
    const struct block_format *f = block_format(w->type);
    int own = f->elements == 1 || (w->type == WEIGHT_MXFP4 && !p->to_folder) ? w->type : WEIGHT_F16;
    if (p->to_folder) return p->type == CONVERT_KEEP ? own : p->type;
    if (vector || is_small(role)) return WEIGHT_F32;
    return p->type == CONVERT_KEEP ? own : convert_fit_type(p, p->type, w->k);
}

struct slice { int64_t first, step, rows; };

static enum status add_slice(struct convert_plan *p, enum llm_role role, enum llm_role as, int index, bool bias, int layer, int expert, const struct llm_weight *w, struct slice s, struct err *err)
{
    const struct llm_config *c = &p->model->config;
    char name[CONVERT_NAME_MAX];
    if (!llm_role_name(p->target, p->to_folder, as, layer, expert < 0 ? 0 : expert, index, name, sizeof name - 8))
        return err_set(err, ST_UNSUPPORTED, "the target has no name for a tensor of this kind that the model has (%s, layer %d)", c->arch->name, layer);
    strcat(name, bias ? ".bias" : ".weight");
    struct convert_item *it = convert_add(p, name, err);
    if (!it) return ST_NO_MEMORY;
    bool vector = bias || w->n == 1, all = expert >= 0 && !p->to_folder;
    bool pairs = c->arch->rope == ROPE_ADJACENT_GGUF && (role == ROLE_Q || role == ROLE_K);
    it->role = role, it->bias = bias, it->layer = layer;
    it->expert = expert, it->experts = all ? c->experts : 1;
    it->first = s.first, it->step = s.step, it->rows = s.rows;
    it->type = type_for(p, role, w, vector);
    if (pairs) it->heads = (role == ROLE_Q ? c->heads : c->kv_heads) * (p->to_folder ? -1 : 1);
    if (is_norm(role) && !bias && c->arch->flags & LLM_NORM_PLUS_ONE) it->plus = p->to_folder ? -1 : 1;
    it->turn = p->to_folder && !vector && c->arch->flags & LLM_TRANSPOSED && (int)role >= ROLE_FIRST_OF_LAYER;
    it->rank = 0;
    if (all) it->dims[it->rank++] = c->experts;
    if (vector) {
        bool chosen = pairs || s.rows != w->k || s.step != 1;
        it->dims[it->rank++] = s.rows;
        it->rows = chosen ? s.rows : 1;
    } else {
        it->dims[it->rank++] = it->turn ? w->k : s.rows;
        it->dims[it->rank++] = it->turn ? s.rows : w->k;
    }
    return ST_OK;
}

static enum status add_weight(struct convert_plan *p, enum llm_role role, bool bias, int layer, int expert, struct err *err)
{
    const struct llm_config *c = &p->model->config;
    struct llm_weight w;
    enum llm_role as;
    int index;
    enum status st = probe(p->model, role, bias, layer, expert, &w, err);
    if (st || !w.data || !target_role(p, role, layer, &as, &index, err)) return st;
    int64_t n = bias || w.n == 1 ? w.n * w.k : w.n;
    if (role == ROLE_EXPERT_GATE_UP) {
        bool turns = c->folder && c->arch->flags & LLM_CLAMPED_GATE;
        st = add_slice(p, role, ROLE_EXPERT_GATE, 0, bias, layer, expert, &w, (struct slice){ 0, turns ? 2 : 1, n / 2 }, err);
        return st ? st : add_slice(p, role, ROLE_EXPERT_UP, 0, bias, layer, expert, &w, (struct slice){ turns ? 1 : n / 2, turns ? 2 : 1, n / 2 }, err);
    }
    struct slice s = { 0, 1, n };
    if (role == ROLE_POSITIONS && c->folder && c->arch->flags & LLM_POSITION_SHIFT) s.first = 2, s.rows -= 2;
    return add_slice(p, role, as, index, bias, layer, expert, &w, s, err);
}

static enum status add_role(struct convert_plan *p, enum llm_role role, int layer, struct err *err)
{
    enum status st = ST_OK;
    int experts = is_expert(role) ? (p->to_folder ? p->model->config.experts : p->model->config.experts > 0) : 1;
    for (int e = 0; e < experts && !st; e++) {
        st = add_weight(p, role, false, layer, is_expert(role) ? e : -1, err);
        if (!st) st = add_weight(p, role, true, layer, is_expert(role) ? e : -1, err);
    }
    return st;
}

/* ---- tensors that folders have as settings ---- */
const float *convert_band_divisors(struct llm_model *m)
{
    struct llm_config plain = m->config;
    uint64_t half = (uint64_t)m->config.rotary / 2;
    float *d = arena_calloc(&m->arena, half + 1, sizeof *d), *f = arena_calloc(&m->arena, half + 1, sizeof *f);
    if (!d || !f) return NULL;
    plain.scaling.kind = SCALING_NONE;
    rotation_frequencies(&plain, false, NULL, d);
    rotation_frequencies(&m->config, false, NULL, f);
    for (uint64_t i = 0; i < half; i++) d[i] /= f[i];
    return d;
}

static enum status add_given(struct convert_plan *p, enum llm_role role, const float *numbers, struct err *err)
{
    char name[CONVERT_NAME_MAX];
    if (!numbers) return err_set(err, ST_NO_MEMORY, "the factors of the rotation");
    llm_role_name(p->target, false, role, 0, 0, 0, name, sizeof name - 8);
    strcat(name, ".weight");
    struct convert_item *it = convert_add(p, name, err);
    if (!it) return ST_NO_MEMORY;
    it->given = numbers;
    it->type = WEIGHT_F32;
    it->dims[0] = p->model->config.rotary / 2;
    return ST_OK;
}

static enum status add_rotation(struct convert_plan *p, struct err *err)
{
    const struct llm_scaling_spec *s = &p->model->config.scaling;
    if (p->to_folder || p->target->rope == ROPE_NONE) return ST_OK;
    if (s->kind == SCALING_LLAMA3) return add_given(p, ROLE_ROPE_FACTORS, convert_band_divisors(p->model), err);
    if (s->kind != SCALING_LONGROPE) return ST_OK;
    enum status st = add_given(p, ROLE_ROPE_LONG, s->long_factors, err);
    return st ? st : add_given(p, ROLE_ROPE_SHORT, s->short_factors, err);
}

enum status convert_plan_model(struct convert_plan *p, struct err *err)
{
    enum status st = add_rotation(p, err);
    for (int r = 0; r < ROLE_FIRST_OF_LAYER && !st; r++)
        if (r != ROLE_ROPE_FACTORS && r != ROLE_ROPE_LONG && r != ROLE_ROPE_SHORT) st = add_role(p, (enum llm_role)r, 0, err);
    const struct llm_config *c = &p->model->config;
    for (int l = 0; l < (c->layers > c->decoder_layers ? c->layers : c->decoder_layers) && !st; l++)
        for (int r = ROLE_FIRST_OF_LAYER; r < ROLE_COUNT && !st; r++) st = add_role(p, (enum llm_role)r, l, err);
    return st;
}
