/* Counters of one model version: the scheduler counts, the monitor reads. Every field is its own atomic; a reader may see two fields
 * a request apart. Durations in nanoseconds. */
#ifndef ENGINE_STATS_H
#define ENGINE_STATS_H

#include <stdatomic.h>
#include <stdint.h>

struct stat_duration { atomic_uint_fast64_t count, ns; };

/* Histogram of durations: bucket i counts what took <= stats_bucket_us[i] and more than the bound before; the last one what is above all bounds. */
enum { STATS_BUCKETS = 20, STATS_BATCH_SIZES = 64 };
extern const uint32_t stats_bucket_us[STATS_BUCKETS - 1];
struct stat_histogram { atomic_uint_fast64_t bucket[STATS_BUCKETS]; atomic_uint_fast64_t sum_ns; };

enum stats_stage { STAGE_QUEUE, STAGE_INPUT, STAGE_COMPUTE, STAGE_OUTPUT, STAGE_TOTAL, STAGE_COUNT };
enum stats_failure { FAILURE_REJECTED, FAILURE_CANCELED, FAILURE_BACKEND, FAILURE_OTHER, FAILURE_COUNT };

struct stats_batch { atomic_int_fast64_t size; struct stat_duration input, infer, output; };   /* size 0: unused */

struct stats {
    atomic_uint_fast64_t last_inference_ms;        /* wall clock */
    atomic_uint_fast64_t inference_count;          /* rows */
    atomic_uint_fast64_t execution_count;          /* steps */
    struct stat_duration success, fail, queue, compute_input, compute_infer, compute_output;
    struct stat_duration cache_hit, cache_miss;    /* of a model with a response cache: time to look up, and to keep what was not there */
    atomic_uint_fast64_t failures[FAILURE_COUNT];
    atomic_int_fast64_t  pending;                  /* requests in the queue now */
    struct stat_histogram stage[STAGE_COUNT];
    struct stats_batch   batches[STATS_BATCH_SIZES];   /* the first 64 sizes met; more are counted in the last */
};

void stats_observe(struct stat_histogram *h, uint64_t ns);
void stats_add(struct stat_duration *d, uint64_t ns);

#endif
