/* A file that is written is read back; then each rule of the reader meets a file that breaks it. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/formats/safetensors.h"
#include "tests/test.h"

static const float numbers[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };

TEST(what_is_written_is_read)
{
    struct weight_tensor t[3] = {
        { .name = "a", .type = WEIGHT_F32, .rank = 2, .dims = { 2, 3 }, .data = (const uint8_t *)numbers, .bytes = 24 },
        { .name = "scalar \"x\"", .type = WEIGHT_BF16, .rank = 0, .data = (const uint8_t *)numbers, .bytes = 2 },
        { .name = "none", .type = WEIGHT_I64, .rank = 1, .dims = { 0 }, .bytes = 0 },
    };
    struct buf b;
    struct safetensors *s;
    struct err err;
    buf_init(&b, 0);
    REQUIRE_OK(safetensors_write(weights_sink_buf(&b), t, 3, (const char *const[]){ "format", "pt" }, 1, &err), err);
    REQUIRE_OK(safetensors_open_bytes(&s, b.data, b.length, &err), err);
    const struct weight_tensor *a = weights_find(safetensors_weights(s), "a"), *x = weights_find(safetensors_weights(s), "scalar \"x\"");
    REQUIRE(a && x);
    CHECK(a->rank == 2 && a->dims[1] == 3 && !memcmp(a->data, numbers, 24));
    CHECK(x->rank == 0 && x->bytes == 2);
    CHECK_TEXT(safetensors_metadata(s, "format"), "pt");
    CHECK(!safetensors_metadata(s, "other"));
    safetensors_close(s);
    for (size_t n = 0; n < b.length; n++) {
        char *copy = malloc(n ? n : 1);
        memcpy(copy, b.data, n);
        CHECK(safetensors_open_bytes(&s, copy, n, &err));
        free(copy);
    }
    t[0].type = WEIGHT_Q8_0;
    CHECK_INT(safetensors_write(weights_sink_buf(&b), t, 3, NULL, 0, &err), ST_UNSUPPORTED);
    buf_free(&b);
}

static void make(struct buf *b, const char *head, uint64_t length, int bytes)
{
    buf_clear(b);
    buf_append(b, &length, 8);
    buf_puts(b, head);
    while (bytes-- > 0) buf_putc(b, 0);
}

static void refused(const char *head, uint64_t length, int bytes, const char *why)
{
    struct safetensors *s;
    struct err err = { 0 };
    struct buf b;
    buf_init(&b, 0);
    make(&b, head, length ? length : strlen(head), bytes);
    if (!safetensors_open_bytes(&s, b.data, b.length, &err)) {
        test_fail(__FILE__, __LINE__, "taken: %s", head);
        safetensors_close(s);
    } else if (!strstr(err.text, why)) test_fail(__FILE__, __LINE__, "refused with \"%s\", not \"%s\"", err.text, why);
    buf_free(&b);
}

TEST(bad_files_are_refused)
{
    refused("{}", 100000001, 0, "head of");
    refused("{}", 3, 0, "head of");
    refused(" {}", 0, 0, "no JSON object");
    refused("{]", 0, 0, "not JSON");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 3, "beyond");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 5, "end at");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 0, 8, "need 4");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 0, 8, "begins at 4");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4, "begins at 0");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}", 0, 12, "begins at 8");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 0, 8, "two tensors");
    refused("{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4, "F33");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 0, 4, "natural");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 0, 4, "natural");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}}", 0, 4, "2^63");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 0, 4, "up to 8");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 0, 4, "ascending");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 0, 4, "exactly");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 0, 4, "exactly");
    refused("{\"a\":7}", 0, 4, "exactly");
    refused("{\"__metadata__\":{\"a\":1}}", 0, 0, "no text");
    refused("{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 0, 4, "name of 0");
    char head[700];
    snprintf(head, sizeof head, "{\"%0513d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 7);
    refused(head, 0, 4, "name of 513");
}

static void put(const char *folder, const char *name, const void *bytes, size_t n)
{
    char path[700];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    CHECK_INT(write(fd, bytes, n), n);
    close(fd);
}

TEST(shards_are_one)
{
    const char *folder = test_directory();
    int dirfd = open(folder, O_RDONLY | O_DIRECTORY);
    struct safetensors *s;
    struct err err;
    struct buf b;
    buf_init(&b, 0);
    make(&b, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 54, 4);
    put(folder, "one.safetensors", b.data, b.length);
    make(&b, "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 54, 8);
    put(folder, "two.safetensors", b.data, b.length);
    static const char good[] = "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", swapped[] = "{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}",
                      missing[] = "{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}", outside[] = "{\"weight_map\":{\"a\":\"../one.safetensors\"}}";
    put(folder, "model.safetensors.index.json", good, sizeof good - 1);
    REQUIRE_OK(safetensors_open(&s, dirfd, "model.safetensors.index.json", &err), err);
    CHECK(weights_find(safetensors_weights(s), "a") && weights_find(safetensors_weights(s), "b"));
    safetensors_close(s);
    char path[700];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    REQUIRE_OK(safetensors_open(&s, -1, path, &err), err);
    safetensors_close(s);
    put(folder, "model.safetensors.index.json", swapped, sizeof swapped - 1);
    CHECK_INT(safetensors_open(&s, dirfd, "model.safetensors.index.json", &err), ST_BAD_INPUT);
    put(folder, "model.safetensors.index.json", missing, sizeof missing - 1);
    CHECK_INT(safetensors_open(&s, dirfd, "model.safetensors.index.json", &err), ST_BAD_INPUT);
    put(folder, "model.safetensors.index.json", outside, sizeof outside - 1);
    CHECK_INT(safetensors_open(&s, dirfd, "model.safetensors.index.json", &err), ST_BAD_INPUT);
    close(dirfd);
    buf_free(&b);
}

TEST(a_real_file_is_read)
{
    const char *shared = test_shared();
    char path[700];
    struct safetensors *s;
    struct err err;
    if (!shared) SKIP("the demo dictionary of ../shared is not here");
    snprintf(path, sizeof path, "%s/demo/dictionary/hf/model.safetensors", shared);
    REQUIRE_OK(safetensors_open(&s, -1, path, &err), err);
    const struct weight_tensor *t = weights_find(safetensors_weights(s), "model.embed_tokens.weight");
    CHECK(t && t->type == WEIGHT_F16 && t->dims[0] == 4096 && t->dims[1] == 256);
    safetensors_close(s);
}
