#include "engine/calibrate/int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "engine/calibrate/observer.h"
#include "engine/calibrate/prepare.h"
#include "engine/calibrate/qdq.h"
#include "engine/operators/numbers.h"

enum { COMPARED_MAX = 32, COMPARED_EACH = 8 };      /* inputs whose answers are compared: of the whole file, of each layer */
static const uint64_t TABLE_NS = 60000000000u;      /* what measuring each layer may take when nothing depends on it */

struct job {
    const struct int8_inputs  *inputs;
    const struct int8_options *options;
    struct int8_report        *report;
    struct buf      prepared;
    struct outline  outline;
    struct range   *ranges;                  /* [tensor] */
    struct arena    arena;                   /* inputs and answers that are compared */
    struct tensor  *given[COMPARED_MAX];     /* [port] */
    struct tensor  *answers[COMPARED_MAX];   /* [output] in f32 */
    int             ports, outputs;
};

static enum status no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "calibrating passes the memory budget"); }

static void tell(const struct job *j, const char *what, int done, int total)
{
    if (j->options->progress) j->options->progress(j->options->ctx, what, done, total);
}

static enum status open_observer(struct observer **out, const struct job *j, const struct buf *file, const char *const *names, int count, struct err *err)
{
    const struct observer_options o = { j->options->threads, j->options->cpu_level, j->options->memory_max };
    return observer_open(out, (const uint8_t *)file->data, file->length, names, count, &o, err);
}

/* ---- looking at the inputs ---- */
static enum status keep_tensor(struct tensor *to, const struct tensor *from, struct arena *arena, struct err *err)
{
    *to = *from;
    to->data = arena_alloc(arena, from->bytes ? from->bytes : 1, TENSOR_ALIGN);
    if (!to->data) return no_memory(err);
    if (from->bytes) memcpy(to->data, from->data, from->bytes);
    return ST_OK;
}

/* Input i and what the model answers are kept for comparing. */
static enum status keep_input(struct job *j, int i, const struct tensor *inputs, const struct observer *o, struct err *err)
{
    enum status st = ST_OK;
    j->given[i] = arena_calloc(&j->arena, (uint64_t)j->ports + 1, sizeof *j->given[i]);
    j->answers[i] = arena_calloc(&j->arena, (uint64_t)j->outputs + 1, sizeof *j->answers[i]);
    if (!j->given[i] || !j->answers[i]) return no_memory(err);
    for (int k = 0; k < j->ports && !st; k++) st = keep_tensor(&j->given[i][k], &inputs[k], &j->arena, err);
    for (int k = 0; k < j->outputs && !st; k++) {
        const struct tensor t = operand_tensor(observer_output(o, k));
        if (t.dtype == DT_STRING || t.dtype == DT_SEQUENCE || t.dtype == DT_ABSENT) j->answers[i][k] = (struct tensor){ .dtype = DT_NONE };
        else st = keep_tensor(&j->answers[i][k], &t, &j->arena, err);
    }
    j->report->compared = i + 1;
    return st;
}

static enum status look_at_inputs(struct job *j, struct observer *o, const int *tensors, int count, struct tally *tallies, struct err *err)
{
    struct tensor inputs[GRAPH_INPUTS_MAX];
    struct arena arena;
    const struct port *ports = observer_inputs(o, &j->ports);
    enum status st = ST_OK;
    j->outputs = observer_output_count(o);
    arena_init(&arena, j->options->memory_max);
    for (int i = 0; i < j->inputs->count && !st; i++) {
        tell(j, "looking at inputs", i, j->inputs->count);
        st = j->inputs->read(j->inputs->ctx, i, ports, j->ports, inputs, &arena, err);
        if (!st) st = observer_run(o, inputs, err);
        for (int k = 0; k < count && !st; k++) {
            const struct operand *x = observer_tensor(o, k);
            if (x->dtype != DT_F32) st = err_set(err, ST_UNSUPPORTED, "tensor '%s' is %s, not float32", j->outline.tensors[tensors[k]].name, dtype_name(x->dtype));
            else tally_add(&tallies[k], x->data, operand_count(x));
        }
        if (!st && i < COMPARED_MAX) st = keep_input(j, i, inputs, o, err);
        arena_reset(&arena);
    }
    arena_free(&arena);
    return st;
}

