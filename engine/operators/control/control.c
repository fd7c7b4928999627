/* If, Loop and Scan: operators that run bodies. Everything is found while running. What a loop carries from step to step lies in an arena of its own: a step writes the
 * next values into a second arena, then the two change places, so that memory does not grow with the steps. */
#include <string.h>

#include "engine/operators/control/body.h"
#include "engine/operators/operators.h"
#include "engine/operators/reals.h"

enum { CARRY_BUDGET = 1 << 30 };

static enum status keep_output(struct call *c, int i, const struct operand *from, struct err *err) { return operand_keep(c->out[i], from, c->run, err); }

static enum status read_flag(const struct call *c, const struct operand *o, const char *what, bool *out, struct err *err)
{
    if (o->dtype != DT_BOOL || operand_count(o) != 1) return call_error(c, err, ST_BAD_INPUT, "%s must be one bool", what);
    *out = *(const uint8_t *)o->data != 0;
    return ST_OK;
}

static enum status eval_if(struct call *c, struct err *err)
{
    struct operand out[GRAPH_INPUTS_MAX];
    bool yes = false;
    int n, b;
    enum status st = read_flag(c, c->in[0], "the condition", &yes, err);
    if (st) return st;
    b = body_find(c, yes ? "then_branch" : "else_branch");
    if (b < 0) return call_error(c, err, ST_BAD_INPUT, "a branch is missing");
    st = body_run(c, b, NULL, 0, c->run, out, &n, err);
    if (!st && n < c->out_count) st = call_error(c, err, ST_BAD_INPUT, "its branch gives %d results, not %d", n, c->out_count);
    for (int i = 0; i < c->out_count && !st; i++) st = keep_output(c, i, &out[i], err);
    return st;
}

/* ---- what is carried ---- */
struct carry { struct arena arenas[2], step; int now; struct operand values[GRAPH_INPUTS_MAX]; int count; };

static void carry_begin(struct carry *k)
{
    for (int i = 0; i < 2; i++) arena_init(&k->arenas[i], CARRY_BUDGET);
    arena_init(&k->step, CARRY_BUDGET);
    k->now = 0;
}

static void carry_end(struct carry *k)
{
    for (int i = 0; i < 2; i++) arena_free(&k->arenas[i]);
    arena_free(&k->step);
}

/* The step's results become what is carried; the step's memory and the old values go. */
static enum status carry_on(struct carry *k, const struct operand *from, struct err *err)
{
    enum status st = ST_OK;
    int next = !k->now;
    for (int i = 0; i < k->count && !st; i++) st = operand_keep(&k->values[i], &from[i], &k->arenas[next], err);
    arena_reset(&k->arenas[k->now]);
    arena_reset(&k->step);
    k->now = next;
    return st;
}

/* ---- Loop(M, condition, carried...) -> carried..., stacked... ---- */
struct loop { struct carry carry; struct stack stacks[GRAPH_INPUTS_MAX]; int stack_count; bool go; };

static enum status loop_step(struct call *c, struct loop *l, int64_t step, struct err *err)
{
    struct operand in[GRAPH_INPUTS_MAX], out[GRAPH_INPUTS_MAX];
    uint8_t go = l->go;
    int n, carried = l->carry.count;
    in[0] = (struct operand){ .dtype = DT_I64, .data = &step, .bytes = 8 };
    in[1] = (struct operand){ .dtype = DT_BOOL, .data = &go, .bytes = 1 };
    memcpy(in + 2, l->carry.values, (size_t)carried * sizeof *in);
    enum status st = body_run(c, 0, in, carried + 2, &l->carry.step, out, &n, err);
    if (st) return st;
    if (n != 1 + carried + l->stack_count) return call_error(c, err, ST_BAD_INPUT, "its body gives %d results, not %d", n, 1 + carried + l->stack_count);
    st = read_flag(c, &out[0], "the body's condition", &l->go, err);
    for (int i = 0; i < l->stack_count && !st; i++) st = stack_push(&l->stacks[i], c, &out[1 + carried + i], err);
    return st ? st : carry_on(&l->carry, out + 1, err);
}

static enum status loop_run(struct call *c, struct loop *l, struct err *err)
{
    int formal = c->node->formal_count;
    int64_t most = INT64_MAX;
    enum status st = ST_OK;
    l->go = true;
    l->carry.count = formal > 2 ? formal - 2 : 0;
    l->stack_count = c->out_count - l->carry.count;
    if (c->node->body_count != 1 || l->stack_count < 0 || l->carry.count + 2 > GRAPH_INPUTS_MAX) return call_error(c, err, ST_BAD_INPUT, "%d inputs and %d outputs do not fit a loop", formal, c->out_count);
    const struct operand *trips = formal > 0 ? c->in[0] : NULL;
    if (trips && (trips->dtype != DT_I64 || operand_count(trips) != 1)) return call_error(c, err, ST_BAD_INPUT, "the number of steps must be one int64");
    if (trips) most = operand_int(trips, 0);
    if (formal > 1 && c->in[1]) st = read_flag(c, c->in[1], "the condition", &l->go, err);
    for (int i = 0; i < l->carry.count && !st; i++) {
        struct operand none = { .dtype = DT_ABSENT };
        st = operand_keep(&l->carry.values[i], c->in[2 + i] ? c->in[2 + i] : &none, &l->carry.arenas[0], err);
    }
    for (int64_t step = 0; step < most && l->go && !st; step++) st = call_stopped(c, err) ? ST_CANCELLED : loop_step(c, l, step, err);
    for (int i = 0; i < l->carry.count && !st; i++) st = keep_output(c, i, &l->carry.values[i], err);
    for (int i = 0; i < l->stack_count && !st; i++) st = stack_finish(&l->stacks[i], c, l->carry.count + i, 0, false, err);
    return st;
}

