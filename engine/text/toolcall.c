/* Where calls and reasoning begin and end. The reader keeps undecided bytes in `hold` and goes through four states: text, thought, a section of calls, a call. In each it
 * either decides about the front of `hold`, which is then taken off, or waits for more. The end of a call is searched once over each byte (`scanned`), past the strings
 * of JSON, so that a mark within an argument ends nothing. A call that turns out to be none gives its opening mark to the content, and what follows is looked at again;
 * since that could go on for ever it may happen TOOLCALL_BROKEN_MAX times. */
#include "engine/text/toolcall.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/toolcall_internal.h"

enum { HEAD_MAX = 512 /* bytes before a separator: a kind, a name, an id */ };

/* The first whose needle the template holds. */
static const struct toolcall_form forms[] = {
    { "<｜tool▁calls▁begin｜>", SHAPE_SEPARATED, "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", NULL, NULL, { NULL } },
    { "<|tool_calls_section_begin|>", SHAPE_SEPARATED, "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>", NULL, NULL, { NULL } },
    { "｜DSML｜", SHAPE_INVOKE, "<｜DSML｜function_calls>", "</｜DSML｜function_calls>", "<｜DSML｜invoke name=\"", "</｜DSML｜invoke>", NULL, "<｜DSML｜parameter name=\"", "</｜DSML｜parameter>", { NULL } },
    { "minimax:tool_call", SHAPE_INVOKE, "<minimax:tool_call>", "</minimax:tool_call>", "<invoke name=\"", "</invoke>", NULL, "<parameter name=\"", "</parameter>", { NULL } },
    { "seed:tool_call", SHAPE_TAGGED, NULL, NULL, "<seed:tool_call>", "</seed:tool_call>", NULL, NULL, NULL, { NULL } },
    { "<|START_ACTION|>", SHAPE_JSON, NULL, NULL, "<|START_ACTION|>", "<|END_ACTION|>", NULL, NULL, NULL, { "<|START_RESPONSE|>", "<|END_RESPONSE|>" } },
    { "<|function_call|>", SHAPE_JSON, NULL, NULL, "<|function_call|>", NULL, NULL, NULL, NULL, { "<|message_sep|>", NULL } },
    { "<|tool_call>", SHAPE_BRACES, NULL, NULL, "<|tool_call>", "<tool_call|>", NULL, NULL, NULL, { "<|tool_response>", NULL } },
    { "<|tool_list_start|>", SHAPE_PYTHON, NULL, NULL, "<|tool_call_start|>", "<|tool_call_end|>", NULL, NULL, NULL, { NULL } },
    { "List of tools: [", SHAPE_PYTHON, NULL, NULL, "<|tool_call_start|>", "<|tool_call_end|>", NULL, NULL, NULL, { NULL } },
    { "<tool_calls>", SHAPE_JSON, NULL, NULL, "<tool_calls>", "</tool_calls>", NULL, NULL, NULL, { NULL } },
    { "[TOOL_CALLS]", SHAPE_SEPARATED, NULL, NULL, "[TOOL_CALLS]", NULL, "[ARGS]", NULL, NULL, { NULL } },
    { "<tool_call>", SHAPE_TAGGED, NULL, NULL, "<tool_call>", "</tool_call>", NULL, NULL, NULL, { NULL } },
    { "<function=", SHAPE_SEPARATED, NULL, NULL, "<function=", "</function>", ">", NULL, NULL, { NULL } },
    { "Environment: ipython", SHAPE_JSON, NULL, NULL, "", NULL, NULL, NULL, NULL, { "<|python_tag|>", NULL } },
};

struct toolcall_thought { const char *needle, *open, *close; };

/* `open` is what the prompt ends with when the template wrote it. */
static const struct toolcall_thought thoughts[] = {
    { "seed:think", "<seed:think>", "</seed:think>" },
    { "START_THINKING", "<|START_THINKING|>", "<|END_THINKING|>" },
    { "<|channel>", "<|channel>thought", "<channel|>" },
    { "[THINK]", "[THINK]", "[/THINK]" },
    { "[BEGIN FINAL RESPONSE]", "Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]" },
    { "</think>", "<think>", "</think>" },
};

