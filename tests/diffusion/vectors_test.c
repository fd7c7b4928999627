/* Latents after every step and the last picture are those of diffusers, for each family and sampler (tools/make_diffusion_vectors.py). */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "engine/device_gpu.h"
#include "kernels/kernels.h"
#include "tests/diffusion/draft.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/test.h"

/* How near latents must be: each number, by the larger of 1 and itself; or (halves) all of them together, as the length of their difference by their own. bytes: of a picture, how far off, and one of
 * how many. */
static struct near { float each, all; int bytes, share; } near = { 1e-3f, 0, 1, 50 };

struct seen { const struct json *steps; int step; float worst, worst_all; int first, wrong; char what[200]; };

/* What the worker shows of picture 0 after each call, against the next list of the case. */
static void look(void *ctx, int picture, int step, const float *x, int64_t count)
{
    struct seen *s = ctx;
    (void)step;
    if (picture) return;
    const struct json *want = s->steps;
    s->step++;
    if (!want) {
        s->wrong = 1;
        return;
    }
    s->steps = want->next;
    if ((int64_t)want->list.count != count) s->wrong = 1;
    const struct json *v = want->list.first;
    double square = 0, difference = 0;
    for (int64_t i = 0; i < count && v; i++, v = v->next) {
        double w;
        if (!json_as_double(v, &w)) w = 0;
        square += w * w;
        difference += ((double)x[i] - w) * ((double)x[i] - w);
        const float off = fabsf(x[i] - (float)w) / fmaxf(1, fabsf((float)w));
        if (!(off <= s->worst)) s->worst = off;
        if (!(off <= near.each) && !s->first) {
            s->first = s->step;
            snprintf(s->what, sizeof s->what, "number %lld is %g, not %g", (long long)i, (double)x[i], w);
        }
    }
    const float all = (float)sqrt(difference / square);
    if (!(all <= s->worst_all)) s->worst_all = all;
    if (near.all > 0 && !(all <= near.all) && !s->first) {
        s->first = s->step;
        snprintf(s->what, sizeof s->what, "all of them are");
    }
}

static void check_pixels(const struct image_job *j, const struct json *want, const char *name)
{
    const struct image_answer *a = &j->answers[j->pictures - 1];
    int64_t at = 0, off = 0, worst = 0;
    for (const struct json *v = want ? want->list.first : NULL; v; v = v->next, at++) {
        int64_t d = llabs((int64_t)a->pixels[at] - v->integer);
        if (d > worst) worst = d;
        off += d != 0;
    }
    if (want && at != (int64_t)j->used.width * j->used.height * 3) test_fail(__FILE__, __LINE__, "%s: the picture has not %lld bytes", name, (long long)at);
    if (worst > near.bytes || off * near.share > at) test_fail(__FILE__, __LINE__, "%s: %lld of %lld bytes of the picture differ, by %lld at most", name, (long long)off, (long long)at, (long long)worst);
}

