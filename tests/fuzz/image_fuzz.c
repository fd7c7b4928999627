/* Any bytes: a picture or an error, never more. What decodes is resized and cropped, too. The limits are low so that a run is short. */
#include <stdlib.h>

#include "base/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = { 0 };
    struct image i = { 0 }, r = { 0 };
    const struct image_limits limits = { .pixels_max = 1 << 20, .bytes_max = 1 << 20 };
    if (image_decode(&i, data, size, size % 3 == 0 ? 0 : size % 3 == 1 ? 1 : 3, &limits, &err)) return err.text[0] ? 0 : (abort(), 0);
    if (image_resize(&r, &i, 1 + (int)(size % 50), 1 + (int)(size % 37), (enum image_filter)(size % 3), &err) == ST_OK) image_free(&r);
    if (image_crop(&r, &i, (int)(size % 90) - 40, (int)(size % 70) - 30, 33, 21, &err) == ST_OK) image_free(&r);
    image_free(&i);
    return 0;
}
