/* The ways into the store (R22, R23). A file arrives under a random name in .inferd/uploads and is synced; when its size and digest are what was
 * declared it is renamed into staging/MODEL/VERSION and both folders are synced. Publishing renames the staged folder to
 * MODEL/VERSION. Each rename is one step for the file system: a crash before it leaves the old state and at most a file in uploads/,
 * which the next start removes. */
#include "model_store/repository_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nettle/sha2.h>

#include "base/digest.h"
#include "model_store/model_config.h"

struct repository_upload {
    struct repository *r;
    int      fd;
    char     name[40];                        /* in uploads/ */
    char     model[MODEL_NAME_MAX + 1], file[MODEL_NAME_MAX + 1];
    int64_t  version;
    uint64_t size, done;
    uint8_t  digest[DIGEST_BYTES];
    struct sha256_ctx hash;
};

static enum status refuse_errno(struct err *err, const char *what)
{
    int cause = errno;
    if (cause == ENOSPC || cause == EDQUOT || cause == EFBIG) return err_set(err, ST_NO_SPACE, "%s: the store's disk is full", what);
    if (cause == EROFS || cause == EACCES || cause == EPERM) return err_set(err, ST_UNAVAILABLE, "%s: the store is not writable", what);
    return err_set(err, ST_INTERNAL, "%s: %s", what, strerror(cause));
}

static enum status check_writable(const struct repository *r, const char *model, int64_t version, struct err *err)
{
    if (r->read_only) return err_set(err, ST_UNAVAILABLE, "the store is read-only");
    if (!model_name_valid(model, strlen(model))) return err_set(err, ST_BAD_INPUT, "not a model name: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most %d", MODEL_NAME_MAX);
    if (version < 1 || version > INT32_MAX) return err_set(err, ST_BAD_INPUT, "a version is a number from 1 to 2147483647");
    return ST_OK;
}

static bool is_there(int at, const char *path)
{
    struct stat st;
    return !fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW);
}

static void place(char out[REPOSITORY_PATH_MAX], const char *before, const char *model, int64_t version) { snprintf(out, REPOSITORY_PATH_MAX, "%s%s/%" PRId64, before, model, version); }

