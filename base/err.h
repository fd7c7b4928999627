/* The sentence of a failure, made at the line where it happened. Fixed size, so that running out of memory can be told as well. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

#include "base/status.h"

enum { ERR_TEXT_MAX = 480 };

struct err {
    enum status status;
    char        text[ERR_TEXT_MAX];   /* UTF-8, no newline; "" when status is ST_OK */
};

/* Fills *e (which may be NULL) and returns `s`, so that a caller writes `return err_set(err, ST_BAD_INPUT, "...", ...)`.
 * The text may quote *e itself: err_set(e, s, "model '%s': %s", name, e->text) works. */
enum status err_set(struct err *e, enum status s, const char *format, ...) __attribute__((format(printf, 3, 4)));

enum status err_set_list(struct err *e, enum status s, const char *format, va_list list) __attribute__((format(printf, 3, 0)));

/* Puts "where: " before the text that is already in *e and returns its status unchanged. */
enum status err_prefix(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
