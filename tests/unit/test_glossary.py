"""Metrics in words."""

import math
from pathlib import Path

import pytest

from components.glossary import GROUPS, shown, told
from components.settings import load_settings

ROOT = Path(__file__).parents[2]

NAMES = {
    "fd_efflite0": "Fréchet distance",
    "fid": "Fréchet distance",
    "fd_inf_dinov2": "Fréchet distance, infinite samples",
    "fid_inf": "Fréchet distance, infinite samples",
    "kid": "Kernel distance",
    "is_efflite0": "Inception-like score",
    "inception_score": "Inception-like score",
    "precision_inception": "Precision",
    "recall_dinov2": "Recall",
    "density_efflite0": "Density",
    "coverage_efflite0": "Coverage",
    "condition_fidelity": "Condition fidelity",
    "condition_fidelity_main color": "Condition fidelity, main color",
    "diversity": "Diversity",
    "diversity_ratio": "Relative diversity",
    "reconstruction_psnr": "Reconstruction PSNR",
}


@pytest.mark.parametrize("metric", NAMES)
def test_names_are_known(metric: str) -> None:
    assert told(metric).title == NAMES[metric]
    assert told(metric).group in GROUPS
    assert told(metric).better
    assert told(metric).sentence.endswith(".")


def test_every_metric_of_the_gates_is_known_and_its_direction_fits() -> None:
    for policy in load_settings(ROOT / "params.yaml").gate.values():
        for check in [*policy.thresholds, *policy.by_category, *policy.memorisation]:
            asked = "lower" if check.at_most is not None else "higher"
            assert told(check.metric).better in (asked, "near 0", "near 1"), check.metric
        for compared in policy.champion:
            assert told(compared.metric).better == ("lower" if compared.direction == "minimize" else "higher")


def test_the_data_copying_test_is_best_at_neither_end() -> None:
    assert told("copying_ct").better == "near 0"
    assert "far above 0" in told("copying_ct").sentence


def test_an_unknown_metric_keeps_its_name() -> None:
    assert (told("new").title, told("new").group, told("new").better) == ("new", "Other", None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"),
        (-0.5, "−0.5"),
        (-0.0, "0"),
        (12345.6, "12,346"),
        (-1e-5, "−1e-05"),
        (None, "none"),
        (math.nan, "not a number"),
        (math.inf, "infinite"),
        (-math.inf, "minus infinity"),
    ],
)
def test_numbers_for_people(value: float | None, text: str) -> None:
    assert shown(value) == text
