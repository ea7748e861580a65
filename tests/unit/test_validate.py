import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from components import validate as stage
from components.errors import InputError
from components.ingest import ingest
from components.raw import Photo, read_group, row_groups, write_part, write_snapshot
from components.settings import DataSettings, DecodingSettings, ExpectationSettings, Settings, ValidateSettings
from components.sources.names import NO_PHOTO
from components.tables import write_table
from components.validate import Places, validate
from components.validation.expectations import GUARDS, build_rules
from components.validation.verdict import ValidationReport

MakeRaw = Callable[..., Path]
PROJECT = Path(__file__).parents[2]
LIMITS = DecodingSettings(pixels=10**7, frames=10, seconds=20.0, memory_mb=1024)


def expectation(kind: str, level: str = "row", **kwargs: Any) -> ExpectationSettings:
    return ExpectationSettings.model_validate({"type": kind, "level": level, "kwargs": kwargs})


def suite_of(*suite: ExpectationSettings, tolerance: float = 1.0, **changes: Any) -> ValidateSettings:
    """Settings without other limits than the suite's, but for what is given."""
    lax: dict[str, Any] = {
        "undecodable": 1.0,
        "categories": {"allowed": None, "min_photos": 1},
        "attributes": {},
        "licenses": None,
        "drift": {"category_kl": None, "brightness_kl": None, "accept": None},
    }
    content = {"tolerance": tolerance, "suite": [entry.model_dump() for entry in suite], **lax, **changes}
    return ValidateSettings.model_validate(content)


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares all tests but those of the command the start of worker processes, which have their own tests."""
    if "command" not in request.node.name:
        monkeypatch.setattr("components.validation.facts.over_groups", here)
        monkeypatch.setattr("components.photos.thumbnails.over_groups", here)


def here(work, groups, columns, limits, *args):  # type: ignore[no-untyped-def]
    """over_groups, but for the guard."""
    del limits
    return ((work(read_group(group, columns), *args), []) for group in groups)


def places(raw: Path, out: Path) -> Places:
    return Places(
        raw, out / "validated", out / "approved", out / "docs", out / "validation.json", out / "validation.html"
    )


def run(settings: ValidateSettings, raw: Path, out: Path) -> ValidationReport:
    return validate(settings, LIMITS, places(raw, out))


def quarantine_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "validated" / "quarantine.parquet").set_index("file_name")


BRIGHT = expectation("expect_column_values_to_be_between", column="brightness", max_value=60)
LAX = expectation("expect_column_values_to_not_be_null", column="id")
ROWS = expectation("expect_table_row_count_to_be_between", level="dataset", min_value=100)


@pytest.fixture(scope="module")
def real(raw_dir: Path, tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> tuple[Path, ValidationReport]:
    out = tmp_path_factory.mktemp("out")
    return out, run(settings.validation, raw_dir, out)


def test_the_projects_suite_passes_the_real_photos(real: tuple[Path, ValidationReport]) -> None:
    out, report = real
    assert (report.photos, report.quarantined) == (500, 0)
    assert all(entry["success"] for entry in report.expectations.values())
    assert len(pd.read_parquet(out / "validated" / "facts.parquet")) == 500
    assert json.loads((out / "validation.json").read_text())["expectations"] == report.expectations


def test_the_projects_suite_is_large_enough(settings: Settings, real: tuple[Path, ValidationReport]) -> None:
    assert len(settings.validation.suite) >= 12
    assert len(real[1].expectations) >= len(settings.validation.suite) + len(GUARDS) + 4


def test_the_data_docs_show_every_expectation(real: tuple[Path, ValidationReport]) -> None:
    docs = real[0] / "docs"
    assert (docs / "index.html").is_file()
    text = "".join(page.read_text() for page in docs.glob("validations/**/*.html"))
    for column in ("width", "contrast", "category", "decode_error", "pixel_sha256", "photos", "quarantined_share"):
        assert column in text


def test_outputs_are_the_same_on_every_run(
    raw_dir: Path, tmp_path: Path, real: tuple[Path, ValidationReport], settings: Settings
) -> None:
    assert run(settings.validation, raw_dir, tmp_path) == real[1]
    names = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    tracked = [name for name in names if name.parts[0] != "docs"]
    assert len(tracked) == 6
    for name in tracked:
        assert (tmp_path / name).read_bytes() == (real[0] / name).read_bytes()


@pytest.fixture
def spoilt(tmp_path: Path, make_raw: MakeRaw, encoded: Callable[..., bytes], make_photo: Callable[..., Photo]) -> Path:
    """120 photos of noise that the suite accepts by themselves, 7 others, each with one fault."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray[Any, Any]:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    photos = [make_photo(encoded(noise(28, 28)), number) for number in range(120)]
    truncated = encoded(noise(28, 28))[:-400]
    photos += [
        make_photo(truncated, 900),
        make_photo(b"no image", 901),
        make_photo(encoded(noise(28, 28, 3)), 902),
        make_photo(encoded(noise(30, 28)), 903),
        make_photo(encoded(np.full((28, 28), 9, np.uint8), compress_level=0), 904),
        make_photo(encoded(noise(28, 28), "JPEG"), 905),
        make_photo(encoded(noise(28, 28)), 906, category="coat of arms"),
    ]
    return make_raw(tmp_path / "raw", photos)


