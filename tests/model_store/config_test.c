#include "model_store/model_config.h"

#include <stdlib.h>

#include "base/image.h"
#include "base/json.h"
#include "tests/test.h"

static const struct port image_in[] = { { .name = "x", .dtype = DT_F32, .rank = 4, .dims = { -1, 3, 224, 160 } } };
static const struct port scores_out[] = { { .name = "y", .dtype = DT_F32, .rank = 2, .dims = { -1, 10 } } };
static const struct signature image_model = { .platform = "onnxruntime_onnx", .inputs = image_in, .input_count = 1, .outputs = scores_out, .output_count = 1, .batchable = true };
static const struct port pair_in[] = { { .name = "a", .dtype = DT_I32, .rank = 2, .dims = { 1, 16 } }, { .name = "b", .dtype = DT_STRING, .rank = 1, .dims = { -1 } } };
static const struct signature pair_model = { .platform = "onnxruntime_onnx", .inputs = pair_in, .input_count = 2, .outputs = scores_out, .output_count = 1 };

static enum status parse(struct model_config **c, const char *text, struct err *err)
{
    return model_config_parse(c, text, text ? strlen(text) : 0, "m/config.pbtxt", NULL, err);
}

/* Parses and completes; the error's text must hold `part`. */
static void check_refused(int line, const char *text, const struct signature *s, const char *part)
{
    struct model_config *c = NULL;
    struct err err = { 0 };
    enum status st = parse(&c, text, &err);
    bool parsed = !st;
    if (!st) st = model_config_complete(c, "m", s, &err);
    if (st != ST_BAD_INPUT || !strstr(err.text, part)) test_fail(__FILE__, line, "status %d, \"%s\", not \"%s\"", st, err.text, part);
    if (parsed) model_config_free(c);
}
#define CHECK_REFUSED(text, part) check_refused(__LINE__, text, &image_model, part)

static char *json_of(const struct model_config *c)
{
    struct buf b;
    buf_init(&b, 0);
    model_config_write_json(&b, c);
    buf_putc(&b, 0);
    return b.data;
}

TEST(names_and_versions)
{
    int64_t v;
    char longest[MODEL_NAME_MAX + 1];
    memset(longest, 'a', sizeof longest);
    CHECK(model_name_valid("a", 1) && model_name_valid("0.b_C-d", 7) && model_name_valid(longest, MODEL_NAME_MAX));
    CHECK(!model_name_valid("", 0) && !model_name_valid(".a", 2) && !model_name_valid("-a", 2) && !model_name_valid("a/b", 3) && !model_name_valid("a\0b", 3) && !model_name_valid(longest, MODEL_NAME_MAX + 1));
    CHECK(model_version_parse("1", 1, &v) && v == 1);
    CHECK(model_version_parse("2147483647", 10, &v) && v == INT32_MAX);
    CHECK(!model_version_parse("2147483648", 10, &v) && !model_version_parse("0", 1, &v) && !model_version_parse("01", 2, &v) && !model_version_parse("", 0, &v) && !model_version_parse("-1", 2, &v) && !model_version_parse("1a", 2, &v));
}

