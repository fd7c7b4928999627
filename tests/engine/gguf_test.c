/* A file that is written is read back; then each rule of the reader meets a file that breaks it, made by hand. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/formats/gguf.h"
#include "tests/test.h"

static const float four[4] = { 1, 2, 3, 4 };

static void write_sample(struct buf *b, uint32_t alignment)
{
    struct gguf_writer *w;
    struct err err;
    uint8_t blocks[68] = { 7 };
    buf_init(b, 0);
    REQUIRE_OK(gguf_writer_open(&w, alignment, &err), err);
    gguf_writer_text(w, "general.architecture", "llama", 5);
    gguf_writer_u32(w, "llama.block_count", 3);
    gguf_writer_f32(w, "llama.epsilon", 0.5f);
    gguf_writer_bool(w, "flag", true);
    gguf_writer_texts(w, "words", (const char *const[]){ "a", "", "bc" }, (const size_t[]){ 1, 0, 2 }, 3);
    gguf_writer_array(w, "numbers", GGUF_I32, (const int32_t[]){ -1, 5 }, 2);
    gguf_writer_tensor(w, "m", WEIGHT_F32, (const int64_t[]){ 2, 2 }, 2);
    gguf_writer_tensor(w, "q", WEIGHT_Q8_0, (const int64_t[]){ 2, 32 }, 2);
    CHECK_OK(gguf_writer_start(w, weights_sink_buf(b), &err), err);
    CHECK_OK(gguf_writer_data(w, four, 10, &err), err);
    CHECK_OK(gguf_writer_data(w, (const char *)four + 10, 6, &err), err);
    CHECK_OK(gguf_writer_data(w, blocks, sizeof blocks, &err), err);
    CHECK_OK(gguf_writer_finish(w, &err), err);
    gguf_writer_close(w);
}

static void check_sample(const struct gguf *g)
{
    uint32_t n = 0;
    float f = 0;
    bool yes = false;
    struct gguf_array a;
    const char *text;
    size_t length;
    uint64_t at = 0;
    CHECK(gguf_text_is(g, "general.architecture", "llama"));
    CHECK(gguf_u32(g, "llama.block_count", &n) && n == 3);
    CHECK(gguf_f32(g, "llama.epsilon", &f) && f == 0.5f);
    CHECK(gguf_f32(g, "llama.block_count", &f) && f == 3);
    CHECK(gguf_bool(g, "flag", &yes) && yes);
    CHECK(!gguf_u32(g, "flag", &n) && !gguf_u32(g, "none", &n) && !gguf_text(g, "flag", &length));
    REQUIRE(gguf_array(g, "words", &a));
    CHECK(gguf_array_text(&a, &at, &text, &length) && length == 1 && text[0] == 'a');
    CHECK(gguf_array_text(&a, &at, &text, &length) && length == 0);
    CHECK(gguf_array_text(&a, &at, &text, &length) && length == 2 && !memcmp(text, "bc", 2));
    CHECK(!gguf_array_text(&a, &at, &text, &length));
    REQUIRE(gguf_array(g, "numbers", &a));
    CHECK_INT(gguf_array_int(&a, 0), -1);
    CHECK(gguf_array_real(&a, 1) == 5.0);
    const struct weight_tensor *m = weights_find(gguf_weights(g), "m"), *q = weights_find(gguf_weights(g), "q");
    REQUIRE(m && q && !weights_find(gguf_weights(g), "r"));
    CHECK(m->rank == 2 && m->dims[0] == 2 && m->bytes == 16 && !memcmp(m->data, four, 16));
    CHECK(q->dims[0] == 2 && q->dims[1] == 32 && q->bytes == 68 && q->data[0] == 7);
}

TEST(what_is_written_is_read)
{
    for (uint32_t alignment = 0; alignment <= 256; alignment += 128) {
        struct buf b;
        struct gguf *g;
        struct err err;
        write_sample(&b, alignment);
        REQUIRE_OK(gguf_open_bytes(&g, b.data, b.length, &err), err);
        check_sample(g);
        const struct weight_tensor *q = weights_find(gguf_weights(g), "q");
        CHECK_INT((q->data - (const uint8_t *)b.data) % (alignment ? alignment : 32), 0);
        gguf_close(g);
        buf_free(&b);
    }
}

TEST(every_cut_is_refused)
{
    struct buf b;
    write_sample(&b, 0);
    size_t padded = 28;                     /* behind the last tensor: 68 bytes in units of 32 */
    for (size_t n = 0; n < b.length; n++) {
        struct gguf *g;
        struct err err = { 0 };
        char *copy = malloc(n ? n : 1);
        memcpy(copy, b.data, n);
        enum status st = gguf_open_bytes(&g, copy, n, &err);
        if (n < b.length - padded) CHECK(st && err.text[0]);
        else CHECK_INT(st, ST_OK);
        if (!st) gguf_close(g);
        free(copy);
    }
    buf_free(&b);
}

