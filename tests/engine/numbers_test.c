/* Loads and stores of every dense type: what was stored is loaded, packed types touch nobody else's bits, small floats round as their formats say. */
#include <math.h>
#include <string.h>

#include "engine/operators/minifloat.h"
#include "engine/operators/numbers.h"
#include "tests/test.h"

static const enum dtype minifloats[] = { DT_F8E4M3FN, DT_F8E4M3FNUZ, DT_F8E5M2, DT_F8E5M2FNUZ, DT_F4E2M1, DT_F8E8M0 };

TEST(every_small_float_survives_the_way_through_double)
{
    for (int f = 0; f < 6; f++)
        for (unsigned bits = 0; bits < 1u << dtype_bits(minifloats[f]); bits++) {
            double v = minifloat_decode(minifloats[f], bits);
            if (v == v) CHECK_INT(minifloat_encode(minifloats[f], v, false, MINIFLOAT_UP), bits);
            else CHECK(minifloat_decode(minifloats[f], minifloat_encode(minifloats[f], v, true, MINIFLOAT_UP)) != v);
        }
}

TEST(small_floats_round_to_even_and_saturate)
{
    CHECK(minifloat_decode(DT_F8E4M3FN, minifloat_encode(DT_F8E4M3FN, 1e6, true, MINIFLOAT_UP)) == 448);
    CHECK_INT(minifloat_encode(DT_F8E4M3FN, 1e6, false, MINIFLOAT_UP), 0x7f);
    CHECK_INT(minifloat_encode(DT_F8E5M2, -1e9, false, MINIFLOAT_UP), 0xfc);
    CHECK(minifloat_decode(DT_F8E4M3FN, minifloat_encode(DT_F8E4M3FN, 1.0625, true, MINIFLOAT_UP)) == 1);            /* halfway: to the even neighbour */
    CHECK(minifloat_decode(DT_F8E4M3FN, minifloat_encode(DT_F8E4M3FN, 1.1875, true, MINIFLOAT_UP)) == 1.25);
    CHECK(minifloat_decode(DT_F4E2M1, minifloat_encode(DT_F4E2M1, 100, true, MINIFLOAT_UP)) == 6);
    CHECK(minifloat_decode(DT_F8E8M0, minifloat_encode(DT_F8E8M0, 3, true, MINIFLOAT_UP)) == 4);
    CHECK(minifloat_decode(DT_F8E8M0, minifloat_encode(DT_F8E8M0, 3, true, MINIFLOAT_DOWN)) == 2);
}

TEST(packed_integers_keep_to_their_bits)
{
    static const enum dtype types[] = { DT_U4, DT_I4, DT_U2, DT_I2 };
    for (int t = 0; t < 4; t++) {
        uint8_t data[16], before[16];
        double low, high;
        dtype_range(types[t], &low, &high);
        memset(data, 0xa5, sizeof data);
        memcpy(before, data, sizeof data);
        for (uint64_t at = 0; at < 7; at++)
            for (int64_t v = (int64_t)low; v <= (int64_t)high; v++) {
                int64_t back, neighbour, same;
                int_load(&neighbour, types[t], data, at + 1, 1, 1);
                int_store(data, types[t], at, &v, 1);
                int_load(&back, types[t], data, at, 1, 1);
                int_load(&same, types[t], data, at + 1, 1, 1);
                CHECK_INT(back, v);
                CHECK_INT(same, neighbour);
            }
        CHECK(memcmp(data + 8, before + 8, 8) == 0);
    }
}

TEST(reals_become_integers_without_undefined_steps)
{
    static const double numbers[] = { 1e300, -1e300, 2.9, -2.9, 0 };
    int64_t whole[5];
    uint64_t wide[5];
    real_store(whole, DT_I64, 0, numbers, 5);
    real_store(wide, DT_U64, 0, numbers, 5);
    CHECK(whole[0] == INT64_MAX && whole[1] == INT64_MIN);
    CHECK_INT(whole[2], 2);
    CHECK_INT(whole[3], -2);
    CHECK(wide[0] == UINT64_MAX && wide[1] == 0 && wide[2] == 2);
}
