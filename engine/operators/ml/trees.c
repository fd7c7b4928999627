/* Tree ensembles: TreeEnsembleRegressor, TreeEnsembleClassifier and TreeEnsemble of opset 5. The attributes are turned into one form once for each plan:
 * nodes whose branches are node numbers or, below 0, leaves (~leaf); a leaf is a run of (target, weight). A walk never takes more steps than there are nodes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "engine/operators/ml/ml.h"
#include "engine/operators/numbers.h"
#include "engine/operators/reals.h"

enum branch { B_LEQ, B_LT, B_GTE, B_GT, B_EQ, B_NEQ, B_MEMBER, B_LEAF };
enum aggregate { A_AVERAGE, A_SUM, A_MIN, A_MAX };
enum ensemble { E_REGRESSOR, E_CLASSIFIER, E_PLAIN };

struct split { double value; int64_t feature, yes, no, member; uint8_t how; bool missing_yes; };
struct weight { int64_t target; double value; };
struct leaf { int64_t from, count; };
struct trees {
    struct split *splits; int64_t split_count;
    struct leaf *leaves; int64_t leaf_count;
    struct weight *weights; int64_t weight_count;
    int64_t *roots, root_count, targets;
    double *members; int64_t member_count;
    enum aggregate how;
    enum ml_transform transform;
    bool all_positive, one_class;       /* classifiers: no weight below 0; all weights are of one class */
};

static void release_trees(void *state)
{
    struct trees *t = state;
    free(t->splits);
    free(t->leaves);
    free(t->weights);
    free(t->roots);
    free(t->members);
    free(t);
}

static enum status wrong(const struct call *c, struct err *err, const char *what) { return call_error(c, err, ST_BAD_INPUT, "its trees are malformed: %s", what); }

/* Numbers of a list of floats or, where it is there, of a tensor `name`_as_tensor. */
struct list { const float *floats; struct operand tensor; int64_t count; };

static struct list read_list(const struct call *c, const char *name, const char *tensor)
{
    struct list l = { 0 };
    const struct onnx_attribute *a = tensor ? node_attribute(c->node, tensor) : NULL;
    l.floats = name ? ml_floats(c->node, name, &l.count) : NULL;
    if (a && a->type == ONNX_TENSOR && !a->t->location && dtype_is_dense(a->t->tensor.dtype)) {
        l.tensor = tensor_operand(&a->t->tensor);
        l.count = (int64_t)operand_count(&l.tensor);
    }
    return l;
}

static double list_at(const struct list *l, int64_t i) { return l->tensor.dtype ? operand_real(&l->tensor, (uint64_t)i) : (double)l->floats[i]; }

static uint8_t branch_of(struct string_ref s)
{
    static const char *const names[] = { "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER", "LEAF" };
    for (int i = 0; i < 8; i++)
        if (strlen(names[i]) == s.length && memcmp(names[i], s.text, s.length) == 0) return (uint8_t)i;
    return 255;
}

/* ---- opset 1 to 4: nodes are named by (tree, node) ---- */
struct named { int64_t tree, node, index; };

