/* own heap: allocations of the engine of pictures fail, one in each run, from the opening of a model to its pictures (a guided one, one redrawn inside a mask, one asked for as
 * tensors): each run ends with a status and a sentence or with its pictures, and gives back what it took. */
#include <stdlib.h>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include "engine/diffusion/diffusion_internal.h"
#include "tests/diffusion/draft.h"
#include "tests/starved_heap.h"

enum { SIDE = 16 };

static void ask_for(struct image_job *j, bool redrawn, const struct image *image, const struct image *mask)
{
    j->width = j->height = SIDE;
    j->steps = 2;
    j->guidance = redrawn ? 1 : 3;
    j->sampler = redrawn ? SAMPLER_EULER_ANCESTRAL : SAMPLER_DPMPP_2M;
    j->seeded = true;
    j->partials = redrawn;
    if (redrawn) j->image = image, j->mask = mask;
}

static enum status run_job(struct draft_model *m, bool redrawn, struct err *err)
{
    static uint8_t grey[8 * 8 * 3];
    const struct image image = { 8, 8, 3, grey }, mask = { 8, 8, 1, grey };
    struct image_job j;
    enum status st = image_job_open(&j, "a (red:1.2) circle", 18, 1, err);
    if (st) return st;
    ask_for(&j, redrawn, &image, &mask);
    st = draft_run(m, &j, err);
    image_job_close(&j);
    return st;
}

static enum status run_tensors(struct draft_model *m, struct err *err)
{
    struct string_ref text = { "a circle", 8 };
    struct request_tensor prompt = { "prompt", { .dtype = DT_STRING, .rank = 1, .dims = { 1 }, .data = &text, .bytes = sizeof text } };
    const struct parameter parameters[] = { { .name = "steps", .type = PARAMETER_INT, .integer = 1 }, { .name = "width", .type = PARAMETER_INT, .integer = SIDE }, { .name = "height", .type = PARAMETER_INT, .integer = SIDE } };
    struct request r;
    request_init(&r, 1 << 20);
    r.inputs = &prompt, r.input_count = 1;
    r.parameters = parameters, r.parameter_count = 3;
    enum status st = draft_run_request(m, &r, err);
    if (!st && (r.output_count != 1 || r.outputs[0].tensor.bytes != SIDE * SIDE * 3)) st = err_set(err, ST_INTERNAL, "the picture is not there");
    request_drop(&r);
    return st;
}

static enum status open_and_draw(const char *folder, struct err *err)
{
    struct draft_model m;
    enum status st = draft_open(&m, folder, 1, CPU_AMX, err);
    if (st) return st;
    st = run_job(&m, false, err);
    if (!st) st = run_job(&m, true, err);
    if (!st) st = run_tensors(&m, err);
    draft_close(&m);
    return st;
}

TEST(any_allocation_may_fail)
{
    const char *folder = test_directory();
    struct draft d;
    struct err err = { 0 };
    long n = 0, runs = 0, failures = 0;
    REQUIRE(draft_read(&d, "sd1"));
    REQUIRE(draft_write(&d, folder, json_get(json_get(d.root, "groups")->list.first, "scheduler"), 0));
    draft_free(&d);
    starve_own_only();
    REQUIRE_OK(open_and_draw(folder, &err), err);                     /* what the libraries keep for ever is taken */
    for (;; n += 1 + n / 12, runs++) {
        const long before = atomic_load(&live);
        err = (struct err){ 0 };
        atomic_store(&countdown, n);
        const enum status st = open_and_draw(folder, &err);
        const bool met = atomic_exchange(&countdown, -1) < 0;
        if (!met) {
            CHECK_OK(st, err);
            break;
        }
        if (st && (st != ST_NO_MEMORY || !err.text[0])) test_fail(__FILE__, __LINE__, "allocation %ld fails with status %d: %s", n, (int)st, err.text);
        if (st && atomic_load(&live) > before) test_fail(__FILE__, __LINE__, "allocation %ld fails and %ld blocks stay: %s", n, atomic_load(&live) - before, err.text);
        failures += st != ST_OK;
    }
    printf("     %ld of %ld allocations tried, %ld of them needed\n", runs, n, failures);
    CHECK(runs > 60 && failures > runs / 2);
}

#else

#include "tests/test.h"
TEST(any_allocation_may_fail) { SKIP("the sanitizers have a heap of their own"); }

#endif
