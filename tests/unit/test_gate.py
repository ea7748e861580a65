import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.gate import judge, main
from components.settings import GateCheck

WEIGHTS_SHA256 = "a" * 64
ROOT = Path(__file__).parents[2]


def at_most(metric: str, threshold: float) -> GateCheck:
    return GateCheck(metric=metric, at_most=threshold)


def at_least(metric: str, threshold: float) -> GateCheck:
    return GateCheck(metric=metric, at_least=threshold)


def test_passes_with_every_check_named() -> None:
    verdict = judge({"fd": 40.0, "recall": 0.5}, [at_most("fd", 50), at_least("recall", 0.5)])
    assert verdict.verdict == "PASSED"
    assert verdict.reasons == ()
    shown = [(c.metric, c.value, c.threshold, c.direction, c.passed) for c in verdict.checks]
    assert shown == [("fd", 40.0, 50.0, "at_most", True), ("recall", 0.5, 0.5, "at_least", True)]


def test_one_failure_fails_all_and_says_which() -> None:
    verdict = judge({"fd": 50.1, "recall": 0.9}, [at_most("fd", 50), at_least("recall", 0.5)])
    assert verdict.verdict == "FAILED"
    assert verdict.reasons == ("fd: 50.1 is not at most 50",)
    assert [check.passed for check in verdict.checks] == [False, True]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, None, "40", "NaN", True, False, [40.0], {"mean": 40.0}, 10**400]
)
@pytest.mark.parametrize("check", [at_most("fd", 1e300), at_least("fd", -1e300)])
def test_what_is_no_finite_number_fails(value: object, check: GateCheck) -> None:
    verdict = judge({"fd": value}, [check])
    assert verdict.verdict == "FAILED"
    assert verdict.checks[0].value is None
    assert verdict.reasons[0].startswith("fd: ")
    assert verdict.reasons[0].endswith("is not a finite number")


def test_a_missing_metric_fails() -> None:
    verdict = judge({"fd": 1.0}, [at_most("kd", 1)])
    assert (verdict.verdict, verdict.reasons) == ("FAILED", ("kd: missing from the evaluation",))


def test_an_empty_policy_fails() -> None:
    verdict = judge({"fd": 1.0}, [])
    assert verdict.verdict == "FAILED"
    assert "empty policy" in verdict.reasons[0]


def test_dotted_names_lead_into_groups_even_with_dots_in_their_names() -> None:
    metrics = {"by_category": {"dress": {"kd": 0.1}, "no. 5": {"kd": 0.2}}, "a.b": 0.3}
    checks = [at_most("by_category.dress.kd", 1), at_most("by_category.no. 5.kd", 1), at_most("a.b", 1)]
    verdict = judge(metrics, checks)
    assert [check.value for check in verdict.checks] == [0.1, 0.2, 0.3]
    assert judge(metrics, [at_most("by_category.dress", 1)]).verdict == "FAILED"
    assert judge(metrics, [at_most("by_category.shoe.kd", 1)]).reasons[0].endswith("missing from the evaluation")


@given(value=st.floats(), threshold=st.floats(allow_nan=False, allow_infinity=False))
def test_passes_exactly_when_the_finite_value_is_on_the_right_side(value: float, threshold: float) -> None:
    below = judge({"m": value}, [at_most("m", threshold)]).verdict == "PASSED"
    above = judge({"m": value}, [at_least("m", threshold)]).verdict == "PASSED"
    assert below == (math.isfinite(value) and value <= threshold)
    assert above == (math.isfinite(value) and value >= threshold)


RunGate = Callable[..., dict[str, Any]]


