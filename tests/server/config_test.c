#include "server/config.h"

#include "tests/test.h"

#include <stdlib.h>

static struct server_config c;
static struct err err;

static enum status read_flags(int n, const char **flags)
{
    char *argv[16] = { (char *)"serve" };
    bool help;
    for (int i = 0; i < n; i++) argv[i + 1] = (char *)flags[i];
    config_free(&c);
    return config_read(&c, n + 1, argv, &help, &err);
}

#define FLAGS(...) read_flags(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *), (const char *[]){ __VA_ARGS__ })

TEST(flags_in_both_forms)
{
    REQUIRE_OK(FLAGS("--store", "S", "--http-port=0", "--metrics-port", "off", "--strict-readiness", "false", "--insecure-no-auth", "--control", "explicit", "--load-model", "a", "--load-model=b"), err);
    CHECK_TEXT(c.store, "S");
    CHECK_INT(c.http_port, 0);
    CHECK_INT(c.metrics_port, PORT_OFF);
    CHECK(!c.strict_readiness && c.insecure_no_auth);
    CHECK_INT(c.load_models.count, 2);
    CHECK_TEXT(c.load_models.items[1], "b");
    CHECK_TEXT(c.host, "127.0.0.1");
    config_free(&c);
}

static void wrong(const char *flag, const char *value, const char *says)
{
    const char *flags[] = { "--store", "S", flag, value };
    CHECK_INT(read_flags(value ? 4 : 3, flags), ST_BAD_INPUT);
    if (!strstr(err.text, says)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, says);
}

TEST(wrong_flags_are_named)
{
    wrong("--nothing", "1", "--nothing");
    wrong("store", NULL, "'store' is no flag");
    wrong("--http-port", "65536", "0 to 65535");
    wrong("--http-port", "-1", "0 to 65535");
    wrong("--http-port", "8000x", "a number");
    wrong("--http-port", NULL, "needs a value");
    wrong("--control", "some", "none, poll or explicit");
    wrong("--strict-readiness=maybe", NULL, "true or false");
    wrong("--load-model", "x", "--control explicit");
    wrong("--precision", "f8", "f32");
    CHECK_INT(FLAGS("--http-port", "1"), ST_BAD_INPUT);
    CHECK(strstr(err.text, "--store") != NULL);
    config_free(&c);
}

TEST(a_file_sets_and_flags_win)
{
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", test_directory());
    FILE *f = fopen(path, "w");
    fputs("{\"store\":\"F\",\"http-port\":1234,\"metrics-port\":\"off\",\"control\":\"explicit\",\"load-model\":[\"m\"],\"access-log\":false,\"drain-delay\":5}", f);
    fclose(f);
    REQUIRE_OK(FLAGS("--config", path, "--http-port", "99"), err);
    CHECK_TEXT(c.store, "F");
    CHECK_INT(c.http_port, 99);
    CHECK_INT(c.metrics_port, PORT_OFF);
    CHECK_INT(c.drain_delay_s, 5);
    CHECK(!c.access_log && c.load_models.count == 1);
    struct buf b;
    buf_init(&b, 0);
    config_write_json(&b, &c);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "\"http-port\":99") && strstr(b.data, "\"metrics-port\":\"off\"") && strstr(b.data, "\"load-model\":[\"m\"]"));
    buf_free(&b);
    static const struct { const char *text, *says; } bad[] = { { "[]", "object" }, { "{", "not JSON" }, { "{\"x\":1}", "'x' is no setting" }, { "{\"http-port\":\"a\"}", "a number" }, { "{\"store\":1}", "wrong kind" }, { "{\"drain-delay\":-1}", "0 to 3600" } };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        f = fopen(path, "w");
        fputs(bad[i].text, f);
        fclose(f);
        CHECK_INT(FLAGS("--config", path, "--store", "S"), ST_BAD_INPUT);
        if (!strstr(err.text, bad[i].says)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.text, bad[i].says);
    }
    config_free(&c);
}
