/* One step of everything in flight: texts and given pictures of those that are new, one call of the network for those that are being drawn, a picture decoded for those that are
 * through. Rows of the call are pictures of any requests, twice where they are guided; in f32 none of them can tell who its neighbours are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/diffusion/diffusion_internal.h"

/* ---- plans ---- */
/* One workspace for all graphs: it is lent to the cache whose plan is asked for. */
enum status step_plan(struct engine_instance *i, enum diffusion_graph g, const struct operand *shapes, struct plan **out, struct err *err)
{
    struct plan_cache *c = &i->plans[g];
    const struct graph *graph;
    enum status st = engine_graph(i->engine, g, &graph, err);
    if (st) return st;
    if (c->gpu && !graph->gpu) {           /* the card was lost */
        const uint64_t budget = c->budget;
        plan_cache_close(c);
        *c = (struct plan_cache){ .budget = budget };
    }
    if (graph->gpu) return plan_cache_get(c, graph, shapes, out, err);      /* its workspace is pinned memory of its own */
    c->workspace = i->workspace;
    c->workspace_bytes = i->workspace_bytes;
    st = plan_cache_get(c, graph, shapes, out, err);
    i->workspace = c->workspace;
    i->workspace_bytes = c->workspace_bytes;
    c->workspace = NULL;
    c->workspace_bytes = 0;
    return st;
}

bool step_room(float **p, uint64_t *room, uint64_t floats)
{
    if (floats <= *room) return true;
    free(*p);
    *p = mem_alloc_aligned(floats * sizeof **p, TENSOR_ALIGN);
    *room = *p ? floats : 0;
    return *p != NULL;
}

void planes_to_pixels(float *y, const float *x, int64_t channels, int64_t pixels, int64_t stride, float scale)
{
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = 0; p < pixels; p++) y[p * stride + c] = x[c * pixels + p] * scale;
}

void pixels_to_planes(float *y, const float *x, int64_t channels, int64_t pixels, int64_t stride)
{
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = 0; p < pixels; p++) y[c * pixels + p] = x[p * stride + c];
}

/* ---- a call of the network ---- */
/* A row: picture of a slot, with the wanted texts (side 0) or the unwanted ones (1). */
struct row { struct image_slot *slot; int picture, side; };

/* SDXL: the size asked for, the crop's corner, the size again; its refiner has a score of beauty in place of the last two. */
static void put_sizes(const struct engine *e, const struct row *r, float *y)
{
    const float all[] = { (float)r->slot->height, (float)r->slot->width, 0, 0, (float)r->slot->height, (float)r->slot->width };
    const int n = e->denoiser.size_count;
    for (int k = 0; k < n; k++) y[k] = k < 6 ? all[k] : 0;
    if (n == 5) y[4] = r->side ? 2.5f : 6.0f;
}

static void put_row(struct engine_instance *i, const struct row *r, int at, int tokens)
{
    const struct engine *e = i->engine;
    const struct denoiser *d = &e->denoiser;
    const struct image_slot *s = r->slot;
    const struct picture *p = &s->pictures[r->picture];
    const struct conditions *t = &s->texts;
    const int64_t space = (int64_t)s->h * s->w;
    const int text = r->side < t->rows ? r->side : 0;
    float *sample = i->sample + (int64_t)at * space * d->in_channels;
    planes_to_pixels(sample, p->state.x, s->channels, space, d->in_channels, sampler_input_scale(&s->plan, s->call));
    if (p->masked) planes_to_pixels(sample + s->channels, p->masked, s->channels + 1, space, d->in_channels, 1);
    i->times[at] = s->plan.times[s->call];
    i->labels[at] = s->job->label;
    if (d->context_width) {
        float *y = i->context + (int64_t)at * tokens * d->context_width;
        const int64_t own = (int64_t)t->tokens * d->context_width;
        memcpy(y, t->context + text * own, (size_t)own * sizeof *y);
        memset(y + own, 0, (size_t)((int64_t)tokens * d->context_width - own) * sizeof *y);
        i->counts[at] = t->tokens;
    }
    if (d->pooled_width && t->pooled) memcpy(i->pooled + (int64_t)at * d->pooled_width, t->pooled + (int64_t)text * d->pooled_width, (size_t)d->pooled_width * sizeof *t->pooled);
    if (d->size_count) put_sizes(e, r, i->sizes + (int64_t)at * d->size_count);
    if (d->guide_width) memcpy(i->guides + (int64_t)at * d->guide_width, s->guide, (size_t)d->guide_width * sizeof *s->guide);
}

