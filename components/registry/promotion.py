"""Makes a version champion, or takes it back: each a compare-and-swap on the journal."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from components.registry.alias import settle
from components.registry.describing import describe, lifted_by
from components.registry.entries import NAME_LIMIT, Promoted, RolledBack, iso, line, stamp
from components.registry.journal import Journal, open_journal
from components.registry.model_page import describe_model
from components.registry.permission import how, permission, unanswered
from components.registry.refusals import ConflictError, RefusalError, shown
from components.registry.state import Reign, State, fold
from components.registry.telling import tell as tell_people
from components.registry.weights import check_weights, find_version, model_version
from components.signing import required_key

REPEATED_WITHIN = timedelta(minutes=10)
"""A rollback that the same person asks for again so soon, with the same reason, is taken for the same one."""


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes:
        event: the journal's entry about it.
        champion: afterwards; another one than the event's if others went on meanwhile.
        repeated: the entry was there already, of an earlier try or of somebody else's same request.
        warning: why a gate would not let this champion pass now, if that is so: a rollback asks no gate.
        override: who answers for a promotion whose gate failed, until when and why.
    """

    name: str
    event: Promoted | RolledBack
    champion: str | None
    repeated: bool
    warning: str | None = None
    override: str | None = None


def promote(
    name: str,
    version: str,
    *,
    expect_champion: str | None,
    why: str,
    who: str | None = None,
    key: str | None = None,
    tell: bool = False,
) -> Outcome:
    """Makes a version champion if its gate passed and the champion is still the one that was expected.

    Killed at any point it can be called again: the promotion is finished, once.

    Args:
        expect_champion: the present champion as the caller knows it; None: there is none.
        who: default: `author()`.
        key: of the request. One that was used before returns what happened then, whatever the champion
            is now. By default a request is the same if version and expected champion are, and that
            champion was not put in place anew in between.
        tell: people are told, by whoever comes next if this process is killed before it has done so.

    Raises:
        ConflictError: the champion is another one; it is named.
        RefusalError: there is no verdict, it is FAILED and no override is in force, the comparison was with
            another champion, models are judged otherwise by now, the registry's weights are not those that
            were judged, or the key was used for something else.
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
            return _outcome(journal, state, before, repeated=True)
        judged, override = permission(name, state, version, expect_champion)
        if checked != judged.weights_sha256:
            _check_package(name, version, judged.weights_sha256)
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
            tell=tell,
        )
        if journal.append(entry):
            return _outcome(journal, settle(journal), entry, repeated=False)


def rollback(
    name: str,
    *,
    why: str,
    who: str | None = None,
    expect_champion: str | None = None,
    to: str | None = None,
    key: str | None = None,
    tell: bool = False,
) -> Outcome:
    """Makes the previous champion champion again; twice goes two back.

    Where the alias was moved by hand, this goes to the last champion before that. A rollback that was
    begun and not finished is finished instead of going back once more. So is one that the same person
    repeats with the same reason within `REPEATED_WITHIN`, if nothing else has happened to the champion:
    its answer was lost. Whoever means to go further back says so by `expect_champion`, or by another reason.

    No gate is asked: the outcome warns of a champion that could not be promoted now.

    Args:
        expect_champion: refuse unless this one is champion; None: whichever is.
        to: an earlier champion, where the previous one's weights are damaged, say; None: the previous one.
        key: of the request. One that was used before returns what happened then.
        tell: as in `promote`.

    Raises:
        ConflictError: the champion is not the expected one, or another process has changed it meanwhile.
        RefusalError: there is no champion to go back to, its weights are not those that were promoted, or
            the key was used for something else.
        InputError: there is no such model, or MLflow cannot be used.
    """
    key = None if key is None else line("key", key, NAME_LIMIT)
    journal = open_journal(name)
    begun = _unfinished_rollback(journal)
    if begun is not None and not _asked_for(begun, to, key, expect_champion):
        begun = None  # it is finished, and what is asked for comes after it
    expected: Reign | None = None
    while True:
        state = settle(journal)
        stamped = stamp(state.next_number, who, why)
        before = begun or (_with_key(name, state, key, to) if key else None)
        if before is None and key is None and expect_champion is None:
            before = _just_rolled_back(state, stamped["who"], stamped["why"], to)
        if before is not None:
            return _outcome(journal, state, before, repeated=True)
        expected = expected or state.champion
        if state.champion != expected or expect_champion not in (None, state.champion.version):
            raise ConflictError(name, expect_champion or expected.version, state.champion.version, how(state))
        target, skipped = _target(name, state, to)
        sha256 = _check_package(name, _version(target), target.weights_sha256)
        entry = RolledBack(
            **stamped,
            from_version=state.champion.version,
            to_version=_version(target),
            weights_sha256=sha256,
            skipped=skipped,
            key=key,
            tell=tell,
        )
        if journal.append(entry):
            return _outcome(journal, settle(journal), entry, repeated=False)


def _check_package(name: str, version: str, expected: str | None) -> str:
    """Makes sure that production could load the version; returns the SHA-256 of its weights.

    Raises:
        RefusalError: its weights are others than expected.
        InputError: it cannot be had, or is not signed as VITRINE_REQUIRE_SIGNATURE asks.
    """
    found = check_weights(name, version, expected)
    if required_key() is not None:
        # Imported here since it brings torch.
        from components.registry.champion import registered_weights

        with registered_weights(name, version, found):
            pass
    return found


def _outcome(journal: Journal, state: State, entry: Promoted | RolledBack, *, repeated: bool) -> Outcome:
    """What came of it, when pages say so and people were told."""
    while True:
        describe(journal, state, _touched(entry))
        describe_model(journal, state)
        newer = fold(journal.read())
        if len(newer.entries) == len(state.entries):
            break
        state = newer  # others went on meanwhile: the pages are to say so
    tell_people(journal, own=entry.number)
    champion, now = state.champion.version, datetime.now(UTC)
    warning = None if champion is None else unanswered(state, champion, now)
    return Outcome(journal.name, entry, champion, repeated, warning, lifted_by(state, entry, now))


def _asked_for(begun: RolledBack, to: str | None, key: str | None, expect_champion: str | None) -> bool:
    """Whether a rollback that was begun is the one that is asked for."""
    return to in (None, begun.to_version) and key in (None, begun.key) and expect_champion in (None, begun.from_version)


def _touched(entry: Promoted | RolledBack) -> set[str]:
    return {entry.to_version} | ({entry.from_version} if entry.from_version else set())


def _default_key(state: State, version: str, expected: str | None) -> str:
    """Names the request by what it wants and by the entry that made the expected champion."""
    made = max((change.number for change in state.changes if change.to_version == expected), default=0)
    return f"{version} in place of {shown(expected)}, champion by entry {made}"


def _repeated(name: str, state: State, version: str, key: str, *, by_default: bool) -> Promoted | None:
    """The promotion of an earlier request with this key."""
    found = _by_key(state, key)
    if found is None or (by_default and state.champion.number != found.number):
        return None
    if not isinstance(found, Promoted) or found.to_version != version:
        raise _key_reused(name, key, found)
    return found


def _with_key(name: str, state: State, key: str, to: str | None) -> RolledBack | None:
    """The rollback of an earlier request with this key."""
    found = _by_key(state, key)
    if found is not None and (not isinstance(found, RolledBack) or to not in (None, found.to_version)):
        raise _key_reused(name, key, found)
    return found


def _by_key(state: State, key: str) -> Promoted | RolledBack | None:
    keyed = (entry for entry in state.entries if isinstance(entry, Promoted | RolledBack))
    return next((entry for entry in keyed if entry.key == key), None)


def _key_reused(name: str, key: str, found: Promoted | RolledBack) -> RefusalError:
    what = "promotion of" if isinstance(found, Promoted) else "rollback to"
    return RefusalError(
        "KEY_REUSED",
        f"{name}: key {key!r} stands for the {what} version {found.to_version} on {found.when}; "
        "give a new request a key of its own",
        version=found.to_version,
    )


def _just_rolled_back(state: State, who: str, why: str, to: str | None) -> RolledBack | None:
    """The last change of the champion, if it is this very rollback of a moment ago."""
    last = state.changes[-1] if state.changes else None
    if not isinstance(last, RolledBack) or (last.who, last.why) != (who, why) or to not in (None, last.to_version):
        return None
    return last if iso(datetime.now(UTC) - REPEATED_WITHIN) < last.when else None


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
