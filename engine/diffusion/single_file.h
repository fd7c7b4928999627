/* One safetensors file that holds a whole model under the names of the first releases: "model.diffusion_model.", "first_stage_model.", "cond_stage_model." or
 * "conditioner.embedders.". Which family it is is read off the shapes; configurations are those the family was published with, sizes taken from the weights. The tokenizer
 * lies beside the file in a folder "tokenizer" (and "tokenizer_2"). */
#ifndef ENGINE_DIFFUSION_SINGLE_FILE_H
#define ENGINE_DIFFUSION_SINGLE_FILE_H

#include "engine/diffusion/model.h"

enum status single_file_open(struct diffusion_model *m, const char *path, struct err *err);

#endif
