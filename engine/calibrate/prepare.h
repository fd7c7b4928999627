/* The file made ready for rounding: batch normalisations behind convolutions multiplied into these, and an opset below 13 (the first that restores by output channel) raised to 13
 * with the operators whose meaning changed on the way rewritten. Data from outside comes into the file. */
#ifndef ENGINE_CALIBRATE_PREPARE_H
#define ENGINE_CALIBRATE_PREPARE_H

#include "base/buf.h"
#include "engine/calibrate/outline.h"

/* Appends the file that n was opened from, so changed. *folded: how many normalisations went. */
enum status prepare_model(struct buf *out, struct outline *n, const uint8_t *data, uint64_t size, int *folded, struct err *err);

/* ---- prepare_opset.c ---- */
struct onnx_edit;
/* Rewrites nodes of older opsets for opset 13. ST_UNSUPPORTED names the first that cannot be. */
enum status prepare_opset(struct onnx_edit *e, struct outline *n, struct err *err);

#endif
