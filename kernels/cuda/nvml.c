/* The few calls of the driver's monitoring library that a sample needs. It has no place in the toolkit's link line, so it is opened by name; its structs are written out from its
 * documentation. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/internal.h"

typedef struct nvml_device *device;
struct memory_info { unsigned long long total, unused, used; };
struct rates { unsigned gpu, memory; };

struct nvml {
    device card;
    int (*memory)(device, struct memory_info *);
    int (*power)(device, unsigned *);                      /* milliwatts */
    int (*energy)(device, unsigned long long *);           /* millijoules since the driver was loaded */
    int (*utilisation)(device, struct rates *);            /* percent */
};

static void find(void *library, const char *name, void *to)
{
    void *symbol = dlsym(library, name);
    memcpy(to, &symbol, sizeof symbol);
}

struct nvml *nvml_open(int ordinal)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    struct nvml *n = library ? calloc(1, sizeof *n) : NULL;
    if (!n) return NULL;
    int (*init)(void), (*by_bus)(const char *, device *);
    char bus[32];
    find(library, "nvmlInit_v2", &init);
    find(library, "nvmlDeviceGetHandleByPciBusId_v2", &by_bus);
    find(library, "nvmlDeviceGetMemoryInfo", &n->memory);
    find(library, "nvmlDeviceGetPowerUsage", &n->power);
    find(library, "nvmlDeviceGetTotalEnergyConsumption", &n->energy);
    find(library, "nvmlDeviceGetUtilizationRates", &n->utilisation);
    if (init && by_bus && n->memory && init() == 0 && cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal) == cudaSuccess && by_bus(bus, &n->card) == 0) return n;
    free(n);
    return NULL;
}

void nvml_close(struct nvml *n) { free(n); }

bool nvml_sample(struct nvml *n, struct gpu_sample *out)
{
    struct memory_info memory;
    struct rates rates;
    unsigned power;
    unsigned long long energy;
    *out = (struct gpu_sample){ .power_watts = -1, .energy_joules = -1, .utilisation = -1 };
    if (n->memory(n->card, &memory)) return false;
    out->memory_used = memory.used;
    out->memory_total = memory.total;
    if (n->power && n->power(n->card, &power) == 0) out->power_watts = power / 1000.0;
    if (n->energy && n->energy(n->card, &energy) == 0) out->energy_joules = (double)energy / 1000.0;
    if (n->utilisation && n->utilisation(n->card, &rates) == 0) out->utilisation = rates.gpu / 100.0;
    return true;
}
