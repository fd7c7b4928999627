/* Operators on string tensors: StringConcat, StringSplit, StringNormalizer, RegexFullMatch. New texts lie in the run's memory. */
#include <string.h>
#include <utf8proc.h>

#include "engine/operators/operators.h"
#include "engine/text/regex.h"

enum { REGEX_CPU_NS = 1000000000 };

static enum status no_room(const struct call *c, struct err *err) { return call_error(c, err, ST_NO_MEMORY, "its texts pass the memory budget"); }

static enum status need_strings(const struct call *c, struct err *err)
{
    for (int i = 0; i < c->in_count; i++)
        if (c->in[i] && c->in[i]->dtype != DT_STRING) return call_error(c, err, ST_BAD_INPUT, "input %d must hold strings", i);
    return ST_OK;
}

/* ---- StringConcat ---- */
static enum status infer_concat(struct call *c, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX];
    int rank;
    enum status st = need_strings(c, err);
    if (!st) st = infer_broadcast_dims(c, dims, &rank, err);
    return st ? st : call_set(c, 0, DT_STRING, dims, rank, err);
}

static enum status eval_concat(struct call *c, struct err *err)
{
    struct walk w;
    enum status st = walk_broadcast(&w, c, err);
    struct string_ref *y = c->out[0]->data;
    for (; !st && w.more; walk_next(&w))
        for (int64_t i = 0; i < w.run; i++, y++) {
            const struct string_ref *a = (const struct string_ref *)c->in[0]->data + w.offset[0] + i * walk_step(&w, 0), *b = (const struct string_ref *)c->in[1]->data + w.offset[1] + i * walk_step(&w, 1);
            char *text = arena_alloc(c->run, (uint64_t)a->length + b->length + 1, 1);
            if (!text) return no_room(c, err);
            if (a->length) memcpy(text, a->text, a->length);
            if (b->length) memcpy(text + a->length, b->text, b->length);
            *y = (struct string_ref){ text, a->length + b->length };
        }
    return st;
}

/* ---- StringSplit(x) -> parts [..., most], counts ---- */
static bool is_space(char ch) { return ch == ' ' || (ch >= 9 && ch <= 13); }

/* The next part of *rest; `splits` is how many cuts are left. Without a mark the text is cut at runs of white space, none at its ends. */
static bool next_part(struct string_ref *rest, struct string_ref mark, int64_t splits, bool *last, struct string_ref *out)
{
    const char *p = rest->text, *end = rest->text + rest->length;
    if (mark.length == 0) {
        while (p < end && is_space(*p)) p++;
        if (p == end) return false;
        const char *q = p;
        while (q < end && !is_space(*q)) q++;
        if (splits == 0)
            for (q = end; q > p && is_space(q[-1]);) q--;
        *out = (struct string_ref){ p, (size_t)(q - p) };
        *rest = (struct string_ref){ q, splits == 0 ? 0 : (size_t)(end - q) };
        return true;
    }
    if (*last) return false;
    const char *hit = splits == 0 || rest->length == 0 ? NULL : memmem(p, rest->length, mark.text, mark.length);
    *last = !hit;
    *out = (struct string_ref){ p, (size_t)((hit ? hit : end) - p) };
    if (hit) *rest = (struct string_ref){ hit + mark.length, (size_t)(end - hit) - mark.length };
    return true;
}

static enum status eval_split(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    const struct onnx_attribute *a = node_attribute(c->node, "delimiter");
    struct string_ref mark = a && a->type == ONNX_STRING ? a->s : (struct string_ref){ "", 0 };
    int64_t most = node_int(c->node, "maxsplit", -1), dims[TENSOR_RANK_MAX + 1], longest = 0;
    enum status st = need_strings(c, err);
    if (!st) st = call_make(c, 1, DT_I64, x->dims, x->rank, err);
    if (st) return st;
    if (most < 0) most = INT64_MAX;
    int64_t *counts = c->out[1]->data;
    uint64_t n = operand_count(x);
    struct string_ref *parts = NULL;
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < n; i++) {
            struct string_ref rest = ((const struct string_ref *)x->data)[i], part;
            bool last = false;
            counts[i] = 0;
            while (next_part(&rest, mark, most - counts[i], &last, &part)) {
                if (parts) parts[(int64_t)i * longest + counts[i]] = part;
                counts[i]++;
            }
            longest = counts[i] > longest ? counts[i] : longest;
        }
        if (pass) break;
        memcpy(dims, x->dims, sizeof x->dims);
        dims[x->rank] = longest;
        st = call_make(c, 0, DT_STRING, dims, x->rank + 1, err);
        if (st) return st;
        parts = c->out[0]->data;
        for (uint64_t k = 0; k < n * (uint64_t)longest; k++) parts[k] = (struct string_ref){ "", 0 };
        if (longest == 0) break;
    }
    return ST_OK;
}

/* ---- StringNormalizer ---- */
enum letters { LETTERS_KEEP, LETTERS_LOWER, LETTERS_UPPER };

