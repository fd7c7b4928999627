/* Products of bytes at one level (kernels/bytes_level.h). Integer sums are exact and what follows is float lane by lane in one order, so all levels agree in bits.
 *
 * Without VNNI the pairs of bytes are multiplied as 16-bit numbers: the 8-bit pair instruction saturates. amx/bytes.c brings a `multiply` of its own and takes the rest from here. */
#ifndef KERNELS_CPU_BYTES_BODY_H
#define KERNELS_CPU_BYTES_BODY_H

#include "kernels/bytes_level.h"
#include "kernels/cpu/vec.h"

/* ---- sums ---- */
#if !defined(BYTES_OWN_MULTIPLY)

static void nothing_begin(int depth) { (void)depth; }
static void nothing_end(void) {}

#if defined(__AVX512VNNI__)

enum { SUM_ROWS = 8 };

VEC_INLINE __m512i four_bytes(const uint8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

VEC_INLINE void rows_multiply(const int rows, const int panels, int32_t *sums, const uint8_t *x, const struct bytes_walk *w, const int8_t *panel)
{
    __m512i sum[SUM_ROWS][2];
    const int8_t *b = panel, *ahead = w->ahead, *const end = w->ahead + BYTES_LINE * w->lines;
    for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
    for (int s = 0; s < w->segments; s++) {
        const uint8_t *a = x + w->at[s];
        for (int g = 0, groups = w->chunks * w->depth / 4; g < groups; g++, a += 4, b += 64) {
            if (ahead < end && (g & w->mask) == 0) __builtin_prefetch(ahead, 0, 2), ahead += BYTES_LINE;
            const __m512i left = _mm512_loadu_si512(b), right = panels > 1 ? _mm512_loadu_si512(b + w->panel_bytes) : left;
            for (int r = 0; r < rows; r++) {
                const __m512i u = four_bytes(a + r * w->step);
                sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], u, left);
                if (panels > 1) sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], u, right);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        _mm512_storeu_si512(sums + r * BYTES_PAIR, sum[r][0]);
        if (panels > 1) _mm512_storeu_si512(sums + r * BYTES_PAIR + BYTES_PANEL, sum[r][1]);
    }
}

#elif defined(__AVX2__)

enum { SUM_ROWS = 2 };

/* 16 channels x 4 bytes: four vectors of 4 channels x 4 words */
VEC_INLINE void rows_multiply(const int rows, const int panels, int32_t *sums, const uint8_t *x, const struct bytes_walk *w, const int8_t *panel)
{
    for (int p = 0; p < panels; p++) {
        __m256i sum[SUM_ROWS][4];
        const int8_t *b = panel + p * w->panel_bytes;
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < 4; v++) sum[r][v] = _mm256_setzero_si256();
        for (int s = 0; s < w->segments; s++) {
            const uint8_t *a = x + w->at[s];
            for (int g = 0, groups = w->chunks * w->depth / 4; g < groups; g++, a += 4, b += 64) {
                __m256i u[SUM_ROWS];
                for (int r = 0; r < rows; r++) {
                    int32_t four;
                    memcpy(&four, a + r * w->step, sizeof four);
                    u[r] = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
                }
                for (int v = 0; v < 4; v++) {
                    const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(b + 16 * v)));
                    for (int r = 0; r < rows; r++) sum[r][v] = _mm256_add_epi32(sum[r][v], _mm256_madd_epi16(u[r], weights));
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < 4; v += 2) {
                const __m256i two = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[r][v], sum[r][v + 1]), 0xd8);
                _mm256_storeu_si256((__m256i *)(void *)(sums + r * BYTES_PAIR + p * BYTES_PANEL + 4 * v), two);
            }
    }
}

#else

enum { SUM_ROWS = 1 };

