/* A network rounded to 8 bits ahead of time: calibrated on inputs of its own kind, the layers that suffer most left in float.
 *
 * 1. The file is made ready (prepare.h). 2. Every input runs through it in f32 while the tensors that will be rounded are tallied (tally.h). 3. The file with all layers rounded (qdq.h) is run
 * by the same engine and compared. 4. Each layer is rounded alone and what that does to the model's outputs is its error. 5. Layers leave in the order of their errors until what was
 * asked for holds; the file that is given back is the one that was measured. */
#ifndef ENGINE_CALIBRATE_INT8_H
#define ENGINE_CALIBRATE_INT8_H

#include "base/arena.h"
#include "base/buf.h"
#include "engine/calibrate/tally.h"
#include "engine/signature.h"

/* Calibration inputs, read one by one and more than once. */
struct int8_inputs {
    int   count;
    void *ctx;
    /* Input `index`: out[port_count], memory of the arena, aligned to TENSOR_ALIGN. */
    enum status (*read)(void *ctx, int index, const struct port *ports, int port_count, struct tensor *out, struct arena *arena, struct err *err);
};

struct int8_options {
    enum tally_method method;
    double   percentile;             /* of TALLY_PERCENTILE, in hundredths: 99.99 */
    bool     signed_activations;
    bool     no_table;               /* do not measure each layer when nothing needs it */
    int      keep_worst;             /* layers to leave in float in any case */
    double   error_max;              /* of any output, relative L2: more layers are left in float until it holds; 0: no bound */
    int      threads, cpu_level;
    uint64_t memory_max;
    void   (*progress)(void *ctx, const char *what, int done, int total);      /* NULL: silent */
    void    *ctx;
};

struct int8_layer {
    const char *name, *type;
    double error, moved;             /* of the outputs when this layer alone is rounded: relative L2, and the share of rows whose largest element is another; error below 0: not measured */
    bool   kept;                     /* in float */
};

struct int8_report {
    struct arena arena;
    struct int8_layer *layers; int layer_count;
    int    kept, folded, compared;   /* layers in float; normalisations folded; inputs that errors are of */
    double error, moved;             /* of the file that was made */
    bool   reached;                  /* error_max holds */
};

/* Appends the file to *out. dirfd: the model's folder, for external data. The report is freed by int8_report_free whatever comes back. */
enum status int8_make(struct buf *out, struct int8_report *report, const uint8_t *data, uint64_t size, int dirfd, const struct int8_inputs *inputs, const struct int8_options *options, struct err *err);
void        int8_report_free(struct int8_report *r);

#endif
