/* One function for each sampler: from what the network said to the next latents. */
#include "engine/diffusion/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* ---- memory ---- */
static int history_of(const struct sampler_plan *p)
{
    switch (p->sampler) {
    case SAMPLER_PNDM:
    case SAMPLER_LMS:         return 4;
    case SAMPLER_HEUN:        return 1;
    case SAMPLER_DPMPP_2M:
    case SAMPLER_DPMPP_2M_SDE:
    case SAMPLER_UNIPC:       return p->config->solver_order < 2 ? 2 : p->config->solver_order;
    default:                  return 0;
    }
}

enum status sampler_state_open(struct sampler_state *s, const struct sampler_plan *p, int64_t count, struct err *err)
{
    const int history = history_of(p);
    *s = (struct sampler_state){ .count = count };
    float *all = mem_calloc_array((uint64_t)count, (uint64_t)(5 + history) * sizeof *all);      /* one block */
    if (!all) return err_set(err, ST_NO_MEMORY, "latents of %lld numbers", (long long)count);
    s->x = all;
    s->original = all + count;
    s->kept = all + 2 * count;
    s->sum = all + 3 * count;
    s->fresh = all + 4 * count;
    for (int i = 0; i < history; i++) s->history[i] = all + (5 + i) * count;
    return ST_OK;
}

void sampler_state_close(struct sampler_state *s)
{
    free(s->x);
    *s = (struct sampler_state){ 0 };
}

/* A new newest entry of the history; its numbers are set by the caller. */
static float *push(struct sampler_state *s, int most)
{
    float *last = s->history[most - 1];
    for (int i = most - 1; i > 0; i--) s->history[i] = s->history[i - 1];
    s->history[0] = last;
    if (s->kept_count < most) s->kept_count++;
    return last;
}

/* y = a x + b z */
static void mix(float *y, double a, const float *x, double b, const float *z, int64_t n)
{
    const float fa = (float)a, fb = (float)b;
    for (int64_t i = 0; i < n; i++) y[i] = fa * x[i] + fb * z[i];
}

static void add(float *y, double a, const float *x, int64_t n)
{
    const float f = (float)a;
    for (int64_t i = 0; i < n; i++) y[i] += f * x[i];
}

static void add_fresh(struct sampler_state *s, double scale)
{
    noise_fill(&s->noise, s->fresh, s->count);
    add(s->x, scale, s->fresh, s->count);
}

/* ---- samplers that know alphas ---- */
static double alpha_at(const struct sampler_config *c, int t)
{
    return (double)c->alphas[t < 0 ? 0 : t >= c->train_steps ? c->train_steps - 1 : t];
}

static double final_alpha(const struct sampler_plan *p)
{
    const bool one = p->sampler == SAMPLER_DDPM || (p->config->set_alpha_to_one == UNSET ? p->sampler != SAMPLER_PNDM : p->config->set_alpha_to_one == YES);
    return one ? 1 : (double)p->config->alphas[0];
}

/* What the picture is taken to become, from x with alpha and what the network said. */
static void original_by_alpha(const struct sampler_plan *p, struct sampler_state *s, double a, const float *out, bool clips)
{
    const double root = sqrt(a), rest = sqrt(1 - a);
    switch (p->config->prediction) {
    case PREDICT_VELOCITY: mix(s->original, root, s->x, -rest, out, s->count); break;
    case PREDICT_SAMPLE:   memcpy(s->original, out, (size_t)s->count * sizeof *out); break;
    default:               mix(s->original, 1 / root, s->x, -rest / root, out, s->count);
    }
    const float range = (float)p->config->clip_range;
    if (p->config->clip_sample == YES || (p->config->clip_sample == UNSET && clips))
        for (int64_t i = 0; i < s->count; i++) s->original[i] = s->original[i] > range ? range : s->original[i] < -range ? -range : s->original[i];
}

