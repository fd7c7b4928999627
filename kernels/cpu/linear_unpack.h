/* A block of a panel (kernels/linear_panels.h) spread out: its 8 groups as bytes and its scales as floats. There is one function for each type, whose layout is
 * constant in it; what multiplies, decodes or makes tiles is then one function for all types. */
#ifndef KERNELS_CPU_LINEAR_UNPACK_H
#define KERNELS_CPU_LINEAR_UNPACK_H

#include "kernels/blocks_types.h"
#include "kernels/cpu/vec_lanes.h"
#include "kernels/linear_panels.h"

enum { GROUPS = 8 };

/* The types with panels of bits. */
#define PANEL_TYPES(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL) X(IQ4_XS) X(MXFP4) \
                       X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(TQ1_0) X(TQ2_0)

/* The panel's layout as constants of the type. */
#define TYPE_IQ_TWO(type)  ((type) == BLOCK_IQ1_M || (type) == BLOCK_IQ2_XS || (type) == BLOCK_IQ2_S)      /* block_has_two, as a constant */
#define TYPE_IQ2(type)     ((type) == BLOCK_IQ2_XXS || TYPE_IQ_TWO(type))                                  /* and IQ1_M: 3 bits */
#define TYPE_IQ3(type)     ((type) == BLOCK_IQ3_XXS || (type) == BLOCK_IQ3_S)
#define TYPE_TERNARY(type) ((type) == BLOCK_TQ1_0 || (type) == BLOCK_TQ2_0)
#define TYPE_LOW(type)     ((type) == BLOCK_Q8_0 ? 8 : (type) == BLOCK_Q2_K || (type) == BLOCK_Q3_K || TYPE_IQ2(type) || TYPE_TERNARY(type) || (type) == BLOCK_IQ1_S ? 2 : 4)
#define TYPE_HIGH(type)    ((type) == BLOCK_Q5_0 || (type) == BLOCK_Q5_1 || (type) == BLOCK_Q5_K || (type) == BLOCK_Q3_K || TYPE_IQ2(type) ? 1 : (type) == BLOCK_Q6_K ? 2 : 0)
#define TYPE_TWO(type)     ((type) == BLOCK_Q6_K || (type) == BLOCK_Q3_K || (type) == BLOCK_Q2_K || TYPE_IQ_TWO(type))
#define TYPE_SCALES(type)  ((type) == BLOCK_Q4_1 || (type) == BLOCK_Q5_1 ? 64 : (type) == BLOCK_MXFP4 || (type) == BLOCK_IQ4_XS || (type) == BLOCK_IQ1_S || TYPE_IQ2(type) || TYPE_IQ3(type) ? 16 : TYPE_TERNARY(type) ? 0 : 32)
#define TYPE_HEAD(type)    ((type) == BLOCK_Q2_K || (type) == BLOCK_Q4_K || (type) == BLOCK_Q5_K ? 64 : (type) == BLOCK_Q3_K || (type) == BLOCK_Q6_K || (type) == BLOCK_IQ4_XS || (type) == BLOCK_IQ1_S || TYPE_IQ2(type) || TYPE_IQ3(type) || TYPE_TERNARY(type) ? 32 : 0)
#define TYPE_BYTES(type)   (TYPE_SCALES(type) + (TYPE_LOW(type) + TYPE_HIGH(type)) * PANEL_BLOCK * PANEL_ROWS / 8)
#define TYPE_WIDE(type)    ((type) == BLOCK_Q8_0 || block_table(type))      /* offset 128 */
#define TYPE_MINIMUM(type) ((type) == BLOCK_Q4_1 || (type) == BLOCK_Q5_1 || (type) == BLOCK_Q4_K || (type) == BLOCK_Q5_K || (type) == BLOCK_Q2_K || (type) == BLOCK_IQ1_S)

/* The 8 groups of a block: u, looked up where the type has a table. */
VEC_INLINE void unpack_groups(const int type, lanes_b *u, const uint8_t *bits)
{
    const int low = TYPE_LOW(type), high = TYPE_HIGH(type);
    lanes_b l[8], h[2];
    LANES_UNROLL
    for (int v = 0; v < low; v++) l[v] = lanes_b_load(bits + 64 * v);
    LANES_UNROLL
    for (int v = 0; v < high; v++) h[v] = lanes_b_load(bits + 64 * (low + v));
    LANES_UNROLL
    for (int g = 0; g < GROUPS; g++) {
        u[g] = low == 8 ? l[g] : low == 4 ? lanes_b_bits(l[g % 4], g / 4 * 4, 15) : lanes_b_bits(l[g / 4], g % 4 * 2, 3);
        if (high == 1) u[g] = lanes_b_join(u[g], lanes_b_bits(h[0], g, 1), low);
        if (high == 2) u[g] = lanes_b_join(u[g], lanes_b_bits(h[g / 4], g % 4 * 2, 3), low);
        if (block_table(type)) u[g] = lanes_b_table(u[g], block_table(type), 0x80);
    }
}

