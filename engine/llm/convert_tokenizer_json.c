/* A GGUF file's tokenizer as tokenizer.json and tokenizer_config.json. Merges by score ("llama") become merges by rank: every way to put a token together from
 * two others, the better score first. Byte-level merges ("gpt2") keep their ranks; the family's patterns are written out. WordPiece and Unigram are not written. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "engine/llm/convert_internal.h"
#include "engine/text/tokenizer_internal.h"

static const char mark[] = "\xE2\x96\x81";

struct merge { float score; int32_t rank, left, right; };
struct merges { struct merge *list; uint64_t count, capacity; };

static bool add_merge(struct merges *m, struct merge x)
{
    if (m->count == m->capacity) {
        uint64_t capacity = m->capacity ? 2 * m->capacity : 4096;
        struct merge *more = mem_realloc_array(m->list, capacity, sizeof *more);
        if (!more) return false;
        m->list = more;
        m->capacity = capacity;
    }
    m->list[m->count++] = x;
    return true;
}

/* Better scores first; then as found. */
static int compare(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    return (x->rank > y->rank) - (x->rank < y->rank);
}

static bool collect_by_score(struct merges *m, const struct tokenizer *t)
{
    for (int id = 0; id < t->count; id++) {
        const struct token *k = &t->tokens[id];
        int32_t c;
        if (k->kind != TOKEN_NORMAL && k->kind != TOKEN_USER) continue;
        for (size_t i = k->length ? char_read(k->text, k->length, &c) : 0; i < k->length; i += char_read(k->text + i, k->length - i, &c)) {
            int left = weights_map_get(&t->words, k->text, i), right = weights_map_get(&t->words, k->text + i, k->length - i);
            if (left >= 0 && right >= 0 && !add_merge(m, (struct merge){ k->score, (int32_t)m->count, left, right })) return false;
        }
    }
    return true;
}

static bool collect_by_rank(struct merges *m, const struct tokenizer *t)
{
    for (uint64_t i = 0; t->merges.slots && i <= t->merges.mask; i++) {
        const struct pair_slot *s = &t->merges.slots[i];
        if (s->key && !add_merge(m, (struct merge){ 0, s->a, (int32_t)((s->key - 1) >> 32), (int32_t)(s->key - 1) })) return false;
    }
    return true;
}

static void put_string(struct buf *b, const char *text) { json_write_text(b, text); }

static void put_added(struct buf *b, const struct tokenizer *t)
{
    bool first = true;
    buf_puts(b, "  \"added_tokens\": [");
    for (int i = 0; i < t->count; i++) {
        const struct token *k = &t->tokens[i];
        if (!k->added || !k->length) continue;
        buf_printf(b, "%s\n    { \"id\": %d, \"content\": ", first ? "" : ",", i);
        json_write_string(b, k->text, k->length);
        buf_printf(b, ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": %s }", k->kind == TOKEN_USER ? "false" : "true");
        first = false;
    }
    buf_puts(b, " ],\n");
}

static void put_model(struct buf *b, const struct tokenizer *t, const struct merges *m)
{
    bool scores = t->model == MODEL_SCORES, first = true;
    buf_puts(b, "  \"model\": { \"type\": \"BPE\", \"dropout\": null, \"unk_token\": ");
    if (scores && t->ids.unk >= 0) put_string(b, t->tokens[t->ids.unk].text);
    else buf_puts(b, "null");
    buf_printf(b, ", \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": %s, \"byte_fallback\": %s, \"ignore_merges\": %s,\n    \"vocab\": {", scores ? "true" : "false", scores ? "true" : "false", t->ignore_merges ? "true" : "false");
    for (int i = 0; i < t->count; i++) {
        if (!t->tokens[i].length) continue;
        buf_puts(b, first ? "\n      " : ",\n      ");
        json_write_string(b, t->tokens[i].text, t->tokens[i].length);
        buf_printf(b, ": %d", i);
        first = false;
    }
    buf_puts(b, "\n    },\n    \"merges\": [");
    for (uint64_t i = 0; i < m->count; i++) {
        buf_puts(b, i ? ",\n      [" : "\n      [");
        put_string(b, t->tokens[m->list[i].left].text);
        buf_puts(b, ", ");
        put_string(b, t->tokens[m->list[i].right].text);
        buf_putc(b, ']');
    }
    buf_puts(b, "\n    ] }\n");
}

/* Marked spaces: what stands before the model and behind it. */
static void put_marks(struct buf *b, const struct tokenizer *t)
{
    bool prefix = t->prefix_each_text || t->prefix_first_text;
    buf_puts(b, "  \"normalizer\": { \"type\": \"Sequence\", \"normalizers\": [");
    if (prefix) buf_printf(b, "{ \"type\": \"Prepend\", \"prepend\": \"%s\" }, ", mark);
    buf_printf(b, "{ \"type\": \"Replace\", \"pattern\": { \"String\": \" \" }, \"content\": \"%s\" }] },\n  \"pre_tokenizer\": null,\n", mark);
    buf_printf(b, "  \"decoder\": { \"type\": \"Sequence\", \"decoders\": [{ \"type\": \"Replace\", \"pattern\": { \"String\": \"%s\" }, \"content\": \" \" }, { \"type\": \"ByteFallback\" }, { \"type\": \"Fuse\" }", mark);
    if (prefix) buf_puts(b, ", { \"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0 }");
    buf_puts(b, "] },\n");
}

