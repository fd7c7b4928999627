/* What operators ask for. Each call writes what must be durable from its own thread, so that a locked catalog holds up that caller alone
 * (at most five seconds), and leaves the loading to a job. A job that concerns names reads them back from the catalog: two calls at once
 * cannot leave memory and disk of different opinions. */
#include "model_store/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static enum status check_control(struct registry *r, const char *what, struct err *err)
{
    if (r->o.control == CONTROL_EXPLICIT) return ST_OK;
    return err_set(err, ST_UNAVAILABLE, "explicit model load / unload is not allowed: %s needs --control explicit", what);
}

static bool serves(struct registry *r, const char *name)
{
    pthread_mutex_lock(&r->lock);
    struct model_entry *m = registry_find_model(r, name, strlen(name));
    bool live = m && registry_default_version(m);
    pthread_mutex_unlock(&r->lock);
    return live;
}

static void note_failure(struct registry *r, const char *who, const char *action, const char *model, const struct err *err)
{
    catalog_note_audit(r->catalog, who, action, model, err ? err->text : "");
}

enum status registry_load(struct registry *r, const char *name, const char *config_json, size_t config_length, const char *who, struct err *err)
{
    struct job j = { .kind = JOB_LOAD, .model = name, .config_json = config_json, .config_length = config_length };
    struct err cause;
    enum status st = check_control(r, "a load", err);
    if (st) return st;
    if (!repository_has_model(r->repository, name)) return err_set(err, ST_NOT_FOUND, "failed to load '%.130s', failed to poll from model repository", name);
    st = catalog_record_loaded(r->catalog, name, true, who, err);
    if (st) return st;
    st = registry_run_job(r, &j, &cause);
    if (!st) return ST_OK;
    note_failure(r, who, "load failed", name, &cause);
    if (!serves(r, name)) catalog_note_unloaded(r->catalog, name);
    return err_set(err, st, "%s", cause.text);
}

enum status registry_load_files(struct registry *r, const char *name, const char *config_json, size_t config_length, const struct repository_file *files, int count, const char *who, struct err *err)
{
    struct job j = { .kind = JOB_LOAD, .model = name, .config_json = config_json, .config_length = config_length };
    struct err cause;
    enum status st = check_control(r, "a load", err);
    if (!st) st = repository_override_make(r->repository, files, count, &j.override, err);
    if (st) return st;
    catalog_note_audit(r->catalog, who, "load of the request's files", name, "");
    st = registry_run_job(r, &j, &cause);
    if (!st) return ST_OK;
    note_failure(r, who, "load failed", name, &cause);
    return err_set(err, st, "%s", cause.text);
}

/* Ensembles, the only models that depend on others, do not exist yet: `dependents` has nothing to do. */
enum status registry_unload(struct registry *r, const char *name, bool dependents, const char *who, struct err *err)
{
    struct job j = { .kind = JOB_UNLOAD, .model = name };
    (void)dependents;
    enum status st = check_control(r, "an unload", err);
    if (st) return st;
    pthread_mutex_lock(&r->lock);
    bool known = registry_find_model(r, name, strlen(name)) != NULL;
    pthread_mutex_unlock(&r->lock);
    if (!known && !repository_has_model(r->repository, name)) return err_set(err, ST_NOT_FOUND, "failed to unload '%.130s', the store has no such model", name);
    st = catalog_record_loaded(r->catalog, name, false, who, err);
    return st || !known ? st : registry_run_job(r, &j, err);
}

/* ---- uploads ---- */

struct upload { struct registry *r; struct repository_upload *u; char model[MODEL_NAME_MAX + 1]; char what[MODEL_NAME_MAX + 40]; };

