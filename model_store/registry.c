/* What is loaded and how it is reached. A pin is a search among names and a counter under one short lock; the loader thread changes
 * `live` under the same lock, so a request gets the old version or the new one, whole, and a version is closed only after its last pin. */
#include "model_store/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "base/checked.h"

/* ---- entries ---- */

/* Index of the first model whose name is not below `name`. */
static int lower_bound(const struct registry *r, const char *name, size_t length)
{
    int low = 0, high = r->model_count;
    while (low < high) {
        int middle = (low + high) / 2, c = strncmp(r->models[middle]->name, name, length);
        if (c < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

struct model_entry *registry_find_model(struct registry *r, const char *name, size_t length)
{
    int i = lower_bound(r, name, length);
    return i < r->model_count && strlen(r->models[i]->name) == length && !memcmp(r->models[i]->name, name, length) ? r->models[i] : NULL;
}

struct version_entry *registry_find_version(struct model_entry *m, int64_t version)
{
    int low = 0, high = m->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (m->versions[middle].version < version) low = middle + 1;
        else high = middle;
    }
    return low < m->count && m->versions[low].version == version ? &m->versions[low] : NULL;
}

struct model_entry *registry_add_model(struct registry *r, const char *name)
{
    struct model_entry *m = registry_find_model(r, name, strlen(name));
    if (m) return m;
    m = calloc(1, sizeof *m);
    if (!m) return NULL;
    snprintf(m->name, sizeof m->name, "%s", name);
    pthread_mutex_lock(&r->lock);
    if (r->model_count == r->model_room) {
        struct model_entry **more = mem_realloc_array(r->models, (uint64_t)(r->model_room * 2 + 16), sizeof *more);
        if (!more) {
            pthread_mutex_unlock(&r->lock);
            free(m);
            return NULL;
        }
        r->models = more;
        r->model_room = r->model_room * 2 + 16;
    }
    int at = lower_bound(r, name, strlen(name));
    memmove(r->models + at + 1, r->models + at, sizeof *r->models * (size_t)(r->model_count - at));
    r->models[at] = m;
    r->model_count++;
    pthread_mutex_unlock(&r->lock);
    control_sync_names(r, m);
    return m;
}

struct version_entry *registry_add_version(struct registry *r, struct model_entry *m, int64_t version)
{
    struct version_entry *v = registry_find_version(m, version);
    if (v) return v;
    pthread_mutex_lock(&r->lock);
    if (m->count == m->room) {
        struct version_entry *more = mem_realloc_array(m->versions, (uint64_t)(m->room * 2 + 4), sizeof *more);
        if (!more) {
            pthread_mutex_unlock(&r->lock);
            return NULL;
        }
        m->versions = more;
        m->room = m->room * 2 + 4;
    }
    int at = m->count;
    while (at && m->versions[at - 1].version > version) at--;
    memmove(m->versions + at + 1, m->versions + at, sizeof *m->versions * (size_t)(m->count - at));
    m->versions[at] = (struct version_entry){ .version = version };
    m->count++;
    pthread_mutex_unlock(&r->lock);
    return &m->versions[at];
}

/* The activated one; where it does not serve, and where none was activated, the newest that serves. */
struct loaded *registry_default_version(struct model_entry *m)
{
    struct version_entry *active = m->active ? registry_find_version(m, m->active) : NULL;
    if (active && active->live) return active->live;
    for (int i = m->count - 1; i >= 0; i--)
        if (m->versions[i].live) return m->versions[i].live;
    return NULL;
}

/* ---- pins ---- */

static struct alias_entry *find_alias(struct model_entry *m, const char *alias, size_t length)
{
    for (int i = 0; i < m->aliases.count; i++)
        if (strlen(m->aliases.entries[i].name) == length && !memcmp(m->aliases.entries[i].name, alias, length)) return &m->aliases.entries[i];
    return NULL;
}

static enum status unknown(struct err *err, const char *name, size_t length, int64_t version)
{
    int shown = length > 128 ? 128 : (int)length;
    if (version) return err_set(err, ST_NOT_FOUND, "Request for unknown model: '%.*s' version %" PRId64 " is not found", shown, name, version);
    return err_set(err, ST_NOT_FOUND, "Request for unknown model: '%.*s' is not found", shown, name);
}

enum status registry_pin(struct registry *r, const char *name, size_t name_length, int64_t version, struct model_version **out, struct err *err)
{
    const char *at = memchr(name, '@', name_length);
    size_t length = at ? (size_t)(at - name) : name_length;
    enum status st = ST_OK;
    pthread_mutex_lock(&r->lock);
    struct model_entry *m = length && length <= MODEL_NAME_MAX ? registry_find_model(r, name, length) : NULL;
    struct alias_entry *alias = m && at ? find_alias(m, at + 1, name_length - length - 1) : NULL;
    if (!m || (at && !alias) || (alias && version && version != alias->version)) {
        st = unknown(err, name, name_length, version);
    } else {
        if (alias) version = alias->version;
        struct version_entry *v = version ? registry_find_version(m, version) : NULL;
        struct loaded *l = version ? (v ? v->live : NULL) : registry_default_version(m);
        if (l) l->pins++, *out = &l->v;
        else if (version && !v) st = unknown(err, name, name_length, version);
        else if (version) st = err_set(err, ST_UNAVAILABLE, "Request for unknown model: '%s' version %" PRId64 " is not at ready state", m->name, version);
        else st = err_set(err, m->wanted ? ST_UNAVAILABLE : ST_NOT_FOUND /* unloaded */, "Request for unknown model: '%s' has no available versions", m->name);
    }
    pthread_mutex_unlock(&r->lock);
    return st;
}

void registry_unpin(struct registry *r, struct model_version *v)
{
    struct loaded *l = (struct loaded *)v;
    pthread_mutex_lock(&r->lock);
    if (--l->pins == 0 && l->retired) pthread_cond_signal(&r->reap);
    pthread_mutex_unlock(&r->lock);
}

/* ---- what is there ---- */

bool registry_ready(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    bool ready = r->settled && !r->closing;
    for (int i = 0; ready && r->o.strict_readiness && i < r->model_count; i++)
        if (r->models[i]->wanted && !registry_default_version(r->models[i])) ready = false;
    pthread_mutex_unlock(&r->lock);
    return ready;
}

static const char *state_name(const struct version_entry *v)
{
    static const char *const names[] = { "", "LOADING", "READY", "UNAVAILABLE", "UNLOADING" };
    return v->live && v->state != VERSION_LOADING ? "READY" : names[v->state];
}

/* Versions that nobody ever asked for are not listed; a model that has none to list is one row with its name alone. */
void registry_index(struct registry *r, bool ready_only, void (*row)(void *ctx, const struct registry_index_row *row), void *ctx)
{
    char **names = NULL;
    int count = 0, at = 0;
    repository_list_models(r->repository, &names, &count, NULL);
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < r->model_count || at < count;) {
        int order = i == r->model_count ? 1 : at == count ? -1 : strcmp(r->models[i]->name, names[at]);
        if (order > 0) {                     /* in the store, never asked for */
            if (!ready_only) row(ctx, &(struct registry_index_row){ names[at], 0, "", "" });
            at++;
            continue;
        }
        struct model_entry *m = r->models[i++];
        bool listed = false, gone = order < 0;
        if (order == 0) at++;
        for (int k = 0; k < m->count; k++) {
            struct version_entry *v = &m->versions[k];
            if (!*state_name(v) || (ready_only && !v->live)) continue;
            row(ctx, &(struct registry_index_row){ m->name, v->version, state_name(v), v->reason });
            listed = true;
        }
        if (!listed && !ready_only && !gone) row(ctx, &(struct registry_index_row){ m->name, 0, "", "" });
    }
    pthread_mutex_unlock(&r->lock);
    free(names);
}

void registry_each(struct registry *r, void (*each)(void *ctx, struct model_version *v), void *ctx)
{
    struct loaded **all = NULL;
    int count = 0;
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < r->model_count; i++) count += r->models[i]->count;
    all = mem_calloc_array((uint64_t)count + 1, sizeof(struct loaded *));
    count = 0;
    for (int i = 0; all && i < r->model_count; i++)
        for (int k = 0; k < r->models[i]->count; k++)
            if (r->models[i]->versions[k].live) all[count] = r->models[i]->versions[k].live, all[count++]->pins++;
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < count; i++) {
        each(ctx, &all[i]->v);
        registry_unpin(r, &all[i]->v);
    }
    free(all);
}

