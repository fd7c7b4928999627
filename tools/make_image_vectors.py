#!/usr/bin/env python3
"""Writes tests/base/image_vectors.h (small pictures, and what Pillow makes of them) and the corpus of the picture fuzzer. Needs Pillow and numpy."""
import io
import os
import sys

import numpy as np
from PIL import Image

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def array(name, data):
    body = ",".join(str(b) for b in data)
    lines, line = [], ""
    for item in body.split(","):
        if len(line) + len(item) > 150:
            lines.append(line)
            line = ""
        line += item + ","
    lines.append(line)
    return f"static const unsigned char {name}[{len(data)}] = {{\n    " + "\n    ".join(lines) + "\n};\n"


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def main():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[0:17, 0:23]
    smooth = np.stack([x * 11, y * 15, (x * y) % 256], 2).astype(np.uint8)
    noisy = rng.integers(0, 256, (17, 23, 3), np.uint8)
    picture = Image.fromarray(np.where((x + y)[..., None] % 7 < 4, smooth, noisy).astype(np.uint8))
    grey = picture.convert("L")
    text = ["/* Made by tools/make_image_vectors.py with Pillow: a picture of 23 x 17 pixels, its encodings, decodings and resizings. */\n#ifndef TESTS_BASE_IMAGE_VECTORS_H\n#define TESTS_BASE_IMAGE_VECTORS_H\n"]
    text.append(array("picture_rgb", picture.tobytes()))
    text.append(array("picture_grey", grey.tobytes()))

    alpha = np.dstack([np.asarray(picture), (x * 11).astype(np.uint8)])
    black = ((alpha[..., :3].astype(int) * alpha[..., 3:] + 127) // 255).astype(np.uint8)
    text.append(array("picture_on_black", black.tobytes()))
    files = {
        "jpeg": encode(picture, "JPEG", quality=90),
        "jpeg_progressive": encode(picture, "JPEG", quality=60, progressive=True),
        "jpeg_grey": encode(grey, "JPEG", quality=80),
        "jpeg_cmyk": encode(picture.convert("CMYK"), "JPEG", quality=95),
        "png": encode(picture, "PNG", optimize=True),
        "png_alpha": encode(Image.fromarray(alpha, "RGBA"), "PNG", optimize=True),
        "png_grey": encode(grey, "PNG", optimize=True),
        "png_palette": encode(picture.quantize(16), "PNG", optimize=True),
        "png_16": encode(Image.fromarray((np.asarray(grey).astype(np.uint16) * 257)), "PNG"),
        "png_bit": encode(grey.convert("1"), "PNG"),
        "webp": encode(picture, "WEBP", lossless=True),
        "webp_lossy": encode(picture, "WEBP", quality=50),
        "webp_alpha": encode(Image.fromarray(alpha, "RGBA"), "WEBP", lossless=True, exact=True),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    files["jpeg_turned"] = encode(picture, "JPEG", quality=90, exif=exif)
    for name, data in files.items():
        text.append(array("file_" + name, data))
    for name in ("jpeg", "jpeg_progressive", "jpeg_grey", "jpeg_cmyk", "webp_lossy"):
        image = Image.open(io.BytesIO(files[name]))
        text.append(array("decoded_" + name, (image if image.mode == "L" else image.convert("RGB")).tobytes()))
    text.append(array("decoded_png_palette", Image.open(io.BytesIO(files["png_palette"])).convert("RGB").tobytes()))
    text.append(array("decoded_png_bit", grey.convert("1").convert("L").tobytes()))

    cases = []
    for mode, image in (("rgb", picture), ("grey", grey)):
        for filter_name, method in (("NEAREST", Image.NEAREST), ("BILINEAR", Image.BILINEAR), ("BICUBIC", Image.BICUBIC)):
            for w, h in ((10, 8), (23, 5), (27, 19), (7, 17), (1, 1)):
                name = f"resized_{mode}_{filter_name.lower()}_{w}_{h}"
                text.append(array(name, image.resize((w, h), method).tobytes()))
                cases.append(f"    {{ {3 if mode == 'rgb' else 1}, IMAGE_{filter_name}, {w}, {h}, {name} }},")
    text.append("static const struct { int channels; enum image_filter filter; int width, height; const unsigned char *want; } resizings[] = {\n" + "\n".join(cases) + "\n};\n\n#endif\n")
    with open(os.path.join(ROOT, "tests/base/image_vectors.h"), "w") as f:
        f.write("\n".join(text))

    corpus = os.path.join(ROOT, "tests/fuzz/corpus/image")
    os.makedirs(corpus, exist_ok=True)
    for name, data in files.items():
        with open(os.path.join(corpus, name), "wb") as f:
            f.write(data)


if __name__ == "__main__":
    sys.exit(main())
