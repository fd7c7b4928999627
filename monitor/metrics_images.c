#include "monitor/metrics_images.h"

#include "engine/image_ops.h"
#include "monitor/page.h"

static void *stats_of(const struct model_version *v) { return v->ops->image ? v->ops->image->stats(v->engine) : NULL; }

#define FIELD(member) offsetof(struct image_stats, member)
static const struct page_field fields[] = {
    { PAGE_GAUGE, "inferd_image_requests_running", "Requests for pictures in flight", FIELD(running) },
    { PAGE_COUNTER, "inferd_images_total", "Pictures drawn and decoded", FIELD(pictures) },
    { PAGE_COUNTER, "inferd_image_steps_total", "Steps, each picture of a request counted", FIELD(steps) },
    { PAGE_COUNTER, "inferd_image_rows_total", "Rows of the network's calls: a guided picture is two in each", FIELD(rows) },
    { PAGE_HISTOGRAM, "inferd_image_call_seconds", "One call of the network, which moves the pictures of several requests", FIELD(call) },
    { PAGE_HISTOGRAM, "inferd_image_text_seconds", "From admission until a request's texts and picture were encoded", FIELD(reading) },
    { PAGE_HISTOGRAM, "inferd_image_denoise_seconds", "From a request's first call to its last", FIELD(denoising) },
    { PAGE_HISTOGRAM, "inferd_image_decode_seconds", "From a request's last call until its pictures were decoded", FIELD(decoding) },
};

void metrics_write_images(struct buf *out, struct model_version *const *versions, int count)
{
    bool any = false;
    for (int k = 0; k < count; k++) any = any || stats_of(versions[k]);
    if (any) page_fields(out, fields, sizeof fields / sizeof fields[0], PAGE_TRITON, stats_of, versions, count);
}
