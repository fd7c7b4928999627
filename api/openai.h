/* The OpenAI REST dialect for language models: requests -> struct text_job, answers -> bytes, in one piece or as server-sent events. Pure: no sockets, no
 * threads. Shapes: OpenAI's OpenAPI document (v2.3.0); the extra fields that vLLM and llama.cpp have made usual are read too; fields that
 * mean nothing here are ignored. */
#ifndef API_OPENAI_H
#define API_OPENAI_H

#include "base/json.h"
#include "engine/request.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"
#include "engine/text/toolcall.h"
#include "engine/text_job.h"
#include "model_store/registry.h"

enum openai_kind { OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDINGS, OPENAI_RERANK, OPENAI_GENERATE /* Triton's generate extension */ };

enum { OPENAI_PROMPT_END = 64, OPENAI_TOOLS_MAX = 128 };

/* How far an answer has been streamed; the last three where a reader parts it. */
struct openai_cursor { size_t text; int tokens; bool begun, ended; size_t content, reasoning; int calls; };

struct openai_ask {
    enum openai_kind  kind;
    char              id[40];              /* "chatcmpl-..." */
    int64_t           created;             /* seconds */
    const char       *model;               /* as the client named it */
    bool              stream, include_usage, base64;
    int               wanted;              /* choices to show; the best of job.choices */
    int               logprobs;            /* as asked: alternatives to show; -1: none */
    int               dimensions;          /* 0: all */
    const struct json **documents;         /* rerank: [answers] */
    int               *order;              /* rerank: [answers], filled when the answer is written */
    bool              return_documents;
    int               top_n;
    struct text_job   job;
    bool              has_job;
    struct grammar   *grammar;             /* of the job, closed with it; NULL: the text is free */
    const struct tokenizer *tokenizer;
    struct text_prompt *prompts;
    int               prompt_count;
    struct openai_cursor *cursors;         /* [answers] */
    struct toolcall_reader *readers;       /* [answers]: part a chat's answers into reasoning, content and calls; NULL: the model's template has no marks for them */
    bool              old_calls;           /* asked with `functions`: the one call is told as function_call */
    bool one_call;            /* parallel_tool_calls is false, or one function was named */
    char              prompt_end[OPENAI_PROMPT_END + 1];      /* of a rendered conversation: the last bytes */
    bool              done_sent;
    const char       *parameter;           /* after a failure: the field at fault, or NULL */
    const char       *code;                /* after a failure: OpenAI's code, or NULL */
};

/* Fills *a and hangs its job on r; the tree is changed on the way (messages as templates want them). Memory from r->arena; openai_ask_close gives the rest back. `now` is wall-clock seconds. */
enum status openai_read(struct openai_ask *a, enum openai_kind kind, struct request *r, const struct model_version *v, struct json *root, int64_t now, struct err *err);
void        openai_ask_close(struct openai_ask *a);

/* The whole answer of a request that is done. */
void        openai_write(struct buf *out, const struct openai_ask *a, const struct request *r, const struct model_version *v);
/* Appends the events that are new. True when the last one was written. `finished`: the request is over (with `failure`, or done). */
bool        openai_stream(struct buf *out, struct openai_ask *a, const struct request *r, const struct model_version *v, bool finished, const struct err *failure);

/* {"error":{"message","type","param","code"}} for the HTTP status. */
void        openai_error_write(struct buf *out, int status, const char *text, const char *parameter, const char *code);
/* One element of GET /v1/models. */
void        openai_model_write(struct buf *out, const char *name, int64_t created);

/* ---- tokenize, detokenize, apply-template (interface.md) ---- */
enum status openai_tokenize(struct buf *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err);
enum status openai_detokenize(struct buf *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err);
enum status openai_apply_template(struct buf *out, struct arena *arena, const struct model_version *v, struct json *root, struct err *err);

/* ---- shared by the dialect's files ---- */
/* A conversation (the body of a chat request) through a template; t names bos_token and eos_token and may be NULL. */
enum status openai_template_render(struct template_output *out, struct arena *arena, const struct template *template, const struct tokenizer *t, struct json *root, struct err *err);
/* The prompt of a conversation as token ids: rendered by the model's template, control tokens only where the template wrote them. */
enum status openai_render(struct token_list *tokens, struct arena *arena, const struct model_version *v, struct json *root, struct err *err);
/* The same; `end` (or NULL) gets the last OPENAI_PROMPT_END bytes of its text and a NUL. */
enum status openai_render_end(struct token_list *tokens, char *end, struct arena *arena, const struct model_version *v, struct json *root, struct err *err);
/* Tools and tool_choice of a chat, once the job and its format are open: the grammar of calls that must be made, and readers for the answers: for reasoning always, for
 * calls when the request has tools that may be called. */
enum status openai_tools_read(struct openai_ask *a, struct request *r, const struct model_version *v, const struct json *root, struct err *err);
/* Must or may calls be held to a grammar? As for openai_has_format. */
bool        openai_has_forced_tools(const struct json *root);
int         openai_calls_shown(const struct openai_ask *a, const struct toolcall_reader *r /* or NULL */);      /* of the calls that were read */
int64_t     openai_reasoning_tokens(const struct openai_ask *a, int answer);                                   /* of an answer that its reader has read */
/* Does the request say what its text must look like? Compiling that may take a second of CPU time: not on a listener's thread. */
bool        openai_has_format(const struct json *root);
enum status openai_format_read(struct openai_ask *a, struct arena *arena, const struct json *root, struct err *err);
enum status openai_fields_read(struct openai_ask *a, struct request *r, const struct json *root, struct err *err);
void        openai_usage_write(struct buf *out, const struct openai_ask *a);
const char *openai_finish_text(const struct openai_ask *a, const struct text_answer *x, const struct toolcall_reader *r /* or NULL */);
/* The fields of before tools (functions, function_call, messages of the role function) become today's; false: no memory. */
bool        openai_tools_modernise(struct openai_ask *a, struct arena *arena, struct json *root);
/* A shallow copy of the value as the object's first member; NULL: no memory. */
struct json *openai_add_member(struct json *object, struct arena *arena, const char *name, const struct json *value);
/* What a refused request gets beside its sentence: the code and the field of a text that is too long. */
void        openai_note_failure(struct openai_ask *a, const struct model_version *v);

#endif
