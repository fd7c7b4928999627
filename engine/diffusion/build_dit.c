/* Transformers over patches in which texts and picture look at each other: Stable Diffusion 3 and Flux. A block first takes what the time (and the text as a whole) says to scale,
 * shift and gate by; both streams go through layers of their own and meet in the attention. Flux goes on with blocks that have one stream, and turns queries and keys by place. */
#include <stdio.h>
#include <string.h>

#include "engine/diffusion/build.h"
#include "engine/operators/diffusion.h"
#include "engine/operators/llm.h"

static const struct activation_spec GELU = { ACT_GELU_TANH, 0, 0 };
static const double EPSILON = 1e-6;

struct dit {
    struct network b;
    struct denoiser *d;
    bool    flux;
    int     heads, head_dim;
    int64_t width;
    int     time;                  /* silu of the condition, [n, width] */
    int     table;                 /* Flux's rotation, -1: none */
};

static int input(struct dit *u, enum denoiser_input which, const char *name, enum dtype t, int rank, const int64_t *dims)
{
    u->d->at[which] = u->b.g->input_count;
    return network_input(&u->b, name, t, rank, dims);
}

static int modulated(struct dit *u, int x, int condition, int64_t scale, int64_t shift)
{
    struct network *b = &u->b;
    const struct modulate_spec s = { .scale = scale, .shift = shift };
    return network_add(b, &op_modulate, (int[]){ network_layer_norm(b, x, u->width, EPSILON, "no norm has weights here"), condition }, 2, &s, sizeof s, NULL);
}

static int gated(struct dit *u, int x, int y, int condition, int64_t gate)
{
    const struct gated_spec s = { gate };
    return network_add(&u->b, &op_gated, (int[]){ x, y, condition }, 3, &s, sizeof s, NULL);
}

static int feed_forward(struct dit *u, int x, const char *name)
{
    struct network *b = &u->b;
    return network_linear(b, network_linear(b, x, -1, GELU, "%s.net.0.proj", name), -1, NETWORK_PLAIN, "%s.net.2", name);
}

/* Queries, keys or values of one stream, normed head by head where there is a norm. */
static int projected(struct dit *u, int x, const char *block, const char *matrix, const char *norm)
{
    struct network *b = &u->b;
    int y = network_linear(b, x, -1, NETWORK_PLAIN, "%s.%s", block, matrix);
    if (norm && network_find(b, "%s.%s.weight", block, norm)) y = network_rms_norm(b, y, u->head_dim, EPSILON, "%s.%s", block, norm);
    return y;
}

static int turned(struct dit *u, int x)
{
    const struct rope_pairs_spec s = { .heads = u->heads, .head_dim = u->head_dim };
    return u->table < 0 ? x : network_add(&u->b, &op_rope_pairs, (int[]){ x, u->table }, 2, &s, sizeof s, NULL);
}

static int cut(struct dit *u, int x, bool behind, int like)
{
    const struct part_spec s = { .axis = 1, .first = behind ? -1 : 0, .count = -1 };
    return network_add(&u->b, &op_part, (int[]){ x, like }, 2, &s, sizeof s, NULL);
}

/* Both streams look at each other; *text becomes what the texts get. Stable Diffusion 3 has the picture first, Flux the texts. */
static int joint_attention(struct dit *u, int picture, int *text, const char *block)
{
    struct network *b = &u->b;
    char name[96];
    snprintf(name, sizeof name, "%s.attn", block);
    int parts[3];
    static const char *const own[] = { "to_q", "to_k", "to_v" }, *const added[] = { "add_q_proj", "add_k_proj", "add_v_proj" }, *const norms[] = { "norm_q", "norm_k", NULL }, *const added_norms[] = { "norm_added_q", "norm_added_k", NULL };
    for (int i = 0; i < 3; i++) {
        int x = projected(u, picture, name, own[i], norms[i]), y = projected(u, *text, name, added[i], added_norms[i]);
        parts[i] = u->flux ? network_join(b, y, x, 1) : network_join(b, x, y, 1);
        if (i < 2) parts[i] = turned(u, parts[i]);
    }
    int h = network_attention(b, parts[0], parts[1], parts[2], -1, u->heads, u->head_dim, 0, false);
    int x = cut(u, h, u->flux, picture), y = cut(u, h, !u->flux, *text);
    *text = network_find(b, "%s.to_add_out.weight", name) ? network_linear(b, y, -1, NETWORK_PLAIN, "%s.to_add_out", name) : -1;
    return network_linear(b, x, -1, NETWORK_PLAIN, "%s.to_out.0", name);
}

