/* The request's fields are met in the order in which they were sent; a raw tensor's place among raw_input_contents is its input's place among the inputs
 * (protobuf allows any order of the two, so both are listed first and joined at the end). */
#include "api/oip_proto.h"

#include "api/oip_ask.h"
#include "api/oip_tensor.h"
#include "base/checked.h"
#include "base/json.h"
#include "engine/formats/protobuf_write.h"

#include <string.h>

/* ---- bytes in pieces ---- */

struct pieces { const struct piece *list; int count, index; size_t at; uint64_t left; bool failed; };

static struct pieces pieces_open(const struct piece *list, int count)
{
    struct pieces p = { .list = list, .count = count };
    for (int i = 0; i < count; i++) p.left += list[i].length;
    return p;
}

/* What of the current piece is left; steps over empty ones. */
static size_t here(struct pieces *p)
{
    while (p->index < p->count && p->at == p->list[p->index].length) p->index++, p->at = 0;
    return p->index < p->count ? p->list[p->index].length - p->at : 0;
}

static bool pieces_copy(struct pieces *p, void *out, uint64_t n)
{
    char *to = out;
    if (n > p->left) return p->failed = true, false;
    for (size_t run; n; n -= run) {
        run = here(p);
        if (run > n) run = (size_t)n;
        if (to) memcpy(to, p->list[p->index].bytes + p->at, run), to += run;
        p->at += run;
        p->left -= run;
    }
    return true;
}

static bool pieces_varint(struct pieces *p, uint64_t *out)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 70; shift += 7) {
        uint8_t b;
        if (!pieces_copy(p, &b, 1) || (shift == 63 && b > 1)) break;
        v |= (uint64_t)(b & 127) << shift;
        if (b < 128) return *out = v, true;
    }
    return p->failed = true, false;
}

/* The next n bytes in one run: where they lie, or a copy of them in the arena when they are spread. NULL: no memory. */
static const uint8_t *pieces_take(struct pieces *p, struct arena *arena, uint64_t n)
{
    if (here(p) >= n) {
        const uint8_t *bytes = n ? p->list[p->index].bytes + p->at : (const uint8_t *)"";
        p->at += (size_t)n;
        p->left -= n;
        return bytes;
    }
    uint8_t *copy = arena_alloc(arena, n, TENSOR_ALIGN);
    return copy && pieces_copy(p, copy, n) ? copy : NULL;
}

/* ---- a request ---- */

struct span { struct span *next; const uint8_t *bytes; uint64_t length; };
struct spans { struct span *first, **last; int count; };

struct reader {
    struct request   *r;
    struct arena     *arena;
    struct infer_ask *ask;
    struct spans      inputs, outputs, raws, parameters;
    const char       *model;
    struct err       *err;
};

static enum status no_memory(struct reader *d) { return err_set(d->err, ST_TOO_LARGE, "the request is over its memory budget"); }
static enum status cut_off(struct reader *d, const char *what) { return err_set(d->err, ST_BAD_INPUT, "the request is no valid protobuf: %s is cut off or has a field of another wire type", what); }

/* A text that will live as long as the request; no NUL may hide its end. */
static enum status keep_text(struct reader *d, const uint8_t *bytes, uint64_t n, const char *what, const char **out)
{
    for (uint64_t at = 0; at < n;) {
        size_t run = json_utf8_length((const char *)bytes + at, n - at);
        if (!run || !bytes[at]) return err_set(d->err, ST_BAD_INPUT, "%s of the request is not UTF-8 without NULs", what);
        at += run;
    }
    *out = n ? arena_copy(d->arena, (const char *)bytes, n) : "";
    return *out ? ST_OK : no_memory(d);
}

static enum status add_span(struct reader *d, struct spans *list, const uint8_t *bytes, uint64_t length, const char *what)
{
    struct span *s = arena_alloc(d->arena, sizeof *s, _Alignof(struct span));
    if (!s || !bytes) return no_memory(d);
    if (list->count == REQUEST_TENSORS_MAX) return err_set(d->err, ST_BAD_INPUT, "more than %d %s", REQUEST_TENSORS_MAX, what);
    *s = (struct span){ NULL, bytes, length };
    *list->last = s;
    list->last = &s->next;
    list->count++;
    return ST_OK;
}

