/* Products with panels of quantised or 16-bit weights at one level (kernels/linear_panels.h, kernels/cpu/vec_lanes.h).
 *
 * A tile is some rows of x and one panel: for each block of 32 the weights are unpacked once into 8 vectors, each row takes 8 integer dot products of 4 and then one fused
 * multiply-add (one for each scale and minimum) into its 16 float sums. Those sums belong to a row of x and 16 rows of W and take their blocks in ascending
 * order: the same bits whatever tile, company, thread or level. */
#ifndef KERNELS_CPU_LINEAR_BODY_H
#define KERNELS_CPU_LINEAR_BODY_H

#include "kernels/cpu/linear_unpack.h"
#include "kernels/cpu/vec_math.h"

enum { LINEAR_PREFETCH = 4096 };

/* Rows of x in a tile: one, or TILE_X where there are registers for their sums. */
#if defined(__AVX512VNNI__)
enum { TILE_X = 8, TILE_SMALL = 4 };
#elif defined(__AVX2__)
enum { TILE_X = 4, TILE_SMALL = 4 };
#else
enum { TILE_X = 1, TILE_SMALL = 1 };
#endif

/* ---- x to 8 bits ---- */

/* Of a block: returns 127 / largest magnitude, 0 where that is next to nothing; *scale its inverse, not finite when some number is not. */
VEC_INLINE float block_range(const float *x, float *scale)
{
    vec top = vec_set(0.0f), poison = top;
    for (int i = 0; i < PANEL_BLOCK; i += LANES) {
        const vec v = vec_load(x + i);
        top = vec_max(top, vec_abs(v));
        poison = vec_fma(v, vec_set(0.0f), poison);
    }
    const float most = vec_top(top);
    *scale = most / 127.0f + vec_sum(poison);
    return most > 1e-30f && most < __builtin_inff() ? 127.0f / most : 0.0f;
}

VEC_INLINE void block_round(int8_t *numbers, const float *x, float rate)
{
#if defined(__AVX512F__)
    for (int i = 0; i < PANEL_BLOCK; i += 16) _mm_storeu_si128((__m128i *)(numbers + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vec_load(x + i) * vec_set(rate))));
#elif defined(__AVX2__)
    __m256i q[4];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(vec_load(x + 8 * i) * vec_set(rate));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)numbers, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
    for (int i = 0; i < PANEL_BLOCK; i++) {
        const float v = rintf(x[i] * rate);
        numbers[i] = (int8_t)(v > -128 && v < 128 ? v : 0);
    }
#endif
}

VEC_INLINE void quantise_block(struct panel_block *y, const struct panel_layout *p, const float *x)
{
    const int offset = LANES_SIGNED_WIDE && p->offset == 128 ? 0 : p->offset;
    int sum[2] = { 0, 0 };
    block_round(y->numbers, x, block_range(x, &y->scale));
    for (int i = 0; i < 16; i++) sum[0] += y->numbers[i], sum[1] += y->numbers[16 + i];
    y->moment = y->scale * (float)(sum[0] + sum[1]);
    if (p->two && p->minimum) y->start[0] = sum[0], y->start[1] = sum[1];
    else if (p->two) y->start[0] = -offset * sum[0], y->start[1] = -offset * sum[1];
    else y->start[0] = -offset * (sum[0] + sum[1]), y->start[1] = 0;
}

static void quantise(const struct panel_job *j, int64_t first, int64_t end)
{
    const struct panel_layout *p = panel_layout(j->type);
    const int64_t blocks = j->k / PANEL_BLOCK;
    for (int64_t t = first; t < end; t++) {
        const int64_t row = t * TILE_X, rows = panel_tile_rows(TILE_X, TILE_SMALL, j->m - row);
        for (int64_t r = 0; r < rows; r++) {
            struct panel_block *y = j->rows + row * blocks + r;
            const float *x = j->x + (row + r) * j->ldx;
            for (int64_t b = 0; b < blocks; b++, y += rows) {
                if (row + r < j->m) quantise_block(y, p, x + b * PANEL_BLOCK);
                else memset(y, 0, sizeof *y);
            }
        }
    }
}

/* ---- tiles ---- */


/* bias and residual, then `columns` of the 16 sums to y; the activation follows when all is stored */
VEC_INLINE void tile_store(const struct panel_job *j, int64_t row, int64_t column, lanes_f sum)
{
    const int columns = j->n - column < PANEL_ROWS ? (int)(j->n - column) : PANEL_ROWS;
    if (j->ep->bias) sum = lanes_f_add(sum, lanes_f_load(j->ep->bias + column, columns));
    if (j->ep->residual) sum = lanes_f_add(sum, lanes_f_load(j->ep->residual + row * j->ep->ldr + column, columns));
    lanes_f_store(j->y + row * j->ldy + column, sum, columns);
}

