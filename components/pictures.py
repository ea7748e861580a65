"""Pictures for people: what a model makes, beside what it was shown."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.dataset import Split
from components.generative import GenerativeModel, Reconstructs
from components.sampling import Reconstructions, Samples
from components.sheets import Rows, labelled_grids, rows_by_category

COLUMNS = 8
MAX_CATEGORIES = 20
UNCONDITIONAL_ROWS = 4
"""Rows of a model without conditions, which has no categories to have a row each."""


def pictures(model: GenerativeModel, split: Split, seed: int) -> dict[str, Image.Image]:
    """The pictures of an evaluation, by file name.

    - `samples.png`: categories as rows; each column has the same latents in every row.
    - `real_and_generated.png`: per category real images on the left, generated ones of the same
      conditions on the right.
    - `reconstructions.png`: originals over their reconstructions, if the model reconstructs.

    A category without an image in the split has no row; after the 20th the rest is left out. Without conditions
    there are four rows of different images instead.

    Args:
        model: on the device that computes.
        split: whose images and conditions are shown.
        seed: of the latents.
    """
    shown = dict(list(rows_by_category(split).items())[:MAX_CATEGORIES])
    labels = list(shown) if split.attributes else [""] * UNCONDITIONAL_ROWS
    made = {
        "samples.png": _samples(model, split, shown, labels, seed),
        "real_and_generated.png": _real_and_generated(model, split, shown, labels, seed),
    }
    if isinstance(model, Reconstructs):
        parts = np.array_split(np.arange(len(split)), min(COLUMNS, len(split)))
        columns = list(shown.values()) if split.attributes else parts
        made["reconstructions.png"] = _reconstructions(model, split, columns)
    return made


def _samples(model: GenerativeModel, split: Split, shown: Rows, labels: list[str], seed: int) -> Image.Image:
    # Seeded anew for each category, so that a column shows one latent in all of them.
    images = [_generated(model, split, chosen, seed) for chosen in _chosen(shown, labels)]
    return labelled_grids([("", torch.cat(images))], labels)


def _real_and_generated(model: GenerativeModel, split: Split, shown: Rows, labels: list[str], seed: int) -> Image.Image:
    chosen = np.concatenate(_chosen(shown, labels))
    # Other latents than in samples.png: twice as many samples are seen.
    fakes = _generated(model, split, chosen, seed + 1)
    return labelled_grids([("real", torch.from_numpy(split.gather(chosen))), ("generated", fakes)], labels)


def _chosen(shown: Rows, labels: list[str]) -> list[NDArray[np.int64]]:
    """Per category the row numbers of the images that fill its share of the labelled rows."""
    return [np.resize(rows, COLUMNS * len(labels) // len(shown)) for rows in shown.values()]


def _reconstructions(model: GenerativeModel, split: Split, columns: Sequence[NDArray[np.int64]]) -> Image.Image:
    """Originals over their reconstructions, twice; one of each column's images at a time."""
    bands: list[Tensor] = []
    for example in (0, 1):
        chosen = np.array([rows[example % len(rows)] for rows in columns])
        for originals, images in Reconstructions(model, split, chosen):
            bands += [originals, images]
    return labelled_grids([("", torch.cat(bands))], ["original", "reconstruction"] * 2)


def _generated(model: GenerativeModel, split: Split, rows: NDArray[np.int64], seed: int) -> Tensor:
    return torch.cat(list(Samples(model, split.conditions_NA[rows], split.image_shape, seed)))