/* The next field: its number, and for PB_BYTES its length (the bytes are still to be taken); other kinds are passed over with number 0. */
static enum status next_field(struct reader *d, struct pieces *p, uint64_t *number, uint64_t *length)
{
    uint64_t key;
    *number = 0;
    if (!pieces_varint(p, &key)) return cut_off(d, "ModelInferRequest");
    switch (key & 7) {
    case PB_VARINT: pieces_varint(p, length); break;
    case PB_FIXED64: pieces_copy(p, NULL, 8); break;
    case PB_FIXED32: pieces_copy(p, NULL, 4); break;
    case PB_BYTES: if (pieces_varint(p, length) && *length <= p->left) return *number = key >> 3, ST_OK;
        /* fall through */
    default: p->failed = true;
    }
    return p->failed ? cut_off(d, "ModelInferRequest") : ST_OK;
}

static enum status read_fields(struct reader *d, struct pieces *p)
{
    struct arena *arena = d->arena;
    uint64_t number, n;
    while (p->left) {
        enum status st = next_field(d, p, &number, &n);
        if (st) return st;
        if (number == 7) {
            void *tensor = arena_alloc(arena, n, TENSOR_ALIGN);
            if (!tensor) return no_memory(d);
            pieces_copy(p, tensor, n);
            st = add_span(d, &d->raws, tensor, n, "raw inputs");
        } else if (number >= 4 && number <= 6) {
            const uint8_t *bytes = pieces_take(p, arena, n);
            if (!bytes) return no_memory(d);
            st = number == 4 ? add_span(d, &d->parameters, bytes, n, "parameters")
               : number == 5 ? add_span(d, &d->inputs, bytes, n, "inputs") : add_span(d, &d->outputs, bytes, n, "outputs");
        } else if (number) {
            pieces_copy(p, NULL, n);
        }
        if (st) return st;
    }
    return ST_OK;
}

/* ---- parameters: a map's entry { key 1, InferParameter value 2 } ---- */

static enum status read_parameter(struct reader *d, struct pb c, struct parameter *out)
{
    struct pb_field f, v;
    struct pb value = { 0 };
    const char *text;
    *out = (struct parameter){ .name = "", .type = PARAMETER_STRING, .text = "" };
    while (pb_next(&c, &f)) {
        if (f.number == 1 && f.wire == PB_BYTES) {
            enum status st = keep_text(d, f.bytes, f.length, "a parameter's name", &out->name);
            if (st) return st;
        } else if (f.number == 2 && f.wire == PB_BYTES) {
            value = pb_sub(&f);
        }
    }
    while (!c.failed && pb_next(&value, &v)) {
        if (v.number == 1 && v.wire == PB_VARINT) out->type = PARAMETER_BOOL, out->boolean = v.value != 0;
        else if ((v.number == 2 || v.number == 5) && v.wire == PB_VARINT) out->type = PARAMETER_INT, out->integer = (int64_t)v.value;
        else if (v.number == 4 && v.wire == PB_FIXED64) out->type = PARAMETER_DOUBLE, memcpy(&out->real, &v.value, sizeof out->real);
        else if (v.number == 3 && v.wire == PB_BYTES) {
            enum status st = keep_text(d, v.bytes, v.length, "a parameter", &text);
            if (st) return st;
            out->type = PARAMETER_STRING;
            out->text = text;
        } else if (v.number <= 5) return cut_off(d, "InferParameter");
    }
    return c.failed || value.failed ? cut_off(d, "a parameter") : ST_OK;
}

static enum status read_parameters(struct reader *d)
{
    struct parameter *list = arena_calloc(d->arena, (uint64_t)d->parameters.count, sizeof *list);
    if (!list && d->parameters.count) return no_memory(d);
    for (const struct span *s = d->parameters.first; s; s = s->next) {
        struct parameter *p = &list[d->r->parameter_count++];
        enum status st = read_parameter(d, pb_open(s->bytes, s->length), p);
        if (!st) st = oip_parameter_use(d->r, d->ask, p, d->err);
        if (st) return st;
    }
    d->r->parameters = list;
    return ST_OK;
}

