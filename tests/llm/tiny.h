/* Tiny models that tools/make_llm_vectors.py described (tests/llm/vectors): their files are made again from a hash, built, and run. */
#ifndef TESTS_LLM_TINY_H
#define TESTS_LLM_TINY_H

#include "engine/llm/build.h"

enum { TINY_TENSORS = 512, TINY_TOKENS = 64, TINY_FEATURES = 16 };

struct tiny_tensor { char name[160]; float base, amplitude; int64_t dims[4]; int rank; };
struct tiny {
    char *text;                                   /* of the vector file */
    const char *config; size_t config_length;
    struct tiny_tensor tensors[TINY_TENSORS]; int tensor_count;
    int32_t tokens[TINY_TOKENS]; int token_count;
    int32_t greedy[TINY_TOKENS]; int greedy_count;                 /* what a pair writes about the tokens backwards, but for the first five */
    const char *features[TINY_FEATURES]; int feature_count;
    float *values; int rows, columns;
};

bool tiny_read(struct tiny *t, const char *path);
void tiny_free(struct tiny *t);
/* Writes config.json and model.safetensors into the folder. `change` "zero:X", "one:X" or "low:X": tensors whose name holds X become 0, 1 or -9. */
bool tiny_write(const struct tiny *t, const char *folder, const char *change);
/* Opens the folder or .gguf file, lets `edit` change the configuration (may be NULL), builds in f32 and runs all tokens in pieces of `piece`. out [tokens, columns]: the last output. */
enum status tiny_run(const char *folder, void (*edit)(struct llm_config *c), const int32_t *tokens, int count, int piece, int threads, int level, float *out, int *columns, struct err *err);
/* The same in another mode of the linear layers; then on a card, too, with keys and values of another type (enum block_type). */
enum status tiny_run_mode(const char *path, void (*edit)(struct llm_config *c), enum linear_mode mode, const int32_t *tokens, int count, int piece, int threads, int level, float *out, int *columns, struct err *err);
enum status tiny_run_card(const char *path, const struct device_gpu *gpu, enum linear_mode mode, int kv_type, const int32_t *tokens, int count, int piece, float *out, int *columns, struct err *err);
/* The largest difference between two rows of n numbers; NaN, which passes no bound, when one of them is none. */
double tiny_farthest(const float *a, const float *b, int n);

#endif
