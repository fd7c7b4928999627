/* The engine's structs, for onnx_engine.c and the command line's inspect and bench, which look inside. */
#ifndef ENGINE_ONNX_ONNX_ENGINE_INTERNAL_H
#define ENGINE_ONNX_ONNX_ENGINE_INTERNAL_H

#include "engine/graph/plan.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_engine.h"

enum { PLANS = 64 };       /* shapes an instance remembers: as many as batch sizes are usual, since making a plan costs more than a small network's run */

struct engine {
    struct file_map       map;
    struct import         import;
    struct engine_options options;
    struct signature      signature;
    uint64_t              memory_max;
};

struct plan_entry { struct plan *plan; struct operand *shapes; uint64_t used; };

struct engine_instance {
    struct engine    *engine;
    struct plan_entry cache[PLANS];
    uint64_t          clock;
    char             *workspace;
    uint64_t          workspace_bytes, budget;
    struct arena      run;             /* results whose size depends on data */
    struct slot      *free_slots; int slots_total;
    void            **pointers;
};

#endif
