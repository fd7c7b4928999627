#include "engine/graph/space.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

void space_begin(struct space *s) { *s = (struct space){ 0 }; }
void space_end(struct space *s) { free(s->blocks); *s = (struct space){ 0 }; }

static bool insert(struct space *s, int at, struct space_block b)
{
    if (s->count == s->room) {
        int room = s->room ? s->room * 2 : 64;
        struct space_block *p = mem_realloc_array(s->blocks, (uint64_t)room, sizeof *p);
        if (!p) return false;
        s->blocks = p;
        s->room = room;
    }
    memmove(&s->blocks[at + 1], &s->blocks[at], (size_t)(s->count - at) * sizeof b);
    s->blocks[at] = b;
    s->count++;
    return true;
}

bool space_take(struct space *s, uint64_t bytes, uint64_t *offset)
{
    int best = -1;
    if (bytes > (uint64_t)1 << 50) return false;
    bytes = bytes ? (bytes + 63) & ~(uint64_t)63 : 64;
    for (int i = 0; i < s->count; i++)
        if (s->blocks[i].free && s->blocks[i].bytes >= bytes && (best < 0 || s->blocks[i].bytes < s->blocks[best].bytes)) best = i;
    if (best >= 0) {
        struct space_block rest = { s->blocks[best].offset + bytes, s->blocks[best].bytes - bytes, true };
        if (rest.bytes && !insert(s, best + 1, rest)) return false;
        s->blocks[best].bytes = bytes;
        s->blocks[best].free = false;
        *offset = s->blocks[best].offset;
        return true;
    }
    if (s->high > (uint64_t)1 << 55) return false;
    if (s->count && s->blocks[s->count - 1].free) {        /* grow the last gap */
        struct space_block *last = &s->blocks[s->count - 1];
        s->high = last->offset + bytes;
        last->bytes = bytes;
        last->free = false;
        *offset = last->offset;
        return true;
    }
    if (!insert(s, s->count, (struct space_block){ s->high, bytes, false })) return false;
    *offset = s->high;
    s->high += bytes;
    return true;
}

static void merge(struct space *s, int i)
{
    if (i < 0 || i + 1 >= s->count || !s->blocks[i].free || !s->blocks[i + 1].free) return;
    s->blocks[i].bytes += s->blocks[i + 1].bytes;
    memmove(&s->blocks[i + 1], &s->blocks[i + 2], (size_t)(s->count - i - 2) * sizeof s->blocks[0]);
    s->count--;
}

void space_give(struct space *s, uint64_t offset)
{
    for (int i = 0; i < s->count; i++) {
        if (s->blocks[i].offset != offset || s->blocks[i].free) continue;
        s->blocks[i].free = true;
        merge(s, i);
        merge(s, i - 1);
        return;
    }
}
