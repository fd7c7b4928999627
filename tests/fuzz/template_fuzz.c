/* The input is a template; it is rendered with a chat under small limits. What comes out must be UTF-8 with spans in order inside it. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char chat[] = "{\"messages\":[{\"role\":\"system\",\"content\":\" S\\u00e4 \"},{\"role\":\"user\",\"content\":\"<|e|> x\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,true]}}}]}],"
                           "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}}}],\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":true,"
                           "\"a\":1,\"b\":2.5,\"s\":\"Hello World\",\"u\":\"\\u4f60\\u597d\",\"l\":[3,1,2],\"d\":{\"x\":1,\"B\":2},\"n\":null,\"w\":[\"b\",\"A\"],\"q\":\"it's\",\"nl\":\"a\\nb\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct template *t;
    struct template_output out = { 0 };
    struct template_limits limits = { .steps = 20000, .output = 1 << 16, .memory = 4 << 20, .now = 1 };
    struct arena arena;
    struct json *variables;
    struct err err = { 0 };
    if (template_open(&t, (const char *)data, size, &err)) return 0;
    arena_init(&arena, 1 << 20);
    if (json_parse(&variables, &arena, chat, sizeof chat - 1, NULL, &err)) abort();
    if (!template_render(t, variables, &limits, &out, &err)) {
        size_t end = 0;
        for (size_t i = 0; i < out.span_count; i++) {
            if ((i && out.spans[i].offset <= end) || !out.spans[i].length || out.spans[i].offset + out.spans[i].length > out.text.length) abort();
            end = out.spans[i].offset + out.spans[i].length;
        }
        for (size_t i = 0, n; i < out.text.length; i += n)
            if (!(n = json_utf8_length(out.text.data + i, out.text.length - i))) abort();
    }
    template_output_free(&out);
    template_close(t);
    arena_free(&arena);
    return 0;
}
