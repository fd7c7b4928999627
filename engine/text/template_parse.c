/* Recursive descent over the tokens, its depth bounded. Precedence, loosest first: if-else, or, and, not, comparisons, + -, ~, * / // %, **, signs, then
 * calls, items, filters and tests behind a primary. */
#include <string.h>

#include "base/checked.h"
#include "engine/text/template_internal.h"

struct parser { struct template *t; const struct lexeme *tokens; size_t at; struct err *err; int depth; bool failed; };
struct chain { int32_t first, last; };

static int32_t expression(struct parser *p);
static int32_t unary(struct parser *p, bool filters);
static struct chain body(struct parser *p, const char *const *ends);

static const struct lexeme *peek(const struct parser *p) { return &p->tokens[p->at]; }
static void next(struct parser *p) { if (peek(p)->type != TK_END) p->at++; }

static int32_t fail(struct parser *p, const char *what)
{
    const struct lexeme *k = peek(p);
    if (!p->failed) err_set(p->err, ST_BAD_INPUT, "line %d: %s%s%.*s%s", k->line, what, k->length ? " at '" : "", (int)(k->length < 40 ? k->length : 40), k->length ? k->text : "", k->length ? "'" : "");
    p->failed = true;
    return -1;
}

static bool deeper(struct parser *p)
{
    if (++p->depth <= TEMPLATE_DEPTH_MAX * 2) return true;
    fail(p, "nested too deeply");
    return false;
}

static int32_t add(struct parser *p, enum node_kind kind)
{
    struct template *t = p->t;
    if (t->count == t->capacity) {
        int32_t capacity = t->capacity ? t->capacity * 2 : 256;
        struct node *more = arena_calloc(&t->arena, (uint64_t)capacity, sizeof *more);
        if (!more) {
            if (!p->failed) err_set(p->err, ST_NO_MEMORY, "no memory for a template");
            p->failed = true;
            return -1;
        }
        if (t->count) memcpy(more, t->nodes, (size_t)t->count * sizeof *more);
        t->nodes = more, t->capacity = capacity;
    }
    t->nodes[t->count] = (struct node){ .kind = (uint8_t)kind, .a = -1, .b = -1, .c = -1, .d = -1, .next = -1, .line = peek(p)->line };
    return t->count++;
}

/* A node with children; -1 when any of those wanted is missing. */
static int32_t make(struct parser *p, enum node_kind kind, int32_t a, int32_t b, int32_t c)
{
    int32_t n = p->failed ? -1 : add(p, kind);
    if (n < 0) return -1;
    p->t->nodes[n].a = a, p->t->nodes[n].b = b, p->t->nodes[n].c = c;
    return n;
}

static int32_t named(struct parser *p, enum node_kind kind, int32_t a, int32_t b, const struct lexeme *name)
{
    int32_t n = make(p, kind, a, b, -1);
    if (n >= 0 && name) p->t->nodes[n].text = name->text, p->t->nodes[n].length = name->length;
    return n;
}

static void append(struct parser *p, struct chain *c, int32_t n)
{
    if (n < 0) return;
    if (c->first < 0) c->first = n;
    else p->t->nodes[c->last].next = n;
    c->last = n;
}

static bool is_operator(const struct parser *p, const char *op)
{
    const struct lexeme *k = peek(p);
    return k->type == TK_OPERATOR && k->length == strlen(op) && !memcmp(k->text, op, k->length);
}
static bool is_name(const struct parser *p, const char *name) { return peek(p)->type == TK_NAME && name_is(peek(p)->text, peek(p)->length, name); }
static bool take_operator(struct parser *p, const char *op) { return is_operator(p, op) ? next(p), true : false; }
static bool take_name(struct parser *p, const char *name) { return is_name(p, name) ? next(p), true : false; }

static bool want_operator(struct parser *p, const char *op)
{
    char what[32] = "'";
    if (take_operator(p, op)) return true;
    strcat(strcat(what, op), "' is missing");
    return fail(p, what), false;
}

