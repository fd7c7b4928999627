/* The tiny models of tests/diffusion/vectors: what tools/make_diffusion_vectors.py wrote, made into folders with the same hashed weights. */
#ifndef TESTS_DIFFUSION_DRAFT_H
#define TESTS_DIFFUSION_DRAFT_H

#include "base/json.h"
#include "engine/engine.h"
#include "engine/image_job.h"
#include "engine/request.h"

struct draft { struct arena arena; char *text; struct json *root; };

bool draft_read(struct draft *d, const char *name);                       /* of the vectors; false: not readable */
void draft_free(struct draft *d);
/* The folder of a model with this scheduler_config.json (an object); weights of type F32, F16 or BF16. The weights are written once: a second call only changes the scheduler. */
bool draft_write(const struct draft *d, const char *folder, const struct json *scheduler, int type);

/* The same model in one file, model.safetensors, with the names that the vectors list, and the tokenizer beside it. */
bool draft_write_file(const struct draft *d, const char *folder);

/* What a case asks, in *j (opened here); the given picture and mask in *image and *mask, to be freed with image_free. */
enum status draft_ask(const struct json *c, struct image_job *j, struct image *image, struct image *mask, struct err *err);

struct draft_model { struct engine *engine; struct engine_instance *instance; };
/* `folder` holds model_index.json, or else model.safetensors. */
/* What models are opened for: float on the CPU, unless a test says otherwise. */
struct draft_way { enum precision precision; int gpu; };
extern struct draft_way draft_way;

enum status draft_open(struct draft_model *m, const char *folder, int threads, int level, struct err *err);
void        draft_close(struct draft_model *m);
enum status draft_run(struct draft_model *m, struct image_job *j, struct err *err);
/* Any request, initialised by the caller and to be dropped by him. */
enum status draft_run_request(struct draft_model *m, struct request *r, struct err *err);

#endif
