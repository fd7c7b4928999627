/* What goes into a step: one token of every text that is being written, then pieces of prompts, oldest first, within one token budget. When pages run
 * out, the youngest text lets go of its own and is computed again later; the oldest always finds room, so everybody comes to an end. */
#include <string.h>

#include "base/clock.h"
#include "engine/llm/llm_internal.h"
#include "engine/operators/llm.h"

/* Shapes are rounded up, so that few plans serve all steps: exactly up to 16, then in growing strides. */
static int round_up(int n)
{
    int stride = n <= 16 ? 1 : n <= 64 ? 4 : n <= 512 ? 32 : 128;
    return (n + stride - 1) / stride * stride;
}

/* A younger text that holds pages and is not in the step yet; NULL: none. */
static struct sequence *youngest(struct slot *const *slots, int n, const struct sequence *than)
{
    struct sequence *found = NULL;
    for (int s = 0; s < n; s++) {
        struct llm_slot *slot = (struct llm_slot *)slots[s];
        for (int k = 0; k < slot->count; k++) {
            struct sequence *q = &slot->sequences[k];
            if (q->state == SEQUENCE_OVER || (q->page_count == 0 && q->source_count == 0) || q->taken || q->order <= than->order) continue;
            if (!found || q->order > found->order) found = q;
        }
    }
    return found;
}

static bool find_room(struct engine_instance *i, struct slot *const *slots, int n, struct sequence *q, int upto)
{
    while (!sequence_reserve(i, q, upto)) {
        struct sequence *victim = youngest(slots, n, q);
        if (!victim) return false;
        sequence_give_way(i, victim);
        atomic_fetch_add_explicit(&i->engine->stats.preemptions, 1, memory_order_relaxed);
    }
    return true;
}

/* What a text kept when it gave way goes back into pages. */
static bool bring_back(struct engine_instance *i, struct slot *const *slots, int n, struct sequence *q)
{
    if (sequence_return_begin(q) && find_room(i, slots, n, q, q->swapped_pages * PAGE_TOKENS)) {
        sequence_return(i, q);
        return true;
    }
    sequence_give_up(i, q);
    return false;
}

/* Which rows of results this piece of a text gives. */
static int results_of(const struct engine *e, const struct sequence *q, int upto)
{
    const struct text_job *j = q->slot->job;
    enum llm_pooling pooling = e->model.config.pooling;
    if (j->task == TEXT_EMBED && (pooling == POOL_NONE || pooling == POOL_LAST)) return upto == q->count;
    if (j->task == TEXT_GENERATE && !(j->echo && j->logprobs >= 0 && !q->generating)) return upto == q->count;
    return q->taken;
}

static void put(struct engine_instance *i, struct sequence *q, int take)
{
    const struct engine *e = i->engine;
    int32_t lengthened = e->model.config.scaling.original_context > 0 && q->given + (q->max_tokens > 0 ? q->max_tokens : 0) > e->model.config.scaling.original_context ? ROPE_LONG : 0;
    int at = i->batch_tokens;
    q->first = at;
    q->taken = take;
    q->result = i->batch_results;
    q->results = results_of(e, q, q->computed + take);
    for (int k = 0; k < take; k++) {
        int p = q->computed + k;
        i->tokens[at + k] = q->tokens[p];
        i->positions[at + k] = p | lengthened;
        i->types[at + k] = q->prompt->types && p < q->given ? q->prompt->types[p] : 0;
    }
    for (int k = 0; k < q->results; k++) i->wanted[i->batch_results++] = at + take - q->results + k;
    i->batch_tokens += take;
    i->batch[i->batch_count++] = q;
}

/* Another choice of the same prompt is computing it: waiting finds it in the prefix cache. */
static bool waits_for_sibling(const struct sequence *q)
{
    const struct text_job *j = q->slot->job;
    if (q->choice == 0 || q->state != SEQUENCE_WAITING || j->no_cache || j->task != TEXT_GENERATE) return false;
    const struct sequence *first = &q->slot->sequences[q->prompt_index * j->choices];
    return first->state != SEQUENCE_OVER && !first->generating;
}

static void take_decoding(struct engine_instance *i, struct slot *const *slots, int n)
{
    const struct engine *e = i->engine;
    for (int s = 0; s < n; s++) {
        struct llm_slot *slot = (struct llm_slot *)slots[s];
        for (int k = 0; k < slot->count && i->batch_count < e->sequences && i->batch_tokens < e->step_tokens; k++) {
            struct sequence *q = &slot->sequences[k];
            if (q->state == SEQUENCE_RUNNING && !q->taken && q->computed == q->count - 1 && q->generating && find_room(i, slots, n, q, q->count)) put(i, q, 1);
        }
    }
}