VEC_INLINE void rows_multiply(const int rows, const int panels, int32_t *sums, const uint8_t *x, const struct bytes_walk *w, const int8_t *panel)
{
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++) {
            int32_t *sum = sums + r * BYTES_PAIR + p * BYTES_PANEL;
            const int8_t *b = panel + p * w->panel_bytes;
            for (int c = 0; c < BYTES_PANEL; c++) sum[c] = 0;
            for (int s = 0; s < w->segments; s++) {
                const uint8_t *a = x + r * w->step + w->at[s];
                for (int g = 0, groups = w->chunks * w->depth / 4; g < groups; g++, a += 4, b += 64)
                    for (int c = 0; c < BYTES_PANEL; c++)
                        for (int i = 0; i < 4; i++) sum[c] += a[i] * b[4 * c + i];
            }
        }
}

#endif

/* Fewer rows than SUM_ROWS, at once: one after the other each would wait for its own sums. */
static void rest_multiply(int rows, int panels, int32_t *sums, const uint8_t *x, const struct bytes_walk *w, const int8_t *panel)
{
#define REST(n) case n: if (n < SUM_ROWS) { if (panels > 1) rows_multiply(n, 2, sums, x, w, panel); else rows_multiply(n, 1, sums, x, w, panel); } break;
    switch (rows) {
        REST(1) REST(2) REST(3) REST(4) REST(5) REST(6) REST(7)
    default: break;
    }
#undef REST
}

static void multiply(int32_t *sums, const uint8_t *x, const struct bytes_walk *walk, int rows, const int8_t *panel, int panels)
{
    const int calls = (rows + SUM_ROWS - 1) / SUM_ROWS;
    struct bytes_walk w = *walk;         /* each call fetches an equal part of what is to be fetched */
    int r = 0;
    w.lines = w.ahead ? (walk->lines + calls - 1) / calls : 0;
    if (w.lines) w.mask = (int)steps_mask((int64_t)w.segments * w.chunks * w.depth / 4 / w.lines);
    for (; r + SUM_ROWS <= rows; r += SUM_ROWS) {
        if (panels > 1) rows_multiply(SUM_ROWS, 2, sums + r * BYTES_PAIR, x + r * w.step, &w, panel);
        else rows_multiply(SUM_ROWS, 1, sums + r * BYTES_PAIR, x + r * w.step, &w, panel);
        if (w.ahead) w.ahead += w.lines * BYTES_LINE;
    }
    rest_multiply(rows - r, panels, sums + r * BYTES_PAIR, x + r * w.step, &w, panel);
}

#endif

/* ---- what becomes of a sum ---- */

/* The lookup of each finished byte. */
VEC_INLINE void look_up(uint8_t *y, int n, const uint8_t *table)
{
#if defined(__AVX512VBMI__)
    const __m512i t0 = _mm512_loadu_si512(table), t1 = _mm512_loadu_si512(table + 64), t2 = _mm512_loadu_si512(table + 128), t3 = _mm512_loadu_si512(table + 192);
    for (int i = 0; i < n; i += 64) {
        const __mmask64 mask = n - i < 64 ? (__mmask64)((1ull << (n - i)) - 1) : ~(__mmask64)0;
        const __m512i x = _mm512_maskz_loadu_epi8(mask, y + i);
        const __m512i low = _mm512_permutex2var_epi8(t0, x, t1), high = _mm512_permutex2var_epi8(t2, x, t3);
        _mm512_mask_storeu_epi8(y + i, mask, _mm512_mask_blend_epi8(_mm512_movepi8_mask(x), low, high));
    }
#else
    for (int i = 0; i < n; i++) y[i] = table[y[i]];
#endif
}

VEC_INLINE float limit(float v, float low, float high) { return v < low ? low : v > high ? high : v; }

#if defined(__AVX512F__)


VEC_INLINE int64_t row_at(const struct bytes_rows *r, int i) { return r->pixel ? r->pixel[i] : r->first + i; }

/* What bytes_put needs of a finish, in registers: y is bytes, which might lie anywhere, so a compiler would read it again for every number. */
struct put_numbers { __m512 low, high, sum_low, sum_high, first, second; __m512i zero, r_zero; bool r_signed; };
VEC_INLINE struct put_numbers put_numbers_of(const struct bytes_finish *f)
{
    return (struct put_numbers){ .low = _mm512_set1_ps(f->low), .high = _mm512_set1_ps(f->high), .sum_low = _mm512_set1_ps(f->sum_low), .sum_high = _mm512_set1_ps(f->sum_high), .first = _mm512_set1_ps(f->first),
                                 .second = _mm512_set1_ps(f->second), .zero = _mm512_set1_epi32(f->zero), .r_zero = _mm512_set1_epi32(f->r_zero), .r_signed = f->r_signed };
}

