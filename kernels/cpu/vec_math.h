/* exp, log, tanh, erf and the activations on one vector, within a few ulp over the whole range. The polynomials are minimax fits in the
 * interval named beside each (weighted least squares on Chebyshev nodes, in double). NaN comes out as NaN. */
#ifndef KERNELS_CPU_VEC_MATH_H
#define KERNELS_CPU_VEC_MATH_H

#include <float.h>

#include "kernels/cpu/vec.h"
#include "kernels/kernels.h"

/* c[0] + x c[1] + ... + x^(n-1) c[n-1]; n is a constant at every call, so the loop is straight code */
VEC_INLINE vec vec_poly(vec x, const float *c, int n)
{
    vec p = vec_set(c[n - 1]);
    for (int i = n - 2; i >= 0; i--) p = vec_fma(p, x, vec_set(c[i]));
    return p;
}
#define VEC_POLY(x, ...) vec_poly((x), (const float[]){ __VA_ARGS__ }, (int)(sizeof((const float[]){ __VA_ARGS__ }) / sizeof(float)))

VEC_INLINE vec vec_exp(vec x)
{
    x = vec_min(vec_set(89.0f), vec_max(vec_set(-104.0f), x));      /* beyond: inf and 0 */
    vec n = vec_round(x * vec_set(0x1.715476p+0f));
    vec r = vec_fma(n, vec_set(-0x1.62e43p-1f), x);                  /* ln 2 in two parts; |r| <= ln2/2 */
    r = vec_fma(n, vec_set(0x1.05c610p-29f), r);
    vec p = VEC_POLY(r, 5.000000101e-01f, 1.666651289e-01f, 4.166618728e-02f, 8.369598410e-03f, 1.395171725e-03f);
    return vec_scale(vec_fma(r * r, p, r) + vec_set(1.0f), n);
}

/* e^x - 1 without cancellation near 0 */
VEC_INLINE vec vec_expm1(vec x)
{
    vec p = VEC_POLY(x, 5.000000527e-01f, 1.666666837e-01f, 4.166508595e-02f, 8.333028480e-03f, 1.400633444e-03f, 2.000536317e-04f);   /* |x| <= 0.52 */
    return vec_if_less(vec_abs(x), vec_set(0.5f), vec_fma(x * x, p, x), vec_exp(x) - vec_set(1.0f));
}

VEC_INLINE vec vec_log(vec x)
{
    const float inf = __builtin_inff();
    vec e, small = vec_set(FLT_MIN), lift = vec_if_less(x, small, vec_set(23.0f), vec_set(0.0f));
    vec m = vec_mantissa(vec_if_less(x, small, x * vec_set(0x1p23f), x), &e);
    vec big = vec_set(0x1.6a09e6p+0f);                               /* sqrt 2: m ends in [1/sqrt 2, sqrt 2] */
    e = vec_if_less(big, m, e + vec_set(1.0f), e) - lift;
    m = vec_if_less(big, m, m * vec_set(0.5f), m);
    vec f = m - vec_set(1.0f), s = f / (f + vec_set(2.0f)), z = s * s, twice = s + s;
    vec q = VEC_POLY(z, 3.333333280e-01f, 2.000017279e-01f, 1.426830140e-01f, 1.179816720e-01f);   /* atanh(s) = s + s z q(z), z <= 0.0297 */
    vec low = vec_fma(twice * z, q, e * vec_set(-0x1.05c610p-29f));
    vec r = vec_fma(e, vec_set(0x1.62e43p-1f), twice + low);
    r = vec_if_less(x, vec_set(inf), r, x + x);
    vec outside = vec_if_less(x, vec_set(0.0f), vec_set(__builtin_nanf("")), x - vec_set(inf));
    return vec_if_less(vec_set(0.0f), x, r, outside);
}

/* log(1 + e) for e in [0, 1] */
VEC_INLINE vec vec_log1p_unit(vec e)
{
    vec s = e / (e + vec_set(2.0f)), z = s * s, twice = s + s;
    vec q = VEC_POLY(z, 3.333333318e-01f, 2.000002650e-01f, 1.428419804e-01f, 1.115075020e-01f, 8.573924617e-02f, 1.089619898e-01f);   /* z <= 1/9 */
    return vec_fma(twice * z, q, twice);
}

VEC_INLINE vec vec_sigmoid(vec x) { return vec_set(1.0f) / (vec_set(1.0f) + vec_exp(vec_set(0.0f) - x)); }

