import math
from dataclasses import replace
from typing import Any

import pytest

from components.measurement import GROUPS, T_95, Estimate, Measurement, share_error
from components.policy import Baseline, Code, Verdict, as_json, judge, judge_against
from components.protocol import VERSION
from components.settings import ChampionCheck, GateCheck, GatePolicy
from tests.measurements import PROTOCOL, estimate, measurement

COPIES = GateCheck(metric="copies", at_most=0.1)


def policy(**changes: Any) -> GatePolicy:
    """One threshold and one check against copies, and what the test changes."""
    given: dict[str, Any] = {
        "required": [],
        "thresholds": [GateCheck(metric="fd", at_most=50)],
        "by_category": [],
        "memorisation": [COPIES],
        "champion": [ChampionCheck(metric="copies", direction="minimize", worse_by_at_most=1)],
        "first_model": "promote",
    }
    return GatePolicy.model_construct(**{**given, **changes})


def measured(fd: Estimate | None = None, **others: Estimate) -> Measurement:
    return measurement({"fd": fd or estimate(40, 1), "copies": estimate(0.01, 0.001), **others})


def codes(verdict: Verdict) -> list[Code]:
    return [reason.code for reason in verdict.reasons]


def test_passes_with_every_check_named() -> None:
    asked = policy(thresholds=[GateCheck(metric="fd", at_most=50), GateCheck(metric="recall", at_least=0.5)])
    verdict = judge(measured(recall=estimate(0.6, 0.01)), asked)
    assert verdict.passed
    assert [(c.kind, c.metric, c.threshold, c.direction, c.passed) for c in verdict.checks] == [
        ("threshold", "fd", 50, "at_most", True),
        ("threshold", "recall", 0.5, "at_least", True),
        ("memorisation", "copies", 0.1, "at_most", True),
    ]


@pytest.mark.parametrize(
    ("check", "value", "passes"),
    [
        (GateCheck(metric="fd", at_most=50), 50 - 1.001 * T_95, True),
        (GateCheck(metric="fd", at_most=50), 50 - 0.999 * T_95, False),
        (GateCheck(metric="fd", at_least=50), 50 + 1.001 * T_95, True),
        (GateCheck(metric="fd", at_least=50), 50 + 0.999 * T_95, False),
    ],
)
def test_the_interval_decides_and_not_the_value(check: GateCheck, value: float, passes: bool) -> None:
    verdict = judge(measured(estimate(value, 1)), policy(thresholds=[check]))
    assert verdict.passed is passes
    assert codes(verdict) == ([] if passes else [Code.THRESHOLD_MISSED])


def test_a_value_on_the_threshold_passes_if_nothing_is_uncertain() -> None:
    for check in (GateCheck(metric="fd", at_most=50), GateCheck(metric="fd", at_least=50)):
        assert judge(measured(estimate(50, 0)), policy(thresholds=[check])).passed


def test_a_failure_says_what_was_found_and_what_was_asked() -> None:
    (reason,) = judge(measured(estimate(50.25, 0.5)), policy()).reasons
    assert reason.metric == "fd"
    assert reason.text == "fd: 50.25, 95% interval 49.2 to 51.3, is not surely at most 50"


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (Estimate(math.nan, (1.0,) * GROUPS), Code.NOT_A_NUMBER),
        (Estimate(math.inf, (1.0,) * GROUPS), Code.INFINITE),
        (Estimate(-math.inf, (1.0,) * GROUPS), Code.INFINITE),
        (Estimate(1.0), Code.MISSING_INTERVAL),
        (Estimate(1.0, (1.0,) * (GROUPS - 1)), Code.MISSING_INTERVAL),
        (Estimate(1.0, (math.nan, *(1.0,) * (GROUPS - 1))), Code.MISSING_INTERVAL),
        (None, Code.MISSING_METRIC),
    ],
)
@pytest.mark.parametrize("kind", ["required", "thresholds", "memorisation", "by_category", "champion", "baseline"])
def test_whatever_cannot_be_decided_fails_under_its_own_name(kind: str, found: Estimate | None, code: Code) -> None:
    with_it = {} if found is None else {"recall": found}
    good = {"recall": estimate(0.5, 0.01)}
    lax = GateCheck(metric="recall", at_most=1e300)
    comparison = ChampionCheck(metric="recall", direction="minimize", worse_by_at_most=1e300)
    asked = {
        "required": policy(required=["recall"]),
        "thresholds": policy(thresholds=[lax]),
        "memorisation": policy(memorisation=[lax]),
        "by_category": policy(by_category=[lax]),
    }.get(kind, policy(champion=[comparison]))
    mine = good if kind in ("by_category", "baseline") else with_it
    candidate = replace(measured(**mine), by_category={"dress": with_it} if kind == "by_category" else {})
    champion = measured(**(with_it if kind == "baseline" else good))
    verdict = judge_against(candidate, asked, Baseline("3", champion))
    assert codes(verdict) == [code]
    assert "recall" in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("check", "value"),
    [(GateCheck(metric="precision_efflite0", at_least=0), 0.1), (GateCheck(metric="duplicates", at_most=1), 1.0)],
)
def test_what_a_metric_cannot_be_misses_no_threshold(check: GateCheck, value: float) -> None:
    estimates = {check.metric: estimate(value, 0.3)}
    assert judge(measured(**estimates), policy(thresholds=[check])).passed