TEST(a_whole_config)
{
    static const char text[] =
        "# comment\nname: 'm' platform: \"onnxruntime\" \"_onnx\"; backend: \"onnxruntime\",\n"
        "max_batch_size: 0x10\n"
        "input [ { name: \"x\" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 160 ] } ]\n"
        "output { name: \"y\" data_type: 11 dims: 10 label_filename: \"labels.txt\" }\n"
        "version_policy: { specific { versions: [3, 1] } }\n"
        "dynamic_batching < preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100 preserve_ordering: true priority_levels: 2 default_priority_level: 1\n"
        "  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5000 allow_timeout_override: true max_queue_size: 7 }\n"
        "  priority_queue_policy { key: 2 value: { max_queue_size: 3 } } >\n"
        "instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 } ]\n"
        "parameters { key: \"k\" value { string_value: \"v\\n\\x41\\101\" } }\n"
        "parameters [ { key: \"picture.mean\" value: { string_value: \"0.5, 0.25,1/8\" } }, { key: \"picture.color\" value: { string_value: \"bgr\" } } ]\n"
        "model_warmup { name: \"w\" batch_size: 2 inputs { key: \"x\" value { data_type: TYPE_FP32 dims: [3,224,160] random_data: true } } }\n"
        "optimization { graph { level: -1 } cuda { graphs: true } }\n";
    struct model_config *c;
    struct err err;
    REQUIRE_OK(parse(&c, text, &err), err);
    REQUIRE_OK(model_config_complete(c, "m", &image_model, &err), err);
    CHECK_INT(c->max_batch_size, 16);
    CHECK_INT(c->input_count, 1);
    CHECK_TEXT(c->inputs[0].format, "FORMAT_NCHW");
    CHECK_TEXT(c->outputs[0].label_filename, "labels.txt");
    CHECK(c->policy == VERSION_SPECIFIC && c->specific_count == 2 && c->specific[0] == 1 && c->specific[1] == 3);
    CHECK_INT(c->instances, 3);
    const struct scheduler_options *o = &c->scheduling;
    CHECK(o->dynamic_batching && o->preferred_count == 2 && o->preferred[1] == 8 && o->max_queue_delay_us == 100 && o->preserve_ordering && o->priority_levels == 2 && o->default_priority == 1 && o->max_batch_rows == 16);
    CHECK(o->policy.delay && o->policy.default_timeout_us == 5000 && o->policy.allow_timeout_override && o->policy.max_queue_size == 7);
    CHECK(!o->level_has_policy[0] && o->level_has_policy[1] && o->level_policy[1].max_queue_size == 3 && !o->level_policy[1].delay);
    CHECK_TEXT(model_config_parameter(c, "k"), "v\nAA");
    CHECK(model_config_parameter(c, "none") == NULL);
    CHECK(c->warmup_count == 1 && c->warmups[0].batch_size == 2 && c->warmups[0].count == 1 && c->warmups[0].inputs[0].data == WARMUP_RANDOM);
    CHECK(c->picture.present && c->picture.usable && c->picture.bgr && c->picture.mean[2] == 0.125f && c->picture.width == 160 && c->picture.height == 224 && c->picture.channels == 3 && !c->picture.channels_last);
    char *json = json_of(c);
    CHECK(strstr(json, "{\"name\":\"m\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":\"\",\"version_policy\":{\"specific\":{\"versions\":[3,1]}},\"max_batch_size\":16,\"input\":[{\"name\":\"x\",\"data_type\":\"TYPE_FP32\",\"format\":\"FORMAT_NCHW\",\"dims\":[3,224,160],\"is_shape_tensor\":false,") == json);
    CHECK(strstr(json, "\"optimization\":{\"graph\":{\"level\":-1},\"priority\":\"PRIORITY_DEFAULT\",\"cuda\":{\"graphs\":true,"));
    CHECK(strstr(json, "\"parameters\":{\"k\":{\"string_value\":\"v\\nAA\"},"));
    struct model_config *again;              /* what is written can be read: the JSON form is a config, too */
    REQUIRE_OK(model_config_parse_json(&again, json, strlen(json), "written", NULL, &err), err);
    REQUIRE_OK(model_config_complete(again, "m", &image_model, &err), err);
    char *json_again = json_of(again);
    CHECK_TEXT(json_again, json);
    free(json);
    free(json_again);
    model_config_free(again);
    model_config_free(c);
}

TEST(nothing_said_is_derived)
{
    struct model_config *c;
    struct err err;
    REQUIRE_OK(parse(&c, NULL, &err), err);
    REQUIRE_OK(model_config_complete(c, "m", &image_model, &err), err);
    CHECK(!c->from_file && c->max_batch_size == 4 && c->scheduling.dynamic_batching && c->scheduling.max_batch_rows == 4);
    CHECK(c->input_count == 1 && c->inputs[0].rank == 3 && c->inputs[0].dims[0] == 3);
    CHECK(!c->picture.present && c->picture.usable && c->picture.scale == 1.0f / 255 && c->picture.filter == IMAGE_BILINEAR);
    char *json = json_of(c);
    CHECK_TEXT(json,
        "{\"name\":\"m\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":\"\",\"version_policy\":{\"latest\":{\"num_versions\":1}},\"max_batch_size\":4,"
        "\"input\":[{\"name\":\"x\",\"data_type\":\"TYPE_FP32\",\"format\":\"FORMAT_NONE\",\"dims\":[3,224,160],\"is_shape_tensor\":false,\"allow_ragged_batch\":false,\"optional\":false,\"is_non_linear_format_io\":false}],"
        "\"output\":[{\"name\":\"y\",\"data_type\":\"TYPE_FP32\",\"dims\":[10],\"label_filename\":\"\",\"is_shape_tensor\":false,\"is_non_linear_format_io\":false}],\"batch_input\":[],\"batch_output\":[],"
        "\"optimization\":{\"priority\":\"PRIORITY_DEFAULT\",\"input_pinned_memory\":{\"enable\":true},\"output_pinned_memory\":{\"enable\":true},\"gather_kernel_buffer_threshold\":0,\"eager_batching\":false},"
        "\"dynamic_batching\":{\"preferred_batch_size\":[4],\"max_queue_delay_microseconds\":0,\"preserve_ordering\":false,\"priority_levels\":0,\"default_priority_level\":0,\"priority_queue_policy\":{}},"
        "\"instance_group\":[{\"name\":\"m\",\"kind\":\"KIND_CPU\",\"count\":1,\"gpus\":[],\"secondary_devices\":[],\"profile\":[],\"passive\":false,\"host_policy\":\"\"}],"
        "\"default_model_filename\":\"model.onnx\",\"cc_model_filenames\":{},\"metric_tags\":{},\"parameters\":{},\"model_warmup\":[]}");
    free(json);
    model_config_free(c);
    REQUIRE_OK(parse(&c, "", &err), err);
    REQUIRE_OK(model_config_complete(c, "m", &pair_model, &err), err);
    CHECK(c->max_batch_size == 0 && !c->scheduling.dynamic_batching && c->scheduling.max_batch_rows == 1 && c->inputs[0].rank == 2 && c->inputs[1].dims[0] == -1 && !c->picture.usable);
    model_config_free(c);
}

