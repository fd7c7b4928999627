/* Three processes. The server holds one end of a socket pair; the other end belongs to a small process that was forked before anything else
 * existed (a fork of a process with threads, OpenMP or a GPU is a gamble). For each file it forks a child that gives up everything it
 * does not need to parse (sockets, files, programs, unlimited memory and time) and only then looks at the file. What comes back is a status
 * and a sentence over a pipe, or the news that the child died. */
#include "model_store/inspector.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };       /* their shadow memory is terabytes of address space */
#else
enum { SANITIZED = 0 };
#endif

enum { KIND_MAX = 32, CPU_SECONDS = 20, WALL_MS = 60000, REPLY_MS = 90000 };
#define CHILD_MEMORY ((uint64_t)1 << 30)      /* beyond the file itself */



struct inspector {
    pthread_mutex_t lock;       /* guards the socket: one check at a time */
    int   socket;
    pid_t zygote;
};

/* ---- in the child ---- */

static bool forbid_the_rest(void)
{
    static const int allowed[] = {
        SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(close), SCMP_SYS(lseek), SCMP_SYS(fstat), SCMP_SYS(newfstatat), SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise),
        SCMP_SYS(brk), SCMP_SYS(futex), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(sigaltstack), SCMP_SYS(getpid), SCMP_SYS(gettid),
        SCMP_SYS(tgkill), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity), SCMP_SYS(sysinfo),
    };
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (!filter) return false;
    int failed = 0;
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
    if (!failed) failed = seccomp_load(filter);
    seccomp_release(filter);
    return !failed;
}

static void limit(int what, uint64_t value)
{
    struct rlimit l = { value, value };
    setrlimit(what, &l);
}

