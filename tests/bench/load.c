/* Our own load driver: HTTP/1.1 over keep-alive connections, one epoll thread, every answer's bytes compared. Unlike a throughput tool it
 * knows what the answer must be: --expect V=FILE names the whole body that version V answers with, and with --swap it also switches versions
 * while it asks and checks the history: a request sent after a switch had returned must be answered by the new version, one that
 * overlaps a switch by either. Closed loop by default; --rate makes an open loop with Poisson arrivals, whose latency counts from the moment
 * the request was due. A refusal (503, 429) must say Retry-After; its time counts from its sending. Prints one JSON line; SIGTERM ends
 * a closed loop early.
 *
 *   load --port P --path /v2/models/M/infer --body FILE [--header "Name: value"]... --connections C --requests N | --seconds S
 *        [--expect V=FILE]... [--swap /admin/models/M/activate --swap-versions 1,2 --swaps K [--swap-every-ms T]] [--rate R] [--vanish PER_MILLE] [--pin CPU] [--seed N] */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 16000, SWAPS_MAX = 100000, ANSWER_MAX = 1 << 22, VERSIONS = 8, DUE_MAX = 1 << 20 };

struct connection { int fd; bool busy, connecting; uint64_t due_ns, sent_ns; size_t written; char *answer; size_t have, capacity; int retries; };
struct expected { int version; char *bytes; size_t length; };
struct swap { uint64_t start_ns; _Atomic uint64_t end_ns; int version; };

static struct {
    int port, connections, swaps, swap_every_ms, pin, vanish;
    uint64_t requests, seed;
    double seconds, rate;
    const char *path, *swap_path;
    int swap_versions[VERSIONS], swap_version_count;
    struct expected expected[VERSIONS]; int expected_count;
    char *request; size_t request_length;
    char headers[4096];
} o = { .connections = 1, .pin = -1, .seed = 1 };

static struct swap history[SWAPS_MAX + 1];
static atomic_int swap_count, swap_failures;
static atomic_bool over;
static uint64_t *latency, latency_count, latency_room;
static uint64_t *refusal, refusal_count;      /* from sending to the 503, ns; room as latency */
static uint64_t ok, failed, mixed, stale, refused, vanished, unexplained, statuses[600];
static struct connection *connections;
static int epoll_fd;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static double uniform(void)
{
    o.seed ^= o.seed << 13, o.seed ^= o.seed >> 7, o.seed ^= o.seed << 17;
    return (double)(o.seed >> 11) / 9007199254740992.0;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static char *read_file(const char *path, size_t *length)
{
    FILE *f = fopen(path, "rb");
    if (!f) die(path);
    char *data = malloc(ANSWER_MAX * 16);
    *length = fread(data, 1, ANSWER_MAX * 16, f);
    fclose(f);
    return data;
}

static int dial(bool block)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (block ? 0 : SOCK_NONBLOCK), 0), one = 1;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)o.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) die("connect");
    return fd;
}

/* ---- answers ---- */

static bool header_is(const char *line, const char *name, const char **value)
{
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) || line[n] != ':') return false;
    *value = line + n + 1 + strspn(line + n + 1, " ");
    return true;
}

/* Which versions may answer a request that was sent at `sent` and answered by now? */
static bool version_allowed(int version, uint64_t sent)
{
    int n = atomic_load(&swap_count), last_done = 0;
    if (!o.swap_path) return true;
    uint64_t now = now_ns();
    for (int i = n; i >= 0; i--) {
        uint64_t end = atomic_load(&history[i].end_ns);
        if (end && end <= sent) {
            last_done = i;
            break;
        }
    }
    for (int i = last_done; i <= n; i++)
        if (history[i].start_ns <= now && history[i].version == version) return true;
    return false;
}

static void judge(struct connection *c, int status, int version, bool says_when, const char *body, size_t length)
{
    uint64_t now = now_ns(), took = now - (o.rate > 0 ? c->due_ns : c->sent_ns);
    statuses[status < 600 && status >= 0 ? status : 0]++;
    if (status == 503 || status == 429) {
        refused++;
        if (!says_when) unexplained++;
        if (refusal_count < latency_room) refusal[refusal_count++] = now - c->sent_ns;
        return;
    }
    if (status != 200) {
        failed++;
        return;
    }
    if (latency_count < latency_room) latency[latency_count++] = took;
    const struct expected *e = NULL;
    for (int i = 0; i < o.expected_count; i++)
        if (o.expected[i].version == version) e = &o.expected[i];
    if (o.expected_count && (!e || e->length != length || memcmp(e->bytes, body, length))) {
        if (mixed++ == 0) fprintf(stderr, "load: the answer of version %d has %zu bytes that are not its own: %.*s\n", version, length, (int)(length < 300 ? length : 300), body);
    } else if (!version_allowed(version, c->sent_ns)) {
        stale++;
    } else {
        ok++;
    }
}