static int by_name(const void *a, const void *b)
{
    const struct named *x = a, *y = b;
    if (x->tree != y->tree) return x->tree < y->tree ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

static int64_t find_named(const struct named *list, int64_t n, int64_t tree, int64_t node)
{
    struct named key = { tree, node, 0 }, *hit = bsearch(&key, list, (size_t)n, sizeof *list, by_name);
    return hit ? hit->index : -1;
}

struct weight_row { int64_t node, target; double value; int64_t order; };

static int by_node(const void *a, const void *b)
{
    const struct weight_row *x = a, *y = b;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* The weights, in the order of their nodes; leaf k is the k-th node that is one. leaf_of[node]: its leaf, -1. */
static enum status read_weights(struct call *c, struct trees *t, const struct named *names, int64_t *leaf_of, struct err *err)
{
    bool classes = c->node->op->code == E_CLASSIFIER;
    int64_t n, m, k;
    const int64_t *trees = ml_ints(c->node, classes ? "class_treeids" : "target_treeids", &n), *nodes = ml_ints(c->node, classes ? "class_nodeids" : "target_nodeids", &m), *ids = ml_ints(c->node, classes ? "class_ids" : "target_ids", &k);
    struct list values = read_list(c, classes ? "class_weights" : "target_weights", classes ? "class_weights_as_tensor" : "target_weights_as_tensor");
    if (n != m || n != k || n != values.count) return wrong(c, err, "its lists of weights differ in length");
    struct weight_row *rows = mem_calloc_array((uint64_t)n + 1, sizeof *rows);
    t->weights = mem_calloc_array((uint64_t)n + 1, sizeof *t->weights);
    enum status st = rows && t->weights ? ST_OK : call_error(c, err, ST_NO_MEMORY, "its trees pass the memory budget");
    for (int64_t i = 0; i < n && !st; i++) {
        rows[i] = (struct weight_row){ find_named(names, t->split_count, trees[i], nodes[i]), ids[i], list_at(&values, i), i };
        if (rows[i].node < 0 || leaf_of[rows[i].node] < 0 || ids[i] < 0 || ids[i] >= t->targets) st = wrong(c, err, "a weight belongs to no leaf or target");
    }
    if (!st) qsort(rows, (size_t)n, sizeof *rows, by_node);
    t->all_positive = t->one_class = true;
    for (int64_t i = 0; i < n && !st; i++) {
        struct leaf *l = &t->leaves[leaf_of[rows[i].node]];
        if (l->count++ == 0) l->from = i;
        t->weights[i] = (struct weight){ rows[i].target, rows[i].value };
        t->all_positive = t->all_positive && rows[i].value >= 0;
        t->one_class = t->one_class && rows[i].target == rows[0].target;
    }
    t->weight_count = n;
    free(rows);
    return st;
}

static enum status read_nodes(struct call *c, struct trees *t, struct named *names, int64_t *leaf_of, uint8_t *child, struct err *err)
{
    int64_t n = t->split_count, counts[7];
    const int64_t *trees = ml_ints(c->node, "nodes_treeids", &counts[0]), *nodes = ml_ints(c->node, "nodes_nodeids", &counts[1]), *features = ml_ints(c->node, "nodes_featureids", &counts[2]);
    const int64_t *yes = ml_ints(c->node, "nodes_truenodeids", &counts[3]), *no = ml_ints(c->node, "nodes_falsenodeids", &counts[4]), *missing = ml_ints(c->node, "nodes_missing_value_tracks_true", &counts[6]);
    const struct string_ref *modes = ml_strings(c->node, "nodes_modes", &counts[5]);
    struct list values = read_list(c, "nodes_values", "nodes_values_as_tensor");
    for (int i = 0; i < 6; i++)
        if (counts[i] != n) return wrong(c, err, "its lists of nodes differ in length");
    if (values.count != n || (counts[6] && counts[6] != n)) return wrong(c, err, "its lists of nodes differ in length");
    for (int64_t i = 0; i < n; i++) {
        names[i] = (struct named){ trees[i], nodes[i], i };
        leaf_of[i] = -1;
    }
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int64_t i = 0; i < n; i++) {
        struct split *s = &t->splits[i];
        *s = (struct split){ .value = list_at(&values, i), .feature = features[i], .how = branch_of(modes[i]), .missing_yes = missing && counts[6] && missing[i] };
        if (s->how == 255 || s->how == B_MEMBER) return wrong(c, err, "a node's mode is not known");
        if (s->how == B_LEAF) { leaf_of[i] = t->leaf_count++; continue; }
        s->yes = find_named(names, n, trees[i], yes[i]);
        s->no = find_named(names, n, trees[i], no[i]);
        if (s->yes < 0 || s->no < 0 || s->feature < 0) return wrong(c, err, "a branch leads nowhere");
        child[s->yes] = child[s->no] = 1;
    }
    for (int64_t i = 0; i < n; i++) {
        struct split *s = &t->splits[i];
        if (!child[i]) t->roots[t->root_count++] = leaf_of[i] >= 0 ? ~leaf_of[i] : i;
        if (s->how == B_LEAF) continue;
        if (leaf_of[s->yes] >= 0) s->yes = ~leaf_of[s->yes];
        if (leaf_of[s->no] >= 0) s->no = ~leaf_of[s->no];
    }
    return ST_OK;
}

static enum status read_named(struct call *c, struct trees *t, struct err *err)
{
    ml_ints(c->node, "nodes_treeids", &t->split_count);
    uint64_t room = (uint64_t)t->split_count + 1;
    struct named *names = mem_calloc_array(room, sizeof *names);
    int64_t *leaf_of = mem_calloc_array(room, sizeof *leaf_of);
    uint8_t *child = mem_calloc_array(room, 1);
    t->splits = mem_calloc_array(room, sizeof *t->splits);
    t->leaves = mem_calloc_array(room, sizeof *t->leaves);
    t->roots = mem_calloc_array(room, sizeof *t->roots);
    enum status st = names && leaf_of && child && t->splits && t->leaves && t->roots ? ST_OK : call_error(c, err, ST_NO_MEMORY, "its trees pass the memory budget");
    if (!st) st = read_nodes(c, t, names, leaf_of, child, err);
    if (!st) st = read_weights(c, t, names, leaf_of, err);
    free(names);
    free(leaf_of);
    free(child);
    t->how = node_text_is(c->node, "aggregate_function", "AVERAGE", false) ? A_AVERAGE : node_text_is(c->node, "aggregate_function", "MIN", false) ? A_MIN : node_text_is(c->node, "aggregate_function", "MAX", false) ? A_MAX : A_SUM;
    t->transform = ml_transform_of(c->node);
    return st;
}

/* ---- opset 5: branches are indices ---- */
static enum status read_members(struct call *c, struct trees *t, struct err *err)
{
    struct list values = read_list(c, NULL, "membership_values");
    int64_t at = 0;
    t->members = mem_calloc_array((uint64_t)values.count + 1, sizeof *t->members);
    if (!t->members) return call_error(c, err, ST_NO_MEMORY, "its trees pass the memory budget");
    t->member_count = values.count;
    for (int64_t i = 0; i < values.count; i++) t->members[i] = list_at(&values, i);
    for (int64_t i = 0; i < t->split_count; i++) {           /* sets end with a NaN, one after the other */
        if (t->splits[i].how != B_MEMBER) continue;
        t->splits[i].member = at;
        while (at < values.count && t->members[at] == t->members[at]) at++;
        at++;
    }
    return ST_OK;
}

static enum status read_indexed(struct call *c, struct trees *t, struct err *err)
{
    int64_t n, counts[7];
    const int64_t *features = ml_ints(c->node, "nodes_featureids", &n), *yes = ml_ints(c->node, "nodes_truenodeids", &counts[0]), *no = ml_ints(c->node, "nodes_falsenodeids", &counts[1]), *yes_leaf = ml_ints(c->node, "nodes_trueleafs", &counts[2]), *no_leaf = ml_ints(c->node, "nodes_falseleafs", &counts[3]);
    const int64_t *missing = ml_ints(c->node, "nodes_missing_value_tracks_true", &counts[4]), *targets = ml_ints(c->node, "leaf_targetids", &counts[5]), *roots = ml_ints(c->node, "tree_roots", &counts[6]);
    struct list splits = read_list(c, NULL, "nodes_splits"), modes = read_list(c, NULL, "nodes_modes"), weights = read_list(c, NULL, "leaf_weights");
    for (int i = 0; i < 4; i++)
        if (counts[i] != n) return wrong(c, err, "its lists of nodes differ in length");
    if (splits.count != n || modes.count != n || (counts[4] && counts[4] != n) || weights.count != counts[5]) return wrong(c, err, "its lists differ in length");
    t->splits = mem_calloc_array((uint64_t)n + 1, sizeof *t->splits);
    t->leaves = mem_calloc_array((uint64_t)counts[5] + 1, sizeof *t->leaves);
    t->weights = mem_calloc_array((uint64_t)counts[5] + 1, sizeof *t->weights);
    t->roots = mem_calloc_array((uint64_t)counts[6] + 1, sizeof *t->roots);
    if (!t->splits || !t->leaves || !t->weights || !t->roots) return call_error(c, err, ST_NO_MEMORY, "its trees pass the memory budget");
    t->split_count = n;
    t->leaf_count = t->weight_count = counts[5];
    for (int64_t i = 0; i < counts[5]; i++) {
        if (targets[i] < 0 || targets[i] >= t->targets) return wrong(c, err, "a leaf belongs to no target");
        t->leaves[i] = (struct leaf){ i, 1 };
        t->weights[i] = (struct weight){ targets[i], list_at(&weights, i) };
    }
    for (int64_t i = 0; i < n; i++) {
        double mode = list_at(&modes, i);
        bool fits = mode >= 0 && mode <= B_MEMBER && features[i] >= 0 && yes[i] >= 0 && yes[i] < (yes_leaf[i] ? t->leaf_count : n) && no[i] >= 0 && no[i] < (no_leaf[i] ? t->leaf_count : n);
        if (!fits) return wrong(c, err, "a branch leads nowhere");
        t->splits[i] = (struct split){ list_at(&splits, i), features[i], yes_leaf[i] ? ~yes[i] : yes[i], no_leaf[i] ? ~no[i] : no[i], 0, (uint8_t)mode, counts[4] && missing[i] };
    }
    for (int64_t i = 0; i < counts[6]; i++) {
        if (roots[i] < 0 || roots[i] >= n) return wrong(c, err, "a root is no node");
        const struct split *s = &t->splits[roots[i]];
        /* a tree of one leaf is written as a node whose two branches are that leaf */
        t->roots[t->root_count++] = s->yes < 0 && s->yes == s->no ? s->yes : roots[i];
    }
    int64_t how = node_int(c->node, "aggregate_function", 1), transform = node_int(c->node, "post_transform", 0);
    t->how = how >= 0 && how <= 3 ? (enum aggregate)how : A_SUM;
    t->transform = transform >= 0 && transform <= 4 ? (enum ml_transform)transform : ML_NONE;
    return read_members(c, t, err);
}

/* ---- running ---- */
static int64_t targets_of(const struct call *c)
{
    if (c->node->op->code != E_CLASSIFIER) return node_int(c->node, "n_targets", 1);
    return ml_labels_of(c->node, "classlabels_int64s").count;
}

static enum status infer_trees(struct call *c, struct err *err)
{
    const struct operand *x = c->in[0];
    int64_t rows, features, n = targets_of(c);
    if (!dtype_is_number(x->dtype) || !ml_rows(x, &rows, &features) || n < 1 || n > 1 << 20) return call_error(c, err, ST_BAD_INPUT, "it takes rows of numbers and gives %lld targets", (long long)n);
    if (c->node->op->code != E_CLASSIFIER) return call_set(c, 0, c->node->op->code == E_PLAIN ? x->dtype : DT_F32, (int64_t[]){ rows, n }, 2, err);
    struct ml_labels labels = ml_labels_of(c->node, "classlabels_int64s");
    enum status st = call_set(c, 0, ml_label_type(&labels), &rows, 1, err);
    return st || c->out_count < 2 ? st : call_set(c, 1, DT_F32, (int64_t[]){ rows, n == 1 ? 2 : n }, 2, err);
}

static enum status prepare_trees(struct call *c, struct err *err)
{
    struct trees *t = mem_calloc_array(1, sizeof *t);
    if (!t) return call_error(c, err, ST_NO_MEMORY, "its trees pass the memory budget");
    c->state = t;
    t->targets = targets_of(c);
    enum status st = c->node->op->code == E_PLAIN ? read_indexed(c, t, err) : read_named(c, t, err);
    int64_t rows, features = 0;
    ml_rows(c->in[0], &rows, &features);
    for (int64_t i = 0; i < t->split_count && !st; i++)
        if (t->splits[i].how != B_LEAF && t->splits[i].feature >= features) st = call_error(c, err, ST_BAD_INPUT, "a node looks at feature %lld of %lld", (long long)t->splits[i].feature, (long long)features);
    return st;
}

static bool is_member(const struct trees *t, int64_t at, double v)
{
    for (; at < t->member_count && t->members[at] == t->members[at]; at++)
        if (t->members[at] == v) return true;
    return false;
}

static bool goes_yes(const struct trees *t, const struct split *s, double v)
{
    if (v != v && s->missing_yes) return true;
    switch (s->how) {
    case B_LEQ: return v <= s->value;
    case B_LT: return v < s->value;
    case B_GTE: return v >= s->value;
    case B_GT: return v > s->value;
    case B_EQ: return v == s->value;
    case B_NEQ: return v != s->value;
    default: return is_member(t, s->member, v);
    }
}

/* The scores of one row; told[k]: some leaf spoke of target k. False: a walk went in circles. */
static bool score_row(const struct trees *t, const double *x, double *scores, uint8_t *told)
{
    memset(scores, 0, (size_t)t->targets * sizeof *scores);
    memset(told, 0, (size_t)t->targets);
    for (int64_t r = 0; r < t->root_count; r++) {
        int64_t at = t->roots[r];
        for (int64_t steps = 0; at >= 0; steps++) {
            if (steps > t->split_count) return false;
            at = goes_yes(t, &t->splits[at], x[t->splits[at].feature]) ? t->splits[at].yes : t->splits[at].no;
        }
        const struct leaf *l = &t->leaves[~at];
        for (int64_t k = l->from; k < l->from + l->count; k++) {
            double *s = &scores[t->weights[k].target], w = t->weights[k].value;
            bool first = !told[t->weights[k].target];
            *s = t->how == A_MIN ? (first || w < *s ? w : *s) : t->how == A_MAX ? (first || w > *s ? w : *s) : *s + w;
            told[t->weights[k].target] = 1;
        }
    }
    for (int64_t k = 0; k < t->targets && t->how == A_AVERAGE && t->root_count; k++) scores[k] /= (double)t->root_count;
    return true;
}

/* Two classes of which the trees tell one score only: the class it speaks for is the second, and the other's score is made of it. */
static int64_t finish_binary(const struct trees *t, double *s, double score)
{
    bool logistic = t->transform == ML_LOGISTIC;
    s[1] = logistic ? ml_logistic(score) : score;
    s[0] = logistic ? ml_logistic(-score) : t->all_positive ? 1 - score : -score;
    return score > (t->all_positive ? 0.5 : 0);
}

static enum status eval_trees(struct call *c, struct err *err)
{
    const struct trees *t = c->state;
    struct reals r;
    int64_t rows = 0, features = 0, n = t->targets;
    struct list base = read_list(c, "base_values", "base_values_as_tensor");
    struct ml_labels labels = ml_labels_of(c->node, "classlabels_int64s");
    bool classes = c->node->op->code == E_CLASSIFIER;
    ml_rows(c->in[0], &rows, &features);
    reals_begin(&r, c);
    double *scores = r.rest;
    uint8_t *told = (uint8_t *)(scores + n + 2);
    for (int64_t row = 0; row < rows; row++) {
        if (!score_row(t, r.in[0] + row * features, scores, told)) return call_error(c, err, ST_BAD_INPUT, "its trees have a cycle");
        for (int64_t k = 0; k < n && base.count == n; k++) scores[k] += list_at(&base, k);
        int64_t best = 0;
        if (classes && n <= 2 && t->one_class) {
            int64_t spoken = n == 2 && t->weight_count ? t->weights[0].target : 0;
            double score = scores[spoken];
            if (base.count == 1 && n == 2) score += list_at(&base, 0);
            best = finish_binary(t, scores, score);
            if (c->out_count > 1 && r.out[1]) memcpy(r.out[1] + row * 2, scores, 2 * sizeof *scores);
        } else {
            for (int64_t k = 1; k < n; k++) best = scores[k] > scores[best] ? k : best;
            ml_transform(scores, n, t->transform);
            double *to = !classes ? r.out[0] : c->out_count > 1 ? r.out[1] : NULL;
            if (to) memcpy(to + row * n, scores, (size_t)n * sizeof *scores);
        }
        if (classes && c->out[0]) ml_label_put(&labels, c->out[0], row, best);
    }
    if (classes && r.out[0]) r.out[0] = NULL;          /* labels were put already */
    reals_end(&r, c);
    return ST_OK;
}

static uint64_t scratch_trees(const struct call *c)
{
    int64_t n = targets_of(c);
    return reals_scratch_more(c, 2 * (uint64_t)(n > 0 ? n : 0) + 4);
}

#define TREES(name, since, code, outs) { name, "ai.onnx.ml", since, 0, 1, 1, 1, outs, 0, code, infer_trees, eval_trees, scratch_trees, prepare_trees, release_trees, rows_apart, NULL }
const struct op ops_ml_trees[] = {
    TREES("TreeEnsembleRegressor", 1, E_REGRESSOR, 1), TREES("TreeEnsembleClassifier", 1, E_CLASSIFIER, 2), TREES("TreeEnsemble", 5, E_PLAIN, 1),
    { 0 }
};
