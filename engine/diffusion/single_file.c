/* The names of the first releases. A builder asks for tensors as diffusers calls them; here is what such a file calls them. Numbers that the names do not tell (heads, groups, the
 * schedule) are those that the family was published with. */
#include "engine/diffusion/single_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"

static const char unet_prefix[] = "model.diffusion_model.", vae_prefix[] = "first_stage_model.";

struct swap { const char *from, *to; };

/* `name` behind `prefix`, its beginning swapped by the list's first row that fits; as it is when none does. */
static bool swapped(const char *prefix, const char *name, const struct swap *list, size_t count, char *out, size_t size)
{
    for (size_t i = 0; i < count; i++) {
        const size_t n = strlen(list[i].from);
        if (strncmp(name, list[i].from, n)) continue;
        return snprintf(out, size, "%s%s%s", prefix, list[i].to, name + n) < (int)size;
    }
    return snprintf(out, size, "%s%s", prefix, name) < (int)size;
}
#define SWAPPED(prefix, name, list, out, size) swapped(prefix, name, list, sizeof list / sizeof list[0], out, size)

/* ---- U-Net ---- */
static bool unet_name(const struct network_source *s, const char *name, int attempt, char *out, size_t size)
{
    static const struct swap ends[] = { { "conv_in.", "input_blocks.0.0." }, { "time_embedding.linear_1.", "time_embed.0." }, { "time_embedding.linear_2.", "time_embed.2." }, { "add_embedding.linear_1.", "label_emb.0.0." },
                                        { "add_embedding.linear_2.", "label_emb.0.2." }, { "conv_norm_out.", "out.0." }, { "conv_out.", "out.2." } };
    static const struct swap resnet[] = { { "norm1.", "in_layers.0." }, { "conv1.", "in_layers.2." }, { "time_emb_proj.", "emb_layers.1." }, { "norm2.", "out_layers.0." }, { "conv2.", "out_layers.3." }, { "conv_shortcut.", "skip_connection." } };
    const int each = s->layers + 1;
    char prefix[96];
    int i, k, at = 0;
    if (attempt > 1) return false;
    if (sscanf(name, "down_blocks.%d.resnets.%d.%n", &i, &k, &at) == 2 && at) {
        snprintf(prefix, sizeof prefix, "%sinput_blocks.%d.0.", unet_prefix, i * each + 1 + k);
        return SWAPPED(prefix, name + at, resnet, out, size);
    }
    if (sscanf(name, "up_blocks.%d.resnets.%d.%n", &i, &k, &at) == 2 && at) {
        snprintf(prefix, sizeof prefix, "%soutput_blocks.%d.0.", unet_prefix, i * each + k);
        return SWAPPED(prefix, name + at, resnet, out, size);
    }
    if (sscanf(name, "mid_block.resnets.%d.%n", &k, &at) == 1 && at) {
        snprintf(prefix, sizeof prefix, "%smiddle_block.%d.", unet_prefix, 2 * k);
        return SWAPPED(prefix, name + at, resnet, out, size);
    }
    if (sscanf(name, "down_blocks.%d.attentions.%d.%n", &i, &k, &at) == 2 && at) return snprintf(out, size, "%sinput_blocks.%d.1.%s", unet_prefix, i * each + 1 + k, name + at) < (int)size;
    if (sscanf(name, "up_blocks.%d.attentions.%d.%n", &i, &k, &at) == 2 && at) return snprintf(out, size, "%soutput_blocks.%d.1.%s", unet_prefix, i * each + k, name + at) < (int)size;
    if (sscanf(name, "mid_block.attentions.%d.%n", &k, &at) == 1 && at) return snprintf(out, size, "%smiddle_block.%d.%s", unet_prefix, 2 * k + 1, name + at) < (int)size;
    if (sscanf(name, "down_blocks.%d.downsamplers.0.conv.%n", &i, &at) == 1 && at) return snprintf(out, size, "%sinput_blocks.%d.0.op.%s", unet_prefix, (i + 1) * each, name + at) < (int)size;
    if (sscanf(name, "up_blocks.%d.upsamplers.0.conv.%n", &i, &at) == 1 && at)      /* behind the attention, where the block has one */
        return snprintf(out, size, "%soutput_blocks.%d.%d.conv.%s", unet_prefix, i * each + each - 1, attempt ? 1 : 2, name + at) < (int)size;
    return SWAPPED(unet_prefix, name, ends, out, size);
}

