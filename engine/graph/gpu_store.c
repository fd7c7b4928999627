#include "engine/graph/gpu_store.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/blocks.h"
#include "kernels/half.h"

enum status gpu_store_open(struct gpu_store **out, const struct gpu_api *api, struct gpu *g, int float_type, struct err *err)
{
    struct gpu_store *s = mem_calloc_array(1, sizeof *s);
    if (!s) return err_set(err, ST_NO_MEMORY, "the table of constants on the device");
    s->api = api;
    s->gpu = g;
    s->float_type = float_type;
    enum status st = api->queue_open(g, &s->queue, err);
    if (st) {
        free(s);
        return st;
    }
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return ST_OK;
}

void gpu_store_close(struct gpu_store *s)
{
    if (!s) return;
    for (int i = 0; i < s->count; i++) s->api->free(s->gpu, s->items[i].at);
    s->api->queue_close(s->queue);
    pthread_mutex_destroy(&s->lock);
    free(s->items);
    free(s);
}

/* Under the lock. Models have some hundreds of constants, looked up once for each plan. */
static void *find(const struct gpu_store *s, const void *key, int slot)
{
    for (int i = 0; i < s->count; i++)
        if (s->items[i].key == key && s->items[i].slot == slot) return s->items[i].at;
    return NULL;
}

void *gpu_store_find(struct gpu_store *s, const void *key, int slot)
{
    pthread_mutex_lock(&s->lock);
    void *at = find(s, key, slot);
    pthread_mutex_unlock(&s->lock);
    return at;
}

/* Floats as the device wants them, in memory of the caller's. */
static void convert(void *to, const float *from, uint64_t count, int type)
{
    uint16_t *h = to;
    for (uint64_t i = 0; i < count; i++) h[i] = type == GPU_F16 ? f32_to_f16(from[i]) : f32_to_bf16_one(from[i]);
}

static enum status upload(struct gpu_store *s, void *at, const void *data, uint64_t count, uint64_t bytes, bool convertible, int type, struct err *err)
{
    void *made = NULL;
    if (convertible) {
        if (!(made = mem_alloc_array(count ? count : 1, sizeof(uint16_t)))) return err_set(err, ST_NO_MEMORY, "converting a constant of %llu bytes", (unsigned long long)bytes);
        convert(made, data, count, type);
        data = made;
    }
    enum status st = bytes ? s->api->put(s->queue, at, data, bytes, err) : ST_OK;
    if (!st) st = s->api->wait(s->queue, err);
    free(made);
    return st;
}

/* Under the lock: memory that the store owns. Its entry is the last one. */
static enum status add(struct gpu_store *s, const void *key, int slot, uint64_t bytes, void **at, struct err *err)
{
    if (s->count == s->room) {
        const int room = s->room ? 2 * s->room : 64;
        void *more = mem_realloc_array(s->items, (uint64_t)room, sizeof *s->items);
        if (!more) return err_set(err, ST_NO_MEMORY, "the table of constants on the device");
        s->items = more;
        s->room = room;
    }
    enum status st = s->api->alloc(s->gpu, bytes ? bytes : 1, at, err);
    if (!st) s->items[s->count++] = (struct gpu_constant){ key, slot, *at };
    return st;
}

enum status gpu_store_put(struct gpu_store *s, const void *key, int slot, const void *data, uint64_t count, bool floats, int type, void **out, struct err *err)
{
    const uint64_t bytes = count * (uint64_t)gpu_type_bytes(type);
    enum status st = ST_OK;
    pthread_mutex_lock(&s->lock);
    void *at = find(s, key, slot);
    if (!at && !(st = add(s, key, slot, bytes, &at, err)) && (st = upload(s, at, data, count, bytes, floats && type != GPU_F32, type, err))) {
        s->count--;
        s->api->free(s->gpu, at);
    }
    pthread_mutex_unlock(&s->lock);
    if (!st) *out = at;
    return st;
}

enum status gpu_store_copy(struct gpu_store *s, const void *data, uint64_t count, bool floats, int type, void **out, struct err *err)
{
    const uint64_t bytes = count * (uint64_t)gpu_type_bytes(type);
    void *at;
    pthread_mutex_lock(&s->lock);
    enum status st = s->api->alloc(s->gpu, bytes ? bytes : 1, &at, err);
    if (!st && (st = upload(s, at, data, count, bytes, floats && type != GPU_F32, type, err))) s->api->free(s->gpu, at);
    pthread_mutex_unlock(&s->lock);
    if (!st) *out = at;
    return st;
}

