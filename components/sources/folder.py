"""Photos in a folder and the folders below it. Nothing outside is read, whatever links say."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import InputError
from components.settings import DataSettings
from components.sources.convention import File, by_convention
from components.sources.listing import (
    CHANGED,
    NO_REGULAR_FILE,
    UNREADABLE,
    VANISHED,
    Content,
    Entry,
    Listing,
    NotTakenError,
    Refused,
    bounded,
)
from components.sources.names import shown

LINK_OUT = "a link that leaves the folder"
LINK_NOWHERE = "a link that leads nowhere"
LINK_TO_FOLDER = "a link to a folder, which is read where it is"

SETTLED = 2.0
"""Seconds since a file's last change before its times are trusted: within a clock's tick, which is up to two seconds
on some file systems, it may change again and look the same."""

THREADS = 8


@contextmanager
def opened(settings: DataSettings) -> Iterator[Listing]:
    """The folder data.path.

    Raises:
        InputError: there is no such folder, or its metadata cannot be used.
    """
    root = Path(str(settings.path)).expanduser()
    if not root.is_dir():
        found = "no folder" if root.exists() else "not there"
        raise InputError(f"params.yaml: data.path: found '{root}', which is {found}; it must be a folder of photos")
    yield _listing(root, settings)


def _listing(root: Path, settings: DataSettings) -> Listing:
    files, refused = walk(root)

    def read(entry: Entry) -> Content:
        return read_file(entry.where, settings.file_bytes)

    def read_metadata(file: File, limit: int) -> bytes:
        try:
            return read_file(file.where, limit).image
        except NotTakenError as error:
            raise InputError(f"{root / shown(file.name)}: cannot be read: {error}") from None

    entries, others = by_convention(files, settings, read_metadata)
    return Listing(f"folder {root.resolve()}", entries, [*refused, *others], read, THREADS)


def walk(root: Path) -> tuple[list[File], list[Refused]]:
    """All files below a folder, sorted by name, links after all others: a photo counts under its own name first."""
    files: list[tuple[bool, File]] = []
    refused: list[Refused] = []
    real_root = root.resolve()
    folders = [""]
    while folders:
        folder = folders.pop()
        for name, item in _items(root, folder, refused):
            try:
                if item.is_symlink():
                    files.append((True, _linked(name, Path(item.path), real_root)))
                elif item.is_dir(follow_symlinks=False):
                    folders.append(name)
                else:
                    files.append((False, _file(name, item.path, item.stat(follow_symlinks=False))))
            except NotTakenError as error:
                refused.append(Refused(shown(name), str(error)))
            except OSError as error:
                refused.append(Refused(shown(name), _reason(error)))
    return [file for _, file in sorted(files, key=lambda pair: (pair[0], pair[1].name))], refused


def _items(root: Path, folder: str, refused: list[Refused]) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    try:
        with os.scandir(root / folder) as items:
            for item in items:
                yield f"{folder}/{item.name}" if folder else item.name, item
    except OSError as error:
        refused.append(Refused(f"{shown(folder)}/", _reason(error)))


def _file(name: str, path: str, found: os.stat_result) -> File:
    if not stat.S_ISREG(found.st_mode):
        raise NotTakenError(NO_REGULAR_FILE)
    return File(name, found.st_size, fingerprint(found), path)


def _linked(name: str, link: Path, real_root: Path) -> File:
    """The file that a link means, if it is below the root."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # a loop is a RuntimeError up to Python 3.12
        raise NotTakenError(LINK_NOWHERE) from None
    if not target.is_relative_to(real_root):
        raise NotTakenError(LINK_OUT)
    if target.is_dir():
        raise NotTakenError(LINK_TO_FOLDER)
    return _file(name, str(target), target.stat())


def read_file(path: str, limit: int) -> Content:
    """Reads a regular file of at most `limit` bytes, also where something else has taken its place by now.

    Raises:
        NotTakenError: it is none, is too large or empty, cannot be read, or changes at this moment.
    """
    settled = time.time() - SETTLED
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise NotTakenError(NO_REGULAR_FILE)
            content = file.read(limit + 1)
            after = os.fstat(handle)
    except OSError as error:
        raise NotTakenError(_reason(error)) from None
    image = bounded(content, limit)
    if fingerprint(before) != fingerprint(after) or len(image) != after.st_size:
        raise NotTakenError(CHANGED)
    trusted = max(after.st_mtime, after.st_ctime) < settled
    return Content(image, fingerprint(after) if trusted else None)


def fingerprint(found: os.stat_result) -> str:
    """Changes with the file: a program can set back the time of the content, but not that of the change itself."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _reason(error: OSError) -> str:
    return VANISHED if isinstance(error, FileNotFoundError) else f"{UNREADABLE}: {error.strerror}"