enum status registry_upload_begin(struct registry *r, const char *model, int64_t version, const char *file, uint64_t size, const uint8_t digest[32], struct upload **out, struct err *err)
{
    struct upload *u = calloc(1, sizeof *u);
    if (!u) return err_set(err, ST_NO_MEMORY, "no memory for an upload");
    enum status st = repository_upload_begin(r->repository, model, version, file, size, digest, &u->u, err);
    if (st) {
        free(u);
        return st;
    }
    u->r = r;
    snprintf(u->model, sizeof u->model, "%s", model);
    snprintf(u->what, sizeof u->what, "version %" PRId64 " %.128s", version, file);
    *out = u;
    return ST_OK;
}

enum status registry_upload_write(struct upload *u, const void *data, size_t length, struct err *err) { return repository_upload_write(u->u, data, length, err); }

enum status registry_upload_commit(struct upload *u, const char *who, struct err *err)
{
    enum status st = repository_upload_commit(u->u, err);
    catalog_note_audit(u->r->catalog, who, st ? "upload refused" : "upload", u->model, u->what);
    free(u);
    return st;
}

void registry_upload_abort(struct upload *u)
{
    if (!u) return;
    repository_upload_abort(u->u);
    free(u);
}

/* ---- publish, activate, alias ---- */

/* Before a new version comes beside what serves: that one stays the default until somebody says otherwise, now by the catalog's word. */
static enum status hold_default(struct registry *r, const char *model, int64_t version, const char *who, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    struct model_entry *m = registry_find_model(r, model, strlen(model));
    struct loaded *now = m && !m->active ? registry_default_version(m) : NULL;
    int64_t hold = now && now->v.version != version ? now->v.version : 0;
    pthread_mutex_unlock(&r->lock);
    return hold ? catalog_record_active(r->catalog, model, hold, "keep default", who, err) : ST_OK;
}

enum status registry_publish(struct registry *r, const char *model, int64_t version, const char *who, struct err *err)
{
    struct job j = { .kind = JOB_PUBLISHED, .model = model, .version = version };
    char hex[65];
    enum status st = ST_OK;
    if (!model_name_valid(model, strlen(model))) return err_set(err, ST_BAD_INPUT, "not a model name");
    if (repository_is_staged(r->repository, model, version)) st = repository_publish(r->repository, model, version, err);
    else if (!repository_has_version(r->repository, model, version)) st = err_set(err, ST_NOT_FOUND, "nothing was uploaded for version %" PRId64 " of model '%s'", version, model);
    if (!st) st = repository_digest(r->repository, model, version, hex, NULL, NULL, err);
    if (!st) st = catalog_record_publish(r->catalog, model, version, hex, who, err);
    if (!st && r->o.control != CONTROL_EXPLICIT) st = hold_default(r, model, version, who, err);
    if (!st) st = registry_run_job(r, &j, err);
    else return st;
    if (st) note_failure(r, who, "load failed", model, err);
    return st ? err_prefix(err, "published, but") : ST_OK;
}

enum status registry_activate(struct registry *r, const char *model, int64_t version, const char *who, struct err *err)
{
    struct job load = { .kind = JOB_LOAD_VERSION, .model = model, .version = version }, activate = { .kind = JOB_ACTIVATE, .model = model, .version = version };
    if (!model_name_valid(model, strlen(model)) || version < 1 || !repository_has_version(r->repository, model, version))
        return err_set(err, ST_NOT_FOUND, "the store has no version %" PRId64 " of model '%.130s'", version, model);
    enum status st = registry_run_job(r, &load, err);
    if (st) {
        note_failure(r, who, "activate failed", model, err);
        return st;
    }
    if (r->o.control == CONTROL_EXPLICIT) st = catalog_record_loaded(r->catalog, model, true, who, err);
    if (!st) st = catalog_record_active(r->catalog, model, version, "activate", who, err);
    if (st) return st;
    if (repository_failpoint) repository_failpoint("activate recorded");
    /* From here on the activation holds whatever happens: what the policy wants besides it may fail without undoing it. */
    struct err other;
    if (registry_run_job(r, &activate, &other)) log_write(r->o.log, LOG_WARNING, "activate", "%s", other.text);
    return ST_OK;
}

