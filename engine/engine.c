#include "engine/engine.h"

#include <string.h>

static const char *const precisions[] = { [PRECISION_F32] = "f32", [PRECISION_BF16] = "bf16", [PRECISION_AUTO] = "auto", [PRECISION_INT8] = "int8", [PRECISION_F16] = "f16" };

bool precision_from_name(const char *name, enum precision *out)
{
    for (size_t i = 0; i < sizeof precisions / sizeof precisions[0]; i++)
        if (!strcmp(precisions[i], name)) {
            *out = (enum precision)i;
            return true;
        }
    return false;
}

const char *precision_name(enum precision p) { return precisions[p]; }
