"""Makes the data set for training: clean, deduplicated, split for good, in one size.

The folder's format is described in components/dataset.py, which reads it. What is left out, and why,
goes to data/cleaning.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.cleaning import (
    REASONS,
    LeftOut,
    bridges,
    exact_duplicates,
    near_duplicates,
    unseen_values,
    without,
    write_cleaning,
)
from components.cleaning.duplicates import CROPS, Pairs, find_pairs, of_one_color
from components.cleaning.manifest import UNKNOWN, check_complete, conditions_of, make_manifest, write_dataset
from components.cleaning.outliers import FEATURES, outlier_scores, write_features
from components.cleaning.row_file import RowFile, row_file
from components.cleaning.splits import SPLITS, assign_splits
from components.errors import InputError
from components.files import write_json
from components.guarded.parallel import over_groups
from components.photos.fitting import Fitting, fit_rows
from components.photos.similarity import SIDE
from components.progress import Progress
from components.raw import RowGroup, read_snapshot, read_versions, row_groups
from components.settings import DecodingSettings, OutlierSettings, PrepareSettings, load_settings
from components.stage import explained_errors, stage_parser
from components.tables import read_table

BOX = ["box_left", "box_top", "box_right", "box_bottom"]
COLUMNS = [
    "id",
    "file_name",
    "category",
    "group_id",
    "bytes",
    "channels",
    "width",
    "height",
    "sharpness",
    "pixel_sha256",
]
"""Facts that are needed, beside the boxes and the conditions."""


@dataclass(frozen=True)
class PrepareReport:
    """What went into data/prepared, and what did not.

    Attributes:
        photos: in the snapshot of data/raw.
        quarantined: left out, for validation has put them in quarantine.
        duplicates: left out, for another photo has the same pixels.
        near_duplicates: left out, for a better photo is nearly the same.
        bridges: left out, for they tie two splits together.
        outliers: left out, for they are too unlike their category.
        outliers_listed: unlike their category, those left out included.
        unseen_values: left out of val and test, for no training photo has their value of a condition.
        images: per split.
        categories: images per split and category.
    """

    photos: int
    quarantined: int
    duplicates: int
    near_duplicates: int
    bridges: int
    outliers: int
    outliers_listed: int
    unseen_values: int
    images: dict[str, int]
    categories: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Made:
    """All distinct photos in one size; rows of the files are those of `photos`.

    Attributes:
        photos: facts, ids ascending.
        shape: (C, H, W) of a square.
    """

    photos: pd.DataFrame
    shape: tuple[int, int, int]
    squares: RowFile
    pairs: Pairs


def prepare(
    settings: PrepareSettings,
    decoding: DecodingSettings,
    raw_dir: Path,
    validated_dir: Path,
    out_dir: Path,
    cleaning_dir: Path,
) -> PrepareReport:
    """Writes shards, manifest.parquet and, last, dataset.json into `out_dir`; what is left out into `cleaning_dir`.

    Raises:
        InputError: the inputs are missing, damaged or do not belong together, a condition is in no
            photo, or a split or a category would be left without a photo to train or test on.
    """
    facts = _facts_of_snapshot(raw_dir, validated_dir, settings.conditions)
    quarantined = read_table(validated_dir / "quarantine.parquet", "validate")["id"].to_pylist()
    accepted = facts[~facts["id"].isin(quarantined)].reset_index(drop=True)
    conditions = conditions_of(accepted, settings.conditions)
    with ExitStack() as stack:
        made = _make(settings, decoding, raw_dir, accepted, stack)
        pixels = made.photos["pixel_sha256"].tolist()
        pairs = of_one_color(made.pairs, made.photos)
        alike = {
            (pixels[one], pixels[other]): similarity
            for one, other, similarity in zip(pairs.first, pairs.second, pairs.similarity, strict=True)
        }
        splits = assign_splits(accepted, read_versions(raw_dir), alike, settings.split)
        photos = accepted.assign(
            **conditions,
            split=accepted["id"].map(splits),
            place=accepted["pixel_sha256"].map({name: place for place, name in enumerate(pixels)}),
        )
        left = bridges(splits)
        left += exact_duplicates(without(photos, left))
        left += near_duplicates(without(photos, left), alike)
        outliers = _outliers(settings.outliers, made.squares, without(photos, left), out_dir)
        left += [
            LeftOut(photo_id, "outlier", None, score)
            for photo_id, score, dropped in zip(outliers["id"], outliers["score"], outliers["dropped"], strict=True)
            if dropped
        ]
        left += unseen_values(without(photos, left), settings.conditions)
        kept = without(photos, left)
        check_complete(kept, settings)
        manifest = make_manifest(kept, settings.conditions)
        write_dataset(out_dir, manifest, kept, settings.conditions, made.shape, made.squares)
    write_cleaning(cleaning_dir, accepted, left, pairs, made.photos["id"].tolist(), outliers)
    return _report(facts, accepted, kept, left, outliers)


def _facts_of_snapshot(raw_dir: Path, validated_dir: Path, conditions: Sequence[str]) -> pd.DataFrame:
    """Facts of exactly the photos that count, ids ascending, with a column per condition."""
    table = read_table(validated_dir / "facts.parquet", "validate")
    attributes = table.column_names[table.column_names.index("color_derived") + 1 :]
    unknown = [name for name in conditions if name not in ("category", *attributes)]
    if unknown:
        raise InputError(
            f"params.yaml: prepare.conditions: found {list(conditions)}; allowed are category and what the photos "
            f"have, {', '.join(attributes)}, or none, []"
        )
    wanted = dict.fromkeys([*COLUMNS, *BOX, "color", "color_derived", *conditions])
    facts: pd.DataFrame = table.select(list(wanted)).to_pandas().sort_values("id", ignore_index=True)
    snapshot = read_snapshot(raw_dir)
    if facts["id"].tolist() != list(snapshot):
        raise InputError(
            f"{validated_dir}: facts of {len(facts)} photos, but {raw_dir} has {len(snapshot)} others; "
            "run `dvc repro validate`"
        )
    return facts


def _make(
    settings: PrepareSettings, decoding: DecodingSettings, raw_dir: Path, accepted: pd.DataFrame, stack: ExitStack
) -> Made:
    """Decodes every distinct photo once. The files are gone when `stack` closes."""
    photos = accepted.drop_duplicates("pixel_sha256", ignore_index=True)
    compared = settings.duplicates is not None
    channels = int(photos["channels"].max()) if len(photos) else 1
    fitting = Fitting(settings.size, settings.fit, channels, settings.crop_margin, compared)
    shape = (channels, settings.size, settings.size)
    squares = stack.enter_context(row_file(raw_dir.parent, shape, np.uint8))
    thumbnails = stack.enter_context(row_file(raw_dir.parent, (SIDE, SIDE, 3), np.uint8))
    hashes = np.zeros((len(photos) if compared else 0, len(CROPS) ** 2), dtype=np.uint64)
    progress = Progress("prepare: images made", len(photos))
    places = {photo_id: place for place, photo_id in enumerate(photos["id"])}
    needed = photos[["width", "height", *BOX]].to_numpy(np.int64)

    def more(group: RowGroup) -> Iterator[Mapping[str, Any]]:
        for photo_id in group.ids.tolist():
            place = places[photo_id]
            width, height, *box = needed[place].tolist()
            yield {"place": place, "width": width, "height": height, "box": tuple(box)}

    groups = list(_narrowed(row_groups(raw_dir), places))
    for fitted, lost in over_groups(
        fit_rows, groups, ["id", "image"], decoding, fitting, decoding, more=lambda group: list(more(group))
    ):
        if lost:
            named = "; ".join(f"{each.id} {each.reason}" for each in lost)
            raise InputError(f"photos that could be decoded before cannot be now: {named}; try again, or {_ROOM}")
        squares.write(fitted.places_N, fitted.squares_NCHW)
        if compared:
            thumbnails.write(fitted.places_N, fitted.thumbnails_NHWC)
            hashes[fitted.places_N] = fitted.hashes_NK
        progress.add(len(fitted.places_N))
    return Made(photos, shape, squares, _pairs(settings, hashes, thumbnails))


_ROOM = "raise decoding.seconds or decoding.memory_mb in params.yaml and run `dvc repro validate`"


def _narrowed(groups: Sequence[RowGroup], wanted: Mapping[str, int]) -> Iterator[RowGroup]:
    """The groups without photos that are not wanted, and without those that would be empty."""
    for group in groups:
        chosen = np.array([photo_id in wanted for photo_id in group.ids.tolist()], dtype=bool)
        if chosen.any():
            yield RowGroup(group.part, group.index, group.rows[chosen], group.ids[chosen])


def _pairs(settings: PrepareSettings, hashes: np.ndarray[Any, np.dtype[np.uint64]], thumbnails: RowFile) -> Pairs:
    if settings.duplicates is None or not len(hashes):
        nothing = np.empty(0, dtype=np.int64)
        return Pairs(nothing, nothing, nothing, np.empty(0, dtype=np.float64))
    return find_pairs(hashes, thumbnails, settings.duplicates.max_distance, settings.duplicates.min_similarity)


def _outliers(settings: OutlierSettings | None, squares: RowFile, photos: pd.DataFrame, out_dir: Path) -> pd.DataFrame:
    """Those to be listed: id, file_name, category, score, dropped."""
    listed = photos[["id", "file_name", "category"]]
    if settings is None or not len(photos):
        return listed.iloc[:0].assign(score=pd.Series(dtype=np.float64), dropped=pd.Series(dtype=bool))
    with row_file(out_dir.parent, (FEATURES,), np.float16) as features:
        write_features(squares, photos["place"].to_numpy(np.int64), settings.resolution, features.write)
        labels = pd.factorize(photos["category"].fillna(UNKNOWN), sort=True)[0]
        scores = np.round(outlier_scores(features, labels.astype(np.int64)), 3)
    limit = np.inf if settings.drop_above is None else settings.drop_above
    listed = listed.assign(score=scores, dropped=scores > limit)
    return listed[listed["score"] > settings.list_above]


def _report(
    facts: pd.DataFrame, accepted: pd.DataFrame, kept: pd.DataFrame, left: Sequence[LeftOut], outliers: pd.DataFrame
) -> PrepareReport:
    reasons = {reason: sum(each.reason == reason for each in left) for reason in REASONS}
    counts = kept.groupby([kept["split"], kept["category"].fillna(UNKNOWN)]).size()
    return PrepareReport(
        photos=len(facts),
        quarantined=len(facts) - len(accepted),
        duplicates=reasons["duplicate"],
        near_duplicates=reasons["near-duplicate"],
        bridges=reasons["bridge"],
        outliers=reasons["outlier"],
        outliers_listed=len(outliers),
        unseen_values=reasons["unseen-value"],
        images={split: int((kept["split"] == split).sum()) for split in SPLITS},
        categories={
            split: {str(name): int(count) for name, count in counts[split].items()}
            for split in sorted(set(kept["split"]))
        },
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--raw", type=Path, required=True, help="folder that ingest made")
    parser.add_argument("--validated", type=Path, required=True, help="folder that validate made")
    parser.add_argument("--approved", type=Path, required=True, help="folder of the approved versions, for the page")
    parser.add_argument("--validation", type=Path, required=True, help="JSON that validate made, for the page")
    parser.add_argument("--out", type=Path, required=True, help="folder of shards, manifest.parquet, dataset.json")
    parser.add_argument("--cleaning", type=Path, required=True, help="folder with what was left out, and why")
    parser.add_argument("--report", type=Path, required=True, help="JSON with what was made")
    parser.add_argument("--page", type=Path, required=True, help="HTML page that shows the data set")
    args = parser.parse_args(argv)
    with explained_errors():
        settings = load_settings(args.params)
        report = prepare(settings.prepare, settings.decoding, args.raw, args.validated, args.out, args.cleaning)
        write_json(args.report, asdict(report))
        # Not at the top: what draws the page is not needed to make the data set.
        from components.report.dataset import Inputs, write_report

        common = settings.train.common
        folders = (args.raw, args.validated, args.approved, args.validation, args.cleaning, args.out)
        write_report(args.page, Inputs(*folders, common.augment, common.seed), settings.decoding)
        made = ", ".join(f"{count:,} {split}" for split, count in report.images.items())
        print(
            f"prepare: {made}; left out: {report.quarantined:,} quarantined, {report.duplicates:,} duplicates, "
            f"{report.near_duplicates:,} near-duplicates, {report.bridges:,} bridges, {report.outliers:,} outliers, "
            f"{report.unseen_values:,} with unseen values; page: {args.page}"
        )


if __name__ == "__main__":
    main()
