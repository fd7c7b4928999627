/* The ways from one format to another. Each makes a plan of items, writes the target's head from it, and streams the numbers. */
#include "engine/llm/convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/formats/safetensors.h"
#include "engine/llm/convert_internal.h"
#include "engine/text/tokenizer.h"
#include "kernels/blocks.h"

static const uint64_t memory_max = (uint64_t)64 << 30;       /* of one rearranged weight at a time, and of names */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* ---- writing a plan as GGUF ---- */
static enum status write_gguf_data(void *ctx, const void *bytes, uint64_t n, struct err *err) { return gguf_writer_data(ctx, bytes, n, err); }

static void fill_report(struct convert_report *r, const struct convert_plan *p)
{
    r->tensors = p->count;
    r->kept = p->kept;
    for (int i = 0; i < p->count; i++) r->target_bytes += convert_item_bytes(&p->items[i]);
}

/* The name of the type that holds most of the bytes. */
static const char *main_type(const struct convert_plan *p)
{
    uint64_t bytes[BLOCK_TYPE_END] = { 0 };
    int best = WEIGHT_F32;
    for (int i = 0; i < p->count; i++) {
        int t = p->items[i].type;
        if (t < 0 || t >= BLOCK_TYPE_END) continue;
        bytes[t] += convert_item_bytes(&p->items[i]);
        if (bytes[t] > bytes[best]) best = t;
    }
    return weight_type_name(best);
}

/* general.file_type and what depends on it, then the tensors. */
static enum status write_gguf(struct gguf_writer *w, const struct convert_plan *p, const char *type, const char *target, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    struct convert_target t;
    int file_type = convert_file_type(type);
    bool blocks = false;
    for (int i = 0; i < p->count; i++) {
        const struct convert_item *it = &p->items[i];
        uint32_t elements = 1, bytes;
        blocks |= weight_type_block(it->type, &elements, &bytes) && elements > 1;
        gguf_writer_tensor(w, it->name, it->type, it->dims, it->rank);
    }
    if (file_type >= 0) gguf_writer_u32(w, "general.file_type", (uint32_t)file_type);
    if (blocks) gguf_writer_u32(w, "general.quantization_version", 2);
    enum status st = convert_target_open(&t, target, false, err);
    if (st) return st;
    st = gguf_writer_start(w, weights_sink_fd(&t.fd), err);
    if (!st) st = convert_write_items(p, o, (struct convert_sink){ write_gguf_data, w }, err);
    if (!st) st = gguf_writer_finish(w, err);
    if (!st && p->model) st = llm_weights_all_used(p->model, err);
    fill_report(report, p);
    if (!st) return convert_target_finish(&t, err);
    convert_target_abandon(&t);
    return st;
}

/* ---- a folder as GGUF ---- */
static enum status put_keys(struct gguf_writer *w, const struct convert_plan *p, const struct tokenizer *t, struct err *err)
{
    enum status st = convert_put_config(w, &p->model->config, p->target, err);
    if (!st && t) return convert_put_tokenizer(w, t, p->model->config.vocabulary, err);
    gguf_writer_text(w, "tokenizer.ggml.model", "no_vocab", 8);
    return st;
}

/* Reads the keys again, before anything large is written. */
static enum status check_keys(const struct convert_plan *p, const struct tokenizer *t, struct err *err)
{
    struct gguf_writer *w = NULL;
    struct gguf *g = NULL;
    struct buf bytes = { 0 };
    struct tokenizer *again = NULL;
    struct llm_model m = { 0 };
    enum status st = gguf_writer_open(&w, 0, err);
    if (!st) st = put_keys(w, p, t, err);
    if (!st) st = convert_reopen(w, &p->model->config, &g, &bytes, err);
    arena_init(&m.arena, memory_max);
    if (!st) {
        m.gguf = g;
        m.weights = gguf_weights(g);
        st = llm_config_read_gguf(&m, err);
    }
    if (!st) st = convert_same_config(&p->model->config, &m.config, err);
    if (!st && t) st = tokenizer_open_gguf(&again, g, err);
    if (!st && t) st = convert_same_tokenizer(t, again, "GGUF", err);
    if (again) tokenizer_close(again);
    arena_free(&m.arena);
    gguf_close(g);
    buf_free(&bytes);
    gguf_writer_close(w);
    return st;
}

