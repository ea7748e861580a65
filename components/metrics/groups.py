"""The groups of the jackknife: which image belongs to which, and sums without one of them."""

import math

import torch
from torch import Tensor

from components.measurement import GROUPS, Estimate

UNKNOWN = Estimate(math.nan)
"""Of what could not be computed."""


def deal_groups(categories_N: Tensor, seed: int) -> Tensor:
    """Deals images into GROUPS groups at random, evenly within each category and over all.

    Args:
        categories_N: a number per image that tells its category, int64 (N,); all the same without categories.
        seed: of the random order within each category.

    Returns:
        Each image's group, int64 (N,), 0 to GROUPS - 1.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled_N = torch.randperm(len(categories_N), generator=generator)
    order_N = shuffled_N[torch.argsort(categories_N[shuffled_N], stable=True)]
    groups_N = torch.empty(len(categories_N), dtype=torch.int64)
    # On from category to category, so that what is left over does not always fall to the first groups.
    groups_N[order_N] = torch.arange(len(categories_N)) % GROUPS
    return groups_N


def group_sums(values_NX: Tensor, groups_N: Tensor) -> Tensor:
    """Sums over each group's rows, float64 (GROUPS, ...)."""
    sums = torch.zeros(GROUPS, *values_NX.shape[1:], dtype=torch.float64)
    return sums.index_add_(0, groups_N, values_NX.double())


def leave_one_out(sums: Tensor) -> Tensor:
    """The sum of all groups but each one in turn, (GROUPS, ...)."""
    return sums.sum(dim=0) - sums


def totals(sums: Tensor) -> Tensor:
    """The sum of all groups, and after it that of all but each one in turn, (GROUPS + 1, ...)."""
    return torch.cat([sums.sum(dim=0, keepdim=True), leave_one_out(sums)])


def counts_without_each(groups_N: Tensor) -> Tensor:
    """Number of images, over all and without each group, float64 (GROUPS + 1,)."""
    return totals(torch.bincount(groups_N, minlength=GROUPS).double())


def with_replicates(values: Tensor) -> Estimate:
    """An estimate of its value and, after it, GROUPS replicates; unknown if the value is not finite.

    Replicates that are not finite make the uncertainty unknown, not the value.
    """
    value, *replicates = values.tolist()
    if not math.isfinite(value):
        return UNKNOWN
    return Estimate(value, tuple(replicates) if all(map(math.isfinite, replicates)) else ())