static void step_ddim(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const struct sampler_config *c = p->config;
    const int t = (int)p->times[call], before = t - c->train_steps / p->steps;
    const double a = alpha_at(c, t), b = before >= 0 ? alpha_at(c, before) : final_alpha(p);
    original_by_alpha(p, s, a, out, true);
    const double deviation = (double)p->eta * sqrt((1 - b) / (1 - a) * (1 - a / b)), direction = sqrt(1 - b - deviation * deviation), root = sqrt(b);
    float *noise = s->fresh;      /* the noise in x, as the network's answer implies it */
    if (c->prediction == PREDICT_NOISE) memcpy(noise, out, (size_t)s->count * sizeof *out);
    else if (c->prediction == PREDICT_VELOCITY) mix(noise, sqrt(a), out, sqrt(1 - a), s->x, s->count);
    else mix(noise, 1 / sqrt(1 - a), s->x, -sqrt(a) / sqrt(1 - a), out, s->count);
    mix(s->x, root, s->original, direction, noise, s->count);
    if (p->eta > 0) add_fresh(s, deviation);
}

static void step_ddpm(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const struct sampler_config *c = p->config;
    const int t = (int)p->times[call];
    const double a = alpha_at(c, t), b = call + 1 < p->calls ? alpha_at(c, (int)p->times[call + 1]) : 1, now = a / b, beta = 1 - now;
    original_by_alpha(p, s, a, out, true);
    mix(s->x, sqrt(b) * beta / (1 - a), s->original, sqrt(now) * (1 - b) / (1 - a), s->x, s->count);
    if (t <= 0) return;
    double variance = (1 - b) / (1 - a) * beta;
    if (variance < 1e-20) variance = 1e-20;
    add_fresh(s, c->variance == VARIANCE_LARGE ? sqrt(beta) : sqrt(variance));
}

static void step_lcm(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const struct sampler_config *c = p->config;
    const int t = (int)p->times[call];
    const double a = alpha_at(c, t), scaled = t * c->timestep_scaling, whole = scaled * scaled + 0.25;
    original_by_alpha(p, s, a, out, false);
    mix(s->original, scaled / sqrt(whole), s->original, 0.25 / whole, s->x, s->count);
    memcpy(s->x, s->original, (size_t)s->count * sizeof *s->x);
    if (call == p->calls - 1) return;
    const double b = alpha_at(c, (int)p->times[call + 1]);
    for (int64_t i = 0; i < s->count; i++) s->x[i] *= (float)sqrt(b);
    add_fresh(s, sqrt(1 - b));
}

/* ---- PNDM ---- */
static void pndm_move(const struct sampler_plan *p, struct sampler_state *s, const float *from, int t, int to, float *out)
{
    const double a = alpha_at(p->config, t), b = to >= 0 ? alpha_at(p->config, to) : final_alpha(p);
    if (p->config->prediction == PREDICT_VELOCITY) mix(out, sqrt(a), out, sqrt(1 - a), from, s->count);
    mix(s->original, 1 / sqrt(a), from, -sqrt(1 - a) / sqrt(a), out, s->count);
    mix(s->x, sqrt(b / a), from, -(b - a) / (a * sqrt(1 - b) + sqrt(a * (1 - a) * b)), out, s->count);
}

static void step_runge_kutta(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const int counter = s->counter++, ratio = p->config->train_steps / p->steps, t = (int)p->times[call];
    const int to = t - (counter % 2 ? 0 : ratio / 2), from = (int)p->times[counter / 4 * 4];
    if (counter % 4 == 0) {
        add(s->sum, 1.0 / 6, out, s->count);
        memcpy(push(s, 4), out, (size_t)s->count * sizeof *out);
        memcpy(s->kept, s->x, (size_t)s->count * sizeof *out);
    } else if (counter % 4 < 3) {
        add(s->sum, 1.0 / 3, out, s->count);
    }
    if (counter % 4 == 3) {
        mix(s->fresh, 1, s->sum, 1.0 / 6, out, s->count);
        memset(s->sum, 0, (size_t)s->count * sizeof *out);
    } else {
        memcpy(s->fresh, out, (size_t)s->count * sizeof *out);
    }
    pndm_move(p, s, s->kept, from, to, s->fresh);
}

