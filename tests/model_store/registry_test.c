/* threaded: swaps under concurrent pins, storms of loads and unloads, and every way in which a version can fail. */
#include "model_store/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/digest.h"
#include "model_store/repository.h"
#include "tests/model_store/fake_engine.h"
#include "tests/test.h"

static const char *store;
static const struct engine_ops *const engines[] = { &fake_engine };

static const char *at(const char *name)
{
    static __thread char path[4][512];
    static __thread int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", store, name);
    return p;
}

static void put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s", at(name));
    for (char *p = path + strlen(store) + 1; *p; p++)
        if (*p == '/') *p = 0, mkdir(path, 0755), *p = '/';
    FILE *f = fopen(path, "w");
    if (!f) return test_fail(__FILE__, __LINE__, "cannot write %s: %s", path, strerror(errno));
    fputs(text, f);
    fclose(f);
}

static void drop(const char *name)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", at(name));
    if (system(command)) test_fail(__FILE__, __LINE__, "%s", command);
}

static struct registry *open_with(enum control_mode mode, const char *const *names, int count, struct expiry *expiry)
{
    struct registry *r = NULL;
    struct err err;
    struct registry_options o = { .store = store, .control = mode, .poll_ms = 30, .load_at_start = names, .load_at_start_count = count, .strict_readiness = true, .threads = 1, .engines = engines, .engine_count = 1, .expiry = expiry };
    if (registry_open(&r, &o, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    else registry_settle(r);
    return r;
}

static struct expiry *expiry;
static struct registry *open_registry(enum control_mode mode)
{
    struct err err;
    if (!expiry && expiry_open(&expiry, &err)) test_fail(__FILE__, __LINE__, "%s", err.text);
    return open_with(mode, NULL, 0, expiry);
}

static void close_registry(struct registry *r)
{
    registry_close(r);
    CHECK_INT(fake_counts.alive, 0);
    CHECK_INT(fake_counts.instances, 0);
    if (expiry) expiry_close(expiry);
    expiry = NULL;
}

/* ---- one inference ---- */

struct wait { pthread_mutex_t lock; pthread_cond_t told; int done; enum request_event event; };

static void tell(struct request *q, enum request_event e)
{
    struct wait *w = q->event_context;
    pthread_mutex_lock(&w->lock);
    w->done = 1, w->event = e;
    pthread_cond_signal(&w->told);
    pthread_mutex_unlock(&w->lock);
}

static void release(struct request *q)
{
    arena_free(&q->arena);
    free(q);
}

/* The answer of a pinned version to that many rows, -1 when it failed. */
static int infer_rows(struct model_version *v, int rows)
{
    struct wait w = { .lock = PTHREAD_MUTEX_INITIALIZER, .told = PTHREAD_COND_INITIALIZER };
    static float zeros[4 * 16];
    struct request_tensor in = { "x", { .dtype = DT_F32, .rank = 2, .dims = { rows, 4 }, .data = zeros, .bytes = (uint64_t)rows * 16 } };
    struct request *q = malloc(sizeof *q);
    struct err err;
    int value = -1;
    request_init(q, 1 << 20);
    q->inputs = arena_calloc(&q->arena, 1, sizeof in);
    q->inputs[0] = in;
    q->input_count = 1;
    q->event = tell;
    q->event_context = &w;
    q->release = release;
    if (!scheduler_submit(v->scheduler, q, &err)) {
        pthread_mutex_lock(&w.lock);
        while (!w.done) pthread_cond_wait(&w.told, &w.lock);
        pthread_mutex_unlock(&w.lock);
        if (w.event == EVENT_DONE) value = (int)((float *)q->outputs[0].tensor.data)[0];
    }
    request_drop(q);
    return value;
}

static int infer(struct model_version *v) { return infer_rows(v, 1); }

/* The answer of "M", "M@alias" or a version; minus the status when it cannot be pinned. */
static int ask(struct registry *r, const char *name, int64_t version)
{
    struct model_version *v;
    struct err err;
    enum status st = registry_pin(r, name, strlen(name), version, &v, &err);
    if (st) return -(int)st;
    int value = infer(v);
    registry_unpin(r, v);
    return value;
}

static void add_row(void *ctx, const struct registry_index_row *row)
{
    char *text = ctx;
    sprintf(text + strlen(text), "%s/%lld/%s%s;", row->name, (long long)row->version, row->state, *row->reason ? "!" : "");
}

static const char *index_of(struct registry *r)
{
    static char text[4096];
    text[0] = 0;
    registry_index(r, false, add_row, text);
    return text;
}

static bool eventually(struct registry *r, const char *name, int64_t version, int value)
{
    for (int i = 0; i < 400; i++) {
        if (ask(r, name, version) == value) return true;
        usleep(10000);
    }
    return false;
}

/* ---- mode none ---- */

TEST(every_model_is_loaded_and_the_newest_answers)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/2/model.onnx", "value=2"), put("b/7/model.onnx", "value=7 batch=0");
    put("b/7/names.txt", "zero\r\none\ntwo"), put("b/config.pbtxt", "output { name: \"y\" label_filename: \"names.txt\" } version_policy { all {} }");
    put("none/readme", "x"), put("e/1/model.onnx", "value=4"), put("e/config.pbtxt", "max_batch_size: 0");
    struct registry *r = open_registry(CONTROL_NONE);
    CHECK_INT(ask(r, "a", 0), 2);
    CHECK_INT(ask(r, "a", 2), 2);
    CHECK_INT(ask(r, "a", 1), -ST_UNAVAILABLE);
    CHECK_INT(ask(r, "a", 3), -ST_NOT_FOUND);
    CHECK_INT(ask(r, "x", 0), -ST_NOT_FOUND);
    CHECK_INT(ask(r, "a@x", 0), -ST_NOT_FOUND);
    CHECK_INT(ask(r, "", 0), -ST_NOT_FOUND);
    struct model_version *v;
    struct err err;
    REQUIRE_OK(registry_pin(r, "b", 1, 0, &v, &err), err);
    CHECK(v->version == 7 && v->label_count == 3 && !strcmp(v->labels[0], "zero") && !strcmp(v->labels[2], "two") && strlen(v->digest) == 64 && v->stats && v->load_ns);
    CHECK(v->config->max_batch_size == 0 && infer(v) == 7);
    registry_unpin(r, v);
    REQUIRE_OK(registry_pin(r, "e", 1, 0, &v, &err), err);      /* max_batch_size 0 of a model that takes rows: any number, alone */
    CHECK_INT(infer_rows(v, 16), 4);
    registry_unpin(r, v);
    REQUIRE_OK(registry_pin(r, "a", 1, 0, &v, &err), err);
    CHECK(infer_rows(v, 4) == 2 && infer_rows(v, 5) == -1);
    registry_unpin(r, v);
    CHECK_INT(registry_pin(r, "x", 1, 0, &v, &err), ST_NOT_FOUND);
    CHECK_TEXT(err.text, "Request for unknown model: 'x' is not found");
    CHECK_INT(registry_pin(r, "a", 1, 1, &v, &err), ST_UNAVAILABLE);
    CHECK_TEXT(err.text, "Request for unknown model: 'a' version 1 is not at ready state");
    CHECK_INT(registry_load(r, "a", NULL, 0, "t", &err), ST_UNAVAILABLE);
    CHECK_INT(registry_unload(r, "a", false, "t", &err), ST_UNAVAILABLE);
    CHECK_TEXT(index_of(r), "a/2/READY;b/7/READY;e/1/READY;none/0/;");
    CHECK(!registry_ready(r));                    /* strict: 'none' has nothing that can be loaded */
    bool known;
    int64_t versions[4];
    CHECK(registry_versions(r, "a", versions, 4, &known) == 1 && known && versions[0] == 2);
    CHECK(registry_versions(r, "x", versions, 4, &known) == 0 && !known);
    CHECK(fake_counts.rows_peak >= 4);            /* warmed with the largest batch */
    close_registry(r);
}

TEST(a_version_that_fails_leaves_the_previous_one_serving)
{
    static const char *const bad[] = { "value=2 fail=open", "value=2 fail=start", "value=2 fail=run" };
    for (int i = 0; i < 3; i++) {
        store = test_directory();
        put("a/1/model.onnx", "value=1"), put("a/2/model.onnx", bad[i]);
        struct registry *r = open_registry(CONTROL_NONE);         /* at start: an older one rather than none */
        CHECK_INT(ask(r, "a", 0), 1);
        CHECK_TEXT(index_of(r), "a/1/READY;a/2/UNAVAILABLE!;");
        CHECK(registry_ready(r));
        close_registry(r);
    }
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/1/config.pbtxt", "max_batchsize: 3");
    put("c/1/w.gguf", "x"), put("d/1/model.onnx", "x"), put("d/config.pbtxt", "backend: \"python\"");
    struct registry *r = open_registry(CONTROL_NONE);
    CHECK_TEXT(index_of(r), "a/1/UNAVAILABLE!;c/1/UNAVAILABLE!;d/1/UNAVAILABLE!;");
    struct buf b;
    buf_init(&b, 0);
    registry_write_models_json(r, &b);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "a/config.pbtxt line 1: ModelConfig has no field 'max_batchsize'") && strstr(b.data, "a GGUF file; there is no engine") && strstr(b.data, "the config asks for 'python'"));
    buf_free(&b);
    close_registry(r);
}

