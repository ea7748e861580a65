"""Pictures for people: what a model makes, beside what it was shown."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.dataset import AttributeValues, Split
from components.generative import GenerativeModel, Reconstructs
from components.images import grid
from components.sampling import Reconstructions, Samples

COLUMNS = 8
MAX_CATEGORIES = 20
GAP, MARGIN, INDENT = 2, 22, 6
SHOWN_SIZE = 64
"""Pixels below which images are enlarged by a whole factor."""

Rows = dict[str, NDArray[np.int64]]
"""Per category the row numbers of its images in a split."""


def pictures(model: GenerativeModel, split: Split, seed: int) -> dict[str, Image.Image]:
    """The pictures of an evaluation, by file name.

    - `samples.png`: categories as rows; each column has the same latents in every row.
    - `real_and_generated.png`: per category real images on the left, generated ones of the same
      conditions on the right.
    - `reconstructions.png`: originals over their reconstructions, if the model reconstructs.

    A category without an image in the split has no row; after the 20th the rest is left out.

    Args:
        model: on the device that computes.
        split: whose images and conditions are shown.
        seed: of the latents.
    """
    shown = dict(list(rows_by_category(split).items())[:MAX_CATEGORIES])
    made = {
        "samples.png": _samples(model, split, shown, seed),
        "real_and_generated.png": _real_and_generated(model, split, shown, seed),
    }
    if isinstance(model, Reconstructs):
        made["reconstructions.png"] = _reconstructions(model, split, shown)
    return made


def category_attribute(attributes: AttributeValues) -> str:
    """The attribute that results are broken down by: `category`, or else the first."""
    return "category" if "category" in attributes else next(iter(attributes))


def rows_by_category(split: Split) -> Rows:
    """Row numbers of each category's images; a category without any is left out."""
    name = category_attribute(split.attributes)
    codes_N = split.conditions_NA[:, list(split.attributes).index(name)]
    rows = {value: np.flatnonzero(codes_N == code) for code, value in enumerate(split.attributes[name])}
    return {value: found for value, found in rows.items() if len(found)}


def _samples(model: GenerativeModel, split: Split, shown: Rows, seed: int) -> Image.Image:
    # Seeded anew for each row, so that a column shows one latent in all categories.
    images = [_generated(model, split, np.resize(rows, COLUMNS), seed) for rows in shown.values()]
    return _sheet([("", torch.cat(images))], list(shown))


def _real_and_generated(model: GenerativeModel, split: Split, shown: Rows, seed: int) -> Image.Image:
    chosen = np.concatenate([np.resize(rows, COLUMNS) for rows in shown.values()])
    # Other latents than in samples.png: twice as many samples are seen.
    fakes = _generated(model, split, chosen, seed + 1)
    return _sheet([("real", torch.from_numpy(split.images_NCHW[chosen])), ("generated", fakes)], list(shown))


def _reconstructions(model: GenerativeModel, split: Split, shown: Rows) -> Image.Image:
    bands: list[Tensor] = []
    for example in (0, 1):
        chosen = np.array([rows[example % len(rows)] for rows in shown.values()])
        for originals, images in Reconstructions(model, split, chosen):
            bands += [originals, images]
    return _sheet([("", torch.cat(bands))], ["original", "reconstruction"] * 2)


def _generated(model: GenerativeModel, split: Split, rows: NDArray[np.int64], seed: int) -> Tensor:
    shape = split.images_NCHW.shape[1:]
    return torch.cat(list(Samples(model, split.conditions_NA[rows], (shape[0], shape[1], shape[2]), seed)))


def _sheet(panels: Sequence[tuple[str, Tensor]], labels: Sequence[str]) -> Image.Image:
    """Grids side by side with headings, and a label before each row.

    Args:
        panels: heading and uint8 images (rows * columns, C, H, W) of each grid.
        labels: one per row.
    """
    height = panels[0][1].shape[-2]
    scale = max(1, SHOWN_SIZE // height)
    grids = [grid(images, len(images) // len(labels), GAP, scale) for _, images in panels]
    font = ImageFont.load_default(size=14)
    left = max(int(font.getlength(label)) for label in labels) + 2 * INDENT
    top = MARGIN if any(heading for heading, _ in panels) else 0
    width = left + sum(part.width for part in grids) + MARGIN * (len(grids) - 1)
    sheet = Image.new("RGB", (width, top + grids[0].height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(labels):
        middle = top + (GAP + row * (height + GAP) + height / 2) * scale
        draw.text((INDENT, middle), label, fill="black", font=font, anchor="lm")
    for (heading, _), part in zip(panels, grids, strict=True):
        draw.text((left + GAP * scale, MARGIN / 2), heading, fill="black", font=font, anchor="lm")
        sheet.paste(part, (left, top))
        left += part.width + MARGIN
    return sheet
