"""The stage: what it refuses, the files it writes, the pictures, and what it logs into the training's run."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from components import generative, tracking
from components.dataset import Split, load_info, load_split
from components.errors import InputError
from components.evaluate import evaluate, log_measurement, main, summary
from components.files import write_json
from components.measurement import Estimate, Measurement, read_measurement
from components.pictures import pictures
from components.sheets import GAP, MARGIN
from tests.drawn import CATEGORIES, SIZE, Dims, Honest, Unconditional, evaluate_settings, write_drawn
from tests.measurements import estimate, measurement
from tests.prepared import without_conditions
from tests.small import small_settings

ROOT = Path(__file__).parents[2]
SETTINGS = evaluate_settings(resolution=32, samples=100, train_photos=200)
PICTURES = {
    *("samples.png", "real_and_generated.png", "interpolations.png", "reconstructions.png"),
    "closest_pairs.png",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def unconditional(prepared: Path, tmp_path: Path) -> Path:
    return without_conditions(Path(shutil.copytree(prepared, tmp_path / "unconditional")))


@pytest.fixture(scope="module")
def vae(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained VAE of the project, saved as the training saves it."""
    folder, settings = tmp_path_factory.mktemp("models") / "vae", small_settings("vae")
    model = generative.build("vae", settings, load_info(prepared))
    generative.save_model(model, "vae", settings, load_info(prepared), folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose runs are recorded in a file."""
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracking.connect()
    yield tmp_path
    mlflow.set_tracking_uri(before)


def test_the_stage_refuses_another_family_or_dataset(prepared: Path, vae: Path, tmp_path: Path) -> None:
    shown = tmp_path / "pictures"
    with pytest.raises(InputError, match="holds a 'vae', but --model is 'gan'"):
        evaluate(SETTINGS, prepared, vae, "gan", shown)
    other = Path(shutil.copytree(vae, tmp_path / "vae"))
    card = json.loads((vae / "model.json").read_text())
    write_json(other / "model.json", card | {"attributes": {"category": ["bag", "dress", "trouser"]}})
    with pytest.raises(InputError, match=r"made for attributes .*dress.* train it again"):
        evaluate(SETTINGS, prepared, other, "vae", shown)
    write_json(other / "model.json", card | {"image_shape": [1, SIZE, SIZE]})
    with pytest.raises(InputError, match=r"made for image_shape \(1, 32, 32\), the dataset has \(3, 32, 32\)"):
        evaluate(SETTINGS, prepared, other, "vae", shown)
    assert not shown.exists()


def test_damaged_weights_are_refused(prepared: Path, vae: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(vae, tmp_path / "vae"))
    weights = other / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"weights\.safetensors: SHA-256 is"):
        evaluate(SETTINGS, prepared, other, "vae", tmp_path / "pictures")


def test_the_stage_writes_its_files_and_goes_on_in_the_run(
    prepared: Path, vae: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] = SETTINGS.model_dump()
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with mlflow.start_run() as run:
        write_json(Path("run.json"), {"run_id": run.info.run_id})

    arguments = ["--model=vae", f"--prepared={prepared}", f"--weights={vae}", "--run=run.json"]
    outputs = ["--out=reports/evaluation.json", "--measurement=reports/measurement.json"]
    main([*arguments, *outputs, "--pictures=reports/evaluation"])

    measured = read_measurement(Path("reports/measurement.json"))
    assert measured.weights_sha256 == json.loads((vae / "model.json").read_text())["weights_sha256"]
    assert list(measured.by_category) == list(CATEGORIES)
    content = json.loads(Path("reports/evaluation.json").read_text(), parse_constant=pytest.fail)
    assert content == summary(measured)
    assert content["fd_efflite0"] == measured.metrics["fd_efflite0"].value
    said = capsys.readouterr().out
    assert f"vae: measured with {measured.protocol}" in said
    assert f"vae: fd_efflite0 = {content['fd_efflite0']:.6g} (" in said
    assert {path.name for path in (runs / "reports/evaluation").iterdir()} == PICTURES
    assert_logged(measured, run.info.run_id)


def assert_logged(measured: Measurement, run_id: str) -> None:
    """All that was measured stands in the run, with its pictures."""
    recorded = mlflow.get_run(run_id)
    found = recorded.data.metrics
    interval = measured.metrics["fd_efflite0"].interval
    assert interval is not None
    assert found["evaluation/fd_efflite0"] == pytest.approx(measured.metrics["fd_efflite0"].value)
    ends = [found[f"evaluation_interval/fd_efflite0.{end}"] for end in ("low", "high")]
    assert ends == pytest.approx(interval)
    name = f"evaluation/condition_fidelity/{tracking.metric_name('t-shirt/top')}"
    assert found[name] == pytest.approx(measured.by_category["t-shirt/top"]["condition_fidelity"].value)
    overall = {f"evaluation/{name}" for name, estimate in measured.metrics.items() if math.isfinite(estimate.value)}
    assert overall <= found.keys()
    assert recorded.data.tags["vitrine.protocol"] == measured.protocol
    client = mlflow.MlflowClient()
    assert {Path(artifact.path).name for artifact in client.list_artifacts(run_id, "evaluation")} == PICTURES
    images = [artifact.path for artifact in client.list_artifacts(run_id, "images")]
    for picture in PICTURES:
        assert any(picture.removesuffix(".png") in path for path in images), images


def test_what_is_not_finite_is_left_out_of_the_run_and_null_in_the_file(runs: Path) -> None:
    metrics = {"fd_efflite0": Estimate(math.nan), "kd_efflite0": Estimate(2.0), "recall_efflite0": estimate(0.5, 0.1)}
    unknown = measurement(metrics, {"bag": {"kd_efflite0": Estimate(math.inf)}})
    shown = runs / "shown"
    shown.mkdir()
    with mlflow.start_run() as run:
        log_measurement(unknown, shown)
    assert mlflow.get_run(run.info.run_id).data.metrics == {
        "evaluation/kd_efflite0": 2.0,
        "evaluation/recall_efflite0": 0.5,
        "evaluation_interval/recall_efflite0.low": pytest.approx(0.5 - 0.20930240544),
        "evaluation_interval/recall_efflite0.high": pytest.approx(0.5 + 0.20930240544),
    }
    content = summary(unknown)
    assert (content["fd_efflite0"], content["kd_efflite0"]) == (None, 2.0)
    assert content["by_category"] == {"bag": {"kd_efflite0": None}}
    json.dumps(content, allow_nan=False)


def test_a_missing_run_is_explained(
    prepared: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--params={ROOT / 'params.yaml'}", "--model=vae", f"--prepared={prepared}", f"--weights={vae}"]
    outputs = [f"--out={tmp_path}/e.json", f"--measurement={tmp_path}/m.json", f"--pictures={tmp_path}/shown"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, f"--run={tmp_path}/run.json", *outputs])
    assert ended.value.code == 2
    assert "run.json: not found" in capsys.readouterr().err
    assert not any((tmp_path / name).exists() for name in ("e.json", "m.json", "shown"))


def test_pictures_show_what_they_say(prepared: Path) -> None:
    split = load_split(prepared, "test")
    made = pictures(Dims(), split, seed=1)
    assert set(made) == PICTURES - {"closest_pairs.png"}
    assert "reconstructions.png" not in pictures(Honest(), split, seed=1)
    # Each real image stands enlarged in the left grid: find the first bag's pixels there.
    first_bag = np.concatenate(split.shards)[np.flatnonzero(split.conditions_NA[:, 0] == 0)[0]].transpose(1, 2, 0)
    enlarged = first_bag.repeat(2, axis=0).repeat(2, axis=1)
    sheet = np.asarray(made["real_and_generated.png"].convert("RGB"))
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:120, :300], enlarged.shape)
    assert (windows == enlarged).all(axis=(3, 4, 5)).sum() == 1


def test_pictures_without_conditions_have_rows_of_different_images(unconditional: Path) -> None:
    made = pictures(Unconditional(), load_split(unconditional, "test"), seed=1)
    assert len({cell.tobytes() for cell in cells(made["samples.png"], columns=8)}) == 4 * 8
    fakes = cells(made["real_and_generated.png"], columns=8, top=MARGIN)
    assert len({cell.tobytes() for cell in fakes}) == 4 * 8
    originals, reconstructions, *_ = np.split(np.stack(cells(made["reconstructions.png"], columns=8)), 4)
    assert len({cell.tobytes() for cell in originals}) == 8
    np.testing.assert_allclose(reconstructions, originals.clip(10) - 10.0, atol=1)


def test_pictures_of_few_images_without_conditions(unconditional: Path) -> None:
    whole = load_split(unconditional, "test")
    few = Split((whole.shards[0][:5],), whole.manifest[:5], {})
    assert len(cells(pictures(Unconditional(), few, seed=1)["reconstructions.png"], columns=5)) == 4 * 5


def cells(sheet: Image.Image, columns: int, top: int = 0) -> list[NDArray[np.uint8]]:
    """The images of a sheet's grid at the right, at twice their size, row by row."""
    step = 2 * (SIZE + GAP)
    pixels = np.asarray(sheet.convert("RGB"))[top:, -(columns * step + 2 * GAP) :]
    rows = (len(pixels) - 2 * GAP) // step
    corners = [(2 * GAP + row * step, 2 * GAP + column * step) for row in range(rows) for column in range(columns)]
    assert pixels.shape == (rows * step + 2 * GAP, columns * step + 2 * GAP, 3)
    return [pixels[y : y + 2 * SIZE, x : x + 2 * SIZE] for y, x in corners]
