/* The rest of the Open Inference Protocol's answers: what the server and its models are, and what they did. Pure writers. */
#ifndef API_OIP_META_H
#define API_OIP_META_H

#include "base/buf.h"
#include "engine/request.h"
#include "model_store/registry.h"

void oip_server_write(struct buf *out, bool shared_memory);                                                /* GET /v2 */
void oip_model_write(struct buf *out, const struct model_version *v, const int64_t *versions, int version_count);
void oip_stats_write(struct buf *out, const struct model_version *v);                  /* one element of model_stats */
void oip_index_write_row(struct buf *out, const struct registry_index_row *row);       /* one element of the array */

/* POST .../classify: {"model_name","model_version","digest","labels":[{"label","index","score"}]} of the request's first output. */
enum status classify_write(struct buf *out, struct request *r, int64_t k, const struct model_version *v, struct err *err);

#endif
