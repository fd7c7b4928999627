/* Whatever parses is written and must parse again to the same text. */
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a;
    struct json *j, *again;
    struct err err;
    struct buf first, second;
    struct json_options options = { .raw_key = "data", .unique_keys = true };
    buf_init(&first, 0);
    buf_init(&second, 0);
    arena_init(&a, 64 << 20);
    json_parse(&j, &a, (const char *)data, size, &options, &err);
    if (!json_parse(&j, &a, (const char *)data, size, NULL, &err)) {
        json_write(&first, j);
        if (first.failed || json_parse(&again, &a, first.data, first.length, NULL, &err)) abort();
        json_write(&second, again);
        if (first.length != second.length || memcmp(first.data, second.data, first.length)) abort();
    }
    buf_free(&first);
    buf_free(&second);
    arena_free(&a);
    return 0;
}
