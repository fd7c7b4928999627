/* Which level this machine has, and the table of that level: scalar is complete, each level overwrites what it does better. */
#include "kernels/kernels.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/levels.h"

enum {
    XCR0_AVX = 0x6,                      /* xmm and ymm state */
    XCR0_AVX512 = 0xe6,                  /* + opmask, upper zmm, zmm16-31 */
    XCR0_AMX = 0x600e6,                  /* + tile configuration and data */
    ARCH_REQ_XCOMP_PERM_ = 0x1023, XFEATURE_TILE_DATA = 18
};

static const char *const names[CPU_LEVEL_COUNT] = { "scalar", "avx2", "avx512", "amx" };

const char *cpu_level_name(enum cpu_level l) { return (unsigned)l < CPU_LEVEL_COUNT ? names[l] : "unknown"; }

bool cpu_level_from_name(const char *name, enum cpu_level *out)
{
    for (int i = 0; i < CPU_LEVEL_COUNT; i++)
        if (!strcmp(name, names[i])) {
            *out = (enum cpu_level)i;
            return true;
        }
    return false;
}

void cpu_kind(char text[CPU_KIND_MAX])
{
    uint32_t brand[13] = { 0 }, signature = 0, b, c, d;
    for (uint32_t i = 0; i < 3; i++) __get_cpuid(0x80000002 + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2], &brand[4 * i + 3]);
    __get_cpuid(1, &signature, &b, &c, &d);
    snprintf(text, CPU_KIND_MAX, "%.48s %08x", (const char *)brand, (unsigned)signature);
}

static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static enum cpu_level detect(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return CPU_SCALAR;
    const uint32_t osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, f16c = 1u << 29;
    if ((c & (osxsave | avx | fma | f16c)) != (osxsave | avx | fma | f16c)) return CPU_SCALAR;
    const uint64_t state = xcr0();
    if ((state & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return CPU_SCALAR;
    const uint32_t avx2 = 1u << 5, bmi2 = 1u << 8, f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if ((b & (avx2 | bmi2)) != (avx2 | bmi2)) return CPU_SCALAR;
    if ((b & (f | dq | bw | vl)) != (f | dq | bw | vl) || (state & XCR0_AVX512) != XCR0_AVX512) return CPU_AVX2;
    const uint32_t amx_bf16 = 1u << 22, fp16 = 1u << 23, amx_tile = 1u << 24, amx_int8 = 1u << 25, vbmi = 1u << 1 /* of ecx */, amx = amx_bf16 | fp16 | amx_tile | amx_int8;
    if ((d & amx) != amx || !(c & vbmi) || (state & XCR0_AMX) != XCR0_AMX) return CPU_AVX512;
    /* The kernel gives tile state to a process that asks; threads started afterwards inherit the permission. */
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_, XFEATURE_TILE_DATA) == 0 ? CPU_AMX : CPU_AVX512;
}

enum cpu_level cpu_level_detect(void)
{
    static _Atomic int known;            /* level + 1; two threads that ask at once find the same */
    int k = known;
    if (!k) known = k = (int)detect() + 1;
    return (enum cpu_level)(k - 1);
}

enum feature { ASKED = 1, VNNI = 2, VBMI = 4, BF16_DOTS = 8, INTEL = 16 };

/* Asked once: a guest's CPUID goes to its host, which takes as long as a small layer. */
static int features(void)
{
    static _Atomic int known;            /* two threads that ask at once find the same */
    uint32_t a, b, c, d;
    int found = known;
    if (found) return found;
    found = ASKED;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) found |= (c >> 11 & 1 ? VNNI : 0) | (c >> 1 & 1 ? VBMI : 0);
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) found |= a >> 5 & 1 ? BF16_DOTS : 0;
    if (__get_cpuid(0, &a, &b, &c, &d)) found |= b == signature_INTEL_ebx ? INTEL : 0;
    return known = found;
}

bool cpu_has_vnni(void) { return cpu_level_detect() >= CPU_AVX512 && features() & VNNI; }
bool cpu_has_vbmi(void) { return cpu_level_detect() >= CPU_AVX512 && features() & VBMI; }

/* By the vendor: Intel's dot products of bfloat16 take as long as two of floats, AMD's (from Zen 4 on) as long as one. On a machine with tiles a lower level is float. */
bool cpu_is_quick_at_bf16(enum cpu_level level)
{
    const enum cpu_level has = cpu_level_detect();
    if (level > has) level = has;
    if (level >= CPU_AMX) return true;
    return level >= CPU_AVX512 && has < CPU_AMX && (features() & (BF16_DOTS | INTEL)) == BF16_DOTS;
}

void kernels_fill(struct kernels *k, enum cpu_level cap)
{
    enum cpu_level level = cpu_level_detect();
    if (level > cap) level = cap;
    *k = (struct kernels){ .level = level, .bf16 = cpu_is_quick_at_bf16(level) };
    kernels_fill_scalar(k);
    sparse_fill_scalar(k);
    if (level >= CPU_AVX2) kernels_fill_avx2(k), sparse_fill_avx2(k);
    if (level >= CPU_AVX512) kernels_fill_avx512(k), sparse_fill_avx512(k);
}
