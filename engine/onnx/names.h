/* Names of the file to value numbers, by hash. The names themselves are borrowed. */
#ifndef ENGINE_ONNX_NAMES_H
#define ENGINE_ONNX_NAMES_H

#include <stdbool.h>
#include <stdint.h>

struct names { const char **name; int *value; uint32_t mask, count; };

bool names_begin(struct names *n, uint64_t count);               /* room for `count` names, growing beyond; false: no memory */
void names_end(struct names *n);
int  names_find(const struct names *n, const char *name);         /* -1: not there */
bool names_put(struct names *n, const char *name, int value);     /* false: it is there already (or there is no memory to grow) */

#endif
