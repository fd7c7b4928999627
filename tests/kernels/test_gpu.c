#include <stdio.h>
#include <stdlib.h>

#include "tests/kernels/fake_gpu.h"

bool test_gpu_is_fake(void) { return !getenv("TEST_GPU"); }

const struct gpu_api *test_gpu_api(void)
{
    struct err err;
    if (test_gpu_is_fake()) return fake_gpu_api();
    const struct gpu_api *api = gpu_library(getenv("TEST_GPU"), &err);
    if (api) return api;
    fprintf(stderr, "TEST_GPU: %s\n", err.text);
    exit(1);
}