TEST(errors_name_line_and_field)
{
    CHECK_REFUSED("name: \"m\"\n\nmax_batchsize: 3", "m/config.pbtxt line 3: ModelConfig has no field 'max_batchsize'");
    CHECK_REFUSED("input {\n name: \"x\"\n dim: 3 }", "line 3: ModelInput has no field 'dim'");
    CHECK_REFUSED("parameters { key: \"a\" values { } }", "an entry of 'parameters' has no field 'values'");
    CHECK_REFUSED("max_batch_size: 3\nmax_batch_size: 4", "line 2: field 'max_batch_size' of ModelConfig is given twice");
    CHECK_REFUSED("dynamic_batching {}\nsequence_batching {}", "exclude each other");
    CHECK_REFUSED("max_batch_size: 3000000000", "'max_batch_size' is out of its range");
    CHECK_REFUSED("max_batch_size: -1", "max_batch_size is -1");
    CHECK_REFUSED("max_batch_size: 1.5", "is no whole number");
    CHECK_REFUSED("max_batch_size 3", "':' is missing behind 'max_batch_size'");
    CHECK_REFUSED("name: m", "a string in quotes");
    CHECK_REFUSED("name: \"m", "without its closing quote");
    CHECK_REFUSED("name: \"\\q\"", "unknown escape");
    CHECK_REFUSED("name: \"a/b\"", "is no model name");
    CHECK_REFUSED("input { name: \"x\" data_type: TYPE_FP33 }", "'TYPE_FP33' is no value of field 'data_type'");
    CHECK_REFUSED("input { name: \"x\" dims: [3,", "whole number for field 'dims'");
    CHECK_REFUSED("input { name: \"x\" dims: [3 4] }", "',' or ']' is missing");
    CHECK_REFUSED("input { name: \"x\"", "the text ends before '}' of ModelInput");
    CHECK_REFUSED("}", "a field of ModelConfig is expected");
    CHECK_REFUSED("input: [ { name: \"x\" }, { name: \"x\" } ]", "given twice");
    CHECK_REFUSED("input { name: \"x\" dims: [1,1,1,1,1,1,1,1,1] }", "at most 8");
    CHECK_REFUSED("input { name: \"x\" dims: [0] }", "a dimension is 0");
    CHECK_REFUSED("output { name: \"y\" label_filename: \"../labels\" }", "not a plain file name");
    CHECK_REFUSED("version_policy { specific { versions: 0 } }", "version 0");
    CHECK_REFUSED("instance_group { count: 65 }", "more than 64 instances");
    CHECK_REFUSED("dynamic_batching { priority_levels: 65 default_priority_level: 1 }", "at most 64");
    CHECK_REFUSED("dynamic_batching { priority_levels: 2 }", "default_priority_level is 0");
    CHECK_REFUSED("dynamic_batching { priority_queue_policy { key: 1 value {} } }", "names level 1");
    CHECK_REFUSED("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", "above max_batch_size");
    CHECK_REFUSED("model_warmup { name: \"w\" }", "batch_size is 0");
    CHECK_REFUSED("parameters { key: \"picture.sise\" value { string_value: \"1x1\" } }", "no parameter 'picture.sise'");
    CHECK_REFUSED("parameters { key: \"picture.size\" value { string_value: \"100x224\" } }", "'picture.size' is 100x224, but input 'x' is 160 wide and 224 high");
    CHECK_REFUSED("parameters { key: \"picture.std\" value { string_value: \"1,0,1\" } }", "none of them 0");
    CHECK_REFUSED("parameters { key: \"picture.color\" value { string_value: \"grey\" } }", "'picture.color' has 1 channels");
    check_refused(__LINE__, "parameters { key: \"picture.color\" value { string_value: \"grey\" } }", &pair_model, "one input");
}

