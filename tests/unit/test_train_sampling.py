"""Training and its sample grids; two conditions with odd names, from the prepared folder to served PNGs."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from components import train as training
from components.dataset import AttributeValues, Split, load_info, load_split
from components.errors import InputError
from components.evaluate import evaluate
from components.generative import Augmentation, GenerativeModel, build, load_card, load_model
from components.images import picture, to_uint8
from components.packaging import register, save_package
from components.settings import AugmentSettings, FamilySettings, Settings, TrainCommonSettings
from components.sheets import GAP, INDENT, category_attribute, labelled_grids, rows_by_category, shortened
from components.train import TrainingFolders, train
from components.training import fitting
from components.training.batches import StepBlocks
from components.training.draws import Draws
from components.training.module import TrainingModule
from components.training.reporting import sample_grid
from tests.prepared import write_prepared
from tests.small import small_settings

FAMILIES = ("gan", "vae")
# In twenty steps the conditions shall be seen in the pixels.
FAST = {
    "gan": {
        "generator_optimizer": {"lr": 0.02, "beta1": 0.0, "beta2": 0.99, "weight_decay": 0.0, "warmup": 0},
    },
    "vae": {
        "optimizer": {"lr": 0.005, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "warmup": 0},
    },
}
ODD = {
    "bag": 'Bags & "Cases"',
    "boot": "Сапоги, 2/3 Größe",
    "dress": "name/with line\nand far too long for any label",
}
COLORS = ("dark blue", "écru (50 %)")


def write_two_conditions(folder: Path, **options: Any) -> Path:
    """The prepared images with odd names of categories, and a second condition: every fifth image has the other."""
    write_prepared(folder, **options)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    manifest["category"] = manifest["category"].map(ODD)
    manifest["color"] = [COLORS[row % 5 == 0] for row in manifest["row"]]
    manifest.to_parquet(folder / "manifest.parquet")
    card = json.loads((folder / "dataset.json").read_text())
    card["attributes"] = {"category": sorted(ODD.values()), "color": sorted(COLORS)}
    (folder / "dataset.json").write_text(json.dumps(card))
    return folder


def small(family: str) -> FamilySettings:
    return small_settings(family, batch_size=16, images=320, **FAST[family])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with prepared images, whose runs are recorded in a file: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("project")
    write_two_conditions(folder / "prepared", channels=3)
    before = mlflow.get_tracking_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("VITRINE_CACHE", str(folder / "cache"))
        yield folder
    mlflow.set_tracking_uri(before)


def common(settings: Settings, **augmentation: Any) -> TrainCommonSettings:
    changed = {"accelerator": "cpu", "log_every": 5, "grids": 1, "grid_columns": 4, "sampler": "balanced"}
    augment = settings.train.common.augment.model_copy(update=augmentation)
    return settings.train.common.model_copy(update={**changed, "augment": augment})


def test_two_conditions_are_trained_evaluated_packaged_and_served(project: Path, settings: Settings) -> None:
    protocol = settings.evaluate.model_copy(update={"resolution": 32, "samples": 48})
    info = load_info(project / "prepared")
    flips = {"flip": 0.5, "flip_not": {"category": [ODD["boot"]]}, "translate": 0.1, "saturation": 0.2}
    for family in FAMILIES:
        folders = TrainingFolders(project / family, project / "reports" / family)
        report = train(family, small(family), common(settings, **flips), project / "prepared", folders)
        assert report["images"] == 320
        run_id = json.loads((folders.reports / "run.json").read_text())["run_id"]
        recorded = mlflow.get_run(run_id).data.params
        assert recorded["common.augment.flip"] == "0.5"
        assert recorded["common.sampler"] == "balanced"
        measured = evaluate(protocol, project / "prepared", folders.weights, family, project / "pictures")
        assert set(measured.by_category) == set(ODD.values())
        judged = {f"condition_fidelity{attribute}" for attribute in ("", "_category", "_color")}
        assert all(judged <= metrics.keys() for metrics in (measured.metrics, *measured.by_category.values()))
        assert load_card(folders.weights).attributes == info.attributes
        save_package(folders.weights, info.attributes, project / "packages" / family)
        with mlflow.start_run(run_id=run_id):
            version = register(project / "packages" / family, f"vitrine-{family}", {})
        served = mlflow.pyfunc.load_model(f"models:/vitrine-{family}/{version}")
        request = pd.DataFrame([{"category": ODD["dress"], "color": COLORS[1], "n": 2, "seed": 5}])
        answer = served.predict(request)
        assert answer[["category", "color", "index"]].to_numpy().tolist() == [
            [ODD["dress"], COLORS[1], i] for i in (0, 1)
        ]
        assert [decoded(png) for png in answer["png"]] == drawn(load_model(folders.weights), ODD["dress"], COLORS[1])
        assert drawn(load_model(folders.weights), ODD["dress"], COLORS[0]) != [decoded(png) for png in answer["png"]]
        with pytest.raises(Exception, match=r"color is 'green'; this model knows \['dark blue', 'écru \(50 %\)'\]"):
            served.predict(request.assign(color="green"))


def decoded(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def drawn(model: GenerativeModel, category: str, color: str) -> list[bytes]:
    """Two samples as the model itself draws them."""
    codes = [sorted(ODD.values()).index(category), sorted(COLORS).index(color)]
    images = model.sample(torch.tensor([codes, codes]), torch.Generator().manual_seed(5))
    return [picture(image).tobytes() for image in to_uint8(images)]


def test_an_unknown_category_in_flip_not_stops_before_the_run(project: Path, settings: Settings) -> None:
    wrong = common(settings, flip=0.5, flip_not={"category": ["shoes"]})
    folders = TrainingFolders(project / "refused", project / "refused")
    with pytest.raises(InputError, match=r"flip_not.category: the data has no \['shoes'\]"):
        train("gan", small("gan"), wrong, project / "prepared", folders)
    assert not folders.reports.exists()


def test_a_condition_that_no_request_could_name_stops_before_the_run(project: Path, settings: Settings) -> None:
    folder = project / "seeds"
    shutil.copytree(project / "prepared", folder)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    manifest.rename(columns={"color": "seed"}).to_parquet(folder / "manifest.parquet")
    card = json.loads((folder / "dataset.json").read_text())
    card["attributes"]["seed"] = card["attributes"].pop("color")
    (folder / "dataset.json").write_text(json.dumps(card))
    folders = TrainingFolders(project / "refused", project / "refused")
    with pytest.raises(InputError, match=r"prepare.conditions: \['seed'\] cannot be served"):
        train("gan", small("gan"), common(settings), folder, folders)
    assert not folders.reports.exists()


class Painter(GenerativeModel):
    """Paints the code of each condition: red is the category's, green the colour's."""

    def __init__(self) -> None:
        super().__init__(small("gan"))
        self.asked: list[Tensor] = []

    def draw_latents(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return torch.zeros(len(conditions_NA), 1)

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:  # noqa: ARG002
        self.asked.append(conditions_NA)
        shades = torch.cat([conditions_NA, conditions_NA[:, :1]], dim=1).float() / 5 - 0.5
        return shades[:, :, None, None].expand(-1, -1, 64, 64)

    def optimise(self, *_: Any) -> dict[str, Tensor]:
        return {}

    def sampling_state(self) -> dict[str, Tensor]:
        return {}

    def load_sampling_state(self, state: dict[str, Tensor]) -> None: ...


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return load_split(write_two_conditions(tmp_path, channels=3, size=64), "train")


def test_a_grid_has_a_row_per_category_with_colors_as_the_data_has_them(split: Split) -> None:
    painter = Painter()
    sheet = sample_grid(painter, split, columns=8, seed=1)
    (asked,) = painter.asked
    assert asked[:, 0].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    shares = sample_conditions(split, columns=32)[:, 1].float().mean()
    assert shares == pytest.approx((split.manifest["color"] == COLORS[1]).mean(), abs=0.1)
    label = sheet.width - (8 * (64 + GAP) + GAP)
    assert label > 2 * INDENT
    pixels = np.asarray(sheet)
    assert sheet.height == 3 * (64 + GAP) + GAP
    assert [int(pixels[GAP + 5 + 66 * row, label + GAP + 5, 0]) for row in range(3)] == [64, 89, 115]


def sample_conditions(split: Split, columns: int) -> Tensor:
    painter = Painter()
    sample_grid(painter, split, columns, seed=1)
    return painter.asked[0]


def test_grids_of_one_seed_ask_for_the_same_conditions(split: Split) -> None:
    painter = Painter()
    for seed in (1, 1, 2):
        sample_grid(painter, split, 8, seed)
    one, again, other = painter.asked
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_row_has_no_image_twice_while_there_are_enough(split: Split) -> None:
    """A category's colours are then those of as many different images."""
    whole = sample_conditions(split, columns=32)
    assert len(split) == 3 * 32
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, split.conditions_NA.tolist()))


