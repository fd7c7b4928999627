/* Requests of the OpenAI dialect: which prompts, how many answers, for whom. */
#include "api/openai.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/text/grammar.h"
#include "engine/text/tokenizer.h"
#include "engine/text_ops.h"

enum { COMPLETION_TOKENS_DEFAULT = 16 };

static enum status fault(struct openai_ask *a, const char *parameter, struct err *err, const char *text)
{
    a->parameter = parameter;
    return err_set(err, ST_BAD_INPUT, "%s", text);
}

static bool keep_tokens(struct request *r, struct text_prompt *p, struct token_list *l)
{
    int32_t *ids = arena_alloc(&r->arena, (l->count + 1) * sizeof *ids, 8);
    if (ids && l->count) memcpy(ids, l->ids, l->count * sizeof *ids);
    *p = (struct text_prompt){ .tokens = ids, .count = (int)l->count };
    token_list_free(l);
    return ids != NULL;
}

static enum status add_text(struct openai_ask *a, struct request *r, const char *text, size_t length, struct err *err)
{
    struct token_list l = { 0 };
    if (!a->tokenizer) return err_set(err, ST_BAD_INPUT, "this model has no tokenizer: give token ids");
    enum status st = tokenizer_encode(a->tokenizer, text, length, TOKENIZE_SPECIAL_ADD | (a->kind == OPENAI_COMPLETION || a->kind == OPENAI_GENERATE ? TOKENIZE_SPECIAL_PARSE : 0), &l, err);
    if (st) {
        token_list_free(&l);
        return st;
    }
    return keep_tokens(r, &a->prompts[a->prompt_count++], &l) ? ST_OK : err_set(err, ST_NO_MEMORY, "the request's memory budget");
}

static enum status add_ids(struct openai_ask *a, struct request *r, const char *name, const struct json *list, struct err *err)
{
    int32_t *ids = arena_alloc(&r->arena, (list->list.count + 1) * sizeof *ids, 8);
    int n = 0;
    if (!ids) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    for (const struct json *x = list->list.first; x; x = x->next) {
        int64_t v;
        if (!json_as_int64(x, &v) || v < 0 || v > INT32_MAX) return fault(a, name, err, "a prompt of token ids holds something else");
        ids[n++] = (int32_t)v;
    }
    a->prompts[a->prompt_count++] = (struct text_prompt){ .tokens = ids, .count = n };
    return ST_OK;
}

/* A string, strings, token ids, or lists of token ids. */
static enum status read_prompts(struct openai_ask *a, struct request *r, const struct json *root, const char *name, struct err *err)
{
    const struct json *j = json_get_value(root, name);
    bool list = j && j->type == JSON_ARRAY, many = list && j->list.first && j->list.first->type != JSON_INT;
    if (!j || (j->type != JSON_STRING && !list) || (list && !j->list.count)) {
        a->parameter = name;
        return err_set(err, ST_BAD_INPUT, "'%s' must be a string, a list of strings, a list of token ids or a list of such lists", name);
    }
    size_t n = many ? j->list.count : 1;
    if (n > TEXT_PROMPTS_MAX) return fault(a, name, err, "at most 2048 prompts are taken at once");
    a->prompts = arena_calloc(&r->arena, n + 1, sizeof *a->prompts);
    if (!a->prompts) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    if (j->type == JSON_STRING) return add_text(a, r, j->string.text, j->string.length, err);
    if (!many) return add_ids(a, r, name, j, err);
    enum status st = ST_OK;
    for (const struct json *x = j->list.first; x && !st; x = x->next) {
        if (x->type == JSON_STRING) st = add_text(a, r, x->string.text, x->string.length, err);
        else if (x->type == JSON_ARRAY) st = add_ids(a, r, name, x, err);
        else st = fault(a, name, err, "a list of prompts holds strings or lists of token ids");
    }
    return st;
}

static enum status read_choices(struct openai_ask *a, const struct json *root, int *choices, struct err *err)
{
    const struct json *n = json_get_value(root, "n"), *best = json_get_value(root, "best_of");
    int64_t wanted = 1, of = 0;
    if (n && (!json_as_int64(n, &wanted) || wanted < 1 || wanted > TEXT_CHOICES_MAX)) return fault(a, "n", err, "'n' must be a number from 1 to 16");
    if (best && (!json_as_int64(best, &of) || of < wanted || of > TEXT_CHOICES_MAX)) return fault(a, "best_of", err, "'best_of' must be a number from n to 16");
    a->wanted = (int)wanted;
    *choices = of ? (int)of : (int)wanted;
    return ST_OK;
}