/* ---- autoencoder ---- */
static bool vae_name(const struct network_source *s, const char *name, int attempt, char *out, size_t size)
{
    static const struct swap tails[] = { { "conv_shortcut.", "nin_shortcut." } }, ends[] = { { "conv_norm_out.", "norm_out." } };
    static const struct swap attention[] = { { "group_norm.", "norm." }, { "to_q.", "q." }, { "to_k.", "k." }, { "to_v.", "v." }, { "to_out.0.", "proj_out." } };
    char prefix[96];
    int i, k, at = 0;
    if (attempt) return false;
    const bool halves = !strncmp(name, "encoder.", 8) || !strncmp(name, "decoder.", 8);
    if (!halves) return snprintf(out, size, "%s%s", vae_prefix, name) < (int)size;
    const char *rest = name + 8;
    if (sscanf(rest, "down_blocks.%d.resnets.%d.%n", &i, &k, &at) == 2 && at) {
        snprintf(prefix, sizeof prefix, "%s%.8sdown.%d.block.%d.", vae_prefix, name, i, k);
        return SWAPPED(prefix, rest + at, tails, out, size);
    }
    if (sscanf(rest, "up_blocks.%d.resnets.%d.%n", &i, &k, &at) == 2 && at) {
        snprintf(prefix, sizeof prefix, "%s%.8sup.%d.block.%d.", vae_prefix, name, s->levels - 1 - i, k);
        return SWAPPED(prefix, rest + at, tails, out, size);
    }
    if (sscanf(rest, "mid_block.resnets.%d.%n", &k, &at) == 1 && at) return snprintf(out, size, "%s%.8smid.block_%d.%s", vae_prefix, name, k + 1, rest + at) < (int)size;
    if (sscanf(rest, "mid_block.attentions.%d.%n", &k, &at) == 1 && at) {
        snprintf(prefix, sizeof prefix, "%s%.8smid.attn_%d.", vae_prefix, name, k + 1);
        return SWAPPED(prefix, rest + at, attention, out, size);
    }
    if (sscanf(rest, "down_blocks.%d.downsamplers.0.conv.%n", &i, &at) == 1 && at) return snprintf(out, size, "%s%.8sdown.%d.downsample.conv.%s", vae_prefix, name, i, rest + at) < (int)size;
    if (sscanf(rest, "up_blocks.%d.upsamplers.0.conv.%n", &i, &at) == 1 && at) return snprintf(out, size, "%s%.8sup.%d.upsample.conv.%s", vae_prefix, name, s->levels - 1 - i, rest + at) < (int)size;
    snprintf(prefix, sizeof prefix, "%s%.8s", vae_prefix, name);
    return SWAPPED(prefix, rest, ends, out, size);
}

/* ---- text encoders ---- */
static bool clip_name(const struct network_source *s, const char *name, int attempt, char *out, size_t size)
{
    return !attempt && snprintf(out, size, "%s%s", s->prefix, name) < (int)size;
}

static bool open_clip_name(const struct network_source *s, const char *name, int attempt, char *out, size_t size)
{
    static const struct swap ends[] = { { "embeddings.token_embedding.", "token_embedding." }, { "embeddings.position_embedding.weight", "positional_embedding" }, { "final_layer_norm.", "ln_final." }, { "text_projection_turned", "text_projection" } };
    static const struct swap layer[] = { { "layer_norm1.", "ln_1." }, { "layer_norm2.", "ln_2." }, { "mlp.fc1.", "mlp.c_fc." }, { "mlp.fc2.", "mlp.c_proj." }, { "self_attn.out_proj.", "attn.out_proj." },
                                         { "self_attn.in_proj.weight", "attn.in_proj_weight" }, { "self_attn.in_proj.bias", "attn.in_proj_bias" } };
    char prefix[96];
    int i, at = 0;
    if (attempt) return false;
    if (sscanf(name, "encoder.layers.%d.%n", &i, &at) == 1 && at) {
        snprintf(prefix, sizeof prefix, "%stransformer.resblocks.%d.", s->prefix, i);
        return SWAPPED(prefix, name + at, layer, out, size);
    }
    return SWAPPED(s->prefix, name, ends, out, size);
}

