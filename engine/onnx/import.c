/* From the file's structs to the graph: what belongs to the model as a whole. scope.c takes over the graphs. */
#include "engine/onnx/import.h"

#include <stdlib.h>

#include "base/checked.h"
#include "engine/onnx/scope.h"

enum status import_no_memory(struct err *err) { return err_set(err, ST_NO_MEMORY, "the model's graph passes its memory budget"); }

static enum status find_opset(struct import *m, struct err *err)
{
    m->opset = 0;
    for (int i = 0; i < m->model->opset_count; i++)
        if (m->model->opsets[i].domain[0] == 0) {
            int64_t v = m->model->opsets[i].version;
            if (v < 1 || v > GRAPH_OPSET_MAX) return err_set(err, ST_UNSUPPORTED, "the model needs opset %lld; 1 to %d are known", (long long)v, GRAPH_OPSET_MAX);
            m->opset = (int)v;
        }
    if (m->opset == 0 && m->model->opset_count == 0 && m->model->ir_version < 3) m->opset = 1;
    if (m->opset == 0 && m->model->opset_count == 0) return err_set(err, ST_BAD_INPUT, "the model does not say which ONNX opset it needs");
    return ST_OK;
}

enum status import_settle_tensor(struct import *m, struct onnx_tensor *t, struct err *err)
{
    if (!t->location || t->tensor.data || m->look_only) return ST_OK;
    if (m->dirfd < 0) return err_set(err, ST_UNSUPPORTED, "tensor '%s' keeps its data in another file, which is not taken here", t->name);
    if (t->tensor.dtype == DT_STRING) return err_set(err, ST_BAD_INPUT, "tensor '%s' holds strings, which cannot be external", t->name);
    struct file_map *maps = mem_realloc_array(m->maps, (uint64_t)m->map_count + 1, sizeof *maps);
    if (!maps) return import_no_memory(err);
    m->maps = maps;
    maps[m->map_count] = (struct file_map){ 0 };
    enum status st = onnx_open_external(t, &maps[m->map_count], m->dirfd, err);
    if (!st) m->map_count++;
    return st;
}

enum status import_open(struct import *m, const uint8_t *data, uint64_t size, int dirfd, bool look_only, const struct device *device, uint64_t memory_max, struct err *err)
{
    *m = (struct import){ .dirfd = dirfd, .look_only = look_only };
    arena_init(&m->arena, memory_max);
    m->graph.arena = &m->arena;
    m->graph.memory_max = memory_max;
    m->graph.max_rows = 1;
    if (device) m->graph.device = *device;
    enum status st = onnx_parse(&m->model, &m->arena, data, size, err);
    if (!st) st = find_opset(m, err);
    if (!st) {
        struct scope s = { .import = m, .graph = &m->graph, .opsets = m->model->opsets, .opset_count = m->model->opset_count };
        st = scope_take_graph(&s, &m->model->graph, err);
    }
    m->graph.external = m->maps;
    m->graph.external_count = m->map_count;
    if (st) import_close(m);
    return st;
}

void import_close(struct import *m)
{
    graph_close(&m->graph);
    for (int i = 0; i < m->map_count; i++) file_unmap(&m->maps[i]);
    free(m->maps);
    arena_free(&m->arena);
    *m = (struct import){ 0 };
}