static enum status make_room(struct engine_instance *i, const struct image_slot *s, int rows, int tokens, struct err *err)
{
    const struct denoiser *d = &i->engine->denoiser;
    const uint64_t n = (uint64_t)rows, space = (uint64_t)s->h * (uint64_t)s->w;
    const bool ok = step_room(&i->sample, &i->sample_room, n * space * (uint64_t)d->in_channels) && step_room(&i->context, &i->context_room, n * (uint64_t)tokens * (uint64_t)d->context_width + 1) &&
                    step_room(&i->pooled, &i->pooled_room, n * (uint64_t)d->pooled_width + 1) && step_room(&i->sizes, &i->sizes_room, n * (uint64_t)d->size_count + 1) && step_room(&i->guides, &i->guides_room, n * (uint64_t)d->guide_width + 1);
    return ok ? ST_OK : err_set(err, ST_NO_MEMORY, "a step of %d rows", rows);
}

/* Flux: how far each pair of a head turns at each place; texts lie at the corner of three axes, patches by row and column. */
static bool fill_rotation(struct engine_instance *i, const struct image_slot *s, int tokens)
{
    const struct denoiser *d = &i->engine->denoiser;
    const int h = s->h / d->patch, w = s->w / d->patch, of[3] = { h, w, tokens }, half = d->head_dim / 2;
    if (i->rotation && !memcmp(i->rotation_of, of, sizeof of)) return true;
    if (!step_room(&i->rotation, &i->rotation_room, ((uint64_t)tokens + (uint64_t)h * (uint64_t)w) * (uint64_t)d->head_dim)) return false;
    for (int t = 0; t < tokens + h * w; t++) {
        const int place[3] = { 0, t < tokens ? 0 : (t - tokens) / w, t < tokens ? 0 : (t - tokens) % w };
        float *y = i->rotation + (int64_t)t * d->head_dim;
        for (int axis = 0, at = 0; axis < 3; axis++)
            for (int k = 0; k < d->axes[axis] / 2; k++, at++) {
                const double angle = place[axis] * pow(10000, -2.0 * k / d->axes[axis]);
                y[at] = (float)cos(angle);
                y[half + at] = (float)sin(angle);
            }
    }
    memcpy(i->rotation_of, of, sizeof of);
    return true;
}