static enum status put_bytes(struct buf *b, const char *pre, struct err *err)
{
    const char *const *patterns = pattern_list(pre, strlen(pre));
    if (!patterns) return err_set(err, ST_UNSUPPORTED, "tokenizer.ggml.pre is '%.60s', which is no known way to split text", pre);
    buf_puts(b, "  \"normalizer\": null,\n  \"pre_tokenizer\": { \"type\": \"Sequence\", \"pretokenizers\": [");
    for (; *patterns; patterns++) {
        buf_puts(b, "{ \"type\": \"Split\", \"pattern\": { \"Regex\": ");
        put_string(b, *patterns);
        buf_puts(b, " }, \"behavior\": \"Isolated\", \"invert\": false }, ");
    }
    buf_puts(b, "{ \"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false }] },\n"
                "  \"decoder\": { \"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true },\n");
    return ST_OK;
}

/* What stands around a text, as a template. */
static void put_wraps(struct buf *b, const struct tokenizer *t)
{
    const int32_t *parts[] = { t->before, t->after };
    const int counts[] = { t->before_count, t->after_count };
    bool first = true;
    if (!counts[0] && !counts[1]) {
        buf_puts(b, "  \"post_processor\": null,\n");
        return;
    }
    for (int pair = 0; pair < 2; pair++) {
        buf_puts(b, pair ? ", \"pair\": [" : "  \"post_processor\": { \"type\": \"TemplateProcessing\", \"single\": [");
        for (int text = 0; text <= pair; text++) {
            for (int i = 0; i < counts[0]; i++) {
                buf_puts(b, "{ \"SpecialToken\": { \"id\": ");
                put_string(b, t->tokens[parts[0][i]].text);
                buf_printf(b, ", \"type_id\": %d } }, ", text);
            }
            buf_printf(b, "{ \"Sequence\": { \"id\": \"%c\", \"type_id\": %d } }", 'A' + text, text);
            for (int i = 0; i < counts[1]; i++) {
                buf_puts(b, ", { \"SpecialToken\": { \"id\": ");
                put_string(b, t->tokens[parts[1][i]].text);
                buf_printf(b, ", \"type_id\": %d } }", text);
            }
            if (text < pair) buf_puts(b, ", ");
        }
        buf_putc(b, ']');
    }
    buf_puts(b, ", \"special_tokens\": {");
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < counts[p]; i++) {
            const char *text = t->tokens[parts[p][i]].text;
            if (p && i == 0 && counts[0] && parts[0][0] == parts[1][0]) continue;
            buf_puts(b, first ? " " : ", ");
            put_string(b, text);
            buf_puts(b, ": { \"id\": ");
            put_string(b, text);
            buf_printf(b, ", \"ids\": [%d], \"tokens\": [", parts[p][i]);
            put_string(b, text);
            buf_puts(b, "] }");
            first = false;
        }
    buf_puts(b, " } },\n");
}

static void put_settings(struct buf *b, const struct tokenizer *t)
{
    const struct { const char *name; int32_t id; } all[] = { { "bos_token", t->ids.bos }, { "eos_token", t->ids.eos }, { "unk_token", t->ids.unk }, { "pad_token", t->ids.pad } };
    buf_printf(b, "{\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\",\n  \"clean_up_tokenization_spaces\": false,\n  \"add_bos_token\": %s,\n  \"add_eos_token\": %s", t->before_count ? "true" : "false", t->after_count ? "true" : "false");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (all[i].id < 0) continue;
        buf_printf(b, ",\n  \"%s\": ", all[i].name);
        put_string(b, t->tokens[all[i].id].text);
    }
    buf_puts(b, "\n}\n");
}

enum status convert_write_tokenizer(struct buf *json, struct buf *config, const struct tokenizer *t, const char *pre, struct err *err)
{
    struct merges m = { 0 };
    bool scores = t->model == MODEL_SCORES;
    if (!scores && t->model != MODEL_BPE) return err_set(err, ST_UNSUPPORTED, "tokenizers of the kinds WordPiece and Unigram are not written");
    bool ok = scores ? collect_by_score(&m, t) : collect_by_rank(&m, t);
    enum status st = ok ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for the merges of %d tokens", t->count);
    if (ok) qsort(m.list, m.count, sizeof *m.list, compare);
    buf_puts(json, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    put_added(json, t);
    if (scores) put_marks(json, t);
    else if (!st) st = put_bytes(json, pre ? pre : "default", err);
    put_wraps(json, t);
    put_model(json, t, &m);
    buf_puts(json, "}\n");
    put_settings(config, t);
    free(m.list);
    return st || (!json->failed && !config->failed) ? st : err_set(err, ST_NO_MEMORY, "writing tokenizer.json");
}
