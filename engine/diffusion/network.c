#include "engine/diffusion/network.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "engine/graph/gpu_store.h"
#include "engine/operators/diffusion.h"
#include "engine/operators/llm.h"
#include "kernels/blocks.h"
#include "kernels/conv.h"

const struct activation_spec NETWORK_PLAIN = { ACT_NONE, 0, 0 }, NETWORK_SILU = { ACT_SILU, 0, 0 };

/* ---- configuration ---- */
int64_t network_int(const struct network *b, const char *key, int64_t otherwise)
{
    int64_t v;
    return json_as_int64(json_get_value(b->config, key), &v) ? v : otherwise;
}

double network_real(const struct network *b, const char *key, double otherwise)
{
    double v;
    return json_as_double(json_get_value(b->config, key), &v) ? v : otherwise;
}

bool network_bool(const struct network *b, const char *key, bool otherwise)
{
    const struct json *j = json_get(b->config, key);
    return j && j->type == JSON_BOOL ? j->boolean : otherwise;
}

const char *network_text(const struct network *b, const char *key, const char *otherwise)
{
    const struct json *j = json_get(b->config, key);
    return j && j->type == JSON_STRING ? j->string.text : otherwise;
}

static const struct json *element(const struct network *b, const char *key, int index)
{
    const struct json *j = json_get_value(b->config, key);
    if (!j || j->type != JSON_ARRAY) return j;
    j = j->list.first;
    while (j && index-- > 0) j = j->next;
    return j;
}

int64_t network_int_at(const struct network *b, const char *key, int index, int64_t otherwise)
{
    int64_t v;
    const struct json *j = element(b, key, index);
    return j && json_as_int64(j, &v) ? v : otherwise;
}

const char *network_text_at(const struct network *b, const char *key, int index)
{
    const struct json *j = element(b, key, index);
    return j && j->type == JSON_STRING ? j->string.text : NULL;
}

int network_count(const struct network *b, const char *key)
{
    const struct json *j = json_get(b->config, key);
    return j && j->type == JSON_ARRAY ? (int)(j->list.count < 1 << 20 ? j->list.count : 1 << 20) : 0;
}

bool network_has(const struct network *b, const char *key) { return json_get_value(b->config, key) != NULL; }

/* ---- weights ---- */
static const struct weight_tensor *find(struct network *b, const char *name)
{
    char other[NETWORK_NAME_MAX];
    struct network_source *s = b->source;
    const struct weight_tensor *t = s->rename ? NULL : weights_find(s->weights, name);
    for (int attempt = 0; s->rename && !t && s->rename(s, name, attempt, other, sizeof other); attempt++) t = weights_find(s->weights, other);
    if (t) s->used[t - s->weights->tensors] = 1;
    return t;
}

const struct weight_tensor *network_find(struct network *b, const char *format, ...)
{
    char name[NETWORK_NAME_MAX];
    va_list ap;
    va_start(ap, format);
    vsnprintf(name, sizeof name, format, ap);
    va_end(ap);
    return b->st ? NULL : find(b, name);
}

static const struct block_format *plain_format(struct network *b, const struct weight_tensor *t)
{
    const struct block_format *f = block_format(t->type);
    if (f && f->decode && f->elements == 1) return f;
    network_refuse(b, ST_UNSUPPORTED, "tensor '%s' is of the type %s; F32, F16 and BF16 are computed", t->name, weight_type_name(t->type));
    return NULL;
}

static int64_t count_of(const struct weight_tensor *t)
{
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->dims[d];
    return n;
}

static const float *floats_of(struct network *b, int64_t count, bool needed, const char *name)
{
    if (b->st) return NULL;
    const struct weight_tensor *t = find(b, name);
    if (!t) {
        if (needed) network_refuse(b, ST_BAD_INPUT, "tensor '%s' is missing", name);
        return NULL;
    }
    const struct block_format *f = plain_format(b, t);
    if (!f) return NULL;
    int64_t n = count_of(t);
    if (count && n != count) {
        network_refuse(b, ST_BAD_INPUT, "tensor '%s' has %lld numbers where %lld are expected", name, (long long)n, (long long)count);
        return NULL;
    }
    float *y = arena_alloc(b->g->arena, (uint64_t)n * sizeof *y + 1, TENSOR_ALIGN);
    if (!y) return network_no_memory(b), NULL;
    f->decode(y, t->data, n);
    return y;
}