/* 16 numbers as whole ones. Limits are whole numbers, so that it is the same to round before them or behind. */
VEC_INLINE __m512i bytes_whole(const int sums, const struct put_numbers *f, __m128i r, __m512 v)
{
    v = _mm512_min_ps(_mm512_max_ps(v, f->low), f->high);
    if (sums) {
        const __m512 b = _mm512_cvtepi32_ps(_mm512_sub_epi32(f->r_signed ? _mm512_cvtepi8_epi32(r) : _mm512_cvtepu8_epi32(r), f->r_zero));
        v = _mm512_fmadd_ps(b, f->second, _mm512_mul_ps(_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f->first));
        v = _mm512_min_ps(_mm512_max_ps(v, f->sum_low), f->sum_high);
    }
    return _mm512_add_epi32(_mm512_cvtps_epi32(v), f->zero);
}

VEC_INLINE void bytes_put(const int sums, const struct put_numbers *f, uint8_t *y, const uint8_t *residual, __m512 v, __mmask16 mask)
{
    _mm_mask_storeu_epi8(y, mask, _mm512_cvtepi32_epi8(bytes_whole(sums, f, sums ? _mm_maskz_loadu_epi8(mask, residual) : _mm_setzero_si128(), v)));
}

enum { FINISH_BYTES, FINISH_SATURATED, FINISH_SUM, FINISH_F32, FINISH_WHOLE, FINISH_ACTIVE };

/* 16 columns of all rows */
VEC_INLINE void panel_rows(const int kind, const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns)
{
    const struct bytes_finish *f = r->finish;
    const __mmask16 mask = (__mmask16)((1u << columns) - 1);
    const __m512i start = f->start ? _mm512_maskz_loadu_epi32(mask, f->start + channel) : _mm512_setzero_si512();
    const __m512 scale = f->scale ? _mm512_maskz_loadu_ps(mask, f->scale + channel) : _mm512_set1_ps(1), shift = f->shift ? _mm512_maskz_loadu_ps(mask, f->shift + channel) : _mm512_setzero_ps();
    const struct put_numbers put = put_numbers_of(f);
    const float inverse = f->inverse;
    const bool floats = f->out == BYTES_F32;
    const int64_t channels = r->channels, first = r->first, *const pixels = r->pixel;
    const uint8_t *const residual = r->residual;
    uint8_t *const y = r->y;
    float some[BYTES_ROWS * BYTES_PANEL] __attribute__((aligned(64)));
    if (kind == FINISH_ACTIVE) {                   /* all at once */
        for (int i = 0; i < r->rows; i++) _mm512_store_ps(some + i * BYTES_PANEL, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(sums + i * BYTES_PAIR), start)), scale, shift));
        r->k->activate_f32(some, some, (int64_t)r->rows * BYTES_PANEL, f->act, 1);
    }
    for (int i = 0, rows = r->rows; i < rows; i++) {
        const int64_t pixel = pixels ? pixels[i] : first + i, at = pixel * channels + channel;
        if (pixel < 0) continue;
        const __m512i sum = _mm512_add_epi32(_mm512_loadu_si512(sums + i * BYTES_PAIR), start);
        if (kind == FINISH_WHOLE) {
            _mm512_mask_storeu_epi32((int32_t *)(void *)y + at, mask, sum);
            continue;
        }
        __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, shift);
        if (kind == FINISH_ACTIVE) {
            v = _mm512_load_ps(some + i * BYTES_PANEL);
            if (!floats) v = _mm512_mul_ps(v, _mm512_set1_ps(inverse));
        }
        if (kind == FINISH_F32 || (kind == FINISH_ACTIVE && floats)) _mm512_mask_storeu_ps((float *)(void *)y + at, mask, v);
        else if (kind == FINISH_SUM || (kind == FINISH_ACTIVE && residual)) bytes_put(1, &put, y + at, residual + at, v, mask);
        else if (kind == FINISH_SATURATED) _mm_mask_storeu_epi8(y + at, mask, _mm512_cvtusepi32_epi8(_mm512_max_epi32(_mm512_cvtps_epi32(v), _mm512_setzero_si512())));
        else bytes_put(0, &put, y + at, NULL, v, mask);
    }
}

