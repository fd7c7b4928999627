/* Panels of quantised weights (kernels/linear_panels.h) as bfloat16 tiles, in half-precision arithmetic: 32 numbers an instruction where floats are 16.
 *
 * A panel's dword holds numbers of one row, so both 16-bit halves of a dword take that row's scale. Word w of a dword holds numbers 4g + 2w and 4g + 2w + 1 of group g:
 * one shift brings a number of either half down, and a row of a tile is the pair (4g, 4g + 2) or (4g + 1, 4g + 3). Tiles of x have that order, too (panel_tiles_round).
 *
 * Half precision has five bits of exponent, so that a row of W is divided by its unit, a power of two above twice its largest number (panel_units), and its sums are
 * multiplied by it in the end. A number then is (u - offset) a - b below one, with 11 bits, rounded once more to the 8 bits of bfloat16. From half precision to bfloat16
 * is a shift by 3 and a change of the exponent's bias; below one the exponent's top bit is clear, so the bias is 3 bits put in. Numbers under 2^-14 have no
 * exponent in half precision and come out as 2^-15 to 2^-14: every weight, 0 too, is as it would be to within 2^-14 units. */
#ifndef KERNELS_CPU_AMX_LINEAR_WEIGHTS_H
#define KERNELS_CPU_AMX_LINEAR_WEIGHTS_H

#include "kernels/cpu/linear_unpack.h"

enum { TILE_NUMBERS = 16 * 32, TILES_PREFETCH = 4096 };

#define TYPE_BITS(type)   (TYPE_LOW(type) + TYPE_HIGH(type))
#define TYPE_OFFSET(type) ((type) == BLOCK_Q4_0 ? 8 : (type) == BLOCK_Q5_0 ? 16 : (type) == BLOCK_Q3_K ? 4 : TYPE_TERNARY(type) ? 1 : 0)        /* of those with a table */
/* Numbers are worked on divided by 2^this, so that their scales are not too small. */
#define TYPE_POWER(type)  ((type) == BLOCK_MXFP4 || (type) == BLOCK_IQ3_S || !TYPE_WIDE(type) ? TYPE_BITS(type) : 7)

/* What every number of at most 5 bits stands for, divided; those of fewer bits again and again, so that bits above a number need not be cleared. */
VEC_INLINE __m512h values_of(const int type)
{
    const __m512i places = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i values = _mm512_sub_epi16(_mm512_and_si512(places, _mm512_set1_epi16((1 << TYPE_BITS(type)) - 1)), _mm512_set1_epi16(TYPE_OFFSET(type)));
    if (block_table(type)) {
        const __m256i once = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)block_table(type)));
        values = _mm512_inserti64x4(_mm512_castsi256_si512(once), once, 1);
    }
    return _mm512_mul_ph(_mm512_cvtepi16_ph(values), _mm512_set1_ph((_Float16)(1.0f / (1 << TYPE_POWER(type)))));
}

/* words moved right, or left where `by` is below 0 */
VEC_INLINE __m512i words_right(__m512i x, const int by) { return by > 0 ? _mm512_srli_epi16(x, (unsigned)by) : by < 0 ? _mm512_slli_epi16(x, (unsigned)-by) : x; }
/* the mask's bits of x, the others of y */
VEC_INLINE __m512i bits_choose(const int mask, __m512i x, __m512i y) { return _mm512_ternarylogic_epi32(_mm512_set1_epi16((int16_t)mask), x, y, 0xca); }
/* the mask's bits of x, and `more` */
VEC_INLINE __m512i bits_and_more(__m512i x, const int mask, const int more) { return _mm512_ternarylogic_epi32(x, _mm512_set1_epi16((int16_t)mask), _mm512_set1_epi16((int16_t)more), 0xea); }