/* ---- explicit mode ---- */

TEST(explicit_mode_loads_what_it_is_told_and_remembers)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/2/model.onnx", "value=2"), put("b/1/model.onnx", "value=5"), put("bad/1/model.onnx", "fail=open");
    struct err err;
    struct registry *r = open_registry(CONTROL_EXPLICIT);
    CHECK_TEXT(index_of(r), "a/0/;b/0/;bad/0/;");
    CHECK(registry_ready(r));
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    CHECK_INT(ask(r, "a", 0), 2);
    CHECK_INT(ask(r, "b", 0), -ST_NOT_FOUND);
    CHECK_INT(registry_load(r, "zzz", NULL, 0, "ann", &err), ST_NOT_FOUND);
    CHECK_TEXT(err.text, "failed to load 'zzz', failed to poll from model repository");
    CHECK_INT(registry_load(r, "../a", NULL, 0, "ann", &err), ST_NOT_FOUND);
    CHECK_INT(registry_load(r, "bad", NULL, 0, "ann", &err), ST_BAD_INPUT);
    CHECK_TEXT(err.text, "failed to load 'bad' version 1: node 'n' has an unknown operator");
    const char *config = "{\"version_policy\":{\"all\":{}},\"max_batch_size\":16}";
    CHECK_OK(registry_load(r, "a", config, strlen(config), "ann", &err), err);
    CHECK(ask(r, "a", 1) == 1 && ask(r, "a", 2) == 2);
    struct model_version *v;
    REQUIRE_OK(registry_pin(r, "a", 1, 0, &v, &err), err);
    CHECK_INT(v->config->max_batch_size, 16);
    registry_unpin(r, v);
    CHECK_OK(registry_load(r, "b", NULL, 0, "ann", &err), err);
    CHECK_OK(registry_unload(r, "b", false, "ann", &err), err);
    CHECK_INT(ask(r, "b", 0), -ST_NOT_FOUND);
    CHECK_INT(registry_unload(r, "zzz", false, "ann", &err), ST_NOT_FOUND);
    CHECK_TEXT(index_of(r), "a/1/READY;a/2/READY;b/1/UNAVAILABLE!;bad/1/UNAVAILABLE!;");
    close_registry(r);
    r = open_registry(CONTROL_EXPLICIT);          /* a was loaded last; b was unloaded, bad failed */
    CHECK(ask(r, "a", 0) == 2 && ask(r, "b", 0) == -ST_NOT_FOUND && ask(r, "bad", 0) == -ST_NOT_FOUND);
    close_registry(r);
    const char *names[] = { "b" };
    REQUIRE_OK(expiry_open(&expiry, &err), err);
    r = open_with(CONTROL_EXPLICIT, names, 1, expiry);
    CHECK(ask(r, "b", 0) == 5 && ask(r, "a", 0) == -ST_NOT_FOUND);
    close_registry(r);
}