/* Calls the network for these rows (all of one size); what it says of row k goes to said[k], as planes. */
static enum status call_network(struct engine_instance *i, const struct row *rows, int n, float *said, const atomic_bool *stop, struct err *err)
{
    const struct denoiser *d = &i->engine->denoiser;
    const struct image_slot *s = rows[0].slot;
    int tokens = 1;
    for (int k = 0; k < n; k++)
        if (rows[k].slot->texts.tokens > tokens) tokens = rows[k].slot->texts.tokens;
    enum status st = make_room(i, s, n, tokens, err);
    if (st) return st;
    for (int k = 0; k < n; k++) put_row(i, &rows[k], k, tokens);
    const struct { void *data; enum dtype t; int rank; int64_t dims[4]; } all[DENOISER_INPUTS] = {
        [DENOISER_SAMPLE] = { i->sample, DT_F32, 4, { n, s->h, s->w, d->in_channels } }, [DENOISER_TIME] = { i->times, DT_F32, 1, { n } }, [DENOISER_CONTEXT] = { i->context, DT_F32, 3, { n, tokens, d->context_width } },
        [DENOISER_COUNTS] = { i->counts, DT_I32, 1, { n } }, [DENOISER_POOLED] = { i->pooled, DT_F32, 2, { n, d->pooled_width } }, [DENOISER_SIZES] = { i->sizes, DT_F32, 2, { n, d->size_count } },
        [DENOISER_GUIDE] = { i->guides, DT_F32, 2, { n, d->guide_width } }, [DENOISER_LABEL] = { i->labels, DT_I32, 1, { n } },
    };
    struct operand shapes[DENOISER_INPUTS] = { { 0 } };
    void *data[DENOISER_INPUTS] = { NULL };
    for (int k = 0; k < DENOISER_INPUTS; k++) {
        if (d->at[k] < 0 || !all[k].rank) continue;
        shapes[d->at[k]] = (struct operand){ .dtype = all[k].t, .rank = all[k].rank };
        memcpy(shapes[d->at[k]].dims, all[k].dims, sizeof all[k].dims);
        data[d->at[k]] = all[k].data;
    }
    if (d->at[DENOISER_ROTATION] >= 0) {
        const int64_t places = tokens + (int64_t)(s->h / d->patch) * (s->w / d->patch);
        if (!fill_rotation(i, s, tokens)) return err_set(err, ST_NO_MEMORY, "a step");
        shapes[d->at[DENOISER_ROTATION]] = (struct operand){ .dtype = DT_F32, .rank = 2, .dims = { places, d->head_dim } };
        data[d->at[DENOISER_ROTATION]] = i->rotation;
    }
    struct plan *plan;
    st = step_plan(i, GRAPH_DENOISER, shapes, &plan, err);
    if (!st) st = plan_run(plan, data, &i->run, stop, err);
    arena_reset(&i->run);
    if (st) return st;
    const struct operand *out = plan_output(plan, 0);
    const int64_t space = (int64_t)s->h * s->w;
    for (int k = 0; k < n; k++) pixels_to_planes(said + k * s->count, (const float *)out->data + k * space * d->out_channels, s->channels, space, d->out_channels);
    return ST_OK;
}

/* ---- what a call leads to ---- */
/* Where nothing is drawn anew the picture stays what was given, with as much noise as the rest has. */
static void keep_given(const struct image_slot *s, struct picture *p)
{
    const int64_t space = (int64_t)s->h * s->w;
    float *known = p->state.fresh;
    sampler_add_noise(&s->plan, s->call + 1, known, p->given, p->first_noise, s->count);
    for (int64_t k = 0; k < s->count; k++) p->state.x[k] = (1 - s->mask[k % space]) * known[k] + s->mask[k % space] * p->state.x[k];
}

/* `said` of the wanted texts, and of the unwanted ones where the network was called twice. */
static void move_picture(struct image_slot *s, int picture, float *said, const float *unwanted)
{
    struct picture *p = &s->pictures[picture];
    for (int64_t k = 0; unwanted && k < s->count; k++) said[k] = unwanted[k] + s->guidance * (said[k] - unwanted[k]);
    sampler_step(&s->plan, &p->state, s->call, said);
    if (s->mask && !p->masked) keep_given(s, p);
    if (s->job->watch) s->job->watch(s->job->watch_context, picture, s->call, p->state.x, s->count);
}

