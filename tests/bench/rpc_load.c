/* A gRPC load driver of our own over raw HTTP/2: one epoll thread, every reply's bytes compared. It speaks just as much of the protocol as one method of one
 * server needs: the request's header block is made once, of the answers only frames are read. So the driver costs a fraction of what the
 * server does, and it can also misbehave: --reset opens streams and resets them at once. Prints one JSON line.
 *
 * Large requests, one call at a time on a channel, lie framed in a file of the channel's own and go by sendfile, which copies nothing: where the driver
 * copied 602 KB into pages that the server was just reading, the caches of two cores decided whether it sent 2,800 or 6,000 of them a second.
 *
 *   rpc_load --port P --message FILE --expect FILE [--method /S/M] --channels C --streams N (at once on each channel) --seconds S [--pin CPU]
 *   rpc_load --port P --message FILE --reset N */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHANNELS_MAX = 4096, STREAMS_MAX = 128, OUT_MAX = 1 << 20, IN_MAX = 1 << 18, FRAME_HEAD = 9, FRAME_MAX = 16384, LARGE = 65536, LATENCIES_MAX = 1 << 24, WINDOW = 0x7fffffff };
enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8, END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

struct stream { uint32_t id; size_t sent, got; int64_t window; uint64_t start_ns; bool wrong; };
struct channel {
    int fd;
    uint32_t next_id;
    int64_t window, initial_window;      /* what we may send on the channel, and on a new stream */
    uint64_t received;                   /* since we last widened the server's window */
    struct stream streams[STREAMS_MAX];
    int stream_count;
    uint8_t *out, *in;
    size_t out_length, out_at, in_length;
    uint8_t *frames;      /* NULL, or the request as DATA frames, mapped from `file`; those up to frames_end may go, those up to frames_at have gone */
    int file;
    size_t frames_end, frames_at;
    bool amid_frames, writes, closed, goaway;
};

static struct {
    int port, channels, streams, pin;
    uint64_t resets;
    double seconds;
    const char *method;
    uint8_t *request, *reply, headers[512];      /* messages with their 5-byte prefix */
    size_t request_length, reply_length, headers_length;
    struct channel *list;
    int epoll;
    uint64_t done, errors;
    uint32_t *latencies_us;
    bool stopping;
} bench = { .channels = 1, .streams = 1, .pin = -1, .seconds = 5, .method = "/inference.GRPCInferenceService/ModelInfer" };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *text)
{
    fprintf(stderr, "rpc_load: %s (%s)\n", text, strerror(errno));
    exit(2);
}

static void *need(void *p)
{
    if (!p) fail("no memory");
    return p;
}

/* A message from a file, behind its prefix. */
static uint8_t *read_message(const char *path, size_t *length)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail(path);
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    uint8_t *m = need(malloc((size_t)n + 5));
    m[0] = 0;
    for (int i = 0; i < 4; i++) m[1 + i] = (uint8_t)(n >> (24 - 8 * i));
    if (fread(m + 5, 1, (size_t)n, f) != (size_t)n) fail(path);
    fclose(f);
    *length = (size_t)n + 5;
    return m;
}

/* ---- frames out ---- */

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put_head(uint8_t *p, int type, int flags, uint32_t stream, size_t length)
{
    p[0] = (uint8_t)(length >> 16), p[1] = (uint8_t)(length >> 8), p[2] = (uint8_t)length, p[3] = (uint8_t)type, p[4] = (uint8_t)flags;
    put_u32(p + 5, stream);
}

static uint8_t *put_frame(struct channel *c, int type, int flags, uint32_t stream, size_t length)
{
    if (c->out_length + FRAME_HEAD + length > OUT_MAX) return NULL;
    uint8_t *p = c->out + c->out_length;
    put_head(p, type, flags, stream, length);
    c->out_length += FRAME_HEAD + length;
    return p + FRAME_HEAD;
}

static size_t frame_payload(size_t sent)
{
    return bench.request_length - sent < FRAME_MAX ? bench.request_length - sent : FRAME_MAX;
}

static void make_frames(struct channel *c)
{
    const size_t length = bench.request_length + (bench.request_length + FRAME_MAX - 1) / FRAME_MAX * FRAME_HEAD;
    c->file = memfd_create("request", MFD_CLOEXEC);
    if (c->file < 0 || ftruncate(c->file, (off_t)length)) fail("no file in memory");
    c->frames = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, c->file, 0);
    if (c->frames == MAP_FAILED) fail("no memory");
    uint8_t *p = c->frames;
    for (size_t at = 0, n; at < bench.request_length; at += n, p += FRAME_HEAD + n) {
        n = frame_payload(at);
        put_head(p, DATA, at + n == bench.request_length ? END_STREAM : 0, 0, n);
        memcpy(p + FRAME_HEAD, bench.request + at, n);
    }
}