static uint64_t address_space_now(void)
{
    char *text, *after;
    size_t length;
    if (file_read_path(&text, &length, "/proc/self/statm", 4096, NULL)) return 0;
    uint64_t pages = strtoull(text, &after, 10);
    free(text);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void write_whole(int fd, const void *data, size_t length)
{
    for (const char *p = data; length;) {
        ssize_t n = write(fd, p, length);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        p += n, length -= (size_t)n;
    }
}

static void run_child(enum status (*inspect)(const char *, const uint8_t *, uint64_t, struct err *), const char *kind, int file, int out)
{
    struct file_map map = { 0 };
    struct err err = { 0 };
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    enum status st = file_map_fd(&map, file, &err);
    if (!st) {
        if (!SANITIZED) limit(RLIMIT_AS, address_space_now() + map.size + CHILD_MEMORY);
        limit(RLIMIT_CPU, CPU_SECONDS);
        limit(RLIMIT_CORE, 0);
        limit(RLIMIT_FSIZE, 0);
        prctl(PR_SET_DUMPABLE, 0);
        st = forbid_the_rest() ? inspect(kind, map.data, map.size, &err) : err_set(&err, ST_INTERNAL, "the parsing child could not give up its rights");
    }
    err.status = st;
    if (!st) err.text[0] = 0;
    write_whole(out, &err, sizeof err);
    _exit(0);
}

/* ---- in the zygote ---- */

/* False when the child died, hung or said nonsense. */
static bool read_verdict(int fd, struct err *verdict)
{
    size_t got = 0;
    uint64_t end = clock_ns() + (uint64_t)WALL_MS * 1000000;
    while (got < sizeof *verdict) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        uint64_t now = clock_ns();
        if (now >= end || poll(&p, 1, (int)((end - now) / 1000000) + 1) == 0) return false;
        ssize_t n = read(fd, (char *)verdict + got, sizeof *verdict - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        got += (size_t)n;
    }
    verdict->text[sizeof verdict->text - 1] = 0;
    return (int)verdict->status >= 0 && verdict->status < ST_COUNT;
}

static void judge_file(enum status (*inspect)(const char *, const uint8_t *, uint64_t, struct err *), const char *kind, int file, int keep, struct err *verdict)
{
    int ends[2];
    pid_t child = -1;
    if (pipe(ends)) {
        err_set(verdict, ST_INTERNAL, "no pipe for the parsing child");
        return;
    }
    child = fork();
    if (!child) {
        close(keep);
        close(ends[0]);
        run_child(inspect, kind, file, ends[1]);
    }
    close(ends[1]);
    if (child < 0) {
        err_set(verdict, ST_INTERNAL, "no process for the parsing child");
    } else if (!read_verdict(ends[0], verdict)) {
        kill(child, SIGKILL);
        err_set(verdict, ST_BAD_INPUT, "the file crashed its parser");
    }
    close(ends[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
}

static ssize_t receive_job(int s, char kind[KIND_MAX], int *file)
{
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec io = { kind, KIND_MAX - 1 };
    struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n = recvmsg(s, &m, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    *file = -1;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) memcpy(file, CMSG_DATA(c), sizeof *file);
    if (n > 0) kind[n] = 0;
    return n;
}

static void run_zygote(int s, enum status (*inspect)(const char *, const uint8_t *, uint64_t, struct err *))
{
    signal(SIGINT, SIG_IGN);           /* it ends when the server's end of the socket is closed, not when a terminal is */
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_NAME, "inferd-inspect");
    for (;;) {
        char kind[KIND_MAX];
        int file;
        struct err verdict = { 0 };
        ssize_t n = receive_job(s, kind, &file);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) _exit(0);
        if (file < 0) err_set(&verdict, ST_INTERNAL, "no file came with the question");
        else judge_file(inspect, kind, file, s, &verdict);
        if (file >= 0) close(file);
        if (send(s, &verdict, sizeof verdict, MSG_NOSIGNAL) != (ssize_t)sizeof verdict) _exit(0);
    }
}

/* ---- in the server ---- */

enum status inspector_start(struct inspector **out, enum status (*inspect)(const char *kind, const uint8_t *data, uint64_t size, struct err *err), struct err *err)
{
    int s[2];
    struct inspector *i = calloc(1, sizeof *i);
    if (!i) return err_set(err, ST_NO_MEMORY, "no memory for the parsing child");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s)) {
        free(i);
        return err_set(err, ST_INTERNAL, "no socket for the parsing child: %s", strerror(errno));
    }
    i->zygote = fork();
    if (i->zygote == 0) {
        close(s[0]);
        run_zygote(s[1], inspect);
    }
    close(s[1]);
    if (i->zygote < 0) {
        close(s[0]);
        free(i);
        return err_set(err, ST_INTERNAL, "the parsing child cannot be started: %s", strerror(errno));
    }
    struct timeval wait = { .tv_sec = REPLY_MS / 1000 };
    setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    i->socket = s[0];
    pthread_mutex_init(&i->lock, NULL);
    *out = i;
    return ST_OK;
}

enum status inspector_check(struct inspector *i, const char *kind, int fd, struct err *err)
{
    union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { { 0 } };
    struct iovec io = { (void *)kind, strlen(kind) };
    struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    struct err verdict;
    ssize_t n;
    if (!*kind || io.iov_len >= KIND_MAX) return err_set(err, ST_INTERNAL, "the kind of file is too long for the parsing child");
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    pthread_mutex_lock(&i->lock);
    do n = sendmsg(i->socket, &m, MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
    if (n > 0)
        do n = recv(i->socket, &verdict, sizeof verdict, 0); while (n < 0 && errno == EINTR);
    pthread_mutex_unlock(&i->lock);
    if (n != (ssize_t)sizeof verdict) return err_set(err, ST_INTERNAL, "the parsing child does not answer; restart the server");
    return verdict.status ? err_set(err, verdict.status, "%s", verdict.text) : ST_OK;
}

void inspector_stop(struct inspector *i)
{
    if (!i) return;
    close(i->socket);
    while (waitpid(i->zygote, NULL, 0) < 0 && errno == EINTR) {}
    pthread_mutex_destroy(&i->lock);
    free(i);
}
