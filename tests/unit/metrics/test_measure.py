"""Which metrics there are, under which names, and what a broken generator gets."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from components.features import Features
from components.measurement import Estimate, Estimates, share_error
from components.metrics.frechet import frechet_distance
from components.metrics.groups import deal_groups
from components.metrics.measure import RealSide, measure
from components.settings import EvaluateSettings, load_settings
from tests.project import SOURCE
from tests.random_features import normal

CATEGORIES = torch.repeat_interleave(torch.arange(3), torch.tensor([60, 57, 3]))
POSITIONS = {name: CATEGORIES.eq(code).nonzero()[:, 0] for code, name in enumerate(("bag", "boot", "rare"))}
GROUPS_N = deal_groups(CATEGORIES, seed=2)
REAL = Features(normal(1, 120, 8), normal(2, 120, 5))


def settings(extractor: str = "efflite0") -> EvaluateSettings:
    chosen = load_settings(SOURCE / "params.yaml").evaluate
    return chosen.model_copy(update={"extractor": extractor})


def features(seed: int = 3) -> Features:
    return Features(normal(seed, 120, 8) * 1.2 + 0.1, normal(seed + 1, 120, 5))


def measured(fake: Features) -> tuple[Estimates, dict[str, Estimates]]:
    return measure(REAL, fake, GROUPS_N, POSITIONS, settings())


def unknown(found: Estimates) -> set[str]:
    return {name for name, estimate in found.items() if math.isnan(estimate.value) and estimate.replicates == ()}


def complete(found: Estimates) -> set[str]:
    return {name for name, estimate in found.items() if estimate.interval is not None}


@pytest.mark.parametrize(
    ("extractor", "expected"),
    [
        ("efflite0", "fd_X fd_inf_X kd_X is_X precision_X recall_X density_X coverage_X"),
        ("dinov2", "fd_X fd_inf_X kd_X is_X precision_X recall_X density_X coverage_X"),
        ("inception", "fid fid_inf kid inception_score precision_X recall_X density_X coverage_X"),
    ],
)
def test_names_say_which_features(extractor: str, expected: str) -> None:
    found, _ = measure(REAL, features(), GROUPS_N, {}, settings(extractor))
    assert list(found) == expected.replace("X", extractor).split()
    assert complete(found) == set(found)


def test_a_category_has_the_metrics_that_need_few_images() -> None:
    fake = features()
    found, by_category = measured(fake)
    names = {f"{kind}_efflite0" for kind in ("kd", "precision", "recall", "density", "coverage")}
    assert set(by_category) == set(POSITIONS)
    assert all(set(estimates) == names for estimates in by_category.values())
    assert complete(by_category["boot"]) == names
    rows = POSITIONS["boot"]
    alone, _ = measure(
        Features(REAL.features_ND[rows], REAL.logits_NK[rows]),
        Features(fake.features_ND[rows], fake.logits_NK[rows]),
        GROUPS_N[rows],
        {},
        settings(),
    )
    for name in names:
        one, other = alone[name], by_category["boot"][name]
        assert_close((one.value, *one.replicates), (other.value, *other.replicates), rtol=1e-5, atol=1e-6)
    assert alone["kd_efflite0"] != found["kd_efflite0"]


def test_a_category_that_is_too_small_has_no_numbers() -> None:
    _, by_category = measured(features())
    assert unknown(by_category["rare"]) == set(by_category["rare"])


def test_a_second_model_gets_what_it_gets_alone() -> None:
    real = RealSide(REAL.features_ND, GROUPS_N, POSITIONS, settings())
    real.measure(features(9))
    found, by_category = real.measure(features(3))
    assert complete(found) == set(found)
    assert found == measured(features(3))[0]
    assert by_category["bag"] == measured(features(3))[1]["bag"]
    distance = frechet_distance(REAL.features_ND, features(3).features_ND)
    assert_close(found["fd_efflite0"].value, distance, rtol=1e-9, atol=0)


def test_what_is_known_of_real_photos_can_be_kept() -> None:
    kept = RealSide(REAL.features_ND, GROUPS_N, POSITIONS, settings()).known()
    again = RealSide(REAL.features_ND, GROUPS_N, POSITIONS, settings(), known=kept)
    assert again.known() == kept
    found, by_category = again.measure(features(3))
    assert (found, by_category["boot"]) == (measured(features(3))[0], measured(features(3))[1]["boot"])
    # It is used, and not computed anew.
    other = {name: torch.zeros_like(tensor) if name.startswith("radii/") else tensor for name, tensor in kept.items()}
    nowhere, _ = RealSide(REAL.features_ND, GROUPS_N, POSITIONS, settings(), known=other).measure(features(3))
    assert nowhere["precision_efflite0"].value == 0.0


def test_neighbours_are_those_of_the_settings() -> None:
    """Precision and density by the formulas of Kynkäänniemi et al., 2019, and Naeem et al., 2020."""
    fake, k = features(), settings().neighbours
    found, _ = measured(fake)
    radii_N = torch.cdist(REAL.features_ND, REAL.features_ND).sort(dim=1).values[:, k]
    inside_NM = torch.cdist(REAL.features_ND, fake.features_ND) <= radii_N[:, None]
    assert found["precision_efflite0"].value == pytest.approx(float(inside_NM.any(dim=0).float().mean()))
    assert found["density_efflite0"].value == pytest.approx(float(inside_NM.float().sum(dim=0).mean() / k))
    assert found["coverage_efflite0"].value == pytest.approx(float(inside_NM.any(dim=1).float().mean()))


@pytest.mark.parametrize("category", [None, "boot"])
def test_shares_of_nothing_or_all_are_not_sure(category: str | None) -> None:
    """Far from all real images: the jackknife of 0 is 0; so is that of 1, of the real images themselves."""
    count = len(GROUPS_N) if category is None else len(POSITIONS[category])
    k = settings().neighbours
    wilson = share_error(0.0, count)
    for fake_ND, value in ((features().features_ND + 1000, 0.0), (REAL.features_ND, 1.0)):
        over_all, by_category = measured(Features(fake_ND, features().logits_NK))
        found = {
            name.removesuffix("_efflite0"): estimate
            for name, estimate in (over_all if category is None else by_category[category]).items()
        }
        for kind in ("precision", "recall", "coverage"):
            assert (found[kind].value, set(found[kind].replicates)) == (value, {value})
            assert found[kind].least_error >= wilson - 1e-12
        assert found["precision"].least_error == pytest.approx(wilson) == found["recall"].least_error
        if value == 0:
            # As much as if one image in Wilson's end lay where real ones do: in k balls, which is a density of 1.
            assert found["density"].least_error == pytest.approx(wilson)
            assert found["coverage"].least_error == pytest.approx(k * wilson)
        assert found["kd"].least_error == 0


def test_intervals_cover_where_a_few_images_decide() -> None:
    """Of images 5% lie among the real ones and in several of their balls, and the others are nowhere near any."""
    kinds, trials, count, length = ("precision", "density", "coverage"), 80, 40, 12
    found: dict[str, list[Estimate]] = {kind: [] for kind in kinds}
    chosen = settings()
    for seed in range(trials):
        real_ND, fake_ND = normal(seed, 2, count, length)
        fake_ND[torch.rand(count, generator=torch.Generator().manual_seed(seed)) > 0.05] += 1000
        groups_N = deal_groups(torch.zeros(count, dtype=torch.int64), seed)
        blank = torch.empty(count, 0)
        estimates, _ = measure(Features(real_ND, blank), Features(fake_ND, blank), groups_N, {}, chosen)
        for kind in kinds:
            found[kind].append(estimates[f"{kind}_efflite0"])
    for kind in kinds:
        truth = sum(estimate.value for estimate in found[kind]) / trials
        ends = [estimate.interval for estimate in found[kind]]
        assert sum(end is not None and end[0] <= truth <= end[1] for end in ends) >= 0.93 * trials, kind


def test_features_far_from_zero_lose_nothing() -> None:
    """Squared lengths there are 10^8 times what the distances are."""
    fake, far = features(), 10_000.0
    moved = Features(fake.features_ND + far, fake.logits_NK)
    real = Features(REAL.features_ND + far, REAL.logits_NK)
    found, _ = measure(real, moved, GROUPS_N, {}, settings())
    for name, expected in measured(fake)[0].items():
        if name.startswith(("precision", "recall", "density", "coverage", "fd_efflite0")):
            assert found[name].value == pytest.approx(expected.value, abs=0.01, rel=0.01)


def with_one(bad: float) -> Tensor:
    broken = features().features_ND.clone()
    broken[0, 3] = bad  # of a bag
    return broken


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_a_broken_generator_gets_no_numbers(bad: float) -> None:
    found, by_category = measured(Features(with_one(bad), features().logits_NK))
    assert unknown(found) == set(found) - {"is_efflite0"}
    assert unknown(by_category["bag"]) == set(by_category["bag"])
    # The boots are as they were.
    assert by_category["boot"] == measured(features())[1]["boot"]


def test_a_broken_real_photo_spoils_its_category_alone() -> None:
    real = Features(with_one(math.nan), REAL.logits_NK)
    found, by_category = measure(real, features(9), GROUPS_N, POSITIONS, settings())
    assert unknown(found) == set(found) - {"is_efflite0"}
    assert unknown(by_category["bag"]) == set(by_category["bag"])
    assert complete(by_category["boot"]) == set(by_category["boot"])


def test_broken_logits_have_no_score() -> None:
    logits = features().logits_NK.clone()
    logits[5] = math.nan
    found, _ = measured(Features(features().features_ND, logits))
    assert unknown(found) == {"is_efflite0"}


def test_a_generator_with_one_image_can_be_measured() -> None:
    fake = Features(REAL.features_ND[:1].expand(120, 8), REAL.logits_NK[:1].expand(120, 5))
    found, _ = measured(fake)
    assert complete(found) == set(found)
    assert found["is_efflite0"].value == pytest.approx(1)
    assert found["recall_efflite0"].value < 0.05


def test_too_few_images_have_no_numbers() -> None:
    few = Features(REAL.features_ND[:4], REAL.logits_NK[:4])
    found, _ = measure(few, few, torch.arange(4), {}, settings())
    assert unknown(found) >= {"fd_efflite0", "kd_efflite0", "coverage_efflite0"}


def test_there_is_a_generated_image_for_each_real_one() -> None:
    fake = Features(features().features_ND[:100], features().logits_NK[:100])
    with pytest.raises(ValueError, match="found 120 real and 100 generated images"):
        measured(fake)


def test_an_extractor_without_classes_has_no_score() -> None:
    found, _ = measured(Features(features().features_ND, torch.empty(120, 0)))
    assert set(measured(features())[0]) - set(found) == {"is_efflite0"}