/* Hand-made files: u8, u32 and u64 numbers and strings. */
static struct buf made;
static void n32(uint32_t v) { buf_append(&made, &v, 4); }
static void n64(uint64_t v) { buf_append(&made, &v, 8); }
static void text(const char *t) { n64(strlen(t)); buf_puts(&made, t); }
static void head(uint64_t tensors, uint64_t keys)
{
    buf_clear(&made);
    buf_puts(&made, "GGUF");
    n32(3);
    n64(tensors);
    n64(keys);
}
static void tensor(const char *name, uint32_t rank, uint64_t dim, uint32_t type, uint64_t offset)
{
    text(name);
    n32(rank);
    for (uint32_t i = 0; i < rank && i < 9; i++) n64(dim);
    n32(type);
    n64(offset);
}
static void data(size_t n)
{
    while (made.length % 32) buf_putc(&made, 0);
    for (; n; n--) buf_putc(&made, 0);
}
static void refused(const char *why)
{
    struct gguf *g;
    struct err err = { 0 };
    enum status st = gguf_open_bytes(&g, made.data, made.length, &err);
    if (!st) {
        test_fail(__FILE__, __LINE__, "a file was taken that should be refused: %s", why);
        gguf_close(g);
    } else if (!strstr(err.text, why)) test_fail(__FILE__, __LINE__, "refused with \"%s\", not \"%s\"", err.text, why);
}
static void taken(void)
{
    struct gguf *g;
    struct err err;
    REQUIRE_OK(gguf_open_bytes(&g, made.data, made.length, &err), err);
    gguf_close(g);
}

TEST(bad_heads_are_refused)
{
    head(0, 0);
    made.data[0] = 'g';
    refused("does not begin");
    head(0, 0);
    made.data[4] = 1;
    refused("version 1");
    made.data[4] = 0, made.data[7] = 3;
    refused("big-endian");
    head(65537, 0);
    refused("65537 tensors");
    head(0, 65537);
    refused("65537 keys");
    head(0, UINT64_MAX);
    refused("keys");
    head(60000, 0);
    refused("do not fit");
    head(0, 0);
    taken();                               /* nothing but a head is a file without tensors */
}

TEST(bad_keys_are_refused)
{
    head(0, 1);
    n64(UINT64_MAX);
    data(64);
    refused("does not fit");
    head(0, 1);
    n64(65536);
    for (int i = 0; i < 65536; i++) buf_putc(&made, 'k');
    data(64);
    refused("longer than 65535");
    head(0, 1);
    text(""); n32(GGUF_U8); data(64);
    refused("empty");
    head(0, 1);
    text("\xff"); n32(GGUF_U8); data(64);
    refused("UTF-8");
    head(0, 1);
    text("k"); n32(13); data(64);
    refused("no type of value");
    head(0, 1);
    text("k"); n32(GGUF_BOOL); buf_putc(&made, 2); data(64);
    refused("boolean");
    head(0, 1);
    text("k"); n32(GGUF_STRING); n64((uint64_t)1 << 63); data(64);
    refused("does not fit");
    head(0, 2);
    for (int i = 0; i < 2; i++) { text("k"); n32(GGUF_U32); n32(1); }
    data(64);
    refused("twice");
    head(0, 1);
    text("k"); n32(GGUF_ARRAY); n32(GGUF_U64); n64((uint64_t)1 << 61); data(64);
    refused("array of");
    head(0, 1);
    text("k"); n32(GGUF_ARRAY); n32(GGUF_ARRAY); n64(1); data(64);
    refused("arrays of arrays");
    head(0, 1);
    text("k"); n32(GGUF_ARRAY); n32(77); n64(1); data(64);
    refused("no type of array");
    head(0, 1);
    text("k"); n32(GGUF_ARRAY); n32(GGUF_STRING); n64(2); text("a"); n64(1000); data(64);
    refused("does not fit");
    for (uint32_t alignment = 0; alignment <= 1 << 21; alignment = alignment ? alignment * 2 : 3) {
        bool good = alignment && alignment <= 1 << 20 && !(alignment & (alignment - 1));
        head(0, 1);
        text("general.alignment"); n32(GGUF_U32); n32(alignment);
        data(64);
        if (good) taken();
        else refused("general.alignment");
        if (alignment == 3) alignment = 32;
    }
}