static enum status read_chat(struct openai_ask *a, struct request *r, const struct model_version *v, struct json *root, struct err *err)
{
    struct token_list l = { 0 };
    a->prompts = arena_calloc(&r->arena, 2, sizeof *a->prompts);
    if (!a->prompts) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    const struct json *messages = json_get_value(root, "messages");
    if (!messages || messages->type != JSON_ARRAY || !messages->list.count) return fault(a, "messages", err, "'messages' must be a list of at least one message");
    enum status st = openai_render_end(&l, a->prompt_end, &r->arena, v, root, err);
    if (st) {
        a->parameter = "messages";
        token_list_free(&l);
        return st;
    }
    return keep_tokens(r, &a->prompts[a->prompt_count++], &l) ? ST_OK : err_set(err, ST_NO_MEMORY, "the request's memory budget");
}

/* A pair for a cross-encoder: CLS query SEP document SEP, types 0 and 1. */
static enum status add_pair(struct openai_ask *a, struct request *r, const struct json *query, const struct json *document, struct err *err)
{
    const struct json *text = document->type == JSON_OBJECT ? json_get(document, "text") : document;
    struct token_list first = { 0 }, second = { 0 };
    if (!text || text->type != JSON_STRING) return fault(a, "documents", err, "'documents' must be a list of strings or of objects with a 'text'");
    enum status st = tokenizer_encode(a->tokenizer, query->string.text, query->string.length, TOKENIZE_SPECIAL_ADD, &first, err);
    if (!st) st = tokenizer_encode(a->tokenizer, text->string.text, text->string.length, TOKENIZE_SPECIAL_ADD, &second, err);
    const struct tokenizer_ids *special = tokenizer_ids(a->tokenizer);
    bool roberta = special->cls < 0 || special->cls == special->bos;
    size_t skip = second.count && (second.ids[0] == special->cls || second.ids[0] == special->bos) ? 1 : 0, n = first.count + second.count - skip + (roberta ? 1 : 0), at = 0;
    int32_t *ids = st ? NULL : arena_alloc(&r->arena, (n + 1) * sizeof *ids, 8);
    uint8_t *types = st ? NULL : arena_calloc(&r->arena, n + 1, 1);
    if (!st && (!ids || !types)) st = err_set(err, ST_NO_MEMORY, "the request's memory budget");
    if (!st) {
        for (size_t i = 0; i < first.count; i++) ids[at++] = first.ids[i];
        if (roberta) ids[at++] = special->sep >= 0 ? special->sep : special->eos;
        for (size_t i = skip; i < second.count; i++) {
            types[at] = !roberta;
            ids[at++] = second.ids[i];
        }
        a->prompts[a->prompt_count++] = (struct text_prompt){ .tokens = ids, .count = (int)at, .types = types };
    }
    token_list_free(&first);
    token_list_free(&second);
    return st;
}

static enum status read_rerank(struct openai_ask *a, struct request *r, const struct json *root, struct err *err)
{
    const struct json *query = json_get_value(root, "query"), *documents = json_get_value(root, "documents"), *top = json_get_value(root, "top_n"), *back = json_get_value(root, "return_documents");
    int64_t n = 0;
    if (!query || query->type != JSON_STRING) return fault(a, "query", err, "'query' must be a string");
    if (!documents || documents->type != JSON_ARRAY || !documents->list.count || documents->list.count > TEXT_PROMPTS_MAX) return fault(a, "documents", err, "'documents' must be a list of 1 to 2048 strings");
    if (top && (!json_as_int64(top, &n) || n < 1)) return fault(a, "top_n", err, "'top_n' must be a positive number");
    if (!a->tokenizer) return err_set(err, ST_BAD_INPUT, "this model has no tokenizer");
    a->top_n = n > 0 && n < (int64_t)documents->list.count ? (int)n : (int)documents->list.count;
    a->return_documents = back && back->type == JSON_BOOL && back->boolean;
    a->prompts = arena_calloc(&r->arena, documents->list.count + 1, sizeof *a->prompts);
    a->documents = arena_calloc(&r->arena, documents->list.count, sizeof *a->documents);
    a->order = arena_calloc(&r->arena, documents->list.count, sizeof *a->order);
    if (!a->prompts || !a->documents || !a->order) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    enum status st = ST_OK;
    for (const struct json *d = documents->list.first; d && !st; d = d->next) {
        a->documents[a->prompt_count] = d;
        st = add_pair(a, r, query, d, err);
    }
    return st;
}

