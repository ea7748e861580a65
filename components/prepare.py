"""Makes the data set for training: clean, deduplicated, split for good, in one size.

The folder's format is described in components/dataset.py, which reads it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components.dataset import FORMAT
from components.decoding import decode
from components.errors import InputError
from components.files import sha256_file, write_json, written_whole
from components.fitting import training_image
from components.parallel import over_groups
from components.progress import Progress
from components.raw import RowGroup, read_group, read_snapshot, row_groups
from components.settings import PrepareSettings, SplitSettings, load_settings
from components.stage import explained_errors, stage_parser
from components.tables import read_table, write_table

SHARD_ROWS = 65536
SPLITS = ("train", "val", "test")
ATTRIBUTES = ("category",)
"""Columns of the facts that the models are conditioned on."""


@dataclass(frozen=True)
class PrepareReport:
    """What went into data/prepared, and what did not.

    Attributes:
        photos: in the snapshot of data/raw.
        quarantined: left out, for validation has put them in quarantine.
        duplicates: left out, for another photo has the same pixels.
        images: per split.
        categories: images per split and category.
    """

    photos: int
    quarantined: int
    duplicates: int
    images: dict[str, int]
    categories: dict[str, dict[str, int]]


def prepare(settings: PrepareSettings, raw_dir: Path, validated_dir: Path, out_dir: Path) -> PrepareReport:
    """Writes shards, manifest.parquet and, last, dataset.json into `out_dir`.

    Raises:
        InputError: the inputs are missing, damaged or do not belong together, or a split or a
            category would be left without a photo to train or test on.
    """
    facts = _facts_of_snapshot(raw_dir, validated_dir)
    clean = facts[~facts["id"].isin(_quarantined_ids(validated_dir))]
    kept = clean.drop_duplicates("pixel_sha256")
    manifest = make_manifest(kept, settings.split)
    _check_complete(manifest, settings.split)
    shape = (int(kept["channels"].max()), settings.size, settings.size)
    digests = _write_shards(settings, raw_dir, out_dir, manifest, shape)
    write_table(pa.Table.from_pandas(manifest, preserve_index=False), out_dir / "manifest.parquet")
    write_json(out_dir / "dataset.json", _info(manifest, shape, digests))
    return PrepareReport(
        photos=len(facts),
        quarantined=len(facts) - len(clean),
        duplicates=len(clean) - len(kept),
        images={split: int((manifest["split"] == split).sum()) for split in SPLITS},
        categories={
            str(split): {str(name): int(count) for name, count in rows.groupby("category").size().items()}
            for split, rows in manifest.groupby("split")
        },
    )


def _facts_of_snapshot(raw_dir: Path, validated_dir: Path) -> pd.DataFrame:
    """Facts of exactly the photos that count, ids ascending."""
    facts: pd.DataFrame = (
        read_table(validated_dir / "facts.parquet", "validate").to_pandas().sort_values("id", ignore_index=True)
    )
    snapshot = read_snapshot(raw_dir)
    if facts["id"].tolist() != list(snapshot):
        raise InputError(
            f"{validated_dir}: facts of {len(facts)} photos, but {raw_dir} has {len(snapshot)} others; "
            "run `dvc repro validate`"
        )
    return facts


def _quarantined_ids(validated_dir: Path) -> list[str]:
    ids: list[str] = read_table(validated_dir / "quarantine.parquet", "validate")["id"].to_pylist()
    return ids


def split_of(pixel_sha256: str, settings: SplitSettings) -> str:
    """The split of a photo: a function of its pixels and the salt, whatever other photos there are.

    Test takes the lower end, then val: changing val's share leaves test as it is.
    """
    digest = hashlib.sha256(f"{settings.salt}\n{pixel_sha256}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < settings.test:
        return "test"
    return "val" if position < settings.test + settings.val else "train"


def make_manifest(facts: pd.DataFrame, settings: SplitSettings) -> pd.DataFrame:
    """One row per image with its split and its place, sorted by split and id.

    `weight` balances the categories: their mean count in train over the image's category's.
    """
    splits = [split_of(pixels, settings) for pixels in facts["pixel_sha256"]]
    manifest = facts.assign(split=splits).sort_values(["split", "id"], ignore_index=True)
    position = manifest.groupby("split").cumcount()
    manifest["shard"] = [
        f"{split}-{number:05}.npy" for split, number in zip(manifest["split"], position // SHARD_ROWS, strict=True)
    ]
    manifest["row"] = (position % SHARD_ROWS).astype(np.int64)
    trained = manifest.loc[manifest["split"] == "train", "category"].value_counts()
    manifest["weight"] = trained.mean() / manifest["category"].map(trained).astype(np.float64)
    return manifest[["id", "split", "shard", "row", "file_name", *ATTRIBUTES, "weight"]]


def _check_complete(manifest: pd.DataFrame, settings: SplitSettings) -> None:
    counts = manifest["split"].value_counts().to_dict()
    for split in ("train", "test"):
        if not counts.get(split):
            raise InputError(
                f"no photo falls into split '{split}': {len(manifest)} photos, shares val "
                f"{settings.val:g} and test {settings.test:g}; take more photos or change "
                "params.yaml: prepare.split"
            )
    trained = set(manifest.loc[manifest["split"] == "train", "category"])
    missing = sorted(set(manifest["category"]) - trained, key=str)
    if missing:
        raise InputError(
            f"no photo to train on for category {', '.join(map(repr, missing))}: all of its photos fall "
            "into val or test; take more photos (params.yaml: data.subset) or remove the category"
        )


@dataclass(frozen=True)
class _Filling:
    """Photos of one row group and where their images go: shard file and row, (n,) each."""

    group: RowGroup
    files: dict[str, Path]
    shards: NDArray[np.object_]
    rows: NDArray[np.int64]
    settings: PrepareSettings
    channels: int


def _write_shards(
    settings: PrepareSettings,
    raw_dir: Path,
    out_dir: Path,
    manifest: pd.DataFrame,
    shape: tuple[int, int, int],
) -> dict[str, str]:
    """Writes all shards, whole or none of them, and removes older ones; returns name to SHA-256."""
    with ExitStack() as stack:
        files = {}
        for name, count in manifest.groupby("shard").size().items():
            files[str(name)] = stack.enter_context(written_whole(out_dir / str(name)))
            _allocate(files[str(name)], (int(count), *shape))
        progress = Progress("prepare: images made", len(manifest))
        for made in over_groups(_fill, _fillings(settings, raw_dir, manifest, files, shape[0])):
            progress.add(made)
        digests = {name: sha256_file(path) for name, path in files.items()}
    for path in out_dir.glob("*.npy"):
        if path.name not in digests:
            path.unlink()
    return digests


def _fillings(
    settings: PrepareSettings, raw_dir: Path, manifest: pd.DataFrame, files: dict[str, Path], channels: int
) -> list[_Filling]:
    places = manifest.set_index("id")[["shard", "row"]]
    fillings = []
    for group in row_groups(raw_dir):
        found = places.reindex(group.ids)
        wanted = found["shard"].notna().to_numpy()
        narrowed = RowGroup(group.part, group.index, group.rows[wanted], group.ids[wanted])
        shards = found["shard"].to_numpy(object)[wanted]
        rows = found["row"].to_numpy()[wanted].astype(np.int64)
        fillings.append(_Filling(narrowed, files, shards, rows, settings, channels))
    return fillings


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    """Makes an array file of zeros with its disk space taken.

    Writing into a mapped file with holes on a full disk kills the process without a word.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    del array
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _fill(filling: _Filling) -> int:
    """Writes the images of one row group into the shards; returns how many."""
    shards = {name: np.load(filling.files[name], mmap_mode="r+") for name in set(filling.shards)}
    size, fit = filling.settings.size, filling.settings.fit
    photos = read_group(filling.group, ["image"])
    for photo, shard, row in zip(photos, filling.shards, filling.rows, strict=True):
        image = decode(bytes(photo["image"])).image
        shards[shard][row] = training_image(image, filling.channels, size, fit)
    return len(photos)


