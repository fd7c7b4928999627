/* A config is what its author remembered; the signature is what the model is. Here the one is held against the other: what was said must
 * agree, what was not said is filled in, and the tree that GET .../config shows gets both. */
#include "model_store/config_internal.h"

#include <string.h>

#include "model_store/pbtxt.h"

enum { DEFAULT_MAX_BATCH = 4 /* Triton's */, LONE_ROWS_MAX = 1 << 20, TEXTS_MAX = 64, PICTURES_MAX = 16 };

/* The member of that name, made if need be and emptied to `type`. */
static struct json *put(struct model_config *c, struct json *object, const char *key, enum json_type type)
{
    struct json *n = (struct json *)json_get(object, key);
    if (!n) n = pbtxt_add(&c->arena, object, key, type);
    if (!n) return NULL;
    n->type = type;
    if (type == JSON_ARRAY || type == JSON_OBJECT) n->list.first = NULL, n->list.count = 0;
    return n;
}

static bool put_text(struct model_config *c, struct json *object, const char *key, const char *text)
{
    struct json *n = put(c, object, key, JSON_STRING);
    if (!n) return false;
    n->string.length = strlen(text);
    n->string.text = arena_copy(&c->arena, text, n->string.length);
    return n->string.text != NULL;
}

static bool put_number(struct model_config *c, struct json *object, const char *key, int64_t v)
{
    struct json *n = key ? put(c, object, key, JSON_INT) : pbtxt_add(&c->arena, object, NULL, JSON_INT);
    if (n) n->integer = v;
    return n != NULL;
}

static bool put_flag(struct model_config *c, struct json *object, const char *key, bool v)
{
    struct json *n = put(c, object, key, JSON_BOOL);
    if (n) n->boolean = v;
    return n != NULL;
}

/* An object member that stays as it is when it is there. */
static struct json *need(struct model_config *c, struct json *object, const char *key, enum json_type type)
{
    struct json *n = (struct json *)json_get(object, key);
    return n ? n : pbtxt_add(&c->arena, object, key, type);
}

static bool first_dimension_free(const struct port *p) { return p->rank < 0 || (p->rank > 0 && p->dims[0] < 0); }

/* What the config says about ports speaks for a batch dimension when it leaves the first one out. */
static bool ports_leave_batch_out(const struct model_config *c, const struct signature *s)
{
    for (int i = 0; i < c->input_count; i++) {
        const struct port *p = signature_input(s, c->inputs[i].name);
        int rank = c->inputs[i].has_reshape ? c->inputs[i].reshape_rank : c->inputs[i].rank;
        if (p && p->rank >= 0 && rank && rank != p->rank - 1) return false;
    }
    return true;
}

static enum status settle_batch(struct model_config *c, const struct signature *s, struct err *err)
{
    struct scheduler_options *o = &c->scheduling;
    if (s->text || s->image) {      /* texts, and pictures, always ride together; max_batch_size says how many */
        o->max_batch_rows = c->max_batch_size > 0 ? c->max_batch_size : s->text ? TEXTS_MAX : PICTURES_MAX;
        o->dynamic_batching = true;
        return ST_OK;
    }
    if (s->ensemble) {
        o->max_batch_rows = ENSEMBLE_CALLS_MAX;
        return ST_OK;
    }
    if (!c->has_max_batch_size && s->batchable && ports_leave_batch_out(c, s)) {
        c->max_batch_size = DEFAULT_MAX_BATCH;
        for (int i = 0; i < o->preferred_count; i++)
            if (o->preferred[i] > c->max_batch_size) c->max_batch_size = o->preferred[i];
        if (!json_get(c->tree, "sequence_batching") && !json_get(c->tree, "ensemble_scheduling")) o->dynamic_batching = true;
    }
    for (int i = 0; c->max_batch_size > 0 && i < s->input_count + s->output_count; i++) {
        bool input = i < s->input_count;
        const struct port *p = input ? &s->inputs[i] : &s->outputs[i - s->input_count];
        char shape[96];
        if (!first_dimension_free(p))
            return REFUSE("max_batch_size is %lld, but the first dimension of %s '%.60s' %s is not free: the model does not take batches (max_batch_size 0)", (long long)c->max_batch_size, input ? "input" : "output",
                          p->name, shape_text(p->dims, p->rank, shape, sizeof shape));
    }
    /* With max_batch_size 0 the first dimension is one like the others: a request may bring any number of rows, but rides alone. */
    o->max_batch_rows = c->max_batch_size > 0 ? c->max_batch_size : s->batchable ? LONE_ROWS_MAX : 1;
    if (o->sequences.on) o->dynamic_batching = true;      /* those of different sequences ride together */
    if (!c->max_batch_size) o->dynamic_batching = false;
    for (int i = 0; i < o->preferred_count; i++)
        if (o->preferred[i] > (c->max_batch_size ? c->max_batch_size : 1)) return REFUSE("preferred_batch_size %lld is above max_batch_size %lld", (long long)o->preferred[i], (long long)c->max_batch_size);
    if (o->dynamic_batching && c->max_batch_size > 0 && !o->preferred_count) o->preferred[o->preferred_count++] = c->max_batch_size;
    return ST_OK;
}

