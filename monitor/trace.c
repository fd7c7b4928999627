#include "monitor/trace.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hex.h"
#include "base/threads.h"

enum { MODELS_MAX = 256, KEPT_MAX = 4096 /* waiting to be written or sent; more are dropped and counted */, SEND_AT_MOST = 256, SEND_EVERY_MS = 1000, TIMEOUT_S = 5 };

/* Settings of one scope. `own` says which are not the global one's. */
enum { OWN_LEVEL = 1, OWN_RATE = 2, OWN_COUNT = 4, OWN_FREQUENCY = 8 };
struct settings { unsigned own; bool timestamps; int64_t rate, count, frequency; uint64_t seen; int64_t taken; };
struct model_settings { char name[129]; struct settings s; };

struct trace {
    struct trace_context context;
    uint8_t  span[8];
    char     model[129], id[65], failed[96];
    int64_t  version, batch;
    struct request_times times;
    uint64_t end_ns;
};

struct tracer {
    struct tracer_options o;
    char           *file, *endpoint;
    int64_t         wall_offset_ns;          /* CLOCK_REALTIME - CLOCK_MONOTONIC at the start */
    atomic_bool     on;
    pthread_t       thread;
    pthread_mutex_t lock;                    /* guards everything below */
    pthread_cond_t  wake;
    bool            stopping;
    struct settings global;
    struct model_settings *models; int model_count;
    struct trace   *kept; int kept_count;
    uint64_t        dropped, number;         /* traces lost; of the next trace */
    int             files;                   /* written so far */
};

/* ---- settings ---- */
static struct settings *find_own(struct tracer *t, const char *model)
{
    for (int k = 0; k < t->model_count; k++)
        if (!strcmp(t->models[k].name, model)) return &t->models[k].s;
    return NULL;
}

static void settle_on(struct tracer *t)
{
    bool on = t->global.timestamps;
    for (int k = 0; k < t->model_count; k++) on |= (t->models[k].s.own & OWN_LEVEL) && t->models[k].s.timestamps;
    atomic_store(&t->on, on);
}

static enum status read_level(const struct json *v, bool *on, struct err *err)
{
    const struct json *first = v->type == JSON_ARRAY ? v->list.first : v;
    if (first && first->type == JSON_STRING && !first->next) {
        if (json_is_string(first, "OFF")) return *on = false, ST_OK;
        if (json_is_string(first, "TIMESTAMPS")) return *on = true, ST_OK;
    }
    return err_set(err, ST_BAD_INPUT, "trace setting 'trace_level' must be [\"OFF\"] or [\"TIMESTAMPS\"] (tensors are not traced)");
}

/* A string, a number, or a list of one of them. */
static enum status read_count(const struct json *v, const char *key, int64_t least, int64_t *out, struct err *err)
{
    if (v->type == JSON_ARRAY && v->list.count == 1) v = v->list.first;
    char *end = NULL;
    if (v->type == JSON_STRING) *out = strtoll(v->string.text, &end, 10);
    bool ok = v->type == JSON_STRING ? v->string.length && !*end : json_as_int64(v, out);
    return ok && *out >= least ? ST_OK : err_set(err, ST_BAD_INPUT, "trace setting '%s' must be a number from %lld", key, (long long)least);
}

static enum status apply(struct tracer *t, struct settings *s, const struct json *v, bool global, struct err *err)
{
    static const struct { const char *key; unsigned own; int64_t least; } counts[] = { { "trace_rate", OWN_RATE, 1 }, { "trace_count", OWN_COUNT, -1 }, { "log_frequency", OWN_FREQUENCY, 0 } };
    int64_t *fields[] = { &s->rate, &s->count, &s->frequency };
    const bool clear = v->type == JSON_NULL || (v->type == JSON_ARRAY && !v->list.count);
    if (!strcmp(v->key, "trace_file")) return err_set(err, ST_UNSUPPORTED, "trace file location can not be updated through network protocol");
    if (!strcmp(v->key, "trace_mode")) return err_set(err, ST_UNSUPPORTED, "trace mode can not be updated through network protocol");
    if (!strcmp(v->key, "trace_level")) {
        if (clear && global) s->timestamps = t->o.on;
        s->own = clear ? s->own & ~(unsigned)OWN_LEVEL : s->own | OWN_LEVEL;
        return clear ? ST_OK : read_level(v, &s->timestamps, err);
    }
    for (int k = 0; k < 3; k++) {
        if (strcmp(v->key, counts[k].key)) continue;
        if (clear && global) *fields[k] = k == 0 ? t->o.rate : k == 1 ? t->o.count : 0;
        s->own = clear ? s->own & ~counts[k].own : s->own | counts[k].own;
        if (counts[k].own == OWN_COUNT) s->taken = 0;
        return clear ? ST_OK : read_count(v, counts[k].key, counts[k].least, fields[k], err);
    }
    return err_set(err, ST_BAD_INPUT, "'%.60s' is no trace setting", v->key);
}

