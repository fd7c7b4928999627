/* Prompts to what the network takes of them: chunks of all waiting requests go through an encoder together, TEXT_ROWS_MAX at a time, but for those that the cache knows. A weight stretches its token's numbers, and the
 * mean of the whole chunk is brought back to what it was. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/diffusion/diffusion_internal.h"

/* One chunk on its way through an encoder. */
struct chunk { struct image_slot *slot; int row, index; };

static int columns_before(const struct engine *e, int encoder)
{
    int n = 0;
    for (int t = 0; t < encoder; t++) n += e->tokenizers[t] ? e->encoders[t].width : 0;
    return n;
}

static int pooled_before(const struct engine *e, int encoder)
{
    int n = 0;
    for (int t = 0; t < encoder; t++) n += e->tokenizers[t] ? e->encoders[t].pooled_width : 0;
    return n;
}

/* Rows of `stride` numbers, of which `width` are the text's. */
static void apply_weights(float *x, const float *weights, int tokens, int width, int64_t stride)
{
    double before = 0, after = 0;
    for (int t = 0; t < tokens; t++)
        for (int c = 0; c < width; c++) {
            float *y = x + t * stride + c;
            before += (double)*y;
            *y *= weights[t];
        }
    for (int t = 0; t < tokens; t++)
        for (int c = 0; c < width; c++) after += (double)x[t * stride + c];
    if (after == 0) return;
    for (int t = 0; t < tokens; t++)
        for (int c = 0; c < width; c++) x[t * stride + c] *= (float)(before / after);
}

/* What the encoder said of a chunk (states [length, width], pooled) goes where its slot keeps it. */
static void keep_chunk(const struct engine *e, int encoder, const struct chunk *c, const float *states, const float *pooled)
{
    const struct text_encoder *t = &e->encoders[encoder];
    struct conditions *texts = &c->slot->texts;
    const struct prompt *p = &texts->prompts[encoder][c->row];
    const int length = p->length, before = columns_before(e, encoder);
    const bool empty = c->row == 1 && e->model.zero_empty && !c->slot->job->negative_length && !c->slot->job->negative_2_length;
    const bool in_context = t->t5 || texts->clip_tokens > 0;
    const int64_t first = (int64_t)c->row * texts->tokens + (t->t5 ? texts->clip_tokens : c->index * length), stride = e->denoiser.context_width;
    if (in_context) {
        float *y = texts->context + first * stride + (t->t5 ? 0 : before);
        for (int k = 0; k < length; k++) {
            if (empty) memset(y + k * stride, 0, (size_t)t->width * sizeof *y);
            else memcpy(y + k * stride, states + (int64_t)k * t->width, (size_t)t->width * sizeof *y);
        }
        if (p->weighted && !empty) apply_weights(y, p->weights + c->index * length, length, t->width, stride);
    }
    const bool joined = e->model.family->flags & FAMILY_JOINED;
    if (!texts->pooled || c->index || t->t5 || (!joined && t->pooled_width != e->denoiser.pooled_width)) return;
    float *y = texts->pooled + (int64_t)c->row * e->denoiser.pooled_width + (joined ? pooled_before(e, encoder) : 0);
    if (empty) memset(y, 0, (size_t)t->pooled_width * sizeof *y);
    else memcpy(y, pooled, (size_t)t->pooled_width * sizeof *y);
}

static const int32_t *ids_of(const struct chunk *c, int encoder, int *length, int *end)
{
    const struct prompt *p = &c->slot->texts.prompts[encoder][c->row];
    *length = p->length;
    *end = p->ends[c->index];
    return p->ids + c->index * p->length;
}

/* True: the cache knew it. */
static bool recall_chunk(struct engine_instance *i, int encoder, const struct chunk *c)
{
    int length, end;
    const int32_t *ids = ids_of(c, encoder, &length, &end);
    const struct text_entry *known = text_cache_find(&i->texts, encoder, ids, length, end);
    if (known) keep_chunk(i->engine, encoder, c, known->states, known->pooled);
    return known != NULL;
}

static void take_chunk(struct engine_instance *i, int encoder, const struct chunk *c, const float *states, const float *pooled)
{
    const struct text_encoder *t = &i->engine->encoders[encoder];
    int length, end;
    const int32_t *ids = ids_of(c, encoder, &length, &end);
    text_cache_add(&i->texts, encoder, ids, length, end, states, t->width, pooled, t->pooled_width);
    keep_chunk(i->engine, encoder, c, states, pooled);
}

