#!/usr/bin/env python3
"""Sentences about one coloured shape, drawn by inferd and by diffusers with the same first noise, sampler and steps; the pictures are read: is the colour at the place?

usage: check_shapes.py [--inferd build/release/inferd] [--count 200] [--steps 25] [--guidance 4]
Ends with status 1 when inferd has fewer right than diffusers. Needs PyPI's torch, transformers and diffusers.
"""
import argparse
import os
import random
import subprocess
import sys
import tempfile
import warnings

import numpy as np
from PIL import Image

warnings.filterwarnings("ignore")
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (245, 215, 50), "purple": (150, 60, 190), "orange": (245, 140, 30), "white": (250, 250, 250), "black": (20, 20, 20)}
GROUNDS = {"white": (250, 250, 250), "black": (20, 20, 20), "gray": (128, 128, 128), "pink": (250, 190, 205), "cyan": (150, 225, 235)}
PLACES = {"on the left": (0.27, 0.5), "on the right": (0.73, 0.5), "at the top": (0.5, 0.27), "at the bottom": (0.5, 0.73), "in the center": (0.5, 0.5)}


def right(picture, colour, place):
    x, y = (int(v * 64) for v in PLACES[place])
    seen = picture[y - 2:y + 3, x - 2:x + 3].reshape(-1, 3).mean(0)
    every = {**COLOURS, **GROUNDS}
    return min(every, key=lambda c: ((seen - every[c]) ** 2).sum()) == colour


a = argparse.ArgumentParser()
a.add_argument("--inferd", default="build/release/inferd")
a.add_argument("--model", default="models/shapes")
a.add_argument("--count", type=int, default=200)
a.add_argument("--steps", type=int, default=25)
a.add_argument("--guidance", type=float, default=4)
o = a.parse_args()
import torch
import diffusers

diffusers.utils.logging.set_verbosity_error()
pipe = diffusers.StableDiffusionPipeline.from_pretrained(os.path.join(o.model, "1"), torch_dtype=torch.float32, safety_checker=None)
pipe.set_progress_bar_config(disable=True)
rng, ours, theirs, equal = random.Random(5), 0, 0, 0
with tempfile.TemporaryDirectory() as d:
    for i in range(o.count):
        ground = rng.choice(list(GROUNDS))
        colour, place, shape = rng.choice([c for c in COLOURS if c != ground]), rng.choice(list(PLACES)), rng.choice(["circle", "square", "diamond", "triangle", "star"])
        prompt = f"a {rng.choice(['large', 'small'])} {colour} {shape} {place} on a {ground} background"
        subprocess.run([o.inferd, "draw", o.model, "--prompt", prompt, "--seed", str(i), "--steps", str(o.steps), "--guidance", str(o.guidance), "--output", f"{d}/x.png", "--quiet"], check=True)
        mine = np.asarray(Image.open(f"{d}/x.png").convert("RGB")).astype(float)
        their = np.asarray(pipe(prompt, num_inference_steps=o.steps, guidance_scale=o.guidance, width=64, height=64, generator=torch.Generator().manual_seed(i)).images[0]).astype(float)
        ours += right(mine, colour, place)
        theirs += right(their, colour, place)
        equal += np.abs(mine - their).max() <= 1
print(f"{ours} of {o.count} right by inferd, {theirs} by diffusers; {equal} pictures equal to one step of 255")
sys.exit(ours < theirs)
