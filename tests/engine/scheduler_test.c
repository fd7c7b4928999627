/* threaded: clients, workers and the expiry thread */
#include "engine/scheduler.h"

#include "base/clock.h"
#include "tests/engine/step_engine.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* A request with somebody waiting for it. */
struct ticket {
    struct request  request;
    pthread_mutex_t lock;
    pthread_cond_t  told;
    int             over, partials;
    int             order;             /* which answer it was */
    int64_t         work[64];
    atomic_int      gone;              /* the last reference was dropped */
};

static atomic_int answers, released;

static void ticket_event(struct request *r, enum request_event e)
{
    struct ticket *t = r->event_context;
    pthread_mutex_lock(&t->lock);
    if (e == EVENT_PARTIAL) {
        t->partials++;
    } else {
        t->over++;
        t->order = atomic_fetch_add(&answers, 1);
    }
    pthread_cond_signal(&t->told);
    pthread_mutex_unlock(&t->lock);
}

static void ticket_release(struct request *r)
{
    arena_free(&r->arena);
    atomic_fetch_add(&released, 1);
    atomic_store(&((struct ticket *)r->event_context)->gone, 1);
}

static struct ticket *ticket_new(int64_t rows, int64_t steps, int64_t value)
{
    struct ticket *t = calloc(1, sizeof *t);
    request_init(&t->request, 1 << 20);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->told, NULL);
    for (int64_t i = 0; i < rows; i++) t->work[i * 2] = steps, t->work[i * 2 + 1] = value + i;
    t->request.inputs = arena_calloc(&t->request.arena, 1, sizeof *t->request.inputs);
    t->request.input_count = 1;
    t->request.inputs[0] = (struct request_tensor){ "work", { DT_I64, 2, { rows, 2 }, t->work, (uint64_t)rows * 16 } };
    t->request.event = ticket_event;
    t->request.event_context = t;
    t->request.release = ticket_release;
    return t;
}

static void ticket_wait(struct ticket *t)
{
    pthread_mutex_lock(&t->lock);
    while (!t->over) pthread_cond_wait(&t->told, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

/* Drops the client's reference; the scheduler may still hold its own for a moment. */
static void ticket_drop(struct ticket *t)
{
    CHECK_INT(t->over, 1);
    request_drop(&t->request);
}

struct bench { struct expiry *expiry; struct engine *engine; struct scheduler *scheduler; };

static bool bench_open(struct bench *b, struct scheduler_options o)
{
    struct err err = { 0 };
    memset(&step_control, 0, sizeof step_control);
    atomic_store(&answers, 0), atomic_store(&released, 0);
    o.first_cpu = -1;
    if (!o.threads) o.threads = 1;
    if (!o.instances) o.instances = 1;
    CHECK_OK(expiry_open(&b->expiry, &err), err);
    CHECK_OK(step_engine.open(&b->engine, NULL, NULL, &err), err);
    CHECK_OK(scheduler_open(&b->scheduler, &step_engine, b->engine, &o, b->expiry, &err), err);
    return !err.status;
}

static void bench_close(struct bench *b)
{
    scheduler_close(b->scheduler);
    CHECK_INT(atomic_load(&step_control.slots_open), 0);
    CHECK_INT(atomic_load(&step_control.instances), 0);
    step_engine.close(b->engine);
    expiry_close(b->expiry);
}

static enum status submit(struct bench *b, struct ticket *t, struct err *err) { return scheduler_submit(b->scheduler, &t->request, err); }

static int64_t sum_of(const struct ticket *t, int row) { return ((const int64_t *)t->request.outputs[0].tensor.data)[row]; }

TEST(one_request_steps_until_done)
{
    struct bench b;
    struct err err;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 4, .dynamic_batching = true }));
    struct ticket *t = ticket_new(2, 5, 10);
    REQUIRE_OK(submit(&b, t, &err), err);
    ticket_wait(t);
    CHECK_INT(t->request.error.status, ST_OK);
    CHECK_INT(sum_of(t, 0), 50);
    CHECK_INT(sum_of(t, 1), 55);
    CHECK_INT(t->partials, 5);
    CHECK_INT(atomic_load(&step_control.steps), 5);
    ticket_drop(t);
    bench_close(&b);
    CHECK_INT(atomic_load(&released), 1);
    free(t);
}

