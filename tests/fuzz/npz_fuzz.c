/* Tensors from files: the bytes as .npz, .npy and TensorProto. What is read is looked at to its last byte; a .npy that was read is written and read again. */
#include <stdlib.h>
#include <string.h>

#include "engine/formats/npy.h"
#include "engine/formats/npz.h"
#include "engine/formats/onnx.h"

enum { MEMORY = 16 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned seen;

static void look(const struct tensor *t)
{
    for (uint64_t i = 0; t->dtype != DT_STRING && i < t->bytes; i++) seen += ((const uint8_t *)t->data)[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    struct tensor t, again;
    struct onnx_tensor o = { 0 };
    struct npz z;
    struct err err;
    arena_init(&arena, MEMORY);
    if (!npz_parse(&z, &arena, (const char *)data, size, &err))
        for (int i = 0; i < z.count; i++) {
            look(&z.entries[i].tensor);
            if (!npz_find(&z, z.entries[i].name)) abort();
        }
    if (!npy_parse(&t, &arena, (const char *)data, size, &err)) {
        struct buf b;
        look(&t);
        buf_init(&b, 0);
        if (npy_write(&b, &t, &err) || npy_parse(&again, &arena, b.data, b.length, &err)) abort();
        if (again.dtype != t.dtype || again.rank != t.rank || again.bytes != t.bytes) abort();
        buf_free(&b);
    }
    if (!onnx_parse_tensor(&o, &arena, data, size, &err) && o.tensor.data) look(&o.tensor);
    arena_free(&arena);
    return 0;
}