/* Numbers 4g + odd of each dword's lower half, 4g + odd + 2 of its upper one: (u - offset) / 2^TYPE_POWER. low, high: the block's bits; values: values_of the type */
VEC_INLINE __m512h numbers_of(const int type, const uint8_t *low, const uint8_t *high, __m512h values, const int g, const int odd)
{
    const int bits = TYPE_LOW(type), at = 8 * odd + (bits == 4 ? g / 4 * 4 : bits == 2 ? g % 4 * 2 : 0);
    const __m512i x = _mm512_loadu_si512(low + 64 * (bits == 4 ? g % 4 : bits == 2 ? g / 4 : g));
    if (type == BLOCK_Q8_0)              /* u as the last bits of 8 + u / 128, which then loses the 8 and the offset of 1 */
        return _mm512_sub_ph((__m512h)bits_and_more(words_right(x, at), 0xff, 0x4800), _mm512_set1_ph((_Float16)9));
    if (type == BLOCK_Q6_K) {            /* u as bits 4 to 9 of 1 + u / 64, less 1 and the offset of 1/2 */
        const __m512i upper = _mm512_loadu_si512(high + 64 * (g / 4)), both = bits_choose(0x00f0, words_right(x, at - 4), words_right(upper, 8 * odd + g % 4 * 2 - 8));
        return _mm512_sub_ph((__m512h)bits_and_more(both, 0x03f0, 0x3c00), _mm512_set1_ph((_Float16)1.5f));
    }
    __m512i u = words_right(x, at);
    if (TYPE_HIGH(type)) u = bits_choose((1 << bits) - 1, u, words_right(_mm512_loadu_si512(high), 8 * odd + g - bits));
    return (__m512h)_mm512_permutexvar_epi16(u, (__m512i)values);
}

/* |x| < 1 to bfloat16 */
VEC_INLINE __m512i bf16_of_half(__m512h x) { return bits_and_more(_mm512_mulhrs_epi16((__m512i)x, _mm512_set1_epi16(1 << 12)), 0x87ff, 0x3800); }

/* each float's lane in both halves of its dword */
VEC_INLINE __m512h halves_of(__m512 x)
{
    const __m512i twice = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return (__m512h)_mm512_permutexvar_epi16(twice, _mm512_castsi256_si512(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)));
}

/* One block as a tile. rate: 1 / unit of each row. */
VEC_INLINE void tile_of_block(const int type, uint16_t *b, const uint8_t *block, const uint8_t *head, __m512 rate, __m512h values)
{
    const uint8_t *low = block + TYPE_SCALES(type), *high = low + 64 * TYPE_LOW(type);
    lanes_f scale[2], minimum[2];
    __m512h a[2], down[2];
    unpack_scales(type, scale, minimum, head, block);
    for (int h = 0; h < 1 + TYPE_TWO(type); h++) {
        a[h] = halves_of(scale[h] * (rate * vec_set((float)(1 << TYPE_POWER(type)))));
        if (TYPE_MINIMUM(type)) down[h] = halves_of(minimum[h] * rate);
    }
    LANES_UNROLL
    for (int g = 0; g < GROUPS; g++)
        LANES_UNROLL
        for (int odd = 0; odd < 2; odd++) {
            const int h = TYPE_TWO(type) ? g / 4 : 0;
            const __m512h u = numbers_of(type, low, high, values, g, odd);
            _mm512_storeu_si512(b + (2 * g + odd) * 32, bf16_of_half(TYPE_MINIMUM(type) ? _mm512_fmsub_ph(u, a[h], down[h]) : _mm512_mul_ph(u, a[h])));
        }
}

/* k [from, from + k) of a panel to every second tile from b on; unit: of its 16 rows */
typedef void tiles_kernel(uint16_t *b, const uint8_t *panel, const float *unit, int64_t from, int64_t k);

VEC_INLINE void tiles_of_blocks(const int type, uint16_t *b, const uint8_t *panel, const float *unit, int64_t from, int64_t k)
{
    const uint8_t *at = panel + from / PANEL_BLOCK * TYPE_BYTES(type) + from / 256 * TYPE_HEAD(type), *head = at;
    const __m512 rate = (__m512)_mm512_sub_epi32(_mm512_set1_epi32(0x7f000000), _mm512_loadu_si512(unit));       /* a power of two's inverse */
    const __m512h values = values_of(type);
    for (int64_t block = 0; block < k / PANEL_BLOCK; block++, b += 2 * TILE_NUMBERS, at += TYPE_BYTES(type)) {
        if (TYPE_HEAD(type) && block % 8 == 0) head = at, at += TYPE_HEAD(type);
        for (int line = 0; line < TYPE_BYTES(type); line += 64) __builtin_prefetch(at + TILES_PREFETCH + line, 0, 2);
        tile_of_block(type, b, at, head, rate, values);
    }
}

#define TILES_OF(type_)                                                                                                                                     \
    static __attribute__((noinline)) void tiles_of_##type_(uint16_t *b, const uint8_t *panel, const float *unit, int64_t from, int64_t k)                  \
    {                                                                                                                                                       \
        tiles_of_blocks(BLOCK_##type_, b, panel, unit, from, k);                                                                                            \
    }
PANEL_TYPES(TILES_OF)
static tiles_kernel *const tiles_of_types[BLOCK_TYPE_END] = {
#define ONE(type_) [BLOCK_##type_] = tiles_of_##type_,
    PANEL_TYPES(ONE)
#undef ONE
};

#endif
