/* From the results of a step to what the client reads: the next token is drawn, its text joins the answer as whole characters, and what may be the
 * beginning of a stop string is held back until it is known. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/llm/llm_internal.h"

/* ---- vectors ---- */
static enum status take_vector(struct engine_instance *i, struct sequence *q, const struct plan *plan, struct err *err)
{
    const struct llm_config *c = &i->engine->model.config;
    bool score = q->slot->job->task == TEXT_SCORE;
    const struct operand *o = plan_output(plan, score ? LLM_LOGITS : LLM_HIDDEN);
    int64_t width = o->dims[1];
    const float *rows = (const float *)o->data + q->result * width;
    if (!q->pool) q->pool = mem_calloc_array((uint64_t)width, sizeof *q->pool);
    if (!q->pool) return err_set(err, ST_NO_MEMORY, "a vector");
    enum llm_pooling pooling = score ? POOL_CLS : c->pooling == POOL_NONE ? POOL_LAST : c->pooling;
    int to = pooling == POOL_CLS ? 1 : q->results;      /* of POOL_LAST the last token is the only result */
    if (pooling == POOL_CLS && q->computed > q->results) to = 0;      /* not the first piece */
    for (int r = 0; r < to; r++, q->pooled++)
        for (int64_t k = 0; k < width; k++) q->pool[k] += (double)rows[r * width + k];
    if (q->computed < q->count) return ST_OK;
    float *v = mem_alloc_array((uint64_t)width, sizeof *v);
    if (!v) return err_set(err, ST_NO_MEMORY, "a vector");
    double squares = 0;
    for (int64_t k = 0; k < width; k++) {
        v[k] = (float)(q->pool[k] / (q->pooled ? q->pooled : 1));
        squares += (double)v[k] * (double)v[k];
    }
    if (!score && c->normalise_vectors) {
        float length = (float)fmax(sqrt(squares), 1e-12);
        for (int64_t k = 0; k < width; k++) v[k] /= length;
    }
    pthread_mutex_lock(&q->slot->job->lock);
    free(q->answer->vector);
    q->answer->vector = v;
    q->answer->width = (int)width;
    if (score) q->answer->score = (double)v[0];
    pthread_mutex_unlock(&q->slot->job->lock);
    sequence_finish(i, q, FINISH_STOP);
    return ST_OK;
}

/* ---- text ---- */
static bool note_token(struct text_answer *a, const struct text_token *t)
{
    if (a->token_count == a->token_room) {
        int room = a->token_room ? a->token_room * 2 : 32;
        struct text_token *more = mem_realloc_array(a->tokens, (uint64_t)room, sizeof *more);
        if (!more) return false;
        a->tokens = more;
        a->token_room = room;
    }
    a->tokens[a->token_count++] = *t;
    return true;
}

static bool note_id(struct text_answer *a, int32_t id)
{
    if (a->id_count == a->id_room) {
        int room = a->id_room ? a->id_room * 2 : 64;
        int32_t *more = mem_realloc_array(a->ids, (uint64_t)room, sizeof *more);
        if (!more) return false;
        a->ids = more;
        a->id_room = room;
    }
    a->ids[a->id_count++] = id;
    return true;
}

/* The first stop string within text[from..): its place, and which one in *which; -1: none. */
static int64_t find_stop(const struct text_job *j, const struct buf *text, int *which)
{
    int64_t at = -1;
    for (int s = 0; s < j->stop_count; s++) {
        const char *hit = memmem(text->data, text->length, j->stops[s].text, j->stops[s].length);
        if (hit && (at < 0 || hit - text->data < at)) {
            at = hit - text->data;
            *which = s;
        }
    }
    return at;
}

/* How many bytes at the end of text may be the beginning of a stop string. */
static size_t may_begin_stop(const struct text_job *j, const struct buf *text)
{
    size_t most = 0;
    for (int s = 0; s < j->stop_count; s++) {
        size_t n = j->stops[s].length - 1 < text->length ? j->stops[s].length - 1 : text->length;
        for (; n > most; n--)
            if (!memcmp(text->data + text->length - n, j->stops[s].text, n)) most = n;
    }
    return most;
}

