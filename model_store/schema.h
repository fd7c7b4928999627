/* Messages as tables: for pbtxt.c, which reads their text form, and for the gRPC dialect (api/proto.h), which reads and writes them on the wire and tells
 * reflection about them. Here: Triton's ModelConfig and everything inside it, in the order in which its fields are declared there (that is the order
 * of the JSON form). schema_table.h says how a table is written. */
#ifndef MODEL_STORE_SCHEMA_H
#define MODEL_STORE_SCHEMA_H

#include <stdbool.h>
#include <string.h>

enum schema_type { SCHEMA_STRING, SCHEMA_BOOL, SCHEMA_INT32, SCHEMA_UINT32, SCHEMA_INT64, SCHEMA_UINT64, SCHEMA_FLOAT, SCHEMA_DOUBLE, SCHEMA_ENUM, SCHEMA_MESSAGE,
    SCHEMA_BYTES /* on the wire only: no text form has one */ };
enum schema_rule { SCHEMA_ONE, SCHEMA_REPEATED, SCHEMA_MAP /* keys are text */, SCHEMA_MAP_BY_NUMBER /* keys are uint64 */ };

struct schema_message;
struct schema_field {
    const char      *name;
    enum schema_type type;                  /* of a map: of its values */
    enum schema_rule rule;
    int              number;                /* on the wire */
    const char      *choice;                /* the oneof it belongs to: fields of one message with the same exclude each other; NULL: none */
    const struct schema_message *message;   /* SCHEMA_MESSAGE */
    const char      *enumeration;           /* SCHEMA_ENUM: its name as messages are named, and the names of its values by number, NULL behind the last */
    const char *const *names;
};

struct schema_message {
    const char *name;                       /* "ModelInput"; one within another: "ModelVersionPolicy.Latest" */
    const struct schema_field *fields;
    int         count;
    bool        bare;                       /* one value in all: in JSON it stands alone, without an object around it (gRPC's parameters and settings) */
};

static inline bool schema_excludes(const struct schema_field *a, const struct schema_field *b)
{
    return a->choice && b->choice && !strcmp(a->choice, b->choice);
}

extern const struct schema_message schema_model_config;

#endif
