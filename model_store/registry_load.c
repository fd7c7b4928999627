/* Loading one version: hash, compare with the catalog, parse in the child, open, complete the config, start its scheduler, warm up. Nothing
 * of it is visible to anyone until the caller publishes it, and a failure at any step takes back all steps before it. */
#include "engine/text_ops.h"
#include "model_store/manifest.h"
#include "model_store/registry_internal.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/threads.h"
#include "engine/device_gpu.h"

enum { CONFIG_FILE_MAX = CONFIG_BYTES_MAX, DEFAULT_BATCH_ROWS = 4, GIVE_BACK_EVERY_MS = 1000 };

struct told { struct registry *r; const char *model; int64_t version; };

static void tell_hashing(void *ctx, uint64_t done, uint64_t total)
{
    struct told *t = ctx;
    if (t->r->o.progress) t->r->o.progress(t->r->o.progress_context, t->model, t->version, "hashing", done, total);
}

static void tell(struct registry *r, const char *model, int64_t version, const char *what)
{
    if (r->o.progress) r->o.progress(r->o.progress_context, model, version, what, 0, 0);
}

static uint64_t resident_bytes(void)
{
    char *text;
    size_t length;
    unsigned long long pages = 0;
    if (file_read_path(&text, &length, "/proc/self/statm", 4096, NULL)) return 0;
    if (sscanf(text, "%*u %llu", &pages) != 1) pages = 0;
    free(text);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

enum status load_read_config(struct registry *r, struct model_entry *m, int64_t version, struct log *log, struct model_config **out, struct err *err)
{
    char where[MODEL_NAME_MAX + 32], *text = NULL;
    size_t length = 0;
    if (m->config_json) {
        snprintf(where, sizeof where, "%s: config of the load request", m->name);
        return model_config_parse_json(out, m->config_json, m->config_length, where, log, err);
    }
    snprintf(where, sizeof where, "%s/config.pbtxt", m->name);
    enum status st = repository_read_file(r->repository, m->name, version, "config.pbtxt", CONFIG_FILE_MAX, &text, &length, err);
    if (st && st != ST_NOT_FOUND) return st;
    st = model_config_parse(out, text, length, where, log, err);
    free(text);
    return st;
}

/* The digest that answers carry is that of the files; an ensemble is its config, so that one counts too (and may change, which the files may not). */
static enum status name_contents(struct loaded *l, struct err *err)
{
    struct buf b;
    uint8_t d[DIGEST_BYTES];
    strcpy(l->v.digest, l->files_digest);
    if (!l->config->ensemble.step_count) return ST_OK;
    buf_init(&b, 0);
    buf_puts(&b, l->files_digest);
    model_config_write_json(&b, l->config);
    bool made = !b.failed;
    if (made) digest_bytes(b.data, b.length, d);
    buf_free(&b);
    if (made) digest_hex(d, l->v.digest);
    return made ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory to compute a digest");
}

/* What is on disk must be what was recorded. A version's number is a promise: new content needs a new number, or a new publish. */
static enum status check_digest(struct registry *r, struct loaded *l, struct err *err)
{
    char recorded[65];
    struct told told = { r, l->name, l->v.version };
    enum status st = repository_digest(r->repository, l->name, l->v.version, l->files_digest, tell_hashing, &told, err);
    if (!st) st = name_contents(l, err);
    if (st || repository_overridden(r->repository, l->name)) return st;
    st = catalog_find_digest(r->catalog, l->name, l->v.version, recorded, err);
    if (st || !*recorded || !strcmp(recorded, l->files_digest)) return st;
    return err_set(err, ST_BAD_INPUT, "its files are not those that were recorded (digest %.16s..., recorded %.16s...): put new files under a new version number, or publish this one again to accept them", l->files_digest, recorded);
}

static const char *engine_of_config(const struct model_config *c)
{
    if (!strcmp(c->backend, "onnxruntime") || (!*c->backend && !strcmp(c->platform, "onnxruntime_onnx"))) return "onnx";
    if (*c->backend) return c->backend;
    return *c->platform ? c->platform : NULL;
}

static enum status find_engine(struct registry *r, struct loaded *l, const struct version_kind *kind, struct err *err)
{
    const char *said = engine_of_config(l->config);
    if (said && strcmp(said, kind->engine)) return err_set(err, ST_BAD_INPUT, "the config asks for '%.60s', but the files are %s", said, kind->what);
    for (int i = 0; i < r->o.engine_count; i++)
        if (!strcmp(r->o.engines[i]->name, kind->engine)) return l->v.ops = r->o.engines[i], ST_OK;
    return err_set(err, ST_UNSUPPORTED, "the files are %s; there is no engine for it in this build", kind->what);
}

/* An ensemble is its config; its version's folder may be empty. */
static enum status find_kind(struct registry *r, struct loaded *l, struct version_kind *kind, struct err *err)
{
    if (!l->config->ensemble.step_count) return repository_find_kind(r->repository, l->name, l->v.version, kind, err);
    *kind = (struct version_kind){ .engine = "ensemble", .what = "an ensemble" };
    return ST_OK;
}

enum status load_pin_member(void *context, const char *model, int64_t version, struct scheduler **scheduler, void **pin, struct err *err)
{
    struct model_version *v;
    enum status st = registry_pin(context, model, strlen(model), version, &v, err);
    if (st) return st;
    *scheduler = v->scheduler;
    *pin = v;
    return ST_OK;
}

void load_unpin_member(void *context, void *pin) { registry_unpin(context, pin); }

/* The same bytes need no second look: going back to a version, or a swap to and fro, spares the child. */
static bool was_checked(const struct registry *r, const char *digest)
{
    for (int k = 0; k < CHECKED_KEPT; k++)
        if (!strcmp(r->checked[k], digest)) return true;
    return false;
}

static enum status inspect(struct registry *r, struct loaded *l, const struct version_kind *kind, struct err *err)
{
    int fd = -1;
    uint64_t size;
    if (!r->o.inspector || !*kind->main_file || was_checked(r, l->v.digest)) return ST_OK;
    enum status st = repository_open_file(r->repository, l->name, l->v.version, kind->main_file, &fd, &size, err);
    if (st) return st;
    st = inspector_check(r->o.inspector, kind->engine, fd, err);
    close(fd);
    if (!st) strcpy(r->checked[r->checked_at++ % CHECKED_KEPT], l->v.digest);
    return st;
}

static int first_labels(const struct model_config *c)
{
    for (int i = 0; i < c->output_count; i++)
        if (c->outputs[i].label_filename) return i;
    return -1;
}

/* One label a line; a carriage return before the end of a line is not part of it. */
static enum status read_labels(struct registry *r, struct loaded *l, struct err *err)
{
    int output = first_labels(l->config);
    size_t length;
    if (output < 0) return ST_OK;
    enum status st = repository_read_file(r->repository, l->name, l->v.version, l->config->outputs[output].label_filename, LABEL_BYTES_MAX, &l->label_text, &length, err);
    if (st) return err_prefix(err, "labels of output '%.60s'", l->config->outputs[output].name);
    int lines = 0, at = 0;
    for (size_t i = 0; i < length; i++) lines += l->label_text[i] == '\n';
    l->labels = mem_calloc_array((uint64_t)lines + 1, sizeof *l->labels);
    if (!l->labels) return err_set(err, ST_NO_MEMORY, "no memory for labels");
    for (char *p = l->label_text; *p;) {
        char *end = p + strcspn(p, "\n"), *next = *end ? end + 1 : end;
        if (end > p && end[-1] == '\r') end--;
        *end = 0;
        if (at <= lines) l->labels[at++] = p;
        p = next;
    }
    l->v.labels = l->labels;
    l->v.label_count = at;
    return ST_OK;
}

/* The cores of the process are divided among the instances of a model; models share them. */
static void divide_cores(const struct registry *r, struct model_config *c)
{
    struct scheduler_options *o = &c->scheduling;
    o->instances = c->instances > 0 ? c->instances : 1;
    o->threads = r->o.threads / o->instances > 0 ? r->o.threads / o->instances : 1;
    o->first_cpu = o->threads * o->instances <= threads_cpu_count() ? 0 : -1;
}

static enum status wrong_parameter(const char *key, const char *value, const char *needed, struct err *err)
{
    return err_set(err, ST_BAD_INPUT, "the parameter '%s' of the config must be %s, not '%.40s'", key, needed, value);
}

static enum status read_mib(const struct model_config *c, const char *key, unsigned long long least, uint64_t *bytes, struct err *err)
{
    const char *mib = model_config_parameter(c, key);
    char *end;
    if (!mib) return ST_OK;
    unsigned long long n = strtoull(mib, &end, 10);
    if (*mib < '0' || *mib > '9' || *end || n < least || n > 1 << 24) return wrong_parameter(key, mib, least ? "a number from 1 to 16777216" : "a number from 0 to 16777216", err);
    *bytes = (uint64_t)n << 20;
    return ST_OK;
}

/* What a config's parameters say to an engine: precision, and of a language model kv_cache_mib, kv_swap_mib, kv_cache_type, batch_invariant. */
static enum status read_engine_parameters(const struct model_config *c, struct engine_options *o, struct err *err)
{
    static const struct { const char *name; int type; } types[] = { { "f32", 0 }, { "f16", 1 }, { "bf16", 30 }, { "q8_0", 8 }, { "q4_0", 2 } };
    const char *precision = model_config_parameter(c, "precision"), *type = model_config_parameter(c, "kv_cache_type"), *invariant = model_config_parameter(c, "batch_invariant");
    if (precision) {
        if (!precision_from_name(precision, &o->precision)) return wrong_parameter("precision", precision, "f32, f16, bf16, int8 or auto", err);
    }
    enum status st = read_mib(c, "kv_cache_mib", 1, &o->kv_bytes, err);
    if (!st) st = read_mib(c, "kv_swap_mib", 0, &o->kv_swap_bytes, err);
    if (st) return st;
    for (size_t i = 0; type && i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(types[i].name, type)) o->kv_type = 1 + types[i].type;
    if (type && !o->kv_type) return wrong_parameter("kv_cache_type", type, "f32, f16, bf16, q8_0 or q4_0", err);
    if (invariant && strcmp(invariant, "true") && strcmp(invariant, "false")) return wrong_parameter("batch_invariant", invariant, "true or false", err);
    o->batch_invariant = invariant && !strcmp(invariant, "true");
    return ST_OK;
}

struct state_files { struct registry *r; const char *model; };

static enum status read_state_file(void *context, const char *path, size_t max, char **bytes, size_t *length, struct err *err)
{
    struct state_files *f = context;
    return repository_read_file(f->r->repository, f->model, 0, path, max, bytes, length, err);
}

/* Are its answers functions of the inputs that a request brings and of the version's digest, in any order? Texts and pictures are not, a sequence has a state, and what an
 * ensemble answers follows from versions that its own digest does not know. */
static bool may_cache(const struct loaded *l)
{
    const struct scheduler_options *o = &l->config->scheduling;
    return l->config->response_cache && !o->preserve_ordering && !o->sequences.on && !l->v.ops->text && !l->v.ops->image && !l->v.signature->ensemble;
}

/* An engine's choices are remembered by the version's digest, so that restarts, and replicas that share a catalog, answer alike. */
struct choosing { struct catalog *catalog; const char *digest; };

static bool find_choice(void *ctx, const char *machine, char *text, size_t room)
{
    const struct choosing *c = ctx;
    return catalog_find_choice(c->catalog, c->digest, machine, text, room);
}

static void keep_choice(void *ctx, const char *machine, const char *text)
{
    const struct choosing *c = ctx;
    catalog_note_choice(c->catalog, c->digest, machine, text);
}

/* On the GPU where the model is to run there. One that need not (KIND_AUTO) goes to the CPU when the GPU does not take it. */
static enum status open_somewhere(struct registry *r, struct loaded *l, const struct model_files *files, struct engine_options *o, struct err *err)
{
    const struct model_config *c = l->config;
    if (!l->v.ops->on_gpu && device_gpu_count() && c->gpu_wish == CONFIG_GPU_WANTED)
        log_write(r->o.log, LOG_WARNING, "load", "%s version %" PRId64 " runs on the CPU: its instance group says KIND_GPU, but the engine %s has no GPU path", l->name, l->v.version, l->v.ops->name);
    if (l->v.ops->on_gpu && device_gpu_count() && c->gpu_wish != CONFIG_GPU_NEVER) o->gpu = c->gpu + 1;
    enum status st = l->v.ops->open(&l->v.engine, files, o, err);
    if (!st || !o->gpu || c->gpu_wish == CONFIG_GPU_WANTED || st == ST_BAD_INPUT || st == ST_UNSUPPORTED) return st;
    log_write(r->o.log, LOG_WARNING, "load", "%s version %" PRId64 " runs on the CPU: %s", l->name, l->v.version, err->text);
    o->gpu = 0;
    return l->v.ops->open(&l->v.engine, files, o, err);
}

static enum status open_engine(struct registry *r, struct loaded *l, const struct version_kind *kind, struct err *err)
{
    struct model_config *c = l->config;
    char directory[4352], main_file[4352 + REPOSITORY_PATH_MAX];
    repository_folder(r->repository, l->name, l->v.version, directory, sizeof directory);
    snprintf(main_file, sizeof main_file, "%s/%s", directory, kind->main_file);
    struct model_files files = { .directory = directory, .main_file = main_file };
    int64_t rows = c->has_max_batch_size ? c->max_batch_size : DEFAULT_BATCH_ROWS;
    for (int i = 0; i < c->scheduling.preferred_count; i++)
        if (c->scheduling.preferred[i] > rows) rows = c->scheduling.preferred[i];
    divide_cores(r, c);
    struct engine_options options = { .threads = c->scheduling.threads, .cpu_level = r->o.cpu_level, .precision = r->o.precision, .max_batch_rows = rows > 0 ? rows : 1, .memory_max = r->o.memory_max, .ensemble = &c->ensemble, .models = &r->members };
    struct choosing choosing = { r->catalog, l->v.digest };
    const struct engine_choices choices = { &choosing, find_choice, keep_choice };
    options.choices = &choices;
    enum status st = read_engine_parameters(c, &options, err);
    if (!st) st = open_somewhere(r, l, &files, &options, err);
    if (st) return st;
    const struct signature *signature = l->v.ops->describe(l->v.engine);
    st = model_config_complete(c, l->name, signature, err);
    if (!st && !(l->v.signature = model_config_for_clients(c, signature))) st = err_set(err, ST_NO_MEMORY, "no memory for the model's signature");
    if (!st) st = read_labels(r, l, err);
    if (!st) st = model_config_read_states(c, read_state_file, &(struct state_files){ r, l->name }, err);
    if (may_cache(l)) c->scheduling.cache = r->o.cache;
    c->scheduling.limiter = r->o.limiter;
    c->scheduling.claims = c->claims;
    c->scheduling.claim_count = c->claim_count;
    c->scheduling.model_name = l->name;
    c->scheduling.model_digest = l->v.digest;
    if (!st) st = scheduler_open(&l->v.scheduler, l->v.ops, l->v.engine, &c->scheduling, r->o.expiry, err);
    if (!st) l->v.stats = scheduler_stats(l->v.scheduler);
    return st;
}

enum status load_open_version(struct registry *r, struct model_entry *m, int64_t version, uint64_t stamp, struct loaded **out, struct err *err)
{
    uint64_t start = clock_ns(), before = resident_bytes();
    struct version_kind kind;
    struct loaded *l = calloc(1, sizeof *l);
    if (!l) return err_set(err, ST_NO_MEMORY, "no memory to load a model");
    strcpy(l->name, m->name);
    l->v.name = l->name;
    l->v.version = version;
    l->stamp = stamp;
    l->model = m;
    enum status st = load_read_config(r, m, version, r->o.log, &l->config, err);
    if (!st) st = find_kind(r, l, &kind, err);
    if (!st) st = find_engine(r, l, &kind, err);
    if (!st) st = check_digest(r, l, err);
    if (!st) st = manifest_check(r->o.signers, r->o.require_signatures, r->repository, m->name, version, l->files_digest, l->v.signer, err);
    if (!st) tell(r, m->name, version, "checking");
    if (!st) st = inspect(r, l, &kind, err);
    if (!st) tell(r, m->name, version, "loading");
    if (!st) st = open_engine(r, l, &kind, err);
    if (!st) tell(r, m->name, version, "warming up");
    l->v.config = l->config;
    if (!st) st = warm_run_version(r, &l->v, err);
    if (st) {
        load_close_version(l);
        return st;
    }
    uint64_t after = resident_bytes();
    l->v.memory_bytes = after > before ? after - before : 0;
    l->v.load_ns = clock_ns() - start;
    if (!repository_overridden(r->repository, m->name) && !catalog_note_digest(r->catalog, m->name, version, l->files_digest))
        log_write(r->o.log, LOG_WARNING, "catalog", "the digest of %s version %" PRId64 " could not be recorded; it will be at its next load", m->name, version);
    const char *template_error = l->v.ops->text ? l->v.ops->text->template_error(l->v.engine) : NULL;
    if (template_error) log_write(r->o.log, LOG_WARNING, "load", "%s version %" PRId64 ": no chat template: %s", m->name, version, template_error);
    *out = l;
    return ST_OK;
}

/* The heap's free pages go back to the system, so that what a version took is seen to return; while versions come and go quickly only now and then, since the next one
 * wants them again (the server gives back what is left when it is quiet). */
static void give_back_pages(void)
{
    static atomic_uint_fast64_t last;
    uint64_t now = clock_ns(), before = atomic_load(&last);
    if (before && now - before < (uint64_t)GIVE_BACK_EVERY_MS * 1000000) return;
    if (atomic_compare_exchange_strong(&last, &before, now)) malloc_trim(0);
}

/* Nobody has it any more. */
void load_close_version(struct loaded *l)
{
    if (l->v.scheduler) scheduler_close(l->v.scheduler);
    if (l->v.engine) l->v.ops->close(l->v.engine);
    model_config_free(l->config);
    free(l->labels);
    free(l->label_text);
    free(l);
    give_back_pages();
}
