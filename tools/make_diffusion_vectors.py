#!/usr/bin/env python3
"""Writes tests/diffusion/vectors/NAME.json: for each family a tiny model of its shape, as diffusers draws with it in float32: latents after every step, some pictures.

Weights are not stored: parameter PART/NAME's element i is base + amplitude * u(PART/NAME, i), u uniform in [-1, 1) from a hash, so that the test makes the same files. Amplitudes keep
every layer's output near 1. The tokenizer is that of models/shapes. Needs PyPI's torch, transformers and diffusers.
usage: make_diffusion_vectors.py [NAME...]
"""
import json
import math
import os
import sys
import tempfile
import warnings

import numpy as np
import torch
import transformers as tf
import diffusers as df
from PIL import Image
from safetensors import safe_open

warnings.filterwarnings("ignore")
df.utils.logging.set_verbosity_error()
tf.logging.set_verbosity_error()
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "tests", "diffusion", "vectors")
TOKENIZER = os.path.join(HERE, "..", "models", "shapes", "1", "tokenizer")
CTX = 24
M64 = (1 << 64) - 1


def uniform(name, count):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = ((h ^ b) * 0x100000001B3) & M64
    x = (np.uint64(h) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0 ** -23) - np.float32(1)


def scale_of(name, shape):
    """base, amplitude"""
    if "norm" in name and name.endswith("weight") and len(shape) == 1:
        return 1.0, 0.3
    if len(shape) == 1:
        return 0.0, 0.2
    if "embedding.weight" in name or "shared" in name:
        return 0.0, 1.0
    fan = int(np.prod(shape[1:]))
    gain = 1.4 if "conv_out" in name or "proj_out" in name else 1.0
    return 0.0, float(np.float32(gain * math.sqrt(3.0 / fan)))


def fill(part, module):
    seen = set()      # tied weights go by their first name
    with torch.no_grad():
        for name, p in module.state_dict().items():
            if not p.dtype.is_floating_point or p.data_ptr() in seen:
                continue
            seen.add(p.data_ptr())
            base, amp = scale_of(name, p.shape)
            p.copy_(torch.from_numpy(np.float32(base) + np.float32(amp) * uniform(f"{part}/{name}", p.numel())).reshape(p.shape))
    return module.eval()


tokens = json.load(open(f"{TOKENIZER}/vocab.json"))


def tokenizer(pad=None):
    merges = [tuple(l.split()) for l in open(f"{TOKENIZER}/merges.txt").read().split("\n")[1:] if l.strip()]
    t = tf.CLIPTokenizer(vocab=dict(tokens), merges=merges, model_max_length=CTX)
    if pad:
        t.pad_token = pad
    return t


def clip(width=32, layers=2, heads=2, act="quick_gelu", projection=None, cls="CLIPTextModel"):
    c = tf.CLIPTextConfig(vocab_size=len(tokens), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=heads, max_position_embeddings=CTX, hidden_act=act,
                          bos_token_id=tokens["<|startoftext|>"], eos_token_id=tokens["<|endoftext|>"], pad_token_id=tokens["<|endoftext|>"], projection_dim=projection or width)
    return getattr(tf, cls)(c)


def unet(**more):
    c = dict(sample_size=5, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(16, 32),
             layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=2)
    c.update(more)
    return df.UNet2DConditionModel(**c)


def vae(levels=4, **more):
    widths = (8, 8, 16, 16)[:levels] if levels > 2 else (8, 16)
    c = dict(in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=widths, layers_per_block=1,
             latent_channels=4, norm_num_groups=4, sample_size=40, scaling_factor=0.7)
    c.update(more)
    return df.AutoencoderKL(**c)


SD = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1, skip_prk_steps=True, prediction_type="epsilon")
CLASSES = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "pndm": "PNDMScheduler", "euler": "EulerDiscreteScheduler", "euler_ancestral": "EulerAncestralDiscreteScheduler", "heun": "HeunDiscreteScheduler",
           "dpmpp_2m": "DPMSolverMultistepScheduler", "dpmpp_2m_sde": "DPMSolverMultistepScheduler", "lms": "LMSDiscreteScheduler", "unipc": "UniPCMultistepScheduler", "lcm": "LCMScheduler",
           "flow_euler": "FlowMatchEulerDiscreteScheduler"}