def rows_only(settings: Settings, tolerance: float) -> ValidateSettings:
    """The project's settings without what they say of the data set as a whole; the photos are bags."""
    suite = [entry for entry in settings.validation.suite if entry.level == "row"]
    return suite_of(*suite, tolerance=tolerance, categories={"allowed": ["bag"], "min_photos": 1})


def test_each_fault_is_quarantined_with_its_reason(spoilt: Path, tmp_path: Path, settings: Settings) -> None:
    report = run(rows_only(settings, tolerance=0.1), spoilt, tmp_path)
    quarantine = quarantine_of(tmp_path)
    assert (report.photos, report.quarantined) == (127, 7)
    assert sorted(quarantine.index) == [f"train/{number:05}.png" for number in range(900, 907)]
    reasons = quarantine["reasons"].to_dict()
    assert "expect_column_values_to_be_null(decode_error): OSError" in reasons["train/00900.png"]
    assert "to_be_null(decode_error): no image of PNG" in reasons["train/00901.png"]
    assert reasons["train/00902.png"] == "expect_column_values_to_be_in_set(mode): RGB"
    assert reasons["train/00903.png"] == "expect_column_values_to_be_between(height): 30"
    assert reasons["train/00904.png"] == "expect_column_values_to_be_between(contrast): 0"
    assert reasons["train/00905.png"] == "expect_column_values_to_be_in_set(format): JPEG"
    assert reasons["train/00906.png"] == "expect_column_values_to_be_in_set(category): coat of arms"
    assert report.expectations["expect_column_values_to_be_null(decode_error)"] == {"success": False, "unexpected": 2}


def test_undecodable_photos_are_quarantined_whatever_the_suite(spoilt: Path, tmp_path: Path) -> None:
    run(suite_of(ROWS), spoilt, tmp_path)
    assert sorted(quarantine_of(tmp_path).index) == ["train/00900.png", "train/00901.png"]


def test_bytes_that_are_not_what_was_recorded_are_quarantined(raw_dir: Path, tmp_path: Path) -> None:
    """A part in itself sound, whose writer mixed up two photos."""
    rows = [dict(row) for row in read_group(row_groups(raw_dir)[0], ["id", "file_name", "image"])]
    whole = {"category": "bag", "split_hint": "train", "license": "MIT", "source": "test", "attributes": "{}"}
    rows = [row | whole for row in rows]
    rows[0]["image"], rows[1]["image"] = rows[1]["image"], rows[0]["image"]
    name = write_part(rows, tmp_path / "raw")
    write_snapshot(tmp_path / "raw", {row["id"]: name for row in rows})
    run(suite_of(ROWS), tmp_path / "raw", tmp_path)
    quarantine = quarantine_of(tmp_path)
    assert sorted(quarantine.index) == sorted([rows[0]["file_name"], rows[1]["file_name"]])
    expected = f"expect_column_pair_values_to_be_equal(id, sha256): {rows[0]['id']}, {rows[1]['id']}"
    assert quarantine.loc[rows[0]["file_name"], "reasons"] == expected


def test_every_reason_of_a_photo_is_given(raw_dir: Path, tmp_path: Path) -> None:
    dim = expectation("expect_column_values_to_be_between", column="brightness", min_value=58)
    names = expectation("expect_column_values_to_not_match_regex", column="file_name", regex="t10k")
    with pytest.raises(InputError, match="fewer than 1 accepted"):
        run(suite_of(BRIGHT, dim, names), raw_dir, tmp_path)
    facts = pd.read_parquet(tmp_path / "validated" / "facts.parquet").set_index("file_name")
    means = facts["brightness"].to_dict()
    quarantine = quarantine_of(tmp_path)
    for name, reasons in quarantine["reasons"].items():
        mean = means[str(name)]
        kind = "expect_column_values_to_be_between(brightness)"
        expected = [f"{kind}: {mean:.6g}"] if mean > 60 else []
        expected += [f"{kind} #2: {mean:.6g}"] if mean < 58 else []
        expected += [f"expect_column_values_to_not_match_regex(file_name): {name}"] if "t10k" in str(name) else []
        assert reasons == "; ".join(expected)
    accepted = facts.drop(quarantine.index)
    assert accepted["brightness"].between(58, 60).all()
    assert len(accepted) > 0