TEST(unloading_waits_for_those_who_hold_it)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1");
    struct err err;
    struct model_version *v;
    struct registry *r = open_registry(CONTROL_EXPLICIT);
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    REQUIRE_OK(registry_pin(r, "a", 1, 0, &v, &err), err);
    put("a/2/model.onnx", "value=2");
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    CHECK(ask(r, "a", 0) == 2 && infer(v) == 1 && v->version == 1 && fake_counts.alive == 2);      /* the pinned one still answers */
    registry_unpin(r, v);
    for (int i = 0; i < 200 && fake_counts.alive > 1; i++) usleep(5000);
    CHECK_INT(fake_counts.alive, 1);
    CHECK_OK(registry_unload(r, "a", false, "ann", &err), err);
    CHECK_INT(fake_counts.alive, 0);              /* unload returns when it is gone */
    close_registry(r);
}

/* ---- digests ---- */

TEST(a_flipped_byte_is_found_and_the_last_good_version_serves)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/2/model.onnx", "value=2");
    struct err err;
    struct registry *r = open_registry(CONTROL_EXPLICIT);
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    put("a/2/model.onnx", "value=3");
    CHECK_INT(registry_load(r, "a", NULL, 0, "ann", &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "not those that were recorded"));
    CHECK_INT(ask(r, "a", 0), 2);
    CHECK_TEXT(index_of(r), "a/2/READY!;");
    close_registry(r);
    r = open_registry(CONTROL_NONE);              /* after a restart: version 2 is refused, version 1 serves */
    CHECK_INT(ask(r, "a", 0), 1);
    CHECK_TEXT(index_of(r), "a/1/READY;a/2/UNAVAILABLE!;");
    CHECK_OK(registry_publish(r, "a", 2, "ann", &err), err);      /* an operator accepts the new content */
    CHECK_INT(ask(r, "a", 2), 3);
    close_registry(r);
}

