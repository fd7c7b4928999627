#include "engine/rate_limiter.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct resource {
    char     name[RATE_NAME_MAX];
    uint32_t fixed;              /* copies the operator gave; 0: as many as the most demanding member needs */
    uint32_t held;
    int      users;              /* members that need it */
    bool     global;
};

struct rate_member {
    struct rate_claim   claim;
    int                 at[RATE_NEEDS_MAX];      /* its needs in limiter.resources */
    uint64_t            stride;                  /* how far it has moved */
    uint64_t            ticket;                  /* of those equally far, who came first */
    pthread_cond_t      turn;
    bool                waiting;
    struct rate_member *next;                    /* in limiter.members */
};

struct rate_limiter {
    pthread_mutex_t     lock;                    /* guards all below */
    struct resource     resources[RATE_RESOURCES_MAX];
    struct rate_member *members;
    uint64_t            now;                     /* the stride of the last turn: who was idle begins here */
    uint64_t            tickets;
};

struct rate_limiter *rate_limiter_open(void)
{
    struct rate_limiter *l = calloc(1, sizeof *l);
    if (l) pthread_mutex_init(&l->lock, NULL);
    return l;
}

void rate_limiter_close(struct rate_limiter *l)
{
    if (!l) return;
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* The place of a resource; -1: there is no more room. One that nobody needs and nobody fixed gives its place up. */
static int place_of(struct rate_limiter *l, const char *name)
{
    int spare = -1;
    for (int i = 0; i < RATE_RESOURCES_MAX; i++) {
        bool used = l->resources[i].users || l->resources[i].fixed;
        if (used && !strcmp(l->resources[i].name, name)) return i;
        if (!used && spare < 0) spare = i;
    }
    if (spare >= 0) {
        l->resources[spare] = (struct resource){ 0 };
        strcpy(l->resources[spare].name, name);
    }
    return spare;
}

enum status rate_limiter_fix(struct rate_limiter *l, const char *text, struct err *err)
{
    const char *colon = strchr(text, ':');
    char name[RATE_NAME_MAX], *end = NULL;
    size_t n = colon ? (size_t)(colon - text) : 0;
    errno = 0;
    unsigned long count = colon ? strtoul(colon + 1, &end, 10) : 0;
    if (!n || n >= sizeof name || end == colon + 1 || colon[1] == '-' || errno || count < 1 || count > RATE_COPIES_MAX || (*end && strcmp(end, ":0")))
        return err_set(err, ST_BAD_INPUT, "--rate-limit-resource takes NAME:COUNT, or NAME:COUNT:0 for the one device there is, not '%.80s'; COUNT is 1 to %d", text, RATE_COPIES_MAX);
    memcpy(name, text, n);
    name[n] = 0;
    int at = place_of(l, name);
    if (at < 0) return err_set(err, ST_BAD_INPUT, "more than %d resources are given", RATE_RESOURCES_MAX);
    l->resources[at].fixed = (uint32_t)count;
    return ST_OK;
}

/* ---- members ---- */

static enum status join_need(struct rate_limiter *l, struct rate_member *m, int k, struct err *err)
{
    const struct rate_need *need = &m->claim.needs[k];
    int at = place_of(l, need->name);
    if (at < 0) return err_set(err, ST_UNAVAILABLE, "the loaded models name more than %d resources", RATE_RESOURCES_MAX);
    struct resource *r = &l->resources[at];
    if (r->users && r->global != need->global) return err_set(err, ST_BAD_INPUT, "resource '%s' is global for one model and of a device for another", need->name);
    if (r->fixed && need->count > r->fixed)
        return err_set(err, ST_BAD_INPUT, "resource '%s' is limited to %u, which would keep an instance that needs %u of it from ever running", need->name, r->fixed, need->count);
    r->global = need->global;
    r->users++;
    m->at[k] = at;
    return ST_OK;
}

static void leave_needs(struct rate_limiter *l, struct rate_member *m, int count)
{
    for (int k = 0; k < count; k++) l->resources[m->at[k]].users--;
}

enum status rate_limiter_join(struct rate_limiter *l, const struct rate_claim *claim, struct rate_member **out, struct err *err)
{
    struct rate_member *m = calloc(1, sizeof *m);
    if (!m) return err_set(err, ST_NO_MEMORY, "no memory for an instance's resources");
    m->claim = *claim;
    pthread_cond_init(&m->turn, NULL);
    enum status st = ST_OK;
    pthread_mutex_lock(&l->lock);
    for (int k = 0; k < claim->need_count && !st; k++)
        if ((st = join_need(l, m, k, err))) leave_needs(l, m, k);
    if (!st) {
        m->next = l->members;
        l->members = m;
    }
    pthread_mutex_unlock(&l->lock);
    if (st) {
        pthread_cond_destroy(&m->turn);
        free(m);
        return st;
    }
    *out = m;
    return ST_OK;
}

/* ---- turns; with the lock ---- */

static uint32_t copies(const struct rate_limiter *l, int at)
{
    uint32_t most = l->resources[at].fixed;
    if (most) return most;
    for (const struct rate_member *m = l->members; m; m = m->next)
        for (int k = 0; k < m->claim.need_count; k++)
            if (m->at[k] == at && m->claim.needs[k].count > most) most = m->claim.needs[k].count;
    return most;
}

static bool before(const struct rate_member *a, const struct rate_member *b) { return a->stride != b->stride ? a->stride < b->stride : a->ticket < b->ticket; }

static bool share(const struct rate_member *a, const struct rate_member *b)
{
    for (int i = 0; i < a->claim.need_count; i++)
        for (int k = 0; k < b->claim.need_count; k++)
            if (a->at[i] == b->at[k]) return true;
    return false;
}

static bool may_go(const struct rate_limiter *l, const struct rate_member *m)
{
    for (int k = 0; k < m->claim.need_count; k++) {
        uint32_t all = copies(l, m->at[k]), held = l->resources[m->at[k]].held;
        if (held >= all || m->claim.needs[k].count > all - held) return false;
    }
    for (const struct rate_member *o = l->members; o; o = o->next)
        if (o != m && o->waiting && before(o, m) && share(o, m)) return false;
    return true;
}

/* Lets everybody go who may; each takes what it needs at once. */
static void give_turns(struct rate_limiter *l)
{
    bool again = true;
    while (again) {
        again = false;
        for (struct rate_member *m = l->members; m; m = m->next) {
            if (!m->waiting || !may_go(l, m)) continue;
            for (int k = 0; k < m->claim.need_count; k++) l->resources[m->at[k]].held += m->claim.needs[k].count;
            l->now = m->stride;
            m->stride += m->claim.priority ? m->claim.priority : 1;
            m->waiting = false;
            pthread_cond_signal(&m->turn);
            again = true;      /* who was behind it may be the first now */
        }
    }
}

void rate_limiter_leave(struct rate_limiter *l, struct rate_member *m)
{
    if (!m) return;
    pthread_mutex_lock(&l->lock);
    struct rate_member **at = &l->members;
    while (*at != m) at = &(*at)->next;
    *at = m->next;
    leave_needs(l, m, m->claim.need_count);
    give_turns(l);
    pthread_mutex_unlock(&l->lock);
    pthread_cond_destroy(&m->turn);
    free(m);
}

static void stand_in_line(struct rate_limiter *l, struct rate_member *m)
{
    if (m->stride < l->now) m->stride = l->now;
    m->ticket = ++l->tickets;
    m->waiting = true;
}

static void put_back(struct rate_limiter *l, struct rate_member *m)
{
    for (int k = 0; k < m->claim.need_count; k++) l->resources[m->at[k]].held -= m->claim.needs[k].count;
}

static void change(struct rate_limiter *l, struct rate_member *m, bool ends, bool begins)
{
    if (!m->claim.need_count) return;
    pthread_mutex_lock(&l->lock);
    if (ends) put_back(l, m);
    if (begins) stand_in_line(l, m);
    give_turns(l);
    while (m->waiting) pthread_cond_wait(&m->turn, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

void rate_limiter_enter(struct rate_limiter *l, struct rate_member *m) { change(l, m, false, true); }
void rate_limiter_exit(struct rate_limiter *l, struct rate_member *m) { change(l, m, true, false); }
void rate_limiter_renew(struct rate_limiter *l, struct rate_member *m) { change(l, m, true, true); }
