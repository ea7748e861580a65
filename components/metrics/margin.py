"""Condition margin: is a category made at all, or does the judge take anything for it?

A weak judge takes many images for the category that it knows best, so that a share of them alone does
not tell a category that is made badly from one that is not made: the images of another category say
how many are taken for it anyway.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from components.measurement import GROUPS, Estimate, Estimates, share_error
from components.metrics.means import mean_estimate

NOTHING = Estimate(0.0, (0.0,) * GROUPS)


def category_margins(
    taken_N: Tensor, wanted_N: Tensor, groups_N: Tensor, positions: Mapping[str, Tensor], *, judged: bool
) -> Estimates:
    """How much more often images of a category are taken for it than those of any other category are.

    Youden's index (1950) of each category against its nearest: 1 if all its images are told from all others, 0 or
    less if some other category's images are taken for it as often, as where one is drawn in its place. The largest
    of several shares is by chance a little too large, the margin so a little too small.

    Args:
        taken_N: which category a judge takes each image for; NaN if it cannot tell.
        wanted_N: which one it was to show.
        groups_N: each image's group.
        positions: rows of each category, at least one.
        judged: whether the judge can be wrong; else all right is certain however few the images are.

    Returns:
        An estimate per category. Categories whose own images give no interval are no measure for others.
    """
    margins = {}
    for category, rows in positions.items():
        hits_N = torch.where(taken_N.isnan(), taken_N, (taken_N == wanted_N[rows[0]]).double())
        shares = {name: _share(hits_N[of], groups_N[of], judged=judged) for name, of in positions.items()}
        margins[category] = _margin(shares.pop(category), [share for share in shares.values() if share.replicates])
    return margins


def _share(hits_N: Tensor, groups_N: Tensor, *, judged: bool) -> Estimate:
    estimate = mean_estimate(hits_N, groups_N)
    return replace(estimate, least_error=share_error(estimate.value, len(hits_N))) if judged else estimate


def _margin(own: Estimate, others: Sequence[Estimate]) -> Estimate:
    nearest = max(others, key=lambda share: share.value, default=NOTHING)
    highest = [max(values) for values in zip(*(share.replicates for share in others or (NOTHING,)), strict=True)]
    return Estimate(
        own.value - nearest.value,
        tuple(one - other for one, other in zip(own.replicates, highest, strict=False)),
        least_error=math.hypot(own.least_error, nearest.least_error),
    )