static void take_prompts(struct engine_instance *i, struct slot *const *slots, int n)
{
    const struct engine *e = i->engine;
    bool whole = !e->model.config.causal, pair = e->model.config.decoder_layers > 0;
    for (int s = 0; s < n; s++) {
        struct llm_slot *slot = (struct llm_slot *)slots[s];
        for (int k = 0; k < slot->count && i->batch_count < e->sequences; k++) {
            struct sequence *q = &slot->sequences[k];
            int room = e->step_tokens - i->batch_tokens;
            if (q->state == SEQUENCE_OVER || q->taken || room <= 0 || (pair ? !q->encoded : waits_for_sibling(q))) continue;
            if (q->state == SEQUENCE_RUNNING && q->generating && q->computed == q->count - 1) continue;
            if (q->swapped && !bring_back(i, slots, n, q)) continue;
            if (q->computed == 0 && q->page_count == 0) sequence_adopt(i, q);
            int take = q->count - q->computed;
            if (take > room) {
                if (whole && i->batch_tokens) continue;      /* an encoder looks at its whole text at once */
                if (!whole) take = room;
            }
            if (!find_room(i, slots, n, q, q->computed + take)) {
                if (q->state == SEQUENCE_WAITING) sequence_give_up(i, q);
                continue;
            }
            q->state = SEQUENCE_RUNNING;
            put(i, q, take);
        }
    }
}

/* Entries of the page table that the step reads, rounded up so that few plans do: on a card they go over with each step. */
static int entries_of(const struct engine_instance *i)
{
    enum { ENTRIES_MIN = 256 };
    int64_t used = ENTRIES_MIN, room = ENTRIES_MIN;
    for (int r = 0; r < i->engine->sequences; r++) {
        const int32_t *row = i->rows + 4 * r;
        const int64_t end = row[3] + ((int64_t)row[2] + row[1] + PAGE_TOKENS - 1) / PAGE_TOKENS;
        if (row[1] && end > used) used = end;
    }
    while (room < used) room *= 2;
    return room < i->page_table_room ? (int)room : i->page_table_room;
}

static enum status compute(struct engine_instance *i, const struct graph *g, struct plan_cache *plans, int t, int n, const atomic_bool *stop, struct plan **out, struct err *err)
{
    const struct engine *e = i->engine;
    struct operand shapes[LLM_INPUTS];
    void *data[LLM_INPUTS] = { [LLM_TOKENS] = i->tokens, [LLM_POSITIONS] = i->positions, [LLM_TYPES] = i->types, [LLM_ROWS] = i->rows, [LLM_PAGES] = i->page_table, [LLM_KV] = i->pool.gpu ? NULL : i->pool.at, [LLM_WANTED] = i->wanted, [LLM_ENCODED] = i->encoded };
    int tokens = round_up(t), results = round_up(n);
    for (int k = t; k < tokens; k++) i->tokens[k] = i->positions[k] = i->types[k] = 0;
    for (int k = n; k < results; k++) i->wanted[k] = 0;
    for (int k = 0; k < LLM_INPUTS; k++) shapes[k] = (struct operand){ .dtype = DT_I32, .rank = 1, .dims = { tokens } };
    shapes[LLM_ROWS].rank = 2;
    shapes[LLM_ROWS].dims[0] = e->sequences;
    shapes[LLM_ROWS].dims[1] = 4;
    shapes[LLM_ENCODED] = shapes[LLM_ROWS];
    shapes[LLM_PAGES].dims[0] = i->pool.gpu ? entries_of(i) : i->page_table_room;
    shapes[LLM_KV] = (struct operand){ .dtype = DT_U8, .rank = 1, .dims = { (int64_t)((uint64_t)e->pages * e->page_bytes) } };
    shapes[LLM_WANTED].dims[0] = results;
    enum status st = plan_cache_get(plans, g, shapes, out, err);
    return st ? st : plan_run(*out, data, &i->run, stop, err);
}

enum status step_compute(struct engine_instance *i, int t, int n, const atomic_bool *stop, struct plan **out, struct err *err) { return compute(i, i->graph, &i->plans, t, n, stop, out, err); }

/* ---- the encoder of a pair ---- */
static void encode_put(struct engine_instance *i, struct sequence *q)
{
    int at = i->batch_tokens, b = i->batch_count;
    int32_t *r = i->rows + 4 * b;
    for (int k = 0; k < q->prompt->count; k++) {
        i->tokens[at + k] = q->prompt->tokens[k];
        i->positions[at + k] = k;
        i->types[at + k] = 0;
    }
    r[0] = at;
    r[1] = q->prompt->count;
    r[2] = 0;
    r[3] = b ? i->rows[4 * (b - 1) + 3] + i->batch[b - 1]->source_count : 0;
    memcpy(i->page_table + r[3], q->source, (size_t)q->source_count * sizeof *q->source);
    i->batch_tokens += q->prompt->count;
    i->batch[i->batch_count++] = q;
    q->taken = q->prompt->count;
}

