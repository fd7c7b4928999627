#include <stdlib.h>

#include "base/checked.h"
#include "engine/formats/npy.h"
#include "engine/formats/onnx.h"
#include "engine/formats/protobuf.h"
#include "engine/onnx/onnx_engine.h"
#include "tests/engine/onnx_writer.h"
#include "tests/test.h"

TEST(varints_end_where_they_should)
{
    static const uint8_t good[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01 }, wide[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02 }, cut[] = { 0x80, 0x80 };
    uint64_t v = 0;
    struct pb c = pb_open(good, sizeof good);
    CHECK(pb_varint(&c, &v) && v == UINT64_MAX);
    c = pb_open(wide, sizeof wide);
    CHECK(!pb_varint(&c, &v) && c.failed);
    c = pb_open(cut, sizeof cut);
    CHECK(!pb_varint(&c, &v) && c.failed);
    static const uint8_t long_field[] = { 0x0a, 0x05, 1, 2, 3, 4 }, group[] = { 0x0b };
    struct pb_field f;
    c = pb_open(long_field, sizeof long_field);
    CHECK(!pb_next(&c, &f) && c.failed);
    c = pb_open(group, sizeof group);
    CHECK(!pb_next(&c, &f) && c.failed);
}

/* Every prefix of a good file is refused with a sentence or read as a smaller graph, never read past. */
TEST(cut_files_are_refused)
{
    struct writer w;
    struct buf model;
    buf_init(&model, 0);
    writer_begin(&w, 13);
    int x = writer_input(&w, 1, (int64_t[]){ -1, 4 }, 2), k = writer_floats(&w, (int64_t[]){ 4, 3 }, 2, -1, 1);
    writer_output(&w, writer_node(&w, "Gemm", (int[]){ x, k }, 2, (const char *[]){ "alpha=f0.5", "transB=0", NULL }), 1, (int64_t[]){ -1, 3 }, 2);
    writer_finish(&w, &model);
    struct err err = { 0 };
    CHECK_OK(onnx_inspect((const uint8_t *)model.data, model.length, &err), err);
    int accepted = 0;
    for (size_t n = 0; n < model.length; n++) {
        uint8_t *copy = malloc(n ? n : 1);
        memcpy(copy, model.data, n);
        err.text[0] = 0;
        if (onnx_inspect(copy, n, &err) == ST_OK) accepted++;
        else CHECK(err.text[0] != 0);
        free(copy);
    }
    CHECK_INT(accepted, 0);
    buf_free(&model);
}

/* TensorProto { dims 2, 3; float; raw_data of n bytes } */
static enum status parse_raw(size_t n, int64_t second, struct arena *arena, struct err *err)
{
    struct buf b;
    struct onnx_tensor t;
    buf_init(&b, 0);
    buf_append(&b, "\x08\x02\x08", 3);
    for (uint64_t v = (uint64_t)second; ; v >>= 7) {
        buf_putc(&b, (char)(v > 127 ? v | 128 : v));
        if (v <= 127) break;
    }
    buf_append(&b, "\x10\x01\x4a", 3);
    buf_putc(&b, (char)n);
    for (size_t i = 0; i < n; i++) buf_putc(&b, 0);
    enum status st = onnx_parse_tensor(&t, arena, (const uint8_t *)b.data, b.length, err);
    buf_free(&b);
    return st;
}

TEST(raw_data_must_have_the_shape_s_bytes)
{
    struct arena arena;
    struct err err = { 0 };
    arena_init(&arena, 1 << 20);
    CHECK_OK(parse_raw(24, 3, &arena, &err), err);
    CHECK_INT(parse_raw(23, 3, &arena, &err), ST_BAD_INPUT);
    CHECK_INT(parse_raw(25, 3, &arena, &err), ST_BAD_INPUT);
    CHECK_INT(parse_raw(24, INT64_MAX, &arena, &err), ST_BAD_INPUT);
    CHECK_INT(parse_raw(24, -3, &arena, &err), ST_BAD_INPUT);
    CHECK_OK(parse_raw(0, 0, &arena, &err), err);
    arena_free(&arena);
}

TEST(npy_files_go_both_ways)
{
    float x[6] = { 1, 2, 3, 4, 5, -6.5f };
    struct tensor t = { DT_F32, 2, { 2, 3 }, x, sizeof x }, back;
    struct arena arena;
    struct buf b;
    struct err err = { 0 };
    arena_init(&arena, 1 << 20);
    buf_init(&b, 0);
    REQUIRE_OK(npy_write(&b, &t, &err), err);
    CHECK_INT(b.length % 64, 24);
    REQUIRE_OK(npy_parse(&back, &arena, b.data, b.length, &err), err);
    CHECK_INT(back.dtype, DT_F32);
    CHECK_INT(back.rank, 2);
    CHECK_INT(back.dims[1], 3);
    CHECK(memcmp(back.data, x, sizeof x) == 0);
    for (size_t n = 0; n < b.length; n++) CHECK_INT(npy_parse(&back, &arena, b.data, n, &err), ST_BAD_INPUT);
    t.dtype = DT_STRING;
    CHECK_INT(npy_write(&b, &t, &err), ST_UNSUPPORTED);
    buf_free(&b);
    arena_free(&arena);
}