/* Lets what is held out into the answer, but for what may begin a stop string (`last`: all of it). True when a stop string was met. With the job's lock. */
static bool release_text(struct sequence *q, bool last)
{
    const struct text_job *j = q->slot->job;
    struct text_answer *a = q->answer;
    int which = -1;
    int64_t stop = q->held.length && q->answer->id_count >= j->min_tokens ? find_stop(j, &q->held, &which) : -1;
    if (stop >= 0) {
        buf_append(&a->text, q->held.data, (size_t)stop);
        buf_clear(&q->held);
        a->stop_index = which;
        return true;
    }
    size_t keep = last ? 0 : may_begin_stop(j, &q->held), out = q->held.length - keep;
    if (out == 0) return false;
    buf_append(&a->text, q->held.data, out);
    memmove(q->held.data, q->held.data + out, keep);
    q->held.length = keep;
    return false;
}

static bool is_end(const struct engine *e, const struct text_job *j, int32_t token)
{
    if (j->grammar && e->tokenizer && tokenizer_is_eog(e->tokenizer, token)) return true;      /* a mask lets it through only where the text may end */
    for (int k = 0; k < j->stop_id_count; k++)
        if (j->stop_ids[k] == token) return true;
    return !j->ignore_eos && e->tokenizer && tokenizer_is_eog(e->tokenizer, token);
}

/* A drawn token becomes text; tells how the answer ends with it, if it does. */
static enum text_finish tell(struct engine_instance *i, struct sequence *q, struct text_token *t, struct err *err, enum status *st)
{
    const struct engine *e = i->engine;
    const struct text_job *j = q->slot->job;
    struct text_answer *a = q->answer;
    enum text_finish how = FINISH_NONE;
    bool room = true, end = is_end(e, j, t->token);
    pthread_mutex_lock(&q->slot->job->lock);
    t->text_offset = (uint32_t)(a->text.length + q->held.length);
    room = note_id(a, t->token);
    if (t->logprob == t->logprob) a->score += (double)t->logprob;
    a->last_ns = clock_ns();
    if (!a->first_ns) a->first_ns = a->last_ns;
    if (end) a->stop_token = t->token;
    if (j->logprobs >= 0 && !end) room = room && note_token(a, t);
    if (!end && e->tokenizer) detokenizer_feed(&q->detokenizer, t->token, &q->held);
    bool limit = q->max_tokens >= 0 && a->id_count >= q->max_tokens;
    if (e->tokenizer && (end || limit)) detokenizer_finish(&q->detokenizer, &q->held);
    if (release_text(q, end || limit) || end) how = FINISH_STOP;
    else if (limit) how = FINISH_LENGTH;
    room = room && !a->text.failed && !q->held.failed;
    pthread_mutex_unlock(&q->slot->job->lock);
    if (!room) *st = err_set(err, ST_NO_MEMORY, "the text of an answer");
    return how;
}

/* The text is complete without a token that says so. */
static void close_text(struct engine_instance *i, struct sequence *q)
{
    pthread_mutex_lock(&q->slot->job->lock);
    if (i->engine->tokenizer) detokenizer_finish(&q->detokenizer, &q->held);
    release_text(q, true);
    pthread_mutex_unlock(&q->slot->job->lock);
    q->slot->base.partial = true;
    sequence_finish(i, q, FINISH_STOP);
}

/* DRY stops looking back at a token whose text holds one of the breakers. */
static bool breaks(void *ctx, int32_t token)
{
    const struct sequence *q = ctx;
    size_t length;
    const struct text_job *j = q->slot->job;
    const char *piece = q->detokenizer.tokenizer ? tokenizer_piece(q->detokenizer.tokenizer, token, &length) : NULL;
    for (int b = 0; piece && b < j->breaker_count; b++)
        if (memmem(piece, length, j->breakers[b].text, j->breakers[b].length)) return true;
    return false;
}

