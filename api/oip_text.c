#include "api/oip_text.h"

#include <string.h>

enum { DEPTH_MAX = 16 };

static struct json *add(struct request *r, struct json *object, const char *name)
{
    struct json *j = arena_calloc(&r->arena, 1, sizeof *j), **at = &object->list.first;
    if (!j) return NULL;
    while (*at) at = &(*at)->next;
    *at = j;
    object->list.count++;
    j->key = name;
    j->key_length = strlen(name);
    return j;
}

static enum status no_memory(struct err *err) { return err_set(err, ST_TOO_LARGE, "the request is over its memory budget"); }

/* The one element of a tensor. */
static enum status read_element(struct json *out, struct request *r, const struct request_tensor *in, struct err *err)
{
    const struct tensor *t = &in->tensor;
    const struct string_ref *s = t->data;
    switch (t->dtype) {
    case DT_STRING:
        out->type = JSON_STRING;
        out->string.length = s->length;
        out->string.text = arena_copy(&r->arena, s->length ? s->text : "", s->length);
        for (size_t at = 0, n; out->string.text && at < s->length; at += n)
            if (!(n = json_utf8_length(s->text + at, s->length - at))) return err_set(err, ST_BAD_INPUT, "input '%s' is not UTF-8", in->name);
        return out->string.text ? ST_OK : no_memory(err);
    case DT_BOOL: out->type = JSON_BOOL; out->boolean = *(const uint8_t *)t->data != 0; return ST_OK;
    case DT_U8: out->type = JSON_INT; out->integer = *(const uint8_t *)t->data; return ST_OK;
    case DT_I8: out->type = JSON_INT; out->integer = *(const int8_t *)t->data; return ST_OK;
    case DT_U16: out->type = JSON_INT; out->integer = *(const uint16_t *)t->data; return ST_OK;
    case DT_I16: out->type = JSON_INT; out->integer = *(const int16_t *)t->data; return ST_OK;
    case DT_U32: out->type = JSON_INT; out->integer = *(const uint32_t *)t->data; return ST_OK;
    case DT_I32: out->type = JSON_INT; out->integer = *(const int32_t *)t->data; return ST_OK;
    case DT_I64: out->type = JSON_INT; out->integer = *(const int64_t *)t->data; return ST_OK;
    case DT_U64: out->natural = *(const uint64_t *)t->data; out->type = out->natural > INT64_MAX ? JSON_UINT : JSON_INT; return ST_OK;
    case DT_F32: out->type = JSON_REAL; out->real = (double)*(const float *)t->data; return ST_OK;
    case DT_F64: out->type = JSON_REAL; out->real = *(const double *)t->data; return ST_OK;
    default: return err_set(err, ST_BAD_INPUT, "input '%s' of a model of texts is of type %s, which no field of a text has", in->name, dtype_name(t->dtype));
    }
}

/* The members of a JSON object in a tensor become the question's. */
static enum status read_object(struct json *root, struct request *r, const struct json *text, const char *name, struct err *err)
{
    struct json *object, **at = &root->list.first;
    if (text->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "input '%s' must be BYTES that hold a JSON object", name);
    if (!text->string.length) return ST_OK;
    enum status st = json_parse(&object, &r->arena, text->string.text, text->string.length, &(struct json_options){ .unique_keys = true, .depth_max = DEPTH_MAX }, err);
    if (st) return err_prefix(err, "input '%s'", name);
    if (object->type != JSON_OBJECT) return err_set(err, ST_BAD_INPUT, "input '%s' must be BYTES that hold a JSON object", name);
    while (*at) at = &(*at)->next;
    *at = object->list.first;
    root->list.count += object->list.count;
    return ST_OK;
}

static enum status read_tensor(struct json *root, struct request *r, const struct request_tensor *in, struct err *err)
{
    uint64_t count;
    struct json alone = { 0 };
    bool object = !strcmp(in->name, "sampling_parameters");
    if (!shape_count(in->tensor.dims, in->tensor.rank, &count) || count != 1) return err_set(err, ST_BAD_INPUT, "input '%s' of a model of texts must hold one element", in->name);
    struct json *to = object ? &alone : add(r, root, in->name);
    if (!to) return no_memory(err);
    enum status st = read_element(to, r, in, err);
    return st || !object ? st : read_object(root, r, &alone, in->name, err);
}

static enum status read_parameter(struct json *root, struct request *r, const struct parameter *p, struct err *err)
{
    struct json *to = add(r, root, p->name);
    if (!to) return no_memory(err);
    switch (p->type) {
    case PARAMETER_BOOL: to->type = JSON_BOOL; to->boolean = p->boolean; break;
    case PARAMETER_INT: to->type = JSON_INT; to->integer = p->integer; break;
    case PARAMETER_DOUBLE: to->type = JSON_REAL; to->real = p->real; break;
    case PARAMETER_STRING: to->type = JSON_STRING; to->string.text = p->text; to->string.length = strlen(p->text); break;
    }
    return ST_OK;
}

enum status oip_text_question(struct json **out, struct request *r, struct err *err)
{
    struct json *root = arena_calloc(&r->arena, 1, sizeof *root);
    enum status st = root ? ST_OK : no_memory(err);
    if (root) root->type = JSON_OBJECT;
    for (int i = 0; i < r->input_count && !st; i++) st = read_tensor(root, r, &r->inputs[i], err);
    for (int i = 0; i < r->parameter_count && !st; i++) st = read_parameter(root, r, &r->parameters[i], err);
    r->input_count = 0;      /* what they said is in the question */
    if (!st) *out = root;
    return st;
}
