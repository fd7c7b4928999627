/* Bitwise operators of integers. */
#include "engine/operators/numbers.h"
#include "engine/operators/operators.h"
#include "engine/operators/reals.h"

enum bits { BITS_AND, BITS_OR, BITS_XOR, BITS_SHIFT, BITS_NOT };

static enum status infer_bits(struct call *c, struct err *err)
{
    int64_t dims[TENSOR_RANK_MAX];
    int rank;
    for (int i = 0; i < c->in_count; i++)
        if (!dtype_is_integer(c->in[i]->dtype) || c->in[i]->dtype != c->in[0]->dtype) return call_error(c, err, ST_UNSUPPORTED, "it is not computed for %s", dtype_name(c->in[i]->dtype));
    enum status st = infer_broadcast_dims(c, dims, &rank, err);
    return st ? st : call_set(c, 0, c->in[0]->dtype, dims, rank, err);
}

static int64_t apply_bits(const struct call *c, bool left, uint64_t a, uint64_t b)
{
    uint64_t mask = ~(uint64_t)0 >> (64 - dtype_bits(c->in[0]->dtype));
    switch (c->node->op->code) {
    case BITS_AND: return (int64_t)(a & b);
    case BITS_OR: return (int64_t)(a | b);
    case BITS_XOR: return (int64_t)(a ^ b);
    case BITS_SHIFT: return b > 63 ? 0 : (int64_t)(left ? a << b : (a & mask) >> b);
    default: return (int64_t)~a;
    }
}

static enum status eval_bits(struct call *c, struct err *err)
{
    bool left = node_text_is(c->node, "direction", "LEFT", false), pair = c->in_count > 1;
    struct walk w;
    enum status st = walk_broadcast(&w, c, err);
    uint64_t at = 0;
    for (; !st && w.more; walk_next(&w))
        for (int64_t i = 0; i < w.run; i++) {
            int64_t a = operand_int(c->in[0], (uint64_t)(w.offset[0] + i * walk_step(&w, 0))), b = pair ? operand_int(c->in[1], (uint64_t)(w.offset[1] + i * walk_step(&w, 1))) : 0;
            operand_int_put(c->out[0], at++, apply_bits(c, left, (uint64_t)a, (uint64_t)b));
        }
    return st;
}

#define BITS(name, since, ins, code) { name, "", since, 0, ins, ins, 1, 1, OP_LAST | OP_BROADCAST, code, infer_bits, eval_bits, NULL, NULL, NULL, rows_elementwise, NULL }
const struct op ops_bits[] = {
    BITS("BitwiseAnd", 18, 2, BITS_AND), BITS("BitwiseOr", 18, 2, BITS_OR), BITS("BitwiseXor", 18, 2, BITS_XOR), BITS("BitwiseNot", 18, 1, BITS_NOT), BITS("BitShift", 11, 2, BITS_SHIFT),
    { 0 }
};
