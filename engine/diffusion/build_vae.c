/* Autoencoders: AutoencoderKL and VQModel, which are made of the same blocks, and AutoencoderTiny (TAESD), a row of convolutions. */
#include <stdio.h>
#include <string.h>

#include "engine/diffusion/build.h"
#include "engine/operators/diffusion.h"
#include "engine/operators/llm.h"

struct vae { struct network b; int64_t groups, layers; int levels; struct activation_spec act; bool attends; };

static const double EPSILON = 1e-6;

static int resnet(struct vae *v, int x, const char *name)
{
    struct network *b = &v->b;
    int h = network_group_norm(b, x, -1, -1, v->groups, EPSILON, v->act, "%s.norm1", name);
    h = network_conv(b, h, -1, 1, 1, 1, NETWORK_PLAIN, "%s.conv1", name);
    h = network_group_norm(b, h, -1, -1, v->groups, EPSILON, v->act, "%s.norm2", name);
    if (network_find(b, "%s.conv_shortcut.weight", name)) x = network_conv(b, x, -1, 1, 0, 0, NETWORK_PLAIN, "%s.conv_shortcut", name);
    return network_conv(b, h, x, 1, 1, 1, NETWORK_PLAIN, "%s.conv2", name);
}

/* One head over all channels. Older files call the four matrices otherwise. */
static int attention(struct vae *v, int x, const char *name)
{
    struct network *b = &v->b;
    const bool old = network_find(b, "%s.query.weight", name) != NULL;
    const struct weight_tensor *w = network_find(b, old ? "%s.query.weight" : "%s.to_q.weight", name);
    int h = network_group_norm(b, x, -1, -1, v->groups, EPSILON, NETWORK_PLAIN, "%s.group_norm", name);
    int q = network_linear(b, h, -1, NETWORK_PLAIN, "%s.%s", name, old ? "query" : "to_q"), k = network_linear(b, h, -1, NETWORK_PLAIN, "%s.%s", name, old ? "key" : "to_k"), y = network_linear(b, h, -1, NETWORK_PLAIN, "%s.%s", name, old ? "value" : "to_v");
    h = network_attention(b, q, k, y, -1, 1, w ? (int)w->dims[0] : 0, 0, false);
    return network_linear(b, h, x, NETWORK_PLAIN, "%s.%s", name, old ? "proj_attn" : "to_out.0");
}

static int middle(struct vae *v, int x, const char *half)
{
    char name[96];
    snprintf(name, sizeof name, "%s.mid_block.resnets.0", half);
    x = resnet(v, x, name);
    snprintf(name, sizeof name, "%s.mid_block.attentions.0", half);
    if (v->attends) x = attention(v, x, name);
    snprintf(name, sizeof name, "%s.mid_block.resnets.1", half);
    return resnet(v, x, name);
}

static void check_types(struct vae *v, const char *key, const char *type)
{
    struct network *b = &v->b;
    for (int i = 0; i < v->levels; i++) {
        const char *t = network_text_at(b, key, i);
        if (!t || strcmp(t, type)) network_refuse(b, ST_UNSUPPORTED, "an autoencoder's block of the type '%.60s' is not computed", t ? t : "null");
    }
}

static int begin(struct vae *v, struct graph *g, int channels)
{
    v->b.g = g;
    network_begin(&v->b, 1, 1);
    return network_input(&v->b, "x", DT_F32, 4, (int64_t[]){ -1, -1, -1, channels });
}

