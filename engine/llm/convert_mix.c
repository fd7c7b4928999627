/* Which type each matrix gets when a model is quantised. A mix is a main type and exceptions for the matrices that suffer most: the head, values, and the
 * feed-forward's way down, in all or some of the layers. The exceptions are those of llama.cpp without an importance matrix, so that a mix's name
 * promises the same sizes. A row that the chosen block does not divide stays F16; norms, biases, routers, position and type tables stay F32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "engine/llm/convert_internal.h"
#include "kernels/blocks.h"

enum mix { MIX_PLAIN, MIX_Q2_K, MIX_Q3_K_S, MIX_Q3_K_M, MIX_Q3_K_L, MIX_Q4_K_S, MIX_Q4_K_M, MIX_Q5_K_S, MIX_Q5_K_M, MIX_IQ4, MIX_TERNARY };

/* file: general.file_type */
static const struct mix_row { const char *name; int type; enum mix mix; int file; } rows[] = {
    { "Q4_0", BLOCK_Q4_0, MIX_PLAIN, 2 }, { "Q4_1", BLOCK_Q4_1, MIX_PLAIN, 3 }, { "Q5_0", BLOCK_Q5_0, MIX_PLAIN, 8 }, { "Q5_1", BLOCK_Q5_1, MIX_PLAIN, 9 }, { "Q8_0", BLOCK_Q8_0, MIX_PLAIN, 7 },
    { "Q2_K", BLOCK_Q2_K, MIX_Q2_K, 10 }, { "Q3_K_S", BLOCK_Q3_K, MIX_Q3_K_S, 11 }, { "Q3_K_M", BLOCK_Q3_K, MIX_Q3_K_M, 12 }, { "Q3_K", BLOCK_Q3_K, MIX_Q3_K_M, 12 }, { "Q3_K_L", BLOCK_Q3_K, MIX_Q3_K_L, 13 },
    { "Q4_K_S", BLOCK_Q4_K, MIX_Q4_K_S, 14 }, { "Q4_K_M", BLOCK_Q4_K, MIX_Q4_K_M, 15 }, { "Q4_K", BLOCK_Q4_K, MIX_Q4_K_M, 15 }, { "Q5_K_S", BLOCK_Q5_K, MIX_Q5_K_S, 16 }, { "Q5_K_M", BLOCK_Q5_K, MIX_Q5_K_M, 17 },
    { "Q5_K", BLOCK_Q5_K, MIX_Q5_K_M, 17 }, { "Q6_K", BLOCK_Q6_K, MIX_PLAIN, 18 }, { "IQ4_NL", BLOCK_IQ4_NL, MIX_IQ4, 25 }, { "IQ4_XS", BLOCK_IQ4_XS, MIX_IQ4, 30 }, { "TQ1_0", BLOCK_TQ1_0, MIX_TERNARY, 36 },
    { "TQ2_0", BLOCK_TQ2_0, MIX_TERNARY, 37 }, { "MXFP4", BLOCK_MXFP4, MIX_PLAIN, 38 },
};
enum { MIXES = sizeof rows / sizeof rows[0] };

const char *convert_mix_name(int index) { return index >= 0 && index < MIXES ? rows[index].name : NULL; }

int convert_file_type(const char *name)
{
    if (!strcasecmp(name, "F32")) return 0;
    if (!strcasecmp(name, "F16")) return 1;
    if (!strcasecmp(name, "BF16")) return 32;
    for (int i = 0; i < MIXES; i++)
        if (!strcasecmp(rows[i].name, name)) return rows[i].file;
    return -1;
}

int convert_type_of(const char *name)
{
    for (int t = 0; t < BLOCK_TYPE_END; t++) {
        const struct block_format *f = block_format(t);
        if (f && f->encode && t != BLOCK_Q8_1 && t != BLOCK_Q8_K && !strcasecmp(f->name, name)) return t;
    }
    return -1;
}

/* What the rules look at, and how many matrices of two kinds have gone by. */
struct state { const struct mix_row *row; bool falcon, has_output; int experts, shared_heads, layers, values, downs, value_at, down_at; };

/* The first and last eighths of the layers, and every third between. */
static bool wants_more(int layer, int layers) { return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2; }

static int type_of_values(struct state *s)
{
    int at = s->value_at++, type = s->row->type;
    switch (s->row->mix) {
    case MIX_Q2_K: type = s->shared_heads >= 4 ? BLOCK_Q4_K : BLOCK_Q3_K; break;
    case MIX_Q3_K_M: type = at < 2 ? BLOCK_Q5_K : BLOCK_Q4_K; break;
    case MIX_Q3_K_L: type = BLOCK_Q5_K; break;
    case MIX_Q4_K_S: type = at < 4 ? BLOCK_Q5_K : type; break;
    case MIX_Q4_K_M: case MIX_Q5_K_M: type = wants_more(at, s->values) ? BLOCK_Q6_K : type; break;
    case MIX_IQ4: type = s->shared_heads >= 4 ? BLOCK_Q5_K : type; break;
    default: break;
    }
    return s->experts == 8 ? BLOCK_Q8_0 : type;
}

