/* The graphs of networks that draw, from their configuration and weights. Every builder fills *g (opened by the caller: arena, device, memory_max, max_rows); the files stay
 * mapped as long as the graph. A graph's inputs are there only where the network takes them: `at` says which input of the graph each is, -1: none. */
#ifndef ENGINE_DIFFUSION_BUILD_H
#define ENGINE_DIFFUSION_BUILD_H

#include "engine/diffusion/network.h"

/* ---- the network that takes noise away ---- */
enum denoiser_input {
    DENOISER_SAMPLE,       /* f32 [n, h, w, in channels] */
    DENOISER_TIME,         /* f32 [n] */
    DENOISER_CONTEXT,      /* f32 [n, tokens, width]: the texts */
    DENOISER_COUNTS,       /* int32 [n]: tokens of each that are seen */
    DENOISER_POOLED,       /* f32 [n, width]: of the texts as a whole */
    DENOISER_SIZES,        /* f32 [n, k]: SDXL's sizes and crops */
    DENOISER_GUIDE,        /* f32 [n, width]: the embedding of the guidance (LCM), or [n]: guidance itself (Flux) */
    DENOISER_LABEL,        /* int32 [n] */
    DENOISER_ROTATION,     /* f32 [tokens, head_dim]: Flux's rotary table */
    DENOISER_INPUTS
};
struct denoiser {
    int  at[DENOISER_INPUTS];
    int  in_channels, out_channels;
    int  context_width, pooled_width, size_count, guide_width, labels;
    int  patch;                    /* side of the patches that tokens are made of; 1: none */
    int  sample_size;              /* latents of a side as the configuration has it, 0: it does not say */
    int  levels;                   /* times the sides are halved inside */
    int  head_dim;                 /* Flux: of the rotary table */
    int  axes[3];                  /* Flux: rotary dimensions of text, rows, columns */
    bool guided;                   /* takes the guidance as a number */
    bool joint;                    /* texts and picture look at each other: rows of a call must have as many tokens */
};
/* pooled_width: of the text encoder whose pooled output it takes; 0: there is none. */
enum status build_unet(struct graph *g, struct network_source *s, enum linear_mode mode, int pooled_width, struct denoiser *out, struct err *err);

/* SD3Transformer2DModel and FluxTransformer2DModel. */
enum status build_dit(struct graph *g, struct network_source *s, enum linear_mode mode, struct denoiser *out, struct err *err);

/* ---- pictures to latents and back. Input 0: f32 [n, h, w, channels]; output 0 the same way. ---- */
struct autoencoder {
    int   channels, latents;       /* of pictures, of latents */
    int   factor;                  /* pixels of a side for each latent */
    float scale, shift;            /* latents = (mean - shift) * scale */
    bool  variational;             /* the encoder gives mean and log variance, 2 * latents channels */
    bool  tiny;                    /* TAESD: pictures 0..1 inside, latents as the network has them */
    int   sample_size;
    const float *codebook;         /* VQ: [codebook_size, latents], else NULL */
    int   codebook_size;
};
enum status build_autoencoder(struct graph *encoder, struct graph *decoder, struct network_source *s, enum linear_mode mode, struct autoencoder *out, struct err *err);

/* ---- texts ---- */
enum clip_input { CLIP_TOKENS /* int32 [n, tokens] */, CLIP_POSITIONS /* int32 [n, tokens] */, CLIP_ENDS /* int32 [n]: row of each text's end among n * tokens */, CLIP_INPUTS };
enum clip_output { CLIP_LAST /* f32 [n, tokens, width] behind the final norm */, CLIP_BEFORE /* the same, behind the last layer but one, no norm */, CLIP_POOLED /* [n, width] */, CLIP_OUTPUTS };
struct text_encoder {
    int  width, pooled_width, vocabulary, positions, layers;
    bool projected;                /* CLIP_POOLED has passed through text_projection */
    bool t5;                       /* one text of `positions` tokens, nothing pooled */
    int32_t end_token;             /* as the configuration has it */
};
/* T5's encoder, for texts of exactly `tokens` tokens. Input 0: int32 [n, tokens]; output 0: f32 [n, tokens, width]. */
enum status build_t5(struct graph *g, struct network_source *s, enum linear_mode mode, int tokens, struct text_encoder *out, struct err *err);
enum status build_clip(struct graph *g, struct network_source *s, enum linear_mode mode, struct text_encoder *out, struct err *err);

#endif