static void encode(struct vae *v, int x)
{
    struct network *b = &v->b;
    char name[96];
    check_types(v, "down_block_types", "DownEncoderBlock2D");
    x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "encoder.conv_in");
    for (int i = 0; i < v->levels && !b->st; i++) {
        for (int k = 0; k < v->layers && !b->st; k++) {
            snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.%d", i, k);
            x = resnet(v, x, name);
        }
        if (i < v->levels - 1) x = network_conv(b, x, -1, 2, 0, 1, NETWORK_PLAIN, "encoder.down_blocks.%d.downsamplers.0.conv", i);
    }
    x = middle(v, x, "encoder");
    x = network_group_norm(b, x, -1, -1, v->groups, EPSILON, NETWORK_SILU, "encoder.conv_norm_out");
    x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "encoder.conv_out");
    if (network_find(b, "quant_conv.weight")) x = network_conv(b, x, -1, 1, 0, 0, NETWORK_PLAIN, "quant_conv");
    network_output(b, x, "latents");
}

static void decode(struct vae *v, int x)
{
    struct network *b = &v->b;
    char name[96];
    check_types(v, "up_block_types", "UpDecoderBlock2D");
    if (network_find(b, "post_quant_conv.weight")) x = network_conv(b, x, -1, 1, 0, 0, NETWORK_PLAIN, "post_quant_conv");
    x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "decoder.conv_in");
    x = middle(v, x, "decoder");
    for (int i = 0; i < v->levels && !b->st; i++) {
        for (int k = 0; k < v->layers + 1 && !b->st; k++) {
            snprintf(name, sizeof name, "decoder.up_blocks.%d.resnets.%d", i, k);
            x = resnet(v, x, name);
        }
        if (i == v->levels - 1) continue;
        x = network_add(b, &op_upsample, &x, 1, NULL, 0, NULL);
        x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "decoder.up_blocks.%d.upsamplers.0.conv", i);
    }
    x = network_group_norm(b, x, -1, -1, v->groups, EPSILON, NETWORK_SILU, "decoder.conv_norm_out");
    x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "decoder.conv_out");
    network_output(b, x, "picture");
}

/* ---- TAESD ---- */
static int tiny_block(struct vae *v, int x, const char *half, int layer)
{
    struct network *b = &v->b;
    const struct activation_spec relu = { ACT_RELU, 0, 0 };
    int h = network_conv(b, x, -1, 1, 1, 1, v->act, "%s.layers.%d.conv.0", half, layer);
    h = network_conv(b, h, -1, 1, 1, 1, v->act, "%s.layers.%d.conv.2", half, layer);
    if (network_find(b, "%s.layers.%d.skip.weight", half, layer)) x = network_conv(b, x, -1, 1, 0, 0, NETWORK_PLAIN, "%s.layers.%d.skip", half, layer);
    return network_conv(b, h, x, 1, 1, 1, relu, "%s.layers.%d.conv.4", half, layer);
}

static void encode_tiny(struct vae *v, int x)
{
    struct network *b = &v->b;
    int layer = 0;
    for (int i = 0; i < network_count(b, "num_encoder_blocks") && !b->st; i++) {
        x = network_conv(b, x, -1, i ? 2 : 1, 1, 1, NETWORK_PLAIN, "encoder.layers.%d", layer++);
        for (int k = 0; k < network_int_at(b, "num_encoder_blocks", i, 0) && !b->st; k++) x = tiny_block(v, x, "encoder", layer++);
    }
    network_output(b, network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "encoder.layers.%d", layer), "latents");
}

static void decode_tiny(struct vae *v, int x)
{
    struct network *b = &v->b;
    const struct limit_spec three = { 3 };
    const int blocks = network_count(b, "num_decoder_blocks");
    int layer = 2;      /* the activation behind the first convolution counts */
    x = network_add(b, &op_softcap, &x, 1, &three, sizeof three, NULL);
    x = network_conv(b, x, -1, 1, 1, 1, v->act, "decoder.layers.0");
    for (int i = 0; i < blocks && !b->st; i++) {
        for (int k = 0; k < network_int_at(b, "num_decoder_blocks", i, 0) && !b->st; k++) x = tiny_block(v, x, "decoder", layer++);
        if (i < blocks - 1) {
            x = network_add(b, &op_upsample, &x, 1, NULL, 0, NULL);
            layer++;
        }
        x = network_conv(b, x, -1, 1, 1, 1, NETWORK_PLAIN, "decoder.layers.%d", layer++);
    }
    network_output(b, x, "picture");
}

