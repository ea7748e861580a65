"""What a file's name says: whether it is a photo, of which category, and whether it can be trusted."""

import re
import sys
import unicodedata
from pathlib import PurePosixPath

from components.sources.listing import NotTakenError

_JPEG = ("jpg", "jpeg", "jpe", "jfif", "pjpeg")
_OTHERS = ("png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "heic", "heif", "hif", "avif", "jxl", "jp2")
PHOTO_SUFFIXES = frozenset((*_JPEG, *_OTHERS))
"""A file with one of these is taken whatever it holds: validate says what cannot be decoded."""

ARCHIVE_SUFFIXES = frozenset(("zip", "tar", "gz", "tgz", "bz2", "tbz", "xz", "txz", "zst", "7z", "rar"))

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
"""Folders of the first level that are a split, not a category."""

NO_PHOTO = "no photo by its name"
NESTED = "an archive within the source"
LEADS_OUT = "its name leads out of the source"

_DRIVE = re.compile(r"[A-Za-z]:")


def shown(name: str) -> str:
    """The name as valid Unicode: bytes that are no UTF-8 become escapes, as in 'caf\\udce9.jpg'."""
    return name.encode("utf-8", "backslashreplace").decode()


def nfc(text: str) -> str:
    """Unicode's composed form: a Mac writes 'é' as two characters, others as one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def inner(name: str) -> str:
    """A member's or object's name as a path below the source's root, '.' and doubled slashes removed.

    Raises:
        NotTakenError: it is absolute, has '..', or names nothing.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or _DRIVE.match(name) or not path.parts or "\0" in name:
        raise NotTakenError(LEADS_OUT)
    return str(path)


def reason_against(name: str) -> str | None:
    """Why a file of that name is no photo; None: it is one."""
    parts = name.split("/")
    if "__MACOSX" in parts or any(part.startswith(".") for part in parts):
        return NO_PHOTO  # thumbnails, resource forks, version control: none is meant
    suffix = parts[-1].rpartition(".")[2].lower() if "." in parts[-1] else ""
    if suffix in ARCHIVE_SUFFIXES:
        return NESTED
    return None if suffix in PHOTO_SUFFIXES else NO_PHOTO


def split_and_category(name: str, base: str = "") -> tuple[str | None, str | None]:
    """What the folders say: split of the first level if it is one, category of the last.

    Args:
        base: folder from which levels count.
    """
    folders = name.removeprefix(f"{base}/" if base else "").split("/")[:-1]
    split = None
    if folders and folders[0].lower() in SPLITS:
        split, folders = shown(folders[0]), folders[1:]
    # Interned: all photos of a category share one text.
    return split and sys.intern(split), sys.intern(nfc(shown(folders[-1])).strip()) or None if folders else None