/* ---- tensors ---- */

/* Numbers of a repeated field, packed or one by one. */
struct numbers { struct pb c; struct pb packed; uint32_t field; enum pb_wire wire; };

static bool next_number(struct numbers *n, uint64_t *out)
{
    for (struct pb_field f;;) {
        if (n->packed.p < n->packed.end)
            return n->wire == PB_VARINT ? pb_varint(&n->packed, out) : pb_fixed(&n->packed, n->wire == PB_FIXED64 ? 8 : 4, out);
        if (n->packed.failed || !pb_next(&n->c, &f)) return false;
        if (f.number != n->field) continue;
        if (f.wire == n->wire) return *out = f.value, true;
        if (f.wire != PB_BYTES) return n->c.failed = true, false;
        n->packed = pb_sub(&f);
    }
}

static enum status add_dimension(struct reader *d, struct request_tensor *in, uint64_t n)
{
    if ((int64_t)n < 0) return err_set(d->err, ST_BAD_INPUT, "Unable to parse 'shape' of input '%s': every dimension must be a natural number", in->name);
    if (in->tensor.rank == TENSOR_RANK_MAX) return err_set(d->err, ST_BAD_INPUT, "Unable to parse 'shape' of input '%s': more than %d dimensions", in->name, TENSOR_RANK_MAX);
    in->tensor.dims[in->tensor.rank++] = (int64_t)n;
    return ST_OK;
}

/* Where the values of a datatype stand in InferTensorContents. */
static const struct { int field; enum pb_wire wire; int64_t low; uint64_t high; } contents_of[DT_COUNT] = {
    [DT_BOOL] = { 1, PB_VARINT, 0, 1 }, [DT_I8] = { 2, PB_VARINT, INT8_MIN, INT8_MAX }, [DT_I16] = { 2, PB_VARINT, INT16_MIN, INT16_MAX }, [DT_I32] = { 2, PB_VARINT, INT32_MIN, INT32_MAX },
    [DT_I64] = { 3, PB_VARINT, INT64_MIN, INT64_MAX }, [DT_U8] = { 4, PB_VARINT, 0, UINT8_MAX }, [DT_U16] = { 4, PB_VARINT, 0, UINT16_MAX }, [DT_U32] = { 4, PB_VARINT, 0, UINT32_MAX },
    [DT_U64] = { 5, PB_VARINT, 0, UINT64_MAX }, [DT_F32] = { 6, PB_FIXED32, 0, UINT64_MAX }, [DT_F64] = { 7, PB_FIXED64, 0, UINT64_MAX }, [DT_STRING] = { 8, PB_BYTES, 0, 0 },
};

static bool in_range(enum dtype t, uint64_t v)
{
    if (contents_of[t].low < 0) return (int64_t)v >= contents_of[t].low && (int64_t)v <= (int64_t)contents_of[t].high;
    return v <= contents_of[t].high;
}

static void store(struct tensor *t, uint64_t i, uint64_t v)
{
    switch (dtype_bits(t->dtype)) {
    case 8:  ((uint8_t *)t->data)[i] = (uint8_t)v; break;
    case 16: ((uint16_t *)t->data)[i] = (uint16_t)v; break;
    case 32: ((uint32_t *)t->data)[i] = (uint32_t)v; break;
    default: ((uint64_t *)t->data)[i] = v;
    }
}

static enum status wrong_count(struct reader *d, const char *name, uint64_t got, uint64_t count)
{
    return err_set(d->err, ST_BAD_INPUT, "unexpected number of elements in the contents of input '%s': got %s%llu, expecting %llu", name, got > count ? "more than " : "",
                   (unsigned long long)(got > count ? count : got), (unsigned long long)count);
}

