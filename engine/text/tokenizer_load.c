/* What the loaders share: tokens are set one by one, then tokenizer_finish makes everything that is looked up later. Every id from a file is checked
 * against the number of tokens before it is kept (R13). */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

enum { ARENA_MAX = 1 << 30, MARK_BYTES = 3 };
static const char mark[] = "\xE2\x96\x81";                    /* U+2581, SentencePiece's visible space */

/* Control tokens of these names end a turn or a text in the model families that have them. The first that is there is the end of a turn. */
static const char *const ends[] = { "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endofturn|>", "<|turn_end|>", "<turn|>", "<|eot|>", "<|return|>", "<|call|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>",
                                    "<|END_OF_TURN_TOKEN|>", "<|end_of_turn|>", "<EOT>", "_<EOT>", "<|user_end|>", "<end_of_utterance>", "</s>", "<|im_sep_end|>", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>" };

struct tokenizer *tokenizer_new(int count)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    arena_init(&t->arena, ARENA_MAX);
    t->tokens = mem_calloc_array((uint64_t)count + 1, sizeof *t->tokens);
    t->count = count;
    t->ids = (struct tokenizer_ids){ -1, -1, -1, -1, -1, -1, -1, -1, false, false };
    memset(t->byte_ids, 0xFF, sizeof t->byte_ids);
    memset(t->char_ids, 0xFF, sizeof t->char_ids);
    t->continuing = t->beginning = t->suffix = "";
    t->word_chars_max = 100;
    if (!t->tokens || !weights_map_init(&t->names, (uint64_t)count) || !weights_map_init(&t->words, (uint64_t)count)) {
        tokenizer_close(t);
        return NULL;
    }
    return t;
}

void *tokenizer_keep(struct tokenizer *t, const void *bytes, size_t length) { return arena_copy(&t->arena, bytes, length); }

enum status tokenizer_set(struct tokenizer *t, int id, const char *text, size_t length, float score, enum token_kind kind, struct err *err)
{
    if (id < 0 || id >= t->count) return err_set(err, ST_BAD_INPUT, "token id %d is outside 0 to %d", id, t->count - 1);
    if (length > TOKEN_TEXT_MAX) return err_set(err, ST_BAD_INPUT, "token %d has %zu bytes; at most %d are taken", id, length, TOKEN_TEXT_MAX);
    struct token *k = &t->tokens[id];
    k->text = tokenizer_keep(t, text, length);
    k->length = (uint32_t)length;
    k->score = score == score ? score : 0;
    k->kind = (uint8_t)kind;
    return k->text ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for %d tokens", t->count);
}

enum status tokenizer_add_merge(struct tokenizer *t, const char *left, size_t left_length, const char *right, size_t right_length, int rank, bool strict, struct err *err)
{
    char whole[2 * TOKEN_TEXT_MAX + 1];
    size_t skip = t->continuing ? strlen(t->continuing) : 0;
    if (left_length > TOKEN_TEXT_MAX || right_length > TOKEN_TEXT_MAX) return err_set(err, ST_BAD_INPUT, "merge %d is longer than %d bytes", rank, TOKEN_TEXT_MAX);
    if (right_length < skip || memcmp(right, t->continuing ? t->continuing : "", skip)) skip = 0;
    memcpy(whole, left, left_length);
    memcpy(whole + left_length, right + skip, right_length - skip);
    int a = weights_map_get(&t->words, left, left_length), b = weights_map_get(&t->words, right, right_length), c = weights_map_get(&t->words, whole, left_length + right_length - skip);
    if (a < 0 || b < 0 || c < 0) {
        bool control = weights_map_get(&t->names, whole, left_length + right_length - skip) >= 0 && c < 0;
        if (!strict || control) return ST_OK;
        return err_set(err, ST_BAD_INPUT, "merge %d ('%.60s' and '%.60s') names a token that the vocabulary lacks", rank, left, right);
    }
    return pair_map_put(&t->merges, ((uint64_t)a << 32 | (uint32_t)b) + 1, rank, c) ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for merges");
}

bool tokenizer_looks_control(const char *text, size_t length)
{
    static const char *const names[] = { "<pad>", "<mask>", "<s>", "</s>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<2mass>", "[@BOS@]", "<turn|>", "<|turn>" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && !memcmp(names[i], text, length)) return true;
    if (length > 4 && !memcmp(text, "<|", 2) && !memcmp(text + length - 2, "|>", 2)) return true;
    return length > 8 && !memcmp(text, "<\xEF\xBD\x9C", 4) && !memcmp(text + length - 4, "\xEF\xBD\x9C>", 4);
}

void tokenizer_mark_eog(struct tokenizer *t, int32_t id)
{
    if (id >= 0 && id < t->count) t->tokens[id].eog = true;
}