/* 16 of k: groups u[0..4) with x[0..16) */
VEC_INLINE lanes_i dot_four(lanes_i dot, const lanes_b *u, const int8_t *x, int as_signed)
{
    if (as_signed) return lanes_i_dot_signed(lanes_i_dot_signed(lanes_i_dot_signed(lanes_i_dot_signed(dot, u[0], x), u[1], x + 4), u[2], x + 8), u[3], x + 12);
    return lanes_i_dot(lanes_i_dot(lanes_i_dot(lanes_i_dot(dot, u[0], x), u[1], x + 4), u[2], x + 8), u[3], x + 12);
}

VEC_INLINE void quantised_tile(const int type, const int rows, const struct panel_job *j, int64_t panel, int64_t row)
{
    const int low = TYPE_LOW(type), high = TYPE_HIGH(type), two = TYPE_TWO(type), as_signed = LANES_SIGNED_WIDE && TYPE_WIDE(type);
    const int64_t blocks = j->k / PANEL_BLOCK;
    const uint8_t *at = j->panels + panel * j->panel_bytes, *head = at;
    const struct panel_block *x = j->rows + row * blocks;
    lanes_f sum[TILE_X];
    LANES_UNROLL
    for (int r = 0; r < rows; r++) sum[r] = lanes_f_set(0.0f);
    for (int64_t b = 0; b < blocks; b++) {
        lanes_b u[GROUPS];
        lanes_f a[2], minimum[2];
        if (TYPE_HEAD(type) && b % 8 == 0) head = at, at += TYPE_HEAD(type);
        if (rows <= 4)
            for (int line = 0; line < (low + high) * 64 + 32; line += 64) __builtin_prefetch(at + LINEAR_PREFETCH + line, 0, 3);
        unpack_scales(type, a, minimum, head, at);
        unpack_groups(type, u, at + TYPE_SCALES(type), as_signed);
        at += TYPE_SCALES(type) + (low + high) * 64;
        LANES_UNROLL
        for (int r = 0; r < rows; r++) {
            const int8_t *q = x[r].numbers;
            const float scale = x[r].scale;
            const int32_t *start = x[r].start;
            if (two) {
                const lanes_i first = dot_four(lanes_i_set(TYPE_MINIMUM(type) ? 0 : start[0]), u, q, as_signed), second = dot_four(lanes_i_set(TYPE_MINIMUM(type) ? 0 : start[1]), u + 4, q + 16, as_signed);
                sum[r] = lanes_f_fma(lanes_f_from(first), lanes_f_mul(a[0], lanes_f_set(scale)), sum[r]);
                sum[r] = lanes_f_fma(lanes_f_from(second), lanes_f_mul(a[1], lanes_f_set(scale)), sum[r]);
            } else {
                const lanes_i dot = dot_four(dot_four(lanes_i_set(start[0]), u, q, as_signed), u + 4, q + 16, as_signed);
                sum[r] = lanes_f_fma(lanes_f_from(dot), lanes_f_mul(a[0], lanes_f_set(scale)), sum[r]);
            }
            if (TYPE_MINIMUM(type) && !two) sum[r] = lanes_f_fma(minimum[0], lanes_f_set(-x[r].moment), sum[r]);
            if (TYPE_MINIMUM(type) && two) {
                sum[r] = lanes_f_fma(minimum[0], lanes_f_set(-scale * (float)start[0]), sum[r]);
                sum[r] = lanes_f_fma(minimum[1], lanes_f_set(-scale * (float)start[1]), sum[r]);
            }
        }
        x += rows;
    }
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        if (row + r < j->m) tile_store(j, row + r, panel * PANEL_ROWS, sum[r]);
}

