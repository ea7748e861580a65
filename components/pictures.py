"""Pictures for people: what a model makes, beside what it was shown and what another one makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from components.dataset import Split
from components.generative import GenerativeModel, Reconstructs
from components.images import grid, to_uint8
from components.sampling import IMAGES_AT_ONCE, Reconstructions, Samples
from components.sheets import GAP, Rows, captioned_groups, enlargement, labelled_grids, rows_by_category

COLUMNS = 8
COMPARED = 6
"""Of these columns, those shown per model where several stand side by side."""
MAX_CATEGORIES = 20
UNCONDITIONAL_ROWS = 4
"""Rows of a model without conditions, which has no categories to have a row each."""
PAIRS_IN_ROW = 5


@dataclass(frozen=True)
class ClosePair:
    """A generated image and the training photo nearest to it.

    Attributes:
        sample, photo: uint8 (C, H, W).
        label: for people, as the distance.
        registered: the photo flipped, shifted or recoloured as it fits the sample best, uint8 (C, H, W).
    """

    sample: Tensor
    photo: Tensor
    label: str
    registered: Tensor | None = None


@dataclass(frozen=True)
class Comparison:
    """Images of several models and real ones, by category.

    Attributes:
        labels: one per row.
        panels: by heading, uint8 images (rows * COMPARED, C, H, W).
    """

    labels: list[str]
    panels: dict[str, Tensor]

    def sheet(self) -> Image.Image:
        """All in one picture, the panels side by side."""
        return labelled_grids(list(self.panels.items()), self.labels)

    def strips(self) -> list[tuple[str, dict[str, Image.Image]]]:
        """Per row its label and, by heading, its images side by side: for a page that lays them out itself."""
        scale = enlargement(next(iter(self.panels.values())))
        strips: list[tuple[str, dict[str, Image.Image]]] = []
        for row, label in enumerate(self.labels):
            columns = slice(row * COMPARED, (row + 1) * COMPARED)
            found = {heading: grid(images[columns], COMPARED, GAP, scale) for heading, images in self.panels.items()}
            strips.append((label, found))
        return strips


def pictures(model: GenerativeModel, split: Split, seed: int) -> dict[str, Image.Image]:
    """The pictures of an evaluation, by file name.

    - `samples.png`: categories as rows; each column has the same latents in every row.
    - `real_and_generated.png`: per category real images on the left, generated ones of the same
      conditions on the right.
    - `interpolations.png`: per category the way from one latent to another, under the same conditions.
    - `reconstructions.png`: originals over their reconstructions, if the model reconstructs.

    A category without an image in the split has no row; after the 20th the rest is left out. Without conditions
    there are four rows of different images instead.

    Args:
        model: on the device that computes.
        split: whose images and conditions are shown.
        seed: of the latents.
    """
    shown, labels = _rows(split)
    made = {
        "samples.png": labelled_grids([("", _samples(model, split, _chosen(shown, labels), seed))], labels),
        "real_and_generated.png": _real_and_generated(model, split, shown, labels, seed),
        "interpolations.png": _interpolations(model, split, shown, labels, seed),
    }
    if isinstance(model, Reconstructs):
        parts = np.array_split(np.arange(len(split)), min(COLUMNS, len(split)))
        columns = list(shown.values()) if split.attributes else parts
        made["reconstructions.png"] = _reconstructions(model, split, columns)
    return made


def compare(models: Mapping[str, GenerativeModel], split: Split, seed: int) -> Comparison:
    """What several models make under the same conditions from latents of the same seed, beside real images.

    The first columns of each model's `samples.png`, and real images of these conditions.

    Args:
        models: by heading, as `candidate` and `champion`; for the split's conditions, on the devices that compute.
    """
    shown, labels = _rows(split)
    chosen = _chosen(shown, labels)
    panels = {heading: _first_columns(_samples(model, split, chosen, seed)) for heading, model in models.items()}
    real = torch.from_numpy(split.gather(np.concatenate(chosen)))
    return Comparison(labels, {**panels, "real": _first_columns(real)})


def closest_pairs(pairs: Sequence[ClosePair]) -> Image.Image:
    """Each generated image beside the training photo nearest to it, with its label below.

    Args:
        pairs: at least one; all with `registered`, or none.
    """
    aligned = [pair.registered for pair in pairs if pair.registered is not None]
    assert len(aligned) in (0, len(pairs))
    groups = [
        (torch.stack([pair.sample, pair.photo, *([] if pair.registered is None else [pair.registered])]), pair.label)
        for pair in pairs
    ]
    heading = "generated, nearest training photo" + (", the same aligned" if aligned else "")
    return captioned_groups(heading, groups, PAIRS_IN_ROW)


def _rows(split: Split) -> tuple[Rows, list[str]]:
    """The categories that are shown, and the labels of the rows."""
    shown = dict(list(rows_by_category(split).items())[:MAX_CATEGORIES])
    return shown, list(shown) if split.attributes else [""] * UNCONDITIONAL_ROWS


def _samples(model: GenerativeModel, split: Split, chosen: list[NDArray[np.int64]], seed: int) -> Tensor:
    # Seeded anew for each category, so that a column shows one latent in all of them.
    return torch.cat([_generated(model, split, rows, seed) for rows in chosen])


def _real_and_generated(model: GenerativeModel, split: Split, shown: Rows, labels: list[str], seed: int) -> Image.Image:
    chosen = np.concatenate(_chosen(shown, labels))
    # Other latents than in samples.png: twice as many samples are seen.
    fakes = _generated(model, split, chosen, seed + 1)
    return labelled_grids([("real", torch.from_numpy(split.gather(chosen))), ("generated", fakes)], labels)


@torch.inference_mode()
def _interpolations(model: GenerativeModel, split: Split, shown: Rows, labels: list[str], seed: int) -> Image.Image:
    firsts = np.concatenate([rows[::COLUMNS] for rows in _chosen(shown, labels)])
    conditions_NA = torch.from_numpy(split.conditions_NA[firsts])
    generator = torch.Generator("cpu").manual_seed(seed)
    start_ND, end_ND = (model.draw_latents(conditions_NA, generator) for _ in range(2))
    shares_K = torch.linspace(0, 1, COLUMNS, device=start_ND.device)
    latents_ND = model.interpolate(start_ND, end_ND, shares_K).flatten(0, 1)
    conditions_NA = conditions_NA.repeat_interleave(COLUMNS, dim=0)
    chunks = zip(latents_ND.split(IMAGES_AT_ONCE), conditions_NA.split(IMAGES_AT_ONCE), strict=True)
    images = [to_uint8(torch.nan_to_num(model.generate(z, conditions))).cpu() for z, conditions in chunks]
    return labelled_grids([("from one latent to another", torch.cat(images))], labels)


def _chosen(shown: Rows, labels: list[str]) -> list[NDArray[np.int64]]:
    """Per category the row numbers of the images that fill its share of the labelled rows."""
    return [np.resize(rows, COLUMNS * len(labels) // len(shown)) for rows in shown.values()]


def _first_columns(images_NCHW: Tensor) -> Tensor:
    return torch.cat([row[:COMPARED] for row in images_NCHW.split(COLUMNS)])


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
