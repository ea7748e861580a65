"""Margins against direct counts, and what they say of generators that lack a category."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.measurement import GROUPS, T_95, Estimates, share_error
from components.metrics.groups import deal_groups
from components.metrics.margin import category_margins

NAMES = ("dress", "shirt", "t-shirt")
COUNT = 400
WANTED_N = torch.arange(3).repeat_interleave(COUNT)
POSITIONS = {name: torch.nonzero(torch.eq(WANTED_N, code))[:, 0] for code, name in enumerate(NAMES)}
GROUPS_N = deal_groups(WANTED_N, 0)

WEAK = np.array([[0.5, 0.1, 0.4], [0.1, 0.3, 0.6], [0.02, 0.08, 0.9]])
"""Shares in which a judge takes an honest generator's images (rows) for each category: a T-shirt when in doubt."""


def drawn(shares: np.ndarray, seed: int = 0) -> Tensor:
    """What a judge takes COUNT images of each category for."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.concatenate([rng.choice(3, COUNT, p=row) for row in shares])).double()


def margins(taken_N: Tensor, positions: dict[str, Tensor] = POSITIONS) -> Estimates:
    return category_margins(taken_N, WANTED_N, GROUPS_N, positions, judged=True)


def low(found: Estimates, category: str) -> float:
    interval = found[category].interval
    assert interval is not None
    return interval[0]


def test_margins_are_shares_less_the_largest_of_the_others() -> None:
    taken = drawn(WEAK)
    found = margins(taken)
    for left_out in range(-1, GROUPS):
        kept = left_out != GROUPS_N
        shares = [
            [float((taken[torch.eq(WANTED_N, code) & kept] == of).double().mean()) for of in range(3)]
            for code in range(3)
        ]
        for code, name in enumerate(NAMES):
            expected = shares[code][code] - max(shares[other][code] for other in range(3) if other != code)
            estimate = found[name]
            assert (estimate.value if left_out < 0 else estimate.replicates[left_out]) == pytest.approx(expected)


def test_an_honest_generator_keeps_a_margin_where_the_judge_is_weak() -> None:
    found = margins(drawn(WEAK))
    assert list(found) == list(NAMES)
    assert min(low(found, name) for name in NAMES) > 0.05
    assert found["t-shirt"].value == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("lacking", range(3))
def test_a_lacking_category_has_none_whatever_comes_in_its_place(lacking: int) -> None:
    for instead in {0, 1, 2} - {lacking}:
        shares = WEAK.copy()
        shares[lacking] = WEAK[instead]
        passed = [low(margins(drawn(shares, seed)), NAMES[lacking]) >= 0.02 for seed in range(20)]
        assert not any(passed)
    # Of T-shirts six in ten would be taken for some with shirts in their place: twice the share of real shirts.
    assert WEAK[1, 2] > 2 * WEAK[1, 1] - 1e-9


def test_a_generator_that_ignores_its_condition_has_none_anywhere() -> None:
    found = margins(drawn(np.tile(WEAK.mean(axis=0), (3, 1))))
    assert all(low(found, name) < 0 for name in NAMES)


def test_certainty_of_few_images_is_not_certain() -> None:
    positions = {name: rows[:15] for name, rows in POSITIONS.items()}
    estimate = margins(WANTED_N.double(), positions)["dress"]
    assert estimate.value == 1.0
    expected = math.hypot(share_error(1.0, 15), share_error(0.0, 15))
    assert estimate.interval == pytest.approx((1 - T_95 * expected, 1 + T_95 * expected))


def test_images_that_cannot_be_judged_make_their_category_unknown() -> None:
    taken = WANTED_N.double()
    taken[POSITIONS["shirt"][3]] = math.nan
    found = margins(taken)
    assert math.isnan(found["shirt"].value)
    assert found["dress"].value == found["t-shirt"].value == 1.0


def test_a_category_of_one_image_has_no_interval_and_leaves_the_others_theirs() -> None:
    found = margins(drawn(WEAK), {**POSITIONS, "shirt": POSITIONS["shirt"][:1]})
    assert found["shirt"].interval is None
    assert found["dress"].interval is not None


def test_of_one_category_the_margin_is_the_share() -> None:
    found = margins(drawn(WEAK), {"dress": POSITIONS["dress"]})
    assert found["dress"].value == pytest.approx(0.5, abs=0.1)
    assert found["dress"].interval is not None