/* 16-bit weights: each sum takes its k in ascending order, one fused multiply-add each, as gemm_f32. Two panels at once, for two chains of sums. */
VEC_INLINE void half_tile(const int type, const int rows, const int panels, const struct panel_job *j, int64_t panel, int64_t row)
{
    const float *x[TILE_X];
    lanes_f sum[TILE_X][2];
    const uint8_t *at = j->panels + panel * j->panel_bytes;
    LANES_UNROLL
    for (int r = 0; r < rows; r++) {
        x[r] = j->x + (row + r < j->m ? row + r : row) * j->ldx;
        for (int v = 0; v < panels; v++) sum[r][v] = lanes_f_set(0.0f);
    }
    for (int64_t i = 0; i < j->k; i++) {
        lanes_f w[2];
        LANES_UNROLL
        for (int v = 0; v < panels; v++) {
            const uint8_t *from = at + v * j->panel_bytes + i * PANEL_ROWS * 2;
            w[v] = type == BLOCK_BF16 ? lanes_f_bf16(from) : lanes_f_f16(from);
            if (rows <= 4 && i % 2 == 0) __builtin_prefetch(from + LINEAR_PREFETCH / 2, 0, 3);
        }
        LANES_UNROLL
        for (int r = 0; r < rows; r++)
            LANES_UNROLL
            for (int v = 0; v < panels; v++) sum[r][v] = lanes_f_fma(lanes_f_set(x[r][i]), w[v], sum[r][v]);
    }
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < panels && row + r < j->m; v++) tile_store(j, row + r, (panel + v) * PANEL_ROWS, sum[r][v]);
}

/* Each weight as its decoder has it and each sum with its k in ascending order: LINEAR_F32 for few rows. */
VEC_INLINE void exact_tile(const int type, const int rows, const struct panel_job *j, int64_t panel, int64_t row)
{
    const uint8_t *at = j->panels + panel * j->panel_bytes, *head = at;
    const lanes_f offset = lanes_f_set((float)panel_layout(type)->offset);
    const float *x[TILE_X];
    lanes_f sum[TILE_X];
    LANES_UNROLL
    for (int r = 0; r < rows; r++) x[r] = j->x + (row + r < j->m ? row + r : row) * j->ldx, sum[r] = lanes_f_set(0.0f);
    for (int64_t b = 0; b < j->k / PANEL_BLOCK; b++) {
        lanes_b u[GROUPS];
        lanes_f a[2], minimum[2];
        if (TYPE_HEAD(type) && b % 8 == 0) head = at, at += TYPE_HEAD(type);
        unpack_scales(type, a, minimum, head, at);
        unpack_groups(type, u, at + TYPE_SCALES(type), 0);
        at += TYPE_SCALES(type) + (TYPE_LOW(type) + TYPE_HIGH(type)) * 64;
        LANES_UNROLL
        for (int g = 0; g < GROUPS; g++)
            LANES_UNROLL
            for (int i = 0; i < 4; i++) {
                const lanes_f w = weight_of(type, a, minimum, u, offset, g, i);
                LANES_UNROLL
                for (int r = 0; r < rows; r++) sum[r] = lanes_f_fma(lanes_f_set(x[r][b * PANEL_BLOCK + 4 * g + i]), w, sum[r]);
            }
    }
    LANES_UNROLL
    for (int r = 0; r < rows; r++)
        if (row + r < j->m) tile_store(j, row + r, panel * PANEL_ROWS, sum[r]);
}

