#include "engine/calibrate/tally.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { ENTROPY_BINS = TALLY_BINS / 2, LEVELS_MIN = 128, LEVELS_MAX = 255 };
static const double CUT_MAX = 0.01;      /* share of numbers that entropy may cut off: one value that comes very often (a background) counts as lost wherever it shares a level, and no threshold is a cure for that */

bool tally_method_from_name(const char *name, enum tally_method *out)
{
    static const char *const names[] = { "minmax", "percentile", "entropy" };
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum tally_method)i;
            return true;
        }
    return false;
}

bool tally_begin(struct tally *t, enum tally_method method)
{
    *t = (struct tally){ .low = INFINITY, .high = -INFINITY };
    if (method == TALLY_MINMAX) return true;
    t->bins = mem_calloc_array(2 * TALLY_BINS, sizeof *t->bins);
    return t->bins != NULL;
}

void tally_end(struct tally *t)
{
    free(t->bins);
    t->bins = NULL;
}

/* Bins twice as wide: each takes up two. */
static void widen(struct tally *t)
{
    for (int sign = 0; sign < 2; sign++) {
        uint64_t *b = t->bins + sign * TALLY_BINS;
        for (int i = 0; i < TALLY_BINS / 2; i++) b[i] = b[2 * i] + b[2 * i + 1];
        memset(b + TALLY_BINS / 2, 0, TALLY_BINS / 2 * sizeof *b);
    }
    t->limit *= 2;
}

void tally_add(struct tally *t, const float *x, uint64_t n)
{
    float low = t->low, high = t->high;
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) continue;
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    t->low = low;
    t->high = high;
    if (!t->bins || low > high) return;
    const double largest = fmax(fabs((double)low), fabs((double)high));
    if (t->limit == 0) t->limit = largest;      /* what was seen before, if anything, was all 0 and stays in the first bin */
    while (t->limit > 0 && t->limit < largest) widen(t);
    const double scale = t->limit > 0 ? TALLY_BINS / t->limit : 0;
    for (uint64_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) continue;
        int at = (int)(fabs((double)x[i]) * scale);
        t->bins[(x[i] < 0 ? 0 : TALLY_BINS) + (at < TALLY_BINS ? at : TALLY_BINS - 1)]++;
    }
}

/* The number below which `share` of all lie, from the histogram. */
static double quantile(const struct tally *t, double share)
{
    double total = 0, below = 0;
    for (int i = 0; i < 2 * TALLY_BINS; i++) total += (double)t->bins[i];
    const double width = t->limit / TALLY_BINS;
    for (int i = 0; i < 2 * TALLY_BINS; i++) {      /* from the most negative bin upwards */
        const bool negative = i < TALLY_BINS;
        const int at = negative ? TALLY_BINS - 1 - i : i - TALLY_BINS;
        const double n = (double)t->bins[negative ? at : TALLY_BINS + at];
        const double from = negative ? -(at + 1) * width : at * width;
        if (n > 0 && below + n >= share * total) return from + width * (share * total - below) / n;
        below += n;
    }
    return t->high;
}

/* The divergence of the first n bins, everything beyond counted into the last, from the same in `levels` steps. */
static double divergence(const double *bins, int n, int levels, double beyond, double inside)
{
    double sum = 0;
    for (int l = 0; l < levels; l++) {
        const int from = (int)((int64_t)l * n / levels), to = (int)((int64_t)(l + 1) * n / levels);
        double all = 0, filled = 0;
        for (int i = from; i < to; i++) {
            all += bins[i];
            filled += bins[i] > 0;
        }
        for (int i = from; i < to; i++) {
            const double p = (bins[i] + (i == n - 1 ? beyond : 0)) / (inside + beyond), q = bins[i] > 0 && inside > 0 ? all / filled / inside : 1e-9;
            if (p > 0) sum += p * log(p / q);
        }
    }
    return sum;
}

/* The magnitude to cover: the largest whose divergence cannot be told from the least, since a histogram of N numbers says it to about bins / 2N only. */
static double entropy_threshold(const struct tally *t)
{
    double bins[ENTROPY_BINS], lost[ENTROPY_BINS], all = 0, inside = 0, least = INFINITY;
    const double low = fmin((double)t->low, 0), high = fmax((double)t->high, 0), largest = fmax(-low, high), width = t->limit / ENTROPY_BINS;
    for (int i = 0; i < ENTROPY_BINS; i++) {
        const uint64_t *n = t->bins + 2 * i, *p = n + TALLY_BINS;
        bins[i] = (double)(n[0] + n[1] + p[0] + p[1]);
    }
    bins[0] = bins[1];      /* a Relu's zeros are exact at any threshold; spread over a level's bins they would count as lost and pull the threshold down */
    for (int i = 0; i < ENTROPY_BINS; i++) all += bins[i];
    if (all == 0) return largest;
    const int levels = (int)fmax(LEVELS_MIN, fmin(LEVELS_MAX, LEVELS_MAX * largest / (high - low)));
    int used = (int)ceil(largest / width);
    if (used > ENTROPY_BINS) used = ENTROPY_BINS;
    for (int i = 0; i < used; i++) {
        inside += bins[i];
        lost[i] = i + 1 < levels || all - inside > CUT_MAX * all ? INFINITY : divergence(bins, i + 1, levels, all - inside, inside);
        least = fmin(least, lost[i]);
    }
    int chosen = used;
    while (chosen > levels && lost[chosen - 1] > least + ENTROPY_BINS / (2 * all)) chosen--;
    return chosen == used ? largest : (chosen + 0.5) * width;
}

struct range tally_range(const struct tally *t, enum tally_method method, double percentile)
{
    double low = t->low, high = t->high;
    if (t->low > t->high) return (struct range){ 0, 0 };
    if (t->bins && t->limit > 0 && method == TALLY_PERCENTILE) {
        const double cut = (1 - percentile / 100) / 2;
        low = fmax(low, quantile(t, cut));
        high = fmin(high, quantile(t, 1 - cut));
    } else if (t->bins && t->limit > 0 && method == TALLY_ENTROPY) {
        const double threshold = entropy_threshold(t);
        low = fmax(low, -threshold);
        high = fmin(high, threshold);
    }
    return (struct range){ (float)fmin(low, 0), (float)fmax(high, 0) };
}
