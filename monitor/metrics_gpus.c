#include "monitor/metrics_gpus.h"

#include <stddef.h>

#include "engine/device_gpu.h"
#include "monitor/page.h"

/* A field of struct gpu_sample; negative numbers are not known and left out. */
struct family { const char *name, *type, *help; size_t at; bool whole; };

static const struct family families[] = {
    { "nv_gpu_utilization", "gauge", "GPU utilization rate [0.0 - 1.0)", offsetof(struct gpu_sample, utilisation), false },
    { "nv_gpu_memory_total_bytes", "gauge", "GPU total memory, in bytes", offsetof(struct gpu_sample, memory_total), true },
    { "nv_gpu_memory_used_bytes", "gauge", "GPU used memory, in bytes", offsetof(struct gpu_sample, memory_used), true },
    { "nv_gpu_power_usage", "gauge", "GPU power usage in watts", offsetof(struct gpu_sample, power_watts), false },
    { "nv_energy_consumption", "counter", "GPU energy consumption in joules since the driver was loaded", offsetof(struct gpu_sample, energy_joules), false },
};
enum { FAMILIES = sizeof families / sizeof families[0] };

void metrics_gpus_write(struct buf *out)
{
    struct gpu_sample samples[DEVICE_GPUS_MAX];
    struct gpu_info infos[DEVICE_GPUS_MAX];
    bool lost[DEVICE_GPUS_MAX];
    int count = 0;
    for (int i = 0; i < DEVICE_GPUS_MAX; i++) {
        const struct device_gpu *d = device_gpu_at(i);
        if (!d) continue;
        d->api->info(d->gpu, &infos[count]);
        lost[count] = d->api->lost(d->gpu);
        if (!d->api->sample(d->gpu, &samples[count])) samples[count] = (struct gpu_sample){ .memory_total = infos[count].memory, .power_watts = -1, .energy_joules = -1, .utilisation = -1 };
        count++;
    }
    for (int f = 0; f < FAMILIES && count; f++) {
        page_family(out, families[f].name, families[f].type, families[f].help);
        for (int i = 0; i < count; i++) {
            const void *p = (const char *)&samples[i] + families[f].at;
            const double v = families[f].whole ? (double)*(const uint64_t *)p : *(const double *)p;
            if (v >= 0) buf_printf(out, "%s{gpu_uuid=\"%s\"} %.17g\n", families[f].name, infos[i].uuid, v);
        }
    }
    if (count) page_family(out, "inferd_gpu_lost", "gauge", "1 when an error has broken the GPU for this process and its models run on the CPU");
    for (int i = 0; i < count; i++) buf_printf(out, "inferd_gpu_lost{gpu_uuid=\"%s\"} %d\n", infos[i].uuid, lost[i]);
}