@pytest.mark.parametrize(
    ("check", "mine", "told"),
    [
        (
            {"direction": "minimize", "better_by": 4},
            47,
            "champion 3 has 50: it is surely better by no more than 3 (95%), asked is surely better by more than 4",
        ),
        ({"direction": "minimize", "better_by": 0}, 80, "fd: 80, champion 3 has 50: it may be worse by 3"),
        ({"direction": "maximize", "worse_by_at_most": 5}, 40, "fd: 40, champion 3 has 50: it may be worse by 1"),
        ({"direction": "maximize", "worse_by_at_most": 0.1, "relative": True}, 44, "worse by less than 0.1 of that"),
    ],
)
def test_a_comparison_says_what_the_interval_leaves_open(check: dict[str, Any], mine: float, told: str) -> None:
    asked = policy(champion=[ChampionCheck(metric="fd", **check)])
    champion = measured(fd=estimate(50, 1))
    verdict = judge_against(measured(fd=estimate(mine, 1)), asked, Baseline("3", champion))
    (text,) = [reason.text for reason in verdict.reasons if "champion" in reason.text]
    assert told in text


def test_required_metrics_need_no_threshold() -> None:
    asked = policy(required=["coverage"])
    assert judge(measured(coverage=estimate(-5, 100)), asked).passed
    assert codes(judge(measured(), asked)) == [Code.MISSING_METRIC]


def test_a_champion_is_not_replaced_without_a_comparison() -> None:
    verdict = judge_against(measured(), policy(champion=[]), Baseline("3", measured()))
    assert codes(verdict) == [Code.EMPTY_POLICY]
    assert "champion holds no comparison" in verdict.reasons[0].text
    assert judge_against(measured(), policy(champion=[]), None).passed


def test_a_category_that_was_not_measured_fails_by_name() -> None:
    asked = policy(by_category=[GateCheck(metric="fidelity", at_least=0.3)])
    by_category = {"dress": {"fidelity": estimate(0.9, 0.01)}, "hat": {}}
    verdict = judge(replace(measured(), by_category=by_category), asked)
    assert [(reason.code, reason.category) for reason in verdict.reasons] == [(Code.MISSING_METRIC, "hat")]


@pytest.mark.parametrize("empty", ["thresholds", "memorisation"])
def test_an_empty_policy_lets_nothing_pass(empty: str) -> None:
    verdict = judge(measured(), policy(**{empty: []}))
    assert codes(verdict) == [Code.EMPTY_POLICY]
    assert empty in verdict.reasons[0].text


def test_the_failing_category_is_named() -> None:
    asked = policy(by_category=[GateCheck(metric="fidelity", at_least=0.3)])
    by_category = {"dress": {"fidelity": estimate(0.9, 0.01)}, "shirt": {"fidelity": estimate(0.02, 0.01)}}
    verdict = judge(replace(measured(), by_category=by_category), asked)
    assert [(reason.code, reason.category) for reason in verdict.reasons] == [(Code.THRESHOLD_MISSED, "shirt")]
    assert "fidelity of 'shirt'" in verdict.reasons[0].text


def test_a_policy_by_category_without_categories_fails() -> None:
    verdict = judge(measured(), policy(by_category=[GateCheck(metric="fidelity", at_least=0.3)]))
    assert codes(verdict) == [Code.NO_CATEGORIES]


@pytest.mark.parametrize(
    "protocol", ["", "fid", "features=efflite0", "version=1; features=efflite0", f"version={VERSION}; k=3"]
)
def test_an_unknown_protocol_fails(protocol: str) -> None:
    assert codes(judge(replace(measured(), protocol=protocol), policy())) == [Code.UNKNOWN_PROTOCOL]


@pytest.mark.parametrize(
    "change", [{"dataset": "cd" * 32}, {"seed": 8}, {"resolution": 64}, {"features": "inception"}, {"n_real": 4000}]
)
def test_a_champion_measured_otherwise_is_a_stale_baseline(change: dict[str, Any]) -> None:
    champion = measurement(measured().metrics, protocol=replace(PROTOCOL, **change))
    asked = policy(champion=[ChampionCheck(metric="fd", direction="minimize", worse_by_at_most=100)])
    verdict = judge_against(measured(), asked, Baseline("3", champion))
    assert codes(verdict) == [Code.STALE_BASELINE]
    assert "champion 3" in verdict.reasons[0].text
    # Also where the policy compares nothing: what was in force was not measured on these photos.
    assert codes(judge_against(measured(), policy(), Baseline("3", champion))) == [Code.STALE_BASELINE]


