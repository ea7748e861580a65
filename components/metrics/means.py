"""Metrics that are a mean over images, with their replicates."""

import torch
from torch import Tensor

from components.measurement import Estimate
from components.metrics.groups import UNKNOWN, group_sums, totals, with_replicates


def mean_estimate(values_N: Tensor, groups_N: Tensor) -> Estimate:
    """Mean of a value per image, and without each group in turn.

    Args:
        values_N: numbers or truth values.
        groups_N: each image's group.

    Returns:
        Unknown if there is no image or a value is no finite number.
    """
    if not len(values_N):
        return UNKNOWN
    counted = torch.stack([values_N.double(), torch.ones(len(values_N), dtype=torch.float64)], dim=1)
    sums = group_sums(counted, groups_N)
    found = totals(sums)
    return with_replicates(found[:, 0] / found[:, 1])


def ratio_estimate(above_N: Tensor, below_N: Tensor, groups_N: Tensor) -> Estimate:
    """Sum of one value per image over that of another, and without each group in turn.

    Returns:
        Unknown if there is no image, or the sum below is 0 or no finite number.
    """
    if not len(above_N):
        return UNKNOWN
    sums = group_sums(torch.stack([above_N, below_N], dim=1), groups_N)
    found = totals(sums)
    return with_replicates(found[:, 0] / found[:, 1])
