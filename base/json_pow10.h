/* Powers of ten as 126-bit numbers, for reading (json_number.c) and printing (json_write.c): entry e - POW10_FIRST times 2^(floor(log2(10^e)) - 125)
 * is 10^e, a little too large: by less than one unit of its last bit. */
#ifndef BASE_JSON_POW10_H
#define BASE_JSON_POW10_H

#include <stdint.h>

enum { POW10_FIRST = -292, POW10_LAST = 324 };
struct json_pow10 { uint64_t high, low; };
extern const struct json_pow10 json_pow10[POW10_LAST - POW10_FIRST + 1];

/* floor(log2(10^e)), |e| <= 330 */
static inline int pow10_floor_log2(int e) { return (e * 1741647) >> 19; }

#endif
