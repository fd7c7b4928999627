#include "server/auth.h"

#include "base/checked.h"
#include "base/digest.h"
#include "base/file.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What a key may take in a minute, and what is left of it: filled up evenly, one minute's worth at most. A text's tokens are known when it ends, so that
 * credit may fall below nothing. */
struct quota { uint32_t per_minute; /* 0: no limit */ double left; };

struct key { uint8_t digest[DIGEST_BYTES]; unsigned scopes; char name[AUTH_NAME_MAX]; struct quota requests, tokens; uint64_t filled_ns; };

struct auth {
    char           *path;      /* NULL: no keys */
    bool            open;
    pthread_mutex_t lock;      /* guards keys and count */
    struct key     *keys;
    int             count;
};

static enum status read_scopes(const char *text, unsigned *out, const char *where, int line, struct err *err)
{
    static const struct { const char *name; unsigned bit; } names[] = { { "infer", SCOPE_INFER }, { "read", SCOPE_READ }, { "admin", SCOPE_ADMIN } };
    *out = 0;
    for (const char *p = text; *p; p += strcspn(p, ","), p += *p == ',') {
        size_t n = strcspn(p, ","), i = 0;
        while (i < 3 && (strlen(names[i].name) != n || strncmp(names[i].name, p, n))) i++;
        if (i == 3) return err_set(err, ST_BAD_INPUT, "%s line %d: '%.*s' is no scope; scopes are infer, read and admin", where, line, n < 32 ? (int)n : 32, p);
        *out |= names[i].bit;
    }
    return ST_OK;
}

/* "requests=60 tokens=10000", either or none, behind the name. */
static enum status read_quotas(const char *text, struct key *k, const char *where, int line, struct err *err)
{
    static const char *const names[] = { "requests=", "tokens=" };
    struct quota *const quotas[] = { &k->requests, &k->tokens };
    for (text += strspn(text, " \t\r"); *text; text += strspn(text, " \t\r")) {
        size_t n = strcspn(text, " \t\r"), i = 0;
        while (i < 2 && strncmp(names[i], text, strlen(names[i]))) i++;
        char *end = NULL;
        unsigned long v = i < 2 ? strtoul(text + strlen(names[i]), &end, 10) : 0;
        if (i == 2 || end != text + n || v < 1 || v > AUTH_QUOTA_MAX || quotas[i]->per_minute)
            return err_set(err, ST_BAD_INPUT, "%s line %d: '%.*s' is no quota; quotas are requests=N and tokens=N a minute, N from 1 to %d", where, line, n < 32 ? (int)n : 32, text, AUTH_QUOTA_MAX);
        *quotas[i] = (struct quota){ (uint32_t)v, (double)v };
        text += n;
    }
    return ST_OK;
}

static enum status read_keys(const char *path, struct key **out, int *count, struct err *err)
{
    char *text;
    size_t length;
    enum status st = file_read_path(&text, &length, path, 1 << 20, err);
    if (st) return st;
    struct key *keys = mem_calloc_array(AUTH_KEYS_MAX, sizeof *keys);
    int n = 0, number = 0;
    if (!keys) st = err_set(err, ST_NO_MEMORY, "no memory for the keys");
    for (char *line = text, *next; line && !st; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        number++;
        line += strspn(line, " \t\r");
        if (!*line || *line == '#') continue;
        char hex[80], scopes[64], name[AUTH_NAME_MAX];
        int behind = 0;
        if (n == AUTH_KEYS_MAX) st = err_set(err, ST_BAD_INPUT, "%s holds more than %d keys", path, AUTH_KEYS_MAX);
        else if (sscanf(line, "%79s %63s %63s%n", hex, scopes, name, &behind) != 3) st = err_set(err, ST_BAD_INPUT, "%s line %d: a line is sha256-hex, scopes and a name", path, number);
        else if (!digest_from_hex(hex, strlen(hex), keys[n].digest)) st = err_set(err, ST_BAD_INPUT, "%s line %d: the digest is not 64 lower-case hexadecimal digits", path, number);
        else st = read_scopes(scopes, &keys[n].scopes, path, number, err);
        if (!st) st = read_quotas(line + behind, &keys[n], path, number, err);
        for (int i = 0; i < n && !st; i++)
            if (!strcmp(keys[i].name, name)) st = err_set(err, ST_BAD_INPUT, "%s line %d: another key is called '%s' as well: the audit log and quotas go by names, so each key needs its own", path, number, name);
        if (!st) memcpy(keys[n++].name, name, sizeof name);
    }
    free(text);
    if (!st && !n) st = err_set(err, ST_BAD_INPUT, "%s holds no key", path);
    if (st) {
        free(keys);
        return st;
    }
    *out = keys;
    *count = n;
    return ST_OK;
}

enum status auth_open(struct auth **out, const char *keys_path, bool open, struct err *err)
{
    struct auth *a = calloc(1, sizeof *a);
    if (!a) return err_set(err, ST_NO_MEMORY, "no memory for the keys");
    a->open = open;
    pthread_mutex_init(&a->lock, NULL);
    enum status st = ST_OK;
    if (keys_path) {
        a->path = strdup(keys_path);
        st = a->path ? auth_reload(a, err) : err_set(err, ST_NO_MEMORY, "no memory for the keys");
    }
    if (st) auth_close(a);
    else *out = a;
    return st;
}

void auth_close(struct auth *a)
{
    if (!a) return;
    pthread_mutex_destroy(&a->lock);
    free(a->keys);
    free(a->path);
    free(a);
}

