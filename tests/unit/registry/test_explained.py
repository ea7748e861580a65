"""Figures behind a verdict, and how they are told in a terminal, on a form and in a list."""

import re
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from components import tracking
from components.errors import InputError
from components.policy import Baseline, as_json, judge_against
from components.registry.describing import description
from components.registry.explained import WIDTH, explained
from components.registry.explaining import explain
from components.registry.figures import Figure, figures_of, figures_table, write_figures
from components.registry.journal import open_journal
from components.registry.marking import folder_of
from components.registry.promotion import promote
from components.registry.state import fold
from components.registry.verdicts import record_verdict
from components.settings import ChampionCheck, GateCheck, GatePolicy
from flows.release import decision_page, gate_told
from tests.measurements import estimate, measurement
from tests.registering import NAME, register, verdict

POLICY = GatePolicy(
    required=["recall_efflite0"],
    thresholds=[GateCheck(metric="fd_efflite0", at_most=30)],
    by_category=[GateCheck(metric="condition_fidelity", at_least=0.5)],
    memorisation=[GateCheck(metric="copying_ct", at_least=-3)],
    champion=[ChampionCheck(metric="fd_efflite0", direction="minimize", worse_by_at_most=2)],
    first_model="promote",
)
CANDIDATE = measurement(
    {
        "fd_efflite0": estimate(12.5, 0.5, floor=2.25),
        "recall_efflite0": estimate(0.4, 0.01),
        "copying_ct": estimate(-4, 0.1),
    },
    {"dress": {"condition_fidelity": estimate(0.9, 0.01)}, "bag|x": {"condition_fidelity": estimate(0.25, 0.01)}},
)
CHAMPION = measurement({"fd_efflite0": estimate(14.25, 0.5), "recall_efflite0": estimate(0.5, 0.01)})

PARAMS = {f"train.gan.setting_{number:02}": f"value of {number}" for number in range(12)} | {"seed": "7"}


def figures() -> tuple[Figure, ...]:
    found = judge_against(CANDIDATE, POLICY, Baseline("1", CHAMPION))
    return figures_of(as_json(found), CANDIDATE, CHAMPION)


def test_each_check_has_its_figure() -> None:
    found = {(figure.kind, figure.metric, figure.category): figure for figure in figures()}
    fd = found["threshold", "fd_efflite0", None]
    assert (fd.value, fd.real_photos, fd.champion, fd.asked, fd.passed) == (12.5, 2.25, 14.25, "at most 30", True)
    assert fd.low is not None
    assert fd.high is not None
    assert 11.4 < fd.low < 11.5 < 13.5 < fd.high < 13.6
    assert found["champion", "fd_efflite0", None].value == 12.5
    assert found["champion", "fd_efflite0", None].asked.startswith("margin left to the champion 3.75")
    assert not found["memorisation", "copying_ct", None].passed
    assert found["memorisation", "copying_ct", None].champion is None
    assert found["by_category", "condition_fidelity", "bag|x"].value == 0.25
    assert found["required", "recall_efflite0", None].asked == "measured"


def test_a_champion_under_another_protocol_is_not_set_beside() -> None:
    other = measurement(CHAMPION.metrics, protocol="other")
    found = as_json(judge_against(CANDIDATE, POLICY, Baseline("1", other)))
    assert {figure.champion for figure in figures_of(found, CANDIDATE, other)} == {None}


def test_what_was_not_measured_has_no_value() -> None:
    bad = measurement({"fd_efflite0": estimate(float("nan"))})
    found = figures_of(as_json(judge_against(bad, POLICY, None)), bad, None)
    assert {(figure.value, figure.low, figure.real_photos) for figure in found} == {(None, None, None)}
    assert {figure.passed for figure in found} == {False}


def test_the_form_shows_checks_over_all_images_and_failed_ones_of_categories() -> None:
    table, more = figures_table(figures())
    head, line, *rows = table.splitlines()
    assert head == "| check |  | asked | value (95% interval) | champion | real photos reach |"
    assert [row.count("| ") for row in rows] == [line.count("| ")] * 5
    (fd,) = [row for row in rows if "at most 30" in row]
    assert fd.startswith("| Fréchet distance | met | at most 30 | 12.5 (11.5 to 13.5) | 14.2 | 2.25 |")
    assert "bag\\|x" in rows[3]
    assert "**missed**" in rows[3]
    assert "dress" not in table
    assert more == "By category 1 of 2 checks are met."
    assert figures_table([]) == []


def judged_with_figures(tmp_path: Path) -> tuple[str, str, str]:
    """A version that was judged; its run, and the verdict's digest."""
    tracking.connect()
    with mlflow.start_run() as run:
        write_figures(tmp_path / "figures.json", figures())
        mlflow.log_metrics(
            {"evaluation/fd_efflite0": 9.0, "evaluation_interval/fd_efflite0.low": 8.0, "evaluation/fd_efflite0/x": 1.0}
        )
        mlflow.log_params(PARAMS)
    run_id = str(run.info.run_id)
    version = register(b"one", **{"vitrine.mlflow_run": run_id, "vitrine.git_commit": "c0ffee"})
    failed = verdict(version, None, ("THRESHOLD_MISSED", "copying_ct", None))
    return version, run_id, record_verdict(NAME, version, failed, report="http://mlflow/report").digest


