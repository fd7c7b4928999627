/* The only place that knows OpenMP. libgomp's barriers are its own and unknown to ThreadSanitizer, so a sanitizer build is told of the two hand-overs: from
 * the caller to the parts, and back. */
#include "kernels/kernels.h"

#include <omp.h>
#include <sched.h>
#include <stdatomic.h>

#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define HAND_OVER(address) __tsan_release(address)
#define TAKE_OVER(address) __tsan_acquire(address)
#else
#define HAND_OVER(address) ((void)0)
#define TAKE_OVER(address) ((void)0)
#endif

struct team { int parts; void (*body)(void *ctx, int part, int parts); void *ctx; char given, done; };

/* Not instrumented itself: the compiler's own hand-over of the team's variables lies before TAKE_OVER. The bodies are. */
__attribute__((no_sanitize("thread")))
void parallel_for(int threads, int parts, void (*body)(void *ctx, int part, int parts), void *ctx)
{
    if (threads <= 1 || parts <= 1) {
        for (int part = 0; part < parts; part++) body(ctx, part, parts);
        return;
    }
    struct team team = { .parts = parts, .body = body, .ctx = ctx }, *const t = &team;
    HAND_OVER(&t->given);
#pragma omp parallel for num_threads(threads) schedule(static, 1) firstprivate(t)
    for (int part = 0; part < parts; part++) {
        TAKE_OVER(&t->given);
        t->body(t->ctx, part, t->parts);
        HAND_OVER(&t->done);
    }
    TAKE_OVER(&t->done);
}

__attribute__((no_sanitize("thread")))
void parallel_team(int threads, void (*body)(void *ctx, int part, int parts), void *ctx)
{
    if (threads <= 1) {
        body(ctx, 0, 1);
        return;
    }
    struct team team = { .body = body, .ctx = ctx }, *const t = &team;
    HAND_OVER(&t->given);
#pragma omp parallel num_threads(threads) firstprivate(t)
    {
        TAKE_OVER(&t->given);
        t->body(t->ctx, omp_get_thread_num(), omp_get_num_threads());
        HAND_OVER(&t->done);
    }
    TAKE_OVER(&t->done);
}

/* A wait is short as long as every part has a core; where one has none, the others make room. */
void team_meet(struct team_gate *gate, int parts)
{
    enum { SPINS = 4000 };
    if (parts < 2) return;
    const int32_t round = atomic_load_explicit(&gate->round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&gate->here, 1, memory_order_acq_rel) == parts - 1) {
        atomic_store_explicit(&gate->here, 0, memory_order_relaxed);
        atomic_store_explicit(&gate->round, round + 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&gate->round, memory_order_acquire) == round; i++)
        if (i < SPINS) __builtin_ia32_pause();
        else (void)sched_yield();
}

void parallel_dismiss(void) { (void)omp_pause_resource_all(omp_pause_soft); }

void parallel_set_threads(int threads)
{
    if (threads < 1) threads = 1;
    if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
}
