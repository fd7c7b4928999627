/* Operators that have kernels in f32 beside their own definition in double: each case is one network that computes the operator both ways, the second through Cast to
 * float64 and back; at every level, on one thread and two, in plain order and behind a convolution (channels last). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernels.h"
#include "tests/engine/onnx_run.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

enum { INPUTS = 8, RANK = 5 };
#define LIST(...) (const char *[]){ __VA_ARGS__, NULL }

/* What stands behind the input x: constants by their dims (rank 0: left out). */
struct operand_case { int rank; int64_t dims[RANK]; };
struct one_case {
    const char *op;
    const char *const *attributes;
    int opset;
    struct operand_case x, rest[INPUTS];
    int count;                           /* of rest */
    bool behind_conv;                    /* also behind a convolution */
    bool from_input;                     /* the second input is made while running */
    float tolerance;
};

static int cast(struct writer *w, int v, const char *to) { return v < 0 ? v : writer_node(w, "Cast", &v, 1, LIST(to)); }

static void write_case(const struct one_case *t, bool conv, const char *path)
{
    struct writer w;
    int in[INPUTS + 1], wide[INPUTS + 1];
    writer_begin(&w, t->opset ? t->opset : 17);
    int x = writer_input(&w, 1, t->x.dims, t->x.rank);
    if (conv) {
        int64_t c = t->x.dims[1], dims[RANK] = { c, c, 1, 1, 1 };
        int weight = writer_floats(&w, dims, t->x.rank, -0.7f, 0.7f);
        x = writer_node(&w, "Conv", (int[]){ x, weight }, 2, NULL);
    }
    in[0] = x;
    for (int i = 0; i < t->count; i++) in[i + 1] = t->rest[i].rank ? writer_floats(&w, t->rest[i].dims, t->rest[i].rank, -0.8f, 0.8f) : -1;
    if (t->from_input) {
        int zero = writer_node(&w, "Mul", (int[]){ writer_node(&w, "ReduceMean", &x, 1, LIST("keepdims=0")), writer_floats(&w, (int64_t[]){ 1 }, 1, 0.01f, 0.011f) }, 2, NULL);
        in[1] = writer_node(&w, "Add", (int[]){ in[1], zero }, 2, NULL);
    }
    for (int i = 0; i <= t->count; i++) wide[i] = cast(&w, in[i], "to=11");
    int quick = writer_node(&w, t->op, in, t->count + 1, t->attributes), exact = cast(&w, writer_node(&w, t->op, wide, t->count + 1, t->attributes), "to=1");
    writer_output(&w, quick, 1, NULL, 0);
    writer_output(&w, exact, 1, NULL, 0);
    writer_save(&w, path);
}