/* 32 columns as bytes, two rows at a time: packed with saturation and brought in order by one permutation. */
VEC_INLINE void pair_rows(const int kind, const struct bytes_rows *r, const int32_t *sums, int64_t channel)
{
    const struct bytes_finish *f = r->finish;
    const struct put_numbers put = put_numbers_of(f);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int64_t channels = r->channels, first = r->first, *const pixels = r->pixel;
    const uint8_t *const residual = r->residual;
    const bool is_signed = f->out == BYTES_S8;
    uint8_t *const y = r->y;
    __m512i start[2];
    __m512 scale[2], shift[2];
    for (int p = 0; p < 2; p++) {
        start[p] = f->start ? _mm512_loadu_si512(f->start + channel + 16 * p) : _mm512_setzero_si512();
        scale[p] = f->scale ? _mm512_loadu_ps(f->scale + channel + 16 * p) : _mm512_set1_ps(1);
        shift[p] = f->shift ? _mm512_loadu_ps(f->shift + channel + 16 * p) : _mm512_setzero_ps();
    }
    for (int i = 0, rows = r->rows; i < rows; i += 2) {
        const int second = i + 1 < rows;
        const int64_t pixel[2] = { pixels ? pixels[i] : first + i, second ? pixels ? pixels[i + 1] : first + i + 1 : -1 };
        __m512i n[4];
        for (int k = 0; k < 4; k++) {
            const int p = k % 2, row = k / 2 && second;
            const __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_loadu_si512(sums + (i + row) * BYTES_PAIR + p * BYTES_PANEL), start[p])), scale[p], shift[p]);
            if (kind == FINISH_SATURATED) n[k] = _mm512_cvtps_epi32(v);
            else n[k] = bytes_whole(kind == FINISH_SUM, &put, kind == FINISH_SUM && pixel[row] >= 0 ? _mm_loadu_si128((const __m128i *)(const void *)(residual + pixel[row] * channels + channel + 16 * p)) : _mm_setzero_si128(), v);
        }
        const __m512i a = _mm512_packs_epi32(n[0], n[1]), b = _mm512_packs_epi32(n[2], n[3]);
        const __m512i bytes = _mm512_permutexvar_epi32(order, is_signed ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b));
        if (pixel[0] >= 0) _mm256_storeu_si256((__m256i *)(void *)(y + pixel[0] * channels + channel), _mm512_castsi512_si256(bytes));
        if (pixel[1] >= 0) _mm256_storeu_si256((__m256i *)(void *)(y + pixel[1] * channels + channel), _mm512_extracti64x4_epi64(bytes, 1));
    }
}

/* false: these are not finished so. */
VEC_INLINE bool pair_finish(const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns)
{
    const struct bytes_finish *f = r->finish;
    if (columns != BYTES_PAIR || f->out > BYTES_S8 || f->act.kind != ACT_NONE) return false;
    if (r->residual) pair_rows(FINISH_SUM, r, sums, channel);
    else if (r->saturates) pair_rows(FINISH_SATURATED, r, sums, channel);
    else pair_rows(FINISH_BYTES, r, sums, channel);
    return true;
}

VEC_INLINE void panel_finish(const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns)
{
    const struct bytes_finish *f = r->finish;
    if (f->out == BYTES_I32) panel_rows(FINISH_WHOLE, r, sums, channel, columns);
    else if (f->act.kind != ACT_NONE) panel_rows(FINISH_ACTIVE, r, sums, channel, columns);
    else if (f->out == BYTES_F32) panel_rows(FINISH_F32, r, sums, channel, columns);
    else if (r->residual) panel_rows(FINISH_SUM, r, sums, channel, columns);
    else if (r->saturates) panel_rows(FINISH_SATURATED, r, sums, channel, columns);
    else panel_rows(FINISH_BYTES, r, sums, channel, columns);
}

