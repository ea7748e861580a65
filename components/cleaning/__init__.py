"""Which accepted photos do not become training data, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from components.cleaning.duplicates import Pairs
from components.tables import write_table

LEFT_OUT = pa.schema(
    [
        ("id", pa.string()),
        ("file_name", pa.string()),
        ("reason", pa.string()),
        ("of", pa.string()),
        ("score", pa.float64()),
    ]
)
PAIRS = pa.schema(
    [("id_a", pa.string()), ("id_b", pa.string()), ("distance", pa.int64()), ("similarity", pa.float64())]
)
OUTLIERS = pa.schema(
    [
        ("id", pa.string()),
        ("file_name", pa.string()),
        ("category", pa.string()),
        ("score", pa.float64()),
        ("dropped", pa.bool_()),
    ]
)

REASONS = ("duplicate", "near-duplicate", "bridge", "outlier", "unseen-value")


@dataclass(frozen=True)
class LeftOut:
    """A photo that is left out.

    Attributes:
        reason: of REASONS.
        of: id of the photo that it yields to.
        score: similarity to that photo, or how unlike its category it is.
    """

    id: str
    reason: str
    of: str | None = None
    score: float | None = None


def bridges(splits: Mapping[str, str | None]) -> list[LeftOut]:
    """Photos that tie two splits together; see `assign_splits`."""
    return [LeftOut(photo_id, "bridge") for photo_id, split in splits.items() if split is None]


def exact_duplicates(photos: pd.DataFrame) -> list[LeftOut]:
    """Of photos with the same pixels all but that with the lowest id; `photos` are sorted by id."""
    kept = photos.groupby("pixel_sha256", sort=False)["id"].transform("first")
    yielding = kept != photos["id"]
    return [
        LeftOut(photo_id, "duplicate", of, 1.0)
        for photo_id, of in zip(photos.loc[yielding, "id"], kept[yielding], strict=True)
    ]


def near_duplicates(photos: pd.DataFrame, similarity: Mapping[tuple[str, str], float]) -> list[LeftOut]:
    """Photos that yield to a better near-duplicate.

    The best of all stays and those like it yield to it; then the best of the rest, and so on. Best is
    the largest area, then sharpness, then bytes of the file, then the lowest id. So none that stay are
    alike, and each that yields is like the one it yields to: a chain of likenesses (a like b, b like c)
    does not make a and c alike.

    Args:
        photos: columns id, pixel_sha256, width, height, sharpness, bytes; pixels all different.
        similarity: of pairs of pixel_sha256, each once.
    """
    neighbours: dict[str, dict[str, float]] = {}
    for (one, other), value in similarity.items():
        neighbours.setdefault(one, {})[other] = value
        neighbours.setdefault(other, {})[one] = value
    tied = photos[photos["pixel_sha256"].isin(neighbours.keys())]
    order = tied.assign(area=tied["width"] * tied["height"]).sort_values(
        ["area", "sharpness", "bytes", "id"], ascending=[False, False, False, True]
    )
    id_of = dict(zip(order["pixel_sha256"], order["id"], strict=True))
    left: dict[str, LeftOut] = {}
    kept: set[str] = set()
    for pixels in order["pixel_sha256"]:
        if pixels in left:
            continue
        kept.add(pixels)
        for other, value in neighbours[pixels].items():
            if other in id_of and other not in kept and other not in left:
                left[other] = LeftOut(id_of[other], "near-duplicate", id_of[pixels], value)
    return list(left.values())


def unseen_values(photos: pd.DataFrame, conditions: Sequence[str]) -> Iterator[LeftOut]:
    """Photos of val and test with a value of a condition, other than the category, that no training photo has."""
    training = photos["split"] == "train"
    unseen = pd.Series(False, index=photos.index)
    for name in conditions:
        if name != "category":
            unseen |= ~photos[name].isin(photos.loc[training, name].unique())
    return (LeftOut(photo_id, "unseen-value") for photo_id in photos.loc[unseen, "id"])


def without(photos: pd.DataFrame, left: Sequence[LeftOut]) -> pd.DataFrame:
    """The photos but for those left out."""
    rest: pd.DataFrame = photos[~photos["id"].isin([each.id for each in left])]
    return rest


def write_cleaning(
    folder: Path,
    photos: pd.DataFrame,
    left: Sequence[LeftOut],
    pairs: Pairs,
    ids: Sequence[str],
    outliers: pd.DataFrame,
) -> None:
    """Writes left_out.parquet (sorted by id), pairs.parquet and outliers.parquet (highest score first).

    Args:
        photos: columns id and file_name, of all that were accepted.
        ids: what the positions in `pairs` stand for.
        outliers: columns of OUTLIERS.
    """
    names = dict(zip(photos["id"], photos["file_name"], strict=True))
    rows = [
        {"id": each.id, "file_name": names[each.id], "reason": each.reason, "of": each.of, "score": each.score}
        for each in sorted(left, key=lambda each: each.id)
    ]
    write_table(pa.Table.from_pylist(rows, schema=LEFT_OUT), folder / "left_out.parquet")
    columns = [
        [ids[place] for place in pairs.first.tolist()],
        [ids[place] for place in pairs.second.tolist()],
        pairs.distance,
        pairs.similarity,
    ]
    write_table(pa.table(columns, schema=PAIRS), folder / "pairs.parquet")
    ordered = outliers.sort_values(["score", "id"], ascending=[False, True])
    write_table(pa.Table.from_pandas(ordered, schema=OUTLIERS, preserve_index=False), folder / "outliers.parquet")
