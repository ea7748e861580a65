"""Models without conditions, from photos to served PNGs: prepare, train, evaluate, gate, package, sample."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from components.dataset import load_info
from components.evaluate import evaluate
from components.gate import gate
from components.generative import load_card, load_model
from components.images import picture, to_uint8
from components.measurement import write_measurement
from components.packaging import register, save_package
from components.raw import Photo
from components.settings import ChampionCheck, GateCheck, GatePolicy, QualitySettings, Settings, SplitSettings
from components.train import TrainingFolders, train
from tests.preparing import SETTINGS, run
from tests.small import small_settings

UNCONDITIONAL = SETTINGS.model_copy(
    update={"conditions": [], "split": SplitSettings(val=0.15, test=0.4, salt="vitrine")}
)
POLICY = GatePolicy(
    required=["diversity_ratio", "copying_ct"],
    thresholds=[GateCheck(metric="fd_efflite0", at_most=1e6)],
    by_category=[],
    memorisation=[GateCheck(metric="copies_by_pixels", at_most=2.0)],
    champion=[ChampionCheck(metric="fd_efflite0", direction="minimize", better_by=0)],
    first_model="promote",
)
BY_CATEGORY = POLICY.model_copy(update={"by_category": [GateCheck(metric="kd_efflite0", at_most=1e6)]})


@pytest.fixture
def project(tmp_path: Path, make_raw: Callable[..., Path], encoded: Callable[..., bytes]) -> Iterator[Path]:
    """A folder with photos that have no category, and the images that prepare makes of them."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (120, 28, 28), dtype=np.uint8)
    photos = [
        Photo(image=encoded(image), file_name=f"{number}.png", source="folder") for number, image in enumerate(images)
    ]
    run(make_raw(tmp_path / "raw", photos), tmp_path, UNCONDITIONAL)
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path
    mlflow.set_tracking_uri(before)


def test_photos_without_conditions_become_served_models(project: Path, settings: Settings) -> None:
    judging = QualitySettings(every=160, samples=12, resolution=32, patience=None)
    fast = {"accelerator": "cpu", "log_every": 5, "grids": 2, "grid_columns": 4, "quality": judging}
    flips = settings.train.common.augment.model_copy(update={"flip": 0.5})
    common = settings.train.common.model_copy(update={**fast, "augment": flips})
    protocol = settings.evaluate.model_copy(update={"resolution": 32, "samples": 45})
    prepared = project / "prepared"
    for family in ("gan", "vae"):
        folders = TrainingFolders(project / family, project / "reports" / family)
        report = train(family, small_settings(family, batch_size=16, images=160), common, prepared, folders)
        assert (report["steps"], report["best_step"]) == (10, 10)
        assert load_card(folders.weights).attributes == load_info(prepared).attributes == {}

        out, shown = folders.reports / "measurement.json", folders.reports / "evaluation"
        measured = evaluate(protocol, prepared, folders.weights, family, shown)
        assert measured.by_category == {}
        assert {"samples.png", "real_and_generated.png", "closest_pairs.png"} <= {path.name for path in shown.iterdir()}
        write_measurement(out, measured)
        judged = gate({family: POLICY}, family, out, folders.weights / "model.json")
        assert judged["verdict"] == "PASSED", judged["reasons"]
        judged = gate({family: BY_CATEGORY}, family, out, folders.weights / "model.json")
        assert [reason["code"] for reason in judged["reasons"]] == ["NO_CATEGORIES"]

        save_package(folders.weights, {}, project / "packages" / family)
        with mlflow.start_run(run_id=json.loads((folders.reports / "run.json").read_text())["run_id"]):
            version = register(project / "packages" / family, f"vitrine-{family}", {})
        answer = mlflow.pyfunc.load_model(f"models:/vitrine-{family}/{version}").predict(
            pd.DataFrame([{"n": 3, "seed": 5}, {"n": 1, "seed": 6}])
        )
        assert list(answer.columns) == ["seed", "index", "png"]
        assert answer[["seed", "index"]].to_numpy().tolist() == [[5, 0], [5, 1], [5, 2], [6, 0]]
        assert [Image.open(io.BytesIO(png)).tobytes() for png in answer["png"][:3]] == drawn(folders.weights, 3, 5)


def drawn(weights: Path, count: int, seed: int) -> list[bytes]:
    """Samples as the model itself draws them."""
    nothing = torch.zeros(count, 0, dtype=torch.int64)
    images = load_model(weights).sample(nothing, torch.Generator().manual_seed(seed))
    return [picture(image).tobytes() for image in to_uint8(images)]