VEC_INLINE vec vec_tanh(vec x)
{
    vec a = vec_abs(x), z = x * x;
    vec p = VEC_POLY(z, -3.333327208e-01f, 1.333115276e-01f, -5.371410423e-02f, 2.055171067e-02f, -5.603905468e-03f);   /* |x| <= 0.64 */
    vec far = vec_set(1.0f) - vec_set(2.0f) / (vec_exp(a + a) + vec_set(1.0f));
    return vec_if_less(a, vec_set(0.625f), vec_fma(x * z, p, x), vec_sign_of(far, x));
}

/* 1 - erf(t) for t >= 0.45: e^(-t^2) u p(u) with u = 1 / (1 + t/2); the part of t^2 that rounding loses is put back */
VEC_INLINE vec vec_erfc_far(vec t)
{
    vec u = vec_set(1.0f) / vec_fma(t, vec_set(0.5f), vec_set(1.0f));
    vec p = VEC_POLY(u, 2.820959519e-01f, 2.820537400e-01f, 2.474712117e-01f, 1.705572817e-01f, 1.170829198e-01f, -1.344222581e-01f,
                     2.886144624e-01f, -6.661455728e-01f, 6.718056514e-01f, -3.199610984e-01f, 6.085143433e-02f);
    vec square = t * t, lost = vec_fma(t, t, vec_set(0.0f) - square);
    vec e = vec_exp(vec_set(0.0f) - square);
    return vec_fma(vec_set(0.0f) - lost, e, e) * (u * p);
}

/* erf(x) / x for |x| <= 1, z = x^2 */
VEC_INLINE vec vec_erf_near(vec z)
{
    return VEC_POLY(z, 1.128379166e+00f, -3.761262714e-01f, 1.128360018e-01f, -2.685444459e-02f, 5.189535339e-03f, -8.020841278e-04f, 7.889119525e-05f);
}

/* x/2 (1 + erf(x / sqrt 2)); below zero as x/2 erfc, which keeps its digits where 1 + erf would lose them. From -13.2 down it is 0 (to 1e-38): further out e^(-t^2) is denormal, which takes a
 * processor a hundred times as long. */
VEC_INLINE vec vec_gelu(vec x)
{
    vec s = x * vec_set(0x1.6a09e6p-1f), t = vec_min(vec_set(9.3f), vec_abs(s)), half = x * vec_set(0.5f);
    vec near = half * vec_fma(s, vec_erf_near(t * t), vec_set(1.0f));
    vec c = vec_if_less(t, vec_set(9.3f), vec_erfc_far(t), vec_set(0.0f)), far = half * vec_if_less(x, vec_set(0.0f), c, vec_set(2.0f) - c);
    return vec_if_less(t, vec_set(0.5f), near, far);
}

VEC_INLINE vec vec_erf(vec x)
{
    vec t = vec_min(vec_set(6.0f), vec_abs(x)), far = vec_sign_of(vec_set(1.0f) - vec_erfc_far(t), x);
    return vec_if_less(t, vec_set(0.9f), x * vec_erf_near(t * t), far);
}

VEC_INLINE vec vec_clamp(vec x, vec low, vec high) { return vec_min(high, vec_max(low, x)); }

/* `kind` is a constant at every call, so that one formula is left. */
VEC_INLINE vec vec_activate(vec x, enum activation kind, vec a, vec b)
{
    vec zero = vec_set(0.0f), one = vec_set(1.0f);
    switch (kind) {
    case ACT_RELU:         return vec_max(zero, x);
    case ACT_CLIP:         return vec_clamp(x, a, b);
    case ACT_LEAKY_RELU:   return vec_if_less(x, zero, x * a, x);
    case ACT_SIGMOID:      return vec_sigmoid(x);
    case ACT_TANH:         return vec_tanh(x);
    case ACT_SILU:         return x / (one + vec_exp(zero - x));
    case ACT_HARD_SIGMOID: return vec_clamp(vec_fma(x, a, b), zero, one);
    case ACT_HARD_SWISH:   return x * vec_clamp(vec_fma(x, vec_set(1.0f / 6.0f), vec_set(0.5f)), zero, one);
    case ACT_GELU:         return vec_gelu(x);
    case ACT_GELU_TANH: {
        vec inner = vec_set(0x1.988454p-1f) * vec_fma(x * x * x, vec_set(0.044715f), x);     /* sqrt(2/pi) */
        return x * vec_sigmoid(inner + inner);                                               /* (1 + tanh(v)) / 2 is sigmoid(2v) */
    }
    case ACT_ELU:          return vec_if_less(x, zero, a * vec_expm1(x), x);
    case ACT_SOFTPLUS:     return vec_max(zero, x) + vec_log1p_unit(vec_exp(zero - vec_abs(x)));
    case ACT_EXP:          return vec_exp(x);
    case ACT_QUICK_GELU:   return x / (one + vec_exp(vec_set(-1.702f) * x));
    case ACT_ERF:          return vec_erf(x);
    case ACT_NONE:
    case ACT_COUNT:        break;
    }
    return x;
}

