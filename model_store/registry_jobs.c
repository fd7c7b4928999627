/* Two threads. The loader does every load, unload and look at the store, one at a time, in the order in which they were asked for; who asked
 * waits for its job. The reaper closes what was replaced, once nobody pins it any more, so that a slow request holds up only its own version. */
#include "model_store/registry_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/threads.h"

enum { DRAIN_SECONDS = 30 };

static struct timespec after_ms(uint32_t ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    return t;
}

/* ---- the loader ---- */

static void set_config(struct registry *r, struct model_entry *m, char *json, size_t length)
{
    pthread_mutex_lock(&r->lock);
    m->config_json = json;
    m->config_length = json ? length : 0;
    pthread_mutex_unlock(&r->lock);
}

/* Files that the request brings stand in place of the model's folder while it is loaded from them. When that fails what was there before stands again. */
static enum status load_model(struct registry *r, struct model_entry *m, struct job *j)
{
    uint64_t was = 0, now = 0;
    char *before = m->config_json, *json = j->config_json ? strndup(j->config_json, j->config_length) : NULL;
    size_t length_before = m->config_length;
    bool wanted = m->wanted;
    if (j->config_json && !json) return err_set(&j->err, ST_NO_MEMORY, "no memory for a model's config");
    enum status st = repository_override_set(r->repository, m->name, j->override, &was, &j->err);
    if (st) {
        free(json);
        return st;
    }
    set_config(r, m, json, j->config_length);
    pthread_mutex_lock(&r->lock);
    m->wanted = true;
    pthread_mutex_unlock(&r->lock);
    st = control_load_model(r, m, &j->err);
    if (st && j->override) {
        repository_override_set(r->repository, m->name, was, &now, NULL);
        set_config(r, m, before, length_before);
        control_look_again(r, m, wanted);
        free(json);
        return st;
    }
    free(before);
    if (was != j->override) repository_override_remove(r->repository, was);
    return st;
}

static enum status unload_model(struct registry *r, struct model_entry *m)
{
    uint64_t was;
    control_unload_model(r, m);
    repository_override_set(r->repository, m->name, 0, &was, NULL);
    repository_override_remove(r->repository, was);
    return ST_OK;
}

static enum status run_job(struct registry *r, struct job *j)
{
    bool in_store = j->override || repository_has_model(r->repository, j->model);
    struct model_entry *m = in_store ? registry_add_model(r, j->model) : registry_find_model(r, j->model, strlen(j->model));
    if (!m && in_store) return err_set(&j->err, ST_NO_MEMORY, "no memory for another model");
    if (!m || (!in_store && j->kind != JOB_UNLOAD)) return err_set(&j->err, ST_NOT_FOUND, "the store has no model '%.130s'", j->model);
    switch (j->kind) {
    case JOB_LOAD:
        return load_model(r, m, j);
    case JOB_UNLOAD:
        return unload_model(r, m);
    case JOB_LOAD_VERSION:
        return control_load_version(r, m, j->version, &j->err);
    case JOB_PUBLISHED: {
        struct version_entry *v = registry_add_version(r, m, j->version);
        if (!v) return err_set(&j->err, ST_NO_MEMORY, "no memory for another version");
        control_sync_names(r, m);
        pthread_mutex_lock(&r->lock);
        v->keep = true;
        m->wanted |= r->o.control != CONTROL_EXPLICIT;
        pthread_mutex_unlock(&r->lock);
        return r->o.control == CONTROL_EXPLICIT ? ST_OK : control_load_version(r, m, j->version, &j->err);      /* explicit: the next load or activation takes it */
    }
    case JOB_ACTIVATE:
        control_sync_names(r, m);
        pthread_mutex_lock(&r->lock);
        m->wanted = true;
        for (int i = 0; i < m->count; i++) m->versions[i].keep = false;
        pthread_mutex_unlock(&r->lock);
        return control_load_model(r, m, &j->err);
    case JOB_ALIASES:
        control_sync_names(r, m);
        return ST_OK;
    }
    return ST_INTERNAL;
}

static enum status run_one(struct registry *r, struct job *j)
{
    enum status st = run_job(r, j);
    if (st && j->override) repository_override_remove(r->repository, j->override);
    return st;
}

/* Swaps faster than old versions drain would pile them up. */
static void wait_for_room(struct registry *r)
{
    struct timespec until = after_ms(DRAIN_SECONDS * 1000);
    while (r->retired_count > RETIRED_MAX && !r->closing)
        if (pthread_cond_timedwait(&r->changed, &r->lock, &until)) return;
}

