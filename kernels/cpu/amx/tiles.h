/* Tile instructions, written as asm with all that they touch named: the compiler's own wrappers do not say which memory they read. */
#ifndef KERNELS_CPU_AMX_TILES_H
#define KERNELS_CPU_AMX_TILES_H

#include <stdint.h>

struct tile_config { uint8_t palette, start_row, reserved[14]; uint16_t row_bytes[16]; uint8_t rows[16]; };

static const struct tile_config whole_tiles = { .palette = 1, .row_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 }, .rows = { 16, 16, 16, 16, 16, 16, 16, 16 } };
static inline void tiles_begin(const struct tile_config *c) { __asm__ volatile("ldtilecfg %0" : : "m"(*c)); }
static inline void tiles_end(void) { __asm__ volatile("tilerelease" : : : "memory"); }

#define TILE_ZERO(t)              __asm__ volatile("tilezero %%tmm" #t : : : "memory")
#define TILE_LOAD(t, p, stride)   __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((int64_t)(stride)) : "memory")
#define TILE_STORE(t, p, stride)  __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" : : "r"(p), "r"((int64_t)(stride)) : "memory")
#define TILE_DOT_BF16(c, a, b)    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
/* unsigned bytes by signed bytes */
#define TILE_DOT_U8(c, a, b)      __asm__ volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")
/* signed bytes by signed bytes */
#define TILE_DOT_I8(c, a, b)      __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : : "memory")

/* ---- 32 x 32 sums: tiles 0 to 3, in memory [32][32] floats ---- */
enum { SUMS_STRIDE = 32 * 4 };
static inline void sums_clear(void)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
}
static inline void sums_load(const float *c)
{
    TILE_LOAD(0, c, SUMS_STRIDE);
    TILE_LOAD(1, c + 16, SUMS_STRIDE);
    TILE_LOAD(2, c + 16 * 32, SUMS_STRIDE);
    TILE_LOAD(3, c + 16 * 32 + 16, SUMS_STRIDE);
}
static inline void sums_store(float *c)
{
    TILE_STORE(0, c, SUMS_STRIDE);
    TILE_STORE(1, c + 16, SUMS_STRIDE);
    TILE_STORE(2, c + 16 * 32, SUMS_STRIDE);
    TILE_STORE(3, c + 16 * 32 + 16, SUMS_STRIDE);
}

#endif