TEST(requests_join_and_leave_at_step_boundaries)
{
    struct bench b;
    struct err err;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 8, .dynamic_batching = true }));
    atomic_store(&step_control.step_us, 5000);
    struct ticket *slow = ticket_new(1, 60, 1), *quick = ticket_new(1, 3, 7);
    REQUIRE_OK(submit(&b, slow, &err), err);
    usleep(30000);
    REQUIRE_OK(submit(&b, quick, &err), err);
    ticket_wait(quick);
    CHECK(quick->order == 0);                 /* it came later and left earlier */
    CHECK_INT(sum_of(quick, 0), 21);
    ticket_wait(slow);
    CHECK_INT(sum_of(slow, 0), 60);
    CHECK_INT(atomic_load(&step_control.steps), 60);      /* it rode along: no step of its own */
    CHECK_INT(atomic_load(&step_control.riders_peak), 2);
    ticket_drop(slow), ticket_drop(quick);
    bench_close(&b);
    free(slow), free(quick);
}

TEST(waiting_requests_ride_together)
{
    struct bench b;
    struct err err;
    enum { N = 17 };
    struct ticket *t[N];
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 8, .dynamic_batching = true }));
    atomic_store(&step_control.step_us, 20000);
    for (int i = 0; i < N; i++) {
        t[i] = ticket_new(1, 1, i);
        REQUIRE_OK(submit(&b, t[i], &err), err);
        if (i == 0) usleep(5000);      /* the first is taken alone; 16 wait behind it: two full batches */
    }
    for (int i = 0; i < N; i++) {
        ticket_wait(t[i]);
        CHECK_INT(sum_of(t[i], 0), i);
    }
    CHECK_INT(atomic_load(&step_control.steps), 3);
    CHECK_INT(atomic_load(&step_control.riders_peak), 8);
    struct stats *s = scheduler_stats(b.scheduler);
    CHECK_INT(atomic_load(&s->inference_count), N);
    CHECK_INT(atomic_load(&s->execution_count), 3);
    CHECK_INT(atomic_load(&s->success.count), N);
    CHECK_INT(atomic_load(&s->pending), 0);
    for (int i = 0; i < N; i++) ticket_drop(t[i]);
    bench_close(&b);
    for (int i = 0; i < N; i++) free(t[i]);
}

static void count_told(void *counter) { atomic_fetch_add((atomic_int *)counter, 1); }

TEST(a_transport_is_told_once_for_each_step)
{
    struct bench b;
    struct err err;
    enum { N = 9 };
    struct ticket *t[N];
    atomic_int told = 0;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 8, .dynamic_batching = true }));
    atomic_store(&step_control.step_us, 20000);
    for (int i = 0; i < N; i++) {
        t[i] = ticket_new(1, 1, i);
        t[i]->request.told = count_told;
        t[i]->request.told_context = &told;
        REQUIRE_OK(submit(&b, t[i], &err), err);
        if (i == 0) usleep(5000);      /* taken alone; 8 wait behind it */
    }
    scheduler_cancel(b.scheduler, &t[1]->request);      /* ends on this thread, while it waits */
    CHECK_INT(atomic_load(&told), 1);
    for (int i = 0; i < N; i++) ticket_wait(t[i]);
    scheduler_close(b.scheduler);      /* the last step was handed out to its end */
    CHECK_INT(atomic_load(&told), 3);
    for (int i = 0; i < N; i++) ticket_drop(t[i]);
    REQUIRE_OK(scheduler_open(&b.scheduler, &step_engine, b.engine, &(struct scheduler_options){ .instances = 1, .threads = 1, .first_cpu = -1 }, b.expiry, &err), err);
    bench_close(&b);
    for (int i = 0; i < N; i++) free(t[i]);
}

TEST(queue_delay_gathers_and_a_preferred_size_goes_at_once)
{
    struct bench b;
    struct err err;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 8, .dynamic_batching = true, .max_queue_delay_us = 300000, .preferred = { 4 }, .preferred_count = 1 }));
    struct ticket *t[5];
    uint64_t start = clock_ns();
    for (int i = 0; i < 4; i++) {
        t[i] = ticket_new(1, 1, i);
        REQUIRE_OK(submit(&b, t[i], &err), err);
    }
    for (int i = 0; i < 4; i++) ticket_wait(t[i]);
    CHECK(clock_ns() - start < 200000000u);
    CHECK_INT(atomic_load(&step_control.riders_peak), 4);
    start = clock_ns();
    t[4] = ticket_new(1, 1, 4);
    REQUIRE_OK(submit(&b, t[4], &err), err);
    ticket_wait(t[4]);
    uint64_t took = clock_ns() - start;
    CHECK(took > 290000000u && took < 600000000u);
    for (int i = 0; i < 5; i++) ticket_drop(t[i]);
    bench_close(&b);
    for (int i = 0; i < 5; i++) free(t[i]);
}

