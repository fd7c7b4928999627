#include "base/log.h"

#include "base/clock.h"
#include "base/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VALUE_MAX = 256, TAIL = 24 /* room kept for "cut" and the end */ };

struct log { int fd; atomic_bool on[LOG_VERBOSE + 1]; };

struct log *log_open(int fd)
{
    struct log *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->fd = fd;
    for (int i = 0; i <= LOG_VERBOSE; i++) atomic_init(&l->on[i], i != LOG_VERBOSE);
    return l;
}

void log_close(struct log *l) { free(l); }
void log_enable(struct log *l, enum log_level level, bool on) { atomic_store(&l->on[level], on); }
bool log_enabled(const struct log *l, enum log_level level) { return l && atomic_load_explicit(&((struct log *)l)->on[level], memory_order_relaxed); }

static bool put(struct log_line *r, const char *bytes, size_t n)
{
    if (r->length + n > sizeof r->text - TAIL) return !(r->cut = true);
    memcpy(r->text + r->length, bytes, n);
    r->length += n;
    return true;
}

static void put_escaped(struct log_line *r, const char *text, size_t length)
{
    if (length > VALUE_MAX) length = VALUE_MAX;
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < length;) {
        size_t n = json_utf8_length(text + i, length - i);
        char escape[8];
        if (n == 1 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f) {
            size_t run = 1;
            while (i + run < length && p[i + run] >= 0x20 && p[i + run] < 0x7f && p[i + run] != '"' && p[i + run] != '\\') run++;
            if (!put(r, text + i, run)) return;
            i += run;
            continue;
        }
        if (n == 3 && p[i] == 0xe2 && p[i + 1] == 0x80 && (p[i + 2] == 0xa8 || p[i + 2] == 0xa9))
            snprintf(escape, sizeof escape, "\\u202%d", p[i + 2] - 0xa0);
        else if (n > 1) {
            if (!put(r, text + i, n)) return;
            i += n;
            continue;
        } else
            snprintf(escape, sizeof escape, "\\u%04x", n ? p[i] : 0xfffd);
        if (!put(r, escape, strlen(escape))) return;
        i += n ? n : 1;
    }
}

static void begin(struct log_line *r, struct log *l, enum log_level level, const char *event)
{
    static const char *const names[] = { "error", "warning", "info", "verbose" };
    char time[25];
    r->log = l;
    r->length = 0;
    r->cut = false;
    clock_iso8601(clock_wall_ms(), time);
    put(r, "{\"time\":\"", 9);
    put(r, time, 24);
    put(r, "\",\"level\":\"", 11);
    put(r, names[level], strlen(names[level]));
    put(r, "\",\"event\":\"", 11);
    put(r, event, strlen(event));
    put(r, "\"", 1);
}

void log_line_begin(struct log_line *r, struct log *l, const char *event) { begin(r, l, LOG_INFO, event); }

static bool put_key(struct log_line *r, const char *key)
{
    size_t n = strlen(key);
    if (r->length + n + 8 > sizeof r->text - TAIL) return !(r->cut = true);
    return put(r, ",\"", 2) && put(r, key, n) && put(r, "\":", 2);
}

void log_line_text(struct log_line *r, const char *key, const char *value, size_t length)
{
    size_t before = r->length;
    if (!put_key(r, key) || !put(r, "\"", 1)) return;
    put_escaped(r, value, length);
    if (!put(r, "\"", 1)) r->length = before;
}

void log_line_int(struct log_line *r, const char *key, int64_t value)
{
    char digits[24];
    int at = 24;
    uint64_t v = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    if (!put_key(r, key)) return;
    do digits[--at] = (char)('0' + v % 10); while (v /= 10);
    if (value < 0) digits[--at] = '-';
    put(r, digits + at, (size_t)(24 - at));
}

void log_line_end(struct log_line *r)
{
    if (!r->log) return;
    if (r->cut) {
        memcpy(r->text + r->length, ",\"cut\":true", 11);
        r->length += 11;
    }
    memcpy(r->text + r->length, "}\n", 2);
    r->length += 2;
    for (size_t at = 0; at < r->length;) {
        ssize_t n = write(r->log->fd, r->text + at, r->length - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;      /* a full disk or a closed pipe must not stop the server */
        at += (size_t)n;
    }
}

void log_write(struct log *l, enum log_level level, const char *event, const char *format, ...)
{
    if (!log_enabled(l, level)) return;
    char text[3072];      /* our own sentences are short; the effective configuration is the longest */
    va_list list;
    va_start(list, format);
    int n = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    struct log_line r;
    begin(&r, l, level, event);
    /* our own sentence may be longer than one value: the 256-byte cut is for what others wrote */
    if (put_key(&r, "message") && put(&r, "\"", 1)) {
        size_t length = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
        for (size_t at = 0, piece; at < length; at += piece) {
            piece = length - at < VALUE_MAX ? length - at : VALUE_MAX;
            while (piece > 1 && at + piece < length && ((unsigned char)text[at + piece] & 0xc0) == 0x80) piece--;      /* between two characters */
            put_escaped(&r, text + at, piece);
        }
        r.text[r.length++] = '"';      /* within the tail's room: a cut message is closed as well */
    }
    log_line_end(&r);
}
