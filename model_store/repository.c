/* Reading the store. Every name that reaches a path passed R20 or came from a directory of ours; every file is opened below the store's
 * own descriptor without following links (base/file.h). Walking a version's folders goes four levels deep and stops at
 * REPOSITORY_FILES_MAX files, so that a strange tree costs a bounded amount of work. */
#include "model_store/repository_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/digest.h"
#include "base/file.h"
#include "model_store/model_config.h"

enum { WALK_DEPTH_MAX = 4 };

void (*repository_failpoint)(const char *step);

int repository_open_folder(int at, const char *relative) { return openat(at, relative, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC); }

/* Everything in uploads/ belongs to a process that is gone. */
static void collect_garbage(struct repository *r)
{
    int fd = repository_open_folder(r->own, "uploads"), removed = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0) close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && !unlinkat(dirfd(d), e->d_name, 0)) removed++;
    closedir(d);
    if (removed) log_write(r->log, LOG_WARNING, "store", "%d unfinished uploads of an earlier run were removed", removed);
}

static bool make_folder(int at, const char *name) { return !mkdirat(at, name, 0700) || errno == EEXIST; }

static void open_own(struct repository *r)
{
    r->own = -1;
    r->read_only = true;
    if (!make_folder(r->dirfd, ".inferd")) return;
    r->own = repository_open_folder(r->dirfd, ".inferd");
    if (r->own < 0 || !make_folder(r->own, "uploads") || !make_folder(r->own, "staging") || !make_folder(r->own, "overrides") || faccessat(r->own, "uploads", W_OK, AT_EACCESS) || faccessat(r->own, ".", W_OK, AT_EACCESS)) {
        if (r->own >= 0) close(r->own);
        r->own = -1;
        return;
    }
    r->read_only = false;
    collect_garbage(r);
    repository_remove_tree(r->own, "overrides");
    if (!make_folder(r->own, "overrides")) r->read_only = true;
}

enum status repository_open(struct repository **out, const char *store, struct log *log, struct err *err)
{
    struct repository *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "no memory to open the store");
    r->log = log;
    pthread_mutex_init(&r->lock, NULL);
    r->root = realpath(store, NULL);
    r->dirfd = r->root ? open(r->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (r->dirfd < 0) {
        enum status st = err_set(err, ST_NOT_FOUND, "the store '%.300s' cannot be opened: %s", store, strerror(errno));
        free(r->root);
        pthread_mutex_destroy(&r->lock);
        free(r);
        return st;
    }
    open_own(r);
    *out = r;
    return ST_OK;
}

void repository_close(struct repository *r)
{
    if (!r) return;
    if (!r->read_only) repository_remove_tree(r->own, "overrides");
    pthread_mutex_destroy(&r->lock);
    close(r->dirfd);
    if (r->own >= 0) close(r->own);
    free(r->root);
    free(r);
}

bool        repository_read_only(const struct repository *r) { return r->read_only; }
const char *repository_root(const struct repository *r) { return r->root; }

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static DIR *open_directory(int at, const char *relative)
{
    int fd = repository_open_folder(at, relative);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0) close(fd);
    return d;
}

static bool is_folder(int at, const char *name)
{
    struct stat st;
    return !fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISDIR(st.st_mode);
}

