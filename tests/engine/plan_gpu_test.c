/* A model on a GPU that has no card (tests/kernels/fake_gpu.h): the same answers as on the CPU, nothing left behind, and every call of the device failing at its turn. What single
 * operators say as tasks is held by the ONNX suites (tests/engine/suite_test.c, CONFORMANCE_GPU). */
#include <stdlib.h>

#include "engine/device_gpu.h"
#include "engine/graph/plan_gpu.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "monitor/metrics_gpus.h"
#include "tests/engine/onnx_run.h"
#include "tests/kernels/fake_gpu.h"
#include "tests/test.h"

enum { PIXELS = 28 * 28, CLASSES = 10, ROWS = 3, CALLS_MAX = 400 };
static const char digits[] = "models/digits/1/model.onnx";

/* Runs `rounds` times over ROWS rows; the answer of the last in y. */
static enum status run_digits(float *y, int gpu, enum precision precision, int rounds, struct plan_gpu_counts *counts, struct err *err)
{
    static float x[ROWS * PIXELS];
    struct engine_options o = { .threads = 1, .cpu_level = CPU_AMX, .precision = precision, .gpu = gpu, .max_batch_rows = ROWS };
    struct onnx_run r;
    test_seed(7);
    test_fill(x, sizeof x / sizeof *x, 0, 1);
    enum status st = onnx_run_open(&r, digits, &o, err);
    if (st) return st;
    for (int i = 0; i < rounds && !st; i++) {
        struct request q, *list[] = { &q };
        struct request_tensor slot;
        onnx_run_request(&q, &slot, "image", x, (int64_t[]){ ROWS, 1, 28, 28 }, 4, ROWS);
        st = onnx_run_step(&r, list, 1, NULL, err);
        if (!st) memcpy(y, q.outputs[0].tensor.data, ROWS * CLASSES * sizeof *y);
        request_drop(&q);
    }
    if (!st && counts) *counts = plan_gpu_counts(r.instance->plans.entries[0].plan);
    onnx_run_close(&r);
    return st;
}

TEST(a_network_answers_as_on_the_cpu_without_a_host_copy_within)
{
    float want[ROWS * CLASSES], got[ROWS * CLASSES];
    struct plan_gpu_counts counts = { 0 };
    struct err err;
    device_gpus_use(fake_gpu_api());
    REQUIRE_OK(run_digits(want, 0, PRECISION_F32, 1, NULL, &err), err);
    REQUIRE_OK(run_digits(got, 1, PRECISION_F32, 1, &counts, &err), err);
    CHECK_CLOSE(got, want, ROWS * CLASSES, 1e-5f);
    CHECK(counts.device_steps > 0);
    CHECK_INT(counts.host_steps, 0);
    CHECK_INT(counts.puts, 1);
    CHECK_INT(counts.gets, 1);
    REQUIRE_OK(run_digits(got, 1, PRECISION_F32, 4, NULL, &err), err);         /* recorded and replayed */
    CHECK_CLOSE(got, want, ROWS * CLASSES, 1e-5f);
    REQUIRE_OK(run_digits(got, 1, PRECISION_BF16, 4, NULL, &err), err);
    CHECK_CLOSE(got, want, ROWS * CLASSES, 0.1f);
    REQUIRE_OK(run_digits(got, 1, PRECISION_F16, 4, NULL, &err), err);
    CHECK_CLOSE(got, want, ROWS * CLASSES, 1e-2f);
    REQUIRE_OK(run_digits(got, 1, PRECISION_AUTO, 4, NULL, &err), err);
    CHECK_CLOSE(got, want, ROWS * CLASSES, 1e-2f);
    CHECK(fake_gpu_is_empty());
    device_gpus_use(NULL);
}