/* Every choice of a prompt that holds nothing yet sees what was made for this one. */
static void share_source(struct engine_instance *i, struct sequence *q)
{
    const struct text_job *j = q->slot->job;
    for (int k = 0; k < j->choices; k++) {
        struct sequence *other = &q->slot->sequences[q->prompt_index * j->choices + k];
        if (other != q && other->state != SEQUENCE_OVER && !other->encoded) sequence_share_source(i, other, q);
    }
}

/* Is another choice of the prompt in the batch that is to be encoded? */
static bool is_encoding(const struct engine_instance *i, const struct sequence *q)
{
    for (int b = 0; b < i->batch_count; b++)
        if (i->batch[b]->slot == q->slot && i->batch[b]->prompt_index == q->prompt_index) return true;
    return false;
}

static bool find_source_room(struct engine_instance *i, struct slot *const *slots, int n, struct sequence *q)
{
    while (!sequence_reserve_source(i, q)) {
        struct sequence *victim = youngest(slots, n, q);
        if (!victim) return false;
        sequence_give_way(i, victim);
        atomic_fetch_add_explicit(&i->engine->stats.preemptions, 1, memory_order_relaxed);
    }
    return true;
}

static void clear_step(struct engine_instance *i, struct slot *const *slots, int n)
{
    i->batch_count = i->batch_tokens = i->batch_results = 0;
    for (int s = 0; s < n; s++)
        for (int k = 0; k < ((struct llm_slot *)slots[s])->count; k++) ((struct llm_slot *)slots[s])->sequences[k].taken = 0;
    memset(i->rows, 0, (size_t)i->engine->sequences * 4 * sizeof *i->rows);
}

enum status step_encode(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    const struct engine *e = i->engine;
    struct plan *plan;
    clear_step(i, slots, n);
    for (int s = 0; s < n; s++) {
        struct llm_slot *slot = (struct llm_slot *)slots[s];
        for (int k = 0; k < slot->count && i->batch_count < e->sequences; k++) {
            struct sequence *q = &slot->sequences[k];
            if (q->state == SEQUENCE_OVER || q->encoded || is_encoding(i, q) || q->prompt->count > e->step_tokens - i->batch_tokens) continue;
            if (find_source_room(i, slots, n, q)) encode_put(i, q);
            else sequence_give_up(i, q);
        }
    }
    if (!i->batch_count) return ST_OK;
    i->wanted[0] = 0;
    enum status st = compute(i, &e->encoder, &i->encoder_plans, i->batch_tokens, 1, stop, &plan, err);
    for (int b = 0; b < i->batch_count && !st; b++) {
        i->batch[b]->encoded = true;
        share_source(i, i->batch[b]);
    }
    arena_reset(&i->run);
    return st;
}

void step_gather(struct engine_instance *i, struct slot *const *slots, int n)
{
    clear_step(i, slots, n);
    take_decoding(i, slots, n);
    take_prompts(i, slots, n);
    int entry = 0;
    memset(i->encoded, 0, (size_t)i->engine->sequences * 4 * sizeof *i->encoded);
    for (int b = 0; b < i->batch_count; b++) {
        struct sequence *q = i->batch[b];
        int32_t *r = i->rows + 4 * b;
        r[0] = q->first;
        r[1] = q->taken;
        r[2] = q->computed;
        r[3] = entry;
        memcpy(i->page_table + entry, q->pages, (size_t)q->page_count * sizeof *q->pages);
        entry += q->page_count;
        if (!q->encoded) continue;
        memcpy(i->encoded + 4 * b, (int32_t[]){ q->first, q->taken, q->prompt->count, entry }, 4 * sizeof *i->encoded);
        memcpy(i->page_table + entry, q->source, (size_t)q->source_count * sizeof *q->source);
        entry += q->source_count;
    }
}

enum status step_run(struct engine_instance *i, const atomic_bool *stop, struct plan **out, struct err *err)
{
    enum status st = step_compute(i, i->batch_tokens, i->batch_results, stop, out, err);
    if (st) return st;
    for (int b = 0; b < i->batch_count; b++) {
        struct sequence *q = i->batch[b];
        q->computed += q->taken;
        sequence_publish(i, q);
        sequence_trim(i, q);
    }
    return ST_OK;
}