#define NAME_FROM(name_, suffix_)                                                      \
    char name_[NETWORK_NAME_MAX];                                                          \
    {                                                                                  \
        va_list ap;                                                                    \
        va_start(ap, format);                                                          \
        int length = vsnprintf(name_, sizeof name_ - 16, format, ap);                  \
        va_end(ap);                                                                    \
        if (length < 0 || length >= (int)sizeof name_ - 16) length = (int)sizeof name_ - 17; \
        strcpy(name_ + length, suffix_);                                               \
    }

const float *network_floats(struct network *b, int64_t count, bool needed, const char *format, ...)
{
    NAME_FROM(name, "")
    return floats_of(b, count, needed, name);
}

/* NAME.weight, which must be there, and NAME.bias as floats, which may not. */
static const struct weight_tensor *layer_weight(struct network *b, char *name, const float **bias, int64_t outputs)
{
    size_t n = strlen(name);
    *bias = NULL;
    if (b->st) return NULL;
    strcpy(name + n, ".weight");
    const struct weight_tensor *t = find(b, name);
    if (!t) network_refuse(b, ST_BAD_INPUT, "tensor '%s' is missing", name);
    if (!t || !plain_format(b, t)) return NULL;
    if (t->rank < 1 || count_of(t) < 1) {
        network_refuse(b, ST_BAD_INPUT, "tensor '%s' is empty", name);
        return NULL;
    }
    strcpy(name + n, ".bias");
    *bias = floats_of(b, outputs ? outputs : t->dims[0], false, name);
    name[n] = 0;
    return b->st ? NULL : t;
}

/* ---- operators ---- */
int network_fail(struct network *b, enum status st)
{
    if (!b->st) b->st = st;
    return -1;
}

int network_refuse(struct network *b, enum status st, const char *format, ...)
{
    va_list ap;
    if (b->st) return -1;      /* what failed first is what is said */
    va_start(ap, format);
    b->st = err_set_list(b->err, st, format, ap);
    va_end(ap);
    return -1;
}

int network_no_memory(struct network *b) { return network_refuse(b, ST_NO_MEMORY, "building a network passes the model's memory budget"); }

void network_begin(struct network *b, int inputs, int outputs)
{
    struct graph *g = b->g;
    g->inputs = arena_calloc(g->arena, (uint64_t)inputs, sizeof *g->inputs);
    g->outputs = arena_calloc(g->arena, (uint64_t)outputs, sizeof *g->outputs);
    if (!g->inputs || !g->outputs) network_no_memory(b);
}

int network_input(struct network *b, const char *name, enum dtype t, int rank, const int64_t *dims)
{
    if (b->st) return -1;
    int v = graph_add_value(b->g, name, VALUE_INPUT);
    if (v < 0) return network_no_memory(b);
    struct operand *o = &b->g->values[v].type;
    o->dtype = t;
    o->rank = rank;
    memcpy(o->dims, dims, (size_t)rank * sizeof *dims);
    return b->g->inputs[b->g->input_count++] = v;
}

void network_output(struct network *b, int v, const char *name)
{
    if (b->st || v < 0) return;
    b->g->values[v].name = name;
    b->g->values[v].is_output = true;
    b->g->outputs[b->g->output_count++] = v;
}

int network_add(struct network *b, const struct op *op, const int *in, int in_count, const void *spec, size_t spec_size, struct node **out)
{
    if (b->st) return -1;
    int v = graph_add_operator(b->g, op, in, in_count, spec, spec_size, out);
    return v < 0 ? network_no_memory(b) : v;
}

enum status network_activation(const char *name, struct activation_spec *out, struct err *err)
{
    static const struct { const char *name; struct activation_spec act; } known[] = {
        { "silu", { ACT_SILU, 0, 0 } }, { "swish", { ACT_SILU, 0, 0 } }, { "relu", { ACT_RELU, 0, 0 } }, { "gelu", { ACT_GELU, 0, 0 } }, { "gelu_new", { ACT_GELU_TANH, 0, 0 } },
        { "gelu_pytorch_tanh", { ACT_GELU_TANH, 0, 0 } }, { "gelu-approximate", { ACT_GELU_TANH, 0, 0 } }, { "tanh", { ACT_TANH, 0, 0 } }, { "quick_gelu", { ACT_QUICK_GELU, 0, 0 } },
    };
    for (size_t i = 0; name && i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(known[i].name, name)) {
            *out = known[i].act;
            return ST_OK;
        }
    return err_set(err, ST_UNSUPPORTED, "the activation '%.60s' is not computed", name ? name : "null");
}