enum status tracer_set(struct tracer *t, const char *model, const struct json *settings, struct err *err)
{
    enum status st = ST_OK;
    pthread_mutex_lock(&t->lock);
    struct settings *own = model ? find_own(t, model) : &t->global, changed = own ? *own : (struct settings){ 0 };
    for (const struct json *v = settings->list.first; v && !st; v = v->next) st = apply(t, &changed, v, !model, err);
    if (!st && !own && t->model_count == MODELS_MAX) st = err_set(err, ST_TOO_LARGE, "more than %d models have trace settings of their own", MODELS_MAX);
    if (!st && !own) {
        snprintf(t->models[t->model_count].name, sizeof t->models[0].name, "%s", model);
        own = &t->models[t->model_count++].s;
    }
    if (!st) *own = changed;
    settle_on(t);
    pthread_mutex_unlock(&t->lock);
    return st;
}

/* What holds for a model: its own settings over the global ones. With the lock. */
static struct settings effective(struct tracer *t, const char *model)
{
    struct settings s = t->global;
    const struct settings *own = model ? find_own(t, model) : NULL;
    if (own && own->own & OWN_LEVEL) s.timestamps = own->timestamps;
    if (own && own->own & OWN_RATE) s.rate = own->rate;
    if (own && own->own & OWN_COUNT) s.count = own->count;
    if (own && own->own & OWN_FREQUENCY) s.frequency = own->frequency;
    return s;
}

void tracer_write(struct tracer *t, const char *model, struct buf *out)
{
    pthread_mutex_lock(&t->lock);
    const struct settings s = effective(t, model);
    pthread_mutex_unlock(&t->lock);
    buf_puts(out, "{\"trace_file\":");
    json_write_text(out, t->file ? t->file : "");
    buf_printf(out, ",\"trace_level\":[\"%s\"],\"trace_rate\":\"%lld\",\"trace_count\":\"%lld\",\"log_frequency\":\"%lld\",\"trace_mode\":\"%s\"}", s.timestamps ? "TIMESTAMPS" : "OFF", (long long)s.rate,
               (long long)s.count, (long long)s.frequency, t->endpoint ? "opentelemetry" : "triton");
}

/* ---- collecting ---- */
/* An id of hexadecimal digits; all zero means invalid. */
static bool read_id(const char *text, uint8_t *out, size_t n)
{
    static const uint8_t zero[16];
    return hex_read(text, 2 * n, out, n) && memcmp(out, zero, n);
}

struct trace_context trace_context_read(const char *text)
{
    struct trace_context c = { .given = false };
    if (!text || strlen(text) < 55 || strncmp(text, "ff", 2) == 0 || text[2] != '-' || text[35] != '-' || text[52] != '-') return c;
    if (!strncmp(text, "00", 2) && text[55]) return c;
    if (!read_id(text + 3, c.trace, sizeof c.trace) || !read_id(text + 36, c.parent, sizeof c.parent)) return (struct trace_context){ 0 };
    c.given = true;
    c.sampled = strtol(text + 53, NULL, 16) & 1;
    return c;
}

bool tracer_on(const struct tracer *t) { return t && atomic_load_explicit(&((struct tracer *)t)->on, memory_order_relaxed); }