/* The second attention of Stable Diffusion 3.5: the picture alone. */
static int own_attention(struct dit *u, int x, const char *block)
{
    struct network *b = &u->b;
    char name[96];
    snprintf(name, sizeof name, "%s.attn2", block);
    int q = projected(u, x, name, "to_q", "norm_q"), k = projected(u, x, name, "to_k", "norm_k"), v = projected(u, x, name, "to_v", NULL);
    return network_linear(b, network_attention(b, q, k, v, -1, u->heads, u->head_dim, 0, false), -1, NETWORK_PLAIN, "%s.to_out.0", name);
}

/* What the condition gives: shift, scale, gate of the attention, then of the feed-forward (and of a second attention), each `width` long. */
static void joint_block(struct dit *u, int *picture, int *text, int index)
{
    struct network *b = &u->b;
    const int64_t w = u->width;
    char block[64], name[96];
    snprintf(block, sizeof block, "transformer_blocks.%d", index);
    const bool second = network_find(b, "%s.attn2.to_q.weight", block) != NULL, last = network_find(b, "%s.attn.to_add_out.weight", block) == NULL;
    int c = network_linear(b, u->time, -1, NETWORK_PLAIN, "%s.norm1.linear", block), ct = network_linear(b, u->time, -1, NETWORK_PLAIN, "%s.norm1_context.linear", block);
    int x = modulated(u, *picture, c, w, 0), y = last ? modulated(u, *text, ct, 0, w) : modulated(u, *text, ct, w, 0);
    int more = second ? own_attention(u, modulated(u, *picture, c, 7 * w, 6 * w), block) : -1;
    x = joint_attention(u, x, &y, block);
    *picture = gated(u, *picture, x, c, 2 * w);
    if (second) *picture = gated(u, *picture, more, c, 8 * w);
    snprintf(name, sizeof name, "%s.ff", block);
    *picture = gated(u, *picture, feed_forward(u, modulated(u, *picture, c, 4 * w, 3 * w), name), c, 5 * w);
    if (last) return;
    *text = gated(u, *text, y, ct, 2 * w);
    snprintf(name, sizeof name, "%s.ff_context", block);
    *text = gated(u, *text, feed_forward(u, modulated(u, *text, ct, 4 * w, 3 * w), name), ct, 5 * w);
}

/* Flux: attention and feed-forward side by side over both, texts first. */
static int single_block(struct dit *u, int x, int index)
{
    struct network *b = &u->b;
    const int64_t w = u->width;
    char block[64], name[96];
    snprintf(block, sizeof block, "single_transformer_blocks.%d", index);
    snprintf(name, sizeof name, "%s.attn", block);
    int c = network_linear(b, u->time, -1, NETWORK_PLAIN, "%s.norm.linear", block), h = modulated(u, x, c, w, 0);
    int f = network_linear(b, h, -1, GELU, "%s.proj_mlp", block);
    int q = turned(u, projected(u, h, name, "to_q", "norm_q")), k = turned(u, projected(u, h, name, "to_k", "norm_k")), v = projected(u, h, name, "to_v", NULL);
    h = network_join(b, network_attention(b, q, k, v, -1, u->heads, u->head_dim, 0, false), f, 2);
    return gated(u, x, network_linear(b, h, -1, NETWORK_PLAIN, "%s.proj_out", block), c, 2 * w);
}

/* ---- the ends ---- */
static int embedded(struct dit *u, int x, const char *name)
{
    struct network *b = &u->b;
    return network_linear(b, network_linear(b, x, -1, NETWORK_SILU, "time_text_embed.%s.linear_1", name), -1, NETWORK_PLAIN, "time_text_embed.%s.linear_2", name);
}

static int times(struct dit *u, int t)
{
    const struct time_embed_spec s = { .dim = 256, .cosines_first = true, .scale = 1, .base = 10000 };
    return network_add(&u->b, &op_time_embed, &t, 1, &s, sizeof s, NULL);
}

static void conditions(struct dit *u)
{
    struct network *b = &u->b;
    u->d->pooled_width = (int)network_int(b, "pooled_projection_dim", u->flux ? 768 : 2048);
    int emb = embedded(u, times(u, input(u, DENOISER_TIME, "time", DT_F32, 1, (int64_t[]){ -1 })), "timestep_embedder");
    if (u->flux && network_bool(b, "guidance_embeds", false)) {
        u->d->guide_width = 1;
        u->d->guided = true;
        emb = network_sum(b, emb, embedded(u, times(u, input(u, DENOISER_GUIDE, "guidance", DT_F32, 2, (int64_t[]){ -1, 1 })), "guidance_embedder"));
    }
    emb = network_sum(b, emb, embedded(u, input(u, DENOISER_POOLED, "pooled", DT_F32, 2, (int64_t[]){ -1, u->d->pooled_width }), "text_embedder"));
    u->time = network_act(b, emb, NETWORK_SILU);
}

