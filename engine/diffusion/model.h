/* The files of a model of pictures: a diffusers folder (model_index.json and a folder for each part), or one safetensors file with the names of the first releases
 * (single_file.h). What a family does otherwise than the others is a row of a table. */
#ifndef ENGINE_DIFFUSION_MODEL_H
#define ENGINE_DIFFUSION_MODEL_H

#include "engine/diffusion/network.h"
#include "engine/diffusion/sampler.h"
#include "engine/formats/safetensors.h"

enum { TEXT_ENCODERS_MAX = 3, MODEL_TEXTS_MAX = 16 };

enum model_part { PART_TEXT, PART_TEXT_2, PART_TEXT_3, PART_DENOISER, PART_VAE, PART_COUNT };

enum family_flags {
    FAMILY_BEFORE = 1,         /* texts are read before the last layer of their encoders */
    FAMILY_POOLED = 2,         /* takes the text as a whole beside its tokens */
    FAMILY_PIXELS = 4,         /* no autoencoder: the network sees pixels */
    FAMILY_EVEN_FLOW = 8,      /* shares of noise go evenly from 1 to 1 / steps (Flux) */
    FAMILY_GUIDED = 16,        /* the guidance is an input of the network, or it takes none: it is never called twice */
    FAMILY_JOINED = 32,        /* the texts as a whole of all CLIP encoders side by side; T5's tokens behind CLIP's, zeros where there is no T5 */
    FAMILY_T5 = 64,            /* T5's tokens alone */
};
struct family {
    const char *pipeline;      /* _class_name of model_index.json, without "StableDiffusion...Img2Img" and the like: see model.c */
    const char *name;
    int         steps;
    float       guidance;
    unsigned    flags;
    int         t5_tokens;     /* of a text for T5 */
};

struct diffusion_model {
    const struct family *family;
    struct arena  arena;
    const struct json *index;                      /* model_index.json; NULL for a single file */
    struct network_source  parts[PART_COUNT];          /* weights NULL: the model has no such part */
    struct safetensors *files[PART_COUNT];         /* owned; of a single file only the first */
    struct sampler_config sampler;
    char          directory[4096];
    char         *texts[MODEL_TEXTS_MAX];          /* JSON files read whole */
    int           text_count;
    bool          zero_empty;                      /* force_zeros_for_empty_prompt */
    bool          single;
    int32_t       pads[TEXT_ENCODERS_MAX];         /* what prompts are filled up with; -1: as the tokenizer says */
};

/* `main_file`: .../model_index.json or .../NAME.safetensors. */
enum status diffusion_model_open(struct diffusion_model *m, const char *main_file, uint64_t memory_max, struct err *err);
void        diffusion_model_close(struct diffusion_model *m);
/* Where tokenizer `index` (0..) lies, in `out`; false: the model has none. */
bool        diffusion_model_tokenizer(const struct diffusion_model *m, int index, char *out, size_t size);
/* A file read as JSON into the model's arena. */
enum status diffusion_model_json(struct diffusion_model *m, const char *path, const struct json **out, struct err *err);
/* The row of this pipeline class; NULL: none. */
const struct family *diffusion_family(const char *class);
/* Is this the head of a checkpoint with the names of the first releases? */
bool        diffusion_is_checkpoint(const struct weights *w);

#endif