/* The name of a weight that lies in the arena, not in the file. */
static const char TURNED[] = "a matrix turned round";

static bool charge(struct network *b, uint64_t bytes)
{
    uint64_t whole;
    if (size_add(b->g->packed_bytes, bytes, &whole) && whole <= b->g->memory_max) return true;
    network_no_memory(b);
    return false;
}

/* Will bfloat16 do, and is the machine quick at it? */
static bool in_bf16(const struct network *b) { return b->mode == LINEAR_FAST && b->g->device.kernels.bf16; }
static bool is_rounded(const struct network *b, int type) { return in_bf16(b) && (type == BLOCK_F16 || type == BLOCK_F32); }

/* The layer of these rows. Where bfloat16 will do, f16 and f32 weights are rounded to it: one product each instead of three, or of none on tiles. */
static enum status open_linear(struct network *b, const struct linear_spec *spec, struct linear_layer **out)
{
    const struct block_format *from = block_format(spec->type), *to = block_format(BLOCK_BF16);
    if (!is_rounded(b, spec->type)) return linear_open(out, spec, b->err);
    struct linear_spec own = *spec;
    float *row = mem_alloc_array((uint64_t)spec->k, sizeof *row);
    uint8_t *rounded = mem_alloc_array((uint64_t)spec->n * (uint64_t)spec->k, (uint64_t)to->bytes);
    enum status st = row && rounded ? ST_OK : err_set(b->err, ST_NO_MEMORY, "rounding a weight");
    for (int64_t r = 0; r < spec->n && !st; r++) {
        from->decode(row, (const uint8_t *)spec->weight + r * spec->row_bytes, spec->k);
        to->encode(rounded + r * spec->k * to->bytes, row, spec->k);
    }
    own.type = BLOCK_BF16;
    own.weight = rounded;
    own.row_bytes = spec->k * to->bytes;
    if (!st) st = linear_open(out, &own, b->err);
    if (!st && linear_borrows(*out)) {      /* it would read what is freed here */
        linear_close(*out);
        st = linear_open(out, spec, b->err);
    }
    free(row);
    free(rounded);
    return st;
}

/* ---- on a GPU: weights as the device stores floats ---- */
static int plain_block(int float_type) { return float_type == GPU_F16 ? BLOCK_F16 : float_type == GPU_BF16 ? BLOCK_BF16 : BLOCK_F32; }

/* Rows [first, first + count) of a matrix, dense. */
static bool device_matrix(struct network *b, const struct weight_tensor *t, int64_t first, int64_t count, struct device_matrix *out)
{
    struct gpu_store *s = b->g->gpu;
    const struct block_format *f = block_format(t->type);
    const int64_t k = count_of(t) / t->dims[0], n = count * k;
    const uint8_t *from = t->data + first * k * f->bytes;
    float *numbers = mem_alloc_array((uint64_t)n, sizeof *numbers);
    if (!numbers) return network_no_memory(b), false;
    f->decode(numbers, from, n);
    out->m = (struct gpu_matrix){ .block = plain_block(s->float_type), .n = count, .k = k, .row_bytes = k * gpu_type_bytes(s->float_type) };
    const enum status st = gpu_store_put(s, from, (int)(count % INT32_MAX), numbers, (uint64_t)n, true, s->float_type, &out->at, b->err);
    free(numbers);
    if (st) network_fail(b, st);
    else if (t->name != TURNED) file_let_go(from, (uint64_t)(n * f->bytes));
    return !st;
}

/* A convolution's weight [out, in, k, k] with its channels last. */
static void *device_window(struct network *b, const struct weight_tensor *t)
{
    struct gpu_store *s = b->g->gpu;
    const int64_t out = t->dims[0], in = t->dims[1], cells = t->dims[2] * t->dims[3];
    float *w = mem_alloc_array((uint64_t)count_of(t), sizeof *w), *last = mem_alloc_array((uint64_t)count_of(t), sizeof *last);
    void *at = NULL;
    enum status st = w && last ? ST_OK : err_set(b->err, ST_NO_MEMORY, "unpacking a weight");
    if (!st) block_format(t->type)->decode(w, t->data, count_of(t));
    for (int64_t o = 0; o < out && !st; o++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t c = 0; c < cells; c++) last[(o * cells + c) * in + i] = w[(o * in + i) * cells + c];
    if (!st) st = gpu_store_put(s, t->data, 0, last, (uint64_t)count_of(t), true, s->float_type, &at, b->err);
    free(w);
    free(last);
    if (st) network_fail(b, st);
    else file_let_go(t->data, t->bytes);
    return at;
}

