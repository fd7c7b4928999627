/* The fields that say how a text is generated: one table for the numbers, a function for each that is more than a number. */
#include "api/openai.h"

#include <stddef.h>
#include <string.h>

enum field_type { FIELD_FLOAT, FIELD_INT, FIELD_BOOL };
struct field { const char *name; enum field_type type; size_t offset; };

#define SAMPLING(name_, type_, member) { name_, type_, offsetof(struct openai_ask, job.sampling.member) }
#define JOB(name_, type_, member) { name_, type_, offsetof(struct openai_ask, job.member) }
static const struct field fields[] = {
    SAMPLING("temperature", FIELD_FLOAT, temperature), SAMPLING("top_p", FIELD_FLOAT, top_p), SAMPLING("top_k", FIELD_INT, top_k), SAMPLING("min_p", FIELD_FLOAT, min_p),
    SAMPLING("typical_p", FIELD_FLOAT, typical_p), SAMPLING("top_n_sigma", FIELD_FLOAT, top_n_sigma), SAMPLING("xtc_probability", FIELD_FLOAT, xtc_probability),
    SAMPLING("xtc_threshold", FIELD_FLOAT, xtc_threshold), SAMPLING("mirostat", FIELD_INT, mirostat), SAMPLING("mirostat_tau", FIELD_FLOAT, mirostat_tau), SAMPLING("mirostat_eta", FIELD_FLOAT, mirostat_eta),
    SAMPLING("repetition_penalty", FIELD_FLOAT, repetition_penalty), SAMPLING("repeat_penalty", FIELD_FLOAT, repetition_penalty), SAMPLING("repeat_last_n", FIELD_INT, penalty_window),
    SAMPLING("presence_penalty", FIELD_FLOAT, presence_penalty), SAMPLING("frequency_penalty", FIELD_FLOAT, frequency_penalty), SAMPLING("dry_multiplier", FIELD_FLOAT, dry_multiplier),
    SAMPLING("dry_base", FIELD_FLOAT, dry_base), SAMPLING("dry_allowed_length", FIELD_INT, dry_allowed_length), SAMPLING("dry_penalty_last_n", FIELD_INT, dry_window),
    JOB("max_tokens", FIELD_INT, max_tokens), JOB("max_completion_tokens", FIELD_INT, max_tokens), JOB("min_tokens", FIELD_INT, min_tokens), JOB("ignore_eos", FIELD_BOOL, ignore_eos),
    JOB("echo", FIELD_BOOL, echo), JOB("skip_special_tokens", FIELD_BOOL, skip_special),
};

static enum status wrong(struct openai_ask *a, const char *name, const char *needed, struct err *err)
{
    a->parameter = name;
    return err_set(err, ST_BAD_INPUT, "'%s' must be %s", name, needed);
}

static enum status read_field(struct openai_ask *a, const struct field *f, const struct json *j, struct err *err)
{
    void *at = (char *)a + f->offset;
    double real;
    int64_t whole;
    switch (f->type) {
    case FIELD_FLOAT:
        if (!json_as_double(j, &real)) return wrong(a, f->name, "a number", err);
        *(float *)at = (float)real;
        return ST_OK;
    case FIELD_INT:
        if (json_as_int64(j, &whole) && whole == -1 && !strcmp(f->name, "top_k")) whole = 0;
        else if (!json_as_int64(j, &whole) || whole < INT32_MIN || whole > INT32_MAX) return wrong(a, f->name, "a whole number", err);
        *(int32_t *)at = (int32_t)whole;
        return ST_OK;
    default:
        if (j->type != JSON_BOOL) return wrong(a, f->name, "true or false", err);
        *(bool *)at = j->boolean;
        return ST_OK;
    }
}

/* A string, or a list of strings. */
static enum status read_texts(struct openai_ask *a, struct request *r, const struct json *root, const char *name, int most, const struct text_stop **out, int *count, struct err *err)
{
    const struct json *j = json_get_value(root, name);
    if (!j) return ST_OK;
    bool one = j->type == JSON_STRING;
    if (!one && j->type != JSON_ARRAY) return wrong(a, name, "a string or a list of strings", err);
    size_t n = one ? 1 : j->list.count;
    if (n > (size_t)most) {
        a->parameter = name;
        return err_set(err, ST_BAD_INPUT, "'%s': at most %d strings are taken", name, most);
    }
    struct text_stop *list = arena_calloc(&r->arena, n + 1, sizeof *list);
    if (!list) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    int at = 0;
    for (const struct json *s = one ? j : j->list.first; s; s = one ? NULL : s->next) {
        if (s->type != JSON_STRING) return wrong(a, name, "a string or a list of strings", err);
        if (s->string.length) list[at++] = (struct text_stop){ s->string.text, s->string.length };
    }
    *out = list;
    *count = at;
    return ST_OK;
}

static enum status read_stop_ids(struct openai_ask *a, struct request *r, const struct json *root, struct err *err)
{
    const struct json *j = json_get_value(root, "stop_token_ids");
    if (!j) return ST_OK;
    if (j->type != JSON_ARRAY || j->list.count > TEXT_STOP_IDS_MAX) return wrong(a, "stop_token_ids", "a list of at most 64 token ids", err);
    int32_t *ids = arena_calloc(&r->arena, j->list.count + 1, sizeof *ids);
    if (!ids) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    for (const struct json *x = j->list.first; x; x = x->next) {
        int64_t v;
        if (!json_as_int64(x, &v) || v < 0 || v > INT32_MAX) return wrong(a, "stop_token_ids", "a list of token ids", err);
        ids[a->job.stop_id_count++] = (int32_t)v;
    }
    a->job.stop_ids = ids;
    return ST_OK;
}

