/* The engine's structs, for its files and the command line's bench and logits, which look inside. */
#ifndef ENGINE_LLM_LLM_INTERNAL_H
#define ENGINE_LLM_LLM_INTERNAL_H

#include <pthread.h>

#include "engine/graph/plan_cache.h"
#include "engine/llm/build.h"
#include "engine/llm/llm_engine.h"
#include "engine/llm/pages.h"
#include "engine/llm/pool.h"
#include "engine/llm/sampler.h"
#include "engine/request.h"
#include "engine/text/grammar.h"
#include "engine/text/template.h"
#include "engine/text/tokenizer.h"

enum {
    STEP_TOKENS = 512,             /* the token budget of a step: decoding tokens first, then pieces of prompts */
    STEP_TOKENS_CARD = 2048,       /* on a GPU, whose matrices are read once for all of them */
    SEQUENCES_MAX = 64,            /* texts that may share a step */
    DRAWERS_MAX = 16,              /* threads that draw tokens at once */
};

struct engine {
    struct llm_model      model;
    struct graph          graph;
    struct graph          encoder;             /* of a pair (config.decoder_layers): runs once over a prompt, before graph */
    const struct device_gpu *gpu;              /* the card that graph runs on; NULL: the CPU */
    pthread_mutex_t       lock;                /* of what follows */
    struct graph          fallback;            /* the model on the CPU, built when its card was lost */
    bool                  fallen;
    struct tokenizer     *tokenizer;           /* NULL: the file has none; texts cannot be served, ids can */
    struct template      *chat_template;       /* NULL: none, or template_error says what is wrong with it */
    struct err            template_error;
    struct token_trie    *trie;                /* of the tokenizer, for grammars */
    int32_t  ends[64];                         /* tokens that end a generation */
    int      end_count;
    struct engine_options options;
    struct signature      signature;
    struct text_stats     stats;
    int      kv_type;
    int32_t  pages;                            /* of the pool */
    int      context;                          /* what is served: the model's, or what the pool holds */
    int      sequences;                        /* SEQUENCES_MAX or fewer */
    int      step_tokens;
    int      window;                           /* no layer sees farther back; 0: some layer sees all */
    uint64_t memory_max, page_bytes;
};

enum sequence_state { SEQUENCE_WAITING /* holds nothing */, SEQUENCE_RUNNING, SEQUENCE_OVER };

/* One text: a prompt and one of its choices. */
struct sequence {
    struct llm_slot    *slot;
    struct text_answer *answer;
    const struct text_prompt *prompt;
    int      prompt_index, choice;
    enum sequence_state state;
    uint64_t order;                /* of arrival: the youngest gives way */
    int32_t *tokens;               /* prompt (of a pair: the token that a text begins with), then what was generated */
    int      count, room;
    int      given;                /* tokens that were not generated */
    int      computed;             /* tokens whose keys and values are in the cache */
    int32_t *pages;                /* [page_count] held, but for the first `gone`, which no layer sees any more (PAGE_NONE) */
    int      gone;
    char    *swapped;              /* what its pages held when it gave way, on the heap; NULL: it will be computed again */
    int      swapped_pages, swapped_gone, swapped_tokens;
    int      page_count, page_room;
    int32_t *source;               /* [source_count] pages held of what a pair's encoder made of the prompt; choices of a prompt share them */
    int      source_count;
    bool     encoded;
    int      published;            /* full pages that are known by digest */
    uint8_t  digest[16];           /* of the published ones */
    bool     generating;           /* the prompt has been computed once: text came out */
    struct sampler_state sampler;
    struct detokenizer detokenizer;
    struct grammar_state *grammar; /* NULL: the text is free */
    struct buf held;               /* bytes that may begin a stop string */
    int      max_tokens;
    double  *pool; int pooled;     /* TEXT_EMBED: sum over tokens [width] */
    /* of the step that runs */
    int      first, taken;         /* its tokens in the step */
    int      result, results;      /* its rows of results */
    bool     is_drawn;             /* its next token, or why there is none, is in what follows */
    struct text_token drawn;
    struct err draw_error;
};

struct llm_slot {
    struct slot      base;
    struct text_job *job;
    struct sequence *sequences;
    int              count, open;  /* open: not over */
    uint64_t         admitted_ns, last_ns;
    bool             queued_counted;
};

