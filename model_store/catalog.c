#include "model_store/catalog.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/json.h"

enum { DURABLE_WAIT_MS = 4500, NOTE_WAIT_MS = 100, TEXT_MAX = 512, SCHEMA_VERSION = 2 };

struct catalog {
    pthread_mutex_t lock;        /* guards db: one statement at a time */
    sqlite3        *db;
};

/* The audit log can be added to and read; the triggers make sure of it whatever future code does. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS versions (model TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT, state TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',"
    " created INTEGER NOT NULL, changed INTEGER NOT NULL, PRIMARY KEY (model, version)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS aliases (model TEXT NOT NULL, alias TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (model, alias)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS active (model TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS loaded (model TEXT PRIMARY KEY) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS choices (digest TEXT NOT NULL, machine TEXT NOT NULL, choice TEXT NOT NULL, PRIMARY KEY (digest, machine)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL);"
    "CREATE TRIGGER IF NOT EXISTS audit_keep_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;"
    "CREATE TRIGGER IF NOT EXISTS audit_keep_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;"
    "PRAGMA user_version = 2;";

/* Our own words for what SQLite says (R29). */
static enum status refuse(struct err *err, int code)
{
    switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:   return err_set(err, ST_UNAVAILABLE, "the catalog is locked by another process; try again");
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_CANTOPEN: return err_set(err, ST_UNAVAILABLE, "the catalog cannot be written");
    case SQLITE_FULL:     return err_set(err, ST_NO_SPACE, "the catalog cannot grow: the disk is full");
    case SQLITE_NOMEM:    return err_set(err, ST_NO_MEMORY, "no memory for the catalog");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:   return err_set(err, ST_INTERNAL, "the catalog is damaged; restore .inferd/catalog.db from a copy, or move it away to begin a new one");
    case SQLITE_IOERR:    return err_set(err, ST_INTERNAL, "the catalog cannot be read or written: input/output error");
    default:              return err_set(err, ST_INTERNAL, "the catalog failed (code %d)", code);
    }
}

/* Waits for the lock no longer than the database's own wait, so that callers who queue behind a locked database are answered in time, too. */
static bool lock_within(struct catalog *c, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    uint64_t start = clock_ns();
    if (pthread_mutex_timedlock(&c->lock, &until)) return false;
    int left = ms - (int)((clock_ns() - start) / 1000000);
    sqlite3_busy_timeout(c->db, left > 1 ? left : 1);
    return true;
}

static void unlock(struct catalog *c) { pthread_mutex_unlock(&c->lock); }

static int run(struct catalog *c, const char *sql) { return sqlite3_exec(c->db, sql, NULL, NULL, NULL); }

/* Prepares and binds: 's' const char *, 'i' int64_t, in the order of the question marks. */
static int prepare(struct catalog *c, sqlite3_stmt **out, const char *sql, const char *kinds, const void *const *values)
{
    int code = sqlite3_prepare_v2(c->db, sql, -1, out, NULL);
    for (int i = 0; !code && kinds[i]; i++)
        code = kinds[i] == 's' ? sqlite3_bind_text(*out, i + 1, values[i], -1, SQLITE_TRANSIENT) : sqlite3_bind_int64(*out, i + 1, *(const int64_t *)values[i]);
    return code;
}

static int change(struct catalog *c, const char *sql, const char *kinds, const void *const *values)
{
    sqlite3_stmt *s = NULL;
    int code = prepare(c, &s, sql, kinds, values);
    if (!code) code = sqlite3_step(s);
    sqlite3_finalize(s);
    return code == SQLITE_DONE || code == SQLITE_ROW ? SQLITE_OK : code;
}
#define VALUES(...) ((const void *const[]){ __VA_ARGS__ })

static int add_audit(struct catalog *c, const char *who, const char *action, const char *subject, const char *detail)
{
    int64_t now = (int64_t)clock_wall_ms();
    return change(c, "INSERT INTO audit (time, who, action, subject, detail) VALUES (?, substr(?, 1, 256), substr(?, 1, 256), substr(?, 1, 512), substr(?, 1, 512))", "issss",
                  VALUES(&now, who ? who : "", action, subject ? subject : "", detail ? detail : ""));
}

