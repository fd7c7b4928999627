/* `inferd serve`: start, wait for a signal, drain, stop. Order of the start: the parsing child first (before any thread), then log, keys, store;
 * the listeners open before the models have loaded, so that liveness answers and readiness says no. Order of the stop: not ready, the drain
 * delay, no new connections, what was accepted is finished, then everything is given back. */
#include "server/commands.h"

#include <sys/stat.h>

#include "base/clock.h"
#include "base/threads.h"
#include "engine/device_gpu.h"
#include "engine/diffusion/diffusion_engine.h"
#include "engine/ensemble/ensemble.h"
#include "engine/llm/llm_engine.h"
#include "engine/onnx/onnx_engine.h"
#include "engine/rate_limiter.h"
#include "engine/response_cache.h"
#include "kernels/kernels.h"
#include "model_store/manifest.h"
#include "server/server.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { JOB_THREADS = 4, JOBS_WAITING = 4096, TICK_MS = 100, QUIET_MS = 1000, QUIET_TICKS = 2, TLS_TICKS = 5, METRICS_CONNECTIONS_MAX = 256, CORES_PER_RPC_THREAD = 8 };

static const struct engine_ops *const engines[] = { &onnx_engine, &llm_engine, &diffusion_engine, &ensemble_engine };

static enum status inspect_file(const char *kind, const uint8_t *data, uint64_t size, struct err *err)
{
    if (!strcmp(kind, "onnx")) return onnx_inspect(data, size, err);
    if (!strcmp(kind, "llm")) return llm_inspect(data, size, err);
    if (!strcmp(kind, "diffusion")) return diffusion_inspect(data, size, err);
    return err_set(err, ST_UNSUPPORTED, "there is no engine '%s'", kind);
}

static void show_progress(void *ctx, const char *model, int64_t version, const char *what, uint64_t done, uint64_t total)
{
    (void)ctx;
    fprintf(stderr, "\r\033[K%s %s/%lld", what, model, (long long)version);
    if (total) fprintf(stderr, " %3.0f %%", 100.0 * (double)done / (double)total);
    if (done >= total) fprintf(stderr, "\r\033[K");
}

/* ---- start ---- */

static enum status check_exposure(struct server *s, struct err *err)
{
    const struct server_config *c = s->config;
    s->loopback = auth_is_loopback(c->host);
    if (s->loopback || c->api_keys) return ST_OK;
    if (!c->insecure_no_auth)
        return err_set(err, ST_FORBIDDEN, "--host %s is reachable from other machines: give --api-keys FILE, or --insecure-no-auth when something in front of it checks who calls", c->host);
    log_write(s->log, LOG_WARNING, "trust", "listening on %s without keys: anybody who reaches it may use and change every model", c->host);
    return ST_OK;
}

/* The GPU library, where it is wanted. Without it everything runs on the CPU; that is worth a warning only where a path was given. */
static enum status start_gpus(struct server *s, struct err *err)
{
    const struct server_config *c = s->config;
    const bool named = strcmp(c->gpu, "auto");
    struct err why;
    char own[4096], cache[4096];
    snprintf(own, sizeof own, "%.4000s/.inferd", c->store);
    if (!strcmp(c->gpu, "off")) return ST_OK;
    snprintf(cache, sizeof cache, "%.4000s/.inferd/gpu", c->store);
    if (device_gpus_open(named ? c->gpu : NULL, (uint64_t)c->gpu_memory, cache, &why)) {
        if (named) return *err = why, why.status;
        log_write(s->log, LOG_INFO, "gpu", "computing on the CPU alone: %s", why.text);
        return ST_OK;
    }
    (void)mkdir(own, 0755);              /* tuned choices outlive the process where the store can be written to */
    (void)mkdir(cache, 0755);
    log_write(s->log, LOG_INFO, "gpu", "%d GPUs can be used", device_gpu_count());
    return ST_OK;
}

