/* A tokenizer as GGUF keys. The kinds: "gpt2" (byte-level merges; its way to split text is found by comparing splits with those of the named families), "llama"
 * (merges by score; from ranks the score is the rank below zero), "t5" (Unigram), "bert" (WordPiece, beginnings marked with U+2581). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/llm/convert_internal.h"
#include "engine/text/tokenizer_internal.h"

static const char mark[] = "\xE2\x96\x81";

/* Texts that tell ways to split apart: contractions, digits by ones, threes and all, spaces and line ends before and behind words, case, marks, scripts. */
static const char *const probes[] = {
    "Hello world", " Hello  world ", "   three   spaces", "I'll they've I'D WE'RE it's don't O'Neill", "1 12 123 1234 12345 1234567890", "a1b2c3 x100y", "tabs\t\tand\nlines\n\n\nend\r\n  next", "camelCaseText HTTPServer iPhone ABCdef",
    "punct!!! ... ,,, --- :) (a) [b] {c} <d> \"e\" 'f' `g` ~h ^i |j $k +l =m", "semi;colon, comma. dot? mark! @name #tag 50% a&b c*d e/f g\\h i_j", "na\xC3\xAFve caf\xC3\xA9 \xC3\x9C" "ber Stra\xC3\x9F" "e",
    "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 \xD0\xBC\xD0\xB8\xD1\x80", "\xE4\xBD\xA0\xE5\xA5\xBD\xE4\xB8\x96\xE7\x95\x8C\xEF\xBC\x8C\xE3\x81\x93\xE3\x82\x93\xE3\x81\xAB\xE3\x81\xA1\xE3\x81\xAF\xE3\x80\x82", "\xED\x95\x9C\xEA\xB5\xAD\xEC\x96\xB4 \xE0\xA4\xB9\xE0\xA4\xBF\xE0\xA4\xA8\xE0\xA5\x8D\xE0\xA4\xA6\xE0\xA5\x80",
    "emoji \xF0\x9F\x98\x80\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD ok", "\xD9\x85\xD8\xB1\xD8\xAD\xD8\xA8\xD8\xA7 123\xD9\xA1\xD9\xA2\xD9\xA3", "int main(void) { return 0; } // x\n\tfor (;;) {}\n", "https://example.org/a?b=c&d=1#e", " \n \n", "a\n b\n  c", "\xC2\xA0nbsp\xE2\x80\x83wide",
    "Dr. Smith's 3.14159 - 2,000,000.50", "x\n\n", "...abc", "!?abc 'tis 'twas", "e = mc^2 \xC2\xB1 5\xC2\xB0 \xE2\x82\xAC" "20",
};
enum { PROBES = sizeof probes / sizeof probes[0] };

/* ---- the name of a way to split ---- */
static enum status words_of(const struct tokenizer *t, const char *text, struct work *w, struct buf *out, struct err *err)
{
    buf_clear(out);
    enum status st = tokenizer_run_split(t, w, text, strlen(text), true, err);
    for (size_t i = 0; i < w->words.count && !st; i++) {
        buf_append(out, w->words.text.data + w->words.spans[i].offset, w->words.spans[i].length);
        buf_putc(out, '\n');
    }
    return st ? st : out->failed ? err_set(err, ST_NO_MEMORY, "comparing splits") : ST_OK;
}

/* *same: does family `name` split the probes as t does? */
static enum status try_family(const struct tokenizer *t, const char *name, bool *same, struct err *err)
{
    struct work w = { 0 };
    struct buf a, b;
    struct tokenizer *other = tokenizer_new(1);
    enum status st = other ? matcher_open(&w.matcher, err) : err_set(err, ST_NO_MEMORY, "comparing splits");
    struct buf *bufs[] = { &a, &b, &w.normal, &w.a, &w.b, &w.words.text, &w.next.text };
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) buf_init(bufs[i], 0);
    for (const char *const *p = pattern_list(name, strlen(name)); p && *p && !st; p++) {
        struct split_step *s = &other->split[other->split_count];
        *s = (struct split_step){ .kind = SPLIT_PATTERN, .behaviour = SPLIT_ISOLATED };
        st = pattern_compile(&s->pattern, *p, strlen(*p), err);
        if (!st) other->split_count++;
    }
    if (!st) other->split[other->split_count++] = (struct split_step){ .kind = SPLIT_BYTES };
    *same = true;
    for (int i = 0; i < PROBES && !st && *same; i++) {
        st = words_of(t, probes[i], &w, &a, err);
        if (!st) st = words_of(other, probes[i], &w, &b, err);
        *same = !st && a.length == b.length && !memcmp(a.data, b.data, a.length);
    }
    tokenizer_work_free(&w);
    buf_free(&a);
    buf_free(&b);
    tokenizer_close(other);
    return st;
}

