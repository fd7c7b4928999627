/* System shared memory that clients made and registered under a name (Triton's extension; R26). Never mapped: bytes are copied by pread and pwrite, so that a client that
 * shrinks its region gets an error and not our process a signal. Any thread. */
#ifndef BASE_REGIONS_H
#define BASE_REGIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { REGION_NAME_MAX = 128, REGIONS_MAX = 1024 };

struct regions;
struct region;      /* counted: it outlives its registration as long as a request holds it */

struct regions *regions_open(void);      /* NULL without memory */
void            regions_close(struct regions *all);

/* `key` is the name that shm_open takes, with or without its slash. ST_BAD_INPUT: names that are not [A-Za-z0-9._-]{1,128}, a region that is not there or smaller than offset + bytes; ST_EXISTS. */
enum status regions_register(struct regions *all, const char *name, const char *key, uint64_t offset, uint64_t bytes, struct err *err);
/* `name` NULL: all of them. One that is not registered is no error. */
void        regions_unregister(struct regions *all, const char *name);
/* [{"name":...,"key":...,"offset":...,"byte_size":...}, ...], or `by_name` an object of them; `name` NULL: all. ST_NOT_FOUND. */
enum status regions_write_json(struct regions *all, const char *name, bool by_name, struct buf *out, struct err *err);

/* The region of that name with room for offset + bytes; the caller holds it until region_drop. ST_BAD_INPUT. No name in the error's text (R29). */
enum status regions_find(struct regions *all, const char *name, uint64_t offset, uint64_t bytes, struct region **out, struct err *err);
void        region_drop(struct region *r);
enum status region_read(const struct region *r, uint64_t offset, void *to, uint64_t bytes, struct err *err);
enum status region_write(const struct region *r, uint64_t offset, const void *from, uint64_t bytes, struct err *err);

#endif
