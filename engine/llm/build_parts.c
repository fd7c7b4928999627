/* What the builders of graphs share: nodes, matrices with their biases, norms, tables of embeddings, the graph's inputs. The first failure sticks (builder.st); after it
 * nothing is added and every function gives -1. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/graph/gpu_store.h"
#include "engine/llm/build_internal.h"

int build_refuse(struct builder *b, enum status st, const char *format, ...)
{
    va_list ap;
    if (b->st) return -1;                /* what failed first is what is said */
    va_start(ap, format);
    b->st = err_set_list(b->err, st, format, ap);
    va_end(ap);
    return -1;
}

static int build_missing(struct builder *b, enum llm_role role, int layer)
{
    char name[256];
    llm_role_name(b->c->arch, b->c->folder, role, layer, 0, 0, name, sizeof name);
    return build_refuse(b, ST_BAD_INPUT, "tensor '%s.weight' is missing", name);
}

int build_no_memory(struct builder *b) { return build_refuse(b, ST_NO_MEMORY, "building the model's graph passes its memory budget"); }

/* A node with up to six inputs (-1: left out at the end) and one output. */
int build_add(struct builder *b, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out)
{
    if (b->st) return -1;
    int v = graph_add_operator(b->g, op, in, in_count, spec, spec_size, out);
    return v < 0 ? build_no_memory(b) : v;
}

const float *build_floats(struct builder *b, enum llm_role role, bool bias, int layer, int64_t count)
{
    const float *f = NULL;
    if (!b->st) b->st = llm_weight_floats(b->m, role, bias, layer, -1, count, &f, b->err);
    return b->st ? NULL : f;
}

/* The packed weight has taken the file's place in memory; what is still read (embeddings by row) comes back by itself. */
void build_let_go(const struct llm_weight *w)
{
    if (w->mapped) file_let_go(w->data, (uint64_t)(w->n * w->row_bytes));
}

enum status build_find(struct builder *b, enum llm_role role, int layer, int expert, int64_t n, int64_t k, struct llm_weight *w)
{
    arena_init(&b->loose, b->g->memory_max);
    b->m->rearranged = &b->loose;
    b->st = llm_weight_find(b->m, role, false, layer, expert, n, k, w, b->err);
    b->m->rearranged = NULL;
    if (b->st || !w->data) arena_free(&b->loose);
    return b->st;
}

/* A layer that goes on reading a matrix which is not the file's gets it in the arena. */
static bool settle(struct builder *b, struct linear_spec *spec)
{
    if (!b->loose.used || linear_open_bytes(spec) != 0) return true;
    void *copy = arena_alloc(b->g->arena, (uint64_t)spec->n * (uint64_t)spec->row_bytes, 64);
    if (!copy) return false;
    memcpy(copy, spec->weight, (size_t)(spec->n * spec->row_bytes));
    spec->weight = copy;
    return true;
}

struct linear_layer *build_open_linear(struct builder *b, const struct llm_weight *w)
{
    struct linear_layer *l;
    struct linear_spec spec = { .type = w->type, .weight = w->data, .n = w->n, .k = w->k, .row_bytes = w->row_bytes, .mode = b->o->mode, .level = b->g->device.kernels.level };
    uint64_t whole;
    if (!size_add(b->g->packed_bytes, (uint64_t)w->n * (uint64_t)w->row_bytes, &whole) || whole > b->g->memory_max)
        return build_no_memory(b), NULL;
    if (!settle(b, &spec)) return build_no_memory(b), NULL;
    enum status st = linear_open(&l, &spec, b->err);
    arena_free(&b->loose);
    if (st) {
        b->st = st;
        return NULL;
    }
    b->g->packed_bytes += linear_bytes(l);
    if (!linear_borrows(l)) build_let_go(w);
    if (!graph_own_linear(b->g, l)) return build_no_memory(b), NULL;
    return l;
}

