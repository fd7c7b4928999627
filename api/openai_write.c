/* Answers of the OpenAI dialect. */
#include "api/openai.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/oip_infer.h"
#include "engine/text/tokenizer.h"

void openai_error_write(struct buf *out, int status, const char *text, const char *parameter, const char *code)
{
    const char *type = status == 401 ? "authentication_error" : status == 403 ? "permission_error" : status == 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
    buf_puts(out, "{\"error\":{\"message\":");
    json_write_text(out, text);
    buf_puts(out, ",\"type\":");
    json_write_text(out, type);
    buf_puts(out, ",\"param\":");
    if (parameter) json_write_text(out, parameter);
    else buf_puts(out, "null");
    buf_puts(out, ",\"code\":");
    if (code) json_write_text(out, code);
    else buf_puts(out, "null");
    buf_puts(out, "}}");
}

void openai_model_write(struct buf *out, const char *name, int64_t created)
{
    buf_puts(out, "{\"id\":");
    json_write_text(out, name);
    buf_puts(out, ",\"object\":\"model\",\"created\":");
    buf_int(out, created);
    buf_puts(out, ",\"owned_by\":\"inferd\"}");
}

const char *openai_finish_text(const struct openai_ask *a, const struct text_answer *x, const struct toolcall_reader *r)
{
    return x->finish == FINISH_LENGTH ? "length" : !r || !r->call_count ? "stop" : a->old_calls ? "function_call" : "tool_calls";
}

void openai_usage_write(struct buf *out, const struct openai_ask *a)
{
    int64_t prompt = 0, completion = 0, cached = 0, reasoning = 0;
    bool text = a->job.task == TEXT_GENERATE;
    for (int p = 0; p < a->job.prompt_count; p++) {
        prompt += a->job.prompts[p].count;
        cached += a->job.answers[p * a->job.choices].cached_tokens;
    }
    for (int i = 0; i < a->job.answer_count; i++) {
        completion += a->job.answers[i].id_count;
        if (text) reasoning += openai_reasoning_tokens(a, i);
    }
    buf_printf(out, "{\"prompt_tokens\":%lld,", (long long)prompt);
    if (text) buf_printf(out, "\"completion_tokens\":%lld,", (long long)completion);
    buf_printf(out, "\"total_tokens\":%lld", (long long)(prompt + completion));
    if (text) buf_printf(out, ",\"prompt_tokens_details\":{\"cached_tokens\":%lld},\"completion_tokens_details\":{\"reasoning_tokens\":%lld}", (long long)cached, (long long)reasoning);
    buf_putc(out, '}');
}

/* ---- log-probabilities ---- */
static void write_logprob(struct buf *out, float l)
{
    if (l == -INFINITY) buf_puts(out, "-9999.0");
    else if (isnan(l)) buf_puts(out, "0.0");      /* the first token of an echoed prompt has none; the document wants a number */
    else json_write_float(out, l);
}

static void write_token(struct buf *out, const struct openai_ask *a, int32_t id)
{
    size_t n = 0;
    const char *piece = a->tokenizer ? tokenizer_piece(a->tokenizer, id, &n) : NULL;
    json_write_string(out, piece ? piece : "", n);
}

static void write_chat_token(struct buf *out, const struct openai_ask *a, int32_t id, float logprob)
{
    size_t n = 0;
    const char *piece = a->tokenizer ? tokenizer_piece(a->tokenizer, id, &n) : NULL;
    buf_puts(out, "{\"token\":");
    json_write_string(out, piece ? piece : "", n);
    buf_puts(out, ",\"logprob\":");
    write_logprob(out, logprob);
    buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) buf_printf(out, i ? ",%d" : "%d", (unsigned char)piece[i]);
    buf_putc(out, ']');
}

/* {"content":[...],"refusal":null} of tokens from..to. */
static void write_chat_logprobs(struct buf *out, const struct openai_ask *a, const struct text_answer *x, int from, int to)
{
    buf_puts(out, "{\"content\":[");
    for (int i = from; i < to; i++) {
        const struct text_token *t = &x->tokens[i];
        if (i > from) buf_putc(out, ',');
        write_chat_token(out, a, t->token, t->logprob);
        buf_puts(out, ",\"top_logprobs\":[");
        for (int k = 0; k < t->top_count && k < a->logprobs; k++) {
            if (k) buf_putc(out, ',');
            write_chat_token(out, a, t->top[k].token, t->top[k].logprob);
            buf_putc(out, '}');
        }
        buf_puts(out, "]}");
    }
    buf_puts(out, "],\"refusal\":null}");
}