/* ---- poll mode ---- */

TEST(polling_notices_what_comes_changes_and_goes)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1");
    struct registry *r = open_registry(CONTROL_POLL);
    CHECK_INT(ask(r, "a", 0), 1);
    put("b/1/model.onnx", "value=5"), put("a/2/model.onnx", "value=2");
    CHECK(eventually(r, "b", 0, 5));
    CHECK(eventually(r, "a", 0, 2));
    CHECK(eventually(r, "a", 1, -ST_UNAVAILABLE));
    put("a/3/model.onnx", "value=3 fail=open");
    for (int i = 0; i < 400 && !strstr(index_of(r), "a/3/UNAVAILABLE!"); i++) usleep(10000);
    CHECK_INT(ask(r, "a", 0), 2);
    put("a/config.pbtxt", "max_batch_size: 8"), drop("a/3");
    bool seen = false;
    for (int i = 0; i < 400 && !seen; i++) {
        struct model_version *v;
        struct err err;
        if (!registry_pin(r, "a", 1, 0, &v, &err)) seen = v->config->max_batch_size == 8, registry_unpin(r, v);
        usleep(10000);
    }
    CHECK(seen && ask(r, "a", 0) == 2);
    drop("a/2");
    CHECK(eventually(r, "a", 0, 1));
    drop("b");
    CHECK(eventually(r, "b", 0, -ST_NOT_FOUND));
    put("a/2/model.onnx", "value=22");            /* a number that went may come back with other files */
    CHECK(eventually(r, "a", 0, 22));
    close_registry(r);
}

