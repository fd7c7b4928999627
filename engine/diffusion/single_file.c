#include "engine/diffusion/single_file.h"

enum status single_file_open(struct diffusion_model *m, const char *path, struct err *err)
{
    (void)m;
    return err_set(err, ST_UNSUPPORTED, "'%.300s': single files are not read yet", path);
}

bool diffusion_is_checkpoint(const struct weights *w)
{
    return weights_find(w, "model.diffusion_model.input_blocks.0.0.weight") != NULL;
}