static void write_completion_logprobs(struct buf *out, const struct openai_ask *a, const struct text_answer *x, int from, int to)
{
    buf_puts(out, "{\"text_offset\":[");
    for (int i = from; i < to; i++) buf_printf(out, i > from ? ",%u" : "%u", x->tokens[i].text_offset);
    buf_puts(out, "],\"token_logprobs\":[");
    for (int i = from; i < to; i++) {
        if (i > from) buf_putc(out, ',');
        write_logprob(out, x->tokens[i].logprob);
    }
    buf_puts(out, "],\"tokens\":[");
    for (int i = from; i < to; i++) {
        if (i > from) buf_putc(out, ',');
        write_token(out, a, x->tokens[i].token);
    }
    buf_puts(out, "],\"top_logprobs\":[");
    for (int i = from; i < to; i++) {
        const struct text_token *t = &x->tokens[i];
        if (i > from) buf_putc(out, ',');
        if (isnan(t->logprob) || a->logprobs == 0) {
            buf_puts(out, "{}");
            continue;
        }
        buf_putc(out, '{');
        for (int k = 0; k < t->top_count && k < a->logprobs; k++) {
            if (k) buf_putc(out, ',');
            write_token(out, a, t->top[k].token);
            buf_putc(out, ':');
            write_logprob(out, t->top[k].logprob);
        }
        buf_putc(out, '}');
    }
    buf_puts(out, "]}");
}

static void write_logprobs(struct buf *out, const struct openai_ask *a, const struct text_answer *x, int from, int to)
{
    if (a->logprobs < 0) buf_puts(out, "null");
    else if (a->kind == OPENAI_CHAT) write_chat_logprobs(out, a, x, from, to);
    else write_completion_logprobs(out, a, x, from, to);
}

/* ---- whole answers ---- */
static void write_head(struct buf *out, const struct openai_ask *a, const char *object)
{
    buf_puts(out, "{\"id\":");
    json_write_text(out, a->id);
    buf_puts(out, ",\"object\":");
    json_write_text(out, object);
    buf_puts(out, ",\"created\":");
    buf_int(out, a->created);
    buf_puts(out, ",\"model\":");
    json_write_text(out, a->model);
}

static void write_fingerprint(struct buf *out, const struct model_version *v) { buf_printf(out, ",\"system_fingerprint\":\"fp_%.12s\"", v->digest); }

/* ---- calls and reasoning ---- */
static struct toolcall_reader *reader_of(const struct openai_ask *a, const struct text_answer *x) { return a->readers ? &a->readers[x - a->job.answers] : NULL; }

/* What is new of an answer goes through its reader. */
static void read_on(struct buf *out, struct toolcall_reader *r, const struct text_answer *x, size_t from)
{
    if (x->text.length > from) toolcall_reader_feed(r, x->text.data + from, x->text.length - from);
    if (x->finish != FINISH_NONE) toolcall_reader_finish(r);
    if (r->hold.failed || r->content.failed || r->reasoning.failed) out->failed = true;
}

static void write_buf(struct buf *out, const struct buf *text, size_t from) { json_write_string(out, text->length > from ? text->data + from : "", text->length - from); }

/* The id, the same whenever it is asked for: the random part of the answer's own, and which call it is. */
static void write_call_head(struct buf *out, const struct openai_ask *a, const struct text_answer *x, int call)
{
    const char *random = strchr(a->id, '-');
    buf_printf(out, "\"id\":\"call_%.20s%02x%02x\",\"type\":\"function\",\"function\":{\"name\":", random ? random + 1 : "", (unsigned)(x - a->job.answers), (unsigned)call);
    json_write_text(out, reader_of(a, x)->calls[call].name);
    buf_puts(out, ",\"arguments\":");
}

