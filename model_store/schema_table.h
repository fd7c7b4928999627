/* How a table of schema.h is written: one line a field, in the order of the JSON form, with the number it has on the wire. */
#ifndef MODEL_STORE_SCHEMA_TABLE_H
#define MODEL_STORE_SCHEMA_TABLE_H

#include <stddef.h>

#include "model_store/schema.h"

#define ONE(no, n, t)                   { .name = n, .number = no, .type = SCHEMA_##t }
#define MANY(no, n, t)                  { .name = n, .number = no, .type = SCHEMA_##t, .rule = SCHEMA_REPEATED }
#define CHOICE(no, of, n, t)            { .name = n, .number = no, .type = SCHEMA_##t, .choice = of }
#define NAMED(no, n, e)                 { .name = n, .number = no, .type = SCHEMA_ENUM, .enumeration = e##_title, .names = e }
#define HAS(no, n, m)                   { .name = n, .number = no, .type = SCHEMA_MESSAGE, .message = &m }
#define HAS_MANY(no, n, m)              { .name = n, .number = no, .type = SCHEMA_MESSAGE, .rule = SCHEMA_REPEATED, .message = &m }
#define HAS_CHOICE(no, of, n, m)        { .name = n, .number = no, .type = SCHEMA_MESSAGE, .choice = of, .message = &m }
#define MAP_TEXT(no, n)                 { .name = n, .number = no, .type = SCHEMA_STRING, .rule = SCHEMA_MAP }
#define MAP(no, n, m)                   { .name = n, .number = no, .type = SCHEMA_MESSAGE, .rule = SCHEMA_MAP, .message = &m }
#define MAP_BY_NUMBER(no, n, m)         { .name = n, .number = no, .type = SCHEMA_MESSAGE, .rule = SCHEMA_MAP_BY_NUMBER, .message = &m }
#define ENUM(id, title, ...)                                                         \
    static const char id##_title[] = title;                                          \
    static const char *const id[] = { __VA_ARGS__, NULL }
#define MESSAGE(id, title, ...)                                                      \
    static const struct schema_field id##_fields[] = { __VA_ARGS__ };                \
    static const struct schema_message id = { .name = title, .fields = id##_fields, .count = sizeof id##_fields / sizeof *id##_fields }

#endif
