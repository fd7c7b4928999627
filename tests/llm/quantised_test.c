/* Quantised types on a Llama of width 512: our own files. In f32 mode the logits are those of the same file dequantised and stored as F32, to 1e-4; in the fast
 * mode the mean KL divergence from them is small and is printed. Mixes give each matrix the type that its rule says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device_gpu.h"
#include "engine/graph/plan.h"
#include "engine/llm/convert.h"
#include "kernels/blocks.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/llm/tiny.h"
#include "tests/test.h"

enum { WIDTH = 512, HEADS = 8, KV_HEADS = 4, FFN = 768, LAYERS = 2, VOCABULARY = 256, TEXT_TOKENS = 48 };

static void add(struct tiny *t, const char *name, float base, float amplitude, int64_t n, int64_t k)
{
    struct tiny_tensor *x = &t->tensors[t->tensor_count++];
    snprintf(x->name, sizeof x->name, "%s", name);
    x->base = base, x->amplitude = amplitude;
    x->rank = n ? 2 : 1;
    x->dims[0] = n ? n : k, x->dims[1] = k;
}

/* Weights from the hash, large enough that logits spread by several units. */
static void describe(struct tiny *t)
{
    static char config[600];
    char name[160];
    *t = (struct tiny){ .config = config };
    t->config_length = (size_t)snprintf(config, sizeof config,
        "{\"model_type\": \"llama\", \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 128, "
        "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", \"tie_word_embeddings\": false}", WIDTH, FFN, LAYERS, HEADS, KV_HEADS, VOCABULARY);
    add(t, "model.embed_tokens.weight", 0, 1, VOCABULARY, WIDTH);
    add(t, "model.norm.weight", 1, 0.3f, 0, WIDTH);
    add(t, "lm_head.weight", 0, 0.15f, VOCABULARY, WIDTH);
    for (int l = 0; l < LAYERS; l++) {
        const struct { const char *part; int64_t n, k; } parts[] = {
            { "self_attn.q_proj", WIDTH, WIDTH }, { "self_attn.k_proj", WIDTH * KV_HEADS / HEADS, WIDTH }, { "self_attn.v_proj", WIDTH * KV_HEADS / HEADS, WIDTH }, { "self_attn.o_proj", WIDTH, WIDTH },
            { "mlp.gate_proj", FFN, WIDTH }, { "mlp.up_proj", FFN, WIDTH }, { "mlp.down_proj", WIDTH, FFN }, { "input_layernorm", 0, WIDTH }, { "post_attention_layernorm", 0, WIDTH },
        };
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[i].part);
            add(t, name, parts[i].n ? 0 : 1, parts[i].n ? 0.08f : 0.3f, parts[i].n, parts[i].k);
        }
    }
    t->token_count = TEXT_TOKENS;
    for (int i = 0; i < TEXT_TOKENS; i++) t->tokens[i] = (i * 37 + i * i * 11) % VOCABULARY;
}

/* Mean over the tokens of KL(p of a || p of b). */
static double divergence(const float *a, const float *b)
{
    double sum = 0;
    for (int r = 0; r < TEXT_TOKENS; r++) {
        const float *x = a + r * VOCABULARY, *y = b + r * VOCABULARY;
        double zx = 0, zy = 0, kl = 0;
        for (int i = 0; i < VOCABULARY; i++) zx += exp((double)x[i]), zy += exp((double)y[i]);
        for (int i = 0; i < VOCABULARY; i++) kl += exp((double)x[i]) / zx * ((double)x[i] - log(zx) - (double)y[i] + log(zy));
        sum += kl;
    }
    return sum / TEXT_TOKENS;
}

static double spread(const float *x)
{
    double sum = 0, squares = 0;
    int n = TEXT_TOKENS * VOCABULARY;
    for (int i = 0; i < n; i++) sum += (double)x[i], squares += (double)x[i] * (double)x[i];
    return sqrt(squares / n - sum / n * sum / n);
}

