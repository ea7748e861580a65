"""Notes down what a gate said, and who answers for a version that it did not pass."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeGuard

from components.errors import InputError
from components.registry.alias import settle
from components.registry.describing import describe
from components.registry.entries import LIMIT, AnyEntry, Judged, Overridden, digest_of, iso, line, stamp
from components.registry.journal import Journal, open_journal
from components.registry.marking import mark_override
from components.registry.model_page import describe_model
from components.registry.permission import NEVER_LIFTED, outdated
from components.registry.refusals import RefusalError
from components.registry.state import State
from components.registry.telling import tell as tell_people
from components.registry.weights import model_version

MAX_DAYS = 90
"""An override that is still needed after this long is a policy that should be changed."""

REASONS, REASON_LIMIT = 8, 200
"""Reasons that an entry holds as sentences, and their characters; the report has them all."""

ROOM = LIMIT - 500
"""Characters that failures may fill an entry up to."""


def record_verdict(
    name: str,
    version: str,
    verdict: Mapping[str, Any],
    *,
    report: str | None = None,
    basis: str = "",
    who: str | None = None,
) -> Judged:
    """Notes a gate's verdict on a registered version; the same one again is noted once, unless it was outdated.

    Args:
        verdict: content of verdict.json: verdict, reasons, weights_sha256, protocol, policy, baseline. The
            baseline names the champion also where that could not be measured.
        report: address of the evaluation's report.
        basis: whose policy and code it was, in words.

    Raises:
        InputError: the verdict is damaged, or contradicts itself, or there is no such version.
    """
    journal = open_journal(name)
    model_version(name, version)
    fields = _fields(version, verdict, report)
    while True:
        state = settle(journal)
        known = state.judged.get(version)
        if known is not None and known.digest == fields["digest"] and outdated(state, known) is None:
            _shown(journal, state, version)
            return known
        entry = _fitted(Judged(**stamp(state.next_number, who, f"gate {fields['verdict']} {basis}"), **fields))
        if journal.append(entry):
            _shown(journal, settle(journal), version)
            return entry


def override(
    name: str, version: str, *, why: str, until: str, who: str | None = None, tell: bool = False
) -> Overridden:
    """Lets a version be promoted though its gate failed, until a day, in somebody's name.

    It lifts the failures of the newest verdict and no others, and never a mismatch of weights. Asked for
    again in the same words it is the same one, and what a killed process has left of it is finished.

    Args:
        tell: as in `components.registry.promotion.promote`.
        until: ISO 8601: a day, which counts to its end, or a moment, UTC if it names no offset; in the
            future, at most MAX_DAYS days.

    Raises:
        RefusalError: the version was never judged, or its gate passed.
        InputError: no reason is given, `until` is no such time, or there is no such version.
    """
    end = _until(until, datetime.now(UTC))
    journal = open_journal(name)
    model_version(name, version)
    while True:
        state = settle(journal)
        judged = state.judged.get(version)
        if judged is None or judged.verdict == "PASSED":
            said = "no gate has judged" if judged is None else "the gate has passed"
            aged = judged and outdated(state, judged)
            more = (
                f". But {aged}: no override lifts that, `vitrine judge {name} {version}` judges it again"
                if aged
                else ""
            )
            raise RefusalError("NOTHING_TO_OVERRIDE", f"{name}: {said} version {version}: nothing to override{more}")
        stamped = stamp(state.next_number, who, why)
        entry = Overridden(**stamped, version=version, until=end, judged=judged.number, tell=tell)
        given = next((found for found in state.entries if _same(found, entry)), None)
        if given is not None or journal.append(entry):
            entry = given or entry
            mark_override(name, judged, entry)
            _shown(journal, settle(journal), version, own=entry.number)
            return entry


def _same(found: AnyEntry, asked: Overridden) -> TypeGuard[Overridden]:
    words = (asked.version, asked.until, asked.judged, asked.who, asked.why)
    return isinstance(found, Overridden) and words == (found.version, found.until, found.judged, found.who, found.why)


def _shown(journal: Journal, state: State, version: str, own: int | None = None) -> None:
    """Has the pages say what the journal does, and people told of what they were not."""
    describe(journal, state, {version})
    describe_model(journal, state)
    tell_people(journal, own)


def _until(text: str, now: datetime) -> str:
    """The end of an override as UTC."""
    last = (now + timedelta(days=MAX_DAYS)).date()
    try:
        if len(text.strip()) == len("2026-01-31"):
            end = _end_of(date.fromisoformat(text.strip()))
        else:
            end = datetime.fromisoformat(text.strip())
            end = (end if end.tzinfo else end.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InputError(f"until: found {text!r}; give a day or a moment, as in {_example(now)}") from None
    if not now < end <= _end_of(last):
        wrong = "it is over" if end <= now else f"that is more than {MAX_DAYS} days ahead"
        raise InputError(f"until: found {text!r}; {wrong}: give a moment in the future, {last} is the last day allowed")
    return iso(end)


def _end_of(day: date) -> datetime:
    return datetime.combine(day, datetime.max.time(), UTC)


def _example(now: datetime) -> str:
    day = (now + timedelta(days=14)).date()
    return f"{day} or {day}T12:00:00Z"


def _fields(version: str, verdict: Mapping[str, Any], report: str | None) -> dict[str, Any]:
    """What an entry holds of verdict.json."""
    try:
        word, reasons, baseline = verdict["verdict"], verdict["reasons"], verdict["baseline"]
        if word not in ("PASSED", "FAILED"):
            raise ValueError(f"verdict is {word!r}")
        if (word == "PASSED") != (not reasons):
            raise ValueError(f"{word} with {len(reasons)} reasons")
        return {
            "version": version,
            "verdict": word,
            "failures": tuple(_failure(reason) for reason in reasons),
            "reasons": tuple(_short(reason["text"]) for reason in reasons[:REASONS]),
            "cut": 0,
            "weights_sha256": _text(verdict["weights_sha256"]),
            "protocol": _text(verdict["protocol"]),
            "policy": None if verdict.get("policy") is None else _text(verdict["policy"]),
            "baseline": None if baseline is None else _text(baseline["version"]),
            "report": None if report is None else line("report", report, 1000),
            "digest": digest_of(verdict),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"version {version}: its verdict cannot be used ({error!r}); run `dvc repro` to judge anew"
        ) from None


def _failure(reason: Mapping[str, Any]) -> str:
    parts = (reason["code"], reason.get("metric"), reason.get("category"))
    return " ".join(_short(part) for part in parts if part)


def _short(text: Any) -> str:
    whole = " ".join(_text(text).split())
    return whole if len(whole) <= REASON_LIMIT else f"{whole[: REASON_LIMIT - 1]}…"


def _text(found: Any) -> str:
    if not isinstance(found, str) or not found:
        raise TypeError(f"{found!r} is no text")
    return found


def _fitted(entry: Judged) -> Judged:
    """The entry with as many failures as there is room for; those that no override lifts are never cut."""
    if len(entry.model_dump_json()) > ROOM:
        failures = sorted(entry.failures, key=lambda failure: failure.split()[0] not in NEVER_LIFTED)
        entry = entry.model_copy(update={"failures": tuple(failures)})
    while len(entry.model_dump_json()) > ROOM and entry.failures:
        entry = entry.model_copy(update={"failures": entry.failures[:-1], "cut": entry.cut + 1})
    return entry