enum status gpu_store_take(struct gpu_store *s, const void *key, int slot, uint64_t bytes, void **out, struct err *err)
{
    pthread_mutex_lock(&s->lock);
    enum status st = add(s, key, slot, bytes, out, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* ---- matrices ---- */
enum { PIECE = 32 << 20 /* bytes of a file that go over at once */, UNIT = 2 /* bytes that are moved together: every field of a block divides by it */ };

struct gpu_matrix gpu_matrix_of(int type, int64_t n, int64_t k)
{
    const int block = gpu_block_is_native(type) ? type : type == BLOCK_MXFP4 ? BLOCK_BF16 : BLOCK_F16;
    const struct block_format *f = block_format(block);
    int64_t numbers = k;
    if (gpu_block_is_plain(block)) numbers = (k + GPU_CHUNK - 1) / GPU_CHUNK * GPU_CHUNK;
    return (struct gpu_matrix){ .block = block, .n = n, .k = k, .row_bytes = (numbers / f->elements * f->bytes + 15) / 16 * 16 };
}

static enum status run_task(struct gpu_store *s, struct gpu_task *t, struct err *err)
{
    enum status st = s->api->prepare(s->gpu, t, err);
    if (st) return st;
    st = s->api->run(s->queue, t, 1, err);
    s->api->release(s->gpu, t);
    return st;
}

/* Field by field from rows of the file's blocks at `staging` to their places. */
static enum status take_apart(struct gpu_store *s, const struct gpu_matrix *w, char *staging, int64_t staged_row, int64_t rows, char *at, struct err *err)
{
    const struct block_format *f = block_format(w->block);
    struct gpu_field fields[GPU_FIELDS];
    int count = gpu_block_fields(w->block, fields);
    int64_t blocks = w->k / f->elements, bytes = f->bytes, to = 0;
    enum status st = ST_OK;
    if (!count) {                        /* plain numbers: one field is the row */
        fields[count++] = (struct gpu_field){ 0, f->bytes };
        blocks = w->k;
    }
    for (int i = 0; i < count && !st; i++) {
        const int64_t dims[] = { rows, blocks, fields[i].bytes / UNIT }, from_steps[] = { staged_row / UNIT, bytes / UNIT, 1 }, to_steps[] = { w->row_bytes / UNIT, fields[i].bytes / UNIT, 1 };
        struct gpu_task t;
        memset(&t, 0, sizeof t);
        t.kind = GPU_MOVE;
        t.operands = 2;
        t.type[0] = t.type[1] = GPU_U8;
        t.at[0] = staging;
        t.at[1] = at;
        t.u.move = (struct gpu_move){ .rank = 3, .size = UNIT, .count = dims[0] * dims[1] * dims[2], .from = fields[i].from / UNIT, .to = to / UNIT };
        memcpy(t.u.move.dims, dims, sizeof dims);
        memcpy(t.u.move.x_steps, from_steps, sizeof from_steps);
        memcpy(t.u.move.y_steps, to_steps, sizeof to_steps);
        st = run_task(s, &t, err);
        to += blocks * fields[i].bytes;
    }
    return st;
}

static void decode_rows(const struct gpu_rows *r, const struct gpu_matrix *w, int64_t first, int64_t rows, float *numbers, uint16_t *out)
{
    const struct block_format *f = block_format(r->type);
    for (int64_t i = 0; i < rows; i++) {
        f->decode(numbers, (const char *)r->data + (first + i) * r->row_bytes, r->k);
        convert(out + i * r->k, numbers, (uint64_t)r->k, w->block == BLOCK_F16 ? GPU_F16 : GPU_BF16);
    }
}

static enum status copy_rows(struct gpu_store *s, const struct gpu_rows *r, const struct gpu_matrix *w, char *at, struct err *err)
{
    const bool made = w->block != r->type, padded = w->row_bytes != (made ? 2 * r->k : r->row_bytes);
    const int64_t staged = made ? 2 * r->k : r->row_bytes, most = PIECE / staged < 1 ? 1 : PIECE / staged < r->n ? PIECE / staged : r->n;
    struct gpu_field unused[GPU_FIELDS];
    void *staging = NULL;
    uint16_t *halves = NULL;
    float *numbers = NULL;
    enum status st = ST_OK;
    if (!made && !padded && gpu_block_fields(w->block, unused) < 2) {       /* as the file has it */
        st = s->api->put(s->queue, at, r->data, (uint64_t)(r->n * r->row_bytes), err);
        return st ? st : s->api->wait(s->queue, err);
    }
    if (made && (!(halves = mem_alloc_array((uint64_t)most, (uint64_t)staged)) || !(numbers = mem_alloc_array((uint64_t)r->k, sizeof *numbers)))) st = err_set(err, ST_NO_MEMORY, "decoding a matrix for the device");
    if (!st) st = s->api->alloc(s->gpu, (uint64_t)(most * staged), &staging, err);
    if (!st && padded && gpu_block_is_plain(w->block)) {
        struct gpu_task t;
        memset(&t, 0, sizeof t);
        t.kind = GPU_FILL;
        t.operands = 1;
        t.type[0] = GPU_U8;
        t.at[0] = at;
        t.u.fill = (struct gpu_fill){ .size = UNIT, .count = w->n * w->row_bytes / UNIT };
        st = run_task(s, &t, err);
    }
    for (int64_t i = 0; i < r->n && !st; i += most) {
        const int64_t rows = r->n - i < most ? r->n - i : most;
        if (made) decode_rows(r, w, i, rows, numbers, halves);
        st = s->api->put(s->queue, staging, made ? (const char *)halves : (const char *)r->data + i * r->row_bytes, (uint64_t)(rows * staged), err);
        if (!st) st = take_apart(s, w, staging, staged, rows, at + i * w->row_bytes, err);
        if (!st) st = s->api->wait(s->queue, err);
    }
    struct err late;
    if (st) (void)s->api->wait(s->queue, &late);        /* nothing may still read what is given back */
    s->api->free(s->gpu, staging);
    free(halves);
    free(numbers);
    return st;
}

enum status gpu_store_rows(struct gpu_store *s, const struct gpu_rows *r, const struct gpu_matrix *w, void *at, struct err *err)
{
    pthread_mutex_lock(&s->lock);
    enum status st = copy_rows(s, r, w, at, err);
    pthread_mutex_unlock(&s->lock);
    return st;
}
