/* The ways in and out of a model's config. Both texts become one tree (pbtxt.c), which config_read.c turns into the struct and which is
 * written back, completed, for GET .../config. */
#include "model_store/config_internal.h"

#include <stdlib.h>
#include <string.h>

#include "model_store/pbtxt.h"

enum status config_refuse_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "the config needs more memory than its budget"); }

static enum status make_config(struct model_config **out, struct err *err)
{
    struct model_config *c = calloc(1, sizeof *c);
    if (!c) return err_set(err, ST_NO_MEMORY, "no memory for a model's config");
    arena_init(&c->arena, CONFIG_ARENA_MAX);
    *out = c;
    return ST_OK;
}

static enum status check_length(size_t length, const char *where, struct err *err)
{
    if (length > CONFIG_BYTES_MAX) return err_set(err, ST_TOO_LARGE, "%.150s has %zu bytes; at most %d are read", where, length, CONFIG_BYTES_MAX);
    return ST_OK;
}

enum status model_config_parse(struct model_config **out, const char *text, size_t length, const char *where, struct log *log, struct err *err)
{
    struct model_config *c = NULL;
    struct json *tree = NULL;
    enum status st = check_length(length, where, err);
    if (st) return st;
    st = make_config(&c, err);
    if (st) return st;
    st = pbtxt_parse(&tree, &c->arena, &schema_model_config, text ? text : "", text ? length : 0, where, err);
    c->tree = tree;
    c->from_file = text != NULL;
    if (!st) st = config_read_tree(c, where, log, err);
    if (st) model_config_free(c);
    else *out = c;
    return st;
}

enum status model_config_parse_json(struct model_config **out, const char *text, size_t length, const char *where, struct log *log, struct err *err)
{
    struct model_config *c = NULL;
    struct json *document, *tree = NULL;
    struct json_options options = { .depth_max = 32, .unique_keys = true };
    struct arena scratch;
    enum status st = check_length(length, where, err);
    if (st) return st;
    st = make_config(&c, err);
    if (st) return st;
    arena_init(&scratch, CONFIG_ARENA_MAX * 2);
    st = json_parse(&document, &scratch, text, length, &options, err);
    if (st) err_prefix(err, "%.150s", where);
    else st = pbtxt_from_json(&tree, &c->arena, &schema_model_config, document, where, err);
    arena_free(&scratch);
    c->tree = tree;
    c->from_file = true;
    if (!st) st = config_read_tree(c, where, log, err);
    if (st) model_config_free(c);
    else *out = c;
    return st;
}

void model_config_write_json(struct buf *out, const struct model_config *c) { pbtxt_write_json(out, &schema_model_config, c->tree); }

const char *model_config_parameter(const struct model_config *c, const char *key)
{
    for (int i = 0; i < c->parameter_count; i++)
        if (!strcmp(c->parameters[i].key, key)) return c->parameters[i].value;
    return NULL;
}

void model_config_free(struct model_config *c)
{
    if (!c) return;
    arena_free(&c->arena);
    free(c);
}

bool model_name_valid(const char *name, size_t length)
{
    if (!length || length > MODEL_NAME_MAX) return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (!i || (c != '.' && c != '_' && c != '-'))) return false;
    }
    return true;
}

bool model_version_parse(const char *text, size_t length, int64_t *out)
{
    int64_t v = 0;
    if (!length || length > 10 || text[0] == '0') return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        v = v * 10 + (text[i] - '0');
    }
    if (v > INT32_MAX) return false;
    *out = v;
    return true;
}
