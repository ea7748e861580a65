"""The serving smoke test: is the packaged model one that production can load and get images from?

It loads the package in fresh processes with a clean environment, outside the checkout, and looks at what
they answer. A gate: what fails here cannot be promoted.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.dataset import AttributeValues
from components.errors import InputError
from components.files import sha256_file
from components.generative import WEIGHTS, load_card
from components.packaging import weights_folder
from components.serving_answers import IMAGES, SEEDS, Answer, Code, Reason, Rows, judged
from components.signing import REQUIRE, verify

PROGRAM = Path(__file__).resolve().parent / "smoke_process.py"
INHERITED = re.compile(r"PATH|LANG|LC_\w+|TZ|LD_LIBRARY_PATH|OMP_NUM_THREADS|(CUDA|NVIDIA)_\w+")
"""Variables that a serving process may need from the machine it runs on."""

TAIL = 600
"""Characters of a process's output that a verdict quotes."""


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


def smoke(
    folder: Path, public_key: Path | None = None, *, timeout: float = 300, max_conditions: int = 512
) -> SmokeTest:
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
        reasons = list(judged(folder, card, requests, first, second))
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
