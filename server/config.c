#include "server/config.h"

#include "base/file.h"
#include "base/json.h"
#include "engine/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { TEXT, NUMBER, PORT, SWITCH /* true or false; the flag alone means true */, LIST };

struct setting { const char *name; enum kind kind; size_t at; int64_t low, high; const char *value, *help; };

#define AT(field) offsetof(struct server_config, field)
static const struct setting settings[] = {
    { "store", TEXT, AT(store), 0, 0, "DIR", "folder of models: DIR/MODEL/VERSION/model.onnx" },
    { "host", TEXT, AT(host), 0, 0, "ADDRESS", "numeric address every listener binds (127.0.0.1); any other than loopback needs --api-keys" },
    { "http-port", PORT, AT(http_port), 0, 65535, "PORT", "HTTP port (8000); 0 takes a free one, off disables it" },
    { "grpc-port", PORT, AT(grpc_port), 0, 65535, "PORT", "gRPC port (8001)" },
    { "metrics-port", PORT, AT(metrics_port), 0, 65535, "PORT", "Prometheus port (8002)" },
    { "control", TEXT, AT(control), 0, 0, "MODE", "none: load every model at start (default); poll: and follow changes of the store; explicit: load what is asked for" },
    { "load-model", LIST, AT(load_models), 0, 0, "NAME", "explicit mode: load NAME at start (again for more; * loads all)" },
    { "rate-limit", TEXT, AT(rate_limit), 0, 0, "MODE", "off (default), or execution_count: models wait for the resources that their configs' rate_limiter names" },
    { "rate-limit-resource", LIST, AT(rate_limit_resources), 0, 0, "NAME:COUNT", "copies of a resource there are (again for more; default: what the most demanding loaded model needs)" },
    { "poll-ms", NUMBER, AT(poll_ms), 50, 3600000, "N", "poll mode: look at the store every N milliseconds (1000)" },
    { "threads", NUMBER, AT(threads), 0, 1024, "N", "cores to compute on (0: all this process may use)" },
    { "cpu-level", TEXT, AT(cpu_level), 0, 0, "LEVEL", "use no instructions beyond scalar, avx2, avx512 or amx" },
    { "gpu", TEXT, AT(gpu), 0, 0, "MODE", "auto: models run on a GPU where libinferd_cuda.so finds one (default); off; or the path of that library" },
    { "gpu-memory", NUMBER, AT(gpu_memory), 0, INT64_C(1) << 44, "BYTES", "memory that models may take of each GPU (0: nine tenths of what is free)" },
    { "precision", TEXT, AT(precision), 0, 0, "P", "arithmetic of the networks: f32, f16 (on a GPU), bf16, int8 (files that carry scales), or auto (the quickest whose error is small: docs/NETWORKS.md); a model's parameter `precision` comes first" },
    { "api-keys", TEXT, AT(api_keys), 0, 0, "FILE", "keys: lines of sha256-hex scopes name [requests=N] [tokens=N], scopes from infer,read,admin, quotas a minute; read again on SIGHUP" },
    { "insecure-no-auth", SWITCH, AT(insecure_no_auth), 0, 0, NULL, "listen beyond loopback without keys (logged as a warning at every start)" },
    { "tls-cert", TEXT, AT(tls_cert), 0, 0, "FILE", "speak TLS on every port, with this certificate chain (PEM; read again when it changes, and on SIGHUP)" },
    { "tls-key", TEXT, AT(tls_key), 0, 0, "FILE", "its key (PEM, no password, mode 0600)" },
    { "tls-client-ca", TEXT, AT(tls_client_ca), 0, 0, "FILE", "take only clients with a certificate of these authorities on the HTTP and gRPC ports (PEM)" },
    { "allowed-hosts", TEXT, AT(allowed_hosts), 0, 0, "NAMES", "more names that a Host header may carry on loopback, comma-separated" },
    { "strict-readiness", SWITCH, AT(strict_readiness), 0, 0, NULL, "ready only when every model is (true)" },
    { "drain-delay", NUMBER, AT(drain_delay_s), 0, 3600, "SECONDS", "after SIGTERM keep listening that long while not ready (0)" },
    { "exit-timeout", NUMBER, AT(exit_timeout_s), 1, 3600, "SECONDS", "after that long, drop what is still running (30)" },
    { "max-connections", NUMBER, AT(connections_max), 1, 1000000, "N", "open HTTP connections; more get a 503 (10000)" },
    { "max-connections-per-address", NUMBER, AT(per_address_max), 0, 1000000, "N", "of one client address (0: no limit on loopback, 1024 elsewhere)" },
    { "http-max-input-size", NUMBER, AT(body_max), 1024, INT64_C(1) << 36, "BYTES", "largest request body (67108864)" },
    { "request-memory", NUMBER, AT(request_memory_max), 1 << 16, INT64_C(1) << 40, "BYTES", "memory one request may take for inputs and outputs (536870912)" },
    { "model-memory", NUMBER, AT(model_memory_max), 1 << 20, INT64_C(1) << 44, "BYTES", "memory one model version may take (8589934592)" },
    { "trusted-signers", TEXT, AT(trusted_signers), 0, 0, "FILE", "lines of an Ed25519 public key and a name: a signed version must be signed by one of them (inferd sign)" },
    { "require-signatures", SWITCH, AT(require_signatures), 0, 0, NULL, "load signed versions only; needs --trusted-signers" },
    { "allow-shared-memory", SWITCH, AT(allow_shared_memory), 0, 0, NULL, "let clients register system shared memory and pass tensors in it (needs the scope admin)" },
    { "response-cache-size", NUMBER, AT(response_cache_bytes), 0, INT64_C(1) << 40, "BYTES", "answers kept for models whose config says response_cache (67108864)" },
    { "header-timeout-ms", NUMBER, AT(header_timeout_ms), 100, 3600000, "N", "a request's headers must be in by then (10000)" },
    { "idle-timeout-ms", NUMBER, AT(idle_timeout_ms), 100, 86400000, "N", "an idle keep-alive connection closes (75000)" },
    { "stall-timeout-ms", NUMBER, AT(stall_timeout_ms), 100, 86400000, "N", "an answer nobody reads is dropped (30000)" },
    { "trace-level", TEXT, AT(trace_level), 0, 0, "LEVEL", "off (default) or timestamps: trace requests; /v2/trace/setting changes it" },
    { "trace-rate", NUMBER, AT(trace_rate), 1, INT64_C(1) << 40, "N", "trace one request in N (1000)" },
    { "trace-count", NUMBER, AT(trace_count), -1, INT64_C(1) << 40, "N", "trace at most N requests (-1: no limit)" },
    { "trace-file", TEXT, AT(trace_file), 0, 0, "FILE", "traces go there in Triton's form" },
    { "otlp-endpoint", TEXT, AT(otlp_endpoint), 0, 0, "URL", "traces go to this OpenTelemetry collector (OTLP/HTTP, JSON), e.g. http://127.0.0.1:4318/v1/traces" },
    { "access-log", SWITCH, AT(access_log), 0, 0, NULL, "one JSON line a request on standard error (true)" },
    { "verbose", SWITCH, AT(verbose), 0, 0, NULL, "log details" },
    { "config", TEXT, AT(config), 0, 0, "FILE", "JSON object with these settings; flags win" },
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

static const struct setting *find(const char *name, size_t length)
{
    for (int i = 0; i < SETTINGS; i++)
        if (strlen(settings[i].name) == length && !strncmp(settings[i].name, name, length)) return &settings[i];
    return NULL;
}

static enum status put_number(struct server_config *c, const struct setting *s, const char *where, int64_t v, struct err *err)
{
    if (v < s->low || v > s->high) return err_set(err, ST_BAD_INPUT, "%s%s takes a number from %lld to %lld", where, s->name, (long long)s->low, (long long)s->high);
    *(int64_t *)((char *)c + s->at) = v;
    return ST_OK;
}

static enum status put_text(struct server_config *c, const struct setting *s, const char *where, const char *text, struct err *err)
{
    char *end;
    errno = 0;
    switch (s->kind) {
    case TEXT: {
        char *copy = arena_copy(&c->arena, text, strlen(text));
        if (!copy) return err_set(err, ST_NO_MEMORY, "no memory for the configuration");
        *(const char **)((char *)c + s->at) = copy;
        return ST_OK;
    }
    case LIST: {
        struct config_list *list = (struct config_list *)((char *)c + s->at);
        if (list->count == CONFIG_LIST_MAX) return err_set(err, ST_BAD_INPUT, "%s%s may be given %d times", where, s->name, CONFIG_LIST_MAX);
        char *copy = arena_copy(&c->arena, text, strlen(text));
        if (!copy) return err_set(err, ST_NO_MEMORY, "no memory for the configuration");
        list->items[list->count++] = copy;
        return ST_OK;
    }
    case SWITCH:
        if (strcmp(text, "true") && strcmp(text, "false")) return err_set(err, ST_BAD_INPUT, "%s%s takes true or false, not '%.64s'", where, s->name, text);
        *(bool *)((char *)c + s->at) = text[0] == 't';
        return ST_OK;
    case PORT:
        if (!strcmp(text, "off")) {
            *(int64_t *)((char *)c + s->at) = PORT_OFF;
            return ST_OK;
        }
        break;
    case NUMBER: break;
    }
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end) return err_set(err, ST_BAD_INPUT, "%s%s takes a number, not '%.64s'", where, s->name, text);
    return put_number(c, s, where, v, err);
}

