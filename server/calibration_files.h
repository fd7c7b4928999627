/* Calibration inputs of `inferd quantize` from files and folders.
 *
 * One input of the model's is: a .npz file by names of inputs; a folder that holds input_K.pb or input_K.npy (K counts the model's inputs), or NAME.npy, NAME.pb or a picture for each input; and for a model
 * of one input any .npy, .pb or picture file. Any other folder holds such, taken in the order of their names. Pictures become tensors as the model's config.pbtxt says. */
#ifndef SERVER_CALIBRATION_FILES_H
#define SERVER_CALIBRATION_FILES_H

#include "engine/calibrate/int8.h"
#include "model_store/model_config.h"

enum { CALIBRATION_FILES_MAX = 100000 };

struct calibration_files {
    struct arena         arena;
    struct model_config *config;           /* NULL: there is none that says how */
    const struct signature *signature;
    char               **paths; int count, room;
    int                  passed_over;      /* files of other kinds */
};

/* `folder` of the model's file: config.pbtxt is looked for there and above. The signature is borrowed. */
enum status calibration_files_open(struct calibration_files *f, const char *folder, const struct signature *s, struct err *err);
/* Adds what a file or folder holds. ST_NOT_FOUND, ST_BAD_INPUT when there is nothing. */
enum status calibration_files_add(struct calibration_files *f, const char *path, struct err *err);
void        calibration_files_close(struct calibration_files *f);
/* For int8_inputs: ctx is the struct calibration_files. */
enum status calibration_files_read(void *ctx, int index, const struct port *ports, int port_count, struct tensor *out, struct arena *arena, struct err *err);

#endif
