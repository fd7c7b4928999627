/* The OpenAI dialect of pictures: generations (JSON), edits and variations (forms) -> struct image_job, pictures -> bytes, in one piece or as server-sent events. Pure: no
 * sockets, no threads. Beside OpenAI's fields: seed, steps, guidance_scale, negative_prompt, sampler, schedule, strength, eta, and `progress`: a stream then
 * has an event after every step. Fields that mean nothing here (quality, style,
 * moderation, user, input_fidelity) are ignored. response_format "url" gives data: addresses. */
#ifndef API_OPENAI_IMAGES_H
#define API_OPENAI_IMAGES_H

#include "base/buf.h"
#include "base/json.h"
#include "engine/image_job.h"
#include "engine/request.h"
#include "model_store/registry.h"

enum images_kind { IMAGES_GENERATE, IMAGES_EDIT, IMAGES_VARY };

struct form_part;

struct images_ask {
    enum images_kind  kind;
    char              id[32];
    int64_t           created;             /* seconds */
    bool              has_job;
    bool              stream, urls;
    enum image_format format;
    int               quality;             /* of the encoder */
    const char       *said_quality;        /* the field, echoed: "low", "medium", "high"; else "auto" */
    struct image_job  job;
    struct image      image, mask;
    int               seen[IMAGE_PICTURES_MAX];         /* partial pictures of each that were streamed */
    int               seen_step;           /* of the last event of progress */
    const char       *parameter, *code;    /* after a failure: the field at fault, OpenAI's code; or NULL */
};

/* What a request says: a JSON object, or the parts of a form. One of both. */
struct images_fields { const struct json *root; const struct form_part *parts; int part_count; };
/* The field "model"; false: there is none. */
bool        images_model(const struct images_fields *f, const char **name, size_t *length);

/* Fills *a and hangs its job on r; texts stay in the request's body or arena. images_close gives the rest back. `now` is wall-clock seconds. */
enum status images_read(struct images_ask *a, enum images_kind kind, struct request *r, const struct images_fields *f, const struct model_version *v, int64_t now, struct err *err);
void        images_close(struct images_ask *a);

/* The whole answer of a request that is done. Encoding takes its time: not on a listener's thread. */
enum status images_write(struct buf *out, const struct images_ask *a, const struct model_version *v, struct err *err);
/* Appends the events that are new; the same holds. `finished`: the request is over (with `failure`, or done). */
void        images_stream(struct buf *out, struct images_ask *a, const struct model_version *v, bool finished, const struct err *failure);

#endif
