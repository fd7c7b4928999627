/* One HTTP/1.1 listener over libmicrohttpd: epoll, one thread, suspended connections, never a thread for each connection. http.c is the only
 * file that names the library; http_guard.c accepts, counts and closes connections by our own limits (R5, R8), since the library's
 * time-outs count inactivity only and its connection limit stops accepting instead of refusing.
 *
 * A call goes begin -> body -> ready -> [suspend ... resume] -> answer -> end. All callbacks but `gone` run on the listener's thread. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"

enum {
    HTTP_LINE_MAX = 8 << 10, HTTP_HEADERS_MAX = 32 << 10, HTTP_HEADER_COUNT_MAX = 100, HTTP_BODY_MAX = 64 << 20,
    HTTP_CONNECTIONS_MAX = 10000, HTTP_FD_RESERVE = 256, HTTP_ANSWER_HEADERS_MAX = 12, HTTP_ANSWER_TEXT_MAX = 1024,
    HTTP_REFUSALS_PER_S = 1500        /* for each core, see http_answer_paced */, HTTP_REFUSALS_PER_S_MAX = 20000
};

struct http;
struct http_call;

struct http_handler {
    void *context;
    /* The headers are in and within the limits. May answer at once (then no body is read), set http_body_limit, or http_body_sink. */
    void (*begin)(void *context, struct http_call *c);
    /* The body is in. Must answer, or suspend and later resume. */
    void (*ready)(void *context, struct http_call *c);
    /* After http_resume: must answer. */
    void (*resume)(void *context, struct http_call *c);
    /* The client went away while the call was suspended: stop the work; whoever does it still resumes. Watcher's thread; must not block. */
    void (*gone)(void *context, struct http_call *c);
    /* The answer was sent or the connection was lost; the last callback of a call, once for every begin. `bytes_sent` of the body. */
    void (*end)(void *context, struct http_call *c, bool sent);
};

struct tls;

struct http_options {
    uint32_t connections_max;      /* 0: HTTP_CONNECTIONS_MAX */
    uint32_t fds_elsewhere;        /* descriptors that other listeners may take */
    uint32_t per_address_max;      /* 0: no limit */
    uint32_t header_ms, body_grace_ms, body_bytes_per_s, idle_ms, stall_ms;    /* 0: 10 s, 10 s, 1024, 75 s, 30 s */
    struct tls *tls;               /* NULL: plain text */
    bool asks_client;              /* for a certificate, when tls has authorities for that */
};

/* Binds numeric `address` ("127.0.0.1", "::1", "0.0.0.0") and `port` (0: a free one). */
enum status http_open(struct http **out, const char *address, uint16_t port, const struct http_handler *handler, const struct http_options *options,
                      struct log *log, struct err *err);
uint16_t    http_port(const struct http *h);
uint32_t    http_connections(const struct http *h);
void        http_stop_listening(struct http *h);    /* closes the listening socket; open connections go on */
uint32_t    http_busy(const struct http *h);         /* calls between begin and end */
void        http_trim(struct http *h);               /* gives back what is kept for the next requests; any thread */
void        http_stop(struct http *h);               /* ends its threads and connections; no call may be suspended any more. NULL is allowed */
void        http_free(struct http *h);               /* after http_stop, when no other thread can be inside http_resume any more */

/* ---- a call: listener's thread ---- */
const char *http_method(const struct http_call *c);
const char *http_path(const struct http_call *c);                              /* percent-decoded, without the query */
const char *http_query(const struct http_call *c, const char *name);           /* NULL if absent */
const char *http_header(const struct http_call *c, const char *name);          /* NULL if absent */
const char *http_peer(struct http_call *c);                                    /* numeric address */
struct http *http_of(const struct http_call *c);
void       *http_user(const struct http_call *c);
void        http_set_user(struct http_call *c, void *user);
uint64_t    http_received_ns(const struct http_call *c);                       /* when its request line was read */

void        http_body_limit(struct http_call *c, uint64_t bytes);              /* default HTTP_BODY_MAX */
/* The byte at this offset of the body will be aligned to 64 (the first binary tensor behind a JSON header). */
void        http_body_align(struct http_call *c, uint64_t offset);
/* The body goes to `write` piece by piece instead of memory; false closes the connection (an answer that was set is sent first where possible). */
void        http_body_sink(struct http_call *c, bool (*write)(void *context, struct http_call *c, const void *data, size_t n));
void        http_drain_body(struct http_call *c);
const char *http_body(const struct http_call *c, size_t *length);
/* Takes the body's memory over: `*base` is what to free(), the return value the first byte. */
char       *http_body_take(struct http_call *c, void **base, size_t *length);
uint64_t    http_body_declared(const struct http_call *c);                     /* Content-Length; UINT64_MAX when chunked */

/* Adds a header to the answer; the value is copied (at most HTTP_ANSWER_TEXT_MAX bytes over all headers: more is dropped). */
void        http_answer_header(struct http_call *c, const char *name, const char *value);
/* The answer about to be given is a refusal and may wait for its turn: at most HTTP_REFUSALS_PER_S leave in a second. A refusal costs 10 to 15 us, whatever
 * was asked for, so clients that come again at once would otherwise take the core from the work that was accepted. Fewer than that are not delayed;
 * each delayed one keeps its connection from asking again, so nobody waits longer than connections / HTTP_REFUSALS_PER_S seconds. */
void        http_answer_paced(struct http_call *c);
/* Takes the buffer's memory over (body may be NULL: empty). content_type may be NULL. Once for each call. In `begin` it closes the connection when
 * a body is to come, unless http_drain_body was called: then the body is read and thrown away first. */
void        http_answer(struct http_call *c, int status, const char *content_type, struct buf *body);
/* An answer of unknown length, in pieces: `more` is asked on the listener's thread whenever the connection takes bytes, and appends what there is. HTTP_STREAM_WAIT
 * with nothing appended puts the connection to sleep until http_news. Not in `begin`. */
enum http_stream { HTTP_STREAM_MORE, HTTP_STREAM_WAIT, HTTP_STREAM_END };
void        http_answer_stream(struct http_call *c, int status, const char *content_type, enum http_stream (*more)(void *context, struct http_call *c, struct buf *out));
bool        http_answered(const struct http_call *c);
int         http_answer_status(const struct http_call *c);
uint64_t    http_answer_bytes(const struct http_call *c);

/* ---- waiting ---- */
void        http_suspend(struct http_call *c);      /* from ready; before the work is handed to anybody who may resume */
void        http_resume(struct http_call *c);       /* any thread, once for each suspend */
/* As http_resume, but nobody looks before the next http_wake: several calls let go together cost one wake-up. Any thread. */
void        http_resume_later(struct http_call *c);
void        http_wake(struct http *h);
/* There is news for the call at *place: wakes it when it sleeps, suspended or between two pieces of a stream. Does nothing when *place is NULL. Any thread:
 * *place is guarded by the listener, so only http_forget may clear it. */
void        http_news(struct http *h, struct http_call *const *place);
/* The call at *place ends: *place becomes NULL. From `end`. */
void        http_forget(struct http *h, struct http_call **place);

#endif
