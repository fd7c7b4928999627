/* Between the parts of the schema compiler. A place in a document is described by a list of schemas that all apply; schema_expand turns it into alternatives
 * without combinators (allOf, anyOf, oneOf, not, if, $ref, dependencies), each merged into a shape, of which schema_emit writes the rules. */
#ifndef ENGINE_TEXT_SCHEMA_INTERNAL_H
#define ENGINE_TEXT_SCHEMA_INTERNAL_H

#include "base/json.h"
#include "engine/text/grammar_internal.h"

enum { SCHEMA_LIST_MAX = 64, SCHEMA_ALTERNATIVES_MAX = 128, SCHEMA_STEPS_MAX = 20000, SCHEMA_DEPTH_MAX = 16, SCHEMA_PATTERNS_MAX = 5, SCHEMA_LENGTHS_MAX = 64, SCHEMA_UNIQUE_MAX = 10 };

enum schema_type { TYPE_NULL = 1, TYPE_BOOL = 2, TYPE_INTEGER = 4, TYPE_FRACTION = 8 /* a number that is no integer */, TYPE_STRING = 16, TYPE_ARRAY = 32, TYPE_OBJECT = 64, TYPE_ALL = 127 };

struct schema_list { const struct json *at[SCHEMA_LIST_MAX]; uint32_t count; };
struct schema_alternatives { struct schema_list *at; uint32_t count; };

struct schema_place { const struct json *node; uint32_t parent; uint32_t index; };       /* a value of the document, for messages */
struct schema_memo { struct schema_list list; int32_t rule; uint64_t hash; };

struct schema {
    struct net          net;
    struct json_parts   parts;
    const struct json  *root;
    bool                draft7, nested_ids;
    struct schema_place *places;   uint32_t place_count;
    const struct json *(*origins)[2];  uint32_t origin_count, origin_room;      /* a schema that was made here, and what of the document it came from */
    struct schema_memo *memos;     uint32_t memo_count, memo_room;              /* those from `todo` on have no rules written yet */
    uint32_t            todo;
    struct { int64_t least, most; int32_t rule; } lengths[SCHEMA_LENGTHS_MAX];
    uint32_t            length_count;
    uint64_t            steps;
    struct err         *err;
};

struct decimal { bool set, negative, exclusive; int whole, fraction; char digits[48]; };      /* digits: whole ones, then fraction ones; no zeros to spare */

struct shape {
    unsigned            types;
    unsigned            bools;           /* 1: false, 2: true */
    const struct schema_list *list;      /* what it was merged from */
    const struct json  *allowed;         /* an enum's array or a const (allowed_const), NULL: none */
    bool                allowed_const;
    struct decimal      low, high;
    int64_t             length_min, length_max, items_min, items_max, members_min, members_max;      /* max -1: none */
    bool                multiples, patterns, unique;     /* some schema of the list says so */
    const struct json  *contains;        /* the schema that has it */
    const struct json  *names;           /* some schema that has propertyNames */
};

enum status schema_refuse(const struct schema *s, const struct json *at, const char *keyword, const char *why);
enum status schema_no_memory(const struct schema *s);

/* schema_make.c: schemas made from others; NULL without memory. They use three keywords of their own, "not type", "not pattern" and "not const", which a document may not use. */
struct json *schema_make(struct schema *s, const struct json *origin);                          /* {} */
struct json *schema_make_member(struct schema *s, struct json *object, const char *key, const struct json *value);      /* a shallow copy of value under the key */
struct json *schema_make_list(struct schema *s);
bool         schema_is_made(const struct schema *s, const struct json *schema);      /* here, not in the document */
struct json *schema_make_text(struct schema *s, const char *text);
struct json *schema_make_bool(struct schema *s, bool v);
/* What holds exactly where the schema does not. ST_BAD_INPUT: cannot be told. */
enum status  schema_negate(struct schema *s, const struct json *schema, const struct json **out);

/* schema.c */
/* What every schema object is asked before it is used: keywords of the right type, and none that must be left unenforced. */
enum status schema_check_keywords(const struct schema *s, const struct json *schema);
enum status schema_expand(struct schema *s, const struct schema_list *list, int depth, struct schema_alternatives *out);
bool        schema_list_add(struct schema_list *l, const struct json *schema);                  /* false: full. True and {} are left out */
/* The document that the following lists are from; several may be written one after another into one network. */
enum status schema_set_root(struct schema *s, const struct json *root);
enum status schema_write(struct schema *s);                                                      /* the rules that schema_rule has numbered */
int32_t     schema_rule(struct schema *s, const struct schema_list *list);                      /* written later; the free value for an empty list */

/* schema_shape.c */
enum status schema_merge(struct schema *s, const struct schema_list *list, struct shape *out);   /* types 0: nothing satisfies it */
enum status schema_member_list(struct schema *s, const struct schema_list *list, const char *key, size_t length, struct schema_list *out);     /* what a member's value must satisfy */
enum status schema_item_list(struct schema *s, const struct schema_list *list, uint64_t index, struct schema_list *out);
enum status schema_check(struct schema *s, const struct json *value, const struct schema_list *list, int depth, bool *ok);
/* May anything satisfy all of the list? False only when it is sure that nothing does. */
enum status schema_possible(struct schema *s, const struct schema_list *list, int depth, bool *possible);
bool        schema_requires(const struct schema_list *list, const char *key, size_t length);
bool        schema_equal(const struct json *a, const struct json *b);
const struct json *schema_prefix(const struct json *schema, const struct json **rest);          /* the array of leading items; what holds behind it */

/* schema_string.c, schema_number.c, schema_emit.c */
enum status schema_string_dfa(struct schema *s, const struct shape *shape, struct dfa **out);    /* of the decoded text; NULL in *out: nothing but lengths */
enum status schema_any_text(struct schema *s, int64_t least, int64_t most, struct dfa **out);
enum status schema_string_list_dfa(struct schema *s, const struct schema_list *list, struct dfa **out);      /* all strings that satisfy the list */
bool        schema_decimal(const struct json *number, struct decimal *out);                      /* false: too long */
int         schema_decimal_compare(const struct decimal *a, const struct decimal *b);
enum status schema_number(struct schema *s, const struct shape *shape, uint32_t from, uint32_t to);
enum status schema_number_check(struct schema *s, const struct shape *shape, const struct json *value, bool *ok);
enum status schema_emit(struct schema *s, const struct shape *shape, uint32_t from, uint32_t to);
enum status schema_object(struct schema *s, const struct shape *shape, uint32_t from, uint32_t to);

#endif
