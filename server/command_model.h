/* Shared by the commands that run one model: arguments, opening, one inference. */
#ifndef SERVER_COMMAND_MODEL_H
#define SERVER_COMMAND_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/file.h"
#include "engine/engine.h"
#include "kernels/kernels.h"

enum { COMMAND_TENSORS_MAX = 256 };

/* ---- arguments: --name VALUE or --name=VALUE ---- */
struct command_args { int argc, at; char **argv; };
/* True when the current argument is the option; *value then points at its value and `at` moves past it. A missing value: *value NULL. */
bool command_option(struct command_args *a, const char *name, const char **value);
bool command_flag(struct command_args *a, const char *name);
bool command_number(const char *text, double low, double high, double *out);

/* --threads, --cpu-level, --gpu, --precision: fields of engine_options. 0: not one of them; 1: taken; -1: wrong (said on stderr). */
int  command_engine_option(struct command_args *a, struct engine_options *o);
void command_engine_defaults(struct engine_options *o);

/* ---- a model ---- */
struct command_model { const struct engine_ops *ops; struct engine *engine; struct engine_instance *instance; const struct signature *signature; char file[4096], directory[4096]; uint64_t load_ns; };
/* MODEL: a file, a model folder (with model.onnx, *.gguf, config.json, model_index.json or model.safetensors, or with versions: the highest), or STORE/NAME. */
enum status command_model_find(char file[4096], const char *model, struct err *err);
/* By the file's name: "onnx", "llm" or "diffusion". */
const struct engine_ops *command_engine_of(const char *file);
enum status command_model_open(struct command_model *m, const char *model, const struct engine_options *o, struct err *err);
/* The same for commands that take ONNX models only. */
enum status command_onnx_open(struct command_model *m, const char *model, const struct engine_options *o, struct err *err);
void        command_model_close(struct command_model *m);
/* One inference. The request is initialised here; outputs live until request_drop. */
enum status command_model_run(struct command_model *m, struct request *r, struct request_tensor *inputs, int count, struct err *err);

/* Steps a request with a text or an image job (set in `r`, which is initialised) to its end; progress (or NULL) is called after every step. */
enum status command_job_run(struct command_model *m, struct request *r, void (*progress)(void *ctx), void *ctx, struct err *err);

/* ---- tensors from files: .pb (TensorProto; SequenceProto or OptionalProto where the port is one), .npy, .png .jpg .webp (as the port wants them: float 0..1 or uint8) ---- */
enum status command_tensor_read(struct tensor *t, struct arena *arena, const char *path, const struct port *port, struct err *err);
/* --input NAME=FILE (or FILE, for a model of one input), up to COMMAND_TENSORS_MAX of them. 0: not it; 1: taken; -1: no value, or too many. */
struct command_binding { const char *name, *file; size_t name_length; };
int         command_binding_option(struct command_args *a, struct command_binding *bindings, int *count);
/* inputs[i] of bindings[i]; the tensors live in the arena. */
enum status command_bindings_read(const struct signature *s, const struct command_binding *bindings, int count, struct request_tensor *inputs, struct arena *arena, struct err *err);
/* As .npy. */
enum status command_tensor_write(const char *path, const struct tensor *t, struct err *err);

/* A line of /proc/self/status ("VmRSS:", "VmHWM:") in MB of 1024 KB, 0 when it is not there. What getrusage calls the greatest would still count the process that started this one. */
/* Where a model computes, for what benchmarks print: "2 threads, avx512", or "GPU 0". `text` holds at least 64 bytes. */
const char *command_where(const struct engine_options *o, enum cpu_level level, char *text);
double      command_resident_mb(const char *field);

#endif
