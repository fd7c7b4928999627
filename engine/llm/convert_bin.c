/* The .bin files of llama2.c, version 0, and the tokenizer beside them. Layout: seven int32 (width, feed-forward width, layers, heads, key-value heads,
 * vocabulary, context; the vocabulary is negative when the head is a matrix of its own), then float32 blocks, each of all layers together: token embedding, attention norms,
 * q, k, v, o, feed-forward norms, gate, down, up, final norm, two unused tables of the rotation [context, head / 2], then the head if there is one.
 * Rows of q and k are in the order of adjacent pairs, which is GGUF's for llama. Everything is little-endian. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "engine/llm/convert_internal.h"

enum { HEAD_BYTES = 28, TENSORS_EACH = 9, PIECE_MAX = 1024 };

static int32_t read_int(const uint8_t *p) { return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24); }

struct reader { struct convert_bin *b; const uint8_t *data; uint64_t at, size; struct err *err; enum status st; };

/* `count` blocks [n, k], named by pattern with the layer's number; n 0: vectors. pattern NULL: passed over. */
static void take(struct reader *r, const char *pattern, int count, int64_t n, int64_t k)
{
    for (int i = 0; i < count && !r->st; i++) {
        uint64_t bytes;
        if (!size_mul((uint64_t)(n ? n : 1), (uint64_t)k, &bytes) || !size_mul(bytes, sizeof(float), &bytes) || !range_inside(r->at, bytes, r->size)) {
            r->st = err_set(r->err, ST_BAD_INPUT, "the file ends within its weights: it has %llu bytes", (unsigned long long)r->size);
            return;
        }
        if (pattern) {
            struct weight_tensor *t = &r->b->tensors[r->b->count];
            char *name = r->b->names[r->b->count++];
            const char *d = strstr(pattern, "%d");
            if (d) snprintf(name, sizeof r->b->names[0], "%.*s%d%s", (int)(d - pattern), pattern, i, d + 2);
            else snprintf(name, sizeof r->b->names[0], "%s", pattern);
            *t = (struct weight_tensor){ .name = name, .type = WEIGHT_F32, .rank = n ? 2 : 1, .dims = { n ? n : k, n ? k : 0 }, .data = r->data + r->at, .bytes = bytes };
        }
        r->at += bytes;
    }
}

static enum status read_head(struct llm_config *c, const uint8_t *data, uint64_t size, bool *tied, struct err *err)
{
    int32_t h[7];
    if (size < HEAD_BYTES) return err_set(err, ST_BAD_INPUT, "a file of %llu bytes is no llama2.c model: its head alone has %d", (unsigned long long)size, HEAD_BYTES);
    for (int i = 0; i < 7; i++) h[i] = read_int(data + 4 * i);
    if (h[5] == INT32_MIN) return err_set(err, ST_BAD_INPUT, "a vocabulary of %d tokens", h[5]);
    *tied = h[5] > 0;
    *c = (struct llm_config){ .arch = llm_architecture_of_gguf("llama", 5), .width = h[0], .ffn = h[1], .layers = h[2], .heads = h[3], .kv_heads = h[4], .vocabulary = h[5] > 0 ? h[5] : -h[5], .context = h[6], .norm_epsilon = 1e-5f,
                              .rope_base = 10000, .embedding_scale = 1, .residual_scale = 1, .logits_scale = 1, .act = { ACT_SILU, 0, 0 }, .block = BLOCK_SEQUENTIAL, .causal = true, .tied = *tied, .renormalise = true };
    c->head_dim = c->rotary = c->heads > 0 && c->width > 0 ? c->width / c->heads : 0;
    enum status st = llm_config_check(c, err);
    if (!st && c->head_dim * c->heads != c->width) st = err_set(err, ST_BAD_INPUT, "%d heads do not divide a width of %d", c->heads, c->width);
    return st;
}

enum status convert_bin_open(struct convert_bin *out, const void *data, uint64_t size, struct err *err)
{
    bool tied = true;
    struct convert_bin b = { 0 };
    enum status st = read_head(&b.config, data, size, &tied, err);
    if (st) return st;
    const struct llm_config *c = &b.config;
    const int64_t w = c->width, kv = (int64_t)c->kv_heads * c->head_dim;
    uint64_t most = (uint64_t)c->layers * TENSORS_EACH + 3;
    b.tensors = mem_calloc_array(most, sizeof *b.tensors);
    b.names = mem_calloc_array(most, sizeof *b.names);
    if (!b.tensors || !b.names) {
        convert_bin_close(&b);
        return err_set(err, ST_NO_MEMORY, "no memory for %llu tensors", (unsigned long long)most);
    }
    struct reader r = { .b = &b, .data = data, .at = HEAD_BYTES, .size = size, .err = err };
    take(&r, "token_embd.weight", 1, c->vocabulary, w);
    take(&r, "blk.%d.attn_norm.weight", c->layers, 0, w);
    take(&r, "blk.%d.attn_q.weight", c->layers, w, w);
    take(&r, "blk.%d.attn_k.weight", c->layers, kv, w);
    take(&r, "blk.%d.attn_v.weight", c->layers, kv, w);
    take(&r, "blk.%d.attn_output.weight", c->layers, w, w);
    take(&r, "blk.%d.ffn_norm.weight", c->layers, 0, w);
    take(&r, "blk.%d.ffn_gate.weight", c->layers, c->ffn, w);
    take(&r, "blk.%d.ffn_down.weight", c->layers, w, c->ffn);
    take(&r, "blk.%d.ffn_up.weight", c->layers, c->ffn, w);
    take(&r, "output_norm.weight", 1, 0, w);
    take(&r, NULL, 2, c->context, c->head_dim / 2);
    if (!tied) take(&r, "output.weight", 1, c->vocabulary, w);
    if (!r.st && r.at != size) r.st = err_set(err, ST_BAD_INPUT, "%llu bytes follow the weights", (unsigned long long)(size - r.at));
    if (r.st) convert_bin_close(&b);
    else *out = b;
    return r.st;
}

