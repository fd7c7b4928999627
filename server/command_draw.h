/* Shared by draw and bench: one request for pictures without a server. */
#ifndef SERVER_COMMAND_DRAW_H
#define SERVER_COMMAND_DRAW_H

#include "engine/image_job.h"
#include "server/command_model.h"

/* Steps the job to its end; progress (or NULL) is called after every step. */
enum status command_image_run(struct command_model *m, struct image_job *j, void (*progress)(void *ctx, struct image_job *j), void *ctx, struct err *err);
/* "512x768" */
bool        command_size(const char *text, int *width, int *height);

struct draw_bench { int width, height, steps; double guidance; int pictures; bool json, trace; };
enum status bench_draw(const char *model, const struct engine_options *o, const struct draw_bench *b, struct err *err);

#endif