static void put_type_count(struct gguf_writer *w, const struct convert_plan *p)
{
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, "token_types.weight")) gguf_writer_u32(w, "tokenizer.ggml.token_type_count", p->items[i].rank > 1 ? (uint32_t)p->items[i].dims[0] : 1);
}

static enum status folder_to_gguf(const char *source, const char *target, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    struct llm_model m;
    struct gguf_writer *w = NULL;
    struct tokenizer *t = NULL;
    struct convert_plan p = { .model = &m, .type = o->type };
    enum status st = llm_model_open(&m, source, memory_max, err);
    if (st) return st;
    st = convert_gguf_architecture(&m, &p.target, err);
    if (!st && (st = tokenizer_open_folder(&t, -1, source, err)) == ST_NOT_FOUND) {
        st = ST_OK;
        snprintf(report->note, sizeof report->note, "the folder has no tokenizer; neither has the file");
    }
    if (!st) st = check_keys(&p, t, err);
    if (!st) st = convert_plan_model(&p, err);
    if (!st) st = gguf_writer_open(&w, 0, err);
    if (!st) st = put_keys(w, &p, t, err);
    if (!st) put_type_count(w, &p);
    for (int i = 0; i < m.weights->count; i++) report->source_bytes += m.weights->tensors[i].bytes;
    if (!st) st = write_gguf(w, &p, main_type(&p), target, o, report, err);
    convert_plan_free(&p);
    gguf_writer_close(w);
    if (t) tokenizer_close(t);
    llm_model_close(&m);
    return st;
}

/* ---- GGUF as GGUF ---- */
static bool is_copied(const char *key)
{
    static const char *const own[] = { "general.file_type", "general.alignment", "general.quantization_version", "split.no", "split.count", "split.tensors.count" };
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (!strcmp(key, own[i])) return false;
    return true;
}

static enum status add_tensors(struct convert_plan *p, const struct weight_tensor *tensors, int count, struct convert_report *report, struct err *err)
{
    enum status st = ST_OK;
    for (int i = 0; i < count && !st; i++) {
        st = convert_add_tensor(p, &tensors[i], CONVERT_KEEP, err);
        struct convert_item *it = st ? NULL : &p->items[p->count - 1];
        if (it && p->type != CONVERT_KEEP && convert_is_matrix(it)) it->type = convert_fit_type(p, p->type, it->dims[it->rank - 1]);
        report->source_bytes += tensors[i].bytes;
    }
    return st;
}

/* mix NULL: all matrices become o->type. */
static enum status gguf_to_gguf(const char *source, const char *target, const char *mix, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    struct gguf *g = NULL;
    struct gguf_writer *w = NULL;
    struct convert_plan p = { .type = mix ? CONVERT_KEEP : o->type };
    enum status st = gguf_open(&g, -1, source, err);
    if (st) return st;
    st = add_tensors(&p, gguf_weights(g)->tensors, gguf_weights(g)->count, report, err);
    if (!st && mix) st = convert_mix_types(&p, g, mix, err);
    if (!st) st = gguf_writer_open(&w, 0, err);
    for (int i = 0; i < gguf_key_count(g) && !st; i++)
        if (is_copied(gguf_key_at(g, i)->name)) gguf_writer_copy(w, gguf_key_at(g, i));
    if (!st) st = write_gguf(w, &p, mix ? mix : main_type(&p), target, o, report, err);
    convert_plan_free(&p);
    gguf_writer_close(w);
    gguf_close(g);
    return st;
}

