/* Samplers: how latents are moved from noise to a picture by what the network says at each call. Named and set as the schedulers of diffusers are; the numbers follow theirs
 * (formulas in double, latents in float). A plan says when the network is called and is the same for all pictures of a request; a state belongs to one picture. */
#ifndef ENGINE_DIFFUSION_SAMPLER_H
#define ENGINE_DIFFUSION_SAMPLER_H

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/diffusion/noise.h"
#include "engine/image_job.h"

enum { TRAIN_STEPS_MAX = 10000, SAMPLER_HISTORY = 4 };

enum prediction { PREDICT_NOISE, PREDICT_VELOCITY, PREDICT_SAMPLE, PREDICT_FLOW };
enum spacing { SPACING_SAMPLER /* what the sampler's own default is */, SPACING_LEADING, SPACING_TRAILING, SPACING_LINSPACE };
enum tristate { UNSET, NO, YES };

/* scheduler_config.json. What it does not say is the default of the sampler that is used. */
struct sampler_config {
    enum image_sampler   sampler;          /* of its class, never SAMPLER_MODEL */
    enum image_schedule  schedule;
    enum prediction      prediction;
    enum spacing         spacing;
    int     train_steps, steps_offset;
    float  *alphas;                        /* [train_steps] cumulative products; arena */
    enum tristate clip_sample, set_alpha_to_one, skip_prk_steps, lower_order_final, euler_at_final;
    double  clip_range;
    enum { VARIANCE_SMALL, VARIANCE_SMALL_LOG, VARIANCE_LARGE } variance;
    bool    final_sigma_min;               /* final_sigmas_type "sigma_min" */
    double  sigma_min, sigma_max;          /* of Karras and exponential schedules; below 0: from the steps */
    int     solver_order;                  /* DPM++, UniPC; 0: 2 */
    bool    heun_solver, bh1;              /* solver_type */
    bool    disable_corrector_first;       /* UniPC: disable_corrector [0] */
    bool    sde;                           /* algorithm_type sde-dpmsolver++ */
    int     original_steps;                /* LCM; 0: 50 */
    double  timestep_scaling;              /* LCM; 0: 10 */
    bool    cosine_betas;
    bool    log_interpolation;             /* Euler: interpolation_type log_linear */
    bool    continuous_v;                  /* Euler: timestep_type continuous with v prediction */
    /* flow matching */
    bool    flow, dynamic_shift, linear_shift, stochastic;
    bool    from_one;                      /* set by the family: shares of noise go evenly from 1 to 1 / steps */
    double  shift, base_shift, max_shift, shift_terminal;
    int     base_tokens, max_tokens;
};
/* `config`: the object of the file. Allocates in `arena`. */
enum status sampler_config_read(struct sampler_config *c, const struct json *config, struct arena *arena, struct err *err);

struct sampler_plan {
    const struct sampler_config *config;
    enum image_sampler  sampler;           /* resolved */
    enum image_schedule schedule;
    int      steps, calls, order;          /* inference steps; calls of the network for a picture from pure noise; calls a step (Heun: 2) */
    int      begin;                        /* the first call that is made: above 0 when a picture is redrawn */
    float   *times;                        /* [calls] what the network is told */
    float   *sigmas;                       /* [calls + 1] where the sampler works with them, else NULL */
    float    start_scale;                  /* the first noise is multiplied by this */
    float    eta;
    bool     flow;
    int      prk_calls;                    /* PNDM: the Runge-Kutta calls at the beginning */
};
/* tokens: of the picture, for flow schedules that shift with its size. strength in 0..1 when a picture is redrawn, else 1. Heap; close it. */
enum status sampler_plan_open(struct sampler_plan *p, const struct sampler_config *c, enum image_sampler sampler, enum image_schedule schedule, int steps, double strength, double eta, int64_t tokens, struct err *err);
void        sampler_plan_close(struct sampler_plan *p);

struct sampler_state {
    float  *x;                             /* [count] latents */
    float  *original;                      /* [count] what the picture is taken to become, from the latest call */
    float  *history[SAMPLER_HISTORY];      /* newest first; NULL where the sampler keeps none */
    float  *kept;                          /* [count] a sample kept from an earlier call */
    float  *sum;                           /* PNDM */
    float  *fresh;                         /* noise drawn */
    int     kept_count;                    /* entries of history */
    int     counter, lower_orders, this_order;
    int64_t count;
    struct noise noise;
};
/* Memory for one picture of `count` latents; x is not set. */
enum status sampler_state_open(struct sampler_state *s, const struct sampler_plan *p, int64_t count, struct err *err);
void        sampler_state_close(struct sampler_state *s);

/* What the network is to see at call `call`: x times this. */
float       sampler_input_scale(const struct sampler_plan *p, int call);
/* One call of the network: `out` [count] is what it said. Moves s->x, sets s->original. */
void        sampler_step(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out);
/* y = the picture x0 with noise as it is at call `call` (calls: no noise left). */
void        sampler_add_noise(const struct sampler_plan *p, int call, float *y, const float *x0, const float *noise, int64_t count);

#endif
