/* threaded: workers of several schedulers wait for turns */
#include "engine/rate_limiter.h"

#include "engine/scheduler.h"
#include "tests/engine/step_engine.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct rate_claim claim_of(const char *name, uint32_t count, uint32_t priority) { return (struct rate_claim){ .needs = { { .count = count, .name = { name[0], name[1] } } }, .need_count = 1, .priority = priority, .instances = 1 }; }

/* ---- turns, without a scheduler ---- */

struct runner { struct rate_limiter *limiter; struct rate_member *member; pthread_t thread; atomic_int turns, *inside, *peak, *left; };

static void *run_turns(void *p)
{
    struct runner *r = p;
    bool more = atomic_fetch_sub(r->left, 1) > 0;
    if (more) rate_limiter_enter(r->limiter, r->member);
    while (more) {
        int inside = atomic_fetch_add(r->inside, 1) + 1, peak = atomic_load(r->peak);
        while (inside > peak && !atomic_compare_exchange_weak(r->peak, &peak, inside)) continue;
        atomic_fetch_add(&r->turns, 1);
        usleep(300);
        atomic_fetch_sub(r->inside, 1);
        if ((more = atomic_fetch_sub(r->left, 1) > 0)) rate_limiter_renew(r->limiter, r->member);
        else rate_limiter_exit(r->limiter, r->member);
    }
    return NULL;
}

/* Runs one thread for each claim until `turns` turns were had; how many each had is in runners. Returns the most that were inside at once. */
static int race(struct rate_limiter *l, const struct rate_claim *claims, int n, struct runner *runners, int turns)
{
    struct err err;
    atomic_int inside = 0, peak = 0, left = turns;
    for (int i = 0; i < n; i++) {
        runners[i] = (struct runner){ .limiter = l, .inside = &inside, .peak = &peak, .left = &left };
        CHECK_OK(rate_limiter_join(l, &claims[i], &runners[i].member, &err), err);
    }
    for (int i = 0; i < n; i++) pthread_create(&runners[i].thread, NULL, run_turns, &runners[i]);
    for (int i = 0; i < n; i++) pthread_join(runners[i].thread, NULL);
    for (int i = 0; i < n; i++) rate_limiter_leave(l, runners[i].member);
    return atomic_load(&peak);
}

TEST(one_copy_lets_one_run)
{
    struct rate_limiter *l = rate_limiter_open();
    struct runner runners[3];
    struct rate_claim claims[] = { claim_of("r1", 1, 1), claim_of("r1", 1, 1), claim_of("r1", 1, 1) };
    CHECK_INT(race(l, claims, 3, runners, 60), 1);
    for (int i = 0; i < 3; i++) CHECK(atomic_load(&runners[i].turns) >= 15);
    rate_limiter_close(l);
}

TEST(priorities_share_the_turns)
{
    struct rate_limiter *l = rate_limiter_open();
    struct runner runners[3];
    struct rate_claim claims[] = { claim_of("r1", 1, 1), claim_of("r1", 1, 2), claim_of("r1", 1, 4) };
    CHECK_INT(race(l, claims, 3, runners, 350), 1);
    int first = atomic_load(&runners[0].turns), second = atomic_load(&runners[1].turns), third = atomic_load(&runners[2].turns);
    CHECK(first > 160 && first < 240 && second > 70 && second < 130 && third > 30 && third < 75);      /* 200, 100, 50 */
    rate_limiter_close(l);
}

TEST(copies_are_what_the_most_demanding_needs)
{
    struct rate_limiter *l = rate_limiter_open();
    struct runner runners[4];
    struct rate_claim claims[] = { claim_of("r1", 3, 1), claim_of("r1", 1, 1), claim_of("r1", 1, 1), claim_of("r1", 1, 1) };
    int peak = race(l, claims, 4, runners, 80);
    CHECK(peak >= 2 && peak <= 3);                             /* three small ones fit beside each other, the large one only alone */
    CHECK(atomic_load(&runners[0].turns) >= 10);               /* and those behind it do not overtake it for ever */
    rate_limiter_close(l);
}

TEST(others_resources_hold_nobody_up)
{
    struct rate_limiter *l = rate_limiter_open();
    struct runner runners[2];
    struct rate_claim claims[] = { claim_of("r1", 1, 1), claim_of("r2", 1, 9) };
    CHECK_INT(race(l, claims, 2, runners, 60), 2);
    CHECK(atomic_load(&runners[1].turns) > 15);
    rate_limiter_close(l);
}