/* ---- configurations ---- */
static int64_t dim_of(const struct weights *w, const char *prefix, const char *name, int d)
{
    char full[200];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const struct weight_tensor *t = weights_find(w, full);
    return t && d < t->rank ? t->dims[d] : 0;
}

static bool has(const struct weights *w, const char *prefix, const char *name) { return dim_of(w, prefix, name, 0) > 0; }

static enum status configure(struct diffusion_model *m, enum model_part part, const char *text, struct err *err)
{
    struct json *j;
    enum status st = text ? json_parse(&j, &m->arena, text, strlen(text), NULL, err) : err_set(err, ST_NO_MEMORY, "a configuration");
    if (!st) m->parts[part].config = j;
    return st;
}

/* How many transformer blocks the attention of input block `block` has. */
static int depth_of(const struct weights *w, int block)
{
    char name[120];
    for (int n = 0;; n++) {
        snprintf(name, sizeof name, "input_blocks.%d.1.transformer_blocks.%d.norm1.weight", block, n);
        if (!has(w, unet_prefix, name)) return n;
    }
}

static enum status configure_unet(struct diffusion_model *m, const struct weights *w, struct err *err)
{
    struct network_source *s = &m->parts[PART_DENOISER];
    char downs[200] = "", ups[200] = "", widths[100] = "", heads[100] = "", depths[100] = "", name[120];
    int level = 0;
    const bool xl = has(w, unet_prefix, "label_emb.0.0.weight");
    int64_t context = 0;
    s->layers = 2;
    for (; level < NETWORK_LEVELS_MAX; level++) {
        const int block = level * 3 + 1, depth = depth_of(w, block);
        snprintf(name, sizeof name, "input_blocks.%d.0.in_layers.2.weight", block);
        const int64_t width = dim_of(w, unet_prefix, name, 0);
        if (!width) break;
        snprintf(name, sizeof name, "input_blocks.%d.1.transformer_blocks.0.attn2.to_k.weight", block);
        if (depth) context = dim_of(w, unet_prefix, name, 1);
        const char *comma = level ? "," : "";
        size_t at = strlen(downs);
        snprintf(downs + at, sizeof downs - at, "%s\"%sDownBlock2D\"", comma, depth ? "CrossAttn" : "");
        char before[200];
        snprintf(before, sizeof before, "%s", ups);
        snprintf(ups, sizeof ups, "\"%sUpBlock2D\"%s%.150s", depth ? "CrossAttn" : "", comma, before);
        at = strlen(widths);
        snprintf(widths + at, sizeof widths - at, "%s%d", comma, (int)width);
        at = strlen(depths);
        snprintf(depths + at, sizeof depths - at, "%s%d", comma, depth ? depth : 1);
        at = strlen(heads);
        snprintf(heads + at, sizeof heads - at, "%s%d", comma, (int)(width / 64 ? width / 64 : 1));
    }
    const bool first = context == 768 || (!xl && !has(w, "cond_stage_model.model.", "ln_final.weight"));      /* eight heads everywhere; later ones have heads of 64 */
    if (!level || !context) return err_set(err, ST_UNSUPPORTED, "the file's U-Net is none of those that are known");
    const int64_t added = dim_of(w, unet_prefix, "label_emb.0.0.weight", 1);
    return configure(m, PART_DENOISER, arena_format(&m->arena,
        "{\"_class_name\":\"UNet2DConditionModel\",\"sample_size\":%d,\"in_channels\":%d,\"out_channels\":%d,\"down_block_types\":[%s],\"up_block_types\":[%s],\"block_out_channels\":[%s],\"layers_per_block\":2,"
        "\"cross_attention_dim\":%d,\"transformer_layers_per_block\":[%s],\"attention_head_dim\":%s%s%s%s}",
        xl ? 128 : first ? 64 : 96, (int)dim_of(w, unet_prefix, "input_blocks.0.0.weight", 1), (int)dim_of(w, unet_prefix, "out.2.weight", 0), downs, ups, widths, (int)context, depths, first ? "8" : "[", first ? "" : heads, first ? "" : "]",
        xl ? arena_format(&m->arena, ",\"addition_embed_type\":\"text_time\",\"addition_time_embed_dim\":256,\"projection_class_embeddings_input_dim\":%d", (int)added) : ""), err);
}

