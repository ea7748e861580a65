"""Members of a zip file, read with a cap: what its headers say of sizes is not trusted."""

import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from components.errors import InputError
from components.sources.listing import ENCRYPTED, NO_REGULAR_FILE, UNREADABLE, NotTakenError
from components.sources.members import LINK, Member, Members, checked

ENCRYPTED_FLAG = 0x1
UNIX = 3
"""Create system whose external attributes hold a file's mode."""


@contextmanager
def opened(path: Path, stream: IO[bytes], fingerprint: str) -> Iterator[Members]:
    """Opens a zip file.

    Raises:
        InputError: it is damaged.
    """
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, or no zip file: {error}") from None

    def read(info: zipfile.ZipInfo, limit: int) -> bytes:
        try:
            with archive.open(info) as member:
                return member.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, RuntimeError) as error:
            # RuntimeError: encrypted, or (NotImplementedError) a compression that Python does not know.
            raise NotTakenError(f"{UNREADABLE}: {error}") from None

    with archive:
        members = (_member(info) for info in archive.infolist() if not info.is_dir())
        files, refused = checked(members, fingerprint)
        yield Members(files, refused, read)


def _member(info: zipfile.ZipInfo) -> Member:
    # Zip files of some Windows programs have backslashes, against the format.
    return Member(info.filename.replace("\\", "/"), info.file_size, info, _reason(info))


def _reason(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == UNIX else 0
    if stat.S_ISLNK(kind):
        return LINK
    if kind not in (0, stat.S_IFREG):
        return NO_REGULAR_FILE
    return ENCRYPTED if info.flag_bits & ENCRYPTED_FLAG else None
