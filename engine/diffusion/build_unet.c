/* U-Nets, with texts (UNet2DConditionModel: Stable Diffusion, SDXL, latent diffusion) or without (UNet2DModel: DDPM, class-conditional). One function for each part; what a
 * block is made of is said by its type's name in the configuration, everything else by numbers there or by the weights that are there. */
#include <stdio.h>
#include <string.h>

#include "engine/diffusion/build.h"
#include "engine/operators/diffusion.h"
#include "engine/operators/llm.h"

enum { SKIPS_MAX = 128 };

struct unet {
    struct network b;
    struct denoiser *d;
    bool    text;                  /* UNet2DConditionModel */
    int     levels;                /* blocks going down */
    int64_t groups;
    double  epsilon, mid_scale;
    struct activation_spec act;
    bool    modulated;             /* time scales and shifts the norm instead of being added */
    bool    linear_projection;
    int     time;                  /* silu(embedding of the time), [n, width] */
    int     context, counts;
    int     skips[SKIPS_MAX], skip_count;
};

/* ---- parts of blocks ---- */
static int resnet(struct unet *u, int x, double scale, const char *name)
{
    struct network *b = &u->b;
    int h = network_group_norm(b, x, -1, -1, u->groups, u->epsilon, u->act, "%s.norm1", name);
    h = network_conv(b, h, -1, 1, 1, 1, NETWORK_PLAIN, "%s.conv1", name);
    int t = network_linear(b, u->time, -1, NETWORK_PLAIN, "%s.time_emb_proj", name);
    h = network_group_norm(b, h, u->modulated ? -1 : t, u->modulated ? t : -1, u->groups, u->epsilon, u->act, "%s.norm2", name);
    if (network_find(b, "%s.conv_shortcut.weight", name)) x = network_conv(b, x, -1, 1, 0, 0, NETWORK_PLAIN, "%s.conv_shortcut", name);
    h = network_conv(b, h, x, 1, 1, 1, NETWORK_PLAIN, "%s.conv2", name);
    const struct limit_spec s = { (float)(1 / scale) };
    return scale == 1 ? h : network_add(b, &op_scale, &h, 1, &s, sizeof s, NULL);
}

/* Attention of pixels to each other, as in networks without texts. */
static int pixel_attention(struct unet *u, int x, int64_t channels, const char *name)
{
    struct network *b = &u->b;
    const int64_t each = network_int(b, "attention_head_dim", json_get(b->config, "attention_head_dim") || u->text ? channels : 8);      /* null: one head */
    const bool old = network_find(b, "%s.query.weight", name) != NULL;
    int64_t groups = u->groups;
    if (each < 1 || channels % each) return network_refuse(b, ST_BAD_INPUT, "%s: %lld channels do not make heads of %lld", name, (long long)channels, (long long)each);
    if (strstr(name, "mid_block")) groups = network_int(b, "attn_norm_num_groups", groups);
    int h = x;      /* the middle of networks whose norms the time modulates has no norm here */
    if (network_find(b, "%s.group_norm.weight", name)) h = network_group_norm(b, x, -1, -1, groups, u->epsilon, NETWORK_PLAIN, "%s.group_norm", name);
    int q = network_linear(b, h, -1, NETWORK_PLAIN, "%s.%s", name, old ? "query" : "to_q"), k = network_linear(b, h, -1, NETWORK_PLAIN, "%s.%s", name, old ? "key" : "to_k"), v = network_linear(b, h, -1, NETWORK_PLAIN, "%s.%s", name, old ? "value" : "to_v");
    h = network_attention(b, q, k, v, -1, (int)(channels / each), (int)each, 0, false);
    return network_linear(b, h, x, NETWORK_PLAIN, "%s.%s", name, old ? "proj_attn" : "to_out.0");
}

static int cross(struct unet *u, int x, int from, int residual, int heads, int64_t channels, const char *name)
{
    struct network *b = &u->b;
    const bool own = from == x;
    int q = network_linear(b, x, -1, NETWORK_PLAIN, "%s.to_q", name), k = network_linear(b, from, -1, NETWORK_PLAIN, "%s.to_k", name), v = network_linear(b, from, -1, NETWORK_PLAIN, "%s.to_v", name);
    int h = network_attention(b, q, k, v, own ? -1 : u->counts, heads, (int)(channels / heads), 0, false);
    return network_linear(b, h, residual, NETWORK_PLAIN, "%s.to_out.0", name);
}

