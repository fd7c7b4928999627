#include "engine/diffusion/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/checked.h"

enum { DEPTH_MAX = 64 };

/* A stretch of text with one weight. `cut`: a new chunk begins behind it. */
struct stretch { size_t first, length; double weight; bool cut; };
struct stretches { struct stretch *list; int count, room; struct buf text; };

static bool put(struct stretches *s, size_t first, bool cut)
{
    if (s->text.length == first && !cut) return true;
    if (s->count == s->room) {
        int room = s->room ? 2 * s->room : 16;
        struct stretch *list = mem_realloc_array(s->list, (uint64_t)room, sizeof *list);
        if (!list) return false;
        s->list = list;
        s->room = room;
    }
    s->list[s->count++] = (struct stretch){ first, s->text.length - first, 1, cut };
    return true;
}

static void weigh(struct stretches *s, int from, double factor)
{
    for (int i = from; i < s->count; i++) s->list[i].weight *= factor;
}

/* The number of ":1.4)" at p, or 0: not one. *end: behind the bracket. */
static double weight_at(const char *p, const char *end, const char **after)
{
    char digits[32];
    size_t n = 0;
    const char *q = p + 1;
    while (q < end && *q == ' ') q++;
    while (q < end && n + 1 < sizeof digits && ((*q >= '0' && *q <= '9') || *q == '.' || *q == '-' || *q == '+')) digits[n++] = *q++;
    while (q < end && *q == ' ') q++;
    digits[n] = 0;
    if (!n || q == end || *q != ')') return 0;
    char *stop;
    double v = strtod(digits, &stop);
    if (*stop || !(v > -100 && v < 100)) return 0;
    *after = q + 1;
    return v == 0 ? 1e-30 : v;
}

/* The text without its marks, in stretches of one weight. */
static bool split(struct stretches *s, const char *text, size_t length)
{
    struct open { char kind; int from; } open[DEPTH_MAX];
    int depth = 0;
    size_t first = 0;
    bool ok = true;
    for (const char *p = text, *end = text + length, *after; p < end && ok;) {
        if (*p == '\\' && p + 1 < end && strchr("()[]\\", p[1])) {
            buf_putc(&s->text, p[1]);
            p += 2;
            continue;
        }
        const bool opens = (*p == '(' || *p == '[') && depth < DEPTH_MAX;
        double weight = *p == ':' && depth && open[depth - 1].kind == '(' ? weight_at(p, end, &after) : 0;
        if (opens) {
            ok = put(s, first, false);
            first = s->text.length;
            open[depth++] = (struct open){ *p++, s->count };
        } else if (weight != 0) {
            ok = put(s, first, false);
            first = s->text.length;
            weigh(s, open[--depth].from, weight);
            p = after;
        } else if ((*p == ')' && depth && open[depth - 1].kind == '(') || (*p == ']' && depth && open[depth - 1].kind == '[')) {
            ok = put(s, first, false);
            first = s->text.length;
            depth--;
            weigh(s, open[depth].from, *p++ == ')' ? 1.1 : 1 / 1.1);
        } else if (end - p >= 5 && !memcmp(p, "BREAK", 5) && (p == text || p[-1] == ' ' || p[-1] == '\n') && (end - p == 5 || p[5] == ' ' || p[5] == '\n')) {
            ok = put(s, first, true);
            first = s->text.length;
            p += 5;
        } else buf_putc(&s->text, *p++);
    }
    ok = ok && put(s, first, false) && !s->text.failed;
    while (depth) {
        depth--;
        weigh(s, open[depth].from, open[depth].kind == '(' ? 1.1 : 1 / 1.1);
    }
    return ok;
}

/* ---- chunks ---- */
static int32_t filler(const struct tokenizer *t)
{
    const struct tokenizer_ids *ids = tokenizer_ids(t);
    return ids->pad >= 0 ? ids->pad : ids->eos >= 0 ? ids->eos : 0;
}

