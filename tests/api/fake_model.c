#include "tests/api/fake_model.h"

static const struct port inputs[] = { { "x", DT_F32, 2, { -1, 4 }, false }, { "names", DT_STRING, 2, { -1, 1 }, true } };
static const struct port outputs[] = { { "y", DT_F32, 2, { -1, 3 }, false }, { "n", DT_I64, 2, { -1, 1 }, false } };
static const struct signature signature = { .platform = "onnxruntime_onnx", .inputs = inputs, .input_count = 2, .outputs = outputs, .output_count = 2, .batchable = true };
static const char *const labels[] = { "red", "green", "blue" };

const struct model_version *fake_model(void)
{
    static struct model_config config = { .name = "fake", .platform = "onnxruntime_onnx", .max_batch_size = 8 };
    static struct stats stats;
    static struct model_version v = { .name = "fake", .version = 3, .digest = "00ff", .signature = &signature, .config = &config, .stats = &stats, .labels = labels, .label_count = 3 };
    return &v;
}
