/* Chat templates: the part of Jinja that they use, interpreted under limits (R15). Rendering follows the environment in which published templates are
 * written: immutable sandbox, trim_blocks, lstrip_blocks, break and continue, `tojson` without HTML escapes, raise_exception and strftime_now.
 * There is nothing but data to reach: no attributes of anything else, no include, import or extends.
 *
 * Input marking: of every byte of the answer it is known whether it was written in the template itself. Only in those stretches may a tokenizer see
 * control tokens (tokenizer_encode_spans); what came from messages is text. */
#ifndef ENGINE_TEXT_TEMPLATE_H
#define ENGINE_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "engine/text/tokenizer.h"

struct template;

/* ST_BAD_INPUT tells what does not parse and in which line; ST_UNSUPPORTED names a statement that is not taken. The text is copied. */
enum status template_open(struct template **out, const char *text, size_t length, struct err *err);
void        template_close(struct template *t);
const char *template_text(const struct template *t, size_t *length);      /* as it was given, with newlines for every kind of line end */

struct template_limits {
    uint64_t           steps;        /* 0: 1,000,000 */
    uint64_t           output;       /* bytes; 0: 4 MiB */
    uint64_t           memory;       /* bytes that values may take; 0: 64 MiB */
    int64_t            now;          /* seconds since 1970 for strftime_now, shown in local time; 0: the clock's */
    const char *const *trusted;      /* names of top-level text variables that count as written by the template (bos_token, eos_token), NULL-terminated; or NULL */
};

struct template_output {             /* starts zeroed; template_output_free */
    struct buf         text;         /* UTF-8 */
    struct token_span *spans;        /* the stretches that the template wrote itself, ascending, not touching */
    size_t             span_count;
};
void template_output_free(struct template_output *o);

/* Renders with the members of `variables` (a JSON object) as variables. A template may be rendered by many threads at once. ST_BAD_INPUT: the template
 * raised (err has its words) or met an error; ST_TOO_LARGE: a limit. On failure *out is empty. */
enum status template_render(const struct template *t, const struct json *variables, const struct template_limits *limits, struct template_output *out, struct err *err);

#endif
