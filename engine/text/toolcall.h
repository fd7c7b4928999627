/* Tool calls and reasoning in what a model writes. Each family of chat templates has its own marks: toolcall_reader_open finds the family in the template's text and a
 * reader takes the answer piece by piece, giving content, reasoning and calls as soon as they are certain. What may still become a mark, or a call that is not over, is
 * held back. Nothing fails: text that looks like a call but is none (broken JSON, no name, over a limit) is content.
 *
 * The families, as their published templates write them (the table is in toolcall.c): <tool_call> with JSON, <function=> or <arg_key> inside (Hermes, Qwen, Granite, GLM,
 * Nemotron, StepFun), <seed:tool_call>, <tool_calls> (Apriel), MiniMax and DeepSeek V3.2 invocations, DeepSeek R1/V3, Kimi K2, Command R7B, GigaChat, Gemma 4, LFM2,
 * functionary, [TOOL_CALLS] (Mistral), bare JSON (Llama 3). */
#ifndef ENGINE_TEXT_TOOLCALL_H
#define ENGINE_TEXT_TOOLCALL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/json.h"

enum {
    TOOLCALL_CALLS_MAX = 128,           /* in one answer */
    TOOLCALL_NAME_MAX = 256,            /* bytes */
    TOOLCALL_BYTES_MAX = 1 << 20,       /* of one call, or of a list of calls */
    TOOLCALL_BROKEN_MAX = 64,           /* texts that looked like calls; after that the rest is content */
    TOOLCALL_DEPTH_MAX = 64,            /* of arguments */
};

struct toolcall_form;                   /* how a family writes calls */
struct toolcall_thought;                /* how it writes reasoning */

struct toolcall {
    char       *name;                   /* heap, 1..TOOLCALL_NAME_MAX bytes, NUL-terminated */
    struct buf  arguments;              /* a JSON object's text */
};

enum toolcall_state { TOOLCALL_IN_TEXT, TOOLCALL_IN_THOUGHT, TOOLCALL_IN_SECTION, TOOLCALL_IN_CALL };

struct toolcall_reader {
    const struct toolcall_form    *form;         /* NULL: no calls are looked for */
    const struct toolcall_thought *thought;      /* NULL: no reasoning */
    const struct json             *tools;        /* the request's list: tells the types of arguments that are written without quotes */

    struct buf       content, reasoning;         /* what is certain so far; they only grow */
    struct toolcall *calls;
    int              call_count;

    size_t           thought_begin, thought_end;         /* bytes of the answer that lie within the thought and its marks; end 0: there was none */

    /* the reader's own */
    size_t taken;                                /* bytes of the answer that are decided */
    struct buf hold;                             /* not decided yet */
    enum toolcall_state state;
    size_t at;                                   /* hold: within a section or a call, the byte after its opening mark */
    size_t scanned, body;                        /* hold: how far the end of the call was looked for; where its JSON begins */
    int    depth, broken, section_calls;
    bool   located, plain, in_string, escaped;   /* `located`: it is known how to find the end; `plain`: quotes mean nothing on the way */
    bool   trim;                                 /* white space is dropped before the next text */
};

/* `template`: the chat template's text. `prompt`: the rendered prompt, whose end tells whether the answer begins inside the reasoning. `tools` (borrowed) is NULL when
 * calls are not wanted. False: the template has neither calls nor reasoning, so that the answer is content as it is; the reader then needs no close. */
bool toolcall_reader_open(struct toolcall_reader *r, const char *template, size_t length, const char *prompt, size_t prompt_length, const struct json *tools);
void toolcall_reader_close(struct toolcall_reader *r);

void toolcall_reader_feed(struct toolcall_reader *r, const char *text, size_t length);
/* The answer is over: what was held becomes what it is. */
void toolcall_reader_finish(struct toolcall_reader *r);

/* Which calls an answer must, or may, be made of. */
struct toolcall_wish {
    const char *name;                   /* of the one tool to call; NULL: any */
    bool single;                        /* no more than one call */
    bool optional;                      /* text without a call will do, but calls that are made fit their tools */
};

struct grammar;
struct tokenizer;
/* The grammar of such an answer, in the form that the template's family has (arguments as for toolcall_reader_open). `t` (or NULL) tells which marks are control tokens.
 * ST_BAD_INPUT says what cannot be enforced: a family without a form, a schema that the form or engine/text/grammar.h cannot hold. */
enum status toolcall_grammar_open(struct grammar **out, const char *template, size_t length, const char *prompt, size_t prompt_length, const struct json *tools, const struct toolcall_wish *wish, const struct tokenizer *t, struct err *err);

#endif
