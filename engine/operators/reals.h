/* A call's operands as plain arrays of double, in its scratch: what operators that are not hot are written against, once for all types. Sums over such
 * arrays have one order by themselves. Operands of other types (strings, sequences) and inputs left out are NULL. */
#ifndef ENGINE_OPERATORS_REALS_H
#define ENGINE_OPERATORS_REALS_H

#include "engine/operators/operators.h"

enum { REALS_MAX = 16 };

struct reals { double *in[REALS_MAX], *out[REALS_MAX]; double *rest; };      /* rest: what op->scratch asked for beyond reals_scratch */

uint64_t reals_scratch(const struct call *c);                      /* for op->scratch; multiples of 64 */
uint64_t reals_scratch_more(const struct call *c, uint64_t more);   /* and `more` doubles besides; UINT64_MAX, which no budget holds, when that does not fit */
void     reals_begin(struct reals *r, const struct call *c);        /* loads the inputs; results start at 0 */
void     reals_end(const struct reals *r, struct call *c);          /* stores the results that somebody wants */
/* One element, k counted in row-major order; the type was checked. */
int64_t  operand_int(const struct operand *o, uint64_t k);
double   operand_real(const struct operand *o, uint64_t k);
void     operand_real_put(struct operand *o, uint64_t k, double v);
void     operand_int_put(struct operand *o, uint64_t k, int64_t v);

#endif
