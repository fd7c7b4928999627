/* POST .../infer of the Open Inference Protocol: bytes -> struct request, outputs -> bytes of the same dialect. Pure: no sockets, no threads. */
#ifndef API_OIP_INFER_H
#define API_OIP_INFER_H

#include "base/buf.h"
#include "base/regions.h"
#include "engine/request.h"
#include "model_store/registry.h"

enum { CLASSES_MAX = 10000 };

struct output_ask {
    const char *name;
    bool binary;
    int64_t classes;                                   /* 0: the tensor itself */
    struct region *region;                             /* the answer's bytes go there, at shared_offset, and take at most shared_bytes; NULL: into the answer */
    const char *region_name;
    uint64_t shared_offset, shared_bytes;
};

struct infer_ask {
    struct regions *regions;                           /* set before reading; NULL: shared memory is off */
    struct output_ask *outputs; int output_count;      /* 0: every output of the signature */
    bool binary_output;                                /* default for outputs that do not say */
};

/* Reads a request for the pinned model `v` into `r` (whose arena holds what is made on the way) and *ask. `json_length` is the value of
 * Inference-Header-Content-Length, -1 when the header is absent (all JSON), 0 for a raw request (the whole body is the one input). `body` must
 * outlive the request. Names, datatypes and shapes are checked against the model's configuration with Triton's sentences. A BYTES input for a tensor that the
 * configuration says how to make from a picture is decoded here. */
enum status oip_infer_read(struct request *r, struct infer_ask *ask, const struct model_version *v, const char *body, size_t length, int64_t json_length, struct err *err);

/* Lets go of the shared memory that the outputs are to be written to. */
void infer_ask_close(struct infer_ask *ask);

/* Writes the answer of a request that is done. *json_length: 0 when the whole is JSON, else the value for Inference-Header-Content-Length. */
enum status oip_infer_write(struct buf *out, size_t *json_length, struct request *r, const struct infer_ask *ask, const struct model_version *v, struct err *err);

/* `"id":...,"model_name":...,"model_version":"..."`, what every v2 answer of a model begins with; the id only when the client gave one. */
void oip_answer_head_write(struct buf *out, const struct request *r, const struct model_version *v);

/* {"error":"..."} */
void oip_error_write(struct buf *out, const char *text);

#endif