static int configure(struct catalog *c)
{
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(c->db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0, NULL);
    sqlite3_limit(c->db, SQLITE_LIMIT_LENGTH, 1 << 20);
    sqlite3_limit(c->db, SQLITE_LIMIT_SQL_LENGTH, 1 << 16);
    sqlite3_limit(c->db, SQLITE_LIMIT_ATTACHED, 0);
    sqlite3_busy_timeout(c->db, DURABLE_WAIT_MS);
    return run(c, "PRAGMA trusted_schema = 0; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;");
}

/* "ok" in one row, or the file is not to be relied on. */
static int check_sound(struct catalog *c)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(c->db, "PRAGMA quick_check(1)", -1, &s, NULL);
    if (!code) {
        code = sqlite3_step(s);
        if (code == SQLITE_ROW) code = strcmp((const char *)sqlite3_column_text(s, 0), "ok") ? SQLITE_CORRUPT : SQLITE_OK;
    }
    sqlite3_finalize(s);
    return code;
}

static int read_user_version(struct catalog *c, int *out)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(c->db, "PRAGMA user_version", -1, &s, NULL);
    if (!code) code = sqlite3_step(s);
    if (code == SQLITE_ROW) *out = sqlite3_column_int(s, 0), code = SQLITE_OK;
    sqlite3_finalize(s);
    return code;
}

enum status catalog_open(struct catalog **out, const char *path, struct err *err)
{
    struct catalog *c = calloc(1, sizeof *c);
    int version = 0;
    if (!c) return err_set(err, ST_NO_MEMORY, "no memory for the catalog");
    pthread_mutex_init(&c->lock, NULL);
    int code = sqlite3_open_v2(path ? path : ":memory:", &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, NULL);
    if (!code) code = configure(c);
    if (!code) code = check_sound(c);
    if (!code) code = read_user_version(c, &version);
    enum status st = ST_OK;
    if (!code && version > SCHEMA_VERSION) st = err_set(err, ST_INTERNAL, "the catalog was written by a newer inferd (layout %d; this one knows %d)", version, SCHEMA_VERSION);
    else if (!code && version < SCHEMA_VERSION) code = run(c, schema);
    if (code) st = refuse(err, code);
    if (st) catalog_close(c);
    else *out = c;
    return st;
}

