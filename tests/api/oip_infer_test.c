#include "api/oip_infer.h"

#include "api/oip_meta.h"
#include "api/oip_tensor.h"
#include "base/clock.h"
#include "base/json.h"
#include "tests/api/fake_model.h"
#include "tests/test.h"

#include <stdlib.h>

static struct request request;
static struct infer_ask ask;
static struct err err;

static enum status read_bytes(const char *body, size_t length, int64_t json_length)
{
    arena_free(&request.arena);
    request_init(&request, 1 << 20);
    err = (struct err){ 0 };
    return oip_infer_read(&request, &ask, fake_model(), body, length, json_length, &err);
}

static enum status read_text(const char *text) { return read_bytes(text, strlen(text), -1); }

#define BAD(body, says) do { CHECK_INT(read_text(body), ST_BAD_INPUT); if (!strstr(err.text, says)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, says); } while (0)
#define X "{\"name\":\"x\",\"shape\":[2,4],\"datatype\":\"FP32\",\"data\":[[1,2,3,4],[5,6.5,-7e0,8]]}"

TEST(json_request_flat_or_nested)
{
    REQUIRE_OK(read_text("{\"id\":\"a1\",\"inputs\":[" X "],\"outputs\":[{\"name\":\"y\"}],\"parameters\":{\"priority\":2,\"timeout\":500,\"k\":\"v\",\"f\":1.5}}"), err);
    const float want[] = { 1, 2, 3, 4, 5, 6.5f, -7, 8 };
    CHECK_TEXT(request.id, "a1");
    CHECK_INT(request.input_count, 1);
    CHECK_CLOSE((const float *)request.inputs[0].tensor.data, want, 8, 0);
    CHECK_INT((uintptr_t)request.inputs[0].tensor.data % TENSOR_ALIGN, 0);
    CHECK_INT(request.priority, 2);
    CHECK_INT(request.queue_timeout_us, 500);
    CHECK_INT(request.parameter_count, 4);
    CHECK_INT(request.wanted_count, 1);
    REQUIRE_OK(read_text("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]},{\"name\":\"names\",\"shape\":[1,1],\"datatype\":\"BYTES\",\"data\":[\"\\u00e9\\n\"]}]}"), err);
    const struct string_ref *s = request.inputs[1].tensor.data;
    CHECK_INT(s->length, 3);
    CHECK(!memcmp(s->text, "\xc3\xa9\n", 3));
}

TEST(bad_requests_are_told_what_is_wrong)
{
    BAD("{", "failed to parse the request JSON buffer");
    BAD("[]", "must be an object");
    BAD("{}", "inputs");
    BAD("{\"inputs\":{}}", "inputs");
    BAD("{\"inputs\":[{\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}", "'name'");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"data\":[1,2,3,4]}]}", "'datatype'");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP33\",\"data\":[1,2,3,4]}]}", "invalid datatype 'FP33'");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,-4],\"datatype\":\"FP32\",\"data\":[]}]}", "natural number");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}", "unexpected shape for input 'x' for model 'fake'. Expected [-1,4], got [4]");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3]}]}", "holds 3 values but the shape says 4");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4,5]}]}", "more values than the shape says");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,1e39]}]}", "does not fit the datatype");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3 4]}]}", "'data' of input 'x'");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,\"4\"]}]}", "not a number");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"INT32\",\"data\":[1,2,3,4]}]}", "inference input 'x' data-type is 'INT32', but model 'fake' expects 'FP32'");
    BAD("{\"inputs\":[{\"name\":\"z\",\"shape\":[1,4],\"datatype\":\"FP32\",\"data\":[1,2,3,4]}]}", "unexpected inference input 'z' for model 'fake'");
    BAD("{\"id\":\"7\",\"inputs\":[]}", "[request id: 7] expected 2 inputs but got 0 inputs for model 'fake'");
    BAD("{\"inputs\":[" X "," X "]}", "already exists");
    BAD("{\"inputs\":[" X "],\"outputs\":[{\"name\":\"q\"}]}", "unexpected inference output 'q' for model 'fake'");
    BAD("{\"inputs\":[" X "],\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":0}}]}", "classification");
    BAD("{\"inputs\":[" X "],\"inputs\":[" X "]}", "inputs");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP16\",\"data\":[1,2,3,4]}]}", "no JSON form");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[1,1000000000000],\"datatype\":\"FP32\",\"data\":[1]}]}", "fewer values");
    BAD("{\"inputs\":[{\"name\":\"x\",\"shape\":[4294967296,4294967296],\"datatype\":\"FP32\",\"data\":[1]}]}", "too large");
}