/* The copy on the device has taken the file's place. A matrix of the file that is asked for twice (a tied head) lies there once. */
void build_device_matrix(struct builder *b, const struct llm_weight *w, struct device_matrix *out)
{
    struct gpu_store *s = b->g->gpu;
    const struct gpu_rows rows = { .type = w->type, .data = w->data, .n = w->n, .k = w->k, .row_bytes = w->row_bytes };
    if (b->st) return;
    out->m = gpu_matrix_of(w->type, w->n, w->k);
    out->at = w->mapped ? gpu_store_find(s, w->data, 0) : NULL;
    if (!out->at) {
        b->st = gpu_store_take(s, w->mapped ? w->data : NULL, 0, gpu_matrix_bytes(&out->m), &out->at, b->err);
        if (!b->st) b->st = gpu_store_rows(s, &rows, &out->m, out->at, b->err);
        build_let_go(w);
    }
    arena_free(&b->loose);
}

void build_projections(struct builder *b, int x, const enum llm_role *roles, const int64_t *n, int parts, int layer, const struct gate_spec *gate, int *y)
{
    struct projections_spec spec = { .parts = parts, .k = b->c->width, .gated = gate != NULL, .exact = b->o->mode != LINEAR_FAST };
    if (gate) spec.gate = *gate;
    uint64_t work = 0;
    for (int p = 0; p < parts && !b->st; p++) {
        struct llm_weight w;
        if (build_find(b, roles[p], layer, -1, n[p], b->c->width, &w)) break;
        if (!w.data) {
            build_missing(b, roles[p], layer);
            break;
        }
        if (b->g->gpu) build_device_matrix(b, &w, &spec.w[p]);
        else spec.linear[p] = build_open_linear(b, &w);
        spec.n[p] = w.n;
        work += (uint64_t)w.n * (uint64_t)w.k;
        spec.bias[p] = build_floats(b, roles[p], true, layer, n[p]);
    }
    const int made = gate ? 1 : parts;
    struct node *node = NULL;
    y[0] = build_add(b, &op_projections, &x, 1, &spec, sizeof spec, &node);
    for (int p = 1; p < parts; p++) y[p] = -1;
    if (y[0] < 0) return;
    node->linear = spec.linear[0];
    node->row_work = work;
    if (made == 1) return;
    const int number = (int)(node - b->g->nodes);
    int *outs = arena_alloc(b->g->arena, (uint64_t)made * sizeof *outs, 16);
    if (!outs) {
        build_no_memory(b);
        return;
    }
    outs[0] = y[0];
    for (int p = 1; p < made; p++) {
        outs[p] = y[p] = graph_add_value(b->g, "", VALUE_NODE);
        if (y[p] < 0) {
            build_no_memory(b);
            return;
        }
        b->g->values[y[p]].producer = number;
    }
    node->out = outs;
    node->out_count = made;
}

int build_linear_of(struct builder *b, int x, const struct llm_weight *w, const float *bias, int residual, struct activation_spec act)
{
    struct node *n;
    struct linear_op_spec spec = { .n = w->n, .k = w->k, .exact = b->o->mode != LINEAR_FAST };
    struct linear_layer *l = NULL;
    if (b->g->gpu) build_device_matrix(b, w, &spec.device);
    else if (!b->st) l = build_open_linear(b, w);
    int y = build_add(b, &op_linear, (int[]){ x, residual }, 2, &spec, sizeof spec, &n);
    if (y < 0) return -1;
    n->linear = l;
    n->row_work = (uint64_t)w->n * (uint64_t)w->k;
    n->bias = bias;
    n->act = act;
    return y;
}

const struct activation_spec BUILD_PLAIN = { ACT_NONE, 0, 0 };

/* The matrix of a role and its bias, if there is one. Without the matrix: -1, an error only when it is `needed`. */
int build_linear(struct builder *b, int x, enum llm_role role, int layer, int64_t n, int64_t k, int residual, struct activation_spec act, bool needed)
{
    struct llm_weight w;
    if (b->st) return -1;
    if (build_find(b, role, layer, -1, n, k, &w)) return -1;
    if (!w.data) return needed ? build_missing(b, role, layer) : -1;
    return build_linear_of(b, x, &w, build_floats(b, role, true, layer, w.n), residual, act);
}

bool build_has(struct builder *b, enum llm_role role, int layer) { return !b->st && llm_weight_exists(b->m, role, layer); }

