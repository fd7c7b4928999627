/* Hexadecimal, lower case. */
#ifndef BASE_HEX_H
#define BASE_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exactly 2 * n digits; else false, and `out` is as it was. n is at most 64. */
bool hex_read(const char *hex, size_t length, uint8_t *out, size_t n);
/* 2 * n digits, NUL-terminated. */
void hex_write(const uint8_t *bytes, size_t n, char *out);

#endif
