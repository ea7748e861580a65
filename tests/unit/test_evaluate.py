"""The evaluation on small drawn images and on models whose quality is known beforehand."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from torch import Tensor
from torch.testing import assert_close

from components import features, generative, tracking
from components.check import check_params
from components.dataset import Split, load_info, load_split
from components.errors import InputError
from components.evaluate import chosen_rows, evaluate, evaluate_model, main
from components.files import write_json
from components.generative import GenerativeModel, Step
from components.images import to_float
from components.models import family_settings
from components.pictures import pictures
from components.protocol import assert_comparable
from components.sampling import Samples
from components.settings import EvaluateSettings
from components.sheets import GAP, MARGIN
from tests.prepared import without_conditions

ROOT = Path(__file__).parents[2]
CATEGORIES = ("bag", "t-shirt/top", "trouser")
SIZE = 32


def draw(category: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A grey shape per category, of random place, size and brightness."""
    image = Image.new("L", (SIZE, SIZE), 0)
    left, top = rng.integers(2, 8, 2).tolist()
    right, bottom = rng.integers(20, 30, 2).tolist()
    shade = int(rng.integers(120, 256))
    canvas = ImageDraw.Draw(image)
    if category == 0:
        canvas.ellipse((left, top, right, bottom), fill=shade)
    elif category == 1:
        canvas.rectangle((left, top, right, bottom), outline=shade, width=3)
    else:
        canvas.line((left, top, right, bottom), fill=shade, width=4)
    return np.asarray(image)[np.newaxis]