enum status convert_quantize(const char *source, const char *target, const char *mix, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    *report = (struct convert_report){ 0 };
    if (!ends_with(target, ".gguf")) return err_set(err, ST_BAD_INPUT, "'%.200s': a quantised model is written as a .gguf file", target);
    return gguf_to_gguf(source, target, mix, o, report, err);
}

/* ---- llama2.c's .bin as GGUF ---- */
static enum status bin_keys(struct gguf_writer *w, const struct convert_bin *b, const char *source, struct convert_report *report, struct err *err)
{
    char path[4096];
    struct file_map map;
    const char *slash = strrchr(source, '/');
    snprintf(path, sizeof path, "%.*stok%d.bin", slash ? (int)(slash + 1 - source) : 0, source, b->config.vocabulary);
    enum status st = convert_put_config(w, &b->config, b->config.arch, err);
    if (st) return st;
    st = file_map_path(&map, path, err);
    if (st == ST_NOT_FOUND) {
        snprintf(report->note, sizeof report->note, "'%.300s' is not there: the file has no tokenizer", path);
        gguf_writer_text(w, "tokenizer.ggml.model", "no_vocab", 8);
        return ST_OK;
    }
    if (st) return st;
    st = convert_bin_tokenizer(w, map.data, map.size, b->config.vocabulary, err);
    file_unmap(&map);
    return st ? err_prefix(err, "'%.300s'", path) : ST_OK;
}

static enum status bin_to_gguf(const char *source, const char *target, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    struct file_map map;
    struct convert_bin b = { 0 };
    struct gguf_writer *w = NULL;
    struct convert_plan p = { .type = o->type };
    enum status st = file_map_path(&map, source, err);
    if (st) return st;
    st = convert_bin_open(&b, map.data, map.size, err);
    if (!st) st = add_tensors(&p, b.tensors, b.count, report, err);
    if (!st) st = gguf_writer_open(&w, 0, err);
    if (!st) st = bin_keys(w, &b, source, report, err);
    if (!st) st = write_gguf(w, &p, main_type(&p), target, o, report, err);
    convert_plan_free(&p);
    gguf_writer_close(w);
    convert_bin_close(&b);
    file_unmap(&map);
    return st;
}

/* ---- GGUF as a folder ---- */
static enum status write_fd(void *ctx, const void *bytes, uint64_t n, struct err *err)
{
    struct convert_target *t = ctx;
    struct weights_sink sink = weights_sink_fd(&t->fd);
    return sink.write(sink.ctx, bytes, n) ? ST_OK : err_set(err, ST_NO_SPACE, "'%.300s' cannot be written: is the disk full?", t->temporary);
}

static enum status write_safetensors(const struct convert_plan *p, struct convert_target *t, const struct convert_options *o, struct err *err)
{
    static const char *const metadata[] = { "format", "pt" };
    struct weight_tensor *heads = mem_calloc_array((uint64_t)p->count + 1, sizeof *heads);
    if (!heads) return err_set(err, ST_NO_MEMORY, "no memory for %d tensors", p->count);
    for (int i = 0; i < p->count; i++) {
        const struct convert_item *it = &p->items[i];
        heads[i] = (struct weight_tensor){ .name = it->name, .type = it->type, .rank = it->rank, .bytes = convert_item_bytes(it) };
        memcpy(heads[i].dims, it->dims, sizeof it->dims);
    }
    enum status st = convert_target_file(t, "model.safetensors", NULL, 0, err);
    if (!st) st = safetensors_write_head(weights_sink_fd(&t->fd), heads, p->count, metadata, 1, err);
    if (!st) st = convert_write_items(p, o, (struct convert_sink){ write_fd, t }, err);
    if (!st) st = convert_target_close_file(t, err);
    free(heads);
    return st;
}