#else

VEC_INLINE int64_t row_at(const struct bytes_rows *r, int i) { return r->pixel ? r->pixel[i] : r->first + i; }

VEC_INLINE bool pair_finish(const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns)
{
    (void)r, (void)sums, (void)channel, (void)columns;
    return false;
}

VEC_INLINE void panel_finish(const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns)
{
    const struct bytes_finish *f = r->finish;
    for (int i = 0; i < r->rows; i++) {
        const int64_t pixel = row_at(r, i), at = pixel * r->channels + channel;
        if (pixel < 0) continue;
        float v[BYTES_PANEL];
        for (int c = 0; c < columns; c++) {
            const int32_t sum = (int32_t)((uint32_t)sums[i * BYTES_PAIR + c] + (f->start ? (uint32_t)f->start[channel + c] : 0));
            if (f->out == BYTES_I32) ((int32_t *)r->y)[at + c] = sum;
            v[c] = fmaf((float)sum, f->scale ? f->scale[channel + c] : 1, f->shift ? f->shift[channel + c] : 0);
        }
        if (f->out == BYTES_I32) continue;
        if (f->act.kind != ACT_NONE) {
            r->k->activate_f32(v, v, columns, f->act, 1);
            for (int c = 0; c < columns && f->out != BYTES_F32; c++) v[c] *= f->inverse;
        }
        for (int c = 0; c < columns; c++) {
            if (f->out == BYTES_F32) {
                ((float *)r->y)[at + c] = v[c];
                continue;
            }
            float n = limit(rintf(v[c]), f->low, f->high);
            if (r->residual) {
                const int b = f->r_signed ? (int8_t)r->residual[at + c] : r->residual[at + c];
                n = limit(rintf(fmaf((float)(b - f->r_zero), f->second, n * f->first)), f->sum_low, f->sum_high);
            }
            ((uint8_t *)r->y)[at + c] = (uint8_t)((int)n + f->zero);
        }
    }
}

#endif

static void finish(const struct bytes_rows *r, const int32_t *sums, int64_t channel, int columns)
{
    const struct bytes_finish *f = r->finish;
    const bool done = pair_finish(r, sums, channel, columns);
    if (!done) panel_finish(r, sums, channel, columns < BYTES_PANEL ? columns : BYTES_PANEL);
    if (!done && columns > BYTES_PANEL) panel_finish(r, sums + BYTES_PANEL, channel + BYTES_PANEL, columns - BYTES_PANEL);
    for (int i = 0; f->table && i < r->rows; i++)
        if (row_at(r, i) >= 0) look_up((uint8_t *)r->y + row_at(r, i) * r->channels + channel, columns, f->table);
}

/* ---- depthwise ---- */
#if defined(__AVX512VNNI__)

/* 64 channels of a pixel; or, `twice`, up to 32 of it and as many of the pixel `below` bytes behind. */
VEC_INLINE __m512i channels_load(const bool twice, const uint8_t *x, int64_t below, __mmask64 mask)
{
    if (!twice) return _mm512_maskz_loadu_epi8(mask, x);
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi8((__mmask32)mask, x)), _mm256_maskz_loadu_epi8((__mmask32)mask, x + below), 1);
}

