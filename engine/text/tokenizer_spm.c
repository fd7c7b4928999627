/* tokenizer.model: SentencePiece's ModelProto. Fields used: 1 pieces { 1 text, 2 score, 3 kind }, 2 trainer { 3 model (1 Unigram, 2 BPE), 35 byte_fallback,
 * 40 to 43 ids of unk, bos, eos, pad }, 3 normaliser { 2 charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces }. Tokens that a
 * tokenizer_config.json adds (added_tokens_decoder) come behind or replace the kinds of the file's. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "engine/formats/protobuf.h"
#include "engine/text/tokenizer_internal.h"

struct spm { int pieces; int model; bool bytes, prefix, collapse, escape; int32_t unk, bos, eos, pad; const uint8_t *map; uint64_t map_bytes; };

static void read_trainer(struct pb c, struct spm *s)
{
    struct pb_field f;
    while (pb_next(&c, &f)) {
        int32_t v = f.value > INT_MAX ? -1 : (int32_t)f.value;
        if (f.wire != PB_VARINT) continue;
        switch (f.number) {
        case 3: s->model = v; break;
        case 35: s->bytes = v != 0; break;
        case 40: s->unk = v; break;
        case 41: s->bos = v; break;
        case 42: s->eos = v; break;
        case 43: s->pad = v; break;
        default: break;
        }
    }
}

static void read_normaliser(struct pb c, struct spm *s)
{
    struct pb_field f;
    while (pb_next(&c, &f)) {
        if (f.number == 2 && f.wire == PB_BYTES) s->map = f.bytes, s->map_bytes = f.length;
        if (f.number == 3 && f.wire == PB_VARINT) s->prefix = f.value;
        if (f.number == 4 && f.wire == PB_VARINT) s->collapse = f.value;
        if (f.number == 5 && f.wire == PB_VARINT) s->escape = f.value;
    }
}

static enum status read_piece(struct tokenizer *t, int id, struct pb c, struct err *err)
{
    struct pb_field f, text = { 0 };
    float score = 0;
    uint64_t kind = TOKEN_NORMAL;
    while (pb_next(&c, &f)) {
        if (f.number == 1 && f.wire == PB_BYTES) text = f;
        if (f.number == 2 && f.wire == PB_FIXED32) memcpy(&score, &f.value, 4);
        if (f.number == 3 && f.wire == PB_VARINT) kind = f.value;
    }
    if (c.failed || kind < TOKEN_NORMAL || kind > TOKEN_BYTE) return err_set(err, ST_BAD_INPUT, "piece %d is broken", id);
    enum status st = tokenizer_set(t, id, (const char *)text.bytes, text.length, score, (enum token_kind)kind, err);
    if (kind == TOKEN_USER && !st) {                             /* user-defined symbols are looked for in normalised text */
        t->tokens[id].normalized = true;
        if (tokenizer_looks_control(t->tokens[id].text, t->tokens[id].length)) t->tokens[id].kind = TOKEN_CONTROL, t->tokens[id].normalized = false;
    }
    t->tokens[id].added = kind == TOKEN_CONTROL || kind == TOKEN_USER || kind == TOKEN_UNKNOWN;
    return st;
}

/* {"32000": {"content": "<|x|>", "special": true, ...}} */
static enum status read_added(struct tokenizer *t, const struct json *added, struct err *err)
{
    enum status st = ST_OK;
    for (const struct json *e = added ? added->list.first : NULL; e && !st; e = e->next) {
        const struct json *text = json_get(e, "content");
        long id = strtol(e->key, NULL, 10);
        if (!text || text->type != JSON_STRING || id < 0 || id >= t->count) return err_set(err, ST_BAD_INPUT, "added_tokens_decoder: '%.40s' has no content or no id", e->key);
        bool special = json_bool_or(e, "special", false);
        bool outside = !t->tokens[id].text;
        enum token_kind kind = t->tokens[id].kind == TOKEN_UNKNOWN ? TOKEN_UNKNOWN : special || tokenizer_looks_control(text->string.text, text->string.length) ? TOKEN_CONTROL : TOKEN_USER;
        st = tokenizer_set(t, (int)id, text->string.text, text->string.length, t->tokens[id].score, kind, err);
        struct token *k = &t->tokens[id];
        k->added = true, k->outside = outside, k->normalized = false;
        k->lstrip = json_bool_or(e, "lstrip", false), k->rstrip = json_bool_or(e, "rstrip", false), k->single_word = json_bool_or(e, "single_word", false);
    }
    return st;
}