/* ---- admin ---- */

static enum status upload(struct registry *r, const char *model, int64_t version, const char *file, const char *text, struct err *err)
{
    struct upload *u;
    uint8_t d[32];
    digest_bytes(text, strlen(text), d);
    enum status st = registry_upload_begin(r, model, version, file, strlen(text), d, &u, err);
    if (st) return st;
    st = registry_upload_write(u, text, strlen(text), err);
    if (st) registry_upload_abort(u);
    return st ? st : registry_upload_commit(u, "ann", err);
}

TEST(upload_publish_activate_forward_and_back)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1");
    struct err err;
    struct registry *r = open_registry(CONTROL_NONE);
    REQUIRE_OK(upload(r, "a", 2, "model.onnx", "value=2", &err), err);
    CHECK_INT(ask(r, "a", 2), -ST_NOT_FOUND);
    REQUIRE_OK(registry_publish(r, "a", 2, "ann", &err), err);
    CHECK(ask(r, "a", 0) == 1 && ask(r, "a", 2) == 2);                      /* beside what serves */
    REQUIRE_OK(registry_activate(r, "a", 2, "ann", &err), err);
    CHECK(ask(r, "a", 0) == 2 && ask(r, "a", 1) == -ST_UNAVAILABLE);
    REQUIRE_OK(registry_activate(r, "a", 1, "ann", &err), err);           /* and back */
    CHECK(ask(r, "a", 0) == 1 && ask(r, "a", 2) == -ST_UNAVAILABLE);
    REQUIRE_OK(registry_activate(r, "a", 2, "ann", &err), err);
    CHECK_INT(registry_activate(r, "a", 9, "ann", &err), ST_NOT_FOUND);
    REQUIRE_OK(upload(r, "a", 3, "model.onnx", "fail=open", &err), err);
    CHECK_INT(registry_publish(r, "a", 3, "ann", &err), ST_BAD_INPUT);
    CHECK_INT(registry_activate(r, "a", 3, "ann", &err), ST_BAD_INPUT);
    CHECK_INT(ask(r, "a", 0), 2);
    CHECK_INT(upload(r, "a", 2, "model.onnx", "value=9", &err), ST_EXISTS);
    CHECK_OK(registry_set_alias(r, "a", "prod", 2, "ann", &err), err);
    CHECK(ask(r, "a@prod", 0) == 2 && ask(r, "a@prod", 2) == 2 && ask(r, "a@prod", 1) == -ST_NOT_FOUND);
    CHECK_INT(registry_set_alias(r, "a", "prod", 9, "ann", &err), ST_NOT_FOUND);
    CHECK_INT(registry_set_alias(r, "a", "p/q", 2, "ann", &err), ST_BAD_INPUT);
    close_registry(r);
    r = open_registry(CONTROL_NONE);                                      /* all of it survives a restart */
    CHECK(ask(r, "a", 0) == 2 && ask(r, "a@prod", 0) == 2);
    struct buf b;
    buf_init(&b, 0);
    registry_write_models_json(r, &b);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "\"name\":\"a\",\"wanted\":true,\"active\":2,\"aliases\":{\"prod\":2},\"versions\":[{\"version\":1,\"state\":\"KNOWN\",\"default\":false") && strstr(b.data, "{\"version\":2,\"state\":\"READY\",\"default\":true"));
    buf_clear(&b);
    CHECK_OK(registry_write_audit_json(r, 0, 100, &b, &err), err);
    buf_putc(&b, 0);
    CHECK(strstr(b.data, "\"who\":\"ann\",\"action\":\"upload\",\"subject\":\"a\",\"detail\":\"version 2 model.onnx\"") && strstr(b.data, "\"action\":\"publish\"") && strstr(b.data, "\"action\":\"activate\"") && strstr(b.data, "\"action\":\"alias\",\"subject\":\"a\",\"detail\":\"prod 2\""));
    buf_free(&b);
    close_registry(r);
}

