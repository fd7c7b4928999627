#!/usr/bin/env python3
"""A diffusers folder of Stable Diffusion 1.5's shape with random float16 weights, for measuring: make_sd15.py OUT

The tokenizer is that of models/shapes (its ids are below the text encoder's 49,408). Needs PyPI's torch, transformers and diffusers; about 2 GB of disk.
"""
import json
import math
import os
import shutil
import struct
import sys

import torch
import diffusers as df
import transformers as tf

HERE = os.path.dirname(os.path.abspath(__file__))


def write(folder, file, module, config):
    """Weights drawn one tensor at a time: the model is never in memory as a whole."""
    os.makedirs(folder, exist_ok=True)
    json.dump(config, open(f"{folder}/config.json", "w"), indent=1)
    head, offset, shapes = {"__metadata__": {"format": "pt"}}, 0, []
    for name, p in module.state_dict().items():
        if not p.dtype.is_floating_point:
            continue
        n = p.numel() * 2
        head[name] = {"dtype": "F16", "shape": list(p.shape), "data_offsets": [offset, offset + n]}
        shapes.append((name, tuple(p.shape)))
        offset += n
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{folder}/{file}", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 1
            x = torch.ones(shape) if "norm" in name and name.endswith("weight") and len(shape) == 1 else torch.randn(shape) * (0.02 if len(shape) == 1 else 1 / math.sqrt(fan))
            f.write(x.half().numpy().tobytes())
    print(folder, offset)


out = sys.argv[1]
torch.manual_seed(0)
with torch.device("meta"):
    unet = df.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = df.AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512)
    text_config = tf.CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, max_position_embeddings=77, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407)
    text = tf.CLIPTextModel(text_config)
write(f"{out}/unet", "diffusion_pytorch_model.safetensors", unet, dict(unet.config, _class_name="UNet2DConditionModel"))
write(f"{out}/vae", "diffusion_pytorch_model.safetensors", vae, dict(vae.config, _class_name="AutoencoderKL"))
write(f"{out}/text_encoder", "model.safetensors", text, dict(text_config.to_dict(), architectures=["CLIPTextModel"]))
shutil.copytree(os.path.join(HERE, "..", "models", "shapes", "1", "tokenizer"), f"{out}/tokenizer", dirs_exist_ok=True)
os.makedirs(f"{out}/scheduler", exist_ok=True)
json.dump({"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False}, open(f"{out}/scheduler/scheduler_config.json", "w"))
json.dump({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
           "scheduler": ["diffusers", "PNDMScheduler"], "safety_checker": [None, None], "feature_extractor": [None, None]}, open(f"{out}/model_index.json", "w"))