static void *run_loader(void *argument)
{
    struct registry *r = argument;
    control_start_models(r);
    pthread_mutex_lock(&r->lock);
    r->settled = true;
    pthread_cond_broadcast(&r->changed);
    struct timespec next = after_ms(r->o.poll_ms);
    while (!r->closing) {
        struct job *j = r->first_job;
        if (j) {
            r->first_job = j->next;
            if (!r->first_job) r->last_job = NULL;
            wait_for_room(r);
            pthread_mutex_unlock(&r->lock);
            j->status = run_one(r, j);
            pthread_mutex_lock(&r->lock);
            j->done = true;
            pthread_cond_broadcast(&r->changed);
        } else if (r->o.control != CONTROL_POLL) {
            pthread_cond_wait(&r->changed, &r->lock);
        } else if (pthread_cond_timedwait(&r->changed, &r->lock, &next) == ETIMEDOUT) {
            pthread_mutex_unlock(&r->lock);
            control_poll_store(r);
            next = after_ms(r->o.poll_ms);
            pthread_mutex_lock(&r->lock);
        }
    }
    for (struct job *j = r->first_job; j;) {        /* their owners' stacks: not touched after `done` */
        struct job *following = j->next;
        j->status = err_set(&j->err, ST_UNAVAILABLE, "the server is stopping");
        j->done = true;
        j = following;
    }
    r->first_job = r->last_job = NULL;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

enum status registry_run_job(struct registry *r, struct job *j, struct err *err)
{
    pthread_mutex_lock(&r->lock);
    if (r->closing) {
        pthread_mutex_unlock(&r->lock);
        return err_set(err, ST_UNAVAILABLE, "the server is stopping");
    }
    if (r->last_job) r->last_job->next = j;
    else r->first_job = j;
    r->last_job = j;
    pthread_cond_broadcast(&r->changed);
    while (!j->done) pthread_cond_wait(&r->changed, &r->lock);
    if (j->kind == JOB_UNLOAD && !j->status) {      /* its memory is seen to return, unless a request holds it very long */
        struct timespec until = after_ms(DRAIN_SECONDS * 1000);
        struct model_entry *m = registry_find_model(r, j->model, strlen(j->model));
        while (m && m->retiring && !pthread_cond_timedwait(&r->changed, &r->lock, &until)) {}
    }
    pthread_mutex_unlock(&r->lock);
    return j->status ? err_set(err, j->status, "%s", j->err.text) : ST_OK;
}

/* ---- the reaper ---- */

void registry_retire(struct registry *r, struct loaded *l)
{
    l->retired = true;
    l->next = r->retired;
    r->retired = l;
    r->retired_count++;
    l->model->retiring++;
    pthread_cond_signal(&r->reap);
}

/* Takes one that nobody pins out of the list. */
static struct loaded *take_unpinned(struct registry *r)
{
    for (struct loaded **at = &r->retired; *at; at = &(*at)->next) {
        struct loaded *l = *at;
        if (l->pins) continue;
        *at = l->next;
        return l;
    }
    return NULL;
}

static void *run_reaper(void *argument)
{
    struct registry *r = argument;
    pthread_mutex_lock(&r->lock);
    for (;;) {
        struct loaded *l = take_unpinned(r);
        if (!l && r->drained && !r->retired) break;
        if (!l) {
            pthread_cond_wait(&r->reap, &r->lock);
            continue;
        }
        struct model_entry *m = l->model;
        int64_t version = l->v.version;
        pthread_mutex_unlock(&r->lock);
        load_close_version(l);
        log_write(r->o.log, LOG_INFO, "unloaded", "%s version %" PRId64, m->name, version);
        pthread_mutex_lock(&r->lock);
        m->retiring--;
        r->retired_count--;
        struct version_entry *v = registry_find_version(m, version);
        if (v && v->state == VERSION_UNLOADING) v->state = VERSION_UNAVAILABLE;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

enum status registry_start_threads(struct registry *r, struct err *err)
{
    enum status st = thread_start(&r->reaper, "reaper", run_reaper, r, err);
    r->has_reaper = !st;
    if (!st) st = thread_start(&r->loader, "loader", run_loader, r, err);
    r->has_loader = !st;
    if (st) registry_stop_threads(r);
    return st;
}

/* No job is accepted any more; every version is retired, and waited for until its last pin is gone. */
void registry_stop_threads(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (r->has_loader) pthread_join(r->loader, NULL);
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < r->model_count; i++) {
        for (int k = 0; k < r->models[i]->count; k++) {
            struct version_entry *v = &r->models[i]->versions[k];
            if (!v->live) continue;
            registry_retire(r, v->live);
            v->live = NULL;
            v->state = VERSION_UNLOADING;
        }
    }
    r->drained = true;
    pthread_cond_broadcast(&r->reap);
    pthread_mutex_unlock(&r->lock);
    if (r->has_reaper) pthread_join(r->reaper, NULL);
    r->has_loader = r->has_reaper = false;
}
