import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from components.measurement import GROUPS, share_error
from components.metrics.fidelity import ITERATIONS, REGULARISATION, Asked, fit_judges, measure_fidelity
from components.metrics.groups import deal_groups

ATTRIBUTES = ("category", "color")
POSITIONS = {"bag": torch.arange(0, 100, 2), "dress": torch.arange(1, 100, 2)}
CONDITIONS_NA = np.stack([np.arange(100) % 2, np.arange(100) // 2 % 3], axis=1)
GROUPS_N = deal_groups(torch.from_numpy(CONDITIONS_NA[:, 0]), 0)


def features_of(conditions_NA: np.ndarray, seed: int, noise: float = 0.3) -> Tensor:
    """Category and colour stand in directions of their own, at scales that differ."""
    places = np.concatenate([np.eye(2)[conditions_NA[:, 0]], 100 * np.eye(3)[conditions_NA[:, 1]]], axis=1)
    noises = np.random.default_rng(seed).normal(size=(len(places), 5)) * noise * [1, 1, 100, 100, 100]
    return torch.from_numpy(places + noises).float()


def train_conditions(count: int = 600) -> np.ndarray:
    return np.stack([np.arange(count) % 2, np.arange(count) // 2 % 3], axis=1)


JUDGES = fit_judges(features_of(train_conditions(), 0), train_conditions(), ATTRIBUTES)


def fidelity(fake_ND: Tensor, judges: dict[str, Tensor] = JUDGES, attributes: tuple[str, ...] = ATTRIBUTES):  # type: ignore[no-untyped-def]
    return measure_fidelity(judges, attributes, asked(features_of(CONDITIONS_NA, 1)), asked(fake_ND))


def asked(features_ND: Tensor, positions: Mapping[str, Tensor] = POSITIONS) -> Asked:
    return Asked(features_ND, CONDITIONS_NA, GROUPS_N, positions)


def test_judges_are_logistic_regressions_on_standardised_features() -> None:
    features = features_of(train_conditions(), 0, noise=0.8)
    judges = fit_judges(features, train_conditions(), ATTRIBUTES)
    others = features_of(CONDITIONS_NA, 5, noise=0.8)
    for column, name in enumerate(ATTRIBUTES):
        plain = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=ITERATIONS))
        plain.fit(features.numpy(), train_conditions()[:, column])
        weights = judges[f"weights/{name}"]
        found = (others @ weights[:-1] + weights[-1]).softmax(dim=1)
        assert_allclose(found.numpy(), plain.predict_proba(others.numpy()), atol=1e-4)


def test_good_samples_reach_the_floor() -> None:
    overall, by_category = fidelity(features_of(CONDITIONS_NA, 2))
    assert set(overall) == {"condition_fidelity", "condition_fidelity_category", "condition_fidelity_color"}
    for found in (overall, *by_category.values()):
        estimate = found["condition_fidelity"]
        assert estimate.floor is not None
        assert estimate.value > 0.8
        assert abs(estimate.value - estimate.floor) < 0.2
        assert estimate.interval is not None


def test_a_generator_that_lacks_a_category_is_named() -> None:
    only_bags = CONDITIONS_NA.copy()
    only_bags[:, 0] = 0
    overall, by_category = fidelity(features_of(only_bags, 2))
    assert by_category["dress"]["condition_fidelity_category"].value < 0.1
    assert by_category["dress"]["condition_fidelity_color"].value > 0.8
    assert by_category["bag"]["condition_fidelity"].value > 0.8
    assert 0.35 < overall["condition_fidelity"].value < 0.6


def test_replicates_leave_a_group_out() -> None:
    fake = features_of(np.where(np.arange(100)[:, None] < 30, 0, CONDITIONS_NA), 2, noise=0.01)
    overall, _ = fidelity(fake)
    right = torch.from_numpy((np.where(np.arange(100)[:, None] < 30, 0, CONDITIONS_NA) == CONDITIONS_NA).all(axis=1))
    for group in range(20):
        expected = right[group != GROUPS_N].double().mean()
        assert math.isclose(overall["condition_fidelity"].replicates[group], float(expected), abs_tol=1e-9)


def test_without_attributes_there_is_nothing() -> None:
    judges = fit_judges(torch.randn(10, 5), np.empty((10, 0), np.int64), ())
    assert judges == {}
    images = Asked(torch.randn(4, 5), np.empty((4, 0), np.int64), torch.arange(4), {})
    found = measure_fidelity(judges, (), images, images)
    assert found == ({}, {})


def test_one_judged_attribute_has_one_metric() -> None:
    conditions = train_conditions()
    conditions[:, 1] = 0  # nothing to choose from
    judges = fit_judges(features_of(train_conditions(), 0), conditions, ATTRIBUTES)
    overall, _ = fidelity(features_of(CONDITIONS_NA, 2), judges)
    assert set(overall) == {"condition_fidelity"}


def test_all_right_of_few_images_is_no_certainty() -> None:
    positions = {"bag": torch.arange(0, 28, 2)}
    real, fake = features_of(CONDITIONS_NA, 1), features_of(CONDITIONS_NA, 2, noise=0.01)
    overall, by_category = measure_fidelity(JUDGES, ATTRIBUTES, asked(real, positions), asked(fake, positions))
    few, all_of_them = by_category["bag"]["condition_fidelity"], overall["condition_fidelity"]
    assert few.value == all_of_them.value == 1.0
    assert few.interval is not None
    assert all_of_them.interval is not None
    # Wilson's of 14 and of 100.
    assert few.interval[0] == pytest.approx(1 - 0.2153, abs=1e-4)
    assert all_of_them.interval[0] == pytest.approx(1 - 0.0370, abs=1e-4)


def test_where_nothing_can_be_wrong_all_images_are_right() -> None:
    """A shop with one category: the policy's check by category must not fail for want of a choice."""
    conditions = np.zeros((60, 1), np.int64)
    judges = fit_judges(torch.randn(30, 5), conditions[:30], ("category",))
    positions = {"bag": torch.arange(60)}
    real, fake = (Asked(torch.randn(60, 5), conditions, torch.arange(60) % 20, positions) for _ in range(2))
    overall, by_category = measure_fidelity(judges, ("category",), real, fake)
    assert overall["condition_fidelity"].interval == (1.0, 1.0)
    assert by_category["bag"]["condition_fidelity"].floor == 1.0
    assert by_category["bag"]["condition_margin"].interval == (1.0, 1.0)


def test_a_value_without_photos_and_one_with_a_single_photo() -> None:
    conditions = train_conditions()
    kept = np.flatnonzero((conditions[:, 1] != 2) & (conditions[:, 1] != 1) | (np.arange(600) == 2))
    judges = fit_judges(features_of(conditions, 0)[kept], conditions[kept], ATTRIBUTES)
    assert judges["codes/color"].tolist() == [0, 1]
    overall, _ = fidelity(features_of(CONDITIONS_NA, 2), judges)
    assert 0 < overall["condition_fidelity"].value < 0.5


def test_the_floor_is_that_of_real_photos_of_the_same_category() -> None:
    only_bags = CONDITIONS_NA.copy()
    only_bags[:, 0] = 0
    real_ND, fake_ND = features_of(only_bags, 1, noise=0.01), features_of(CONDITIONS_NA, 2, noise=0.01)
    overall, by_category = measure_fidelity(JUDGES, ATTRIBUTES, asked(real_ND), asked(fake_ND))
    found = [each["condition_fidelity"] for each in (overall, by_category["bag"], by_category["dress"])]
    assert [estimate.value for estimate in found] == [1.0, 1.0, 1.0]
    assert [estimate.floor for estimate in found] == [0.5, 1.0, 0.0]


def test_a_value_between_two_others_that_has_no_photo() -> None:
    conditions = train_conditions()
    kept = conditions[:, 1] != 1
    judges = fit_judges(features_of(conditions, 0)[kept], conditions[kept], ATTRIBUTES)
    overall, _ = fidelity(features_of(CONDITIONS_NA, 2, noise=0.01), judges)
    assert overall["condition_fidelity_color"].value == np.mean(CONDITIONS_NA[:, 1] != 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_no_numbers_give_no_number(bad: float) -> None:
    fake = features_of(CONDITIONS_NA, 2)
    fake[0, 0] = bad
    overall, by_category = fidelity(fake)
    assert all(math.isnan(estimate.value) for estimate in overall.values())
    assert overall["condition_fidelity"].interval is None
    assert math.isnan(by_category["bag"]["condition_margin"].value)
    assert by_category["dress"]["condition_fidelity"].value > 0.8


def test_further_images_count_by_category_alone() -> None:
    """Bags are drawn well; the further ones are dresses."""
    fake, further = features_of(CONDITIONS_NA, 2), features_of(np.ones((30, 2), np.int64), 3, noise=0.01)
    conditions = np.concatenate([CONDITIONS_NA, np.tile([0, 1], (30, 1))])
    groups = torch.cat([GROUPS_N, torch.arange(30) % GROUPS])
    more = Asked(
        torch.cat([fake, further]),
        conditions,
        groups,
        {"bag": torch.cat([POSITIONS["bag"], torch.arange(100, 130)]), "dress": POSITIONS["dress"]},
    )
    plain, with_more = fidelity(fake), measure_fidelity(JUDGES, ATTRIBUTES, asked(features_of(CONDITIONS_NA, 1)), more)
    assert with_more[0] == plain[0]
    for metric in ("condition_fidelity", "condition_fidelity_color"):
        assert with_more[1]["dress"][metric] == plain[1]["dress"][metric]
    of_bags = (plain[1]["bag"]["condition_fidelity"], with_more[1]["bag"]["condition_fidelity"])
    assert of_bags[1].value == pytest.approx(of_bags[0].value * 50 / 80)
    assert of_bags[1].floor == of_bags[0].floor
    assert of_bags[1].least_error == share_error(of_bags[1].value, 80)


def test_a_category_without_a_held_out_photo_has_no_floor() -> None:
    real = asked(features_of(CONDITIONS_NA, 1), {"bag": POSITIONS["bag"]})
    _, by_category = measure_fidelity(JUDGES, ATTRIBUTES, real, asked(features_of(CONDITIONS_NA, 2)))
    assert list(by_category) == ["bag", "dress"]
    assert all(estimate.floor is None for estimate in by_category["dress"].values())
    assert by_category["dress"]["condition_fidelity"].value > 0.8
    assert by_category["bag"]["condition_fidelity"].floor is not None


def test_margins_are_by_the_judge_of_categories() -> None:
    """Colours that are never right take nothing from it."""
    other_colour = CONDITIONS_NA.copy()
    other_colour[:, 1] = (other_colour[:, 1] + 1) % 3
    _, by_category = fidelity(features_of(other_colour, 2, noise=0.01))
    for found in by_category.values():
        assert found["condition_fidelity"].value == 0.0
        assert found["condition_margin"].value == 1.0
        assert found["condition_margin"].floor is not None
        assert 0.7 < found["condition_margin"].floor <= 1.0