PROMPT, NEGATIVE = "a large red circle in the center on a white background", "a small blue square"


def scheduler(sampler, config, schedule=None):
    c = dict(config)
    c["_class_name"] = CLASSES[sampler]
    if sampler == "dpmpp_2m_sde":
        c["algorithm_type"] = "sde-dpmsolver++"
    if schedule:
        c[f"use_{schedule}_sigmas"] = True
    c.pop("_class_name")
    return getattr(df, CLASSES[sampler]).from_config(c)


def written(sampler, config, schedule=None):
    """scheduler_config.json of such a model: what it does not say is the class's own."""
    c = dict(config)
    c["_class_name"] = CLASSES[sampler]
    if sampler == "dpmpp_2m_sde":
        c["algorithm_type"] = "sde-dpmsolver++"
    if schedule:
        c[f"use_{schedule}_sigmas"] = True
    return c


def numbers(x):
    return [float(f"{v:.6g}") for v in np.asarray(x, dtype=np.float64).reshape(-1)]


def picture(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 7 + y * 3) % 256, (x * y) % 256, (255 - x * 5 - y) % 256], -1).astype(np.uint8)


def mask(width, height):
    m = np.zeros((height, width), np.uint8)
    m[height // 3:, width // 2:] = 255
    return m


def draw(pipe, case):
    """One case: the latents after every step and the picture."""
    steps = []

    def seen(p, i, t, kw):
        x = kw["latents"][:1]
        if x.ndim == 3:      # Flux packs them
            x = p._unpack_latents(x, case["height"], case["width"], p.vae_scale_factor)
        steps.append(numbers(x[0]))
        return {}

    n = case.get("n", 1)
    generators = [torch.Generator().manual_seed(case["seed"] + k) for k in range(n)]
    kw = dict(num_inference_steps=case["steps"], generator=generators if n > 1 else generators[0], output_type="np", callback_on_step_end=seen)
    if "prompt" in case:
        kw.update(prompt=case["prompt"], guidance_scale=case["guidance"], num_images_per_prompt=n)
        if case.get("negative"):
            kw["negative_prompt"] = case["negative"]
    w, h = case["width"], case["height"]
    if "mask" in case:
        kw["mask_image"] = Image.fromarray(mask(w, h))
    if "image" in case:
        kw["image"] = Image.fromarray(picture(w, h))
        kw["strength"] = case["strength"]
    if "prompt" in case and ("image" not in case or "mask" in case or "Diffusion3" in type(pipe).__name__):
        kw.update(width=w, height=h)
    if case.get("eta"):
        kw["eta"] = case["eta"]
    kw.update(case.get("python", {}))
    out = pipe(**kw).images
    result = {k: v for k, v in case.items() if k not in ("python", "keep")}
    result["latents"] = steps
    if case.get("keep"):
        result["pixels"] = (out[-1] * 255).round().astype(int).reshape(-1).tolist()
    return result


def samplers(config, steps=5, **more):
    """One case a sampler, and a schedule beside."""
    base = dict(prompt=PROMPT, negative="", guidance=3.0, width=40, height=24, steps=steps, seed=7)
    base.update(more)
    for s in CLASSES:
        if s == "flow_euler":
            continue
        for schedule in [None] + (["karras", "exponential"] if s in ("euler", "dpmpp_2m", "lms", "heun", "unipc") else []):
            yield s, schedule, config, dict(base, sampler=s, schedule=schedule or "model")


def sd1():
    parts = dict(vae=fill("vae", vae()), text_encoder=fill("text_encoder", clip()), unet=fill("unet", unet()))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), scheduler=df.DDIMScheduler(**SD_INIT), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    cases = list(samplers(SD))
    one = dict(prompt=PROMPT, negative=NEGATIVE, guidance=3.0, width=40, height=24, steps=5, seed=3, sampler="model", schedule="model")
    cases += [("ddim", None, SD, dict(one, keep=True)), ("ddim", None, SD, dict(one, eta=0.7)), ("ddim", None, SD, dict(one, n=2, keep=True)), ("ddim", None, SD, dict(one, guidance=1.0)), ("ddim", None, SD, dict(one, steps=1)),
              ("ddim", None, SD, dict(one, steps=7, width=16, height=48))]
    for spacing in ("leading", "trailing", "linspace"):
        for s in ("ddim", "euler", "dpmpp_2m", "pndm", "ddpm", "unipc"):
            cases.append((s, None, dict(SD, timestep_spacing=spacing), dict(one, steps=4)))
    for prediction in ("v_prediction", "sample"):
        for s in ("ddim", "euler", "dpmpp_2m", "ddpm", "unipc", "heun", "lms", "lcm", "pndm", "euler_ancestral"):
            if prediction == "sample" and s in ("pndm", "euler_ancestral"):
                continue
            cases.append((s, None, dict(SD, prediction_type=prediction), dict(one, steps=4)))
    cases += [("dpmpp_2m", None, dict(SD, solver_order=3), dict(one, steps=6)), ("dpmpp_2m", None, dict(SD, solver_type="heun"), dict(one)), ("dpmpp_2m", None, dict(SD, final_sigmas_type="sigma_min"), dict(one)),
              ("dpmpp_2m", None, SD, dict(one, steps=16)), ("dpmpp_2m", None, dict(SD, euler_at_final=True), dict(one)), ("unipc", None, dict(SD, solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min"), dict(one, steps=6)),
              ("pndm", None, dict(SD, skip_prk_steps=False), dict(one, steps=6)), ("euler", None, dict(SD, beta_schedule="linear", beta_start=0.0001, beta_end=0.02), dict(one)),
              ("ddim", None, dict(SD, beta_schedule="squaredcos_cap_v2", clip_sample=True), dict(one)), ("ddim", None, dict(SD, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"), dict(one)),
              ("ddpm", None, dict(SD, variance_type="fixed_large", clip_sample=True), dict(one)), ("euler", None, dict(SD, interpolation_type="log_linear"), dict(one)), ("euler", None, dict(SD, final_sigmas_type="sigma_min"), dict(one)),
              ("dpmpp_2m_sde", "karras", SD, dict(one))]
    for s in ("ddim", "euler", "dpmpp_2m", "heun", "pndm", "euler_ancestral", "unipc", "lms", "lcm"):
        cases.append((s, None, SD, dict(one, image=True, strength=0.6, steps=6, keep=s == "ddim", pipeline="StableDiffusionImg2ImgPipeline")))
    for s in ("ddim", "euler", "euler_ancestral"):
        cases.append((s, None, SD, dict(one, image=True, mask=True, strength=0.8, pipeline="StableDiffusionInpaintPipeline", keep=s == "euler", python=dict(mask_image=Image.fromarray(mask(40, 24))))))
    cases.append(("ddim", None, SD, dict(one, image=True, mask=True, strength=1.0, pipeline="StableDiffusionInpaintPipeline")))
    return make, "StableDiffusionPipeline", cases




def pick(config, *names, **more):
    base = dict(prompt=PROMPT, negative=NEGATIVE, guidance=3.0, width=40, height=24, steps=4, seed=5, sampler="model", schedule="model", keep=True)
    base.update(more)
    return [(s, None, config, dict(base)) for s in names]


def sd2():
    """v prediction, linear projections, heads of one size, a text encoder with gelu whose texts are filled up with '!'"""
    parts = dict(vae=fill("vae", vae()), text_encoder=fill("text_encoder", clip(act="gelu", layers=3)),
                 unet=fill("unet", unet(use_linear_projection=True, attention_head_dim=(2, 4), down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), layers_per_block=2)))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer("!"), scheduler=df.DDIMScheduler(**SD_INIT), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    return make, "StableDiffusionPipeline", pick(dict(SD, prediction_type="v_prediction"), "ddim", "euler") + pick(dict(SD, prediction_type="v_prediction"), "dpmpp_2m", n=2)


def xl_unet(**more):
    c = dict(down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), use_linear_projection=True,
             addition_embed_type="text_time", addition_time_embed_dim=8, cross_attention_dim=56, projection_class_embeddings_input_dim=20 + 6 * 8)
    c.update(more)
    return unet(**c)


def sdxl():
    parts = dict(vae=fill("vae", vae()), text_encoder=fill("text_encoder", clip()), text_encoder_2=fill("text_encoder_2", clip(24, 3, 2, "gelu", 20, "CLIPTextModelWithProjection")), unet=fill("unet", xl_unet()))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), tokenizer_2=tokenizer("!"), scheduler=df.DDIMScheduler(**SD_INIT), **parts)
    config = {k: v for k, v in SD.items() if k != "skip_prk_steps"}
    cases = pick(config, "euler", "ddim") + pick(config, "dpmpp_2m_sde", n=2) + pick(config, "euler", negative="") + pick(dict(config, timestep_spacing="trailing"), "euler_ancestral", steps=1, guidance=0.0)
    cases += pick(config, "euler", pipeline="StableDiffusionXLImg2ImgPipeline", image=True, strength=0.5)
    return make, "StableDiffusionXLPipeline", cases