static void step_pndm(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    if (s->counter < p->prk_calls) {
        step_runge_kutta(p, s, call, out);
        return;
    }
    const int ratio = p->config->train_steps / p->steps;
    int t = (int)p->times[call], to = t - ratio;
    const int64_t n = s->count;
    float *y = s->fresh;
    const float *from = s->x;
    if (s->counter != 1) memcpy(push(s, 4), out, (size_t)n * sizeof *out);
    else {
        to = t;
        t += ratio;
    }
    float *const *e = s->history;
    if (s->kept_count == 1 && s->counter == 0) {
        memcpy(y, out, (size_t)n * sizeof *y);
        memcpy(s->kept, s->x, (size_t)n * sizeof *y);
    } else if (s->kept_count == 1 && s->counter == 1) {
        mix(y, 0.5, out, 0.5, e[0], n);
        from = s->kept;
    } else if (s->kept_count == 2) mix(y, 1.5, e[0], -0.5, e[1], n);
    else if (s->kept_count == 3) {
        mix(y, 23.0 / 12, e[0], -16.0 / 12, e[1], n);
        add(y, 5.0 / 12, e[2], n);
    } else {
        mix(y, 55.0 / 24, e[0], -59.0 / 24, e[1], n);
        add(y, 37.0 / 24, e[2], n);
        add(y, -9.0 / 24, e[3], n);
    }
    pndm_move(p, s, from, t, to, y);
    s->counter++;
}

/* ---- samplers that know sigmas ---- */
static void original_by_sigma(const struct sampler_plan *p, struct sampler_state *s, double sigma, const float *out)
{
    const double whole = sigma * sigma + 1;
    switch (p->config->prediction) {
    case PREDICT_VELOCITY: mix(s->original, 1 / whole, s->x, -sigma / sqrt(whole), out, s->count); break;
    case PREDICT_SAMPLE:   memcpy(s->original, out, (size_t)s->count * sizeof *out); break;
    default:               mix(s->original, 1, s->x, -sigma, out, s->count);
    }
    const float range = (float)p->config->clip_range;
    if (p->sampler == SAMPLER_HEUN && p->config->clip_sample == YES)
        for (int64_t i = 0; i < s->count; i++) s->original[i] = s->original[i] > range ? range : s->original[i] < -range ? -range : s->original[i];
}

static void step_euler(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const double sigma = (double)p->sigmas[call], next = (double)p->sigmas[call + 1];
    double to = next, up = 0;
    original_by_sigma(p, s, sigma, out);
    if (p->sampler == SAMPLER_EULER_ANCESTRAL) {
        up = sqrt(next * next * (sigma * sigma - next * next) / (sigma * sigma));
        to = sqrt(next * next - up * up);
    }
    const double move = (to - sigma) / sigma;
    mix(s->x, 1 + move, s->x, -move, s->original, s->count);
    if (p->sampler == SAMPLER_EULER_ANCESTRAL) add_fresh(s, up);
}

static void step_heun(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const bool first = s->counter % 2 == 0;
    const int64_t n = s->count;
    const double sigma = (double)p->sigmas[first ? call : call - 1], next = (double)p->sigmas[first ? call + 1 : call], here = first ? sigma : next;
    float *slope = s->history[0];
    original_by_sigma(p, s, here, out);
    s->counter++;
    if (first) {
        mix(slope, 1 / here, s->x, -1 / here, s->original, n);
        memcpy(s->kept, s->x, (size_t)n * sizeof *out);
        add(s->x, next - sigma, slope, n);
        return;
    }
    mix(s->fresh, 1 / here, s->x, -1 / here, s->original, n);
    mix(slope, 0.5, slope, 0.5, s->fresh, n);
    mix(s->x, 1, s->kept, next - sigma, slope, n);
}

