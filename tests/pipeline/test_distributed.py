"""Two processes that train together give what one gives, and only the first of them writes."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from components import train as training
from components.errors import InputError
from components.models import family_settings
from components.settings import load_settings
from components.train import TrainingFolders
from components.training.checkpoints import load_checkpoint
from components.training.fitting import make_trainer
from tests.project import SOURCE, set_params
from tests.trainings import BATCH, BLOCK, BLOCKS, Place, make_place

STEPS = BLOCKS * BLOCK
FEW_STEPS = 24

ROUNDING = 5e-5
"""Root mean square by which weights may differ: half of what Adam changes in one step, of which there are many."""
ROUNDING_OF_AVERAGES = 5e-6
"""These have gone a twentieth of the way."""

pytestmark = pytest.mark.timeout(1800)
"""Many processes are started, each of which takes seconds to load."""

R3GAN: dict[str, Any] = {
    **{
        f"train.gan.{network}.{key}": value
        for network in ("generator", "discriminator")
        for key, value in {"architecture": "r3gan", "blocks": 1, "group_size": 4}.items()
    },
    "train.gan.discriminator.spectral_norm": False,
    "train.gan.loss": "relativistic",
    # Adam's steps have a fixed length, so that it makes much of rounding errors in tiny gradients.
    "train.gan.generator_optimizer.lr": 1e-4,
    "train.gan.discriminator_optimizer.lr": 1e-4,
}

DCGAN: dict[str, Any] = {
    f"train.gan.{network}.{key}": value
    for network in ("generator", "discriminator")
    for key, value in {"architecture": "dcgan", "blocks": None, "group_size": None}.items()
}

MakePlace = Callable[..., Place]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakePlace:
    tracking = f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"

    def make(name: str, family: str = "gan", **changes: Any) -> Place:
        place = make_place(tmp_path_factory.mktemp(name), family, tracking, OMP_NUM_THREADS="1")
        common = {f"train.common.{key}": value for key, value in changes.items()}
        set_params(place.folder, {**R3GAN, "train.vae.optimizer.lr": 1e-4, **common})
        return place

    return make


@pytest.fixture(scope="module")
def one(make: MakePlace) -> Place:
    place = make("one")
    place.train()
    return place


@pytest.fixture(scope="module")
def two(make: MakePlace) -> Place:
    place = make("two", devices=2)
    place.train()
    return place


def trained_weights(place: Place) -> dict[str, Tensor]:
    """All that the training has changed, as its checkpoint has it: averages, what they follow, discriminators."""
    (path,) = place.folder.glob(".vitrine/checkpoints/*/*/*.ckpt")
    found: dict[str, Tensor] = load_checkpoint(path)["model"]
    # A relativistic loss has no gradient for what shifts all logits: Adam makes steps of its rounding errors.
    without = ("density.", "discriminator.head.linear.bias")
    return {name: weight for name, weight in found.items() if not name.startswith(without)}


def assert_trained_alike(two: Place, one: Place, rounding: float, of_averages: float) -> None:
    found, expected = trained_weights(two), trained_weights(one)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        apart = (found[name] - weight).float().square().mean().sqrt().item()
        assert apart <= (of_averages if name.startswith("ema.") else rounding), name
    assert one.outputs() != two.outputs(), "as many rounding errors as processes: was there a second one?"


def test_two_processes_give_what_one_gives(one: Place, two: Place) -> None:
    assert_trained_alike(two, one, ROUNDING, ROUNDING_OF_AVERAGES)


@pytest.mark.parametrize(
    ("family", "changes", "rounding", "of_averages"),
    [("vae", {}, ROUNDING, ROUNDING_OF_AVERAGES), ("gan", DCGAN, 1e-3, 1e-6)],
)
def test_other_networks_too(
    family: str, changes: dict[str, Any], rounding: float, of_averages: float, make: MakePlace
) -> None:
    """Those of the VAE, and a generator with batch normalisation, which counts the images of both processes.

    A DCGAN's discriminator has gradients of nothing but rounding errors, of which Adam makes steps; its averages
    differ by 1e-7, and by 1e-5 if each process normalises its own images.
    """
    one, two = (make(f"{family}-{devices}", family, devices=devices) for devices in (1, 2))
    for place in (one, two):
        set_params(place.folder, {**changes, f"train.{family}.images": FEW_STEPS * BATCH})
        place.train()
    assert_trained_alike(two, one, rounding, of_averages)


def test_they_are_one_run_that_is_logged_once(one: Place, two: Place) -> None:
    client = MlflowClient(two.tracking)
    run = client.get_run(two.run_id)
    same = f"tags.`vitrine.fingerprint` = '{run.data.tags['vitrine.fingerprint']}'"
    assert [found.info.run_id for found in client.search_runs([run.info.experiment_id], same)] == [two.run_id]
    for name, expected in client.get_run(one.run_id).data.metrics.items():
        # Pairs are those within a process's part of a batch: half as many images, fewer pairs, another mean.
        if name.startswith("train/") and "diversity" not in name:
            points = client.get_metric_history(two.run_id, name)
            assert [point.step for point in points] == sorted({point.step for point in points}), name
            assert points[-1].value == pytest.approx(expected, rel=0.05), name
    assert two.log.count(f"step {STEPS} of {STEPS} (100%)") == 1
    assert len(list(two.folder.glob(".vitrine/checkpoints/*/*/*.ckpt"))) == 1


def test_killed_it_ends_with_the_same_bytes(make: MakePlace, two: Place) -> None:
    place = make("killed", devices=2)
    process = place.start()
    while place.last_step < 4 * BLOCK:
        assert process.poll() is None, place.log
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    place.train()
    assert "gan: goes on after step" in place.log
    assert place.outputs() == two.outputs()


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    place = make_place(tmp_path, "gan", "")
    set_params(tmp_path, {"train.common.devices": 3, "train.gan.accumulate": 2})
    settings = load_settings(tmp_path / "params.yaml")
    family = family_settings("gan", settings.train.families["gan"])
    folders = TrainingFolders(tmp_path / "w", tmp_path / "r")
    with pytest.raises(InputError, match=rf"train.gan.batch_size is {BATCH}, .*cannot be divided by 6: .*devices 3"):
        training.train("gan", family, settings.train.common, place.folder / "prepared", folders)
    assert not folders.reports.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    common = load_settings(SOURCE / "params.yaml").train.common.model_copy(update={"accelerator": "gpu"})
    with pytest.raises(InputError, match=r"accelerator 'gpu' with 1 device\(s\) on 1 node\(s\) cannot be used here"):
        make_trainer(common)
