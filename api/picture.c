#include "api/picture.h"

#include "base/checked.h"

enum { PICTURES_MAX = 256 };

/* Resizes and cuts to exactly width x height. `in` is freed in every case. */
static enum status fit(struct image *out, struct image *in, const struct picture_config *p, struct err *err)
{
    enum status st;
    if (p->fit == PICTURE_STRETCH) {
        st = image_resize(out, in, p->width, p->height, (enum image_filter)p->filter, err);
        image_free(in);
        return st;
    }
    int shorter = p->shorter > 0 ? p->shorter : p->width < p->height ? p->width : p->height;
    int64_t w = in->width, h = in->height, wide = w < h ? shorter : shorter * w / h, high = w < h ? shorter * h / w : shorter;
    struct image scaled;
    if (wide > 16384 || high > 16384) {
        image_free(in);
        return err_set(err, ST_BAD_INPUT, "the picture is too long and thin: %lld x %lld", (long long)w, (long long)h);
    }
    st = image_resize(&scaled, in, (int)(wide > 0 ? wide : 1), (int)(high > 0 ? high : 1), (enum image_filter)p->filter, err);
    image_free(in);
    if (st) return st;
    st = image_crop(out, &scaled, (scaled.width - p->width) / 2, (scaled.height - p->height) / 2, p->width, p->height, err);
    image_free(&scaled);
    return st;
}

static void normalise(float *out, const struct image *i, const struct picture_config *p)
{
    int64_t plane = (int64_t)p->width * p->height, c = p->channels;
    for (int64_t at = 0; at < plane; at++)
        for (int64_t k = 0; k < c; k++) {
            int64_t from = p->bgr && c == 3 ? 2 - k : k;
            float v = ((float)i->pixels[at * c + from] * p->scale - p->mean[k]) / p->deviation[k];
            out[p->channels_last ? at * c + k : k * plane + at] = v;
        }
}

static enum status one(float *out, const struct picture_config *p, const char *bytes, size_t length, struct err *err)
{
    struct image decoded, fitted;
    enum status st = image_decode(&decoded, (const uint8_t *)bytes, length, p->channels, NULL, err);
    if (!st) st = fit(&fitted, &decoded, p, err);
    if (st) return st;
    normalise(out, &fitted, p);
    image_free(&fitted);
    return ST_OK;
}

static enum status shape(struct tensor *t, int64_t n, const struct picture_config *p, struct request *r, struct err *err)
{
    *t = (struct tensor){ .dtype = DT_F32, .rank = 4, .dims = { n, p->channels, p->height, p->width } };
    if (p->channels_last) t->dims[1] = p->height, t->dims[2] = p->width, t->dims[3] = p->channels;
    if (!tensor_bytes(DT_F32, t->dims, 4, &t->bytes)) return err_set(err, ST_TOO_LARGE, "too many pictures in one request");
    t->data = arena_alloc(&r->arena, t->bytes, TENSOR_ALIGN);
    return t->data ? ST_OK : err_set(err, ST_TOO_LARGE, "%lld pictures are over the request's memory budget", (long long)n);
}

enum status picture_bytes_to_tensor(struct tensor *t, const struct picture_config *p, struct request *r, const char *bytes, size_t length, struct err *err)
{
    enum status st = shape(t, 1, p, r, err);
    return st ? st : one(t->data, p, bytes, length, err);
}

enum status picture_to_tensor(struct tensor *t, const struct picture_config *p, struct request *r, const char *name, struct err *err)
{
    struct tensor in = *t;
    uint64_t n;
    if (!shape_count(in.dims, in.rank, &n) || n < 1 || n > PICTURES_MAX || in.rank > 2 || (in.rank == 2 && in.dims[1] != 1))
        return err_set(err, ST_BAD_INPUT, "input '%s' takes pictures as BYTES of shape [n] or [n,1], n from 1 to %d", name, PICTURES_MAX);
    enum status st = shape(t, (int64_t)n, p, r, err);
    uint64_t each = (uint64_t)p->width * (uint64_t)p->height * (uint64_t)p->channels;
    for (uint64_t i = 0; i < n && !st; i++) {
        const struct string_ref *s = &((const struct string_ref *)in.data)[i];
        st = one((float *)t->data + i * each, p, s->text, s->length, err);
        if (st) err_prefix(err, "picture %llu of input '%s'", (unsigned long long)i, name);
    }
    return st;
}