/* The integral from sigma[t] to sigma[t + 1] of the polynomial that is 1 at sigma[t - which] and 0 at the other `order` - 1 before: exact by Gauss-Legendre with four points. */
static double lms_coefficient(const struct sampler_plan *p, int order, int t, int which)
{
    static const double point[] = { 0.33998104358485626, 0.86113631159405258 }, weight[] = { 0.65214515486254614, 0.34785484513745386 };
    const double from = (double)p->sigmas[t], to = (double)p->sigmas[t + 1], center = (from + to) / 2, half = (to - from) / 2;
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        const double tau = center + half * (i % 2 ? point[i / 2] : -point[i / 2]);
        double product = 1;
        for (int k = 0; k < order; k++)
            if (k != which) product *= (tau - (double)p->sigmas[t - k]) / ((double)p->sigmas[t - which] - (double)p->sigmas[t - k]);
        sum += weight[i / 2] * product;
    }
    return sum * half;
}

static void step_lms(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const double sigma = (double)p->sigmas[call];
    original_by_sigma(p, s, sigma, out);
    mix(push(s, 4), 1 / sigma, s->x, -1 / sigma, s->original, s->count);
    const int order = call + 1 < 4 ? call + 1 : 4;
    for (int k = 0; k < order && k < s->kept_count; k++) add(s->x, lms_coefficient(p, order, call, k), s->history[k], s->count);
}

static void step_flow(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const double sigma = (double)p->sigmas[call], next = (double)p->sigmas[call + 1];
    mix(s->original, 1, s->x, -sigma, out, s->count);
    if (!p->config->stochastic) {
        add(s->x, (double)(p->sigmas[call + 1] - p->sigmas[call]), out, s->count);
        return;
    }
    for (int64_t i = 0; i < s->count; i++) s->x[i] = (float)(1 - next) * s->original[i];
    add_fresh(s, next);
}

/* ---- solvers ---- */
struct level { double alpha, sigma, lambda; };

static struct level level_at(const struct sampler_plan *p, int i)
{
    const double s = (double)p->sigmas[i];
    struct level l = { p->flow ? 1 - s : 1 / sqrt(s * s + 1), 0, 0 };
    l.sigma = p->flow ? s : s * l.alpha;
    l.lambda = log(l.alpha) - log(l.sigma);
    return l;
}

static void original_by_solver(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out, float *y)
{
    const struct level l = level_at(p, call);
    switch (p->config->prediction) {
    case PREDICT_VELOCITY: mix(y, l.alpha, s->x, -l.sigma, out, s->count); break;
    case PREDICT_SAMPLE:   memcpy(y, out, (size_t)s->count * sizeof *out); break;
    case PREDICT_FLOW:     mix(y, 1, s->x, -(double)p->sigmas[call], out, s->count); break;
    default:               mix(y, 1 / l.alpha, s->x, -l.sigma / l.alpha, out, s->count);
    }
    memcpy(s->original, y, (size_t)s->count * sizeof *y);
}