/* {"token id": bias} or [[token id, bias]]. */
static enum status read_bias(struct openai_ask *a, struct request *r, const struct json *root, struct err *err)
{
    const struct json *j = json_get_value(root, "logit_bias");
    if (!j) return ST_OK;
    if (j->type != JSON_OBJECT || j->list.count > TEXT_BIAS_MAX) return wrong(a, "logit_bias", "an object of at most 1024 token ids and their biases", err);
    struct token_bias *list = arena_calloc(&r->arena, j->list.count + 1, sizeof *list);
    if (!list) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    int n = 0;
    for (const struct json *x = j->list.first; x; x = x->next) {
        struct json id;
        double bias;
        const char *end = x->key + x->key_length;
        if (json_number(x->key, end, &id) != end || id.type != JSON_INT || id.integer < 0 || id.integer > INT32_MAX || !json_as_double(x, &bias)) return wrong(a, "logit_bias", "an object of token ids and numbers", err);
        list[n++] = (struct token_bias){ (int32_t)id.integer, (float)bias };
    }
    a->job.bias = list;
    a->job.bias_count = n;
    return ST_OK;
}

static enum status read_seed(struct openai_ask *a, const struct json *root, struct err *err)
{
    const struct json *j = json_get_value(root, "seed");
    int64_t v;
    uint64_t u;
    if (!j) return ST_OK;
    if (json_as_int64(j, &v)) a->job.sampling.seed = (uint64_t)v;
    else if (json_as_uint64(j, &u)) a->job.sampling.seed = u;
    else return wrong(a, "seed", "a 64-bit whole number", err);
    a->job.sampling.seeded = true;
    return ST_OK;
}

/* Chat: logprobs is a switch and top_logprobs the number; completions: logprobs is the number. */
static enum status read_logprobs(struct openai_ask *a, const struct json *root, struct err *err)
{
    const struct json *on = json_get_value(root, "logprobs"), *top = json_get_value(root, "top_logprobs");
    int64_t n = 0;
    a->logprobs = -1;
    if (a->kind == OPENAI_CHAT) {
        if (on && on->type != JSON_BOOL) return wrong(a, "logprobs", "true or false", err);
        if (top && (!json_as_int64(top, &n) || n < 0 || n > TEXT_LOGPROBS_MAX)) return wrong(a, "top_logprobs", "a number from 0 to 20", err);
        if (top && !(on && on->boolean)) {
            a->parameter = "top_logprobs";
            return err_set(err, ST_BAD_INPUT, "'top_logprobs' needs 'logprobs' to be true");
        }
        if (on && on->boolean) a->logprobs = (int)n;
    } else if (on) {
        if (!json_as_int64(on, &n) || n < 0 || n > TEXT_LOGPROBS_MAX) return wrong(a, "logprobs", "a number from 0 to 20", err);
        a->logprobs = (int)n;
    }
    a->job.logprobs = a->logprobs;
    return ST_OK;
}

static enum status read_stream(struct openai_ask *a, const struct json *root, struct err *err)
{
    const struct json *on = json_get_value(root, "stream"), *options = json_get_value(root, "stream_options");
    if (on && on->type != JSON_BOOL) return wrong(a, "stream", "true or false", err);
    a->stream = on && on->boolean;
    if (!options) return ST_OK;
    const struct json *usage = json_get_value(options, "include_usage");
    if (options->type != JSON_OBJECT || (usage && usage->type != JSON_BOOL)) return wrong(a, "stream_options", "an object", err);
    if (!a->stream) {
        a->parameter = "stream_options";
        return err_set(err, ST_BAD_INPUT, "'stream_options' is only taken with 'stream': true");
    }
    a->include_usage = usage && usage->boolean;
    return ST_OK;
}

enum status openai_fields_read(struct openai_ask *a, struct request *r, const struct json *root, struct err *err)
{
    enum status st = ST_OK;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0] && !st; i++) {
        const struct json *j = json_get_value(root, fields[i].name);
        if (j) st = read_field(a, &fields[i], j, err);
    }
    const struct json *cache = json_get_value(root, "cache_prompt"), *priority = json_get_value(root, "priority");
    int64_t level;
    if (cache && cache->type == JSON_BOOL) a->job.no_cache = !cache->boolean;
    if (!st && priority && json_as_int64(priority, &level) && level > 0 && level <= UINT32_MAX) r->priority = (uint32_t)level;
    if (!st && a->job.max_tokens < -1) st = wrong(a, "max_tokens", "a number of tokens", err);
    if (!st) st = read_texts(a, r, root, "stop", TEXT_STOPS_MAX, &a->job.stops, &a->job.stop_count, err);
    if (!st) st = read_texts(a, r, root, "dry_sequence_breakers", TEXT_BREAKERS_MAX, &a->job.breakers, &a->job.breaker_count, err);
    if (!st) st = read_stop_ids(a, r, root, err);
    if (!st) st = read_bias(a, r, root, err);
    if (!st) st = read_seed(a, root, err);
    if (!st) st = read_logprobs(a, root, err);
    if (!st) st = read_stream(a, root, err);
    return st ? st : openai_format_read(a, &r->arena, root, err);
}
