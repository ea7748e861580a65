"""Writes data/prepared; components/dataset.py reads it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components.cleaning.row_file import RowFile
from components.cleaning.splits import SPLITS
from components.dataset import FORMAT
from components.errors import InputError
from components.files import sha256_file, write_json, written_whole
from components.settings import PrepareSettings
from components.tables import write_table

SHARD_ROWS = 65536
COPIED_ROWS = 1024
"""Images that are held at a time."""

UNKNOWN = "unknown"
"""Value of a condition where the photo has none."""

FIXED = ("id", "split", "shard", "row", "file_name", "group", "weight")


def conditions_of(photos: pd.DataFrame, conditions: Sequence[str]) -> dict[str, pd.Series]:
    """Each condition's values, UNKNOWN where a photo has none.

    Raises:
        InputError: no photo has a value, or the name is one of the manifest's own columns.
    """
    for name in conditions:
        if name in FIXED:
            raise InputError(
                f"params.yaml: prepare.conditions: {name!r} is a column of the manifest; rename the attribute"
            )
        if len(photos) and not photos[name].notna().any():
            raise InputError(
                f"params.yaml: prepare.conditions: no photo has a value of {name!r}; give them one at the source, "
                "or take the condition out"
            )
    return {name: photos[name].fillna(UNKNOWN) for name in conditions}


def check_complete(photos: pd.DataFrame, settings: PrepareSettings) -> None:
    """Refuses to go on without photos to train and to test on.

    Raises:
        InputError: a split or a category would be without.
    """
    counts = photos["split"].value_counts().to_dict()
    for split in ("train", "test"):
        if not counts.get(split):
            raise InputError(
                f"no photo falls into split '{split}': {len(photos)} photos, shares val "
                f"{settings.split.val:g} and test {settings.split.test:g}; take more photos or change "
                "params.yaml: prepare.split"
            )
    if "category" in settings.conditions:
        trained = set(photos.loc[photos["split"] == "train", "category"])
        missing = sorted(set(photos["category"]) - trained)
        if missing:
            raise InputError(
                f"no photo to train on for category {', '.join(map(repr, missing))}: all of its photos fall "
                "into val or test; take more photos (params.yaml: data.subset) or remove the category"
            )


def make_manifest(photos: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """One row per image with its split and its place, sorted by split and id.

    `weight` balances the first condition: the mean count of its values in train over that of the
    image's. Not combinations of conditions: the one purple hat would be drawn all the time. Without conditions
    all weights are 1.
    """
    manifest = photos.sort_values(["split", "id"], ignore_index=True)
    position = manifest.groupby("split").cumcount()
    manifest["shard"] = [
        f"{split}-{number:05}.npy" for split, number in zip(manifest["split"], position // SHARD_ROWS, strict=True)
    ]
    manifest["row"] = (position % SHARD_ROWS).astype(np.int64)
    manifest["weight"] = 1.0
    if conditions:
        trained = manifest.loc[manifest["split"] == "train", conditions[0]].value_counts()
        manifest["weight"] = trained.mean() / manifest[conditions[0]].map(trained).astype(np.float64)
    manifest = manifest.rename(columns={"group_id": "group"})
    return manifest[["id", "split", "shard", "row", "file_name", *conditions, "group", "weight", "place"]]


def write_dataset(
    out_dir: Path,
    manifest: pd.DataFrame,
    photos: pd.DataFrame,
    conditions: Sequence[str],
    shape: tuple[int, int, int],
    squares: RowFile,
) -> None:
    """Writes shards, manifest.parquet and, last, dataset.json; removes older shards.

    Args:
        manifest: of `make_manifest`; `place` is the row in `squares`.
        photos: facts of the same photos.
    """
    digests = {}
    with ExitStack() as stack:  # all shards or none
        for name, rows in manifest.groupby("shard"):
            path = stack.enter_context(written_whole(out_dir / str(name)))
            _write_shard(path, rows["place"].to_numpy(np.int64), shape, squares)
            digests[str(name)] = sha256_file(path)
    for path in out_dir.glob("*.npy"):
        if path.name not in digests:
            path.unlink()
    table = pa.Table.from_pandas(manifest.drop(columns="place"), preserve_index=False)
    group = table.column_names.index("group")
    # Where there is no group at all, pandas does not know that they would be text.
    table = table.set_column(group, "group", table["group"].cast(pa.string()))
    write_table(table, out_dir / "manifest.parquet")
    derived = ["color"] if "color" in conditions and photos["color_derived"].any() else []
    write_json(out_dir / "dataset.json", _info(manifest, conditions, shape, digests, derived))


def _write_shard(path: Path, places: NDArray[np.int64], shape: tuple[int, int, int], squares: RowFile) -> None:
    """Writes an array file of images (n, C, H, W), a part at a time."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(places), *shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(places), COPIED_ROWS):
            file.write(squares[places[start : start + COPIED_ROWS]].data)


def _info(
    manifest: pd.DataFrame,
    conditions: Sequence[str],
    shape: tuple[int, int, int],
    digests: Mapping[str, str],
    derived: Sequence[str],
) -> dict[str, object]:
    """Content of dataset.json."""
    digest = hashlib.sha256()
    for row in manifest[["id", "split", *conditions]].itertuples(index=False):
        digest.update(json.dumps(list(row)).encode() + b"\n")
    for name in sorted(digests):
        digest.update(f"{name} {digests[name]}\n".encode())
    counts = manifest["split"].value_counts()
    trained = manifest[manifest["split"] == "train"]
    return {
        "format": FORMAT,
        "image_shape": list(shape),
        "attributes": {name: sorted(trained[name].unique()) for name in conditions},
        "derived": list(derived),
        "counts": {split: int(counts.get(split, 0)) for split in SPLITS},
        "digest": digest.hexdigest(),
    }