static int linear_on_device(struct network *b, int x, int residual, struct activation_spec act, const struct weight_tensor *t, int64_t first, int64_t count, const float *bias)
{
    struct linear_op_spec own = { .n = count, .k = count_of(t) / t->dims[0] };
    struct node *n;
    if (!device_matrix(b, t, first, count, &own.device)) return -1;
    const int y = network_add(b, &op_linear, (int[]){ x, residual }, 2, &own, sizeof own, &n);
    if (y < 0) return -1;
    n->bias = bias;
    n->act = act;
    return y;
}

int network_embed(struct network *b, int ids, int type, const struct embed_spec *spec)
{
    struct embed_spec s = *spec;
    if (b->st || !b->g->gpu) return network_add(b, &op_embed, &ids, 1, &s, sizeof s, NULL);
    const struct gpu_rows rows = { .type = type, .data = s.table, .n = s.rows, .k = s.width, .row_bytes = s.row_bytes };
    s.device.m = gpu_matrix_of(rows.type, rows.n, rows.k);
    enum status st = gpu_store_take(b->g->gpu, NULL, 0, gpu_matrix_bytes(&s.device.m), &s.device.at, b->err);
    if (!st) st = gpu_store_rows(b->g->gpu, &rows, &s.device.m, s.device.at, b->err);
    return st ? network_fail(b, st) : network_add(b, &op_embed, &ids, 1, &s, sizeof s, NULL);
}

static int linear_of(struct network *b, int x, int residual, struct activation_spec act, const struct weight_tensor *t, int64_t first, int64_t count, bool gated, const float *bias)
{
    const struct block_format *f = block_format(t->type);
    const int64_t k = count_of(t) / t->dims[0];
    const struct linear_spec spec = { .type = t->type, .weight = t->data + first * k * f->bytes, .n = count, .k = k, .row_bytes = k * f->bytes, .mode = b->mode, .level = b->g->device.kernels.level, .gated = gated, .few_rounded = gated };
    struct linear_layer *l;
    struct node *n;
    if (b->g->gpu) return linear_on_device(b, x, residual, act, t, first, count, bias);
    if (!charge(b, (uint64_t)count * (uint64_t)k * (uint64_t)f->bytes)) return -1;
    enum status st = open_linear(b, &spec, &l);
    if (st) return network_fail(b, st);
    b->g->packed_bytes += linear_bytes(l);
    if (!linear_borrows(l) && t->name != TURNED) file_let_go(spec.weight, (uint64_t)count * (uint64_t)spec.row_bytes);
    if (!graph_own_linear(b->g, l)) return network_no_memory(b);
    const struct linear_op_spec own = { .n = gated ? count / 2 : count, .k = k };
    int y = network_add(b, &op_linear, (int[]){ x, residual }, 2, &own, sizeof own, &n);
    if (y < 0) return -1;
    n->linear = l;
    n->row_work = (uint64_t)count * (uint64_t)k;
    n->bias = bias;
    n->act = act;
    return y;
}

int network_linear(struct network *b, int x, int residual, struct activation_spec act, const char *format, ...)
{
    NAME_FROM(name, "")
    const float *bias;
    const struct weight_tensor *t = layer_weight(b, name, &bias, 0);
    if (!t) return -1;
    if (t->rank < 2) return network_refuse(b, ST_BAD_INPUT, "tensor '%s' is no matrix", t->name);
    return linear_of(b, x, residual, act, t, 0, t->dims[0], false, bias);
}

int network_geglu(struct network *b, int x, const char *format, ...)
{
    NAME_FROM(name, "")
    const float *bias;
    const struct weight_tensor *t = layer_weight(b, name, &bias, 0);
    const struct gate_spec geglu = { .kind = GATE_GELU, .up_first = true };
    if (!t) return -1;
    if (t->rank < 2) return network_refuse(b, ST_BAD_INPUT, "tensor '%s' is no matrix", t->name);
    const bool gated = !b->g->gpu && t->dims[0] % 32 == 0 && (is_rounded(b, t->type) || (t->type == BLOCK_BF16 && in_bf16(b)));
    const int h = linear_of(b, x, -1, gated ? (struct activation_spec){ .kind = ACT_GELU } : NETWORK_PLAIN, t, 0, t->dims[0], gated, bias);
    return gated ? h : network_add(b, &op_gate, &h, 1, &geglu, sizeof geglu, NULL);
}