static enum status setup(struct tokenizer *t, const struct spm *s, const struct json *config, struct err *err)
{
    enum status st = ST_OK;
    float least = 0;
    if (s->model != 1 && s->model != 2) return err_set(err, ST_UNSUPPORTED, "SentencePiece model type %d; Unigram (1) and BPE (2) are known", s->model);
    t->model = s->model == 2 ? MODEL_SCORES : MODEL_UNIGRAM;
    t->byte_fallback = s->bytes;
    t->fuse_unk = true;
    t->ids.unk = s->unk < t->count ? s->unk : -1, t->ids.bos = s->bos < t->count ? s->bos : -1, t->ids.eos = s->eos < t->count ? s->eos : -1, t->ids.pad = s->pad < t->count ? s->pad : -1;
    if (s->map_bytes) st = tokenizer_set_charsmap(t, &t->normalise[t->normalise_count++], s->map, s->map_bytes, err);
    if (s->collapse) t->normalise[t->normalise_count++] = (struct normalise_step){ .kind = NORMALISE_COLLAPSE };
    if (s->escape) t->normalise[t->normalise_count++] = (struct normalise_step){ .kind = NORMALISE_REPLACE, .from = " ", .from_length = 1, .to = "\xE2\x96\x81", .to_length = 3 };
    bool legacy = json_bool_or(config, "legacy", true), prefix = s->prefix && json_bool_or(config, "add_prefix_space", true);
    t->prefix_each_text = prefix && legacy, t->prefix_first_text = prefix && !legacy;
    t->strip_first_space = prefix;
    for (int i = 0; i < t->count; i++)
        if (t->tokens[i].kind == TOKEN_NORMAL && t->tokens[i].score < least) least = t->tokens[i].score;
    t->unk_score = (double)least - 10;
    return st;
}

/* Counts the pieces and reads the rest; false on broken bytes. */
static bool survey(const void *data, size_t length, struct spm *s)
{
    struct pb c = pb_open(data, length);
    struct pb_field f;
    *s = (struct spm){ .model = 1, .prefix = true, .collapse = true, .escape = true, .unk = 0, .bos = 1, .eos = 2, .pad = -1 };
    while (pb_next(&c, &f)) {
        if (f.wire != PB_BYTES) continue;
        if (f.number == 1) s->pieces++;
        if (f.number == 2) read_trainer(pb_sub(&f), s);
        if (f.number == 3) read_normaliser(pb_sub(&f), s);
    }
    return !c.failed && s->pieces > 0 && s->pieces <= TOKENS_MAX;
}

static enum status fill(struct tokenizer *t, const struct spm *s, const void *data, size_t length, const struct json *config, const struct json *added, struct err *err)
{
    struct pb c = pb_open(data, length);
    struct pb_field f;
    enum status st = ST_OK;
    for (int id = 0; !st && pb_next(&c, &f);)
        if (f.number == 1 && f.wire == PB_BYTES) st = read_piece(t, id++, pb_sub(&f), err);
    if (!st) st = setup(t, s, config, err);
    if (!st) st = read_added(t, added, err);
    if (!st) st = tokenizer_finish(t, PIECE_MARK, err);
    if (!st && config) st = tokenizer_read_config(t, config, err);
    const char *class = json_text_or(config, "tokenizer_class", "");
    bool t5 = !strncmp(class, "T5", 2);
    if (!st) tokenizer_read_wraps(t, config, !t5, t5);
    return st;
}

enum status tokenizer_open_model(struct tokenizer **out, const void *data, size_t length, const char *config_text, size_t config_length, struct err *err)
{
    struct arena arena;
    struct json *config = NULL;
    struct tokenizer *t = NULL;
    struct spm s;
    if (!survey(data, length, &s)) return err_set(err, ST_BAD_INPUT, "no SentencePiece model");
    arena_init(&arena, 64 << 20);
    enum status st = config_text ? json_parse(&config, &arena, config_text, config_length, NULL, err) : ST_OK;
    const struct json *added = json_get(config, "added_tokens_decoder");
    int count = s.pieces;
    if (added && added->type != JSON_OBJECT) added = NULL;
    for (const struct json *e = added ? added->list.first : NULL; e && !st; e = e->next) {
        long id = strtol(e->key, NULL, 10);
        if (id < 0 || id >= s.pieces + (long)added->list.count + 4096) st = err_set(err, ST_BAD_INPUT, "added_tokens_decoder: id '%.40s' lies far outside the vocabulary", e->key);
        else if (id >= count) count = (int)id + 1;
    }
    if (!st && !(t = tokenizer_new(count))) st = err_set(err, ST_NO_MEMORY, "no memory for %d tokens", count);
    if (!st) st = fill(t, &s, data, length, config, added, err);
    arena_free(&arena);
    if (st) tokenizer_close(t);
    else *out = t;
    return st;
}
