/* The evaluator. Every node costs a step, every C frame that a template can cause is counted, every value comes from an arena with a budget: a template
 * can neither run, nest nor grow without end. Scopes are chained; a loop's body gets a fresh one for each turn, so what it sets is gone at the next. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "engine/text/template_internal.h"

enum { STEPS_MAX_DEFAULT = 1000000, OUTPUT_DEFAULT = 4 << 20, MEMORY_DEFAULT = 64 << 20 };

static bool eval(struct run *r, int32_t index, struct value *out);
static bool exec(struct run *r, int32_t first);

bool run_fail(struct run *r, enum status s, const char *format, ...)
{
    char text[ERR_TEXT_MAX];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    err_set(r->err, s, "chat template, line %d: %s", r->line, text);
    return false;
}

bool run_spend(struct run *r, uint64_t steps)
{
    if (steps > r->steps) return r->steps = 0, run_fail(r, ST_TOO_LARGE, "the template takes more steps than its limit");
    r->steps -= steps;
    return true;
}

bool name_is(const char *name, size_t length, const char *want) { return strlen(want) == length && !memcmp(name, want, length); }

static struct variable *find(struct scope *s, const char *name, size_t length, bool outward)
{
    for (; s; s = outward ? s->parent : NULL)
        for (struct variable *v = s->first; v; v = v->next)
            if (v->length == length && !memcmp(v->name, name, length)) return v;
    return NULL;
}

static bool assign(struct run *r, const char *name, size_t length, const struct value *value)
{
    struct variable *v = find(r->scope, name, length, false);
    if (!v) {
        if (!(v = arena_calloc(&r->arena, 1, sizeof *v))) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
        v->name = name, v->length = length, v->next = r->scope->first;
        r->scope->first = v;
    }
    v->value = *value;
    return true;
}

static bool enter_scope(struct run *r, struct scope *parent)
{
    struct scope *s = arena_calloc(&r->arena, 1, sizeof *s);
    if (!s) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    s->parent = parent;
    r->scope = s;
    return true;
}

static const struct node *at(const struct run *r, int32_t i) { return &r->t->nodes[i]; }

static bool assign_target(struct run *r, const struct node *n, const struct value *v)
{
    if (n->kind == N_NAME) return assign(r, n->text, n->length, v);
    if (n->kind == N_ATTRIBUTE) {
        struct variable *space = find(r->scope, at(r, n->a)->text, at(r, n->a)->length, true);
        struct value key;
        if (!space || space->value.kind != V_NAMESPACE) return run_fail(r, ST_BAD_INPUT, "cannot assign attribute on non-namespace object");
        return text_make(r, &key, n->text, n->length, FROM_TEMPLATE) && dict_set(r, space->value.dict, &key, v);
    }
    struct value *items;
    size_t count, i = 0;
    if (!value_items(r, v, &items, &count)) return false;
    for (int32_t k = n->a; k >= 0; k = at(r, k)->next, i++)
        if (i >= count || !assign_target(r, at(r, k), &items[i])) return i < count ? false : run_fail(r, ST_BAD_INPUT, "not enough values to unpack");
    return i == count || run_fail(r, ST_BAD_INPUT, "too many values to unpack");
}

static bool eval_arguments(struct run *r, int32_t first, struct arguments *a)
{
    a->count = a->named_count = 0;
    for (int32_t i = first; i >= 0; i = at(r, i)->next) {
        const struct node *n = at(r, i);
        struct value v;
        if (a->count == TEMPLATE_ARGS_MAX || a->named_count == TEMPLATE_ARGS_MAX) return run_fail(r, ST_BAD_INPUT, "more than %d arguments", TEMPLATE_ARGS_MAX);
        if (!eval(r, n->a, &v)) return false;
        if (n->text) a->named[a->named_count].name = n->text, a->named[a->named_count].length = n->length, a->named[a->named_count++].value = v;
        else a->values[a->count++] = v;
    }
    return true;
}

/* Runs a body with its output caught. */
static bool capture(struct run *r, int32_t first, struct value *out)
{
    struct marked w, *before = r->out;
    marked_init(&w, r->output_max);
    r->out = &w;
    bool ok = exec(r, first);
    r->out = before;
    if (!ok) return marked_free(&w), false;
    return marked_finish(r, &w, out);
}

