/* The engine's structs, for its files and the command line's inspect and bench, which look inside. */
#ifndef ENGINE_ONNX_ONNX_ENGINE_INTERNAL_H
#define ENGINE_ONNX_ONNX_ENGINE_INTERNAL_H

#include <pthread.h>

#include "engine/graph/plan_cache.h"
#include "engine/onnx/import.h"
#include "engine/onnx/onnx_engine.h"

struct engine {
    struct file_map       map;
    struct device         device;
    int                   dirfd;             /* of the version's folder, while opening */
    struct import         import;
    bool                  built;             /* import holds a graph */
    bool                  quantised;         /* the file carries scales */
    struct signature_precision precision;
    struct engine_options options;
    struct signature      signature;
    uint64_t              memory_max;
    /* after a GPU was lost: the same file for the CPU alone, made by the first instance that sees it */
    char                 *directory;         /* of the version, for tensors in files of their own; NULL */
    pthread_mutex_t       lock;
    struct import         fallback;
    _Atomic bool          fallen;
};

struct engine_instance {
    struct engine    *engine;
    bool              fallen;          /* its plans are of the fallback */
    struct plan_cache plans;
    struct arena      run;             /* results whose size depends on data */
    struct slot      *free_slots; int slots_total;
    void            **pointers;
    double            row_ns[2];       /* of large inputs: what a row took gathered, and apart; moving averages, 0 unknown */
    unsigned          steps;           /* of several requests with large inputs */
};

/* The graph that runs now: the file's, or once its card is lost the fallback, made by the first instance that asks. */
enum status onnx_current_graph(struct engine *e, const struct graph **out, struct err *err);

/* onnx_instance.c: the engine's steps, as of struct engine_ops. */
enum status onnx_instance_start(struct engine_instance **out, struct engine *e, struct err *err);
void        onnx_instance_stop(struct engine_instance *i);
enum status onnx_instance_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err);
enum status onnx_instance_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err);
enum status onnx_instance_collect(struct engine_instance *i, struct err *err);
void        onnx_instance_retire(struct engine_instance *i, struct slot *s);

#endif
