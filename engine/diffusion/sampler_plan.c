/* When the network is called and at which noise. Three families of samplers space their steps in three ways: those that know alphas only (DDPM, DDIM, PNDM) take whole times of the
 * training; those that work with sigmas (Euler, Heun, LMS) take times between; the multistep solvers (DPM++, UniPC) take one step more and drop the last. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/diffusion/sampler.h"

enum kind { BY_ALPHA, BY_SIGMA, BY_SOLVER, BY_LCM, BY_FLOW };

static const struct { enum kind kind; enum spacing spacing; bool schedules; } samplers[SAMPLER_COUNT] = {
    [SAMPLER_DDPM] = { BY_ALPHA, SPACING_LEADING, false }, [SAMPLER_DDIM] = { BY_ALPHA, SPACING_LEADING, false }, [SAMPLER_PNDM] = { BY_ALPHA, SPACING_LEADING, false },
    [SAMPLER_EULER] = { BY_SIGMA, SPACING_LINSPACE, true }, [SAMPLER_EULER_ANCESTRAL] = { BY_SIGMA, SPACING_LINSPACE, true }, [SAMPLER_HEUN] = { BY_SIGMA, SPACING_LINSPACE, true },
    [SAMPLER_LMS] = { BY_SIGMA, SPACING_LINSPACE, true }, [SAMPLER_DPMPP_2M] = { BY_SOLVER, SPACING_LINSPACE, true }, [SAMPLER_DPMPP_2M_SDE] = { BY_SOLVER, SPACING_LINSPACE, true },
    [SAMPLER_UNIPC] = { BY_SOLVER, SPACING_LINSPACE, true }, [SAMPLER_LCM] = { BY_LCM, SPACING_LEADING, false }, [SAMPLER_FLOW_EULER] = { BY_FLOW, SPACING_LINSPACE, true },
};

/* In floats, as diffusers has them: which whole time a sigma becomes hangs on the last bit. */
static double sigma_of(float alpha) { return (double)sqrtf((1 - alpha) / alpha); }
static double log_sigma_of(float alpha) { return (double)logf((float)sigma_of(alpha)); }

/* Times of the steps, largest first. */
static void space_times(const struct sampler_plan *p, double *t)
{
    const struct sampler_config *c = p->config;
    const enum kind kind = samplers[p->sampler].kind;
    const enum spacing spacing = c->spacing != SPACING_SAMPLER ? c->spacing : samplers[p->sampler].spacing;
    const int n = p->steps, more = kind == BY_SOLVER;
    for (int i = 0; i < n; i++) {
        const int up = n - 1 - i + more;        /* the same step counted from the smallest */
        if (spacing == SPACING_LEADING) t[i] = (double)up * (c->train_steps / (n + more)) + c->steps_offset;
        else if (spacing == SPACING_TRAILING) t[i] = rint(c->train_steps - i * ((double)c->train_steps / n)) - 1;
        else {
            t[i] = n + more > 1 ? (double)up * (c->train_steps - 1) / (n + more - 1) : 0;
            t[i] = kind == BY_SIGMA ? (double)(float)t[i] : rint(t[i]);
        }
    }
}

/* A time at which the training had this sigma, between two of its times. */
static double time_of_sigma(const struct sampler_config *c, double sigma)
{
    const double wanted = log(sigma > 1e-10 ? sigma : 1e-10);
    int low = 0;
    while (low < c->train_steps - 2 && log_sigma_of(c->alphas[low + 1]) <= wanted) low++;
    const double a = log_sigma_of(c->alphas[low]), b = log_sigma_of(c->alphas[low + 1]);
    double w = (a - wanted) / (a - b);
    w = w < 0 ? 0 : w > 1 ? 1 : w;
    return (1 - w) * low + w * (low + 1);
}

/* The training's sigma at a time between its own. */
static double sigma_at(const struct sampler_config *c, double t)
{
    if (t <= 0) return sigma_of(c->alphas[0]);
    if (t >= c->train_steps - 1) return sigma_of(c->alphas[c->train_steps - 1]);
    const int low = (int)t;
    const double a = sigma_of(c->alphas[low]), b = sigma_of(c->alphas[low + 1]);
    return a + (b - a) * (t - low);
}

