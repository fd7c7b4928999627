#include "base/clock.h"

#include <stdio.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

void clock_iso8601(uint64_t wall_ms, char *out)
{
    /* Days to a date by the civil calendar's 400-year cycle: gmtime_r takes a lock that the access log would meet on every request. */
    uint64_t seconds = wall_ms / 1000, day = seconds / 86400 + 719468, of_day = seconds % 86400;
    uint64_t era = day / 146097, of_era = day % 146097;
    uint64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    uint64_t of_year = of_era - (365 * year + year / 4 - year / 100), shifted = (5 * of_year + 2) / 153;
    unsigned mday = (unsigned)(of_year - (153 * shifted + 2) / 5 + 1), month = (unsigned)(shifted < 10 ? shifted + 3 : shifted - 9);
    unsigned y = (unsigned)((year + era * 400 + (month <= 2)) % 10000);
    const unsigned digits[] = { y / 1000, y / 100 % 10, y / 10 % 10, y % 10, month / 10, month % 10, mday / 10, mday % 10,
                                (unsigned)(of_day / 36000), (unsigned)(of_day / 3600 % 10), (unsigned)(of_day % 3600 / 600), (unsigned)(of_day / 60 % 10),
                                (unsigned)(of_day % 60 / 10), (unsigned)(of_day % 10),
                                (unsigned)(wall_ms % 1000 / 100), (unsigned)(wall_ms % 100 / 10), (unsigned)(wall_ms % 10) };
    const char *form = "####-##-##T##:##:##.###Z";
    for (int i = 0, d = 0; i < 25; i++) out[i] = form[i] == '#' ? (char)('0' + digits[d++]) : form[i];
}