static enum status eval_loop(struct call *c, struct err *err)
{
    struct loop *l = arena_calloc(c->run, 1, sizeof *l);
    if (!l) return call_error(c, err, ST_NO_MEMORY, "its state passes the memory budget");
    carry_begin(&l->carry);
    enum status st = loop_run(c, l, err);
    carry_end(&l->carry);
    return st;
}

/* ---- Scan: carried values and slices of the scanned inputs in, carried values and slices out ---- */
struct scan {
    struct carry carry;
    struct stack stacks[GRAPH_INPUTS_MAX];
    int     first, scanned, stacked;      /* index of the first carried input; how many are scanned and stacked */
    int64_t steps, axis[GRAPH_INPUTS_MAX];
    bool    back[GRAPH_INPUTS_MAX];
};

static int64_t listed(const struct call *c, const char *name, int k)
{
    int n;
    const int64_t *a = node_ints(c->node, name, &n);
    return k < n ? a[k] : 0;
}

/* Slice `at` of a tensor along an axis, in the step's memory. */
static enum status take_slice(struct call *c, const struct operand *x, int64_t axis, int64_t at, struct arena *arena, struct operand *out, struct err *err)
{
    int64_t outer = 1, inner = operand_size(x), n = x->dims[axis];
    *out = (struct operand){ .dtype = x->dtype };
    for (int d = 0; d < x->rank; d++) {
        if (d == axis) continue;
        out->dims[out->rank++] = x->dims[d];
        *(d < axis ? &outer : &inner) *= x->dims[d];
    }
    out->bytes = (uint64_t)outer * (uint64_t)inner;
    char *y = out->data = arena_alloc(arena, out->bytes ? out->bytes : 1, TENSOR_ALIGN);
    if (!y) return call_error(c, err, ST_NO_MEMORY, "a slice passes the memory budget");
    for (int64_t o = 0; o < outer && inner; o++) memcpy(y + o * inner, (const char *)x->data + (o * n + at) * inner, (size_t)inner);
    return ST_OK;
}

static enum status scan_begin(struct call *c, struct scan *s, bool batched, struct err *err)
{
    int64_t scanned = node_int(c->node, "num_scan_inputs", 0);
    int formal = c->node->formal_count - s->first;
    if (scanned < 1 || scanned > formal || c->node->body_count != 1) return call_error(c, err, ST_BAD_INPUT, "num_scan_inputs is %lld for %d inputs", (long long)scanned, formal);
    s->scanned = (int)scanned;
    s->carry.count = formal - s->scanned;
    s->stacked = c->out_count - s->carry.count;
    if (s->stacked < 0) return call_error(c, err, ST_BAD_INPUT, "%d outputs are fewer than what is carried", c->out_count);
    for (int i = 0; i < s->scanned; i++) {
        const struct operand *x = c->in[s->first + s->carry.count + i];
        int rank = x ? x->rank - batched : 0;
        s->axis[i] = batched ? 0 : listed(c, "scan_input_axes", i);
        s->back[i] = listed(c, batched ? "directions" : "scan_input_directions", i) == 1;
        if (!x || operand_size(x) == 0 || !axis_fix(&s->axis[i], rank)) return call_error(c, err, ST_BAD_INPUT, "scanned input %d is missing or has no axis %lld", i, (long long)s->axis[i]);
        s->axis[i] += batched;
        if (i && x->dims[s->axis[i]] != s->steps) return call_error(c, err, ST_BAD_INPUT, "scanned inputs differ in length");
        s->steps = x->dims[s->axis[i]];
    }
    return ST_OK;
}

/* All steps over `scanned` (as many inputs, each with the scanned axis axis[i]). */
static enum status scan_steps(struct call *c, struct scan *s, const struct operand *scanned, const int64_t *axis, struct err *err)
{
    struct operand in[GRAPH_INPUTS_MAX], out[GRAPH_INPUTS_MAX];
    enum status st = ST_OK;
    int n, carried = s->carry.count;
    for (int64_t t = 0; t < s->steps && !st; t++) {
        if (call_stopped(c, err)) return ST_CANCELLED;
        memcpy(in, s->carry.values, (size_t)carried * sizeof *in);
        for (int i = 0; i < s->scanned && !st; i++) st = take_slice(c, &scanned[i], axis[i], s->back[i] ? s->steps - 1 - t : t, &s->carry.step, &in[carried + i], err);
        if (!st) st = body_run(c, 0, in, carried + s->scanned, &s->carry.step, out, &n, err);
        if (!st && n != carried + s->stacked) st = call_error(c, err, ST_BAD_INPUT, "its body gives %d results, not %d", n, carried + s->stacked);
        for (int i = 0; i < s->stacked && !st; i++) st = stack_push(&s->stacks[i], c, &out[carried + i], err);
        if (!st) st = carry_on(&s->carry, out, err);
    }
    return st;
}

