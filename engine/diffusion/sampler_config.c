/* scheduler_config.json: which sampler, and the noise levels it was trained with. */
#include <math.h>
#include <string.h>

#include "engine/diffusion/sampler.h"

static const struct { const char *class; enum image_sampler sampler; } classes[] = {
    { "DDPMScheduler", SAMPLER_DDPM }, { "DDIMScheduler", SAMPLER_DDIM }, { "PNDMScheduler", SAMPLER_PNDM }, { "EulerDiscreteScheduler", SAMPLER_EULER },
    { "EulerAncestralDiscreteScheduler", SAMPLER_EULER_ANCESTRAL }, { "HeunDiscreteScheduler", SAMPLER_HEUN }, { "DPMSolverMultistepScheduler", SAMPLER_DPMPP_2M },
    { "LMSDiscreteScheduler", SAMPLER_LMS }, { "UniPCMultistepScheduler", SAMPLER_UNIPC }, { "LCMScheduler", SAMPLER_LCM }, { "FlowMatchEulerDiscreteScheduler", SAMPLER_FLOW_EULER },
};

static const char *text_of(const struct json *j, const char *key, const char *otherwise)
{
    const struct json *v = json_get(j, key);
    return v && v->type == JSON_STRING ? v->string.text : otherwise;
}

static double real_of(const struct json *j, const char *key, double otherwise)
{
    double v;
    return json_as_double(json_get_value(j, key), &v) ? v : otherwise;
}

static int int_of(const struct json *j, const char *key, int otherwise)
{
    int64_t v;
    return json_as_int64(json_get_value(j, key), &v) && v >= INT32_MIN && v <= INT32_MAX ? (int)v : otherwise;
}

static enum tristate flag_of(const struct json *j, const char *key)
{
    const struct json *v = json_get(j, key);
    return v && v->type == JSON_BOOL ? v->boolean ? YES : NO : UNSET;
}

static bool true_of(const struct json *j, const char *key) { return flag_of(j, key) == YES; }

/* As PyTorch spaces floats: from both ends towards the middle. */
static float linspace(float from, float to, int count, int i)
{
    const float step = count > 1 ? (to - from) / (float)(count - 1) : 0;
    return i < count / 2 ? from + step * (float)i : to - step * (float)(count - 1 - i);
}

static double cosine_bar(double t) { return pow(cos((t + 0.008) / 1.008 * M_PI / 2), 2); }

static enum status fill_betas(struct sampler_config *c, float *betas, const struct json *j, struct err *err)
{
    const char *kind = text_of(j, "beta_schedule", "linear");
    const int n = c->train_steps;
    const bool latent = c->sampler == SAMPLER_LCM;
    const double low = real_of(j, "beta_start", latent ? 0.00085 : 0.0001), high = real_of(j, "beta_end", latent ? 0.012 : 0.02);
    const struct json *trained = json_get_value(j, "trained_betas");
    if (trained) {
        if (trained->type != JSON_ARRAY || trained->list.count != (size_t)n) return err_set(err, ST_BAD_INPUT, "trained_betas is no list of %d numbers", n);
        int i = 0;
        double v;
        for (const struct json *e = trained->list.first; e; e = e->next) betas[i++] = json_as_double(e, &v) ? (float)v : 0;
        return ST_OK;
    }
    if (latent && !json_get(j, "beta_schedule")) kind = "scaled_linear";
    for (int i = 0; i < n; i++) {
        if (!strcmp(kind, "linear")) betas[i] = linspace((float)low, (float)high, n, i);
        else if (!strcmp(kind, "scaled_linear")) {
            betas[i] = linspace((float)sqrt(low), (float)sqrt(high), n, i);
            betas[i] *= betas[i];
        } else if (!strcmp(kind, "squaredcos_cap_v2")) {
            const double b = 1 - cosine_bar((double)(i + 1) / n) / cosine_bar((double)i / n);
            betas[i] = (float)(b < 0.999 ? b : 0.999);
            c->cosine_betas = true;
        } else return err_set(err, ST_UNSUPPORTED, "beta_schedule '%.60s' is not computed", kind);
    }
    return ST_OK;
}