/* With the lock. */
static bool wanted(struct tracer *t, const char *model, const struct trace_context *c)
{
    const struct settings s = effective(t, model);
    struct settings *own = find_own(t, model);
    struct settings *counts = own && own->own & OWN_COUNT ? own : &t->global, *rates = own && own->own & OWN_RATE ? own : &t->global;
    if (!s.timestamps) return false;
    if (!(c->given && c->sampled) && rates->seen++ % (uint64_t)s.rate) return false;
    if (s.count >= 0 && counts->taken >= s.count) return false;
    counts->taken++;
    return true;
}

void tracer_note(struct tracer *t, const char *model, int64_t version, const struct request *r, const struct trace_context *c, uint64_t end_ns, const char *failed)
{
    pthread_mutex_lock(&t->lock);
    const bool keep = wanted(t, model, c);
    if (keep && t->kept_count == KEPT_MAX) {
        t->dropped++;
    } else if (keep) {
        struct trace *k = &t->kept[t->kept_count++];
        *k = (struct trace){ .context = *c, .version = version, .batch = r->batch_rows, .times = r->times, .end_ns = end_ns };
        snprintf(k->model, sizeof k->model, "%s", model);
        snprintf(k->id, sizeof k->id, "%s", r->id);
        snprintf(k->failed, sizeof k->failed, "%s", failed ? failed : "");
        if (t->kept_count == 1 || t->kept_count == SEND_AT_MOST) pthread_cond_signal(&t->wake);
    }
    pthread_mutex_unlock(&t->lock);
}

/* ---- Triton's form ---- */
static void write_stamp(struct buf *out, const char *name, uint64_t ns, bool *first)
{
    if (!ns) return;
    buf_printf(out, "%s{\"name\":\"%s\",\"ns\":%llu}", *first ? "" : ",", name, (unsigned long long)ns);
    *first = false;
}

static void write_triton(struct buf *out, const struct trace *k, uint64_t number)
{
    const struct request_times *m = &k->times;
    bool first = true;
    buf_printf(out, "{\"id\":%llu,\"model_name\":", (unsigned long long)number);
    json_write_text(out, k->model);
    buf_printf(out, ",\"model_version\":%lld,\"request_id\":", (long long)k->version);
    json_write_text(out, k->id);
    buf_puts(out, ",\"timestamps\":[");
    write_stamp(out, "HTTP_RECV_START", m->received, &first);
    write_stamp(out, "REQUEST_START", m->queued, &first);
    write_stamp(out, "QUEUE_START", m->queued, &first);
    write_stamp(out, "COMPUTE_START", m->taken, &first);
    write_stamp(out, "COMPUTE_INPUT_END", m->input_done, &first);
    write_stamp(out, "COMPUTE_OUTPUT_START", m->infer_done, &first);
    write_stamp(out, "COMPUTE_END", m->output_done, &first);
    write_stamp(out, "REQUEST_END", m->output_done, &first);
    write_stamp(out, "HTTP_SEND_END", k->end_ns, &first);
    buf_puts(out, "]}");
}

static void write_file(struct tracer *t, const struct trace *all, int n, uint64_t number, bool numbered)
{
    char path[4200];
    struct buf b;
    buf_init(&b, 0);
    buf_putc(&b, '[');
    for (int k = 0; k < n; k++) {
        if (k) buf_putc(&b, ',');
        write_triton(&b, &all[k], number + (uint64_t)k);
    }
    buf_puts(&b, "]\n");
    if (numbered) snprintf(path, sizeof path, "%.4096s.%d", t->file, t->files++);
    else snprintf(path, sizeof path, "%.4096s", t->file);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0 || b.failed || write(fd, b.data, b.length) != (ssize_t)b.length) log_write(t->o.log, LOG_WARNING, "trace", "'%s' could not be written: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    buf_free(&b);
}

/* ---- OTLP ---- */
static void write_id(struct buf *out, const uint8_t *bytes, size_t n)
{
    char text[2 * 16 + 1];
    hex_write(bytes, n, text);
    buf_puts(out, text);
}

