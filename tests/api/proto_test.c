#include "api/proto.h"

#include "api/oip_ask.h"
#include "api/oip_proto.h"
#include "api/oip_text.h"
#include "api/reflection.h"
#include "engine/formats/protobuf_write.h"
#include "tests/api/fake_model.h"
#include "tests/test.h"

#include <stdlib.h>

static struct request request;
static struct infer_ask ask;
static struct err err;
static struct buf message;

static void fresh(void)
{
    buf_free(&message);
    buf_init(&message, 0);
}

/* Reads the message in pieces of `step` bytes that lie apart, so that a reader past the end of one is seen. */
static enum status read_in_steps(size_t step)
{
    static struct piece pieces[4096];
    static uint8_t *copies[4096];
    int n = 0;
    arena_free(&request.arena);
    request_init(&request, 1 << 20);
    err = (struct err){ 0 };
    for (size_t at = 0; at < message.length; at += step) {
        size_t length = message.length - at < step ? message.length - at : step;
        copies[n] = malloc(length);
        memcpy(copies[n], message.data + at, length);
        pieces[n] = (struct piece){ copies[n], length };
        n++;
    }
    enum status st = oip_proto_read(&request, &ask, "fake", pieces, n, &err);
    for (int i = 0; i < n; i++) free(copies[i]);
    return st;
}

static void put_input(const char *name, const char *datatype, const int64_t *dims, int rank, const struct buf *contents)
{
    size_t at = pb_begin(&message, 5);
    pb_put_text(&message, 1, name);
    pb_put_text(&message, 2, datatype);
    size_t shape = pb_begin(&message, 3);
    for (int i = 0; i < rank; i++) pb_put_varint(&message, (uint64_t)dims[i]);
    pb_end(&message, shape);
    if (contents) pb_put_bytes(&message, 5, contents->data, contents->length);
    pb_end(&message, at);
}

static const float eight[] = { 1, 2, 3, 4, 5, 6.5f, -7, 8 };
static const int64_t two_by_four[] = { 2, 4 };

static void put_raw_request(void)
{
    fresh();
    pb_put_text(&message, 1, "fake");
    pb_put_text(&message, 3, "a1");
    size_t entry = pb_begin(&message, 4);
    pb_put_text(&message, 1, "priority");
    size_t value = pb_begin(&message, 2);
    pb_put_number(&message, 2, 2);
    pb_end(&message, value);
    pb_end(&message, entry);
    put_input("x", "FP32", two_by_four, 2, NULL);
    size_t output = pb_begin(&message, 6);
    pb_put_text(&message, 1, "y");
    pb_end(&message, output);
    pb_put_bytes(&message, 7, eight, sizeof eight);
}

TEST(raw_request_in_pieces_of_every_size)
{
    put_raw_request();
    for (size_t step = 1; step <= message.length; step++) {
        REQUIRE_OK(read_in_steps(step), err);
        CHECK_INT(request.input_count, 1);
        CHECK_TEXT(request.inputs[0].name, "x");
        CHECK_INT(request.inputs[0].tensor.rank, 2);
        CHECK_CLOSE((const float *)request.inputs[0].tensor.data, eight, 8, 0);
        CHECK_INT((uintptr_t)request.inputs[0].tensor.data % TENSOR_ALIGN, 0);
        CHECK_INT(request.priority, 2);
        CHECK_INT(request.wanted_count, 1);
        REQUIRE_OK(oip_infer_check_named(&request, &ask, fake_model(), &err), err);
        CHECK_TEXT(ask.outputs[0].name, "y");
    }
}

TEST(names_are_found_without_reading_the_rest)
{
    struct oip_proto_names names;
    put_raw_request();
    struct piece whole = { (const uint8_t *)message.data, message.length };
    REQUIRE_OK(oip_proto_names_read(&names, &request.arena, &whole, 1, &err), err);
    CHECK_TEXT(names.model, "fake");
    CHECK_TEXT(names.version, "");
    CHECK_TEXT(names.id, "a1");
}

