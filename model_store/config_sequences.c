/* sequence_batching: what the config says of controls, states and limits, and whether the model has the ports for it. */
#include "model_store/config_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_BYTES_MAX = 64 << 20, IDLE_DEFAULT_US = 1000000 /* Triton's */, CANDIDATES_DEFAULT = 1024 };

/* The pair [false, true] in one of its three spellings. */
static enum status read_values(struct sequence_control *c, const struct json *j, struct err *err)
{
    static const struct { const char *field; enum dtype dtype; } spellings[] = { { "int32_false_true", DT_I32 }, { "fp32_false_true", DT_F32 }, { "bool_false_true", DT_BOOL } };
    for (int k = 0; k < 3; k++) {
        const struct json *pair = json_get(j, spellings[k].field);
        if (!pair || !pair->list.count) continue;
        if (pair->list.count != 2) return REFUSE("%s takes two values, for false and for true", spellings[k].field);
        c->dtype = spellings[k].dtype;
        const struct json *v = pair->list.first;
        for (int b = 0; b < 2; b++, v = v->next) {
            double real = 0;
            if (c->dtype == DT_BOOL) c->values[b][0] = v->boolean;
            else if (!json_as_double(v, &real)) return REFUSE("%s takes numbers", spellings[k].field);
            const int32_t whole = (int32_t)(real > -2e9 && real < 2e9 ? real : 0);
            const float single = (float)real;
            if (c->dtype == DT_I32) memcpy(c->values[b], &whole, sizeof whole);
            if (c->dtype == DT_F32) memcpy(c->values[b], &single, sizeof single);
        }
        return ST_OK;
    }
    return REFUSE("it needs int32_false_true, fp32_false_true or bool_false_true");
}

static enum status read_control(struct sequence_control *c, const struct json *j, struct err *err)
{
    const char *kind = config_text(j, "kind");
    c->kind = !strcmp(kind, "CONTROL_SEQUENCE_END") ? CONTROL_END : !strcmp(kind, "CONTROL_SEQUENCE_READY") ? CONTROL_READY : !strcmp(kind, "CONTROL_SEQUENCE_CORRID") ? CONTROL_ID : CONTROL_START;
    if (c->kind != CONTROL_ID) return read_values(c, j, err);
    c->dtype = config_dtype(j);
    if (c->dtype != DT_U64 && c->dtype != DT_I64 && c->dtype != DT_U32 && c->dtype != DT_I32 && c->dtype != DT_STRING) return REFUSE("the data_type of CONTROL_SEQUENCE_CORRID must be a 32 or 64 bit integer, or TYPE_STRING");
    return ST_OK;
}

static enum status read_controls(struct model_config *c, const struct json *list, struct err *err)
{
    struct sequence_plan *p = &c->scheduling.sequences;
    struct sequence_control *all = arena_calloc(&c->arena, SEQUENCE_CONTROLS_MAX, sizeof *all);
    if (!all) return config_refuse_memory(err);
    p->controls = all;
    for (const struct json *i = list ? list->list.first : NULL; i; i = i->next) {
        const struct json *controls = json_get(i, "control");
        if (!*config_text(i, "name") || !controls || controls->list.count != 1) return REFUSE("a control_input needs a name and one control");
        if (p->control_count == SEQUENCE_CONTROLS_MAX) return REFUSE("more than %d control inputs are given", SEQUENCE_CONTROLS_MAX);
        struct sequence_control *to = &all[p->control_count++];
        to->name = config_text(i, "name");
        enum status st = read_control(to, controls->list.first, err);
        if (st) return err_prefix(err, "control_input '%.60s'", to->name);
    }
    return ST_OK;
}

static enum status read_state(struct carried_state *s, const struct json *j, bool rows, struct err *err)
{
    const struct json *initial = json_get(j, "initial_state");
    int64_t dims[TENSOR_RANK_MAX];
    int rank;
    s->input = config_text(j, "input_name");
    s->output = config_text(j, "output_name");
    s->dtype = config_dtype(j);
    if (!*s->input || !*s->output) return REFUSE("it needs input_name and output_name");
    if (s->dtype == DT_NONE || s->dtype == DT_STRING) return REFUSE("it needs a data_type of numbers");
    enum status st = config_dims(json_get(j, "dims"), dims, &rank, err);
    const struct json *first = initial ? initial->list.first : NULL;
    if (!st && first && initial->list.count > 1) return REFUSE("one initial_state is possible");
    if (!st && first && *config_text(first, "data_file")) {
        s->file = config_text(first, "data_file");
        if (!model_name_valid(s->file, strlen(s->file))) return REFUSE("data_file '%.100s' is not a plain file name: it lies in the model's folder initial_state", s->file);
    }
    if (!st && first && json_get(first, "dims")) st = config_dims(json_get(first, "dims"), dims, &rank, err);
    if (st) return st;
    if (rank + rows > TENSOR_RANK_MAX) return REFUSE("it has too many dimensions");
    s->rank = rank + rows;
    s->dims[0] = 1;
    for (int d = 0; d < rank; d++) {
        if (dims[d] < 0) return REFUSE("a free dimension needs an initial_state whose dims say how large the first is");
        s->dims[d + rows] = dims[d];
    }
    return ST_OK;
}

static enum status read_states(struct model_config *c, const struct json *list, struct err *err)
{
    struct sequence_plan *p = &c->scheduling.sequences;
    struct carried_state *all = arena_calloc(&c->arena, SEQUENCE_STATES_MAX, sizeof *all);
    if (!all) return config_refuse_memory(err);
    p->states = all;
    for (const struct json *j = list ? list->list.first : NULL; j; j = j->next) {
        if (p->state_count == SEQUENCE_STATES_MAX) return REFUSE("more than %d states are given", SEQUENCE_STATES_MAX);
        enum status st = read_state(&all[p->state_count++], j, c->max_batch_size > 0, err);
        if (st) return err_prefix(err, "state %d '%.60s'", p->state_count, all[p->state_count - 1].input);
    }
    return ST_OK;
}

