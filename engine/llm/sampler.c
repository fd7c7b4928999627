#include "engine/llm/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

struct candidate { int32_t token; float logit, p; };

struct sampler {
    int               vocabulary;
    struct candidate *list;
    uint16_t         *seen;        /* [vocabulary] how often in the window; cleared after use */
    float            *own;         /* [vocabulary] logits before anything touched them */
    float            *p;           /* [vocabulary] probabilities */
    double           *shares;      /* what each SHARE of them add up to */
    void            (*softmax)(float *y, const float *x, int64_t rows, int64_t columns, int threads);
};

enum { SHARE = 256 };

enum status sampler_open(struct sampler **out, int vocabulary, const struct kernels *kernels, struct err *err)
{
    struct sampler *s = mem_calloc_array(1, sizeof *s);
    if (s) {
        s->vocabulary = vocabulary;
        s->list = mem_alloc_array((uint64_t)vocabulary, sizeof *s->list);
        s->seen = mem_calloc_array((uint64_t)vocabulary, sizeof *s->seen);
        s->own = mem_alloc_array((uint64_t)vocabulary, sizeof *s->own);
        s->p = mem_alloc_array((uint64_t)vocabulary, sizeof *s->p);
        s->shares = mem_alloc_array((uint64_t)(vocabulary + SHARE - 1) / SHARE, sizeof *s->shares);
        s->softmax = kernels->softmax_f32;
    }
    if (!s || !s->list || !s->seen || !s->own || !s->p || !s->shares) {
        sampler_close(s);
        return err_set(err, ST_NO_MEMORY, "a sampler for %d tokens", vocabulary);
    }
    *out = s;
    return ST_OK;
}

void sampler_close(struct sampler *s)
{
    if (!s) return;
    free(s->list);
    free(s->seen);
    free(s->own);
    free(s->p);
    free(s->shares);
    free(s);
}

/* A number in [0, 1) from what it stands for (splitmix64's finaliser over each part). */
static double uniform(uint64_t seed, uint32_t choice, uint32_t index, uint32_t use)
{
    uint64_t parts[3] = { seed, (uint64_t)choice << 32 | index, use }, x = 0;
    for (int i = 0; i < 3; i++) {
        x += parts[i] + 0x9e3779b97f4a7c15u;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
        x = (x ^ x >> 27) * 0x94d049bb133111ebu;
        x ^= x >> 31;
    }
    return (double)(x >> 11) * 0x1p-53;
}

/* ---- what the text so far does to the logits ---- */
static int window_start(const struct sampler_past *p, int window) { return window < 0 || window > p->count ? 0 : p->count - window; }

static void penalise(struct sampler *s, float *logits, const struct sampler_question *q)
{
    const struct sampling *h = q->how;
    const struct sampler_past *p = &q->past;
    int from = window_start(p, h->penalty_window);
    if (h->repetition_penalty != 1) {
        for (int i = from; i < p->count; i++) {
            int32_t t = p->tokens[i];
            if (s->seen[t]) continue;
            s->seen[t] = 1;
            logits[t] = logits[t] > 0 ? logits[t] / h->repetition_penalty : logits[t] * h->repetition_penalty;
        }
        for (int i = from; i < p->count; i++) s->seen[p->tokens[i]] = 0;
    }
    if (h->presence_penalty == 0 && h->frequency_penalty == 0) return;
    for (int i = p->prompt; i < p->count; i++)
        if (s->seen[p->tokens[i]] < UINT16_MAX) s->seen[p->tokens[i]]++;
    for (int i = p->prompt; i < p->count; i++) {
        int32_t t = p->tokens[i];
        if (s->seen[t]) logits[t] -= h->presence_penalty + h->frequency_penalty * (float)s->seen[t];
        s->seen[t] = 0;
    }
}