/* The range of every tensor that any choice of layers rounds. */
static enum status calibrate(struct job *j, const bool *all, struct err *err)
{
    struct outline *n = &j->outline;
    struct arena *a = &n->constants.arena;
    struct observer *o = NULL;
    int count = 0;
    outline_place(n, all);
    for (int t = 0; t < n->tensor_count; t++) count += n->tensors[t].rounded;
    const char **names = arena_calloc(a, (uint64_t)count + 1, sizeof *names);
    int *tensors = arena_calloc(a, (uint64_t)count + 1, sizeof *tensors);
    struct tally *tallies = arena_calloc(a, (uint64_t)count + 1, sizeof *tallies);
    j->ranges = arena_calloc(a, (uint64_t)n->tensor_count + 1, sizeof *j->ranges);
    if (!names || !tensors || !tallies || !j->ranges) return no_memory(err);
    count = 0;
    enum status st = ST_OK;
    for (int t = 0; t < n->tensor_count && !st; t++) {
        if (!n->tensors[t].rounded) continue;
        names[count] = n->tensors[t].name;
        tensors[count] = t;
        if (!tally_begin(&tallies[count++], j->options->method)) st = no_memory(err);
    }
    if (!st) st = open_observer(&o, j, &j->prepared, names, count, err);
    if (!st) st = look_at_inputs(j, o, tensors, count, tallies, err);
    observer_close(o);
    for (int k = 0; k < count; k++) {
        if (!st) j->ranges[tensors[k]] = tally_range(&tallies[k], j->options->method, j->options->percentile);
        tally_end(&tallies[k]);
    }
    return st;
}

/* ---- comparing ---- */
struct difference { double square, all; uint64_t rows, moved; bool shape; };

static int64_t largest_of(const struct tensor *t, uint64_t row, int64_t columns)
{
    int64_t best = 0;
    double top = -INFINITY;
    for (int64_t c = 0; c < columns; c++) {
        double v;
        real_load(&v, t->dtype, t->data, row * (uint64_t)columns + (uint64_t)c, 0, 1);
        if (v > top) top = v, best = c;
    }
    return best;
}

static void add_difference(struct difference *d, const struct tensor *a, const struct tensor *b)
{
    if (a->dtype == DT_NONE) return;
    if (a->dtype != b->dtype || a->rank != b->rank || a->bytes != b->bytes || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof *a->dims)) {
        d->shape = true;
        return;
    }
    uint64_t count = 0;
    if (!dtype_is_number(a->dtype) || !shape_count(a->dims, a->rank, &count)) return;
    for (uint64_t i = 0; i < count; i++) {
        double x, y;
        real_load(&x, a->dtype, a->data, i, 0, 1);
        real_load(&y, b->dtype, b->data, i, 0, 1);
        if (!dtype_is_real(a->dtype)) {      /* a class, a mask: another one or not */
            d->rows++;
            d->moved += x != y;
        } else if (isfinite(x)) {
            d->square += isfinite(y) ? (x - y) * (x - y) : x * x + 1;
            d->all += x * x;
        }
    }
    if (!dtype_is_real(a->dtype) || a->rank != 2 || a->dims[1] < 2) return;
    for (uint64_t r = 0; r < (uint64_t)a->dims[0]; r++) d->moved += largest_of(a, r, a->dims[1]) != largest_of(b, r, a->dims[1]);
    d->rows += (uint64_t)a->dims[0];
}