static bool call_macro(struct run *r, const struct macro *m, const struct arguments *a, struct value *out)
{
    struct scope *before = r->scope;
    int index = 0, used = 0, leaving = r->leaving;
    if (++r->calls > TEMPLATE_DEPTH_MAX) return run_fail(r, ST_TOO_LARGE, "macros call each other deeper than %d", TEMPLATE_DEPTH_MAX);
    if (!enter_scope(r, m->scope)) return false;
    for (int32_t i = m->node->a; i >= 0; i = at(r, i)->next, index++) {
        const struct node *p = at(r, i);
        struct value v = value_undefined(p->text, p->length);
        bool given = index < a->count;
        if (given) v = a->values[index];
        for (int k = 0; k < a->named_count; k++)
            if (a->named[k].length == p->length && !memcmp(a->named[k].name, p->text, p->length)) v = a->named[k].value, given = true, used++;
        if (!given && p->a >= 0 && !eval(r, p->a, &v)) return false;
        if (!assign(r, p->text, p->length, &v)) return false;
    }
    if (a->count > index || used < a->named_count) return run_fail(r, ST_BAD_INPUT, "macro '%.*s' takes no such argument", (int)m->node->length, m->node->text);
    if (!capture(r, m->node->b, out)) return false;
    r->scope = before, r->leaving = leaving, r->calls--;
    return true;
}

static bool loop_call(struct run *r, const struct method *m, const struct arguments *a, struct value *out)
{
    struct loop *l = m->self->loop;
    if (name_is(m->name, m->length, "cycle")) {
        if (!a->count) return run_fail(r, ST_BAD_INPUT, "cycle needs values");
        return *out = a->values[l->index % (size_t)a->count], true;
    }
    struct value now;
    if (!list_make(r, &now, (size_t)a->count, true)) return false;
    memcpy(now.list->items, a->values, (size_t)a->count * sizeof *a->values);
    *out = value_bool(l->last_changed.kind != V_LIST || !value_equal(&l->last_changed, &now, 0));
    l->last_changed = now;
    return true;
}

static bool eval_call(struct run *r, const struct node *n, struct value *out)
{
    struct value callee;
    struct arguments *a = arena_calloc(&r->arena, 1, sizeof *a);
    if (!a) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    if (!eval(r, n->a, &callee) || !eval_arguments(r, n->b, a)) return false;
    r->line = n->line;
    switch (callee.kind) {
    case V_MACRO: return call_macro(r, callee.macro, a, out);
    case V_FUNCTION: return function_call(r, callee.name.name, callee.name.length, a, out);
    case V_METHOD: return callee.method->self->kind == V_LOOP ? loop_call(r, callee.method, a, out) : method_call(r, callee.method, a, out);
    case V_UNDEFINED: return run_fail(r, ST_BAD_INPUT, "'%.*s' is undefined", (int)callee.name.length, callee.name.name);
    default: return run_fail(r, ST_BAD_INPUT, "'%s' object is not callable", value_type(&callee));
    }
}

static bool eval_operand(struct run *r, int op, const struct value *a, const struct value *b, bool *out)
{
    int order = 0;
    switch (op) {
    case OP_EQUAL: *out = value_equal(a, b, 0); return true;
    case OP_NOT_EQUAL: *out = !value_equal(a, b, 0); return true;
    case OP_IN: case OP_NOT_IN: {
        bool found = false;
        if (b->kind == V_TEXT) {
            if (a->kind != V_TEXT) return run_fail(r, ST_BAD_INPUT, "'in <string>' requires string as left operand, not %s", value_type(a));
            found = !a->text->length || (b->text->length && memmem(b->text->bytes, b->text->length, a->text->bytes, a->text->length));
        } else if (b->kind == V_DICT) found = dict_find(b->dict, a) != NULL;
        else {
            struct value *items;
            size_t count;
            if (!value_items(r, b, &items, &count)) return false;
            for (size_t i = 0; i < count && !found; i++) found = value_equal(&items[i], a, 0);
            if (!run_spend(r, count / 16)) return false;
        }
        *out = found == (op == OP_IN);
        return true;
    }
    default:
        if (!value_compare(r, a, b, &order)) return false;
        *out = op == OP_LESS ? order < 0 : op == OP_LESS_EQUAL ? order <= 0 : op == OP_GREATER ? order > 0 : order >= 0;
        return true;
    }
}

