#include "engine/text_job.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"

struct sampling sampling_default(void)
{
    return (struct sampling){ .temperature = 1, .top_p = 1, .typical_p = 1, .xtc_threshold = 0.1f, .mirostat_tau = 5, .mirostat_eta = 0.1f, .repetition_penalty = 1, .penalty_window = -1,
                              .dry_base = 1.75f, .dry_allowed_length = 2, .dry_window = -1 };
}

enum status text_job_open(struct text_job *j, enum text_task task, const struct text_prompt *prompts, int prompt_count, int choices, struct err *err)
{
    *j = (struct text_job){ .task = task, .prompts = prompts, .prompt_count = prompt_count, .choices = choices, .max_tokens = -1, .logprobs = -1, .skip_special = true, .sampling = sampling_default() };
    if (choices < 1 || choices > TEXT_CHOICES_MAX) return err_set(err, ST_BAD_INPUT, "n must be between 1 and %d", TEXT_CHOICES_MAX);
    if (prompt_count < 1 || prompt_count > TEXT_PROMPTS_MAX) return err_set(err, ST_BAD_INPUT, "between 1 and %d prompts are taken", TEXT_PROMPTS_MAX);
    j->answers = mem_calloc_array((uint64_t)prompt_count * (uint64_t)choices, sizeof *j->answers);
    if (!j->answers) return err_set(err, ST_NO_MEMORY, "a request for text");
    j->answer_count = prompt_count * choices;
    for (int i = 0; i < j->answer_count; i++) {
        buf_init(&j->answers[i].text, 0);
        j->answers[i].stop_token = j->answers[i].stop_index = -1;
    }
    pthread_mutex_init(&j->lock, NULL);
    return ST_OK;
}

void text_job_close(struct text_job *j)
{
    if (!j || !j->answers) return;
    for (int i = 0; i < j->answer_count; i++) {
        buf_free(&j->answers[i].text);
        free(j->answers[i].tokens);
        free(j->answers[i].ids);
        free(j->answers[i].vector);
    }
    free(j->answers);
    j->answers = NULL;
    pthread_mutex_destroy(&j->lock);
}

struct range { const char *name; double value, low, high; };

static enum status check_ranges(const struct range *r, int count, struct err *err)
{
    for (int i = 0; i < count; i++)
        if (!(r[i].value >= r[i].low && r[i].value <= r[i].high)) return err_set(err, ST_BAD_INPUT, "%s must be between %g and %g", r[i].name, r[i].low, r[i].high);
    return ST_OK;
}

static enum status check_sampling(const struct sampling *s, struct err *err)
{
    const struct range ranges[] = {
        { "temperature", (double)s->temperature, 0, 100 }, { "top_k", s->top_k, 0, INT32_MAX }, { "top_p", (double)s->top_p, 0, 1 }, { "min_p", (double)s->min_p, 0, 1 },
        { "typical_p", (double)s->typical_p, 0, 1 }, { "top_n_sigma", (double)s->top_n_sigma, 0, 1000 }, { "xtc_probability", (double)s->xtc_probability, 0, 1 },
        { "xtc_threshold", (double)s->xtc_threshold, 0, 1 }, { "mirostat", s->mirostat, 0, 2 }, { "mirostat_tau", (double)s->mirostat_tau, 0, 100 }, { "mirostat_eta", (double)s->mirostat_eta, 0, 1 },
        { "repetition_penalty", (double)s->repetition_penalty, 0.01, 100 }, { "repeat_last_n", s->penalty_window, -1, INT32_MAX }, { "presence_penalty", (double)s->presence_penalty, -2, 2 },
        { "frequency_penalty", (double)s->frequency_penalty, -2, 2 }, { "dry_multiplier", (double)s->dry_multiplier, 0, 100 }, { "dry_base", (double)s->dry_base, 1, 100 },
        { "dry_allowed_length", s->dry_allowed_length, 0, 1024 }, { "dry_penalty_last_n", s->dry_window, -1, INT32_MAX },
    };
    return check_ranges(ranges, sizeof ranges / sizeof ranges[0], err);
}

enum status text_job_check(const struct text_job *j, int64_t vocabulary, int64_t context, bool apart, struct err *err)
{
    enum status st = check_sampling(&j->sampling, err);
    if (st) return st;
    if (j->logprobs > TEXT_LOGPROBS_MAX) return err_set(err, ST_BAD_INPUT, "at most %d log-probabilities are given for each token", TEXT_LOGPROBS_MAX);
    if (j->stop_count > TEXT_STOPS_MAX) return err_set(err, ST_BAD_INPUT, "at most %d stop strings are taken", TEXT_STOPS_MAX);
    if (j->min_tokens < 0 || (j->max_tokens >= 0 && j->min_tokens > j->max_tokens)) return err_set(err, ST_BAD_INPUT, "min_tokens must be between 0 and max_tokens");
    for (int i = 0; i < j->stop_count; i++)
        if (j->stops[i].length == 0 || j->stops[i].length > TEXT_STOP_BYTES_MAX) return err_set(err, ST_BAD_INPUT, "a stop string has between 1 and %d bytes", TEXT_STOP_BYTES_MAX);
    for (int i = 0; i < j->stop_id_count; i++)
        if (j->stop_ids[i] < 0 || j->stop_ids[i] >= vocabulary) return err_set(err, ST_BAD_INPUT, "stop_token_ids: %d is not a token of this model (0 to %lld)", j->stop_ids[i], (long long)vocabulary - 1);
    for (int i = 0; i < j->bias_count; i++) {
        if (j->bias[i].token < 0 || j->bias[i].token >= vocabulary) return err_set(err, ST_BAD_INPUT, "logit_bias: %d is not a token of this model (0 to %lld)", j->bias[i].token, (long long)vocabulary - 1);
        if (!(fabsf(j->bias[i].bias) <= 100)) return err_set(err, ST_BAD_INPUT, "logit_bias: a bias lies between -100 and 100");
    }
    for (int p = 0; p < j->prompt_count; p++) {
        const struct text_prompt *t = &j->prompts[p];
        if (t->count < 1) return err_set(err, ST_BAD_INPUT, "the prompt is empty");
        for (int i = 0; i < t->count; i++)
            if (t->tokens[i] < 0 || t->tokens[i] >= vocabulary) return err_set(err, ST_BAD_INPUT, "prompt: %d is not a token of this model (0 to %lld)", t->tokens[i], (long long)vocabulary - 1);
        int64_t wanted = j->task == TEXT_GENERATE && j->max_tokens > 0 ? j->max_tokens : 0;
        if (apart && wanted > context) return err_set(err, ST_BAD_INPUT, "This model writes at most %lld tokens. However, you requested %lld. Please reduce the length of the completion.", (long long)context, (long long)wanted);
        if (t->count + (apart ? 0 : wanted) > context)
            return wanted ? err_set(err, ST_BAD_INPUT, "This model's maximum context length is %lld tokens. However, you requested %lld tokens (%d in the prompt, %lld in the completion). Please reduce the length of the prompt or completion.",
                                    (long long)context, (long long)t->count + (long long)wanted, t->count, (long long)wanted)
                          : err_set(err, ST_BAD_INPUT, "This model's maximum context length is %lld tokens, but the prompt has %d. Please reduce the length of the prompt.", (long long)context, t->count);
    }
    return ST_OK;
}
