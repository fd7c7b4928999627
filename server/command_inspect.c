/* inferd inspect: what a model file takes and gives, and which kernels will run it. Language models: command_convert.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/onnx/onnx_engine_internal.h"
#include "engine/operators/nn/conv_slices.h"
#include "kernels/conv.h"
#include "server/command_convert.h"
#include "server/command_model.h"
#include "server/commands.h"

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd inspect FILE [--nodes] [--threads N] [--cpu-level L]\nOf a language model (.gguf file or folder) sizes, tensors by type, tokenizer and memory are shown; of a network inputs, outputs, opset, nodes by kernel and bytes; --nodes lists every node that will run.\n");
}

static void print_bytes(const char *what, uint64_t n)
{
    if (n < 10240) printf("%-10s %llu bytes\n", what, (unsigned long long)n);
    else if (n < 10u << 20) printf("%-10s %.1f KiB\n", what, (double)n / 1024);
    else printf("%-10s %.1f MiB\n", what, (double)n / 1048576);
}

static void print_ports(const char *title, const struct port *ports, int count, const struct graph *g, const int *ids)
{
    for (int i = 0; i < count; i++) {
        const struct port *p = &ports[i];
        printf("%-10s %-24s %-8s ", i ? "" : title, p->name, dtype_name(p->dtype));
        if (p->rank < 0) printf("any shape");
        else printf("[");
        for (int d = 0; d < p->rank; d++) {
            const char *symbol = ids ? g->values[ids[i]].symbols[d] : NULL;
            if (p->dims[d] >= 0) printf("%s%lld", d ? ", " : "", (long long)p->dims[d]);
            else printf("%s%s", d ? ", " : "", symbol ? symbol : "?");
        }
        printf(p->rank < 0 ? "\n" : "]\n");
    }
}

static void kernel_name(const struct node *n, char *out, size_t size)
{
    const char *how = n->conv ? conv_layer_kernel(n->conv) : n->slices ? conv_slices_kernel(n->slices) : n->packed ? "gemm, packed" : "";
    static const char *const acts[ACT_COUNT] = { "", "relu", "clip", "leaky relu", "sigmoid", "tanh", "silu", "hard sigmoid", "hard swish", "gelu", "gelu", "elu", "softplus", "exp", "quick gelu", "erf" };
    snprintf(out, size, "%s%s%s%s%s%s%s", n->op->name, how[0] ? " (" : "", how, how[0] ? ")" : "", n->residual >= 0 ? " + sum" : "", n->act.kind ? " + " : "", acts[n->act.kind]);
}

struct row { char name[96]; int count; uint64_t bytes; };

static int compare_rows(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    return x->bytes != y->bytes ? (x->bytes < y->bytes) - (x->bytes > y->bytes) : y->count - x->count;
}

static void print_kernels(const struct graph *g)
{
    struct row *rows = mem_calloc_array((uint64_t)g->node_count + 1, sizeof *rows);
    int count = 0;
    for (int i = 0; rows && i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        char name[96];
        int r = 0;
        kernel_name(n, name, sizeof name);
        while (r < count && strcmp(rows[r].name, name)) r++;
        if (r == count) snprintf(rows[count++].name, sizeof rows[0].name, "%s", name);
        rows[r].count++;
        rows[r].bytes += n->conv ? conv_layer_bytes(n->conv) : n->packed_bytes;
    }
    if (rows) qsort(rows, (size_t)count, sizeof *rows, compare_rows);
    printf("\n%6s  %12s  %s\n", "nodes", "weights", "kernel");
    for (int r = 0; r < count; r++) {
        if (rows[r].bytes) printf("%6d  %8.1f KiB  %s\n", rows[r].count, (double)rows[r].bytes / 1024, rows[r].name);
        else printf("%6d  %12s  %s\n", rows[r].count, "", rows[r].name);
    }
    free(rows);
}

static void print_nodes(const struct graph *g)
{
    printf("\n");
    for (int i = 0; i < g->node_count; i++) {
        const struct node *n = &g->nodes[i];
        const struct operand *y = n->out[0] >= 0 ? &g->values[n->out[0]].probe[0] : NULL;
        char name[96], shape[128] = "?";
        kernel_name(n, name, sizeof name);
        if (y && y->rank >= 0) shape_text(y->dims, y->rank, shape, sizeof shape);
        printf("%5d  %-48s %-22s %-5s %s\n", i, name, shape, n->out[0] >= 0 && g->values[n->out[0]].type.channels_last ? "last" : "", n->name);
    }
}

static void print_model(const struct command_model *m, bool nodes)
{
    const struct engine *e = m->engine;
    const struct graph *g = &e->import.graph;
    const struct onnx_model *f = e->import.model;
    printf("%-10s %s\n", "file", m->file);
    print_bytes("size", e->map.size);
    printf("%-10s opset %d, IR %lld, %d nodes, by %s\n", "ONNX", e->import.opset, (long long)f->ir_version, f->graph.node_count, f->producer[0] ? f->producer : "an unnamed program");
    print_ports("inputs", m->signature->inputs, m->signature->input_count, g, g->inputs);
    print_ports("outputs", m->signature->outputs, m->signature->output_count, g, NULL);
    printf("%-10s %s%s%s\n", "batching", g->batchable ? "yes: rows are independent" : "no", g->batchable ? "" : ": ", g->batchable ? "" : g->batch_reason);
    print_bytes("weights", g->packed_bytes);
    print_bytes("constants", g->arena->used);
    printf("%-10s %.1f ms (%d nodes will run; kernels for %s)\n", "loading", (double)m->load_ns / 1e6, g->node_count, cpu_level_name(g->device.kernels.level));
    print_kernels(g);
    if (nodes) print_nodes(g);
}

int command_inspect(int argc, char **argv)
{
    struct engine_options options;
    struct command_args a = { argc, 1, argv };
    const char *model = NULL;
    bool nodes = false;
    command_engine_defaults(&options);
    while (a.at < argc) {
        int took = command_engine_option(&a, &options);
        if (took < 0) return 2;
        if (took) continue;
        if (command_flag(&a, "--help")) { usage(stdout); return 0; }
        if (command_flag(&a, "--nodes")) { nodes = true; continue; }
        if (argv[a.at][0] == '-' || model) { fprintf(stderr, "inferd inspect: '%s' is not understood\n", argv[a.at]); usage(stderr); return 2; }
        model = argv[a.at++];
    }
    if (!model) { usage(stderr); return 2; }
    struct command_model m;
    struct err err = { 0 };
    char file[sizeof m.file];
    if (!command_model_find(file, model, &err) && command_engine_of(file)->text) {
        char *config = strrchr(file, '/');
        if (config && !strcmp(config, "/config.json")) *config = 0;
        return command_inspect_text(file);
    }
    if (command_onnx_open(&m, model, &options, &err)) {
        fprintf(stderr, "inferd: %s\n", err.text);
        return 1;
    }
    print_model(&m, nodes);
    command_model_close(&m);
    return 0;
}
