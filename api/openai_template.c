/* Conversations through the model's chat template, and the routes that show what becomes of a text: tokenize, detokenize, apply-template. */
#include "api/openai.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/template.h"
#include "engine/text_ops.h"

static struct json *get(struct json *root, const char *name)
{
    return (struct json *)(uintptr_t)json_get_value(root, name);      /* the tree is the request's own */
}

/* Replaces a node's value, not its name or place. */
static void put_value(struct json *at, const struct json *value)
{
    struct json copy = *value;
    copy.key = at->key;
    copy.key_length = at->key_length;
    copy.next = at->next;
    *at = copy;
}

/* Parts of text become one text; other kinds of parts are refused. */
static enum status join_parts(struct json *content, struct arena *arena, struct err *err)
{
    size_t n = 0;
    for (const struct json *p = content->list.first; p; p = p->next) {
        const struct json *type = json_get(p, "type"), *text = json_get(p, "text");
        if (type && !json_is_string(type, "text")) return err_set(err, ST_BAD_INPUT, "this model reads text only: a part of the type '%.40s' is not taken", type->type == JSON_STRING ? type->string.text : "?");
        if (!text || text->type != JSON_STRING) return err_set(err, ST_BAD_INPUT, "a part of a message's content needs a 'text'");
        n += text->string.length + 1;
    }
    char *all = arena_alloc(arena, n + 1, 1), *at = all;
    if (!all) return err_set(err, ST_NO_MEMORY, "the request's memory budget");
    for (const struct json *p = content->list.first; p; p = p->next) {
        const struct json *text = json_get(p, "text");
        if (at > all) *at++ = '\n';
        memcpy(at, text->string.text, text->string.length);
        at += text->string.length;
    }
    *at = 0;
    put_value(content, &(struct json){ .type = JSON_STRING, .string = { all, (size_t)(at - all) } });
    return ST_OK;
}

/* Templates want a call's arguments as the object that OpenAI's API carries as text. */
static enum status open_arguments(struct json *calls, struct arena *arena, struct err *err)
{
    if (calls->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "'tool_calls' must be a list");
    for (struct json *c = calls->list.first; c; c = c->next) {
        struct json *function = get(c, "function"), *arguments = function ? get(function, "arguments") : NULL, *parsed;
        if (!arguments || arguments->type != JSON_STRING || arguments->string.length == 0) continue;
        if (!json_parse(&parsed, arena, arguments->string.text, arguments->string.length, NULL, NULL) && parsed->type == JSON_OBJECT) put_value(arguments, parsed);
    }
    return ST_OK;
}

static enum status prepare_message(struct json *m, struct arena *arena, struct err *err)
{
    static const char *const roles[] = { "system", "developer", "user", "assistant", "tool", "function" };
    bool object = m->type == JSON_OBJECT, known = false;
    struct json *role = object ? get(m, "role") : NULL, *content = object ? get(m, "content") : NULL, *calls = object ? get(m, "tool_calls") : NULL;
    for (size_t i = 0; role && i < sizeof roles / sizeof roles[0]; i++) known = known || json_is_string(role, roles[i]);
    if (!known) return err_set(err, ST_BAD_INPUT, "a message needs a 'role': system, developer, user, assistant or tool");
    if (json_is_string(role, "developer")) put_value(role, &(struct json){ .type = JSON_STRING, .string = { "system", 6 } });
    if (!content && !calls && !json_is_string(role, "assistant")) return err_set(err, ST_BAD_INPUT, "a message of the role '%s' needs a 'content'", role->string.text);
    if (content && content->type != JSON_STRING && content->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "a message's 'content' must be a string or a list of parts");
    enum status st = content && content->type == JSON_ARRAY ? join_parts(content, arena, err) : ST_OK;
    return st || !calls ? st : open_arguments(calls, arena, err);
}

static enum status prepare_messages(struct json *messages, struct arena *arena, struct err *err)
{
    enum status st = ST_OK;
    if (!messages || messages->type != JSON_ARRAY || !messages->list.count) return err_set(err, ST_BAD_INPUT, "'messages' must be a list of at least one message");
    for (struct json *m = messages->list.first; m && !st; m = m->next) st = prepare_message(m, arena, err);
    return st;
}

