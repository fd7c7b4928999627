/* multipart/form-data (RFC 7578, RFC 2046), as clients post forms with files. Pure; the parts point into the body. */
#ifndef API_MULTIPART_H
#define API_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

enum { FORM_PARTS_MAX = 64, FORM_BOUNDARY_MAX = 70, FORM_HEADERS_MAX = 4096 };

struct form_part {
    const char *name; size_t name_length;
    bool        file;                      /* it came with a file name */
    const char *data; size_t length;
};

/* content_type: the header's value, NULL when there was none. Fills at most FORM_PARTS_MAX parts. ST_BAD_MEDIA: it is no multipart/form-data; ST_BAD_INPUT: the body does not
 * hold to it; ST_TOO_LARGE: more parts. */
enum status multipart_parse(struct form_part *parts, int *count, const char *content_type, const char *body, size_t length, struct err *err);
/* The first part of this name, or NULL. */
const struct form_part *multipart_find(const struct form_part *parts, int count, const char *name);

#endif
