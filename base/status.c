#include "base/status.h"

#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct { int http, grpc; const char *name, *words; } table[ST_COUNT] = {
#define STATUS_ROW(n, h, g, w) [ST_##n] = { h, g, #n, w },
    STATUS_MAP(STATUS_ROW)
#undef STATUS_ROW
};

int         status_http(enum status s)  { return table[s < ST_COUNT ? s : ST_INTERNAL].http; }
int         status_grpc(enum status s)  { return table[s < ST_COUNT ? s : ST_INTERNAL].grpc; }
const char *status_words(enum status s) { return table[s < ST_COUNT ? s : ST_INTERNAL].words; }
const char *status_name(enum status s)  { return table[s < ST_COUNT ? s : ST_INTERNAL].name; }

enum status err_set_list(struct err *e, enum status s, const char *format, va_list list)
{
    if (!e) return s;
    char text[ERR_TEXT_MAX];      /* the arguments may point into e->text */
    vsnprintf(text, sizeof text, format, list);
    e->status = s;
    memcpy(e->text, text, sizeof text);
    return s;
}

enum status err_set(struct err *e, enum status s, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    err_set_list(e, s, format, list);
    va_end(list);
    return s;
}

enum status err_prefix(struct err *e, const char *format, ...)
{
    if (!e) return ST_INTERNAL;
    char where[ERR_TEXT_MAX], text[ERR_TEXT_MAX];
    va_list list;
    va_start(list, format);
    vsnprintf(where, sizeof where, format, list);
    va_end(list);
    memcpy(text, e->text, sizeof text);
    int n = snprintf(e->text, sizeof e->text, "%.200s: ", where);
    snprintf(e->text + n, sizeof e->text - (size_t)n, "%s", text);
    return e->status;
}
