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


def both(
    original: Tensor, reconstruction: Tensor, groups: Tensor, positions: dict[str, Tensor]
) -> tuple[Estimates, dict[str, Estimates]]:
    chunks = zip(original.split(7), reconstruction.split(7), strict=True)  # the last one smaller
    return reconstruction_estimates(chunks, groups, positions)


def measured(original: Tensor, reconstruction: Tensor, groups: Tensor) -> Estimates:
    found, by_category = both(original, reconstruction, groups, {})
    assert by_category == {}
    return found


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


def test_a_category_is_measured_as_if_it_were_all() -> None:
    original, noisy = images(1, 90, 16), images(2, 90, 16)
    noisy[:40] = (original[:40].double() * 0.9).to(torch.uint8)
    positions = {"bag": torch.arange(40), "dress": torch.arange(40, 86), "hat": torch.arange(86, 90)}
    groups = deal_groups(torch.zeros(90, dtype=torch.int64), seed=0)
    overall, by_category = both(original, noisy, groups, positions)
    assert overall == measured(original, noisy, groups)
    for category, rows in positions.items():
        alone = measured(original[rows], noisy[rows], groups[rows])
        for metric, expected in alone.items():
            assert_close(by_category[category][metric].value, expected.value, rtol=1e-12, atol=0)
            assert_close(by_category[category][metric].replicates, expected.replicates, rtol=1e-12, atol=0)
    assert by_category["bag"]["reconstruction_psnr"].value > 10 + by_category["dress"]["reconstruction_psnr"].value


def test_a_category_of_perfect_reconstructions_or_of_one_image_is_not_sure() -> None:
    original, noisy = images(1, 41, 16), images(2, 41, 16)
    noisy[:20] = original[:20]
    positions = {"perfect": torch.arange(20), "one": torch.tensor([40])}
    _, by_category = both(original, noisy, torch.arange(41) % GROUPS, positions)
    assert math.isnan(by_category["perfect"]["reconstruction_psnr"].value)
    assert math.isfinite(by_category["one"]["reconstruction_psnr"].value)
    assert all(estimate.interval is None for estimate in by_category["one"].values())


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
