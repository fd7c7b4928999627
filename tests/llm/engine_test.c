/* threaded: the language-model engine under the scheduler: texts join and leave at any step, share pages, give way, are cancelled; a text's bits are those it has alone. */
#include "tests/llm/tiny.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/llm/llm_internal.h"
#include "engine/device_gpu.h"
#include "engine/scheduler.h"
#include "tests/kernels/fake_gpu.h"

enum { TEXTS = 24 };

struct model { struct engine *engine; struct scheduler *scheduler; struct expiry *expiry; };

static uint64_t swap_bytes;      /* for the models that start next */
static bool on_card;             /* likewise: on a card without a card */

static bool model_start(struct model *m, const char *vectors, uint64_t kv_bytes, int threads, struct err *err)
{
    static struct tiny t;
    static char folder[512], config[600];
    snprintf(folder, sizeof folder, "%s", test_directory());
    snprintf(config, sizeof config, "%s/config.json", folder);
    if (!tiny_read(&t, vectors) || !tiny_write(&t, folder, NULL)) return false;
    tiny_free(&t);
    struct model_files files = { .directory = folder, .main_file = config };
    struct engine_options options = { .threads = threads, .cpu_level = CPU_AMX, .precision = PRECISION_F32, .max_batch_rows = 64, .kv_bytes = kv_bytes, .kv_swap_bytes = swap_bytes, .gpu = on_card };
    struct scheduler_options how = { .max_batch_rows = 64, .dynamic_batching = true, .instances = 1, .threads = threads, .first_cpu = -1 };
    *m = (struct model){ 0 };
    return !llm_engine.open(&m->engine, &files, &options, err) && !expiry_open(&m->expiry, err) && !scheduler_open(&m->scheduler, &llm_engine, m->engine, &how, m->expiry, err);
}

static void model_stop(struct model *m)
{
    if (m->scheduler) scheduler_close(m->scheduler);
    if (m->expiry) expiry_close(m->expiry);
    if (m->engine) llm_engine.close(m->engine);
}

struct ask {
    struct request request;
    struct text_job job;
    struct text_prompt prompt;
    int32_t tokens[TINY_TOKENS];
    pthread_mutex_t lock;
    pthread_cond_t told;
    bool over, failed;
};

static void tell(struct request *r, enum request_event e)
{
    struct ask *a = r->event_context;
    if (e == EVENT_PARTIAL) return;
    pthread_mutex_lock(&a->lock);
    a->over = true;
    a->failed = e == EVENT_FAILED;
    pthread_cond_signal(&a->told);
    pthread_mutex_unlock(&a->lock);
}

static void ask_release(struct request *r) { arena_free(&r->arena); }

/* Text i: prompts of 3 to 40 tokens that share beginnings, greedy or drawn with every sampler in turn. */
static void ask_fill(struct ask *a, int i, int most)
{
    struct err err;
    memset(a, 0, sizeof *a);
    request_init(&a->request, 1 << 20);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->told, NULL);
    a->request.event = tell;
    a->request.event_context = a;
    a->request.release = ask_release;
    a->request.text = &a->job;
    a->prompt.tokens = a->tokens;
    a->prompt.count = 3 + i * 7 % 38;
    for (int k = 0; k < a->prompt.count; k++) a->tokens[k] = 3 + (k < 20 ? k * 5 + i % 3 : k * i + 1) % 40;
    CHECK_OK(text_job_open(&a->job, TEXT_GENERATE, &a->prompt, 1, 1, &err), err);
    a->job.max_tokens = most;
    a->job.ignore_eos = true;
    struct sampling *s = &a->job.sampling;
    s->seeded = true;
    s->seed = (uint64_t)i;
    s->temperature = i % 3 ? 1.1f : 0;
    if (i % 5 == 1) s->top_k = 7;
    if (i % 5 == 2) s->top_p = 0.8f;
    if (i % 5 == 3) s->min_p = 0.05f, s->frequency_penalty = 0.4f;
    if (i % 7 == 4) s->typical_p = 0.9f, s->repetition_penalty = 1.2f;
    if (i % 7 == 5) s->mirostat = 2;
    if (i % 7 == 6) s->dry_multiplier = 0.7f;
}