static const struct lexeme *want_name(struct parser *p, const char *what)
{
    const struct lexeme *k = peek(p);
    if (k->type != TK_NAME) return fail(p, what), NULL;
    next(p);
    return k;
}

/* ( ... ) behind a callee, filter or test; the opening bracket is taken. */
static int32_t arguments(struct parser *p)
{
    struct chain c = { -1, -1 };
    while (!p->failed && !take_operator(p, ")")) {
        const struct lexeme *keyword = NULL;
        if (c.first >= 0 && !want_operator(p, ",")) return -1;
        if (take_operator(p, ")")) break;
        if (is_operator(p, "*") || is_operator(p, "**")) return fail(p, "spread arguments are not taken");
        if (peek(p)->type == TK_NAME && p->tokens[p->at + 1].type == TK_OPERATOR && p->tokens[p->at + 1].length == 1 && *p->tokens[p->at + 1].text == '=') {
            keyword = peek(p);
            next(p);
            next(p);
        }
        int32_t value = expression(p);
        append(p, &c, named(p, N_ARGUMENT, value, -1, keyword));
    }
    return c.first;
}

static int32_t collection(struct parser *p, enum node_kind kind, const char *close)
{
    struct chain c = { -1, -1 };
    while (!p->failed && !take_operator(p, close)) {
        if (c.first >= 0 && !want_operator(p, ",")) return -1;
        if (take_operator(p, close)) break;
        int32_t item = expression(p);
        if (kind == N_DICT) {
            if (!want_operator(p, ":")) return -1;
            int32_t value = expression(p);
            item = make(p, N_PAIR, item, value, -1);
        }
        append(p, &c, item);
    }
    return make(p, kind, c.first, -1, -1);
}

/* ( ... ): a group, or a tuple where there is a comma or nothing. The bracket is taken. */
static int32_t group(struct parser *p)
{
    struct chain c = { -1, -1 };
    bool tuple = is_operator(p, ")");
    while (!p->failed && !take_operator(p, ")")) {
        append(p, &c, expression(p));
        if (take_operator(p, ",")) tuple = true;
        else if (!is_operator(p, ")")) return fail(p, "')' is missing");
    }
    return tuple ? make(p, N_TUPLE, c.first, -1, -1) : c.first;
}

static int32_t primary(struct parser *p)
{
    static const struct { const char *name; enum node_kind kind; } words[] = { { "true", N_TRUE }, { "True", N_TRUE }, { "false", N_FALSE }, { "False", N_FALSE }, { "none", N_NONE }, { "None", N_NONE } };
    const struct lexeme *k = peek(p);
    int32_t n = -1;
    switch (k->type) {
    case TK_NAME:
        next(p);
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (name_is(k->text, k->length, words[i].name)) return make(p, words[i].kind, -1, -1, -1);
        return named(p, N_NAME, -1, -1, k);
    case TK_TEXT: {
        struct chain c = { -1, -1 };
        for (; peek(p)->type == TK_TEXT && !p->failed; next(p)) append(p, &c, named(p, N_TEXT, -1, -1, peek(p)));
        return c.first == c.last ? c.first : make(p, N_CONCAT, c.first, -1, -1);
    }
    case TK_INT: case TK_REAL:
        n = make(p, k->type == TK_INT ? N_INT : N_REAL, -1, -1, -1);
        if (n >= 0) p->t->nodes[n].integer = k->integer, p->t->nodes[n].real = k->real;
        next(p);
        return n;
    default:
        if (take_operator(p, "(")) return group(p);
        if (take_operator(p, "[")) return collection(p, N_LIST, "]");
        if (take_operator(p, "{")) return collection(p, N_DICT, "}");
        return fail(p, "an expression is expected");
    }
}