TEST(explicit_mode_takes_a_published_version_at_the_next_load)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1");
    struct err err;
    struct registry *r = open_registry(CONTROL_EXPLICIT);
    CHECK_OK(registry_activate(r, "a", 1, "ann", &err), err);              /* an activation loads */
    CHECK_INT(ask(r, "a", 0), 1);
    REQUIRE_OK(upload(r, "a", 2, "model.onnx", "value=2", &err), err);
    REQUIRE_OK(registry_publish(r, "a", 2, "ann", &err), err);
    CHECK_INT(ask(r, "a", 2), -ST_UNAVAILABLE);
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    CHECK(ask(r, "a", 2) == 2 && ask(r, "a", 0) == 1);
    CHECK_OK(registry_activate(r, "a", 2, "ann", &err), err);
    CHECK(ask(r, "a", 0) == 2 && ask(r, "a", 1) == -ST_UNAVAILABLE);
    close_registry(r);
    r = open_registry(CONTROL_EXPLICIT);
    CHECK_INT(ask(r, "a", 0), 2);
    close_registry(r);
}

TEST(samples_of_the_config_are_run_before_publishing)
{
    static const char warm[] = "max_batch_size: 8 model_warmup [ { name: \"w\" batch_size: 8 count: 3 inputs { key: \"x\" value { data_type: TYPE_FP32 dims: 4 input_data_file: \"x.bin\" } } },"
                               " { name: \"v\" batch_size: 2 inputs { key: \"x\" value { data_type: TYPE_FP32 dims: 4 random_data: true } } } ]";
    store = test_directory();
    struct err err;
    put("a/1/model.onnx", "value=1"), put("a/config.pbtxt", warm), put("a/warmup/x.bin", "0123456789abcdef");
    put("b/1/model.onnx", "value=1"), put("b/config.pbtxt", warm), put("b/warmup/x.bin", "0123456789abcde");
    put("c/1/model.onnx", "value=1"), put("c/config.pbtxt", "max_batch_size: 8 model_warmup { name: \"w\" batch_size: 9 inputs { key: \"x\" value { data_type: TYPE_FP32 dims: 4 zero_data: true } } }");
    struct registry *r = open_registry(CONTROL_EXPLICIT);
    int before = fake_counts.steps;
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    CHECK_INT(fake_counts.steps - before, 2 + 3 + 1);                      /* 1 row, 8 rows, the samples */
    CHECK_INT(registry_load(r, "b", NULL, 0, "ann", &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "the warm-up failed: sample 'w': 'warmup/x.bin' has 15 bytes"));
    CHECK_INT(registry_load(r, "c", NULL, 0, "ann", &err), ST_BAD_INPUT);
    CHECK(strstr(err.text, "sample 'w'") && strstr(err.text, "must be <= 8"));
    close_registry(r);
}

static int steps_left;
static void die_at(const char *step) { (void)step; if (steps_left-- == 0) kill(getpid(), SIGKILL); }