static void reschedule(const struct sampler_plan *p, double *sigmas, double high, double low)
{
    const struct sampler_config *c = p->config;
    if (c->sigma_max >= 0 && (p->sampler == SAMPLER_EULER || p->sampler == SAMPLER_UNIPC)) high = c->sigma_max;
    if (c->sigma_min >= 0 && (p->sampler == SAMPLER_EULER || p->sampler == SAMPLER_UNIPC)) low = c->sigma_min;
    const double rho = 7, a = pow(high, 1 / rho), b = pow(low, 1 / rho);
    for (int i = 0; i < p->steps; i++) {
        const double part = p->steps > 1 ? (double)i / (p->steps - 1) : 0;
        sigmas[i] = p->schedule == SCHEDULE_KARRAS ? pow(a + part * (b - a), rho) : exp(log(high) + part * (log(low) - log(high)));
    }
}

/* Solvers over flows: sigma is the share of noise. */
static void flow_solver(const struct sampler_plan *p, double *t, double *sigmas)
{
    const struct sampler_config *c = p->config;
    for (int i = 0; i < p->steps; i++) {
        const double s = p->sampler == SAMPLER_UNIPC ? 1 + (double)i / p->steps * (1.0 / c->train_steps - 1) : (1 - 1.0 / c->train_steps) * (p->steps - i) / p->steps;
        sigmas[i] = c->shift * s / (1 + (c->shift - 1) * s);
        if (p->sampler == SAMPLER_UNIPC && i == 0 && fabs(sigmas[0] - 1) < 1e-6) sigmas[0] -= 1e-6;
        t[i] = sigmas[i] * c->train_steps;
    }
}

static void space_sigmas(struct sampler_plan *p, double *t, double *sigmas)
{
    const struct sampler_config *c = p->config;
    const bool solver = samplers[p->sampler].kind == BY_SOLVER;
    const int n = p->steps;
    sigmas[n] = c->final_sigma_min && (solver || p->sampler == SAMPLER_EULER) ? sigma_of(c->alphas[0]) : 0;
    for (int i = 0; i < n; i++) sigmas[i] = sigma_at(c, t[i]);
    if (p->schedule == SCHEDULE_DISCRETE && c->log_interpolation && p->sampler == SAMPLER_EULER) {
        const double high = log_sigma_of(c->alphas[c->train_steps - 1]), low = log_sigma_of(c->alphas[0]);
        for (int i = 0; i <= n; i++) sigmas[i] = exp(high + (double)i / n * (low - high));
    }
    if (p->schedule == SCHEDULE_DISCRETE && solver && c->flow) flow_solver(p, t, sigmas);
    if (p->schedule != SCHEDULE_DISCRETE) {
        reschedule(p, sigmas, solver ? sigma_of(c->alphas[c->train_steps - 1]) : sigmas[0], solver ? sigma_of(c->alphas[0]) : sigmas[n - 1]);
        const bool whole = solver && p->schedule == SCHEDULE_KARRAS && (p->sampler == SAMPLER_UNIPC || !c->cosine_betas);
        for (int i = 0; i < n; i++) t[i] = whole ? rint(time_of_sigma(c, sigmas[i])) : time_of_sigma(c, sigmas[i]);
        if (p->sampler == SAMPLER_UNIPC && c->final_sigma_min) sigmas[n] = sigmas[n - 1];
    }
    if (solver)
        for (int i = 0; i < n; i++) t[i] = trunc(t[i]);
}

