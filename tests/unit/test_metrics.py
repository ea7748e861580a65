"""Every metric against a formula of its own, written without torchmetrics."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from components import metrics
from components.features import Features
from components.metrics import (
    classifier_score,
    frechet_distance,
    kernel_distance,
    measure,
    measure_category,
    precision_and_recall,
    reconstruction_quality,
)
from components.settings import EvaluateSettings

Array = NDArray[np.float64]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def settings(extractor: str = "efflite0") -> EvaluateSettings:
    return EvaluateSettings.model_validate(
        {
            "extractor": extractor,
            "inception_weights": "x.pt" if extractor == "inception" else None,
            "resolution": 96,
            "split": "test",
            "samples": 60,
            "batch_size": 10,
            "seed": 7,
            "kid_subsets": 5,
            "kid_subset_size": 20,
            "neighbours": 3,
        }
    )


def test_frechet_distance_equals_the_matrix_square_root() -> None:
    real, fake = normal(1, 300, 12), normal(2, 250, 12) @ normal(3, 12, 12) + 0.5
    a, b = real.double().numpy(), fake.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert_close(frechet_distance(real, fake), float(expected), rtol=1e-6, atol=0)


def test_frechet_distance_of_shifted_features_is_the_squared_shift() -> None:
    real = normal(1, 100, 5)
    assert_close(frechet_distance(real, real + 2.0), 5 * 4.0, rtol=1e-5, atol=0)


def plain_mmd(x: Array, y: Array) -> float:
    """Unbiased MMD^2 by its definition, sum by sum."""

    def kernel(a: Array, b: Array) -> float:
        return float((sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    within_y = sum(kernel(y[i], y[j]) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (m * n)


def test_kernel_distance_of_all_images_equals_the_double_loop() -> None:
    real, fake = normal(1, 15, 4), normal(2, 15, 4) * 1.5
    mean, deviation = kernel_distance(real, fake, subsets=1, subset_size=15, seed=0)
    assert_close(mean, plain_mmd(real.double().numpy(), fake.double().numpy()), rtol=1e-9, atol=0)
    assert deviation == 0


def test_kernel_distance_is_mean_and_deviation_over_seeded_subsets() -> None:
    real, fake = normal(1, 20, 4), normal(2, 25, 4) * 1.5
    found = kernel_distance(real, fake, subsets=3, subset_size=10, seed=11)
    torch.manual_seed(11)
    scores = []
    for _ in range(3):
        x, y = real[torch.randperm(20)[:10]], fake[torch.randperm(25)[:10]]
        scores.append(plain_mmd(x.double().numpy(), y.double().numpy()))
    assert_close(found, (float(np.mean(scores)), float(np.std(scores))), rtol=1e-9, atol=0)
    assert kernel_distance(real, fake, subsets=3, subset_size=10, seed=12) != found


def test_metrics_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    kernel_distance(normal(1, 20, 4), normal(2, 20, 4), subsets=2, subset_size=10, seed=1)
    classifier_score(normal(3, 20, 4), seed=1)
    assert_close(torch.rand(3), expected)


def test_classifier_score_equals_its_definition() -> None:
    logits = normal(4, 40, 6) * 3
    found = classifier_score(logits, seed=2, splits=4)
    torch.manual_seed(2)
    p = scipy.special.softmax(logits[torch.randperm(40)].double().numpy(), axis=1).reshape(4, 10, 6)
    divergence = (p * np.log(p / p.mean(axis=1, keepdims=True))).sum(axis=2).mean(axis=1)
    assert_close(found, float(np.exp(divergence).mean()), rtol=1e-9, atol=0)


def test_classifier_score_counts_equally_frequent_certain_classes() -> None:
    # Random halves hold the classes about equally often.
    assert_close(classifier_score(torch.eye(5).repeat(400, 1) * 100, seed=0, splits=2), 5.0, rtol=0.01, atol=0)
    assert_close(classifier_score(torch.eye(5)[:1].repeat(50, 1) * 100, seed=0), 1.0)
    # Float32 would underflow here: 0 * log(0).
    assert math.isfinite(classifier_score(torch.eye(5).repeat(20, 1) * 400, seed=0))


def plain_precision(real: Array, fake: Array, k: int) -> float:
    radii = [sorted(float(np.linalg.norm(a - b)) for b in real)[k] for a in real]
    hits = [any(np.linalg.norm(f - r) <= radius for r, radius in zip(real, radii, strict=True)) for f in fake]
    return float(np.mean(hits))


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_equal_the_double_loop(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(metrics, "ROWS_AT_ONCE", 7)  # several chunks, the last one smaller
    real, fake = normal(1, 40, 3), normal(2, 30, 3) * 1.4
    a, b = real.double().numpy(), fake.double().numpy()
    expected = (plain_precision(a, b, k), plain_precision(b, a, k))
    assert 0 < expected[0] < 1
    assert 0 < expected[1] < 1
    assert_close(precision_and_recall(real, fake, neighbours=k), expected)


def test_precision_and_recall_where_the_answer_is_known() -> None:
    line = torch.arange(10.0).unsqueeze(1)
    # On the line every point lies within the nearest neighbour's distance of 1.
    assert precision_and_recall(line, line + 0.5, neighbours=1) == (1.0, 1.0)
    assert precision_and_recall(line, line + 100, neighbours=1) == (0.0, 0.0)
    # Half of the line only: all of it is real, but the other half (one step further reached) is missed.
    assert precision_and_recall(line, line[:5], neighbours=1) == (1.0, 0.6)


def test_precision_needs_more_images_than_neighbours() -> None:
    with pytest.raises(ValueError, match="3 neighbours need at least 4"):
        precision_and_recall(normal(1, 3, 2), normal(2, 9, 2), neighbours=3)


def images(seed: int, count: int, size: int) -> Tensor:
    return torch.randint(
        0, 256, (count, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_psnr_is_of_the_squared_error_over_all_images() -> None:
    original, noisy = images(1, 6, 32), images(2, 6, 32)
    noisy[0] = original[0]  # a perfect one must not make the whole infinite
    error = ((original.double() - noisy.double()) ** 2).mean().item()
    found = reconstruction_quality([(original[:4], noisy[:4]), (original[4:], noisy[4:])])
    assert_close(found["reconstruction_psnr"], 10 * math.log10(255**2 / error), rtol=1e-6, atol=0)


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
    original = images(1, 3, 24)
    blurred = (original.double() * 0.7 + images(2, 3, 24).double() * 0.3).to(torch.uint8)
    pairs = list(zip(original.double().numpy()[:, 0], blurred.double().numpy()[:, 0], strict=True))
    expected = float(np.mean([plain_ssim(a, b) for a, b in pairs]))
    found = reconstruction_quality([(original[:2], blurred[:2]), (original[2:], blurred[2:])])
    assert 0.2 < expected < 0.99
    assert_close(found["reconstruction_ssim"], expected, rtol=1e-6, atol=0)


def test_names_say_which_features() -> None:
    fake = Features(normal(1, 60, 8), normal(2, 60, 5))
    assert list(measure(normal(3, 60, 8), fake, settings())) == [
        "fd_efflite0",
        "kd_efflite0",
        "kd_efflite0_std",
        "is_efflite0",
        "precision_efflite0",
        "recall_efflite0",
    ]
    assert list(measure(normal(3, 60, 8), fake, settings("inception"))) == [
        "fid",
        "kid",
        "kid_std",
        "inception_score",
        "precision_inception",
        "recall_inception",
    ]


def test_a_category_is_measured_over_all_its_images() -> None:
    real, fake = normal(1, 30, 8), normal(2, 30, 8) + 0.2
    found = measure_category(real, fake, settings())
    assert list(found) == ["kd_efflite0", "precision_efflite0", "recall_efflite0"]
    assert_close(found["kd_efflite0"], plain_mmd(real.double().numpy(), fake.double().numpy()), rtol=1e-9, atol=0)


def test_a_category_that_is_too_small_has_no_numbers() -> None:
    found = measure_category(normal(1, 3, 8), normal(2, 3, 8), settings())
    assert len(found) == 3
    assert all(math.isnan(value) for value in found.values())
