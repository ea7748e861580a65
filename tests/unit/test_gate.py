import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.gate import gate, main
from components.measurement import write_measurement
from components.settings import ChampionCheck, GateCheck, GatePolicy
from tests.measurements import WEIGHTS_SHA256, estimate, measurement

ROOT = Path(__file__).parents[2]
MEASURED = measurement({"fd": estimate(40, 1), "copies": estimate(0.01, 0.001)})
POLICY = GatePolicy(
    required=[],
    thresholds=[GateCheck(metric="fd", at_most=50)],
    by_category=[],
    memorisation=[GateCheck(metric="copies", at_most=0.1)],
    champion=[ChampionCheck(metric="fd", direction="minimize", better_by=0)],
    first_model="promote",
)


@pytest.fixture
def measured_file(tmp_path: Path) -> Path:
    path = tmp_path / "measurement.json"
    write_measurement(path, MEASURED)
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"weights_sha256": WEIGHTS_SHA256}))
    return path


def codes(content: dict[str, Any]) -> list[str]:
    return [reason["code"] for reason in content["reasons"]]


def test_a_good_model_passes_and_its_weights_are_named(measured_file: Path, card: Path) -> None:
    content = gate({"gan": POLICY}, "gan", measured_file, card)
    assert (content["verdict"], content["reasons"]) == ("PASSED", [])
    assert (content["weights_sha256"], content["protocol"]) == (WEIGHTS_SHA256, MEASURED.protocol)
    assert content["baseline"] is None


def test_a_good_result_of_other_weights_lets_nothing_pass(measured_file: Path, card: Path) -> None:
    write_measurement(measured_file, replace(MEASURED, weights_sha256="b" * 64))
    content = gate({"gan": POLICY}, "gan", measured_file, card)
    assert (content["verdict"], codes(content)) == ("FAILED", ["OTHER_WEIGHTS"])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 100_000, '{"weights_sha256": null}', '{"weights_sha256": ""}']
)
def test_a_card_that_names_no_weights_fails(measured_file: Path, card: Path, content: str) -> None:
    card.write_text(content)
    assert codes(gate({"gan": POLICY}, "gan", measured_file, card)) == ["OTHER_WEIGHTS"]


@pytest.mark.parametrize("content", [None, "", "[]", "[" * 100_000, '{"fd": 1}'])
def test_what_cannot_be_read_fails(measured_file: Path, card: Path, content: str | None) -> None:
    measured_file.unlink()
    if content is not None:
        measured_file.write_text(content)
    verdict = gate({"gan": POLICY}, "gan", measured_file, card)
    assert (verdict["verdict"], codes(verdict)) == ("FAILED", ["UNREADABLE"])


def test_a_model_without_a_policy_fails(measured_file: Path, card: Path) -> None:
    content = gate({"vae": POLICY}, "gan", measured_file, card)
    assert (content["verdict"], codes(content)) == ("FAILED", ["NO_POLICY"])
    assert "['vae']" in content["reasons"][0]["text"]


def test_the_stage_ends_well_and_leaves_a_failed_verdict(
    tmp_path: Path, measured_file: Path, card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verdict.json"
    page = tmp_path / "report.html"
    arguments = ["--params", str(ROOT / "params.yaml"), "--model", "gan", "--weights", str(card), "--out", str(out)]
    main([*arguments, "--measurement", str(measured_file), "--pictures", str(tmp_path), "--page", str(page)])
    assert "was not measured" in page.read_text()
    content = json.loads(out.read_text())
    assert content["verdict"] == "FAILED"
    assert "MISSING_METRIC" in codes(content)
    assert "gan: FAILED\n  MISSING_METRIC: kd_efflite0: was not measured" in capsys.readouterr().out


def test_an_older_verdict_does_not_outlive_a_refused_run(tmp_path: Path, measured_file: Path, card: Path) -> None:
    out, params = tmp_path / "verdict.json", tmp_path / "params.yaml"
    out.write_text('{"verdict": "PASSED"}')
    params.write_text("gate: {}")
    with pytest.raises(SystemExit):
        main(
            [
                *("--params", str(params), "--model", "gan", "--measurement", str(measured_file)),
                *("--weights", str(card), "--out", str(out), "--pictures", str(tmp_path)),
                *("--page", str(tmp_path / "report.html")),
            ]
        )
    assert not out.exists()


def test_judging_needs_no_torch() -> None:
    """The verdict is there at once, and on machines that only judge."""
    code = "import sys, components.gate; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
