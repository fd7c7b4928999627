/* grpc.reflection (v1 and v1alpha alike): which services there are and what their messages look like, told from the tables of rpcs.h. Pure. */
#ifndef API_REFLECTION_H
#define API_REFLECTION_H

#include "api/rpcs.h"
#include "base/buf.h"
#include "base/err.h"

/* One ServerReflectionRequest -> one ServerReflectionResponse, appended. What is not there is answered within the response, as the protocol has it;
 * ST_BAD_INPUT: the request is no protobuf. */
enum status reflection_answer_write(struct buf *out, const void *request, size_t length, struct err *err);

/* A google.protobuf.FileDescriptorProto. */
void reflection_file_write(struct buf *out, const struct rpc_file *f);

#endif