/* Every call of the device in turn: the run fails with that status or is right, and nothing is left. */
static void fail_each_call(enum status status)
{
    float want[ROWS * CLASSES], got[ROWS * CLASSES];
    struct err err;
    int failed = 0;
    REQUIRE_OK(run_digits(want, 0, PRECISION_F32, 1, NULL, &err), err);
    for (uint64_t at = 1; at < CALLS_MAX; at++) {
        device_gpus_use(fake_gpu_api());
        fake_gpu_fail(at, status);
        enum status st = run_digits(got, 1, PRECISION_F32, 4, NULL, &err);
        const uint64_t calls = fake_gpu_fail(0, ST_OK);
        device_gpus_use(NULL);
        CHECK(fake_gpu_is_empty());
        if (st) {
            failed++;
            CHECK_INT(st, status == ST_NO_MEMORY ? ST_NO_MEMORY : ST_UNAVAILABLE);
            CHECK(err.text[0]);
        } else CHECK_CLOSE(got, want, ROWS * CLASSES, 1e-5f);
        if (calls < at) {
            CHECK(failed > 10);
            return;
        }
    }
    test_fail(__FILE__, __LINE__, "more calls than %d", CALLS_MAX);
}

TEST(a_device_out_of_memory_at_any_call_fails_that_call_alone) { fail_each_call(ST_NO_MEMORY); }
TEST(a_device_lost_at_any_call_is_said) { fail_each_call(ST_INTERNAL); }

TEST(a_budget_that_is_too_small_is_refused_with_the_figures)
{
    struct err err;
    const struct device_gpu *d;
    device_gpus_use(NULL);
    CHECK_INT(device_gpu_open(&d, 0, &err), ST_UNAVAILABLE);
    device_gpus_use(fake_gpu_api());
    CHECK_INT(device_gpu_open(&d, 1, &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "there is no GPU 1: 1 can be used");
    device_gpus_use(NULL);
}

/* The card is lost between two steps: the step that meets it fails, the next ones are the CPU's. */
TEST(a_model_goes_on_on_the_cpu_after_its_card_was_lost)
{
    static float x[ROWS * PIXELS];
    const struct engine_options o = { .threads = 1, .cpu_level = CPU_AMX, .precision = PRECISION_F32, .gpu = 1, .max_batch_rows = ROWS };
    float want[ROWS * CLASSES];
    struct onnx_run r;
    struct err err;
    REQUIRE_OK(run_digits(want, 0, PRECISION_F32, 1, NULL, &err), err);
    device_gpus_use(fake_gpu_api());
    REQUIRE_OK(onnx_run_open(&r, digits, &o, &err), err);
    test_seed(7);
    test_fill(x, sizeof x / sizeof *x, 0, 1);
    for (int i = 0; i < 4; i++) {
        struct request q, *list[] = { &q };
        struct request_tensor slot;
        onnx_run_request(&q, &slot, "image", x, (int64_t[]){ ROWS, 1, 28, 28 }, 4, ROWS);
        if (i == 1) fake_gpu_fail(2, ST_INTERNAL);
        enum status st = onnx_run_step(&r, list, 1, NULL, &err);
        if (i == 1) {
            CHECK_INT(st, ST_UNAVAILABLE);
            fake_gpu_fail(UINT64_MAX, ST_OK);          /* still lost */
        } else {
            CHECK_OK(st, err);
            if (!st) CHECK_CLOSE((const float *)q.outputs[0].tensor.data, want, ROWS * CLASSES, 1e-5f);
        }
        request_drop(&q);
    }
    CHECK(r.engine->fallen);
    CHECK_INT(plan_gpu_counts(r.instance->plans.entries[0].plan).device_steps, 0);
    onnx_run_close(&r);
    fake_gpu_fail(0, ST_OK);
    CHECK(fake_gpu_is_empty());
    device_gpus_use(NULL);
}

TEST(an_open_card_stands_on_the_page_of_metrics)
{
    const struct device_gpu *d;
    struct err err;
    struct buf b;
    buf_init(&b, 1 << 16);
    device_gpus_use(fake_gpu_api());
    metrics_gpus_write(&b);
    CHECK_INT(b.length, 0);                    /* no model has asked for it */
    REQUIRE_OK(device_gpu_open(&d, 0, &err), err);
    metrics_gpus_write(&b);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "nv_gpu_memory_used_bytes{gpu_uuid=\"GPU-none\"} 0\n"));
    CHECK(strstr(b.data, "inferd_gpu_lost{gpu_uuid=\"GPU-none\"} 0\n"));
    CHECK(!strstr(b.data, "nv_gpu_power_usage{"));       /* not known */
    buf_free(&b);
    device_gpus_use(NULL);
}
