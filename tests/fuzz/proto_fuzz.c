/* Messages of the gRPC dialect: the first byte says how large the pieces are that a ModelInferRequest comes in (0: the bytes are a small method's request, and
 * the second byte says which method's; the answer to a reflection request as well). */
#include "api/oip_proto.h"
#include "api/proto.h"
#include "api/reflection.h"
#include "tests/api/fake_model.h"

#include <string.h>

static void read_small(const uint8_t *data, size_t size, struct arena *arena)
{
    const struct rpc_service *service = rpc_files[1].service;
    const struct rpc_method *m = &service->methods[data[0] % service->count];
    struct json *root;
    struct buf out;
    struct err err;
    buf_init(&out, 1 << 22);
    if (!proto_read(&root, arena, m->request, data + 1, size - 1, &err)) json_write(&out, root);
    buf_clear(&out);
    reflection_answer_write(&out, data + 1, size - 1, &err);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { PIECES_MAX = 4096 };
    static struct piece pieces[PIECES_MAX];
    struct request r;
    struct infer_ask ask;
    struct oip_proto_names names;
    struct err err;
    if (size < 2) return 0;
    request_init(&r, 1 << 20);
    if (!data[0]) {
        read_small(data + 1, size - 1, &r.arena);
        arena_free(&r.arena);
        return 0;
    }
    int n = 0;
    size_t step = data[0] == 255 ? size : data[0];
    for (size_t at = 1; at < size && n < PIECES_MAX; at += step) pieces[n++] = (struct piece){ data + at, size - at < step ? size - at : step };
    if (!oip_proto_names_read(&names, &r.arena, pieces, n, &err) && !oip_proto_read(&r, &ask, names.model, pieces, n, &err)) {
        volatile uint64_t sum = strlen(names.model) + strlen(names.id);      /* every byte that was promised can be read */
        for (int i = 0; i < r.input_count; i++)
            for (uint64_t k = 0; k < r.inputs[i].tensor.bytes; k++) sum += ((const uint8_t *)r.inputs[i].tensor.data)[k];
    }
    arena_free(&r.arena);
    return 0;
}