/* Log-probabilities of the prompt's own tokens (echo). Row r of the results follows token computed - results + r. */
static void take_prompt(struct sequence *q, const struct operand *logits)
{
    const struct text_job *j = q->slot->job;
    int64_t v = logits->dims[1];
    for (int r = 0; r < q->results; r++) {
        int next = q->computed - q->results + r + 1;
        if (next >= q->prompt->count) break;
        struct text_token t;
        const float *row = (const float *)logits->data + (q->result + r) * v;
        sampler_look(row, (int)v, q->tokens[next], j->logprobs, &t);
        pthread_mutex_lock(&q->slot->job->lock);
        t.text_offset = next < q->answer->token_room ? q->answer->tokens[next].text_offset : 0;
        if (next < q->answer->token_count) q->answer->tokens[next] = t;
        pthread_mutex_unlock(&q->slot->job->lock);
    }
}

/* The prompt's text before the answer's, and a place for each of its tokens. */
enum status answer_echo(struct sequence *q, const struct tokenizer *t, struct err *err)
{
    const struct text_job *j = q->slot->job;
    struct text_answer *a = q->answer;
    struct detokenizer d;
    bool room = true;
    detokenizer_init(&d, t, true, !j->skip_special);
    pthread_mutex_lock(&q->slot->job->lock);
    for (int k = 0; k < q->prompt->count; k++) {
        struct text_token x = { .token = q->prompt->tokens[k], .logprob = NAN, .text_offset = (uint32_t)a->text.length };
        if (j->logprobs >= 0) room = room && note_token(a, &x);
        detokenizer_feed(&d, x.token, &a->text);
    }
    detokenizer_finish(&d, &a->text);
    room = room && !a->text.failed;
    pthread_mutex_unlock(&q->slot->job->lock);
    return room ? ST_OK : err_set(err, ST_NO_MEMORY, "the text of an answer");
}

/* The tokens that a grammar lets follow. *over: the text is complete and nothing may follow. */
static enum status make_mask(struct engine_instance *i, struct sequence *q, bool *over, struct err *err)
{
    const struct engine *e = i->engine;
    bool may_end, any = false;
    enum status st = grammar_state_mask(q->grammar, i->mask, &may_end, err);
    if (st) return st;
    int words = (token_trie_count(e->trie) + 31) / 32, all = (e->model.config.vocabulary + 31) / 32;
    for (int k = words; k < all; k++) i->mask[k] = 0;
    for (int k = 0; k < words && !any; k++) any = i->mask[k] != 0;
    for (int k = 0; k < e->end_count && may_end; k++) i->mask[e->ends[k] / 32] |= 1u << e->ends[k] % 32;
    *over = !any && may_end;
    return any || may_end ? ST_OK : err_set(err, ST_BAD_INPUT, "the model's vocabulary has no token that the grammar lets follow");
}

/* ---- drawing ---- */
/* Does the step's last row of this text become a token? */
static bool draws(const struct sequence *q) { return q->slot->job->task == TEXT_GENERATE && q->computed >= q->count && q->max_tokens != 0; }

static enum status draw(struct engine_instance *i, struct sequence *q, const struct plan *plan, struct sampler *sampler, const uint32_t *mask, struct text_token *t, struct err *err)
{
    const struct text_job *j = q->slot->job;
    const struct operand *logits = plan_output(plan, LLM_LOGITS);
    const int generated = q->count - q->given;
    const struct sampler_question ask = { .how = &j->sampling, .bias = j->bias, .bias_count = j->bias_count, .past = { q->tokens, q->count, q->given }, .breaks = j->breaker_count ? breaks : NULL,
        .breaks_context = q, .mask = mask, .banned = i->engine->ends, .banned_count = generated < j->min_tokens ? i->engine->end_count : 0, .seed = q->answer->seed, .choice = (uint32_t)(q->prompt_index * j->choices + q->choice), .index = (uint32_t)generated, .logprobs = j->logprobs };
    return sampler_draw(sampler, (float *)logits->data + (q->result + q->results - 1) * logits->dims[1], &ask, &q->sampler, t, err);
}

