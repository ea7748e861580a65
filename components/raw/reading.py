"""Reads the photos of a source in their order, several at a time where the source allows it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from components.raw import id_of
from components.sources.listing import Entry, Listing, NotTakenError, Refused

AHEAD_BYTES = 32 * 2**20
"""Of photos that are read and not yet used, at most, but for a larger photo."""

AHEAD_FILES = 4
"""Per thread."""


@dataclass(frozen=True, slots=True)
class Identified:
    """An entry whose id is known.

    Attributes:
        image: its bytes; None where they were not read.
        fingerprint: under which the id may be remembered; None: under none.
    """

    entry: Entry
    photo_id: str
    image: bytes | None
    fingerprint: str | None


def read_entry(listing: Listing, entry: Entry) -> Identified | Refused:
    """Reads one photo, here and now."""
    try:
        content = listing.read(entry)
    except NotTakenError as error:
        return Refused(entry.file_name, str(error))
    return Identified(entry, id_of(content.image), content.image, content.fingerprint)


def identified(
    listing: Listing, entries: Iterable[Entry], known: Callable[[Entry], str | None]
) -> Iterator[Identified | Refused]:
    """Ids of the entries, in their order.

    Args:
        known: an entry's id, if neither the id nor the bytes need to be read.
    """
    if not listing.threads:
        for entry in entries:
            photo_id = known(entry)
            yield read_entry(listing, entry) if photo_id is None else _unread(entry, photo_id)
        return
    pool = ThreadPoolExecutor(listing.threads)
    try:
        for item in _ahead(listing, entries, known, pool):
            yield item.result() if isinstance(item, Future) else item
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    listing: Listing, entries: Iterable[Entry], known: Callable[[Entry], str | None], pool: ThreadPoolExecutor
) -> Iterator[Identified | Future[Identified | Refused]]:
    """The entries in their order, while those behind are being read."""
    waiting: deque[tuple[int, Identified | Future[Identified | Refused]]] = deque()
    size = 0
    for entry in entries:
        photo_id = known(entry)
        if photo_id is None:
            waiting.append((entry.size, pool.submit(read_entry, listing, entry)))
            size += entry.size
        else:
            waiting.append((0, _unread(entry, photo_id)))
        while size > AHEAD_BYTES or len(waiting) > AHEAD_FILES * listing.threads:
            done, item = waiting.popleft()
            yield item
            size -= done
    while waiting:
        yield waiting.popleft()[1]


def _unread(entry: Entry, photo_id: str) -> Identified:
    return Identified(entry, photo_id, None, entry.fingerprint)
