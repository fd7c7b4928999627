/* Pictures from outside. One decoder per format turns bytes into rows of grey, grey + alpha, RGB or RGBA (or CMYK, of JPEG), and one tail makes of them
 * what the caller asked for: alpha onto black, grey or RGB, and the rotation that a camera noted.
 *
 * The libraries report a fatal error by a jump. Everything that must survive it is in `struct decode`, which the caller of the jumping
 * function owns; that function holds no local that changes after setjmp. Dimensions are compared with the limits as soon as the header is
 * read. A progressive JPEG may carry any number of scans of the whole picture: they are counted (SCANS_MAX). */
#include "base/image.h"

#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>
#include <webp/decode.h>

#include "base/checked.h"

enum { SCANS_MAX = 100, RESIZE_BYTES_MAX = 256 << 20, PASS_BYTES_PLENTY = 64 << 20, FIXED_BITS = 22 };
static const uint64_t PIXELS_MAX = 16u << 20, BYTES_MAX = 20u << 20;

struct decode {
    const uint8_t *bytes;
    size_t length, at;                   /* at: read so far (PNG) */
    uint64_t pixels_max;
    int width, height, channels;         /* channels as decoded: 1 to 4 */
    int cmyk, inverted, orientation;
    uint8_t *pixels;
    int too_large, no_memory;            /* why the jump was made, when it was not the file */
    jmp_buf jump;
};

enum image_format image_sniff(const uint8_t *b, size_t n)
{
    if (n >= 3 && b[0] == 0xff && b[1] == 0xd8 && b[2] == 0xff) return IMAGE_JPEG;
    if (n >= 8 && !memcmp(b, "\x89PNG\r\n\x1a\n", 8)) return IMAGE_PNG;
    if (n >= 12 && !memcmp(b, "RIFF", 4) && !memcmp(b + 8, "WEBP", 4)) return IMAGE_WEBP;
    return IMAGE_UNKNOWN;
}

void image_free(struct image *i)
{
    free(i->pixels);
    *i = (struct image){ 0 };
}

/* Checks the size of the header and makes room; false (with the reason noted) when there is none. */
static int decode_make_room(struct decode *d, uint64_t width, uint64_t height, int channels)
{
    uint64_t pixels, bytes;
    if (!size_mul(width, height, &pixels) || pixels > d->pixels_max || width > INT_MAX || height > INT_MAX) d->too_large = 1;
    else if (!size_mul(pixels, (uint64_t)channels, &bytes) || !(d->pixels = mem_calloc_array(bytes, 1))) d->no_memory = 1;
    d->width = d->too_large ? 0 : (int)width, d->height = d->too_large ? 0 : (int)height, d->channels = channels;
    return d->pixels != NULL;
}

/* ---- JPEG ---- */

struct jpeg_errors { struct jpeg_error_mgr base; struct decode *d; };

static void jpeg_fatal(j_common_ptr c)
{
    struct jpeg_errors *e = (struct jpeg_errors *)c->err;
    longjmp(e->d->jump, 1);
}

/* The library fills in grey where data end early; that is a broken file to us. */
static void jpeg_message(j_common_ptr c, int level)
{
    if (level < 0 && (c->err->msg_code == JWRN_JPEG_EOF || c->err->msg_code == JWRN_HIT_MARKER)) jpeg_fatal(c);
}

static void jpeg_silent(j_common_ptr c) { (void)c; }

static void jpeg_progress(j_common_ptr c)
{
    if (c->is_decompressor && ((j_decompress_ptr)c)->input_scan_number > SCANS_MAX) jpeg_fatal(c);
}

static unsigned exif_number(const uint8_t *p, int bytes, int little)
{
    unsigned v = 0;
    for (int i = 0; i < bytes; i++) v |= (unsigned)p[i] << 8 * (little ? i : bytes - 1 - i);
    return v;
}

/* The tag Orientation (0x0112, SHORT) of the first directory of an APP1 Exif block; 1 when there is none. */
static int exif_orientation(const uint8_t *p, size_t n)
{
    if (n < 14 || memcmp(p, "Exif\0\0", 6)) return 1;
    p += 6, n -= 6;
    const int little = p[0] == 'I';
    if (memcmp(p, little ? "II\x2a\0" : "MM\0\x2a", 4)) return 1;
    size_t at = exif_number(p + 4, 4, little);
    if (!range_inside(at, 2, n)) return 1;
    const unsigned entries = exif_number(p + at, 2, little);
    at += 2;
    for (unsigned i = 0; i < entries && range_inside(at, 12, n); i++, at += 12)
        if (exif_number(p + at, 2, little) == 0x0112 && exif_number(p + at + 2, 2, little) == 3) {
            const unsigned v = exif_number(p + at + 8, 2, little);
            return v >= 1 && v <= 8 ? (int)v : 1;
        }
    return 1;
}

