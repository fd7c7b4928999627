/* What the operator asked for: defaults, then the JSON file of --config, then the flags. One table (config.c) makes the flags, the file's keys
 * (the same names without the dashes), the help text and the printed effective configuration. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

enum { CONFIG_LIST_MAX = 64, PORT_OFF = -1 };

/* What a flag that may be given again has gathered. */
struct config_list { const char *items[CONFIG_LIST_MAX]; int count; };

struct server_config {
    struct arena arena;                     /* every text below */
    const char *store, *host, *control, *config, *api_keys, *cpu_level, *gpu, *precision, *tls_cert, *tls_key, *tls_client_ca;
    const char *trace_file, *otlp_endpoint, *trace_level, *trusted_signers;
    const char *allowed_hosts;              /* more names that a Host header may have, comma-separated */
    int64_t http_port, grpc_port, metrics_port;       /* 0: a free one; PORT_OFF */
    int64_t threads;                        /* 0: every core */
    int64_t poll_ms, drain_delay_s, exit_timeout_s, connections_max, per_address_max, body_max, request_memory_max, model_memory_max, response_cache_bytes, gpu_memory, trace_rate, trace_count;
    int64_t header_timeout_ms, idle_timeout_ms, stall_timeout_ms;
    bool    allow_shared_memory, require_signatures, insecure_no_auth, strict_readiness, access_log, verbose;
    struct config_list load_models, rate_limit_resources;
    const char *rate_limit;                 /* "off" or "execution_count" */
};

/* argv[0] is the command's name. ST_BAD_INPUT names the flag or key, and where it came from. *help is set when --help was given. */
enum status config_read(struct server_config *c, int argc, char **argv, bool *help, struct err *err);
void config_free(struct server_config *c);
void config_write_help(struct buf *out);
void config_write_json(struct buf *out, const struct server_config *c);      /* the effective configuration */

#endif
