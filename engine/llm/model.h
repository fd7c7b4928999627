/* A language model as read from its files: what it is made of (struct llm_config, from the keys of a GGUF file or a folder's config.json), where each
 * weight lies (struct llm_weight, found by role), and the row of the architecture table that says how the parts are put together.
 *
 * Most differences between families are read off the tensors: a bias that is there is added, a query norm that is there is applied, a head that is
 * missing is the embedding's. What tensors do not tell (order of norms, kind of rotation, activation, scales) is in the row. A tensor that nobody
 * asked for fails the load: it would be a feature left out in silence. */
#ifndef ENGINE_LLM_MODEL_H
#define ENGINE_LLM_MODEL_H

#include "base/arena.h"
#include "base/json.h"
#include "engine/formats/gguf.h"
#include "engine/formats/weights.h"
#include "kernels/kernels.h"

enum { LLM_LAYERS_MAX = 1024, LLM_EXPERTS_MAX = 1024 };

enum llm_norm { NORM_RMS, NORM_LAYER };
/* x + f(norm x) twice; attention and feed-forward side by side from one norm or two; x + norm(f x) (OLMo 2); x + norm(f(norm x)) (Gemma 2, 3); norm(x + f x) (BERT). */
enum llm_block { BLOCK_SEQUENTIAL, BLOCK_PARALLEL, BLOCK_POST_NORM, BLOCK_SANDWICH, BLOCK_AFTER };
/* GGUF rotates as the row says; folders rotate halves except where the row says adjacent in both. */
enum llm_rope { ROPE_NONE, ROPE_HALF, ROPE_ADJACENT_GGUF, ROPE_ADJACENT };
enum llm_scaling { SCALING_NONE, SCALING_LINEAR, SCALING_NTK, SCALING_YARN, SCALING_LLAMA3, SCALING_LONGROPE };
enum llm_pooling { POOL_NONE, POOL_MEAN, POOL_CLS, POOL_LAST };

enum llm_role {
    /* once */
    ROLE_TOKENS, ROLE_POSITIONS, ROLE_TYPES, ROLE_EMBED_NORM, ROLE_FINAL_NORM, ROLE_HEAD, ROLE_ROPE_FACTORS, ROLE_ROPE_LONG, ROLE_ROPE_SHORT,
    ROLE_POOLER, ROLE_SCORE, ROLE_SCORE_DENSE, ROLE_PAIR_NORM /* behind the decoder of a pair */,
    /* in every layer */
    ROLE_ATTENTION_NORM, ROLE_ATTENTION_NORM2, ROLE_Q, ROLE_K, ROLE_V, ROLE_QKV, ROLE_O, ROLE_Q_NORM, ROLE_K_NORM, ROLE_SINKS, ROLE_ATTENTION_POST,
    ROLE_FFN_NORM, ROLE_GATE, ROLE_UP, ROLE_GATE_UP, ROLE_DOWN, ROLE_FFN_POST,
    ROLE_ROUTER, ROLE_EXPERT_GATE, ROLE_EXPERT_UP, ROLE_EXPERT_GATE_UP, ROLE_EXPERT_DOWN, ROLE_SHARED_GATE, ROLE_SHARED_UP, ROLE_SHARED_DOWN, ROLE_SHARED_ROUTER,
    ROLE_RELATIVE /* of distances, in the first layer for all */,
    /* the decoder of an encoder-decoder pair, in every layer */
    ROLE_PAIR_ATTENTION_NORM, ROLE_PAIR_Q, ROLE_PAIR_K, ROLE_PAIR_V, ROLE_PAIR_O, ROLE_PAIR_RELATIVE, ROLE_CROSS_NORM, ROLE_CROSS_Q, ROLE_CROSS_K, ROLE_CROSS_V, ROLE_CROSS_O,
    ROLE_PAIR_FFN_NORM, ROLE_PAIR_GATE, ROLE_PAIR_UP, ROLE_PAIR_DOWN,
    ROLE_COUNT
};
enum { ROLE_FIRST_OF_LAYER = ROLE_ATTENTION_NORM };

/* How a family's folders name their tensors: "%d" is the layer, "%e" the expert; without the ending ".weight" or ".bias". NULL: as the general table has it. */
struct llm_names { const char *names[ROLE_COUNT]; };

enum llm_flags {
    LLM_ENCODER        = 1,        /* not causal; vectors come out */
    LLM_NORM_PLUS_ONE  = 2,        /* folders store norm weights less 1 (Gemma) */
    LLM_EMBED_SCALED   = 4,        /* embeddings times sqrt(width) */
    LLM_TRANSPOSED     = 8,        /* folders store weights [in, out] (GPT-2's Conv1D) */
    LLM_QKV_BY_HEAD    = 16,       /* folders fuse q, k, v head by head (NeoX) or by group of heads (Falcon) */
    LLM_NO_RENORM      = 32,       /* chosen experts' probabilities are not divided by their sum unless the config says so */
    LLM_SOFTMAX_LATER  = 64,       /* softmax over the chosen experts only (gpt-oss; Mixtral's is the same number) */
    LLM_CLAMPED_GATE   = 128,      /* gpt-oss: (up + 1) * gate * sigmoid(1.702 gate), both clamped; interleaved in folders */
    LLM_POSITION_SHIFT = 256,      /* learned positions start at 2 in folders (RoBERTa) */
    LLM_LOCAL_BASE     = 512,      /* windowed layers rotate by a base of their own (Gemma 3) */
    LLM_ALIBI          = 2048,     /* scores fall with the distance */
    LLM_PAIR           = 1024,     /* an encoder and maybe a decoder that looks at what it made; distances add to scores (T5) */
};

