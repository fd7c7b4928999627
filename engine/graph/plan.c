/* Laying out a graph for one set of shapes.
 *
 * Values are grouped into buffers: a view shares its source's buffer, and an elementwise result takes its input's where that dies. Buffers live
 * from the step that first writes them to the last that reads them; they are placed one after the other in step order, each in the tightest gap
 * that is free at that moment. Scratch is a buffer that lives for one step. */
#include "engine/graph/plan_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/graph/gpu_store.h"
#include "engine/graph/plan_gpu.h"
#include "engine/graph/space.h"
#include "kernels/bytes.h"
#include "engine/operators/nn/conv_slices.h"
#include "kernels/conv.h"
#include "kernels/linear.h"

/* A call shorter than this is not worth a team: when another program wants a core, waiting for the other thread costs milliseconds. */
enum { TEAM_NS = 15000 };
static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "a plan for this shape passes the model's memory budget"); }

int plan_root(const struct plan *p, int v)
{
    while (p->root[v] != v) v = p->root[v] = p->root[p->root[v]];
    return v;
}

static bool is_view(const struct step *s)
{
    const struct operand *x = s->call.in_count ? s->call.in[0] : NULL;
    if (s->node->op->flags & OP_VIEW) return true;
    if (strcmp(s->node->op->name, "Reorder") || !x || x->dynamic) return false;
    int64_t space = 1;
    for (int d = 2; d < x->rank; d++) space *= x->dims[d];
    return x->dims[1] == 1 || space == 1 || x->channels_last == s->call.out[0]->channels_last;
}

/* Roots through views, and the last step that reads each buffer. */
static void find_lifetimes(struct plan *p)
{
    const struct graph *g = p->graph;
    for (int v = 0; v < g->value_count; v++) {
        p->root[v] = v;
        p->buffers[v] = (struct buffer){ .last = -1, .input = -1, .bytes = p->operands[v].bytes };
        if (p->operands[v].data) p->buffers[v].place = PLACE_KNOWN;
        else if (p->operands[v].dynamic) p->buffers[v].place = PLACE_DYNAMIC;
    }
    for (int k = 0; k < g->input_count; k++) {
        p->buffers[g->inputs[k]].place = PLACE_INPUT;
        p->buffers[g->inputs[k]].input = k;
    }
    for (int i = 0; i < p->step_count; i++) {
        struct step *s = &p->steps[i];
        if (s->dynamic || !s->view || s->node->out[0] < 0 || s->node->in[0] < 0) continue;
        p->root[s->node->out[0]] = plan_root(p, s->node->in[0]);
    }
    for (int i = 0; i < p->step_count; i++)
        for (int k = 0; k < p->steps[i].node->in_count; k++)
            if (p->steps[i].node->in[k] >= 0) p->buffers[plan_root(p, p->steps[i].node->in[k])].last = i;
    for (int k = 0; k < g->output_count; k++) p->buffers[plan_root(p, g->outputs[k])].last = INT32_MAX;
    /* a view made while running keeps its source's buffer, and who follows it is not tracked */
    for (int i = 0; i < p->step_count; i++)
        if (p->steps[i].dynamic && p->steps[i].node->op->flags & OP_VIEW && p->steps[i].node->in[0] >= 0) p->buffers[plan_root(p, p->steps[i].node->in[0])].last = INT32_MAX;
}

/* Which input's buffer the result may take over; -1: none. */
static int find_in_place(const struct plan *p, int i)
{
    const struct step *s = &p->steps[i];
    const struct node *n = s->node;
    const struct operand *y = s->call.out[0];
    int first = 0, last = n->op->flags & OP_BROADCAST ? 1 : 0;
    const bool sums = n->op->flags & (OP_WANTS_LAST | OP_SUMS);
    if (n->residual >= 0 && sums) first = last = n->residual;
    else if (!(n->op->flags & OP_INPLACE)) return -1;
    for (int k = first; k <= last && k < n->in_count; k++) {
        if (n->in[k] < 0) continue;
        const struct buffer *b = &p->buffers[plan_root(p, n->in[k])];
        const struct operand *x = s->call.in[k];
        if (sums && n->in[0] >= 0 && plan_root(p, n->in[0]) == plan_root(p, n->in[k])) continue;     /* its window reads ahead of what it writes */
        if (b->place == PLACE_WORK && b->last == i && x->bytes == y->bytes && b->bytes >= y->bytes && x->channels_last == y->channels_last && x->dtype == y->dtype) return k;
    }
    return -1;
}

