"""Condition fidelity: does a generated 'red dress' look like a red dress to a classifier of real photos?"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from components.measurement import Estimates, share_error
from components.metrics.means import mean_estimate

REGULARISATION = 0.01
"""Inverse strength, of standardised features."""
ITERATIONS = 50
"""Steps of the fit, at most; it may end before it has converged."""

WHOLE = ""
"""Name of all images together, beside the categories."""

Judges = dict[str, Tensor]
"""Per attribute `weights/<attribute>` (D + 1, K), the last row the offsets, and `codes/<attribute>` (K,)."""


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
    judges: Judges,
    real_ND: Tensor,
    fake_ND: Tensor,
    conditions_NA: NDArray[np.int64],
    attributes: Sequence[str],
    groups_N: Tensor,
    positions: Mapping[str, Tensor],
) -> tuple[Estimates, dict[str, Estimates]]:
    """Shares of generated images that are judged to be what was asked for, over all and per category.

    `condition_fidelity` counts images with all attributes right; with several judged attributes there
    is a `condition_fidelity_<attribute>` for each. The floor is the share of real held-out photos that
    are judged right: the judges' own accuracy.

    Args:
        judges: as `fit_judges` gave them; a value that no training photo had is never judged right.
        real_ND: features of held-out photos.
        fake_ND: features of generated images of the same conditions, row by row.
        conditions_NA: of both.
        attributes: names of the columns.
        groups_N: each row's group.
        positions: rows of each category.

    Returns:
        Estimates over all images, and per category; nothing without attributes.
    """
    columns = {name: column for column, name in enumerate(attributes) if f"codes/{name}" in judges}
    if not attributes:
        return {}, {category: {} for category in positions}
    wanted_NA = torch.from_numpy(conditions_NA)
    real, fake = (
        _right(judges, features_ND, {name: wanted_NA[:, column] for name, column in columns.items()})
        for features_ND in (real_ND, fake_ND)
    )
    everything = torch.arange(len(fake_ND))
    found = {
        category: _estimates(real, fake, groups_N, rows, judged=bool(columns))
        for category, rows in {WHOLE: everything, **positions}.items()
    }
    return found.pop(WHOLE), found


def _estimates(
    real: Mapping[str, Tensor], fake: Mapping[str, Tensor], groups_N: Tensor, rows: Tensor, *, judged: bool
) -> Estimates:
    found = {}
    for name, right_N in fake.items():
        estimate = mean_estimate(right_N[rows], groups_N[rows])
        # Where nothing can be wrong, all right is certain however few the images are.
        least = share_error(estimate.value, len(rows)) if judged else 0.0
        found[name] = replace(estimate, floor=float(real[name][rows].mean()), least_error=least)
    return found


def _right(judges: Judges, features_ND: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By metric, 1.0 for each image judged right and 0.0 for the others; NaN where features are no finite numbers."""
    known_N = torch.where(torch.isfinite(features_ND).all(dim=1), 1.0, math.nan)
    right = {}
    for name, wanted_N in wanted.items():
        weights = judges[f"weights/{name}"]
        found_N = judges[f"codes/{name}"][(features_ND @ weights[:-1] + weights[-1]).argmax(dim=1)]
        right[f"condition_fidelity_{name}"] = (found_N == wanted_N) * known_N
    # Where no attribute has a second value, nothing can be wrong.
    total = torch.stack([known_N, *right.values()]).prod(dim=0)
    return {"condition_fidelity": total, **(right if len(right) > 1 else {})}


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