static float exact[TEXT_TOKENS * VOCABULARY], quantised[TEXT_TOKENS * VOCABULARY], decoded[TEXT_TOKENS * VOCABULARY], fast[TEXT_TOKENS * VOCABULARY];
static const struct convert_options as_f32 = { .type = BLOCK_F32, .threads = 1 };

static bool run(const char *path, enum linear_mode mode, const struct tiny *t, float *out)
{
    struct err err = { 0 };
    int columns = 0;
    if (!tiny_run_mode(path, NULL, mode, t->tokens, t->token_count, t->token_count, 1, CPU_AMX, out, &columns, &err) && columns == VOCABULARY) return true;
    fprintf(stderr, "  %s: %s\n", path, err.text);
    return false;
}

/* Widest divergence that the fast mode may add to a type: its activations have 8 bits whatever the weights have, and 16 on tiles for so many rows. llama.cpp's rounding adds 1,600 to 5,300 (SPEED.md), most
 * to the types of three values, whose random models are the least like what they were made of: ours may add twice as much to those, too. */
enum { FAST_KL_MILLIONTHS = 700, TILES_KL_MILLIONTHS = 300 };

/* The same file on a card: types that its kernels read as they are to 1e-4, the others as halves; through products of bfloat16 within the bound of the fast mode. */
static void check_on_card(const char *mix, const char *file, const struct tiny *t, double most)
{
    static float card[TEXT_TOKENS * VOCABULARY];
    const struct device_gpu *gpu;
    struct err err = { 0 };
    int columns = VOCABULARY;
    const bool native = !strcmp(mix, "Q4_0") || !strcmp(mix, "Q8_0") || !strncmp(mix, "Q4_K", 4) || !strncmp(mix, "Q5_K", 4) || !strcmp(mix, "Q6_K");
    REQUIRE_OK(device_gpu_open(&gpu, 0, &err), err);
    REQUIRE_OK(tiny_run_card(file, gpu, LINEAR_F32, BLOCK_F32, t->tokens, t->token_count, t->token_count, card, &columns, &err), err);
    const double off = tiny_farthest(decoded, card, TEXT_TOKENS * VOCABULARY);
    REQUIRE_OK(tiny_run_card(file, gpu, LINEAR_FAST, BLOCK_F16, t->tokens, t->token_count, t->token_count, card, &columns, &err), err);
    const double kl = divergence(decoded, card);
    printf("          on a card off by %.1e, fast KL %.2e\n", off, kl);
    CHECK(off < (native ? 1e-4 : 2e-2));
    CHECK(kl >= 0 && kl < most);
}

