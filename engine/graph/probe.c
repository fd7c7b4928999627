/* Shapes under two bindings of the free dimensions, and the proof that rows are independent.
 *
 * The first free dimension of each input is bound to 3 and then to 5 (numbers no network uses as sizes); the others to usual picture or sequence sizes, the
 * first that works. The proof walks the graph with two flags. `batched`: dimension 0 is the row dimension and row r follows from rows r alone.
 * `tainted`: the value follows from how many rows there are. An operator's rows() says whether it keeps rows apart; where it cannot, a
 * value that depends on rows ends the proof. Each plan checks again that dimension 0 has the rows it should have. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/graph/passes.h"
#include "engine/graph/plan.h"

static const int64_t sizes[] = { 224, 64, 32, 299, 128, 28, 16, 512, 8, 7, 1 };
enum { SIZES = sizeof sizes / sizeof sizes[0] };

static bool bind_inputs(const struct graph *g, struct operand *operands, int64_t rows, int64_t size, bool *free_dims)
{
    for (int k = 0; k < g->input_count; k++) {
        struct operand *o = &operands[g->inputs[k]];
        if (o->rank < 0) return false;
        for (int d = 0; d < o->rank; d++) {
            if (o->dims[d] >= 0) continue;
            *free_dims = true;
            o->dims[d] = d == 0 ? rows : size;
        }
        if (!tensor_bytes(o->dtype, o->dims, o->rank, &o->bytes)) return false;
    }
    return true;
}

/* One inference; the operands' shapes go to probe[which]. */
static enum status infer_once(struct graph *g, int which, int64_t rows, int64_t size, bool *free_dims, struct err *err)
{
    struct arena arena;
    arena_init(&arena, g->memory_max);
    struct operand *operands = arena_calloc(&arena, (uint64_t)g->value_count + 1, sizeof *operands);
    enum status st = operands ? ST_OK : err_set(err, ST_NO_MEMORY, "inferring shapes passes the model's memory budget");
    *free_dims = false;
    if (!st) {
        shapes_begin(g, operands);
        if (!bind_inputs(g, operands, rows, size, free_dims)) {
            *free_dims = true;
            st = err_set(err, ST_UNSUPPORTED, "an input's shape is unknown");
        }
    }
    if (!st) st = shapes_infer(g, operands, &arena, NULL, err);
    for (int v = 0; !st && v < g->value_count; v++) {
        g->values[v].probe[which] = operands[v];
        g->values[v].probe[which].data = NULL;
        if (operands[v].dynamic) g->values[v].probe[which].rank = -1;
    }
    arena_free(&arena);
    return st;
}

static void forget(struct graph *g)
{
    for (int v = 0; v < g->value_count; v++) g->values[v].probe[0].rank = g->values[v].probe[1].rank = -1;
}

enum status probe_shapes(struct graph *g, struct err *err)
{
    enum status st = ST_OK;
    bool free_dims = false;
    forget(g);
    for (int k = 0; k < g->input_count; k++) {           /* nothing can be guessed of inputs whose very kind or rank is open */
        const struct value *v = &g->values[g->inputs[k]];
        if (v->type.rank < 0 || v->type.dtype == DT_NONE || v->type.dtype == DT_SEQUENCE || v->is_optional) return ST_OK;
    }
    for (int i = 0; i < SIZES; i++) {
        st = infer_once(g, 0, 3, sizes[i], &free_dims, err);
        if (!st) st = infer_once(g, 1, free_dims ? 5 : 3, sizes[i], &free_dims, err);
        if (!st || !free_dims) return g->is_body ? ST_OK : st;
        if (st == ST_NO_MEMORY) break;
    }
    /* A network with one size only that none of the guesses is: rows of 1 and any failure of data are left to the plans. */
    forget(g);
    return st == ST_UNSUPPORTED && g->input_count ? st : ST_OK;
}

bool probe_known(const struct graph *g, int v) { return v >= 0 && g->values[v].probe[0].rank >= 0 && g->values[v].probe[1].rank >= 0; }

bool probe_same_shape(const struct graph *g, int a, int b)
{
    if (!probe_known(g, a) || !probe_known(g, b)) return false;
    for (int k = 0; k < 2; k++) {
        const struct operand *x = &g->values[a].probe[k], *y = &g->values[b].probe[k];
        if (x->rank != y->rank || x->dtype != y->dtype || memcmp(x->dims, y->dims, (size_t)x->rank * sizeof x->dims[0])) return false;
    }
    return true;
}

static bool says_no(struct graph *g, const char *why, const char *name)
{
    char text[256];
    snprintf(text, sizeof text, why, name);
    const char *copy = arena_copy(g->arena, text, strlen(text));
    g->batch_reason = copy ? copy : "";
    return false;
}

