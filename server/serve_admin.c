/* Routes that change something: load and unload, uploads, publishing, activation, aliases, drain. They may hash, load or wait for the disk, so
 * they run on job threads while their connection is suspended. */
#include "server/server.h"

#include "base/digest.h"
#include "base/json.h"
#include "model_store/repository.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AUDIT_ROWS = 1000 };

/* ---- jobs ---- */

static void job_run(void *argument)
{
    struct exchange *x = argument;
    x->job(x);
    exchange_resume(x);
}

void serve_in_job(struct exchange *x, void (*job)(struct exchange *x))
{
    x->job = job;
    exchange_suspend(x);
    if (jobs_add(x->server->jobs, job_run, x, &x->error)) exchange_resume(x);
}

/* The piece of the path as a NUL-terminated text, checked by R20. */
static const char *model_of(struct exchange *x, struct err *err)
{
    if (!model_name_valid(x->route.model, x->route.model_length)) {
        err_set(err, ST_BAD_INPUT, "'%.*s' is no model name: letters, digits, '.', '_' and '-', at most %d", (int)(x->route.model_length < 64 ? x->route.model_length : 64), x->route.model, MODEL_NAME_MAX);
        return NULL;
    }
    const char *name = arena_copy(&x->request.arena, x->route.model, x->route.model_length);
    if (!name) err_set(err, ST_NO_MEMORY, "no memory");
    return name;
}

/* ---- Triton's repository control ---- */

/* A file of the request: base64 in JSON, its bytes as they are over gRPC. */
static enum status read_file(struct exchange *x, const struct json *j, struct repository_file *f, struct err *err)
{
    struct buf bytes;
    if (j->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "the parameter '%.100s' must be the file's bytes%s", j->key, x->loop ? "" : " in base64");
    *f = (struct repository_file){ .path = j->key + strlen("file:"), .bytes = j->string.text, .length = j->string.length };
    if (x->loop) return ST_OK;
    buf_init(&bytes, 0);
    bool is = json_read_base64(&bytes, j->string.text, j->string.length);
    f->bytes = is && !bytes.failed ? arena_copy(&x->request.arena, bytes.data ? bytes.data : "", bytes.length) : NULL;
    f->length = bytes.length;
    buf_free(&bytes);
    if (!is) return err_set(err, ST_BAD_INPUT, "the parameter '%.100s' is no base64", j->key);
    return f->bytes ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for the files of the request");
}

static enum status read_load(struct exchange *x, const struct json **config, struct repository_file **files, int *count, struct err *err)
{
    struct json *root;
    enum status st = serve_read_object(x, &root, err);
    if (st) return st;
    const struct json *parameters = json_get(root, "parameters");
    bool given = parameters && parameters->type == JSON_OBJECT;
    *config = NULL;
    *count = 0;
    *files = arena_calloc(&x->request.arena, (given ? parameters->list.count : 0) + 1, sizeof **files);
    if (!*files) return err_set(err, ST_NO_MEMORY, "no memory for the request's parameters");
    for (const struct json *j = given ? parameters->list.first : NULL; j && !st; j = j->next) {
        if (!strcmp(j->key, "config") && j->type == JSON_STRING) *config = j;
        else if (!strncmp(j->key, "file:", 5)) st = read_file(x, j, &(*files)[(*count)++], err);
        else st = err_set(err, ST_BAD_INPUT, "Unrecognized parameter '%.64s' for model load", j->key);
    }
    if (!st && *count && !*config) st = err_set(err, ST_BAD_INPUT, "override model directory, expected non-empty 'config' parameter beside the files");
    return st;
}

static void do_load(struct exchange *x)
{
    const struct json *config;
    struct repository_file *files;
    int count;
    const char *name = model_of(x, &x->error);
    if (!name || read_load(x, &config, &files, &count, &x->error)) return;
    if (count) registry_load_files(x->server->registry, name, config->string.text, config->string.length, files, count, x->who, &x->error);
    else registry_load(x->server->registry, name, config ? config->string.text : NULL, config ? config->string.length : 0, x->who, &x->error);
}

static void do_unload(struct exchange *x)
{
    struct json *root;
    const char *name = model_of(x, &x->error);
    if (!name || serve_read_object(x, &root, &x->error)) return;
    const struct json *dependents = json_get(json_get(root, "parameters"), "unload_dependents");
    enum status st = registry_unload(x->server->registry, name, dependents && dependents->type == JSON_BOOL && dependents->boolean, x->who, &x->error);
    if (st == ST_NOT_FOUND) x->error = (struct err){ 0 };      /* what is not there is unloaded: Triton answers 200 */
}

/* ---- our own admin routes ---- */

static void do_publish(struct exchange *x)
{
    const char *name = model_of(x, &x->error);
    if (!name || registry_publish(x->server->registry, name, x->route.version, x->who, &x->error)) return;
    buf_printf(&x->answer, "{\"model\":\"%s\",\"version\":%lld}", name, (long long)x->route.version);
}