enum status auth_reload(struct auth *a, struct err *err)
{
    struct key *keys, *old;
    int count;
    if (!a->path) return ST_OK;
    enum status st = read_keys(a->path, &keys, &count, err);
    if (st) return st;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < count; i++)      /* what a key has taken stays taken */
        for (int k = 0; k < a->count; k++)
            if (digest_equal(keys[i].digest, a->keys[k].digest)) {
                keys[i].filled_ns = a->keys[k].filled_ns;
                if (a->keys[k].requests.per_minute && a->keys[k].requests.left < keys[i].requests.left) keys[i].requests.left = a->keys[k].requests.left;
                if (a->keys[k].tokens.per_minute && a->keys[k].tokens.left < keys[i].tokens.left) keys[i].tokens.left = a->keys[k].tokens.left;
            }
    old = a->keys;
    a->keys = keys;
    a->count = count;
    pthread_mutex_unlock(&a->lock);
    free(old);
    return ST_OK;
}

enum status auth_check(struct auth *a, const char *authorization, enum scope scope, char who[AUTH_NAME_MAX], struct err *err)
{
    snprintf(who, AUTH_NAME_MAX, "%s", a->path ? "" : "local");
    if (scope == SCOPE_OPEN || (!a->path && a->open)) return ST_OK;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7)) return err_set(err, ST_UNAUTHENTICATED, "a key is needed: Authorization: Bearer KEY");
    uint8_t digest[DIGEST_BYTES];
    const char *token = authorization + 7 + strspn(authorization + 7, " ");
    digest_bytes(token, strlen(token), digest);
    unsigned scopes = 0;
    bool known = false;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < a->count; i++)      /* every key is compared, whether one has matched or not */
        if (digest_equal(digest, a->keys[i].digest)) {
            known = true;
            scopes = a->keys[i].scopes;
            memcpy(who, a->keys[i].name, AUTH_NAME_MAX);
        }
    pthread_mutex_unlock(&a->lock);
    if (!known) return err_set(err, ST_UNAUTHENTICATED, "the key is not known");
    return scopes & scope ? ST_OK : err_set(err, ST_FORBIDDEN, "the key has no scope '%s'", scope == SCOPE_ADMIN ? "admin" : scope == SCOPE_READ ? "read" : "infer");
}

/* ---- quotas ---- */

static void fill(struct quota *q, double minutes)
{
    q->left += minutes * q->per_minute;
    if (q->left > q->per_minute) q->left = q->per_minute;
}

/* With the lock. The key of this name, its credits as of now; NULL: none. */
static struct key *key_named(struct auth *a, const char *who, uint64_t now_ns)
{
    for (int i = 0; i < a->count; i++) {
        struct key *k = &a->keys[i];
        if (strcmp(k->name, who)) continue;
        double minutes = k->filled_ns ? (double)(now_ns - k->filled_ns) / 60e9 : 0;
        k->filled_ns = now_ns;
        fill(&k->requests, minutes);
        fill(&k->tokens, minutes);
        return k;
    }
    return NULL;
}

enum status auth_charge(struct auth *a, const char *who, uint64_t now_ns, struct err *err)
{
    enum status st = ST_OK;
    if (!a->path) return ST_OK;
    pthread_mutex_lock(&a->lock);
    struct key *k = key_named(a, who, now_ns);
    if (k && k->requests.per_minute && k->requests.left < 1) st = err_set(err, ST_TOO_MANY, "the key's %u requests a minute are used up", k->requests.per_minute);
    else if (k && k->tokens.per_minute && k->tokens.left <= 0) st = err_set(err, ST_TOO_MANY, "the key's %u tokens a minute are used up", k->tokens.per_minute);
    else if (k && k->requests.per_minute) k->requests.left -= 1;
    pthread_mutex_unlock(&a->lock);
    return st;
}

void auth_spend(struct auth *a, const char *who, uint64_t tokens, uint64_t now_ns)
{
    if (!a->path || !tokens) return;
    pthread_mutex_lock(&a->lock);
    struct key *k = key_named(a, who, now_ns);
    if (k && k->tokens.per_minute) k->tokens.left -= (double)tokens;
    pthread_mutex_unlock(&a->lock);
}

bool auth_is_loopback(const char *address)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (inet_pton(AF_INET, address, &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, address, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool name_allowed(const char *name, size_t n, const char *allowed)
{
    char text[256];
    if (n == 0 || n >= sizeof text) return false;
    memcpy(text, name, n);
    text[n] = 0;
    if (!strcasecmp(text, "localhost") || auth_is_loopback(text)) return true;
    for (const char *p = allowed; p && *p; p += strcspn(p, ","), p += *p == ',') {
        size_t length = strcspn(p, ",");
        if (length == n && !strncasecmp(p, text, n)) return true;
    }
    return false;
}

bool auth_host_allowed(const char *host, const char *allowed)
{
    if (host[0] == '[') {
        const char *end = strchr(host, ']');
        if (!end || (end[1] && (end[1] != ':' || strspn(end + 2, "0123456789") != strlen(end + 2)))) return false;
        return name_allowed(host + 1, (size_t)(end - host - 1), allowed);
    }
    size_t n = strcspn(host, ":");
    if (host[n] && strspn(host + n + 1, "0123456789") != strlen(host + n + 1)) return false;
    return name_allowed(host, n, allowed);
}

bool auth_origin_allowed(const char *origin, const char *allowed)
{
    const char *host = strstr(origin, "://");
    return host && (!strncmp(origin, "http://", 7) || !strncmp(origin, "https://", 8)) && auth_host_allowed(host + 3, allowed);
}