static void check_mix(const char *mix, const char *source, const char *directory, const struct tiny *t)
{
    char file[300], plain[300];
    struct convert_report report;
    struct err err = { 0 };
    snprintf(file, sizeof file, "%s/%s.gguf", directory, mix);
    snprintf(plain, sizeof plain, "%s/plain.gguf", directory);
    REQUIRE_OK(convert_quantize(source, file, mix, &as_f32, &report, &err), err);
    REQUIRE_OK(convert_model(file, plain, &as_f32, &report, &err), err);
    REQUIRE(run(file, LINEAR_F32, t, quantised) && run(plain, LINEAR_F32, t, decoded) && run(file, LINEAR_FAST, t, fast));
    double off = tiny_farthest(quantised, decoded, TEXT_TOKENS * VOCABULARY), kl = divergence(quantised, fast), loss = divergence(exact, quantised);
    printf("  %-7s f32 off by %.1e from its decoded weights; mean KL: fast from f32 %.2e, quantised from exact %.2e\n", mix, off, kl, loss);
    CHECK(off < 1e-4);
    const int most = (cpu_level_detect() >= CPU_AMX ? TILES_KL_MILLIONTHS : FAST_KL_MILLIONTHS) * (strncmp(mix, "TQ", 2) ? 1 : 2);
    CHECK(kl >= 0 && kl < most * 1e-6);
    CHECK(loss > 0);
    static const char *const on_card[] = { "Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "TQ2_0", "MXFP4" };      /* every way that a matrix takes there */
    for (size_t i = 0; i < sizeof on_card / sizeof on_card[0]; i++)
        if (!strcmp(mix, on_card[i])) check_on_card(mix, file, t, most * 1e-6);
}

TEST(quantised_models_compute_their_decoded_weights)
{
    static struct tiny t;
    char folder[300], source[300];
    struct convert_report report;
    struct err err = { 0 };
    const char *directory = test_directory();
    describe(&t);
    snprintf(folder, sizeof folder, "%s", directory);
    snprintf(source, sizeof source, "%s/source.gguf", directory);
    REQUIRE(tiny_write(&t, folder, NULL));
    REQUIRE_OK(convert_model(folder, source, &as_f32, &report, &err), err);
    REQUIRE(run(source, LINEAR_F32, &t, exact));
    printf("  standard deviation of the logits %.2f\n", spread(exact));
    CHECK(spread(exact) > 2);
    device_gpus_use(test_gpu_api());
    for (int i = 0; convert_mix_name(i); i++) check_mix(convert_mix_name(i), source, directory, &t);
    device_gpus_use(NULL);
}

/* ---- types within a mix ---- */
static int type_in(const char *path, const char *name)
{
    struct gguf *g;
    struct err err = { 0 };
    if (gguf_open(&g, -1, path, &err)) return -1;
    const struct weight_tensor *t = weights_find(gguf_weights(g), name);
    int type = t ? t->type : -1;
    gguf_close(g);
    return type;
}

TEST(mixes_choose_types_and_leave_what_does_not_fit)
{
    static struct tiny t;
    static const struct { const char *mix, *tensor; int type; } want[] = {
        { "Q4_K_M", "output.weight", BLOCK_Q6_K }, { "Q4_K_M", "token_embd.weight", BLOCK_Q4_K }, { "Q4_K_M", "blk.0.attn_q.weight", BLOCK_Q4_K }, { "Q4_K_M", "blk.1.attn_v.weight", BLOCK_Q6_K },
        { "Q4_K_M", "blk.1.ffn_down.weight", BLOCK_Q6_K }, { "Q4_K_M", "blk.0.attn_norm.weight", BLOCK_F32 }, { "Q4_K_S", "blk.0.attn_v.weight", BLOCK_Q5_K }, { "Q3_K_L", "blk.0.attn_output.weight", BLOCK_Q5_K },
        { "Q3_K_M", "blk.0.attn_v.weight", BLOCK_Q5_K }, { "Q2_K", "blk.0.ffn_down.weight", BLOCK_Q3_K }, { "TQ2_0", "token_embd.weight", BLOCK_Q4_K }, { "Q8_0", "output.weight", BLOCK_Q8_0 }, { "Q4_0", "output.weight", BLOCK_Q6_K },
    };
    char source[300], file[300];
    struct convert_report report;
    struct err err = { 0 };
    const char *directory = test_directory();
    describe(&t);
    snprintf(source, sizeof source, "%s/source.gguf", directory);
    snprintf(file, sizeof file, "%s/mix.gguf", directory);
    REQUIRE(tiny_write(&t, directory, NULL));
    REQUIRE_OK(convert_model(directory, source, &as_f32, &report, &err), err);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        REQUIRE_OK(convert_quantize(source, file, want[i].mix, &as_f32, &report, &err), err);
        CHECK_INT(report.kept, 0);
        if (type_in(file, want[i].tensor) != want[i].type) fprintf(stderr, "%s %s\n", want[i].mix, want[i].tensor);
        CHECK_INT(type_in(file, want[i].tensor), want[i].type);
    }
    CHECK_INT(convert_quantize(file, source, "Q4_0", &as_f32, &report, &err), ST_UNSUPPORTED);
    CHECK(strstr(err.text, "already") != NULL);
    CHECK_INT(convert_quantize(source, file, "Q9_9", &as_f32, &report, &err), ST_BAD_INPUT);
    CHECK_INT(convert_quantize(source, "x.bin", "Q4_0", &as_f32, &report, &err), ST_BAD_INPUT);
}
