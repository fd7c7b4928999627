/* What an engine of pictures is asked and what it answers, beside the tensors of engine/request.h. A dialect fills the question, hangs the job on request.image and
 * submits; the engine's worker fills `used` when it admits the request and the answers under `lock` while it steps (EVENT_PARTIAL tells of a partial picture, or, with
 * `progress`, of every step); after EVENT_DONE they are complete. Nothing else here is changed by the engine. Pixels are left as RGB: encoding is the dialect's.
 *
 * What is asked follows from what is given: a prompt alone is drawn from noise; with `image` it is redrawn from there (image to image, or with an empty prompt a
 * variation), as far away from it as `strength` says; with `mask` too only where the mask is white. A number left at 0 (or below, as the field says) is the model's own. */
#ifndef ENGINE_IMAGE_JOB_H
#define ENGINE_IMAGE_JOB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/image.h"

enum {
    IMAGE_PICTURES_MAX = 16, IMAGE_STEPS_MAX = 1000, IMAGE_SIDE_MIN = 8, IMAGE_SIDE_MAX = 4096, IMAGE_PARTIALS_MAX = 16,
    IMAGE_PROMPT_BYTES_MAX = 1 << 16, IMAGE_GUIDANCE_MAX = 1000
};

/* SAMPLER_MODEL: what the folder's scheduler_config.json names. */
enum image_sampler {
    SAMPLER_MODEL, SAMPLER_DDPM, SAMPLER_DDIM, SAMPLER_PNDM, SAMPLER_EULER, SAMPLER_EULER_ANCESTRAL, SAMPLER_HEUN, SAMPLER_DPMPP_2M, SAMPLER_DPMPP_2M_SDE,
    SAMPLER_LMS, SAMPLER_UNIPC, SAMPLER_LCM, SAMPLER_FLOW_EULER, SAMPLER_COUNT
};
/* How noise levels are spaced between the largest and the smallest. */
enum image_schedule { SCHEDULE_MODEL, SCHEDULE_DISCRETE, SCHEDULE_KARRAS, SCHEDULE_EXPONENTIAL, SCHEDULE_COUNT };

/* "ddim", "dpmpp_2m", ...; a name that is none: false. The names are listed in image_sampler_name's order. */
const char *image_sampler_name(enum image_sampler s);
bool        image_sampler_from_name(const char *name, size_t length, enum image_sampler *out);
const char *image_schedule_name(enum image_schedule s);
bool        image_schedule_from_name(const char *name, size_t length, enum image_schedule *out);

enum image_phase { IMAGE_WAITING, IMAGE_READING /* texts, a given picture */, IMAGE_DENOISING, IMAGE_DECODING, IMAGE_OVER };

/* One of the n pictures. */
struct image_answer {
    uint8_t *pixels;               /* [height, width, 3]; NULL until it is done */
    uint64_t seed;                 /* the request's seed + the picture's number */
    uint8_t *partial;              /* the latest partial picture, [height, width, 3] or NULL; the engine replaces its bytes, never the pointer */
    int      partial_count;        /* how many have been made: a number that was not there before is a picture not yet seen */
    int      partial_step;         /* after how many steps the latest was */
};

/* Every parameter that made the pictures, none of them left open. */
struct image_used {
    int      width, height, steps;
    float    guidance, strength;
    enum image_sampler  sampler;
    enum image_schedule schedule;
    uint64_t seed;
    int      prompt_tokens;        /* of the prompt, without those that begin and end a text */
};

struct image_job {
    const char *prompt;          size_t prompt_length;       /* UTF-8; "(word:1.2)", "(word)" and "[word]" weigh words */
    const char *negative;        size_t negative_length;     /* length 0: none */
    const char *prompt_2;        size_t prompt_2_length;     /* of the second text encoder; NULL: the same prompt */
    const char *negative_2;      size_t negative_2_length;
    int         pictures;        /* n, 1..IMAGE_PICTURES_MAX */
    int         width, height;   /* multiples of 8; 0: the model's, or those of `image` */
    int         steps;           /* 0: the model's */
    float       guidance;        /* below 0: the model's; 0 or 1: none */
    float       strength;        /* of redrawing, 0..1; below 0: 0.8 */
    float       eta;             /* DDIM's noise, 0..1 */
    enum image_sampler  sampler;
    enum image_schedule schedule;
    bool        seeded;          /* else the engine draws a seed and says it in `used` */
    uint64_t    seed;
    int         label;           /* of a class-conditional model; -1: none */
    const struct image *image;   /* RGB, any size: it is resized; borrowed until the job ends */
    const struct image *mask;    /* grey, white where it is drawn anew, any size */
    const float *latents;        /* the first noise [pictures, channels, height / factor, width / factor] of unit variance, in place of the seed's; NULL: the seed's */
    uint64_t    latent_count;    /* numbers at `latents` */
    int         partials;        /* partial pictures wanted of each picture, 0..IMAGE_PARTIALS_MAX */
    bool        progress;        /* EVENT_PARTIAL after every step */

    /* Tests look at every step: latents [channels, height, width] after `step` of picture `picture`, from the worker's thread. NULL: nobody looks. */
    void      (*watch)(void *ctx, int picture, int step, const float *latents, int64_t count);
    void       *watch_context;

    pthread_mutex_t lock;        /* guards what follows while the job runs */
    struct image_used    used;
    struct image_answer *answers;                            /* [pictures] */
    enum image_phase     phase;
    int         step;            /* steps done; a redrawn picture begins above 0 */
    uint64_t    text_ns, denoise_ns, decode_ns;              /* time in each phase, waiting for others included */
};

/* Sets defaults and allocates the answers (heap). The texts are borrowed. ST_BAD_INPUT: n out of range; ST_NO_MEMORY. */
enum status image_job_open(struct image_job *j, const char *prompt, size_t prompt_length, int pictures, struct err *err);
/* The answers alone, of a job whose question was filled in by hand; `pictures` is looked at. */
enum status image_job_reserve(struct image_job *j, struct err *err);
void        image_job_close(struct image_job *j);
/* The parameters that made picture k, as people's tools write them into a PNG's text "parameters": the prompt, a line "Negative prompt: ...", and a line "Steps: 25, Sampler: ddim, ...".
 * `model` (or NULL) ends it. After the job is done. */
void        image_parameters_write(struct buf *out, const struct image_job *j, int k, const char *model);
/* Every number in its range and all that was given fits together: ST_BAD_INPUT with the field's name as the API has it. Called by the engine's check. */
enum status image_job_check(const struct image_job *j, struct err *err);

#endif
