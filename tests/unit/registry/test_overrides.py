"""Overrides: who may be let pass, for how long, and that everybody sees it."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from mlflow import MlflowClient

from components.errors import InputError
from components.registry.describing import OVERRIDE_TAG, refresh
from components.registry.entries import Promoted, iso
from components.registry.explaining import explain, history
from components.registry.journal import open_journal
from components.registry.promotion import promote
from components.registry.refusals import RefusalError
from components.registry.verdicts import MAX_DAYS, override, record_verdict
from tests.registering import NAME, alias, register, verdict

pytestmark = pytest.mark.usefixtures("project")


def in_days(days: float) -> str:
    return iso(datetime.now(UTC) + timedelta(days=days))


def failed(weights: bytes, *failures: tuple[str, str, str | None]) -> str:
    version = register(weights)
    record_verdict(NAME, version, verdict(version, None, *(failures or [("THRESHOLD_MISSED", "fd_efflite0", None)])))
    return version


def facts(version: str) -> dict[str, str]:
    return {fact.name: fact.value for fact in explain(NAME, version).sections["verdict"]}


def test_an_override_lets_a_failed_version_pass_and_is_shown_everywhere() -> None:
    version = failed(b"one", ("TOO_MANY_COPIES", "copies_by_pixels", None), ("THRESHOLD_MISSED", "fd_efflite0", "bag"))
    given = override(NAME, version, why="the fair is tomorrow", until=in_days(2), who="chief")
    outcome = promote(NAME, version, expect_champion=None, why="for the fair")
    assert isinstance(outcome.event, Promoted)
    assert (alias(), outcome.event.override) == (version, given.number)
    found = MlflowClient().get_model_version(NAME, version)
    shown = [found.tags[OVERRIDE_TAG], str(found.description), facts(version)["override"], outcome.override or ""]
    # A description is Markdown: signs that would mean something there stand behind a backslash.
    for text in (text.replace("\\", "") for text in shown):
        assert f"in force until {given.until}, by chief: the fair is tomorrow" in text
        assert "lifts TOO_MANY_COPIES copies_by_pixels, THRESHOLD_MISSED fd_efflite0 bag" in text
    assert str(found.description).startswith("FAILED, overridden, champion: copies_by_pixels of all is bad")
    assert [entry.kind for entry in history(NAME)] == ["judged", "overridden", "promoted"]


def test_an_override_covers_no_other_version() -> None:
    first, second = failed(b"one"), failed(b"two")
    override(NAME, first, why="the fair is tomorrow", until=in_days(2))
    with pytest.raises(RefusalError, match="the gate did not pass version 2"):
        promote(NAME, second, expect_champion=None, why="for the fair")


def test_an_expired_override_permits_nothing_and_a_champion_on_it_is_shown_as_such() -> None:
    version = failed(b"one")
    given = override(NAME, version, why="the fair is tomorrow", until=iso(datetime.now(UTC) + timedelta(seconds=20)))
    promote(NAME, version, expect_champion=None, why="for the fair")
    other = failed(b"two")
    record_verdict(NAME, other, verdict(other, version, ("THRESHOLD_MISSED", "fd_efflite0", None)))
    brief = override(NAME, other, why="the fair is tomorrow", until=iso(datetime.now(UTC) + timedelta(seconds=2)))
    while iso(datetime.now(UTC)) < max(given.until, brief.until):
        time.sleep(0.2)
    with pytest.raises(RefusalError) as caught:
        promote(NAME, other, expect_champion=version, why="for the fair")
    assert caught.value.code == "GATE_FAILED"
    refresh(open_journal(NAME))
    assert f"expired on {given.until}" in MlflowClient().get_model_version(NAME, version).tags[OVERRIDE_TAG]
    status = {fact.name: fact.value for fact in explain(NAME, version).sections["version"]}["status"]
    assert status == "champion, ON AN EXPIRED OVERRIDE"


def test_there_must_be_something_to_override() -> None:
    unjudged = register(b"one")
    passed = register(b"two")
    record_verdict(NAME, passed, verdict(passed, None))
    for version, says in ((unjudged, "no gate has judged version 1"), (passed, "the gate has passed version 2")):
        with pytest.raises(RefusalError, match=says):
            override(NAME, version, why="the fair is tomorrow", until=in_days(2))


@pytest.mark.parametrize("until", ["", "tomorrow", "2020-01-01", "2020-01-01T00:00:00Z", "9999-12-31", "2026-13-01"])
def test_an_override_ends_in_the_future_and_not_too_far(until: str) -> None:
    version = failed(b"one")
    with pytest.raises(InputError, match="until: found"):
        override(NAME, version, why="the fair is tomorrow", until=until)
    assert len(history(NAME)) == 1


def test_an_override_lasts_to_the_end_of_its_last_day() -> None:
    version = failed(b"one")
    last = (datetime.now(UTC) + timedelta(days=MAX_DAYS)).date()
    assert override(NAME, version, why="the fair", until=str(last)).until == f"{last}T23:59:59Z"
    offset = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    given = override(NAME, version, why="the fair", until=offset.astimezone().isoformat())
    assert given.until == iso(offset)
    for beyond in (str(last + timedelta(days=1)), in_days(MAX_DAYS + 1)):
        with pytest.raises(InputError, match=f"{last} is the last day allowed"):
            override(NAME, version, why="the fair", until=beyond)


def test_an_override_needs_a_reason() -> None:
    version = failed(b"one")
    with pytest.raises(InputError, match="why: found 0 characters"):
        override(NAME, version, why=" ", until=in_days(2))
