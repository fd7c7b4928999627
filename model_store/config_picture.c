/* How a picture becomes the input tensor (docs/PICTURES.md). The parameters say what training did to a picture; the shape of the input says
 * the rest, and where both speak they must agree. */
#include "model_store/config_internal.h"

#include <string.h>

#include "base/image.h"

enum { SIDE_MAX = 8192 };

/* "0.5", "-3e-2" or "1/255", surrounded by spaces. */
static bool read_real(const char *text, size_t length, float *out)
{
    const char *end = text + length;
    struct json n;
    double v[2] = { 0, 1 };
    for (int i = 0; i < 2; i++) {
        while (text < end && *text == ' ') text++;
        text = json_number(text, end, &n);
        if (!text || !json_as_double(&n, &v[i])) return false;
        while (text < end && *text == ' ') text++;
        if (text == end) break;
        if (i || *text++ != '/') return false;
    }
    *out = (float)(v[0] / v[1]);
    return *out - *out == 0;           /* neither infinite nor NaN */
}

/* One number for every channel, or three with commas between. */
static bool read_three(const char *text, float out[3])
{
    for (int i = 0; i < 3; i++) {
        size_t n = strcspn(text, ",");
        if (!read_real(text, n, &out[i])) return false;
        text += n;
        if (!*text && i == 0) return out[1] = out[2] = out[0], true;
        if (!*text) return i == 2;
        text++;
    }
    return false;
}

static bool read_side(const char **text, int *out)
{
    int v = 0;
    const char *p = *text;
    while (*p >= '0' && *p <= '9' && v <= SIDE_MAX) v = v * 10 + (*p++ - '0');
    *text = p;
    *out = v;
    return v > 0 && v <= SIDE_MAX;
}

static int index_of(const char *value, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(value, names[i])) return i;
    return -1;
}

static enum status read_one(struct model_config *c, const char *key, const char *value, struct err *err)
{
    static const char *const colors[] = { "rgb", "bgr", "grey", NULL }, *const fits[] = { "stretch", "center_crop", NULL }, *const filters[] = { "nearest", "bilinear", "bicubic", NULL },
                      *const layouts[] = { "nchw", "nhwc", NULL };
    struct picture_config *p = &c->picture;
    const char *at = value;
    int choice;
    if (!strcmp(key, "size")) {
        if (!read_side(&at, &p->width) || *at++ != 'x' || !read_side(&at, &p->height) || *at) return REFUSE("parameter 'picture.size' is '%.40s'; it must be like 224x224 (width x height, at most %d)", value, SIDE_MAX);
    } else if (!strcmp(key, "color")) {
        if ((choice = index_of(value, colors)) < 0) return REFUSE("parameter 'picture.color' is '%.40s'; it must be rgb, bgr or grey", value);
        p->channels = choice == 2 ? 1 : 3;
        p->bgr = choice == 1;
    } else if (!strcmp(key, "fit")) {
        if ((choice = index_of(value, fits)) < 0) return REFUSE("parameter 'picture.fit' is '%.40s'; it must be stretch or center_crop", value);
        p->fit = choice ? PICTURE_CENTER_CROP : PICTURE_STRETCH;
    } else if (!strcmp(key, "shorter")) {
        if (!read_side(&at, &p->shorter) || *at) return REFUSE("parameter 'picture.shorter' is '%.40s'; it must be a number of pixels, at most %d", value, SIDE_MAX);
    } else if (!strcmp(key, "filter")) {
        if ((choice = index_of(value, filters)) < 0) return REFUSE("parameter 'picture.filter' is '%.40s'; it must be nearest, bilinear or bicubic", value);
        p->filter = choice == 0 ? IMAGE_NEAREST : choice == 1 ? IMAGE_BILINEAR : IMAGE_BICUBIC;
    } else if (!strcmp(key, "layout")) {
        if (index_of(value, layouts) < 0) return REFUSE("parameter 'picture.layout' is '%.40s'; it must be nchw or nhwc", value);
    } else if (!strcmp(key, "scale")) {
        if (!read_real(value, strlen(value), &p->scale)) return REFUSE("parameter 'picture.scale' is '%.40s'; it must be a number such as 1 or 1/255", value);
    } else if (!strcmp(key, "mean")) {
        if (!read_three(value, p->mean)) return REFUSE("parameter 'picture.mean' is '%.40s'; it must be one number or three with commas between", value);
    } else if (!strcmp(key, "std")) {
        if (!read_three(value, p->deviation) || !p->deviation[0] || !p->deviation[1] || !p->deviation[2])
            return REFUSE("parameter 'picture.std' is '%.40s'; it must be one number or three with commas between, none of them 0", value);
    } else {
        return REFUSE("there is no parameter 'picture.%.40s' (there are size, color, fit, shorter, filter, scale, mean, std, layout)", key);
    }
    return ST_OK;
}

