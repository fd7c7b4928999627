/* What was kept of texts: found by its very tokens, within its bounds, the least used gone first. */
#include <stdlib.h>

#include "engine/diffusion/text_cache.h"
#include "tests/test.h"

enum { LENGTH = 7, WIDTH = 5 };

static void add(struct text_cache *c, int32_t name, int encoder, bool pooled)
{
    int32_t ids[LENGTH];
    float states[LENGTH * WIDTH], last[WIDTH];
    for (int i = 0; i < LENGTH; i++) ids[i] = name + i;
    for (int i = 0; i < LENGTH * WIDTH; i++) states[i] = (float)(name * 100 + i);
    for (int i = 0; i < WIDTH; i++) last[i] = (float)(-name - i);
    text_cache_add(c, encoder, ids, LENGTH, 3, states, WIDTH, pooled ? last : NULL, WIDTH);
}

static const struct text_entry *find(struct text_cache *c, int32_t name, int encoder, int end)
{
    int32_t ids[LENGTH];
    for (int i = 0; i < LENGTH; i++) ids[i] = name + i;
    return text_cache_find(c, encoder, ids, LENGTH, end);
}

TEST(a_text_is_found_by_encoder_tokens_and_end)
{
    static struct text_cache c;
    add(&c, 1, 0, true);
    add(&c, 1, 1, false);
    const struct text_entry *e = find(&c, 1, 0, 3);
    REQUIRE(e && e->pooled);
    CHECK(e->states[LENGTH * WIDTH - 1] == 100 + LENGTH * WIDTH - 1 && e->pooled[WIDTH - 1] == -1 - (WIDTH - 1));
    e = find(&c, 1, 1, 3);
    CHECK(e && !e->pooled);
    CHECK(!find(&c, 1, 2, 3) && !find(&c, 1, 0, 4) && !find(&c, 2, 0, 3));
    CHECK_INT(c.hits, 2);
    text_cache_close(&c);
    CHECK_INT(c.bytes, 0);
}

TEST(the_least_used_goes_first)
{
    static struct text_cache c;
    for (int i = 0; i < TEXT_CACHE_ENTRIES; i++) add(&c, i * 1000, 0, true);
    CHECK(find(&c, 0, 0, 3) != NULL);
    add(&c, -1000, 0, true);
    CHECK(find(&c, 0, 0, 3) && find(&c, -1000, 0, 3) && !find(&c, 1000, 0, 3) && find(&c, 2000, 0, 3));
    text_cache_close(&c);
}

TEST(its_bytes_are_bounded)
{
    static struct text_cache c;
    const int width = (TEXT_CACHE_MIB << 20) / (int)sizeof(float) / LENGTH;
    float *states = calloc((size_t)LENGTH * (size_t)width, sizeof *states);
    int32_t ids[LENGTH] = { 1, 2, 3 };
    REQUIRE(states != NULL);
    text_cache_add(&c, 0, ids, LENGTH, 1, states, width, NULL, 0);            /* with its ids it is a little too large */
    CHECK(!text_cache_find(&c, 0, ids, LENGTH, 1));
    for (int i = 0; i < 5; i++) {
        ids[0] = i;
        text_cache_add(&c, 0, ids, LENGTH, 1, states, width / 2 - LENGTH, NULL, 0);
        CHECK(c.bytes <= (uint64_t)TEXT_CACHE_MIB << 20 && text_cache_find(&c, 0, ids, LENGTH, 1));
    }
    ids[0] = 3;
    CHECK(text_cache_find(&c, 0, ids, LENGTH, 1) != NULL);                    /* two have room */
    ids[0] = 2;
    CHECK(!text_cache_find(&c, 0, ids, LENGTH, 1));
    free(states);
    text_cache_close(&c);
}
