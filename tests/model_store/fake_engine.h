/* An engine named "onnx" whose model.onnx is text, so that loading, failing, draining and swapping are seen without a real one. Words:
 *   value=N      the answer: output y float32 [rows, 1] is N in every row (input x float32 [rows, 4])
 *   delay=US     a step takes that long      open_delay=US   opening does
 *   fail=open | fail=start | fail=run        there it fails
 *   batch=0      shapes are fixed at one row
 *   hog=MIB      takes that much memory and touches it */
#ifndef TESTS_MODEL_STORE_FAKE_ENGINE_H
#define TESTS_MODEL_STORE_FAKE_ENGINE_H

#include "engine/engine.h"

struct fake_counts { atomic_int opened, alive, instances, steps, rows_peak; };
extern struct fake_counts fake_counts;
extern const struct engine_ops fake_engine;

#endif
