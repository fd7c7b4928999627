/* The only place that knows OpenMP. libgomp's barriers are its own and unknown to ThreadSanitizer, so a sanitizer build is told of the two hand-overs: from
 * the caller to the parts, and back. */
#include "kernels/kernels.h"

#include <omp.h>

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

void parallel_dismiss(void) { (void)omp_pause_resource_all(omp_pause_soft); }

void parallel_set_threads(int threads)
{
    if (threads < 1) threads = 1;
    if (omp_get_max_threads() != threads) omp_set_num_threads(threads);
}