TEST(integers_keep_their_range)
{
    struct tensor t = { .dtype = DT_U64, .rank = 1, .dims = { 2 } };
    struct arena a;
    arena_init(&a, 1 << 16);
    const char *most = "[0, 18446744073709551615]", *over = "[0, 18446744073709551616]", *minus = "[0,-1]", *fraction = "[0,1.5]", *byte = "[255,256]";
    REQUIRE_OK(oip_tensor_from_json(&t, &a, most, strlen(most), "u", &err), err);
    CHECK(((uint64_t *)t.data)[1] == UINT64_MAX);
    CHECK_INT(oip_tensor_from_json(&t, &a, over, strlen(over), "u", &err), ST_BAD_INPUT);
    CHECK_INT(oip_tensor_from_json(&t, &a, minus, strlen(minus), "u", &err), ST_BAD_INPUT);
    CHECK_INT(oip_tensor_from_json(&t, &a, fraction, strlen(fraction), "u", &err), ST_BAD_INPUT);
    t.dtype = DT_U8;
    CHECK_INT(oip_tensor_from_json(&t, &a, byte, strlen(byte), "u", &err), ST_BAD_INPUT);
    t.dtype = DT_BOOL;
    REQUIRE_OK(oip_tensor_from_json(&t, &a, "[true,false]", 12, "b", &err), err);
    CHECK_INT(((uint8_t *)t.data)[0], 1);
    arena_free(&a);
}

TEST(binary_tensors_are_taken_where_they_stand)
{
    char body[512];
    const char *json = "{\"inputs\":[{\"name\":\"x\",\"shape\":[1,4],\"datatype\":\"FP32\",\"parameters\":{\"binary_data_size\":16}}],\"parameters\":{\"binary_data_output\":true}}";
    size_t n = strlen(json);
    const float x[] = { 1, -2, 3, 4.25f };
    char *aligned = (char *)(((uintptr_t)body + 200) & ~(uintptr_t)63) - n % 64 + 64;
    memcpy(aligned, json, n);
    memcpy(aligned + n, x, sizeof x);
    REQUIRE_OK(read_bytes(aligned, n + sizeof x, (int64_t)n), err);
    CHECK_CLOSE((const float *)request.inputs[0].tensor.data, x, 4, 0);
    CHECK(ask.binary_output);
    /* one byte off: copied */
    memmove(aligned + 1, aligned, n + sizeof x);
    REQUIRE_OK(read_bytes(aligned + 1, n + sizeof x, (int64_t)n), err);
    CHECK_INT((uintptr_t)request.inputs[0].tensor.data % 4, 0);
    CHECK_CLOSE((const float *)request.inputs[0].tensor.data, x, 4, 0);
    CHECK_INT(read_bytes(aligned + 1, n + sizeof x - 1, (int64_t)n), ST_BAD_INPUT);
    CHECK_INT(read_bytes(aligned + 1, n + sizeof x + 1, (int64_t)n), ST_BAD_INPUT);
    CHECK_INT(read_bytes(aligned + 1, n, (int64_t)n + 1), ST_BAD_INPUT);
    CHECK(strstr(err.text, "Inference-Header-Content-Length") != NULL);
}

TEST(raw_strings_are_bounded)
{
    struct tensor t = { .dtype = DT_STRING, .rank = 1, .dims = { 2 } };
    struct arena a;
    arena_init(&a, 1 << 16);
    const char good[] = "\x02\0\0\0ab\0\0\0\0", past[] = "\x02\0\0\0ab\x05\0\0\0x";
    REQUIRE_OK(oip_tensor_from_raw(&t, &a, good, sizeof good - 1, "s", &err), err);
    CHECK_INT(((struct string_ref *)t.data)[0].length, 2);
    CHECK_INT(((struct string_ref *)t.data)[1].length, 0);
    CHECK_INT(oip_tensor_from_raw(&t, &a, past, sizeof past - 1, "s", &err), ST_BAD_INPUT);
    CHECK_INT(oip_tensor_from_raw(&t, &a, good, sizeof good - 2, "s", &err), ST_BAD_INPUT);
    t.dims[0] = INT64_C(1) << 60;
    CHECK_INT(oip_tensor_from_raw(&t, &a, good, sizeof good - 1, "s", &err), ST_BAD_INPUT);
    arena_free(&a);
}

/* Gives the request outputs as an engine would: y = rows of {0.5, 2, -1}, n = row number. */
static void make_outputs(int64_t rows)
{
    request.outputs = arena_calloc(&request.arena, 2, sizeof *request.outputs);
    request.output_count = 2;
    REQUIRE_OK(request_output(&request, 0, "y", DT_F32, (int64_t[]){ rows, 3 }, 2, &err), err);
    REQUIRE_OK(request_output(&request, 1, "n", DT_I64, (int64_t[]){ rows, 1 }, 2, &err), err);
    for (int64_t i = 0; i < rows; i++) {
        memcpy((float *)request.outputs[0].tensor.data + i * 3, (float[]){ 0.5f, 2, -1 }, 12);
        ((int64_t *)request.outputs[1].tensor.data)[i] = i - 1;
    }
}