/* [index] or [start:stop:step]; the bracket is taken. */
static int32_t subscript(struct parser *p, int32_t value)
{
    int32_t part[3] = { -1, -1, -1 };
    int at = 0;
    bool slice = false;
    while (!p->failed && !is_operator(p, "]")) {
        if (take_operator(p, ":")) {
            slice = true;
            if (++at > 2) return fail(p, "a slice has three parts");
        } else if (part[at] >= 0) return fail(p, "']' is missing");
        else part[at] = expression(p);
    }
    if (!want_operator(p, "]")) return -1;
    if (!slice && part[0] < 0) return fail(p, "an index is missing");
    int32_t index = slice ? make(p, N_SLICE, part[0], part[1], part[2]) : part[0];
    return make(p, N_ITEM, value, index, -1);
}

static int32_t postfix(struct parser *p, int32_t n)
{
    while (!p->failed) {
        if (take_operator(p, ".")) {
            const struct lexeme *k = peek(p);
            if (k->type == TK_INT) {
                int32_t index = primary(p);
                n = make(p, N_ITEM, n, index, -1);
            } else if (want_name(p, "a name is missing behind '.'")) n = named(p, N_ATTRIBUTE, n, -1, k);
        } else if (take_operator(p, "[")) n = subscript(p, n);
        else if (take_operator(p, "(")) {
            int32_t list = arguments(p);
            n = make(p, N_CALL, n, list, -1);
        } else break;
    }
    return n;
}

static int32_t test(struct parser *p, int32_t n)
{
    bool negated = take_name(p, "not");
    const struct lexeme *name = want_name(p, "a test's name is missing behind 'is'"), *k = peek(p);
    int32_t list = -1;
    if (take_operator(p, "(")) list = arguments(p);
    else if ((k->type == TK_NAME || k->type == TK_TEXT || k->type == TK_INT || k->type == TK_REAL || is_operator(p, "[") || is_operator(p, "{")) && !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") &&
             !is_name(p, "if") && !is_name(p, "is") && !is_name(p, "in") && !is_name(p, "not")) {
        int32_t value = postfix(p, primary(p));
        list = named(p, N_ARGUMENT, value, -1, NULL);
    }
    n = named(p, N_TEST, n, list, name);
    if (n >= 0) p->t->nodes[n].op = negated;
    return n;
}

static int32_t filter(struct parser *p, int32_t n)
{
    const struct lexeme *name = want_name(p, "a filter's name is missing behind '|'");
    int32_t list = take_operator(p, "(") ? arguments(p) : -1;
    return named(p, N_FILTER, n, list, name);
}

static int32_t filters_and_tests(struct parser *p, int32_t n)
{
    while (!p->failed) {
        if (take_operator(p, "|")) n = filter(p, n);
        else if (take_name(p, "is")) n = test(p, n);
        else if (take_operator(p, "(")) {
            int32_t list = arguments(p);
            n = make(p, N_CALL, n, list, -1);
        } else break;
    }
    return n;
}

static int32_t unary(struct parser *p, bool filters)
{
    int32_t n;
    if (!deeper(p)) return -1;
    bool minus = is_operator(p, "-"), plus = is_operator(p, "+");
    if (minus || plus) {
        next(p);
        int32_t value = unary(p, false);
        n = make(p, minus ? N_NEGATE : N_PLUS, value, -1, -1);
    } else n = primary(p);
    n = postfix(p, n);
    if (filters) n = filters_and_tests(p, n);
    p->depth--;
    return n;
}

static int32_t binary(struct parser *p, int op, int32_t a, int32_t b)
{
    int32_t n = make(p, N_BINARY, a, b, -1);
    if (n >= 0) p->t->nodes[n].op = (uint8_t)op;
    return n;
}

static int32_t power(struct parser *p)
{
    int32_t n = unary(p, true);
    while (!p->failed && take_operator(p, "**")) {
        int32_t right = unary(p, true);
        n = binary(p, OP_POWER, n, right);
    }
    return n;
}