static enum status configure_vae(struct diffusion_model *m, const struct weights *w, struct err *err)
{
    char downs[300] = "", ups[300] = "", widths[100] = "", name[120];
    int level = 0, layers = 0;
    for (; level < NETWORK_LEVELS_MAX; level++) {
        snprintf(name, sizeof name, "encoder.down.%d.block.0.conv1.weight", level);
        const int64_t width = dim_of(w, vae_prefix, name, 0);
        if (!width) break;
        size_t at = strlen(downs);
        snprintf(downs + at, sizeof downs - at, "%s\"DownEncoderBlock2D\"", level ? "," : "");
        at = strlen(ups);
        snprintf(ups + at, sizeof ups - at, "%s\"UpDecoderBlock2D\"", level ? "," : "");
        at = strlen(widths);
        snprintf(widths + at, sizeof widths - at, "%s%d", level ? "," : "", (int)width);
    }
    do snprintf(name, sizeof name, "encoder.down.0.block.%d.conv1.weight", layers); while (has(w, vae_prefix, name) && ++layers < 16);
    if (!level) return err_set(err, ST_UNSUPPORTED, "the file's autoencoder is none of those that are known");
    m->parts[PART_VAE].levels = level;
    const char *scale = strstr(m->family->name, "-xl") ? "0.13025" : "0.18215";
    return configure(m, PART_VAE, arena_format(&m->arena, "{\"_class_name\":\"AutoencoderKL\",\"in_channels\":3,\"latent_channels\":%d,\"down_block_types\":[%s],\"up_block_types\":[%s],\"block_out_channels\":[%s],\"layers_per_block\":%d,\"scaling_factor\":%s}",
                                                       (int)dim_of(w, vae_prefix, "decoder.conv_in.weight", 1), downs, ups, widths, layers, scale), err);
}

/* A text encoder whose names begin so. The last layer of OpenCLIP's is left out where the family reads its texts before it and has no use for the pooled output. */
static enum status configure_text(struct diffusion_model *m, enum model_part part, const struct weights *w, const char *prefix, bool open_clip, bool leaves_last, struct err *err)
{
    struct network_source *s = &m->parts[part];
    char name[120];
    int layers = 0;
    const int64_t width = dim_of(w, prefix, open_clip ? "ln_final.weight" : "text_model.final_layer_norm.weight", 0);
    do snprintf(name, sizeof name, open_clip ? "transformer.resblocks.%d.ln_1.weight" : "text_model.encoder.layers.%d.layer_norm1.weight", layers); while (has(w, prefix, name) && ++layers < 256);
    s->prefix = arena_copy(&m->arena, prefix, strlen(prefix));
    s->rename = open_clip ? open_clip_name : clip_name;
    if (open_clip) m->pads[part - PART_TEXT] = 0;
    return configure(m, part, arena_format(&m->arena, "{\"hidden_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"hidden_act\":\"%s\",\"projects\":%s,\"leaves_last\":%s}", (int)width, layers - leaves_last,
                                                   (int)(width / 64 ? width / 64 : 1), open_clip ? "gelu" : "quick_gelu", leaves_last ? "false" : "true", leaves_last ? "true" : "false"), err);
}

static enum status configure_texts(struct diffusion_model *m, const struct weights *w, bool present[PART_COUNT], struct err *err)
{
    static const struct { const char *prefix, *probe; enum model_part part; bool open_clip, leaves_last; } known[] = {
        { "cond_stage_model.transformer.", "text_model.final_layer_norm.weight", PART_TEXT, false, false }, { "cond_stage_model.model.", "ln_final.weight", PART_TEXT, true, true },
        { "conditioner.embedders.0.transformer.", "text_model.final_layer_norm.weight", PART_TEXT, false, false }, { "conditioner.embedders.1.model.", "ln_final.weight", PART_TEXT_2, true, false },
        { "conditioner.embedders.0.model.", "ln_final.weight", PART_TEXT_2, true, false },
    };
    enum status st = ST_OK;
    for (size_t i = 0; i < sizeof known / sizeof known[0] && !st; i++) {
        if (!has(w, known[i].prefix, known[i].probe)) continue;
        st = configure_text(m, known[i].part, w, known[i].prefix, known[i].open_clip, known[i].leaves_last, err);
        present[known[i].part] = true;
    }
    return st;
}

