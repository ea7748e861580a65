"""How unlike each other images of the same conditions are: what a collapsed generator loses."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from components.features import Features
from components.measurement import Estimate, Estimates
from components.metrics.means import mean_estimate, ratio_estimate


def measure_diversity(
    real: Features, fake: Features, groups_N: Tensor, positions: Mapping[str, Tensor]
) -> tuple[Estimates, dict[str, Estimates]]:
    """`diversity` and `diversity_ratio` of generated images, over all and per category.

    `diversity` is the mean perceptual distance of images 2i and 2i + 1, as `extract` gives it with
    `pairs`; its floor is that of the real ones. `diversity_ratio` is its share of that floor, of the
    same pairs of rows: about 1 for a good model, near 0 for one that makes one image.

    Args:
        real: of the real images.
        fake: of the generated ones; row i has the conditions of real row i.
        groups_N: each row's group; a pair is in that of its first row.
        positions: rows of each category; empty without conditions. Only pairs within one count.

    Returns:
        Estimates over all images, and per category; unknown where there is no pair.
    """
    first = torch.arange(len(fake.pair_distances)) * 2
    if not positions:
        return _estimates(real, fake, groups_N, first // 2), {}
    category_N = torch.full((len(groups_N),), -1)
    for number, rows in enumerate(positions.values()):
        category_N[rows] = number
    alike = (category_N[first] == category_N[first + 1]) & (category_N[first] >= 0)
    category_of_pair = torch.where(alike, category_N[first], -1)
    by_category = {
        name: _estimates(real, fake, groups_N, torch.nonzero(category_of_pair == number)[:, 0])
        for number, name in enumerate(positions)
    }
    return _estimates(real, fake, groups_N, torch.nonzero(alike)[:, 0]), by_category


def _estimates(real: Features, fake: Features, groups_N: Tensor, pairs: Tensor) -> Estimates:
    groups, generated, natural = groups_N[2 * pairs], fake.pair_distances[pairs], real.pair_distances[pairs]
    floor = float(natural.mean()) if len(pairs) else math.nan
    ratio: Estimate = ratio_estimate(generated, natural, groups)
    return {
        "diversity": replace(mean_estimate(generated, groups), floor=floor),
        "diversity_ratio": replace(ratio, floor=1.0),
    }
