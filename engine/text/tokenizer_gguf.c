/* Tokenizers inside GGUF files. tokenizer.ggml.model names the kind: "llama" (SentencePiece merges by score), "gpt2" (byte-level merges by rank, split by the
 * patterns of tokenizer.ggml.pre), "gemma4" (merges by rank over marked spaces), "bert" (WordPiece), "t5" (Unigram). */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "engine/formats/gguf.h"
#include "engine/text/tokenizer_internal.h"

static enum status add_pattern(struct tokenizer *t, const char *pattern, struct err *err)
{
    struct split_step *s = &t->split[t->split_count];
    *s = (struct split_step){ .kind = SPLIT_PATTERN, .behaviour = SPLIT_ISOLATED };
    enum status st = pattern_compile(&s->pattern, pattern, strlen(pattern), err);
    if (!st) t->split_count++;
    return st;
}

static void add_replace(struct tokenizer *t)
{
    t->normalise[t->normalise_count++] = (struct normalise_step){ .kind = NORMALISE_REPLACE, .from = " ", .from_length = 1, .to = "\xE2\x96\x81", .to_length = 3 };
}

static enum status read_tokens(struct tokenizer **out, const struct gguf *g, struct err *err)
{
    struct gguf_array texts, scores, kinds;
    uint64_t at = 0;
    const char *text;
    size_t length;
    if (!gguf_array(g, "tokenizer.ggml.tokens", &texts) || texts.type != GGUF_STRING || !texts.count) return err_set(err, ST_BAD_INPUT, "the file has no tokenizer.ggml.tokens");
    if (texts.count > TOKENS_MAX) return err_set(err, ST_BAD_INPUT, "%llu tokens; at most %d are taken", (unsigned long long)texts.count, TOKENS_MAX);
    bool has_scores = gguf_array(g, "tokenizer.ggml.scores", &scores), has_kinds = gguf_array(g, "tokenizer.ggml.token_type", &kinds);
    if ((has_scores && (scores.count < texts.count || scores.type == GGUF_STRING)) || (has_kinds && (kinds.count < texts.count || kinds.type == GGUF_STRING)))
        return err_set(err, ST_BAD_INPUT, "tokenizer.ggml.scores or token_type has fewer elements than there are tokens");
    struct tokenizer *t = tokenizer_new((int)texts.count);
    if (!t) return err_set(err, ST_NO_MEMORY, "no memory for %llu tokens", (unsigned long long)texts.count);
    enum status st = ST_OK;
    for (int id = 0; id < t->count && !st; id++) {
        int64_t kind = has_kinds ? gguf_array_int(&kinds, (uint64_t)id) : TOKEN_NORMAL;
        gguf_array_text(&texts, &at, &text, &length);
        if (kind < TOKEN_NORMAL || kind > TOKEN_BYTE) kind = TOKEN_NORMAL;
        st = tokenizer_set(t, id, text, length, has_scores ? (float)gguf_array_real(&scores, (uint64_t)id) : 0, (enum token_kind)kind, err);
        t->tokens[id].added = kind == TOKEN_CONTROL || kind == TOKEN_USER || kind == TOKEN_UNKNOWN;
    }
    if (st) tokenizer_close(t);
    else *out = t;
    return st;
}

static enum status read_ids(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    const struct { const char *key; int32_t *id; } all[] = {
        { "bos_token_id", &t->ids.bos }, { "eos_token_id", &t->ids.eos }, { "eot_token_id", &t->ids.eot }, { "padding_token_id", &t->ids.pad }, { "unknown_token_id", &t->ids.unk },
        { "seperator_token_id", &t->ids.sep }, { "cls_token_id", &t->ids.cls }, { "mask_token_id", &t->ids.mask },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char key[64];
        int64_t id;
        snprintf(key, sizeof key, "tokenizer.ggml.%s", all[i].key);
        if (!gguf_i64(g, key, &id) || id == -1 || id == UINT32_MAX) continue;       /* -1, in any width: none */
        if (id < 0 || id >= t->count) return err_set(err, ST_BAD_INPUT, "%s is %lld, outside 0 to %d", key, (long long)id, t->count - 1);
        *all[i].id = (int32_t)id;
    }
    return ST_OK;
}