static void write_span(const struct tracer *t, struct buf *out, const struct trace *k, const char *name, int kind, const uint8_t *span, const uint8_t *parent, uint64_t from, uint64_t to)
{
    buf_puts(out, "{\"traceId\":\"");
    write_id(out, k->context.trace, 16);
    buf_puts(out, "\",\"spanId\":\"");
    write_id(out, span, 8);
    if (parent) {
        buf_puts(out, "\",\"parentSpanId\":\"");
        write_id(out, parent, 8);
    }
    buf_printf(out, "\",\"name\":\"%s\",\"kind\":%d,\"startTimeUnixNano\":\"%llu\",\"endTimeUnixNano\":\"%llu\"", name, kind, (unsigned long long)((int64_t)from + t->wall_offset_ns),
               (unsigned long long)((int64_t)to + t->wall_offset_ns));
}

static void write_text(struct buf *out, const char *key, const char *value)
{
    buf_printf(out, "{\"key\":\"%s\",\"value\":{\"stringValue\":", key);
    json_write_text(out, value);
    buf_puts(out, "}}");
}

/* One span of the server, and within it one for each stage. */
static void write_spans(const struct tracer *t, struct buf *out, struct trace *k)
{
    const struct request_times *m = &k->times;
    const struct { const char *name; uint64_t from, to; } stages[] = { { "queue", m->queued, m->taken }, { "compute_input", m->taken, m->input_done }, { "compute_infer", m->input_done, m->infer_done }, { "compute_output", m->infer_done, m->output_done } };
    uint8_t random[16 + 8 + 4 * 8];
    if (getrandom(random, sizeof random, 0) != sizeof random) memcpy(random, &k->times, sizeof random);
    if (!k->context.given) memcpy(k->context.trace, random, 16);
    write_span(t, out, k, "inference", 2, random + 16, k->context.given ? k->context.parent : NULL, m->received, k->end_ns);
    buf_puts(out, ",\"attributes\":[");
    write_text(out, "model.name", k->model);
    buf_printf(out, ",{\"key\":\"model.version\",\"value\":{\"intValue\":\"%lld\"}},{\"key\":\"batch.rows\",\"value\":{\"intValue\":\"%lld\"}},", (long long)k->version, (long long)k->batch);
    write_text(out, "request.id", k->id);
    buf_puts(out, k->failed[0] ? "],\"status\":{\"code\":2,\"message\":" : "]}");
    if (k->failed[0]) {
        json_write_text(out, k->failed);
        buf_puts(out, "}}");
    }
    for (int s = 0; s < 4; s++) {
        if (!stages[s].from || stages[s].to < stages[s].from) continue;
        buf_putc(out, ',');
        write_span(t, out, k, stages[s].name, 1, random + 24 + 8 * s, random + 16, stages[s].from, stages[s].to);
        buf_putc(out, '}');
    }
}

static size_t swallow(char *data, size_t size, size_t n, void *context)
{
    (void)data;
    (void)context;
    return size * n;
}

static void send_spans(struct tracer *t, CURL *curl, struct trace *all, int n)
{
    struct buf b;
    long code = 0;
    buf_init(&b, 0);
    buf_puts(&b, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
    write_text(&b, "service.name", "inferd");
    buf_putc(&b, ',');
    write_text(&b, "service.version", INFERD_VERSION);
    buf_puts(&b, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"inferd\"},\"spans\":[");
    for (int k = 0; k < n; k++) {
        if (k) buf_putc(&b, ',');
        write_spans(t, &b, &all[k]);
    }
    buf_puts(&b, "]}]}]}");
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(curl, CURLOPT_URL, t->endpoint);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, b.data);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)b.length);
    CURLcode got = b.failed || !headers ? CURLE_OUT_OF_MEMORY : curl_easy_perform(curl);
    if (!got) curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    if (got || code / 100 != 2) log_write(t->o.log, LOG_WARNING, "trace", "%d traces were not taken by %s: %s", n, t->endpoint, got ? curl_easy_strerror(got) : "it did not answer with 2xx");
    curl_slist_free_all(headers);
    buf_free(&b);
}

static CURL *open_sender(const struct tracer *t)
{
    CURL *curl = t->endpoint ? curl_easy_init() : NULL;
    if (!curl) return NULL;
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)TIMEOUT_S);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, swallow);
    return curl;
}

