"""The whole evaluation of drawn generators, judged by the policy of params.yaml: who passes, and who fails for what."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from components import features
from components.dataset import load_split
from components.errors import InputError
from components.measurement import GROUPS, Estimates, Measurement
from components.measuring import Measured, measure_model
from components.policy import Code, Verdict, judge
from components.references import load_references
from components.sampling import Samples
from components.settings import GatePolicy, load_settings
from tests.drawn import (
    CATEGORIES,
    SIZE,
    BreaksOnReconstruction,
    Dims,
    Diverged,
    Flipped,
    Honest,
    Lacks,
    Noise,
    OneMode,
    OneModePerCategory,
    Recoloured,
    Replay,
    Shifted,
    Small,
    Unconditional,
    evaluate_settings,
    write_drawn,
)
from tests.prepared import without_conditions

PARAMS = Path(__file__).parents[2] / "params.yaml"
WEIGHTS = "5e" * 32
SAMPLES = evaluate_settings().samples
COVERAGE = "coverage_efflite0"
WITHOUT_FLOOR = {"nonfinite_samples"}
BY_CATEGORY = {
    *("kd_efflite0", "precision_efflite0", "recall_efflite0", "density_efflite0", "coverage_efflite0"),
    *("diversity", "diversity_ratio", "condition_fidelity", "sharpness_ratio"),
}
OF_CATEGORIES = BY_CATEGORY | {"condition_margin"}
RECONSTRUCTION = {"reconstruction_psnr", "reconstruction_ssim"}
OVER_ALL = BY_CATEGORY | {
    *("fd_efflite0", "fd_inf_efflite0", "is_efflite0", "copies_by_features", "copies_by_pixels", "copying_ct"),
    *("duplicates", "nonfinite_samples"),
}

Measure = Callable[[str], Measured]


@pytest.fixture(scope="module", autouse=True)
def _cache_of_this_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is known of the real photos is computed once per setting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drawn(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def measured(prepared: Path) -> Measure:
    """Measures a generator by name, each of them once."""
    models = {
        "honest": Honest,
        "dims": Dims,
        "copies": lambda: Replay(prepared),
        "shifted copies": lambda: Shifted(prepared),
        "flipped copies": lambda: Flipped(prepared),
        "recoloured copies": lambda: Recoloured(prepared),
        "copies at times": lambda: Replay(prepared, share=0.3),
        "one mode": OneMode,
        "one mode per category": OneModePerCategory,
        "no trousers": Lacks,
        "noise": Noise,
        "diverged": Diverged,
    }
    known: dict[str, Measured] = {}

    def measure(name: str) -> Measured:
        if name not in known:
            known[name] = measure_model(models[name](), WEIGHTS, evaluate_settings(), prepared)
        return known[name]

    return measure


@pytest.fixture(scope="module")
def policy() -> GatePolicy:
    """The GAN's, as it stands in params.yaml."""
    return load_settings(PARAMS).gate["gan"]


def fails(verdict: Verdict) -> set[tuple[str | None, str | None]]:
    """Metrics and categories whose thresholds were missed, which must be all that speaks against the model."""
    assert not verdict.passed
    assert {reason.code for reason in verdict.reasons} == {Code.THRESHOLD_MISSED}
    return {(reason.metric, reason.category) for reason in verdict.reasons}


def value(found: Measured, metric: str, category: str | None = None) -> float:
    metrics = found.measurement.metrics if category is None else found.measurement.by_category[category]
    return metrics[metric].value


def test_an_honest_generator_passes_the_policy(measured: Measure, policy: GatePolicy) -> None:
    verdict = judge(measured("honest").measurement, policy)
    assert verdict.reasons == ()
    kinds = [check.kind for check in verdict.checks]
    assert kinds.count("memorisation") == len(policy.memorisation) == 4
    assert kinds.count("by_category") == len(policy.by_category) * len(CATEGORIES) == 9


@pytest.mark.parametrize("change", ["copies", "shifted copies", "flipped copies", "recoloured copies"])
def test_a_generator_that_memorises_fails(change: str, measured: Measure, policy: GatePolicy) -> None:
    found = measured(change)
    assert ("copies_by_pixels", None) in fails(judge(found.measurement, policy))
    assert value(found, "copies_by_pixels") > 0.8
    # That nothing else gives these away: pictures and categories are as good as an honest one's.
    assert value(found, "condition_fidelity") > 0.95
    assert value(found, "diversity_ratio") > 0.8