/* Every picture of these slots once through the network, in as many calls as its rows need. */
static enum status draw(struct engine_instance *i, struct image_slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    struct row rows[CALL_ROWS_MAX];
    const int64_t space = (int64_t)slots[0]->h * slots[0]->w;
    int most = (int)(CALL_LATENTS_MAX / space), count = 0;
    most = most > CALL_ROWS_MAX ? CALL_ROWS_MAX : most < 2 ? 2 : most;
    if (!step_room(&i->said, &i->said_room, (uint64_t)most * (uint64_t)slots[0]->count)) return err_set(err, ST_NO_MEMORY, "a step");
    enum status st = ST_OK;
    for (int s = 0; s < n && !st; s++)
        for (int p = 0; p < slots[s]->job->pictures && !st; p++) {
            const int needs = slots[s]->twice ? 2 : 1;
            const bool last = s == n - 1 && p == slots[s]->job->pictures - 1;
            for (int side = 0; side < needs; side++) rows[count++] = (struct row){ slots[s], p, side };
            const struct image_slot *next = p + 1 < slots[s]->job->pictures ? slots[s] : last ? NULL : slots[s + 1];
            const bool alike = next && (!i->engine->denoiser.joint || next->texts.tokens == slots[s]->texts.tokens);
            if (count + 2 <= most && alike) continue;
            const uint64_t began = clock_ns();
            st = call_network(i, rows, count, i->said, stop, err);
            stats_observe(&i->engine->stats.call, clock_ns() - began);
            atomic_fetch_add_explicit(&i->engine->stats.rows, (uint64_t)count, memory_order_relaxed);
            for (int k = 0; k < count && !st; k++)
                if (!rows[k].side) move_picture(rows[k].slot, rows[k].picture, i->said + k * slots[0]->count, rows[k].slot->twice ? i->said + (k + 1) * slots[0]->count : NULL);
            count = 0;
        }
    return st;
}

/* ---- phases ---- */
static void enter(struct engine_instance *i, struct image_slot *s, enum image_phase phase)
{
    struct image_job *j = s->job;
    struct image_stats *t = &i->engine->stats;
    const uint64_t spent = clock_ns() - s->phase_ns;
    stats_observe(s->phase == IMAGE_READING ? &t->reading : s->phase == IMAGE_DENOISING ? &t->denoising : &t->decoding, spent);
    pthread_mutex_lock(&j->lock);
    *(s->phase == IMAGE_READING ? &j->text_ns : s->phase == IMAGE_DENOISING ? &j->denoise_ns : &j->decode_ns) += spent;
    j->phase = phase;
    pthread_mutex_unlock(&j->lock);
    s->phase = phase;
    s->phase_ns += spent;
}

static enum status read_slots(struct engine_instance *i, struct image_slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    enum status st = text_encode(i, slots, n, stop, err);
    for (int s = 0; s < n && !st; s++) {
        struct err own = { 0 };
        if (vae_begin(i, slots[s], stop, &own)) {
            if (own.status == ST_CANCELLED) {
                if (err) *err = own;
                return ST_CANCELLED;
            }
            slots[s]->base.error = own;
            slots[s]->base.state = SLOT_FAILED;
            continue;
        }
        enter(i, slots[s], IMAGE_DENOISING);
    }
    return st;
}

/* Is a partial picture due after so many calls? They lie evenly between the first call and the last. */
static bool partial_due(const struct image_slot *s)
{
    const int calls = s->plan.calls - s->plan.begin, done = s->call - s->plan.begin;
    return s->partials < s->job->partials && done < calls && done * (s->job->partials + 1) >= calls * (s->partials + 1);
}

static enum status make_partials(struct engine_instance *i, struct image_slot *s, const atomic_bool *stop, struct err *err)
{
    struct image_job *j = s->job;
    const uint64_t bytes = (uint64_t)s->width * (uint64_t)s->height * 3;
    uint8_t *pixels = mem_alloc_array(bytes, 1);
    if (!pixels) return err_set(err, ST_NO_MEMORY, "a partial picture");
    enum status st = ST_OK;
    for (int k = 0; k < j->pictures && !st; k++) {
        st = vae_decode(i, s, s->pictures[k].state.original, pixels, stop, err);
        if (st) break;
        pthread_mutex_lock(&j->lock);
        memcpy(j->answers[k].partial, pixels, bytes);
        j->answers[k].partial_count++;
        j->answers[k].partial_step = s->call / s->plan.order;
        pthread_mutex_unlock(&j->lock);
    }
    free(pixels);
    s->partials++;
    s->base.partial = true;
    return st;
}

