from pathlib import Path

import pytest
import torch

from components.batches import StepBlocks, step_seed
from components.dataset import load_split
from tests.prepared import write_prepared


def blocks(folder: Path, *, steps: int = 20, block: int = 4, seed: int = 1, batch_size: int = 10) -> StepBlocks:
    split = load_split(write_prepared(folder, {"train": 37, "val": 3, "test": 3}), "train")
    return StepBlocks(split, torch.device("cpu"), batch_size=batch_size, steps=steps, block=block, seed=seed)


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
    torch.testing.assert_close(other[3].images_KNCHW, straight[3].images_KNCHW, rtol=0, atol=0)
    assert other[3].seeds == straight[3].seeds


def test_the_size_of_a_block_changes_no_batch(tmp_path: Path) -> None:
    by_four, by_seven = blocks(tmp_path, block=4), blocks(tmp_path, block=7)
    one = torch.cat([by_four[index].images_KNCHW for index in range(len(by_four))])
    other = torch.cat([by_seven[index].images_KNCHW for index in range(len(by_seven))])
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert len(one) == 20


def test_images_and_conditions_stay_together(tmp_path: Path) -> None:
    split = load_split(write_prepared(tmp_path), "train")
    block = StepBlocks(split, torch.device("cpu"), batch_size=16, steps=5, block=5, seed=3)[0]
    for image, condition in zip(block.images_KNCHW.flatten(0, 1), block.conditions_KNA.flatten(0, 1), strict=True):
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
