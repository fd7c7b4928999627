/* Numbers of any dtype, a block at a time: the operators that are not hot are written once, for double (all real types) and for int64 (all
 * integers and bool, wrapping like the type itself), and load and store through these. */
#ifndef ENGINE_OPERATORS_NUMBERS_H
#define ENGINE_OPERATORS_NUMBERS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/tensor.h"

enum { BLOCK = 256 };

bool dtype_is_real(enum dtype t);         /* float16, bfloat16, float32, float64 */
bool dtype_is_integer(enum dtype t);      /* 8 to 64 bits, signed or not */
bool dtype_is_number(enum dtype t);       /* either, or bool */
bool dtype_is_float(enum dtype t);        /* real or one of the 8- and 4-bit floats */
bool dtype_is_narrow(enum dtype t);       /* 4- and 2-bit integers */
bool dtype_is_dense(enum dtype t);        /* any of these: what real_load takes */
void dtype_range(enum dtype t, double *low, double *high);      /* of an integer type */

/* n elements from data[start], data[start + stride], ... (in elements). 4- and 2-bit types lie packed, low bits first. real_store rounds to the
 * nearest (saturating 8- and 4-bit floats) and truncates towards 0 into integers, which wrap. */
void real_load(double *out, enum dtype t, const void *data, uint64_t start, int64_t stride, int n);
void real_store(void *data, enum dtype t, uint64_t start, const double *x, int n);
void int_load(int64_t *out, enum dtype t, const void *data, uint64_t start, int64_t stride, int n);
void int_store(void *data, enum dtype t, uint64_t start, const int64_t *x, int n);

static inline float bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = { .u = (uint32_t)h << 16 };
    return v.f;
}

/* Nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float x)
{
    union { float f; uint32_t u; } v = { .f = x };
    if ((v.u & 0x7fffffff) > 0x7f800000) return (uint16_t)(v.u >> 16 | 64);
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

#endif
