"""The alias `champion`: brought to where the journal wants it, and told from one that a hand has moved.

MLflow moves an alias whatever it was before, so a process that was held up may move it back after
others went on. Therefore every move of ours stands between two marks in the journal, and an entry
counts as finished only with the second. Where alias and journal differ, and no mark is open that
could explain it, somebody has moved the alias without us.
"""

import time

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from components.registry.describing import refresh
from components.registry.entries import Adopted, AnyEntry, MovedByHand, stamp
from components.registry.journal import Journal, registered_model
from components.registry.model_page import describe_model
from components.registry.state import State, fold

CHAMPION = "champion"

SECOND_LOOK = 0.5
"""Seconds before a difference is put down to a hand, if the journal has stayed the same until then: the alias
may be newer than the journal that was read before it, and a request of ours may be on its way twice."""


def champion_alias(name: str) -> str | None:
    """The version that MLflow shows as champion."""
    version = registered_model(name).aliases.get(CHAMPION)
    return None if version is None else str(version)


def settle(journal: Journal) -> State:
    """Finishes what anybody has left unfinished, until alias and journal agree.

    An alias that was moved by hand stays where it is; the journal takes note of it, and MLflow's pages say so.

    Returns:
        The journal's state then.
    """
    difference = None
    while True:
        record = journal.read()
        state = fold(record)
        if state.unfinished is not None:
            _move(journal, state)
            continue
        found = champion_alias(journal.name)
        if found == state.champion.version:
            return state
        if explained := [move for move in state.late if _target(state, move.number) == found]:
            _move(journal, state)
            for move in explained:
                journal.end_move(move.number, move.token)
        elif difference != (record, found):
            difference = (record, found)
            time.sleep(SECOND_LOOK)
        elif journal.append(_noted(journal.name, state, found)):
            # Whoever noticed may be refused what they came for: the pages are to say so all the same.
            refresh(journal)
            describe_model(journal, fold(journal.read()))


def _target(state: State, number: int) -> str | None:
    return next(change.to_version for change in state.changes if change.number == number)


def _move(journal: Journal, state: State) -> None:
    """Brings the alias to the champion of this state, or of a later one if there is one by then."""
    number = state.champion.number
    token = journal.begin_move(number)
    # After the mark: whoever writes a later entry from now on can see that this move may come late.
    if fold(journal.read()).champion.number == number:
        _set_alias(journal.name, state.champion.version)
        later = fold(journal.read())
        if later.champion.number != number:
            _move(journal, later)
    journal.end_move(number, token)


def _set_alias(name: str, version: str | None) -> None:
    client = MlflowClient()
    if version is None:
        client.delete_registered_model_alias(name, CHAMPION)
        return
    try:
        client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException as error:
        # A version deleted in between can be nobody's champion: the difference is noted as a hand's doing.
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _noted(name: str, state: State, found: str | None) -> AnyEntry:
    """The entry about an alias that the journal did not put there."""
    # With entries it is no alias from before: whoever made the journal has looked at it first of all.
    if not state.entries and found is not None:
        sha256 = MlflowClient().get_model_version(name, found).tags.get("vitrine.weights_sha256")
        why = "champion before there was a journal"
        return Adopted(
            **stamp(state.next_number, None, why), from_version=None, to_version=found, weights_sha256=sha256
        )
    why = "the alias was found here; who moved it is not known"
    return MovedByHand(
        **stamp(state.next_number, "unknown", why), from_version=state.champion.version, to_version=found
    )