static enum status read_file(struct server_config *c, const char *path, struct err *err)
{
    char *text = NULL;
    size_t length;
    struct json *root;
    enum status st = file_read_path(&text, &length, path, 1 << 20, err);
    if (st) return st;
    char where[160];
    snprintf(where, sizeof where, "%.140s: ", path);
    st = json_parse(&root, &c->arena, text, length, &(struct json_options){ .unique_keys = true }, err);
    if (st) err_prefix(err, "%s", path);
    else if (root->type != JSON_OBJECT) st = err_set(err, ST_BAD_INPUT, "%sthe configuration must be a JSON object", where);
    for (const struct json *j = st ? NULL : root->list.first; j && !st; j = j->next) {
        const struct setting *s = find(j->key, j->key_length);
        if (!s) st = err_set(err, ST_BAD_INPUT, "%s'%.64s' is no setting", where, j->key);
        else if (s->kind == LIST && j->type == JSON_ARRAY)
            for (const struct json *e = j->list.first; e && !st; e = e->next)
                st = e->type == JSON_STRING ? put_text(c, s, where, e->string.text, err) : err_set(err, ST_BAD_INPUT, "%s'%s' takes texts", where, j->key);
        else if (j->type == JSON_STRING) st = put_text(c, s, where, j->string.text, err);
        else if (j->type == JSON_BOOL && s->kind == SWITCH) *(bool *)((char *)c + s->at) = j->boolean;
        else if (j->type == JSON_INT && (s->kind == NUMBER || s->kind == PORT)) st = put_number(c, s, where, j->integer, err);
        else st = err_set(err, ST_BAD_INPUT, "%s'%s' has a value of the wrong kind", where, j->key);
    }
    free(text);
    return st;
}

