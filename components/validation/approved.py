"""data/approved: the versions of the data set that passed validation last, to compare the next one with.

`profile.json` holds two versions, `current` and `previous`; for either there is `<digest>.parquet` with
its photos: id, file_name, category. A version that is validated again is compared with the one
before it, not with itself: the outcome is the same as the first time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from components.errors import InputError
from components.files import write_json
from components.settings import Section
from components.tables import read_table, write_table
from components.validation.drift import Profile

PHOTO_COLUMNS = ("id", "file_name", "category")
CHANGES = ("added", "removed", "recategorized")


class Approved(Section):
    """Content of profile.json."""

    current: Profile
    previous: Profile | None


@dataclass(frozen=True)
class Changes:
    """Photos that differ between two versions: PHOTO_COLUMNS and, of the last, `was`, their category before."""

    added: pa.Table
    removed: pa.Table
    recategorized: pa.Table

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name).num_rows for name in CHANGES}


def read_approved(folder: Path) -> Approved | None:
    """What was approved, or None if nothing has been yet.

    Raises:
        InputError: profile.json is damaged.
    """
    path = folder / "profile.json"
    if not path.exists():
        return None
    try:
        return Approved.model_validate(json.loads(path.read_text("utf-8")))
    except (ValidationError, ValueError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0]}); {_MEND.format(folder)}") from None


_MEND = "restore it with `dvc checkout --force {0}`, or delete {0}: then there is no version to compare with"


def base_of(folder: Path, digest: str, sources: Sequence[str]) -> Profile | None:
    """The version that the one with this digest is to be compared with, if there is one.

    Photos from another kind of source (one's own folder after Fashion-MNIST) are another data set, not
    a drifted one.

    Raises:
        InputError: profile.json is damaged.
    """
    approved = read_approved(folder)
    if approved is None:
        return None
    base = approved.previous if approved.current.digest == digest else approved.current
    return base if base is not None and base.sources == list(sources) else None


def approve(folder: Path, profile: Profile, photos: pa.Table) -> None:
    """Makes a version the current one, and the one that was current the previous one.

    Args:
        photos: accepted photos with PHOTO_COLUMNS, ids ascending.
    """
    previous = base_of(folder, profile.digest, profile.sources)
    write_table(photos.select(PHOTO_COLUMNS), _photos_path(folder, profile))
    approved = Approved(current=profile, previous=previous)
    # Last: what it names is there whenever the process is killed.
    write_json(folder / "profile.json", approved.model_dump())
    named = {_photos_path(folder, each) for each in (profile, previous) if each is not None}
    for path in folder.glob("*.parquet"):
        if path not in named:
            path.unlink()


def changes_since(folder: Path, base: Profile, photos: pa.Table) -> Changes:
    """What is different in `photos` (PHOTO_COLUMNS) from an approved version.

    Raises:
        InputError: the list of that version's photos is missing or damaged.
    """
    before = read_table(_photos_path(folder, base), "validate")
    now = photos.select(PHOTO_COLUMNS)
    moved = now.join(before.drop_columns("file_name"), "id", join_type="inner", right_suffix="_was")
    same = pc.equal(pc.fill_null(moved["category"], ""), pc.fill_null(moved["category_was"], ""))
    return Changes(
        added=_by_name(now.join(before, "id", join_type="left anti")),
        removed=_by_name(before.join(now, "id", join_type="left anti")),
        recategorized=_by_name(moved.filter(pc.invert(same)).rename_columns([*PHOTO_COLUMNS, "was"])),
    )


def _by_name(table: pa.Table) -> pa.Table:
    return table.sort_by([("file_name", "ascending"), ("id", "ascending")]).combine_chunks()


def _photos_path(folder: Path, profile: Profile) -> Path:
    return folder / f"{profile.digest}.parquet"