/* ---- both ---- */
static void read_kind(struct vae *v, struct autoencoder *out, const char *class)
{
    struct network *b = &v->b;
    *out = (struct autoencoder){ .channels = (int)network_int(b, "in_channels", 3), .latents = (int)network_int(b, "latent_channels", 4), .tiny = !strcmp(class, "AutoencoderTiny"), .variational = !strcmp(class, "AutoencoderKL"),
                                 .sample_size = (int)network_int_at(b, "sample_size", 0, 0) };
    out->scale = (float)network_real(b, "scaling_factor", out->tiny ? 1 : 0.18215);
    out->shift = (float)network_real(b, "shift_factor", 0);
    v->levels = network_count(b, out->tiny ? "num_decoder_blocks" : "block_out_channels");
    if (!out->tiny && !out->variational && strcmp(class, "VQModel")) network_refuse(b, ST_UNSUPPORTED, "autoencoders of the class '%.60s' are not computed", class);
    if (v->levels < 1 || v->levels > NETWORK_LEVELS_MAX) network_refuse(b, ST_BAD_INPUT, "an autoencoder of %d levels; 1 to %d make sense", v->levels, NETWORK_LEVELS_MAX);
    if (out->tiny && network_int(b, "upsampling_scaling_factor", 2) != 2) network_refuse(b, ST_UNSUPPORTED, "upsampling_scaling_factor must be 2");
    if (strcmp(network_text(b, "norm_type", "group"), "group")) network_refuse(b, ST_UNSUPPORTED, "norm_type '%.60s' is not computed", network_text(b, "norm_type", ""));
    if (out->channels < 1 || out->channels > 4 || out->latents < 1 || out->latents > 256 || !(out->scale > 0)) network_refuse(b, ST_BAD_INPUT, "an autoencoder of %d channels and %d latents, scaled by %g", out->channels, out->latents, (double)out->scale);
    if (!b->st) out->factor = 1 << (v->levels - 1);
}

static void read_codebook(struct network *b, struct autoencoder *out)
{
    const struct weight_tensor *t = network_find(b, "quantize.embedding.weight");
    if (!t || t->rank != 2 || t->dims[1] != out->latents || t->dims[0] < 1 || t->dims[0] > 1 << 24) {
        network_refuse(b, ST_BAD_INPUT, "tensor 'quantize.embedding.weight' is missing or not [codes, %d]", out->latents);
        return;
    }
    out->codebook_size = (int)t->dims[0];
    out->codebook = network_floats(b, 0, true, "quantize.embedding.weight");
}

enum status build_autoencoder(struct graph *encoder, struct graph *decoder, struct network_source *s, enum linear_mode mode, struct autoencoder *out, struct err *err)
{
    static const char *const idle[] = { NULL };
    struct vae v = { .b = { .g = decoder, .source = s, .config = s->config, .mode = mode, .err = err } };
    struct network *b = &v.b;
    read_kind(&v, out, network_text(b, "_class_name", "AutoencoderKL"));
    v.groups = network_int(b, "norm_num_groups", 32);
    v.layers = network_int(b, "layers_per_block", 1);
    v.attends = network_bool(b, "mid_block_add_attention", true);
    if (!b->st) b->st = network_activation(network_text(b, "act_fn", out->tiny ? "relu" : "silu"), &v.act, err);
    if (!b->st && !out->tiny && !out->variational) read_codebook(b, out);
    int x = begin(&v, encoder, out->channels);
    if (out->tiny) encode_tiny(&v, x);
    else encode(&v, x);
    x = begin(&v, decoder, out->latents);
    if (out->tiny) decode_tiny(&v, x);
    else decode(&v, x);
    if (!b->st) b->st = network_all_used(b, idle);
    if (!b->st) b->st = graph_sort(encoder, err);
    return b->st ? b->st : graph_sort(decoder, err);
}
