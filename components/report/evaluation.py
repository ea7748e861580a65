"""One page that tells whether a model passed, why, and what it makes: self-contained, no script, no network.

The same inputs give the same bytes. Categories, reasons and names come from outside: the template
(evaluation.html.j2) escapes whatever it shows.
"""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image

from components.errors import InputError
from components.glossary import GROUPS, Told, badness, shown, shown_interval, told
from components.measurement import GROUPS as REPLICATES
from components.measurement import Estimate, Estimates, Measurement
from components.report.drawings import Drawing, Limit, drawing_of
from components.report.protocols import in_words
from components.report.rendering import rendered, write_page

LARGEST = 400_000
"""Bytes of a picture that is kept exact; of a larger one some detail goes, so that the page stays small."""

PICTURES = {
    "samples.png": ("What it makes", "A row per category; in each column the same latents."),
    "real_and_generated.png": ("Real and generated", "Generated images have the conditions of the real ones."),
    "interpolations.png": (
        "From one latent to another",
        "Even steps between two latents under the same conditions. Images should change little by little; jumps, or "
        "the same image all the way, speak of memorised or ignored latents.",
    ),
    "closest_pairs.png": (
        "Closest to a training photo",
        "Those of the generated images that lie nearest to one: look for copies. Below each pair its distance, and how "
        "many times that of the next photos it is. A photo that many articles resemble is no proof.",
    ),
    "reconstructions.png": ("Reconstructions", "Held-out photos, and what comes back from encoder and decoder."),
}
"""By file name, the pictures that are shown, in this order: title and explanation."""


@dataclass(frozen=True)
class Champion:
    """The champion, measured again on the same photos; without a measurement it could not be."""

    version: str
    measurement: Measurement | None


@dataclass(frozen=True)
class Fact:
    """Something to know; a link is shown if it is one to the web."""

    label: str
    text: str
    url: str | None = None


@dataclass(frozen=True)
class EvaluationPage:
    """All that the page shows.

    Attributes:
        verdict: the content of verdict.json.
        measurement: None if there is none that could be read.
        name, version: in the registry, where it is known.
        pictures: by file name; those that PICTURES names are shown.
        strips: per category its images by whose they are, as `Comparison.strips` gives them.
        facts: dataset, commit, seeds, links; the protocol is told of by itself.
    """

    family: str
    verdict: Mapping[str, Any]
    measurement: Measurement | None
    name: str | None = None
    version: str | None = None
    champion: Champion | None = None
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    strips: Sequence[tuple[str, Mapping[str, Image.Image]]] = ()
    facts: Sequence[Fact] = ()


@dataclass(frozen=True)
class Row:
    """A metric, ready to be shown; `difference` is the model's value less the champion's."""

    metric: str
    told: Told
    estimate: Estimate
    checks: list[Mapping[str, Any]]
    champion: Estimate | None
    difference: Estimate | None
    drawing: Drawing | None


@dataclass(frozen=True)
class Cell:
    """A metric of a category.

    Attributes:
        mark: `missed` if a check of it failed, `bad` if it is no finite number, `worst` if no category has a worse one.
    """

    estimate: Estimate | None
    mark: Literal["missed", "bad", "worst", ""]


def write_evaluation(path: Path, page: EvaluationPage) -> None:
    """Writes the page."""
    write_page(path, "evaluation.html.j2", _sections(page))


def read_pictures(folder: Path) -> dict[str, Image.Image]:
    """The pictures that an evaluation left in a folder, by file name.

    Raises:
        InputError: one is damaged.
    """
    found = {}
    for path in sorted(folder.glob("*.png")):
        try:
            with Image.open(path) as picture:
                found[path.name] = picture.copy()
        except (OSError, SyntaxError) as error:  # how Pillow calls a broken PNG
            raise InputError(f"{path}: damaged ({error}); run `dvc checkout`, or `dvc repro` to measure anew") from None
    return found


def render_evaluation(page: EvaluationPage) -> str:
    """The page as HTML."""
    return rendered("evaluation.html.j2", _sections(page))


