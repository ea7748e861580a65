"""What a run's page tells, against a real MLflow on SQLite."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.entities import DatasetInput, Run

from components import run_view, tracking
from components.dataset import DatasetInfo, Split, load_info, load_split
from components.errors import InputError
from components.settings import FamilySettings, TrainCommonSettings, load_settings
from components.training.recording import described, log_inputs, run_name, told, told_params
from components.training.shelf import Attempt
from tests.prepared import write_prepared
from tests.project import SOURCE
from tests.small import small_settings

GAN = small_settings("gan")


@pytest.fixture
def _tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    tracking.connect()
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture
def data(tmp_path: Path) -> tuple[DatasetInfo, Split]:
    prepared = write_prepared(tmp_path / "prepared")
    return load_info(prepared), load_split(prepared, "train")


def common(**changes: Any) -> TrainCommonSettings:
    return load_settings(SOURCE / "params.yaml").train.common.model_copy(update={"accelerator": "cpu", **changes})


def recorded(
    data: tuple[DatasetInfo, Split], settings: FamilySettings = GAN, family: str = "gan", **changes: Any
) -> Run:
    """A run with its inputs, as a training begins one."""
    tags = {"vitrine.family": family, "vitrine.dataset": data[0].digest}
    with mlflow.start_run(tags=tags, run_name="named") as run:
        log_inputs(run, family, settings, common(**changes), *data)
    return mlflow.get_run(run.info.run_id)


def datasets(run_id: str) -> list[DatasetInput]:
    inputs = mlflow.get_run(run_id).inputs
    assert inputs is not None
    return list(inputs.dataset_inputs)


def test_runs_are_named_by_family_time_and_attempt() -> None:
    attempt = Attempt("7f3a91c2", 1771061460.5, None, False)
    assert run_name("gan", attempt) == "gan-20260214-0931-7f3a"
    assert run_name("gan", replace(attempt, run_id="abc")) == "gan-20260214-0931-7f3a"
    assert run_name("gan", replace(attempt, attempt="80aa91c2")) != run_name("gan", attempt)


def test_parameters_are_what_can_tell_two_runs_apart() -> None:
    augment = common().augment.model_copy(update={"flip": 0.5, "flip_not": {"category": ["boot"]}})
    params = told_params("gan", GAN, common(augment=augment))
    assert params["common.seed"] == common().seed
    assert {name for name in params if "augment" in name} == {
        "common.augment.flip",
        "common.augment.flip_not.category",
    }
    assert params["gan.generator.width"] == 8
    assert params["gan.discriminator_steps"] == 1
    assert params["gan.generator.dropout"] == 0.0, "zero is a value where it is no augmentation"
    assert "gan.discriminator.attention" not in params
    assert not [name for name in params if "checkpoint" in name or "watchdogs" in name or "grid" in name]
    assert {"precision", "torch"} <= params.keys()
    assert len(params) < 60


@pytest.mark.usefixtures("_tracked")
def test_all_settings_are_in_an_artifact(data: tuple[DatasetInfo, Split]) -> None:
    run = recorded(data)
    found = yaml.safe_load(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/settings.yaml"))
    assert found["common"] == common().model_dump(mode="json")
    assert found["gan"] == GAN.model_dump(mode="json")


@pytest.mark.usefixtures("_tracked")
def test_a_run_says_what_differs_from_the_one_of_its_family_before(data: tuple[DatasetInfo, Split]) -> None:
    info, split = data
    assert recorded(data).data.tags[run_view.CHANGED] == "first run of its family"
    recorded(data, small_settings("vae"), "vae")
    assert recorded(data).data.tags[run_view.CHANGED] == "nothing since named"
    slower = GAN.model_copy(update={"batch_size": 16, "gradient_clip": 0.5})
    assert recorded((replace(info, digest="e" * 64), split), slower, seed=9).data.tags[run_view.CHANGED] == (
        "common.seed: 1 to 9; data: dddddddd to eeeeeeee; gan.batch_size: 8 to 16; gan.gradient_clip: none to 0.5"
    )


@pytest.mark.usefixtures("_tracked")
def test_a_run_that_goes_on_keeps_what_it_has(data: tuple[DatasetInfo, Split]) -> None:
    first = recorded(data)
    recorded(data, seed=9)
    with mlflow.start_run(run_id=first.info.run_id) as run:
        log_inputs(run, "gan", GAN, common(seed=7), *data)
    again = mlflow.get_run(first.info.run_id)
    assert again.data.params == first.data.params
    assert again.data.tags[run_view.CHANGED] == "first run of its family"
    assert len(datasets(again.info.run_id)) == 1


@pytest.mark.usefixtures("_tracked")
def test_trainings_that_begin_together_all_record_their_data(data: tuple[DatasetInfo, Split]) -> None:
    """MLflow itself refuses all but one of them, which have found no such dataset and then write it."""
    together = 8
    barrier = Barrier(together)

    def begin(number: int) -> str:
        barrier.wait()
        return str(recorded(data, seed=number).info.run_id)

    with ThreadPoolExecutor(together) as threads:
        run_ids = list(threads.map(begin, range(together)))
    inputs = [datasets(run_id) for run_id in run_ids]
    assert [len(found) for found in inputs] == [1] * together
    assert {found[0].dataset.digest for found in inputs} == {data[0].digest[:36]}


def note(run_id: str) -> str:
    return str(mlflow.get_run(run_id).data.tags["mlflow.note.content"])


@pytest.mark.usefixtures("_tracked")
def test_the_description_tells_what_was_trained_and_how_it_ended(data: tuple[DatasetInfo, Split]) -> None:
    run = recorded(data)
    run_id = run.info.run_id
    with mlflow.start_run(run_id=run_id) as active, described(active, "gan", GAN, data[0]) as outcome:
        assert "It has not ended yet." in note(run_id)
        outcome.append("All is well.")
    for part in (
        "gan trained for 128 images",
        "data dddddddd (96 train, 12 val, 48 test)",
        "All is well.",
        "first run",
    ):
        assert part in note(run_id)
    assert "not ended" not in note(run_id)


@pytest.mark.usefixtures("_tracked")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("stopped: it has collapsed\nthe last checkpoint is x"), "It failed: stopped: it has collapsed\n"),
        (SystemExit(143), "It was killed; started again, it goes on in this run."),
        (ValueError(), "It failed: ValueError"),
    ],
)
def test_the_description_tells_of_a_bad_end(data: tuple[DatasetInfo, Split], error: BaseException, said: str) -> None:
    run_id = recorded(data).info.run_id
    with (
        pytest.raises(type(error)),
        mlflow.start_run(run_id=run_id) as active,
        described(active, "gan", GAN, data[0]),
    ):
        raise error
    assert said in note(run_id)


def test_the_outcome_names_the_best_weights_and_an_early_end() -> None:
    report = {"steps": 40, "images": 1280, "best_step": 30, "best_val_fd_efflite0": 77.26}
    assert told(report, 40) == (
        "It ended after 1,280 images, 40 steps. Best train/best_val_fd_efflite0 77.3: weights of step 30."
    )
    assert "40 steps of 100, since samples got no better." in told(report, 100)
    assert "not judged" in told({"steps": 40, "images": 1280}, 40)
