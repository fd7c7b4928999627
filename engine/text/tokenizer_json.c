/* tokenizer.json: the model's vocabulary and merges, the added tokens, and the steps around them (tokenizer_json_steps.c). */
#include <limits.h>
#include <string.h>

#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

enum { ARENA_MAX = 1 << 30, HOLES_MAX = 4096 };

/* The highest id of vocabulary and added tokens, plus one. */
static enum status count_tokens(const struct json *vocab, const struct json *added, int *out, struct err *err)
{
    int64_t highest = -1, id;
    uint64_t entries = vocab->list.count;
    if (vocab->type == JSON_ARRAY) highest = (int64_t)vocab->list.count - 1;
    for (const struct json *e = vocab->type == JSON_OBJECT ? vocab->list.first : NULL; e; e = e->next) {
        if (!json_as_int64(e, &id) || id < 0) return err_set(err, ST_BAD_INPUT, "the id of token '%.60s' is no natural number", e->key);
        if (id > highest) highest = id;
    }
    for (const struct json *e = added && added->type == JSON_ARRAY ? added->list.first : NULL; e; e = e->next, entries++) {
        const struct json *v = json_get(e, "id");
        if (!v || !json_as_int64(v, &id) || id < 0) return err_set(err, ST_BAD_INPUT, "an added token has no id");
        if (id > highest) highest = id;
    }
    if (highest < 0) return err_set(err, ST_BAD_INPUT, "the vocabulary is empty");
    if (highest >= TOKENS_MAX || (uint64_t)highest > entries * 2 + HOLES_MAX) return err_set(err, ST_BAD_INPUT, "token id %lld with %llu tokens; at most %d are taken", (long long)highest, (unsigned long long)entries, TOKENS_MAX);
    *out = (int)highest + 1;
    return ST_OK;
}

static enum status read_vocabulary(struct tokenizer *t, const struct json *vocab, struct err *err)
{
    enum status st = ST_OK;
    int next = 0;
    for (const struct json *e = vocab->list.first; e && !st; e = e->next) {
        if (vocab->type == JSON_OBJECT) {
            int64_t id = 0;
            json_as_int64(e, &id);
            st = tokenizer_set(t, (int)id, e->key, e->key_length, 0, TOKEN_NORMAL, err);
        } else {
            double score;
            const struct json *text = e->type == JSON_ARRAY && e->list.count == 2 ? e->list.first : NULL;
            if (!text || text->type != JSON_STRING || !json_as_double(text->next, &score)) return err_set(err, ST_BAD_INPUT, "token %d is no pair of text and score", next);
            st = tokenizer_set(t, next++, text->string.text, text->string.length, (float)score, TOKEN_NORMAL, err);
        }
    }
    return st;
}

static enum status read_added(struct tokenizer *t, const struct json *added, struct err *err)
{
    enum status st = ST_OK;
    for (const struct json *e = added && added->type == JSON_ARRAY ? added->list.first : NULL; e && !st; e = e->next) {
        const struct json *text = json_get(e, "content");
        int64_t id = 0;
        bool special = json_bool_or(e, "special", false);
        json_as_int64(json_get(e, "id"), &id);
        bool outside = !t->tokens[id].text;
        if (!text || text->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "added token %lld has no content", (long long)id);
        st = tokenizer_set(t, (int)id, text->string.text, text->string.length, t->tokens[id].score, special || tokenizer_looks_control(text->string.text, text->string.length) ? TOKEN_CONTROL : TOKEN_USER, err);
        struct token *k = &t->tokens[id];
        k->added = true, k->outside = outside;
        k->lstrip = json_bool_or(e, "lstrip", false), k->rstrip = json_bool_or(e, "rstrip", false), k->single_word = json_bool_or(e, "single_word", false);
        k->normalized = json_bool_or(e, "normalized", !special);
    }
    return st;
}

static enum status read_merges(struct tokenizer *t, const struct json *list, struct err *err)
{
    enum status st = ST_OK;
    int rank = 0;
    if (!list || list->type != JSON_ARRAY || list->list.count > INT_MAX) return err_set(err, ST_BAD_INPUT, "a BPE model without a list of merges");
    for (const struct json *e = list->list.first; e && !st; e = e->next, rank++) {
        const struct json *a = e->type == JSON_ARRAY && e->list.count == 2 ? e->list.first : NULL;
        if (a && a->type == JSON_STRING && a->next->type == JSON_STRING) {
            st = tokenizer_add_merge(t, a->string.text, a->string.length, a->next->string.text, a->next->string.length, rank, true, err);
            continue;
        }
        const char *space = e->type == JSON_STRING ? memchr(e->string.text, ' ', e->string.length) : NULL;
        if (!space) return err_set(err, ST_BAD_INPUT, "merge %d is no pair of tokens", rank);
        st = tokenizer_add_merge(t, e->string.text, (size_t)(space - e->string.text), space + 1, e->string.length - (size_t)(space + 1 - e->string.text), rank, true, err);
    }
    return st;
}

static const char *kept(struct tokenizer *t, const struct json *model, const char *key, const char *otherwise)
{
    const struct json *v = json_get(model, key);
    const char *copy = v && v->type == JSON_STRING ? tokenizer_keep(t, v->string.text, v->string.length) : NULL;
    return copy ? copy : otherwise;
}

