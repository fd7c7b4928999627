/* own heap: the n-th allocation fails while the server, whole and in this process, answers one request, for every n until none is left to fail (F9): an answer or a
 * closed connection each time, the next request is served, and nothing is kept. The heap's own entries are replaced here, so the suite says SKIP under
 * the sanitizers, which need them. */
#include "server/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/digest.h"
#include "tests/model_store/fake_engine.h"
#include "tests/test.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include "tests/starved_heap.h"

/* ---- the server ---- */

static struct server server;
static struct server_config config;

static bool opened;      /* server_open came to its end */

static void server_open(void)
{
    static const struct engine_ops *const engines[] = { &fake_engine };
    static char name[] = "serve", flag[] = "--store", here[] = ".";
    char *argv[] = { name, flag, here };
    struct err err = { 0 };
    bool help;
    REQUIRE_OK(config_read(&config, 3, argv, &help, &err), err);
    config.store = store;
    server.config = &config;
    server.log = log_open(open("/dev/null", O_WRONLY | O_CLOEXEC));
    REQUIRE(server.log != NULL);
    server.loopback = true;
    pthread_mutex_init(&server.spare_lock, NULL);
    REQUIRE_OK(auth_open(&server.auth, NULL, true, &err), err);
    REQUIRE_OK(expiry_open(&server.expiry, &err), err);
    REQUIRE_OK(jobs_open(&server.jobs, 2, 64, &err), err);
    struct registry_options o = { .store = store, .control = CONTROL_EXPLICIT, .load_at_start = (const char *const[]){ "*" }, .load_at_start_count = 1, .threads = 1, .engines = engines, .engine_count = 1,
                                  .expiry = server.expiry, .strict_readiness = true, .log = server.log };
    REQUIRE_OK(registry_open(&server.registry, &o, &err), err);
    registry_settle(server.registry);
    server.main_listener.server = &server;
    struct http_handler handler = serve_handler(&server.main_listener);
    REQUIRE_OK(http_open(&server.main_listener.http, "127.0.0.1", 0, &handler, NULL, server.log, &err), err);
    opened = true;
}

static void server_close(void)
{
    http_stop(server.main_listener.http);
    jobs_close(server.jobs);
    registry_close(server.registry);
    expiry_close(server.expiry);
    http_free(server.main_listener.http);
    auth_close(server.auth);
    serve_trim(&server);
    log_close(server.log);
    config_free(&config);
    pthread_mutex_destroy(&server.spare_lock);
}

/* ---- a client that takes nothing from the heap ---- */