static void write_message(struct buf *out, const struct openai_ask *a, const struct text_answer *x)
{
    struct toolcall_reader *r = reader_of(a, x);
    buf_puts(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (!r) write_buf(out, &x->text, 0);
    else read_on(out, r, x, 0);
    if (r && !r->content.length && (r->call_count || r->reasoning.length)) buf_puts(out, "null");
    else if (r) write_buf(out, &r->content, 0);
    if (r && r->reasoning.length) {
        buf_puts(out, ",\"reasoning_content\":");
        write_buf(out, &r->reasoning, 0);
    }
    if (a->old_calls && openai_calls_shown(a, r)) {
        buf_puts(out, ",\"function_call\":{\"name\":");
        json_write_text(out, r->calls[0].name);
        buf_puts(out, ",\"arguments\":");
        write_buf(out, &r->calls[0].arguments, 0);
        buf_puts(out, "},\"refusal\":null,\"annotations\":[]}");
        return;
    }
    for (int i = 0; i < openai_calls_shown(a, r); i++) {
        buf_puts(out, i ? ",{" : ",\"tool_calls\":[{");
        write_call_head(out, a, x, i);
        write_buf(out, &r->calls[i].arguments, 0);
        buf_puts(out, "}}");
    }
    buf_puts(out, r && r->call_count ? "],\"refusal\":null,\"annotations\":[]}" : ",\"refusal\":null,\"annotations\":[]}");
}

static void write_choice(struct buf *out, const struct openai_ask *a, const struct text_answer *x, int index)
{
    buf_printf(out, "{\"index\":%d,", index);
    if (a->kind == OPENAI_CHAT) {
        write_message(out, a, x);
    } else {
        buf_puts(out, "\"text\":");
        json_write_string(out, x->text.data ? x->text.data : "", x->text.length);
    }
    buf_puts(out, ",\"logprobs\":");
    write_logprobs(out, a, x, 0, x->token_count);
    buf_printf(out, ",\"finish_reason\":\"%s\"}", openai_finish_text(a, x, reader_of(a, x)));
}

/* The `wanted` likeliest of a prompt's choices, in their order. */
static bool is_wanted(const struct openai_ask *a, int prompt, int choice)
{
    if (a->wanted >= a->job.choices) return true;
    const struct text_answer *list = &a->job.answers[prompt * a->job.choices];
    int better = 0;
    double own = list[choice].score / (list[choice].id_count ? list[choice].id_count : 1);
    for (int k = 0; k < a->job.choices; k++) {
        double other = list[k].score / (list[k].id_count ? list[k].id_count : 1);
        better += other > own || (other == own && k < choice);
    }
    return better < a->wanted;
}

static void write_texts(struct buf *out, const struct openai_ask *a, const struct model_version *v)
{
    int index = 0;
    write_head(out, a, a->kind == OPENAI_CHAT ? "chat.completion" : "text_completion");
    buf_puts(out, ",\"choices\":[");
    for (int p = 0; p < a->job.prompt_count; p++)
        for (int c = 0; c < a->job.choices; c++) {
            if (!is_wanted(a, p, c)) continue;
            if (index) buf_putc(out, ',');
            write_choice(out, a, &a->job.answers[p * a->job.choices + c], index++);
        }
    buf_puts(out, "],\"usage\":");
    openai_usage_write(out, a);
    if (a->kind == OPENAI_CHAT) buf_puts(out, ",\"service_tier\":\"default\"");
    write_fingerprint(out, v);
    buf_putc(out, '}');
}

static void write_embeddings(struct buf *out, const struct openai_ask *a)
{
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < a->job.answer_count; i++) {
        const struct text_answer *x = &a->job.answers[i];
        int width = a->dimensions && a->dimensions < x->width ? a->dimensions : x->width;
        if (width < x->width) {      /* a shorter vector is made of unit length again */
            double squares = 0;
            for (int k = 0; k < width; k++) squares += (double)x->vector[k] * (double)x->vector[k];
            for (int k = 0; k < width && squares > 0; k++) x->vector[k] = (float)((double)x->vector[k] / sqrt(squares));
        }
        buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        if (a->base64) {
            json_write_base64(out, "", x->vector, (size_t)width * sizeof(float));
        } else {
            buf_putc(out, '[');
            for (int k = 0; k < width; k++) {
                if (k) buf_putc(out, ',');
                json_write_float(out, x->vector[k]);
            }
            buf_putc(out, ']');
        }
        buf_putc(out, '}');
    }
    buf_puts(out, "],\"model\":");
    json_write_text(out, a->model);
    buf_puts(out, ",\"usage\":");
    openai_usage_write(out, a);
    buf_putc(out, '}');
}

/* The better score first, the earlier document among equals. */
static int by_score(const void *x, const void *y, void *answers)
{
    int i = *(const int *)x, k = *(const int *)y;
    double a = ((const struct text_answer *)answers)[i].score, b = ((const struct text_answer *)answers)[k].score;
    return a > b ? -1 : a < b ? 1 : i - k;
}

