/* What a model takes and gives: told by the engine that opened it, read by the api (metadata), the scheduler and the store (a config
 * is checked against it). Belongs to the engine and lives as long as it. */
#ifndef ENGINE_SIGNATURE_H
#define ENGINE_SIGNATURE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/tensor.h"

struct port {
    const char *name;
    enum dtype  dtype;
    int         rank;                      /* batch dimension included; -1: unknown rank */
    int64_t     dims[TENSOR_RANK_MAX];     /* -1: free */
    bool        optional;
};

/* The precision of a network's layers and how it was chosen. */
struct signature_precision {
    const char *name;                      /* "f32", "f16", "bf16", "int8"; NULL: the engine chooses by itself for each layer */
    const char *tried;                     /* what the trial set against f32: "bf16" or "int8" */
    double      error_max;                 /* what was allowed */
    double      error;                     /* largest relative L2 error of an output against f32 in the trial; below 0: there was no trial */
    double      gain;                      /* how many times as fast as f32 */
};

struct signature {
    struct signature_precision precision;
    const char        *platform;           /* as Triton says it: "onnxruntime_onnx" for ONNX files */
    const struct port *inputs;  int input_count;
    const struct port *outputs; int output_count;
    bool               batchable;          /* first dimension of every port is one free row dimension, and rows were proven independent */
    bool               text;               /* a language model: requests carry a text job, and many ride together */
    bool               image;              /* a model of pictures: requests carry an image job */
    bool               ensemble;           /* other models do the work: a request waits for them, and many wait together */
};

const struct port *signature_input(const struct signature *s, const char *name);     /* NULL if none */
const struct port *signature_output(const struct signature *s, const char *name);

#endif
