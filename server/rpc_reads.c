/* The gRPC library reads a connection until its socket is empty before it hands anything over, and offers no hook between: ten thousands of calls that a client opens and resets at once (CVE-2023-44487)
 * have cost their time before we hear of the first. So the one function it reads with, recvmsg, is this file's: the program's own definition goes before the C library's for every shared object (ELF's order
 * of symbols). It counts a connection's RST_STREAM frames by walking from frame to frame (RFC 9113, 4.1: 24 bits of length, 8 of type, 8 of flags, 32 of stream), and ends a connection at the limit: GOAWAY with
 * ENHANCE_YOUR_CALM to the client, ECONNRESET to the library. Only descriptors that rpc_reads_watch named are looked at; within TLS there is nothing to see. */
#include "server/rpc_internal.h"

#include "base/checked.h"
#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FRAME_HEADER = 9, FRAME_HEADERS = 1, FRAME_RST_STREAM = 3 };

/* One connection; from rpc_reads_watch on only the thread that reads touches it, but for `frames`, which others look at. */
struct reading {
    atomic_bool watched;
    bool        cut;
    uint8_t     header[FRAME_HEADER];
    uint8_t     have;                    /* bytes of the header at hand */
    uint32_t    pass;                    /* bytes until the next header */
    uint32_t    last_stream, resets;     /* since window_ns */
    uint64_t    window_ns;
    atomic_uint_fast64_t frames;         /* in all */
};

static _Atomic(struct reading *) readings;       /* [readings_max], by descriptor; for the life of the process, whatever reads late */
static int readings_max;

enum status rpc_reads_open(int fd_max, struct err *err)
{
    if (atomic_load(&readings)) return ST_OK;
    struct reading *all = mem_calloc_array((uint64_t)fd_max, sizeof *all);
    if (!all) return err_set(err, ST_NO_MEMORY, "no memory for %d connections", fd_max);
    readings_max = fd_max;
    atomic_store(&readings, all);
    return ST_OK;
}

/* NULL: no connection can have this descriptor. */
static struct reading *reading_of(int fd)
{
    struct reading *all = atomic_load(&readings);
    return all && fd >= 0 && fd < readings_max ? all + fd : NULL;
}
static struct reading *watched(int fd)
{
    struct reading *r = reading_of(fd);
    return r && atomic_load(&r->watched) ? r : NULL;
}

void rpc_reads_watch(int fd)
{
    struct reading *r = reading_of(fd);
    if (!r) return;
    r->cut = false;
    r->have = 0;
    r->pass = RPC_PREFACE_BYTES;
    r->last_stream = r->resets = 0;
    r->window_ns = 0;
    atomic_store(&r->frames, 0);
    atomic_store(&r->watched, true);
}

void rpc_reads_forget(int fd)
{
    struct reading *r = reading_of(fd);
    if (r) atomic_store(&r->watched, false);
}

uint64_t rpc_reads_frames(int fd)
{
    struct reading *r = watched(fd);
    return r ? atomic_load_explicit(&r->frames, memory_order_relaxed) : 0;
}

static uint32_t big_endian(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

/* A frame begins. Returns false when it is one reset too many. */
static bool take_header(struct reading *r)
{
    const uint8_t *h = r->header;
    atomic_fetch_add_explicit(&r->frames, 1, memory_order_relaxed);
    r->pass = (uint32_t)h[0] << 16 | (uint32_t)h[1] << 8 | h[2];
    if (h[3] == FRAME_HEADERS) r->last_stream = big_endian(h + 5) & 0x7fffffff;
    if (h[3] != FRAME_RST_STREAM) return true;
    const uint64_t now = clock_ns();
    if (now - r->window_ns > RPC_RESETS_MS * UINT64_C(1000000)) r->window_ns = now, r->resets = 0;
    return ++r->resets <= RPC_RESETS_MAX;
}

static bool take_bytes(struct reading *r, const uint8_t *p, size_t n)
{
    while (n) {
        if (r->pass) {
            const size_t some = n < r->pass ? n : r->pass;
            r->pass -= (uint32_t)some;
            p += some, n -= some;
            continue;
        }
        const size_t want = (size_t)(FRAME_HEADER - r->have), some = n < want ? n : want;
        memcpy(r->header + r->have, p, some);
        r->have = (uint8_t)(r->have + some);
        p += some, n -= some;
        if (r->have < FRAME_HEADER) continue;
        r->have = 0;
        if (!take_header(r)) return false;
    }
    return true;
}

static void say_go_away(int fd, uint32_t last_stream)
{
    const uint8_t frame[FRAME_HEADER + 8] = { 0, 0, 8, 7, 0, 0, 0, 0, 0, (uint8_t)(last_stream >> 24), (uint8_t)(last_stream >> 16), (uint8_t)(last_stream >> 8), (uint8_t)last_stream, 0, 0, 0, 11 /* ENHANCE_YOUR_CALM */ };
    send(fd, frame, sizeof frame, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    struct reading *r = flags ? NULL : watched(fd);      /* the library reads without flags */
    bool fine = !r || !r->cut;
    ssize_t got = fine ? syscall(SYS_recvmsg, fd, message, flags) : 0;
    if (!r || (fine && got <= 0)) return got;
    size_t left = (size_t)got;
    for (size_t i = 0; fine && left && i < message->msg_iovlen; i++) {
        const size_t some = left < message->msg_iov[i].iov_len ? left : message->msg_iov[i].iov_len;
        fine = take_bytes(r, message->msg_iov[i].iov_base, some);
        left -= some;
    }
    if (fine) return got;
    if (!r->cut) say_go_away(fd, r->last_stream);
    r->cut = true;
    errno = ECONNRESET;
    return -1;
}
