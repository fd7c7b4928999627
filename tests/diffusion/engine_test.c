/* threaded: the engine of pictures under the scheduler: requests with other prompts, seeds, steps, guidance and samplers ride one call of the network; a picture's bytes are those it
 * has alone. What is cancelled leaves at the next step; partial pictures come while the rest is drawn. Models: the tiny ones of the vectors. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/diffusion/diffusion_internal.h"
#include "engine/scheduler.h"
#include "tests/diffusion/draft.h"
#include "tests/test.h"

enum { ASKS = 10 };

struct ask {
    struct request request;
    struct image_job job;
    struct image image, mask;
    pthread_mutex_t lock;
    pthread_cond_t told;
    bool over, failed;
    int partials;
};

static void tell(struct request *r, enum request_event e)
{
    struct ask *a = r->event_context;
    pthread_mutex_lock(&a->lock);
    if (e == EVENT_PARTIAL) a->partials++;
    else {
        a->over = true;
        a->failed = e == EVENT_FAILED;
        pthread_cond_signal(&a->told);
    }
    pthread_mutex_unlock(&a->lock);
}

static void release(struct request *r) { arena_free(&r->arena); }

static void wait_for(struct ask *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->over) pthread_cond_wait(&a->told, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

/* Picture i: every sampler in turn, one to three pictures, long and weighted prompts, some redrawn, some with a mask. */
static void ask_fill(struct ask *a, int i)
{
    static const char *const prompts[] = { "a large red circle", "a small (blue:1.3) square on the left on a black background", "", "a star [at the top] a ring at the bottom a circle on the left a square on the right a small green triangle a large diamond in the center" };
    struct err err;
    *a = (struct ask){ 0 };
    request_init(&a->request, 1 << 20);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->told, NULL);
    a->request.event = tell;
    a->request.event_context = a;
    a->request.release = release;
    a->request.image = &a->job;
    CHECK_OK(image_job_open(&a->job, prompts[i % 4], strlen(prompts[i % 4]), 1 + (i == 4) + (i == 7) * 2, &err), err);
    a->job.width = 40;
    a->job.height = i == 9 ? 16 : 24;
    a->job.steps = 3 + i % 4;
    a->job.guidance = i % 3 == 0 ? 1 : 2.5f + (float)i;
    a->job.sampler = (enum image_sampler)(1 + i % (SAMPLER_FLOW_EULER - 1));
    a->job.seeded = true;
    a->job.seed = 100 + (uint64_t)i;
    if (i == 6 || i == 8) {
        a->image = (struct image){ 8, 8, 3, calloc(8 * 8, 3) };
        for (int k = 0; k < 8 * 8 * 3; k++) a->image.pixels[k] = (uint8_t)(k * 11);
        a->job.image = &a->image;
        a->job.strength = 0.7f;
    }
    if (i == 8) {
        a->mask = (struct image){ 8, 8, 1, calloc(8, 8) };
        memset(a->mask.pixels + 24, 255, 40);
        a->job.mask = &a->mask;
    }
}

static void ask_close(struct ask *a)
{
    image_job_close(&a->job);
    image_free(&a->image);
    image_free(&a->mask);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->told);
}

struct served { struct engine *engine; struct scheduler *scheduler; struct expiry *expiry; char folder[512], main_file[600]; };

static bool serve(struct served *s, const char *name, struct err *err)
{
    struct draft d;
    *s = (struct served){ 0 };
    snprintf(s->folder, sizeof s->folder, "%s", test_directory());
    snprintf(s->main_file, sizeof s->main_file, "%s/model_index.json", s->folder);
    if (!draft_read(&d, name)) return false;
    bool ok = draft_write(&d, s->folder, json_get(json_get(d.root, "groups")->list.first, "scheduler"), 0);
    draft_free(&d);
    const struct model_files files = { .directory = s->folder, .main_file = s->main_file };
    const struct engine_options options = { .threads = 1, .cpu_level = CPU_AMX, .precision = PRECISION_F32, .max_batch_rows = 16 };
    const struct scheduler_options how = { .max_batch_rows = 16, .dynamic_batching = true, .instances = 1, .threads = 1, .first_cpu = -1 };
    return ok && !diffusion_engine.open(&s->engine, &files, &options, err) && !expiry_open(&s->expiry, err) && !scheduler_open(&s->scheduler, &diffusion_engine, s->engine, &how, s->expiry, err);
}

