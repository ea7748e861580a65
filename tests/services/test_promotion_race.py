"""Twenty processes that promote at once through a real MLflow server: one wins, the others are told."""

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
import pytest

from components.registry.entries import Promoted
from components.registry.explaining import explain, history
from components.registry.promotion import promote
from components.registry.verdicts import record_verdict
from infra.down import down
from infra.environment import client_environment
from infra.services import MLFLOW, OBJECT_STORE
from infra.settings import ServiceSettings
from infra.up import up
from tests.forked import Command
from tests.registering import alias, register, verdict
from tests.services.ports import free_settings

pytestmark = pytest.mark.timeout(1800)

PROMOTERS, SAME = 20, 8


def wait_for(start: Path, number: int) -> None:
    (start.parent / f"ready-{number}").touch()
    while not start.exists():
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceSettings]:
    """MLflow and the object store; this process uses them as well."""
    settings = free_settings(tmp_path_factory.mktemp("services") / "state", stop_timeout=6)
    before = mlflow.get_tracking_uri()
    try:
        up(settings, only=[OBJECT_STORE, MLFLOW])
        with pytest.MonkeyPatch.context() as patch:
            for key, value in client_environment(settings).items():
                patch.setenv(key, value)
            yield settings
    finally:
        mlflow.set_tracking_uri(before)
        down(settings)


def at_once(folder: Path, commands: list[list[str]]) -> list[tuple[int, dict[str, object]]]:
    """Runs the commands in processes that begin together; their exit statuses and answers."""
    start = folder / "start"
    running = [
        Command([*words, "--json"], {"VITRINE_USER": f"promoter {number}"}, before=partial(wait_for, start, number))
        for number, words in enumerate(commands)
    ]
    deadline = time.monotonic() + 600
    while len(list(folder.glob("ready-*"))) < len(commands):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    start.touch()
    answers = []
    for process in running:
        ended = process.ended()
        assert ended.status in (0, 1), ended.errors
        answers.append((ended.status, json.loads(ended.out)))
    return answers


def judged(name: str, weights: bytes, baseline: str | None) -> str:
    version = register(weights, name)
    record_verdict(name, version, verdict(version, baseline, name=name))
    return version


def promotion(name: str, version: str, expected: str) -> list[str]:
    return ["promote", name, version, "--expect-champion", expected, "--why", "better"]


@pytest.mark.usefixtures("server")
def test_of_twenty_promoters_with_versions_of_their_own_one_wins_and_the_others_are_told(tmp_path: Path) -> None:
    name = "vitrine-race"
    first = judged(name, b"first", None)
    promote(name, first, expect_champion=None, why="first")
    versions = [judged(name, bytes([number]), first) for number in range(PROMOTERS)]
    answers = at_once(tmp_path, [promotion(name, version, first) for version in versions])
    winners = [(version, said) for version, (status, said) in zip(versions, answers, strict=True) if status == 0]
    assert len(winners) == 1
    winner = winners[0][0]
    assert alias(name) == winner
    errors = [said["error"] for status, said in answers if status == 1]
    assert len(errors) == PROMOTERS - 1
    for error in errors:
        assert isinstance(error, dict)
        assert (error["code"], error["champion"]) == ("CONFLICT", winner)
    made = [entry for entry in history(name) if isinstance(entry, Promoted)]
    assert [entry.to_version for entry in made] == [first, winner]
    assert {entry.kind for entry in history(name)} == {"judged", "promoted"}


@pytest.mark.usefixtures("server")
def test_of_many_same_requests_on_a_model_without_a_journal_one_is_carried_out(tmp_path: Path) -> None:
    name = "vitrine-same"
    register(b"old", name)
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")
    register(b"new", name)
    answers = at_once(make(tmp_path / "claim"), [["rollback", name, "--why", "bad"]] * SAME)
    assert {said["error"]["code"] for _, said in answers} == {"NO_EARLIER_CHAMPION"}  # type: ignore[index]
    assert [entry.kind for entry in history(name)] == ["adopted"]
    record_verdict(name, "2", verdict("2", "1", name=name))
    answers = at_once(make(tmp_path / "same"), [promotion(name, "2", "1")] * SAME)
    assert {status for status, _ in answers} == {0}
    assert sum(not said["repeated"] for _, said in answers) == 1
    assert len({json.dumps(said["event"]) for _, said in answers}) == 1
    assert [entry.kind for entry in history(name)] == ["adopted", "judged", "promoted"]
    assert alias(name) == "2"


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.usefixtures("server")
def test_pages_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_UI_URL", "http://prefect.example:4200")
    name = "vitrine-linked"
    tags = {"vitrine.git_commit": "abc", "vitrine.flow_run": "run-7", "vitrine.data_report": "http://page.example/x"}
    version = register(b"first", name, **tags)
    record_verdict(name, version, verdict(version, None, name=name), report="http://report.example/y")
    sections = explain(name, version).sections
    links = {fact.name: fact.link for facts in sections.values() for fact in facts}
    server = os.environ["MLFLOW_TRACKING_URI"]
    assert links["page"] == f"{server}/#/models/{name}/versions/{version}?workflowType=machine_learning"
    assert str(links["run"]).startswith(f"{server}/#/experiments/")
    assert str(links["journal"]).startswith(f"{server}/#/experiments/")
    assert links["flow run"] == "http://prefect.example:4200/runs/flow-run/run-7"
    assert links["quality report"] == "http://page.example/x"
    assert links["gate"] == "http://report.example/y"
    assert str(links["model"]).startswith(("s3://", "mlflow-artifacts:"))
