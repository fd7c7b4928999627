/* Text to token ids and back, as the model's own file says. A tokenizer never changes once it is open: any number of threads may use it at once.
 *
 * The way of a text: added tokens are cut out of it, each rest is normalised, split into words and given to the model (byte-pair merges by rank or by
 * score, Unigram, WordPiece), then what stands before and after a text is put around it. GGUF files are read with llama.cpp's meaning
 * of their keys, folders with that of the Hugging Face files. Text never becomes a control token unless the caller says so. */
#ifndef ENGINE_TEXT_TOKENIZER_H
#define ENGINE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct gguf;
struct tokenizer;

enum tokenize_flags {
    TOKENIZE_SPECIAL_ADD = 1,      /* BOS, EOS, CLS, SEP around the text, as the file says; no second BOS when the text already begins with it */
    TOKENIZE_SPECIAL_PARSE = 2,    /* control tokens written in the text are recognised */
};

struct token_list { int32_t *ids; size_t count, capacity; };       /* starts zeroed; the caller frees it */
void token_list_free(struct token_list *l);

enum status tokenizer_open_gguf(struct tokenizer **out, const struct gguf *g, struct err *err);     /* keeps nothing of *g */
/* A folder with tokenizer.json, tokenizer.model or vocab.json with merges.txt, and tokenizer_config.json, special_tokens_map.json, generation_config.json, chat_template.jinja where
 * they are. dirfd >= 0: `path` is below it and no link is followed; dirfd < 0: the operator's own path. */
enum status tokenizer_open_folder(struct tokenizer **out, int dirfd, const char *path, struct err *err);
/* From the bytes of a tokenizer.json or of a tokenizer.model; `config` is the text of tokenizer_config.json or NULL. */
enum status tokenizer_open_json(struct tokenizer **out, const char *text, size_t length, const char *config, size_t config_length, struct err *err);
enum status tokenizer_open_model(struct tokenizer **out, const void *data, size_t length, const char *config, size_t config_length, struct err *err);
void        tokenizer_close(struct tokenizer *t);

/* Appends the ids of `text` to *out; bytes that are no UTF-8 count as U+FFFD. On failure *out keeps what it had. ST_BAD_INPUT: a pattern of the file
 * exceeds its match limit on this text. */
enum status tokenizer_encode(const struct tokenizer *t, const char *text, size_t length, unsigned flags, struct token_list *out, struct err *err);

/* The same for a text of which only the stretches `spans` (ascending, not overlapping) may hold control tokens, each wholly inside one stretch; the rest is
 * text from outside. A chat template's output comes with its spans (template.h). */
struct token_span { size_t offset, length; };
enum status tokenizer_encode_spans(const struct tokenizer *t, const char *text, size_t length, const struct token_span *spans, size_t span_count, unsigned flags, struct token_list *out, struct err *err);

int         tokenizer_count(const struct tokenizer *t);                                        /* ids are 0 .. count - 1 */
/* The bytes that a token stands for (for byte tokens and byte-level pieces maybe no whole character); NULL for an id out of range. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *length);
int32_t     tokenizer_find(const struct tokenizer *t, const char *text, size_t length);       /* by its text in the file; -1: absent */
bool        tokenizer_is_control(const struct tokenizer *t, int32_t id);                       /* control or unknown token */
bool        tokenizer_is_eog(const struct tokenizer *t, int32_t id);                           /* ends a generation */

/* -1 where the file names none. eot: end of a turn. */
struct tokenizer_ids { int32_t bos, eos, eot, pad, unk, sep, cls, mask; bool add_bos, add_eos; };
const struct tokenizer_ids *tokenizer_ids(const struct tokenizer *t);

/* A chat template's text (NUL-terminated); name NULL or "default": the main one; e.g. "tool_use". NULL: absent. */
const char *tokenizer_chat_template(const struct tokenizer *t, const char *name);

/* Ids in, whole UTF-8 characters out. Bytes that cannot become a character are told as U+FFFD. */
struct detokenizer {
    const struct tokenizer *tokenizer;
    bool          show_control;        /* control tokens' texts are put out; else they are silent */
    bool          at_start;            /* nothing put out yet: the space that SentencePiece and WordPiece put before the first word is dropped */
    unsigned char held[4];             /* the beginning of a character */
    int           held_count;
};
/* `start`: the ids begin a text; false: they continue one. */
void detokenizer_init(struct detokenizer *d, const struct tokenizer *t, bool start, bool show_control);
void detokenizer_feed(struct detokenizer *d, int32_t id, struct buf *out);     /* ids out of range are ignored */
void detokenizer_finish(struct detokenizer *d, struct buf *out);               /* a held beginning becomes one U+FFFD */

#endif
