/* Graphs inside nodes: what loops do when they are told to stop, and what import refuses. The models are files of the ONNX fuzz target's corpus. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/graph/passes.h"
#include "engine/graph/plan.h"
#include "engine/onnx/import.h"
#include "tests/test.h"

enum { BUDGET = 64 << 20 };

struct model { struct file_map map; struct import import; struct plan *plan; char *workspace; struct arena run; };

static enum status open_model(struct model *m, const char *path, struct err *err)
{
    struct operand shapes[GRAPH_INPUTS_MAX];
    struct device device;
    memset(m, 0, sizeof *m);
    arena_init(&m->run, BUDGET);
    device_cpu_open(&device, CPU_AVX2, 1);
    enum status st = file_map_path(&m->map, path, err);
    if (!st) st = import_open(&m->import, m->map.data, m->map.size, -1, false, &device, BUDGET, err);
    if (!st) st = passes_run(&m->import.graph, false, err);
    for (int k = 0; !st && k < m->import.graph.input_count; k++) {
        shapes[k] = m->import.graph.values[m->import.graph.inputs[k]].type;
        for (int d = 0; d < shapes[k].rank; d++) shapes[k].dims[d] = shapes[k].dims[d] < 0 ? 2 : shapes[k].dims[d];
    }
    if (!st) st = plan_open(&m->plan, &m->import.graph, shapes, BUDGET, err);
    if (st) return st;
    m->workspace = mem_alloc_aligned((plan_workspace(m->plan) + 4095) & ~(uint64_t)4095, 4096);
    plan_bind(m->plan, m->workspace);
    return ST_OK;
}

static void close_model(struct model *m)
{
    plan_close(m->plan);
    free(m->workspace);
    arena_free(&m->run);
    import_close(&m->import);
    file_unmap(&m->map);
}

/* The suite's test_loop11: y carried through as many steps as the first input says, its sums stacked. */
TEST(a_loop_runs_as_long_as_its_data_says)
{
    struct model m;
    struct err err = { 0 };
    _Alignas(64) int64_t steps = 5;
    _Alignas(64) uint8_t go = 1;
    _Alignas(64) float y[1] = { -2 };
    void *inputs[] = { &steps, &go, y };
    REQUIRE_OK(open_model(&m, "tests/fuzz/corpus/onnx/test_loop11.onnx", &err), err);
    CHECK(plan_is_dynamic(m.plan));
    for (int again = 0; again < 2; again++) {
        REQUIRE_OK(plan_run(m.plan, inputs, &m.run, NULL, &err), err);
        CHECK(*(float *)plan_output(m.plan, 0)->data == 13);            /* -2 + 1 + 2 + 3 + 4 + 5 */
        CHECK_INT(plan_output(m.plan, 1)->dims[0], 5);
        arena_reset(&m.run);
    }
    close_model(&m);
}

TEST(a_loop_ends_when_it_is_told_to)
{
    struct model m;
    struct err err = { 0 };
    atomic_bool stop = true;
    _Alignas(64) int64_t steps = INT64_MAX;
    _Alignas(64) uint8_t go = 1;
    _Alignas(64) float y[1] = { -2 };
    void *inputs[] = { &steps, &go, y };
    REQUIRE_OK(open_model(&m, "tests/fuzz/corpus/onnx/test_loop11.onnx", &err), err);
    CHECK_INT(plan_run(m.plan, inputs, &m.run, &stop, &err), ST_CANCELLED);
    close_model(&m);
}

TEST(a_branch_is_chosen_by_its_condition)
{
    struct model m;
    struct err err = { 0 };
    _Alignas(64) uint8_t yes = 1;
    void *inputs[] = { &yes };
    REQUIRE_OK(open_model(&m, "tests/fuzz/corpus/onnx/test_if.onnx", &err), err);
    for (int k = 0; k < 2; k++) {
        yes = k == 0;
        REQUIRE_OK(plan_run(m.plan, inputs, &m.run, NULL, &err), err);
        CHECK(*(float *)plan_output(m.plan, 0)->data == (k == 0 ? 1 : 5));
        arena_reset(&m.run);
    }
    close_model(&m);
}
