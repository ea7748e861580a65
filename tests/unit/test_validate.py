import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from components import validate as stage
from components.errors import InputError
from components.expectations import GUARDS, build_rules
from components.ingest import ingest
from components.raw import Photo, read_group, row_groups, write_part, write_snapshot
from components.settings import DataSettings, ExpectationSettings, Settings, ValidateSettings
from components.validate import ValidationReport, validate

MakeRaw = Callable[..., Path]
PROJECT = Path(__file__).parents[2]


def expectation(kind: str, level: str = "row", **kwargs: Any) -> ExpectationSettings:
    return ExpectationSettings.model_validate({"type": kind, "level": level, "kwargs": kwargs})


def suite_of(*suite: ExpectationSettings, tolerance: float = 1.0) -> ValidateSettings:
    return ValidateSettings(tolerance=tolerance, suite=list(suite))


def run(settings: ValidateSettings, raw: Path, out: Path) -> ValidationReport:
    return validate(settings, raw, out / "validated", out / "docs", out / "validation.json")


def quarantine_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "validated" / "quarantine.parquet").set_index("file_name")


BRIGHT = expectation("expect_column_values_to_be_between", column="mean", max_value=60)
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
    assert len(real[1].expectations) == len(settings.validation.suite) + len(GUARDS)


def test_the_data_docs_show_every_expectation(real: tuple[Path, ValidationReport]) -> None:
    docs = real[0] / "docs"
    assert (docs / "index.html").is_file()
    (page,) = docs.glob("validations/**/*.html")
    text = page.read_text()
    for column in ("width", "std", "category", "decode_error", "pixel_sha256"):
        assert column in text


def test_outputs_are_the_same_on_every_run(
    raw_dir: Path, tmp_path: Path, real: tuple[Path, ValidationReport], settings: Settings
) -> None:
    assert run(settings.validation, raw_dir, tmp_path) == real[1]
    for name in ("validated/facts.parquet", "validated/quarantine.parquet", "validation.json"):
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
        make_photo(encoded(noise(28, 28)), 906, category="hat"),
    ]
    return make_raw(tmp_path / "raw", photos)


def test_each_fault_is_quarantined_with_its_reason(spoilt: Path, tmp_path: Path, settings: Settings) -> None:
    rows_only = [entry for entry in settings.validation.suite if entry.level == "row"]
    report = run(suite_of(*rows_only, tolerance=0.1), spoilt, tmp_path)
    quarantine = quarantine_of(tmp_path)
    assert (report.photos, report.quarantined) == (127, 7)
    assert sorted(quarantine.index) == [f"train/{number:05}.png" for number in range(900, 907)]
    reasons = quarantine["reasons"].to_dict()
    assert "expect_column_values_to_be_null(decode_error): OSError" in reasons["train/00900.png"]
    assert "to_be_null(decode_error): no image of PNG" in reasons["train/00901.png"]
    assert reasons["train/00902.png"] == "expect_column_values_to_be_in_set(mode): RGB"
    assert reasons["train/00903.png"] == "expect_column_values_to_be_between(height): 30"
    assert reasons["train/00904.png"] == "expect_column_values_to_be_between(std): 0"
    assert reasons["train/00905.png"] == "expect_column_values_to_be_in_set(format): JPEG"
    assert reasons["train/00906.png"] == "expect_column_values_to_be_in_set(category): hat"
    assert report.expectations["expect_column_values_to_be_null(decode_error)"] == {"success": False, "unexpected": 2}


def test_undecodable_photos_are_quarantined_whatever_the_suite(spoilt: Path, tmp_path: Path) -> None:
    run(suite_of(ROWS), spoilt, tmp_path)
    assert sorted(quarantine_of(tmp_path).index) == ["train/00900.png", "train/00901.png"]


def test_bytes_that_are_not_what_was_recorded_are_quarantined(raw_dir: Path, tmp_path: Path) -> None:
    """A part in itself sound, whose writer mixed up two photos."""
    rows = [dict(row) for row in read_group(row_groups(raw_dir)[0], ["id", "file_name", "image"])]
    whole = {"category": "bag", "split_hint": "train", "licence": "MIT", "source": "test", "attributes": "{}"}
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
    dim = expectation("expect_column_values_to_be_between", column="mean", min_value=58)
    run(
        suite_of(BRIGHT, dim, expectation("expect_column_values_to_not_match_regex", column="file_name", regex="t10k")),
        raw_dir,
        tmp_path,
    )
    facts = pd.read_parquet(tmp_path / "validated" / "facts.parquet").set_index("file_name")
    means = facts["mean"].to_dict()
    quarantine = quarantine_of(tmp_path)
    for name, reasons in quarantine["reasons"].items():
        mean = means[str(name)]
        kind = "expect_column_values_to_be_between(mean)"
        expected = [f"{kind}: {mean:.6g}"] if mean > 60 else []
        expected += [f"{kind} #2: {mean:.6g}"] if mean < 58 else []
        expected += [f"expect_column_values_to_not_match_regex(file_name): {name}"] if "t10k" in str(name) else []
        assert reasons == "; ".join(expected)
    accepted = facts.drop(quarantine.index)
    assert accepted["mean"].between(58, 60).all()
    assert len(accepted) > 0