static enum status scan_plain(struct call *c, struct scan *s, struct err *err)
{
    struct operand scanned[GRAPH_INPUTS_MAX];
    enum status st = scan_begin(c, s, false, err);
    for (int i = 0; !st && i < s->carry.count; i++) {
        if (!c->in[i]) return call_error(c, err, ST_BAD_INPUT, "a carried value is missing");
        st = operand_keep(&s->carry.values[i], c->in[i], &s->carry.arenas[0], err);
    }
    for (int i = 0; !st && i < s->scanned; i++) scanned[i] = *c->in[s->carry.count + i];
    if (!st) st = scan_steps(c, s, scanned, s->axis, err);
    for (int i = 0; !st && i < s->carry.count; i++) st = keep_output(c, i, &s->carry.values[i], err);
    for (int i = 0; !st && i < s->stacked; i++) st = stack_finish(&s->stacks[i], c, s->carry.count + i, listed(c, "scan_output_axes", i), listed(c, "scan_output_directions", i) == 1, err);
    return st;
}

/* Opset 8: input 0 gives lengths, everything has a batch dimension in front, and each of the batch is scanned for itself. */
static enum status scan_batched(struct call *c, struct scan *s, struct err *err)
{
    struct operand scanned[GRAPH_INPUTS_MAX];
    struct stack *finals = arena_calloc(c->run, GRAPH_INPUTS_MAX, sizeof *finals), *all = arena_calloc(c->run, GRAPH_INPUTS_MAX, sizeof *all);
    int64_t axis[GRAPH_INPUTS_MAX] = { 0 };
    s->first = 1;
    enum status st = finals && all ? scan_begin(c, s, true, err) : call_error(c, err, ST_NO_MEMORY, "its state passes the memory budget");
    if (st) return st;
    if (c->in[0]) return call_error(c, err, ST_UNSUPPORTED, "lengths of sequences are not taken");
    int64_t batch = c->in[1 + s->carry.count]->dims[0];
    for (int64_t b = 0; b < batch && !st; b++) {
        for (int i = 0; !st && i < s->carry.count + s->scanned; i++) {
            const struct operand *x = c->in[1 + i];
            if (!x || x->rank < 1 || x->dims[0] != batch || operand_size(x) == 0) return call_error(c, err, ST_BAD_INPUT, "an input has no batch dimension of %lld", (long long)batch);
            struct operand one;
            st = take_slice(c, x, 0, b, c->run, &one, err);
            if (i < s->carry.count && !st) st = operand_keep(&s->carry.values[i], &one, &s->carry.arenas[s->carry.now], err);
            else if (!st) scanned[i - s->carry.count] = one;
        }
        memset(s->stacks, 0, sizeof s->stacks);
        if (!st) st = scan_steps(c, s, scanned, axis, err);
        for (int i = 0; !st && i < s->carry.count; i++) st = stack_push(&finals[i], c, &s->carry.values[i], err);
        for (int i = 0; !st && i < s->stacked; i++) {
            st = stack_finish(&s->stacks[i], c, s->carry.count + i, 0, false, err);
            if (!st) st = stack_push(&all[i], c, c->out[s->carry.count + i], err);
        }
        arena_reset(&s->carry.arenas[s->carry.now]);
    }
    for (int i = 0; !st && i < s->carry.count; i++) st = stack_finish(&finals[i], c, i, 0, false, err);
    for (int i = 0; !st && i < s->stacked; i++) st = stack_finish(&all[i], c, s->carry.count + i, 0, false, err);
    return st;
}

static enum status eval_scan(struct call *c, struct err *err)
{
    struct scan *s = arena_calloc(c->run, 1, sizeof *s);
    if (!s) return call_error(c, err, ST_NO_MEMORY, "its state passes the memory budget");
    carry_begin(&s->carry);
    enum status st = c->node->opset < 9 ? scan_batched(c, s, err) : scan_plain(c, s, err);
    carry_end(&s->carry);
    return st;
}

#define CONTROL(name, since, ins, eval) { name, "", since, 0, ins, GRAPH_INPUTS_MAX, 1, GRAPH_INPUTS_MAX, OP_MAKES, 0, NULL, eval, NULL, bodies_prepare, bodies_release, NULL, NULL }
const struct op ops_control[] = {
    CONTROL("If", 1, 1, eval_if), CONTROL("Loop", 1, 0, eval_loop), CONTROL("Scan", 8, 0, eval_scan),
    { 0 }
};
