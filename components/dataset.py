"""Reads data/prepared: what the training and the evaluation stand on.

The folder holds, per split, shards `<split>-<number>.npy` of uint8 images (n, C, H, W),
`manifest.parquet` with a row per image, and `dataset.json` with what `DatasetInfo` holds.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.errors import InputError

FORMAT = 1

AttributeValues = dict[str, tuple[str, ...]]
"""Per categorical attribute the values it can take, in the order of their indices; empty: unconditional."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a model must know of the images it is made for.

    Attributes:
        image_shape: (C, H, W).
        attributes: the names that each categorical condition can take, in the order of the columns
            of `Split.conditions_NA`.
        counts: images per split.
        digest: SHA-256 over the images, their conditions and their splits.
        derived: attributes that were told from the pixels for at least one photo, which had none given.
    """

    image_shape: tuple[int, int, int]
    attributes: AttributeValues
    counts: dict[str, int]
    digest: str
    derived: tuple[str, ...] = ()

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of values of each attribute."""
        return tuple(len(values) for values in self.attributes.values())


@dataclass(frozen=True)
class Split:
    """One split, its images mapped into memory, not read.

    Attributes:
        shards: uint8 arrays (n, C, H, W).
        manifest: one row per image, in the order of the shards' rows.
        attributes: see DatasetInfo.
    """

    shards: tuple[NDArray[np.uint8], ...]
    manifest: pd.DataFrame
    attributes: AttributeValues

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def conditions_NA(self) -> NDArray[np.int64]:
        """Index of each image's value in each attribute, (N, A); (N, 0) without attributes."""
        codes_NA = np.empty((len(self), len(self.attributes)), np.int64)
        for column, (name, values) in enumerate(self.attributes.items()):
            codes_NA[:, column] = pd.Categorical(self.manifest[name], categories=list(values)).codes
        return codes_NA

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.shards[0].shape[1:]
        return channels, height, width

    def gather(self, rows_N: NDArray[np.int64], out_NCHW: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Copies images into memory, in the order of the rows; only these are read.

        Args:
            rows_N: which images.
            out_NCHW: where to; None: a new array.
        """
        out_NCHW = np.empty((len(rows_N), *self.image_shape), np.uint8) if out_NCHW is None else out_NCHW
        ends = np.cumsum([len(shard) for shard in self.shards])
        shards_N = np.searchsorted(ends, rows_N, side="right")
        for place, (row, shard) in enumerate(zip(rows_N.tolist(), shards_N.tolist(), strict=True)):
            out_NCHW[place] = self.shards[shard][row - ends[shard]]  # counted from the shard's end
        return out_NCHW


def random_rows(available: int, count: int, seed: int) -> NDArray[np.int64]:
    """Random rows of a split, ascending: all, or so many of them; the same for the same seed."""
    order = np.random.default_rng(seed).permutation(available)
    return np.sort(order[:count]).astype(np.int64)


def load_info(prepared_dir: Path) -> DatasetInfo:
    """Reads dataset.json.

    Raises:
        InputError: it is missing, damaged, or of another format.
    """
    path = prepared_dir / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(f"{path}: format {content['format']}, this code reads {FORMAT}; run `dvc repro prepare`")
        channels, height, width = content["image_shape"]
        return DatasetInfo(
            image_shape=(channels, height, width),
            attributes={name: tuple(values) for name, values in content["attributes"].items()},
            counts=content["counts"],
            digest=content["digest"],
            derived=tuple(content.get("derived", ())),
        )
    except FileNotFoundError:
        raise InputError(f"{path}: not found; make it with `dvc repro prepare` or fetch it with `dvc pull`") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); make it again with `dvc repro --force prepare`") from None


def load_split(prepared_dir: Path, split: str) -> Split:
    """Maps the shards of one split.

    Raises:
        InputError: the split is unknown, or a shard is missing, damaged or does not fit its manifest.
    """
    info = load_info(prepared_dir)
    if not info.counts.get(split):
        raise InputError(f"{prepared_dir}: no split '{split}'; it has {info.counts}")
    manifest = pd.read_parquet(prepared_dir / "manifest.parquet")
    manifest = manifest[manifest["split"] == split].sort_values(["shard", "row"], ignore_index=True)
    shards = tuple(
        _open_shard(prepared_dir / str(name), info.image_shape, len(rows))
        for name, rows in manifest.groupby("shard", sort=True)
    )
    return Split(shards, manifest, info.attributes)


def _open_shard(path: Path, image_shape: tuple[int, int, int], rows: int) -> NDArray[np.uint8]:
    try:
        shard: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run `dvc checkout` or `dvc repro prepare`") from None
    if shard.shape != (rows, *image_shape) or shard.dtype != np.uint8:
        raise InputError(
            f"{path}: holds {shard.dtype} {shard.shape}, the manifest says uint8 {(rows, *image_shape)}; "
            "run `dvc checkout` or `dvc repro prepare`"
        )
    return shard
