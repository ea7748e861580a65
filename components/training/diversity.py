"""How much the images of a batch differ from each other: what falls to nothing when a generator collapses."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

COARSE = 16
"""Height and width, pixels, of the images that are compared."""


@torch.no_grad()
def within_category_distance(images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
    """Mean distance over the pairs of images that have the same first condition; over all pairs if there is none.

    A distance is the root mean square of the differences of pixels, after images were averaged down to
    16 by 16: pixel noise, which a collapsed generator may well make, hardly counts, while
    shape, size, place, colour and large patterns do. Only pairs of one category are compared, since images
    of different categories differ even where each category has but a single image.

    The value means little by itself. Divided by that of the real images of the same batch, which have
    the same conditions, it is about 1 for a generator that does well, and 0 for a collapsed one.

    Args:
        images_NCHW: float images in [-1, 1].
        conditions_NA: int64.

    Returns:
        A scalar on the images' device, from 0 (all alike) to 2; 0 too where no two images have the same first
        condition, so that a block's sums are not spoilt. Nothing here waits for the device.
    """
    count, _, height, width = images_NCHW.shape
    with torch.autocast(images_NCHW.device.type, enabled=False):
        coarse_NCHW = adaptive_avg_pool2d(images_NCHW.float(), (min(height, COARSE), min(width, COARSE)))
        flat_ND = coarse_NCHW.flatten(1)
        # Of the plain differences: through a matrix product small ones drown in rounding.
        distances = torch.pdist(flat_ND) / flat_ND.shape[1] ** 0.5
    first, second = torch.triu_indices(count, count, offset=1, device=images_NCHW.device)
    counted = torch.ones(len(distances), dtype=torch.bool, device=images_NCHW.device)
    if conditions_NA.shape[1]:
        counted = conditions_NA[first, 0] == conditions_NA[second, 0]
    mean: Tensor = (distances * counted).sum() / counted.sum().clamp_min(1)
    return mean
