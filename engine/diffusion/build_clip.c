/* CLIP's text encoder, with or without the projection of the pooled output. What comes before the last layer is given as well: several families read their texts there. */
#include <string.h>

#include "engine/diffusion/build.h"
#include "engine/operators/llm.h"

/* `prefix`: what names begin with; files written by transformers 5 leave it out. */
struct clip { struct network b; const char *prefix; struct text_encoder *t; int64_t width; int heads; double epsilon; struct activation_spec act; };

static int embed(struct clip *c, int ids, const char *name, int64_t *rows)
{
    struct network *b = &c->b;
    const struct weight_tensor *w = network_find(b, "%sembeddings.%s.weight", c->prefix, name);
    const struct block_format *f = w ? block_format(w->type) : NULL;
    if (!w || !f || !f->decode || f->elements != 1 || w->rank != 2 || w->dims[1] != c->width) return network_refuse(b, ST_BAD_INPUT, "tensor '%sembeddings.%s.weight' is missing or not [rows, %lld]", c->prefix, name, (long long)c->width);
    *rows = w->dims[0];
    const struct embed_spec s = { .format = f, .table = w->data, .rows = w->dims[0], .width = w->dims[1], .row_bytes = w->dims[1] * f->bytes, .scale = 1 };
    return network_embed(b, ids, w->type, &s);
}

static int layer(struct clip *c, int x, int i)
{
    struct network *b = &c->b;
    int h = network_layer_norm(b, x, c->width, c->epsilon, "%sencoder.layers.%d.layer_norm1", c->prefix, i);
    int q, k, v;
    if (network_find(b, "%sencoder.layers.%d.self_attn.in_proj.weight", c->prefix, i)) {      /* the three in one, as OpenCLIP stores them */
        q = network_linear_rows(b, h, 0, c->width, "%sencoder.layers.%d.self_attn.in_proj", c->prefix, i);
        k = network_linear_rows(b, h, c->width, c->width, "%sencoder.layers.%d.self_attn.in_proj", c->prefix, i);
        v = network_linear_rows(b, h, 2 * c->width, c->width, "%sencoder.layers.%d.self_attn.in_proj", c->prefix, i);
    } else {
        q = network_linear(b, h, -1, NETWORK_PLAIN, "%sencoder.layers.%d.self_attn.q_proj", c->prefix, i);
        k = network_linear(b, h, -1, NETWORK_PLAIN, "%sencoder.layers.%d.self_attn.k_proj", c->prefix, i);
        v = network_linear(b, h, -1, NETWORK_PLAIN, "%sencoder.layers.%d.self_attn.v_proj", c->prefix, i);
    }
    h = network_attention(b, q, k, v, -1, c->heads, (int)(c->width / c->heads), 0, true);
    x = network_linear(b, h, x, NETWORK_PLAIN, "%sencoder.layers.%d.self_attn.out_proj", c->prefix, i);
    h = network_layer_norm(b, x, c->width, c->epsilon, "%sencoder.layers.%d.layer_norm2", c->prefix, i);
    h = network_linear(b, h, -1, c->act, "%sencoder.layers.%d.mlp.fc1", c->prefix, i);
    return network_linear(b, h, x, NETWORK_PLAIN, "%sencoder.layers.%d.mlp.fc2", c->prefix, i);
}

/* Marks a layer's tensors as known. */
static void idle_layer(struct network *b, int i)
{
    static const char *const parts[] = { "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", "self_attn.out_proj", "self_attn.in_proj" };
    for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
        network_find(b, "encoder.layers.%d.%s.weight", i, parts[k]);
        network_find(b, "encoder.layers.%d.%s.bias", i, parts[k]);
    }
}

enum status build_clip(struct graph *g, struct network_source *s, enum linear_mode mode, struct text_encoder *out, struct err *err)
{
    static const char *const idle[] = { "position_ids", "logit_scale", "attn_mask", NULL };
    struct clip c = { .b = { .g = g, .source = s, .config = s->config, .mode = mode, .err = err }, .t = out };
    struct network *b = &c.b;
    const int64_t free_tokens[] = { -1, -1 };
    c.width = network_int(b, "hidden_size", 512);
    c.heads = (int)network_int(b, "num_attention_heads", 8);
    c.epsilon = network_real(b, "layer_norm_eps", 1e-5);
    *out = (struct text_encoder){ .width = (int)c.width, .pooled_width = (int)c.width, .layers = (int)network_int(b, "num_hidden_layers", 12), .end_token = (int32_t)network_int(b, "eos_token_id", 49407) };
    if (c.heads < 1 || c.width < 1 || c.width % c.heads || out->layers < 1 || out->layers > 256) return err_set(err, ST_BAD_INPUT, "a text encoder of %d layers, %lld numbers and %d heads", out->layers, (long long)c.width, c.heads);
    b->st = network_activation(network_text(b, "hidden_act", "quick_gelu"), &c.act, err);
    network_begin(b, CLIP_INPUTS, CLIP_OUTPUTS);
    int tokens = network_input(b, "tokens", DT_I32, 2, free_tokens), positions = network_input(b, "positions", DT_I32, 2, free_tokens), ends = network_input(b, "ends", DT_I32, 1, free_tokens);
    int64_t vocabulary = 0, longest = 0;
    c.prefix = network_find(b, "embeddings.token_embedding.weight") ? "" : "text_model.";
    int x = embed(&c, tokens, "token_embedding", &vocabulary), before = -1;
    x = network_sum(b, x, embed(&c, positions, "position_embedding", &longest));
    out->vocabulary = (int)vocabulary;
    out->positions = (int)longest;
    for (int i = 0; i < out->layers && !b->st; i++) {
        before = x;
        x = layer(&c, x, i);
    }
    x = network_layer_norm(b, x, c.width, c.epsilon, "%sfinal_layer_norm", c.prefix);
    network_output(b, x, "last");
    network_output(b, before, "before");
    x = network_add(b, &op_take_rows, (int[]){ x, ends }, 2, NULL, 0, NULL);
    const struct weight_tensor *w = network_find(b, "text_projection.weight");
    if (w && w->rank == 2) {
        out->projected = true;
        out->pooled_width = (int)w->dims[0];
        x = network_linear(b, x, -1, NETWORK_PLAIN, "text_projection");
    }
    const struct weight_tensor *turned = w ? NULL : network_find(b, "text_projection_turned");
    if (turned && turned->rank == 2 && network_bool(b, "projects", true)) {
        out->projected = true;
        out->pooled_width = (int)turned->dims[1];
        x = network_linear_turned(b, x, "text_projection_turned");
    }
    network_output(b, x, "pooled");
    for (int i = out->layers; i < out->layers + 2 && !b->st; i++)      /* a last layer that the family does not use */
        if (network_bool(b, "leaves_last", false)) idle_layer(b, i);
    if (!b->st) b->st = network_all_used(b, idle);
    return b->st ? b->st : graph_sort(g, err);
}
