#ifndef MODEL_STORE_REPOSITORY_INTERNAL_H
#define MODEL_STORE_REPOSITORY_INTERNAL_H

#include <pthread.h>

#include "model_store/repository.h"

enum { OVERRIDES_MAX = 256 };

struct override { char model[129]; uint64_t id; };

struct repository {
    int         dirfd;           /* STORE */
    int         own;             /* STORE/.inferd, -1 when read-only */
    bool        read_only;
    char       *root;
    struct log *log;
    pthread_mutex_t lock;        /* guards the overrides */
    struct override overrides[OVERRIDES_MAX];      /* id 0: free */
    uint64_t    override_count;  /* ids given so far */
};

static inline void repository_step(const char *step)
{
    if (repository_failpoint) repository_failpoint(step);
}

/* The model's folder relative to the store: its name, or where its override lies. */
void repository_place(struct repository *r, const char *model, char out[REPOSITORY_PATH_MAX]);
/* Removes a folder and all in it, two levels below it and more. */
void repository_remove_tree(int at, const char *name);

/* Opens a folder of the store (relative, plain) for reading; -1 with errno. No link is followed. */
int repository_open_folder(int at, const char *relative);

#endif