TEST(killed_at_every_step_the_default_is_old_or_new)
{
    int survived = 0, old = 0, new = 0;
    for (int step = 0; step < 40 && !survived; step++) {
        store = test_directory();
        put("a/1/model.onnx", "value=1");
        pid_t child = fork();
        if (!child) {
            struct err err;
            struct registry *r = open_registry(CONTROL_NONE);
            steps_left = step;
            repository_failpoint = die_at;
            if (upload(r, "a", 2, "model.onnx", "value=2", &err) || registry_publish(r, "a", 2, "ann", &err) || registry_activate(r, "a", 2, "ann", &err)) _exit(3);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        survived = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        if (!survived && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) test_fail(__FILE__, __LINE__, "step %d: status %d", step, status);
        uint64_t start = clock_ns();
        struct registry *r = open_registry(CONTROL_NONE);
        CHECK(clock_ns() - start < 1000000000ull);
        int value = ask(r, "a", 0);
        CHECK(value == 1 || value == 2);
        CHECK(!survived || value == 2);
        old += value == 1, new += value == 2;
        close_registry(r);
        drop("a");
        drop(".inferd");
    }
    CHECK(survived && old > 3 && new > 1);
}

TEST(a_locked_catalog_does_not_touch_inference)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1"), put("a/2/model.onnx", "value=2");
    struct err err;
    sqlite3 *db;
    struct registry *r = open_registry(CONTROL_NONE);
    REQUIRE(sqlite3_open(at(".inferd/catalog.db"), &db) == SQLITE_OK);
    REQUIRE(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) == SQLITE_OK);
    uint64_t start = clock_ns();
    CHECK_INT(registry_set_alias(r, "a", "prod", 2, "ann", &err), ST_UNAVAILABLE);
    CHECK(clock_ns() - start < 5500 * 1000000ull);
    start = clock_ns();
    for (int i = 0; i < 100; i++) CHECK_INT(ask(r, "a", 0), 2);
    CHECK(clock_ns() - start < 1000 * 1000000ull);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    sqlite3_close(db);
    CHECK_OK(registry_set_alias(r, "a", "prod", 2, "ann", &err), err);
    close_registry(r);
}

/* ---- under load (INFERD_LONG=1: the fault plan's figures in full) ---- */

static long resident_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*d %ld", &pages) != 1) pages = 0;
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE) / 1024;
}

static struct { struct registry *r; atomic_bool stop; atomic_int asked, wrong; } load;

static void *ask_on(void *unused)
{
    (void)unused;
    while (!load.stop) {
        struct model_version *v;
        struct err err;
        if (registry_pin(load.r, "a", 1, 0, &v, &err)) {
            load.wrong++;
            continue;
        }
        if (infer(v) != (int)v->version * 10) load.wrong++;
        registry_unpin(load.r, v);
        load.asked++;
    }
    return NULL;
}

TEST(swaps_under_load_lose_and_mix_nothing)
{
    store = test_directory();
    put("a/1/model.onnx", "value=10"), put("a/2/model.onnx", "value=20");
    struct err err;
    pthread_t threads[4];
    load.r = open_registry(CONTROL_NONE);
    atomic_store(&load.stop, false);
    atomic_store(&load.asked, 0);
    atomic_store(&load.wrong, 0);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, ask_on, NULL);
    long before = 0;
    for (int i = 0, swaps = getenv("INFERD_LONG") ? 1000 : 60; i < swaps; i++) {
        if (i == swaps / 5) before = resident_kib();
        int64_t version = 1 + i % 2;
        CHECK_OK(registry_activate(load.r, "a", version, "ann", &err), err);
        CHECK_INT(ask(load.r, "a", 0), version * 10);          /* whoever asks after the call returned gets the new one */
    }
    load.stop = true;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK(load.asked > 100);
    CHECK_INT(load.wrong, 0);
    for (int i = 0; i < 200 && fake_counts.alive > 1; i++) usleep(5000);
    long after = resident_kib();
    printf("     %d answers, %ld KiB after a fifth of the swaps, %ld at the end\n", load.asked, before, after);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    CHECK(after <= before + before / 50 + 4096);
#endif
    close_registry(load.r);
}

enum { STORM_CLIENTS_MAX = 32 };
static int storm_operations;
static atomic_int storm_errors;

