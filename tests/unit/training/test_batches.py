from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from components.dataset import Split, load_split
from components.errors import InputError
from components.training.batches import StepBlock, StepBlocks
from components.training.draws import step_seed
from tests.prepared import write_prepared

FREQUENCIES = {"bag": 60, "boot": 25, "dress": 5}


def blocks(folder: Path, **options: int) -> StepBlocks:
    split = load_split(write_prepared(folder, {"train": 37, "val": 3, "test": 3}), "train")
    return of_split(split, "uniform", **options)


def of_split(
    split: Split,
    sampler: Literal["uniform", "balanced"],
    *,
    steps: int = 20,
    block: int = 4,
    seed: int = 1,
    batch_size: int = 10,
) -> StepBlocks:
    size: dict[str, Any] = {"batch_size": batch_size, "steps": steps, "block": block}
    return StepBlocks(split, torch.device("cpu"), seed=seed, sampler=sampler, **size)


@pytest.fixture
def uneven() -> Split:
    """90 images that are their own numbers, of three categories and two colours; the weights balance the former."""
    categories = np.repeat(list(FREQUENCIES), list(FREQUENCIES.values()))
    numbers = np.arange(len(categories))
    manifest = pd.DataFrame({"category": categories, "color": np.where(numbers % 7, "red", "blue")})
    manifest["weight"] = 30 / manifest["category"].map(FREQUENCIES)
    images = np.broadcast_to(numbers.astype(np.uint8)[:, None, None, None], (90, 1, 2, 2))
    return Split((images,), manifest, {"category": tuple(FREQUENCIES), "color": ("blue", "red")})


