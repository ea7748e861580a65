"""The serving smoke test: is the packaged model one that production can load and get images from?

It loads the package in fresh processes with a clean environment, outside the checkout, and looks at what
they answer. A gate: what fails here is not registered.
"""

import base64
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from components.dataset import AttributeValues
from components.errors import InputError
from components.files import sha256_file
from components.generative import WEIGHTS, ModelCard, load_card
from components.packaging import weights_folder
from components.signing import REQUIRE, verify

PROGRAM = Path(__file__).resolve().parent / "smoke_process.py"
IMAGES = 2
"""Images asked for per condition and seed."""

SEEDS = (1, 2)
INHERITED = re.compile(r"PATH|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|OMP_NUM_THREADS|(CUDA|NVIDIA)_\w+")
"""Variables that a serving process may need from the machine it runs on."""

TAIL = 600
"""Characters of a process's output that a verdict quotes."""

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
class SmokeTest:
    """What the smoke test found.

    Attributes:
        reasons: why it failed, one per code; none: it passed.
        seconds: it took.
        images: that the model gave.
    """

    reasons: tuple[Reason, ...]
    seconds: float
    images: int

    @property
    def passed(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class Answer:
    """What a process said; `problem` if it said nothing of use."""

    content: dict[str, Any]
    problem: Reason | None

    @property
    def calls(self) -> list[Rows]:
        calls: list[Rows] = self.content.get("calls", [])
        return calls


def smoke(folder: Path, public_key: Path | None = None, *, timeout: float = 300, max_conditions: int = 64) -> SmokeTest:
    """Tries a package: loads it twice, asks for images of its conditions, and compares them.

    Args:
        folder: as `packaging.save_package` (and `signing.sign`) left it; nothing in it changes.
        public_key: production will ask for this key's signature; None: for none.
        timeout: seconds for all of it.
        max_conditions: combinations of attribute values that are tried; of more, each value at least once.
    """
    started = time.monotonic()
    folder = folder.absolute()
    images = 0
    reasons = list(_looked_at(folder, public_key))
    if not reasons:
        card = load_card(weights_folder(folder))
        requests = [_requests(card.attributes, seed, max_conditions) for seed in SEEDS]
        first, second = _answers(folder, public_key, [[requests[0], requests[0], requests[1]], requests[:1]], timeout)
        images = sum(len(rows) for answer in (first, second) for rows in answer.calls)
        reasons = list(_judged(folder, card, requests, first, second))
    once = {reason.code: reason for reason in reversed(reasons)}
    return SmokeTest(tuple(reversed(once.values())), time.monotonic() - started, images)


def _looked_at(folder: Path, public_key: Path | None) -> Iterator[Reason]:
    """What is wrong before anything is run."""
    try:
        weights_dir = weights_folder(folder)
        card = load_card(weights_dir)
    except InputError as error:
        yield Reason("LOAD_FAILED", str(error))
        return
    path = weights_dir / WEIGHTS
    if not path.exists():
        yield Reason("WEIGHTS_MISSING", f"{path}: no such file")
    elif (found := sha256_file(path)) != card.weights_sha256:
        yield Reason("WEIGHTS_ALTERED", f"{path}: SHA-256 is {found}, the model's card says {card.weights_sha256}")
    if public_key is not None:
        try:
            verify(folder, public_key)
        except InputError as error:
            yield Reason("NOT_SIGNED", str(error))


def _requests(attributes: AttributeValues, seed: int, max_conditions: int) -> Rows:
    """A row per condition: all combinations of values or, if these are too many, each value at least once."""
    combinations = list(itertools.islice(itertools.product(*attributes.values()), max_conditions + 1))
    if len(combinations) > max_conditions:
        longest = max(len(values) for values in attributes.values())
        combinations = [tuple(values[row % len(values)] for values in attributes.values()) for row in range(longest)]
    return [{**dict(zip(attributes, values, strict=True)), "n": IMAGES, "seed": seed} for values in combinations]


def _answers(folder: Path, public_key: Path | None, requests: list[list[Rows]], timeout: float) -> list[Answer]:
    """Runs a process per list of calls, all at once, none of them in the checkout."""
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory(prefix="vitrine-smoke-") as scratch:
        places = [Path(scratch) / str(number) for number in range(len(requests))]
        started = [_start(folder, public_key, calls, place) for calls, place in zip(requests, places, strict=True)]
        try:
            return [_answer(process, place, deadline, timeout) for process, place in zip(started, places, strict=True)]
        finally:
            for process in started:
                _end(process)


def _start(folder: Path, public_key: Path | None, calls: list[Rows], place: Path) -> subprocess.Popen[bytes]:
    place.mkdir()
    (place / "requests.json").write_text(json.dumps(calls), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    environment |= {"HOME": str(place), "TMPDIR": str(place), "MLFLOW_DISABLE_TELEMETRY": "true"}
    if public_key is not None:
        environment[REQUIRE] = str(public_key.absolute())
    # -I: no PYTHON* variables, nothing from the working directory; -B: leaves nothing compiled in the package.
    command = [sys.executable, "-I", "-B", str(PROGRAM), str(folder), "requests.json", "answer.json"]
    with (place / "log.txt").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _answer(process: subprocess.Popen[bytes], place: Path, deadline: float, timeout: float) -> Answer:
    try:
        status = process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Answer({}, Reason("TIMEOUT", f"no answer within {timeout:g} s{_tail(place)}"))
    try:
        content: dict[str, Any] = json.loads((place / "answer.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Answer({}, Reason("CRASHED", f"the process ended with status {status}{_tail(place)}"))
    return Answer(content, _error(content))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it has started."""
    if process.poll() is None:  # else its number may be another's by now
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(place: Path) -> str:
    text = (place / "log.txt").read_text(encoding="utf-8", errors="replace").strip()[-TAIL:]
    return f"; it said: {text}" if text else ""


def _error(content: dict[str, Any]) -> Reason | None:
    if "error" not in content:
        return None
    kinds, message = content["error"]["type"], content["error"]["message"]
    code: Code = "PREDICT_FAILED" if content["stage"] == "predict" else "LOAD_FAILED"
    return Reason("IMPORT_FAILED" if "ImportError" in kinds else code, f"{kinds[0]}: {message[:TAIL]}")


def _judged(folder: Path, card: ModelCard, requests: list[Rows], first: Answer, second: Answer) -> Iterator[Reason]:
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
