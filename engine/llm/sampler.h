/* Drawing the next token from the logits of one. The draw of token i of a text depends on the seed, the choice and i alone, so the same seed gives the
 * same text whoever shares the batch and however the text was cut into steps.
 *
 * Sources: top-p (Holtzman et al. 2019, arXiv 1904.09751), typical (Meister et al. 2022, arXiv 2202.00666), min-p (Nguyen et al. 2024, arXiv 2407.01082), top-n-sigma (Tang et al. 2024, arXiv
 * 2411.07641), mirostat (Basu et al. 2020, arXiv 2007.14966), XTC and DRY as text-generation-webui introduced them. */
#ifndef ENGINE_LLM_SAMPLER_H
#define ENGINE_LLM_SAMPLER_H

#include "engine/text_job.h"
#include "kernels/kernels.h"

/* Scratch of one worker for a vocabulary. The table of kernels need not outlive the call. */
struct sampler;
enum status sampler_open(struct sampler **out, int vocabulary, const struct kernels *kernels, struct err *err);
void        sampler_close(struct sampler *s);

/* The text so far: prompt tokens, then generated ones. */
struct sampler_past { const int32_t *tokens; int count, prompt; };

/* What a sequence carries from token to token; starts zeroed. */
struct sampler_state { float mu; bool mu_set; };

struct sampler_question {
    const struct sampling   *how;
    const struct token_bias *bias;  int bias_count;
    struct sampler_past      past;
    /* Tells whether DRY may not look across this token; NULL: nothing breaks. */
    bool (*breaks)(void *ctx, int32_t token);
    void  *breaks_context;
    const uint32_t *mask;           /* bit set: the token is allowed; NULL: all are */
    const int32_t  *banned; int banned_count;     /* not allowed now (end tokens before min_tokens) */
    uint64_t seed;
    uint32_t choice, index;         /* which text of the request, which token of it */
    int      logprobs;              /* alternatives asked for; -1: none, and no log-probability */
};

/* logits [vocabulary] are changed. Fills t->token, and logprob and top of the model's own distribution when asked (before anything else touched it).
 * ST_INTERNAL when no token can be drawn (all are forbidden, or the logits are no numbers). */
enum status sampler_draw(struct sampler *s, float *logits, const struct sampler_question *q, struct sampler_state *state, struct text_token *t, struct err *err);

/* Nothing is drawn: the log-probability of `token` under these logits, and `wanted` alternatives. text_offset stays 0. */
void        sampler_look(const float *logits, int vocabulary, int32_t token, int wanted, struct text_token *t);

#endif