TEST(the_signature_has_the_last_word)
{
    CHECK_REFUSED("name: \"other\"", "names the model 'other', but its folder is 'm'");
    CHECK_REFUSED("platform: \"tensorrt_plan\"", "platform is 'tensorrt_plan'");
    CHECK_REFUSED("input { name: \"z\" }", "'z' that the model does not have");
    CHECK_REFUSED("input { name: \"x\" data_type: TYPE_INT64 }", "is int64 in the config, but the model's is float32");
    CHECK_REFUSED("max_batch_size: 8 input { name: \"x\" dims: [3,224,161] }", "has dims [3,224,161]");
    CHECK_REFUSED("max_batch_size: 8 input { name: \"x\" dims: [-1,3,224,160] }", "without the batch dimension");
    check_refused(__LINE__, "max_batch_size: 8", &pair_model, "is not free");
    struct model_config *c;
    struct err err;
    REQUIRE_OK(parse(&c, "input { name: \"x\" dims: [-1,3,224,160] }", &err), err);      /* batch dimension written out: no batching */
    CHECK_OK(model_config_complete(c, "m", &image_model, &err), err);
    CHECK_INT(c->max_batch_size, 0);
    CHECK(!c->scheduling.dynamic_batching && c->scheduling.max_batch_rows > 1000);      /* any number of rows in one request, alone */
    model_config_free(c);
}

TEST(json_form)
{
    struct model_config *c;
    struct err err;
    const char *text = "{\"maxBatchSize\": 8, \"input\":[{\"name\":\"x\",\"dataType\":11,\"dims\":[\"3\",224,160]}], \"dynamic_batching\":{\"maxQueueDelayMicroseconds\":\"250\"}, \"parameters\":{\"a\":{\"string_value\":\"b\"}}, \"optimization\":null}";
    REQUIRE_OK(model_config_parse_json(&c, text, strlen(text), "load", NULL, &err), err);
    CHECK_OK(model_config_complete(c, "m", &image_model, &err), err);
    CHECK(c->max_batch_size == 8 && c->scheduling.max_queue_delay_us == 250 && c->inputs[0].dims[0] == 3 && c->from_file);
    CHECK_TEXT(model_config_parameter(c, "a"), "b");
    model_config_free(c);
    static const char *const bad[][2] = { { "[]", "no JSON object" }, { "{\"x\":1}", "ModelConfig has no field 'x'" }, { "{\"max_batch_size\":1.5}", "no whole number" }, { "{\"max_batch_size\":1,\"maxBatchSize\":1}", "given twice" },
        { "{\"input\":{}}", "no array" }, { "{\"name\":3}", "no text" }, { "{\"dynamic_batching\":{\"preserve_ordering\":1}}", "neither true" }, { "{\"input\":[{\"data_type\":\"FP32\"}]}", "unknown value" }, { "{", "not JSON" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (model_config_parse_json(&c, bad[i][0], strlen(bad[i][0]), "load", NULL, &err) != ST_BAD_INPUT || !strstr(err.text, bad[i][1])) test_fail(__FILE__, __LINE__, "%s: %s", bad[i][0], err.text);
    }
}

TEST(sizes_are_bounded)
{
    struct model_config *c;
    struct err err;
    char *big = malloc(CONFIG_BYTES_MAX + 2);
    memset(big, ' ', CONFIG_BYTES_MAX + 1);
    REQUIRE_OK(model_config_parse(&c, big, CONFIG_BYTES_MAX, "w", NULL, &err), err);
    model_config_free(c);
    CHECK_INT(model_config_parse(&c, big, CONFIG_BYTES_MAX + 1, "w", NULL, &err), ST_TOO_LARGE);
    for (int i = 0; i + 13 < CONFIG_BYTES_MAX; i += 13) memcpy(big + i, "output{name: ", 13);
    CHECK_INT(model_config_parse(&c, big, CONFIG_BYTES_MAX, "w", NULL, &err), ST_BAD_INPUT);
    strcpy(big, "version_policy { specific { versions: [1");
    for (int i = 0; i < 1024; i++) strcat(big, ",1");
    strcat(big, "] } }");
    CHECK_INT(model_config_parse(&c, big, strlen(big), "w", NULL, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "more than 1024"));
    free(big);
}