static enum status read_merges(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    struct gguf_array a;
    uint64_t at = 0;
    const char *text, *space;
    size_t length;
    enum status st = ST_OK;
    if (!gguf_array(g, "tokenizer.ggml.merges", &a) || a.type != GGUF_STRING) return err_set(err, ST_BAD_INPUT, "the file has no tokenizer.ggml.merges");
    if (a.count > INT_MAX) return err_set(err, ST_BAD_INPUT, "more than 2^31 merges");
    for (int rank = 0; !st && gguf_array_text(&a, &at, &text, &length); rank++) {
        space = length > 1 ? memchr(text + 1, ' ', length - 1) : NULL;
        if (!space) return err_set(err, ST_BAD_INPUT, "merge %d is no pair of tokens", rank);
        st = tokenizer_add_merge(t, text, (size_t)(space - text), space + 1, length - (size_t)(space + 1 - text), rank, false, err);
    }
    return st;
}

static enum status setup_bytes(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    size_t n = 7;
    const char *pre = gguf_text(g, "tokenizer.ggml.pre", &n);
    static const char *const whole_words[] = { "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano", "tekken", "youtu" };
    if (!pre) pre = "default", n = 7;
    const char *const *patterns = pattern_list(pre, n);
    if (!patterns) return err_set(err, ST_UNSUPPORTED, "tokenizer.ggml.pre is '%.*s', which is no known way to split text", (int)(n < 60 ? n : 60), pre);
    enum status st = ST_OK;
    for (; *patterns && !st; patterns++) st = add_pattern(t, *patterns, err);
    t->split[t->split_count++] = (struct split_step){ .kind = SPLIT_BYTES };
    t->model = MODEL_BPE;
    for (size_t i = 0; i < sizeof whole_words / sizeof *whole_words; i++)
        if (strlen(whole_words[i]) == n && !memcmp(whole_words[i], pre, n)) {
            t->ignore_merges = true;
            t->ids.add_bos = i < 10;
        }
    return st;
}

/* llama: each text between added tokens gets the space that stands before a first word. */
static enum status setup_scores(struct tokenizer *t, const struct gguf *g)
{
    bool prefix = true, collapse = false;
    t->model = MODEL_SCORES;
    t->byte_fallback = t->fuse_unk = t->ids.add_bos = true;
    gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &collapse);
    if (collapse) t->normalise[t->normalise_count++] = (struct normalise_step){ .kind = NORMALISE_COLLAPSE };
    add_replace(t);
    t->prefix_each_text = t->strip_first_space = prefix;
    return ST_OK;
}

static enum status setup_unigram(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    struct gguf_array map;
    bool prefix = true, collapse = false;
    enum status st = ST_OK;
    float least = 0;
    t->model = MODEL_UNIGRAM;
    t->fuse_unk = t->ids.add_eos = true;
    if (gguf_array(g, "tokenizer.ggml.precompiled_charsmap", &map) && map.count == map.bytes && map.count)
        st = tokenizer_set_charsmap(t, &t->normalise[t->normalise_count++], map.data, map.bytes, err);
    gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &collapse);
    if (collapse) t->normalise[t->normalise_count++] = (struct normalise_step){ .kind = NORMALISE_COLLAPSE };
    add_replace(t);
    t->prefix_each_text = t->strip_first_space = prefix;
    for (int i = 0; i < t->count; i++)
        if (t->tokens[i].kind == TOKEN_NORMAL && t->tokens[i].score < least) least = t->tokens[i].score;
    t->unk_score = (double)least - 10;
    return st;
}