static int dial(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(http_port(server.main_listener.http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct timeval patience = { .tv_sec = 10 };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) test_fail(__FILE__, __LINE__, "no connection: %s", strerror(errno));
    return fd;
}

/* The status of the answer; 0: the connection was closed; -1: nothing came. */
static int ask(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    static char text[1 << 16];
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n%s\r\n%s", method, path, strlen(body), headers, body), status = 0;
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n) return 0;
    for (size_t at = 0;;) {
        ssize_t got = recv(fd, text + at, sizeof text - 1 - at, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return -1;
        if (got <= 0) return 0;
        text[at += (size_t)got] = 0;
        const char *end = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
        if (end && length && at >= (size_t)(end + 4 - text) + strtoul(length + 16, NULL, 10) && sscanf(text, "HTTP/1.1 %d", &status) == 1) return status;
    }
}

struct operation { const char *method, *path, *headers, *body; int good; };
static char digest_header[128];
static const char infer[] = "{\"id\":\"7\",\"inputs\":[{\"name\":\"x\",\"shape\":[2,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4,5,6,7,8.5]}],\"outputs\":[{\"name\":\"y\"}]}";

/* %d in a path is a version that nobody had before. */
static const struct operation operations[] = {
    { "GET", "/v2/health/live", "", "", 200 },
    { "GET", "/v2/health/ready", "", "", 200 },
    { "GET", "/v2", "", "", 200 },
    { "GET", "/v2/models/a", "", "", 200 },
    { "GET", "/v2/models/a/config", "", "", 200 },
    { "GET", "/v2/models/a/stats", "", "", 200 },
    { "GET", "/v2/models/stats", "", "", 200 },
    { "POST", "/v2/repository/index", "", "{\"ready\":true}", 200 },
    { "POST", "/v2/logging", "", "{\"log_verbose_level\":0}", 200 },
    { "GET", "/metrics", "", "", 200 },
    { "POST", "/v2/models/a/infer", "", infer, 200 },
    { "POST", "/v2/models/a/infer", "X-Request-Timeout-Ms: 5000\r\n", infer, 200 },
    { "POST", "/v2/models/a/infer", "Accept-Encoding: gzip\r\n", infer, 200 },
    { "POST", "/v2/models/a/infer", "", "{\"inputs\":[{\"name\":\"x\"", 400 },
    { "POST", "/v2/models/nobody/infer", "", infer, 404 },
    { "POST", "/v2/models/a/classify", "", "no picture", 400 },
    { "PUT", "/admin/models/a/versions/%d/files/model.onnx", digest_header, "value=1", 201 },
    { "PUT", "/admin/models/a/versions/%d/files/model.onnx", digest_header, "value=2", 400 },
    { "POST", "/admin/models/a/activate", "", "{\"version\":1}", 200 },
    { "PUT", "/admin/models/a/aliases/prod", "", "{\"version\":1}", 200 },
    { "GET", "/admin/models", "", "", 200 },
    { "GET", "/admin/audit", "", "", 200 },
    { "POST", "/v2/repository/models/a/load", "", "{}", 200 },
};

static long blocks_at_rest(void)
{
    for (int i = 0; i < 2000 && (http_busy(server.main_listener.http) || http_connections(server.main_listener.http)); i++) usleep(1000);
    serve_trim(&server);
    http_trim(server.main_listener.http);
    return atomic_load(&live);
}

/* One request on a connection of its own, whose n-th allocation fails (-1: none). */
static int perform(const struct operation *o, long n, bool *met)
{
    static int version = 10;
    char path[128];
    int fd = dial();
    snprintf(path, sizeof path, o->path, version++);
    if (ask(fd, "GET", "/v2/health/live", "", "") != 200) test_fail(__FILE__, __LINE__, "before %s %s: the server is not alive", o->method, path);
    atomic_store(&countdown, n);
    int status = ask(fd, o->method, path, o->headers, o->body);
    close(fd);
    for (int i = 0; i < 2000 && http_connections(server.main_listener.http); i++) usleep(500);
    *met = atomic_exchange(&countdown, -1) < 0;
    return status;
}

static void starve(const struct operation *o)
{
    bool met;
    long runs = 0;
    CHECK_INT(perform(o, -1, &met), o->good);
    perform(o, -1, &met);
    long before = blocks_at_rest();
    for (long n = 0;; n++, runs++) {
        int status = perform(o, n, &met);
        if (status < 0) test_fail(__FILE__, __LINE__, "%s %s: allocation %ld fails: no answer", o->method, o->path, n);
        bool clean = status == 0 || status == o->good || status == 503 || status == 500 || status == 507 || (status == 404 && strstr(o->path, "load"));      /* opendir without memory */
        if (!clean) test_fail(__FILE__, __LINE__, "%s %s: allocation %ld fails: status %d", o->method, o->path, n, status);
        if (!met && status != o->good) test_fail(__FILE__, __LINE__, "%s %s: status %d without a failure", o->method, o->path, status);
        if (!met) break;
    }
    long kept = blocks_at_rest() - before;
    long caches = runs > 90 ? 8 : 0;      /* what writes to the catalog: SQLite keeps some pages, the registry its names */
    if (kept > caches) test_fail(__FILE__, __LINE__, "%s %s: %ld blocks are kept after %ld failures", o->method, o->path, kept, runs);
    if (runs < 3) test_fail(__FILE__, __LINE__, "%s %s: only %ld allocations were met", o->method, o->path, runs);
}

TEST(requests_without_memory)
{
    uint8_t digest[DIGEST_BYTES];
    char hex[DIGEST_HEX + 1];
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/config.pbtxt", "max_batch_size: 4");
    digest_bytes("value=1", 7, digest);
    digest_hex(digest, hex);
    snprintf(digest_header, sizeof digest_header, "X-Digest: sha256=%s\r\n", hex);
    server_open();
    REQUIRE(opened);
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) starve(&operations[i]);
    server_close();
}

#else
TEST(no_memory) { SKIP("the sanitizers have a heap of their own"); }
#endif
