/* TLS of the listeners: which certificate they show, whose clients they take, and both again when the files change. tls.c is the only file that names GnuTLS; over gRPC the core's own
 * TLS gets the same files by tls_hold. TLS 1.2 and 1.3 with forward secrecy and authenticated ciphers only.
 *
 * What was read is an identity, held by every connection that began with it: a reload is a pointer change, and connections that are open go on. */
#ifndef SERVER_TLS_H
#define SERVER_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/log.h"

struct tls;

struct tls_identity {
    char    *cert, *key, *client_ca;      /* PEM; client_ca NULL: clients need no certificate */
    uint64_t number;                      /* counts what has been read, from 1 */
    struct tls_secrets *secrets;          /* tls.c's */
};

/* Certificate chain and key are PEM files, `client_ca` one of the authorities whose clients are taken (NULL: any client). The key may be read by its owner only (by a group too when root owns it). */
enum status tls_open(struct tls **out, const char *cert, const char *key, const char *client_ca, struct log *log, struct err *err);
void        tls_close(struct tls *t);                       /* when no connection holds an identity any more; NULL is allowed */
/* Reads the files again when they have changed and two looks in a row agree, or `at_once`. What cannot be used is logged and the identity stays. From one thread. */
void        tls_refresh(struct tls *t, bool at_once);

const struct tls_identity *tls_hold(struct tls *t);         /* the newest; any thread */
void        tls_release(const struct tls_identity *i);

/* A session (GnuTLS's gnutls_session_t) that an HTTP library has opened and not begun gets the newest identity, our protocol versions and ciphers; `ask_client`: its client must show a certificate when there
 * is a client_ca. Returns what the connection holds until its session is gone; NULL: it cannot be served. */
const struct tls_identity *tls_begin(struct tls *t, void *session, bool ask_client);
/* Sends a short text within a session. Its own thread. */
void        tls_send(void *session, const char *text, size_t length);

/* The client's side, for `inferd health`: asks over the connected socket whoever answers, whose certificate is not looked at. Returns the bytes of the answer in `out`; -1: no TLS there. */
ssize_t     tls_ask(int fd, const char *question, size_t length, char *out, size_t size);

#endif