enum status repository_list_models(struct repository *r, char ***names, int *count, struct err *err)
{
    DIR *d = open_directory(r->dirfd, ".");
    if (!d) return err_set(err, ST_INTERNAL, "the store cannot be listed: %s", strerror(errno));
    char **all = NULL;
    int n = 0, room = 0;
    enum status st = ST_OK;
    for (struct dirent *e; !st && (e = readdir(d));) {
        if (!model_name_valid(e->d_name, strlen(e->d_name)) || !is_folder(r->dirfd, e->d_name)) continue;
        if (n == REPOSITORY_MODELS_MAX) break;
        if (n == room) {
            char **more = mem_realloc_array(all, (uint64_t)(room = room * 2 + 16), sizeof *all);
            if (!more) { st = err_set(err, ST_NO_MEMORY, "no memory to list the store"); break; }
            all = more;
        }
        all[n] = strdup(e->d_name);
        if (!all[n]) st = err_set(err, ST_NO_MEMORY, "no memory to list the store");
        else n++;
    }
    closedir(d);
    if (!st && n) {            /* one block: pointers, then text, for one free() */
        qsort(all, (size_t)n, sizeof *all, compare_names);
        size_t bytes = sizeof(char *) * (size_t)n;
        for (int i = 0; i < n; i++) bytes += strlen(all[i]) + 1;
        char **block = mem_alloc_array(bytes, 1), *text = block ? (char *)(block + n) : NULL;
        if (!block) st = err_set(err, ST_NO_MEMORY, "no memory to list the store");
        for (int i = 0; block && i < n; i++) {
            block[i] = text;
            text = stpcpy(text, all[i]) + 1;
        }
        *names = block;
    } else {
        *names = NULL;
    }
    for (int i = 0; i < n; i++) free(all[i]);
    free(all);
    *count = st ? 0 : n;
    return st;
}

bool repository_has_model(struct repository *r, const char *model)
{
    char place[REPOSITORY_PATH_MAX];
    if (!model_name_valid(model, strlen(model))) return false;
    repository_place(r, model, place);
    return is_folder(r->dirfd, place);
}

/* The model's folder; -1. */
static int open_model(struct repository *r, const char *model)
{
    char place[REPOSITORY_PATH_MAX];
    if (!model_name_valid(model, strlen(model))) return -1;
    repository_place(r, model, place);
    return repository_open_folder(r->dirfd, place);
}

void repository_folder(struct repository *r, const char *model, int64_t version, char *out, size_t size)
{
    char place[REPOSITORY_PATH_MAX];
    repository_place(r, model, place);
    snprintf(out, size, "%.4096s/%s/%" PRId64, r->root, place, version);
}

static int compare_versions(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

enum status repository_list_versions(struct repository *r, const char *model, int64_t *out, int max, int *count, struct err *err)
{
    int fd = open_model(r, model);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0) close(fd);
    *count = 0;
    if (!d) return err_set(err, ST_NOT_FOUND, "the store has no model '%.130s'", model);
    for (struct dirent *e; *count < max && (e = readdir(d));)
        if (model_version_parse(e->d_name, strlen(e->d_name), &out[*count]) && is_folder(dirfd(d), e->d_name)) ++*count;
    closedir(d);
    qsort(out, (size_t)*count, sizeof *out, compare_versions);
    return ST_OK;
}

/* The folder MODEL/VERSION; neither part may be a link. */
static int open_version(struct repository *r, const char *model, int64_t version)
{
    char number[24];
    int fd = open_model(r, model);
    if (fd < 0) return -1;
    snprintf(number, sizeof number, "%" PRId64, version);
    int inner = repository_open_folder(fd, number);
    close(fd);
    return inner;
}

bool repository_has_version(struct repository *r, const char *model, int64_t version)
{
    int fd = open_version(r, model, version);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

/* ---- the files of a version ---- */

struct file_row { char name[REPOSITORY_PATH_MAX]; struct stat st; };
struct file_list { struct file_row *rows; int count, room; };

static enum status add_row(struct file_list *l, const char *name, const struct stat *st, struct err *err)
{
    if (l->count == REPOSITORY_FILES_MAX) return err_set(err, ST_TOO_LARGE, "the version has more than %d files", REPOSITORY_FILES_MAX);
    if (l->count == l->room) {
        struct file_row *more = mem_realloc_array(l->rows, (uint64_t)(l->room = l->room * 2 + 8), sizeof *l->rows);
        if (!more) return err_set(err, ST_NO_MEMORY, "no memory to list a version's files");
        l->rows = more;
    }
    snprintf(l->rows[l->count].name, sizeof l->rows[0].name, "%s", name);
    l->rows[l->count++].st = *st;
    return ST_OK;
}

/* Adds the files below `relative` ("" or "folder/"). Anything that is neither file nor folder is refused. */
static enum status walk(struct file_list *l, int root, const char *relative, int depth, struct err *err)
{
    DIR *d = open_directory(root, *relative ? relative : ".");
    enum status status = ST_OK;
    if (!d) return err_set(err, ST_INTERNAL, "'%.200s' cannot be listed: %s", relative, strerror(errno));
    for (struct dirent *e; !status && (e = readdir(d));) {
        char path[REPOSITORY_PATH_MAX];
        struct stat st;
        if (e->d_name[0] == '.') continue;
        if (snprintf(path, sizeof path, "%s%s", relative, e->d_name) >= (int)sizeof path - 1) status = err_set(err, ST_BAD_INPUT, "a path of the version is too long");
        else if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW)) continue;               /* gone meanwhile */
        else if (S_ISREG(st.st_mode)) status = add_row(l, path, &st, err);
        else if (!S_ISDIR(st.st_mode)) status = err_set(err, ST_BAD_INPUT, "'%.200s' is a link or special file; a version holds regular files only", path);
        else if (depth == WALK_DEPTH_MAX) status = err_set(err, ST_BAD_INPUT, "'%.200s' is nested too deeply", path);
        else status = walk(l, root, strcat(path, "/"), depth + 1, err);
    }
    closedir(d);
    return status;
}