void catalog_close(struct catalog *c)
{
    if (!c) return;
    sqlite3_close(c->db);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- notes ---- */

void catalog_note_state(struct catalog *c, const char *model, int64_t version, const char *state, const char *reason)
{
    int64_t now = (int64_t)clock_wall_ms();
    if (!lock_within(c, NOTE_WAIT_MS)) return;
    change(c, "INSERT INTO versions (model, version, state, reason, created, changed) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (model, version) DO UPDATE SET state = excluded.state, reason = excluded.reason, changed = excluded.changed",
           "sissii", VALUES(model, &version, state, reason, &now, &now));
    unlock(c);
}

void catalog_note_audit(struct catalog *c, const char *who, const char *action, const char *subject, const char *detail)
{
    if (!lock_within(c, NOTE_WAIT_MS)) return;
    add_audit(c, who, action, subject, detail);
    unlock(c);
}

#define INSERT_DIGEST "INSERT INTO versions (model, version, digest, created, changed) VALUES (?, ?, ?, ?, ?) ON CONFLICT (model, version) DO UPDATE SET digest = excluded.digest, changed = excluded.changed"

static int set_digest(struct catalog *c, const char *model, int64_t version, const char *hex, bool replace)
{
    int64_t now = (int64_t)clock_wall_ms();
    return change(c, replace ? INSERT_DIGEST : INSERT_DIGEST " WHERE digest IS NULL", "sisii", VALUES(model, &version, hex, &now, &now));
}

bool catalog_note_digest(struct catalog *c, const char *model, int64_t version, const char *hex)
{
    if (!lock_within(c, NOTE_WAIT_MS)) return false;
    int code = set_digest(c, model, version, hex, false);
    unlock(c);
    return !code;
}

void catalog_note_choice(struct catalog *c, const char *digest, const char *machine, const char *choice)
{
    if (!lock_within(c, NOTE_WAIT_MS)) return;
    change(c, "INSERT INTO choices (digest, machine, choice) VALUES (?, ?, ?) ON CONFLICT (digest, machine) DO UPDATE SET choice = excluded.choice", "sss", VALUES(digest, machine, choice));
    unlock(c);
}

void catalog_forget_version(struct catalog *c, const char *model, int64_t version)
{
    if (!lock_within(c, NOTE_WAIT_MS)) return;
    change(c, "DELETE FROM versions WHERE model = ? AND version = ?", "si", VALUES(model, &version));
    unlock(c);
}

void catalog_note_unloaded(struct catalog *c, const char *model)
{
    if (!lock_within(c, NOTE_WAIT_MS)) return;
    change(c, "DELETE FROM loaded WHERE model = ?", "s", VALUES(model));
    unlock(c);
}

/* ---- durable ---- */

static enum status begin(struct catalog *c, struct err *err)
{
    if (!lock_within(c, DURABLE_WAIT_MS)) return refuse(err, SQLITE_BUSY);
    int code = run(c, "BEGIN IMMEDIATE");
    if (!code) return ST_OK;
    unlock(c);
    return refuse(err, code);
}

/* Adds the audit line and commits, or takes everything back. */
static enum status finish(struct catalog *c, int code, const char *who, const char *action, const char *model, int64_t version, const char *what, struct err *err)
{
    char detail[TEXT_MAX];
    snprintf(detail, sizeof detail, "%s%s%lld", what, *what ? " " : "", (long long)version);
    if (!code) code = add_audit(c, who, action, model, version ? detail : what);
    if (!code) code = run(c, "COMMIT");
    if (code) run(c, "ROLLBACK");
    unlock(c);
    return code ? refuse(err, code) : ST_OK;
}

enum status catalog_record_publish(struct catalog *c, const char *model, int64_t version, const char *hex, const char *who, struct err *err)
{
    enum status st = begin(c, err);
    return st ? st : finish(c, set_digest(c, model, version, hex, true), who, "publish", model, version, "version", err);
}

enum status catalog_record_active(struct catalog *c, const char *model, int64_t version, const char *action, const char *who, struct err *err)
{
    enum status st = begin(c, err);
    if (st) return st;
    int code = change(c, "INSERT INTO active (model, version) VALUES (?, ?) ON CONFLICT (model) DO UPDATE SET version = excluded.version", "si", VALUES(model, &version));
    return finish(c, code, who, action, model, version, "version", err);
}

enum status catalog_record_alias(struct catalog *c, const char *model, const char *alias, int64_t version, const char *who, struct err *err)
{
    enum status st = begin(c, err);
    if (st) return st;
    int code = change(c, "INSERT INTO aliases (model, alias, version) VALUES (?, ?, ?) ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version", "ssi", VALUES(model, alias, &version));
    return finish(c, code, who, "alias", model, version, alias, err);
}

enum status catalog_record_loaded(struct catalog *c, const char *model, bool loaded, const char *who, struct err *err)
{
    enum status st = begin(c, err);
    if (st) return st;
    int code = change(c, loaded ? "INSERT OR IGNORE INTO loaded (model) VALUES (?)" : "DELETE FROM loaded WHERE model = ?", "s", VALUES(model));
    return finish(c, code, who, loaded ? "load" : "unload", model, 0, "", err);
}

/* ---- reading ---- */

enum status catalog_find_digest(struct catalog *c, const char *model, int64_t version, char hex[65], struct err *err)
{
    sqlite3_stmt *s = NULL;
    hex[0] = 0;
    pthread_mutex_lock(&c->lock);
    int code = prepare(c, &s, "SELECT digest FROM versions WHERE model = ? AND version = ? AND digest IS NOT NULL", "si", VALUES(model, &version));
    if (!code) code = sqlite3_step(s);
    if (code == SQLITE_ROW && sqlite3_column_text(s, 0)) snprintf(hex, 65, "%s", (const char *)sqlite3_column_text(s, 0));
    else if (code == SQLITE_ROW) code = SQLITE_NOMEM;
    sqlite3_finalize(s);
    unlock(c);
    return code == SQLITE_ROW || code == SQLITE_DONE ? ST_OK : refuse(err, code);
}

bool catalog_find_choice(struct catalog *c, const char *digest, const char *machine, char *choice, size_t room)
{
    sqlite3_stmt *s = NULL;
    bool found = false;
    pthread_mutex_lock(&c->lock);
    if (!prepare(c, &s, "SELECT choice FROM choices WHERE digest = ? AND machine = ?", "ss", VALUES(digest, machine)) && sqlite3_step(s) == SQLITE_ROW && sqlite3_column_text(s, 0))
        found = snprintf(choice, room, "%s", (const char *)sqlite3_column_text(s, 0)) < (int)room;
    sqlite3_finalize(s);
    unlock(c);
    return found;
}

bool catalog_find_active(struct catalog *c, const char *model, int64_t *version)
{
    sqlite3_stmt *s = NULL;
    pthread_mutex_lock(&c->lock);
    int code = prepare(c, &s, "SELECT version FROM active WHERE model = ?", "s", VALUES(model));
    if (!code) code = sqlite3_step(s);
    if (code == SQLITE_ROW) *version = sqlite3_column_int64(s, 0);
    else if (code == SQLITE_DONE) *version = 0;
    sqlite3_finalize(s);
    unlock(c);
    return code == SQLITE_ROW || code == SQLITE_DONE;
}

bool catalog_each_alias(struct catalog *c, const char *model, void (*each)(void *ctx, const char *alias, int64_t version), void *ctx)
{
    sqlite3_stmt *s = NULL;
    pthread_mutex_lock(&c->lock);
    int code = prepare(c, &s, "SELECT alias, version FROM aliases WHERE model = ? ORDER BY alias", "s", VALUES(model));
    while (!code && (code = sqlite3_step(s)) == SQLITE_ROW) {
        const char *alias = (const char *)sqlite3_column_text(s, 0);
        code = alias ? SQLITE_OK : SQLITE_NOMEM;
        if (alias) each(ctx, alias, sqlite3_column_int64(s, 1));
    }
    sqlite3_finalize(s);
    unlock(c);
    return code == SQLITE_DONE;
}

void catalog_each_loaded(struct catalog *c, void (*each)(void *ctx, const char *model), void *ctx)
{
    sqlite3_stmt *s = NULL;
    pthread_mutex_lock(&c->lock);
    if (!prepare(c, &s, "SELECT model FROM loaded ORDER BY model", "", VALUES(NULL)))
        while (sqlite3_step(s) == SQLITE_ROW)
            if (sqlite3_column_text(s, 0)) each(ctx, (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    unlock(c);
}

enum status catalog_write_audit_json(struct catalog *c, int64_t after, int limit, struct buf *out, struct err *err)
{
    static const char *const names[] = { "who", "action", "subject", "detail" };
    sqlite3_stmt *s = NULL;
    int64_t most = limit < 1 ? 1 : limit > 1000 ? 1000 : limit;
    bool first = true;
    pthread_mutex_lock(&c->lock);
    int code = prepare(c, &s, "SELECT id, time, who, action, subject, detail FROM audit WHERE id > ? ORDER BY id LIMIT ?", "ii", VALUES(&after, &most));
    buf_putc(out, '[');
    while (!code && (code = sqlite3_step(s)) == SQLITE_ROW) {
        char time_text[32];
        clock_iso8601((uint64_t)sqlite3_column_int64(s, 1), time_text);
        buf_puts(out, first ? "{\"id\":" : ",{\"id\":");
        buf_int(out, sqlite3_column_int64(s, 0));
        buf_printf(out, ",\"time\":\"%s\"", time_text);
        for (int i = 0; i < 4; i++) {
            buf_printf(out, ",\"%s\":", names[i]);
            json_write_string(out, (const char *)sqlite3_column_text(s, i + 2), (size_t)sqlite3_column_bytes(s, i + 2));
        }
        buf_putc(out, '}');
        first = false;
        code = SQLITE_OK;
    }
    buf_putc(out, ']');
    sqlite3_finalize(s);
    unlock(c);
    return code == SQLITE_DONE ? ST_OK : refuse(err, code);
}
