/* The first byte chooses a family, the second whether the answer begins in the reasoning; the rest is the answer. However it is cut into pieces, the same must come
 * out, and arguments must be JSON objects. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/toolcall.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const marks[] = {
    "<tool_call></think>", "<｜tool▁calls▁begin｜></think>", "<|tool_calls_section_begin|>", "｜DSML｜</think>", "minimax:tool_call</think>", "seed:tool_call seed:think", "<|START_ACTION|>START_THINKING", "<|function_call|>",
    "<|tool_call><|channel>", "<|tool_list_start|>", "<tool_calls>[BEGIN FINAL RESPONSE]", "[TOOL_CALLS][THINK]", "<function=", "Environment: ipython",
};
static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"integer\"}}}}}]";

static void read_all(struct toolcall_reader *r, const uint8_t *data, size_t size, size_t piece, const struct json *list)
{
    const char *template = marks[data[0] % (sizeof marks / sizeof *marks)];
    if (!toolcall_reader_open(r, template, strlen(template), "<think>", data[1] & 1 ? 7 : 0, list)) abort();
    for (size_t i = 2; i < size; i += piece) toolcall_reader_feed(r, (const char *)data + i, size - i < piece ? size - i : piece);
    toolcall_reader_finish(r);
}

static bool same(const struct buf *a, const struct buf *b) { return a->length == b->length && (!a->length || !memcmp(a->data, b->data, a->length)); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct toolcall_reader whole, pieces;
    struct arena arena;
    struct json *list, *parsed;
    if (size < 2) return 0;
    arena_init(&arena, 4 << 20);
    if (json_parse(&list, &arena, tools, sizeof tools - 1, NULL, NULL)) abort();
    read_all(&whole, data, size, size, list);
    read_all(&pieces, data, size, 1 + data[1] / 2 % 5, list);
    if (whole.call_count != pieces.call_count || !same(&whole.content, &pieces.content) || !same(&whole.reasoning, &pieces.reasoning)) abort();
    if (whole.content.length + whole.reasoning.length > size - 2) abort();
    for (int i = 0; i < whole.call_count; i++) {
        const struct toolcall *c = &whole.calls[i];
        if (strcmp(c->name, pieces.calls[i].name) || !same(&c->arguments, &pieces.calls[i].arguments)) abort();
        if (json_parse(&parsed, &arena, c->arguments.data, c->arguments.length, NULL, NULL) || parsed->type != JSON_OBJECT) abort();
    }
    toolcall_reader_close(&whole);
    toolcall_reader_close(&pieces);
    arena_free(&arena);
    return 0;
}
