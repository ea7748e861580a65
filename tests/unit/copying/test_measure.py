import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.copying.measure import Copying, Looked, TrainingPhotos, measure_copying
from components.features import EffLite0
from components.metrics.groups import deal_groups
from components.settings import CopyingSettings
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