static void serve_stop(struct served *s)
{
    if (s->scheduler) scheduler_close(s->scheduler);
    if (s->expiry) expiry_close(s->expiry);
    if (s->engine) diffusion_engine.close(s->engine);
}

static void submit(struct served *s, struct ask *a)
{
    struct err err = { 0 };
    CHECK_OK(scheduler_submit(s->scheduler, &a->request, &err), err);
}

static bool same_pictures(const struct ask *a, const struct ask *b)
{
    if (a->job.pictures != b->job.pictures || a->job.used.width != b->job.used.width || a->job.used.height != b->job.used.height) return false;
    for (int k = 0; k < a->job.pictures; k++)
        if (!a->job.answers[k].pixels || !b->job.answers[k].pixels || memcmp(a->job.answers[k].pixels, b->job.answers[k].pixels, (size_t)a->job.used.width * (size_t)a->job.used.height * 3)) return false;
    return true;
}

TEST(pictures_are_the_same_alone_and_in_company)
{
    static struct ask alone[ASKS], together[ASKS];
    struct served s;
    struct err err = { 0 };
    if (!serve(&s, "sd1", &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.text);
        return;
    }
    for (int i = 0; i < ASKS; i++) {
        ask_fill(&alone[i], i);
        submit(&s, &alone[i]);
        wait_for(&alone[i]);
        if (alone[i].failed) test_fail(__FILE__, __LINE__, "request %d: %s", i, alone[i].request.error.text);
    }
    for (int i = 0; i < ASKS; i++) {
        ask_fill(&together[i], i);
        submit(&s, &together[i]);
        usleep(test_random() % 4000);
    }
    int64_t most = 0;
    for (int i = 0; i < ASKS; i++) {
        wait_for(&together[i]);
        if (!same_pictures(&alone[i], &together[i])) test_fail(__FILE__, __LINE__, "picture %d (%s) is another in company", i, image_sampler_name(together[i].job.used.sampler));
        if (together[i].request.batch_rows > most) most = together[i].request.batch_rows;
    }
    CHECK(most > 1);
    for (int i = 0; i < ASKS; i++) {
        request_drop(&alone[i].request);
        request_drop(&together[i].request);
    }
    serve_stop(&s);
    for (int i = 0; i < ASKS; i++) {
        ask_close(&alone[i]);
        ask_close(&together[i]);
    }
}

TEST(a_cancelled_picture_leaves_and_the_others_stay)
{
    static struct ask ask[3], after;
    struct served s;
    struct err err = { 0 };
    REQUIRE(serve(&s, "sd1", &err));
    for (int i = 0; i < 3; i++) {
        ask_fill(&ask[i], i);
        ask[i].job.progress = true;
        ask[i].job.steps = i == 1 ? 900 : 4;
        ask[i].job.sampler = SAMPLER_EULER;
        submit(&s, &ask[i]);
    }
    for (bool going = false; !going; usleep(1000)) {
        pthread_mutex_lock(&ask[1].lock);
        going = ask[1].partials > 2;
        pthread_mutex_unlock(&ask[1].lock);
    }
    uint64_t start = clock_ns();
    scheduler_cancel(s.scheduler, &ask[1].request);
    wait_for(&ask[1]);
    CHECK(ask[1].failed && ask[1].request.error.status == ST_CANCELLED);
    printf("  cancelled within %.1f ms after %d of 900 steps\n", (double)(clock_ns() - start) / 1e6, ask[1].job.step);
    CHECK(ask[1].job.step < 900);
    wait_for(&ask[0]);
    wait_for(&ask[2]);
    CHECK(!ask[0].failed && !ask[2].failed);
    ask_fill(&after, 0);
    submit(&s, &after);
    wait_for(&after);
    CHECK(!after.failed);
    for (int i = 0; i < 3; i++) request_drop(&ask[i].request);
    request_drop(&after.request);
    serve_stop(&s);
    for (int i = 0; i < 3; i++) ask_close(&ask[i]);
    ask_close(&after);
}

