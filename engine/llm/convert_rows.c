/* The numbers of each item: rows are taken from the source in the order the target wants, changed if need be, encoded and passed on, some
 * megabytes at a time. Rows of the target's own type that need no change are copied as they are. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/llm/convert_internal.h"
#include "kernels/blocks.h"
#include "kernels/kernels.h"

enum { PIECE_NUMBERS = 1 << 20, ROW_MAX_BITS = 30 };

struct piece {
    const struct convert_item *item;
    const struct llm_weight   *source;
    const struct block_format *from, *to;
    int64_t  start, rows;              /* of the target */
    float   *numbers;                  /* [rows, k] */
    uint8_t *bytes;                    /* [rows, target row] */
};

uint64_t convert_item_bytes(const struct convert_item *it)
{
    uint64_t bytes = 0;
    return weight_tensor_bytes(it->type, it->dims, it->rank, &bytes, NULL) ? 0 : bytes;
}

/* The source's row for row r of the target. */
static int64_t row_of(const struct convert_item *it, int64_t r)
{
    if (it->heads) {
        int64_t heads = it->heads > 0 ? it->heads : -it->heads, head = it->rows / heads, half = head / 2, in = r % head;
        r += (it->heads > 0 ? in % 2 * half + in / 2 : in % half * 2 + in / half) - in;
    }
    return it->first + r * it->step;
}

static void encode_rows(void *ctx, int part, int parts)
{
    struct piece *p = ctx;
    const struct convert_item *it = p->item;
    const struct llm_weight *w = p->source;
    const int64_t k = w->k, row = k / p->to->elements * p->to->bytes;
    for (int64_t r = p->rows * part / parts; r < p->rows * (part + 1) / parts; r++) {
        const uint8_t *from = (const uint8_t *)w->data + row_of(it, p->start + r) * w->row_bytes;
        uint8_t *to = p->bytes + r * row;
        if (p->from == p->to && it->plus == 0) {
            memcpy(to, from, (size_t)row);
            continue;
        }
        float *x = p->numbers + r * k;
        p->from->decode(x, from, k);
        for (int64_t i = 0; i < k && it->plus != 0; i++) x[i] += it->plus;
        p->to->encode(to, x, k);
    }
}

/* A tensor of a file as rows; vectors as rows of one number where rows are chosen. */
static enum status source_of(const struct convert_plan *p, const struct convert_item *it, int expert, struct llm_weight *w, struct err *err)
{
    if (it->tensor || it->given) {
        int64_t k = it->dims[it->rank - 1];
        int type = it->tensor ? it->tensor->type : WEIGHT_F32;
        const struct block_format *f = block_format(type);
        if (!f || k % f->elements) return err_set(err, ST_UNSUPPORTED, "tensor '%s' is of the type %s, which is not converted", it->name, weight_type_name(type));
        *w = (struct llm_weight){ .type = type, .n = it->rows, .k = k, .row_bytes = k / f->elements * f->bytes, .data = it->tensor ? (const void *)it->tensor->data : (const void *)it->given };
        return ST_OK;
    }
    enum status st = llm_weight_find(p->model, it->role, it->bias, it->layer, expert, 0, 0, w, err);
    if (st) return st;
    if (!w->data) return err_set(err, ST_BAD_INPUT, "the source of tensor '%s' is missing for expert %d", it->name, expert);
    if (w->n == 1 && it->rows > 1) {
        const struct block_format *f = block_format(w->type);
        if (f->elements != 1) return err_set(err, ST_UNSUPPORTED, "the source of vector '%s' is of the type %s", it->name, f->name);
        *w = (struct llm_weight){ .type = w->type, .n = w->k, .k = 1, .row_bytes = f->bytes, .data = w->data };
    }
    if (row_of(it, it->rows - 1) >= w->n || (it->rows - 1) * it->step + it->first >= w->n) return err_set(err, ST_BAD_INPUT, "the source of tensor '%s' has %lld rows", it->name, (long long)w->n);
    return ST_OK;
}

