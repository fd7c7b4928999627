/* Which versions of a model ought to be loaded, and making it so. The rule is one for every mode: the policy (with the default by the
 * operator's word as its newest) names the wanted versions; those that are not live or whose files changed are loaded; only when all of them
 * serve are the others let go. So whatever fails, what served goes on serving. */
#include "model_store/registry_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/kernels.h"

enum { FALLBACK_MAX = 8 };

static uint64_t hash_bytes(uint64_t h, const void *data, size_t length)
{
    for (const unsigned char *p = data; length; p++, length--) h = (h ^ *p) * 0x100000001b3u;
    return h;
}

/* Files, and the config of the load request where there is one. */
static uint64_t stamp_of(struct registry *r, const struct model_entry *m, int64_t version)
{
    uint64_t h = repository_stamp(r->repository, m->name, version);
    return h && m->config_json ? hash_bytes(h, m->config_json, m->config_length) | 1 : h;
}

static void add_alias(void *ctx, const char *alias, int64_t version)
{
    struct alias_list *l = ctx;
    if (l->count == ALIASES_MAX) return;
    snprintf(l->entries[l->count].name, sizeof l->entries[0].name, "%s", alias);
    l->entries[l->count++].version = version;
}

void control_sync_names(struct registry *r, struct model_entry *m)
{
    int64_t active = m->active;
    if (!catalog_find_active(r->catalog, m->name, &active)) log_write(r->o.log, LOG_ERROR, "catalog", "%s: the activated version cannot be read", m->name);
    r->scratch.count = 0;
    bool whole = catalog_each_alias(r->catalog, m->name, add_alias, &r->scratch);
    pthread_mutex_lock(&r->lock);
    m->active = active;
    if (whole) m->aliases = r->scratch;
    pthread_mutex_unlock(&r->lock);
}

static void set_state(struct registry *r, struct version_entry *v, enum version_state state, const char *reason)
{
    pthread_mutex_lock(&r->lock);
    v->state = state;
    snprintf(v->reason, sizeof v->reason, "%s", reason);
    pthread_mutex_unlock(&r->lock);
}

static void set_on_disk(struct registry *r, struct version_entry *v, bool there)
{
    pthread_mutex_lock(&r->lock);
    v->on_disk = there;
    pthread_mutex_unlock(&r->lock);
}

/* The one pointer change. */
static void publish(struct registry *r, struct version_entry *v, struct loaded *l)
{
    pthread_mutex_lock(&r->lock);
    struct loaded *old = v->live;
    v->live = l;
    v->state = VERSION_READY;
    v->reason[0] = 0;
    if (old) registry_retire(r, old);
    pthread_mutex_unlock(&r->lock);
}

static void retire(struct registry *r, struct model_entry *m, struct version_entry *v, const char *reason)
{
    pthread_mutex_lock(&r->lock);
    if (v->live) {
        registry_retire(r, v->live);
        v->live = NULL;
        v->state = VERSION_UNLOADING;
    }
    snprintf(v->reason, sizeof v->reason, "%s", reason);
    pthread_mutex_unlock(&r->lock);
    catalog_note_state(r->catalog, m->name, v->version, "UNAVAILABLE", reason);
}