/* Families of one way to split differ in whether whole words of the vocabulary skip the merges: the first of each is named. */
static enum status find_family(const struct tokenizer *t, const char **out, struct err *err)
{
    static const struct { const char *name; bool whole_words; } known[] = {
        { "gpt-2", false }, { "llama-bpe", true }, { "dbrx", false }, { "qwen2", false }, { "tekken", true }, { "gpt-4o", false }, { "starcoder", false }, { "falcon", false }, { "deepseek-llm", false }, { "deepseek-coder", false },
        { "deepseek-v3", false }, { "qwen35", false }, { "bloom", false }, { "viking", false }, { "bailingmoe", false }, { "seed-coder", false }, { "exaone-moe", false }, { "chameleon", false }, { "jais-2", false }, { "kimi-k2", false },
        { "tiny_aya", false }, { "default", false },
    };
    bool around = t->before_count && t->after_count && t->ids.sep >= 0 && t->after[0] == t->ids.sep;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        bool same = false;
        if (known[i].whole_words != t->ignore_merges) continue;
        enum status st = try_family(t, known[i].name, &same, err);
        if (st) return st;
        if (same) return *out = around && !strcmp(known[i].name, "gpt-2") ? "roberta-bpe" : known[i].name, ST_OK;
    }
    return err_set(err, ST_UNSUPPORTED, "the tokenizer splits text as no family does that GGUF has a name for (tokenizer.ggml.pre)");
}

/* ---- tokens ---- */
struct token_lists { const char **texts; size_t *lengths; float *scores; int32_t *kinds; struct arena arena; };

static void lists_free(struct token_lists *l)
{
    free(l->texts);
    free(l->lengths);
    free(l->scores);
    free(l->kinds);
    arena_free(&l->arena);
}

/* A piece's text as GGUF has it. */
static const char *text_of(struct token_lists *l, const struct tokenizer *t, const struct token *k, size_t *length)
{
    size_t skip = strlen(t->continuing);
    *length = k->length;
    if (t->model != MODEL_WORDPIECE || t->beginning[0] || k->kind == TOKEN_CONTROL || k->kind == TOKEN_UNKNOWN) return k->text;
    if (k->length > skip && skip && !memcmp(k->text, t->continuing, skip)) return *length -= skip, k->text + skip;
    *length += sizeof mark - 1;
    return arena_format(&l->arena, "%s%s", mark, k->text);
}

static enum status make_lists(struct token_lists *l, const struct tokenizer *t, int count, struct err *err)
{
    *l = (struct token_lists){ mem_calloc_array((uint64_t)count, sizeof *l->texts), mem_calloc_array((uint64_t)count, sizeof *l->lengths), mem_calloc_array((uint64_t)count, sizeof *l->scores), mem_calloc_array((uint64_t)count, sizeof *l->kinds), { 0 } };
    arena_init(&l->arena, (uint64_t)1 << 30);
    bool ok = l->texts && l->lengths && l->scores && l->kinds;
    for (int i = 0; i < count && ok; i++) {
        bool there = i < t->count && t->tokens[i].length > 0;
        l->texts[i] = there ? text_of(l, t, &t->tokens[i], &l->lengths[i]) : arena_format(&l->arena, "[PAD%d]", i);
        l->kinds[i] = there ? t->tokens[i].kind : TOKEN_UNUSED;
        l->scores[i] = there ? t->tokens[i].score : 0;
        ok = l->texts[i] != NULL;
        if (ok && !there) l->lengths[i] = strlen(l->texts[i]);
    }
    return ok ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for %d tokens", count);
}