/* Activations that are a clamp can be done where a result is stored; the others take a second pass over the stored span. */
VEC_INLINE int activation_is_clamp(struct activation_spec act, float *low, float *high)
{
    *low = act.kind == ACT_RELU ? 0.0f : act.kind == ACT_CLIP ? act.alpha : -__builtin_inff();
    *high = act.kind == ACT_CLIP ? act.beta : __builtin_inff();
    return act.kind == ACT_NONE || act.kind == ACT_RELU || act.kind == ACT_CLIP;
}

#define ACTIVATE_SPAN(kind_)                                                                                              \
    case kind_:                                                                                                           \
        for (; i + LANES <= n; i += LANES) vec_store(y + i, vec_activate(vec_load(x + i), kind_, a, b));                   \
        if (i < n) vec_store_n(y + i, vec_activate(vec_load_n(x + i, (int)(n - i)), kind_, a, b), (int)(n - i));           \
        break;

static __attribute__((unused, noinline)) void activate_span(float *y, const float *x, int64_t n, struct activation_spec act)
{
    vec a = vec_set(act.alpha), b = vec_set(act.beta);
    int64_t i = 0;
    switch (act.kind) {
    ACTIVATE_SPAN(ACT_RELU)
    ACTIVATE_SPAN(ACT_CLIP)
    ACTIVATE_SPAN(ACT_LEAKY_RELU)
    ACTIVATE_SPAN(ACT_SIGMOID)
    ACTIVATE_SPAN(ACT_TANH)
    ACTIVATE_SPAN(ACT_SILU)
    ACTIVATE_SPAN(ACT_HARD_SIGMOID)
    ACTIVATE_SPAN(ACT_HARD_SWISH)
    ACTIVATE_SPAN(ACT_GELU)
    ACTIVATE_SPAN(ACT_GELU_TANH)
    ACTIVATE_SPAN(ACT_ELU)
    ACTIVATE_SPAN(ACT_SOFTPLUS)
    ACTIVATE_SPAN(ACT_EXP)
    ACTIVATE_SPAN(ACT_QUICK_GELU)
    ACTIVATE_SPAN(ACT_ERF)
    case ACT_NONE:
    case ACT_COUNT:
        if (y != x) memmove(y, x, (size_t)n * sizeof *y);
    }
}
#undef ACTIVATE_SPAN

/* One vector, where the kind is known only while running. */
#define ACTIVATE_VEC(kind_) case kind_: return vec_activate(x, kind_, vec_set(act.alpha), vec_set(act.beta));
static __attribute__((unused, noinline)) vec activate_vec(vec x, struct activation_spec act)
{
    switch (act.kind) {
    ACTIVATE_VEC(ACT_RELU)
    ACTIVATE_VEC(ACT_CLIP)
    ACTIVATE_VEC(ACT_LEAKY_RELU)
    ACTIVATE_VEC(ACT_SIGMOID)
    ACTIVATE_VEC(ACT_TANH)
    ACTIVATE_VEC(ACT_SILU)
    ACTIVATE_VEC(ACT_HARD_SIGMOID)
    ACTIVATE_VEC(ACT_HARD_SWISH)
    ACTIVATE_VEC(ACT_GELU)
    ACTIVATE_VEC(ACT_GELU_TANH)
    ACTIVATE_VEC(ACT_ELU)
    ACTIVATE_VEC(ACT_SOFTPLUS)
    ACTIVATE_VEC(ACT_EXP)
    ACTIVATE_VEC(ACT_QUICK_GELU)
    ACTIVATE_VEC(ACT_ERF)
    case ACT_NONE:
    case ACT_COUNT: break;
    }
    return x;
}
#undef ACTIVATE_VEC

#endif
