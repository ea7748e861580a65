"""What a source says of itself: the photos it has, the files it refuses, and how to read a photo."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from components.raw import Described
from components.settings import DataSettings

EMPTY = "empty"
TOO_LARGE = "larger than data.file_bytes"
NO_REGULAR_FILE = "no regular file"
UNREADABLE = "unreadable"
VANISHED = "vanished while the source was read"
CHANGED = "changed while it was read"
ENCRYPTED = "encrypted"
SAME_NAME = "another file has the same name"


class NotTakenError(Exception):
    """A file that cannot be taken; the message is the reason that refused.parquet gives.

    What stands before the first ': ' is the kind of reason, by which reports count.
    """


@dataclass(frozen=True, slots=True)
class Refused:
    """A file of the source that is not taken."""

    file_name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Described):
    """A photo as it is listed, not read yet.

    Attributes:
        size: of the file, bytes.
        fingerprint: changes when the file's bytes do; None: it must be read to know.
        where: where the source's own `read` finds it.
    """

    size: int
    fingerprint: str | None
    where: Any


@dataclass(frozen=True, slots=True)
class Content:
    """What was read.

    Attributes:
        fingerprint: under which these bytes are known from now on; None: it cannot be trusted.
    """

    image: bytes
    fingerprint: str | None


@dataclass(frozen=True)
class Listing:
    """All that a source has, in an order that is the same every time.

    Attributes:
        place: tells sources apart whose fingerprints must not be mixed up.
        read: reads an entry; raises NotTakenError.
        threads: how many threads may call `read` at a time; 0: the entries must be read one after
            another, and are fastest in their order.
    """

    place: str
    entries: Sequence[Entry]
    refused: Sequence[Refused]
    read: Callable[[Entry], Content]
    threads: int = 0


Source = Callable[[DataSettings], AbstractContextManager[Listing]]
"""Opens a source; raises InputError if it cannot be read at all."""


def bounded(content: bytes, limit: int) -> bytes:
    """The content, which was read up to one byte more than `limit`.

    Raises:
        NotTakenError: it is empty, or larger than the limit.
    """
    if not content:
        raise NotTakenError(EMPTY)
    if len(content) > limit:
        raise NotTakenError(TOO_LARGE)
    return content
