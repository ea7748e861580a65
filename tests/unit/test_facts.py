import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.errors import InputError
from components.guarded import parallel
from components.guarded.parallel import Lost
from components.raw import Photo, read_snapshot, write_part, write_snapshot
from components.settings import DecodingSettings
from components.validation import facts as module
from components.validation import facts_cache
from components.validation.facts import OF_GROUP, SCHEMA, facts_of_photo, gather_facts, with_attributes

Encode = Callable[..., bytes]
MakePhoto = Callable[..., Photo]
MakeRaw = Callable[..., Path]
LIMITS = DecodingSettings(pixels=10**7, frames=10, seconds=20.0, memory_mb=1024)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, empty."""
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "facts"


@pytest.fixture
def small_raw(tmp_path: Path, make_raw: MakeRaw, encoded: Encode, make_photo: MakePhoto) -> Path:
    rng = np.random.default_rng(0)
    photos = [make_photo(encoded(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)), number) for number in range(8)]
    return make_raw(tmp_path / "raw", [*photos, make_photo(b"no image", 8)])


def test_facts_of_real_photos(raw_dir: Path, fashion_mnist: Path) -> None:
    table = gather_facts(raw_dir, LIMITS)
    facts = table.to_pandas()
    assert table.column_names == [*SCHEMA.names, "color"]
    assert facts["id"].tolist() == list(read_snapshot(raw_dir))
    assert facts["sha256"].tolist() == facts["id"].tolist()
    assert facts["decodable"].all()
    assert facts["decode_error"].isna().all()
    kinds = facts[["format", "mode", "channels", "frames", "width", "height", "aspect_ratio"]]
    assert {tuple(row) for row in kinds.itertuples(index=False)} == {("PNG", "L", 1, 1, 28, 28, 1.0)}
    assert set(facts["color"]) <= {"black", "grey", "white"}
    assert facts["color_derived"].all()
    facts = facts.set_index("file_name")
    content = (fashion_mnist / "train-images-idx3-ubyte").read_bytes()[16 : 16 + 400 * 784]
    pixels = np.frombuffer(content, np.uint8).reshape(400, 784)
    rows = facts.loc[[f"train/{number:05}.png" for number in range(400)]]
    np.testing.assert_allclose(rows["brightness"], pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(rows["contrast"], pixels.std(axis=1), rtol=1e-12)


def test_an_undecodable_photo_has_a_reason_and_no_measures(make_photo: MakePhoto) -> None:
    facts = facts_of_photo(make_photo(b"no image", 1).row(), LIMITS)
    assert facts["decodable"] is False
    assert facts["decode_error"].startswith("no image of PNG")
    assert (facts["bytes"], facts["sha256"]) == (8, hashlib.sha256(b"no image").hexdigest())
    assert set(facts) <= set(SCHEMA.names)
    assert "width" not in facts


def test_sizes_are_of_the_full_upright_photo(encoded: Encode, make_photo: MakePhoto) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    content = encoded(Image.new("RGB", (1600, 900), "navy"), "JPEG", exif=exif.tobytes())
    facts = facts_of_photo(make_photo(content, 1).row(), LIMITS)
    assert (facts["width"], facts["height"], facts["aspect_ratio"]) == (900, 1600, 900 / 1600)
    assert (facts["box_right"], facts["box_bottom"]) == (900, 1600)


def test_limits_are_passed_on_to_the_decoder(encoded: Encode, make_photo: MakePhoto) -> None:
    row = make_photo(encoded(Image.new("L", (100, 101))), 1).row()
    assert facts_of_photo(row, LIMITS.model_copy(update={"pixels": 10100}))["decodable"]
    assert not facts_of_photo(row, LIMITS.model_copy(update={"pixels": 10099}))["decodable"]


def test_a_given_colour_goes_before_the_derived_one(
    tmp_path: Path, make_raw: MakeRaw, encoded: Encode, make_photo: MakePhoto
) -> None:
    red = encoded(Image.new("RGB", (80, 80), "#c8202a"))
    blue = encoded(Image.new("RGB", (80, 80), "#2848b0"))
    photos = [
        make_photo(red, 0, attributes={"color": "cherry", "material": "silk"}),
        make_photo(blue, 1, attributes={"size of shoe": "9"}),
        make_photo(b"broken", 2, attributes={"color": "teal"}),
        make_photo(b"broken too", 3),
    ]
    table = gather_facts(make_raw(tmp_path / "raw", photos), LIMITS)
    assert table.column_names == [*SCHEMA.names, "color", "material", "size of shoe"]
    facts = table.to_pandas().set_index("file_name").sort_index()
    assert facts["color"].replace({np.nan: None}).tolist() == ["cherry", "blue", "teal", None]
    assert facts["color_derived"].replace({np.nan: None}).tolist() == [False, True, None, None]
    assert facts["material"].replace({np.nan: None}).tolist() == ["silk", None, None, None]
    assert facts["size of shoe"].replace({np.nan: None}).tolist() == [None, "9", None, None]


def test_attributes_of_thousands_of_photos_become_columns() -> None:
    texts = [json.dumps({"a": str(n % 7)} | ({"b": "x"} if n % 2 else {})) for n in range(5000)]
    table = pa.Table.from_pylist([{"attributes": text} for text in texts], schema=OF_GROUP)
    found = with_attributes(table)
    assert found["a"].to_pylist() == [str(n % 7) for n in range(5000)]
    assert found["b"].to_pylist() == ["x" if n % 2 else None for n in range(5000)]
    assert found["color"].null_count == 5000


def test_a_lost_photo_has_its_record_and_the_reason(
    small_raw: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """As over_groups gives them for photos that kill their process."""
    over_groups = parallel.over_groups

    def losing(work, groups, *args):  # type: ignore[no-untyped-def]
        for group, (table, _) in zip(groups, over_groups(work, groups, *args), strict=True):
            lost = sorted(group.ids.tolist())[2]
            yield table.filter(pc.not_equal(table["id"], lost)), [Lost(lost, "took longer than 20 s")]

    whole = gather_facts(small_raw, LIMITS)
    for path in cache.iterdir():
        path.unlink()
    monkeypatch.setattr(module, "over_groups", losing)
    facts = gather_facts(small_raw, LIMITS)
    assert facts["id"].equals(whole["id"])
    row, before = facts.slice(2, 1).to_pylist()[0], whole.slice(2, 1).to_pylist()[0]
    assert (row["decodable"], row["decode_error"], row["width"]) == (False, "took longer than 20 s", None)
    assert all(row[name] == before[name] for name in ("file_name", "category", "license", "sha256", "bytes"))
    monkeypatch.setattr(module, "over_groups", over_groups)
    assert gather_facts(small_raw, LIMITS).equals(whole), "what was lost is tried again"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of photos decoded by each gather_facts from now on."""
    counts: list[int] = []
    over_groups = parallel.over_groups

    def counting(work, groups, *args):  # type: ignore[no-untyped-def]
        counts.append(sum(len(group.ids) for group in groups))
        return over_groups(work, groups, *args)

    monkeypatch.setattr(module, "over_groups", counting)
    return counts


