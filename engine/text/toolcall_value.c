/* Values that are not quite JSON, made into JSON: Python's literals (True, None, 'text', a trailing comma) and keys without quotes. No recursion: the brackets that are open
 * lie in a string of TOOLCALL_DEPTH_MAX characters. */
#include "engine/text/toolcall_internal.h"

#include <string.h>

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
static void skip_space(struct span *s) { while (s->p < s->end && is_space(*s->p)) s->p++; }

static bool starts(const struct span *s, const char *what)
{
    size_t n = strlen(what);
    return (size_t)(s->end - s->p) >= n && !memcmp(s->p, what, n);
}

static void put_rune(struct buf *b, uint32_t c)
{
    if (c < 0x80) buf_putc(b, (char)c);
    else if (c < 0x800) buf_printf(b, "%c%c", (int)(0xc0 | c >> 6), (int)(0x80 | (c & 63)));
    else if (c < 0x10000) buf_printf(b, "%c%c%c", (int)(0xe0 | c >> 12), (int)(0x80 | (c >> 6 & 63)), (int)(0x80 | (c & 63)));
    else buf_printf(b, "%c%c%c%c", (int)(0xf0 | c >> 18), (int)(0x80 | (c >> 12 & 63)), (int)(0x80 | (c >> 6 & 63)), (int)(0x80 | (c & 63)));
}

/* Four hexadecimal digits. */
static bool read_hex(struct span *s, uint32_t *code)
{
    *code = 0;
    if (s->end - s->p < 4) return false;
    for (int i = 0; i < 4; i++) {
        char h = *s->p++;
        int digit = h >= '0' && h <= '9' ? h - '0' : h >= 'a' && h <= 'f' ? h - 'a' + 10 : h >= 'A' && h <= 'F' ? h - 'A' + 10 : -1;
        if (digit < 0) return false;
        *code = *code << 4 | (uint32_t)digit;
    }
    return true;
}

/* The character behind a backslash; a surrogate without its other half becomes U+FFFD. */
static bool read_escape(struct span *s, struct buf *text)
{
    static const char from[] = "nrtbf", to[] = "\n\r\t\b\f";
    if (s->p >= s->end) return false;
    char c = *s->p++;
    const char *known = c ? strchr(from, c) : NULL;
    if (known) {
        buf_putc(text, to[known - from]);
    } else if (c == 'u') {
        uint32_t code, low;
        if (!read_hex(s, &code)) return false;
        struct span rest = { s->p + 2, s->end };
        if (code >= 0xd800 && code < 0xdc00 && s->end - s->p >= 6 && s->p[0] == '\\' && s->p[1] == 'u' && read_hex(&rest, &low) && low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            *s = rest;
        }
        put_rune(text, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);
    } else {
        buf_putc(text, c);
    }
    return true;
}

static bool read_string(struct span *s, struct buf *out)
{
    static const char mark[] = "<|\"|>";
    if (starts(s, mark)) {
        const char *begin = s->p + sizeof mark - 1, *end = memmem(begin, (size_t)(s->end - begin), mark, sizeof mark - 1);
        if (!end) return false;
        json_write_string(out, begin, (size_t)(end - begin));
        s->p = end + sizeof mark - 1;
        return true;
    }
    char quote = *s->p++;
    struct buf text;
    bool fine = true;
    buf_init(&text, TOOLCALL_BYTES_MAX);
    while (fine && s->p < s->end && *s->p != quote) {
        if (*s->p == '\\') {
            s->p++;
            fine = read_escape(s, &text);
        } else {
            buf_putc(&text, *s->p++);
        }
    }
    fine = fine && s->p < s->end && !text.failed;
    if (fine) {
        s->p++;
        json_write_string(out, text.data ? text.data : "", text.length);
    }
    buf_free(&text);
    return fine;
}

static bool is_string(const struct span *s) { return s->p < s->end && (*s->p == '"' || *s->p == '\'' || starts(s, "<|\"|>")); }
static bool is_word(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }

static bool read_scalar(struct span *s, struct buf *out)
{
    static const char *const words[][2] = { { "true", "true" }, { "True", "true" }, { "false", "false" }, { "False", "false" }, { "null", "null" }, { "None", "null" } };
    struct json number;
    if (is_string(s)) return read_string(s, out);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i][0]);
        if (!starts(s, words[i][0]) || (s->p + n < s->end && is_word(s->p[n]))) continue;
        buf_puts(out, words[i][1]);
        s->p += n;
        return true;
    }
    const char *end = json_number(s->p, s->end, &number);
    if (!end) return false;
    buf_append(out, s->p, (size_t)(end - s->p));
    s->p = end;
    return true;
}

/* A key and its colon. */
static bool read_key(struct span *s, struct buf *out)
{
    skip_space(s);
    if (is_string(s)) {
        if (!read_string(s, out)) return false;
    } else {
        const char *begin = s->p;
        while (s->p < s->end && !strchr(":,{}[]\"' \n", *s->p)) s->p++;
        if (s->p == begin) return false;
        json_write_string(out, begin, (size_t)(s->p - begin));
    }
    skip_space(s);
    if (s->p >= s->end || *s->p != ':') return false;
    s->p++;
    buf_puts(out, ": ");
    return true;
}

bool toolcall_read_value(struct span *s, struct buf *out)
{
    char open[TOOLCALL_DEPTH_MAX];      /* the closing bracket of each that is open */
    int depth = 0;
    for (;;) {
        skip_space(s);
        if (s->p >= s->end) return false;
        bool begun = *s->p == '{' || *s->p == '[';
        if (begun) {
            if (depth == TOOLCALL_DEPTH_MAX) return false;
            buf_putc(out, *s->p);
            open[depth++] = *s->p++ == '{' ? '}' : ']';
        } else if (!read_scalar(s, out)) {
            return false;
        }
        for (;;) {      /* behind a value, or just within a bracket */
            if (!depth) return !out->failed;
            skip_space(s);
            if (s->p >= s->end) return false;
            bool comma = !begun && *s->p == ',';
            if (!begun && !comma && *s->p != open[depth - 1]) return false;
            if (comma) {
                s->p++;
                skip_space(s);
                if (s->p >= s->end) return false;
            }
            if (*s->p == open[depth - 1]) {
                buf_putc(out, *s->p++);
                depth--;
                begun = false;
                continue;
            }
            if (comma) buf_puts(out, ", ");
            if (open[depth - 1] == '}' && !read_key(s, out)) return false;
            break;
        }
    }
}
