#include <string.h>

#include "engine/request.h"
#include "engine/signature.h"

static enum status check_shape(const struct port *p, const struct tensor *t, struct err *err)
{
    char a[128], b[128];
    if (p->optional && t->dtype == DT_ABSENT) return ST_OK;
    bool fits = p->rank < 0 || p->rank == t->rank;
    for (int d = 0; fits && d < p->rank; d++) fits = p->dims[d] < 0 ? t->dims[d] >= 0 : p->dims[d] == t->dims[d];
    if (!fits) return err_set(err, ST_BAD_INPUT, "input '%s' has shape %s but the model takes %s", p->name, shape_text(t->dims, t->rank, a, sizeof a), p->rank < 0 ? "any" : shape_text(p->dims, p->rank, b, sizeof b));
    if (p->dtype != t->dtype) return err_set(err, ST_BAD_INPUT, "input '%s' is %s but the model takes %s", p->name, dtype_name(t->dtype), dtype_name(p->dtype));
    uint64_t bytes;
    if (!tensor_bytes(t->dtype, t->dims, t->rank, &bytes) || bytes != t->bytes) return err_set(err, ST_BAD_INPUT, "input '%s' of shape %s has %llu bytes of data", p->name, shape_text(t->dims, t->rank, a, sizeof a), (unsigned long long)t->bytes);
    if (bytes && !t->data) return err_set(err, ST_BAD_INPUT, "input '%s' has no data", p->name);
    return ST_OK;
}

const struct request_tensor *request_input(const struct request *r, const char *name)
{
    for (int i = 0; i < r->input_count; i++)
        if (strcmp(r->inputs[i].name, name) == 0) return &r->inputs[i];
    return NULL;
}

const struct tensor *request_input_tensor(const struct request *r, const struct port *p)
{
    static const struct tensor absent = { .dtype = DT_ABSENT };
    const struct request_tensor *i = request_input(r, p->name);
    return i ? &i->tensor : &absent;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h ^= v + 0x9e3779b97f4a7c15u + (h << 6) + (h >> 2);
    return h * 0xff51afd7ed558ccdu;
}

static enum status check_names(const struct signature *s, const struct request *r, struct err *err)
{
    for (int i = 0; i < r->input_count; i++) {
        if (!signature_input(s, r->inputs[i].name)) return err_set(err, ST_BAD_INPUT, "unexpected input '%s'", r->inputs[i].name);
        for (int k = 0; k < i; k++)
            if (strcmp(r->inputs[i].name, r->inputs[k].name) == 0) return err_set(err, ST_BAD_INPUT, "input '%s' is given twice", r->inputs[i].name);
    }
    for (int i = 0; i < r->wanted_count; i++)
        if (!signature_output(s, r->wanted[i])) return err_set(err, ST_BAD_INPUT, "unexpected output '%s'", r->wanted[i]);
    return ST_OK;
}

enum status request_check_ports(struct request *r, const struct signature *s, struct err *err)
{
    uint64_t key = 0x243f6a8885a308d3u, cost = 0;
    int64_t rows = -1;
    enum status st = check_names(s, r, err);
    if (st) return st;
    for (int k = 0; k < s->input_count; k++) {
        const struct port *p = &s->inputs[k];
        if (!p->optional && !request_input(r, p->name)) return err_set(err, ST_BAD_INPUT, "input '%s' is missing", p->name);
        const struct tensor *t = request_input_tensor(r, p);
        st = check_shape(p, t, err);
        if (st) return st;
        cost += t->bytes;
        key = mix(mix(key, (uint64_t)t->dtype), (uint64_t)t->rank);
        for (int d = s->batchable; d < t->rank; d++) key = mix(key, (uint64_t)t->dims[d]);
        if (!s->batchable) continue;
        if (t->dims[0] < 1) return err_set(err, ST_BAD_INPUT, "input '%s' has no rows", p->name);
        if (rows >= 0 && t->dims[0] != rows) return err_set(err, ST_BAD_INPUT, "input '%s' has %lld rows but another input has %lld", p->name, (long long)t->dims[0], (long long)rows);
        rows = t->dims[0];
    }
    r->ride_key = key;
    r->rows = rows < 0 ? 1 : rows;
    r->cost = cost;
    return ST_OK;
}
