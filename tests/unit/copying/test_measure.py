import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.copying.measure import (
    DUPLICATE,
    Copying,
    Looked,
    TrainingPhotos,
    measure_copying,
    share_of_copies,
    share_of_duplicates,
)
from components.features import EffLite0
from components.measurement import GROUPS, T_95, share_error
from components.metrics.groups import deal_groups
from components.settings import CopyingSettings
from tests.random_features import normal
from tests.unit.copying.test_pixels import CHANGES, photos, split_of

COUNT = 120
SETTINGS = CopyingSettings(samples=COUNT, quantile=0.01)


@pytest.fixture(scope="module")
def network() -> EffLite0:
    return EffLite0(32)


@pytest.fixture(scope="module")
def train(network: EffLite0) -> TrainingPhotos:
    images = photos(300)
    return TrainingPhotos(split_of(images), np.arange(300), network(images)[0])


@pytest.fixture(scope="module")
def held_out(network: EffLite0) -> Looked:
    images = photos(COUNT, seed=1)
    return Looked(images, network(images)[0])


def measured(network: EffLite0, train: TrainingPhotos, held_out: Looked, images: Tensor) -> Copying:
    groups = deal_groups(torch.zeros(COUNT, dtype=torch.int64), 0)
    looked = Looked(images, network(images)[0])
    return measure_copying(train, held_out, looked, groups, SETTINGS, seed=1, cache_key={"dataset": "a"})


def test_new_images_pass(network: EffLite0, train: TrainingPhotos, held_out: Looked) -> None:
    found = measured(network, train, held_out, photos(COUNT, seed=2)).metrics
    for name in ("copies_by_features", "copies_by_pixels", "duplicates"):
        interval = found[name].interval
        assert interval is not None
        assert interval[1] <= 0.1, name
        floor = found[name].floor
        assert floor is not None
        assert floor < 0.03
    score = found["copying_ct"]
    assert score.interval is not None
    assert -3 <= score.interval[0] < score.value < score.interval[1]


@pytest.mark.parametrize("change", CHANGES)
def test_a_generator_that_memorises_fails(
    network: EffLite0, train: TrainingPhotos, held_out: Looked, change: str
) -> None:
    copies = CHANGES[change](photos(300)[:COUNT])
    interval = measured(network, train, held_out, copies).metrics["copies_by_pixels"].interval
    assert interval is not None
    assert interval[0] > 0.5