static enum status check_port(const struct model_config *c, const char *kind, const struct config_port *p, const struct port *is, struct err *err)
{
    char said[96], has[96];
    const int64_t *dims = p->has_reshape ? p->reshape : p->dims;
    int rank = p->has_reshape ? p->reshape_rank : p->rank, skip = c->max_batch_size > 0;
    if (p->dtype != DT_NONE && p->dtype != is->dtype) return REFUSE("%s '%.60s' is %s in the config, but the model's is %s", kind, p->name, dtype_name(p->dtype), dtype_name(is->dtype));
    if (is->rank < 0 || (!rank && !p->has_reshape)) return ST_OK;
    bool same = rank == is->rank - skip;
    for (int i = 0; same && i < rank; i++) same = is->dims[i + skip] < 0 || dims[i] == is->dims[i + skip];
    if (!same)
        return REFUSE("%s '%.60s' has dims %s in the config%s, but the model's shape is %s", kind, p->name, shape_text(dims, rank, said, sizeof said), skip ? " (without the batch dimension)" : "",
                      shape_text(is->dims, is->rank, has, sizeof has));
    return ST_OK;
}

static void fill_port(const struct model_config *c, struct config_port *p, const struct port *is)
{
    p->name = is->name;
    p->dtype = is->dtype;
    p->optional |= is->optional;
    if (!p->format) p->format = "FORMAT_NONE";
    if (p->rank || p->has_reshape || is->rank < 0) return;
    for (int i = c->max_batch_size > 0; i < is->rank; i++) p->dims[p->rank++] = is->dims[i];
}

static bool write_port(struct model_config *c, struct json *list, const struct config_port *p)
{
    struct json *entry = list->list.first;
    while (entry && strcmp(config_text(entry, "name"), p->name)) entry = entry->next;
    if (!entry) entry = pbtxt_add(&c->arena, list, NULL, JSON_OBJECT);
    if (!entry || !put_text(c, entry, "name", p->name) || !put_text(c, entry, "data_type", dtype_config(p->dtype) ? dtype_config(p->dtype) : "TYPE_INVALID")) return false;
    struct json *dims = put(c, entry, "dims", JSON_ARRAY);
    for (int i = 0; dims && i < p->rank; i++)
        if (!put_number(c, dims, NULL, p->dims[i])) return false;
    return dims && (!p->optional || put_flag(c, entry, "optional", true));
}

/* Keeps the config's order, then adds what it did not name in the model's order. */
static enum status settle_ports(struct model_config *c, const char *kind, const struct config_port **ports, int *count, const struct port *is, int is_count, struct err *err)
{
    struct json *list = need(c, (struct json *)c->tree, kind, JSON_ARRAY);
    struct config_port *all = arena_calloc(&c->arena, (uint64_t)(*count + is_count + 1), sizeof *all);
    int n = *count;
    if (!list || !all) return config_refuse_memory(err);
    memcpy(all, *ports, sizeof *all * (size_t)n);
    for (int i = 0; i < is_count; i++) {
        int at = 0;
        if (config_hides(c, is[i].name)) continue;
        while (at < *count && strcmp(all[at].name, is[i].name)) at++;
        enum status st = at < *count ? check_port(c, kind, &all[at], &is[i], err) : ST_OK;
        if (st) return st;
        fill_port(c, &all[at < *count ? at : n++], &is[i]);
    }
    for (int k = 0; k < *count; k++) {
        int i = 0;
        while (i < is_count && strcmp(all[k].name, is[i].name)) i++;
        if (i == is_count) return REFUSE("the config names an %s '%.60s' that the model does not have (its first is '%.60s')", kind, all[k].name, is_count ? is[0].name : "");
    }
    for (int i = 0; i < n; i++) {
        /* Names and tables in the config outlive the engine's signature, so they are copies. */
        all[i].name = arena_copy(&c->arena, all[i].name, strlen(all[i].name));
        if (!all[i].name || !write_port(c, list, &all[i])) return config_refuse_memory(err);
    }
    *ports = all;
    *count = n;
    return ST_OK;
}

