/* The fields of Triton's ModelConfig and of everything inside it, in the order in which they are declared there (that is the order of the
 * JSON form), as tables for pbtxt.c. */
#ifndef MODEL_STORE_SCHEMA_H
#define MODEL_STORE_SCHEMA_H

#include <stdbool.h>

enum schema_type { SCHEMA_STRING, SCHEMA_BOOL, SCHEMA_INT32, SCHEMA_UINT32, SCHEMA_INT64, SCHEMA_UINT64, SCHEMA_FLOAT, SCHEMA_DOUBLE, SCHEMA_ENUM, SCHEMA_MESSAGE };
enum schema_rule { SCHEMA_ONE, SCHEMA_REPEATED, SCHEMA_MAP /* keys are text */, SCHEMA_MAP_BY_NUMBER /* keys are uint64 */ };

struct schema_message;
struct schema_field {
    const char      *name;
    enum schema_type type;                  /* of a map: of its values */
    enum schema_rule rule;
    int              choice;                /* fields of one message with the same number above 0 exclude each other */
    const struct schema_message *message;   /* SCHEMA_MESSAGE */
    const char *const *names;               /* SCHEMA_ENUM: by number, NULL behind the last */
};

struct schema_message {
    const char *name;
    const struct schema_field *fields;
    int         count;
};

extern const struct schema_message schema_model_config;

#endif