static void *storm(void *argument)
{
    unsigned x = (unsigned)(uintptr_t)argument * 7919 + 1;
    for (int i = 0; i < storm_operations; i++) {
        struct err err;
        enum status st = ST_OK;
        x = x * 1103515245u + 12345u;
        if (x >> 16 & 1) st = registry_load(load.r, "a", NULL, 0, "storm", &err);
        else st = registry_unload(load.r, "a", false, "storm", &err);
        if (st && st != ST_UNAVAILABLE) storm_errors++;
        int value = ask(load.r, "a", 0);
        if (value != 10 && value != -ST_UNAVAILABLE && value != -ST_NOT_FOUND) storm_errors++;
    }
    return NULL;
}

TEST(a_storm_of_loads_and_unloads_settles)
{
    store = test_directory();
    put("a/1/model.onnx", "value=10");
    struct err err;
    pthread_t threads[STORM_CLIENTS_MAX];
    int clients = getenv("INFERD_LONG") ? 32 : 8;
    storm_operations = getenv("INFERD_LONG") ? 1024 : 32;
    load.r = open_registry(CONTROL_EXPLICIT);
    atomic_store(&storm_errors, 0);
    uint64_t start = clock_ns();
    for (int i = 0; i < clients; i++) pthread_create(&threads[i], NULL, storm, (void *)(uintptr_t)i);
    for (int i = 0; i < clients; i++) pthread_join(threads[i], NULL);
    CHECK(clock_ns() - start < 60 * 1000000000ull);
    CHECK_INT(storm_errors, 0);
    CHECK_OK(registry_load(load.r, "a", NULL, 0, "ann", &err), err);
    CHECK_INT(ask(load.r, "a", 0), 10);
    close_registry(load.r);
}

TEST(memory_comes_back)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1 hog=32"), put("a/2/model.onnx", "value=2 hog=32");
    struct err err;
    struct registry *r = open_registry(CONTROL_EXPLICIT);
    CHECK_OK(registry_load(r, "a", NULL, 0, "ann", &err), err);
    CHECK_OK(registry_unload(r, "a", false, "ann", &err), err);
    long before = resident_kib();
    for (int i = 0; i < 10; i++) {
        CHECK_OK(registry_activate(r, "a", 1 + i % 2, "ann", &err), err);
        CHECK_OK(registry_unload(r, "a", false, "ann", &err), err);
    }
    long after = resident_kib();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    if (after > before + before / 50 + 4096) test_fail(__FILE__, __LINE__, "%ld KiB before, %ld after", before, after);
#else
    CHECK(before > 0 && after > 0);
#endif
    close_registry(r);
}

TEST(a_read_only_store_serves)
{
    store = test_directory();
    put("a/1/model.onnx", "value=1");
    put(".inferd", "in the way");
    struct err err;
    struct registry *r = open_registry(CONTROL_NONE);
    CHECK_INT(ask(r, "a", 0), 1);
    CHECK_OK(registry_set_alias(r, "a", "x", 1, "ann", &err), err);
    CHECK_INT(ask(r, "a@x", 0), 1);
    CHECK_INT(upload(r, "a", 2, "model.onnx", "x", &err), ST_UNAVAILABLE);
    close_registry(r);
}

TEST(a_thousand_versions_do_not_slow_the_start)
{
    store = test_directory();
    for (int i = 1; i <= 1000; i++) {
        char name[64];
        snprintf(name, sizeof name, "a/%d/model.onnx", i);
        put(name, i == 1000 ? "value=7 fail=open" : "value=5");
    }
    uint64_t start = clock_ns();
    struct registry *r = open_registry(CONTROL_NONE);
    double ms = (double)(clock_ns() - start) * 1e-6;
    printf("     ready after %.0f ms\n", ms);
    CHECK(ms < 300);
    CHECK_INT(ask(r, "a", 0), 5);                 /* the newest is broken: the one before it serves */
    CHECK_INT(ask(r, "a", 999), 5);
    close_registry(r);
}