TEST(requests_of_another_shape_do_not_ride_along)
{
    struct bench b;
    struct err err;
    enum { N = 40 };
    struct ticket *t[N];
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 16, .dynamic_batching = true, .priority_levels = 10, .default_priority = 5 }));
    atomic_store(&step_control.step_us, 1000);
    for (int i = 0; i < N; i++) {
        t[i] = ticket_new(1, 3, i);
        t[i]->request.priority = i % 3 ? 6 : 7;      /* 7 gets a ride_key of its own */
        REQUIRE_OK(submit(&b, t[i], &err), err);
    }
    for (int i = 0; i < N; i++) {
        ticket_wait(t[i]);
        CHECK_INT(sum_of(t[i], 0), i * 3);
        ticket_drop(t[i]);
    }
    CHECK_INT(atomic_load(&step_control.mixed_keys), 0);
    bench_close(&b);
    for (int i = 0; i < N; i++) free(t[i]);
}

TEST(priority_goes_first)
{
    struct bench b;
    struct err err;
    struct ticket *t[6];
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 1, .priority_levels = 3, .default_priority = 2 }));
    atomic_store(&step_control.step_us, 20000);
    for (int i = 0; i < 6; i++) {
        t[i] = ticket_new(1, 1, i);
        t[i]->request.priority = (uint32_t[]){ 0, 3, 3, 0, 1, 1 }[i];
        REQUIRE_OK(submit(&b, t[i], &err), err);
        if (i == 0) usleep(5000);
    }
    for (int i = 0; i < 6; i++) ticket_wait(t[i]);
    for (int i = 0; i < 6; i++) {
        CHECK_INT(t[i]->order, ((int[]){ 0, 4, 5, 3, 1, 2 }[i]));
        ticket_drop(t[i]);
    }
    bench_close(&b);
    for (int i = 0; i < 6; i++) free(t[i]);
}

TEST(order_is_preserved_over_two_instances)
{
    struct bench b;
    struct err err;
    enum { N = 60 };
    struct ticket *t[N];
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 2, .dynamic_batching = true, .preserve_ordering = true, .instances = 2 }));
    atomic_store(&step_control.step_us, 300);
    for (int i = 0; i < N; i++) {
        t[i] = ticket_new(1, 1 + (i * 7) % 5, i);
        REQUIRE_OK(submit(&b, t[i], &err), err);
    }
    for (int i = 0; i < N; i++) {
        ticket_wait(t[i]);
        CHECK_INT(t[i]->order, i);
        ticket_drop(t[i]);
    }
    bench_close(&b);
    CHECK_INT(atomic_load(&released), N);
    for (int i = 0; i < N; i++) free(t[i]);
}

