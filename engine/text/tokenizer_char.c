/* Properties of characters from utf8proc's tables, and GPT-2's alphabet: each byte is shown as one printable character, itself where it is
 * printable (! to ~, U+00A1 to U+00AC, U+00AE to U+00FF), else the next free one from U+0100 on. */
#include <utf8proc.h>

#include "engine/text/tokenizer_internal.h"

size_t char_read(const char *text, size_t left, int32_t *c)
{
    unsigned char b = (unsigned char)text[0];
    if (b < 0x80) return *c = b, 1;
    size_t n = b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
    if (n > left) return *c = 0xFFFD, left;
    int32_t v = b & (0xFF >> (n + 1));
    for (size_t i = 1; i < n; i++) v = v << 6 | (text[i] & 0x3F);
    *c = v;
    return n;
}

void char_put(struct buf *b, int32_t c)
{
    utf8proc_uint8_t bytes[4];
    buf_append(b, bytes, (size_t)utf8proc_encode_char(c, bytes));
}

bool char_is_space(int32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool char_is_punctuation(int32_t c)
{
    if (c < 128) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool char_is_number(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

bool char_is_mark(int32_t c, bool nonspacing_only)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || (!nonspacing_only && (k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME));
}

bool char_is_control(int32_t c)
{
    if (c == '\t' || c == '\n' || c == '\r') return false;
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CS || k == UTF8PROC_CATEGORY_CO;
}

bool char_is_word(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D;
}

bool char_is_chinese(int32_t c)
{
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) ||
           (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

int32_t char_lower(int32_t c) { return c < 128 ? (c >= 'A' && c <= 'Z' ? c + 32 : c) : utf8proc_tolower(c); }

int32_t char_of_byte(unsigned char b)
{
    if (b <= 0x20) return 0x100 + b;
    if (b >= 0x7F && b <= 0xA0) return 0x100 + 0x21 + (b - 0x7F);
    return b == 0xAD ? 0x143 : b;
}

int byte_of_char(int32_t c)
{
    if (c >= 0x100 && c <= 0x120) return c - 0x100;
    if (c >= 0x121 && c <= 0x142) return c - 0x121 + 0x7F;
    if (c == 0x143) return 0xAD;
    return (c > 0x20 && c < 0x7F) || (c > 0xA0 && c < 0x100 && c != 0xAD) ? c : -1;
}

void bytes_to_chars(struct buf *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) char_put(out, char_of_byte((unsigned char)text[i]));
}
