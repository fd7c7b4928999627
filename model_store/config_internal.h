/* What the parts of the model config share: model_config.c (ways in and out), config_read.c (tree to struct), config_complete.c (against
 * the signature), config_picture.c (pictures), config_ensemble.c (ensembles), config_sequences.c (sequences). */
#ifndef MODEL_STORE_CONFIG_INTERNAL_H
#define MODEL_STORE_CONFIG_INTERNAL_H

#include "base/json.h"
#include "model_store/model_config.h"

enum { CONFIG_INSTANCES_MAX = 64 };
#define CONFIG_ARENA_MAX ((uint64_t)32 << 20)

#define REFUSE(...) err_set(err, ST_BAD_INPUT, __VA_ARGS__)
enum status config_refuse_memory(struct err *err);      /* the config's arena is spent */

/* Fills the struct from c->tree. `where` names the text; log may be NULL. */
enum status config_read_tree(struct model_config *c, const char *where, struct log *log, struct err *err);
/* Reads the "picture." parameters; config_complete_picture then settles size, channels and layout. */
enum status config_read_picture(struct model_config *c, struct err *err);
enum status config_complete_picture(struct model_config *c, const struct signature *s, struct err *err);

/* Fills c->ensemble from ensemble_scheduling, inputs and outputs. */
enum status config_read_ensemble(struct model_config *c, struct err *err);

/* Fills c->scheduling.sequences from sequence_batching; config_complete_sequences then holds it against the signature. */
enum status config_read_sequences(struct model_config *c, struct err *err);
enum status config_complete_sequences(struct model_config *c, const struct signature *s, struct err *err);

/* Is a port one of its controls or states? */
bool config_hides(const struct model_config *c, const char *port);

/* Dimensions are -1 (free) or more than 0; a shape of a reshape may be empty. */
enum status config_dims(const struct json *list, int64_t *dims, int *rank, struct err *err);
enum dtype  config_dtype(const struct json *message);
/* "" when absent */
const char *config_text(const struct json *message, const char *field);
int64_t     config_number(const struct json *message, const char *field, int64_t otherwise);
bool        config_flag(const struct json *message, const char *field);

#endif