static void write_rerank(struct buf *out, const struct openai_ask *a)
{
    int n = a->job.answer_count;
    for (int i = 0; i < n; i++) a->order[i] = i;
    qsort_r(a->order, (size_t)n, sizeof *a->order, by_score, a->job.answers);
    buf_puts(out, "{\"id\":");
    json_write_text(out, a->id);
    buf_puts(out, ",\"model\":");
    json_write_text(out, a->model);
    buf_puts(out, ",\"results\":[");
    for (int rank = 0; rank < a->top_n; rank++) {
        int best = a->order[rank];
        const struct json *d = a->documents[best];
        buf_printf(out, "%s{\"index\":%d,\"relevance_score\":", rank ? "," : "", best);
        json_write_double(out, 1 / (1 + exp(-a->job.answers[best].score)));
        if (a->return_documents) {
            const struct json *text = d->type == JSON_OBJECT ? json_get(d, "text") : d;
            buf_puts(out, ",\"document\":{\"text\":");
            json_write_string(out, text->string.text, text->string.length);
            buf_putc(out, '}');
        }
        buf_putc(out, '}');
    }
    buf_puts(out, "],\"usage\":");
    openai_usage_write(out, a);
    buf_putc(out, '}');
}

static void write_generate(struct buf *out, const struct request *r, const struct model_version *v, const char *text, size_t length)
{
    buf_putc(out, '{');
    oip_answer_head_write(out, r, v);
    buf_puts(out, ",\"text_output\":");
    json_write_string(out, text, length);
    buf_putc(out, '}');
}

void openai_write(struct buf *out, const struct openai_ask *a, const struct request *r, const struct model_version *v)
{
    const struct buf *text = &a->job.answers[0].text;
    switch (a->kind) {
    case OPENAI_EMBEDDINGS: write_embeddings(out, a); break;
    case OPENAI_RERANK: write_rerank(out, a); break;
    case OPENAI_GENERATE: write_generate(out, r, v, text->data ? text->data : "", text->length); break;
    default: write_texts(out, a, v);
    }
}