static enum status read_strings(struct reader *d, struct request_tensor *in, struct pb c, uint64_t count)
{
    struct string_ref *refs = in->tensor.data;
    struct pb_field f;
    uint64_t n = 0;
    while (pb_next(&c, &f)) {
        if (f.number != 8) continue;
        if (f.wire != PB_BYTES) return cut_off(d, "InferTensorContents");
        if (n == count) return wrong_count(d, in->name, n + 1, count);
        char *copy = arena_copy(d->arena, f.length ? (const char *)f.bytes : "", f.length);
        if (!copy) return no_memory(d);
        refs[n++] = (struct string_ref){ copy, f.length };
    }
    return c.failed ? cut_off(d, "InferTensorContents") : n == count ? ST_OK : wrong_count(d, in->name, n, count);
}

static enum status read_contents(struct reader *d, struct request_tensor *in, struct pb c)
{
    struct tensor *t = &in->tensor;
    uint64_t count, v, n = 0;
    if (!contents_of[t->dtype].field) return err_set(d->err, ST_BAD_INPUT, "input '%s': %s tensors have no typed contents, send them as raw_input_contents", in->name, dtype_oip(t->dtype));
    if (!shape_count(t->dims, t->rank, &count) || !tensor_bytes(t->dtype, t->dims, t->rank, &t->bytes)) return err_set(d->err, ST_BAD_INPUT, "input '%s' has a shape that is too large", in->name);
    if (count > (uint64_t)(c.end - c.p)) return wrong_count(d, in->name, 0, count);      /* a value takes a byte at least */
    t->data = arena_alloc(d->arena, t->bytes, TENSOR_ALIGN);
    if (!t->data) return no_memory(d);
    if (t->dtype == DT_STRING) return read_strings(d, in, c, count);
    struct numbers numbers = { .c = c, .field = (uint32_t)contents_of[t->dtype].field, .wire = contents_of[t->dtype].wire };
    while (next_number(&numbers, &v)) {
        if (n == count) return wrong_count(d, in->name, n + 1, count);
        if (numbers.wire == PB_VARINT && !in_range(t->dtype, v)) return err_set(d->err, ST_BAD_INPUT, "the contents of input '%s' hold a value that does not fit its datatype %s", in->name, dtype_oip(t->dtype));
        store(t, n++, v);
    }
    if (numbers.c.failed || numbers.packed.failed) return cut_off(d, "InferTensorContents");
    return n == count ? ST_OK : wrong_count(d, in->name, n, count);
}

/* InferInputTensor: name 1, datatype 2, shape 3, parameters 4, contents 5. */
static enum status read_input(struct reader *d, struct request_tensor *in, const struct span *s, struct span **raw)
{
    struct pb c = pb_open(s->bytes, s->length), contents = { 0 };
    struct pb_field f;
    enum status st = ST_OK;
    bool has_contents = false;
    struct shared_ask shared = { 0 };
    struct parameter p;
    const uint8_t *datatype = NULL;
    uint64_t datatype_length = 0;
    in->name = "";
    while (!st && pb_next(&c, &f)) {
        if (f.number == 3 && f.wire == PB_VARINT) st = add_dimension(d, in, f.value);
        else if (f.number >= 1 && f.number <= 5 && f.wire != PB_BYTES) return cut_off(d, "InferInputTensor");
        else if (f.number == 1) st = keep_text(d, f.bytes, f.length, "an input's name", &in->name);
        else if (f.number == 2) datatype = f.bytes, datatype_length = f.length;
        else if (f.number == 3) {
            struct pb shape = pb_sub(&f);
            for (uint64_t n; !st && shape.p < shape.end;) st = pb_varint(&shape, &n) ? add_dimension(d, in, n) : cut_off(d, "InferInputTensor");
        } else if (f.number == 4) {
            st = read_parameter(d, pb_sub(&f), &p);
            if (!st) st = oip_shared_use(&shared, &p, in->name, d->err);
        } else if (f.number == 5) contents = pb_sub(&f), has_contents = true;
    }
    if (st) return st;
    if (c.failed) return cut_off(d, "InferInputTensor");
    in->tensor.dtype = dtype_from_oip(datatype ? (const char *)datatype : "", (size_t)datatype_length);
    if (in->tensor.dtype == DT_NONE) return err_set(d->err, ST_BAD_INPUT, "invalid datatype '%.*s' for input '%s'", datatype_length < 64 ? (int)datatype_length : 64, datatype ? (const char *)datatype : "", in->name);
    if (shared.region) return oip_shared_input(d->r, d->ask, in, &shared, d->err);
    if (!d->raws.count) return read_contents(d, in, contents);
    if (has_contents) return err_set(d->err, ST_BAD_INPUT, "contents field must not be specified when using raw_input_contents for '%s' for model '%s'", in->name, d->model);
    if (!*raw) return err_set(d->err, ST_BAD_INPUT, "unable to find data for input '%s' for model '%s' in request.", in->name, d->model);
    st = oip_tensor_from_raw(&in->tensor, d->arena, (const char *)(*raw)->bytes, (*raw)->length, in->name, d->err);
    *raw = (*raw)->next;
    return st;
}

