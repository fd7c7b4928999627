/* The steps of a tokenizer.json, by their "type". A type that is not known here is refused with its name: skipping it would give other ids. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

enum { DEPTH_MAX = 4 };

const char *json_text_or(const struct json *object, const char *key, const char *otherwise)
{
    const struct json *v = json_get(object, key);
    return v && v->type == JSON_STRING ? v->string.text : otherwise;
}

bool json_bool_or(const struct json *object, const char *key, bool otherwise)
{
    const struct json *v = json_get(object, key);
    return v && v->type == JSON_BOOL ? v->boolean : otherwise;
}

static bool absent(const struct json *j) { return !j || j->type == JSON_NULL; }

static bool is(const struct json *j, const char *type) { return json_is_string(json_get(j, "type"), type); }

static enum status unknown(const struct json *j, const char *what, struct err *err)
{
    return err_set(err, ST_UNSUPPORTED, "%s of type '%.60s' are not known", what, json_text_or(j, "type", "?"));
}

static enum status too_many(struct err *err) { return err_set(err, ST_BAD_INPUT, "more than %d steps, or nested deeper than %d", STEPS_MAX, DEPTH_MAX); }

/* Each element of a Sequence, by `read`. */
static enum status sequence(struct tokenizer *t, const struct json *list, int depth, enum status (*read)(struct tokenizer *, const struct json *, int, struct err *), struct err *err)
{
    enum status st = ST_OK;
    if (!list || list->type != JSON_ARRAY || depth >= DEPTH_MAX) return too_many(err);
    for (const struct json *e = list->list.first; e && !st; e = e->next) st = read(t, e, depth + 1, err);
    return st;
}

static const char *keep(struct tokenizer *t, const struct json *v, size_t *length)
{
    *length = v && v->type == JSON_STRING ? v->string.length : 0;
    return tokenizer_keep(t, *length ? v->string.text : "", *length);
}

/* {"String": literal} or {"Regex": pattern} */
static enum status read_pattern(const struct json *j, void **out, struct err *err)
{
    const struct json *regex = json_get(j, "Regex"), *literal = json_get(j, "String");
    struct buf b;
    if (regex && regex->type == JSON_STRING) return pattern_compile(out, regex->string.text, regex->string.length, err);
    if (!literal || literal->type != JSON_STRING || !literal->string.length) return err_set(err, ST_BAD_INPUT, "a pattern is neither String nor Regex");
    buf_init(&b, 0);
    for (size_t i = 0; i < literal->string.length; i++) {
        char c = literal->string.text[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (unsigned char)c >= 128;
        if (!word) buf_putc(&b, '\\');
        buf_putc(&b, c);
    }
    enum status st = b.failed ? err_set(err, ST_NO_MEMORY, "no memory for a pattern") : pattern_compile(out, b.data, b.length, err);
    buf_free(&b);
    return st;
}

static enum status read_charsmap(struct tokenizer *t, const struct json *v, struct normalise_step *s, struct err *err)
{
    struct buf b;
    if (!v || v->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "precompiled_charsmap is no text");
    buf_init(&b, 0);
    if (!json_read_base64(&b, v->string.text, v->string.length)) {
        buf_free(&b);
        return err_set(err, ST_BAD_INPUT, "precompiled_charsmap is no base64");
    }
    enum status st = b.failed ? err_set(err, ST_NO_MEMORY, "no memory for precompiled_charsmap") : tokenizer_set_charsmap(t, s, b.data, b.length, err);
    s->graphemes = true;
    buf_free(&b);
    return st;
}

enum status steps_read_normaliser(struct tokenizer *t, const struct json *j, int depth, struct err *err)
{
    static const struct { const char *type; enum normalise_kind kind; } plain[] = {
        { "NFC", NORMALISE_NFC }, { "NFD", NORMALISE_NFD }, { "NFKC", NORMALISE_NFKC }, { "NFKD", NORMALISE_NFKD }, { "Lowercase", NORMALISE_LOWER }, { "StripAccents", NORMALISE_STRIP_ACCENTS },
        { "Nmt", NORMALISE_NMT }, { "ByteLevel", NORMALISE_BYTES },
    };
    if (absent(j)) return ST_OK;
    if (is(j, "Sequence")) return sequence(t, json_get(j, "normalizers"), depth, steps_read_normaliser, err);
    if (t->normalise_count == STEPS_MAX) return too_many(err);
    struct normalise_step *s = &t->normalise[t->normalise_count];
    *s = (struct normalise_step){ 0 };
    enum status st = ST_OK;
    bool known = false;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (is(j, plain[i].type)) s->kind = plain[i].kind, known = true;
    if (known) ;
    else if (is(j, "Strip")) s->kind = NORMALISE_STRIP, s->clean = json_bool_or(j, "strip_left", false), s->accents = json_bool_or(j, "strip_right", false);
    else if (is(j, "Prepend")) s->kind = NORMALISE_PREPEND, s->to = keep(t, json_get(j, "prepend"), &s->to_length);
    else if (is(j, "Replace")) {
        s->kind = NORMALISE_REPLACE;
        s->to = keep(t, json_get(j, "content"), &s->to_length);
        st = read_pattern(json_get(j, "pattern"), &s->pattern, err);
    } else if (is(j, "BertNormalizer")) {
        s->kind = NORMALISE_BERT;
        s->clean = json_bool_or(j, "clean_text", true), s->chinese = json_bool_or(j, "handle_chinese_chars", true), s->lower = json_bool_or(j, "lowercase", true);
        s->accents = json_bool_or(j, "strip_accents", s->lower);
    } else if (is(j, "Precompiled")) st = read_charsmap(t, json_get(j, "precompiled_charsmap"), s, err);
    else st = unknown(j, "normalisers", err);
    if ((s->kind == NORMALISE_PREPEND || s->kind == NORMALISE_REPLACE) && !st && !s->to) st = err_set(err, ST_NO_MEMORY, "no memory for a normaliser");
    if (!st) t->normalise_count++;
    else pattern_free(s->pattern), s->pattern = NULL;
    return st;
}

static enum status read_behaviour(const struct json *j, enum split_behaviour *out, struct err *err)
{
    static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    const char *name = json_text_or(j, "behavior", "Isolated");
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) return *out = (enum split_behaviour)i, ST_OK;
    return err_set(err, ST_UNSUPPORTED, "splitting with behaviour '%.60s' is not known", name);
}

