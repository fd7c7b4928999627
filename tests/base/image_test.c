#include "base/image.h"

#include <stdlib.h>

#include "tests/base/image_vectors.h"
#include "tests/test.h"

enum { W = 23, H = 17 };

static int furthest(const uint8_t *a, const uint8_t *b, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        if (abs(a[i] - b[i]) > most) most = abs(a[i] - b[i]);
    return most;
}

#define DECODES(file, asked, gives, want, tolerance)                                                   \
    do {                                                                                               \
        struct err err = { 0 };                                                                        \
        struct image i = { 0 };                                                                        \
        REQUIRE_OK(image_decode(&i, file, sizeof file, asked, NULL, &err), err);                       \
        CHECK_INT(i.width, W);                                                                         \
        CHECK_INT(i.height, H);                                                                        \
        CHECK_INT(i.channels, gives);                                                                  \
        int off_ = furthest(i.pixels, want, sizeof want);                                              \
        if (off_ > (tolerance)) test_fail(__FILE__, __LINE__, "%s is off by up to %d", #file, off_);    \
        image_free(&i);                                                                                \
    } while (0)

TEST(sniffs_formats)
{
    CHECK_INT(image_sniff(file_jpeg, sizeof file_jpeg), IMAGE_JPEG);
    CHECK_INT(image_sniff(file_png, sizeof file_png), IMAGE_PNG);
    CHECK_INT(image_sniff(file_webp, sizeof file_webp), IMAGE_WEBP);
    CHECK_INT(image_sniff(file_png, 7), IMAGE_UNKNOWN);
    CHECK_INT(image_sniff((const uint8_t *)"GIF89a", 6), IMAGE_UNKNOWN);
    CHECK_INT(image_sniff(file_png, 0), IMAGE_UNKNOWN);
}

TEST(decodes_jpeg)
{
    DECODES(file_jpeg, 3, 3, decoded_jpeg, 2);
    DECODES(file_jpeg, 0, 3, decoded_jpeg, 2);
    DECODES(file_jpeg_progressive, 3, 3, decoded_jpeg_progressive, 2);
    DECODES(file_jpeg_grey, 0, 1, decoded_jpeg_grey, 1);
    DECODES(file_jpeg_cmyk, 0, 3, decoded_jpeg_cmyk, 3);
}

TEST(decodes_png)
{
    DECODES(file_png, 0, 3, picture_rgb, 0);
    DECODES(file_png, 1, 1, picture_grey, 0);
    DECODES(file_png_alpha, 3, 3, picture_on_black, 0);
    DECODES(file_png_grey, 0, 1, picture_grey, 0);
    DECODES(file_png_16, 0, 1, picture_grey, 0);
    DECODES(file_png_bit, 0, 1, decoded_png_bit, 0);
    DECODES(file_png_palette, 0, 3, decoded_png_palette, 0);
}

TEST(decodes_webp)
{
    DECODES(file_webp, 0, 3, picture_rgb, 0);
    DECODES(file_webp, 1, 1, picture_grey, 0);
    DECODES(file_webp_lossy, 3, 3, decoded_webp_lossy, 2);
    DECODES(file_webp_alpha, 3, 3, picture_on_black, 0);
}

TEST(grey_asked_as_rgb_has_three_equal_channels)
{
    struct err err = { 0 };
    struct image i;
    REQUIRE_OK(image_decode(&i, file_png_grey, sizeof file_png_grey, 3, NULL, &err), err);
    for (int p = 0; p < W * H; p++) CHECK(i.pixels[3 * p] == picture_grey[p] && i.pixels[3 * p + 2] == picture_grey[p]);
    image_free(&i);
}

TEST(applies_the_orientation_that_a_camera_noted)
{
    struct err err = { 0 };
    struct image i;
    REQUIRE_OK(image_decode(&i, file_jpeg_turned, sizeof file_jpeg_turned, 3, NULL, &err), err);
    REQUIRE(i.width == H && i.height == W);
    /* orientation 6: the stored left column is the upper row, read from below */
    for (int y = 0; y < W; y++)
        for (int x = 0; x < H; x++)
            for (int c = 0; c < 3; c++) CHECK(abs(i.pixels[(y * H + x) * 3 + c] - decoded_jpeg[((H - 1 - x) * W + y) * 3 + c]) <= 2);
    image_free(&i);
}

TEST(limits_hold_just_below_and_just_above)
{
    struct err err = { 0 };
    struct image i;
    struct image_limits l = { .pixels_max = W * H };
    CHECK_OK(image_decode(&i, file_png, sizeof file_png, 3, &l, &err), err);
    image_free(&i);
    l.pixels_max = W * H - 1;
    CHECK_INT(image_decode(&i, file_png, sizeof file_png, 3, &l, &err), ST_TOO_LARGE);
    CHECK_INT(image_decode(&i, file_jpeg, sizeof file_jpeg, 3, &l, &err), ST_TOO_LARGE);
    CHECK_INT(image_decode(&i, file_webp, sizeof file_webp, 3, &l, &err), ST_TOO_LARGE);
    l = (struct image_limits){ .bytes_max = sizeof file_png };
    CHECK_OK(image_decode(&i, file_png, sizeof file_png, 3, &l, &err), err);
    image_free(&i);
    l.bytes_max--;
    CHECK_INT(image_decode(&i, file_png, sizeof file_png, 3, &l, &err), ST_TOO_LARGE);
}

TEST(a_header_that_promises_too_much_is_refused_before_any_pixel)
{
    struct err err = { 0 };
    struct image i;
    uint8_t png[sizeof file_png];
    memcpy(png, file_png, sizeof png);
    png[16] = 0x7f, png[20] = 0x7f;          /* the CRC is wrong then, too: any refusal will do */
    CHECK(image_decode(&i, png, sizeof png, 3, NULL, &err) != ST_OK);
    uint8_t jpeg[sizeof file_jpeg];
    memcpy(jpeg, file_jpeg, sizeof jpeg);
    for (size_t at = 2; at + 9 < sizeof jpeg; at++)
        if (jpeg[at] == 0xff && jpeg[at + 1] == 0xc0) {
            jpeg[at + 5] = jpeg[at + 7] = 0xff;
            break;
        }
    CHECK_INT(image_decode(&i, jpeg, sizeof jpeg, 3, NULL, &err), ST_TOO_LARGE);
}

static void cut_everywhere(const uint8_t *bytes, size_t length)
{
    struct err err = { 0 };
    for (size_t n = 0; n < length; n++) {
        struct image i = { 0 };
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, bytes, n);
        enum status st = image_decode(&i, exact, n, 0, NULL, &err);
        /* the last bytes only mark the end: a decoder may do without them */
        if (n + 16 < length) CHECK_INT(st, ST_BAD_INPUT);
        if (st == ST_OK) image_free(&i);
        free(exact);
    }
}