/* 1: one whole answer was judged; 0: more bytes are needed; -1: the peer is not speaking HTTP. */
static int take_answer(struct connection *c, bool *close_after)
{
    char *end = memmem(c->answer, c->have, "\r\n\r\n", 4);
    if (!end) return 0;
    int status = 0, version = 0;
    size_t length = 0, head = (size_t)(end + 4 - c->answer);
    if (sscanf(c->answer, "HTTP/1.1 %d", &status) != 1) return -1;
    bool says_when = false;
    *close_after = false;
    for (char *line = strstr(c->answer, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        const char *v;
        if (header_is(line + 2, "Content-Length", &v)) length = strtoul(v, NULL, 10);
        else if (header_is(line + 2, "X-Inferd-Version", &v)) version = atoi(v);
        else if (header_is(line + 2, "Retry-After", &v)) says_when = true;
        else if (header_is(line + 2, "Connection", &v) && !strncasecmp(v, "close", 5)) *close_after = true;
    }
    if (c->have < head + length) return 0;
    judge(c, status, version, says_when, c->answer + head, length);
    c->have = 0;
    return 1;
}

/* ---- connections ---- */

static void open_connection(struct connection *c)
{
    c->fd = dial(false);
    c->connecting = true;
    c->have = c->written = 0;
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e)) die("epoll_ctl");
}

static void reopen(struct connection *c)
{
    close(c->fd);
    c->busy = false;
    open_connection(c);
}

static void push(struct connection *c)
{
    while (c->written < o.request_length) {
        ssize_t n = send(c->fd, o.request + c->written, o.request_length - c->written, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN || errno == EINTR || errno == EINPROGRESS || errno == ENOTCONN) return;
            failed++;
            reopen(c);
            return;
        }
        c->written += (size_t)n;
    }
}

static void begin(struct connection *c, uint64_t due)
{
    c->busy = true;
    c->due_ns = due;
    c->sent_ns = now_ns();
    c->written = 0;
    if (o.vanish && uniform() * 1000 < o.vanish) {      /* a client that goes away at a random point, with a reset */
        size_t piece = (size_t)(uniform() * 1.5 * (double)o.request_length);
        struct linger reset = { .l_onoff = 1 };
        if (send(c->fd, o.request, piece < o.request_length ? piece : o.request_length, MSG_NOSIGNAL) < 0) failed += errno != EAGAIN && errno != ENOTCONN && errno != EINPROGRESS;
        if (uniform() < 0.5) usleep((unsigned)(uniform() * 2000));
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        vanished++;
        reopen(c);
        return;
    }
    push(c);
}

static void pull(struct connection *c)
{
    for (;;) {
        if (c->capacity - c->have < 65536) {
            c->capacity = c->capacity ? c->capacity * 2 : 1 << 17;
            c->answer = realloc(c->answer, c->capacity + 1);
            if (!c->answer) die("memory");
        }
        ssize_t n = recv(c->fd, c->answer + c->have, c->capacity - c->have, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) {
            if (c->busy) {      /* a kept connection may be closed between two requests: one more try is fair */
                if (c->have == 0 && c->retries++ < 1) c->busy = false;
                else failed++;
            }
            reopen(c);
            return;
        }
        c->have += (size_t)n;
        c->answer[c->have] = 0;
        bool close_after;
        int got = take_answer(c, &close_after);
        if (got < 0) failed++;
        if (got) {
            c->busy = false;
            c->retries = 0;
            if (close_after || got < 0) {
                reopen(c);
                return;
            }
        }
    }
}

/* ---- swapping ---- */

static int post(int fd, const char *path, int version)
{
    char text[512], body[64];
    int n = snprintf(body, sizeof body, "{\"version\":%d}", version), status = 0;
    n = snprintf(text, sizeof text, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", path, n, body);
    if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n) return 0;
    for (n = 0; n < (int)sizeof text - 1;) {
        ssize_t got = recv(fd, text + n, sizeof text - 1 - (size_t)n, 0);
        if (got <= 0) return 0;
        n += (int)got;
        text[n] = 0;
        if (sscanf(text, "HTTP/1.1 %d", &status) == 1 && strstr(text, "\r\n\r\n") && strchr(strstr(text, "\r\n\r\n"), '}')) return status;
    }
    return status;
}