static struct split_step *add_split(struct tokenizer *t, enum split_kind kind, enum split_behaviour behaviour)
{
    if (t->split_count == STEPS_MAX) return NULL;
    struct split_step *s = &t->split[t->split_count++];
    *s = (struct split_step){ .kind = kind, .behaviour = behaviour };
    return s;
}

static enum status add_pattern(struct tokenizer *t, const char *pattern, enum split_behaviour behaviour, bool invert, struct err *err)
{
    struct split_step *s = add_split(t, SPLIT_PATTERN, behaviour);
    if (!s) return too_many(err);
    s->invert = invert;
    return pattern_compile(&s->pattern, pattern, strlen(pattern), err);
}

static enum status read_metaspace(struct tokenizer *t, const struct json *j, struct err *err)
{
    struct split_step *s = add_split(t, SPLIT_METASPACE, SPLIT_WITH_NEXT);
    if (!s) return too_many(err);
    const char *scheme = json_text_or(j, "prepend_scheme", json_bool_or(j, "add_prefix_space", true) ? "always" : "never");
    s->scheme = !strcmp(scheme, "always") ? 2 : !strcmp(scheme, "first") ? 1 : 0;
    s->split = json_bool_or(j, "split", true);
    s->mark = keep(t, json_get(j, "replacement"), &s->mark_length);
    if (s->mark && !s->mark_length) s->mark = tokenizer_keep(t, "\xE2\x96\x81", 3), s->mark_length = 3;
    return s->mark ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for a splitter");
}

/* The pattern of a ByteLevel splitter that uses one is GPT-2's. */
static enum status read_byte_level(struct tokenizer *t, const struct json *j, struct err *err)
{
    static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    struct split_step *s;
    enum status st = ST_OK;
    if (json_bool_or(j, "add_prefix_space", true)) {
        s = add_split(t, SPLIT_METASPACE, SPLIT_WITH_NEXT);          /* a plain space before a word that has none */
        if (!s) return too_many(err);
        s->scheme = 2, s->mark = " ", s->mark_length = 1;
    }
    if (json_bool_or(j, "use_regex", true)) st = add_pattern(t, gpt2, SPLIT_ISOLATED, false, err);
    return st || add_split(t, SPLIT_BYTES, SPLIT_ISOLATED) ? st : too_many(err);
}

