"""Makes a version champion, or takes it back: each a compare-and-swap on the journal."""

from dataclasses import dataclass
from datetime import UTC, datetime

from components.registry.alias import settle
from components.registry.describing import describe, describe_verdict
from components.registry.entries import NAME_LIMIT, Judged, Overridden, Promoted, RolledBack, line, stamp
from components.registry.journal import Journal, open_journal
from components.registry.refusals import ConflictError, RefusalError, shown
from components.registry.state import Reign, State, fold, override_in_force
from components.registry.weights import check_weights, find_version, model_version

NEVER_LIFTED = ("OTHER_WEIGHTS", "UNREADABLE", "UNKNOWN_PROTOCOL")
"""Failures that leave nothing to answer for: what was judged is not this version, or not known."""


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        event: the journal's entry about it.
        champion: afterwards; another one than the event's if others went on meanwhile.
        repeated: the entry was there already, of an earlier try or of somebody else's same request.
    """

    name: str
    event: Promoted | RolledBack
    champion: str | None
    repeated: bool


def promote(
    name: str, version: str, *, expect_champion: str | None, why: str, who: str | None = None, key: str | None = None
) -> Outcome:
    """Makes a version champion if its gate passed and the champion is still the one that was expected.

    Killed at any point it can be called again: the promotion is finished, once.

    Args:
        expect_champion: the present champion as the caller knows it; None: there is none.
        who: default: `author()`.
        key: of the request. One that was used before returns what happened then, whatever the champion
            is now. By default a request is the same if version and expected champion are, and that
            champion was not put in place anew in between.

    Raises:
        ConflictError: the champion is another one; it is named.
        RefusalError: there is no verdict, it is FAILED and no override is in force, the comparison was with
            another champion, the registry's weights are not those that were judged, or the key was used
            for something else.
        InputError: there is no such model or version, or MLflow cannot be used.
    """
    key = None if key is None else line("key", key, NAME_LIMIT)
    journal = open_journal(name)
    model_version(name, version)
    checked = None
    while True:
        state = settle(journal)
        request = key or _default_key(state, version, expect_champion)
        if before := _repeated(name, state, version, request, by_default=key is None):
            describe(journal, state, _touched(before))
            return Outcome(name, before, state.champion.version, repeated=True)
        judged, override = _permission(name, state, version, expect_champion)
        if checked != judged.weights_sha256:
            check_weights(name, version, judged.weights_sha256)
            checked = judged.weights_sha256
        entry = Promoted(
            **stamp(state.next_number, who, why),
            from_version=state.champion.version,
            to_version=version,
            expect=expect_champion,
            key=request,
            weights_sha256=judged.weights_sha256,
            judged=judged.number,
            override=None if override is None else override.number,
        )
        if journal.append(entry):
            return _finished(journal, entry)


def rollback(
    name: str, *, why: str, who: str | None = None, expect_champion: str | None = None, to: str | None = None
) -> Outcome:
    """Makes the previous champion champion again; twice goes two back.

    Where the alias was moved by hand, this goes to the last champion before that. A rollback that was
    begun and not finished is finished instead of going back once more.

    Args:
        expect_champion: refuse unless this one is champion; None: whichever is.
        to: an earlier champion, where the previous one's weights are damaged, say; None: the previous one.

    Raises:
        ConflictError: the champion is not the expected one, or another process has changed it meanwhile.
        RefusalError: there is no champion to go back to, or its weights are not those that were promoted.
        InputError: there is no such model, or MLflow cannot be used.
    """
    journal = open_journal(name)
    begun = _unfinished_rollback(journal)
    expected: Reign | None = None
    while True:
        state = settle(journal)
        if begun is not None:
            describe(journal, state, _touched(begun))
            return Outcome(name, begun, state.champion.version, repeated=True)
        expected = expected or state.champion
        if state.champion != expected or expect_champion not in (None, state.champion.version):
            raise ConflictError(name, expect_champion or expected.version, state.champion.version, _how(state))
        target, skipped = _target(name, state, to)
        sha256 = check_weights(name, _version(target), target.weights_sha256)
        entry = RolledBack(
            **stamp(state.next_number, who, why),
            from_version=state.champion.version,
            to_version=_version(target),
            weights_sha256=sha256,
            skipped=skipped,
        )
        if journal.append(entry):
            return _finished(journal, entry)


def _finished(journal: Journal, entry: Promoted | RolledBack) -> Outcome:
    state = settle(journal)
    describe(journal, state, _touched(entry))
    return Outcome(journal.name, entry, state.champion.version, repeated=False)


def _touched(entry: Promoted | RolledBack) -> set[str]:
    return {entry.to_version} | ({entry.from_version} if entry.from_version else set())


def _default_key(state: State, version: str, expected: str | None) -> str:
    """Names the request by what it wants and by the entry that made the expected champion."""
    made = max((change.number for change in state.changes if change.to_version == expected), default=0)
    return f"{version} in place of {shown(expected)}, champion by entry {made}"


def _repeated(name: str, state: State, version: str, key: str, *, by_default: bool) -> Promoted | None:
    """The entry of an earlier request with this key."""
    found = next((entry for entry in state.entries if isinstance(entry, Promoted) and entry.key == key), None)
    if found is None or (by_default and state.champion.number != found.number):
        return None
    if found.to_version != version:
        raise RefusalError(
            "KEY_REUSED",
            f"{name}: key {key!r} stands for the promotion of version {found.to_version} on {found.when}; "
            "give a new request a key of its own",
            version=found.to_version,
        )
    return found


def _permission(name: str, state: State, version: str, expected: str | None) -> tuple[Judged, Overridden | None]:
    """The verdict, and the override where it takes one, on which the version may be promoted."""
    champion = state.champion.version
    if champion != expected:
        raise ConflictError(name, expected, champion, _how(state))
    if champion == version:
        raise RefusalError("ALREADY_CHAMPION", f"{name}: version {version} is the champion already", champion=champion)
    judged = state.judged.get(version)
    if judged is None:
        raise RefusalError(
            "NOT_JUDGED", f"{name}: no gate has judged version {version}; run `make run`, which judges and registers"
        )
    override = None
    if judged.verdict != "PASSED":
        if lasting := [failure for failure in judged.failures if failure.split()[0] in NEVER_LIFTED]:
            raise RefusalError(
                "GATE_FAILED",
                f"{name}: version {version}: {describe_verdict(judged)}. No override lifts {lasting}: run `dvc repro` "
                "and let the gate judge it again",
                failures=list(judged.failures),
            )
        override = override_in_force(state, version, datetime.now(UTC))
        if override is None:
            raise _gate_failed(name, judged)
    if judged.baseline != champion:
        raise RefusalError(
            "STALE_BASELINE",
            f"{name}: version {version} was compared with champion {shown(judged.baseline)}, which is not champion any "
            f"more: that is {shown(champion)}; let the gate judge it again, no override lifts this",
            baseline=judged.baseline,
            champion=champion,
        )
    return judged, override


def _gate_failed(name: str, judged: Judged) -> RefusalError:
    return RefusalError(
        "GATE_FAILED",
        f"{name}: the gate did not pass version {judged.version}: {describe_verdict(judged)}. "
        "What is needed: a version that passes; or, if somebody answers for this one, "
        f"`vitrine override {name} {judged.version} --why TEXT --until DATE`, which is shown wherever the model is",
        failures=list(judged.failures),
        reasons=list(judged.reasons),
        report=judged.report,
    )


def _how(state: State) -> str:
    """How the present champion came to be, for a message."""
    if not state.champion.number:
        return ""
    last = state.entries[state.champion.number - 1]
    return f" ({last.kind.replace('_', ' ')} on {last.when} by {last.who}: {last.why})"


def _unfinished_rollback(journal: Journal) -> RolledBack | None:
    unfinished = fold(journal.read()).unfinished
    return unfinished if isinstance(unfinished, RolledBack) else None


def _target(name: str, state: State, to: str | None) -> tuple[Reign, tuple[str, ...]]:
    """The champion to go back to, and those that were passed over."""
    skipped = list[str]()
    for reign in reversed(state.earlier):
        if reign.version == state.champion.version:
            continue
        if to in (None, reign.version) and find_version(name, _version(reign)) is not None:
            return reign, tuple(skipped)
        skipped.append(_version(reign))
    if to is not None and skipped:
        raise RefusalError(
            "NO_EARLIER_CHAMPION", f"{name}: version {to} is none of the earlier champions; these are {skipped[::-1]}"
        )
    gone = f" but {skipped}, deleted from the registry" if skipped else ""
    raise RefusalError(
        "NO_EARLIER_CHAMPION",
        f"{name}: champion is {shown(state.champion.version)}, and there was none before it{gone}; "
        "promote another version instead, `vitrine history` shows them",
        champion=state.champion.version,
    )


def _version(reign: Reign) -> str:
    assert reign.version is not None  # nobody's reign is never gone back to
    return reign.version