/* Patches, and a table of their places cut to the picture's size. */
static int patches_sd3(struct dit *u, int x)
{
    struct network *b = &u->b;
    const int64_t side = network_int(b, "pos_embed_max_size", 96);
    const struct positions_spec s = { .table = network_floats(b, side * side * u->width, true, "pos_embed.pos_embed"), .side = side };
    x = network_conv(b, x, -1, u->d->patch, 0, 0, NETWORK_PLAIN, "pos_embed.proj");
    return network_add(b, &op_add_positions, &x, 1, &s, sizeof s, NULL);
}

static enum status check_config(struct dit *u)
{
    struct network *b = &u->b;
    const char *norm = network_text(b, "qk_norm", "rms_norm");
    if (strcmp(norm, "rms_norm")) return err_set(b->err, ST_UNSUPPORTED, "qk_norm '%.60s' is not computed", norm);
    if (u->heads < 1 || u->head_dim < 2 || u->head_dim % 2 || u->d->patch < 1 || u->d->patch > 16) return err_set(b->err, ST_BAD_INPUT, "a transformer of %d heads of %d over patches of %d", u->heads, u->head_dim, u->d->patch);
    return ST_OK;
}

enum status build_dit(struct graph *g, struct network_source *s, enum linear_mode mode, struct denoiser *out, struct err *err)
{
    static const char *const idle[] = { NULL };
    struct dit u = { .b = { .g = g, .source = s, .config = s->config, .mode = mode, .err = err }, .d = out, .table = -1 };
    struct network *b = &u.b;
    u.flux = !strcmp(network_text(b, "_class_name", ""), "FluxTransformer2DModel");
    u.heads = (int)network_int(b, "num_attention_heads", u.flux ? 24 : 18);
    u.head_dim = (int)network_int(b, "attention_head_dim", u.flux ? 128 : 64);
    u.width = (int64_t)u.heads * u.head_dim;
    *out = (struct denoiser){ .patch = u.flux ? 2 : (int)network_int(b, "patch_size", 2), .joint = true, .head_dim = u.flux ? u.head_dim : 0 };
    for (int i = 0; i < DENOISER_INPUTS; i++) out->at[i] = -1;
    b->st = check_config(&u);
    const int64_t in = network_int(b, "in_channels", u.flux ? 64 : 16), made = network_int(b, "out_channels", u.flux ? in : 16);
    out->in_channels = (int)(u.flux ? in / 4 : in);
    out->out_channels = (int)(u.flux ? made / 4 : made);
    out->sample_size = (int)network_int_at(b, "sample_size", 0, 128);
    out->context_width = (int)network_int(b, "joint_attention_dim", 4096);
    for (int i = 0; i < 3; i++) out->axes[i] = (int)network_int_at(b, "axes_dims_rope", i, (int[]){ 16, 56, 56 }[i]);
    if (u.flux && out->axes[0] + out->axes[1] + out->axes[2] != u.head_dim) network_refuse(b, ST_BAD_INPUT, "axes_dims_rope add up to no head of %d", u.head_dim);
    network_begin(b, DENOISER_INPUTS, 1);
    const struct patch_spec patch = { .side = out->patch, .by_channel = u.flux };
    int x = input(&u, DENOISER_SAMPLE, "sample", DT_F32, 4, (int64_t[]){ -1, -1, -1, out->in_channels });
    conditions(&u);
    int text = input(&u, DENOISER_CONTEXT, "context", DT_F32, 3, (int64_t[]){ -1, -1, out->context_width });
    if (u.flux) u.table = input(&u, DENOISER_ROTATION, "rotation", DT_F32, 2, (int64_t[]){ -1, u.head_dim });
    text = network_linear(b, text, -1, NETWORK_PLAIN, "context_embedder");
    int grid = u.flux ? network_linear(b, network_add(b, &op_patch, &x, 1, &patch, sizeof patch, NULL), -1, NETWORK_PLAIN, "x_embedder") : patches_sd3(&u, x);
    x = network_add(b, &op_as_tokens, &grid, 1, NULL, 0, NULL);
    for (int i = 0; i < network_int(b, "num_layers", 0) && !b->st; i++) joint_block(&u, &x, &text, i);
    const int64_t singles = u.flux ? network_int(b, "num_single_layers", 0) : 0;
    if (singles) {
        int both = network_join(b, text, x, 1);
        for (int i = 0; i < singles && !b->st; i++) both = single_block(&u, both, i);
        x = cut(&u, both, true, x);
    }
    x = modulated(&u, x, network_linear(b, u.time, -1, NETWORK_PLAIN, "norm_out.linear"), 0, u.width);
    x = network_linear(b, x, -1, NETWORK_PLAIN, "proj_out");
    x = network_add(b, &op_as_tokens, (int[]){ x, grid }, 2, NULL, 0, NULL);
    x = network_add(b, &op_unpatch, &x, 1, &patch, sizeof patch, NULL);
    network_output(b, x, "flow");
    if (!b->st) b->st = network_all_used(b, idle);
    return b->st ? b->st : graph_sort(g, err);
}
