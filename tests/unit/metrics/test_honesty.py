"""Equal models are seldom told apart, and a worse one seldom passes for one as good: 200 comparisons with fresh seeds.

The same on features of real photos and of a trained model: tests/benchmarks/bench_honesty.py.
"""

from collections.abc import Iterator

import pytest
import torch

from components.settings import load_settings
from tests.honesty import DIRECTIONS, Rates, Trial, of_trials
from tests.project import SOURCE
from tests.random_features import normal

TRIALS, IMAGES, LENGTH = 200, 300, 12


def trials() -> Iterator[Trial]:
    """The champion's features are a little off the real ones; half of the worse model's are further off."""
    for seed in range(TRIALS):
        real, champion, equal, worse = normal(seed, 4, IMAGES, LENGTH).relu()
        off = torch.rand(IMAGES, generator=torch.Generator().manual_seed(seed)) < 0.5
        worse[off] += 0.4
        yield Trial(real, champion * 1.1, equal * 1.1, worse * 1.1)


@pytest.fixture(scope="module")
def rates() -> dict[str, Rates]:
    return of_trials(trials(), load_settings(SOURCE / "params.yaml").evaluate, lambda _: None)


@pytest.mark.parametrize("metric", DIRECTIONS)
def test_an_equal_model_is_seldom_promoted(rates: dict[str, Rates], metric: str) -> None:
    assert rates[metric].promoted <= 0.05


@pytest.mark.parametrize("metric", DIRECTIONS)
def test_a_model_worse_by_the_margin_seldom_passes(rates: dict[str, Rates], metric: str) -> None:
    assert rates[metric].margin > 0
    assert rates[metric].passed <= 0.05


@pytest.mark.parametrize("metric", DIRECTIONS)
def test_standard_errors_are_right_or_too_large(rates: dict[str, Rates], metric: str) -> None:
    """Too large where an image counts or not by its neighbours: without some of them, many others change."""
    found, most = rates[metric], 1.5 if metric in ("fd", "fd_inf", "kd") else 2.2
    assert 0.9 < found.error / found.spread < most
    assert 0.9 < found.worse_error / found.worse_spread < most


@pytest.mark.parametrize("metric", ["fd", "fd_inf", "kd"])
def test_the_worse_model_is_noticed(rates: dict[str, Rates], metric: str) -> None:
    """Intervals that were always wide would pass the rest."""
    assert rates[metric].noticed > 0.8
