#include "tests/llm/tiny.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "engine/formats/safetensors.h"
#include "engine/graph/gpu_store.h"
#include "engine/graph/plan_cache.h"
#include "engine/llm/pool.h"
#include "engine/llm/pages.h"
#include "kernels/blocks.h"
#include "tests/test.h"

enum { PAGES = 16, VALUES_MAX = 1 << 16 };

static float from_hex(const char *hex)
{
    union { uint32_t u; float f; } v = { .u = (uint32_t)strtoul(hex, NULL, 16) };
    return v.f;
}

static void read_tensor(struct tiny *t, char *line)
{
    struct tiny_tensor *x = &t->tensors[t->tensor_count++];
    char base[16], amplitude[16];
    int used = 0;
    if (sscanf(line, "%159s %15s %15s%n", x->name, base, amplitude, &used) < 3) return;
    x->base = from_hex(base);
    x->amplitude = from_hex(amplitude);
    for (char *p = line + used, *end; x->rank < 4; p = end) {
        long long d = strtoll(p, &end, 10);
        if (end == p) break;
        x->dims[x->rank++] = d;
    }
}

static bool read_values(struct tiny *t, char *p)
{
    char *end;
    t->rows = (int)strtol(p, &end, 10);
    t->columns = (int)strtol(end, &end, 10);
    if (t->rows < 1 || t->columns < 1 || t->rows * t->columns > VALUES_MAX) return false;
    t->values = malloc((size_t)t->rows * (size_t)t->columns * sizeof *t->values);
    for (int i = 0; t->values && i < t->rows * t->columns; i++) t->values[i] = strtof(end, &end);
    return t->values != NULL;
}

static int read_ids(int32_t *out, const char *p)
{
    char *next;
    int n = 0;
    for (; n < TINY_TOKENS; p = next) {
        long v = strtol(p, &next, 10);
        if (next == p) break;
        out[n++] = (int32_t)v;
    }
    return n;
}

bool tiny_read(struct tiny *t, const char *path)
{
    size_t length;
    *t = (struct tiny){ 0 };
    if (file_read_path(&t->text, &length, path, 1 << 22, NULL)) return false;
    for (char *p = t->text, *end; p && *p; p = end ? end + 1 : NULL) {
        end = strchr(p, '\n');
        if (!strncmp(p, "values ", 7)) return read_values(t, p + 7);
        if (end) *end = 0;
        if (!strncmp(p, "config ", 7)) t->config = p + 7, t->config_length = strlen(p + 7);
        else if (!strncmp(p, "tensor ", 7) && t->tensor_count < TINY_TENSORS) read_tensor(t, p + 7);
        else if (!strncmp(p, "feature ", 8) && t->feature_count < TINY_FEATURES) t->features[t->feature_count++] = p + 8;
        else if (!strncmp(p, "tokens ", 7)) t->token_count = read_ids(t->tokens, p + 7);
        else if (!strncmp(p, "greedy ", 7)) t->greedy_count = read_ids(t->greedy, p + 7);
    }
    return false;
}

void tiny_free(struct tiny *t)
{
    free(t->text);
    free(t->values);
    *t = (struct tiny){ 0 };
}

/* As the tool's `uniform`: FNV-1a of the name, splitmix64 of the index. */
static void fill(float *x, uint64_t count, const char *name, float base, float amplitude)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (const char *p = name; *p; p++) h = (h ^ (unsigned char)*p) * 0x100000001B3u;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t v = h + (i + 1) * 0x9E3779B97F4A7C15u;
        v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9u;
        v = (v ^ v >> 27) * 0x94D049BB133111EBu;
        v ^= v >> 31;
        x[i] = base + amplitude * ((float)(v >> 40) * 0x1p-23f - 1.0f);
    }
}

static void apply_change(const struct tiny_tensor *t, const char *change, float *x, uint64_t count)
{
    const char *colon = change ? strchr(change, ':') : NULL;
    if (!colon || !strstr(t->name, colon + 1)) return;
    float v = change[0] == 'z' ? 0 : change[0] == 'o' ? 1 : -9;
    for (uint64_t i = 0; i < count; i++) x[i] = v;
}

