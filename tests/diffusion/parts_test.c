/* The engine's parts that no picture shows by itself: noise, prompts, weights of half precision, tiles. */
#include <math.h>
#include <stdlib.h>

#include "engine/diffusion/diffusion_internal.h"
#include "kernels/blocks.h"
#include "kernels/kernels.h"
#include "tests/diffusion/draft.h"
#include "tests/test.h"

/* torch.manual_seed(S); torch.randn(N) */
TEST(noise_is_that_of_pytorch)
{
    static const struct { uint64_t seed; int count; float first[4], last; } known[] = {
        { 0, 16, { -1.12583983f, -1.15236020f, -0.25057858f, -0.43387881f }, -0.247278154f },
        { 1, 20, { -1.5255959f, -0.750231802f, -0.653980911f, -1.60948479f }, 1.71630263f },
        { 42, 5, { 0.33669037f, 0.12880941f, 0.23446237f, 0.23033303f }, -1.12285638f },
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        float x[32];
        struct noise n;
        noise_seed(&n, known[i].seed);
        noise_fill(&n, x, known[i].count);
        CHECK_CLOSE(x, known[i].first, 4, 1e-6f);
        CHECK_CLOSE(&x[known[i].count - 1], &known[i].last, 1, 1e-6f);
    }
}

struct words { struct tokenizer *t; };

