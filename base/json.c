/* The reader. One loop walks the text; open arrays and objects stand on an explicit stack, so nesting costs two pointers and nothing recurses.
 * Nodes and unescaped strings go to the caller's arena, whose budget bounds what a hostile text can take: a node is 48 bytes for at
 * least two bytes of text. Numbers are in json_number.c, the writers in json_write.c. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { DEPTH_DEFAULT = 100, DEPTH_MAX = 1000 };

struct parser {
    const char  *text, *p, *end;
    struct arena *arena;
    const struct json_options *options;
    struct err  *err;
    int          depth_max, depth;
    struct json *open[DEPTH_MAX];          /* arrays and objects that are not closed yet */
    struct json *last[DEPTH_MAX];          /* the last child of each */
};

static enum status fail_at(struct parser *s, const char *at, const char *what)
{
    return err_set(s->err, ST_BAD_INPUT, "not JSON: %s at byte %llu", what, (unsigned long long)(at - s->text));
}

static enum status fail_memory(struct parser *s) { return err_set(s->err, ST_NO_MEMORY, "the JSON document needs more memory than its budget"); }

static inline void skip_space(struct parser *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t')) s->p++;
}

/* Finds the closing quote of the string whose first byte is at `from`; checks its bytes; tells whether it holds escapes. */
static enum status scan_string(struct parser *s, const char *from, const char **close, bool *escaped)
{
    const char *p = from;
    *escaped = false;
    for (;;) {
        while (s->end - p >= 8) {                /* eight plain ASCII bytes at a time */
            uint64_t v;
            memcpy(&v, p, 8);
            uint64_t quote = v ^ 0x2222222222222222u, slash = v ^ 0x5c5c5c5c5c5c5c5cu;
            uint64_t stop = ((quote - 0x0101010101010101u) & ~quote) | ((slash - 0x0101010101010101u) & ~slash) | (v - 0x2020202020202020u) | v;
            if (stop & 0x8080808080808080u) break;
            p += 8;
        }
        if (p >= s->end) return fail_at(s, from - 1, "a string without its closing quote");
        unsigned char c = (unsigned char)*p;
        if (c == '"') return *close = p, ST_OK;
        if (c < 0x20) return fail_at(s, p, "a control byte within a string (it must be escaped)");
        if (c == '\\') {
            *escaped = true;
            if (s->end - p < 2) return fail_at(s, from - 1, "a string without its closing quote");
            p += 2;
            continue;
        }
        size_t n = json_utf8_length(p, (size_t)(s->end - p));
        if (!n) return fail_at(s, p, "invalid UTF-8");
        p += n;
    }
}

static int hex4(const char *p, const char *end)
{
    if (end - p < 4) return -1;
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static char *put_utf8(char *o, uint32_t c)
{
    if (c < 0x80) return *o++ = (char)c, o;
    if (c < 0x800) {
        *o++ = (char)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        *o++ = (char)(0xe0 | c >> 12);
        *o++ = (char)(0x80 | (c >> 6 & 63));
    } else {
        *o++ = (char)(0xf0 | c >> 18);
        *o++ = (char)(0x80 | (c >> 12 & 63));
        *o++ = (char)(0x80 | (c >> 6 & 63));
    }
    *o++ = (char)(0x80 | (c & 63));
    return o;
}

/* Reads the escape whose backslash is at *at; moves *at behind it. */
static enum status unescape_one(struct parser *s, const char **at, const char *close, char **out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *p = *at + 1;
    if (*p != 'u') {
        const char *hit = *p ? strchr(from, *p) : NULL;
        if (!hit) return fail_at(s, *at, "an unknown escape");
        *(*out)++ = to[hit - from];
        *at = p + 1;
        return ST_OK;
    }
    int high = hex4(p + 1, close);
    if (high < 0) return fail_at(s, *at, "\\u without four hexadecimal digits");
    uint32_t c = (uint32_t)high;
    p += 5;
    if (c >= 0xdc00 && c < 0xe000) return fail_at(s, *at, "a lone low surrogate");
    if (c >= 0xd800 && c < 0xdc00) {
        int low = close - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, close) : -1;
        if (low < 0xdc00 || low > 0xdfff) return fail_at(s, *at, "a lone high surrogate");
        c = 0x10000 + ((c - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
        p += 6;
    }
    *out = put_utf8(*out, c);
    *at = p;
    return ST_OK;
}

/* s->p is behind the opening quote; afterwards behind the closing one. */
static enum status parse_string(struct parser *s, const char **text, size_t *length)
{
    const char *close, *from = s->p;
    bool escaped;
    enum status st = scan_string(s, from, &close, &escaped);
    if (st) return st;
    size_t n = (size_t)(close - from);
    char *copy = arena_alloc(s->arena, (uint64_t)n + 1, 1);
    if (!copy) return fail_memory(s);
    char *o = copy;
    if (!escaped) {
        memcpy(o, from, n);
        o += n;
    } else {
        for (const char *p = from; p < close;) {
            if (*p != '\\') *o++ = *p++;
            else if ((st = unescape_one(s, &p, close, &o))) return st;
        }
    }
    *o = 0;
    *text = copy;
    *length = (size_t)(o - copy);
    s->p = close + 1;
    return ST_OK;
}

/* The next byte at or after p that matters within an unread array: a bracket, a brace or a quote. */
static const char *next_structural(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), fold = _mm_set1_epi8(0x26), brace = _mm_set1_epi8(0x7f);
    for (; end - p >= 16; p += 16) {           /* [ ] { } are 5b 5d 7b 7d: with the bits 26 set each becomes 7f, and few others do */
        __m128i v = _mm_loadu_si128((const __m128i *)p);
        int hit = _mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(_mm_or_si128(v, fold), brace)));
        while (hit) {
            const char *q = p + __builtin_ctz((unsigned)hit);
            if (*q == '"' || *q == '[' || *q == ']' || *q == '{' || *q == '}') return q;
            hit &= hit - 1;
        }
    }