static enum status read_inputs(struct reader *d)
{
    struct span *raw = d->raws.first;
    d->r->inputs = arena_calloc(d->arena, (uint64_t)d->inputs.count, sizeof *d->r->inputs);
    if (!d->r->inputs && d->inputs.count) return no_memory(d);
    for (const struct span *s = d->inputs.first; s; s = s->next) {
        enum status st = read_input(d, &d->r->inputs[d->r->input_count], s, &raw);
        if (st) return st;
        d->r->input_count++;
    }
    return ST_OK;      /* raw contents beyond the inputs are nobody's: Triton passes over them, and so do we */
}

/* InferRequestedOutputTensor: name 1, parameters 2. */
static enum status read_output(struct reader *d, const struct span *s)
{
    struct output_ask *o = &d->ask->outputs[d->ask->output_count];
    struct pb c = pb_open(s->bytes, s->length);
    struct pb_field f;
    struct parameter p;
    uint64_t classes = 0;
    struct shared_ask shared = { 0 };
    enum status st = ST_OK;
    *o = (struct output_ask){ .name = "", .binary = true };
    while (!st && pb_next(&c, &f)) {
        if ((f.number == 1 || f.number == 2) && f.wire != PB_BYTES) return cut_off(d, "InferRequestedOutputTensor");
        if (f.number == 1) st = keep_text(d, f.bytes, f.length, "an output's name", &o->name);
        if (f.number != 2) continue;
        st = read_parameter(d, pb_sub(&f), &p);
        if (!st && !strcmp(p.name, "classification")) classes = p.type == PARAMETER_INT && p.integer > 0 ? (uint64_t)p.integer : UINT64_MAX;      /* refused below */
        if (!st) st = oip_shared_use(&shared, &p, o->name, d->err);
    }
    if (st) return st;
    return c.failed ? cut_off(d, "InferRequestedOutputTensor") : oip_output_use(d->r, d->ask, o, classes, &shared, d->err);
}

static enum status read_outputs(struct reader *d)
{
    if (!d->outputs.count) return ST_OK;
    d->ask->outputs = arena_calloc(d->arena, (uint64_t)d->outputs.count, sizeof *d->ask->outputs);
    d->r->wanted = arena_calloc(d->arena, (uint64_t)d->outputs.count, sizeof *d->r->wanted);
    if (!d->ask->outputs || !d->r->wanted) return no_memory(d);
    for (const struct span *s = d->outputs.first; s; s = s->next) {
        enum status st = read_output(d, s);
        if (st) return st;
    }
    d->r->wanted_count = d->ask->output_count;
    return ST_OK;
}