def test_a_first_model_passes_or_is_held_as_the_policy_says() -> None:
    asked = [ChampionCheck(metric="fd", direction="minimize", better_by=0)]
    assert judge_against(measured(), policy(champion=asked), None).passed
    held = judge_against(measured(), policy(champion=asked, first_model="hold"), None)
    assert codes(held) == [Code.FIRST_MODEL_HELD]
    assert judge_against(measured(), policy(first_model="hold"), Baseline("3", measured())).passed


BETTER = {"better_by": 0.0}
KEEPS = {"worse_by_at_most": 5.0}


@pytest.mark.parametrize(
    ("asked", "mine", "theirs", "failed"),
    [
        (BETTER, 40, 50, None),
        (BETTER, 49.9, 50, Code.NOT_BETTER),
        (BETTER, 50, 50, Code.NOT_BETTER),
        (BETTER, 60, 50, Code.NOT_BETTER),
        ({"better_by": 5.0}, 46, 50, Code.NOT_BETTER),
        ({"better_by": 5.0}, 40, 50, None),
        (KEEPS, 50, 50, None),
        (KEEPS, 52, 50, None),
        (KEEPS, 54.9, 50, Code.TOO_MUCH_WORSE),
        (KEEPS, 56, 50, Code.TOO_MUCH_WORSE),
        ({"worse_by_at_most": 0.1, "relative": True}, 52, 50, None),
        ({"worse_by_at_most": 0.1, "relative": True}, 54.9, 50, Code.TOO_MUCH_WORSE),
        ({"better_by": 0.1, "relative": True}, 46, 50, Code.NOT_BETTER),
        ({"better_by": 0.1, "relative": True}, 40, 50, None),
    ],
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_champion_is_beaten_or_kept_up_with(
    direction: str, asked: dict[str, Any], mine: float, theirs: float, failed: Code | None
) -> None:
    # The candidate alone is uncertain, so the difference is as well: 2.1 to either side.
    sign = 1 if direction == "minimize" else -1
    check = ChampionCheck.model_validate({"metric": "score", "direction": direction, **asked})
    candidate = measured(score=estimate(sign * mine, 1))
    champion = measured(score=estimate(sign * theirs, 0))
    verdict = judge_against(candidate, policy(champion=[check]), Baseline("3", champion))
    assert codes(verdict) == ([] if failed is None else [failed])


def test_what_both_models_owe_to_the_real_images_drops_out() -> None:
    """Each is known to 10 only, their difference exactly."""
    check = ChampionCheck(metric="score", direction="minimize", better_by=0)
    candidate, champion = measured(score=estimate(49, 10)), measured(score=estimate(50, 10))
    assert judge_against(candidate, policy(champion=[check]), Baseline("3", champion)).passed


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(("relative", "weight"), [(False, 1.0), (True, 1.1)])
def test_two_shares_of_few_images_are_not_surely_alike(direction: str, relative: bool, weight: float) -> None:
    """14 of 14 by either: their replicates say nothing of what other images would have been."""
    value = 0.0 if direction == "minimize" else 1.0
    share = Estimate(value, (value,) * GROUPS, least_error=share_error(value, 14))
    check = ChampionCheck.model_validate(
        {"metric": "share", "direction": direction, "worse_by_at_most": 0.1, "relative": relative}
    )
    verdict = judge_against(measured(share=share), policy(champion=[check]), Baseline("3", measured(share=share)))
    assert codes(verdict) == [Code.TOO_MUCH_WORSE]
    (found,) = (each for each in verdict.checks if each.kind == "champion")
    assert found.high is not None
    assert found.value is not None
    # What a relative margin gives grows with the champion's share, and so does what is unsure of it.
    weight = weight if direction == "minimize" else 2 - weight
    expected = T_95 * math.hypot(share.least_error, weight * share.least_error)
    assert found.high - found.value == pytest.approx(expected)
    sure = measured(share=Estimate(value, (value,) * GROUPS))
    assert judge_against(sure, policy(champion=[check]), Baseline("3", sure)).passed is not (relative and not value)


def test_the_champion_excuses_nothing() -> None:
    check = ChampionCheck(metric="fd", direction="minimize", better_by=0)
    worse = Baseline("3", measured(estimate(900, 1)))
    assert codes(judge_against(measured(estimate(60, 1)), policy(champion=[check]), worse)) == [Code.THRESHOLD_MISSED]


def test_the_verdict_as_json_is_plain() -> None:
    content = as_json(judge(measured(estimate(60, 1)), policy()))
    assert content["verdict"] == "FAILED"
    assert content["reasons"][0]["code"] == "THRESHOLD_MISSED"
    assert [check["passed"] for check in content["checks"]] == [False, True]


def test_a_verdict_without_any_check_has_not_passed() -> None:
    assert not Verdict((), ()).passed
