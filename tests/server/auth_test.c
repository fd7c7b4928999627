#include "server/auth.h"

#include "base/digest.h"
#include "tests/test.h"

#include <stdlib.h>

static void write_keys(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

static const char *hex_of(const char *key)
{
    static char hex[4][DIGEST_HEX + 1];
    static int next;
    uint8_t digest[DIGEST_BYTES];
    digest_bytes(key, strlen(key), digest);
    digest_hex(digest, hex[next = (next + 1) % 4]);
    return hex[next];
}

TEST(scopes_are_kept_apart)
{
    char path[128], text[512], who[AUTH_NAME_MAX];
    struct auth *a;
    struct err err;
    snprintf(path, sizeof path, "%s/keys", test_directory());
    snprintf(text, sizeof text, "# who may what\n%s infer alice\n\n  %s read,admin bob\r\n", hex_of("a"), hex_of("b"));
    write_keys(path, text);
    REQUIRE_OK(auth_open(&a, path, true, &err), err);
    CHECK_INT(auth_check(a, NULL, SCOPE_OPEN, who, &err), ST_OK);
    CHECK_INT(auth_check(a, NULL, SCOPE_READ, who, &err), ST_UNAUTHENTICATED);
    CHECK_INT(auth_check(a, "Basic a", SCOPE_INFER, who, &err), ST_UNAUTHENTICATED);
    CHECK_INT(auth_check(a, "Bearer c", SCOPE_INFER, who, &err), ST_UNAUTHENTICATED);
    CHECK_INT(auth_check(a, "Bearer a", SCOPE_INFER, who, &err), ST_OK);
    CHECK_TEXT(who, "alice");
    CHECK_INT(auth_check(a, "Bearer a", SCOPE_ADMIN, who, &err), ST_FORBIDDEN);
    CHECK_INT(auth_check(a, "bearer  b", SCOPE_ADMIN, who, &err), ST_OK);
    CHECK_INT(auth_check(a, "Bearer b", SCOPE_INFER, who, &err), ST_FORBIDDEN);
    snprintf(text, sizeof text, "%s infer alice\n%s infer bob\n%s read alice\n", hex_of("a"), hex_of("b"), hex_of("c"));
    write_keys(path, text);
    CHECK_INT(auth_reload(a, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "line 3: another key is called 'alice'") != NULL);
    write_keys(path, "nonsense\n");
    CHECK_INT(auth_reload(a, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "line 1") != NULL);
    CHECK_INT(auth_check(a, "Bearer a", SCOPE_INFER, who, &err), ST_OK);      /* the old keys stay */
    auth_close(a);
}

TEST(quotas_fill_up_again)
{
    enum { SECOND = 1000000000 };
    const uint64_t start = 1000 * (uint64_t)SECOND;
    char path[128], text[512];
    struct auth *a;
    struct err err;
    snprintf(path, sizeof path, "%s/keys", test_directory());
    snprintf(text, sizeof text, "%s infer alice requests=6 tokens=100\n%s infer bob\n", hex_of("a"), hex_of("b"));
    write_keys(path, text);
    REQUIRE_OK(auth_open(&a, path, false, &err), err);
    for (int i = 0; i < 6; i++) CHECK_INT(auth_charge(a, "alice", start, &err), ST_OK);
    CHECK_INT(auth_charge(a, "alice", start, &err), ST_TOO_MANY);
    CHECK(strstr(err.text, "6 requests a minute") != NULL);
    CHECK_INT(auth_charge(a, "alice", start + 9 * (uint64_t)SECOND, &err), ST_TOO_MANY);
    CHECK_INT(auth_charge(a, "alice", start + 11 * (uint64_t)SECOND, &err), ST_OK);
    REQUIRE_OK(auth_reload(a, &err), err);
    CHECK_INT(auth_charge(a, "alice", start + 11 * (uint64_t)SECOND, &err), ST_TOO_MANY);      /* what was taken stays taken */
    auth_spend(a, "alice", 150, start + 120 * (uint64_t)SECOND);
    CHECK_INT(auth_charge(a, "alice", start + 140 * (uint64_t)SECOND, &err), ST_TOO_MANY);
    CHECK(strstr(err.text, "100 tokens a minute") != NULL);
    CHECK_INT(auth_charge(a, "alice", start + 152 * (uint64_t)SECOND, &err), ST_OK);
    auth_spend(a, "bob", 1000000, start);
    for (int i = 0; i < 1000; i++) CHECK_INT(auth_charge(a, "bob", start, &err), ST_OK);
    auth_close(a);
}

TEST(bad_key_files_are_refused)
{
    static const struct { const char *text, *says; } bad[] = {
        { "", "no key" }, { "# nothing\n", "no key" }, { "abc infer x\n", "64 lower-case" },
        { "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA infer x\n", "64 lower-case" },
        { "0000000000000000000000000000000000000000000000000000000000000000 root x\n", "'root' is no scope" },
        { "0000000000000000000000000000000000000000000000000000000000000000 infer\n", "a name" },
        { "0000000000000000000000000000000000000000000000000000000000000000 infer x requests=0\n", "no quota" },
        { "0000000000000000000000000000000000000000000000000000000000000000 infer x tokens=5x\n", "no quota" },
        { "0000000000000000000000000000000000000000000000000000000000000000 infer x tokens=5 tokens=6\n", "no quota" },
        { "0000000000000000000000000000000000000000000000000000000000000000 infer x lots\n", "no quota" },
    };
    char path[128];
    snprintf(path, sizeof path, "%s/keys", test_directory());
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct auth *a = NULL;
        struct err err;
        write_keys(path, bad[i].text);
        CHECK_INT(auth_open(&a, path, false, &err), ST_BAD_INPUT);
        if (!strstr(err.text, bad[i].says)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, bad[i].says);
    }
}

TEST(hosts_and_origins)
{
    static const char *const good[] = { "localhost", "LocalHost:8000", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:80", "serving.internal", "serving.internal:80" };
    static const char *const bad[] = { "", ":80", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:80x", "[::1", "[::1]x", "10.0.0.1", "0.0.0.0", "[::]", "serving.internal.x" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) CHECK(auth_host_allowed(good[i], "a.b,serving.internal"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) CHECK(!auth_host_allowed(bad[i], "a.b,serving.internal"));
    CHECK(auth_origin_allowed("http://localhost:3000", ""));
    CHECK(auth_origin_allowed("https://[::1]", ""));
    CHECK(!auth_origin_allowed("null", ""));
    CHECK(!auth_origin_allowed("http://evil.example", ""));
    CHECK(!auth_origin_allowed("ftp://localhost", ""));
    CHECK(auth_is_loopback("127.0.0.1") && auth_is_loopback("::1") && !auth_is_loopback("0.0.0.0") && !auth_is_loopback("::") && !auth_is_loopback("192.168.0.1"));
}