void convert_bin_close(struct convert_bin *b)
{
    free(b->tensors);
    free(b->names);
    *b = (struct convert_bin){ 0 };
}

/* ---- the tokenizer ---- */
struct piece { char *text; size_t length; float score; int32_t kind; };

/* GGUF marks spaces with U+2581 and names the three control tokens; byte tokens are named alike in both. */
static enum status read_piece(struct arena *a, struct piece *p, int id, const uint8_t *text, size_t n, struct err *err)
{
    static const char *const control[] = { "<unk>", "<s>", "</s>" };
    struct buf b;
    buf_init(&b, 4 * PIECE_MAX);
    if (id < 3) buf_puts(&b, control[id]);
    for (size_t i = 0; i < n && id >= 3; i++) {
        if (text[i] == ' ') buf_puts(&b, "\xE2\x96\x81");
        else buf_putc(&b, (char)text[i]);
    }
    for (size_t i = 0, step; i < b.length; i += step)
        if (!(step = json_utf8_length(b.data + i, b.length - i))) {
            buf_free(&b);
            return err_set(err, ST_BAD_INPUT, "token %d of the tokenizer is no UTF-8", id);
        }
    p->kind = id == 0 ? 2 : id < 3 ? 3 : id < 259 && b.length == 6 && !memcmp(b.data, "<0x", 3) ? 6 : 1;
    p->length = b.length;
    p->text = b.failed ? NULL : arena_copy(a, b.data ? b.data : "", b.length);
    buf_free(&b);
    return p->text ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for a token");
}

static enum status read_pieces(struct arena *a, struct piece *p, int count, const uint8_t *data, uint64_t size, struct err *err)
{
    uint64_t at = 4;
    enum status st = ST_OK;
    for (int i = 0; i < count && !st; i++) {
        if (!range_inside(at, 8, size)) return err_set(err, ST_BAD_INPUT, "the tokenizer ends before token %d of %d", i, count);
        uint32_t bits = (uint32_t)read_int(data + at);
        int32_t n = read_int(data + at + 4);
        at += 8;
        if (n < 0 || n > PIECE_MAX || !range_inside(at, (uint64_t)n, size)) return err_set(err, ST_BAD_INPUT, "token %d of the tokenizer has %d bytes; up to %d that lie in the file are taken", i, n, PIECE_MAX);
        memcpy(&p[i].score, &bits, sizeof bits);
        if (!(p[i].score - p[i].score == 0)) return err_set(err, ST_BAD_INPUT, "the score of token %d is no finite number", i);
        st = read_piece(a, &p[i], i, data + at, (size_t)n, err);
        at += (uint64_t)n;
    }
    if (!st && at != size) st = err_set(err, ST_BAD_INPUT, "%llu bytes follow the %d tokens of the tokenizer", (unsigned long long)(size - at), count);
    return st;
}

static void put_pieces(struct gguf_writer *w, const struct piece *p, int count, const char **texts, size_t *lengths, float *scores, int32_t *kinds)
{
    for (int i = 0; i < count; i++) texts[i] = p[i].text, lengths[i] = p[i].length, scores[i] = p[i].score, kinds[i] = p[i].kind;
    gguf_writer_text(w, "tokenizer.ggml.model", "llama", 5);
    gguf_writer_text(w, "tokenizer.ggml.pre", "default", 7);
    gguf_writer_texts(w, "tokenizer.ggml.tokens", texts, lengths, (uint64_t)count);
    gguf_writer_array(w, "tokenizer.ggml.scores", GGUF_F32, scores, (uint64_t)count);
    gguf_writer_array(w, "tokenizer.ggml.token_type", GGUF_I32, kinds, (uint64_t)count);
    gguf_writer_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_writer_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", true);
    gguf_writer_bool(w, "tokenizer.ggml.add_eos_token", false);
    gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", true);
}

enum status convert_bin_tokenizer(struct gguf_writer *w, const void *data, uint64_t size, int vocabulary, struct err *err)
{
    struct arena arena;
    if (vocabulary < 3 || (uint64_t)vocabulary > size / 8) return err_set(err, ST_BAD_INPUT, "a tokenizer of %llu bytes cannot hold %d tokens", (unsigned long long)size, vocabulary);
    uint64_t n = (uint64_t)vocabulary;
    arena_init(&arena, (uint64_t)1 << 30);
    struct piece *p = arena_calloc(&arena, n, sizeof *p);
    const char **texts = arena_calloc(&arena, n, sizeof *texts);
    size_t *lengths = arena_calloc(&arena, n, sizeof *lengths);
    float *scores = arena_calloc(&arena, n, sizeof *scores);
    int32_t *kinds = arena_calloc(&arena, n, sizeof *kinds);
    enum status st = p && texts && lengths && scores && kinds ? read_pieces(&arena, p, vocabulary, data, size, err) : err_set(err, ST_NO_MEMORY, "no memory for %d tokens", vocabulary);
    if (!st) put_pieces(w, p, vocabulary, texts, lengths, scores, kinds);
    arena_free(&arena);
    return st;
}
