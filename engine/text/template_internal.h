/* Tokens, nodes and values of the template interpreter. A template is parsed once into a flat array of nodes that name each other by index (-1: none; lists
 * are chained by `next`). A rendering keeps all its values in one arena. */
#ifndef ENGINE_TEXT_TEMPLATE_INTERNAL_H
#define ENGINE_TEXT_TEMPLATE_INTERNAL_H

#include "base/arena.h"
#include "engine/text/template.h"

enum { TEMPLATE_BYTES_MAX = 1 << 20, TEMPLATE_DEPTH_MAX = 64, TEMPLATE_FRAMES_MAX = 800, TEMPLATE_RANGE_MAX = 100000, TEMPLATE_ARGS_MAX = 16 };

enum token_type { TK_DATA, TK_OPEN_BLOCK, TK_CLOSE_BLOCK, TK_OPEN_VALUE, TK_CLOSE_VALUE, TK_NAME, TK_TEXT, TK_INT, TK_REAL, TK_OPERATOR, TK_END };
struct lexeme { enum token_type type; const char *text; uint32_t length; int line; int64_t integer; double real; };     /* TK_OPERATOR: text of one or two bytes */
/* Lexes the whole template into the arena. */
enum status template_lex(struct arena *arena, const char *text, size_t length, struct lexeme **out, size_t *count, struct err *err);

enum node_kind {
    N_DATA, N_OUTPUT, N_IF, N_FOR, N_SET, N_SET_BLOCK, N_MACRO, N_PARAMETER, N_BREAK, N_CONTINUE, N_WITH, N_FILTER_BLOCK, N_BLOCK,
    N_NAME, N_TEXT, N_INT, N_REAL, N_TRUE, N_FALSE, N_NONE, N_LIST, N_TUPLE, N_DICT, N_PAIR, N_ATTRIBUTE, N_ITEM, N_SLICE, N_CALL, N_ARGUMENT, N_FILTER, N_TEST,
    N_NOT, N_NEGATE, N_PLUS, N_AND, N_OR, N_BINARY, N_CONCAT, N_COMPARE, N_OPERAND, N_CONDITION, N_CAPTURED,
};
enum { OP_ADD = '+', OP_SUBTRACT = '-', OP_MULTIPLY = '*', OP_DIVIDE = '/', OP_FLOOR = 'f', OP_MODULO = '%', OP_POWER = 'p', OP_EQUAL = '=', OP_NOT_EQUAL = '!', OP_LESS = '<', OP_LESS_EQUAL = 'l', OP_GREATER = '>', OP_GREATER_EQUAL = 'g', OP_IN = 'i', OP_NOT_IN = 'n' };

/* What a, b, c, d mean is said where template_parse.c makes the node. */
struct node { uint8_t kind, op; int32_t a, b, c, d, next; int line; uint32_t length; const char *text; int64_t integer; double real; };

struct template { struct node *nodes; int32_t count, capacity; int32_t body; struct arena arena; const char *text; size_t length; };
enum status template_parse(struct template *t, const struct lexeme *tokens, size_t count, struct err *err);

enum value_kind { V_UNDEFINED, V_NONE, V_BOOL, V_INT, V_REAL, V_TEXT, V_LIST, V_DICT, V_NAMESPACE, V_MACRO, V_FUNCTION, V_METHOD, V_LOOP };
enum origin { FROM_DATA = 0, FROM_TEMPLATE = 1, FROM_BOTH = 2 };
struct text {
    const char    *bytes;
    const uint8_t *marks;                  /* one origin for each byte, FROM_BOTH only */
    size_t         length;
    enum origin    origin;
    bool           safe;                   /* HTML by the filters `safe` and `e`: plain text that is added to it by + is escaped, as the reference does */
};
struct value {
    enum value_kind kind;
    bool            tuple;                 /* V_LIST: printed with round brackets */
    bool            lazy;                  /* V_LIST: what the reference makes as a generator or a view: can be gone through, but not indexed or written as JSON */
    bool            sized;                 /* lazy: has a length all the same (a dictionary's view) */
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct text *text;
        struct list { struct value *items; size_t count; } *list;
        struct dict *dict;                 /* V_DICT, V_NAMESPACE */
        struct macro { const struct node *node; struct scope *scope; } *macro;
        struct method { struct value *self; const char *name; size_t length; } *method;
        struct loop *loop;
        struct { const char *name; size_t length; } name;                                                     /* V_UNDEFINED, V_FUNCTION */
    };
};
struct dict { struct pair { struct value key, value; } *pairs; size_t count, capacity; };
struct loop { struct value *items; size_t index, count; int depth; struct value last_changed; };
struct scope { struct scope *parent; struct variable { const char *name; size_t length; struct value value; struct variable *next; } *first; };
struct arguments { struct value values[TEMPLATE_ARGS_MAX]; int count; struct { const char *name; size_t length; struct value value; } named[TEMPLATE_ARGS_MAX]; int named_count; };
struct marked { struct buf bytes, marks; };

