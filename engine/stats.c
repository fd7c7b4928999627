#include "engine/stats.h"

/* 100 us to 60 s, about 1-2.5-5 a decade. */
const uint32_t stats_bucket_us[STATS_BUCKETS - 1] = {
    100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 20000000, 30000000, 60000000
};

void stats_observe(struct stat_histogram *h, uint64_t ns)
{
    /* Only the first bucket that holds it is counted here; the monitor adds them up when it is scraped. */
    int i = 0;
    while (i < STATS_BUCKETS - 1 && ns > (uint64_t)stats_bucket_us[i] * 1000) i++;
    atomic_fetch_add_explicit(&h->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, ns, memory_order_relaxed);
}

void stats_add(struct stat_duration *d, uint64_t ns)
{
    atomic_fetch_add_explicit(&d->count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&d->ns, ns, memory_order_relaxed);
}
