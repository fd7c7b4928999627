/* The first byte is a block type, the second says how many rows; the rest are their blocks. Whatever they hold is decoded, packed into panels, multiplied, and the f32 mode
 * must have the bits of the definition. What decodes to finite numbers is encoded again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/blocks.h"
#include "kernels/linear.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NUMBERS_MAX = 8192 };

static void multiply(const struct block_format *f, int type, const uint8_t *blocks, int64_t n, int64_t k, const float *decoded)
{
    static float x[NUMBERS_MAX], y[NUMBERS_MAX];
    for (int64_t i = 0; i < k; i++) x[i] = (float)(i % 7) - 3;
    for (int mode = 0; mode < LINEAR_MODE_COUNT; mode++) {
        const struct linear_spec spec = { .type = type, .weight = blocks, .n = n, .k = k, .row_bytes = k / f->elements * f->bytes, .mode = (enum linear_mode)mode, .level = mode ? CPU_SCALAR : CPU_AMX };
        struct linear_layer *l;
        if (linear_open(&l, &spec, NULL)) abort();
        char *scratch = aligned_alloc(64, (linear_scratch(l, 1, 1) + 127) & ~(uint64_t)63);
        linear_run(l, y, n, x, k, 1, NULL, scratch, 1);
        for (int64_t r = 0; r < n && mode == LINEAR_F32; r++) {
            float sum = 0;
            for (int64_t i = 0; i < k; i++) sum = fmaf(x[i], decoded[r * k + i], sum);
            if (memcmp(&sum, y + r, sizeof sum) && !(isnan(sum) && isnan(y[r]))) abort();
        }
        free(scratch);
        linear_close(l);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float decoded[NUMBERS_MAX];
    const struct block_format *f = size < 2 ? NULL : block_format(data[0]);
    if (!f) return 0;
    const int64_t rows = 1 + data[1] % 20, blocks = (int64_t)(size - 2) / f->bytes / rows, k = blocks * f->elements;
    if (blocks < 1 || rows * k > NUMBERS_MAX) return 0;
    f->decode(decoded, data + 2, rows * k);
    multiply(f, data[0], data + 2, rows, k, decoded);
    bool finite = f->encode != NULL;
    for (int64_t i = 0; i < rows * k; i++) finite = finite && isfinite(decoded[i]);
    if (finite) {
        uint8_t *again = malloc((size_t)(rows * blocks * f->bytes));
        f->encode(again, decoded, rows * k);
        free(again);
    }
    return 0;
}