static enum status draw_slots(struct engine_instance *i, struct image_slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    enum status st = draw(i, slots, n, stop, err);
    for (int s = 0; s < n && !st; s++) {
        struct image_job *j = slots[s]->job;
        slots[s]->call++;
        atomic_fetch_add_explicit(&i->engine->stats.steps, (uint64_t)j->pictures, memory_order_relaxed);
        pthread_mutex_lock(&j->lock);
        j->step = (slots[s]->call + slots[s]->plan.order - 1) / slots[s]->plan.order;
        if (j->step > slots[s]->plan.steps) j->step = slots[s]->plan.steps;
        pthread_mutex_unlock(&j->lock);
        slots[s]->base.partial = j->progress;
        if (partial_due(slots[s])) st = make_partials(i, slots[s], stop, err);
        if (slots[s]->call == slots[s]->plan.calls) enter(i, slots[s], IMAGE_DECODING);
    }
    return st;
}

static enum status decode_slots(struct engine_instance *i, struct image_slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    enum status st = ST_OK;
    for (int s = 0; s < n && !st; s++) {
        struct image_job *j = slots[s]->job;
        const int k = slots[s]->decoded;
        uint8_t *pixels = mem_alloc_array((uint64_t)slots[s]->width * (uint64_t)slots[s]->height, 3);
        if (!pixels) return err_set(err, ST_NO_MEMORY, "a picture");
        st = vae_decode(i, slots[s], slots[s]->pictures[k].state.x, pixels, stop, err);
        if (st) {
            free(pixels);
            return st;
        }
        pthread_mutex_lock(&j->lock);
        free(j->answers[k].pixels);
        j->answers[k].pixels = pixels;
        pthread_mutex_unlock(&j->lock);
        atomic_fetch_add_explicit(&i->engine->stats.pictures, 1, memory_order_relaxed);
        if (++slots[s]->decoded < j->pictures) continue;
        enter(i, slots[s], IMAGE_OVER);
        if (j == &slots[s]->own && request_write_tensors(slots[s]->base.request, j, &slots[s]->base.error)) {
            slots[s]->base.state = SLOT_FAILED;
            continue;
        }
        slots[s]->base.state = SLOT_DONE;
        slots[s]->base.request->times.infer_done = clock_ns();
    }
    return st;
}

enum status step_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    static const struct { enum image_phase phase; enum status (*body)(struct engine_instance *, struct image_slot *const *, int, const atomic_bool *, struct err *); } phases[] = { { IMAGE_DECODING, decode_slots }, { IMAGE_DENOISING, draw_slots }, { IMAGE_READING, read_slots } };
    struct image_slot **own = mem_alloc_array((uint64_t)n, sizeof(struct image_slot *));
    if (!own) return err_set(err, ST_NO_MEMORY, "a step");
    for (int k = 0; k < n; k++) {
        slots[k]->partial = false;
        slots[k]->state = SLOT_RUNNING;
        if (!slots[k]->request->times.input_done) slots[k]->request->times.input_done = clock_ns();
    }
    enum status st = ST_OK;
    /* last phase first, so that nobody passes through two in one step */
    for (size_t p = 0; p < sizeof phases / sizeof phases[0] && !st; p++) {
        int count = 0;
        for (int k = 0; k < n; k++)
            if (((struct image_slot *)slots[k])->phase == phases[p].phase && slots[k]->state == SLOT_RUNNING) own[count++] = (struct image_slot *)slots[k];
        if (count) st = phases[p].body(i, own, count, stop, err);
    }
    free(own);
    return st;
}
