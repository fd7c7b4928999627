/* A tree that is accepted is written as JSON, read again and written again: the same bytes. The text also goes through the whole config reader, in
 * both forms, and what passes is held against a signature. */
#include "model_store/model_config.h"
#include "model_store/pbtxt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tree(const char *text, size_t size)
{
    struct arena a;
    struct json *tree, *document, *again;
    struct err err;
    struct buf first, second;
    buf_init(&first, 0);
    buf_init(&second, 0);
    arena_init(&a, 64 << 20);
    if (!pbtxt_parse(&tree, &a, &schema_model_config, text, size, "fuzz", &err)) {
        pbtxt_write_json(&first, &schema_model_config, tree);
        if (json_parse(&document, &a, first.data, first.length, NULL, &err) || pbtxt_from_json(&again, &a, &schema_model_config, document, "fuzz", &err)) abort();
        pbtxt_write_json(&second, &schema_model_config, again);
        if (first.length != second.length || memcmp(first.data, second.data, first.length)) abort();
    }
    buf_free(&first);
    buf_free(&second);
    arena_free(&a);
}

static void check_config(struct model_config *c)
{
    static const struct port in = { .name = "x", .dtype = DT_F32, .rank = 4, .dims = { -1, 3, 8, 8 } }, out = { .name = "y", .dtype = DT_F32, .rank = 2, .dims = { -1, 10 } };
    static const struct signature s = { .platform = "onnxruntime_onnx", .inputs = &in, .input_count = 1, .outputs = &out, .output_count = 1, .batchable = true };
    struct err err;
    struct buf b;
    buf_init(&b, 0);
    if (!model_config_complete(c, "m", &s, &err)) model_config_write_json(&b, c);
    buf_free(&b);
    model_config_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config *c;
    struct err err;
    check_tree((const char *)data, size);
    if (!model_config_parse(&c, (const char *)data, size, "fuzz", NULL, &err)) check_config(c);
    if (!model_config_parse_json(&c, (const char *)data, size, "fuzz", NULL, &err)) check_config(c);
    return 0;
}
