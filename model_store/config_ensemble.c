/* ensemble_scheduling: the steps, and the ensemble's signature, which nothing but the config's own inputs and outputs can tell. */
#include "model_store/config_internal.h"

#include <string.h>

static enum status read_edges(struct model_config *c, const struct json *map, const struct ensemble_edge **out, int *count, struct err *err)
{
    struct ensemble_edge *edges = arena_calloc(&c->arena, (map ? map->list.count : 0) + 1, sizeof *edges);
    if (!edges) return config_refuse_memory(err);
    for (const struct json *e = map ? map->list.first : NULL; e; e = e->next) {
        if (*count == CONFIG_PORTS_MAX) return REFUSE("more than %d entries are in a map", CONFIG_PORTS_MAX);
        edges[(*count)++] = (struct ensemble_edge){ e->key, e->string.text };
    }
    *out = edges;
    return ST_OK;
}

static enum status read_step(struct model_config *c, struct ensemble_step *s, const struct json *j, struct err *err)
{
    int64_t version = config_number(j, "model_version", -1);
    s->model = config_text(j, "model_name");
    if (!model_name_valid(s->model, strlen(s->model))) return REFUSE("'%.130s' is no model name", s->model);
    if (version != -1 && (version < 1 || version > INT32_MAX)) return REFUSE("model_version is %lld; it must be 1 to 2147483647, or -1 for the default", (long long)version);
    s->version = version < 0 ? 0 : version;
    enum status st = read_edges(c, json_get(j, "input_map"), &s->inputs, &s->input_count, err);
    if (!st) st = read_edges(c, json_get(j, "output_map"), &s->outputs, &s->output_count, err);
    return st;
}

/* A port as the signature has it: with the batch dimension that the config leaves out. */
static enum status read_signature(struct model_config *c, const struct config_port *ports, int count, const char *kind, const struct port **out, struct err *err)
{
    struct port *all = arena_calloc(&c->arena, (uint64_t)count + 1, sizeof *all);
    if (!all) return config_refuse_memory(err);
    for (int k = 0; k < count; k++) {
        const struct config_port *p = &ports[k];
        const int rows = c->max_batch_size > 0;
        if (p->dtype == DT_NONE || !p->rank) return REFUSE("%s '%.60s' of an ensemble needs data_type and dims", kind, p->name);
        if (p->has_reshape) return REFUSE("%s '%.60s' of an ensemble cannot have a reshape", kind, p->name);
        if (p->rank + rows > TENSOR_RANK_MAX) return REFUSE("%s '%.60s' has too many dimensions", kind, p->name);
        all[k] = (struct port){ .name = p->name, .dtype = p->dtype, .rank = p->rank + rows, .dims = { -1 }, .optional = p->optional };
        memcpy(all[k].dims + rows, p->dims, (size_t)p->rank * sizeof *p->dims);
    }
    *out = all;
    return ST_OK;
}

enum status config_read_ensemble(struct model_config *c, struct err *err)
{
    const struct json *ensemble = json_get(c->tree, "ensemble_scheduling"), *list = json_get(ensemble, "step");
    struct ensemble_plan *p = &c->ensemble;
    const size_t n = list ? list->list.count : 0;
    if (!ensemble) return !strcmp(c->platform, "ensemble") ? REFUSE("an ensemble needs ensemble_scheduling") : ST_OK;
    if (!n || n > ENSEMBLE_STEPS_MAX) return REFUSE("ensemble_scheduling has %zu steps; 1 to %d are possible", n, ENSEMBLE_STEPS_MAX);
    if (*c->platform && strcmp(c->platform, "ensemble")) return REFUSE("ensemble_scheduling belongs to the platform 'ensemble', not to '%.60s'", c->platform);
    struct ensemble_step *steps = arena_calloc(&c->arena, n, sizeof *steps);
    if (!steps) return config_refuse_memory(err);
    p->steps = steps;
    for (const struct json *j = list->list.first; j; j = j->next) {
        enum status st = read_step(c, &steps[p->step_count++], j, err);
        if (st) return err_prefix(err, "ensemble_scheduling step %d", p->step_count);
    }
    p->rows_max = c->max_batch_size;
    p->signature = (struct signature){ .platform = "ensemble", .batchable = c->max_batch_size > 0, .ensemble = true, .input_count = c->input_count, .output_count = c->output_count };
    enum status st = read_signature(c, c->inputs, c->input_count, "input", &p->signature.inputs, err);
    if (!st) st = read_signature(c, c->outputs, c->output_count, "output", &p->signature.outputs, err);
    return st ? st : ensemble_check(p, err);
}
