/* JSON (RFC 8259), reader and writer, bounded (R6): no recursion, depth <= a limit, UTF-8 checked, lone surrogates refused, nothing
 * but one value and white space in the text. The document tree lives in an arena and points into the text where it can, so the
 * text must outlive it. Numbers keep their kind: an integer that fits int64 or uint64 is exact, everything else is a double. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_INT, JSON_UINT, JSON_REAL, JSON_STRING, JSON_ARRAY, JSON_OBJECT, JSON_RAW };

struct json {
    enum json_type type;
    const char    *key;        /* member name within an object (unescaped, NUL-terminated), else NULL */
    size_t         key_length;
    struct json   *next;       /* next element or member of the same parent */
    union {
        bool     boolean;
        int64_t  integer;                                        /* JSON_INT */
        uint64_t natural;                                        /* JSON_UINT: only for values above INT64_MAX */
        double   real;
        struct { const char *text; size_t length; } string;     /* unescaped, NUL-terminated; may hold NUL bytes inside */
        struct { struct json *first; size_t count; } list;      /* arrays and objects, in the text's order */
        struct { const char *text; size_t length; } raw;        /* JSON_RAW: an array left unread, brackets included (see json_options) */
    };
};

struct json_options {
    int         depth_max;          /* 0: 100 */
    const char *raw_key;            /* an array that is the member of this name is not turned into nodes but handed over as
                                       JSON_RAW: its brackets and strings were balanced and nesting checked, its numbers not yet
                                       (tensor data; read by api/). NULL: none. */
    bool        unique_keys;        /* a repeated key within one object is an error */
};

/* *out is the root. ST_BAD_INPUT names what was wrong and at which byte; ST_NO_MEMORY when the arena's budget is spent. */
enum status json_parse(struct json **out, struct arena *arena, const char *text, size_t length,
                       const struct json_options *options, struct err *err);

const struct json *json_get(const struct json *object, const char *key);        /* NULL if absent or not an object */
const struct json *json_get_value(const struct json *object, const char *key);  /* the same, and NULL for null */
bool json_is_string(const struct json *j, const char *text);                     /* false for NULL */
bool json_as_int64(const struct json *j, int64_t *out);                          /* integers only */
bool json_as_uint64(const struct json *j, uint64_t *out);
bool json_as_double(const struct json *j, double *out);                          /* any number */

/* Reads one number at `p` (before `end`) fast: up to 19 digits and exact powers of ten without strtod. Returns the byte after it, or
 * NULL when there is no JSON number. The kind is told as in struct json. For tensors of hundreds of thousands of numbers. */
const char *json_number(const char *p, const char *end, struct json *out);

/* Bytes of the UTF-8 sequence that begins at `text` (left > 0), 0 when it is none: no overlong form, no surrogate, nothing above U+10FFFF. */
size_t json_utf8_length(const char *text, size_t left);

/* Reads a run of plain numbers, each followed by a comma (and at most one space), into out[0..most): the fast part of a float tensor. Returns where it
 * stopped, which is the start of a number that json_number must judge, or of something else; *count says how many were read. Values are
 * those of json_number rounded to float. */
const char *json_floats(const char *p, const char *end, float *out, uint64_t most, uint64_t *count);

/* Writers append to a buf. Strings are escaped; invalid UTF-8 becomes U+FFFD. */
void json_write_string(struct buf *b, const char *text, size_t length);
void json_write_text(struct buf *b, const char *text);                           /* NUL-terminated */
/* Appends the bytes of base64 text (RFC 4648; the padding may be left out). False: it is none. */
bool json_read_base64(struct buf *out, const char *text, size_t length);
void json_write_base64(struct buf *b, const char *prefix, const void *bytes, size_t n);   /* a string: the prefix as it is, then the bytes in base64 (RFC 4648) */
void json_write_float(struct buf *b, float v);                                   /* shortest that reads back as the same float; NaN and inf: null */
void json_write_double(struct buf *b, double v);
void json_write(struct buf *b, const struct json *j);                            /* a whole tree, without recursion */

#endif
