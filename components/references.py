"""The real photos that a model is measured against, and what real photos themselves would reach.

All of it depends on the dataset, the settings and the feature network alone, never on a model.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.dataset import AttributeValues, DatasetInfo, Split, load_info, load_split, random_rows
from components.errors import InputError
from components.measurement import GROUPS
from components.metrics.groups import deal_groups
from components.settings import EvaluateSettings
from components.sheets import category_attribute


@dataclass(frozen=True)
class References:
    """Held-out photos to measure against, and training photos to look for.

    Attributes:
        info: of the prepared dataset.
        held_out, train: the splits.
        rows: which of the held-out photos are measured, category by category.
        train_rows: training photos whose features are used.
        looked_up: positions in `rows` whose generated images are looked for among the training photos, ascending.
        groups_N: of the jackknife; both a real photo's and that of the image with its conditions.
        positions: per category where in `rows` its photos stand; empty without conditions.
        further_NA: conditions of images that are generated besides, for categories with few photos in `rows`.
    """

    info: DatasetInfo
    held_out: Split
    train: Split
    rows: NDArray[np.int64]
    train_rows: NDArray[np.int64]
    looked_up: NDArray[np.int64]
    groups_N: Tensor
    positions: dict[str, Tensor]
    further_NA: NDArray[np.int64]

    @property
    def conditions_NA(self) -> NDArray[np.int64]:
        """Conditions of the measured photos, and of the images that are generated."""
        return self.held_out.conditions_NA[self.rows]


def load_references(settings: EvaluateSettings, prepared_dir: Path) -> References:
    """Chooses the photos.

    Raises:
        InputError: the dataset cannot be used, or a split is too small for the settings.
    """
    info = load_info(prepared_dir)
    held_out, train = load_split(prepared_dir, settings.split), load_split(prepared_dir, "train")
    rows = chosen_rows(held_out, settings)
    codes_N = _category_codes(held_out)[rows]
    return References(
        info=info,
        held_out=held_out,
        train=train,
        rows=rows,
        train_rows=random_rows(len(train), settings.train_photos, settings.seed),
        looked_up=random_rows(len(rows), settings.copying.samples, settings.seed),
        groups_N=deal_groups(torch.from_numpy(codes_N), settings.seed),
        positions=category_positions(info, codes_N),
        further_NA=_further_conditions(held_out, train, codes_N, settings),
    )


def chosen_rows(split: Split, settings: EvaluateSettings) -> NDArray[np.int64]:
    """Which of a split's photos are measured: all, or a random choice of `samples`; those of a category together.

    Neighbours are of one category then, so that a diversity within it can be told from pairs of them.

    Raises:
        InputError: too few for the settings.
    """
    rows = random_rows(len(split), settings.samples, settings.seed)
    # Without any group of the jackknife, each photo must still have its k neighbours, and the Fréchet distance its two
    # halves of groups.
    least = max(GROUPS, settings.neighbours + 1)
    if len(rows) - math.ceil(len(rows) / GROUPS) < least:
        raise InputError(
            f"params.yaml: evaluate needs {least + math.ceil(least / (GROUPS - 1))} photos or more in the split "
            f"'{settings.split}' for {settings.neighbours} neighbours and {GROUPS} groups, it gives {len(rows)}; raise "
            "data.subset, prepare.split or evaluate.samples, or lower evaluate.neighbours"
        )
    return rows[np.argsort(_category_codes(split)[rows], kind="stable")]


def matching_rows(references: References) -> NDArray[np.int64] | None:
    """Training photos, as many of each category as are measured: they play the perfect model for the floors.

    Returns:
        Positions in `train_rows`, one per measured photo and of its category; None if a category has too few.
    """
    wanted = _category_codes(references.held_out)[references.rows]
    available = _category_codes(references.train)[references.train_rows]
    chosen = np.empty(len(wanted), np.int64)
    for code in np.unique(wanted):
        places, found = np.flatnonzero(wanted == code), np.flatnonzero(available == code)
        if len(found) < len(places):
            return None
        chosen[places] = found[: len(places)]
    return chosen


def _further_conditions(
    held_out: Split, train: Split, codes_N: NDArray[np.int64], settings: EvaluateSettings
) -> NDArray[np.int64]:
    """Conditions for as many images as categories lack to `per_category`, category by category.

    They are those of the category's photos in both splits, in random order, each once before any twice. A category
    that has no photo gets none.
    """
    known_NA = np.concatenate([held_out.conditions_NA, train.conditions_NA])
    known_N = np.concatenate([_category_codes(held_out), _category_codes(train)])
    rng = np.random.default_rng(settings.seed)
    chosen = [np.empty(0, np.int64)]
    for code in np.unique(known_N) if held_out.attributes else ():
        lacking = max(0, settings.per_category - int((codes_N == code).sum()))
        chosen.append(np.resize(rng.permutation(np.flatnonzero(known_N == code)), lacking))
    return known_NA[np.concatenate(chosen)]


def _category_codes(split: Split) -> NDArray[np.int64]:
    return category_codes(split.conditions_NA, split.attributes)


def category_codes(conditions_NA: NDArray[np.int64], attributes: AttributeValues) -> NDArray[np.int64]:
    """A number per image that tells its category; zeros without conditions."""
    if not attributes:
        return np.zeros(len(conditions_NA), np.int64)
    return conditions_NA[:, list(attributes).index(category_attribute(attributes))]


def category_positions(info: DatasetInfo, codes_N: NDArray[np.int64]) -> dict[str, Tensor]:
    """Per category where images with its code stand; one without any is left out."""
    if not info.attributes:
        return {}
    names = info.attributes[category_attribute(info.attributes)]
    found = {name: torch.from_numpy(np.flatnonzero(codes_N == code)) for code, name in enumerate(names)}
    return {name: positions for name, positions in found.items() if len(positions)}