static void ask_wait(struct ask *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->over) pthread_cond_wait(&a->told, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

/* The worker lets go of a request a moment after it told. */
static void ask_free(struct ask *a)
{
    while (atomic_load(&a->request.references) > 1) usleep(100);
    request_drop(&a->request);
    text_job_close(&a->job);
}

static bool same_answer(const struct ask *a, const struct ask *b)
{
    const struct text_answer *x = &a->job.answers[0], *y = &b->job.answers[0];
    return x->id_count == y->id_count && !memcmp(x->ids, y->ids, (size_t)x->id_count * sizeof *x->ids);
}

/* Pages that anybody holds, seen by the worker's last step. */
static int64_t pages_used(const struct model *m) { return atomic_load(&llm_engine.text->stats(m->engine)->pages_used); }

static struct ask alone[TEXTS], together[TEXTS];

static void run_alone(struct model *m, int most)
{
    struct err err;
    for (int i = 0; i < TEXTS; i++) {
        ask_fill(&alone[i], i, most);
        alone[i].job.no_cache = true;
        REQUIRE_OK(scheduler_submit(m->scheduler, &alone[i].request, &err), err);
        ask_wait(&alone[i]);
        CHECK(!alone[i].failed);
        CHECK_INT(alone[i].job.answers[0].id_count, most);
    }
}

static void run_together(struct model *m, int most)
{
    struct err err;
    for (int i = 0; i < TEXTS; i++) {
        ask_fill(&together[i], i, most);
        REQUIRE_OK(scheduler_submit(m->scheduler, &together[i].request, &err), err);
    }
    for (int i = 0; i < TEXTS; i++) {
        ask_wait(&together[i]);
        CHECK(!together[i].failed);
    }
}

static void compare_and_free(void)
{
    int different = 0;
    for (int i = 0; i < TEXTS; i++) {
        different += !same_answer(&alone[i], &together[i]);
        ask_free(&alone[i]);
        ask_free(&together[i]);
    }
    CHECK_INT(different, 0);
}

TEST(a_text_is_the_same_alone_and_among_others)
{
    struct model m;
    struct err err = { 0 };
    REQUIRE(model_start(&m, "tests/llm/vectors/llama.txt", 0, 1, &err));
    run_alone(&m, 20);
    run_together(&m, 20);
    for (int i = 0; i < TEXTS; i++) ask_free(&together[i]);
    run_together(&m, 20);      /* the second time their beginnings are found */
    compare_and_free();
    CHECK_INT(pages_used(&m), 0);
    CHECK(atomic_load(&llm_engine.text->stats(m.engine)->prefix_hits) > 0);
    model_stop(&m);
}

/* Tokens drawn on several threads. */
TEST(texts_are_the_same_on_several_threads)
{
    struct model m;
    struct err err = { 0 };
    const int64_t usual = answer_logits_for_a_thread;
    answer_logits_for_a_thread = 1;
    REQUIRE(model_start(&m, "tests/llm/vectors/llama.txt", 0, 3, &err));
    run_alone(&m, 20);
    run_together(&m, 20);
    compare_and_free();
    model_stop(&m);
    answer_logits_for_a_thread = usual;
}

/* The pool holds the longest text and little more: texts give their pages up and are computed again, and nobody sees it. */
TEST(texts_that_give_way_come_back_the_same)
{
    struct model m;
    struct err err = { 0 };
    REQUIRE(model_start(&m, "tests/llm/vectors/llama.txt", 20 * 3072, 1, &err));
    run_alone(&m, 40);
    run_together(&m, 40);
    compare_and_free();
    CHECK(atomic_load(&llm_engine.text->stats(m.engine)->preemptions) > 0);
    CHECK_INT(pages_used(&m), 0);
    model_stop(&m);
}

/* The same with room on the heap for some of them: what comes back is what went. */
TEST(texts_that_are_swapped_come_back_the_same)
{
    struct model m;
    struct err err = { 0 };
    static const char *const files[] = { "tests/llm/vectors/llama.txt", "tests/llm/vectors/mistral.txt" };
    for (int f = 0; f < 2; f++) {
        swap_bytes = 12 * 3072;
        bool started = model_start(&m, files[f], (f ? 16 : 20) * 3072, 1, &err);
        swap_bytes = 0;
        REQUIRE(started);
        run_alone(&m, 40);
        run_together(&m, 40);
        compare_and_free();
        const struct text_stats *s = llm_engine.text->stats(m.engine);
        if (!(atomic_load(&s->swaps) > 0)) fprintf(stderr, "%s: %llu preemptions, %llu swaps\n", files[f], (unsigned long long)atomic_load(&s->preemptions), (unsigned long long)atomic_load(&s->swaps));
        CHECK(atomic_load(&s->swaps) > 0);
        if (!f) CHECK(atomic_load(&s->preemptions) > atomic_load(&s->swaps));
        CHECK_INT(pages_used(&m), 0);
        model_stop(&m);
    }
}

static struct model *watched;
static int64_t most_pages;
static void watch(struct request *r, enum request_event e)
{
    int64_t used = pages_used(watched);
    if (used > most_pages) most_pages = used;
    tell(r, e);
}

/* Every layer of this one sees nine tokens: whatever its length, a text holds the pages of those and the one it writes to. */
TEST(pages_that_no_layer_sees_are_given_back)
{
    struct model m;
    struct err err = { 0 };
    REQUIRE(model_start(&m, "tests/llm/vectors/mistral.txt", 0, 1, &err));
    struct ask *a = &alone[0];
    watched = &m;
    most_pages = 0;
    ask_fill(a, 1, 80);
    a->request.event = watch;
    REQUIRE_OK(scheduler_submit(m.scheduler, &a->request, &err), err);
    ask_wait(a);
    CHECK_INT(a->job.answers[0].id_count, 80);
    CHECK(most_pages >= 1 && most_pages <= 2);
    ask_free(a);
    run_alone(&m, 60);
    run_together(&m, 60);
    compare_and_free();
    CHECK_INT(pages_used(&m), 0);
    model_stop(&m);
}

TEST(experts_and_windows_too)
{
    static const char *const files[] = { "tests/llm/vectors/gpt_oss.txt", "tests/llm/vectors/gemma3.txt" };
    for (int f = 0; f < 2; f++) {
        struct model m;
        struct err err = { 0 };
        REQUIRE(model_start(&m, files[f], 0, 1, &err));
        run_alone(&m, 12);
        run_together(&m, 12);
        compare_and_free();
        model_stop(&m);
    }
}

/* On a card: the same texts alone, among others, when they give way and when they are swapped; nothing of the card is kept. */
TEST(texts_on_a_card)
{
    static const struct { const char *file; uint64_t kv, swap; } models[] = { { "llama", 0, 0 }, { "llama", 20 * 3072, 12 * 3072 }, { "mistral", 16 * 3072, 12 * 3072 }, { "gpt_oss", 0, 0 }, { "gemma3", 0, 0 } };
    for (int f = 0; f < 5; f++) {
        struct model m;
        struct err err = { 0 };
        char path[100];
        snprintf(path, sizeof path, "tests/llm/vectors/%s.txt", models[f].file);
        device_gpus_use(test_gpu_api());
        on_card = true;
        swap_bytes = models[f].swap;
        const bool started = model_start(&m, path, models[f].kv, 1, &err);
        on_card = false;
        swap_bytes = 0;
        REQUIRE(started);
        run_alone(&m, models[f].swap ? 40 : 12);
        run_together(&m, models[f].swap ? 40 : 12);
        compare_and_free();
        if (models[f].swap) CHECK(atomic_load(&llm_engine.text->stats(m.engine)->swaps) > 0);
        CHECK_INT(pages_used(&m), 0);
        model_stop(&m);
        CHECK_INT(fake_gpu_held().bytes, 0);
        CHECK_INT(fake_gpu_held().queues, 0);
        device_gpus_use(NULL);
    }
}

/* The card is lost while texts are being written: those of that step fail with a sentence, all others and all later ones are what the CPU writes. */
TEST(texts_after_the_card_was_lost)
{
    struct model cpu, card;
    struct err err = { 0 };
    int failed = 0;
    device_gpus_use(fake_gpu_api());
    REQUIRE(model_start(&cpu, "tests/llm/vectors/llama.txt", 0, 1, &err));
    on_card = true;
    const bool started = model_start(&card, "tests/llm/vectors/llama.txt", 0, 1, &err);
    on_card = false;
    REQUIRE(started);
    run_alone(&cpu, 20);
    for (int round = 0; round < 2; round++) {
        if (!round) fake_gpu_fail(150, ST_INTERNAL);
        for (int i = 0; i < TEXTS; i++) {
            ask_fill(&together[i], i, 20);
            REQUIRE_OK(scheduler_submit(card.scheduler, &together[i].request, &err), err);
        }
        for (int i = 0; i < TEXTS; i++) {
            ask_wait(&together[i]);
            failed += together[i].failed;
            if (together[i].failed) CHECK(!round && together[i].request.error.status == ST_UNAVAILABLE);
            else CHECK(same_answer(&alone[i], &together[i]));
            ask_free(&together[i]);
        }
    }
    CHECK(failed > 0);
    CHECK_INT(pages_used(&card), 0);
    for (int i = 0; i < TEXTS; i++) ask_free(&alone[i]);
    model_stop(&card);
    model_stop(&cpu);
    fake_gpu_fail(0, ST_OK);
    device_gpus_use(NULL);
}

/* A model that the card has no room for is refused with the figures. */
TEST(a_card_without_room)
{
    struct model m;
    struct err err = { 0 };
    device_gpus_use(fake_gpu_api());
    on_card = true;
    CHECK(!model_start(&m, "tests/llm/vectors/llama.txt", UINT64_MAX - 1, 1, &err));
    on_card = false;
    CHECK_INT(err.status, ST_NO_MEMORY);
    CHECK(strstr(err.text, "MiB of device memory") != NULL);
    model_stop(&m);
    CHECK_INT(fake_gpu_held().bytes, 0);
    device_gpus_use(NULL);
}

/* An encoder beside the decoder: the text that transformers writes, one encoding for all choices, and every text the same in company and when pages are short. */
TEST(pairs_of_encoder_and_decoder_too)
{
    static const char *const files[] = { "tests/llm/vectors/t5.txt", "tests/llm/vectors/t5_gated.txt" };
    static struct tiny t;
    for (int f = 0; f < 2; f++) {
        struct model m;
        struct err err = { 0 };
        uint64_t page = 2 * 4 * 12 * 16 * 4 * 5;
        REQUIRE(model_start(&m, files[f], f ? 10 * page : 0, 1, &err));
        REQUIRE(tiny_read(&t, files[f]));
        struct ask *a = &alone[0];
        ask_fill(a, 0, t.greedy_count);
        text_job_close(&a->job);
        a->prompt.count = t.token_count - 5;
        for (int k = 0; k < a->prompt.count; k++) a->tokens[k] = t.tokens[t.token_count - 1 - k];
        CHECK_OK(text_job_open(&a->job, TEXT_GENERATE, &a->prompt, 1, 3, &err), err);
        a->job.max_tokens = a->job.min_tokens = t.greedy_count;
        a->job.sampling.temperature = 0;
        a->job.ignore_eos = true;
        a->job.bias = (const struct token_bias[]){ { 1, -100 } };      /* without a tokenizer nobody knows the end */
        a->job.bias_count = 1;
        REQUIRE_OK(scheduler_submit(m.scheduler, &a->request, &err), err);
        ask_wait(a);
        CHECK(!a->failed);
        for (int c = 0; c < 3; c++) {
            CHECK_INT(a->job.answers[c].id_count, t.greedy_count);
            CHECK(!memcmp(a->job.answers[c].ids, t.greedy, (size_t)t.greedy_count * sizeof *t.greedy));
        }
        ask_free(a);
        CHECK_INT(pages_used(&m), 0);
        run_alone(&m, 40);
        run_together(&m, 40);
        compare_and_free();
        if (f) CHECK(atomic_load(&llm_engine.text->stats(m.engine)->preemptions) > 0);
        for (int round = 0; round < 20; round++) {
            for (int i = 0; i < TEXTS; i++) {
                ask_fill(&together[i], i + round, 30);
                REQUIRE_OK(scheduler_submit(m.scheduler, &together[i].request, &err), err);
            }
            for (int i = round % 4; i < TEXTS; i += 2) scheduler_cancel(m.scheduler, &together[i].request);
            for (int i = 0; i < TEXTS; i++) ask_wait(&together[i]);
            for (int i = 0; i < TEXTS; i++) ask_free(&together[i]);
        }
        ask_fill(&alone[0], 1, 2);
        REQUIRE_OK(scheduler_submit(m.scheduler, &alone[0].request, &err), err);
        ask_wait(&alone[0]);
        ask_free(&alone[0]);
        CHECK_INT(pages_used(&m), 0);
        tiny_free(&t);
        model_stop(&m);
    }
}

/* 210 rounds of 24 texts. */
static void cancel_at_random(bool scarce)
{
    enum { ROUNDS = 210 };
    struct model m;
    struct err err = { 0 };
    test_seed(7);
    swap_bytes = scarce ? 20 * 3072 : 0;
    bool started = model_start(&m, "tests/llm/vectors/llama.txt", scarce ? 40 * 3072 : 0, 1, &err);
    swap_bytes = 0;
    REQUIRE(started);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < TEXTS; i++) {
            ask_fill(&together[i], i + round, 60);
            REQUIRE_OK(scheduler_submit(m.scheduler, &together[i].request, &err), err);
        }
        for (int i = 0; i < TEXTS; i++)
            if (test_random() % 4) scheduler_cancel(m.scheduler, &together[i].request);
        for (int i = 0; i < TEXTS; i++) ask_wait(&together[i]);
        for (int i = 0; i < TEXTS; i++) ask_free(&together[i]);
    }
    ask_fill(&alone[0], 1, 2);
    REQUIRE_OK(scheduler_submit(m.scheduler, &alone[0].request, &err), err);
    ask_wait(&alone[0]);
    ask_free(&alone[0]);
    CHECK_INT(pages_used(&m), 0);
    model_stop(&m);
}

TEST(random_cancels_leave_no_page_behind)
{
    cancel_at_random(false);
    cancel_at_random(true);      /* pages are short and some texts are swapped */
}

TEST(what_cannot_be_is_refused_with_a_sentence)
{
    struct model m;
    struct err err = { 0 };
    REQUIRE(model_start(&m, "tests/llm/vectors/llama.txt", 0, 1, &err));
    struct ask *a = &alone[0];
    ask_fill(a, 1, 500);
    CHECK_INT(scheduler_submit(m.scheduler, &a->request, &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "128") != NULL);
    a->job.max_tokens = 4;
    a->tokens[1] = 48;
    CHECK_INT(scheduler_submit(m.scheduler, &a->request, &err), ST_BAD_INPUT);
    a->tokens[1] = 47;
    a->job.sampling.top_p = 1.5f;
    CHECK_INT(scheduler_submit(m.scheduler, &a->request, &err), ST_BAD_INPUT);
    a->job.sampling.top_p = 1;
    a->job.task = TEXT_SCORE;
    CHECK_INT(scheduler_submit(m.scheduler, &a->request, &err), ST_BAD_INPUT);
    ask_free(a);
    model_stop(&m);
}
