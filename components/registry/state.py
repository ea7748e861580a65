"""What a journal amounts to: folded from its entries, without asking anything else."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from components.registry.entries import (
    Adopted,
    AnyEntry,
    Change,
    Judged,
    MovedByHand,
    Overridden,
    Promoted,
    RolledBack,
    iso,
)
from components.registry.journal import Move, Record


@dataclass(frozen=True)
class Reign:
    """A champion's time.

    Attributes:
        version: None: there is no champion.
        number: of the entry that made it champion; 0: none did.
        weights_sha256: None if unknown.
        by_rule: it was promoted once, or was there before the journal; else a hand alone put it there.
    """

    version: str | None
    number: int
    weights_sha256: str | None
    by_rule: bool


NOBODY = Reign(None, 0, None, False)


@dataclass(frozen=True)
class State:
    """A registered model as its journal has it.

    Attributes:
        entries: all of them; number n at index n - 1.
        champion: the present one.
        earlier: those before that can be gone back to, the last one last.
        judged: newest verdict of each version.
        unfinished: the last change of the champion, if nobody has brought the alias there yet.
        late: tries to move the alias for earlier changes that may still do so.
    """

    entries: tuple[AnyEntry, ...]
    champion: Reign
    earlier: tuple[Reign, ...]
    judged: dict[str, Judged]
    unfinished: Promoted | RolledBack | None
    late: frozenset[Move]

    @property
    def next_number(self) -> int:
        return len(self.entries) + 1

    @property
    def changes(self) -> tuple[Change, ...]:
        """Entries that put another version in the champion's place."""
        return _changes(self.entries)


def fold(record: Record) -> State:
    """The state after all entries."""
    champion, earlier = NOBODY, list[Reign]()
    judged: dict[str, Judged] = {}
    for entry in record.entries:
        if isinstance(entry, Judged):
            judged[entry.version] = entry
        if isinstance(entry, RolledBack):
            _go_back(earlier, entry.to_version)
        elif isinstance(entry, Change) and champion.by_rule:
            earlier.append(champion)
        if isinstance(entry, Change):
            champion = _reign(entry, earlier)
    last = _changes(record.entries)[-1:]
    finished = {move.number for move in record.moves if move.done}
    waiting = [change for change in last if isinstance(change, Promoted | RolledBack) and change.number not in finished]
    late = frozenset(move for move in record.moves if not move.done and move.number < champion.number)
    return State(record.entries, champion, tuple(earlier), judged, waiting[0] if waiting else None, late)


def _changes(entries: Iterable[AnyEntry]) -> tuple[Change, ...]:
    return tuple(entry for entry in entries if isinstance(entry, Change))


def _go_back(earlier: list[Reign], version: str) -> None:
    """Takes the reigns off that were gone back over, the one that begins anew included."""
    while earlier and earlier.pop().version != version:
        pass


def _reign(entry: Change, earlier: Iterable[Reign]) -> Reign:
    if isinstance(entry, Promoted | RolledBack | Adopted):
        return Reign(entry.to_version, entry.number, entry.weights_sha256, by_rule=True)
    known = [reign for reign in earlier if reign.version == entry.to_version]
    sha256 = known[-1].weights_sha256 if known else None
    return Reign(entry.to_version, entry.number, sha256, by_rule=bool(known))


def override_in_force(state: State, version: str, now: datetime) -> Overridden | None:
    """The newest override that lets this version pass, if any does.

    It lifts the failures it was given for: a later verdict on the same weights that fails in more ways
    needs another one.
    """
    given = [entry for entry in state.entries if isinstance(entry, Overridden) and entry.version == version]
    return next((entry for entry in reversed(given) if iso(now) < entry.until and _covers(state, entry)), None)


def last_override(state: State, version: str) -> Overridden | None:
    """The newest override of this version, in force or not."""
    given = [entry for entry in state.entries if isinstance(entry, Overridden) and entry.version == version]
    return given[-1] if given else None


def _covers(state: State, override: Overridden) -> bool:
    judged, lifted = state.judged[override.version], state.entries[override.judged - 1]
    assert isinstance(lifted, Judged)
    if judged.number == lifted.number:
        return True
    known = not judged.cut and not lifted.cut and judged.weights_sha256 == lifted.weights_sha256
    return known and set(judged.failures) <= set(lifted.failures)


def stands_on_expired_override(state: State, now: datetime) -> bool:
    """Whether the champion's gate failed and nobody answers for it any more."""
    version = state.champion.version
    if version is None or last_override(state, version) is None:
        return False
    judged = state.judged[version]
    return judged.verdict == "FAILED" and override_in_force(state, version, now) is None


def was_rolled_back(state: State, version: str) -> bool:
    """Whether somebody has put the version out of the champion's place, and nothing new speaks for it since.

    New is a verdict under another protocol than any before: on other photos, or measured otherwise.
    The same measurement once more, against the champion that came back, is not. A flow that promotes
    by itself asks this; a person may promote such a version all the same.
    """
    out = [
        entry.number
        for entry in state.changes
        if isinstance(entry, RolledBack | MovedByHand) and entry.from_version == version
    ]
    came = [entry.number for entry in state.changes if entry.to_version == version]
    if not out or max(came, default=0) > max(out):
        return False
    verdicts = [entry for entry in state.entries if isinstance(entry, Judged) and entry.version == version]
    before = {entry.protocol for entry in verdicts if entry.number < max(out)}
    return all(entry.protocol in before for entry in verdicts)