@pytest.mark.usefixtures("cache")
def test_what_is_known_is_not_decoded_again_and_only_the_new_part_is(
    tmp_path: Path,
    encoded: Encode,
    make_photo: MakePhoto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = counted(monkeypatch)
    raw = tmp_path / "raw"
    parts = [
        [make_photo(encoded(np.full((9, 9), 10 * part + n, np.uint8)), n).row() for n in range(4)] for part in range(3)
    ]
    names = [write_part(rows, raw) for rows in parts]

    def snapshot(*wanted: int, without: str = "") -> None:
        ids = {str(row["id"]): names[part] for part in wanted for row in parts[part]}
        write_snapshot(raw, {photo_id: part for photo_id, part in ids.items() if photo_id != without})

    snapshot(0, 1)
    first = gather_facts(raw, LIMITS)
    assert gather_facts(raw, LIMITS).equals(first)
    snapshot(0, 1, 2)
    assert gather_facts(raw, LIMITS).num_rows == 12
    gone = str(parts[1][2]["id"])
    snapshot(0, 1, without=gone)
    assert gather_facts(raw, LIMITS)["id"].to_pylist() == [each for each in first["id"].to_pylist() if each != gone]
    assert counts == [8, 0, 4, 0]


def test_a_photo_that_comes_back_is_decoded_alone(
    cache: Path, small_raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = counted(monkeypatch)
    everything = read_snapshot(small_raw)
    whole = gather_facts(small_raw, LIMITS)
    for path in cache.iterdir():
        path.unlink()
    write_snapshot(small_raw, dict(list(everything.items())[3:]))
    gather_facts(small_raw, LIMITS)
    write_snapshot(small_raw, everything)
    assert gather_facts(small_raw, LIMITS).equals(whole)
    assert counts == [9, 6, 3]
    assert gather_facts(small_raw, LIMITS).equals(whole)
    assert counts[-1] == 0


def test_facts_of_a_part_that_was_written_anew_go(small_raw: Path, cache: Path) -> None:
    """An erased photo must not live on in the cache."""
    gather_facts(small_raw, LIMITS)
    old = cache / "part-0123456789abcdef.0123.parquet"
    (path,) = cache.iterdir()
    path.rename(old)
    gather_facts(small_raw, LIMITS)
    assert list(cache.iterdir()) == [path]


def test_other_limits_are_other_facts(small_raw: Path, cache: Path) -> None:
    assert gather_facts(small_raw, LIMITS)["decodable"].to_pylist().count(True) == 8
    strict = LIMITS.model_copy(update={"pixels": 599})
    assert gather_facts(small_raw, strict)["decodable"].to_pylist().count(True) == 0
    assert len(list(cache.iterdir())) == 1, "facts by other limits do not pile up"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other columns"])
def test_a_damaged_cache_is_computed_again(
    small_raw: Path, cache: Path, damage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gather_facts(small_raw, LIMITS)
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "other columns":
        pq.write_table(pq.read_table(path).drop_columns(["phash"]), path)
    else:
        content[200] ^= 255
        path.write_bytes(bytes({"truncated": content[:-100], "flipped": content, "empty": bytearray()}[damage]))
    counts = counted(monkeypatch)
    assert gather_facts(small_raw, LIMITS).equals(whole)
    assert counts == [9]
    assert damage == "other columns" or "the facts are computed again" in capsys.readouterr().out
    assert gather_facts(small_raw, LIMITS).equals(whole)
    assert counts == [9, 0]


def test_the_cache_depends_on_all_code_that_makes_facts() -> None:
    """All modules of ours that a worker imports for it, but for those that only carry photos to it."""
    code = "import components.photos.decoding, components.photos.measures, sys; print(*sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {f"{name.removeprefix('components.').replace('.', '/')}.py" for name in shown if "components." in name}
    made_by = {*facts_cache.SOURCES} - {"validation/facts.py"}
    assert ours - {"settings.py", "errors.py", "files.py", "photos.py"} == made_by


def test_a_cache_that_cannot_be_written_is_told(
    small_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/facts: cannot be written .*VITRINE_CACHE"):
        gather_facts(small_raw, LIMITS)


def test_workers_start_without_slow_libraries() -> None:
    modules = "components.validation.facts, components.photos.thumbnails, components.validate"
    code = f"import {modules}, sys; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pandas", "torch", "great_expectations", "mlflow", "scipy", "imagehash"} & set(shown)