static void flow_times(struct sampler_plan *p, double *t, double *sigmas, int64_t tokens)
{
    const struct sampler_config *c = p->config;
    const int n = p->steps;
    const double first = 1.0 / c->train_steps, low = c->dynamic_shift ? first : c->shift * first / (1 + (c->shift - 1) * first);
    const double mu = (double)tokens * (c->max_shift - c->base_shift) / (c->max_tokens - c->base_tokens) + c->base_shift - (c->max_shift - c->base_shift) / (c->max_tokens - c->base_tokens) * c->base_tokens;
    for (int i = 0; i < n; i++) {
        double s = c->from_one ? n > 1 ? 1 + (double)i / (n - 1) * (1.0 / n - 1) : 1 : n > 1 ? 1 + (double)i / (n - 1) * (low - 1) : 1;
        if (c->from_one) s = (double)(float)s;
        if (!c->dynamic_shift) s = c->shift * s / (1 + (c->shift - 1) * s);
        else s = c->linear_shift ? mu / (mu + (1 / s - 1)) : exp(mu) / (exp(mu) + (1 / s - 1));
        sigmas[i] = s;
    }
    if (c->shift_terminal > 0) {
        const double factor = (1 - sigmas[n - 1]) / (1 - c->shift_terminal);
        for (int i = 0; i < n; i++) sigmas[i] = 1 - (1 - sigmas[i]) / factor;
    }
    if (p->schedule != SCHEDULE_DISCRETE) reschedule(p, sigmas, sigmas[0], sigmas[n - 1]);
    sigmas[n] = 0;
    for (int i = 0; i < n; i++) t[i] = (double)((float)sigmas[i] * (float)c->train_steps);
}

static enum status lcm_times(const struct sampler_plan *p, double *t, struct err *err)
{
    const struct sampler_config *c = p->config;
    const int k = c->train_steps / c->original_steps;
    if (p->steps > c->original_steps) return err_set(err, ST_BAD_INPUT, "steps must be at most %d with this sampler", c->original_steps);
    for (int i = 0; i < p->steps; i++) t[i] = (double)(c->original_steps - (int)floor((double)i * c->original_steps / p->steps)) * k - 1;
    return ST_OK;
}

/* ---- calls ---- */
static void calls_of_pndm(struct sampler_plan *p, const double *t)
{
    const int n = p->steps, ratio = p->config->train_steps / n;
    float *y = p->times;
    if (p->config->skip_prk_steps == YES) {
        for (int i = 0; i < n; i++) {
            *y++ = (float)t[i];
            if (i == 1) *y++ = (float)t[i];
        }
    } else {
        for (int i = 0; i < 4; i++) {      /* the largest four times, each with what lies half a step above the next smaller one */
            *y++ = (float)t[i];
            if (i > 0) *y++ = (float)t[i];
            if (i < 3) {
                *y++ = (float)(t[i + 1] + ratio / 2);
                *y++ = (float)(t[i + 1] + ratio / 2);
            }
        }
        p->prk_calls = 12;
        y = p->times + 12;
        for (int i = 3; i < n; i++) *y++ = (float)t[i];
    }
}

static void calls_of_heun(struct sampler_plan *p, const double *t, const double *sigmas)
{
    for (int call = 0; call < p->calls; call++) {
        const int i = (call + 1) / 2;
        p->times[call] = (float)t[i];
        p->sigmas[call] = (float)sigmas[i];
    }
    p->sigmas[p->calls] = (float)sigmas[p->steps];
}

static float start_scale(const struct sampler_plan *p)
{
    if (samplers[p->sampler].kind != BY_SIGMA) return 1;
    const enum spacing spacing = p->config->spacing != SPACING_SAMPLER ? p->config->spacing : samplers[p->sampler].spacing;
    float high = 0;
    for (int i = 0; i <= p->calls; i++)
        if (p->sigmas[i] > high) high = p->sigmas[i];
    return spacing == SPACING_LEADING ? sqrtf(high * high + 1) : high;
}

static enum status check_plan(const struct sampler_plan *p, struct err *err)
{
    const struct sampler_config *c = p->config;
    if (p->steps < 1 || p->steps > IMAGE_STEPS_MAX || p->steps > c->train_steps) return err_set(err, ST_BAD_INPUT, "steps must be between 1 and %d", c->train_steps < IMAGE_STEPS_MAX ? c->train_steps : IMAGE_STEPS_MAX);
    if (p->schedule != SCHEDULE_DISCRETE && !samplers[p->sampler].schedules) return err_set(err, ST_BAD_INPUT, "schedule '%s' is not offered with sampler '%s'", image_schedule_name(p->schedule), image_sampler_name(p->sampler));
    const bool flow_model = c->prediction == PREDICT_FLOW, takes_flow = p->sampler == SAMPLER_FLOW_EULER || samplers[p->sampler].kind == BY_SOLVER;
    if (flow_model && !takes_flow) return err_set(err, ST_BAD_INPUT, "sampler '%s' does not fit this model, which was trained on flows: flow_euler does", image_sampler_name(p->sampler));
    if (!flow_model && p->sampler == SAMPLER_FLOW_EULER) return err_set(err, ST_BAD_INPUT, "sampler 'flow_euler' needs a model that was trained on flows");
    if (p->sampler == SAMPLER_PNDM && c->skip_prk_steps != YES && p->steps < 4) return err_set(err, ST_BAD_INPUT, "sampler 'pndm' needs at least 4 steps here");
    if (c->prediction == PREDICT_SAMPLE && p->sampler == SAMPLER_PNDM) return err_set(err, ST_BAD_INPUT, "sampler 'pndm' does not fit a model that predicts the sample");
    return ST_OK;
}

