#include "engine/onnx/names.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

static uint32_t hash_text(const char *s)
{
    uint32_t h = 2166136261u;
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h ^ h >> 15;
}

bool names_begin(struct names *n, uint64_t count)
{
    uint64_t room = 64;
    while (room < count * 2) room *= 2;
    n->mask = (uint32_t)(room - 1);
    n->count = 0;
    n->name = mem_calloc_array(room, sizeof *n->name);
    n->value = mem_calloc_array(room, sizeof *n->value);
    return n->name && n->value;
}

void names_end(struct names *n)
{
    free(n->name);
    free(n->value);
}

/* The slot of a name: empty (name NULL) when it is new. */
static uint32_t names_slot(const struct names *n, const char *name)
{
    uint32_t i = hash_text(name) & n->mask;
    while (n->name[i] && strcmp(n->name[i], name)) i = (i + 1) & n->mask;
    return i;
}

int names_find(const struct names *n, const char *name)
{
    uint32_t i = names_slot(n, name);
    return n->name[i] ? n->value[i] : -1;
}

static bool grow(struct names *n)
{
    struct names wider;
    if (!names_begin(&wider, (uint64_t)n->mask + 1)) { names_end(&wider); return n->count < n->mask; }
    for (uint32_t k = 0; k <= n->mask; k++)
        if (n->name[k]) names_put(&wider, n->name[k], n->value[k]);
    names_end(n);
    *n = wider;
    return true;
}

bool names_put(struct names *n, const char *name, int value)
{
    if (n->count > n->mask / 2 && !grow(n)) return false;
    uint32_t i = names_slot(n, name);
    if (n->name[i]) return false;
    n->count++;
    n->name[i] = name;
    n->value[i] = value;
    return true;
}