enum status oip_proto_names_read(struct oip_proto_names *out, struct arena *arena, const struct piece *list, int count, struct err *err)
{
    struct reader d = { .arena = arena, .err = err };
    struct pieces p = pieces_open(list, count);
    uint64_t number, n;
    *out = (struct oip_proto_names){ "", "", "" };
    while (p.left) {
        enum status st = next_field(&d, &p, &number, &n);
        if (!st && number >= 1 && number <= 3) {
            static const char *const names[] = { "model_name", "model_version", "id" };
            const char **const places[] = { &out->model, &out->version, &out->id };
            const uint8_t *bytes = pieces_take(&p, arena, n);
            st = bytes ? keep_text(&d, bytes, n, names[number - 1], places[number - 1]) : no_memory(&d);
        } else if (!st && number) {
            pieces_copy(&p, NULL, n);
        }
        if (st) return st;
    }
    return ST_OK;
}

enum status oip_proto_read(struct request *r, struct infer_ask *ask, const char *model, const struct piece *list, int count, struct err *err)
{
    struct reader d = { .r = r, .arena = &r->arena, .ask = ask, .model = model, .err = err };
    struct pieces p = pieces_open(list, count);
    d.inputs.last = &d.inputs.first, d.outputs.last = &d.outputs.first, d.raws.last = &d.raws.first, d.parameters.last = &d.parameters.first;
    *ask = (struct infer_ask){ .binary_output = true, .regions = ask->regions };
    enum status st = read_fields(&d, &p);
    if (!st) st = read_parameters(&d);
    if (!st) st = read_inputs(&d);
    return st ? st : read_outputs(&d);
}

/* ---- the answer ---- */

static void put_raw(struct chain *m, int number, const struct tensor *t)
{
    uint64_t n = oip_tensor_raw_bytes(t);
    pb_put_key(&m->head, number, PB_BYTES);
    pb_put_varint(&m->head, n);
    if (t->dtype == DT_STRING || n < OIP_BORROW_BYTES_MIN || !chain_borrow(m, t->data, n)) oip_tensor_to_raw(&m->head, t);
}

/* An entry of a tensor's parameters: key 1, InferParameter 2 with an integer or a text. */
static void put_tensor_parameter(struct buf *out, const char *name, uint64_t number, const char *text)
{
    size_t entry = pb_begin(out, 4);
    pb_put_text(out, 1, name);
    size_t parameter = pb_begin(out, 2);
    if (text) pb_put_text(out, 3, text);
    else pb_put_number(out, 2, number);
    pb_end(out, parameter);
    pb_end(out, entry);
}

/* InferOutputTensor: name 1, datatype 2, shape 3, parameters 4. `a` may be NULL. */
static enum status put_output(struct buf *out, const struct request_tensor *o, const struct output_ask *a, struct err *err)
{
    const char *datatype = dtype_oip(o->tensor.dtype);
    if (!datatype) return err_set(err, ST_UNSUPPORTED, "output '%s' is of type %s, which the protocol does not have", o->name, dtype_name(o->tensor.dtype));
    size_t at = pb_begin(out, 5);
    pb_put_text(out, 1, o->name);
    pb_put_text(out, 2, datatype);
    if (o->tensor.rank) {
        size_t shape = pb_begin(out, 3);
        for (int i = 0; i < o->tensor.rank; i++) pb_put_varint(out, (uint64_t)o->tensor.dims[i]);
        pb_end(out, shape);
    }
    if (a && a->region) {
        enum status st = oip_output_store(a, &o->tensor, err);
        if (st) return st;
        put_tensor_parameter(out, "shared_memory_region", 0, a->region_name);
        put_tensor_parameter(out, "shared_memory_offset", a->shared_offset, NULL);
        put_tensor_parameter(out, "shared_memory_byte_size", a->shared_bytes, NULL);
    }
    pb_end(out, at);
    return ST_OK;
}

/* InferParameter's fields for whole numbers. */
enum { FIELD_BOOL = 1, FIELD_INT64 = 2 };

static void put_parameter(struct buf *out, const char *name, int kind, uint64_t value)
{
    size_t entry = pb_begin(out, 4);
    pb_put_text(out, 1, name);
    size_t parameter = pb_begin(out, 2);
    pb_put_number(out, kind, value);
    pb_end(out, parameter);
    pb_end(out, entry);
}