/* What a file with these layers rounded answers, against f32. The file stays in *file when that is not NULL. */
static enum status measure(struct job *j, const bool *rounded, int compared, double *error, double *moved, struct buf *file, struct err *err)
{
    const struct qdq_options q = { .signed_activations = j->options->signed_activations };
    struct observer *o = NULL;
    struct buf own;
    buf_init(&own, 0);
    if (!file) file = &own;
    struct difference *d = mem_calloc_array((uint64_t)j->outputs + 1, sizeof *d);
    enum status st = d ? qdq_write(file, &j->outline, (const uint8_t *)j->prepared.data, j->prepared.length, j->ranges, rounded, &q, err) : no_memory(err);
    if (!st) st = open_observer(&o, j, file, NULL, 0, err);
    for (int i = 0; i < compared && i < j->report->compared && !st; i++) {
        st = observer_run(o, j->given[i], err);
        for (int k = 0; k < j->outputs && !st; k++) {
            const struct tensor t = operand_tensor(observer_output(o, k));
            add_difference(&d[k], &j->answers[i][k], &t);
        }
    }
    *error = *moved = 0;
    for (int k = 0; k < j->outputs && !st; k++) {
        const double e = d[k].shape ? 1 : d[k].square == 0 ? 0 : d[k].all > 0 ? sqrt(d[k].square / d[k].all) : 1, m = d[k].rows ? (double)d[k].moved / (double)d[k].rows : 0;
        *error = fmax(*error, e);
        *moved = fmax(*moved, m);
    }
    observer_close(o);
    buf_free(&own);
    free(d);
    return st;
}

/* ---- choosing ---- */
struct choice { int *order; bool *rounded; };      /* layers from the worst on */

static void choose(const struct job *j, struct choice *c, int kept)
{
    for (int i = 0; i < j->outline.layer_count; i++) c->rounded[c->order[i]] = i >= kept;
}

/* Each layer alone. `needed`: however long it takes. */
static enum status measure_layers(struct job *j, struct choice *c, bool needed, struct err *err)
{
    const int count = j->outline.layer_count;
    const uint64_t start = clock_ns();
    for (int l = 0; l < count && (needed || clock_ns() - start < TABLE_NS); l++) {
        struct int8_layer *x = &j->report->layers[l];
        tell(j, "rounding each layer alone", l, count);
        memset(c->rounded, 0, (size_t)count * sizeof *c->rounded);
        c->rounded[l] = true;
        enum status st = measure(j, c->rounded, COMPARED_EACH, &x->error, &x->moved, NULL, err);
        if (st) return err_prefix(err, "with layer '%s' rounded", x->name);
    }
    for (int i = 0; i < count; i++) {      /* by insertion: few, and equal ones keep their places */
        int at = i;
        for (; at > 0 && j->report->layers[c->order[at - 1]].error < j->report->layers[i].error; at--) c->order[at] = c->order[at - 1];
        c->order[at] = i;
    }
    return ST_OK;
}

/* The least number of layers in float with which the bound holds. Their order is fixed, so halving finds it. */
static enum status find_kept(struct job *j, struct choice *c, int *kept, struct err *err)
{
    struct int8_report *r = j->report;
    int low = *kept, high = j->outline.layer_count;      /* with `high` everything is in float and the bound holds */
    choose(j, c, low);
    enum status st = measure(j, c->rounded, COMPARED_MAX, &r->error, &r->moved, NULL, err);
    if (st || j->options->error_max <= 0 || r->error <= j->options->error_max) return st;
    while (high - low > 1 && !st) {
        const int middle = low + (high - low) / 2;
        tell(j, "leaving layers in float", middle, high);
        choose(j, c, middle);
        st = measure(j, c->rounded, COMPARED_MAX, &r->error, &r->moved, NULL, err);
        if (r->error <= j->options->error_max) high = middle;
        else low = middle;
    }
    *kept = high;
    return st;
}