static void put_window(struct channel *c, uint32_t stream, uint32_t more)
{
    uint8_t *p = put_frame(c, WINDOW_UPDATE, 0, stream, 4);
    if (p) put_u32(p, more);
}

/* "literal without indexing, new name" for each: no table on either side changes, so one block serves every call. */
static void make_headers(void)
{
    const char *pairs[][2] = { { ":method", "POST" }, { ":scheme", "http" }, { ":path", bench.method }, { ":authority", "127.0.0.1" }, { "te", "trailers" }, { "content-type", "application/grpc" } };
    uint8_t *p = bench.headers;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        *p++ = 0;
        for (int k = 0; k < 2; k++) {
            size_t n = strlen(pairs[i][k]);
            *p++ = (uint8_t)n;
            memcpy(p, pairs[i][k], n);
            p += n;
        }
    }
    bench.headers_length = (size_t)(p - bench.headers);
}

static ssize_t send_some(struct channel *c)
{
    size_t out = c->out_length - c->out_at, frames = c->frames_end - c->frames_at;
    if (out && !c->amid_frames) {
        ssize_t n = send(c->fd, c->out + c->out_at, out, MSG_NOSIGNAL);
        if (n > 0) c->out_at += (size_t)n;
        return n;
    }
    off_t at = (off_t)c->frames_at;
    ssize_t n = sendfile(c->fd, c->file, &at, frames);
    if (n > 0) c->frames_at += (size_t)n;
    if (n > 0) c->amid_frames = c->frames_at < c->frames_end;
    return n;
}

static void flush(struct channel *c)
{
    while ((c->out_at < c->out_length || c->frames_at < c->frames_end) && !c->closed) {
        ssize_t n = send_some(c);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) c->closed = true;
    }
    bool writes = (c->out_at < c->out_length || c->frames_at < c->frames_end) && !c->closed;
    if (c->out_at == c->out_length || c->closed) c->out_at = c->out_length = 0;
    if (writes == c->writes) return;
    c->writes = writes;
    epoll_ctl(bench.epoll, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){ .events = EPOLLIN | (writes ? EPOLLOUT : 0u), .data.ptr = c });
}

static void send_frames(struct channel *c, struct stream *s)
{
    for (size_t n; s->sent < bench.request_length; s->sent += n, c->frames_end += FRAME_HEAD + n) {
        n = frame_payload(s->sent);
        if ((int64_t)n > s->window || (int64_t)n > c->window) return;
        put_u32(c->frames + c->frames_end + 5, s->id);
        s->window -= (int64_t)n;
        c->window -= (int64_t)n;
    }
}

/* As much of the request as windows and buffer take. */
static void send_data(struct channel *c, struct stream *s)
{
    if (c->frames) {
        send_frames(c, s);
        return;
    }
    while (s->sent < bench.request_length) {
        size_t n = frame_payload(s->sent), room = OUT_MAX - c->out_length;
        if ((int64_t)n > s->window) n = s->window > 0 ? (size_t)s->window : 0;
        if ((int64_t)n > c->window) n = c->window > 0 ? (size_t)c->window : 0;
        if (room < FRAME_HEAD + n || !n) return;
        uint8_t *p = put_frame(c, DATA, s->sent + n == bench.request_length ? END_STREAM : 0, s->id, n);
        memcpy(p, bench.request + s->sent, n);
        s->sent += n;
        s->window -= (int64_t)n;
        c->window -= (int64_t)n;
    }
}

static void begin(struct channel *c, struct stream *s)
{
    uint8_t *p = put_frame(c, HEADERS, END_HEADERS, c->next_id, bench.headers_length);
    if (!p) fail("the channel takes no headers");
    memcpy(p, bench.headers, bench.headers_length);
    *s = (struct stream){ .id = c->next_id, .window = c->initial_window, .start_ns = now_ns() };
    c->next_id += 2;
    if (c->frames) c->frames_at = c->frames_end = 0;
    send_data(c, s);
}

/* ---- frames in ---- */

