"""Promotions, against a real MLflow on SQLite."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from components.errors import InputError
from components.registry.entries import Promoted
from components.registry.explaining import explain, history
from components.registry.promotion import Outcome, promote, rollback
from components.registry.refusals import ConflictError, RefusalError
from components.registry.verdicts import override, record_verdict
from tests.registering import NAME, PROTOCOL, alias, champions, kinds, passed, register, stored_weights, verdict

pytestmark = pytest.mark.usefixtures("project")


def refused(code: str, version: str, expected: str | None) -> RefusalError:
    before, moved = len(history(NAME)), alias()
    with pytest.raises(RefusalError) as caught:
        promote(NAME, version, expect_champion=expected, why="better")
    assert caught.value.code == code
    assert (len(history(NAME)), alias()) == (before, moved)
    return caught.value


def test_a_version_that_passed_becomes_champion_and_the_journal_says_who_when_and_why() -> None:
    version = passed(b"one", None)
    outcome = promote(NAME, version, expect_champion=None, why="first one", who="bert")
    assert (outcome.champion, outcome.repeated, alias()) == ("1", False, "1")
    judged, event = history(NAME)
    assert event == outcome.event
    assert (event.kind, event.who, event.why, judged.who) == ("promoted", "bert", "first one", "anna")
    assert isinstance(event, Promoted)
    assert (event.from_version, event.to_version, event.judged) == (None, "1", 1)
    assert outcome.event.when.endswith("Z")


def test_the_next_one_is_expected_to_replace_the_present_champion() -> None:
    champions(b"one", b"two")
    assert alias() == "2"
    third = passed(b"three", "2")
    error = refused("CONFLICT", third, "1")
    assert isinstance(error, ConflictError)
    assert error.champion == "2"
    assert "expected champion 1, it is 2 (promoted on" in str(error)
    refused("CONFLICT", third, None)
    assert promote(NAME, third, expect_champion="2", why="better").champion == "3"


def test_what_no_gate_has_judged_is_refused() -> None:
    refused("NOT_JUDGED", register(b"one"), None)


def test_a_failed_gate_is_refused_with_its_reasons_and_what_would_be_needed() -> None:
    version = register(b"one")
    record_verdict(NAME, version, verdict(version, None, ("THRESHOLD_MISSED", "fd_efflite0", "dress")))
    error = refused("GATE_FAILED", version, None)
    assert "fd_efflite0 of dress is bad" in str(error)
    assert "vitrine override vitrine-gan 1" in str(error)
    assert error.facts["failures"] == ["THRESHOLD_MISSED fd_efflite0 dress"]


def test_the_newest_verdict_counts() -> None:
    version = passed(b"one", None)
    record_verdict(NAME, version, verdict(version, None, ("THRESHOLD_MISSED", "fd_efflite0", None)))
    refused("GATE_FAILED", version, None)


def test_a_comparison_with_another_champion_is_stale_also_under_an_override() -> None:
    champions(b"one")
    stale = passed(b"two", None)
    assert "compared with champion none" in str(refused("STALE_BASELINE", stale, "1"))
    record_verdict(NAME, stale, verdict(stale, None, ("THRESHOLD_MISSED", "fd_efflite0", None)))
    override(NAME, stale, why="needed for the fair", until=tomorrow())
    refused("STALE_BASELINE", stale, "1")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": PROTOCOL.replace("abc", "new")}, r"the protocol in dataset \(abc and new\)"),
        ({"policy": "0123456789ab"}, "the policy"),
    ],
)
def test_a_verdict_is_outdated_once_models_are_judged_otherwise(change: dict[str, str], told: str) -> None:
    champions(b"one")
    older, newer = passed(b"two", "1"), register(b"three")
    record_verdict(NAME, newer, {**verdict(newer, "1"), **change})
    error = refused("OUTDATED", older, "1")
    assert re.search(f"verdict on version 3 shows: {told}", str(error))
    assert "`vitrine judge vitrine-gan 2`" in str(error)
    shown = {fact.name: fact.value for fact in explain(NAME, older).sections["verdict"]}
    assert "was judged on" in shown["outdated"]
    for version in ("1", newer):  # the champion needs no verdict any more
        assert "outdated" not in {fact.name for fact in explain(NAME, version).sections["verdict"]}
    record_verdict(NAME, older, {**verdict(older, "1", ("THRESHOLD_MISSED", "fd_efflite0", None))})
    override(NAME, older, why="needed for the fair", until=tomorrow())
    record_verdict(NAME, newer, {**verdict(newer, "1"), **change, "checks": ["once more"]})
    refused("OUTDATED", older, "1")
    # Judged again with the very result of before, it is the newest.
    record_verdict(NAME, older, verdict(older, "1", ("THRESHOLD_MISSED", "fd_efflite0", None)))
    refused("OUTDATED", newer, "1")
    record_verdict(NAME, newer, {**verdict(newer, "1"), **change})
    assert promote(NAME, newer, expect_champion="1", why="judged as it is done now").champion == newer


def test_a_verdict_by_an_older_measure_promotes_nobody() -> None:
    old = register(b"one")
    record_verdict(NAME, old, {**verdict(old, None), "protocol": "version=1; features=efflite0"})
    assert "by a measure that this version of Vitrine has not" in str(refused("OUTDATED", old, None))


def test_a_verdict_that_could_not_be_used_makes_no_other_outdated() -> None:
    champions(b"one")
    good, unknown = passed(b"two", "1"), register(b"three")
    failed = verdict(unknown, "1", ("UNKNOWN_PROTOCOL", "", None))
    record_verdict(NAME, unknown, {**failed, "protocol": "version=1; dataset=abc"})
    assert promote(NAME, good, expect_champion="1", why="better").champion == good


def tomorrow() -> str:
    return (datetime.now(UTC) + timedelta(days=1)).date().isoformat()


def test_weights_that_were_changed_in_the_store_are_refused_also_under_an_override() -> None:
    version = passed(b"one", None)
    stored_weights(version).write_bytes(b"other")
    assert "No override lifts this" in str(refused("WEIGHTS_MISMATCH", version, None))
    record_verdict(NAME, version, verdict(version, None, ("THRESHOLD_MISSED", "fd_efflite0", None)))
    override(NAME, version, why="needed for the fair", until=tomorrow())
    refused("WEIGHTS_MISMATCH", version, None)


def test_a_verdict_on_other_weights_is_refused() -> None:
    version = register(b"one")
    other = {**verdict(version, None), "weights_sha256": "0" * 64}
    record_verdict(NAME, version, other)
    refused("WEIGHTS_MISMATCH", version, None)


def test_a_version_without_weights_is_told() -> None:
    version = passed(b"one", None)
    stored_weights(version).unlink()
    with pytest.raises(InputError, match=r"holds 0 files weights\.safetensors"):
        promote(NAME, version, expect_champion=None, why="better")


def test_the_champion_is_not_promoted_over_itself() -> None:
    champions(b"one")
    refused("ALREADY_CHAMPION", "1", "1")


def test_the_same_request_again_finds_it_done() -> None:
    champions(b"one")
    version = passed(b"two", "1")
    first = promote(NAME, version, expect_champion="1", why="better")
    again = promote(NAME, version, expect_champion="1", why="better", who="somebody else")
    assert again == Outcome(NAME, first.event, "2", repeated=True)
    assert len(history(NAME)) == 4


def test_the_same_request_is_a_new_one_once_the_champion_has_come_back() -> None:
    champions(b"one", b"two")
    rollback(NAME, why="looks bad")
    assert promote(NAME, "2", expect_champion="1", why="it was the monitor").repeated is False
    assert alias() == "2"


def test_the_default_request_conflicts_once_others_went_on() -> None:
    champions(b"one", b"two", b"three")
    refused("CONFLICT", "2", "1")


def test_a_key_returns_what_happened_then_whatever_happened_since() -> None:
    version = passed(b"one", None)
    first = promote(NAME, version, expect_champion=None, why="better", key="run 7")
    second = passed(b"two", "1")
    promote(NAME, second, expect_champion="1", why="better")
    again = promote(NAME, version, expect_champion=None, why="better", key="run 7")
    assert again == Outcome(NAME, first.event, "2", repeated=True)
    with pytest.raises(RefusalError, match="stands for the promotion of version 1") as caught:
        promote(NAME, second, expect_champion="1", why="better", key="run 7")
    assert caught.value.code == "KEY_REUSED"


def test_the_same_verdict_is_noted_once() -> None:
    version = register(b"one")
    first = record_verdict(NAME, version, verdict(version, None))
    assert record_verdict(NAME, version, verdict(version, None)) == first
    assert len(history(NAME)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "MAYBE"},
        {"verdict": "FAILED"},
        {"reasons": [{"code": "X", "text": "y"}]},
        {"weights_sha256": None},
        {"protocol": None},
        {"baseline": {"version": None}},
    ],
)
def test_a_damaged_verdict_is_not_noted(change: dict[str, object]) -> None:
    version = register(b"one")
    with pytest.raises(InputError, match="its verdict cannot be used"):
        record_verdict(NAME, version, {**verdict(version, None), **change})
    assert history(NAME) == []


def test_a_verdict_with_very_many_failures_still_fits() -> None:
    version = register(b"one")
    failures = [("THRESHOLD_MISSED", f"metric_{n}_with_a_long_name", f"category {n}") for n in range(399)]
    # What no override lifts is never cut, wherever it stands.
    entry = record_verdict(NAME, version, verdict(version, None, *failures, ("OTHER_WEIGHTS", "weights", None)))
    assert len(entry.failures) + entry.cut == 400
    assert 20 < len(entry.failures) < 400
    assert "OTHER_WEIGHTS weights" in entry.failures
    assert f"and {400 - 8} more" in str(refused("GATE_FAILED", version, None))


@pytest.mark.parametrize(
    ("name", "version", "says"),
    [
        ("vitrine-none", "1", r"no model 'vitrine-none'; it has \['vitrine-gan'\]|has no version 1"),
        (NAME, "7", r"has no version 7; it has \[1\]"),
        (NAME, "newest", "give a number"),
    ],
)
def test_what_the_registry_does_not_have_is_told(name: str, version: str, says: str) -> None:
    passed(b"one", None)
    with pytest.raises(InputError, match=says):
        promote(name, version, expect_champion=None, why="better")


@pytest.mark.parametrize("why", ["", "  ", "x" * 1001, "a\x1bb"])
def test_a_reason_must_be_given_in_plain_text(why: str) -> None:
    version = passed(b"one", None)
    with pytest.raises(InputError, match="why: "):
        promote(NAME, version, expect_champion=None, why=why)
    assert (kinds(), alias()) == (["judged"], None)
