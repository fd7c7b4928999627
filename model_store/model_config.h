/* A model's config.pbtxt (Triton's ModelConfig, protocols.md 2.2) as a typed struct. Made from the protobuf text form, from JSON (the
 * `config` parameter of a load request) or derived from the model's own signature; completed against the signature; written as JSON for
 * GET .../config. A field that ModelConfig does not have is ST_BAD_INPUT that names line and field; a known field that we do not use is kept
 * for the JSON form and named once in the log. Strings live in the config's arena. */
#ifndef MODEL_STORE_MODEL_CONFIG_H
#define MODEL_STORE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/log.h"
#include "engine/ensemble/ensemble.h"
#include "engine/scheduler.h"
#include "engine/signature.h"

enum { MODEL_NAME_MAX = 128, CONFIG_BYTES_MAX = 1 << 20, CONFIG_PORTS_MAX = 256, CONFIG_DEPTH_MAX = 16, WARMUPS_MAX = 16 };

struct config_port {
    const char *name;
    enum dtype  dtype;
    int         rank;  int64_t dims[TENSOR_RANK_MAX];          /* as written: without the batch dimension when max_batch_size > 0 */
    bool        has_reshape; int reshape_rank; int64_t reshape[TENSOR_RANK_MAX];
    bool        optional;
    const char *label_filename;                                /* outputs; NULL */
    const char *format;                                        /* inputs: "FORMAT_NONE", ... */
};

struct config_parameter { const char *key, *value; };

enum version_policy { VERSION_LATEST, VERSION_ALL, VERSION_SPECIFIC };

enum warmup_data { WARMUP_ZERO, WARMUP_RANDOM, WARMUP_FILE };
struct config_warmup_input { const char *name; enum dtype dtype; int rank; int64_t dims[TENSOR_RANK_MAX]; enum warmup_data data; const char *file; };
struct config_warmup { const char *name; uint32_t batch_size, count; const struct config_warmup_input *inputs; int input_count; };

/* How a picture becomes the tensor of one input: parameters whose keys begin with "picture." (docs/PICTURES.md). */
enum picture_fit { PICTURE_STRETCH, PICTURE_CENTER_CROP /* shorter side to `shorter`, then the centre is cut out */ };
struct picture_config {
    bool   present;              /* said by the config; else derived from the signature where it has one f32 input [n, 1|3, h, w] or [n, h, w, 1|3] */
    bool   usable;
    int    width, height, channels;      /* of the tensor; channels 1 (grey) or 3 */
    bool   bgr, channels_last;
    enum picture_fit fit; int shorter;
    int    filter;                       /* enum image_filter of base/image.h */
    float  scale;                        /* value = (pixel * scale - mean[c]) / deviation[c]; scale defaults to 1/255 */
    float  mean[3], deviation[3];
};

/* Where instances run: KIND_AUTO is a GPU where there is one. */
enum config_gpu { CONFIG_GPU_AUTO, CONFIG_GPU_NEVER, CONFIG_GPU_WANTED };

struct model_config {
    struct arena arena;
    const char *name, *platform, *backend;          /* "" where not said */
    bool        from_file;
    bool        has_max_batch_size; int64_t max_batch_size;
    const struct config_port *inputs;  int input_count;
    const struct config_port *outputs; int output_count;
    enum version_policy policy; uint32_t latest; const int64_t *specific; int specific_count;      /* default: latest 1 */
    int         instances;                          /* sum over instance_group; 0: not said */
    enum config_gpu gpu_wish; int gpu;              /* of the first group: its kind, and the first of `gpus` (0) */
    const struct rate_claim *claims; int claim_count;      /* of its groups, in their order */
    struct scheduler_options scheduling;            /* dynamic_batching whole; instances, threads, first_cpu are left to the registry */
    const struct config_parameter *parameters; int parameter_count;
    const struct config_warmup *warmups; int warmup_count;
    bool        response_cache;                     /* answers may be given again */
    struct picture_config picture;
    struct ensemble_plan ensemble;                  /* step_count 0: the model is no ensemble */
    const void *tree;                               /* every field as read, for the JSON form (model_config.c's own) */
};

/* `where` names the text in errors ("digits/config.pbtxt"). *out is from the heap; model_config_free. */
enum status model_config_parse(struct model_config **out, const char *text, size_t length, const char *where, struct log *log, struct err *err);
enum status model_config_parse_json(struct model_config **out, const char *text, size_t length, const char *where, struct log *log, struct err *err);
/* Fills what the text did not say from the signature and checks what it did say against it: names, dtypes, dims. Without a text: text NULL
 * was parsed as an empty one. Auto-complete as Triton's: max_batch_size 4 with dynamic batching when every first dimension is free and rows are
 * independent (signature.batchable); a model that is not batchable gets 0. */
enum status model_config_complete(struct model_config *c, const char *name, const struct signature *s, struct err *err);
/* What clients know of a signature: all but the ports that the config keeps for itself (controls and states of sequences). `s` itself where it keeps none, else in the config's arena; NULL without memory. */
const struct signature *model_config_for_clients(struct model_config *c, const struct signature *s);
/* Reads what the states of its sequences begin with: `read` gets the path within the model's folder and gives bytes from the heap. */
enum status model_config_read_states(struct model_config *c, enum status (*read)(void *context, const char *path, size_t max, char **bytes, size_t *length, struct err *err), void *context, struct err *err);
void        model_config_write_json(struct buf *out, const struct model_config *c);
const char *model_config_parameter(const struct model_config *c, const char *key);      /* NULL if absent */
void        model_config_free(struct model_config *c);

/* R20: [A-Za-z0-9][A-Za-z0-9._-]{0,127}; versions are decimals 1..2^31-1 without leading zero. */
bool model_name_valid(const char *name, size_t length);
bool model_version_parse(const char *text, size_t length, int64_t *out);

#endif
