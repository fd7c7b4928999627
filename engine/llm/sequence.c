/* A text in flight: its tokens and the pages it holds. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/llm/llm_internal.h"

enum status sequence_open(struct sequence *q, struct llm_slot *slot, int prompt, int choice, int32_t start, struct err *err)
{
    const struct text_job *j = slot->job;
    const struct text_prompt *p = &j->prompts[prompt];
    bool pair = start >= 0;
    int given = pair ? 1 : p->count;
    *q = (struct sequence){ .slot = slot, .answer = &j->answers[prompt * j->choices + choice], .prompt = p, .prompt_index = prompt, .choice = choice, .count = given, .given = given, .room = given + 64 };
    buf_init(&q->held, 0);
    q->tokens = mem_alloc_array((uint64_t)q->room, sizeof *q->tokens);
    if (!q->tokens) return err_set(err, ST_NO_MEMORY, "the tokens of a text");
    if (pair) q->tokens[0] = start;
    else memcpy(q->tokens, p->tokens, (size_t)p->count * sizeof *p->tokens);
    return ST_OK;
}

void sequence_give_up(struct engine_instance *i, struct sequence *q)
{
    for (int k = q->gone; k < q->page_count; k++) pages_drop(&i->pages, q->pages[k]);
    for (int k = 0; k < q->source_count; k++) pages_drop(&i->pages, q->source[k]);
    q->source_count = 0;
    q->encoded = false;
    if (q->state == SEQUENCE_RUNNING) q->state = SEQUENCE_WAITING;
    q->page_count = q->gone = q->published = q->computed = 0;
}

static bool add_page(struct sequence *q, int32_t page)
{
    if (q->page_count == q->page_room) {
        int room = q->page_room ? q->page_room * 2 : 16;
        int32_t *more = mem_realloc_array(q->pages, (uint64_t)room, sizeof *more);
        if (!more) return false;
        q->pages = more;
        q->page_room = room;
    }
    q->pages[q->page_count++] = page;
    return true;
}

static void forget_swapped(struct engine_instance *i, struct sequence *q)
{
    if (!q->swapped) return;
    i->swapped_bytes -= (uint64_t)(q->swapped_pages - q->swapped_gone) * i->engine->page_bytes;
    free(q->swapped);
    q->swapped = NULL;
}

void sequence_give_way(struct engine_instance *i, struct sequence *q)
{
    const struct engine *e = i->engine;
    uint64_t each = e->page_bytes, bytes = (uint64_t)(q->page_count - q->gone) * each;
    bool fits = q->computed > 0 && bytes && bytes <= e->options.kv_swap_bytes && i->swapped_bytes <= e->options.kv_swap_bytes - bytes && !e->model.config.decoder_layers;
    char *keep = fits ? mem_alloc_array(bytes, 1) : NULL;
    struct err unread;
    enum status st = ST_OK;
    for (int k = q->gone; k < q->page_count && keep && !st; k++) st = pool_read(&i->pool, q->pages[k], keep + (uint64_t)(k - q->gone) * each, &unread);
    if (st) free(keep);                  /* it will be computed again */
    else if (keep) {
        q->swapped = keep;
        q->swapped_pages = q->page_count;
        q->swapped_gone = q->gone;
        q->swapped_tokens = q->computed;
        i->swapped_bytes += bytes;
        atomic_fetch_add_explicit(&i->engine->stats.swaps, 1, memory_order_relaxed);
    }
    sequence_give_up(i, q);
}

bool sequence_return_begin(struct sequence *q)
{
    bool room = true;
    while (q->page_count < q->swapped_gone && room) room = add_page(q, PAGE_NONE);
    q->gone = q->page_count;
    return room;
}

void sequence_return(struct engine_instance *i, struct sequence *q)
{
    struct err lost;
    for (int k = q->gone; k < q->page_count; k++) (void)pool_write(&i->pool, q->pages[k], q->swapped + (uint64_t)(k - q->gone) * i->engine->page_bytes, &lost);      /* only a lost card fails, and the step that follows says so */
    q->computed = q->swapped_tokens;
    forget_swapped(i, q);
}

void sequence_trim(struct engine_instance *i, struct sequence *q)
{
    int seen = q->computed + 1 - i->engine->window;      /* the first token that the next one sees */
    if (!i->engine->window || seen <= 0) return;
    for (; q->gone < q->page_count && (q->gone + 1) * PAGE_TOKENS <= seen; q->gone++) {
        pages_drop(&i->pages, q->pages[q->gone]);
        q->pages[q->gone] = PAGE_NONE;
    }
}