def test_past_the_tolerance_the_error_says_what_and_which(raw_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(suite_of(ROWS, BRIGHT, tolerance=0.05), raw_dir, tmp_path)
    facts = pd.read_parquet(tmp_path / "validated" / "facts.parquet")
    failing = facts[facts["mean"] > 60]
    first, line, *_ = str(caught.value).splitlines()
    assert first.startswith(f"{len(failing)} of 500 photos ({len(failing) / 500:.2%}) are in quarantine, 5.00% may be")
    assert line.startswith("  params.yaml: validate.suite[1]: expect_column_values_to_be_between(mean) max_value=60")
    examples = ", ".join(
        f"{row.file_name} ({row.mean:.6g})" for row in failing.head(3)[["file_name", "mean"]].itertuples()
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
    rows_only = suite_of(*(e for e in settings.validation.suite if e.level == "row"), tolerance=tolerance)
    if fails:
        with pytest.raises(InputError, match="7 of 127 photos"):
            run(rows_only, spoilt, tmp_path)
    else:
        assert run(rows_only, spoilt, tmp_path).quarantined == 7


def test_a_failure_of_the_data_set_stops_without_any_quarantine(raw_dir: Path, tmp_path: Path) -> None:
    few = expectation("expect_table_row_count_to_be_between", level="dataset", min_value=501)
    with pytest.raises(InputError) as caught:
        run(suite_of(few), raw_dir, tmp_path)
    first, line, *_ = str(caught.value).splitlines()
    assert first == "1 expectation(s) about the data set failed:"
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
        (expectation("expect_column_values_to_be_between", column="mean", minimum=3), r"kwargs[\s\S]*minimum"),
        (expectation("expect_column_values_to_be_in_set", column="mode"), r"kwargs[\s\S]*value_set"),
        (expectation("expect_column_values_to_not_be_null", column="colour"), "column 'colour' is none of the facts"),
        (
            expectation("expect_column_pair_values_to_be_equal", column_A="id", column_B="x"),
            "column 'x' is none of the facts",
        ),
        (expectation("expect_column_mean_to_be_between", column="mean", min_value=3), "its level must be 'dataset'"),
        (expectation("expect_column_values_to_not_be_null", column="mode", mostly=0.9), "'mostly' has no meaning"),
    ],
)
def test_a_wrong_suite_stops_before_anything_is_decoded(
    wrong: ExpectationSettings, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"^params\.yaml: validate\.suite\[1\]: .*{message}"):
        run(suite_of(ROWS, wrong), tmp_path / "no-raw-data", tmp_path)
    assert list(tmp_path.iterdir()) == []


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
    names = [rule.name for rule in build_rules([BRIGHT, BRIGHT])]
    assert len(set(names)) == len(names)


def test_photos_are_facts_of_the_snapshot_only(tmp_path: Path, data_settings: Callable[..., DataSettings]) -> None:
    ingest(data_settings(300, part_rows=300), tmp_path / "raw")
    ingest(data_settings(120, part_rows=300), tmp_path / "raw")
    assert run(suite_of(ROWS), tmp_path / "raw", tmp_path).photos == 120


def test_old_data_docs_go(raw_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "docs" / "validations").mkdir(parents=True)
    (tmp_path / "docs" / "validations" / "old.html").write_text("of another run")
    run(suite_of(ROWS), raw_dir, tmp_path)
    assert not (tmp_path / "docs" / "validations" / "old.html").exists()


def run_command(params: Path, raw: Path, out: Path) -> None:
    paths = {"raw": raw, "out": out / "validated", "docs": out / "docs", "report": out / "validation.json"}
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
    assert message.startswith("error: 7 of 127 photos (5.51%) are in quarantine, 1.00% may be")
    assert "expect_column_kl_divergence_to_be_less_than(category)" in message


def test_the_command_is_quick_to_refuse_wrong_settings(tmp_path: Path) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    params["validate"]["tolerance"] = 1.5
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        run_command(tmp_path / "params.yaml", tmp_path / "raw", tmp_path)
    assert caught.value.code == 2
    assert not (tmp_path / "validated").exists()
