/* What must outlive the process about a store: the digest each version was recorded with, which version is the default, aliases, what was
 * loaded last, and the audit log. SQLite in WAL mode; the only file that names it is catalog.c. Nothing on a request's way to a model reads
 * it: the registry keeps aliases and defaults in memory. Thread-safe.
 *
 * Two ways to write. Durable calls (those that an operator is told the outcome of) wait at most five seconds for another process's lock and
 * then return ST_UNAVAILABLE with nothing changed. Notes (states, digests of what was loaded) wait a tenth of a second and may be lost. */
#ifndef MODEL_STORE_CATALOG_H
#define MODEL_STORE_CATALOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct catalog;

/* `path` NULL: in memory only. A file that is no sound catalog is ST_INTERNAL with a sentence that says so; it is not touched. */
enum status catalog_open(struct catalog **out, const char *path, struct err *err);
void        catalog_close(struct catalog *c);

/* notes */
void catalog_note_state(struct catalog *c, const char *model, int64_t version, const char *state, const char *reason);
void catalog_note_audit(struct catalog *c, const char *who, const char *action, const char *subject, const char *detail);
/* Records the digest a version was first loaded with, unless one is recorded; false when it could not be written (tried again at the next load). */
bool catalog_note_digest(struct catalog *c, const char *model, int64_t version, const char *hex);
/* What an engine chose for the files of this digest on this kind of machine (engine_choices of engine/engine.h); may be lost. find: false where nothing is known. */
bool catalog_find_choice(struct catalog *c, const char *digest, const char *machine, char *choice, size_t room);
void catalog_note_choice(struct catalog *c, const char *digest, const char *machine, const char *choice);
/* The version is gone from the store: its digest is forgotten. */
void catalog_forget_version(struct catalog *c, const char *model, int64_t version);

/* Explicit mode does not load it at the next start. */
void catalog_note_unloaded(struct catalog *c, const char *model);

/* durable, each with its line in the audit log, in one transaction */
enum status catalog_record_publish(struct catalog *c, const char *model, int64_t version, const char *hex, const char *who, struct err *err);
enum status catalog_record_active(struct catalog *c, const char *model, int64_t version, const char *action, const char *who, struct err *err);     /* action: the audit log's word */
enum status catalog_record_alias(struct catalog *c, const char *model, const char *alias, int64_t version, const char *who, struct err *err);
enum status catalog_record_loaded(struct catalog *c, const char *model, bool loaded, const char *who, struct err *err);

/* reading */
/* "" in hex: none recorded. An error when the catalog cannot be read. */
enum status catalog_find_digest(struct catalog *c, const char *model, int64_t version, char hex[65], struct err *err);
/* Both are false when the catalog cannot be read; *version is then untouched. *version 0: none was activated. */
bool    catalog_find_active(struct catalog *c, const char *model, int64_t *version);
bool    catalog_each_alias(struct catalog *c, const char *model, void (*each)(void *ctx, const char *alias, int64_t version), void *ctx);
void    catalog_each_loaded(struct catalog *c, void (*each)(void *ctx, const char *model), void *ctx);
/* [{"id","time","who","action","subject","detail"}], ids above `after`, at most `limit` (1..1000). */
enum status catalog_write_audit_json(struct catalog *c, int64_t after, int limit, struct buf *out, struct err *err);

#endif