static int jpeg_read(struct decode *d, struct jpeg_decompress_struct *c)
{
    if (setjmp(d->jump)) return 0;
    jpeg_mem_src(c, d->bytes, d->length);
    jpeg_save_markers(c, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(c, TRUE);
    for (jpeg_saved_marker_ptr m = c->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && d->orientation <= 1) d->orientation = exif_orientation(m->data, m->data_length);
    d->cmyk = c->num_components == 4;
    d->inverted = d->cmyk && c->saw_Adobe_marker;
    c->out_color_space = d->cmyk ? JCS_CMYK : c->num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    if (!decode_make_room(d, c->image_width, c->image_height, d->cmyk ? 4 : c->num_components == 1 ? 1 : 3)) return 0;
    jpeg_start_decompress(c);
    while (c->output_scanline < c->output_height) {
        JSAMPROW row = d->pixels + (size_t)c->output_scanline * (size_t)d->width * (size_t)d->channels;
        jpeg_read_scanlines(c, &row, 1);
    }
    jpeg_finish_decompress(c);
    return 1;
}

static int decode_jpeg(struct decode *d)
{
    struct jpeg_decompress_struct c;
    struct jpeg_errors errors = { .d = d };
    struct jpeg_progress_mgr progress = { .progress_monitor = jpeg_progress };
    memset(&c, 0, sizeof c);
    c.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = jpeg_fatal;
    errors.base.emit_message = jpeg_message;
    errors.base.output_message = jpeg_silent;
    if (setjmp(d->jump)) return 0;
    jpeg_create_decompress(&c);
    c.progress = &progress;
    const int ok = jpeg_read(d, &c);
    jpeg_destroy_decompress(&c);
    return ok;
}

/* ---- PNG ---- */

static void png_fatal(png_structp png, png_const_charp message)
{
    struct decode *d = png_get_error_ptr(png);
    (void)message;
    longjmp(d->jump, 1);
}

static void png_quiet(png_structp png, png_const_charp message) { (void)png, (void)message; }

static void png_take(png_structp png, png_bytep out, size_t n)
{
    struct decode *d = png_get_io_ptr(png);
    if (!range_inside(d->at, n, d->length)) png_error(png, "end of data");
    memcpy(out, d->bytes + d->at, n);
    d->at += n;
}

static int png_read(struct decode *d, png_structp png, png_infop info)
{
    if (setjmp(d->jump)) return 0;
    png_set_read_fn(png, d, png_take);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);      /* ancillary chunks but tRNS are passed over by length */
    png_set_user_limits(png, INT_MAX, INT_MAX);                              /* ours follow: the library's error would not tell why */
    png_read_info(png, info);
    const int type = png_get_color_type(png, info), depth = png_get_bit_depth(png, info), transparent = png_get_valid(png, info, PNG_INFO_tRNS) != 0;
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (transparent) png_set_tRNS_to_alpha(png);
    if (depth == 16) png_set_scale_16(png);
    const int passes = png_set_interlace_handling(png);
    const int colours = type == PNG_COLOR_TYPE_GRAY || type == PNG_COLOR_TYPE_GRAY_ALPHA ? 1 : 3, alpha = transparent || (type & PNG_COLOR_MASK_ALPHA);
    if (!decode_make_room(d, png_get_image_width(png, info), png_get_image_height(png, info), colours + (alpha ? 1 : 0))) return 0;
    png_read_update_info(png, info);
    const size_t row = (size_t)d->width * (size_t)d->channels;
    if (png_get_rowbytes(png, info) != row) png_error(png, "row size");
    for (int pass = 0; pass < passes; pass++)
        for (int y = 0; y < d->height; y++) png_read_row(png, d->pixels + (size_t)y * row, NULL);
    png_read_end(png, NULL);
    return 1;
}

static int decode_png(struct decode *d)
{
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, d, png_fatal, png_quiet);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    int ok = 0;
    if (info) ok = png_read(d, png, info);
    else d->no_memory = 1;
    png_destroy_read_struct(&png, &info, NULL);
    return ok;
}

/* ---- WebP ---- */

