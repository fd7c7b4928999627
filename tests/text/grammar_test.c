/* threaded: grammars without schemas: GBNF, regular expressions, choices, any object; limits; masks over a real vocabulary. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "engine/formats/gguf.h"
#include "engine/text/tokenizer.h"
#include "tests/test.h"
#include "tests/text/grammar_walk.h"

enum source { GBNF, REGEX };

static enum status open_source(struct grammar **g, enum source kind, const char *text, struct err *err)
{
    return kind == GBNF ? grammar_open_gbnf(g, text, strlen(text), err) : grammar_open_regex(g, text, strlen(text), err);
}

/* texts: those accepted, NULL, those not, NULL. */
static void check_texts(enum source kind, const char *source, const char *const *texts)
{
    struct grammar *g;
    struct err err = { 0 };
    struct token_trie *t = walk_trie(true);
    REQUIRE_OK(open_source(&g, kind, source, &err), err);
    for (bool want = true; ; texts++) {
        if (!*texts && !want) break;
        if (!*texts) want = false;
        else if (walk_accepts(g, t, *texts, strlen(*texts)) != want) test_fail(__FILE__, __LINE__, "%s: '%s' is %s", source, *texts, want ? "refused" : "accepted");
    }
    grammar_close(g);
    token_trie_close(t);
}

TEST(gbnf_takes_what_its_rules_say)
{
    check_texts(GBNF, "# sums\nroot ::= term ([+-] term)*\nterm ::= number | \"(\" root \")\"\nnumber ::= [0-9]{1,3}\n", (const char *const[]){ "1", "12+(3-4)", "((7))", NULL, "", "1+", "(1", "1234", NULL });
    check_texts(GBNF, "root ::= \"a\\n\" .{2} [^a-c\\]] |\n  \"\\u00e4\"", (const char *const[]){ "a\nxyz", "a\n\xc3\xa4yz", "\xc3\xa4", NULL, "a\nxya", "a\nxy]", "\xc3", NULL });
    check_texts(GBNF, "root ::= a* b\na ::= \"x\"?\nb ::= \"y\"", (const char *const[]){ "y", "xxxy", NULL, "x", "yy", NULL });
    check_texts(GBNF, "root ::= \"a\" root \"b\" | \"\"", (const char *const[]){ "", "ab", "aaabbb", NULL, "aab", "abb", NULL });
    check_texts(GBNF, "root ::= [-a] [a\\-z]", (const char *const[]){ "-z", "a-", "aa", NULL, "b-", "ab", NULL });
}

TEST(regular_expressions_match_as_a_whole)
{
    check_texts(REGEX, "(foo|ba[rz])+\\d{2,3}?", (const char *const[]){ "foo12", "bazbar123", NULL, "foo1", "12", "foo1234", NULL });
    check_texts(REGEX, "^a$|^$", (const char *const[]){ "a", "", NULL, "aa", NULL });
    check_texts(REGEX, "[^\\W\\d_]\\u00e4\\x41\\u{1F600}?\\p{Lu}", (const char *const[]){ "a\xc3\xa4" "AZ", "a\xc3\xa4" "A\xf0\x9f\x98\x80\xc3\x84", NULL, "_\xc3\xa4" "AZ", "a\xc3\xa4" "Az", NULL });
    check_texts(REGEX, "(a+)+$", (const char *const[]){ "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NULL, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", NULL });
    check_texts(REGEX, "a.b", (const char *const[]){ "axb", "a\xe4\xbd\xa0" "b", NULL, "a\nb", "a\xe4\xbd" "b", "a\xed\xa0\x80" "b", NULL });
}

