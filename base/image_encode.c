/* Pictures to bytes. PNG is written by the library's simplified interface and its text chunks (iTXt, so that any UTF-8 goes) are put in behind the header, since that
 * interface has no word for them. JPEG's fatal errors jump; what must survive the jump is in `struct jpeg`, as in image.c. */
#include "base/image.h"

#include <limits.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>
#include <zlib.h>

#include "base/buf.h"
#include "base/checked.h"

enum { PNG_HEADER_BYTES = 8 + 25 };      /* signature and IHDR */

static void put_be32(struct buf *b, uint32_t v)
{
    const uint8_t bytes[4] = { (uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v };
    buf_append(b, bytes, 4);
}

static void put_text_chunk(struct buf *b, const struct image_text *t)
{
    static const char rest[5] = { 0, 0, 0, 0, 0 };      /* keyword's end, not compressed, method, no language, no translated keyword */
    const size_t start = b->length + 4;
    put_be32(b, (uint32_t)(strlen(t->key) + sizeof rest + strlen(t->value)));
    buf_puts(b, "iTXt");
    buf_puts(b, t->key);
    buf_append(b, rest, sizeof rest);
    buf_puts(b, t->value);
    if (!b->failed) put_be32(b, (uint32_t)crc32(0, (const Bytef *)b->data + start, (uInt)(b->length - start)));
}

static enum status encode_png(struct buf *out, const struct image *in, const struct image_text *texts, int text_count, struct err *err)
{
    png_image png = { .version = PNG_IMAGE_VERSION, .width = (png_uint_32)in->width, .height = (png_uint_32)in->height, .format = in->channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB };
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
    uint8_t *bytes = mem_alloc_array(size, 1);
    if (!bytes) return err_set(err, ST_NO_MEMORY, "PNG of %d x %d", in->width, in->height);
    if (!png_image_write_to_memory(&png, bytes, &size, 0, in->pixels, 0, NULL) || size < PNG_HEADER_BYTES) {
        free(bytes);
        return err_set(err, ST_INTERNAL, "a picture of %d x %d pixels could not be written as PNG", in->width, in->height);
    }
    buf_append(out, bytes, PNG_HEADER_BYTES);
    for (int i = 0; i < text_count; i++) put_text_chunk(out, &texts[i]);
    buf_append(out, bytes + PNG_HEADER_BYTES, size - PNG_HEADER_BYTES);
    free(bytes);
    return ST_OK;
}

struct jpeg { struct jpeg_error_mgr errors; jmp_buf jump; unsigned char *bytes; unsigned long size; };

static void jpeg_fatal(j_common_ptr c) { longjmp(((struct jpeg *)c->err)->jump, 1); }
static void jpeg_quiet(j_common_ptr c, int level) { (void)c, (void)level; }

static int jpeg_write(struct jpeg *j, struct jpeg_compress_struct *c, const struct image *in, int quality)
{
    if (setjmp(j->jump)) return 0;
    jpeg_mem_dest(c, &j->bytes, &j->size);
    c->image_width = (JDIMENSION)in->width;
    c->image_height = (JDIMENSION)in->height;
    c->input_components = in->channels;
    c->in_color_space = in->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(c);
    jpeg_set_quality(c, quality < 1 ? 1 : quality, TRUE);
    jpeg_start_compress(c, TRUE);
    while (c->next_scanline < c->image_height) {
        JSAMPROW row = in->pixels + (size_t)c->next_scanline * (size_t)in->width * (size_t)in->channels;
        jpeg_write_scanlines(c, &row, 1);
    }
    jpeg_finish_compress(c);
    return 1;
}

static enum status encode_jpeg(struct buf *out, const struct image *in, int quality, struct err *err)
{
    struct jpeg j = { .bytes = NULL };
    struct jpeg_compress_struct c;
    memset(&c, 0, sizeof c);
    c.err = jpeg_std_error(&j.errors);
    j.errors.error_exit = jpeg_fatal;
    j.errors.emit_message = jpeg_quiet;
    int ok = 0;
    if (!setjmp(j.jump)) {
        jpeg_create_compress(&c);
        ok = jpeg_write(&j, &c, in, quality);
    }
    jpeg_destroy_compress(&c);
    if (ok) buf_append(out, j.bytes, j.size);
    free(j.bytes);
    return ok ? ST_OK : err_set(err, ST_INTERNAL, "a picture of %d x %d pixels could not be written as JPEG", in->width, in->height);
}

static enum status encode_webp(struct buf *out, const struct image *in, int quality, struct err *err)
{
    uint8_t *bytes = NULL;
    size_t size = in->channels == 3 ? WebPEncodeRGB(in->pixels, in->width, in->height, in->width * 3, (float)quality, &bytes) : 0;
    if (size) buf_append(out, bytes, size);
    WebPFree(bytes);
    return size ? ST_OK : err_set(err, ST_INTERNAL, "a picture of %d x %d pixels could not be written as WebP", in->width, in->height);
}

enum status image_encode(struct buf *out, const struct image *in, enum image_format format, int quality, const struct image_text *texts, int text_count, struct err *err)
{
    enum status st = format == IMAGE_JPEG ? encode_jpeg(out, in, quality, err) : format == IMAGE_WEBP ? encode_webp(out, in, quality, err) : encode_png(out, in, texts, text_count, err);
    return st ? st : out->failed ? err_set(err, ST_NO_MEMORY, "picture of %d x %d", in->width, in->height) : ST_OK;
}