def write_split(folder: Path, split: str, count: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    # Categories of unequal frequency.
    categories = rng.choice(len(CATEGORIES), count, p=[0.5, 0.3, 0.2])
    np.save(folder / f"{split}-0.npy", np.stack([draw(int(category), rng) for category in categories]))
    return pd.DataFrame(
        {
            "id": [f"{split}{row}" for row in range(count)],
            "split": split,
            "shard": f"{split}-0.npy",
            "row": range(count),
            "category": [CATEGORIES[category] for category in categories],
            "weight": 1.0,
        }
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    counts = {"train": 300, "test": 150}
    rows = [write_split(folder, split, count, seed) for seed, (split, count) in enumerate(counts.items())]
    pd.concat(rows).to_parquet(folder / "manifest.parquet")
    info = {
        "format": 1,
        "image_shape": [1, SIZE, SIZE],
        "attributes": {"category": list(CATEGORIES)},
        "counts": counts,
        "digest": "d1" * 32,
    }
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache for the module: the real features are computed once per setting."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("VITRINE_CACHE", str(folder))
        yield folder


def settings(**changes: Any) -> EvaluateSettings:
    values = {
        "extractor": "efflite0",
        "inception_weights": None,
        "resolution": 64,
        "split": "test",
        "samples": 120,
        "batch_size": 20,
        "seed": 7,
        "kid_subsets": 10,
        "kid_subset_size": 60,
        "neighbours": 3,
    }
    return EvaluateSettings.model_validate(values | changes)


class Replay(GenerativeModel):
    """Gives training images of the wanted category: as good as a generator can be."""

    def __init__(self, prepared: Path) -> None:
        super().__init__(family_settings("gan", check_params().train.families["gan"]))
        split = load_split(prepared, "train")
        self.images_NCHW = torch.from_numpy(np.concatenate(split.shards))
        self.categories_N = torch.from_numpy(split.conditions_NA[:, 0])

    def optimise(self, step: Step) -> dict[str, Tensor]:
        raise NotImplementedError  # is never trained

    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        rows = []
        for category in conditions_NA[:, 0]:
            fitting = torch.nonzero(self.categories_N == category).squeeze(1)
            rows.append(fitting[torch.randint(len(fitting), (), generator=generator)])
        return to_float(self.images_NCHW[torch.stack(rows)])

    def sampling_state(self) -> dict[str, Tensor]:
        return {}

    def load_sampling_state(self, state: dict[str, Tensor]) -> None:
        assert not state


class Noise(Replay):
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(len(conditions_NA), 1, SIZE, SIZE, generator=generator) * 2 - 1


class OneImage(Replay):
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return to_float(self.images_NCHW[:1]).repeat(len(conditions_NA), 1, 1, 1)


class IgnoresConditions(Replay):
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        return super().sample(torch.zeros_like(conditions_NA), generator)


class Diverged(Replay):
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        images = super().sample(conditions_NA, generator)
        images[3, 0, 5, 5] = math.nan
        return images


class Small(Replay):
    def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:
        return super().sample(conditions_NA, generator)[:, :, ::2, ::2]


class Dims(Replay):
    """Reconstructs every pixel a known amount too dark."""

    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        assert len(images_NCHW) == len(conditions_NA)
        return images_NCHW - 10 / 127.5


class DimNoise(Noise, Dims):
    """Asks nothing of conditions."""


class BreaksOnReconstruction(Dims):
    def reconstruct(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        return super().reconstruct(images_NCHW, conditions_NA) / 0


def test_a_perfect_generator_is_near_the_floor_and_bad_ones_are_not(prepared: Path) -> None:
    good = evaluate_model(Replay(prepared), settings(), prepared).metrics
    noise = evaluate_model(Noise(prepared), settings(), prepared).metrics
    collapsed = evaluate_model(OneImage(prepared), settings(), prepared).metrics
    assert good["fd_efflite0"] < 0.3 * collapsed["fd_efflite0"]
    assert good["fd_efflite0"] < 0.1 * noise["fd_efflite0"]
    assert abs(good["kd_efflite0"]) < 3 * good["kd_efflite0_std"] < noise["kd_efflite0"]
    assert good["precision_efflite0"] > 0.7
    assert good["recall_efflite0"] > 0.7
    assert noise["precision_efflite0"] == 0
    assert collapsed["precision_efflite0"] == 1
    assert collapsed["recall_efflite0"] < 0.1
    assert_close(collapsed["is_efflite0"], 1.0)
    assert good["is_efflite0"] > 1.1
    assert {m["nonfinite_samples"] for m in (good, noise, collapsed)} == {0}


def test_each_generated_image_has_the_conditions_of_its_real_one(prepared: Path) -> None:
    evaluation = evaluate_model(Replay(prepared), settings(), prepared)
    assert min(metrics["precision_efflite0"] for metrics in evaluation.by_category.values()) > 0.6


def test_categories_are_told_apart(prepared: Path) -> None:
    evaluation = evaluate_model(IgnoresConditions(prepared), settings(), prepared)
    assert list(evaluation.by_category) == list(CATEGORIES)
    assert set(evaluation.by_category["bag"]) == {"kd_efflite0", "precision_efflite0", "recall_efflite0"}
    # All images are bags, whatever was asked for.
    assert evaluation.by_category["bag"]["precision_efflite0"] > 0.7
    assert evaluation.by_category["trouser"]["precision_efflite0"] < 0.1
    distances = {name: metrics["kd_efflite0"] for name, metrics in evaluation.by_category.items()}
    assert 10 * abs(distances["bag"]) < min(distances["t-shirt/top"], distances["trouser"])


@pytest.fixture
def unconditional(prepared: Path, tmp_path: Path) -> Path:
    return without_conditions(Path(shutil.copytree(prepared, tmp_path / "unconditional")))


def test_without_conditions_nothing_is_told_apart(prepared: Path, unconditional: Path) -> None:
    evaluation = evaluate_model(Noise(prepared), settings(), unconditional)
    assert evaluation.by_category == {}
    assert evaluation.metrics == evaluate_model(Noise(prepared), settings(), prepared).metrics


def test_batch_size_changes_nothing(prepared: Path) -> None:
    one, other = (evaluate_model(Replay(prepared), settings(batch_size=n), prepared) for n in (7, 64))
    assert_close(other.metrics, one.metrics, rtol=1e-3, atol=1e-4)
    assert other.protocol == one.protocol


def test_the_same_seed_gives_the_same_result_and_the_cache_no_other(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path))
    first = evaluate_model(Replay(prepared), settings(), prepared)
    assert "from the cache" not in capsys.readouterr().out
    second = evaluate_model(Replay(prepared), settings(), prepared)
    assert "120 real images from the cache" in capsys.readouterr().out
    assert second == first
    other = evaluate_model(Replay(prepared), settings(seed=8), prepared)
    assert other.metrics["fd_efflite0"] != first.metrics["fd_efflite0"]


def test_samples_are_a_function_of_the_seed(prepared: Path) -> None:
    conditions = load_split(prepared, "test").conditions_NA
    one, same, other = (list(Samples(Replay(prepared), conditions, (1, SIZE, SIZE), seed)) for seed in (1, 1, 2))
    assert [len(chunk) for chunk in one] == [100, 50]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_cached_real_images_do_not_pass_the_network_again(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_model(Replay(prepared), settings(), prepared)
    seen = []
    compute = features.EffLite0.compute

    def counting(self: features.EffLite0, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(images_NCHW))
        return compute(self, images_NCHW)

    monkeypatch.setattr(features.EffLite0, "compute", counting)
    evaluate_model(Replay(prepared), settings(), prepared)
    assert sum(seen) == 120


def test_nan_in_the_images_makes_every_metric_nan(prepared: Path) -> None:
    evaluation = evaluate_model(Diverged(prepared), settings(), prepared)
    # One image in each of the two chunks of 100 and 20.
    assert evaluation.metrics.pop("nonfinite_samples") == 2
    assert all(math.isnan(value) for value in evaluation.metrics.values())
    content = evaluation.as_json()
    assert content["fd_efflite0"] is None
    assert content["by_category"]["bag"] == {
        "kd_efflite0": None,
        "precision_efflite0": None,
        "recall_efflite0": None,
    }
    json.dumps(content, allow_nan=False)


def test_reconstructions_are_measured_where_there_are_any(prepared: Path) -> None:
    split = load_split(prepared, "test")
    rows = chosen_rows(len(split), settings())
    original = split.gather(rows).astype(np.float64)
    error = np.mean((original - np.clip(original - 10, 0, 255)) ** 2)
    metrics = evaluate_model(Dims(prepared), settings(), prepared).metrics
    assert_close(metrics["reconstruction_psnr"], 10 * math.log10(255**2 / error), rtol=1e-6, atol=0)
    assert 0.5 < metrics["reconstruction_ssim"] < 1
    assert "reconstruction_psnr" not in evaluate_model(Replay(prepared), settings(), prepared).metrics
    broken = evaluate_model(BreaksOnReconstruction(prepared), settings(), prepared).metrics
    assert math.isnan(broken["reconstruction_psnr"])
    assert math.isnan(broken["reconstruction_ssim"])
    assert math.isfinite(broken["fd_efflite0"])


def test_the_protocol_names_the_conditions(prepared: Path) -> None:
    one = evaluate_model(Replay(prepared), settings(), prepared).as_json()
    for part in ("features=efflite0", "resolution=64", "split=test", "samples=120x120", "dataset=d1d1d1d1d1d1"):
        assert part in one["protocol"].split("; ")
    other = evaluate_model(Replay(prepared), settings(resolution=32), prepared).as_json()
    with pytest.raises(InputError, match=r"differ in resolution \(64 and 32\)"):
        assert_comparable(one, other)


def test_images_of_another_shape_are_refused(prepared: Path) -> None:
    with pytest.raises(InputError, match=r"makes images of shape \(1, 16, 16\), the dataset's have \(1, 32, 32\)"):
        evaluate_model(Small(prepared), settings(), prepared)


def test_too_few_images_are_named_with_the_setting(prepared: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate\.kid_subset_size needs 160 real images .* gives 150"):
        evaluate_model(Replay(prepared), settings(samples=500, kid_subset_size=160), prepared)


def test_chosen_rows_are_distinct_and_seeded() -> None:
    rows = chosen_rows(150, settings())
    assert len(rows) == len(set(rows.tolist())) == 120
    assert rows.tolist() == sorted(rows.tolist())
    assert rows.tolist() != chosen_rows(150, settings(seed=8)).tolist()
    assert chosen_rows(150, settings(samples=1000)).tolist() == list(range(150))


def test_pictures_show_what_they_say(prepared: Path) -> None:
    split = load_split(prepared, "test")
    made = pictures(Dims(prepared), split, seed=1)
    assert list(made) == ["samples.png", "real_and_generated.png", "reconstructions.png"]
    assert "reconstructions.png" not in pictures(Replay(prepared), split, seed=1)
    # Each real image stands enlarged in the left grid: find the first bag's pixels there.
    first_bag = np.concatenate(split.shards)[np.flatnonzero(split.conditions_NA[:, 0] == 0)[0], 0]
    enlarged = first_bag.repeat(2, axis=0).repeat(2, axis=1)
    sheet = np.asarray(made["real_and_generated.png"].convert("L"))
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:120, :300], (64, 64))
    assert (windows == enlarged).all(axis=(2, 3)).sum() == 1


def test_pictures_without_conditions_have_rows_of_different_images(prepared: Path, unconditional: Path) -> None:
    made = pictures(DimNoise(prepared), load_split(unconditional, "test"), seed=1)
    assert len({cell.tobytes() for cell in cells(made["samples.png"], columns=8)}) == 4 * 8
    fakes = cells(made["real_and_generated.png"], columns=8, top=MARGIN)
    assert len({cell.tobytes() for cell in fakes}) == 4 * 8
    originals, reconstructions, *_ = np.split(np.stack(cells(made["reconstructions.png"], columns=8)), 4)
    assert len({cell.tobytes() for cell in originals}) == 8
    np.testing.assert_allclose(reconstructions, originals.clip(10) - 10.0, atol=1)


def test_pictures_of_few_images_without_conditions(prepared: Path, unconditional: Path) -> None:
    whole = load_split(unconditional, "test")
    few = Split((whole.shards[0][:5],), whole.manifest[:5], {})
    assert len(cells(pictures(DimNoise(prepared), few, seed=1)["reconstructions.png"], columns=5)) == 4 * 5


def cells(sheet: Image.Image, columns: int, top: int = 0) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """The images of a sheet's grid at the right, at twice their size, row by row."""
    step = 2 * (SIZE + GAP)
    pixels = np.asarray(sheet.convert("L"))[top:, -(columns * step + 2 * GAP) :]
    rows = (len(pixels) - 2 * GAP) // step
    corners = [(2 * GAP + row * step, 2 * GAP + column * step) for row in range(rows) for column in range(columns)]
    assert pixels.shape == (rows * step + 2 * GAP, columns * step + 2 * GAP)
    return [pixels[y : y + 2 * SIZE, x : x + 2 * SIZE] for y, x in corners]


@pytest.fixture
def vae(prepared: Path, tmp_path: Path) -> Path:
    """An untrained VAE of the project, saved as the training saves it."""
    raw = check_params(ROOT / "params.yaml").train.families["vae"]
    chosen = family_settings("vae", raw)
    model = generative.build("vae", chosen, load_info(prepared))
    generative.save_model(model, "vae", chosen, load_info(prepared), tmp_path / "models/vae")
    return tmp_path / "models/vae"


def test_the_stage_refuses_another_family_or_dataset(prepared: Path, vae: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a 'vae', but --model is 'gan'"):
        evaluate(settings(), prepared, vae, "gan", tmp_path / "out.json", tmp_path)
    card = json.loads((vae / "model.json").read_text())
    card["attributes"] = {"category": ["bag", "dress", "trouser"]}
    write_json(vae / "model.json", card)
    with pytest.raises(InputError, match=r"made for attributes .*dress.* train it again"):
        evaluate(settings(), prepared, vae, "vae", tmp_path / "out.json", tmp_path)
    assert not (tmp_path / "out.json").exists()


def test_the_stage_writes_its_files_and_goes_on_in_the_run(
    prepared: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] = settings().model_dump()
    Path("params.yaml").write_text(yaml.safe_dump(params))
    tracking.connect()
    with mlflow.start_run() as run:
        write_json(Path("run.json"), {"run_id": run.info.run_id})

    out = "reports/evaluation.json"
    arguments = ["--model=vae", f"--prepared={prepared}", f"--weights={vae}", "--run=run.json"]
    main([*arguments, f"--out={out}", "--pictures=reports/evaluation"])

    content = json.loads(Path(out).read_text(), parse_constant=pytest.fail)
    assert f"vae: measured with {content['protocol']}" in capsys.readouterr().out
    assert content["weights_sha256"] == json.loads((vae / "model.json").read_text())["weights_sha256"]
    names = {path.name for path in Path("reports/evaluation").iterdir()}
    assert names == {"samples.png", "real_and_generated.png", "reconstructions.png"}
    recorded = mlflow.get_run(run.info.run_id)
    assert_close(recorded.data.metrics["fd_efflite0"], content["fd_efflite0"])
    per_category = content["by_category"]["t-shirt/top"]["kd_efflite0"]
    assert_close(recorded.data.metrics[f"kd_efflite0/{tracking.metric_name('t-shirt/top')}"], per_category)
    assert recorded.data.tags["vitrine.protocol"] == content["protocol"]
    artifacts = mlflow.MlflowClient().list_artifacts(run.info.run_id, "evaluation")
    assert {Path(found.path).name for found in artifacts} == names


def test_a_missing_run_is_explained(
    prepared: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--params={ROOT / 'params.yaml'}", "--model=vae", f"--prepared={prepared}", f"--weights={vae}"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, f"--run={tmp_path}/run.json", f"--out={tmp_path}/e.json", f"--pictures={tmp_path}"])
    assert ended.value.code == 2
    assert "run.json: not found" in capsys.readouterr().err