/* ---- the thread that writes and sends ---- */
/* How many of the kept traces go now. With the lock. */
static int due(const struct tracer *t)
{
    if (t->endpoint || t->stopping) return t->kept_count;
    const int64_t every = t->global.frequency;
    const bool spent = t->global.count >= 0 && t->global.taken >= t->global.count;
    return every > 0 && t->kept_count >= every ? (int)every : spent || t->kept_count >= KEPT_MAX / 2 ? t->kept_count : 0;
}

static void *trace_run(void *p)
{
    struct tracer *t = p;
    CURL *curl = open_sender(t);
    struct trace *mine = mem_calloc_array(KEPT_MAX, sizeof *mine);
    pthread_mutex_lock(&t->lock);
    while (!t->stopping || t->kept_count) {
        const int n = mine ? due(t) : 0;
        const uint64_t number = t->number, dropped = t->dropped;
        if (!n) {
            if (t->stopping) break;
            if (!t->kept_count) pthread_cond_wait(&t->wake, &t->lock);
            else condition_wait(&t->wake, &t->lock, clock_ns() + (uint64_t)SEND_EVERY_MS * 1000000);
            continue;
        }
        memcpy(mine, t->kept, (size_t)n * sizeof *mine);
        memmove(t->kept, t->kept + n, (size_t)(t->kept_count - n) * sizeof *mine);
        t->kept_count -= n;
        t->number += (uint64_t)n;
        t->dropped = 0;
        const bool numbered = !(t->stopping && !t->files && t->global.frequency == 0);
        pthread_mutex_unlock(&t->lock);
        if (dropped) log_write(t->o.log, LOG_WARNING, "trace", "%llu traces were dropped: they came faster than they could be handed on", (unsigned long long)dropped);
        if (curl) send_spans(t, curl, mine, n);
        else if (t->file) write_file(t, mine, n, number, numbered);
        pthread_mutex_lock(&t->lock);
        if (curl && !t->stopping && t->kept_count < SEND_AT_MOST) condition_wait(&t->wake, &t->lock, clock_ns() + (uint64_t)SEND_EVERY_MS * 1000000);      /* no faster than this */
    }
    pthread_mutex_unlock(&t->lock);
    free(mine);
    curl_easy_cleanup(curl);
    return NULL;
}

enum status tracer_open(struct tracer **out, const struct tracer_options *o, struct err *err)
{
    if (o->endpoint && strncmp(o->endpoint, "http://", 7) && strncmp(o->endpoint, "https://", 8)) return err_set(err, ST_BAD_INPUT, "the collector's URL '%.100s' must begin with http:// or https://", o->endpoint);
    if (o->endpoint && o->file) return err_set(err, ST_BAD_INPUT, "traces go to a file or to a collector, not to both");
    struct tracer *t = mem_calloc_array(1, sizeof *t);
    if (!t) return err_set(err, ST_NO_MEMORY, "no memory for traces");
    t->o = *o;
    t->file = o->file ? strdup(o->file) : NULL;
    t->endpoint = o->endpoint ? strdup(o->endpoint) : NULL;
    t->models = mem_calloc_array(MODELS_MAX, sizeof *t->models);
    t->kept = mem_calloc_array(KEPT_MAX, sizeof *t->kept);
    t->global = (struct settings){ .own = ~0u, .timestamps = o->on, .rate = o->rate, .count = o->count };
    t->wall_offset_ns = (int64_t)(clock_wall_ms() * 1000000) - (int64_t)clock_ns();
    pthread_mutex_init(&t->lock, NULL);
    condition_init(&t->wake);
    settle_on(t);
    enum status st = (o->file && !t->file) || (o->endpoint && !t->endpoint) || !t->models || !t->kept ? err_set(err, ST_NO_MEMORY, "no memory for traces") : ST_OK;
    if (!st) st = thread_start(&t->thread, "traces", trace_run, t, err);
    if (!st) {
        *out = t;
        return ST_OK;
    }
    free(t->file);
    free(t->endpoint);
    free(t->models);
    free(t->kept);
    free(t);
    return st;
}

void tracer_close(struct tracer *t)
{
    if (!t) return;
    pthread_mutex_lock(&t->lock);
    t->stopping = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    free(t->file);
    free(t->endpoint);
    free(t->models);
    free(t->kept);
    free(t);
}