/* DRY: a token that would make the end of the text repeat an earlier stretch of at least `allowed` tokens is made less likely, the more the longer. */
static void penalise_repeats(float *logits, const struct sampler_question *q)
{
    const struct sampling *h = q->how;
    const int32_t *t = q->past.tokens;
    int n = q->past.count, from = window_start(&q->past, h->dry_window);
    enum { LONGEST = 64 };
    int reach = 0;
    while (reach < LONGEST && n - 1 - reach >= from && !(q->breaks && q->breaks(q->breaks_context, t[n - 1 - reach]))) reach++;
    if (reach < h->dry_allowed_length) return;
    for (int e = from; e < n - 1; e++) {         /* t[e] as the end of the earlier stretch, t[e + 1] what followed it */
        int length = 0;
        while (length < reach && e - length >= from && t[e - length] == t[n - 1 - length]) length++;
        if (length < h->dry_allowed_length) continue;
        float penalty = h->dry_multiplier * powf(h->dry_base, (float)(length - h->dry_allowed_length));
        bool again = false;                      /* the longest stretch before the same token counts */
        for (int o = e + 1; o < n - 1 && !again; o++) {
            if (t[o + 1] != t[e + 1]) continue;
            int other = 0;
            while (other < reach && o - other >= from && t[o - other] == t[n - 1 - other]) other++;
            again = other >= length;
        }
        for (int o = from; o < e && !again; o++) {
            if (t[o + 1] != t[e + 1]) continue;
            int other = 0;
            while (other < reach && o - other >= from && t[o - other] == t[n - 1 - other]) other++;
            again = other > length;
        }
        if (!again) logits[t[e + 1]] -= penalty;
    }
}

static void forbid(struct sampler *s, float *logits, const struct sampler_question *q)
{
    if (q->mask)
        for (int t = 0; t < s->vocabulary; t++)
            if (!(q->mask[t / 32] >> t % 32 & 1)) logits[t] = -INFINITY;
    for (int i = 0; i < q->banned_count; i++)
        if (q->banned[i] >= 0 && q->banned[i] < s->vocabulary) logits[q->banned[i]] = -INFINITY;
}

/* ---- candidates ---- */
static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : x->token > y->token;
}

/* The `n` most likely candidates come first (in any order): quickselect. */
static void select_top(struct candidate *list, int count, int n)
{
    int low = 0, high = count - 1;
    while (low < high) {
        struct candidate pivot = list[low + (high - low) / 2];
        int i = low, k = high;
        while (i <= k) {
            while (by_logit(&list[i], &pivot) < 0) i++;
            while (by_logit(&list[k], &pivot) > 0) k--;
            if (i > k) break;
            struct candidate x = list[i];
            list[i++] = list[k];
            list[k--] = x;
        }
        if (n - 1 <= k) high = k;
        else if (n - 1 >= i) low = i;
        else return;
    }
}

static double set_probabilities(struct candidate *list, int n, float top)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        list[i].p = expf(list[i].logit - top);
        sum += (double)list[i].p;
    }
    return sum;
}

static void normalise(struct candidate *list, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)list[i].p;
    for (int i = 0; i < n; i++) list[i].p = (float)((double)list[i].p / sum);
}

/* Sorts as much of the list as holds the share `p` of the probability; returns how many that is. sum: what the list's own probabilities are shares of; 0: they are not set. */
static int sort_share(struct candidate *list, int n, float p, double sum)
{
    float top = list[0].logit;
    for (int i = 1; i < n; i++) top = list[i].logit > top ? list[i].logit : top;
    if (sum == 0) sum = set_probabilities(list, n, top);
    for (int take = 64;; take *= 8) {
        int m = take < n ? take : n;
        if (m < n) select_top(list, n, m);
        qsort(list, (size_t)m, sizeof *list, by_logit);
        double share = 0;
        for (int i = 0; i < m; i++) {
            share += (double)list[i].p / sum;
            if (share >= (double)p) return i + 1;
        }
        if (m == n) return n;
    }
}

