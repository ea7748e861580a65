"""The three-sample test for data-copying of Meehan, Chaudhuri and Dasgupta, 2020, arXiv:2004.05675."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from components.measurement import GROUPS, Estimate

HELD_OUT_PER_CELL = 50
"""Held-out photos for each cell, on average: what a normal approximation of its rank sum wants."""
MOST_CELLS = 20
LEAST_IN_CELL = 10
"""A cell with fewer held-out photos or samples says nothing."""
PHOTOS = 5_000
"""Training photos that the cells are fitted to, at most."""


def fit_cells(train_ND: Tensor, held_out: int, seed: int) -> Tensor:
    """Centres (K, D) of the cells, by k-means on training photos.

    Args:
        train_ND: features of training photos.
        held_out: number of held-out photos that are told apart.
        seed: of the choice of photos, and of k-means.
    """
    chosen = np.random.default_rng(seed).permutation(len(train_ND))[:PHOTOS]
    cells = max(1, min(MOST_CELLS, held_out // HELD_OUT_PER_CELL, len(chosen)))
    # One thread: sums in another order would move the cells from machine to machine.
    with threadpool_limits(1):
        means = KMeans(cells, n_init=1, max_iter=30, random_state=seed).fit(train_ND[chosen].numpy())
    return torch.from_numpy(means.cluster_centers_).float()


def nearest_cells(features_ND: Tensor, centres_KD: Tensor) -> Tensor:
    """The cell that each image lies in, int64 (N,)."""
    return torch.cdist(features_ND, centres_KD).argmin(dim=1)


def copying_score(held_N: Tensor, held_cells_N: Tensor, fake_N: Tensor, fake_cells_N: Tensor) -> float:
    """C_T: the mean over cells of how much farther from training photos the samples are, in standard errors.

    About 0 for samples as far away as held-out photos; below -3 they are nearer than chance allows,
    which is copying; above 3 the model underfits. Per cell the z-score of the Mann-Whitney statistic,
    with ties counted half; the mean is weighted by the share of held-out photos.

    Args:
        held_N: distance of each held-out photo to its nearest training photo.
        held_cells_N: its cell.
        fake_N: the same of generated images.
        fake_cells_N: theirs.

    Returns:
        NaN if no cell holds enough of both, or a distance is no finite number.
    """
    if not (torch.isfinite(held_N).all() and torch.isfinite(fake_N).all()):
        return math.nan
    scores, weights = [], []
    # On so few numbers numpy takes less than half of torch's time.
    held_in_cells, fake_in_cells = held_cells_N.numpy(), fake_cells_N.numpy()
    for cell in np.unique(held_in_cells):
        held, fake = held_N.numpy()[held_in_cells == cell], fake_N.numpy()[fake_in_cells == cell]
        if min(len(held), len(fake)) >= LEAST_IN_CELL:
            scores.append(_z_score(held, fake))
            weights.append(len(held))
    return float(np.average(scores, weights=weights)) if scores else math.nan


def copying_estimate(
    held_N: Tensor, held_cells_N: Tensor, fake_N: Tensor, fake_cells_N: Tensor, groups_N: Tensor
) -> Estimate:
    """`copying_score`, and without each group of both; its floor is that of held-out photos themselves.

    Args:
        groups_N: each row's group of the jackknife.
    """

    def of(rows_N: Tensor) -> float:
        return copying_score(held_N[rows_N], held_cells_N[rows_N], fake_N[rows_N], fake_cells_N[rows_N])

    everything = torch.ones_like(groups_N, dtype=torch.bool)
    return Estimate(of(everything), tuple(of(groups_N != group) for group in range(GROUPS)), floor=0.0)


def _z_score(held_N: NDArray[np.float32], fake_N: NDArray[np.float32]) -> float:
    """Mann and Whitney's U of the samples, less its mean, in standard deviations (without ties)."""
    held, fake = len(held_N), len(fake_N)
    ordered = np.sort(held_N)
    statistic = float(np.searchsorted(ordered, fake_N).sum() + np.searchsorted(ordered, fake_N, "right").sum()) / 2
    return (statistic - held * fake / 2) / math.sqrt(held * fake * (held + fake + 1) / 12)
