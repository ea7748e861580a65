"""Removes checkpoints of a family's earlier trainings, so that no disk and no bucket fills up with them."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from components.training.store import ObjectStore

OTHERS_KEPT = 2
"""Trainings with other settings, data or code whose checkpoints are kept, the newest."""

QUIET = timedelta(days=1)
"""The store's other trainings are left alone so long after their last checkpoint: one may run on another machine."""


def remove_others_here(root: Path, family: str, own: str) -> None:
    """Removes folders of the family's other trainings, but for the newest and those that are under way."""
    folders = [path for path in root.iterdir() if path.is_dir() and path.name != own and _is_of(family, path.name)]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)[OTHERS_KEPT:]:
        try:
            with FileLock(root / f"{folder.name}.lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
            (root / f"{folder.name}.lock").unlink(missing_ok=True)
        except Timeout:
            continue


def remove_others_there(store: ObjectStore, family: str, own: str) -> None:
    """Removes objects of the family's other trainings, but for the newest and those of the last day.

    Raises:
        StoreError: the store does not do it.
    """
    names = store.names(f"{family}-")
    written: dict[str, datetime] = {}
    for name, when in names.items():
        training = name.partition("/")[0]
        if training != own and _is_of(family, training):
            written[training] = max(when, written.get(training, when))
    old = sorted(written, key=lambda training: written[training], reverse=True)[OTHERS_KEPT:]
    gone = {training for training in old if datetime.now(UTC) - written[training] > QUIET}
    store.delete([name for name in names if name.partition("/")[0] in gone])


def _is_of(family: str, training: str) -> bool:
    """Whether it is the name of a folder of the family's, as `components.training.shelf` gives them."""
    return re.fullmatch(rf"{re.escape(family)}-[0-9a-f]{{16}}", training) is not None
