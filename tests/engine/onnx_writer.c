#include "tests/engine/onnx_writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_varint(struct buf *b, uint64_t v)
{
    for (; v > 127; v >>= 7) buf_putc(b, (char)(v | 128));
    buf_putc(b, (char)v);
}

static void put_int(struct buf *b, int field, uint64_t v)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, v);
}

static void put_bytes(struct buf *b, int field, const void *data, size_t n)
{
    put_varint(b, (uint64_t)field << 3 | 2);
    put_varint(b, n);
    buf_append(b, data, n);
}

static void put_text(struct buf *b, int field, const char *text) { put_bytes(b, field, text, strlen(text)); }

static void put_part(struct buf *b, int field, struct buf *part)
{
    put_bytes(b, field, part->data, part->length);
    buf_free(part);
}

static const char *value_name(int value, char out[16])
{
    snprintf(out, 16, "v%d", value);
    return out;
}

void writer_begin(struct writer *w, int opset)
{
    *w = (struct writer){ .opset = opset, .seed = 12345 };
    buf_init(&w->graph, 0);
    put_text(&w->graph, 2, "test");
}

static void put_port(struct writer *w, int field, int value, int dtype, const int64_t *dims, int rank)
{
    struct buf shape, tensor, type, port;
    char name[16];
    buf_init(&shape, 0), buf_init(&tensor, 0), buf_init(&type, 0), buf_init(&port, 0);
    for (int d = 0; d < rank; d++) {
        struct buf dim;
        buf_init(&dim, 0);
        if (dims[d] < 0) put_text(&dim, 2, dims[d] == -1 ? "batch" : "other");
        else put_int(&dim, 1, (uint64_t)dims[d]);
        put_part(&shape, 1, &dim);
    }
    put_int(&tensor, 1, (uint64_t)dtype);
    put_part(&tensor, 2, &shape);
    put_part(&type, 1, &tensor);
    put_text(&port, 1, value_name(value, name));
    put_part(&port, 2, &type);
    put_part(&w->graph, field, &port);
}

int writer_input(struct writer *w, int dtype, const int64_t *dims, int rank)
{
    put_port(w, 11, w->next, dtype, dims, rank);
    return w->next++;
}

void writer_output(struct writer *w, int value, int dtype, const int64_t *dims, int rank) { put_port(w, 12, value, dtype, dims, rank); }

static int put_tensor(struct writer *w, int dtype, const int64_t *dims, int rank, const void *data, size_t bytes)
{
    struct buf t;
    char name[16];
    buf_init(&t, 0);
    for (int d = 0; d < rank; d++) put_int(&t, 1, (uint64_t)dims[d]);
    put_int(&t, 2, (uint64_t)dtype);
    put_text(&t, 8, value_name(w->next, name));
    put_bytes(&t, 9, data, bytes);
    put_part(&w->graph, 5, &t);
    return w->next++;
}

static float uniform(struct writer *w, float low, float high)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return low + (high - low) * (float)(w->seed >> 8) / 16777216.0f;
}

int writer_floats(struct writer *w, const int64_t *dims, int rank, float low, float high)
{
    size_t n = 1;
    for (int d = 0; d < rank; d++) n *= (size_t)dims[d];
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = uniform(w, low, high);
    int value = put_tensor(w, 1, dims, rank, x, n * sizeof *x);
    free(x);
    return value;
}

int writer_ints(struct writer *w, const int64_t *values, int count) { return put_tensor(w, 7, (int64_t[]){ count }, 1, values, (size_t)count * 8); }

static void put_attribute(struct buf *node, const char *text)
{
    struct buf a;
    const char *v = strchr(text, '=') + 1;
    buf_init(&a, 0);
    put_bytes(&a, 1, text, (size_t)(v - 1 - text));
    if (*v == 'f') {
        float f = strtof(v + 1, NULL);
        put_varint(&a, 2 << 3 | 5);
        buf_append(&a, &f, 4);
        put_int(&a, 20, 1);
    } else if (*v == 's') {
        put_text(&a, 4, v + 1);
        put_int(&a, 20, 3);
    } else {
        bool list = strchr(v, ',') != NULL || *v == '[';
        v += *v == '[';
        while (*v) {
            put_int(&a, list ? 8 : 3, (uint64_t)strtoll(v, (char **)&v, 10));
            v += *v == ',';
        }
        put_int(&a, 20, list ? 7 : 2);
    }
    put_part(node, 5, &a);
}

