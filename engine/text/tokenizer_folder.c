/* A folder of the Hugging Face kind: which file holds the tokenizer, and what the small files beside it say of special tokens and chat templates. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "engine/text/tokenizer_internal.h"

enum { MODEL_FILE_MAX = 256 << 20, SMALL_FILE_MAX = 16 << 20, SMALL_ARENA = 256 << 20, PATH_BYTES = 4096 };

static const char *name_of(const struct json *v, size_t *length)
{
    if (v && v->type == JSON_OBJECT) v = json_get(v, "content");
    if (!v || v->type != JSON_STRING) return NULL;
    *length = v->string.length;
    return v->string.text;
}

void tokenizer_read_names(struct tokenizer *t, const struct json *object)
{
    const struct { const char *key; int32_t *id; } all[] = { { "bos_token", &t->ids.bos }, { "eos_token", &t->ids.eos }, { "pad_token", &t->ids.pad }, { "unk_token", &t->ids.unk }, { "sep_token", &t->ids.sep }, { "cls_token", &t->ids.cls }, { "mask_token", &t->ids.mask } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t n = 0;
        const char *name = name_of(json_get(object, all[i].key), &n);
        int id = name ? weights_map_get(&t->names, name, n) : -1;
        if (id >= 0) *all[i].id = id;
    }
    tokenizer_mark_eog(t, t->ids.eos);
}

enum status tokenizer_read_config(struct tokenizer *t, const struct json *config, struct err *err)
{
    const struct json *template = json_get(config, "chat_template");
    enum status st = ST_OK;
    tokenizer_read_names(t, config);
    if (template && template->type == JSON_STRING) return tokenizer_add_template(t, "default", template->string.text, template->string.length, err);
    for (const struct json *e = template && template->type == JSON_ARRAY ? template->list.first : NULL; e && !st; e = e->next) {
        const struct json *text = json_get(e, "template");
        if (text && text->type == JSON_STRING) st = tokenizer_add_template(t, json_text_or(e, "name", "default"), text->string.text, text->string.length, err);
    }
    return st;
}

void tokenizer_read_wraps(struct tokenizer *t, const struct json *config, bool add_bos, bool add_eos)
{
    t->ids.add_bos = json_bool_or(config, "add_bos_token", add_bos);
    t->ids.add_eos = json_bool_or(config, "add_eos_token", add_eos);
    t->before_count = t->after_count = 0;
    if (t->ids.add_bos && t->ids.bos >= 0) t->before[t->before_count++] = t->ids.bos;
    if (t->ids.add_eos && t->ids.eos >= 0) t->after[t->after_count++] = t->ids.eos;
}

/* A file of the folder, in the heap; *text stays NULL when it is not there. */
static enum status read_file(int dirfd, const char *folder, const char *name, size_t max, char **text, size_t *length, struct err *err)
{
    char path[PATH_BYTES];
    uint64_t size;
    int fd = -1, n = snprintf(path, sizeof path, "%s%s%s", folder, *folder && strcmp(folder, ".") ? "/" : "", name);
    enum status st;
    if (!strcmp(folder, ".")) n = snprintf(path, sizeof path, "%s", name);
    if (n < 0 || n >= (int)sizeof path) return err_set(err, ST_BAD_INPUT, "a path of %d bytes", n);
    if (dirfd < 0) st = file_read_path(text, length, path, max, err);
    else if (!(st = file_open_below(&fd, &size, dirfd, path, err))) {
        st = file_read_fd(text, length, fd, max, err);
        close(fd);
    }
    if (st == ST_NOT_FOUND) return *text = NULL, ST_OK;
    return st ? err_prefix(err, "'%.200s'", name) : ST_OK;
}