/* A tokenizer that folders have no words for is left out, and the note says so. */
static enum status write_tokenizer(const struct llm_model *m, struct convert_target *t, struct convert_report *report, struct err *err)
{
    struct tokenizer *own = NULL, *again = NULL;
    struct buf json, config;
    size_t n = 0;
    char pre[64] = "default";
    const char *text = gguf_text(m->gguf, "tokenizer.ggml.pre", &n);
    if (text) snprintf(pre, sizeof pre, "%.*s", (int)(n < sizeof pre ? n : sizeof pre - 1), text);
    buf_init(&json, 0);
    buf_init(&config, 0);
    enum status st = tokenizer_open_gguf(&own, m->gguf, err);
    if (!st) st = convert_write_tokenizer(&json, &config, own, pre, err);
    if (!st) st = tokenizer_open_json(&again, json.data, json.length, config.data, config.length, err);
    if (!st) st = convert_same_tokenizer(own, again, "tokenizer.json", err);
    if (st == ST_UNSUPPORTED || st == ST_BAD_INPUT) {
        snprintf(report->note, sizeof report->note, "no tokenizer was written: %.400s", err ? err->text : "");
        st = ST_OK;
    } else if (!st) {
        const char *template = tokenizer_chat_template(own, NULL);
        st = convert_target_file(t, "tokenizer.json", json.data, json.length, err);
        if (!st) st = convert_target_file(t, "tokenizer_config.json", config.data, config.length, err);
        if (!st && template && *template) st = convert_target_file(t, "chat_template.jinja", template, strlen(template), err);
    }
    if (own) tokenizer_close(own);
    if (again) tokenizer_close(again);
    buf_free(&json);
    buf_free(&config);
    return st;
}

static enum status gguf_to_folder(const char *source, const char *target, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    struct llm_model m;
    struct convert_target t;
    struct buf config;
    struct convert_plan p = { .model = &m, .type = o->type, .to_folder = true };
    const struct block_format *f = o->type == CONVERT_KEEP ? NULL : block_format(o->type);
    if (f && f->elements > 1) return err_set(err, ST_UNSUPPORTED, "folders hold F32, F16 or BF16, not %s", f->name);
    enum status st = llm_model_open(&m, source, memory_max, err);
    if (st) return st;
    buf_init(&config, 0);
    st = convert_write_config(&config, &m, &p.target, err);
    if (!st) st = convert_plan_model(&p, err);
    if (!st) st = convert_target_open(&t, target, true, err);
    if (!st) {
        st = convert_target_file(&t, "config.json", config.data, config.length, err);
        if (!st) st = write_tokenizer(&m, &t, report, err);
        if (!st) st = write_safetensors(&p, &t, o, err);
        if (!st) st = llm_weights_all_used(&m, err);
        if (st) convert_target_abandon(&t);
        else st = convert_target_finish(&t, err);
    }
    for (int i = 0; i < m.weights->count; i++) report->source_bytes += m.weights->tensors[i].bytes;
    fill_report(report, &p);
    convert_plan_free(&p);
    buf_free(&config);
    llm_model_close(&m);
    return st;
}

enum status convert_model(const char *source, const char *target, const struct convert_options *o, struct convert_report *report, struct err *err)
{
    struct stat s;
    *report = (struct convert_report){ 0 };
    if (stat(source, &s)) return err_set(err, ST_NOT_FOUND, "'%.300s' cannot be read", source);
    bool folder = S_ISDIR(s.st_mode), file = ends_with(target, ".gguf"), bin = !folder && ends_with(source, ".bin");
    if (file) return folder ? folder_to_gguf(source, target, o, report, err) : bin ? bin_to_gguf(source, target, o, report, err) : gguf_to_gguf(source, target, NULL, o, report, err);
    if (folder || bin) return err_set(err, ST_BAD_INPUT, "'%.200s': from a folder or a .bin file to a folder the way leads through a .gguf file", target);
    return gguf_to_folder(source, target, o, report, err);
}