TEST(files_cut_short_are_bad_input)
{
    cut_everywhere(file_jpeg, sizeof file_jpeg);
    cut_everywhere(file_jpeg_progressive, sizeof file_jpeg_progressive);
    cut_everywhere(file_png, sizeof file_png);
    cut_everywhere(file_webp, sizeof file_webp);
    cut_everywhere(file_webp_lossy, sizeof file_webp_lossy);
}

TEST(resizes_as_pillow_does)
{
    for (size_t k = 0; k < sizeof resizings / sizeof *resizings; k++) {
        struct err err = { 0 };
        uint8_t pixels[sizeof picture_rgb];
        struct image in = { .width = W, .height = H, .channels = resizings[k].channels, .pixels = pixels }, out = { 0 };
        memcpy(pixels, in.channels == 3 ? picture_rgb : picture_grey, (size_t)(W * H * in.channels));
        REQUIRE_OK(image_resize(&out, &in, resizings[k].width, resizings[k].height, resizings[k].filter, &err), err);
        CHECK_INT(out.width, resizings[k].width);
        CHECK_INT(out.height, resizings[k].height);
        int off = furthest(out.pixels, resizings[k].want, (size_t)(out.width * out.height * out.channels));
        if (off > 1) test_fail(__FILE__, __LINE__, "filter %d to %d x %d, %d channels: off by up to %d", resizings[k].filter, out.width, out.height, out.channels, off);
        image_free(&out);
    }
}