def test_plain_copies_are_seen_in_every_way(measured: Measure, policy: GatePolicy) -> None:
    missed = {metric for metric, _ in fails(judge(measured("copies").measurement, policy))}
    assert {"copies_by_features", "copies_by_pixels", "copying_ct"} <= missed
    assert value(measured("copies"), "copies_by_features") == value(measured("copies"), "copies_by_pixels") == 1.0


def test_a_generator_that_copies_at_times_fails_for_nothing_else(measured: Measure, policy: GatePolicy) -> None:
    found = measured("copies at times")
    memorisation = {(check.metric, None) for check in policy.memorisation}
    missed = fails(judge(found.measurement, policy))
    assert {("copies_by_features", None), ("copies_by_pixels", None)} <= missed <= memorisation
    assert 0.2 < value(found, "copies_by_pixels") < 0.4


def test_a_generator_of_one_mode_fails_in_every_category(measured: Measure, policy: GatePolicy) -> None:
    missed = fails(judge(measured("one mode").measurement, policy))
    assert ("duplicates", None) in missed
    assert {("diversity_ratio", category) for category in CATEGORIES} <= missed
    assert {("condition_fidelity", category) for category in CATEGORIES[1:]} <= missed
    assert ("condition_fidelity", CATEGORIES[0]) not in missed
    assert value(measured("one mode"), "is_efflite0") == pytest.approx(1.0)


def test_one_mode_per_category_fails_by_diversity_and_duplicates(measured: Measure, policy: GatePolicy) -> None:
    """It draws the wanted category every time."""
    found = measured("one mode per category")
    missed = fails(judge(found.measurement, policy))
    assert {("duplicates", None), *(("diversity_ratio", category) for category in CATEGORIES)} <= missed
    assert not any(metric == "condition_fidelity" for metric, _ in missed)
    assert value(found, "condition_fidelity") > 0.95


def test_a_generator_that_lacks_a_category_fails_for_that_one(measured: Measure, policy: GatePolicy) -> None:
    found = measured("no trousers")
    missed = fails(judge(found.measurement, policy))
    # What is drawn in its place covers none of it either.
    assert {pair for pair in missed if pair[1]} == {(name, "trouser") for name in ("condition_fidelity", COVERAGE)}
    assert value(found, "condition_fidelity", "trouser") < 0.1
    assert min(value(found, "condition_fidelity", category) for category in CATEGORIES[:2]) > 0.9
    distances = {category: value(found, "kd_efflite0", category) for category in CATEGORIES}
    assert distances["trouser"] > 5 * max(abs(distances["bag"]), abs(distances["t-shirt/top"]))
    assert not {metric for metric, _ in missed} & {check.metric for check in policy.memorisation}


def test_noise_is_no_picture(measured: Measure, policy: GatePolicy) -> None:
    found, honest = measured("noise"), measured("honest")
    assert {("fd_efflite0", None), ("precision_efflite0", None)} <= fails(judge(found.measurement, policy))
    assert value(honest, "fd_efflite0") < 0.2 * value(found, "fd_efflite0")
    assert value(found, "precision_efflite0") < 0.1
    assert value(honest, "precision_efflite0") > 0.7
    assert value(found, "sharpness_ratio") > 2


def test_an_honest_generator_is_near_its_floors(measured: Measure) -> None:
    for name, found in measured("honest").measurement.metrics.items():
        if name in WITHOUT_FLOOR:
            continue
        assert found.floor is not None
        if name == "copying_ct":
            assert abs(found.value - found.floor) < 2, name
        else:
            assert found.value == pytest.approx(found.floor, rel=0.15, abs=0.05), name


@pytest.mark.parametrize("name", ["honest", "copies", "one mode"])
def test_every_metric_has_its_interval_and_its_floor(name: str, measured: Measure) -> None:
    found = measured(name).measurement
    assert set(found.metrics) == OVER_ALL
    assert list(found.by_category) == list(CATEGORIES)
    for metrics in (found.metrics, *found.by_category.values()):
        for metric, estimate in metrics.items():
            assert len(estimate.replicates) == GROUPS, metric
            assert estimate.interval is not None, metric
            assert estimate.floor is not None, metric
            assert math.isfinite(estimate.floor), metric
    assert all(set(metrics) == OF_CATEGORIES for metrics in found.by_category.values())
    assert found.weights_sha256 == WEIGHTS


