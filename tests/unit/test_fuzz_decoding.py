"""Thousands of damaged and malicious files, through ingest and validate: each ends as facts or with a reason."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from components.guarded.parallel import over_groups
from components.photos.decoding import UndecodableError, decode
from tests.fuzzing import LIMITS, SLOW, made_files, mutated_files
from tests.hostile import MIB, groups_of_files, outcomes

PROJECT = Path(__file__).parents[2]
COUNT = 2400
BOUNDS = LIMITS.model_copy(update={"pixels": 16_000_000, "seconds": 6.0})
SUFFIXES = (".jpg", ".png", ".webp", ".GIF", ".bmp", ".tif", ".JPEG")

EXPECTED = {
    "empty": "empty",
    "zeros": "no image of",
    "text": "no image of",
    "png of 60,000 x 60,000": "more than 16,000,000 pixels",
    "png of 2**31-1 squared": "more than 16,000,000 pixels",
    "png of 0 x 0": "no image of",
    "png of 16 megapixels": "",
    "png of 16 megapixels in 16 bits and colour": "truncated",
    "png with more pixels than it says": "",
    "png with a large comment": "too large",
    "png with a large profile": "too large",
    "png with 100,000 chunks": "",
    "png of 2**31 frames": "more than 200 frames",
    "gif of 65,535 x 65,535": "more than 16,000,000 pixels",
    "gif of a million frames": "more than 200 frames",
    "gif whose frame exceeds it": "more than 16,000,000 pixels",
    "webp of 16 megapixels": "",
    "webp of 16,384 x 16,384": "more than 16,000,000 pixels",
    "jpeg of 65,535 x 65,535": "more than 16,000,000 pixels",
    "jpeg of 4,000 x 4,000 and hardly any pixels": "",
    SLOW: "took longer than 6 s",
    "tiff of 2**32-1 squared": "more than 16,000,000 pixels",
    "tiff of 16 megapixels without any": "truncated",
    "tiff of 16 megapixels, packed": "",
    "tiff with rows beyond its end": "truncated",
    "tiff of 2**16-1 channels": "no image of",
    "tiff of 100,000 directories": "more than 200 frames",
    "tiff that bites its tail": "",
    "bmp of 2**31-1 squared": "more than 16,000,000 pixels",
    "bmp of negative size": "more than 16,000,000 pixels",
}


@pytest.fixture(scope="module", autouse=True)
def others() -> set[psutil.Process]:
    """Processes that other tests' libraries keep."""
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Damaged ones, of real photos too where there are some, and those made for harm."""
    clothing = os.environ.get("VITRINE_CLOTHING")
    paths = sorted(Path(clothing).glob("train/*/*.jpg"))[:20] if clothing else []
    found = dict(mutated_files(COUNT, seed=3, photos=[path.read_bytes() for path in paths]))
    assert len(found) == COUNT
    return made_files() | found


@pytest.fixture(scope="module")
def out(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages made of a folder of these files, whose suffixes say nothing of what they hold."""
    folder = tmp_path_factory.mktemp("fuzz")
    for number, (name, content) in enumerate(files.items()):
        path = folder / "photos" / f"kind {number % 5}" / f"{name}{SUFFIXES[number % len(SUFFIXES)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    # A program of its own, for the peaks of memory are those of all its processes.
    command = [
        sys.executable,
        "-m",
        "tests.fuzz_program",
        str(folder / "photos"),
        str(folder),
        BOUNDS.model_dump_json(),
    ]
    environment = {**os.environ, "VITRINE_CACHE": str(folder / "cache")}
    program = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=400)
    assert program.returncode == 0, program.stderr
    (folder / "memory.json").write_text(program.stdout.splitlines()[-1])
    return folder