/* <0x41> */
static int byte_of_name(const char *text, size_t n)
{
    if (n != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9') v = v * 16 + c - '0';
        else if (c >= 'A' && c <= 'F') v = v * 16 + c - 'A' + 10;
        else if (c >= 'a' && c <= 'f') v = v * 16 + c - 'a' + 10;
        else return -1;
    }
    return v;
}

static size_t plain_characters(const char *text, size_t n)
{
    size_t i = 0, step;
    while (i < n && (step = json_utf8_length(text + i, n - i))) i += step;
    return i;
}

static void piece_of(const struct tokenizer *t, const struct token *k, enum piece_style style, struct buf *b)
{
    size_t n = k->length, suffix = strlen(t->suffix), continuing = strlen(t->continuing);
    const char *p = k->text;
    bool valid = plain_characters(p, n) == n;
    int32_t c;
    if (style == PIECE_BYTES && valid) {
        for (size_t i = 0; i < n; i += char_read(p + i, n - i, &c))
            if (char_read(p + i, n - i, &c) && byte_of_char(c) < 0) style = PIECE_RAW;
    }
    if (k->kind == TOKEN_CONTROL || k->kind == TOKEN_UNKNOWN || !valid) style = PIECE_RAW;
    if (k->kind == TOKEN_USER && (style == PIECE_BYTES || style == PIECE_WORDPIECE)) style = PIECE_RAW;
    switch (style) {
    case PIECE_RAW: buf_append(b, p, n); break;
    case PIECE_BYTES:
        for (size_t i = 0; i < n; i += char_read(p + i, n - i, &c)) {
            char_read(p + i, n - i, &c);
            buf_putc(b, (char)byte_of_char(c));
        }
        break;
    case PIECE_MARK:
        for (size_t i = 0; i < n;) {
            bool space = n - i >= MARK_BYTES && !memcmp(p + i, mark, MARK_BYTES);
            buf_putc(b, space ? ' ' : p[i]);
            i += space ? MARK_BYTES : 1;
        }
        break;
    case PIECE_WORDPIECE:
        if (t->beginning[0]) {                                  /* GGUF: beginnings are marked */
            if (n >= MARK_BYTES && !memcmp(p, mark, MARK_BYTES)) buf_putc(b, ' '), p += MARK_BYTES, n -= MARK_BYTES;
        } else if (continuing && n >= continuing && !memcmp(p, t->continuing, continuing)) p += continuing, n -= continuing;
        else buf_putc(b, ' ');
        buf_append(b, p, n);
        break;
    case PIECE_SUFFIX:
        if (suffix && n >= suffix && !memcmp(p + n - suffix, t->suffix, suffix)) buf_append(b, p, n - suffix), buf_putc(b, ' ');
        else buf_append(b, p, n);
    }
}

static enum status make_piece(struct tokenizer *t, struct token *k, int id, enum piece_style style, struct buf *b, struct err *err)
{
    int byte = k->kind == TOKEN_BYTE || (k->kind == TOKEN_NORMAL && t->byte_fallback) ? byte_of_name(k->text, k->length) : -1;
    if (k->kind == TOKEN_BYTE && byte < 0) return err_set(err, ST_BAD_INPUT, "byte token %d is named '%.40s', not like <0x41>", id, k->text);
    buf_clear(b);
    if (byte >= 0) {
        if (t->byte_ids[byte] < 0) t->byte_ids[byte] = id;
        buf_putc(b, (char)byte);
        k->kind = TOKEN_BYTE;
    } else piece_of(t, k, style, b);
    if (!b->failed) k->piece = tokenizer_keep(t, b->data ? b->data : "", b->length);
    k->piece_length = (uint32_t)b->length;
    return k->piece ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for %d tokens", t->count);
}

static enum status check_ids(struct tokenizer *t, struct err *err)
{
    const struct { const char *name; int32_t id; } all[] = { { "bos", t->ids.bos }, { "eos", t->ids.eos }, { "eot", t->ids.eot }, { "padding", t->ids.pad }, { "unknown", t->ids.unk }, { "separator", t->ids.sep }, { "cls", t->ids.cls }, { "mask", t->ids.mask } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].id >= t->count || all[i].id < -1) return err_set(err, ST_BAD_INPUT, "the %s token's id %d is outside 0 to %d", all[i].name, all[i].id, t->count - 1);
    return ST_OK;
}

static void find_ends(struct tokenizer *t)
{
    tokenizer_mark_eog(t, t->ids.eos);
    tokenizer_mark_eog(t, t->ids.eot);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int id = weights_map_get(&t->names, ends[i], strlen(ends[i]));
        if (id < 0 || t->tokens[id].kind == TOKEN_NORMAL) continue;
        tokenizer_mark_eog(t, id);
        if (t->ids.eot < 0 && i < 8) t->ids.eot = id;
    }
}

