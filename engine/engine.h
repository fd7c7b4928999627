/* The engine contract: every engine is a step loop (docs/DESIGN.md, idea 2). An `engine` is one opened model version: signature and
 * weights, packed once, shared by all its instances. An `engine_instance` is what one worker thread steps: plans' buffers and slots.
 * A request is admitted (memory reserved, nothing computed), stepped until done, and retired. A classifier's slot is done after one step. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/request.h"
#include "engine/signature.h"

struct text_ops;
struct image_ops;
struct ensemble_plan;
struct ensemble_models;
struct engine;             /* each engine defines its own */
struct engine_instance;

struct model_files {
    const char *directory;     /* of the version, absolute */
    const char *main_file;     /* e.g. ".../model.onnx", absolute */
    const char *label_file;    /* or NULL */
};

/* AUTO: what the engine finds quickest and right enough. BF16: layers on constant weights round those and what they are given to bfloat16, sums are float; where the
 * machine is not quick at it, and of texts and pictures, as AUTO. INT8: a file that carries scales is computed in bytes where they say so, all else in float; other files as F32. */
enum precision { PRECISION_F32, PRECISION_BF16, PRECISION_AUTO, PRECISION_INT8, PRECISION_F16 /* on a GPU; elsewhere it is F32 */ };
bool precision_from_name(const char *name, enum precision *out);      /* "f32", "f16", "bf16", "auto", "int8" */
const char *precision_name(enum precision p);

/* What was found out about a version once and need not be again: which precision is quicker and right enough. Asked and told by open, in its thread. */
struct engine_choices {
    void *ctx;                                                              /* knows which version */
    bool (*find)(void *ctx, const char *machine, char *text, size_t room);   /* false: nothing is known for this kind of machine */
    void (*keep)(void *ctx, const char *machine, const char *text);
};

struct engine_options {
    int            threads;            /* cores of one instance, >= 1 */
    int            cpu_level;          /* enum cpu_level of kernels/kernels.h: the cap */
    enum precision precision;
    int            gpu;                /* number of the card + 1 that the model runs on; 0: the CPU */
    int64_t        max_batch_rows;     /* the most rows one step will be given, >= 1 */
    uint64_t       memory_max;         /* budget in bytes for weights, constants and plans of this version; 0: 8 GiB */
    bool           passes_off;         /* run the graph as written (conformance) */
    const struct engine_choices *choices;  /* used by open only; NULL: choices are made anew */
    /* language models */
    uint64_t       kv_bytes;           /* budget of the KV cache; 0: 2 GiB */
    uint64_t       kv_swap_bytes;      /* heap for keys and values of texts that give way; 0: they are computed again */
    int            kv_type;            /* 0: f32 in f32, else f16; otherwise 1 + ggml's type number: F32, F16, BF16, Q8_0 or Q4_0 */
    bool           batch_invariant;    /* quantised weights too give a text the same bits whoever shares its steps */
    /* ensembles (engine/ensemble/ensemble.h) */
    const struct ensemble_plan   *ensemble;     /* lives until close */
    const struct ensemble_models *models;
};

enum slot_state { SLOT_RUNNING, SLOT_DONE, SLOT_FAILED, SLOT_PREEMPTED };

/* A request inside an instance. Made by admit, given back by retire. */
struct slot {
    struct request *request;
    enum slot_state state;       /* set by collect */
    bool            partial;     /* set by collect: this step made something to stream */
    struct err      error;       /* when SLOT_FAILED */
};

struct engine_ops {
    const char *name;                                                      /* "onnx", "llm", "diffusion" */
    bool        on_gpu;                                                    /* open takes options->gpu; false: it is always 0 */

    /* Once per version, from a loader thread. On success *out belongs to the caller until close. */
    enum status (*open)(struct engine **out, const struct model_files *files, const struct engine_options *options, struct err *err);
    const struct signature *(*describe)(const struct engine *e);
    void (*close)(struct engine *e);                                       /* after every instance was stopped */

    /* Any thread: validates names, dtypes and shapes against the signature, fills r->ride_key, r->rows and r->cost. */
    enum status (*check)(const struct engine *e, struct request *r, struct err *err);

    /* All below: only the instance's own worker thread. */
    enum status (*start)(struct engine_instance **out, struct engine *e, struct err *err);
    void (*stop)(struct engine_instance *i);                               /* no slot is left */
    /* ST_OK and a slot; ST_UNAVAILABLE: no room now, ask again after a step; anything else fails this request alone. */
    enum status (*admit)(struct engine_instance *i, struct request *r, struct slot **out, struct err *err);
    /* Starts a step over these slots (equal ride_key, rows within max_batch_rows). On a CPU it also ends it. `stop` is read between graph
     * nodes: once true the step may end early. An error here or from collect fails every slot of the step. */
    enum status (*submit)(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err);
    /* Ends the oldest step: sets each slot's state and, for a done slot, its request's outputs; fills times.input_done and infer_done. */
    enum status (*collect)(struct engine_instance *i, struct err *err);
    /* Done, cancelled, expired or failed: frees what admit reserved. */
    void (*retire)(struct engine_instance *i, struct slot *s);
    /* An engine whose step waits for others ends it early when this is called, by any thread: a request was queued, or one of the step's is not wanted any more. Must not block; NULL: steps compute. */
    void (*wake)(struct engine_instance *i);
    /* An engine of texts: what engine/text_ops.h says. NULL for all others, which refuse requests with a text job. */
    const struct text_ops *text;
    /* An engine of pictures: what engine/image_ops.h says. NULL for all others, which refuse requests with an image job. */
    const struct image_ops *image;
};

#endif