static enum status start_registry(struct server *s, struct err *err)
{
    const struct server_config *c = s->config;
    enum cpu_level cap = CPU_LEVEL_COUNT - 1;
    if (c->cpu_level && !cpu_level_from_name(c->cpu_level, &cap)) return err_set(err, ST_BAD_INPUT, "--cpu-level takes scalar, avx2, avx512 or amx, not '%.32s'", c->cpu_level);
    enum precision precision = PRECISION_AUTO;
    precision_from_name(c->precision, &precision);
    if (cap > cpu_level_detect()) cap = cpu_level_detect();
    s->cpu_level = cpu_level_name(cap);
    log_write(s->log, LOG_INFO, "cpu", "computing at level %s on %d cores", s->cpu_level, c->threads ? (int)c->threads : threads_cpu_count());
    struct registry_options o = {
        .store = c->store, .control = !strcmp(c->control, "poll") ? CONTROL_POLL : !strcmp(c->control, "explicit") ? CONTROL_EXPLICIT : CONTROL_NONE,
        .poll_ms = (uint32_t)c->poll_ms, .load_at_start = c->load_models.count ? c->load_models.items : NULL, .load_at_start_count = c->load_models.count,
        .strict_readiness = c->strict_readiness, .threads = c->threads ? (int)c->threads : threads_cpu_count(), .cpu_level = (int)cap, .precision = precision,
        .memory_max = (uint64_t)c->model_memory_max, .engines = engines, .engine_count = sizeof engines / sizeof engines[0], .expiry = s->expiry, .limiter = s->limiter, .cache = s->cache, .signers = s->signers, .require_signatures = c->require_signatures, .inspector = s->inspector,
        .log = s->log, .progress = isatty(2) ? show_progress : NULL,
    };
    enum status st = start_gpus(s, err);
    return st ? st : registry_open(&s->registry, &o, err);
}

static uint32_t rpc_connections_max(const struct server_config *c) { return c->connections_max < RPC_CONNECTIONS_MAX ? (uint32_t)c->connections_max : RPC_CONNECTIONS_MAX; }

static enum status start_listener(struct server *s, struct listener *l, int64_t port, bool metrics_only, struct err *err)
{
    const struct server_config *c = s->config;
    l->server = s;
    l->metrics_only = metrics_only;
    if (port == PORT_OFF) return ST_OK;
    uint32_t connections_max = metrics_only && c->connections_max > METRICS_CONNECTIONS_MAX ? METRICS_CONNECTIONS_MAX : (uint32_t)c->connections_max;
    struct http_options options = { .connections_max = connections_max, .fds_elsewhere = metrics_only ? 0 : METRICS_CONNECTIONS_MAX + (c->grpc_port == PORT_OFF ? 0 : rpc_fds_wanted(rpc_connections_max(c))), .tls = s->tls,
                                    .asks_client = !metrics_only /* probes have none */, .per_address_max = c->per_address_max ? (uint32_t)c->per_address_max : s->loopback ? 0 : 1024,
                                    .header_ms = (uint32_t)c->header_timeout_ms, .body_grace_ms = (uint32_t)c->header_timeout_ms, .idle_ms = (uint32_t)c->idle_timeout_ms, .stall_ms = (uint32_t)c->stall_timeout_ms };
    struct http_handler handler = serve_handler(l);
    return http_open(&l->http, c->host, (uint16_t)port, &handler, &options, s->log, err);
}

static void print_address(char *out, size_t size, const struct server *s, const struct listener *l)
{
    if (!l->http) snprintf(out, size, "off");
    else snprintf(out, size, strchr(s->config->host, ':') ? "[%s]:%u" : "%s:%u", s->config->host, http_port(l->http));
}

static enum status start_rpc(struct server *s, struct err *err)
{
    const struct server_config *c = s->config;
    if (c->grpc_port == PORT_OFF) return ST_OK;
    int cores = threads_cpu_count();
    struct rpc_options o = { .host = c->host, .port = (uint16_t)c->grpc_port, .connections_max = rpc_connections_max(c),
                             .per_address_max = c->per_address_max ? (uint32_t)c->per_address_max : s->loopback ? 0 : 1024, .message_max = (uint64_t)c->body_max,
                             .fast_method = "/inference.GRPCInferenceService/ModelInfer", .threads = cores / CORES_PER_RPC_THREAD, .tls = s->tls };
    struct rpc_handler handler = serve_rpc_handler(s);
    return rpc_open(&s->rpc, &o, &handler, s->log, err);
}

static void print_ready(const struct server *s)
{
    char http[80], grpc[80], metrics[80];
    if (!s->rpc) snprintf(grpc, sizeof grpc, "off");
    else snprintf(grpc, sizeof grpc, strchr(s->config->host, ':') ? "[%s]:%u" : "%s:%u", s->config->host, rpc_port(s->rpc));
    print_address(http, sizeof http, s, &s->main_listener);
    print_address(metrics, sizeof metrics, s, &s->metrics_listener);
    printf("inferd ready http=%s grpc=%s metrics=%s\n", http, grpc, metrics);
    fflush(stdout);
}

/* ---- running and stopping ---- */

