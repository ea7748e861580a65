"""Equal models are seldom told apart, and a worse one seldom passes for one as good: 200 comparisons with fresh seeds.

The same on features of real photos and of a trained model: tests/benchmarks/bench_honesty.py.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from components.copying.three_sample import copying_estimate, fit_cells, nearest_cells
from components.measurement import Estimates
from components.metrics.fidelity import fit_judges, measure_fidelity
from components.metrics.groups import deal_groups
from components.metrics.sharpness import sharpness_ratio
from components.settings import load_settings
from tests.honesty import DIRECTIONS, Found, Rates, Trial, measure_features, rates_of
from tests.project import SOURCE
from tests.random_features import normal

TRIALS, IMAGES, LENGTH, TRAIN = 200, 300, 12, 1500
SETTINGS = load_settings(SOURCE / "params.yaml").evaluate
NOTICED = ("fd_efflite0", "fd_inf_efflite0", "kd_efflite0", "condition_fidelity", "sharpness_ratio")
CODES_NA = (np.arange(TRAIN) % 2)[:, None]
"""Two categories in turn, of training photos, real and generated images."""


def images(seed: int) -> tuple[Tensor, ...]:
    """Four kinds of as many images, whose first feature tells the category."""
    drawn = normal(seed, 4, IMAGES, LENGTH)
    drawn[:, :, 0] += 1.5 * torch.from_numpy(CODES_NA[:IMAGES, 0])
    return tuple(drawn.relu())


TRAIN_ND = torch.cat([kind for seed in (1001, 1002) for kind in images(seed)])[:TRAIN]
JUDGES = fit_judges(TRAIN_ND, CODES_NA, ("category",))
CENTRES_KD = fit_cells(TRAIN_ND, IMAGES, 0)


def trials() -> Iterator[Trial]:
    """The champion's features are a little off the real ones.

    Half of the worse model's are further off; some are those of training photos, some of the other
    category, and some come twice.
    """
    for seed in range(TRIALS):
        real, champion, equal, worse = images(seed)
        part = torch.rand(IMAGES, generator=torch.Generator().manual_seed(seed))
        worse[part < 0.5] += 0.4
        worse = worse * 1.1
        taken = torch.nonzero((part > 0.5) & (part < 0.85))[:, 0]
        worse[taken] = TRAIN_ND[taken * 4]
        twice = torch.nonzero(part > 0.85)[:, 0]
        worse[twice] = worse[twice.roll(1) // 2 * 2]
        yield Trial(real, champion * 1.1, equal * 1.1, worse)


def found(seed: int, trial: Trial) -> Found:
    """Metrics of features, and those that need training photos, conditions or images besides."""
    conditions_NA = CODES_NA[:IMAGES]
    groups_N = deal_groups(torch.from_numpy(conditions_NA[:, 0]), seed)
    of_features = measure_features(trial, groups_N, SETTINGS)
    held_N, held_cells_N = _to_train(trial.real_ND), nearest_cells(trial.real_ND, CENTRES_KD)

    def others(fake_ND: Tensor) -> Estimates:
        cells_N = nearest_cells(fake_ND, CENTRES_KD)
        judged = measure_fidelity(JUDGES, trial.real_ND, fake_ND, conditions_NA, ("category",), groups_N, {})[0]
        return {
            **judged,
            "copying_ct": copying_estimate(held_N, held_cells_N, _to_train(fake_ND), cells_N, groups_N),
            "sharpness_ratio": sharpness_ratio(_sharpness(trial.real_ND), _sharpness(fake_ND), groups_N),
        }

    measured = (of_features.champion, of_features.equal, of_features.worse)
    pairs = zip(measured, trial.models, strict=True)
    return Found(*({**metrics, **others(fake_ND)} for metrics, fake_ND in pairs))


def _to_train(features_ND: Tensor) -> Tensor:
    return torch.cdist(features_ND, TRAIN_ND).amin(dim=1)


def _sharpness(features_ND: Tensor) -> Tensor:
    """Some positive number per image, less of it the further its features are off."""
    return (-features_ND.mean(dim=1)).exp()


@pytest.fixture(scope="module")
def rates() -> dict[str, Rates]:
    return rates_of(found(seed, trial) for seed, trial in enumerate(trials()))


@pytest.mark.parametrize("metric", DIRECTIONS)
def test_an_equal_model_is_seldom_promoted(rates: dict[str, Rates], metric: str) -> None:
    assert rates[metric].promoted <= 0.05


@pytest.mark.parametrize("metric", DIRECTIONS)
def test_a_model_worse_by_the_margin_seldom_passes(rates: dict[str, Rates], metric: str) -> None:
    passed = rates[metric].passed
    assert passed is not None
    assert passed <= 0.05


@pytest.mark.parametrize("metric", DIRECTIONS)
def test_standard_errors_are_right_or_too_large(rates: dict[str, Rates], metric: str) -> None:
    """Too large where an image counts or not by its neighbours: without some of them, many others change.

    Of duplicates, which are next to none in a good model, the least error is larger still.
    """
    most = 1.5 if metric in NOTICED else 3.0 if metric == "duplicates" else 2.2
    measured = rates[metric]
    assert 0.9 < measured.error / measured.spread < most
    assert 0.9 < measured.worse_error / measured.worse_spread < most


@pytest.mark.parametrize("metric", NOTICED)
def test_the_worse_model_is_noticed(rates: dict[str, Rates], metric: str) -> None:
    """Intervals that were always wide would pass the rest."""
    assert rates[metric].noticed > 0.8