/* Added tokens that are looked for in normalised text are normalised themselves. */
static enum status add_added(struct tokenizer *t, const struct token *k, int id, struct work *w, struct err *err)
{
    const char *text = k->text;
    size_t length = k->length;
    if (k->normalized) {
        enum status st = tokenizer_run_normalise(t, w, text, length, &w->normal, err);
        if (st) return st;
        text = w->normal.data, length = w->normal.length;
    }
    if (length > TOKEN_TEXT_MAX) return err_set(err, ST_BAD_INPUT, "added token %d is longer than %d bytes when normalised", id, TOKEN_TEXT_MAX);
    return !length || trie_add(&t->added[k->normalized], text, length, id) ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for added tokens");
}

/* Everything that is looked up of one token. */
static enum status enter(struct tokenizer *t, struct token *k, int id, struct work *w, struct err *err)
{
    enum status st = ST_OK;
    bool plain = k->length && !k->outside && (k->kind == TOKEN_NORMAL || k->kind == TOKEN_USER || k->kind == TOKEN_UNUSED);
    bool ok = weights_map_put(&t->names, k->text, k->length, id) && (!plain || weights_map_put(&t->words, k->text, k->length, id));
    if (plain && k->length > t->longest) t->longest = k->length;
    if (ok && t->model == MODEL_UNIGRAM && plain) ok = trie_add(&t->pieces, k->text, k->length, id);
    if (ok && k->added) st = add_added(t, k, id, w, err);
    return ok ? st : err_set(err, ST_NO_MEMORY, "no memory for %d tokens", t->count);
}

enum status tokenizer_finish(struct tokenizer *t, enum piece_style style, struct err *err)
{
    struct work w = { 0 };
    int32_t ends_of_text[] = { t->ids.bos, t->ids.eos };
    enum status st = check_ids(t, err);
    buf_init(&w.normal, 0);
    buf_init(&w.a, 0);
    buf_init(&w.b, 0);
    if (!st) st = matcher_open(&w.matcher, err);
    for (int i = 0; i < 2 && !st; i++) {                         /* files that do not tell kinds */
        struct token *k = ends_of_text[i] < 0 ? NULL : &t->tokens[ends_of_text[i]];
        if (k && k->kind == TOKEN_NORMAL && k->length > 2) k->kind = TOKEN_CONTROL, k->added = true;
    }
    for (int id = 0; id < t->count && !st; id++) {
        struct token *k = &t->tokens[id];
        if (!k->text) {                                          /* a hole in the ids of a tokenizer.json */
            k->text = k->piece = "";
            k->kind = TOKEN_UNUSED;
            continue;
        }
        st = make_piece(t, k, id, style, &w.b, err);
        if (!st) st = enter(t, k, id, &w, err);
    }
    matcher_close(w.matcher);
    buf_free(&w.normal);
    buf_free(&w.a);
    buf_free(&w.b);
    if (st) return st;
    for (int32_t c = 0; c < 512; c++) {
        char text[4];
        size_t n = 0;
        if (c < 128) text[n++] = (char)c;
        else text[n++] = (char)(0xC0 | c >> 6), text[n++] = (char)(0x80 | (c & 0x3F));
        t->char_ids[c] = weights_map_get(&t->words, text, n);
    }
    if (t->longest > 512 && t->model == MODEL_WORDPIECE) t->longest = 512;
    find_ends(t);
    return ST_OK;
}

enum status tokenizer_add_template(struct tokenizer *t, const char *name, const char *text, size_t length, struct err *err)
{
    if (t->template_count == TEMPLATES_MAX) return err_set(err, ST_BAD_INPUT, "more than %d chat templates", TEMPLATES_MAX);
    char *copy = tokenizer_keep(t, text, length), *label = tokenizer_keep(t, name, strlen(name));
    if (!copy || !label) return err_set(err, ST_NO_MEMORY, "no memory for a chat template");
    for (int i = 0; i < t->template_count; i++)
        if (!strcmp(t->templates[i].name, name)) {
            t->templates[i].text = copy;
            return ST_OK;
        }
    t->templates[t->template_count].name = label;
    t->templates[t->template_count++].text = copy;
    return ST_OK;
}

enum status tokenizer_set_charsmap(struct tokenizer *t, struct normalise_step *s, const void *data, size_t length, struct err *err)
{
    uint32_t bytes;
    if (length < 4) return err_set(err, ST_BAD_INPUT, "precompiled_charsmap has %zu bytes", length);
    memcpy(&bytes, data, 4);
    if (bytes % 4 || bytes > length - 4) return err_set(err, ST_BAD_INPUT, "precompiled_charsmap: a trie of %u bytes in %zu", bytes, length - 4);
    const char *copy = tokenizer_keep(t, data, length);            /* the copy ends in NUL, so does its last text */
    if (!copy) return err_set(err, ST_NO_MEMORY, "no memory for precompiled_charsmap");
    *s = (struct normalise_step){ .kind = NORMALISE_CHARSMAP, .map = (const uint8_t *)copy + 4, .map_units = bytes / 4, .map_texts = copy + 4 + bytes, .map_texts_length = length - 4 - bytes };
    return ST_OK;
}
