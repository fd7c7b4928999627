/* inferd bench's half for language models. */
#ifndef SERVER_COMMAND_BENCH_H
#define SERVER_COMMAND_BENCH_H

#include "engine/engine.h"

struct bench_text_ask { int prompt, generate, sequences; double seconds; bool json, trace; };
enum status bench_text(const char *model, const struct engine_options *options, const struct bench_text_ask *ask, struct err *err);

#endif
