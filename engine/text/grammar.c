/* The compilers that need no parser of their own: a regular expression, a choice, any JSON object. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/grammar_internal.h"

void grammar_close(struct grammar *g)
{
    if (!g) return;
    machine_list_close(g->machines);
    pthread_mutex_destroy(&g->lock);
    free(g->first), free(g->edges), free(g->ends), free(g->rule_start);
    free(g);
}

enum status grammar_open_regex(struct grammar **out, const char *text, size_t length, struct err *err)
{
    struct net n;
    struct dfa *d;
    net_open(&n);
    int32_t root = net_rule(&n, "root", 0);
    enum status st = regex_compile(&d, &n.maker, text, length, false, err);
    if (!st) {
        net_dfa(&n, n.rules[root].start, d, n.rules[root].end);
        st = net_finish(&n, root, false, out, err);
    }
    net_close(&n);
    return st;
}

enum status grammar_open_choice(struct grammar **out, const struct grammar_text *texts, size_t count, struct err *err)
{
    struct net n;
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += texts[i].length > GRAMMAR_SOURCE_MAX ? GRAMMAR_SOURCE_MAX + 1 : texts[i].length;
        if (!texts[i].length) return err_set(err, ST_BAD_INPUT, "choice %zu is empty", i);
    }
    if (!count) return err_set(err, ST_BAD_INPUT, "a choice needs at least one text");
    if (count > GRAMMAR_RULES_MAX || bytes > GRAMMAR_SOURCE_MAX) return err_set(err, ST_BAD_INPUT, "a choice may have 10000 texts and 65536 bytes at most");
    net_open(&n);
    int32_t root = net_rule(&n, "root", 0);
    for (size_t i = 0; i < count && !n.status; i++) net_nothing(&n, net_text(&n, n.rules[root].start, texts[i].text, texts[i].length), n.rules[root].end);
    enum status st = net_finish(&n, root, false, out, err);
    net_close(&n);
    return st;
}

enum status grammar_open_json_object(struct grammar **out, struct err *err)
{
    struct net n;
    struct json_parts p;
    net_open(&n);
    net_json_parts(&n, &p);
    enum status st = net_finish(&n, p.rule[JSON_PART_OBJECT], false, out, err);
    net_close(&n);
    return st;
}
