"""Members of a tar file, plain or compressed.

Python's own reader takes a header that it cannot read for the end of the archive; here that is an error.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from components.errors import InputError
from components.progress import Progress
from components.sources.listing import NO_REGULAR_FILE, UNREADABLE, NotTakenError
from components.sources.members import LINK, Member, Members, checked
from components.sources.metadata import METADATA_BYTES, METADATA_NAMES

EXTENSION_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
EXTENSION_BYTES = 2**20
"""Of a header's extension, at most: it is read into memory, and says itself how long it is."""

Place = tuple[int, int]
"""Offset and size of a member's content."""

ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
"""What a damaged archive raises."""


class _Header(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark of the end
            raise tarfile.ReadError(f"cut off or overwritten ({error})") from None
        if header.type in EXTENSION_TYPES and header.size > EXTENSION_BYTES:
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header


@contextmanager
def opened(path: Path, stream: IO[bytes], fingerprint: str) -> Iterator[Members]:
    """Opens a tar file; of a compressed one, all is unpacked once in passing to find the members.

    Raises:
        InputError: it is damaged.
    """
    data = _unpacked(stream)
    kept: dict[Place, bytes] = {}

    def read(place: Place, limit: int) -> bytes:
        if place in kept:
            return kept[place]
        try:
            data.seek(place[0])
            return data.read(min(place[1], limit + 1))
        except ERRORS as error:
            raise NotTakenError(f"{UNREADABLE}: {error}") from None

    try:
        files, refused = checked(_members(data, kept), fingerprint)
    except ERRORS as error:
        raise InputError(f"{path}: damaged, or no tar file: {error}") from None
    yield Members(files, refused, read)


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """The tar file in a stream, by the first bytes of what it is compressed with."""
    start = stream.read(6)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(stream)
    return stream


def _members(data: IO[bytes], kept: dict[Place, bytes]) -> Iterator[Member]:
    """All members but folders; metadata files are kept, to spare a second pass."""
    progress = Progress("ingest: members of the archive listed")
    with tarfile.open(fileobj=data, mode="r:", tarinfo=_Header) as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would hold them all
            progress.add()
            if member.isdir():
                continue
            place = (member.offset_data, member.size)
            if PurePosixPath(member.name).name in METADATA_NAMES and member.size <= METADATA_BYTES:
                data.seek(member.offset_data)
                kept[place] = data.read(member.size)
            yield Member(member.name, member.size, place, _reason(member))


def _reason(member: tarfile.TarInfo) -> str | None:
    if member.islnk() or member.issym():
        return f"{LINK}: to {member.linkname.encode('utf-8', 'backslashreplace').decode()}"
    return None if member.isreg() and not member.issparse() else NO_REGULAR_FILE
