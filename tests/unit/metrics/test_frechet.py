"""The Fréchet distance against other formulas, its replicates against distances that were computed anew."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics.image.fid import FrechetInceptionDistance

from components.measurement import GROUPS, standard_error
from components.metrics.frechet import FakeMoments, RealMoments, frechet_distance, frechet_estimates
from components.metrics.groups import deal_groups
from tests.random_features import normal, uneven


def by_matrix_root(real: Tensor, fake: Tensor) -> float:
    a, b = real.double().numpy(), fake.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root))


def estimates(real: Tensor, fake: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    groups = deal_groups(torch.zeros(len(real), dtype=torch.int64), seed)
    value, limit = frechet_estimates(RealMoments.of(real, groups), FakeMoments.of(fake, groups))
    return value, limit, groups


def test_equals_the_matrix_square_root_and_torchmetrics() -> None:
    real, fake = uneven(1, 300, 40), uneven(2, 250, 40) @ normal(3, 40, 40) + 0.5
    assert_close(frechet_distance(real, fake), by_matrix_root(real, fake), rtol=1e-6, atol=0)
    network = nn.Identity()
    network.num_features = 40  # type: ignore[assignment]
    metric = FrechetInceptionDistance(network)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    assert_close(frechet_distance(real, fake), float(metric.compute()), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("reals", "fakes"), [(30, 20), (30, 300), (300, 30)])
def test_fewer_images_than_features(reals: int, fakes: int) -> None:
    """The matrix root itself is useless here; that the trace is a sum of singular values is another way to it."""
    real, fake = uneven(1, reals, 60), uneven(2, fakes, 60) + 0.1
    a, b = real.double().numpy(), fake.double().numpy()
    cross = (a - a.mean(0)) @ (b - b.mean(0)).T / math.sqrt((reals - 1) * (fakes - 1))
    root = np.linalg.svd(cross, compute_uv=False).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum() - 2 * root
    assert_close(frechet_distance(real, fake), float(expected), rtol=1e-6, atol=0)


def test_a_shift_costs_its_square() -> None:
    real = normal(1, 100, 5)
    assert_close(frechet_distance(real, real + 2.0), 5 * 4.0, rtol=1e-5, atol=0)


def test_features_that_never_vary() -> None:
    real, fake = uneven(1, 200, 12), uneven(2, 200, 12)
    real[:, 3], fake[:, 3], fake[:, 5] = 0.0, 0.0, fake[:, 6]
    kept = [column for column in range(12) if column != 3]
    assert_close(frechet_distance(real, fake), by_matrix_root(real[:, kept], fake[:, kept]), rtol=1e-5, atol=0)
    value, _, _ = estimates(real, fake)
    assert value.isfinite().all()
    assert_close(float(value[0]), frechet_distance(real, fake), rtol=1e-6, atol=0)


def test_one_image_again_and_again() -> None:
    real = uneven(1, 200, 12)
    fake = torch.ones(200, 12)
    expected = (real.double().mean(0) - 1).square().sum() + real.double().var(0).sum()
    value, limit, _ = estimates(real, fake)
    assert_close(float(value[0]), float(expected))
    assert_close(frechet_distance(real, fake), float(expected))
    # Nothing is gained by more of the same.
    assert_close(float(limit[0]), float(expected))
    assert value.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_a_finite_feature(bad: float) -> None:
    real, fake = normal(1, 50, 4), normal(2, 50, 4)
    fake[7, 2] = bad
    assert math.isnan(frechet_distance(real, fake))
    assert math.isnan(frechet_distance(fake, real))


@pytest.mark.parametrize(("count", "features"), [(2000, 16), (400, 100), (120, 100), (60, 100)])
def test_replicates_vary_like_distances_computed_anew(count: int, features: int) -> None:
    real, fake = uneven(1, count, features), uneven(2, count, features) * 1.1 + 0.1
    value, _, groups = estimates(real, fake)
    exact = [frechet_distance(real[groups != group], fake[groups != group]) for group in range(GROUPS)]
    assert_close(float(value[0]), frechet_distance(real, fake), rtol=1e-9, atol=0)
    assert np.corrcoef(value[1:].numpy(), exact)[0, 1] > 0.85
    found, expected = standard_error(value[1:].tolist()), standard_error(exact)
    assert found is not None
    assert expected is not None
    assert_close(found, expected, rtol=0.25, atol=0)


def test_replicates_are_exact_for_a_small_change_of_the_mean() -> None:
    """Each group of the generated images shifted as a whole: the distance is a square, known without group by group."""
    real, shift = normal(1, 400, 6), normal(9, GROUPS, 6) * 1e-3
    groups = deal_groups(torch.zeros(400, dtype=torch.int64), 0)
    fake = real + 1 + shift[groups]
    value, _ = frechet_estimates(RealMoments.of(real, groups), FakeMoments.of(fake, groups))
    exact = [frechet_distance(real[groups != group], fake[groups != group]) for group in range(GROUPS)]
    assert_close(value[1:].tolist(), exact, rtol=1e-5, atol=0)
    changes = value[1:] - value[0]
    assert_close(changes, torch.tensor(exact, dtype=torch.float64) - value[0], rtol=0, atol=0.01 * float(changes.std()))


def test_the_standard_error_is_that_of_fresh_images() -> None:
    scale = torch.linspace(0.2, 2, 10)
    values, errors = [], []
    for seed in range(150):
        real, fake = normal(2 * seed, 200, 10) * scale, normal(2 * seed + 1, 200, 10) * scale * 1.3
        value, _, _ = estimates(real, fake)
        values.append(float(value[0]))
        errors.append(standard_error(value[1:].tolist()))
    spread = float(np.std(values, ddof=1))
    assert_close(float(np.sqrt(np.mean(np.square(np.array(errors, float))))), spread, rtol=0.2, atol=0)


@pytest.mark.parametrize("features", [7, 300])
def test_halves_are_fitted_to_their_own_images(features: int) -> None:
    groups = deal_groups(torch.zeros(400, dtype=torch.int64), 0)
    # The halves' means lie apart, so that neither is that of the whole.
    fake = normal(1, 400, features) + (groups < GROUPS // 2)[:, None]
    for half, part in zip(
        FakeMoments.of(fake, groups).halves, (fake[groups < GROUPS // 2], fake[groups >= GROUPS // 2]), strict=True
    ):
        assert_close(half.mean, part.double().mean(dim=0))
        assert_close(half.spread(torch.eye(features, dtype=torch.float64)), torch.cov(part.double().T))


def test_the_limit_is_without_the_bias_of_few_generated_images() -> None:
    real = uneven(1, 20_000, 20)
    plain, limits = [], []
    for seed in range(20):
        groups = deal_groups(torch.zeros(200, dtype=torch.int64), seed)
        fake = FakeMoments.of(uneven(seed + 2, 200, 20), groups)
        every = deal_groups(torch.zeros(20_000, dtype=torch.int64), seed)
        value, limit = frechet_estimates(RealMoments.of(real, every), fake)
        plain.append(float(value[0]))
        limits.append(float(limit[0]))
        assert_close(limit - limit[0], value - value[0])
    # Both are of the same distribution: the true distance is 0.
    assert np.mean(plain) > 0
    assert abs(np.mean(limits)) < 0.15 * np.mean(plain)
