/* Folders older than tokenizer.json hold vocab.json (text to id) and merges.txt (one pair a line), and leave the rest to the tokenizer's class. They are put
 * into the newer form and read as that. Two classes: CLIP's, whose words end in "</w>" (lower case, its own splitting pattern, start and end around
 * each text), and GPT-2's. */
#include <string.h>

#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

enum { ARENA_MAX = 512 << 20, VOCAB_MAX = 256 << 20 };

static const char clip_steps[] =
    ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s+\"},\"content\":\" \"},{\"type\":\"Lowercase\"}]}"
    ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"'s|'t|'re|'ve|'m|'ll|'d|[\\\\p{L}]+|[\\\\p{N}]|[^\\\\s\\\\p{L}\\\\p{N}]+\"},"
    "\"behavior\":\"Removed\",\"invert\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]},\"decoder\":{\"type\":\"ByteLevel\"}";
static const char gpt2_steps[] = ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"}";

/* merges.txt as the elements of a JSON array. */
static void put_merges(struct buf *b, const char *text, size_t length)
{
    const char *p = text, *end = text + length;
    bool first = true;
    for (bool top = true; p < end; top = false) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p)), *next = line_end ? line_end + 1 : end;
        if (!line_end) line_end = end;
        if (line_end > p && line_end[-1] == '\r') line_end--;
        if (line_end > p && !(top && *p == '#')) {
            if (!first) buf_putc(b, ',');
            json_write_string(b, p, (size_t)(line_end - p));
            first = false;
        }
        p = next;
    }
}

static const char *token_name(const struct json *config, const char *key, const char *otherwise)
{
    const struct json *v = json_get(config, key);
    if (v && v->type == JSON_OBJECT) v = json_get(v, "content");
    return v && v->type == JSON_STRING ? v->string.text : otherwise;
}

static void put_added(struct buf *b, const struct json *id, const char *name, bool comma)
{
    int64_t v = -1;
    if (!id || !json_as_int64(id, &v)) return;
    if (comma) buf_putc(b, ',');
    buf_puts(b, "{\"special\":true,\"id\":");
    buf_int(b, v);
    buf_puts(b, ",\"content\":");
    json_write_text(b, name);
    buf_putc(b, '}');
}

/* Start and end as CLIP puts them around a text. */
static void put_wraps(struct buf *b, const struct json *bos, const struct json *eos)
{
    int64_t first = 0, last = 0;
    if (!bos || !eos || !json_as_int64(bos, &first) || !json_as_int64(eos, &last)) return;
    buf_puts(b, ",\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"\",");
    buf_int(b, first);
    buf_puts(b, "],\"sep\":[\"\",");
    buf_int(b, last);
    buf_puts(b, "]}");
}

enum status tokenizer_open_merges(struct tokenizer **out, const char *vocab, size_t vocab_length, const char *merges, size_t merges_length, const char *config_text, size_t config_length, struct err *err)
{
    struct arena arena;
    struct json *words, *config = NULL;
    struct buf b;
    bool clip = false;
    arena_init(&arena, ARENA_MAX);
    buf_init(&b, 2 * (uint64_t)VOCAB_MAX);
    enum status st = json_parse(&words, &arena, vocab, vocab_length, NULL, err);
    if (!st && config_text) st = json_parse(&config, &arena, config_text, config_length, NULL, err);
    if (!st && words->type != JSON_OBJECT) st = err_set(err, ST_BAD_INPUT, "vocab.json is no object");
    for (const struct json *e = st ? NULL : words->list.first; e && !clip; e = e->next) clip = e->key_length > 4 && !strcmp(e->key + e->key_length - 4, "</w>");
    if (!st) {
        const char *bos = token_name(config, "bos_token", clip ? "<|startoftext|>" : "<|endoftext|>"), *eos = token_name(config, "eos_token", "<|endoftext|>");
        buf_puts(&b, "{\"model\":{\"type\":\"BPE\",\"vocab\":");
        buf_append(&b, vocab, vocab_length);
        buf_puts(&b, clip ? ",\"end_of_word_suffix\":\"</w>\",\"unk_token\":" : ",\"unk_token\":");
        json_write_text(&b, token_name(config, "unk_token", "<|endoftext|>"));
        buf_puts(&b, ",\"merges\":[");
        put_merges(&b, merges, merges_length);
        buf_puts(&b, "]},\"added_tokens\":[");
        put_added(&b, json_get(words, eos), eos, false);
        if (strcmp(bos, eos)) put_added(&b, json_get(words, bos), bos, json_get(words, eos) != NULL);
        buf_puts(&b, "]");
        buf_puts(&b, clip ? clip_steps : gpt2_steps);
        if (clip) put_wraps(&b, json_get(words, bos), json_get(words, eos));
        buf_puts(&b, "}");
        st = b.failed ? err_set(err, ST_NO_MEMORY, "no memory for a vocabulary of %zu bytes", vocab_length) : tokenizer_open_json(out, b.data, b.length, config_text, config_length, err);
    }
    buf_free(&b);
    arena_free(&arena);
    return st;
}