enum status registry_set_alias(struct registry *r, const char *model, const char *alias, int64_t version, const char *who, struct err *err)
{
    struct job j = { .kind = JOB_ALIASES, .model = model };
    if (!model_name_valid(alias, strlen(alias))) return err_set(err, ST_BAD_INPUT, "not an alias: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most %d", MODEL_NAME_MAX);
    if (!model_name_valid(model, strlen(model)) || version < 1 || !repository_has_version(r->repository, model, version))
        return err_set(err, ST_NOT_FOUND, "the store has no version %" PRId64 " of model '%.130s'", version, model);
    pthread_mutex_lock(&r->lock);
    struct model_entry *m = registry_find_model(r, model, strlen(model));
    bool full = m && m->aliases.count == ALIASES_MAX;
    for (int i = 0; full && i < m->aliases.count; i++) full = strcmp(m->aliases.entries[i].name, alias) != 0;
    pthread_mutex_unlock(&r->lock);
    if (full) return err_set(err, ST_TOO_MANY, "model '%s' has %d aliases already", model, ALIASES_MAX);
    enum status st = catalog_record_alias(r->catalog, model, alias, version, who, err);
    return st ? st : registry_run_job(r, &j, err);
}

/* ---- what operators read ---- */

static void write_version(struct buf *out, struct model_entry *m, struct version_entry *v)
{
    static const char *const states[] = { "KNOWN", "LOADING", "READY", "UNAVAILABLE", "UNLOADING" };
    struct loaded *now = registry_default_version(m);
    buf_printf(out, "{\"version\":%" PRId64 ",\"state\":\"%s\",\"default\":%s,\"reason\":", v->version, v->live && v->state != VERSION_LOADING ? "READY" : states[v->state], now && now->v.version == v->version ? "true" : "false");
    json_write_text(out, v->reason);
    if (v->live)
        buf_printf(out, ",\"digest\":\"%s\",\"load_ms\":%.3f,\"memory_bytes\":%" PRIu64 ",\"pins\":%d", v->live->v.digest, (double)v->live->v.load_ns * 1e-6, v->live->v.memory_bytes, v->live->pins);
    buf_putc(out, '}');
}

void registry_write_models_json(struct registry *r, struct buf *out)
{
    pthread_mutex_lock(&r->lock);
    buf_puts(out, "{\"models\":[");
    for (int i = 0; i < r->model_count; i++) {
        struct model_entry *m = r->models[i];
        buf_puts(out, i ? ",{\"name\":" : "{\"name\":");
        json_write_text(out, m->name);
        buf_printf(out, ",\"wanted\":%s,\"active\":", m->wanted ? "true" : "false");
        if (m->active) buf_int(out, m->active);
        else buf_puts(out, "null");
        buf_puts(out, ",\"aliases\":{");
        for (int k = 0; k < m->aliases.count; k++) {
            if (k) buf_putc(out, ',');
            json_write_text(out, m->aliases.entries[k].name);
            buf_printf(out, ":%" PRId64, m->aliases.entries[k].version);
        }
        buf_puts(out, "},\"versions\":[");
        bool first = true;
        for (int k = 0; k < m->count; k++) {
            if (!m->versions[k].on_disk && !m->versions[k].live) continue;
            if (!first) buf_putc(out, ',');
            first = false;
            write_version(out, m, &m->versions[k]);
        }
        buf_puts(out, "]}");
    }
    buf_puts(out, "]}");
    pthread_mutex_unlock(&r->lock);
}

enum status registry_write_audit_json(struct registry *r, int64_t after, int limit, struct buf *out, struct err *err) { return catalog_write_audit_json(r->catalog, after, limit, out, err); }

void registry_audit(struct registry *r, const char *who, const char *action, const char *subject, const char *detail) { catalog_note_audit(r->catalog, who, action, subject, detail); }