def test_a_grid_of_few_images_and_many_columns(tmp_path: Path) -> None:
    few = load_split(write_two_conditions(tmp_path, counts={"train": 3}, channels=3, size=64), "train")
    assert sample_conditions(few, columns=8).shape == (24, 2)


def test_at_most_32_rows(split: Split) -> None:
    values = tuple(f"c{number:02}" for number in range(40))
    manifest = split.manifest.assign(category=[values[row % 40] for row in range(len(split))])
    many = Split(split.shards, manifest, {"category": values, "color": COLORS})
    asked = sample_conditions(many, columns=2)
    assert asked[:, 0].tolist() == [row for row in range(32) for _ in range(2)]


def test_rows_are_of_the_category_or_else_of_the_first_condition(split: Split) -> None:
    swapped = Split(split.shards, split.manifest, dict(reversed(split.attributes.items())))
    assert category_attribute(swapped.attributes) == "category"
    assert list(rows_by_category(swapped)) == sorted(ODD.values())
    only_color = Split(split.shards, split.manifest, {"color": split.attributes["color"]})
    assert list(rows_by_category(only_color)) == sorted(COLORS)


def test_without_conditions_a_grid_has_one_row_of_all_images(split: Split) -> None:
    unconditional = Split(split.shards, split.manifest, {})
    ((label, found),) = rows_by_category(unconditional).items()
    assert (label, found.tolist()) == ("", list(range(96)))
    asked: list[tuple[int, ...]] = []

    class Grey(Painter):
        def sample(self, conditions_NA: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002
            asked.append(tuple(conditions_NA.shape))
            return torch.zeros(len(conditions_NA), 3, 64, 64)

    assert sample_grid(Grey(), unconditional, columns=8, seed=1).size == (2 * INDENT + 8 * (64 + GAP) + GAP, 68)
    assert asked == [(8, 0)]


def test_a_long_or_broken_label_is_one_short_line() -> None:
    assert shortened("dress") == "dress"
    assert shortened("a\nb\tc\x07") == "a b c?"
    assert shortened("0123456789" * 5) == "01234567890123…7890123456789"
    assert len(shortened("0123456789" * 5)) == 28
    images = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    assert labelled_grids([("", images)], ["a\nb", "x" * 5000]).width < 500


def fit(family: str, folder: Path, augmentation: Augmentation | None) -> dict[str, Tensor]:
    """Weights after a few steps."""
    info, settings = load_info(folder), small(family)
    torch.manual_seed(0)
    model = build(family, settings, info)
    model.augmentation = augmentation
    blocks = StepBlocks(load_split(folder, "train"), torch.device("cpu"), batch_size=8, steps=6, block=2, seed=1)
    options: dict[str, Any] = {"enable_checkpointing": False, "barebones": True, "max_epochs": 1}
    Trainer(accelerator="cpu", logger=False, **options).fit(TrainingModule(model), DataLoader(blocks, batch_size=None))
    return model.sampling_state()


@pytest.mark.parametrize("family", FAMILIES)
def test_augmentation_has_a_stream_of_randomness_of_its_own(family: str, tmp_path: Path) -> None:
    """One that draws but changes nothing leaves the training as it was, to the last bit."""
    folder, drawn = write_prepared(tmp_path), []

    def draw(images: Tensor, _: Tensor, draws: Draws) -> Tensor:
        drawn.append(draws.uniform("augment", 4)[0])
        return images

    plain, drawing = fit(family, folder, None), fit(family, folder, draw)
    assert all(torch.equal(weight, drawing[name]) for name, weight in plain.items())
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_augmented_images_are_what_is_trained_on(family: str, tmp_path: Path) -> None:
    folder = write_prepared(tmp_path)
    seen = []

    def invert(images: Tensor, conditions: Tensor, _: Draws) -> Tensor:
        assert images.abs().max() <= 1
        seen.append(conditions)
        return -images

    plain, inverted = fit(family, folder, None), fit(family, folder, invert)
    assert any(not torch.equal(weight, inverted[name]) for name, weight in plain.items())
    assert [tuple(batch.shape) for batch in seen] == [(8, 1)] * 6


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_train_draws_with_the_sampler_of_the_settings(
    project: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    drawn: dict[int, list[int]] = {}

    class Noted(StepBlocks):
        def _rows(self, step: int) -> Tensor:
            drawn[step] = super()._rows(step).tolist()
            return torch.tensor(drawn[step])

    monkeypatch.setattr(fitting, "StepBlocks", Noted)
    folders = TrainingFolders(project / "drawn", project / "drawn")
    chosen = common(settings).model_copy(update={"sampler": sampler})
    whole = small("vae").model_copy(update={"images": 96})
    train("vae", whole, chosen, uneven_weights(project), folders)
    taken = sum(row % 3 == 0 for rows in drawn.values() for row in rows)
    assert len(drawn) == 6
    assert taken == (32 if sampler == "uniform" else 64)


def uneven_weights(project: Path) -> Path:
    """The same images; those of the first category shall come up twice as often as all the others together."""
    folder = project / "uneven"
    shutil.copytree(project / "prepared", folder, dirs_exist_ok=True)
    manifest = pd.read_parquet(folder / "manifest.parquet")
    manifest["weight"] = np.where(manifest["row"] % 3 == 0, 2.0, 0.5)
    manifest.to_parquet(folder / "manifest.parquet")
    return folder


@pytest.mark.parametrize(("flip", "calls"), [(0.0, 0), (0.5, 2)])
def test_train_augments_every_step_if_something_is_on(
    project: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, flip: float, calls: int
) -> None:
    called = []

    def count(images: Tensor, *_: Any, settings: AugmentSettings, attributes: AttributeValues) -> Tensor:
        called.append((settings.flip, list(attributes)))
        return images

    monkeypatch.setattr(training, "augment", count)
    folders = TrainingFolders(project / "short", project / "short")
    short = small("vae").model_copy(update={"images": 32})
    train("vae", short, common(settings, flip=flip), project / "prepared", folders)
    assert called == [(flip, ["category", "color"])] * calls
