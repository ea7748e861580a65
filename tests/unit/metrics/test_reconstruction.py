"""PSNR and SSIM against direct formulas."""

import itertools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from components.measurement import GROUPS, Estimates
from components.metrics.groups import deal_groups
from components.metrics.reconstruction import reconstruction_estimates

Array = NDArray[np.float64]


def images(seed: int, count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)


def measured(original: Tensor, reconstruction: Tensor, groups: Tensor) -> Estimates:
    chunks = zip(original.split(7), reconstruction.split(7), strict=True)  # the last one smaller
    return reconstruction_estimates(chunks, groups)


def psnr(original: Tensor, reconstruction: Tensor) -> float:
    error = ((original.double() - reconstruction.double()) ** 2).mean().item()
    return 10 * math.log10(255**2 / error)


def test_psnr_is_of_the_squared_error_over_all_images() -> None:
    original, noisy = images(1, 40, 16), images(2, 40, 16)
    noisy[0] = original[0]  # a perfect one must not make the whole infinite
    groups = deal_groups(torch.zeros(40, dtype=torch.int64), seed=0)
    found = measured(original, noisy, groups)["reconstruction_psnr"]
    assert_close(found.value, psnr(original, noisy), rtol=1e-9, atol=0)
    expected = [psnr(original[groups != group], noisy[groups != group]) for group in range(GROUPS)]
    assert_close(list(found.replicates), expected, rtol=1e-9, atol=0)


def test_perfect_reconstructions_have_no_psnr() -> None:
    original = images(1, 40, 16)
    found = measured(original, original, torch.arange(40) % GROUPS)
    assert math.isnan(found["reconstruction_psnr"].value)
    assert_close(found["reconstruction_ssim"].value, 1.0)


def plain_ssim(x: Array, y: Array) -> float:
    """SSIM by the paper: Gaussian window of 11 pixels, deviation 1.5, borders mirrored."""
    x, y = np.pad(x, 5, mode="reflect"), np.pad(y, 5, mode="reflect")
    axis = np.arange(-5, 6)
    window = np.exp(-(axis**2) / (2 * 1.5**2))
    weights = np.outer(window, window) / np.outer(window, window).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top, left in itertools.product(range(x.shape[0] - 10), range(x.shape[1] - 10)):
        a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
        covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
        values.append(
            (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
        )
    return float(np.mean(values))


def test_ssim_equals_the_direct_formula() -> None:
    original = images(1, 22, 16)
    blurred = (original.double() * 0.7 + images(2, 22, 16).double() * 0.3).to(torch.uint8)
    single = [
        plain_ssim(a, b) for a, b in zip(original.double().numpy()[:, 0], blurred.double().numpy()[:, 0], strict=True)
    ]
    groups = torch.arange(22) % GROUPS
    found = measured(original, blurred, groups)["reconstruction_ssim"]
    assert 0.2 < found.value < 0.99
    assert_close(found.value, float(np.mean(single)), rtol=1e-6, atol=0)
    expected = [float(np.mean([one for one, of in zip(single, groups, strict=True) if of != g])) for g in range(GROUPS)]
    assert_close(list(found.replicates), expected, rtol=1e-6, atol=0)