static bool same_symbol(struct graph *g)
{
    const char *symbol = NULL;
    for (int k = 0; k < g->input_count; k++) {
        const struct value *v = &g->values[g->inputs[k]];
        if (v->type.rank < 1 || v->type.dims[0] >= 0) return says_no(g, "the first dimension of input '%s' is not free", v->name);
        const char *s = v->symbols[0] ? v->symbols[0] : "";
        if (g->input_count > 1 && !s[0]) return says_no(g, "the first dimension of input '%s' has no name, so it may differ from that of others", v->name);
        if (symbol && strcmp(symbol, s)) return says_no(g, "the first dimension of input '%s' is another than that of others", v->name);
        symbol = s;
        for (int d = 1; d < v->type.rank; d++)
            if (v->symbols[d] && s[0] && strcmp(v->symbols[d], s) == 0) return says_no(g, "input '%s' has the row dimension twice", v->name);
    }
    if (g->input_count == 0) return says_no(g, "the model has no inputs%s", "");
    for (int k = 0; k < g->output_count; k++) {
        const struct value *v = &g->values[g->outputs[k]];
        if (v->said.rank > 0 && v->declared && v->said.dims[0] >= 0) return says_no(g, "the first dimension of output '%s' is not free", v->name);
    }
    return true;
}

/* A result that keeps rows has `rows` of them, and nothing else of its shape changes with their number. */
static bool row_shape(const struct value *v, const struct operand *o, int64_t rows)
{
    if (o->rank < 1 || o->dims[0] != rows || v->probe[0].rank != o->rank || v->probe[1].rank != o->rank) return false;
    for (int d = 1; d < o->rank; d++)
        if (v->probe[0].dims[d] != v->probe[1].dims[d]) return false;
    return true;
}

/* Walks the graph at one binding; operands hold the shapes. */
static bool walk_rows(struct graph *g, struct operand *operands, int64_t rows)
{
    struct operand *in[GRAPH_INPUTS_MAX], *out[GRAPH_INPUTS_MAX];
    for (int k = 0; k < g->input_count; k++) operands[g->inputs[k]].batched = true;
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        struct call c;
        bool batched = false, tainted = false, keeps = false;
        call_bind(&c, g, n, operands, in, out);
        for (int k = 0; k < n->in_count; k++) {
            batched = batched || (in[k] && in[k]->batched);
            tainted = tainted || (in[k] && in[k]->tainted);
        }
        if (!batched && !tainted) continue;
        bool shape_only = (n->op->flags & OP_SHAPE_ONLY) != 0, whole = n->out[0] >= 0;
        if (!shape_only && whole && n->op->rows) keeps = n->op->rows(&c);
        for (int k = 0; k < n->out_count && keeps; k++) keeps = !out[k] || row_shape(&g->values[n->out[k]], out[k], rows);
        if (!keeps && batched && !shape_only) return says_no(g, "node '%s' may mix rows", n->name);
        for (int k = 0; k < n->out_count; k++) {
            if (!out[k]) continue;
            out[k]->batched = keeps;
            out[k]->tainted = !keeps;
        }
    }
    for (int k = 0; k < g->output_count; k++) {
        const struct operand *o = &operands[g->outputs[k]];
        if (!o->batched || o->rank < 1 || o->dims[0] != rows) return says_no(g, "output '%s' has no row dimension", g->values[g->outputs[k]].name);
    }
    return true;
}

enum status prove_rows(struct graph *g, struct err *err)
{
    static const int64_t rows[2] = { 3, 5 };
    struct arena arena;
    g->batchable = false;
    g->batch_reason = "";
    if (!same_symbol(g)) return ST_OK;
    for (int k = 0; k < g->output_count; k++) {
        if (probe_known(g, g->outputs[k])) continue;
        says_no(g, "the shape of output '%s' depends on data or is not known", g->values[g->outputs[k]].name);
        return ST_OK;
    }
    arena_init(&arena, g->memory_max);
    bool good = true;
    enum status st = ST_OK;
    for (int which = 0; which < 2 && good && !st; which++) {
        struct operand *operands = arena_calloc(&arena, (uint64_t)g->value_count + 1, sizeof *operands);
        if (!operands) { st = err_set(err, ST_NO_MEMORY, "the proof of rows passes the model's memory budget"); break; }
        shapes_begin(g, operands);
        for (int k = 0; k < g->input_count; k++) operands[g->inputs[k]] = g->values[g->inputs[k]].probe[which];
        st = shapes_infer(g, operands, &arena, NULL, err);
        if (!st) good = walk_rows(g, operands, rows[which]);
    }
    arena_free(&arena);
    g->batchable = good && !st;
    return st;
}
