/* The heap of a suite in which the n-th allocation fails: malloc and its kin replaced for the whole program, so this is included by one file of a suite that begins with
 * "own heap", outside of sanitizer builds. `countdown` >= 0: so many allocations more succeed, the next one fails; -1 switches it off. `live`: blocks that nobody
 * has freed. starve_own_only: what libraries ask for never fails. `store` and put: files for the suite to read. */
#ifndef TESTS_STARVED_HEAP_H
#define TESTS_STARVED_HEAP_H

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/test.h"

static atomic_long countdown = -1, live;

static const void *own_base;             /* of the program, when only its own allocations fail */

static bool fails(const void *caller)
{
    Dl_info i;
    if (atomic_load(&countdown) < 0) return false;
    if (own_base && !(dladdr(caller, &i) && i.dli_fbase == own_base)) return false;      /* dladdr takes no memory */
    return atomic_fetch_sub(&countdown, 1) == 0;
}

static __attribute__((unused)) void starve_own_only(void)
{
    Dl_info me;
    if (dladdr((void *)fails, &me)) own_base = me.dli_fbase;
}

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void  __libc_free(void *p);

static void *count(void *p)
{
    if (p) atomic_fetch_add(&live, 1);
    else errno = ENOMEM;
    return p;
}

void *malloc(size_t n) { return count(fails(__builtin_return_address(0)) ? NULL : __libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return count(fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size)); }
void *aligned_alloc(size_t align, size_t n) { return count(fails(__builtin_return_address(0)) ? NULL : __libc_memalign(align, n)); }
int posix_memalign(void **out, size_t align, size_t n)
{
    void *p = count(fails(__builtin_return_address(0)) ? NULL : __libc_memalign(align, n));
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}

void *realloc(void *p, size_t n)
{
    if (!p) return count(fails(__builtin_return_address(0)) ? NULL : __libc_malloc(n));
    if (fails(__builtin_return_address(0))) return errno = ENOMEM, NULL;
    return __libc_realloc(p, n);
}

void free(void *p)
{
    if (p) atomic_fetch_sub(&live, 1);
    __libc_free(p);
}

static __attribute__((unused)) const char *store;

static __attribute__((unused)) void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", store, name);
    for (char *p = path + strlen(store) + 1; *p; p++)
        if (*p == '/') *p = 0, mkdir(path, 0755), *p = '/';
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) test_fail(__FILE__, __LINE__, "cannot write %s", path);
    close(fd);
}

#endif
