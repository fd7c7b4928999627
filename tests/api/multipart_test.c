/* Forms as clients post them, and forms that hold to no rule */
#include "api/multipart.h"

#include <stdio.h>
#include <string.h>

#include "tests/test.h"

static const char type[] = "multipart/form-data; boundary=\"a b\"";
#define PART(name, rest, data) "--a b\r\nContent-Disposition: form-data; name=\"" name "\"" rest "\r\n\r\n" data "\r\n"

static enum status parse(struct form_part *parts, int *count, const char *content_type, const char *body, struct err *err) { return multipart_parse(parts, count, content_type, body, strlen(body), err); }

TEST(parts_have_names_and_bytes)
{
    struct form_part parts[FORM_PARTS_MAX];
    struct err err = { 0 };
    int count;
    const char body[] = "before\r\n" PART("prompt", "", "a red\r\n--a circle") PART("image", "; filename=\"x \\\"y.png\"\r\nContent-Type: image/png", "\x89PNG\r\n\r\n\r\n") PART("empty", "", "") "--a b--\r\nafter";
    REQUIRE_OK(multipart_parse(parts, &count, type, body, sizeof body - 1, &err), err);
    CHECK_INT(count, 3);
    const struct form_part *p = multipart_find(parts, count, "prompt");
    REQUIRE(p);
    CHECK(p->length == 17 && !memcmp(p->data, "a red\r\n--a circle", 17) && !p->file);
    p = multipart_find(parts, count, "image");
    REQUIRE(p);
    CHECK(p->file && p->length == 10 && !memcmp(p->data, "\x89PNG\r\n\r\n\r\n", 10));
    p = multipart_find(parts, count, "empty");
    REQUIRE(p);
    CHECK_INT(p->length, 0);
    CHECK(!multipart_find(parts, count, "emp"));
    REQUIRE_OK(parse(parts, &count, "Multipart/Form-Data;charset=utf-8; boundary=x", "--x--", &err), err);
    CHECK_INT(count, 0);
}

TEST(what_is_no_form_is_refused)
{
    struct form_part parts[FORM_PARTS_MAX];
    struct err err = { 0 };
    int count;
    CHECK_INT(parse(parts, &count, NULL, "--x--", &err), ST_BAD_MEDIA);
    CHECK_INT(parse(parts, &count, "application/json", "{}", &err), ST_BAD_MEDIA);
    CHECK_INT(parse(parts, &count, "multipart/form-data", "--x--", &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, "multipart/form-data; boundary=", "--x--", &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, "multipart/form-data; boundary=\"x", "--x--", &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, type, "", &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, type, "--a b", &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, type, "--a b\r\n", &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, type, PART("x", "", "cut"), &err), ST_BAD_INPUT);
    CHECK_INT(parse(parts, &count, type, "--a b\r\nContent-Type: text/plain\r\n\r\nno name\r\n--a b--", &err), ST_BAD_INPUT);
    char boundary[128] = "multipart/form-data; boundary=";
    memset(boundary + strlen(boundary), 'x', FORM_BOUNDARY_MAX + 1);
    CHECK_INT(parse(parts, &count, boundary, "--x--", &err), ST_BAD_INPUT);
}

TEST(parts_and_headers_have_limits)
{
    struct form_part parts[FORM_PARTS_MAX];
    struct err err = { 0 };
    int count;
    char body[32 << 10], *p = body;
    for (int i = 0; i < FORM_PARTS_MAX; i++) p += sprintf(p, PART("x", "", "%d"), i);
    strcpy(p, "--a b--");
    REQUIRE_OK(parse(parts, &count, type, body, &err), err);
    CHECK_INT(count, FORM_PARTS_MAX);
    strcpy(p, PART("x", "", "one more") "--a b--");
    CHECK_INT(parse(parts, &count, type, body, &err), ST_TOO_LARGE);
    p = body + sprintf(body, "--a b\r\nContent-Disposition: form-data; name=\"x\"\r\nX: ");
    memset(p, 'y', FORM_HEADERS_MAX);
    strcpy(p + FORM_HEADERS_MAX, "\r\n\r\ndata\r\n--a b--");
    CHECK_INT(parse(parts, &count, type, body, &err), ST_BAD_INPUT);
}
