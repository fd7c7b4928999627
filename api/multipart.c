#include "api/multipart.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* The value of `key=` among the parameters of a header's value: quoted or a token. Escapes in a quoted value stay as they are. */
static bool parameter(const char *value, size_t length, const char *key, const char **out, size_t *out_length)
{
    const char *end = value + length, *p = memchr(value, ';', length);
    const size_t n = strlen(key);
    while (p && p < end) {
        p++;
        while (p < end && (*p == ' ' || *p == '\t')) p++;
        const bool is_it = (size_t)(end - p) > n && !strncasecmp(p, key, n) && p[n] == '=';
        const char *v = memchr(p, '=', (size_t)(end - p)), *after;
        if (!v) return false;
        if (++v < end && *v == '"') {
            for (after = ++v; after < end && *after != '"'; after++)
                if (*after == '\\' && after + 1 < end) after++;
            if (after >= end) return false;
        } else {
            for (after = v; after < end && *after != ';' && *after != ' ' && *after != '\t'; after++) {}
        }
        if (is_it) {
            *out = v;
            *out_length = (size_t)(after - v);
            return true;
        }
        p = memchr(after, ';', (size_t)(end - after));
    }
    return false;
}

/* The part's headers, up to the empty line: name and file name. */
static enum status read_headers(struct form_part *part, const char *p, const char *end, struct err *err)
{
    bool named = false;
    while (p < end) {
        const char *line_end = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!line_end) line_end = end;
        static const char disposition[] = "content-disposition:";
        const size_t n = sizeof disposition - 1;
        if ((size_t)(line_end - p) > n && !strncasecmp(p, disposition, n)) {
            const char *file;
            size_t file_length;
            named = parameter(p + n, (size_t)(line_end - p) - n, "name", &part->name, &part->name_length);
            part->file = parameter(p + n, (size_t)(line_end - p) - n, "filename", &file, &file_length);
        }
        p = line_end + 2;
    }
    return named ? ST_OK : err_set(err, ST_BAD_INPUT, "a part of the form has no Content-Disposition with a name");
}

enum status multipart_parse(struct form_part *parts, int *count, const char *content_type, const char *body, size_t length, struct err *err)
{
    static const char form[] = "multipart/form-data";
    const char *boundary, *end = body + length;
    size_t boundary_length;
    char mark[FORM_BOUNDARY_MAX + 5];
    *count = 0;
    if (!content_type || strncasecmp(content_type, form, sizeof form - 1)) return err_set(err, ST_BAD_MEDIA, "the request's body must be multipart/form-data");
    if (!parameter(content_type, strlen(content_type), "boundary", &boundary, &boundary_length) || boundary_length < 1 || boundary_length > FORM_BOUNDARY_MAX)
        return err_set(err, ST_BAD_INPUT, "Content-Type of a form names its boundary, of 1 to %d bytes", FORM_BOUNDARY_MAX);
    const size_t mark_length = (size_t)snprintf(mark, sizeof mark, "\r\n--%.*s", (int)boundary_length, boundary);
    /* The first mark may stand at the very beginning; what stands before it is not ours. */
    const char *p = length >= mark_length - 2 && !memcmp(body, mark + 2, mark_length - 2) ? body + mark_length - 2 : memmem(body, length, mark, mark_length);
    if (!p) return err_set(err, ST_BAD_INPUT, "the form's boundary does not occur in the body");
    if (p != body + mark_length - 2) p += mark_length;
    for (;;) {
        if (end - p >= 2 && p[0] == '-' && p[1] == '-') return ST_OK;
        while (p < end && (*p == ' ' || *p == '\t')) p++;
        if (end - p < 2 || p[0] != '\r' || p[1] != '\n') return err_set(err, ST_BAD_INPUT, "the form ends without its last boundary");
        p += 2;
        if (*count == FORM_PARTS_MAX) return err_set(err, ST_TOO_LARGE, "a form may have %d parts", FORM_PARTS_MAX);
        const size_t left = (size_t)(end - p);
        const char *empty = memmem(p, left < FORM_HEADERS_MAX ? left : FORM_HEADERS_MAX, "\r\n\r\n", 4);
        if (!empty) return err_set(err, ST_BAD_INPUT, "part %d of the form: its headers do not end within %d bytes", *count + 1, FORM_HEADERS_MAX);
        struct form_part *part = &parts[(*count)++];
        *part = (struct form_part){ .data = empty + 4 };
        enum status st = read_headers(part, p, empty, err);
        if (st) return st;
        const char *next = memmem(empty + 2, (size_t)(end - empty) - 2, mark, mark_length);      /* empty data: the mark's line end is that of the headers */
        if (!next) return err_set(err, ST_BAD_INPUT, "the form ends without its last boundary");
        part->length = next > part->data ? (size_t)(next - part->data) : 0;
        p = next + mark_length;
    }
}

const struct form_part *multipart_find(const struct form_part *parts, int count, const char *name)
{
    const size_t n = strlen(name);
    for (int i = 0; i < count; i++)
        if (parts[i].name_length == n && !memcmp(parts[i].name, name, n)) return &parts[i];
    return NULL;
}