static void check_answer(const char *want)
{
    struct buf b;
    size_t json_length;
    buf_init(&b, 0);
    CHECK_OK(oip_infer_write(&b, &json_length, &request, &ask, fake_model(), &err), err);
    buf_putc(&b, 0);
    CHECK_TEXT(b.data, want);
    buf_free(&b);
}

TEST(answers_in_json)
{
    REQUIRE_OK(read_text("{\"id\":\"q\\\"\",\"inputs\":[" X "]}"), err);
    make_outputs(2);
    check_answer("{\"id\":\"q\\\"\",\"model_name\":\"fake\",\"model_version\":\"3\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[2,3],\"data\":[0.5,2.0,-1.0,0.5,2.0,-1.0]},"
                 "{\"name\":\"n\",\"datatype\":\"INT64\",\"shape\":[2,1],\"data\":[-1,0]}]}");
    REQUIRE_OK(read_text("{\"inputs\":[" X "],\"outputs\":[{\"name\":\"y\",\"parameters\":{\"classification\":2}}]}"), err);
    make_outputs(2);
    check_answer("{\"model_name\":\"fake\",\"model_version\":\"3\",\"outputs\":[{\"name\":\"y\",\"datatype\":\"BYTES\",\"shape\":[2,2],\"data\":"
                 "[\"2.000000:1:green\",\"0.500000:0:red\",\"2.000000:1:green\",\"0.500000:0:red\"]}]}");
}

TEST(answers_in_binary)
{
    REQUIRE_OK(read_text("{\"inputs\":[" X "],\"outputs\":[{\"name\":\"n\"},{\"name\":\"y\",\"parameters\":{\"binary_data\":true}}]}"), err);
    make_outputs(1);
    struct buf b;
    size_t n;
    buf_init(&b, 0);
    REQUIRE_OK(oip_infer_write(&b, &n, &request, &ask, fake_model(), &err), err);
    const char *json = "{\"model_name\":\"fake\",\"model_version\":\"3\",\"outputs\":[{\"name\":\"n\",\"datatype\":\"INT64\",\"shape\":[1,1],\"data\":[-1]},"
                       "{\"name\":\"y\",\"datatype\":\"FP32\",\"shape\":[1,3],\"parameters\":{\"binary_data_size\":12}}]}";
    CHECK_INT(n, strlen(json));
    CHECK(n == strlen(json) && !memcmp(b.data, json, n));
    CHECK_INT(b.length, n + 12);
    CHECK(!memcmp(b.data + n, (float[]){ 0.5f, 2, -1 }, 12));
    buf_free(&b);
}

TEST(classify_writes_labels_and_scores)
{
    struct buf b;
    REQUIRE_OK(read_text("{\"inputs\":[" X "]}"), err);
    make_outputs(1);
    buf_init(&b, 0);
    REQUIRE_OK(classify_write(&b, &request, 2, fake_model(), &err), err);
    buf_putc(&b, 0);
    CHECK_TEXT(b.data, "{\"model_name\":\"fake\",\"model_version\":\"3\",\"digest\":\"00ff\",\"labels\":[{\"label\":\"green\",\"index\":1,\"score\":2.000000},{\"label\":\"red\",\"index\":0,\"score\":0.500000}]}");
    buf_free(&b);
    arena_free(&request.arena);
}


TEST(json_numbers_are_read_fast)
{
    enum { N = 150528 };
    struct buf b;
    buf_init(&b, 0);
    buf_puts(&b, "[");
    for (int i = 0; i < N; i++) buf_printf(&b, "%s%.7g", i ? "," : "", (double)(test_random() >> 8) / 16777216.0);
    buf_puts(&b, "]");
    struct arena a;
    uint64_t best = UINT64_MAX;
    for (int round = 0; round < 5; round++) {
        struct tensor t = { .dtype = DT_F32, .rank = 1, .dims = { N } };
        arena_init(&a, 4 << 20);
        uint64_t start = clock_ns();
        REQUIRE_OK(oip_tensor_from_json(&t, &a, b.data, b.length, "x", &err), err);
        uint64_t took = clock_ns() - start;
        if (took < best) best = took;
        arena_free(&a);
    }
    printf("     %d floats of JSON in %.2f ms\n", N, (double)best * 1e-6);
#ifndef __SANITIZE_ADDRESS__
    CHECK(best < 3000000);
#endif
    buf_free(&b);
}