/* Where a picture that is redrawn begins. */
static void begin_at(struct sampler_plan *p, double strength)
{
    const double s = rint(strength * 1e6) / 1e6;      /* what was written, not what a float makes of it */
    int left = (int)(p->steps * s);
    if (left > p->steps) left = p->steps;
    int first = p->config->flow ? (int)(p->steps - p->steps * s) : p->steps - left;
    p->begin = first < 0 ? 0 : first * p->order;
}

enum status sampler_plan_open(struct sampler_plan *p, const struct sampler_config *c, enum image_sampler sampler, enum image_schedule schedule, int steps, double strength, double eta, int64_t tokens, struct err *err)
{
    *p = (struct sampler_plan){ .config = c, .sampler = sampler == SAMPLER_MODEL ? c->sampler : sampler, .schedule = schedule == SCHEDULE_MODEL ? c->schedule : schedule, .steps = steps, .order = 1, .eta = (float)eta, .flow = c->flow };
    if (schedule == SCHEDULE_MODEL && !samplers[p->sampler].schedules) p->schedule = SCHEDULE_DISCRETE;
    enum status st = check_plan(p, err);
    if (st) return st;
    const enum kind kind = samplers[p->sampler].kind;
    if (p->sampler == SAMPLER_HEUN) p->order = 2;
    p->calls = p->sampler == SAMPLER_HEUN ? 2 * steps - 1 : p->sampler != SAMPLER_PNDM ? steps : c->skip_prk_steps == YES ? steps + (steps > 1) : steps + 9;
    p->times = mem_calloc_array((uint64_t)p->calls + 1, sizeof *p->times);
    if (kind != BY_ALPHA && kind != BY_LCM) p->sigmas = mem_calloc_array((uint64_t)p->calls + 1, sizeof *p->sigmas);
    double *t = mem_calloc_array((uint64_t)steps + 1, 2 * sizeof *t), *sigmas = t ? t + steps + 1 : NULL;
    if (!p->times || !t || (kind != BY_ALPHA && kind != BY_LCM && !p->sigmas)) st = err_set(err, ST_NO_MEMORY, "planning %d steps", steps);
    if (!st && kind == BY_LCM) st = lcm_times(p, t, err);
    if (!st && kind == BY_FLOW) flow_times(p, t, sigmas, tokens);
    if (!st && kind != BY_LCM && kind != BY_FLOW) space_times(p, t);
    if (!st && (kind == BY_SIGMA || kind == BY_SOLVER)) space_sigmas(p, t, sigmas);
    if (!st && p->sampler == SAMPLER_PNDM) calls_of_pndm(p, t);
    else if (!st && p->sampler == SAMPLER_HEUN) calls_of_heun(p, t, sigmas);
    for (int i = 0; !st && i <= steps && p->sampler != SAMPLER_PNDM && p->sampler != SAMPLER_HEUN; i++) {
        if (i < steps) p->times[i] = (float)t[i];
        if (p->sigmas) p->sigmas[i] = (float)sigmas[i];
        if (i < steps && c->continuous_v && p->sampler == SAMPLER_EULER) p->times[i] = 0.25f * logf(p->sigmas[i]);
    }
    free(t);
    if (!st) {
        p->start_scale = start_scale(p);
        begin_at(p, strength);
        if (p->begin >= p->calls) st = err_set(err, ST_BAD_INPUT, "strength %g leaves nothing to do in %d steps", strength, steps);
    }
    if (st) sampler_plan_close(p);
    return st;
}

void sampler_plan_close(struct sampler_plan *p)
{
    free(p->times);
    free(p->sigmas);
    p->times = p->sigmas = NULL;
}
