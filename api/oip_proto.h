/* ModelInfer of the Open Inference Protocol over gRPC: ModelInferRequest -> struct request, outputs -> ModelInferResponse. No object tree: a request is
 * read where it lies, in the pieces that the transport received, and raw tensors are copied once, into aligned memory of the request's arena;
 * large outputs of an answer are not copied at all. Pure: no sockets, no threads. */
#ifndef API_OIP_PROTO_H
#define API_OIP_PROTO_H

#include "api/oip_infer.h"
#include "base/chain.h"

enum { OIP_BORROW_BYTES_MIN = 8 << 10 /* smaller outputs are copied */ };

struct oip_proto_names { const char *model, *version, *id; };      /* as the client wrote them; "" when absent */

/* The fields that say whose request it is, without reading the rest. */
enum status oip_proto_names_read(struct oip_proto_names *out, struct arena *arena, const struct piece *pieces, int count, struct err *err);
/* Reads the message, whose pieces need to live until it returns, into `r` (from its arena) and *ask. Nothing is compared with a model yet: that is
 * oip_infer_check_named; `model` is for the sentences. ST_BAD_INPUT: no protobuf, a field out of its range, contents and shape that do not match. */
enum status oip_proto_read(struct request *r, struct infer_ask *ask, const char *model, const struct piece *pieces, int count, struct err *err);

/* The answer of a request that is done; large outputs are borrowed from the request. `parameter` (or NULL) is one boolean that the answer carries, and its value. */
enum status oip_proto_write(struct chain *out, struct request *r, const struct infer_ask *ask, const struct model_version *v, const char *parameter, bool value, struct err *err);
/* The answer, or the next part of it, of a model of texts: one BYTES tensor `name` of one element. */
void        oip_proto_write_text(struct chain *out, const struct request *r, const struct model_version *v, const char *name, const char *text, size_t length, const char *parameter, bool value);
/* A partial picture of a request that goes on: the UINT8 tensor `images` [1, height, width, 3], and as parameters which picture of the request it is and how many came before it. */
void        oip_proto_write_partial(struct chain *out, const struct request *r, const struct model_version *v, const uint8_t *pixels, int width, int height, int picture, int index, const char *parameter);
/* Turns the answer into a ModelStreamInferResponse that holds it. */
void        oip_proto_wrap(struct chain *m);
/* A ModelStreamInferResponse that holds an error; the id of the request it belongs to goes with it. */
void        oip_proto_write_error(struct chain *out, const char *text, const char *id);

#endif