/* Ranks as scores: the token that a merge makes. */
static void score_by_rank(struct token_lists *l, const struct tokenizer *t)
{
    for (int i = 0; i < t->count; i++) l->scores[i] = l->kinds[i] == TOKEN_NORMAL ? -(float)t->merges.count - 1 : 0;
    for (uint64_t i = 0; t->merges.slots && i <= t->merges.mask; i++) {
        const struct pair_slot *s = &t->merges.slots[i];
        if (s->key && l->scores[s->b] < -(float)s->a) l->scores[s->b] = -(float)s->a;
    }
}

/* ---- merges ---- */
struct merge { int32_t rank, left, right; };

static int compare_merges(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static enum status put_merges(struct gguf_writer *w, const struct tokenizer *t, struct err *err)
{
    uint64_t n = 0;
    struct arena arena;
    struct merge *m = mem_calloc_array(t->merges.count + 1, sizeof *m);
    const char **texts = mem_calloc_array(t->merges.count + 1, sizeof *texts);
    size_t *lengths = mem_calloc_array(t->merges.count + 1, sizeof *lengths);
    bool ok = m && texts && lengths;
    arena_init(&arena, (uint64_t)1 << 30);
    for (uint64_t i = 0; ok && t->merges.slots && i <= t->merges.mask; i++) {
        const struct pair_slot *s = &t->merges.slots[i];
        if (s->key) m[n++] = (struct merge){ s->a, (int32_t)((s->key - 1) >> 32), (int32_t)(s->key - 1) };
    }
    if (ok) qsort(m, n, sizeof *m, compare_merges);
    for (uint64_t i = 0; i < n && ok; i++) {
        texts[i] = arena_format(&arena, "%s %s", t->tokens[m[i].left].text, t->tokens[m[i].right].text);
        ok = texts[i] != NULL;
        if (ok) lengths[i] = strlen(texts[i]);
    }
    if (ok) gguf_writer_texts(w, "tokenizer.ggml.merges", texts, lengths, n);
    free(m);
    free(texts);
    free(lengths);
    arena_free(&arena);
    return ok ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for %llu merges", (unsigned long long)t->merges.count);
}

/* ---- the rest ---- */
static void put_ids(struct gguf_writer *w, const struct tokenizer *t)
{
    int32_t first = t->before_count ? t->before[0] : -1, last = t->after_count ? t->after[0] : -1;
    struct tokenizer_ids ids = t->ids;
    if (t->model == MODEL_WORDPIECE) {
        if (ids.cls < 0) ids.cls = first;
        if (ids.sep < 0) ids.sep = last;
        if (ids.bos < 0) ids.bos = ids.cls;
    }
    const struct { const char *name; int32_t id; } all[] = {
        { "bos_token_id", ids.bos }, { "eos_token_id", ids.eos }, { "eot_token_id", ids.eot }, { "padding_token_id", ids.pad }, { "unknown_token_id", ids.unk }, { "seperator_token_id", ids.sep }, { "cls_token_id", ids.cls }, { "mask_token_id", ids.mask },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s", all[i].name);
        if (all[i].id >= 0) gguf_writer_u32(w, key, (uint32_t)all[i].id);
    }
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", first >= 0);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", last >= 0 && last == ids.eos);
    if (last >= 0 && last == ids.sep && last != ids.eos) gguf_writer_bool(w, "tokenizer.ggml.add_sep_token", true);
}

/* Keys of the kinds that mark spaces: is there a space before the first word, are several made one? */
static void put_spaces(struct gguf_writer *w, const struct tokenizer *t)
{
    bool prefix = t->prefix_each_text || t->prefix_first_text, collapse = false;
    for (int i = 0; i < t->normalise_count; i++) {
        prefix |= t->normalise[i].kind == NORMALISE_PREPEND;
        collapse |= t->normalise[i].kind == NORMALISE_COLLAPSE;
    }
    for (int i = 0; i < t->split_count; i++) prefix |= t->split[i].kind == SPLIT_METASPACE && t->split[i].scheme;
    gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", prefix);
    gguf_writer_bool(w, "tokenizer.ggml.remove_extra_whitespaces", collapse);
}