/* scheduler_config.json beside the file, or what the family was published with. */
static enum status configure_sampler(struct diffusion_model *m, const struct weights *w, struct err *err)
{
    static const char first[] = "{\"_class_name\":\"PNDMScheduler\",\"beta_schedule\":\"scaled_linear\",\"beta_start\":0.00085,\"beta_end\":0.012,\"skip_prk_steps\":true,\"steps_offset\":1,\"set_alpha_to_one\":false,\"clip_sample\":false,\"prediction_type\":\"%s\"}";
    static const char xl[] = "{\"_class_name\":\"EulerDiscreteScheduler\",\"beta_schedule\":\"scaled_linear\",\"beta_start\":0.00085,\"beta_end\":0.012,\"steps_offset\":1,\"timestep_spacing\":\"leading\",\"prediction_type\":\"%s\"}";
    char path[4600];
    struct stat s;
    const struct json *config;
    snprintf(path, sizeof path, "%.4000s/scheduler_config.json", m->directory);
    if (stat(path, &s) == 0) {
        enum status st = diffusion_model_json(m, path, &config, err);
        return st ? st : sampler_config_read(&m->sampler, config, &m->arena, err);
    }
    const char *said = safetensors_metadata(m->files[0], "modelspec.predict_key");
    const bool velocity = said ? said[0] == 'v' : has(w, "cond_stage_model.model.", "ln_final.weight");
    char *text = arena_format(&m->arena, strstr(m->family->name, "-xl") ? xl : first, velocity ? "v_prediction" : "epsilon");
    struct json *own;
    enum status st = text ? json_parse(&own, &m->arena, text, strlen(text), NULL, err) : err_set(err, ST_NO_MEMORY, "a configuration");
    return st ? st : sampler_config_read(&m->sampler, own, &m->arena, err);
}

bool diffusion_is_checkpoint(const struct weights *w) { return has(w, unet_prefix, "input_blocks.0.0.weight"); }

enum status single_file_open(struct diffusion_model *m, const char *path, struct err *err)
{
    bool present[PART_COUNT] = { [PART_DENOISER] = true, [PART_VAE] = true };
    enum status st = safetensors_open(&m->files[0], -1, path, err);
    if (st) return st;
    const struct weights *w = safetensors_weights(m->files[0]);
    if (!diffusion_is_checkpoint(w)) return err_set(err, ST_UNSUPPORTED, "'%.300s': its tensors are not those of a diffusion model (no 'model.diffusion_model.input_blocks.0.0.weight')", path);
    const bool xl = has(w, unet_prefix, "label_emb.0.0.weight");
    m->family = diffusion_family(xl ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline");
    m->zero_empty = xl;
    uint8_t *used = m->parts[PART_DENOISER].used = mem_calloc_array((uint64_t)w->count + 1, 1);
    if (!used) return err_set(err, ST_NO_MEMORY, "opening a model");
    m->parts[PART_DENOISER].prefix = unet_prefix;
    m->parts[PART_DENOISER].rename = unet_name;
    m->parts[PART_VAE].prefix = vae_prefix;
    m->parts[PART_VAE].rename = vae_name;
    st = configure_unet(m, w, err);
    if (!st) st = configure_vae(m, w, err);
    if (!st) st = configure_texts(m, w, present, err);
    if (!st && !present[PART_TEXT] && !present[PART_TEXT_2]) st = err_set(err, ST_BAD_INPUT, "'%.300s' holds no text encoder", path);
    if (!st) st = configure_sampler(m, w, err);
    for (int p = 0; p < PART_COUNT; p++) {
        if (!present[p]) continue;
        m->parts[p].weights = w;
        m->parts[p].used = used;
    }
    return st;
}