/* Room for one chunk more, empty. */
static enum status add_chunk(struct prompt *p, const struct tokenizer *t, struct err *err)
{
    const struct tokenizer_ids *special = tokenizer_ids(t);
    if (p->chunks == PROMPT_CHUNKS_MAX) return err_set(err, ST_BAD_INPUT, "the prompt has more than %d tokens", PROMPT_CHUNKS_MAX * (p->length - 2));
    const uint64_t n = (uint64_t)(p->chunks + 1) * (uint64_t)p->length;
    int32_t *ids = mem_realloc_array(p->ids, n, sizeof *ids);
    if (ids) p->ids = ids;
    float *weights = mem_realloc_array(p->weights, n, sizeof *weights);
    if (weights) p->weights = weights;
    int *ends = mem_realloc_array(p->ends, (uint64_t)p->chunks + 1, sizeof *ends);
    if (ends) p->ends = ends;
    if (!ids || !weights || !ends) return err_set(err, ST_NO_MEMORY, "a prompt");
    ids += p->chunks * p->length;
    weights += p->chunks * p->length;
    for (int i = 0; i < p->length; i++) {
        ids[i] = p->pad;
        weights[i] = 1;
    }
    ids[0] = special->bos >= 0 ? special->bos : p->pad;
    ids[1] = special->eos >= 0 ? special->eos : p->pad;
    p->ends[p->chunks++] = 1;
    return ST_OK;
}

static enum status add_token(struct prompt *p, const struct tokenizer *t, int32_t id, float weight, struct err *err)
{
    enum status st = p->ends[p->chunks - 1] == p->length - 1 ? add_chunk(p, t, err) : ST_OK;
    if (st) return st;
    const int at = p->ends[p->chunks - 1]++;
    int32_t *ids = p->ids + (p->chunks - 1) * p->length;
    ids[at + 1] = ids[at];
    ids[at] = id;
    p->weights[(p->chunks - 1) * p->length + at] = weight;
    p->weighted = p->weighted || weight != 1;
    p->tokens++;
    return ST_OK;
}

enum status prompt_open(struct prompt *p, const struct tokenizer *t, const char *text, size_t text_length, int length, int32_t pad, struct err *err)
{
    struct stretches s = { 0 };
    struct token_list list = { 0 };
    *p = (struct prompt){ .length = length, .pad = pad >= 0 ? pad : filler(t) };
    if (length < 3) return err_set(err, ST_BAD_INPUT, "a text encoder of %d positions has no room for a text", length);
    buf_init(&s.text, 0);
    enum status st = split(&s, text, text_length) ? ST_OK : err_set(err, ST_NO_MEMORY, "a prompt");
    if (!st) st = add_chunk(p, t, err);
    for (int i = 0; i < s.count && !st; i++) {
        list.count = 0;
        st = tokenizer_encode(t, s.text.data ? s.text.data + s.list[i].first : "", s.list[i].length, 0, &list, err);
        for (size_t k = 0; k < list.count && !st; k++) st = add_token(p, t, list.ids[k], (float)s.list[i].weight, err);
        if (!st && s.list[i].cut) st = add_chunk(p, t, err);
    }
    token_list_free(&list);
    buf_free(&s.text);
    free(s.list);
    if (st) prompt_close(p);
    return st;
}

enum status prompt_open_plain(struct prompt *p, const struct tokenizer *t, const char *text, size_t text_length, int length, struct err *err)
{
    struct stretches s = { 0 };
    struct token_list list = { 0 };
    const int32_t eos = tokenizer_ids(t)->eos;
    *p = (struct prompt){ .length = length, .chunks = 1, .pad = filler(t) };
    buf_init(&s.text, 0);
    enum status st = split(&s, text, text_length) ? ST_OK : err_set(err, ST_NO_MEMORY, "a prompt");
    if (!st) st = tokenizer_encode(t, s.text.data ? s.text.data : "", s.text.length, TOKENIZE_SPECIAL_ADD, &list, err);
    p->ids = mem_calloc_array((uint64_t)length, sizeof *p->ids);
    p->weights = mem_calloc_array((uint64_t)length, sizeof *p->weights);
    p->ends = mem_calloc_array(1, sizeof *p->ends);
    if (!st && (!p->ids || !p->weights || !p->ends)) st = err_set(err, ST_NO_MEMORY, "a prompt");
    const int count = (int)(list.count < (size_t)length ? list.count : (size_t)length);
    for (int i = 0; i < length && !st; i++) {
        p->ids[i] = i < count ? list.ids[i] : p->pad;
        p->weights[i] = 1;
    }
    if (!st && list.count > (size_t)length && eos >= 0) p->ids[length - 1] = eos;
    if (!st) p->ends[0] = count ? count - 1 : 0;
    p->tokens = count;
    token_list_free(&list);
    buf_free(&s.text);
    free(s.list);
    if (st) prompt_close(p);
    return st;
}

enum status prompt_extend(struct prompt *p, const struct tokenizer *t, int chunks, struct err *err)
{
    enum status st = ST_OK;
    while (!st && p->chunks < chunks) st = add_chunk(p, t, err);
    return st;
}

void prompt_close(struct prompt *p)
{
    free(p->ids);
    free(p->weights);
    free(p->ends);
    *p = (struct prompt){ 0 };
}