def epoch_counts(blocks: StepBlocks, epochs: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How often each image comes up in each epoch, (epochs, N)."""
    orders = [blocks._epoch_order(epoch).numpy() for epoch in range(epochs)]
    return np.stack([np.bincount(order, minlength=len(order)) for order in orders])


def images(block: StepBlock) -> Tensor:
    """All images of a block, (K, N, C, H, W)."""
    return torch.stack([block.images_NCHW(index) for index in range(len(block.seeds))])


def rows(blocks: StepBlocks, count: int) -> list[int]:
    return [row for step in range(count) for row in blocks._rows(step).tolist()]


def test_each_epoch_takes_every_image_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    taken = rows(blocks(tmp_path), 12)
    first, second = taken[:37], taken[37:74]
    assert sorted(first) == sorted(second) == list(range(37))
    assert first != second
    assert first != sorted(first)


def test_a_step_is_the_same_whatever_came_before(tmp_path: Path) -> None:
    one, other = blocks(tmp_path), blocks(tmp_path)
    straight = [one[index] for index in range(len(one))]
    torch.testing.assert_close(images(other[3]), images(straight[3]), rtol=0, atol=0)
    assert other[3].seeds == straight[3].seeds


def test_the_size_of_a_block_changes_no_batch(tmp_path: Path) -> None:
    by_four, by_seven = blocks(tmp_path, block=4), blocks(tmp_path, block=7)
    one = torch.cat([images(by_four[index]) for index in range(len(by_four))])
    other = torch.cat([images(by_seven[index]) for index in range(len(by_seven))])
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(one) == 20


def test_images_and_conditions_stay_together(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path), "train")
    block = StepBlocks(split, torch.device("cpu"), batch_size=16, steps=5, block=5, seed=3)[0]
    for image, condition in zip(images(block).flatten(0, 1), block.conditions_KNA.flatten(0, 1), strict=True):
        bar = image[0].float().mean(dim=0).unflatten(0, (4, 8)).mean(dim=1)[:3]
        assert bar.argmax() == condition[0]


def test_a_batch_may_be_larger_than_the_dataset(tmp_path: Path) -> None:
    assert len(rows(blocks(tmp_path, batch_size=100), 1)) == 100


def test_another_seed_gives_another_order(tmp_path: Path) -> None:
    assert rows(blocks(tmp_path, seed=1), 3) != rows(blocks(tmp_path, seed=2), 3)


def test_an_index_beyond_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        blocks(tmp_path)[5]


def test_seeds_do_not_collide_and_fit_torch() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(-50, 1000)}
    assert len(seeds) == 20 * 1050
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_uniform_order_is_the_one_it_always_was(tmp_path: Path) -> None:
    """A training of before gives the same weights again."""
    first = torch.Generator().manual_seed(step_seed(1, -1))
    second = torch.Generator().manual_seed(step_seed(1, -2))
    expected = [torch.randperm(37, generator=generator) for generator in (first, second)]
    assert rows(blocks(tmp_path), 7)[:70] == torch.cat(expected).tolist()[:70]


def test_balanced_takes_each_image_its_weight_rounded_up_or_down(uneven: Split) -> None:
    weights = uneven.manifest["weight"].to_numpy()
    counts = epoch_counts(of_split(uneven, "balanced"), 50)
    assert (counts.sum(axis=1) == 90).all()
    assert (counts >= np.floor(weights)).all()
    assert (counts <= np.ceil(weights)).all()
    # Whole weights leave no choice: each dress comes up six times in each epoch.
    assert (counts[:, -5:] == 6).all()


def test_balanced_epochs_have_as_many_of_each_category(uneven: Split) -> None:
    counts = epoch_counts(of_split(uneven, "balanced"), 50)
    for category in FREQUENCIES:
        taken = counts[:, uneven.manifest["category"] == category].sum(axis=1)
        assert (taken == 30).all()


def test_within_a_category_colors_keep_their_shares(uneven: Split) -> None:
    """To within one image either way."""
    counts, manifest = epoch_counts(of_split(uneven, "balanced"), 50), uneven.manifest
    for _, rows in manifest.groupby(["category", "color"]):
        taken = counts[:, rows.index].sum(axis=1)
        assert (np.abs(taken - rows["weight"].sum()) < 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_image_is_left_out_for_long(uneven: Split, seed: int) -> None:
    weights = uneven.manifest["weight"].to_numpy()
    counts = epoch_counts(of_split(uneven, "balanced", seed=seed), 200)
    so_far = counts.cumsum(axis=0)
    expected = np.arange(1, 201)[:, None] * weights
    # Drawn at random it would be 15 or so.
    assert np.abs(so_far - expected).max() < 3
    gaps = [np.diff(np.flatnonzero(counts[:, image])).max() for image in range(90)]
    assert max(gaps) <= 4  # of images with a weight of 0.5, whose mean gap is 2


def test_weights_count_by_their_proportions(uneven: Split) -> None:
    doubled = Split(uneven.shards, uneven.manifest.assign(weight=uneven.manifest["weight"] * 2), uneven.attributes)
    assert rows(of_split(doubled, "balanced"), 30) == rows(of_split(uneven, "balanced"), 30)


def test_equal_weights_take_every_image_once(uneven: Split) -> None:
    equal = Split(uneven.shards, uneven.manifest.assign(weight=1.0), uneven.attributes)
    assert (epoch_counts(of_split(equal, "balanced"), 20) == 1).all()


def test_without_conditions_balanced_goes_by_the_weights_alone(uneven: Split) -> None:
    unconditional = Split(uneven.shards, uneven.manifest, {})
    counts, weights = epoch_counts(of_split(unconditional, "balanced"), 20), uneven.manifest["weight"].to_numpy()
    assert ((np.floor(weights) <= counts) & (counts <= np.ceil(weights))).all()
    equal = Split(uneven.shards, uneven.manifest.assign(weight=1.0), {})
    assert (epoch_counts(of_split(equal, "balanced"), 20) == 1).all()


def test_balanced_batches_are_mixed_and_of_an_order_of_their_own(uneven: Split) -> None:
    drawn = of_split(uneven, "balanced")
    first, second = (drawn._epoch_order(epoch).tolist() for epoch in (0, 1))
    assert first != second
    assert len(set(uneven.manifest["category"].iloc[first[:20]])) == 3
    other = of_split(uneven, "balanced", seed=2)._epoch_order(0).tolist()
    assert sorted(first) != sorted(other)


def test_a_balanced_training_can_be_cut_anywhere(uneven: Split) -> None:
    straight, cut = of_split(uneven, "balanced", steps=40), of_split(uneven, "balanced", steps=40, block=7)
    whole = torch.cat([images(straight[index]) for index in range(len(straight))])
    # Begun in the fourth epoch, then gone back.
    assert torch.equal(images(cut[5]), whole[35:40])
    assert torch.equal(images(cut[1]), whole[7:14])
    assert Counter(whole[:9].flatten().tolist())[89] == 6 * 4


def test_balanced_images_and_conditions_stay_together(uneven: Split) -> None:
    block = of_split(uneven, "balanced")[0]
    numbers = images(block)[:, :, 0, 0, 0].flatten().numpy()
    assert np.array_equal(block.conditions_KNA.flatten(0, 1).numpy(), uneven.conditions_NA[numbers])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_no_positive_numbers_are_refused(uneven: Split, weight: float) -> None:
    manifest = uneven.manifest.copy()
    manifest.loc[3, "weight"] = weight
    with pytest.raises(InputError, match=r"not every weight is a positive number.*dvc repro --force prepare"):
        of_split(Split(uneven.shards, manifest, uneven.attributes), "balanced")