static void check_case(struct draft_model *m, const struct json *c, const char *name, float *worst)
{
    struct image_job j;
    struct image image = { 0 }, mask = { 0 };
    struct err err = { 0 };
    struct seen s = { .steps = json_get(c, "latents")->list.first };
    REQUIRE_OK(draft_ask(c, &j, &image, &mask, &err), err);
    j.watch = look;
    j.watch_context = &s;
    enum status st = draft_run(m, &j, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s: %s", name, err.text);
    else if (s.first) test_fail(__FILE__, __LINE__, "%s: after step %d %s (off by %g, all together by %g)", name, s.first, s.what, (double)s.worst, (double)s.worst_all);
    else if (s.wrong || s.steps) test_fail(__FILE__, __LINE__, "%s: %d steps were seen, not those of diffusers", name, s.step);
    else check_pixels(&j, json_get(c, "pixels"), name);
    const float off = near.all > 0 ? s.worst_all : s.worst;
    if (off > *worst) *worst = off;
    image_job_close(&j);
    image_free(&image);
    image_free(&mask);
}

/* most: cases of each scheduler. */
static void check_family_as(const char *family, const char *how, int most)
{
    struct draft d;
    char folder[512], name[200];
    float worst = 0;
    int cases = 0, group = 0;
    const uint64_t start = clock_ns();
    snprintf(folder, sizeof folder, "%s", test_directory());
    REQUIRE(draft_read(&d, family));
    for (const struct json *g = json_get(d.root, "groups")->list.first; g; g = g->next, group++) {
        struct draft_model m;
        struct err err = { 0 };
        REQUIRE(draft_write(&d, folder, json_get(g, "scheduler"), 0));
        if (draft_open(&m, folder, 1, CPU_AMX, &err)) {
            test_fail(__FILE__, __LINE__, "%s group %d: %s", family, group, err.text);
            continue;
        }
        int index = 0;
        for (const struct json *c = json_get(g, "cases")->list.first; c && index < most; c = c->next, cases++, index++) {
            const struct json *sampler = json_get(c, "sampler"), *schedule = json_get(c, "schedule");
            snprintf(name, sizeof name, "%s %s case %d (%s %s)", family, json_get(json_get(g, "scheduler"), "_class_name")->string.text, index, sampler ? sampler->string.text : "", schedule ? schedule->string.text : "");
            check_case(&m, c, name, &worst);
        }
        draft_close(&m);
    }
    printf("  %s%s: %d cases, off by %.1e at most, %.1f s\n", family, how, cases, (double)worst, (double)(clock_ns() - start) / 1e9);
    draft_free(&d);
}

/* Random networks are harder than real ones: what a call rounds the next ones enlarge. */
static const float HALVES = 0.08f;

/* On the CPU, and on a card without a card (tests/kernels/fake_gpu.h): in float the same, in halves as near as they are. */
static void check_family(const char *family)
{
    check_family_as(family, "", INT_MAX);
    device_gpus_use(test_gpu_api());
    draft_way = (struct draft_way){ PRECISION_F32, 1 };
    near.each = 2e-3f;                         /* other orders of addition, over up to ten calls */
    check_family_as(family, " on a card", 2);
    draft_way.precision = PRECISION_F16;
    near = (struct near){ INFINITY, HALVES, 255, 1 };
    check_family_as(family, " on a card in halves", 2);
    near = (struct near){ 1e-3f, 0, 1, 50 };
    draft_way = (struct draft_way){ PRECISION_F32, 0 };
    device_gpus_use(NULL);
    CHECK_INT(fake_gpu_held().bytes, 0);
    CHECK_INT(fake_gpu_held().pinned, 0);
}

TEST(sd1) { check_family("sd1"); }
TEST(sd2) { check_family("sd2"); }
TEST(sdxl) { check_family("sdxl"); }
TEST(refiner) { check_family("refiner"); }
TEST(lcm) { check_family("lcm"); }
TEST(ddpm) { check_family("ddpm"); }
TEST(classes) { check_family("classes"); }
TEST(ldm) { check_family("ldm"); }
TEST(taesd) { check_family("taesd"); }
TEST(inpaint) { check_family("inpaint"); }
TEST(sd3) { check_family("sd3"); }
TEST(sd35_t5) { check_family("sd35_t5"); }
TEST(flux) { check_family("flux"); }

/* The same model as a folder and as one file with the names of the first releases. */
static void check_single(const char *name)
{
    struct draft d;
    struct draft_model m;
    struct err err = { 0 };
    float worst = 0;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", test_directory());
    check_family(name);
    REQUIRE(draft_read(&d, name));
    char one[600];
    snprintf(one, sizeof one, "%s/one", folder);
    REQUIRE(mkdir(one, 0755) == 0);
    REQUIRE(draft_write_file(&d, one));
    REQUIRE_OK(draft_open(&m, one, 1, CPU_AMX, &err), err);
    check_case(&m, json_get(json_get(d.root, "groups")->list.first, "cases")->list.first, name, &worst);
    printf("  %s in one file: off by %.1e at most\n", name, (double)worst);
    draft_close(&m);
    draft_free(&d);
}

TEST(single) { check_single("single"); }
TEST(single_xl) { check_single("single_xl"); }
