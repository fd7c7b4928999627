#include "api/oip_infer.h"

#include "api/oip_ask.h"
#include "api/oip_tensor.h"
#include "api/picture.h"
#include "base/checked.h"
#include "base/json.h"

#include <string.h>

/* ---- the pieces of a request ---- */

static enum status read_parameter(struct parameter *q, const struct json *j, struct err *err)
{
    q->name = j->key;
    switch (j->type) {
    case JSON_BOOL: q->type = PARAMETER_BOOL, q->boolean = j->boolean; return ST_OK;
    case JSON_INT: q->type = PARAMETER_INT, q->integer = j->integer; return ST_OK;
    case JSON_UINT: q->type = PARAMETER_INT, q->integer = (int64_t)j->natural; return ST_OK;
    case JSON_REAL: q->type = PARAMETER_DOUBLE, q->real = j->real; return ST_OK;
    case JSON_STRING: q->type = PARAMETER_STRING, q->text = j->string.text; return ST_OK;
    default: return err_set(err, ST_BAD_INPUT, "parameter '%s' must be a string, number or boolean", j->key);
    }
}

/* What a tensor's parameters say of shared memory. */
static enum status read_shared(struct shared_ask *s, const struct json *parameters, const char *tensor, struct err *err)
{
    for (const struct json *j = parameters && parameters->type == JSON_OBJECT ? parameters->list.first : NULL; j; j = j->next) {
        struct parameter p;
        if (strncmp(j->key, "shared_memory_", 14)) continue;
        enum status st = read_parameter(&p, j, err);
        if (!st) st = oip_shared_use(s, &p, tensor, err);
        if (st) return st;
    }
    return ST_OK;
}

static enum status read_parameters(struct request *r, const struct json *object, struct infer_ask *ask, struct err *err)
{
    if (!object) return ST_OK;
    if (object->type != JSON_OBJECT) return err_set(err, ST_BAD_INPUT, "Unable to parse 'parameters': it must be an object");
    if (object->list.count > REQUEST_TENSORS_MAX) return err_set(err, ST_BAD_INPUT, "more than %d parameters", REQUEST_TENSORS_MAX);
    struct parameter *p = arena_calloc(&r->arena, object->list.count, sizeof *p);
    if (!p && object->list.count) return err_set(err, ST_NO_MEMORY, "no memory for the parameters");
    for (const struct json *j = object->list.first; j; j = j->next) {
        struct parameter *q = &p[r->parameter_count];
        enum status st = read_parameter(q, j, err);
        if (st) return st;
        r->parameter_count++;
        st = oip_parameter_use(r, ask, q, err);
        if (st) return st;
    }
    r->parameters = p;
    return ST_OK;
}

static enum status read_shape(struct tensor *t, const struct json *shape, const char *name, struct err *err)
{
    if (!shape || shape->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "Unable to parse 'shape' of input '%s': it must be an array of integers", name);
    if (shape->list.count > TENSOR_RANK_MAX) return err_set(err, ST_BAD_INPUT, "Unable to parse 'shape' of input '%s': more than %d dimensions", name, TENSOR_RANK_MAX);
    for (const struct json *d = shape->list.first; d; d = d->next) {
        int64_t n;
        if (!json_as_int64(d, &n) || n < 0) return err_set(err, ST_BAD_INPUT, "Unable to parse 'shape' of input '%s': every dimension must be a natural number", name);
        t->dims[t->rank++] = n;
    }
    return ST_OK;
}

static const char *text_of(const struct json *object, const char *key)
{
    const struct json *j = json_get(object, key);
    return j && j->type == JSON_STRING && strlen(j->string.text) == j->string.length ? j->string.text : NULL;
}

/* Where the raw tensors of the body stand; each input takes the next piece. */
struct raw_part { const char *at; uint64_t left; };

