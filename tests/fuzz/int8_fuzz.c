/* A model file made ready, its layers rounded and the file written: what is written must be a file that can be read. Ranges are made up, so nothing runs. */
#include <stdlib.h>
#include <string.h>

#include "engine/calibrate/prepare.h"
#include "engine/calibrate/qdq.h"

enum { MEMORY = 32 << 20, TENSORS = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_readable(const struct buf *b)
{
    struct onnx_model *m;
    struct arena arena;
    struct err err = { 0 };
    arena_init(&arena, 4 * MEMORY);
    /* names grow by what is put behind them, and may grow too long */
    if (onnx_parse(&m, &arena, (const uint8_t *)b->data, b->length, &err) == ST_BAD_INPUT && !strstr(err.text, "a name of")) abort();
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct range ranges[TENSORS];
    static bool rounded[TENSORS];
    struct outline n;
    struct buf ready, out;
    struct err err = { 0 };
    int folded;
    if (outline_open(&n, data, size, -1, MEMORY, &err)) return 0;
    buf_init(&ready, 0);
    enum status st = prepare_model(&ready, &n, data, size, &folded, &err);
    outline_close(&n);
    if (!st) {
        check_readable(&ready);
        for (int i = 0; i < TENSORS; i++) ranges[i] = (struct range){ -1, 2 }, rounded[i] = true;
        for (int s = 0; s < 2 && !outline_open(&n, (const uint8_t *)ready.data, ready.length, -1, MEMORY, &err); s++) {
            const struct qdq_options o = { .signed_activations = s == 1 };
            buf_init(&out, 0);
            if (n.tensor_count < TENSORS && n.layer_count < TENSORS && !qdq_write(&out, &n, (const uint8_t *)ready.data, ready.length, ranges, rounded, &o, &err)) check_readable(&out);
            buf_free(&out);
            outline_close(&n);
        }
    }
    buf_free(&ready);
    return 0;
}