static void *swap_run(void *unused)
{
    (void)unused;
    int fd = dial(true);
    uint64_t first = now_ns();
    for (int i = 0; i < o.swaps && !atomic_load(&over); i++) {
        struct swap *s = &history[i + 1];
        while (now_ns() < first + (uint64_t)i * (uint64_t)o.swap_every_ms * 1000000 && !atomic_load(&over)) usleep(200);
        s->version = o.swap_versions[(i + 1) % o.swap_version_count];
        s->start_ns = now_ns();
        atomic_store(&swap_count, i + 1);
        int status = post(fd, o.swap_path, s->version);
        atomic_store(&s->end_ns, now_ns());
        if (status != 200) {
            atomic_fetch_add(&swap_failures, 1);
            close(fd);
            fd = dial(true);
        }
    }
    close(fd);
    return NULL;
}

/* ---- the run ---- */

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double quantile_of(const uint64_t *sorted, uint64_t count, double q) { return count ? (double)sorted[(uint64_t)(q * (double)(count - 1))] * 1e-3 : 0; }
static double quantile_us(double q) { return quantile_of(latency, latency_count, q); }

static void handle_events(int timeout_ms)
{
    struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) {
            c->connecting = false;
            if (c->busy) push(c);
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) pull(c);
    }
}

static uint64_t busy_connections(void)
{
    uint64_t n = 0;
    for (int i = 0; i < o.connections; i++) n += connections[i].busy;
    return n;
}

static volatile sig_atomic_t told_to_end;
static void on_term(int signal) { told_to_end = signal; }

static uint64_t run_closed(uint64_t end)
{
    signal(SIGTERM, on_term);
    uint64_t begun = 0;
    bool more = true;
    while (more || busy_connections()) {
        uint64_t now = now_ns();
        bool swapping = o.swap_path && atomic_load(&swap_count) < o.swaps;
        more = (begun < o.requests || (o.requests && swapping)) && now < end && !told_to_end;
        if (!more && now > end + 20000000000u) break;
        for (int i = 0; more && i < o.connections; i++)
            if (!connections[i].busy && !connections[i].connecting) begin(&connections[i], now), begun++;
        handle_events(20);
    }
    return begun;
}

static uint64_t run_open(uint64_t start, uint64_t end)
{
    static uint64_t due[DUE_MAX];
    uint64_t head = 0, tail = 0, begun = 0;
    double next = (double)start;
    while (now_ns() < end || head < tail || busy_connections()) {
        uint64_t now = now_ns();
        if (now > end + 20000000000u) break;
        if (now >= end) head = tail;      /* due, but every connection was busy until the end: never sent */
        while (next <= (double)now && now < end && tail - head < DUE_MAX) {
            due[tail++ % DUE_MAX] = (uint64_t)next;
            next += -log(1 - uniform()) / o.rate * 1e9;
        }
        for (int i = 0; i < o.connections && head < tail; i++)
            if (!connections[i].busy && !connections[i].connecting) begin(&connections[i], due[head++ % DUE_MAX]), begun++;
        handle_events(next > (double)now_ns() + 2e6 ? 1 : 0);
    }
    return begun;
}