def _info(manifest: pd.DataFrame, shape: tuple[int, int, int], digests: dict[str, str]) -> dict[str, object]:
    """Content of dataset.json."""
    digest = hashlib.sha256()
    for row in manifest[["id", "split", *ATTRIBUTES]].itertuples(index=False):
        digest.update(json.dumps(list(row)).encode() + b"\n")
    for name in sorted(digests):
        digest.update(f"{name} {digests[name]}\n".encode())
    counts = manifest["split"].value_counts()
    return {
        "format": FORMAT,
        "image_shape": list(shape),
        "attributes": {name: sorted(manifest[name].unique()) for name in ATTRIBUTES},
        "counts": {split: int(counts.get(split, 0)) for split in SPLITS},
        "digest": digest.hexdigest(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder that ingest made")
    parser.add_argument("--validated", type=Path, required=True, help="folder that validate made")
    parser.add_argument("--out", type=Path, required=True, help="folder of shards, manifest.parquet, dataset.json")
    parser.add_argument("--report", type=Path, required=True, help="JSON with what was made")
    args = parser.parse_args(argv)
    with explained_errors():
        report = prepare(load_settings(args.params).prepare, args.raw, args.validated, args.out)
        write_json(args.report, asdict(report))
        made = ", ".join(f"{count:,} {split}" for split, count in report.images.items())
        print(f"prepare: {made}; left out: {report.quarantined:,} quarantined, {report.duplicates:,} duplicates")


if __name__ == "__main__":
    main()
