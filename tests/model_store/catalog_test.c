#include "model_store/catalog.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/test.h"

static const char *fresh_path(void)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/catalog.db", test_directory());
    return path;
}

static int64_t active_of(struct catalog *c)
{
    int64_t v = -1;
    CHECK(catalog_find_active(c, "m", &v));
    return v;
}

static int alias_sum;
static void count_alias(void *ctx, const char *alias, int64_t version) { (void)ctx, alias_sum += (int)version * (alias[0] == 'p' ? 1 : 100); }
static void count_loaded(void *ctx, const char *model) { strcat(ctx, model), strcat(ctx, ";"); }

TEST(what_was_recorded_is_there_after_reopening)
{
    struct catalog *c;
    struct err err;
    char hex[65], other[65], again[65], names[64] = "";
    const char *path = fresh_path();
    memset(hex, 'a', 64);
    hex[64] = 0;
    memcpy(other, hex, 65);
    other[0] = 'b';
    REQUIRE_OK(catalog_open(&c, path, &err), err);
    CHECK(!catalog_find_digest(c, "m", 1, again, &err) && !*again && active_of(c) == 0);
    CHECK(catalog_note_digest(c, "m", 1, hex));
    CHECK(catalog_note_digest(c, "m", 1, other));            /* the first word stands, unless somebody publishes */
    catalog_note_state(c, "m", 1, "READY", "");
    CHECK_OK(catalog_record_active(c, "m", 1, "activate", "ann", &err), err);
    CHECK_OK(catalog_record_active(c, "m", 2, "activate", "ann", &err), err);
    CHECK_OK(catalog_record_alias(c, "m", "prod", 2, "ann", &err), err);
    CHECK_OK(catalog_record_alias(c, "m", "canary", 3, "ann", &err), err);
    CHECK_OK(catalog_record_loaded(c, "b", true, "ann", &err), err);
    CHECK_OK(catalog_record_loaded(c, "a", true, "ann", &err), err);
    CHECK_OK(catalog_record_loaded(c, "a", true, "ann", &err), err);
    CHECK_OK(catalog_record_loaded(c, "b", false, "ann", &err), err);
    catalog_close(c);
    REQUIRE_OK(catalog_open(&c, path, &err), err);
    CHECK(!catalog_find_digest(c, "m", 1, again, &err) && !strcmp(hex, again));
    CHECK_OK(catalog_record_publish(c, "m", 1, other, "ann", &err), err);
    CHECK(!catalog_find_digest(c, "m", 1, again, &err) && !strcmp(other, again));
    CHECK_INT(active_of(c), 2);
    alias_sum = 0;
    catalog_each_alias(c, "m", count_alias, NULL);
    CHECK_INT(alias_sum, 302);
    catalog_each_loaded(c, count_loaded, names);
    CHECK_TEXT(names, "a;");
    catalog_forget_version(c, "m", 1);
    CHECK(!catalog_find_digest(c, "m", 1, again, &err) && !*again);
    struct buf b;
    buf_init(&b, 0);
    CHECK_OK(catalog_write_audit_json(c, 2, 2, &b, &err), err);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "[{\"id\":3,\"time\":\"20") == b.data && strstr(b.data, "\"who\":\"ann\",\"action\":\"alias\",\"subject\":\"m\",\"detail\":\"prod 2\"}") && strstr(b.data, "\"id\":4") && !strstr(b.data, "\"id\":5"));
    buf_free(&b);
    catalog_close(c);
}

TEST(the_audit_log_only_grows)
{
    struct catalog *c;
    struct err err;
    sqlite3 *db;
    const char *path = fresh_path();
    REQUIRE_OK(catalog_open(&c, path, &err), err);
    catalog_note_audit(c, "ann", "drain", "server", "x");
    REQUIRE(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK_INT(sqlite3_exec(db, "DELETE FROM audit", NULL, NULL, NULL), SQLITE_CONSTRAINT);
    CHECK_INT(sqlite3_exec(db, "UPDATE audit SET who = 'bob'", NULL, NULL, NULL), SQLITE_CONSTRAINT);
    sqlite3_close(db);
    struct buf b;
    buf_init(&b, 0);
    CHECK_OK(catalog_write_audit_json(c, 0, 10, &b, &err), err);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "\"who\":\"ann\",\"action\":\"drain\""));
    buf_free(&b);
    catalog_close(c);
}

TEST(a_locked_catalog_is_unavailable_in_time_and_unchanged)
{
    struct catalog *c;
    struct err err;
    sqlite3 *db;
    const char *path = fresh_path();
    REQUIRE_OK(catalog_open(&c, path, &err), err);
    CHECK_OK(catalog_record_active(c, "m", 1, "activate", "ann", &err), err);
    REQUIRE(sqlite3_open(path, &db) == SQLITE_OK);
    REQUIRE(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) == SQLITE_OK);
    uint64_t start = clock_ns();
    CHECK_INT(catalog_record_active(c, "m", 2, "activate", "ann", &err), ST_UNAVAILABLE);
    uint64_t took = clock_ns() - start;
    CHECK(took > 3500 * 1000000ull && took < 5500 * 1000000ull);
    start = clock_ns();
    catalog_note_state(c, "m", 1, "READY", "");
    CHECK(clock_ns() - start < 1000 * 1000000ull);
    CHECK_INT(active_of(c), 1);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(db);
    CHECK_OK(catalog_record_active(c, "m", 2, "activate", "ann", &err), err);
    CHECK_INT(active_of(c), 2);
    catalog_close(c);
}

TEST(a_damaged_catalog_is_refused_and_left_alone)
{
    struct catalog *c;
    struct err err;
    struct stat before, after;
    const char *path = fresh_path();
    REQUIRE_OK(catalog_open(&c, path, &err), err);
    CHECK_OK(catalog_record_active(c, "m", 1, "activate", "ann", &err), err);
    catalog_close(c);
    int fd = open(path, O_WRONLY);
    char junk[4096];
    memset(junk, 0x5a, sizeof junk);
    CHECK_INT(pwrite(fd, junk, sizeof junk, 0), sizeof junk);
    close(fd);
    stat(path, &before);
    CHECK_INT(catalog_open(&c, path, &err), ST_INTERNAL);
    CHECK(strstr(err.text, "the catalog is damaged"));
    stat(path, &after);
    CHECK(before.st_size == after.st_size && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    REQUIRE_OK(catalog_open(&c, NULL, &err), err);         /* in memory */
    CHECK_OK(catalog_record_active(c, "m", 1, "activate", "ann", &err), err);
    catalog_close(c);
}