/* A norm over groups of `width` columns; `columns`: of the value. Some families' norms have no weights (OLMo): `bare` allows that. */
int build_norm(struct builder *b, int x, enum llm_role role, int layer, int64_t width, int64_t columns, bool bare)
{
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, role, false, layer, -1, 0, 0, &w, b->err);
    if (b->st) return -1;
    int64_t count = w.n * w.k;
    if (!w.data && !bare) return build_missing(b, role, layer);
    struct norm_spec s = { .layer = b->c->arch->norm == NORM_LAYER, .width = width, .epsilon = b->c->norm_epsilon };
    s.whole = w.data && count == columns && columns != width;
    if (w.data) s.scale = build_floats(b, role, false, layer, s.whole ? columns : width);
    s.bias = build_floats(b, role, true, layer, s.whole ? columns : width);
    if (s.scale && b->c->folder && b->c->arch->flags & LLM_NORM_PLUS_ONE) {
        float *f = (float *)(uintptr_t)s.scale;      /* the arena's own copy */
        for (int64_t i = 0; i < count; i++) f[i] += 1;
    }
    return build_add(b, &op_norm, &x, 1, &s, sizeof s, NULL);
}

int build_scaled(struct builder *b, const struct op *op, int x, float limit)
{
    const struct limit_spec s = { limit };
    return build_add(b, op, &x, 1, &s, sizeof s, NULL);
}

int build_sum(struct builder *b, int x, int y) { return build_add(b, &op_sum, (int[]){ x, y }, 2, NULL, 0, NULL); }

void build_name_output(struct builder *b, int v, const char *name)
{
    if (v < 0) return;
    b->g->values[v].name = name;
    b->g->values[v].is_output = true;
    b->g->outputs[b->g->output_count++] = v;
}

int build_embed(struct builder *b, enum llm_role role, int ids, int64_t rows, int64_t shift, float scale, bool needed)
{
    struct llm_weight w;
    if (b->st) return -1;
    b->st = llm_weight_find(b->m, role, false, 0, -1, 0, b->c->width, &w, b->err);
    if (b->st) return -1;
    if (!w.data) return needed ? build_refuse(b, ST_BAD_INPUT, "the table of token embeddings is missing") : -1;
    if (w.n < rows) return build_refuse(b, ST_BAD_INPUT, "an embedding table has %lld rows where %lld are needed", (long long)w.n, (long long)rows);
    struct embed_spec s = { .format = block_format(w.type), .table = w.data, .rows = w.n, .width = w.k, .row_bytes = w.row_bytes, .shift = shift, .scale = scale };
    if (b->g->gpu) build_device_matrix(b, &w, &s.device);
    return build_add(b, &op_embed, &ids, 1, &s, sizeof s, NULL);
}

void build_add_inputs(struct builder *b)
{
    static const char *const names[LLM_INPUTS] = { "tokens", "positions", "types", "rows", "pages", "kv", "wanted", "encoded" };
    struct graph *g = b->g;
    g->inputs = arena_calloc(g->arena, LLM_INPUTS, sizeof *g->inputs);
    g->outputs = arena_calloc(g->arena, 4, sizeof *g->outputs);
    if (!g->inputs || !g->outputs) {
        build_no_memory(b);
        return;
    }
    for (int i = 0; i < (b->c->decoder_layers ? LLM_INPUTS : LLM_ENCODED); i++) {
        int v = graph_add_value(g, names[i], VALUE_INPUT);
        if (v < 0) {
            build_no_memory(b);
            return;
        }
        struct operand *o = &g->values[v].type;
        o->dtype = i == LLM_KV ? DT_U8 : DT_I32;
        bool table = i == LLM_ROWS || i == LLM_ENCODED;
        o->rank = table ? 2 : 1;
        o->dims[0] = -1;
        o->dims[1] = table ? 4 : 0;
        o->state = i == LLM_KV;
        g->inputs[g->input_count++] = b->inputs[i] = v;
    }
}

struct gate_spec build_gate_of(const struct llm_config *c)
{
    static const struct { enum activation act; enum gate_kind kind; } known[] = { { ACT_SILU, GATE_SILU }, { ACT_GELU, GATE_GELU }, { ACT_GELU_TANH, GATE_GELU_TANH }, { ACT_RELU, GATE_RELU } };
    struct gate_spec s = { .kind = GATE_SILU, .limit = c->swiglu_limit };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].act == c->act.kind) s.kind = known[i].kind;
    if (c->arch->flags & LLM_CLAMPED_GATE) s.kind = GATE_CLAMPED;
    return s;
}

