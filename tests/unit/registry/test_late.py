"""Processes that were held up: their alias comes late, and is not taken for a hand's doing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.registry.alias import CHAMPION, settle
from components.registry.explaining import history
from components.registry.journal import Journal, open_journal
from components.registry.promotion import promote, rollback
from components.registry.refusals import ConflictError
from components.registry.verdicts import record_verdict
from tests.registering import NAME, alias, passed, register, verdict

Meanwhile = Callable[[], object]


class KilledError(BaseException):
    """The end of a process, as nothing in it can catch."""


def interrupted(patch: pytest.MonkeyPatch, method: str, meanwhile: Meanwhile, *, before: bool, then_dies: bool) -> None:
    """What happens meanwhile, at the first call of a client's method: others go on, and this one may end."""
    original = getattr(MlflowClient, method)

    def held_up(*args: Any, **kwargs: Any) -> Any:
        patch.setattr(MlflowClient, method, original)
        if before:
            meanwhile()
        result = original(*args, **kwargs)
        if not before:
            meanwhile()
        if then_dies:
            raise KilledError
        return result

    patch.setattr(MlflowClient, method, held_up)


def others_go_on() -> None:
    """Version 3 replaces version 2, whose promotion is being carried out."""
    settle(open_journal(NAME))
    record_verdict(NAME, "3", verdict("3", "2"))
    promote(NAME, "3", expect_champion="2", why="others were quicker")
    assert alias() == "3"


@pytest.fixture
def three_versions(project: Path) -> None:  # noqa: ARG001
    promote(NAME, passed(b"one", None), expect_champion=None, why="first")
    passed(b"two", "1")
    register(b"three")


def kinds() -> list[str]:
    return [entry.kind for entry in history(NAME) if entry.kind != "judged"]


@pytest.mark.usefixtures("three_versions")
def test_a_late_alias_is_put_right_by_the_one_who_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, "set_registered_model_alias", others_go_on, before=True, then_dies=False)
    outcome = promote(NAME, "2", expect_champion="1", why="better")
    assert (outcome.event.to_version, outcome.champion, alias()) == ("2", "3", "3")
    assert kinds() == ["promoted"] * 3
    assert all(move.done for move in open_journal(NAME).read().moves)


@pytest.mark.usefixtures("three_versions")
def test_a_late_alias_of_one_who_is_killed_then_is_put_right_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, "set_registered_model_alias", others_go_on, before=True, then_dies=True)
    with pytest.raises(KilledError):
        promote(NAME, "2", expect_champion="1", why="better")
    assert alias() == "2"  # as it came late
    assert settle(open_journal(NAME)).champion.version == "3"
    assert (alias(), kinds()) == ("3", ["promoted"] * 3)
    # Explained once: from now on it is a hand.
    MlflowClient().set_registered_model_alias(NAME, CHAMPION, "2")
    assert settle(open_journal(NAME)).champion.version == "2"
    assert kinds()[-1] == "moved_by_hand"


@pytest.mark.usefixtures("three_versions")
def test_who_finds_its_entry_overtaken_leaves_the_alias_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Journal.begin_move

    def held_up(journal: Journal, number: int) -> str:
        monkeypatch.setattr(Journal, "begin_move", original)
        others_go_on()
        return original(journal, number)

    monkeypatch.setattr(Journal, "begin_move", held_up)
    moved: list[str] = []
    move = MlflowClient.set_registered_model_alias

    def noted(client: MlflowClient, name: str, alias_name: str, version: str) -> None:
        moved.append(version)
        move(client, name, alias_name, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", noted)
    assert promote(NAME, "2", expect_champion="1", why="better").champion == "3"
    assert moved == ["2", "3"]  # both by the others


@pytest.mark.usefixtures("three_versions")
def test_a_hand_during_a_promotion_that_was_killed_is_not_mistaken(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> None: ...

    interrupted(monkeypatch, "log_param", nothing, before=True, then_dies=True)
    with pytest.raises(KilledError):  # the entry is written, the alias still stands at 1
        promote(NAME, "2", expect_champion="1", why="better")
    assert settle(open_journal(NAME)).champion.version == "2"
    assert (alias(), kinds()) == ("2", ["promoted"] * 2)


@pytest.mark.usefixtures("three_versions")
def test_an_alias_that_others_move_while_one_looks_is_no_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    record_verdict(NAME, "3", verdict("3", "1"))

    def promoted() -> None:
        promote(NAME, "3", expect_champion="1", why="others were quicker")

    interrupted(monkeypatch, "get_registered_model", lambda: None, before=True, then_dies=False)
    journal = open_journal(NAME)
    # The journal is read before, the alias after the others' promotion.
    interrupted(monkeypatch, "get_registered_model", promoted, before=True, then_dies=False)
    assert settle(journal).champion.version == "3"
    assert kinds() == ["promoted"] * 2


@pytest.mark.usefixtures("three_versions")
def test_a_rollback_that_others_were_quicker_with_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    promote(NAME, "2", expect_champion="1", why="better")
    record_verdict(NAME, "3", verdict("3", "2"))
    promote(NAME, "3", expect_champion="2", why="better")

    def quicker() -> None:
        rollback(NAME, why="bad", who="others")

    interrupted(monkeypatch, "log_param", quicker, before=True, then_dies=False)
    with pytest.raises(ConflictError, match=r"expected champion 3, it is 2 \(rolled back on .* by others: bad\)"):
        rollback(NAME, why="bad")
    assert (alias(), kinds()) == ("2", ["promoted"] * 3 + ["rolled_back"])


@pytest.mark.usefixtures("three_versions")
def test_a_version_deleted_while_its_promotion_is_unfinished_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(monkeypatch, "log_param", lambda: None, before=True, then_dies=True)
    with pytest.raises(KilledError):
        promote(NAME, "2", expect_champion="1", why="better")
    MlflowClient().delete_model_version(NAME, "2")
    assert settle(open_journal(NAME)).champion.version == "1"
    assert (alias(), kinds()) == ("1", ["promoted", "promoted", "moved_by_hand"])
