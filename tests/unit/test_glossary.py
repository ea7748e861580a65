"""Metrics in words."""

import math
from pathlib import Path

import pytest

from components.glossary import GROUPS, shown, shown_interval, told
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
    ("metric", "ends", "text"),
    [
        ("copies_by_pixels", (-0.004, 0.004), "0 to 0.004"),
        ("duplicates", (-0.5, 0.25), "0 to 0.25"),
        ("recall_efflite0", (0.75, 1.25), "0.75 to 1"),
        ("condition_fidelity_color", (0.5, 1.5), "0.5 to 1"),
        ("density_efflite0", (-0.5, 1.5), "0 to 1.5"),
        ("is_efflite0", (0.5, 2.5), "1 to 2.5"),
        ("reconstruction_ssim", (-0.5, 1.5), "−0.5 to 1"),
        # Unbiased, or extrapolated: either may be less than 0.
        ("kd_efflite0", (-0.5, 0.25), "−0.5 to 0.25"),
        ("fd_inf_efflite0", (-0.5, 0.25), "−0.5 to 0.25"),
        ("fid", (-0.5, 0.25), "0 to 0.25"),
        ("copying_ct", (-4.0, 4.0), "−4 to 4"),
        ("new", (-4.0, 4.0), "−4 to 4"),
        ("recall_efflite0", None, "none"),
    ],
)
def test_an_interval_is_shown_within_what_a_metric_can_be(
    metric: str, ends: tuple[float, float] | None, text: str
) -> None:
    assert shown_interval(metric, ends) == text


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