static int32_t product(struct parser *p)
{
    int32_t n = power(p);
    while (!p->failed) {
        int op = is_operator(p, "*") ? OP_MULTIPLY : is_operator(p, "/") ? OP_DIVIDE : is_operator(p, "//") ? OP_FLOOR : is_operator(p, "%") ? OP_MODULO : 0;
        if (!op) break;
        next(p);
        int32_t right = power(p);
        n = binary(p, op, n, right);
    }
    return n;
}

static int32_t concat(struct parser *p)
{
    int32_t n = product(p);
    if (p->failed || !is_operator(p, "~")) return n;
    struct chain c = { n, n };
    while (!p->failed && take_operator(p, "~")) append(p, &c, product(p));
    return make(p, N_CONCAT, c.first, -1, -1);
}

static int32_t sum(struct parser *p)
{
    int32_t n = concat(p);
    while (!p->failed && (is_operator(p, "+") || is_operator(p, "-"))) {
        int op = is_operator(p, "+") ? OP_ADD : OP_SUBTRACT;
        next(p);
        int32_t right = concat(p);
        n = binary(p, op, n, right);
    }
    return n;
}

static int comparison(struct parser *p)
{
    static const struct { const char *text; int op; } all[] = { { "==", OP_EQUAL }, { "!=", OP_NOT_EQUAL }, { "<", OP_LESS }, { "<=", OP_LESS_EQUAL }, { ">", OP_GREATER }, { ">=", OP_GREATER_EQUAL } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (take_operator(p, all[i].text)) return all[i].op;
    if (take_name(p, "in")) return OP_IN;
    if (is_name(p, "not") && p->tokens[p->at + 1].type == TK_NAME && name_is(p->tokens[p->at + 1].text, p->tokens[p->at + 1].length, "in")) {
        next(p);
        next(p);
        return OP_NOT_IN;
    }
    return 0;
}

static int32_t compare(struct parser *p)
{
    int32_t first = sum(p);
    struct chain c = { -1, -1 };
    for (int op; !p->failed && (op = comparison(p));) {
        int32_t value = sum(p), n = make(p, N_OPERAND, value, -1, -1);
        if (n >= 0) p->t->nodes[n].op = (uint8_t)op;
        append(p, &c, n);
    }
    return c.first < 0 ? first : make(p, N_COMPARE, first, c.first, -1);
}

static int32_t negation(struct parser *p)
{
    if (!is_name(p, "not")) return compare(p);
    if (!deeper(p)) return -1;
    next(p);
    int32_t value = negation(p);
    p->depth--;
    return make(p, N_NOT, value, -1, -1);
}

static int32_t conjunction(struct parser *p)
{
    int32_t n = negation(p);
    while (!p->failed && take_name(p, "and")) {
        int32_t right = negation(p);
        n = make(p, N_AND, n, right, -1);
    }
    return n;
}

static int32_t disjunction(struct parser *p)
{
    int32_t n = conjunction(p);
    while (!p->failed && take_name(p, "or")) {
        int32_t right = conjunction(p);
        n = make(p, N_OR, n, right, -1);
    }
    return n;
}

static int32_t expression(struct parser *p)
{
    if (!deeper(p)) return -1;
    int32_t n = disjunction(p);
    while (!p->failed && take_name(p, "if")) {
        int32_t condition = disjunction(p), otherwise = take_name(p, "else") ? expression(p) : -1;
        n = make(p, N_CONDITION, condition, n, otherwise);
    }
    p->depth--;
    return n;
}

/* An expression, or a tuple of them without brackets. */
static int32_t expressions(struct parser *p)
{
    int32_t n = expression(p);
    if (p->failed || !is_operator(p, ",")) return n;
    struct chain c = { n, n };
    while (!p->failed && take_operator(p, ",") && peek(p)->type != TK_CLOSE_BLOCK && peek(p)->type != TK_CLOSE_VALUE) append(p, &c, expression(p));
    return make(p, N_TUPLE, c.first, -1, -1);
}

/* What is assigned to: a name, a.b of a namespace, or several names. */
static int32_t target(struct parser *p, bool attributes)
{
    struct chain c = { -1, -1 };
    bool tuple = false, round = take_operator(p, "(");
    do {
        const struct lexeme *k = c.first >= 0 && peek(p)->type != TK_NAME ? NULL : want_name(p, "a name is expected");
        if (!k) break;
        int32_t n = named(p, N_NAME, -1, -1, k);
        if (attributes && take_operator(p, ".") && (k = want_name(p, "a name is expected"))) n = named(p, N_ATTRIBUTE, n, -1, k);
        append(p, &c, n);
    } while (!p->failed && take_operator(p, ",") && (tuple = true));
    if (round) want_operator(p, ")");
    return tuple ? make(p, N_TUPLE, c.first, -1, -1) : c.first;
}

static bool close_block(struct parser *p)
{
    if (peek(p)->type != TK_CLOSE_BLOCK) return fail(p, "'%}' is missing"), false;
    next(p);
    return true;
}

static bool end_with(struct parser *p, const char *name)
{
    if (!take_name(p, name)) return fail(p, "the end of a block is missing"), false;
    return close_block(p);
}

static int32_t parse_if(struct parser *p)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    if (!deeper(p)) return -1;
    int32_t condition = expressions(p), otherwise = -1;
    if (!close_block(p)) return -1;
    int32_t then = body(p, ends).first;
    if (take_name(p, "elif")) otherwise = parse_if(p);
    else if (take_name(p, "else")) {
        if (close_block(p)) otherwise = body(p, ends + 2).first;
        end_with(p, "endif");
    } else end_with(p, "endif");
    p->depth--;
    return make(p, N_IF, condition, then, otherwise);
}

