#include "engine/sequences.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { BUCKETS = 1024 };

struct id { bool text; uint64_t number; char name[SEQUENCE_ID_MAX + 1]; };

struct state_value { struct tensor tensor; uint64_t room; };      /* data is the sequence's own; bytes 0: the first */

struct sequence {
    struct id        id;
    bool             active;               /* one of the candidates; else it waits for room */
    bool             ended;                /* its end was accepted: what comes next must begin anew */
    struct request  *busy;                 /* queued or riding */
    struct request  *held_first, *held_last;
    uint64_t         used_ns;
    struct sequence *chain;                /* of its bucket */
    struct sequence *next, *previous;      /* in the list of the idle (oldest first) or of the waiting; neither while it is busy */
    struct state_value *states;
};

struct list { struct sequence *first, *last; };

struct sequences {
    const struct sequence_plan *plan;
    struct sequence *buckets[BUCKETS];
    struct list      idle, waiting;
    int              count, active;
};

/* What a request knows of its sequence. */
struct sequence_ride {
    struct id        id;
    bool             start, end, held;
    struct sequence *sequence;
    int              first_control, first_state;      /* among its inputs */
    int              answers;                         /* outputs that are the client's */
};

struct sequences *sequences_open(const struct sequence_plan *p)
{
    struct sequences *q = mem_calloc_array(1, sizeof *q);
    if (q) q->plan = p;
    return q;
}

/* ---- lists and the table ---- */
static void list_append(struct list *l, struct sequence *s)
{
    s->next = NULL;
    s->previous = l->last;
    *(l->last ? &l->last->next : &l->first) = s;
    l->last = s;
}

static void list_remove(struct list *l, struct sequence *s)
{
    *(s->previous ? &s->previous->next : &l->first) = s->next;
    *(s->next ? &s->next->previous : &l->last) = s->previous;
    s->next = s->previous = NULL;
}

static struct sequence **place_of(struct sequences *q, const struct id *id)
{
    uint64_t h = id->number * 0x9e3779b97f4a7c15u;
    for (const char *c = id->name; *c; c++) h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    struct sequence **at = &q->buckets[(h >> 32) % BUCKETS];
    while (*at && ((*at)->id.text != id->text || (*at)->id.number != id->number || strcmp((*at)->id.name, id->name))) at = &(*at)->chain;
    return at;
}

static void sequence_free(struct sequences *q, struct sequence *s)
{
    for (int k = 0; s->states && k < q->plan->state_count; k++) free(s->states[k].tensor.data);
    free(s->states);
    free(s);
}

/* Takes it out of table and count; it is in no list. */
static void sequence_end(struct sequences *q, struct sequence *s)
{
    struct sequence **at = place_of(q, &s->id);
    *at = s->chain;
    q->count--;
    q->active -= s->active;
    sequence_free(q, s);
}

static struct sequence *sequence_begin(struct sequences *q, const struct id *id, struct err *err)
{
    struct sequence **at = place_of(q, id);
    if (q->count >= SEQUENCES_KEPT_MAX) {
        err_set(err, ST_UNAVAILABLE, "more than %d sequences are under way", SEQUENCES_KEPT_MAX);
        return NULL;
    }
    struct sequence *s = mem_calloc_array(1, sizeof *s);
    if (s) s->states = mem_calloc_array((uint64_t)q->plan->state_count + 1, sizeof *s->states);
    if (!s || !s->states) {
        free(s);
        err_set(err, ST_NO_MEMORY, "no memory for a sequence");
        return NULL;
    }
    s->id = *id;
    *at = s;
    q->count++;
    s->active = q->active < q->plan->candidates && !q->waiting.first;
    q->active += s->active;
    if (!s->active) list_append(&q->waiting, s);
    return s;
}

void sequences_close(struct sequences *q)
{
    if (!q) return;
    for (int b = 0; b < BUCKETS; b++)
        for (struct sequence *s = q->buckets[b], *next; s; s = next) {
            next = s->chain;
            sequence_free(q, s);
        }
    free(q);
}

