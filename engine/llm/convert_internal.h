/* What the converter's files share. A conversion is a list of items, one for each tensor of the target: its name, type and shape, and where its numbers come
 * from. The list is made (convert_items.c, convert_bin.c), the target's head is written from it, then the numbers are streamed in its order (convert_rows.c). */
#ifndef ENGINE_LLM_CONVERT_INTERNAL_H
#define ENGINE_LLM_CONVERT_INTERNAL_H

#include "engine/llm/convert.h"
#include "engine/llm/model.h"

enum { CONVERT_NAME_MAX = 160 };

struct convert_item {
    char     name[CONVERT_NAME_MAX];
    int      type, rank;
    int64_t  dims[4];                        /* outermost first */
    /* The source, one of three: */
    const float *given;                      /* numbers that are made, not read */
    const struct weight_tensor *tensor;      /* as it is in its file */
    enum llm_role role;                      /* found by llm_weight_find */
    bool     bias;
    int      layer, expert, experts;         /* experts of them, one behind the other, from `expert` on; expert -1: not of an expert */
    int64_t  first, step, rows;              /* the source's rows (of each expert): first, first + step, ... */
    int      heads;                          /* > 0: within each of so many heads the halves become pairs; < 0: pairs become halves */
    float    plus;                           /* added to each number */
    bool     turn;                           /* written [columns, rows] (GPT-2's folders) */
};

struct convert_plan {
    struct llm_model    *model;              /* NULL when all items have tensors of their own */
    struct convert_item *items;
    int                  count, capacity;
    int                  type;               /* as asked for */
    bool                 to_folder;
    const struct llm_architecture *target;   /* row whose names the target has */
    int                  kept;
};

/* ---- items (convert_items.c) ---- */
struct convert_item *convert_add(struct convert_plan *p, const char *name, struct err *err);       /* zeroed but for step and experts 1, expert -1; NULL: no memory */
/* One item of a tensor taken as it is, `type` CONVERT_KEEP or what it becomes. */
enum status convert_add_tensor(struct convert_plan *p, const struct weight_tensor *t, int type, struct err *err);
/* The type that a matrix with rows of k numbers gets when `type` is wanted: a block that does not divide k gives F16, and is counted in p->kept. */
int         convert_fit_type(struct convert_plan *p, int type, int64_t k);
/* All items for a model's weights under the names of p->target. */
enum status convert_plan_model(struct convert_plan *p, struct err *err);
void        convert_plan_free(struct convert_plan *p);

/* ---- numbers (convert_rows.c) ---- */
struct convert_sink { enum status (*write)(void *ctx, const void *bytes, uint64_t n, struct err *err); void *ctx; };
uint64_t    convert_item_bytes(const struct convert_item *it);
enum status convert_write_items(const struct convert_plan *p, const struct convert_options *o, struct convert_sink sink, struct err *err);

/* ---- configurations (convert_config.c, convert_json.c) ---- */
/* The row of the table that GGUF knows this model by; refuses what GGUF has no name or no words for. */
enum status convert_gguf_architecture(const struct llm_model *m, const struct llm_architecture **out, struct err *err);
enum status convert_put_config(struct gguf_writer *w, const struct llm_config *c, const struct llm_architecture *a, struct err *err);
/* Fails with the first thing in which `got`, what a reader of the target sees, computes otherwise than `want`. */
enum status convert_same_config(const struct llm_config *want, const struct llm_config *got, struct err *err);
/* Opens what the keys put so far say: a GGUF file in memory with empty tables of the right height. *bytes is freed by the caller after gguf_close; the writer is used up. */
enum status convert_reopen(struct gguf_writer *w, const struct llm_config *c, struct gguf **out, struct buf *bytes, struct err *err);
/* config.json of a folder, and in *a the row whose names its tensors have. */
enum status convert_write_config(struct buf *out, const struct llm_model *m, const struct llm_architecture **a, struct err *err);
/* Divisors of the rotation's frequencies for Llama 3's bands, [rotary / 2], in the model's arena. */
const float *convert_band_divisors(struct llm_model *m);

/* ---- tokenizers (convert_tokenizer.c, convert_tokenizer_json.c) ---- */
struct tokenizer;
/* The keys of a tokenizer; padded with unused tokens up to `vocabulary`. Names tokenizer.ggml.pre or refuses. */
enum status convert_put_tokenizer(struct gguf_writer *w, const struct tokenizer *t, int vocabulary, struct err *err);
/* Do both give the same ids on the probing texts? `what` names the target in the sentence. */
enum status convert_same_tokenizer(const struct tokenizer *want, const struct tokenizer *got, const char *what, struct err *err);
/* tokenizer.json and tokenizer_config.json; `pre` is the file's tokenizer.ggml.pre, NULL: none. ST_UNSUPPORTED for kinds that are not written. */
enum status convert_write_tokenizer(struct buf *json, struct buf *config, const struct tokenizer *t, const char *pre, struct err *err);

/* ---- llama2.c's files (convert_bin.c) ---- */
struct convert_bin {
    struct llm_config config;
    struct weight_tensor *tensors; char (*names)[64]; int count;      /* views into the file, GGUF's names and order of rows */
};
/* From the bytes of NAME.bin, borrowed. */
enum status convert_bin_open(struct convert_bin *out, const void *data, uint64_t size, struct err *err);
void        convert_bin_close(struct convert_bin *b);
/* The tokenizer beside it: int32 longest; per token float32 score, int32 length, bytes. `vocabulary` tokens. */
enum status convert_bin_tokenizer(struct gguf_writer *w, const void *data, uint64_t size, int vocabulary, struct err *err);

/* ---- targets (convert_target.c): under a temporary name beside their own until they are complete ---- */
struct convert_target { char path[4096], temporary[4160]; int fd; bool folder; };
/* A file, or a folder that is not there yet. */
enum status convert_target_open(struct convert_target *t, const char *path, bool folder, struct err *err);
/* A file of a folder. length 0: left open in t->fd for convert_target_close_file. */
enum status convert_target_file(struct convert_target *t, const char *name, const void *bytes, size_t length, struct err *err);
enum status convert_target_close_file(struct convert_target *t, struct err *err);
/* Gives it its name; on failure nothing is left. */
enum status convert_target_finish(struct convert_target *t, struct err *err);
void        convert_target_abandon(struct convert_target *t);

/* ---- mixes (convert_mix.c) ---- */
/* Is this a matrix that may be stored in another type? Norms, biases, routers, position and type tables are not. */
bool        convert_is_matrix(const struct convert_item *it);
/* Sets the items' types. g: the source. */
enum status convert_mix_types(struct convert_plan *p, const struct gguf *g, const char *mix, struct err *err);
/* general.file_type of a type or a mix. */
int         convert_file_type(const char *name);

#endif