/* Betas whose last step has no picture left at all (rescale_betas_zero_snr). */
static void rescale(float *betas, float *roots, int n)
{
    double product = 1;
    for (int i = 0; i < n; i++) {
        product *= (double)(1 - betas[i]);
        roots[i] = sqrtf((float)product);
    }
    const float first = roots[0], last = roots[n - 1];
    for (int i = 0; i < n; i++) roots[i] = (roots[i] - last) * (first / (first - last));
    for (int i = 0; i < n; i++) roots[i] *= roots[i];
    for (int i = n - 1; i > 0; i--) betas[i] = 1 - roots[i] / roots[i - 1];
    betas[0] = 1 - roots[0];
}

static enum status fill_alphas(struct sampler_config *c, const struct json *j, struct arena *arena, struct err *err)
{
    float *betas = arena_alloc(arena, (uint64_t)c->train_steps * sizeof *betas, 16);
    c->alphas = arena_alloc(arena, (uint64_t)c->train_steps * sizeof *betas, 16);
    if (!betas || !c->alphas) return err_set(err, ST_NO_MEMORY, "a schedule of %d steps", c->train_steps);
    enum status st = fill_betas(c, betas, j, err);
    if (st) return st;
    if (true_of(j, "rescale_betas_zero_snr")) rescale(betas, c->alphas, c->train_steps);
    double product = 1;
    for (int i = 0; i < c->train_steps; i++) {
        product *= (double)(1 - betas[i]);
        c->alphas[i] = (float)product;
    }
    if (true_of(j, "rescale_betas_zero_snr") && c->sampler != SAMPLER_DDIM && c->sampler != SAMPLER_DDPM && c->sampler != SAMPLER_LCM) c->alphas[c->train_steps - 1] = 0x1p-24f;
    return ST_OK;
}

static enum status read_words(struct sampler_config *c, const struct json *j, struct err *err)
{
    static const struct { const char *name; int value; } predictions[] = { { "epsilon", PREDICT_NOISE }, { "v_prediction", PREDICT_VELOCITY }, { "sample", PREDICT_SAMPLE }, { "flow_prediction", PREDICT_FLOW } },
        spacings[] = { { "leading", SPACING_LEADING }, { "trailing", SPACING_TRAILING }, { "linspace", SPACING_LINSPACE } },
        variances[] = { { "fixed_small", VARIANCE_SMALL }, { "fixed_small_log", VARIANCE_SMALL_LOG }, { "fixed_large", VARIANCE_LARGE } };
    const struct { const char *key, *otherwise; const void *list; size_t count; int *out; } words[] = {
        { "prediction_type", "epsilon", predictions, 4, (int *)&c->prediction }, { "timestep_spacing", NULL, spacings, 3, (int *)&c->spacing },
        { "variance_type", c->sampler == SAMPLER_DDPM ? "fixed_small" : NULL, variances, 3, (int *)&c->variance },
    };
    for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
        const char *text = text_of(j, words[w].key, words[w].otherwise);
        const struct { const char *name; int value; } *list = words[w].list;
        size_t i = 0;
        if (!text || (c->sampler == SAMPLER_FLOW_EULER && w == 0)) continue;
        while (i < words[w].count && strcmp(list[i].name, text)) i++;
        if (i == words[w].count) return err_set(err, ST_UNSUPPORTED, "%s '%.60s' is not computed", words[w].key, text);
        *words[w].out = list[i].value;
    }
    return ST_OK;
}

