import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components import parallel
from components.facts import SCHEMA, as_frame, brightness, facts_of_photo, gather_facts, pixel_sha256
from components.raw import Photo, read_snapshot

Encode = Callable[..., bytes]


def test_facts_of_real_photos(raw_dir: Path, fashion_mnist: Path) -> None:
    facts = as_frame(gather_facts(raw_dir))
    assert facts["id"].tolist() == list(read_snapshot(raw_dir))
    assert facts["sha256"].tolist() == facts["id"].tolist()
    assert facts["decodable"].all()
    assert facts["decode_error"].isna().all()
    assert set(zip(facts["format"], facts["mode"], facts["width"], facts["height"], strict=True)) == {
        ("PNG", "L", 28, 28)
    }
    facts = facts.set_index("file_name")
    content = (fashion_mnist / "train-images-idx3-ubyte").read_bytes()[16 : 16 + 400 * 784]
    pixels = np.frombuffer(content, np.uint8).reshape(400, 784)
    rows = facts.loc[[f"train/{number:05}.png" for number in range(400)]]
    np.testing.assert_allclose(rows["mean"], pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(rows["std"], pixels.std(axis=1), rtol=1e-12)


def test_brightness_of_colour_and_alpha(encoded: Encode, make_photo: Callable[..., Photo]) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)  # black, and wholly transparent
    facts = facts_of_photo(make_photo(encoded(pixels), 1).row())
    assert (facts["mean"], facts["std"]) == (255.0, 0.0)
    assert (facts["channels"], facts["width"], facts["height"], facts["mode"]) == (3, 3, 2, "RGBA")


def test_brightness_of_one_colour_has_no_spread() -> None:
    assert brightness(Image.new("L", (7, 11), 131)) == (131.0, 0.0)


def test_exact_duplicates_have_the_same_pixel_hash(encoded: Encode, make_photo: Callable[..., Photo]) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    files = [encoded(pixels), encoded(pixels, compress_level=9), encoded(pixels, "BMP")]
    hashes = {facts_of_photo(make_photo(content, 1).row())["pixel_sha256"] for content in files}
    assert hashes == {hashlib.sha256(b"L 4 3\n" + pixels.tobytes()).hexdigest()}


def test_other_shapes_of_the_same_bytes_are_no_duplicates() -> None:
    pixels = np.zeros((3, 4), dtype=np.uint8)
    images = [
        Image.fromarray(pixels),
        Image.fromarray(pixels.T.copy()),
        Image.fromarray(pixels.reshape(2, 2, 3)),
    ]
    assert len({pixel_sha256(image) for image in images}) == 3


def test_an_undecodable_photo_has_a_reason_and_no_facts(make_photo: Callable[..., Photo]) -> None:
    facts = facts_of_photo(make_photo(b"no image", 1).row())
    assert facts["decodable"] is False
    assert facts["decode_error"].startswith("no image of PNG")
    assert facts["bytes"] == 8
    assert set(facts) <= set(SCHEMA.names)
    assert "width" not in facts


def test_several_processes_find_the_same(raw_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = gather_facts(raw_dir)
    monkeypatch.setattr(parallel, "FEW", 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert gather_facts(raw_dir).equals(alone)