def refiner():
    """SDXL's refiner: the second text encoder alone, a score of beauty beside the sizes."""
    parts = dict(vae=fill("vae", vae()), text_encoder_2=fill("text_encoder_2", clip(24, 3, 2, "gelu", 20, "CLIPTextModelWithProjection")),
                 unet=fill("unet", xl_unet(cross_attention_dim=24, projection_class_embeddings_input_dim=20 + 5 * 8, transformer_layers_per_block=2)))
    make = lambda cls: getattr(df, cls)(text_encoder=None, tokenizer=None, tokenizer_2=tokenizer("!"), scheduler=df.DDIMScheduler(**SD_INIT), requires_aesthetics_score=True, **parts)
    config = {k: v for k, v in SD.items() if k != "skip_prk_steps"}
    return make, "StableDiffusionXLImg2ImgPipeline", pick(config, "euler", image=True, strength=0.6)


def lcm():
    parts = dict(vae=fill("vae", vae()), text_encoder=fill("text_encoder", clip()), unet=fill("unet", unet(time_cond_proj_dim=12)))
    make = lambda cls: df.LatentConsistencyModelPipeline(tokenizer=tokenizer(), scheduler=df.LCMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    config = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", original_inference_steps=50)
    return make, "LatentConsistencyModelPipeline", pick(config, "lcm", negative="", guidance=8.5) + pick(config, "lcm", negative="", guidance=1.0, steps=1)


def pixels(**more):
    c = dict(sample_size=8, in_channels=3, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), block_out_channels=(16, 32), layers_per_block=1,
             norm_num_groups=8, attention_head_dim=8, downsample_padding=0)
    c.update(more)
    return df.UNet2DModel(**c)