static enum status encode_chunks(struct engine_instance *i, int encoder, const struct chunk *chunks, int n, const atomic_bool *stop, struct err *err)
{
    const struct engine *e = i->engine;
    const int length = e->encoders[encoder].positions;
    const bool before = e->model.family->flags & FAMILY_BEFORE, t5 = e->encoders[encoder].t5;
    struct operand shapes[CLIP_INPUTS] = { { .dtype = DT_I32, .rank = 2, .dims = { n, length } }, { .dtype = DT_I32, .rank = 2, .dims = { n, length } }, { .dtype = DT_I32, .rank = 1, .dims = { n } } };
    struct plan *plan;
    enum status st = step_plan(i, GRAPH_TEXT + encoder, shapes, &plan, err);
    int32_t *numbers = st ? NULL : mem_alloc_aligned((((uint64_t)n * (uint64_t)length * 4 + 127) & ~(uint64_t)63) * 2 + (uint64_t)n * 4 + 64, TENSOR_ALIGN);
    if (!st && !numbers) st = err_set(err, ST_NO_MEMORY, "encoding %d texts", n);
    if (st) return st;
    const int64_t each = ((int64_t)n * length + 31) / 16 * 16;
    int32_t *positions = numbers + each, *ends = positions + each;
    for (int k = 0; k < n; k++) {
        const struct prompt *p = &chunks[k].slot->texts.prompts[encoder][chunks[k].row];
        memcpy(numbers + (int64_t)k * length, p->ids + chunks[k].index * length, (size_t)length * sizeof *numbers);
        for (int t = 0; t < length; t++) positions[k * length + t] = t;
        ends[k] = k * length + p->ends[chunks[k].index];
    }
    void *data[CLIP_INPUTS] = { numbers, positions, ends };
    st = plan_run(plan, data, &i->run, stop, err);
    const float *states = st ? NULL : plan_output(plan, before && !t5 ? CLIP_BEFORE : CLIP_LAST)->data, *pooled = st || t5 ? NULL : plan_output(plan, CLIP_POOLED)->data;
    for (int k = 0; k < n && !st; k++) take_chunk(i, encoder, &chunks[k], states + (int64_t)k * length * e->encoders[encoder].width, pooled ? pooled + (int64_t)k * e->encoders[encoder].pooled_width : NULL);
    arena_reset(&i->run);
    free(numbers);
    return st;
}

static enum status reserve(const struct engine *e, struct image_slot *s, struct err *err)
{
    struct conditions *t = &s->texts;
    if (!t->context) t->context = mem_calloc_array((uint64_t)t->rows * (uint64_t)t->tokens, (uint64_t)e->denoiser.context_width * sizeof *t->context);
    if (!t->pooled && e->denoiser.pooled_width) t->pooled = mem_calloc_array((uint64_t)t->rows, (uint64_t)e->denoiser.pooled_width * sizeof *t->pooled);
    return t->context && (t->pooled || !e->denoiser.pooled_width) ? ST_OK : err_set(err, ST_NO_MEMORY, "a text's numbers");
}

enum status text_encode(struct engine_instance *i, struct image_slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    const struct engine *e = i->engine;
    enum status st = ST_OK;
    for (int s = 0; s < n && !st && e->encoder_count; s++) st = reserve(e, slots[s], err);
    for (int t = 0; t < TEXT_ENCODERS_MAX && !st; t++) {
        struct chunk chunks[TEXT_ROWS_MAX];
        int count = 0;
        if (!e->tokenizers[t]) continue;
        for (int s = 0; s < n && !st; s++)
            for (int r = 0; r < slots[s]->texts.rows && !st; r++)
                for (int c = 0; c < slots[s]->texts.prompts[t][r].chunks && !st; c++) {
                    chunks[count] = (struct chunk){ slots[s], r, c };
                    if (recall_chunk(i, t, &chunks[count]) || ++count < TEXT_ROWS_MAX) continue;
                    st = encode_chunks(i, t, chunks, count, stop, err);
                    count = 0;
                }
        if (!st && count) st = encode_chunks(i, t, chunks, count, stop, err);
    }
    return st;
}
