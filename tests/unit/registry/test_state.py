"""What journals amount to, for journals written by hand."""

from datetime import UTC, datetime

import pytest

from components.errors import InputError
from components.registry.entries import (
    Adopted,
    AnyEntry,
    Judged,
    MovedByHand,
    Overridden,
    Promoted,
    RolledBack,
    line,
    parse,
    stamp,
)
from components.registry.journal import Move, Record
from components.registry.state import State, fold, override_in_force, stands_on_expired_override

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def promoted(number: int, before: str | None, version: str) -> Promoted:
    return Promoted(
        **stamp(number, "anna", "why"),
        from_version=before,
        to_version=version,
        expect=before,
        key=f"key {number}",
        weights_sha256=f"weights {version}",
        judged=1,
        override=None,
    )


def rolled_back(number: int, before: str, version: str) -> RolledBack:
    stamped = stamp(number, "anna", "why")
    return RolledBack(**stamped, from_version=before, to_version=version, weights_sha256="w", skipped=())


def by_hand(number: int, before: str | None, version: str | None) -> MovedByHand:
    return MovedByHand(**stamp(number, "anna", "why"), from_version=before, to_version=version)


def judged(number: int, *failures: str, weights: str = "w", cut: int = 0) -> Judged:
    return Judged(
        **stamp(number, "gate", "why"),
        version="1",
        verdict="FAILED" if failures else "PASSED",
        failures=failures,
        reasons=failures,
        cut=cut,
        weights_sha256=weights,
        protocol="p",
        baseline=None,
        report=None,
        digest=str(number),
    )


def overridden(number: int, lifts: int, until: str = "2026-06-01T00:00:00Z") -> Overridden:
    return Overridden(**stamp(number, "anna", "why"), version="1", until=until, judged=lifts)


def folded(*entries: AnyEntry, moves: frozenset[Move] = frozenset()) -> State:
    return fold(Record(entries, moves))


def earlier(state: State) -> list[str | None]:
    return [reign.version for reign in state.earlier]


def test_an_empty_journal_has_no_champion() -> None:
    state = folded()
    assert (state.champion.version, state.earlier, state.next_number) == (None, (), 1)


def test_promotions_stack_up_and_rollbacks_take_them_off() -> None:
    steps: list[AnyEntry] = [promoted(1, None, "1"), promoted(2, "1", "2"), promoted(3, "2", "3")]
    assert earlier(folded(*steps)) == ["1", "2"]
    steps.append(rolled_back(4, "3", "2"))
    assert (folded(*steps).champion.version, earlier(folded(*steps))) == ("2", ["1"])
    steps.append(promoted(5, "2", "4"))
    assert earlier(folded(*steps)) == ["1", "2"]
    steps.append(rolled_back(6, "4", "1"))  # version 2 was deleted
    assert (folded(*steps).champion.version, earlier(folded(*steps))) == ("1", [])


def test_a_hand_moving_the_alias_several_times_leaves_one_champion_to_go_back_to() -> None:
    state = folded(promoted(1, None, "1"), by_hand(2, "1", "8"), by_hand(3, "8", "9"), by_hand(4, "9", None))
    assert (state.champion.version, earlier(state)) == (None, ["1"])


def test_a_hand_moving_to_a_champion_of_before_makes_it_one_again() -> None:
    state = folded(promoted(1, None, "1"), promoted(2, "1", "2"), by_hand(3, "2", "1"), promoted(4, "1", "3"))
    assert earlier(state) == ["1", "2", "1"]
    assert state.earlier[-1].weights_sha256 == "weights 1"


def test_an_adopted_champion_can_be_gone_back_to() -> None:
    old = Adopted(**stamp(1, "anna", "why"), from_version=None, to_version="5", weights_sha256=None)
    assert earlier(folded(old, promoted(2, "5", "6"))) == ["5"]


def test_a_change_is_finished_with_the_first_move_that_is_done() -> None:
    one = promoted(1, None, "1")
    assert folded(one).unfinished == one
    begun = Move(1, "a", done=False)
    assert folded(one, moves=frozenset({begun})).unfinished == one
    assert folded(one, moves=frozenset({begun, Move(1, "b", done=True)})).unfinished is None


def test_open_moves_of_earlier_changes_may_come_late() -> None:
    moves = frozenset({Move(1, "a", done=False), Move(1, "b", done=True), Move(2, "c", done=False)})
    assert folded(promoted(1, None, "1"), promoted(2, "1", "2"), moves=moves).late == {Move(1, "a", done=False)}


@pytest.mark.parametrize(
    ("newer", "covered"),
    [
        (judged(3, "A x"), True),
        (judged(3, "A x", "B y"), True),
        (judged(3, "A x", "B y", "C z"), False),
        (judged(3, "A x", weights="other"), False),
        (judged(3, "A x", cut=1), False),
    ],
)
def test_an_override_lifts_the_failures_it_was_given_for(newer: Judged, covered: bool) -> None:
    state = folded(judged(1, "A x", "B y"), overridden(2, lifts=1), newer)
    assert (override_in_force(state, "1", NOW) is not None) is covered


def test_an_override_ends_on_time_and_covers_no_other_version() -> None:
    state = folded(judged(1, "A x"), overridden(2, lifts=1, until="2026-05-01T00:00:01Z"))
    assert override_in_force(state, "1", NOW) == state.entries[1]
    assert override_in_force(state, "2", NOW) is None
    assert override_in_force(state, "1", NOW.replace(second=1)) is None


def test_a_champion_is_told_to_stand_on_an_expired_override() -> None:
    entries = (judged(1, "A x"), overridden(2, lifts=1), promoted(3, None, "1"))
    assert not stands_on_expired_override(folded(*entries), NOW)
    late = NOW.replace(month=7)
    assert stands_on_expired_override(folded(*entries), late)
    again = overridden(4, lifts=1, until="2026-08-01T00:00:00Z")
    assert not stands_on_expired_override(folded(*entries, again), late)
    assert not stands_on_expired_override(folded(*entries, judged(4)), late)


def test_entries_are_read_as_they_were_written() -> None:
    for entry in (
        promoted(1, None, "1"),
        rolled_back(2, "2", "1"),
        by_hand(3, "1", None),
        judged(4, "ä"),
        overridden(5, 4),
    ):
        assert parse(entry.model_dump_json(), "here") == entry


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "promoted"}', "[1]", '{"kind": "sold", "number": 1}'])
def test_what_is_no_entry_is_told(text: str) -> None:
    with pytest.raises(InputError, match="here: no entry"):
        parse(text, "here")


def test_texts_are_one_line() -> None:
    assert line("why", " two\n  lines ", 20) == "two lines"
    with pytest.raises(InputError, match="why: found 21 characters; give 1 to 20"):
        line("why", "x" * 21, 20)