static int transformer_block(struct unet *u, int x, int heads, int64_t channels, const char *name)
{
    struct network *b = &u->b;
    char part[NETWORK_NAME_MAX];
    int h = network_layer_norm(b, x, channels, 1e-5, "%s.norm1", name);
    snprintf(part, sizeof part, "%s.attn1", name);
    x = cross(u, h, network_bool(b, "only_cross_attention", false) ? u->context : h, x, heads, channels, part);
    if (network_find(b, "%s.attn2.to_q.weight", name)) {
        h = network_layer_norm(b, x, channels, 1e-5, "%s.norm2", name);
        snprintf(part, sizeof part, "%s.attn2", name);
        x = cross(u, h, u->context, x, heads, channels, part);
    }
    h = network_layer_norm(b, x, channels, 1e-5, "%s.norm3", name);
    h = network_geglu(b, h, "%s.ff.net.0.proj", name);
    return network_linear(b, h, x, NETWORK_PLAIN, "%s.ff.net.2", name);
}

static int transformer(struct unet *u, int x, int heads, int layers, int64_t channels, const char *name)
{
    struct network *b = &u->b;
    char block[NETWORK_NAME_MAX];
    if (heads < 1 || channels % heads) return network_refuse(b, ST_BAD_INPUT, "%s: %lld channels do not make %d heads", name, (long long)channels, heads);
    int h = network_group_norm(b, x, -1, -1, u->groups, 1e-6, NETWORK_PLAIN, "%s.norm", name);
    h = network_conv(b, h, -1, 1, 0, 0, NETWORK_PLAIN, "%s.proj_in", name);
    for (int i = 0; i < layers; i++) {
        snprintf(block, sizeof block, "%s.transformer_blocks.%d", name, i);
        h = transformer_block(u, h, heads, channels, block);
    }
    return network_conv(b, h, x, 1, 0, 0, NETWORK_PLAIN, "%s.proj_out", name);
}

/* ---- blocks ---- */
enum attention_kind { ATTEND_NONE, ATTEND_PIXELS, ATTEND_TEXT };

static enum attention_kind kind_of(struct unet *u, const char *type)
{
    static const struct { const char *name; enum attention_kind kind; } known[] = {
        { "DownBlock2D", ATTEND_NONE }, { "UpBlock2D", ATTEND_NONE }, { "AttnDownBlock2D", ATTEND_PIXELS }, { "AttnUpBlock2D", ATTEND_PIXELS }, { "CrossAttnDownBlock2D", ATTEND_TEXT }, { "CrossAttnUpBlock2D", ATTEND_TEXT },
    };
    for (size_t i = 0; type && i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(known[i].name, type)) return known[i].kind;
    network_refuse(&u->b, ST_UNSUPPORTED, "blocks of the type '%.60s' are not computed", type ? type : "null");
    return ATTEND_NONE;
}

static int attend(struct unet *u, enum attention_kind kind, int x, int level, int64_t channels, int index, const char *block, int position)
{
    struct network *b = &u->b;
    char name[NETWORK_NAME_MAX];
    snprintf(name, sizeof name, "%s.attentions.%d", block, index);
    if (kind == ATTEND_PIXELS) return pixel_attention(u, x, channels, name);
    int heads = (int)network_int_at(b, network_has(b, "num_attention_heads") ? "num_attention_heads" : "attention_head_dim", level, 8);
    int layers = (int)network_int_at(b, "transformer_layers_per_block", level, 1);
    if (position >= 0 && network_has(b, "reverse_transformer_layers_per_block")) layers = (int)network_int_at(b, "reverse_transformer_layers_per_block", position, 1);
    return transformer(u, x, heads, layers, channels, name);
}

static void keep(struct unet *u, int x)
{
    if (u->skip_count == SKIPS_MAX) network_refuse(&u->b, ST_UNSUPPORTED, "more than %d layers on the way down", SKIPS_MAX);
    else u->skips[u->skip_count++] = x;
}

