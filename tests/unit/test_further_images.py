"""Categories with few held-out photos: what further generated images tell of them, and what they leave as it is."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML
from torch import Tensor

from components.choose import PRESET
from components.generative import GenerativeModel
from components.measurement import Estimate, Estimates, Measurement
from components.measuring import measure_model
from components.policy import Code, judge
from components.settings import GateCheck, GatePolicy, Settings
from tests.drawn import CATEGORIES, COUNTS, Honest, Lacks, Unconditional, evaluate_settings, write_drawn

JUDGED = {"condition_fidelity", "condition_margin"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def few(prepared: Path) -> Measurement:
    """An honest generator, by the images of some 20 held-out photos of each category."""
    return measured(Honest(), prepared, 0)


@pytest.fixture
def policy(settings: Settings) -> GatePolicy:
    """What the preset for one's own photos asks by category."""
    asked = YAML(typ="safe").load(PRESET.read_text())["gate"]["gan"]["by_category"]
    return GatePolicy.model_validate({**settings.gate["gan"].model_dump(), "by_category": asked})


def measured(model: GenerativeModel, prepared: Path, per_category: int) -> Measurement:
    chosen = evaluate_settings(split="val", resolution=32, per_category=per_category)
    return measure_model(model, "5e" * 32, chosen, prepared).measurement


def of_categories(found: Measurement, policy: GatePolicy) -> set[tuple[str | None, str | None]]:
    """What the policy misses by category: metric and category."""
    return {(reason.metric, reason.category) for reason in judge(found, policy).reasons if reason.category}


def test_they_make_an_honest_generator_sure(prepared: Path, few: Measurement, policy: GatePolicy) -> None:
    strict = policy.model_copy(update={"by_category": [GateCheck(metric="condition_fidelity", at_least=0.85)]})
    assert len(of_categories(few, strict)) == len(CATEGORIES)
    enough = measured(Honest(), prepared, 100)
    assert of_categories(enough, strict) == of_categories(enough, policy) == set()


def test_a_category_that_is_lacking_fails_with_what_is_drawn_instead(prepared: Path, policy: GatePolicy) -> None:
    found = measured(Lacks(), prepared, 100)
    assert of_categories(found, policy) == {("condition_margin", "trouser"), ("condition_margin", "bag")}
    shares = {category: metrics["condition_fidelity"].value for category, metrics in found.by_category.items()}
    assert shares["trouser"] < 0.1
    assert shares["bag"] > 0.9


def test_a_generator_that_ignores_its_condition_fails_in_every_category(prepared: Path, policy: GatePolicy) -> None:
    found = measured(Unconditional(), prepared, 100)
    assert of_categories(found, policy) == {("condition_margin", category) for category in CATEGORIES}


def test_they_change_conditions_by_category_alone(prepared: Path, few: Measurement) -> None:
    model = Counted()
    enough = measured(model, prepared, 40)
    assert model.drawn == len(CATEGORIES) * 40
    assert len(model.latents) == model.drawn  # none twice: they are not the first ones again
    assert values(enough.metrics) == pytest.approx(values(few.metrics), rel=1e-6, abs=1e-9)
    for category in CATEGORIES:
        before, after = few.by_category[category], enough.by_category[category]
        rest = before.keys() - JUDGED
        assert {name: after[name] for name in rest} == {name: before[name] for name in rest}
        right = after["condition_fidelity"].value * 40
        assert right == pytest.approx(round(right))
        assert after["condition_fidelity"].least_error < before["condition_fidelity"].least_error
        assert {name: after[name].floor for name in JUDGED} == {name: before[name].floor for name in JUDGED}
    assert "per_category=40" in enough.protocol.split("; ")


def values(metrics: Estimates) -> dict[str, float]:
    return {name: estimate.value for name, estimate in metrics.items()}


def test_categories_with_enough_photos_pay_nothing(prepared: Path, few: Measurement) -> None:
    model = Counted()
    assert measured(model, prepared, 10).by_category == few.by_category
    assert model.drawn == COUNTS["val"]


class Counted(Honest):
    """Counts the images that it draws, and keeps their latents."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = 0
        self.latents: set[float] = set()

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        self.drawn += len(latents_ND)
        self.latents |= set(latents_ND[:, 0].tolist())
        return super().generate(latents_ND, conditions_NA)


def test_what_is_no_number_among_them_makes_every_metric_unknown(prepared: Path, few: Measurement) -> None:
    found = measured(DivergesLater(), prepared, 40)
    assert found.metrics.pop("nonfinite_samples") == Estimate(1, (1.0,) * 20, 0.0)
    assert all(math.isnan(value) for value in values(found.metrics).values())
    for category, metrics in found.by_category.items():
        assert metrics.keys() == few.by_category[category].keys()
        assert all(math.isnan(value) for value in values(metrics).values())


class DivergesLater(Counted):
    """One image beyond those of the held-out photos' conditions holds NaN."""

    def generate(self, latents_ND: Tensor, conditions_NA: Tensor) -> Tensor:
        images = super().generate(latents_ND, conditions_NA)
        if self.drawn > COUNTS["val"]:
            images[0, 0, 5, 5] = math.nan
        return images


def test_a_category_without_held_out_photos_is_judged_by_them_alone(
    prepared: Path, tmp_path: Path, settings: Settings
) -> None:
    """All else of it is not measured, and fails by its name if it is asked for."""
    folder = shutil.copytree(prepared, tmp_path / "gone")
    manifest = pd.read_parquet(folder / "manifest.parquet")
    manifest.loc[(manifest["split"] == "val") & (manifest["category"] == "trouser"), "category"] = "bag"
    manifest.to_parquet(folder / "manifest.parquet")
    card = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**card, "digest": "d3" * 32}))
    found = measured(Honest(), folder, 40)
    assert list(found.by_category) == list(CATEGORIES)
    trouser = found.by_category["trouser"]
    assert trouser.keys() == JUDGED
    assert trouser["condition_fidelity"].value > 0.8
    assert all(estimate.floor is None for estimate in trouser.values())
    reasons = judge(found, settings.gate["gan"]).reasons
    of_trousers = [(reason.code, reason.metric) for reason in reasons if reason.category == "trouser"]
    assert of_trousers == [(Code.MISSING_METRIC, name) for name in ("diversity_ratio", "coverage_efflite0")]
    assert measured(Honest(), folder, 0).by_category["trouser"] == {}
