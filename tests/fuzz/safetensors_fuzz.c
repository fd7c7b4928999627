/* A file that is read is written again from its tensors, and that must be read as well. */
#include <stdlib.h>

#include "engine/formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *s, *again;
    struct err err;
    struct buf b;
    if (safetensors_open_bytes(&s, data, size, &err)) return 0;
    const struct weights *w = safetensors_weights(s);
    buf_init(&b, 0);
    if (safetensors_write(weights_sink_buf(&b), w->tensors, w->count, NULL, 0, &err)) abort();
    if (safetensors_open_bytes(&again, b.data, b.length, &err) || safetensors_weights(again)->count != w->count) abort();
    safetensors_close(again);
    safetensors_close(s);
    buf_free(&b);
    return 0;
}
