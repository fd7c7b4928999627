#ifndef MODEL_STORE_REPOSITORY_INTERNAL_H
#define MODEL_STORE_REPOSITORY_INTERNAL_H

#include "model_store/repository.h"

struct repository {
    int         dirfd;           /* STORE */
    int         own;             /* STORE/.inferd, -1 when read-only */
    bool        read_only;
    char       *root;
    struct log *log;
};

static inline void repository_step(const char *step)
{
    if (repository_failpoint) repository_failpoint(step);
}

/* Opens a folder of the store (relative, plain) for reading; -1 with errno. No link is followed. */
int repository_open_folder(int at, const char *relative);

#endif