static int decode_webp(struct decode *d)
{
    WebPBitstreamFeatures f;
    if (WebPGetFeatures(d->bytes, d->length, &f) != VP8_STATUS_OK || f.has_animation || f.width < 1 || f.height < 1) return 0;
    if (!decode_make_room(d, (uint64_t)f.width, (uint64_t)f.height, f.has_alpha ? 4 : 3)) return 0;
    const size_t row = (size_t)d->width * (size_t)d->channels, bytes = row * (size_t)d->height;
    if (row > INT_MAX) return 0;
    uint8_t *done = f.has_alpha ? WebPDecodeRGBAInto(d->bytes, d->length, d->pixels, bytes, (int)row) : WebPDecodeRGBInto(d->bytes, d->length, d->pixels, bytes, (int)row);
    return done != NULL;
}

/* ---- what all have in common ---- */

static uint8_t over_black(uint8_t v, uint8_t alpha) { return (uint8_t)((v * alpha + 127) / 255); }

/* One decoded pixel as RGB. */
static void pixel_rgb(const struct decode *d, const uint8_t *p, uint8_t rgb[3])
{
    if (d->cmyk) {
        for (int i = 0; i < 3; i++) rgb[i] = d->inverted ? over_black(p[i], p[3]) : over_black((uint8_t)(255 - p[i]), (uint8_t)(255 - p[3]));
        return;
    }
    const int grey = d->channels < 3, has_alpha = d->channels == 2 || d->channels == 4;
    for (int i = 0; i < 3; i++) rgb[i] = has_alpha ? over_black(p[grey ? 0 : i], p[d->channels - 1]) : p[grey ? 0 : i];
}

/* The decoded rows as `channels` (1 or 3) and turned upright; with `clear` how transparent each pixel is instead. */
static enum status finish(struct image *out, const struct decode *d, int channels, int clear, struct err *err)
{
    const int turned = d->orientation >= 5;
    struct image r = { .width = turned ? d->height : d->width, .height = turned ? d->width : d->height, .channels = channels };
    r.pixels = mem_alloc_array((uint64_t)r.width * (uint64_t)r.height, (uint64_t)channels);
    if (!r.pixels) return err_set(err, ST_NO_MEMORY, "picture of %d x %d", r.width, r.height);
    uint8_t *to = r.pixels;
    for (int y = 0; y < r.height; y++)
        for (int x = 0; x < r.width; x++, to += channels) {
            int sx = turned ? y : x, sy = turned ? x : y;
            switch (d->orientation) {
            case 2: sx = d->width - 1 - sx; break;
            case 3: sx = d->width - 1 - sx, sy = d->height - 1 - sy; break;
            case 4: sy = d->height - 1 - sy; break;
            case 6: sy = d->height - 1 - sy; break;
            case 7: sx = d->width - 1 - sx, sy = d->height - 1 - sy; break;
            case 8: sx = d->width - 1 - sx; break;
            default: break;
            }
            uint8_t rgb[3];
            const uint8_t *from = d->pixels + ((size_t)sy * (size_t)d->width + (size_t)sx) * (size_t)d->channels;
            if (clear) {
                *to = !d->cmyk && (d->channels == 2 || d->channels == 4) ? (uint8_t)(255 - from[d->channels - 1]) : 0;
                continue;
            }
            pixel_rgb(d, from, rgb);
            if (channels == 3) memcpy(to, rgb, 3);
            else if (d->channels < 3) *to = rgb[0];
            else *to = (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 32768u) >> 16);      /* BT.601 luma */
        }
    *out = r;
    return ST_OK;
}

static enum status decode(struct image *out, const uint8_t *bytes, size_t length, int channels, int clear, const struct image_limits *limits, struct err *err)
{
    static int (*const decoders[])(struct decode *) = { [IMAGE_JPEG] = decode_jpeg, [IMAGE_PNG] = decode_png, [IMAGE_WEBP] = decode_webp };
    static const char *const names[] = { [IMAGE_JPEG] = "JPEG", [IMAGE_PNG] = "PNG", [IMAGE_WEBP] = "WebP" };
    const uint64_t bytes_max = limits && limits->bytes_max ? limits->bytes_max : BYTES_MAX;
    struct decode d = { .bytes = bytes, .length = length, .pixels_max = limits && limits->pixels_max ? limits->pixels_max : PIXELS_MAX, .orientation = 1 };
    if (length > bytes_max) return err_set(err, ST_TOO_LARGE, "a picture may have at most %llu bytes; this one has %zu", (unsigned long long)bytes_max, length);
    const enum image_format format = image_sniff(bytes, length);
    if (format == IMAGE_UNKNOWN) return err_set(err, ST_BAD_INPUT, "the bytes are not a picture in JPEG, PNG or WebP format");
    enum status st = ST_OK;
    if (!decoders[format](&d)) {
        if (d.too_large) st = err_set(err, ST_TOO_LARGE, "a picture may have at most %llu pixels; this %s has more", (unsigned long long)d.pixels_max, names[format]);
        else if (d.no_memory) st = err_set(err, ST_NO_MEMORY, "no memory for the pixels of the %s", names[format]);
        else st = err_set(err, ST_BAD_INPUT, "the %s is damaged, cut short or of a kind that is not supported", names[format]);
    }
    if (!st) st = finish(out, &d, channels ? channels : d.channels < 3 ? 1 : 3, clear, err);
    free(d.pixels);
    return st;
}