/* All rows against panels [from, to): the panel stays in cache while the rows go by. */
#define QUANTISED(type_)                                                                                                                \
    static __attribute__((noinline)) void multiply_##type_(const struct panel_job *j, int64_t from, int64_t to)                         \
    {                                                                                                                                   \
        for (int64_t panel = from; panel < to; panel++)                                                                                 \
            for (int64_t row = 0, left; (left = j->m - row) > 0; row += left == 1 ? 1 : TILE_X) {                                        \
                if (left == 1 || TILE_X == 1) quantised_tile(BLOCK_##type_, 1, j, panel, row);                                           \
                else if (left <= TILE_SMALL || TILE_X == TILE_SMALL) quantised_tile(BLOCK_##type_, TILE_SMALL, j, panel, row);         \
                else if (TILE_X > TILE_SMALL) quantised_tile(BLOCK_##type_, TILE_X, j, panel, row);                                      \
            }                                                                                                                           \
    }
#define EXACT(type_)                                                                                                                    \
    static __attribute__((noinline)) void exact_##type_(const struct panel_job *j, int64_t from, int64_t to)                            \
    {                                                                                                                                   \
        for (int64_t panel = from; panel < to; panel++)                                                                                 \
            for (int64_t row = 0, left; (left = j->m - row) > 0; row += left == 1 ? 1 : TILE_X) {                                        \
                if (left == 1 || TILE_X == 1) exact_tile(BLOCK_##type_, 1, j, panel, row);                                               \
                else if (left <= TILE_SMALL || TILE_X == TILE_SMALL) exact_tile(BLOCK_##type_, TILE_SMALL, j, panel, row);               \
                else exact_tile(BLOCK_##type_, TILE_X, j, panel, row);                                                                   \
            }                                                                                                                           \
    }
#define HALF(type_)                                                                                                                     \
    static __attribute__((noinline)) void multiply_##type_(const struct panel_job *j, int64_t from, int64_t to)                         \
    {                                                                                                                                   \
        for (int64_t panel = from; panel < to; panel += 2)                                                                              \
            for (int64_t row = 0, left; (left = j->m - row) > 0; row += left == 1 ? 1 : TILE_X) {                                        \
                if (panel + 1 == to) half_tile(BLOCK_##type_, TILE_X, 1, j, panel, row);                                                 \
                else if (left == 1 || TILE_X == 1) half_tile(BLOCK_##type_, 1, 2, j, panel, row);                                        \
                else if (left <= TILE_SMALL || TILE_X == TILE_SMALL) half_tile(BLOCK_##type_, TILE_SMALL, 2, j, panel, row);             \
                else half_tile(BLOCK_##type_, TILE_X, 2, j, panel, row);                                                                 \
            }                                                                                                                           \
    }
/* A panel as floats, in the decoder's own order of operations. */
#define DECODE(type_)                                                                                                                   \
    static __attribute__((noinline)) void decode_##type_(float *y, int64_t step, int64_t half, const uint8_t *panel, int64_t from, int64_t k) \
    {                                                                                                                                   \
        decode_span(BLOCK_##type_, y, step, half, panel, from, k);                                                                      \
    }

/* from and k: multiples of 256 for formats with a head, of 32 else */
VEC_INLINE void decode_span(const int type, float *y, int64_t step, int64_t half, const uint8_t *panel, int64_t from, int64_t k)
{
    const int low = TYPE_LOW(type), high = TYPE_HIGH(type);
    const uint8_t *at = panel + from / PANEL_BLOCK * (TYPE_SCALES(type) + (low + high) * 64) + from / 256 * TYPE_HEAD(type), *head = at;
    for (int64_t b = 0; b < k / PANEL_BLOCK; b++) {
        lanes_b u[GROUPS];
        lanes_f a[2], minimum[2];
        if (TYPE_HEAD(type) && b % 8 == 0) head = at, at += TYPE_HEAD(type);
        unpack_scales(type, a, minimum, head, at);
        unpack_groups(type, u, at + TYPE_SCALES(type), 0);
        at += TYPE_SCALES(type) + (low + high) * 64;
        const lanes_f offset = lanes_f_set((float)panel_layout(type)->offset);
        LANES_UNROLL
        for (int g = 0; g < GROUPS; g++)
            LANES_UNROLL
            for (int i = 0; i < 4; i++, y += step) lanes_f_store_halves(y, y + half, weight_of(type, a, minimum, u, offset, g, i));
    }
}

PANEL_TYPES(QUANTISED)
PANEL_TYPES(DECODE)
PANEL_TYPES(EXACT)
HALF(F16)
HALF(BF16)

static void decode(float *y, int64_t step, int64_t half, int type, const uint8_t *panel, int64_t from, int64_t k)
{
    switch (type) {
#define ONE(type_) case BLOCK_##type_: decode_##type_(y, step, half, panel, from, k); break;
    PANEL_TYPES(ONE)
#undef ONE
    default:
        for (int64_t i = from; i < from + k; i++, y += step)
            lanes_f_store_halves(y, y + half, type == BLOCK_BF16 ? lanes_f_bf16(panel + i * PANEL_ROWS * 2) : lanes_f_f16(panel + i * PANEL_ROWS * 2));
    }
}

static void multiply(const struct panel_job *j, int64_t from, int64_t to)
{
    switch (j->type) {
#define ONE(type_)  case BLOCK_##type_: j->exact ? exact_##type_(j, from, to) : multiply_##type_(j, from, to); break;
#define HALVES(type_) case BLOCK_##type_: multiply_##type_(j, from, to); break;
    PANEL_TYPES(ONE)
    HALVES(F16)
    HALVES(BF16)
#undef ONE
#undef HALVES
    default: break;
    }
    const int64_t left = from * PANEL_ROWS, right = to * PANEL_ROWS < j->n ? to * PANEL_ROWS : j->n;
    for (int64_t r = 0; j->ep->act.kind != ACT_NONE && r < j->m; r++) activate_span(j->y + r * j->ldy + left, j->y + r * j->ldy + left, right - left, j->ep->act);
}

#endif