TEST(resizing_a_thread_of_pixels_takes_no_room)
{
    struct err err = { 0 };
    struct image in = { .width = 1, .height = 2000000, .channels = 1, .pixels = calloc(2000000, 1) }, out = { 0 };
    REQUIRE_OK(image_resize(&out, &in, 4000, 4000, IMAGE_BICUBIC, &err), err);
    CHECK_INT(out.width, 4000);
    image_free(&out);
    CHECK_INT(image_resize(&out, &in, 1 << 16, 1 << 16, IMAGE_BILINEAR, &err), ST_TOO_LARGE);
    CHECK_INT(image_resize(&out, &in, 0, 5, IMAGE_BILINEAR, &err), ST_BAD_INPUT);
    free(in.pixels);
}

TEST(crops_and_fills_with_black)
{
    struct err err = { 0 };
    uint8_t pixels[] = { 1, 2, 3, 4, 5, 6 };
    struct image in = { .width = 3, .height = 2, .channels = 1, .pixels = pixels }, out = { 0 };
    REQUIRE_OK(image_crop(&out, &in, 1, 0, 2, 2, &err), err);
    CHECK(!memcmp(out.pixels, (uint8_t[]){ 2, 3, 5, 6 }, 4));
    image_free(&out);
    REQUIRE_OK(image_crop(&out, &in, -1, -1, 3, 4, &err), err);
    CHECK(!memcmp(out.pixels, (uint8_t[]){ 0, 0, 0, 0, 1, 2, 0, 4, 5, 0, 0, 0 }, 12));
    image_free(&out);
    REQUIRE_OK(image_crop(&out, &in, 100, 100, 2, 1, &err), err);
    CHECK(!memcmp(out.pixels, (uint8_t[]){ 0, 0 }, 2));
    image_free(&out);
    REQUIRE_OK(image_crop(&out, &in, -2147483647, -2147483647, 2, 1, &err), err);
    image_free(&out);
}

TEST(a_png_of_ours_reads_back_with_its_text)
{
    struct err err = { 0 };
    uint8_t pixels[sizeof picture_rgb];
    const struct image_text text = { "parameters", "ein großer Kreis\nSteps: 3" };
    for (int channels = 1; channels <= 3; channels += 2) {
        struct image in = { .width = W, .height = H, .channels = channels, .pixels = pixels }, back = { 0 };
        struct buf png;
        buf_init(&png, 0);
        memcpy(pixels, channels == 3 ? picture_rgb : picture_grey, (size_t)(W * H * channels));
        REQUIRE_OK(image_encode(&png, &in, IMAGE_PNG, 100, &text, 1, &err), err);
        REQUIRE_OK(image_decode(&back, (const uint8_t *)png.data, png.length, 0, NULL, &err), err);
        CHECK_INT(back.channels, channels);
        CHECK(!memcmp(back.pixels, pixels, (size_t)(W * H * channels)));
        CHECK(memmem(png.data, png.length, "iTXtparameters\0\0\0\0\0ein großer Kreis\nSteps: 3", 45) != NULL);
        image_free(&back);
        buf_free(&png);
    }
}

TEST(jpeg_and_webp_of_ours_look_alike)
{
    struct err err = { 0 };
    enum { SIDE = 32 };
    uint8_t pixels[SIDE * SIDE * 3];
    for (int i = 0; i < SIDE * SIDE; i++) pixels[3 * i] = (uint8_t)(i % SIDE * 8), pixels[3 * i + 1] = (uint8_t)(i / SIDE * 8), pixels[3 * i + 2] = 128;
    const struct image in = { .width = SIDE, .height = SIDE, .channels = 3, .pixels = pixels };
    for (int format = IMAGE_JPEG; format <= IMAGE_WEBP; format++) {
        struct image back = { 0 };
        struct buf bytes;
        buf_init(&bytes, 0);
        REQUIRE_OK(image_encode(&bytes, &in, (enum image_format)format, 95, NULL, 0, &err), err);
        CHECK_INT((int)image_sniff((const uint8_t *)bytes.data, bytes.length), format);
        REQUIRE_OK(image_decode(&back, (const uint8_t *)bytes.data, bytes.length, 3, NULL, &err), err);
        int worst = 0;
        for (int i = 0; i < SIDE * SIDE * 3; i++) worst = abs(back.pixels[i] - pixels[i]) > worst ? abs(back.pixels[i] - pixels[i]) : worst;
        CHECK(worst <= (format == IMAGE_PNG ? 0 : 24));
        image_free(&back);
        buf_free(&bytes);
    }
}
