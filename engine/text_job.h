/* What a language model is asked and what it answers, beside the tensors of engine/request.h. A dialect fills the question, hangs the job on
 * request.text and submits; the engine's worker appends to the answers under `lock` while it steps (EVENT_PARTIAL tells), so a transport may
 * stream them; after EVENT_DONE they are complete. Nothing here is changed by the engine but `answers`.
 *
 * Ranges (R14) are checked by text_job_check, which every engine calls: the dialect only has to read numbers. */
#ifndef ENGINE_TEXT_JOB_H
#define ENGINE_TEXT_JOB_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum {
    TEXT_CHOICES_MAX = 16, TEXT_LOGPROBS_MAX = 20, TEXT_STOPS_MAX = 16, TEXT_STOP_BYTES_MAX = 1024, TEXT_STOP_IDS_MAX = 64, TEXT_BIAS_MAX = 1024,
    TEXT_PROMPTS_MAX = 2048, TEXT_BREAKERS_MAX = 16,
};

enum text_task { TEXT_GENERATE, TEXT_EMBED, TEXT_SCORE /* a cross-encoder's number for a pair */ };
enum text_finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH };

struct token_bias { int32_t token; float bias; };

/* How the next token is drawn, in this order: penalties and bias on the logits, temperature, top-n-sigma, top-k, typical, top-p, min-p, XTC, the draw
 * (mirostat replaces what stands between temperature and draw). The value in brackets switches a step off. */
struct sampling {
    float    temperature;          /* 0..2 or more, up to 100; 0: greedy */
    int32_t  top_k;                /* (0) */
    float    top_p;                /* (1) */
    float    min_p;                /* (0) */
    float    typical_p;            /* (1) */
    float    top_n_sigma;          /* (0) keeps logits within n standard deviations of the largest */
    float    xtc_probability;      /* (0) chance that the most likely tokens above xtc_threshold, all but the last of them, are left out */
    float    xtc_threshold;
    int      mirostat;             /* (0), 1 or 2 */
    float    mirostat_tau, mirostat_eta;
    float    repetition_penalty;   /* (1) divides positive and multiplies negative logits of tokens seen in the window */
    int32_t  penalty_window;       /* tokens looked back at; -1: all, (0): none */
    float    presence_penalty;     /* (0) of generated tokens */
    float    frequency_penalty;    /* (0) of generated tokens, for each occurrence */
    float    dry_multiplier;       /* (0) */
    float    dry_base;
    int32_t  dry_allowed_length, dry_window;
    bool     seeded;               /* else the engine draws a seed and says it in the answer */
    uint64_t seed;
};

struct text_stop { const char *text; size_t length; };

struct text_prompt { const int32_t *tokens; int count; const uint8_t *types; /* token types of an encoder's pair, or NULL */ };

/* One token that was generated (or, with echo, read). */
struct text_top { int32_t token; float logprob; };
struct text_token {
    int32_t  token;
    float    logprob;              /* of the model's distribution before temperature; NaN: not computed */
    uint32_t text_offset;          /* byte of answer.text where its text begins */
    int      top_count;
    struct text_top top[TEXT_LOGPROBS_MAX];
};

struct text_answer {
    struct buf         text;       /* whole UTF-8 characters; held back while it may be the beginning of a stop string */
    struct text_token *tokens;     /* only when logprobs were asked */
    int                token_count, token_room;
    int32_t           *ids;        /* every generated token */
    int                id_count, id_room;
    enum text_finish   finish;     /* FINISH_NONE while it runs */
    int32_t            stop_token; /* that ended it, -1 */
    int                stop_index; /* index of the stop string that ended it, -1 */
    double             score;      /* sum of log-probabilities (best_of), or a cross-encoder's score */
    uint64_t           seed;
    int                cached_tokens;   /* of the prompt, taken from the prefix cache */
    float             *vector;     /* TEXT_EMBED: [width] */
    int                width;
    uint64_t           first_ns, last_ns;   /* CLOCK_MONOTONIC of its first and its latest token */
};

struct grammar;                    /* engine/text/grammar.h: what may come next; NULL: anything */

struct text_job {
    enum text_task            task;
    const struct text_prompt *prompts;
    int                       prompt_count;
    int                       choices;          /* for each prompt; answers[prompt * choices + choice] */
    int                       max_tokens;       /* -1: as many as the context holds */
    int                       min_tokens;
    bool                      ignore_eos, echo;
    bool                      skip_special;     /* control tokens leave no text */
    bool                      no_cache;         /* takes no part in the prefix cache */
    int                       logprobs;         /* -1: none; else how many alternatives of each token */
    const struct text_stop   *stops;      int stop_count;
    const int32_t            *stop_ids;   int stop_id_count;
    const struct token_bias  *bias;       int bias_count;
    const struct text_stop   *breakers;   int breaker_count;      /* DRY: what a repetition may not reach across */
    const struct grammar     *grammar;
    struct sampling           sampling;

    pthread_mutex_t           lock;             /* guards the answers while the job runs */
    struct text_answer       *answers;    int answer_count;       /* prompt_count * choices */
    uint64_t                  prefill_done_ns;
};

struct sampling sampling_default(void);         /* temperature 1, everything else off */
/* Sets defaults, allocates the answers (heap) for prompts that are set; ST_NO_MEMORY. */
enum status text_job_open(struct text_job *j, enum text_task task, const struct text_prompt *prompts, int prompt_count, int choices, struct err *err);
void        text_job_close(struct text_job *j);
/* Every number in its range, every token id below `vocabulary`, prompts within `context`: ST_BAD_INPUT with the field's name as the OpenAI API has it. */
/* `apart`: a prompt and its answer have the context each to themselves. */
enum status text_job_check(const struct text_job *j, int64_t vocabulary, int64_t context, bool apart, struct err *err);

#endif