def _sections(page: EvaluationPage) -> dict[str, Any]:
    measured = page.measurement or Measurement({}, {}, "", "")
    rows = _rows(measured, page)
    return {
        "page": page,
        "title": f"{page.name or page.family}{f' version {page.version}' if page.version else ''}",
        "passed": page.verdict["verdict"] == "PASSED",
        "reasons": page.verdict["reasons"],
        "checks": page.verdict["checks"],
        "groups": [(group, found) for group in GROUPS if (found := [row for row in rows if row.told.group == group])],
        "comparable": page.champion is not None and _comparable(page) is not None,
        "columns": _columns(measured.by_category, page.verdict["checks"]),
        "categories": _categories(measured.by_category, page.verdict["checks"]),
        "pictures": [
            (*PICTURES[name], data_uri(page.pictures[name]), page.pictures[name].width)
            for name in PICTURES
            if name in page.pictures
        ],
        "strips": [
            (label, {whose: (data_uri(image), image.width) for whose, image in images.items()})
            for label, images in page.strips
        ],
        "protocol": in_words(measured.protocol) if measured.protocol else [],
        "facts": page.facts,
        "told": told,
        "shown": shown,
        "shown_interval": shown_interval,
        "is_link": is_link,
        "surely": surely,
    }


def _comparable(page: EvaluationPage) -> Measurement | None:
    """The champion's measurement, if it was taken under the same protocol."""
    theirs = page.champion.measurement if page.champion is not None else None
    mine = page.measurement
    return theirs if theirs is not None and mine is not None and theirs.protocol == mine.protocol else None


def _rows(measured: Measurement, page: EvaluationPage) -> list[Row]:
    theirs = _comparable(page)
    rows = []
    for metric, estimate in measured.metrics.items():
        words = told(metric)
        champion = theirs.metrics.get(metric) if theirs is not None else None
        checks = [check for check in page.verdict["checks"] if check["metric"] == metric and check["category"] is None]
        limits = [
            Limit(check["threshold"], check["direction"])
            for check in checks
            if check["direction"] in ("at_most", "at_least")
        ]
        difference = None if champion is None else _difference(estimate, champion)
        drawing = drawing_of(estimate, champion, limits, metric)
        rows.append(Row(metric, words, estimate, checks, champion, difference, drawing))
    return rows


def _difference(mine: Estimate, theirs: Estimate) -> Estimate:
    """Replicate by replicate, since both saw the same real images; without an interval if one has none."""
    complete = len(mine.replicates) == len(theirs.replicates) == REPLICATES
    pairs = zip(mine.replicates, theirs.replicates, strict=True) if complete else ()
    # The images were drawn apart.
    least = math.hypot(mine.least_error, theirs.least_error)
    return Estimate(mine.value - theirs.value, tuple(one - other for one, other in pairs), least_error=least)


def surely(row: Row) -> str:
    """What the interval of the difference says of the two, in a word."""
    ends = row.difference.interval if row.difference is not None else None
    if ends is None or row.told.better not in ("lower", "higher"):
        return ""
    if ends[0] <= 0 <= ends[1]:
        return "no sure difference"
    return "surely better" if (ends[1] < 0) == (row.told.better == "lower") else "surely worse"


def _columns(by_category: Mapping[str, Estimates], checks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Metrics that were measured by category, those that are asked for first: a wide table is seen in part."""
    gated = {check["metric"] for check in checks if check["category"] is not None}
    measured = dict.fromkeys(metric for metrics in by_category.values() for metric in metrics)
    return sorted(measured, key=lambda metric: metric not in gated)


def _categories(
    by_category: Mapping[str, Estimates], checks: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[Cell]]]:
    """Per category a cell for each of the columns."""
    failed = {(check["category"], check["metric"]) for check in checks if not check["passed"]}
    columns = _columns(by_category, checks)
    worst = {(_worst(metric, by_category), metric) for metric in columns}

    def cell(category: str, metric: str) -> Cell:
        estimate, place = by_category[category].get(metric), (category, metric)
        if place in failed:
            return Cell(estimate, "missed")
        if estimate is None or not math.isfinite(estimate.value):
            return Cell(estimate, "bad")
        return Cell(estimate, "worst" if place in worst else "")

    return [(category, [cell(category, metric) for metric in columns]) for category in by_category]


def _worst(metric: str, by_category: Mapping[str, Estimates]) -> str | None:
    """The category with the worst value of several that can be told apart."""
    found = {
        category: bad
        for category, metrics in by_category.items()
        if metric in metrics and math.isfinite(metrics[metric].value)
        if (bad := badness(metric, metrics[metric].value)) is not None
    }
    return max(found, key=lambda category: found[category]) if len(set(found.values())) > 1 else None


def is_link(url: str | None) -> bool:
    """Whether it leads to the web: nothing else becomes a link, least of all a script."""
    return url is not None and urlsplit(url).scheme in ("http", "https")


def data_uri(image: Image.Image) -> str:
    """A picture as WebP within a text: exact, unless that is too large."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=60, method=4)
    if buffer.tell() > LARGEST:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
