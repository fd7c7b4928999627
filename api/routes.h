/* Every HTTP route in one table (protocols.md 2.1, interface.md): method, pattern, what it is, and the scope that its key must have. */
#ifndef API_ROUTES_H
#define API_ROUTES_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum scope { SCOPE_OPEN = 0, SCOPE_INFER = 1, SCOPE_READ = 2, SCOPE_ADMIN = 4 };

enum route {
    ROUTE_NONE, ROUTE_LIVE, ROUTE_READY, ROUTE_SERVER, ROUTE_MODEL, ROUTE_MODEL_READY, ROUTE_INFER, ROUTE_CLASSIFY, ROUTE_GENERATE, ROUTE_GENERATE_STREAM, ROUTE_CONFIG, ROUTE_STATS, ROUTE_ALL_STATS,
    ROUTE_LOGGING_GET, ROUTE_LOGGING_SET, ROUTE_INDEX, ROUTE_LOAD, ROUTE_UNLOAD, ROUTE_TRACE, ROUTE_TRACE_SET, ROUTE_SYSTEM_STATUS, ROUTE_SYSTEM_REGISTER, ROUTE_SYSTEM_UNREGISTER, ROUTE_CUDA_MEMORY, ROUTE_NAMED_REPOSITORY, ROUTE_METRICS,
    ROUTE_UPLOAD, ROUTE_PUBLISH, ROUTE_ACTIVATE, ROUTE_ALIAS, ROUTE_ADMIN_MODELS, ROUTE_ADMIN_AUDIT, ROUTE_DRAIN,
    ROUTE_CHAT, ROUTE_COMPLETIONS, ROUTE_EMBEDDINGS, ROUTE_RERANK, ROUTE_OPENAI_MODELS, ROUTE_OPENAI_MODEL, ROUTE_TOKENIZE, ROUTE_DETOKENIZE, ROUTE_APPLY_TEMPLATE,
    ROUTE_IMAGE_GENERATIONS, ROUTE_IMAGE_EDITS, ROUTE_IMAGE_VARIATIONS
};

struct route_match {
    enum route  route;
    enum scope  scope;
    const char *model;   size_t model_length;      /* pieces of the path; not NUL-terminated */
    const char *name;    size_t name_length;       /* the file of an upload, the alias, the shared memory region */
    int64_t     version;                           /* 0: none in the path */
};

/* ST_NOT_FOUND: no such path ("Not Found"). ST_BAD_METHOD: the path exists for another method ("Method Not Allowed"). A version that is
 * no number from 1 to 2^31-1 is ST_BAD_INPUT. The match points into `path`. */
enum status route_find(struct route_match *out, const char *method, const char *path, struct err *err);

#endif