static bool open_words(struct words *w)
{
    struct err err = { 0 };
    if (tokenizer_open_folder(&w->t, -1, "models/shapes/1/tokenizer", &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return w->t != NULL;
}

/* The weight of the first token of `word` in the prompt. */
static float weight_of(const struct words *w, const struct prompt *p, const char *word)
{
    struct token_list l = { 0 };
    struct err err;
    float found = NAN;
    if (tokenizer_encode(w->t, word, strlen(word), 0, &l, &err) == ST_OK && l.count)
        for (int i = 0; i < p->chunks * p->length; i++)
            if (p->ids[i] == l.ids[0]) found = p->weights[i];
    token_list_free(&l);
    return found;
}

TEST(brackets_weigh_words)
{
    static const struct { const char *text; float red, blue, circle; } known[] = {
        { "red blue circle", 1, 1, 1 }, { "(red) blue circle", 1.1f, 1, 1 }, { "((red)) [blue] circle", 1.21f, 1 / 1.1f, 1 }, { "(red:1.5) (blue:0.5) circle", 1.5f, 0.5f, 1 }, { "(red (blue:2) circle:1.5)", 1.5f, 3, 1.5f },
        { "\\(red\\) blue circle", 1, 1, 1 }, { "red (blue circle", 1, 1.1f, 1.1f }, { "red) blue] circle", 1, 1, 1 }, { "(red: 1.3 ) blue circle", 1.3f, 1, 1 }, { "(red:x) blue circle", 1.1f, 1, 1 }, { "[red:1.3] blue circle", 1 / 1.1f, 1, 1 },
    };
    struct words w = { 0 };
    struct err err = { 0 };
    REQUIRE(open_words(&w));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct prompt p;
        REQUIRE_OK(prompt_open(&p, w.t, known[i].text, strlen(known[i].text), 24, -1, &err), err);
        const float got[] = { weight_of(&w, &p, "red"), weight_of(&w, &p, "blue"), weight_of(&w, &p, "circle") }, want[] = { known[i].red, known[i].blue, known[i].circle };
        for (int k = 0; k < 3; k++)
            if (!(fabsf(got[k] - want[k]) < 1e-5f)) test_fail(__FILE__, __LINE__, "\"%s\": word %d weighs %g, not %g", known[i].text, k, (double)got[k], (double)want[k]);
        CHECK(p.weighted == (want[0] != 1 || want[1] != 1 || want[2] != 1));
        prompt_close(&p);
    }
    tokenizer_close(w.t);
}

TEST(long_prompts_go_in_chunks)
{
    struct words w = { 0 };
    struct err err = { 0 };
    char text[4096] = "";
    struct prompt p;
    REQUIRE(open_words(&w));
    const struct tokenizer_ids *ids = tokenizer_ids(w.t);
    for (int i = 0; i < 22; i++) strcat(text, "red ");
    REQUIRE_OK(prompt_open(&p, w.t, text, strlen(text), 24, -1, &err), err);
    CHECK_INT(p.chunks, 1);
    CHECK_INT(p.tokens, 22);
    CHECK_INT(p.ends[0], 23);
    CHECK(p.ids[0] == ids->bos && p.ids[23] == ids->eos);
    prompt_close(&p);
    strcat(text, "blue");
    REQUIRE_OK(prompt_open(&p, w.t, text, strlen(text), 24, -1, &err), err);
    CHECK_INT(p.chunks, 2);
    CHECK_INT(p.ends[1], 2);
    CHECK(p.ids[24] == ids->bos && p.ids[26] == ids->eos && p.ids[30] == ids->pad);
    REQUIRE_OK(prompt_extend(&p, w.t, 3, &err), err);
    CHECK_INT(p.chunks, 3);
    CHECK(p.ids[48] == ids->bos && p.ids[49] == ids->eos);
    prompt_close(&p);
    REQUIRE_OK(prompt_open(&p, w.t, "red BREAK blue", 14, 24, -1, &err), err);
    CHECK_INT(p.chunks, 2);
    CHECK_INT(p.ends[0], 2);
    prompt_close(&p);
    text[0] = 0;
    for (int i = 0; i < 22 * PROMPT_CHUNKS_MAX; i++) strcat(text, "red ");
    REQUIRE_OK(prompt_open(&p, w.t, text, strlen(text), 24, -1, &err), err);
    prompt_close(&p);
    strcat(text, "red");
    CHECK_INT(prompt_open(&p, w.t, text, strlen(text), 24, -1, &err), ST_BAD_INPUT);
    tokenizer_close(w.t);
}

/* A group's first case of a model, by the engine; the last latents in `x`. */
struct last { float x[1024]; int64_t count; };
static void keep_last(void *ctx, int picture, int step, const float *x, int64_t count)
{
    struct last *l = ctx;
    (void)step;
    if (picture || count > 1024) return;
    memcpy(l->x, x, (size_t)count * sizeof *x);
    l->count = count;
}

static void run_first(const struct draft *d, int type, int level, struct last *l)
{
    char folder[512];
    struct draft_model m;
    struct image_job j;
    struct image image = { 0 }, mask = { 0 };
    struct err err = { 0 };
    const struct json *g = json_get(d->root, "groups")->list.first, *c = json_get(g, "cases")->list.first;
    snprintf(folder, sizeof folder, "%s", test_directory());
    char sub[600];
    snprintf(sub, sizeof sub, "%s/%d", folder, type);
    char command[700];
    snprintf(command, sizeof command, "mkdir -p '%s'", sub);
    REQUIRE(system(command) == 0);
    REQUIRE(draft_write(d, sub, json_get(g, "scheduler"), type));
    REQUIRE_OK(draft_open(&m, sub, 1, level, &err), err);
    REQUIRE_OK(draft_ask(c, &j, &image, &mask, &err), err);
    j.watch = keep_last;
    j.watch_context = l;
    CHECK_OK(draft_run(&m, &j, &err), err);
    image_job_close(&j);
    image_free(&image);
    image_free(&mask);
    draft_close(&m);
}

static double distance(const struct last *a, const struct last *b)
{
    double d = 0, n = 0;
    for (int64_t i = 0; i < a->count; i++) {
        d += ((double)a->x[i] - (double)b->x[i]) * ((double)a->x[i] - (double)b->x[i]);
        n += (double)a->x[i] * (double)a->x[i];
    }
    return sqrt(d / n);
}

TEST(weights_of_half_precision_draw_nearly_the_same)
{
    struct draft d;
    static struct last full, half, brain, avx2;
    REQUIRE(draft_read(&d, "sd2"));
    run_first(&d, BLOCK_F32, CPU_AMX, &full);
    run_first(&d, BLOCK_F16, CPU_AMX, &half);
    run_first(&d, BLOCK_BF16, CPU_AMX, &brain);
    run_first(&d, BLOCK_F32, CPU_AVX2, &avx2);
    printf("  f16 off by %.1e, bf16 by %.1e, avx2 by %.1e\n", distance(&full, &half), distance(&full, &brain), distance(&full, &avx2));
    CHECK(full.count > 0 && distance(&full, &half) < 1e-2 && distance(&full, &half) > 0);
    CHECK(distance(&full, &brain) < 1e-1 && distance(&full, &brain) > distance(&full, &half));
    CHECK(distance(&full, &avx2) < 1e-4);
    draft_free(&d);
}

TEST(tiles_draw_nearly_the_same_picture_in_less_memory)
{
    enum { SIDE = 384, LATENTS = SIDE / 4, BUDGET = 48 << 20 };
    struct err err = { 0 };
    uint8_t *pixels[2] = { NULL, NULL };
    float *picture = malloc(SIDE * SIDE * 3 * sizeof *picture), *z[2] = { malloc(8 * LATENTS * LATENTS * sizeof **z), malloc(8 * LATENTS * LATENTS * sizeof **z) };
    for (int i = 0; i < SIDE * SIDE; i++) {      /* rings of two colours */
        const bool in = (i % SIDE - 190) * (i % SIDE - 190) + (i / SIDE - 170) * (i / SIDE - 170) < 9000;
        for (int c = 0; c < 3; c++) picture[3 * i + c] = in ? (c == 0 ? 0.7f : -0.6f) : 0.9f;
    }
    for (int tiled = 0; tiled < 2; tiled++) {
        struct draft_model m;
        struct image_job j = { 0 };
        REQUIRE_OK(draft_open(&m, "models/shapes/1", 1, CPU_AMX, &err), err);
        if (tiled) m.instance->plans[GRAPH_DECODER].budget = m.instance->plans[GRAPH_ENCODER].budget = BUDGET;
        const struct image_slot s = { .job = &j, .width = SIDE, .height = SIDE, .w = LATENTS, .h = LATENTS, .channels = 4, .count = 4 * LATENTS * LATENTS };
        CHECK_OK(vae_encode(m.instance, &s, picture, z[tiled], NULL, &err), err);
        for (int i = 0; i < 4 * LATENTS * LATENTS; i++) z[tiled][i] *= m.engine->vae.scale;
        pixels[tiled] = malloc(SIDE * SIDE * 3);
        CHECK_OK(vae_decode(m.instance, &s, z[0], pixels[tiled], NULL, &err), err);
        printf("  %s: workspace of %.1f MiB\n", tiled ? "tiles" : "whole", (double)m.instance->workspace_bytes / 1048576);
        CHECK((m.instance->workspace_bytes <= BUDGET) == (tiled == 1));
        draft_close(&m);
    }
    double latents = 0, size = 0, bytes = 0;
    for (int i = 0; i < 4 * LATENTS * LATENTS; i++) {
        latents += fabs((double)z[0][i] - (double)z[1][i]);
        size += fabs((double)z[0][i]);
    }
    for (int i = 0; i < SIDE * SIDE * 3; i++) bytes += fabs((double)pixels[0][i] - (double)pixels[1][i]);
    printf("  latents differ by %.1f %%, bytes by %.2f on average\n", 100 * latents / size, bytes / (SIDE * SIDE * 3));
    CHECK(latents / size < 0.2 && bytes / (SIDE * SIDE * 3) < 12);
    free(pixels[0]), free(pixels[1]), free(z[0]), free(z[1]), free(picture);
}