enum status repository_upload_begin(struct repository *r, const char *model, int64_t version, const char *file, uint64_t size, const uint8_t digest[32], struct repository_upload **out, struct err *err)
{
    char path[REPOSITORY_PATH_MAX], temporary[64];
    uint64_t id[2];
    enum status st = check_writable(r, model, version, err);
    if (st) return st;
    if (!model_name_valid(file, strlen(file))) return err_set(err, ST_BAD_INPUT, "not a file name: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most %d", MODEL_NAME_MAX);
    place(path, "", model, version);
    if (is_there(r->dirfd, path)) return err_set(err, ST_EXISTS, "version %" PRId64 " of model '%s' is published; upload to a new version", version, model);
    struct repository_upload *u = calloc(1, sizeof *u);
    if (!u) return err_set(err, ST_NO_MEMORY, "no memory for an upload");
    *u = (struct repository_upload){ .r = r, .version = version, .size = size };
    strcpy(u->model, model);
    strcpy(u->file, file);
    memcpy(u->digest, digest, sizeof u->digest);
    sha256_init(&u->hash);
    if (getrandom(id, sizeof id, 0) != (ssize_t)sizeof id) id[0] = (uint64_t)(uintptr_t)u, id[1] = (uint64_t)getpid();
    snprintf(u->name, sizeof u->name, "%016" PRIx64 "%016" PRIx64, id[0], id[1]);
    snprintf(temporary, sizeof temporary, "uploads/%s", u->name);
    repository_step("upload create");
    u->fd = openat(r->own, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (u->fd < 0) {
        st = refuse_errno(err, "the upload cannot be stored");
        free(u);
        return st;
    }
    /* Room is asked for at once, so that a full disk is told before the bytes travel; where the file system cannot, writing tells. */
    int full = size && size <= INT64_MAX ? posix_fallocate(u->fd, 0, (off_t)size) : size ? EFBIG : 0;
    if (full == ENOSPC || full == EFBIG || full == EDQUOT) {
        repository_upload_abort(u);
        return err_set(err, ST_NO_SPACE, "the store's disk has no room for %" PRIu64 " bytes", size);
    }
    *out = u;
    return ST_OK;
}

enum status repository_upload_write(struct repository_upload *u, const void *data, size_t length, struct err *err)
{
    if (length > u->size - u->done) return err_set(err, ST_BAD_INPUT, "the upload is longer than the %" PRIu64 " bytes that were declared", u->size);
    for (const char *p = data; length;) {
        ssize_t n = pwrite(u->fd, p, length, (off_t)u->done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return refuse_errno(err, "the upload cannot be stored");
        sha256_update(&u->hash, (size_t)n, (const uint8_t *)p);
        p += n, length -= (size_t)n, u->done += (uint64_t)n;
    }
    return ST_OK;
}

static void free_upload(struct repository_upload *u, bool remove)
{
    char temporary[64];
    snprintf(temporary, sizeof temporary, "uploads/%s", u->name);
    if (remove) unlinkat(u->r->own, temporary, 0);
    close(u->fd);
    free(u);
}

void repository_upload_abort(struct repository_upload *u)
{
    if (u) free_upload(u, true);
}

static enum status sync_folder(int at, const char *path, struct err *err)
{
    int fd = repository_open_folder(at, path);
    enum status st = fd < 0 || fsync(fd) ? refuse_errno(err, "a folder of the store cannot be synced") : ST_OK;
    if (fd >= 0) close(fd);
    return st;
}

static enum status make_folder(int at, const char *path, struct err *err) { return mkdirat(at, path, 0755) && errno != EEXIST ? refuse_errno(err, "a folder of the store cannot be made") : ST_OK; }

static enum status move_into_staging(struct repository_upload *u, struct err *err)
{
    char from[64], model[REPOSITORY_PATH_MAX], folder[REPOSITORY_PATH_MAX], to[2 * REPOSITORY_PATH_MAX];
    int own = u->r->own;
    snprintf(from, sizeof from, "uploads/%s", u->name);
    snprintf(model, sizeof model, "staging/%s", u->model);
    place(folder, "staging/", u->model, u->version);
    snprintf(to, sizeof to, "%s/%s", folder, u->file);
    repository_step("stage folder");
    enum status st = make_folder(own, model, err);
    if (!st) st = make_folder(own, folder, err);
    repository_step("stage rename");
    if (!st && renameat(own, from, own, to)) st = refuse_errno(err, "the upload cannot be moved into place");
    repository_step("stage sync");
    if (!st) st = sync_folder(own, folder, err);
    if (!st) st = sync_folder(own, model, err);
    if (!st) st = sync_folder(own, "staging", err);
    return st;
}

enum status repository_upload_commit(struct repository_upload *u, struct err *err)
{
    uint8_t got[DIGEST_BYTES];
    char path[REPOSITORY_PATH_MAX];
    enum status st = ST_OK;
    sha256_digest(&u->hash, sizeof got, got);
    place(path, "", u->model, u->version);
    if (u->done != u->size) st = err_set(err, ST_BAD_INPUT, "%" PRIu64 " of the declared %" PRIu64 " bytes arrived", u->done, u->size);
    else if (!digest_equal(got, u->digest)) st = err_set(err, ST_BAD_INPUT, "the SHA-256 of what arrived is not the declared one");
    else if (is_there(u->r->dirfd, path)) st = err_set(err, ST_EXISTS, "version %" PRId64 " of model '%s' was published meanwhile", u->version, u->model);
    repository_step("upload sync");
    if (!st && fsync(u->fd)) st = refuse_errno(err, "the upload cannot be synced");
    if (!st) st = move_into_staging(u, err);
    free_upload(u, true);          /* after the rename there is nothing left to remove */
    return st;
}

bool repository_is_staged(struct repository *r, const char *model, int64_t version)
{
    char path[REPOSITORY_PATH_MAX];
    if (r->read_only || !model_name_valid(model, strlen(model))) return false;
    place(path, "staging/", model, version);
    return is_there(r->own, path);
}

enum status repository_publish(struct repository *r, const char *model, int64_t version, struct err *err)
{
    char from[REPOSITORY_PATH_MAX], to[REPOSITORY_PATH_MAX];
    enum status st = check_writable(r, model, version, err);
    if (st) return st;
    place(from, "staging/", model, version);
    place(to, "", model, version);
    if (!is_there(r->own, from)) return err_set(err, ST_NOT_FOUND, "nothing was uploaded for version %" PRId64 " of model '%s'", version, model);
    if (is_there(r->dirfd, to)) return err_set(err, ST_EXISTS, "version %" PRId64 " of model '%s' is there already", version, model);
    repository_step("publish folder");
    st = make_folder(r->dirfd, model, err);
    repository_step("publish rename");
    if (!st && renameat(r->own, from, r->dirfd, to)) st = refuse_errno(err, "the version cannot be moved into place");
    repository_step("publish sync");
    if (!st) st = sync_folder(r->dirfd, model, err);
    if (!st) st = sync_folder(r->dirfd, ".", err);
    if (!st) st = sync_folder(r->own, "staging", err);
    repository_step("publish done");
    return st;
}
