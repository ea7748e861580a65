"""Where a training's images are kept: on the device as uint8, or on the disk and read a few steps ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from components.dataset import Split

BYTES_AHEAD = 64 * 2**20
STEPS_AHEAD = 8

RowsOfStep = Callable[[int], Tensor]
"""Number of a step to the images that this process takes in it, int64 (N,)."""


class TrainingImages(Protocol):
    """Gives the images of a step, wherever they are kept."""

    def at(self, step: int) -> Tensor:
        """This process's images of a step, uint8 (N, C, H, W), on the device."""


class ImagesOnDevice:
    """All images in the memory of the device that computes; batches are gathered there."""

    def __init__(self, split: Split, device: torch.device, rows_of: RowsOfStep) -> None:
        self._rows_of = rows_of
        self._images_NCHW = torch.empty(len(split), *split.image_shape, dtype=torch.uint8, device=device)
        start = 0
        for shard in split.shards:
            # Copied, since torch warns of arrays that must not be written to.
            self._images_NCHW[start : start + len(shard)] = torch.from_numpy(np.array(shard))
            start += len(shard)

    def at(self, step: int) -> Tensor:
        """See `TrainingImages`."""
        # 64 kB or less of unpinned memory are copied by the driver before it returns: safe, and nothing waits.
        return self._images_NCHW[self._rows_of(step).to(self._images_NCHW.device, non_blocking=True)]


class ImagesOnDisk:
    """Images stay in their shards, mapped into memory; a thread gathers those of the next steps.

    What is read ahead takes at most `bytes_ahead`, or one step's images if these are more.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device,
        rows_of: RowsOfStep,
        steps: int,
        bytes_ahead: int = BYTES_AHEAD,
    ) -> None:
        self._split, self._device, self._rows_of, self._steps = split, device, rows_of, steps
        self._bytes_ahead = bytes_ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vitrine-images")
        self._under_way: dict[int, Future[Tensor]] = {}

    def at(self, step: int) -> Tensor:
        """See `TrainingImages`. The steps after it are gathered meanwhile."""
        under_way = self._under_way.pop(step, None)
        images = self._gather(self._rows_of(step)) if under_way is None else under_way.result()
        ahead = range(step + 1, min(self._steps, step + 1 + self._steps_ahead(images)))
        self._under_way = {
            number: self._under_way.get(number) or self._thread.submit(self._gather, self._rows_of(number))
            for number in ahead
        }
        return images.to(self._device, non_blocking=True)

    def _steps_ahead(self, images_NCHW: Tensor) -> int:
        return max(1, min(STEPS_AHEAD, self._bytes_ahead // max(1, images_NCHW.nbytes)))

    def _gather(self, rows_N: Tensor) -> Tensor:
        """Rows in the order asked for; in pinned memory where a GPU fetches them."""
        shape = (len(rows_N), *self._split.image_shape)
        images_NCHW = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        self._split.gather(rows_N.numpy(), images_NCHW.numpy())
        return images_NCHW


def fit_on_device(split: Split, device: torch.device, processes: int) -> bool:
    """Whether all images fit into half of the memory that is free; on a CPU all processes share it."""
    needed = sum(shard.nbytes for shard in split.shards)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return needed <= free // 2
    return needed * processes <= psutil.virtual_memory().available // 2