static bool eval_compare(struct run *r, const struct node *n, struct value *out)
{
    struct value left, right;
    bool holds = true;
    if (!eval(r, n->a, &left)) return false;
    for (int32_t i = n->b; i >= 0 && holds; i = at(r, i)->next) {
        if (!eval(r, at(r, i)->a, &right) || !eval_operand(r, at(r, i)->op, &left, &right, &holds)) return false;
        left = right;
    }
    *out = value_bool(holds);
    return true;
}

static bool eval_concat(struct run *r, const struct node *n, struct value *out)
{
    struct marked w;
    marked_init(&w, r->output_max);
    for (int32_t i = n->a; i >= 0; i = at(r, i)->next) {
        struct value v;
        if (!eval(r, i, &v) || !marked_value(r, &w, &v)) return marked_free(&w), false;
    }
    return marked_finish(r, &w, out);
}

static bool eval_collection(struct run *r, const struct node *n, struct value *out)
{
    size_t count = 0;
    for (int32_t i = n->a; i >= 0; i = at(r, i)->next) count++;
    if (n->kind == N_DICT) {
        if (!dict_make(r, out, count)) return false;
        for (int32_t i = n->a; i >= 0; i = at(r, i)->next) {
            struct value key, v;
            if (!eval(r, at(r, i)->a, &key) || !eval(r, at(r, i)->b, &v) || !dict_set(r, out->dict, &key, &v)) return false;
        }
        return true;
    }
    if (!list_make(r, out, count, n->kind == N_TUPLE)) return false;
    count = 0;
    for (int32_t i = n->a; i >= 0; i = at(r, i)->next)
        if (!eval(r, i, &out->list->items[count++])) return false;
    return true;
}

static bool eval_item(struct run *r, const struct node *n, struct value *out)
{
    struct value v, part[3] = { value_none(), value_none(), value_none() };
    const struct node *index = at(r, n->b);
    if (!eval(r, n->a, &v)) return false;
    if (index->kind != N_SLICE) return eval(r, n->b, &part[0]) && value_item(r, &v, &part[0], out);
    const int32_t parts[3] = { index->a, index->b, index->c };
    for (int i = 0; i < 3; i++)
        if (parts[i] >= 0 && !eval(r, parts[i], &part[i])) return false;
    return value_slice(r, &v, &part[0], &part[1], &part[2], out);
}

static bool eval_filter(struct run *r, const struct node *n, struct value *out)
{
    struct value v;
    bool holds;
    struct arguments *a = arena_calloc(&r->arena, 1, sizeof *a);
    if (!a) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    if (!eval(r, n->a, &v) || !eval_arguments(r, n->b, a)) return false;
    r->line = n->line;
    if (n->kind == N_FILTER) return filter_apply(r, n->text, n->length, &v, a, out);
    if (!test_apply(r, n->text, n->length, &v, a, &holds)) return false;
    *out = value_bool(holds != n->op);
    return true;
}

static bool eval_sign(struct run *r, const struct node *n, struct value *out)
{
    struct value v;
    int64_t i;
    if (!eval(r, n->a, &v)) return false;
    if (n->kind == N_NOT) return *out = value_bool(!value_true(&v)), true;
    if (v.kind == V_REAL) return *out = v, out->real = n->kind == N_NEGATE ? -v.real : v.real, true;
    if (!value_int(&v, &i) || i == INT64_MIN) return run_fail(r, ST_BAD_INPUT, "bad operand type for a sign: '%s'", value_type(&v));
    *out = value_of_int(n->kind == N_NEGATE ? -i : i);
    return true;
}

static bool eval_name(struct run *r, const struct node *n, struct value *out)
{
    struct variable *v = find(r->scope, n->text, n->length, true);
    *out = v ? v->value : value_undefined(n->text, n->length);
    if (!v && function_exists(n->text, n->length)) out->kind = V_FUNCTION;
    return true;
}

