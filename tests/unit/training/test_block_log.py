"""What a block of steps logs, with values that are not there in each step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.dataset import load_split
from components.generative import GenerativeModel, Step
from components.settings import FamilySettings
from components.training.batches import StepBlocks
from tests.prepared import write_prepared


class Counting(GenerativeModel):
    """Logs the step's number, and its square in each third step."""

    def optimise(self, step: Step) -> dict[str, Tensor]:
        number = torch.tensor(step.number)
        return {"number": number} | ({"square": number**2} if step.number % 3 == 0 else {})

    def draw_latents(self, *_: Any) -> Tensor:
        raise NotImplementedError

    def generate(self, *_: Any) -> Tensor:
        raise NotImplementedError

    def sampling_state(self) -> dict[str, Tensor]:
        return {}

    def load_sampling_state(self, state: dict[str, Tensor]) -> None: ...


class Silent(Counting):
    def optimise(self, step: Step) -> dict[str, Tensor]:  # noqa: ARG002
        return {}


@pytest.fixture
def blocks(tmp_path: Path) -> StepBlocks:
    split = load_split(write_prepared(tmp_path), "train")
    return StepBlocks(split, torch.device("cpu"), batch_size=8, steps=10, block=5, seed=1)


@pytest.fixture
def settings() -> FamilySettings:
    values: dict[str, Any] = {"images": 80, "batch_size": 8, "accumulate": 2, "gradient_clip": None}
    return FamilySettings(**values, ema_half_life=0.0, init_from=None)


def test_each_value_stands_with_its_step(blocks: StepBlocks, settings: FamilySettings) -> None:
    log = Counting(settings).train_block(blocks[1], [])
    assert log.values == {"number": [(step, float(step)) for step in range(5, 10)], "square": [(6, 36.0), (9, 81.0)]}
    assert (log.last_step, log.images_seen) == (10, 80)
    assert log.means() == {"number": 7.0, "square": 58.5}


def test_nothing_logged_is_no_error(blocks: StepBlocks, settings: FamilySettings) -> None:
    assert Silent(settings).train_block(blocks[0], []).values == {}
