#include "base/regions.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/json.h"

struct region {
    atomic_int references;
    char     name[REGION_NAME_MAX + 1], key[REGION_NAME_MAX + 2];
    uint64_t offset, bytes;
    int      fd;
};

struct regions {
    pthread_mutex_t lock;                  /* guards everything */
    struct region  *all[REGIONS_MAX];
    int             count;
};

struct regions *regions_open(void)
{
    struct regions *r = mem_calloc_array(1, sizeof *r);
    if (r) pthread_mutex_init(&r->lock, NULL);
    return r;
}

void region_drop(struct region *r)
{
    if (!r || atomic_fetch_sub(&r->references, 1) > 1) return;
    close(r->fd);
    free(r);
}

void regions_close(struct regions *all)
{
    if (!all) return;
    regions_unregister(all, NULL);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

static bool is_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n && n <= REGION_NAME_MAX && !text[n] && strcmp(text, ".") && strcmp(text, "..");
}

/* With the lock; -1 if there is none. */
static int find(const struct regions *all, const char *name)
{
    for (int k = 0; k < all->count; k++)
        if (!strcmp(all->all[k]->name, name)) return k;
    return -1;
}

enum status regions_register(struct regions *all, const char *name, const char *key, uint64_t offset, uint64_t bytes, struct err *err)
{
    struct stat st;
    uint64_t end;
    const char *plain = *key == '/' ? key + 1 : key;
    if (!is_name(name) || !is_name(plain)) return err_set(err, ST_BAD_INPUT, "a shared memory region's name and key are 1 to %d letters, digits, '.', '_' or '-'", REGION_NAME_MAX);
    struct region *r = mem_calloc_array(1, sizeof *r);
    if (!r) return err_set(err, ST_NO_MEMORY, "no memory for a shared memory region");
    atomic_init(&r->references, 1);
    strcpy(r->name, name);
    snprintf(r->key, sizeof r->key, "/%s", plain);
    r->offset = offset;
    r->bytes = bytes;
    r->fd = shm_open(r->key, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
    enum status status = ST_OK;
    if (r->fd < 0 || fstat(r->fd, &st) || !S_ISREG(st.st_mode)) status = err_set(err, ST_BAD_INPUT, "Unable to open shared memory region");
    else if (!bytes || !size_add(offset, bytes, &end) || end > (uint64_t)st.st_size) status = err_set(err, ST_BAD_INPUT, "Invalid shared memory region: offset and byte_size go beyond its end");
    pthread_mutex_lock(&all->lock);
    if (!status && find(all, name) >= 0) status = err_set(err, ST_EXISTS, "shared memory region is already registered under that name");
    if (!status && all->count == REGIONS_MAX) status = err_set(err, ST_UNAVAILABLE, "more than %d shared memory regions are registered", REGIONS_MAX);
    if (!status) all->all[all->count++] = r;
    pthread_mutex_unlock(&all->lock);
    if (status && r->fd >= 0) region_drop(r);
    else if (status) free(r);
    return status;
}

void regions_unregister(struct regions *all, const char *name)
{
    pthread_mutex_lock(&all->lock);
    for (int k = all->count - 1; k >= 0; k--) {
        if (name && strcmp(all->all[k]->name, name)) continue;
        region_drop(all->all[k]);
        all->all[k] = all->all[--all->count];
    }
    pthread_mutex_unlock(&all->lock);
}

enum status regions_write_json(struct regions *all, const char *name, bool by_name, struct buf *out, struct err *err)
{
    int written = 0;
    pthread_mutex_lock(&all->lock);
    buf_putc(out, by_name ? '{' : '[');
    for (int k = 0; k < all->count; k++) {
        const struct region *r = all->all[k];
        if (name && strcmp(r->name, name)) continue;
        if (written++) buf_putc(out, ',');
        if (by_name) json_write_text(out, r->name), buf_putc(out, ':');
        buf_puts(out, "{\"name\":");
        json_write_text(out, r->name);
        buf_puts(out, ",\"key\":");
        json_write_text(out, r->key);
        buf_printf(out, ",\"offset\":%llu,\"byte_size\":%llu}", (unsigned long long)r->offset, (unsigned long long)r->bytes);
    }
    buf_putc(out, by_name ? '}' : ']');
    pthread_mutex_unlock(&all->lock);
    return name && !written ? err_set(err, ST_NOT_FOUND, "Unable to find system shared memory region") : ST_OK;
}

enum status regions_find(struct regions *all, const char *name, uint64_t offset, uint64_t bytes, struct region **out, struct err *err)
{
    uint64_t end;
    if (!all) return err_set(err, ST_UNSUPPORTED, "shared memory is off");
    pthread_mutex_lock(&all->lock);
    int at = find(all, name);
    struct region *r = at >= 0 ? all->all[at] : NULL;
    if (r) atomic_fetch_add(&r->references, 1);
    pthread_mutex_unlock(&all->lock);
    if (!r) return err_set(err, ST_BAD_INPUT, "Unable to find shared memory region");
    if (size_add(offset, bytes, &end) && end <= r->bytes) return *out = r, ST_OK;
    region_drop(r);
    return err_set(err, ST_BAD_INPUT, "Invalid offset + byte size for shared memory region");
}

enum status region_read(const struct region *r, uint64_t offset, void *to, uint64_t bytes, struct err *err)
{
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pread(r->fd, (char *)to + done, bytes - done, (off_t)(r->offset + offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return err_set(err, ST_BAD_INPUT, "a shared memory region is shorter than when it was registered");
        done += (uint64_t)n;
    }
    return ST_OK;
}

/* Only within what is there: a region that was made shorter is not made longer again. */
enum status region_write(const struct region *r, uint64_t offset, const void *from, uint64_t bytes, struct err *err)
{
    struct stat st;
    if (fstat(r->fd, &st) || (uint64_t)st.st_size < r->offset + offset + bytes) return err_set(err, ST_BAD_INPUT, "a shared memory region is shorter than when it was registered");
    for (uint64_t done = 0; done < bytes;) {
        ssize_t n = pwrite(r->fd, (const char *)from + done, bytes - done, (off_t)(r->offset + offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return err_set(err, ST_BAD_INPUT, "a shared memory region could not be written");
        done += (uint64_t)n;
    }
    return ST_OK;
}