/* generation_config.json's eos_token_id (one or a list) also end a generation. */
static void read_ends(struct tokenizer *t, const struct json *generation)
{
    const struct json *eos = json_get(generation, "eos_token_id");
    int64_t id;
    if (eos && json_as_int64(eos, &id) && id >= 0 && id < t->count) tokenizer_mark_eog(t, (int32_t)id);
    for (const struct json *e = eos && eos->type == JSON_ARRAY ? eos->list.first : NULL; e; e = e->next)
        if (json_as_int64(e, &id) && id >= 0 && id < t->count) tokenizer_mark_eog(t, (int32_t)id);
}

/* The small files; a broken one fails the load. */
static enum status read_beside(struct tokenizer *t, int dirfd, const char *folder, struct err *err)
{
    static const char *const names[] = { "special_tokens_map.json", "generation_config.json" };
    char *text = NULL;
    size_t length;
    enum status st = ST_OK;
    for (int i = 0; i < 2 && !st; i++) {
        struct arena arena;
        struct json *j;
        st = read_file(dirfd, folder, names[i], SMALL_FILE_MAX, &text, &length, err);
        if (st || !text) continue;
        arena_init(&arena, SMALL_ARENA);
        st = json_parse(&j, &arena, text, length, NULL, err);
        if (st) err_prefix(err, "'%s'", names[i]);
        else if (i == 0) tokenizer_read_names(t, j);
        else read_ends(t, j);
        arena_free(&arena);
        free(text);
        text = NULL;
    }
    if (!st) st = read_file(dirfd, folder, "chat_template.jinja", SMALL_FILE_MAX, &text, &length, err);
    if (!st && text) st = tokenizer_add_template(t, "default", text, length, err);
    free(text);
    return st;
}

/* vocab.json and merges.txt; *out stays NULL when they are not there. */
static enum status read_merges(struct tokenizer **out, int dirfd, const char *folder, const char *config, size_t config_length, struct err *err)
{
    char *vocab = NULL, *merges = NULL;
    size_t vocab_length, merges_length;
    enum status st = read_file(dirfd, folder, "vocab.json", MODEL_FILE_MAX, &vocab, &vocab_length, err);
    if (!st && vocab) st = read_file(dirfd, folder, "merges.txt", MODEL_FILE_MAX, &merges, &merges_length, err);
    if (!st && vocab && merges) {
        st = tokenizer_open_merges(out, vocab, vocab_length, merges, merges_length, config, config_length, err);
        if (st) err_prefix(err, "'vocab.json' and 'merges.txt'");
    }
    free(vocab);
    free(merges);
    return st;
}

enum status tokenizer_open_folder(struct tokenizer **out, int dirfd, const char *path, struct err *err)
{
    static const char *const models[] = { "tokenizer.model", "spiece.model", "sentencepiece.bpe.model" };
    char *text = NULL, *config = NULL;
    size_t length = 0, config_length = 0;
    struct tokenizer *t = NULL;
    enum status st = read_file(dirfd, path, "tokenizer_config.json", SMALL_FILE_MAX, &config, &config_length, err);
    if (!st) st = read_file(dirfd, path, "tokenizer.json", MODEL_FILE_MAX, &text, &length, err);
    if (!st && text) {
        st = tokenizer_open_json(&t, text, length, config, config_length, err);
        if (st) err_prefix(err, "'tokenizer.json'");
    }
    for (int i = 0; i < 3 && !st && !t; i++) {
        st = read_file(dirfd, path, models[i], MODEL_FILE_MAX, &text, &length, err);
        if (st || !text) continue;
        st = tokenizer_open_model(&t, text, length, config, config_length, err);
        if (st) err_prefix(err, "'%s'", models[i]);
    }
    if (!st && !t) st = read_merges(&t, dirfd, path, config, config_length, err);
    free(text);
    free(config);
    if (!st && !t) st = err_set(err, ST_NOT_FOUND, "the folder has neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt");
    if (!st) st = read_beside(t, dirfd, path, err);
    if (st) tokenizer_close(t);
    else *out = t;
    return st;
}
