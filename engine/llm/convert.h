/* Rewriting language models: a Hugging Face folder, a GGUF file or llama2.c's .bin becomes a GGUF file; a GGUF file becomes a folder. Tensors go
 * through one by one, in pieces of rows: the whole model is never in memory. The target appears under its name only when it is complete.
 *
 * What cannot be said in the target's format is refused with a sentence: the configuration that a reader of the target would see is compared with the source's,
 * and so are the ids that its tokenizer gives on probing texts. */
#ifndef ENGINE_LLM_CONVERT_H
#define ENGINE_LLM_CONVERT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { CONVERT_KEEP = -1 };

struct convert_options {
    int  type;                     /* of the matrices: a ggml type number, CONVERT_KEEP: the source's own where the target can hold it */
    int  threads;                  /* at least 1 */
    /* Called after each piece; may be NULL. */
    void (*progress)(void *ctx, uint64_t done, uint64_t total, const char *tensor);
    void *ctx;
};

/* What was done, for the one who asked. */
struct convert_report {
    uint64_t source_bytes, target_bytes;        /* of tensors */
    int      tensors, kept;                     /* kept: matrices that a block does not divide, stored as F16 */
    char     note[ERR_TEXT_MAX];                /* "" or what was left out */
};

/* target ending in ".gguf": a file; else a folder, which is made. */
enum status convert_model(const char *source, const char *target, const struct convert_options *o, struct convert_report *report, struct err *err);

/* GGUF with weights of F32, F16 or BF16 to GGUF quantised as `mix` says: a type's name (Q4_0, Q6_K, ...) or a mix (Q4_K_M, ...). The types within
 * a mix are chosen as llama.cpp does without an importance matrix. o->type is ignored. */
enum status convert_quantize(const char *source, const char *target, const char *mix, const struct convert_options *o, struct convert_report *report, struct err *err);

/* "f16", "Q8_0": the number of a type that can be written; -1: no such type. */
int         convert_type_of(const char *name);
/* Names that convert_quantize takes, in order; NULL at the end. */
const char *convert_mix_name(int index);

#endif
