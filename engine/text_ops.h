/* What an engine of texts offers beside engine_ops: what dialects need to turn texts into token ids and back, and what the monitor reads. Everything is read
 * only after open and may be called from any thread. */
#ifndef ENGINE_TEXT_OPS_H
#define ENGINE_TEXT_OPS_H

#include <stdatomic.h>

#include "engine/stats.h"
#include "engine/text_job.h"

struct engine;
struct tokenizer;
struct template;

enum text_finish_label { FINISHED_STOP, FINISHED_LENGTH, FINISHED_ABORT, FINISHED_ERROR, FINISHED_COUNT };

/* Counted by the engine's worker. The names in brackets are vLLM's metrics, which they become. */
struct text_stats {
    atomic_int_fast64_t  running, waiting;          /* sequences [num_requests_running, num_requests_waiting] */
    atomic_int_fast64_t  pages, pages_used;         /* of the KV cache [kv_cache_usage_perc] */
    atomic_uint_fast64_t prefix_queries, prefix_hits;        /* tokens */
    atomic_uint_fast64_t prompt_tokens, generated_tokens, preemptions, swaps /* preemptions that kept the pages on the heap */;
    atomic_uint_fast64_t finished[FINISHED_COUNT];
    struct stat_histogram first_token, between_tokens, whole, queued, prefill, decode;
};

enum text_ability { TEXT_CAN_GENERATE = 1, TEXT_CAN_EMBED = 2, TEXT_CAN_SCORE = 4 };

struct text_ops {
    const struct tokenizer *(*tokenizer)(const struct engine *e);
    const struct template  *(*chat_template)(const struct engine *e);  /* NULL: the model has none, or one that cannot be read */
    const char *(*template_error)(const struct engine *e);             /* why its template cannot be read; NULL: it can, or there is none */
    int       (*width)(const struct engine *e);                        /* of its vectors */
    int       (*context)(const struct engine *e);                      /* tokens of prompt and answer together */
    unsigned  (*abilities)(const struct engine *e);                    /* enum text_ability */
    struct text_stats *(*stats)(const struct engine *e);
};

#endif