int writer_node(struct writer *w, const char *op, const int *inputs, int count, const char *const *attributes)
{
    struct buf n;
    char name[16];
    buf_init(&n, 0);
    for (int i = 0; i < count; i++) put_text(&n, 1, inputs[i] < 0 ? "" : value_name(inputs[i], name));
    put_text(&n, 2, value_name(w->next, name));
    put_text(&n, 4, op);
    for (; attributes && *attributes; attributes++) put_attribute(&n, *attributes);
    put_part(&w->graph, 1, &n);
    return w->next++;
}

void writer_finish(struct writer *w, struct buf *model)
{
    struct buf opset;
    buf_init(&opset, 0);
    put_text(&opset, 1, "");
    put_int(&opset, 2, (uint64_t)w->opset);
    put_int(model, 1, 8);
    put_part(model, 8, &opset);
    put_part(model, 7, &w->graph);
}

void writer_save(struct writer *w, const char *path)
{
    struct buf model;
    buf_init(&model, 0);
    writer_finish(w, &model);
    FILE *f = fopen(path, "wb");
    if (f) {
        fwrite(model.data, 1, model.length, f);
        fclose(f);
    }
    buf_free(&model);
}

/* ---- networks ---- */
static int conv(struct writer *w, int x, int64_t in, int64_t out, int64_t k, int stride, int64_t groups)
{
    char strides[32], pads[48], group[32];
    float a = sqrtf(6.0f / (float)(in / groups * k * k));
    int weight = writer_floats(w, (int64_t[]){ out, in / groups, k, k }, 4, -a, a);
    int s = writer_floats(w, &out, 1, 0.7f, 1.0f), b = writer_floats(w, &out, 1, -0.1f, 0.1f), m = writer_floats(w, &out, 1, -0.1f, 0.1f), v = writer_floats(w, &out, 1, 0.8f, 1.2f);
    snprintf(strides, sizeof strides, "strides=%d,%d", stride, stride);
    snprintf(pads, sizeof pads, "pads=%d,%d,%d,%d", (int)k / 2, (int)k / 2, (int)k / 2, (int)k / 2);
    snprintf(group, sizeof group, "group=%d", (int)groups);
    int y = writer_node(w, "Conv", (int[]){ x, weight }, 2, (const char *[]){ strides, pads, group, NULL });
    return writer_node(w, "BatchNormalization", (int[]){ y, s, b, m, v }, 5, NULL);
}

static int one(struct writer *w, const char *op, int x) { return writer_node(w, op, &x, 1, NULL); }

static void finish_classifier(struct writer *w, int x, int64_t features, int64_t classes, const char *path)
{
    float a = sqrtf(3.0f / (float)features);
    x = writer_node(w, "Flatten", (int[]){ one(w, "GlobalAveragePool", x) }, 1, NULL);
    int weight = writer_floats(w, (int64_t[]){ features, classes }, 2, -a, a), bias = writer_floats(w, &classes, 1, -0.1f, 0.1f);
    x = writer_node(w, "Gemm", (int[]){ x, weight, bias }, 3, NULL);
    writer_output(w, x, 1, (int64_t[]){ -1, classes }, 2);
    writer_save(w, path);
}

void write_mlp(const char *path)
{
    struct writer w;
    int64_t sizes[] = { 64, 300, 129, 10 };
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 64 }, 2);
    for (int i = 0; i < 3; i++) {
        float a = sqrtf(6.0f / (float)sizes[i]);
        int m = writer_floats(&w, (int64_t[]){ sizes[i], sizes[i + 1] }, 2, -a, a), b = writer_floats(&w, &sizes[i + 1], 1, -0.1f, 0.1f);
        x = writer_node(&w, "Add", (int[]){ writer_node(&w, "MatMul", (int[]){ x, m }, 2, NULL), b }, 2, NULL);
        x = one(&w, i == 0 ? "Relu" : i == 1 ? "Sigmoid" : "Softmax", x);
    }
    writer_output(&w, x, 1, (int64_t[]){ -1, 10 }, 2);
    writer_save(&w, path);
}

