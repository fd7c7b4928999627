/* The first line of the input is the Content-Type, the rest the body of a form. Every part must lie inside the body. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/multipart.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct form_part parts[FORM_PARTS_MAX];
    struct err err;
    int count;
    char content_type[256];
    const uint8_t *line = memchr(data, '\n', size);
    if (!line || line - data >= (ptrdiff_t)sizeof content_type) return 0;
    memcpy(content_type, data, (size_t)(line - data));
    content_type[line - data] = 0;
    const size_t length = size - (size_t)(line - data) - 1;
    char *body = malloc(length ? length : 1);      /* of its own, so that a read beyond it is seen */
    if (!body) return 0;
    memcpy(body, line + 1, length);
    if (!multipart_parse(parts, &count, content_type, body, length, &err)) {
        for (int i = 0; i < count; i++) {
            if (parts[i].data < body || parts[i].length > length || parts[i].data + parts[i].length > body + length) abort();
            if (parts[i].name < body || parts[i].name + parts[i].name_length > body + length) abort();
        }
        (void)multipart_find(parts, count, "image");
    }
    free(body);
    return 0;
}