/* One flag of argv: "--name value", "--name=value", or a switch alone. */
static enum status read_flag(struct server_config *c, int argc, char **argv, int *i, bool apply, struct err *err)
{
    const char *flag = argv[*i];
    if (strncmp(flag, "--", 2)) return err_set(err, ST_BAD_INPUT, "'%.64s' is no flag; inferd serve --help lists them", flag);
    size_t n = strcspn(flag + 2, "=");
    const struct setting *s = find(flag + 2, n);
    if (!s) return err_set(err, ST_BAD_INPUT, "'%.64s' is no flag; inferd serve --help lists them", flag);
    const char *value = flag[2 + n] == '=' ? flag + 3 + n : NULL;
    if (!value && s->kind == SWITCH) {
        bool word = *i + 1 < argc && (!strcmp(argv[*i + 1], "true") || !strcmp(argv[*i + 1], "false"));
        value = word ? argv[++*i] : "true";
    }
    if (!value) {
        if (*i + 1 >= argc) return err_set(err, ST_BAD_INPUT, "--%s needs a value: --%s %s", s->name, s->name, s->value);
        value = argv[++*i];
    }
    return apply || s->at == AT(config) ? put_text(c, s, "--", value, err) : ST_OK;
}

static enum status check(const struct server_config *c, struct err *err)
{
    if (!c->store) return err_set(err, ST_BAD_INPUT, "--store DIR is needed: the folder that holds the models");
    if (strcmp(c->control, "none") && strcmp(c->control, "poll") && strcmp(c->control, "explicit"))
        return err_set(err, ST_BAD_INPUT, "--control takes none, poll or explicit, not '%.64s'", c->control);
    if (c->load_models.count && strcmp(c->control, "explicit")) return err_set(err, ST_BAD_INPUT, "--load-model is for --control explicit");
    if (!c->tls_cert != !c->tls_key) return err_set(err, ST_BAD_INPUT, "--tls-cert and --tls-key go together");
    if (c->tls_client_ca && !c->tls_cert) return err_set(err, ST_BAD_INPUT, "--tls-client-ca needs --tls-cert and --tls-key");
    if (strcmp(c->rate_limit, "off") && strcmp(c->rate_limit, "execution_count")) return err_set(err, ST_BAD_INPUT, "--rate-limit takes off or execution_count, not '%.64s'", c->rate_limit);
    if (c->rate_limit_resources.count && !strcmp(c->rate_limit, "off")) return err_set(err, ST_BAD_INPUT, "--rate-limit-resource is for --rate-limit execution_count");
    if (!precision_from_name(c->precision, &(enum precision){ 0 })) return err_set(err, ST_BAD_INPUT, "--precision takes f32, f16, bf16, int8 or auto, not '%.64s'", c->precision);
    return ST_OK;
}