static int way_down(struct unet *u, int x)
{
    struct network *b = &u->b;
    const int padding = (int)network_int(b, "downsample_padding", 1);
    for (int i = 0; i < u->levels && !b->st; i++) {
        const enum attention_kind kind = kind_of(u, network_text_at(b, "down_block_types", i));
        const int64_t channels = network_int_at(b, "block_out_channels", i, 0), layers = network_int_at(b, "layers_per_block", i, 2);
        char block[64], name[NETWORK_NAME_MAX];
        snprintf(block, sizeof block, "down_blocks.%d", i);
        for (int k = 0; k < layers && !b->st; k++) {
            snprintf(name, sizeof name, "%s.resnets.%d", block, k);
            x = resnet(u, x, 1, name);
            if (kind != ATTEND_NONE) x = attend(u, kind, x, i, channels, k, block, -1);
            keep(u, x);
        }
        if (i == u->levels - 1) continue;
        x = network_conv(b, x, -1, 2, padding, 1, NETWORK_PLAIN, "%s.downsamplers.0.%s", block, network_find(b, "%s.downsamplers.0.conv.weight", block) ? "conv" : "op");
        keep(u, x);
    }
    return x;
}

static int middle(struct unet *u, int x)
{
    struct network *b = &u->b;
    const char *type = network_text(b, "mid_block_type", u->text ? "UNetMidBlock2DCrossAttn" : "UNetMidBlock2D");
    const int64_t channels = network_int_at(b, "block_out_channels", u->levels - 1, 0);
    bool cross_text = !strcmp(type, "UNetMidBlock2DCrossAttn");
    if (!cross_text && strcmp(type, "UNetMidBlock2D")) return network_refuse(b, ST_UNSUPPORTED, "a middle block of the type '%.60s' is not computed", type);
    x = resnet(u, x, u->mid_scale, "mid_block.resnets.0");
    for (int i = 0; network_find(b, "mid_block.resnets.%d.conv1.weight", i + 1) && !b->st; i++) {
        char name[64];
        if (cross_text) x = attend(u, ATTEND_TEXT, x, u->levels - 1, channels, i, "mid_block", -1);
        else if (network_bool(b, "add_attention", true) && (network_find(b, "mid_block.attentions.%d.to_q.weight", i) || network_find(b, "mid_block.attentions.%d.query.weight", i))) x = attend(u, ATTEND_PIXELS, x, u->levels - 1, channels, i, "mid_block", -1);
        snprintf(name, sizeof name, "mid_block.resnets.%d", i + 1);
        x = resnet(u, x, u->mid_scale, name);
    }
    return x;
}

static int way_up(struct unet *u, int x)
{
    struct network *b = &u->b;
    for (int i = 0; i < u->levels && !b->st; i++) {
        const int level = u->levels - 1 - i;
        const enum attention_kind kind = kind_of(u, network_text_at(b, "up_block_types", i));
        const int64_t channels = network_int_at(b, "block_out_channels", level, 0), layers = network_int_at(b, "layers_per_block", level, 2) + 1;
        char block[64], name[NETWORK_NAME_MAX];
        snprintf(block, sizeof block, "up_blocks.%d", i);
        for (int k = 0; k < layers && !b->st; k++) {
            if (!u->skip_count) return network_refuse(b, ST_BAD_INPUT, "more layers on the way up than down");
            x = network_join(b, x, u->skips[--u->skip_count], 3);
            snprintf(name, sizeof name, "%s.resnets.%d", block, k);
            x = resnet(u, x, 1, name);
            if (kind != ATTEND_NONE) x = attend(u, kind, x, level, channels, k, block, i);
        }
        if (i == u->levels - 1) continue;
        /* sides that are no multiple of all halvings come back to what they were */
        int like = u->skip_count ? u->skips[u->skip_count - 1] : -1;
        x = network_add(b, &op_upsample, (int[]){ x, like }, 2, NULL, 0, NULL);
        x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "%s.upsamplers.0.conv", block);
    }
    return x;
}

/* ---- conditions ---- */
static int input(struct unet *u, enum denoiser_input which, const char *name, enum dtype t, int rank, const int64_t *dims)
{
    u->d->at[which] = u->b.g->input_count;
    return network_input(&u->b, name, t, rank, dims);
}

static int embedded(struct unet *u, int x, const char *name)
{
    return network_linear(&u->b, network_linear(&u->b, x, -1, u->act, "%s.linear_1", name), -1, NETWORK_PLAIN, "%s.linear_2", name);
}

static int times(struct unet *u, int t, int dim)
{
    struct network *b = &u->b;
    const struct time_embed_spec s = { .dim = dim, .cosines_first = network_bool(b, "flip_sin_to_cos", true), .shift = (float)network_real(b, "freq_shift", 0), .scale = 1, .base = 10000 };
    return network_add(b, &op_time_embed, &t, 1, &s, sizeof s, NULL);
}

