/* The registry: what is loaded, and the way in and out. A version is loaded (files hashed, digest checked against the catalog, parsed first
 * in a child (R34), opened, config completed, warmed up), published by one pointer change, and the version it replaces is drained (every pin
 * released, its scheduler closed) and freed. Requests pin what they run on. A version that fails to load leaves what serves serving and
 * says why in the index. Every public function may be called from any thread; loads and unloads are done by one loader thread of the
 * registry's own, in order, and those that say so wait for it.
 *
 * Underneath: repository.c (folders, versions, uploads), catalog.c (SQLite: versions, digests, states, aliases, audit), inspector.c (the child). */
#ifndef MODEL_STORE_REGISTRY_H
#define MODEL_STORE_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/engine.h"
#include "engine/scheduler.h"
#include "model_store/model_config.h"

enum control_mode { CONTROL_NONE, CONTROL_POLL, CONTROL_EXPLICIT };

struct signers;

struct registry_options {
    const char *store;                    /* directory; made if it does not exist? no: ST_NOT_FOUND */
    enum control_mode control;
    uint32_t    poll_ms;                  /* CONTROL_POLL: how often the store is looked at; 0: 1000 */
    const char *const *load_at_start;     /* CONTROL_EXPLICIT: names ("*" all); NULL: what the catalog says was loaded last */
    int         load_at_start_count;
    bool        strict_readiness;
    int         threads;                  /* core budget; instances of a model divide it */
    int         cpu_level;                /* cap */
    enum precision precision;
    uint64_t    memory_max;               /* per version; 0: default */
    const struct engine_ops *const *engines; int engine_count;     /* found by name: "onnx", ... */
    struct expiry *expiry;
    struct rate_limiter *limiter;         /* over all models; NULL: none */
    struct response_cache *cache;         /* for models whose config asks for it; NULL: none */
    const struct signers *signers; bool require_signatures;      /* who may vouch for versions; NULL: nobody is asked */
    struct inspector *inspector;          /* the parsing child; NULL: parse here only (tests) */
    struct log *log;
    void (*progress)(void *ctx, const char *model, int64_t version, const char *what, uint64_t done, uint64_t total);   /* may be NULL; loader thread */
    void *progress_context;
};

/* A published version. All fields are constant while it is pinned. */
struct model_version {
    const char *name;
    int64_t     version;
    char        digest[65];               /* SHA-256 over the sorted "name NUL size NUL sha256-hex LF" lines of the version's files, hex */
    char        signer[64];               /* who vouches for its files; "" nobody */
    const struct engine_ops *ops;
    struct engine *engine;
    const struct signature *signature;    /* as clients know it */
    const struct model_config *config;
    struct scheduler *scheduler;
    struct stats *stats;
    const char *const *labels; int label_count;      /* from label_filename of the first output that has one; 0 */
    uint64_t    load_ns;                  /* how long loading took */
    uint64_t    memory_bytes;             /* resident growth while loading, measured */
};

struct registry;

/* Opens store and catalog (quick_check; a corrupt catalog is refused), collects the garbage of a crash, and starts loading what the mode says. */
enum status registry_open(struct registry **out, const struct registry_options *o, struct err *err);
/* Waits until the models that load at start have settled (ready or failed). */
void registry_settle(struct registry *r);
/* Refuses loads, drains and frees every version. Requests in flight are finished. */
void registry_close(struct registry *r);

/* `name` may be "M" or "M@alias"; version 0: the default (the activated one, else the newest ready). ST_NOT_FOUND
 * ("Request for unknown model: 'x' is not found"; an unloaded model: "... has no available versions") or ST_UNAVAILABLE (it should be loaded and is not ready). */
enum status registry_pin(struct registry *r, const char *name, size_t name_length, int64_t version, struct model_version **out, struct err *err);
void        registry_unpin(struct registry *r, struct model_version *v);

bool registry_ready(struct registry *r);          /* strict: every model that should be loaded is */

/* Triton's repository control. Wait until done. Mode none or poll: ST_UNAVAILABLE. `config_json` overrides the file's config and may be NULL. */
struct repository_file;
enum status registry_load(struct registry *r, const char *name, const char *config_json, size_t config_length, const char *who, struct err *err);
/* From the request's own files, in place of the model's folder, which there need not be; they are gone when it is unloaded or loaded again. A config must be given. */
enum status registry_load_files(struct registry *r, const char *name, const char *config_json, size_t config_length, const struct repository_file *files, int count, const char *who, struct err *err);
enum status registry_unload(struct registry *r, const char *name, bool dependents, const char *who, struct err *err);

struct registry_index_row { const char *name; int64_t version; /* 0: none */ const char *state; /* READY UNAVAILABLE LOADING UNLOADING, "" */ const char *reason; };
/* Calls row() for each model version in name order; the strings live for the call only. */
void registry_index(struct registry *r, bool ready_only, void (*row)(void *ctx, const struct registry_index_row *row), void *ctx);
/* Pins every published version in turn (metrics, statistics). */
void registry_each(struct registry *r, void (*each)(void *ctx, struct model_version *v), void *ctx);
/* Versions of a model that are ready, ascending; returns how many (at most max are written). 0 and an unknown model: *known false. */
int  registry_versions(struct registry *r, const char *name, int64_t *out, int max, bool *known);

/* ---- admin (R22, R23). `who` is the key's name for the audit log. ---- */
struct upload;
/* Declared size and digest; the file becomes visible only by commit, after size and digest were checked. `file` is one path component that passes R20, or "config.pbtxt"-like names. */
enum status registry_upload_begin(struct registry *r, const char *model, int64_t version, const char *file, uint64_t size, const uint8_t digest[32], struct upload **out, struct err *err);
enum status registry_upload_write(struct upload *u, const void *data, size_t length, struct err *err);
enum status registry_upload_commit(struct upload *u, const char *who, struct err *err);    /* frees u in every case */
void        registry_upload_abort(struct upload *u);
/* Makes an uploaded version complete: digest computed and recorded; in modes none and poll it is then loaded beside what serves, in explicit mode it waits for load or activate. */
enum status registry_publish(struct registry *r, const char *model, int64_t version, const char *who, struct err *err);
/* Loads (if need be) and makes it the default, forward or back, then unloads what the policy no longer wants. Recorded durably before it is acknowledged. */
enum status registry_activate(struct registry *r, const char *model, int64_t version, const char *who, struct err *err);
enum status registry_set_alias(struct registry *r, const char *model, const char *alias, int64_t version, const char *who, struct err *err);
void        registry_write_models_json(struct registry *r, struct buf *out);                /* GET /admin/models */
enum status registry_write_audit_json(struct registry *r, int64_t after, int limit, struct buf *out, struct err *err);
/* Any other admin call that must be in the audit log (drain, log settings). Best effort: a busy catalog does not stop it. */
void        registry_audit(struct registry *r, const char *who, const char *action, const char *subject, const char *detail);

#endif