TEST(a_refusal_says_why)
{
    static const struct { enum source kind; const char *source, *words; } cases[] = {
        { GBNF, "root ::= root \"a\" | \"b\"", "left recursion" }, { GBNF, "root ::= e root\ne ::= \"\"", "derives no text" }, { GBNF, "root ::= x \"a\" | \"b\"\nx ::= y?\ny ::= e x \"c\"\ne ::= \"d\"?", "left recursion" },
        { GBNF, "root ::= \"a\" | loop\nloop ::= \"x\" loop", "'loop' derives no text" }, { GBNF, "root ::= nothing", "'nothing' is used but never defined" },
        { GBNF, "a ::= \"x\"", "no rule 'root'" }, { GBNF, "root ::= \"a\"{2001}", "2000 at most" }, { GBNF, "root ::= \"a", "not closed" }, { GBNF, "root ::= \"a\"\nroot ::= \"b\"", "defined twice" },
        { GBNF, "root ::= [a", "not closed" }, { GBNF, "root ::= (\"a\"", "not closed" }, { GBNF, "", "no rule 'root'" },
        { REGEX, "(a)\\1", "back references" }, { REGEX, "a(?=b)", "look-around" }, { REGEX, "a{3,2}", "out of order" }, { REGEX, "a{2001}", "2000 at most" }, { REGEX, "*a", "nothing to repeat" },
        { REGEX, "(a", "not closed" }, { REGEX, "a)", "')' without '('" }, { REGEX, "[b-a]", "ends before it begins" }, { REGEX, "\\bx", "word boundaries" }, { REGEX, "[]", "no text can satisfy" },
        { REGEX, "(a|b)*a(a|b){30}", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct grammar *g;
        struct err err = { 0 };
        enum status st = open_source(&g, cases[i].kind, cases[i].source, &err);
        CHECK_INT(st, ST_BAD_INPUT);
        if (!strstr(err.text, cases[i].words)) test_fail(__FILE__, __LINE__, "%s: \"%s\"", cases[i].source, err.text);
        if (!st) grammar_close(g);
    }
}

TEST(limits_hold_just_below_and_just_above)
{
    struct err err = { 0 };
    struct grammar *g;
    char *text = malloc(GRAMMAR_SOURCE_MAX + 2);
    memset(text, ' ', GRAMMAR_SOURCE_MAX + 1);
    memcpy(text, "root ::= \"a\"", 12);
    CHECK_OK(grammar_open_gbnf(&g, text, GRAMMAR_SOURCE_MAX, &err), err);
    grammar_close(g);
    CHECK_INT(grammar_open_gbnf(&g, text, GRAMMAR_SOURCE_MAX + 1, &err), ST_BAD_INPUT);
    for (int depth = GRAMMAR_DEPTH_SOURCE_MAX; depth <= GRAMMAR_DEPTH_SOURCE_MAX + 1; depth++) {
        int n = sprintf(text, "root ::= ");
        for (int i = 0; i < depth; i++) text[n++] = '(';
        n += sprintf(text + n, "\"a\"");
        for (int i = 0; i < depth; i++) text[n++] = ')';
        enum status st = grammar_open_gbnf(&g, text, (size_t)n, &err);
        CHECK_INT(st, depth > GRAMMAR_DEPTH_SOURCE_MAX ? ST_BAD_INPUT : ST_OK);
        if (!st) grammar_close(g);
    }
    /* 60,000 brackets are refused at once, not walked. */
    memset(text, '(', 60000);
    memcpy(text, "root ::=", 8);
    CHECK_INT(grammar_open_gbnf(&g, text, 60000, &err), ST_BAD_INPUT);
    CHECK_INT(grammar_open_regex(&g, text + 8, 59992, &err), ST_BAD_INPUT);
    free(text);
    CHECK_OK(grammar_open_gbnf(&g, "root ::= \"ab\"{2000}", 19, &err), err);
    grammar_close(g);
}

TEST(a_choice_is_one_of_its_texts)
{
    struct grammar *g;
    struct err err = { 0 };
    struct token_trie *t = walk_trie(true);
    struct grammar_text texts[] = { { "yes", 3 }, { "no", 2 }, { "not sure", 8 } };
    REQUIRE_OK(grammar_open_choice(&g, texts, 3, &err), err);
    CHECK(walk_accepts(g, t, "no", 2) && walk_accepts(g, t, "not sure", 8) && !walk_accepts(g, t, "not", 3) && !walk_accepts(g, t, "", 0));
    grammar_close(g);
    CHECK_INT(grammar_open_choice(&g, texts, 0, &err), ST_BAD_INPUT);
    texts[1].length = 0;
    CHECK_INT(grammar_open_choice(&g, texts, 3, &err), ST_BAD_INPUT);
    token_trie_close(t);
}

TEST(any_object_drawn_is_json_without_idle_space)
{
    struct grammar *g;
    struct err err = { 0 };
    struct token_trie *t = walk_trie(true);
    int ended = 0;
    REQUIRE_OK(grammar_open_json_object(&g, &err), err);
    for (uint32_t seed = 0; seed < 200; seed++) {
        struct buf text;
        struct arena arena;
        struct json *j;
        buf_init(&text, 0);
        arena_init(&arena, 16 << 20);
        if (walk_draw(g, t, seed, 1500, &text)) {
            ended++;
            if (json_parse(&j, &arena, text.data, text.length, &(struct json_options){ .depth_max = 600 }, &err)) test_fail(__FILE__, __LINE__, "%.*s: %s", (int)text.length, text.data, err.text);
            else CHECK_INT(j->type, JSON_OBJECT);
        }
        arena_free(&arena);
        buf_free(&text);
    }
    CHECK(ended > 100);
    CHECK(!walk_accepts(g, t, "{ \"a\": 1}", 9) && walk_accepts(g, t, "{\"a\": 1, \"b\":[]}", 16) && !walk_accepts(g, t, "{\"a\":  1}", 9) && !walk_accepts(g, t, "{\"\\ud800\":1}", 12) && walk_accepts(g, t, "{\"\\ud83D\\uDE00\":1}", 18));
    grammar_close(g);
    token_trie_close(t);
}

/* The mask says of each token what feeding its bytes says. */
TEST(masks_and_bytes_agree)
{
    static const char *const sources[] = { "root ::= (\"a\" root \"b\" | [a-z]{2,4}) \"!\"?", "root ::= \"{\" (pair (\", \" pair)*)? \"}\"\npair ::= string \": \" (string | root)\nstring ::= \"\\\"\" [^\"\\\\]* \"\\\"\"", "root ::= x{0,300}\nx ::= [0-9] | \"the \" | \"ab\"" };
    struct token_trie *t = walk_trie(true);
    for (size_t k = 0; k < sizeof sources / sizeof *sources; k++) {
        struct grammar *g;
        struct err err = { 0 };
        REQUIRE_OK(grammar_open_gbnf(&g, sources[k], strlen(sources[k]), &err), err);
        for (uint32_t seed = 0; seed < 10; seed++) {
            struct grammar_state *s, *probe;
            struct buf text;
            uint32_t mask[16];
            bool may_end;
            buf_init(&text, 0);
            walk_draw(g, t, seed, 5 + seed * 3, &text);
            REQUIRE_OK(grammar_state_open(&s, g, t, &err), err);
            CHECK_OK(grammar_state_accept_bytes(s, text.data, text.length, &err), err);
            CHECK_OK(grammar_state_mask(s, mask, &may_end, &err), err);
            for (int32_t i = 0; i < token_trie_count(t); i++) {
                REQUIRE_OK(grammar_state_open(&probe, g, t, &err), err);
                CHECK_OK(grammar_state_accept_bytes(probe, text.data, text.length, &err), err);
                CHECK_INT(grammar_state_accept(probe, i, &err) == ST_OK, mask[i >> 5] >> (i & 31) & 1);
                grammar_state_close(probe);
            }
            grammar_state_close(s);
            buf_free(&text);
        }
        grammar_close(g);
    }
    token_trie_close(t);
}

struct share { const struct grammar *g; const struct token_trie *t; uint32_t seed; struct buf text; };

static void *draw_thread(void *p)
{
    struct share *s = p;
    walk_draw(s->g, s->t, s->seed, 600, &s->text);
    return NULL;
}

/* What one state remembers serves the others; who draws beside it changes nothing. */
TEST(threads_share_a_grammar)
{
    struct grammar *g;
    struct err err = { 0 };
    struct token_trie *t = walk_trie(true);
    pthread_t threads[4];
    struct share shares[5] = { 0 };
    REQUIRE_OK(grammar_open_json_object(&g, &err), err);
    for (int i = 0; i < 5; i++) shares[i] = (struct share){ .g = g, .t = t, .seed = i < 4 ? 11 + (uint32_t)i / 2 : 11 };
    for (int i = 0; i < 4; i++) REQUIRE(pthread_create(&threads[i], NULL, draw_thread, &shares[i]) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    draw_thread(&shares[4]);
    for (int i = 0; i < 5; i++) {
        const struct buf *want = &shares[i == 4 ? 0 : i & ~1].text, *got = &shares[i].text;
        CHECK(got->length > 0 && got->length == want->length && memcmp(got->data, want->data, got->length) == 0);
    }
    for (int i = 0; i < 5; i++) buf_free(&shares[i].text);
    grammar_close(g);
    token_trie_close(t);
}

/* Calls to the depth limit, then back: nothing is lost or allowed wrongly near it. */
TEST(depth_is_bounded)
{
    struct grammar *g;
    struct err err = { 0 };
    struct token_trie *t = walk_trie(true);
    struct grammar_state *s;
    int depth = 0;
    REQUIRE_OK(grammar_open_gbnf(&g, "root ::= \"[\" root? \"]\"", 22, &err), err);
    REQUIRE_OK(grammar_state_open(&s, g, t, &err), err);
    for (;; depth++) {
        uint32_t mask[16];
        bool may_end;
        REQUIRE_OK(grammar_state_mask(s, mask, &may_end, &err), err);
        bool offered = mask['[' >> 5] >> ('[' & 31) & 1;
        CHECK_INT(grammar_state_accept(s, '[', &err) == ST_OK, offered);
        if (!offered || depth > 2 * GRAMMAR_DEPTH_MAX) break;
    }
    CHECK(depth > GRAMMAR_DEPTH_MAX / 4 && depth <= GRAMMAR_DEPTH_MAX + 1);
    for (int i = 0; i < depth; i++) CHECK_OK(grammar_state_accept(s, ']', &err), err);
    CHECK(grammar_state_may_end(s));
    CHECK_INT(grammar_state_accept(s, ']', &err), ST_BAD_INPUT);
    grammar_state_close(s);
    grammar_close(g);
    token_trie_close(t);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* A whole vocabulary of a published model: an object is written byte by byte in its tokens' masks; prints what a mask costs. */
TEST(masks_of_a_real_vocabulary)
{
    const char *shared = test_shared();
    char path[700];
    static const char text[] = "{\"name\":\"A longer text, with words in it\", \"tags\":[\"one\",\"two\"],\"inner\":{\"k\":\"some more words\"},\"n\":-12.5e3}";
    struct gguf *f;
    struct tokenizer *t;
    struct token_trie *trie;
    struct grammar *g;
    struct grammar_state *s;
    struct err err = { 0 };
    if (!shared) SKIP("the vocabularies (shared/data) are not here");
    snprintf(path, sizeof path, "%s/data/vocab/falcon.gguf", shared);
    if (gguf_open(&f, -1, path, &err)) SKIP("%s", err.text);
    REQUIRE_OK(tokenizer_open_gguf(&t, f, &err), err);
    gguf_close(f);
    double start = now_us();
    REQUIRE_OK(token_trie_open(&trie, t, &err), err);
    double built = now_us() - start, first = 0, again = 0, worst_again = 0;
    int count = tokenizer_count(t);
    uint32_t *mask = calloc((size_t)count / 32 + 1, 4);
    REQUIRE_OK(grammar_open_json_object(&g, &err), err);
    for (int round = 0; round < 3; round++) {
        REQUIRE_OK(grammar_state_open(&s, g, trie, &err), err);
        for (size_t i = 0; i + 1 < sizeof text; i++) {
            bool may_end;
            start = now_us();
            REQUIRE_OK(grammar_state_mask(s, mask, &may_end, &err), err);
            double us = now_us() - start;
            if (!round) first += us;
            else again += us / 2, worst_again = us > worst_again ? us : worst_again;
            int32_t byte = tokenizer_find(t, text + i, 1);
            if (byte >= 0) CHECK(mask[byte >> 5] >> (byte & 31) & 1);
            CHECK_OK(grammar_state_accept_bytes(s, text + i, 1, &err), err);
        }
        CHECK(grammar_state_may_end(s));
        grammar_state_close(s);
    }
    printf("  %d tokens: tree %.0f ms; a mask %.0f us on average while states are new, %.1f us (at most %.0f) after\n", count, built / 1000, first / (sizeof text - 1), again / (sizeof text - 1), worst_again);
    free(mask);
    grammar_close(g);
    token_trie_close(trie);
    tokenizer_close(t);
}
