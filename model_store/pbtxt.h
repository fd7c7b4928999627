/* Reading the protobuf text form of a message whose fields a table gives (schema.h), bounded in depth and size. The result is a tree of
 * struct json in the shape of protobuf's JSON form: messages and maps are objects, repeated fields arrays, enums their names, every number
 * an integer of its range or a double. */
#ifndef MODEL_STORE_PBTXT_H
#define MODEL_STORE_PBTXT_H

#include "base/json.h"
#include "model_store/schema.h"

/* Entries of one list or map. Nothing in a model's config needs more, and appending walks the list. */
enum { PBTXT_LIST_MAX = 1024 };

/* ST_BAD_INPUT: "<where> line 3: ModelInput has no field 'dim'". The tree lives in `arena`; the text may go. */
enum status pbtxt_parse(struct json **out, struct arena *arena, const struct schema_message *m, const char *text, size_t length, const char *where, struct err *err);

/* Checks a JSON object against the same table and makes the same tree of it: lowerCamelCase names, integers in quotes and enums by number
 * are accepted as protobuf does, null is left out. */
enum status pbtxt_from_json(struct json **out, struct arena *arena, const struct schema_message *m, const struct json *j, const char *where, struct err *err);

/* Writes the tree as JSON with the table's names, in its order. Scalars, lists and maps that were not given are written with their default;
 * messages and choices that were not given are left out. */
void pbtxt_write_json(struct buf *out, const struct schema_message *m, const struct json *tree);

/* Appends a member to an object (an element to an array when key is NULL). NULL when the arena is spent. */
struct json *pbtxt_add(struct arena *arena, struct json *parent, const char *key, enum json_type type);

#endif
