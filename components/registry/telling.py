"""Tells people what a journal holds and nobody told them of: at least once, also if the one who wrote it was killed."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from components.notify import ADDRESSES, Event, notify
from components.registry.describing import lifted_by
from components.registry.entries import Overridden, Promoted, RolledBack, iso
from components.registry.explaining import told
from components.registry.journal import Journal, Record
from components.registry.permission import unanswered
from components.registry.refusals import shown
from components.registry.state import State, fold

GRACE = timedelta(seconds=60)
"""Who wrote an entry has told of it by then (a hanging service is waited for 20 seconds), or does so no more."""
NEWS = timedelta(days=1)
"""What is older is told to nobody: addresses that are given at last shall not be sent a year's entries."""


def tell(journal: Journal, own: int | None = None) -> None:
    """Tells what nobody has told yet. Never fails because of who is told, as `notify` does not.

    Args:
        own: number of the caller's entry, told at once; those of others once they are as old as GRACE.
    """
    if not os.environ.get(ADDRESSES, "").strip():
        return  # somebody else's process may know whom to tell
    record = journal.read()
    for entry in _untold(record, own, datetime.now(UTC)):
        event, title, body = _message(journal.name, fold(record), entry)
        notify(event, title, body)
        # Whatever came of it: a service that refuses would have all the others told again and again.
        journal.mark_told(entry.number)


def _untold(record: Record, own: int | None, now: datetime) -> Iterable[Promoted | RolledBack | Overridden]:
    for entry in record.entries:
        if not isinstance(entry, Promoted | RolledBack | Overridden) or not entry.tell or entry.number in record.told:
            continue
        if entry.number == own or iso(now - NEWS) < entry.when <= iso(now - GRACE):
            yield entry


def _message(name: str, state: State, entry: Promoted | RolledBack | Overridden) -> tuple[Event, str, str]:
    """Event, title and body."""
    event: Event = "override"
    if isinstance(entry, Overridden):
        title = f"{name}: the gate's verdict on version {entry.version} is overridden until {entry.until}"
        version = entry.version
    else:
        event = "promoted" if isinstance(entry, Promoted) else "rolled back"
        what = "promoted version" if isinstance(entry, Promoted) else "rolled back to version"
        title = f"{name}: {what} {entry.to_version}, before {shown(entry.from_version)}"
        version = entry.to_version
    lines = [told(entry), f"on {entry.when}"]
    judged = state.judged.get(version)
    if judged is not None:
        lines.append(f"gate: {judged.verdict}" + (f", {judged.report}" if judged.report else ""))
    if by := lifted_by(state, entry, datetime.now(UTC)):
        lines.append(f"override: {by}")
    if isinstance(entry, RolledBack) and (warning := unanswered(state, version, datetime.now(UTC))):
        lines.append(f"warning: {warning}")
    return event, title, "\n".join(lines)
