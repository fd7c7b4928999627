/* DFT and STFT in double. Lengths that are powers of two are halved recursively (in place, iteratively); any other length is summed directly, with the
 * angles from one table, so that every result has one order of additions. */
#include <string.h>

#include "base/checked.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum { FOURIER_MAX = 1 << 24, DIRECT_MAX = 1 << 15 };      /* lengths; the second of those that are summed directly */

struct complex { double re, im; };

static bool is_power(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

static void swap(struct complex *a, struct complex *b)
{
    struct complex t = *a;
    *a = *b;
    *b = t;
}

/* x becomes its transform; n a power of two. turn[k] = exp(-+2 pi i k / n). */
static void transform_power(struct complex *x, int64_t n, const struct complex *turn)
{
    for (int64_t i = 1, j = 0; i < n; i++) {
        int64_t bit = n >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i < j) swap(&x[i], &x[j]);
    }
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t start = 0; start < n; start += 2 * half)
            for (int64_t k = 0; k < half; k++) {
                struct complex w = turn[k * (n / (2 * half))], *p = &x[start + k], *q = p + half;
                struct complex t = { w.re * q->re - w.im * q->im, w.re * q->im + w.im * q->re };
                *q = (struct complex){ p->re - t.re, p->im - t.im };
                *p = (struct complex){ p->re + t.re, p->im + t.im };
            }
}