bool tiny_write(const struct tiny *t, const char *folder, const char *change)
{
    struct weight_tensor tensors[TINY_TENSORS];
    float *data[TINY_TENSORS] = { 0 };
    char path[512];
    bool ok = true;
    for (int i = 0; i < t->tensor_count && ok; i++) {
        const struct tiny_tensor *x = &t->tensors[i];
        uint64_t count = 1;
        for (int d = 0; d < x->rank; d++) count *= (uint64_t)x->dims[d];
        data[i] = malloc(count * sizeof(float));
        ok = data[i] != NULL;
        if (!ok) break;
        fill(data[i], count, x->name, x->base, x->amplitude);
        apply_change(x, change, data[i], count);
        tensors[i] = (struct weight_tensor){ .name = x->name, .type = WEIGHT_F32, .rank = x->rank, .data = (const uint8_t *)data[i], .bytes = count * sizeof(float) };
        memcpy(tensors[i].dims, x->dims, sizeof x->dims);
    }
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = ok ? fopen(path, "w") : NULL;
    ok = f && fwrite(t->config, 1, t->config_length, f) == t->config_length;
    if (f) fclose(f);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    int fd = ok ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
    ok = fd >= 0 && safetensors_write(weights_sink_fd(&fd), tensors, t->tensor_count, NULL, 0, NULL) == ST_OK;
    if (fd >= 0) close(fd);
    for (int i = 0; i < t->tensor_count; i++) free(data[i]);
    return ok;
}

static enum status run_piece(const struct graph *g, void *const *data, int n, int pool_bytes, char **workspace, float *out, int *columns, struct err *err)
{
    struct operand shapes[LLM_INPUTS];
    struct plan *p;
    struct arena run;
    for (int k = 0; k < LLM_INPUTS; k++) shapes[k] = (struct operand){ .dtype = DT_I32, .rank = 1, .dims = { n } };
    shapes[LLM_ROWS] = (struct operand){ .dtype = DT_I32, .rank = 2, .dims = { 1, 4 } };
    shapes[LLM_ENCODED] = shapes[LLM_ROWS];
    shapes[LLM_PAGES].dims[0] = PAGES;
    shapes[LLM_KV] = (struct operand){ .dtype = DT_U8, .rank = 1, .dims = { pool_bytes } };
    enum status st = plan_open(&p, g, shapes, (uint64_t)1 << 30, err);
    if (st) return st;
    free(*workspace);
    *workspace = aligned_alloc(64, (plan_workspace(p) + 127) & ~(uint64_t)63);
    arena_init(&run, 1 << 20);
    plan_bind(p, *workspace);
    st = plan_run(p, data, &run, NULL, err);
    const struct operand *o = plan_output(p, g->output_count - 1);
    *columns = (int)o->dims[1];
    if (!st) memcpy(out, o->data, o->bytes);
    arena_free(&run);
    plan_close(p);
    return st;
}

/* The encoder of a pair over the tokens backwards, but for the first five; its pages are the second half. */
static enum status run_encoder(const struct graph *g, void *const *data, const int32_t *tokens, int count, int pool_bytes, char **workspace, struct err *err)
{
    float out[1 << 14];
    int columns, n = count - 5;
    for (int k = 0; k < n; k++) {
        ((int32_t *)data[LLM_TOKENS])[k] = tokens[count - 1 - k];
        ((int32_t *)data[LLM_POSITIONS])[k] = ((int32_t *)data[LLM_WANTED])[k] = k;
    }
    memcpy(data[LLM_ROWS], (int32_t[]){ 0, n, 0, PAGES / 2 }, 4 * sizeof(int32_t));
    return run_piece(g, data, n, pool_bytes, workspace, out, &columns, err);
}

enum status tiny_run_mode(const char *folder, void (*edit)(struct llm_config *c), enum linear_mode mode, const int32_t *tokens, int count, int piece, int threads, int level, float *out, int *columns, struct err *err)
{
    struct llm_model m;
    struct graph g = { 0 }, encoder = { 0 };
    int32_t ids[TINY_TOKENS], positions[TINY_TOKENS], types[TINY_TOKENS] = { 0 }, wanted[TINY_TOKENS], rows[4], encoded[4] = { 0 }, pages[PAGES];
    char *workspace = NULL;
    enum status st = llm_model_open(&m, folder, (uint64_t)1 << 30, err);
    if (st) return st;
    if (edit) edit(&m.config);
    g = (struct graph){ .arena = &m.arena, .memory_max = (uint64_t)1 << 30, .max_rows = 1 };
    device_cpu_open(&g.device, level, threads);
    st = llm_build(&g, &m, &(struct llm_build_options){ .mode = mode, .kv_type = BLOCK_F32, .pages = PAGES }, err);
    bool pair = m.config.decoder_layers > 0;
    if (pair) encoder = (struct graph){ .arena = &m.arena, .memory_max = (uint64_t)1 << 30, .max_rows = 1, .device = g.device };
    if (pair && !st) st = llm_build_encoder(&encoder, &m, &(struct llm_build_options){ .mode = mode, .kv_type = BLOCK_F32, .pages = PAGES }, err);
    int pool_bytes = st ? 0 : (int)(llm_page_bytes(&m.config, BLOCK_F32) * PAGES);
    char *pool = st ? NULL : aligned_alloc(4096, ((size_t)pool_bytes + 4095) & ~(size_t)4095);
    for (int i = 0; i < PAGES; i++) pages[i] = (i * 5 + 3) % PAGES;
    void *data[LLM_INPUTS] = { ids, positions, types, rows, pages, pool, wanted, encoded };
    if (pair && !st) st = run_encoder(&encoder, data, tokens, count, pool_bytes, &workspace, err);
    for (int from = 0; from < count && !st; from += piece) {
        int n = count - from < piece ? count - from : piece;
        for (int k = 0; k < n; k++) ids[k] = tokens[from + k], positions[k] = from + k, wanted[k] = k;
        memcpy(rows, (int32_t[]){ 0, n, from, 0 }, sizeof rows);
        memcpy(encoded, (int32_t[]){ 0, n, count - 5, PAGES / 2 }, sizeof encoded);
        st = run_piece(&g, data, n, pool_bytes, &workspace, out + from * (*columns), columns, err);
    }
    free(pool);
    free(workspace);
    graph_close(&g);
    if (pair) graph_close(&encoder);
    llm_model_close(&m);
    return st;
}