/* What every answer begins with. */
static void put_head(struct chain *m, const struct request *r, const struct model_version *v, const char *parameter, bool value)
{
    char version[24], *p = version + sizeof version;
    for (int64_t left = v->version; left || p == version + sizeof version; left /= 10) *--p = (char)('0' + left % 10);
    chain_init(m);
    buf_reserve(&m->head, 512);
    pb_put_text(&m->head, 1, v->name);
    pb_put_bytes(&m->head, 2, p, (size_t)(version + sizeof version - p));
    if (r->id[0]) pb_put_text(&m->head, 3, r->id);
    if (parameter) put_parameter(&m->head, parameter, FIELD_BOOL, value);
}

enum status oip_proto_write(struct chain *m, struct request *r, const struct infer_ask *ask, const struct model_version *v, const char *parameter, bool value, struct err *err)
{
    int n = ask->output_count ? ask->output_count : r->output_count;
    put_head(m, r, v, parameter, value);
    for (int i = 0; i < n; i++) {
        const struct request_tensor *o;
        enum status st = oip_output_pick(&o, r, ask, i, v, err);
        if (!st) st = put_output(&m->head, o, ask->output_count ? &ask->outputs[i] : NULL, err);
        if (st) return st;
    }
    static const struct tensor none = { .dtype = DT_U8 };      /* what lies in shared memory keeps its place with no bytes */
    for (int i = 0; i < n; i++) put_raw(m, 6, ask->output_count && ask->outputs[i].region ? &none : &(ask->output_count ? oip_output_named(r, ask->outputs[i].name) : &r->outputs[i])->tensor);
    chain_close(m);
    return m->head.failed ? err_set(err, ST_NO_MEMORY, "no memory for the answer") : ST_OK;
}

void oip_proto_write_text(struct chain *m, const struct request *r, const struct model_version *v, const char *name, const char *text, size_t length, const char *parameter, bool value)
{
    struct string_ref string = { text, length };
    struct request_tensor o = { name, { .dtype = DT_STRING, .rank = 1, .dims = { 1 }, .data = &string, .bytes = sizeof string } };
    struct err ignored;      /* BYTES is a type that the protocol has */
    put_head(m, r, v, parameter, value);
    put_output(&m->head, &o, NULL, &ignored);
    put_raw(m, 6, &o.tensor);
    chain_close(m);
}

void oip_proto_write_partial(struct chain *m, const struct request *r, const struct model_version *v, const uint8_t *pixels, int width, int height, int picture, int index, const char *parameter)
{
    const uint64_t bytes = (uint64_t)width * (uint64_t)height * 3;
    struct request_tensor o = { "images", { .dtype = DT_U8, .rank = 4, .dims = { 1, height, width, 3 }, .data = (void *)pixels, .bytes = bytes } };
    struct err ignored;      /* UINT8 is a type that the protocol has */
    put_head(m, r, v, parameter, false);
    put_parameter(&m->head, "picture", FIELD_INT64, (uint64_t)picture);
    put_parameter(&m->head, "partial_image_index", FIELD_INT64, (uint64_t)index);
    put_output(&m->head, &o, NULL, &ignored);
    pb_put_bytes(&m->head, 6, pixels, bytes);      /* a copy: the engine goes on drawing there */
    chain_close(m);
}

void oip_proto_wrap(struct chain *m)
{
    uint8_t prefix[1 + PB_VARINT_MAX] = { 2 << 3 | PB_BYTES };
    size_t n = 1 + pb_encode_varint(prefix + 1, m->length), inside = m->head.length;
    if (!buf_reserve(&m->head, n)) {
        m->head.failed = true;
        return;
    }
    memmove(m->head.data + n, m->head.data, inside);
    memcpy(m->head.data, prefix, n);
    m->head.length += n;
    m->length += n;
    for (int i = 0; i < m->borrowed_count; i++) m->borrowed[i].at += n;
}

void oip_proto_write_error(struct chain *m, const char *text, const char *id)
{
    chain_init(m);
    pb_put_text(&m->head, 1, text);
    size_t response = pb_begin(&m->head, 2);
    if (id[0]) pb_put_text(&m->head, 3, id);
    pb_end(&m->head, response);
    chain_close(m);
}