/* SDXL: the sizes as times, beside the pooled text, through a layer of their own. */
static int added_text_time(struct unet *u, int emb)
{
    struct network *b = &u->b;
    const int dim = (int)network_int(b, "addition_time_embed_dim", 256);
    const int64_t whole = network_int(b, "projection_class_embeddings_input_dim", 0);
    const struct weight_tensor *w = network_find(b, "add_embedding.linear_1.weight");
    if (!w || w->rank != 2 || w->dims[1] != whole) return network_refuse(b, ST_BAD_INPUT, "tensor 'add_embedding.linear_1.weight' does not take %lld numbers", (long long)whole);
    if (dim < 1 || u->d->pooled_width < 1 || whole <= u->d->pooled_width || (whole - u->d->pooled_width) % dim || (whole - u->d->pooled_width) / dim > 16)
        return network_refuse(b, ST_BAD_INPUT, "projection_class_embeddings_input_dim %lld is no pooled text of %d numbers and sizes of %d each", (long long)whole, u->d->pooled_width, dim);
    u->d->size_count = (int)((whole - u->d->pooled_width) / dim);
    int pooled = input(u, DENOISER_POOLED, "pooled", DT_F32, 2, (int64_t[]){ -1, u->d->pooled_width }), sizes = input(u, DENOISER_SIZES, "sizes", DT_F32, 2, (int64_t[]){ -1, u->d->size_count });
    return network_sum(b, emb, embedded(u, network_join(b, pooled, times(u, sizes, dim), 1), "add_embedding"));
}

static int class_embedding(struct unet *u, int emb, int dim)
{
    struct network *b = &u->b;
    const char *type = network_text(b, "class_embed_type", NULL);
    if (!type && !network_has(b, "num_class_embeds")) return emb;
    int label = input(u, DENOISER_LABEL, "label", DT_I32, 1, (int64_t[]){ -1 }), y = -1;
    if (!type) {
        const struct weight_tensor *w = network_find(b, "class_embedding.weight");
        if (!w || w->rank != 2) return network_refuse(b, ST_BAD_INPUT, "tensor 'class_embedding.weight' is missing");
        u->d->labels = (int)w->dims[0];
        const float *table = network_floats(b, 0, true, "class_embedding.weight");
        const struct embed_spec s = { .format = block_format(BLOCK_F32), .table = (const uint8_t *)table, .rows = w->dims[0], .width = w->dims[1], .row_bytes = w->dims[1] * (int64_t)sizeof(float), .scale = 1 };
        y = network_embed(b, label, BLOCK_F32, &s);
    } else {
        (void)dim;
        return network_refuse(b, ST_UNSUPPORTED, "class_embed_type '%.60s' is not computed", type);
    }
    return network_sum(b, emb, y);
}

static void conditions(struct unet *u)
{
    struct network *b = &u->b;
    const int dim = (int)network_int_at(b, "block_out_channels", 0, 0);
    if (strcmp(network_text(b, "time_embedding_type", "positional"), "positional")) {
        network_refuse(b, ST_UNSUPPORTED, "time_embedding_type '%.60s' is not computed; positional is", network_text(b, "time_embedding_type", ""));
        return;
    }
    int t = times(u, input(u, DENOISER_TIME, "time", DT_F32, 1, (int64_t[]){ -1 }), dim);
    if (network_has(b, "time_cond_proj_dim")) {      /* LCM: the embedding of the guidance is added before the first layer */
        u->d->guide_width = (int)network_int(b, "time_cond_proj_dim", 0);
        int guide = input(u, DENOISER_GUIDE, "guidance", DT_F32, 2, (int64_t[]){ -1, u->d->guide_width });
        t = network_sum(b, t, network_linear(b, guide, -1, NETWORK_PLAIN, "time_embedding.cond_proj"));
    }
    int emb = embedded(u, t, "time_embedding");
    emb = class_embedding(u, emb, dim);
    const char *added = network_text(b, "addition_embed_type", NULL);
    if (added && !strcmp(added, "text_time")) emb = added_text_time(u, emb);
    else if (added) network_refuse(b, ST_UNSUPPORTED, "addition_embed_type '%.60s' is not computed", added);
    u->time = network_act(b, emb, NETWORK_SILU);
    u->context = u->counts = -1;
    if (!u->text) return;
    u->d->context_width = (int)network_int_at(b, "cross_attention_dim", 0, 1280);
    u->context = input(u, DENOISER_CONTEXT, "context", DT_F32, 3, (int64_t[]){ -1, -1, u->d->context_width });
    u->counts = input(u, DENOISER_COUNTS, "tokens", DT_I32, 1, (int64_t[]){ -1 });
}