def test_a_generator_that_copies_at_times_fails(network: EffLite0, train: TrainingPhotos, held_out: Looked) -> None:
    images = torch.cat([photos(300)[: COUNT * 3 // 10], photos(COUNT, seed=2)[: COUNT - COUNT * 3 // 10]])
    found = measured(network, train, held_out, images).metrics
    assert 0.25 < found["copies_by_pixels"].value < 0.35
    assert 0.25 < found["copies_by_features"].value < 0.35


def test_plain_copies_are_seen_in_every_way(network: EffLite0, train: TrainingPhotos, held_out: Looked) -> None:
    rows = torch.arange(50, 50 + COUNT)
    found = measured(network, train, held_out, photos(300)[rows])
    assert found.metrics["copies_by_features"].value == found.metrics["copies_by_pixels"].value == 1.0
    assert found.metrics["copying_ct"].value < -3
    assert len(found.closest) == 10
    assert all(pair.train_row == rows[pair.sample] for pair in found.closest)
    assert all(pair.photo_id == f"photo-{pair.train_row}" for pair in found.closest)
    relative = [pair.relative_distance for pair in found.closest]
    assert relative == sorted(relative)


def test_one_image_over_and_over_is_all_duplicates(network: EffLite0, train: TrainingPhotos, held_out: Looked) -> None:
    found = measured(network, train, held_out, photos(1, seed=2).expand(COUNT, -1, -1, -1))
    assert found.metrics["duplicates"].value == 1.0


def brute_force_duplicates(fake_ND: Tensor, real_ND: Tensor, quantile: float) -> float:
    nearest = []
    for features_ND in (fake_ND, real_ND):
        distances = (features_ND[:, None] - features_ND).norm(dim=2)
        nearest.append(distances.fill_diagonal_(math.inf).amin(dim=1))
    return float((nearest[0] <= DUPLICATE * torch.quantile(nearest[1], quantile)).double().mean())


def test_replicates_of_duplicates_look_for_fellows_anew() -> None:
    """Where images come in twos, few of their fellows are left when a group is."""
    real, fake = normal(0, COUNT, 5), normal(1, COUNT // 2, 5).repeat(2, 1) + normal(2, COUNT, 5) * 0.1
    groups = deal_groups(torch.zeros(COUNT, dtype=torch.int64), 3)
    found = share_of_duplicates(fake, real, groups, 0.1)
    assert 0.2 < found.value < 1
    assert found.value == brute_force_duplicates(fake, real, 0.1)
    for group in range(GROUPS):
        kept = groups != group
        assert found.replicates[group] == pytest.approx(brute_force_duplicates(fake[kept], real[kept], 0.1))


def test_the_interval_of_duplicates_covers_their_share() -> None:
    """Of a generator of so many images, each as likely as another: which share comes twice is known."""
    held, many = 400, 2000
    images = normal(99, many, 8)
    once = (1 - 1 / many) ** (held - 1)
    groups = deal_groups(torch.zeros(held, dtype=torch.int64), 0)
    covered = 0
    for seed in range(60):
        drawn = torch.randint(many, (held,), generator=torch.Generator().manual_seed(seed))
        # The photos lie far apart, so that nothing else than the same image counts.
        interval = share_of_duplicates(images[drawn], images[:held] * 0.3, groups, 0.01).interval
        assert interval is not None
        covered += interval[0] <= 1 - once <= interval[1]
    assert covered >= 56


def test_no_duplicates_among_few_images_is_no_certainty() -> None:
    groups = deal_groups(torch.zeros(40, dtype=torch.int64), 0)
    found = share_of_duplicates(torch.eye(40) * 9, normal(0, 40, 40), groups, 0.01)
    assert (found.value, set(found.replicates)) == (0.0, {0.0})
    assert found.interval is not None
    # Wilson's of 0 of 40.
    assert found.interval[1] == pytest.approx(1.96**2 / (40 + 1.96**2), rel=1e-3)
    assert found.interval[1] == pytest.approx(found.least_error * T_95)


def test_a_threshold_on_copies_is_seldom_passed_by_luck() -> None:
    """Of 300 held-out photos three decide where the limit is, and how many of the nearer images lie within it."""
    count, trials = 300, 200
    groups = deal_groups(torch.zeros(count, dtype=torch.int64), 0)
    found = [
        share_of_copies(0.78 + 0.07 * nearer_N, 0.85 + 0.07 * held_N, groups, 0.01)
        for nearer_N, held_N in (normal(seed, 2, count) for seed in range(trials))
    ]
    truth = sum(estimate.value for estimate in found) / trials
    assert sum(estimate.interval is not None and estimate.interval[1] < truth for estimate in found) <= 0.025 * trials
    # And the interval is not wide without reason: plain copies are as sure as any share.
    plain = share_of_copies(torch.arange(count) % 2 + 0.0, torch.linspace(0.5, 1, count), groups, 0.01)
    assert plain.least_error == share_error(0.5, count)


def test_replicates_leave_a_group_out_of_both(network: EffLite0, train: TrainingPhotos, held_out: Looked) -> None:
    images = torch.cat([photos(300)[:40], photos(COUNT, seed=2)[:80]])
    found = measured(network, train, held_out, images).metrics["copies_by_pixels"]
    groups = deal_groups(torch.zeros(COUNT, dtype=torch.int64), 0)
    copies = [(float((groups[:40] != g).sum()) / float((groups != g).sum())) for g in range(20)]
    torch.testing.assert_close(torch.tensor(found.replicates), torch.tensor(copies), atol=0.06, rtol=0)
    assert len(set(found.replicates)) > 1


def test_the_real_photos_part_is_kept(
    network: EffLite0, train: TrainingPhotos, held_out: Looked, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(COUNT, seed=2)
    first, second = (measured(network, train, held_out, images) for _ in range(2))
    assert first == second
    assert capsys.readouterr().out.count("nearest photos of held-out ones from the cache") >= 1


def test_features_that_are_no_numbers_give_no_number(train: TrainingPhotos, held_out: Looked) -> None:
    groups = deal_groups(torch.zeros(COUNT, dtype=torch.int64), 0)
    broken = Looked(photos(COUNT, seed=2), torch.full_like(held_out.features_ND, math.nan))
    found = measure_copying(train, held_out, broken, groups, SETTINGS, seed=1, cache_key={"dataset": "a"}).metrics
    for name in ("copies_by_features", "duplicates", "copying_ct"):
        assert math.isnan(found[name].value)
        assert found[name].interval is None