/* Waits up to `ms` for one of the signals; 0 when none came. */
static int wait_signal(const sigset_t *signals, long ms)
{
    struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
    int got = sigtimedwait(signals, NULL, &t);
    return got > 0 ? got : 0;
}

static uint32_t busy(const struct server *s)
{
    return (s->main_listener.http ? http_busy(s->main_listener.http) : 0) + (s->metrics_listener.http ? http_busy(s->metrics_listener.http) : 0)
         + (s->rpc ? rpc_busy(s->rpc) : 0) + atomic_load(&((struct server *)s)->in_streams);
}

/* After a burst, when nothing has been asked for a second, what the burst left in our pools and in the heap goes back to the system. */
static void give_back_when_quiet(struct server *s, int *quiet_ticks, uint64_t *served)
{
    uint64_t now = atomic_load(&s->served);
    *quiet_ticks = busy(s) || now != *served ? 0 : *quiet_ticks + 1;
    *served = now;
    if (*quiet_ticks != QUIET_MS / TICK_MS) return;
    serve_trim(s);
    if (s->main_listener.http) http_trim(s->main_listener.http);
    if (s->metrics_listener.http) http_trim(s->metrics_listener.http);
    malloc_trim(0);
}

static void run(struct server *s, const sigset_t *signals)
{
    int quiet_ticks = 0, tick = 0;
    uint64_t served = 0;
    for (;;) {
        int got = wait_signal(signals, TICK_MS);
        give_back_when_quiet(s, &quiet_ticks, &served);
        if (s->tls && (got == SIGHUP || ++tick % TLS_TICKS == 0)) tls_refresh(s->tls, got == SIGHUP);
        if (got == SIGTERM || got == SIGINT || atomic_load(&s->drain_asked)) return;
        if (got != SIGHUP) continue;
        struct err err = { 0 };
        if (auth_reload(s->auth, &err)) log_write(s->log, LOG_ERROR, "keys", "the keys stay as they were: %s", err.text);
        else log_write(s->log, LOG_INFO, "keys", "keys read again");
    }
}

/* True when everything accepted was finished in time. */
static bool drain(struct server *s, const sigset_t *signals)
{
    uint64_t start = clock_ns(), delay = (uint64_t)s->config->drain_delay_s * 1000000000u, most = delay + (uint64_t)s->config->exit_timeout_s * 1000000000u;
    atomic_store(&s->draining, true);
    log_write(s->log, LOG_INFO, "drain", "not ready any more; %u requests in flight", busy(s));
    while (clock_ns() - start < delay) wait_signal(signals, 20);
    atomic_store(&s->closing, true);
    if (s->main_listener.http) http_stop_listening(s->main_listener.http);
    if (s->metrics_listener.http) http_stop_listening(s->metrics_listener.http);
    if (s->rpc) rpc_stop_listening(s->rpc);
    for (int quiet = 0; quiet < QUIET_TICKS && clock_ns() - start < most;) {
        wait_signal(signals, 20);
        quiet = busy(s) ? 0 : quiet + 1;
    }
    /* a request on a kept connection may have come in just now: it is finished too, but it was the last */
    atomic_store(&s->stopping, true);
    while (busy(s) && clock_ns() - start < most) wait_signal(signals, 5);
    return !busy(s);
}

static void stop(struct server *s)
{
    http_stop(s->main_listener.http);
    http_stop(s->metrics_listener.http);
    rpc_stop(s->rpc);
    jobs_close(s->jobs);
    registry_close(s->registry);
    expiry_close(s->expiry);
    response_cache_close(s->cache);
    rate_limiter_close(s->limiter);
    http_free(s->main_listener.http);
    http_free(s->metrics_listener.http);
    rpc_free(s->rpc);
    regions_close(s->regions);
    signers_close(s->signers);
    tracer_close(s->tracer);      /* after the last exchange, which tells of itself */
    auth_close(s->auth);
    tls_close(s->tls);
    serve_trim(s);
    inspector_stop(s->inspector);
    log_write(s->log, LOG_INFO, "stop", "stopped");
    log_close(s->log);
    pthread_mutex_destroy(&s->spare_lock);
}