TEST(partial_pictures_come_as_many_as_asked)
{
    static struct ask a;
    struct served s;
    struct err err = { 0 };
    REQUIRE(serve(&s, "sd1", &err));
    ask_fill(&a, 4);
    a.job.steps = 8;
    a.job.sampler = SAMPLER_DDIM;
    a.job.partials = 3;
    submit(&s, &a);
    wait_for(&a);
    CHECK(!a.failed);
    CHECK_INT(a.partials, 3);
    for (int k = 0; k < a.job.pictures; k++) {
        CHECK_INT(a.job.answers[k].partial_count, 3);
        CHECK_INT(a.job.answers[k].partial_step, 6);
        CHECK_INT(a.job.answers[k].seed, 104 + k);
        CHECK(memcmp(a.job.answers[k].partial, a.job.answers[k].pixels, 40 * 24 * 3) != 0);
    }
    CHECK_INT(a.job.used.steps, 8);
    CHECK(a.job.phase == IMAGE_OVER && a.job.text_ns && a.job.denoise_ns && a.job.decode_ns);
    request_drop(&a.request);
    serve_stop(&s);
    ask_close(&a);
}

TEST(questions_that_do_not_fit_are_refused)
{
    static const struct { const char *what; int width, steps, label; float strength; enum image_sampler sampler; enum image_schedule schedule; } wrong[] = {
        { "width", 41, 4, -1, -1, 0, 0 }, { "steps", 40, 1001, -1, -1, 0, 0 }, { "labels", 40, 4, 0, -1, 0, 0 }, { "flow_euler", 40, 4, -1, -1, SAMPLER_FLOW_EULER, 0 },
        { "karras", 40, 4, -1, -1, SAMPLER_DDIM, SCHEDULE_KARRAS }, { "strength", 40, 4, -1, 0, 0, 0 }, { "steps", 40, 51, -1, -1, SAMPLER_LCM, 0 },
    };
    struct served s;
    struct err err = { 0 };
    REQUIRE(serve(&s, "sd1", &err));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        static struct ask a;
        ask_fill(&a, 6);
        a.job.width = wrong[i].width;
        a.job.steps = wrong[i].steps;
        a.job.label = wrong[i].label;
        a.job.strength = wrong[i].strength;
        a.job.sampler = wrong[i].sampler;
        a.job.schedule = wrong[i].schedule;
        enum status st = scheduler_submit(s.scheduler, &a.request, &err);
        if (st != ST_BAD_INPUT || !strstr(err.text, wrong[i].what)) test_fail(__FILE__, __LINE__, "case %zu: status %d, \"%s\" says nothing of %s", i, st, st ? err.text : "", wrong[i].what);
        request_drop(&a.request);
        ask_close(&a);
    }
    static struct ask text;
    ask_fill(&text, 0);
    text.request.image = NULL;
    CHECK_INT(scheduler_submit(s.scheduler, &text.request, &err), ST_BAD_INPUT);
    float numbers[4] = { 1, 2, 3, 4 };      /* as an ensemble might pass them on: they are no strings, and none is no prompt */
    struct request_tensor prompts[] = { { "prompt", { .dtype = DT_F32, .rank = 1, .dims = { 4 }, .data = numbers, .bytes = sizeof numbers } }, { "prompt", { .dtype = DT_STRING, .rank = 1, .dims = { 0 }, .data = numbers } } };
    for (int k = 0; k < 2; k++) {
        text.request.inputs = &prompts[k], text.request.input_count = 1;
        CHECK_INT(scheduler_submit(s.scheduler, &text.request, &err), ST_BAD_INPUT);
        CHECK(strstr(err.text, "prompt") != NULL);
    }
    request_drop(&text.request);
    ask_close(&text);
    serve_stop(&s);
}

TEST(latents_given_are_the_first_noise)
{
    static struct ask a, b, wrong;      /* one for each request: a worker lets go of its request after it told */
    static float latents[4 * 3 * 5];
    struct served s;
    struct err err = { 0 };
    struct noise noise;
    REQUIRE(serve(&s, "sd1", &err));
    ask_fill(&a, 0);
    ask_fill(&b, 0);
    a.job.sampler = b.job.sampler = SAMPLER_EULER;
    noise_seed(&noise, a.job.seed);
    noise_fill(&noise, latents, 60);
    b.job.seed = 1;
    b.job.latents = latents;
    b.job.latent_count = 60;
    submit(&s, &a);
    submit(&s, &b);
    wait_for(&a);
    wait_for(&b);
    CHECK(!a.failed && !b.failed && same_pictures(&a, &b));
    request_drop(&a.request);
    request_drop(&b.request);
    ask_fill(&wrong, 0);
    wrong.job.latents = latents;
    wrong.job.latent_count = 59;
    CHECK_INT(scheduler_submit(s.scheduler, &wrong.request, &err), ST_BAD_INPUT);
    request_drop(&wrong.request);
    serve_stop(&s);
    ask_close(&a);
    ask_close(&b);
    ask_close(&wrong);
}