struct json *openai_add_member(struct json *object, struct arena *arena, const char *name, const struct json *value)
{
    struct json *m = arena_calloc(arena, 1, sizeof *m);
    if (!m) return NULL;
    *m = *value;
    m->key = name;
    m->key_length = strlen(name);
    m->next = object->list.first;
    object->list.first = m;
    object->list.count++;
    return m;
}

static struct json text_of(const struct tokenizer *t, int32_t id)
{
    size_t n = 0;
    const char *piece = id >= 0 ? tokenizer_piece(t, id, &n) : NULL;
    return (struct json){ .type = JSON_STRING, .string = { piece ? piece : "", piece ? n : 0 } };
}

/* What a template may look at: as transformers passes it. */
static enum status make_variables(struct json *out, struct arena *arena, const struct tokenizer *t, struct json *root, struct err *err)
{
    const struct tokenizer_ids *ids = t ? tokenizer_ids(t) : NULL;
    struct json *tools = get(root, "tools"), *more = get(root, "chat_template_kwargs"), *prompt = get(root, "add_generation_prompt"), *documents = get(root, "documents"), *choice = get(root, "tool_choice");
    const struct json none = { .type = JSON_NULL }, yes = { .type = JSON_BOOL, .boolean = true };
    if (tools && tools->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "'tools' must be a list");
    if (tools && (!tools->list.count || (choice && json_is_string(choice, "none")))) tools = NULL;
    *out = (struct json){ .type = JSON_OBJECT };
    struct json bos = text_of(t, ids ? ids->bos : -1), eos = text_of(t, ids ? ids->eos : -1);
    bool room = openai_add_member(out, arena, "messages", get(root, "messages")) && openai_add_member(out, arena, "tools", tools ? tools : &none) && openai_add_member(out, arena, "documents", documents ? documents : &none) &&
                openai_add_member(out, arena, "add_generation_prompt", prompt ? prompt : &yes) && openai_add_member(out, arena, "bos_token", &bos) && openai_add_member(out, arena, "eos_token", &eos);
    const struct json *effort = json_get_value(root, "reasoning_effort");
    if (effort) room = room && openai_add_member(out, arena, "reasoning_effort", effort);
    if (more && more->type != JSON_OBJECT) return err_set(err, ST_BAD_INPUT, "'chat_template_kwargs' must be an object");
    for (struct json *m = more ? more->list.first : NULL; m && room; m = m->next) {
        if (json_get(out, m->key)) return err_set(err, ST_BAD_INPUT, "'chat_template_kwargs' may add variables, but '%.40s' is there already", m->key);
        room = openai_add_member(out, arena, m->key, m) != NULL;
    }
    return room ? ST_OK : err_set(err, ST_NO_MEMORY, "the request's memory budget");
}

static enum status render(struct template_output *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err)
{
    const struct tokenizer *t = v->ops->text->tokenizer(v->engine);
    const struct template *template = v->ops->text->chat_template(v->engine);
    if (!t || !template) return err_set(err, ST_BAD_INPUT, "model '%s' has no chat template: use /v1/completions", v->name);
    return openai_template_render(out, arena, template, t, root, err);
}

enum status openai_template_render(struct template_output *out, struct arena *arena, const struct template *template, const struct tokenizer *t, struct json *root, struct err *err)
{
    static const char *const trusted[] = { "bos_token", "eos_token", NULL };
    struct json variables;
    enum status st = prepare_messages(get(root, "messages"), arena, err);
    if (!st) st = make_variables(&variables, arena, t, root, err);
    return st ? st : template_render(template, &variables, &(struct template_limits){ .trusted = trusted }, out, err);
}

enum status openai_render_end(struct token_list *tokens, char *end, struct arena *arena, const struct model_version *v, struct json *root, struct err *err)
{
    struct template_output out = { 0 };
    enum status st = render(&out, arena, v, root, err);
    if (!st) st = tokenizer_encode_spans(v->ops->text->tokenizer(v->engine), out.text.data ? out.text.data : "", out.text.length, out.spans, out.span_count, TOKENIZE_SPECIAL_ADD | TOKENIZE_SPECIAL_PARSE, tokens, err);
    size_t n = out.text.length < OPENAI_PROMPT_END ? out.text.length : OPENAI_PROMPT_END;
    if (end && n) memcpy(end, out.text.data + out.text.length - n, n);
    if (end) end[n] = 0;
    template_output_free(&out);
    return st;
}