static struct stream *stream_of(struct channel *c, uint32_t id)
{
    for (int i = 0; i < c->stream_count; i++)
        if (c->streams[i].id == id) return &c->streams[i];
    return NULL;
}

static void end(struct channel *c, struct stream *s)
{
    bool good = !s->wrong && s->got == bench.reply_length;
    if (!good) bench.errors++;
    if (good && bench.done < LATENCIES_MAX) bench.latencies_us[bench.done] = (uint32_t)((now_ns() - s->start_ns) / 1000);
    if (good) bench.done++;
    if (bench.stopping || c->goaway) *s = c->streams[--c->stream_count];
    else begin(c, s);
}

static void on_data(struct channel *c, struct stream *s, const uint8_t *p, size_t n)
{
    c->received += n;
    if (c->received > WINDOW / 4) put_window(c, 0, (uint32_t)c->received), c->received = 0;
    if (!s) return;
    s->wrong |= s->got + n > bench.reply_length || memcmp(bench.reply + s->got, p, n);
    s->got += n;
}

static void on_settings(struct channel *c, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i + 6 <= n; i += 6) {
        uint32_t key = (uint32_t)p[i] << 8 | p[i + 1], value = (uint32_t)p[i + 2] << 24 | (uint32_t)p[i + 3] << 16 | (uint32_t)p[i + 4] << 8 | p[i + 5];
        if (key != 4) continue;
        for (int k = 0; k < c->stream_count; k++) c->streams[k].window += (int64_t)value - c->initial_window;
        c->initial_window = value;
    }
    put_frame(c, SETTINGS, ACK, 0, 0);
}

static void on_frame(struct channel *c, int type, int flags, uint32_t id, const uint8_t *p, size_t n)
{
    struct stream *s = id ? stream_of(c, id) : NULL;
    uint32_t word = n >= 4 ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3] : 0;
    if (type == DATA) on_data(c, s, p, n);
    if (type == SETTINGS && !(flags & ACK)) on_settings(c, p, n);
    if (type == WINDOW_UPDATE && s) s->window += word;
    if (type == WINDOW_UPDATE && !id) c->window += word;
    if (type == GOAWAY) c->goaway = true;
    if (type == PING && !(flags & ACK)) {
        uint8_t *to = put_frame(c, PING, ACK, 0, 8);
        if (to) memcpy(to, p, 8);
    }
    if (s && (type == RST_STREAM || ((type == DATA || type == HEADERS) && flags & END_STREAM))) end(c, s);
}

static void read_frames(struct channel *c)
{
    for (;;) {
        ssize_t n = recv(c->fd, c->in + c->in_length, IN_MAX - c->in_length, 0);
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            c->closed = true;
            break;
        }
        c->in_length += (size_t)n;
        size_t at = 0;
        while (c->in_length - at >= FRAME_HEAD) {
            const uint8_t *f = c->in + at;
            size_t length = (size_t)f[0] << 16 | (size_t)f[1] << 8 | f[2];
            if (c->in_length - at < FRAME_HEAD + length) break;
            on_frame(c, f[3], f[4], ((uint32_t)f[5] << 24 | (uint32_t)f[6] << 16 | (uint32_t)f[7] << 8 | f[8]) & WINDOW, f + FRAME_HEAD, length);
            at += FRAME_HEAD + length;
        }
        memmove(c->in, c->in + at, c->in_length - at);
        c->in_length -= at;
        if (c->in_length == IN_MAX) fail("a frame larger than it may be");
    }
}

/* ---- runs ---- */

static void open_channel(struct channel *c)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)bench.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("no connection");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->out = need(malloc(OUT_MAX));
    c->in = need(malloc(IN_MAX));
    if (bench.streams == 1 && bench.request_length > LARGE && !bench.resets) make_frames(c);
    c->next_id = 1;
    c->window = c->initial_window = 65535;
    memcpy(c->out, preface, sizeof preface - 1);
    c->out_length = sizeof preface - 1;
    uint8_t *p = put_frame(c, SETTINGS, 0, 0, 6);
    p[0] = 0, p[1] = 4;
    put_u32(p + 2, WINDOW);
    put_window(c, 0, WINDOW - 65535);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    flush(c);
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void run_until(uint64_t until)
{
    struct epoll_event events[64];
    for (uint64_t now; (now = now_ns()) < until;) {
        int n = epoll_wait(bench.epoll, events, 64, (int)((until - now) / 1000000) + 1), open = 0;
        for (int i = 0; i < n; i++) {
            struct channel *c = events[i].data.ptr;
            if (events[i].events & ~(uint32_t)EPOLLOUT) read_frames(c);
            flush(c);
            for (int k = 0; k < c->stream_count; k++) send_data(c, &c->streams[k]);
            flush(c);
            if (c->closed) {
                epoll_ctl(bench.epoll, EPOLL_CTL_DEL, c->fd, NULL);
                bench.errors += (uint64_t)c->stream_count;
                c->stream_count = 0;
            }
        }
        for (int i = 0; i < bench.channels; i++) open += bench.list[i].stream_count;
        if (!open) return;
    }
}