/* y = transform of x; both of length n, x is used up. */
static void transform(struct complex *y, struct complex *x, int64_t n, const struct complex *turn)
{
    if (is_power(n)) {
        transform_power(x, n, turn);
        memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
    for (int64_t k = 0; k < n; k++) {
        struct complex sum = { 0, 0 };
        for (int64_t i = 0, at = 0; i < n; i++, at = (at + k) % n) {
            sum.re += x[i].re * turn[at].re - x[i].im * turn[at].im;
            sum.im += x[i].re * turn[at].im + x[i].im * turn[at].re;
        }
        y[k] = sum;
    }
}

static void fill_turns(struct complex *turn, int64_t n, bool inverse)
{
    for (int64_t k = 0; k < n; k++) {
        double angle = 2 * 3.14159265358979323846 * (double)k / (double)n;
        turn[k] = (struct complex){ cos(angle), inverse ? sin(angle) : -sin(angle) };
    }
}

/* One number of an integer input, or `otherwise` where it is left out; false: not known yet. */
static bool integer_input(struct call *c, int i, int64_t otherwise, int64_t *out)
{
    const struct operand *o = i < c->in_count ? c->in[i] : NULL;
    *out = otherwise;
    if (!o) return true;
    if (!o->data) { c->needs_data = true; return false; }
    if ((o->dtype == DT_I64 || o->dtype == DT_I32) && operand_count(o) == 1) *out = operand_int(o, 0);
    else *out = INT64_MIN;
    return true;
}

/* ---- DFT(x [..., 1 or 2], length, axis) ---- */
struct dft { int64_t axis, in, n, out, outer, inner; bool inverse, half, real_out; int parts; };

static enum status read_dft(struct call *c, struct dft *d, bool *known, struct err *err)
{
    const struct operand *x = c->in[0];
    *d = (struct dft){ .inverse = node_int(c->node, "inverse", 0) != 0, .half = node_int(c->node, "onesided", 0) != 0, .outer = 1, .inner = 1 };
    *known = false;
    if (x->rank < 2 || !dtype_is_real(x->dtype) || x->dims[x->rank - 1] < 1 || x->dims[x->rank - 1] > 2) return call_error(c, err, ST_BAD_INPUT, "its last dimension must be 1 or 2, real and imaginary parts");
    d->parts = (int)x->dims[x->rank - 1];
    if (c->node->opset < 20) d->axis = node_int(c->node, "axis", 1);
    else if (!integer_input(c, 2, -2, &d->axis)) return ST_OK;
    if (!axis_fix(&d->axis, x->rank) || d->axis == x->rank - 1) return call_error(c, err, ST_BAD_INPUT, "axis %lld does not fit rank %d", (long long)d->axis, x->rank);
    d->in = x->dims[d->axis];
    d->real_out = d->inverse && d->half;
    if (!integer_input(c, 1, d->real_out ? 2 * (d->in - 1) : d->in, &d->n)) return ST_OK;
    if (d->n < 1 || d->n > (is_power(d->n) ? FOURIER_MAX : DIRECT_MAX)) return call_error(c, err, ST_UNSUPPORTED, "its length is %lld; up to %d are taken, and powers of two up to %d", (long long)d->n, DIRECT_MAX, FOURIER_MAX);
    d->out = d->half && !d->inverse ? d->n / 2 + 1 : d->n;
    for (int k = 0; k < x->rank - 1; k++)
        if (k != d->axis) *(k < d->axis ? &d->outer : &d->inner) *= x->dims[k];
    *known = true;
    return ST_OK;
}

static enum status infer_dft(struct call *c, struct err *err)
{
    struct dft d;
    bool known;
    int64_t dims[TENSOR_RANK_MAX];
    enum status st = read_dft(c, &d, &known, err);
    if (st || !known) return st;
    memcpy(dims, c->in[0]->dims, sizeof dims);
    dims[d.axis] = d.out;
    dims[c->in[0]->rank - 1] = d.real_out ? 1 : 2;
    return call_set(c, 0, c->in[0]->dtype, dims, c->in[0]->rank, err);
}

static uint64_t scratch_dft(const struct call *c)
{
    struct call copy = *c;
    struct dft d;
    bool known;
    return read_dft(&copy, &d, &known, NULL) || !known ? 0 : reals_scratch_more(c, 6 * (uint64_t)d.n);
}

static enum status eval_dft(struct call *c, struct err *err)
{
    struct dft d;
    struct reals r;
    bool known;
    enum status st = read_dft(c, &d, &known, err);
    if (st) return st;
    reals_begin(&r, c);
    struct complex *turn = (struct complex *)(void *)r.rest, *x = turn + d.n, *y = x + d.n;
    fill_turns(turn, d.n, d.inverse);
    for (int64_t row = 0; row < d.outer * d.inner; row++) {
        int64_t from = row / d.inner * d.in * d.inner + row % d.inner, to = row / d.inner * d.out * d.inner + row % d.inner;
        for (int64_t i = 0; i < d.n; i++) {
            /* a one-sided inverse: the second half mirrors the first */
            int64_t at = d.real_out && i > d.n / 2 ? d.n - i : i;
            const double *v = r.in[0] + (from + at * d.inner) * d.parts;
            x[i] = at < d.in ? (struct complex){ v[0], d.parts == 2 ? (at == i ? v[1] : -v[1]) : 0 } : (struct complex){ 0, 0 };
        }
        transform(y, x, d.n, turn);
        double scale = d.inverse ? 1 / (double)d.n : 1;
        for (int64_t i = 0; i < d.out; i++) {
            double *v = r.out[0] + (to + i * d.inner) * (d.real_out ? 1 : 2);
            v[0] = y[i].re * scale;
            if (!d.real_out) v[1] = y[i].im * scale;
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- STFT(signal [n, t, 1 or 2], step, window, frame length) ---- */
struct stft { int64_t step, n, frames, out; };

static enum status read_stft(struct call *c, struct stft *s, bool *known, struct err *err)
{
    const struct operand *x = c->in[0], *window = c->in_count > 2 ? c->in[2] : NULL;
    *known = false;
    if ((x->rank != 2 && x->rank != 3) || !dtype_is_real(x->dtype) || (x->rank == 3 && (x->dims[2] < 1 || x->dims[2] > 2)) || (window && (window->rank != 1 || window->dtype != x->dtype))) return call_error(c, err, ST_BAD_INPUT, "its signal must be [rows, length, 1 or 2], its window a list");
    if (!integer_input(c, 1, 0, &s->step) || !integer_input(c, 3, window ? window->dims[0] : x->dims[1], &s->n)) return ST_OK;
    if (s->step < 1 || s->n < 1 || s->n > (is_power(s->n) ? FOURIER_MAX : DIRECT_MAX) || s->n > x->dims[1] || (window && window->dims[0] != s->n)) return call_error(c, err, ST_BAD_INPUT, "steps of %lld and frames of %lld do not fit the signal", (long long)s->step, (long long)s->n);
    s->frames = (x->dims[1] - s->n) / s->step + 1;
    s->out = node_int(c->node, "onesided", 1) ? s->n / 2 + 1 : s->n;
    *known = true;
    return ST_OK;
}

static enum status infer_stft(struct call *c, struct err *err)
{
    struct stft s;
    bool known;
    enum status st = read_stft(c, &s, &known, err);
    return st || !known ? st : call_set(c, 0, c->in[0]->dtype, (int64_t[]){ c->in[0]->dims[0], s.frames, s.out, 2 }, 4, err);
}

static uint64_t scratch_stft(const struct call *c)
{
    struct call copy = *c;
    struct stft s;
    bool known;
    return read_stft(&copy, &s, &known, NULL) || !known ? 0 : reals_scratch_more(c, 6 * (uint64_t)s.n);
}

static enum status eval_stft(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    struct stft s;
    struct reals r;
    bool known, windowed = c->in_count > 2 && c->in[2];
    enum status st = read_stft(c, &s, &known, err);
    if (st) return st;
    reals_begin(&r, c);
    int64_t parts = x->rank == 3 ? x->dims[2] : 1;
    struct complex *turn = (struct complex *)(void *)r.rest, *in = turn + s.n, *out = in + s.n;
    fill_turns(turn, s.n, false);
    for (int64_t row = 0; row < x->dims[0] * s.frames; row++) {
        const double *v = r.in[0] + (row / s.frames * x->dims[1] + row % s.frames * s.step) * parts;
        for (int64_t i = 0; i < s.n; i++) {
            double w = windowed ? r.in[2][i] : 1;
            in[i] = (struct complex){ v[i * parts] * w, parts == 2 ? v[i * parts + 1] * w : 0 };
        }
        transform(out, in, s.n, turn);
        for (int64_t i = 0; i < s.out; i++) {
            r.out[0][(row * s.out + i) * 2] = out[i].re;
            r.out[0][(row * s.out + i) * 2 + 1] = out[i].im;
        }
    }
    reals_end(&r, c);
    return ST_OK;
}

/* ---- windows and the mel scale: made from a few numbers ---- */
static enum status result_type(struct call *c, enum dtype *t, struct err *err)
{
    int64_t said = node_int(c->node, "output_datatype", DT_F32);
    *t = said > 0 && said < DT_COUNT ? (enum dtype)said : DT_NONE;
    return dtype_is_number(*t) ? ST_OK : call_error(c, err, ST_UNSUPPORTED, "output_datatype %lld is not computed", (long long)said);
}

static enum status infer_window(struct call *c, struct err *err)
{
    enum dtype t;
    int64_t n;
    enum status st = result_type(c, &t, err);
    if (st || !integer_input(c, 0, 0, &n)) return st;
    return call_set(c, 0, t, &n, 1, err);
}

static enum status eval_window(struct call *c, struct err *err)
{
    static const double terms[3][3] = { { 0.5, 0.5, 0 }, { 25.0 / 46, 1 - 25.0 / 46, 0 }, { 0.42, 0.5, 0.08 } };      /* Hann, Hamming, Blackman */
    const double *a = terms[c->node->op->code];
    int64_t n = c->out[0]->dims[0], whole = node_int(c->node, "periodic", 1) ? n : n - 1;
    (void)err;
    for (int64_t i = 0; i < n; i++) {
        double angle = whole ? 2 * 3.14159265358979323846 * (double)i / (double)whole : 0;
        operand_real_put(c->out[0], (uint64_t)i, a[0] - a[1] * cos(angle) + a[2] * cos(2 * angle));
    }
    return ST_OK;
}

static double mel_of(double hertz) { return 2595 * log10(1 + hertz / 700); }

static enum status infer_mel(struct call *c, struct err *err)
{
    enum dtype t;
    int64_t n[3];
    enum status st = result_type(c, &t, err);
    if (st) return st;
    for (int i = 0; i < 5; i++)
        if (!dtype_is_number(c->in[i]->dtype) || operand_count(c->in[i]) != 1) return call_error(c, err, ST_BAD_INPUT, "input %d must be one number", i);
    for (int i = 0; i < 3; i++)
        if (!integer_input(c, i, 0, &n[i])) return ST_OK;
    if (!c->in[3]->data || !c->in[4]->data) { c->needs_data = true; return ST_OK; }
    if (n[0] < 1 || n[0] > FOURIER_MAX || n[1] < 1 || n[1] > FOURIER_MAX || n[2] < 1) return call_error(c, err, ST_BAD_INPUT, "%lld bins of a transform of %lld", (long long)n[0], (long long)n[1]);
    return call_set(c, 0, t, (int64_t[]){ n[1] / 2 + 1, n[0] }, 2, err);
}

/* Triangles over the spectrum whose corners lie at equal steps of the mel scale. */
static enum status eval_mel(struct call *c, struct err *err)
{
    int64_t bins = operand_int(c->in[0], 0), length = operand_int(c->in[1], 0), rate = operand_int(c->in[2], 0), spectrum = length / 2 + 1;
    double low = mel_of(operand_real(c->in[3], 0)), high = mel_of(operand_real(c->in[4], 0)), step = (high - low) / (double)(bins + 2);
    struct operand *y = c->out[0];
    (void)err;
    memset(y->data, 0, y->bytes);
    for (int64_t b = 0; b < bins; b++) {
        int64_t corner[3];
        for (int k = 0; k < 3; k++) {
            double hertz = 700 * (pow(10, (low + step * (double)(b + k)) / 2595) - 1), at = floor((double)(length + 1) * hertz / (double)rate);
            corner[k] = at >= 0 && at < 1e9 ? (int64_t)at : 0;
        }
        if (corner[1] == corner[0] && corner[1] < spectrum) operand_real_put(y, (uint64_t)(corner[1] * bins + b), 1);
        for (int64_t i = corner[0]; i <= corner[1] && i < spectrum && corner[1] != corner[0]; i++) operand_real_put(y, (uint64_t)(i * bins + b), (double)(i - corner[0]) / (double)(corner[1] - corner[0]));
        for (int64_t i = corner[1]; i < corner[2] && i < spectrum; i++) operand_real_put(y, (uint64_t)(i * bins + b), (double)(corner[2] - i) / (double)(corner[2] - corner[1]));
    }
    return ST_OK;
}

#define WINDOW(name, code) { name, "", 17, 0, 1, 1, 1, 1, 0, code, infer_window, eval_window, NULL, NULL, NULL, NULL, NULL }
const struct op ops_fourier[] = {
    { "DFT", "", 17, 0, 1, 3, 1, 1, OP_PRODUCT, 0, infer_dft, eval_dft, scratch_dft, NULL, NULL, NULL, NULL },
    { "STFT", "", 17, 0, 2, 4, 1, 1, OP_PRODUCT, 0, infer_stft, eval_stft, scratch_stft, NULL, NULL, NULL, NULL },
    WINDOW("HannWindow", 0), WINDOW("HammingWindow", 1), WINDOW("BlackmanWindow", 2),
    { "MelWeightMatrix", "", 17, 0, 5, 5, 1, 1, 0, 0, infer_mel, eval_mel, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
