"""What is wrong with answers of two serving processes, told from answers that were made up."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.generative import ModelCard
from components.serving_answers import IMAGES, SEEDS, Answer, Reason, Rows, judged

VALUES = ("bag", "boot")
SIZE = (12, 8)
"""Width and height: a mix-up shows."""
CARD = ModelCard("gan", {}, (1, SIZE[1], SIZE[0]), {"category": VALUES}, "0" * 64, "0" * 64)
REQUESTS: list[Rows] = [[{"category": value, "n": IMAGES, "seed": seed} for value in VALUES] for seed in SEEDS]

Contents = tuple[dict[str, Any], dict[str, Any]]


def png(seed: int, mode: str = "L", size: tuple[int, int] = SIZE, form: str = "PNG") -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return base64.b64encode(buffer.getvalue()).decode()


def rows_of(requested: Rows) -> Rows:
    return [
        {
            "category": row["category"],
            "seed": row["seed"],
            "index": index,
            "png": png(100 * row["seed"] + 10 * VALUES.index(row["category"]) + index),
        }
        for row in requested
        for index in range(IMAGES)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\nEfficientNet.Lite_pytorch>=0.1\n")
    return tmp_path


@pytest.fixture
def contents(folder: Path) -> Contents:
    """Of both processes, with nothing wrong: the first is asked twice with one seed and once with another."""
    first = {
        "stage": "done",
        "calls": [rows_of(REQUESTS[0]), rows_of(REQUESTS[0]), rows_of(REQUESTS[1])],
        "files": {"components": str(folder / "code/components/__init__.py")},
        "imports": {"torch": ["torch"], "efficientnet_lite_pytorch": ["efficientnet-lite_pytorch"]},
    }
    return first, {"stage": "done", "calls": [rows_of(REQUESTS[0])]}


def codes(folder: Path, contents: Contents, problem: Reason | None = None) -> set[str]:
    first, second = contents
    found = judged(folder, CARD, REQUESTS, Answer(first, None), Answer(second, problem))
    return {reason.code for reason in found}


def everywhere(contents: Contents, **changes: Any) -> None:
    """Changes the first row of each call, so that the calls still agree."""
    for content in contents:
        for call in content["calls"]:
            call[0].update(changes)


def test_nothing_is_wrong_with_a_good_answer(folder: Path, contents: Contents) -> None:
    assert codes(folder, contents) == set()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda first, _: first["calls"][1][3].update(png=png(1)), "NOT_DETERMINISTIC"),
        (lambda _, second: second["calls"][0][3].update(png=png(1)), "NOT_REPRODUCIBLE"),
        (lambda first, _: first["calls"][2][2].update(png=first["calls"][0][3]["png"]), "SEED_IGNORED"),
        (lambda first, _: first["calls"][2][3].update(index=0), "WRONG_ANSWER"),
        (lambda _, second: second["calls"][0].reverse(), "WRONG_ANSWER"),
        (lambda _, second: second["calls"][0].pop(), "WRONG_ANSWER"),
        (lambda first, _: first["files"].update({"components.x": "/elsewhere/x.py"}), "IMPORTED_FROM_ELSEWHERE"),
        (lambda first, _: first["imports"].update(faiss=["faiss-cpu"]), "REQUIREMENT_MISSING"),
        (lambda first, _: first["imports"].update(mystery=[]), "REQUIREMENT_MISSING"),
    ],
)
def test_what_one_call_has_wrong_has_its_code(
    folder: Path, contents: Contents, change: Callable[[Any, Any], None], code: str
) -> None:
    change(*contents)
    assert codes(folder, contents) == {code}


def test_a_module_beside_the_packaged_code_is_not_the_packages(folder: Path, contents: Contents) -> None:
    contents[0]["files"]["components"] = str(folder / "components/__init__.py")
    assert codes(folder, contents) == {"IMPORTED_FROM_ELSEWHERE"}


def test_the_same_image_for_each_of_a_request_is_told(folder: Path, contents: Contents) -> None:
    for content in contents:
        for call in content["calls"]:
            call[1]["png"] = call[0]["png"]
    assert codes(folder, contents) == {"SEED_IGNORED"}


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (png(1, mode="RGB"), "WRONG_SIZE"),
        (png(1, size=(8, 12)), "WRONG_SIZE"),
        (png(1, form="BMP"), "WRONG_SIZE"),
        (png(1)[:80], "INVALID_PNG"),
        ("no base64", "INVALID_PNG"),
    ],
)
def test_a_picture_that_is_wrong_has_its_code(folder: Path, contents: Contents, picture: str, code: str) -> None:
    everywhere(contents, png=picture)
    assert code in codes(folder, contents)


def test_the_second_process_counts_too(folder: Path, contents: Contents) -> None:
    contents[1].clear()
    assert codes(folder, contents, Reason("CRASHED", "signal 11")) == {"CRASHED"}