@pytest.mark.usefixtures("project")
def test_an_explanation_leads_with_what_people_look_for(tmp_path: Path) -> None:
    version, run_id, digest = judged_with_figures(tmp_path)
    (before,) = explain(NAME, version).figures
    assert before == Figure("fd_efflite0", None, 9.0, 8.0, None)
    MlflowClient().log_artifact(run_id, str(tmp_path / "figures.json"), folder_of(NAME, version, digest))
    found = explain(NAME, version)
    assert found.figures == figures()
    lines = explained(found)
    assert lines[0] == f"{NAME} version {version}: not champion"
    assert lines[2].split()[:2] == ["gate", "FAILED"]
    head = next(line for line in lines if line.startswith("  metric"))
    fd = next(line for line in lines if line.startswith("  fd_efflite0"))
    assert [word.strip() for word in head.split("  ") if word][3:] == ["real photos reach", "champion", "asked"]
    assert fd.split()[:7] == ["fd_efflite0", "12.5", "11.5", "to", "13.5", "2.25", "14.2"]
    assert fd.endswith("  at most 30: met")
    assert lines[lines.index(fd) + 1].split() == ["champion:", "met"]
    assert any("copying_ct" in line and "MISSED" in line for line in lines)
    assert "  By category 1 of 2 checks are met:" in lines
    assert any("http://mlflow/report" in line for line in lines)
    assert any("c0ffee" in line for line in lines)
    assert explained(found)[-2:] == ["", f"All of it: vitrine explain {NAME} {version} --json"]
    assert not [line for line in lines if len(line) > WIDTH and "://" not in line]


@pytest.mark.usefixtures("project")
def test_an_explanation_names_parameters_and_places(tmp_path: Path) -> None:
    version, run_id, _ = judged_with_figures(tmp_path)
    client = MlflowClient()
    lines = explained(explain(NAME, version))
    start = lines.index("Parameters") + 1
    listed = lines[start : lines.index("", start)]
    # All of them in order, none torn apart, several in a line.
    found = [text for line in listed for text in line.strip().split("  ")]
    assert found == [f"{key}={PARAMS[key]}" for key in sorted(PARAMS)]
    assert len(listed) < len(PARAMS) / 2
    places = "\n".join(lines[lines.index("Where to look") : start])
    assert client.get_model_version_download_uri(NAME, version) in places
    assert client.get_run(run_id).info.artifact_uri in places
    assert re.search(r"^  journal +experiment", places, re.MULTILINE)


@pytest.mark.usefixtures("project")
def test_whoever_is_asked_sees_verdict_champion_and_figures(tmp_path: Path) -> None:
    version, run_id, digest = judged_with_figures(tmp_path)
    MlflowClient().log_artifact(run_id, str(tmp_path / "figures.json"), folder_of(NAME, version, digest))
    decision = {
        "name": NAME,
        "version": version,
        "action": "passed",
        "verdict": "PASSED",
        "champion": "7",
        "reason": "all checks | passed",
        "report": "http://mlflow/report",
    }
    title, said, report, table, _ = decision_page(decision).split("\n\n")
    assert title == f"## {NAME} version {version}: passed"
    assert said == "Gate PASSED; champion is version 7. all checks \\| passed"
    assert report == "[Report](http://mlflow/report)"
    assert "| met | at most 30 | 12.5 (11.5 to 13.5) | 14.2 | 2.25 |" in table
    assert "there is no champion" in decision_page({**decision, "champion": None, "report": None})
    told = gate_told({**decision, "standing": "its gate FAILED, override in force"})
    assert told == "Gate PASSED; champion is version 7 (its gate FAILED, override in force)"
    assert gate_told({**decision, "verdict": None, "champion": None}) == "Gate unknown; champion unknown"


@pytest.mark.usefixtures("project")
def test_damaged_figures_are_told(tmp_path: Path) -> None:
    version, run_id, digest = judged_with_figures(tmp_path)
    MlflowClient().log_text(run_id, '{"figures": [{"metric": 1}]}', f"{folder_of(NAME, version, digest)}/figures.json")
    with pytest.raises(InputError, match=r"figures.json in run .* is damaged"):
        explain(NAME, version)


@pytest.mark.usefixtures("project")
def test_a_descriptions_first_line_reads_well_in_lists_and_on_pages() -> None:
    first, second, third = (register(weights) for weights in (b"one", b"two", b"three"))
    record_verdict(NAME, first, verdict(first, None))
    promote(NAME, first, expect_champion=None, why="first")
    failed = verdict(second, first, ("THRESHOLD_MISSED", "fd_efflite0", "a<b"))
    record_verdict(NAME, second, failed)
    state = fold(open_journal(NAME).read())
    now = datetime.now(UTC)

    def first_line(version: str) -> str:
        return description(state, version, now).split("\n")[0]

    assert first_line(first) == "PASSED, champion"
    assert first_line(second) == "FAILED: fd_efflite0 of a\\<b is bad: THRESHOLD_MISSED"
    assert first_line(third) == "Not judged"