enum status control_load_version(struct registry *r, struct model_entry *m, int64_t version, struct err *err)
{
    uint64_t stamp = stamp_of(r, m, version);
    struct loaded *l = NULL;
    struct version_entry *v = registry_add_version(r, m, version);
    if (!v) return err_set(err, ST_NO_MEMORY, "no memory for another version");
    if (!stamp) return err_set(err, ST_NOT_FOUND, "failed to load '%s', the store has no version %" PRId64 " of it", m->name, version);
    set_on_disk(r, v, true);
    if (v->live && v->live->stamp == stamp) return ST_OK;
    set_state(r, v, VERSION_LOADING, "");
    log_write(r->o.log, LOG_INFO, "loading", "%s version %" PRId64, m->name, version);
    enum status st = load_open_version(r, m, version, stamp, &l, err);
    parallel_dismiss();                    /* the loader waits now, and its team would be one thread too many */
    if (st) {
        set_state(r, v, v->live ? VERSION_READY : VERSION_UNAVAILABLE, err->text);
        log_write(r->o.log, LOG_ERROR, "load failed", "%s version %" PRId64 ": %s", m->name, version, err->text);
        catalog_note_state(r->catalog, m->name, version, "UNAVAILABLE", err->text);
        return err_prefix(err, "failed to load '%s' version %" PRId64, m->name, version);
    }
    log_write(r->o.log, LOG_INFO, "loaded", "%s version %" PRId64 " digest %.16s in %.1f ms", m->name, version, l->v.digest, (double)l->v.load_ns * 1e-6);
    const struct signature_precision *p = &l->v.signature->precision;
    if (p->name && p->error >= 0) log_write(r->o.log, LOG_INFO, "precision", "%s version %" PRId64 " is computed in %s: %s was %.2f times as fast as f32, its largest error %.2e", m->name, version, p->name, p->tried, p->gain, p->error);
    publish(r, v, l);
    catalog_note_state(r->catalog, m->name, version, "READY", "");
    return ST_OK;
}

/* Sets on_disk of every version; a version that is gone is forgotten, so that its number may come back with other files. */
static enum status look_at_disk(struct registry *r, struct model_entry *m, int *count, struct err *err)
{
    int64_t *found = mem_alloc_array(REPOSITORY_VERSIONS_MAX, sizeof *found);
    if (!found) return err_set(err, ST_NO_MEMORY, "no memory to list versions");
    enum status st = repository_list_versions(r->repository, m->name, found, REPOSITORY_VERSIONS_MAX, count, err);
    for (int i = 0; !st && i < *count; i++)
        if (!registry_add_version(r, m, found[i])) st = err_set(err, ST_NO_MEMORY, "no memory for another version");
    bool overridden = repository_overridden(r->repository, m->name);      /* its own versions are not gone, only not read */
    for (int i = 0, at = 0; i < m->count; i++) {
        struct version_entry *v = &m->versions[i];
        while (at < *count && found[at] < v->version) at++;
        bool there = at < *count && found[at] == v->version;
        if (v->on_disk && !there && !overridden) catalog_forget_version(r->catalog, m->name, v->version);
        set_on_disk(r, v, there);
    }
    free(found);
    return st;
}

void control_look_again(struct registry *r, struct model_entry *m, bool wanted)
{
    int count;
    struct err ignored;
    look_at_disk(r, m, &count, &ignored);
    pthread_mutex_lock(&r->lock);
    m->wanted = wanted;
    pthread_mutex_unlock(&r->lock);
}

static bool chosen_by_policy(const struct model_config *c, int64_t version)
{
    if (c->policy == VERSION_ALL) return true;
    for (int i = 0; i < c->specific_count; i++)
        if (c->specific[i] == version) return true;
    return false;
}

/* wanted[i] for m->versions[i]; returns how many. */
static int choose_versions(const struct model_entry *m, const struct model_config *c, bool *wanted)
{
    bool active_there = false;
    int chosen = 0;
    uint32_t latest = c->latest;
    for (int i = 0; i < m->count; i++) active_there |= m->active == m->versions[i].version && m->versions[i].on_disk;
    for (int i = m->count - 1; i >= 0; i--) {
        const struct version_entry *v = &m->versions[i];
        wanted[i] = false;
        if (!v->on_disk) continue;
        if (c->policy == VERSION_LATEST) {
            if (latest && (!active_there || v->version <= m->active)) wanted[i] = true, latest--;
        } else {
            wanted[i] = chosen_by_policy(c, v->version);
        }
        if (v->keep || (active_there && v->version == m->active)) wanted[i] = true;
        chosen += wanted[i];
    }
    return chosen;
}

static bool any_live(const struct model_entry *m)
{
    for (int i = 0; i < m->count; i++)
        if (m->versions[i].live) return true;
    return false;
}

