/* Files that came with a load request (Triton's "file:" parameters). They are written to a folder of their own below .inferd/overrides, whose name is a number that we give, so that nothing of the store is touched; the
 * model's files are then read there by everybody who reads the store. What a crash leaves the next start removes. */
#include "model_store/repository_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model_store/model_config.h"

enum { REMOVE_DEPTH_MAX = 8, PARTS_MAX = 5 };

static void override_path(char out[REPOSITORY_PATH_MAX], uint64_t id) { snprintf(out, REPOSITORY_PATH_MAX, ".inferd/overrides/%" PRIu64, id); }

/* With the lock. */
static struct override *find(struct repository *r, const char *model)
{
    for (int i = 0; i < OVERRIDES_MAX; i++)
        if (r->overrides[i].id && !strcmp(r->overrides[i].model, model)) return &r->overrides[i];
    return NULL;
}

void repository_place(struct repository *r, const char *model, char out[REPOSITORY_PATH_MAX])
{
    pthread_mutex_lock(&r->lock);
    const struct override *o = find(r, model);
    if (o) override_path(out, o->id);
    else snprintf(out, REPOSITORY_PATH_MAX, "%s", model);
    pthread_mutex_unlock(&r->lock);
}

bool repository_overridden(struct repository *r, const char *model)
{
    pthread_mutex_lock(&r->lock);
    bool is = find(r, model) != NULL;
    pthread_mutex_unlock(&r->lock);
    return is;
}

enum status repository_override_set(struct repository *r, const char *model, uint64_t id, uint64_t *was, struct err *err)
{
    enum status st = ST_OK;
    pthread_mutex_lock(&r->lock);
    struct override *o = find(r, model);
    *was = o ? o->id : 0;
    for (int i = 0; !o && id && i < OVERRIDES_MAX; i++)
        if (!r->overrides[i].id) o = &r->overrides[i];
    if (o) {
        snprintf(o->model, sizeof o->model, "%s", model);
        o->id = id;
    } else if (id) {
        st = err_set(err, ST_UNAVAILABLE, "more than %d models are loaded from files of their requests", OVERRIDES_MAX);
    }
    pthread_mutex_unlock(&r->lock);
    return st;
}

/* ---- removing ---- */

static void remove_below(int at, const char *name, int depth)
{
    int fd = repository_open_folder(at, name);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0) close(fd);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (unlinkat(dirfd(d), e->d_name, 0) && depth < REMOVE_DEPTH_MAX) remove_below(dirfd(d), e->d_name, depth + 1);
    }
    if (d) closedir(d);
    unlinkat(at, name, AT_REMOVEDIR);
}

void repository_remove_tree(int at, const char *name) { remove_below(at, name, 0); }

void repository_override_remove(struct repository *r, uint64_t id)
{
    char path[REPOSITORY_PATH_MAX];
    if (!id) return;
    override_path(path, id);
    repository_remove_tree(r->dirfd, path);
}

/* ---- making ---- */

static enum status refuse_path(const char *path, struct err *err)
{
    return err_set(err, ST_BAD_INPUT, "'file:%.100s' is no path of a model's file, such as 1/model.onnx: every part is made of letters, digits, '.', '_' and '-' and begins with a letter or digit, at most %d parts", path, PARTS_MAX);
}

/* "1/unet/model.bin", "labels.txt": plain names only. */
static enum status check_path(const char *path, struct err *err)
{
    int parts = 0;
    if (strlen(path) >= REPOSITORY_PATH_MAX - 64) return refuse_path(path, err);
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, "/");
        if (!model_name_valid(p, n) || ++parts > PARTS_MAX) return refuse_path(path, err);
        p += n;
        if (!*p) return ST_OK;
    }
}

static enum status refuse_errno(struct err *err)
{
    if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG) return err_set(err, ST_NO_SPACE, "the files of the request cannot be stored: the store's disk is full");
    if (errno == EEXIST) return err_set(err, ST_BAD_INPUT, "the request brings a file twice, or a file and a folder of one name");
    return err_set(err, ST_INTERNAL, "the files of the request cannot be stored: %s", strerror(errno));
}

static enum status write_file(int root, const struct repository_file *f, struct err *err)
{
    char path[REPOSITORY_PATH_MAX];
    snprintf(path, sizeof path, "%s", f->path);
    for (char *slash = strchr(path, '/'); slash; *slash = '/', slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdirat(root, path, 0700) && errno != EEXIST) return refuse_errno(err);
    }
    int fd = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return refuse_errno(err);
    const char *p = f->bytes;
    enum status st = ST_OK;
    for (size_t left = f->length; left && !st;) {
        ssize_t n = write(fd, p, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = refuse_errno(err);
        else p += n, left -= (size_t)n;
    }
    if (close(fd) && !st) st = refuse_errno(err);
    return st;
}

enum status repository_override_make(struct repository *r, const struct repository_file *files, int count, uint64_t *id, struct err *err)
{
    char path[REPOSITORY_PATH_MAX];
    enum status st = ST_OK;
    if (r->read_only) return err_set(err, ST_UNAVAILABLE, "the store is read-only: there is no place for the files of the request");
    if (count > REPOSITORY_FILES_MAX) return err_set(err, ST_TOO_LARGE, "the request brings more than %d files", REPOSITORY_FILES_MAX);
    for (int i = 0; i < count && !st; i++) st = check_path(files[i].path, err);
    if (st) return st;
    pthread_mutex_lock(&r->lock);
    *id = ++r->override_count;
    pthread_mutex_unlock(&r->lock);
    override_path(path, *id);
    int root = mkdirat(r->dirfd, path, 0700) ? -1 : repository_open_folder(r->dirfd, path);
    if (root < 0) return refuse_errno(err);
    for (int i = 0; i < count && !st; i++) st = write_file(root, &files[i], err);
    close(root);
    if (st) repository_override_remove(r, *id);
    return st;
}
