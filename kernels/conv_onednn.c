/* oneDNN is not in this build yet. */
#include "kernels/conv_onednn.h"
bool conv_onednn_wanted(const struct conv_spec *s, enum cpu_level level) { (void)s, (void)level; return false; }
enum status conv_onednn_open(struct conv_onednn **out, const struct conv_spec *s, const float *weight, const float *bias, enum cpu_level level, int threads, struct err *err)
{
    (void)out, (void)s, (void)weight, (void)bias, (void)level, (void)threads;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}
void conv_onednn_close(struct conv_onednn *c) { (void)c; }
uint64_t conv_onednn_bytes(const struct conv_onednn *c) { (void)c; return 0; }
const char *conv_onednn_name(const struct conv_onednn *c) { (void)c; return ""; }
enum status conv_onednn_plan_open(struct conv_onednn_plan **out, const struct conv_onednn *c, const struct window2d *w, int threads, struct err *err)
{
    (void)out, (void)c, (void)w, (void)threads;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}
void conv_onednn_plan_close(struct conv_onednn_plan *p) { (void)p; }
uint64_t conv_onednn_plan_scratch(const struct conv_onednn_plan *p) { (void)p; return 0; }
enum status conv_onednn_plan_run(struct conv_onednn_plan *p, float *y, const float *x, const float *residual, void *scratch, struct err *err)
{
    (void)p, (void)y, (void)x, (void)residual, (void)scratch;
    return err_set(err, ST_UNSUPPORTED, "convolution: this build has no oneDNN");
}