static enum status version_of(struct exchange *x, int64_t *version, struct err *err)
{
    struct json *root;
    enum status st = serve_read_object(x, &root, err);
    if (st) return st;
    const struct json *j = json_get(root, "version");
    char text[32] = "";
    int64_t n;
    if (j && j->type == JSON_STRING && j->string.length < sizeof text) memcpy(text, j->string.text, j->string.length);
    else if (json_as_int64(j, &n)) snprintf(text, sizeof text, "%lld", (long long)n);
    return model_version_parse(text, strlen(text), version) ? ST_OK : err_set(err, ST_BAD_INPUT, "'version' must be a number from 1 to 2147483647");
}

static void do_activate(struct exchange *x)
{
    int64_t version;
    const char *name = model_of(x, &x->error);
    if (!name || version_of(x, &version, &x->error) || registry_activate(x->server->registry, name, version, x->who, &x->error)) return;
    buf_printf(&x->answer, "{\"model\":\"%s\",\"version\":%lld}", name, (long long)version);
}

static void do_alias(struct exchange *x)
{
    int64_t version;
    const char *name = model_of(x, &x->error), *alias;
    if (!name || version_of(x, &version, &x->error)) return;
    if (!model_name_valid(x->route.name, x->route.name_length)) {
        err_set(&x->error, ST_BAD_INPUT, "an alias is made of letters, digits, '.', '_' and '-', at most %d", MODEL_NAME_MAX);
        return;
    }
    alias = arena_copy(&x->request.arena, x->route.name, x->route.name_length);
    if (!alias || registry_set_alias(x->server->registry, name, alias, version, x->who, &x->error)) return;
    buf_printf(&x->answer, "{\"model\":\"%s\",\"alias\":\"%s\",\"version\":%lld}", name, alias, (long long)version);
}

static void do_models(struct exchange *x) { registry_write_models_json(x->server->registry, &x->answer); }

static void do_audit(struct exchange *x)
{
    const char *after = http_query(x->call, "after");
    registry_write_audit_json(x->server->registry, after ? strtoll(after, NULL, 10) : 0, AUDIT_ROWS, &x->answer, &x->error);
}

static void do_drain(struct exchange *x)
{
    registry_audit(x->server->registry, x->who, "drain", "", "");
    atomic_store(&x->server->draining, true);
    atomic_store(&x->server->drain_asked, true);
    buf_puts(&x->answer, "{\"draining\":true}");
}

/* ---- uploads: the body goes to the store as it comes ---- */

static bool upload_piece(void *context, struct http_call *c, const void *data, size_t n)
{
    struct exchange *x = http_user(c);
    (void)context;
    if (!x->error.status && x->upload) registry_upload_write(x->upload, data, n, &x->error);
    return true;      /* the rest of a failed upload is read and thrown away, so that the client hears why */
}

void serve_upload_begin(struct exchange *x)
{
    struct err err;
    uint8_t digest[DIGEST_BYTES];
    const char *header = http_header(x->call, "X-Digest"), *name = model_of(x, &err), *file;
    enum status st = name ? ST_OK : err.status;
    if (!st && http_body_declared(x->call) == UINT64_MAX) st = err_set(&err, ST_BAD_INPUT, "an upload needs a Content-Length");
    if (!st && http_header(x->call, "Content-Encoding")) st = err_set(&err, ST_BAD_MEDIA, "an upload is sent as it is, without Content-Encoding");
    if (!st && (!header || strncmp(header, "sha256=", 7) || !digest_from_hex(header + 7, strlen(header + 7), digest)))
        st = err_set(&err, ST_BAD_INPUT, "the header X-Digest: sha256=<64 lower-case hex digits> is needed");
    if (!st) {
        file = arena_copy(&x->request.arena, x->route.name, x->route.name_length);
        st = file ? registry_upload_begin(x->server->registry, name, x->route.version, file, http_body_declared(x->call), digest, &x->upload, &err)
                  : err_set(&err, ST_NO_MEMORY, "no memory for the upload");
    }
    if (st) serve_error(x, &err);
    else http_body_sink(x->call, upload_piece);
}

static void do_upload(struct exchange *x)
{
    struct upload *u = x->upload;
    x->upload = NULL;
    if (x->error.status) {
        registry_upload_abort(u);
        return;
    }
    if (registry_upload_commit(u, x->who, &x->error)) return;
    x->answer_status = 201;
    buf_printf(&x->answer, "{\"bytes\":%llu}", (unsigned long long)http_body_declared(x->call));
}

bool serve_admin_route(struct exchange *x)
{
    void (*job)(struct exchange *) = NULL;
    switch (x->route.route) {
    case ROUTE_LOAD: job = do_load; break;
    case ROUTE_UNLOAD: job = do_unload; break;
    case ROUTE_UPLOAD: job = do_upload; break;
    case ROUTE_PUBLISH: job = do_publish; break;
    case ROUTE_ACTIVATE: job = do_activate; break;
    case ROUTE_ALIAS: job = do_alias; break;
    case ROUTE_ADMIN_MODELS: job = do_models; break;
    case ROUTE_ADMIN_AUDIT: job = do_audit; break;
    case ROUTE_DRAIN: job = do_drain; break;
    default: return false;
    }
    serve_in_job(x, job);
    return true;
}