void write_resnet18(const char *path, int size, int width)
{
    struct writer w;
    int64_t in = width;
    writer_begin(&w, 17);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, size, size }, 4);
    x = one(&w, "Relu", conv(&w, x, 3, width, 7, 2, 1));
    x = writer_node(&w, "MaxPool", &x, 1, (const char *[]){ "kernel_shape=3,3", "strides=2,2", "pads=1,1,1,1", NULL });
    for (int stage = 0; stage < 4; stage++)
        for (int block = 0; block < 2; block++) {
            int64_t out = (int64_t)width << stage;
            int stride = stage > 0 && block == 0 ? 2 : 1, shortcut = x;
            int y = conv(&w, one(&w, "Relu", conv(&w, x, in, out, 3, stride, 1)), out, out, 3, 1, 1);
            if (stride == 2) shortcut = conv(&w, x, in, out, 1, 2, 1);
            x = one(&w, "Relu", writer_node(&w, "Add", (int[]){ y, shortcut }, 2, NULL));
            in = out;
        }
    finish_classifier(&w, x, in, 100, path);
}

static int relu6(struct writer *w, int x, int low, int high) { return writer_node(w, "Clip", (int[]){ x, low, high }, 3, NULL); }

void write_mobilenet_v2(const char *path, int size)
{
    static const int stages[7][4] = { { 1, 16, 1, 1 }, { 6, 24, 2, 2 }, { 6, 32, 3, 2 }, { 6, 64, 4, 2 }, { 6, 96, 3, 1 }, { 6, 160, 3, 2 }, { 6, 320, 1, 1 } };
    struct writer w;
    int64_t in = 32;
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, size, size }, 4);
    int low = writer_floats(&w, NULL, 0, 0, 0), high = writer_floats(&w, NULL, 0, 6, 6);
    x = relu6(&w, conv(&w, x, 3, 32, 3, 2, 1), low, high);
    for (int s = 0; s < 7; s++)
        for (int i = 0; i < stages[s][2]; i++) {
            int64_t wide = in * stages[s][0], out = stages[s][1];
            int stride = i == 0 ? stages[s][3] : 1, y = x;
            if (stages[s][0] > 1) y = relu6(&w, conv(&w, y, in, wide, 1, 1, 1), low, high);
            y = relu6(&w, conv(&w, y, wide, wide, 3, stride, wide), low, high);
            y = conv(&w, y, wide, out, 1, 1, 1);
            x = stride == 1 && in == out ? writer_node(&w, "Add", (int[]){ x, y }, 2, NULL) : y;
            in = out;
        }
    x = relu6(&w, conv(&w, x, in, 1280, 1, 1, 1), low, high);
    finish_classifier(&w, x, 1280, 100, path);
}

static int gate(struct writer *w, int x, int64_t c)
{
    int64_t few = c / 4;
    int s = one(w, "GlobalAveragePool", x);
    int a = writer_floats(w, (int64_t[]){ few, c, 1, 1 }, 4, -0.5f, 0.5f), b = writer_floats(w, (int64_t[]){ c, few, 1, 1 }, 4, -0.5f, 0.5f), bias = writer_floats(w, &c, 1, -0.5f, 0.5f);
    s = writer_node(w, "Conv", (int[]){ s, a }, 2, NULL);
    s = writer_node(w, "Mul", (int[]){ s, one(w, "Sigmoid", s) }, 2, NULL);
    s = one(w, "Sigmoid", writer_node(w, "Conv", (int[]){ s, b, bias }, 3, NULL));
    return writer_node(w, "Mul", (int[]){ x, s }, 2, NULL);
}

static int shuffle(struct writer *w, int x, int64_t c, int64_t size)
{
    int out = writer_ints(w, (int64_t[]){ -1, 3, c / 3, size, size }, 5), back = writer_ints(w, (int64_t[]){ -1, c, size, size }, 4);
    x = writer_node(w, "Reshape", (int[]){ x, out }, 2, NULL);
    x = writer_node(w, "Transpose", &x, 1, (const char *[]){ "perm=0,2,1,3,4", NULL });
    return writer_node(w, "Reshape", (int[]){ x, back }, 2, NULL);
}

/* As exporters wrote it before there was an operator: x * (ramp / 6) or (x * ramp) / 6. */
static int old_hard_swish(struct writer *w, int x, int late)
{
    int three = writer_floats(w, NULL, 0, 3, 3), zero = writer_floats(w, NULL, 0, 0, 0), six = writer_floats(w, NULL, 0, 6, 6);
    int ramp = relu6(w, writer_node(w, "Add", (int[]){ x, three }, 2, NULL), zero, six);
    if (late) return writer_node(w, "Div", (int[]){ writer_node(w, "Mul", (int[]){ x, ramp }, 2, NULL), six }, 2, NULL);
    return writer_node(w, "Mul", (int[]){ writer_node(w, "Div", (int[]){ ramp, six }, 2, NULL), x }, 2, NULL);
}