static int compare_rows(const void *a, const void *b) { return strcmp(((const struct file_row *)a)->name, ((const struct file_row *)b)->name); }

/* Sorted by name. free(l->rows) in every case. *fd receives the version's folder. */
static enum status list_files(struct repository *r, const char *model, int64_t version, struct file_list *l, int *fd, struct err *err)
{
    *l = (struct file_list){ 0 };
    *fd = open_version(r, model, version);
    if (*fd < 0) return err_set(err, ST_NOT_FOUND, "the store has no version %" PRId64 " of model '%.130s'", version, model);
    enum status st = walk(l, *fd, "", 1, err);
    if (!st && l->count) qsort(l->rows, (size_t)l->count, sizeof *l->rows, compare_rows);
    return st;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

static const struct file_row *find_row(const struct file_list *l, const char *name)
{
    for (int i = 0; i < l->count; i++)
        if (!strcmp(l->rows[i].name, name)) return &l->rows[i];
    return NULL;
}

enum status repository_find_kind(struct repository *r, const char *model, int64_t version, struct version_kind *out, struct err *err)
{
    static const struct { const char *file, *engine, *what; } kinds[] = {
        { "model.onnx", "onnx", "an ONNX network" }, { "model_index.json", "diffusion", "a diffusers folder" }, { "config.json", "llm", "a Hugging Face folder" }, { "model.safetensors", "diffusion", "a single-file checkpoint" },
    };
    struct file_list l;
    int fd;
    enum status st = list_files(r, model, version, &l, &fd, err);
    const struct file_row *hit = NULL;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; !st && !hit && i < sizeof kinds / sizeof *kinds; i++) {
        hit = find_row(&l, kinds[i].file);
        if (hit) out->engine = kinds[i].engine, out->what = kinds[i].what;
        for (int k = 0; i == 0 && !hit && k < l.count; k++)
            if (ends_with(l.rows[k].name, ".gguf") && !strchr(l.rows[k].name, '/')) hit = &l.rows[k], out->engine = "llm", out->what = "a GGUF file";
    }
    if (hit) snprintf(out->main_file, sizeof out->main_file, "%s", hit->name);
    else if (!st) st = err_set(err, ST_BAD_INPUT, "the folder holds no model: model.onnx, a .gguf file, config.json, model_index.json or model.safetensors is expected");
    free(l.rows);
    if (fd >= 0) close(fd);
    return st;
}

struct hash_progress { void (*told)(void *ctx, uint64_t done, uint64_t total); void *ctx; uint64_t before, total; };

static void add_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct hash_progress *p = ctx;
    (void)total;
    if (p->told) p->told(p->ctx, p->before + done, p->total);
}

