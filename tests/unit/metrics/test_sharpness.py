"""Sharpness: known images, and how blur and noise change it."""

import math

import torch
from scipy.ndimage import gaussian_filter, laplace
from torch import Tensor
from torch.testing import assert_close

from components.measurement import GROUPS
from components.metrics.groups import deal_groups
from components.metrics.sharpness import laplacian_variance, sharpness_ratio


def photos(count: int) -> Tensor:
    """Smooth colour pictures (count, 3, 24, 24)."""
    noise = torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(1)).numpy()
    return torch.from_numpy(gaussian_filter(noise, (0, 0, 1, 1)) * 255).to(torch.uint8)


def test_is_the_variance_of_the_laplacian_inside() -> None:
    images = photos(5)
    expected = [float(laplace(grey)[1:-1, 1:-1].var()) for grey in images.double().mean(dim=1).numpy()]
    assert_close(laplacian_variance(images).tolist(), expected)


def test_a_gradient_has_no_edges() -> None:
    ramp = torch.arange(20, dtype=torch.uint8).expand(1, 1, 20, 20)
    assert laplacian_variance(ramp).item() == 0


def test_blur_lowers_the_ratio_and_noise_raises_it() -> None:
    real = photos(40)
    blurred = torch.from_numpy(gaussian_filter(real.numpy(), (0, 0, 1, 1)))
    noise = torch.randint(0, 40, real.shape, generator=torch.Generator().manual_seed(2))
    noisy = (real.long() + noise).clamp(0, 255).to(torch.uint8)
    groups = deal_groups(torch.zeros(40, dtype=torch.int64), seed=0)
    sharp = laplacian_variance(real)
    assert sharpness_ratio(sharp, laplacian_variance(blurred), groups).value < 0.5
    assert sharpness_ratio(sharp, sharp, groups).value == 1
    assert sharpness_ratio(sharp, laplacian_variance(noisy), groups).value > 1.5


def test_replicates_leave_out_real_and_generated_images() -> None:
    real, fake = torch.rand(2, 50, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    groups = deal_groups(torch.zeros(50, dtype=torch.int64), seed=0)
    found = sharpness_ratio(real, fake, groups)
    stays = [groups != group for group in range(GROUPS)]
    assert_close(found.value, float(fake.mean() / real.mean()))
    assert_close(list(found.replicates), [float(fake[kept].mean() / real[kept].mean()) for kept in stays])


def test_real_images_without_edges() -> None:
    assert math.isnan(sharpness_ratio(torch.zeros(40), torch.ones(40), torch.arange(40) % GROUPS).value)