@pytest.fixture(scope="module")
def ended(out: Path) -> dict[str, str]:
    """How each file ended, by its name without folder and suffix: '' as a photo, else the reason."""
    facts = pd.read_parquet(out / "validated" / "facts.parquet")
    assert facts["decodable"].equals(facts["decode_error"].isna())
    quarantine = pd.read_parquet(out / "validated" / "quarantine.parquet")
    assert set(quarantine["id"]) == set(facts["id"][~facts["decodable"]])
    refused = pd.read_parquet(out / "raw" / "refused.parquet")
    names = [*facts["file_name"], *refused["file_name"]]
    reasons = [*facts["decode_error"].fillna(""), *refused["reason"]]
    return {Path(name).stem: reason for name, reason in zip(names, reasons, strict=True)}


def test_every_file_ends_as_facts_or_with_a_reason(files: dict[str, bytes], ended: dict[str, str]) -> None:
    assert set(ended) == set(files)
    reasons = Counter(reason.split(" (")[0][:40] for reason in ended.values() if reason)
    # Of both there are many, and of reasons of many kinds: else nothing was put to the test.
    assert len(ended) - reasons.total() > COUNT * 0.15
    assert reasons.total() > COUNT * 0.4
    assert len(reasons) > 15
    assert all(not reason or (reason.isprintable() and " at 0x" not in reason) for reason in ended.values())


def test_what_is_a_photo_has_its_measures(out: Path) -> None:
    facts = pd.read_parquet(out / "validated" / "facts.parquet").set_index("decodable")
    measures = ["width", "height", "brightness", "contrast", "sharpness", "blankness", "phash", "pixel_sha256", "color"]
    assert facts.loc[True, measures].notna().to_numpy().all()
    assert np.isfinite(facts.loc[True, ["brightness", "contrast", "sharpness", "blankness"]].to_numpy()).all()
    assert facts.loc[False, measures].isna().to_numpy().all()


@pytest.mark.parametrize("name", EXPECTED)
def test_files_made_for_harm_end_as_expected(name: str, ended: dict[str, str]) -> None:
    assert EXPECTED[name] in ended[name]
    assert (ended[name] == "") == (EXPECTED[name] == "")


def test_all_files_made_for_harm_were_tried(files: dict[str, bytes]) -> None:
    assert set(EXPECTED) == {name for name in files if not name[0].isdigit()}


def test_memory_stays_within_the_limit(out: Path) -> None:
    """Resident pages at their most, of any guarded process and of the program itself."""
    peaks = json.loads((out / "memory.json").read_text())
    assert 150 * MIB < peaks["guarded"] < BOUNDS.memory_mb * MIB + peaks["helper"]
    assert peaks["program"] < 600 * MIB


def test_outcomes_do_not_depend_on_the_company(files: dict[str, bytes], ended: dict[str, str], tmp_path: Path) -> None:
    """Other groups, another order, without the slow one; and in this very process."""
    some = dict(sorted(files.items(), key=lambda item: item[0][::-1])[:300])
    some.pop(SLOW, None)
    found: dict[str, str] = {}
    for result, lost in over_groups(
        outcomes, groups_of_files(tmp_path, some, 7), ["file_name", "image"], BOUNDS, BOUNDS
    ):
        assert lost == []
        found |= result
    for name, outcome in found.items():
        if not ended[name].startswith(("repeats", "empty")):
            assert ended[name] == ("" if outcome.startswith("photo ") else outcome)
    for name in list(found)[:50]:
        try:
            image = decode(some[name], BOUNDS, at_least=64).image
            expected = f"photo {image.mode} {image.size}"
        except UndecodableError as error:
            expected = str(error)
        assert found[name].startswith(expected)


def test_damage_is_the_same_for_the_same_seed() -> None:
    assert dict(mutated_files(30, 1, [])) == dict(mutated_files(30, 1, []))
    assert dict(mutated_files(30, 1, [])) != dict(mutated_files(30, 2, []))
    contents = [np.frombuffer(content, np.uint8) for content in dict(mutated_files(200, 1, [])).values()]
    assert len({content.tobytes() for content in contents}) > 180


def test_no_process_is_left(others: set[psutil.Process]) -> None:
    assert set(psutil.Process().children(recursive=True)) <= others
