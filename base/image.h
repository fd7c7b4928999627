/* Pictures from outside: JPEG (libjpeg-turbo), PNG (libpng) and WebP (libwebp), decoded to 8-bit RGB or grey within limits (R18), and
 * resized, and encoded again. The only files that name those libraries are image.c and image_encode.c; jump buffers stay inside them. */
#ifndef BASE_IMAGE_H
#define BASE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct image {
    int      width, height;     /* pixels */
    int      channels;          /* 1 (grey) or 3 (RGB) */
    uint8_t *pixels;            /* [height, width, channels], rows without padding; free() it */
};

struct image_limits { uint64_t pixels_max; uint64_t bytes_max; };   /* 0: 16 Mpx, 20 MiB */

enum image_format { IMAGE_UNKNOWN, IMAGE_JPEG, IMAGE_PNG, IMAGE_WEBP };
enum image_format image_sniff(const uint8_t *bytes, size_t length);

/* Decodes to `channels` (1 or 3; 0: what the file has, alpha dropped onto black). Dimensions are read and checked before any pixel is
 * allocated. A truncated or hostile file is ST_BAD_INPUT with a sentence; too large is ST_TOO_LARGE. CMYK JPEG and 16-bit PNG become 8-bit RGB. EXIF orientation is applied to JPEG. */
enum status image_decode(struct image *out, const uint8_t *bytes, size_t length, int channels, const struct image_limits *limits, struct err *err);

enum image_filter { IMAGE_NEAREST, IMAGE_BILINEAR, IMAGE_BICUBIC };
/* Separable resampling with the filter's support widened when it shrinks (antialiased), pixel centres at +0.5, as PIL's resize does;
 * results equal PIL's to +-1. */
enum status image_resize(struct image *out, const struct image *in, int width, int height, enum image_filter filter, struct err *err);
/* Cuts [y, y+height) x [x, x+width); parts outside are zero. */
enum status image_crop(struct image *out, const struct image *in, int x, int y, int width, int height, struct err *err);
/* Where it is transparent, as a grey picture: 255 where nothing is seen, 0 where the file is opaque (everywhere, when it has no alpha). Limits and errors as above. */
enum status image_decode_clear(struct image *out, const uint8_t *bytes, size_t length, const struct image_limits *limits, struct err *err);

struct image_text { const char *key, *value; };      /* UTF-8; the key at most 79 bytes of Latin letters */
/* Appends the picture (8 bits a channel) in one of the three formats. quality 0..100 of JPEG and WebP; the texts go into PNG alone. ST_NO_MEMORY, ST_INTERNAL. */
enum status image_encode(struct buf *out, const struct image *in, enum image_format format, int quality, const struct image_text *texts, int text_count, struct err *err);
void        image_free(struct image *i);

#endif