TEST(queue_limit_refuses_and_timeouts_reject_or_delay)
{
    struct bench b;
    struct err err;
    struct ticket *t[4];
    struct scheduler_options o = { .max_batch_rows = 1, .policy = { .max_queue_size = 2, .allow_timeout_override = true } };
    REQUIRE(bench_open(&b, o));
    atomic_store(&step_control.step_us, 300000);
    for (int i = 0; i < 3; i++) {
        t[i] = ticket_new(1, 1, i);
        if (i == 2) t[i]->request.queue_timeout_us = 10000;
        REQUIRE_OK(submit(&b, t[i], &err), err);
        if (i == 0) usleep(5000);
    }
    t[3] = ticket_new(1, 1, 3);
    CHECK_INT(submit(&b, t[3], &err), ST_UNAVAILABLE);
    CHECK_TEXT(err.text, "Exceeds maximum queue size");
    uint64_t start = clock_ns();
    ticket_wait(t[2]);
    CHECK(clock_ns() - start < 200000000u);      /* at once, not after the step */
    CHECK_INT(t[2]->request.error.status, ST_EXPIRED);
    for (int i = 0; i < 2; i++) {
        ticket_wait(t[i]);
        CHECK_INT(t[i]->request.error.status, ST_OK);
    }
    for (int i = 0; i < 3; i++) ticket_drop(t[i]);
    request_drop(&t[3]->request);
    bench_close(&b);
    for (int i = 0; i < 4; i++) free(t[i]);

    o.policy = (struct queue_policy){ .delay = true, .allow_timeout_override = true };
    REQUIRE(bench_open(&b, o));
    atomic_store(&step_control.step_us, 300000);
    for (int i = 0; i < 3; i++) {
        t[i] = ticket_new(1, 1, i);
        if (i == 1) t[i]->request.queue_timeout_us = 10000;
        REQUIRE_OK(submit(&b, t[i], &err), err);
        usleep(i == 2 ? 0 : i == 1 ? 100000 : 5000);      /* 1 passes its timeout before 2 comes: 2 overtakes it */
    }
    for (int i = 0; i < 3; i++) {
        ticket_wait(t[i]);
        CHECK_INT(t[i]->request.error.status, ST_OK);
    }
    CHECK(t[2]->order < t[1]->order);
    for (int i = 0; i < 3; i++) ticket_drop(t[i]);
    bench_close(&b);
    for (int i = 0; i < 3; i++) free(t[i]);
}

TEST(a_deadline_is_answered_when_it_passes_and_refused_when_hopeless)
{
    struct bench b;
    struct err err;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 1 }));
    atomic_store(&step_control.step_us, 300000);
    struct ticket *t = ticket_new(1, 40, 1);
    t->request.deadline_ns = clock_ns() + 30000000u;
    uint64_t start = clock_ns();
    REQUIRE_OK(submit(&b, t, &err), err);
    ticket_wait(t);
    uint64_t took = clock_ns() - start;
    CHECK(took >= 30000000u && took < 200000000u);      /* in the middle of a step */
    CHECK_INT(t->request.error.status, ST_EXPIRED);
    ticket_drop(t);
    /* the average step is known now: two steps of work before a deadline of one step cannot be met */
    struct ticket *a = ticket_new(1, 2, 1), *hopeless = ticket_new(1, 1, 1);
    REQUIRE_OK(submit(&b, a, &err), err);
    ticket_wait(a);
    ticket_drop(a);
    hopeless->request.deadline_ns = clock_ns() + 5000000u;
    CHECK_INT(submit(&b, hopeless, &err), ST_UNAVAILABLE);
    CHECK(strstr(err.text, "forecast") != NULL);
    request_drop(&hopeless->request);
    bench_close(&b);
    CHECK_INT(atomic_load(&released), 3);
    free(t), free(a), free(hopeless);
}

TEST(cancel_ends_waiting_at_once_and_riding_at_the_boundary)
{
    struct bench b;
    struct err err;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 1 }));
    atomic_store(&step_control.step_us, 300000);
    struct ticket *riding = ticket_new(1, 100000, 1), *waiting = ticket_new(1, 1, 1);
    REQUIRE_OK(submit(&b, riding, &err), err);
    usleep(5000);
    REQUIRE_OK(submit(&b, waiting, &err), err);
    scheduler_cancel(b.scheduler, &waiting->request);
    CHECK_INT(waiting->over, 1);
    CHECK_INT(waiting->request.error.status, ST_CANCELLED);
    uint64_t start = clock_ns();
    scheduler_cancel(b.scheduler, &riding->request);
    ticket_wait(riding);
    CHECK(clock_ns() - start < 200000000u);      /* the stop flag ended the step early */
    CHECK_INT(riding->request.error.status, ST_CANCELLED);
    scheduler_cancel(b.scheduler, &riding->request);      /* harmless */
    ticket_drop(riding), ticket_drop(waiting);
    bench_close(&b);
    free(riding), free(waiting);
}

