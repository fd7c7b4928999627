#include "api/routes.h"

#include "model_store/model_config.h"

#include <stdbool.h>
#include <string.h>

static const struct { const char *method, *pattern; enum route route; enum scope scope; } table[] = {
    { "GET",  "/v2/health/live",                          ROUTE_LIVE,             SCOPE_OPEN },
    { "GET",  "/v2/health/ready",                         ROUTE_READY,            SCOPE_OPEN },
    { "GET",  "/v2",                                      ROUTE_SERVER,           SCOPE_READ },
    { "GET",  "/v2/models/stats",                         ROUTE_ALL_STATS,        SCOPE_READ },
    { "GET",  "/v2/models/{m}",                           ROUTE_MODEL,            SCOPE_READ },
    { "GET",  "/v2/models/{m}/versions/{v}",              ROUTE_MODEL,            SCOPE_READ },
    { "GET",  "/v2/models/{m}/ready",                     ROUTE_MODEL_READY,      SCOPE_READ },
    { "GET",  "/v2/models/{m}/versions/{v}/ready",        ROUTE_MODEL_READY,      SCOPE_READ },
    { "POST", "/v2/models/{m}/infer",                     ROUTE_INFER,            SCOPE_INFER },
    { "POST", "/v2/models/{m}/versions/{v}/infer",        ROUTE_INFER,            SCOPE_INFER },
    { "POST", "/v2/models/{m}/classify",                  ROUTE_CLASSIFY,         SCOPE_INFER },
    { "POST", "/v2/models/{m}/versions/{v}/classify",     ROUTE_CLASSIFY,         SCOPE_INFER },
    { "POST", "/v2/models/{m}/generate",                  ROUTE_GENERATE,         SCOPE_INFER },
    { "POST", "/v2/models/{m}/versions/{v}/generate",     ROUTE_GENERATE,         SCOPE_INFER },
    { "POST", "/v2/models/{m}/generate_stream",           ROUTE_GENERATE_STREAM,  SCOPE_INFER },
    { "POST", "/v2/models/{m}/versions/{v}/generate_stream", ROUTE_GENERATE_STREAM, SCOPE_INFER },
    { "GET",  "/v2/models/{m}/config",                    ROUTE_CONFIG,           SCOPE_READ },
    { "GET",  "/v2/models/{m}/versions/{v}/config",       ROUTE_CONFIG,           SCOPE_READ },
    { "GET",  "/v2/models/{m}/stats",                     ROUTE_STATS,            SCOPE_READ },
    { "GET",  "/v2/models/{m}/versions/{v}/stats",        ROUTE_STATS,            SCOPE_READ },
    { "GET",  "/v2/logging",                              ROUTE_LOGGING_GET,      SCOPE_READ },
    { "POST", "/v2/logging",                              ROUTE_LOGGING_SET,      SCOPE_ADMIN },
    { "GET",  "/v2/trace/setting",                        ROUTE_TRACE,            SCOPE_READ },
    { "POST", "/v2/trace/setting",                        ROUTE_TRACE_SET,        SCOPE_ADMIN },
    { "GET",  "/v2/models/{m}/trace/setting",             ROUTE_TRACE,            SCOPE_READ },
    { "POST", "/v2/models/{m}/trace/setting",             ROUTE_TRACE_SET,        SCOPE_ADMIN },
    { "GET",  "/v2/systemsharedmemory/status",            ROUTE_SYSTEM_STATUS,    SCOPE_READ },
    { "GET",  "/v2/systemsharedmemory/region/{n}/status", ROUTE_SYSTEM_STATUS,    SCOPE_READ },
    { "POST", "/v2/systemsharedmemory/region/{n}/register",   ROUTE_SYSTEM_REGISTER,   SCOPE_ADMIN },
    { "POST", "/v2/systemsharedmemory/region/{n}/unregister", ROUTE_SYSTEM_UNREGISTER, SCOPE_ADMIN },
    { "POST", "/v2/systemsharedmemory/unregister",        ROUTE_SYSTEM_UNREGISTER, SCOPE_ADMIN },
    { "GET",  "/v2/cudasharedmemory/status",              ROUTE_CUDA_MEMORY,      SCOPE_READ },
    { "GET",  "/v2/cudasharedmemory/region/{n}/status",   ROUTE_CUDA_MEMORY,      SCOPE_READ },
    { "POST", "/v2/cudasharedmemory/region/{n}/register", ROUTE_CUDA_MEMORY,      SCOPE_ADMIN },
    { "POST", "/v2/cudasharedmemory/region/{n}/unregister", ROUTE_CUDA_MEMORY,    SCOPE_ADMIN },
    { "POST", "/v2/cudasharedmemory/unregister",          ROUTE_CUDA_MEMORY,      SCOPE_ADMIN },
    { "POST", "/v2/repository/index",                     ROUTE_INDEX,            SCOPE_READ },
    { "POST", "/v2/repository/models/{m}/load",           ROUTE_LOAD,             SCOPE_ADMIN },
    { "POST", "/v2/repository/models/{m}/unload",         ROUTE_UNLOAD,           SCOPE_ADMIN },
    { "POST", "/v2/repository/{n}/index",                 ROUTE_INDEX,            SCOPE_READ },      /* Triton lists the same whatever the name */
    { "POST", "/v2/repository/{n}/models/{m}/load",       ROUTE_NAMED_REPOSITORY, SCOPE_ADMIN },
    { "POST", "/v2/repository/{n}/models/{m}/unload",     ROUTE_NAMED_REPOSITORY, SCOPE_ADMIN },
    { "GET",  "/metrics",                                 ROUTE_METRICS,          SCOPE_READ },
    { "PUT",  "/admin/models/{m}/versions/{v}/files/{n}", ROUTE_UPLOAD,           SCOPE_ADMIN },
    { "POST", "/admin/models/{m}/versions/{v}/publish",   ROUTE_PUBLISH,          SCOPE_ADMIN },
    { "POST", "/admin/models/{m}/activate",               ROUTE_ACTIVATE,         SCOPE_ADMIN },
    { "PUT",  "/admin/models/{m}/aliases/{n}",            ROUTE_ALIAS,            SCOPE_ADMIN },
    { "GET",  "/admin/models",                            ROUTE_ADMIN_MODELS,     SCOPE_ADMIN },
    { "GET",  "/admin/audit",                             ROUTE_ADMIN_AUDIT,      SCOPE_ADMIN },
    { "POST", "/admin/drain",                             ROUTE_DRAIN,            SCOPE_ADMIN },
    { "POST", "/v1/chat/completions",                     ROUTE_CHAT,             SCOPE_INFER },
    { "POST", "/v1/completions",                          ROUTE_COMPLETIONS,      SCOPE_INFER },
    { "POST", "/v1/embeddings",                           ROUTE_EMBEDDINGS,       SCOPE_INFER },
    { "POST", "/v1/rerank",                               ROUTE_RERANK,           SCOPE_INFER },
    { "POST", "/v1/images/generations",                   ROUTE_IMAGE_GENERATIONS, SCOPE_INFER },
    { "POST", "/v1/images/edits",                         ROUTE_IMAGE_EDITS,      SCOPE_INFER },
    { "POST", "/v1/images/variations",                    ROUTE_IMAGE_VARIATIONS, SCOPE_INFER },
    { "GET",  "/v1/models",                               ROUTE_OPENAI_MODELS,    SCOPE_READ },
    { "GET",  "/v1/models/{m}",                           ROUTE_OPENAI_MODEL,     SCOPE_READ },
    { "POST", "/tokenize",                                ROUTE_TOKENIZE,         SCOPE_INFER },
    { "POST", "/detokenize",                              ROUTE_DETOKENIZE,       SCOPE_INFER },
    { "POST", "/apply-template",                          ROUTE_APPLY_TEMPLATE,   SCOPE_INFER },
};

