/* The demo model draws what a sentence says: the colour that was asked for lies where it was asked for, on the ground that was asked for. tools/check_shapes.py asks 200 sentences, beside
 * diffusers. */
#include <stdlib.h>

#include "kernels/kernels.h"
#include "tests/diffusion/draft.h"
#include "tests/test.h"

struct colour { const char *name; int rgb[3]; };
static const struct colour colours[] = { { "red", { 220, 40, 40 } }, { "green", { 40, 170, 60 } }, { "blue", { 50, 80, 220 } }, { "yellow", { 245, 215, 50 } }, { "purple", { 150, 60, 190 } }, { "orange", { 245, 140, 30 } },
                                         { "white", { 250, 250, 250 } }, { "black", { 20, 20, 20 } }, { "gray", { 128, 128, 128 } }, { "pink", { 250, 190, 205 } }, { "cyan", { 150, 225, 235 } } };

/* The colour nearest to the mean of the 5 x 5 pixels around (x, y) of 64 x 64. */
static const char *colour_at(const uint8_t *pixels, int x, int y)
{
    int best = 0;
    long least = -1;
    for (size_t c = 0; c < sizeof colours / sizeof colours[0]; c++) {
        long far = 0;
        for (int k = 0; k < 3; k++) {
            int sum = 0;
            for (int dy = -2; dy <= 2; dy++)
                for (int dx = -2; dx <= 2; dx++) sum += pixels[((y + dy) * 64 + x + dx) * 3 + k];
            far += labs(sum / 25 - colours[c].rgb[k]) * labs(sum / 25 - colours[c].rgb[k]);
        }
        if (least < 0 || far < least) {
            least = far;
            best = (int)c;
        }
    }
    return colours[best].name;
}

TEST(the_demo_model_draws_what_a_sentence_says)
{
    static const struct { const char *prompt, *colour, *ground; int x, y; } asked[] = {
        { "a large red circle in the center on a white background", "red", "white", 32, 32 }, { "a large blue square on the left on a black background", "blue", "black", 17, 32 },
        { "a large green diamond on the right on a pink background", "green", "pink", 47, 32 }, { "a large purple circle at the bottom on a gray background", "purple", "gray", 32, 47 },
        { "a large yellow square at the top on a cyan background", "yellow", "cyan", 32, 17 },
    };
    const int count = sizeof asked / sizeof asked[0];
    struct draft_model m;
    struct err err = { 0 };
    int right = 0;
    REQUIRE_OK(draft_open(&m, "models/shapes/1", 2, CPU_AMX, &err), err);
    for (int i = 0; i < count; i++) {
        struct image_job j;
        REQUIRE_OK(image_job_open(&j, asked[i].prompt, strlen(asked[i].prompt), 1, &err), err);
        j.steps = 12;
        j.guidance = 4;
        j.seeded = true;
        j.seed = 1;
        CHECK_OK(draft_run(&m, &j, &err), err);
        CHECK(j.used.width == 64 && j.used.height == 64);
        const char *there = colour_at(j.answers[0].pixels, asked[i].x, asked[i].y), *ground = colour_at(j.answers[0].pixels, asked[i].x < 32 ? 60 : 3, asked[i].y < 32 ? 60 : 3);
        if (!strcmp(there, asked[i].colour) && !strcmp(ground, asked[i].ground)) right++;
        else printf("  \"%s\": %s on %s\n", asked[i].prompt, there, ground);
        image_job_close(&j);
    }
    printf("  %d of %d right\n", right, count);
    CHECK(right >= count - 1);
    draft_close(&m);
}