enum status image_decode(struct image *out, const uint8_t *bytes, size_t length, int channels, const struct image_limits *limits, struct err *err)
{
    return decode(out, bytes, length, channels, 0, limits, err);
}

enum status image_decode_clear(struct image *out, const uint8_t *bytes, size_t length, const struct image_limits *limits, struct err *err)
{
    return decode(out, bytes, length, 1, 1, limits, err);
}

/* ---- resampling ---- */

static double filter_weight(enum image_filter filter, double x)
{
    x = fabs(x);
    if (filter == IMAGE_BILINEAR) return x < 1 ? 1 - x : 0;
    const double a = -0.5;               /* Keys' cubic */
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/* For each output position the first input position, how many, and their weights in fixed point. */
struct taps { int *first, *count; int32_t *weight; int most; };

static void taps_free(struct taps *t)
{
    free(t->first);
    free(t->count);
    free(t->weight);
}

static enum status taps_make(struct taps *t, int in, int out, enum image_filter filter, struct err *err)
{
    const double scale = (double)in / out, widened = scale > 1 ? scale : 1, support = (filter == IMAGE_BICUBIC ? 2.0 : 1.0) * widened;
    *t = (struct taps){ .most = (int)ceil(support) * 2 + 1 };
    uint64_t cells;
    double *exact = mem_alloc_array((uint64_t)t->most, sizeof *exact);
    if (size_mul((uint64_t)out, (uint64_t)t->most, &cells) && cells <= RESIZE_BYTES_MAX / sizeof *t->weight) {
        t->first = mem_alloc_array((uint64_t)out, sizeof *t->first);
        t->count = mem_alloc_array((uint64_t)out, sizeof *t->count);
        t->weight = mem_alloc_array(cells, sizeof *t->weight);
    }
    if (!exact || !t->first || !t->count || !t->weight) {
        free(exact);
        taps_free(t);
        return err_set(err, ST_NO_MEMORY, "no memory to resize %d positions to %d", in, out);
    }
    for (int i = 0; i < out; i++) {
        const double centre = (i + 0.5) * scale;
        int from = (int)(centre - support + 0.5), to = (int)(centre + support + 0.5);
        if (from < 0) from = 0;
        if (to > in) to = in;
        double sum = 0;
        for (int k = 0; k < to - from; k++) sum += exact[k] = filter_weight(filter, (k + from - centre + 0.5) / widened);
        for (int k = 0; k < to - from; k++) t->weight[(size_t)i * (size_t)t->most + (size_t)k] = (int32_t)lround(exact[k] / (sum != 0 ? sum : 1) * (1 << FIXED_BITS));
        t->first[i] = from;
        t->count[i] = to - from;
    }
    free(exact);
    return ST_OK;
}

static uint8_t to_byte(int64_t sum)
{
    sum >>= FIXED_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void resize_across(struct image *to, const struct image *from, const struct taps *t)
{
    const int channels = from->channels;
    for (int y = 0; y < to->height; y++) {
        const uint8_t *row = from->pixels + (size_t)y * (size_t)from->width * (size_t)channels;
        uint8_t *out = to->pixels + (size_t)y * (size_t)to->width * (size_t)channels;
        for (int x = 0; x < to->width; x++) {
            const int32_t *weight = t->weight + (size_t)x * (size_t)t->most;
            const uint8_t *in = row + (size_t)t->first[x] * (size_t)channels;
            for (int c = 0; c < channels; c++, out++) {
                int64_t sum = 1 << (FIXED_BITS - 1);
                for (int k = 0; k < t->count[x]; k++) sum += (int64_t)in[(size_t)k * (size_t)channels + (size_t)c] * weight[k];
                *out = to_byte(sum);
            }
        }
    }
}

static void resize_down(struct image *to, const struct image *from, const struct taps *t)
{
    const size_t row = (size_t)from->width * (size_t)from->channels;
    for (int y = 0; y < to->height; y++) {
        const int32_t *weight = t->weight + (size_t)y * (size_t)t->most;
        const uint8_t *in = from->pixels + (size_t)t->first[y] * row;
        for (size_t x = 0; x < row; x++) {
            int64_t sum = 1 << (FIXED_BITS - 1);
            for (int k = 0; k < t->count[y]; k++) sum += (int64_t)in[(size_t)k * row + x] * weight[k];
            to->pixels[(size_t)y * row + x] = to_byte(sum);
        }
    }
}

static enum status image_new(struct image *out, int width, int height, int channels, struct err *err)
{
    uint64_t bytes;
    if (width < 1 || height < 1) return err_set(err, ST_BAD_INPUT, "a picture of %d x %d pixels has no pixel", width, height);
    if (!size_mul((uint64_t)width * (uint64_t)height, (uint64_t)channels, &bytes) || bytes > RESIZE_BYTES_MAX)
        return err_set(err, ST_TOO_LARGE, "a picture of %d x %d pixels is too large", width, height);
    *out = (struct image){ .width = width, .height = height, .channels = channels, .pixels = mem_calloc_array(bytes, 1) };
    return out->pixels ? ST_OK : err_set(err, ST_NO_MEMORY, "picture of %d x %d", width, height);
}

/* One direction; *out is a new picture. */
static enum status resize_pass(struct image *out, const struct image *in, int width, int height, enum image_filter filter, struct err *err)
{
    struct taps t;
    const int across = width != in->width;
    enum status st = image_new(out, width, height, in->channels, err);
    if (st) return st;
    st = taps_make(&t, across ? in->width : in->height, across ? width : height, filter, err);
    if (st) {
        image_free(out);
        return st;
    }
    (across ? resize_across : resize_down)(out, in, &t);
    taps_free(&t);
    return ST_OK;
}

static enum status resize_nearest(struct image *out, const struct image *in, int width, int height, struct err *err)
{
    enum status st = image_new(out, width, height, in->channels, err);
    if (st) return st;
    const size_t channels = (size_t)in->channels;
    for (int y = 0; y < height; y++) {
        const uint8_t *row = in->pixels + (size_t)((2 * (int64_t)y + 1) * in->height / (2 * (int64_t)height)) * (size_t)in->width * channels;
        for (int x = 0; x < width; x++)
            memcpy(out->pixels + ((size_t)y * (size_t)width + (size_t)x) * channels, row + (size_t)((2 * (int64_t)x + 1) * in->width / (2 * (int64_t)width)) * channels, channels);
    }
    return ST_OK;
}

enum status image_resize(struct image *out, const struct image *in, int width, int height, enum image_filter filter, struct err *err)
{
    if (width < 1 || height < 1) return err_set(err, ST_BAD_INPUT, "a picture cannot be resized to %d x %d pixels", width, height);
    if (filter == IMAGE_NEAREST) return resize_nearest(out, in, width, height, err);
    if (width == in->width && height == in->height) return image_crop(out, in, 0, 0, width, height, err);
    if (width == in->width || height == in->height) return resize_pass(out, in, width, height, filter, err);
    /* Across first, unless that would blow up a tall thin picture; each pass rounds to bytes. */
    const uint64_t across = (uint64_t)width * (uint64_t)in->height, down = (uint64_t)in->width * (uint64_t)height;
    const int down_first = across > PASS_BYTES_PLENTY / 3 && down < across;
    struct image half;
    enum status st = resize_pass(&half, in, down_first ? in->width : width, down_first ? height : in->height, filter, err);
    if (st) return st;
    st = resize_pass(out, &half, width, height, filter, err);
    image_free(&half);
    return st;
}

enum status image_crop(struct image *out, const struct image *in, int x, int y, int width, int height, struct err *err)
{
    enum status st = image_new(out, width, height, in->channels, err);
    if (st) return st;
    const int64_t left = x < 0 ? -(int64_t)x : 0, right = (int64_t)in->width - x < width ? (int64_t)in->width - x : width;
    for (int64_t row = 0; row < height; row++) {
        const int64_t from = row + y;
        if (from < 0 || from >= in->height || right <= left) continue;
        memcpy(out->pixels + (size_t)((row * width + left) * in->channels), in->pixels + (size_t)((from * in->width + x + left) * in->channels), (size_t)((right - left) * in->channels));
    }
    return ST_OK;
}