def test_replicates_are_of_this_model(measured: Measure) -> None:
    """Where something differs from image to image, it differs without a group of them."""
    for name in (
        *("fd_efflite0", "kd_efflite0", "precision_efflite0", "diversity_ratio", "sharpness_ratio"),
        "copying_ct",
    ):
        replicates = measured("honest").measurement.metrics[name].replicates
        assert len(set(replicates)) > GROUPS / 4, name
        assert replicates != measured("copies").measurement.metrics[name].replicates


def test_what_is_no_number_makes_every_metric_unknown(measured: Measure, policy: GatePolicy) -> None:
    found = measured("diverged").measurement
    # One image in each of the two chunks of 100 and 80.
    assert found.metrics["nonfinite_samples"].value == 2
    assert set(found.metrics) == OVER_ALL
    rest = [estimate for name, estimate in found.metrics.items() if name != "nonfinite_samples"]
    by_category = [estimate for metrics in found.by_category.values() for estimate in metrics.values()]
    assert len(by_category) == len(CATEGORIES) * len(OF_CATEGORIES)
    assert all(math.isnan(estimate.value) and estimate.interval is None for estimate in (*rest, *by_category))
    verdict = judge(found, policy)
    assert {reason.code for reason in verdict.reasons} == {Code.NOT_A_NUMBER}
    assert len(verdict.reasons) == len(verdict.checks)
    assert value(measured("honest"), "nonfinite_samples") == 0


def assert_same(one: Estimates, other: Estimates) -> None:
    """Equal but for rounding: eigenvalues of nothing, of which the Fréchet distance takes roots, differ in each run."""
    assert one.keys() == other.keys()
    for name, found in one.items():
        expected = other[name]
        assert found.value == pytest.approx(expected.value, rel=1e-6, abs=1e-9), name
        assert found.replicates == pytest.approx(expected.replicates, rel=1e-6, abs=1e-9), name
        assert found.floor == pytest.approx(expected.floor, rel=1e-6, abs=1e-9), name


def test_reconstructions_are_measured_where_there_are_any(prepared: Path, measured: Measure) -> None:
    references = load_references(evaluate_settings(), prepared)
    original = references.held_out.gather(references.rows).astype(np.float64)
    error = np.mean((original - np.clip(original - 10, 0, 255)) ** 2)
    measurement = measured("dims").measurement
    metrics = measurement.metrics
    assert set(metrics) == OVER_ALL | RECONSTRUCTION
    assert metrics["reconstruction_psnr"].value == pytest.approx(10 * math.log10(255**2 / error), rel=1e-6)
    assert 0.5 < metrics["reconstruction_ssim"].value < 1
    for found in (metrics, *measurement.by_category.values()):
        assert all(found[name].interval is not None for name in RECONSTRUCTION)
    for category, positions in references.positions.items():
        error = np.mean((original - np.clip(original - 10, 0, 255))[positions.numpy()] ** 2)
        expected = 10 * math.log10(255**2 / error)
        assert measurement.by_category[category]["reconstruction_psnr"].value == pytest.approx(expected, rel=1e-6)
    assert_same({name: metrics[name] for name in OVER_ALL}, measured("honest").measurement.metrics)


def test_broken_reconstructions_leave_the_samples_their_metrics(prepared: Path, measured: Measure) -> None:
    broken = measure_model(BreaksOnReconstruction(), WEIGHTS, evaluate_settings(), prepared).measurement
    honest = measured("honest").measurement
    assert list(broken.by_category) == list(CATEGORIES)
    for metrics in (broken.metrics, *broken.by_category.values()):
        assert all(math.isnan(metrics[name].value) for name in RECONSTRUCTION)
    assert_same({name: broken.metrics[name] for name in OVER_ALL}, honest.metrics)
    for category, metrics in broken.by_category.items():
        assert_same({name: metrics[name] for name in OF_CATEGORIES}, honest.by_category[category])


def test_the_closest_pairs_are_samples_and_the_photos_they_copy(prepared: Path, measured: Measure) -> None:
    photos = {photo.tobytes() for photo in np.concatenate(load_split(prepared, "train").shards)}
    pairs = measured("copies").closest
    assert len(pairs) == 10
    for pair in pairs:
        assert torch.equal(pair.sample, pair.photo)
        assert pair.photo.numpy().tobytes() in photos
        assert pair.label.startswith("0.0")
    for pair in measured("honest").closest:
        assert pair.sample.numpy().tobytes() not in photos
        assert pair.photo.numpy().tobytes() in photos


