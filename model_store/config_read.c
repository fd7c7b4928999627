/* From the tree that pbtxt.c made, whose types and ranges are already right, to the struct: what is left to check is what numbers mean. */
#include "model_store/config_internal.h"

#include <stdlib.h>
#include <string.h>

#include "engine/device_gpu.h"

const char *config_text(const struct json *message, const char *field)
{
    const struct json *j = json_get(message, field);
    return j && j->type == JSON_STRING ? j->string.text : "";
}

int64_t config_number(const struct json *message, const char *field, int64_t otherwise)
{
    const struct json *j = json_get(message, field);
    if (j && j->type == JSON_UINT) return INT64_MAX;
    json_as_int64(j, &otherwise);
    return otherwise;
}

bool config_flag(const struct json *message, const char *field)
{
    const struct json *j = json_get(message, field);
    return j && j->type == JSON_BOOL && j->boolean;
}

static size_t list_count(const struct json *list) { return list ? list->list.count : 0; }

enum dtype config_dtype(const struct json *message)
{
    const char *t = config_text(message, "data_type");
    return dtype_from_config(t, strlen(t));
}

enum status config_dims(const struct json *list, int64_t *dims, int *rank, struct err *err)
{
    *rank = 0;
    if (list_count(list) > TENSOR_RANK_MAX) return REFUSE("%zu dimensions are given; at most %d are possible", list_count(list), TENSOR_RANK_MAX);
    for (const struct json *d = list ? list->list.first : NULL; d; d = d->next) {
        if (d->integer < -1 || d->integer == 0) return REFUSE("a dimension is %lld; it must be above 0, or -1 for a free one", (long long)d->integer);
        dims[(*rank)++] = d->integer;
    }
    return ST_OK;
}

static enum status read_port(struct config_port *p, const struct json *j, struct err *err)
{
    const struct json *reshape = json_get(j, "reshape");
    p->name = config_text(j, "name");
    if (!*p->name) return REFUSE("it has no name");
    p->dtype = config_dtype(j);
    p->optional = config_flag(j, "optional");
    p->format = *config_text(j, "format") ? config_text(j, "format") : "FORMAT_NONE";
    if (*config_text(j, "label_filename")) {
        p->label_filename = config_text(j, "label_filename");
        if (!model_name_valid(p->label_filename, strlen(p->label_filename))) return REFUSE("its label_filename '%.100s' is not a plain file name", p->label_filename);
    }
    enum status st = config_dims(json_get(j, "dims"), p->dims, &p->rank, err);
    if (st || !reshape) return st;
    p->has_reshape = true;
    return config_dims(json_get(reshape, "shape"), p->reshape, &p->reshape_rank, err);
}

static enum status read_ports(struct model_config *c, const char *field, const struct config_port **out, int *count, struct err *err)
{
    const struct json *list = json_get(c->tree, field);
    size_t n = list_count(list), at = 0;
    if (n > CONFIG_PORTS_MAX) return REFUSE("%zu entries of '%s' are given; at most %d are possible", n, field, CONFIG_PORTS_MAX);
    struct config_port *ports = arena_calloc(&c->arena, n ? n : 1, sizeof *ports);
    if (!ports) return config_refuse_memory(err);
    for (const struct json *j = list ? list->list.first : NULL; j; j = j->next, at++) {
        enum status st = read_port(&ports[at], j, err);
        if (st) return err_prefix(err, "%s %zu '%.60s'", field, at, ports[at].name);
        for (size_t i = 0; i < at; i++)
            if (!strcmp(ports[i].name, ports[at].name)) return REFUSE("%s '%.60s' is given twice", field, ports[at].name);
    }
    *out = ports;
    *count = (int)n;
    return ST_OK;
}

