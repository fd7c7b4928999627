/* What the numbers of one tensor were over all calibration inputs, in bounded memory, and the range an 8-bit form should cover.
 *
 * A tally holds the least and the largest number and a histogram of both signs whose bins widen by two whenever a number lies beyond them: counts are exact, and their
 * places to 1/2048 of the largest magnitude. Numbers that are not finite are left out.
 *
 * Methods: TALLY_MINMAX covers everything. TALLY_PERCENTILE cuts the same share off both ends. TALLY_ENTROPY takes the threshold whose rounded histogram loses the least information
 * (Kullback-Leibler divergence): the procedure of S. Migacz, "8-bit Inference with TensorRT", GPU Technology Conference 2017, over magnitudes without 0 itself, with as many levels as 8 bits give the larger
 * side of this tensor; at most a hundredth of the numbers is cut off, and of thresholds that cannot be told apart the largest is taken. */
#ifndef ENGINE_CALIBRATE_TALLY_H
#define ENGINE_CALIBRATE_TALLY_H

#include <stdbool.h>
#include <stdint.h>

enum tally_method { TALLY_MINMAX, TALLY_PERCENTILE, TALLY_ENTROPY };
bool tally_method_from_name(const char *name, enum tally_method *out);      /* "minmax", "percentile", "entropy" */

enum { TALLY_BINS = 4096 };      /* of each sign */

struct tally {
    float     low, high;         /* of what was seen; low > high: nothing was */
    double    limit;             /* the histogram reaches from -limit to limit */
    uint64_t *bins;              /* [2][TALLY_BINS], negative numbers first, each sign from 0 outwards; NULL: ends only are kept */
};

/* False: no memory. Without a histogram for TALLY_MINMAX. */
bool tally_begin(struct tally *t, enum tally_method method);
void tally_end(struct tally *t);
void tally_add(struct tally *t, const float *x, uint64_t n);

struct range { float low, high; };      /* low <= 0 <= high, so that 0 itself is exact */
/* percentile: the share of numbers to cover, in hundredths (99.99). */
struct range tally_range(const struct tally *t, enum tally_method method, double percentile);

#endif