#endif
    while (p < end && *p != '"' && *p != '[' && *p != ']' && *p != '{' && *p != '}') p++;
    return p;
}

/* s->p is at '['. The array is balanced, not read. */
static enum status skip_raw(struct parser *s, struct json *n)
{
    uint64_t object[DEPTH_MAX / 64 + 1] = { 0 };         /* bit d: level d is an object */
    const char *from = s->p;
    int d = s->depth;
    for (const char *p = from;; p++) {
        p = next_structural(p, s->end);
        if (p == s->end) return fail_at(s, from, "an array without its closing bracket");
        if (*p == '"') {
            bool escaped;
            enum status st = scan_string(s, p + 1, &p, &escaped);
            if (st) return st;
        } else if (*p == '[' || *p == '{') {
            if (d >= s->depth_max) return fail_at(s, p, "nested too deeply");
            uint64_t bit = 1ull << (d % 64);
            object[d / 64] = *p == '{' ? object[d / 64] | bit : object[d / 64] & ~bit;
            d++;
        } else {
            d--;
            if ((*p == '}') != (object[d / 64] >> (d % 64) & 1)) return fail_at(s, p, "a closing bracket of the wrong kind");
            if (d == s->depth) {
                n->type = JSON_RAW;
                n->raw.text = from;
                n->raw.length = (size_t)(p + 1 - from);
                s->p = p + 1;
                return ST_OK;
            }
        }
    }
}

static enum status parse_word(struct parser *s, struct json *n)
{
    static const struct { const char *word; size_t length; enum json_type type; bool value; } words[] = {
        { "true", 4, JSON_BOOL, true }, { "false", 5, JSON_BOOL, false }, { "null", 4, JSON_NULL, false },
    };
    for (int i = 0; i < 3; i++) {
        if ((size_t)(s->end - s->p) < words[i].length || memcmp(s->p, words[i].word, words[i].length)) continue;
        n->type = words[i].type;
        n->boolean = words[i].value;
        s->p += words[i].length;
        return ST_OK;
    }
    return fail_at(s, s->p, "something that is no value");
}

/* Reads a value that has no children of its own, or opens an array or object. */
static enum status parse_value(struct parser *s, struct json *n)
{
    if (s->p == s->end) return fail_at(s, s->p, "a value is missing: the text ends");
    char c = *s->p;
    if (c == '[' || c == '{') {
        if (s->depth >= s->depth_max) return fail_at(s, s->p, "nested too deeply");
        const char *raw = s->options ? s->options->raw_key : NULL;
        if (c == '[' && raw && n->key && !strcmp(n->key, raw) && strlen(raw) == n->key_length) return skip_raw(s, n);
        n->type = c == '[' ? JSON_ARRAY : JSON_OBJECT;
        n->list.first = NULL;
        n->list.count = 0;
        s->open[s->depth] = n;
        s->last[s->depth++] = NULL;
        s->p++;
        return ST_OK;
    }
    if (c == '"') {
        n->type = JSON_STRING;
        s->p++;
        return parse_string(s, &n->string.text, &n->string.length);
    }
    if (c == '-' || (c >= '0' && c <= '9')) {
        const char *after = json_number(s->p, s->end, n);
        if (!after) return fail_at(s, s->p, "a malformed number or one out of range");
        s->p = after;
        return ST_OK;
    }
    return parse_word(s, n);
}

/* Makes the next child of the innermost open array or object, reading its key and colon. */
static enum status begin_child(struct parser *s, struct json **out)
{
    struct json *n = arena_calloc(s->arena, 1, sizeof *n);
    if (!n) return fail_memory(s);
    struct json *parent = s->open[s->depth - 1];
    if (s->last[s->depth - 1]) s->last[s->depth - 1]->next = n;
    else parent->list.first = n;
    s->last[s->depth - 1] = n;
    parent->list.count++;
    *out = n;
    if (parent->type != JSON_OBJECT) return ST_OK;
    if (s->p == s->end || *s->p != '"') return fail_at(s, s->p, "a member must begin with its name in quotes");
    s->p++;
    enum status st = parse_string(s, &n->key, &n->key_length);
    if (st) return st;
    skip_space(s);
    if (s->p == s->end || *s->p != ':') return fail_at(s, s->p, "a colon is missing behind a member's name");
    s->p++;
    skip_space(s);
    return ST_OK;
}

