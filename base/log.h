/* Structured log: one JSON object a line on one file descriptor (R28). Every text is escaped (control bytes, quotes, U+2028/9, invalid
 * UTF-8) and cut at 256 bytes, so nobody outside can forge a record. Thread-safe; a line is one write(2). */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_VERBOSE };

struct log;

/* `fd` is borrowed and must outlive the log. NULL when out of memory. */
struct log *log_open(int fd);
void        log_close(struct log *l);

/* Switches one level on or off at run time (/v2/logging). At start: error, warning, info on; verbose off. */
void log_enable(struct log *l, enum log_level level, bool on);
bool log_enabled(const struct log *l, enum log_level level);

/* {"time":...,"level":"info","event":event,"message":...}. `l` may be NULL: then nothing is written. */
void log_write(struct log *l, enum log_level level, const char *event, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* A record with fields of its own (the access log): begin, add, end. It lives on the caller's stack and allocates nothing; what does
 * not fit into 4 KiB is left out and the record says "cut":true. */
struct log_line { struct log *log; size_t length; bool cut; char text[4096]; };
void log_line_begin(struct log_line *r, struct log *l, const char *event);
void log_line_text(struct log_line *r, const char *key, const char *value, size_t length);   /* at most 256 bytes of value */
void log_line_int(struct log_line *r, const char *key, int64_t value);
void log_line_end(struct log_line *r);

#endif