/* ---- a request's own ---- */
static enum status read_parameters(const struct sequence_plan *plan, const struct request *r, struct sequence_ride *ride, struct err *err)
{
    static atomic_uint_fast64_t unnamed;
    for (int i = 0; i < r->parameter_count; i++) {
        const struct parameter *p = &r->parameters[i];
        if (!strcmp(p->name, "sequence_id")) {
            ride->id.text = p->type == PARAMETER_STRING;
            if (p->type == PARAMETER_STRING) {
                if (strlen(p->text) > SEQUENCE_ID_MAX) return err_set(err, ST_BAD_INPUT, "a sequence_id has at most %d bytes", SEQUENCE_ID_MAX);
                strcpy(ride->id.name, p->text);
            } else if (p->type == PARAMETER_INT) ride->id.number = (uint64_t)p->integer;
            else return err_set(err, ST_BAD_INPUT, "sequence_id must be a number or a text");
        } else if (!strcmp(p->name, "sequence_start") || !strcmp(p->name, "sequence_end")) {
            if (p->type != PARAMETER_BOOL) return err_set(err, ST_BAD_INPUT, "%s must be a boolean", p->name);
            *(!strcmp(p->name, "sequence_start") ? &ride->start : &ride->end) = p->boolean;
        }
    }
    if (plan->iterative) {
        ride->start = ride->end = true;
        if (!ride->id.number && !*ride->id.name) ride->id = (struct id){ .number = UINT64_C(1) << 63 | atomic_fetch_add(&unnamed, 1) };
    }
    return ride->id.number || *ride->id.name ? ST_OK : err_set(err, ST_BAD_INPUT, "inference request must specify a non-zero or non-empty correlation ID");
}

static enum status add_controls(const struct sequence_plan *p, struct request *r, const struct sequence_ride *ride, struct request_tensor *to, struct err *err)
{
    for (int k = 0; k < p->control_count; k++) {
        const struct sequence_control *c = &p->controls[k];
        struct request_tensor *t = &to[k];
        t->name = c->name;
        t->tensor = (struct tensor){ .dtype = c->dtype, .rank = p->rows ? 2 : 1, .dims = { 1, 1 } };
        t->tensor.bytes = c->dtype == DT_STRING ? sizeof(struct string_ref) : (uint64_t)dtype_bits(c->dtype) / 8;
        t->tensor.data = arena_alloc(&r->arena, 16, TENSOR_ALIGN);
        if (!t->tensor.data) return err_set(err, ST_NO_MEMORY, "no memory for the sequence's control inputs");
        if (c->kind != CONTROL_ID) memcpy(t->tensor.data, c->values[c->kind == CONTROL_READY || (c->kind == CONTROL_START ? ride->start : ride->end)], 8);
        else if (c->dtype == DT_STRING && !ride->id.text) return err_set(err, ST_BAD_INPUT, "the model takes the sequence_id as text");
        else if (c->dtype != DT_STRING && ride->id.text) return err_set(err, ST_BAD_INPUT, "the model takes the sequence_id as a number");
        else if (c->dtype == DT_STRING) *(struct string_ref *)t->tensor.data = (struct string_ref){ ride->id.name, strlen(ride->id.name) };
        else memcpy(t->tensor.data, &ride->id.number, 8);      /* little-endian: the low bytes are the smaller types */
    }
    return ST_OK;
}

static enum status first_state(struct request *r, const struct carried_state *s, struct request_tensor *to, struct err *err)
{
    *to = (struct request_tensor){ s->input, { .dtype = s->dtype, .rank = s->rank } };
    memcpy(to->tensor.dims, s->dims, sizeof s->dims);
    if (!tensor_bytes(s->dtype, s->dims, s->rank, &to->tensor.bytes)) return err_set(err, ST_BAD_INPUT, "the state '%.60s' is too large", s->input);
    to->tensor.data = arena_alloc(&r->arena, to->tensor.bytes + !to->tensor.bytes, TENSOR_ALIGN);
    if (!to->tensor.data) return err_set(err, ST_NO_MEMORY, "no memory for the state '%.60s'", s->input);
    if (s->first) memcpy(to->tensor.data, s->first, to->tensor.bytes);
    else memset(to->tensor.data, 0, to->tensor.bytes);
    return ST_OK;
}