int network_linear_turned(struct network *b, int x, const char *format, ...)
{
    NAME_FROM(name, "")
    const struct weight_tensor *t = b->st ? NULL : find(b, name);
    if (b->st) return -1;
    if (!t || t->rank != 2) return network_refuse(b, ST_BAD_INPUT, "tensor '%s' is missing or no matrix", name);
    const int64_t k = t->dims[0], n = t->dims[1];
    const float *x_kn = floats_of(b, n * k, true, name);
    float *turned = arena_alloc(b->g->arena, (uint64_t)(n * k) * sizeof *turned, TENSOR_ALIGN);
    if (!x_kn || !turned) return b->st ? -1 : network_no_memory(b);
    b->g->device.kernels.transpose_2d(turned, x_kn, 1, k, n, sizeof *turned, 1);
    const struct weight_tensor own = { .name = TURNED, .type = BLOCK_F32, .rank = 2, .dims = { n, k }, .data = (const uint8_t *)turned, .bytes = (uint64_t)(n * k) * sizeof *turned };
    return linear_of(b, x, -1, NETWORK_PLAIN, &own, 0, n, false, NULL);
}

int network_linear_rows(struct network *b, int x, int64_t first, int64_t count, const char *format, ...)
{
    NAME_FROM(name, "")
    const float *bias;
    const struct weight_tensor *t = layer_weight(b, name, &bias, 0);
    if (!t) return -1;
    if (t->rank < 2 || first + count > t->dims[0]) return network_refuse(b, ST_BAD_INPUT, "tensor '%s' has fewer than %lld rows", t->name, (long long)(first + count));
    return linear_of(b, x, -1, NETWORK_PLAIN, t, first, count, false, bias ? bias + first : NULL);
}

/* The weights as floats for as long as packing takes. */
static enum status open_conv(struct network *b, const struct weight_tensor *t, const float *bias, bool residual, int stride, struct activation_spec act, struct conv_layer **out)
{
    const struct block_format *f = block_format(t->type);
    const struct conv_spec spec = { .in_c = t->dims[1], .out_c = t->dims[0], .groups = 1, .kh = (int)t->dims[2], .kw = (int)t->dims[3], .stride_h = stride, .stride_w = stride, .dilation_h = 1, .dilation_w = 1,
                                    .has_residual = residual, .act = act, .bf16 = b->mode != LINEAR_F32, .loose = true, .hint_n_max = b->g->max_rows };
    float *w = mem_alloc_array((uint64_t)count_of(t), sizeof *w);
    if (!w) return err_set(b->err, ST_NO_MEMORY, "unpacking a weight");
    f->decode(w, t->data, count_of(t));
    enum status st = conv_layer_open(out, &spec, w, bias, &b->g->device.kernels, b->g->device.threads, b->err);
    free(w);
    if (!st) file_let_go(t->data, t->bytes);
    return st;
}

int network_conv(struct network *b, int x, int residual, int stride, int low, int high, struct activation_spec act, const char *format, ...)
{
    NAME_FROM(name, "")
    const float *bias;
    const struct weight_tensor *t = layer_weight(b, name, &bias, 0);
    if (!t) return -1;
    if (t->rank == 2) return linear_of(b, x, residual, act, t, 0, t->dims[0], false, bias);
    if (t->rank != 4 || t->dims[2] != t->dims[3] || t->dims[2] < 1 || t->dims[2] > 64 || t->dims[0] > INT32_MAX || t->dims[1] > INT32_MAX)
        return network_refuse(b, ST_BAD_INPUT, "tensor '%s' is no window of a convolution", t->name);
    if (t->dims[2] == 1 && stride == 1 && !low && !high) return linear_of(b, x, residual, act, t, 0, t->dims[0], false, bias);
    if (!charge(b, (uint64_t)count_of(t) * sizeof(float))) return -1;
    struct conv_layer *l = NULL;
    void *device = b->g->gpu ? device_window(b, t) : NULL;
    enum status st = b->g->gpu ? b->st : open_conv(b, t, bias, residual >= 0, stride, act, &l);
    if (st) return network_fail(b, st);
    const struct conv2d_spec own = { .in_c = t->dims[1], .out_c = t->dims[0], .kernel = (int)t->dims[2], .stride = stride, .low = low, .high = high, .device = device };
    struct node *n;
    int y = network_add(b, &op_conv2d, (int[]){ x, residual }, 2, &own, sizeof own, &n);
    if (y < 0) {
        conv_layer_close(l);
        return -1;
    }
    if (l) b->g->packed_bytes += conv_layer_bytes(l);
    n->conv = l;
    if (device) n->bias = bias;
    n->residual = residual >= 0 ? 1 : -1;
    n->act = act;
    n->row_work = (uint64_t)count_of(t) / (uint64_t)(stride * stride);
    return y;
}