static enum status read_input(struct request *r, const struct infer_ask *ask, struct request_tensor *in, const struct json *j, struct raw_part *raw, const char *model, struct err *err)
{
    const char *name = text_of(j, "name"), *datatype = text_of(j, "datatype");
    if (!name) return err_set(err, ST_BAD_INPUT, "Unable to parse 'name' of an input: a string is needed");
    if (!datatype) return err_set(err, ST_BAD_INPUT, "Unable to parse 'datatype' of input '%s': a string is needed", name);
    in->name = name;
    in->tensor.dtype = dtype_from_oip(datatype, strlen(datatype));
    if (in->tensor.dtype == DT_NONE) return err_set(err, ST_BAD_INPUT, "invalid datatype '%.64s' for input '%s'", datatype, name);
    enum status st = read_shape(&in->tensor, json_get(j, "shape"), name, err);
    if (st) return st;
    const struct json *size = json_get(json_get(j, "parameters"), "binary_data_size"), *data = json_get(j, "data");
    if (size) {
        uint64_t n;
        if (!json_as_uint64(size, &n)) return err_set(err, ST_BAD_INPUT, "Unable to parse 'binary_data_size' of input '%s': it must be a natural number", name);
        if (n > raw->left) return err_set(err, ST_BAD_INPUT, "unexpected size for input '%s', expecting %llu additional bytes for model '%s'", name, (unsigned long long)(n - raw->left), model);
        st = oip_tensor_from_raw(&in->tensor, &r->arena, raw->at, n, name, err);
        raw->at += n;
        raw->left -= n;
        return st;
    }
    struct shared_ask shared = { 0 };
    st = read_shared(&shared, json_get(j, "parameters"), name, err);
    if (st) return st;
    if (shared.region) return oip_shared_input(r, ask, in, &shared, err);
    if (!data || data->type != JSON_RAW) return err_set(err, ST_BAD_INPUT, "Unable to parse 'data' of input '%s': an array is needed", name);
    return oip_tensor_from_json(&in->tensor, &r->arena, data->raw.text, data->raw.length, name, err);
}

static enum status read_inputs(struct request *r, const struct infer_ask *ask, const struct json *inputs, struct raw_part raw, const char *model, struct err *err)
{
    if (!inputs || inputs->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "Unable to parse 'inputs': attempt to access non-existing object member 'inputs'");
    if (inputs->list.count > REQUEST_TENSORS_MAX) return err_set(err, ST_BAD_INPUT, "more than %d inputs", REQUEST_TENSORS_MAX);
    r->inputs = arena_calloc(&r->arena, inputs->list.count, sizeof *r->inputs);
    if (!r->inputs) return err_set(err, ST_NO_MEMORY, "no memory for the inputs");
    for (const struct json *j = inputs->list.first; j; j = j->next) {
        enum status st = read_input(r, ask, &r->inputs[r->input_count], j, &raw, model, err);
        if (st) return st;
        r->input_count++;
    }
    if (raw.left) return err_set(err, ST_BAD_INPUT, "unexpected additional input data for model '%s'", model);
    return ST_OK;
}

static enum status read_outputs(struct request *r, const struct json *outputs, struct infer_ask *ask, struct err *err)
{
    if (!outputs) return ST_OK;
    if (outputs->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "Unable to parse 'outputs': it must be an array");
    if (outputs->list.count > REQUEST_TENSORS_MAX) return err_set(err, ST_BAD_INPUT, "more than %d outputs", REQUEST_TENSORS_MAX);
    ask->outputs = arena_calloc(&r->arena, outputs->list.count, sizeof *ask->outputs);
    r->wanted = arena_calloc(&r->arena, outputs->list.count, sizeof *r->wanted);
    if (!ask->outputs || !r->wanted) return err_set(err, ST_NO_MEMORY, "no memory for the outputs");
    for (const struct json *j = outputs->list.first; j; j = j->next) {
        struct output_ask *o = &ask->outputs[ask->output_count];
        const struct json *parameters = json_get(j, "parameters"), *binary = json_get(parameters, "binary_data"), *classes = json_get(parameters, "classification");
        o->name = text_of(j, "name");
        if (!o->name) return err_set(err, ST_BAD_INPUT, "Unable to parse 'name' of an output: a string is needed");
        if (binary && binary->type != JSON_BOOL) return err_set(err, ST_BAD_INPUT, "Unable to parse 'binary_data' of output '%s': it must be a boolean", o->name);
        o->binary = binary ? binary->boolean : ask->binary_output;
        uint64_t k = 0;
        if (classes && (!json_as_uint64(classes, &k) || !k)) k = UINT64_MAX;      /* refused below */
        struct shared_ask shared = { 0 };
        enum status st = read_shared(&shared, parameters, o->name, err);
        if (!st) st = oip_output_use(r, ask, o, k, &shared, err);
        if (st) return st;
    }
    r->wanted_count = ask->output_count;
    return ST_OK;
}

