/* T5's encoder: places are told by a weight for each distance between two tokens, learned for the near ones and shared by the far ones. */
#include <math.h>
#include <string.h>

#include "engine/diffusion/build.h"
#include "engine/operators/diffusion.h"
#include "engine/operators/llm.h"

struct t5 { struct network b; int heads, head_dim; int64_t width, tokens; double epsilon; const float *distance; };

/* The bucket of key j seen from query i, d = j - i. */
static int bucket_of(int d, int buckets, int farthest)
{
    const int half = buckets / 2, exact = half / 2, far = d < 0 ? -d : d, side = d > 0 ? half : 0;
    if (far < exact) return side + far;
    const int k = exact + (int)(log((double)far / exact) / log((double)farthest / exact) * (half - exact));
    return side + (k < half ? k : half - 1);
}

static void read_distances(struct t5 *t)
{
    struct network *b = &t->b;
    const int buckets = (int)network_int(b, "relative_attention_num_buckets", 32), farthest = (int)network_int(b, "relative_attention_max_distance", 128);
    const int64_t span = 2 * t->tokens - 1;
    if (buckets < 4 || buckets > 4096 || farthest <= buckets / 4) {
        network_refuse(b, ST_BAD_INPUT, "%d buckets of distances up to %d make no sense", buckets, farthest);
        return;
    }
    const float *table = network_floats(b, (int64_t)buckets * t->heads, true, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    float *all = b->st ? NULL : arena_alloc(b->g->arena, (uint64_t)(span * t->heads) * sizeof *all, TENSOR_ALIGN);
    if (!b->st && !all) network_no_memory(b);
    for (int64_t h = 0; h < t->heads && !b->st; h++)
        for (int64_t k = 0; k < span; k++) all[h * span + k] = table[bucket_of((int)(k - t->tokens + 1), buckets, farthest) * t->heads + h];
    t->distance = all;
}

static int layer(struct t5 *t, int x, int i)
{
    struct network *b = &t->b;
    int h = network_rms_norm(b, x, t->width, t->epsilon, "encoder.block.%d.layer.0.layer_norm", i);
    int q = network_linear(b, h, -1, NETWORK_PLAIN, "encoder.block.%d.layer.0.SelfAttention.q", i), k = network_linear(b, h, -1, NETWORK_PLAIN, "encoder.block.%d.layer.0.SelfAttention.k", i);
    int v = network_linear(b, h, -1, NETWORK_PLAIN, "encoder.block.%d.layer.0.SelfAttention.v", i);
    const struct attention_dense_op_spec s = { .heads = t->heads, .head_dim = t->head_dim, .scale = 1, .distance = t->distance, .tokens = t->tokens };
    h = network_add(b, &op_attention, (int[]){ q, k, v }, 3, &s, sizeof s, NULL);
    x = network_linear(b, h, x, NETWORK_PLAIN, "encoder.block.%d.layer.0.SelfAttention.o", i);
    h = network_rms_norm(b, x, t->width, t->epsilon, "encoder.block.%d.layer.1.layer_norm", i);
    if (network_find(b, "encoder.block.%d.layer.1.DenseReluDense.wi_0.weight", i)) {
        const struct gate_spec gelu = { .kind = GATE_GELU_TANH };
        int gate = network_linear(b, h, -1, NETWORK_PLAIN, "encoder.block.%d.layer.1.DenseReluDense.wi_0", i), up = network_linear(b, h, -1, NETWORK_PLAIN, "encoder.block.%d.layer.1.DenseReluDense.wi_1", i);
        h = network_add(b, &op_gate, (int[]){ gate, up }, 2, &gelu, sizeof gelu, NULL);
    } else {
        h = network_linear(b, h, -1, (struct activation_spec){ ACT_RELU, 0, 0 }, "encoder.block.%d.layer.1.DenseReluDense.wi", i);
    }
    return network_linear(b, h, x, NETWORK_PLAIN, "encoder.block.%d.layer.1.DenseReluDense.wo", i);
}

enum status build_t5(struct graph *g, struct network_source *s, enum linear_mode mode, int tokens, struct text_encoder *out, struct err *err)
{
    static const char *const idle[] = { "decoder.", "lm_head.", "embed_tokens.", NULL };
    struct t5 t = { .b = { .g = g, .source = s, .config = s->config, .mode = mode, .err = err }, .tokens = tokens };
    struct network *b = &t.b;
    t.width = network_int(b, "d_model", 512);
    t.heads = (int)network_int(b, "num_heads", 8);
    t.head_dim = (int)network_int(b, "d_kv", 64);
    t.epsilon = network_real(b, "layer_norm_epsilon", 1e-6);
    *out = (struct text_encoder){ .width = (int)t.width, .positions = tokens, .layers = (int)network_int(b, "num_layers", 6), .t5 = true };
    const char *act = network_text(b, "feed_forward_proj", "relu");
    if (strcmp(act, "relu") && strcmp(act, "gated-gelu")) return err_set(err, ST_UNSUPPORTED, "feed_forward_proj '%.60s' is not computed", act);
    if (t.width < 1 || t.heads < 1 || t.head_dim < 1 || out->layers < 1 || out->layers > 256) return err_set(err, ST_BAD_INPUT, "a T5 encoder of %d layers, %lld numbers and %d heads", out->layers, (long long)t.width, t.heads);
    network_begin(b, 1, 1);
    int ids = network_input(b, "tokens", DT_I32, 2, (int64_t[]){ -1, tokens });
    const struct weight_tensor *w = network_find(b, "shared.weight");
    if (!w) w = network_find(b, "encoder.embed_tokens.weight");
    const struct block_format *f = w ? block_format(w->type) : NULL;
    if (!b->st && (!w || !f || !f->decode || f->elements != 1 || w->rank != 2 || w->dims[1] != t.width)) network_refuse(b, ST_BAD_INPUT, "tensor 'shared.weight' is missing or not [tokens, %lld]", (long long)t.width);
    if (b->st) return b->st;
    out->vocabulary = (int)w->dims[0];
    const struct embed_spec e = { .format = f, .table = w->data, .rows = w->dims[0], .width = t.width, .row_bytes = t.width * f->bytes, .scale = 1 };
    int x = network_embed(b, ids, w->type, &e);
    read_distances(&t);
    for (int i = 0; i < out->layers && !b->st; i++) x = layer(&t, x, i);
    x = network_rms_norm(b, x, t.width, t.epsilon, "encoder.final_layer_norm");
    network_output(b, x, "last");
    if (!b->st) b->st = network_all_used(b, idle);
    return b->st ? b->st : graph_sort(g, err);
}