/* What changes the result and is not computed is refused by name. */
static void check_config(struct unet *u)
{
    static const struct { const char *key; bool allowed; } flags[] = { { "dual_cross_attention", false }, { "class_embeddings_concat", false }, { "resnet_skip_time_act", false } };
    static const char *const none[] = { "encoder_hid_dim_type", "time_embedding_act_fn", "timestep_post_act", "cross_attention_norm" };
    struct network *b = &u->b;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        if (network_bool(b, flags[i].key, false)) network_refuse(b, ST_UNSUPPORTED, "%s is not computed", flags[i].key);
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        if (network_has(b, none[i])) network_refuse(b, ST_UNSUPPORTED, "%s is not computed", none[i]);
    if (u->levels < 1 || u->levels > NETWORK_LEVELS_MAX || network_count(b, "down_block_types") != u->levels || network_count(b, "up_block_types") != u->levels)
        network_refuse(b, ST_BAD_INPUT, "block_out_channels, down_block_types and up_block_types must be lists of the same length, 1 to %d", NETWORK_LEVELS_MAX);
    if (network_real(b, "resnet_out_scale_factor", 1) != 1) network_refuse(b, ST_UNSUPPORTED, "resnet_out_scale_factor is not computed");
    const char *shift = network_text(b, "resnet_time_scale_shift", "default");
    u->modulated = !strcmp(shift, "scale_shift");
    if (!u->modulated && strcmp(shift, "default")) network_refuse(b, ST_UNSUPPORTED, "resnet_time_scale_shift '%.60s' is not computed", shift);
}

enum status build_unet(struct graph *g, struct network_source *s, enum linear_mode mode, int pooled_width, struct denoiser *out, struct err *err)
{
    static const char *const idle[] = { NULL };
    struct unet u = { .b = { .g = g, .source = s, .config = s->config, .mode = mode, .err = err }, .d = out };
    struct network *b = &u.b;
    const char *class = network_text(b, "_class_name", "UNet2DConditionModel");
    *out = (struct denoiser){ .patch = 1, .pooled_width = pooled_width };
    for (int i = 0; i < DENOISER_INPUTS; i++) out->at[i] = -1;
    u.text = !strcmp(class, "UNet2DConditionModel");
    if (!u.text && strcmp(class, "UNet2DModel")) return err_set(err, ST_UNSUPPORTED, "networks of the class '%.60s' are not computed", class);
    u.levels = network_count(b, "block_out_channels");
    out->in_channels = (int)network_int(b, "in_channels", u.text ? 4 : 3);
    out->out_channels = (int)network_int(b, "out_channels", u.text ? 4 : 3);
    out->sample_size = (int)network_int_at(b, "sample_size", 0, 0);
    out->levels = u.levels - 1;
    u.groups = network_int(b, "norm_num_groups", 32);
    u.epsilon = network_real(b, "norm_eps", 1e-5);
    u.mid_scale = network_real(b, "mid_block_scale_factor", 1);
    b->st = network_activation(network_text(b, "act_fn", "silu"), &u.act, err);
    network_begin(b, DENOISER_INPUTS, 1);
    if (!b->st) check_config(&u);
    int x = input(&u, DENOISER_SAMPLE, "sample", DT_F32, 4, (int64_t[]){ -1, -1, -1, out->in_channels });
    conditions(&u);
    if (network_bool(b, "center_input_sample", false)) network_refuse(b, ST_UNSUPPORTED, "center_input_sample is not computed");
    const int window = (int)network_int(b, "conv_in_kernel", 3) / 2, last = (int)network_int(b, "conv_out_kernel", 3) / 2;
    x = network_conv(b, x, -1, 1, window, window, NETWORK_PLAIN, "conv_in");
    keep(&u, x);
    x = way_down(&u, x);
    x = middle(&u, x);
    x = way_up(&u, x);
    x = network_group_norm(b, x, -1, -1, u.groups, u.epsilon, u.act, "conv_norm_out");
    x = network_conv(b, x, -1, 1, last, last, NETWORK_PLAIN, "conv_out");
    network_output(b, x, "noise");
    if (!b->st) b->st = network_all_used(b, idle);
    return b->st ? b->st : graph_sort(g, err);
}
