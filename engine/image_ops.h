/* What an engine of pictures offers beside engine_ops: what dialects need to know before they ask. Read only after open; any thread. */
#ifndef ENGINE_IMAGE_OPS_H
#define ENGINE_IMAGE_OPS_H

#include <stdatomic.h>

#include "engine/image_job.h"
#include "engine/request.h"
#include "engine/stats.h"

struct engine;

struct image_model {
    const char *family;              /* "stable-diffusion-1", ... as the table of families has it */
    int   width, height;             /* of a picture when the request does not say */
    int   steps;
    float guidance;                  /* 1: the model takes none */
    enum image_sampler sampler;
    enum image_schedule schedule;
    int   factor;                    /* pixels of a side for each latent */
    int   channels;                  /* of the latents */
    int   labels;                    /* of a class-conditional model; 0: none */
    bool  takes_text, takes_image, takes_mask;
    bool  needs_mask;                /* made for inpainting: draws nothing without image and mask */
};

/* Counted by the engine's worker, read by the monitor. */
struct image_stats {
    atomic_int_fast64_t   running;          /* requests between admission and the end */
    atomic_uint_fast64_t  pictures;         /* decoded */
    atomic_uint_fast64_t  steps;            /* one for each picture and call */
    atomic_uint_fast64_t  rows;             /* of the network's calls */
    struct stat_histogram call;             /* of the network */
    struct stat_histogram reading, denoising, decoding;      /* the phases of a request */
};

struct image_ops {
    const struct image_model *(*model)(const struct engine *e);
    struct image_stats *(*stats)(const struct engine *e);
    /* A request of tensors as a job of the dialect's own, which then hangs on the request: for those who want to see what becomes. *j is zeroed; its answers are to be reserved and closed. */
    enum status (*read_tensors)(const struct engine *e, struct image_job *j, struct request *r, struct err *err);
    /* And the answer of such a job as the request's outputs, once it is done. */
    enum status (*write_tensors)(struct request *r, const struct image_job *j, struct err *err);
};

#endif