static void find_id(const struct tokenizer *t, const struct json *name, int32_t *id)
{
    for (int i = 0; name && name->type == JSON_STRING && i < t->count; i++)
        if (t->tokens[i].text && t->tokens[i].length == name->string.length && !memcmp(t->tokens[i].text, name->string.text, name->string.length)) *id = i;
}

static enum status read_model(struct tokenizer *t, const struct json *model, const char *type, struct err *err)
{
    int64_t v;
    t->byte_fallback = json_bool_or(model, "byte_fallback", false);
    t->fuse_unk = json_bool_or(model, "fuse_unk", false);
    find_id(t, json_get(model, "unk_token"), &t->ids.unk);
    if (!strcmp(type, "BPE")) {
        t->model = MODEL_BPE;
        t->ignore_merges = json_bool_or(model, "ignore_merges", false);
        t->continuing = kept(t, model, "continuing_subword_prefix", "");
        t->suffix = kept(t, model, "end_of_word_suffix", "");
    } else if (!strcmp(type, "WordPiece")) {
        t->model = MODEL_WORDPIECE;
        t->continuing = kept(t, model, "continuing_subword_prefix", "##");
        const struct json *most = json_get(model, "max_input_chars_per_word");
        if (most && json_as_int64(most, &v) && v > 0 && v < TOKEN_TEXT_MAX) t->word_chars_max = (int)v;
    } else if (!strcmp(type, "Unigram")) {
        const struct json *id = json_get(model, "unk_id");
        float least = 0;
        t->model = MODEL_UNIGRAM;
        t->fuse_unk = true;
        if (id && id->type != JSON_NULL) {
            if (!json_as_int64(id, &v) || v < 0 || v >= t->count) return err_set(err, ST_BAD_INPUT, "unk_id is outside 0 to %d", t->count - 1);
            t->ids.unk = (int32_t)v;
        }
        for (int i = 0; i < t->count; i++)
            if (t->tokens[i].score < least) least = t->tokens[i].score;
        t->unk_score = (double)least - 10;
    } else if (!strcmp(type, "WordLevel")) t->model = MODEL_WORDS;
    else return err_set(err, ST_UNSUPPORTED, "models of type '%.60s' are not known; BPE, Unigram, WordPiece and WordLevel are", type);
    if (strlen(t->continuing) > 32 || strlen(t->suffix) > 24) return err_set(err, ST_BAD_INPUT, "a subword prefix or suffix of more than 24 bytes");
    if (t->ids.unk >= 0 && t->tokens[t->ids.unk].kind == TOKEN_NORMAL) t->tokens[t->ids.unk].kind = TOKEN_UNKNOWN;
    return ST_OK;
}

/* Older files do not say the type of their model. */
static const char *model_type(const struct json *model)
{
    const struct json *vocab = json_get(model, "vocab");
    const char *type = json_text_or(model, "type", NULL);
    if (type) return type;
    if (json_get(model, "merges")) return "BPE";
    return vocab && vocab->type == JSON_ARRAY ? "Unigram" : json_get(model, "max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

static enum status fill(struct tokenizer *t, const struct json *root, const struct json *config, struct err *err)
{
    const struct json *model = json_get(root, "model"), *vocab = json_get(model, "vocab"), *added = json_get(root, "added_tokens");
    enum piece_style style = PIECE_RAW;
    enum status st = read_vocabulary(t, vocab, err);
    if (!st) st = read_added(t, added, err);
    if (!st) st = read_model(t, model, model_type(model), err);
    if (!st) st = steps_read_normaliser(t, json_get(root, "normalizer"), 0, err);
    if (!st) st = steps_read_splitter(t, json_get(root, "pre_tokenizer"), 0, err);
    if (!st) st = steps_read_wraps(t, json_get(root, "post_processor"), 0, err);
    if (!st) st = steps_read_decoder(t, json_get(root, "decoder"), 0, &style, err);
    if (!st) st = tokenizer_finish(t, style, err);
    if (!st && t->model == MODEL_BPE) st = read_merges(t, json_get(model, "merges"), err);
    if (!st && config) st = tokenizer_read_config(t, config, err);
    if (st) return st;
    for (int i = 0; i < t->before_count; i++) t->ids.add_bos |= t->before[i] == t->ids.bos;
    for (int i = 0; i < t->after_count; i++) t->ids.add_eos |= t->after[i] == t->ids.eos;
    return ST_OK;
}

enum status tokenizer_open_json(struct tokenizer **out, const char *text, size_t length, const char *config_text, size_t config_length, struct err *err)
{
    struct arena arena;
    struct json *root, *config = NULL;
    struct tokenizer *t = NULL;
    int count = 0;
    arena_init(&arena, ARENA_MAX);
    enum status st = json_parse(&root, &arena, text, length, NULL, err);
    if (!st && config_text) st = json_parse(&config, &arena, config_text, config_length, NULL, err);
    const struct json *vocab = st ? NULL : json_get(json_get(root, "model"), "vocab");
    if (!st && (!vocab || (vocab->type != JSON_OBJECT && vocab->type != JSON_ARRAY))) st = err_set(err, ST_BAD_INPUT, "no tokenizer.json: it has no model with a vocab");
    if (!st) st = count_tokens(vocab, json_get(root, "added_tokens"), &count, err);
    if (!st && !(t = tokenizer_new(count))) st = err_set(err, ST_NO_MEMORY, "no memory for %d tokens", count);
    if (!st) st = fill(t, root, config, err);
    arena_free(&arena);
    if (st) tokenizer_close(t);
    else *out = t;
    return st;
}
