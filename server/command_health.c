/* `inferd health`: is the server on this machine ready? For the health checks of containers, which hold no other HTTP client. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <arpa/inet.h>
#include <unistd.h>

#include "server/commands.h"
#include "server/tls.h"

enum { TIMEOUT_S = 2, STATUS_LINE = 12 /* "HTTP/1.1 200" */ };

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd health [--port N] [--live]\nAsks the server on 127.0.0.1, port N (8002, the metrics port, which needs no key for this), whether it is ready; --live: whether it runs. Over TLS when the server speaks it.\n"
                "Exit status: 0 yes, 1 no, 2 wrong arguments.\n");
}

/* One question, one answer; -> the status code, or 0 with the cause in errno. */
static int ask(int port, const char *path, bool tls)
{
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    const struct timeval limit = { .tv_sec = TIMEOUT_S };
    char text[256];
    ssize_t have = -1, got = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int n = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    bool connected = !connect(fd, (struct sockaddr *)&to, sizeof to);
    if (connected && tls) have = tls_ask(fd, text, (size_t)n, text, STATUS_LINE);
    else if (connected && send(fd, text, (size_t)n, MSG_NOSIGNAL) == n)
        for (have = 0; have < STATUS_LINE && got > 0; have += got > 0 ? got : 0) got = recv(fd, text + have, (size_t)(STATUS_LINE - have), 0);
    int cause = connected && got >= 0 ? EPROTO : errno;
    close(fd);
    errno = cause;
    text[have < 0 ? 0 : have] = 0;
    return have == STATUS_LINE && !strncmp(text, "HTTP/1.1 ", 9) ? atoi(text + 9) : 0;
}

int command_health(int argc, char **argv)
{
    int port = 8002;
    const char *path = "/v2/health/ready";
    for (int i = 1; i < argc; i++) {
        char *end = "";
        if (!strcmp(argv[i], "--help")) return usage(stdout), 0;
        if (!strcmp(argv[i], "--live")) path = "/v2/health/live";
        else if (!strcmp(argv[i], "--port") && i + 1 < argc && (port = (int)strtol(argv[++i], &end, 10)) > 0 && port < 65536 && !*end) continue;
        else {
            fprintf(stderr, "inferd health: '%s' is not understood\n", argv[i]);
            return usage(stderr), 2;
        }
    }
    int code = ask(port, path, false);
    if (!code && errno != ECONNREFUSED && errno != EAGAIN) code = ask(port, path, true);      /* somebody is there who does not speak plain HTTP */
    if (code == 200) return 0;
    if (code) fprintf(stderr, "inferd health: 127.0.0.1:%d answers %s with %d\n", port, path, code);
    else fprintf(stderr, "inferd health: 127.0.0.1:%d does not answer: %s\n", port, strerror(errno));
    return 1;
}