static enum status decide(struct job *j, struct buf *out, struct err *err)
{
    struct int8_report *r = j->report;
    const int count = j->outline.layer_count;
    struct arena *a = &j->outline.constants.arena;
    struct choice c = { arena_calloc(a, (uint64_t)count, sizeof *c.order), arena_calloc(a, (uint64_t)count, sizeof *c.rounded) };
    int kept = j->options->keep_worst < count ? j->options->keep_worst : count;
    if (!c.order || !c.rounded) return no_memory(err);
    for (int l = 0; l < count; l++) c.order[l] = l;
    choose(j, &c, 0);
    enum status st = calibrate(j, c.rounded, err);
    tell(j, "comparing", 0, 1);
    if (!st) st = measure(j, c.rounded, COMPARED_MAX, &r->error, &r->moved, NULL, err);
    const bool needed = kept > 0 || (j->options->error_max > 0 && r->error > j->options->error_max);
    if (!st && (needed || !j->options->no_table)) st = measure_layers(j, &c, needed, err);
    if (!st && needed) st = find_kept(j, &c, &kept, err);
    if (st) return st;
    choose(j, &c, kept);
    for (int l = 0; l < count; l++) r->layers[l].kept = !c.rounded[l];
    r->kept = kept;
    st = measure(j, c.rounded, COMPARED_MAX, &r->error, &r->moved, out, err);
    r->reached = j->options->error_max <= 0 || r->error <= j->options->error_max;
    return st;
}

/* The file made ready, and the outline of it. */
static enum status open_job(struct job *j, const uint8_t *data, uint64_t size, int dirfd, struct err *err)
{
    struct outline first;
    enum status st = outline_open(&first, data, size, dirfd, j->options->memory_max, err);
    if (st) return st;
    if (first.quantised) st = err_set(err, ST_BAD_INPUT, "the model holds rounded layers already");
    if (!st) st = prepare_model(&j->prepared, &first, data, size, &j->report->folded, err);
    outline_close(&first);
    if (!st) st = outline_open(&j->outline, (const uint8_t *)j->prepared.data, j->prepared.length, -1, j->options->memory_max, err);
    if (!st && j->outline.layer_count == 0) st = err_set(err, ST_BAD_INPUT, "the model has no Conv, Gemm or MatMul on constant float32 weights, so there is nothing to round");
    return st;
}

static enum status list_report(struct job *j, struct err *err)
{
    struct int8_report *r = j->report;
    r->layer_count = j->outline.layer_count;
    r->layers = arena_calloc(&r->arena, (uint64_t)r->layer_count, sizeof *r->layers);
    if (!r->layers) return no_memory(err);
    for (int l = 0; l < r->layer_count; l++) {
        const char *name = j->outline.layers[l].name, *type = j->outline.graph->nodes[j->outline.layers[l].node].type;
        r->layers[l] = (struct int8_layer){ .name = arena_copy(&r->arena, name, strlen(name)), .type = arena_copy(&r->arena, type, strlen(type)), .error = -1 };
        if (!r->layers[l].name || !r->layers[l].type) return no_memory(err);
    }
    return ST_OK;
}

enum status int8_make(struct buf *out, struct int8_report *report, const uint8_t *data, uint64_t size, int dirfd, const struct int8_inputs *inputs, const struct int8_options *options, struct err *err)
{
    struct job j = { .inputs = inputs, .options = options, .report = report };
    *report = (struct int8_report){ 0 };
    arena_init(&report->arena, options->memory_max);
    arena_init(&j.arena, options->memory_max);
    buf_init(&j.prepared, 0);
    enum status st = inputs->count > 0 ? open_job(&j, data, size, dirfd, err) : err_set(err, ST_BAD_INPUT, "there is no calibration input");
    if (!st) st = list_report(&j, err);
    if (!st) st = decide(&j, out, err);
    outline_close(&j.outline);
    arena_free(&j.arena);
    buf_free(&j.prepared);
    return st;
}

void int8_report_free(struct int8_report *r) { arena_free(&r->arena); }
