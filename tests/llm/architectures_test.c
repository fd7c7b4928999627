/* Every row of the architecture table against transformers' float32: the same logits to 1e-4, whole and token by token, and each feature of the row matters: switched
 * off, the logits are others. */
#include "tests/llm/tiny.h"
#include "tests/test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VECTORS "tests/llm/vectors"

static void no_window(struct llm_config *c) { c->window = 0; }
static void no_scaling(struct llm_config *c) { c->scaling.kind = SCALING_NONE; }
static void whole_rotation(struct llm_config *c) { c->rotary = c->head_dim; }
static void no_rotation(struct llm_config *c) { c->rotary = 0; }
static void all_rotated(struct llm_config *c) { c->unrotated_layers = NULL; }
static void no_attention_softcap(struct llm_config *c) { c->attention_softcap = 0; }
static void no_final_softcap(struct llm_config *c) { c->final_softcap = 0; }
static void no_attention_scale(struct llm_config *c) { c->attention_scale = 0; }
static void no_embedding_scale(struct llm_config *c) { c->embedding_scale = 1; }
static void no_residual_scale(struct llm_config *c) { c->residual_scale = 1; }
static void no_logits_scale(struct llm_config *c) { c->logits_scale = 1; }
static void no_local_base(struct llm_config *c) { c->rope_local_base = c->rope_base; }
static void no_clip(struct llm_config *c) { c->clip_qkv = 0; }
static void other_experts(struct llm_config *c) { c->experts_used = 1; }
static void other_renormalise(struct llm_config *c) { c->renormalise = !c->renormalise; }
static void other_parallel(struct llm_config *c) { c->parallel = !c->parallel; }
static void other_activation(struct llm_config *c) { c->act.kind = c->act.kind == ACT_RELU ? ACT_GELU : ACT_RELU; }
static void other_distance(struct llm_config *c) { c->distance_max += 8; }
static void no_alibi(struct llm_config *c) { c->alibi = NULL; }
static struct llm_architecture changed;
static void no_plus_one(struct llm_config *c) { changed = *c->arch; changed.flags &= ~(unsigned)LLM_NORM_PLUS_ONE; c->arch = &changed; }

static const struct { const char *name; void (*edit)(struct llm_config *c); } edits[] = {
    { "window", no_window }, { "scaling", no_scaling }, { "rotary", whole_rotation }, { "rotation", no_rotation }, { "unrotated", all_rotated }, { "attention_softcap", no_attention_softcap }, { "final_softcap", no_final_softcap },
    { "attention_scale", no_attention_scale }, { "embedding_scale", no_embedding_scale }, { "residual_scale", no_residual_scale }, { "logits_scale", no_logits_scale }, { "local_base", no_local_base },
    { "clip", no_clip }, { "experts", other_experts }, { "renormalise", other_renormalise }, { "parallel", other_parallel }, { "plus_one", no_plus_one },
    { "activation", other_activation }, { "distance", other_distance }, { "alibi", no_alibi },
};

/* How far the model is from its vector; -1 with a sentence on stderr when it does not run. */
static double measure(const struct tiny *t, const char *folder, void (*edit)(struct llm_config *c), int piece, int threads, int level)
{
    struct err err = { 0 };
    static float out[TINY_TOKENS * 4096];
    int columns = t->columns;
    if (tiny_run(folder, edit, t->tokens, t->token_count, piece, threads, level, out, &columns, &err)) {
        fprintf(stderr, "  %s\n", err.text);
        return -1;
    }
    return columns == t->columns ? tiny_farthest(out, t->values, t->rows * t->columns) : -1;
}

static void check_features(const struct tiny *t, const char *name, const char *folder)
{
    for (int f = 0; f < t->feature_count; f++) {
        void (*edit)(struct llm_config *c) = NULL;
        for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++)
            if (!strcmp(edits[i].name, t->features[f])) edit = edits[i].edit;
        CHECK(edit || strchr(t->features[f], ':'));
        if (!edit) CHECK(tiny_write(t, folder, t->features[f]));
        double d = measure(t, folder, edit, t->token_count, 1, CPU_AMX);
        if (!(d > 1e-2)) fprintf(stderr, "%s: without '%s' the logits differ by %g only\n", name, t->features[f], d);
        CHECK(d > 1e-2);
        if (!edit) CHECK(tiny_write(t, folder, NULL));
    }
}

static void check_model(const char *name)
{
    static struct tiny t;
    char path[300];
    const char *folder = test_directory();
    snprintf(path, sizeof path, VECTORS "/%s", name);
    CHECK(tiny_read(&t, path));
    CHECK(tiny_write(&t, folder, NULL));
    bool encoder = strstr(name, "bert") || strstr(name, "encoder");
    for (int piece = t.token_count; piece > 0; piece = piece == t.token_count && !encoder ? 5 : 0) {
        double d = measure(&t, folder, NULL, piece, piece == 5 ? 2 : 1, CPU_AMX);
        if (!(d >= 0 && d < 1e-4)) fprintf(stderr, "%s (pieces of %d): off by %g\n", name, piece, d);
        CHECK(d >= 0 && d < 1e-4);
    }
    check_features(&t, name, folder);
    tiny_free(&t);
}

TEST(every_architecture_gives_the_logits_of_transformers)
{
    DIR *d = opendir(VECTORS);
    int count = 0;
    CHECK(d != NULL);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strstr(e->d_name, ".txt")) continue;
        check_model(e->d_name);
        count++;
    }
    if (d) closedir(d);
    CHECK(count >= 35);
}