enum status tiny_run_card(const char *path, const struct device_gpu *gpu, enum linear_mode mode, int kv_type, const int32_t *tokens, int count, int piece, float *out, int *columns, struct err *err)
{
    struct llm_model m;
    struct plan_cache plans = { .budget = (uint64_t)1 << 30 };
    struct pool pool = { 0 };
    struct arena run;
    int32_t ids[TINY_TOKENS], positions[TINY_TOKENS], types[TINY_TOKENS] = { 0 }, wanted[TINY_TOKENS], rows[4], encoded[4] = { 0 }, pages[PAGES];
    enum status st = llm_model_open(&m, path, (uint64_t)1 << 30, err);
    if (st) return st;
    struct graph g = { .arena = &m.arena, .memory_max = (uint64_t)1 << 30, .max_rows = 1 };
    device_cpu_open(&g.device, CPU_AMX, 1);
    g.device.gpu = gpu;
    arena_init(&run, 1 << 20);
    st = gpu_store_open(&g.gpu, gpu->api, gpu->gpu, GPU_F32, err);
    if (!st) st = llm_build(&g, &m, &(struct llm_build_options){ .mode = mode, .kv_type = kv_type, .pages = PAGES }, err);
    if (!st) st = pool_open(&pool, gpu, PAGES, llm_planes(&m.config), llm_page_bytes(&m.config, kv_type), err);
    plans.site.state = pool.at;
    for (int i = 0; i < PAGES; i++) pages[i] = (i * 5 + 3) % PAGES;
    void *data[LLM_INPUTS] = { ids, positions, types, rows, pages, NULL, wanted, encoded };
    for (int from = 0; from < count && !st; from += piece) {
        struct operand shapes[LLM_INPUTS];
        struct plan *p;
        int n = count - from < piece ? count - from : piece;
        for (int k = 0; k < n; k++) ids[k] = tokens[from + k], positions[k] = from + k, wanted[k] = k;
        memcpy(rows, (int32_t[]){ 0, n, from, 0 }, sizeof rows);
        for (int k = 0; k < LLM_INPUTS; k++) shapes[k] = (struct operand){ .dtype = DT_I32, .rank = 1, .dims = { n } };
        shapes[LLM_ROWS] = shapes[LLM_ENCODED] = (struct operand){ .dtype = DT_I32, .rank = 2, .dims = { 1, 4 } };
        shapes[LLM_PAGES].dims[0] = PAGES;
        shapes[LLM_KV] = (struct operand){ .dtype = DT_U8, .rank = 1, .dims = { (int64_t)pool.bytes } };
        st = plan_cache_get(&plans, &g, shapes, &p, err);
        if (!st) st = plan_run(p, data, &run, NULL, err);
        if (st) break;
        const struct operand *o = plan_output(p, g.output_count - 1);
        *columns = (int)o->dims[1];
        memcpy(out + from * (*columns), o->data, o->bytes);
    }
    plan_cache_close(&plans);
    pool_close(&pool);
    graph_close(&g);
    arena_free(&run);
    llm_model_close(&m);
    return st;
}

enum status tiny_run(const char *folder, void (*edit)(struct llm_config *c), const int32_t *tokens, int count, int piece, int threads, int level, float *out, int *columns, struct err *err)
{
    return tiny_run_mode(folder, edit, LINEAR_F32, tokens, count, piece, threads, level, out, columns, err);
}

double tiny_farthest(const float *a, const float *b, int n)
{
    double worst = 0;
    for (int i = 0; i < n; i++) worst = test_worse(worst, fabs((double)a[i] - (double)b[i]));
    return worst;
}
