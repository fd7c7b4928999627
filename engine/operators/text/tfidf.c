/* TfIdfVectorizer: how often each n-gram of a pool stands in a row, with up to max_skip_count items between its members. The pool is sorted once for each plan. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

struct gram { int64_t at; int length; int64_t index; };      /* where it begins in the pool; its place in the result */
struct pool { const int64_t *numbers; const struct string_ref *texts; struct gram *grams; int64_t count; };

static int compare_items(const struct pool *p, int64_t a, int64_t number, const struct string_ref *text)
{
    if (p->numbers) return p->numbers[a] < number ? -1 : p->numbers[a] > number;
    const struct string_ref *s = &p->texts[a];
    size_t n = s->length < text->length ? s->length : text->length;
    int d = n ? memcmp(s->text, text->text, n) : 0;
    return d ? d : s->length < text->length ? -1 : s->length > text->length;
}

static int compare_grams(const void *a, const void *b, void *ctx)
{
    const struct gram *x = a, *y = b;
    const struct pool *p = ctx;
    if (x->length != y->length) return x->length - y->length;
    for (int i = 0; i < x->length; i++) {
        int d = compare_items(p, x->at + i, p->numbers ? p->numbers[y->at + i] : 0, p->texts ? &p->texts[y->at + i] : NULL);
        if (d) return d;
    }
    return 0;
}

static const struct onnx_attribute *list(const struct call *c, const char *name, enum onnx_attribute_type t)
{
    const struct onnx_attribute *a = node_attribute(c->node, name);
    return a && a->type == t ? a : NULL;
}

static enum status prepare_tfidf(struct call *c, struct err *err)
{
    const struct onnx_attribute *counts = list(c, "ngram_counts", ONNX_INTS), *numbers = list(c, "pool_int64s", ONNX_INTS), *texts = list(c, "pool_strings", ONNX_STRINGS), *indexes = list(c, "ngram_indexes", ONNX_INTS);
    struct pool *p = mem_calloc_array(1, sizeof *p);
    if (!p || !(p->grams = mem_calloc_array((uint64_t)indexes->count + 1, sizeof *p->grams))) {
        free(p);
        return call_error(c, err, ST_NO_MEMORY, "its pool passes the memory budget");
    }
    c->state = p;
    p->numbers = numbers ? numbers->ints : NULL;
    p->texts = numbers ? NULL : texts->strings;
    int64_t total = numbers ? numbers->count : texts->count;
    for (int g = 0; g < counts->count; g++) {
        int64_t from = counts->ints[g], to = g + 1 < counts->count ? counts->ints[g + 1] : total;
        if (from < 0 || to > total || from > to || (to - from) % (g + 1)) return call_error(c, err, ST_BAD_INPUT, "ngram_counts does not fit its pool");
        for (; from < to; from += g + 1) {
            if (p->count == indexes->count) return call_error(c, err, ST_BAD_INPUT, "its pool has more n-grams than ngram_indexes");
            p->grams[p->count] = (struct gram){ from, g + 1, indexes->ints[p->count] };
            p->count++;
        }
    }
    qsort_r(p->grams, (size_t)p->count, sizeof *p->grams, compare_grams, p);
    return ST_OK;
}

static void release_tfidf(void *state)
{
    struct pool *p = state;
    free(p->grams);
    free(p);
}

static enum status infer_tfidf(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    const struct onnx_attribute *indexes = list(c, "ngram_indexes", ONNX_INTS), *weights = list(c, "weights", ONNX_FLOATS);
    bool texts = x->dtype == DT_STRING;
    int64_t most = -1;
    if (!list(c, "ngram_counts", ONNX_INTS) || !indexes || !list(c, texts ? "pool_strings" : "pool_int64s", texts ? ONNX_STRINGS : ONNX_INTS) || x->rank < 1 || x->rank > 2 || (!texts && x->dtype != DT_I64 && x->dtype != DT_I32))
        return call_error(c, err, ST_BAD_INPUT, "its input or its pool are missing or do not fit");
    if (texts && list(c, "pool_int64s", ONNX_INTS)) return call_error(c, err, ST_BAD_INPUT, "its input holds strings, its pool integers");
    for (int i = 0; i < indexes->count; i++) {
        if (indexes->ints[i] < 0 || indexes->ints[i] > INT32_MAX) return call_error(c, err, ST_BAD_INPUT, "an index is %lld", (long long)indexes->ints[i]);
        most = indexes->ints[i] > most ? indexes->ints[i] : most;
    }
    if (weights && weights->count != indexes->count) return call_error(c, err, ST_BAD_INPUT, "it has %d weights for %d n-grams", weights->count, indexes->count);
    int64_t dims[2] = { x->dims[0], most + 1 };
    return x->rank == 2 ? call_set(c, 0, DT_F32, dims, 2, err) : call_set(c, 0, DT_F32, dims + 1, 1, err);
}

/* The pool's n-gram that begins at `at` of the row and goes on every `step` items; -1: none. */
static int64_t find_gram(const struct pool *p, const struct operand *x, int64_t at, int64_t step, int length)
{
    int64_t low = 0, high = p->count - 1;
    while (low <= high) {
        int64_t middle = (low + high) / 2;
        const struct gram *g = &p->grams[middle];
        int d = g->length - length;
        for (int i = 0; i < length && d == 0; i++) d = compare_items(p, g->at + i, p->numbers ? operand_int(x, (uint64_t)(at + i * step)) : 0, p->texts ? (const struct string_ref *)x->data + at + i * step : NULL);
        if (d == 0) return middle;
        if (d < 0) low = middle + 1;
        else high = middle - 1;
    }
    return -1;
}

static enum status eval_tfidf(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    const struct pool *p = c->state;
    const struct onnx_attribute *weights = list(c, "weights", ONNX_FLOATS);
    int64_t n = x->dims[x->rank - 1], rows = x->rank == 2 ? x->dims[0] : 1, width = c->out[0]->dims[c->out[0]->rank - 1], skips = node_int(c->node, "max_skip_count", 0), shortest = node_int(c->node, "min_gram_length", 1), longest = node_int(c->node, "max_gram_length", 1);
    bool count = node_text_is(c->node, "mode", "TF", false) || node_text_is(c->node, "mode", "TFIDF", false), weigh = weights && !node_text_is(c->node, "mode", "TF", false);
    float *y = c->out[0]->data;
    (void)err;
    memset(y, 0, c->out[0]->bytes);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t step = 1; step <= skips + 1 && step <= n + 1; step++)
            for (int64_t length = shortest < 1 ? 1 : shortest; length <= longest && length <= n; length++) {
                if (length == 1 && step > 1) continue;
                for (int64_t at = 0; at + (length - 1) * step < n; at++) {
                    int64_t k = find_gram(p, x, row * n + at, step, (int)length);
                    if (k >= 0) y[row * width + p->grams[k].index] += 1;
                }
            }
    for (int64_t i = 0; i < rows * width; i++)
        if (!count && y[i] > 0) y[i] = 1;
    for (int64_t k = 0; k < p->count && weigh; k++) {
        int64_t index = p->grams[k].index;
        for (int64_t row = 0; row < rows && index < weights->count; row++) y[row * width + index] *= weights->floats[index];
    }
    return ST_OK;
}

const struct op ops_tfidf[] = {
    { "TfIdfVectorizer", "", 9, 0, 1, 1, 1, 1, 0, 0, infer_tfidf, eval_tfidf, NULL, prepare_tfidf, release_tfidf, NULL, NULL },
    { 0 }
};
