/* An infer request in every form: the first two bytes of the input say where the JSON ends (0: all JSON, 1: raw). */
#include "api/oip_infer.h"
#include "tests/api/fake_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    int64_t json = data[0] | data[1] << 8;
    struct request r;
    struct infer_ask ask;
    struct err err;
    request_init(&r, 1 << 20);
    enum status st = oip_infer_read(&r, &ask, fake_model(), (const char *)data + 2, size - 2, json == 0 ? -1 : json == 1 ? 0 : json, &err);
    if (!st) {
        volatile uint64_t sum = 0;      /* every byte that was promised can be read */
        for (int i = 0; i < r.input_count; i++)
            for (uint64_t k = 0; k < r.inputs[i].tensor.bytes; k++) sum += ((const uint8_t *)r.inputs[i].tensor.data)[k];
    }
    arena_free(&r.arena);
    return 0;
}