/* A {piece} takes what stands up to the next slash, at least one byte; {v} takes digits only. */
static bool match(const char *pattern, const char *path, struct route_match *m, const char **version, size_t *version_length)
{
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *path++) return false;
            continue;
        }
        size_t n = strcspn(path, "/");
        if (!n) return false;
        switch (pattern[1]) {
        case 'm': m->model = path, m->model_length = n; break;
        case 'n': m->name = path, m->name_length = n; break;
        default:
            if (strspn(path, "0123456789") != n) return false;
            *version = path, *version_length = n;
        }
        path += n;
        pattern += 3;
    }
    return !*path;
}

enum status route_find(struct route_match *out, const char *method, const char *path, struct err *err)
{
    bool exists = false;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct route_match m = { .route = table[i].route, .scope = table[i].scope };
        const char *version = NULL;
        size_t version_length = 0;
        if (!match(table[i].pattern, path, &m, &version, &version_length)) continue;
        if (strcmp(table[i].method, method)) {
            exists = true;
            continue;
        }
        if (version && !model_version_parse(version, version_length, &m.version))
            return err_set(err, ST_BAD_INPUT, "'%.32s' is not a version: a version is a number from 1 to 2147483647", version);
        *out = m;
        return ST_OK;
    }
    return exists ? err_set(err, ST_BAD_METHOD, "Method Not Allowed") : err_set(err, ST_NOT_FOUND, "Not Found");
}