TEST(what_can_never_run_is_refused)
{
    struct rate_limiter *l = rate_limiter_open();
    struct rate_member *m, *n;
    struct err err;
    CHECK_OK(rate_limiter_fix(l, "r1:4", &err), err);
    CHECK_OK(rate_limiter_fix(l, "r2:1:0", &err), err);
    static const char *const wrong[] = { "r1", "r1:", ":1", "r1:0", "r1:-1", "r1:x", "r1:1:1", "r1:1:", "r1:99999999999999999999" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECK_INT(rate_limiter_fix(l, wrong[i], &err), ST_BAD_INPUT);
    struct rate_claim fits = claim_of("r1", 4, 0), over = claim_of("r1", 5, 0), global = claim_of("r1", 1, 0);
    global.needs[0].global = true;
    CHECK_OK(rate_limiter_join(l, &fits, &m, &err), err);
    CHECK_INT(rate_limiter_join(l, &over, &n, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "is limited to 4") != NULL);
    CHECK_INT(rate_limiter_join(l, &global, &n, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "global for one model") != NULL);
    rate_limiter_leave(l, m);
    CHECK_OK(rate_limiter_join(l, &global, &n, &err), err);      /* nobody has it otherwise now */
    rate_limiter_leave(l, n);
    rate_limiter_close(l);
}

/* ---- schedulers ---- */

enum { MODELS = 2, REQUESTS = 24 };

struct client { struct request request; int64_t work[2]; atomic_int over; };

static void client_event(struct request *r, enum request_event e)
{
    if (e != EVENT_PARTIAL) atomic_store(&((struct client *)r->event_context)->over, 1);
}

static void client_release(struct request *r) { arena_free(&r->arena); }

/* Two models with requests at the same time; returns how many steps ran at once. */
static int steps_at_once(struct rate_limiter *l, bool claims)
{
    struct err err;
    struct expiry *expiry;
    struct engine *engines[MODELS];
    struct scheduler *schedulers[MODELS];
    struct rate_claim claim = claim_of("r1", 1, 1);
    static struct client clients[MODELS][REQUESTS];
    memset(&step_control, 0, sizeof step_control);
    memset(clients, 0, sizeof clients);
    atomic_store(&step_control.step_us, 1500);
    CHECK_OK(expiry_open(&expiry, &err), err);
    for (int m = 0; m < MODELS; m++) {
        struct scheduler_options o = { .max_batch_rows = 2, .dynamic_batching = true, .instances = 1, .threads = 1, .first_cpu = -1, .limiter = l, .claims = &claim, .claim_count = claims };
        CHECK_OK(step_engine.open(&engines[m], NULL, NULL, &err), err);
        CHECK_OK(scheduler_open(&schedulers[m], &step_engine, engines[m], &o, expiry, &err), err);
    }
    for (int k = 0; k < REQUESTS; k++)
        for (int m = 0; m < MODELS; m++) {
            struct client *c = &clients[m][k];
            request_init(&c->request, 1 << 20);
            c->work[0] = 1 + k % 3, c->work[1] = 1;
            c->request.inputs = arena_calloc(&c->request.arena, 1, sizeof *c->request.inputs);
            c->request.input_count = 1;
            c->request.inputs[0] = (struct request_tensor){ "work", { DT_I64, 2, { 1, 2 }, c->work, 16 } };
            c->request.event = client_event;
            c->request.event_context = c;
            c->request.release = client_release;
            CHECK_OK(scheduler_submit(schedulers[m], &c->request, &err), err);
        }
    for (int m = 0; m < MODELS; m++) {
        scheduler_close(schedulers[m]);      /* finishes what was accepted */
        step_engine.close(engines[m]);
        for (int k = 0; k < REQUESTS; k++) {
            CHECK_INT(atomic_load(&clients[m][k].over), 1);
            CHECK_INT(clients[m][k].request.error.status, ST_OK);
            request_drop(&clients[m][k].request);
        }
    }
    expiry_close(expiry);
    return atomic_load(&step_control.running_peak);
}

TEST(models_that_share_a_resource_never_run_at_once)
{
    struct rate_limiter *l = rate_limiter_open();
    CHECK_INT(steps_at_once(l, true), 1);
    CHECK_INT(steps_at_once(l, false), 2);      /* and without claims they do */
    rate_limiter_close(l);
}