static void put_charsmap(struct gguf_writer *w, const struct tokenizer *t)
{
    for (int i = 0; i < t->normalise_count; i++) {
        const struct normalise_step *s = &t->normalise[i];
        if (s->kind == NORMALISE_CHARSMAP) gguf_writer_array(w, "tokenizer.ggml.precompiled_charsmap", GGUF_U8, s->map - 4, 4 + 4 * (uint64_t)s->map_units + s->map_texts_length);
    }
}

static void put_templates(struct gguf_writer *w, const struct tokenizer *t)
{
    for (int i = 0; i < t->template_count; i++) {
        char key[96];
        bool main = !strcmp(t->templates[i].name, "default");
        snprintf(key, sizeof key, "tokenizer.chat_template%s%.60s", main ? "" : ".", main ? "" : t->templates[i].name);
        gguf_writer_text(w, key, t->templates[i].text, strlen(t->templates[i].text));
    }
}

static bool has_split(const struct tokenizer *t, enum split_kind kind)
{
    for (int i = 0; i < t->split_count; i++)
        if (t->split[i].kind == kind) return true;
    return false;
}

enum status convert_put_tokenizer(struct gguf_writer *w, const struct tokenizer *t, int vocabulary, struct err *err)
{
    struct token_lists l;
    const char *pre = "default", *model;
    bool bytes = t->model == MODEL_BPE && has_split(t, SPLIT_BYTES);
    if (t->count > vocabulary) return err_set(err, ST_UNSUPPORTED, "the tokenizer has %d tokens and the model only %d", t->count, vocabulary);
    if (t->model == MODEL_WORDS) return err_set(err, ST_UNSUPPORTED, "GGUF has no tokenizer of whole words");
    if (t->suffix[0]) return err_set(err, ST_UNSUPPORTED, "GGUF has no merges that mark the ends of words");
    enum status st = bytes ? find_family(t, &pre, err) : ST_OK;
    if (st) return st;
    model = t->model == MODEL_WORDPIECE ? "bert" : t->model == MODEL_UNIGRAM ? "t5" : bytes ? "gpt2" : "llama";
    st = make_lists(&l, t, vocabulary, err);
    if (!st && t->model == MODEL_BPE && !bytes) score_by_rank(&l, t);
    if (!st) {
        gguf_writer_text(w, "tokenizer.ggml.model", model, strlen(model));
        gguf_writer_text(w, "tokenizer.ggml.pre", pre, strlen(pre));
        gguf_writer_texts(w, "tokenizer.ggml.tokens", l.texts, l.lengths, (uint64_t)vocabulary);
        if (!bytes) gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, l.scores, (uint64_t)vocabulary);
        gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, l.kinds, (uint64_t)vocabulary);
        if (bytes) st = put_merges(w, t, err);
        else if (t->model != MODEL_WORDPIECE) put_spaces(w, t);
        if (t->model == MODEL_UNIGRAM) put_charsmap(w, t);
        put_ids(w, t);
        put_templates(w, t);
    }
    lists_free(&l);
    return st;
}

enum status convert_same_tokenizer(const struct tokenizer *want, const struct tokenizer *got, const char *what, struct err *err)
{
    enum status st = ST_OK;
    for (int i = 0; i < PROBES && !st; i++) {
        struct token_list a = { 0 }, b = { 0 };
        size_t n = strlen(probes[i]);
        st = tokenizer_encode(want, probes[i], n, TOKENIZE_SPECIAL_ADD, &a, err);
        if (!st) st = tokenizer_encode(got, probes[i], n, TOKENIZE_SPECIAL_ADD, &b, err);
        if (!st && (a.count != b.count || memcmp(a.ids, b.ids, a.count * sizeof *a.ids))) st = err_set(err, ST_UNSUPPORTED, "%s cannot say how this tokenizer works: it would give other ids for '%.60s'", what, probes[i]);
        token_list_free(&a);
        token_list_free(&b);
    }
    return st;
}