enum status openai_render(struct token_list *tokens, struct arena *arena, const struct model_version *v, struct json *root, struct err *err) { return openai_render_end(tokens, NULL, arena, v, root, err); }

enum status openai_apply_template(struct buf *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err)
{
    struct template_output text = { 0 };
    enum status st = render(&text, arena, v, root, err);
    if (!st) {
        buf_puts(out, "{\"prompt\":");
        json_write_string(out, text.text.data ? text.text.data : "", text.text.length);
        buf_putc(out, '}');
    }
    template_output_free(&text);
    return st;
}

/* ---- tokenize ---- */
static bool flag(struct json *root, const char *name, bool otherwise)
{
    const struct json *j = get(root, name);
    return j && j->type == JSON_BOOL ? j->boolean : otherwise;
}

static void write_tokens(struct buf *out, const struct tokenizer *t, const struct token_list *l, int context, bool texts)
{
    buf_printf(out, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", l->count, context);
    for (size_t i = 0; i < l->count; i++) buf_printf(out, i ? ",%d" : "%d", l->ids[i]);
    buf_putc(out, ']');
    if (texts) buf_puts(out, ",\"token_strs\":[");
    for (size_t i = 0; i < l->count && texts; i++) {
        struct json piece = text_of(t, l->ids[i]);
        if (i) buf_putc(out, ',');
        json_write_string(out, piece.string.text, piece.string.length);
    }
    buf_puts(out, texts ? "]}" : "}");
}

enum status openai_tokenize(struct buf *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err)
{
    const struct tokenizer *t = v->ops->text->tokenizer(v->engine);
    const struct json *text = get(root, "prompt") ? get(root, "prompt") : get(root, "content");
    struct token_list l = { 0 };
    enum status st;
    if (!t) return err_set(err, ST_BAD_INPUT, "model '%s' has no tokenizer", v->name);
    if (get(root, "messages")) {
        st = openai_render(&l, arena, v, root, err);
    } else if (!text || text->type != JSON_STRING) {
        st = err_set(err, ST_BAD_INPUT, "'prompt', 'content' or 'messages' must say what to tokenize");
    } else {
        bool special = get(root, "add_special_tokens") ? flag(root, "add_special_tokens", true) : !get(root, "content") || flag(root, "add_special", false);
        st = tokenizer_encode(t, text->string.text, text->string.length, (special ? TOKENIZE_SPECIAL_ADD : 0) | TOKENIZE_SPECIAL_PARSE, &l, err);
    }
    if (!st) write_tokens(out, t, &l, v->ops->text->context(v->engine), flag(root, "return_token_strs", false));
    token_list_free(&l);
    return st;
}

enum status openai_detokenize(struct buf *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err)
{
    const struct tokenizer *t = v->ops->text->tokenizer(v->engine);
    const struct json *ids = get(root, "tokens");
    struct detokenizer d;
    struct buf text;
    (void)arena;
    if (!t) return err_set(err, ST_BAD_INPUT, "model '%s' has no tokenizer", v->name);
    if (!ids || ids->type != JSON_ARRAY) return err_set(err, ST_BAD_INPUT, "'tokens' must be a list of token ids");
    buf_init(&text, 0);
    detokenizer_init(&d, t, true, true);
    for (const struct json *x = ids->list.first; x; x = x->next) {
        int64_t id;
        if (!json_as_int64(x, &id) || id < 0 || id >= tokenizer_count(t)) {
            buf_free(&text);
            return err_set(err, ST_BAD_INPUT, "'tokens' must hold token ids from 0 to %d", tokenizer_count(t) - 1);
        }
        detokenizer_feed(&d, (int32_t)id, &text);
    }
    detokenizer_finish(&d, &text);
    buf_puts(out, "{\"prompt\":");
    json_write_string(out, text.data ? text.data : "", text.length);
    buf_puts(out, ",\"content\":");
    json_write_string(out, text.data ? text.data : "", text.length);
    buf_putc(out, '}');
    buf_free(&text);
    return ST_OK;
}