static bool is_state(const struct sequence_plan *p, const char *output)
{
    for (int k = 0; k < p->state_count; k++)
        if (!strcmp(p->states[k].output, output)) return true;
    return false;
}

/* The client's outputs first, then the states. */
static enum status widen_outputs(const struct sequence_plan *p, struct request *r, struct sequence_ride *ride, const struct signature *s, struct err *err)
{
    const char **wanted = arena_calloc(&r->arena, (uint64_t)(r->wanted_count + s->output_count + p->state_count), sizeof *wanted);
    int n = 0;
    if (!wanted) return err_set(err, ST_NO_MEMORY, "no memory for the sequence's outputs");
    for (int k = 0; k < r->wanted_count; k++)
        if (is_state(p, r->wanted[k])) return err_set(err, ST_BAD_INPUT, "unexpected inference output '%s'", r->wanted[k]);
        else wanted[n++] = r->wanted[k];
    for (int k = 0; !r->wanted_count && k < s->output_count; k++)
        if (!is_state(p, s->outputs[k].name)) wanted[n++] = s->outputs[k].name;
    ride->answers = n;
    for (int k = 0; k < p->state_count; k++) wanted[n++] = p->states[k].output;
    r->wanted = wanted;
    r->wanted_count = n;
    return ST_OK;
}

enum status sequences_prepare(struct sequences *q, struct request *r, const struct signature *s, struct err *err)
{
    const struct sequence_plan *p = q->plan;
    const int extra = p->control_count + p->state_count;
    struct sequence_ride *ride = arena_calloc(&r->arena, 1, sizeof *ride);
    struct request_tensor *inputs = arena_calloc(&r->arena, (uint64_t)(r->input_count + extra) + 1, sizeof *inputs);
    if (!ride || !inputs) return err_set(err, ST_NO_MEMORY, "no memory for the sequence's inputs");
    enum status st = read_parameters(p, r, ride, err);
    if (st) return st;
    if (r->input_count) memcpy(inputs, r->inputs, (size_t)r->input_count * sizeof *inputs);
    ride->first_control = r->input_count;
    ride->first_state = r->input_count + p->control_count;
    st = add_controls(p, r, ride, inputs + ride->first_control, err);
    for (int k = 0; !st && k < p->state_count; k++) st = first_state(r, &p->states[k], &inputs[ride->first_state + k], err);
    if (!st) st = widen_outputs(p, r, ride, s, err);
    if (st) return st;
    r->inputs = inputs;
    r->input_count += extra;
    r->ride = ride;
    return ST_OK;
}

/* ---- coming and going ---- */
/* The sequence's first held request may go. */
static struct request *release_first(struct sequence *s)
{
    struct request *r = s->held_first;
    s->held_first = r->next;
    if (r->next) r->next->previous = NULL;
    else s->held_last = NULL;
    r->next = r->previous = NULL;
    r->ride->held = false;
    s->busy = r;
    return r;
}

/* Sequences that waited get the room that others left. */
static struct request *admit_waiting(struct sequences *q, struct request *ready)
{
    while (q->waiting.first && q->active < q->plan->candidates) {
        struct sequence *s = q->waiting.first;
        list_remove(&q->waiting, s);
        s->active = true;
        q->active++;
        struct request *r = release_first(s);
        r->next = ready;
        ready = r;
    }
    return ready;
}

