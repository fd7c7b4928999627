/* Untrusted model files are first parsed in a child (R34). inspector_start forks once, early, before any thread, OpenMP, CUDA or gRPC exists:
 * a small single-threaded process that, for each file descriptor it is handed over a socket pair, forks a child with RLIMIT_AS,
 * RLIMIT_CPU and a seccomp filter (no sockets, no exec, no new files), which runs `inspect` on the mapped file and answers with a status and a sentence. */
#ifndef MODEL_STORE_INSPECTOR_H
#define MODEL_STORE_INSPECTOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct inspector;
/* `inspect` is the check that runs in the child: parse only, no side effects. `kind` is the engine's name. */
enum status inspector_start(struct inspector **out,
                            enum status (*inspect)(const char *kind, const uint8_t *data, uint64_t size, struct err *err), struct err *err);
/* Thread-safe (one check at a time). A child that crashes, hangs past its CPU limit or breaks a rule is ST_BAD_INPUT: "the file crashed its parser". */
enum status inspector_check(struct inspector *i, const char *kind, int fd, struct err *err);
void        inspector_stop(struct inspector *i);

#endif