static void step_dpm(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const struct sampler_config *c = p->config;
    const bool sde = p->sampler == SAMPLER_DPMPP_2M_SDE, lower = c->lower_order_final != NO;
    const int left = p->calls - call, order = c->solver_order;
    const int64_t n = s->count;
    original_by_solver(p, s, call, out, push(s, order < 2 ? 2 : order));
    const bool first_only = order == 1 || s->lower_orders < 1 || (left == 1 && (c->euler_at_final == YES || (lower && p->calls < 15) || !c->final_sigma_min));
    const bool second_only = order == 2 || s->lower_orders < 2 || (left == 2 && lower && p->calls < 15);
    const struct level t = level_at(p, call + 1), s0 = level_at(p, call), s1 = level_at(p, call > 0 ? call - 1 : 0), s2 = level_at(p, call > 1 ? call - 2 : 0);
    const double h = t.lambda - s0.lambda, shrink = sde ? exp(-2 * h) : exp(-h);
    const double keep = t.sigma / s0.sigma * (sde ? exp(-h) : 1), main = t.alpha * (1 - shrink);
    if (sde) noise_fill(&s->noise, s->fresh, n);
    float *const *m = s->history;
    if (first_only) {
        mix(s->x, keep, s->x, main, m[0], n);
    } else if (second_only) {
        const double r = (s0.lambda - s1.lambda) / h;
        const double slope = !c->heun_solver ? main / 2 : sde ? t.alpha * ((1 - shrink) / (-2 * h) + 1) : t.alpha * ((shrink - 1) / h + 1);
        mix(s->x, keep, s->x, main + slope / r, m[0], n);
        add(s->x, -slope / r, m[1], n);
    } else {
        const double r0 = (s0.lambda - s1.lambda) / h, r1 = (s1.lambda - s2.lambda) / h, both = r0 + r1;
        const double d1 = sde ? t.alpha * ((1 - shrink) / (-2 * h) + 1) : t.alpha * ((shrink - 1) / h + 1);
        const double d2 = sde ? t.alpha * ((1 - shrink - 2 * h) / (4 * h * h) - 0.5) : -t.alpha * ((shrink - 1 + h) / (h * h) - 0.5);
        /* D1 = a (1 + r0 / both) - b r0 / both and D2 = (a - b) / both, with a = (m0 - m1) / r0, b = (m1 - m2) / r1 */
        const double of_a = d1 * (1 + r0 / both) + d2 / both, of_b = -d1 * r0 / both - d2 / both;
        mix(s->x, keep, s->x, main + of_a / r0, m[0], n);
        add(s->x, -of_a / r0 + of_b / r1, m[1], n);
        add(s->x, -of_b / r1, m[2], n);
    }
    if (sde) add(s->x, t.sigma * sqrt(1 - shrink), s->fresh, n);
    if (s->lower_orders < order) s->lower_orders++;
}

/* Solves the `n` equations m x = b (n <= 3) in place. */
static void solve(double m[3][3], double *b, int n)
{
    for (int i = 0; i < n; i++) {
        int pivot = i;
        for (int r = i + 1; r < n; r++)
            if (fabs(m[r][i]) > fabs(m[pivot][i])) pivot = r;
        for (int k = 0; k < n; k++) {
            const double v = m[i][k];
            m[i][k] = m[pivot][k];
            m[pivot][k] = v;
        }
        const double v = b[i];
        b[i] = b[pivot];
        b[pivot] = v;
        for (int r = i + 1; r < n; r++) {
            const double f = m[r][i] / m[i][i];
            for (int k = i; k < n; k++) m[r][k] -= f * m[i][k];
            b[r] -= f * b[i];
        }
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++) b[i] -= m[i][k] * b[k];
        b[i] /= m[i][i];
    }
}

/* UniPC's weights for a step from call `at` to `at` + 1, of `order`: rk of the older answers, then what the differences weigh. */
static double unipc_weights(const struct sampler_plan *p, int at, int order, bool corrects, double *rk, double *rho, double *phi)
{
    const struct level t = level_at(p, at + 1), s0 = level_at(p, at);
    const double h = t.lambda - s0.lambda, hh = -h;
    double m[3][3], b[3], k = expm1(hh) / hh - 1, factorial = 1;
    const double scale = p->config->bh1 ? hh : expm1(hh);
    for (int i = 1; i < order; i++) rk[i - 1] = (level_at(p, at - i > 0 ? at - i : 0).lambda - s0.lambda) / h;
    rk[order - 1] = 1;
    for (int i = 1; i <= order; i++) {
        for (int r = 0; r < order; r++) m[i - 1][r] = pow(rk[r], i - 1);
        b[i - 1] = k * factorial / scale;
        factorial *= i + 1;
        k = k / hh - 1 / factorial;
    }
    const int unknown = corrects ? order : order - 1;
    if (unknown > 0) {
        const bool simple = corrects ? order == 1 : order == 2;
        if (!simple) solve(m, b, unknown);
        for (int i = 0; i < unknown; i++) rho[i] = simple ? 0.5 : b[i];
    }
    *phi = expm1(hh);
    return scale;
}