static bool eval_node(struct run *r, const struct node *n, struct value *out)
{
    struct value v, w;
    switch ((enum node_kind)n->kind) {
    case N_NAME: return eval_name(r, n, out);
    case N_TEXT: return text_make(r, out, n->text, n->length, FROM_TEMPLATE);
    case N_INT: *out = value_of_int(n->integer); return true;
    case N_REAL: *out = (struct value){ .kind = V_REAL, .real = n->real }; return true;
    case N_TRUE: case N_FALSE: *out = value_bool(n->kind == N_TRUE); return true;
    case N_NONE: *out = value_none(); return true;
    case N_LIST: case N_TUPLE: case N_DICT: return eval_collection(r, n, out);
    case N_ATTRIBUTE: return eval(r, n->a, &v) && value_attribute(r, &v, n->text, n->length, out);
    case N_ITEM: return eval_item(r, n, out);
    case N_CALL: return eval_call(r, n, out);
    case N_FILTER: case N_TEST: return eval_filter(r, n, out);
    case N_NOT: case N_NEGATE: case N_PLUS: return eval_sign(r, n, out);
    case N_AND: case N_OR:
        if (!eval(r, n->a, out)) return false;
        return value_true(out) == (n->kind == N_OR) || eval(r, n->b, out);
    case N_BINARY: return eval(r, n->a, &v) && eval(r, n->b, &w) && binary_apply(r, n->op, &v, &w, out);
    case N_CONCAT: return eval_concat(r, n, out);
    case N_COMPARE: return eval_compare(r, n, out);
    case N_CONDITION:
        if (!eval(r, n->a, &v)) return false;
        if (value_true(&v)) return eval(r, n->b, out);
        if (n->c >= 0) return eval(r, n->c, out);
        *out = value_undefined("", 0);
        return true;
    case N_CAPTURED: *out = r->captured; return true;
    default: return run_fail(r, ST_INTERNAL, "a node of kind %d is no expression", n->kind);
    }
}

static bool eval(struct run *r, int32_t index, struct value *out)
{
    const struct node *n = at(r, index);
    if (!run_spend(r, 1)) return false;
    if (++r->frames > TEMPLATE_FRAMES_MAX) return run_fail(r, ST_TOO_LARGE, "the template nests too deeply");
    bool ok = eval_node(r, n, out);
    if (!ok) return false;
    r->frames--;
    return true;
}

/* Keeps of `items` those for which the loop's condition holds, in a list of their own. */
static bool filter_items(struct run *r, const struct node *n, struct value **items, size_t *count)
{
    struct value list, holds;
    struct scope *before = r->scope;
    size_t kept = 0;
    if (!list_make(r, &list, *count, false)) return false;
    for (size_t i = 0; i < *count; i++) {
        if (!enter_scope(r, before) || !assign_target(r, at(r, n->a), &(*items)[i]) || !eval(r, n->d, &holds)) return false;
        if (value_true(&holds)) list.list->items[kept++] = (*items)[i];
        r->scope = before;
    }
    *items = list.list->items, *count = kept;
    return true;
}

static bool exec_for(struct run *r, const struct node *n)
{
    struct value over, state = { .kind = V_LOOP };
    struct scope *before = r->scope;
    struct value *items;
    size_t count;
    if (!eval(r, n->b, &over)) return false;
    if (!value_items(r, &over, &items, &count) || (n->d >= 0 && !filter_items(r, n, &items, &count))) return false;
    if (!count) return n->integer < 0 || (enter_scope(r, before) && exec(r, (int32_t)n->integer) && (r->scope = before, true));
    struct loop *l = arena_calloc(&r->arena, 1, sizeof *l);
    if (!l) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
    *l = (struct loop){ .items = items, .count = count, .depth = r->loops++ };
    state.loop = l;
    for (; l->index < count; l->index++) {
        if (!run_spend(r, 1) || !enter_scope(r, before) || !assign(r, "loop", 4, &state) || !assign_target(r, at(r, n->a), &items[l->index]) || !exec(r, n->c)) return false;
        bool stop = r->leaving == 1;
        r->leaving = 0;
        if (stop) break;
    }
    r->scope = before;
    r->loops--;
    return true;
}

