/* What the encodings of an inference request share, JSON, binary and protobuf: the parameters that mean something, the outputs that are asked for, the check
 * against the model, and the choice of what is answered. */
#ifndef API_OIP_ASK_H
#define API_OIP_ASK_H

#include "api/oip_infer.h"

/* Takes notice of a parameter of the request: priority, timeout, binary_data_output. Others are only kept. */
enum status oip_parameter_use(struct request *r, struct infer_ask *ask, const struct parameter *p, struct err *err);
/* Where a tensor lies in shared memory; region NULL: it does not. */
struct shared_ask { const char *region; uint64_t offset, bytes; };
/* Takes notice of a tensor's parameter when it is one of shared_memory_region, shared_memory_offset, shared_memory_byte_size. */
enum status oip_shared_use(struct shared_ask *s, const struct parameter *p, const char *tensor, struct err *err);
/* Fills an input, whose name, dtype and shape are set, from shared memory. */
enum status oip_shared_input(struct request *r, const struct infer_ask *ask, struct request_tensor *in, const struct shared_ask *s, struct err *err);
/* Adds the output *o, the next of ask->outputs, whose name is set; r->wanted has room. `classes`: 0 none. */
enum status oip_output_use(struct request *r, struct infer_ask *ask, struct output_ask *o, uint64_t classes, const struct shared_ask *shared, struct err *err);
/* Writes an output to its region. */
enum status oip_output_store(const struct output_ask *a, const struct tensor *t, struct err *err);

/* Names, datatypes and shapes against the model's configuration, with Triton's sentences; pictures among the inputs are decoded. */
enum status oip_infer_check(struct request *r, const struct infer_ask *ask, const struct model_version *v, struct err *err);
/* The same, naming the request's id in the sentence. */
enum status oip_infer_check_named(struct request *r, const struct infer_ask *ask, const struct model_version *v, struct err *err);

/* NULL if there is none. */
const struct request_tensor *oip_output_named(const struct request *r, const char *name);
/* Output number i of the answer (of what was asked, or of all), as classes where those were asked for. */
enum status oip_output_pick(const struct request_tensor **out, struct request *r, const struct infer_ask *ask, int i, const struct model_version *v, struct err *err);

#endif
