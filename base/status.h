/* One list makes the enum, the words for the log, the HTTP code and the gRPC code of every outcome.
 * Where Triton answers another HTTP code for the same outcome on its v2 routes, api/ maps it. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

/*      name             HTTP gRPC words */
#define STATUS_MAP(X)                                           \
    X(OK,                200,  0, "ok")                         \
    X(BAD_INPUT,         400,  3, "bad input")                  \
    X(CANCELLED,         400,  1, "cancelled")                  \
    X(UNAUTHENTICATED,   401, 16, "unauthenticated")            \
    X(FORBIDDEN,         403,  7, "forbidden")                  \
    X(NOT_FOUND,         404,  5, "not found")                  \
    X(BAD_METHOD,        405, 12, "method not allowed")         \
    X(TOO_SLOW,          408,  4, "request too slow")           \
    X(EXISTS,            409,  6, "already exists")             \
    X(TOO_LARGE,         413,  8, "too large")                  \
    X(URI_TOO_LONG,      414,  3, "request line too long")      \
    X(BAD_MEDIA,         415,  3, "unsupported media type")     \
    X(MISDIRECTED,       421,  3, "misdirected request")        \
    X(TOO_MANY,          429,  8, "too many requests")          \
    X(HEADERS_TOO_LARGE, 431,  3, "headers too large")          \
    X(INTERNAL,          500, 13, "internal error")             \
    X(UNSUPPORTED,       501, 12, "unsupported")                \
    X(UNAVAILABLE,       503, 14, "unavailable")                \
    X(EXPIRED,           503,  4, "deadline exceeded")          \
    X(NO_MEMORY,         503,  8, "out of memory")              \
    X(NO_SPACE,          507,  8, "out of disk space")

enum status {
#define STATUS_ENUM(name, http, grpc, words) ST_##name,
    STATUS_MAP(STATUS_ENUM)
#undef STATUS_ENUM
    ST_COUNT
};

int         status_http(enum status s);    /* e.g. 404 */
int         status_grpc(enum status s);    /* e.g. 5 */
const char *status_words(enum status s);   /* e.g. "not found" */
const char *status_name(enum status s);    /* e.g. "NOT_FOUND" */

#endif
