#include "engine/operators/control/body.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { BODY_BUDGET = 1 << 30 };      /* bytes of plans and workspace of one body, within what the model may have */

enum status bodies_prepare(struct call *c, struct err *err)
{
    int n = c->node->body_count;
    uint64_t bytes;
    struct bodies *s = size_mul((uint64_t)n, sizeof s->caches[0], &bytes) ? mem_calloc_array(1, sizeof *s + bytes) : NULL;
    if (!s) return call_error(c, err, ST_NO_MEMORY, "its bodies' plans pass the memory budget");
    s->count = n;
    for (int i = 0; i < n; i++) {
        uint64_t most = c->node->bodies[i].graph->memory_max;
        s->caches[i].budget = most < BODY_BUDGET ? most : BODY_BUDGET;
    }
    c->state = s;
    return ST_OK;
}

void bodies_release(void *state)
{
    struct bodies *s = state;
    for (int i = 0; s && i < s->count; i++) plan_cache_close(&s->caches[i]);
    free(s);
}

int body_find(const struct call *c, const char *attribute)
{
    for (int i = 0; i < c->node->body_count; i++)
        if (strcmp(c->node->bodies[i].attribute, attribute) == 0) return i;
    return -1;
}

static enum status check_input(const struct call *c, const struct graph *g, int k, const struct operand *o, struct err *err)
{
    const struct value *v = &g->values[g->inputs[k]];
    bool any = v->type.dtype == DT_NONE || o->dtype == DT_ABSENT || v->is_optional;
    if (!any && v->type.dtype != o->dtype) return call_error(c, err, ST_BAD_INPUT, "input '%s' of its body is %s, not %s", v->name, dtype_name(o->dtype), dtype_name(v->type.dtype));
    return ST_OK;
}

enum status body_run(struct call *c, int b, const struct operand *formal, int formal_count, struct arena *run, struct operand *outputs, int *output_count, struct err *err)
{
    const struct body *body = &c->node->bodies[b];
    const struct graph *g = body->graph;
    struct bodies *s = c->state;
    struct operand inputs[GRAPH_INPUTS_MAX];
    void *data[GRAPH_INPUTS_MAX];
    struct plan *plan = NULL;
    enum status st = ST_OK;
    if (formal_count != body->formal_count) return call_error(c, err, ST_BAD_INPUT, "its body takes %d inputs, not %d", body->formal_count, formal_count);
    for (int k = 0; k < g->input_count && !st; k++) {
        const struct operand *from = k < formal_count ? &formal[k] : c->in[body->captures[k - formal_count]];
        inputs[k] = from ? *from : (struct operand){ .dtype = DT_ABSENT };
        inputs[k].dynamic = inputs[k].splat = inputs[k].channels_last = false;
        data[k] = inputs[k].data;
        st = check_input(c, g, k, &inputs[k], err);
    }
    if (!st) st = plan_cache_get(&s->caches[b], g, inputs, &plan, err);
    if (!st) st = plan_run(plan, data, run, c->stop, err);
    for (int k = 0; k < g->output_count && !st; k++) outputs[k] = *plan_output(plan, k);
    *output_count = g->output_count;
    return st;
}

enum status stack_push(struct stack *s, struct call *c, const struct operand *item, struct err *err)
{
    if (s->count == 0) s->one = *item;
    else if (s->one.dtype != item->dtype || s->one.rank != item->rank || (item->rank && memcmp(s->one.dims, item->dims, (size_t)item->rank * sizeof *item->dims)))
        return call_error(c, err, ST_BAD_INPUT, "its body's results differ in type or shape from step to step");
    if (item->dtype == DT_SEQUENCE || item->dtype == DT_ABSENT || operand_size(item) == 0) return call_error(c, err, ST_UNSUPPORTED, "results of %s cannot be stacked", dtype_name(item->dtype));
    if (s->count == s->room) {
        int64_t room = s->room ? s->room * 2 : 4;
        uint64_t bytes;
        char *wider = size_mul((uint64_t)room, item->bytes ? item->bytes : 1, &bytes) ? arena_alloc(c->run, bytes, TENSOR_ALIGN) : NULL;
        if (!wider) return call_error(c, err, ST_NO_MEMORY, "its results pass the memory budget");
        if (s->count && item->bytes) memcpy(wider, s->data, (size_t)s->count * item->bytes);
        s->data = wider;
        s->room = room;
    }
    struct operand kept = *item;
    enum status st = item->dtype == DT_STRING ? operand_keep(&kept, item, c->run, err) : ST_OK;
    if (!st && item->bytes) memcpy(s->data + (uint64_t)s->count * item->bytes, kept.data, item->bytes);
    s->count += !st;
    return st;
}

enum status stack_finish(struct stack *s, struct call *c, int i, int64_t axis, bool reverse, struct err *err)
{
    int rank = s->count ? s->one.rank + 1 : 1, size = s->count ? operand_size(&s->one) : 4;
    int64_t dims[TENSOR_RANK_MAX + 1], outer = 1, inner = 1, n = s->count;
    if (!axis_fix(&axis, rank)) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)axis, rank);
    for (int d = 0, from = 0; d < rank; d++) dims[d] = d == axis ? n : s->one.dims[from++];
    enum status st = call_make(c, i, s->count ? s->one.dtype : DT_F32, dims, rank, err);
    if (st) return st;
    for (int d = 0; d < rank; d++) *(d < axis ? &outer : &inner) *= d == axis ? 1 : dims[d];
    size_t run = (size_t)inner * (size_t)size;
    char *y = c->out[i]->data;
    for (int64_t o = 0; o < outer && run; o++)
        for (int64_t k = 0; k < n; k++) memcpy(y + (size_t)(o * n + k) * run, s->data + (size_t)((reverse ? n - 1 - k : k) * outer + o) * run, run);
    return ST_OK;
}
