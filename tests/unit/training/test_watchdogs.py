"""What ends a training and what warns: on blocks made by hand, and in real trainings gone wrong."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from components import tracking
from components.dataset import load_split
from components.generative import BlockLog, GenerativeModel, Step
from components.settings import FamilySettings, WatchdogSettings, WatchSettings
from components.stage import explained_errors
from components.training.batches import StepBlocks
from components.training.module import TrainingModule
from components.training.reporting import Recorder
from components.training.watchdogs import TAG, TrainingStoppedError, Watchdogs
from tests.prepared import write_prepared

BLOCK = 100
"""Images of a block in the logs made by hand."""


def settings(patience: int = 300) -> WatchdogSettings:
    return WatchdogSettings(
        patience=patience,
        discriminator_accuracy=WatchSettings(warn=0.9, stop=0.99),
        diversity=WatchSettings(warn=0.5, stop=0.1),
        active_units=WatchSettings(warn=3.0, stop=None),
    )


class Blocks:
    """Feeds a watchdog with blocks of ten steps and ten images each."""

    def __init__(self, patience: int = 300, model: GenerativeModel | None = None) -> None:
        self.recorder = Recorder()
        self.watchdogs = Watchdogs(settings(patience), "gan", self.recorder)
        self.trainer = Trainer(accelerator="cpu", barebones=True)
        self.module = TrainingModule(model or Tiny(tiny_settings(), lr=0.1))
        self.done = 0

    def feed(self, **values: float | list[float]) -> None:
        steps = range(10 * self.done, 10 * self.done + 10)
        self.done += 1
        pairs = {
            name: list(zip(steps, value if isinstance(value, list) else [value] * 10, strict=False))
            for name, value in values.items()
        }
        log = BlockLog(10 * self.done, BLOCK * self.done, pairs)
        self.watchdogs.on_train_batch_end(self.trainer, self.module, {"log": log}, None, 0)

    def recorded(self, name: str) -> list[float]:
        return [row[name] for row in self.recorder.rows]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_scalar_that_is_not_finite_is_named_with_its_step(bad: float) -> None:
    blocks = Blocks()
    blocks.feed(loss_generator=1.0)
    with pytest.raises(TrainingStoppedError, match=rf"'gan' was stopped after 200 images: kl is {bad} at step 14\."):
        blocks.feed(loss_generator=[1.0] * 7 + [bad] * 3, kl=[1.0] * 3 + [bad] * 7)


def test_of_one_step_the_loss_that_was_told_first_is_named() -> None:
    with pytest.raises(TrainingStoppedError, match="loss_discriminator is nan at step 1"):
        Blocks().feed(loss_discriminator=math.nan, loss_generator=math.nan)


@pytest.mark.parametrize("place", ["weight", "running_var"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_weight_that_is_not_finite_is_named(place: str, bad: float) -> None:
    """Where the last step of a block breaks the weights, its losses are fine still, and a checkpoint is due."""
    model = Tiny(tiny_settings(), lr=0.1)
    model.network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    blocks = Blocks(model=model)
    blocks.feed(loss=1.0)
    with torch.no_grad():
        getattr(model.network[1], place)[1] = bad
    with pytest.raises(
        TrainingStoppedError, match=rf"the weight network\.1\.{place} holds NaN or infinity after step 20"
    ):
        blocks.feed(loss=1.0)


def test_infinity_in_what_is_fitted_after_training_is_no_matter() -> None:
    model = Tiny(tiny_settings(), lr=0.1)
    model.refitted = ("density.",)
    model.density = nn.BatchNorm1d(2)
    blocks = Blocks(model=model)
    with torch.no_grad():
        model.density.weight.fill_(math.inf)
    blocks.feed(loss=1.0)
    with torch.no_grad():
        model.weight.fill_(math.inf)
    with pytest.raises(TrainingStoppedError, match="the weight weight holds"):
        blocks.feed(loss=1.0)


def test_large_weights_are_no_matter() -> None:
    model = Tiny(tiny_settings(), lr=0.1)
    model.register_buffer("large", torch.full((3,), 3e38))
    model.register_buffer("empty", torch.zeros(0))
    model.register_buffer("count", torch.tensor(2**40))
    Blocks(model=model).feed(loss=1.0)


def test_a_warning_comes_after_patience_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = Blocks()
    for accuracy in (0.8, 0.95, 0.95, 0.95, 0.95, 0.8, 0.95):
        blocks.feed(discriminator_accuracy=accuracy)
    assert blocks.recorded("watch_discriminator_accuracy") == pytest.approx([0.8, *[0.95] * 4, 0.8, 0.95])
    assert blocks.recorded("warning_discriminator_accuracy") == [0, 0, 0, 1, 1, 0, 0]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith("warning: gan: the discriminator tells nearly every generated image")
    assert "discriminator_accuracy is 0.95 at step 40, and was above 0.9 over the last 300 images" in said[0]
    assert "Try train.gan: a lower discriminator_optimizer.lr" in said[0]


def test_the_end_of_a_training_shorter_than_patience_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = Blocks(patience=10_000)
    blocks.feed(diversity_fake=0.0, diversity_real=1.0, discriminator_accuracy=0.7)
    assert capsys.readouterr().out == ""
    blocks.watchdogs.on_train_end(blocks.trainer, blocks.module)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("warning: gan: the training ends with diversity at 0, below 0.5: mode collapse")


def test_the_end_tells_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = Blocks(patience=BLOCK)
    blocks.feed(diversity_fake=0.3, diversity_real=1.0)
    capsys.readouterr()
    blocks.watchdogs.on_train_end(blocks.trainer, blocks.module)
    assert capsys.readouterr().out == ""


def test_a_stop_comes_after_patience_without_a_break() -> None:
    blocks = Blocks()
    for accuracy in (1.0, 1.0, 0.95, 1.0, 1.0):
        blocks.feed(discriminator_accuracy=accuracy)
    with pytest.raises(TrainingStoppedError, match=r"above 0\.99 over the last 300 images .*Try train\.gan: .*lr"):
        blocks.feed(discriminator_accuracy=1.0)
    assert blocks.recorded("warning_discriminator_accuracy")[-1] == 1


def test_without_a_threshold_nothing_stops() -> None:
    blocks = Blocks()
    for _ in range(9):
        blocks.feed(active_units=0.0)
    assert blocks.recorded("warning_active_units") == [0, 0, *[1] * 7]


def test_a_value_at_the_threshold_is_on_the_good_side() -> None:
    blocks = Blocks(patience=1)
    blocks.feed(discriminator_accuracy=0.9, active_units=3.0, diversity_fake=0.5, diversity_real=1.0)
    assert {name: value for name, value in blocks.recorder.rows[0].items() if name.startswith("warning")} == {
        "warning_discriminator_accuracy": 0,
        "warning_diversity": 0,
        "warning_active_units": 0,
    }


def test_diversity_is_a_ratio_of_sums() -> None:
    blocks = Blocks(patience=1)
    blocks.feed(diversity_fake=[0.3, 0.0, 0.0], diversity_real=[0.4, 0.1, 0.0])
    assert blocks.recorded("watch_diversity") == [pytest.approx(0.3 / 0.5)]


def test_a_block_in_which_nothing_could_be_measured_is_not_judged() -> None:
    blocks = Blocks()
    blocks.feed(diversity_fake=0.2, diversity_real=1.0)
    blocks.feed(diversity_fake=0.0, diversity_real=0.0)
    blocks.feed(diversity_fake=0.2, diversity_real=1.0)
    assert [row.get("warning_diversity") for row in blocks.recorder.rows] == [0, 0]


def test_what_a_family_does_not_tell_is_not_watched() -> None:
    blocks = Blocks(patience=1)
    blocks.feed(loss=1.0, diversity_fake=0.0)
    assert blocks.recorder.rows == []


def test_resumed_it_counts_on() -> None:
    first, second = Blocks(patience=400), Blocks(patience=400)
    for _ in range(2):
        first.feed(diversity_fake=0.05, diversity_real=1.0, discriminator_accuracy=0.95)
    state = first.watchdogs.state_dict()
    first.feed(diversity_fake=1.0, diversity_real=1.0)  # must not change what was taken from it
    second.watchdogs.load_state_dict(state)
    second.done = 2
    second.feed(discriminator_accuracy=0.95, diversity_fake=0.05, diversity_real=1.0)
    assert second.recorded("warning_discriminator_accuracy") == [0]
    with pytest.raises(TrainingStoppedError, match="mode collapse"):
        second.feed(discriminator_accuracy=0.95, diversity_fake=0.05, diversity_real=1.0)
    assert second.recorded("warning_discriminator_accuracy") == [0, 1]


def test_resumed_it_does_not_tell_again(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Blocks(patience=1), Blocks(patience=1)
    first.feed(active_units=0.0)
    assert "posterior collapse" in capsys.readouterr().out
    second.watchdogs.load_state_dict(first.watchdogs.state_dict())
    second.feed(active_units=0.0)
    assert capsys.readouterr().out == ""


def tiny_settings() -> FamilySettings:
    return FamilySettings(images=1, batch_size=4, accumulate=1, gradient_clip=None, ema_half_life=0.0, init_from=None)


class Tiny(GenerativeModel):
    """A model whose only weight goes wherever its learning rate sends it."""

    def __init__(self, settings: FamilySettings, lr: float) -> None:
        super().__init__(settings)
        self.weight, self.lr = nn.Parameter(torch.ones(1)), lr

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.parameters(), self.lr)]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        (optimizer,) = step.optimizers

        def loss(_: Any) -> tuple[Tensor, dict[str, Tensor]]:
            value = self.weight.square().sum()
            return value, {"loss": value}

        return self.update(optimizer, step, loss)

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        raise NotImplementedError

    def sampling_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)


@pytest.fixture
def _tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    tracking.connect()
    yield
    mlflow.set_tracking_uri(before)


def train(folder: Path, lr: float, steps: int = 40) -> None:
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[Watchdogs(settings(), "tiny", recorder), recorder],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    split = load_split(write_prepared(folder / "prepared"), "train")
    blocks = StepBlocks(split, torch.device("cpu"), batch_size=4, steps=steps, block=10, seed=1)
    trainer.fit(TrainingModule(Tiny(tiny_settings(), lr)), DataLoader(blocks, batch_size=None))


@pytest.mark.usefixtures("_tracked")
def test_a_diverging_training_fails_with_a_diagnosis_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> None:
        with mlflow.start_run():
            train(tmp_path, lr=1000.0)

    with pytest.raises(SystemExit) as ended, explained_errors():
        run()
    assert ended.value.code == 2
    assert "error: train: 'tiny' was stopped after 40 images: loss is inf at step" in capsys.readouterr().err
    experiment = mlflow.get_experiment_by_name(tracking.EXPERIMENT)
    assert experiment is not None
    (found,) = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.tags[TAG].startswith("loss is inf at step")


def test_a_sound_training_runs_through(tmp_path: Path) -> None:
    train(tmp_path, lr=0.01)