static int type_of_down(struct state *s, const char *name)
{
    int at = s->down_at++, n = s->downs, type = s->row->type;
    if (s->experts > 1 && sscanf(name, "blk.%d.", &at) == 1) n = s->layers;
    bool first = at < n / 8, more = wants_more(at, n);
    switch (s->row->mix) {
    case MIX_Q2_K: return BLOCK_Q3_K;
    case MIX_Q3_K_M: return at < n / 16 ? BLOCK_Q5_K : !s->falcon || more ? BLOCK_Q4_K : BLOCK_Q3_K;
    case MIX_Q3_K_L: return s->falcon ? BLOCK_Q4_K : BLOCK_Q5_K;
    case MIX_Q4_K_M: return s->falcon ? (at < n / 16 ? BLOCK_Q6_K : more ? BLOCK_Q5_K : BLOCK_Q4_K) : more ? BLOCK_Q6_K : type;
    case MIX_IQ4: return first ? BLOCK_Q5_K : type;
    case MIX_Q5_K_M: return more ? BLOCK_Q6_K : type;
    case MIX_Q4_K_S: return !s->falcon && first ? BLOCK_Q5_K : type;
    default: return type;
    }
}

static int type_of_attention_output(const struct state *s)
{
    enum mix m = s->row->mix;
    if (s->falcon) return m == MIX_Q3_K_L ? BLOCK_Q4_K : s->row->type;
    if (s->experts == 8) return m == MIX_Q2_K || m == MIX_Q3_K_S || m == MIX_Q3_K_M || m == MIX_Q4_K_S || m == MIX_Q4_K_M || m == MIX_IQ4 ? BLOCK_Q5_K : s->row->type;
    return m == MIX_Q2_K ? BLOCK_Q3_K : m == MIX_Q3_K_M ? BLOCK_Q4_K : m == MIX_Q3_K_L ? BLOCK_Q5_K : s->row->type;
}

static int type_of_matrix(struct state *s, const char *name, int64_t k)
{
    int type = s->row->type;
    enum mix m = s->row->mix;
    if (!strcmp(name, "output.weight") || (!s->has_output && !strcmp(name, "token_embd.weight"))) return s->falcon || k % 256 ? BLOCK_Q8_0 : type == BLOCK_Q8_0 ? type : BLOCK_Q6_K;
    if (!strcmp(name, "token_embd.weight")) return m == MIX_TERNARY ? BLOCK_Q4_K : type;
    if (strstr(name, "attn_v.weight")) return type_of_values(s);
    if (strstr(name, "attn_k.weight")) return s->experts == 8 ? BLOCK_Q8_0 : type;
    if (strstr(name, "ffn_down")) return type_of_down(s, name);
    if (strstr(name, "attn_output.weight")) return type_of_attention_output(s);
    if (strstr(name, "attn_qkv.weight")) return m == MIX_Q3_K_M || m == MIX_Q3_K_L ? BLOCK_Q4_K : m == MIX_Q4_K_M ? BLOCK_Q5_K : m == MIX_Q5_K_M ? BLOCK_Q6_K : type;
    return type;
}

bool convert_is_matrix(const struct convert_item *it)
{
    static const char *const never[] = { "_norm.weight", "ffn_gate_inp", "position_embd", "token_types", "attn_rel_b" };
    size_t n = strlen(it->name);
    if (it->rank < 2 || n < 6 || strcmp(it->name + n - 6, "weight")) return false;
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++)
        if (strstr(it->name, never[i])) return false;
    return true;
}

static void survey(struct state *s, const struct convert_plan *p, const struct gguf *g)
{
    char key[96];
    uint32_t heads = 1, kv = 1, experts = 0, layers = 0;
    size_t n = 0;
    const char *arch = gguf_text(g, "general.architecture", &n);
    if (n > 40) n = 40;
    s->falcon = arch && n == 6 && !memcmp(arch, "falcon", 6);
    const struct { const char *name; uint32_t *out; } all[] = { { "attention.head_count", &heads }, { "attention.head_count_kv", &kv }, { "expert_count", &experts }, { "block_count", &layers } };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        snprintf(key, sizeof key, "%.*s.%s", (int)n, arch ? arch : "", all[i].name);
        if (!gguf_u32(g, key, all[i].out) && i == 1) kv = heads;
    }
    s->shared_heads = kv ? (int)(heads / kv) : 1;
    s->experts = (int)(experts & INT32_MAX);
    s->layers = (int)(layers & INT32_MAX);
    for (int i = 0; i < p->count; i++) {
        const char *name = p->items[i].name;
        s->has_output |= !strcmp(name, "output.weight");
        s->values += strstr(name, "attn_v.weight") || strstr(name, "attn_qkv.weight");
        s->downs += strstr(name, "ffn_down") && convert_is_matrix(&p->items[i]);
    }
}

enum status convert_mix_types(struct convert_plan *p, const struct gguf *g, const char *mix, struct err *err)
{
    struct state s = { 0 };
    for (int i = 0; i < MIXES && !s.row; i++)
        if (!strcasecmp(rows[i].name, mix)) s.row = &rows[i];
    if (!s.row) return err_set(err, ST_BAD_INPUT, "'%.40s' is no type that models are quantised to", mix);
    survey(&s, p, g);
    for (int i = 0; i < p->count; i++) {
        struct convert_item *it = &p->items[i];
        int own = it->tensor->type;
        if (!convert_is_matrix(it)) continue;
        if (own != WEIGHT_F32 && own != WEIGHT_F16 && own != WEIGHT_BF16) return err_set(err, ST_UNSUPPORTED, "tensor '%s' is %s already: quantise from F32, F16 or BF16", it->name, weight_type_name(own));
        it->type = convert_fit_type(p, type_of_matrix(&s, it->name, it->dims[it->rank - 1]), it->dims[it->rank - 1]);
    }
    return ST_OK;
}