static int compare_versions(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static enum status read_version_policy(struct model_config *c, struct err *err)
{
    const struct json *policy = json_get(c->tree, "version_policy"), *specific = json_get(policy, "specific");
    c->policy = VERSION_LATEST;
    c->latest = 1;
    if (json_get(policy, "all")) c->policy = VERSION_ALL;
    int64_t latest = config_number(json_get(policy, "latest"), "num_versions", 1);
    if (latest > 1) c->latest = (uint32_t)latest;
    if (!specific) return ST_OK;
    const struct json *versions = json_get(specific, "versions");
    size_t n = list_count(versions);
    int64_t *sorted = arena_calloc(&c->arena, n ? n : 1, sizeof *sorted);
    if (!sorted) return config_refuse_memory(err);
    if (!n) return REFUSE("version_policy specific names no versions");
    for (const struct json *v = versions->list.first; v; v = v->next) {
        if (v->integer < 1 || v->integer > INT32_MAX) return REFUSE("version_policy names version %lld; versions are 1 to 2147483647", (long long)v->integer);
        sorted[c->specific_count++] = v->integer;
    }
    qsort(sorted, n, sizeof *sorted, compare_versions);
    c->policy = VERSION_SPECIFIC;
    c->specific = sorted;
    return ST_OK;
}

/* What an instance of a group needs of shared resources, and its priority. */
static enum status read_claim(struct rate_claim *claim, const struct json *limiter, struct err *err)
{
    const struct json *list = json_get(limiter, "resources");
    int64_t priority = config_number(limiter, "priority", 0);
    if (list_count(list) > RATE_NEEDS_MAX) return REFUSE("a rate_limiter names %zu resources; at most %d are possible", list_count(list), RATE_NEEDS_MAX);
    if (priority > RATE_COPIES_MAX) return REFUSE("the priority of a rate_limiter is %lld; at most %d is possible", (long long)priority, RATE_COPIES_MAX);
    claim->priority = (uint32_t)priority;
    for (const struct json *j = list ? list->list.first : NULL; j; j = j->next) {
        struct rate_need *need = &claim->needs[claim->need_count];
        const char *name = config_text(j, "name");
        int64_t count = config_number(j, "count", 1);
        if (!*name || strlen(name) >= sizeof need->name || strchr(name, ':')) return REFUSE("'%.80s' is no name of a resource: 1 to %d bytes without ':'", name, RATE_NAME_MAX - 1);
        if (count < 1 || count > RATE_COPIES_MAX) return REFUSE("the count of resource '%s' is %lld; it must be 1 to %d", name, (long long)count, RATE_COPIES_MAX);
        for (int k = 0; k < claim->need_count; k++)
            if (!strcmp(claim->needs[k].name, name)) return REFUSE("a rate_limiter names resource '%s' twice", name);
        strcpy(need->name, name);
        need->count = (uint32_t)count;
        need->global = config_flag(j, "global");
        claim->need_count++;
    }
    return ST_OK;
}

static enum status read_instances(struct model_config *c, const char *where, struct log *log, struct err *err)
{
    const struct json *groups = json_get(c->tree, "instance_group");
    int64_t total = 0;
    struct rate_claim *claims = arena_calloc(&c->arena, list_count(groups) + 1, sizeof *claims);
    if (!claims) return config_refuse_memory(err);
    c->claims = claims;
    for (const struct json *g = groups ? groups->list.first : NULL; g; g = g->next) {
        int64_t count = config_number(g, "count", 1);
        if (count < 0) return REFUSE("instance_group count is %lld; it must not be negative", (long long)count);
        if (g == groups->list.first) {
            const struct json *gpus = json_get(g, "gpus"), *first = gpus ? gpus->list.first : NULL;
            c->gpu_wish = !strcmp(config_text(g, "kind"), "KIND_GPU") ? CONFIG_GPU_WANTED : !strcmp(config_text(g, "kind"), "KIND_CPU") ? CONFIG_GPU_NEVER : CONFIG_GPU_AUTO;
            int64_t gpu = 0;
            if (first && json_as_int64(first, &gpu) && (gpu < 0 || gpu >= DEVICE_GPUS_MAX)) return REFUSE("instance_group names GPU %lld; 0 to %d are taken", (long long)gpu, DEVICE_GPUS_MAX - 1);
            c->gpu = (int)gpu;
            if (c->gpu_wish == CONFIG_GPU_WANTED && !device_gpu_count()) log_write(log, LOG_WARNING, "config", "%s: an instance group of KIND_GPU runs on the CPU, since no GPU can be used", where);
        }
        if (config_flag(g, "passive")) continue;
        total += count ? count : 1;
        if (total > CONFIG_INSTANCES_MAX) return REFUSE("more than %d instances are asked for", CONFIG_INSTANCES_MAX);
        enum status st = read_claim(&claims[c->claim_count], json_get(g, "rate_limiter"), err);
        if (st) return st;
        if (claims[c->claim_count].need_count && json_get(c->tree, "ensemble_scheduling")) return REFUSE("an ensemble computes nothing itself and has no rate_limiter; the models of its steps may");
        claims[c->claim_count++].instances = (int)(count ? count : 1);
    }
    c->instances = (int)total;
    return ST_OK;
}

static void read_queue_policy(struct queue_policy *p, const struct json *j)
{
    p->delay = !strcmp(config_text(j, "timeout_action"), "DELAY");
    p->default_timeout_us = (uint64_t)config_number(j, "default_timeout_microseconds", 0);
    p->allow_timeout_override = config_flag(j, "allow_timeout_override");
    p->max_queue_size = (uint32_t)config_number(j, "max_queue_size", 0);
}

static enum status read_batching(struct model_config *c, struct err *err)
{
    const struct json *d = json_get(c->tree, "dynamic_batching"), *preferred = json_get(d, "preferred_batch_size"), *levels = json_get(d, "priority_queue_policy");
    struct scheduler_options *o = &c->scheduling;
    if (!d) return ST_OK;
    o->dynamic_batching = true;
    if (list_count(preferred) > SCHEDULER_PREFERRED_MAX) return REFUSE("%zu preferred batch sizes are given; at most %d are possible", list_count(preferred), SCHEDULER_PREFERRED_MAX);
    for (const struct json *p = preferred ? preferred->list.first : NULL; p; p = p->next) {
        if (p->integer < 1) return REFUSE("a preferred_batch_size is %lld; it must be at least 1", (long long)p->integer);
        if (c->has_max_batch_size && p->integer > c->max_batch_size)
            return REFUSE("preferred_batch_size %lld is above max_batch_size %lld", (long long)p->integer, (long long)c->max_batch_size);
        o->preferred[o->preferred_count++] = p->integer;
    }
    o->max_queue_delay_us = (uint64_t)config_number(d, "max_queue_delay_microseconds", 0);
    o->preserve_ordering = config_flag(d, "preserve_ordering");
    int64_t count = config_number(d, "priority_levels", 0), usual = config_number(d, "default_priority_level", 0);
    if (count > SCHEDULER_PRIORITIES_MAX) return REFUSE("priority_levels is %lld; at most %d are possible", (long long)count, SCHEDULER_PRIORITIES_MAX);
    if (count && (usual < 1 || usual > count)) return REFUSE("default_priority_level is %lld; with %lld priority_levels it must be 1 to %lld", (long long)usual, (long long)count, (long long)count);
    o->priority_levels = (uint32_t)count;
    o->default_priority = count ? (uint32_t)usual : 0;
    read_queue_policy(&o->policy, json_get(d, "default_queue_policy"));
    for (const struct json *p = levels ? levels->list.first : NULL; p; p = p->next) {
        long long level = atoll(p->key);
        if (level < 1 || level > count) return REFUSE("priority_queue_policy names level %s, but there are %lld priority_levels", p->key, (long long)count);
        o->level_has_policy[level - 1] = true;
        read_queue_policy(&o->level_policy[level - 1], p);
    }
    return ST_OK;
}

static enum status read_parameters(struct model_config *c, struct err *err)
{
    const struct json *map = json_get(c->tree, "parameters");
    struct config_parameter *all = arena_calloc(&c->arena, list_count(map) + 1, sizeof *all);
    if (!all) return config_refuse_memory(err);
    for (const struct json *p = map ? map->list.first : NULL; p; p = p->next)
        all[c->parameter_count++] = (struct config_parameter){ p->key, config_text(p, "string_value") };
    c->parameters = all;
    return ST_OK;
}

static enum status read_warmup(struct model_config *c, struct config_warmup *w, const struct json *j, struct err *err)
{
    const struct json *map = json_get(j, "inputs");
    int64_t batch = config_number(j, "batch_size", 0), count = config_number(j, "count", 1);
    w->name = config_text(j, "name");
    if (batch < 1 || batch > 65536) return REFUSE("batch_size is %lld; it must be 1 to 65536", (long long)batch);
    if (count > 1000) return REFUSE("count is %lld; at most 1000 are run", (long long)count);
    w->batch_size = (uint32_t)batch;
    w->count = count ? (uint32_t)count : 1;
    struct config_warmup_input *inputs = arena_calloc(&c->arena, list_count(map) + 1, sizeof *inputs);
    if (!inputs) return config_refuse_memory(err);
    if (list_count(map) > CONFIG_PORTS_MAX) return REFUSE("it has more than %d inputs", CONFIG_PORTS_MAX);
    w->inputs = inputs;
    for (const struct json *i = map ? map->list.first : NULL; i; i = i->next) {
        struct config_warmup_input *in = &inputs[w->input_count++];
        in->name = i->key;
        in->dtype = config_dtype(i);
        in->data = json_get(i, "random_data") ? WARMUP_RANDOM : json_get(i, "input_data_file") ? WARMUP_FILE : WARMUP_ZERO;
        if (in->dtype == DT_NONE) return REFUSE("input '%.60s' has no data_type", in->name);
        if (in->data == WARMUP_FILE) {
            in->file = config_text(i, "input_data_file");
            if (!model_name_valid(in->file, strlen(in->file))) return REFUSE("input_data_file '%.100s' is not a plain file name", in->file);
        }
        enum status st = config_dims(json_get(i, "dims"), in->dims, &in->rank, err);
        if (st) return err_prefix(err, "input '%.60s'", in->name);
        for (int d = 0; d < in->rank; d++)
            if (in->dims[d] < 0) return REFUSE("input '%.60s' has a free dimension; a sample needs numbers", in->name);
    }
    return ST_OK;
}

static enum status read_warmups(struct model_config *c, struct err *err)
{
    const struct json *list = json_get(c->tree, "model_warmup");
    if (list_count(list) > WARMUPS_MAX) return REFUSE("%zu entries of model_warmup are given; at most %d are possible", list_count(list), WARMUPS_MAX);
    struct config_warmup *all = arena_calloc(&c->arena, list_count(list) + 1, sizeof *all);
    if (!all) return config_refuse_memory(err);
    for (const struct json *j = list ? list->list.first : NULL; j; j = j->next) {
        enum status st = read_warmup(c, &all[c->warmup_count], j, err);
        if (st) return err_prefix(err, "model_warmup '%.60s'", all[c->warmup_count].name);
        c->warmup_count++;
    }
    c->warmups = all;
    return ST_OK;
}

/* One line for all of them: an operator who moves a config here sees what has no effect. */
static void name_unused(const struct model_config *c, const char *where, struct log *log)
{
    static const char *const unused[] = { "runtime", "batch_input", "batch_output", "optimization", "cc_model_filenames", "metric_tags", "model_operations",
        "model_transaction_policy", "model_repository_agents", "model_metrics" };
    char names[256] = "";
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        if (!json_get(c->tree, unused[i])) continue;
        if (*names) strncat(names, ", ", sizeof names - strlen(names) - 1);
        strncat(names, unused[i], sizeof names - strlen(names) - 1);
    }
    if (*names) log_write(log, LOG_WARNING, "config", "%s: accepted but not used: %s", where, names);
}

