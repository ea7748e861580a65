"""Promotions whose process is killed: at every single write, before it and after, a repeat finishes them once."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest

from components import tracking
from components.registry.entries import Promoted, RolledBack
from components.registry.explaining import history
from components.registry.journal import find_journal
from components.registry.promotion import Outcome, promote, rollback
from components.registry.refusals import ConflictError
from tests.forked import Command
from tests.registering import NAME, alias, passed, register

WRITES = (
    "log_param",
    "set_registered_model_alias",
    "update_model_version",
    "set_model_version_tag",
    "update_registered_model",
)
FIRST_WRITES = ("create_run", "update_run", "create_experiment", "set_registered_model_tag", "delete_experiment")


def kill_at(last: int, moment: str) -> None:
    """From here on this process kills itself before or after its last-th write to MLflow."""
    count = 0

    def killing(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == last and moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **kwargs)
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    for name in WRITES + FIRST_WRITES:
        setattr(mlflow.MlflowClient, name, killing(getattr(mlflow.MlflowClient, name)))


def killed_at(write: int, moment: str, *words: str) -> bool:
    """Runs the command in a process that kills itself at this write; whether it came so far."""
    ended = Command(list(words), before=partial(kill_at, write, moment)).ended()
    assert ended.status in (0, -signal.SIGKILL), ended.errors
    return ended.status != 0


class Saved:
    """The registry as it is, to be brought back for the next kill; MLflow keeps its connection to the file."""

    def __init__(self, project: Path) -> None:
        self.file = project / ".vitrine" / "tracking" / "mlflow.db"
        self.copy = project / "copy.db"
        _copy(self.file, self.copy)

    def restore(self) -> None:
        _copy(self.copy, self.file)


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


@pytest.mark.timeout(1500)
def test_a_promotion_killed_at_any_write_is_finished_once_by_a_repeat(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_NOTIFY", "json://127.0.0.1:9")  # nothing answers there
    passed(b"one", None)
    promote(NAME, "1", expect_champion=None, why="first")
    passed(b"two", "1")
    saved = Saved(project)
    words = ("promote", NAME, "2", "--expect-champion", "1", "--why", "better")
    for moment in ("before", "after"):
        write = 1
        while killed_at(write, moment, *words):
            outcome = promote(NAME, "2", expect_champion="1", why="better")
            assert (outcome.champion, alias()) == ("2", "2"), (write, moment)
            made = [entry for entry in history(NAME) if isinstance(entry, Promoted) and entry.to_version == "2"]
            assert made == [outcome.event], (write, moment)
            assert [entry.kind for entry in history(NAME)][3:] == ["promoted"], (write, moment)
            assert "**Champion: promoted**" in described("2"), (write, moment)
            page = str(mlflow.MlflowClient().get_registered_model(NAME).description)
            assert page.startswith("Champion: version 2, promoted"), (write, moment)
            saved.restore()
            write += 1
        saved.restore()
    # Entry, two marks, alias; description and tag of both versions, the model's description, that people were told.
    assert write == 11


@pytest.mark.timeout(1500)
def test_a_rollback_killed_at_any_write_goes_back_once(project: Path) -> None:
    for number, before in ((1, None), (2, "1"), (3, "2")):
        version = passed(bytes([number]), before)
        promote(NAME, version, expect_champion=before, why="better")
    saved = Saved(project)
    for write in (1, 2, 3, 4):
        assert killed_at(write, "after", "rollback", NAME, "--why", "bad")
        made = [entry for entry in history(NAME) if isinstance(entry, RolledBack)]
        assert len(made) == 1
        if write < 4:  # entry, first mark, alias: it is not finished
            assert rollback(NAME, why="bad") == Outcome(NAME, made[0], "2", repeated=True)
        else:  # finished: who repeats it is told so
            assert rollback(NAME, why="bad") == Outcome(NAME, made[0], "2", repeated=True)
            with pytest.raises(ConflictError):
                rollback(NAME, why="bad", expect_champion="3")
        assert history(NAME)[-1] == made[0]
        assert alias() == "2"
        saved.restore()


@pytest.mark.timeout(1500)
def test_the_making_of_a_journal_killed_at_any_write_leaves_one(project: Path) -> None:
    register(b"old")
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    saved = Saved(project)
    for write in range(1, 7):
        assert killed_at(write, "after", "rollback", NAME, "--why", "bad"), write
        tracking.connect()
        version = passed(b"two", "1")
        promote(NAME, version, expect_champion="1", why="better")
        assert [entry.kind for entry in history(NAME)] == ["adopted", "judged", "promoted"], write
        assert find_journal(NAME) is not None
        saved.restore()


def described(version: str) -> str:
    return str(mlflow.MlflowClient().get_model_version(NAME, version).description)
