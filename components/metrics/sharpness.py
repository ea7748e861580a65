"""Sharpness of generated images as a share of that of real ones."""

from torch import Tensor
from torch.nn.functional import conv2d

from components.measurement import Estimate
from components.metrics.means import ratio_estimate


def laplacian_variance(images_NCHW: Tensor) -> Tensor:
    """Variance of the Laplacian of each image's grey values: a common measure of focus.

    Pech-Pacheco et al., 2000, doi:10.1109/ICPR.2000.903548; compared with others in Pertuz et al., 2013,
    doi:10.1016/j.patcog.2012.11.011. Noise raises it as edges do.

    Args:
        images_NCHW: uint8, at least 3 pixels high and wide; grey is the mean of the channels.

    Returns:
        Float64 (N,), at least 0.
    """
    grey_N1HW = images_NCHW.double().mean(dim=1, keepdim=True)
    kernel = grey_N1HW.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
    return conv2d(grey_N1HW, kernel[None, None]).flatten(1).var(dim=1, correction=0)


def sharpness_ratio(real_N: Tensor, fake_N: Tensor, groups_N: Tensor) -> Estimate:
    """Mean `laplacian_variance` of generated images divided by that of real ones.

    Args:
        real_N: of real images, (N,).
        fake_N: of generated images in the same order of conditions, (N,).
        groups_N: each row's group, (N,).

    Returns:
        1 is as sharp as real; below it blurred, above it noisy. Unknown if the real images have no edges.
    """
    return ratio_estimate(fake_N, real_N, groups_N)