def unconditional(parts, cases):
    """(sampler, config, case) -> the drawn case, by our own loop over the parts: pixels, or latents of a VQ model."""
    drawn = []
    for sampler, c, case in cases:
        s = scheduler(sampler, c)
        s.set_timesteps(case["steps"])
        u, v = parts["unet"], parts.get("vqvae")
        g = torch.Generator().manual_seed(case["seed"])
        h, w = case["height"], case["width"]
        f = 2 ** (len(v.config.block_out_channels) - 1) if v else 1
        x = torch.randn((1, u.config.in_channels, h // f, w // f), generator=g) * s.init_noise_sigma
        steps = []
        with torch.no_grad():
            for t in s.timesteps:
                kw = {"class_labels": torch.tensor([case["label"]])} if "label" in case else {}
                out = u(s.scale_model_input(x, t), t, **kw).sample
                more = {"generator": g} if sampler in ("ddpm", "euler_ancestral", "lcm", "dpmpp_2m_sde") else {}
                x = s.step(out, t, x, **more).prev_sample
                steps.append(numbers(x[0]))
            y = v.decode(x / v.config.scaling_factor).sample if v else x
        result = dict(case, latents=steps, pixels=((y[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(int).reshape(-1).tolist())
        result.setdefault("sampler", "model")
        drawn.append((written(sampler, c), result))
    return drawn


PIXEL = dict(num_train_timesteps=1000, beta_start=0.0001, beta_end=0.02, beta_schedule="linear")


def ddpm():
    parts = dict(unet=fill("unet", pixels()))
    case = dict(width=16, height=8, steps=4, seed=2)
    cases = [("ddpm", dict(PIXEL, variance_type="fixed_small", clip_sample=True), dict(case)), ("ddim", PIXEL, dict(case)), ("ddpm", dict(PIXEL, variance_type="fixed_large"), dict(case, steps=5)), ("pndm", PIXEL, dict(case, steps=5))]
    return lambda cls: df.DDPMPipeline(unet=parts["unet"], scheduler=df.DDPMScheduler(**PIXEL)), "DDPMPipeline", unconditional(parts, cases)


def classes():
    parts = dict(unet=fill("unet", pixels(num_class_embeds=5, resnet_time_scale_shift="scale_shift", attention_head_dim=None, downsample_padding=1)))
    case = dict(width=8, height=16, steps=4, seed=2, label=3)
    cases = [("ddpm", dict(PIXEL, clip_sample=True), dict(case)), ("ddim", PIXEL, dict(case, label=0))]
    return lambda cls: df.DDPMPipeline(unet=parts["unet"], scheduler=df.DDPMScheduler(**PIXEL)), "DDPMPipeline", unconditional(parts, cases)


def ldm():
    vq = df.VQModel(in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=3, num_vq_embeddings=32, norm_num_groups=4,
                    scaling_factor=0.5)
    parts = dict(unet=fill("unet", pixels(attention_head_dim=16, downsample_padding=1)), vqvae=fill("vqvae", vq))
    case = dict(width=32, height=24, steps=4, seed=2)
    config = dict(num_train_timesteps=1000, beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    return lambda cls: df.LDMPipeline(vqvae=parts["vqvae"], unet=parts["unet"], scheduler=df.DDIMScheduler(**config)), "LDMPipeline", unconditional(parts, [("ddim", config, case)])


def taesd():
    tiny = df.AutoencoderTiny(encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), num_encoder_blocks=(1, 1, 2, 1), num_decoder_blocks=(1, 2, 1, 1))
    parts = dict(vae=fill("vae", tiny), text_encoder=fill("text_encoder", clip()), unet=fill("unet", unet()))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), scheduler=df.DDIMScheduler(**SD_INIT), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    return make, "StableDiffusionPipeline", pick(SD, "ddim") + pick(SD, "euler", image=True, strength=0.5, pipeline="StableDiffusionImg2ImgPipeline")


def inpaint():
    """A network made for it: mask and masked picture beside the latents."""
    parts = dict(vae=fill("vae", vae()), text_encoder=fill("text_encoder", clip()), unet=fill("unet", unet(in_channels=9)))
    make = lambda cls: df.StableDiffusionInpaintPipeline(tokenizer=tokenizer(), scheduler=df.DDIMScheduler(**SD_INIT), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    return make, "StableDiffusionInpaintPipeline", pick(SD, "ddim", image=True, mask=True, strength=1.0) + pick(SD, "euler_ancestral", image=True, mask=True, strength=0.7)


def first_names(part, name, layers=2, levels=4):
    """What the first releases' files call a tensor; checked against diffusers' own converters below."""
    import re
    if part == "unet":
        tail = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
        ends = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
                "conv_norm_out": "out.0", "conv_out": "out.2"}
        stem, last = name.rsplit(".", 1)
        if stem in ends:
            name = f"{ends[stem]}.{last}"
        elif m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            i, k, rest = int(m[2]), int(m[4]), m[5]
            block = f"input_blocks.{i * (layers + 1) + 1 + k}" if m[1] == "down" else f"output_blocks.{i * (layers + 1) + k}"
            if m[3] == "resnets":
                head, _, end = rest.partition(".")
                name = f"{block}.0.{tail[head]}.{end}"
            else:
                name = f"{block}.1.{rest}"
        elif m := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
            k, rest = int(m[2]), m[3]
            head, _, end = rest.partition(".")
            name = f"middle_block.{2 * k}.{tail[head]}.{end}" if m[1] == "resnets" else f"middle_block.{2 * k + 1}.{rest}"
        elif m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            name = f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op.{m[2]}"
        elif m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
            name = f"output_blocks.{int(m[1]) * (layers + 1) + layers}.{{ATT}}.conv.{m[2]}"
        return "model.diffusion_model." + name
    tail = {"conv_shortcut": "nin_shortcut"}
    attn = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    half, _, rest = name.partition(".")
    if m := re.match(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)\.(.*)", rest):
        i = int(m[2]) if m[1] == "down" else levels - 1 - int(m[2])
        rest = f"{m[1]}.{i}.block.{m[3]}.{tail.get(m[4], m[4])}.{m[5]}"
    elif m := re.match(r"mid_block\.resnets\.(\d+)\.(.*)", rest):
        rest = f"mid.block_{int(m[1]) + 1}.{m[2]}"
    elif m := re.match(r"mid_block\.attentions\.0\.(.*)\.(weight|bias)", rest):
        rest = f"mid.attn_1.{attn[m[1]]}.{m[2]}"
    elif m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", rest):
        rest = f"down.{m[1]}.downsample.conv.{m[2]}"
    elif m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", rest):
        rest = f"up.{levels - 1 - int(m[1])}.upsample.conv.{m[2]}"
    elif rest.startswith("conv_norm_out"):
        rest = rest.replace("conv_norm_out", "norm_out")
    return "first_stage_model." + (f"{half}.{rest}" if half in ("encoder", "decoder") else name)


def one_file(parts):
    """[[name in the file, PART/name it is filled as], ...] of a whole model, as diffusers' converters prove."""
    from diffusers.loaders import single_file_utils as sf
    rows, state = [], {}
    for part in ("unet", "vae"):
        module = parts[part]
        own = module.state_dict()
        for name, p in own.items():
            file = first_names(part, name)
            if "{ATT}" in file:
                up = int(name.split(".")[1])
                file = file.replace("{ATT}", "2" if "CrossAttn" in module.config.up_block_types[up] else "1")
            if part == "vae" and "attentions.0.to" in name and name.endswith("weight"):
                p = p[:, :, None, None]
            state[file] = p
            rows.append([file, part, name, list(p.shape)])
        made = (sf.convert_ldm_unet_checkpoint if part == "unet" else sf.convert_ldm_vae_checkpoint)(dict(state), dict(module.config))
        assert sorted(made) == sorted(own) and all(torch.equal(made[k].reshape(own[k].shape), own[k]) for k in own), part
    return rows, state


def single():
    """A single file of the first kind."""
    parts = dict(vae=fill("vae", vae(layers_per_block=2, norm_num_groups=32, block_out_channels=(32, 32, 64, 64), scaling_factor=0.18215)), text_encoder=fill("text_encoder", clip(heads=1)),
                 unet=fill("unet", unet(block_out_channels=(32, 64, 64, 64), layers_per_block=2, norm_num_groups=32, attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), scheduler=df.DDIMScheduler(**SD_INIT), safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
    rows, _ = one_file(parts)
    for name, p in parts["text_encoder"].state_dict().items():
        if p.dtype.is_floating_point:
            rows.append([f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}", "text_encoder", name.removeprefix("text_model."), list(p.shape)])
    FILES["single"] = rows
    return make, "StableDiffusionPipeline", pick(dict(SD, timestep_spacing="leading"), "pndm")


def single_xl():
    """SDXL in a single file: the second text encoder with OpenCLIP's names, its three matrices of attention in one."""
    second = clip(64, 3, 1, "gelu", 40, "CLIPTextModelWithProjection")
    parts = dict(vae=fill("vae", vae(layers_per_block=2, norm_num_groups=32, block_out_channels=(32, 32, 64, 64), scaling_factor=0.13025)), text_encoder=fill("text_encoder", clip(heads=1)), text_encoder_2=fill("text_encoder_2", second),
                 unet=fill("unet", xl_unet(block_out_channels=(32, 64, 64), layers_per_block=2, norm_num_groups=32, attention_head_dim=(1, 1, 1), transformer_layers_per_block=(1, 2, 1), cross_attention_dim=96, addition_time_embed_dim=256,
                                           projection_class_embeddings_input_dim=40 + 6 * 256, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), tokenizer_2=tokenizer("!"), scheduler=df.DDIMScheduler(**SD_INIT), **parts)
    rows, _ = one_file(parts)
    for name, p in parts["text_encoder"].state_dict().items():
        if p.dtype.is_floating_point:
            rows.append([f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}", "text_encoder", name.removeprefix("text_model."), list(p.shape)])
    swaps = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
    ends = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight": "positional_embedding", "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}
    seen = set()
    for name, p in second.state_dict().items():
        short = name.removeprefix("text_model.")
        to = "conditioner.embedders.1.model."
        if not p.dtype.is_floating_point:
            continue
        if short in ends:
            rows.append([to + ends[short], "text_encoder_2", name, list(p.shape)])
        elif short == "text_projection.weight":
            rows.append([to + "text_projection", "text_encoder_2", "turned:" + name, [p.shape[1], p.shape[0]]])
        elif "_proj." in short and "out_proj" not in short:
            layer, last = short.split(".")[2], short.rsplit(".", 1)[1]
            if (layer, last) in seen:
                continue
            seen.add((layer, last))
            three = ",".join(name.replace(name.split(".")[-2], q) for q in ("q_proj", "k_proj", "v_proj"))
            rows.append([f"{to}transformer.resblocks.{layer}.attn.in_proj_{last}", "text_encoder_2", "three:" + three, [3 * p.shape[0]] + list(p.shape[1:])])
        else:
            _, _, layer, rest = short.split(".", 3)
            stem, last = rest.rsplit(".", 1)
            rows.append([f"{to}transformer.resblocks.{layer}.{swaps[stem]}.{last}", "text_encoder_2", name, list(p.shape)])
    FILES["single_xl"] = rows
    return make, "StableDiffusionXLPipeline", pick({k: v for k, v in SD.items() if k != "skip_prk_steps"} | dict(timestep_spacing="leading"), "euler")


def t5(width):
    c = tf.T5Config(vocab_size=64, d_model=width, d_kv=6, d_ff=24, num_layers=2, num_heads=2, relative_attention_num_buckets=8, relative_attention_max_distance=20, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return tf.T5EncoderModel(c)


def t5_tokenizer(length):
    """Letters and a few words, as SentencePiece's Unigram has them."""
    words = ["\u2581a", "\u2581red", "\u2581circle", "\u2581large", "\u2581blue", "\u2581square", "\u2581in", "\u2581the", "\u2581center", "\u2581on", "\u2581white", "\u2581background", "\u2581small"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(w, -2.0 - 0.1 * i) for i, w in enumerate(words)] + [(c, -8.0 - 0.01 * i) for i, c in enumerate("\u2581abcdefghijklmnopqrstuvwxyz")]
    return tf.T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


FLOW = dict(num_train_timesteps=1000, shift=3.0)


def dit_vae():
    return vae(latent_channels=8, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.8)


def sd3(with_t5=False, **more):
    """The last block leaves the texts; the 3.5 form has norms of queries and keys and a second attention in some blocks."""
    c = dict(sample_size=16, patch_size=2, in_channels=8, num_layers=3, attention_head_dim=8, num_attention_heads=3, joint_attention_dim=48, caption_projection_dim=24, pooled_projection_dim=36, out_channels=8, pos_embed_max_size=12)
    c.update(more)
    parts = dict(vae=fill("vae", dit_vae()), text_encoder=fill("text_encoder", clip(24, 3, 2, projection=16, cls="CLIPTextModelWithProjection")), text_encoder_2=fill("text_encoder_2", clip(16, 2, 2, "gelu", 20, "CLIPTextModelWithProjection")),
                 transformer=fill("transformer", df.SD3Transformer2DModel(**c)), text_encoder_3=fill("text_encoder_3", t5(48)) if with_t5 else None)
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), tokenizer_2=tokenizer("!"), tokenizer_3=t5_tokenizer(256) if with_t5 else None, scheduler=df.FlowMatchEulerDiscreteScheduler(**FLOW), **parts)
    return make, "StableDiffusion3Pipeline", parts


def sd3_plain():
    make, pipeline, _ = sd3()
    size = dict(width=64, height=32)
    return make, pipeline, pick(FLOW, "flow_euler", **size) + pick(FLOW, "flow_euler", n=2, guidance=1.0, **size) + pick(FLOW, "flow_euler", image=True, strength=0.6, pipeline="StableDiffusion3Img2ImgPipeline", **size) + \
        pick(dict(FLOW, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=4, max_image_seq_len=64, shift=1.0), "flow_euler", **size)


def sd35_t5():
    make, pipeline, _ = sd3(True, qk_norm="rms_norm", dual_attention_layers=(0, 1))
    return make, pipeline, pick(FLOW, "flow_euler", width=32, height=64)


def flux():
    parts = dict(vae=fill("vae", dit_vae()), text_encoder=fill("text_encoder", clip(24, 2, 2)), text_encoder_2=fill("text_encoder_2", t5(40)),
                 transformer=fill("transformer", df.FluxTransformer2DModel(in_channels=32, num_layers=2, num_single_layers=2, attention_head_dim=12, num_attention_heads=2, joint_attention_dim=40, pooled_projection_dim=24, guidance_embeds=True, axes_dims_rope=(4, 4, 4))))
    make = lambda cls: getattr(df, cls)(tokenizer=tokenizer(), tokenizer_2=t5_tokenizer(512), scheduler=df.FlowMatchEulerDiscreteScheduler(**FLOW), **parts)
    shift = dict(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)
    return make, "FluxPipeline", pick(shift, "flow_euler", width=48, height=32, negative="") + pick(dict(num_train_timesteps=1000, shift=1.0), "flow_euler", width=32, height=32, negative="", guidance=1.5)


FILES = {}
SD_INIT = {k: v for k, v in SD.items() if k != "skip_prk_steps"}


def write(name):
    make, pipeline, cases = MODELS[name]()
    with tempfile.TemporaryDirectory() as d:
        pipe = make(pipeline)
        pipe.save_pretrained(d)
        pads = [getattr(pipe, t, None) is not None and getattr(pipe, t).pad_token == "!" for t in ("tokenizer", "tokenizer_2")]
        doc = {"index": json.load(open(f"{d}/model_index.json")), "pads": pads, "parts": {}, "groups": []}
        for part in sorted(os.listdir(d)):
            files = [f for f in os.listdir(f"{d}/{part}") if f.endswith(".safetensors")] if os.path.isdir(f"{d}/{part}") else []
            if not files:
                continue
            tensors = []
            with safe_open(f"{d}/{part}/{files[0]}", "pt") as f:
                for key in sorted(f.keys()):
                    shape = list(f.get_slice(key).get_shape())
                    tensors.append([key, shape, *scale_of(key, shape)])
            config = json.load(open(f"{d}/{part}/config.json"))
            doc["parts"][part] = {"file": files[0], "config": config, "tensors": tensors}
        for part in ("tokenizer_2", "tokenizer_3"):      # tokenizers of another kind than CLIP's travel along
            if os.path.isdir(f"{d}/{part}") and type(getattr(pipe, part)).__name__.startswith("T5"):
                doc.setdefault("tokenizers", {})[part] = {f: open(f"{d}/{part}/{f}").read() for f in os.listdir(f"{d}/{part}") if f in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")}
    groups = {}
    for entry in cases:
        if len(entry) == 2:      # drawn already
            groups.setdefault(json.dumps(entry[0], sort_keys=True), []).append(entry[1])
            print(f"{name} {entry[0]['_class_name']} spread {np.std(entry[1]['latents'][-1]):.2f}", flush=True)
            continue
        sampler, schedule, config, case = entry
        pipe = make(case.pop("pipeline", pipeline))
        pipe.scheduler = scheduler(sampler, config, schedule)
        pipe.set_progress_bar_config(disable=True)
        drawn = draw(pipe, case)
        own = case["sampler"] == "model"
        key = json.dumps(written(sampler, config, schedule if own else None) if own else written("ddim", config), sort_keys=True)
        groups.setdefault(key, []).append(drawn)
        spread = np.std(drawn["latents"][-1]) if drawn["latents"] else 0
        print(f"{name} {sampler} {schedule or ''} {len(drawn['latents'])} steps, spread {spread:.2f}", flush=True)
    if name in FILES:      # names in the file, and which of the parts' tensors they are
        doc["file"] = [[f, part, t] for f, part, t, _ in FILES[name]]
    doc["groups"] = [{"scheduler": json.loads(k), "cases": v} for k, v in groups.items()]
    path = os.path.join(OUT, f"{name}.json")
    with open(path, "w") as f:
        json.dump(doc, f, separators=(",", ":"))
    print(path, os.path.getsize(path))


MODELS = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl, "refiner": refiner, "lcm": lcm, "ddpm": ddpm, "classes": classes, "ldm": ldm, "taesd": taesd, "inpaint": inpaint, "single": single, "single_xl": single_xl, "sd3": sd3_plain, "sd35_t5": sd35_t5, "flux": flux}

if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    torch.manual_seed(0)
    for model in sys.argv[1:] or MODELS:
        write(model)