static void read_arguments(int argc, char **argv)
{
    const char *body_path = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *a = argv[i], *v = argv[i + 1];
        if (!strcmp(a, "--port")) o.port = atoi(v);
        else if (!strcmp(a, "--path")) o.path = v;
        else if (!strcmp(a, "--body")) body_path = v;
        else if (!strcmp(a, "--header")) snprintf(o.headers + strlen(o.headers), sizeof o.headers - strlen(o.headers), "%s\r\n", v);
        else if (!strcmp(a, "--connections")) o.connections = atoi(v);
        else if (!strcmp(a, "--requests")) o.requests = strtoull(v, NULL, 10);
        else if (!strcmp(a, "--seconds")) o.seconds = atof(v);
        else if (!strcmp(a, "--rate")) o.rate = atof(v);
        else if (!strcmp(a, "--vanish")) o.vanish = atoi(v);
        else if (!strcmp(a, "--seed")) o.seed = strtoull(v, NULL, 10) | 1;
        else if (!strcmp(a, "--pin")) o.pin = atoi(v);
        else if (!strcmp(a, "--swap")) o.swap_path = v;
        else if (!strcmp(a, "--swaps")) o.swaps = atoi(v);
        else if (!strcmp(a, "--swap-every-ms")) o.swap_every_ms = atoi(v);
        else if (!strcmp(a, "--swap-versions")) {
            for (const char *p = v; *p && o.swap_version_count < VERSIONS; p += strcspn(p, ","), p += *p == ',') o.swap_versions[o.swap_version_count++] = atoi(p);
        } else if (!strcmp(a, "--expect") && o.expected_count < VERSIONS) {
            struct expected *e = &o.expected[o.expected_count++];
            e->version = atoi(v);
            e->bytes = read_file(strchr(v, '=') + 1, &e->length);
        } else {
            fprintf(stderr, "load: unknown argument %s\n", a);
            exit(2);
        }
    }
    if (!o.port || !o.path || o.connections < 1 || o.connections > CONNECTIONS_MAX || o.swaps > SWAPS_MAX || (!o.requests && o.seconds <= 0)) {
        fprintf(stderr, "load: --port, --path, and --requests or --seconds are needed\n");
        exit(2);
    }
    size_t length = 0;
    char *body = body_path ? read_file(body_path, &length) : NULL;
    o.request = malloc(length + 8192);
    int head = sprintf(o.request, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n%s\r\n", body_path ? "POST" : "GET", o.path, length, o.headers);
    if (length) memcpy(o.request + head, body, length);
    o.request_length = (size_t)head + length;
    free(body);
}

int main(int argc, char **argv)
{
    read_arguments(argc, argv);
    if (o.pin >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(o.pin, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    latency_room = o.requests ? o.requests + 100000 : 20000000;
    latency = malloc(latency_room * sizeof *latency);
    refusal = malloc(latency_room * sizeof *refusal);
    connections = calloc((size_t)o.connections, sizeof *connections);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!latency || !refusal || !connections || epoll_fd < 0) die("start");
    for (int i = 0; i < o.connections; i++) open_connection(&connections[i]);
    pthread_t swapper;
    history[0] = (struct swap){ .start_ns = 1, .end_ns = 1, .version = o.swap_version_count ? o.swap_versions[0] : 0 };
    if (o.swap_path) pthread_create(&swapper, NULL, swap_run, NULL);
    uint64_t start = now_ns(), end = o.seconds > 0 ? start + (uint64_t)(o.seconds * 1e9) : UINT64_MAX / 2;
    if (!o.requests) o.requests = UINT64_MAX / 2;
    uint64_t begun = o.rate > 0 ? run_open(start, end) : run_closed(end);
    double took = (double)(now_ns() - start) * 1e-9;
    uint64_t unanswered = busy_connections();
    atomic_store(&over, true);
    if (o.swap_path) pthread_join(swapper, NULL);
    qsort(latency, latency_count, sizeof *latency, by_size);
    qsort(refusal, refusal_count, sizeof *refusal, by_size);
    printf("{\"requests\":%llu,\"ok\":%llu,\"failed\":%llu,\"mixed\":%llu,\"stale\":%llu,\"refused\":%llu,\"unexplained\":%llu,\"refusal_p50_us\":%.0f,\"refusal_p99_us\":%.0f,\"vanished\":%llu,\"unanswered\":%llu,\"swaps\":%d,\"swap_failures\":%d,"
           "\"seconds\":%.3f,\"per_second\":%.0f,\"p50_us\":%.0f,\"p90_us\":%.0f,\"p99_us\":%.0f,\"max_us\":%.0f,\"status\":{",
           (unsigned long long)begun, (unsigned long long)ok, (unsigned long long)failed, (unsigned long long)mixed, (unsigned long long)stale, (unsigned long long)refused,
           (unsigned long long)unexplained, quantile_of(refusal, refusal_count, 0.5), quantile_of(refusal, refusal_count, 0.99), (unsigned long long)vanished, (unsigned long long)unanswered, atomic_load(&swap_count), atomic_load(&swap_failures), took, (double)ok / took,
           quantile_us(0.5), quantile_us(0.9), quantile_us(0.99), quantile_us(1));
    bool first = true;
    for (int i = 0; i < 600; i++)
        if (statuses[i]) printf("%s\"%d\":%llu", first ? "" : ",", i, (unsigned long long)statuses[i]), first = false;
    printf("}}\n");
    return failed || mixed || stale || unanswered ? 1 : 0;
}