/* The raw request: no JSON, the whole body is the one input at batch 1; free dimensions cannot be guessed. */
static enum status read_raw(struct request *r, struct infer_ask *ask, const struct model_version *v, const char *body, size_t length, struct err *err)
{
    if (v->signature->input_count != 1)
        return err_set(err, ST_BAD_INPUT, "Raw request must only have 1 input (found %d) to be deduced", v->signature->input_count);
    const struct port *p = &v->signature->inputs[0];
    r->inputs = arena_calloc(&r->arena, 1, sizeof *r->inputs);
    if (!r->inputs) return err_set(err, ST_NO_MEMORY, "no memory for the input");
    r->input_count = 1;
    struct tensor *t = &r->inputs[0].tensor;
    r->inputs[0].name = p->name;
    *t = (struct tensor){ .dtype = p->dtype, .rank = p->rank };
    uint64_t known = 1;
    int free_at = -1;
    bool batched = v->config->max_batch_size > 0;
    for (int i = 0; i < p->rank; i++) {
        t->dims[i] = p->dims[i] >= 0 ? p->dims[i] : 1;
        if (p->dims[i] < 0 && !(i == 0 && batched)) {
            if (free_at >= 0) return err_set(err, ST_BAD_INPUT, "the shape of the raw input '%s' cannot be deduced: more than one dimension is free", p->name);
            free_at = i;
        } else if (!size_mul(known, (uint64_t)t->dims[i], &known)) {
            return err_set(err, ST_BAD_INPUT, "the shape of input '%s' is too large", p->name);
        }
    }
    uint64_t element = (uint64_t)(dtype_bits(p->dtype) / 8);
    if (v->config->picture.usable && image_sniff((const uint8_t *)body, length) != IMAGE_UNKNOWN) {
        ask->binary_output = true;
        return picture_bytes_to_tensor(t, &v->config->picture, r, body, length, err);
    }
    if (p->rank < 0 || p->dtype == DT_STRING) return err_set(err, ST_BAD_INPUT, "the shape of the raw input '%s' cannot be deduced", p->name);
    if (free_at >= 0) t->dims[free_at] = known && element ? (int64_t)(length / (known * element)) : 0;
    ask->binary_output = true;
    return oip_tensor_from_raw(t, &r->arena, body, length, p->name, err);
}

enum status oip_infer_read(struct request *r, struct infer_ask *ask, const struct model_version *v, const char *body, size_t length, int64_t json_length, struct err *err)
{
    struct json *root;
    *ask = (struct infer_ask){ .regions = ask->regions };
    if (json_length == 0) {
        enum status st = read_raw(r, ask, v, body, length, err);
        return st ? st : oip_infer_check(r, ask, v, err);
    }
    size_t text = json_length < 0 ? length : (size_t)json_length;
    if (text > length) return err_set(err, ST_BAD_INPUT, "Inference-Header-Content-Length is %zu but the body has %zu bytes", text, length);
    enum status st = json_parse(&root, &r->arena, body, text, &(struct json_options){ .raw_key = "data", .unique_keys = true }, err);
    if (st) return err_prefix(err, "failed to parse the request JSON buffer");
    if (root->type != JSON_OBJECT) return err_set(err, ST_BAD_INPUT, "failed to parse the request JSON buffer: the request must be an object");
    const struct json *id = json_get(root, "id");
    if (id) {
        if (id->type != JSON_STRING || strlen(id->string.text) != id->string.length) return err_set(err, ST_BAD_INPUT, "Unable to parse 'id': it must be a string");
        r->id = id->string.text;
    }
    st = read_parameters(r, json_get(root, "parameters"), ask, err);
    if (!st) st = read_inputs(r, ask, json_get(root, "inputs"), (struct raw_part){ body + text, length - text }, v->name, err);
    if (!st) st = read_outputs(r, json_get(root, "outputs"), ask, err);
    if (st) return st;
    return oip_infer_check_named(r, ask, v, err);
}

