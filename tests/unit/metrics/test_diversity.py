import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from components.features import EffLite0, Features, extract, perceptual_distances
from components.metrics.diversity import measure_diversity
from components.metrics.groups import deal_groups
from tests.unit.copying.test_pixels import photos

COUNT = 80


@pytest.fixture(scope="module")
def network() -> EffLite0:
    return EffLite0(32)


def seen(network: EffLite0, images: Tensor, batch_size: int = 10) -> Features:
    return extract(network, images.split(20), total=len(images), batch_size=batch_size, label="x", pairs=True)


@pytest.fixture(scope="module")
def real(network: EffLite0) -> Features:
    return seen(network, photos(COUNT))


POSITIONS = {"bag": torch.arange(0, 40), "dress": torch.arange(40, 79)}
GROUPS_N = deal_groups(torch.arange(COUNT) // 40, 0)


def test_is_the_distance_between_normalised_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    stages = [torch.randn(5, 3, 2, 2, generator=generator), torch.randn(5, 4, 1, 1, generator=generator)]
    expected = []
    for pair in range(2):
        total = 0.0
        for maps in stages:
            one, other = maps[2 * pair], maps[2 * pair + 1]
            places = [(y, x) for y in range(maps.shape[2]) for x in range(maps.shape[3])]
            total += sum(
                float((one[:, y, x] / one[:, y, x].norm() - other[:, y, x] / other[:, y, x].norm()).square().sum())
                for y, x in places
            ) / len(places)
        expected.append(total)
    assert_close(perceptual_distances(stages), torch.tensor(expected))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_batch_size_does_not_matter(network: EffLite0, batch_size: int) -> None:
    images = photos(41)
    found, expected = seen(network, images, batch_size), seen(network, images)
    assert found.pair_distances.shape == (20,)
    assert_close(found.pair_distances, expected.pair_distances, rtol=1e-3, atol=1e-5)


def test_a_torn_pair_is_refused(network: EffLite0) -> None:
    with pytest.raises(ValueError, match="tears a pair"):
        extract(network, photos(10).split(5), total=10, batch_size=4, label="x", pairs=True)


def test_other_photos_are_as_diverse(network: EffLite0, real: Features) -> None:
    overall, by_category = measure_diversity(real, seen(network, photos(COUNT, seed=1)), GROUPS_N, POSITIONS)
    for found in (overall, *by_category.values()):
        assert 0.85 < found["diversity_ratio"].value < 1.15
        assert found["diversity_ratio"].interval is not None
        assert found["diversity_ratio"].floor == 1.0
    for name, pairs in (("bag", slice(20)), ("dress", slice(20, 39))):
        assert by_category[name]["diversity"].floor == pytest.approx(float(real.pair_distances[pairs].mean()))
    assert overall["diversity"].floor == pytest.approx(float(real.pair_distances[:39].mean()))


def test_replicates_leave_out_pairs(network: EffLite0, real: Features) -> None:
    fake = seen(network, photos(COUNT, seed=1))
    found = measure_diversity(real, fake, GROUPS_N, {})[0]["diversity_ratio"]
    for group in (0, 13):
        kept = GROUPS_N[::2] != group
        expected = fake.pair_distances[kept].double().sum() / real.pair_distances[kept].double().sum()
        assert math.isclose(found.replicates[group], float(expected), rel_tol=1e-6)


def test_pairs_across_categories_do_not_count(real: Features) -> None:
    distances = torch.ones(COUNT // 2)
    distances[39] = 1000.0  # images 78 and 79: one is a dress, the other nothing
    fake = Features(real.features_ND, real.logits_NK, distances)
    overall, by_category = measure_diversity(real, fake, GROUPS_N, POSITIONS)
    assert overall["diversity"].value == by_category["dress"]["diversity"].value == 1.0
    # Nor does one of which neither is of a category.
    overall, _ = measure_diversity(real, fake, GROUPS_N, {**POSITIONS, "dress": torch.arange(40, 78)})
    assert overall["diversity"].value == 1.0


def one_mode(noise: float) -> Tensor:
    images = photos(1, seed=1).expand(COUNT, -1, -1, -1)
    added = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)) * noise
    return (images + added).clamp(0, 255).round().to(torch.uint8)


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_a_generator_with_one_mode_is_seen(network: EffLite0, real: Features, noise: float) -> None:
    overall, by_category = measure_diversity(real, seen(network, one_mode(noise)), GROUPS_N, POSITIONS)
    for found in (overall, *by_category.values()):
        assert found["diversity_ratio"].value < 0.25


def test_only_the_collapsed_category_is_named(network: EffLite0, real: Features) -> None:
    images = torch.cat([photos(COUNT, seed=1)[:40], one_mode(0)[:40]])
    _, by_category = measure_diversity(real, seen(network, images), GROUPS_N, POSITIONS)
    assert by_category["bag"]["diversity_ratio"].value > 0.8
    assert by_category["dress"]["diversity_ratio"].value < 0.01


def test_a_category_without_a_pair_is_unknown(real: Features) -> None:
    _, by_category = measure_diversity(real, real, GROUPS_N, {**POSITIONS, "hat": torch.tensor([79])})
    assert math.isnan(by_category["hat"]["diversity_ratio"].value)
    assert by_category["hat"]["diversity_ratio"].interval is None