TEST(bad_tensors_are_refused)
{
    head(1, 0); tensor("t", 5, 1, 0, 0); data(64);
    refused("5 dimensions");
    head(1, 0); tensor("t", 0, 1, 0, 0); data(64);
    refused("0 dimensions");
    head(1, 0); tensor("t", 1, 0, 0, 0); data(64);
    refused("dimension is 0");
    head(1, 0); tensor("t", 1, UINT64_MAX, 0, 0); data(64);
    refused("dimension is");
    head(1, 0); tensor("t", 4, 1u << 20, 0, 0); data(64);
    refused("2^63");
    head(1, 0); tensor("t", 1, (uint64_t)1 << 62, 0, 0); data(64);
    refused("2^63");
    head(1, 0); tensor("t", 1, 4, 4, 0); data(64);
    refused("no known type");
    head(1, 0); tensor("t", 1, 4, 1001, 0); data(64);
    refused("no known type");
    head(1, 0); tensor("t", 1, 31, 8, 0); data(64);
    refused("multiple of 32");
    head(1, 0); tensor("t", 1, 4, 0, 4); data(64);
    refused("alignment");
    head(1, 0); tensor("t", 1, 17, 0, 0); data(64);
    refused("beyond");
    head(1, 0); tensor("t", 1, 4, 0, UINT64_MAX - 31); data(64);
    refused("beyond");
    head(2, 0); tensor("t", 1, 4, 0, 0); tensor("t", 1, 4, 0, 32); data(64);
    refused("two tensors");
    head(2, 0); tensor("t", 1, 9, 0, 0); tensor("u", 1, 4, 0, 32); data(64);
    refused("overlaps");
    head(1, 0); tensor("a23456789012345678901234567890123456789012345678901234567890123456789", 1, 4, 0, 0); data(64);
    refused("longer than 64");
    head(1, 0); tensor("t", 1, 16, 0, 0); data(64);
    taken();
    buf_free(&made);
}

static void write_part(const char *folder, const char *name, uint32_t no, const char *tensor_name)
{
    char path[700];
    struct gguf_writer *w;
    struct err err;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    REQUIRE_OK(gguf_writer_open(&w, 0, &err), err);
    gguf_writer_u32(w, "split.no", no);
    gguf_writer_u32(w, "split.count", 2);
    gguf_writer_u32(w, "split.tensors.count", 2);
    gguf_writer_tensor(w, tensor_name, WEIGHT_F32, (const int64_t[]){ 4 }, 1);
    CHECK_OK(gguf_writer_start(w, weights_sink_fd(&fd), &err), err);
    CHECK_OK(gguf_writer_data(w, four, 16, &err), err);
    CHECK_OK(gguf_writer_finish(w, &err), err);
    gguf_writer_close(w);
    close(fd);
}

TEST(a_split_file_is_one)
{
    const char *folder = test_directory();
    char path[700];
    struct gguf *g;
    struct err err;
    int dirfd = open(folder, O_RDONLY | O_DIRECTORY);
    write_part(folder, "m-00001-of-00002.gguf", 0, "one");
    write_part(folder, "m-00002-of-00002.gguf", 1, "two");
    snprintf(path, sizeof path, "%s/m-00001-of-00002.gguf", folder);
    REQUIRE_OK(gguf_open(&g, -1, path, &err), err);
    CHECK_INT(gguf_weights(g)->count, 2);
    const struct weight_tensor *two = weights_find(gguf_weights(g), "two");
    CHECK(two && !memcmp(two->data, four, 16));
    gguf_close(g);
    REQUIRE_OK(gguf_open(&g, dirfd, "m-00001-of-00002.gguf", &err), err);
    gguf_close(g);
    CHECK_INT(gguf_open(&g, dirfd, "m-00002-of-00002.gguf", &err), ST_BAD_INPUT);
    write_part(folder, "m-00002-of-00002.gguf", 1, "one");
    CHECK_INT(gguf_open(&g, dirfd, "m-00001-of-00002.gguf", &err), ST_BAD_INPUT);
    write_part(folder, "m-00002-of-00002.gguf", 0, "two");
    CHECK_INT(gguf_open(&g, dirfd, "m-00001-of-00002.gguf", &err), ST_BAD_INPUT);
    unlinkat(dirfd, "m-00002-of-00002.gguf", 0);
    CHECK_INT(gguf_open(&g, dirfd, "m-00001-of-00002.gguf", &err), ST_NOT_FOUND);
    close(dirfd);
}

TEST(real_files_are_read)
{
    static const char *const names[] = { "bert-bge", "deepseek-coder", "falcon", "gpt-2", "llama-spm" };
    const char *shared = test_shared();
    char path[700];
    if (!shared) SKIP("the vocabularies of ../shared are not here");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct gguf *g;
        struct gguf_array a;
        struct err err;
        snprintf(path, sizeof path, "%s/data/vocab/%s.gguf", shared, names[i]);
        REQUIRE_OK(gguf_open(&g, -1, path, &err), err);
        CHECK(gguf_array(g, "tokenizer.ggml.tokens", &a) && a.type == GGUF_STRING && a.count > 1000);
        gguf_close(g);
    }
    struct gguf *g;
    struct err err;
    snprintf(path, sizeof path, "%s/demo/dictionary/dictionary-q8_0.gguf", shared);
    REQUIRE_OK(gguf_open(&g, -1, path, &err), err);
    const struct weight_tensor *t = weights_find(gguf_weights(g), "token_embd.weight");
    CHECK(t && t->rank == 2 && t->dims[0] == 4096 && t->dims[1] == 256 && t->type == WEIGHT_Q8_0);
    gguf_close(g);
}
