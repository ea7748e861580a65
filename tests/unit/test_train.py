"""How a training is put together: what runs in it, in which order, and what becomes the model."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from components.dataset import load_info, load_split
from components.generative import WEIGHTS, GenerativeModel, Step, build, save_model
from components.models.vae import Vae
from components.settings import CheckpointSettings, FamilySettings, InitFrom, QualitySettings, Settings
from components.train import TrainingFolders, train, warn_of_short_training
from components.training.batches import training_images
from components.training.checkpoints import load_checkpoint
from components.training.fitting import TERMINATED
from components.training.quality import QualityChecks
from components.training.watchdogs import TrainingStoppedError
from tests.prepared import write_prepared
from tests.small import small_settings

STEPS, BLOCK, BATCH = 8, 2, 8
"""Of a training; after each block a checkpoint is written, and samples are judged."""

DENSITY = "density."
"""Beginning of the names of what is not trained, but fitted at the end."""


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all tests: to make its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def prepared(tracking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The prepared images, in the folder in which the training runs."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    yield write_prepared(tmp_path / "prepared", size=8)
    mlflow.set_tracking_uri(before)


def vae(**changes: Any) -> FamilySettings:
    return small_settings("vae", **{"batch_size": BATCH, "images": STEPS * BATCH, **changes})


def start(settings: Settings, prepared: Path, family: FamilySettings) -> dict[str, Any]:
    """Trains a VAE; what training.json holds."""
    images = BLOCK * BATCH
    changed = {
        "accelerator": "cpu",
        "precision": "32-true",
        "log_every": BLOCK,
        "grids": 0,
        "grid_columns": 1,
        "checkpoint": CheckpointSettings(every=images, keep=2),
        "quality": QualitySettings(every=images, samples=10, resolution=32, patience=None),
    }
    common = settings.train.common.model_copy(update=changed)
    return train("vae", family, common, prepared, TrainingFolders(Path("weights"), Path("reports")))


def checkpoints() -> dict[int, dict[str, Any]]:
    """By step, all that there are."""
    found = [load_checkpoint(path) for path in Path(".vitrine/checkpoints").glob("*/*/step-*.ckpt")]
    return {state["step"]: state for state in found}


def before_each_step(monkeypatch: pytest.MonkeyPatch, call: Callable[[Vae, Step], None]) -> None:
    optimise = Vae.optimise

    def observed(model: Vae, step: Step) -> dict[str, Tensor]:
        call(model, step)
        return optimise(model, step)

    monkeypatch.setattr(Vae, "optimise", observed)


def judge_by(script: list[float], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Distances come from a list; gives the weights that were judged, check by check."""
    judged: list[dict[str, Tensor]] = []

    def scripted(_: QualityChecks, model: GenerativeModel) -> float:
        judged.append({name: weight.detach().clone() for name, weight in model.sampling_state().items()})
        return script[len(judged) - 1]

    monkeypatch.setattr(QualityChecks, "_judge", scripted)
    return judged


def of_networks(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight for name, weight in weights.items() if not name.startswith(DENSITY)}


def test_the_best_weights_become_the_model(prepared: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = judge_by([9.0, 1.0, 5.0, 7.0], monkeypatch)
    report = start(settings, prepared, vae())
    assert (report["steps"], report["best_step"]) == (STEPS, 2 * BLOCK)
    torch.testing.assert_close(of_networks(load_file(f"weights/{WEIGHTS}")), of_networks(judged[1]), rtol=0, atol=0)


def test_the_density_is_fitted_to_all_training_images_as_the_best_weights_encode_them(
    prepared: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = judge_by([1.0, 9.0, 9.0, 9.0], monkeypatch)
    start(settings, prepared, vae())
    split = load_split(prepared, "train")

    def fitted(weights: dict[str, Tensor], rows: int) -> Tensor:
        expected = build("vae", vae(), load_info(prepared))
        expected.load_sampling_state(weights)
        expected.fit_sampling(partial(training_images, split, torch.device("cpu"), np.arange(rows)))
        return expected.sampling_state()[f"{DENSITY}means_KD"]

    found = load_file(f"weights/{WEIGHTS}")[f"{DENSITY}means_KD"]
    torch.testing.assert_close(found, fitted(judged[0], len(split)), rtol=1e-3, atol=1e-4)
    for other in (fitted(judged[0], len(split) - 1), fitted(judged[-1], len(split))):
        assert not torch.allclose(found, other, rtol=1e-3, atol=1e-4), "the comparison is too loose to tell"


def test_nothing_is_made_of_broken_weights(prepared: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = judge_by([4.0, 3.0, 2.0, 1.0], monkeypatch)

    def break_down(model: Vae, step: Step) -> None:
        if step.number == 2 * BLOCK + 1:
            with torch.no_grad():
                next(model.networks.parameters()).fill_(torch.nan)

    before_each_step(monkeypatch, break_down)
    with pytest.raises(TrainingStoppedError, match=r"train.common.watchdogs.*\nthe last checkpoint, of before, is .*4"):
        start(settings, prepared, vae())
    assert sorted(checkpoints()) == [BLOCK, 2 * BLOCK]
    assert len(judged) == 2
    assert all(weight.isfinite().all() for weight in of_networks(checkpoints()[2 * BLOCK]["model"]).values())
    assert not Path("weights").exists()


def test_a_training_starts_from_given_weights_and_when_killed_goes_on_from_its_own(
    prepared: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge_by([4.0, 3.0, 2.0, 1.0], monkeypatch)
    torch.manual_seed(99)
    source = build("vae", vae(), load_info(prepared))
    given = {name: weight.clone() for name, weight in source.state_dict().items() if name.startswith("networks.")}
    save_model(source, "vae", vae(), load_info(prepared), Path("source"))
    taken: dict[int, dict[str, Tensor]] = {}

    def note(model: Vae, step: Step) -> None:
        weights = model.state_dict().items()
        taken[step.number] = {name: weight.clone() for name, weight in weights if name.startswith("networks.")}
        if step.number == 2 * BLOCK + 1 and 0 in taken:
            raise SystemExit(TERMINATED)

    before_each_step(monkeypatch, note)
    family = vae(init_from=InitFrom(source="source", allow=[]).model_dump())
    with pytest.raises(SystemExit):
        start(settings, prepared, family)
    assert "vae: starts from source" in capsys.readouterr().out
    torch.testing.assert_close(taken[0], given, rtol=0, atol=0)
    kept = {name: weight for name, weight in checkpoints()[2 * BLOCK]["model"].items() if name in given}
    taken.clear()
    shutil.rmtree("source")
    start(settings, prepared, family)
    assert "vae: starts from" not in capsys.readouterr().out
    assert min(taken) == 2 * BLOCK
    torch.testing.assert_close(taken[2 * BLOCK], kept, rtol=0, atol=0)


@pytest.mark.parametrize(("images", "warned"), [(12_000, False), (6_000, False), (5_999, True)])
def test_an_average_that_is_slower_than_the_training_is_told(
    images: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_short_training("vae", vae(images=images, ema_half_life=2000))
    said = capsys.readouterr().out
    assert ("train.vae.ema_half_life is 2000 images" in said) == warned
    assert bool(said) == warned