enum status config_read(struct server_config *c, int argc, char **argv, bool *help, struct err *err)
{
    *c = (struct server_config){ .host = "127.0.0.1", .control = "none", .precision = "auto", .gpu = "auto", .rate_limit = "off", .allowed_hosts = "", .http_port = 8000, .grpc_port = 8001, .metrics_port = 8002,
                                 .poll_ms = 1000, .exit_timeout_s = 30, .connections_max = 10000, .body_max = 64 << 20, .request_memory_max = 512 << 20,
                                 .model_memory_max = INT64_C(8) << 30, .response_cache_bytes = 64 << 20, .trace_rate = 1000, .trace_count = -1, .header_timeout_ms = 10000, .idle_timeout_ms = 75000, .stall_timeout_ms = 30000,
                                 .strict_readiness = true, .access_log = true };
    arena_init(&c->arena, 4 << 20);
    *help = false;
    enum status st = ST_OK;
    for (int pass = 0; pass < 2 && !st; pass++) {      /* first only --config, whose file the flags then override */
        for (int i = 1; i < argc && !st; i++) {
            if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
                *help = true;
                return ST_OK;
            }
            st = read_flag(c, argc, argv, &i, pass == 1, err);
        }
        if (pass == 0 && !st && c->config) st = read_file(c, c->config, err);
    }
    return st ? st : check(c, err);
}

void config_free(struct server_config *c) { arena_free(&c->arena); }

void config_write_help(struct buf *out)
{
    buf_puts(out, "inferd serve --store DIR [flags]\n\nServes every model of the store over HTTP and gRPC (Open Inference Protocol v2, OpenAI) until SIGTERM, which drains.\n"
                  "SIGHUP reads the keys and certificates again.\n\n");
    for (int i = 0; i < SETTINGS; i++) {
        char flag[64];
        snprintf(flag, sizeof flag, "--%s %s", settings[i].name, settings[i].value ? settings[i].value : "");
        buf_printf(out, "  %-34s %s\n", flag, settings[i].help);
    }
    buf_puts(out, "\nWhen the models that load at start have settled, one line appears on standard output:\n  inferd ready http=127.0.0.1:8000 grpc=127.0.0.1:8001 metrics=127.0.0.1:8002\n"
                  "Logs are JSON lines on standard error. Exit status: 0 after a drain, 1 when the start failed, 2 for wrong flags.\n");
}

void config_write_json(struct buf *out, const struct server_config *c)
{
    buf_putc(out, '{');
    for (int i = 0; i < SETTINGS; i++) {
        const void *p = (const char *)c + settings[i].at;
        buf_printf(out, "%s\"%s\":", i ? "," : "", settings[i].name);
        int64_t number = settings[i].kind == NUMBER || settings[i].kind == PORT ? *(const int64_t *)p : 0;
        if (settings[i].kind == SWITCH) buf_puts(out, *(const bool *)p ? "true" : "false");
        else if (settings[i].kind == PORT && number == PORT_OFF) buf_puts(out, "\"off\"");
        else if (settings[i].kind == NUMBER || settings[i].kind == PORT) buf_int(out, number);
        else if (settings[i].kind == LIST) {
            buf_putc(out, '[');
            const struct config_list *list = p;
            for (int k = 0; k < list->count; k++) {
                if (k) buf_putc(out, ',');
                json_write_text(out, list->items[k]);
            }
            buf_putc(out, ']');
        } else if (*(const char *const *)p) json_write_text(out, *(const char *const *)p);
        else buf_puts(out, "null");
    }
    buf_putc(out, '}');
}