int registry_versions(struct registry *r, const char *name, int64_t *out, int max, bool *known)
{
    int count = 0;
    pthread_mutex_lock(&r->lock);
    struct model_entry *m = registry_find_model(r, name, strlen(name));
    *known = m != NULL;
    for (int i = 0; m && i < m->count; i++) {
        if (!m->versions[i].live) continue;
        if (count < max) out[count] = m->versions[i].version;
        count++;
    }
    pthread_mutex_unlock(&r->lock);
    return count;
}

/* ---- opening and closing ---- */

static enum status copy_start_names(struct registry *r, struct err *err)
{
    r->start_names = mem_calloc_array((uint64_t)r->o.load_at_start_count + 1, sizeof(char *));
    if (!r->start_names) return err_set(err, ST_NO_MEMORY, "no memory for the registry");
    for (int i = 0; i < r->o.load_at_start_count; i++) {
        r->start_names[i] = strdup(r->o.load_at_start[i]);
        if (!r->start_names[i]) return err_set(err, ST_NO_MEMORY, "no memory for the registry");
    }
    return ST_OK;
}

static enum status open_catalog(struct registry *r, struct err *err)
{
    char path[4352];
    if (repository_read_only(r->repository)) {
        log_write(r->o.log, LOG_WARNING, "store", "the store is read-only: uploads are refused, and aliases, activations and the audit log last as long as this process");
        return catalog_open(&r->catalog, NULL, err);
    }
    snprintf(path, sizeof path, "%.4096s/.inferd/catalog.db", repository_root(r->repository));
    return catalog_open(&r->catalog, path, err);
}

