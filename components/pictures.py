"""Pictures for people: what a model makes, beside what it was shown."""

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


def _samples(model: GenerativeModel, split: Split, shown: Rows, seed: int) -> Image.Image:
    # Seeded anew for each row, so that a column shows one latent in all categories.
    images = [_generated(model, split, np.resize(rows, COLUMNS), seed) for rows in shown.values()]
    return labelled_grids([("", torch.cat(images))], list(shown))


def _real_and_generated(model: GenerativeModel, split: Split, shown: Rows, seed: int) -> Image.Image:
    chosen = np.concatenate([np.resize(rows, COLUMNS) for rows in shown.values()])
    # Other latents than in samples.png: twice as many samples are seen.
    fakes = _generated(model, split, chosen, seed + 1)
    return labelled_grids([("real", torch.from_numpy(split.gather(chosen))), ("generated", fakes)], list(shown))


def _reconstructions(model: GenerativeModel, split: Split, shown: Rows) -> Image.Image:
    bands: list[Tensor] = []
    for example in (0, 1):
        chosen = np.array([rows[example % len(rows)] for rows in shown.values()])
        for originals, images in Reconstructions(model, split, chosen):
            bands += [originals, images]
    return labelled_grids([("", torch.cat(bands))], ["original", "reconstruction"] * 2)


def _generated(model: GenerativeModel, split: Split, rows: NDArray[np.int64], seed: int) -> Tensor:
    return torch.cat(list(Samples(model, split.conditions_NA[rows], split.image_shape, seed)))