static void run_case(const struct one_case *t, bool conv, int level, int threads, const char *path)
{
    struct engine_options o = { .threads = threads, .cpu_level = level, .max_batch_rows = 4 };
    struct onnx_run m;
    struct request q, *list[] = { &q };
    struct request_tensor slot;
    struct err err = { 0 };
    static float x[1 << 16];
    test_fill(x, 1 << 16, -1, 1);
    enum status st = onnx_run_open(&m, path, &o, &err);
    if (st) {
        test_fail(__FILE__, __LINE__, "%s%s: %s", t->op, conv ? " behind a convolution" : "", err.text);
        return;
    }
    onnx_run_request(&q, &slot, m.signature->inputs[0].name, x, t->x.dims, t->x.rank, t->x.dims[0]);
    st = onnx_run_step(&m, list, 1, NULL, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s%s: %s", t->op, conv ? " behind a convolution" : "", err.text);
    else {
        const struct tensor *a = &q.outputs[0].tensor, *b = &q.outputs[1].tensor;
        CHECK(a->bytes > 0 && a->bytes == b->bytes && a->rank == b->rank);
        double worst = 0, top = 1e-3;
        for (uint64_t i = 0; i < a->bytes / 4; i++) {
            worst = test_worse(worst, fabs((double)((float *)a->data)[i] - (double)((float *)b->data)[i]));
            top = fmax(top, fabs((double)((float *)b->data)[i]));
        }
        if (!(worst <= (double)t->tolerance * top)) test_fail(__FILE__, __LINE__, "%s %s%s: off by %g of %g (%s, %d threads)", t->op, t->attributes ? t->attributes[0] : "", conv ? " behind a convolution" : "", worst, top, cpu_level_name((enum cpu_level)level), threads);
    }
    request_drop(&q);
    onnx_run_close(&m);
}

static void run_all(const struct one_case *cases, size_t count)
{
    char path[700];
    snprintf(path, sizeof path, "%s/case.onnx", test_directory());
    for (size_t i = 0; i < count; i++)
        for (int conv = 0; conv <= cases[i].behind_conv; conv++) {
            write_case(&cases[i], conv, path);
            for (int level = CPU_SCALAR; level <= (int)cpu_level_detect(); level++)
                for (int t = 0; t < 3; t++) run_case(&cases[i], conv, level, (const int[]){ 1, 2, 5 }[t], path);
        }
}
#define RUN(cases) run_all(cases, sizeof cases / sizeof cases[0])

TEST(recurrent_networks_agree_with_their_definition)
{
    static const char *const plain[] = { "hidden_size=37", NULL }, *const both[] = { "hidden_size=37", "direction=sbidirectional", NULL }, *const back[] = { "hidden_size=37", "direction=sreverse", NULL }, *const linear[] = { "hidden_size=37", "linear_before_reset=1", NULL },
        *const wide[] = { "hidden_size=70", NULL }, *const wide_linear[] = { "hidden_size=70", "linear_before_reset=1", NULL }, *const wide_both[] = { "hidden_size=70", "direction=sbidirectional", NULL }, *const wider[] = { "hidden_size=130", NULL },
        *const turned[] = { "hidden_size=37", "layout=1", NULL }, *const linear_both[] = { "hidden_size=37", "linear_before_reset=1", "direction=sbidirectional", NULL };
    static const struct one_case cases[] = {
        { "LSTM", plain, 17, { 3, { 9, 3, 21 } }, { { 3, { 1, 148, 21 } }, { 3, { 1, 148, 37 } }, { 2, { 1, 296 } } }, 3, false, false, 2e-6f },
        { "LSTM", both, 17, { 3, { 9, 2, 21 } }, { { 3, { 2, 148, 21 } }, { 3, { 2, 148, 37 } }, { 2, { 2, 296 } }, { 0 }, { 3, { 2, 2, 37 } }, { 3, { 2, 2, 37 } } }, 6, false, false, 2e-6f },
        { "LSTM", turned, 17, { 3, { 3, 8, 21 } }, { { 3, { 1, 148, 21 } }, { 3, { 1, 148, 37 } } }, 2, false, false, 2e-6f },
        { "LSTM", plain, 17, { 3, { 5, 1, 21 } }, { { 3, { 1, 148, 21 } }, { 3, { 1, 148, 37 } }, { 2, { 1, 296 } }, { 0 }, { 0 }, { 0 }, { 2, { 1, 111 } } }, 7, false, false, 2e-6f },
        { "LSTM", plain, 17, { 3, { 5, 2, 21 } }, { { 3, { 1, 148, 21 } }, { 3, { 1, 148, 37 } } }, 2, false, true, 2e-6f },
        { "GRU", plain, 17, { 3, { 9, 3, 21 } }, { { 3, { 1, 111, 21 } }, { 3, { 1, 111, 37 } }, { 2, { 1, 222 } } }, 3, false, false, 2e-6f },
        { "GRU", linear, 17, { 3, { 9, 3, 21 } }, { { 3, { 1, 111, 21 } }, { 3, { 1, 111, 37 } }, { 2, { 1, 222 } }, { 0 }, { 3, { 1, 3, 37 } } }, 5, false, false, 2e-6f },
        { "GRU", linear_both, 17, { 3, { 9, 2, 21 } }, { { 3, { 2, 111, 21 } }, { 3, { 2, 111, 37 } } }, 2, false, false, 2e-6f },
        { "GRU", back, 17, { 3, { 9, 2, 21 } }, { { 3, { 1, 111, 21 } }, { 3, { 1, 111, 37 } } }, 2, false, false, 2e-6f },
        { "LSTM", wide, 17, { 3, { 7, 3, 21 } }, { { 3, { 1, 280, 21 } }, { 3, { 1, 280, 70 } }, { 2, { 1, 560 } } }, 3, false, false, 2e-6f },       /* from here on threads share out one direction */
        { "LSTM", wide_both, 17, { 3, { 6, 2, 21 } }, { { 3, { 2, 280, 21 } }, { 3, { 2, 280, 70 } } }, 2, false, true, 2e-6f },
        { "GRU", wide, 17, { 3, { 7, 3, 21 } }, { { 3, { 1, 210, 21 } }, { 3, { 1, 210, 70 } }, { 2, { 1, 420 } } }, 3, false, false, 3e-6f },
        { "GRU", wide_both, 17, { 3, { 6, 4, 21 } }, { { 3, { 2, 210, 21 } }, { 3, { 2, 210, 70 } } }, 2, false, false, 3e-6f },
        { "GRU", wide_linear, 17, { 3, { 7, 3, 21 } }, { { 3, { 1, 210, 21 } }, { 3, { 1, 210, 70 } }, { 2, { 1, 420 } } }, 3, false, false, 3e-6f },
        { "RNN", wider, 17, { 3, { 4, 2, 21 } }, { { 3, { 1, 130, 21 } }, { 3, { 1, 130, 130 } }, { 2, { 1, 260 } } }, 3, false, false, 1e-4f },
        { "RNN", back, 17, { 3, { 9, 2, 21 } }, { { 3, { 1, 37, 21 } }, { 3, { 1, 37, 37 } }, { 2, { 1, 74 } } }, 3, false, false, 3e-5f },      /* its weights amplify what a step was off */
    };
    RUN(cases);
}

TEST(convolutions_without_a_layer_agree_with_their_definition)
{
    static const char *const none[] = { NULL }, *const two[] = { "strides=2,2", "pads=1,1,1,1", "output_padding=1,1", NULL }, *const odd[] = { "strides=3,2", "pads=2,0,1,3", "dilations=2,1", "group=2", NULL }, *const flat[] = { "strides=[2", "pads=1,0", NULL },
        *const deep[] = { "strides=2,1,2", "pads=1,0,1,1,0,1", NULL }, *const deep_conv[] = { "strides=1,2,1", "pads=1,1,0,1,0,2", "dilations=1,1,2", "group=2", NULL }, *const same[] = { "auto_pad=sSAME_UPPER", "strides=2,2", NULL },
        *const apart[] = { "pads=2,1,0,1,1,2", "strides=2,1,2", NULL }, *const beside[] = { "pads=4,1,1,4,1,1", "dilations=3,1,1", NULL }, *const grouped[] = { "group=4", "pads=1,1,1,1,1,1", NULL }, *const upper[] = { "auto_pad=sSAME_UPPER", "strides=1,2,1", NULL };
    static const struct one_case cases[] = {
        { "ConvTranspose", two, 17, { 4, { 2, 12, 7, 9 } }, { { 4, { 12, 19, 3, 3 } }, { 1, { 19 } } }, 2, true, false, 2e-6f },
        { "ConvTranspose", odd, 17, { 4, { 1, 12, 5, 6 } }, { { 4, { 12, 10, 3, 4 } } }, 1, true, false, 2e-6f },
        { "ConvTranspose", same, 17, { 4, { 1, 3, 5, 6 } }, { { 4, { 3, 40, 3, 3 } } }, 1, false, false, 2e-6f },
        { "ConvTranspose", flat, 17, { 3, { 2, 5, 30 } }, { { 3, { 5, 70, 4 } }, { 1, { 70 } } }, 2, true, false, 2e-6f },
        { "ConvTranspose", deep, 17, { 5, { 1, 6, 3, 4, 5 } }, { { 5, { 6, 9, 3, 2, 3 } } }, 1, true, false, 2e-6f },
        { "ConvTranspose", two, 17, { 4, { 1, 4, 5, 5 } }, { { 4, { 4, 3, 3, 3 } } }, 1, false, true, 2e-6f },
        { "Conv", deep_conv, 17, { 5, { 2, 6, 5, 6, 9 } }, { { 5, { 34, 3, 3, 3, 3 } }, { 1, { 34 } } }, 2, true, false, 2e-6f },
        { "Conv", apart, 17, { 5, { 2, 16, 7, 9, 10 } }, { { 5, { 48, 16, 3, 3, 3 } }, { 1, { 48 } } }, 2, true, false, 2e-6f },      /* slices two apart */
        { "Conv", beside, 17, { 5, { 2, 8, 6, 8, 8 } }, { { 5, { 24, 8, 3, 3, 3 } }, { 1, { 24 } } }, 2, true, false, 2e-6f },          /* places of the kernel that meet no slice */
        { "Conv", grouped, 17, { 5, { 1, 8, 5, 7, 6 } }, { { 5, { 16, 2, 3, 3, 3 } } }, 1, true, false, 2e-6f },
        { "Conv", upper, 17, { 5, { 1, 3, 8, 9, 9 } }, { { 5, { 16, 3, 4, 5, 3 } }, { 1, { 16 } } }, 2, true, false, 2e-6f },
        { "Conv", none, 17, { 5, { 1, 33, 4, 5, 6 } }, { { 5, { 17, 33, 1, 1, 1 } } }, 1, true, false, 2e-6f },
        { "Conv", none, 17, { 4, { 2, 9, 11, 12 } }, { { 4, { 37, 9, 3, 3 } }, { 1, { 37 } } }, 2, false, true, 2e-6f },
    };
    RUN(cases);
}

TEST(norms_reductions_and_pools_agree_with_their_definition)
{
    static const char *const groups[] = { "num_groups=3", NULL }, *const axis1[] = { "axis=1", NULL }, *const pool[] = { "kernel_shape=3,2,2", "strides=2,1,2", "pads=1,0,1,1,1,0", NULL }, *const padded[] = { "kernel_shape=3,2,2", "pads=1,0,1,1,1,0", "count_include_pad=1", NULL },
        *const deep[] = { "kernel_shape=5,1,1", "pads=2,0,0,2,0,0", NULL }, *const axes[] = { "axes=1,2", "keepdims=0", NULL }, *const last[] = { "axes=[3", NULL };
    static const struct one_case cases[] = {
        { "InstanceNormalization", NULL, 17, { 4, { 2, 6, 9, 11 } }, { { 1, { 6 } }, { 1, { 6 } } }, 2, true, false, 3e-6f },
        { "InstanceNormalization", NULL, 17, { 5, { 1, 19, 3, 4, 5 } }, { { 1, { 19 } }, { 1, { 19 } } }, 2, true, false, 3e-6f },
        { "GroupNormalization", groups, 21, { 4, { 2, 6, 9, 11 } }, { { 1, { 6 } }, { 1, { 6 } } }, 2, true, false, 3e-6f },
        { "GroupNormalization", groups, 18, { 3, { 2, 9, 50 } }, { { 1, { 3 } }, { 1, { 3 } } }, 2, true, false, 3e-6f },
        { "Softmax", axis1, 17, { 4, { 2, 37, 5, 7 } }, { { 0 } }, 0, true, false, 2e-6f },
        { "MaxPool", pool, 17, { 5, { 2, 35, 5, 6, 7 } }, { { 0 } }, 0, true, false, 1e-7f },
        { "AveragePool", padded, 17, { 5, { 2, 35, 5, 6, 7 } }, { { 0 } }, 0, true, false, 1e-6f },
        { "AveragePool", deep, 17, { 5, { 2, 1, 20, 6, 7 } }, { { 0 } }, 0, false, false, 1e-6f },
        { "ReduceMax", axes, 17, { 4, { 2, 6, 7, 300 } }, { { 0 } }, 0, true, false, 1e-7f },
        { "ReduceL2", last, 17, { 4, { 2, 6, 7, 300 } }, { { 0 } }, 0, true, false, 1e-6f },
        { "ReduceSumSquare", axes, 17, { 4, { 2, 6, 7, 37 } }, { { 0 } }, 0, true, false, 1e-6f },
        { "Erf", NULL, 17, { 3, { 2, 7, 61 } }, { { 0 } }, 0, true, false, 1e-6f },
    };
    RUN(cases);
}

TEST(products_by_equation_agree_with_their_definition)
{
#define EQUATION(text) (const char *[]){ "equation=s" text, NULL }
    const struct one_case cases[] = {
        { "Einsum", EQUATION("bik,bkj->bij"), 17, { 3, { 3, 17, 70 } }, { { 3, { 3, 70, 37 } } }, 1, false, false, 2e-6f },
        { "Einsum", EQUATION("bhqd,bhkd->bhqk"), 17, { 4, { 2, 3, 17, 21 } }, { { 4, { 2, 3, 40, 21 } } }, 1, true, false, 2e-6f },
        { "Einsum", EQUATION("bid,jiod->bjio"), 17, { 3, { 2, 19, 8 } }, { { 4, { 5, 19, 7, 8 } } }, 1, false, false, 2e-6f },
        { "Einsum", EQUATION("bikc,bjkc->bijc"), 17, { 4, { 1, 13, 11, 9 } }, { { 4, { 1, 6, 11, 9 } } }, 1, false, false, 2e-6f },
        { "Einsum", EQUATION("ab,cb->"), 17, { 2, { 13, 11 } }, { { 2, { 6, 11 } } }, 1, false, false, 2e-6f },
        { "Einsum", EQUATION("ab,c->cab"), 17, { 2, { 13, 11 } }, { { 1, { 6 } } }, 1, false, false, 2e-6f },
        { "Einsum", EQUATION("...ab,bc->...ac"), 17, { 4, { 2, 3, 5, 7 } }, { { 2, { 7, 9 } } }, 1, false, false, 2e-6f },
        { "MatMul", NULL, 17, { 4, { 2, 3, 17, 33 } }, { { 3, { 3, 33, 40 } } }, 1, false, false, 2e-6f },
    };
    RUN(cases);
}
