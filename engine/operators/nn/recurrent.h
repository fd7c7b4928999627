/* What the two ways of computing RNN, GRU and LSTM share. */
#ifndef ENGINE_OPERATORS_NN_RECURRENT_H
#define ENGINE_OPERATORS_NN_RECURRENT_H

#include "engine/operators/operators.h"

enum cell { CELL_RNN, CELL_GRU, CELL_LSTM };
enum { IN_X, IN_W, IN_R, IN_B, IN_LENGTHS, IN_H, IN_C, IN_P };      /* IN_C, IN_P: of the LSTM */

struct recurrent { int64_t steps, batch, inputs, hidden; int directions, gates; bool reverse, batch_first; enum cell cell; };

enum status recurrent_read(const struct call *c, struct recurrent *r, struct err *err);
/* Where the state of direction d and row b lies in Y_h, Y_c and the initial states. */
static inline int64_t recurrent_state_at(const struct recurrent *r, int d, int64_t b) { return (r->batch_first ? b * r->directions + d : d * r->batch + b) * r->hidden; }

/* ---- f32 with the usual attributes (recurrent_is_plain of operators.h) ---- */
uint64_t recurrent_f32_scratch(const struct call *c, const struct recurrent *r);
void     recurrent_f32_eval(struct call *c, const struct recurrent *r);

#endif
