/* Time: monotonic for durations and deadlines, wall only for what people read. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);         /* CLOCK_MONOTONIC, nanoseconds */
uint64_t clock_wall_ms(void);    /* milliseconds since 1970 */
/* "2026-11-21T01:02:03.456Z"; out holds at least 25 bytes. */
void     clock_iso8601(uint64_t wall_ms, char *out);

#endif