static bool write_scheduling(struct model_config *c, struct json *tree)
{
    const struct scheduler_options *o = &c->scheduling;
    struct json *policy = need(c, tree, "version_policy", JSON_OBJECT), *optimization = need(c, tree, "optimization", JSON_OBJECT), *groups = need(c, tree, "instance_group", JSON_ARRAY), *n;
    if (!policy || !optimization || !groups) return false;
    if (!policy->list.count) {
        n = need(c, policy, "latest", JSON_OBJECT);
        if (!n || !put_number(c, n, "num_versions", 1)) return false;
    }
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "output_pinned_memory" : "input_pinned_memory";
        n = json_get(optimization, key) ? (struct json *)json_get(optimization, key) : put(c, optimization, key, JSON_OBJECT);
        if (!n || (!n->list.count && !put_flag(c, n, "enable", true))) return false;
    }
    if (!groups->list.count && !pbtxt_add(&c->arena, groups, NULL, JSON_OBJECT)) return false;
    int index = 0;
    bool given = c->instances > 0;
    for (struct json *g = groups->list.first; g; g = g->next, index++) {
        const char *name = given ? arena_format(&c->arena, "%s_%d", c->name, index) : c->name;
        if (!name || (!*config_text(g, "name") && !put_text(c, g, "name", name))) return false;
        if (config_number(g, "count", 0) < 1 && !put_number(c, g, "count", 1)) return false;
        if (!strcmp(config_text(g, "kind"), "") || !strcmp(config_text(g, "kind"), "KIND_AUTO"))
            if (!put_text(c, g, "kind", "KIND_CPU")) return false;
    }
    if (o->sequences.on || (!o->dynamic_batching && !json_get(tree, "dynamic_batching"))) return true;
    n = need(c, tree, "dynamic_batching", JSON_OBJECT);
    struct json *preferred = n ? put(c, n, "preferred_batch_size", JSON_ARRAY) : NULL;
    for (int i = 0; preferred && i < o->preferred_count; i++)
        if (!put_number(c, preferred, NULL, o->preferred[i])) return false;
    return preferred != NULL;
}

enum status model_config_complete(struct model_config *c, const char *name, const struct signature *s, struct err *err)
{
    struct json *tree = (struct json *)c->tree;
    bool onnx = !strcmp(s->platform, "onnxruntime_onnx");
    if (*c->name && strcmp(c->name, name)) return REFUSE("the config names the model '%.130s', but its folder is '%.130s'", c->name, name);
    if (onnx && *c->platform && strcmp(c->platform, s->platform)) return REFUSE("the config's platform is '%.60s'; this model's is '%s'", c->platform, s->platform);
    c->name = arena_copy(&c->arena, name, strlen(name));
    if (!*c->platform) c->platform = arena_copy(&c->arena, s->platform, strlen(s->platform));
    if (!*c->backend && onnx) c->backend = "onnxruntime";
    if (!c->name || !c->platform) return config_refuse_memory(err);
    enum status st = settle_batch(c, s, err);
    if (!st) st = settle_ports(c, "input", &c->inputs, &c->input_count, s->inputs, s->input_count, err);
    if (!st) st = settle_ports(c, "output", &c->outputs, &c->output_count, s->outputs, s->output_count, err);
    if (!st) st = config_complete_picture(c, s, err);
    if (!st) st = config_complete_sequences(c, s, err);
    if (st) return st;
    bool ok = put_text(c, tree, "name", c->name) && put_text(c, tree, "platform", c->platform) && put_text(c, tree, "backend", c->backend) && put_number(c, tree, "max_batch_size", c->max_batch_size);
    if (ok && onnx && !*config_text(tree, "default_model_filename")) ok = put_text(c, tree, "default_model_filename", "model.onnx");
    if (!ok || !write_scheduling(c, tree)) return config_refuse_memory(err);
    /* Rows that were not proven independent never ride with those of another request, whatever the config hopes for. */
    if (!s->batchable && !s->text && !s->image) c->scheduling.dynamic_batching = false;
    return ST_OK;
}