const char *toolcall_thought_open(const struct toolcall_thought *t) { return t ? t->open : NULL; }
const char *toolcall_thought_close(const struct toolcall_thought *t) { return t ? t->close : NULL; }

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static bool ends_with(const char *text, size_t length, const char *end)
{
    size_t n = strlen(end);
    while (length && is_space(text[length - 1])) length--;
    return length >= n && !memcmp(text + length - n, end, n);
}

bool toolcall_reader_open(struct toolcall_reader *r, const char *template, size_t length, const char *prompt, size_t prompt_length, const struct json *tools)
{
    *r = (struct toolcall_reader){ .tools = tools };
    for (size_t i = 0; tools && !r->form && i < sizeof forms / sizeof *forms; i++)
        if (memmem(template, length, forms[i].needle, strlen(forms[i].needle))) r->form = &forms[i];
    for (size_t i = 0; !r->thought && i < sizeof thoughts / sizeof *thoughts; i++)
        if (memmem(template, length, thoughts[i].needle, strlen(thoughts[i].needle))) r->thought = &thoughts[i];
    buf_init(&r->content, 0);
    buf_init(&r->reasoning, 0);
    buf_init(&r->hold, 0);
    if (r->thought && ends_with(prompt, prompt_length, r->thought->open)) {
        r->state = TOOLCALL_IN_THOUGHT;
        r->trim = true;
    }
    return r->form || r->thought;
}

void toolcall_reader_close(struct toolcall_reader *r)
{
    for (int i = 0; i < r->call_count; i++) {
        free(r->calls[i].name);
        buf_free(&r->calls[i].arguments);
    }
    free(r->calls);
    buf_free(&r->content);
    buf_free(&r->reasoning);
    buf_free(&r->hold);
    *r = (struct toolcall_reader){ 0 };
}

/* ---- what is decided ---- */
static void take(struct toolcall_reader *r, size_t n)
{
    assert(n <= r->hold.length);
    if (n) memmove(r->hold.data, r->hold.data + n, r->hold.length - n);
    r->hold.length -= n;
    r->taken += n;
    if (r->state == TOOLCALL_IN_THOUGHT) r->thought_end = r->taken;
    r->at = r->scanned = r->body = 0;
}

/* The first n held bytes are text of *to; white space is left out where text begins anew. */
static void give(struct toolcall_reader *r, struct buf *to, size_t n)
{
    size_t skip = 0;
    while (r->trim && skip < n && is_space(r->hold.data[skip])) skip++;
    if (skip < n) {
        r->trim = false;
        buf_append(to, r->hold.data + skip, n - skip);
    }
    take(r, n);
}

static void begin_call(struct toolcall_reader *r, size_t at)
{
    r->state = TOOLCALL_IN_CALL;
    r->at = r->scanned = r->body = at;
    r->depth = 0;
    r->located = r->plain = r->in_string = r->escaped = false;
}

/* ---- marks ---- */
enum hit { MISS, PART, HIT };

static enum hit match(const struct toolcall_reader *r, size_t i, const char *mark)
{
    size_t left = r->hold.length - i, n = strlen(mark);
    if (memcmp(r->hold.data + i, mark, left < n ? left : n)) return MISS;
    return left < n ? PART : HIT;
}

/* The marks that mean something in plain text, by what they do. */
enum mark_kind { MARK_THOUGHT, MARK_THOUGHT_END, MARK_SECTION, MARK_CALL, MARK_DROP, MARK_DROP_TOO, MARK_KINDS };

static const char *mark_of(const struct toolcall_reader *r, enum mark_kind k, bool fresh)
{
    const struct toolcall_form *f = r->broken < TOOLCALL_BROKEN_MAX ? r->form : NULL;
    switch (k) {
    case MARK_THOUGHT: return r->thought && fresh ? r->thought->open : NULL;
    case MARK_THOUGHT_END: return r->thought && fresh ? r->thought->close : NULL;
    case MARK_SECTION: return f ? f->section_open : NULL;
    case MARK_CALL: return f && !f->section_open ? f->open : NULL;
    case MARK_DROP: case MARK_DROP_TOO: return f ? f->drop[k - MARK_DROP] : NULL;
    default: return NULL;
    }
}

