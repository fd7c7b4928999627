/* Opening files safely (R19, R21): regular files only, below one directory, no links followed. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Opens `relative` (no "..", not absolute) below the directory `dirfd` for reading: openat2(RESOLVE_BENEATH | NO_SYMLINKS |
 * NO_MAGICLINKS), with an O_NOFOLLOW walk by component where the kernel lacks it; O_NONBLOCK | O_CLOEXEC, then fstat: a regular file.
 * *size receives its bytes. Returns ST_NOT_FOUND, ST_BAD_INPUT (a link, a pipe, a directory) or ST_INTERNAL. */
enum status file_open_below(int *fd, uint64_t *size, int dirfd, const char *relative, struct err *err);

/* A read-only mapping of a whole file. The descriptor is not kept. data is NULL for an empty file. */
struct file_map { const uint8_t *data; uint64_t size; };
enum status file_map_fd(struct file_map *out, int fd, struct err *err);
enum status file_map_path(struct file_map *out, const char *path, struct err *err);   /* path of the operator's own, links allowed */
void        file_unmap(struct file_map *m);
bool        file_map_holds(const struct file_map *m, const void *data);
/* Of bytes that lie in a mapping (others would be lost): the pages that these bytes fill are given back to the system. Read again they come from the file. */
void        file_let_go(const void *data, uint64_t bytes);

/* The number behind `key` where a line begins with that, as /proc writes it ("VmRSS:" in /proc/self/status); false when there is none. */
bool        file_line_number(const char *path, const char *key, double *out);

/* Reads a whole small file (at most `max` bytes) into the heap, NUL-terminated; free() it. */
enum status file_read_path(char **out, size_t *length, const char *path, size_t max, struct err *err);
enum status file_read_fd(char **out, size_t *length, int fd, size_t max, struct err *err);

#endif
