/* The 8- and 4-bit floating types of ONNX, one element at a time: a row of a table says how each format lies, one decoder and one encoder serve all. */
#ifndef ENGINE_OPERATORS_MINIFLOAT_H
#define ENGINE_OPERATORS_MINIFLOAT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/tensor.h"

enum minifloat_round { MINIFLOAT_UP, MINIFLOAT_DOWN, MINIFLOAT_NEAREST };      /* of float8e8m0 alone; the others round to nearest, ties to even */

bool    dtype_is_minifloat(enum dtype t);        /* float8*, float4e2m1 */
double  minifloat_decode(enum dtype t, unsigned bits);
/* What is too large becomes the largest finite number when `saturate`, else infinity or NaN as the format has it. */
uint8_t minifloat_encode(enum dtype t, double x, bool saturate, enum minifloat_round round);

#endif
