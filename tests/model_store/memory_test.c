/* own heap: the n-th allocation fails, for every n until none is left to fail: a clean error each time, and nothing kept (F9). The heap's own entries are
 * replaced here, so the suite says SKIP under the sanitizers, which need them. */
#include "model_store/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/json.h"
#include "model_store/catalog.h"
#include "model_store/repository.h"
#include "tests/model_store/fake_engine.h"
#include "tests/test.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include "tests/starved_heap.h"

/* Runs the operation until it meets no failure any more; it returns what it was told, and must succeed in the end. */
static void starve(int line, enum status (*operation)(void), bool strict, long most)
{
    long n = 0, runs = 0;
    for (;; n += 1 + n / 64, runs++) {
        long before = atomic_load(&live);
        atomic_store(&countdown, n);
        enum status st = operation();
        bool met = atomic_exchange(&countdown, -1) < 0;
        long kept = atomic_load(&live) - before;
        if (kept > 0 && runs) test_fail(__FILE__, line, "allocation %ld fails: %ld blocks are kept", n, kept);
        if (met && strict && st != ST_NO_MEMORY && st != ST_OK) test_fail(__FILE__, line, "allocation %ld fails: status %d", n, st);
        if (!met && st) test_fail(__FILE__, line, "status %d without a failure", st);
        if (!met || runs > most) break;
    }
    if (runs < 3) test_fail(__FILE__, line, "only %ld allocations were met", n);
}

static enum status config_operation(void)
{
    static const struct port in = { .name = "x", .dtype = DT_F32, .rank = 4, .dims = { -1, 3, 8, 8 } }, out = { .name = "y", .dtype = DT_F32, .rank = 2, .dims = { -1, 10 } };
    static const struct signature s = { .platform = "onnxruntime_onnx", .inputs = &in, .input_count = 1, .outputs = &out, .output_count = 1, .batchable = true };
    static const char text[] = "max_batch_size: 4 input { name: 'x' dims: [3, 8, 8] } parameters { key: 'picture.fit' value { string_value: 'stretch' } } instance_group { count: 2 }"
                               "model_warmup { name: 'w' batch_size: 1 inputs { key: 'x' value { data_type: TYPE_FP32 dims: [3, 8, 8] zero_data: true } } }";
    struct model_config *c, *again;
    struct err err;
    struct buf b;
    enum status st = model_config_parse(&c, text, sizeof text - 1, "m", NULL, &err);
    if (st) return st;
    buf_init(&b, 0);
    st = model_config_complete(c, "m", &s, &err);
    if (!st) model_config_write_json(&b, c);
    if (!st && b.failed) st = ST_NO_MEMORY;
    if (!st) st = model_config_parse_json(&again, b.data, b.length, "m", NULL, &err);
    if (!st) model_config_free(again);
    buf_free(&b);
    model_config_free(c);
    return st;
}

static enum status repository_operation(void)
{
    struct repository *r;
    struct repository_upload *u;
    struct err err;
    char hex[65], **names;
    int models;
    uint8_t d[32];
    struct version_kind kind;
    static int64_t version = 100;
    enum status st = repository_open(&r, store, NULL, &err);
    if (st) return st == ST_NOT_FOUND ? ST_NO_MEMORY : st;         /* realpath has no memory: told as a store that cannot be opened */
    digest_bytes("abc", 3, d);
    version++;
    st = repository_list_models(r, &names, &models, &err);
    if (!st) free(names);
    if (!st) st = repository_find_kind(r, "a", 1, &kind, &err);
    if (!st) st = repository_digest(r, "a", 1, hex, NULL, NULL, &err);
    if (!st) st = repository_upload_begin(r, "a", version, "model.onnx", 3, d, &u, &err);
    if (!st && (st = repository_upload_write(u, "abc", 3, &err))) repository_upload_abort(u);
    else if (!st) st = repository_upload_commit(u, &err);
    if (!st) st = repository_publish(r, "a", version, &err);
    repository_close(r);
    return st == ST_INTERNAL || st == ST_NOT_FOUND ? ST_NO_MEMORY : st;      /* opendir without memory */
}

static enum status catalog_operation(void)
{
    struct catalog *c;
    struct err err;
    char path[300], hex[65];
    snprintf(path, sizeof path, "%s/catalog.db", store);
    enum status st = catalog_open(&c, path, &err);
    if (st) return st;
    st = catalog_record_active(c, "m", 2, "activate", "ann", &err);
    if (!st) st = catalog_record_alias(c, "m", "prod", 2, "ann", &err);
    catalog_note_state(c, "m", 2, "READY", "");
    catalog_find_digest(c, "m", 2, hex, &err);
    catalog_close(c);
    return st;
}

static struct expiry *expiry;
static bool serves;

static enum status registry_operation(void)
{
    static const struct engine_ops *const engines[] = { &fake_engine };
    struct registry_options o = { .store = store, .threads = 1, .engines = engines, .engine_count = 1, .expiry = expiry, .strict_readiness = true };
    struct registry *r;
    struct model_version *v;
    struct err err;
    enum status st = registry_open(&r, &o, &err);
    if (st) return st;
    registry_settle(r);
    serves = !registry_pin(r, "a", 1, 0, &v, &err);
    if (serves) registry_unpin(r, v);
    registry_set_alias(r, "a", "x", 1, "ann", &err);
    registry_close(r);
    if (fake_counts.alive || fake_counts.instances) test_fail(__FILE__, __LINE__, "an engine was left open");
    return ST_OK;
}

TEST(configs_without_memory) { starve(__LINE__, config_operation, true, 5000); }

TEST(store_without_memory)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("b/1/model.onnx", "value=1");
    starve(__LINE__, repository_operation, true, 5000);
}

TEST(catalog_without_memory)
{
    store = test_directory();
    starve(__LINE__, catalog_operation, false, 5000);
}

TEST(registry_without_memory)
{
    struct err err;
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/config.pbtxt", "max_batch_size: 4");
    REQUIRE_OK(expiry_open(&expiry, &err), err);
    CHECK_INT(registry_operation(), ST_OK);       /* what the C library keeps for threads is taken now */
    starve(__LINE__, registry_operation, false, 400);
    CHECK_INT(registry_operation(), ST_OK);
    CHECK(serves);
    expiry_close(expiry);
}

#else
TEST(no_memory) { SKIP("the sanitizers have a heap of their own"); }
#endif