/* a: target, b: what is gone over, c: body, d: the filter's condition; the node behind in `integer`: else */
static int32_t parse_for(struct parser *p)
{
    static const char *const ends[] = { "else", "endfor", NULL };
    int32_t names = target(p, false);
    if (!take_name(p, "in")) return fail(p, "'in' is missing");
    int32_t over = disjunction(p), condition = take_name(p, "if") ? expression(p) : -1, otherwise = -1;
    if (is_name(p, "recursive")) return fail(p, "recursive loops are not taken");
    if (!close_block(p)) return -1;
    int32_t inner = body(p, ends).first;
    if (take_name(p, "else")) {
        if (close_block(p)) otherwise = body(p, ends + 1).first;
    }
    end_with(p, "endfor");
    int32_t n = make(p, N_FOR, names, over, inner);
    if (n >= 0) p->t->nodes[n].d = condition, p->t->nodes[n].integer = otherwise;
    return n;
}

static int32_t parse_set(struct parser *p)
{
    static const char *const ends[] = { "endset", NULL };
    int32_t names = target(p, true);
    if (take_operator(p, "=")) {
        int32_t value = expressions(p);
        close_block(p);
        return make(p, N_SET, names, value, -1);
    }
    int32_t filtered = make(p, N_CAPTURED, -1, -1, -1);
    while (!p->failed && take_operator(p, "|")) filtered = filter(p, filtered);
    if (!close_block(p)) return -1;
    int32_t inner = body(p, ends).first;
    end_with(p, "endset");
    return make(p, N_SET_BLOCK, names, inner, filtered);
}

/* a: parameters (each with its default in a), b: body */
static int32_t parse_macro(struct parser *p)
{
    static const char *const ends[] = { "endmacro", NULL };
    struct chain c = { -1, -1 };
    const struct lexeme *name = want_name(p, "a macro's name is missing");
    if (!want_operator(p, "(")) return -1;
    while (!p->failed && !take_operator(p, ")")) {
        if (c.first >= 0 && !want_operator(p, ",")) return -1;
        const struct lexeme *k = want_name(p, "a parameter's name is missing");
        int32_t otherwise = take_operator(p, "=") ? expression(p) : -1;
        append(p, &c, named(p, N_PARAMETER, otherwise, -1, k));
    }
    if (!close_block(p)) return -1;
    int32_t inner = body(p, ends).first;
    end_with(p, "endmacro");
    return named(p, N_MACRO, c.first, inner, name);
}