static void read_numbers(struct sampler_config *c, const struct json *j)
{
    const char *solver = text_of(j, "solver_type", "");
    const struct json *off = json_get(j, "disable_corrector");
    int64_t first = -1;
    c->steps_offset = int_of(j, "steps_offset", 0);
    c->clip_sample = flag_of(j, "clip_sample");
    c->set_alpha_to_one = flag_of(j, "set_alpha_to_one");
    c->skip_prk_steps = flag_of(j, "skip_prk_steps");
    c->lower_order_final = flag_of(j, "lower_order_final");
    c->euler_at_final = flag_of(j, "euler_at_final");
    c->clip_range = real_of(j, "clip_sample_range", 1);
    c->final_sigma_min = !strcmp(text_of(j, "final_sigmas_type", "zero"), "sigma_min");
    c->sigma_min = real_of(j, "sigma_min", -1);
    c->sigma_max = real_of(j, "sigma_max", -1);
    c->solver_order = int_of(j, "solver_order", 2);
    c->heun_solver = !strcmp(solver, "heun");
    c->bh1 = !strcmp(solver, "bh1");
    c->disable_corrector_first = off && off->type == JSON_ARRAY && off->list.first && json_as_int64(off->list.first, &first) && first == 0;
    c->original_steps = int_of(j, "original_inference_steps", 50);
    c->timestep_scaling = real_of(j, "timestep_scaling", 10);
    c->log_interpolation = !strcmp(text_of(j, "interpolation_type", "linear"), "log_linear");
    c->continuous_v = !strcmp(text_of(j, "timestep_type", "discrete"), "continuous") && c->prediction == PREDICT_VELOCITY;
    c->schedule = true_of(j, "use_karras_sigmas") ? SCHEDULE_KARRAS : true_of(j, "use_exponential_sigmas") ? SCHEDULE_EXPONENTIAL : SCHEDULE_DISCRETE;
    c->flow = c->sampler == SAMPLER_FLOW_EULER || true_of(j, "use_flow_sigmas");
    c->shift = real_of(j, c->sampler == SAMPLER_FLOW_EULER ? "shift" : "flow_shift", 1);
    c->dynamic_shift = true_of(j, "use_dynamic_shifting");
    c->linear_shift = !strcmp(text_of(j, "time_shift_type", "exponential"), "linear");
    c->stochastic = true_of(j, "stochastic_sampling");
    c->shift_terminal = real_of(j, "shift_terminal", 0);
    c->base_shift = real_of(j, "base_shift", 0.5);
    c->max_shift = real_of(j, "max_shift", 1.15);
    c->base_tokens = int_of(j, "base_image_seq_len", 256);
    c->max_tokens = int_of(j, "max_image_seq_len", 4096);
    if (c->sampler == SAMPLER_FLOW_EULER) c->prediction = PREDICT_FLOW;
}

enum status sampler_config_read(struct sampler_config *c, const struct json *j, struct arena *arena, struct err *err)
{
    static const char *const refused[] = { "thresholding", "use_beta_sigmas", "use_lu_lambdas", "invert_sigmas", "class_embeddings_concat" };
    const char *class = text_of(j, "_class_name", ""), *algorithm = text_of(j, "algorithm_type", "dpmsolver++");
    size_t i = 0;
    *c = (struct sampler_config){ .train_steps = int_of(j, "num_train_timesteps", 1000) };
    while (i < sizeof classes / sizeof classes[0] && strcmp(classes[i].class, class)) i++;
    if (i == sizeof classes / sizeof classes[0]) return err_set(err, ST_UNSUPPORTED, "schedulers of the class '%.60s' are not computed", class);
    c->sampler = classes[i].sampler;
    if (c->train_steps < 2 || c->train_steps > TRAIN_STEPS_MAX) return err_set(err, ST_BAD_INPUT, "num_train_timesteps is %d; 2 to %d make sense", c->train_steps, TRAIN_STEPS_MAX);
    for (i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (true_of(j, refused[i])) return err_set(err, ST_UNSUPPORTED, "%s is not computed", refused[i]);
    if (flag_of(j, "predict_x0") == NO) return err_set(err, ST_UNSUPPORTED, "predict_x0 false is not computed");
    if (c->sampler == SAMPLER_DPMPP_2M) {
        c->sde = !strcmp(algorithm, "sde-dpmsolver++");
        if (!c->sde && strcmp(algorithm, "dpmsolver++") && strcmp(algorithm, "deis")) return err_set(err, ST_UNSUPPORTED, "algorithm_type '%.60s' is not computed", algorithm);
        if (c->sde) c->sampler = SAMPLER_DPMPP_2M_SDE;
    }
    enum status st = read_words(c, j, err);
    if (st) return st;
    read_numbers(c, j);
    if (c->solver_order < 1 || c->solver_order > 3 || c->original_steps < 1 || c->original_steps > c->train_steps || !(c->clip_range > 0) || !(c->shift > 0))
        return err_set(err, ST_BAD_INPUT, "scheduler_config.json: solver_order, original_inference_steps, clip_sample_range or shift is out of range");
    return fill_alphas(c, j, arena, err);
}