enum status steps_read_splitter(struct tokenizer *t, const struct json *j, int depth, struct err *err)
{
    struct split_step *s = NULL;
    enum status st = ST_OK;
    if (absent(j)) return ST_OK;
    if (is(j, "Sequence")) return sequence(t, json_get(j, "pretokenizers"), depth, steps_read_splitter, err);
    if (is(j, "ByteLevel")) return read_byte_level(t, j, err);
    if (is(j, "Metaspace")) return read_metaspace(t, j, err);
    if (is(j, "Whitespace")) return add_pattern(t, "\\w+|[^\\w\\s]+", SPLIT_REMOVED, true, err);
    if (is(j, "Split")) {
        s = add_split(t, SPLIT_PATTERN, SPLIT_ISOLATED);
        if (!s) return too_many(err);
        s->invert = json_bool_or(j, "invert", false);
        st = read_behaviour(j, &s->behaviour, err);
        return st ? st : read_pattern(json_get(j, "pattern"), &s->pattern, err);
    }
    if (is(j, "Digits")) s = add_split(t, SPLIT_DIGITS, json_bool_or(j, "individual_digits", false) ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
    else if (is(j, "Punctuation")) {
        s = add_split(t, SPLIT_PUNCTUATION, SPLIT_ISOLATED);
        if (s) st = read_behaviour(j, &s->behaviour, err);
    } else if (is(j, "BertPreTokenizer")) s = add_split(t, SPLIT_BERT, SPLIT_ISOLATED);
    else if (is(j, "WhitespaceSplit")) s = add_split(t, SPLIT_SPACE, SPLIT_REMOVED);
    else if (is(j, "CharDelimiterSplit")) {
        s = add_split(t, SPLIT_CHAR, SPLIT_REMOVED);
        if (s) s->mark = keep(t, json_get(j, "delimiter"), &s->mark_length);
        if (s && !s->mark_length) return err_set(err, ST_BAD_INPUT, "CharDelimiterSplit without a delimiter");
    } else return unknown(j, "splitters", err);
    return s ? st : too_many(err);
}

static enum status add_wrap(struct tokenizer *t, bool after, const struct json *id, struct err *err)
{
    int64_t v;
    int *count = after ? &t->after_count : &t->before_count;
    if (!id || !json_as_int64(id, &v) || v < 0 || v >= t->count) return err_set(err, ST_BAD_INPUT, "a post-processor names a token id outside 0 to %d", t->count - 1);
    if (*count == WRAP_MAX) return err_set(err, ST_BAD_INPUT, "a post-processor puts more than %d tokens around a text", WRAP_MAX);
    (after ? t->after : t->before)[(*count)++] = (int32_t)v;
    return ST_OK;
}

static enum status read_template(struct tokenizer *t, const struct json *j, struct err *err)
{
    const struct json *single = json_get(j, "single"), *tokens = json_get(j, "special_tokens");
    bool after = false;
    enum status st = ST_OK;
    if (!single || single->type != JSON_ARRAY) return err_set(err, ST_UNSUPPORTED, "TemplateProcessing without a list \"single\"");
    for (const struct json *e = single->list.first; e && !st; e = e->next) {
        const struct json *special = json_get(e, "SpecialToken"), *ids;
        if (json_get(e, "Sequence")) {
            after = true;
            continue;
        }
        ids = json_get(json_get(tokens, json_text_or(special, "id", "")), "ids");
        if (!ids || ids->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "TemplateProcessing names '%.60s', which its special_tokens lack", json_text_or(special, "id", "?"));
        for (const struct json *id = ids->list.first; id && !st; id = id->next) st = add_wrap(t, after, id, err);
    }
    return st;
}

enum status steps_read_wraps(struct tokenizer *t, const struct json *j, int depth, struct err *err)
{
    if (absent(j) || is(j, "ByteLevel")) return ST_OK;
    if (is(j, "Sequence")) return sequence(t, json_get(j, "processors"), depth, steps_read_wraps, err);
    if (is(j, "TemplateProcessing")) return read_template(t, j, err);
    if (!is(j, "BertProcessing") && !is(j, "RobertaProcessing")) return unknown(j, "post-processors", err);
    const struct json *cls = json_get(j, "cls"), *sep = json_get(j, "sep");
    if (!cls || !sep || cls->type != JSON_ARRAY || sep->type != JSON_ARRAY || cls->list.count != 2 || sep->list.count != 2) return err_set(err, ST_BAD_INPUT, "a post-processor's cls and sep must be pairs of text and id");
    enum status st = add_wrap(t, false, cls->list.first->next, err);
    return st ? st : add_wrap(t, true, sep->list.first->next, err);
}

enum status steps_read_decoder(struct tokenizer *t, const struct json *j, int depth, enum piece_style *style, struct err *err)
{
    enum status st = ST_OK;
    if (absent(j)) return ST_OK;
    if (is(j, "Sequence")) {
        const struct json *list = json_get(j, "decoders");
        if (!list || list->type != JSON_ARRAY || depth >= DEPTH_MAX) return too_many(err);
        for (const struct json *e = list->list.first; e && !st; e = e->next) st = steps_read_decoder(t, e, depth + 1, style, err);
        return st;
    }
    if (is(j, "ByteLevel")) *style = PIECE_BYTES;
    else if (is(j, "Metaspace")) {
        *style = PIECE_MARK;
        t->strip_first_space = strcmp(json_text_or(j, "prepend_scheme", json_bool_or(j, "add_prefix_space", true) ? "always" : "never"), "never") != 0;
    } else if (is(j, "WordPiece")) *style = PIECE_WORDPIECE, t->strip_first_space = true;
    else if (is(j, "BPEDecoder")) *style = PIECE_SUFFIX;
    else if (is(j, "Replace") && json_is_string(json_get(json_get(j, "pattern"), "String"), "\xE2\x96\x81")) *style = PIECE_MARK;
    else if (is(j, "Strip")) {
        int64_t start = 0;
        const struct json *v = json_get(j, "start");
        t->strip_first_space = v && json_as_int64(v, &start) && start > 0 && json_is_string(json_get(j, "content"), " ");
    }
    return ST_OK;
}