static bool exec_filtered(struct run *r, const struct node *n, int32_t body, int32_t filtered, struct value *out)
{
    struct value before = r->captured;
    struct scope *scope = r->scope;
    (void)n;
    if (!enter_scope(r, scope) || !capture(r, body, out)) return false;
    r->scope = scope;
    r->captured = *out;
    if (!eval(r, filtered, out)) return false;
    r->captured = before;
    return true;
}

static bool exec_node(struct run *r, const struct node *n)
{
    struct value v;
    struct scope *scope = r->scope;
    switch ((enum node_kind)n->kind) {
    case N_DATA: marked_put(r->out, n->text, n->length, FROM_TEMPLATE); break;
    case N_OUTPUT:
        if (!eval(r, n->a, &v) || !marked_value(r, r->out, &v)) return false;
        break;
    case N_IF:
        if (!eval(r, n->a, &v)) return false;
        return exec(r, value_true(&v) ? n->b : n->c);
    case N_FOR: return exec_for(r, n);
    case N_SET: return eval(r, n->b, &v) && assign_target(r, at(r, n->a), &v);
    case N_SET_BLOCK: return exec_filtered(r, n, n->b, n->c, &v) && assign_target(r, at(r, n->a), &v);
    case N_MACRO: {
        struct macro *m = arena_calloc(&r->arena, 1, sizeof *m);
        if (!m) return run_fail(r, ST_TOO_LARGE, "the template's values need more memory than their budget");
        *m = (struct macro){ n, r->scope };
        v = (struct value){ .kind = V_MACRO, .macro = m };
        return assign(r, n->text, n->length, &v);
    }
    case N_WITH:
        if (!enter_scope(r, scope)) return false;
        for (int32_t i = n->a; i >= 0; i = at(r, i)->next)
            if (!eval(r, at(r, i)->b, &v) || !assign_target(r, at(r, at(r, i)->a), &v)) return false;
        if (!exec(r, n->b)) return false;
        r->scope = scope;
        break;
    case N_FILTER_BLOCK:
        if (!exec_filtered(r, n, n->b, n->a, &v) || !marked_value(r, r->out, &v)) return false;
        break;
    case N_BLOCK: return exec(r, n->a);
    case N_BREAK: case N_CONTINUE:
        if (!r->loops) return run_fail(r, ST_BAD_INPUT, "'%s' outside of a loop", n->kind == N_BREAK ? "break" : "continue");
        r->leaving = n->kind == N_BREAK ? 1 : 2;
        break;
    default: return run_fail(r, ST_INTERNAL, "a node of kind %d is no statement", n->kind);
    }
    return !r->out->bytes.failed || run_fail(r, ST_TOO_LARGE, "the rendered text exceeds %llu bytes", (unsigned long long)r->output_max);
}

static bool exec(struct run *r, int32_t first)
{
    if (++r->frames > TEMPLATE_FRAMES_MAX) return run_fail(r, ST_TOO_LARGE, "the template nests too deeply");
    for (int32_t i = first; i >= 0 && !r->leaving; i = at(r, i)->next) {
        if (!run_spend(r, 1)) return false;
        r->line = at(r, i)->line;
        if (!exec_node(r, at(r, i))) return false;
    }
    r->frames--;
    return true;
}

static bool set_variables(struct run *r, const struct json *variables, const char *const *trusted)
{
    for (const struct json *e = variables && variables->type == JSON_OBJECT ? variables->list.first : NULL; e; e = e->next) {
        struct value v;
        enum origin origin = FROM_DATA;
        for (const char *const *name = trusted; name && *name; name++)
            if (e->type == JSON_STRING && !strcmp(*name, e->key)) origin = FROM_TEMPLATE;
        if (!value_of_json(r, &v, e, origin, 0) || !assign(r, e->key, e->key_length, &v)) return false;
    }
    return true;
}

