/* A file that is read has keys and tensors whose every byte can be touched. */
#include <string.h>

#include "engine/formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum_array(const struct gguf_array *a)
{
    uint64_t sum = 0, at = 0;
    const char *text;
    size_t length;
    if (a->type == GGUF_STRING)
        while (gguf_array_text(a, &at, &text, &length)) sum += length ? (uint64_t)text[length - 1] : 0;
    else if (a->count) sum = (uint64_t)gguf_array_int(a, a->count - 1) + (gguf_array_real(a, 0) > 0);
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g;
    struct err err;
    volatile uint64_t sum = 0;
    if (gguf_open_bytes(&g, data, size, &err)) return 0;
    for (int i = 0; i < gguf_key_count(g); i++) {
        const struct gguf_key *k = gguf_key_at(g, i);
        uint32_t u = 0;
        float f = 0;
        gguf_u32(g, k->name, &u);
        gguf_f32(g, k->name, &f);
        sum += u + (f > 0) + strlen(k->name) + (k->type == GGUF_ARRAY ? sum_array(&k->array) : 0);
    }
    for (int i = 0; i < gguf_weights(g)->count; i++) {
        const struct weight_tensor *t = &gguf_weights(g)->tensors[i];
        for (uint64_t b = 0; b < t->bytes; b++) sum += t->data[b];
    }
    gguf_close(g);
    return 0;
}
