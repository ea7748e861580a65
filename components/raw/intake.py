"""Decides what becomes of each file of a source: taken, known already, repeated, removed or refused."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from components.progress import Progress
from components.raw import Row, record_key, row_of
from components.raw.fingerprints import key_of
from components.raw.parts import records
from components.raw.reading import Identified, identified, read_entry
from components.raw.removals import Removals
from components.sources.listing import CHANGED, Entry, Listing, Refused

REPEATS = "repeats another photo"


@dataclass
class Intake:
    """What is known before a source is read, and what is found in it.

    Attributes:
        removals: what must not be taken.
        parts_by_record: for all photos in the parts, by record_key.
        known_ids: by fingerprint, as components.raw.fingerprints.key_of makes its key.
        ids: of all files found, by fingerprint.
        names: of the photos that are taken, by id.
        parts_by_id: of the photos that are taken and known already.
        refused: files that are not taken.
        bytes: size of all photos that are taken.
        read: files whose bytes were read.
    """

    removals: Removals
    parts_by_record: dict[bytes, str] = field(default_factory=dict)
    known_ids: dict[bytes, str] = field(default_factory=dict)
    ids: dict[bytes, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    parts_by_id: dict[str, str] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    categories: Counter[str | None] = field(default_factory=Counter)
    licenses: Counter[str | None] = field(default_factory=Counter)
    bytes: int = 0
    read: int = 0
    _claims: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """By id, the file that is expected to be the first of its content, and the part that holds its record."""
    _named: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By file name, the column and value of the removal list that name it."""


def prepared(raw_dir: Path, removals: Removals) -> Intake:
    """Reads what the parts hold, and finds what the removal list names among it.

    Raises:
        InputError: a part is damaged.
    """
    intake = Intake(removals)
    for part, row in records(raw_dir):
        intake.parts_by_record[record_key(row)] = part
        if row["etag"] is not None:
            intake.known_ids[key_of(row["file_name"], row["etag"])] = row["id"]
        by = removals.match(row)
        if by is not None:
            removals.take_out(row["id"], row["file_name"], by)
    return intake


def new_rows(listing: Listing, intake: Intake) -> Iterator[Row]:
    """Goes through a source and yields the photos that no part holds; the rest is noted in `intake`."""
    intake.refused += listing.refused
    _match_removals(listing, intake)
    progress = Progress("ingest: photos", len(listing.entries))
    for found in identified(listing, listing.entries, lambda entry: _id_to_trust(entry, intake)):
        progress.add()
        if isinstance(found, Refused):
            intake.refused.append(found)
            continue
        _remember(found, intake)
        if _is_taken(found.entry, found.photo_id, intake):
            row = _row_if_new(listing, found, intake)
            if row is not None:
                yield row


def _match_removals(listing: Listing, intake: Intake) -> None:
    """Finds the photos that the removal list names, before any is taken: others may have their bytes."""
    if not intake.removals.entries:
        return
    for entry in listing.entries:
        values = {"file_name": entry.file_name, "group_id": entry.group_id, "source_url": entry.source_url}
        by = intake.removals.match(values)
        if by is not None:
            intake._named[entry.file_name] = by
    named = [entry for entry in listing.entries if entry.file_name in intake._named]
    for found in identified(listing, named, lambda entry: _known_id(entry, intake)):
        if isinstance(found, Identified):
            _remember(found, intake)
            name = found.entry.file_name
            intake.removals.take_out(found.photo_id, name, intake._named[name])


def _known_id(entry: Entry, intake: Intake) -> str | None:
    if entry.fingerprint is None:
        return None
    key = key_of(entry.file_name, entry.fingerprint)
    return intake.ids.get(key) or intake.known_ids.get(key)


def _id_to_trust(entry: Entry, intake: Intake) -> str | None:
    """The entry's id if its bytes are not needed: it is out, or repeated, or in a part."""
    photo_id = _known_id(entry, intake)
    if photo_id is None or intake.removals.covers(photo_id) or entry.file_name in intake._named:
        return photo_id
    claim = intake._claims.get(photo_id)
    if claim is None:
        part = intake.parts_by_record.get(record_key(entry.record(photo_id)))
        claim = intake._claims[photo_id] = (entry.file_name, part)
    return None if claim == (entry.file_name, None) else photo_id


def _remember(found: Identified, intake: Intake) -> None:
    intake.read += found.image is not None
    if found.fingerprint is not None:
        intake.ids[key_of(found.entry.file_name, found.fingerprint)] = found.photo_id


def _is_taken(entry: Entry, photo_id: str, intake: Intake) -> bool:
    by = intake._named.get(entry.file_name)
    if by is not None or intake.removals.covers(photo_id):
        intake.removals.take_out(photo_id, entry.file_name, by)
        return False
    first = intake.names.get(photo_id)
    if first is not None:
        intake.refused.append(Refused(entry.file_name, f"{REPEATS}: {first}"))
        return False
    return True


def _row_if_new(listing: Listing, found: Identified, intake: Intake) -> Row | None:
    """Counts a photo as taken; its row, unless a part holds just that."""
    entry, photo_id, image = found.entry, found.photo_id, found.image
    first, part = intake._claims.get(photo_id, ("", None))
    if first != entry.file_name:
        part = intake.parts_by_record.get(record_key(entry.record(photo_id)))
    if part is None and image is None:
        # The file of the same content before it, for which it was passed over, could not be taken after all.
        again = read_entry(listing, entry)
        if isinstance(again, Refused) or again.photo_id != photo_id:
            reason = again.reason if isinstance(again, Refused) else CHANGED
            intake.refused.append(Refused(entry.file_name, reason))
            return None
        image = again.image
    intake.names[photo_id] = entry.file_name
    intake.categories[entry.category] += 1
    intake.licenses[entry.license] += 1
    intake.bytes += entry.size
    if part is not None:
        intake.parts_by_id[photo_id] = part
        return None
    assert image is not None
    return row_of(entry, photo_id, image)