enum status config_read_sequences(struct model_config *c, struct err *err)
{
    const struct json *j = json_get(c->tree, "sequence_batching"), *oldest = json_get(j, "oldest");
    struct sequence_plan *p = &c->scheduling.sequences;
    if (!j) return ST_OK;
    const int64_t idle = config_number(j, "max_sequence_idle_microseconds", 0), candidates = config_number(oldest, "max_candidate_sequences", 0), instances = c->instances > 0 ? c->instances : 1;
    p->on = true;
    p->iterative = config_flag(j, "iterative_sequence");
    p->rows = c->max_batch_size > 0;
    p->idle_us = idle > 0 ? (uint64_t)idle : IDLE_DEFAULT_US;
    p->candidates = (int)(oldest ? candidates : instances * (c->max_batch_size > 0 ? c->max_batch_size : 1));
    if (p->candidates < 1) p->candidates = CANDIDATES_DEFAULT;
    if (oldest) {
        c->scheduling.max_queue_delay_us = (uint64_t)config_number(oldest, "max_queue_delay_microseconds", 0);
        c->scheduling.preserve_ordering = config_flag(oldest, "preserve_ordering");
    }
    enum status st = read_controls(c, json_get(j, "control_input"), err);
    if (!st) st = read_states(c, json_get(j, "state"), err);
    return st ? err_prefix(err, "sequence_batching") : ST_OK;
}

bool config_hides(const struct model_config *c, const char *port)
{
    const struct sequence_plan *p = &c->scheduling.sequences;
    for (int k = 0; k < p->control_count; k++)
        if (!strcmp(p->controls[k].name, port)) return true;
    for (int k = 0; k < p->state_count; k++)
        if (!strcmp(p->states[k].input, port) || !strcmp(p->states[k].output, port)) return true;
    return false;
}

static struct port *visible_ports(struct model_config *c, const struct port *all, int count, int *left)
{
    struct port *some = arena_calloc(&c->arena, (uint64_t)count + 1, sizeof *some);
    *left = 0;
    for (int k = 0; some && k < count; k++)
        if (!config_hides(c, all[k].name)) some[(*left)++] = all[k];
    return some;
}

const struct signature *model_config_for_clients(struct model_config *c, const struct signature *s)
{
    if (!c->scheduling.sequences.on) return s;
    struct signature *client = arena_calloc(&c->arena, 1, sizeof *client);
    if (!client) return NULL;
    *client = *s;
    client->inputs = visible_ports(c, s->inputs, s->input_count, &client->input_count);
    client->outputs = visible_ports(c, s->outputs, s->output_count, &client->output_count);
    return client->inputs && client->outputs ? client : NULL;
}

static enum status check_port(const struct port *is, const char *kind, const char *name, enum dtype dtype, struct err *err)
{
    if (!is) return REFUSE("sequence_batching names the %s '%.60s', which the model does not have", kind, name);
    if (is->dtype != dtype) return REFUSE("sequence_batching says that the %s '%.60s' is %s, but the model's is %s", kind, name, dtype_name(dtype), dtype_name(is->dtype));
    return ST_OK;
}

enum status model_config_read_states(struct model_config *c, enum status (*read)(void *context, const char *path, size_t max, char **bytes, size_t *length, struct err *err), void *context, struct err *err)
{
    struct carried_state *states = (struct carried_state *)c->scheduling.sequences.states;      /* ours, nobody runs it yet */
    for (int k = 0; k < c->scheduling.sequences.state_count; k++) {
        struct carried_state *s = &states[k];
        char path[MODEL_NAME_MAX + 32], *bytes;
        size_t length;
        uint64_t need;
        if (!s->file) continue;
        snprintf(path, sizeof path, "initial_state/%s", s->file);
        if (!tensor_bytes(s->dtype, s->dims, s->rank, &need) || need > STATE_BYTES_MAX) return REFUSE("the state '%.60s' is too large to begin with a file: more than %d bytes", s->input, STATE_BYTES_MAX);
        enum status st = read(context, path, (size_t)need + 1, &bytes, &length, err);
        if (st) return err_prefix(err, "state '%.60s': %s", s->input, path);
        s->first = length == need ? arena_copy(&c->arena, bytes, length) : NULL;
        free(bytes);
        if (length != need) return REFUSE("state '%.60s': %s has %zu bytes, but the state takes %llu", s->input, path, length, (unsigned long long)need);
        if (!s->first) return config_refuse_memory(err);
    }
    return ST_OK;
}

enum status config_complete_sequences(struct model_config *c, const struct signature *s, struct err *err)
{
    const struct sequence_plan *p = &c->scheduling.sequences;
    enum status st = ST_OK;
    if (p->on && (s->text || s->image || s->ensemble)) return REFUSE("sequence_batching is for networks");
    for (int k = 0; k < p->control_count && !st; k++) st = check_port(signature_input(s, p->controls[k].name), "input", p->controls[k].name, p->controls[k].dtype, err);
    for (int k = 0; k < p->state_count && !st; k++) {
        st = check_port(signature_input(s, p->states[k].input), "input", p->states[k].input, p->states[k].dtype, err);
        if (!st) st = check_port(signature_output(s, p->states[k].output), "output", p->states[k].output, p->states[k].dtype, err);
    }
    return st;
}
