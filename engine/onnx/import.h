/* An ONNX file as a graph. */
#ifndef ENGINE_ONNX_IMPORT_H
#define ENGINE_ONNX_IMPORT_H

#include "base/file.h"
#include "engine/graph/graph.h"

struct import {
    struct arena       arena;          /* everything but the mapped files, the value and node tables, and packed weights */
    struct onnx_model *model;
    struct graph       graph;
    struct file_map   *maps; int map_count;      /* external data */
    int                opset;
    int                nodes;          /* taken over so far, bodies and every call of a function included: at most ONNX_NODES_MAX */
    int                dirfd;
    bool               look_only;
};

/* `data` must outlive the import. dirfd: the model's folder for external data, -1: external data is an error (or, with `look_only`, left out).
 * On failure nothing is left behind. The graph is the file's, as written, calls of the model's own functions replaced by their nodes. */
enum status import_open(struct import *i, const uint8_t *data, uint64_t size, int dirfd, bool look_only, const struct device *device, uint64_t memory_max, struct err *err);
void        import_close(struct import *i);

#endif