static int load(void)
{
    bench.list = need(calloc((size_t)bench.channels, sizeof *bench.list));
    bench.latencies_us = need(malloc(LATENCIES_MAX * sizeof *bench.latencies_us));
    for (int i = 0; i < bench.channels; i++) {
        struct channel *c = &bench.list[i];
        open_channel(c);
        epoll_ctl(bench.epoll, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){ .events = EPOLLIN, .data.ptr = c });
        c->stream_count = bench.streams;
        for (int k = 0; k < bench.streams; k++) begin(c, &c->streams[k]);
        flush(c);
    }
    uint64_t start = now_ns();
    run_until(start + (uint64_t)(bench.seconds * 1e9));
    double seconds = (double)(now_ns() - start) / 1e9;
    uint64_t done = bench.done, kept = done < LATENCIES_MAX ? done : LATENCIES_MAX;
    bench.stopping = true;
    run_until(now_ns() + 5000000000u);
    qsort(bench.latencies_us, kept, sizeof *bench.latencies_us, by_size);
    printf("{\"per_second\":%.0f,\"done\":%llu,\"errors\":%llu,\"p50_us\":%u,\"p99_us\":%u}\n", (double)done / seconds, (unsigned long long)done, (unsigned long long)bench.errors,
           kept ? bench.latencies_us[kept / 2] : 0, kept ? bench.latencies_us[kept * 99 / 100] : 0);
    return bench.errors ? 1 : 0;
}

/* Streams that are reset as soon as they are open, until the server has had enough. */
static int reset(void)
{
    struct channel c = { 0 };
    uint64_t sent = 0;
    open_channel(&c);
    while (sent < bench.resets && !c.closed) {
        struct stream s;
        begin(&c, &s);
        put_u32(put_frame(&c, RST_STREAM, 0, s.id, 4), 8 /* CANCEL */);
        sent++;
        if (c.out_length > OUT_MAX / 2 || sent == bench.resets) {
            for (uint64_t until = now_ns() + 2000000000u; c.out_length && !c.closed && now_ns() < until;) flush(&c), read_frames(&c);
            if (c.out_length) break;      /* the server takes no more */
        }
    }
    for (uint64_t until = now_ns() + 2000000000u; !c.closed && now_ns() < until;) read_frames(&c), usleep(1000);
    printf("{\"sent\":%llu,\"closed\":%s,\"goaway\":%s}\n", (unsigned long long)sent, c.closed ? "true" : "false", c.goaway ? "true" : "false");
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *v = argv[i + 1];
        if (!strcmp(argv[i], "--port")) bench.port = atoi(v);
        else if (!strcmp(argv[i], "--channels")) bench.channels = atoi(v);
        else if (!strcmp(argv[i], "--streams")) bench.streams = atoi(v);
        else if (!strcmp(argv[i], "--seconds")) bench.seconds = atof(v);
        else if (!strcmp(argv[i], "--pin")) bench.pin = atoi(v);
        else if (!strcmp(argv[i], "--method")) bench.method = v;
        else if (!strcmp(argv[i], "--message")) bench.request = read_message(v, &bench.request_length);
        else if (!strcmp(argv[i], "--expect")) bench.reply = read_message(v, &bench.reply_length);
        else if (!strcmp(argv[i], "--reset")) bench.resets = strtoull(v, NULL, 10);
        else fail(argv[i]);
    }
    if (!bench.request || bench.channels < 1 || bench.channels > CHANNELS_MAX || bench.streams < 1 || bench.streams > STREAMS_MAX || (!bench.resets && !bench.reply) || strlen(bench.method) > 100)
        fail("usage: see the head of tests/bench/rpc_load.c");
    if (bench.pin >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)bench.pin, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    bench.epoll = epoll_create1(0);
    make_headers();
    return bench.resets ? reset() : load();
}