TEST(every_truncation_is_refused_or_complete)
{
    put_raw_request();
    size_t whole = message.length;
    for (size_t length = 0; length < whole; length++) {
        message.length = length;
        enum status st = read_in_steps(7);
        CHECK(st == ST_OK || st == ST_BAD_INPUT);
        if (!st) CHECK(oip_infer_check_named(&request, &ask, fake_model(), &err) == ST_BAD_INPUT || request.input_count == 1);
    }
    message.length = whole;
}

TEST(typed_contents_packed_and_one_by_one)
{
    struct buf packed = { 0 }, single = { 0 };
    size_t at = pb_begin(&packed, 6);
    buf_append(&packed, eight, sizeof eight);
    pb_end(&packed, at);
    for (int i = 0; i < 8; i++) pb_put_float(&single, 6, eight[i]);
    for (int i = 0; i < 2; i++) {
        fresh();
        put_input("x", "FP32", two_by_four, 2, i ? &single : &packed);
        REQUIRE_OK(read_in_steps(11), err);
        CHECK_CLOSE((const float *)request.inputs[0].tensor.data, eight, 8, 0);
    }
    buf_free(&packed);
    buf_free(&single);
    static const struct { const char *datatype; int field; uint64_t value; bool fits; } values[] = {
        { "INT8", 2, (uint64_t)-128, true }, { "INT8", 2, 128, false }, { "INT16", 2, (uint64_t)-32769, false }, { "INT32", 2, (uint64_t)INT32_MIN, true }, { "INT64", 3, (uint64_t)INT64_MIN, true },
        { "UINT8", 4, 255, true }, { "UINT8", 4, 256, false }, { "UINT16", 4, 65535, true }, { "UINT32", 4, UINT32_MAX, true }, { "UINT32", 4, UINT64_MAX, false }, { "UINT64", 5, UINT64_MAX, true },
        { "BOOL", 1, 1, true }, { "BOOL", 1, 2, false }, { "FP16", 2, 1, false },
    };
    const int64_t one[] = { 1 };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct buf contents = { 0 };
        pb_put_number(&contents, values[i].field, values[i].value);
        fresh();
        put_input("x", values[i].datatype, one, 1, &contents);
        buf_free(&contents);
        CHECK_INT(read_in_steps(5), values[i].fits ? ST_OK : ST_BAD_INPUT);
        if (values[i].fits) CHECK(!memcmp(request.inputs[0].tensor.data, &values[i].value, request.inputs[0].tensor.bytes));
    }
}

#define BAD(says) do { CHECK_INT(read_in_steps(9), ST_BAD_INPUT); if (!strstr(err.text, says)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, says); } while (0)