void write_mixture(const char *path, int size)
{
    struct writer w;
    int64_t half = size / 2;
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 3, size, size }, 4);
    int shift = writer_floats(&w, (int64_t[]){ 1, 3, 1, 1 }, 4, 0.3f, 0.6f), scale = writer_floats(&w, NULL, 0, 0.25f, 0.25f);
    x = writer_node(&w, "Div", (int[]){ writer_node(&w, "Sub", (int[]){ x, shift }, 2, NULL), scale }, 2, NULL);
    int first = one(&w, "LeakyRelu", conv(&w, x, 3, 12, 3, 2, 1));
    x = gate(&w, first, 12);
    x = writer_node(&w, "Mul", (int[]){ x, writer_node(&w, "HardSigmoid", &x, 1, (const char *[]){ "alpha=f0.16666667", NULL }) }, 2, NULL);
    x = shuffle(&w, old_hard_swish(&w, conv(&w, x, 12, 12, 1, 1, 3), 0), 12, half);
    int pooled = writer_node(&w, "AveragePool", &x, 1, (const char *[]){ "kernel_shape=3,3", "pads=1,1,1,1", "strides=1,1", NULL });
    int counted = writer_node(&w, "AveragePool", &x, 1, (const char *[]){ "kernel_shape=3,2", "pads=1,0,1,1", "count_include_pad=1", NULL });
    int even = one(&w, "Tanh", conv(&w, old_hard_swish(&w, x, 1), 12, 12, 3, 1, 12));
    int half_part = writer_ints(&w, (int64_t[]){ 0 }, 1), end = writer_ints(&w, (int64_t[]){ 6 }, 1), axis = writer_ints(&w, (int64_t[]){ 1 }, 1);
    int part = writer_node(&w, "Slice", (int[]){ even, half_part, end, axis }, 4, NULL);
    int slope = writer_floats(&w, (int64_t[]){ 30, 1, 1 }, 3, 0.1f, 0.4f);
    x = writer_node(&w, "Concat", (int[]){ pooled, part, counted }, 3, (const char *[]){ "axis=1", NULL });
    x = writer_node(&w, "PRelu", (int[]){ conv(&w, x, 30, 30, 1, 1, 1), slope }, 2, NULL);
    x = writer_node(&w, "LRN", &x, 1, (const char *[]){ "size=5", "alpha=f0.1", NULL });
    int none = -1, pads = writer_ints(&w, (int64_t[]){ 0, 0, 1, 0, 0, 0, 0, 1 }, 8);
    x = writer_node(&w, "Pad", (int[]){ x, pads }, 2, (const char *[]){ "mode=sreflect", NULL });
    int sizes = writer_ints(&w, (int64_t[]){ 30, half * 2 }, 2), shape = writer_node(&w, "Shape", &x, 1, NULL), zero = writer_ints(&w, (int64_t[]){ 0 }, 1);
    int rows = writer_node(&w, "Gather", (int[]){ shape, zero }, 2, NULL), wide = writer_ints(&w, (int64_t[]){ half * 2 }, 1);
    sizes = writer_node(&w, "Concat", (int[]){ rows, sizes, wide }, 3, (const char *[]){ "axis=0", NULL });
    x = writer_node(&w, "Resize", (int[]){ x, none, none, sizes }, 4, (const char *[]){ "mode=slinear", NULL });
    x = one(&w, "Softplus", conv(&w, x, 30, 16, 3, 2, 1));
    x = writer_node(&w, "ReduceMean", &x, 1, (const char *[]){ "axes=2,3", "keepdims=0", NULL });
    int weight = writer_floats(&w, (int64_t[]){ 10, 16 }, 2, -1, 1);
    x = writer_node(&w, "Gemm", (int[]){ x, weight }, 2, (const char *[]){ "transB=1", "alpha=f0.5", NULL });
    writer_output(&w, first, 1, (int64_t[]){ -1, 12, half, half }, 4);
    writer_output(&w, one(&w, "LogSoftmax", x), 1, (int64_t[]){ -1, 10 }, 2);
    writer_save(&w, path);
}