/* [rows, k] of a plain type -> [k, rows], whole: only the weights of small old families are stored so. */
static enum status write_turned(const struct convert_item *it, const struct llm_weight *w, struct convert_sink sink, struct err *err)
{
    const struct block_format *from = block_format(w->type), *to = block_format(it->type);
    float *x = mem_alloc_array((uint64_t)w->k, sizeof *x), *line = mem_alloc_array((uint64_t)it->rows, sizeof *line);
    uint8_t *bytes = mem_alloc_array((uint64_t)it->rows, (uint64_t)to->bytes);
    enum status st = x && line && bytes && from->elements == 1 && to->elements == 1 ? ST_OK : err_set(err, ST_NO_MEMORY, "turning tensor '%s'", it->name);
    for (int64_t k = 0; k < w->k && !st; k++) {
        for (int64_t r = 0; r < it->rows; r++) from->decode(line + r, (const uint8_t *)w->data + row_of(it, r) * w->row_bytes + k * from->bytes, 1);
        to->encode(bytes, line, it->rows);
        st = sink.write(sink.ctx, bytes, (uint64_t)it->rows * (uint64_t)to->bytes, err);
    }
    free(x);
    free(line);
    free(bytes);
    return st;
}

struct run { const struct convert_options *o; struct convert_sink sink; uint64_t done, total; };

static enum status write_rows(struct run *run, const struct convert_item *it, const struct llm_weight *w, struct err *err)
{
    struct piece p = { .item = it, .source = w, .from = block_format(w->type), .to = block_format(it->type) };
    if (it->turn) return write_turned(it, w, run->sink, err);
    if (!p.from || !p.to || (p.from != p.to && !p.to->encode) || w->k % p.to->elements) return err_set(err, ST_UNSUPPORTED, "tensor '%s': rows of %lld numbers cannot be written as %s", it->name, (long long)w->k, weight_type_name(it->type));
    int64_t row = w->k / p.to->elements * p.to->bytes, at_once = w->k > PIECE_NUMBERS ? 1 : PIECE_NUMBERS / w->k;
    if (at_once > it->rows) at_once = it->rows;
    uint64_t count, bytes;
    if (!size_mul((uint64_t)at_once, (uint64_t)w->k, &count) || !size_mul((uint64_t)at_once, (uint64_t)row, &bytes) || count >> ROW_MAX_BITS) return err_set(err, ST_TOO_LARGE, "tensor '%s': rows of %lld numbers", it->name, (long long)w->k);
    p.numbers = mem_alloc_array(count, sizeof *p.numbers);
    p.bytes = mem_alloc_array(bytes, 1);
    enum status st = p.numbers && p.bytes ? ST_OK : err_set(err, ST_NO_MEMORY, "a piece of tensor '%s'", it->name);
    for (; p.start < it->rows && !st; p.start += p.rows) {
        p.rows = it->rows - p.start < at_once ? it->rows - p.start : at_once;
        parallel_for(run->o->threads, p.rows < run->o->threads ? (int)p.rows : run->o->threads, encode_rows, &p);
        st = run->sink.write(run->sink.ctx, p.bytes, (uint64_t)p.rows * (uint64_t)row, err);
        run->done += (uint64_t)p.rows * (uint64_t)row;
        if (run->o->progress) run->o->progress(run->o->ctx, run->done, run->total, it->name);
    }
    free(p.numbers);
    free(p.bytes);
    return st;
}

/* Pages of the mapped source that were read and are not needed again. */
static void let_go(const struct llm_weight *w)
{
    file_let_go(w->data, (uint64_t)w->n * (uint64_t)w->row_bytes);
}

enum status convert_write_items(const struct convert_plan *p, const struct convert_options *o, struct convert_sink sink, struct err *err)
{
    struct run run = { .o = o, .sink = sink };
    enum status st = ST_OK;
    for (int i = 0; i < p->count; i++) run.total += convert_item_bytes(&p->items[i]);
    for (int i = 0; i < p->count && !st; i++) {
        const struct convert_item *it = &p->items[i];
        for (int e = 0; e < it->experts && !st; e++) {
            struct llm_weight w;
            struct arena keep;
            if (p->model) keep = p->model->arena;         /* what finding a weight rearranges lives for this one only */
            if (p->model) arena_init(&p->model->arena, p->model->memory_max);
            st = source_of(p, it, it->expert < 0 ? -1 : it->expert + e, &w, err);
            if (!st) st = write_rows(&run, it, &w, err);
            if (!st && (it->tensor || (p->model && !it->given && p->model->arena.used == 0))) let_go(&w);      /* nothing was rearranged: w lies in the file */
            if (p->model) arena_free(&p->model->arena);
            if (p->model) p->model->arena = keep;
        }
    }
    return st;
}
