/* A listening socket and the thread that accepts from it. Connections are counted and refused by whoever gets them: neither library behind our listeners
 * may accept for itself, since at its limits it stops accepting for ever or spins (R8). */
#ifndef SERVER_ACCEPTOR_H
#define SERVER_ACCEPTOR_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

struct acceptor;

/* Binds numeric `address` ("127.0.0.1", "::1", "0.0.0.0") and `port` (0: a free one). `take` owns the non-blocking socket it is given; it runs on the acceptor's thread. */
enum status acceptor_open(struct acceptor **out, const char *thread_name, const char *address, uint16_t port,
                          void (*take)(void *context, int fd, const struct sockaddr_storage *from, socklen_t length), void *context, struct err *err);
enum status acceptor_start(struct acceptor *a, struct err *err);
uint16_t    acceptor_port(const struct acceptor *a);
void        acceptor_stop(struct acceptor *a);      /* closes the socket and joins the thread; harmless when it was stopped */
void        acceptor_free(struct acceptor *a);      /* stopped; NULL is allowed */

/* IPv4 as mapped. */
void        acceptor_map_address(struct in6_addr *out, const struct sockaddr_storage *a);
uint16_t    acceptor_map_port(const struct sockaddr_storage *a);

#endif
