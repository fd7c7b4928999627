/* A prompt as a text encoder wants it: token ids in chunks, each begun and ended as the tokenizer says and filled up, and a weight for every token.
 *
 * Weights are written as in AUTOMATIC1111's interface: (words) times 1.1, [words] divided by 1.1, (words:1.4) times 1.4; they nest; a backslash makes a bracket a plain character. A
 * bracket that nothing closes holds to the end. The word BREAK begins a new chunk. */
#ifndef ENGINE_DIFFUSION_PROMPT_H
#define ENGINE_DIFFUSION_PROMPT_H

#include "base/err.h"
#include "engine/text/tokenizer.h"

enum { PROMPT_CHUNKS_MAX = 32 };

struct prompt {
    int      chunks, length;       /* [chunks, length] */
    int32_t *ids;
    float   *weights;
    int     *ends;                 /* [chunks] place of the token that ends the text, within its chunk */
    int      tokens;               /* in all, without those that begin and end */
    bool     weighted;             /* some weight is not 1 */
    int32_t  pad;                  /* what chunks are filled up with */
};
/* length: tokens of a chunk, begin and end included. pad: what chunks are filled up with; below 0: as the tokenizer says. ST_BAD_INPUT: too long. */
enum status prompt_open(struct prompt *p, const struct tokenizer *t, const char *text, size_t text_length, int length, int32_t pad, struct err *err);
/* The words alone, without marks, in one chunk: cut to its length, ended as the tokenizer ends a text and filled up (T5). */
enum status prompt_open_plain(struct prompt *p, const struct tokenizer *t, const char *text, size_t text_length, int length, struct err *err);
/* Adds empty chunks, up to so many: both prompts of a guided picture must have as many. */
enum status prompt_extend(struct prompt *p, const struct tokenizer *t, int chunks, struct err *err);
void        prompt_close(struct prompt *p);

#endif