/* a (for each 16 of k when there are two) and b of a block; head: the start of its 8 blocks */
VEC_INLINE void unpack_scales(const int type, lanes_f *a, lanes_f *b, const uint8_t *head, const uint8_t *scales)
{
    switch (type) {
    case BLOCK_Q4_1:
    case BLOCK_Q5_1:
        a[0] = lanes_f_f16(scales), b[0] = lanes_f_f16(scales + 32);
        break;
    case BLOCK_MXFP4:
        a[0] = lanes_f_power(scales);
        break;
    case BLOCK_Q4_K:
    case BLOCK_Q5_K:
        a[0] = lanes_f_mul(lanes_f_f16(head), lanes_f_u8(scales)), b[0] = lanes_f_mul(lanes_f_f16(head + 32), lanes_f_u8(scales + 16));
        break;
    case BLOCK_IQ4_XS:
        a[0] = lanes_f_mul(lanes_f_f16(head), lanes_f_i8(scales));
        break;
    case BLOCK_IQ2_XXS:
    case BLOCK_IQ3_XXS:
    case BLOCK_IQ3_S:
        a[0] = lanes_f_mul(lanes_f_mul(lanes_f_f16(head), lanes_f_set(block_factor(type))), lanes_f_u8(scales));
        break;
    case BLOCK_IQ1_M:
    case BLOCK_IQ2_XS:
    case BLOCK_IQ2_S: {
        const lanes_f d = lanes_f_mul(lanes_f_f16(head), lanes_f_set(block_factor(type))), twice = lanes_f_add(d, d);
        a[0] = lanes_f_fma(lanes_f_bits(scales, 0, 15), twice, d), a[1] = lanes_f_fma(lanes_f_bits(scales, 4, 15), twice, d);
        break;
    }
    case BLOCK_IQ1_S:
        a[0] = lanes_f_mul(lanes_f_f16(head), lanes_f_bits(scales, 0, 127)), b[0] = lanes_f_mul(a[0], lanes_f_fma(lanes_f_bits(scales, 7, 1), lanes_f_set(0.25f), lanes_f_set(0.875f)));
        break;
    case BLOCK_TQ1_0:
    case BLOCK_TQ2_0:
        a[0] = lanes_f_f16(head);
        break;
    case BLOCK_Q6_K:
    case BLOCK_Q3_K:
        a[0] = lanes_f_mul(lanes_f_f16(head), lanes_f_i8(scales)), a[1] = lanes_f_mul(lanes_f_f16(head), lanes_f_i8(scales + 16));
        break;
    case BLOCK_Q2_K: {
        const lanes_f d = lanes_f_f16(head), dmin = lanes_f_f16(head + 32);
        a[0] = lanes_f_mul(d, lanes_f_bits(scales, 0, 15)), a[1] = lanes_f_mul(d, lanes_f_bits(scales, 4, 15));
        b[0] = lanes_f_mul(dmin, lanes_f_bits(scales + 16, 0, 15)), b[1] = lanes_f_mul(dmin, lanes_f_bits(scales + 16, 4, 15));
        break;
    }
    default:
        a[0] = lanes_f_f16(scales);
    }
}

struct spread { uint8_t u[GROUPS * 64]; float a[2 * PANEL_ROWS], minimum[2 * PANEL_ROWS]; } __attribute__((aligned(64)));

#define SPREAD(type_)                                                                                                       \
    static __attribute__((noinline)) void spread_##type_(struct spread *s, const uint8_t *block, const uint8_t *head)       \
    {                                                                                                                       \
        lanes_b u[GROUPS];                                                                                                  \
        lanes_f a[2], minimum[2];                                                                                           \
        unpack_scales(BLOCK_##type_, a, minimum, head, block);                                                              \
        unpack_groups(BLOCK_##type_, u, block + TYPE_SCALES(BLOCK_##type_));                                                \
        LANES_UNROLL                                                                                                        \
        for (int g = 0; g < GROUPS; g++) lanes_b_store(s->u + 64 * g, u[g]);                                                \
        LANES_UNROLL                                                                                                        \
        for (int h = 0; h < 1 + TYPE_TWO(BLOCK_##type_); h++) {                                                             \
            lanes_f_store(s->a + PANEL_ROWS * h, a[h], PANEL_ROWS);                                                         \
            if (TYPE_MINIMUM(BLOCK_##type_)) lanes_f_store(s->minimum + PANEL_ROWS * h, minimum[h], PANEL_ROWS);            \
        }                                                                                                                   \
    }
PANEL_TYPES(SPREAD)

static void (*const spreads[BLOCK_TYPE_END])(struct spread *s, const uint8_t *block, const uint8_t *head) = {
#define ONE(type_) [BLOCK_##type_] = spread_##type_,
    PANEL_TYPES(ONE)
#undef ONE
};

/* A panel gone through block by block. */
struct panel_walk { const uint8_t *at, *head; int head_bytes, bytes; int64_t block; void (*spread)(struct spread *, const uint8_t *, const uint8_t *); };

/* from the block that holds k, a multiple of 256 where there are heads */
VEC_INLINE void panel_walk_begin(struct panel_walk *w, int type, const uint8_t *panel, int64_t k)
{
    const struct panel_layout *p = panel_layout(type);
    w->bytes = (int)panel_block_bytes(p), w->head_bytes = p->head;
    w->at = w->head = panel + k / PANEL_BLOCK * w->bytes + k / 256 * p->head;
    w->block = 0;
    w->spread = spreads[type];
}
VEC_INLINE void panel_walk_next(struct panel_walk *w, struct spread *s)
{
    if (w->head_bytes && w->block % 8 == 0) w->head = w->at, w->at += w->head_bytes;
    w->spread(s, w->at, w->head);
    w->at += w->bytes;
    w->block++;
}

/* number i of group g as float, in the decoder's own order of operations */
VEC_INLINE lanes_f weight_of(const struct spread *s, const struct panel_layout *p, int g, int i)
{
    const int half = p->two ? g / 4 * PANEL_ROWS : 0;
    const lanes_f w = lanes_f_mul(lanes_f_load(s->a + half, PANEL_ROWS), lanes_f_sub(lanes_f_from(lanes_i_byte(lanes_b_load(s->u + 64 * g), i)), lanes_f_set((float)p->offset)));
    return p->minimum ? lanes_f_sub(w, lanes_f_load(s->minimum + half, PANEL_ROWS)) : w;
}

#endif
