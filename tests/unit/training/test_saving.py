"""When checkpoints are written, and that a training goes on from one as if it had not ended."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from components.dataset import load_info, load_split
from components.generative import GenerativeModel, MicroBatch, Step
from components.models import family_settings
from components.networks.averaging import Average
from components.settings import FamilySettings, Settings, TrainCommonSettings
from components.training.fitting import Blocks, fit, make_trainer
from components.training.reporting import Recorder
from components.training.saving import Checkpoints
from components.training.shelf import Shelf
from tests.prepared import write_prepared

STEPS, BLOCK, BATCH = 20, 2, 8


class Brightness(GenerativeModel):
    """Predicts an image's mean from its condition and noise; with Adam, dropout and an average."""

    def __init__(self, settings: FamilySettings) -> None:
        super().__init__(settings)
        self.network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.ema = Average(self.network)
        self.steps = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.network.parameters(), 0.01, fused=True)]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        (optimizer,) = step.optimizers
        scalars = self.update(optimizer, step, self._loss)
        self.ema.update(self.settings.batch_size, 50.0)
        self.steps += 1
        return scalars

    def _loss(self, part: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = torch.cat([part.draws.normal("noise", 3), part.conditions_NA.float()], dim=1)
        loss = (self.network(inputs)[:, 0] - part.images_NCHW.mean(dim=(1, 2, 3))).square().mean()
        return loss, {"loss": loss}

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        raise NotImplementedError

    def sampling_state(self) -> dict[str, Tensor]:
        return self.ema.module.state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self.ema.module.load_state_dict(state)


class StopsAt(Callback):
    """Ends the training after a step: well, or by an error."""

    def __init__(self, step: int, error: type[Exception] | None = None) -> None:
        self.step, self.error = step, error

    def on_train_batch_end(self, trainer: Trainer, _module: Any, outputs: Any, *_: Any) -> None:
        if outputs["log"].last_step == self.step:
            if self.error is not None:
                raise self.error
            trainer.should_stop = True


class Bench:
    """One training after the other on the same shelf."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        write_prepared(folder / "prepared")
        self.info, self.split = load_info(folder / "prepared"), load_split(folder / "prepared", "train")
        self.family = family_settings("gan", settings.train.families["gan"]).model_copy(
            update={"batch_size": BATCH, "accumulate": 2}
        )
        self.common: TrainCommonSettings = settings.train.common.model_copy(
            update={"accelerator": "cpu", "log_every": BLOCK, "precision": "32-true"}
        )
        self.root = folder / "checkpoints"
        self.recorder = Recorder()

    def shelf(self) -> Shelf:
        return Shelf("gan", "0" * 16, keep=99, store=None, root=self.root)

    def train(self, *callbacks: Callback, every: int = 3 * BATCH) -> Brightness:
        """From the last checkpoint, if there is one."""
        torch.manual_seed(0)
        model, shelf = Brightness(self.family), self.shelf()
        with shelf.opened():
            shelf.note_run("run")
            checkpoints = Checkpoints(shelf, shelf.latest(), every, STEPS, self.info)
            trainer = make_trainer(self.common)
            self.recorder = Recorder()
            trainer.callbacks += [self.recorder, *callbacks, checkpoints]  # type: ignore[attr-defined]
            fit(trainer, model, Blocks(self.split, self.family, self.common, checkpoints, STEPS))
        return model

    def steps(self) -> list[int]:
        """Of the checkpoints."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self.root.glob("*/*/*.ckpt"))


@pytest.fixture
def bench(tmp_path: Path, settings: Settings) -> Bench:
    return Bench(tmp_path, settings)


def test_a_training_that_was_cut_ends_with_the_same_bits(bench: Bench, tmp_path: Path, settings: Settings) -> None:
    whole = bench.train()
    rows = bench.recorder.rows
    again = Bench(tmp_path / "again", settings)
    for step in (2, 6, 8, 14):
        with pytest.raises(RuntimeError):
            again.train(StopsAt(step, RuntimeError))
    cut = again.train()
    # The error of step 14 came before its checkpoint.
    assert cut.steps == STEPS - 12
    torch.testing.assert_close(cut.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert again.recorder.rows == rows
    torch.manual_seed(0)
    untrained, trained = (next(model.network.parameters()) for model in (Brightness(bench.family), cut))
    assert not torch.equal(untrained, trained)


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, range(2, 21, 2)), (3 * BATCH, (4, 6, 10, 12, 16, 18, 20)), (6 * BATCH, (6, 12, 18, 20)), (10**9, (20,))],
)
def test_the_interval_is_steady_and_the_end_is_kept(bench: Bench, images: int, expected: list[int]) -> None:
    bench.train(every=images)
    assert bench.steps() == list(expected)


def test_the_interval_does_not_move_where_a_training_goes_on(bench: Bench) -> None:
    with pytest.raises(RuntimeError):
        bench.train(StopsAt(8, RuntimeError), every=5 * BATCH)
    bench.train(every=5 * BATCH)
    assert bench.steps() == [6, 10, 16, 20]


def test_what_was_killed_after_its_last_step_only_ends(bench: Bench) -> None:
    whole = bench.train()
    rows = bench.recorder.rows
    again = bench.train()
    assert again.steps == 0
    torch.testing.assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert bench.recorder.rows == rows


def test_an_early_stop_is_kept_and_stays_one(bench: Bench) -> None:
    stopped = bench.train(StopsAt(8), every=10**9)
    assert bench.steps() == [8]
    again = bench.train(every=10**9)
    assert (stopped.steps, again.steps) == (8, 0)
    torch.testing.assert_close(again.state_dict(), stopped.state_dict(), rtol=0, atol=0)