TEST(failures_stay_with_their_request)
{
    struct bench b;
    struct err err;
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 4, .dynamic_batching = true }));
    atomic_store(&step_control.room, 2);
    atomic_store(&step_control.preempt_once, 1);
    struct ticket *t[6];
    for (int i = 0; i < 6; i++) {
        t[i] = ticket_new(1, 4, i == 3 ? -5 : i);
        REQUIRE_OK(submit(&b, t[i], &err), err);
    }
    for (int i = 0; i < 6; i++) {
        ticket_wait(t[i]);
        CHECK_INT(t[i]->request.error.status, i == 3 ? ST_INTERNAL : ST_OK);
        if (i != 3) CHECK_INT(sum_of(t[i], 0), i * 4);
        ticket_drop(t[i]);
    }
    CHECK(atomic_load(&step_control.slots_peak) <= 2);
    struct ticket *bad = ticket_new(1, 2000000, 1), *wide = ticket_new(5, 1, 1);
    CHECK_INT(submit(&b, bad, &err), ST_BAD_INPUT);
    CHECK_INT(submit(&b, wide, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "inference request batch-size must be <= 4");
    request_drop(&bad->request), request_drop(&wide->request);
    bench_close(&b);
    for (int i = 0; i < 6; i++) free(t[i]);
    free(bad), free(wide);
}

TEST(an_instance_that_does_not_start_fails_the_opening)
{
    struct err err;
    struct expiry *expiry;
    struct engine *engine;
    struct scheduler *s = NULL;
    memset(&step_control, 0, sizeof step_control);
    atomic_store(&step_control.fail_start, true);
    REQUIRE_OK(expiry_open(&expiry, &err), err);
    REQUIRE_OK(step_engine.open(&engine, NULL, NULL, &err), err);
    CHECK_INT(scheduler_open(&s, &step_engine, engine, &(struct scheduler_options){ .instances = 2, .max_batch_rows = 1, .first_cpu = -1, .threads = 1 }, expiry, &err), ST_NO_MEMORY);
    CHECK_TEXT(err.text, "this instance was told to fail");
    CHECK(s == NULL);
    step_engine.close(engine);
    expiry_close(expiry);
}

struct client { struct bench *b; unsigned seed; int asked, done, cancelled, expired, refused; };

static void *client_run(void *p)
{
    struct client *c = p;
    struct err err;
    for (int i = 0; i < 300; i++) {
        struct ticket *t = ticket_new(1 + (int64_t)(rand_r(&c->seed) % 3), 1 + (int64_t)(rand_r(&c->seed) % 6), i);
        if (rand_r(&c->seed) % 4 == 0) t->request.deadline_ns = clock_ns() + (uint64_t)(rand_r(&c->seed) % 2000000);
        if (rand_r(&c->seed) % 4 == 0) t->request.priority = 7;
        c->asked++;
        if (submit(c->b, t, &err)) {
            c->refused++;
            request_drop(&t->request);
            free(t);
            continue;
        }
        if (rand_r(&c->seed) % 3 == 0) usleep(rand_r(&c->seed) % 500), scheduler_cancel(c->b->scheduler, &t->request);
        ticket_wait(t);
        switch (t->request.error.status) {
        case ST_OK: c->done += sum_of(t, 0) == t->work[0] * t->work[1]; break;
        case ST_CANCELLED: c->cancelled++; break;
        case ST_EXPIRED: c->expired++; break;
        default: test_fail(__FILE__, __LINE__, "%s", t->request.error.text);
        }
        CHECK_INT(t->over, 1);
        request_drop(&t->request);
        /* the scheduler's reference may be the last: wait for its release before the memory of the ticket goes */
        while (!atomic_load(&t->gone)) usleep(10);
        free(t);
    }
    return NULL;
}

TEST(storm_of_clients_that_cancel_and_expire_loses_nothing)
{
    struct bench b;
    enum { CLIENTS = 8 };
    struct client clients[CLIENTS];
    pthread_t threads[CLIENTS];
    REQUIRE(bench_open(&b, (struct scheduler_options){ .max_batch_rows = 6, .dynamic_batching = true, .instances = 2, .priority_levels = 8, .default_priority = 4, .max_queue_delay_us = 200 }));
    atomic_store(&step_control.step_us, 50);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){ .b = &b, .seed = (unsigned)i + 1 };
        pthread_create(&threads[i], NULL, client_run, &clients[i]);
    }
    int asked = 0, ended = 0, done = 0;
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(threads[i], NULL);
        struct client *c = &clients[i];
        asked += c->asked, done += c->done, ended += c->done + c->cancelled + c->expired + c->refused;
    }
    CHECK_INT(ended, asked);
    CHECK(done > asked / 4);
    CHECK_INT(atomic_load(&released), asked);
    bench_close(&b);
}
