/* A mixture of experts: every token goes to the few experts its router likes best. Tokens are sorted by expert, so that an expert's weights are
 * read once for all of them; a token's results are added in the order of its own ranking, whoever else went to the same experts. */
#include <math.h>
#include <string.h>

#include "engine/operators/llm.h"

/* Per call, in scratch. */
struct experts_work {
    int32_t *chosen;       /* [T, used] */
    float   *weight;       /* [T, used] */
    int32_t *list;         /* [T * used]: token * used + rank, sorted by expert */
    int32_t *start;        /* [experts + 1] */
    float   *gathered;     /* [T, width] of one expert */
    float   *gate, *up;    /* [T, ffn] */
    float   *result;       /* [T * used, width] by token and rank */
    void    *linear;
};

static uint64_t lay_out(struct experts_work *w, const struct call *c, char *base)
{
    const struct experts_spec *s = c->node->spec;
    uint64_t t = (uint64_t)c->in[0]->dims[0], used = (uint64_t)s->used, at = 0, linear = 0;
    uint64_t sizes[] = { t * used * 4, t * used * 4, t * used * 4, ((uint64_t)s->experts + 1) * 4, t * (uint64_t)s->width * 4, t * (uint64_t)s->ffn * 8, t * (uint64_t)s->ffn * 4, t * used * (uint64_t)s->width * 4 };
    void **places[] = { (void **)&w->chosen, (void **)&w->weight, (void **)&w->list, (void **)&w->start, (void **)&w->gathered, (void **)&w->gate, (void **)&w->up, (void **)&w->result };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (base) *places[i] = base + at;
        at += (sizes[i] + 63) & ~(uint64_t)63;
    }
    for (int e = 0; e < s->experts; e++) {
        const struct linear_layer *layers[] = { s->layers[e].gate, s->layers[e].up, s->layers[e].down };
        for (int i = 0; i < 3; i++) {
            uint64_t need = layers[i] ? linear_scratch(layers[i], (int64_t)t, c->threads) : 0;
            if (need > linear) linear = need;
        }
    }
    if (base) w->linear = base + at;
    return at + linear;
}

static uint64_t scratch_experts(const struct call *c)
{
    const struct experts_spec *s = c->node->spec;
    struct experts_work w;
    return s->layers ? lay_out(&w, c, NULL) : 0;
}

/* The `used` largest logits of a token, the largest first (the lower index first among equals), and their weights. */
static void route(const struct experts_spec *s, const float *logits, int32_t *chosen, float *weight)
{
    float top = logits[0], all = 0, some = 0;
    for (int e = 1; e < s->experts; e++) top = logits[e] > top ? logits[e] : top;
    for (int e = 0; e < s->experts; e++) all += expf(logits[e] - top);
    for (int u = 0; u < s->used; u++) {
        int best = -1;
        for (int e = 0; e < s->experts; e++) {
            bool taken = false;
            for (int i = 0; i < u; i++) taken = taken || chosen[i] == e;
            if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
        }
        chosen[u] = best;
        weight[u] = expf(logits[best] - top);
        some += weight[u];
    }
    float sum = s->softmax_later || s->renormalise ? some : all;
    for (int u = 0; u < s->used; u++) weight[u] /= sum;
}

static void sort_by_expert(const struct experts_spec *s, struct experts_work *w, int64_t t)
{
    int64_t n = t * s->used;
    memset(w->start, 0, ((size_t)s->experts + 1) * sizeof *w->start);
    for (int64_t i = 0; i < n; i++) w->start[w->chosen[i] + 1]++;
    for (int e = 0; e < s->experts; e++) w->start[e + 1] += w->start[e];
    for (int64_t i = 0; i < n; i++) w->list[w->start[w->chosen[i]]++] = (int32_t)i;
    for (int e = s->experts; e > 0; e--) w->start[e] = w->start[e - 1];
    w->start[0] = 0;
}

static void run_expert(const struct call *c, struct experts_work *w, int e)
{
    const struct experts_spec *s = c->node->spec;
    const struct expert_layers *l = &s->layers[e];
    const int32_t *list = w->list + w->start[e];
    int64_t n = w->start[e + 1] - w->start[e];
    if (n == 0) return;
    size_t row = (size_t)s->width * sizeof(float);
    for (int64_t i = 0; i < n; i++) memcpy(w->gathered + i * s->width, (const float *)c->in[0]->data + list[i] / s->used * s->width, row);
    const struct gemm_epilogue gate = { .bias = l->gate_bias }, up = { .bias = l->up_bias }, down = { .bias = l->down_bias };
    const struct linear_part parts[] = { { l->gate, w->gate, s->ffn * (l->up ? 1 : 2), &gate }, { l->up, w->up, s->ffn, &up } };
    linear_run_parts(parts, l->up ? 2 : 1, w->gathered, s->width, n, w->linear, c->threads);
    if (l->up) {
        c->llm->gate_f32(w->gate, s->ffn, w->gate, s->ffn, w->up, s->ffn, n, s->ffn, s->gate.kind, s->gate.limit, c->threads);
    } else {
        c->llm->gate_f32(w->up, s->ffn, w->gate, 2 * s->ffn, w->gate + s->ffn, 2 * s->ffn, n, s->ffn, s->gate.kind, s->gate.limit, c->threads);
    }
    linear_run(l->down, w->gathered, s->width, l->up ? w->gate : w->up, s->ffn, n, &down, w->linear, c->threads);
    for (int64_t i = 0; i < n; i++) memcpy(w->result + list[i] * s->width, w->gathered + i * s->width, row);
}

static enum status infer_experts(struct call *c, struct err *err)
{
    const struct experts_spec *s = c->node->spec;
    return call_set(c, 0, DT_F32, (int64_t[]){ c->in[0]->dims[0], s->width }, 2, err);
}

static enum status eval_experts(struct call *c, struct err *err)
{
    const struct experts_spec *s = c->node->spec;
    struct experts_work w;
    int64_t t = c->in[0]->dims[0];
    (void)err;
    lay_out(&w, c, c->scratch);
    for (int64_t i = 0; i < t; i++) route(s, (const float *)c->in[1]->data + i * s->experts, w.chosen + i * s->used, w.weight + i * s->used);
    sort_by_expert(s, &w, t);
    for (int e = 0; e < s->experts; e++) run_expert(c, &w, e);
    for (int64_t i = 0; i < t; i++) {
        float *y = (float *)c->out[0]->data + i * s->width;
        for (int u = 0; u < s->used; u++) {
            const float *x = w.result + (i * s->used + u) * s->width, f = w.weight[i * s->used + u];
            for (int64_t k = 0; k < s->width; k++) y[k] = u ? y[k] + f * x[k] : f * x[k];
        }
    }
    return ST_OK;
}

const struct op op_experts = { "Experts", "inferd", 1, 0, 2, 2, 1, 1, 0, 0, infer_experts, eval_experts, scratch_experts, NULL, NULL, NULL, tasks_experts };