static bool place_outputs(struct plan *p, struct space *space, int i)
{
    struct step *s = &p->steps[i];
    for (int k = 0; k < s->node->out_count; k++) {
        int v = s->node->out[k];
        if (v < 0 || p->root[v] != v || p->buffers[v].place != PLACE_NONE) continue;
        int from = k == 0 ? find_in_place(p, i) : -1;
        if (from >= 0) {
            int r = plan_root(p, s->node->in[from]), last = p->buffers[v].last;
            p->root[v] = r;
            p->buffers[r].last = last > i ? last : i;
            continue;
        }
        p->buffers[v].place = PLACE_WORK;
        if (!space_take(space, p->operands[v].bytes, &p->buffers[v].offset)) return false;
    }
    return true;
}

static enum status place_buffers(struct plan *p, struct err *err)
{
    const struct graph *g = p->graph;
    struct space space;
    enum status st = ST_OK;
    space_begin(&space);
    for (int k = 0; k < g->input_count && !st; k++)
        if (!p->operands[g->inputs[k]].state && !space_take(&space, p->operands[g->inputs[k]].bytes, &p->input_copy[k])) st = no_memory(err);
    for (int i = 0; i < p->step_count && !st; i++) {
        struct step *s = &p->steps[i];
        if (!s->dynamic && !place_outputs(p, &space, i)) st = no_memory(err);
        if (!st && s->scratch_bytes) {
            if (!space_take(&space, s->scratch_bytes, &s->scratch_offset)) st = no_memory(err);
            else space_give(&space, s->scratch_offset);
        }
        for (int k = 0; k < s->node->in_count && !st; k++) {
            if (s->node->in[k] < 0) continue;
            struct buffer *b = &p->buffers[plan_root(p, s->node->in[k])];
            if (b->last != i) continue;
            if (b->place == PLACE_WORK) space_give(&space, b->offset);
            if (b->place == PLACE_INPUT && !p->operands[g->inputs[b->input]].state) space_give(&space, p->input_copy[b->input]);
            b->last = -2;
        }
        for (int k = 0; k < s->node->out_count && !st; k++) {       /* results that nobody reads */
            int v = s->node->out[k];
            if (v >= 0 && p->root[v] == v && p->buffers[v].place == PLACE_WORK && p->buffers[v].last == -1) space_give(&space, p->buffers[v].offset);
        }
    }
    p->workspace = space.high;
    space_end(&space);
    return st;
}

/* The values of each input's buffer, so that a run can point them at the request's memory. */
static enum status list_followers(struct plan *p, struct err *err)
{
    const struct graph *g = p->graph;
    for (int k = 0; k < g->input_count; k++) {
        int n = 0;
        for (int v = 0; v < g->value_count; v++) n += plan_root(p, v) == g->inputs[k];
        int *list = p->bound[k] = arena_alloc(&p->arena, ((uint64_t)n + 1) * sizeof *list, 8);
        if (!list) return no_memory(err);
        n = 0;
        for (int v = 0; v < g->value_count; v++)
            if (plan_root(p, v) == g->inputs[k]) list[n++] = v;
        list[n] = -1;
    }
    return ST_OK;
}

/* About how long a call takes one core, in nanoseconds: 60 multiply-adds and 20 bytes each, as SPEED.md's kernels do at worst. */
static uint64_t call_nanoseconds(const struct call *c)
{
    uint64_t bytes = 0;
    for (int k = 0; k < c->in_count; k++)
        if (c->in[k] && !c->in[k]->state) bytes += c->in[k]->bytes;
    for (int k = 0; k < c->out_count; k++)
        if (c->out[k]) bytes += c->out[k]->bytes;
    return call_work(c) / 60 + bytes / 20;
}

