/* Placing buffers in one workspace: offsets only, no memory. Best fit over the gaps that are free now. */
#ifndef ENGINE_GRAPH_SPACE_H
#define ENGINE_GRAPH_SPACE_H

#include <stdbool.h>
#include <stdint.h>

struct space_block { uint64_t offset, bytes; bool free; };
struct space { struct space_block *blocks; int count, room; uint64_t high; };

void space_begin(struct space *s);
/* False when the heap or the numbers are exhausted. Offsets are multiples of 64. */
bool space_take(struct space *s, uint64_t bytes, uint64_t *offset);
void space_give(struct space *s, uint64_t offset);
void space_end(struct space *s);

#endif
