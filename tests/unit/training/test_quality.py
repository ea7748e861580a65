"""Checks in the course of real trainings, of a model that is best in the middle."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from components.dataset import Split, load_info, load_split
from components.errors import InputError
from components.features import EffLite0
from components.generative import BlockLog, Encoded, GenerativeModel, Step
from components.images import to_float, to_uint8
from components.metrics.frechet import frechet_distance
from components.settings import FamilySettings, QualitySettings
from components.training.batches import StepBlocks
from components.training.module import TrainingModule
from components.training.quality import METRIC, QualityChecks
from components.training.reporting import Recorder
from tests.prepared import write_prepared

BATCH = 4
BEST = 20
"""Steps after which the model is best."""


class Painter(GenerativeModel):
    """Repaints a training image of the category, under noise that fades until step 20 and then comes back."""

    def __init__(self, split: Split, at: int = 0, *, breaks: bool = False) -> None:
        super().__init__(
            FamilySettings(
                images=1, batch_size=BATCH, accumulate=1, gradient_clip=None, ema_half_life=0.0, init_from=None
            )
        )
        self.steps_done = nn.Parameter(torch.tensor(float(at)))
        self.register_buffer("originals", to_float(torch.from_numpy(split.gather(np.arange(3)))))
        self.breaks, self.fitted_with = breaks, list[int]()
        self.modes, self.drawn = list[bool](), list[int]()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.parameters(), 1.0)]

    def optimise(self, step: Step) -> dict[str, Tensor]:
        return self.update(step.optimizers[0], step, lambda _: (-self.steps_done, {"loss": self.steps_done}))

    def fit_sampling(self, images: Callable[[], Encoded]) -> None:
        self.fitted_with.append(sum(len(chunk) for chunk, _ in images()))

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        assert isinstance(self.originals, Tensor)
        return torch.randn(len(conditions_NA), self.originals[0].numel(), generator=generator)

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        self.modes.append(self.training)
        self.drawn.append(len(conditions_NA))
        assert isinstance(self.originals, Tensor)
        images = self.originals[conditions_NA[:, 0]]
        share = (self.steps_done - BEST).abs() / 40
        noisy = (1 - share) * images + share * latents_ND.view_as(images)
        return noisy.clamp(-1, 1).detach() * (math.nan if self.breaks else 1.0)

    def sampling_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        self.load_state_dict(state)


class Scripted(QualityChecks):
    """Takes what it finds from a list: for the rules alone, which real distances are too slow for."""

    script: Sequence[float] = ()

    def _judge(self, model: GenerativeModel) -> float:  # noqa: ARG002
        value, self.script = self.script[0], self.script[1:]
        return value


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "prepared", {"train": 96, "val": 60, "test": 3})


def quality(every: int = 40, patience: int | None = None, samples: int = 48) -> QualitySettings:
    return QualitySettings(every=every, samples=samples, resolution=32, patience=patience)


def checks(
    prepared: Path, settings: QualitySettings, steps: int = 40, kind: type[QualityChecks] = QualityChecks
) -> QualityChecks:
    info, train, val = load_info(prepared), load_split(prepared, "train"), load_split(prepared, "val")
    return kind(settings, info, train, val, steps=steps, seed=5, recorder=Recorder())


def scripted(prepared: Path, values: Sequence[float], patience: int | None = None, steps: int = 40) -> Scripted:
    found = checks(prepared, quality(patience=patience), steps, Scripted)
    assert isinstance(found, Scripted)
    found.script = values
    return found


def run(model: Painter, callback: QualityChecks, first_step: int = 0) -> Trainer:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback.recorder, callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    steps, cpu = callback.steps, torch.device("cpu")
    blocks = StepBlocks(callback.train, cpu, batch_size=BATCH, steps=steps, block=5, seed=1, first_step=first_step)
    trainer.fit(TrainingModule(model), DataLoader(blocks, batch_size=None))
    return trainer


def values(callback: QualityChecks) -> dict[int, float]:
    return {int(row["step"]): row[METRIC] for row in callback.recorder.rows if METRIC in row}


def test_the_best_weights_of_a_training_are_kept(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, callback = Painter(load_split(prepared, "train")), checks(prepared, quality())
    torch.manual_seed(0)
    run(model, callback)
    found = values(callback)
    assert sorted(found) == [10, 20, 30, 40]
    assert min(found, key=lambda step: found[step]) == BEST
    assert float(model.steps_done.detach()) == 40
    assert model.training
    assert not any(model.modes)
    assert model.fitted_with == [96] * 4
    best = callback.finish(model)
    assert best is not None
    assert (best.step, best.images_seen, best.value) == (BEST, BEST * BATCH, found[BEST])
    assert float(model.steps_done.detach()) == BEST
    said = capsys.readouterr().out
    assert said.count("best so far") == 2
    assert "measured with features=efflite0; resolution=32; split=val; samples=48x48; seed=5; model=ema" in said


def test_a_check_is_the_evaluators_distance(prepared: Path) -> None:
    """Ten images of val, chosen by the seed; as many samples, with their conditions."""
    callback = checks(prepared, quality(samples=10), steps=5)
    run(Painter(load_split(prepared, "train"), at=10), callback)
    val = load_split(prepared, "val")
    rows = np.sort(np.random.default_rng(5).permutation(60)[:10])
    model = Painter(load_split(prepared, "train"), at=15).eval()
    generator = torch.Generator().manual_seed(5)
    fakes = to_uint8(model.sample(torch.from_numpy(val.conditions_NA[rows]), generator))
    network = EffLite0(32)
    (real_ND, _), (fake_ND, _) = network(torch.from_numpy(val.gather(rows))), network(fakes)
    # Features of other batch sizes differ in the last digits.
    assert values(callback) == {5: pytest.approx(frechet_distance(real_ND, fake_ND), rel=1e-3)}


def test_where_val_is_small_there_are_as_many_samples(prepared: Path) -> None:
    callback = checks(prepared, quality(samples=70), steps=5)
    model = Painter(load_split(prepared, "train"))
    run(model, callback)
    assert (len(callback.rows), sum(model.drawn)) == (60, 70)


def test_samples_that_are_not_finite_are_the_worst(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, callback = Painter(load_split(prepared, "train"), breaks=True), checks(prepared, quality(), steps=5)
    run(model, callback)
    assert values(callback) == {}
    assert callback.finish(model) is None
    assert float(model.steps_done.detach()) == 5
    assert "warning: quality: no check gave a finite" in capsys.readouterr().out


def test_the_training_ends_at_the_check_that_exhausts_patience(prepared: Path) -> None:
    callback = scripted(prepared, [3.0, 2.0, 2.0, math.inf, 1.0], patience=2, steps=100)
    model = Painter(load_split(prepared, "train"))
    run(model, callback)
    assert float(model.steps_done.detach()) == 40
    best = callback.finish(model)
    assert best is not None
    assert best.step == float(model.steps_done.detach()) == 20


def test_a_better_check_renews_patience(prepared: Path) -> None:
    callback = scripted(prepared, [3.0, 4.0, 2.0, 4.0, 1.0, 4.0], patience=2, steps=60)
    model = Painter(load_split(prepared, "train"))
    run(model, callback)
    assert float(model.steps_done.detach()) == 60
    assert callback.best is not None
    assert callback.best.step == 50


def test_there_is_a_check_at_the_end_whatever_every_says(prepared: Path) -> None:
    callback = checks(prepared, quality(every=10**6), steps=12, kind=Scripted)
    assert isinstance(callback, Scripted)
    callback.script = [1.0]
    run(Painter(load_split(prepared, "train")), callback)
    assert list(values(callback)) == [12]


def test_a_resumed_training_goes_on_the_same(prepared: Path) -> None:
    found = [5.0, 4.0, 6.0, 7.0, 3.0]
    whole = scripted(prepared, found, patience=2, steps=60)
    run(Painter(load_split(prepared, "train")), whole)
    first = scripted(prepared, found[:3], patience=2, steps=30)
    model = Painter(load_split(prepared, "train"))
    run(model, first)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = scripted(prepared, found[3:], patience=2, steps=60)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    run(model, second, first_step=30)
    assert values(second) == {40: 7.0}
    assert second.best == whole.best
    assert second.finish(model) == whole.best
    assert float(model.steps_done.detach()) == 20


def test_a_training_that_was_over_does_not_go_on(prepared: Path) -> None:
    """Killed after the last checkpoint and before its end."""
    over = scripted(prepared, [1.0, 2.0], patience=1, steps=60)
    model = Painter(load_split(prepared, "train"))
    run(model, over)
    assert float(model.steps_done.detach()) == 20
    again = scripted(prepared, [], patience=1, steps=60)
    again.load_state_dict(over.state_dict())
    run(model, again, first_step=20)
    assert float(model.steps_done.detach()) == 20


def test_other_processes_take_what_the_first_one_found(prepared: Path) -> None:
    callback = scripted(prepared, [])  # would fail if it judged by itself
    trainer: Any = SimpleNamespace(
        is_global_zero=False, should_stop=False, strategy=SimpleNamespace(broadcast=lambda _: 1.5)
    )
    model = Painter(load_split(prepared, "train"))
    callback.on_train_batch_end(trainer, TrainingModule(model), {"log": BlockLog(10, 40, {})})
    assert callback.best is not None
    assert callback.best.value == 1.5


def test_few_real_images_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_prepared(tmp_path / "prepared", {"train": 12, "val": 12, "test": 3})
    run(Painter(load_split(folder, "train")), scripted(folder, [1.0], steps=5))
    assert "warning: the split val has 12 images" in capsys.readouterr().out


def test_a_single_real_image_is_refused(tmp_path: Path) -> None:
    folder = write_prepared(tmp_path / "prepared", {"train": 12, "val": 1, "test": 3})
    with pytest.raises(InputError, match=r"val, which has 1 image\(s\); raise prepare\.split\.val"):
        scripted(folder, [])