def test_pairs_of_some_samples_are_of_these(prepared: Path) -> None:
    """Only those looked up, wherever they stand among all."""
    chosen = evaluate_settings(copying={"samples": 50, "quantile": 0.01})
    references = load_references(chosen, prepared)
    drawn = torch.cat(list(Samples(Honest(), references.conditions_NA, (3, SIZE, SIZE), chosen.seed)))
    looked_up = {image.numpy().tobytes() for image in drawn[references.looked_up]}
    found = measure_model(Honest(), WEIGHTS, chosen, prepared)
    assert {pair.sample.numpy().tobytes() for pair in found.closest} <= looked_up
    assert "copies=50@0.01" in found.measurement.protocol.split("; ")
    share = found.measurement.metrics["copies_by_pixels"].value * 50
    assert share == pytest.approx(round(share))


def honest_measured(prepared: Path, **changes: Any) -> Measurement:
    """An honest generator by other settings."""
    return measure_model(Honest(), WEIGHTS, evaluate_settings(**changes), prepared).measurement


def test_batch_size_changes_nothing(prepared: Path, measured: Measure) -> None:
    one, other = measured("honest").measurement, honest_measured(prepared, batch_size=7)
    assert other.protocol == one.protocol
    for name, found in one.metrics.items():
        assert other.metrics[name].value == pytest.approx(found.value, rel=1e-3, abs=1e-3), name


def test_the_same_seed_gives_the_same_with_and_without_the_cache(
    prepared: Path, measured: Measure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[int]
) -> None:
    first = measured("honest").measurement
    seen.clear()
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path))
    assert_same(honest_measured(prepared).metrics, first.metrics)
    assert sum(seen) == SAMPLES + len(load_split(prepared, "train")) + SAMPLES
    seen.clear()
    assert_same(honest_measured(prepared).metrics, first.metrics)
    # Generated images alone pass the network again.
    assert sum(seen) == SAMPLES


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each pass through the feature network."""
    counts: list[int] = []
    compute = features.EffLite0.compute

    def counting(self: features.EffLite0, images_NCHW: Tensor) -> features.Seen:
        counts.append(len(images_NCHW))
        return compute(self, images_NCHW)

    monkeypatch.setattr(features.EffLite0, "compute", counting)
    return counts


def test_the_cache_keeps_apart_what_settings_change(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was measured before, and in whichever order."""
    changes: list[dict[str, Any]] = [{}, {"copying": {"samples": 50, "quantile": 0.01}}, {"neighbours": 2}, {"seed": 8}]
    small = {"split": "val", "resolution": 32}
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "forwards"))
    forwards = [honest_measured(prepared, **small, **change) for change in changes]
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "backwards"))
    backwards = [honest_measured(prepared, **small, **change) for change in reversed(changes)]
    assert forwards == backwards[::-1]
    assert len({found.metrics["fd_efflite0"].value for found in forwards}) == 2
    assert len({found.protocol for found in forwards}) == len(changes)


def test_the_protocol_names_the_conditions(measured: Measure) -> None:
    one = measured("honest").measurement.protocol
    for part in ("features=efflite0", "resolution=64", "split=test", "samples=180x180", "train=400", "copies=180@0.01"):
        assert part in one.split("; ")
    assert "dataset=d1d1d1d1d1d1" in one.split("; ")


def test_without_conditions_nothing_is_told_apart(prepared: Path, tmp_path: Path, policy: GatePolicy) -> None:
    unconditional = without_conditions(Path(shutil.copytree(prepared, tmp_path / "unconditional")))
    found = measure_model(Unconditional(), WEIGHTS, evaluate_settings(), unconditional).measurement
    assert found.by_category == {}
    assert set(found.metrics) == OVER_ALL - {"condition_fidelity"} | RECONSTRUCTION
    assert all(estimate.interval is not None for estimate in found.metrics.values())
    assert found.metrics["precision_efflite0"].value > 0.7
    # The policy asks for categories, so that it must be made for such a dataset: in doubt it fails.
    assert {reason.code for reason in judge(found, policy).reasons} == {Code.NO_CATEGORIES}
    assert judge(found, policy.model_copy(update={"by_category": []})).passed