enum status repository_digest(struct repository *r, const char *model, int64_t version, char hex[65], void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx, struct err *err)
{
    struct file_list l;
    struct hash_progress p = { .told = progress, .ctx = ctx };
    struct buf lines;
    int fd;
    buf_init(&lines, 0);
    enum status st = list_files(r, model, version, &l, &fd, err);
    for (int i = 0; i < l.count; i++) p.total += (uint64_t)l.rows[i].st.st_size;
    for (int i = 0; !st && i < l.count; i++) {
        if (!strcmp(l.rows[i].name, MANIFEST_FILE)) continue;      /* it signs this digest */
        uint8_t d[DIGEST_BYTES];
        char text[DIGEST_HEX + 1];
        uint64_t size = 0;
        int file = -1;
        st = file_open_below(&file, &size, fd, l.rows[i].name, err);
        if (!st) st = digest_file(file, d, add_progress, &p, err);
        if (file >= 0) close(file);
        if (st) break;
        digest_hex(d, text);
        buf_append(&lines, l.rows[i].name, strlen(l.rows[i].name) + 1);
        buf_uint(&lines, size);
        buf_putc(&lines, 0);
        buf_puts(&lines, text);
        buf_putc(&lines, '\n');
        p.before += size;
    }
    if (!st && lines.failed) st = err_set(err, ST_NO_MEMORY, "no memory to compute a digest");
    if (!st) {
        uint8_t d[DIGEST_BYTES];
        digest_bytes(lines.data, lines.length, d);
        digest_hex(d, hex);
    }
    buf_free(&lines);
    free(l.rows);
    if (fd >= 0) close(fd);
    return st;
}

static uint64_t mix(uint64_t h, uint64_t v) { return (h ^ v) * 0x9e3779b97f4a7c15u ^ (h >> 29); }

static uint64_t mix_stat(uint64_t h, const char *name, const struct stat *st)
{
    for (const char *p = name; *p; p++) h = mix(h, (unsigned char)*p);
    h = mix(h, (uint64_t)st->st_size);
    h = mix(h, (uint64_t)st->st_ino);
    return mix(mix(h, (uint64_t)st->st_mtim.tv_sec), (uint64_t)st->st_mtim.tv_nsec);
}

/* Files directly in MODEL/: config and labels. Their order does not matter: the sum of their numbers is taken. */
static uint64_t stamp_own_files(struct repository *r, const char *model)
{
    int fd = open_model(r, model);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    uint64_t sum = 0;
    if (!d && fd >= 0) close(fd);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        if (e->d_name[0] != '.' && !fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode)) sum += mix_stat(2, e->d_name, &st);
    }
    if (d) closedir(d);
    return sum;
}

uint64_t repository_stamp(struct repository *r, const char *model, int64_t version)
{
    struct file_list l;
    struct err err;
    int fd;
    uint64_t h = 1;
    enum status st = list_files(r, model, version, &l, &fd, &err);
    for (int i = 0; i < l.count; i++) h = mix_stat(h, l.rows[i].name, &l.rows[i].st);
    free(l.rows);
    if (fd >= 0) close(fd);
    if (st == ST_NOT_FOUND) return 0;
    h = mix(h, stamp_own_files(r, model)) + (uint64_t)st;
    return h ? h : 1;
}

enum status repository_open_file(struct repository *r, const char *model, int64_t version, const char *file, int *fd, uint64_t *size, struct err *err)
{
    char path[2 * REPOSITORY_PATH_MAX], place[REPOSITORY_PATH_MAX];
    enum status st = ST_NOT_FOUND;
    if (!model_name_valid(model, strlen(model))) return err_set(err, ST_NOT_FOUND, "the store has no model of this name");
    repository_place(r, model, place);
    if (version) {
        snprintf(path, sizeof path, "%.400s/%" PRId64 "/%.500s", place, version, file);
        st = file_open_below(fd, size, r->dirfd, path, err);
    }
    if (st == ST_NOT_FOUND) {
        snprintf(path, sizeof path, "%s/%.500s", place, file);
        st = file_open_below(fd, size, r->dirfd, path, err);
    }
    return st;
}

enum status repository_read_file(struct repository *r, const char *model, int64_t version, const char *file, size_t max, char **text, size_t *length, struct err *err)
{
    int fd = -1;
    uint64_t size;
    enum status st = repository_open_file(r, model, version, file, &fd, &size, err);
    if (st) return st;
    st = file_read_fd(text, length, fd, max, err);
    if (st) err_prefix(err, "'%.100s'", file);
    close(fd);
    return st;
}