static void free_registry(struct registry *r)
{
    for (int i = 0; i < r->model_count; i++) {
        free(r->models[i]->versions);
        free(r->models[i]->config_json);
        free(r->models[i]);
    }
    free(r->models);
    for (int i = 0; r->start_names && i < r->o.load_at_start_count; i++) free(r->start_names[i]);
    free(r->start_names);
    catalog_close(r->catalog);
    repository_close(r->repository);
    pthread_cond_destroy(&r->changed);
    pthread_cond_destroy(&r->reap);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

enum status registry_open(struct registry **out, const struct registry_options *o, struct err *err)
{
    struct registry *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "no memory for the registry");
    r->o = *o;
    r->members = (struct ensemble_models){ r, load_pin_member, load_unpin_member };
    if (!r->o.load_at_start) r->o.load_at_start_count = 0;
    if (!r->o.poll_ms) r->o.poll_ms = 1000;
    if (r->o.threads < 1) r->o.threads = 1;
    pthread_mutex_init(&r->lock, NULL);
    condition_init(&r->changed);
    condition_init(&r->reap);
    enum status st = copy_start_names(r, err);
    if (!st) st = repository_open(&r->repository, o->store, o->log, err);
    if (!st) st = open_catalog(r, err);
    if (!st) st = registry_start_threads(r, err);
    if (st) free_registry(r);
    else *out = r;
    return st;
}

void registry_settle(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->settled) pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

void registry_close(struct registry *r)
{
    if (!r) return;
    registry_stop_threads(r);
    free_registry(r);
}
