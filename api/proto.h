/* Messages of the gRPC dialect that are small: between the wire and JSON by the tables of model_store/schema.h. A request becomes the tree that the HTTP
 * route would have parsed, an answer is made of the JSON that the HTTP route would have sent, so each of them has one handler. Tensors do not
 * come this way (oip_proto.h). Pure: no sockets, no threads; bounded: lists of at most PROTO_LIST_MAX, depth by the tables. */
#ifndef API_PROTO_H
#define API_PROTO_H

#include "base/json.h"
#include "model_store/schema.h"

enum { PROTO_LIST_MAX = 1024 };

/* The message as a JSON object in the arena. Fields that are not in the table are passed over; absent ones stay absent. Maps are objects. ST_BAD_INPUT says
 * which field of which message is wrong. Texts are copied: `data` may go. */
enum status proto_read(struct json **out, struct arena *arena, const struct schema_message *m, const void *data, size_t length, struct err *err);

/* Appends the message. Members that the table does not have are left out, as are defaults. ST_INTERNAL: a member is of another kind than its field. */
enum status proto_write(struct buf *out, const struct schema_message *m, const struct json *object, struct err *err);

#endif