/* Nothing serves and the newest is broken: an older one is better than none (it is said in the log and the index). */
static void load_fallback(struct registry *r, struct model_entry *m, const bool *wanted)
{
    int tries = 0;
    for (int i = m->count - 1; i >= 0 && tries < FALLBACK_MAX; i--) {
        struct err ignored;
        if (wanted[i] || !m->versions[i].on_disk) continue;
        tries++;
        if (control_load_version(r, m, m->versions[i].version, &ignored)) continue;
        log_write(r->o.log, LOG_WARNING, "degraded", "%s: version %" PRId64 " serves in place of one that failed to load", m->name, m->versions[i].version);
        return;
    }
}

static enum status read_policy(struct registry *r, struct model_entry *m, struct model_config **out, struct err *err)
{
    int64_t newest = m->active;
    for (int i = 0; !newest && i < m->count; i++)
        if (m->versions[m->count - 1 - i].on_disk) newest = m->versions[m->count - 1 - i].version;
    enum status st = load_read_config(r, m, newest, NULL, out, err);
    if (!st) return ST_OK;
    for (int i = 0; i < m->count; i++)
        if (m->versions[i].on_disk && !m->versions[i].live) set_state(r, &m->versions[i], VERSION_UNAVAILABLE, err->text);
    log_write(r->o.log, LOG_ERROR, "load failed", "%s: %s", m->name, err->text);
    return err_prefix(err, "failed to load '%s'", m->name);
}

enum status control_load_model(struct registry *r, struct model_entry *m, struct err *err)
{
    struct model_config *c = NULL;
    int count = 0, chosen;
    enum status st = look_at_disk(r, m, &count, err), first = ST_OK;
    struct err ignored;
    if (st) return st == ST_NOT_FOUND ? err_set(err, st, "failed to load '%s', failed to poll from model repository", m->name) : st;
    if (!count) return err_set(err, ST_BAD_INPUT, "failed to load '%s', its folder holds no version (a folder with a number for a name)", m->name);
    st = read_policy(r, m, &c, err);
    if (st) return st;
    bool *wanted = mem_calloc_array((uint64_t)m->count, sizeof *wanted);
    chosen = wanted ? choose_versions(m, c, wanted) : 0;
    bool latest = c->policy == VERSION_LATEST, overridden = repository_overridden(r->repository, m->name);      /* then what is not there may still serve */
    model_config_free(c);
    if (!wanted) return err_set(err, ST_NO_MEMORY, "no memory to choose versions");
    if (!chosen) first = err_set(err, ST_BAD_INPUT, "failed to load '%s', its version policy selects none of the store's versions", m->name);
    for (int i = 0; i < m->count; i++) {
        if (!wanted[i]) continue;
        st = control_load_version(r, m, m->versions[i].version, first ? &ignored : err);
        if (st && !first) first = st;
    }
    if (first && latest && chosen && !any_live(m)) load_fallback(r, m, wanted);
    for (int i = 0; i < m->count; i++) {
        struct version_entry *v = &m->versions[i];
        if (wanted[i] || !v->live || (first && (v->on_disk || overridden))) continue;
        retire(r, m, v, v->on_disk ? "not selected by the version policy" : "removed from the store");
    }
    free(wanted);
    return first;
}

void control_unload_model(struct registry *r, struct model_entry *m)
{
    pthread_mutex_lock(&r->lock);
    m->wanted = false;
    free(m->config_json);
    m->config_json = NULL;
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < m->count; i++) {
        struct version_entry *v = &m->versions[i];
        v->keep = false;
        if (v->live) {
            retire(r, m, v, "unloaded");
            continue;
        }
        pthread_mutex_lock(&r->lock);
        if (v->state == VERSION_UNAVAILABLE) snprintf(v->reason, sizeof v->reason, "unloaded");
        pthread_mutex_unlock(&r->lock);
    }
}

/* ---- at start ---- */

struct name_list { char **names; int count, room; };

static void add_name(void *ctx, const char *name)
{
    struct name_list *l = ctx;
    if (l->count == l->room) {
        char **more = mem_realloc_array(l->names, (uint64_t)(l->room * 2 + 8), sizeof *more);
        if (!more) return;
        l->names = more;
        l->room = l->room * 2 + 8;
    }
    l->names[l->count] = strdup(name);
    if (l->names[l->count]) l->count++;
}