enum status config_read_picture(struct model_config *c, struct err *err)
{
    struct picture_config *p = &c->picture;
    p->filter = IMAGE_BILINEAR;
    p->scale = 1.0f / 255;
    for (int i = 0; i < 3; i++) p->deviation[i] = 1;
    for (int i = 0; i < c->parameter_count; i++) {
        if (strncmp(c->parameters[i].key, "picture.", 8)) continue;
        p->present = true;
        enum status st = read_one(c, c->parameters[i].key + 8, c->parameters[i].value, err);
        if (st) return st;
    }
    return ST_OK;
}

/* The shape [n,c,h,w] or [n,h,w,c], with or without the n. False when neither fits. */
static bool read_shape(const struct model_config *c, const struct port *in, bool *last, int64_t *channels, int64_t *height, int64_t *width)
{
    const char *layout = model_config_parameter(c, "picture.layout");
    if (in->rank != 3 && in->rank != 4) return false;
    const int64_t *d = in->dims + (in->rank == 4);
    bool first_fits = d[0] == 1 || d[0] == 3 || d[0] < 0, last_fits = d[2] == 1 || d[2] == 3 || d[2] < 0;
    bool sure_last = (d[2] == 1 || d[2] == 3) && !(d[0] == 1 || d[0] == 3);
    *last = layout ? !strcmp(layout, "nhwc") : sure_last;
    if (*last ? !last_fits : !first_fits) return false;
    *channels = *last ? d[2] : d[0];
    *height = *last ? d[0] : d[1];
    *width = *last ? d[1] : d[2];
    return true;
}

enum status config_complete_picture(struct model_config *c, const struct signature *s, struct err *err)
{
    struct picture_config *p = &c->picture;
    int64_t channels, height, width;
    char shape[64];
    if (s->input_count != 1) return p->present ? REFUSE("'picture.' parameters need a model with one input; this one has %d", s->input_count) : ST_OK;
    const struct port *in = &s->inputs[0];
    if (in->dtype != DT_F32) return p->present ? REFUSE("'picture.' parameters need a float32 input; '%.60s' is %s", in->name, dtype_name(in->dtype)) : ST_OK;
    if (!read_shape(c, in, &p->channels_last, &channels, &height, &width))
        return p->present ? REFUSE("input '%.60s' of shape %s is no picture: [n,c,h,w] or [n,h,w,c] with 1 or 3 channels is", in->name, shape_text(in->dims, in->rank < 0 ? 0 : in->rank, shape, sizeof shape)) : ST_OK;
    bool settled = (channels > 0 || p->channels) && (height > 0 || p->height) && (width > 0 || p->width);
    if (!p->present && (!settled || height > SIDE_MAX || width > SIDE_MAX)) return ST_OK;
    if (!settled && channels < 0 && !p->channels) return REFUSE("the number of channels of input '%.60s' is free: 'picture.color' must say it", in->name);
    if (!settled) return REFUSE("the size of input '%.60s' is free: 'picture.size' must say it", in->name);
    if (channels > 0 && p->channels && channels != p->channels) return REFUSE("'picture.color' has %d channels, but input '%.60s' has %lld", p->channels, in->name, (long long)channels);
    if (p->height && ((height > 0 && height != p->height) || (width > 0 && width != p->width)))
        return REFUSE("'picture.size' is %dx%d, but input '%.60s' is %lld wide and %lld high", p->width, p->height, in->name, (long long)width, (long long)height);
    if (height > SIDE_MAX || width > SIDE_MAX) return REFUSE("input '%.60s' is larger than %d pixels", in->name, SIDE_MAX);
    if (!p->channels) p->channels = (int)channels;
    if (!p->height) p->width = (int)width, p->height = (int)height;
    int longer = p->width > p->height ? p->width : p->height;
    if (p->fit == PICTURE_CENTER_CROP && !p->shorter) p->shorter = longer;
    if (p->fit == PICTURE_CENTER_CROP && p->shorter < longer) return REFUSE("'picture.shorter' is %d, less than the %d pixels to be cut out", p->shorter, longer);
    p->usable = true;
    return ST_OK;
}