static enum status setup_wordpiece(struct tokenizer *t)
{
    t->model = MODEL_WORDPIECE;
    t->beginning = "\xE2\x96\x81";
    t->word_chars_max = TOKEN_TEXT_MAX;
    t->strip_first_space = t->ids.add_bos = true;
    t->normalise[t->normalise_count++] = (struct normalise_step){ .kind = NORMALISE_BERT, .clean = true, .chinese = true, .accents = true, .lower = true };
    t->split[t->split_count++] = (struct split_step){ .kind = SPLIT_BERT };
    return ST_OK;
}

static enum status read_templates(struct tokenizer *t, const struct gguf *g, struct err *err)
{
    static const char base[] = "tokenizer.chat_template";
    for (int i = 0; i < gguf_key_count(g) && t->template_count < TEMPLATES_MAX; i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        if (k->type != GGUF_STRING || strncmp(k->name, base, sizeof base - 1)) continue;
        const char *name = k->name[sizeof base - 1] == '.' ? k->name + sizeof base : k->name[sizeof base - 1] ? NULL : "default";
        enum status st = name ? tokenizer_add_template(t, name, (const char *)k->value, k->length, err) : ST_OK;
        if (st) return st;
    }
    return ST_OK;
}

/* What stands around a text: for WordPiece CLS and SEP, else BOS and EOS where the keys or the kind say so. */
static void set_wraps(struct tokenizer *t, const struct gguf *g)
{
    bool add_sep = t->model == MODEL_WORDPIECE || gguf_text_is(g, "tokenizer.ggml.pre", "roberta-bpe") || gguf_text_is(g, "tokenizer.ggml.pre", "jina-v1-en") || gguf_text_is(g, "tokenizer.ggml.pre", "jina-v2-code");
    int32_t first = t->model == MODEL_WORDPIECE && t->ids.cls >= 0 ? t->ids.cls : t->ids.bos, last = t->ids.sep >= 0 ? t->ids.sep : t->ids.eos;
    gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->ids.add_bos);
    gguf_bool(g, "tokenizer.ggml.add_eos_token", &t->ids.add_eos);
    gguf_bool(g, "tokenizer.ggml.add_sep_token", &add_sep);
    if (t->ids.add_bos && first >= 0) t->before[t->before_count++] = first;
    if (add_sep && last >= 0) t->after[t->after_count++] = last;
    else if (t->ids.add_eos && t->ids.eos >= 0) t->after[t->after_count++] = t->ids.eos;
}

enum status tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *err)
{
    struct tokenizer *t = NULL;
    size_t n = 0;
    const char *model = gguf_text(g, "tokenizer.ggml.model", &n);
    enum piece_style style = PIECE_MARK;
    if (!model) return err_set(err, ST_BAD_INPUT, "the file has no tokenizer (tokenizer.ggml.model)");
    enum status st = read_tokens(&t, g, err);
    if (st) return st;
    st = read_ids(t, g, err);
    if (st) goto close;
    bool gemma4 = n == 6 && !memcmp(model, "gemma4", 6), merges = gemma4 || (n == 4 && !memcmp(model, "gpt2", 4));
    if (gemma4) {
        t->model = MODEL_BPE;
        t->byte_fallback = t->fuse_unk = true;
        add_replace(t);
        st = add_pattern(t, "[^\\n]+|\\n+", err);
    } else if (merges) style = PIECE_BYTES, st = setup_bytes(t, g, err);
    else if (n == 5 && !memcmp(model, "llama", 5)) st = setup_scores(t, g);
    else if (n == 4 && !memcmp(model, "bert", 4)) style = PIECE_WORDPIECE, st = setup_wordpiece(t);
    else if (n == 2 && !memcmp(model, "t5", 2)) st = setup_unigram(t, g, err);
    else st = err_set(err, ST_UNSUPPORTED, "tokenizer.ggml.model is '%.*s'; llama, gpt2, gemma4, bert and t5 are known", (int)(n < 60 ? n : 60), model);
    if (!st) st = tokenizer_finish(t, style, err);
    if (!st && merges) st = read_merges(t, g, err);
    if (!st) st = read_templates(t, g, err);
    if (st) goto close;
    set_wraps(t, g);
    *out = t;
    return ST_OK;
close:
    tokenizer_close(t);
    return st;
}