/* `length`: of the mark and the white space before it, which is text after all where no call follows. */
static bool open_mark(struct toolcall_reader *r, enum mark_kind k, size_t length)
{
    switch (k) {
    case MARK_THOUGHT: case MARK_THOUGHT_END:
        if (k == MARK_THOUGHT) r->thought_begin = r->taken;
        take(r, length);
        r->thought_end = r->taken;
        r->trim = true;
        r->state = k == MARK_THOUGHT ? TOOLCALL_IN_THOUGHT : TOOLCALL_IN_TEXT;
        break;
    case MARK_SECTION:
        r->state = TOOLCALL_IN_SECTION;
        r->at = length;
        r->section_calls = 0;
        break;
    case MARK_CALL: begin_call(r, length); break;
    default: take(r, length);
    }
    return true;
}

/* A mark at byte i. HIT says which; an empty opening mark is a brace where the answer begins. */
static enum hit mark_at(const struct toolcall_reader *r, size_t i, bool fresh, enum mark_kind *which)
{
    enum hit best = MISS;
    for (enum mark_kind k = 0; k < MARK_KINDS; k++) {
        const char *mark = mark_of(r, k, fresh);
        if (!mark || (!*mark && (!fresh || r->hold.data[i] != '{'))) continue;
        enum hit h = match(r, i, mark);
        if (h == HIT) {
            *which = k;
            return HIT;
        }
        if (h == PART) best = PART;
    }
    return best;
}

static bool advance_text(struct toolcall_reader *r, bool final)
{
    bool fresh = !r->content.length;
    size_t i = 0, black = 0;      /* bytes up to the last that is no white space */
    for (; i < r->hold.length; i++) {
        enum mark_kind k = MARK_KINDS;
        char c = r->hold.data[i];
        if (is_space(c)) continue;
        enum hit h = mark_at(r, i, fresh, &k);
        if (h == PART && !final) break;
        if (h == HIT) {
            const char *mark = mark_of(r, k, fresh);
            size_t end = k == MARK_DROP || k == MARK_DROP_TOO ? i : black;
            if (end) give(r, &r->content, end);
            return open_mark(r, k, i - end + strlen(mark));
        }
        /* a list of calls without marks is written with semicolons */
        if (r->form && !*r->form->open && r->call_count && fresh && c == ';') {
            take(r, i + 1);
            return true;
        }
        fresh = false;
        black = i + 1;
    }
    if (final) black = r->hold.length;
    if (black) give(r, &r->content, black);
    return false;
}

static bool advance_thought(struct toolcall_reader *r, bool final)
{
    const char *close = r->thought->close;
    size_t black = 0;
    for (size_t i = 0; i < r->hold.length; i++) {
        if (is_space(r->hold.data[i])) continue;
        enum hit h = match(r, i, close);
        if (h == PART && !final) break;
        if (h == HIT) {
            give(r, &r->reasoning, black);
            take(r, i - black + strlen(close));
            r->state = TOOLCALL_IN_TEXT;
            r->trim = true;
            return true;
        }
        black = i + 1;
    }
    give(r, &r->reasoning, black);
    if (final) take(r, r->hold.length);
    return false;
}

/* ---- calls ---- */
/* What was held is no call: its first byte, with the white space before it, is text, and the rest is looked at again. */
static bool reject(struct toolcall_reader *r)
{
    size_t i = 0;
    while (i < r->hold.length && is_space(r->hold.data[i])) i++;
    r->broken++;
    r->state = TOOLCALL_IN_TEXT;
    give(r, &r->content, i < r->hold.length ? i + 1 : i);
    return true;
}

static bool advance_section(struct toolcall_reader *r, bool final)
{
    size_t i = r->at;
    while (i < r->hold.length && is_space(r->hold.data[i])) i++;
    enum hit call = match(r, i, r->form->open), end = match(r, i, r->form->section_close);
    if (call == HIT) {
        begin_call(r, i + strlen(r->form->open));
        return true;
    }
    if (end == HIT || (final && r->section_calls && i == r->hold.length)) {
        take(r, end == HIT ? i + strlen(r->form->section_close) : i);
        r->state = TOOLCALL_IN_TEXT;
        r->trim = true;
        return true;
    }
    if (!final && (call == PART || end == PART)) return false;
    if (!r->section_calls) return reject(r);
    take(r, i);
    r->state = TOOLCALL_IN_TEXT;
    r->trim = true;
    return true;
}