static void raise_file_limit(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return;
    rlim_t want = HTTP_CONNECTIONS_MAX + RPC_CONNECTIONS_MAX + 2 * HTTP_FD_RESERVE;
    if (files.rlim_cur >= want) return;
    files.rlim_cur = files.rlim_max == RLIM_INFINITY || files.rlim_max > want ? want : files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static enum status start_limiter(struct server *s, struct err *err)
{
    const struct config_list *resources = &s->config->rate_limit_resources;
    enum status st = ST_OK;
    if (!strcmp(s->config->rate_limit, "off")) return ST_OK;
    if (!(s->limiter = rate_limiter_open())) return err_set(err, ST_NO_MEMORY, "no memory for the rate limiter");
    for (int i = 0; i < resources->count && !st; i++) st = rate_limiter_fix(s->limiter, resources->items[i], err);
    return st;
}

static enum status start_tracer(struct server *s, struct err *err)
{
    const struct server_config *c = s->config;
    const bool on = c->trace_level && !strcmp(c->trace_level, "timestamps");
    if (c->trace_level && !on && strcmp(c->trace_level, "off")) return err_set(err, ST_BAD_INPUT, "--trace-level takes off or timestamps, not '%.40s'", c->trace_level);
    return tracer_open(&s->tracer, &(struct tracer_options){ .file = c->trace_file, .endpoint = c->otlp_endpoint, .on = on, .rate = c->trace_rate, .count = c->trace_count, .log = s->log }, err);
}

static enum status start(struct server *s, struct err *err)
{
    const struct server_config *c = s->config;
    pthread_mutex_init(&s->spare_lock, NULL);
    s->start_wall_ms = clock_wall_ms();
    enum status st = inspector_start(&s->inspector, inspect_file, err);
    if (st) return st;
    s->log = log_open(2);
    if (!s->log) return err_set(err, ST_NO_MEMORY, "no memory for the log");
    log_enable(s->log, LOG_VERBOSE, c->verbose);
    struct buf effective;
    buf_init(&effective, 0);
    config_write_json(&effective, c);
    log_write(s->log, LOG_INFO, "start", "inferd " INFERD_VERSION " configuration %.*s", (int)effective.length, effective.data ? effective.data : "");
    buf_free(&effective);
    st = check_exposure(s, err);
    if (!st) st = auth_open(&s->auth, c->api_keys, s->loopback || c->insecure_no_auth, err);
    if (!st && c->tls_cert) st = tls_open(&s->tls, c->tls_cert, c->tls_key, c->tls_client_ca, s->log, err);
    if (!st) st = expiry_open(&s->expiry, err);
    if (!st && c->response_cache_bytes && !(s->cache = response_cache_open((uint64_t)c->response_cache_bytes))) st = err_set(err, ST_NO_MEMORY, "no memory for the response cache");
    if (!st && c->require_signatures && !c->trusted_signers) st = err_set(err, ST_BAD_INPUT, "--require-signatures needs --trusted-signers, or nothing could be loaded");
    if (!st && c->trusted_signers) st = signers_open(&s->signers, c->trusted_signers, err);
    if (!st && c->allow_shared_memory && !(s->regions = regions_open())) st = err_set(err, ST_NO_MEMORY, "no memory for shared memory regions");
    if (!st) st = start_limiter(s, err);
    if (!st) st = start_tracer(s, err);
    if (!st) st = jobs_open(&s->jobs, JOB_THREADS, JOBS_WAITING, err);
    if (!st) st = start_registry(s, err);
    if (!st) st = start_listener(s, &s->main_listener, c->http_port, false, err);
    if (!st) st = start_listener(s, &s->metrics_listener, c->metrics_port, true, err);
    if (!st) st = start_rpc(s, err);
    return st;
}

int command_serve(int argc, char **argv)
{
    static struct server server;
    struct server_config config;
    struct err err = { 0 };
    bool help;
    enum status st = config_read(&config, argc, argv, &help, &err);
    if (help) {
        struct buf text;
        buf_init(&text, 0);
        config_write_help(&text);
        fwrite(text.data, 1, text.length, stdout);
        buf_free(&text);
        config_free(&config);
        return 0;
    }
    if (st) {
        fprintf(stderr, "inferd serve: %s\n", err.text);
        config_free(&config);
        return 2;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM), sigaddset(&signals, SIGINT), sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();

    server.config = &config;
    int status = 1;
    if (start(&server, &err)) {
        fprintf(stderr, "inferd serve: %s\n", err.text);
    } else {
        registry_settle(server.registry);
        print_ready(&server);
        run(&server, &signals);
        if (drain(&server, &signals)) {
            status = 0;
        } else {
            log_write(server.log, LOG_ERROR, "drain", "%u requests did not end within %lld s and are dropped", busy(&server), (long long)config.exit_timeout_s);
            _exit(1);      /* a connection that is still suspended cannot be taken back */
        }
    }
    stop(&server);
    config_free(&config);
    return status;
}