TEST(bad_requests_are_told_what_is_wrong)
{
    const int64_t negative[] = { 1, -4 }, deep[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    struct buf contents = { 0 };
    pb_put_float(&contents, 6, 1);
    fresh(), put_input("x", "FP33", two_by_four, 2, NULL);
    BAD("invalid datatype 'FP33'");
    fresh(), put_input("x", "FP32", negative, 2, NULL);
    BAD("natural number");
    fresh(), put_input("x", "FP32", deep, 9, NULL);
    BAD("more than 8 dimensions");
    fresh(), put_input("x", "FP32", two_by_four, 2, &contents);
    BAD("expecting 8");
    fresh(), put_input("x", "FP32", two_by_four, 2, &contents), pb_put_bytes(&message, 7, eight, sizeof eight);
    BAD("must not be specified");
    fresh(), put_input("x", "FP32", two_by_four, 2, NULL), pb_put_bytes(&message, 7, eight, 4);
    BAD("byte size mismatch");
    fresh(), put_input("x", "FP32", two_by_four, 2, NULL), put_input("y", "FP32", two_by_four, 2, NULL), pb_put_bytes(&message, 7, eight, 32);
    BAD("unable to find data for input 'y'");
    fresh(), put_input("x", "FP32", two_by_four, 2, NULL), pb_put_bytes(&message, 7, eight, 32), pb_put_bytes(&message, 7, two_by_four, 16);
    CHECK_OK(read_in_steps(9), err);          /* one too many is passed over, as Triton does */
    CHECK_INT(request.input_count, 1);
    CHECK_CLOSE((const float *)request.inputs[0].tensor.data, eight, 8, 0);
    fresh(), put_input("x\xff", "FP32", two_by_four, 2, NULL);
    BAD("UTF-8");
    fresh(), pb_put_key(&message, 1, (enum pb_wire)3);
    BAD("no valid protobuf");
    fresh();
    for (int i = 0; i <= REQUEST_TENSORS_MAX; i++) pb_put_bytes(&message, 7, eight, 0);
    BAD("more than 256 raw inputs");
    buf_free(&contents);
}

static void check_answer(const struct chain *m, size_t big)
{
    size_t flat = m->head.length;
    for (int i = 0; i < m->borrowed_count; i++) flat += m->borrowed[i].length;
    CHECK_INT(flat, m->length);
    CHECK_INT(m->borrowed_count, big ? 1 : 0);
    if (big) CHECK_INT(m->borrowed[0].length, big);
}

TEST(answers_borrow_what_is_large)
{
    const int64_t small[] = { 1, 3 }, large[] = { 1024, 3 };
    struct chain m;
    fresh();
    REQUIRE_OK(read_in_steps(1), err);
    request.id = "q";
    for (int i = 0; i < 2; i++) {
        arena_free(&request.arena);
        request_init(&request, 1 << 20);
        request.outputs = arena_calloc(&request.arena, 1, sizeof *request.outputs);
        request.output_count = 1;
        REQUIRE_OK(request_output(&request, 0, "y", DT_F32, i ? large : small, 2, &err), err);
        memset(request.outputs[0].tensor.data, 0, request.outputs[0].tensor.bytes);
        REQUIRE_OK(oip_proto_write(&m, &request, &ask, fake_model(), "triton_final_response", true, &err), err);
        check_answer(&m, i ? 1024 * 12 : 0);
        struct pb c = pb_open(m.head.data, m.head.length);
        struct pb_field f;
        CHECK(pb_next(&c, &f) && f.number == 1 && f.length == 4 && !memcmp(f.bytes, "fake", 4));
        CHECK(pb_next(&c, &f) && f.number == 2 && f.length == 1 && f.bytes[0] == '3');
        oip_proto_wrap(&m);
        check_answer(&m, i ? 1024 * 12 : 0);
        if (!i) {
            c = pb_open(m.head.data, m.head.length);
            CHECK(pb_next(&c, &f) && f.number == 2 && f.wire == PB_BYTES);
            CHECK(!pb_next(&c, &f) && !c.failed);
        }
        buf_free(&m.head);
    }
}

TEST(a_text_is_asked_by_tensors)
{
    const int64_t one[] = { 1 };
    struct buf text = { 0 }, options = { 0 }, count = { 0 };
    struct json *root;
    pb_put_text(&text, 8, "hello");
    pb_put_text(&options, 8, "{\"temperature\":0.5}");
    pb_put_number(&count, 2, 7);
    fresh();
    put_input("text_input", "BYTES", one, 1, &text);
    put_input("sampling_parameters", "BYTES", one, 1, &options);
    put_input("max_tokens", "INT32", one, 1, &count);
    REQUIRE_OK(read_in_steps(13), err);
    REQUIRE_OK(oip_text_question(&root, &request, &err), err);
    struct buf json = { 0 };
    json_write(&json, root);
    buf_putc(&json, 0);
    CHECK_TEXT(json.data, "{\"text_input\":\"hello\",\"temperature\":0.5,\"max_tokens\":7}");
    buf_free(&json);
    fresh();
    put_input("text_input", "BYTES", two_by_four, 1, NULL);
    CHECK_INT(read_in_steps(13), ST_BAD_INPUT);
    buf_free(&text), buf_free(&options), buf_free(&count);
}

/* JSON -> message -> JSON of a method's response. */
static void there_and_back(const char *path, const char *text)
{
    const struct rpc_method *m = rpc_find(path, strlen(path));
    struct arena arena;
    struct json *in, *out;
    struct buf wire = { 0 }, back = { 0 };
    arena_init(&arena, 1 << 20);
    CHECK(m != NULL);
    REQUIRE_OK(json_parse(&in, &arena, text, strlen(text), &(struct json_options){ 0 }, &err), err);
    REQUIRE_OK(proto_write(&wire, m->response, in, &err), err);
    REQUIRE_OK(proto_read(&out, &arena, m->response, wire.data, wire.length, &err), err);
    json_write(&back, out);
    buf_putc(&back, 0);
    CHECK_TEXT(back.data, text);
    for (size_t cut = 0; cut < wire.length; cut++) proto_read(&out, &arena, m->response, wire.data, cut, &err);
    buf_free(&wire);
    buf_free(&back);
    arena_free(&arena);
}

#define SERVICE "/inference.GRPCInferenceService/"

TEST(small_messages_there_and_back)
{
    there_and_back(SERVICE "ServerMetadata", "{\"name\":\"a\",\"version\":\"1\",\"extensions\":[\"x\",\"\xc3\xa9\",\"\"]}");
    there_and_back(SERVICE "ModelMetadata", "{\"name\":\"m\",\"inputs\":[{\"name\":\"x\",\"datatype\":\"FP32\",\"shape\":[-1,0,9007199254740993]}]}");
    there_and_back(SERVICE "LogSettings", "{\"settings\":{\"a\":true,\"b\":7,\"c\":\"d\",\"e\":false}}");
    there_and_back(SERVICE "TraceSetting", "{\"settings\":{\"level\":[\"OFF\",\"TENSORS\"],\"rate\":[]}}");
    there_and_back(SERVICE "ModelStatistics", "{\"model_stats\":[{\"name\":\"m\",\"last_inference\":18446744073709551615,\"inference_stats\":{\"success\":{\"count\":1,\"ns\":2}},\"memory_usage\":[{\"type\":\"CPU\",\"id\":-1}]}]}");
    CHECK(!rpc_find(SERVICE "Nothing", strlen(SERVICE "Nothing")));
    CHECK(!rpc_find("/", 1));
}

TEST(an_answer_of_another_kind_is_our_own_fault)
{
    const struct rpc_method *m = rpc_find(SERVICE "ServerLive", strlen(SERVICE "ServerLive"));
    struct json text = { .type = JSON_STRING, .key = "live", .key_length = 4, .string = { "yes", 3 } }, object = { .type = JSON_OBJECT, .list = { &text, 1 } };
    struct buf wire = { 0 };
    CHECK_INT(proto_write(&wire, m->response, &object, &err), ST_INTERNAL);
    buf_free(&wire);
}

TEST(reflection_answers_every_question)
{
    static const struct { int field; const char *text; int answer; } questions[] = {
        { 7, "", 6 }, { 3, "grpc_service.proto", 4 }, { 3, "nothing.proto", 7 }, { 4, "inference.GRPCInferenceService", 4 }, { 4, "inference.GRPCInferenceService.ModelInfer", 4 },
        { 4, "inference.ModelVersionPolicy.Latest", 4 }, { 4, "inference.DataType", 4 }, { 4, "grpc.health.v1.Health", 4 }, { 4, "nothing", 7 }, { 6, "inference.ModelConfig", 7 }, { 9, "", 7 },
    };
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        struct buf answer = { 0 };
        fresh();
        pb_put_text(&message, questions[i].field, questions[i].text);
        REQUIRE_OK(reflection_answer_write(&answer, message.data, message.length, &err), err);
        struct pb c = pb_open(answer.data, answer.length);
        struct pb_field f = { 0 };
        while (pb_next(&c, &f)) continue;
        CHECK(!c.failed);
        CHECK_INT(f.number, questions[i].answer);
        buf_free(&answer);
    }
    CHECK_INT(reflection_answer_write(&message, "\x0a\x05", 2, &err), ST_BAD_INPUT);
}