/* Some pixels of a row (twice: of two), 64 channels: each column of the window's rows is woven once, 4 bytes of a channel side by side, and taken by every pixel that it belongs to. */
VEC_INLINE void strip_multiply(const bool twice, const int pixels, const int kw, const int stride, __m512i sum[][4], const struct bytes_depth_job *j, const uint8_t *x, const int8_t *weight, int64_t column_bytes, __mmask64 mask)
{
    const struct window2d *w = j->w;
    const int64_t row = w->w * w->c * w->dilation_h, below = w->w * w->c * w->stride_h, blocks = (w->c + 63) / 64;
    for (int y = 0; y < w->kh; y += 4, x += 4 * row, weight += blocks * 256) {
        for (int column = 0; column < (pixels - 1) * stride + kw; column++) {
            __m512i a[4];
            for (int i = 0; i < 4; i++) a[i] = y + i < w->kh ? channels_load(twice, x + i * row + column * w->c, below, mask) : _mm512_setzero_si512();
            const __m512i ab = _mm512_unpacklo_epi8(a[0], a[1]), ab2 = _mm512_unpackhi_epi8(a[0], a[1]), cd = _mm512_unpacklo_epi8(a[2], a[3]), cd2 = _mm512_unpackhi_epi8(a[2], a[3]);
            const __m512i v[4] = { _mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd), _mm512_unpacklo_epi16(ab2, cd2), _mm512_unpackhi_epi16(ab2, cd2) };
            for (int p = 0; p < pixels; p++) {
                const int kx = column - p * stride;
                if (kx < 0 || kx >= kw) continue;
                for (int i = 0; i < 4; i++) sum[p][i] = _mm512_dpbusd_epi32(sum[p][i], v[i], _mm512_loadu_si512(weight + kx * column_bytes + 64 * i));
            }
        }
    }
}

VEC_INLINE void pixel_finish(const bool twice, const struct bytes_depth_job *j, uint8_t *y, const __m512i sum[4], int64_t block, __mmask64 mask)
{
    const struct bytes_finish *f = j->finish;
    const __m512i zero = _mm512_set1_epi32(f->zero);
    const __m512 low = _mm512_set1_ps(f->low), high = _mm512_set1_ps(f->high);
    const bool saturates = j->saturates;
    __m512i n[4];
    for (int i = 0; i < 4; i++) {
        const int64_t at = (block * 4 + i) * 16;
        const __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(sum[i], _mm512_loadu_si512(j->start + at))), _mm512_loadu_ps(j->scale + at), _mm512_loadu_ps(j->shift + at));
        n[i] = saturates ? _mm512_cvtps_epi32(v) : _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, low), high)), zero);
    }
    __m512i bytes;
    if (f->out == BYTES_S8) bytes = _mm512_packs_epi16(_mm512_packs_epi32(n[0], n[1]), _mm512_packs_epi32(n[2], n[3]));
    else bytes = _mm512_packus_epi16(_mm512_packus_epi32(n[0], n[1]), _mm512_packus_epi32(n[2], n[3]));
    if (twice) {
        _mm256_mask_storeu_epi8(y, (__mmask32)mask, _mm512_castsi512_si256(bytes));
        _mm256_mask_storeu_epi8(y + j->w->out_w * j->w->c, (__mmask32)mask, _mm512_extracti64x4_epi64(bytes, 1));
    } else _mm512_mask_storeu_epi8(y, mask, bytes);
}

VEC_INLINE void row_depthwise(const bool twice, const int kw, const int stride, const struct bytes_depth_job *j, int64_t row, int64_t block)
{
    enum { PIXELS = 4 };
    const struct window2d *w = j->w;
    const int64_t left = w->c - 64 * block, blocks = (w->c + 63) / 64, column_bytes = (w->kh + 3) / 4 * blocks * 256;
    const __mmask64 mask = left < 64 ? (__mmask64)((1ull << left) - 1) : ~(__mmask64)0;
    const uint8_t *x = j->x + row * w->stride_h * w->w * w->c + 64 * block;
    uint8_t *y = j->y + row * w->out_w * w->c + 64 * block;
    const int8_t *weight = j->weight + block * 256;
    int64_t p = 0;
    for (; p + PIXELS <= w->out_w; p += PIXELS) {
        __m512i sum[PIXELS][4];
        for (int i = 0; i < 4 * PIXELS; i++) sum[i / 4][i % 4] = _mm512_setzero_si512();
        strip_multiply(twice, PIXELS, kw, stride, sum, j, x + p * stride * w->c, weight, column_bytes, mask);
        for (int i = 0; i < PIXELS; i++) pixel_finish(twice, j, y + (p + i) * w->c, sum[i], block, mask);
    }
    for (; p < w->out_w; p++) {
        __m512i sum[1][4];
        for (int i = 0; i < 4; i++) sum[0][i] = _mm512_setzero_si512();
        strip_multiply(twice, 1, kw, 1, sum, j, x + p * stride * w->c, weight, column_bytes, mask);
        pixel_finish(twice, j, y + p * w->c, sum[0], block, mask);
    }
}

