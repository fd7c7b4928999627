/* What comes to the engine of pictures from outside, by the first byte: P a prompt, S a scheduler_config.json (every sampler is then stepped with it), N a network's config.json (without
 * weights: every builder must say what is missing), anything else a model_index.json or a single file. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/diffusion/build.h"
#include "engine/diffusion/diffusion_engine.h"
#include "engine/diffusion/prompt.h"
#include "engine/diffusion/sampler.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char words[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"<s>\":4,\"</s>\":5},\"merges\":[],\"end_of_word_suffix\":\"</w>\",\"unk_token\":\"</s>\"},"
                            "\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true},{\"id\":5,\"content\":\"</s>\",\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}}";

static void try_prompt(const char *text, size_t size)
{
    static struct tokenizer *t;
    struct prompt p;
    struct err err;
    if (!t && tokenizer_open_json(&t, words, sizeof words - 1, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}", 38, &err)) abort();
    if (!prompt_open(&p, t, text, size, 7, -1, &err)) {
        for (int i = 0; i < p.chunks * p.length; i++)
            if (p.ids[i] < 0 || p.ids[i] > 5 || !isfinite(p.weights[i])) abort();
        for (int c = 0; c < p.chunks; c++)
            if (p.ends[c] < 1 || p.ends[c] >= p.length) abort();
        prompt_close(&p);
    }
    if (!prompt_open_plain(&p, t, text, size, 9, &err)) prompt_close(&p);
}

static void try_samplers(const struct json *j, struct arena *arena)
{
    struct sampler_config c;
    struct err err;
    if (sampler_config_read(&c, j, arena, &err)) return;
    for (int s = SAMPLER_MODEL; s < SAMPLER_COUNT; s++)
        for (int steps = 1; steps <= 7; steps += 3) {
            struct sampler_plan p;
            struct sampler_state x;
            const float said[4] = { 0.5f, -1, 0, 2 };
            if (sampler_plan_open(&p, &c, (enum image_sampler)s, SCHEDULE_MODEL, steps, steps == 4 ? 0.5 : 1, 0.3, 64, &err)) continue;
            if (!sampler_state_open(&x, &p, 4, &err)) {
                noise_seed(&x.noise, 1);
                noise_fill(&x.noise, x.x, 4);
                for (int call = p.begin; call < p.calls; call++) {
                    if (sampler_input_scale(&p, call) < 0) abort();
                    sampler_step(&p, &x, call, said);
                    sampler_add_noise(&p, call + 1, x.fresh, x.x, said, 4);
                }
                sampler_state_close(&x);
            }
            sampler_plan_close(&p);
        }
}

static void try_networks(const struct json *j, struct arena *arena)
{
    static uint8_t none[1];
    static const struct weights empty;
    struct network_source s = { .weights = &empty, .used = none, .config = j };
    struct denoiser d;
    struct autoencoder v;
    struct text_encoder t;
    struct err err;
    for (int kind = 0; kind < 5; kind++) {
        struct graph g[2] = { { .arena = arena, .memory_max = 1 << 24, .max_rows = 1 }, { .arena = arena, .memory_max = 1 << 24, .max_rows = 1 } };
        device_cpu_open(&g[0].device, CPU_SCALAR, 1);
        g[1].device = g[0].device;
        enum status st = kind == 0 ? build_unet(&g[0], &s, LINEAR_F32, 8, &d, &err) : kind == 1 ? build_dit(&g[0], &s, LINEAR_F32, &d, &err) : kind == 2 ? build_autoencoder(&g[0], &g[1], &s, LINEAR_F32, &v, &err) :
                         kind == 3 ? build_clip(&g[0], &s, LINEAR_F32, &t, &err) : build_t5(&g[0], &s, LINEAR_F32, 16, &t, &err);
        if (!st) abort();
        graph_close(&g[0]);
        graph_close(&g[1]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct json *j;
    struct err err;
    if (!size) return 0;
    if (*data == 'P') {
        try_prompt((const char *)data + 1, size - 1);
        return 0;
    }
    if (*data != 'S' && *data != 'N') {
        (void)diffusion_inspect(data, size, &err);
        return 0;
    }
    arena_init(&arena, 1 << 26);
    if (!json_parse(&j, &arena, (const char *)data + 1, size - 1, NULL, &err)) {
        if (*data == 'S') try_samplers(j, &arena);
        else try_networks(j, &arena);
    }
    arena_free(&arena);
    return 0;
}