struct llm_architecture {
    const char *name;              /* GGUF's general.architecture, also what is shown */
    const char *const *folders;    /* model_type of folders, NULL-ended */
    enum llm_norm  norm;
    enum llm_block block;
    enum llm_rope  rope;
    struct activation_spec act;
    unsigned       flags;
    int            window_pattern; /* every n-th layer is global; 0: a window holds for every layer; -2: every second, starting with a windowed one, as 2 */
    const struct llm_names *hf;
};

/* NULL where no row has the name. */
const struct llm_architecture *llm_architecture_of_gguf(const char *name, size_t length);
const struct llm_architecture *llm_architecture_of_folder(const char *model_type);
/* Name `index` of a role, with layer and expert put in, in `out`; false at the end of its names. */
bool llm_role_name(const struct llm_architecture *a, bool folder, enum llm_role role, int layer, int expert, int index, char *out, size_t size);

struct llm_scaling_spec {
    enum llm_scaling kind;
    float  factor, attention_factor;                 /* 0: from the factor */
    float  low, high;                                /* llama3; yarn: beta_slow, beta_fast */
    int    original_context;
    const float *long_factors, *short_factors;       /* [rotary / 2], NULL */
    bool   truncate;
};

struct llm_config {
    const struct llm_architecture *arch;
    bool   folder;
    int    layers, width, heads, kv_heads, head_dim, ffn, vocabulary, context, rotary, positions;
    float  norm_epsilon;
    float  rope_base, rope_local_base;
    struct llm_scaling_spec scaling;
    int    window, window_pattern;                   /* window 0: none */
    const uint8_t *window_layers;                    /* [layers] 1: windowed; NULL: by the pattern */
    const uint8_t *unrotated_layers;                 /* [layers] 1: no rotation; NULL: every layer rotates */
    float  attention_scale;                          /* 0: 1 / sqrt(head_dim) */
    float  embedding_scale, residual_scale, logits_scale;        /* 1: none */
    float  attention_softcap, final_softcap;         /* 0: none */
    const float *alibi;                              /* [heads] slopes by distance instead of rotation; NULL: none */
    float  clip_qkv;                                 /* 0: none */
    float  swiglu_limit;
    int    experts, experts_used, expert_ffn, shared_ffn;
    bool   renormalise;
    bool   parallel;                                 /* attention and feed-forward side by side */
    bool   tied, causal, gated;
    enum llm_block block;
    struct activation_spec act;
    enum llm_pooling pooling;
    bool   normalise_vectors;
    int    labels;                                   /* a classifier's outputs, 0: none */
    int    decoder_layers, decoder_start;            /* of a pair (then `layers` are the encoder's): 0: the encoder alone; the token that a text begins with */
    int    distance_buckets, distance_max;           /* of relative positions */
};

/* Does this layer see the last `window` tokens only? */
bool llm_is_windowed(const struct llm_config *c, int layer);

/* A matrix by rows as a linear layer wants it, or a vector (n = 1). */
struct llm_weight {
    int         type;          /* ggml type number */
    int64_t     n, k;          /* rows, columns */
    int64_t     row_bytes;
    const void *data;          /* NULL: the model has none */
    bool        mapped;        /* data lies in the mapped file, else in the arena */
};

struct llm_model {
    struct llm_config config;
    struct gguf      *gguf;            /* one of the two */
    struct safetensors *folder;
    struct json      *config_json;     /* of a folder, in the arena */
    const struct weights *weights;
    uint8_t          *used;            /* [weights->count]: asked for */
    struct arena      arena;
    struct arena     *rearranged;      /* where llm_weight_find puts what it cannot give as it lies in the file; NULL: in the arena */
    char             *texts[4];        /* files read whole, freed at close */
    uint64_t          memory_max;
};

/* `path`: a .gguf file, or a folder with config.json and *.safetensors. */
enum status llm_model_open(struct llm_model *m, const char *path, uint64_t memory_max, struct err *err);
void        llm_model_close(struct llm_model *m);
/* The slopes of ALiBi (Press et al. 2021, arXiv 2108.12409) for any number of heads, times `factor`; NULL: no memory. `most`: the exponent of the last head, usually 8; `halves`: how heads
 * beyond a power of two are filled up, as MPT does it. */
const float *llm_alibi_slopes(struct arena *arena, int heads, float most, float factor, bool halves);
/* model.c's halves */
enum status llm_config_read_gguf(struct llm_model *m, struct err *err);
enum status llm_config_read_folder(struct llm_model *m, struct err *err);
enum status llm_config_check(const struct llm_config *c, struct err *err);

/* The weight of this role ("bias": its bias), rows x columns checked unless 0 is given for them; data NULL and ST_OK when the model has none.
 * expert -1: not of an expert; where all experts lie in one tensor its slice is given. */
enum status llm_weight_find(struct llm_model *m, enum llm_role role, bool bias, int layer, int expert, int64_t n, int64_t k, struct llm_weight *out, struct err *err);
/* Is there such a weight? Nothing is read or rearranged. */
bool        llm_weight_exists(struct llm_model *m, enum llm_role role, int layer);
/* The same as f32 in the arena, for vectors and small tables. *out NULL when the model has none. */
enum status llm_weight_floats(struct llm_model *m, enum llm_role role, bool bias, int layer, int expert, int64_t count, const float **out, struct err *err);
/* The sentence about the first tensor that was never asked for. */
enum status llm_weights_all_used(const struct llm_model *m, struct err *err);

#endif