static int compare_keys(const void *a, const void *b)
{
    const struct json *x = *(const struct json *const *)a, *y = *(const struct json *const *)b;
    if (x->key_length != y->key_length) return x->key_length < y->key_length ? -1 : 1;
    return memcmp(x->key, y->key, x->key_length);
}

static enum status check_unique(struct parser *s, const struct json *object)
{
    size_t n = object->list.count, at = 0;
    if (n < 2) return ST_OK;
    const struct json **all = arena_alloc(s->arena, (uint64_t)n * sizeof *all, sizeof *all);
    if (!all) return fail_memory(s);
    for (const struct json *m = object->list.first; m; m = m->next) all[at++] = m;
    qsort(all, n, sizeof *all, compare_keys);
    for (size_t i = 1; i < n; i++)
        if (!compare_keys(&all[i - 1], &all[i]))
            return err_set(s->err, ST_BAD_INPUT, "the member '%.64s' is given twice in one JSON object", all[i]->key);
    return ST_OK;
}

/* Behind a value: closes what closes, and stops in front of the next value with *next made for it, or NULL at the end of the root. */
static enum status follow(struct parser *s, bool fresh, struct json **next)
{
    *next = NULL;
    while (s->depth) {
        skip_space(s);
        struct json *parent = s->open[s->depth - 1];
        char close = parent->type == JSON_ARRAY ? ']' : '}';
        if (s->p == s->end) return fail_at(s, s->p, parent->type == JSON_ARRAY ? "an array is not closed" : "an object is not closed");
        if (*s->p == close) {
            s->p++;
            s->depth--;
            fresh = false;
            enum status st = s->options && s->options->unique_keys && close == '}' ? check_unique(s, parent) : ST_OK;
            if (st) return st;
            continue;
        }
        if (!fresh) {
            if (*s->p != ',') return fail_at(s, s->p, close == ']' ? "',' or ']' is missing" : "',' or '}' is missing");
            s->p++;
            skip_space(s);
        }
        return begin_child(s, next);
    }
    return ST_OK;
}

enum status json_parse(struct json **out, struct arena *arena, const char *text, size_t length, const struct json_options *options, struct err *err)
{
    struct parser s;              /* the stacks need no clearing */
    s.text = s.p = text;
    s.end = text + length;
    s.arena = arena;
    s.options = options;
    s.err = err;
    s.depth = 0;
    s.depth_max = options && options->depth_max > 0 ? options->depth_max : DEPTH_DEFAULT;
    if (s.depth_max > DEPTH_MAX) s.depth_max = DEPTH_MAX;
    struct json *root = arena_calloc(arena, 1, sizeof *root), *n = root;
    if (!root) return fail_memory(&s);
    skip_space(&s);
    while (n) {
        int depth = s.depth;
        enum status st = parse_value(&s, n);
        if (!st) st = follow(&s, s.depth > depth, &n);
        if (st) return st;
    }
    skip_space(&s);
    if (s.p != s.end) return fail_at(&s, s.p, "something follows the value");
    *out = root;
    return ST_OK;
}

const struct json *json_get(const struct json *object, const char *key)
{
    if (!object || object->type != JSON_OBJECT) return NULL;
    size_t n = strlen(key);
    for (const struct json *m = object->list.first; m; m = m->next)
        if (m->key_length == n && !memcmp(m->key, key, n)) return m;
    return NULL;
}

const struct json *json_get_value(const struct json *object, const char *key)
{
    const struct json *j = json_get(object, key);
    return j && j->type != JSON_NULL ? j : NULL;
}

bool json_is_string(const struct json *j, const char *text)
{
    return j && j->type == JSON_STRING && j->string.length == strlen(text) && !memcmp(j->string.text, text, j->string.length);
}

bool json_as_int64(const struct json *j, int64_t *out)
{
    if (!j || j->type != JSON_INT) return false;
    *out = j->integer;
    return true;
}

bool json_as_uint64(const struct json *j, uint64_t *out)
{
    if (!j || !(j->type == JSON_UINT || (j->type == JSON_INT && j->integer >= 0))) return false;
    *out = j->natural;
    return true;
}

bool json_as_double(const struct json *j, double *out)
{
    if (!j) return false;
    if (j->type == JSON_REAL) *out = j->real;
    else if (j->type == JSON_INT) *out = (double)j->integer;
    else if (j->type == JSON_UINT) *out = (double)j->natural;
    else return false;
    return true;
}
