"""Metrics of all pairs against double loops, and their replicates against loops over the images that stay."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics.image.kid import KernelInceptionDistance

from components.measurement import GROUPS
from components.metrics import pairs
from components.metrics.groups import deal_groups
from components.metrics.pairs import Between, Cloud, between, kernel_distance, within
from tests.random_features import normal, uneven

Array = NDArray[np.float64]
K = 3


def compared(real: Tensor, fake: Tensor, groups: Tensor) -> tuple[Between, Tensor]:
    origin = real.double().mean(dim=0)
    clouds = Cloud.of(real, groups, origin), Cloud.of(fake, groups, origin)
    inner = within(clouds[0], K), within(clouds[1], K)
    found = between(clouds[0], inner[0], clouds[1], inner[1], K)
    return found, kernel_distance(*inner, found)


def kernel_by_loops(real: Array, fake: Array) -> float:
    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(real), len(fake)
    own = sum(kernel(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j) / (n * (n - 1))
    own += sum(kernel(a, b) for i, a in enumerate(fake) for j, b in enumerate(fake) if i != j) / (m * (m - 1))
    return own - 2 * sum(kernel(a, b) for a in real for b in fake) / (n * m)


def distance(a: Array, b: Array) -> float:
    return float(np.sqrt(((a - b) ** 2).sum()))


def radii(points: Array) -> list[float]:
    return [sorted(distance(a, b) for j, b in enumerate(points) if i != j)[K - 1] for i, a in enumerate(points)]


def precision_by_loops(real: Array, fake: Array) -> float:
    balls = list(zip(real, radii(real), strict=True))
    return float(np.mean([any(distance(f, r) <= radius for r, radius in balls) for f in fake]))


def recall_by_loops(real: Array, fake: Array) -> float:
    return precision_by_loops(fake, real)


def density_by_loops(real: Array, fake: Array) -> float:
    balls = list(zip(real, radii(real), strict=True))
    return sum(distance(f, r) <= radius for f in fake for r, radius in balls) / (K * len(fake))


def coverage_by_loops(real: Array, fake: Array) -> float:
    return float(np.mean([any(distance(f, r) <= x for f in fake) for r, x in zip(real, radii(real), strict=True)]))


BY_LOOPS: dict[str, Callable[[Array, Array], float]] = {
    "kernel": kernel_by_loops,
    "precision": precision_by_loops,
    "recall": recall_by_loops,
    "density": density_by_loops,
    "coverage": coverage_by_loops,
}


@pytest.mark.parametrize("kind", BY_LOOPS)
@pytest.mark.parametrize("spare", [0, pairs.SPARE_NEIGHBOURS])
def test_value_and_replicates_equal_the_double_loops(kind: str, spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "ROWS_AT_ONCE", 17)  # several blocks, the last one smaller
    # Without spare neighbours almost every radius without a group is looked up anew.
    monkeypatch.setattr(pairs, "SPARE_NEIGHBOURS", spare)
    real, fake = uneven(1, 60, 5) + 2, uneven(2, 60, 5) * 1.2 + 2.1
    groups = deal_groups(torch.arange(60) % 3, seed=4)
    found, kernel = compared(real, fake, groups)
    got = kernel if kind == "kernel" else getattr(found, kind)
    a, b = real.double().numpy(), fake.double().numpy()
    stays = [np.full(60, True), *((groups != group).numpy() for group in range(GROUPS))]
    expected = [BY_LOOPS[kind](a[kept], b[kept]) for kept in stays]
    assert len(set(expected)) > 3
    assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=2e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*will save all extracted features in buffer:UserWarning")
def test_kernel_distance_is_torchmetrics_with_one_subset_of_all() -> None:
    real, fake = normal(1, 400, 64).relu(), (normal(2, 400, 64) * 1.05).relu()
    network = nn.Identity()
    network.num_features = 64  # type: ignore[assignment]
    metric = KernelInceptionDistance(network, subsets=1, subset_size=400)
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    groups = deal_groups(torch.zeros(400, dtype=torch.int64), seed=0)
    assert_close(float(compared(real, fake, groups)[1][0]), float(metric.compute()[0]), rtol=1e-4, atol=0)


def test_features_far_from_zero_lose_nothing() -> None:
    """Distances are of features less their mean: as differences of large products they would be noise."""
    real, fake = uneven(1, 60, 5), uneven(2, 60, 5)
    groups = deal_groups(torch.zeros(60, dtype=torch.int64), seed=0)
    near, far = (compared(real + shift, fake + shift, groups)[0] for shift in (0.0, 1000.0))
    assert_close(near.coverage, far.coverage)
    assert_close(near.density, far.density)


def test_where_the_answer_is_known() -> None:
    line = torch.arange(60.0)[:, None]
    groups = deal_groups(torch.zeros(60, dtype=torch.int64), seed=0)
    found, _ = compared(line, line + 0.5, groups)
    assert [float(share[0]) for share in (found.precision, found.recall, found.coverage)] == [1, 1, 1]
    found, _ = compared(line, line + 1000, groups)
    assert (found.precision == 0).all()
    assert (found.density == 0).all()


def test_a_generator_with_one_image() -> None:
    real = normal(1, 100, 8)
    groups = deal_groups(torch.zeros(100, dtype=torch.int64), seed=0)
    found, kernel = compared(real, real[:1].expand(100, 8), groups)
    assert found.precision[0] == 1
    assert found.coverage[0] < 0.2
    assert found.recall[0] <= 0.01
    assert kernel[0] > 0.1