static enum status read_embedding_fields(struct openai_ask *a, const struct json *root, struct err *err)
{
    const struct json *format = json_get_value(root, "encoding_format"), *dimensions = json_get_value(root, "dimensions");
    int64_t n = 0;
    if (format && !json_is_string(format, "float") && !json_is_string(format, "base64")) return fault(a, "encoding_format", err, "'encoding_format' must be float or base64");
    if (dimensions && (!json_as_int64(dimensions, &n) || n < 1 || n > INT32_MAX)) return fault(a, "dimensions", err, "'dimensions' must be a positive number");
    a->base64 = format && json_is_string(format, "base64");
    a->dimensions = (int)n;
    return ST_OK;
}

static void make_id(struct openai_ask *a)
{
    static const char *const prefixes[] = { [OPENAI_CHAT] = "chatcmpl-", [OPENAI_COMPLETION] = "cmpl-", [OPENAI_EMBEDDINGS] = "embd-", [OPENAI_RERANK] = "rerank-", [OPENAI_GENERATE] = "" };
    uint64_t random[2] = { 0 };
    if (getrandom(random, sizeof random, GRND_NONBLOCK) != sizeof random) random[0] = (uint64_t)(uintptr_t)a ^ (uint64_t)a->created;
    snprintf(a->id, sizeof a->id, "%s%012llx%012llx", prefixes[a->kind], (unsigned long long)(random[0] & 0xffffffffffff), (unsigned long long)(random[1] & 0xffffffffffff));
}

enum status openai_read(struct openai_ask *a, enum openai_kind kind, struct request *r, const struct model_version *v, struct json *root, int64_t now, struct err *err)
{
    const struct json *model = json_get_value(root, "model");
    int choices = 1;
    *a = (struct openai_ask){ .kind = kind, .created = now, .model = model && model->type == JSON_STRING ? model->string.text : v->name, .wanted = 1, .logprobs = -1, .tokenizer = v->ops->text->tokenizer(v->engine) };
    make_id(a);
    enum status st = ST_OK;
    if (kind == OPENAI_CHAT && !openai_tools_modernise(a, &r->arena, root)) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    const struct json *suffix = json_get_value(root, "suffix");
    if (kind == OPENAI_COMPLETION && suffix && !(suffix->type == JSON_STRING && !suffix->string.length)) return fault(a, "suffix", err, "'suffix' is not taken: the model writes what follows a prompt, not what stands between two texts");
    if (kind == OPENAI_CHAT) st = read_chat(a, r, v, root, err);
    else if (kind == OPENAI_RERANK) st = read_rerank(a, r, root, err);
    else st = read_prompts(a, r, root, kind == OPENAI_COMPLETION ? "prompt" : kind == OPENAI_GENERATE ? "text_input" : "input", err);
    bool text = kind == OPENAI_CHAT || kind == OPENAI_COMPLETION || kind == OPENAI_GENERATE;
    if (!st && text) st = read_choices(a, root, &choices, err);
    if (st) return st;
    st = text_job_open(&a->job, kind == OPENAI_EMBEDDINGS ? TEXT_EMBED : kind == OPENAI_RERANK ? TEXT_SCORE : TEXT_GENERATE, a->prompts, a->prompt_count, choices, err);
    if (st) return st;
    a->has_job = true;
    if (text) {
        if (kind == OPENAI_COMPLETION) a->job.max_tokens = COMPLETION_TOKENS_DEFAULT;
        st = openai_fields_read(a, r, root, err);
        if (!st && kind == OPENAI_CHAT) st = openai_tools_read(a, r, v, root, err);
        if (!st && choices > a->wanted) {
            if (a->stream) st = fault(a, "best_of", err, "'best_of' cannot be streamed");
            if (a->job.logprobs < 0) a->job.logprobs = 0;      /* the best is the likeliest */
        }
    }
    if (!st && kind == OPENAI_EMBEDDINGS) st = read_embedding_fields(a, root, err);
    if (!st && a->dimensions > v->ops->text->width(v->engine)) {
        a->parameter = "dimensions";
        st = err_set(err, ST_BAD_INPUT, "'dimensions' must be at most %d, the length of this model's vectors", v->ops->text->width(v->engine));
    }
    if (st) return st;
    a->cursors = arena_calloc(&r->arena, (uint64_t)a->job.answer_count, sizeof *a->cursors);
    if (!a->cursors) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    r->text = &a->job;
    return ST_OK;
}

void openai_ask_close(struct openai_ask *a)
{
    for (int i = 0; a->readers && i < a->job.answer_count; i++) toolcall_reader_close(&a->readers[i]);
    a->readers = NULL;
    if (a->has_job) text_job_close(&a->job);
    grammar_close(a->grammar);
    a->grammar = NULL;
    a->has_job = false;
}
