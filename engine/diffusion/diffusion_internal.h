/* The engine's structs, for its files and the command line's bench, which looks inside. */
#ifndef ENGINE_DIFFUSION_DIFFUSION_INTERNAL_H
#define ENGINE_DIFFUSION_DIFFUSION_INTERNAL_H

#include "engine/diffusion/build.h"
#include "engine/diffusion/diffusion_engine.h"
#include "engine/diffusion/model.h"
#include "engine/diffusion/prompt.h"
#include "engine/diffusion/text_cache.h"
#include "engine/graph/plan_cache.h"
#include "engine/image_ops.h"
#include "engine/request.h"

#include <pthread.h>

enum {
    CALL_ROWS_MAX = 16,            /* rows of one call of the network: what is more goes in several calls of the same step */
    CALL_LATENTS_MAX = 4 * 128 * 128,      /* latents (of one channel) of one call, unless a single row has more */
    TEXT_ROWS_MAX = 16,            /* chunks of text encoded at once */
};

/* The graphs, in the order of their plan caches. */
enum diffusion_graph { GRAPH_TEXT, GRAPH_TEXT_2, GRAPH_TEXT_3, GRAPH_DENOISER, GRAPH_ENCODER, GRAPH_DECODER, GRAPH_COUNT };

struct engine {
    struct diffusion_model model;
    struct graph        graphs[GRAPH_COUNT];
    bool                built[GRAPH_COUNT];
    struct text_encoder encoders[TEXT_ENCODERS_MAX];
    struct tokenizer   *tokenizers[TEXT_ENCODERS_MAX];
    int                 encoder_count;
    int                 first_encoder;     /* SDXL's refiner has the second alone */
    struct denoiser     denoiser;
    struct autoencoder  vae;               /* factor 1 and the network's channels where pixels are drawn */
    struct image_model  about;
    struct image_stats  stats;
    struct engine_options options;
    struct signature    signature;
    uint64_t            memory_max;
    uint64_t            vae_memory;        /* of a plan of the autoencoder: above it a picture goes in tiles */
    const struct device_gpu *gpu;          /* the card that the graphs run on (T5 and what draws no pictures stays on the CPU); NULL: the CPU */
    pthread_mutex_t     lock;              /* of what follows */
    struct engine      *fallback;          /* the model on the CPU, opened when its card was lost */
    char                main_file[4096];
};

/* One of a request's pictures on its way. */
struct picture {
    struct sampler_state state;
    float *given;                  /* latents of the picture that is redrawn, [count]; NULL */
    float *first_noise;            /* [count] with a mask: what was added to it */
    float *masked;                 /* networks made for inpainting: mask and masked picture, [1 + channels, h, w] */
};

/* Texts as the network takes them: row 0 what is wanted, row 1 what is not. */
struct conditions {
    int    rows;                   /* 0 without texts; 1, or 2 when the network is called twice */
    int    tokens;                 /* of each row */
    int    clip_tokens;            /* how many of them are CLIP's; T5's come behind */
    float *context;                /* [rows, tokens, width] */
    float *pooled;                 /* [rows, pooled_width] */
    struct prompt prompts[TEXT_ENCODERS_MAX][2];
};

struct image_slot {
    struct slot base;
    struct image_job *job;         /* the request's, or `own` */
    struct image_job  own;         /* of a request of tensors */
    enum image_phase  phase;
    struct sampler_plan plan;
    struct conditions texts;
    struct picture   *pictures;
    int     width, height, h, w, channels;      /* of the picture; of the latents */
    int64_t count;                 /* channels * h * w */
    bool    twice;                 /* guided: the network is called with and without the prompt */
    float   guidance;
    int     call;                  /* the next one */
    int     decoded;               /* pictures that are done */
    int     partials;              /* made of each picture */
    float  *mask;                  /* [h, w] 1 where it is drawn anew; NULL */
    float  *guide;                 /* [guide_width] LCM's embedding of the guidance */
    uint64_t phase_ns;
};

struct engine_instance {
    struct engine    *engine;
    struct plan_cache plans[GRAPH_COUNT];
    struct arena      run;
    char             *workspace;   /* lent to the cache whose plan runs */
    uint64_t          workspace_bytes;
    struct text_cache texts;
    /* inputs and results of a call */
    float  *sample, *said, *context, *pooled, *sizes, *guides, *rotation;
    float   times[CALL_ROWS_MAX];
    int32_t counts[CALL_ROWS_MAX], labels[CALL_ROWS_MAX];
    uint64_t sample_room, said_room, context_room, pooled_room, sizes_room, guides_room, rotation_room;
    int     rotation_of[3];        /* height and width in patches, tokens of texts: what `rotation` is for */
};

/* ---- request.c: from a question to a slot ---- */
enum status request_check(const struct engine *e, struct request *r, struct err *err);
enum status request_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err);
void        request_retire(struct slot *s);

/* ---- request_tensors.c ---- */
/* The question of a request without an image job; answers are not reserved. */
enum status request_read_tensors(struct image_job *j, const struct request *r, struct err *err);
enum status request_read_checked(const struct engine *e, struct image_job *j, struct request *r, struct err *err);      /* held against the signature first */
/* The pictures of a job that is over, as the request's output. */
enum status request_write_tensors(struct request *r, const struct image_job *j, struct err *err);

/* ---- text.c ---- */
/* Encodes the prompts of these slots. */
enum status text_encode(struct engine_instance *i, struct image_slot *const *slots, int n, const atomic_bool *stop, struct err *err);

/* ---- step.c ---- */
/* The plan for these shapes of a graph, bound to the instance's one workspace. */
enum status step_plan(struct engine_instance *i, enum diffusion_graph g, const struct operand *shapes, struct plan **out, struct err *err);
enum status step_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err);
/* `p` with room for so many floats; false: no memory. */
bool        step_room(float **p, uint64_t *room, uint64_t floats);
/* [channels, pixels] and [pixels, channels] */
void        planes_to_pixels(float *y, const float *x, int64_t channels, int64_t pixels, int64_t stride, float scale);
void        pixels_to_planes(float *y, const float *x, int64_t channels, int64_t pixels, int64_t stride);

/* ---- diffusion_engine.c ---- */
/* The graph that takes the place of this one when the card was lost; without a card, or while it works, the engine's own. */
enum status engine_graph(struct engine *e, enum diffusion_graph g, const struct graph **out, struct err *err);

/* ---- vae.c ---- */
/* Latents [channels, h, w] of a slot's size to pixels [height, width, 3]. */
enum status vae_decode(struct engine_instance *i, const struct image_slot *s, const float *latents, uint8_t *pixels, const atomic_bool *stop, struct err *err);
/* Mean and log variance, or what else the encoder gives, of a picture [height, width, channels] in -1..1: [out channels, h, w] in `y`. */
enum status vae_encode(struct engine_instance *i, const struct image_slot *s, const float *picture, float *y, const atomic_bool *stop, struct err *err);
/* The slot's given picture and mask become latents; the first noise is drawn. */
enum status vae_begin(struct engine_instance *i, struct image_slot *s, const atomic_bool *stop, struct err *err);

#endif
