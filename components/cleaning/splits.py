"""The split of every photo: for good, with nothing alike on two sides."""

import hashlib
from collections.abc import Iterable, Mapping

import pandas as pd

from components.settings import SplitSettings

SPLITS = ("train", "val", "test")


def split_of(unit: str, settings: SplitSettings) -> str:
    """The split of a unit (a photo's pixels, or a group) by itself: a function of its name and the salt.

    Test takes the lower end, then val: changing val's share leaves test as it is.
    """
    digest = hashlib.sha256(f"{settings.salt}\n{unit}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < settings.test:
        return "test"
    return "val" if position < settings.test + settings.val else "train"


def assign_splits(
    photos: pd.DataFrame, versions: Mapping[str, int], alike: Iterable[tuple[str, str]], settings: SplitSettings
) -> dict[str, str | None]:
    """Id to split; None for a photo that ties two splits together, and must therefore be left out.

    Photos come in the order of the versions that brought them, then of their ids. Each joins the split
    of the earlier photos that have its pixels, its group or are alike; where these are in different
    splits, it is a bridge and joins none, so that nobody ever moves. A photo without ties goes where the
    hash of its group, or else of its pixels, puts it. Thus a split depends on earlier photos only and no
    photo changes it as data grows. It may when an earlier photo that it followed is taken out.

    Args:
        photos: columns id, group_id (None or NaN: no group) and pixel_sha256, in any order.
        versions: id to version.
        alike: pairs of pixel_sha256 that are near-duplicates.
    """
    neighbours: dict[str, list[str]] = {}
    for one, other in alike:
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    # Whichever way pandas says that there is none.
    groups = (group if isinstance(group, str) else None for group in photos["group_id"])
    rows = zip(photos["id"], groups, photos["pixel_sha256"], strict=True)
    by_group: dict[str, str] = {}
    by_pixels: dict[str, str] = {}
    splits: dict[str, str | None] = {}
    for photo_id, group, pixels in sorted(rows, key=lambda row: (versions[row[0]], row[0])):
        tied = {by_group.get(group)} if group is not None else set()
        tied |= {by_pixels.get(each) for each in (pixels, *neighbours.get(pixels, ()))}
        found = tied - {None}
        if len(found) > 1:
            splits[photo_id] = None
            continue
        split = found.pop() if found else split_of(pixels if group is None else group, settings)
        assert split is not None
        splits[photo_id] = by_pixels[pixels] = split
        if group is not None:
            by_group[group] = split
    return splits