def test_two_conditions_are_judged_together_and_each(prepared: Path, tmp_path: Path) -> None:
    """The second is told by nothing in the pictures, and guessed right half of the time at best."""
    manifest = pd.read_parquet(prepared / "manifest.parquet")
    manifest["color"] = [("blue", "red")[row % 2] for row in manifest["row"]]
    attributes = {"color": ["blue", "red"], "category": list(CATEGORIES)}
    folder = other_version(prepared, tmp_path / "two", manifest, {"attributes": attributes})
    metrics = measure_model(SecondColumn(), WEIGHTS, evaluate_settings(), folder).measurement.metrics
    assert metrics["condition_fidelity_category"].value > 0.95
    assert metrics["condition_fidelity_color"].value < 0.7
    assert metrics["condition_fidelity"].value <= metrics["condition_fidelity_color"].value


def other_version(prepared: Path, folder: Path, manifest: pd.DataFrame, card: dict[str, Any]) -> Path:
    """The same pictures, otherwise described."""
    shutil.copytree(prepared, folder)
    manifest.to_parquet(folder / "manifest.parquet")
    before = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**before, "digest": "d2" * 32, **card}))
    return folder


class SecondColumn(Honest):
    def codes(self, conditions_NA: Tensor) -> list[int]:
        return super().codes(conditions_NA[:, 1:])


def test_a_category_of_one_photo_is_unknown_and_fails_by_its_name(
    prepared: Path, tmp_path: Path, policy: GatePolicy
) -> None:
    """Nothing can be told of its variety, and in doubt nothing passes."""
    manifest = pd.read_parquet(prepared / "manifest.parquet")
    rare = (manifest["split"] == "test") & (manifest["category"] == "trouser")
    manifest = manifest[~rare | (rare.cumsum() == 1)].reset_index(drop=True)
    folder = other_version(prepared, tmp_path / "rare", manifest, {})
    test = manifest["split"] == "test"
    np.save(folder / "test-0.npy", np.load(prepared / "test-0.npy")[manifest.loc[test, "row"]])
    manifest.loc[test, "row"] = range(test.sum())
    manifest.to_parquet(folder / "manifest.parquet")
    found = measure_model(Honest(), WEIGHTS, evaluate_settings(samples=1000), folder).measurement
    assert set(found.by_category["trouser"]) == OF_CATEGORIES
    assert all(estimate.interval is None for estimate in found.by_category["trouser"].values())
    assert {(reason.metric, reason.category) for reason in judge(found, policy).reasons} == {
        ("condition_fidelity", "trouser"),
        ("diversity_ratio", "trouser"),
        (COVERAGE, "trouser"),
    }


def test_too_few_training_photos_for_floors_leave_the_metrics_as_they_are(prepared: Path, measured: Measure) -> None:
    found, whole = honest_measured(prepared, train_photos=150).metrics, measured("honest").measurement.metrics
    for name in ("fd_efflite0", "kd_efflite0", "precision_efflite0", "is_efflite0"):
        assert found[name].floor is None
        assert (found[name].value, found[name].replicates) == (whole[name].value, whole[name].replicates)
    assert all(estimate.interval is not None for estimate in found.values())
    assert found["condition_fidelity"].value > 0.95
    assert found["condition_fidelity"].floor is not None


def test_images_of_another_shape_are_refused(prepared: Path) -> None:
    with pytest.raises(InputError, match=r"makes images of shape \(3, 16, 16\), the dataset's have \(3, 32, 32\)"):
        measure_model(Small(), WEIGHTS, evaluate_settings(), prepared)


def test_too_few_photos_are_refused_before_the_network_is_loaded(
    prepared: Path, measured: Measure, seen: list[int]
) -> None:
    assert measured("honest")
    seen.clear()
    with pytest.raises(InputError, match=r"needs 22 photos or more in the split 'test'.*, it gives 20"):
        honest_measured(prepared, samples=20)
    assert seen == []


def test_samples_are_a_function_of_the_seed(prepared: Path) -> None:
    conditions = load_split(prepared, "test").conditions_NA
    one, same, other = (list(Samples(Honest(), conditions, (3, SIZE, SIZE), seed)) for seed in (1, 1, 2))
    assert [len(chunk) for chunk in one] == [100, 100]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
