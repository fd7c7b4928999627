/* Every gRPC method in one table (protocols.md 2.2): its path, what it is, the scope that its key must have, and the tables of its messages. Beside it
 * the files that hold them, from which reflection tells clients (reflection.h) and api/proto/ was written. */
#ifndef API_RPCS_H
#define API_RPCS_H

#include "api/routes.h"
#include "model_store/schema.h"

enum rpc_kind {
    RPC_SMALL,          /* one small message each way: the HTTP route's own handler does it */
    RPC_INFER, RPC_STREAM_INFER, RPC_HEALTH_CHECK, RPC_HEALTH_WATCH, RPC_REFLECTION
};

struct rpc_method {
    const char   *name;                             /* "ModelReady" */
    enum rpc_kind kind;
    enum route    route;                            /* the HTTP route that answers the same question */
    enum scope    scope;
    const struct schema_message *request, *response;
    const char   *model;                            /* the request's field that names a model; NULL: none */
    const char   *wraps;                            /* the response's field that holds what the HTTP route answers; NULL: the answer itself */
    bool          streams_in, streams_out;
};

struct rpc_service { const char *name; const struct rpc_method *methods; int count; };

/* A .proto file: its messages are those that its service's methods and `messages` reach and no file that it imports has. */
struct rpc_file {
    const char *name, *package;
    const struct rpc_service *service;              /* NULL: none */
    const struct schema_message *message;           /* one more root, or NULL */
    const struct rpc_file *import;                  /* NULL: none */
};

enum { RPC_FILES = 5 };
extern const struct rpc_file rpc_files[RPC_FILES];

/* "/inference.GRPCInferenceService/ServerLive"; NULL: no such method. */
const struct rpc_method *rpc_find(const char *path, size_t length);

#endif
