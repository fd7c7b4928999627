/* TLS over gRPC: the core's own (it does the handshakes on our loops and bounds their time), with our certificates, on sockets that we have accepted.
 *
 * The core takes plain sockets from outside by grpc_server_add_channel_from_fd, and those that are to speak TLS by a door that only its C++ library uses: a port named "external:..." fills in
 * the server argument of the same name with an object whose one method takes a socket over. It is an abstract class with a destructor (two entries of its table) and then that method; in C the call goes by the table,
 * as the C++ ABI of this platform lays it out. That holds for the version of the core that we are built and tested with, so any other is refused at start with a sentence. */
#include "server/rpc_library.h"

#include "server/tls.h"

#include <grpc/grpc_security.h>
#include <string.h>

static const char PORT_NAME[] = "external:inferd", CORE_VERSION[] = "29.0.0";

struct fd_taker;
struct fd_taker_table { void (*destroy[2])(struct fd_taker *t); void (*take)(struct fd_taker *t, int listener, int fd, grpc_byte_buffer *read_before); };
struct fd_taker { const struct fd_taker_table *table; };

static void *arg_copy(void *p) { return p; }
static void  arg_destroy(void *p) { (void)p; }
static int   arg_compare(void *p, void *q) { return p < q ? -1 : p > q; }

grpc_arg rpc_tls_arg(struct rpc *s)
{
    static const grpc_arg_pointer_vtable table = { arg_copy, arg_destroy, arg_compare };
    return (grpc_arg){ .type = GRPC_ARG_POINTER, .key = (char *)PORT_NAME, .value.pointer = { &s->fd_taker, &table } };
}

/* The core asks before each handshake; it keeps what it has when it cannot use what it is given. */
static grpc_ssl_certificate_config_reload_status fetch(void *p, grpc_ssl_server_certificate_config **out)
{
    struct rpc *s = p;
    const struct tls_identity *i = tls_hold(s->tls);
    bool new = i->number != s->tls_number;
    if (new) {
        grpc_ssl_pem_key_cert_pair pair = { .private_key = i->key, .cert_chain = i->cert };
        *out = grpc_ssl_server_certificate_config_create(i->client_ca ? i->client_ca : i->cert /* it insists on some; clients are not asked then */, &pair, 1);
        s->tls_number = i->number;
    }
    tls_release(i);
    return new ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
}

enum status rpc_tls_open(struct rpc *s, struct err *err)
{
    if (strcmp(grpc_version_string(), CORE_VERSION))
        return err_set(err, ST_UNSUPPORTED, "TLS for gRPC is made for version %s of the gRPC core, and this is %s: put --grpc-port off and let a proxy speak TLS", CORE_VERSION, grpc_version_string());
    const struct tls_identity *i = tls_hold(s->tls);
    bool asks = i->client_ca;
    tls_release(i);
    grpc_ssl_server_credentials_options *o = grpc_ssl_server_credentials_create_options_using_config_fetcher(
        asks ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, fetch, s);
    s->credentials = grpc_ssl_server_credentials_create_with_options(o);
    if (s->credentials) grpc_server_add_http2_port(s->server, PORT_NAME, s->credentials);      /* such a port has no number: what tells is that we got the object */
    if (!s->fd_taker)
        return err_set(err, ST_BAD_INPUT, "the gRPC core does not take the certificate and key of --tls-cert and --tls-key");
    return ST_OK;
}

void rpc_tls_adopt(struct rpc *s, int fd) { s->fd_taker->table->take(s->fd_taker, -1, fd, NULL); }
