/* A path below a directory is opened by the kernel's own rule where it has one (openat2, since 5.6). Elsewhere, or where a sandbox forbids the
 * call, the path is walked by component with O_NOFOLLOW: each step opens one directory that is no link, so the file lies below dirfd.
 * Files are opened O_NONBLOCK, so that a pipe planted in the store cannot hold a thread; the flag has no meaning for regular files. */
#include "base/file.h"

#include "base/checked.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RELATIVE_MAX = 1024, OPEN_FLAGS = O_RDONLY | O_NONBLOCK | O_CLOEXEC };

/* Not absolute, no empty or ".." component. */
static bool path_is_plain(const char *relative)
{
    size_t length = strlen(relative);
    if (!length || length >= RELATIVE_MAX || relative[0] == '/') return false;
    for (const char *p = relative;;) {
        size_t n = strcspn(p, "/");
        if (!n || (n == 2 && p[0] == '.' && p[1] == '.')) return false;
        if (!p[n]) return true;
        p += n + 1;
    }
}

/* The fallback; -1 with errno, like open. */
static int open_by_component(int dirfd, const char *relative)
{
    char name[RELATIVE_MAX];
    int  at = dirfd;
    for (const char *p = relative;;) {
        size_t n = strcspn(p, "/");
        memcpy(name, p, n);
        name[n] = 0;
        bool last = !p[n];
        int next = openat(at, name, OPEN_FLAGS | O_NOFOLLOW | (last ? 0 : O_DIRECTORY));
        int cause = errno;
        struct stat st;
        /* With O_DIRECTORY a link is told as "not a directory". */
        if (next < 0 && cause == ENOTDIR && !fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISLNK(st.st_mode)) cause = ELOOP;
        if (at != dirfd) close(at);
        errno = cause;
        if (next < 0 || last) return next;
        at = next;
        p += n + 1;
    }
}

enum status file_open_below(int *fd, uint64_t *size, int dirfd, const char *relative, struct err *err)
{
    if (!path_is_plain(relative)) return err_set(err, ST_BAD_INPUT, "'%.200s' is not a plain path below its folder", relative);
    struct open_how how = { .flags = OPEN_FLAGS, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
    int f = (int)syscall(SYS_openat2, dirfd, relative, &how, sizeof how);
    if (f < 0 && (errno == ENOSYS || errno == EPERM || errno == EAGAIN)) f = open_by_component(dirfd, relative);
    if (f < 0) {
        if (errno == ENOENT || errno == ENOTDIR) return err_set(err, ST_NOT_FOUND, "'%.200s' does not exist", relative);
        if (errno == ELOOP || errno == EXDEV) return err_set(err, ST_BAD_INPUT, "'%.200s' is or lies behind a symbolic link; only regular files are opened", relative);
        if (errno == ENXIO) return err_set(err, ST_BAD_INPUT, "'%.200s' is not a regular file", relative);
        return err_set(err, ST_INTERNAL, "'%.200s' cannot be opened: %s", relative, strerror(errno));
    }
    struct stat st;
    if (fstat(f, &st) || !S_ISREG(st.st_mode) || st.st_size < 0) {
        close(f);
        return err_set(err, ST_BAD_INPUT, "'%.200s' is not a regular file", relative);
    }
    *fd = f;
    *size = (uint64_t)st.st_size;
    return ST_OK;
}

enum status file_map_fd(struct file_map *out, int fd, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st)) return err_set(err, ST_INTERNAL, "a file cannot be examined: %s", strerror(errno));
    if (!S_ISREG(st.st_mode)) return err_set(err, ST_BAD_INPUT, "not a regular file");
    if ((uint64_t)st.st_size > SIZE_MAX / 2) return err_set(err, ST_TOO_LARGE, "the file has more bytes than can be mapped");
    *out = (struct file_map){ .size = (uint64_t)st.st_size };
    if (!st.st_size) return ST_OK;
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return err_set(err, errno == ENOMEM ? ST_NO_MEMORY : ST_INTERNAL, "a file cannot be mapped: %s", strerror(errno));
    out->data = p;
    return ST_OK;
}

static enum status open_path(int *fd, const char *path, struct err *err)
{
    int f = open(path, OPEN_FLAGS);
    if (f < 0 && errno == ENOENT) return err_set(err, ST_NOT_FOUND, "'%.300s' does not exist", path);
    if (f < 0) return err_set(err, ST_INTERNAL, "'%.300s' cannot be opened: %s", path, strerror(errno));
    *fd = f;
    return ST_OK;
}

enum status file_map_path(struct file_map *out, const char *path, struct err *err)
{
    int fd = -1;
    enum status st = open_path(&fd, path, err);
    if (st) return st;
    st = file_map_fd(out, fd, err);
    if (st) err_prefix(err, "'%.300s'", path);
    close(fd);
    return st;
}

void file_unmap(struct file_map *m)
{
    if (m->data) munmap((void *)m->data, (size_t)m->size);
    *m = (struct file_map){ 0 };
}

bool file_map_holds(const struct file_map *m, const void *data) { return (uintptr_t)data - (uintptr_t)m->data < m->size; }

void file_let_go(const void *data, uint64_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = ((uintptr_t)data + page - 1) & ~(page - 1), to = ((uintptr_t)data + bytes) & ~(page - 1);
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED);
}

bool file_line_number(const char *path, const char *key, double *out)
{
    char line[256];
    FILE *f = fopen(path, "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) found = sscanf(line + strlen(key), " %lf", out) == 1;
    if (f) fclose(f);
    return found;
}

enum status file_read_fd(char **out, size_t *length, int fd, size_t max, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st)) return err_set(err, ST_INTERNAL, "a file cannot be examined: %s", strerror(errno));
    if (!S_ISREG(st.st_mode)) return err_set(err, ST_BAD_INPUT, "not a regular file");
    if (st.st_size < 0 || (uint64_t)st.st_size > max)
        return err_set(err, ST_TOO_LARGE, "the file has %lld bytes; at most %zu are read", (long long)st.st_size, max);
    size_t size = (size_t)st.st_size, done = 0;
    char *text = mem_alloc_array((uint64_t)size + 1, 1);
    if (!text) return err_set(err, ST_NO_MEMORY, "no memory for a file of %zu bytes", size);
    while (done < size) {
        ssize_t n = pread(fd, text + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            free(text);
            return err_set(err, ST_INTERNAL, "reading failed after %zu bytes: %s", done, strerror(errno));
        }
        if (!n) break;                       /* it shrank meanwhile */
        done += (size_t)n;
    }
    text[done] = 0;
    *out = text;
    if (length) *length = done;
    return ST_OK;
}

enum status file_read_path(char **out, size_t *length, const char *path, size_t max, struct err *err)
{
    int fd = -1;
    enum status st = open_path(&fd, path, err);
    if (st) return st;
    st = file_read_fd(out, length, fd, max, err);
    if (st) err_prefix(err, "'%.300s'", path);
    close(fd);
    return st;
}