def test_past_the_tolerance_the_error_says_what_and_which(raw_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(suite_of(ROWS, BRIGHT, tolerance=0.05), raw_dir, tmp_path)
    facts = pd.read_parquet(tmp_path / "validated" / "facts.parquet")
    failing = facts[facts["brightness"] > 60]
    title, first, line, *_ = str(caught.value).splitlines()
    assert title == "validation failed:"
    found = f"{len(failing)} of 500 photos ({len(failing) / 500:.2%}) are in quarantine, 5.00% may be"
    assert first == f"  params.yaml: validate.tolerance: {found}"
    assert line.startswith(
        "  params.yaml: validate.suite[1]: expect_column_values_to_be_between(brightness) max_value=60"
    )
    examples = ", ".join(
        f"{row.file_name} ({row.brightness:.6g})" for row in failing.head(3)[["file_name", "brightness"]].itertuples()
    )
    assert line.endswith(f": {len(failing)} photo(s), such as {examples}")
    assert "suite[0]" not in str(caught.value), "what passed is not named"


def test_diagnosis_is_written_before_the_stage_fails(raw_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"quarantine\.parquet.*index\.html"):
        run(suite_of(BRIGHT, tolerance=0.05), raw_dir, tmp_path)
    assert len(pd.read_parquet(tmp_path / "validated" / "facts.parquet")) == 500
    report = json.loads((tmp_path / "validation.json").read_text())
    assert report["quarantined"] == len(quarantine_of(tmp_path)) > 25
    assert (tmp_path / "docs" / "index.html").is_file()


@pytest.mark.parametrize(("tolerance", "fails"), [(7 / 127 - 1e-9, True), (7 / 127, False)])
def test_the_tolerance_itself_is_allowed(
    spoilt: Path, tmp_path: Path, settings: Settings, tolerance: float, fails: bool
) -> None:
    if fails:
        with pytest.raises(InputError, match="7 of 127 photos"):
            run(rows_only(settings, tolerance), spoilt, tmp_path)
    else:
        assert run(rows_only(settings, tolerance), spoilt, tmp_path).quarantined == 7


def test_a_failure_of_the_data_set_stops_without_any_quarantine(raw_dir: Path, tmp_path: Path) -> None:
    few = expectation("expect_table_row_count_to_be_between", level="dataset", min_value=501)
    with pytest.raises(InputError) as caught:
        run(suite_of(few), raw_dir, tmp_path)
    _, line, *rest = str(caught.value).splitlines()
    assert len(rest) == 1
    assert line == "  params.yaml: validate.suite[0]: expect_table_row_count_to_be_between min_value=501: observed 500"
    assert len(quarantine_of(tmp_path)) == 0


def test_a_failure_of_the_data_set_names_photos_where_it_can(raw_dir: Path, tmp_path: Path) -> None:
    same = expectation("expect_column_values_to_be_unique", level="dataset", column="category")
    with pytest.raises(InputError, match=r"\(category\) \(no limits\): 500 photo\(s\), such as \S+ \([a-z-]+\), \S+ "):
        run(suite_of(same), raw_dir, tmp_path)
    assert len(quarantine_of(tmp_path)) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (expectation("expect_photos_to_be_nice"), r"'expect_photos_to_be_nice' is no expectation of Great Expect"),
        (expectation("expect_column_values_to_be_between", column="brightness", minimum=3), r"kwargs[\s\S]*minimum"),
        (expectation("expect_column_values_to_be_in_set", column="mode"), r"kwargs[\s\S]*value_set"),
        (
            expectation("expect_column_values_to_not_be_null", column="colour"),
            "column 'colour' is none of the facts: .*; nor an attribute of the photos: color$",
        ),
        (
            expectation("expect_column_pair_values_to_be_equal", column_A="id", column_B="x"),
            "column 'x' is none of the facts",
        ),
        (
            expectation("expect_column_mean_to_be_between", column="brightness", min_value=3),
            "its level must be 'dataset'",
        ),
        (expectation("expect_column_values_to_not_be_null", column="mode", mostly=0.9), "'mostly' has no meaning"),
    ],
)
def test_a_wrong_suite_stops_before_anything_is_written(
    wrong: ExpectationSettings, message: str, raw_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"^params\.yaml: validate\.suite\[1\]: .*{message}"):
        run(suite_of(ROWS, wrong), raw_dir, tmp_path)
    assert not (tmp_path / "docs").exists()
    assert not (tmp_path / "validation.json").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        expectation("expect_column_values_to_match_regex", column="id", regex="((("),
        expectation("expect_column_values_to_be_between", column="category", min_value=5),
    ],
)
def test_what_cannot_be_evaluated_is_named(wrong: ExpectationSettings, raw_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^params\.yaml: validate\.suite\[1\]: expect.* cannot be evaluated: "):
        run(suite_of(ROWS, wrong), raw_dir, tmp_path)


def test_rules_of_one_kind_have_different_names() -> None:
    names = [rule.name for rule in build_rules(suite_of(BRIGHT, BRIGHT))]
    assert len(set(names)) == len(names)


def test_photos_are_facts_of_the_snapshot_only(tmp_path: Path, data_settings: Callable[..., DataSettings]) -> None:
    ingest(data_settings(300, part_rows=300), tmp_path / "raw")
    ingest(data_settings(120, part_rows=300), tmp_path / "raw")
    assert run(suite_of(ROWS), tmp_path / "raw", tmp_path).photos == 120


def test_names_of_strangers_do_no_harm_in_the_data_docs(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    photo = make_photo(encoded(np.full((28, 28), 200, np.uint8)), 1, attributes={"color": "<b onclick=x>red</b>"})
    named = replace(photo, file_name="<img src=x onerror=alert(1)>.png")
    names = expectation("expect_column_values_to_match_regex", column="file_name", regex="^[a-z]+$")
    with suppress(InputError):
        run(suite_of(names, attributes={"color": ["red"]}), make_raw(tmp_path / "raw", [named]), tmp_path)
    pages = "".join(path.read_text() for path in (tmp_path / "docs").rglob("*.html"))
    assert "&lt;img src=x" in pages
    assert "&lt;b onclick" in pages
    assert "<img src=x" not in pages
    assert "<b onclick" not in pages


def test_old_data_docs_go(raw_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "docs" / "validations").mkdir(parents=True)
    (tmp_path / "docs" / "validations" / "old.html").write_text("of another run")
    run(suite_of(ROWS), raw_dir, tmp_path)
    assert not (tmp_path / "docs" / "validations" / "old.html").exists()


def run_command(params: Path, raw: Path, out: Path) -> None:
    paths = asdict(places(raw, out))
    stage.main([f"--params={params}", *(f"--{name}={path}" for name, path in paths.items())])


def test_the_command_says_what_it_found(raw_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(PROJECT / "params.yaml", raw_dir, tmp_path)
    assert capsys.readouterr().out.startswith("validate: 500 photos, 0 in quarantine; pages: ")


def test_the_command_fails_with_a_message_and_no_traceback(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(PROJECT / "params.yaml", spoilt, tmp_path)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: validation failed:\n")
    assert "params.yaml: validate.tolerance: 7 of 127 photos (5.51%) are in quarantine, 1.00% may be" in message
    assert str(tmp_path / "validation.html") in message
    assert "expect_column_kl_divergence_to_be_less_than(category)" in message


def test_the_command_is_quick_to_refuse_wrong_settings(tmp_path: Path) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["validate"]["tolerance"] = 1.5
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        run_command(tmp_path / "params.yaml", tmp_path / "raw", tmp_path)
    assert caught.value.code == 2
    assert not (tmp_path / "validated").exists()


def some(make_photo: Callable[..., Photo], encoded: Callable[..., bytes], **categories: int) -> list[Photo]:
    """So many photos per category, all different."""
    names = [name for name, count in categories.items() for _ in range(count)]
    rng = np.random.default_rng(len(names))
    files = [encoded(rng.integers(0, 256, (28, 28), dtype=np.uint8)) for _ in names]
    return [
        make_photo(content, number, category=name)
        for number, (content, name) in enumerate(zip(files, names, strict=True))
    ]


@pytest.fixture
def make(make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]) -> Callable[..., Path]:
    def build(folder: Path, **categories: int) -> Path:
        return make_raw(folder, some(make_photo, encoded, **categories))

    return build


def failed(settings: ValidateSettings, raw: Path, out: Path) -> list[dict[str, Any]]:
    """What the report says of a validation that fails."""
    with pytest.raises(InputError):
        run(settings, raw, out)
    report = json.loads((out / "validation.json").read_text())
    assert not report["passed"]
    failures: list[dict[str, Any]] = report["failures"]
    return failures


def test_each_category_needs_its_photos_and_quarantined_ones_do_not_count(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    photos = some(make_photo, encoded, bag=6, coat=5, dress=3)
    photos += [
        make_photo(b"broken %d" % number, 90 + number, category=name) for number, name in enumerate(("bag", "hat"))
    ]
    raw = make_raw(tmp_path / "raw", photos)
    settings = suite_of(LAX, categories={"allowed": None, "min_photos": 5})
    (failure,) = failed(settings, raw, tmp_path)
    assert failure["key"] == "params.yaml: validate.categories.min_photos"
    assert failure["text"] == "2 of 4 categories have fewer than 5 accepted photos"
    assert failure["examples"] == ["dress (3)", "hat (0)"]


def test_photos_without_a_category_are_no_category(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    photos = [replace(photo, category=None) for photo in some(make_photo, encoded, bag=3)]
    settings = suite_of(LAX, categories={"allowed": None, "min_photos": 5})
    report = run(settings, make_raw(tmp_path / "raw", photos), tmp_path)
    assert (report.accepted, report.categories) == (3, {"": 3})


def test_a_category_that_is_allowed_and_has_vanished_stops(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    settings = suite_of(LAX, categories={"allowed": ["bag", "boots"], "min_photos": 1})
    (failure,) = failed(settings, make_raw(tmp_path / "raw", some(make_photo, encoded, bag=3)), tmp_path)
    assert failure["text"] == "1 of 2 categories have fewer than 1 accepted photos"
    assert failure["examples"] == ["boots (0)"]


@pytest.mark.parametrize(
    ("allowed", "quarantined"), [(None, 0), (["MIT", "CC0-1.0"], 1), (["MIT"], 2), (["CC0-1.0"], 4), ([], 5)]
)
def test_licences_that_are_not_allowed_or_unknown_are_quarantined(
    allowed: list[str] | None,
    quarantined: int,
    tmp_path: Path,
    make_raw: MakeRaw,
    make_photo: Callable[..., Photo],
    encoded: Callable[..., bytes],
) -> None:
    photos = some(make_photo, encoded, bag=5)
    photos[0], photos[1] = replace(photos[0], license=None), replace(photos[1], license="CC0-1.0")
    raw = make_raw(tmp_path / "raw", photos)
    if quarantined == 5:
        with pytest.raises(InputError, match="no photo is left"):
            run(suite_of(LAX, licenses=allowed), raw, tmp_path)
    else:
        assert run(suite_of(LAX, licenses=allowed), raw, tmp_path).quarantined == quarantined


def test_values_of_attributes_are_limited_where_asked(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    photos = some(make_photo, encoded, bag=3)
    photos = [
        replace(photo, attributes={"material": name})
        for photo, name in zip(photos, ("silk", "jam", "wool"), strict=True)
    ]
    raw = make_raw(tmp_path / "raw", photos)
    run(suite_of(LAX, attributes={"material": ["silk", "wool"]}), raw, tmp_path)
    reasons = quarantine_of(tmp_path)["reasons"].to_dict()
    assert reasons == {"train/00001.png": "expect_column_values_to_be_in_set(material): jam"}
    with pytest.raises(InputError, match=r"validate\.attributes\.fabric: column 'fabric' is none .*: color, material$"):
        run(suite_of(LAX, attributes={"fabric": ["silk"]}), raw, tmp_path)


def refuse(raw: Path, *rows: tuple[str, str]) -> None:
    names, reasons = (list(column) for column in zip(*sorted(rows), strict=True))
    write_table(pa.table({"file_name": names, "reason": reasons}), raw / "refused.parquet")


def test_refused_files_count_as_undecodable_if_they_are_photos_by_their_names(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    """2 of 10 files: one in quarantine, one refused by ingest."""
    photos = [*some(make_photo, encoded, bag=8), make_photo(b"broken", 9)]
    raw = make_raw(tmp_path / "raw", photos)
    refuse(raw, ("a.jpg", "empty"), ("b.txt", NO_PHOTO), ("c.jpg", "repeats another photo: d.jpg"))
    report = run(suite_of(LAX, undecodable=0.2), raw, tmp_path)
    assert (report.undecodable, report.refused, report.undecodable_share) == (1, 1, 0.2)
    (failure,) = failed(suite_of(LAX, undecodable=0.19), raw, tmp_path)
    assert failure["key"] == "params.yaml: validate.undecodable"
    assert failure["text"] == "2 of 10 files (20.00%) are no readable photos, 19.00% may be"
    assert failure["examples"][0].startswith("train/00009.png (no image of PNG")
    assert failure["examples"][1] == "a.jpg (empty)"


DRIFT = {"category_kl": 0.1, "brightness_kl": 0.1, "accept": None}


def test_drift_stops_until_it_is_accepted_and_the_approved_version_stays(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    settings = suite_of(LAX, drift=DRIFT)
    first = run(settings, make(tmp_path / "first", bag=40, coat=40), tmp_path)
    assert first.drift.against is None
    before = {path.name: path.read_bytes() for path in (tmp_path / "approved").iterdir()}
    second = make(tmp_path / "second", bag=70, coat=10)
    (failure,) = failed(settings, second, tmp_path)
    assert failure["key"] == "params.yaml: validate.drift.category_kl"
    assert f"approved version, {first.digest}: KL divergence 0.30" in failure["text"]
    assert failure["examples"] == ["bag (50.0% to 87.5%)", "coat (50.0% to 12.5%)"]
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "approved").iterdir()}
    digest = json.loads((tmp_path / "validation.json").read_text())["digest"]
    assert failure["text"].endswith(f"let validate.drift.accept be {digest}")
    failed(suite_of(LAX, drift={**DRIFT, "accept": first.digest}), second, tmp_path)
    report = run(suite_of(LAX, drift={**DRIFT, "accept": digest}), second, tmp_path)
    assert report.drift.accepted
    assert report.drift.category_kl is not None
    assert report.drift.category_kl > 0.1
    assert json.loads((tmp_path / "approved" / "profile.json").read_text())["current"]["digest"] == digest


def test_a_version_validated_twice_gives_the_same_bytes(tmp_path: Path, make: Callable[..., Path]) -> None:
    """Not compared with itself the second time."""
    settings = suite_of(LAX, drift=DRIFT)
    run(settings, make(tmp_path / "first", bag=40, coat=40), tmp_path)
    second = make(tmp_path / "second", bag=45, coat=36)
    report = run(settings, second, tmp_path)
    assert report.drift.category_kl is not None
    assert report.drift.category_kl > 0
    names = ("validation.json", "validation.html", "approved/profile.json")
    before = [(tmp_path / name).read_bytes() for name in names]
    run(settings, second, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_another_exposure_is_drift(
    tmp_path: Path, make_raw: MakeRaw, make_photo: Callable[..., Photo], encoded: Callable[..., bytes]
) -> None:
    rng = np.random.default_rng(0)
    for name, low, high in (("dark", 0, 100), ("light", 130, 250)):
        files = [encoded(rng.integers(low, high, (28, 28), dtype=np.uint8)) for _ in range(30)]
        make_raw(tmp_path / name, [make_photo(content, number) for number, content in enumerate(files)])
    settings = suite_of(LAX, drift=DRIFT)
    run(settings, tmp_path / "dark", tmp_path)
    (failure,) = failed(settings, tmp_path / "light", tmp_path)
    assert failure["key"] == "params.yaml: validate.drift.brightness_kl"
    assert run(suite_of(LAX), tmp_path / "light", tmp_path).drift.brightness_kl


def test_dataset_level_expectations_look_at_accepted_photos(tmp_path: Path, make: Callable[..., Path]) -> None:
    settings = suite_of(
        expectation("expect_column_values_to_be_in_set", column="category", value_set=["bag"]),
        expectation("expect_table_row_count_to_be_between", level="dataset", min_value=6, max_value=6),
        categories={"allowed": ["bag"], "min_photos": 1},
    )
    assert run(settings, make(tmp_path / "raw", bag=6, hat=4), tmp_path).passed


def test_no_photos_left_is_told(tmp_path: Path, make: Callable[..., Path]) -> None:
    none = expectation("expect_column_values_to_be_in_set", column="category", value_set=["hat"])
    mean = expectation("expect_column_mean_to_be_between", level="dataset", column="brightness", min_value=1)
    with pytest.raises(InputError, match="no photo is left"):
        run(suite_of(none, mean), make(tmp_path / "raw", bag=3), tmp_path)
    assert (tmp_path / "validation.html").exists()