struct engine_instance {
    struct engine    *engine;
    struct plan_cache plans, encoder_plans;
    struct arena      run;
    struct pages      pages;
    uint64_t          swapped_bytes;           /* of texts that gave way, of options.kv_swap_bytes */
    struct pool       pool;        /* keys and values: engine.pages * page_bytes */
    const struct graph *graph;     /* of the engine: on its card, or the one that takes its place */
    struct sampler   *samplers[DRAWERS_MAX];       /* of the threads that draw */
    int               samplers_count;
    uint32_t         *mask;        /* [(vocabulary + 31) / 32] of the token being drawn */
    uint64_t          arrivals;
    /* inputs of a step */
    int32_t *tokens, *positions, *types, *rows, *page_table, *wanted, *encoded;
    int      page_table_room;
    struct sequence **batch;       /* [sequences] of the step */
    int      batch_count, batch_tokens, batch_results;
};

/* ---- sequence.c ---- */
/* start: the token that the texts of a pair begin with; -1: a text goes on where its prompt ends. */
enum status sequence_open(struct sequence *q, struct llm_slot *slot, int prompt, int choice, int32_t start, struct err *err);
void        sequence_close(struct engine_instance *i, struct sequence *q);
/* Lets go of its pages; it will be computed again from its tokens. */
void        sequence_give_up(struct engine_instance *i, struct sequence *q);
/* The same, with what they held kept on the heap as far as the budget for it goes. */
void        sequence_give_way(struct engine_instance *i, struct sequence *q);
/* Gets that back: begin makes place for the pages that were gone (false: no memory), the caller reserves up to swapped_pages, then the rest is copied. */
bool        sequence_return_begin(struct sequence *q);
void        sequence_return(struct engine_instance *i, struct sequence *q);
/* Gives pages back that no layer sees any more. */
void        sequence_trim(struct engine_instance *i, struct sequence *q);
/* Pages for tokens up to `upto`; false when there are none. Takes what the prefix cache has when it starts. */
/* The same for what the encoder makes of the prompt. */
bool        sequence_reserve_source(struct engine_instance *i, struct sequence *q);
/* Takes what the encoder made for another choice of the same prompt. */
bool        sequence_share_source(struct engine_instance *i, struct sequence *q, const struct sequence *from);
bool        sequence_reserve(struct engine_instance *i, struct sequence *q, int upto);
void        sequence_adopt(struct engine_instance *i, struct sequence *q);
void        sequence_publish(struct engine_instance *i, struct sequence *q);
bool        sequence_append(struct sequence *q, int32_t token);          /* false: no memory */
void        sequence_finish(struct engine_instance *i, struct sequence *q, enum text_finish how);

/* ---- step.c ---- */
/* Puts tokens of these slots' sequences into the step's inputs. batch_count 0: nothing can be computed now. */
void        step_gather(struct engine_instance *i, struct slot *const *slots, int n);
enum status step_run(struct engine_instance *i, const atomic_bool *stop, struct plan **out, struct err *err);
/* Of a pair: runs the encoder over prompts that wait for it, as far as there are pages and budget. */
enum status step_encode(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err);
/* Runs the graph over the inputs as they stand: t tokens, n wanted rows. */
enum status step_compute(struct engine_instance *i, int t, int n, const atomic_bool *stop, struct plan **out, struct err *err);

/* ---- llm_engine.c ---- */
/* What the graph is built for. */
struct llm_build_options llm_options(const struct engine *e);

/* ---- card.c ---- */
/* Opens the card of options.gpu. */
enum status card_open(struct engine *e, struct err *err);
/* Do weights and a KV cache fit its budget? Gives the bytes that are left for the cache. */
enum status card_budget(const struct engine *e, uint64_t *left, struct err *err);
/* Does every operator run there? Makes the plan of one token. */
enum status card_check(const struct engine *e, struct err *err);
/* When the card was lost: goes on on the CPU with an empty cache; texts are computed again from their tokens. */
enum status card_leave(struct engine_instance *i, struct slot *const *slots, int n, struct err *err);

/* ---- answer.c ---- */
/* Draws the next tokens of the step's texts that no grammar holds, on all threads; answer_take tells them. */
void        answer_draw(struct engine_instance *i, const struct plan *plan);
extern int64_t answer_logits_for_a_thread;       /* fewer are not worth one; tests set it */
/* What the step found for a sequence: a token drawn and told, a vector added up. */
enum status answer_take(struct engine_instance *i, struct sequence *q, const struct plan *plan, struct err *err);
enum status answer_echo(struct sequence *q, const struct tokenizer *t, struct err *err);

#endif
