"""The same batches, wherever the images are kept."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from components.dataset import Split, load_split
from components.training.batches import StepBlocks, training_images
from components.training.images import (
    STEPS_AHEAD,
    ImagesOnDevice,
    ImagesOnDisk,
    fit_on_device,
)
from tests.prepared import write_prepared

CPU = torch.device("cpu")
IMAGE_BYTES = 32 * 32


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """37 images in shards of 10, 10, 10 and 7."""
    whole = load_split(write_prepared(tmp_path, {"train": 37, "val": 3, "test": 3}), "train")
    (images,) = whole.shards
    return Split(tuple(images[start : start + 10] for start in range(0, 37, 10)), whole.manifest, whole.attributes)


def blocks(split: Split, keep: str, **options: Any) -> StepBlocks:
    size: dict[str, Any] = {"batch_size": 8, "steps": 15, "block": 4, "seed": 1}
    keeping: Any = keep
    return StepBlocks(split, CPU, **size | options, keep=keeping)


def all_images(blocks: StepBlocks) -> Tensor:
    taken = [blocks[index] for index in range(len(blocks))]
    return torch.stack([block.images_NCHW(index) for block in taken for index in range(len(block.seeds))])


@pytest.mark.parametrize("options", [{}, {"sampler": "balanced"}, {"rank": 1, "world": 2}, {"first_step": 8}])
def test_batches_are_the_same_bit_by_bit_from_the_disk(split: Split, options: dict[str, Any]) -> None:
    on_device, on_disk = blocks(split, "device", **options), blocks(split, "disk", **options)
    assert isinstance(on_device.images, ImagesOnDevice)
    assert isinstance(on_disk.images, ImagesOnDisk)
    expected = all_images(on_device)
    assert torch.equal(all_images(on_disk), expected)
    assert len(expected) == (7 if options.get("first_step") else 15)
    # The shards were never put together.
    assert "images_NCHW" not in vars(split)


def test_they_are_the_images_that_the_rows_name(split: Split) -> None:
    on_disk, together = blocks(split, "disk"), np.concatenate(split.shards)
    for step in range(15):
        assert np.array_equal(on_disk.images.at(step).numpy(), together[on_disk._rows(step).numpy()])


def test_steps_may_come_in_any_order(split: Split) -> None:
    on_disk, expected = blocks(split, "disk"), all_images(blocks(split, "device"))
    for step in (0, 1, 9, 2, 14, 14, 3):
        assert torch.equal(on_disk.images.at(step), expected[step])


def test_rows_of_several_shards_are_read_in_the_order_asked_for(split: Split) -> None:
    rows = np.array([36, 0, 9, 10, 29, 30, 10])
    assert np.array_equal(split.gather(rows), np.concatenate(split.shards)[rows])


def test_all_training_images_in_chunks_whatever_the_shards(split: Split) -> None:
    images, conditions = zip(*training_images(split, CPU, np.arange(36, -1, -1)), strict=True)
    expected = torch.from_numpy(np.concatenate(split.shards)[::-1].copy()).float() / 127.5 - 1
    torch.testing.assert_close(torch.cat(images), expected, rtol=0, atol=1e-6)
    assert np.array_equal(torch.cat(conditions).numpy(), split.conditions_NA[::-1])
    assert "images_NCHW" not in vars(split)


@pytest.mark.parametrize(
    ("bytes_ahead", "steps"),
    [(3 * 8 * IMAGE_BYTES, 3), (1, 1), (math.inf, STEPS_AHEAD)],
    ids=["three steps", "less than a step", "all"],
)
def test_what_is_read_ahead_is_bounded(split: Split, bytes_ahead: Any, steps: int) -> None:
    rows = torch.arange(8)
    images = ImagesOnDisk(split, CPU, lambda _: rows, steps=100, bytes_ahead=bytes_ahead)
    for step in range(5):
        images.at(step)
        assert sorted(images._under_way) == list(range(step + 1, step + 1 + steps))


def test_nothing_is_read_ahead_beyond_the_end(split: Split) -> None:
    asked = []

    def rows_of(step: int) -> Tensor:
        asked.append(step)
        return torch.arange(8)

    images = ImagesOnDisk(split, CPU, rows_of, steps=5)
    for step in range(5):
        images.at(step)
    assert sorted(asked) == list(range(5))


def test_an_error_while_reading_ahead_is_not_lost(split: Split) -> None:
    images = ImagesOnDisk(split, CPU, lambda step: torch.tensor([0 if step == 0 else 37]), steps=5)
    images.at(0)
    with pytest.raises(IndexError):
        images.at(1)


@pytest.mark.parametrize(
    ("free", "processes", "fits"),
    [(2 * 37 * IMAGE_BYTES, 1, True), (2 * 37 * IMAGE_BYTES - 2, 1, False), (2 * 37 * IMAGE_BYTES, 2, False)],
)
def test_auto_keeps_images_where_half_of_the_free_memory_holds_them(
    split: Split, monkeypatch: pytest.MonkeyPatch, free: int, processes: int, fits: bool
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert fit_on_device(split, CPU, processes) is fits
    chosen = blocks(split, "auto", world=processes).images
    assert isinstance(chosen, ImagesOnDevice if fits else ImagesOnDisk)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("keep", ["device", "disk"])
def test_a_gpu_gets_the_same_batches(split: Split, keep: Any) -> None:
    on_gpu = StepBlocks(split, torch.device("cuda"), batch_size=8, steps=15, block=4, seed=1, keep=keep)
    found = all_images(on_gpu)
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), all_images(blocks(split, "device")))


@pytest.mark.parametrize("keep", ["device", "disk"])
def test_processes_share_a_batch_in_the_order_of_their_numbers(split: Split, keep: str) -> None:
    whole = all_images(blocks(split, keep))
    parts = [blocks(split, keep, rank=rank, world=2) for rank in (0, 1)]
    assert [part[0].first_row for part in parts] == [0, 4]
    assert torch.equal(torch.cat([all_images(part) for part in parts], dim=1), whole)
    first, second = (part[1].conditions_KNA for part in parts)
    assert torch.equal(torch.cat([first, second], dim=1), blocks(split, keep)[1].conditions_KNA)
