"""`dvc repro` on a laptop: real photos, tiny settings, no service running."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from components.stage import USER_ERROR
from tests.forked import Program
from tests.project import commit, copy_project, run, set_params

STAGES = [
    "ingest",
    "validate",
    "prepare",
    "train@gan",
    "train@vae",
    "evaluate@gan",
    "evaluate@vae",
    "gate@gan",
    "gate@vae",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, fashion_mnist_gz: Path) -> Path:
    """A project after its first `dvc repro`."""
    folder = copy_project(tmp_path_factory.mktemp("pipeline") / "project", fashion_mnist_gz)
    run(folder, "dvc", "repro")
    commit(folder, "First run")
    return folder


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(project, tmp_path / "project"))


def training_run(project: Path, family: str) -> tuple[MlflowClient, Run]:
    client = MlflowClient(f"sqlite:///{project}/.vitrine/tracking/mlflow.db")
    return client, client.get_run(json.loads((project / f"reports/{family}/run.json").read_text())["run_id"])


def test_every_stage_ran_and_is_up_to_date(project: Path) -> None:
    # It looks for new photos every time.
    assert json.loads(run(project, "dvc", "status", "--json").stdout) == {"ingest": ["always changed"]}
    lock = (project / "dvc.lock").read_text()
    assert all(f"  {stage}:" in lock for stage in STAGES)


def test_again_looks_for_new_photos_and_runs_nothing_more(project: Path) -> None:
    before = (project / "dvc.lock").read_bytes()
    shown = run(project, "dvc", "repro").stdout
    assert re.findall("Running stage '(.*)'", shown) == ["ingest"]
    assert "0 new" in shown
    assert (project / "dvc.lock").read_bytes() == before


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_the_training_is_in_mlflow_with_all_that_belongs_to_it(project: Path, family: str) -> None:
    client, recorded = training_run(project, family)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params[f"{family}.images"] == ("640" if family == "gan" else "1920")
    assert recorded.data.params["common.seed"] == "1"
    history = pd.read_csv(project / f"reports/{family}/training.csv")
    metric = "loss_generator" if family == "gan" else "negative_elbo"
    points = client.get_metric_history(recorded.info.run_id, f"train/{metric}")
    assert [point.step for point in points] == history["step"].tolist()
    assert [point.value for point in points] == pytest.approx(history[metric].tolist())
    assert recorded.inputs is not None
    (dataset,) = recorded.inputs.dataset_inputs
    digest = json.loads((project / "data/prepared/dataset.json").read_text())["digest"]
    assert dataset.dataset.digest == digest[:36]
    assert recorded.data.metrics["evaluation/fd_efflite0"] > 0


@pytest.mark.parametrize("family", ["gan", "vae"])
def test_sample_grids_are_logged_by_step(project: Path, family: str) -> None:
    client, recorded = training_run(project, family)
    images = [item.path for item in client.list_artifacts(recorded.info.run_id, "images")]
    # MLflow names them key, step, time, id.
    logged = [re.match(r"images/samples\W+step\W+(\d+)\W.*\.png", path) for path in images]
    last = pd.read_csv(project / f"reports/{family}/training.csv")["step"].iloc[-1]
    assert sorted(int(found[1]) for found in logged if found) == [last // 2, last]
    with Image.open(project / f"reports/{family}/samples.png") as picture:
        # Ten rows of eight, 32 pixels doubled, with gaps; the categories' names stand before them.
        assert picture.height == (10 * 34 + 2) * 2
        assert picture.width > (8 * 34 + 2) * 2


def test_verdicts_name_each_check_with_value_and_threshold(project: Path) -> None:
    verdict = json.loads((project / "reports/gan/verdict.json").read_text())
    assert verdict["verdict"] == "PASSED"
    check, _copies = verdict["checks"]
    assert (check["metric"], check["threshold"], check["passed"]) == ("fd_efflite0", 1e6, True)
    assert check["value"] == json.loads((project / "reports/gan/evaluation.json").read_text())["fd_efflite0"]


def test_reconstructions_are_measured_for_the_vae_alone(project: Path) -> None:
    measured = {f: json.loads((project / f"reports/{f}/evaluation.json").read_text()) for f in ("gan", "vae")}
    assert 5 < measured["vae"]["reconstruction_psnr"] < 40
    assert "reconstruction_psnr" not in measured["gan"]


def test_dvc_shows_metrics_and_plots(project: Path) -> None:
    shown = json.loads(run(project, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert shown["reports/gan/evaluation.json"]["data"]["fd_efflite0"] > 0
    assert shown["reports/vae/verdict.json"]["data"]["verdict"] == "PASSED"
    run(project, "dvc", "plots", "show", "--out", "plots")
    page = (project / "plots/index.html").read_text()
    shutil.rmtree(project / "plots")
    assert "loss_discriminator" in page
    assert "samples.png" in page


def test_a_changed_setting_runs_what_depends_on_it_and_shows_in_the_diffs(copy: Path) -> None:
    set_params(copy, {"train.vae.optimizer.warmup": 1000})
    before = (copy / "models/gan/weights.safetensors").read_bytes()
    stages = run(copy, "dvc", "status", "--json").stdout
    assert list(json.loads(stages)) == ["ingest", "train@vae"]
    changed = json.loads(run(copy, "dvc", "params", "diff", "--json").stdout)
    assert changed["params.yaml"]["train.vae.optimizer.warmup"].items() >= {"old": 2000, "new": 1000}.items()
    output = run(copy, "dvc", "repro").stdout
    assert "Running stage 'train@vae'" in output
    assert "Running stage 'gate@vae'" in output or "Stage 'gate@vae' is cached" in output
    assert "Running stage 'train@gan'" not in output
    assert (copy / "models/gan/weights.safetensors").read_bytes() == before
    diff = json.loads(run(copy, "dvc", "metrics", "diff", "--json").stdout)
    assert diff["reports/vae/training.json"]["negative_elbo"]["diff"] != 0
    assert "reports/gan/training.json" not in diff


def test_wrong_settings_stop_before_any_work(copy: Path) -> None:
    made = {path: path.read_bytes() for path in copy.glob("models/**/*") if path.is_file()}
    set_params(copy, {"train.vae.autoencoder.latent_dim": -3, "data.subset": 700})
    done = run(copy, "dvc", "repro", status=None)
    assert done.returncode != 0
    assert "autoencoder.latent_dim: found -3; input should be greater than or equal to 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ingest:" not in done.stdout
    assert {path: path.read_bytes() for path in made} == made


def refused_training(project: Path, **environment: str) -> str:
    """What a training prints that its input stops."""
    log = project / "log.txt"
    arguments = ["--model=vae", "--prepared=data/prepared", "--weights=models/vae", "--reports=reports/vae"]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_"))}
    training = Program("components.train", arguments, folder=project, environment={**inherited, **environment}, log=log)
    assert training.wait(timeout=300) == USER_ERROR, log.read_text()
    return log.read_text()


def test_a_corrupted_shard_is_named_and_the_weights_stay(copy: Path) -> None:
    shard = copy / "data/prepared/train-00000.npy"
    shard.unlink()
    shard.write_bytes(b"\x93NUMPY broken")
    shown = refused_training(copy)
    assert "train-00000.npy: cannot be read" in shown
    assert "Traceback" not in shown
    assert (copy / "models/vae/weights.safetensors").exists()


def test_a_tracking_server_that_is_down_is_said_before_training(copy: Path) -> None:
    shown = refused_training(copy, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "MLflow's server at http://127.0.0.1:9 (MLFLOW_TRACKING_URI) cannot be used" in shown
    assert "make up" in shown
    assert "step" not in shown
