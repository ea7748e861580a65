"""Judges what packaged models answered in the serving smoke test: the right pictures, the same ones each time."""

import base64
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from components.generative import ModelCard

IMAGES = 2
"""Images asked for per condition and seed."""

SEEDS = (1, 2)

Code = Literal[
    "WEIGHTS_MISSING",
    "WEIGHTS_ALTERED",
    "NOT_SIGNED",
    "IMPORT_FAILED",
    "IMPORTED_FROM_ELSEWHERE",
    "REQUIREMENT_MISSING",
    "LOAD_FAILED",
    "PREDICT_FAILED",
    "CRASHED",
    "TIMEOUT",
    "WRONG_ANSWER",
    "INVALID_PNG",
    "WRONG_SIZE",
    "CONSTANT_IMAGE",
    "NOT_DETERMINISTIC",
    "NOT_REPRODUCIBLE",
    "SEED_IGNORED",
]
"""NOT_DETERMINISTIC: same process, same seed, other bytes; NOT_REPRODUCIBLE: in a second process."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Reason:
    """One thing that is wrong with a package.

    Attributes:
        text: what was found and what is allowed.
    """

    code: Code
    text: str


@dataclass(frozen=True)
class Answer:
    """What a process said; `problem` if it said nothing of use."""

    content: dict[str, Any]
    problem: Reason | None

    @property
    def calls(self) -> list[Rows]:
        calls: list[Rows] = self.content.get("calls", [])
        return calls


def judged(folder: Path, card: ModelCard, requests: list[Rows], first: Answer, second: Answer) -> Iterator[Reason]:
    """What is wrong with the answers."""
    yield from _code(folder, first)
    problems = [answer.problem for answer in (first, second) if answer.problem is not None]
    if problems:
        yield from problems
        return
    asked = [requests[0], requests[0], requests[1], requests[0]]
    answered = [*first.calls, *second.calls]
    if wrong := [reason for rows, call in zip(asked, answered, strict=True) for reason in _shape(card, rows, call)]:
        yield from wrong
        return
    for row in itertools.chain.from_iterable(answered):
        yield from _picture(card, row)
    yield from _compared(card, *answered)


def _code(folder: Path, answer: Answer) -> Iterator[Reason]:
    """Whether what ran is the package's, and its requirements bring what it imports."""
    # All of them: an installed checkout also lends single modules that the package lacks.
    for module, file in answer.content.get("files", {}).items():
        if not Path(file).is_relative_to(folder / "code"):
            yield Reason("IMPORTED_FROM_ELSEWHERE", f"{module} came from {file}, not from {folder / 'code'}")
    required = _required(folder / "requirements.txt")
    for module, distributions in answer.content.get("imports", {}).items():
        if not required & {_normalised(name) for name in distributions}:
            yield Reason(
                "REQUIREMENT_MISSING",
                f"the code imports {module} (brought by {distributions or 'nothing'}), which requirements.txt lacks; "
                "add it to packaging.REQUIREMENTS",
            )


def _required(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {_normalised(re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]) for line in lines}


def _normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _shape(card: ModelCard, requested: Rows, answered: Rows) -> Iterator[Reason]:
    """Whether there is a row per image, in order, with the columns of its request."""
    columns = [*card.attributes, "seed"]
    expected = [
        {**{name: row[name] for name in columns}, "index": index} for row in requested for index in range(IMAGES)
    ]
    found = [{name: row.get(name) for name in [*columns, "index"]} for row in answered]
    if found != expected:
        yield Reason(
            "WRONG_ANSWER", f"{len(answered)} rows, first {found[:1]}; due are {len(expected)}: {expected[:1]}"
        )


def _picture(card: ModelCard, row: dict[str, Any]) -> Iterator[Reason]:
    """Whether a row's PNG is a picture as this model should give it."""
    channels, height, width = card.image_shape
    expected = ("PNG", "L" if channels == 1 else "RGB", (width, height))
    try:
        with Image.open(io.BytesIO(base64.b64decode(row["png"]))) as image:
            image.load()
            found, constant = (image.format, image.mode, image.size), image.getcolors(1) is not None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        yield Reason("INVALID_PNG", f"{_named(card, row)}: cannot be decoded: {error}")
        return
    if found != expected:
        yield Reason("WRONG_SIZE", f"{_named(card, row)}: {found}; this model's images are {expected}")
    elif constant:
        yield Reason("CONSTANT_IMAGE", f"{_named(card, row)}: all its pixels have one colour")


def _compared(card: ModelCard, once: Rows, again: Rows, other_seed: Rows, elsewhere: Rows) -> Iterator[Reason]:
    """Whether the same seed gives the same bytes and another seed others, per condition."""
    for start in range(0, len(once), IMAGES):
        rows = slice(start, start + IMAGES)
        mine, named = _bytes(once[rows]), _named(card, once[start])
        if _bytes(again[rows]) != mine:
            yield Reason("NOT_DETERMINISTIC", f"{named}: other bytes when asked again")
        if _bytes(elsewhere[rows]) != mine:
            yield Reason("NOT_REPRODUCIBLE", f"{named}: other bytes in another process")
        if set(_bytes(other_seed[rows])) & set(mine) or len(set(mine)) < IMAGES:
            yield Reason("SEED_IGNORED", f"{named}: the same image twice, with seeds {SEEDS} and {IMAGES} images each")


def _bytes(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [row["png"] for row in rows]


def _named(card: ModelCard, row: dict[str, Any]) -> str:
    """An image by its conditions and seed."""
    return ", ".join(f"{name} {row[name]}" for name in (*card.attributes, "seed"))