@pytest.fixture
def run_gate(tmp_path: Path) -> RunGate:
    """Runs the stage on a good evaluation, changed as asked, and gives the verdict file."""
    evaluation = {"fd": 40.0, "protocol": "version=1; features=efflite0", "weights_sha256": WEIGHTS_SHA256}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "model.json").write_text(json.dumps({"family": "gan", "weights_sha256": WEIGHTS_SHA256}))
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))

    def run(
        *, evaluation: str | None = None, card: str | None = None, policies: Any = None, model: str = "gan"
    ) -> dict[str, Any]:
        if evaluation is not None:
            (tmp_path / "evaluation.json").write_text(evaluation)
        if card is not None:
            (tmp_path / "model.json").write_text(card)
        params["gate"] = {"gan": [{"metric": "fd", "at_most": 50.0}]} if policies is None else policies
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        names = {"params": "params.yaml", "evaluation": "evaluation.json", "weights": "model.json", "out": "out/v.json"}
        main(["--model", model, *(part for key, name in names.items() for part in (f"--{key}", str(tmp_path / name)))])
        content: dict[str, Any] = json.loads((tmp_path / "out/v.json").read_text(), parse_constant=pytest.fail)
        return content

    return run


def test_verdict_file_of_a_pass(run_gate: RunGate, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_gate() == {
        "verdict": "PASSED",
        "reasons": [],
        "checks": [{"metric": "fd", "value": 40.0, "threshold": 50.0, "direction": "at_most", "passed": True}],
        "weights_sha256": WEIGHTS_SHA256,
        "protocol": "version=1; features=efflite0",
    }
    assert "gan: PASSED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"evaluation": "{"}, "evaluation.json: cannot be read (JSONDecodeError"),
        ({"evaluation": "[" * 100_000}, "evaluation.json: cannot be read (RecursionError"),
        ({"evaluation": "[]"}, "evaluation.json: holds list, not an object"),
        ({"evaluation": '{"fd": NaN}'}, "fd: nan is not a finite number"),
        ({"evaluation": '{"fd": Infinity}'}, "fd: inf is not a finite number"),
        ({"evaluation": '{"fd": -Infinity}'}, "fd: -inf is not a finite number"),
        ({"evaluation": '{"fd": 1e999}'}, "fd: inf is not a finite number"),
        ({"evaluation": '{"fd": null}'}, "fd: None is not a finite number"),
        ({"evaluation": '{"fd": 40.0}'}, "measured weights None"),
        (
            {"evaluation": f'{{"fd": 40.0, "weights_sha256": "{WEIGHTS_SHA256}"}}'},
            "evaluation.json: names no protocol",
        ),
        ({"card": "nonsense"}, "model.json: cannot be read"),
        ({"card": "{}"}, "model.json: names no weights_sha256"),
        ({"card": '{"weights_sha256": "bbb"}'}, "names 'bbb'"),
        ({"policies": {"gan": []}}, "the policy holds no check"),
        ({"policies": {"vae": [{"metric": "fd", "at_most": 50.0}]}}, "gate has no policy for 'gan'; it has ['vae']"),
    ],
)
def test_in_doubt_the_verdict_is_failed_with_a_reason(run_gate: RunGate, change: dict[str, Any], reason: str) -> None:
    verdict = run_gate(**change)
    assert verdict["verdict"] == "FAILED"
    assert any(reason in found for found in verdict["reasons"]), verdict["reasons"]


@pytest.mark.parametrize("name", ["evaluation.json", "model.json"])
def test_a_missing_file_is_failed(run_gate: RunGate, tmp_path: Path, name: str) -> None:
    (tmp_path / name).unlink()
    verdict = run_gate()
    assert verdict["verdict"] == "FAILED"
    assert f"{name}: cannot be read (FileNotFoundError" in verdict["reasons"][0]


def test_bad_params_leave_no_older_verdict_behind(
    run_gate: RunGate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_gate()["verdict"] == "PASSED"
    with pytest.raises(SystemExit) as ended:
        run_gate(policies={"gan": [{"metric": "fd", "at_most": "low"}]})
    assert ended.value.code == 2
    assert "gate.gan.0.at_most" in capsys.readouterr().err
    assert not (tmp_path / "out/v.json").exists()


def test_the_gate_needs_no_torch() -> None:
    code = "import sys, components.gate; print([m for m in ('torch', 'mlflow', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