enum status sequences_enter(struct sequences *q, struct request *r, uint64_t now, bool *ready, struct err *err)
{
    struct sequence_ride *ride = r->ride;
    struct sequence *s = *place_of(q, &ride->id);
    if ((!s || s->ended) && !ride->start) {
        char number[24];
        snprintf(number, sizeof number, "%llu", (unsigned long long)ride->id.number);
        return err_set(err, ST_BAD_INPUT, "inference request for sequence %s must specify the START flag on the first request of the sequence", ride->id.text ? ride->id.name : number);
    }
    if (!s) s = sequence_begin(q, &ride->id, err);
    if (!s) return err->status;
    if (s->active && !s->busy && s->used_ns) list_remove(&q->idle, s);
    s->used_ns = now;
    s->ended = ride->end;
    ride->sequence = s;
    *ready = s->active && !s->busy;
    if (*ready) {
        s->busy = r;
        return ST_OK;
    }
    ride->held = true;
    r->next = NULL;
    r->previous = s->held_last;
    *(s->held_last ? &s->held_last->next : &s->held_first) = r;
    s->held_last = r;
    return ST_OK;
}

struct request *sequences_leave(struct sequences *q, struct request *r, uint64_t now)
{
    struct sequence_ride *ride = r->ride;
    struct sequence *s = ride->sequence;
    if (ride->held) {
        *(r->previous ? &r->previous->next : &s->held_first) = r->next;
        *(r->next ? &r->next->previous : &s->held_last) = r->previous;
        r->next = r->previous = NULL;
        if (s->active || s->held_first) return NULL;
        list_remove(&q->waiting, s);      /* it never began, and nobody waits for it any more */
        sequence_end(q, s);
        return NULL;
    }
    s->busy = NULL;
    s->used_ns = now;
    if (s->held_first) return release_first(s);
    if (ride->end) sequence_end(q, s);
    else list_append(&q->idle, s);
    return admit_waiting(q, NULL);
}

struct request *sequences_sweep(struct sequences *q, uint64_t now, bool closing)
{
    while (q->idle.first && (closing || now - q->idle.first->used_ns >= q->plan->idle_us * 1000)) {
        struct sequence *s = q->idle.first;
        list_remove(&q->idle, s);
        sequence_end(q, s);
    }
    return admit_waiting(q, NULL);
}

uint64_t sequences_next_sweep(const struct sequences *q) { return q->idle.first ? q->idle.first->used_ns + q->plan->idle_us * 1000 : 0; }

/* ---- state ---- */
enum status sequences_dispatch(struct sequences *q, struct request *r, struct err *err)
{
    const struct sequence_ride *ride = r->ride;
    for (int k = 0; k < q->plan->state_count; k++) {
        struct state_value *v = &ride->sequence->states[k];
        struct tensor *t = &r->inputs[ride->first_state + k].tensor;
        if (ride->start) v->tensor.bytes = 0, v->tensor.rank = -1;
        if (ride->start || !v->tensor.data || v->tensor.rank < 0) continue;      /* the first, as prepared */
        if (v->tensor.bytes > t->bytes) {
            void *more = arena_alloc(&r->arena, v->tensor.bytes, TENSOR_ALIGN);
            if (!more) return err_set(err, ST_NO_MEMORY, "no memory for the state '%.60s'", q->plan->states[k].input);
            t->data = more;
        }
        void *data = t->data;
        *t = v->tensor;
        t->data = data;
        memcpy(t->data, v->tensor.data, v->tensor.bytes);
    }
    return ST_OK;
}

enum status sequences_capture(struct sequences *q, struct request *r, struct err *err)
{
    const struct sequence_ride *ride = r->ride;
    for (int k = 0; k < q->plan->state_count; k++) {
        const struct tensor *t = &r->outputs[ride->answers + k].tensor;
        struct state_value *v = &ride->sequence->states[k];
        if (t->bytes > v->room || !v->tensor.data) {
            void *more = mem_alloc_aligned(t->bytes + !t->bytes, TENSOR_ALIGN);
            if (!more) return err_set(err, ST_NO_MEMORY, "no memory for the state '%.60s'", q->plan->states[k].output);
            free(v->tensor.data);
            v->tensor.data = more;
            v->room = t->bytes;
        }
        void *data = v->tensor.data;
        v->tensor = *t;
        v->tensor.data = data;
        memcpy(data, t->data, t->bytes);
    }
    r->output_count = ride->answers;
    return ST_OK;
}