/* ---- the answer ---- */

static enum status write_output(struct buf *out, const struct request_tensor *o, const struct output_ask *a, bool binary, struct err *err)
{
    const struct tensor *t = &o->tensor;
    const char *datatype = dtype_oip(t->dtype);
    if (!datatype) return err_set(err, ST_UNSUPPORTED, "output '%s' is of type %s, which the protocol does not have", o->name, dtype_name(t->dtype));
    const bool shared = a && a->region;
    enum status st = shared ? oip_output_store(a, t, err) : ST_OK;
    if (st) return st;
    if (!shared && !binary && (t->dtype == DT_F16 || t->dtype == DT_BF16))
        return err_set(err, ST_BAD_INPUT, "sending %s data via JSON is not supported: ask for output '%s' as binary data", datatype, o->name);
    buf_puts(out, "{\"name\":");
    json_write_text(out, o->name);
    buf_printf(out, ",\"datatype\":\"%s\",\"shape\":[", datatype);
    for (int i = 0; i < t->rank; i++) {
        if (i) buf_putc(out, ',');
        buf_int(out, t->dims[i]);
    }
    buf_putc(out, ']');
    if (shared) {
        buf_puts(out, ",\"parameters\":{\"shared_memory_region\":");
        json_write_text(out, a->region_name);
        buf_printf(out, ",\"shared_memory_offset\":%llu,\"shared_memory_byte_size\":%llu}}", (unsigned long long)a->shared_offset, (unsigned long long)a->shared_bytes);
    } else if (binary) {
        buf_puts(out, ",\"parameters\":{\"binary_data_size\":");
        buf_uint(out, oip_tensor_raw_bytes(t));
        buf_puts(out, "}}");
    } else {
        buf_puts(out, ",\"data\":");
        oip_tensor_to_json(out, t);
        buf_putc(out, '}');
    }
    return ST_OK;
}

void oip_answer_head_write(struct buf *out, const struct request *r, const struct model_version *v)
{
    if (r->id[0]) {
        buf_puts(out, "\"id\":");
        json_write_text(out, r->id);
        buf_putc(out, ',');
    }
    buf_puts(out, "\"model_name\":");
    json_write_text(out, v->name);
    buf_printf(out, ",\"model_version\":\"%lld\"", (long long)v->version);
}

enum status oip_infer_write(struct buf *out, size_t *json_length, struct request *r, const struct infer_ask *ask, const struct model_version *v, struct err *err)
{
    int n = ask->output_count ? ask->output_count : r->output_count;
    bool any_binary = false;
    buf_putc(out, '{');
    oip_answer_head_write(out, r, v);
    buf_puts(out, ",\"outputs\":[");
    for (int i = 0; i < n; i++) {
        const struct output_ask *a = ask->output_count ? &ask->outputs[i] : NULL;
        const struct request_tensor *o;
        enum status st = oip_output_pick(&o, r, ask, i, v, err);
        if (st) return st;
        bool binary = a ? a->binary && !a->region : ask->binary_output;
        any_binary |= binary;
        if (i) buf_putc(out, ',');
        st = write_output(out, o, a, binary, err);
        if (st) return st;
    }
    buf_puts(out, "]}");
    *json_length = any_binary ? out->length : 0;
    for (int i = 0; any_binary && i < n; i++) {
        const struct output_ask *a = ask->output_count ? &ask->outputs[i] : NULL;
        const struct request_tensor *o = a ? oip_output_named(r, a->name) : &r->outputs[i];
        if (a ? a->binary && !a->region : ask->binary_output) oip_tensor_to_raw(out, &o->tensor);
    }
    return out->failed ? err_set(err, ST_NO_MEMORY, "no memory for the answer") : ST_OK;
}

void oip_error_write(struct buf *out, const char *text)
{
    buf_puts(out, "{\"error\":");
    json_write_text(out, text);
    buf_putc(out, '}');
}
