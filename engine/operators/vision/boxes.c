/* NonMaxSuppression: by falling score, a box stays unless one that stays already overlaps it too much. */
#include <string.h>

#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

struct picks { const struct call *call; const double *boxes, *scores; int64_t count; double overlap, least; bool centred; int64_t most; };

static double number(const struct call *c, int i, double otherwise)
{
    const struct operand *o = i < c->in_count ? c->in[i] : NULL;
    return o && operand_count(o) && dtype_is_number(o->dtype) ? operand_real(o, 0) : otherwise;
}

/* Corners of a box: y1, x1, y2, x2 with the smaller first. */
static void corners(const struct picks *p, int64_t i, double out[4])
{
    const double *b = p->boxes + 4 * i;
    if (p->centred) {
        out[0] = b[1] - b[3] / 2;
        out[1] = b[0] - b[2] / 2;
        out[2] = b[1] + b[3] / 2;
        out[3] = b[0] + b[2] / 2;
        return;
    }
    for (int k = 0; k < 2; k++) {
        out[k] = fmin(b[k], b[k + 2]);
        out[k + 2] = fmax(b[k], b[k + 2]);
    }
}

static bool overlaps(const struct picks *p, int64_t i, int64_t j)
{
    double a[4], b[4];
    corners(p, i, a);
    corners(p, j, b);
    double h = fmin(a[2], b[2]) - fmax(a[0], b[0]), w = fmin(a[3], b[3]) - fmax(a[1], b[1]);
    if (!(h > 0 && w > 0)) return false;
    double both = h * w, all = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both;
    return both / all > p->overlap;
}

/* The boxes that stay, in order, into kept; `order` is room for their ranking. */
static int64_t pick(const struct picks *p, int64_t *order, int64_t *kept)
{
    int64_t n = 0, stay = 0;
    for (int64_t i = 0; i < p->count; i++)
        if (p->scores[i] > p->least) order[n++] = i;
    for (int64_t gap = n / 2; gap > 0; gap /= 2)                /* ordered by falling score, the earlier box first among equals */
        for (int64_t i = gap; i < n; i++) {
            int64_t v = order[i], j = i;
            for (; j >= gap; j -= gap) {
                int64_t u = order[j - gap];
                if (p->scores[u] > p->scores[v] || (p->scores[u] == p->scores[v] && u < v)) break;
                order[j] = u;
            }
            order[j] = v;
        }
    for (int64_t i = 0; i < n && stay < p->most && !call_stopped(p->call, NULL); i++) {
        bool good = true;
        for (int64_t k = 0; k < stay && good; k++) good = !overlaps(p, order[i], kept[k]);
        if (good) kept[stay++] = order[i];
    }
    return stay;
}

static enum status eval_nms(struct call *c, struct err *err)
{
    const struct operand *boxes = c->in[0], *scores = c->in[1];
    bool fits = boxes->rank == 3 && scores->rank == 3 && boxes->dims[2] == 4 && boxes->dims[0] == scores->dims[0] && boxes->dims[1] == scores->dims[2] && dtype_is_real(boxes->dtype) && dtype_is_real(scores->dtype);
    if (!fits) return call_error(c, err, ST_BAD_INPUT, "boxes and scores do not fit each other");
    double most = number(c, 2, 0);
    int64_t batches = boxes->dims[0], classes = scores->dims[1], n = boxes->dims[1], each = most > 0 ? (most < (double)n ? (int64_t)most : n) : 0, total = 0;
    double *b = arena_calloc(c->run, 4 * (uint64_t)n + (uint64_t)n + 1, sizeof *b);
    int64_t *order = arena_calloc(c->run, 2 * (uint64_t)n + 1, sizeof *order), *rows = arena_calloc(c->run, (uint64_t)batches * (uint64_t)classes + 1, 3 * sizeof *rows * (uint64_t)(each ? each : 1));
    if (!b || !order || !rows) return call_error(c, err, ST_NO_MEMORY, "its boxes pass the memory budget");
    struct picks p = { c, b, b + 4 * n, n, number(c, 3, 0), number(c, 4, -(double)INFINITY), node_int(c->node, "center_point_box", 0) != 0, each };
    for (int64_t k = 0; k < batches * classes && n && each; k++) {
        for (int64_t i = 0; i < 4 * n; i++) b[i] = operand_real(boxes, (uint64_t)(k / classes * 4 * n + i));
        for (int64_t i = 0; i < n; i++) b[4 * n + i] = operand_real(scores, (uint64_t)(k * n + i));
        int64_t stay = pick(&p, order, order + n);
        if (call_stopped(c, err)) return ST_CANCELLED;
        for (int64_t i = 0; i < stay; i++, total++) {
            rows[3 * total] = k / classes;
            rows[3 * total + 1] = k % classes;
            rows[3 * total + 2] = order[n + i];
        }
    }
    enum status st = call_make(c, 0, DT_I64, (int64_t[]){ total, 3 }, 2, err);
    if (!st && total) memcpy(c->out[0]->data, rows, c->out[0]->bytes);
    return st;
}

const struct op ops_boxes[] = {
    { "NonMaxSuppression", "", 10, 0, 2, 5, 1, 1, OP_MAKES, 0, NULL, eval_nms, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
