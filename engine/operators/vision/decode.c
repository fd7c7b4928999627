/* ImageDecoder: the bytes of a JPEG, PNG or WebP file to [height, width, channels], within the limits on pictures from outside. */
#include <string.h>

#include "base/image.h"
#include "engine/operators/operators.h"

static enum status eval_decode(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    bool grey = node_text_is(c->node, "pixel_format", "Grayscale", false), swapped = node_text_is(c->node, "pixel_format", "BGR", false);
    struct image image = { 0 };
    if (x->dtype != DT_U8 || x->rank != 1) return call_error(c, err, ST_BAD_INPUT, "it takes a list of bytes");
    enum status st = image_decode(&image, x->data, (size_t)x->bytes, grey ? 1 : 3, NULL, err);
    if (st) return err_prefix(err, "node '%s'", c->node->name);
    st = call_make(c, 0, DT_U8, (int64_t[]){ image.height, image.width, image.channels }, 3, err);
    if (!st) memcpy(c->out[0]->data, image.pixels, (size_t)c->out[0]->bytes);
    image_free(&image);
    uint8_t *y = c->out[0]->data;
    for (uint64_t i = 0; swapped && !st && i + 2 < c->out[0]->bytes; i += 3) {
        uint8_t red = y[i];
        y[i] = y[i + 2];
        y[i + 2] = red;
    }
    return st;
}

const struct op ops_decode[] = {
    { "ImageDecoder", "", 20, 0, 1, 1, 1, 1, OP_MAKES, 0, NULL, eval_decode, NULL, NULL, NULL, NULL, NULL },
    { 0 }
};