/* The stretches of the output that the template wrote. */
static bool make_spans(struct run *r, const struct marked *w, struct template_output *out)
{
    size_t count = 0;
    for (size_t i = 0; i < w->marks.length; i++) count += w->marks.data[i] == FROM_TEMPLATE && (!i || w->marks.data[i - 1] != FROM_TEMPLATE);
    struct token_span *spans = mem_calloc_array((uint64_t)count + 1, sizeof *spans);
    if (!spans) return run_fail(r, ST_NO_MEMORY, "no memory for a rendered text");
    size_t n = 0;
    for (size_t i = 0; i < w->marks.length; i++) {
        if (w->marks.data[i] != FROM_TEMPLATE) continue;
        if (!i || w->marks.data[i - 1] != FROM_TEMPLATE) spans[n++].offset = i;
        spans[n - 1].length++;
    }
    out->spans = spans, out->span_count = count;
    return true;
}

enum status template_render(const struct template *t, const struct json *variables, const struct template_limits *limits, struct template_output *out, struct err *err)
{
    struct template_limits l = limits ? *limits : (struct template_limits){ 0 };
    struct run r = { .t = t, .err = err, .steps = l.steps ? l.steps : STEPS_MAX_DEFAULT, .output_max = l.output ? l.output : OUTPUT_DEFAULT, .now = l.now ? l.now : (int64_t)time(NULL), .line = 1 };
    struct marked w;
    struct err own = { 0 };
    if (!err) r.err = &own;
    r.err->status = ST_OK;
    arena_init(&r.arena, l.memory ? l.memory : MEMORY_DEFAULT);
    marked_init(&w, r.output_max);
    r.out = &w;
    bool ok = enter_scope(&r, NULL) && set_variables(&r, variables, l.trusted) && enter_scope(&r, r.scope) && exec(&r, t->body) && make_spans(&r, &w, out);
    arena_free(&r.arena);
    buf_free(&w.marks);
    if (!ok) {
        buf_free(&w.bytes);
        return r.err->status;
    }
    out->text = w.bytes;
    return ST_OK;
}

void template_output_free(struct template_output *o)
{
    buf_free(&o->text);
    free(o->spans);
    *o = (struct template_output){ 0 };
}

enum status template_open(struct template **out, const char *text, size_t length, struct err *err)
{
    struct lexeme *tokens = NULL;
    struct buf lines;
    size_t count = 0;
    if (length > TEMPLATE_BYTES_MAX) return err_set(err, ST_TOO_LARGE, "a chat template of %zu bytes; at most %d are taken", length, TEMPLATE_BYTES_MAX);
    struct template *t = calloc(1, sizeof *t);
    if (!t) return err_set(err, ST_NO_MEMORY, "no memory for a chat template");
    arena_init(&t->arena, 256 << 20);
    buf_init(&lines, 0);
    enum status st = ST_OK;
    for (size_t i = 0, n; i < length && !st; i += n)             /* UTF-8; every kind of line end becomes a newline */
        if (!(n = json_utf8_length(text + i, length - i))) st = err_set(err, ST_BAD_INPUT, "the chat template is no UTF-8 text (byte %zu)", i);
        else if (text[i] == '\r') buf_putc(&lines, '\n'), n += i + 1 < length && text[i + 1] == '\n';
        else buf_append(&lines, text + i, n);
    if (lines.length && lines.data[lines.length - 1] == '\n') lines.length--;
    char *copy = st || lines.failed ? NULL : arena_copy(&t->arena, lines.length ? lines.data : "", lines.length);
    if (!st && !copy) st = err_set(err, ST_NO_MEMORY, "no memory for a chat template");
    t->text = copy;
    t->length = lines.length;
    if (!st) st = template_lex(&t->arena, copy, lines.length, &tokens, &count, err);
    if (!st) st = template_parse(t, tokens, count, err);
    if (st == ST_BAD_INPUT) err_prefix(err, "chat template");
    buf_free(&lines);
    if (st) template_close(t);
    else *out = t;
    return st;
}

const char *template_text(const struct template *t, size_t *length)
{
    *length = t->length;
    return t->text;
}

void template_close(struct template *t)
{
    if (!t) return;
    arena_free(&t->arena);
    free(t);
}
