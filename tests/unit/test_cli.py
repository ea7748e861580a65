"""The command line `vitrine`, against a real MLflow on SQLite."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components import tracking
from components.cli import main
from components.registry.verdicts import record_verdict
from tests.receiver import receiving
from tests.registering import NAME, alias, register, verdict


@pytest.fixture
def two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1 passed its gate, version 2 did not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("VITRINE_USER", "anna")
    tracking.connect()
    tags = {
        "vitrine.git_commit": "c0ffee",
        "vitrine.git_dirty": "false",
        "vitrine.dataset": "d1",
        "vitrine.flow_run": "f1",
    }
    register(b"one", **tags)
    register(b"two")
    record_verdict(NAME, "1", verdict("1", None))
    record_verdict(NAME, "2", verdict("2", None, ("THRESHOLD_MISSED", "fd_efflite0", "dress")))


def run(*words: str) -> int:
    try:
        main(words)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the one JSON object on stdout."""
    capsys.readouterr()
    status = run(*words, "--json")
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("two_versions")
def test_from_a_promotion_to_its_rollback(capsys: pytest.CaptureFixture[str]) -> None:
    until = str((datetime.now(UTC) + timedelta(days=7)).date())
    promotion = ("promote", NAME, "1", "--expect-champion", "none", "--why", "first")
    status, said = answer(capsys, *promotion)
    assert (status, said["champion"], said["repeated"], said["event"]["who"]) == (0, "1", False, "anna")
    status, said = answer(capsys, *promotion)
    assert (status, said["repeated"]) == (0, True)
    second = ("promote", NAME, "2", "--expect-champion", "1", "--why", "better", "--key", "k")
    status, said = answer(capsys, *second)
    assert (status, said["error"]["code"]) == (1, "GATE_FAILED")
    assert said["error"]["failures"] == ["THRESHOLD_MISSED fd_efflite0 dress"]
    record_verdict(NAME, "2", verdict("2", "1", ("THRESHOLD_MISSED", "fd_efflite0", "dress")))
    status, said = answer(capsys, "override", NAME, "2", "--why", "the fair", "--until", until, "--who", "chief")
    assert (status, said["event"]["who"], said["event"]["until"]) == (0, "chief", f"{until}T23:59:59Z")
    assert answer(capsys, *second)[0] == 0
    assert alias() == "2"
    status, said = answer(capsys, *promotion)
    assert (status, said["error"]["code"], said["error"]["champion"]) == (1, "CONFLICT", "2")
    status, said = answer(capsys, "rollback", NAME, "--why", "bad", "--expect-champion", "2")
    assert (status, said["champion"], alias()) == (0, "1", "1")
    status, said = answer(capsys, "history", NAME)
    kinds = [event["kind"] for event in said["events"]]
    assert kinds == ["judged", "judged", "promoted", "judged", "overridden", "promoted", "rolled_back"]


@pytest.mark.usefixtures("two_versions")
def test_tables_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("promote", NAME, "1", "--expect-champion", "none", "--why", "first") == 0
    assert "none -> 1; by anna: first" in capsys.readouterr().out
    assert run("history", NAME) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["#", "when", "what", "from", "to", "verdict", "override", "who", "why"]
    assert rows[1].split()[2:7] == ["judged", "-", "-", "2", "FAILED"]
    assert rows[2].split()[2:] == ["promoted", "none", "1", "entry", "1", "-", "anna", "first"]
    assert run("promote", NAME, "2", "--expect-champion", "1", "--why", "better") == 1
    shown = capsys.readouterr().err
    assert "fd_efflite0 of dress is bad: THRESHOLD_MISSED" in shown
    assert "vitrine override vitrine-gan 2" in shown
    assert run("explain", NAME, "1") == 0
    shown = capsys.readouterr().out
    for text in ("version 1: champion", "c0ffee", "PASSED on", "d1", "f1", "none -> 1", "No figures were kept"):
        assert text in shown


@pytest.mark.usefixtures("two_versions")
def test_an_explanation_names_what_is_known_and_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = answer(capsys, "explain", NAME, "1")
    assert status == 0
    known = {fact["name"]: fact["value"] for facts in said["sections"].values() for fact in facts}
    assert (known["git commit"], known["dataset"], known["flow run"]) == ("c0ffee", "d1", "f1")
    assert known["quality report"] == "unknown"
    assert known["status"] == "not champion"
    assert known["model"].endswith("/artifacts/model")
    status, said = answer(capsys, "explain", NAME, "9")
    assert (status, said["error"]["code"]) == (2, "UNUSABLE")
    assert "it has [1, 2]" in said["error"]["message"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("demote", NAME),
        ("promote", NAME, "1", "--why", "x"),
        ("promote", NAME, "1", "--expect-champion", "none"),
        ("history", NAME, "--yes"),
        ("override", NAME, "1", "--why", "x"),
    ],
)
def test_wrong_usage_is_told_also_as_json(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert capsys.readouterr().err.startswith("error: ")
    status, said = answer(capsys, *words)
    assert (status, said["error"]["code"]) == (2, "UNUSABLE")
    assert "--help" in said["error"]["message"]


@pytest.mark.parametrize("services", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        ("history", NAME),
        ("explain", NAME, "1"),
        ("promote", NAME, "1", "--expect-champion", "none", "--why", "x"),
        ("rollback", NAME, "--why", "x"),
        ("override", NAME, "1", "--why", "x", "--until", "2026-01-01"),
    ],
)
def test_without_a_store_none_is_made_and_the_services_are_named(
    words: tuple[str, ...],
    services: bool,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if services:
        (tmp_path / ".vitrine/mlflow").mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    status, said = answer(capsys, *words)
    assert (status, said["error"]["code"]) == (2, "UNUSABLE")
    assert 'eval "$(make -s env)"' in said["error"]["message"]
    assert ("does not know the services" in said["error"]["message"]) == services
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("two_versions")
def test_whoever_asks_the_local_store_beside_services_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow notes the chosen store there
    assert run("history", NAME) == 0
    assert "note: " not in capsys.readouterr().err
    (tmp_path / ".vitrine/mlflow").mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert run("history", NAME, "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["name"] == NAME
    assert "note: this asks the local store .vitrine/tracking, not the services" in shown.err


@pytest.mark.parametrize("words", [("history", NAME, "--js"), ("promote", NAME, "1", "--expect", "1", "--why", "x")])
def test_options_are_written_out(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert "error: " in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, said = answer(capsys, "history", NAME)
    assert (status, said["error"]["code"]) == (2, "UNUSABLE")
    assert "make up" in said["error"]["message"]


@pytest.mark.usefixtures("two_versions")
def test_a_promotion_is_told_to_others_once_and_json_stays_alone_on_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("VITRINE_NOTIFY", receiver.address)
        for _ in range(2):
            assert answer(capsys, "promote", NAME, "1", "--expect-champion", "none", "--why", "first")[0] == 0
    assert ["none -> 1; by anna: first" in message["message"] for message in receiver.messages] == [True]