static enum status add_steps(struct plan *p, struct err *err)
{
    const struct graph *g = p->graph;
    p->steps = arena_calloc(&p->arena, (uint64_t)g->node_count + 1, sizeof *p->steps);
    if (!p->steps) return no_memory(err);
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        struct step *s = &p->steps[p->step_count];
        bool known = n->out_count > 0, dynamic = false;
        for (int k = 0; k < n->out_count; k++) {
            if (n->out[k] < 0) continue;
            known = known && p->operands[n->out[k]].data;
            dynamic = dynamic || p->operands[n->out[k]].dynamic;
        }
        if (known) continue;
        struct operand **lists = arena_alloc(&p->arena, ((uint64_t)n->in_count + (uint64_t)n->out_count + 1) * sizeof *lists, 8);
        if (!lists) return no_memory(err);
        s->node = n;
        s->dynamic = dynamic;
        call_bind(&s->call, g, n, p->operands, lists, lists + n->in_count);
        p->step_count++;
        p->dynamic = p->dynamic || dynamic;
        if (dynamic && n->op->flags & OP_MAKES && n->op->prepare) {
            enum status st = n->op->prepare(&s->call, err);
            if (st) return st;
        }
        if (dynamic) continue;
        if (call_nanoseconds(&s->call) < TEAM_NS) s->call.threads = 1;
        s->view = is_view(s);
        if (s->view) continue;
        enum status st = n->op->prepare ? n->op->prepare(&s->call, err) : ST_OK;
        if (st) return st;
        s->scratch_bytes = n->op->scratch ? n->op->scratch(&s->call) : 0;
    }
    return ST_OK;
}

enum status plan_open(struct plan **out, const struct graph *g, const struct operand *inputs, uint64_t memory_max, struct err *err)
{
    struct plan *p = mem_calloc_array(1, sizeof *p);
    if (!p) return no_memory(err);
    p->graph = g;
    arena_init(&p->arena, memory_max);
    uint64_t n = (uint64_t)g->value_count + 1;
    p->operands = arena_calloc(&p->arena, n, sizeof *p->operands);
    p->buffers = arena_calloc(&p->arena, n, sizeof *p->buffers);
    p->root = arena_calloc(&p->arena, n, sizeof *p->root);
    p->input_copy = arena_calloc(&p->arena, (uint64_t)g->input_count + 1, sizeof *p->input_copy);
    p->bound = arena_calloc(&p->arena, (uint64_t)g->input_count + 1, sizeof *p->bound);
    enum status st = p->operands && p->buffers && p->root && p->input_copy && p->bound ? ST_OK : no_memory(err);
    if (!st) {
        shapes_begin(g, p->operands);
        for (int k = 0; k < g->input_count && !st; k++) {
            struct operand *o = &p->operands[g->inputs[k]];
            o->rank = inputs[k].rank;
            if (inputs[k].dtype != DT_NONE) o->dtype = inputs[k].dtype;
            memcpy(o->dims, inputs[k].dims, sizeof o->dims);
            if (!tensor_bytes(o->dtype, o->dims, o->rank, &o->bytes)) st = err_set(err, ST_BAD_INPUT, "an input's shape is too large");
        }
    }
    if (!st) st = shapes_infer(g, p->operands, &p->arena, NULL, err);
    if (!st) st = add_steps(p, err);
    if (!st) {
        find_lifetimes(p);
        st = place_buffers(p, err);
    }
    if (!st) st = list_followers(p, err);
    uint64_t whole;
    if (!st && (!size_add(p->workspace, p->arena.used, &whole) || whole > memory_max)) st = err_set(err, ST_NO_MEMORY, "a plan for this shape needs %llu bytes, but the budget leaves %llu", (unsigned long long)p->workspace, (unsigned long long)memory_max);
    if (!st && g->gpu) st = plan_gpu_open(&p->gpu, p, err);
    if (st) {
        plan_close(p);
        return st;
    }
    *out = p;
    return ST_OK;
}

void plan_close(struct plan *p)
{
    if (!p) return;
    plan_gpu_close(p->gpu);
    for (int i = 0; i < p->step_count; i++)
        if (p->steps[i].call.state) p->steps[i].node->op->release(p->steps[i].call.state);
    arena_free(&p->arena);
    free(p);
}

uint64_t plan_workspace(const struct plan *p) { return p->workspace; }
uint64_t plan_memory(const struct plan *p) { return p->arena.used; }
uint64_t plan_work(const struct plan *p)
{
    uint64_t work = 0;
    for (int i = 0; i < p->step_count; i++)
        if (!p->steps[i].dynamic && !size_add(work, call_work(&p->steps[i].call), &work)) return UINT64_MAX;
    return work;
}

bool plan_is_dynamic(const struct plan *p) { return p->dynamic; }
void *plan_input_buffer(const struct plan *p, int k) { return p->base + p->input_copy[k]; }
void plan_time(struct plan *p, bool on) { p->timed = on; }

void plan_bind(struct plan *p, void *workspace)
{
    if (p->base == workspace && p->base) return;
    p->base = workspace;
    for (int v = 0; v < p->graph->value_count; v++) {
        const struct buffer *b = &p->buffers[plan_root(p, v)];
        if (b->place == PLACE_WORK) p->operands[v].data = p->base + b->offset;
        if (b->place == PLACE_KNOWN && p->root[v] != v) p->operands[v].data = p->operands[plan_root(p, v)].data;
    }
    for (int i = 0; i < p->step_count; i++) p->steps[i].call.scratch = p->base + p->steps[i].scratch_offset;
}