enum status config_read_tree(struct model_config *c, const char *where, struct log *log, struct err *err)
{
    enum status st;
    c->name = config_text(c->tree, "name");
    c->platform = config_text(c->tree, "platform");
    c->backend = config_text(c->tree, "backend");
    c->has_max_batch_size = json_get(c->tree, "max_batch_size") != NULL;
    c->max_batch_size = config_number(c->tree, "max_batch_size", 0);
    c->response_cache = config_flag(json_get(c->tree, "response_cache"), "enable");
    if (*c->name && !model_name_valid(c->name, strlen(c->name))) st = REFUSE("'%.130s' is no model name: letters, digits, '.', '_' and '-', beginning with a letter or digit, at most %d", c->name, MODEL_NAME_MAX);
    else if (c->max_batch_size < 0 || c->max_batch_size > 65536) st = REFUSE("max_batch_size is %lld; it must be 0 to 65536", (long long)c->max_batch_size);
    else st = read_ports(c, "input", &c->inputs, &c->input_count, err);
    if (!st) st = read_ports(c, "output", &c->outputs, &c->output_count, err);
    if (!st) st = read_version_policy(c, err);
    if (!st) st = read_instances(c, where, log, err);
    if (!st) st = read_batching(c, err);
    if (!st) st = read_parameters(c, err);
    if (!st) st = read_warmups(c, err);
    if (!st) st = config_read_picture(c, err);
    if (!st) st = config_read_ensemble(c, err);
    if (!st) st = config_read_sequences(c, err);
    if (st) return err_prefix(err, "%.150s", where);
    name_unused(c, where, log);
    return ST_OK;
}
