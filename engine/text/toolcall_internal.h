/* Between toolcall.c (where a call begins and ends) and toolcall_parse.c (what it says). */
#ifndef ENGINE_TEXT_TOOLCALL_INTERNAL_H
#define ENGINE_TEXT_TOOLCALL_INTERNAL_H

#include "engine/text/toolcall.h"

enum toolcall_shape {
    SHAPE_JSON,          /* {"name", "arguments" | "parameters"} or a list of them */
    SHAPE_TAGGED,        /* that, or <function=N><parameter=K>V</parameter></function>, or N<arg_key>K</arg_key><arg_value>V</arg_value> */
    SHAPE_SEPARATED,     /* [type SEPARATOR] name SEPARATOR {arguments}; or a list as SHAPE_JSON */
    SHAPE_INVOKE,        /* name"> and parameters */
    SHAPE_BRACES,        /* call:name{key:value,...}, strings between <|"|> */
    SHAPE_PYTHON,        /* [name(key=value, ...), ...] */
};

struct toolcall_form {
    const char *needle;                     /* in the template's text */
    enum toolcall_shape shape;
    const char *section_open, *section_close;        /* around all calls, or NULL */
    const char *open, *close;               /* around each; close NULL: it ends with its JSON; open "": the answer begins with { */
    const char *separator;                  /* SHAPE_SEPARATED; NULL otherwise */
    const char *parameter, *parameter_end;  /* SHAPE_INVOKE */
    const char *drop[2];                    /* other marks that leave no text */
};

/* The marks around a thought; NULL for NULL. */
const char *toolcall_thought_open(const struct toolcall_thought *t);
const char *toolcall_thought_close(const struct toolcall_thought *t);

struct span { const char *p, *end; };

/* Adds the calls of a body (between open and close) to r. False, with nothing added: it is none. */
bool toolcall_parse(struct toolcall_reader *r, struct span body);

/* One value as models write it when not in JSON: JSON, Python's literals, or keys without quotes and strings between <|"|>; written to *out as JSON.
 * Moves *s behind it. False: no such value (then *out may hold a part). */
bool toolcall_read_value(struct span *s, struct buf *out);

#endif