/* ---- events ---- */
static void begin_chunk(struct buf *out, const struct openai_ask *a)
{
    buf_puts(out, "data: ");
    write_head(out, a, a->kind == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion");
}

static void end_chunk(struct buf *out, const struct openai_ask *a, const struct model_version *v)
{
    write_fingerprint(out, v);
    if (a->include_usage) buf_puts(out, ",\"usage\":null");
    buf_puts(out, "}\n\n");
}

static void end_delta(struct buf *out, const struct openai_ask *a, const struct model_version *v, const char *finish, const struct text_answer *x, int from, int to)
{
    buf_puts(out, ",\"logprobs\":");
    if (to > from) write_logprobs(out, a, x, from, to);
    else buf_puts(out, "null");
    buf_puts(out, ",\"finish_reason\":");
    if (finish) json_write_text(out, finish);
    else buf_puts(out, "null");
    buf_puts(out, "}]");
    end_chunk(out, a, v);
}

static void write_delta(struct buf *out, const struct openai_ask *a, const struct model_version *v, int index, const char *text, size_t length, bool role, const char *finish, const struct text_answer *x, int from, int to)
{
    begin_chunk(out, a);
    buf_printf(out, ",\"choices\":[{\"index\":%d,", index);
    if (a->kind == OPENAI_CHAT) {
        buf_puts(out, "\"delta\":{");
        if (role) buf_puts(out, "\"role\":\"assistant\",\"refusal\":null,");
        if (text) {
            buf_puts(out, "\"content\":");
            json_write_string(out, text, length);
        }
        buf_putc(out, '}');
    } else {
        buf_puts(out, "\"text\":");
        json_write_string(out, text ? text : "", length);
    }
    end_delta(out, a, v, finish, x, from, to);
}

static void begin_delta(struct buf *out, const struct openai_ask *a, int index)
{
    begin_chunk(out, a);
    buf_printf(out, ",\"choices\":[{\"index\":%d,\"delta\":{", index);
}

/* A call: its name, then its arguments. */
static void stream_call(struct buf *out, const struct openai_ask *a, const struct model_version *v, int index, const struct text_answer *x, int call)
{
    if (a->old_calls) {
        begin_delta(out, a, index);
        buf_puts(out, "\"function_call\":{\"name\":");
        json_write_text(out, reader_of(a, x)->calls[call].name);
        buf_puts(out, ",\"arguments\":");
        write_buf(out, &reader_of(a, x)->calls[call].arguments, 0);
        buf_puts(out, "}}");
        end_delta(out, a, v, NULL, x, 0, 0);
        return;
    }
    begin_delta(out, a, index);
    buf_printf(out, "\"tool_calls\":[{\"index\":%d,", call);
    write_call_head(out, a, x, call);
    buf_puts(out, "\"\"}}]}");
    end_delta(out, a, v, NULL, x, 0, 0);
    begin_delta(out, a, index);
    buf_printf(out, "\"tool_calls\":[{\"index\":%d,\"function\":{\"arguments\":", call);
    write_buf(out, &reader_of(a, x)->calls[call].arguments, 0);
    buf_puts(out, "}}]}");
    end_delta(out, a, v, NULL, x, 0, 0);
}

/* What became certain of an answer that is parted. Log-probabilities go with the first event, or with one of their own. */
static void stream_parts(struct buf *out, struct openai_ask *a, const struct model_version *v, int index, int tokens)
{
    const struct text_answer *x = &a->job.answers[index];
    struct openai_cursor *c = &a->cursors[index];
    struct toolcall_reader *r = &a->readers[index];
    read_on(out, r, x, c->text);
    if (r->reasoning.length > c->reasoning) {
        begin_delta(out, a, index);
        buf_puts(out, "\"reasoning_content\":");
        write_buf(out, &r->reasoning, c->reasoning);
        buf_putc(out, '}');
        end_delta(out, a, v, NULL, x, c->tokens, tokens);
        c->tokens = tokens;
    }
    if (r->content.length > c->content || tokens > c->tokens) {
        begin_delta(out, a, index);
        buf_puts(out, "\"content\":");
        write_buf(out, &r->content, c->content);
        buf_putc(out, '}');
        end_delta(out, a, v, NULL, x, c->tokens, tokens);
    }
    for (; c->calls < openai_calls_shown(a, r); c->calls++) stream_call(out, a, v, index, x, c->calls);
    c->reasoning = r->reasoning.length;
    c->content = r->content.length;
}

/* What is new of one answer. With the job's lock. */
static void stream_answer(struct buf *out, struct openai_ask *a, const struct request *r, const struct model_version *v, int index)
{
    const struct text_answer *x = &a->job.answers[index];
    struct openai_cursor *c = &a->cursors[index];
    size_t fresh = x->text.length - c->text;
    int tokens = a->logprobs >= 0 ? x->token_count : 0;
    if (c->ended) return;
    if (a->kind == OPENAI_GENERATE) {
        if (fresh) {
            buf_puts(out, "data: ");
            write_generate(out, r, v, x->text.data + c->text, fresh);
            buf_puts(out, "\n\n");
        }
        c->text = x->text.length;
        c->ended = x->finish != FINISH_NONE;
        return;
    }
    if (!c->begun && a->kind == OPENAI_CHAT) write_delta(out, a, v, index, "", 0, true, NULL, x, 0, 0);
    c->begun = true;
    if (a->readers) stream_parts(out, a, v, index, tokens);
    else if (fresh || tokens > c->tokens) write_delta(out, a, v, index, fresh ? x->text.data + c->text : "", fresh, false, NULL, x, c->tokens, tokens);
    c->text = x->text.length;
    c->tokens = tokens;
    if (x->finish == FINISH_NONE) return;
    write_delta(out, a, v, index, a->kind == OPENAI_CHAT ? NULL : "", 0, false, openai_finish_text(a, x, reader_of(a, x)), x, 0, 0);
    c->ended = true;
}

bool openai_stream(struct buf *out, struct openai_ask *a, const struct request *r, const struct model_version *v, bool finished, const struct err *failure)
{
    pthread_mutex_lock(&a->job.lock);
    for (int i = 0; i < a->job.answer_count; i++) stream_answer(out, a, r, v, i);
    if (finished && !failure && a->include_usage) {
        begin_chunk(out, a);
        buf_puts(out, ",\"choices\":[],\"usage\":");
        openai_usage_write(out, a);
        write_fingerprint(out, v);
        buf_puts(out, "}\n\n");
    }
    pthread_mutex_unlock(&a->job.lock);
    if (finished && failure) {
        buf_puts(out, "data: ");
        if (a->kind == OPENAI_GENERATE) {
            buf_puts(out, "{\"error\":");
            json_write_text(out, failure->text);
            buf_putc(out, '}');
        } else {
            openai_error_write(out, status_http(failure->status), failure->text, NULL, NULL);
        }
        buf_puts(out, "\n\n");
    }
    if (finished && a->kind != OPENAI_GENERATE) buf_puts(out, "data: [DONE]\n\n");
    return finished;
}
