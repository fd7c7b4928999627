/* Shared by the parts of the registry: registry.c (opening, closing, pins, what is there), registry_jobs.c (the loader thread and the reaper),
 * registry_control.c (which versions ought to be loaded, and making it so), registry_load.c (loading one version), registry_warm.c (its first
 * runs), registry_admin.c (uploads, activation, aliases).
 *
 * Who may change what: entries of models and versions are made, and `live` is set, by the loader thread alone, always under `lock`; so the
 * loader thread may read them without it, and everybody else must hold it. A `struct loaded` is constant from its publication on, but for its pins. */
#ifndef MODEL_STORE_REGISTRY_INTERNAL_H
#define MODEL_STORE_REGISTRY_INTERNAL_H

#include <pthread.h>

#include "model_store/catalog.h"
#include "model_store/inspector.h"
#include "model_store/registry.h"
#include "model_store/repository.h"

enum { REASON_MAX = 400, ALIASES_MAX = 64, LABEL_BYTES_MAX = 16 << 20, RETIRED_MAX = 4, CHECKED_KEPT = 64 };

enum version_state { VERSION_NEW, VERSION_LOADING, VERSION_READY, VERSION_UNAVAILABLE, VERSION_UNLOADING };

struct loaded {
    struct model_version v;              /* first: what registry_pin hands out is this */
    char                 name[MODEL_NAME_MAX + 1];
    struct model_config *config;
    char                *label_text;
    const char         **labels;
    char                 files_digest[65];      /* what the catalog and signatures know; v.digest is the same, but of an ensemble */
    uint64_t             stamp;          /* of files and config when it was loaded */
    int                  pins;           /* guarded by the registry's lock */
    bool                 retired;
    struct model_entry  *model;
    struct loaded       *next;           /* in the reaper's list */
};

struct version_entry {
    int64_t            version;
    enum version_state state;
    char               reason[REASON_MAX];
    struct loaded     *live;             /* NULL: not serving */
    bool               on_disk;
    bool               keep;             /* published since the last activation: loaded beside what the policy wants */
};

struct alias_entry { char name[MODEL_NAME_MAX + 1]; int64_t version; };
struct alias_list { struct alias_entry entries[ALIASES_MAX]; int count; };

struct model_entry {
    char                  name[MODEL_NAME_MAX + 1];
    struct version_entry *versions;      /* ascending */
    int                   count, room;
    int64_t               active;        /* the default by the operator's word; 0: none said */
    struct alias_list     aliases;
    bool                  wanted;        /* it ought to be loaded */
    char                 *config_json;   /* of the load request, replaces the file; NULL */
    size_t                config_length;
    uint64_t              stamp_seen, stamp_done;     /* poll mode: at the last look; when it was last acted upon */
    int                   retiring;      /* versions of it that are draining */
};

enum job_kind { JOB_LOAD, JOB_UNLOAD, JOB_LOAD_VERSION, JOB_ACTIVATE, JOB_PUBLISHED, JOB_ALIASES };
struct job {
    enum job_kind kind;
    const char   *model;
    int64_t       version;
    const char   *config_json;
    size_t        config_length;
    uint64_t      override;            /* JOB_LOAD: the files of the request; 0 none */
    enum status   status;
    struct err    err;
    bool          done;
    struct job   *next;
};

struct registry {
    struct registry_options o;
    struct repository *repository;
    struct catalog    *catalog;
    char               checked[CHECKED_KEPT][65];      /* loader thread: digests of versions that the parsing child has found well-formed, the newest at checked_at - 1 */
    int                checked_at;
    struct ensemble_models members;      /* how ensembles find the models of their steps */
    char             **start_names;      /* copies of load_at_start */
    struct alias_list  scratch;          /* loader thread: what the catalog says, before it is taken over */

    pthread_mutex_t lock;                /* guards everything below */
    pthread_cond_t  changed;             /* a job came, a job is done, settled, a retired version is gone */
    pthread_cond_t  reap;                /* the reaper may have something to do */
    struct model_entry **models;         /* by name */
    int                  model_count, model_room;
    struct job          *first_job, *last_job;
    struct loaded       *retired;
    int                  retired_count;
    bool                 settled, closing, drained;
    pthread_t            loader, reaper;
    bool                 has_loader, has_reaper;
};

/* registry.c; the lock is held */
struct model_entry   *registry_find_model(struct registry *r, const char *name, size_t length);
struct version_entry *registry_find_version(struct model_entry *m, int64_t version);
struct loaded        *registry_default_version(struct model_entry *m);
/* loader thread, the lock not held; NULL when out of memory */
struct model_entry   *registry_add_model(struct registry *r, const char *name);
struct version_entry *registry_add_version(struct registry *r, struct model_entry *m, int64_t version);

/* registry_jobs.c */
enum status registry_start_threads(struct registry *r, struct err *err);
void        registry_stop_threads(struct registry *r);
enum status registry_run_job(struct registry *r, struct job *j, struct err *err);
void        registry_retire(struct registry *r, struct loaded *l);                 /* the lock is held; *l is no longer `live` anywhere */

/* registry_control.c; loader thread */
void        control_start_models(struct registry *r);
void        control_poll_store(struct registry *r);
enum status control_load_model(struct registry *r, struct model_entry *m, struct err *err);
enum status control_load_version(struct registry *r, struct model_entry *m, int64_t version, struct err *err);
void        control_look_again(struct registry *r, struct model_entry *m, bool wanted);      /* after a load that was taken back */
void        control_unload_model(struct registry *r, struct model_entry *m);
void        control_sync_names(struct registry *r, struct model_entry *m);        /* aliases and default from the catalog */

/* registry_load.c; loader thread (close: reaper) */
/* What an ensemble's step runs on (struct ensemble_models); `context` is the registry. */
enum status load_pin_member(void *context, const char *model, int64_t version, struct scheduler **scheduler, void **pin, struct err *err);
void        load_unpin_member(void *context, void *pin);
enum status load_open_version(struct registry *r, struct model_entry *m, int64_t version, uint64_t stamp, struct loaded **out, struct err *err);
void        load_close_version(struct loaded *l);
enum status load_read_config(struct registry *r, struct model_entry *m, int64_t version, struct log *log, struct model_config **out, struct err *err);

/* registry_warm.c: the runs before a version is published */
enum status warm_run_version(struct registry *r, const struct model_version *v, struct err *err);

#endif
