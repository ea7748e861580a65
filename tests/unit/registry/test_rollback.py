"""Rollbacks, and aliases that a hand has moved, against a real MLflow on SQLite."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from mlflow import MlflowClient

from components.registry import promotion
from components.registry.alias import CHAMPION
from components.registry.entries import RolledBack, iso, stamp
from components.registry.journal import open_journal
from components.registry.promotion import Outcome, promote, rollback
from components.registry.refusals import ConflictError, RefusalError
from components.registry.state import fold, was_rolled_back
from components.registry.verdicts import override, record_verdict
from tests.registering import (
    NAME,
    PROTOCOL,
    alias,
    champions,
    kinds,
    passed,
    register,
    set_alias,
    stored_weights,
    verdict,
)

pytestmark = pytest.mark.usefixtures("project")


def test_rollback_goes_back_one_by_one_until_there_is_none() -> None:
    champions(b"one", b"two", b"three")
    assert rollback(NAME, why="bad").champion == "2"
    assert rollback(NAME, why="bad as well").champion == "1"
    assert alias() == "1"
    with pytest.raises(RefusalError, match="there was none before it") as caught:
        rollback(NAME, why="bad as well", expect_champion="1")
    assert caught.value.code == "NO_EARLIER_CHAMPION"
    fourth = passed(b"four", "1")
    promote(NAME, fourth, expect_champion="1", why="better")
    assert rollback(NAME, why="bad").champion == "1"


def test_rollback_after_the_alias_was_moved_by_hand_goes_to_the_champion_before_that() -> None:
    champions(b"one", b"two")
    elsewhere = register(b"by hand")
    set_alias(elsewhere)
    assert rollback(NAME, why="who did that?").champion == "2"
    assert kinds()[-2:] == ["moved_by_hand", "rolled_back"]
    assert alias() == "2"
    assert rollback(NAME, why="further").champion == "1"


def test_rollback_after_the_alias_was_removed_by_hand() -> None:
    champions(b"one")
    MlflowClient().delete_registered_model_alias(NAME, CHAMPION)
    assert rollback(NAME, why="who did that?").champion == "1"
    assert alias() == "1"


def test_a_champion_by_hand_must_be_expected_as_any_other_and_is_not_gone_back_to() -> None:
    champions(b"one")
    set_alias(register(b"by hand"))
    third = passed(b"three", "1")
    assert "moved by hand" in str(conflict(third, "1"))
    record_verdict(NAME, third, verdict(third, "2"))
    assert promote(NAME, third, expect_champion="2", why="better").champion == "3"
    assert rollback(NAME, why="bad").champion == "1"


def conflict(version: str, expected: str) -> ConflictError:
    with pytest.raises(ConflictError) as caught:
        promote(NAME, version, expect_champion=expected, why="better")
    return caught.value


def test_a_champion_from_before_the_journal_is_adopted_and_can_be_gone_back_to() -> None:
    register(b"old")
    set_alias("1")
    second = passed(b"two", "1")
    promote(NAME, second, expect_champion="1", why="better")
    assert kinds() == ["adopted", "judged", "promoted"]
    assert rollback(NAME, why="bad").champion == "1"


def test_rollback_checks_the_weights() -> None:
    champions(b"one", b"two")
    stored_weights("1").write_bytes(b"other")
    with pytest.raises(RefusalError) as caught:
        rollback(NAME, why="bad")
    assert (caught.value.code, alias()) == ("WEIGHTS_MISMATCH", "2")


@pytest.mark.parametrize("asked", [{"to": "1"}, {"expect_champion": "2"}, {"key": "mine"}])
def test_a_rollback_that_another_has_begun_is_finished_before_what_is_asked_for(asked: dict[str, Any]) -> None:
    champions(b"one", b"two", b"three")
    journal = open_journal(NAME)
    state = fold(journal.read())
    judged = state.judged["2"]
    begun = RolledBack(
        **stamp(state.next_number, "somebody else", "bad"),
        from_version="3",
        to_version="2",
        weights_sha256=judged.weights_sha256,
        skipped=(),
    )
    assert journal.append(begun)
    assert rollback(NAME, why="bad", **asked).champion == "1"
    assert kinds()[-2:] == ["rolled_back", "rolled_back"]


def test_rollback_passes_over_a_version_that_was_deleted() -> None:
    champions(b"one", b"two", b"three")
    MlflowClient().delete_model_version(NAME, "2")
    outcome = rollback(NAME, why="bad")
    assert isinstance(outcome.event, RolledBack)
    assert (outcome.champion, outcome.event.skipped) == ("1", ("2",))
    MlflowClient().delete_model_version(NAME, "1")
    with pytest.raises(RefusalError, match="none before it"):
        rollback(NAME, why="bad as well")


def test_rollback_of_another_champion_than_the_expected_is_refused() -> None:
    champions(b"one", b"two")
    rollback(NAME, why="bad", expect_champion="2")
    with pytest.raises(ConflictError, match="expected champion 2, it is 1"):
        rollback(NAME, why="bad", expect_champion="2")


def test_a_version_rolled_back_stays_so_until_it_is_measured_otherwise() -> None:
    champions(b"one", b"two")

    def out() -> bool:
        return was_rolled_back(fold(open_journal(NAME).read()), "2")

    assert not out()
    rollback(NAME, why="bad")
    assert out()
    record_verdict(NAME, "2", {**verdict("2", "1"), "checks": ["the same measurement, once more"]})
    assert out()
    record_verdict(NAME, "2", {**verdict("2", "1"), "protocol": PROTOCOL.replace("abc", "new")})
    assert not out()
    promote(NAME, "2", expect_champion="1", why="better on new photos")
    set_alias("1")
    record_verdict(NAME, "2", verdict("2", "1"))
    assert out()


def test_an_alias_set_by_hand_after_a_verdict_is_no_champion_from_before() -> None:
    version = register(b"one")
    record_verdict(NAME, version, verdict(version, None, ("THRESHOLD_MISSED", "fd_efflite0", None)))
    set_alias(version)
    with pytest.raises(RefusalError, match="none before it"):
        rollback(NAME, why="who did that?")
    assert kinds() == ["judged", "moved_by_hand"]


def test_a_rollback_repeated_since_its_answer_was_lost_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    champions(b"one", b"two", b"three")
    first = rollback(NAME, why="bad")
    assert rollback(NAME, why=" bad ") == Outcome(NAME, first.event, "2", repeated=True)
    assert rollback(NAME, why="bad", to="2").repeated
    assert (alias(), kinds()[-2:]) == ("2", ["promoted", "rolled_back"])
    # Somebody else, another reason or the champion by name mean a new one; so does the same after some time.
    assert rollback(NAME, why="bad", expect_champion="2").champion == "1"
    monkeypatch.setattr(promotion, "REPEATED_WITHIN", timedelta(seconds=-5))
    with pytest.raises(RefusalError, match="none before it"):
        rollback(NAME, why="bad")


def test_a_rollback_is_repeated_by_the_same_person_alone() -> None:
    champions(b"one", b"two", b"three")
    rollback(NAME, why="bad")
    assert rollback(NAME, why="bad", who="bert").champion == "1"


def test_a_rollback_is_the_last_thing_that_happened_or_a_new_one() -> None:
    champions(b"one", b"two")
    rollback(NAME, why="bad")
    promote(NAME, "2", expect_champion="1", why="it was the monitor")
    assert not rollback(NAME, why="bad").repeated
    assert alias() == "1"


def test_a_key_never_rolls_back_twice() -> None:
    champions(b"one", b"two", b"three")
    first = rollback(NAME, why="bad", key="ticket 7")
    promote(NAME, "3", expect_champion="2", why="it was the monitor")
    assert rollback(NAME, why="still bad", key="ticket 7") == Outcome(NAME, first.event, "3", repeated=True)
    with pytest.raises(RefusalError, match="stands for the rollback to version 2") as caught:
        rollback(NAME, why="bad", key="ticket 7", to="1")
    assert caught.value.code == "KEY_REUSED"
    with pytest.raises(RefusalError, match="stands for the rollback to version 2"):
        promote(NAME, "1", expect_champion="3", why="better", key="ticket 7")


def test_another_key_is_another_rollback_also_at_once() -> None:
    champions(b"one", b"two", b"three")
    rollback(NAME, why="bad", key="ticket 7")
    assert rollback(NAME, why="bad", key="ticket 8").champion == "1"


def test_rollback_warns_of_a_champion_that_nobody_answers_for_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    version = register(b"one")
    record_verdict(NAME, version, verdict(version, None, ("THRESHOLD_MISSED", "fd_efflite0", None)))
    until = iso(datetime.now(UTC) + timedelta(days=1))
    override(NAME, version, why="the fair is tomorrow", until=until, who="chief")
    assert promote(NAME, version, expect_champion=None, why="for the fair").warning is None
    promote(NAME, passed(b"two", version), expect_champion=version, why="better")

    class Later:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.now(zone) + timedelta(days=2)

    monkeypatch.setattr("components.registry.promotion.datetime", Later)
    monkeypatch.setattr("components.registry.model_page.datetime", Later)
    outcome = rollback(NAME, why="bad")
    assert outcome.champion == version
    said = f"override expired on {until}, by chief: the fair is tomorrow (lifts THRESHOLD_MISSED fd_efflite0)"
    assert said in str(outcome.warning)
    page = str(MlflowClient().get_registered_model(NAME).description).replace("\\", "")
    assert f"**Warning**: the gate did not pass version {version}" in page
    assert said in page


def test_rollback_warns_of_a_champion_that_failed_since_and_of_no_other() -> None:
    champions(b"one", b"two", b"three")
    assert rollback(NAME, why="bad").warning is None
    record_verdict(NAME, "1", verdict("1", "2", ("THRESHOLD_MISSED", "fd_efflite0", None)))
    assert "newest verdict on version 1 is FAILED" in str(rollback(NAME, why="bad as well").warning)
