"""Photos in a zip or tar file. Nothing is unpacked to disk, so no name in it can lead anywhere."""

import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from components.errors import InputError
from components.settings import DataSettings
from components.sources import tar_file, zip_file
from components.sources.convention import File, by_convention
from components.sources.folder import SETTLED, fingerprint
from components.sources.listing import CHANGED, Content, Entry, Listing, NotTakenError, bounded
from components.sources.members import Members
from components.sources.names import SPLITS, reason_against, shown


@contextmanager
def opened(settings: DataSettings) -> Iterator[Listing]:
    """The archive data.path, in any of the formats that zip_file and tar_file know.

    Raises:
        InputError: there is no such file, it is no archive or a damaged one, or its metadata cannot be used.
    """
    path = Path(str(settings.path)).expanduser()
    settled = time.time() - SETTLED
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError(
            f"params.yaml: data.path: found '{path}', which cannot be read: {error.strerror}; it must be a zip or tar "
            "file (plain, .gz, .bz2 or .xz)"
        ) from None
    with stream:
        found = os.fstat(stream.fileno())
        mark = fingerprint(found)
        trusted = max(found.st_mtime, found.st_ctime) < settled
        open_members = zip_file.opened if zipfile.is_zipfile(stream) else tar_file.opened
        stream.seek(0)
        with open_members(path, stream, mark) as members:

            def read(entry: Entry) -> Content:
                image = bounded(members.read(entry.where, settings.file_bytes), settings.file_bytes)
                if len(image) != entry.size or fingerprint(os.fstat(stream.fileno())) != mark:
                    raise NotTakenError(CHANGED)
                return Content(image, entry.fingerprint if trusted else None)

            entries, refused = by_convention(
                members.files, settings, _metadata_reader(path, members), base_of(members.files)
            )
            yield Listing(f"archive {path.resolve()}", entries, [*members.refused, *refused], read)


def _metadata_reader(path: Path, members: Members) -> Callable[[File, int], bytes]:
    def read(file: File, limit: int) -> bytes:
        try:
            return members.read(file.where, limit)
        except NotTakenError as error:
            raise InputError(f"{path}: {shown(file.name)}: cannot be read: {error}") from None

    return read


def base_of(files: Sequence[File]) -> str:
    """The folder whose folders are categories or splits, '' for the top.

    Who packs a folder often packs its name too: a single folder at the top that holds photos only in
    further folders, and is no split itself, does not count.
    """
    photos = [PurePosixPath(file.name).parts for file in files if reason_against(file.name) is None]
    tops = {parts[0] for parts in photos}
    if len(tops) != 1 or any(len(parts) < 3 for parts in photos) or tops <= SPLITS:
        return ""
    return tops.pop()