/* A step whose shapes are found now: infer with the data there is, take memory from the run's arena, compute. */
static enum status run_dynamic(struct step *s, struct arena *run, struct err *err)
{
    struct call *c = &s->call;
    const struct op *op = s->node->op;
    struct operand *outs[GRAPH_INPUTS_MAX], dropped[GRAPH_INPUTS_MAX], **real = c->out;
    for (int k = 0; k < c->out_count; k++) {
        if (!real[k]) dropped[k] = (struct operand){ 0 };
        outs[k] = real[k] ? real[k] : &dropped[k];
    }
    c->out = outs;
    c->needs_data = false;
    enum status st = op->flags & OP_MAKES ? op->eval(c, err) : op->infer(c, err);
    c->out = real;
    if (st || op->flags & OP_MAKES) return st;
    if (c->needs_data) return call_error(c, err, ST_INTERNAL, "its shape cannot be worked out");
    bool view = (op->flags & OP_VIEW) != 0, room = true;
    for (int k = 0; k < c->out_count; k++) {
        if (!c->out[k]) continue;
        c->out[k]->data = view && k == 0 ? c->in[0]->data : arena_alloc(run, c->out[k]->bytes ? c->out[k]->bytes : 1, TENSOR_ALIGN);
        room = room && c->out[k]->data;
    }
    if (!room) return call_error(c, err, ST_NO_MEMORY, "its result passes the memory budget");
    c->state = NULL;
    if (op->prepare) st = op->prepare(c, err);
    uint64_t scratch = !st && op->scratch ? op->scratch(c) : 0;
    void *saved = c->scratch;
    if (scratch && !(c->scratch = arena_alloc(run, scratch, TENSOR_ALIGN))) st = call_error(c, err, ST_NO_MEMORY, "its scratch passes the memory budget");
    if (!st) st = op->eval(c, err);
    c->scratch = saved;
    if (c->state) op->release(c->state);
    c->state = NULL;
    return st;
}

enum status plan_run_step(struct plan *p, struct step *s, struct arena *run, const atomic_bool *stop, struct err *err)
{
    if (stop && atomic_load_explicit(stop, memory_order_relaxed)) return err_set(err, ST_CANCELLED, "stopped");
    if (s->view && s->node->out_count == 1) return ST_OK;
    s->call.run = run;
    s->call.stop = stop;
    uint64_t start = p->timed ? clock_ns() : 0;
    enum status st = s->dynamic ? run_dynamic(s, run, err) : s->node->op->eval(&s->call, err);
    if (!st && p->timed) s->ns = clock_ns() - start;
    return st;
}

enum status plan_run(struct plan *p, void *const *data, struct arena *run, const atomic_bool *stop, struct err *err)
{
    enum status st = ST_OK;
    for (int k = 0; k < p->graph->input_count; k++)
        for (const int *v = p->bound[k]; *v >= 0; v++) p->operands[*v].data = data[k];
    if (p->gpu) return plan_gpu_run(p->gpu, run, stop, err);
    for (int i = 0; i < p->step_count && !st; i++) st = plan_run_step(p, &p->steps[i], run, stop, err);
    return st;
}

const struct operand *plan_output(const struct plan *p, int k) { return &p->operands[p->graph->outputs[k]]; }

/* The kernel that runs the node's packed weights; empty where it has none. */
static const char *kernel_name(const struct node *n)
{
    if (n->conv) return conv_layer_kernel(n->conv);
    if (n->slices) return conv_slices_kernel(n->slices);
    if (n->bytes) return bytes_layer_kernel(n->bytes);
    if (n->linear) return linear_kernel(n->linear);
    return n->sparse ? "pruned" : n->packed ? "gemm" : "";
}

int plan_steps(const struct plan *p, struct plan_step_info *info, int max)
{
    int n = 0;
    for (int i = 0; i < p->step_count; i++) {
        const struct step *s = &p->steps[i];
        if (s->view) continue;
        if (n < max) info[n] = (struct plan_step_info){ s->node, p->gpu && plan_gpu_has(p->gpu, i) ? p->graph->gpu->api->name : kernel_name(s->node), s->ns, s->call.out[0] };
        n++;
    }
    return n;
}