static uint64_t stamp_of_model(struct registry *r, const char *name)
{
    int64_t *versions = mem_alloc_array(REPOSITORY_VERSIONS_MAX, sizeof *versions);
    int count = 0;
    uint64_t h = 1469598103934665603u;
    if (!versions || repository_list_versions(r->repository, name, versions, REPOSITORY_VERSIONS_MAX, &count, NULL)) count = 0;
    for (int i = 0; i < count; i++) {
        uint64_t part[2] = { (uint64_t)versions[i], repository_stamp(r->repository, name, versions[i]) };
        h = hash_bytes(h, part, sizeof part);
    }
    free(versions);
    return h;
}

static void start_model(struct registry *r, const char *name)
{
    struct err err;
    struct model_entry *m = registry_add_model(r, name);
    if (!m) return;
    pthread_mutex_lock(&r->lock);
    m->wanted = true;
    bool closing = r->closing;
    pthread_mutex_unlock(&r->lock);
    if (closing) return;
    if (r->o.control == CONTROL_POLL) m->stamp_seen = m->stamp_done = stamp_of_model(r, name);
    if (control_load_model(r, m, &err)) log_write(r->o.log, LOG_ERROR, "load failed", "%s", err.text);
}

void control_start_models(struct registry *r)
{
    struct name_list l = { 0 };
    char **all = NULL;
    int count = 0;
    struct err err;
    bool explicit = r->o.control == CONTROL_EXPLICIT, everything = !explicit;
    for (int i = 0; explicit && i < r->o.load_at_start_count; i++) everything |= !strcmp(r->start_names[i], "*");
    if (everything) {
        if (repository_list_models(r->repository, &all, &count, &err)) log_write(r->o.log, LOG_ERROR, "store", "%s", err.text);
        for (int i = 0; i < count; i++) add_name(&l, all[i]);
        free(all);
    } else if (r->o.load_at_start_count) {
        for (int i = 0; i < r->o.load_at_start_count; i++) add_name(&l, r->start_names[i]);
    } else {
        catalog_each_loaded(r->catalog, add_name, &l);
    }
    for (int i = 0; i < l.count; i++) {
        if (repository_has_model(r->repository, l.names[i])) {
            start_model(r, l.names[i]);
            if (explicit && r->o.load_at_start_count) catalog_record_loaded(r->catalog, l.names[i], true, "start", NULL);
        } else {
            log_write(r->o.log, LOG_ERROR, "load failed", "failed to load '%.130s', failed to poll from model repository", l.names[i]);
        }
        free(l.names[i]);
    }
    free(l.names);
}

/* ---- poll mode ---- */

/* A change is acted upon when two looks in a row agree, so that files are not loaded while they are being copied. */
static void poll_model(struct registry *r, const char *name)
{
    struct err err;
    struct model_entry *m = registry_add_model(r, name);
    uint64_t stamp = m ? stamp_of_model(r, name) : 0;
    if (!m) return;
    bool settled = stamp == m->stamp_seen && stamp != m->stamp_done;
    m->stamp_seen = stamp;
    if (!settled) return;
    m->stamp_done = stamp;
    pthread_mutex_lock(&r->lock);
    m->wanted = true;
    pthread_mutex_unlock(&r->lock);
    if (control_load_model(r, m, &err)) log_write(r->o.log, LOG_ERROR, "load failed", "%s", err.text);
}

void control_poll_store(struct registry *r)
{
    char **names = NULL;
    int count = 0;
    struct err err;
    if (repository_list_models(r->repository, &names, &count, &err)) {
        log_write(r->o.log, LOG_ERROR, "store", "%s", err.text);
        return;
    }
    for (int i = 0; i < count; i++) poll_model(r, names[i]);
    free(names);
    for (int i = 0; i < r->model_count; i++) {
        struct model_entry *m = r->models[i];
        if (!m->wanted || repository_has_model(r->repository, m->name)) continue;
        log_write(r->o.log, LOG_INFO, "removed", "%s is gone from the store", m->name);
        for (int k = 0; k < m->count; k++)
            if (m->versions[k].on_disk) set_on_disk(r, &m->versions[k], false), catalog_forget_version(r->catalog, m->name, m->versions[k].version);
        control_unload_model(r, m);
        m->stamp_seen = m->stamp_done = 0;
    }
}
