/* inferd bench on a model of pictures: seconds for the texts, for each call of the network, for the autoencoder; the most memory that was held. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/threads.h"
#include "engine/diffusion/diffusion_internal.h"
#include "server/command_draw.h"

enum { CALLS_MAX = 4 * IMAGE_STEPS_MAX, TRACE_STEPS = 20000 };

struct watch { uint64_t times[CALLS_MAX]; int count; };

static void look(void *ctx, int picture, int step, const float *latents, int64_t count)
{
    struct watch *w = ctx;
    (void)step;
    (void)latents;
    (void)count;
    if (picture == 0 && w->count < CALLS_MAX) w->times[w->count++] = clock_ns();
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The time of one kind of operator in the latest run of a graph's plans. */
static void print_trace(const struct command_model *m, enum diffusion_graph g, const char *title)
{
    static struct plan_step_info info[TRACE_STEPS];
    struct { const char *name; double ms; int count; } kinds[64];
    const struct plan_cache *c = &m->instance->plans[g];
    int kind_count = 0;
    const struct plan_entry *latest = NULL;
    for (int p = 0; p < PLANS; p++)
        if (c->entries[p].plan && (!latest || c->entries[p].used > latest->used)) latest = &c->entries[p];
    if (!latest) return;
    const int n = plan_steps(latest->plan, info, TRACE_STEPS);
    for (int k = 0; k < n && k < TRACE_STEPS; k++) {
        int at = 0;
        while (at < kind_count && strcmp(kinds[at].name, info[k].node->op->name)) at++;
        if (at == 64) continue;
        if (at == kind_count) {
            kinds[kind_count].name = info[k].node->op->name;
            kinds[kind_count].ms = kinds[kind_count].count = 0;
            kind_count++;
        }
        kinds[at].ms += (double)info[k].ns / 1e6;
        kinds[at].count++;
    }
    printf("%s\n", title);
    for (int k = 0; k < kind_count; k++) printf("  %-12s %5d calls %10.2f ms\n", kinds[k].name, kinds[k].count, kinds[k].ms);
}

static void time_plans(struct command_model *m)
{
    for (int g = 0; g < GRAPH_COUNT; g++)
        for (int p = 0; p < PLANS; p++)
            if (m->instance->plans[g].entries[p].plan) plan_time(m->instance->plans[g].entries[p].plan, true);
}

static enum status run_once(struct command_model *m, const struct draw_bench *b, int steps, struct watch *w, struct image_job *j, struct err *err)
{
    static const char prompt[] = "a photograph of an astronaut riding a horse";
    enum status st = image_job_open(j, m->ops->image->model(m->engine)->takes_text ? prompt : "", m->ops->image->model(m->engine)->takes_text ? sizeof prompt - 1 : 0, b->pictures, err);
    if (st) return st;
    j->width = b->width;
    j->height = b->height;
    j->steps = steps;
    j->guidance = (float)b->guidance;
    j->seeded = true;
    j->label = m->ops->image->model(m->engine)->labels ? 0 : -1;
    j->watch = look;
    j->watch_context = w;
    w->count = 0;
    return command_image_run(m, j, NULL, NULL, err);
}

enum status bench_draw(const char *model, const struct engine_options *o, const struct draw_bench *b, struct err *err)
{
    static struct watch w;
    static double calls[CALLS_MAX];
    struct command_model m;
    struct image_job warm = { 0 }, j = { 0 };
    threads_pin(0, o->threads);
    enum status st = command_model_open(&m, model, o, err);
    if (st) return st;
    st = run_once(&m, b, b->steps > 2 ? 2 : b->steps, &w, &warm, err);      /* plans are made, weights are in memory */
    if (!st) {
        if (b->trace) time_plans(&m);
        const uint64_t start = clock_ns();
        st = run_once(&m, b, b->steps, &w, &j, err);
        const double whole = (double)(clock_ns() - start) / 1e9;
        if (!st) {
            int n = 0;
            for (int k = 1; k < w.count; k++) calls[n++] = (double)(w.times[k] - w.times[k - 1]) / 1e9;
            char where[64];
            if (!n) calls[n++] = (double)j.denoise_ns / 1e9;
            qsort(calls, (size_t)n, sizeof *calls, compare);
            const double text = (double)j.text_ns / 1e9, vae = (double)j.decode_ns / 1e9 / j.pictures, rss = command_resident_mb("VmHWM:"), load = (double)m.load_ns / 1e9;
            if (b->json)
                printf("{\"width\":%d,\"height\":%d,\"pictures\":%d,\"steps\":%d,\"guidance\":%g,\"sampler\":\"%s\",\"threads\":%d,\"precision\":\"%s\",\"text_s\":%.4f,\"step_s\":%.4f,\"step_min_s\":%.4f,\"vae_s\":%.4f,\"whole_s\":%.4f,\"load_s\":%.3f,\"peak_rss_mb\":%.1f}\n",
                       j.used.width, j.used.height, j.pictures, j.used.steps, (double)j.used.guidance, image_sampler_name(j.used.sampler), o->threads, o->precision == PRECISION_F32 ? "f32" : "auto", text, calls[n / 2], calls[0], vae, whole, load, rss);
            else
                printf("%s: %d picture(s) of %dx%d, %d steps of %s, guidance %g, %s: texts %.3f s, a step %.3f s (least %.3f), the autoencoder %.3f s, all %.3f s; loaded in %.2f s, peak %.0f MiB\n",
                       model, j.pictures, j.used.width, j.used.height, j.used.steps, image_sampler_name(j.used.sampler), (double)j.used.guidance, command_where(o, m.engine->graphs[GRAPH_DENOISER].device.kernels.level, where), text, calls[n / 2], calls[0], vae, whole, load, rss);
            if (b->trace && !b->json) {
                print_trace(&m, GRAPH_DENOISER, "the network");
                print_trace(&m, GRAPH_DECODER, "the autoencoder");
            }
        }
    }
    image_job_close(&warm);
    image_job_close(&j);
    command_model_close(&m);
    return st;
}
