#include "tests/model_store/fake_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fake_counts fake_counts;

struct engine { int value, delay, open_delay; char fail[16]; int batch, hog; char *ballast; struct signature signature; struct port in, out; };
struct engine_instance { struct engine *e; struct slot *step[64]; int count; };

static int number(const char *text, const char *key, int otherwise)
{
    const char *p = strstr(text, key);
    return p ? atoi(p + strlen(key)) : otherwise;
}

static enum status fake_open(struct engine **out, const struct model_files *files, const struct engine_options *options, struct err *err)
{
    char text[256] = "";
    (void)options;
    FILE *f = fopen(files->main_file, "r");
    if (!f) return err_set(err, ST_NOT_FOUND, "no file");
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    struct engine *e = calloc(1, sizeof *e);
    if (!e) return err_set(err, ST_NO_MEMORY, "no memory");
    const char *fail = strstr(text, "fail=");
    if (fail) sscanf(fail, "fail=%15s", e->fail);
    e->value = number(text, "value=", 0);
    e->delay = number(text, " delay=", 0);
    e->batch = number(text, "batch=", 1);
    e->hog = number(text, "hog=", 0);
    usleep((useconds_t)number(text, "open_delay=", 0));
    if (!strcmp(e->fail, "open")) {
        free(e);
        return err_set(err, ST_BAD_INPUT, "node 'n' has an unknown operator");
    }
    if (e->hog) {
        e->ballast = malloc((size_t)e->hog << 20);
        if (e->ballast) memset(e->ballast, 1, (size_t)e->hog << 20);
    }
    e->in = (struct port){ .name = "x", .dtype = DT_F32, .rank = 2, .dims = { e->batch ? -1 : 1, 4 } };
    e->out = (struct port){ .name = "y", .dtype = DT_F32, .rank = 2, .dims = { e->batch ? -1 : 1, 1 } };
    e->signature = (struct signature){ .platform = "onnxruntime_onnx", .inputs = &e->in, .input_count = 1, .outputs = &e->out, .output_count = 1, .batchable = e->batch };
    fake_counts.opened++;
    fake_counts.alive++;
    *out = e;
    return ST_OK;
}

static const struct signature *fake_describe(const struct engine *e) { return &e->signature; }

static void fake_close(struct engine *e)
{
    fake_counts.alive--;
    free(e->ballast);
    free(e);
}

static enum status fake_check(const struct engine *e, struct request *r, struct err *err)
{
    (void)e;
    if (r->input_count != 1 || strcmp(r->inputs[0].name, "x") || r->inputs[0].tensor.rank != 2 || r->inputs[0].tensor.dims[1] != 4) return err_set(err, ST_BAD_INPUT, "x must be [rows, 4]");
    r->rows = r->inputs[0].tensor.dims[0];
    r->ride_key = 1;
    return ST_OK;
}

static enum status fake_start(struct engine_instance **out, struct engine *e, struct err *err)
{
    if (!strcmp(e->fail, "start")) return err_set(err, ST_NO_MEMORY, "no room for an instance");
    *out = calloc(1, sizeof **out);
    if (!*out) return err_set(err, ST_NO_MEMORY, "no memory");
    (*out)->e = e;
    fake_counts.instances++;
    return ST_OK;
}

static void fake_stop(struct engine_instance *i)
{
    fake_counts.instances--;
    free(i);
}

static enum status fake_admit(struct engine_instance *i, struct request *r, struct slot **out, struct err *err)
{
    (void)i;
    *out = calloc(1, sizeof **out);
    if (!*out) return err_set(err, ST_NO_MEMORY, "no memory");
    (*out)->request = r;
    return ST_OK;
}

static enum status fake_submit(struct engine_instance *i, struct slot *const *slots, int n, const atomic_bool *stop, struct err *err)
{
    int rows = 0;
    (void)stop;
    if (!strcmp(i->e->fail, "run")) return err_set(err, ST_INTERNAL, "the step failed");
    if (i->e->delay) usleep((useconds_t)i->e->delay);
    i->count = 0;
    for (int k = 0; k < n && k < 64; k++) {
        i->step[i->count++] = slots[k];
        rows += (int)slots[k]->request->rows;
    }
    if (rows > fake_counts.rows_peak) fake_counts.rows_peak = rows;
    fake_counts.steps++;
    return ST_OK;
}

static enum status fake_collect(struct engine_instance *i, struct err *err)
{
    (void)err;
    for (int k = 0; k < i->count; k++) {
        struct slot *s = i->step[k];
        struct request *r = s->request;
        int64_t dims[2] = { r->rows, 1 };
        if (!r->outputs) {
            r->outputs = arena_calloc(&r->arena, 1, sizeof *r->outputs);
            r->output_count = r->outputs != NULL;
        }
        if (!r->outputs) err_set(&s->error, ST_NO_MEMORY, "no memory");
        s->state = !r->outputs || request_output(r, 0, "y", DT_F32, dims, 2, &s->error) ? SLOT_FAILED : SLOT_DONE;
        for (int64_t row = 0; s->state == SLOT_DONE && row < r->rows; row++) ((float *)r->outputs[0].tensor.data)[row] = (float)i->e->value;
    }
    return ST_OK;
}

static void fake_retire(struct engine_instance *i, struct slot *s)
{
    (void)i;
    free(s);
}

const struct engine_ops fake_engine = { .name = "onnx", .open = fake_open, .describe = fake_describe, .close = fake_close, .check = fake_check, .start = fake_start, .stop = fake_stop,
    .admit = fake_admit, .submit = fake_submit, .collect = fake_collect, .retire = fake_retire };
