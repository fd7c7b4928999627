/* Patterns, by PCRE2 with its JIT compiler where it may run. The files' patterns are written for Oniguruma or Rust's regex; what \s and \w mean
 * differs, so they are written out: White_Space, and Unicode's word characters (letters, marks, decimal and letter numbers, connectors, joiners). A match that exceeds its limit fails the one call. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer_internal.h"

#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

#define WORDS "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200c}\\x{200d}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

enum { MATCH_LIMIT = 20000000, HEAP_KIB = 65536, JIT_STACK_MIN = 32 << 10, JIT_STACK_MAX = 4 << 20 };

struct matcher { pcre2_match_context *context; pcre2_match_data *data; pcre2_jit_stack *stack; };

/* false: the pattern nests or intersects classes, which PCRE2 would read as something else. */
static bool translate(struct buf *out, const char *p, size_t n)
{
    int depth = 0;                                     /* within a bracketed class */
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\\' && i + 1 < n) {
            char c = p[++i];
            if (c == 's') buf_puts(out, depth ? SPACES : "[" SPACES "]");
            else if (c == 'S' && !depth) buf_puts(out, "[^" SPACES "]");
            else if (c == 'w') buf_puts(out, depth ? WORDS : "[" WORDS "]");
            else if (c == 'W' && !depth) buf_puts(out, "[^" WORDS "]");
            else buf_putc(out, '\\'), buf_putc(out, c);
            continue;
        }
        if (p[i] == '[' && !depth) {
            depth = 1;
            buf_putc(out, '[');
            if (i + 1 < n && p[i + 1] == '^') buf_putc(out, p[++i]);
            if (i + 1 < n && p[i + 1] == ']') buf_putc(out, p[++i]);
            continue;
        }
        if (p[i] == ']') depth = 0;
        if (depth && (p[i] == '[' || (p[i] == '&' && i + 1 < n && p[i + 1] == '&'))) return false;
        buf_putc(out, p[i]);
    }
    return true;
}

enum status pattern_compile(void **out, const char *text, size_t length, struct err *err)
{
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR words[128];
    struct buf b;
    if (length > PATTERN_MAX) return err_set(err, ST_BAD_INPUT, "a pattern of %zu bytes; at most %d are taken", length, PATTERN_MAX);
    buf_init(&b, 0);
    if (!translate(&b, text, length)) {
        buf_free(&b);
        return err_set(err, ST_UNSUPPORTED, "the pattern '%.200s' holds a class within a class, which is not taken", text);
    }
    if (b.failed) {
        buf_free(&b);
        return err_set(err, ST_NO_MEMORY, "no memory for a pattern");
    }
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context) pcre2_set_parens_nest_limit(context, 64);
    pcre2_code *pattern = context ? pcre2_compile((PCRE2_SPTR)(b.data ? b.data : ""), b.length, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, context) : NULL;
    pcre2_compile_context_free(context);
    buf_free(&b);
    if (!context) return err_set(err, ST_NO_MEMORY, "no memory for a pattern");
    if (!pattern) {
        pcre2_get_error_message(code, words, sizeof words);
        return err_set(err, ST_UNSUPPORTED, "the pattern '%.200s' is not understood: %s", text, (const char *)words);
    }
    pcre2_jit_compile(pattern, PCRE2_JIT_COMPLETE);      /* where it cannot, matches are interpreted */
    *out = pattern;
    return ST_OK;
}

void pattern_free(void *pattern) { pcre2_code_free(pattern); }

enum status matcher_open(struct matcher **out, struct err *err)
{
    struct matcher *m = calloc(1, sizeof *m);
    if (m) m->context = pcre2_match_context_create(NULL), m->data = pcre2_match_data_create(1, NULL);
    if (!m || !m->context || !m->data) {
        matcher_close(m);
        return err_set(err, ST_NO_MEMORY, "no memory for matching patterns");
    }
    pcre2_set_match_limit(m->context, MATCH_LIMIT);
    pcre2_set_heap_limit(m->context, HEAP_KIB);
    *out = m;
    return ST_OK;
}

void matcher_close(struct matcher *m)
{
    if (!m) return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    if (m->stack) pcre2_jit_stack_free(m->stack);
    free(m);
}

int matcher_find(struct matcher *m, const void *pattern, const char *text, size_t length, size_t from, size_t *begin, size_t *end)
{
    int n = pcre2_match(pattern, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT && !m->stack) {      /* the machine's stack was too small: one of our own, once */
        m->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
        if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
        n = pcre2_match(pattern, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    }
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) n = pcre2_match(pattern, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
    if (n == PCRE2_ERROR_NOMATCH) return 0;
    if (n < 0) return -1;
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(m->data);
    if (v[0] > v[1]) return -1;                              /* \K in a look-around can do that */
    *begin = v[0], *end = v[1];
    return 1;
}
