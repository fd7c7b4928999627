/* The folders of a store: STORE/MODEL/[config.pbtxt] and STORE/MODEL/VERSION/ with the model's files. Names that begin with '.' are not
 * models, versions or files. The store's own things lie in STORE/.inferd: catalog.db, uploads/ (files that are still arriving; emptied at
 * start) and staging/MODEL/VERSION/ (whole, verified files of versions that are not published yet). Publishing renames a staged folder into
 * its place, so a version is seen whole or not at all. Thread-safe: it holds nothing but the folder's descriptor. */
#ifndef MODEL_STORE_REPOSITORY_H
#define MODEL_STORE_REPOSITORY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"

enum { REPOSITORY_FILES_MAX = 4096, REPOSITORY_PATH_MAX = 512, REPOSITORY_VERSIONS_MAX = 4096, REPOSITORY_MODELS_MAX = 10000 };

struct repository;

/* ST_NOT_FOUND when the folder is not there. Makes .inferd and collects what a crash left behind; where that is not allowed the store is read-only. */
enum status repository_open(struct repository **out, const char *store, struct log *log, struct err *err);
void        repository_close(struct repository *r);
bool        repository_read_only(const struct repository *r);
const char *repository_root(const struct repository *r);                                  /* absolute */

/* The absolute folder of a version's files. */
void        repository_folder(struct repository *r, const char *model, int64_t version, char *out, size_t size);

/* ---- overrides: a model whose files came with a load request, in place of its folder (which there may be none of) ---- */
/* They lie in .inferd/overrides under a number of our own, are read as the store's files are, and nothing of them is kept beyond the process. Paths are as in the
 * model's folder ("1/model.onnx", "labels.txt"); every part is a plain name. */
struct repository_file { const char *path; const void *bytes; size_t length; };
enum status repository_override_make(struct repository *r, const struct repository_file *files, int count, uint64_t *id, struct err *err);
/* The model's files are those of `id` from now on (0: of its own folder), and what they were before goes to *was. Loader thread. */
enum status repository_override_set(struct repository *r, const char *model, uint64_t id, uint64_t *was, struct err *err);
bool        repository_overridden(struct repository *r, const char *model);
void        repository_override_remove(struct repository *r, uint64_t id);      /* 0 is allowed; what is mapped stays readable */

/* Model names in alphabetical order: *names is one block of pointers and text, free() it. */
enum status repository_list_models(struct repository *r, char ***names, int *count, struct err *err);
bool        repository_has_model(struct repository *r, const char *model);
/* Ascending; at most `max`. ST_NOT_FOUND when the model has no folder. */
enum status repository_list_versions(struct repository *r, const char *model, int64_t *out, int max, int *count, struct err *err);
bool        repository_has_version(struct repository *r, const char *model, int64_t version);

/* Which engine the files of a version ask for, and its main file (relative to the version's folder). */
struct version_kind { const char *engine, *what; char main_file[REPOSITORY_PATH_MAX]; };
enum status repository_find_kind(struct repository *r, const char *model, int64_t version, struct version_kind *out, struct err *err);

/* SHA-256 over the sorted lines "name NUL size NUL sha256-hex LF" of the version's files but its signatures, as hex. */
#define MANIFEST_FILE "manifest.sig"
enum status repository_digest(struct repository *r, const char *model, int64_t version, char hex[65], void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *err);
/* A number that changes when names, sizes or times of the version's files, of the model's config or of the model's other own files change. 0 when the version is not there. */
uint64_t    repository_stamp(struct repository *r, const char *model, int64_t version);

/* Reads VERSION/file, or MODEL/file where that is not there. ST_NOT_FOUND when neither is. free(*text). version 0: MODEL/file only. */
enum status repository_read_file(struct repository *r, const char *model, int64_t version, const char *file, size_t max, char **text, size_t *length, struct err *err);
enum status repository_open_file(struct repository *r, const char *model, int64_t version, const char *file, int *fd, uint64_t *size, struct err *err);

/* ---- ways in ---- */
struct repository_upload;
enum status repository_upload_begin(struct repository *r, const char *model, int64_t version, const char *file, uint64_t size, const uint8_t digest[32], struct repository_upload **out, struct err *err);
enum status repository_upload_write(struct repository_upload *u, const void *data, size_t length, struct err *err);
enum status repository_upload_commit(struct repository_upload *u, struct err *err);       /* frees u in every case */
void        repository_upload_abort(struct repository_upload *u);
bool        repository_is_staged(struct repository *r, const char *model, int64_t version);
/* Moves a staged version into its place. ST_NOT_FOUND when nothing is staged, ST_EXISTS when the version is there already. */
enum status repository_publish(struct repository *r, const char *model, int64_t version, struct err *err);

/* Tests set it: called with the name of each step on disk that is about to be done. NULL in service. */
extern void (*repository_failpoint)(const char *step);

#endif