void sequence_close(struct engine_instance *i, struct sequence *q)
{
    sequence_give_up(i, q);
    forget_swapped(i, q);
    free(q->tokens);
    free(q->pages);
    free(q->source);
    free(q->pool);
    grammar_state_close(q->grammar);
    buf_free(&q->held);
    *q = (struct sequence){ .state = SEQUENCE_OVER };
}

bool sequence_append(struct sequence *q, int32_t token)
{
    if (q->count == q->room) {
        int32_t *more = mem_realloc_array(q->tokens, (uint64_t)q->room * 2, sizeof *more);
        if (!more) return false;
        q->tokens = more;
        q->room *= 2;
    }
    q->tokens[q->count++] = token;
    return true;
}

/* Pages that hold the same beginning, as far as they are known; the last token is always computed, since its result is wanted. */
void sequence_adopt(struct engine_instance *i, struct sequence *q)
{
    const struct text_job *j = q->slot->job;
    if (i->engine->model.config.decoder_layers) return;      /* what was written says nothing of what was read */
    if (j->no_cache || j->task != TEXT_GENERATE || (j->echo && j->logprobs >= 0)) return;
    struct text_stats *s = &i->engine->stats;
    atomic_fetch_add_explicit(&s->prefix_queries, (uint_fast64_t)q->count, memory_order_relaxed);
    while ((q->published + 1) * PAGE_TOKENS < q->count) {
        uint8_t next[16];
        pages_digest(next, q->published ? q->digest : NULL, 0, q->tokens + q->published * PAGE_TOKENS, PAGE_TOKENS);
        int32_t page = pages_find(&i->pages, next);
        if (page < 0) break;
        if (!add_page(q, page)) {
            pages_drop(&i->pages, page);
            break;
        }
        memcpy(q->digest, next, 16);
        q->published++;
        q->computed += PAGE_TOKENS;
    }
    if (!q->generating) q->answer->cached_tokens = q->computed;
    atomic_fetch_add_explicit(&s->prefix_hits, (uint_fast64_t)q->computed, memory_order_relaxed);
}

void sequence_publish(struct engine_instance *i, struct sequence *q)
{
    if (q->slot->job->no_cache || q->slot->job->task != TEXT_GENERATE || i->engine->model.config.decoder_layers) return;
    while ((q->published + 1) * PAGE_TOKENS <= q->computed) {
        uint8_t next[16];
        pages_digest(next, q->published ? q->digest : NULL, 0, q->tokens + q->published * PAGE_TOKENS, PAGE_TOKENS);
        if (q->pages[q->published] >= 0) pages_publish(&i->pages, q->pages[q->published], next);
        memcpy(q->digest, next, 16);
        q->published++;
    }
}

static bool source_room(struct sequence *q)
{
    if (!q->source) q->source = mem_alloc_array((uint64_t)(q->prompt->count + PAGE_TOKENS - 1) / PAGE_TOKENS + 1, sizeof *q->source);
    return q->source != NULL;
}

bool sequence_reserve_source(struct engine_instance *i, struct sequence *q)
{
    int need = (q->prompt->count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    if (!source_room(q)) return false;
    while (q->source_count < need) {
        int32_t page = pages_take(&i->pages);
        if (page < 0) return false;
        q->source[q->source_count++] = page;
    }
    return true;
}

bool sequence_share_source(struct engine_instance *i, struct sequence *q, const struct sequence *from)
{
    if (q->source_count || !source_room(q)) return false;
    for (; q->source_count < from->source_count; q->source_count++) {
        q->source[q->source_count] = from->source[q->source_count];
        pages_hold(&i->pages, q->source[q->source_count]);
    }
    return q->encoded = true;
}

bool sequence_reserve(struct engine_instance *i, struct sequence *q, int upto)
{
    int need = (upto + PAGE_TOKENS - 1) / PAGE_TOKENS;
    while (q->page_count < need) {
        int32_t page = pages_take(&i->pages);
        if (page < 0) return false;
        if (!add_page(q, page)) {
            pages_drop(&i->pages, page);
            return false;
        }
    }
    return true;
}

void sequence_finish(struct engine_instance *i, struct sequence *q, enum text_finish how)
{
    struct text_stats *s = &i->engine->stats;
    sequence_give_up(i, q);
    forget_swapped(i, q);
    if (q->state != SEQUENCE_OVER) q->slot->open--;
    q->state = SEQUENCE_OVER;
    pthread_mutex_lock(&q->slot->job->lock);
    q->answer->finish = how;
    pthread_mutex_unlock(&q->slot->job->lock);
    atomic_fetch_add_explicit(&s->finished[how == FINISH_LENGTH ? FINISHED_LENGTH : FINISHED_STOP], 1, memory_order_relaxed);
}
