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
from components.packaging import package
from components.raw import Photo
from components.settings import GateCheck, QualitySettings, Settings, SplitSettings
from components.train import TrainingFolders, train
from tests.preparing import SETTINGS, run
from tests.small import small_settings

UNCONDITIONAL = SETTINGS.model_copy(
    update={"conditions": [], "split": SplitSettings(val=0.15, test=0.3, salt="vitrine")}
)
GATE = GateCheck(metric="fd_efflite0", at_most=1e6)
BY_CATEGORY = GateCheck(metric="by_category.bag.kd_efflite0", at_most=1e6)


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
    protocol = settings.evaluate.model_copy(
        update={"resolution": 32, "samples": 30, "kid_subsets": 2, "kid_subset_size": 20}
    )
    prepared = project / "prepared"
    for family in ("gan", "vae"):
        folders = TrainingFolders(project / family, project / "reports" / family)
        report = train(family, small_settings(family, batch_size=16, images=160), common, prepared, folders)
        assert (report["steps"], report["best_step"]) == (10, 10)
        assert load_card(folders.weights).attributes == load_info(prepared).attributes == {}

        out, shown = folders.reports / "evaluation.json", folders.reports / "evaluation"
        evaluation = evaluate(protocol, prepared, folders.weights, family, out, shown)
        assert evaluation.by_category == {}
        assert {"samples.png", "real_and_generated.png"} <= {path.name for path in shown.iterdir()}
        judged = gate({family: [GATE]}, family, out, folders.weights / "model.json")
        assert judged["verdict"] == "PASSED", judged["reasons"]
        judged = gate({family: [GATE, BY_CATEGORY]}, family, out, folders.weights / "model.json")
        assert judged["reasons"] == ["by_category.bag.kd_efflite0: missing from the evaluation"]

        with mlflow.start_run(run_id=json.loads((folders.reports / "run.json").read_text())["run_id"]):
            version = package(folders.weights, {}, f"vitrine-{family}", {})
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