/* Sorted by how near a token's surprise is to the expected one, cut at the share p. */
static int by_p(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

static int cut_typical(struct candidate *list, int n, float p)
{
    float top = list[0].logit;
    for (int i = 1; i < n; i++) top = list[i].logit > top ? list[i].logit : top;
    double sum = set_probabilities(list, n, top), entropy = 0, share = 0, log_sum = log(sum);
    for (int i = 0; i < n; i++) {
        double q = (double)list[i].p / sum;
        if (q > 0) entropy -= q * ((double)(list[i].logit - top) - log_sum);
    }
    for (int i = 0; i < n; i++) list[i].p = (float)fabs(-((double)(list[i].logit - top) - log_sum) - entropy);
    qsort(list, (size_t)n, sizeof *list, by_p);
    for (int i = 0; i < n; i++) {
        share += exp((double)(list[i].logit - top) - log_sum);
        if (share >= (double)p) return i + 1;
    }
    return n;
}

static int cut_sigma(struct candidate *list, int n, float sigmas)
{
    double mean = 0, squares = 0;
    float top = -INFINITY;
    int finite = 0, kept = 0;
    for (int i = 0; i < n; i++) {
        if (list[i].logit > top) top = list[i].logit;
        mean += (double)list[i].logit;
        finite++;
    }
    mean /= finite;
    for (int i = 0; i < n; i++) squares += ((double)list[i].logit - mean) * ((double)list[i].logit - mean);
    float least = top - sigmas * (float)sqrt(squares / finite);
    for (int i = 0; i < n; i++)
        if (list[i].logit >= least) list[kept++] = list[i];
    return kept;
}

/* XTC: of the tokens above the threshold only the least likely stays. The list is sorted here. */
static int cut_xtc(struct candidate *list, int n, const struct sampler_question *q)
{
    qsort(list, (size_t)n, sizeof *list, by_logit);
    set_probabilities(list, n, list[0].logit);
    normalise(list, n);
    int above = 0;
    while (above < n && list[above].p >= q->how->xtc_threshold) above++;
    if (above < 2 || uniform(q->seed, q->choice, q->index, 1) >= (double)q->how->xtc_probability) return n;
    memmove(list, list + above - 1, (size_t)(n - above + 1) * sizeof *list);
    return n - above + 1;
}

/* sum: as sort_share takes it */
static int cut(struct candidate *list, int n, const struct sampler_question *q, double sum)
{
    const struct sampling *h = q->how;
    if (h->top_n_sigma > 0) n = cut_sigma(list, n, h->top_n_sigma);
    if (h->top_k > 0 && h->top_k < n) {
        select_top(list, n, h->top_k);
        n = h->top_k;
    }
    if (h->typical_p < 1) n = cut_typical(list, n, h->typical_p);
    if (h->top_p < 1) n = sort_share(list, n, h->top_p, sum);
    if (h->min_p > 0) {
        float top = list[0].logit;
        int kept = 0;
        for (int i = 1; i < n; i++) top = list[i].logit > top ? list[i].logit : top;
        for (int i = 0; i < n; i++)
            if (expf(list[i].logit - top) >= h->min_p) list[kept++] = list[i];
        n = kept;
    }
    if (h->xtc_probability > 0 && n > 1) n = cut_xtc(list, n, q);
    return n;
}

static int32_t draw(struct candidate *list, int n, const struct sampler_question *q, float *p)
{
    float top = list[0].logit;
    for (int i = 1; i < n; i++) top = list[i].logit > top ? list[i].logit : top;
    double sum = set_probabilities(list, n, top), at = uniform(q->seed, q->choice, q->index, 0) * sum;
    int i = 0;
    for (; i < n - 1; i++) {
        at -= (double)list[i].p;
        if (at < 0) break;
    }
    *p = (float)((double)list[i].p / sum);
    return list[i].token;
}

/* Mirostat: the number of candidates (1) or the largest surprise allowed (2) follows the surprise of what was drawn. */
static int32_t draw_mirostat(struct candidate *list, int n, const struct sampler_question *q, struct sampler_state *state)
{
    const struct sampling *h = q->how;
    if (!state->mu_set) {
        state->mu = 2 * h->mirostat_tau;
        state->mu_set = true;
    }
    qsort(list, (size_t)n, sizeof *list, by_logit);
    set_probabilities(list, n, list[0].logit);
    normalise(list, n);
    int keep = 1;
    if (h->mirostat == 1) {
        enum { ESTIMATE = 100 };
        double ratio = 0, square = 0;
        for (int i = 0; i < ESTIMATE - 1 && i + 1 < n && list[i + 1].p > 0; i++) {
            double b = log((double)(i + 2) / (i + 1));
            ratio += b * log((double)list[i].p / (double)list[i + 1].p);
            square += b * b;
        }
        double s = square > 0 ? ratio / square : 1, e = s - 1;
        double k = fabs(e) < 1e-9 ? n : pow(e * exp2((double)state->mu) / (1 - pow((double)n, -e)), 1 / s);
        keep = k >= n ? n : k < 1 || k != k ? 1 : (int)k;
    } else {
        while (keep < n && -log2f(list[keep].p) <= state->mu) keep++;
    }
    float p;
    int32_t token = draw(list, keep, q, &p);
    state->mu -= h->mirostat_eta * (-log2f(p) - h->mirostat_tau);
    return token;
}

/* ---- log-probabilities of the model's own distribution ---- */
static double log_sum_exp(const float *x, int n)
{
    float top = x[0];
    for (int i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)expf(x[i] - top);
    return (double)top + log(sum);
}

static void find_alternatives(const float *logits, int n, double lse, int wanted, struct text_token *t)
{
    t->top_count = 0;
    for (int i = 0; i < n && wanted > 0; i++) {
        float l = (float)((double)logits[i] - lse);
        if (t->top_count == wanted && l <= t->top[wanted - 1].logprob) continue;
        int at = t->top_count < wanted ? t->top_count++ : wanted - 1;
        while (at > 0 && t->top[at - 1].logprob < l) {
            t->top[at] = t->top[at - 1];
            at--;
        }
        t->top[at] = (struct text_top){ i, l };
    }
}

void sampler_look(const float *logits, int vocabulary, int32_t token, int wanted, struct text_token *t)
{
    double lse = log_sum_exp(logits, vocabulary);
    *t = (struct text_token){ .token = token, .logprob = (float)((double)logits[token] - lse) };
    find_alternatives(logits, vocabulary, lse, wanted, t);
}

static int32_t argmax(const float *x, int n)
{
    int best = -1;
    for (int i = 0; i < n; i++)
        if (x[i] > -INFINITY && (best < 0 || x[i] > x[best])) best = i;
    return best;
}

static bool changes_logits(const struct sampler_question *q)
{
    const struct sampling *h = q->how;
    return h->repetition_penalty != 1 || h->presence_penalty != 0 || h->frequency_penalty != 0 || h->dry_multiplier > 0 || q->bias_count || q->mask || q->banned_count;
}

/* s->p: of every token; none is a number when all are forbidden or the logits are none. */
static void all_probabilities(struct sampler *s, const float *logits, float scale)
{
    for (int i = 0; i < s->vocabulary; i++) s->p[i] = logits[i] * scale;
    s->softmax(s->p, s->p, 1, s->vocabulary, 1);
}

/* From the whole vocabulary: no list, and only the shares before the one that holds the token are passed. */
static int32_t draw_any(struct sampler *s, const struct sampler_question *q)
{
    const int n = s->vocabulary, blocks = (n + SHARE - 1) / SHARE;
    double total = 0;
    for (int b = 0; b < blocks; b++) {
        const float *p = s->p + b * SHARE;
        const int m = n - b * SHARE < SHARE ? n - b * SHARE : SHARE;
        double sums[4] = { 0 };
        int i = 0;
        for (; i + 4 <= m; i += 4)
            for (int k = 0; k < 4; k++) sums[k] += (double)p[i + k];
        for (; i < m; i++) sums[0] += (double)p[i];
        s->shares[b] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        total += s->shares[b];
    }
    if (!(total > 0)) return -1;
    double at = uniform(q->seed, q->choice, q->index, 0) * total;
    int b = 0, token = -1;
    for (; b < blocks - 1 && at >= s->shares[b]; b++) at -= s->shares[b];
    for (int i = b * SHARE; i < n && (at >= 0 || token < 0); i++) {
        if (s->p[i] <= 0) continue;
        token = i;
        at -= (double)s->p[i];
    }
    for (int i = b * SHARE - 1; i >= 0 && token < 0; i--)      /* rounding left nothing behind the last share */
        if (s->p[i] > 0) token = i;
    return token;
}

/* The candidates that the cuts may leave, at least; returns their number. *sum: what their probabilities are shares of, or 0 where those are not set.
 * Top-k alone needs the k most likely: the list is halved whenever it is twice as long, and of equal logits the first stay. Top-p alone needs none of the tokens of which all that there can be
 * do not reach 1 - p together. */
static int list_candidates(struct sampler *s, const float *logits, float scale, const struct sampling *h, double *sum)
{
    const int n = s->vocabulary;
    const bool plain = !(h->top_n_sigma > 0) && !h->mirostat, top_k = plain && h->top_k > 0 && h->top_k < n / 2, top_p = plain && !(h->top_k > 0) && !(h->typical_p < 1) && h->top_p < 1;
    int count = 0;
    *sum = 0;
    if (top_p) {
        all_probabilities(s, logits, scale);
        const float least = (1 - h->top_p) / (float)n;
        for (int i = 0; i < n; i++)
            if (s->p[i] >= least && s->p[i] > 0) s->list[count++] = (struct candidate){ i, logits[i] * scale, s->p[i] };
        *sum = 1;
        return count;
    }
    float least = -INFINITY;
    for (int i = 0; i < n; i++) {
        const float l = logits[i] * scale;
        if (!(l > least)) continue;
        s->list[count++] = (struct candidate){ i, l, 0 };
        if (!top_k || count < 2 * h->top_k) continue;
        select_top(s->list, count, h->top_k);
        count = h->top_k;
        least = s->list[0].logit;
        for (int k = 1; k < count; k++) least = s->list[k].logit < least ? s->list[k].logit : least;
    }
    return count;
}

static bool cuts(const struct sampling *h) { return h->mirostat || h->top_n_sigma > 0 || h->top_k > 0 || h->typical_p < 1 || h->top_p < 1 || h->min_p > 0 || h->xtc_probability > 0; }

static int32_t pick(struct sampler *s, const float *logits, const struct sampler_question *q, struct sampler_state *state)
{
    float scale = q->how->temperature > 0 ? 1 / q->how->temperature : 1, p;
    double sum;
    if (q->how->temperature == 0 && !q->how->mirostat) return argmax(logits, s->vocabulary);
    if (!cuts(q->how)) {
        all_probabilities(s, logits, scale);
        return draw_any(s, q);
    }
    int count = list_candidates(s, logits, scale, q->how, &sum);
    if (count == 0) return -1;
    if (q->how->mirostat) return draw_mirostat(s->list, count, q, state);
    return draw(s->list, cut(s->list, count, q, sum), q, &p);
}

enum status sampler_draw(struct sampler *s, float *logits, const struct sampler_question *q, struct sampler_state *state, struct text_token *t, struct err *err)
{
    const float *own = logits;
    double lse = 0;
    *t = (struct text_token){ .token = -1, .logprob = NAN };
    if (q->logprobs >= 0) {
        lse = log_sum_exp(logits, s->vocabulary);
        find_alternatives(logits, s->vocabulary, lse, q->logprobs, t);
        if (changes_logits(q)) own = memcpy(s->own, logits, (size_t)s->vocabulary * sizeof *logits);
    }
    penalise(s, logits, q);
    if (q->how->dry_multiplier > 0) penalise_repeats(logits, q);
    for (int i = 0; i < q->bias_count; i++) logits[q->bias[i].token] += q->bias[i].bias;
    forbid(s, logits, q);
    t->token = pick(s, logits, q, state);
    if (t->token < 0) return err_set(err, ST_INTERNAL, "no token can follow: all are forbidden, or the model's output is no number");
    if (q->logprobs >= 0) t->logprob = (float)((double)own[t->token] - lse);
    return ST_OK;
}