struct run {
    const struct template *t;
    struct arena  arena;
    struct err   *err;
    uint64_t      steps;
    int           frames, calls, loops;
    struct scope *scope;
    struct marked *out;
    uint64_t      output_max;
    int64_t       now;
    int           leaving;                 /* 0; 1: break; 2: continue */
    int           line;
    struct value  captured;
};

/* Every function below that returns bool returns false after it has filled run->err. */
bool run_fail(struct run *r, enum status s, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool run_spend(struct run *r, uint64_t steps);

/* ---- values (template_value.c) ---- */
void  marked_init(struct marked *w, uint64_t limit);
void  marked_free(struct marked *w);
void  marked_put(struct marked *w, const char *bytes, size_t n, enum origin origin);
void  marked_text(struct marked *w, const struct text *t, size_t from, size_t n);
bool  marked_value(struct run *r, struct marked *w, const struct value *v);                 /* as {{ }} prints it */
bool  marked_repr(struct run *r, struct marked *w, const struct value *v, int depth);       /* as Python's repr */
bool  marked_finish(struct run *r, struct marked *w, struct value *out);                    /* frees the writer */
bool  text_make(struct run *r, struct value *out, const char *bytes, size_t n, enum origin origin);      /* borrows bytes */
bool  text_part(struct run *r, struct value *out, const struct text *t, size_t from, size_t n);
bool  text_of(struct run *r, struct value *out, const struct value *v);                     /* str(v) */
bool  text_escape(struct run *r, struct value *out, const struct value *v);                 /* str(v) as HTML; marked safe */
bool  list_make(struct run *r, struct value *out, size_t count, bool tuple);                /* items not set */
bool  dict_make(struct run *r, struct value *out, size_t capacity);
bool  dict_set(struct run *r, struct dict *d, const struct value *key, const struct value *v);
const struct value *dict_get(const struct dict *d, const char *key, size_t length);
const struct value *dict_find(const struct dict *d, const struct value *key);
bool  value_true(const struct value *v);
bool  value_equal(const struct value *a, const struct value *b, int depth);
bool  value_compare(struct run *r, const struct value *a, const struct value *b, int *out);
bool  value_number(const struct value *v, double *out);                                     /* int, float or bool */
bool  value_int(const struct value *v, int64_t *out);                                       /* int or bool */
bool  value_is_text(const struct value *v, const char *text);
bool  value_items(struct run *r, const struct value *v, struct value **items, size_t *count);            /* what a loop goes over */
bool  value_of_json(struct run *r, struct value *out, const struct json *j, enum origin origin, int depth);
const char *value_type(const struct value *v);                                              /* "str", "list", ... */
size_t text_characters(const struct text *t);
size_t text_offset(const struct text *t, size_t character);                                 /* byte offset */
struct value value_none(void);
struct value value_bool(bool b);
struct value value_of_int(int64_t i);
struct value value_undefined(const char *name, size_t length);
bool  json_dump(struct run *r, struct marked *w, const struct value *v, int indent, bool ascii, bool sort, const char *item, const char *colon, int depth);

/* ---- calls ---- */
const struct value *arguments_get(const struct arguments *a, int index, const char *name);        /* by place or by name; NULL: not given */
bool filter_apply(struct run *r, const char *name, size_t length, const struct value *v, const struct arguments *a, struct value *out);
bool test_apply(struct run *r, const char *name, size_t length, const struct value *v, const struct arguments *a, bool *out);
bool method_call(struct run *r, const struct method *m, const struct arguments *a, struct value *out);
bool method_exists(const struct value *self, const char *name, size_t length);
bool function_call(struct run *r, const char *name, size_t length, const struct arguments *a, struct value *out);
bool function_exists(const char *name, size_t length);
bool value_attribute(struct run *r, const struct value *v, const char *name, size_t length, struct value *out);
bool value_item(struct run *r, const struct value *v, const struct value *key, struct value *out);
bool value_slice(struct run *r, const struct value *v, const struct value *start, const struct value *stop, const struct value *step, struct value *out);
bool binary_apply(struct run *r, int op, const struct value *a, const struct value *b, struct value *out);
bool name_is(const char *name, size_t length, const char *want);

#endif
