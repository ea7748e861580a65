"""A folder of product photos as a shop may have it, drawn anew for each test: real files, no data set needed."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CATEGORIES = ("bag", "dress", "hat")
COLORS = {"red": (200, 30, 40), "blue": (40, 70, 190), "black": (25, 25, 28)}


def draw_photo(category: str, color: str, generator: np.random.Generator) -> Image.Image:
    """One product on a plain background, in a place, size and shape of its own; RGB."""
    width, height = (int(generator.integers(150, 260)) for _ in range(2))
    photo = Image.new("RGB", (width, height), (242, 241, 238))
    left, top = (float(generator.uniform(0.1, 0.25)) for _ in range(2))
    right, bottom = (float(generator.uniform(0.75, 0.9)) for _ in range(2))
    box = (left * width, top * height, right * width, bottom * height)
    draw = ImageDraw.Draw(photo)
    if category == "bag":
        draw.rectangle(box, fill=COLORS[color])
    elif category == "dress":
        x0, y0, x1, y1 = box
        neck = float(generator.uniform(0.2, 0.4)) * (x1 - x0)
        draw.polygon([(x0 + neck, y0), (x1 - neck, y0), (x1, y1), (x0, y1)], fill=COLORS[color])
    else:
        draw.ellipse(box, fill=COLORS[color])
    # A pattern of its own: products of one kind and colour are still different products.
    for _ in range(int(generator.integers(4, 9))):
        x, y = generator.uniform(box[0], box[2]), generator.uniform(box[1], box[3])
        size = generator.uniform(4, 30)
        shade = tuple(int(value) for value in generator.integers(0, 255, 3))
        draw.ellipse((x - size, y - size, x + size, y + size), fill=shade)
    noise = generator.normal(0, 3, (height, width, 3))
    pixels = np.clip(np.asarray(photo.filter(ImageFilter.GaussianBlur(0.7))) + noise, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def write_photos(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Writes `count` JPEGs as <category>/<number>.jpg, categories and colours in turn."""
    generator = np.random.default_rng(seed)
    paths = []
    for number in range(count):
        category = CATEGORIES[number % len(CATEGORIES)]
        color = tuple(COLORS)[(number // len(CATEGORIES)) % len(COLORS)]
        path = folder / category / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_photo(category, color, generator).save(path, quality=90)
        paths.append(path)
    return paths