static int32_t parse_with(struct parser *p)
{
    static const char *const ends[] = { "endwith", NULL };
    struct chain c = { -1, -1 };
    while (!p->failed && peek(p)->type != TK_CLOSE_BLOCK) {
        if (c.first >= 0 && !want_operator(p, ",")) return -1;
        const struct lexeme *k = want_name(p, "a name is expected");
        if (!k || !want_operator(p, "=")) return -1;
        int32_t name = named(p, N_NAME, -1, -1, k), value = expression(p);
        append(p, &c, make(p, N_SET, name, value, -1));
    }
    if (!close_block(p)) return -1;
    int32_t inner = body(p, ends).first;
    end_with(p, "endwith");
    return make(p, N_WITH, c.first, inner, -1);
}

static int32_t parse_filter_block(struct parser *p)
{
    static const char *const ends[] = { "endfilter", NULL };
    int32_t filtered = filter(p, make(p, N_CAPTURED, -1, -1, -1));
    while (!p->failed && take_operator(p, "|")) filtered = filter(p, filtered);
    if (!close_block(p)) return -1;
    int32_t inner = body(p, ends).first;
    end_with(p, "endfilter");
    return make(p, N_FILTER_BLOCK, filtered, inner, -1);
}

/* Marks what an assistant wrote when training; here only a body. */
static int32_t parse_generation(struct parser *p)
{
    static const char *const ends[] = { "endgeneration", NULL };
    if (!close_block(p)) return -1;
    int32_t inner = body(p, ends).first;
    end_with(p, "endgeneration");
    return make(p, N_BLOCK, inner, -1, -1);
}

static int32_t statement(struct parser *p)
{
    static const struct { const char *name; int32_t (*parse)(struct parser *); } all[] = { { "if", parse_if }, { "for", parse_for }, { "set", parse_set }, { "macro", parse_macro }, { "with", parse_with }, { "filter", parse_filter_block }, { "generation", parse_generation } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (take_name(p, all[i].name)) return all[i].parse(p);
    bool stop = is_name(p, "break");
    if (!stop && !is_name(p, "continue")) return fail(p, "this statement is not known");
    next(p);
    close_block(p);
    return make(p, stop ? N_BREAK : N_CONTINUE, -1, -1, -1);
}

/* Up to a statement whose name is one of `ends`, which is left for the caller (its opening mark is taken); NULL: to the end of the template. */
static struct chain body(struct parser *p, const char *const *ends)
{
    struct chain c = { -1, -1 };
    if (!deeper(p)) return c;
    while (!p->failed) {
        const struct lexeme *k = peek(p);
        if (k->type == TK_END) {
            if (ends) fail(p, "the template ends within a block");
            break;
        }
        next(p);
        if (k->type == TK_DATA) append(p, &c, named(p, N_DATA, -1, -1, k));
        else if (k->type == TK_OPEN_VALUE) {
            int32_t value = expressions(p);
            if (!p->failed && peek(p)->type != TK_CLOSE_VALUE) fail(p, "'}}' is missing");
            next(p);
            append(p, &c, make(p, N_OUTPUT, value, -1, -1));
        } else {
            bool end = false;
            for (int i = 0; ends && ends[i]; i++) end |= is_name(p, ends[i]);
            if (end) break;
            append(p, &c, statement(p));
        }
    }
    p->depth--;
    return c;
}

enum status template_parse(struct template *t, const struct lexeme *tokens, size_t count, struct err *err)
{
    struct parser p = { .t = t, .tokens = tokens, .err = err };
    (void)count;
    t->body = body(&p, NULL).first;
    return p.failed ? err->status : ST_OK;
}