static enum status change_case(struct call *c, struct string_ref s, enum letters to, struct string_ref *out, struct err *err)
{
    if (to == LETTERS_KEEP) { *out = s; return ST_OK; }
    char *text = arena_alloc(c->run, (uint64_t)s.length * 4 + 4, 1);        /* a changed letter takes at most four bytes */
    size_t n = 0;
    if (!text) return no_room(c, err);
    for (size_t i = 0; i < s.length;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t took = utf8proc_iterate((const utf8proc_uint8_t *)s.text + i, (utf8proc_ssize_t)(s.length - i), &code);
        if (took < 1) { text[n++] = s.text[i++]; continue; }
        n += (size_t)utf8proc_encode_char(to == LETTERS_LOWER ? utf8proc_tolower(code) : utf8proc_toupper(code), (utf8proc_uint8_t *)text + n);
        i += (size_t)took;
    }
    *out = (struct string_ref){ text, n };
    return ST_OK;
}

static bool same(struct string_ref a, struct string_ref b) { return a.length == b.length && (a.length == 0 || memcmp(a.text, b.text, a.length) == 0); }

static enum status is_stopped(struct call *c, struct string_ref s, bool exact, bool *out, struct err *err)
{
    const struct onnx_attribute *a = node_attribute(c->node, "stopwords");
    struct string_ref low = s, word;
    enum status st = exact ? ST_OK : change_case(c, s, LETTERS_LOWER, &low, err);
    *out = false;
    for (int i = 0; a && a->type == ONNX_STRINGS && i < a->count && !st && !*out; i++) {
        word = a->strings[i];
        if (!exact) st = change_case(c, a->strings[i], LETTERS_LOWER, &word, err);
        *out = !st && same(low, word);
    }
    return st;
}

static enum status eval_normalise(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    enum letters to = node_text_is(c->node, "case_change_action", "LOWER", false) ? LETTERS_LOWER : node_text_is(c->node, "case_change_action", "UPPER", false) ? LETTERS_UPPER : LETTERS_KEEP;
    bool exact = node_int(c->node, "is_case_sensitive", 0) != 0, stopped;
    int64_t dims[2] = { 1, 1 }, kept = 0;
    enum status st = need_strings(c, err);
    if (st) return st;
    if (x->rank < 1 || x->rank > 2 || (x->rank == 2 && x->dims[0] != 1)) return call_error(c, err, ST_BAD_INPUT, "it takes [n] or [1, n]");
    int64_t n = x->dims[x->rank - 1];
    struct string_ref *list = arena_calloc(c->run, (uint64_t)n + 1, sizeof *list);
    if (!list) return no_room(c, err);
    for (int64_t i = 0; i < n && !st; i++) {
        struct string_ref s = ((const struct string_ref *)x->data)[i];
        st = is_stopped(c, s, exact, &stopped, err);
        if (!st && !stopped) st = change_case(c, s, to, &list[kept++], err);
    }
    if (kept == 0) list[kept++] = (struct string_ref){ "", 0 };
    dims[x->rank - 1] = kept;
    if (!st) st = call_make(c, 0, DT_STRING, dims, x->rank, err);
    if (!st) memcpy(c->out[0]->data, list, (size_t)kept * sizeof *list);
    return st;
}

/* ---- RegexFullMatch ---- */
static enum status infer_regex(struct call *c, struct err *err)
{
    enum status st = need_strings(c, err);
    return st ? st : call_set(c, 0, DT_BOOL, c->in[0]->dims, c->in[0]->rank, err);
}

static enum status eval_regex(struct call *c, struct err *err)
{
    const struct onnx_attribute *a = node_attribute(c->node, "pattern");
    struct dfa_maker maker = { c->run, cpu_time_ns() + REGEX_CPU_NS };
    struct dfa *dfa;
    const struct string_ref *x = c->in[0]->data;
    uint8_t *y = c->out[0]->data;
    if (!a || a->type != ONNX_STRING) return call_error(c, err, ST_BAD_INPUT, "its pattern is missing");
    enum status st = regex_compile(&dfa, &maker, a->s.text, a->s.length, false, err);
    for (uint64_t i = 0, n = operand_count(c->in[0]); i < n && !st; i++) y[i] = dfa_accepts(dfa, x[i].length ? x[i].text : "", x[i].length);
    return st;
}

const struct op ops_strings[] = {
    { "StringConcat", "", 20, 0, 2, 2, 1, 1, 0, 0, infer_concat, eval_concat, NULL, NULL, NULL, NULL, NULL },
    { "StringSplit", "", 20, 0, 1, 1, 2, 2, OP_MAKES, 0, NULL, eval_split, NULL, NULL, NULL, NULL, NULL },
    { "StringNormalizer", "", 10, 0, 1, 1, 1, 1, OP_MAKES, 0, NULL, eval_normalise, NULL, NULL, NULL, NULL, NULL },
    { "RegexFullMatch", "", 20, 0, 1, 1, 1, 1, 0, 0, infer_regex, eval_regex, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
