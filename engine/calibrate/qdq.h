/* The file with some layers rounded, in the form that quantisers of ONNX files give and that engines fuse: QuantizeLinear and DequantizeLinear around what rounded layers read and make (one scale
 * and zero point a tensor), weights as int8 with a scale for each output channel, biases as int32 whose scale is the product of both. */
#ifndef ENGINE_CALIBRATE_QDQ_H
#define ENGINE_CALIBRATE_QDQ_H

#include "base/buf.h"
#include "engine/calibrate/outline.h"
#include "engine/calibrate/tally.h"

struct qdq_options { bool signed_activations; };      /* int8 around 0 in place of uint8 with a zero point */

/* Appends the file. ranges: of each tensor of the outline. rounded: as in outline_place, which is called. `data` is what the outline was opened from. */
enum status qdq_write(struct buf *out, struct outline *n, const uint8_t *data, uint64_t size, const struct range *ranges, const bool *rounded, const struct qdq_options *options, struct err *err);

#endif