int network_group_norm(struct network *b, int x, int add, int modulation, int64_t groups, double epsilon, struct activation_spec act, const char *format, ...)
{
    NAME_FROM(name, "")
    const float *bias;
    const struct weight_tensor *t = layer_weight(b, name, &bias, 0);
    if (!t) return -1;
    int64_t channels = count_of(t);
    if (groups < 1 || channels % groups || channels / groups > GROUP_NORM_CHANNELS_MAX) return network_refuse(b, ST_BAD_INPUT, "'%s': %lld channels do not make %lld groups of at most %d", name, (long long)channels, (long long)groups, GROUP_NORM_CHANNELS_MAX);
    strcat(name, ".weight");
    const struct group_norm_op_spec s = { .channels = channels, .groups = groups, .scale = floats_of(b, channels, true, name), .bias = bias, .epsilon = (float)epsilon };
    struct node *n;
    int y = network_add(b, &op_group_norm, (int[]){ x, add, modulation }, 3, &s, sizeof s, &n);
    if (y >= 0) n->act = act;
    return y;
}

int network_layer_norm(struct network *b, int x, int64_t columns, double epsilon, const char *format, ...)
{
    NAME_FROM(name, ".weight")
    struct norm_spec s = { .layer = true, .width = columns, .epsilon = (float)epsilon };
    s.scale = floats_of(b, columns, false, name);
    strcpy(name + strlen(name) - strlen(".weight"), ".bias");
    s.bias = floats_of(b, columns, false, name);
    return network_add(b, &op_norm, &x, 1, &s, sizeof s, NULL);
}

int network_rms_norm(struct network *b, int x, int64_t width, double epsilon, const char *format, ...)
{
    NAME_FROM(name, ".weight")
    const struct norm_spec s = { .width = width, .scale = floats_of(b, width, true, name), .epsilon = (float)epsilon };
    return network_add(b, &op_norm, &x, 1, &s, sizeof s, NULL);
}

int network_attention(struct network *b, int q, int k, int v, int counts, int heads, int head_dim, double scale, bool causal)
{
    const struct attention_dense_op_spec s = { .heads = heads, .head_dim = head_dim, .scale = scale > 0 ? (float)scale : 1 / sqrtf((float)head_dim), .causal = causal, .bf16 = b->mode != LINEAR_F32 };
    struct node *n;
    if (!b->st && (heads < 1 || head_dim < 1)) return network_refuse(b, ST_BAD_INPUT, "attention of %d heads of %d", heads, head_dim);
    int y = network_add(b, &op_attention, (int[]){ q, k, v, counts }, 4, &s, sizeof s, &n);
    if (y >= 0) n->row_work = (uint64_t)heads * (uint64_t)head_dim * 256;
    return y;
}

int network_sum(struct network *b, int x, int y) { return network_add(b, &op_sum, (int[]){ x, y }, 2, NULL, 0, NULL); }

int network_act(struct network *b, int x, struct activation_spec act)
{
    struct node *n;
    int y = network_add(b, &op_act, &x, 1, NULL, 0, &n);
    if (y >= 0) n->act = act;
    return y;
}

int network_join(struct network *b, int x, int y, int axis)
{
    const struct join_spec s = { axis };
    return network_add(b, &op_join, (int[]){ x, y }, 2, &s, sizeof s, NULL);
}

enum status network_all_used(const struct network *b, const char *const *idle)
{
    const struct network_source *s = b->source;
    for (int i = 0; i < s->weights->count; i++) {
        bool known = s->used[i] || (s->prefix && strncmp(s->weights->tensors[i].name, s->prefix, strlen(s->prefix)));
        for (int k = 0; !known && idle[k]; k++) known = strstr(s->weights->tensors[i].name, idle[k]) != NULL;
        if (!known) return err_set(b->err, ST_UNSUPPORTED, "tensor '%s' is none of those that this network is known to have: it would be left out of the computation", s->weights->tensors[i].name);
    }
    return ST_OK;
}