/* any width and stride, a pixel at a time */
VEC_INLINE void row_depthwise_any(const struct bytes_depth_job *j, int64_t row, int64_t block)
{
    const struct window2d *w = j->w;
    const int64_t left = w->c - 64 * block, blocks = (w->c + 63) / 64, column_bytes = (w->kh + 3) / 4 * blocks * 256;
    const __mmask64 mask = left < 64 ? (__mmask64)((1ull << left) - 1) : ~(__mmask64)0;
    const uint8_t *x = j->x + row * w->stride_h * w->w * w->c + 64 * block;
    for (int64_t p = 0; p < w->out_w; p++) {
        __m512i sum[1][4];
        for (int i = 0; i < 4; i++) sum[0][i] = _mm512_setzero_si512();
        for (int kx = 0; kx < w->kw; kx++) strip_multiply(false, 1, 1, 1, sum, j, x + (p * w->stride_w + kx * w->dilation_w) * w->c, j->weight + block * 256 + kx * column_bytes, column_bytes, mask);
        pixel_finish(false, j, j->y + (row * w->out_w + p) * w->c + 64 * block, sum[0], block, mask);
    }
}

static void depthwise(const struct bytes_depth_job *j, int64_t from, int64_t to)
{
    const struct window2d *w = j->w;
    const int kind = w->dilation_w == 1 && w->stride_w <= 2 ? 10 * w->kw + w->stride_w : 0;
    for (int64_t row = from; row < to; row++)
        for (int64_t block = 0; block * 64 < w->c; block++) {
            const bool last = block == (w->c - 1) / 64 && j->twice && (kind == 31 || kind == 32);
            if (last && (row - from) % 2) continue;                /* came with the row before */
            if (last && row + 1 < to) {
                if (kind == 31) row_depthwise(true, 3, 1, j, row, block);
                else row_depthwise(true, 3, 2, j, row, block);
            } else if (kind == 31) row_depthwise(false, 3, 1, j, row, block);
            else if (kind == 32) row_depthwise(false, 3, 2, j, row, block);
            else if (kind == 51) row_depthwise(false, 5, 1, j, row, block);
            else if (kind == 52) row_depthwise(false, 5, 2, j, row, block);
            else row_depthwise_any(j, row, block);
        }
    for (int64_t i = from * w->out_w * w->c, end = to * w->out_w * w->c; j->finish->table && i < end; i += 1 << 20) look_up(j->y + i, (int)(end - i < 1 << 20 ? end - i : 1 << 20), j->finish->table);
}
enum { DEPTH_COLUMNS = 1 };

#else

static void depthwise(const struct bytes_depth_job *j, int64_t from, int64_t to)
{
    const struct window2d *w = j->w;
    for (int64_t at = from * w->out_w; at < to * w->out_w; at++)
        for (int64_t c = 0; c < w->c; c += BYTES_PAIR) {
            const int columns = w->c - c < BYTES_PAIR ? (int)(w->c - c) : BYTES_PAIR;
            int32_t sum[BYTES_PAIR] = { 0 };
            const uint8_t *corner = j->x + (at / w->out_w * w->stride_h * w->w + at % w->out_w * w->stride_w) * w->c + c;
            for (int ky = 0; ky < w->kh; ky++)
                for (int kx = 0; kx < w->kw; kx++) {
                    const uint8_t *x = corner + (ky * w->dilation_h * w->w + kx * w->dilation_w) * w->c;
                    const int8_t *weight = j->weight + (ky * w->kw + kx) * w->c + c;
                    if (columns == BYTES_PAIR) for (int i = 0; i < BYTES_PAIR; i++) sum[i] += x[i] * weight[i];
                    else for (int i = 0; i < columns; i++) sum[i] += x[i] * weight[i];
                }
            const struct bytes_rows one = { .finish = j->finish, .k = j->k, .y = j->y, .channels = w->c, .pixel = &at, .rows = 1 };
            finish(&one, sum, c, columns);
        }
}
enum { DEPTH_COLUMNS = 0 };

#endif

#endif