int64_t answer_logits_for_a_thread = 1 << 14;

struct drawing { struct engine_instance *i; const struct plan *plan; };

static void draw_part(void *ctx, int part, int parts)
{
    const struct drawing *d = ctx;
    struct engine_instance *i = d->i;
    for (int b = part; b < i->batch_count; b += parts) {
        struct sequence *q = i->batch[b];
        if (!draws(q) || q->grammar) continue;
        q->draw_error = (struct err){ 0 };
        (void)draw(i, q, d->plan, i->samplers[part], NULL, &q->drawn, &q->draw_error);
        q->is_drawn = true;
    }
}

void answer_draw(struct engine_instance *i, const struct plan *plan)
{
    struct drawing d = { i, plan };
    int count = 0;
    for (int b = 0; b < i->batch_count; b++) {
        i->batch[b]->is_drawn = false;
        count += draws(i->batch[b]) && !i->batch[b]->grammar;
    }
    int64_t parts = (int64_t)count * i->engine->model.config.vocabulary / answer_logits_for_a_thread;
    if (parts > count) parts = count;
    if (parts > i->samplers_count) parts = i->samplers_count;
    if (parts < 2) return;                     /* answer_take draws then */
    parallel_for((int)parts, (int)parts, draw_part, &d);
}

enum status answer_take(struct engine_instance *i, struct sequence *q, const struct plan *plan, struct err *err)
{
    const struct text_job *j = q->slot->job;
    struct text_stats *s = &i->engine->stats;
    bool first = !q->generating;
    if (q->computed >= q->count) q->generating = true;
    if (j->task != TEXT_GENERATE) return take_vector(i, q, plan, err);
    const struct operand *logits = plan_output(plan, LLM_LOGITS);
    if (j->echo && j->logprobs >= 0 && first && q->results) take_prompt(q, logits);
    if (q->computed < q->count) return ST_OK;
    if (first) atomic_fetch_add_explicit(&s->prompt_tokens, (uint_fast64_t)q->prompt->count, memory_order_relaxed);
    if (q->max_tokens == 0) {
        sequence_finish(i, q, FINISH_LENGTH);
        return ST_OK;
    }
    struct text_token t;
    if (q->grammar) {
        bool over;
        enum status masked = make_mask(i, q, &over, err);
        if (masked) return masked;
        if (over) {
            close_text(i, q);
            return ST_OK;
        }
    }
    enum status st = ST_OK;
    if (q->is_drawn) {
        t = q->drawn;
        st = q->draw_error.status;
        *err = q->draw_error;
    } else st = draw(i, q, plan, i->samplers[0], q->grammar ? i->mask : NULL, &t, err);
    if (st) return st;
    if (q->grammar && !is_end(i->engine, j, t.token)) st = grammar_state_accept(q->grammar, t.token, err);
    if (st) return st;
    uint64_t before = q->answer->last_ns;
    enum text_finish how = tell(i, q, &t, err, &st);
    if (st) return st;
    atomic_fetch_add_explicit(&s->generated_tokens, 1, memory_order_relaxed);
    if (before) stats_observe(&s->between_tokens, q->answer->last_ns - before);
    else stats_observe(&s->first_token, q->answer->last_ns - q->slot->base.request->times.queued);
    q->slot->base.partial = true;
    if (how == FINISH_NONE && q->count + 1 >= i->engine->context) how = FINISH_LENGTH;
    if (how != FINISH_NONE) {
        sequence_finish(i, q, how);
        return ST_OK;
    }
    return sequence_append(q, t.token) ? ST_OK : err_set(err, ST_NO_MEMORY, "the tokens of a text");
}
