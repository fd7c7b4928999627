#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/internal.h"

static uint64_t mix(uint64_t h, const void *p, size_t n)        /* FNV-1a */
{
    const unsigned char *b = p;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    return h;
}

void cache_key(char key[CUDA_KEY_MAX], const struct gpu *g, const struct gpu_task *t, uint64_t library_version)
{
    uint64_t h[2] = { UINT64_C(0xcbf29ce484222325), UINT64_C(0x9ae16a3b2f90404f) };
    for (int i = 0; i < 2; i++) {
        h[i] = mix(h[i], &t->kind, sizeof t->kind);
        h[i] = mix(h[i], t->type, sizeof t->type);
        h[i] = mix(h[i], &t->u, sizeof t->u);
        h[i] = mix(h[i], g->info.name, strlen(g->info.name));
        h[i] = mix(h[i], g->info.driver, strlen(g->info.driver));
        h[i] = mix(h[i], &library_version, sizeof library_version);
    }
    snprintf(key, CUDA_KEY_MAX, "gpu-%016llx%016llx", (unsigned long long)h[0], (unsigned long long)h[1]);
}

bool cache_find(const struct gpu *g, const char *key, char *text, size_t size)
{
    char path[CUDA_PATH_MAX + CUDA_KEY_MAX + 2];
    if (!g->cache[0]) return false;
    snprintf(path, sizeof path, "%s/%s", g->cache, key);
    FILE *f = fopen(path, "rb");
    if (!f) return false;
    const size_t n = fread(text, 1, size - 1, f);
    const bool whole = fgetc(f) == EOF && !ferror(f) && n > 0;
    fclose(f);
    text[n] = 0;
    return whole;
}

/* A choice that cannot be kept is made anew next time. */
void cache_keep(const struct gpu *g, const char *key, const char *text, size_t length)
{
    char path[CUDA_PATH_MAX + CUDA_KEY_MAX + 2], draft[CUDA_PATH_MAX + CUDA_KEY_MAX + 32];
    if (!g->cache[0]) return;
    snprintf(path, sizeof path, "%s/%s", g->cache, key);
    snprintf(draft, sizeof draft, "%s.%ld", path, (long)getpid());
    FILE *f = fopen(draft, "wb");
    if (!f) return;
    const bool written = fwrite(text, 1, length, f) == length;
    if (fclose(f) == 0 && written) (void)rename(draft, path);
    else (void)unlink(draft);
}