/* y = the step from `x` at call `at`, from the answers m (newest first) and, when it corrects, the answer `there` at its end. */
static void unipc_move(const struct sampler_plan *p, int at, int order, float *y, const float *x, float *const *m, const float *there, int64_t n)
{
    const struct level t = level_at(p, at + 1), s0 = level_at(p, at);
    double rk[3], rho[3] = { 0 }, phi, scale = unipc_weights(p, at, order, there != NULL, rk, rho, &phi), first = -t.alpha * phi;
    for (int i = 1; i < order; i++) first += t.alpha * scale * rho[i - 1] / rk[i - 1];
    if (there) first += t.alpha * scale * rho[order - 1];
    mix(y, t.sigma / s0.sigma, x, first, m[0], n);
    for (int i = 1; i < order; i++) add(y, -t.alpha * scale * rho[i - 1] / rk[i - 1], m[i], n);
    if (there) add(y, -t.alpha * scale * rho[order - 1], there, n);
}

static void step_unipc(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    const struct sampler_config *c = p->config;
    const int order = c->solver_order, most = order < 2 ? 2 : order;
    const int64_t n = s->count;
    original_by_solver(p, s, call, out, s->fresh);
    if (s->counter > 0 && !(c->disable_corrector_first && call == 1)) unipc_move(p, call - 1, s->this_order, s->x, s->kept, s->history, s->fresh, n);
    memcpy(push(s, most), s->fresh, (size_t)n * sizeof *out);
    int now = order;
    if (c->lower_order_final != NO && p->calls - call < now) now = p->calls - call;
    s->this_order = now < s->lower_orders + 1 ? now : s->lower_orders + 1;
    memcpy(s->kept, s->x, (size_t)n * sizeof *out);
    unipc_move(p, call, s->this_order, s->x, s->kept, s->history, NULL, n);
    if (s->lower_orders < order) s->lower_orders++;
    s->counter++;
}

/* ---- all of them ---- */
void sampler_step(const struct sampler_plan *p, struct sampler_state *s, int call, const float *out)
{
    static void (*const steps[SAMPLER_COUNT])(const struct sampler_plan *, struct sampler_state *, int, const float *) = {
        [SAMPLER_DDPM] = step_ddpm, [SAMPLER_DDIM] = step_ddim, [SAMPLER_PNDM] = step_pndm, [SAMPLER_EULER] = step_euler, [SAMPLER_EULER_ANCESTRAL] = step_euler, [SAMPLER_HEUN] = step_heun,
        [SAMPLER_DPMPP_2M] = step_dpm, [SAMPLER_DPMPP_2M_SDE] = step_dpm, [SAMPLER_LMS] = step_lms, [SAMPLER_UNIPC] = step_unipc, [SAMPLER_LCM] = step_lcm, [SAMPLER_FLOW_EULER] = step_flow,
    };
    steps[p->sampler](p, s, call, out);
}

float sampler_input_scale(const struct sampler_plan *p, int call)
{
    switch (p->sampler) {
    case SAMPLER_EULER:
    case SAMPLER_EULER_ANCESTRAL:
    case SAMPLER_HEUN:
    case SAMPLER_LMS: return 1 / sqrtf(p->sigmas[call] * p->sigmas[call] + 1);
    default:          return 1;
    }
}

void sampler_add_noise(const struct sampler_plan *p, int call, float *y, const float *x0, const float *noise, int64_t count)
{
    double keep = 1, more = 0;
    if (call < p->calls) {
        switch (p->sampler) {
        case SAMPLER_EULER:
        case SAMPLER_EULER_ANCESTRAL:
        case SAMPLER_HEUN:
        case SAMPLER_LMS:
            more = (double)p->sigmas[call];
            break;
        case SAMPLER_FLOW_EULER:
            more = (double)p->sigmas[call];
            keep = 1 - more;
            break;
        case SAMPLER_DPMPP_2M:
        case SAMPLER_DPMPP_2M_SDE:
        case SAMPLER_UNIPC: {
            const struct level l = level_at(p, call);
            keep = l.alpha;
            more = l.sigma;
            break;
        }
        default: {
            const double a = alpha_at(p->config, (int)p->times[call]);
            keep = sqrt(a);
            more = sqrt(1 - a);
        }
        }
    }
    mix(y, keep, x0, more, noise, count);
}