/* Finds out from the first bytes of a call how its end is to be looked for. MISS: it is none. */
static enum hit locate(struct toolcall_reader *r)
{
    const struct toolcall_form *f = r->form;
    size_t i = r->at;
    while (i < r->hold.length && is_space(r->hold.data[i])) i++;
    if (i == r->hold.length) return i - r->at > HEAD_MAX ? MISS : PART;
    bool json = r->hold.data[i] == '{' || r->hold.data[i] == '[';
    if (i - r->at > HEAD_MAX || (f->shape == SHAPE_JSON && !json)) return MISS;
    r->body = i;
    r->plain = f->shape == SHAPE_INVOKE || f->shape == SHAPE_BRACES || f->shape == SHAPE_PYTHON || (f->shape == SHAPE_TAGGED && !json);
    if (f->shape == SHAPE_SEPARATED && !json) {
        size_t n = strlen(f->separator), left = r->hold.length - r->at;
        const char *found = memmem(r->hold.data + r->at, left > HEAD_MAX + n ? HEAD_MAX + n : left, f->separator, n);
        if (!found) return left >= HEAD_MAX + n ? MISS : PART;
        r->body = (size_t)(found - r->hold.data) + n;
    }
    r->scanned = r->body;
    r->located = true;
    return HIT;
}

/* One byte of JSON. True behind its last bracket. */
static bool pass_json(struct toolcall_reader *r, char c)
{
    if (r->in_string) {
        if (r->escaped) r->escaped = false;
        else if (c == '\\') r->escaped = true;
        else if (c == '"') r->in_string = false;
        return false;
    }
    if (c == '"') r->in_string = true;
    if (c == '{' || c == '[') r->depth++;
    return (c == '}' || c == ']') && --r->depth == 0;
}

/* HIT: the body ends at *end and what is behind the call begins at *next. */
static enum hit find_end(struct toolcall_reader *r, bool final, size_t *end, size_t *next)
{
    const char *close = r->form->close;
    for (size_t i = r->scanned; i < r->hold.length; i++) {
        r->scanned = i;
        if (i - r->at > TOOLCALL_BYTES_MAX) return MISS;
        if (close && !r->in_string) {
            enum hit h = match(r, i, close);
            *end = i;
            *next = i + strlen(close);
            if (h == HIT) return HIT;
            if (h == PART && !final) return PART;
        }
        if (r->plain) continue;
        bool over = pass_json(r, r->hold.data[i]);
        *end = *next = i + 1;
        if (r->depth < 0) return MISS;
        if (over && !close) return HIT;
    }
    r->scanned = r->hold.length;
    *end = *next = r->hold.length;
    return !final ? PART : close ? HIT : MISS;      /* a closing mark may be what stopped the answer */
}

static bool advance_call(struct toolcall_reader *r, bool final)
{
    size_t end = 0, next = 0;
    enum hit h = r->located ? HIT : locate(r);
    if (h == HIT) h = find_end(r, final, &end, &next);
    if (h == PART && !final) return false;
    if (h == HIT && toolcall_parse(r, (struct span){ r->hold.data + r->at, r->hold.data + end })) {
        bool section = r->form->section_open != NULL;
        take(r, next);
        r->section_calls++;
        r->trim = true;
        r->state = section ? TOOLCALL_IN_SECTION : TOOLCALL_IN_TEXT;
        return true;
    }
    return reject(r);
}

static void advance(struct toolcall_reader *r, bool final)
{
    bool more = true;
    while (more && r->hold.length) {
        switch (r->state) {
        case TOOLCALL_IN_TEXT: more = advance_text(r, final); break;
        case TOOLCALL_IN_THOUGHT: more = advance_thought(r, final); break;
        case TOOLCALL_IN_SECTION: more = advance_section(r, final); break;
        case TOOLCALL_IN_CALL: more = advance_call(r, final); break;
        }
    }
}

void toolcall_reader_feed(struct toolcall_reader *r, const char *text, size_t length)
{
    buf_append(&r->hold, text, length);
    if (!r->hold.failed && length) advance(r, false);
}

void toolcall_reader_finish(struct toolcall_reader *r)
{
    if (!r->hold.failed) advance(r, true);
}
