"""Condition fidelity: does a generated 'red dress' look like a red dress to a classifier of real photos?"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from components.measurement import Estimates, share_error
from components.metrics.margin import category_margins
from components.metrics.means import mean_estimate
from components.sheets import category_attribute

REGULARISATION = 0.01
"""Inverse strength, of standardised features."""
ITERATIONS = 50
"""Steps of the fit, at most; it may end before it has converged."""

Judges = dict[str, Tensor]
"""Per attribute `weights/<attribute>` (D + 1, K), the last row the offsets, and `codes/<attribute>` (K,)."""


@dataclass(frozen=True)
class Asked:
    """Images, and what each of them was to show.

    Attributes:
        features_ND: what a network sees in them.
        conditions_NA: what they were to show.
        groups_N: each row's group.
        positions: rows of each category, at least one.
    """

    features_ND: Tensor
    conditions_NA: NDArray[np.int64]
    groups_N: Tensor
    positions: Mapping[str, Tensor]


def fit_judges(features_ND: Tensor, conditions_NA: NDArray[np.int64], attributes: Sequence[str]) -> Judges:
    """Trains a linear classifier per attribute on the features of real training photos.

    Args:
        features_ND: of training photos, none of which is measured with.
        conditions_NA: their conditions.
        attributes: names of the columns.

    Returns:
        Empty without attributes. An attribute with one value in all photos has none to choose from,
        and gets no judge.
    """
    judges: Judges = {}
    for column, name in enumerate(attributes):
        codes = np.unique(conditions_NA[:, column])
        if len(codes) > 1:
            judges[f"weights/{name}"] = _fitted(features_ND.numpy(), conditions_NA[:, column])
            judges[f"codes/{name}"] = torch.from_numpy(codes)
    return judges


def measure_fidelity(
    judges: Judges, attributes: Sequence[str], real: Asked, fake: Asked
) -> tuple[Estimates, dict[str, Estimates]]:
    """Shares of generated images that are judged to be what was asked for, over all and per category.

    `condition_fidelity` counts images with all attributes right; with several judged attributes there
    is a `condition_fidelity_<attribute>` for each. The floor is the share of real held-out photos that
    are judged right: the judges' own accuracy. Per category there is `condition_margin` too, by the judge
    of categories: see `category_margins`.

    Args:
        judges: as `fit_judges` gave them; a value that no training photo had is never judged right.
        attributes: names of the columns of conditions.
        real: held-out photos.
        fake: generated images, first those of the held-out photos' conditions, row by row: over all, these alone
            count. More may follow, which count by category.

    Returns:
        Estimates over all images, and per category of the generated ones; nothing without attributes.
    """
    if not attributes:
        return {}, {category: {} for category in fake.positions}
    judged = [name for name in attributes if f"codes/{name}" in judges]
    real_right, fake_right = (_right(judges, asked, attributes, judged) for asked in (real, fake))
    everything = torch.arange(len(real.features_ND))
    overall = _estimates(real_right, fake_right, fake.groups_N, everything, everything, judged=bool(judged))
    margins = _margins(judges, attributes, real, fake)
    by_category = {}
    for category, rows in fake.positions.items():
        photos = real.positions.get(category, everything[:0])
        found = _estimates(real_right, fake_right, fake.groups_N, photos, rows, judged=bool(judged))
        by_category[category] = found | {"condition_margin": margins[category]}
    return overall, by_category


def _estimates(
    real: Mapping[str, Tensor],
    fake: Mapping[str, Tensor],
    groups_N: Tensor,
    photos: Tensor,
    rows: Tensor,
    *,
    judged: bool,
) -> Estimates:
    found = {}
    for name, right_N in fake.items():
        estimate = mean_estimate(right_N[rows], groups_N[rows])
        # Where nothing can be wrong, all right is certain however few the images are.
        least = share_error(estimate.value, len(rows)) if judged else 0.0
        floor = float(real[name][photos].mean()) if len(photos) else None
        found[name] = replace(estimate, floor=floor, least_error=least)
    return found


def _margins(judges: Judges, attributes: Sequence[str], real: Asked, fake: Asked) -> Estimates:
    """Of each category; the floor is that of real photos."""
    category = category_attribute(attributes)
    column, judged = list(attributes).index(category), f"codes/{category}" in judges

    def margins(asked: Asked) -> Estimates:
        wanted_N = torch.from_numpy(asked.conditions_NA[:, column])
        taken_N = _taken(judges, asked.features_ND, category) if judged else wanted_N
        known_N = torch.where(_known(asked.features_ND), taken_N.double(), math.nan)
        return category_margins(known_N, wanted_N, asked.groups_N, asked.positions, judged=judged)

    floors = {name: estimate.value for name, estimate in margins(real).items()}
    return {name: replace(estimate, floor=floors.get(name)) for name, estimate in margins(fake).items()}


def _right(judges: Judges, asked: Asked, attributes: Sequence[str], judged: Sequence[str]) -> dict[str, Tensor]:
    """By metric, 1.0 for each image judged right and 0.0 for the others; NaN where features are no finite numbers."""
    known_N = torch.where(_known(asked.features_ND), 1.0, math.nan)
    right = {}
    for name in judged:
        wanted_N = torch.from_numpy(asked.conditions_NA[:, list(attributes).index(name)])
        right[f"condition_fidelity_{name}"] = (_taken(judges, asked.features_ND, name) == wanted_N) * known_N
    # Where no attribute has a second value, nothing can be wrong.
    total = torch.stack([known_N, *right.values()]).prod(dim=0)
    return {"condition_fidelity": total, **(right if len(right) > 1 else {})}


def _known(features_ND: Tensor) -> Tensor:
    return torch.isfinite(features_ND).all(dim=1)


def _taken(judges: Judges, features_ND: Tensor, name: str) -> Tensor:
    """Which of an attribute's values each image is taken for."""
    weights = judges[f"weights/{name}"]
    return judges[f"codes/{name}"][(features_ND @ weights[:-1] + weights[-1]).argmax(dim=1)]


def _fitted(features_ND: NDArray[np.float32], codes_N: NDArray[np.int64]) -> Tensor:
    """Weights and offsets (D + 1, K) for features as they are, the standardisation folded in."""
    scaler = StandardScaler().fit(features_ND)
    classifier = LogisticRegression(C=REGULARISATION, max_iter=ITERATIONS)
    # One thread: sums in another order would give other weights from machine to machine.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(scaler.transform(features_ND), codes_N)
    weights_KD = classifier.coef_ / scaler.scale_
    offsets_K = classifier.intercept_ - weights_KD @ scaler.mean_
    both = np.column_stack([weights_KD, offsets_K])
    # Of two classes it gives the second one's alone, against a first one of zeros.
    both = np.vstack([np.zeros_like(both), both]) if len(both) == 1 else both
    return torch.from_numpy(both.T.copy()).float()
