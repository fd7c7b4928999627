/* Shared by the commands that run a language model. */
#ifndef SERVER_COMMAND_TEXT_H
#define SERVER_COMMAND_TEXT_H

#include "engine/text_job.h"
#include "server/command_model.h"

/* Opens a model and sees that it is one of texts. */
enum status command_text_open(struct command_model *m, const char *model, const struct engine_options *o, struct err *err);
/* Runs the job to its end; `progress` (may be NULL) is called after each step. */
enum status command_text_run(struct command_model *m, struct text_job *j, void (*progress)(void *ctx, const struct text_job *j), void *ctx, struct err *err);

#endif
